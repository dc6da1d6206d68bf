"""The charts of a backfill show every job, mark what failed, draw what is promised, and leave every word legible."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from backfills import SYMBOLS, analysed, recording, refill, span
from legible import illegible, promises
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection, QuadMesh
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from tapecheck import charts
from tapecheck.backfill import coverage
from tapecheck.backfill.analysis import BackfillSummary
from tapecheck.backfill.recording import SKIPPED, Job, Recording
from tapecheck.backfill.validation import backfill
from tapecheck.charts.backfill import COLOURS
from tapecheck.charts.figure import Chart, Steps

HISTORY_DAYS = 500  # more than there are columns


def with_days() -> Recording:
    """Return a run of four symbols whose days are present, then partial, absent and closed, two days each."""
    days = np.arange(20_000, 20_000 + HISTORY_DAYS)
    state = days // 2 % 4
    columns = {name: np.zeros(HISTORY_DAYS) for name in coverage.SCHEMA.names}
    columns |= {
        "day": days,
        "regular": 10 * (state < 3),
        "regular_present": np.select([state == 0, state == 1], [10, 5]),
        "last_ms": state < 2,
    }
    rows = [{**dict(zip(columns, row, strict=True)), "timeframe": "1d"} for row in zip(*columns.values(), strict=True)]
    table = pa.Table.from_pylist([row | {"symbol": symbol} for symbol in SYMBOLS[:4] for row in rows], coverage.SCHEMA)
    found = refill(SYMBOLS[:4])
    return dataclasses.replace(found, tables={**found.tables, "days": table})


DATA = Path(__file__).parent / "data" / "backfill"
CASES: Mapping[str, Callable[[], Recording]] = {
    "125 jobs": lambda: refill(objectives=["duration_s < 30", "records_per_s > 20000"]),
    "failures, skips and a limit": lambda: refill(
        SYMBOLS[:4],
        failed=("AAPL 15m", "MSFT 1h"),
        skipped=("GOOGL 4h",),
        source={"requests_per_minute": 300},
        objectives=["duration_s < 2"],
    ),
    "32 workers": lambda: refill(SYMBOLS[:7], workers=32),
    "derived": lambda: refill(
        SYMBOLS[:3], workers=1, derive=True, failed=tuple(f"MSFT {frame}" for frame in ("5m", "15m", "1h", "4h", "1d"))
    ),
    "200 symbols": lambda: refill(tuple(f"SYMBOL{i:03d}" for i in range(200)), failed=("SYMBOL150 1h",)),
    "nothing to do": lambda: recording([], jobs=[Job(symbol="AAPL", timeframe="1d", state=SKIPPED)], wall_s=0.2),
    "a real run": lambda: backfill.read(DATA),
    "days": with_days,
}


@functools.cache
def built(name: str) -> Recording:
    return CASES[name]()


@functools.cache
def summarized(name: str) -> BackfillSummary:
    return analysed(built(name)).summary


@functools.cache
def draw(name: str, chart: str) -> Chart:
    found = built(name)
    summary, limits = summarized(name), found.context.plan.parsed
    return {
        "stages": lambda: charts.backfill_stages(recording=found, summary=summary),
        "timeline": lambda: charts.backfill_timeline(recording=found),
        "jobs": lambda: charts.backfill_jobs(recording=found, summary=summary),
        "throughput": lambda: charts.backfill_throughput(recording=found, objectives=limits),
        "coverage": lambda: charts.backfill_coverage(recording=found),
        "what_if": lambda: charts.backfill_what_if(recording=found, what_if=summary.what_if, objectives=limits),
    }[chart]()


READ = [
    *(("125 jobs", chart) for chart in ("stages", "timeline", "jobs", "throughput", "what_if")),
    *(("failures, skips and a limit", chart) for chart in ("stages", "timeline", "jobs", "throughput", "what_if")),
    *(("nothing to do", chart) for chart in ("timeline", "what_if")),
    ("32 workers", "timeline"),
    *(("200 symbols", chart) for chart in ("timeline", "jobs")),
    ("days", "coverage"),
    ("a real run", "coverage"),
]


@pytest.mark.parametrize(("name", "chart"), READ)
def test_every_word_can_be_read(name: str, chart: str) -> None:
    """No title, label, name or figure covers another or leaves the picture."""
    assert illegible(draw(name, chart)) == ([], [])
    assert draw(name, chart).get_figheight() * 110 <= 1600


def test_of_many_symbols_those_that_failed_and_the_slowest_are_drawn_and_the_others_counted() -> None:
    """Nothing is left out without a word."""
    chart = draw("200 symbols", "jobs")
    names = [tick.get_text() for tick in chart.axes[0].get_yticklabels()]
    assert len(names) == 45 and "SYMBOL150" in names
    assert "not drawn, but in the table: 155 (" in chart.get_supxlabel()


def test_the_rule_is_drawn_at_60_percent_and_each_share_beside_it() -> None:
    """The line stands where the rule is, and each bar is as long as the share that stands beside it."""
    (ax,) = draw("125 jobs", "stages").axes
    (rule,) = ax.lines
    assert set(rule.get_xdata()) == {0.6} and "60% of busy time" in str(rule.get_label())
    stages = summarized("125 jobs").stages
    busy, wall = ([bar.get_width() for bar in bars] for bars in ax.containers)
    assert busy == [stage.busy_share for stage in stages.values()] and wall == [stage.wall_share for stage in stages.values()]
    assert f"{busy[4]:.1%} (" in ax.texts[4].get_text() and ax.texts[10].get_text() == f"{wall[4]:.1%}"
    assert [label.get_text() for label in ax.get_yticklabels()] == list(stages)


@pytest.mark.parametrize(("share", "said"), [(0.7, "bottleneck: insert"), (0.5, "balanced: no stage is the bottleneck")])
def test_the_stages_say_what_the_rule_found(share: float, said: str) -> None:
    """Above 60 % a bottleneck, else that there is none."""
    found = recording([span("insert", 0, share), span("fetch", share, 1)])
    (ax,) = charts.backfill_stages(recording=found, summary=analysed(found).summary).axes
    assert ax.get_title(loc="left") == said


def rectangles(ax: Axes, stage: str) -> list[tuple[float, float]]:
    """Return begin and end of each rectangle of a stage's colour in a timeline."""
    found = [one for one in ax.collections if isinstance(one, PolyCollection) and to_hex(one.get_facecolor()[0]) == COLOURS[stage].lower()]
    boxes = [path.get_extents() for one in found for path in one.get_paths()]
    return sorted((round(box.x0, 6), round(box.x1, 6)) for box in boxes)


