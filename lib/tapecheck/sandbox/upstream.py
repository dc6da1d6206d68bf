"""The sandbox's vendor: bars of a made-up market in the wire format of the aggregates API, with its rules and, on request, faults."""

import asyncio
import base64
import datetime as dt
import re
import secrets
import time
from typing import Annotated, Any, Self

import numpy as np
from fastapi import Depends, FastAPI, Path, Query, Request, Response
from fastapi.exception_handlers import request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.types import ASGIApp, Receive, Scope, Send

from tapecheck.backfill.calendar import EASTERN
from tapecheck.config import Model
from tapecheck.sandbox import market
from tapecheck.sandbox.answers import KEY, REFUSED, Admin, knows_key
from tapecheck.sandbox.database import external_url
from tapecheck.sandbox.faults import NOT_ENTITLED, RATE_LIMITED, Agg, Fault, Faults, json_response, spoiled
from tapecheck.sandbox.links import Links
from tapecheck.sandbox.profile import LINKS, Home, Ports
from tapecheck.vendor.bars import COLUMNS, CRYPTO, symbol_of
from tapecheck.vendor.rate_limit import TokenBucket

MOST = 50_000
MOST_MS = int(dt.datetime(2100, 1, 1, tzinfo=dt.UTC).timestamp() * 1000)
MOST_DISTANT_MS = 5000
DISTANT = re.compile(r"/distant/(\d{1,4})(?=/)")  # before any path: every answer comes so many ms later, as from a vendor across a network


class Limit(Model):
    """How many requests a minute the upstream answers; null for as many as come."""

    requests_per_minute: float | None = Field(default=None, ge=0.01, le=1e6)
    burst: int = Field(default=10, ge=1, le=1_000_000)

    def bucket(self) -> TokenBucket | None:
        """Return a full bucket of this rate."""
        return TokenBucket(self.requests_per_minute / 60, self.burst) if self.requests_per_minute else None


class Error(BaseModel):
    """The vendor's answer where it has no data to give: the reason is in `error` or in `message`."""

    status: str
    request_id: str
    error: str | None = None
    message: str | None = None


class Asked(BaseModel):
    """The question of a page, as its cursor keeps it."""

    limit: Annotated[int, Field(ge=1, le=MOST, description="base aggregates: minutes of minute and hour bars, days of longer ones")] = 5000
    sort: Annotated[str, Field(pattern="^(asc|desc)$")] = "asc"
    adjusted: Annotated[str, Field(pattern="^(true|false)$")] = "true"
    at: Annotated[int | None, Field(ge=0, le=MOST_MS, description="where a page begins; a cursor knows it")] = None

    @classmethod
    def of(cls, cursor: str) -> Self:
        """Return the question in a cursor."""
        return cls.model_validate_json(base64.urlsafe_b64decode(cursor))

    def cursor(self, at: int) -> str:
        """Return the cursor of the page that begins at a time."""
        return base64.urlsafe_b64encode(self.model_copy(update={"at": at}).model_dump_json().encode()).decode()


class BadRequest(ValueError):
    """The vendor's 400."""


def moment_ms(text: str, symbol: str, *, is_end: bool) -> int:
    """Read `from` or `to`: Unix milliseconds, or a date in the ticker's own time zone, whose end is meant for `to`."""
    if text.isascii() and text.isdigit() and 8 < len(text) < 15:
        return min(int(text), MOST_MS)
    day = dt.date.fromisoformat(text)
    if not 1971 <= day.year < 2100:
        raise BadRequest("'from' and 'to' are dates from 1971 to 2099, or Unix milliseconds")
    day, zone = day + dt.timedelta(days=is_end), dt.UTC if symbol in CRYPTO else EASTERN
    return int(dt.datetime(day.year, day.month, day.day, tzinfo=zone).timestamp() * 1000) - is_end


class Upstream:
    """The endpoints, and what they share: the faults that are on, the key, and the rate limit."""

    def __init__(self, home: Home) -> None:
        self.faults, self.key = Faults(), home.secret()
        self.bucket: TokenBucket | None = None

    def _denied(self, request: Request, request_id: str) -> Response | None:
        answer = {"request_id": request_id}
        in_query = secrets.compare_digest(request.query_params.get("apiKey", "").encode(), self.key.encode())
        if not in_query and not knows_key(request, self.key):
            return json_response({"status": "ERROR", **answer, "error": "Unknown API Key"}, 401)
        if self.bucket is not None and self.bucket.take() > 0:
            return json_response({"status": "ERROR", **answer, "error": RATE_LIMITED}, 429)
        if request.path_params["timespan"] == "second":
            return json_response({"status": "NOT_AUTHORIZED", **answer, "message": NOT_ENTITLED}, 403)
        if symbol_of(request.path_params["ticker"]) not in market.LISTED:
            return json_response({"status": "NOT_FOUND", **answer, "message": "Ticker not found."}, 404)
        return None

    async def aggregates(
        self,
        request: Request,
        ticker: Annotated[str, Path(description="a stock such as AAPL, or a coin such as X:BTCUSD", examples=["AAPL"])],
        multiplier: Annotated[int, Path(description="bars of minutes or hours must divide a day; of the others there is 1", examples=[1])],
        timespan: Annotated[str, Path(description="minute, hour, day, week, month, quarter or year", examples=["day"])],
        begin: Annotated[str, Path(alias="from", description="YYYY-MM-DD, or Unix milliseconds", examples=["2026-11-02"])],
        end: Annotated[str, Path(alias="to", description="YYYY-MM-DD, which is meant as a whole, or Unix milliseconds")],
        limit: Annotated[int, Query(description=f"1 to {MOST} base aggregates a page")] = 5000,
        sort: Annotated[str, Query(description="asc or desc")] = "asc",
        adjusted: Annotated[str, Query(description="true or false")] = "true",
        cursor: Annotated[str | None, Query(description="of a next_url: the question of the page before")] = None,
    ) -> Response:
        """Serve one page of bars."""
        request_id = secrets.token_hex(16)
        if (refusal := self._denied(request, request_id)) is not None:
            return refusal
        try:
            asked = Asked.of(cursor) if cursor else Asked(limit=limit, sort=sort, adjusted=adjusted)
            body = _body(request, asked, ticker, begin, end, request_id)
        except ValueError as error:
            said = str(error) if isinstance(error, BadRequest) else f"limit must be 1 to {MOST}, sort asc or desc, adjusted true or false"
            return json_response({"status": "ERROR", "request_id": request_id, "error": said}, 400)
        url = str(request.url)
        fault = self.faults.take(ticker, f"{multiplier} {timespan}", url, body)
        if fault is None:
            return json_response(body, 200)
        if fault.kind in ("wrong_symbol", "wrong_bars"):
            body = _body(request, asked, "AAPL" if ticker == "MSFT" else "MSFT", begin, end, request_id)
        if fault.kind == "wrong_bars":  # under the ticker that was asked for: nothing on the wire tells
            body["ticker"] = ticker
        return spoiled(fault, body, url)

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


