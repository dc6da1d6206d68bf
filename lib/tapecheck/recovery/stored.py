"""What a target's own database says of its ages: checkpoints, newest bars, features. It writes nothing."""
# ruff: noqa: S608 - what is put into statements is the schema's name, a constant of ours
# ruff: noqa: S608 - what is put into statements is the names of our schemas

import datetime as dt
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

from tapecheck.database import opened, wait_for, within
from tapecheck.errors import ConfigError, MeasurementError, Problem, first_line
from tapecheck.recovery.objectives import RecoveryPlan
from tapecheck.recovery.recording import Ack
from tapecheck.target.file import Target
from tapecheck.target.opening import beyond, is_local_database

SCHEMA = "tapecheck"  # where a service keeps `checkpoints`, `bars` and `features`, as the backfill's tables are
CONNECT_S = 5  # a frozen server accepts nobody
STATEMENT_MS = 10_000
Key = tuple[str, str]

log = logging.getLogger(__name__)

_ROWS = f"""
SELECT c.symbol, c.timeframe, c.state, extract(epoch FROM clock_timestamp() - c.refreshed_at)::float8,
    (SELECT max(b.time) FROM {SCHEMA}.bars b WHERE b.symbol = c.symbol AND b.timeframe = c.timeframe),
    EXISTS (SELECT FROM {SCHEMA}.features f WHERE f.symbol = c.symbol AND f.timeframe = c.timeframe)
FROM {SCHEMA}.checkpoints c
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One series: its age by the database's own clock, None for what never was complete; its newest bar; whether it has features."""

    state: str
    age_s: float | None
    newest: dt.datetime | None
    has_features: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Every series at one moment, `read_s` on the monotonic clock."""

    rows: Mapping[Key, Row]
    read_s: float

    def age_s(self, key: Key, moment_s: float) -> float | None:
        """Return the age that a series of then has at another moment."""
        row = self.rows.get(key)
        return None if row is None or row.age_s is None else row.age_s + (moment_s - self.read_s)


def read(database_url: str) -> Stored:
    """Read every series in one snapshot.

    Raises:
        psycopg.Error: the database is away, or has no such tables.
    """
    with connect(database_url) as connection:
        connection.read_only = True
        connection.execute(f"SET LOCAL statement_timeout = {STATEMENT_MS}")
        found = connection.execute(_ROWS).fetchall()
        read_s = time.monotonic()
    rows = {(row[0], row[1]): Row(state=row[2], age_s=row[3], newest=row[4], has_features=row[5]) for row in found}
    return Stored(rows=rows, read_s=read_s)


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
    """Return a connection, made within `CONNECT_S`."""
    return psycopg.connect(database_url, connect_timeout=CONNECT_S)


def reason(error: psycopg.Error) -> str:
    """Return an error's first line, which never holds a password; of a URL that cannot be read, not what it says."""
    if isinstance(error, psycopg.ProgrammingError) and error.sqlstate is None:
        return "its URL cannot be read"
    return first_line(error)


def refuse_remote(target: Target, database_url: str) -> None:
    """Refuse a database beyond this machine that the target does not allow to be asked.

    Raises:
        ConfigError: it is one, or its URL cannot be read.
    """
    try:
        is_here = is_local_database(database_url)
    except psycopg.ProgrammingError:
        allowed = "postgresql://user@host:5432/database"
        problem = Problem(file=f"target {target.name}", key="database_url", got="a URL that cannot be read", allowed=allowed)
        raise ConfigError([problem]) from None
    if not is_here and not target.allow_remote:
        raise ConfigError([beyond(target, "its database may be on another machine")])


# ---- census ----

DAYS = 30
READ_S = 30.0  # for all of it
_UNIT_MINUTES = {"m": 1, "h": 60, "d": 1440}
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
class Held:
    """One series up to its watermark: rows that its checkpoint acknowledges, rows that are there, and the starts of the newest."""

    acknowledged: int
    found: int
    since_ms: int
    times_ms: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All series at one moment, `at_ns` on the monotonic clock."""

    at_ns: int
    series: Mapping[Key, Held]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """What a series has lost; `times_ms` are the starts of those of its bars that can be named."""

    symbol: str
    timeframe: str
    bars: int
    times_ms: tuple[int, ...]


def snapshot(database_url: str, schema: str = SCHEMA) -> Snapshot:
    """Read what is stored now.

    Raises:
        MeasurementError: the database does not answer, or has no such tables.
    """
    try:
        rows = wait_for(_read, database_url, schema)
    except psycopg.Error as error:
        raise MeasurementError(f"stored bars cannot be counted: {reason(error)}") from None
    at_ns = time.monotonic_ns()
    return Snapshot(
        at_ns=at_ns,
        series={
            (symbol, timeframe): Held(acknowledged=acknowledged, found=found, since_ms=since_ms, times_ms=frozenset(times_ms))
            for symbol, timeframe, acknowledged, found, since_ms, times_ms in rows
        },
    )


async def _read(database_url: str, schema: str) -> list[tuple[Any, ...]]:
    async with opened(database_url) as connection:
        with within(connection, READ_S):
            return await (await connection.execute(_SERIES.format(schema=schema).encode())).fetchall()


def compare(before: Snapshot, after: Snapshot) -> list[Gone]:
    """Return what is gone of each series: rows that were there, and rows that its checkpoint acknowledges more than before in vain."""
    missing = Held(acknowledged=0, found=0, since_ms=0, times_ms=frozenset())
    found = [_gone(key, old, after.series.get(key, missing)) for key, old in before.series.items()]
    return [one for one in found if one.bars]


def _gone(key: Key, before: Held, after: Held) -> Gone:
    named = sorted(t for t in before.times_ms - after.times_ms if t >= after.since_ms)
    in_vain = (after.acknowledged - after.found) - (before.acknowledged - before.found)
    bars = max(len(named), before.found - after.found, in_vain, 0)
    return Gone(symbol=key[0], timeframe=key[1], bars=bars, times_ms=tuple(named))


def as_acks(gone: Iterable[Gone], plan: RecoveryPlan, *, drill: str, trial: int, acked_ns: int) -> list[Ack]:
    """Return the bars that can be named as lost ones, acknowledged at the latest when they were seen."""
    return [
        Ack(
            drill=drill,
            trial=trial,
            symbol=one.symbol,
            tier=plan.tier_of(one.symbol),
            time_ms=time_ms,
            minutes=minutes_of(one.timeframe),
            acked_ns=acked_ns,
            fate="lost",
        )
        for one in gone
        for time_ms in one.times_ms
    ]


def minutes_of(timeframe: str) -> float:
    """Return the length of a bar, `5m` or `4h` or `1d`."""
    return float(timeframe[:-1]) * _UNIT_MINUTES[timeframe[-1]]
