"""The figures of a recovery run: what each drill did to the target, how long recovery took, and how old or lost its data is."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from tapecheck.charts import figure
from tapecheck.recovery.analysis import FailureSummary, RecoverySummary
from tapecheck.recovery.objectives import TOLERANCE_S, RecoveryPlan
from tapecheck.recovery.recording import Recording
from tapecheck.recovery.timeline import Clocks, PastTrial, Seen, Timed, seen, states
from tapecheck.verdict import written

LOOKS: Mapping[int, Mapping[str, Any]] = {  # of the state of a target; told apart in grey too
    0: {"facecolor": figure.PALETTE[3], "label": "no service"},
    1: {"facecolor": figure.PALETTE[1], "hatch": "//", "edgecolor": "white", "label": "degraded: a fallback serves, or work is left to do"},
    2: {"facecolor": "#cfe8df", "label": "full service"},
}
CLASSES = {"fresh": "#e8f4ee", "aging": "#fdf3dc", "stale": "#f7e0d3", "missing": "#e4e4e4"}
FULL = 2
LEAST_S = 0.01  # shorter times are drawn so long on a logarithmic axis
MOST_SYMBOLS = 50  # rows, the oldest
BEFORE_S = 0.5  # of a drill's timeline before the fault


def _caption(title: str, recording: Recording, summary: RecoverySummary) -> figure.Caption:
    return figure.Caption(title, recording.context, len(summary.timed), "trials")


# ---- what each drill did ----


def recovery_timeline(*, recording: Recording, summary: RecoverySummary, plan: RecoveryPlan) -> figure.Chart:
    """Draw the slowest trial of each drill on the clock since the fault: availability of each view, and the recoveries."""
    caption, shown = _caption("Timeline of each drill: what could be seen of the target", recording, summary), _slowest(summary.timed)
    if not shown:
        return caption.empty("no drill was run, or none was valid")
    views = [seen(recording.probes(one.trial)) for one, _ in shown]
    with caption.drawing(height=1.3 + 0.19 * sum(map(len, views)) + 0.16 * len(shown)) as (chart, (ax,)):
        for look in LOOKS.values():
            ax.fill_between([], [], **look)  # all of them for the legend
        ends_s, at, ticks = [], 0.0, []
        for (one, clocks), rows in zip(shown, views, strict=True):
            begun = at
            for name, view in rows.items():
                ends_s.append(_states(ax, at, view, one.trial.injected_ns or 0, int(plan.prober.slow_s * 1e9)))
                ticks.append((at + 0.4, name))
                at += 1
            _moments(ax, one, clocks, begun, at)
            at += 0.9
        ax.set_yticks([y for y, _ in ticks], [name for _, name in ticks], fontsize=8.5)
        ax.set_ylim(at - 0.9, -0.75)
        ax.set_xlim(-BEFORE_S, 1.01 * max(ends_s))
        ax.grid(visible=False, axis="y")
        ax.set_xlabel("time since the fault began (s)")
    return chart


def _slowest(timed: Sequence[Timed]) -> list[tuple[Timed, Clocks]]:
    """Return the slowest valid trial of each drill, in the order in which they were run."""
    found: dict[str, tuple[Timed, Clocks]] = {}
    for one in timed:
        drill = one.trial.drill
        if one.valid and (drill not in found or one.valid.lasted_s("recover_s") > found[drill][1].lasted_s("recover_s")):
            found[drill] = one, one.valid
    return list(found.values())


def _states(ax: Axes, row: float, view: Seen, zero_ns: int, slow_ns: int) -> float:
    """Draw stretches of one state in one row, and return where they end; a probe stands for the time until the next one."""
    found, end_s = states(view, slow_ns), float(view.done_ns.max() - zero_ns) / 1e9
    changes = [0, *(np.flatnonzero(np.diff(found)) + 1).tolist()]
    edges_s = [*((view.sent_ns[changes] - zero_ns) / 1e9), end_s]
    for n, state in enumerate(found[changes]):
        if n and state < FULL and edges_s[n] < 0 < edges_s[n + 1]:
            edges_s[n] = 0.0  # its first probe was on its way when the fault began, and says nothing of the time before
    for state, first_s, last_s in zip(found[changes], edges_s, edges_s[1:], strict=False):
        if last_s > -BEFORE_S:
            look = {key: value for key, value in LOOKS[int(state)].items() if key != "label"}
            ax.broken_barh([(max(first_s, -BEFORE_S), last_s - max(first_s, -BEFORE_S))], (row, 0.8), linewidth=0, **look)
    return end_s


def _moments(ax: Axes, one: Timed, clocks: Clocks, top: float, bottom: float) -> None:
    """Mark the moments of one drill, and say its name above its rows."""
    name = one.trial.drill + ("" if clocks.recover_s is not None else " (not back)")
    ax.text(-BEFORE_S, top - 0.08, name, fontsize=9, weight="bold", va="bottom", clip_on=False)
    ax.vlines(0, top, bottom - 0.2, color="black", linewidth=1.2, label="the fault begins")
    if one.trial.released_ns and one.trial.injected_ns:
        released_s = (one.trial.released_ns - one.trial.injected_ns) / 1e9
        ax.vlines(released_s, top, bottom - 0.2, color="black", linewidth=1, linestyle=":", label="the drill ends the fault")
    look: dict[str, Any] = {"markersize": 8, "markeredgecolor": "white", "clip_on": False, "zorder": 5}
    if clocks.degraded_s and clocks.degraded_s != clocks.recover_s:
        ax.plot(clocks.degraded_s, top + 0.4, "v", color="black", label="degraded recovery", **look)
    if clocks.recover_s is not None:
        ax.plot(clocks.recover_s, top + 0.4, "v", color=figure.PALETTE[0], label="full recovery", **look)
    if clocks.detect_s is not None:
        ax.plot(clocks.detect_s, top + 0.4, "d", color=figure.PALETTE[5], label="detected: the target reports it", **look)


# ---- how long recovery took ----


def recovery_rto(*, recording: Recording, summary: RecoverySummary) -> figure.Chart:
    """Draw every trial of each failure beside its objective, by the clock that counts, on a logarithmic axis."""
    caption = _caption("Recovery times beside their objectives", recording, summary)
    if not summary.rto:
        return caption.empty("no drill was run")
    with caption.drawing(height=1.5 + 0.55 * len(summary.rto)) as (chart, (ax,)):
        for row, failure in enumerate(summary.rto.values()):
            _times(ax, row, failure)
            ax.plot([failure.objective_s] * 2, [row - 0.35, row + 0.35], color=figure.LIMIT, linewidth=2.5, label="objective (good: left)")
        names = [f"{name}\n({'degraded recovery' if f.clock == 'degraded' else 'full recovery'})" for name, f in summary.rto.items()]
        ax.set_yticks(range(len(names)), names, fontsize=9.5)
        ax.set_ylim(len(names) - 0.4, -0.6)
        figure.log_axis(ax, "x")
        ax.set_xlabel("time since the fault began (s)")
    return chart


def _times(ax: Axes, row: int, failure: FailureSummary) -> None:
    metric, worst = "recover_s" if failure.clock == "full" else "degraded_s", failure.judged
    valid = [one.valid for one in failure.trials if one.valid]
    times_s = [max(LEAST_S, t) for t in (getattr(clocks, metric) for clocks in valid) if t is not None]
    spread = np.linspace(-0.13, 0.13, len(times_s)) if len(times_s) > 1 else [0.0]
    ax.plot(times_s, row + np.asarray(spread)[: len(times_s)], "o", color=figure.PALETTE[0], markersize=6, alpha=0.75, label="a trial")
    if unfinished := [clocks.watched_s for clocks in valid if getattr(clocks, metric) is None]:
        ax.plot(unfinished, [row] * len(unfinished), ">", color=figure.BAD, markersize=9, label="not recovered when the watch ended")
    if any(one.invalid for one in failure.trials):
        ax.axhspan(row - 0.4, row + 0.4, zorder=0, **figure.HATCHED, label="a trial was invalid")
    if worst.upper is not None and math.isfinite(worst.upper):
        ax.plot(max(LEAST_S, worst.upper), row + 0.27, "^", color=figure.PALETTE[3], markersize=8, label="95 % upper bound")


# ---- how old data is, and what was lost ----


def recovery_ages(*, recording: Recording, summary: RecoverySummary, plan: RecoveryPlan) -> figure.Chart:
    """Draw the oldest series of each symbol against the classes of age, with what its tier allows."""
    caption = figure.Caption("Age of data: the oldest series of each symbol", recording.context, len(summary.as_found), "series")
    if not summary.freshness:
        return caption.empty("ages were not audited")
    oldest, left = figure.choose(summary.freshness, MOST_SYMBOLS, lambda one: math.inf if one.age_s is None else one.age_s)
    caption = replace(caption, left_out=left)
    order = sorted(oldest.items(), key=lambda item: (list(plan.rpo).index(item[1].tier or ""), item[0]))
    with caption.drawing(height=1.5 + 0.2 * len(order)) as (chart, (ax,)):
        *limits_s, _ = plan.staleness.ends_s.values()
        least_s = min([60.0, *(one.age_s for _, one in order if one.age_s and one.age_s > 1)])
        edges_s = [0.7 * least_s, *limits_s, 2.5 * limits_s[-1]]
        for (name, colour), first_s, last_s in zip(CLASSES.items(), edges_s, edges_s[1:], strict=False):
            ax.axvspan(first_s, last_s, color=colour, zorder=0, linewidth=0)
            ax.text(math.sqrt(first_s * last_s), -0.9, name, ha="center", fontsize=9.5)
        for row, (_, one) in enumerate(order):
            age_s = min(edges_s[-1] * 0.9, max(edges_s[0] * 1.05, one.age_s if one.age_s is not None else math.inf))
            is_possible = one.age_s is not None and one.age_s >= -TOLERANCE_S
            marker = "o" if is_possible else "X" if one.age_s is None else "<"  # to the left: of the future
            ax.plot(age_s, row, marker, color=figure.PALETTE[0] if is_possible and one.state != "missing" else figure.BAD, markersize=6)
        _allowed(ax, [plan.rpo[one.tier or ""].max_age_s for _, one in order])
        ax.set_yticks(range(len(order)), [f"{symbol} ({one.tier})" for symbol, one in order], fontsize=8.5)
        ax.set_ylim(len(order) - 0.4, -1.6)
        ax.set_xscale("log")
        ax.set_xlim(edges_s[0], edges_s[-1])
        ax.set_xticks([t for t in TICKS_S if edges_s[0] < t < edges_s[-1]], [TICKS_S[t] for t in TICKS_S if edges_s[0] < t < edges_s[-1]])
        ax.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
        ax.grid(visible=False, axis="y")
        ax.set_xlabel("age: time since upstream confirmed that nothing is missing")
    return chart


TICKS_S = {1: "1 s", 10: "10 s", 60: "1 min", 600: "10 min", 3600: "1 h", 21600: "6 h", 86400: "24 h"}


def _allowed(ax: Axes, limits_s: Sequence[float]) -> None:
    """Draw what each tier allows beside its symbols."""
    first = 0
    for limit_s, rows in groupby(limits_s):
        last = first + len(list(rows))
        ends = [first - 0.4, last - 0.6]
        ax.plot([limit_s] * 2, ends, color=figure.LIMIT, linestyle=(0, (4, 2)), label="oldest that the tier allows (good: left)")
        first = last


def recovery_loss(*, recording: Recording, summary: RecoverySummary) -> figure.Chart:
    """Draw what became of the bars that the database acknowledged while it was broken, by tier."""
    tiers = summary.rpo
    total = sum(tier.acknowledged_bars for tier in tiers.values())
    caption = figure.Caption("What became of acknowledged bars", recording.context, total, "bars")
    if not total:
        return caption.empty("no drill recorded bars")
    with caption.drawing(height=1.5 + 0.55 * len(tiers)) as (chart, (ax,)):
        for row, tier in enumerate(tiers.values()):
            left = 0
            stable = tier.acknowledged_bars - tier.lost_bars - tier.never_read_bars
            parts = {"stable": stable, "lost": tier.lost_bars, "never read": tier.never_read_bars}
            for (name, count), look in zip(parts.items(), FATES, strict=True):
                ax.barh(row, count, 0.6, left=left, label=name, **look)
                left += count
            text = f"{tier.lost_bars:,} lost: {written(tier.lost_minutes)} min of {written(tier.max_lost_minutes)} allowed"
            ax.text(1.01, row, text, transform=ax.get_yaxis_transform(), va="center", fontsize=9)
        ax.set_yticks(range(len(tiers)), list(tiers))
        ax.set_ylim(len(tiers) - 0.4, -0.6)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.xaxis.set_major_formatter(figure.plain())
        ax.grid(visible=False, axis="y")
        ax.set_xlabel("bars that the database acknowledged during drills")
    return chart


FATES: tuple[Mapping[str, Any], ...] = (
    {"color": figure.PALETTE[2]},
    {"color": figure.BAD},
    {"facecolor": "white", "edgecolor": figure.LIMIT, "hatch": "//"},
)


# ---- over the years ----


def recovery_trend(*, recording: Recording, past: Sequence[PastTrial]) -> figure.Chart:
    """Draw every recovery that was ever measured on this target, by failure, over time."""
    caption = figure.Caption("Every drill ever run on this target", recording.context, len(past), "trials")
    if not past:
        return caption.empty("no run of this output folder has a valid drill of this target")
    with caption.drawing(height=4.2) as (chart, (ax,)):
        for colour, marker, name in zip(figure.PALETTE * 3, "os^Dv<>" * 3, dict.fromkeys(one.failure for one in past), strict=False):
            own = [one for one in past if one.failure == name]
            at_s = [one.at.timestamp() for one in own]
            ax.plot(at_s, [max(LEAST_S, one.recover_s) for one in own], marker, color=colour, alpha=0.75, markersize=5, label=name)
        figure.log_axis(ax, "y")
        moments = [one.at.timestamp() for one in past]
        ticks = np.unique(np.linspace(min(moments), max(moments), 4).round())
        ax.set_xticks(ticks, [f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d\n%H:%M:%S}" for at in ticks])
        ax.set_ylabel("time to full recovery (s)")
        ax.set_xlabel("when the drill was run (UTC)")
    return chart
