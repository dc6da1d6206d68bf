"""Longer bars built from 5-minute bars, against pandas and against what upstream itself would send."""

import datetime as dt

import numpy as np
import pandas as pd
import pytest

from tapecheck.backfill.bars import COLUMNS, Bars, to_ms
from tapecheck.backfill.calendar import derive
from tapecheck.sandbox import market
from tapecheck.tickers import CRYPTO

NOW_MS = to_ms(dt.datetime(2026, 11, 20, 15, 2, tzinfo=dt.UTC))
WIDTHS = {"15m": 900, "1h": 3600, "4h": 14400, "1d": 86400}


def year(symbol: str, width: int = 300) -> Bars:
    start = dt.datetime(2025, 11, 20, 5 if symbol not in CRYPTO else 0, tzinfo=dt.UTC)
    return market.page(symbol, width, to_ms(start), NOW_MS, NOW_MS, 10**7)[0]


@pytest.mark.parametrize("timeframe", WIDTHS)
@pytest.mark.parametrize("symbol", ["AAPL", "BTC"])
def test_derived_bars_are_those_that_upstream_sends(symbol: str, timeframe: str) -> None:
    """Every column of a year with two changes of daylight saving and its half days is equal to the last bit."""
    derived, sent = derive(year(symbol), symbol, timeframe), year(symbol, WIDTHS[timeframe])
    assert len(sent) > 200
    for name in COLUMNS:
        assert np.array_equal(getattr(derived, name), getattr(sent, name)), name


@pytest.mark.parametrize(("symbol", "zone"), [("SPY", "America/New_York"), ("ETH", "UTC")])
@pytest.mark.parametrize(("timeframe", "rule"), [("15m", "15min"), ("1h", "1h"), ("4h", "4h"), ("1d", "1D")])
def test_derived_bars_agree_with_pandas(symbol: str, zone: str, timeframe: str, rule: str) -> None:
    """An independent aggregation by wall clock gives the same bars, across daylight saving."""
    bars = year(symbol)
    frame = pd.DataFrame({name: getattr(bars, name) for name in COLUMNS})
    wall = pd.to_datetime(frame.t, unit="ms", utc=True).dt.tz_convert(zone).dt.tz_localize(None)  # no bar is in a doubled hour
    frame["money"] = frame.vw * frame.v
    groups = frame.groupby(wall.dt.floor(rule).dt.tz_localize(zone))
    derived = derive(bars, symbol, timeframe)
    assert derived.t.tolist() == [int(t.timestamp() * 1000) for t in groups.t.first().index]
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
    derived = derive(bars, "BTC", "1h")
    assert derived.v.tolist() == [11, 0, 0, 4]
    assert derived.vw.tolist() == pytest.approx([1.25e-6, nan, nan, nan], rel=1e-12, nan_ok=True)


def test_nothing_is_made_of_nothing() -> None:
    """Without bars there is no longer bar, and the base series is itself."""
    assert len(derive(Bars.empty(), "AAPL", "1d")) == 0
    assert derive(year("AAPL"), "AAPL", "5m").t.size == year("AAPL").t.size
