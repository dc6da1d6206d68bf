"""The figures of a backfill: where its time went, job by job and second by second, and what a change would buy."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.patches import Rectangle

from tapecheck.backfill import coverage
from tapecheck.backfill.analysis import PRIMARY_SHARE, BackfillSummary, JobSummary
from tapecheck.backfill.prediction import AS_RECORDED, WhatIf
from tapecheck.backfill.recording import COMPLETED, FAILED, Job, Recording
from tapecheck.charts import figure
from tapecheck.vendor.trace import STAGES, Span
from tapecheck.verdict import Objective

COLOURS = dict(zip(STAGES, (*(figure.PALETTE[i] for i in (5, 0, 4, 2, 1)), "#777777"), strict=True))
GETTING = ("wait", "fetch", "decode")  # while another page is stored
THROUGHPUT_STEPS = 60  # so few that most hold several pages
STATE_COLOURS = {"closed": "#e8e8e8", "present": "#9ecae1", "partial": "#f0a30a", "absent": "#8b1a1a"}  # darker is worse, in grey too
MOST_COLUMNS = 400
MOST_SYMBOLS = 45  # rows, the slowest or those that lack most
OBJECTIVE_WITHIN = 2  # times the longest bar; farther off it would squeeze all bars, and is met anyhow


def backfill_stages(*, recording: Recording, summary: BackfillSummary) -> figure.Chart:
    """Draw each stage's share of busy time and of wall time, with the share above which a stage is the bottleneck."""
    caption = figure.Caption("Where the time goes: share of each stage", recording.context, summary.totals.jobs, "jobs")
    if not recording.spans:
        return caption.empty("no job had anything to do")
    with caption.drawing(height=4.4) as (chart, (ax,)):
        rows = np.arange(len(summary.stages))
        stages = list(summary.stages.values())
        busy, wall = [stage.busy_share for stage in stages], [stage.wall_share for stage in stages]
        ax.barh(rows - 0.2, busy, 0.36, color=figure.PALETTE[0], label="of busy time: all spans added up")
        ax.barh(rows + 0.2, wall, 0.36, color=figure.PALETTE[1], label="of wall time: on the critical path")
        _figures(ax, [(row - 0.2, f"{stage.busy_share:.1%} ({stage.busy_s:,.3g} s)") for row, stage in enumerate(stages)])
        _figures(ax, [(row + 0.2, f"{stage.wall_share:.1%}") for row, stage in enumerate(stages)])
        rule = f"{PRIMARY_SHARE:.0%} of busy time: beyond it a stage is the bottleneck"
        ax.axvline(PRIMARY_SHARE, color=figure.LIMIT, linestyle=(0, (4, 2)), linewidth=1.4, label=rule)
        ax.set_yticks(rows, list(summary.stages))
        ax.invert_yaxis()
        ax.set_xlim(0, 1.05 * max(PRIMARY_SHARE, *busy, *wall))
        ax.xaxis.set_major_formatter(mpl.ticker.PercentFormatter(1, 0))
        ax.set_xlabel("share of time")
        ax.set_title(f"bottleneck: {summary.bottleneck}" if summary.bottleneck else "balanced: no stage is the bottleneck", fontsize=11)
    return chart


def _figures(ax: Axes, texts: Sequence[tuple[float, str]]) -> None:
    """Write figures right of the axes, at heights in data, where no line crosses them."""
    for y, text in texts:
        ax.text(1.01, y, text, transform=ax.get_yaxis_transform(), va="center", fontsize=9)


# ---- the timeline ----


