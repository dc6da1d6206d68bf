"""What a real run has stored, held against what upstream sent: nothing is wrong until somebody makes it wrong."""

import datetime as dt
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import psycopg
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


Spoil = Callable[[], object]
Audits = list[Integrity]


@pytest.fixture
def spoiling(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Audits]:
    """Have each audit of a run follow some change, and be done once for each length of stretches; return what each says."""

    def spoiling(spoil: Spoil = lambda: None, stretches_days: Sequence[int] = (91,), auditing: Callable[..., Any] = audit) -> Audits:
        found: Audits = []

        def audited(*given: Any) -> Any:
            spoil()
            for days in stretches_days:
                monkeypatch.setattr(plans, "STRETCH", dt.timedelta(days=days))
                answer = auditing(*given)
                found.append(answer[0])
            return answer

        monkeypatch.setattr(session, "audit", audited)
        return found

    return spoiling


def test_memory_is_that_of_a_stretch_not_of_the_history(
    endpoints: Endpoints, connection: psycopg.Connection[Any], spoiling: Callable[..., Audits]
) -> None:
    """Months are audited in less memory than the columns of their bars take, and with the verdict of all in one piece."""
    peaks_bytes = []

    def traced(*given: Any) -> Any:
        tracemalloc.start()
        try:
            return audit(*given)
        finally:
            peaks_bytes.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()

    audits = spoiling(stretches_days=(14, 1000), auditing=traced)
    session.run(plan(symbols=["SOL"], timeframes=["5m"], history={"days": 120}, features="off"), endpoints)
    found, in_one_piece = audits
    assert found.present > 30_000 and kinds(found) == {} and in_one_piece == found
    assert peaks_bytes[0] < found.present * len(COLUMNS) * 8 and peaks_bytes[1] > 2 * peaks_bytes[0]


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
    endpoints: Endpoints, connection: psycopg.Connection[Any], spoiling: Callable[..., Audits], derive: bool
) -> None:
    """Three weeks with a change of daylight saving, by weeks and in one piece; the bars beside a cut are gone, and lost in both."""
    gone = {("5m", "2026-02-27 23:55+00"), ("5m", "2026-02-28 00:00+00"), ("1h", "2026-02-28 00:00+00"), ("1d", "2026-02-27 00:00+00")}

    def delete() -> None:
        for timeframe, time in gone:
            connection.execute(f"DELETE FROM {SCHEMA}.bars WHERE symbol = 'SOL' AND timeframe = '{timeframe}' AND time = '{time}'")

    audits = spoiling(delete, (91, 7))
    session.run(plan(derive=derive, history={"start": "2026-02-23", "end": "2026-03-15"}, symbols=["SOL", "AAPL"]), endpoints)
    found, by_weeks = audits
    assert kinds(found) == {"lost": 4} and found == by_weeks


SPOILT = {
    "'2026-03-03 15:30+00'": "v = -1",
    "'2026-03-03 15:35+00'": "h = l - 1, o = l - 1, c = l - 1",
    "'2026-03-03 15:40+00'": "c = h + 1",
}


def test_bars_that_are_gone_or_cannot_be_right_are_found(
    endpoints: Endpoints, connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch, spoiling: Callable[..., Audits]
) -> None:
    """Somebody changes the table before the audit: a bar less is lost, with its series and time, and the next run counts it too.

    The others have a negative volume, a high below the low, and a close beyond the high.
    """

    def spoil() -> None:
        of = "WHERE symbol = 'TSLA' AND timeframe = '5m' AND time ="
        changes = [f"UPDATE {SCHEMA}.bars SET {change} {of} {time}" for time, change in SPOILT.items()]
        changes += [f"DELETE FROM {SCHEMA}.bars {of} '2026-03-03 16:30+00'"]
        assert [connection.execute(change).rowcount for change in changes] == [1] * 4

    spoiling(spoil)
    integrity = audited(session.run(plan(symbols=["TSLA"]), endpoints))
    wrong = {"negative_volume": 1, "high_below_low": 1, "outside_range": 1}
    assert integrity.lost == 1 and kinds(integrity) == {"lost": 1} | wrong
    (lost,) = (one for one in integrity.findings if one.kind == "lost")
    assert (lost.symbol, lost.timeframe, lost.first_ms) == ("TSLA", "5m", 1_772_555_400_000)
    monkeypatch.undo()
    later = audited(session.run(plan(symbols=["TSLA"], begin="resume"), endpoints))
    assert (later.lost, later.vanished) == (0, 1) and kinds(later) == {"vanished": 1} | wrong


@pytest.mark.parametrize(
    ("fault", "kind", "features"), [("negative_volume",) * 2 + ("per_row",), ("poisoned", "not_positive", "vectorized")]
)
def test_bars_with_wrong_values_are_stored_and_reported(
    endpoints: Endpoints, connection: psycopg.Connection[Any], upstream: httpx.Client, fault: str, kind: str, features: str
) -> None:
    """Upstream sends one in each series: every job completes, features included, and the audit counts the bars as wrong."""
    upstream.post("/faults", json={"kind": fault, "ticker": "TSLA"}).raise_for_status()
    recording = session.run(plan(symbols=["TSLA"], features=features, objectives=["job_success_ratio >= 1", "wrong_bars <= 0"]), endpoints)
    assert kinds(audited(recording)) == {kind: 3}
    checks = backfill.judge(analysed(recording).summary, recording.context.plan)
    assert [(check.value, check.verdict) for check in checks] == [(1.0, Verdict.PASS), (3, Verdict.FAIL)]
    scored = f"SELECT count(*) FROM {SCHEMA}.bars JOIN {SCHEMA}.features USING (symbol, timeframe, time) WHERE v < 0 OR c < 0"
    assert connection.execute(scored).fetchone() == (3,)


def test_bars_are_built_of_those_that_the_first_job_asked_for(
    endpoints: Endpoints, connection: psycopg.Connection[Any], spoiling: Callable[..., Audits]
) -> None:
    """Without 5-minute bars in the plan, what must come of them is known all the same, and a built bar that is gone is lost."""

    def delete() -> None:
        assert connection.execute(f"DELETE FROM {SCHEMA}.bars WHERE timeframe = '1h' AND time = '2026-03-03 15:00+00'").rowcount == 1

    spoiling(delete)
    recording = session.run(plan(symbols=["TSLA"], timeframes=["1h", "1d"], derive=True), endpoints)
    jobs = analysed(recording).summary.jobs["TSLA"]
    assert (jobs["1h"].requests, jobs["1h"].pages, jobs["1d"].requests) == (1, 1, 0)
    assert {(span.symbol, span.timeframe) for span in recording.spans} == {*recording.context.plan.jobs}
    assert kinds(audited(recording)) == {"lost": 1}


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
