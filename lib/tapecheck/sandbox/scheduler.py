"""The sandbox's scheduler: keeps every symbol and timeframe up to date, most critical first. It serves no market data."""

import asyncio
import contextlib
import datetime as dt
import logging
import os
import time
from collections import Counter
from collections.abc import AsyncIterator

import psycopg
from fastapi import Depends, FastAPI

from tapecheck import lockfiles
from tapecheck.backfill import checkpoints, schema
from tapecheck.backfill.checkpoints import Checkpoint
from tapecheck.backfill.pipeline import refresh
from tapecheck.backfill.sink import Sink, SinkError
from tapecheck.errors import TapecheckError, first_line
from tapecheck.sandbox.answers import REFUSED, Admin, SchedulerAnswer, Trigger, Triggered
from tapecheck.sandbox.profile import REFRESH_S, Home, Profile, tier_of
from tapecheck.vendor.bars import TIMEFRAMES
from tapecheck.vendor.rate_limit import Retry
from tapecheck.vendor.source import Source
from tapecheck.vendor.wire import RateLimited, SourceError, UnknownTicker

log = logging.getLogger("uvicorn.error")
Key = tuple[str, str]
IN_FLIGHT = 3
HELD_S = 0.1
MEASURED = "tapecheck_backfill"  # where a measured backfill stores history, unless its plan names another schema
FORGET_UNKNOWN_S = 300.0


