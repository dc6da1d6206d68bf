"""Finds bars that cannot be right: by themselves, beside their neighbours, and beside the shorter bars of the same symbol.

A spike is a suspicion only. The vendor counts some trades into the volume of a day that it leaves out of shorter bars, and hours
before and after the regular session into no day's prices: neither is a finding.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tapecheck.backfill.calendar import INSIDE, BoolArray
from tapecheck.statistics import intervals
from tapecheck.vendor.bars import TIMEFRAMES, Bars, FloatArray, IntArray

PRICE_TOLERANCE = 1e-6  # as a ratio: prices are rounded, and added up nowhere
VWAP_TOLERANCE = 1e-4  # as a ratio: weighted prices are rounded to four decimals, also of a stock of a dollar
VOLUME_TOLERANCE = 1e-3  # as a ratio: fractions of shares are rounded in each bar
OFFICIAL_TOLERANCE = 0.005  # as a ratio: a day opens and closes at the official auctions
LEAST_SPIKE, LEAST_Z = 0.2, 20.0  # a spike is this far (in logarithms, 22 %) from both sides, and so many robust deviations
LEAST_SCALE = 1e-4  # of a robust deviation: prices that never move are no yardstick
HOUR_MS = 3_600_000
REACH = 3  # bars: a spike may last so long


def impossible(bars: Bars) -> dict[str, BoolArray]:
    """Tell of each kind of wrong value which bars have it; `bars` in any order."""
    prices = np.stack((bars.o, bars.h, bars.l, bars.c))
    is_finite = np.isfinite(prices).all(axis=0) & np.isfinite(bars.v)
    is_negative = (prices <= 0).any(axis=0)
    is_crossed = bars.h < bars.l
    is_outside = (np.maximum(bars.o, bars.c) > bars.h) | (np.minimum(bars.o, bars.c) < bars.l)
    low, high = bars.l * (1 - VWAP_TOLERANCE), bars.h * (1 + VWAP_TOLERANCE)
    return {
        "not_finite": ~is_finite,
        "not_positive": is_negative,
        "negative_volume": bars.v < 0,
        "negative_count": bars.n < 0,
        "high_below_low": is_crossed,
        "outside_range": is_outside & ~is_crossed & ~is_negative,  # open or close above the high or below the low
        "vwap_outside_range": ((bars.vw < low) | (bars.vw > high)) & (bars.v != 0) & ~is_crossed & ~is_negative,
    }


UNSOUND = ("not_finite", "not_positive", "negative_volume", "high_below_low", "outside_range")  # of such a bar nothing can be concluded


def spikes(bars: Bars) -> tuple[IntArray, float]:
    """Return the starts of bars whose high or low leaves all neighbours behind, and the largest robust z of them.

    z is the distance to the nearer of both sides, over the median of all steps between closes (times 1.4826, as for a normal
    distribution) or their smallest; a step from one level to another, as a split or bad news makes it, has no distance to one side.
    """
    if len(bars) <= 2 * REACH:
        return bars.t[:0], 0.0
    high, low, close = (np.log(np.where((one > 0) & np.isfinite(one), one, np.nan)) for one in (bars.h, bars.l, bars.c))
    steps = np.abs(np.diff(close))
    steps = steps[np.isfinite(steps)]
    tick = float(steps[steps > 0].min(initial=np.inf))  # the smallest step: prices of a few ticks jump by much
    scale = max(1.4826 * intervals.median(steps), tick, LEAST_SCALE) if tick < np.inf else LEAST_SCALE
    distance = np.fmax(_excursion(high), _excursion(-low))
    is_spike = (distance > LEAST_SPIKE) & (distance > LEAST_Z * scale)
    return bars.t[is_spike], float(distance[is_spike].max(initial=0.0) / scale)


def _excursion(x: FloatArray) -> FloatArray:
    """Return how far each value is above both one before and one after it, up to `REACH` away; the first and last: above three others."""
    best = np.full(len(x), -np.inf)
    for reach in range(1, REACH + 1):
        inner = x[reach:-reach]
        best[reach:-reach] = np.fmax(best[reach:-reach], np.fmin(inner - x[: -2 * reach], inner - x[2 * reach :]))
    for edge, others in ((0, x[1:4]), (-1, x[-4:-1])):
        best[edge] = x[edge] - np.max(others)
    return best


# ---- beside shorter bars ----


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The sound bars of a timeframe, ascending, each start once, with the session of each (0: none); and which starts are not there."""

    bars: Bars
    session: IntArray
    missing: IntArray


