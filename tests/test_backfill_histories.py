"""Whole histories, lawful and not: what the audit says of each, and that it says nothing of a lawful one."""

import dataclasses
import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from backfills import analysed, recording

from tapecheck.backfill.analysis import measured
from tapecheck.backfill.calendar import REGULAR, aggregate, day_of, derive, slots
from tapecheck.backfill.coverage import STATES, calendar
from tapecheck.backfill.examination import examine
from tapecheck.backfill.integrity import Counted
from tapecheck.backfill.plan import HistoryRange
from tapecheck.backfill.recording import SKIPPED, Job, Recording
from tapecheck.vendor.bars import COLUMNS, TIMEFRAMES, Bars, FloatArray, is_crypto, ticker_of, to_ms

HISTORY = HistoryRange(start=dt.date(2025, 9, 2), end=dt.date(2026, 3, 20))  # holidays, half days, two changes of daylight saving
Market = dict[str, Bars]
Symbols = Mapping[str, Market]


@lru_cache(maxsize=32)
def _made(symbol: str, seed: int, trades: float, thin: float, price: float, step: float) -> Market:
    """Make up a market of heavy-tailed steps and Poisson trades; `trades` are those of a regular slot, of others `thin` times as many.

    A stock's day is the vendor's: prices of the regular session, and some volume that no shorter bar has.
    """
    draw, ticker = np.random.default_rng(seed), ticker_of(symbol)
    start, last = HISTORY.range(ticker)
    every = slots(ticker, "5m", start, last + dt.timedelta(milliseconds=1)).of("extended")
    is_regular = every.session >= REGULAR
    n = draw.poisson(trades * np.where(is_regular, 1, thin) * np.exp(draw.normal(0, 0.5, len(every)))).astype(float)
    every, is_regular, n = every[n > 0], is_regular[n > 0], n[n > 0]
    night = np.diff(every.day, prepend=every.day[0] - 1) > 0
    steps = step * draw.standard_t(4, len(n)) * np.where(night, 10, 1)
    close = price * np.exp(np.cumsum(steps))
    opening = np.append(price, close[:-1]) * np.exp(np.where(night, 0.9 * steps, 0))
    high, low = (
        edge * np.exp(sign * np.abs(draw.normal(0, step / 2, len(n))))
        for edge, sign in ((np.maximum(opening, close), 1), (np.minimum(opening, close), -1))
    )
    o, h, l, c, vw = (np.round(one, 4) for one in (opening, high, low, close, (high + low + close) / 3))  # noqa: E741
    bars = Bars(t=every.t, o=o, h=h, l=l, c=c, v=np.round(n * draw.uniform(20, 80, len(n))), vw=vw, n=n)
    found = {name: derive(bars, ticker, name) for name in TIMEFRAMES}
    if not is_crypto(ticker):
        day = derive(bars[is_regular], ticker, "1d")
        whole = found["1d"][np.isin(found["1d"].t, day.t)]
        found["1d"] = replace(day, v=np.round(1.03 * whole.v), n=np.round(1.05 * whole.n), vw=np.clip(whole.vw, day.l, day.h))
    return found


def made(
    symbol: str, seed: int, *, trades: float = 400, thin: float = 0.05, price: float = 100.0, step: float = 0.001, only: str = ""
) -> Market:
    return {name: bars for name, bars in _made(symbol, seed, trades, thin, price, step).items() if name in (only.split() or TIMEFRAMES)}


def ms(text: str) -> int:
    return to_ms(dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC))


def cut(market: Market, first: str, last: str) -> Market:
    """Remove a stretch of time."""
    return {name: bars[(bars.t < ms(first)) | (bars.t >= ms(last))] for name, bars in market.items()}


def kept(market: Market, share: float) -> Market:
    """Keep bars at random."""
    return {name: bars[np.random.default_rng(7).random(len(bars)) < share] for name, bars in market.items()}


