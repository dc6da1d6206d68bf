"""Charts hide nothing that matters, draw each promise where it holds, and leave every word legible."""

import dataclasses
import functools
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import samples
from charted import CASES, Case, case, times_ms
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from legible import illegible, promises
from matplotlib.axes import Axes
from matplotlib.patches import StepPatch

from tapecheck.charts.figure import Chart, shorten, thin
from tapecheck.load.engine.recorder import ErrorKind

VALUES = nps.arrays(np.float64, st.integers(1, 300), elements=st.floats(-1e6, 1e6))


@settings(max_examples=40)
@given(y=VALUES, points=st.integers(2, 40), mixed=st.booleans())
def test_thinning_keeps_the_extremes_of_every_stretch(y: np.ndarray, points: int, mixed: bool) -> None:
    """At most so many points, in order, each one of the samples, and of every stretch of x the smallest and the largest y."""
    x = np.arange(len(y), dtype=np.float64)
    if mixed:
        order = np.random.default_rng(0).permutation(len(y))
        x, y = x[order], y[order]
    at, kept = thin(x, y, points)
    assert set(zip(at, kept, strict=True)) <= set(zip(x, y, strict=True))
    if len(x) <= points:
        assert len(at) == len(x)
        return
    assert len(at) <= points
    assert (np.diff(at) > 0).all()
    in_order = y[np.argsort(x)]
    edges = np.linspace(0, len(x), points // 2 + 1).astype(int)
    for a, b in itertools.pairwise(edges):
        part = kept[(at >= a) & (at < b)]
        assert (part.min(), part.max()) == (in_order[a:b].min(), in_order[a:b].max())


@functools.cache
def built(name: str) -> Case:
    return CASES[name]()


@functools.cache
def draw(name: str, chart: str) -> Chart:
    return built(name).figures()[chart]()


def test_an_objective_is_drawn_at_its_limit_in_every_scenario_without_a_scope() -> None:
    """Each panel of the timeline has the line at 1,000 ms, and the triangle points down to where values are good."""
    for ax in draw("short bursts beside a long rate", "timeline").axes:
        ((label, line),) = promises(ax).items()
        assert label == "p95_ms < 1000 (good: below)"
        assert set(line.get_ydata()) == {1000}
        assert line.get_marker() == "v"


def test_an_objective_of_one_scenario_is_drawn_in_no_other() -> None:
    """`steady.p95_ms` belongs to the panel of steady, and to its column beside the percentiles."""
    other, steady = draw("objectives of one scenario", "timeline").axes
    assert list(promises(other)) == []
    assert list(promises(steady)) == ["steady.p95_ms < 1000 (good: below)"]
    spectrum, kinds = draw("objectives of one scenario", "percentiles").axes
    assert {label: set(line.get_ydata()) for label, line in promises(spectrum).items()} == {
        "steady.p95_ms < 1000 (good: below)": {1000}, "cached_symbol.p50_ms < 50 (good: below)": {50},
    }  # fmt: skip
    (line,) = promises(kinds).values()
    assert [round(float(x)) for x in line.get_xdata()] == [1, 1, 1], "the column of steady"


def test_a_lower_bound_points_up_and_spans_only_its_scenario() -> None:
    """`steady.throughput_rps > 20` is drawn while steady ran; more is better."""
    ax = draw("objectives of one scenario", "throughput").axes[1]
    ((label, line),) = promises(ax).items()
    assert label == "steady.throughput_rps > 20 (good: above)"
    assert set(line.get_ydata()) == {20}
    assert line.get_marker() == "^"
    intended_ns, done_ns = (built("objectives of one scenario").recording.samples.column(c).to_numpy() for c in ("intended_ns", "done_ns"))
    assert line.get_xdata()[0] == pytest.approx((intended_ns[300] - intended_ns[0]) / 1e9)
    assert line.get_xdata()[-1] == pytest.approx((done_ns.max() - intended_ns[0]) / 1e9)


def steps_of(ax: Axes) -> tuple[np.ndarray, np.ndarray]:
    """Return what an axes counts in each step of the clock, and the instants between which the steps lie."""
    (drawn,) = [patch for patch in ax.patches if isinstance(patch, StepPatch)]
    return drawn.get_data().values, drawn.get_data().edges


def test_throughput_counts_a_request_when_it_ends() -> None:
    """60 requests are meant to start within the first second and end in the sixth, 20 of them failed: nothing is counted before."""
    rows = samples.burst([5000] * 60, failed=dict.fromkeys(range(0, 60, 3), ErrorKind.status))
    for column in ("intended_ns", "sent_ns", "first_byte_ns", "done_ns"):
        rows[column] += np.linspace(0, 0.9e9, 60).astype(np.int64)
    for ax, count in zip(case({"steady": rows}).figures()["throughput"]().axes[1:], (40, 20), strict=True):
        rps, edges = steps_of(ax)
        assert (rps * np.diff(edges)).sum() == pytest.approx(count)
        assert not rps[edges[1:] <= 5].any()


def test_cpu_and_memory_are_drawn_each_in_its_panel() -> None:
    """Each line is what the table has of its process: busy cores above, resident memory below, on the clock of the requests."""
    one = built("one scenario")
    late = dataclasses.replace(
        one.recording, tables={**one.recording.tables, "resources": one.recording.resources.slice(2)}
    )  # the watch began after the first request
    figure = dataclasses.replace(one, recording=late).figures()["resources"]()
    start_ns = late.samples.column("intended_ns").to_numpy().min()
    for ax, column, label in zip(figure.axes[1:], ("cpu_ratio", "rss_mb"), ("CPU (busy cores)", "resident memory (MB)"), strict=True):
        assert ax.get_ylabel() == label
        for line, (process, table) in zip(ax.lines, late.resources.to_pandas().groupby("process", observed=True), strict=True):
            assert line.get_color() == next(above.get_color() for above in figure.axes[1].lines if above.get_label() == process)
            assert line.get_ydata() == pytest.approx(table[column].to_numpy())
            assert line.get_xdata() == pytest.approx((table.time_ns.to_numpy() - start_ns) / 1e9)


def test_percentiles_are_of_response_times_and_each_kind_stands_in_its_column() -> None:
    """Of requests that were sent 500 ms late, the curve is what they took with that, and the points are the p95 of each kind."""
    rows = samples.burst(600 + times_ms(300), per_round=100)
    rows["sent_ns"] += 500_000_000
    late = case({"steady": rows}, watched=False)
    spectrum, kinds = late.figures()["percentiles"]().axes
    (curve,) = [line for line in spectrum.lines if str(line.get_label()).startswith("steady")]
    response_ms = np.sort((rows["done_ns"] - rows["intended_ns"]) / 1e6)
    assert curve.get_ydata() == pytest.approx(np.quantile(response_ms, 1 - 1 / curve.get_xdata()))
    told = late.everything["steady"]
    p95_ms = {line.get_label(): line.get_ydata() for line in kinds.lines if str(line.get_label()).endswith("time p95")}
    assert p95_ms == {
        "response time p95": [told.response_time_ms.p95.value], "service time p95": [told.service_time_ms.p95.value],
        "server time p95": [told.server_time_ms.p95.value],
    }  # fmt: skip
    assert told.response_time_ms.p95.value - told.service_time_ms.p95.value == pytest.approx(500)


def test_the_knee_is_judged_by_objectives_of_all_scenarios_only() -> None:
    """A level of a sweep has no scope, so that a promise of one scenario is no line of the capacity chart."""
    assert list(promises(draw("a sweep whose generator gave up", "capacity").axes[0])) == ["p95_ms < 1000 (good: below)"]


def test_the_timeline_shows_the_slowest_and_each_failed_request() -> None:
    """Of 12,000 requests 5,000 failed, more than the points of a panel: all of these are drawn, and the one that took longest."""
    failed = sorted(np.random.default_rng(0).choice(12_000, 5_000, replace=False).tolist())
    slow = next(i for i in range(7_000, 12_000) if i not in set(failed))
    response_ms = times_ms(12_000)
    response_ms[slow] = 9_000
    rows = samples.burst(response_ms, per_round=1, failed=dict.fromkeys(failed, ErrorKind.status))
    (ax,) = case({"steady": rows}, watched=False).figures()["timeline"]().axes
    good, bad = (next(line for line in ax.lines if line.get_label() == label) for label in ("succeeded", "failed"))
    assert len(good.get_ydata()) <= 4_000
    assert good.get_ydata().max() == pytest.approx(9_000)
    assert sorted(bad.get_xdata()) == pytest.approx(sorted((rows["intended_ns"][failed] - samples.START_NS) / 1e9))


def test_what_is_invalid_is_shaded_and_nothing_else() -> None:
    """Its panel, its column and its stretch of the clock are hatched."""
    assert [ax.patch.get_hatch() for ax in draw("an invalid scenario", "timeline").axes] == [None, "//", None]
    for chart, hatched in (("percentiles", [0, 1]), ("throughput", [0, 1, 1]), ("resources", [0, 1, 1])):
        figure = draw("an invalid scenario", chart)
        assert [sum(patch.get_hatch() == "//" for patch in ax.patches) for ax in figure.axes] == hatched
    assert not any(patch.get_hatch() for ax in draw("one scenario", "throughput").axes for patch in ax.patches)


def hatched_s(figure: Chart) -> list[list[tuple[float, float]]]:
    """Return for each axes below the names from when to when it is hatched."""
    found = [[patch for patch in ax.patches if patch.get_hatch()] for ax in figure.axes[1:]]
    return [[(patch.get_x(), patch.get_x() + patch.get_width()) for patch in patches] for patches in found]


def ran_s(name: str, scenario: str) -> tuple[float, float]:
    """Return from when to when a scenario, or a level of a sweep, ran on the clock of the charts."""
    frame = built(name).recording.samples.to_pandas()
    part, start_ns = frame[frame.scenario == scenario], frame.intended_ns.min()
    return (part.intended_ns.min() - start_ns) / 1e9, (part.done_ns.max() - start_ns) / 1e9


HIGH = [f"capacity at {rate}/s" for rate in (1600, 2263, 2691, 2934, 3200, 3805)]


@pytest.mark.parametrize(
    ("name", "chart", "levels", "title"),
    [
        ("a sweep whose generator gave up", "throughput", HIGH, "capacity (INVALID in part)"),
        ("a sweep whose generator gave up", "resources", HIGH, "capacity (INVALID in part)"),
        ("a sweep of which a level was measured again", "throughput", ["capacity at 400/s"], "capacity (INVALID in part)"),
        ("a sweep that was never valid", "throughput", None, "capacity (INVALID)"),
    ],
)
def test_on_the_clock_the_invalid_levels_of_a_sweep_are_hatched(name: str, chart: str, levels: list[str] | None, title: str) -> None:
    """Each for as long as it ran, one that was measured again too, and no valid one; name and legend say so."""
    figure = draw(name, chart)
    whole = ran_s(name, "capacity at 100/s")[0], ran_s(name, "capacity at 3805/s")[1]
    expected = [pytest.approx(whole)] if levels is None else [pytest.approx(ran_s(name, level)) for level in levels]
    assert hatched_s(figure) == [expected, expected]
    assert title in [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert any(text.get_text().startswith("invalid: ") for text in figure.legends[0].get_texts())


def test_a_sweep_says_where_the_generator_gave_up_and_why() -> None:
    """The band begins at the first invalid rate, and the legend gives the reason; levels stay visible."""
    figure = draw("a sweep whose generator gave up", "capacity")
    (band,) = [patch for patch in figure.axes[0].patches if patch.get_hatch()]
    assert 1600 / 1.1 < band.get_x() < 1600
    assert band.get_label() == "invalid: the generator used 99% of its core (limit 90%)"
    assert band.get_label() in [text.get_text() for text in figure.legends[0].get_texts()]
    assert any(line.get_label() == "level: invalid" for line in figure.axes[0].lines)


ILLEGIBLE = [
    *(("eight long names", chart) for chart in ("percentiles", "timeline", "throughput", "resources")),
    *(("short bursts beside a long rate", chart) for chart in ("timeline", "throughput")),
    *(("nothing but failures", chart) for chart in ("percentiles", "dimensions", "capacity")),
    *(("no requests", chart) for chart in ("percentiles", "timeline", "throughput", "resources")),
    ("objectives of one scenario", "percentiles"),
    ("one that failed whole", "timeline"),
    ("a sweep whose generator gave up", "capacity"),
    ("25 symbols", "dimensions"),
    ("nothing watched", "resources"),
    *(("forty scenarios and 200 symbols", chart) for chart in ("percentiles", "timeline", "dimensions", "throughput", "resources")),
]


@pytest.mark.parametrize(("name", "chart"), ILLEGIBLE)
def test_every_word_can_be_read(name: str, chart: str) -> None:
    """No title, label, name or legend covers another or leaves the picture."""
    assert illegible(draw(name, chart)) == ([], [])
    assert draw(name, chart).get_figheight() * 110 <= 1600


def test_a_shortened_name_keeps_its_end() -> None:
    """Names often differ in their last characters only."""
    assert shorten("every_timeframe_of_the_features_07", 20) == "every_timefra…res_07"
    assert shorten("steady", 20) == "steady"


def test_unknown_settings_of_matplotlib_print_nothing(tmp_path: Path) -> None:
    """An unknown setting or backend, a font that is not there, or a home that cannot be written is no output of a notebook."""
    (tmp_path / "matplotlibrc").write_text("nosuch.key: 3\nfont.family: No Such Font\n")
    script = (
        "from tapecheck import charts; charts.load_timeline\n"
        "from tapecheck.charts.figure import begin, style\n"
        "with style(): begin('t')[0].png()"
    )
    environment = {"HOME": "/proc/none", "MATPLOTLIBRC": str(tmp_path / "matplotlibrc"), "PATH": "", "MPLBACKEND": "no-such-backend"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
