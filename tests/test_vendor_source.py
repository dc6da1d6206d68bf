"""The source against the sandbox's real upstream, and beside the vendor's official client: the same bars, and an error where that ends.

What each fault of an upstream costs a backfill is in `test_backfill_faults.py`.
"""

import asyncio
import datetime as dt
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice
from typing import Any

import httpx
import numpy as np
import pytest
from massive import RESTClient

from tapecheck.sandbox.profile import Home
from tapecheck.target.opening import SandboxState
from tapecheck.vendor import wire
from tapecheck.vendor.bars import COLUMNS, TIMEFRAMES, Bars, ticker_of, to_ms
from tapecheck.vendor.rate_limit import Retry
from tapecheck.vendor.source import PAGE_LIMIT, Page, Source
from tapecheck.vendor.trace import Trace

END = dt.datetime.now(dt.UTC).replace(minute=0, second=0, microsecond=0)
START = END - dt.timedelta(days=365)
FAST = Retry(first_s=0.02, cap_s=0.1, budget_s=3)
TICKER = "TSLA"  # not in the fixture's profile, so that the scheduler does not take these faults
FIELDS = dict(zip(COLUMNS, ("timestamp", "open", "high", "low", "close", "volume", "vwap", "transactions"), strict=True))


@pytest.fixture
def upstream(sandbox: SandboxState) -> Iterator[httpx.Client]:
    """A plain client of the upstream; every fault is off before and after."""
    headers = {"Authorization": f"Bearer {Home().secret()}"}
    with httpx.Client(base_url=sandbox.upstream_url, headers=headers, timeout=2, trust_env=False) as client:
        client.delete("/faults")
        yield client
        client.delete("/faults")
        client.post("/limit", json={})


@pytest.fixture
def official(sandbox: SandboxState) -> Iterator[RESTClient]:
    """The vendor's own client, pointed at the upstream."""
    client = RESTClient(api_key=Home().secret(), base=sandbox.upstream_url)
    yield client
    client.client.clear()


def fault(client: httpx.Client, kind: str, **more: Any) -> None:
    client.post("/faults", json={"kind": kind, "ticker": TICKER} | more).raise_for_status()


def with_source(url: object, work: Callable[[Source], Awaitable[Any]], retry: Retry = FAST) -> Any:
    async def done() -> Any:
        async with Source(str(url), Home().secret(), retry=retry, timeout_s=10) as source:
            return await work(source)

    return asyncio.run(done())


def read(url: object, symbol: str = TICKER, timeframe: str = "5m", trace: Trace | None = None, retry: Retry = FAST) -> list[Page]:
    """Read a year, as pages."""

    async def pages(source: Source) -> list[Page]:
        return [page async for page in source.pages(symbol, timeframe, START, END, trace)]

    return list(with_source(url, pages, retry))


def joined(pages: list[Page]) -> Bars:
    return Bars(**{name: np.concatenate([getattr(page.bars, name) for page in pages]) for name in COLUMNS})


def theirs(client: RESTClient, symbol: str = TICKER, timeframe: str = "5m") -> Iterator[Any]:
    """Ask the official client for the same year, page by page as it goes on."""
    frame = TIMEFRAMES[timeframe]
    found: Iterator[Any] = client.list_aggs(
        ticker_of(symbol), frame.multiplier, frame.timespan, to_ms(START), to_ms(END), adjusted=True, sort="asc", limit=PAGE_LIMIT
    )
    return found


@pytest.mark.parametrize(("symbol", "timeframe", "pages"), [(TICKER, "5m", 5), ("BRK.B", "1h", 5), ("SOL", "4h", 11), ("SOL", "1d", 1)])
def test_both_read_the_same_bars(sandbox: SandboxState, official: RESTClient, symbol: str, timeframe: str, pages: int) -> None:
    """A year of every kind of ticker is equal in every column to the last bit, in as many pages as at the vendor."""
    found, whole = read(sandbox.upstream_url, symbol, timeframe), list(theirs(official, symbol, timeframe))
    assert (len(found), [page.last for page in found].index(True)) == (pages, pages - 1) and len(whole) > 200
    bars = joined(found)
    assert (np.diff(bars.t) > 0).all()
    for name, field in FIELDS.items():
        np.testing.assert_array_equal(getattr(bars, name), [getattr(bar, field) for bar in whole])


@pytest.mark.parametrize("kind", ["results_missing", "truncated"])
def test_where_theirs_ends_silently_ours_raises(upstream: httpx.Client, official: RESTClient, kind: str) -> None:
    """A bad second page leaves the official client with the first one and no error; ours fails the job by name."""
    pages = read(upstream.base_url)
    bars = theirs(official)
    first = list(islice(bars, len(pages[0].bars)))
    fault(upstream, kind)
    assert len(first) + len(list(bars)) == len(pages[0].bars) < len(joined(pages))
    with pytest.raises(wire.BadPage):
        read(upstream.base_url, retry=Retry(first_s=0.02, cap_s=0.1, budget_s=0.5))