def split(market: Market, ratio: float, day: str, frames: str = "5m 15m 1h 4h 1d") -> Market:
    """Change the basis of some timeframes from a day on."""

    def changed(bars: Bars) -> Bars:
        by: FloatArray = np.where(bars.t >= ms(day), ratio, 1.0)
        return replace(bars, **{name: getattr(bars, name) / by for name in ("o", "h", "l", "c", "vw")}, v=bars.v * by)

    return {name: changed(bars) if name in frames.split() else bars for name, bars in market.items()}


def put(market: Market, name: str, when: str, count: int = 1, **values: Callable[[FloatArray], Any] | float) -> Market:
    """Change columns of the bars of a timeframe from a time on, to a value or by a function of theirs."""
    bars = market[name]
    rows = slice(at := int(np.searchsorted(bars.t, ms(when))), at + count)
    columns = {column: getattr(bars, column).copy() for column in COLUMNS}
    for column, value in values.items():
        columns[column][rows] = value(columns[column][rows]) if callable(value) else value
    return market | {name: Bars(**columns)}


def again(market: Market, name: str, when: str, **values: float) -> Market:
    """Store a bar a second time, with other values."""
    bars = market[name]
    at = int(np.searchsorted(bars.t, ms(when)))
    twice = bars[np.insert(np.arange(len(bars)), at, at)]
    return put(market | {name: twice}, name, when, **values)


