"""Finds what is missing or wrong in the stored series of one symbol, and whose fault it is. It reads nothing and repairs nothing.

A slot of the calendar without a stored bar is a hole, of one of three classes:
- `lost`: upstream sent the bar and it is not stored: by us;
- `upstream_hole`: upstream did not send it although there was trade: another bar of the same symbol proves it, or (see
  `integrity`) the same minute of the regular session is missing in several symbols;
- `no_trade`: nothing says that there was trade, and without trade there is no bar.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tapecheck.backfill.bars import Bars, IntArray, to_ms
from tapecheck.backfill.proof import has_trade, length_ms
from tapecheck.backfill.slots import BoolArray, Slots, slots
from tapecheck.tickers import CRYPTO

DAY_MS = 86_400_000
NONE = np.empty(0, np.int64)
OLD_CRYPTO_DAY_MS = 4 * 3600 * 1000  # the vendor's older samples begin a crypto day at 04:00 UTC


@dataclass(frozen=True, slots=True, kw_only=True)
class Defects:
    """Starts (Unix ms) of the bars of a series that cannot be right, by what is wrong with them."""

    duplicate: IntArray
    out_of_order: IntArray  # sent after a later bar of the same page; a table has no order
    not_finite: IntArray
    negative_volume: IntArray
    high_below_low: IntArray
    outside_range: IntArray  # open or close above the high or below the low
    off_calendar: IntArray  # a start that no session has


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """What was found in one symbol and timeframe; times are starts in Unix ms, `fingerprints` are of the bars at `times`.

    `stored` counts all rows, those too that are not judged.
    """

    symbol: str
    timeframe: str
    stored: int
    expected: int
    present: int
    no_trade: IntArray
    upstream_holes: IntArray
    lost: IntArray
    in_session: IntArray  # holes of the regular session that are not ours
    defects: Defects
    times: IntArray
    fingerprints: IntArray


def defects(bars: Bars, late: IntArray, calendar: IntArray) -> Defects:
    """Return what is wrong with single stored bars of a series; `late` are the starts that were sent out of order."""
    _, first = np.unique(bars.t, return_index=True)
    is_repeated = np.ones(len(bars), bool)
    is_repeated[first] = False
    prices = np.stack((bars.o, bars.h, bars.l, bars.c))
    is_finite = np.isfinite(prices).all(axis=0) & np.isfinite(bars.v)
    is_crossed = bars.h < bars.l
    is_outside = (np.maximum(bars.o, bars.c) > bars.h) | (np.minimum(bars.o, bars.c) < bars.l)
    return Defects(
        duplicate=bars.t[is_repeated],
        out_of_order=late,
        not_finite=bars.t[~is_finite],
        negative_volume=bars.t[bars.v < 0],
        high_below_low=bars.t[is_crossed],
        outside_range=bars.t[is_outside & ~is_crossed],
        off_calendar=bars.t[~is_among(bars.t, calendar)],
    )


def examine(
    symbol: str, stored: Mapping[str, Bars], received: Mapping[str, Sequence[IntArray]], *, start: dt.datetime, end: dt.datetime
) -> list[Series]:
    """Examine every timeframe of one symbol; only bars that begin at or after `start` and are over by `end` are judged.

    Args:
        stored: the bars of each timeframe, all that are stored, in any order. Leave out of both a timeframe whose job did not
            end: of what was never asked for nothing can be said.
        received: the starts (Unix ms) that upstream sent, by timeframe, page by page; of one that is absent nothing can be
            lost, and one that is absent from `stored` is lost as a whole.
    """
    names = dict.fromkeys((*stored, *received))
    inside = {name: _judged(stored.get(name, Bars.empty()), symbol, name, start, end) for name in names}
    sent = {name: _together([_judged_times(page, symbol, name, start, end) for page in received.get(name, ())]) for name in names}
    late = {name: _together([_judged_times(_late(page), symbol, name, start, end) for page in received.get(name, ())]) for name in names}
    tidy = {name: _tidy(bars) for name, bars in inside.items()}
    calendars = {name: slots(symbol, name, start, end) for name in names}
    return [
        _series(symbol, name, bars, tidy, sent[name], late[name], len(stored.get(name, ())), calendars[name])
        for name, bars in inside.items()
    ]


def _late(page: IntArray) -> IntArray:
    """Return the starts of a page that came after a later one."""
    return page[page < np.maximum.accumulate(page)]


def _together(parts: Sequence[IntArray]) -> IntArray:
    return np.concatenate([NONE, *parts])


def distinct(t: IntArray) -> IntArray:
    """Return values in ascending order, each once; `np.unique` hashes them, which takes ten times as long where they ascend already."""
    ordered = np.sort(t)
    is_first: BoolArray = np.diff(ordered, prepend=ordered[:1] - 1) > 0
    return ordered[is_first]


def is_among(t: IntArray, ascending: IntArray) -> BoolArray:
    """Tell of each value whether it is one of some ascending ones, as `np.isin` does, which hashes too."""
    is_found: BoolArray = np.searchsorted(ascending, t, side="right") > np.searchsorted(ascending, t)
    return is_found


def _series(
    symbol: str, name: str, bars: Bars, tidy: Mapping[str, Bars], sent: IntArray, late: IntArray, stored: int, calendar: Slots
) -> Series:
    received = distinct(sent)
    expected = distinct(np.concatenate([calendar.t, received]))
    holes = expected[~is_among(expected, tidy[name].t)]
    is_lost = is_among(holes, received)
    lost, missing = holes[is_lost], holes[~is_lost]
    is_hole = has_trade(name, tidy, missing, lost)
    is_moving = tidy[name].h > tidy[name].l  # a bar of one trade may well be that of another symbol too
    return Series(
        symbol=symbol,
        timeframe=name,
        stored=stored,
        expected=len(expected),
        present=len(expected) - len(holes),
        no_trade=missing[~is_hole],
        upstream_holes=missing[is_hole],
        lost=lost,
        in_session=missing[is_among(missing, calendar.t[calendar.is_regular])],
        defects=defects(bars, late, calendar.t),
        times=tidy[name].t[is_moving],
        fingerprints=_fingerprints(tidy[name][is_moving]),
    )


def _judged(bars: Bars, symbol: str, timeframe: str, start: dt.datetime, end: dt.datetime) -> Bars:
    bars = replace(bars, t=_starts(bars.t, symbol, timeframe))
    is_judged = _is_judged(bars.t, timeframe, start, end)
    return bars if is_judged.all() else bars[is_judged]


def _tidy(bars: Bars) -> Bars:
    """Return the bars ascending, each start once; those that are so already are not copied."""
    return bars if (np.diff(bars.t) > 0).all() else bars[np.unique(bars.t, return_index=True)[1]]


def _judged_times(t: IntArray, symbol: str, timeframe: str, start: dt.datetime, end: dt.datetime) -> IntArray:
    t = _starts(t, symbol, timeframe)
    return t[_is_judged(t, timeframe, start, end)]


def _starts(t: IntArray, symbol: str, timeframe: str) -> IntArray:
    """Return the starts with those of the vendor's older crypto days moved to midnight."""
    if symbol not in CRYPTO or timeframe != "1d":
        return t
    return np.where(t % DAY_MS == OLD_CRYPTO_DAY_MS, t - OLD_CRYPTO_DAY_MS, t)


def _is_judged(t: IntArray, timeframe: str, start: dt.datetime, end: dt.datetime) -> BoolArray:
    is_judged: BoolArray = (t >= to_ms(start)) & (t + length_ms(timeframe) <= to_ms(end))
    return is_judged


def _fingerprints(bars: Bars) -> IntArray:
    """Return 64 bits of each bar's time, prices and volume."""
    mixed = bars.t.astype(np.uint64)
    for column in (bars.o, bars.h, bars.l, bars.c, bars.v):
        mixed = (mixed ^ column.view(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(32)
    return mixed.view(np.int64)
