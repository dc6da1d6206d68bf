"""The sandbox's vendor: serves the made-up market in the vendor's aggregates wire format. It keeps no state but faults.

The vendor is as near as this machine, or `/distant/{ms}` away: the same paths below it are answered that much later.
"""

import asyncio
import base64
import datetime as dt
import re
import secrets
import time
from typing import Any

import msgspec
import numpy as np
from fastapi import FastAPI, Request, Response
from pydantic import Field
from starlette.types import ASGIApp, Receive, Scope, Send

from tapecheck.backfill.aggregate import DAY_S
from tapecheck.backfill.bars import COLUMNS
from tapecheck.backfill.bucket import TokenBucket
from tapecheck.backfill.calendar import EASTERN
from tapecheck.config import Model
from tapecheck.sandbox import market
from tapecheck.sandbox.faults import NOT_ENTITLED, RATE_LIMITED, Fault, Faults, json_response, spoiled
from tapecheck.sandbox.profile import Home, Profile
from tapecheck.tickers import CRYPTO, symbol_of

MOST = 50_000
MOST_DISTANT_MS = 5000
DISTANT = re.compile(r"/distant/(\d{1,4})(?=/)")  # before any path: every answer comes so many ms later, as from a vendor across a network


class Agg(msgspec.Struct, gc=False):
    """One bar on the wire; not the type that our own client reads: a name that is wrong there must not be wrong here too."""

    t: int
    o: float
    h: float
    l: float  # noqa: E741 - the vendor's name
    c: float
    v: float
    vw: float
    n: int


class Limit(Model):
    """How many requests a minute the upstream answers; null for as many as come."""

    requests_per_minute: float | None = Field(default=None, gt=0)
    burst: int = Field(default=10, ge=1)

    def bucket(self) -> TokenBucket | None:
        """Return a full bucket of this rate."""
        return TokenBucket(self.requests_per_minute / 60, self.burst) if self.requests_per_minute else None


class _BadRequest(Exception):
    """The vendor's 400."""


def moment_ms(text: str, symbol: str, *, is_end: bool) -> int:
    """Read `from` or `to`: Unix milliseconds, or a date in the ticker's own time zone, whose end is meant for `to`.

    Raises:
        ValueError: it is neither.
    """
    if text.isdigit() and len(text) > 8:
        return int(text)
    day = dt.date.fromisoformat(text) + dt.timedelta(days=is_end)
    zone = dt.UTC if symbol in CRYPTO else EASTERN
    return int(dt.datetime(day.year, day.month, day.day, tzinfo=zone).timestamp() * 1000) - is_end


def _asked(request: Request) -> tuple[str, int, int, int, int, bool]:
    """Read the request's path and query.

    Returns:
        Symbol, width of a bar in seconds, from and to in Unix milliseconds, limit in base aggregates, whether newest first.
    """
    path, query = request.path_params, dict(request.query_params)
    if "cursor" in query:
        query |= dict(part.split("=", 1) for part in base64.urlsafe_b64decode(query["cursor"]).decode().split("&"))
    symbol = symbol_of(path["ticker"])
    width = market.width_s(path["multiplier"], path["timespan"])
    if width is None:
        raise _BadRequest("the sandbox serves bars of 5 minutes, their multiples, hours and 1 day, where they divide a day")
    limit, sort = int(query.get("limit", 5000)), query.get("sort", "asc")
    if not 1 <= limit <= MOST or sort not in ("asc", "desc") or query.get("adjusted", "true") not in ("true", "false"):
        raise _BadRequest(f"limit must be 1 to {MOST}, sort asc or desc, adjusted true or false")
    from_ms, to_ms = (moment_ms(path[name], symbol, is_end=name == "to") for name in ("from", "to"))
    if from_ms > to_ms:
        raise _BadRequest("'to' must not be before 'from'")
    at = int(query["at"]) if "at" in query else None
    if at is not None:
        from_ms, to_ms = (from_ms, at) if sort == "desc" else (at, to_ms)
    return symbol, width, from_ms, to_ms, limit, sort == "desc"


