"""What a real run has stored, held against what upstream sent: nothing is wrong until somebody makes it wrong."""

import datetime as dt
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpx
import numpy as np
import psycopg
import pyarrow as pa
import pytest
from backfills import SCHEMA, analysed

from tapecheck.backfill import audit, session
from tapecheck.backfill import plan as plans
from tapecheck.backfill.integrity import Integrity
from tapecheck.backfill.plan import BackfillPlan, Endpoints
from tapecheck.backfill.recording import Recording
from tapecheck.backfill.validation import backfill
from tapecheck.errors import TargetError
from tapecheck.target.file import Target
from tapecheck.target.mapping import StoredBars
from tapecheck.vendor.bars import COLUMNS, Bars
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

    def spoiling(spoil: Spoil = lambda: None, stretches_days: Sequence[int] = (91,), auditing: Callable[..., Any] = audit.audit) -> Audits:
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
            return audit.audit(*given)
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


# ---- the bars that another system has stored ----

SQL = """
SELECT at AS time, open_cents AS open, high_cents AS high, low_cents AS low, close_cents AS close, shares AS volume
FROM "Own".prices WHERE ticker = %(symbol)s AND at >= %(start)s AND at < %(end)s AND %(timeframe)s = '1d'"""
WHERE = 'FROM "Own".prices WHERE ticker = %(symbol)s AND at >= %(start)s AND at < %(end)s'
T = dt.datetime(2026, 11, 30, 5, tzinfo=dt.UTC)
MS = int(T.timestamp() * 1000)


def read(scale: float = 1.0, **columns: Any) -> Bars:
    table = {"time": pa.array([T]), **{name: [100.0] for name in ("open", "high", "low", "close", "volume")}} | columns
    return audit.columns(
        pa.table({name: column for name, column in table.items() if column is not None}), StoredBars(sql=SQL, price_scale=scale)
    )


@pytest.mark.parametrize(
    "time",
    [
        pa.array([T], pa.timestamp("us", "UTC")), pa.array([T.replace(tzinfo=None)], pa.timestamp("ns")), pa.array([MS]),
        pa.array([MS // 1000]), pa.array([MS * 1000]), pa.array([MS * 10**6]), pa.array([MS / 1000]),
        pa.array(["2026-11-30T05:00:00Z"]), pa.array(["2026-11-30 05:00:00"]),
    ],
    ids=["timestamptz", "timestamp", "ms", "s", "us", "ns", "s as float", "ISO text", "text without a zone"],
)  # fmt: skip
def test_a_time_in_every_usual_column(time: pa.Array) -> None:
    """Each is the same moment."""
    assert read(time=time).t.tolist() == [MS]


def test_prices_are_scaled_and_what_is_not_there_is_unknown() -> None:
    """Cents are dollars by a scale, volumes are not scaled; text that is a number, and nulls."""
    bars = read(0.01, open=pa.array(["12345.5"]), high=pa.array([None], pa.float64()), volume=pa.array([7]), trades=pa.array([3]))
    assert (bars.o.tolist(), bars.c.tolist(), bars.v.tolist(), bars.n.tolist()) == ([123.455], [1.0], [7.0], [3.0])
    assert np.isnan(bars.h).all() and np.isnan(bars.vw).all()


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"open": pa.array(["dear"])}, "open is no number"),
        ({"time": pa.array(["soon"])}, "time is none: soon"),
        ({"time": pa.array([None], pa.timestamp("us"))}, "1 rows have no time"),
    ],
)
def test_columns_that_do_not_fit_are_refused(columns: dict[str, Any], said: str) -> None:
    """With what was got."""
    with pytest.raises(TargetError, match=said):
        read(**columns)


