"""What the benchmarks are measured against, and whether each target was met. It measures nothing."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from .accuracy import Known
from .backfill import END_TO_END, LIMIT, READY, Way
from .loss import Row as Kill
from .predictions import Prediction
from .recovery import Outage
from .throughput import Row

RATIOS = {"wrk": 0.95, "k6": 4.5, "locust": 7.0}  # our engine over the peer, 1 KB body, one core
CPU_RATIOS = {"wrk": 1.2, "k6": 0.2}  # likewise, the CPU time of a request
ACCURACY_RATIO, ACCURACY_MS = 0.05, 0.2
FREEZE_RATIO = 0.03
ANALYSIS_S, ANALYSIS_BYTES = 10.0, 1.5 * 2**30
SAMPLE_BYTES = 64
COPY_RATIO = 0.6  # the backfill's rows a second over those of raw COPY
FLOOR_RATIO = 1.03
PREDICTION_RATIO = 0.1
COMPARE_S = 5.0
INDEX_S = 3.0  # over a thousand recorded runs
REFILL_BYTES, FEATURES_S, WHOLE_S = 400e6, 10.0, 90.0

CLOCK_S = 0.05  # of a known outage


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One target: `met` is None when it was not measured."""

    what: str
    target: str
    measured: str
    n: str
    met: bool | None


def judge_load(found: dict[str, Any]) -> list[Target]:
    """Judge every target of the load test, by what `load.run` returned."""
    return [
        *_ratios(found["throughput"]), *_half_rate(found["accuracy"]), *_freezes(found["freezes"]), *_analysis(found["analysis"]),
        *_memory(found["memory"]),
    ]  # fmt: skip


def judge_backfill(found: dict[str, Any]) -> list[Target]:
    """Judge every target of the backfill, by what `backfill.run` returned."""
    return [*_beside_copy(found["ways"], found["beside"]), *_limited(found["limited"]), *_refills(found), *_predicted(found["predictions"])]


def judge_recovery(found: dict[str, Any]) -> list[Target]:
    """Judge every target of the recovery validation, by what `recovery.run` returned."""
    return [*_outages(found["outages"]), *_kills(found["kills"])]


def judge_index(found: dict[str, Any]) -> list[Target]:
    """Judge the index, by what `index.run` returned."""
    worst_s = max(found["seconds"])
    what, n = f"index over {found['runs']:,} recorded runs", f"{len(found['seconds'])} times"
    return [Target(what=what, target=f"<= {INDEX_S:g} s", measured=f"at most {worst_s:.2f} s", n=n, met=worst_s <= INDEX_S)]


def judge_compare(found: dict[str, Any]) -> list[Target]:
    """Judge the comparison of two recorded runs, by what `compared.run` returned."""
    worst_s = max(found["seconds"])
    what, n = f"comparison of two runs of {found['rows']:,} samples each", f"{len(found['seconds'])} times"
    return [Target(what=what, target=f"<= {COMPARE_S:g} s", measured=f"at most {worst_s:.2f} s", n=n, met=worst_s <= COMPARE_S)]


