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
NO_BARS = "no_bars"  # the kind of finding of a series that holds none of the bars that the calendar expects
KEPT = 200  # shared holes that are named; all are counted
SEVERAL = 3  # symbols that miss the same slot: if each of 25 missed one of 2,000 by itself, three would together once in 180 years
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


WRONG = ("wrong_symbol", *(field.name for field in fields(Defects) if field.name != "duplicate"))  # kinds of bars that cannot be right


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """What was found in one symbol and timeframe; times are starts in Unix ms, `fingerprints` are of the bars at `times`.

    `vanished` counts rows that were acknowledged and are no longer there, beyond those that are `lost`.
    """

    symbol: str
    timeframe: str
    expected: int
    present: int
    no_trade: IntArray
    upstream_holes: IntArray
    lost: IntArray
    vanished: int
    in_session: IntArray  # holes of the regular session that are not ours
    defects: Defects
    times: IntArray
    fingerprints: IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something wrong in one series: how many bars, and the first of them (Unix ms); None where it cannot be told."""

    symbol: str
    timeframe: str
    kind: str
    bars: int
    first_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedHole:
    """A slot of the regular session that several symbols miss: hardly for want of trade."""

    timeframe: str
    t_ms: int
    symbols: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Integrity:
    """The verdict on `series` series; expected = present + no_trade + upstream_holes + lost.

    `vanished` bars were stored by an earlier run and are gone: which, cannot be told, so they are counted among `no_trade` or
    `upstream_holes` too. `shared_holes` are the first of `shared_slots`.
    """

    series: int
    expected: int
    present: int
    no_trade: int
    upstream_holes: int
    lost: int
    vanished: int
    duplicates: int
    checksum: str
    findings: tuple[Finding, ...]
    shared_slots: int
    shared_holes: tuple[SharedHole, ...]


def defects(bars: Bars, pages: Iterable[IntArray], calendar: IntArray) -> Defects:
    """Return what is wrong with single stored bars of a series, and with the order of the pages of starts that were sent."""
    _, first = np.unique(bars.t, return_index=True)
    is_repeated = np.ones(len(bars), bool)
    is_repeated[first] = False
    prices = np.stack((bars.o, bars.h, bars.l, bars.c))
    is_finite = np.isfinite(prices).all(axis=0) & np.isfinite(bars.v)
    is_crossed = bars.h < bars.l
    is_outside = (np.maximum(bars.o, bars.c) > bars.h) | (np.minimum(bars.o, bars.c) < bars.l)
    return Defects(
        duplicate=bars.t[is_repeated],
        out_of_order=np.concatenate([NONE, *(page[page < np.maximum.accumulate(page)] for page in pages)]),
        not_finite=bars.t[~is_finite],
        negative_volume=bars.t[bars.v < 0],
        high_below_low=bars.t[is_crossed],
        outside_range=bars.t[is_outside & ~is_crossed],
        off_calendar=bars.t[~_is_among(bars.t, calendar)],
    )


def examine(
    symbol: str,
    stored: Mapping[str, Bars],
    received: Mapping[str, Sequence[IntArray]],
    *,
    start: dt.datetime,
    end: dt.datetime,
    acknowledged: Mapping[str, int] | None = None,
) -> list[Series]:
    """Examine every timeframe of one symbol; only bars that begin at or after `start` and are over by `end` are judged.

    Args:
        stored: the bars of each timeframe, all that are stored, in any order. Leave out of both a timeframe whose job did not
            end: of what was never asked for nothing can be said.
        received: the starts (Unix ms) that upstream sent, by timeframe, page by page; of one that is absent nothing can be
            lost, and one that is absent from `stored` is lost as a whole.
        acknowledged: how many rows of each timeframe were said to be stored, ever; None where nobody counted.
    """
    acknowledged = acknowledged or {}
    names = dict.fromkeys((*stored, *received))
    inside = {name: _judged(stored.get(name, Bars.empty()), symbol, name, start, end) for name in names}
    sent = {name: [_judged_times(page, symbol, name, start, end) for page in received.get(name, ())] for name in names}
    tidy = {name: _tidy(bars) for name, bars in inside.items()}
    gone = {name: acknowledged.get(name, 0) - len(stored.get(name, ())) for name in names}
    return [_series(symbol, name, bars, tidy, sent[name], gone[name], slots(symbol, name, start, end)) for name, bars in inside.items()]


def distinct(t: IntArray) -> IntArray:
    """Return values in ascending order, each once; `np.unique` hashes them, which takes ten times as long where they ascend already."""
    ordered = np.sort(t)
    is_first: BoolArray = np.diff(ordered, prepend=ordered[:1] - 1) > 0
    return ordered[is_first]


def _is_among(t: IntArray, ascending: IntArray) -> BoolArray:
    """Tell of each value whether it is one of some ascending ones, as `np.isin` does, which hashes too."""
    is_found: BoolArray = np.searchsorted(ascending, t, side="right") > np.searchsorted(ascending, t)
    return is_found


def judge(series: Iterable[Series], checksum: str, *, several: int = SEVERAL) -> Integrity:
    """Put the series of all symbols together: holes and bars that they share, and the totals."""
    parts = list(series)
    shared = _shared_slots(parts, several)
    parts = [_blamed(part, shared[part.timeframe]) for part in parts]
    first_shared = [(name, t_ms) for name, times in shared.items() for t_ms in times[:KEPT].tolist()][:KEPT]
    findings = [finding for part, wrong in zip(parts, _of_another_symbol(parts), strict=True) for finding in _findings(part, wrong)]
    return Integrity(
        series=len(parts),
        expected=sum(part.expected for part in parts),
        present=sum(part.present for part in parts),
        no_trade=sum(len(part.no_trade) for part in parts),
        upstream_holes=sum(len(part.upstream_holes) for part in parts),
        lost=sum(len(part.lost) for part in parts),
        vanished=sum(part.vanished for part in parts),
        duplicates=sum(len(part.defects.duplicate) for part in parts),
        checksum=checksum,
        findings=tuple(findings),
        shared_slots=sum(len(times) for times in shared.values()),
        shared_holes=tuple(_shared_hole(parts, name, t_ms) for name, t_ms in first_shared),
    )


def _series(symbol: str, name: str, bars: Bars, tidy: Mapping[str, Bars], pages: Sequence[IntArray], gone: int, calendar: Slots) -> Series:
    received = distinct(np.concatenate([NONE, *pages]))
    expected = distinct(np.concatenate([calendar.t, received]))
    holes = expected[~_is_among(expected, tidy[name].t)]
    is_lost = _is_among(holes, received)
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
        vanished=max(0, gone - len(lost)),
        in_session=missing[_is_among(missing, calendar.t[calendar.is_regular])],
        defects=defects(bars, pages, calendar.t),
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


def _shared_slots(parts: Sequence[Series], several: int) -> dict[str, IntArray]:
    """Return by timeframe the slots of the regular session that several symbols lack."""
    shared = {}
    for name in dict.fromkeys(part.timeframe for part in parts):
        times, counts = np.unique(np.concatenate([part.in_session for part in parts if part.timeframe == name]), return_counts=True)
        shared[name] = times[counts >= several]
    return shared


def _shared_hole(parts: Iterable[Series], name: str, t_ms: int) -> SharedHole:
    symbols = tuple(part.symbol for part in parts if part.timeframe == name and t_ms in part.in_session)
    return SharedHole(timeframe=name, t_ms=t_ms, symbols=symbols)


def _blamed(part: Series, shared: IntArray) -> Series:
    """Move the holes that a series shares with others from `no_trade` to `upstream_holes`."""
    is_shared = _is_among(part.no_trade, shared) & _is_among(part.no_trade, part.in_session)
    return replace(part, no_trade=part.no_trade[~is_shared], upstream_holes=np.union1d(part.upstream_holes, part.no_trade[is_shared]))


def _of_another_symbol(parts: Sequence[Series]) -> list[IntArray]:
    """Return of each series the starts of bars that another symbol has too, with every price and the volume equal."""
    repeated = {}
    for name in dict.fromkeys(part.timeframe for part in parts):
        prints = [part.fingerprints for part in parts if part.timeframe == name]
        ordered = np.concatenate(prints)
        ordered.sort()
        repeated[name] = ordered[1:][ordered[1:] == ordered[:-1]]
    return [part.times[np.isin(part.fingerprints, repeated[part.timeframe])] for part in parts]


def _findings(part: Series, of_another: IntArray) -> list[Finding]:
    kinds = {"lost": part.lost, "upstream_hole": part.upstream_holes, "wrong_symbol": of_another}
    kinds |= {field.name: getattr(part.defects, field.name) for field in fields(Defects)}
    counts: dict[str, tuple[int, int | None]] = {kind: (len(times), int(times.min())) for kind, times in kinds.items() if len(times)}
    if part.expected and not part.present:
        counts[NO_BARS] = (part.expected, None)
    if part.vanished:
        counts["vanished"] = (part.vanished, None)
    return [
        Finding(symbol=part.symbol, timeframe=part.timeframe, kind=kind, bars=bars, first_ms=first_ms)
        for kind, (bars, first_ms) in counts.items()
    ]
