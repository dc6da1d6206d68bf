"""One page of the vendor's API, held against what was asked; what is an error, and how long a server may make us wait."""

import datetime as dt
import json
from typing import Any

import numpy as np
import pytest

from tapecheck import text
from tapecheck.vendor import wire
from tapecheck.vendor.bars import COLUMNS, TIMEFRAMES, symbol_of, ticker_of
from tapecheck.vendor.rate_limit import Retry, TokenBucket
from tapecheck.vendor.wire import BarQuery

NOW = dt.datetime(2026, 11, 23, 12, 0, tzinfo=dt.UTC)
T = 1_767_225_600_000  # 2026-01-01
STEP, DAY = 300_000, 86_400_000


def asked(timeframe: str = "5m", **other: Any) -> BarQuery:
    return BarQuery(**{"ticker": "AAPL", "timeframe": TIMEFRAMES[timeframe], "start_ms": T, "end_ms": T + 9 * DAY} | other)


def bar(number: float, **other: Any) -> dict[str, Any]:
    return {"t": T + int(number * STEP), "o": 1.0, "h": 2.0, "l": 0.5, "c": 1.5, "v": 10.0, "vw": 1.2, "n": 3} | other


def body(*bars: dict[str, Any], **other: Any) -> bytes:
    found = list(bars) or [bar(1), bar(2)]
    said = {"ticker": "AAPL", "status": "OK", "queryCount": 2, "resultsCount": len(found), "adjusted": True, "results": found} | other
    return json.dumps({name: value for name, value in said.items() if value != "absent"}).encode()


def times(answer: wire.Aggregates) -> list[float]:
    return ((answer.bars.t - T) / STEP).tolist()


def odd(answer: wire.Aggregates) -> dict[str, list[int]]:
    return {kind: found.tolist() for kind, found in answer.odd.items() if len(found)}


def test_the_question_is_the_vendors_path() -> None:
    """Ticker, range and adjustment stand in it."""
    path = asked("1h", ticker="X:BTCUSD", adjusted=False).path
    assert path == f"/v2/aggs/ticker/X:BTCUSD/range/1/hour/{T}/{T + 9 * DAY}?adjusted=false&sort=asc&limit=50000"


GOOD = {
    "plain": body(),
    "delayed": body(status="DELAYED"),
    "fields that come and go": body(bar(1, otc=1), {name: value for name, value in bar(2).items() if name not in ("vw", "n")}),
    "newest first": body(bar(2), bar(1)),
    "adjusted is not said": body(adjusted="absent"),
}


@pytest.mark.parametrize("page", GOOD.values(), ids=GOOD)
def test_good_pages(page: bytes) -> None:
    """A page that the vendor may send is read in ascending order."""
    answer = wire.decode(page, asked())
    assert (times(answer), answer.next_url, odd(answer)) == ([1, 2], None, {})
    assert answer.sent.tolist() == [one["t"] for one in json.loads(page)["results"]]


def test_every_column_is_the_vendors_field_of_its_name() -> None:
    """Each value lands in its own column, and one that the vendor leaves out is NaN, never that of another bar."""
    full = {"t": T, "o": 3.0, "h": 5.0, "l": 2.0, "c": 4.0, "v": 10.5, "vw": 3.5, "n": 7.0}
    bare = {name: value for name, value in full.items() if name not in ("vw", "n")} | {"t": T + STEP}
    bars = wire.decode(body(full, bare), asked()).bars
    found = [{name: column[row] for name in COLUMNS if not np.isnan((column := getattr(bars, name))[row])} for row in (0, 1)]
    assert found == [full, bare]


@pytest.mark.parametrize("results", ["absent", None, []], ids=["absent", "null", "empty"])
@pytest.mark.parametrize("next_url", ["absent", "http://x/"])
def test_no_trade_is_legal(results: Any, next_url: str) -> None:
    """No trade in a window means no bar, said by an explicit zero; that more follows does not change it."""
    answer = wire.decode(body(results=results, resultsCount=0, queryCount=0, next_url=next_url), asked())
    assert len(answer.bars) == 0 and answer.next_url == (None if next_url == "absent" else next_url)


