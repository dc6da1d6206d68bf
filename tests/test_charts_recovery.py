"""The charts of a recovery run mark what was seen, draw what is promised, shade what is invalid, and leave every word legible."""

import datetime as dt
import functools
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from legible import illegible
from matplotlib.colors import to_hex
from recoveries import BAD, DEGRADED, FULL, ONCE, PLAN, S, age, ages, bar, crash, hang, probes, recording, steady, trial

from tapecheck import charts
from tapecheck.charts.figure import BAD as RED
from tapecheck.charts.figure import PALETTE, Chart
from tapecheck.recovery import analysis
from tapecheck.recovery.recording import INVALID, Recording
from tapecheck.recovery.timeline import PastTrial, Seen
from tapecheck.recovery.validation import history

SYMBOLS = ("SPY", "QQQ", "BTC", "ETH", "AAPL", "MSFT", "GOOGL", "AMZN", "TSLA", "BRK.B", "JPM", "V", "WMT", "EEM", "ADA")
NAMES = {
    "api_frozen": "api_crash", "api_killed": "api_crash", "database_frozen": "database_loss", "database_killed": "database_loss",
    "database_connections_terminated": "database_loss", "feature_failure": "feature_failure", "scheduler_frozen": "scheduler_crash",
    "scheduler_killed": "scheduler_crash", "upstream_rate_limited": "upstream_rate_limit",
    "upstream_rate_limited_with_retry_after": "upstream_rate_limit", "database_restored_from_dump": "database_destroyed",
    "partition_api_database_black_hole": "network_partition",
}  # fmt: skip


def fallback() -> Seen:
    """Bad for half a second, degraded for two more."""
    return probes([(at, at + 0.002, BAD if 1 <= at < 1.5 else DEGRADED if 1.5 <= at < 3.5 else FULL) for at in steady(6)])


def everything() -> Recording:
    """Every drill that is shipped, an audit, and bars."""
    rows = [
        (
            trial(name, failure=failure, released_ns=3 * S if "frozen" in name else None),
            {"service": hang(1, 3) if "frozen" in name else crash(1, 2.5), "scheduler": fallback(), "health": crash(1, 2, serves=False)},
        )
        for name, failure in NAMES.items()
    ]
    bars = [bar(symbol, 5 * n) for symbol in SYMBOLS for n in range(100)]
    said = [age(symbol, frame, reported_s=60.0 * (i + 1)) for i, symbol in enumerate(SYMBOLS) for frame in ("5m", "1d")]
    return recording(rows, audit=ages(*said), bars=bars)


DAYS = [
    PastTrial(at=dt.datetime(2025, 12, day, 12, tzinfo=dt.UTC), failure=failure, recover_s=1.0 + i / 3)
    for day in (28, 29, 30)
    for i, failure in enumerate(ONCE.rto)
]
CASES: Mapping[str, Callable[[], Recording]] = {
    "everything": everything,
    "nothing": recording,
    "one invalid, one lost": lambda: recording(
        [(trial("api_killed"), {"service": crash(1, 99)}), (trial("database_killed", state=INVALID, reason="x"), {"service": crash(1, 2)})],
        bars=[bar("SPY", 0, "lost"), bar("SPY", 5), bar("AAPL", 0, "never_read"), bar("EEM", 0, "unknown"), bar("EEM", 5)],
        audit=ages(age("SPY", reported_s=None), age("AAPL", reported_s=1e6), age("EEM", reported_s=5 * 3600.0)),
    ),
    "data of the future": lambda: recording(
        audit=ages(
            *(age(symbol, reported_s=said_s) for symbol, said_s in zip(SYMBOLS, (-7200.0, -1e9, -1.0, -0.0, 1e-9, 1e300), strict=False))
        )
    ),
    "200 symbols": lambda: recording(audit=ages(*(age(f"SYMBOL{i:03d}", reported_s=60.0 * i) for i in range(200)))),
    "five trials each": lambda: recording(
        [(trial(name, n), {"service": crash(1, 1.5 + n / 2)}) for name in ("api_killed", "database_killed") for n in range(1, 6)]
    ),
}


@functools.cache
def built(name: str) -> Recording:
    return CASES[name]()


@functools.cache
def draw(name: str, chart: str) -> Chart:
    found = built(name)
    plan = PLAN if name == "five trials each" else ONCE
    past = history(found, plan, "") + (DAYS if name == "everything" else [])
    summary = analysis.summarize(found, plan)
    return {
        "timeline": lambda: charts.recovery_timeline(recording=found, summary=summary, plan=plan),
        "rto": lambda: charts.recovery_rto(recording=found, summary=summary),
        "ages": lambda: charts.recovery_ages(recording=found, summary=summary, plan=plan),
        "loss": lambda: charts.recovery_loss(recording=found, summary=summary),
        "trend": lambda: charts.recovery_trend(recording=found, past=past),
    }[chart]()


CHARTS = ("timeline", "rto", "ages", "loss", "trend")
AWKWARD = [
    *((name, chart) for name in ("everything", "nothing") for chart in CHARTS),
    *(("one invalid, one lost", chart) for chart in ("timeline", "rto", "ages", "loss")),
    ("data of the future", "ages"),
    ("200 symbols", "ages"),
    ("five trials each", "timeline"),
]


