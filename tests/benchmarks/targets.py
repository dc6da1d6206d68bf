"""What the benchmarks are measured against, and whether each target was met. It measures nothing."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from .accuracy import Known
from .backfill import END_TO_END, LIMIT, READY, Prediction
from .load import Row
from .recovery import Kill, Outage

RATIOS = {"wrk": 0.95, "k6": 4.5, "locust": 7.0}  # our engine over the peer, 1 KB body, one core
CPU_RATIOS = {"wrk": 1.2, "k6": 0.2}  # likewise, the CPU time of a request
ACCURACY_RATIO, ACCURACY_MS = 0.05, 0.2
FREEZE_RATIO, CLOCK_MS = 0.03, 50.0
COPY_RATIO, FLOOR_RATIO, PREDICTION_RATIO = 0.6, 1.03, 0.1
COMPARE_S, INDEX_S = 5.0, 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One target: `met` is None when it was not measured."""

    what: str
    target: str
    measured: str
    n: str
    met: bool | None


def _at_most(what: str, value: float, most: float, unit: str, n: str, *, digits: int = 1, more: str = "") -> Target:
    return Target(what=what, target=f"at most {most:g} {unit}", measured=f"{value:.{digits}f} {unit}{more}", n=n, met=value <= most)


def _at_least(what: str, ratios: Sequence[float], least: float, n: str) -> Target:
    return Target(what=what, target=f"at least {least:g} x", measured=spread(ratios), n=n, met=median(ratios) >= least)


def spread(ratios: Sequence[float]) -> str:
    """Return the median of ratios, and the lowest and highest."""
    return f"{median(ratios):.2f} x ({min(ratios):.2f} - {max(ratios):.2f})"


def judge_load(found: dict[str, Any]) -> list[Target]:
    """Judge every target of the load test, by what `load.run` returned."""
    bulk, memory = found["analysis"], found["memory"]
    what, n = "analysis of the largest scenario, charts included", f"{bulk['rows']:,} samples"
    row, samples = f" (the row itself: {memory['row_bytes']})", f"{memory['samples']:,} samples"
    each = round(memory["bytes_per_sample"])  # resident memory comes in pages
    return [
        *ratios(found["throughput"]),
        *half_rate(found["accuracy"]),
        *_freezes(found["freezes"]),
        _at_most(f"{what}: time", bulk["seconds"], 10.0, "s", n),
        _at_most(f"{what}: memory at its peak", bulk["peak_bytes"] / 2**30, 1.5, "GiB", n, digits=2),
        _at_most("memory of the engine for each stored sample", each, 64, "bytes", samples, digits=0, more=row),
    ]


def judge_backfill(found: dict[str, Any]) -> list[Target]:
    """Judge every target of the backfill, by what `backfill.run` returned.

    Beside a COPY over one connection, as the target's own figures were taken; beside several is in the table of ways.
    """
    of_name, beside, limited = {way.name: way for way in found["ways"]}, found["beside"], found["limited"]
    memory, features, whole = found["memory"], found["features"], found["whole"]
    base, rate = "beside raw COPY over one connection", f"{LIMIT['requests_per_minute'] / 60:g} requests/s"
    end_to_end = {END_TO_END: f"{END_TO_END} {base}", READY: f"the same, from a vendor whose answers are ready, {base}"}
    rounds = f"{len(of_name[READY].ratios_one)} rounds of {beside['rows']:,} bars"
    floor, pages = f" ({limited['wall_s']:.2f} of {limited['floor_s']:.2f} s)", f"{limited['pages']} pages"
    refill, jobs = "memory at its peak of a process that refills, audit included", f"all {whole['jobs']} jobs on the sandbox"
    of_floor = limited["wall_s"] / limited["floor_s"]
    return [
        *(_at_least(what, of_name[name].ratios_one, COPY_RATIO, rounds) for name, what in end_to_end.items()),
        _at_most(f"wall time with {rate}", of_floor, FLOOR_RATIO, "x the floor of its pages", pages, digits=3, more=floor),
        _at_most(f"refused with {rate}", limited["refused"], 0, "requests", f"{limited['requests']} requests", digits=0),
        _at_most(refill, memory["peak_bytes"] / 1e6, 400, "MB", f"{memory['rows']:,} bars with features", digits=0),
        _at_most("features, in one thread", features["seconds"], 10.0, "s", f"{features['rows']:,} bars", digits=2),
        _at_most(f"{jobs}, with features and audit", whole["call_s"], 90.0, "s", f"{whole['rows']:,} bars"),
        *_predicted(found["predictions"]),
    ]


def judge_recovery(found: dict[str, Any]) -> list[Target]:
    """Judge every target of the recovery validation, by what `recovery.run` returned."""
    return [*_outages(found["outages"]), *_kills(found["kills"])]


def judge_index(found: dict[str, Any]) -> list[Target]:
    """Judge the index by its slowest time."""
    return [_slowest(f"index over {found['runs']:,} recorded runs", found["seconds"], INDEX_S)]


