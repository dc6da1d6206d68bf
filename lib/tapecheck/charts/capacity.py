"""The figure of a capacity sweep: where promises break, and the law that throughput follows until then."""

import itertools
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from tapecheck.charts.figure import (
    BAD,
    INVALID,
    PALETTE,
    Chart,
    empty,
    figure,
    footer,
    legend,
    limit_line,
    log_axis,
    note,
    plain,
    style,
    width_pt,
)
from tapecheck.load import samples
from tapecheck.load.analysis import mark
from tapecheck.load.capacity import CapacityResult, Level
from tapecheck.load.recording import Recording
from tapecheck.verdict import Objective, Verdict

AXES_PT = 300  # about how wide each of the two axes is
GAP_PT = 8  # at least so much between two tick labels
_LOOK = {
    "pass": ("o", PALETTE[0]),
    "fail": ("X", BAD),
    "not_proven": ("D", PALETTE[1]),
    "invalid": ("s", "#777777"),
    "no_data": ("P", "black"),
}


def load_capacity(*, recording: Recording, capacity: CapacityResult | None, objectives: Sequence[Objective]) -> Chart:
    """Draw a capacity sweep: p95 over arrival rate with the knee's interval, and throughput over concurrency with the fitted law."""
    context = recording.context
    n = sum(len(samples.counted(recording.samples, name)) for name in context.rates_rps)
    with style():
        if capacity is None:
            return empty("Capacity", "the plan has no capacity scenario", context, recording.samples.num_rows)
        chart, (left, right) = figure("Capacity: how much before promises break", 1, 2, height=4.6)
        _knee(left, capacity, [one for one in objectives if one.metric == "p95_ms" and one.scope is None])
        _law(right, capacity)
        knee, law = capacity.knee_note, capacity.law_note
        left.set_title(textwrap.fill(knee, 56), fontsize=9.5)
        right.set_title(textwrap.fill(f"peak of the law: {law}" if capacity.usl else law, 56), fontsize=9.5)
        legend(chart, (left, right))
        footer(chart, context, n)
    return chart


def _knee(ax: Axes, capacity: CapacityResult, objectives: Sequence[Objective]) -> None:
    for verdict, (marker, colour) in _LOOK.items():
        found = [one for one in capacity.levels if one.verdict == verdict and one.p95_ms is not None]
        levels = [(one.rate_rps, one.p95_ms.value) for one in found if one.p95_ms is not None]
        if levels:
            late = mark({"p95_ms": max(one.generator_share.get("p95_ms", 0.0) for one in found)}, "p95_ms")
            ax.plot(*zip(*levels, strict=True), marker, color=colour, markersize=8, label=f"level: {verdict.replace('_', ' ')}{late}")
    _shade_invalid(ax, capacity.levels)
    if capacity.knee_rps is not None and capacity.knee_high_rps is not None:
        label = f"knee: {capacity.knee_rps:,.0f} to {capacity.knee_high_rps:,.0f}/s"
        ax.axvspan(capacity.knee_rps, capacity.knee_high_rps, color=PALETTE[2], alpha=0.25, label=label)
    rates = [one.rate_rps for one in capacity.levels]
    for one in objectives:
        limit_line(ax, one, min(rates), max(rates))
    log_axis(ax, "y")
    log_axis(ax, "x")
    low, high = ax.get_xlim()
    ticks = _spaced(rates, np.log(high / low))
    ax.set_xticks(ticks, [f"{rate:,.4g}" if rate < 10 else f"{rate:,.0f}" for rate in ticks])
    ax.set_xlabel("arrival rate (requests/s)")
    ax.set_ylabel("p95 response time (ms)")


def _shade_invalid(ax: Axes, levels: Sequence[Level]) -> None:
    """Shade the rates at which the generator was the limit, and give the reason."""
    for invalid, run in itertools.groupby(levels, lambda one: one.verdict == Verdict.INVALID):
        if invalid:
            part = list(run)
            reason = textwrap.shorten(part[0].reason.partition(": ")[2] or part[0].reason, 110, placeholder=" …")
            ax.axvspan(part[0].rate_rps / 1.08, part[-1].rate_rps * 1.08, zorder=0, **INVALID, label=f"invalid: {reason}")


def _spaced(rates: Sequence[float], reach: float) -> list[float]:
    """Return the rates whose labels do not touch on a logarithmic axis that spans `reach`, in natural logarithms."""
    kept: list[float] = []
    for rate in sorted(rates):
        needed_pt = width_pt(f"{rate:,.0f}", 11) + GAP_PT
        if not kept or np.log(rate / kept[-1]) / reach * AXES_PT >= needed_pt:
            kept.append(rate)
    return kept


def _law(ax: Axes, capacity: CapacityResult) -> None:
    points = [(one.concurrency, one.throughput_rps) for one in capacity.levels if one.steady and one.concurrency > 0]
    if not points:
        note(ax, "no level was steady and valid")
    ax.plot([n for n, _ in points], [x for _, x in points], "o", color=PALETTE[0], markersize=6, label="_steady levels")
    law = capacity.usl
    if law is not None:
        n = np.geomspace(law.n_min, law.n_max, 200)
        a, b = law.alpha, law.beta
        ax.plot(n, law.throughput_rps(n), color=PALETTE[3], label="scalability law, within what was measured")
        text = f"contention {a.value:.3f} [{a.low:.3f}, {a.high:.3f}]\ncoherency {b.value:.2g} [{b.low:.2g}, {b.high:.2g}]"
        ax.annotate(text, (0.97, 0.05), xycoords="axes fraction", ha="right", fontsize=9, color="#333333")
    log_axis(ax, "x")
    ax.set_ylim(bottom=0)
    ax.yaxis.set_major_formatter(plain())
    ax.set_xlabel("mean requests in flight (steady levels)")
    ax.set_ylabel("throughput (succeeded/s)")
