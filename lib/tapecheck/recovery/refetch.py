"""Asks upstream whether it still has bars that a database lost: only what it has not is gone for good. It stores nothing."""

import json
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import httpx

from tapecheck.loopback import is_loopback
from tapecheck.recovery.recording import Ack
from tapecheck.tickers import ticker_of

LIMIT = 50_000  # base aggregates a page, the most that the vendor allows: minutes, for all bars but those of days
PAUSES_S = (0.5, 1.0, 2.0)  # before another attempt
ANSWER_S = 10.0  # for one whole answer


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    """Lost bars of one symbol and length that one page can hold, in the order of time."""

    symbol: str
    minutes: float
    times_ms: Sequence[int]


def ask_upstream(acks: Sequence[Ack], source_url: str | None, key: str, *, within_s: float = 30.0) -> list[Ack]:
    """Return the bars with `refetchable` said of each lost one; None where upstream cannot be asked, or gives no answer to rely on.

    Args:
        source_url: of the vendor's API, or None without one.
        key: sent only as a header, and without one nothing is.
        within_s: after which no further request is made.
    """
    has: dict[tuple[str, float, int], bool] = {}
    lost, until_s = [ack for ack in acks if ack.fate == "lost"], time.monotonic() + within_s
    if lost and source_url:
        with _client(source_url, key) as client:
            for window in _windows(lost):
                held = _held(client, window, until_s)
                has |= {(window.symbol, window.minutes, t): t in held for t in window.times_ms} if held is not None else {}
    return [replace(ack, refetchable=has.get(_key(ack))) if ack.fate == "lost" else ack for ack in acks]


def _key(ack: Ack) -> tuple[str, float, int]:
    return ack.symbol, ack.minutes, ack.time_ms


def _client(source_url: str, key: str) -> httpx.Client:
    headers = {"Accept": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    trusts = not is_loopback(httpx.URL(source_url).host)  # no proxy on the way to ourselves
    return httpx.Client(base_url=source_url, headers=headers, timeout=ANSWER_S, follow_redirects=False, trust_env=trusts)


def _windows(lost: Iterable[Ack]) -> Iterator[_Window]:
    """Put bars together that one page holds, so that it needs no second one."""
    series: defaultdict[tuple[str, float], list[int]] = defaultdict(list)
    for ack in lost:
        series[ack.symbol, ack.minutes].append(ack.time_ms)
    for (symbol, minutes), times_ms in series.items():
        times_ms.sort()
        width_ms = (LIMIT - minutes) * 60_000
        first = 0
        for at, t in enumerate(times_ms):
            if t - times_ms[first] > width_ms:
                yield _Window(symbol=symbol, minutes=minutes, times_ms=times_ms[first:at])
                first = at
        yield _Window(symbol=symbol, minutes=minutes, times_ms=times_ms[first:])


def _held(client: httpx.Client, window: _Window, until_s: float) -> set[int] | None:
    """Return the starts of the bars that upstream has in a window, or None where it does not say."""
    ticker = ticker_of(window.symbol)
    path = f"/v2/aggs/ticker/{ticker}/range/{_range(window.minutes)}/{window.times_ms[0]}/{window.times_ms[-1]}"
    for pause_s in (*PAUSES_S, 0.0):
        if time.monotonic() >= until_s:
            return None
        try:
            status, body = _answer(client, f"{path}?adjusted=true&sort=asc&limit={LIMIT}")
        except (httpx.HTTPError, httpx.InvalidURL):
            status, body = 0, b""
        times_ms = _times_ms(body, ticker) if status == 200 else None
        if times_ms is not None or (400 <= status < 500 and status != 429):
            return times_ms
        time.sleep(pause_s)
    return None


def _range(minutes: float) -> str:
    """Return how the vendor's API writes the length of a bar."""
    if minutes < 60:
        return f"{minutes:g}/minute"
    return f"{minutes / 60:g}/hour" if minutes < 1440 else f"{minutes / 1440:g}/day"


def _answer(client: httpx.Client, url: str) -> tuple[int, bytes]:
    """Return status and body; httpx bounds each read, so the whole answer is bounded here."""
    until_s, parts = time.monotonic() + ANSWER_S, []
    with client.stream("GET", url) as response:
        for part in response.iter_bytes():
            parts.append(part)
            if time.monotonic() > until_s:
                raise httpx.ReadTimeout("no whole answer in time")
        return response.status_code, b"".join(parts)


def _times_ms(text: bytes, ticker: str) -> set[int] | None:
    """Read a page that is whole and of this ticker; None for any other, of which nothing can be concluded."""
    try:
        body = json.loads(text)
        results = body.get("results", [])
        is_whole = body["status"] in ("OK", "DELAYED") and body["ticker"] == ticker and not body.get("next_url")
        return {int(bar["t"]) for bar in results} if is_whole and len(results) == body["resultsCount"] else None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
