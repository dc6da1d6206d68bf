"""The figure of a metric's history: a point a run, the code that it ran, and where the level shifts."""

from collections.abc import Sequence
from dataclasses import astuple, fields
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from tapecheck.charts.figure import BAD, LIMIT, PALETTE, Chart, figure, foot, legend, plain, shorten, style, width_pt
from tapecheck.runs.history import Condition, History, Trend

MOST = 6  # trends in one picture, those of most runs
AXES_PT = 600
TICK_PT = 8.5
MOST_COMMITS = 40  # more lines between commits would be a grey field
UNITS = ("_s", "_ms", "_ns", "_rps", "_ratio", "_bytes", "_mb", "_share", "_minutes")


def history_trend(*, history: History) -> Chart:
    """Draw a metric over the runs, those of each condition in an axes of their own, with version, commit and change points."""
    shown = sorted(sorted(history.trends, key=lambda trend: len(trend.points), reverse=True)[:MOST], key=lambda trend: trend.condition)
    with style():
        chart, axes = figure(shorten(f"History of {history.metric}", 80), rows=len(shown), height=0.9 + 2.5 * len(shown))
        for ax, trend, name in zip(axes, shown, _names([trend.condition for trend in shown]), strict=True):
            _trend(ax, trend)
            ax.set_ylabel(shorten(_quantity(history.metric), 26))
            ax.set_title(shorten(name, 95), fontsize=10)
        legend(chart, axes)
        more = len(history.trends) - len(shown)
        foot(chart, f"n = {history.n:,} runs{f'; {more} conditions of fewer runs are not drawn' if more else ''}")
    return chart


def _names(conditions: Sequence[Condition]) -> list[str]:
    """Name each condition by what tells it from the others; one alone by all."""
    if len(conditions) == 1:
        return [str(conditions[0])]
    values = [astuple(one) for one in conditions]
    telling = [i for i, _ in enumerate(fields(Condition)) if len({value[i] for value in values}) > 1]
    return [", ".join(value[i] for i in telling if value[i]) for value in values]


def _quantity(metric: str) -> str:
    """Return the step of a path that says its unit, or else the last."""
    steps = metric.split(".")
    return next((step for step in reversed(steps) if step.endswith(UNITS)), steps[-1])


def _trend(ax: Axes, trend: Trend) -> None:
    values = [point.value for point in trend.points]
    _commits(ax, trend)
    ax.plot(range(len(values)), values, "o-", color=PALETTE[0], markersize=5, linewidth=0.8, label="a run")
    _levels(ax, trend)
    ax.set_xlim(-0.7, len(values) - 0.3)
    ax.margins(y=0.25)  # room for what the change points say
    ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.yaxis.set_major_formatter(plain())
    _ticks(ax, trend)
    _say(ax, trend)


def _commits(ax: Axes, trend: Trend) -> None:
    """Draw a line wherever the code changed."""
    at = [i - 0.5 for i, (a, b) in enumerate(pairwise(trend.points), start=1) if a.code != b.code]
    ax.grid(visible=False, axis="x")
    for i, x in enumerate(at[:MOST_COMMITS]):
        ax.axvline(x, color="#bbbbbb", linewidth=0.8, zorder=0.5, label="_" if i else "version or commit changes")


def _levels(ax: Axes, trend: Trend) -> None:
    """Draw the median on each side of every change point."""
    edges = [0, *(shift.first for shift in trend.shifts), len(trend.points)]
    medians = [*(shift.before for shift in trend.shifts), *(shift.after for shift in trend.shifts[-1:])]
    for (first, last), median in zip(pairwise(edges), medians, strict=False):
        ax.plot(
            [first - 0.5, last - 0.5], [median, median], color="black", linestyle="--", linewidth=1.4, label="median between change points"
        )
    look: dict[str, Any] = {"markersize": 11, "markerfacecolor": "none", "markeredgewidth": 2, "zorder": 4}
    if trend.shifts:
        at = [shift.first for shift in trend.shifts]
        ax.plot(at, [trend.points[i].value for i in at], "s", color=BAD, label="change point: the first run of another level", **look)


def _ticks(ax: Axes, trend: Trend) -> None:
    """Write version, commit and time below as many runs as have room; the change points come first."""
    n = len(trend.points)
    wanted = [*(shift.first for shift in trend.shifts), n - 1, 0, *(round(i * (n - 1) / 6) for i in range(7)), *range(min(n, 50))]
    texts = {i: f"{trend.points[i].code}\n{trend.points[i].started_at:%Y-%m-%d %H:%M}" for i in wanted}
    run_pt = AXES_PT / (n + 0.4)
    wide_pt = max(width_pt(line, TICK_PT) for text in texts.values() for line in text.split("\n")) + 10
    kept: list[int] = []
    for i in wanted:
        if all(abs(i - other) * run_pt >= wide_pt for other in kept):
            kept.append(i)
    ax.set_xticks(sorted(kept), [texts[i] for i in sorted(kept)], fontsize=TICK_PT, color=LIMIT)


def _say(ax: Axes, trend: Trend) -> None:
    """Write at the top how much each change point changes, as far as there is room."""
    run_pt, free_pt = AXES_PT / (len(trend.points) + 0.4), 0.0
    for shift in trend.shifts:
        text = shift.change
        half_pt, at_pt = width_pt(text, 9) / 2 + 3, (shift.first + 0.7) * run_pt
        if at_pt - half_pt >= free_pt and at_pt + half_pt <= AXES_PT:
            ax.text(
                shift.first, 0.97, text, transform=ax.get_xaxis_transform(), ha="center", va="top", fontsize=9, color=BAD, weight="bold"
            )
            free_pt = at_pt + half_pt
