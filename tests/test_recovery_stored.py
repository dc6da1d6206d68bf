"""What a target's own tables have lost: rows that were there, and rows that a checkpoint acknowledges in vain."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from recoveries import bar

from tapecheck.backfill import checkpoints
from tapecheck.errors import MeasurementError
from tapecheck.recovery import stored
from tapecheck.recovery.stored import Gone, RowCount, RowCounts

SCHEMA = "tapecheck_counts"


def held(acknowledged: int, times: range, *, found: int | None = None, since_ms: int = 0) -> RowCount:
    return RowCount(acknowledged=acknowledged, found=len(times) if found is None else found, since_ms=since_ms, times_ms=frozenset(times))


def counts(one: RowCount | None) -> RowCounts:
    return RowCounts(at_ns=1, series={} if one is None else {("AAPL", "5m"): one})


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (held(5, range(5)), held(5, range(5)), None),
        (held(5, range(5)), held(8, range(8)), None),
        (held(5, range(5)), held(8, range(2, 8), since_ms=2, found=8), None),  # the window of named ones has moved on
        (held(6, range(5)), held(6, range(5)), None),  # it lacked one before
        (held(5, range(5)), held(5, range(3)), (2, (3, 4))),
        (held(5, range(5)), held(3, range(3)), (2, (3, 4))),  # the checkpoint is gone with them
        (held(5, range(5)), held(8, range(5)), (3, ())),
        (held(5, range(5)), held(8, range(1, 8)), (1, (0,))),
        (held(5, range(5)), held(8, range(1, 9)), (1, (0,))),  # the numbers alone would not tell
        (held(9, range(5, 9), found=9, since_ms=5), held(9, range(5, 9), found=7, since_ms=5), (2, ())),  # too old to be named
        (held(5, range(5)), None, (5, (0, 1, 2, 3, 4))),
    ],
)
def test_what_went_is_counted_once(before: RowCount, after: RowCount | None, expected: tuple[int, tuple[int, ...]] | None) -> None:
    """Rows that were there, and rows that a checkpoint acknowledges in vain; those of the newest days by name."""
    found = [(one.bars, one.times_ms) for one in stored.gone(counts(before), counts(after))]
    assert found == ([] if expected is None else [expected])


def test_named_bars_become_lost_ones() -> None:
    """A lost bar of the live tables is counted as one of a recorder is, with the minutes of its timeframe."""
    gone = [Gone(symbol="AAPL", timeframe="4h", bars=3, times_ms=(0, 7)), Gone(symbol="SPY", timeframe="1d", bars=1, times_ms=())]
    bars = stored.as_bars(gone, drill="d", trial=1, acked_ns=9)
    assert bars == [bar("AAPL", 0, "lost", minutes=240, acked_ns=9), bar("AAPL", 7 / 60_000, "lost", minutes=240, acked_ns=9)]


def test_checkpoints_acknowledge_what_is_there(database_url: str) -> None:
    """In a healthy sandbox every series holds just the rows that its checkpoint says, so that a difference is a loss."""
    found = stored.row_counts(database_url)
    assert len(found.series) == 30
    assert {key: one.acknowledged - one.found for key, one in found.series.items() if one.acknowledged != one.found} == {}
    assert stored.gone(found, found) == []


@pytest.fixture
def tables(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A copy of the live checkpoints and bars of two series, in a schema of its own."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        checkpoints.prepare(database_url, SCHEMA, empty=True)
        for table in ("bars", "checkpoints"):
            connection.execute(f"INSERT INTO {SCHEMA}.{table} SELECT * FROM tapecheck.{table} WHERE symbol = 'BTC' AND timeframe <> '5m'")
        yield connection
        connection.execute(f"DROP SCHEMA {SCHEMA} CASCADE")


def deleted(connection: psycopg.Connection[Any], condition: str) -> set[int]:
    query = f"DELETE FROM {SCHEMA}.bars WHERE timeframe = '1h' AND {condition} RETURNING (extract(epoch FROM time) * 1000)::int8"
    return {row[0] for row in connection.execute(query).fetchall()}


@pytest.mark.parametrize(
    "condition",
    ["time = (SELECT max(time) FROM tapecheck_counts.bars WHERE timeframe = '1h')", "extract(hour FROM time) = 7", "true"],
    ids=["the newest", "one of each day", "all"],
)
def test_deleted_rows_are_found(database_url: str, tables: psycopg.Connection[Any], condition: str) -> None:
    """Exactly the rows of the table that went are gone, and those of the newest days have their times."""
    before = stored.row_counts(database_url, SCHEMA)
    times_ms = deleted(tables, condition)
    (lost,) = stored.gone(before, stored.row_counts(database_url, SCHEMA))
    assert (lost.symbol, lost.timeframe, lost.bars) == ("BTC", "1h", len(times_ms)) and times_ms
    assert set(lost.times_ms) == {t for t in times_ms if t >= before.series["BTC", "1h"].since_ms}


@pytest.mark.parametrize("url", ["postgresql://127.0.0.1:1/x", "postgresql://[hunter2"])
def test_a_database_that_cannot_be_counted_is_said_so(url: str) -> None:
    """In a sentence that does not repeat a URL."""
    with pytest.raises(MeasurementError, match="cannot be counted") as caught:
        stored.row_counts(url)
    assert "hunter2" not in str(caught.value)
