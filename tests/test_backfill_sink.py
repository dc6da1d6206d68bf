"""The sink against a real database: every way to write a page gives the same counts and tables, all or nothing."""

import datetime as dt
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psycopg
import pytest

from tapecheck.backfill import checkpoints, features, schema
from tapecheck.backfill.checkpoints import Checkpoint, Checksum
from tapecheck.backfill.sink import STRATEGIES, Counts, Sink
from tapecheck.vendor.bars import COLUMNS, Bars, to_datetime

SCHEMA = "test_strategies"
each = pytest.mark.parametrize("name", STRATEGIES)


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A plain connection; the tables of a schema of its own are there, and gone afterwards."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
        schema.prepare(database_url, SCHEMA)
        yield connection
        connection.execute(f"DROP SCHEMA {SCHEMA} CASCADE")


def bars_of(first: int, count: int) -> Bars:
    """Bars in which every tenth has no weighted price and no trades, as the vendor may leave them out."""
    index = np.arange(count)
    c = 100 + np.sin(index) / 3
    absent = np.where(index % 10 == 0, np.nan, 1.0)
    return Bars(t=(first + index) * 300_000, o=c, h=c + 1, l=c - 1, c=c, v=c * 7, vw=c * absent, n=np.round(c) * absent)


def write(sink: Sink, bars: Bars, timeframe: str = "5m", state: str = "done") -> Counts:
    """Write a page with its features and checkpoint."""
    moment = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    at = Checkpoint(symbol="T", timeframe=timeframe, state=state, watermark=to_datetime(bars.t[-1]), refreshed_at=moment)
    return sink.write(bars, features.compute(bars.c, bars.v, 1e5), at)


def _history(make: Callable[..., Sink], database_url: str) -> list[Counts]:
    """Write a page, again, an overlap, a correction, and a second series."""
    with make(database_url, schema=SCHEMA) as sink:
        counts = [write(sink, bars_of(0, 300)), write(sink, bars_of(0, 300)), write(sink, bars_of(0, 310))]
        corrected = bars_of(0, 310)
        corrected.h[5:8] += 1
        corrected.vw[20] = 1.0
        return [*counts, write(sink, corrected), write(sink, bars_of(50, 20), "15m")]


def _tables(connection: psycopg.Connection[Any]) -> list[Any]:
    tables = [connection.execute(f"SELECT * FROM {SCHEMA}.{t} ORDER BY symbol, timeframe, time").fetchall() for t in checkpoints.VALUES]
    return [*tables, connection.execute(f"SELECT {checkpoints.FIELDS} FROM {SCHEMA}.checkpoints ORDER BY timeframe").fetchall()]


@each
def test_every_way_counts_alike_and_ends_in_the_same_tables(database_url: str, connection: psycopg.Connection[Any], name: str) -> None:
    """Counts, rows, checkpoints and checksum are those of COPY, absent values included."""
    expected = [Counts(inserted=300), Counts(unchanged=300), Counts(inserted=10, unchanged=300)]
    expected += [Counts(changed=4, unchanged=306), Counts(inserted=20)]
    assert _history(Sink, database_url) == expected
    by_copy, sum_by_copy = _tables(connection), checkpoints.by_series(connection, SCHEMA)
    for table in ("bars", "features", "checkpoints"):
        connection.execute(f"TRUNCATE {SCHEMA}.{table}")
    assert _history(STRATEGIES[name], database_url) == expected
    assert _tables(connection) == by_copy
    assert checkpoints.by_series(connection, SCHEMA) == sum_by_copy and str(sum_by_copy["T", "5m"]).startswith("620-")


@pytest.mark.parametrize(("name", "first", "second"), [("copy", 4, 8), ("executemany", 601, 601), ("row_by_row", 601, 601)])
@pytest.mark.usefixtures("connection")
def test_every_way_counts_the_statements_that_it_sends(database_url: str, name: str, first: int, second: int) -> None:
    """A question, a COPY for either table and a checkpoint, or a row each; of the same again two upserts."""
    with STRATEGIES[name](database_url, schema=SCHEMA) as sink:
        for sent in (first, second):
            before = sink.statements
            write(sink, bars_of(0, 300))
            assert sink.statements - before == sent


