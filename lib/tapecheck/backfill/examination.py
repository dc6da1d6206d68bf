"""Examines the stored bars of one symbol: which are missing and why, and which cannot be right.

That there was trade where a bar is missing is proven by other bars of the same symbol: by a shorter one inside the gap, or by a
longer one around it whose volume or trades exceed the sum of the bars that are stored inside it; the shortest longer bar decides.
A small excess of a stock's day proves nothing, for the vendor counts some trades into it that it leaves out of shorter bars. Where
no longer bar decides, neighbours with hundreds of trades are evidence.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tapecheck.backfill import values
from tapecheck.backfill.calendar import DAY_S, NONE, REGULAR, SESSIONS, BoolArray, Slots, day_of, slots
from tapecheck.backfill.values import HOUR_MS
from tapecheck.vendor.bars import TIMEFRAMES, Bars, FloatArray, IntArray, is_crypto, ticker_of, to_ms

SUM_TOLERANCE, DAY_TOLERANCE = 1e-9, 0.1  # of a sum of volumes in floating point, and of the day of a stock, as ratios
BUSY_TRADES = 100  # in each neighbour of a gap: a bar of the same length without a single trade is then out of the question
ORIGINS_H = (4, 5)  # where the vendor's older samples begin a crypto day, in UTC: 00:00 Eastern Time, or 04:00 always


def length_ms(timeframe: str) -> int:
    """Return the length of a bar in milliseconds."""
    return TIMEFRAMES[timeframe].length_s * 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """What was found in one symbol and timeframe; times are starts in Unix ms, `fingerprints` are of the bars at `times`.

    `stored` counts all rows, also those that are not judged; `wrong` has the bars that cannot be right, and suspicions, by what is
    wrong with them. `in_session` are gaps of the regular session that are not ours; `busy` those of them that nothing explains
    between neighbours of hundreds of trades, on days that have bars; `regular` all slots of that session, and `regular_n` the trades of
    each (infinite where the vendor does not say). `days` are the columns of `coverage.SCHEMA`.
    """

    symbol: str
    timeframe: str
    stored: int
    expected: int
    present: int
    no_trade: IntArray
    upstream_gaps: IntArray
    lost: IntArray
    in_session: IntArray
    busy: IntArray
    regular: IntArray
    regular_n: FloatArray
    wrong: dict[str, IntArray]
    z: float
    times: IntArray
    fingerprints: IntArray
    days: Mapping[str, Any]
    is_stock: bool  # it follows the exchange's calendar


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """A series as it is held against the calendar: its rows, tidied, its slots, what was sent, and what is missing of both."""

    bars: Bars
    tidy: Bars
    raw: Bars  # the same with the starts as they are stored
    late: IntArray
    every: Slots
    slots: Slots
    expected: IntArray
    lost: IntArray
    missing: IntArray

    @property
    def regular(self) -> IntArray:
        """Return the slots of the regular session."""
        found: IntArray = self.slots.t[self.slots.session >= REGULAR]
        return found

    @property
    def regular_n(self) -> FloatArray:
        """Return the trades of each slot of the regular session: none where no bar is, and infinite where they are not known."""
        slots = self.regular
        at = np.searchsorted(self.tidy.t, slots)
        n = np.append(np.where(np.isnan(self.tidy.n), np.inf, self.tidy.n), 0.0)
        return np.where(np.append(self.tidy.t, -1)[at] == slots, n[at], 0.0)

    @property
    def session(self) -> IntArray:
        """Return the session of each tidy bar, 0 for none."""
        at = np.minimum(np.searchsorted(self.every.t, self.tidy.t), max(0, len(self.every) - 1))
        return np.where(self.every.t[at] == self.tidy.t, self.every.session[at], 0) if len(self.every) else np.zeros(len(at), np.int64)

    @property
    def sound(self) -> values.Series:
        """Return what the bars of other timeframes can be held against."""
        impossible, session = values.impossible(self.tidy), self.session
        is_sound = ~np.any([impossible[kind] for kind in values.UNSOUND], axis=0) & (session > 0)
        gaps = distinct(np.concatenate([self.missing, self.lost, self.tidy.t[~is_sound]]))
        return values.Series(bars=self.raw[is_sound], session=session[is_sound], missing=gaps)


def examine(
    symbol: str,
    stored: Mapping[str, Bars],
    received: Mapping[str, Sequence[IntArray]],
    *,
    start: dt.datetime,
    end: dt.datetime,
    sessions: str = "extended",
    ticker: str | None = None,
) -> list[Examined]:
    """Examine every timeframe of one symbol; only bars that begin at or after `start` and are over by `end` are judged.

    Args:
        stored: the bars of each timeframe, all that are stored, in any order. Leave out of both a timeframe whose job did not
            end: of what was never asked for nothing can be said.
        received: the starts (Unix ms) that upstream sent, by timeframe, page by page; of one that is absent nothing can be
            lost, and one that is absent from `stored` is lost as a whole.
        sessions: in which bars are expected; those of other sessions are counted.
        ticker: the vendor's of the symbol, which says by which days it is traded; None for the usual one.
    """
    ticker = ticker or ticker_of(symbol)
    names = dict.fromkeys((*stored, *received))
    held = {name: _held(ticker, name, stored.get(name, Bars.empty()), received.get(name, ()), start, end, sessions) for name in names}
    contradicting = values.across({name: one.sound for name, one in held.items()}, is_stock=not is_crypto(ticker), end_ms=to_ms(end))
    raw = {name: one.raw for name, one in held.items()}
    return [
        _examined(symbol, ticker, name, one, raw, contradicting.get(name, {}), len(stored.get(name, ())), sessions)
        for name, one in held.items()
    ]


def _held(ticker: str, name: str, stored: Bars, pages: Sequence[IntArray], start: dt.datetime, end: dt.datetime, sessions: str) -> _Held:
    """Hold a series against the calendar."""
    first_ms, last_ms = to_ms(start), to_ms(end) - length_ms(name)

    def judged(t: IntArray) -> BoolArray:
        starts = _starts(t, ticker, name)
        return (starts >= first_ms) & (starts <= last_ms)

    is_judged = judged(stored.t)
    bars = stored if is_judged.all() else stored[is_judged]
    raw = _tidy(bars)
    starts = _starts(raw.t, ticker, name)
    if (np.diff(starts) <= 0).any():  # a day that is there from two origins
        raw, starts = (raw[rows := np.unique(starts, return_index=True)[1]], starts[rows])
    sent, late = (
        _starts(t[judged(t)], ticker, name)
        for t in (np.concatenate([NONE, *pages]), np.concatenate([NONE, *(page[page < np.maximum.accumulate(page)] for page in pages)]))
    )
    sent, every = distinct(sent), slots(ticker, name, start, end)
    wanted = every.of(sessions)
    expected = distinct(np.concatenate([wanted.t, sent]))
    gaps = expected[~is_among(expected, starts)]
    is_lost = is_among(gaps, sent)
    return _Held(
        bars=replace(bars, t=_starts(bars.t, ticker, name)),
        tidy=replace(raw, t=starts),
        raw=raw,
        late=late,
        every=every,
        slots=wanted,
        expected=expected,
        lost=gaps[is_lost],
        missing=gaps[~is_lost],
    )


def _examined(
    symbol: str,
    ticker: str,
    name: str,
    held: _Held,
    raw: Mapping[str, Bars],
    contradicting: dict[str, IntArray],
    stored: int,
    sessions: str,
) -> Examined:
    missing, tidy = held.missing, held.tidy
    is_gap, is_decided = has_trade(name, raw, missing, held.lost, is_stock=not is_crypto(ticker))
    is_regular = is_among(missing, held.regular)
    days = _days(ticker, held, sessions)
    is_alive = is_among(_day(missing, ticker), days["day"][days["last_ms"] > 0])
    spiking, z = values.spikes(tidy)
    is_moving = tidy.h > tidy.l  # a bar of one trade may well be that of another symbol too
    return Examined(
        symbol=symbol,
        timeframe=name,
        stored=stored,
        expected=len(held.expected),
        present=len(held.expected) - len(missing) - len(held.lost),
        no_trade=missing[~is_gap],
        upstream_gaps=missing[is_gap],
        lost=held.lost,
        in_session=missing[is_regular],
        busy=missing[is_regular & is_alive & ~is_gap & ~is_decided & _is_busy(missing, tidy[held.session >= REGULAR])],
        regular=held.regular,
        regular_n=held.regular_n,
        wrong=_wrong(held) | contradicting | {"spike": spiking},
        z=z,
        times=tidy.t[is_moving],
        fingerprints=fingerprints(tidy[is_moving]),
        days=days,
        is_stock=not is_crypto(ticker),
    )


def _wrong(held: _Held) -> dict[str, IntArray]:
    """Return the starts of bars that cannot be right, by what is wrong with them."""
    bars, repeated, contradicting = held.bars, NONE, NONE
    if len(held.tidy) < len(bars):
        _, first, which = np.unique(bars.t, return_index=True, return_inverse=True)
        again = np.setdiff1d(np.arange(len(bars)), first)
        prints = fingerprints(bars)
        is_other = prints[again] != prints[first[which[again]]]
        repeated, contradicting = bars.t[again[~is_other]], bars.t[again[is_other]]
    found = {kind: bars.t[is_one] for kind, is_one in values.impossible(bars).items()}
    return {
        "duplicate": repeated,
        "contradicting": contradicting,
        "out_of_order": held.late,  # sent after a later bar of the same page; a table has no order
        **found,
        "off_calendar": bars.t[~is_among(bars.t, held.every.t)],  # a start that no session has
    }


def _tidy(bars: Bars) -> Bars:
    """Return the bars ascending, each start once; those that are so already are not copied."""
    return bars if (np.diff(bars.t) > 0).all() else bars[np.unique(bars.t, return_index=True)[1]]


def _starts(t: IntArray, ticker: str, timeframe: str) -> IntArray:
    """Return the starts with those of crypto days that begin at 04:00 or 05:00 UTC moved to midnight, and 4 hours likewise."""
    width_ms = length_ms(timeframe)
    if not is_crypto(ticker) or width_ms <= HOUR_MS:
        return t
    offset = t % width_ms
    return np.where(np.isin(offset, [hour * HOUR_MS % width_ms for hour in ORIGINS_H]), t - offset, t)


# ---- days ----


def _day(t: IntArray, ticker: str) -> IntArray:
    """Return the day of each of some ascending starts, by its market's date, as days since 1970."""
    return day_of(t // 1000, ticker) // DAY_S


def _days(ticker: str, held: _Held, sessions: str) -> dict[str, Any]:
    """Return what each day that has slots or bars holds."""
    wanted, tidy = held.slots, held.tidy
    session = held.session
    day, is_wanted = _day(tidy.t, ticker), session > SESSIONS.index(sessions)
    every = distinct(np.concatenate([wanted.day, day]))
    zero = int(every[0]) if len(every) else 0

    def count(days: IntArray) -> IntArray:
        found: IntArray = np.bincount(days - zero, minlength=int(every[-1]) - zero + 1 if len(every) else 0)[every - zero]
        return found

    first, last = np.searchsorted(day, every), np.searchsorted(day, every, side="right") - 1
    has, ends = last >= first, np.maximum(last, 0)
    begins = np.minimum(first, max(0, len(day) - 1))

    def at(column: FloatArray, rows: IntArray) -> FloatArray:
        return np.where(has, column[rows], np.nan) if len(column) else np.full(len(every), np.nan)

    def start(rows: IntArray) -> IntArray:
        return np.where(has, held.raw.t[rows], 0) if len(day) else np.zeros(len(every), np.int64)

    trades, began = np.append(0.0, np.cumsum(np.nan_to_num(tidy.n))), start(begins)
    return {
        "day": every,
        "expected": count(wanted.day),
        "present": count(day[is_wanted]),
        "regular": count(wanted.day[wanted.session >= REGULAR]),
        "regular_present": count(day[session >= REGULAR]),
        "outside": count(day[~is_wanted]),
        "first_ms": began,
        "last_ms": start(ends),
        "open": at(tidy.o, begins),
        "close": at(tidy.c, ends),
        "trades": trades[last + 1] - trades[np.minimum(first, last + 1)],
        "origin_h": np.where(has, began - tidy.t[begins], 0) // HOUR_MS if len(day) else began,
    }


# ---- evidence of trade ----


def _is_busy(missing: IntArray, bars: Bars) -> BoolArray:
    """Tell of each missing start whether both of its stored neighbours, of the regular session, have hundreds of trades."""
    if not len(bars):
        return np.zeros(len(missing), bool)
    after = np.searchsorted(bars.t, missing)
    trades = np.concatenate(([np.nan], bars.n, [np.nan]))
    is_busy: BoolArray = np.minimum(trades[after], trades[after + 1]) >= BUSY_TRADES
    return is_busy


def has_trade(name: str, series: Mapping[str, Bars], missing: IntArray, lost: IntArray, *, is_stock: bool) -> tuple[BoolArray, BoolArray]:
    """Tell of each missing start of a timeframe whether a bar of another one proves that there was trade, and whether one decides at all.

    Args:
        series: the symbol's stored bars by timeframe, ascending, each start once.
        missing: starts (Unix ms) without a bar that upstream did not send.
        lost: starts that it did send, without a stored bar.
    """
    is_proven, by_length = np.zeros(len(missing), bool), sorted(series, key=length_ms)
    for shorter in by_length[: by_length.index(name)]:
        t = series[shorter].t
        is_proven |= np.searchsorted(t, missing) < np.searchsorted(t, missing + length_ms(name))
    is_decided, explained = is_proven.copy(), np.append(lost, missing[is_proven])
    known_t, known = series[name].t, _amounts(series[name])
    for longer in by_length[by_length.index(name) + 1 :]:
        bars, width_ms = series[longer], length_ms(longer)
        excess = _amounts(bars) - _sums(known_t, known, bars.t, width_ms)
        is_official = is_stock and longer == "1d"
        excess[~(excess > (DAY_TOLERANCE if is_official else SUM_TOLERANCE) * _amounts(bars))] = 0
        known_t, known = np.append(known_t, bars.t), np.append(known, excess, axis=1)  # what this bar proves, a longer one proves not again
        proves = (excess[0] > 0) | (excess[1] > 0)
        proves[_windows(explained, bars.t, width_ms)[0]] = False  # a bar that is known to be missing explains any excess
        window, is_covered = _windows(missing, bars.t, width_ms, is_decided)
        is_proven[is_covered] = proves[window]
        is_decided |= is_proven if is_official else is_covered
    return is_proven, is_decided


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


# ---- sets of starts ----


def distinct(t: IntArray) -> IntArray:
    """Return values in ascending order, each once; `np.unique` hashes them, which takes ten times as long where they ascend already."""
    ordered = np.sort(t)
    is_first: BoolArray = np.diff(ordered, prepend=ordered[:1] - 1) > 0
    return ordered[is_first]


def is_among(t: IntArray, ascending: IntArray) -> BoolArray:
    """Tell of each value whether it is one of some ascending ones, as `np.isin` does, which hashes too."""
    is_found: BoolArray = np.searchsorted(ascending, t, side="right") > np.searchsorted(ascending, t)
    return is_found


def fingerprints(bars: Bars) -> IntArray:
    """Return 64 bits of each bar's time, prices and volume."""
    mixed = bars.t.astype(np.uint64)
    for column in (bars.o, bars.h, bars.l, bars.c, bars.v):
        mixed = (mixed ^ column.view(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(32)
    return mixed.view(np.int64)
