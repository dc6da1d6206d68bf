"""What a database keeps of what it acknowledged: bars written while a drill runs, and the rows of the target's own tables.

As Jepsen's set-full: a bar whose commit got no answer may be there or not, and is never written again, which would hide a loss.
"""
# ruff: noqa: S608 - what is put into statements is the names of our schemas

import asyncio
import contextlib
import threading
import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from typing import Any, Self

import anyio
import psycopg
from anyio.from_thread import start_blocking_portal

from tapecheck.database import PATIENCE_S, PAUSE_S, Connection, opened, wait_for, within
from tapecheck.errors import MeasurementError, first_line
from tapecheck.recovery.objectives import RecoveryPlan
from tapecheck.recovery.recording import WrittenBar
from tapecheck.target.mapping import BAR_AT, BARS, COUNTS, NEWEST, SYMBOLS, TIME_MS, Key
from tapecheck.target.mapping import SCHEMA as LIVE
from tapecheck.vendor.bars import TIMEFRAMES, to_datetime
from tapecheck.vendor.rate_limit import Retry
from tapecheck.vendor.source import Source
from tapecheck.vendor.wire import SourceError

SCHEMA = "tapecheck_drill"
TIMEFRAME, MINUTES = "5m", 5.0
MOST_PER_S = 100.0  # commits; more would be a load test, and slow the probes beside it
MOST_BARS = 90_000  # of all symbols together, their newest: a quarter of an hour of writing
READ_S = 10.0  # for the statements before and after the drill

_BEGIN = (
    "SET synchronous_commit = on",  # of the table alone: a server that may lose its last commits keeps what they are looked for in
    f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}",
    f"DROP TABLE IF EXISTS {SCHEMA}.bars",
    f"CREATE TABLE {SCHEMA}.bars (LIKE {BARS}, PRIMARY KEY (symbol, timeframe, time))",
)
_END = (f"SET lock_timeout = '{PATIENCE_S}s'", f"DROP TABLE IF EXISTS {SCHEMA}.bars", f"DROP SCHEMA IF EXISTS {SCHEMA}")
_WRITE = f"INSERT INTO {SCHEMA}.bars {BAR_AT}"
_READ = f"SELECT symbol, {TIME_MS} FROM {SCHEMA}.bars"

Bar = tuple[str, int]  # symbol, and start in Unix milliseconds


