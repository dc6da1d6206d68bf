"""The api's way to the database: bounded threads, a cache, and a heartbeat that notices a dead or frozen server. It knows no HTTP."""
# ruff: noqa: S608 - what is put into statements is column and table names, constants of ours

import asyncio
import datetime as dt
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
from psycopg.rows import dict_row
from pydantic import TypeAdapter

from tapecheck import database
from tapecheck.backfill.features import NAMES
from tapecheck.sandbox.answers import Bar, FeatureBar, Freshness, freshness_of

THREADS, WAIT_S, HEARTBEAT_S = 6, 1.5, 0.5
TTL_S, MOST_QUERIES, MOST_BYTES = 300.0, 1000, 256 * 2**20
T = TypeVar("T")

_BAR = "b.time, b.o AS open, b.h AS high, b.l AS low, b.c AS close, b.v AS volume, b.vw AS vwap, b.n AS trades"
_WHERE = "WHERE b.symbol = %(symbol)s AND b.timeframe = %(timeframe)s"
_NEWEST = f"SELECT * FROM tapecheck.{{}} b {_WHERE} ORDER BY b.time DESC LIMIT %(limit)s"
NEWEST_FEATURES = (  # both tables have the same keys, so two short scans and a merge do what a join row by row would
    f"SELECT {_BAR}, {', '.join(NAMES)} FROM ({_NEWEST.format('bars')}) b LEFT JOIN ({_NEWEST.format('features')}) f"
    " ON f.time = b.time ORDER BY b.time DESC"
)
OLDEST_BARS = f"SELECT {_BAR} FROM tapecheck.bars b {_WHERE} AND b.time BETWEEN %(start)s AND %(end)s ORDER BY b.time LIMIT %(limit)s"
NEWEST_BARS = f"SELECT {_BAR} FROM tapecheck.bars b {_WHERE} AND b.time <= %(end)s ORDER BY b.time DESC LIMIT %(limit)s"
_bars, _feature_bars = TypeAdapter(list[Bar]), TypeAdapter(list[FeatureBar])


class DatabaseGone(Exception):
    """The database did not answer in time, or is known to be gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A series that someone asked for; equal queries share one answer."""

    sql: str
    symbol: str
    timeframe: str
    limit: int
    start: dt.datetime | None = None
    end: dt.datetime | None = None

    def values(self) -> dict[str, Any]:
        """Return the values of the SQL's placeholders."""
        return {name: getattr(self, name) for name in ("symbol", "timeframe", "limit", "start", "end")}


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedRows:
    """An answer's rows, validated and encoded; `refreshed_at` is Unix seconds, None for what never was complete.

    `db_ms` is how long the database took, without the wait for a thread.
    """

    rows: bytes
    count: int
    refreshed_at: float | None
    read_s: float
    db_ms: float

    def age_s(self) -> float | None:
        """Return the age of the data now."""
        return None if self.refreshed_at is None else max(0.0, time.time() - self.refreshed_at)

    def freshness(self) -> Freshness:
        """Return the class of the data now."""
        return freshness_of(self.age_s())


