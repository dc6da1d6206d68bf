"""Faults of the vendor's answers, each of one symbol, in one backfill of a real database: what is stored, counted and reported."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from backfills import SCHEMA, analysed
from vendors import KEY, Asked, Body, Vendor, bars_of, emptied, ms, serving, with_results

from tapecheck.backfill.analysis import BackfillSummary
from tapecheck.backfill.plan import BackfillPlan, Endpoints
from tapecheck.backfill.recording import Recording
from tapecheck.backfill.session import run
from tapecheck.validation import Analysis

START, END = "2026-11-02", "2026-11-14"
DAY_MS = 86_400_000


def added(*bars: Callable[[list[Body]], Body]) -> Callable[[Asked, Body], Body]:
    """Return what adds bars, made of a page's own, at its end and at its beginning."""

    def spoil(asked: Asked, body: Body) -> Body:
        results = body.get("results", [])
        more = [bar(results) for bar in bars if results]
        return with_results(body, [*more, *results, *more]) if results else body

    return spoil


def once(number: int, answer: Callable[[Asked, Body], Any]) -> Callable[[Asked, Body], Any]:
    """Return what changes the answer to one request of a series, from 1."""
    return lambda asked, body: answer(asked, body) if asked.number == number else body


def said(status: str, **words: str) -> Callable[[Asked, Body], Body]:
    """Return what answers 200 with another status."""
    return lambda asked, body: {"status": status, "request_id": "r", **words}


def jumbled(body: Body) -> Body:
    """Put a bar of the next page at the end of a page."""
    *others, last = body["results"]
    return with_results(body, [*others, last | {"t": ms("2026-11-12T10:00:00")}])


Spoil = Callable[[Asked, Body], Any]
KEPT: dict[str, tuple[Spoil, dict[str, int]]] = {  # nothing of what was asked for is missing, and the series says what was odd
    "PLAIN": (lambda asked, body: body, {}),
    "FUTURE": (added(lambda bars: bars[-1] | {"t": bars[-1]["t"] + 300 * DAY_MS}), {"not_asked_for": 4}),
    "NULLED": (added(lambda bars: bars[3] | {"t": bars[3]["t"], "c": None}), {"incomplete": 4}),
    "PROMISE": (once(2, emptied), {}),
    "NULLS": (once(2, lambda asked, body: emptied(asked, body) | {"results": None}), {}),
    "TIMEOUT": (once(2, lambda asked, body: (408, b"")), {}),
    "UNADJ": (once(2, lambda asked, body: body | {"adjusted": False}), {}),
    "PASSES": (once(2, said("ERROR", error="backend unavailable")), {}),
    "TWICE": (added(lambda bars: bars[3], lambda bars: bars[3] | {"c": bars[3]["c"] + 1}, lambda bars: bars[3]), {"contradicted": 8}),
    "JUMBLED": (once(1, lambda asked, body: jumbled(body)), {}),
}  # fmt: skip
FAILED: dict[str, tuple[Spoil, str]] = {
    "DENIED": (said("NOT_AUTHORIZED", message="You are not entitled."), "status NOT_AUTHORIZED: You are not entitled."),
    "NEVERADJ": (lambda asked, body: body | {"adjusted": False}, "the page says adjusted: false"),
    "HOST": (lambda asked, body: body | {"next_url": "http://elsewhere.example/v2/x"}, "another host, 'elsewhere.example'"),
    "NOSUCH": (emptied, "knows no such ticker"),
}  # fmt: skip
SPOILS = {symbol: spoil for symbol, (spoil, _) in (KEPT | FAILED).items()}
TICKERS = {symbol: f"X:{symbol}USD" for symbol in SPOILS}
PLAN: dict[str, Any] = {
    "timeframes": ["1h"],
    "history": {"start": START, "end": END},
    "tickers": TICKERS,
    "database_schema": SCHEMA,
    "concurrency": {"jobs": 16, "requests": 16},
    "source": {"timeout_s": 20, "retry": {"first_s": 0.02, "cap_s": 0.05, "budget_s": 1}},
    "objectives": [
        "job_success_ratio >= 1",
        "lost <= 0",
        "not_asked_for <= 0",
        "contradicted <= 0",
        "duration_s < 1000",
        "records_per_s > 0",
    ],
}


