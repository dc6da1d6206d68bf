"""The figures of a load run by percentile, by parameter and by rate. They compute nothing that is reported."""

import itertools
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from tapecheck.charts import figure
from tapecheck.load import samples
from tapecheck.load.analysis import GroupSummary, ScenarioSummary, mark
from tapecheck.load.capacity import CapacityResult, Level
from tapecheck.load.recording import Recording
from tapecheck.load.samples import Rows
from tapecheck.statistics import intervals
from tapecheck.statistics.intervals import Percentile
from tapecheck.verdict import Objective, Verdict

Summary = Mapping[str, ScenarioSummary]
MOST_CURVES, MOST_PANELS, MOST_VALUES = 10, 9, 30  # scenarios, parameters and values of one that a chart has room for
CROWDED_PT = 6  # less than this between two tick labels, and they are turned

_KINDS: tuple[tuple[str, str, str, str, Callable[[ScenarioSummary], intervals.Distribution | None]], ...] = (
    ("response", "p95_ms", "o", figure.PALETTE[0], lambda scenario: scenario.response_time_ms),
    ("service", "service_p95_ms", "s", figure.PALETTE[1], lambda scenario: scenario.service_time_ms),
    ("server", "server_p95_ms", "^", figure.PALETTE[2], lambda scenario: scenario.server_time_ms),
)


Series = tuple[str, float, str, str, Callable[[GroupSummary], Percentile | None]]  # label, offset, marker, colour and figure
_RESPONSE: tuple[Series, ...] = (
    ("median", -0.15, "o", figure.PALETTE[0], lambda group: group.response_time_ms.p50),
    ("p95", 0.15, "s", figure.PALETTE[3], lambda group: group.response_time_ms.p95),
)
_INSIDE: tuple[Series, ...] = (
    ("median inside the target", 0, "^", figure.PALETTE[2], lambda group: group.server_time_ms.p50 if group.server_time_ms else None),
)


def load_percentiles(*, recording: Recording, summary: Summary, objectives: Sequence[Objective]) -> figure.Chart:
    """Draw the percentile spectrum of response times per scenario, and beside it p95 by kind of time: response, service, server."""
    n = sum(scenario.requests for scenario in summary.values())
    summary, left = figure.choose(summary, MOST_CURVES, lambda one: one.severity)
    caption = figure.Caption(f"Response time by percentile, {_intervals(recording)}", recording.context, n, left_out=left)
    if not any(_percentiles(scenario) for scenario in summary.values()):
        return caption.empty("no percentile is known" if n else "no requests")
    with caption.drawing(1, 2, height=5.2, width_ratios=(2.2, 1)) as (chart, (ax, kinds)):
        for i, (name, scenario) in enumerate(summary.items()):
            if not scenario.requests:
                continue
            failed = f", {scenario.failed:,} failed" if scenario.failed else ""
            how = f", {how}" if (how := figure.marked(scenario)) else ""
            label = f"{figure.shorten(name, 40)} (n = {scenario.requests:,}{failed}{how})"
            _spectrum(ax, samples.counted(recording.samples, name), scenario, label=label, **figure.nth(i))
        _tail_axis(ax, summary, objectives)
        _kinds_of_time(kinds, summary, objectives)

    return chart


def _intervals(recording: Recording) -> str:
    return "as the tool says" if recording.context.imported else "with 95 % intervals"


def _percentiles(scenario: ScenarioSummary) -> dict[float, float]:
    """Return those of a summary's percentiles that are known."""
    times = scenario.response_time_ms
    every = {0.5: times.p50, 0.9: times.p90, 0.95: times.p95, 0.99: times.p99} if times else {}
    return {p: one.value for p, one in every.items() if not math.isnan(one.value)}


def _spectrum(ax: Axes, part: Rows, scenario: ScenarioSummary, **look: Any) -> None:
    """Draw the percentiles of one scenario with their band; of a tool that gives no samples, the points that it tells."""
    if not len(part):
        told = _percentiles(scenario)
        ax.plot([1 / (1 - p) for p in told], list(told.values()), marker="o", **look)
        return
    line = intervals.spectrum(part.response_ms(), part.batches(scenario.executor))
    without = intervals.spectrum(part.undelayed_ms(), part.batches(scenario.executor)) if scenario.generator_ms else line
    loop_ms = np.where(line["p"] >= 0.99, scenario.generator.lag_p99_ms or 0.0, 0.0)
    low = np.maximum(np.fmin(without["low"], line["low"] - loop_ms), 0.001)  # of zero, a logarithmic axis has nothing
    nines = 1 / (1 - line["p"])
    ax.plot(nines, line["value"], **look)
    ax.fill_between(nines, low, line["high"], color=look["color"], alpha=0.15, linewidth=0)


