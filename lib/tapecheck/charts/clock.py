"""The figures of a load run over time: each request, what was answered each second, and what the target's processes used."""

import math
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from tapecheck.charts import figure
from tapecheck.load import samples
from tapecheck.load.analysis import ScenarioSummary
from tapecheck.load.capacity import CapacityResult
from tapecheck.load.recording import Recording
from tapecheck.load.samples import Mask, Numbers, Rows
from tapecheck.resources import MACHINE, OTHERS
from tapecheck.verdict import Objective, Verdict

Summary = Mapping[str, ScenarioSummary]
TIMELINES_A_ROW, MOST_TIMELINES = 6, 18
MOST_SPANS = 36  # rows of what ran when


def _clock(recording: Recording) -> float:
    return float(recording.samples.column("intended_ns").to_numpy().min()) if recording.samples.num_rows else 0.0


def _spans(recording: Recording, summary: Summary, capacity: CapacityResult | None, start_ns: float) -> list[figure.TimeSpan]:
    """Return when each scenario ran; a sweep counts as one, of which some levels may be invalid.

    Of a level that was measured again, `capacity` has the attempt that counts.
    """
    levels = list(recording.context.rates_rps)
    groups = {name: [name] for name in summary} | ({levels[0].partition(" at ")[0]: levels} if levels else {})
    counted = {one.scenario for one in capacity.levels if one.verdict != Verdict.INVALID} if capacity else set(levels)
    invalid = {name for name, one in summary.items() if one.invalid is not None} | (set(levels) - counted)
    spans = []
    for name, members in groups.items():
        found = [(member, samples.counted(recording.samples, member)) for member in members]
        reaches = {member: _reach_s(part, start_ns) for member, part in found if len(part)}
        if reaches:
            whole = min(first for first, _ in reaches.values()), max(last for _, last in reaches.values())
            bad = tuple(reach for member, reach in reaches.items() if member in invalid)
            invalid_s = bad if len(bad) < len(reaches) else (whole,)
            spans.append(figure.TimeSpan(name=name, first_s=whole[0], last_s=whole[1], invalid_s=invalid_s))
    return spans if len(spans) <= MOST_SPANS else [*spans[:MOST_SPANS], _others(spans[MOST_SPANS:])]


def _others(spans: Sequence[figure.TimeSpan]) -> figure.TimeSpan:
    """Return one row for several, of which what is invalid stays hatched."""
    invalid_s = tuple(stretch for span in spans for stretch in span.invalid_s)
    name, last_s = f"{len(spans)} others", max(span.last_s for span in spans)
    return figure.TimeSpan(name=name, first_s=min(span.first_s for span in spans), last_s=last_s, invalid_s=invalid_s)


def _reach_s(part: Rows, start_ns: float) -> tuple[float, float]:
    """Return the first intended start and the last completion."""
    return float(part.numbers("intended_ns").min() - start_ns) / 1e9, float(part.numbers("done_ns").max() - start_ns) / 1e9


def load_throughput(
    *, recording: Recording, summary: Summary, capacity: CapacityResult | None, objectives: Sequence[Objective]
) -> figure.Chart:
    """Draw answers and failures per second over the whole run, counted at their completion."""
    part = samples.measured(recording.samples)
    caption = figure.Caption("Throughput and errors over time", recording.context, sum(one.requests for one in summary.values()))
    if not recording.samples.num_rows:
        return caption.empty(recording.without_samples)
    start = _clock(recording)
    spans = _spans(recording, summary, capacity, start)
    with caption.on_clock(spans, (2.4, 1.4)) as (chart, (ax, below)):
        done_s, failed = (part.numbers("done_ns") - start) / 1e9, part.failed()
        steps = figure.Steps(done_s.max(initial=0.0))
        for axis, chosen, colour, label in ((ax, ~failed, figure.PALETTE[0], "succeeded"), (below, failed, figure.BAD, "failed")):
            steps.draw(axis, done_s[chosen], color=colour)
            axis.set_ylabel(f"{label}\n(requests/s)")
        for span in spans:
            for one in figure.applying(objectives, ("throughput_rps",), span.name) if span.name in summary else ():
                figure.limit_line(ax, one, span.first_s, span.last_s)
        ax.set_ylim(0, max(ax.get_ylim()[1], 1))
        below.set_ylim(0, max(below.get_ylim()[1], 1))
        if not failed.any():
            below.set_yticks([0])
            figure.note(below, "no failed requests")
        below.set_xlabel(f"time since the first request (s), counted in steps of {steps.width_s:g} s")
    return chart


