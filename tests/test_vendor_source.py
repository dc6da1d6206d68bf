"""The source against the sandbox's real upstream, and beside the vendor's official client: the same bars, and an error where that ends.

What each fault of an upstream costs a backfill is in `test_backfill_faults.py`.
"""

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice
from typing import Any

import httpx
import numpy as np
import pytest
from vendors import KEY, Asked, Body, Vendor, bars_of, emptied, ms, serving, with_results

from tapecheck.sandbox.profile import Home
from tapecheck.target.opening import SandboxState
from tapecheck.vendor import wire
from tapecheck.vendor.bars import COLUMNS, TICKERS, TIMEFRAMES, Bars, ticker_of, to_datetime, to_ms
from tapecheck.vendor.rate_limit import Retry
from tapecheck.vendor.source import Page, Source
from tapecheck.vendor.trace import Trace

END = dt.datetime.now(dt.UTC).replace(minute=0, second=0, microsecond=0)
START = END - dt.timedelta(days=73)
FAST = Retry(first_s=0.02, cap_s=0.1, budget_s=3)
TICKER = "TSLA"  # not in the fixture's profile, so that the scheduler does not take these faults
FIELDS = dict(zip(COLUMNS, ("timestamp", "open", "high", "low", "close", "volume", "vwap", "transactions"), strict=True))


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fifth of a year has as many pages of a fifth of their size as a year at the vendor."""
    monkeypatch.setattr(wire, "PAGE_LIMIT", 10_000)


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
def official(sandbox: SandboxState) -> Iterator[Any]:
    """The vendor's own client, pointed at the upstream."""
    from massive import RESTClient  # half a second

    client = RESTClient(api_key=Home().secret(), base=sandbox.upstream_url)
    yield client
    client.client.clear()


def fault(client: httpx.Client, kind: str, **more: Any) -> None:
    client.post("/faults", json={"kind": kind, "ticker": TICKER} | more).raise_for_status()


def with_source(url: object, work: Callable[[Source], Awaitable[Any]], retry: Retry = FAST, key: str = "") -> Any:
    async def done() -> Any:
        async with Source(str(url), key or Home().secret(), retry=retry, timeout_s=10, tickers=TICKERS | {"DOGE": "X:DOGEUSD"}) as source:
            return await work(source)

    return asyncio.run(done())


def read(url: object, symbol: str = TICKER, timeframe: str = "5m", trace: Trace | None = None, retry: Retry = FAST) -> list[Page]:
    """Read ten weeks, as pages."""

    async def pages(source: Source) -> list[Page]:
        return [page async for page in source.pages(symbol, timeframe, START, END, trace)]

    return list(with_source(url, pages, retry))


def joined(pages: list[Page]) -> Bars:
    return Bars(**{name: np.concatenate([getattr(page.bars, name) for page in pages]) for name in COLUMNS})


def theirs(client: Any, symbol: str = TICKER, timeframe: str = "5m") -> Iterator[Any]:
    """Ask the official client for the same weeks, page by page as it goes on."""
    frame = TIMEFRAMES[timeframe]
    found: Iterator[Any] = client.list_aggs(
        ticker_of(symbol), frame.multiplier, frame.timespan, to_ms(START), to_ms(END), adjusted=True, sort="asc", limit=wire.PAGE_LIMIT
    )
    return found


@pytest.mark.parametrize(("symbol", "timeframe", "pages"), [(TICKER, "5m", 5), ("BRK.B", "1h", 5), ("SOL", "4h", 11), ("SOL", "1d", 1)])
def test_both_read_the_same_bars(sandbox: SandboxState, official: Any, symbol: str, timeframe: str, pages: int) -> None:
    """Weeks of every kind of ticker are equal in every column to the last bit, in as many pages as at the vendor."""
    found, whole = read(sandbox.upstream_url, symbol, timeframe), list(theirs(official, symbol, timeframe))
    assert (len(found), [page.last for page in found].index(True)) == (pages, pages - 1) and len(whole) > 70
    bars = joined(found)
    assert (np.diff(bars.t) > 0).all()
    for name, field in FIELDS.items():
        np.testing.assert_array_equal(getattr(bars, name), [getattr(bar, field) for bar in whole])


@pytest.mark.parametrize("kind", ["results_missing", "truncated"])
def test_where_theirs_ends_silently_ours_raises(upstream: httpx.Client, official: Any, kind: str) -> None:
    """A bad second page leaves the official client with the first one and no error; ours fails the job by name."""
    pages = read(upstream.base_url)
    bars = theirs(official)
    first = list(islice(bars, len(pages[0].bars)))
    fault(upstream, kind)
    assert len(first) + len(list(bars)) == len(pages[0].bars) < len(joined(pages))
    with pytest.raises(wire.BadPage):
        read(upstream.base_url, retry=Retry(first_s=0.02, cap_s=0.1, budget_s=0.5))


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
        assert [span.stage for span in trace.log.spans] == ["fetch", "wait", "fetch", "decode"]
        assert trace.log.spans[1].duration_s >= least_s
    fault(upstream, "rate_limited", retry_after="86400")
    with pytest.raises(wire.RateLimited):
        read(upstream.base_url, retry=Retry(first_s=0.02, cap_s=0.1, budget_s=0.3))