def backfill_timeline(*, recording: Recording) -> figure.Chart:
    """Draw every span of every job on the clock, one row a worker: above how pages were got, below how they were stored."""
    caption = figure.Caption("Timeline: what each worker did", recording.context, len(recording.jobs), "jobs")
    jobs, context = _by_job(recording), recording.context
    if not jobs:
        return caption.empty("no job had anything to do")
    workers = sorted({worker for worker, _ in jobs})
    row_in = max(0.25, min(0.62, 9 / len(workers)))
    with caption.drawing(height=1.2 + row_in * len(workers)) as (chart, (ax,)):
        for row, worker in enumerate(workers):
            own = [span for (other, _), spans in jobs.items() if other == worker for span in spans]
            _stages(ax, row, own, context.began_ns)
        rows = [workers.index(worker) for worker, _ in jobs]
        begins_s = [(spans[0].began_ns - context.began_ns) / 1e9 for spans in jobs.values()]
        ends_s = [(max(span.ended_ns for span in spans) - context.began_ns) / 1e9 for spans in jobs.values()]
        ax.vlines(begins_s, np.array(rows) + 0.02, np.array(rows) + 0.98, color="black", linewidth=0.5)
        failed = {_name(recording, job) for job in recording.jobs if job.state == FAILED}
        if crosses := [(last_s, row + 0.5) for (_, name), row, last_s in zip(jobs, rows, ends_s, strict=True) if name in failed]:
            look: dict[str, Any] = {"color": figure.BAD, "markersize": 9, "markeredgecolor": "white", "clip_on": False, "zorder": 5}
            ax.plot(*zip(*crosses, strict=True), "X", label="job failed", **look)
        ax.set_xlim(-0.005 * context.wall_s, 1.005 * context.wall_s)
        ax.set_ylim(len(workers), 0)
        ax.set_yticks(np.arange(len(workers)) + 0.5, [f"worker {worker}" for worker in workers], fontsize=10)
        ax.grid(visible=False, axis="y")
        ax.set_xlabel("time since the run began (s)")
        ax.set_title("in each row above: getting a page; below: storing one", fontsize=10)
    return chart


def _by_job(recording: Recording) -> dict[tuple[int, str], list[Span]]:
    """Return spans by worker and job."""
    found: dict[tuple[int, str], list[Span]] = defaultdict(list)
    for span in recording.spans:
        found[span.worker, _name(recording, span)].append(span)
    return found


def _name(recording: Recording, of: Span | Job) -> str:
    """Return the name of a job; the series of a symbol that are derived from one are one job."""
    return of.symbol if recording.context.plan.derive else f"{of.symbol} {of.timeframe}"


def _stages(ax: Axes, row: int, spans: Sequence[Span], zero_ns: int) -> None:
    """Draw the stages of one worker's spans in two bands."""
    for stage in STAGES:
        those = [((span.began_ns - zero_ns) / 1e9, span.duration_s) for span in spans if span.stage == stage]
        if those:
            ax.broken_barh(those, (row + (0.28 if stage in GETTING else 0.63), 0.33), color=COLOURS[stage], linewidth=0, label=stage)


# ---- jobs ----


def backfill_jobs(*, recording: Recording, summary: BackfillSummary) -> figure.Chart:
    """Draw how long each job took, a symbol a row and a timeframe a column, with what failed or was skipped."""
    shown, left = figure.choose(summary.jobs, MOST_SYMBOLS, lambda jobs: max(_weight(job) for job in jobs.values()))
    caption = figure.Caption("How long each job took, in seconds", recording.context, summary.totals.jobs, "jobs", left_out=left)
    symbols, frames = list(shown), list(dict.fromkeys(frame for jobs in shown.values() for frame in jobs))
    if not symbols:
        return caption.empty("no jobs")
    with caption.drawing(height=1.1 + 0.25 * len(symbols)) as (chart, (ax,)):
        took = [job.duration_s for jobs in summary.jobs.values() for job in jobs.values() if job.state == COMPLETED and job.duration_s > 0]
        shortest, longest = min(took, default=0.1), max(took, default=1.0)
        colours = mpl.cm.ScalarMappable(LogNorm(shortest, max(longest, 2 * shortest)), "YlGnBu")
        for row, jobs in enumerate(shown.values()):
            for column, frame in enumerate(frames):
                if frame in jobs:
                    _cell(ax, row, column, jobs[frame], colours)
        ax.set_xlim(-0.5, len(frames) - 0.5)
        ax.set_ylim(len(symbols) - 0.5, -0.5)
        ax.set_xticks(range(len(frames)), frames)
        ax.set_yticks(range(len(symbols)), [figure.shorten(symbol, 24) for symbol in symbols], fontsize=9.5)
        ax.tick_params(length=0)
        ax.grid(visible=False)
        ax.spines[:].set_visible(False)
        ax.set_xlabel("timeframe; a job lasts while any of its stages runs")
    return chart


