"""What the sandbox's upstream does wrong on request, on the wire. Without a request it does nothing."""

import asyncio
import socket
import struct
import time
from collections import Counter
from typing import Any, Literal

import msgspec
from fastapi import Response
from pydantic import Field
from starlette.types import Receive, Scope, Send

from tapecheck.config import Model

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
