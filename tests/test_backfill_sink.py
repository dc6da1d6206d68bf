"""The sink and one job against a real database: idempotent, atomic, resumed from its checkpoint."""

import asyncio
import datetime as dt
from collections.abc import Iterator
from typing import Any

import numpy as np
import psycopg
import pytest

from tapecheck.backfill import checkpoints, features
from tapecheck.backfill.bars import Bars, to_datetime
from tapecheck.backfill.checkpoints import Checkpoint
from tapecheck.backfill.pipeline import refresh
from tapecheck.backfill.sink import Counts, Sink
from tapecheck.backfill.source import Source
from tapecheck.sandbox.profile import Home
from tapecheck.target.opening import SandboxState

SYMBOL = "TESTONLY"


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A plain connection; rows of the test's own symbols are gone before and after."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        for _ in range(2):
            for table in ("bars", "features", "checkpoints"):
                connection.execute(f"DELETE FROM tapecheck.{table} WHERE symbol IN (%s, 'XRP')", (SYMBOL,))
            if _ == 0:
                yield connection


def _bars(first: int, count: int) -> Bars:
    t = (np.arange(first, first + count) * 300_000).astype(np.int64)
    c = 100 + np.arange(count, dtype=float)
    return Bars(t=t, o=c, h=c + 1, l=c - 1, c=c, v=c, vw=np.where(np.arange(count) == 0, np.nan, c), n=c)


def _checkpoint(bars: Bars, state: str = "done") -> Checkpoint:
    moment = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    return Checkpoint(symbol=SYMBOL, timeframe="5m", state=state, watermark=to_datetime(bars.t[-1]), refreshed_at=moment)


def _write(sink: Sink, bars: Bars) -> Counts:
    return sink.write(bars, features.compute(bars.c, bars.v, 1e5), _checkpoint(bars))


def _rows(connection: psycopg.Connection[Any], table: str, symbol: str = SYMBOL) -> list[Any]:
    return connection.execute(f"SELECT * FROM tapecheck.{table} WHERE symbol = %s ORDER BY timeframe, time", (symbol,)).fetchall()


def test_counts_of_inserted_changed_and_unchanged(database_url: str, connection: psycopg.Connection[Any]) -> None:
    """Writing again changes nothing, an overlap inserts only what is new, and a changed price is counted as such."""
    with Sink(database_url) as sink:
        first = _bars(0, 100)
        assert _write(sink, first) == Counts(inserted=100)
        assert _write(sink, first) == Counts(unchanged=100)
        assert _write(sink, _bars(0, 110)) == Counts(inserted=10, unchanged=100)
        first.c[5] += 1
        assert _write(sink, first) == Counts(changed=1, unchanged=99)
        assert sink.checkpoint(SYMBOL, "5m") == checkpoints.read(database_url)[SYMBOL, "5m"]
    assert (len(_rows(connection, "bars")), len(_rows(connection, "features"))) == (110, 110)
    assert checkpoints.read(database_url)[SYMBOL, "5m"].rows == 110


def test_what_was_written_reads_back(database_url: str, connection: psycopg.Connection[Any]) -> None:
    """The tail of a series is what was stored, ascending, with absent values as NaN."""
    bars = _bars(0, 50)
    with Sink(database_url) as sink:
        _write(sink, bars)
        tail = sink.tail(SYMBOL, "5m", to_datetime(bars.t[40]), 15)
        whole = sink.tail(SYMBOL, "5m", to_datetime(bars.t[-1] + 1), 500)
    np.testing.assert_array_equal(tail.t, bars.t[25:40])
    for name in ("t", "o", "h", "l", "c", "v", "vw", "n"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(bars, name))


def test_a_page_is_all_or_nothing(database_url: str, connection: psycopg.Connection[Any]) -> None:
    """When the features of a page cannot be stored, neither its bars nor its checkpoint are."""
    bars = _bars(0, 20)
    columns = features.compute(bars.c, bars.v, 1e5)
    with Sink(database_url) as sink:
        with pytest.raises(Exception, match="no_such_column"):
            sink.write(bars, columns | {"no_such_column": bars.c}, _checkpoint(bars))
        assert (_rows(connection, "bars"), sink.checkpoint(SYMBOL, "5m")) == ([], None)
        assert _write(sink, bars) == Counts(inserted=20)


