"""Proves from other bars of the same symbol that there was trade where a bar is missing. It knows no calendar.

A shorter bar inside the hole proves it. So does a longer bar around it whose volume or trades exceed the sum of the bars that
are stored inside it; the shortest longer bar decides, because vendors count trades into day bars that they leave out of minutes.
"""

from collections.abc import Mapping

import numpy as np

from tapecheck.backfill.bars import TIMEFRAMES, Bars, FloatArray, IntArray
from tapecheck.backfill.slots import BoolArray

SUM_TOLERANCE = 1e-9  # of a sum of volumes in floating point, as a ratio


def length_ms(timeframe: str) -> int:
    """Return the length of a bar in milliseconds."""
    return TIMEFRAMES[timeframe].length_s * 1000


def has_trade(name: str, tidy: Mapping[str, Bars], missing: IntArray, lost: IntArray) -> BoolArray:
    """Tell of each missing start of a timeframe whether a bar of another timeframe proves that there was trade.

    Args:
        tidy: the symbol's stored bars by timeframe, ascending, each start once.
        missing: starts (Unix ms) without a bar that upstream did not send.
        lost: starts that it did send, without a stored bar.
    """
    is_proven, by_length = np.zeros(len(missing), bool), sorted(tidy, key=length_ms)
    for shorter in by_length[: by_length.index(name)]:
        t = tidy[shorter].t
        is_proven |= np.searchsorted(t, missing) < np.searchsorted(t, missing + length_ms(name))
    is_decided, explained = is_proven.copy(), np.append(lost, missing[is_proven])
    known_t, known = tidy[name].t, _amounts(tidy[name])
    for longer in by_length[by_length.index(name) + 1 :]:
        bars, width_ms = tidy[longer], length_ms(longer)
        excess = _amounts(bars) - _sums(known_t, known, bars.t, width_ms)
        excess[~(excess > SUM_TOLERANCE * _amounts(bars))] = 0
        known_t, known = np.append(known_t, bars.t), np.append(known, excess, axis=1)  # what this bar proves, a longer one proves not again
        proves = (excess[0] > 0) | (excess[1] > 0)
        proves[_windows(explained, bars.t, width_ms)[0]] = False  # a bar that is known to be missing explains any excess
        window, is_covered = _windows(missing, bars.t, width_ms, is_decided)
        is_proven[is_covered] = proves[window]
        is_decided |= is_covered
    return is_proven


def _amounts(bars: Bars) -> FloatArray:
    return np.stack((bars.v, bars.n))


def _windows(t: IntArray, starts: IntArray, width_ms: int, is_done: BoolArray | None = None) -> tuple[IntArray, BoolArray]:
    """Return which of the windows each time lies in, for those that lie in one and are not done, and which times those are."""
    window = np.searchsorted(starts, t, side="right") - 1
    is_inside = window >= 0
    is_inside[is_inside] = t[is_inside] < starts[window[is_inside]] + width_ms
    if is_done is not None:
        is_inside &= ~is_done
    return window[is_inside], is_inside


def _sums(t: IntArray, amounts: FloatArray, starts: IntArray, width_ms: int) -> FloatArray:
    window, is_inside = _windows(t, starts, width_ms)
    return np.stack([np.bincount(window, weights=row[is_inside], minlength=len(starts)) for row in amounts])
