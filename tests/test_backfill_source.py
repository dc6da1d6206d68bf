"""The source against the sandbox's real upstream: each fault is on the wire, misleads a naive client, and not ours."""

import asyncio
import datetime as dt
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from tapecheck.backfill import wire
from tapecheck.backfill.bars import Bars
from tapecheck.backfill.rate_limit import Retry
from tapecheck.backfill.recording import Trace
from tapecheck.backfill.source import Page, Source
from tapecheck.sandbox.profile import Home
from tapecheck.target.opening import SandboxState

END = dt.datetime.now(dt.UTC).replace(minute=0, second=0, microsecond=0)
START = END - dt.timedelta(days=60)
FAST = Retry(first_s=0.02, cap_s=0.1, budget_s=3)
TICKER = "TSLA"  # not in the fixture's profile, so that the scheduler does not take these faults


@pytest.fixture
def upstream(sandbox: SandboxState) -> Iterator[httpx.Client]:
    """A plain client of the upstream; every fault is off before and after."""
    headers = {"Authorization": f"Bearer {Home().secret()}"}
    with httpx.Client(base_url=sandbox.upstream_url, headers=headers, timeout=2, trust_env=False) as client:
        client.delete("/faults")
        yield client
        client.delete("/faults")
        client.post("/limit", json={})


def _fault(client: httpx.Client, kind: str, **more: Any) -> None:
    client.post("/faults", json={"kind": kind, "ticker": TICKER} | more).raise_for_status()


def _naive(client: httpx.Client, width: str = "5/minute", limit: int = 5000) -> list[dict[str, Any]]:
    """Read bars as earlier scripts did: an answer without results ends the list, whatever it was."""
    url: str | None = f"/v2/aggs/ticker/{TICKER}/range/{width}/{START:%Y-%m-%d}/{END:%Y-%m-%d}?limit={limit}"
    bars: list[dict[str, Any]] = []
    while url:
        try:
            page = client.get(url).json()
        except (httpx.HTTPError, ValueError):
            return bars
        bars += page.get("results") or []
        url = page.get("next_url")
    return bars


async def _with_source(client: httpx.Client, work: Callable[[Source], Awaitable[Any]], **options: Any) -> Any:
    options = {"retry": FAST, "timeout_s": 0.5} | options
    async with Source(str(client.base_url), Home().secret(), **options) as source:
        return await work(source)


async def _read(
    source: Source, symbol: str = TICKER, timeframe: str = "5m", start: dt.datetime = START, trace: Trace | None = None
) -> list[Page]:
    return [page async for page in source.pages(symbol, timeframe, start, END, trace)]


def _joined(pages: list[Page]) -> Bars:
    bars = Bars.empty()
    for page in pages:
        bars = Bars.joined(bars, page.bars)
    return bars


TRANSIENT = [
    ("rate_limited", {"count": 2}, True),
    ("rate_limited", {"count": 1, "retry_after": "0.2"}, True),
    ("rate_limited", {"count": 1, "retry_after": "Thu, 01 Jan 1970 00:00:00 GMT"}, True),
    ("rate_limited_empty", {"count": 2}, True),
    ("server_error", {"count": 2, "status": 500}, True),
    ("server_error", {"count": 2, "status": 502}, True),
    ("server_error", {"count": 2, "status": 503}, True),
    ("fail_twice", {}, True),
    ("results_missing", {"count": 1}, True),
    ("results_null", {"count": 1}, True),
    ("truncated", {"count": 1}, True),
    ("reset", {"count": 1}, True),
    ("black_hole", {"count": 1}, True),
    ("wrong_symbol", {"count": 1}, False),
    ("slow_drip", {"count": 1}, False),
]


@pytest.mark.parametrize(("kind", "more", "loses"), TRANSIENT, ids=[f"{kind} {more}" for kind, more, _ in TRANSIENT])
def test_a_fault_that_passes_costs_no_bar(upstream: httpx.Client, kind: str, more: dict[str, Any], loses: bool) -> None:
    """A naive client silently loses bars or is fooled; our source retries and has every bar exactly once."""
    whole = asyncio.run(_with_source(upstream, _read, timeout_s=10))
    if loses:
        _fault(upstream, kind, **more)
        assert len(_naive(upstream)) < len(_joined(whole))
        upstream.delete("/faults")
    _fault(upstream, kind, **more)
    trace = Trace(TICKER, "5m")
    faulty = asyncio.run(_with_source(upstream, lambda source: _read(source, trace=trace)))
    np.testing.assert_array_equal(_joined(faulty).t, _joined(whole).t)
    np.testing.assert_array_equal(_joined(faulty).c, _joined(whole).c)
    assert sum(span.requests for span in trace.spans) > len(faulty)


def test_wrong_symbol_fools_a_naive_client(upstream: httpx.Client) -> None:
    """The page says another ticker; who does not look stores another symbol's prices."""
    _fault(upstream, "wrong_symbol", count=1)
    other, own = (upstream.get(f"/v2/aggs/ticker/{TICKER}/range/1/day/{START:%Y-%m-%d}/{END:%Y-%m-%d}").json() for _ in range(2))
    assert (other["status"], other["ticker"], own["ticker"]) == ("OK", "MSFT", TICKER)
    assert [bar["t"] for bar in other["results"]] == [bar["t"] for bar in own["results"]] and other["results"] != own["results"]


