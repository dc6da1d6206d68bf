"""What the sandbox's upstream does wrong on request, on the wire. Without a request it does nothing."""

import asyncio
import base64
import datetime as dt
import re
import secrets
import socket
import struct
import time
from collections import Counter
from typing import Any, Literal

import msgspec
import numpy as np
from fastapi import FastAPI, Request, Response
from pydantic import Field
from starlette.types import ASGIApp, Receive, Scope, Send

from tapecheck.backfill.calendar import DAY_S, EASTERN
from tapecheck.config import Model
from tapecheck.sandbox import market
from tapecheck.sandbox.profile import Home
from tapecheck.vendor.bars import COLUMNS, CRYPTO, symbol_of
from tapecheck.vendor.rate_limit import TokenBucket

Kind = Literal[
    "rate_limited", "rate_limited_empty", "forbidden", "server_error", "fail_twice", "reset", "black_hole",
    "results_missing", "results_null", "truncated", "duplicate_page", "wrong_symbol", "wrong_bars",
    "poisoned", "negative_volume", "slow_drip", "no_results",
]  # fmt: skip
RATE_LIMITED = "You've exceeded the maximum requests per minute, please wait or upgrade your subscription to continue."
NOT_ENTITLED = "You are not entitled to this data. Please upgrade your plan."


class Fault(Model):
    """One fault, for the next `count` answers or for `seconds`; without either, until it is cleared."""

    kind: Kind
    ticker: str | None = None
    count: int | None = Field(default=None, ge=1)
    seconds: float | None = Field(default=None, gt=0)
    status: Literal[500, 502, 503] = 503
    retry_after: str | None = Field(default=None, max_length=100)


class Faults:
    """The faults that are switched on, oldest first."""

    def __init__(self) -> None:
        self._on: list[tuple[Fault, float]] = []
        self._used: dict[int, int] = {}
        self._failed: Counter[str] = Counter()

    def add(self, fault: Fault) -> None:
        """Switch a fault on."""
        self._on.append((fault, time.monotonic()))

    def clear(self) -> None:
        """Switch every fault off."""
        self._on.clear()
        self._used.clear()
        self._failed.clear()

    def active(self) -> list[Fault]:
        """Return the faults that are still on."""
        now_s = time.monotonic()
        self._on = [(f, at) for f, at in self._on if f.seconds is None or now_s < at + f.seconds]
        self._on = [(f, at) for f, at in self._on if f.count is None or self._used.get(id(f), 0) < f.count]
        return [fault for fault, _ in self._on]

    def take(self, ticker: str, url: str, *, has_next: bool, has_results: bool) -> Fault | None:
        """Return the fault that this answer shall have, and count it."""
        for fault in self.active():
            pages_only = (fault.kind == "duplicate_page" and not has_next) or (
                fault.kind in ("poisoned", "negative_volume", "results_missing") and not has_results
            )
            passes = fault.kind == "fail_twice" and self._failed[url] >= 2
            if fault.ticker in (None, ticker) and not pages_only and not passes:
                self._used[id(fault)] = self._used.get(id(fault), 0) + 1
                self._failed[url] += fault.kind == "fail_twice"
                return fault
        return None


