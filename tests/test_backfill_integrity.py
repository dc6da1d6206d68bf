"""Holes and defects planted into a made-up market: each is found, counted and blamed on who made it, and nothing else is."""

import datetime as dt
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tapecheck.backfill.calendar import derive
from tapecheck.backfill.examination import Examined, examine
from tapecheck.backfill.integrity import Counted, Integrity
from tapecheck.sandbox import market
from tapecheck.vendor.bars import TIMEFRAMES, Bars, IntArray, ticker_of, to_ms

START, END = dt.datetime(2025, 10, 27, 4, tzinfo=dt.UTC), dt.datetime(2025, 12, 1, 5, tzinfo=dt.UTC)  # winter time, a half day
NOW_MS = to_ms(dt.datetime(2026, 11, 20, 15, 2, tzinfo=dt.UTC))
Market = dict[str, Bars]


@lru_cache(maxsize=64)
def _five(symbol: str, start: dt.datetime, end: dt.datetime) -> Bars:
    return market.page(symbol, 300, to_ms(start), to_ms(end) - 1, NOW_MS, 10**7)[0]


def market_of(symbol: str, start: dt.datetime = START, end: dt.datetime = END) -> Market:
    """Return every timeframe of a symbol."""
    return {name: derive(_five(symbol, start, end), ticker_of(symbol), name) for name in TIMEFRAMES}


def times_of(stored: Market) -> dict[str, list[IntArray]]:
    """Return the record of a run in which all that is stored was received."""
    return {name: [bars.t] for name, bars in stored.items()}


def checked(*parts: Iterable[Examined]) -> Integrity:
    """Judge some symbols."""
    tally = Counted()
    tally.add([series for part in parts for series in part])
    return tally.integrity("sum")


def of(symbol: str, stored: Market, received: dict[str, list[IntArray]] | None = None, **window: dt.datetime) -> list[Examined]:
    """Examine one symbol in the usual window."""
    return examine(symbol, stored, times_of(stored) if received is None else received, **({"start": START, "end": END} | window))


def kinds(found: Integrity) -> dict[str, int]:
    """Return how many bars of each kind of finding there are."""
    counts: dict[str, int] = {}
    for finding in found.findings:
        counts[finding.kind] = counts.get(finding.kind, 0) + finding.bars
    return counts


def without(bars: Bars, rows: Any) -> Bars:
    """Return the bars without some rows."""
    return bars[np.setdiff1d(np.arange(len(bars)), rows)]


timeframes = st.sampled_from(list(TIMEFRAMES))
symbols = st.sampled_from(["AAPL", "ASML", "BTC"])


def rows_of(bars: Bars, name: str) -> st.SearchStrategy[list[int]]:
    """Draw rows of bars that lie whole in the usual window."""
    length_ms = TIMEFRAMES[name].length_s * 1000
    first, end = np.searchsorted(bars.t, to_ms(START)), np.searchsorted(bars.t, to_ms(END) - length_ms, side="right")
    return st.lists(st.integers(int(first), int(end) - 1), min_size=1, max_size=20, unique=True)


@settings(max_examples=12, deadline=None)
@given(symbol=symbols, name=timeframes, data=st.data())
def test_a_bar_that_was_received_and_is_not_stored_is_lost(symbol: str, name: str, data: st.DataObject) -> None:
    """Exactly the removed bars are lost, in their own series, and no other gap changes its class."""
    whole = market_of(symbol)
    rows = data.draw(rows_of(whole[name], name))
    series = {part.timeframe: part for part in of(symbol, whole | {name: without(whole[name], rows)}, times_of(whole))}
    assert series[name].lost.tolist() == sorted(whole[name].t[rows].tolist())
    for before in of(symbol, whole):
        assert series[before.timeframe].no_trade.tolist() == before.no_trade.tolist()
        assert len(series[before.timeframe].upstream_gaps) == 0
        assert len(series[before.timeframe].lost) == (len(rows) if before.timeframe == name else 0)