def test_a_drip_outlasts_every_read_timeout(upstream: httpx.Client) -> None:
    """Bytes keep coming, so a timeout per read never fires; only one for the whole answer ends it."""
    _fault(upstream, "slow_drip", count=1)
    begun_s = time.monotonic()
    with upstream.stream("GET", f"/v2/aggs/ticker/{TICKER}/range/1/day/{START:%Y-%m-%d}/{END:%Y-%m-%d}", timeout=0.5) as answer:
        for _ in answer.iter_raw():
            if time.monotonic() - begun_s > 1.0:
                break
        else:
            pytest.fail("the answer ended")


def test_duplicate_page_is_reported_not_stored(upstream: httpx.Client) -> None:
    """A repeated page gives a naive client every bar twice; ours drops the copies and counts them."""
    whole = asyncio.run(_with_source(upstream, _read))
    _fault(upstream, "duplicate_page", count=1)
    times = [bar["t"] for bar in _naive(upstream)]
    assert len(times) > len(set(times))
    _fault(upstream, "duplicate_page", count=1)
    year = END - dt.timedelta(days=300)
    plain = asyncio.run(_with_source(upstream, lambda source: _read(source, start=year), timeout_s=10))
    upstream.delete("/faults")
    again = asyncio.run(_with_source(upstream, lambda source: _read(source, start=year), timeout_s=10))
    np.testing.assert_array_equal(_joined(plain).t, _joined(again).t)
    assert (sum(page.repeated for page in plain), len(whole)) == (len(again[0].bars), 1)


def test_a_cursor_that_never_moves_is_an_error(upstream: httpx.Client) -> None:
    """A next_url that leads to the same page for ever ends in an error, not in an endless loop."""
    _fault(upstream, "duplicate_page")
    with pytest.raises(wire.BadPage, match="again and again"):
        asyncio.run(_with_source(upstream, lambda source: _read(source, start=END - dt.timedelta(days=300)), timeout_s=10))


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("rate_limited", wire.RateLimited),
        ("server_error", wire.Unreachable),
        ("results_missing", wire.BadPage),
        ("truncated", wire.BadPage),
        ("reset", wire.Unreachable),
        ("black_hole", wire.Unreachable),
    ],
)
def test_a_fault_that_stays_fails_within_the_budget(upstream: httpx.Client, kind: str, error: type[wire.SourceError]) -> None:
    """A lasting fault is a typed error after the time budget, never a short list of bars."""
    _fault(upstream, kind)
    begun_s = time.monotonic()
    with pytest.raises(error):
        asyncio.run(_with_source(upstream, _read, retry=Retry(first_s=0.02, cap_s=0.1, budget_s=0.6), timeout_s=0.2))
    assert 0.3 < time.monotonic() - begun_s < 30


def test_one_budget_is_for_all_pages_of_a_job(upstream: httpx.Client) -> None:
    """Each of five pages fails twice, for less time than the budget but together for more: the job fails after its first pages."""
    retry, got = Retry(first_s=0.3, cap_s=0.3, budget_s=1.1), []

    async def read(source: Source) -> None:
        async for page in source.pages(TICKER, "5m", END - dt.timedelta(days=365), END):
            got.append(page.number)

    _fault(upstream, "fail_twice")
    with pytest.raises(wire.Unreachable):
        asyncio.run(_with_source(upstream, read, retry=retry, timeout_s=10))
    assert 1 <= len(got) < 4 and got[0] == 0


def test_retry_after_is_waited_for(upstream: httpx.Client) -> None:
    """A server that names a pause gets it, even where backoff would be shorter; one longer than the budget is not believed."""
    _fault(upstream, "rate_limited", count=1, retry_after="0.5")
    trace = Trace(TICKER, "5m")
    asyncio.run(_with_source(upstream, lambda source: _read(source, trace=trace)))
    assert [span.stage for span in trace.spans[:4]] == ["fetch", "wait", "fetch", "decode"]
    assert trace.spans[1].duration_s >= 0.5
    _fault(upstream, "rate_limited", count=1, retry_after="86400")
    trace = Trace(TICKER, "5m")
    asyncio.run(_with_source(upstream, lambda source: _read(source, trace=trace)))
    assert [span.requests for span in trace.spans[:3]] == [1, 0, 1]
    _fault(upstream, "rate_limited", retry_after="86400")
    with pytest.raises(wire.RateLimited):
        asyncio.run(_with_source(upstream, _read, retry=Retry(first_s=0.02, cap_s=0.1, budget_s=0.3)))


@pytest.mark.parametrize("link", ["http://127.0.0.1:abc/x", "http://[::1/x"])
def test_a_link_that_is_none_is_a_bad_page(upstream: httpx.Client, link: str) -> None:
    """A next_url that cannot be read fails its page with a typed error, like any other nonsense in it."""

    async def follow(source: Source) -> None:
        source._followed(link, TICKER)

    with pytest.raises(wire.BadPage, match="next_url is no URL"):
        asyncio.run(_with_source(upstream, follow))


