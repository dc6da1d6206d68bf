"""How fast and how true the load test is: beside other generators, where the truth is known, and on ten million samples."""

import json
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from . import accuracy, machine, nginx, recorded
from .generators import ENGINE, PEERS, Count, Generator

CONNECTIONS = 64
MEMORY_S = 12.0  # some hundred thousand samples
FULL_RATIO = 0.9  # of nginx's cores
POLL_S = 0.02  # between two looks whether a generator has begun
METERED_RATIO = 0.6  # of its time, in which its CPU time is taken; before it, it starts

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one generator reached with one body: medians over `n` rounds."""

    body: str
    generator: str
    rps: float
    lowest_rps: float
    highest_rps: float
    n: int
    failed: int
    ratio: float  # our engine over this one: the median of the rounds' ratios
    lowest_ratio: float
    highest_ratio: float
    server_cpu_ratio: float  # busy cores of nginx: near 1 for each, the generator was not the limit
    server_cores: int  # that nginx has
    cpu_us: float  # of the generator for each request, its start and its end left out
    cpu_ratio: float  # our engine's over that: the median of the rounds' ratios
    seen_ratio: float  # requests that nginx counted over those that the generator did; the worst round

    @property
    def server_is_full(self) -> bool:
        """Tell whether nginx was near its limit, so that a faster generator would have got no more answers."""
        return self.server_cpu_ratio >= FULL_RATIO * self.server_cores


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One run of one generator."""

    count: Count
    server_cpu_ratio: float
    cpu_us: float
    seen_ratio: float


def run(*, rounds: int, duration_s: float, samples: int, say: Say) -> dict[str, Any]:
    """Measure everything, the load from one core, what serves it on the others."""
    cores = machine.cores()
    rows = throughput(cores, rounds=rounds, duration_s=duration_s, say=say)
    half_rate, how = accuracy.at_half_rate(cores, rounds=5, duration_s=5.0, say=say)
    freezes, failed = accuracy.across_freezes(cores, duration_s=30.0, say=say)
    with nginx.running(cores.server) as server:
        command = machine.module("engine", "memory", server.url("1 KB"), CONNECTIONS, MEMORY_S)
        memory = json.loads(machine.output(command, cores.generator, timeout_s=MEMORY_S + 60))
    say(f"memory: {memory['bytes_per_sample']:.1f} bytes for each of {memory['samples']:,} samples")
    analysis = recorded.analysis(samples)
    say(f"analysis of {analysis['rows']:,} samples: {analysis['seconds']:.1f} s, {analysis['peak_bytes'] / 2**30:.2f} GiB")
    return {
        "throughput": rows, "half_rate": how, "accuracy": half_rate, "freezes": freezes, "memory": memory, "analysis": analysis,
        "skipped": sorted({*failed, *(why for peer in PEERS if (why := peer.missing()))}),
    }  # fmt: skip


# ---- rounds ----


class Meter(threading.Thread):
    """Takes the CPU time of a generator twice while it sends, so that neither its start nor its end is in that of a request."""

    def __init__(self, server: nginx.Nginx, duration_s: float) -> None:
        super().__init__(name="meter of the generator")
        self._server, self._duration_s, self._seen = server, duration_s, server.requests()
        self._looks: list[tuple[int, float]] = []
        self._ended = threading.Event()

    def run(self) -> None:
        """Look when nginx has seen a request, and again when most of the time is over."""
        while not self._looks and not self._ended.wait(POLL_S):
            self._look()
        if not self._ended.wait(METERED_RATIO * self._duration_s):
            self._look()

    def _look(self) -> None:
        if came := self._server.requests() - self._seen:
            self._looks.append((came, machine.family_s(but=self._server.pid)))

    @property
    def cpu_us(self) -> float:
        """Return the CPU time of each request between the two looks; NaN when it ended before the second."""
        if len(self._looks) < 2:
            return math.nan
        (first, began_s), (last, ended_s) = self._looks
        return (ended_s - began_s) * 1e6 / (last - first) if ended_s > began_s and last > first else math.nan

    def __enter__(self) -> "Meter":
        """Begin to look."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look no more."""
        self._ended.set()
        self.join()


def throughput(cores: machine.Cores, *, rounds: int, duration_s: float, say: Say) -> list[Row]:
    """Run every installed generator `rounds` times with each body, every other round in reverse order (ABBA)."""
    present = [ENGINE, *(peer for peer in PEERS if peer.missing() is None)]
    rows = []
    with nginx.running(cores.server) as server:
        for body in nginx.SIZES:
            done: dict[str, list[Round]] = {one.name: [] for one in present}
            for number in range(rounds):
                for one in present if number % 2 == 0 else present[::-1]:
                    done[one.name].append(_once(one, server, body, duration_s, cores))
                rates = ", ".join(f"{name} {found[-1].count.rps:,.0f}/s" for name, found in done.items())
                say(f"throughput, {body}, round {number + 1} of {rounds}: {rates}")
            rows += [_row(body, name, done[name], done[ENGINE.name], len(cores.server)) for name in done]
    return rows


def _once(one: Generator, server: nginx.Nginx, body: str, duration_s: float, cores: machine.Cores) -> Round:
    seen, server_s, began = server.requests(), server.cpu_s(), time.monotonic()
    with Meter(server, duration_s) as meter:
        count = one.count(server.url(body), CONNECTIONS, duration_s, cores.generator)
    took_s, server_s = time.monotonic() - began, server.cpu_s() - server_s
    total = max(count.requests + count.failed, 1)
    return Round(
        count=count,
        server_cpu_ratio=server_s / min(count.duration_s, took_s),
        cpu_us=meter.cpu_us,
        seen_ratio=(server.requests() - seen) / total,
    )


def _row(body: str, name: str, own: list[Round], engine: list[Round], server_cores: int) -> Row:
    rates = [one.count.rps for one in own]
    ratios = [ours.count.rps / rate if rate else 0.0 for ours, rate in zip(engine, rates, strict=True)]
    return Row(
        body=body,
        generator=name,
        rps=median(rates),
        lowest_rps=min(rates),
        highest_rps=max(rates),
        n=len(rates),
        failed=sum(one.count.failed for one in own),
        ratio=median(ratios),
        lowest_ratio=min(ratios),
        highest_ratio=max(ratios),
        server_cpu_ratio=median(one.server_cpu_ratio for one in own),
        server_cores=server_cores,
        cpu_us=known_median([one.cpu_us for one in own]),
        cpu_ratio=known_median([ours.cpu_us / one.cpu_us for ours, one in zip(engine, own, strict=True)]),
        seen_ratio=max((one.seen_ratio for one in own), key=lambda ratio: abs(ratio - 1)),
    )


def known_median(values: Sequence[float]) -> float:
    """Return the median of those that are known; NaN when none is."""
    return median([value for value in values if not math.isnan(value)] or [math.nan])