def spoiled(fault: Fault, body: dict[str, Any], url: str, request_id: str) -> Response:
    """Return the answer that a fault makes of a good body, which for `wrong_symbol` and `wrong_bars` is another ticker's."""
    headers = {"Retry-After": fault.retry_after} if fault.retry_after is not None else {}
    match fault.kind:
        case "rate_limited":
            return json_response({"status": "ERROR", "request_id": request_id, "error": RATE_LIMITED}, 429, headers)
        case "rate_limited_empty":
            return Response(status_code=429, headers=headers)
        case "forbidden":
            return json_response({"status": "NOT_AUTHORIZED", "request_id": request_id, "message": NOT_ENTITLED}, 403)
        case "server_error" | "fail_twice":
            return Response("<html>Bad Gateway</html>", fault.status, headers, "text/html")
        case "reset":
            return Reset()
        case "black_hole":
            return BlackHole()
        case "results_missing":
            del body["results"]
        case "results_null":
            body["results"] = None
        case "no_results":
            body.update(queryCount=0, resultsCount=0)
            for name in ("results", "count", "next_url"):
                body.pop(name, None)
        case "duplicate_page":
            body["next_url"] = url
        case "poisoned":
            newest = body["results"][-1]
            newest.o = newest.h = newest.l = newest.c = -newest.c
        case "negative_volume":
            body["results"][-1].v *= -1
    encoded = msgspec.json.encode(body)
    if fault.kind == "truncated":
        return Response(encoded[: len(encoded) // 2], media_type="application/json")
    return Drip(encoded, media_type="application/json") if fault.kind == "slow_drip" else Response(encoded, media_type="application/json")


def json_response(body: dict[str, Any], status: int, headers: dict[str, str] | None = None) -> Response:
    """Encode a body as JSON."""
    return Response(msgspec.json.encode(body), status, headers, "application/json")


class Reset(Response):
    """Closes the connection with a TCP reset instead of an answer; `scope["send"]` is uvicorn's own."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as ASGI."""
        transport = scope["send"].__self__.transport
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()


class BlackHole(Response):
    """Never answers; ends when the client goes."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as ASGI."""
        while (await receive())["type"] != "http.disconnect":
            pass


class Drip(Response):
    """Sends its body a few bytes at a time, so that no single read ever times out."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as ASGI."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        body = bytes(self.body)
        for at in range(0, len(body), 8):
            await send({"type": "http.response.body", "body": body[at : at + 8], "more_body": at + 8 < len(body)})
            await asyncio.sleep(0.05)


# ---- upstream ----

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


class Upstream:
    """The endpoints, and what they share: the faults that are on, the key, and the rate limit."""

    def __init__(self, home: Home) -> None:
        self.faults, self.key = Faults(), home.secret()
        self.bucket: TokenBucket | None = None

    def _denied(self, request: Request, request_id: str) -> Response | None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        given = key if scheme == "Bearer" else request.query_params.get("apiKey", "")
        answer = {"request_id": request_id}
        if not secrets.compare_digest(given.encode(), self.key.encode()):
            return json_response({"status": "ERROR", **answer, "error": "Unknown API Key"}, 401)
        if self.bucket is not None and self.bucket.take() > 0:
            return json_response({"status": "ERROR", **answer, "error": RATE_LIMITED}, 429)
        if request.path_params["timespan"] == "second":
            return json_response({"status": "NOT_AUTHORIZED", **answer, "message": NOT_ENTITLED}, 403)
        if symbol_of(request.path_params["ticker"]) not in market.LISTED:
            return json_response({"status": "NOT_FOUND", **answer, "message": "Ticker not found."}, 404)
        return None

    async def aggregates(self, request: Request) -> Response:
        """Serve one page of bars."""
        request_id = secrets.token_hex(16)
        if (refusal := self._denied(request, request_id)) is not None:
            return refusal
        try:
            body = _body(request, request_id)
        except (_BadRequest, ValueError) as error:
            return json_response({"status": "ERROR", "request_id": request_id, "error": str(error)}, 400)
        ticker, url = request.path_params["ticker"], str(request.url)
        fault = self.faults.take(ticker, url, has_next="next_url" in body, has_results="results" in body)
        if fault is None:
            return json_response(body, 200)
        if fault.kind in ("wrong_symbol", "wrong_bars"):
            request.path_params["ticker"] = "AAPL" if ticker == "MSFT" else "MSFT"
            body = _body(request, request_id)
        if fault.kind == "wrong_bars":  # under the ticker that was asked for: nothing on the wire tells
            body["ticker"] = ticker
        return spoiled(fault, body, url, request_id)

    async def health(self) -> dict[str, str]:
        """Say that the process serves."""
        return {"status": "ok"}

    async def listed(self) -> list[Fault]:
        """List the faults that are on."""
        return self.faults.active()

    async def add(self, fault: Fault) -> list[Fault]:
        """Switch a fault on."""
        self.faults.add(fault)
        return self.faults.active()

    async def clear(self) -> list[Fault]:
        """Switch every fault off."""
        self.faults.clear()
        return []

    async def limit(self, asked: Limit) -> Limit:
        """Switch the rate limit."""
        self.bucket = asked.bucket()
        return asked


def application(home: Home) -> ASGIApp:
    """Return the upstream as an ASGI application."""
    app, upstream = FastAPI(title="Sandbox upstream", docs_url=None, redoc_url=None), Upstream(home)
    app.add_api_route("/v2/aggs/ticker/{ticker}/range/{multiplier:int}/{timespan}/{from}/{to}", upstream.aggregates)
    app.add_api_route("/health", upstream.health)
    app.add_api_route("/faults", upstream.listed)
    app.add_api_route("/faults", upstream.add, methods=["POST"])
    app.add_api_route("/faults", upstream.clear, methods=["DELETE"])
    app.add_api_route("/limit", upstream.limit, methods=["POST"])

    async def with_transport(scope: Scope, receive: Receive, send: Send) -> None:
        scope["send"] = send  # the fault `reset` reaches the connection through it
        if away := DISTANT.match(scope.get("path", "")):
            scope["root_path"] = away[0]
            await asyncio.sleep(min(int(away[1]), MOST_DISTANT_MS) / 1000)
        await app(scope, receive, send)

    return with_transport