def test_poisoned_bars_are_on_the_wire(upstream: httpx.Client) -> None:
    """A poisoned page is well-formed and holds one price that is not positive."""
    _fault(upstream, "poisoned", count=1)
    assert min(bar["c"] for bar in _naive(upstream, "1/day")) < 0


@pytest.mark.parametrize(
    ("symbol", "key", "error"), [("AAPL", "wrong", wire.Unauthorized), ("NOSUCH", None, wire.UnknownTicker)], ids=["key", "ticker"]
)
def test_what_cannot_get_better_is_not_retried(upstream: httpx.Client, symbol: str, key: str | None, error: type[wire.SourceError]) -> None:
    """A wrong key and an unknown ticker fail at the first answer, and no message holds the key."""

    async def read() -> None:
        async with Source(str(upstream.base_url), key or Home().secret(), retry=Retry(budget_s=90)) as source:
            await _read(source, symbol)

    begun_s = time.monotonic()
    with pytest.raises(error) as caught:
        asyncio.run(read())
    assert time.monotonic() - begun_s < 30 and "wrong" not in str(caught.value)


def test_next_url_of_another_host_is_refused(upstream: httpx.Client) -> None:
    """A link to another host would hand it our key, so it is not followed."""
    source = Source(str(upstream.base_url), "key")
    with pytest.raises(wire.Refused, match="another host"):
        source._followed("http://elsewhere.example/v2/aggs?cursor=x", TICKER)
    asyncio.run(source.__aexit__())


@pytest.mark.parametrize(("symbol", "timeframe", "pages"), [("TSLA", "5m", 5), ("TSLA", "1d", 1), ("SOL", "1h", 11)])
def test_pages_of_a_year(upstream: httpx.Client, symbol: str, timeframe: str, pages: int) -> None:
    """A year takes as many requests as at the vendor, and its bars ascend without repetition."""
    found = asyncio.run(_with_source(upstream, lambda source: _read(source, symbol, timeframe, END - dt.timedelta(days=365)), timeout_s=10))
    assert (len(found), [page.last for page in found].index(True)) == (pages, pages - 1)
    assert (np.diff(_joined(found).t) > 0).all()


def test_the_wire_format(upstream: httpx.Client) -> None:
    """The upstream answers as the vendor does: key by header or query, no key in next_url, errors in its bodies."""
    path = "/v2/aggs/ticker/AAPL/range/5/minute/2026-03-02/2026-03-13"
    page = upstream.get(path, params={"limit": 1000}).json()
    assert set(page) == {"ticker", "status", "adjusted", "queryCount", "resultsCount", "request_id", "results", "count", "next_url"}
    assert set(page["results"][0]) == {"t", "o", "h", "l", "c", "v", "vw", "n"} and isinstance(page["results"][0]["v"], float)
    assert len(page["results"]) == 200 and Home().secret() not in page["next_url"]
    bare = httpx.Client(base_url=upstream.base_url, trust_env=False)
    with bare:
        assert bare.get(path, params={"apiKey": Home().secret()}).status_code == 200
        assert (bare.get(path).status_code, bare.get(path).json()["error"]) == (401, "Unknown API Key")
    empty = upstream.get("/v2/aggs/ticker/AAPL/range/5/minute/2026-03-07/2026-03-07").json()
    assert (empty["status"], empty["resultsCount"], "results" in empty) == ("OK", 0, False)
    statuses = {
        "/v2/aggs/ticker/AAPL/range/1/second/2026-03-02/2026-03-13": 403,
        "/v2/aggs/ticker/NOSUCH/range/1/day/2026-03-02/2026-03-13": 404,
        "/v2/aggs/ticker/aapl/range/1/day/2026-03-02/2026-03-13": 404,
        "/v2/aggs/ticker/AAPL/range/7/minute/2026-03-02/2026-03-13": 400,
        "/v2/aggs/ticker/AAPL/range/1/day/2026-03-13/2026-03-02": 400,
        "/v2/aggs/ticker/AAPL/range/1/day/never/2026-03-02": 400,
        "/v2/aggs/ticker/AAPL/range/1/day/2026-03-02/2026-03-13?limit=50001": 400,
        "/v2/aggs/ticker/AAPL/range/1/day/2026-03-02/2026-03-13?cursor=garbage": 400,
    }
    assert {path: upstream.get(path).status_code for path in statuses} == statuses


def test_the_rate_limit_can_be_switched(upstream: httpx.Client) -> None:
    """With one request a minute the second gets the vendor's 429, and none once the limit is off."""
    path = "/v2/aggs/ticker/AAPL/range/1/day/2026-03-02/2026-03-13"
    upstream.post("/limit", json={"requests_per_minute": 1, "burst": 1}).raise_for_status()
    answers = [upstream.get(path) for _ in range(2)]
    upstream.post("/limit", json={}).raise_for_status()
    assert [answer.status_code for answer in answers] == [200, 429] and "maximum requests" in answers[1].json()["error"]
    assert upstream.get(path).status_code == 200