def _weight(job: JobSummary) -> float:
    """Return how much a job wants to be seen: one that failed first, then by how long it took."""
    return 1e9 if job.state == FAILED else job.duration_s or 0.0


def _cell(ax: Axes, row: int, column: int, job: JobSummary, colours: mpl.cm.ScalarMappable) -> None:
    look: dict[str, Any] = {"facecolor": "#eeeeee"}
    text, colour = job.state, "black"
    if job.state == COMPLETED:
        (face,) = colours.to_rgba(np.array([job.duration_s]))
        look, text = {"facecolor": face}, _seconds(job.duration_s)
        luminance = np.dot(face[:3] ** 2.2, (0.2126, 0.7152, 0.0722))
        colour = "black" if luminance > 0.18 else "white"  # where both contrast alike
    elif job.state == FAILED:
        look, text, colour = (figure.HATCHED, f"failed after {_seconds(job.duration_s)}" if job.duration_s else "failed", figure.BAD)
    ax.add_patch(Rectangle((column - 0.49, row - 0.46), 0.98, 0.92, **look))
    ax.text(column, row, text, ha="center", va="center", fontsize=9, color=colour, weight="bold" if job.state == FAILED else "normal")


def _seconds(seconds: float) -> str:
    return f"{seconds:,.0f}" if seconds >= 100 else f"{seconds:.2f}"


# ---- coverage ----


