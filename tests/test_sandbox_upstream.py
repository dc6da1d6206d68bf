"""The sandbox's vendor: its rules as the official client shows them, and a fault of every kind that is asked for."""

import asyncio
import base64
import datetime as dt
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tapecheck.sandbox import faults
from tapecheck.sandbox.profile import Home
from tapecheck.sandbox.upstream import application

HOURS, DAYS = "/v2/aggs/ticker/AAPL/range/1/hour/2026-03-02/2026-03-06", "/v2/aggs/ticker/AAPL/range/1/day/2026-01-01/2026-03-31"


class Vendor:
    """The upstream without a port; each request in an event loop of its own."""

    def __init__(self, folder: Path) -> None:
        home = Home(folder)
        transport = httpx.ASGITransport(application(home))
        self.options = {"transport": transport, "base_url": "http://upstream", "headers": {"Authorization": f"Bearer {home.secret()}"}}

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(**self.options) as client:
                return await client.request(method, path, **more)

        return asyncio.run(ask())

    def get(self, path: str, **params: Any) -> httpx.Response:
        return self.ask("GET", path, **({"params": params} if params else {}))

    def spoil(self, kind: str, **more: Any) -> None:
        self.ask("POST", "/faults", json={"kind": kind, **more}).raise_for_status()


@pytest.fixture
def vendor(tmp_path: Path) -> Vendor:
    return Vendor(tmp_path)


def pages(vendor: Vendor, path: str, **query: Any) -> list[dict[str, Any]]:
    found = [vendor.get(path, **query).json()]
    while "next_url" in found[-1]:
        found.append(vendor.get(found[-1]["next_url"]).json())
    return found


def starts(found: list[dict[str, Any]]) -> list[int]:
    return [bar["t"] for page in found for bar in page.get("results", [])]


@pytest.mark.parametrize(("path", "limit", "each"), [(DAYS, 7, 7), (HOURS, 300, 5), (HOURS, 1, 1)])
@pytest.mark.parametrize("sort", ["asc", "desc"])
def test_a_page_holds_as_many_base_aggregates_as_its_limit(vendor: Vendor, path: str, limit: int, each: int, sort: str) -> None:
    """Days of day bars, minutes of hour bars; a page holds at least one bar, and all pages together each bar once."""
    found, whole = pages(vendor, path, limit=limit, sort=sort), vendor.get(path, sort=sort).json()["results"]
    assert [bar for page in found for bar in page["results"]] == whole and len(whole) > 10
    assert all(page["resultsCount"] == len(page["results"]) for page in found)
    if path == DAYS:
        assert {len(page["results"]) for page in found[:-1]} == {each}
    else:
        assert max(len(page["results"]) for page in found) <= max(each + 1, 1)  # an hour in which little was traded has fewer minutes


@pytest.mark.parametrize("adjusted", ["true", "false"])
def test_what_was_asked_stays_with_the_cursor(vendor: Vendor, adjusted: str) -> None:
    """Whether prices are adjusted, in which order, and how many: a next_url carries no key and no other question."""
    found = pages(vendor, DAYS, limit=5, adjusted=adjusted, sort="desc")
    assert {page["adjusted"] for page in found} == {adjusted == "true"} and len(found) > 5
    assert starts(found) == sorted(starts(found), reverse=True)
    assert all("Key" not in page.get("next_url", "") for page in found)


UNITS = {"minute": 200, "hour": 10, "day": 60, "week": 10, "month": 3, "quarter": 1, "year": 1}
STOCK, CRYPTO = ("AAPL", -5), ("X:BTCUSD", 0)


@pytest.mark.parametrize(("traded", "unit"), [*zip([STOCK, CRYPTO] * 4, UNITS, strict=False), (CRYPTO, "day")])
def test_bars_of_every_unit_hold_what_is_in_them(vendor: Vendor, traded: tuple[str, int], unit: str) -> None:
    """From minutes to a year: first open, last close, highest, lowest and all the volume of the smaller bars that begin in them."""
    symbol, zone = traded
    smaller = {"minute": None, "hour": "5/minute", "day": "1/hour"}.get(unit, "1/day")
    begin, end = ("2026-01-05", "2026-01-05") if unit in ("minute", "hour") else ("2026-01-01", "2026-03-31")
    path = f"/v2/aggs/ticker/{symbol}/range/{{}}/{begin}/{end}"
    bars = [bar for page in pages(vendor, path.format(f"1/{unit}"), limit=50_000) for bar in page["results"]]
    assert len(bars) >= UNITS[unit]
    first = dt.datetime.fromtimestamp(bars[0]["t"] / 1000, dt.timezone(dt.timedelta(hours=zone)))
    assert (first.hour, first.minute) == (0, 0) or unit in ("minute", "hour")
    if smaller is None:
        smaller, bars = f"1/{unit}", [bar for page in pages(vendor, path.format("5/minute"), limit=50_000) for bar in page["results"]]
    parts = [bar for page in pages(vendor, path.format(smaller), limit=50_000) for bar in page["results"]]
    for bar, following in zip(bars, [*bars[1:], {"t": 2**60}], strict=True):
        own = [one for one in parts if bar["t"] <= one["t"] < following["t"]]
        if unit in ("week", "year") and bar is bars[-1]:  # it goes on after the last day that was asked for
            continue
        assert (bar["o"], bar["c"]) == (own[0]["o"], own[-1]["c"])
        assert (bar["h"], bar["l"]) == (max(one["h"] for one in own), min(one["l"] for one in own))
        assert bar["v"] == pytest.approx(sum(one["v"] for one in own), rel=0.2 if unit == "minute" else 1e-12)


