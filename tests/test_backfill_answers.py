"""Faults of the vendor's answers, each of one symbol, through the command line and a real database: what is stored, counted and said."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from backfills import SCHEMA
from vendors import KEY, Asked, Body, Vendor, bars_of, emptied, ms, serving, with_results

from tapecheck.target.opening import SandboxState

START, END, LATER = "2026-11-02", "2026-11-14", "2026-11-20"
DAY_MS = 86_400_000


def moved(*numbers: int, **changes: Callable[[Any], Any]) -> Callable[[Asked, Body], Body]:
    """Return what changes fields of some bars of each page."""

    def spoil(asked: Asked, body: Body) -> Body:
        results = [dict(one) for one in body.get("results", ())]
        for number in numbers:
            results[number] |= {name: change(results[number][name]) for name, change in changes.items()}
        return with_results(body, results) if results else body

    return spoil


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
    "PAST": (added(lambda bars: bars[0] | {"t": bars[0]["t"] - 400 * DAY_MS}), {"not_asked_for": 4}),
    "SECS": (added(lambda bars: bars[3] | {"t": bars[3]["t"] // 1000}), {"not_asked_for": 4}),
    "MICROS": (added(lambda bars: bars[3] | {"t": bars[3]["t"] * 1000}), {"not_asked_for": 4}),
    "GRID": (added(lambda bars: bars[3] | {"t": bars[3]["t"] + 60_000}), {"not_asked_for": 4}),
    "NULLED": (added(lambda bars: bars[3] | {"t": bars[3]["t"], "c": None}), {"incomplete": 4}),
    "PROMISE": (once(2, emptied), {}),
    "NOFIRST": (once(1, emptied), {}),
    "NULLS": (once(2, lambda asked, body: emptied(asked, body) | {"results": None}), {}),
    "NOZERO": (once(1, lambda asked, body: body | {"results": None}), {}),
    "TIMEOUT": (once(2, lambda asked, body: (408, b"")), {}),
    "EARLY": (once(1, lambda asked, body: (425, b"{}")), {}),
    "UNADJ": (once(2, lambda asked, body: body | {"adjusted": False}), {}),
    "OTHER": (once(1, lambda asked, body: body | {"ticker": "X:NONEUSD"}), {}),
    "PASSES": (once(2, said("ERROR", error="backend unavailable")), {}),
    "TWICE": (added(lambda bars: bars[3], lambda bars: bars[3] | {"c": bars[3]["c"] + 1}, lambda bars: bars[3]), {"contradicted": 8}),
    "DESC": (lambda asked, body: body | {"results": body.get("results", [])[::-1]}, {}),
    "JUMBLED": (once(1, lambda asked, body: jumbled(body)), {}),
}  # fmt: skip
FAILED: dict[str, tuple[Spoil, str]] = {
    "PLAN": (said("ERROR", error="Your plan does not include this"), "status ERROR: Your plan does not include this"),
    "DENIED": (said("NOT_AUTHORIZED", message="You are not entitled."), "status NOT_AUTHORIZED: You are not entitled."),
    "BACKEND": (said("ERROR", error="backend unavailable"), "status ERROR: backend unavailable"),
    "NEVERADJ": (lambda asked, body: body | {"adjusted": False}, "the page says adjusted: false"),
    "NULLBAD": (lambda asked, body: body | {"results": None}, "results is null, with resultsCount 200"),
    "HOST": (lambda asked, body: body | {"next_url": "http://elsewhere.example/v2/x"}, "another host, 'elsewhere.example'"),
    "SCHEME": (lambda asked, body: body | {"next_url": body["next_url"].replace("http:", "https:")}, "another scheme or port, https://127.0.0.1"),
    "PORT": (lambda asked, body: body | {"next_url": "http://127.0.0.1:9/v2/x"}, "another scheme or port, http://127.0.0.1:9"),
    "NOSUCH": (emptied, "knows no such ticker"),
}  # fmt: skip
EMPTY: dict[str, Spoil] = {"NONE": emptied, "NONENULL": lambda asked, body: emptied(asked, body) | {"results": None}}
VALUES: dict[str, tuple[Spoil, str]] = {  # stored as they came, and reported by kind: two bars, one a page
    "NEGATIVE": (moved(5, c=lambda price: -price), "not_positive"),
    "ZERO": (moved(5, l=lambda price: 0.0), "not_positive"),
    "WEIGHTED": (moved(5, vw=lambda price: 1.2 * price), "vwap_outside_range"),
    "BELOW": (moved(5, vw=lambda price: -5.0), "vwap_outside_range"),
    "COUNTED": (moved(5, n=lambda count: -3), "negative_count"),
    "SPIKED": (moved(5, h=lambda high: 10 * high), "spike"),
}
BEGINS = "2026-11-09T12:00:00"
SPOILS = {symbol: spoil for symbol, (spoil, _) in (KEPT | FAILED | VALUES).items()} | EMPTY
SPOILS["LATE"] = lambda asked, body: with_results(body, [one for one in body.get("results", ()) if one["t"] >= ms(BEGINS)])
RESUMED, RATIOS = ["PLAIN", "FUTURE", "HALVED", "TENFOLD", "FIFTHS"], {"HALVED": 0.5, "TENFOLD": 0.1, "FIFTHS": 4 / 5}
TICKERS = {symbol: f"X:{symbol}USD" for symbol in (*SPOILS, *RESUMED)}
PLAN: dict[str, Any] = {
    "timeframes": ["1h"],
    "tickers": TICKERS,
    "database_schema": SCHEMA,
    "concurrency": {"jobs": 16, "requests": 16},
    "source": {"timeout_s": 20, "retry": {"first_s": 0.02, "cap_s": 0.05, "budget_s": 1}},
    "objectives": [
        "job_success_ratio >= 1",
        "lost <= 0",
        "not_asked_for <= 0",
        "contradicted <= 0",
        "coverage >= 0.95",
        "longest_gap_days <= 3",
        "duration_s < 1000",
        "records_per_s > 0",
    ],
}


@dataclass
class Ran:
    """What a command left: its exit code, what it printed, and its result."""

    code: int
    out: str
    result: dict[str, Any]

    def job(self, symbol: str) -> dict[str, Any]:
        found: dict[str, Any] = self.result["jobs"][symbol]["1h"]
        return found

    def kinds(self, symbol: str) -> dict[str, dict[str, Any]]:
        return {one["kind"]: one for one in self.result["integrity"]["findings"] if one["symbol"] == symbol}

    def check(self, metric: str) -> str:
        return next(str(one["verdict"]) for one in self.result["checks"] if one["objective"].startswith(metric))


def ran(folder: Path, url: str, database_url: str, **plan: Any) -> Ran:
    """Run the command, as a user does."""
    history = {"start": START, "end": plan.pop("end", END)}
    (folder / "plan.yaml").write_text(yaml.safe_dump(PLAN | {"history": history} | plan))
    backfill = {"source_url": url, "api_key": {"env": "A_KEY"}, "database_url": {"env": "A_DATABASE"}}
    target = {"name": "planted", "kind": "external", "base_url": url, "requests": {"health": "GET /"}, "backfill": backfill}
    (folder / "target.yaml").write_text(yaml.safe_dump(target))
    command = [sys.executable, "-m", "tapecheck", "run", "backfill", "--target", str(folder / "target.yaml"), "--out", str(folder / "out")]
    command += ["-p", "plan", str(folder / "plan.yaml"), "-p", "profile", "full"]
    environment = os.environ | {"A_KEY": KEY, "A_DATABASE": database_url}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    found = sorted((folder / "out" / "backfill").glob("2*/result.json"))
    return Ran(done.returncode, done.stdout + done.stderr, json.loads(found[-1].read_text()) if found else {})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, sandbox: SandboxState) -> Any:
    """A fresh run with a fault in the answers of each symbol, one that is resumed with a later end after splits, and one more of that."""
    assert sandbox.database_url
    folder = tmp_path_factory.mktemp("answers")
    is_later: list[bool] = []

    def spoil(asked: Asked, body: Body) -> Any:
        symbol = asked.ticker.removeprefix("X:").removesuffix("USD")
        if is_later and symbol in RATIOS:
            body = moved(*range(len(body.get("results", ()))), **dict.fromkeys("ohlc", lambda price: price * RATIOS[symbol]))(asked, body)
        return SPOILS.get(symbol, KEPT["PLAIN"][0])(asked, body)

    with serving(Vendor(spoil, known={ticker for symbol, ticker in TICKERS.items() if symbol != "NOSUCH"})) as server:
        # the ticker that is not known answers with an empty page by itself, as the vendor does
        url = sandbox.database_url
        first = ran(folder, server.url, url, symbols=[*dict.fromkeys((*SPOILS, *RESUMED))])
        stored = series(url)
        is_later.append(True)
        resumed = ran(folder, server.url, url, symbols=RESUMED, end=LATER, begin="resume")
        yield first, stored, resumed, series(url), ran(folder, server.url, url, symbols=RESUMED, end=LATER, begin="resume")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")


def series(url: str) -> dict[str, list[tuple[int, float]]]:
    """Return the start and close of each stored bar, by symbol."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(f"SELECT symbol, (extract(epoch FROM time) * 1000)::int8, c FROM {SCHEMA}.bars ORDER BY 1, 2").fetchall()
    found: dict[str, list[tuple[int, float]]] = {}
    for symbol, t, c in rows:
        found.setdefault(symbol, []).append((t, c))
    return found


