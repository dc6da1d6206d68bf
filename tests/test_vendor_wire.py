"""One page of the vendor's API: what is legal, what is an error, and how long a server may make us wait."""

import datetime as dt
import json

import numpy as np
import pytest

from tapecheck.vendor import wire
from tapecheck.vendor.bars import COLUMNS, symbol_of, ticker_of
from tapecheck.vendor.rate_limit import Retry, TokenBucket

NOW = dt.datetime(2026, 11, 23, 12, 0, tzinfo=dt.UTC)


def _bar(t: int, **other: float) -> dict[str, float]:
    return {"t": t, "o": 1.0, "h": 2.0, "l": 0.5, "c": 1.5, "v": 10.0, "vw": 1.2, "n": 3} | other


def _body(**other: object) -> bytes:
    body = {"ticker": "AAPL", "status": "OK", "queryCount": 2, "resultsCount": 2, "adjusted": True, "results": [_bar(1), _bar(2)]} | other
    return json.dumps({name: value for name, value in body.items() if value != "absent"}).encode()


@pytest.mark.parametrize(
    "body",
    [
        _body(),
        _body(status="DELAYED"),
        _body(results=[_bar(1, otc=1), {"t": 2, "o": 1, "h": 2, "l": 1, "c": 1, "v": 1e3}]),
        _body(results=[_bar(2), _bar(1)]),
    ],
    ids=["plain", "delayed", "fields that come and go", "newest first"],
)
def test_good_pages(body: bytes) -> None:
    """A page that the vendor may send is read in ascending order."""
    bars, next_url, sent = wire.decode(body, "AAPL")
    assert (bars.t.tolist(), next_url) == ([1, 2], None)
    assert sent.tolist() == [bar["t"] for bar in json.loads(body)["results"]]


def test_every_column_is_the_vendors_field_of_its_name() -> None:
    """Each value lands in its own column, and one that the vendor leaves out is NaN, never that of another bar."""
    full = {"t": 1, "o": 3.0, "h": 5.0, "l": 2.0, "c": 4.0, "v": 10.5, "vw": 3.5, "n": 7.0}
    bare = {name: value for name, value in full.items() if name not in ("vw", "n")} | {"t": 2}
    bars = wire.decode(_body(results=[full, bare]), "AAPL")[0]
    found = [{name: column[row] for name in COLUMNS if not np.isnan((column := getattr(bars, name))[row])} for row in (0, 1)]
    assert found == [full, bare]


def test_no_trade_is_legal() -> None:
    """No trade in a window means no bar, said by an explicit zero."""
    assert len(wire.decode(_body(results="absent", resultsCount=0, queryCount=0), "AAPL")[0]) == 0


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (_body()[:60], "not the vendor's JSON"),
        (b"", "not the vendor's JSON"),
        (b"<html>", "not the vendor's JSON"),
        (_body(results="absent"), "results is missing"),
        (_body(results="absent", resultsCount="absent"), "results is missing"),
        (_body(results="absent", resultsCount=0, queryCount=0, next_url="http://x/"), "results is missing"),
        (_body(results=None), "results is null"),
        (_body(resultsCount=3), "2 results, but resultsCount 3"),
        (_body(results=[], resultsCount=0, next_url="http://x/"), "more follows"),
        (_body(ticker="MSFT"), "'MSFT'"),
        (_body(status="ERROR"), "'ERROR'"),
    ],
)
def test_bad_pages(body: bytes, words: str) -> None:
    """A page that would lose bars silently is an error that may be retried."""
    with pytest.raises(wire.BadPage, match=words) as caught:
        wire.decode(body, "AAPL")
    assert caught.value.retryable


def test_repeated_bars_are_kept_once() -> None:
    """A bar that comes twice is kept once, the later one, and that it came twice is told."""
    bars, _, sent = wire.decode(_body(results=[_bar(1), _bar(1, c=9.0), _bar(2)], resultsCount=3), "AAPL")
    assert (bars.t.tolist(), bars.c.tolist(), sent.tolist()) == ([1, 2], [9.0, 1.5], [1, 1, 2])


@pytest.mark.parametrize(
    ("status", "body", "kind", "retryable"),
    [
        (401, b'{"status":"ERROR","error":"Unknown API Key"}', wire.Unauthorized, False),
        (403, b'{"status":"NOT_AUTHORIZED","message":"plan"}', wire.Forbidden, False),
        (404, b'{"status":"NOT_FOUND"}', wire.UnknownTicker, False),
        (400, b"{}", wire.Refused, False),
        (429, b"", wire.RateLimited, True),
        (502, b"<html>", wire.Unreachable, True),
    ],
)
def test_failures_are_typed(status: int, body: bytes, kind: type[wire.SourceError], retryable: bool) -> None:
    """Each status has its error, whatever its body, and says whether trying again can help."""
    error = wire.failure(status, body, "AAPL")
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


def test_token_bucket_keeps_its_rate() -> None:
    """After its burst a bucket gives one token per interval, on the clock it is given."""
    now = [0.0]
    bucket = TokenBucket(0.5, 2, lambda: now[0])
    assert [bucket.take(), bucket.take(), bucket.take()] == [0.0, 0.0, 2.0]
    now[0] = 1.0
    assert bucket.take() == pytest.approx(1.0)
    now[0] = 2.0
    assert bucket.take() == 0.0


@pytest.mark.parametrize(
    ("rate_per_s", "burst", "slack_s", "times_s"),
    [
        (10, 3, 0.05, [0, 0, 0.05, 0.15, 0.25]),
        (10, 3, 0.0, [0, 0, 0, 0.1, 0.2]),
        (10, 1, 0.05, [0, 0.1, 0.2, 0.3, 0.4]),
    ],
)
def test_slack_is_paid_once(rate_per_s: float, burst: int, slack_s: float, times_s: list[float]) -> None:
    """What is kept back of a burst delays everything after it by the slack, and a burst of one has nothing to keep back."""
    now = [0.0]
    bucket = TokenBucket(rate_per_s, burst, lambda: now[0], slack_s=slack_s)
    sent_s = []
    for _ in times_s:
        while (delay_s := bucket.take()) > 0:
            now[0] += delay_s
        sent_s.append(now[0])
    assert sent_s == pytest.approx(times_s)


@pytest.mark.parametrize("t", [10**17, 10**19, -1])
def test_a_time_that_no_clock_holds_is_a_bad_page(t: int) -> None:
    """A bar of the year 5 million, or of before 1970, is an error of its page and not a crash later on."""
    body = f'{{"status":"OK","ticker":"AAPL","resultsCount":1,"results":[{{"t":{t},"o":1,"h":1,"l":1,"c":1,"v":1}}]}}'
    with pytest.raises(wire.BadPage):
        wire.decode(body.encode(), "AAPL")


@pytest.mark.parametrize("said", ["hunter2/secret", "hunter2%2Fsecret"])
def test_a_server_that_repeats_the_key_does_not_get_it_into_a_message(said: str) -> None:
    """A failed answer's text is kept, but for the key, as it is or as a URL holds it."""
    error = wire.failure(401, f'{{"error":"Unknown API Key: {said}"}}'.encode(), "AAPL", "hunter2/secret")
    assert str(error) == "AAPL: HTTP 401: Unknown API Key: ***"
