"""Which bars a series should have: every start that the market's calendar allows. It does not know which of them traded."""

import datetime as dt
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tapecheck.backfill.bars import TIMEFRAMES, IntArray, to_ms
from tapecheck.backfill.calendar import EASTERN, sessions
from tapecheck.tickers import CRYPTO

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """Starts of bars in Unix milliseconds, ascending, and whether each bar meets the regular session (crypto: always)."""

    t: IntArray
    is_regular: BoolArray

    def __len__(self) -> int:
        return len(self.t)


def slots(symbol: str, timeframe: str, start: dt.datetime, end: dt.datetime) -> Slots:
    """Return the slots that begin at or after `start` and are over by `end`.

    Stocks have those that meet a session of the New York exchange with its extended hours, counted from 00:00 Eastern Time:
    04:00 to 20:00, on half days to 17:00. Crypto has every slot of every UTC day.
    """
    length_s = TIMEFRAMES[timeframe].length_s
    found = _around_the_clock(start, end, length_s) if symbol in CRYPTO else _exchange(start, end, length_s)
    is_inside = (found.t >= to_ms(start)) & (found.t + length_s * 1000 <= to_ms(end))
    return Slots(t=found.t[is_inside], is_regular=found.is_regular[is_inside])


def _around_the_clock(start: dt.datetime, end: dt.datetime, length_s: int) -> Slots:
    first = to_ms(start) // 1000 // length_s * length_s
    t = np.arange(first, max(first, to_ms(end) // 1000), length_s, dtype=np.int64) * 1000
    return Slots(t=t, is_regular=np.ones(len(t), bool))


def _exchange(start: dt.datetime, end: dt.datetime, length_s: int) -> Slots:
    years = [_year(year, length_s) for year in range(start.astimezone(EASTERN).year, end.astimezone(EASTERN).year + 1)]
    return Slots(
        t=np.concatenate([part.t for part in years] or [np.empty(0, np.int64)]),
        is_regular=np.concatenate([part.is_regular for part in years] or [np.empty(0, bool)]),
    )


def _year(year: int, length_s: int) -> Slots:
    days = sessions(year)
    first = days.midnight + (days.first - days.midnight) // length_s * length_s
    counts = -(-(days.last - first) // length_s)
    within_day = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    t = np.repeat(first, counts) + within_day * length_s
    is_regular = (t + length_s > np.repeat(days.opens, counts)) & (t < np.repeat(days.closes, counts))
    return Slots(t=t * 1000, is_regular=is_regular)