def test_a_lost_race_falls_back_to_the_upsert(
    database_url: str, connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When rows appear although the range looked empty, the page is upserted instead."""
    with Sink(database_url) as sink:
        _write(sink, _bars(0, 10))
        monkeypatch.setattr(Sink, "_is_new", lambda *_: True)
        assert _write(sink, _bars(0, 20)) == Counts(inserted=10, unchanged=10)


def test_another_writer_between_two_pages_costs_nothing(database_url: str, connection: psycopg.Connection[Any]) -> None:
    """What a second connection stores ahead of a job is found when the job comes to it, and counted as it is."""
    with Sink(database_url) as sink, Sink(database_url) as other:
        assert _write(sink, _bars(0, 10)) == Counts(inserted=10)
        assert _write(other, _bars(10, 5)) == Counts(inserted=5)
        assert _write(sink, _bars(10, 10)).inserted == 5
        assert _write(other, _bars(20, 5)) == _write(sink, _bars(25, 5)) == Counts(inserted=5)
    assert len(_rows(connection, "bars")) == 30


def test_whether_a_range_is_new_is_asked_once_a_job(database_url: str, connection: psycopg.Connection[Any]) -> None:
    """Pages that follow a new one are new; one that goes back is asked about again."""
    asked = []

    class Asking(Sink):
        def _is_free(self, symbol: str, timeframe: str, begin: dt.datetime) -> bool:
            asked.append(begin)
            return super()._is_free(symbol, timeframe, begin)

    with Asking(database_url) as sink:
        assert [_write(sink, _bars(first, 10)).inserted for first in (0, 10, 20)] == [10, 10, 10]
        assert asked == [to_datetime(0)]
        assert [_write(sink, _bars(first, 10)).inserted for first in (25, 35)] == [5, 10]
        assert len(asked) == 3


def test_a_failed_job_keeps_its_rows(database_url: str, connection: psycopg.Connection[Any]) -> None:
    """A failure is recorded with its reason and count, beside what was stored before; success clears it."""
    with Sink(database_url) as sink:
        _write(sink, _bars(0, 10))
        sink.fail(SYMBOL, "5m", "poisoned")
        sink.fail(SYMBOL, "5m", "poisoned")
        found = sink.checkpoint(SYMBOL, "5m")
        assert found and (found.state, found.failures, found.error, found.rows) == ("failed", 2, "poisoned", 10)
        _write(sink, _bars(0, 10))
        found = sink.checkpoint(SYMBOL, "5m")
        assert found and (found.state, found.failures, found.error) == ("done", 0, None)


def test_an_interrupted_job_ends_as_an_uninterrupted_one(
    sandbox: SandboxState, database_url: str, connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that is killed after two pages resumes at its checkpoint, and the tables are those of a job that never stopped."""
    end = dt.datetime.now(dt.UTC).replace(minute=0, second=0, microsecond=0)
    start, written = end - dt.timedelta(days=150), Sink.write

    async def run(pages: int) -> int:
        left = iter(range(pages))

        def write(self: Sink, *arguments: Any) -> Counts:
            if next(left, None) is None:
                raise InterruptedError
            return written(self, *arguments)

        monkeypatch.setattr(Sink, "write", write)
        async with Source(sandbox.upstream_url, Home().secret()) as source:
            with Sink(database_url) as sink:
                return (await refresh(source, sink, "XRP", ("5m",), start=start, end=end))["5m"].counts.inserted

    whole_count = asyncio.run(run(100))
    whole = [_rows(connection, table, "XRP") for table in ("bars", "features")]
    for table in ("bars", "features", "checkpoints"):
        connection.execute(f"DELETE FROM tapecheck.{table} WHERE symbol = 'XRP'")
    with pytest.raises(InterruptedError):
        asyncio.run(run(2))
    half = checkpoints.read(database_url)["XRP", "5m"]
    assert (half.state, half.refreshed_at) == ("filling", None) and 0 < half.rows < whole_count
    assert half.rows == len(_rows(connection, "bars", "XRP")) == len(_rows(connection, "features", "XRP"))
    assert asyncio.run(run(100)) == whole_count - half.rows
    assert [_rows(connection, table, "XRP") for table in ("bars", "features")] == whole
