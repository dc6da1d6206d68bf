"""The figures of a load run on its clock: what was answered each second, and what the target's processes used meanwhile."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.patches import Patch

from tapecheck.charts.figure import (
    BAD,
    LINES,
    PALETTE,
    Chart,
    Span,
    Steps,
    applying,
    empty,
    figure,
    footer,
    invalid_patch,
    legend,
    limit_line,
    mark,
    note,
    plain,
    style,
)
from tapecheck.load import samples
from tapecheck.load.analysis import ScenarioSummary
from tapecheck.load.capacity import CapacityResult
from tapecheck.load.recording import Recording
from tapecheck.load.samples import Rows
from tapecheck.resources import MACHINE, OTHERS
from tapecheck.verdict import Objective, Verdict

Summary = Mapping[str, ScenarioSummary]


def _clock(recording: Recording) -> float:
    return float(recording.samples.column("intended_ns").to_numpy().min()) if recording.samples.num_rows else 0.0


def _spans(recording: Recording, summary: Summary, capacity: CapacityResult | None, start_ns: float) -> list[Span]:
    """Return when each scenario ran; a sweep counts as one, of which some levels may be invalid."""
    levels = list(recording.context.rates_rps)
    groups = {name: [name] for name in summary} | ({levels[0].partition(" at ")[0]: levels} if levels else {})
    invalid = _invalid(summary, levels, capacity)
    spans = []
    for name, members in groups.items():
        found = [(member, samples.counted(recording.samples, member)) for member in members]
        reaches = {member: _reach_s(part, start_ns) for member, part in found if len(part)}
        if reaches:
            whole = min(first for first, _ in reaches.values()), max(last for _, last in reaches.values())
            bad = tuple(reach for member, reach in reaches.items() if member in invalid)
            spans.append(Span(name=name, first_s=whole[0], last_s=whole[1], invalid_s=bad if len(bad) < len(reaches) else (whole,)))
    return spans


def _reach_s(part: Rows, start_ns: float) -> tuple[float, float]:
    """Return the first intended start and the last completion."""
    return float(part.numbers("intended_ns").min() - start_ns) / 1e9, float(part.numbers("done_ns").max() - start_ns) / 1e9


def _invalid(summary: Summary, levels: Sequence[str], capacity: CapacityResult | None) -> set[str]:
    """Return the scenarios and levels that are invalid; of a level that was measured again, `capacity` has the attempt that counts."""
    counted = {one.scenario for one in capacity.levels if one.verdict != Verdict.INVALID} if capacity else set(levels)
    return {name for name, one in summary.items() if one.invalid is not None} | (set(levels) - counted)


def _key(spans: Sequence[Span]) -> list[Patch]:
    return [invalid_patch()] if any(span.invalid_s for span in spans) else []


def load_throughput(*, recording: Recording, summary: Summary, capacity: CapacityResult | None, objectives: Sequence[Objective]) -> Chart:
    """Draw answers and failures per second over the whole run, counted at their completion."""
    title = "Throughput and errors over time"
    if not recording.samples.num_rows:
        return empty(title, recording.without_samples, recording.context, sum(one.requests for one in summary.values()))
    with style():
        chart, (ax, below) = figure(title, 2, 1, height=5.2, sharex=True, height_ratios=(2, 1.2))
        start = _clock(recording)
        part = samples.measured(recording.samples)
        done_s, failed = (part.numbers("done_ns") - start) / 1e9, part.failed()
        steps = Steps(done_s.max(initial=0.0))
        for axis, chosen, colour, label in ((ax, ~failed, PALETTE[0], "succeeded"), (below, failed, BAD, "failed")):
            steps.draw(axis, done_s[chosen], color=colour)
            axis.set_ylabel(f"{label}\n(requests/s)")
        spans = _spans(recording, summary, capacity, start)
        for span in spans:
            for one in applying(objectives, ("throughput_rps",), span.name) if span.name in summary else ():
                limit_line(ax, one, span.first_s, span.last_s)
        mark(chart, (ax, below), spans)
        ax.set_ylim(0, max(ax.get_ylim()[1], 1))
        below.set_ylim(0, max(below.get_ylim()[1], 1))
        if not failed.any():
            below.set_yticks([0])
            note(below, "no failed requests")
        below.set_xlabel(f"time since the first request (s), counted in steps of {steps.width_s:g} s")
        legend(chart, (ax,), *_key(spans))
        footer(chart, recording.context, len(part))
    return chart


def load_resources(*, recording: Recording, summary: Summary, capacity: CapacityResult | None) -> Chart:
    """Draw CPU and memory of the watched processes on the clock of the requests."""
    frame = recording.resources.to_pandas()
    frame = frame[frame.process != MACHINE]
    if frame.empty:
        why = "the target file names no local process, or none could be seen"
        return empty("CPU and memory of the target", why, recording.context, recording.samples.num_rows)
    with style():
        start = _clock(recording)
        chart, (ax, below) = figure("CPU and memory of the target's processes", 2, 1, height=5.2, sharex=True)
        for i, (name, part) in enumerate(frame.groupby("process", observed=True)):
            seconds = (part.time_ns - start) / 1e9
            look: dict[str, Any] = {"color": PALETTE[i % len(PALETTE)], "linestyle": LINES[i % len(LINES)], "linewidth": 1.8}
            ax.plot(seconds, part.cpu_ratio, label="other processes" if name == OTHERS else str(name), **look)
            below.plot(seconds, part.rss_mb, **look)
        ax.set_ylabel("CPU (busy cores)")
        below.set_ylabel("resident memory (MB)")
        below.set_xlabel("time since the first request (s)")
        spans = _spans(recording, summary, capacity, start)
        mark(chart, (ax, below), spans)
        for axis in (ax, below):
            axis.set_ylim(bottom=0)
            axis.yaxis.set_major_formatter(plain())
        legend(chart, (ax,), *_key(spans))
        footer(chart, recording.context, len(samples.measured(recording.samples)))
    return chart