NOT_ASKED_FOR: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "before the range": ("5m", [bar(-1)]),
    "in the future": ("5m", [bar(0, t=T + 400 * DAY)]),
    "seconds among milliseconds": ("5m", [bar(0, t=T // 1000), bar(0, t=T // 1000 + 300)]),
    "microseconds": ("1d", [bar(0, t=T * 1000)]),
    "off the grid": ("5m", [bar(3.5)]),
    "a day at midnight and a half": ("1d", [bar(6)]),
    "before 1970": ("5m", [bar(0, t=-STEP)]),
}


@pytest.mark.parametrize(("timeframe", "bars"), NOT_ASKED_FOR.values(), ids=NOT_ASKED_FOR)
def test_a_bar_that_was_not_asked_for_is_left_out_and_told(timeframe: str, bars: list[dict[str, Any]]) -> None:
    """Wherever it stands on the page; the others are kept, and no time is one that a clock cannot hold."""
    good = [bar(0), bar(TIMEFRAMES[timeframe].length_s / 300)]
    for page in ([*bars, *good], [good[0], *bars, good[1]], [*good, *bars]):
        answer = wire.decode(body(*page), asked(timeframe))
        assert answer.bars.t.tolist() == answer.sent.tolist() == [one["t"] for one in good]
        assert odd(answer) == {"not_asked_for": [min(max(one["t"], 0), wire.LATEST_MS) for one in bars]}


@pytest.mark.parametrize("lack", [{"o": None}, {"c": None}, {"v": None}, {"h": None, "l": None}], ids=str)
def test_an_incomplete_bar_is_left_out_and_told(lack: dict[str, Any]) -> None:
    """One that has no price or no volume costs its page nothing."""
    null = bar(2, **lack)
    missing = {name: value for name, value in null.items() if value is not None}
    for one in (null, missing):
        answer = wire.decode(body(bar(1), one, bar(3)), asked())
        assert times(answer) == [1, 3] and odd(answer) == {"incomplete": [one["t"]]}


def test_repeated_bars_are_kept_once_and_contradictions_are_told() -> None:
    """A bar that comes twice is kept once, the later one; that it came twice shows in what was sent, that it differs is said."""
    answer = wire.decode(body(bar(1), bar(1), bar(2), bar(2, c=1.75), bar(3), bar(3, n=4)), asked())
    assert (times(answer), answer.bars.c.tolist(), len(answer.sent)) == ([1, 2, 3], [1.5, 1.75, 1.5], 6)
    assert odd(answer) == {"contradicted": [T + 2 * STEP, T + 3 * STEP]}


BAD: list[tuple[bytes, str]] = [
    (body()[:60], "not the vendor's JSON"),
    (b'{"error":' + b"[" * 100_000, "not the vendor's JSON"),
    (b"", "not the vendor's JSON"),
    (body(bar(1, t=10**20)), "not the vendor's JSON"),
    (body(results="absent"), "results is missing, with resultsCount 2"),
    (body(results="absent", resultsCount=0, queryCount=9), "queryCount 9"),
    (body(results=None), "results is null"),
    (body(results=None, resultsCount="absent"), "results is null, with resultsCount None"),
    (body(resultsCount=3), "2 results, but resultsCount 3"),
    (body(ticker="MSFT"), "'MSFT'"),
    (body(adjusted=False), "adjusted=true was asked, and the page says adjusted: false"),
]


@pytest.mark.parametrize(("page", "words"), BAD)
def test_bad_pages(page: bytes, words: str) -> None:
    """A page that would lose bars silently, or has what was not asked, is an error that may be retried."""
    with pytest.raises(wire.BadPage, match=words) as caught:
        wire.decode(page, asked())
    assert caught.value.retryable


@pytest.mark.parametrize(("timeframe", "apart_ms"), [("4h", 3_600_000), ("1d", 3_600_000), ("1d", 14_400_000)])
def test_bars_of_a_shorter_timeframe_are_a_bad_page(timeframe: str, apart_ms: int) -> None:
    """Hours in place of days overlap."""
    with pytest.raises(wire.BadPage, match=f"bars of {timeframe} were asked, and those of the page are {apart_ms / 60_000:g} minutes"):
        wire.decode(body(*(bar(0, t=T + i * apart_ms) for i in range(9))), asked(timeframe))


def test_a_short_day_has_short_bars() -> None:
    """Four hours from midnight in New York on are three when clocks change; days are 23 hours apart then."""
    assert len(wire.decode(body(*(bar(0, t=T + i * 3_600_000) for i in (0, 3, 7))), asked("4h")).bars) == 3
    assert len(wire.decode(body(*(bar(0, t=T + i * 3_600_000) for i in (0, 23, 47))), asked("1d")).bars) == 3


WORDS = [
    ("ERROR", {"error": "You've exceeded the maximum requests per minute, please wait or upgrade."}, wire.RateLimited, True),
    ("NOT_AUTHORIZED", {"message": "You are not entitled to this data."}, wire.Forbidden, False),
    ("ERROR", {"error": "Your plan does not include this"}, wire.Forbidden, False),
    ("ERROR", {"error": "Unknown API Key"}, wire.Unauthorized, False),
    ("NOT_FOUND", {"message": "Ticker not found."}, wire.UnknownTicker, False),
    ("ERROR", {"error": "backend unavailable"}, wire.BadPage, True),
    ("ERROR", {}, wire.BadPage, True),
]


@pytest.mark.parametrize(("status", "said", "kind", "retryable"), WORDS)
def test_a_200_that_is_none_says_why(status: str, said: dict[str, str], kind: type[wire.SourceError], retryable: bool) -> None:
    """The vendor's own words reach the person, without the key, and what cannot change is not retried."""
    with pytest.raises(wire.SourceError) as caught:
        wire.decode(json.dumps({"status": status, "request_id": "r", **said}).encode(), asked())
    words = next(iter(said.values()), "no reason given")
    assert (type(caught.value), caught.value.retryable) == (kind, retryable) and str(caught.value) == f"AAPL: status {status}: {words}"


STATUSES = [
    (401, b'{"status":"ERROR","error":"Unknown API Key"}', wire.Unauthorized, False),
    (403, b'{"status":"NOT_AUTHORIZED","message":"plan"}', wire.Forbidden, False),
    (404, b'{"status":"NOT_FOUND"}', wire.UnknownTicker, False),
    (408, b"", wire.Unreachable, True),
    (429, b"", wire.RateLimited, True),
    (502, b"<html>", wire.Unreachable, True),
    (503, b'{"error":' + b"[" * 100_000, wire.Unreachable, True),
]


@pytest.mark.parametrize(("status", "said", "kind", "retryable"), STATUSES)
def test_failures_are_typed(status: int, said: bytes, kind: type[wire.SourceError], retryable: bool) -> None:
    """Each status has its error, whatever its body, and says whether trying again can help."""
    error = wire.failure(status, said, "AAPL")
    assert type(error) is kind and error.retryable is retryable and str(status) in str(error)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None), ("7", 7.0), ("0.5", 0.5), ("0", None), ("-3", None), ("1e9", 300.0), ("inf", None), ("nan", None),
        ("soon", None), ("", None),
        ("Mon, 23 Nov 2026 12:00:30 GMT", 30.0), ("Mon, 23 Nov 2026 11:00:00 GMT", None), ("Mon, 23 Nov 2099 11:00:00 GMT", 300.0),
    ],
)  # fmt: skip
def test_retry_after(value: str | None, seconds: float | None) -> None:
    """Seconds and dates are honoured up to a cap; garbage and the past are ignored."""
    assert wire.retry_after_s(value, NOW) == seconds