def _body(request: Request, asked: Asked, ticker: str, begin: str, end: str, request_id: str) -> dict[str, Any]:
    symbol, newest_first = symbol_of(ticker), asked.sort == "desc"
    width = market.width_of(int(request.path_params["multiplier"]), request.path_params["timespan"])
    if width is None:
        raise BadRequest("the sandbox serves bars of minutes and hours that divide a day, and 1 day, week, month, quarter or year")
    try:
        from_ms, to_ms = moment_ms(begin, symbol, is_end=False), moment_ms(end, symbol, is_end=True)
    except (ValueError, OverflowError):
        raise BadRequest("'from' and 'to' are dates from 1971 to 2099, or Unix milliseconds") from None
    if from_ms > to_ms:
        raise BadRequest("'to' must not be before 'from'")
    if asked.at is not None:
        from_ms, to_ms = (from_ms, asked.at) if newest_first else (asked.at, to_ms)
    bars, has_more = market.page(symbol, width, from_ms, to_ms, int(time.time() * 1000), asked.limit, newest_first=newest_first)
    body: dict[str, Any] = {
        "ticker": ticker,
        "queryCount": len(bars) * max(1, width // 60) if isinstance(width, int) and width < 86400 else len(bars),
        "resultsCount": len(bars),
        "adjusted": asked.adjusted == "true",
        "status": "OK",
        "request_id": request_id,
    }
    if len(bars):
        columns = [getattr(bars, name) for name in COLUMNS[:-1]] + [bars.n.astype(np.int64)]
        body |= {"results": list(map(Agg, *(column.tolist() for column in columns))), "count": len(bars)}
    if has_more:
        at = int(bars.t[-1]) + (-1 if newest_first else 1)
        body["next_url"] = str(request.url.replace(query=f"cursor={asked.cursor(at)}"))
    return body


def _links(home: Home, key: str) -> Links:
    """Return the links that drills put in the way, none of which is at first; before a database of somebody else's there is none."""
    home.links.unlink(missing_ok=True)  # of a process that died meanwhile
    ports = Ports.of(home).model_dump() if home.ports.exists() and external_url() is None else {}
    return Links({name: ("127.0.0.1", ports[end]) for name, end in LINKS.items() if end in ports}, key, home.links)


def application(home: Home) -> ASGIApp:
    """Return the upstream as an ASGI application."""
    app, upstream = FastAPI(title="Sandbox upstream", docs_url=None, redoc_url=None), Upstream(home)
    said = {
        400: "A value that is not allowed",
        401: "Unknown API key",
        403: "Not entitled",
        404: "Unknown ticker",
        429: "Too many requests",
    }
    errors: dict[int | str, dict[str, Any]] = {code: {"model": Error, "description": text} for code, text in said.items()}
    path = "/v2/aggs/ticker/{ticker}/range/{multiplier}/{timespan}/{from}/{to}"
    app.add_api_route(path, upstream.aggregates, responses=errors, dependencies=[Depends(KEY)])
    app.add_api_route("/health", upstream.health)

    @app.exception_handler(RequestValidationError)
    async def refuse(request: Request, error: Exception) -> Response:
        if not request.scope["route"].path.startswith("/v2/"):
            return await request_validation_exception_handler(request, error)  # type: ignore[arg-type]
        return json_response({"status": "ERROR", "request_id": secrets.token_hex(16), "error": "a value is no number"}, 400)

    admin: dict[str, Any] = {"dependencies": [Depends(Admin(home))], "responses": REFUSED}
    app.add_api_route("/faults", upstream.listed, **admin)
    app.add_api_route("/faults", upstream.add, methods=["POST"], **admin)
    app.add_api_route("/faults", upstream.clear, methods=["DELETE"], **admin)
    app.add_api_route("/limit", upstream.limit, methods=["POST"], **admin)
    app.include_router(_links(home, upstream.key).router())

    async def with_transport(scope: Scope, receive: Receive, send: Send) -> None:
        scope["send"] = send  # the fault `reset` reaches the connection through it
        if away := DISTANT.match(scope.get("path", "")):
            if not knows_key(Request(scope), upstream.key):
                await json_response({"status": "ERROR", "request_id": "", "error": "Unknown API Key"}, 401)(scope, receive, send)
                return
            scope["root_path"] = away[0]
            await asyncio.sleep(min(int(away[1]), MOST_DISTANT_MS) / 1000)
        await app(scope, receive, send)

    return with_transport
