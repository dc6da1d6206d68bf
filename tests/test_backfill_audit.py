"""What a real run has stored, held against what upstream sent: nothing is wrong until somebody makes it wrong."""

import datetime as dt
import tracemalloc
from typing import Any

import httpx
import psycopg
import pyarrow as pa
import pytest
from backfills import SCHEMA, analysed

from tapecheck.backfill import plan as plans
from tapecheck.backfill import session
from tapecheck.backfill.audit import audit
from tapecheck.backfill.integrity import Integrity
from tapecheck.backfill.plan import BackfillPlan, Endpoints
from tapecheck.backfill.recording import Recording
from tapecheck.backfill.validation import backfill
from tapecheck.vendor.bars import COLUMNS
from tapecheck.verdict import Verdict

BASE: dict[str, Any] = {
    "symbols": ["TSLA", "SOL"],
    "timeframes": ["5m", "1h", "1d"],
    "history": {"start": "2026-03-02", "end": "2026-03-07"},
    "database_schema": SCHEMA,
    "source": {"timeout_s": 30, "retry": {"first_s": 0.02, "cap_s": 0.1, "budget_s": 1}},
}


def plan(**changes: Any) -> BackfillPlan:
    return BackfillPlan.model_validate(BASE | changes)


def audited(recording: Recording) -> Integrity:
    assert recording.context.integrity is not None
    return recording.context.integrity


def kinds(integrity: Integrity) -> dict[str, int]:
    """Return how many bars have each kind of fault, without the gaps that the sandbox's market has by design."""
    return {
        kind: sum(one.bars for one in integrity.findings if one.kind == kind)
        for kind in dict.fromkeys(one.kind for one in integrity.findings)
        if kind != "upstream_gap"
    }