def test_a_distant_vendor_sends_the_same_bars_later(sandbox: SandboxState) -> None:
    """Every page comes so much later, the ones that `next_url` leads to included; the bars are equal."""
    near, began_s = read(sandbox.upstream_url), time.monotonic()
    distant = read(f"{sandbox.upstream_url}/distant/200")
    assert time.monotonic() - began_s >= 0.2 * len(distant) > 0.2
    np.testing.assert_array_equal(joined(near).c, joined(distant).c)


def test_a_repeated_page_is_counted_and_not_stored(upstream: httpx.Client) -> None:
    """Its bars come once, and that they came twice is told."""
    whole = read(upstream.base_url)
    fault(upstream, "duplicate_page", count=1)
    found = read(upstream.base_url)
    np.testing.assert_array_equal(joined(found).t, joined(whole).t)
    assert sum(page.repeated for page in found) == len(whole[0].bars) and not any(page.repeated for page in whole)


def test_one_budget_is_for_all_pages_of_a_job(upstream: httpx.Client) -> None:
    """Each of five pages fails twice, for less time than the budget but together for more: the job fails after its first pages."""
    got = []

    async def pages(source: Source) -> None:
        async for page in source.pages(TICKER, "5m", START, END):
            got.append(page.number)

    fault(upstream, "fail_twice")
    with pytest.raises(wire.Unreachable):
        with_source(upstream.base_url, pages, Retry(first_s=0.3, cap_s=0.3, budget_s=1.1))
    assert 1 <= len(got) < 4 and got[0] == 0


def test_retry_after_is_waited_for(upstream: httpx.Client) -> None:
    """A server that names a pause gets it, even where backoff would be shorter; one longer than the budget is not believed."""
    for wish, least_s in (("0.5", 0.5), ("86400", 0.0)):
        fault(upstream, "rate_limited", count=1, retry_after=wish)
        trace = Trace(TICKER, "1d")
        read(upstream.base_url, timeframe="1d", trace=trace)
        assert [span.stage for span in trace.spans] == ["fetch", "wait", "fetch", "decode"]
        assert trace.spans[1].duration_s >= least_s
    fault(upstream, "rate_limited", retry_after="86400")
    with pytest.raises(wire.RateLimited):
        read(upstream.base_url, retry=Retry(first_s=0.02, cap_s=0.1, budget_s=0.3))


LINKS = [
    ("http://127.0.0.1:abc/x", wire.BadPage, "next_url is no URL"),
    ("http://[::1/x", wire.BadPage, "next_url is no URL"),
    ("http://elsewhere.example/v2/aggs?cursor=x", wire.Refused, "another host"),  # it would get our key
]


@pytest.mark.parametrize(("link", "error", "said"), LINKS, ids=[link for link, _, _ in LINKS])
def test_a_link_that_leads_nowhere_or_elsewhere_is_an_error(link: str, error: type[Exception], said: str) -> None:
    """It fails its page with a typed error, and is not followed."""

    async def follow(source: Source) -> None:
        source._followed(link, TICKER)

    with pytest.raises(error, match=said):
        with_source("http://127.0.0.1:9", follow)


def test_the_wire_format(upstream: httpx.Client) -> None:
    """The upstream answers as the vendor does: key by header or query, no key in next_url, errors in its bodies."""
    path = "/v2/aggs/ticker/AAPL/range/5/minute/2026-03-02/2026-03-13"
    page = upstream.get(path, params={"limit": 1000}).json()
    assert set(page) == {"ticker", "status", "adjusted", "queryCount", "resultsCount", "request_id", "results", "count", "next_url"}
    assert set(page["results"][0]) == {"t", "o", "h", "l", "c", "v", "vw", "n"} and isinstance(page["results"][0]["v"], float)
    assert len(page["results"]) == 200 and Home().secret() not in page["next_url"]
    with httpx.Client(base_url=upstream.base_url, trust_env=False) as bare:
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
    fault(upstream, "poisoned", count=1)
    poisoned = upstream.get(f"/v2/aggs/ticker/{TICKER}/range/1/day/2026-03-02/2026-03-13").json()
    assert min(bar["c"] for bar in poisoned["results"]) < 0


def test_the_rate_limit_can_be_switched(upstream: httpx.Client) -> None:
    """With one request a minute the second gets the vendor's 429, and none once the limit is off."""
    path = "/v2/aggs/ticker/AAPL/range/1/day/2026-03-02/2026-03-13"
    upstream.post("/limit", json={"requests_per_minute": 1, "burst": 1}).raise_for_status()
    answers = [upstream.get(path) for _ in range(2)]
    upstream.post("/limit", json={}).raise_for_status()
    assert [answer.status_code for answer in answers] == [200, 429] and "maximum requests" in answers[1].json()["error"]
    assert upstream.get(path).status_code == 200