def judge_compare(found: dict[str, Any]) -> list[Target]:
    """Judge the comparison of two recorded runs by its slowest time."""
    return [_slowest(f"comparison of two runs of {found['rows']:,} samples each", found["seconds"], COMPARE_S)]


def _slowest(what: str, seconds: Sequence[float], most_s: float) -> Target:
    return _at_most(what, max(seconds), most_s, "s", f"{len(seconds)} times", digits=2)


def _outages(outages: Sequence[Outage]) -> Iterator[Target]:
    for one in outages:
        worst_ms = max(one.errors_ms, key=abs)
        yield Target(
            what=f"outage of {one.planted_s:g} s" + (", beside a dependency that hangs" if one.hanging else ""),
            target=f"within {CLOCK_MS:g} ms",
            measured=f"worst {worst_ms:+.0f} ms",
            n=f"{len(one.errors_ms)} trials",
            met=abs(worst_ms) <= CLOCK_MS,
        )


def _kills(kills: Sequence[Kill]) -> Iterator[Target]:
    for variant in dict.fromkeys(kill.variant for kill in kills):
        own = [kill for kill in kills if kill.variant == variant]
        lost, exact = sum(kill.lost_bars for kill in own), all(kill.lost_bars == kill.missing_bars for kill in own)
        is_planted = variant != kills[0].variant
        yield Target(
            what=f"acknowledged bars lost by kills of PostgreSQL, {variant}",
            target="some, and exactly those that are missing" if is_planted else "none",
            measured=f"{lost:,} of {sum(kill.acknowledged_bars for kill in own):,}",
            n=f"{len(own)} kills",
            met=exact and (lost > 0) == is_planted,
        )


def ratios(rows: Sequence[Row]) -> Iterator[Target]:
    """Judge rate and CPU time of a request beside each peer; one that is not installed is a target that was not measured."""
    of_peer = {row.generator: row for row in rows if row.body == "1 KB"}
    wanted = [("throughput, one core", peer, f"at least {least:g} x") for peer, least in RATIOS.items()]
    wanted += [("CPU time of a request", peer, f"at most {most:g} x") for peer, most in CPU_RATIOS.items()]
    for what, peer, target in wanted:
        measured, n, met, row = "not installed", "", None, of_peer.get(peer)
        if row is not None and what.startswith("throughput"):
            full = ", **where nginx was near its limit**" if row.server_is_full else ""
            measured, met = f"{row.ratio:.2f} x ({row.lowest_ratio:.2f} - {row.highest_ratio:.2f}){full}", row.ratio >= RATIOS[peer]
        elif row is not None:
            measured = f"{row.cpu_ratio:.2f} x ({of_peer['tapecheck'].cpu_us:.1f} of {row.cpu_us:.1f} µs)"
            met = None if math.isnan(row.cpu_ratio) else row.cpu_ratio <= CPU_RATIOS[peer]
        if row is not None:
            n = f"{row.n} rounds"
        yield Target(what=f"{what}, 1 KB body, beside {peer}", target=target, measured=measured, n=n, met=met)


def half_rate(known: Sequence[Known]) -> Iterator[Target]:
    """Judge the quantiles of a server of known latency: the larger of a ratio and a fifth of a millisecond is allowed."""
    for one in known:
        error_ms = one.measured_ms - one.true_ms
        yield Target(
            what=f"{one.quantile} at half the highest rate",
            target=f"within {ACCURACY_RATIO:.0%} or {ACCURACY_MS:g} ms of the truth",
            measured=f"{one.measured_ms:.3f} of {one.true_ms:.3f} ms ({error_ms:+.3f} ms, {one.error_ratio:+.1%})",
            n=f"{one.n:,}" + (f", median of {len(one.errors_ms)}" if one.errors_ms else ""),
            met=abs(error_ms) <= max(ACCURACY_MS, ACCURACY_RATIO * one.true_ms),
        )


def _freezes(known: Sequence[Known]) -> Iterator[Target]:
    for one in known:
        if one.generator == "tapecheck":
            yield Target(
                what=f"{one.quantile} when the server is frozen 1 s of every 5",
                target=f"within {FREEZE_RATIO:.0%} of {one.true_ms:,.0f} ms",
                measured=f"{one.measured_ms:,.1f} ms ({one.error_ratio:+.1%})",
                n=f"{one.n:,}",
                met=abs(one.error_ratio) <= FREEZE_RATIO,
            )


def _predicted(predictions: Sequence[Prediction]) -> Iterator[Target]:
    for one in predictions:
        yield Target(
            what=f"what-if: {one.change} ({one.base}: {one.before_s:.1f} s)",
            target=f"within {PREDICTION_RATIO:.0%} of a run of it",
            measured=f"{one.predicted_s:.1f} of {one.measured_s:.1f} s ({one.error_ratio:+.1%})",
            n="1 run each",
            met=abs(one.error_ratio) <= PREDICTION_RATIO,
        )
