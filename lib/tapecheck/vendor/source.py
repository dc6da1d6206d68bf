"""Reads bars from the vendor's aggregates API, page by page, with retries. It stores nothing."""

import asyncio
import datetime as dt
import logging
import random
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Self
from urllib.parse import quote

import anyio.to_thread
import httpx
import numpy as np

from tapecheck import text
from tapecheck.target.transport import TooLarge, client_options, exchange
from tapecheck.vendor import wire
from tapecheck.vendor.bars import TICKERS, TIMEFRAMES, Bars, to_ms
from tapecheck.vendor.rate_limit import Bucket, Budget, Retry
from tapecheck.vendor.trace import Trace
from tapecheck.vendor.wire import Aggregates, BadPage, BarQuery, Refused, SourceError, Unreachable

VENDOR_HOSTS = {"api.massive.com", "api.polygon.io"}  # one service under two names
REPEATED_PAGES_ALLOWED = 3  # a cursor that does not move this often is broken, not slow
EMPTY_ANSWERS = 3  # so often in a row, and an empty page is believed

logging.getLogger("httpx").setLevel(logging.WARNING)  # its INFO lines hold whole URLs


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page, numbered from 0, with the bars that were not on an earlier one; its times and requests are in the trace."""

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
        tickers: the vendor's tickers of symbols that are not called so there.
        adjusted: whether prices are asked for as splits have adjusted them since.
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
        tickers: Mapping[str, str] = TICKERS,
        adjusted: bool = True,
    ) -> None:
        self._retry, self._timeout_s, self._bucket = retry or Retry(), timeout_s, bucket
        text.learn(key)  # in a worker process, too
        self._base, self._tickers, self.adjusted = httpx.URL(base_url), tickers, adjusted
        self._slots = asyncio.Semaphore(connections)
        self._client = httpx.AsyncClient(
            base_url=base_url,
            headers={"Accept": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {}),
            timeout=timeout_s,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=connections),  # the slots are the limit
            follow_redirects=False,
            **client_options(base_url),
        )

    def ticker(self, symbol: str) -> str:
        """Return the vendor's ticker of a symbol."""
        return self._tickers.get(symbol, symbol)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def pages(
        self, symbol: str, timeframe: str, start: dt.datetime, end: dt.datetime, trace: Trace | None = None, *, in_order: bool = True
    ) -> AsyncIterator[Page]:
        """Yield every page of bars whose start lies in [start, end], oldest first, each bar once.

        Args:
            in_order: whether a page with bars that belong before those of an earlier page is an error.
            trace: takes the spans of waiting (for a token, or between two attempts), fetching and decoding, every start sent, and
                what was odd about the bars.

        Raises:
            SourceError: one of its kinds, after the retries that make sense for it.
        """
        trace, ticker = trace or Trace(symbol, timeframe), self.ticker(symbol)
        query = BarQuery(ticker=ticker, timeframe=TIMEFRAMES[timeframe], start_ms=to_ms(start), end_ms=to_ms(end), adjusted=self.adjusted)
        url: str | None = query.path
        before, stuck, number, budget = Bars.empty(), 0, 0, Budget(self._retry)
        while url is not None:
            answer, url, asked_at = await self._page(url, query, number, trace, budget)
            bars = _new(answer.bars, before, query, trace, in_order=in_order)
            if number == 0 and url is None and not len(bars):
                await self._check_known(ticker, trace)
            stuck = stuck + 1 if len(bars) == 0 and url else 0
            if stuck > REPEATED_PAGES_ALLOWED:
                raise BadPage(f"{ticker}: next_url leads to the same bars again and again")
            before = Bars.joined(before, bars)
            before = before if in_order else before[np.argsort(before.t, kind="stable")]
            yield Page(number=number, bars=bars, last=url is None, repeated=len(answer.sent) - len(bars), asked_at=asked_at)
            number += 1

    async def _page(
        self, url: str, query: BarQuery, number: int, trace: Trace, budget: Budget
    ) -> tuple[Aggregates, str | None, dt.datetime]:
        """Ask for a page until it is answered, and an empty one until it stays empty; return it, where the next one is, and when."""
        empty = 0
        for attempt in count(1):
            answer, failed = None, None
            try:
                async with self._slots:
                    await self._token(number, trace)  # last: tokens kept while waiting for a slot would all be used at once
                    begun_s, asked_at = time.monotonic(), dt.datetime.now(dt.UTC)
                    response, body = await self._answer(url, query.ticker, number, trace)
                if response.status_code != 200:
                    wish = wire.retry_after_s(response.headers.get("retry-after"), asked_at)
                    raise wire.failure(response.status_code, body, query.ticker, wish)
                answer = await anyio.to_thread.run_sync(self._decoded, body, query, number, trace)
                next_url = self._followed(answer.next_url, response.url, query.ticker)
            except SourceError as error:
                failed = error
            empty = empty + 1 if answer and not len(answer.bars) else 0
            delay_s = None
            if (failed and failed.retryable) or 0 < empty < EMPTY_ANSWERS:
                asked_s = failed.retry_after_s if failed else None
                delay_s = budget.pause_s(attempt, time.monotonic() - begun_s, asked_s, random.random())
            if delay_s is None:
                break
            with trace.span("wait", number):
                await asyncio.sleep(delay_s)
        if failed or answer is None:
            raise failed or Unreachable(f"{query.ticker}: gave up")
        for kind, times in answer.odd.items():
            trace.odd(kind, times)
        trace.sent(answer.sent)
        return answer, next_url, asked_at

    async def _token(self, number: int, trace: Trace) -> None:
        """Wait for a token; what is let through at once leaves no span."""
        if self._bucket is None or (delay_s := await self._bucket.ask()) == 0:
            return
        with trace.span("wait", number):
            while delay_s > 0:
                await asyncio.sleep(delay_s)
                delay_s = await self._bucket.ask()

    async def _answer(self, url: str, ticker: str, number: int, trace: Trace) -> tuple[httpx.Response, bytes]:
        """Send one request, and return its answer and body."""
        try:
            with trace.span("fetch", number) as cost:
                cost.requests = 1
                response, body = await exchange(self._client, self._client.build_request("GET", url), self._timeout_s)
                cost.bytes = len(body)
            return response, body
        except TimeoutError:
            raise Unreachable(f"{ticker}: no whole answer within {self._timeout_s:g} s") from None
        except TooLarge as error:
            raise BadPage(f"{ticker}: {error}") from None
        except httpx.LocalProtocolError:
            raise Refused(f"{ticker}: the request cannot be sent: is there a space or a line break in the key?") from None
        except httpx.RequestError as error:
            raise Unreachable(f"{ticker}: {type(error).__name__} from {self._base.host}") from None

    def _decoded(self, body: bytes, query: BarQuery, number: int, trace: Trace) -> Aggregates:
        with trace.span("decode", number) as cost:
            answer = wire.decode(body, query)
            cost.rows = len(answer.bars)
        return answer

    def _followed(self, next_url: str | None, asked: httpx.URL, ticker: str) -> str | None:
        """Return where the next page is; a link to another host would hand it our key."""
        if next_url is None:
            return None
        try:
            link = asked.join(next_url)
        except httpx.InvalidURL:
            raise BadPage(f"{ticker}: next_url is no URL") from None
        known = VENDOR_HOSTS if self._base.host in VENDOR_HOSTS else {self._base.host}
        if link.host not in known:
            raise Refused(f"{ticker}: next_url leads to another host, {link.host!r}; the key is not sent there")
        if (link.scheme, link.port) != (self._base.scheme, self._base.port):
            where = f"{link.scheme}://{link.netloc.decode()}"
            raise Refused(f"{ticker}: next_url leads to another scheme or port, {where}, than source_url; the key is not sent there")
        return str(link)

    async def _check_known(self, ticker: str, trace: Trace) -> None:
        """Ask for the ticker itself where a range has no bars: the vendor may answer that for a ticker that it does not know.

        Raises:
            UnknownTicker: the vendor has no such ticker.
        """
        try:
            async with self._slots:
                await self._token(0, trace)
                response, body = await self._answer(f"/v3/reference/tickers/{quote(ticker, safe=':')}", ticker, 0, trace)
        except SourceError:
            return
        if wire.is_unknown(response.status_code, body):
            raise wire.UnknownTicker(f"{ticker}: the vendor has no bars and knows no such ticker")


def _new(bars: Bars, before: Bars, query: BarQuery, trace: Trace, *, in_order: bool) -> Bars:
    """Return the bars of a page that earlier pages did not have, and note those that contradict them.

    Raises:
        Disordered: some begin before the last of an earlier page.
    """
    if not len(bars) or not len(before) or bars.t[0] > before.t[-1]:
        return bars
    is_again = np.isin(bars.t, before.t)
    again, new = bars[is_again], bars[~is_again]
    trace.odd("contradicted", again.t[wire.differ(again, before[np.searchsorted(before.t, again.t)])])
    if in_order and len(new) and new.t[0] < before.t[-1]:
        raise wire.Disordered(f"{query.ticker}: a page begins before the end of the page before it")
    return new