def expected(symbol: str, end: str = END, ratio: float = 1.0) -> list[tuple[int, float]]:
    bars = bars_of(TICKERS[symbol], "1h", ms(START), ms(end) - 1)
    return list(zip(bars.t.tolist(), (bars.c * ratio).tolist(), strict=True))


@pytest.mark.parametrize("symbol", KEPT)
def test_what_was_asked_for_is_stored_and_nothing_else(runs: Any, symbol: str) -> None:
    """Whatever an answer has besides, or lacked once; it is counted, and told with its series and time."""
    first, stored, *_ = runs
    odd = {kind: one["bars"] for kind, one in first.kinds(symbol).items() if kind in ("not_asked_for", "incomplete", "contradicted")}
    assert (first.job(symbol)["state"], first.job(symbol)["error"], odd) == ("completed", "", KEPT[symbol][1])
    assert stored[symbol] == expected(symbol)
    assert all(one["first_ms"] is not None for one in first.kinds(symbol).values())


@pytest.mark.parametrize("symbol", FAILED)
def test_what_cannot_be_trusted_fails_its_job_with_the_reason(runs: Any, symbol: str) -> None:
    """In the vendor's own words where it has some."""
    first, stored, *_ = runs
    assert first.job(symbol)["state"] == "failed" and FAILED[symbol][1] in first.job(symbol)["error"]
    assert len(stored.get(symbol, ())) in (0, 200)