def _outages(outages: Sequence[Outage]) -> Iterator[Target]:
    for one in outages:
        worst_s = max(one.errors_s, key=abs)
        yield Target(
            what=f"outage of {one.planted_s:g} s" + (", beside a dependency that hangs" if one.hanging else ""),
            target=f"within {CLOCK_S * 1000:g} ms",
            measured=f"worst {worst_s * 1000:+.0f} ms",
            n=f"{len(one.errors_s)} trials",
            met=abs(worst_s) <= CLOCK_S,
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


def _ratios(rows: Sequence[Row]) -> Iterator[Target]:
    of_peer = {row.generator: row for row in rows if row.body == "1 KB"}
    for peer, least in RATIOS.items():
        row = of_peer.get(peer)
        yield Target(
            what=f"throughput, one core, 1 KB body, beside {peer}",
            target=f"at least {least:g} x",
            measured="not installed" if row is None else _ratio(row),
            n="" if row is None else f"{row.n} rounds",
            met=None if row is None else row.ratio >= least,
        )
    for peer, most in CPU_RATIOS.items():
        row = of_peer.get(peer)
        yield Target(
            what=f"CPU time of a request, 1 KB body, beside {peer}",
            target=f"at most {most:g} x",
            measured="not installed"
            if row is None
            else f"{row.cpu_ratio:.2f} x ({of_peer['tapecheck'].cpu_us:.1f} of {row.cpu_us:.1f} µs)",
            n="" if row is None else f"{row.n} rounds",
            met=None if row is None or math.isnan(row.cpu_ratio) else row.cpu_ratio <= most,
        )


def _ratio(row: Row) -> str:
    full = ", **where nginx was near its limit**" if row.server_is_full else ""
    return f"{row.ratio:.2f} x ({row.lowest_ratio:.2f} - {row.highest_ratio:.2f}){full}"


def _half_rate(known: Sequence[Known]) -> Iterator[Target]:
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


def _analysis(bulk: dict[str, Any]) -> Iterator[Target]:
    n = f"{bulk['rows']:,} samples"
    what = "analysis of the largest scenario, charts included"
    seconds, peak = bulk["seconds"], bulk["peak_bytes"]
    yield Target(what=f"{what}: time", target=f"at most {ANALYSIS_S:g} s", measured=f"{seconds:.1f} s", n=n, met=seconds <= ANALYSIS_S)
    measured, most = f"{peak / 2**30:.2f} GiB", f"at most {ANALYSIS_BYTES / 2**30:g} GiB"
    yield Target(what=f"{what}: memory at its peak", target=most, measured=measured, n=n, met=peak <= ANALYSIS_BYTES)


def _memory(memory: dict[str, Any]) -> Iterator[Target]:
    each = memory["bytes_per_sample"]
    yield Target(
        what="memory of the engine for each stored sample",
        target=f"at most {SAMPLE_BYTES} bytes",
        measured=f"{each:.1f} bytes (the row itself: {memory['row_bytes']})",
        n=f"{memory['samples']:,} samples",
        met=round(each) <= SAMPLE_BYTES,  # resident memory comes in pages
    )


def _beside_copy(ways: Sequence[Way], beside: dict[str, Any]) -> Iterator[Target]:
    """Judge beside a COPY over one connection, as the target's own figures were taken; beside several is in the table of ways."""
    of_name = {way.name: way for way in ways}
    base = "beside raw COPY over one connection"
    for name, what in {END_TO_END: f"{END_TO_END} {base}", READY: f"the same, from a vendor whose answers are ready, {base}"}.items():
        ratios = of_name[name].ratios_one
        yield Target(
            what=what,
            target=f"at least {COPY_RATIO:g} x",
            measured=f"{median(ratios):.2f} x ({min(ratios):.2f} - {max(ratios):.2f})",
            n=f"{len(ratios)} rounds of {beside['rows']:,} bars",
            met=median(ratios) >= COPY_RATIO,
        )


def _limited(limited: dict[str, Any]) -> Iterator[Target]:
    rate = f"{LIMIT['requests_per_minute'] / 60:g} requests/s"
    wall_s, floor_s = limited["wall_s"], limited["floor_s"]
    yield Target(
        what=f"wall time with {rate}",
        target=f"at most {FLOOR_RATIO:g} x the floor of its pages",
        measured=f"{wall_s / floor_s:.3f} x ({wall_s:.2f} of {floor_s:.2f} s)",
        n=f"{limited['pages']} pages",
        met=wall_s <= FLOOR_RATIO * floor_s,
    )
    refused = limited["refused"]
    yield Target(
        what=f"requests refused with {rate}", target="none", measured=str(refused), n=f"{limited['requests']} requests", met=not refused
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


def _refills(found: dict[str, Any]) -> Iterator[Target]:
    memory, features, whole = found["memory"], found["features"], found["whole"]
    peak, seconds, whole_s = memory["peak_bytes"], features["seconds"], whole["call_s"]
    yield Target(
        what="memory at its peak of a process that refills, audit included",
        target=f"at most {REFILL_BYTES / 1e6:.0f} MB",
        measured=f"{peak / 1e6:.0f} MB",
        n=f"{memory['rows']:,} bars with features",
        met=peak <= REFILL_BYTES,
    )
    n = f"{features['rows']:,} bars"
    yield Target(
        what="features, in one thread", target=f"at most {FEATURES_S:g} s", measured=f"{seconds:.2f} s", n=n, met=seconds <= FEATURES_S
    )
    yield Target(
        what=f"all {whole['jobs']} jobs on the sandbox, with features and audit",
        target=f"at most {WHOLE_S:g} s",
        measured=f"{whole_s:.1f} s",
        n=f"{whole['rows']:,} bars",
        met=whole_s <= WHOLE_S,
    )
