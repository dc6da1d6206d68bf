"""The figures of response times in a load run: by percentile, by time and by parameter. They compute nothing that is reported."""

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from tapecheck.charts.figure import (
    BAD,
    INVALID,
    LIMIT,
    LINES,
    PALETTE,
    WIDTH_PT,
    Chart,
    applying,
    empty,
    figure,
    footer,
    invalid_patch,
    legend,
    limit_line,
    log_axis,
    note,
    plain,
    shade_invalid,
    shorten,
    style,
    thin,
    width_pt,
)
from tapecheck.load import samples
from tapecheck.load.analysis import GroupSummary, ScenarioSummary
from tapecheck.load.recording import Recording
from tapecheck.load.samples import Mask, Numbers, Rows
from tapecheck.statistics import intervals
from tapecheck.statistics.intervals import Percentile
from tapecheck.verdict import Objective

Summary = Mapping[str, ScenarioSummary]
TIMELINES_A_ROW = 6
CROWDED_PT = 6  # less than this between two tick labels, and they are turned

_KINDS: tuple[tuple[str, str, str, str, Callable[[ScenarioSummary], intervals.Distribution | None]], ...] = (
    ("response", "p95_ms", "o", PALETTE[0], lambda scenario: scenario.response_time_ms),
    ("service", "service_p95_ms", "s", PALETTE[1], lambda scenario: scenario.service_time_ms),
    ("server", "server_p95_ms", "^", PALETTE[2], lambda scenario: scenario.server_time_ms),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Series:
    label: str
    offset: float
    marker: str
    colour: str
    percentile: Callable[[GroupSummary], Percentile | None]


_RESPONSE = (
    _Series(label="median", offset=-0.15, marker="o", colour=PALETTE[0], percentile=lambda group: group.response_time_ms.p50),
    _Series(label="p95", offset=0.15, marker="s", colour=PALETTE[3], percentile=lambda group: group.response_time_ms.p95),
)
_INSIDE = (
    _Series(
        label="median inside the target", offset=0, marker="^", colour=PALETTE[2],
        percentile=lambda group: group.server_time_ms.p50 if group.server_time_ms else None,
    ),
)  # fmt: skip


def load_percentiles(*, recording: Recording, summary: Summary, objectives: Sequence[Objective]) -> Chart:
    """Draw the percentile spectrum of response times per scenario, and beside it p95 by kind of time: response, service, server."""
    title = f"Response time by percentile, {_intervals(recording)}"
    n = sum(scenario.requests for scenario in summary.values())
    if not any(_percentiles(scenario) for scenario in summary.values()):
        return empty(title, "no percentile is known" if n else "no requests", recording.context, n)
    with style():
        chart, (ax, kinds) = figure(title, 1, 2, height=5.2, width_ratios=(2.2, 1))
        for i, (name, scenario) in enumerate(summary.items()):
            if not scenario.requests:
                continue
            look: dict[str, Any] = {"color": PALETTE[i % len(PALETTE)], "linestyle": LINES[i % len(LINES)], "linewidth": 2}
            _spectrum(ax, samples.counted(recording.samples, name), scenario, label=_described(name, scenario), **look)
        _tail_axis(ax, summary, objectives)
        _kinds_of_time(kinds, summary, objectives)
        shaded = [invalid_patch()] if any(s.invalid for s in summary.values()) else []
        legend(chart, (ax, kinds), *shaded)
        footer(chart, recording.context, n)
    return chart


def _intervals(recording: Recording) -> str:
    return "as the tool says" if recording.context.told else "with 95 % intervals"


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


def _described(name: str, scenario: ScenarioSummary) -> str:
    failed = f", {scenario.failed:,} failed" if scenario.failed else ""
    return f"{name} (n = {scenario.requests:,}{failed}{_marked(scenario)})"


def _marked(scenario: ScenarioSummary) -> str:
    """Return what every chart says of figures that are not, or not only, the target's."""
    return ", INVALID" if scenario.invalid else ", generator late" if scenario.generator_share else ""


def _tail_axis(ax: Axes, summary: Summary, objectives: Sequence[Objective]) -> None:
    """Stretch the tail of a percentile axis, and draw each objective at its percentile, in the colour of the scenario it is about."""
    ax.set_xscale("log")
    right = max(ax.get_xlim()[1], 130)
    names = list(summary)
    for one in objectives:
        if one.metric in ("p50_ms", "p90_ms", "p95_ms", "p99_ms") and one.scope in (None, *names):
            at = 1 / (1 - int(one.metric[1:3]) / 100)
            limit_line(ax, one, at / 1.25, at * 1.25, colour=PALETTE[names.index(one.scope) % len(PALETTE)] if one.scope else LIMIT)
    log_axis(ax, "y")
    log_axis(ax, "x")
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
            for one in applying(objectives, (metric,), name):
                limit_line(ax, one, x - 0.4, x + 0.4)
    for x, scenario in enumerate(summary.values()):
        if scenario.invalid:
            ax.axvspan(x - 0.5, x + 0.5, zorder=0, **INVALID)
    log_axis(ax, "y")
    ax.set_xlim(-0.6, len(summary) - 0.4)
    names = [shorten(name, 24) for name in summary]
    ax.set_xticks(range(len(summary)), names, rotation=35 if len(summary) < 10 else 60, ha="right", rotation_mode="anchor", fontsize=9)
    ax.set_title("Where it goes: p95 by kind", fontsize=11)
    ax.set_ylabel("time (ms)")


def load_timeline(*, recording: Recording, summary: Summary, objectives: Sequence[Objective]) -> Chart:
    """Draw every response time at its intended start, scenarios side by side, failures marked."""
    title = "Response time of every request over the run"
    n = sum(scenario.requests for scenario in summary.values())
    if not n or not recording.samples.num_rows:
        return empty(title, recording.without_samples, recording.context, n)
    with style():
        lines = math.ceil(len(summary) / TIMELINES_A_ROW)
        columns = math.ceil(len(summary) / lines)
        chart, axes = figure(title, lines, columns, height=1.1 + 3.3 * lines, sharey=True)
        for ax, (name, scenario) in zip(axes, summary.items(), strict=False):
            _course(ax, samples.counted(recording.samples, name), applying(objectives, ("p95_ms",), name))
            if scenario.invalid:
                shade_invalid(ax)
            mark = _marked(scenario).removeprefix(", ")
            ax.set_title(_broken(name, WIDTH_PT / columns) + (f"\n({mark})" if mark else ""), fontsize=10.5)
        log_axis(axes[0], "y")
        for ax in axes[::columns]:
            ax.set_ylabel("response time (ms)")
        for ax in axes[len(summary) :]:
            ax.remove()
        shaded = [invalid_patch()] if any(s.invalid for s in summary.values()) else []
        legend(chart, axes[: len(summary)], *shaded)
        footer(chart, recording.context, n)
    return chart


def _course(ax: Axes, part: Rows, objectives: Sequence[Objective]) -> None:
    """Draw one scenario: of those that succeeded, the extremes of every stretch of time; of those that failed, each."""
    if not len(part):
        note(ax, "no requests")
        return
    failed = part.failed()
    ax.plot(*_points(part, ~failed, thinned=True), ".", color=PALETTE[0], markersize=3, alpha=0.5, label="succeeded")
    if failed.any():
        ax.plot(*_points(part, failed, thinned=False), "x", color=BAD, markersize=5, label="failed")
    end_s = max(float(np.ptp(part.numbers("intended_ns"))) / 1e9, 0.01)
    for one in objectives:
        limit_line(ax, one, -0.05 * end_s, 1.05 * end_s)
    ax.set_xlim(-0.05 * end_s, 1.05 * end_s)
    ax.xaxis.set_major_locator(MaxNLocator(3))
    ax.tick_params(axis="x", labelsize=9)
    ax.set_xlabel("intended start (s)", fontsize=9.5)


def _points(part: Rows, chosen: Mask, *, thinned: bool) -> tuple[Numbers, Numbers]:
    """Return intended start (s, since the first) and response time (ms) of the chosen samples."""
    response_ms = part.response_ms()[chosen]
    intended_ns = part.numbers("intended_ns")
    at_ns, ms = thin(intended_ns[chosen], response_ms) if thinned else (intended_ns[chosen], response_ms)
    return np.asarray((at_ns - intended_ns.min()) / 1e9, dtype=np.float64), ms


def _broken(name: str, room_pt: float) -> str:
    """Break a name after its underscores into lines of a panel's width, at most three."""
    wide = max(8, int(room_pt / 8.5))
    lines = textwrap.wrap(shorten(name, 3 * wide - 12).replace("_", "_ "), wide)
    return "\n".join(line.replace("_ ", "_") for line in lines)


def load_dimensions(*, recording: Recording, summary: Summary) -> Chart:
    """Draw median and p95 of response time, and the target's own time, per value of each parameter that was varied."""
    title = f"Response time by parameter value, {_intervals(recording)}"
    panels = [(name, d, values) for name, s in summary.items() for d, values in s.by.items() if len(values) > 1]
    with style():
        if not panels:
            n = sum(scenario.requests for scenario in summary.values()) if recording.context.told else recording.samples.num_rows
            return empty(title, "no scenario varies a parameter", recording.context, n)
        longest = max(len(values) for _, _, values in panels)
        columns = min(len(panels), 3 if longest <= 8 else 2 if longest <= 16 else 1)
        lines = math.ceil(len(panels) / columns)
        chart, grid = figure(title, 2 * lines, columns, height=0.5 + 4.2 * lines, height_ratios=(2.2, 1) * lines)
        axes = np.array(grid, dtype=object).reshape(lines, 2, columns).swapaxes(1, 2).reshape(-1, 2)
        for i, ((ax, below), (name, dimension, values)) in enumerate(zip(axes, panels, strict=False)):
            _groups(ax, values, _RESPONSE)
            _groups(below, values, _INSIDE)
            _value_names(ax, below, list(values), WIDTH_PT / columns - 80)
            if summary[name].invalid:
                shade_invalid(ax)
                shade_invalid(below)
            mark = _marked(summary[name])
            ax.set_title(f"{shorten(name, 105 // columns - len(mark) - len(dimension) - 5)}{mark}: by {dimension}", fontsize=10.5)
            counts = sorted({group.requests for group in values.values()})
            below.set_xlabel(f"{dimension} (n = {'-'.join(f'{n:,}' for n in (counts[0], counts[-1])[: len(counts)])} each)", fontsize=10)
            if i % columns == 0:
                ax.set_ylabel("response time (ms)")
                below.set_ylabel("in target (ms)", fontsize=10)
        for ax in axes[len(panels) :].flat:
            ax.remove()
        legend(chart, list(axes[: len(panels)].flat))
        footer(chart, recording.context, sum(s.requests for s in summary.values()))
    return chart


def _groups(ax: Axes, values: Mapping[str, GroupSummary], series: Sequence[_Series]) -> None:
    """Draw each value of a parameter in a column; an interval without an upper end runs out of the axes."""
    known = [(x, one, p) for x, g in enumerate(values.values()) for one in series if (p := one.percentile(g)) and not math.isnan(p.value)]
    top = 1.1 * max((p.value if p.high is None else p.high for _, _, p in known), default=0.0) or 1.0
    for one in series:
        found = [(x + one.offset, p) for x, drawn, p in known if drawn is one]
        below = [p.value - (p.value if p.low is None else p.low) for _, p in found]
        above = [_above(p, 2 * top) for _, p in found]
        if found:
            ax.errorbar(
                [x for x, _ in found], [p.value for _, p in found], yerr=[below, above], fmt=one.marker, color=one.colour, capsize=3,
                markersize=5, label=one.label,
            )  # fmt: skip
    if not known:
        note(ax, "no Server-Timing")
    ax.set_ylim(-0.06 * top, top)
    ax.yaxis.set_major_locator(MaxNLocator(5 if len(series) > 1 else 2, steps=[1, 2, 5, 10], min_n_ticks=2))
    ax.yaxis.set_major_formatter(plain())


def _above(p: Percentile, out_of_sight: float) -> float:
    """Return how far an interval reaches above its percentile; one that another tool told has none."""
    if not p.n_effective:
        return 0.0
    return max((out_of_sight if p.high is None else p.high) - p.value, 0.0)


def _value_names(ax: Axes, below: Axes, names: Sequence[str], room_pt: float) -> None:
    """Name the columns below both axes, upright when they would touch."""
    crowded = max(width_pt(name, 10) for name in names) + CROWDED_PT > room_pt / len(names)
    for axes, shown in ((ax, [""] * len(names)), (below, [shorten(name, 16) for name in names])):
        axes.set_xticks(range(len(names)), shown, fontsize=10, rotation=90 if crowded else 0)
        axes.set_xlim(-0.6, len(names) - 0.4)