@pytest.mark.parametrize(("name", "chart"), AWKWARD)
def test_every_word_can_be_read(name: str, chart: str) -> None:
    """No title, label, name or figure covers another or leaves the picture."""
    assert illegible(draw(name, chart)) == ([], [])
    assert draw(name, chart).get_figheight() * 110 <= 1600


def test_nothing_is_drawn_before_the_fault_that_caused_it() -> None:
    """A request that was on its way when the fault began and failed says nothing of the time before."""
    on_its_way = probes([(at, at + 0.3, BAD if 0.8 <= at < 2 else FULL) for at in steady(4)])
    summary = analysis.summarize(found := recording([(trial("api_killed"), {"service": on_its_way})]), ONCE)
    (ax,) = charts.recovery_timeline(recording=found, summary=summary, plan=ONCE).axes
    outage = [one for one in ax.collections if len(one.get_facecolor()) and to_hex(one.get_facecolor()[0]).upper() == PALETTE[3]]
    begins = [path.get_extents().x0 for one in outage for path in one.get_paths() if path.vertices.size]
    assert begins and min(begins) >= 0


def test_nothing_to_draw_says_why() -> None:
    """An empty chart is a sentence."""
    assert all([text for text in draw("nothing", chart).axes[0].texts if text.get_text()] for chart in CHARTS)


def test_an_age_before_the_present_points_out_of_the_picture() -> None:
    """It is no age of its class: those that clocks explain are dots, the others point to the left."""
    (ax,) = draw("data of the future", "ages").axes
    markers = [line.get_marker() for line in ax.lines if len(line.get_xdata()) == 1]
    assert markers.count("<") == 2 and {*markers} == {"<", "o"}
    assert all(ax.get_xlim()[0] < line.get_xdata()[0] < ax.get_xlim()[1] for line in ax.lines if len(line.get_xdata()) == 1)


def test_a_timeline_is_red_as_long_as_nobody_was_served() -> None:
    """The band of a hang ends with it, and its marker stands at its end."""
    made = recording([(trial("api_frozen", failure="api_crash"), {"service": hang(1.0, 3.0)})])
    (ax,) = charts.recovery_timeline(recording=made, summary=analysis.summarize(made, ONCE), plan=ONCE).axes
    bands = [band for band in ax.collections if len(band.get_facecolor())]
    red = [box for band in bands for box in band.get_paths() if to_hex(band.get_facecolor()[0]) == RED.lower()]
    edges = np.concatenate([box.vertices[:, 0] for box in red])
    assert (edges.min(), edges.max()) == (pytest.approx(0.0, abs=0.05), pytest.approx(2.0, abs=0.06))
    (back,) = [line for line in ax.lines if line.get_label() == "full recovery"]
    assert back.get_xdata()[0] == pytest.approx(2.0, abs=0.01)


def test_every_failure_has_its_objective_and_its_trials() -> None:
    """The thick line stands where the plan says, dots where trials were; the feature failure by its own clock."""
    (ax,) = draw("everything", "rto").axes
    marks = [line for line in ax.lines if str(line.get_label()).startswith("objective")]
    assert [mark.get_xdata()[0] for mark in marks] == [one.objective_s for one in ONCE.rto.values()]
    dots = [line for line in ax.lines if line.get_label() == "a trial"]
    assert [len(dot.get_xdata()) for dot in dots] == [2, 2, 3, 1, 1, 1, 2]


def test_what_proves_nothing_yet_is_marked() -> None:
    """An endless recovery points to the right, an invalid trial is hatched, five trials have their bound."""
    labels = {str(line.get_label()) for line in draw("one invalid, one lost", "rto").axes[0].lines}
    assert "not recovered when the watch ended" in labels
    assert [p.get_hatch() for p in draw("one invalid, one lost", "rto").axes[0].patches] == ["//"]
    bounds = [line for line in draw("five trials each", "rto").axes[0].lines if str(line.get_label()).startswith("95 %")]
    assert [line.get_xdata()[0] for line in bounds] == [pytest.approx(3.0, abs=0.06)] * 2


def test_lost_bars_are_red_and_counted() -> None:
    """Of the critical tier one of two is lost: half of its bar, and five minutes where none are allowed."""
    (ax,) = draw("one invalid, one lost", "loss").axes
    red = [box for box in ax.patches if to_hex(box.get_facecolor()) == RED.lower() and box.get_width()]
    assert [box.get_width() for box in red] == [1]
    assert "1 lost: 5 min of 0 allowed" in [text.get_text() for text in ax.texts]


def test_each_symbol_stands_in_its_class_beside_what_its_tier_allows() -> None:
    """Five hours are aging; what never was there stands beyond a day, with another marker."""
    (ax,) = draw("one invalid, one lost", "ages").axes
    names = [label.get_text() for label in ax.get_yticklabels()]
    dots = [line for line in ax.lines if line.get_marker() in ("o", "X")]
    at = {name: (line.get_xdata()[0], line.get_marker()) for name, line in zip(names, dots, strict=True)}
    assert at["EEM (low)"] == (5 * 3600.0, "o")
    assert at["SPY (critical)"][0] > 86400 and at["SPY (critical)"][1] == "X"
    allowed = [line.get_xdata()[0] for line in ax.lines if str(line.get_label()).startswith("oldest")]
    assert allowed == [tier.max_age_s for tier in ONCE.rpo.values()]