def test_the_timeline_has_every_span_and_job() -> None:
    """Each span is a rectangle of its stage's colour at its time, and each job has a line at its begin."""
    found = built("125 jobs")
    (ax,) = draw("125 jobs", "timeline").axes
    for stage in COLOURS:
        expected = sorted((round(s.began_ns / 1e9, 6), round(s.ended_ns / 1e9, 6)) for s in found.spans if s.stage == stage)
        assert rectangles(ax, stage) == expected and len(expected) >= 125
    (begins,) = [one for one in ax.collections if isinstance(one, LineCollection)]
    assert len(begins.get_segments()) == 125


@pytest.mark.parametrize(("name", "crosses"), [("failures, skips and a limit", 2), ("derived", 1), ("125 jobs", 0)])
def test_a_failed_job_is_marked_in_the_timeline(name: str, crosses: int) -> None:
    """At the end of its last span; a symbol whose series are derived is one job."""
    (ax,) = draw(name, "timeline").axes
    marked = [line for line in ax.lines if line.get_label() == "job failed"]
    assert sum(len(line.get_xdata()) for line in marked) == crosses


def test_a_failed_and_a_skipped_job_are_marked_in_the_map() -> None:
    """Hatched with its word; every other cell has its seconds, on a colour that is darker the longer it took."""
    (ax,) = draw("failures, skips and a limit", "jobs").axes
    cells = {text.get_text(): patch for text, patch in zip(ax.texts, ax.patches, strict=True)}
    words = [text.get_text() for text in ax.texts]
    assert words[:5] == ["2.00", "failed after 0.24", "0.50", "0.40", "0.10"] and words.count("skipped") == 1
    assert [word for word, patch in cells.items() if patch.get_hatch()] == ["failed after 0.24", "failed after 0.15"]
    brightness = [sum(cells[word].get_facecolor()[:3]) for word in ("2.00", "0.80", "0.50", "0.40", "0.10")]
    assert brightness == sorted(brightness) and len(set(brightness)) == 5