@each
def test_every_way_is_all_or_nothing(database_url: str, connection: psycopg.Connection[Any], name: str) -> None:
    """When the features of a page cannot be stored, neither its bars nor its checkpoint are, and the sink goes on."""
    bars = bars_of(0, 20)
    at = Checkpoint(symbol="T", timeframe="5m", state="done", watermark=to_datetime(bars.t[-1]))
    with STRATEGIES[name](database_url, schema=SCHEMA) as sink:
        with pytest.raises(Exception, match="no_such_column"):
            sink.write(bars, features.compute(bars.c, bars.v, 1e5) | {"no_such_column": bars.c}, at)
        assert _tables(connection) == [[], [], []]
        assert write(sink, bars) == Counts(inserted=20)
    assert [len(rows) for rows in _tables(connection)] == [20, 20, 1]


@each
def test_every_way_reads_back(database_url: str, connection: psycopg.Connection[Any], name: str) -> None:
    """The tail, the checkpoint and a failure are read the same way whatever wrote them."""
    bars = bars_of(0, 50)
    with STRATEGIES[name](database_url, schema=SCHEMA) as sink:
        assert len(sink.tail("T", "5m", to_datetime(0), 10)) == 0 and sink.checkpoint("T", "5m") is None
        write(sink, bars)
        tail = sink.tail("T", "5m", to_datetime(bars.t[40]), 15)
        for column in COLUMNS:
            np.testing.assert_array_equal(getattr(tail, column), getattr(bars, column)[25:40])
            assert getattr(tail, column).dtype == getattr(bars, column).dtype
        sink.fail("T", "5m", "poisoned")
        found = sink.checkpoint("T", "5m")
        assert found and (found.state, found.error, found.rows, found.failures) == ("failed", "poisoned", 50, 1)
        assert found == checkpoints.read(database_url, SCHEMA)["T", "5m"]
        sink.fail("T", "5m", "again")
        assert (found := sink.checkpoint("T", "5m")) and (found.failures, found.error) == (2, "again")
        write(sink, bars)
        assert (found := sink.checkpoint("T", "5m")) and (found.state, found.failures, found.error) == ("done", 0, None)


@each
def test_durability_is_that_of_the_sinks_own_connection(database_url: str, connection: psycopg.Connection[Any], name: str) -> None:
    """What the URL says of synchronous_commit holds for the sink, not the server's default."""
    asked = f"{database_url}{'&' if '?' in database_url else '?'}options=-c%20synchronous_commit%3Doff"
    with STRATEGIES[name](asked, schema=SCHEMA) as sink:
        sink._execute("SELECT current_setting('synchronous_commit')")
        assert sink._cursor.fetchone() == ("off",)
        assert write(sink, bars_of(0, 5)) == Counts(inserted=5)


# ---- COPY, where a range may be new ----


