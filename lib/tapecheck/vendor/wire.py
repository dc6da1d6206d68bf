"""Decodes one answer of the vendor's aggregates API into columns, and refuses what would lose bars silently. It sends nothing."""

import datetime as dt
import email.utils
import math
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import numpy as np

from tapecheck.errors import TapecheckError
from tapecheck.vendor.bars import COLUMNS, Bars, IntArray

RETRY_AFTER_CAP_S = 300.0  # the longest wait that a server may ask of us
LATEST_MS = 253_402_300_800_000  # the year 10,000, which no clock of ours can hold


class SourceError(TapecheckError):
    """The vendor's API did not give what was asked for."""

    retryable = False


class Unauthorized(SourceError):
    """401: the key is missing or unknown."""


class Forbidden(SourceError):
    """403: the plan does not include this data."""


class UnknownTicker(SourceError):
    """404: the vendor has no such ticker."""


class Refused(SourceError):
    """Any other 4xx: the request is wrong, and would be wrong again."""


class RateLimited(SourceError):
    """429: too many requests."""

    retryable = True


class Unreachable(SourceError):
    """No answer: refused, reset, or beyond its timeout; or a 5xx."""

    retryable = True


class BadPage(SourceError):
    """A success whose body cannot be trusted: broken, of another ticker, or with bars missing."""

    retryable = True


class _Bar(msgspec.Struct, gc=False):
    t: Annotated[int, msgspec.Meta(ge=0, lt=LATEST_MS)]
    o: float
    h: float
    l: float  # noqa: E741 - the vendor's name
    c: float
    v: float
    vw: float = math.nan
    n: float = math.nan


class _Body(msgspec.Struct):
    status: str
    ticker: str | None = None
    resultsCount: int | None = None
    queryCount: int | None = None
    results: list[_Bar] | msgspec.UnsetType | None = msgspec.UNSET
    next_url: str | None = None


class _Failure(msgspec.Struct):
    error: Any = None
    message: Any = None


_bodies = msgspec.json.Decoder(_Body)
_failures = msgspec.json.Decoder(_Failure)


def decode(body: bytes, ticker: str) -> tuple[Bars, str | None, IntArray]:
    """Decode the body of a 200.

    Returns:
        The bars in ascending order, each start once; `next_url` where more follow; and every start as it was sent.

    Raises:
        BadPage: the JSON is broken; the ticker is another; `results` is missing or null although the page does
            not say `resultsCount: 0`, or has another length than it says; more pages follow an empty one.
    """
    try:
        page = _bodies.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadPage(f"{ticker}: the page is not the vendor's JSON ({error}; {len(body)} bytes)") from None
    if page.status not in ("OK", "DELAYED"):
        raise BadPage(f"{ticker}: status {page.status!r}; allowed: OK, DELAYED")
    if page.ticker not in (None, ticker):
        raise BadPage(f"{ticker}: the page is of {page.ticker!r}")
    bars, sent = _columns(_results(page, ticker))
    return bars, page.next_url or None, sent


def _results(page: _Body, ticker: str) -> list[_Bar]:
    """Return the page's bars; an absent list is only legal beside an explicit zero and without a next page."""
    if page.results is None:
        raise BadPage(f"{ticker}: results is null")
    if isinstance(page.results, msgspec.UnsetType):
        if page.resultsCount != 0 or page.queryCount not in (0, None) or page.next_url:
            raise BadPage(f"{ticker}: results is missing, with resultsCount {page.resultsCount}, queryCount {page.queryCount}")
        return []
    if page.resultsCount is not None and page.resultsCount != len(page.results):
        raise BadPage(f"{ticker}: {len(page.results)} results, but resultsCount {page.resultsCount}")
    if not page.results and page.next_url:
        raise BadPage(f"{ticker}: an empty page that says more follows")
    return page.results


def _columns(results: list[_Bar]) -> tuple[Bars, IntArray]:
    """Turn results into columns, ascending, the last of equal times kept; return the times as they came, too."""
    prices = {name: np.array([getattr(bar, name) for bar in results], np.float64) for name in COLUMNS[1:]}
    sent = np.array([bar.t for bar in results], np.int64)
    bars = Bars(t=sent, **prices)
    if len(bars) > 1 and not (np.diff(bars.t) > 0).all():
        bars = bars[np.argsort(bars.t, kind="stable")]
        last_of_equal = np.append(np.diff(bars.t) > 0, True)
        bars = bars[last_of_equal]
    return bars, sent


def failure(status: int, body: bytes, ticker: str, key: str = "") -> SourceError:
    """Return the typed error of an answer that is not a 200; the body may be empty or anything, but its message never holds the key."""
    try:
        said = _failures.decode(body)
        text = str(said.error or said.message or "no reason given")
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = "no reason given"
    kinds = {401: Unauthorized, 403: Forbidden, 404: UnknownTicker, 429: RateLimited}
    kind = kinds.get(status, Unreachable if status >= 500 else Refused)
    for secret in {key, quote(key, safe="")} - {""}:
        text = text.replace(secret, "***")
    return kind(f"{ticker}: HTTP {status}: {text[:200]}")


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
