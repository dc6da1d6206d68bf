"""How many requests a second each generator gets out of one core, against the same nginx, in interleaved rounds."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from . import machine, nginx
from .generators import ENGINE, PEERS, Count, Generator

CONNECTIONS = 64


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
    cpu_us: float  # of the generator for each request, its start included
    seen_ratio: float  # requests that nginx counted over those that the generator did; the worst round


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One run of one generator."""

    count: Count
    server_cpu_ratio: float
    cpu_us: float
    seen_ratio: float


def run(cores: machine.Cores, *, rounds: int, duration_s: float, say: Callable[[str], None]) -> tuple[list[Row], list[str]]:
    """Run every installed generator `rounds` times with each body, every other round in reverse order (ABBA).

    Returns:
        The rows, and which peers were skipped and why.
    """
    missing = [why for peer in PEERS if (why := peer.missing()) is not None]
    present = [ENGINE, *(peer for peer in PEERS if peer.missing() is None)]
    rows = []
    with nginx.running(cores.server) as server:
        for body in nginx.SIZES:
            counts: dict[str, list[Round]] = {one.name: [] for one in present}
            for number in range(rounds):
                for one in present if number % 2 == 0 else present[::-1]:
                    counts[one.name].append(_once(one, server, body, duration_s, cores))
                say(f"throughput, {body}, round {number + 1} of {rounds}: "
                    + ", ".join(f"{name} {found[-1].count.rps:,.0f}/s" for name, found in counts.items()))  # fmt: skip
            rows += [_row(body, one, counts) for one in present]
    return rows, missing


def _once(one: Generator, server: nginx.Nginx, body: str, duration_s: float, cores: machine.Cores) -> Round:
    seen, server_s, own_s, began = server.requests(), server.cpu_s(), machine.children_s(), time.monotonic()
    count = one.run(server.url(body), CONNECTIONS, duration_s, cores.generator)
    took_s, own_s, server_s = time.monotonic() - began, machine.children_s() - own_s, server.cpu_s() - server_s
    total = max(count.requests + count.failed, 1)
    return Round(
        count=count,
        server_cpu_ratio=server_s / min(count.duration_s, took_s),
        cpu_us=own_s * 1e6 / total,
        seen_ratio=(server.requests() - seen) / total,
    )


def _row(body: str, one: Generator, counts: dict[str, list[Round]]) -> Row:
    mine = counts[one.name]
    rates = [found.count.rps for found in mine]
    ratios = [own.count.rps / rate if rate else 0.0 for own, rate in zip(counts[ENGINE.name], rates, strict=True)]
    return Row(
        body=body,
        generator=one.name,
        rps=median(rates),
        lowest_rps=min(rates),
        highest_rps=max(rates),
        n=len(rates),
        failed=sum(found.count.failed for found in mine),
        ratio=median(ratios),
        lowest_ratio=min(ratios),
        highest_ratio=max(ratios),
        server_cpu_ratio=median(found.server_cpu_ratio for found in mine),
        cpu_us=median(found.cpu_us for found in mine),
        seen_ratio=max((found.seen_ratio for found in mine), key=lambda ratio: abs(ratio - 1)),
    )