def _slots(limit: int, width: int) -> int:
    """Return how many 5-minute bars a page may use: a traded slot has five base minutes; for days the base is the day."""
    return limit * (DAY_S // market.SLOT_S) if width == DAY_S else max(1, limit // 5)


def _body(request: Request, request_id: str) -> dict[str, Any]:
    symbol, width, from_ms, to_ms, limit, newest_first = _asked(request)
    bars, has_more = market.page(symbol, width, from_ms, to_ms, int(time.time() * 1000), _slots(limit, width), newest_first=newest_first)
    body: dict[str, Any] = {
        "ticker": request.path_params["ticker"],
        "queryCount": len(bars) if width == DAY_S else len(bars) * width // 60,
        "resultsCount": len(bars),
        "adjusted": request.query_params.get("adjusted", "true") == "true",
        "status": "OK",
        "request_id": request_id,
    }
    if len(bars):
        columns = [getattr(bars, name) for name in COLUMNS[:-1]] + [bars.n.astype(np.int64)]
        body |= {"results": list(map(Agg, *(column.tolist() for column in columns))), "count": len(bars)}
    if has_more:
        at = int(bars.t[-1]) + (-1 if newest_first else 1)
        cursor = base64.urlsafe_b64encode(f"limit={limit}&sort={'desc' if newest_first else 'asc'}&at={at}".encode()).decode()
        body["next_url"] = str(request.url.replace(query=f"cursor={cursor}"))
    return body


def _key_of(request: Request) -> str:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key if scheme == "Bearer" else request.query_params.get("apiKey", "")


def application(home: Home) -> ASGIApp:
    """Return the upstream as an ASGI application."""
    app = FastAPI(title="Sandbox upstream", docs_url=None, redoc_url=None)
    faults, key = Faults(), home.secret()
    profile = Profile.model_validate_json(home.profile.read_bytes())
    limits: dict[str, TokenBucket | None] = {}

    def limit_by(limit: Limit) -> None:
        limits["bucket"] = limit.bucket()

    limit_by(Limit(requests_per_minute=profile.requests_per_minute, burst=profile.burst))

    def denied(request: Request, request_id: str) -> Response | None:
        given, bucket = _key_of(request), limits["bucket"]
        if not secrets.compare_digest(given.encode(), key.encode()):
            return json_response({"status": "ERROR", "request_id": request_id, "error": "Unknown API Key"}, 401)
        if bucket is not None and bucket.take() > 0:
            return json_response({"status": "ERROR", "request_id": request_id, "error": RATE_LIMITED}, 429)
        if request.path_params["timespan"] == "second":
            return json_response({"status": "NOT_AUTHORIZED", "request_id": request_id, "message": NOT_ENTITLED}, 403)
        if symbol_of(request.path_params["ticker"]) not in market.LISTED:
            return json_response({"status": "NOT_FOUND", "request_id": request_id, "message": "Ticker not found."}, 404)
        return None

    @app.get("/v2/aggs/ticker/{ticker}/range/{multiplier:int}/{timespan}/{from}/{to}")
    async def aggregates(request: Request) -> Response:
        """Serve one page of bars."""
        request_id = secrets.token_hex(16)
        refusal = denied(request, request_id)
        if refusal is not None:
            return refusal
        try:
            body = _body(request, request_id)
        except (_BadRequest, ValueError) as error:
            return json_response({"status": "ERROR", "request_id": request_id, "error": str(error)}, 400)
        ticker, url = request.path_params["ticker"], str(request.url)
        fault = faults.take(ticker, url, has_next="next_url" in body, has_results="results" in body)
        if fault is None:
            return json_response(body, 200)
        if fault.kind in ("wrong_symbol", "wrong_bars"):
            request.path_params["ticker"] = "AAPL" if ticker == "MSFT" else "MSFT"
            body = _body(request, request_id)
        if fault.kind == "wrong_bars":  # under the ticker that was asked for: nothing on the wire tells
            body["ticker"] = ticker
        return spoiled(fault, body, url, request_id)

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Say that the process serves."""
        return {"status": "ok"}

    @app.get("/faults")
    async def listed() -> list[Fault]:
        """List the faults that are on."""
        return faults.active()

    @app.post("/faults")
    async def add(fault: Fault) -> list[Fault]:
        """Switch a fault on."""
        faults.add(fault)
        return faults.active()

    @app.delete("/faults")
    async def clear() -> list[Fault]:
        """Switch every fault off."""
        faults.clear()
        return []

    @app.post("/limit")
    async def limit(asked: Limit) -> Limit:
        """Switch the rate limit."""
        limit_by(asked)
        return asked

    async def with_transport(scope: Scope, receive: Receive, send: Send) -> None:
        scope["send"] = send  # the fault `reset` reaches the connection through it
        if away := DISTANT.match(scope.get("path", "")):
            scope["root_path"] = away[0]
            await asyncio.sleep(min(int(away[1]), MOST_DISTANT_MS) / 1000)
        await app(scope, receive, send)

    return with_transport