def across(series: Mapping[str, Series], *, is_stock: bool, end_ms: int) -> dict[str, dict[str, IntArray]]:
    """Return by timeframe and kind the starts of bars that contradict those of the next shorter timeframe inside them.

    The day of a stock is held against the shortest, whose bars tell the regular session from the hours around it.

    Args:
        end_ms: where the bars end; what a bar held beyond is unknown.
    """
    ordered = sorted(series, key=lambda name: TIMEFRAMES[name].length_s)
    pairs = [(ordered[0] if is_stock and long == "1d" else short, long) for short, long in pairwise(ordered)]
    return {long: _held(series[short], short, series[long].bars, long, is_stock, end_ms) for short, long in pairs}


@dataclass(frozen=True, slots=True)
class _Parts:
    """The shorter bars within each longer one: rows from `first` to `last`, the end not included."""

    bars: Bars
    first: IntArray
    last: IntArray

    @classmethod
    def of(cls, bars: Bars, length_ms: int, begins: IntArray, ends: IntArray) -> "_Parts":
        first = np.searchsorted(bars.t, begins)
        return cls(bars, first, np.maximum(first, np.searchsorted(bars.t, ends - length_ms, side="right")))

    def reduced(self, how: np.ufunc, column: FloatArray) -> FloatArray:
        """Return the maximum, minimum or sum of a column within each longer bar; NaN where there is no shorter one."""
        edges = np.stack((self.first, self.last), axis=1).ravel()
        found: FloatArray = how.reduceat(np.append(column, np.nan), edges)[::2]
        return np.where(self.last > self.first, found, np.nan)


def _held(short: Series, short_name: str, long: Bars, name: str, is_stock: bool, end_ms: int) -> dict[str, IntArray]:
    """Hold longer bars against the shorter ones inside them."""
    is_day, length_ms = is_stock and name == "1d", TIMEFRAMES[short_name].length_s * 1000
    ends, following = long.t + TIMEFRAMES[name].length_s * 1000, np.append(long.t[1:], np.iinfo(np.int64).max)
    is_whole = following >= ends - HOUR_MS  # a bar that overlaps the next one ends nobody knows where
    ends = np.where(following <= ends + (HOUR_MS if name == "1d" else 0), following, ends)  # Eastern days may have 23 or 25 hours
    bars, session = short.bars, short.session
    if not len(long) or not len(bars):
        return {}
    counted = _Parts.of(bars[session > 1] if is_day else bars, length_ms, long.t, ends)
    priced = _Parts.of(bars[session == INSIDE], length_ms, long.t, ends) if is_day else counted
    is_whole &= (np.searchsorted(short.missing, long.t) == np.searchsorted(short.missing, ends)) & (ends <= end_ms)
    highest, lowest = counted.reduced(np.maximum, counted.bars.h), counted.reduced(np.minimum, counted.bars.l)
    high, low = (priced.reduced(np.maximum, priced.bars.h), priced.reduced(np.minimum, priced.bars.l)) if is_day else (highest, lowest)
    volume = counted.reduced(np.add, counted.bars.v)
    up, down = 1 + PRICE_TOLERANCE, 1 - PRICE_TOLERANCE
    is_elsewhere = (long.l > highest * up) | (long.h < lowest * down)
    rounded = 0.5 * (counted.last - counted.first) if (bars.v == np.floor(bars.v)).all() else 0.0
    slack = VOLUME_TOLERANCE * np.abs(volume) + rounded
    found = {
        "high_unlike_parts": (high > long.h * up) | is_whole & (long.h > highest * up),
        "low_unlike_parts": (low < long.l * down) | is_whole & (long.l < lowest * down),
        **_ends(long, counted, is_day, is_whole, (lowest, highest)),
    }
    too_much = volume > long.v + slack
    too_little = np.zeros(len(long), bool) if name == "1d" else is_whole & (long.v > volume + slack)
    return {
        "other_level": long.t[is_elsewhere],
        **{kind: long.t[is_one & ~is_elsewhere] for kind, is_one in found.items()},
        "volume_unlike_parts": long.t[too_much | too_little],
    }


def _ends(long: Bars, parts: _Parts, is_day: bool, is_whole: BoolArray, span: tuple[FloatArray, FloatArray]) -> dict[str, BoolArray]:
    """Tell which longer bars open or close otherwise than the first and last bar in them; a stock's day: beyond all of them."""
    if is_day:
        low, high = span[0] * (1 - OFFICIAL_TOLERANCE), span[1] * (1 + OFFICIAL_TOLERANCE)
        return {
            "open_unlike_parts": is_whole & ((long.o < low) | (long.o > high)),
            "close_unlike_parts": is_whole & ((long.c < low) | (long.c > high)),
        }
    is_known = is_whole & (parts.last > parts.first)
    opens, closes = np.append(parts.bars.o, np.nan)[parts.first], np.append(parts.bars.c, np.nan)[parts.last - 1]
    return {
        "open_unlike_parts": is_known & (np.abs(long.o / opens - 1) > PRICE_TOLERANCE),
        "close_unlike_parts": is_known & (np.abs(long.c / closes - 1) > PRICE_TOLERANCE),
    }
