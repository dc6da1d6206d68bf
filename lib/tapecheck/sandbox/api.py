"""The sandbox's public API: features, history and freshness, honest about age, alive without its database. It ingests nothing."""

import asyncio
import contextlib
import datetime as dt
import logging
import re
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal, TypeVar

import httpx
from fastapi import Depends, FastAPI, Header, HTTPException, Path, Query, Response
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, BeforeValidator
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tapecheck.backfill import checkpoints
from tapecheck.backfill.checkpoints import Checkpoint
from tapecheck.sandbox import store as sql
from tapecheck.sandbox.answers import (
    REFUSED,
    STALE_S,
    Admin,
    Bar,
    Envelope,
    FeatureBar,
    Health,
    Missing,
    NoData,
    RaisedAlert,
    SchedulerAnswer,
    SeriesStatus,
    StatusAnswer,
    Trigger,
    Triggered,
    Unavailable,
)  # fmt: skip
from tapecheck.sandbox.profile import Frame, Home, Ports, Profile
from tapecheck.sandbox.store import CachedRows, DatabaseGone, Store

log = logging.getLogger("uvicorn.error")
TRIGGER_EVERY_S = 5.0
SaidT = TypeVar("SaidT", bound=BaseModel)

Symbol = Annotated[str, Path(pattern=r"^[A-Z][A-Z.]{0,9}$", examples=["AAPL"], description="as the sandbox names it: AAPL, BRK.B, BTC")]
Limit = Annotated[int, Query(ge=1, le=5000, description="rows, the newest ones")]
CacheControl = Annotated[str | None, Header(description="no-cache: ask the database, whatever is cached (RFC 9111, section 5.2.1.4)")]
Timeframe = Annotated[Frame, Query(description="the length of a bar")]


def _iso(text: str | None) -> str | None:
    """Refuse what pydantic would read as seconds since 1970."""
    if text is not None and re.fullmatch(r"\d{4}-\d\d-\d\d([T ].*)?", text) is None:
        raise ValueError("a date and maybe a time, as in 2026-11-02T09:30:00Z")
    return text


Moment = Annotated[dt.datetime | None, BeforeValidator(_iso), Query(description="ISO 8601; UTC where no offset is given")]