@pytest.mark.parametrize("symbol", EMPTY)
def test_a_known_ticker_without_bars_is_empty(runs: Any, symbol: str) -> None:
    """After it was asked for more than once."""
    first, stored, *_ = runs
    assert (first.job(symbol)["state"], first.job(symbol)["requests"]) == ("completed", 4) and symbol not in stored
    assert "no_bars" in first.kinds(symbol)


@pytest.mark.parametrize("symbol", VALUES)
def test_a_bar_of_wrong_values_fails_no_job(runs: Any, symbol: str) -> None:
    """It is stored as it came, and reported by kind with its series and time; a suspicion is no wrong bar."""
    first, stored, *_ = runs
    assert (first.job(symbol)["state"], len(stored[symbol])) == ("completed", len(expected("PLAIN")))
    found = first.kinds(symbol)[VALUES[symbol][1]]
    assert (found["bars"], found["first_ms"]) == (2, stored[symbol][5][0])
    said = {one["name"]: one["finding"] for one in first.result["recommendations"]}
    assert VALUES[symbol][1] + "_bars" in said


def test_a_history_that_begins_late_is_told_by_its_range(runs: Any) -> None:
    """Its job completes; coverage and the longest gap are figures, can be missed, and are told with their days."""
    first, *_ = runs
    series = first.result["coverage"]["series"]["LATE"]["1h"]
    assert (series["late_start_days"], series["longest_gap_days"], series["first_bar"][:19]) == (7, 7, BEGINS)
    assert series["coverage"] == pytest.approx(series["present"] / (12 * 24)) and series["longest_gap"]["last"] == "2026-11-08"
    said = {one["name"]: one["finding"] for one in first.result["recommendations"]}
    assert "LATE (1h) 7 days, 2026-11-02 to 2026-11-08 before its first bar" in said["absent_days"]
    assert first.check("longest_gap_days") == first.check("coverage") == "fail"


def test_the_command_says_what_was_missed(runs: Any) -> None:
    """It ends with a missed objective, and names what came that was not asked for."""
    first, *_ = runs
    assert (first.code, first.result["verdict"]) == (1, "fail")
    checks = {metric: first.check(metric) for metric in ("job_success_ratio", "lost", "not_asked_for", "contradicted")}
    assert checks == {"job_success_ratio": "fail", "lost": "pass", "not_asked_for": "fail", "contradicted": "fail"}
    said = {one["name"]: one for one in first.result["recommendations"]}
    assert "FUTURE 1h" in said["not_asked_for_bars"]["finding"] and said["not_asked_for_bars"]["evidence"]["bars"] == 20


def test_a_later_end_is_due_and_another_basis_is_fetched_anew(runs: Any) -> None:
    """The tables are those of a fresh run; a split is told with series, ratio and date."""
    _, _, resumed, stored, _ = runs
    assert [resumed.job(symbol)["state"] for symbol in RESUMED] == ["completed"] * len(RESUMED)
    for symbol in RESUMED:
        found, wanted = stored[symbol], expected(symbol, LATER, RATIOS.get(symbol, 1.0))
        assert [t for t, _ in found] == [t for t, _ in wanted] and [c for _, c in found] == pytest.approx([c for _, c in wanted]), symbol
        if symbol in RATIOS:
            one = resumed.kinds(symbol)["rebased"]
            assert (one["first_ms"], one["note"]) == (ms("2026-11-13T23:00:00"), f"prices x {RATIOS[symbol]:g}")
        else:
            assert "rebased" not in resumed.kinds(symbol)


def test_nothing_left_to_do_is_a_pass_that_says_so(runs: Any) -> None:
    """Every objective is met, and the exit code is 0."""
    *_, again = runs
    assert (again.code, again.result["verdict"], again.result["totals"]["skipped"]) == (0, "pass", len(RESUMED))
    assert "nothing was left to do" in again.out.lower() and again.result["totals"]["requests"] == 0
