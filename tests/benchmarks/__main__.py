"""`make bench`: runs the benchmarks in one go, prints the tables, writes outputs/benchmarks/<id>.{json,md,png}."""

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tapecheck import runs

from . import accuracy, bulk, machine, nginx, report, targets, throughput

QUIET_CORES = 0.15  # more than that of others' work spoils a run; the kernel's own for our packets counts as theirs
MEMORY_S = 12.0  # some hundred thousand samples


def main() -> int:
    """Run it; the exit code says whether it could be measured, not how good it is."""
    arguments = _arguments()
    cores, bench_id = machine.cores(), runs.new_id()
    waited_s, busy = machine.wait_quiet(arguments.wait_quiet)
    began, others = time.monotonic(), machine.Others()
    rows, skipped = throughput.run(cores, rounds=arguments.rounds, duration_s=arguments.seconds, say=_say)
    half_rate, how = accuracy.at_half_rate(cores, rounds=5, duration_s=5.0, say=_say)
    freezes, more = accuracy.across_freezes(cores, duration_s=30.0, say=_say)
    memory = _memory(cores)
    analysis = bulk.measure(arguments.rows)
    _say(f"analysis of {analysis['rows']:,} samples: {analysis['seconds']:.1f} s, {analysis['peak_bytes'] / 2**30:.2f} GiB")
    judged = targets.judge(rows, half_rate, freezes, analysis, memory)
    about: dict[str, Any] = {
        "id": bench_id,
        "machine": machine.description(),
        "took_s": round(time.monotonic() - began),
        "waited_for_quiet_s": round(waited_s),
        "others_busy_cores_before": round(busy, 2),
        "others_busy_cores_during": round(others.cores(), 2),
        "skipped": sorted({*skipped, *more}),
        "half_rate": how,
    }
    lines = [
        *report.targets_table(judged), "", *report.throughput_table(rows), "", *report.freeze_table(freezes), "", *_remarks(about),
    ]  # fmt: skip
    found = {
        "targets": [asdict(one) for one in judged],
        "throughput": [asdict(one) for one in rows],
        "accuracy": [asdict(one) for one in half_rate],
        "freezes": [asdict(one) for one in freezes],
        "memory": memory,
        "analysis": analysis,
    }
    machine.OUT.mkdir(parents=True, exist_ok=True)
    runs.write_json(machine.OUT / f"{bench_id}.json", {**about, **found})
    (machine.OUT / f"{bench_id}.md").write_text("\n".join(lines) + "\n")
    report.chart(
        rows,
        freezes,
        f"{throughput.CONNECTIONS} connections; servers on the other cores; {about['machine']['cpu']}",
        machine.OUT / f"{bench_id}.png",
    )
    if arguments.paste is not None:
        report.paste(lines, arguments.paste)
    print("\n".join(["", *lines, "", f"written: {machine.OUT / bench_id}.json, .md, .png"]))
    return 0


def _memory(cores: machine.Cores) -> dict[str, Any]:
    with nginx.running(cores.server) as server:
        command = machine.module("engine", "memory", server.url("1 KB"), throughput.CONNECTIONS, MEMORY_S)
        found: dict[str, Any] = json.loads(machine.output(command, cores.generator, timeout_s=MEMORY_S + 60))
    _say(f"memory: {found['bytes_per_sample']:.1f} bytes for each of {found['samples']:,} samples")
    return found


def _remarks(about: dict[str, Any]) -> list[str]:
    one, how = about["machine"], about["half_rate"]
    return [
        f"Run {about['id']}, {about['took_s']} s, on {one['cores']} cores ({one['cpu']}), {one['system']}, Python {one['python']}.",
        f"Others kept {about['others_busy_cores_before']:.2f} cores busy before it and {about['others_busy_cores_during']:.2f} during it"
        + (": **the machine was not quiet, so these figures say little.**" if about["others_busy_cores_during"] > QUIET_CORES else "."),
        f"Half the highest rate against the server of known latency was {how['rate_rps']:,.0f} requests/s, "
        f"of which {how['achieved_ratio']:.1%} were sent in time, with {how['cpu_ratio']:.0%} of the generator's core.",
        *(f"Skipped: {why}." for why in about["skipped"]),
    ]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=4, help="of each generator and body; even, for ABBA")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each round")
    parser.add_argument("--rows", type=int, default=bulk.ROWS, help="samples to analyse")
    parser.add_argument(
        "--wait-quiet", type=float, default=1.0, metavar="MINUTES", help="at most so long for others to leave the cores alone"
    )
    parser.add_argument("--paste", type=Path, metavar="PAGE", help="put the tables between the marks of this Markdown page too")
    return parser.parse_args()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