class Service:
    """What the endpoints share: the store, the way to the scheduler, and alerts."""

    def __init__(self, home: Home) -> None:
        self.store = Store(lambda: home.database_url("api-database"))
        self.profile = Profile.of(home) or Profile()
        key = {"Authorization": f"Bearer {home.secret()}"}
        self.scheduler = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{Ports.of(home).scheduler}", headers=key, timeout=1.0, trust_env=False
        )
        self.alerts: dict[tuple[str, str], RaisedAlert] = {}
        self.raised: deque[RaisedAlert] = deque(maxlen=100)
        self.triggered: dict[str, tuple[float, bool, str]] = {}
        self.known: dict[tuple[str, str], Checkpoint] = {}

    async def answer(self, query: sql.Query, cache_control: str | None = None) -> Response:
        """Answer a query from the cache unless `no-cache` asks for the database, else the database, else whatever the cache still has."""
        entry, trouble, db_ms = None if "no-cache" in (cache_control or "") else self.store.current(query), None, 0.0
        is_hit = entry is not None
        if entry is None:
            try:
                entry = await self.store.read(query)
                db_ms = entry.db_ms
            except DatabaseGone as error:
                entry, trouble, is_hit = self.store.cached(query), str(error), True
        elif not self.store.up:
            trouble = "the database is unavailable"
        if entry is None:
            raise HTTPException(503, trouble, {"Retry-After": "1"})
        if entry.freshness() == "missing" or (entry.count == 0 and query.start is None):
            raise HTTPException(404, (await self._missing(query)).model_dump())
        envelope = self._envelope(query, entry, trouble, "cache" if is_hit else "database").model_dump_json(exclude={"rows"}).encode()
        timing = f"db;dur={db_ms:.3f}, cache;desc={'hit' if is_hit else 'miss'}"
        body = b"".join((envelope[:-1], b',"rows":', entry.rows, b"}"))  # the rows were validated when they were read
        return Response(body, media_type="application/json", headers={"Server-Timing": timing})

    def _envelope(self, query: sql.Query, entry: CachedRows, trouble: str | None, source: Literal["cache", "database"]) -> Envelope[Bar]:
        age_s, freshness = entry.age_s() or 0.0, entry.freshness()
        warnings = [f"{trouble}: cached {time.monotonic() - entry.read_s:.0f} s ago, staleness unknown"] if trouble else []
        if freshness != "fresh":
            warnings.append(f"data is {freshness}: {age_s / 3600:.1f} h old")
        if freshness == "stale":
            self._alert(query, warnings[-1])
        else:
            self.alerts.pop((query.symbol, query.timeframe), None)
        return Envelope[Bar](
            symbol=query.symbol,
            timeframe=query.timeframe,
            count=entry.count,
            age_s=round(age_s, 3),
            freshness=freshness,
            warning="; ".join(warnings) or None,
            source=source,
            rows=[],
        )

    def _alert(self, query: sql.Query, message: str) -> None:
        key = (query.symbol, query.timeframe)
        if key not in self.alerts:
            alert = self.alerts[key] = RaisedAlert(at=dt.datetime.now(dt.UTC), symbol=key[0], timeframe=key[1], message=message)
            self.raised.append(alert)
            log.error("alert: %s %s: %s", *key, message)

    async def _missing(self, query: sql.Query) -> Missing:
        """Tell the scheduler that someone wants this symbol, at most once in a few seconds."""
        at, triggered, message = self.triggered.get(query.symbol, (float("-inf"), False, ""))
        if time.monotonic() > at + TRIGGER_EVERY_S:
            triggered, message = await self._trigger(query.symbol)
            if len(self.triggered) > 1000:
                self.triggered.clear()
            self.triggered[query.symbol] = (time.monotonic(), triggered, message)
        return Missing(message=message, symbol=query.symbol, timeframe=query.timeframe, triggered=triggered)

    async def _trigger(self, symbol: str) -> tuple[bool, str]:
        try:
            said = await self.scheduled(Triggered, "POST", "/trigger", json={"symbols": [symbol]})
        except HTTPException:
            return False, "no data, and the scheduler cannot be reached to get it"
        if symbol in said.unknown:
            return False, "no data, and upstream does not know this symbol"
        return True, f"no data younger than {STALE_S // 3600} h; enrichment was triggered"

    async def scheduled(self, kind: type[SaidT], method: str, path: str, **more: Any) -> SaidT:
        """Return what the scheduler answers, or raise a 503."""
        try:
            return kind.model_validate_json((await self.scheduler.request(method, path, **more)).content)
        except (httpx.HTTPError, ValueError):
            raise HTTPException(503, "the scheduler does not answer", {"Retry-After": "1"}) from None

    async def status(self) -> StatusAnswer:
        """Return the freshness of every symbol and timeframe, and the alerts raised; from memory where the database does not answer."""
        warning = None
        try:
            self.known = await self.store.ask(checkpoints.read_with)
        except DatabaseGone as error:
            warning = f"{error}: ages are computed from what was known before"
        wanted = {(symbol, frame) for symbol in self.profile.symbols for frame in self.profile.timeframes} | set(self.known)
        now = dt.datetime.now(dt.UTC)
        series = [SeriesStatus.of(*key, self.known.get(key), now) for key in sorted(wanted)]
        return StatusAnswer(
            generated_at=now, database="up" if self.store.up else "down", warning=warning, series=series, alerts=list(self.raised)
        )

    async def features(
        self, symbol: Symbol, timeframe: Timeframe = "1d", limit: Limit = 100, cache_control: CacheControl = None
    ) -> Response:
        """Return the newest bars of a symbol with their features, oldest first."""
        query = sql.Query(sql=sql.NEWEST_FEATURES, symbol=symbol, timeframe=timeframe, limit=limit)
        return await self.answer(query, cache_control)

    async def historical(
        self,
        symbol: Symbol,
        timeframe: Timeframe = "1d",
        start: Moment = None,
        end: Moment = None,
        limit: Limit = 1000,
        cache_control: CacheControl = None,
    ) -> Response:
        """Return bars from `start` on, or without it the newest ones until `end`; oldest first."""
        begin, last = _utc(start), _utc(end) or dt.datetime(9999, 1, 1, tzinfo=dt.UTC)
        if begin and begin > last:
            raise HTTPException(422, [{"type": "value_error", "loc": ["query", "end"], "msg": "end is before start"}])
        statement = sql.OLDEST_BARS if begin else sql.NEWEST_BARS
        query = sql.Query(sql=statement, symbol=symbol, timeframe=timeframe, limit=limit, start=begin, end=last)
        return await self.answer(query, cache_control)

    async def health(self) -> Health:
        """Say that the api serves, and whether it has its database."""
        return Health(status="ok" if self.store.up else "degraded", database="up" if self.store.up else "down")

    async def scheduler_health(self) -> SchedulerAnswer:
        """Return what the scheduler says of itself."""
        return await self.scheduled(SchedulerAnswer, "GET", "/health")

    async def trigger(self, asked: Trigger) -> Triggered:
        """Have the scheduler refresh symbols now, all of them if none is named."""
        return await self.scheduled(Triggered, "POST", "/trigger", json=asked.model_dump())


def _utc(moment: dt.datetime | None) -> dt.datetime | None:
    return moment.replace(tzinfo=dt.UTC) if moment and moment.tzinfo is None else moment


class ServerTimed:
    """ASGI middleware that says in `Server-Timing` how long a request took from its arrival to the first byte of its answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, and add the header to what is sent."""
        begun_s = time.perf_counter()

        async def timed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                parts = [f"app;dur={(time.perf_counter() - begun_s) * 1000:.3f}", headers.get("Server-Timing")]
                headers["Server-Timing"] = ", ".join(part for part in parts if part)
            await send(message)

        await self.app(scope, receive, timed)


def application(home: Home) -> FastAPI:
    """Return the api as an ASGI application."""
    service = Service(home)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        watch = asyncio.create_task(service.store.watch())
        yield
        watch.cancel()
        await service.scheduler.aclose()

    app: FastAPI = FastAPIOffline(title="Market data", version="1", lifespan=lifespan, redoc_url=None)
    app.add_middleware(ServerTimed)
    gone: dict[int | str, dict[str, Any]] = {503: {"model": Unavailable, "description": "The scheduler does not answer"}}
    errors: dict[int | str, dict[str, Any]] = {
        404: {"model": NoData, "description": "No data yet; the scheduler was asked to get it"},
        503: {"model": Unavailable, "description": "The database is gone and nothing is cached"},
    }
    app.add_api_route("/api/v1/features/quant/{symbol}", service.features, response_model=Envelope[FeatureBar], responses=errors)
    app.add_api_route("/api/v1/historical/{symbol}", service.historical, response_model=Envelope[Bar], responses=errors)
    app.add_api_route("/api/v1/status", service.status)
    app.add_api_route("/health", service.health)
    app.add_api_route("/api/v1/admin/scheduler-health", service.scheduler_health, responses=gone)
    admin: dict[str, Any] = {"dependencies": [Depends(Admin(home))], "responses": gone | REFUSED, "status_code": 202}
    app.add_api_route("/api/v1/admin/backfill/trigger", service.trigger, methods=["POST"], **admin)
    return app
