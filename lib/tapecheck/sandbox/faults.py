"""What the sandbox's upstream does wrong on request, as people report it of vendors. Without a request it does nothing."""

import asyncio
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from fastapi import Response
from pydantic import Field
from starlette.types import Receive, Scope, Send

from tapecheck.backfill.calendar import DAY_S
from tapecheck.config import Model

RATE_LIMITED = "You've exceeded the maximum requests per minute, please wait or upgrade your subscription to continue."
NOT_ENTITLED = "You are not entitled to this data. Please upgrade your plan."
BODIES = "application/json"


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

    def scaled(self, ratio: float) -> "Agg":
        """Return it after a split: `ratio` shares for one."""
        o, h, l, c, vw = (round(x / ratio, 4) for x in (self.o, self.h, self.l, self.c, self.vw))  # noqa: E741
        return Agg(self.t, o, h, l, c, self.v * ratio, vw, self.n)

    def changed(self, **values: float) -> "Agg":
        """Return it with other values."""
        return msgspec.structs.replace(self, **values)


Body = dict[str, Any]
Bars = list[Agg]


def _each(every: int, change: Callable[[Agg], Agg], first: int = 0) -> Callable[[Bars], Bars]:
    """Return what changes one bar of `every`."""
    return lambda bars: [change(bar) if at % every == first else bar for at, bar in enumerate(bars)]


def _newest(change: Callable[[Agg], Agg]) -> Callable[[Bars], Bars]:
    return lambda bars: [*bars[:-1], change(bars[-1])]


def _hash(bar: Agg) -> int:
    return bar.t // 1000 // 300 * 2654435761 % 2**32