def test_numbers_in_the_map_contrast_with_their_cell() -> None:
    """At least 4.5 to 1, the Web's rule for small text."""

    def luminance(colour: str) -> float:
        rgb = np.array([int(to_hex(colour)[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        return float(np.where(rgb <= 0.03928, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722))

    (ax,) = draw("a real run", "jobs").axes
    for text, patch in zip(ax.texts, ax.patches, strict=True):
        assert isinstance(patch, Rectangle)
        light, dark = sorted((luminance(text.get_color()), luminance(patch.get_facecolor())), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, text.get_text()


def test_throughput_counts_every_bar_and_request() -> None:
    """The areas are what was stored and sent; promised speed and rate limit are lines."""
    above, below = draw("failures, skips and a limit", "throughput").axes
    spans = built("failures, skips and a limit").spans
    for ax, total in ((above, sum(s.rows for s in spans)), (below, sum(s.requests for s in spans))):
        (steps,) = ax.patches
        assert total and (steps.get_data().values * np.diff(steps.get_data().edges)).sum() == pytest.approx(total)
    (limit,) = below.lines
    assert (set(limit.get_ydata()), limit.get_label()) == ({5.0}, "rate limit: 5 requests/s")
    assert list(promises(draw("125 jobs", "throughput").axes[0])) == ["records_per_s > 20000 (good: above)"]


def test_every_event_is_in_a_step() -> None:
    """What ends with the run is in the last one, and so is what the clock of another machine puts a little beyond it."""
    chart, (ax,) = charts.figure.begin("x")
    Steps(2.0).draw(ax, np.array([-0.3, 0.0, 2.0, 2.3]), np.array([1, 2, 3, 4]))
    (stairs,) = ax.patches
    assert stairs.get_data().values[[0, -1]] == pytest.approx([3 / 0.1, 7 / 0.1]) and len(stairs.get_data().values) == 21
    assert chart.axes == [ax]


def test_predictions_stand_beside_what_was_measured() -> None:
    """A bar a change, the first the replay itself, whose error is stated; the measured time and the promise are lines."""
    found = built("failures, skips and a limit")
    predicted = summarized("failures, skips and a limit").what_if
    (ax,) = draw("failures, skips and a limit", "what_if").axes
    assert [bar.get_width() for bar in ax.containers[0]] == [one.wall_s for one in predicted]
    assert ax.get_yticklabels()[0].get_text() == "no change: the replay itself"
    assert f"is {abs(predicted[0].saving_ratio):.1%} off" in ax.get_title(loc="left")
    (measured,) = [line for line in ax.lines if str(line.get_label()).startswith("measured: ")]
    assert set(measured.get_xdata()) == {found.context.wall_s}
    ((label, promise),) = promises(ax).items()
    assert (label, set(promise.get_xdata()), promise.get_marker()) == ("duration_s < 2 (good: left)", {2}, "<")


def test_the_calendar_shows_the_worst_day_of_each_column() -> None:
    """No absent day can vanish in a column of two, and the legend counts days."""
    (ax,) = draw("days", "coverage").axes
    (mesh,) = [one for one in ax.collections if isinstance(one, QuadMesh)]
    shown = np.asarray(mesh.get_array())
    assert shown.shape == (4, HISTORY_DAYS // 2)
    assert [coverage.STATES[int(state)] for state in shown[0, :4]] == ["present", "partial", "absent", "closed"]
    labels = [str(handle.get_label()) for handle in ax.get_legend_handles_labels()[0]]
    assert labels == ["closed: 496 days", "present: 504 days", "partial: 504 days", "absent: 496 days"]
    assert [label.get_text() for label in ax.get_yticklabels()] == list(SYMBOLS[:4])