class Recorder:
    """Writes while its block lasts, as a context manager; ask it afterwards for the `bars` that it wrote.

    The bars are copies of every symbol's newest live ones, one of each symbol in turn, those that the plan names first, each symbol's in
    the order of time, in a table of its own that is dropped in the end. It writes in a thread, no faster than `most_per_s`, and stops
    when it has written all of them. Where there are none to copy, or none can be written, entering is a `MeasurementError`.
    """

    def __init__(self, database_url: str, plan: RecoveryPlan, *, drill: str, trial: int, most_per_s: float = MOST_PER_S) -> None:
        self._database_url, self._period_s = database_url, 1 / most_per_s
        self._named = {symbol for symbols in plan.named.values() for symbol in symbols}
        self._drill, self._trial = drill, trial
        self._left: deque[Bar] = deque()
        self._noted: list[WrittenBar] = []
        self._over = threading.Event()
        self._thread = contextlib.ExitStack()
        self._writing: Future[None] | None = None
        self._read_again = False

    def __enter__(self) -> Self:
        try:
            self._left.extend(wait_for(self._begin))
        except psycopg.Error as error:
            raise MeasurementError(f"no bars can be recorded during {self._drill}: {first_line(error)}") from None
        if not self._left:
            raise MeasurementError(f"no bars can be recorded during {self._drill}: {BARS} has none of {TIMEFRAME}")
        self._writing = self._thread.enter_context(start_blocking_portal()).start_task_soon(self._write)
        return self

    def __exit__(self, kind: type[BaseException] | None, *caught: object) -> None:
        self._stop()
        if kind is not None:  # nobody will ask for the bars
            self._read_again = True
            wait_for(self._drop)

    def bars(self, *, within_s: float = 30.0) -> list[WrittenBar]:
        """Read what is there over a new connection, once the database answers, and return every bar with that; then drop the table.

        Where the database does not answer in time, nothing is known of what was found.
        """
        self._stop()
        if not self._read_again:
            there = wait_for(self._read, time.monotonic() + within_s)
            if there is not None:
                self._noted = [replace(bar, found=(bar.symbol, bar.time_ms) in there) for bar in self._noted]
            self._read_again = True
            wait_for(self._drop)
        return self._noted

    def _stop(self) -> None:
        """Let the write that is on its way end, for which it has `PATIENCE_S`."""
        self._over.set()
        self._thread.close()
        if self._writing is not None:
            self._writing.result()

    async def _begin(self) -> Sequence[Bar]:
        """Make an empty table, and return what to write: one bar of every symbol in turn."""
        async with opened(self._database_url) as connection:
            with within(connection, READ_S):
                for statement in _BEGIN:
                    await connection.execute(statement)
                symbols = [str(row[0]) for row in await _rows(connection, SYMBOLS, TIMEFRAME)]
                symbols.sort(key=lambda symbol: symbol not in self._named)  # in a short drill those alone have a bar, if there are many
                newest = {symbol: await _rows(connection, NEWEST, symbol, TIMEFRAME, MOST_BARS // len(symbols)) for symbol in symbols}
        series = [[(symbol, int(row[0])) for row in reversed(rows)] for symbol, rows in newest.items()]
        return [bar for bar in chain.from_iterable(zip_longest(*series)) if bar is not None]

    async def _write(self) -> None:
        while self._left and not self._over.is_set():
            try:
                async with opened(self._database_url) as connection:
                    while self._left and not self._over.is_set():
                        began_s = time.monotonic()
                        await self._commit(connection, *self._left.popleft())
                        await asyncio.sleep(began_s + self._period_s - time.monotonic())
            except psycopg.Error:  # noted by then, if anything was sent
                await asyncio.sleep(PAUSE_S)

    async def _commit(self, connection: Connection, symbol: str, time_ms: int) -> None:
        """Write one bar and note whether it was acknowledged; an error is no answer, for a server that ends may have committed."""
        acked_ns = None
        try:
            with within(connection, PATIENCE_S):
                written = await connection.execute(_WRITE, (symbol, TIMEFRAME, time_ms))
            if written.rowcount:  # else the live bar is gone, and nothing was acknowledged
                acked_ns = time.monotonic_ns()
        finally:
            self._noted.append(
                WrittenBar(drill=self._drill, trial=self._trial, symbol=symbol, time_ms=time_ms, minutes=MINUTES, acked_ns=acked_ns)
            )

    async def _read(self, until_s: float) -> set[Bar] | None:
        """Return the bars that are there, or None where the database does not say."""
        while True:
            try:
                async with opened(self._database_url) as connection:
                    with within(connection, READ_S):
                        return {(str(row[0]), int(row[1])) for row in await _rows(connection, _READ)}
            except psycopg.errors.UndefinedTable:  # an answer: all of it is gone
                return set()
            except psycopg.Error:
                if time.monotonic() >= until_s:
                    return None
            await asyncio.sleep(PAUSE_S)

    async def _drop(self) -> None:
        """Drop the table if that can be done now; a table that stays is dropped by the next recorder."""
        with contextlib.suppress(psycopg.Error):
            async with opened(self._database_url) as connection:
                with within(connection, 2 * PATIENCE_S):
                    for statement in _END:
                        await connection.execute(statement)


async def _rows(connection: Connection, statement: str, *values: object) -> list[tuple[Any, ...]]:
    return await (await connection.execute(statement.encode(), values or None)).fetchall()


# ---- row counts of the target's own tables ----

COUNT_S = 30.0  # for all of it


@dataclass(frozen=True, slots=True, kw_only=True)
class RowCount:
    """One series as far as it is complete: rows that the target acknowledges, rows that are there, and the starts of the newest."""

    acknowledged: int
    found: int
    since_ms: int
    times_ms: frozenset[int]


Counts = Mapping[Key, RowCount]
Gone = tuple[int, list[int]]  # how many rows a series has lost, and the starts of those that can be named


def row_counts(database_url: str, schema: str = LIVE) -> Counts:
    """Count what is stored now; a `MeasurementError` says that the database does not answer, or has no such tables."""

    async def counted() -> list[tuple[Any, ...]]:
        async with opened(database_url) as connection:
            with within(connection, COUNT_S):
                return await _rows(connection, COUNTS.format(schema=schema))

    try:
        rows = wait_for(counted)
    except psycopg.Error as error:
        raise MeasurementError(f"stored bars cannot be counted: {first_line(error)}") from None
    return {
        (symbol, frame): RowCount(acknowledged=acknowledged, found=found, since_ms=since_ms, times_ms=frozenset(times_ms))
        for symbol, frame, acknowledged, found, since_ms, times_ms in rows
    }


def gone(before: Counts, after: Counts) -> dict[Key, Gone]:
    """Return what is gone of each series: rows that were there, and rows that its checkpoint acknowledges more than before in vain."""
    missing = RowCount(acknowledged=0, found=0, since_ms=0, times_ms=frozenset())
    found = {key: _gone(old, after.get(key, missing)) for key, old in before.items()}
    return {key: lost for key, lost in found.items() if lost[0]}


def _gone(before: RowCount, after: RowCount) -> Gone:
    named = sorted(t for t in before.times_ms - after.times_ms if t >= after.since_ms)
    in_vain = (after.acknowledged - after.found) - (before.acknowledged - before.found)
    return max(len(named), before.found - after.found, in_vain, 0), named


def as_bars(gone: Mapping[Key, Gone], *, drill: str, trial: int, acked_ns: int) -> list[WrittenBar]:
    """Return the bars that can be named, acknowledged at the latest before the drill, and not found."""
    minutes = {key: TIMEFRAMES[key[1]].length_s / 60 for key in gone}
    return [
        WrittenBar(drill=drill, trial=trial, symbol=key[0], time_ms=at, minutes=minutes[key], acked_ns=acked_ns, found=False)
        for key, (_, times_ms) in gone.items()
        for at in times_ms
    ]


# ---- refetch ----

RETRY = Retry(first_s=0.5, cap_s=2.0, budget_s=10.0)
NAMES = {frame.length_s / 60: name for name, frame in TIMEFRAMES.items()}  # of timeframes, by their minutes
Series = tuple[str, float]  # symbol and minutes of a bar


def ask_upstream(bars: Sequence[WrittenBar], source_url: str | None, key: str, *, within_s: float = 30.0) -> list[WrittenBar]:
    """Return the bars with `refetchable` set for each lost one; None where upstream cannot be asked, or gives no answer to rely on.

    The key is sent only as a header, and without one nothing is; after `within_s` nothing more is asked.
    """
    lost: defaultdict[Series, list[int]] = defaultdict(list)
    for bar in bars:
        if bar.fate == "lost":
            lost[bar.symbol, bar.minutes].append(bar.time_ms)
    held = wait_for(_held, lost, source_url, key, within_s) if lost and source_url else {}

    def asked(bar: WrittenBar) -> WrittenBar:
        known = held.get((bar.symbol, bar.minutes)) if bar.fate == "lost" else None
        return bar if known is None else replace(bar, refetchable=bar.time_ms in known)

    return [asked(bar) for bar in bars]


async def _held(lost: Mapping[Series, Sequence[int]], source_url: str, key: str, within_s: float) -> dict[Series, set[int]]:
    """Return the starts of the bars that upstream has between the first and the last lost one of each series, as far as it says."""
    found: dict[Series, set[int]] = {}
    async with Source(source_url, key, retry=RETRY) as source:
        with anyio.move_on_after(within_s):
            for (symbol, minutes), times_ms in lost.items():
                span = to_datetime(min(times_ms)), to_datetime(max(times_ms))
                with contextlib.suppress(SourceError):
                    found[symbol, minutes] = {int(t) async for page in source.pages(symbol, NAMES[minutes], *span) for t in page.bars.t}
    return found