BAR_FAULTS: Mapping[str, Callable[[Bars], Bars]] = {  # of a page that has bars
    "poisoned": _newest(lambda b: b.changed(o=-b.c, h=-b.c, l=-b.c, c=-b.c)),
    "negative_volume": _newest(lambda b: b.changed(v=-b.v)),
    "outside_range": lambda bars: [bars[0].changed(t=bars[0].t - 400 * DAY_S * 1000), *bars],
    "future_bar": lambda bars: [*bars, bars[-1].changed(t=bars[-1].t + 30 * DAY_S * 1000)],
    "seconds_in_some": _each(10, lambda b: b.changed(t=b.t // 1000), 3),
    "late_start": lambda bars: [b for b in bars if b.t > time.time() * 1000 - 10 * DAY_S * 1000],
    "sparse": lambda bars: [b for b in bars if _hash(b) % 10 < 4],
    "recycled": lambda bars: [b.scaled(20) for b in bars if b.t > time.time() * 1000 - 10 * DAY_S * 1000],
    "vwap_outside": _each(10, lambda b: b.changed(vw=round(b.h * 1.2, 4)), 1),
    "negative_vwap": _each(10, lambda b: b.changed(vw=-5.0), 2),
    "negative_price": _each(10, lambda b: b.changed(l=-1.0), 3),
    "zero_price": _each(10, lambda b: b.changed(o=0.0, h=0.0, l=0.0, c=0.0, vw=0.0), 4),
    "negative_count": _each(10, lambda b: b.changed(n=-3), 5),
    "spike": lambda bars: [b.changed(h=b.h * 10) if at == len(bars) // 2 else b for at, b in enumerate(bars)],
    "fractional_volume": _each(2, lambda b: b.changed(v=b.v + 0.25)),
    "huge_volume": _newest(lambda b: b.changed(v=2.0**53 + 2)),
    "repeated": lambda bars: [b for bar in bars for b in (bar, bar)],
    "contradicting": lambda bars: [*bars[:1], *(b.changed(c=b.h, v=b.v + 1) for b in bars[:1]), *bars[1:]],
    "unsorted": lambda bars: bars[::-1],
    "higher_high": _each(5, lambda b: b.changed(h=b.h * 1.05)),
    "more_volume": _each(5, lambda b: b.changed(v=b.v * 100)),
    "missing_minutes": lambda bars: [b for b in bars if b.t // 1000 % DAY_S // 300 != 183],
    "closed_day": lambda bars: [b for b in bars if b.t // 1000 // DAY_S % 10],
    "late_origin": lambda bars: [b.changed(t=b.t + 5 * 3_600_000) for b in bars],
    "empty_results": lambda bars: [],
}


def _without(body: Body, *names: str, **more: Any) -> Body:
    return {name: value for name, value in body.items() if name not in names} | more


_EMPTY = {"queryCount": 0, "resultsCount": 0}
BODY_FAULTS: Mapping[str, Callable[[Body, str], Body]] = {  # given the body and its own URL
    "results_missing": lambda body, url: _without(body, "results"),
    "results_null": lambda body, url: body | {"results": None},
    "null_zero": lambda body, url: _without(body, "count", "next_url", results=None, **_EMPTY),
    "no_results": lambda body, url: _without(body, "results", "count", "next_url", **_EMPTY),
    "empty_page": lambda body, url: _without(body, "results", "count", "next_url", **_EMPTY),
    "duplicate_page": lambda body, url: body | {"next_url": url},
    "unadjusted": lambda body, url: body | {"adjusted": False},
    "delayed": lambda body, url: body | {"status": "DELAYED"},
    "error_in_200": lambda body, url: {"status": "ERROR", "request_id": body["request_id"], "error": "Your plan does not include this"},
    "refused_in_200": lambda body, url: {"status": "NOT_AUTHORIZED", "request_id": body["request_id"], "message": NOT_ENTITLED},
    "next_url_relative": lambda body, url: body | {"next_url": "/" + body["next_url"].split("/", 3)[3]},
    "next_url_elsewhere": lambda body, url: body | {"next_url": "https://api.example.com/" + body["next_url"].split("/", 3)[3]},
    "next_url_other_scheme": lambda body, url: body | {"next_url": body["next_url"].replace("http://", "https://", 1)},
    "next_url_other_port": lambda body, url: body | {"next_url": "http://127.0.0.1:9/" + body["next_url"].split("/", 3)[3]},
    "next_url_no_url": lambda body, url: body | {"next_url": "http://[nowhere"},
}
ANSWER_FAULTS = (
    "rate_limited", "rate_limited_empty", "forbidden", "server_error", "fail_twice", "reset", "black_hole", "truncated", "slow_drip",
)  # fmt: skip
OTHER_FAULTS = ("wrong_symbol", "wrong_bars", "split")  # made from another ticker's bars, or with a ratio
KINDS = (*ANSWER_FAULTS, *OTHER_FAULTS, *BODY_FAULTS, *BAR_FAULTS)
NEED_BARS = {*BAR_FAULTS, "results_missing", "split"}
NEED_NEXT = {"duplicate_page", *(kind for kind in BODY_FAULTS if kind.startswith("next_url"))}


class Fault(Model):
    """One fault, for the next `count` answers or for `seconds`; without either, until it is cleared."""

    kind: str = Field(pattern=f"^({'|'.join(KINDS)})$")
    ticker: str | None = Field(default=None, max_length=50, description="only of this one, such as X:BTCUSD")
    bars: str | None = Field(default=None, max_length=20, description="only of these, such as: 4 hour")
    count: int | None = Field(default=None, ge=1, le=1_000_000)
    seconds: float | None = Field(default=None, gt=0, le=86400)
    status: int = Field(default=503, ge=400, le=599, description="of server_error and fail_twice")
    retry_after: str | None = Field(default=None, max_length=100, pattern=r"^[\x20-\x7e]*$", description="of rate_limited")
    ratio: float = Field(default=4, ge=0.01, le=100, description="of split: new shares for an old one")


class Faults:
    """The faults that are switched on, oldest first."""

    def __init__(self) -> None:
        self._on: list[tuple[Fault, float]] = []
        self._used: Counter[int] = Counter()
        self._failed: Counter[str] = Counter()

    def add(self, fault: Fault) -> None:
        """Switch a fault on."""
        self._on.append((fault, time.monotonic()))

    def clear(self) -> None:
        """Switch every fault off."""
        for each in (self._on, self._used, self._failed):
            each.clear()

    def active(self) -> list[Fault]:
        """Return the faults that are still on."""
        now_s = time.monotonic()
        self._on = [(f, at) for f, at in self._on if f.seconds is None or now_s < at + f.seconds]
        self._on = [(f, at) for f, at in self._on if f.count is None or self._used[id(f)] < f.count]
        return [fault for fault, _ in self._on]

    def take(self, ticker: str, bars: str, url: str, body: Body) -> Fault | None:
        """Return the fault that the answer to a question shall have, and count it."""
        for fault in self.active():
            if fault.ticker not in (None, ticker) or fault.bars not in (None, bars):
                continue
            if (fault.kind in NEED_BARS and "results" not in body) or (fault.kind in NEED_NEXT and "next_url" not in body):
                continue
            if (fault.kind == "empty_page" and "cursor=" not in url) or (fault.kind == "fail_twice" and self._failed[url] >= 2):
                continue
            self._used[id(fault)] += 1
            self._failed[url] += fault.kind == "fail_twice"
            return fault
        return None


def spoiled(fault: Fault, body: Body, url: str) -> Response:
    """Return the answer that a fault makes of a good body, which for `wrong_symbol` and `wrong_bars` is another ticker's."""
    headers = {"Retry-After": fault.retry_after} if fault.retry_after is not None else {}
    request_id = body["request_id"]
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
        case "split":
            body = with_bars(body, [bar.scaled(fault.ratio) for bar in body["results"]] if body["adjusted"] else body["results"])
    if fault.kind in BAR_FAULTS:
        body = with_bars(body, BAR_FAULTS[fault.kind](body["results"]))
    elif fault.kind in BODY_FAULTS:
        body = BODY_FAULTS[fault.kind](body, url)
    encoded = msgspec.json.encode(body)
    if fault.kind == "truncated":
        return Response(encoded[: len(encoded) // 2], media_type=BODIES)
    return Drip(encoded, media_type=BODIES) if fault.kind == "slow_drip" else Response(encoded, media_type=BODIES)


def with_bars(body: Body, bars: Bars) -> Body:
    """Return a body with other bars, which it counts."""
    return body | {"results": bars, "resultsCount": len(bars), "count": len(bars)}


def json_response(body: Body, status: int, headers: dict[str, str] | None = None) -> Response:
    """Encode a body as JSON."""
    return Response(msgspec.json.encode(body), status, headers, BODIES)


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
