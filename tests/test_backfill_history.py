"""The bars that another system has stored, audited as they are: any table by one statement, and known faults found."""

import datetime as dt
from collections.abc import Iterator
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pytest
from backfills import analysed

from tapecheck.backfill import audit
from tapecheck.backfill.plan import BackfillPlan
from tapecheck.backfill.validation import backfill
from tapecheck.errors import TargetError
from tapecheck.target.file import Target
from tapecheck.target.mapping import StoredBars
from tapecheck.vendor.bars import Bars

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


PLAN = {
    "symbols": ["AAPL"], "timeframes": ["1d"], "history": {"start": "2026-09-01", "end": "2026-11-01"}, "begin": "audit",
    "objectives": ["wrong_bars <= 0", "coverage >= 0.95", "longest_gap_days <= 3"],
}  # fmt: skip


def test_a_foreign_history_is_audited_as_it_is(prices: psycopg.Connection[Any], database_url: str) -> None:
    """The planted gap of a week and both impossible bars are found, nothing else is, and nothing was fetched or written."""
    found = analysed(backfill.run(BackfillPlan.model_validate(PLAN), Target.model_validate(target_of(database_url, SQL))))
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
        backfill.run(BackfillPlan.model_validate(PLAN), Target.model_validate(target_of(database_url, sql)))
    assert prices.execute('SELECT count(*) FROM "Own".prices').fetchone() == before