def of(vendor: Vendor, kind: str, path: str = HOURS, **more: Any) -> tuple[list[Any], list[Any]]:
    """Return the answers without and with a fault: status, and body."""
    asked = vendor.get(path, limit=600)
    if kind == "empty_page":
        asked = vendor.get(path := asked.json()["next_url"])
    vendor.spoil(kind, **more)
    found = vendor.get(path) if kind == "empty_page" else vendor.get(path, limit=600)
    vendor.ask("DELETE", "/faults").raise_for_status()
    return [asked.status_code, asked.content], [found.status_code, found.content]


SHOWN = sorted(set(faults.KINDS) - {"reset", "black_hole", "slow_drip", "late_start", "recycled", "closed_day"})


@pytest.mark.parametrize("kind", SHOWN)
def test_every_fault_changes_an_answer(vendor: Vendor, kind: str) -> None:
    """And is over when it is switched off; `fail_twice` passes the third time."""
    clean, found = of(vendor, kind, "/v2/aggs/ticker/AAPL/range/5/minute/2026-03-02/2026-03-06")
    if kind != "truncated":
        clean[1] = {**json.loads(clean[1]), "request_id": ""}
        found[1] = {**json.loads(found[1]), "request_id": ""} if found[1].startswith(b"{") else found[1]
    assert clean[0] == 200 and clean != found, kind
    assert (found[0] == 200) == (kind not in ("rate_limited", "rate_limited_empty", "forbidden", "server_error", "fail_twice"))


@pytest.mark.parametrize("kind", ["late_start", "recycled", "closed_day"])
def test_faults_of_whole_histories(vendor: Vendor, kind: str) -> None:
    """Of a year of days many are missing; a ticker that was given away has another price level."""
    today = dt.datetime.now(dt.UTC).date()
    clean, found = of(vendor, kind, f"/v2/aggs/ticker/X:BTCUSD/range/1/day/{today - dt.timedelta(days=100)}/{today}")
    before, after = json.loads(clean[1])["results"], json.loads(found[1])["results"]
    assert 5 < len(after) < 0.95 * len(before) and {bar["t"] for bar in after} < {bar["t"] for bar in before}
    assert (after[-1]["c"] < before[-1]["c"] / 10) == (kind == "recycled")


def test_a_fault_hits_only_what_it_names(vendor: Vendor) -> None:
    """By ticker, by the length of the bars, and so many answers."""
    vendor.spoil("spike", ticker="AAPL", bars="1 hour", count=1)
    hit = [max(bar["h"] / bar["c"] for bar in vendor.get(path).json()["results"]) > 5 for path in (DAYS, HOURS.replace("AAPL", "V"), HOURS)]
    assert hit == [False, False, True] and vendor.get("/faults").json() == []


def test_a_split_rewrites_only_adjusted_history(vendor: Vendor) -> None:
    """Two shares for one: half the price and twice the volume, unless the raw history is asked for."""
    raw = vendor.get(DAYS).json()["results"]
    vendor.spoil("split", ratio=2)
    split, unadjusted = vendor.get(DAYS).json()["results"], vendor.get(DAYS, adjusted="false").json()["results"]
    assert unadjusted == raw
    assert [bar["v"] for bar in split] == [2 * bar["v"] for bar in raw]
    assert [bar["c"] for bar in split] == pytest.approx([bar["c"] / 2 for bar in raw], abs=1e-4)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("AAPL/range/7/minute/2026-03-02/2026-03-13", 400), ("AAPL/range/2/week/2026-03-02/2026-03-13", 400),
        ("AAPL/range/1/day/2026-03-13/2026-03-02", 400), ("AAPL/range/1/day/never/2026-03-02", 400),
        ("AAPL/range/x/day/2026-03-02/2026-03-13", 400), ("AAPL/range/1/day/0001-01-01/9999-12-31", 400),
        ("AAPL/range/1/day/2026-03-02/2026-03-13?limit=50001", 400), ("AAPL/range/1/day/2026-03-02/2026-03-13?sort=up", 400),
        ("AAPL/range/1/day/2026-03-02/2026-03-13?adjusted=maybe", 400), ("AAPL/range/1/day/2026-03-02/2026-03-13?cursor=garbage", 400),
        ("AAPL/range/1/second/2026-03-02/2026-03-13", 403), ("NOSUCH/range/1/day/2026-03-02/2026-03-13", 404),
    ],
)  # fmt: skip
def test_wrong_questions_are_refused_in_the_vendors_words(vendor: Vendor, path: str, status: int) -> None:
    """With a status and a request's id, whatever is wrong."""
    answer = vendor.get(f"/v2/aggs/ticker/{path}")
    assert (answer.status_code, set(answer.json()) >= {"status", "request_id"}) == (status, True)


def test_a_cursor_of_anybody_is_checked_as_a_question_is(vendor: Vendor) -> None:
    """It is text that comes back from outside."""
    for at in (-1, 2**70):
        forged = base64.urlsafe_b64encode(json.dumps({"at": at}).encode()).decode()
        assert vendor.get(DAYS, cursor=forged).status_code == 400