def test_memory_is_that_of_a_stretch_not_of_the_history(
    endpoints: Endpoints, connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A year is audited in less memory than the columns of its bars take, and with the verdict of a year in one piece."""
    peak_bytes = []

    def traced(*given: Any) -> tuple[Integrity, pa.Table]:
        tracemalloc.start()
        try:
            return audit(*given)
        finally:
            peak_bytes.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()

    monkeypatch.setattr(session, "audit", traced)
    year = plan(symbols=["SOL"], timeframes=["5m"], history={"days": 365}, features="off")
    found = audited(session.run(year, endpoints))
    assert found.present > 100_000 and kinds(found) == {}
    assert peak_bytes[0] < found.present * len(COLUMNS) * 8
    monkeypatch.setattr(plans, "STRETCH", dt.timedelta(days=1000))
    assert audited(session.run(year.model_copy(update={"begin": "resume"}), endpoints)) == found
    assert peak_bytes[1] > 2 * peak_bytes[0]


@pytest.mark.parametrize("derive", [False, True], ids=["fetched", "derived"])
def test_a_run_that_nothing_disturbs_loses_nothing(endpoints: Endpoints, connection: psycopg.Connection[Any], derive: bool) -> None:
    """Every expected bar is in one class, none is lost, doubled or wrong; and resuming finds the same without fetching anything."""
    whole = audited(session.run(plan(derive=derive), endpoints))
    assert whole.series == 6 and kinds(whole) == {} and whole.duplicates == 0
    assert 0 < whole.present <= whole.expected == whole.present + whole.no_trade + whole.upstream_gaps
    again = session.run(plan(derive=derive, begin="resume"), endpoints)
    assert not again.spans and audited(again) == whole


@pytest.mark.parametrize("derive", [False, True], ids=["fetched", "derived"])
def test_where_a_stretch_ends_shows_in_no_figure(
    endpoints: Endpoints, connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch, derive: bool
) -> None:
    """Three weeks with a change of daylight saving, by weeks and in one piece; the bars beside a cut are gone, and lost in both."""
    gone = {("5m", "2026-02-27 23:55+00"), ("5m", "2026-02-28 00:00+00"), ("1h", "2026-02-28 00:00+00"), ("1d", "2026-02-27 00:00+00")}

    def deleting(*given: Any) -> tuple[Integrity, pa.Table]:
        for timeframe, time in gone:
            connection.execute(f"DELETE FROM {SCHEMA}.bars WHERE symbol = 'SOL' AND timeframe = '{timeframe}' AND time = '{time}'")
        return audit(*given)

    monkeypatch.setattr(session, "audit", deleting)
    found = []
    for stretch in (dt.timedelta(days=91), dt.timedelta(days=7)):
        monkeypatch.setattr(plans, "STRETCH", stretch)
        history = {"start": "2026-02-23", "end": "2026-03-15"}
        found.append(audited(session.run(plan(derive=derive, history=history, symbols=["TSLA", "SOL", "AAPL"]), endpoints)))
    assert kinds(found[0]) == {"lost": 4} and found[0] == found[1]


def test_a_bar_that_is_gone_is_lost_and_named(
    endpoints: Endpoints, connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bar that upstream sent and that somebody deletes before the audit is lost, with its series and time; the next run counts it too."""
    time = "2026-03-03 15:30+00"

    def deleting(*given: Any) -> tuple[Integrity, pa.Table]:
        gone = connection.execute(f"DELETE FROM {SCHEMA}.bars WHERE symbol = 'TSLA' AND timeframe = '5m' AND time = %s", (time,))
        assert gone.rowcount == 1
        return audit(*given)

    monkeypatch.setattr(session, "audit", deleting)
    integrity = audited(session.run(plan(), endpoints))
    assert integrity.lost == 1 and kinds(integrity) == {"lost": 1}
    (lost,) = (one for one in integrity.findings if one.kind == "lost")
    assert (lost.symbol, lost.timeframe, lost.first_ms) == ("TSLA", "5m", 1_772_551_800_000)
    monkeypatch.undo()
    later = audited(session.run(plan(begin="resume"), endpoints))
    assert (later.lost, later.vanished) == (0, 1) and kinds(later) == {"vanished": 1}


def test_bars_that_cannot_be_right_are_found(
    endpoints: Endpoints, connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows spoiled in the table: a negative volume, a high below the low, a close beyond the high, a start without a session."""
    spoil = {
        "'2026-03-03 15:30+00'": "v = -1",
        "'2026-03-03 15:35+00'": "h = l - 1, o = l - 1, c = l - 1",
        "'2026-03-03 15:40+00'": "c = h + 1",
    }

    def spoiling(*given: Any) -> tuple[Integrity, pa.Table]:
        for time, change in spoil.items():
            done = connection.execute(f"UPDATE {SCHEMA}.bars SET {change} WHERE symbol = 'TSLA' AND timeframe = '5m' AND time = {time}")
            assert done.rowcount == 1
        connection.execute(
            f"INSERT INTO {SCHEMA}.bars SELECT symbol, timeframe, time + interval '30 seconds', o, h, l, c, v, vw, n FROM {SCHEMA}.bars"
            " WHERE symbol = 'TSLA' AND timeframe = '5m' AND time = '2026-03-03 16:00+00'"
        )
        return audit(*given)

    monkeypatch.setattr(session, "audit", spoiling)
    found = kinds(audited(session.run(plan(symbols=["TSLA"]), endpoints)))
    assert found == {"negative_volume": 1, "high_below_low": 1, "outside_range": 1, "off_calendar": 1}


@pytest.mark.parametrize(
    ("fault", "kind", "features"), [("negative_volume",) * 2 + ("per_row",), ("poisoned", "not_positive", "vectorized")]
)
def test_bars_with_wrong_values_are_stored_and_reported(
    endpoints: Endpoints, connection: psycopg.Connection[Any], upstream: httpx.Client, fault: str, kind: str, features: str
) -> None:
    """Upstream sends one in each series: every job completes, features included, and the audit counts the bars as wrong."""
    upstream.post("/faults", json={"kind": fault, "ticker": "TSLA"}).raise_for_status()
    recording = session.run(plan(features=features, objectives=["job_success_ratio >= 1", "wrong_bars <= 0"]), endpoints)
    assert kinds(audited(recording)) == {kind: 3}
    checks = backfill.judge(analysed(recording).summary, recording.context.plan)
    assert [(check.value, check.verdict) for check in checks] == [(1.0, Verdict.PASS), (3, Verdict.FAIL)]
    scored = f"SELECT count(*) FROM {SCHEMA}.bars JOIN {SCHEMA}.features USING (symbol, timeframe, time) WHERE v < 0 OR c < 0"
    assert connection.execute(scored).fetchone() == (3,)


def test_requests_for_bars_to_build_from_are_of_a_job_of_the_plan(endpoints: Endpoints, connection: psycopg.Connection[Any]) -> None:
    """Without 5-minute bars in the plan the first job has asked for them, and what must come of them is known all the same."""
    recording = session.run(plan(symbols=["TSLA"], timeframes=["1h", "1d"], derive=True), endpoints)
    jobs = analysed(recording).summary.jobs["TSLA"]
    assert (jobs["1h"].requests, jobs["1h"].pages, jobs["1d"].requests) == (1, 1, 0)
    assert {(span.symbol, span.timeframe) for span in recording.spans} == {*recording.context.plan.jobs}


def test_a_built_bar_that_is_gone_is_lost(
    endpoints: Endpoints, connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Built from 5-minute bars of which the plan stores none: what was sent is found by its symbol."""

    def deleting(*given: Any) -> tuple[Integrity, pa.Table]:
        assert connection.execute(f"DELETE FROM {SCHEMA}.bars WHERE timeframe = '1h' AND time = '2026-03-03 15:00+00'").rowcount == 1
        return audit(*given)

    monkeypatch.setattr(session, "audit", deleting)
    assert kinds(audited(session.run(plan(symbols=["TSLA"], timeframes=["1h", "1d"], derive=True), endpoints))) == {"lost": 1}


@pytest.mark.parametrize("symbol", ["TSLA", "MSFT"])
def test_bars_of_another_symbol_under_our_ticker_are_found(
    endpoints: Endpoints, connection: psycopg.Connection[Any], upstream: httpx.Client, symbol: str
) -> None:
    """Upstream sends another symbol's bars as this one's: the job completes, and both series are named, since the data cannot say whose."""
    upstream.post("/faults", json={"kind": "wrong_bars", "ticker": symbol}).raise_for_status()
    recording = session.run(plan(symbols=["TSLA", "MSFT", "AAPL", "NOSUCH"], timeframes=["1d"]), endpoints)
    assert [bool(job.error) for job in recording.jobs] == [False, False, False, True]
    assert audited(recording).series == 3, "nothing is said of a failed job's series"
    wrong = [one for one in audited(recording).findings if one.kind == "wrong_symbol"]
    other = "MSFT" if symbol == "TSLA" else "AAPL"
    assert {one.symbol for one in wrong} == {symbol, other} and {one.bars for one in wrong} == {5}


def test_a_history_without_a_bar_passes_nothing(endpoints: Endpoints, connection: psycopg.Connection[Any], upstream: httpx.Client) -> None:
    """Upstream has no bar of one symbol, and says so without an error: its jobs are named and an objective is missed, resumed too."""
    upstream.post("/faults", json={"kind": "no_results", "ticker": "TSLA"}).raise_for_status()
    objectives = ["job_success_ratio >= 1", "lost <= 0", "empty <= 0"]
    for begin in ("fresh", "resume"):
        recording = session.run(plan(begin=begin, objectives=objectives), endpoints)
        summary = analysed(recording).summary
        checks = {check.objective: check for check in backfill.judge(summary, recording.context.plan)}
        assert (checks["empty <= 0"].value, checks["empty <= 0"].n, checks["empty <= 0"].verdict) == (3, 6, Verdict.FAIL)
        found = backfill.find(recording, summary, recording.context.plan)[0]
        assert found.name == "no_bars" and "3 of 6 jobs" in found.finding and "TSLA 5m, TSLA 1h, TSLA 1d" in found.finding
        assert found.finding in backfill.say(recording, summary, [found])


def test_the_newest_minutes_are_not_judged(endpoints: Endpoints, connection: psycopg.Connection[Any]) -> None:
    """They are stored, and left out of what is expected, since the vendor may still revise them."""
    days = plan(symbols=["SOL"], timeframes=["5m"], history={"days": 3}, features="off", settle_minutes=0)
    whole = session.run(days, endpoints)
    settled = session.run(days.model_copy(update={"begin": "resume", "settle_minutes": 1440}), endpoints)
    until_ms = (settled.context.started_at.timestamp() - 1440 * 60) * 1000
    assert max(settled.tables["days"].column("last_ms").to_pylist()) <= until_ms
    assert 0 < audited(settled).expected <= audited(whole).expected and kinds(audited(settled)) == {}
    assert audited(settled).checksum == audited(whole).checksum
