"""Holds one answer of the vendor's aggregates API against what was asked, and returns its bars as columns. It sends nothing."""

import datetime as dt
import email.utils
import math
import re
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import numpy as np

from tapecheck.errors import TapecheckError
from tapecheck.text import line, redact
from tapecheck.vendor.bars import COLUMNS, Bars, BoolArray, IntArray, Timeframe

PAGE_LIMIT = 50_000  # base aggregates a page, the most that the vendor allows
RETRY_AFTER_CAP_S = 300.0  # the longest wait that a server may ask of us
LATEST_MS = 253_402_300_799_999  # the last millisecond of the year 9999
HOUR_MS = 3_600_000


class SourceError(TapecheckError):
    """The vendor's API did not give what was asked for."""

    retryable = False
    retry_after_s: float | None = None


class Unauthorized(SourceError):
    """401: the key is missing or unknown."""


class Forbidden(SourceError):
    """403: the subscription does not include this data."""


class UnknownTicker(SourceError):
    """404: the vendor has no such ticker."""


class Refused(SourceError):
    """Any other 4xx: the request is wrong, and would be wrong again."""


class RateLimited(SourceError):
    """429: too many requests."""

    retryable = True


class Unreachable(SourceError):
    """No answer: refused, reset, or beyond its timeout; or a status that passes (408, 425, 5xx)."""

    retryable = True


class BadPage(SourceError):
    """A success whose body cannot be trusted: broken, not what was asked for, or with bars missing."""

    retryable = True


class Disordered(BadPage):
    """A page with bars that belong before those of an earlier page: the series can only be stored as a whole."""

    retryable = False


