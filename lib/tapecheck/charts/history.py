"""The figure of a metric's history: a point a run, the code that it ran, and where the level shifts."""

import textwrap
from collections.abc import Sequence
from dataclasses import astuple, fields
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from tapecheck.charts import figure
from tapecheck.runs.history import Condition, History, Trend
from tapecheck.verdict import counted

MOST = 5  # trends in one picture, those of most runs
TITLE = 105  # characters of a line
TICKS = 5  # runs that are named below, at most
MOST_COMMITS = 40  # more lines between commits would be a grey field
UNITS = {
    "_per_s": "1/s", "_rps": "1/s", "_ms": "ms", "_ns": "ns", "_s": "s", "_ratio": "ratio", "_share": "share", "_bytes": "bytes",
    "_mb": "MB", "_minutes": "min",
}  # fmt: skip


def history_trend(*, history: History) -> figure.Chart:
    """Draw a metric over the runs, those of each condition in an axes of their own, with version, commit and change points."""
    shown = sorted(sorted(history.trends, key=lambda trend: len(trend.points), reverse=True)[:MOST], key=lambda trend: trend.condition)
    with figure.style():
        chart, axes = figure.begin(f"History of {figure.shorten(history.metric, 70)}", rows=len(shown), height=0.9 + 2.6 * len(shown))
        for ax, trend, name in zip(axes, shown, _names([trend.condition for trend in shown]), strict=True):
            _trend(ax, trend)
            ax.set_ylabel(figure.shorten(_quantity(history.metric), 26))
            changes = f"change points: {', '.join(shift.change for shift in trend.shifts)}" if trend.shifts else ""
            ax.set_title("\n".join(filter(None, (*textwrap.wrap(figure.clean(name), TITLE)[:3], changes))), fontsize=10)
        figure.legend(chart)
        more = len(history.trends) - len(shown)
        figure.foot(chart, f"n = {counted(history.n, 'runs')}{f'; {more} conditions of fewer runs are not drawn' if more else ''}")
    return chart


def _names(conditions: Sequence[Condition]) -> list[str]:
    """Name each condition by what tells it from the others; one alone by all."""
    if len(conditions) == 1:
        return [str(conditions[0])]
    values = [astuple(one) for one in conditions]
    telling = [i for i, _ in enumerate(fields(Condition)) if len({value[i] for value in values}) > 1]
    return [", ".join(value[i] for i in telling if value[i]) for value in values]


def _quantity(metric: str) -> str:
    """Return what a path says is measured, with its unit in brackets: `p95 of response time (ms)`."""
    steps = [step for step in metric.split(".") if step not in ("value", "*")]
    name, unit = next(((step.removesuffix(end), UNITS[end]) for step in reversed(steps) for end in UNITS if step.endswith(end)), ("", ""))
    what = steps[-1] if not name or steps[-1].startswith(name) else f"{steps[-1]} of {name}"
    return f"{(name if steps[-1].startswith(name) and name else what).replace('_', ' ')} ({unit})" if unit else what.replace("_", " ")


def _trend(ax: Axes, trend: Trend) -> None:
    values = [point.value for point in trend.points]
    _commits(ax, trend)
    ax.plot(range(len(values)), values, "o-", color=figure.PALETTE[0], markersize=5, linewidth=0.8, label="a run")
    _levels(ax, trend)
    ax.set_xlim(-0.7, len(values) - 0.3)
    ax.margins(y=0.15)
    ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.yaxis.set_major_formatter(figure.plain())
    _ticks(ax, trend)


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
        ax.plot(
            at, [trend.points[i].value for i in at], "s", color=figure.BAD, label="change point: the first run of another level", **look
        )


def _ticks(ax: Axes, trend: Trend) -> None:
    """Write version, commit and time below the first and the last run, and some between."""
    last = len(trend.points) - 1
    at = sorted({round(i * last / (TICKS - 1)) for i in range(TICKS)})
    texts = [f"{trend.points[i].code}\n{trend.points[i].started_at:%Y-%m-%d %H:%M}" for i in at]
    ax.set_xticks(at, texts, fontsize=8.5, color=figure.LIMIT)