class Store:
    """Asks the database in threads; `up` is what the heartbeat last saw."""

    def __init__(self, database_url: Callable[[], str]) -> None:
        self._url, self._local = database_url, threading.local()
        self._threads = ThreadPoolExecutor(THREADS, "query")
        self._heart = ThreadPoolExecutor(1, "heartbeat")
        self._asked: dict[Query, asyncio.Future[CachedRows]] = {}
        self._cache: OrderedDict[Query, CachedRows] = OrderedDict()
        self._bytes = 0
        self.up = False

    def cached(self, query: Query) -> CachedRows | None:
        """Return what the query last gave, however old."""
        entry = self._cache.get(query)
        if entry is not None:
            self._cache.move_to_end(query)
        return entry

    def current(self, query: Query) -> CachedRows | None:
        """Return what the query gave, if that is recent and fresh enough not to ask again."""
        entry = self.cached(query)
        return entry if entry and time.monotonic() < entry.read_s + TTL_S and entry.freshness() == "fresh" else None

    async def read(self, query: Query) -> CachedRows:
        """Ask the database, once for all who ask the same at once; DatabaseGone after `WAIT_S`, or while it is known to be gone."""
        future = self._asked.get(query)
        if future is None:
            future = self._asked[query] = self._submitted(lambda connection: _entry(connection, query))
            future.add_done_callback(lambda done: self._keep(query, done))
        return await self._in_time(future)

    async def ask(self, question: Callable[[psycopg.Connection], T]) -> T:
        """Run a function with a connection in a thread, within the same time as `read`."""
        return await self._in_time(self._submitted(question))

    async def watch(self) -> None:
        """Ask the database twice a second whether it lives; a frozen one blocks only the heartbeat's own thread."""
        loop = asyncio.get_running_loop()
        while True:
            beat = loop.run_in_executor(self._heart, self._with_connection, lambda c: c.execute("SELECT 1").fetchone())
            done, _ = await asyncio.wait({beat}, timeout=1.0)
            self.up = bool(done) and beat.exception() is None
            if not done:
                await asyncio.wait({beat})
                self.up = beat.exception() is None
            await asyncio.sleep(HEARTBEAT_S)

    def _submitted(self, question: Callable[[psycopg.Connection], T]) -> "asyncio.Future[T]":
        if not self.up:
            raise DatabaseGone("the database is unavailable")
        return asyncio.get_running_loop().run_in_executor(self._threads, self._with_connection, question)

    async def _in_time(self, future: "asyncio.Future[T]") -> T:
        done, _ = await asyncio.wait({future}, timeout=WAIT_S)
        if not done:
            raise DatabaseGone("the database does not answer")
        try:
            return future.result()
        except psycopg.Error as error:
            raise DatabaseGone(f"the database refused: {type(error).__name__}") from None

    def _with_connection(self, question: Callable[[psycopg.Connection], T]) -> T:
        """Use this thread's connection; one that broke since its last use is replaced once."""
        for _ in range(2):
            connection = getattr(self._local, "connection", None)
            is_old = connection is not None
            if connection is None:
                connection = self._local.connection = self._connected()
            try:
                return question(connection)
            except psycopg.OperationalError:
                if not connection.broken:
                    raise
                self._local.connection = None
                connection.close()
                if not is_old:
                    raise
        raise psycopg.OperationalError("the connection broke twice")

    def _connected(self) -> psycopg.Connection:
        patience = {"connect_timeout": 2, "keepalives_idle": 5, "keepalives_interval": 1, "keepalives_count": 3}
        return database.connect(self._url(), statement_timeout="2s", autocommit=True, **patience)

    def _keep(self, query: Query, done: "asyncio.Future[CachedRows]") -> None:
        self._asked.pop(query, None)
        if done.cancelled() or done.exception() is not None:
            return
        entry, old = done.result(), self._cache.pop(query, None)
        self._cache[query] = entry
        self._bytes += len(entry.rows) - (len(old.rows) if old else 0)
        while len(self._cache) > MOST_QUERIES or self._bytes > MOST_BYTES:
            self._bytes -= len(self._cache.popitem(last=False)[1].rows)


def _entry(connection: psycopg.Connection, query: Query) -> CachedRows:
    """Read, validate and encode rows; the age is read first, so that it is never younger than the rows."""
    sql = "SELECT extract(epoch FROM refreshed_at)::float8 FROM tapecheck.checkpoints WHERE symbol = %s AND timeframe = %s"
    asked_s = time.perf_counter()
    found = connection.execute(sql, (query.symbol, query.timeframe)).fetchone()
    cursor = connection.cursor(binary=True, row_factory=dict_row)
    rows = cursor.execute(query.sql, query.values()).fetchall()
    db_ms = (time.perf_counter() - asked_s) * 1000
    if query.sql is not OLDEST_BARS:
        rows.reverse()
    adapter: TypeAdapter[Any] = _feature_bars if query.sql is NEWEST_FEATURES else _bars
    valid = adapter.validate_python(rows)
    refreshed_at = found[0] if found else None
    return CachedRows(rows=adapter.dump_json(valid), count=len(rows), refreshed_at=refreshed_at, read_s=time.monotonic(), db_ms=db_ms)
