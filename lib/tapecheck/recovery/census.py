"""Counts what the live tables hold, before a drill and after it, and finds what has gone. It is cheap, so it does not read it all.

Rows are counted over the whole history, but only the newest `DAYS` of each series are read with their times: of 2.6 million bars in
125 series that takes 0.3 to 0.5 s instead of 1.0 s. So an older bar that went is counted, and has no name.
"""
# ruff: noqa: S608 - what is put into statements is the names of our schemas

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

from tapecheck.errors import MeasurementError
from tapecheck.recovery import stored
from tapecheck.recovery.database import opened, wait_for, within
from tapecheck.recovery.policy import RecoveryPlan
from tapecheck.recovery.recording import Ack

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
    series: Mapping[stored.Key, Held]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """What a series has lost; `times_ms` are the starts of those of its bars that can be named."""

    symbol: str
    timeframe: str
    bars: int
    times_ms: tuple[int, ...]


def snapshot(database_url: str, schema: str = stored.SCHEMA) -> Snapshot:
    """Read what is stored now.

    Raises:
        MeasurementError: the database does not answer, or has no such tables.
    """
    try:
        rows = wait_for(_read, database_url, schema)
    except psycopg.Error as error:
        raise MeasurementError(f"stored bars cannot be counted: {stored.reason(error)}") from None
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


def _gone(key: stored.Key, before: Held, after: Held) -> Gone:
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
