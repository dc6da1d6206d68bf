"""Proves from other bars of the same symbol that there was trade where a bar is missing. It knows no calendar.

A shorter bar inside the gap proves it. So does a longer bar around it whose volume or trades exceed the sum of the bars that
are stored inside it; the shortest longer bar decides, because vendors count trades into day bars that they leave out of minutes.
"""

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from pydantic import AliasChoices, Field

from tapecheck.backfill.calendar import BoolArray, Slots, slots
from tapecheck.vendor.bars import CRYPTO, TIMEFRAMES, Bars, FloatArray, IntArray, to_datetime, to_ms

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


# ---- examination ----

DAY_MS = 86_400_000
NONE = np.empty(0, np.int64)
OLD_CRYPTO_DAY_MS = 4 * 3600 * 1000  # the vendor's older samples begin a crypto day at 04:00 UTC


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """What was found in one symbol and timeframe; times are starts in Unix ms, `fingerprints` are of the bars at `times`.

    `stored` counts all rows, also those that are not judged; `wrong` has the bars that cannot be right, by what is wrong with them.
    """

    symbol: str
    timeframe: str
    stored: int
    expected: int
    present: int
    no_trade: IntArray
    upstream_gaps: IntArray
    lost: IntArray
    in_session: IntArray  # gaps of the regular session that are not ours
    wrong: dict[str, IntArray]
    times: IntArray
    fingerprints: IntArray


def wrong_bars(bars: Bars, late: IntArray, calendar: IntArray) -> dict[str, IntArray]:
    """Return the starts of the stored bars of a series that cannot be right; `late` are the starts that were sent out of order."""
    _, first = np.unique(bars.t, return_index=True)
    is_finite = np.isfinite(np.stack((bars.o, bars.h, bars.l, bars.c, bars.v))).all(axis=0)
    is_crossed = bars.h < bars.l
    is_outside = (np.maximum(bars.o, bars.c) > bars.h) | (np.minimum(bars.o, bars.c) < bars.l)
    return {
        "duplicate": np.delete(bars.t, first),
        "out_of_order": late,  # sent after a later bar of the same page; a table has no order
        "not_finite": bars.t[~is_finite],
        "negative_volume": bars.t[bars.v < 0],
        "high_below_low": bars.t[is_crossed],
        "outside_range": bars.t[is_outside & ~is_crossed],  # open or close above the high or below the low
        "off_calendar": bars.t[~is_among(bars.t, calendar)],  # a start that no session has
    }


def examine(
    symbol: str, stored: Mapping[str, Bars], received: Mapping[str, Sequence[IntArray]], *, start: dt.datetime, end: dt.datetime
) -> list[Examined]:
    """Examine every timeframe of one symbol; only bars that begin at or after `start` and are over by `end` are judged.

    Args:
        stored: the bars of each timeframe, all that are stored, in any order. Leave out of both a timeframe whose job did not
            end: of what was never asked for nothing can be said.
        received: the starts (Unix ms) that upstream sent, by timeframe, page by page; of one that is absent nothing can be
            lost, and one that is absent from `stored` is lost as a whole.
    """
    found, sent, late = {}, {}, {}
    for name in dict.fromkeys((*stored, *received)):
        bars, pages = stored.get(name, Bars.empty()), received.get(name, ())
        bars = replace(bars, t=_starts(bars.t, symbol, name))
        is_judged = _is_judged(bars.t, name, start, end)
        found[name] = bars if is_judged.all() else bars[is_judged]
        sent[name], late[name] = (
            _judged([_starts(page, symbol, name) for page in parts], name, start, end) for parts in (pages, map(_late, pages))
        )
    tidy = {name: _tidy(bars) for name, bars in found.items()}
    return [
        _series(symbol, name, bars, tidy, sent[name], late[name], len(stored.get(name, ())), slots(symbol, name, start, end))
        for name, bars in found.items()
    ]


def _late(page: IntArray) -> IntArray:
    """Return the starts of a page that came after a later one."""
    return page[page < np.maximum.accumulate(page)]