@settings(max_examples=12, deadline=None)
@given(symbol=symbols, name=timeframes, data=st.data())
def test_a_bar_that_upstream_never_sent_is_its_hole(symbol: str, name: str, data: st.DataObject) -> None:
    """The removed bars are upstream's, proven by bars of other timeframes; beside them only gaps in the same longer bar."""
    assume(name != "4h" or symbol == "BTC")  # the day of a stock proves them only by a large excess
    whole = market_of(symbol)
    rows = data.draw(rows_of(whole[name], name))
    removed = whole[name].t[rows]
    parts = of(symbol, whole | {name: without(whole[name], rows)})
    part = next(part for part in parts if part.timeframe == name)
    before = next(part for part in of(symbol, whole) if part.timeframe == name)
    assert set(removed.tolist()) <= set(part.upstream_gaps.tolist())
    assert sorted([*part.no_trade, *part.upstream_gaps]) == sorted([*before.no_trade, *removed])
    near = before.no_trade // 900_000 if name == "5m" else np.empty(0, np.int64)  # cannot be told from a removed one
    assert len(part.upstream_gaps) - len(rows) == np.isin(near, removed // 900_000).sum()
    found = checked(parts)
    assert kinds(found) == {"upstream_gap": len(part.upstream_gaps)} and found.lost == 0
    assert found.expected == found.present + found.no_trade + found.upstream_gaps


def test_the_shortest_longer_bar_decides_and_wider_ones_only_where_it_is_missing() -> None:
    """With three minutes and their quarter-hour gone the hour still proves them; no other gap of the hour's or the day's is blamed."""
    whole = market_of("ASML")
    at = int(np.flatnonzero(whole["15m"].t == to_ms(dt.datetime(2025, 11, 5, 15, tzinfo=dt.UTC)))[0])
    quarter = whole["15m"].t[at]
    rows = np.flatnonzero(whole["5m"].t // 900_000 == quarter // 900_000)
    stored = whole | {"5m": without(whole["5m"], rows), "15m": without(whole["15m"], [at])}
    parts = {part.timeframe: part for part in of("ASML", stored)}
    assert parts["5m"].upstream_gaps.tolist() == [quarter, quarter + 300_000, quarter + 600_000]
    assert parts["15m"].upstream_gaps.tolist() == [quarter]
    assert [len(parts[name].upstream_gaps) for name in ("1h", "4h", "1d")] == [0, 0, 0]


def test_what_a_shorter_bar_explains_a_longer_one_proves_not_again() -> None:
    """A quarter without any trade stays so, although the hour has more volume than its parts: another quarter explains it."""
    five = market_of("AAPL")["5m"]
    quarter = to_ms(dt.datetime(2025, 11, 5, 15, tzinfo=dt.UTC))
    five = without(five, np.flatnonzero(five.t // 900_000 == quarter // 900_000))
    longer = {name: derive(five, "AAPL", name) for name in TIMEFRAMES if name != "5m"}
    row = int(np.searchsorted(five.t, quarter + 900_000))
    part = of("AAPL", {"5m": without(five, [row])} | longer)[0]
    assert part.upstream_gaps.tolist() == [five.t[row]] and quarter in part.no_trade


def test_the_last_bits_of_a_sum_prove_nothing() -> None:
    """Volumes in fractions add up to the longer bar's only but for rounding; that is no trade."""
    five = market_of("ASML")["5m"]
    five = replace(five, v=five.v * 0.1)
    longer = {name: derive(five, "ASML", name) for name in TIMEFRAMES if name != "5m"}
    longer = {name: replace(bars, v=np.nextafter(bars.v, np.inf)) for name, bars in longer.items()}
    assert of("ASML", {"5m": five} | longer)[0].upstream_gaps.tolist() == []


def test_trades_alone_prove_a_hole() -> None:
    """Where volumes are rounded away, a longer bar with more trades than its parts still proves that one is missing."""
    whole = market_of("AAPL")
    five = whole["5m"]
    five = replace(five, v=np.where(np.arange(len(five)) == 500, 0.0, five.v))
    longer = {name: derive(replace(five, v=np.maximum(five.v, 1e-300)), "AAPL", name) for name in ("15m", "1h", "4h", "1d")}
    parts = of("AAPL", {"5m": without(five, [500])} | longer)
    assert five.t[500] in parts[0].upstream_gaps


def test_a_longer_bar_that_began_before_the_range_proves_nothing() -> None:
    """The day's volume before the range is no volume of a gap inside it, nor is what came after its end."""
    whole = market_of("AAPL")
    start, end = dt.datetime(2025, 11, 5, 17, 2, tzinfo=dt.UTC), dt.datetime(2025, 11, 12, 18, 7, tzinfo=dt.UTC)
    stored = {name: bars[(bars.t >= to_ms(start)) & (bars.t <= to_ms(end)) | (name == "1d")] for name, bars in whole.items()}
    stored["5m"] = stored["5m"][stored["5m"].t <= to_ms(end) - 300_000]
    found = checked(of("AAPL", stored, start=start, end=end))
    assert (found.findings, found.lost, found.upstream_gaps) == ((), 0, 0)


def _swapped(bars: Bars, i: int) -> Bars:
    rows = np.arange(len(bars))
    rows[[i, i + 1]] = rows[[i + 1, i]]
    return bars[rows]


def _with(name: str, value: float) -> Callable[[Bars, int], Bars]:
    def change(bars: Bars, i: int) -> Bars:
        column = getattr(bars, name).copy()
        column[i] = value
        return replace(bars, **{name: column})

    return change


DEFECTS: dict[str, tuple[Callable[[Bars, int], Bars], str]] = {
    "a bar twice": (lambda bars, i: bars[np.insert(np.arange(len(bars)), i, i)], "duplicate"),
    "two bars swapped": (_swapped, "out_of_order"),
    "negative volume": (_with("v", -1.0), "negative_volume"),
    "high below low": (lambda bars, i: _with("h", bars.l[i] - 1)(_with("l", bars.h[i] + 1)(bars, i), i), "high_below_low"),
    "open above high": (lambda bars, i: _with("o", bars.h[i] + 0.01)(bars, i), "outside_range"),
    "close below low": (lambda bars, i: _with("c", bars.l[i] - 0.01)(bars, i), "outside_range"),
    "close above high": (lambda bars, i: _with("c", bars.h[i] + 0.01)(bars, i), "outside_range"),
    "open below low": (lambda bars, i: _with("o", bars.l[i] - 0.01)(bars, i), "outside_range"),
    "no open": (_with("o", np.nan), "not_finite"),
    "endless close": (lambda bars, i: _with("h", np.inf)(_with("c", np.inf)(bars, i), i), "not_finite"),
    "no volume": (_with("v", np.nan), "not_finite"),
}


@settings(max_examples=2, deadline=None)
@given(i=st.integers(0, 2000))
@pytest.mark.parametrize("plant", DEFECTS)
def test_each_planted_defect_is_found_once(plant: str, i: int) -> None:
    """One wrong bar is one finding of its kind at its time, and not of another kind."""
    change, kind = DEFECTS[plant]
    bars = market_of("AAPL")["5m"]
    found = checked(of("AAPL", {"5m": change(bars, i)}))
    assert [(f.symbol, f.timeframe, f.kind, f.bars, f.first_ms) for f in found.findings] == [("AAPL", "5m", kind, 1, bars.t[i])]
    assert found.duplicates == (kind == "duplicate") and found.lost == 0


@pytest.mark.parametrize("move_s", [60, 86400 * 5], ids=["off the grid", "a closed day"])
def test_a_start_that_no_session_has_is_found(move_s: int) -> None:
    """Its own slot is a gap, and the moved bar is off the calendar: expected where upstream sent it so, else extra."""
    bars = market_of("AAPL")["5m"]
    monday = np.searchsorted(bars.t, to_ms(dt.datetime(2025, 11, 3, 15, tzinfo=dt.UTC)))
    t = bars.t.copy()
    t[monday] += move_s * 1000
    order = np.argsort(t)
    moved = replace(bars, t=t)[order]
    assert kinds(checked(of("AAPL", {"5m": moved}))) == {"off_calendar": 1}
    lost = checked(of("AAPL", {"5m": bars}, {"5m": [moved.t]}))
    assert (lost.lost, lost.expected) == (1, lost.present + lost.no_trade + 1)
    unknown = checked(of("AAPL", {"5m": moved}, {}))
    assert kinds(unknown) == {"off_calendar": 1} and unknown.expected == unknown.present + unknown.no_trade


def test_bars_of_another_symbol_are_found_and_both_are_named() -> None:
    """A page of MSFT stored as AAPL is what MSFT has at the same times; the data cannot say whose it is."""
    aapl, msft = market_of("AAPL")["5m"], market_of("MSFT")["5m"]
    shared = np.isin(msft.t, aapl.t[1000:1100])
    mixed = replace(aapl, **{n: getattr(aapl, n).copy() for n in ("o", "h", "l", "c", "v", "vw", "n")})
    for column in ("o", "h", "l", "c", "v", "vw", "n"):
        getattr(mixed, column)[np.isin(aapl.t, msft.t[shared])] = getattr(msft, column)[shared]
    found = checked(of("AAPL", {"5m": mixed}), of("MSFT", {"5m": msft}))
    moving = int((msft[shared].h > msft[shared].l).sum())
    assert moving > 90
    days = replace(aapl, t=aapl.t + 7 * 86_400_000)  # the same prices a week later are no other symbol's
    assert "wrong_symbol" not in kinds(checked(of("AAPL", {"5m": aapl}), of("MSFT", {"5m": days})))
    assert [(f.symbol, f.kind, f.bars) for f in found.findings] == [("AAPL", "wrong_symbol", moving), ("MSFT", "wrong_symbol", moving)]


ALIKE = {  # hour in UTC, symbols that lack a minute of it, trades in each of their bars; gaps
    "three": (15, ("AAPL", "MSFT", "SPY"), 5, 3),
    "two": (15, ("AAPL", "MSFT"), 5, 0),
    "two between hundreds of trades": (15, ("AAPL", "MSFT"), 300, 2),
    "one between hundreds of trades": (15, ("AAPL",), 300, 0),
    "before the session": (10, ("AAPL", "MSFT", "SPY"), 300, 0),
    "with crypto": (15, ("AAPL", "BTC", "SPY"), 5, 3),
}


@pytest.mark.parametrize("case", ALIKE)
def test_a_minute_missing_in_several_symbols_is_upstreams(case: str) -> None:
    """Three symbols without trade in the same regular minute, or two busy ones, are blamed on upstream, with no other bar to prove it."""
    hour_utc, symbols, trades, gaps = ALIKE[case]
    minute = to_ms(dt.datetime(2025, 11, 5, hour_utc, 5, tzinfo=dt.UTC))
    stored = {symbol: {"5m": market_of(symbol)["5m"]} for symbol in ("AAPL", "MSFT", "SPY", "BTC", "QQQ")}
    for symbol in symbols:
        bars = without(stored[symbol]["5m"], np.flatnonzero(stored[symbol]["5m"].t == minute))
        stored[symbol]["5m"] = replace(bars, n=np.full(len(bars), float(trades)))
    found = checked(*(of(symbol, bars) for symbol, bars in stored.items()))
    assert found.upstream_gaps == gaps == sum(kinds(found).values())
    assert [(h.timeframe, h.t_ms, set(h.symbols)) for h in found.shared_gaps] == ([("5m", minute, set(symbols))] if gaps else [])


def test_what_we_lost_is_never_blamed_on_upstream() -> None:
    """The same minute of several symbols, received and not stored, is lost three times and flagged on nobody else."""
    minute = to_ms(dt.datetime(2025, 11, 5, 15, 5, tzinfo=dt.UTC))
    parts = []
    for symbol in ("AAPL", "MSFT", "SPY"):
        whole = market_of(symbol)
        parts.append(of(symbol, whole | {"5m": without(whole["5m"], np.flatnonzero(whole["5m"].t == minute))}, times_of(whole)))
    found = checked(*parts)
    assert (found.lost, found.upstream_gaps, found.shared_gaps) == (3, 0, ())
    assert {f.kind for f in found.findings} == {"lost"} and {f.first_ms for f in found.findings} == {minute}


def test_a_lost_bar_is_no_proof_against_upstream() -> None:
    """In a quarter of an hour with one gap and one bar that we lost, the missing volume is the lost bar's: the gap stays no trade."""
    whole = market_of("ASML")
    five, gaps = whole["5m"], of("ASML", whole)[0].no_trade
    beside = np.flatnonzero(np.isin(five.t // 900_000, gaps // 900_000))[:50]
    part = of("ASML", whole | {"5m": without(five, beside)}, times_of(whole))[0]
    assert len(beside) == 50 and part.lost.tolist() == five.t[beside].tolist()
    assert (part.no_trade.tolist(), len(part.upstream_gaps)) == (gaps.tolist(), 0)


def test_rows_that_are_gone_are_counted_over_all_stretches() -> None:
    """Of the acknowledged rows those that are stored, or lost, are subtracted once each; the others have vanished."""
    bars, middle = market_of("AAPL")["5m"], dt.datetime(2025, 11, 8, 5, tzinfo=dt.UTC)
    first, second = bars[bars.t < to_ms(middle)], bars[bars.t >= to_ms(middle)]
    tally = Counted()
    tally.add(of("AAPL", {"5m": first[5:]}, {}, end=middle))
    tally.add(of("AAPL", {"5m": second[:-3]}, {"5m": [second.t[-3:]]}, start=middle))
    found = tally.integrity("", {("AAPL", "5m"): len(bars)})
    assert (found.vanished, found.lost, kinds(found)) == (5, 3, {"lost": 3, "vanished": 5})


def test_older_days_of_crypto_begin_at_four() -> None:
    """The vendor's older samples begin a crypto day at 04:00 UTC; stored or received so, it is the day's bar."""
    days = market_of("BTC", START.replace(hour=0), END.replace(hour=0))["1d"]
    window = {"start": START.replace(hour=0), "end": END.replace(hour=0)}
    older = replace(days, t=days.t + 4 * 3600 * 1000)
    for stored, sent in ((older, days), (days, older)):
        found = checked(of("BTC", {"1d": stored}, {"1d": [sent.t]}, **window))
        assert (found.findings, found.expected, found.present) == ((), 35, 35)


def test_nothing_stored_of_what_was_received_is_all_lost() -> None:
    """An empty series beside its record is lost as a whole, and an empty range expects nothing."""
    whole = market_of("AAPL")
    for stored in ({"5m": Bars.empty()}, {}):
        found = checked(of("AAPL", stored, {"5m": [whole["5m"].t]}))
        assert (found.lost, found.present) == (len(whole["5m"]), 0) and found.expected == found.lost + found.no_trade
    nothing = checked(of("AAPL", {"5m": Bars.empty()}, {}, start=END, end=END))
    assert (nothing.expected, nothing.findings) == (0, ())
    assert Counted().integrity().expected == 0
