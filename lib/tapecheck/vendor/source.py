"""Reads bars from the vendor's aggregates API, page by page, with retries. It stores nothing."""

import asyncio
import datetime as dt
import logging
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Self

import anyio.to_thread
import httpx

from tapecheck.target.loopback import client_options
from tapecheck.vendor.bars import TIMEFRAMES, Bars, IntArray, ticker_of, to_ms
from tapecheck.vendor.rate_limit import Bucket, Budget, Retry
from tapecheck.vendor.trace import Trace
from tapecheck.vendor.wire import BadPage, Refused, SourceError, Unreachable, decode, failure, retry_after_s

PAGE_LIMIT = 50_000  # base aggregates a page, the most that the vendor allows
VENDOR_HOSTS = {"api.massive.com", "api.polygon.io"}  # one service under two names
REPEATED_PAGES_ALLOWED = 3  # a cursor that does not move this often is broken, not slow

logging.getLogger("httpx").setLevel(logging.WARNING)  # its INFO lines hold whole URLs


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page, numbered from 0; its times and requests are in the trace."""

    number: int
    bars: Bars
    last: bool
    repeated: int
    asked_at: dt.datetime


class Source:
    """A client of the vendor's aggregates API; use it as an async context manager.

    Args:
        base_url: scheme and host, such as `https://api.massive.com`.
        key: the API key; sent only as a header, and without one nothing is.
        timeout_s: the longest one request may take, however slowly its body drips.
        connections: the most requests in flight at once.
        bucket: shared by all who use the same key.
    """

    def __init__(
        self,
        base_url: str,
        key: str,
        *,
        retry: Retry | None = None,
        timeout_s: float = 15.0,
        connections: int = 4,
        bucket: Bucket | None = None,
    ) -> None:
        self._retry, self._timeout_s, self._bucket = retry or Retry(), timeout_s, bucket
        self._base, self._key = httpx.URL(base_url), key
        self._slots = asyncio.Semaphore(connections)
        self._client = httpx.AsyncClient(
            base_url=base_url,
            headers={"Accept": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {}),
            timeout=timeout_s,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=connections),  # the slots are the limit
            follow_redirects=False,
            **client_options(base_url),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def pages(
        self, symbol: str, timeframe: str, start: dt.datetime, end: dt.datetime, trace: Trace | None = None
    ) -> AsyncIterator[Page]:
        """Yield every page of bars whose start lies in [start, end], oldest first, each bar once.

        Args:
            trace: takes the spans of waiting (for a token, or between two attempts), fetching and decoding, and every start sent.

        Raises:
            SourceError: one of its kinds, after the retries that make sense for it.
        """
        ticker, frame, trace = ticker_of(symbol), TIMEFRAMES[timeframe], trace or Trace(symbol, timeframe)
        url: str | None = (
            f"/v2/aggs/ticker/{ticker}/range/{frame.multiplier}/{frame.timespan}/{to_ms(start)}/{to_ms(end)}"
            f"?adjusted=true&sort=asc&limit={PAGE_LIMIT}"
        )
        newest_ms, stuck, number, budget = -1, 0, 0, Budget(self._retry)
        while url is not None:
            page, url = await self._page(url, ticker, number, trace, budget)
            bars = page.bars[page.bars.t > newest_ms]
            stuck = stuck + 1 if len(bars) == 0 and url else 0
            if stuck > REPEATED_PAGES_ALLOWED:
                raise BadPage(f"{ticker}: next_url leads to the same bars again and again")
            newest_ms = int(bars.t[-1]) if len(bars) else newest_ms
            number += 1
            yield replace(page, bars=bars, repeated=page.repeated + len(page.bars) - len(bars))

    async def _page(self, url: str, ticker: str, number: int, trace: Trace, budget: Budget) -> tuple[Page, str | None]:
        for attempt in range(1, 1000):
            asked_s: float | None = None
            try:
                async with self._slots:
                    await self._token(number, trace)  # last: tokens kept while waiting for a slot would all be used at once
                    begun_s, asked_at = time.monotonic(), dt.datetime.now(dt.UTC)
                    with trace.span("fetch", number) as cost:
                        cost.requests = 1
                        response = await self._answer(url, ticker)
                        cost.bytes = len(response.content)
                if response.status_code != 200:
                    asked_s = retry_after_s(response.headers.get("retry-after"), asked_at)
                    raise failure(response.status_code, response.content, ticker, self._key)
                bars, next_url, sent = await anyio.to_thread.run_sync(_decoded, response.content, ticker, number, trace)
                trace.sent(sent)
                repeated = len(sent) - len(bars)
                page = Page(number=number, bars=bars, last=next_url is None, repeated=repeated, asked_at=asked_at)
                return page, self._followed(next_url, ticker)
            except SourceError as error:
                delay_s = budget.pause_s(attempt, time.monotonic() - begun_s, asked_s, random.random())
                if not error.retryable or delay_s is None:
                    raise
            with trace.span("wait", number):
                await asyncio.sleep(delay_s)
        raise Unreachable(f"{ticker}: gave up")

    async def _token(self, number: int, trace: Trace) -> None:
        """Wait for a token; what is let through at once leaves no span."""
        if self._bucket is None or (delay_s := await self._bucket.ask()) == 0:
            return
        with trace.span("wait", number):
            while delay_s > 0:
                await asyncio.sleep(delay_s)
                delay_s = await self._bucket.ask()

    async def _answer(self, url: str, ticker: str) -> httpx.Response:
        """Send one request; httpx bounds each read, so the whole answer is bounded here."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._client.get(url)
        except TimeoutError:
            raise Unreachable(f"{ticker}: no whole answer within {self._timeout_s:g} s") from None
        except httpx.LocalProtocolError:
            raise Refused(f"{ticker}: the request cannot be sent: is there a space or a line break in the key?") from None
        except httpx.RequestError as error:
            raise Unreachable(f"{ticker}: {type(error).__name__} from {self._base.host}") from None

    def _followed(self, next_url: str | None, ticker: str) -> str | None:
        """Return where the next page is; a link to another host would hand it our key."""
        if next_url is None:
            return None
        try:
            link = httpx.URL(next_url)
        except httpx.InvalidURL:
            raise BadPage(f"{ticker}: next_url is no URL") from None
        known = VENDOR_HOSTS if self._base.host in VENDOR_HOSTS else {self._base.host}
        if link.host not in known or (link.scheme, link.port) != (self._base.scheme, self._base.port):
            raise Refused(f"{ticker}: next_url leads to another host, {link.host!r}")
        return next_url


def _decoded(body: bytes, ticker: str, number: int, trace: Trace) -> tuple[Bars, str | None, IntArray]:
    with trace.span("decode", number) as cost:
        bars, next_url, sent = decode(body, ticker)
        cost.rows = len(bars)
    return bars, next_url, sent