@pytest.mark.usefixtures("connection")
def test_a_lost_race_falls_back_to_the_upsert(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When rows appear although the range looked empty, the page is upserted instead."""
    with Sink(database_url, SCHEMA) as sink:
        write(sink, bars_of(0, 10))
        monkeypatch.setattr(Sink, "_is_new", lambda *_: True)
        assert write(sink, bars_of(0, 20)) == Counts(inserted=10, unchanged=10)


def test_another_writer_between_two_pages_costs_nothing(database_url: str, connection: psycopg.Connection[Any]) -> None:
    """What a second connection stores ahead of a job is found when the job comes to it, and counted as it is."""
    with Sink(database_url, SCHEMA) as sink, Sink(database_url, SCHEMA) as other:
        assert write(sink, bars_of(0, 10)) == Counts(inserted=10)
        assert write(other, bars_of(10, 5)) == Counts(inserted=5)
        assert write(sink, bars_of(10, 10)).inserted == 5
        assert write(other, bars_of(20, 5)) == write(sink, bars_of(25, 5)) == Counts(inserted=5)
    assert len(_tables(connection)[0]) == 30


# ---- the checksum of the final tables ----


@pytest.fixture
def two(database_url: str, connection: psycopg.Connection[Any]) -> Iterator[psycopg.Connection[Any]]:
    """The connection in a transaction that is rolled back, with two series stored."""
    with Sink(database_url, schema=SCHEMA) as sink:
        write(sink, bars_of(0, 100))
        write(sink, bars_of(0, 50), "1h")
    with connection.transaction(force_rollback=True):
        yield connection


def test_equal_content_has_an_equal_checksum(two: psycopg.Connection[Any]) -> None:
    """Rows in another physical order, read in another time zone and with fewer digits shown, are the same content."""
    before = checkpoints.by_series(two, SCHEMA)
    assert list(before) == [("T", "1h"), ("T", "5m")] and [part.rows for part in before.values()] == [100, 200]
    assert checkpoints.whole(two, SCHEMA) == before["T", "1h"] + before["T", "5m"]
    for table in checkpoints.VALUES:
        two.execute(f"CREATE TEMP TABLE moved ON COMMIT DROP AS SELECT * FROM {SCHEMA}.{table} ORDER BY time DESC, timeframe")
        two.execute(f"TRUNCATE {SCHEMA}.{table}; INSERT INTO {SCHEMA}.{table} SELECT * FROM moved; DROP TABLE moved")
    two.execute("SET LOCAL TimeZone = 'Asia/Tokyo'; SET LOCAL extra_float_digits = 0; SET LOCAL DateStyle = 'German'")
    assert checkpoints.by_series(two, SCHEMA) == before


ONE = "WHERE timeframe = '5m' AND time = to_timestamp(3000)"
CHANGES = {
    "a price in its last bit": f"UPDATE {{}}.bars SET c = c + 1.4e-14 {ONE}",
    "an absent value": f"UPDATE {{}}.bars SET vw = 0 {ONE}",
    "the trades": "UPDATE {}.bars SET n = n + 1 WHERE timeframe = '5m' AND time = to_timestamp(3300)",
    "a feature": f"UPDATE {{}}.features SET return_log = return_log + 1e-8 {ONE}",
    "a row less": f"DELETE FROM {{}}.bars {ONE}",
    "a row of features less": f"DELETE FROM {{}}.features {ONE}",
    "a row twice": f"INSERT INTO {{}}.bars SELECT * FROM {{}}.bars {ONE}",
    "a row three times": f"INSERT INTO {{}}.bars SELECT b.* FROM {{}}.bars b, generate_series(1, 2) {ONE}",
    "a bar at another time": f"UPDATE {{}}.bars SET time = time + interval '1 day' {ONE}",
    "two closes swapped": "UPDATE {}.bars SET c = CASE WHEN time = to_timestamp(300) THEN 100.0 + sin(2) / 3 ELSE 100.0 + sin(1) / 3 END"
    " WHERE timeframe = '5m' AND time IN (to_timestamp(300), to_timestamp(600))",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_any_change_shows_in_its_series_and_in_the_whole(two: psycopg.Connection[Any], change: str) -> None:
    """A changed value, a missing row and a row that is there again differ; the other series does not."""
    before, whole = checkpoints.by_series(two, SCHEMA), checkpoints.whole(two, SCHEMA)
    two.execute(f"ALTER TABLE {SCHEMA}.bars DROP CONSTRAINT bars_pkey")
    assert two.execute(change.replace("{}", SCHEMA)).rowcount in (1, 2)
    after = checkpoints.by_series(two, SCHEMA)
    assert after["T", "5m"] != before["T", "5m"] and after["T", "5m"].hashes != before["T", "5m"].hashes
    assert after["T", "1h"] == before["T", "1h"]
    assert checkpoints.whole(two, SCHEMA) != whole


def test_the_whole_holds_names_and_may_be_empty(two: psycopg.Connection[Any]) -> None:
    """The same values under another symbol are other bars; a checksum is written with its rows and sixteen digits, and never overflows."""
    whole = checkpoints.whole(two, SCHEMA)
    two.execute(f"UPDATE {SCHEMA}.bars SET symbol = 'U' WHERE timeframe = '1h'")
    assert checkpoints.whole(two, SCHEMA) != whole
    two.execute(f"TRUNCATE {SCHEMA}.bars, {SCHEMA}.features")
    assert checkpoints.whole(two, SCHEMA) == Checksum() and str(Checksum()) == "0-0000000000000000"
    assert str(Checksum(rows=2, hashes=2**64 - 1) + Checksum(rows=1, hashes=16)) == "3-000000000000000f"


def test_a_zero_has_no_sign(two: psycopg.Connection[Any]) -> None:
    """What the upsert leaves alone as equal is equal here: 0.0 and -0.0, which roundings of tiny numbers give."""
    sums = []
    for zero in ("0.0", "-0.0"):
        two.execute(f"UPDATE {SCHEMA}.features SET return_log = '{zero}' {ONE}")
        sums.append(checkpoints.whole(two, SCHEMA))
    assert sums[0] == sums[1]