def _tail_axis(ax: Axes, summary: Summary, objectives: Sequence[Objective]) -> None:
    """Stretch the tail of a percentile axis, and draw each objective at its percentile, in the colour of the scenario it is about."""
    ax.set_xscale("log")
    right = max(ax.get_xlim()[1], 130)
    names = list(summary)
    for one in objectives:
        if one.metric in ("p50_ms", "p90_ms", "p95_ms", "p99_ms") and one.scope in (None, *names):
            at = 1 / (1 - int(one.metric[1:3]) / 100)
            colour = figure.nth(names.index(one.scope))["color"] if one.scope else figure.LIMIT
            figure.limit_line(ax, one, at / 1.25, at * 1.25, colour=colour)
    figure.log_axis(ax, "y")
    figure.log_axis(ax, "x")
    ax.set_xlim(1, right)
    ticks = [p for p in (0, 0.5, 0.9, 0.95, 0.99, 0.999, 0.9999) if 1 / (1 - p) <= right]
    ax.set_xticks([1 / (1 - p) for p in ticks], ["min" if p == 0 else f"p{p * 100:g}" for p in ticks], fontsize=10)
    ax.set_xlabel("share of requests that were at least this fast")
    ax.set_ylabel("response time (ms)")


def _kinds_of_time(ax: Axes, summary: Summary, objectives: Sequence[Objective]) -> None:
    for i, (kind, metric, marker, colour, times) in enumerate(_KINDS):
        found = [(x, t.p95.value) for x, s in enumerate(summary.values()) if (t := times(s)) is not None and t.p95.value > 0]
        if found:
            ax.plot([x + (i - 1) * 0.2 for x, _ in found], [p95 for _, p95 in found], marker, color=colour, label=f"{kind} time p95")
        for x, name in enumerate(summary):
            for one in figure.applying(objectives, (metric,), name):
                figure.limit_line(ax, one, x - 0.4, x + 0.4)
    for x, scenario in enumerate(summary.values()):
        if scenario.invalid:
            ax.axvspan(x - 0.5, x + 0.5, zorder=0, **figure.INVALID)
    figure.log_axis(ax, "y")
    ax.set_xlim(-0.6, len(summary) - 0.4)
    names = [figure.shorten(name, 24) for name in summary]
    ax.set_xticks(range(len(summary)), names, rotation=35 if len(summary) < 10 else 60, ha="right", rotation_mode="anchor", fontsize=9)
    ax.set_title("Where it goes: p95 by kind", fontsize=11)
    ax.set_ylabel("time (ms)")


def load_dimensions(*, recording: Recording, summary: Summary) -> figure.Chart:
    """Draw median and p95 of response time, and the target's own time, per value of each parameter that was varied."""
    n = sum(scenario.requests for scenario in summary.values())
    panels, left = _panels(summary)
    caption = figure.Caption(f"Response time by parameter value, {_intervals(recording)}", recording.context, n, left_out=left)
    if not panels:
        return caption.empty("no scenario varies a parameter")
    longest = max(len(values) for _, _, values in panels)
    columns = min(len(panels), 3 if longest <= 8 else 2 if longest <= 16 else 1)
    lines = math.ceil(len(panels) / columns)
    with caption.drawing(2 * lines, columns, height=0.5 + 4.2 * lines, height_ratios=(2.2, 1) * lines) as (chart, grid):
        axes = np.array(grid, dtype=object).reshape(lines, 2, columns).swapaxes(1, 2).reshape(-1, 2)
        for i, ((ax, below), (name, dimension, values)) in enumerate(zip(axes, panels, strict=False)):
            _groups(ax, values, _RESPONSE)
            _groups(below, values, _INSIDE)
            _value_names(ax, below, list(values), figure.WIDTH_PT / columns - 80)
            if summary[name].invalid:
                figure.shade_invalid(ax)
                figure.shade_invalid(below)
            how = f"\n({how})" if (how := figure.marked(summary[name])) else ""
            ax.set_title(f"{figure.shorten(name, 100 // columns - len(dimension) - 5)}: by {dimension}{how}", fontsize=10.5)
            counts = sorted({group.requests for group in values.values()})
            below.set_xlabel(f"{dimension} (n = {'-'.join(f'{n:,}' for n in (counts[0], counts[-1])[: len(counts)])} each)", fontsize=10)
            if i % columns == 0:
                ax.set_ylabel("response time (ms)")
                below.set_ylabel("in target (ms)", fontsize=10)
        for ax in axes[len(panels) :].flat:
            ax.remove()
    return chart


