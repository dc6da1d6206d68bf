"""Writes real bars while a drill runs, one commit each, notes which were acknowledged, and reads in the end which are there.

As Jepsen's set-full: a bar whose commit got no answer may be there or not, and is never written again, which would hide a loss.
"""
# ruff: noqa: S608 - what is put into statements is the names of our schemas

import asyncio
import contextlib
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from types import TracebackType
from typing import Self

import psycopg
from anyio.from_thread import start_blocking_portal
from pydantic import BaseModel

from tapecheck.database import PATIENCE_S, PAUSE_S, Connection, opened, wait_for, within
from tapecheck.errors import MeasurementError
from tapecheck.http import Server
from tapecheck.recovery import stored
from tapecheck.recovery.objectives import OTHERS, RecoveryPlan
from tapecheck.recovery.recording import WrittenBar
from tapecheck.target.file import RequestTemplate
from tapecheck.vendor.bars import ticker_of

SCHEMA, LIVE = "tapecheck_drill", stored.SCHEMA
TIMEFRAME, MINUTES = "5m", 5.0
MOST_PER_S = 100.0  # commits; more would be a load test, and slow the probes beside it
BARS = 90_000  # of all symbols together, their newest: a quarter of an hour of writing
READ_S = 10.0  # for the statements before and after the drill

_BEGIN = (
    f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}",
    f"DROP TABLE IF EXISTS {SCHEMA}.bars",
    f"CREATE TABLE {SCHEMA}.bars (LIKE {LIVE}.bars, PRIMARY KEY (symbol, timeframe, time))",
)
_END = (f"SET lock_timeout = '{PATIENCE_S}s'", f"DROP TABLE IF EXISTS {SCHEMA}.bars", f"DROP SCHEMA IF EXISTS {SCHEMA}")
_SYMBOLS = f"SELECT symbol FROM {LIVE}.checkpoints WHERE timeframe = '{TIMEFRAME}' AND rows > 0 ORDER BY symbol"
_TIME_MS = "(extract(epoch FROM time) * 1000)::int8"
_NEWEST = f"SELECT {_TIME_MS} FROM {LIVE}.bars WHERE symbol = %s AND timeframe = '{TIMEFRAME}' ORDER BY time DESC LIMIT %s"
_WRITE = (
    f"INSERT INTO {SCHEMA}.bars SELECT * FROM {LIVE}.bars"
    f" WHERE symbol = %s AND timeframe = '{TIMEFRAME}' AND time = to_timestamp(%s / 1000.0)"
)
_READ = f"SELECT symbol, {_TIME_MS} FROM {SCHEMA}.bars"

Bar = tuple[str, int]  # symbol, and start in Unix milliseconds


class Recorder:
    """Writes while its block lasts, as a context manager; ask it afterwards for the `bars` that it wrote.

    The bars are copies of every symbol's newest live ones, one of each symbol in turn, those that the plan names first, each symbol's in
    the order of time, in a table of its own that is dropped in the end. It writes in a thread, no faster than `most_per_s`, and stops
    when it has written all of them.

    Args:
        drill: the name of the drill, and which `trial` of it this is.

    Raises:
        MeasurementError: on entering: the database cannot be written to, or there are no live bars to copy.
    """

    def __init__(self, database_url: str, plan: RecoveryPlan, *, drill: str, trial: int, most_per_s: float = MOST_PER_S) -> None:
        self._database_url, self._plan, self._period_s = database_url, plan, 1 / most_per_s
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
            raise MeasurementError(f"no bars can be recorded during {self._drill}: {stored.reason(error)}") from None
        if not self._left:
            raise MeasurementError(f"no bars can be recorded during {self._drill}: {LIVE}.bars has none of {TIMEFRAME}")
        self._writing = self._thread.enter_context(start_blocking_portal()).start_task_soon(self._write)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()
        if kind is not None:  # nobody will ask for the bars
            self._read_again = True
            wait_for(self._drop)

    def bars(self, *, within_s: float = 30.0) -> list[WrittenBar]:
        """Read what is there over a new connection, once the database answers, and return every bar with that; then drop the table.

        Args:
            within_s: how long to wait for the database; where it does not answer, nothing is known of what was found.
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
                symbols = [str(row[0]) for row in await (await connection.execute(_SYMBOLS)).fetchall()]
                symbols.sort(key=self._is_other)  # in a short drill they alone have a bar, if there are many
                series = [await _newest(connection, symbol, BARS // len(symbols)) for symbol in symbols]
        return [bar for bar in chain.from_iterable(zip_longest(*series)) if bar is not None]

    def _is_other(self, symbol: str) -> bool:
        tier = self._plan.tier_of(symbol)
        return tier is None or self._plan.rpo[tier].symbols == OTHERS

    async def _write(self) -> None:
        while self._left and not self._over.is_set():
            try:
                async with opened(self._database_url) as connection:
                    await self._write_over(connection)
            except psycopg.Error:  # noted by then, if anything was sent
                await asyncio.sleep(PAUSE_S)

    async def _write_over(self, connection: Connection) -> None:
        """Write bar after bar, until there are no more or the connection fails."""
        while self._left and not self._over.is_set():
            began_s = time.monotonic()
            await self._commit(connection, *self._left.popleft())
            await asyncio.sleep(began_s + self._period_s - time.monotonic())

    async def _commit(self, connection: Connection, symbol: str, time_ms: int) -> None:
        """Write one bar and note whether it was acknowledged; an error is no answer, for a server that ends may have committed.

        Raises:
            psycopg.Error: it was not.
        """
        acked_ns = None
        try:
            with within(connection, PATIENCE_S):
                written = await connection.execute(_WRITE, (symbol, time_ms))
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
                        return {(str(row[0]), int(row[1])) for row in await (await connection.execute(_READ)).fetchall()}
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


async def _newest(connection: Connection, symbol: str, most: int) -> list[Bar]:
    rows = await (await connection.execute(_NEWEST, (symbol, most))).fetchall()
    return [(symbol, int(row[0])) for row in reversed(rows)]


# ---- refetch ----

LIMIT = 50_000  # base aggregates a page, the most that the vendor allows: minutes, for all bars but those of days
PAUSES_S = (0.5, 1.0, 2.0)  # before another attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    """Lost bars of one symbol and length that one page can hold, in the order of time."""

    symbol: str
    minutes: float
    times_ms: Sequence[int]


class _Aggregate(BaseModel):
    t: int


class _Page(BaseModel):
    """A page of the vendor's aggregates."""

    ticker: str
    status: str
    resultsCount: int
    results: tuple[_Aggregate, ...] = ()
    next_url: str | None = None

    def times_ms(self, ticker: str) -> set[int] | None:
        """Return the starts of its bars if it is whole and of this ticker; None for any other, of which nothing can be concluded."""
        is_whole = self.status in ("OK", "DELAYED") and self.ticker == ticker and not self.next_url
        return {bar.t for bar in self.results} if is_whole and len(self.results) == self.resultsCount else None