def backfill_coverage(*, recording: Recording) -> figure.Chart:
    """Draw a calendar: a symbol a row, a day a column, present, partial, absent or closed."""
    found = coverage.calendar(recording.tables["days"])
    rows, days = found.states.shape
    lacking = {str(row): int((found.states[row] > list(STATE_COLOURS).index("present")).sum()) for row in range(rows)}
    shown = [int(row) for row in figure.choose(lacking, MOST_SYMBOLS, float)[0]]
    left = [symbol for row, symbol in enumerate(found.symbols) if row not in shown]
    caption = figure.Caption("Which days of the history are there?", recording.context, rows, "symbols", left_out=left)
    if not rows:
        return caption.empty("what each day holds was not recorded")
    width = -(-days // MOST_COLUMNS)  # days in a column: of several the worst is shown
    padded = np.pad(found.states[shown], ((0, 0), (0, -days % width)))
    rows = len(shown)
    worst = padded.reshape(rows, -1, width).max(axis=2)
    with caption.drawing(height=1.3 + max(0.22 * rows, 0.5)) as (chart, (ax,)):
        colours = mpl.colors.ListedColormap(list(STATE_COLOURS.values()))
        edges = (found.first - coverage.DAY0).days + np.arange(worst.shape[1] + 1) * width  # as matplotlib counts days
        ax.pcolormesh(edges, np.arange(rows + 1), worst, cmap=colours, vmin=0, vmax=len(STATE_COLOURS) - 1)
        for number, (state, colour) in enumerate(STATE_COLOURS.items()):
            ax.fill_between([], [], color=colour, label=f"{state}: {(found.states == number).sum():,} days")
        ax.hlines(np.arange(1, rows), edges[0], edges[-1], color="white", linewidth=0.8)
        ax.set_xlim(edges[0], edges[-1])
        ax.set_ylim(rows, 0)
        ax.set_yticks(np.arange(rows) + 0.5, [figure.shorten(found.symbols[row], 12) for row in shown], fontsize=9.5)
        ax.xaxis_date()
        ax.tick_params(axis="y", length=0)
        ax.grid(visible=False)
        share = f"a column is {width} days, the worst of them" if width > 1 else "a column is a day of its market"
        ax.set_xlabel(f"{share}; partial: a timeframe lacks more than {1 - coverage.WHOLE:.0%} of the regular session")
    return chart


# ---- over time, and what a change would buy ----


def backfill_throughput(*, recording: Recording, objectives: Sequence[Objective]) -> figure.Chart:
    """Draw bars stored a second over the run, counted when their page was stored, and below requests sent a second."""
    stored = [span for span in recording.spans if span.stage == "insert"]
    sent, context = [span for span in recording.spans if span.stage == "fetch"], recording.context
    n = sum(span.requests for span in sent)
    caption = figure.Caption("Throughput over time: bars stored, and requests sent for them", context, n)
    if not stored:
        return caption.empty("nothing was stored")
    with caption.drawing(2, 1, height=4.8, sharex=True, height_ratios=(1.6, 1)) as (chart, (ax, below)):
        steps = figure.Steps(context.wall_s, THROUGHPUT_STEPS)
        done_s, sent_s = (
            (np.array(ns, np.float64) - context.began_ns) / 1e9 for ns in ([s.ended_ns for s in stored], [s.began_ns for s in sent])
        )
        steps.draw(ax, done_s, np.array([span.rows for span in stored]), color=figure.PALETTE[0])
        steps.draw(below, sent_s, np.array([span.requests for span in sent]), color=figure.PALETTE[1])
        for one in figure.applying(objectives, ("records_per_s",), "backfill"):
            figure.limit_line(ax, one, 0, steps.longest_s)
        if rate := context.plan.source.rate_per_s:
            below.axhline(rate, color=figure.LIMIT, linestyle=(0, (4, 2)), linewidth=1.4, label=f"rate limit: {rate:g} requests/s")
        ax.set_ylabel("stored\n(bars/s)")
        below.set_ylabel("sent\n(requests/s)")
        for axis in (ax, below):
            axis.set_xlim(-0.005 * steps.longest_s, 1.005 * steps.longest_s)
            axis.set_ylim(0, max(axis.get_ylim()[1], 1))
        below.set_xlabel(f"time since the run began (s), counted in steps of {steps.width_s:g} s")
    return chart


def backfill_what_if(*, recording: Recording, what_if: Sequence[WhatIf], objectives: Sequence[Objective]) -> figure.Chart:
    """Draw the wall time predicted for each change beside the measured one, and how far the replay itself is off."""
    title, context = "What a change would buy: wall time, predicted by replaying the spans", recording.context
    caption = figure.Caption(title, context, len(recording.jobs), "jobs")
    if not what_if:
        return caption.empty("nothing ran that could be replayed")
    with caption.drawing(height=1.4 + 0.34 * len(what_if)) as (chart, (ax,)):
        names = ["no change: the replay itself" if one.change == AS_RECORDED else one.change for one in what_if]
        colours = ["#999999" if one.change == AS_RECORDED else figure.PALETTE[4] for one in what_if]
        ax.barh(range(len(names)), [one.wall_s for one in what_if], 0.7, color=colours)
        _figures(ax, [(row, f"{one.wall_s:,.3g} s ({_change(one)})") for row, one in enumerate(what_if)])
        ax.axvline(context.wall_s, color="black", linewidth=1.4, label=f"measured: {context.wall_s:,.3g} s")
        longest_s = max(context.wall_s, *(one.wall_s for one in what_if))
        for one in figure.applying(objectives, ("duration_s",), "backfill"):
            if one.limit < OBJECTIVE_WITHIN * longest_s:
                figure.limit_line(ax, one, -0.6, len(names) - 0.4, upright=True)
                longest_s = max(longest_s, one.limit)
        ax.set_yticks(range(len(names)), names, fontsize=10)
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.set_xlim(0, 1.05 * longest_s)
        ax.grid(visible=False, axis="y")
        ax.xaxis.set_major_formatter(figure.plain())
        ax.set_xlabel("wall time (s)")
        off = next((one.saving_ratio for one in what_if if one.change == AS_RECORDED), None)
        ax.set_title(
            "" if off is None else f"the replay of what was measured is {abs(off):.1%} off; smaller differences mean nothing", fontsize=10
        )
    return chart


def _change(one: WhatIf) -> str:
    percent = round(-100 * one.saving_ratio)
    return f"{percent:+d}%" if percent else "0%"