class Refresher:
    """Jobs with their checkpoints and when each is due, on the monotonic clock."""

    def __init__(self, home: Home) -> None:
        self.home, self.profile = home, Profile.of(home) or Profile()
        self.checkpoints: dict[Key, Checkpoint] = {}
        self.due_s: dict[Key, float] = {}
        self.in_flight: set[Key] = set()
        self.finished: dict[Key, float] = {}  # what was done before the last start, and when it is due again by its checkpoint
        self.unknown: dict[str, float] = {}
        self.counts: Counter[str] = Counter()
        self.database_up = False
        self.held = self._is_held()
        self.last_success_at: dt.datetime | None = None
        self.changed = asyncio.Event()

    @property
    def _database_url(self) -> str:
        return self.home.database_url("scheduler-database")

    def add(self, symbols: list[str]) -> list[str]:
        """Make every timeframe of symbols due now; return the symbols that upstream is known not to have."""
        now_s = time.monotonic()
        self.unknown = {symbol: at for symbol, at in self.unknown.items() if now_s < at + FORGET_UNKNOWN_S}
        for symbol in symbols:
            if symbol not in self.unknown:
                self.due_s |= {(symbol, frame): now_s for frame in self.profile.timeframes}
                self.finished = {key: at for key, at in self.finished.items() if key[0] != symbol}
        self.changed.set()
        return [symbol for symbol in symbols if symbol in self.unknown]

    async def note(self, symbols: list[str]) -> None:
        """Note in the checkpoints that symbols are to be refreshed, so that a crash does not forget it."""
        with contextlib.suppress(psycopg.Error):  # without its database nothing can be noted; they are due all the same
            await asyncio.to_thread(checkpoints.ask, self._database_url, symbols)

    def take(self) -> Key | None:
        """Return the due job of the highest tier, and mark it as in flight."""
        now_s, order = time.monotonic(), list(TIMEFRAMES)
        due = [key for key, at in self.due_s.items() if at <= now_s and key not in self.in_flight]
        if not due:
            return None
        key = min(due, key=lambda k: (tier_of(k[0]), k[0], order.index(k[1])))
        self.in_flight.add(key)
        return key

    async def run(self) -> None:
        """Resume from the checkpoints, then refresh until cancelled, whatever upstream and database do."""
        while not self.database_up:
            try:
                await asyncio.to_thread(schema.prepare, self._database_url)
                self.checkpoints = await asyncio.to_thread(checkpoints.read, self._database_url)
                self.database_up = True
            except SinkError as error:
                log.warning("waiting for the database: %s", first_line(error))
                await asyncio.sleep(0.2)
        if not self.checkpoints:
            await self._let_go_first()
        self._resume()
        retry = Retry(first_s=0.5, cap_s=10, budget_s=60)
        source = Source(f"http://127.0.0.1:{self.home.port('upstream', 'scheduler-vendor')}", self.home.secret(), retry=retry, timeout_s=10)
        async with source, asyncio.TaskGroup() as group:
            for _ in range(IN_FLIGHT):
                group.create_task(self._work(source))

    async def _let_go_first(self) -> None:
        """Wait while a backfill is to be measured first, and take over what one has left, so that nothing is fetched twice."""
        while self.held:
            await asyncio.sleep(HELD_S)
            self.held = self._is_held()
        first = (dt.datetime.now(dt.UTC) - dt.timedelta(days=self.profile.days)).date()
        keys = [(symbol, frame) for symbol in self.profile.symbols for frame in self.profile.timeframes]
        try:
            if await asyncio.to_thread(checkpoints.take_over, self._database_url, MEASURED, keys, first):
                self.checkpoints = await asyncio.to_thread(checkpoints.read, self._database_url)
                log.info("took over the history of a backfill")
        except (*SinkError, TapecheckError) as error:
            log.warning("the history of a backfill was not taken over: %s", first_line(error))

    def _is_held(self) -> bool:
        return any(one.is_there for one in lockfiles.holders(self.home.held))

    def _resume(self) -> None:
        known = dict.fromkeys([*self.profile.symbols, *(symbol for symbol, _ in self.checkpoints)])
        self.add(list(known))
        now_s, now = time.monotonic(), dt.datetime.now(dt.UTC)
        for key, checkpoint in self.checkpoints.items():
            if checkpoint.state == "done" and checkpoint.refreshed_at and key in self.due_s:
                self.finished[key] = self.due_s[key] = now_s + REFRESH_S[tier_of(key[0])] - (now - checkpoint.refreshed_at).total_seconds()
        self.last_success_at = max((c.refreshed_at for c in self.checkpoints.values() if c.refreshed_at), default=None)
        self.counts["resumed"] = len(self.checkpoints)
        self.counts["skipped"] = sum(at > now_s for at in self.due_s.values())
        log.info("resumed from %d checkpoints, %d jobs need nothing yet", self.counts["resumed"], self.counts["skipped"])

    async def _work(self, source: Source) -> None:
        sink: Sink | None = None
        while True:
            key = self.take()
            if key is None:
                await self._pause()
                continue
            try:
                if sink is None:
                    sink = await asyncio.to_thread(Sink, self._database_url)
                    self.database_up = True
                await self._refresh(source, sink, key)
            except SinkError as error:
                log.warning("database lost at %s %s: %s", *key, first_line(error))
                self.database_up = False
                if sink is not None:
                    await asyncio.to_thread(sink.close)
                sink = None
                await asyncio.sleep(0.3)
            finally:
                self.in_flight.discard(key)

    async def _pause(self) -> None:
        self.changed.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.changed.wait(), 1.0)

    async def _refresh(self, source: Source, sink: Sink, key: Key) -> None:
        symbol, frame = key
        now, begun_s = dt.datetime.now(dt.UTC), time.monotonic()
        start = (now - dt.timedelta(days=self.profile.days)).replace(hour=0, minute=0, second=0, microsecond=0)
        if (before := self.checkpoints.get(key)) and before.covers_from:
            start = max(start, before.covers_from)  # what one has taken over may begin some hours later
        self.counts["runs"] += 1
        self.counts["redone"] += begun_s < self.finished.pop(key, begun_s)
        try:
            outcome = (await refresh(source, sink, symbol, (frame,), start=start, end=now))[frame]
        except UnknownTicker:
            self._forget(symbol)
            return
        except (SourceError, ValueError) as error:
            await self._failed(sink, key, error)
            return
        self.last_success_at = outcome.checkpoint.refreshed_at
        self.checkpoints[key] = outcome.checkpoint
        self.due_s[key] = begun_s + REFRESH_S[tier_of(symbol)]

    def _forget(self, symbol: str) -> None:
        log.warning("%s: upstream does not know it", symbol)
        self.unknown[symbol] = time.monotonic()
        self.due_s = {key: at for key, at in self.due_s.items() if key[0] != symbol}

    async def _failed(self, sink: Sink, key: Key, error: Exception) -> None:
        """Log and record a failed job and go on with the others; it is tried again later, each time after a longer pause."""
        log.error("%s %s failed and is skipped: %s", *key, error)
        self.counts["rate_limited"] += isinstance(error, RateLimited)
        await asyncio.to_thread(sink.fail, *key, str(error))
        current = await asyncio.to_thread(sink.checkpoint, *key)
        if current is not None:
            self.checkpoints[key] = current
            self.due_s[key] = time.monotonic() + min(300, 2 ** min(current.failures, 8))

    def _has_failed(self, key: Key) -> bool:
        return key in self.checkpoints and self.checkpoints[key].state == "failed"

    def health(self) -> SchedulerAnswer:
        """Return the scheduler's state now."""
        failed = {" ".join(key): c.error or "" for key, c in self.checkpoints.items() if c.state == "failed"}
        now_s = time.monotonic()
        return SchedulerAnswer(
            status="ok" if self.database_up and not failed else "degraded",
            database="up" if self.database_up else "down",
            jobs=len(self.due_s),
            done=sum(self.checkpoints[key].refreshed_at is not None for key in self.due_s if key in self.checkpoints),
            failed=failed,
            in_flight=sorted(" ".join(key) for key in self.in_flight),
            due=sum(at <= now_s for at in self.due_s.values()),
            pending=sum(at <= now_s or key in self.in_flight for key, at in self.due_s.items() if not self._has_failed(key)),
            resumed=self.counts["resumed"],
            skipped=self.counts["skipped"],
            rate_limited=self.counts["rate_limited"],
            runs=self.counts["runs"],
            redone=self.counts["redone"],
            last_success_at=self.last_success_at,
            held=self.held and not self.checkpoints,
        )


def _crash(task: asyncio.Task[None]) -> None:
    """End the process when its work ended by a mistake of ours; the supervisor starts it anew."""
    if not task.cancelled():
        log.critical("the scheduler's work ended", exc_info=task.exception())
        os._exit(70)


def application(home: Home) -> FastAPI:
    """Return the scheduler as an ASGI application that works in the background."""
    scheduler = Refresher(home)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(scheduler.run())
        task.add_done_callback(_crash)
        yield
        task.cancel()

    app = FastAPI(title="Sandbox scheduler", lifespan=lifespan, docs_url=None, redoc_url=None)

    @app.get("/health")
    async def health() -> SchedulerAnswer:
        """Return the scheduler's state."""
        return scheduler.health()

    @app.post("/trigger", dependencies=[Depends(Admin(home))], responses=REFUSED)
    async def trigger(asked: Trigger) -> Triggered:
        """Refresh symbols now, new ones included; those that upstream does not know are refused for a while."""
        symbols = asked.symbols or sorted({symbol for symbol, _ in scheduler.due_s})
        await scheduler.note(symbols)
        unknown = scheduler.add(symbols)
        return Triggered(accepted=[symbol for symbol in symbols if symbol not in unknown], unknown=unknown)

    return app
