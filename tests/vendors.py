"""A vendor of aggregates on loopback whose answers a test spoils: known bars around the clock, one page after another."""

import base64
import datetime as dt
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from servers import Exchange, Server

from tapecheck.backfill.calendar import aggregate, day_of
from tapecheck.vendor.bars import COLUMNS, TIMEFRAMES, Bars, to_ms

KEY = "k3y-of-a-planted-vendor"
FRAMES = {(frame.multiplier, frame.timespan): frame for frame in TIMEFRAMES.values()}
Body = dict[str, Any]


@dataclass(kw_only=True)
class Asked:
    """One request for a page: of which series, from which time on (Unix ms), and how many requests of the series there were, from 1."""

    ticker: str
    timeframe: str
    at: int
    number: int
    adjusted: bool

    def is_of(self, *tickers: str) -> bool:
        return self.ticker.removeprefix("X:").removesuffix("USD") in tickers


def whole(asked: Asked, body: Body) -> Any:
    """Spoil nothing."""
    return body


def emptied(asked: Asked, body: Body) -> Body:
    """Say that there is nothing, and that nothing follows."""
    return body | {"results": [], "resultsCount": 0, "queryCount": 0, "next_url": None}


def bars_of(ticker: str, timeframe: str, start: int, end: int, scale: float = 1.0) -> Bars:
    """Return the bars of a ticker that begin between two times (Unix ms): a slow wave, whose longer bars are made of the 5-minute ones."""
    day = np.arange(start // 86_400_000 * 86_400_000, end + 86_400_000, 300_000)
    t = day[(day // 300_000) % 97 != len(ticker)]  # now and then there is no trade
    level = 50 + 7 * len(ticker) + np.sin(t / 9e7 + len(ticker)) + np.sin(t / 1.1e7)
    o, c = np.round(level, 4), np.round(level + 0.05 * np.sin(t / 1e6), 4)
    v, n = 100.0 + t // 300_000 % 50, 60.0 + t // 300_000 % 7
    made = Bars(t=t, o=o, c=c, h=np.maximum(o, c) + 0.01, l=np.minimum(o, c) - 0.01, v=v, vw=np.round((o + c) / 2, 4), n=n)
    width = TIMEFRAMES[timeframe].length_s
    made = made if width == 300 else aggregate(made, day_of(made.t // 1000, ticker), width)
    made = made[(made.t >= start) & (made.t <= end)]
    prices = {name: np.round(getattr(made, name) * scale, 6) for name in ("o", "h", "l", "c", "vw")}
    return Bars(t=made.t, v=made.v / scale, n=made.n, **prices)


@dataclass
class Vendor:
    """The behaviour of a server: answers with pages of `page` bars, each changed by `spoil`, at prices that are `scale` times as high.

    `spoil` returns a body, or bytes, or a status with bytes. `known` are the tickers that it has; None for any.
    """

    spoil: Callable[[Asked, Body], Any] = whole
    page: int = 200
    scale: float = 1.0
    known: set[str] | None = None
    asked: list[Asked] = field(default_factory=list)

    async def __call__(self, exchange: Exchange) -> None:
        path = [unquote(part) for part in urlsplit(exchange.target).path.split("/")]
        if path[1:3] == ["v3", "reference"]:
            found = self.known is None or path[4] in self.known
            exchange.send(json.dumps({"status": "OK" if found else "NOT_FOUND"}).encode(), status=200 if found else 404)
        elif path[1:3] != ["v2", "aggs"]:
            exchange.send(b"{}", status=404)
        elif f"bearer {KEY}" not in exchange.head.decode().lower():
            exchange.send(b'{"status":"ERROR","error":"Unknown API Key"}', status=401)
        else:
            self._answer(exchange, path)

    def _answer(self, exchange: Exchange, path: list[str]) -> None:
        ticker, frame, start, end = path[4], FRAMES[int(path[6]), path[7]].name, int(path[8]), int(path[9])
        cursor = exchange.query.get("cursor")
        at = int(base64.urlsafe_b64decode(cursor)) if cursor else start
        number = 1 + sum((one.ticker, one.timeframe) == (ticker, frame) for one in self.asked)
        asked = Asked(ticker=ticker, timeframe=frame, at=at, number=number, adjusted=exchange.query.get("adjusted", "true") == "true")
        self.asked.append(asked)
        is_there = self.known is None or ticker in self.known
        bars = bars_of(ticker, frame, at, end, self.scale) if is_there else Bars.empty()
        body: Body = {"ticker": ticker, "status": "OK", "queryCount": 0, "resultsCount": 0, "adjusted": True, "request_id": "r"}
        if len(bars):
            rows = zip(*(getattr(bars[: self.page], name).tolist() for name in COLUMNS), strict=True)
            body["results"] = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
            body["queryCount"] = body["resultsCount"] = len(body["results"])
        if len(bars) > self.page:
            after = base64.urlsafe_b64encode(str(int(bars.t[self.page])).encode()).decode()
            host = next(line.split()[1] for line in exchange.head.decode().splitlines() if line.lower().startswith("host:"))
            body["next_url"] = f"http://{host}{urlsplit(exchange.target).path}?cursor={after}&adjusted={str(asked.adjusted).lower()}"
        answer = self.spoil(asked, body)
        status, answer = answer if isinstance(answer, tuple) else (200, answer)
        exchange.send(answer if isinstance(answer, bytes) else json.dumps(answer).encode(), status=status)


def with_results(body: Body, results: list[Body]) -> Body:
    """Return a page with other bars, and the count of them."""
    return body | {"results": results, "resultsCount": len(results)}


def ms(text: str) -> int:
    """Return a time in UTC as Unix milliseconds."""
    return to_ms(dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC))


def serving(vendor: Vendor) -> Server:
    """Return a server that behaves as the vendor."""
    return Server(vendor)