def _panels(summary: Summary) -> tuple[list[tuple[str, str, Mapping[str, GroupSummary]]], list[str]]:
    """Return what is drawn of which parameter of which scenario, the slowest values of it, and the names of what there is no room for."""
    varied = {name: one for name, one in summary.items() if any(len(values) > 1 for values in one.by.values())}
    longest = max((len(values) for one in varied.values() for values in one.by.values()), default=0)
    shown, left = figure.choose(varied, MOST_PANELS if longest <= 8 else MOST_PANELS // 3, lambda one: one.severity)
    panels: list[tuple[str, str, Mapping[str, GroupSummary]]] = []
    for name, one in shown.items():
        for dimension, values in one.by.items():
            slowest, rest = figure.choose(values, MOST_VALUES, lambda group: np.nan_to_num(group.response_time_ms.p95.value))
            if len(values) > 1 and len(panels) < MOST_PANELS:
                panels.append((name, dimension, slowest))
                left += rest
    return panels, left


def _groups(ax: Axes, values: Mapping[str, GroupSummary], series: Sequence[Series]) -> None:
    """Draw each value of a parameter in a column; an interval without an upper end runs out of the axes."""
    known = [(x, one, p) for x, g in enumerate(values.values()) for one in series if (p := one[-1](g)) and not math.isnan(p.value)]
    top = 1.1 * max((p.value if p.high is None else p.high for _, _, p in known), default=0.0) or 1.0
    for one in series:
        label, offset, marker, colour, _ = one
        found = [(x + offset, p) for x, drawn, p in known if drawn is one]
        below = [p.value - (p.value if p.low is None else p.low) for _, p in found]
        highs = [p.high if p.high is not None else 2 * top if p.n_effective else p.value for _, p in found]
        # an interval that another tool did not give is none
        above = [max(high - p.value, 0.0) for high, (_, p) in zip(highs, found, strict=True)]
        if found:
            x, y = [x for x, _ in found], [p.value for _, p in found]
            ax.errorbar(x, y, yerr=[below, above], fmt=marker, color=colour, capsize=3, markersize=5, label=label)
    if not known:
        figure.note(ax, "no Server-Timing")
    ax.set_ylim(-0.06 * top, top)
    ax.yaxis.set_major_locator(MaxNLocator(5 if len(series) > 1 else 2, steps=[1, 2, 5, 10], min_n_ticks=2))
    ax.yaxis.set_major_formatter(figure.plain())


def _value_names(ax: Axes, below: Axes, names: Sequence[str], room_pt: float) -> None:
    """Name the columns below both axes, upright when they would touch."""
    crowded = max(figure.width_pt(name, 10) for name in names) + CROWDED_PT > room_pt / len(names)
    for axes, shown in ((ax, [""] * len(names)), (below, [figure.shorten(name, 16) for name in names])):
        axes.set_xticks(range(len(names)), shown, fontsize=10, rotation=90 if crowded else 0)
        axes.set_xlim(-0.6, len(names) - 0.4)


# ---- capacity ----

_LOOK = {
    Verdict.PASS: ("o", figure.PALETTE[0]),
    Verdict.NOT_PROVEN: ("D", figure.PALETTE[1]),
    Verdict.INVALID: ("s", "#777777"),
    Verdict.NO_DATA: ("P", "black"),
}
_FAILED = (("X", figure.BAD), ("P", figure.PALETTE[5]), ("*", "black"))  # of levels that failed, by the objective that they missed


def load_capacity(*, recording: Recording, capacity: CapacityResult | None, objectives: Sequence[Objective]) -> figure.Chart:
    """Draw a capacity sweep: p95 over arrival rate with the knee's interval, and throughput over concurrency with the fitted law."""
    n = sum(len(samples.counted(recording.samples, name)) for name in recording.context.rates_rps)
    caption = figure.Caption("Capacity: how much traffic before an objective is missed", recording.context, n)
    if capacity is None:
        return caption.empty("no capacity scenario was among the chosen ones")
    with caption.drawing(1, 2) as (chart, (left, right)):
        _knee(left, capacity, [one for one in objectives if one.metric == "p95_ms" and one.scope is None])
        _law(right, capacity)
        knee, law = capacity.knee_note, capacity.law_note
        left.set_title(textwrap.fill(knee, 56), fontsize=9.5)
        right.set_title(textwrap.fill(f"peak of the law: {law}" if capacity.usl else law, 56), fontsize=9.5)
    return chart


def _knee(ax: Axes, capacity: CapacityResult, objectives: Sequence[Objective]) -> None:
    by_look: dict[str, list[Level]] = {}
    for level in capacity.levels:
        by_look.setdefault(_said(level), []).append(level)
    failed = iter(_FAILED * len(capacity.levels))
    for said, levels in by_look.items():
        marker, colour = _LOOK.get(levels[0].verdict) or next(failed)
        points = [(one.rate_rps, one.p95_ms.value) for one in levels if one.p95_ms is not None]
        if points:
            late = mark({"p95_ms": max(one.generator_share.get("p95_ms", 0.0) for one in levels)}, "p95_ms")
            ax.plot(*zip(*points, strict=True), marker, color=colour, markersize=8, label=f"level: {said}{late}")
    _shade_rates(ax, capacity.levels)
    if capacity.knee_rps is not None and capacity.knee_high_rps is not None:
        label = f"knee: {capacity.knee_rps:,.0f} to {capacity.knee_high_rps:,.0f}/s"
        ax.axvspan(capacity.knee_rps, capacity.knee_high_rps, color=figure.PALETTE[2], alpha=0.25, label=label)
    rates = [one.rate_rps for one in capacity.levels]
    for one in objectives:
        figure.limit_line(ax, one, min(rates), max(rates))
    figure.log_axis(ax, "y")
    figure.log_axis(ax, "x")
    ax.set_xlabel("arrival rate (requests/s)")
    ax.set_ylabel("p95 response time (ms)")


def _said(level: Level) -> str:
    """Return the verdict on a level, of one that failed with the first objective that it missed."""
    missed = next((check.objective for check in level.checks if check.verdict == Verdict.FAIL), "")
    return f"fails {missed}" if missed and level.verdict == Verdict.FAIL else level.verdict.replace("_", " ")


def _shade_rates(ax: Axes, levels: Sequence[Level]) -> None:
    """Shade the rates at which the generator was the limit, and give the reason."""
    for invalid, run in itertools.groupby(levels, lambda one: one.verdict == Verdict.INVALID):
        if invalid:
            part = list(run)
            reason = textwrap.shorten(part[0].reason.partition(": ")[2] or part[0].reason, 110, placeholder=" …")
            ax.axvspan(part[0].rate_rps / 1.08, part[-1].rate_rps * 1.08, zorder=0, **figure.HATCHED, label=f"invalid: {reason}")


def _law(ax: Axes, capacity: CapacityResult) -> None:
    points = [(one.concurrency, one.throughput_rps) for one in capacity.levels if one.steady and one.concurrency > 0]
    if not points:
        figure.note(ax, "no level was steady and valid")
    ax.plot([n for n, _ in points], [x for _, x in points], "o", color=figure.PALETTE[0], markersize=6, label="_steady levels")
    law = capacity.usl
    if law is not None:
        n = np.geomspace(law.n_min, law.n_max, 200)
        contention = f"contention {law.alpha.value:.1%} ({law.alpha.low:.1%} to {law.alpha.high:.1%})"
        ax.plot(n, law.throughput_rps(n), color=figure.PALETTE[3], label=f"scalability law, within what was measured: {contention}")
    figure.log_axis(ax, "x")
    ax.set_ylim(bottom=0)
    ax.yaxis.set_major_formatter(figure.plain())
    ax.set_xlabel("mean requests in flight (steady levels)")
    ax.set_ylabel("throughput (succeeded/s)")