Found = Analysis[BackfillPlan, Recording, BackfillSummary]


def checks(found: Found) -> dict[str, str]:
    return {one.objective.split()[0]: str(one.verdict) for one in found.checks}


@pytest.fixture(scope="module")
def runs(endpoints: Endpoints) -> Iterator[tuple[Found, dict[str, list[tuple[int, float]]], Found]]:
    """A run with a fault in the answers of each symbol, start and close of what it stored, and a resumed run with nothing left to do."""

    def spoil(asked: Asked, body: Body) -> Any:
        return SPOILS[asked.ticker.removeprefix("X:").removesuffix("USD")](asked, body)

    def ran(**changes: Any) -> Found:
        return analysed(run(BackfillPlan.model_validate(PLAN | changes), there))

    # the ticker that is not known answers with an empty page by itself, as the vendor does
    with serving(Vendor(spoil, known={*TICKERS.values()} - {"X:NOSUCHUSD"})) as server:
        there = replace(endpoints, source_url=server.url, key=KEY)
        first, again = ran(symbols=[*SPOILS]), ran(symbols=["PLAIN", "FUTURE"], begin="resume")
    with psycopg.connect(endpoints.database_url, autocommit=True) as connection:
        rows = connection.execute(f"SELECT symbol, (extract(epoch FROM time) * 1000)::int8, c FROM {SCHEMA}.bars ORDER BY 2").fetchall()
        connection.execute(f"DROP SCHEMA {SCHEMA} CASCADE")
    yield first, {symbol: [(t, c) for one, t, c in rows if one == symbol] for symbol in SPOILS}, again


@pytest.mark.parametrize("symbol", KEPT)
def test_what_was_asked_for_is_stored_and_nothing_else(runs: Any, symbol: str) -> None:
    """Whatever an answer has besides, or lacked once; it is counted, and told with its series and time."""
    first, stored, _ = runs
    job = first.summary.jobs[symbol]["1h"]
    found = [one for one in first.summary.integrity.findings if one.symbol == symbol]
    odd = {one.kind: one.bars for one in found if one.kind in ("not_asked_for", "incomplete", "contradicted")}
    assert (job.state, job.error, odd) == ("completed", "", KEPT[symbol][1])
    bars = bars_of(TICKERS[symbol], "1h", ms(START), ms(END) - 1)
    assert stored[symbol] == list(zip(bars.t.tolist(), bars.c.tolist(), strict=True))
    assert all(one.first_ms is not None for one in found)


@pytest.mark.parametrize("symbol", FAILED)
def test_what_cannot_be_trusted_fails_its_job_with_the_reason(runs: Any, symbol: str) -> None:
    """In the vendor's own words where it has some."""
    first, stored, _ = runs
    job = first.summary.jobs[symbol]["1h"]
    assert job.state == "failed" and FAILED[symbol][1] in job.error
    assert len(stored[symbol]) in (0, 200)


def test_what_was_missed_is_said(runs: Any) -> None:
    """The objectives that the answers miss, and what came that was not asked for."""
    first, *_ = runs
    assert first.summary.integrity.series == len(KEPT), "nothing is said of a failed job's series"
    assert checks(first) == {
        "job_success_ratio": "fail", "lost": "pass", "not_asked_for": "fail", "contradicted": "fail", "duration_s": "pass",
        "records_per_s": "pass",
    }  # fmt: skip
    odd = next(one for one in first.findings if one.name == "not_asked_for_bars")
    assert "FUTURE 1h" in odd.finding and odd.evidence["bars"] == 4


def test_nothing_left_to_do_is_a_pass_that_says_so(runs: Any) -> None:
    """Objectives of what was done are met too."""
    *_, again = runs
    assert {checks(again)[metric] for metric in ("job_success_ratio", "duration_s", "records_per_s")} == {"pass"}
    assert (again.summary.totals.skipped, again.summary.totals.requests) == (2, 0)
    assert "nothing was left to do" in again.headline.lower()