@pytest.mark.parametrize(
    ("attempt", "asked_s", "low", "high"), [(1, None, 0.25, 0.5), (3, None, 1.0, 2.0), (60, None, 15.0, 30.0), (1, 7.0, 7.0, 7.1)]
)
def test_backoff(attempt: int, asked_s: float | None, low: float, high: float) -> None:
    """Backoff doubles up to its cap, jittered by half; a server's own wish goes first."""
    assert Retry().delay_s(attempt, asked_s, 0.0) == pytest.approx(low)
    assert Retry().delay_s(attempt, asked_s, 1.0) == pytest.approx(high)


@pytest.mark.parametrize(("symbol", "ticker"), [("AAPL", "AAPL"), ("BRK.B", "BRK.B"), ("BTC", "X:BTCUSD"), ("ADA", "X:ADAUSD"), ("V", "V")])
def test_tickers_map_both_ways(symbol: str, ticker: str) -> None:
    """A symbol and the vendor's ticker are each other's inverse."""
    assert (ticker_of(symbol), symbol_of(ticker)) == (ticker, symbol)


@pytest.mark.parametrize(
    ("rate_per_s", "burst", "slack_s", "times_s"),
    [
        (0.5, 2, 0.0, [0, 0, 2, 4, 6]),
        (10, 3, 0.05, [0, 0, 0.05, 0.15, 0.25]),  # what is kept back of a burst delays everything after it, once
        (10, 3, 0.0, [0, 0, 0, 0.1, 0.2]),
        (10, 1, 0.05, [0, 0.1, 0.2, 0.3, 0.4]),  # a burst of one has nothing to keep back
    ],
)
def test_a_token_bucket_keeps_its_rate(rate_per_s: float, burst: int, slack_s: float, times_s: list[float]) -> None:
    """After its burst it gives one token an interval, on the clock that it is given."""
    now = [0.0]
    bucket = TokenBucket(rate_per_s, burst, lambda: now[0], slack_s=slack_s)
    sent_s = []
    for _ in times_s:
        while (delay_s := bucket.take()) > 0:
            now[0] += delay_s
        sent_s.append(now[0])
    assert sent_s == pytest.approx(times_s)


@pytest.mark.parametrize("said", ["hunter2/secret", "hunter2%2Fsecret"])
def test_a_server_that_repeats_the_key_does_not_get_it_into_a_message(said: str) -> None:
    """An answer's text is kept, but for the key, as it is or as a URL holds it, whatever its status."""
    text.learn("hunter2/secret")
    page = f'{{"status":"ERROR","error":"Unknown API Key: {said}"}}'.encode()
    assert str(wire.failure(401, page, "AAPL")) == "AAPL: HTTP 401: Unknown API Key: ***"
    with pytest.raises(wire.Unauthorized, match=r"Unknown API Key: \*\*\*$"):
        wire.decode(page, asked())
