"""The tables of the backfill notebook where the golden one, whose run is small and whole, shows no row: failed jobs, integrity."""

import dataclasses
import datetime as dt

import pandas as pd
import pytest
from backfills import SYMBOLS, analysed, recording, refill

from tapecheck.backfill import frames
from tapecheck.backfill.integrity import Defect, Integrity, SharedGap
from tapecheck.backfill.plan import BackfillPlan

FOUND = refill(SYMBOLS[:4], failed=("AAPL 15m",), skipped=("GOOGL 4h",), objectives=["job_success_ratio >= 1", "duration_s < 90"])
SUMMARY = analysed(FOUND).summary
PLAN = {"symbols": ["AAPL", "BTC"], "timeframes": ["5m", "1d"], "history": {"days": 30}}


def cells(frame: pd.DataFrame) -> str:
    return frame.reset_index().to_csv(index=False)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ["2: AAPL BTC", "2: 5m 1d", "30 days before today", "5 jobs, 3 requests", "fetched each", "vectorized", "copy", "fresh"]),
        ({"history": {"days": 30, "end": dt.date(2026, 3, 1)}}, ["30 days before 2026-03-01"]),
        ({"history": {"start": dt.date(2026, 1, 1), "end": dt.date(2026, 3, 1)}}, ["2026-01-01 to 2026-03-01, without that day"]),
        ({"source": {"requests_per_minute": 5, "burst": 10}, "derive": True}, ["5 a minute, 10 at once", "derived from 5-minute bars"]),
    ],
)
def test_the_plan_is_echoed_without_dates_that_change(changes: dict[str, object], said: list[str]) -> None:
    """What counts back from today says so, so that the echo is the same tomorrow."""
    shown = cells(frames.plan(BackfillPlan.model_validate(PLAN | changes)))
    assert all(text in shown for text in said), shown


def test_the_slowest_jobs_come_first_and_the_failed_with_their_error() -> None:
    """A skipped job ran not at all; a failed one is among the slow, and in a table of its own."""
    shown = frames.slowest_jobs(SUMMARY, most=19)
    assert list(shown.index[:4]) == [f"{symbol} 5m" for symbol in SYMBOLS[:4]] and len(shown) == 19 and "GOOGL 4h" not in shown.index
    assert len(frames.slowest_jobs(SUMMARY)) == 10
    assert frames.failed(SUMMARY).to_dict("index") == {"AAPL 15m": {"error": "AAPL: HTTP 404: Ticker not found.", "bars stored": "0"}}
    assert list(frames.failed(analysed(refill(SYMBOLS[:1])).summary).index) == ["none failed"]
    assert frames.slowest(analysed(recording([], jobs=[])).summary).empty


def test_what_a_change_buys_is_signed() -> None:
    """The first row is the replay itself."""
    predicted = analysed(FOUND).summary.what_if
    shown = frames.what_if(predicted)
    assert shown.index[0] == "none: how far off the replay is" and list(shown.index[1:]) == [one.change for one in predicted[1:]]
    assert list(shown["wall time changes by"]) == [f"{-one.saving_ratio:+.1%}" for one in predicted], "with the sign of the chart"
    assert list(frames.what_if([]).index) == ["nothing ran that could be replayed"]


WHOLE = Integrity(
    series=3, expected=100, present=90, no_trade=5, upstream_gaps=3, lost=2, vanished=4, duplicates=1, checksum="c0ffee",
    findings=(
        Defect(symbol="AAPL", timeframe="5m", kind="lost", bars=2, first_ms=1_767_312_000_000),
        Defect(symbol="BTC", timeframe="1h", kind="upstream_gap", bars=2, first_ms=1_767_312_000_000),
        Defect(symbol="SPY", timeframe="1h", kind="upstream_gap", bars=1, first_ms=1_767_225_600_000),
        Defect(symbol="SPY", timeframe="1h", kind="vanished", bars=4, first_ms=None),
    ),
    shared_slots=3,
    shared_gaps=(SharedGap(timeframe="5m", t_ms=1_767_312_000_000, symbols=("AAPL", "SPY", "QQQ")),),
)  # fmt: skip


def test_integrity_shows_every_class_and_kind() -> None:
    """Each class with its bars, each kind of finding with how many series have it and the first of them, and the checksum."""
    shown = frames.integrity(WHOLE)
    counts = {what: bars for what, bars in shown.bars.items() if bars}
    assert counts == {
        "expected": "100", "present": "90", "absent: no trade": "5", "absent: upstream gap": "3", "absent: lost by us": "2",
        "vanished since an earlier run": "4", "duplicates": "1", "found: lost": "2", "found: upstream gap": "3", "found: vanished": "4",
        "outside the plan's sessions": "0",
        "found: slots that several symbols lack": "3",
    }  # fmt: skip
    assert shown.loc["found: upstream gap", "where"] == "2 series, first SPY 1h 2026-01-01T00:00:00Z"
    assert shown.loc["found: slots that several symbols lack", "where"] == "first 5m 2026-01-02T00:00:00Z AAPL, SPY, QQQ"
    assert shown.loc["found: vanished", "where"] == "1 series"
    assert shown.loc["checksum of all that is stored", "where"] == "c0ffee"
    assert list(frames.integrity(dataclasses.replace(WHOLE, findings=(), shared_gaps=())).index)[-2:] == [
        "outside the plan's sessions", "checksum of all that is stored",
    ]  # fmt: skip
    assert "not audited" in cells(frames.integrity(None))
