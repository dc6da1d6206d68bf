"""Slots of the exchange and bars built from shorter ones, against pandas, published holidays, and what upstream itself would send."""

import datetime as dt
import functools
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tapecheck.backfill.calendar import REGULAR, SESSIONS, derive, slots
from tapecheck.sandbox import market
from tapecheck.vendor.bars import COLUMNS, CRYPTO, TIMEFRAMES, Bars, ticker_of, to_ms

# As the exchange published them (2025-01-09: a national day of mourning).
CLOSED = {
    2025: "01-01 01-09 01-20 02-17 04-18 05-26 06-19 07-04 09-01 11-27 12-25",
    2026: "01-01 01-19 02-16 04-03 05-25 06-19 07-03 09-07 11-26 12-25",
}
HALF_DAYS = {2025: "07-03 11-28 12-24", 2026: "11-27 12-24"}


def day_of(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


def milliseconds(times: pd.DatetimeIndex) -> Any:
    return times.as_unit("ms").asi8


def _by_pandas(year: int, timeframe: str) -> dict[str, tuple[list[int], list[bool]]]:
    """Walk the year day by day on New York's wall clock; return the starts of a session's slots, and which are of the regular one."""
    length = pd.Timedelta(seconds=TIMEFRAMES[timeframe].length_s)
    starts, regular, kept = list[Any](), list[Any](), {name: list[Any]() for name in SESSIONS}
    for day in pd.date_range(f"{year}-01-01", f"{year}-12-31", freq="B", tz="America/New_York"):
        if f"{day:%m-%d}" in CLOSED[year].split():
            continue
        is_half = f"{day:%m-%d}" in HALF_DAYS[year].split()
        night, end = day - pd.Timedelta(hours=4), day.replace(hour=20)
        every = pd.DatetimeIndex([day]) if timeframe == "1d" else pd.date_range(night, end, freq=length)
        opens, closes = day.replace(hour=9, minute=30), day.replace(hour=13 if is_half else 16)
        bounds = {"regular": (opens, closes), "extended": (day.replace(hour=4), day.replace(hour=17 if is_half else 20))}
        for name in SESSIONS:
            first, last = bounds.get(name, (night, end))
            kept[name].append((every < last) & (every + length > first))
        starts.append(milliseconds(every))
        regular.append((every < closes) & (every + length > opens))
    t, is_regular = np.concatenate(starts), np.concatenate(regular)
    masks = {name: np.concatenate(masks) for name, masks in kept.items()}
    return {name: (t[mask].tolist(), is_regular[mask].tolist()) for name, mask in masks.items()}


@pytest.mark.parametrize("timeframe", TIMEFRAMES)
@pytest.mark.parametrize("year", CLOSED)
def test_a_year_of_stocks_is_that_of_pandas(year: int, timeframe: str) -> None:
    """Every start and every regular session of a year with two changes of daylight saving, holidays and half days."""
    every = slots("AAPL", timeframe, day_of(f"{year}-01-01T05:00"), day_of(f"{year + 1}-01-01T05:00"))
    for sessions, (starts, regular) in _by_pandas(year, timeframe).items():
        found = every.of(sessions)
        assert found.t.tolist() == starts, sessions
        assert (found.session >= REGULAR).tolist() == regular, sessions


@pytest.mark.parametrize("timeframe", TIMEFRAMES)
def test_a_year_of_crypto_has_every_slot(timeframe: str) -> None:
    """Crypto knows neither weekends nor daylight saving."""
    found = slots("X:BTCUSD", timeframe, day_of("2026-01-01"), day_of("2027-01-01"))
    length = pd.Timedelta(seconds=TIMEFRAMES[timeframe].length_s)
    every = pd.date_range("2026-01-01", "2027-01-01", freq=length, tz="UTC", inclusive="left")
    assert found.t.tolist() == milliseconds(every).tolist() and (found.session >= REGULAR).all()


@pytest.mark.parametrize("symbol", ["AAPL", "X:BTCUSD"])
def test_only_whole_bars_inside_the_range_are_expected(symbol: str) -> None:
    """A bar that begins before the range or is not over at its end is not expected; nor is anything in an empty range."""
    start, end = day_of("2026-11-20T15:02"), day_of("2026-11-20T16:59")
    found = slots(symbol, "15m", start, end)
    assert found.t.tolist() == [to_ms(day_of("2026-11-20T15:15")) + i * 900_000 for i in range(6)]
    assert len(slots(symbol, "5m", end, start)) == 0
    assert len(slots(symbol, "4h", start, end)) == 0
    assert slots(symbol, "5m", start, end).t.dtype == np.int64


# ---- bars built from shorter ones ----

NOW_MS = to_ms(dt.datetime(2026, 11, 20, 15, 2, tzinfo=dt.UTC))


@functools.cache
def year(symbol: str) -> Bars:
    start = dt.datetime(2025, 11, 20, 5 if symbol not in CRYPTO else 0, tzinfo=dt.UTC)
    return market.page(symbol, 300, to_ms(start), NOW_MS, NOW_MS, 10**7)[0]


@pytest.mark.parametrize(("symbol", "zone"), [("SPY", "America/New_York"), ("ETH", "UTC")])
@pytest.mark.parametrize(("timeframe", "rule"), [("15m", "15min"), ("1h", "1h"), ("4h", "4h"), ("1d", "1D")])
def test_derived_bars_agree_with_pandas(symbol: str, zone: str, timeframe: str, rule: str) -> None:
    """An independent aggregation by wall clock gives the same bars, across daylight saving."""
    bars = year(symbol)
    frame = pd.DataFrame({name: getattr(bars, name) for name in COLUMNS})
    wall = pd.to_datetime(frame.t, unit="ms", utc=True).dt.tz_convert(zone).dt.tz_localize(None)  # no bar is in a doubled hour
    frame["money"] = frame.vw * frame.v
    groups = frame.groupby(wall.dt.floor(rule).dt.tz_localize(zone))
    derived = derive(bars, ticker_of(symbol), timeframe)
    assert derived.t.tolist() == milliseconds(groups.t.first().index).tolist()
    for name, how in (("o", "first"), ("h", "max"), ("l", "min"), ("c", "last"), ("v", "sum"), ("n", "sum")):
        assert np.allclose(getattr(derived, name), groups[name].agg(how).to_numpy(), rtol=1e-12), name
    assert np.allclose(derived.vw, (groups.money.sum() / groups.v.sum()).to_numpy(), rtol=1e-12)


def test_a_price_is_weighted_over_the_bars_that_have_one() -> None:
    """A bar without a price, or without a volume above zero, weighs nothing, where none is left there is no price, and none is rounded."""
    nan = float("nan")
    prices, volumes = [[1.1e-6, 1.3e-6, nan, 7.0, nan, 2.0, nan, 2.0], [1, 3, 9, -2, 4, 0, 0, 0]]
    t = 1_767_312_000_000 + 300_000 * np.array([0, 1, 2, 3, 4, 12, 13, 24])  # an hour with prices, then two without volume
    t[4] += 3 * 3_600_000
    order = np.argsort(t)
    ones = np.ones(8)
    bars = Bars(t=t[order], o=ones, h=ones, l=ones, c=ones, v=np.array(volumes, float)[order], vw=np.array(prices)[order], n=ones)
    derived = derive(bars, "X:BTCUSD", "1h")
    assert derived.v.tolist() == [11, 0, 0, 4]
    assert derived.vw.tolist() == pytest.approx([1.25e-6, nan, nan, nan], rel=1e-12, nan_ok=True)


def test_nothing_is_made_of_nothing() -> None:
    """Without bars there is no longer bar, and the base series is itself."""
    assert len(derive(Bars.empty(), "AAPL", "1d")) == 0
    assert derive(year("SPY"), "SPY", "5m").t.size == year("SPY").t.size
