"""Our source beside the vendor's official client, both against the sandbox's upstream: the same bars, and where theirs ends silently."""

import asyncio
import datetime as dt
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import httpx
import numpy as np
import pytest
from massive import RESTClient

from tapecheck.backfill import wire
from tapecheck.backfill.bars import COLUMNS, TIMEFRAMES, Bars, to_ms
from tapecheck.backfill.rate_limit import Retry
from tapecheck.backfill.source import PAGE_LIMIT, Source
from tapecheck.sandbox.profile import Home
from tapecheck.target.opening import SandboxState
from tapecheck.tickers import ticker_of

END = dt.datetime.now(dt.UTC).replace(minute=0, second=0, microsecond=0)
START = END - dt.timedelta(days=365)
FIELDS = dict(zip(COLUMNS, ("timestamp", "open", "high", "low", "close", "volume", "vwap", "transactions"), strict=True))
SYMBOL = "TSLA"  # not in the fixture's profile, so that the scheduler does not take these faults


@pytest.fixture
def upstream(sandbox: SandboxState) -> Iterator[httpx.Client]:
    """A plain client of the upstream, for its faults; every fault is off before and after."""
    with httpx.Client(base_url=sandbox.upstream_url, trust_env=False) as client:
        client.delete("/faults")
        yield client
        client.delete("/faults")


@pytest.fixture
def official(sandbox: SandboxState) -> Iterator[RESTClient]:
    """The vendor's own client, pointed at the upstream."""
    client = RESTClient(api_key=Home().secret(), base=sandbox.upstream_url)
    yield client
    client.client.clear()


def theirs(client: RESTClient, symbol: str, timeframe: str) -> Iterator[Any]:
    """Ask the official client for a year, page by page as it goes on."""
    frame = TIMEFRAMES[timeframe]
    found: Iterator[Any] = client.list_aggs(
        ticker_of(symbol), frame.multiplier, frame.timespan, to_ms(START), to_ms(END), adjusted=True, sort="asc", limit=PAGE_LIMIT
    )
    return found


def ours(sandbox: SandboxState, symbol: str, timeframe: str) -> list[Bars]:
    """Read the same year, as pages."""
    return read(sandbox.upstream_url, symbol, timeframe)


def read(source_url: str, symbol: str, timeframe: str) -> list[Bars]:
    """Read a year with our source, as pages."""

    async def read() -> list[Bars]:
        async with Source(source_url, Home().secret(), retry=Retry(first_s=0.02, cap_s=0.1, budget_s=0.5)) as source:
            return [page.bars async for page in source.pages(symbol, timeframe, START, END)]

    return asyncio.run(read())


@pytest.mark.parametrize(("symbol", "timeframe", "pages"), [(SYMBOL, "5m", 5), ("BRK.B", "1h", 5), ("SOL", "4h", 11), ("SOL", "1d", 1)])
def test_both_read_the_same_bars(sandbox: SandboxState, official: RESTClient, symbol: str, timeframe: str, pages: int) -> None:
    """A year of every kind of ticker is equal in every column to the last bit, across all pages."""
    found, whole = ours(sandbox, symbol, timeframe), list(theirs(official, symbol, timeframe))
    assert len(found) == pages and len(whole) > 200
    for name, field in FIELDS.items():
        np.testing.assert_array_equal(np.concatenate([getattr(bars, name) for bars in found]), [getattr(bar, field) for bar in whole])


@pytest.mark.parametrize("kind", ["results_missing", "truncated"])
def test_where_theirs_ends_silently_ours_raises(sandbox: SandboxState, upstream: httpx.Client, official: RESTClient, kind: str) -> None:
    """A bad second page leaves the official client with the first one and no error; ours fails the job by name."""
    pages = ours(sandbox, SYMBOL, "5m")
    bars = theirs(official, SYMBOL, "5m")
    first = list(islice(bars, len(pages[0])))
    upstream.post("/faults", json={"kind": kind, "ticker": SYMBOL}).raise_for_status()
    assert len(first) + len(list(bars)) == len(pages[0]) < sum(map(len, pages))
    with pytest.raises(wire.BadPage):
        ours(sandbox, SYMBOL, "5m")


@pytest.mark.parametrize("kind", ["results_missing", "truncated"])
def test_a_bad_page_that_passes_costs_only_them(sandbox: SandboxState, upstream: httpx.Client, official: RESTClient, kind: str) -> None:
    """One bad answer, and the official client has no bar at all; ours asks again and has every one."""
    whole = sum(map(len, ours(sandbox, SYMBOL, "5m")))
    fault = {"kind": kind, "ticker": SYMBOL, "count": 1}
    upstream.post("/faults", json=fault).raise_for_status()
    assert list(theirs(official, SYMBOL, "5m")) == []
    upstream.post("/faults", json=fault).raise_for_status()
    assert sum(map(len, ours(sandbox, SYMBOL, "5m"))) == whole


def test_a_distant_vendor_sends_the_same_bars_later(sandbox: SandboxState) -> None:
    """Every page comes so much later, the ones that `next_url` leads to included; the bars are equal."""
    near, began_s = ours(sandbox, SYMBOL, "5m"), time.monotonic()
    distant = read(f"{sandbox.upstream_url}/distant/200", SYMBOL, "5m")
    assert time.monotonic() - began_s >= 0.2 * len(distant)
    assert len(distant) == len(near) > 1
    for mine, other in zip(near, distant, strict=True):
        np.testing.assert_array_equal(mine.c, other.c)
