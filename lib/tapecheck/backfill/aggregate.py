"""Builds bars of a longer timeframe from 5-minute bars, as the vendor builds them. It fetches and stores nothing."""

import numpy as np

from tapecheck.backfill.bars import TIMEFRAMES, Bars, FloatArray, IntArray
from tapecheck.backfill.calendar import midnights
from tapecheck.tickers import CRYPTO

BASE = "5m"  # the intraday series that the others are built from
DAY_S = 86400


def derive(bars: Bars, symbol: str, timeframe: str) -> Bars:
    """Build the bars of a timeframe from a symbol's 5-minute bars that begin at the start of a bar of that timeframe.

    Bars are counted from the start of the day: 00:00 Eastern Time for stocks, 00:00 UTC for crypto, which for 4 hours is our
    assumption about the vendor. The open is the first bar's, the close the last one's, volume and trades are sums, and the
    price is weighted by volume over the bars that have one above zero. A bar without any 5-minute bar does not exist, as with the vendor.
    """
    if timeframe == BASE:
        return bars
    return aggregate(bars, day_of(bars.t // 1000, symbol), TIMEFRAMES[timeframe].length_s)


def start_of(t: IntArray, symbol: str, timeframe: str) -> IntArray:
    """Return the start of the bar of a timeframe in which each time lies, all in Unix milliseconds."""
    t_s = t // 1000
    return _starts(t_s, day_of(t_s, symbol), TIMEFRAMES[timeframe].length_s) * 1000


def day_of(t_s: IntArray, symbol: str) -> IntArray:
    """Return the start of each time's day, all in Unix seconds."""
    return t_s // DAY_S * DAY_S if symbol in CRYPTO or not len(t_s) else midnights(t_s)


def _starts(t_s: IntArray, day: IntArray, width_s: int) -> IntArray:
    return day + (t_s - day) // width_s * width_s


def aggregate(bars: Bars, day: IntArray, width_s: int) -> Bars:
    """Aggregate ascending bars into bars of `width_s` seconds, counted from each one's `day` in Unix seconds."""
    if len(bars) == 0:
        return bars
    start = _starts(bars.t // 1000, day, width_s)
    first = np.flatnonzero(np.diff(start, prepend=start[0] - 1))
    last = np.append(first[1:], len(start)) - 1
    return Bars(
        t=start[first] * 1000,
        o=bars.o[first],
        h=np.maximum.reduceat(bars.h, first),
        l=np.minimum.reduceat(bars.l, first),
        c=bars.c[last],
        v=np.add.reduceat(bars.v, first),
        vw=_weighted(bars, first),
        n=np.add.reduceat(bars.n, first),
    )


def _weighted(bars: Bars, first: IntArray) -> FloatArray:
    """Return the volume-weighted price of each run of bars; NaN where no bar of a run has both a price and a volume."""
    weight = np.where(np.isnan(bars.vw), 0.0, np.maximum(bars.v, 0.0))
    volume = np.add.reduceat(weight, first)
    money = np.add.reduceat(np.where(weight > 0, bars.vw * weight, 0.0), first)
    price: FloatArray = np.divide(money, volume, out=np.full(len(first), np.nan), where=volume > 0)
    return price