ASKED = "http://127.0.0.1:9/v2/aggs/ticker/TSLA/range/1/day/1/2?limit=5"
LINKS: list[tuple[str, str | type[Exception], str]] = [
    ("http://127.0.0.1:9/v2/x?cursor=1", "http://127.0.0.1:9/v2/x?cursor=1", ""),
    ("/v2/x?cursor=1", "http://127.0.0.1:9/v2/x?cursor=1", ""),  # relative ones are of the page that was asked
    ("?cursor=1", "http://127.0.0.1:9/v2/aggs/ticker/TSLA/range/1/day/1/2?cursor=1", ""),
    ("//127.0.0.1:9/x", "http://127.0.0.1:9/x", ""),
    ("http://127.0.0.1:abc/x", wire.BadPage, "next_url is no URL"),
    ("http://[::1/x", wire.BadPage, "next_url is no URL"),
    ("http://elsewhere.example/v2/aggs?cursor=x", wire.Refused, "another host, 'elsewhere.example'"),  # it would get our key
    ("//elsewhere.example/x", wire.Refused, "another host"),
    ("http://127.0.0.1@elsewhere.example/x", wire.Refused, "another host"),
    ("https://127.0.0.1:9/x", wire.Refused, "another scheme or port, https://127.0.0.1:9, than source_url"),
    ("http://127.0.0.1:8080/x", wire.Refused, "another scheme or port"),
    ("http://127.0.0.1/x", wire.Refused, "another scheme or port"),
]


@pytest.mark.parametrize(("link", "leads", "said"), LINKS, ids=[link for link, _, _ in LINKS])
def test_a_link_is_followed_only_to_where_the_key_belongs(link: str, leads: str | type[Exception], said: str) -> None:
    """One that leads elsewhere fails its page with a clear word."""

    async def follow(source: Source) -> str | None:
        return source._followed(link, httpx.URL(ASKED), TICKER)

    if isinstance(leads, str):
        assert with_source("http://127.0.0.1:9", follow, key=KEY) == leads
        return
    with pytest.raises(leads, match=said):
        with_source("http://127.0.0.1:9", follow, key=KEY)


# ---- answers that are not what was asked ----

FIRST, LAST = ms("2026-03-02T00:00:00"), ms("2026-03-05T00:00:00") - 1
EMPTY = {"results": [], "resultsCount": 0, "queryCount": 0, "next_url": None}


def fetched(vendor: Vendor, *, in_order: bool = True, symbol: str = "DOGE") -> tuple[Bars, Trace, int]:
    """Read three days of a planted vendor; return the bars, what was noted, and how many requests there were."""
    trace = Trace(symbol, "5m")

    async def pages(source: Source) -> list[Page]:
        days = (to_datetime(FIRST), to_datetime(LAST))
        return [page async for page in source.pages(symbol, "5m", *days, trace, in_order=in_order)]

    with serving(vendor) as server:
        found = with_source(server.url, pages, key=KEY)
    bars = joined(found)
    return bars[np.argsort(bars.t)], trace, len(vendor.asked)


def on_page(number: int, change: Callable[[Body], Any], times: int = 1) -> Callable[[Asked, Body], Any]:
    """Return what changes the answers to the request of a page, from 1, and to those that ask for it again."""
    counts: dict[int, int] = {}

    def spoil(asked: Asked, body: Body) -> Any:
        counts.setdefault(asked.at, 0)
        counts[asked.at] += 1
        is_it = list(counts).index(asked.at) == number - 1 and counts[asked.at] <= times
        return change(body) if is_it else body

    return spoil


def test_an_empty_page_is_believed_when_it_stays_so() -> None:
    """After three answers; what was on the pages before stays, and one that says that more follows hides nothing."""
    bars, _, sent = fetched(Vendor(on_page(2, lambda body: body | EMPTY, 9)))
    assert (len(bars), sent) == (200, 4)
    bars, _, sent = fetched(Vendor(on_page(2, lambda body: body | {"results": [], "resultsCount": 0}, 9)))
    assert len(bars) == len(bars_of("X:DOGEUSD", "5m", FIRST, LAST)) - 200 and sent == 7


def test_a_series_without_bars_is_told_from_a_ticker_that_is_not_known() -> None:
    """The vendor answers both with an empty page, so it is asked for the ticker; where that is no answer, the series is empty."""
    assert len(fetched(Vendor(emptied, known={"X:DOGEUSD"}))[0]) == 0
    assert len(fetched(Vendor(emptied))[0]) == 0
    with pytest.raises(wire.UnknownTicker, match="X:DOGEUSD: the vendor has no bars and knows no such ticker"):
        fetched(Vendor(known={"AAPL"}))


def moved(body: Body, number: int, **changes: Any) -> Body:
    results = [dict(one) for one in body["results"]]
    results[number] |= {name: change(results[number][name]) for name, change in changes.items()}
    return with_results(body, results)


def test_a_bar_of_a_later_page_is_not_taken_for_the_newest() -> None:
    """The pages after it would begin before it: that is an error, or, where all are wanted first, they are sorted."""
    later = int(bars_of("X:DOGEUSD", "5m", FIRST, LAST).t[700])
    spoil = on_page(1, lambda body: moved(body, -1, t=lambda _: later))
    with pytest.raises(wire.Disordered):
        fetched(Vendor(spoil))
    bars, trace, _ = fetched(Vendor(on_page(1, lambda body: moved(body, -1, t=lambda _: later))), in_order=False)
    assert len(bars) == len(bars_of("X:DOGEUSD", "5m", FIRST, LAST)) - 1 and (np.diff(bars.t) > 0).all()
    assert [(one.kind, one.bars, one.first_ms) for one in trace.log.oddities] == [("contradicted", 1, later)]


# ---- the sandbox's vendor ----


def test_the_wire_format(upstream: httpx.Client) -> None:
    """The upstream answers as the vendor does: key by header or query, none in next_url."""
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
