"""The checksum of the final tables, in a real database: equal for equal content, different for every kind of loss."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from test_backfill_sink import bars_of, write

from tapecheck.backfill import checkpoints, schema
from tapecheck.backfill.checkpoints import Checksum
from tapecheck.backfill.sink import Sink
from tapecheck.target.opening import SandboxState

SCHEMA = "test_checksum"


@pytest.fixture(scope="module")
def url(sandbox: SandboxState) -> Iterator[str]:
    """A database with two series in a schema of their own; nothing of it is left."""
    url = sandbox.database_url
    assert url
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
        schema.prepare(url, SCHEMA)
        with Sink(url, schema=SCHEMA) as sink:
            write(sink, bars_of(0, 100))
            write(sink, bars_of(0, 50), "1h")
        yield url
        owner.execute(f"DROP SCHEMA {SCHEMA} CASCADE")


@pytest.fixture
def connection(url: str) -> Iterator[psycopg.Connection[Any]]:
    """A transaction that is rolled back."""
    with psycopg.connect(url) as connection:
        yield connection
        connection.rollback()


def test_equal_content_has_an_equal_checksum(connection: psycopg.Connection[Any]) -> None:
    """Rows in another physical order, read in another time zone and with fewer digits shown, are the same content."""
    before = checkpoints.by_series(connection, SCHEMA)
    assert list(before) == [("T", "1h"), ("T", "5m")] and [part.rows for part in before.values()] == [100, 200]
    assert checkpoints.whole(connection, SCHEMA) == before["T", "1h"] + before["T", "5m"]
    for table in checkpoints.VALUES:
        connection.execute(f"CREATE TEMP TABLE moved ON COMMIT DROP AS SELECT * FROM {SCHEMA}.{table} ORDER BY time DESC, timeframe")
        connection.execute(f"TRUNCATE {SCHEMA}.{table}; INSERT INTO {SCHEMA}.{table} SELECT * FROM moved; DROP TABLE moved")
    connection.execute("SET LOCAL TimeZone = 'Asia/Tokyo'; SET LOCAL extra_float_digits = 0; SET LOCAL DateStyle = 'German'")
    assert checkpoints.by_series(connection, SCHEMA) == before


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
def test_any_change_shows_in_its_series_and_in_the_whole(connection: psycopg.Connection[Any], change: str) -> None:
    """A changed value, a missing row and a row that is there again differ; the other series does not."""
    before, whole = checkpoints.by_series(connection, SCHEMA), checkpoints.whole(connection, SCHEMA)
    connection.execute(f"ALTER TABLE {SCHEMA}.bars DROP CONSTRAINT bars_pkey")
    assert connection.execute(change.replace("{}", SCHEMA)).rowcount in (1, 2)
    after = checkpoints.by_series(connection, SCHEMA)
    assert after["T", "5m"] != before["T", "5m"] and after["T", "5m"].hashes != before["T", "5m"].hashes
    assert after["T", "1h"] == before["T", "1h"]
    assert checkpoints.whole(connection, SCHEMA) != whole


def test_a_zero_has_no_sign(connection: psycopg.Connection[Any]) -> None:
    """What the upsert leaves alone as equal is equal here: 0.0 and -0.0, which roundings of tiny numbers give."""
    sums = []
    for zero in ("0.0", "-0.0"):
        connection.execute(f"UPDATE {SCHEMA}.features SET return_log = '{zero}' {ONE}")
        sums.append(checkpoints.whole(connection, SCHEMA))
    assert sums[0] == sums[1]


def test_bars_under_another_name_are_other_bars(connection: psycopg.Connection[Any]) -> None:
    """A series stored under another symbol changes the whole, although every value is the same."""
    whole = checkpoints.whole(connection, SCHEMA)
    connection.execute(f"UPDATE {SCHEMA}.bars SET symbol = 'U' WHERE timeframe = '1h'")
    assert checkpoints.whole(connection, SCHEMA) != whole


def test_empty_tables_have_a_checksum(connection: psycopg.Connection[Any]) -> None:
    """Nothing stored is no error, and is written as such."""
    connection.execute(f"TRUNCATE {SCHEMA}.bars, {SCHEMA}.features")
    assert checkpoints.whole(connection, SCHEMA) == Checksum() and str(Checksum()) == "0-0000000000000000"


def test_written_form() -> None:
    """A checksum is written with its rows and sixteen digits, and sums do not overflow."""
    assert str(Checksum(rows=2, hashes=2**64 - 1) + Checksum(rows=1, hashes=16)) == "3-000000000000000f"