def _judged(pages: Sequence[IntArray], timeframe: str, start: dt.datetime, end: dt.datetime) -> IntArray:
    t = np.concatenate([NONE, *pages])
    return t[_is_judged(t, timeframe, start, end)]


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
) -> Examined:
    received = distinct(sent)
    expected = distinct(np.concatenate([calendar.t, received]))
    gaps = expected[~is_among(expected, tidy[name].t)]
    is_lost = is_among(gaps, received)
    lost, missing = gaps[is_lost], gaps[~is_lost]
    is_gap = has_trade(name, tidy, missing, lost)
    is_moving = tidy[name].h > tidy[name].l  # a bar of one trade may well be that of another symbol too
    return Examined(
        symbol=symbol,
        timeframe=name,
        stored=stored,
        expected=len(expected),
        present=len(expected) - len(gaps),
        no_trade=missing[~is_gap],
        upstream_gaps=missing[is_gap],
        lost=lost,
        in_session=missing[is_among(missing, calendar.t[calendar.is_regular])],
        wrong=wrong_bars(bars, late, calendar.t),
        times=tidy[name].t[is_moving],
        fingerprints=_fingerprints(tidy[name][is_moving]),
    )


def _tidy(bars: Bars) -> Bars:
    """Return the bars ascending, each start once; those that are so already are not copied."""
    return bars if (np.diff(bars.t) > 0).all() else bars[np.unique(bars.t, return_index=True)[1]]


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


# ---- integrity ----