def ask_upstream(bars: Sequence[WrittenBar], source_url: str | None, key: str, *, within_s: float = 30.0) -> list[WrittenBar]:
    """Return the bars with `refetchable` set for each lost one; None where upstream cannot be asked, or gives no answer to rely on.

    Args:
        source_url: of the vendor's API, or None without one.
        key: sent only as a header, and without one nothing is.
        within_s: after which no further request is made.
    """
    has: dict[tuple[str, float, int], bool] = {}
    lost, until_s = [bar for bar in bars if bar.fate == "lost"], time.monotonic() + within_s
    if lost and source_url:
        headers = [("Accept", "application/json"), *([("Authorization", f"Bearer {key}")] if key else [])]
        with Server(source_url, headers=headers) as vendor:
            for window in _windows(lost):
                held = _held(vendor, window, until_s)
                has |= {(window.symbol, window.minutes, t): t in held for t in window.times_ms} if held is not None else {}
    return [replace(bar, refetchable=has.get((bar.symbol, bar.minutes, bar.time_ms))) if bar.fate == "lost" else bar for bar in bars]


def _windows(lost: Iterable[WrittenBar]) -> Iterator[_Window]:
    """Put bars together that one page holds, so that it needs no second one."""
    series: defaultdict[tuple[str, float], list[int]] = defaultdict(list)
    for bar in lost:
        series[bar.symbol, bar.minutes].append(bar.time_ms)
    for (symbol, minutes), times_ms in series.items():
        times_ms.sort()
        width_ms = (LIMIT - minutes) * 60_000
        first = 0
        for at, t in enumerate(times_ms):
            if t - times_ms[first] > width_ms:
                yield _Window(symbol=symbol, minutes=minutes, times_ms=times_ms[first:at])
                first = at
        yield _Window(symbol=symbol, minutes=minutes, times_ms=times_ms[first:])


def _held(vendor: Server, window: _Window, until_s: float) -> set[int] | None:
    """Return the starts of the bars that upstream has in a window, or None where it does not say."""
    ticker = ticker_of(window.symbol)
    path = f"/v2/aggs/ticker/{ticker}/range/{_range(window.minutes)}/{window.times_ms[0]}/{window.times_ms[-1]}"
    request = RequestTemplate(request=f"GET {path}?adjusted=true&sort=asc&limit={LIMIT}")
    for pause_s in (*PAUSES_S, 0.0):
        if time.monotonic() >= until_s:
            return None
        (answer,) = vendor.send(request)
        page = answer.parsed(_Page)
        times_ms = page.times_ms(ticker) if page else None
        if times_ms is not None or (400 <= answer.status < 500 and answer.status != 429):
            return times_ms
        time.sleep(pause_s)
    return None


def _range(minutes: float) -> str:
    """Return how the vendor's API writes the length of a bar."""
    if minutes < 60:
        return f"{minutes:g}/minute"
    return f"{minutes / 60:g}/hour" if minutes < 1440 else f"{minutes / 1440:g}/day"
