"""Finds what is missing or wrong in stored series, and whose fault it is. It reads nothing and repairs nothing.

A slot of the calendar without a stored bar is a hole, of one of three classes:
- `lost`: upstream sent the bar and it is not stored: by us;
- `upstream_hole`: upstream did not send it although there was trade: another bar of the same symbol proves it, or the same
  minute of the regular session is missing in several symbols;
- `no_trade`: nothing says that there was trade, and without trade there is no bar.
"""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from tapecheck.backfill.bars import CRYPTO, Bars, IntArray, to_ms
from tapecheck.backfill.proof import has_trade, length_ms
from tapecheck.backfill.slots import BoolArray, Slots, slots

DAY_MS = 86_400_000
NONE = np.empty(0, np.int64)
SEVERAL = 3  # symbols that miss the same slot: if each of 25 missed one of 2,000 by itself, three would together once in 180 years
OLD_CRYPTO_DAY_MS = 4 * 3600 * 1000  # the vendor's older samples begin a crypto day at 04:00 UTC


@dataclass(frozen=True, slots=True, kw_only=True)
class Defects:
    """Starts (Unix ms) of the bars of a series that cannot be right, by what is wrong with them."""

    duplicate: IntArray
    out_of_order: IntArray
    not_finite: IntArray
    negative_volume: IntArray
    high_below_low: IntArray
    outside_range: IntArray  # open or close above the high or below the low
    off_calendar: IntArray  # a start that no session has


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """What was found in one symbol and timeframe; times are starts in Unix ms, `fingerprints` are of the bars at `times`."""

    symbol: str
    timeframe: str
    expected: int
    present: int
    no_trade: IntArray
    upstream_holes: IntArray
    lost: IntArray
    in_session: IntArray  # holes of the regular session that are not ours
    defects: Defects
    times: IntArray
    fingerprints: IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something wrong in one series: how many bars, and the first of them (Unix ms)."""

    symbol: str
    timeframe: str
    kind: str
    bars: int
    first_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedHole:
    """A slot of the regular session that several symbols miss: hardly for want of trade."""

    timeframe: str
    t_ms: int
    symbols: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Integrity:
    """The verdict on all series; expected = present + no_trade + upstream_holes + lost."""

    expected: int
    present: int
    no_trade: int
    upstream_holes: int
    lost: int
    duplicates: int
    checksum: str
    findings: tuple[Finding, ...]
    shared_holes: tuple[SharedHole, ...]


def defects(bars: Bars, calendar: IntArray) -> Defects:
    """Return what is wrong with single bars of a series, given in the order in which they came."""
    newest = np.maximum.accumulate(bars.t)
    _, first = np.unique(bars.t, return_index=True)
    is_repeated = np.ones(len(bars), bool)
    is_repeated[first] = False
    prices = np.stack((bars.o, bars.h, bars.l, bars.c))
    is_finite = np.isfinite(prices).all(axis=0) & np.isfinite(bars.v)
    is_crossed = bars.h < bars.l
    is_outside = (np.maximum(bars.o, bars.c) > bars.h) | (np.minimum(bars.o, bars.c) < bars.l)
    return Defects(
        duplicate=bars.t[is_repeated],
        out_of_order=bars.t[bars.t < newest],
        not_finite=bars.t[~is_finite],
        negative_volume=bars.t[bars.v < 0],
        high_below_low=bars.t[is_crossed],
        outside_range=bars.t[is_outside & ~is_crossed],
        off_calendar=bars.t[~np.isin(bars.t, calendar)],
    )


def examine(
    symbol: str, stored: Mapping[str, Bars], received: Mapping[str, IntArray], *, start: dt.datetime, end: dt.datetime
) -> list[Series]:
    """Examine every timeframe of one symbol; only bars that begin at or after `start` and are over by `end` are judged.

    Args:
        stored: the bars of each timeframe, as stored, in the order in which they came. Leave out of both a timeframe whose
            job did not end: of what was never asked for nothing can be said.
        received: the starts (Unix ms) that upstream sent, by timeframe; of one that is absent nothing can be lost, and one
            that is absent from `stored` is lost as a whole.
    """
    names = dict.fromkeys((*stored, *received))
    inside = {name: _judged(stored.get(name, Bars.empty()), symbol, name, start, end) for name in names}
    sent = {name: _judged_times(received.get(name, NONE), symbol, name, start, end) for name in names}
    tidy = {name: bars[np.unique(bars.t, return_index=True)[1]] for name, bars in inside.items()}  # ascending, each start once
    return [_series(symbol, name, bars, tidy, sent[name], slots(symbol, name, start, end)) for name, bars in inside.items()]


def judge(series: Iterable[Series], checksum: str, *, several: int = SEVERAL) -> Integrity:
    """Put the series of all symbols together: holes and bars that they share, and the totals."""
    parts = list(series)
    shared = _shared_holes(parts, several)
    parts = [_blamed(part, shared) for part in parts]
    findings = [finding for part, wrong in zip(parts, _of_another_symbol(parts), strict=True) for finding in _findings(part, wrong)]
    return Integrity(
        expected=sum(part.expected for part in parts),
        present=sum(part.present for part in parts),
        no_trade=sum(len(part.no_trade) for part in parts),
        upstream_holes=sum(len(part.upstream_holes) for part in parts),
        lost=sum(len(part.lost) for part in parts),
        duplicates=sum(len(part.defects.duplicate) for part in parts),
        checksum=checksum,
        findings=tuple(findings),
        shared_holes=shared,
    )


def _series(symbol: str, name: str, bars: Bars, tidy: Mapping[str, Bars], received: IntArray, calendar: Slots) -> Series:
    expected = np.union1d(calendar.t, received)
    holes = np.setdiff1d(expected, bars.t)
    is_lost = np.isin(holes, received)
    lost, missing = holes[is_lost], holes[~is_lost]
    is_hole = has_trade(name, tidy, missing, lost)
    is_moving = tidy[name].h > tidy[name].l  # a bar of one trade may well be that of another symbol too
    return Series(
        symbol=symbol,
        timeframe=name,
        expected=len(expected),
        present=len(expected) - len(holes),
        no_trade=missing[~is_hole],
        upstream_holes=missing[is_hole],
        lost=lost,
        in_session=missing[np.isin(missing, calendar.t[calendar.is_regular])],
        defects=defects(bars, calendar.t),
        times=tidy[name].t[is_moving],
        fingerprints=_fingerprints(tidy[name][is_moving]),
    )


def _judged(bars: Bars, symbol: str, timeframe: str, start: dt.datetime, end: dt.datetime) -> Bars:
    bars = replace(bars, t=_starts(bars.t, symbol, timeframe))
    return bars[_is_judged(bars.t, timeframe, start, end)]


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


def _shared_holes(parts: Sequence[Series], several: int) -> tuple[SharedHole, ...]:
    shared: list[SharedHole] = []
    for name in dict.fromkeys(part.timeframe for part in parts):
        those = [part for part in parts if part.timeframe == name]
        times, counts = np.unique(np.concatenate([part.in_session for part in those]), return_counts=True)
        who = {t: tuple(part.symbol for part in those if t in part.in_session) for t in times[counts >= several].tolist()}
        shared += [SharedHole(timeframe=name, t_ms=t, symbols=symbols) for t, symbols in who.items()]
    return tuple(shared)


def _blamed(part: Series, shared: Iterable[SharedHole]) -> Series:
    """Move the holes that a series shares with others from `no_trade` to `upstream_holes`."""
    times = [hole.t_ms for hole in shared if hole.timeframe == part.timeframe and part.symbol in hole.symbols]
    is_shared = np.isin(part.no_trade, times)
    return replace(part, no_trade=part.no_trade[~is_shared], upstream_holes=np.union1d(part.upstream_holes, part.no_trade[is_shared]))


def _of_another_symbol(parts: Sequence[Series]) -> list[IntArray]:
    """Return of each series the starts of bars that another symbol has too, with every price and the volume equal."""
    repeated = {}
    for name in dict.fromkeys(part.timeframe for part in parts):
        prints = [part.fingerprints for part in parts if part.timeframe == name]
        found, counts = np.unique(np.concatenate(prints), return_counts=True)
        repeated[name] = found[counts > 1]
    return [part.times[np.isin(part.fingerprints, repeated[part.timeframe])] for part in parts]


def _findings(part: Series, of_another: IntArray) -> list[Finding]:
    kinds = {"lost": part.lost, "upstream_hole": part.upstream_holes, "wrong_symbol": of_another}
    kinds |= {field.name: getattr(part.defects, field.name) for field in fields(Defects)}
    return [
        Finding(symbol=part.symbol, timeframe=part.timeframe, kind=kind, bars=len(times), first_ms=int(times.min()))
        for kind, times in kinds.items()
        if len(times)
    ]