Key = tuple[str, str]  # symbol and timeframe
NO_BARS = "no_bars"  # the kind of finding of a series that holds none of the bars that the calendar expects
KEPT = 200  # shared gaps that are named; all are counted
SEVERAL = 3  # symbols that miss the same slot: if each of 25 missed one of 2,000 by itself, three would together once in 180 years
WRONG = (  # kinds of bars that cannot be right
    "wrong_symbol", "out_of_order", "not_finite", "negative_volume", "high_below_low", "outside_range", "off_calendar",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Defect:
    """Something wrong in one series: how many bars, and the first of them (Unix ms); None where it cannot be told."""

    symbol: str
    timeframe: str
    kind: str
    bars: int
    first_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of finding over all series; `first` is the first bar that is known by its time."""

    bars: int
    series: tuple[str, ...]
    first: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedGap:
    """A slot of the regular session that several symbols miss: hardly for want of trade."""

    timeframe: str
    t_ms: int
    symbols: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Integrity:
    """The verdict on `series` series; expected = present + no_trade + upstream_gaps + lost.

    `vanished` bars were stored by an earlier run and are gone: which, cannot be told, so they are counted among `no_trade` or
    `upstream_gaps` too. `shared_gaps` are the first of `shared_slots`.
    """

    series: int
    expected: int
    present: int
    no_trade: int
    upstream_gaps: Annotated[int, Field(validation_alias=AliasChoices("upstream_gaps", "upstream_holes"))]  # of an older recording
    lost: int
    vanished: int
    duplicates: int
    checksum: str
    findings: tuple[Defect, ...]
    shared_slots: int
    shared_gaps: Annotated[tuple[SharedGap, ...], Field(validation_alias=AliasChoices("shared_gaps", "shared_holes"))]

    def kinds(self) -> dict[str, Kind]:
        """Return what was found, by its kind."""
        found: dict[str, Kind] = {}
        for name in dict.fromkeys(one.kind for one in self.findings):
            ones = [one for one in self.findings if one.kind == name]
            known = [(one.first_ms, f"{one.symbol} {one.timeframe}") for one in ones if one.first_ms is not None]
            found[name] = Kind(
                bars=sum(one.bars for one in ones),
                series=tuple(f"{one.symbol} {one.timeframe}" for one in ones),
                first=f"{min(known)[1]} {utc(min(known)[0])}" if known else None,
            )
        return found

    def first_shared(self) -> str:
        """Return the first slot that several symbols lack."""
        first = self.shared_gaps[0]
        return f"{first.timeframe} {utc(first.t_ms)} {', '.join(first.symbols)}"


def utc(t_ms: int) -> str:
    """Return Unix milliseconds in ISO 8601."""
    return f"{to_datetime(t_ms):%Y-%m-%dT%H:%M:%SZ}"


class Counted:
    """What was found so far, in counts: the series of all symbols in one stretch of days, and then of the next."""

    def __init__(self, *, several: int = SEVERAL) -> None:
        self._several = several
        self._counts: dict[Key, Counter[str]] = {}  # of each series: its bars by class and by kind of finding
        self._first_ms: dict[tuple[Key, str], int] = {}
        self._shared_slots = 0
        self._shared_gaps: list[SharedGap] = []

    def add(self, parts: Sequence[Examined]) -> None:
        """Add the series of all symbols in one stretch of days; no bar may lie in two stretches."""
        shared = _shared_slots(parts, self._several)
        self._shared_slots += sum(len(times) for times in shared.values())
        first = [(name, t_ms) for name, times in shared.items() for t_ms in times[:KEPT].tolist()]
        self._shared_gaps += [_shared_gap(parts, *slot) for slot in first[: KEPT - len(self._shared_gaps)]]
        for each, of_another in zip(parts, _of_another_symbol(parts), strict=True):
            part = _blamed(each, shared[each.timeframe])
            key = part.symbol, part.timeframe
            counts = self._counts.setdefault(key, Counter())
            counts.update(stored=part.stored, expected=part.expected, present=part.present, no_trade=len(part.no_trade))
            missing = {"lost": part.lost, "upstream_gap": part.upstream_gaps, "wrong_symbol": of_another}
            for kind, times in (missing | part.wrong).items():
                if len(times):
                    counts[kind] += len(times)
                    self._first_ms[key, kind] = min(self._first_ms.get((key, kind), int(times.min())), int(times.min()))

    def integrity(self, checksum: str = "", acknowledged: Mapping[Key, int] | None = None) -> Integrity:
        """Return the verdict on all that was added.

        Args:
            acknowledged: how many rows of each series were said to be stored, ever; leave out a series that nobody counted.
        """
        total, findings = Counter[str](), list[Defect]()
        for key, counts in self._counts.items():
            found = {kind: bars for kind, bars in counts.items() if (key, kind) in self._first_ms}
            if not counts["present"]:
                found[NO_BARS] = counts["expected"]
            found["vanished"] = max(0, (acknowledged or {}).get(key, 0) - counts["stored"] - counts["lost"])
            total.update(counts, vanished=found["vanished"])
            findings += [
                Defect(symbol=key[0], timeframe=key[1], kind=kind, bars=bars, first_ms=self._first_ms.get((key, kind)))
                for kind, bars in found.items()
                if bars
            ]
        return Integrity(
            series=len(self._counts),
            expected=total["expected"],
            present=total["present"],
            no_trade=total["no_trade"],
            upstream_gaps=total["upstream_gap"],
            lost=total["lost"],
            vanished=total["vanished"],
            duplicates=total["duplicate"],
            checksum=checksum,
            findings=tuple(findings),
            shared_slots=self._shared_slots,
            shared_gaps=tuple(self._shared_gaps),
        )


def _shared_slots(parts: Sequence[Examined], several: int) -> dict[str, IntArray]:
    """Return by timeframe the slots of the regular session that several symbols lack."""
    shared = {}
    for name in dict.fromkeys(part.timeframe for part in parts):
        times, counts = np.unique(np.concatenate([part.in_session for part in parts if part.timeframe == name]), return_counts=True)
        shared[name] = times[counts >= several]
    return shared


def _shared_gap(parts: Iterable[Examined], name: str, t_ms: int) -> SharedGap:
    symbols = tuple(part.symbol for part in parts if part.timeframe == name and t_ms in part.in_session)
    return SharedGap(timeframe=name, t_ms=t_ms, symbols=symbols)


def _blamed(part: Examined, shared: IntArray) -> Examined:
    """Move the gaps that a series shares with others from `no_trade` to `upstream_gaps`."""
    is_shared = is_among(part.no_trade, shared) & is_among(part.no_trade, part.in_session)
    return replace(part, no_trade=part.no_trade[~is_shared], upstream_gaps=np.union1d(part.upstream_gaps, part.no_trade[is_shared]))


def _of_another_symbol(parts: Sequence[Examined]) -> list[IntArray]:
    """Return of each series the starts of bars that another symbol has too, with every price and the volume equal."""
    repeated = {}
    for name in dict.fromkeys(part.timeframe for part in parts):
        prints = [part.fingerprints for part in parts if part.timeframe == name]
        ordered = np.concatenate(prints)
        ordered.sort()
        repeated[name] = ordered[1:][ordered[1:] == ordered[:-1]]
    return [part.times[np.isin(part.fingerprints, repeated[part.timeframe])] for part in parts]