def eastern(market: Market) -> Market:
    """Begin the days of crypto at 00:00 Eastern Time."""
    five = market["5m"]
    return {"5m": five, "1d": aggregate(five, day_of(five.t // 1000, "AAPL"), 100_000)}


def at_four(market: Market, until: str = "2030-01-01") -> Market:
    """Begin the days of crypto at 04:00 UTC, up to some day."""
    five = market["5m"]
    later = aggregate(five, (five.t // 1000 - 14400) // 86400 * 86400 + 14400, 86400)
    days = [later[later.t < ms(until)], market["1d"][market["1d"].t >= ms(until)]]
    return {"5m": five, "1d": Bars.joined(*days)} if len(days[1]) else {"5m": five, "1d": later}


def ticking(bars: Bars) -> Bars:
    """Give all bars but some the price of two ticks, and those three."""
    price = np.where(np.arange(len(bars)) % 40 == 7, 0.0003, 0.0002)
    return replace(bars, o=price, h=price, l=price, c=price, vw=price)


def thinned(market: Market, first: str, last: str) -> Market:
    """Leave a stretch of time only every other bar, with a trade or two."""
    found = {}
    for name, bars in market.items():
        is_within = (bars.t >= ms(first)) & (bars.t < ms(last))
        draw = np.random.default_rng(int(bars.v[0])).random(len(bars))
        found[name] = replace(bars, n=np.where(is_within, 2.0, bars.n))[~is_within | (draw < 0.5)]
    return cut(found, last, "2026-01-10T03:00")


def three(change: Callable[[Market], Market], only: str = "") -> Symbols:
    return {symbol: change(made(symbol, seed, only=only)) for seed, symbol in enumerate(("AAPL", "MSFT", "SPY"), 1)}


def judged(market: Symbols, sessions: str = "extended") -> Recording:
    """Audit a market, stretch after stretch, and return it as the recording of a run."""
    tally = Counted()
    for stretch in HISTORY.stretches():
        parts = []
        for symbol, frames in market.items():
            start, last = stretch.range(ticker_of(symbol))
            end = last + dt.timedelta(milliseconds=1)
            stored = {name: bars[(bars.t >= to_ms(start)) & (bars.t < to_ms(end))] for name, bars in frames.items()}
            parts += examine(symbol, stored, {}, start=start, end=end, sessions=sessions)
        tally.add(parts)
    jobs = [Job(symbol=symbol, timeframe=name, state=SKIPPED) for symbol, frames in market.items() for name in frames]
    found = recording([], jobs=jobs)
    context = dataclasses.replace(found.context, integrity=tally.integrity())
    return dataclasses.replace(found, context=context, tables={**found.tables, "days": tally.days()})


def said(found: Recording) -> dict[str, str]:
    return {one.name: one.finding for one in analysed(found).findings}


AAPL = made("AAPL", 1)
LAWFUL: dict[str, Callable[[], Symbols]] = {
    "liquid stocks and a coin": lambda: three(dict) | {"BTC": made("BTC", 4, trades=800)},
    "a stock that seldom trades": lambda: {"ZZZ": made("ZZZ", 4, trades=2, thin=0.02)},
    "a stock that trades less than once a day": lambda: {"ZZZ": made("ZZZ", 6, trades=0.01, thin=0.02)},
    "twenty that lack a slot in fifty": lambda: {
        name: made(name, seed, trades=6, only="5m") for seed, name in enumerate((f"Q{letter}" for letter in "ABCDEFGHIJKLMNOPQRST"), 20)
    },
    "a penny stock": lambda: {"PENY": made("PENY", 5, trades=30, price=0.12, step=0.01)},
    "prices of a few ticks": lambda: {"TICK": {name: ticking(bars) for name, bars in made("TICK", 8, trades=2, only="5m").items()}},
    "a coin that seldom trades": lambda: {"ADA": made("ADA", 6, trades=5)},
    "days of crypto in Eastern Time": lambda: {"BTC": eastern(made("BTC", 4))},
    "days of crypto from 04:00": lambda: {"BTC": at_four(made("BTC", 4))},
    "a fall by a quarter": lambda: {"AAPL": split(AAPL, 4 / 3, "2025-12-10T05:00")},
    "a halt of forty minutes": lambda: {"AAPL": cut(made("AAPL", 1, only="5m"), "2026-01-09T15:00", "2026-01-09T15:40")},
    "days alone": lambda: three(dict, only="1d"),
    "hours without a number of trades": lambda: {"AAPL": put(made("AAPL", 1, only="1h"), "1h", "2025-09-02", 9999, n=np.nan)},
    "volumes in fractions": lambda: {"AAPL": {name: replace(bars, v=bars.v * 0.37) for name, bars in AAPL.items()}},
}


@pytest.mark.parametrize("name", LAWFUL)
def test_a_lawful_history_raises_nothing(name: str) -> None:
    """Half days, holidays, daylight saving, little trade, other days of crypto, official days and bad news are no findings."""
    found = judged(LAWFUL[name]())
    assert said(found) == {}
    assert measured(analysed(found).summary, "longest_gap_days").value == (0 if "less than once" not in name else 4)


CLOSED = "perhaps closed: no series has a bar, or only a few trades (exchange_calendars "
FAULTY: dict[str, tuple[Callable[[], Symbols], dict[str, str]]] = {
    "the first two thirds are missing": (
        lambda: three(dict) | {"AAPL": cut(AAPL, "2025-09-01", "2026-01-15T05:00")},
        {"absent_days": "AAPL (5m, 15m, 1h, 4h, 1d) 94 days, 2025-09-02 to 2026-01-14 before its first bar"},
    ),
    "one day is missing": (
        lambda: three(dict) | {"AAPL": cut(AAPL, "2026-01-09T05:00", "2026-01-10T05:00")},
        {"absent_days": "AAPL (5m, 15m, 1h, 4h, 1d) 1 day, 2026-01-09"},
    ),
    "most hours are missing": (lambda: {"AAPL": kept(made("AAPL", 1, only="1h"), 0.4)}, {"suspected_gap_bars": "588 in AAPL 1h"}),
    "an hour here and there is missing": (lambda: {"AAPL": kept(made("AAPL", 1, only="1h"), 0.97)}, {"suspected_gap_bars": "in AAPL 1h"}),
    "most days are missing": (lambda: {"AAPL": kept(made("AAPL", 1, only="1d"), 0.4)}, {"absent_days": "AAPL (1d) 83 days in 33 ranges"}),
    "half a session is missing": (
        lambda: {"AAPL": cut(made("AAPL", 1, only="5m"), "2026-01-09T14:30", "2026-01-09T18:00")},
        {"suspected_gap_bars": "42 in AAPL 5m (2026-01-09 14:30 to 2026-01-09 17:55 UTC)"},
    ),
    "a minute that the hour has": (
        lambda: {"AAPL": AAPL | {"5m": cut(AAPL, "2026-01-09T15:00", "2026-01-09T15:05")["5m"]}},
        {"upstream_gap_bars": "1 in AAPL 5m (2026-01-09 15:00 UTC)"},
    ),
    "the same minute in two": (
        lambda: three(lambda market: cut(market, "2026-01-09T15:00", "2026-01-09T15:05"), "5m") | {"SPY": made("SPY", 3, only="5m")},
        {"upstream_gap_bars": "2 in AAPL 5m (2026-01-09 15:00 UTC), MSFT 5m", "shared_gaps": ": 1"},
    ),
    "another company": (
        lambda: three(dict) | {"AAPL": split(cut(AAPL, "2025-10-01T04:00", "2025-12-20T05:00"), 7.3, "2025-12-01")},
        {"renamed_ticker": "AAPL has no bar from 2025-10-01 to 2025-12-19", "absent_days": "57 days, 2025-10-01 to 2025-12-19"},
    ),
    "a split of one basis and another": (
        lambda: {"AAPL": split(AAPL, 4, "2025-12-10T05:00")},
        {"suspected_split": "AAPL (5m, 15m, 1h, 4h, 1d) jumps on 2025-12-10 from"},
    ),
    "a reverse split": (lambda: {"AAPL": split(AAPL, 0.1, "2026-02-17T05:00")}, {"suspected_split": "as by a reverse split of about 10"}),
    "a split in the days alone": (
        lambda: {"AAPL": split(AAPL, 4, "2025-12-10T05:00", "1d")},
        {"other_level_bars": "68 in AAPL 1d", "suspected_split": "AAPL (1d) jumps on 2025-12-10"},
    ),
    "four hours at another level": (
        lambda: {"AAPL": split(AAPL, 2.5, "2025-01-01", "4h")},
        {"other_level_bars": "552 in AAPL 4h", "volume_unlike_parts_bars": "552 in AAPL 4h"},
    ),
    "an hour above its day": (
        lambda: {"AAPL": put(made("AAPL", 1, only="1h 1d"), "1h", "2025-11-05T17:00", h=lambda high: 1.05 * high)},
        {"high_unlike_parts_bars": "1 in AAPL 1d (2025-11-05 05:00 UTC)"},
    ),
    "an hour below its day": (
        lambda: {"AAPL": put(made("AAPL", 1, only="1h 1d"), "1h", "2025-11-05T17:00", l=lambda low: 0.95 * low)},
        {"low_unlike_parts_bars": "1 in AAPL 1d (2025-11-05 05:00 UTC)"},
    ),
    "a day of less volume than its hours": (
        lambda: {"AAPL": put(made("AAPL", 1, only="1h 1d"), "1d", "2025-11-05", v=lambda volume: 0.7 * volume)},
        {"volume_unlike_parts_bars": "1 in AAPL 1d (2025-11-05 05:00 UTC)"},
    ),
    "a quarter of an hour that opens elsewhere": (
        lambda: {"BTC": put(made("BTC", 4, only="5m 15m"), "15m", "2025-11-05T17:00", o=lambda price: price + 0.002)},
        {"open_unlike_parts_bars": "1 in BTC 15m (2025-11-05 17:00 UTC)"},
    ),
    "weighted prices beyond the high, and below zero": (
        lambda: {"AAPL": put(put(AAPL, "5m", "2025-11-05T17:00", vw=-5.0), "1h", "2025-11-05T18:00", 3, vw=lambda price: 1.2 * price)},
        {"vwap_outside_range_bars": "4 in AAPL 5m (2025-11-05 17:00 UTC), AAPL 1h (2025-11-05 18:00 to 2025-11-05 20:00 UTC)"},
    ),
    "prices of zero and less": (
        lambda: {"AAPL": put(put(AAPL, "5m", "2025-11-05T17:00", l=0.0), "1h", "2025-11-05T18:00", l=-1.0)},
        {"not_positive_bars": "2 in AAPL 5m (2025-11-05 17:00 UTC), AAPL 1h (2025-11-05 18:00 UTC)"},
    ),
    "numbers of trades": (
        lambda: {"AAPL": put(put(made("AAPL", 1, only="1h"), "1h", "2025-11-05T17:00", n=-3), "1h", "2025-11-05T18:00", n=2.5)},
        {"negative_count_bars": "1 in AAPL 1h (2025-11-05 17:00 UTC)"},
    ),
    "a high ten times its neighbours": (
        lambda: {"AAPL": put(made("AAPL", 1, only="5m"), "5m", "2025-11-05T17:00", h=lambda high: 10 * high)},
        {"spike_bars": "suspected spikes, far from all bars beside them: 1 in AAPL 5m (2025-11-05 17:00 UTC)"},
    ),
    "a day whose low is half": (
        lambda: {"AAPL": put(made("AAPL", 1, only="1d"), "1d", "2025-11-05", l=lambda low: low / 2)},
        {"spike_bars": "1 in AAPL 1d (2025-11-05 05:00 UTC)"},
    ),
    "two bars of a coin three times as high": (
        lambda: {"BTC": put(made("BTC", 4, only="5m"), "5m", "2025-11-05T17:00", 2, h=lambda high: 3 * high)},
        {"spike_bars": "2 in BTC 5m (2025-11-05 17:00 to 2025-11-05 17:05 UTC)"},
    ),
    "a bar twice": (lambda: {"AAPL": again(AAPL, "1h", "2025-11-05T17:00")}, {"duplicate_bars": "1 in AAPL 1h (2025-11-05 17:00 UTC)"}),
    "a bar twice with another volume": (
        lambda: {"AAPL": again(made("AAPL", 1, only="1h"), "1h", "2025-11-05T17:00", v=7.0)},
        {"contradicting_bars": "with other values: 1 in AAPL 1h (2025-11-05 17:00 UTC)"},
    ),
    "a day without a bar of any stock": (
        lambda: three(lambda market: cut(market, "2026-01-09T05:00", "2026-01-10T03:00")) | {"BTC": made("BTC", 4)},
        {"perhaps_closed_bars": CLOSED},
    ),
    "an early close": (
        lambda: three(lambda market: cut(market, "2026-01-09T18:00", "2026-01-10T03:00"), "5m"),
        {"perhaps_closed_bars": CLOSED},
    ),
    "an early close with a few trades after it": (
        lambda: three(lambda market: thinned(market, "2026-01-09T18:00", "2026-01-09T22:00"), "5m"),
        {"perhaps_closed_bars": CLOSED},
    ),
    "an afternoon that two of three lack": (
        lambda: three(lambda market: cut(market, "2026-01-09T18:00", "2026-01-10T03:00"), "5m") | {"SPY": made("SPY", 3, only="5m")},
        {"upstream_gap_bars": "72 in AAPL 5m (2026-01-09 18:00 to 2026-01-09 20:55 UTC), MSFT 5m", "shared_gaps": ": 36"},
    ),
    "two weeks without any stock are no closure": (
        lambda: three(lambda market: cut(market, "2026-01-05T05:00", "2026-01-17T03:00"), "1d"),
        {"absent_days": "AAPL (1d) 10 days, 2026-01-05 to 2026-01-16"},
    ),
    "days of crypto that begin at another hour": (
        lambda: {"BTC": at_four(made("BTC", 4, only="5m 1d"), "2025-12-01")},
        {"moved_origin": "BTC (1d) begins its days at 0 h UTC from 2025-12-01 on, before at 4 h"},
    ),
}


@pytest.mark.parametrize("name", FAULTY)
def test_a_faulty_history_is_named_and_nothing_else_is(name: str) -> None:
    """Each fault by its kind, symbol, timeframe and time, and no fault that is not there."""
    build, expected = FAULTY[name]
    found = said(judged(build()))
    assert found.keys() == expected.keys(), found
    assert [text for kind, text in expected.items() if text not in found[kind]] == [], found


def test_coverage_can_be_missed() -> None:
    """The worst series decides each metric, and a closed day is no gap."""
    market = three(lambda market: cut(market, "2026-01-09T05:00", "2026-01-10T03:00"), "1h 1d")
    whole = analysed(judged(market)).summary
    assert [measured(whole, metric).value for metric in ("coverage", "longest_gap_days", "late_start_days")] == [1, 0, 0]
    late = market | {"MSFT": cut(cut(market["MSFT"], "2025-09-01", "2025-09-05T04:00"), "2025-10-06T04:00", "2025-10-14T04:00")}
    summary = analysed(judged(late)).summary
    series = summary.coverage.series["MSFT"]["1h"]
    hours = 137 * 16 - 2 * 3  # two half days
    assert (series.expected, series.present) == (hours, hours - 9 * 16)
    metrics = {"coverage": 1 - 9 * 16 / hours, "longest_gap_days": 6, "late_start_days": 3, "early_end_days": 0, "bars_per_day": 1}
    assert {metric: measured(summary, metric).value for metric in metrics} == pytest.approx(metrics)
    assert measured(summary, "coverage").n == 6
    assert series.first_bar == dt.datetime(2025, 9, 5, 8, tzinfo=dt.UTC) and series.longest_gap is not None
    assert (series.longest_gap.first, series.longest_gap.last) == (dt.date(2025, 10, 6), dt.date(2025, 10, 13))


@pytest.mark.parametrize(("sessions", "outside", "expected"), [("regular", 63, 77), ("extended", 0, 192), ("overnight", 0, 287)])
def test_bars_outside_the_sessions_are_counted_and_not_wrong(sessions: str, outside: int, expected: int) -> None:
    """Before, in and after the regular session; a Sunday evening belongs to the night before Monday."""
    found = judged({"AAPL": made("AAPL", 1, thin=0.9)}, sessions)
    assert said(found) == {}
    (day,) = [row for row in found.tables["days"].to_pylist() if row["timeframe"] == "5m" and row["day"] == 20_402]  # 2025-11-10
    integrity = found.context.integrity
    assert integrity and (integrity.outside > 0) == (sessions == "regular") and day["outside"] >= outside and day["expected"] >= expected


def test_the_calendar_has_a_state_a_day() -> None:
    """Present in all timeframes, partial in one, absent in all, or closed."""
    market = three(lambda market: cut(market, "2026-01-09T05:00", "2026-01-10T03:00"), "1h 1d")
    market = market | {"SPY": cut(market["SPY"], "2025-09-09T04:00", "2025-09-10T04:00")}
    market["SPY"]["1h"] = cut(market["SPY"], "2025-09-11T15:00", "2025-09-11T19:00")["1h"]
    found = calendar(judged(market).tables["days"])
    rows = {symbol: [STATES[state] for state in states] for symbol, states in zip(found.symbols, found.states.tolist(), strict=True)}
    assert found.first == dt.date(2025, 9, 2) and set(rows["AAPL"]) == {"present", "closed"}
    assert rows["SPY"][5:10] == ["closed", "present", "absent", "present", "partial"]
    assert rows["SPY"][(dt.date(2026, 1, 9) - found.first).days] == "closed"
