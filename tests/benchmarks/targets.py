"""What the benchmarks are measured against, and whether each target was met. It measures nothing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .accuracy import Known
from .throughput import Row

RATIOS = {"wrk": 0.85, "k6": 4.0, "locust": 8.0}  # our engine over the peer, 1 KB body, one core
ACCURACY_RATIO, ACCURACY_MS = 0.05, 0.2
FREEZE_RATIO = 0.03
ANALYSIS_S, ANALYSIS_BYTES = 10.0, 1.5 * 2**30
SAMPLE_BYTES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One target: `met` is None when it was not measured."""

    what: str
    target: str
    measured: str
    n: str
    met: bool | None


def judge(
    rows: Sequence[Row], half_rate: Sequence[Known], freezes: Sequence[Known], bulk: dict[str, Any], memory: dict[str, Any]
) -> list[Target]:
    """Judge every target."""
    return [*_ratios(rows), *_half_rate(half_rate), *_freezes(freezes), *_analysis(bulk), *_memory(memory)]


def _ratios(rows: Sequence[Row]) -> Iterator[Target]:
    of_peer = {row.generator: row for row in rows if row.body == "1 KB"}
    for peer, least in RATIOS.items():
        row = of_peer.get(peer)
        what = f"throughput, one core, 1 KB body, beside {peer}"
        yield Target(
            what=what,
            target=f"at least {least:g} x",
            measured="not installed" if row is None else f"{row.ratio:.2f} x ({row.lowest_ratio:.2f} - {row.highest_ratio:.2f})",
            n="" if row is None else f"{row.n} rounds",
            met=None if row is None else row.ratio >= least,
        )


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