@pytest.fixture
def prices(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """Two months of day bars in cents, in naive timestamps of a schema of its own: whole, but for a gap and two impossible bars."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute('CREATE SCHEMA "Own"')
        cents = ", ".join(f"{name}_cents int" for name in ("open", "high", "low", "close"))
        connection.execute(f'CREATE TABLE "Own".prices (ticker text, at timestamp, {cents}, shares bigint)')
        day, rows = dt.date(2026, 9, 1), []
        while day < dt.date(2026, 11, 1):
            at = dt.datetime(day.year, day.month, day.day, 4)  # 00:00 in New York, in summer
            if day.weekday() < 5 and day != dt.date(2026, 9, 7):  # Labor Day
                rows.append(("AAPL", at, 10000, 10200, 9900, 10100, 1000))
            day += dt.timedelta(days=1)
        gap = [row for row in rows if not dt.date(2026, 10, 5) <= row[1].date() < dt.date(2026, 10, 12)]
        wrong = [(*row[:3], 9800, *row[4:]) if row[1].date() == dt.date(2026, 9, 10) else row for row in gap]
        wrong = [(*row[:6], -5) if row[1].date() == dt.date(2026, 9, 11) else row for row in wrong]
        with connection.cursor() as cursor:
            cursor.executemany('INSERT INTO "Own".prices VALUES (%s, %s, %s, %s, %s, %s, %s)', wrong)
        yield connection
        connection.execute('DROP SCHEMA "Own" CASCADE')


def target_of(database_url: str, sql: str) -> dict[str, Any]:
    return {
        "name": "own", "kind": "external", "base_url": "http://127.0.0.1:9", "requests": {"a": "GET /"},
        "backfill": {"source_url": "http://127.0.0.1:9", "database_url": database_url},
        "bars": {"sql": sql, "price_scale": 0.01},
    }  # fmt: skip


STORED = {
    "symbols": ["AAPL"], "timeframes": ["1d"], "history": {"start": "2026-09-01", "end": "2026-11-01"}, "begin": "audit",
    "objectives": ["wrong_bars <= 0", "coverage >= 0.95", "longest_gap_days <= 3"],
}  # fmt: skip


def test_a_foreign_history_is_audited_as_it_is(prices: psycopg.Connection[Any], database_url: str) -> None:
    """The planted gap of a week and both impossible bars are found, nothing else is, and nothing was fetched or written."""
    found = analysed(backfill.run(BackfillPlan.model_validate(STORED), Target.model_validate(target_of(database_url, SQL))))
    checks = {one.objective.split()[0]: (str(one.verdict), one.value) for one in found.checks}
    assert checks["wrong_bars"] == ("fail", 2) and checks["coverage"] == ("fail", pytest.approx(38 / 43, abs=0.01))
    assert checks["longest_gap_days"][0] == "fail"
    assert (found.summary.totals.requests, found.summary.totals.skipped) == (0, 1)
    assert found.summary.integrity
    kinds = {one.kind for one in found.summary.integrity.findings}
    assert {"high_below_low", "negative_volume"} <= kinds


def test_only_the_bars_of_a_stretch_are_read(prices: psycopg.Connection[Any], database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its beginning to before its end; an open end is open, but there are not more than fit into memory."""
    first, end = (dt.datetime(2026, 9, day, 4, tzinfo=dt.UTC) for day in (14, 18))
    with audit._snapshot(database_url) as (connection, cursor):
        read = audit.mapped(cursor, StoredBars(sql=SQL), connection)
        within, after, before, whole = (len(read("AAPL", "1d", *ends)) for ends in ((first, end), (first, None), (None, end), (None, None)))
        monkeypatch.setattr(audit, "MOST_BARS", whole - 1)
        with pytest.raises(TargetError, match=rf"bars.sql gives more than {whole - 1} rows of AAPL 1d"):
            read("AAPL", "1d", None, None)
    assert (within, whole) == (4, after + before - within) and min(after, before) > within


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        (SQL.replace("at AS time", "nowhere AS time"), 'bars.sql: .*column "nowhere" does not exist'),
        (SQL.replace(", shares AS volume", ""), "bars.sql gives time, open, high, low, close, and no volume"),
        (f"DELETE {WHERE}", "bars.sql: cannot execute DELETE in a read-only transaction"),
        (f"{SQL}; DELETE {WHERE}", "bars.sql: cannot insert multiple commands into a prepared statement"),
    ],
    ids=["no column", "no volume", "writes", "two statements"],
)
def test_a_statement_that_does_not_fit_is_refused(prices: psycopg.Connection[Any], database_url: str, sql: str, said: str) -> None:
    """By its own words, and nothing is changed."""
    before = prices.execute('SELECT count(*) FROM "Own".prices').fetchone()
    with pytest.raises(TargetError, match=said):
        backfill.run(BackfillPlan.model_validate(STORED), Target.model_validate(target_of(database_url, sql)))
    assert prices.execute('SELECT count(*) FROM "Own".prices').fetchone() == before