def load_resources(*, recording: Recording, summary: Summary, capacity: CapacityResult | None) -> figure.Chart:
    """Draw CPU and memory of the watched processes on the clock of the requests."""
    frame = recording.resources.to_pandas()
    frame = frame[frame.process != MACHINE]
    n = len(samples.measured(recording.samples))
    caption = figure.Caption("CPU and memory of the target's processes", recording.context, n)
    if frame.empty:
        return caption.empty("the target file names no local process, or none could be seen")
    start = _clock(recording)
    with caption.on_clock(_spans(recording, summary, capacity, start), (1.9, 1.9)) as (chart, (ax, below)):
        for i, (name, part) in enumerate(frame.groupby("process", observed=True)):
            seconds = (part.time_ns - start) / 1e9
            ax.plot(seconds, part.cpu_ratio, label="other processes" if name == OTHERS else str(name), **figure.nth(i))
            below.plot(seconds, part.rss_mb, **figure.nth(i))
        ax.set_ylabel("CPU (busy cores)")
        below.set_ylabel("resident memory (MB)")
        below.set_xlabel("time since the first request (s)")
        for axis in (ax, below):
            axis.set_ylim(bottom=0)
            axis.yaxis.set_major_formatter(figure.plain())
    return chart


def load_timeline(*, recording: Recording, summary: Summary, objectives: Sequence[Objective]) -> figure.Chart:
    """Draw every response time at its intended start, scenarios side by side, failures marked."""
    n = sum(scenario.requests for scenario in summary.values())
    summary, left = figure.choose(summary, MOST_TIMELINES, lambda one: one.severity)
    caption = figure.Caption("Response time of every request over the run", recording.context, n, left_out=left)
    if not n or not recording.samples.num_rows:
        return caption.empty(recording.without_samples)
    lines = math.ceil(len(summary) / TIMELINES_A_ROW)
    columns = math.ceil(len(summary) / lines)
    with caption.drawing(lines, columns, height=1.1 + 3.3 * lines, sharey=True) as (chart, axes):
        for ax, (name, scenario) in zip(axes, summary.items(), strict=False):
            _course(ax, samples.counted(recording.samples, name), figure.applying(objectives, ("p95_ms",), name))
            if scenario.invalid:
                figure.shade_invalid(ax)
            mark = figure.marked(scenario)
            ax.set_title(_broken(name, figure.WIDTH_PT / columns) + (f"\n({mark})" if mark else ""), fontsize=10.5)
        figure.log_axis(axes[0], "y")
        for ax in axes[::columns]:
            ax.set_ylabel("response time (ms)")
        for ax in axes[len(summary) :]:
            ax.remove()

    return chart


def _course(ax: Axes, part: Rows, objectives: Sequence[Objective]) -> None:
    """Draw one scenario: of those that succeeded, the extremes of every stretch of time; of those that failed, each."""
    if not len(part):
        figure.note(ax, "no requests")
        return
    failed = part.failed()
    ax.plot(*_points(part, ~failed, thinned=True), ".", color=figure.PALETTE[0], markersize=3, alpha=0.5, label="succeeded")
    if failed.any():
        ax.plot(*_points(part, failed, thinned=False), "x", color=figure.BAD, markersize=5, label="failed")
    end_s = max(float(np.ptp(part.numbers("intended_ns"))) / 1e9, 0.01)
    for one in objectives:
        figure.limit_line(ax, one, -0.05 * end_s, 1.05 * end_s)
    ax.set_xlim(-0.05 * end_s, 1.05 * end_s)
    ax.xaxis.set_major_locator(MaxNLocator(3))
    ax.tick_params(axis="x", labelsize=9)
    ax.set_xlabel("intended start (s)", fontsize=9.5)


def _points(part: Rows, chosen: Mask, *, thinned: bool) -> tuple[Numbers, Numbers]:
    """Return intended start (s, since the first) and response time (ms) of the chosen samples."""
    response_ms = part.response_ms()[chosen]
    intended_ns = part.numbers("intended_ns")
    at_ns, ms = figure.thin(intended_ns[chosen], response_ms) if thinned else (intended_ns[chosen], response_ms)
    return np.asarray((at_ns - intended_ns.min()) / 1e9, dtype=np.float64), ms


def _broken(name: str, room_pt: float) -> str:
    """Break a name after its underscores into lines of a panel's width, at most three."""
    wide = max(8, int(room_pt / 8.5))
    lines = textwrap.wrap(figure.shorten(name, 3 * wide - 12).replace("_", "_ "), wide)
    return "\n".join(line.replace("_ ", "_") for line in lines)
