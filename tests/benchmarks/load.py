"""How fast and how true the load test is: beside other generators, where the truth is known, and on ten million samples."""

import json
from collections.abc import Callable
from typing import Any

from . import accuracy, bulk, machine, nginx, throughput

MEMORY_S = 12.0  # some hundred thousand samples


def run(*, rounds: int, duration_s: float, samples: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure everything, the load from one core, what serves it on the others."""
    cores = machine.cores()
    rows, skipped = throughput.run(cores, rounds=rounds, duration_s=duration_s, say=say)
    half_rate, how = accuracy.at_half_rate(cores, rounds=5, duration_s=5.0, say=say)
    freezes, more = accuracy.across_freezes(cores, duration_s=30.0, say=say)
    memory = _memory(cores, say)
    analysis = bulk.measure(samples)
    say(f"analysis of {analysis['rows']:,} samples: {analysis['seconds']:.1f} s, {analysis['peak_bytes'] / 2**30:.2f} GiB")
    return {
        "throughput": rows, "half_rate": how, "accuracy": half_rate, "freezes": freezes, "memory": memory, "analysis": analysis,
        "skipped": sorted({*skipped, *more}),
    }  # fmt: skip


def _memory(cores: machine.Cores, say: Callable[[str], None]) -> dict[str, Any]:
    with nginx.running(cores.server) as server:
        command = machine.module("engine", "memory", server.url("1 KB"), throughput.CONNECTIONS, MEMORY_S)
        found: dict[str, Any] = json.loads(machine.output(command, cores.generator, timeout_s=MEMORY_S + 60))
    say(f"memory: {found['bytes_per_sample']:.1f} bytes for each of {found['samples']:,} samples")
    return found