KINDS = {401: Unauthorized, 403: Forbidden, 404: UnknownTicker, 408: Unreachable, 425: Unreachable, 429: RateLimited}
SUCCESS = ("OK", "DELAYED")
STATUSES = {"NOT_AUTHORIZED": Forbidden, "NOT_FOUND": UnknownTicker}  # of bodies, also where HTTP says 200
WORDS: list[tuple[str, type[SourceError]]] = [  # of a 200 with another status; what they do not explain may pass
    (r"exceeded|too many|rate limit", RateLimited),
    (r"api.?key|unauthorized|authentication", Unauthorized),
    (r"your plan|subscription|entitled|upgrade|not authorized|permission", Forbidden),
    (r"ticker.*(not found|unknown|invalid)|(not found|unknown|invalid).*ticker", UnknownTicker),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class BarQuery:
    """What is asked: the bars of a ticker that begin from one time to another, both included, adjusted for splits or not."""

    ticker: str
    timeframe: Timeframe
    start_ms: int
    end_ms: int
    adjusted: bool = True

    @property
    def path(self) -> str:
        """Return it as the vendor's API is asked."""
        frame, adjusted = self.timeframe, str(self.adjusted).lower()
        return (
            f"/v2/aggs/ticker/{quote(self.ticker, safe=':')}/range/{frame.multiplier}/{frame.timespan}/{self.start_ms}/{self.end_ms}"
            f"?adjusted={adjusted}&sort=asc&limit={PAGE_LIMIT}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregates:
    """The bars of one page that were asked for, ascending, each start once, and their starts (Unix ms) as they were sent.

    `odd` has by kind the starts of bars that were not asked for or are incomplete, and so left out, or that came twice with
    different values, of which the later are kept.
    """

    bars: Bars
    sent: IntArray
    next_url: str | None
    odd: dict[str, IntArray]


class _Bar(msgspec.Struct, gc=False):
    t: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
    o: float | None = None
    h: float | None = None
    l: float | None = None  # noqa: E741 - the vendor's name
    c: float | None = None
    v: float | None = None
    vw: float | None = None
    n: float | None = None


class _Body(msgspec.Struct):
    status: str | None = None
    ticker: str | None = None
    adjusted: bool | None = None
    resultsCount: int | None = None
    queryCount: int | None = None
    results: list[_Bar] | msgspec.UnsetType | None = msgspec.UNSET
    next_url: str | None = None
    error: Any = None
    message: Any = None


_bodies = msgspec.json.Decoder(_Body)
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # what decoding raises; the last of lists in lists in lists


def decode(body: bytes, query: BarQuery) -> Aggregates:
    """Decode the body of a 200 and hold it against the query; no message holds the key.

    Raises:
        BadPage: the JSON is broken; ticker or adjustment are others; the bars are shorter than asked for; `results` is missing or
            null although the page does not say `resultsCount: 0`, or has another length than it says.
        SourceError: the status is no success; its kind, where the vendor's words say whether asking again can help.
    """
    ticker = query.ticker
    try:
        page = _bodies.decode(body)
    except UNREADABLE as error:
        raise BadPage(f"{ticker}: the page is not the vendor's JSON ({error}; {len(body)} bytes)") from None
    if page.status not in SUCCESS:
        text = _words(page)
        kind = STATUSES.get(page.status or "") or next((kind for words, kind in WORDS if re.search(words, text, re.IGNORECASE)), BadPage)
        raise kind(f"{ticker}: status {line(redact(str(page.status)))[:40]}: {text}")
    if page.ticker not in (None, ticker):
        raise BadPage(f"{ticker}: the page is of {page.ticker!r}")
    results = _results(page, ticker)
    if results and page.adjusted is not None and page.adjusted != query.adjusted:
        asked, got = (str(one).lower() for one in (query.adjusted, page.adjusted))
        raise BadPage(f"{ticker}: adjusted={asked} was asked, and the page says adjusted: {got}: its prices have another basis")
    return _answer(_columns(results), query, page.next_url or None)


def _results(page: _Body, ticker: str) -> list[_Bar]:
    """Return the page's bars; an absent list is only legal beside an explicit zero."""
    if not isinstance(page.results, list):
        if page.resultsCount != 0 or page.queryCount not in (0, None):
            lack = "null" if page.results is None else "missing"
            raise BadPage(f"{ticker}: results is {lack}, with resultsCount {page.resultsCount}, queryCount {page.queryCount}")
        return []
    if page.resultsCount is not None and page.resultsCount != len(page.results):
        raise BadPage(f"{ticker}: {len(page.results)} results, but resultsCount {page.resultsCount}")
    return page.results


def _columns(results: list[_Bar]) -> Bars:
    """Turn results into columns, in the order in which they came; what is absent or null is NaN."""
    prices = {name: np.array([getattr(bar, name) for bar in results], np.float64) for name in COLUMNS[1:]}
    return Bars(t=np.array([bar.t for bar in results], np.int64), **prices)


def _answer(bars: Bars, query: BarQuery, next_url: str | None) -> Aggregates:
    is_asked = (bars.t >= query.start_ms) & (bars.t <= query.end_ms)
    is_asked &= bars.t % min(HOUR_MS, query.timeframe.length_s * 1000) == 0
    is_whole = ~np.isnan([bars.o, bars.h, bars.l, bars.c, bars.v]).any(axis=0)
    odd = {"not_asked_for": np.clip(bars.t[~is_asked], 0, LATEST_MS), "incomplete": bars.t[is_asked & ~is_whole]}
    if not (is_asked & is_whole).all():
        bars = bars[is_asked & is_whole]
    sent = bars.t
    if len(bars) > 1 and not (np.diff(bars.t) > 0).all():
        bars = bars[np.argsort(bars.t, kind="stable")]
        is_again = np.diff(bars.t) == 0
        odd["contradicted"] = bars.t[1:][is_again & differ(bars[1:], bars[:-1])]
        bars = bars[np.append(~is_again, True)]  # the last of equal times
    least_ms = 0.75 * query.timeframe.length_s * 1000  # a day of 23 hours has a bar of 3
    if len(bars) > 1 and np.mean(np.diff(bars.t) < least_ms) > 0.5:
        apart = f"{np.diff(bars.t).min() / 60_000:g} minutes apart"
        raise BadPage(f"{query.ticker}: bars of {query.timeframe.name} were asked, and those of the page are {apart}")
    return Aggregates(bars=bars, sent=sent, next_url=next_url, odd=odd)


def differ(first: Bars, second: Bars) -> BoolArray:
    """Tell of each of two equally long series' bars whether a price, the volume or the number of trades is another."""
    pairs = [(getattr(first, name), getattr(second, name)) for name in COLUMNS[1:]]
    found: BoolArray = np.any([(one != two) & ~(np.isnan(one) & np.isnan(two)) for one, two in pairs], axis=0)
    return found


# ---- what is no success ----


def failure(status: int, body: bytes, ticker: str, retry_after_s: float | None = None) -> SourceError:
    """Return the typed error of an answer that is not a 200; the body may be empty or anything, but its message never holds the key."""
    try:
        text = _words(_bodies.decode(body))
    except UNREADABLE:
        text = "no reason given"
    error = KINDS.get(status, Unreachable if status >= 500 else Refused)(f"{ticker}: HTTP {status}: {text}")
    error.retry_after_s = retry_after_s
    return error


def is_unknown(status: int, body: bytes) -> bool:
    """Tell whether an answer about a ticker itself says that there is none; a server may well lack such answers."""
    try:
        return status == 404 and _bodies.decode(body).status == "NOT_FOUND"
    except UNREADABLE:
        return False


def _words(said: _Body) -> str:
    """Return the vendor's own words, without the key."""
    return line(redact(str(said.error or said.message or "no reason given")))[:200]


def retry_after_s(value: str | None, now: dt.datetime) -> float | None:
    """Read a Retry-After header, seconds or an HTTP date, capped; None where it is absent, past or garbage."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = email.utils.parsedate_to_datetime(value)
        except (ValueError, TypeError, OverflowError):
            return None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
        seconds = (moment - now).total_seconds()
    return min(seconds, RETRY_AFTER_CAP_S) if math.isfinite(seconds) and seconds > 0 else None
