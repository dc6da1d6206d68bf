"""What a target's own database holds: the age of each series, and how many of its bars are there. It writes nothing."""
# ruff: noqa: S608 - what is put into statements is the names of our schemas

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

from tapecheck import database
from tapecheck.database import opened, wait_for, within
from tapecheck.errors import MeasurementError, first_line
from tapecheck.recovery.recording import Key, Row, Stored, WrittenBar
from tapecheck.vendor.bars import TIMEFRAMES

SCHEMA = "tapecheck"  # where a service keeps `checkpoints`, `bars` and `features`, as the backfill's tables are
CONNECT_S = 5  # a frozen server accepts nobody
STATEMENT_S = 10

log = logging.getLogger(__name__)

_ROWS = f"""
SELECT c.symbol, c.timeframe, c.state, extract(epoch FROM clock_timestamp() - c.refreshed_at)::float8,
    (SELECT max(b.time) FROM {SCHEMA}.bars b WHERE b.symbol = c.symbol AND b.timeframe = c.timeframe),
    EXISTS (SELECT FROM {SCHEMA}.features f WHERE f.symbol = c.symbol AND f.timeframe = c.timeframe)
FROM {SCHEMA}.checkpoints c
"""


def read(database_url: str) -> Stored:
    """Read every series in one snapshot.

    Raises:
        psycopg.Error: the database is away, or has no such tables.
    """
    with connect(database_url) as connection:
        connection.read_only = True
        found = connection.execute(_ROWS).fetchall()
        read_s = time.monotonic()
    names = ("symbol", "timeframe", "state", "age_s", "newest", "has_features")
    return Stored(rows={f"{row[0]} {row[1]}": Row(**dict(zip(names, row, strict=True))) for row in found}, read_s=read_s)


def read_if_there(database_url: str | None) -> Stored | None:
    """Return what `read` does; None, with the reason in the log, where there is no database to ask."""
    if database_url is None:
        return None
    try:
        return read(database_url)
    except psycopg.Error as error:
        log.warning("ages are not checked against the database: %s", reason(error))
        return None


def connect(database_url: str) -> psycopg.Connection:
    """Return a connection, made within `CONNECT_S`, whose statements take at most `STATEMENT_S`."""
    return database.connect(database_url, statement_timeout=f"{STATEMENT_S}s", connect_timeout=CONNECT_S)


def reason(error: psycopg.Error) -> str:
    """Return an error's first line, which never holds a password; of a URL that cannot be read, not what it says."""
    if isinstance(error, psycopg.ProgrammingError) and error.sqlstate is None:
        return "its URL cannot be read"
    return first_line(error)


# ---- row counts ----

DAYS = 30
READ_S = 30.0  # for all of it
_MS = "(extract(epoch FROM {}) * 1000)::int8"
_SERIES = f"""
SELECT job.symbol, job.timeframe, job.rows, whole.found, {_MS.format(f"job.watermark - interval '{DAYS} days'")}, newest.times
FROM {{schema}}.checkpoints job,
LATERAL (SELECT count(*) AS found FROM {{schema}}.bars bar
         WHERE bar.symbol = job.symbol AND bar.timeframe = job.timeframe AND bar.time <= job.watermark) whole,
LATERAL (SELECT coalesce(array_agg({_MS.format("bar.time")}), '{{{{}}}}') AS times FROM {{schema}}.bars bar
         WHERE bar.symbol = job.symbol AND bar.timeframe = job.timeframe AND bar.time <= job.watermark
           AND bar.time >= job.watermark - interval '{DAYS} days') newest
WHERE job.watermark IS NOT NULL"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowCount:
    """One series up to its watermark: rows that its checkpoint acknowledges, rows that are there, and the starts of the newest."""

    acknowledged: int
    found: int
    since_ms: int
    times_ms: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowCounts:
    """All series at one moment, `at_ns` on the monotonic clock."""

    at_ns: int
    series: Mapping[Key, RowCount]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """What a series has lost; `times_ms` are the starts of those of its bars that can be named."""

    symbol: str
    timeframe: str
    bars: int
    times_ms: tuple[int, ...]


def row_counts(database_url: str, schema: str = SCHEMA) -> RowCounts:
    """Count what is stored now.

    Raises:
        MeasurementError: the database does not answer, or has no such tables.
    """
    try:
        rows = wait_for(_counted, database_url, schema)
    except psycopg.Error as error:
        raise MeasurementError(f"stored bars cannot be counted: {reason(error)}") from None
    series = {
        (row[0], row[1]): RowCount(acknowledged=row[2], found=row[3], since_ms=row[4], times_ms=frozenset(row[5])) for row in rows
    }  # fmt: skip
    return RowCounts(at_ns=time.monotonic_ns(), series=series)


async def _counted(database_url: str, schema: str) -> list[tuple[Any, ...]]:
    async with opened(database_url) as connection:
        with within(connection, READ_S):
            return await (await connection.execute(_SERIES.format(schema=schema).encode())).fetchall()


def gone(before: RowCounts, after: RowCounts) -> list[Gone]:
    """Return what is gone of each series: rows that were there, and rows that its checkpoint acknowledges more than before in vain."""
    missing = RowCount(acknowledged=0, found=0, since_ms=0, times_ms=frozenset())
    found = [_gone(key, old, after.series.get(key, missing)) for key, old in before.series.items()]
    return [one for one in found if one.bars]


def _gone(key: Key, before: RowCount, after: RowCount) -> Gone:
    named = sorted(t for t in before.times_ms - after.times_ms if t >= after.since_ms)
    in_vain = (after.acknowledged - after.found) - (before.acknowledged - before.found)
    bars = max(len(named), before.found - after.found, in_vain, 0)
    return Gone(symbol=key[0], timeframe=key[1], bars=bars, times_ms=tuple(named))


def as_bars(gone: Iterable[Gone], *, drill: str, trial: int, acked_ns: int) -> list[WrittenBar]:
    """Return the bars that can be named, acknowledged at the latest when they were seen, and not found."""
    return [
        WrittenBar(
            drill=drill,
            trial=trial,
            symbol=one.symbol,
            time_ms=time_ms,
            minutes=TIMEFRAMES[one.timeframe].length_s / 60,
            acked_ns=acked_ns,
            found=False,
        )
        for one in gone
        for time_ms in one.times_ms
    ]
