"""Adds up what was found in all series, stretch after stretch of days, and returns the verdict on the history."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import pyarrow as pa
from pydantic import AliasChoices, Field

from tapecheck.backfill import coverage
from tapecheck.backfill.calendar import DAY_S, NONE, library
from tapecheck.backfill.examination import Examined, distinct, is_among, length_ms
from tapecheck.backfill.values import HOUR_MS
from tapecheck.statistics import intervals
from tapecheck.vendor.bars import FloatArray, IntArray, to_datetime

Key = tuple[str, str]  # symbol and timeframe
DAY_MS = DAY_S * 1000
NO_BARS = "no_bars"  # the kind of finding of a series that holds none of the bars that the calendar expects
KEPT = 200  # shared gaps that are named; all are counted
SEVERAL, BUSY_SEVERAL = 3, 2  # symbols that miss the same slot at least; where their neighbours have hundreds of trades
CHANCE = 0.01  # of so many symbols to miss a slot of the stretch together by chance
LIQUID = 0.95  # of its regular slots a series holds, that is counted among those that miss a slot together
CLOSED_MS, MOST_CLOSED = HOUR_MS // 2, 4  # from which on an exchange is perhaps closed, and how many days in a row
USUAL, THIN = 0.75, 0.1  # the quantile of a day's slots by their trades that is usual, and the part of it that is only a few
SUSPECT_SHARE, SUSPECT_MS = 0.01, 2 * HOUR_MS  # of gaps between busy bars, in one series alone: so many, or one so long
WRONG = (  # kinds of bars that cannot be right
    "wrong_symbol", "out_of_order", "not_finite", "not_positive", "negative_volume", "negative_count", "high_below_low", "outside_range",
    "vwap_outside_range", "off_calendar", "contradicting", "other_level", "high_unlike_parts", "low_unlike_parts", "open_unlike_parts",
    "close_unlike_parts", "volume_unlike_parts",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Defect:
    """Bars of one series that have one fault: how many, the first and last of them, and the longest run of neighbours.

    `first_ms` is None where it cannot be told which bars they are; `z` is the largest robust deviation of a spike.
    """

    symbol: str
    timeframe: str
    kind: str
    bars: int
    first_ms: int | None
    last_ms: int | None = None
    run_ms: int | None = None
    run_bars: int = 0
    z: float | None = None
    note: str = ""

    @property
    def name(self) -> str:
        """Return its series."""
        return f"{self.symbol} {self.timeframe}"


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
    `upstream_gaps` too. `outside` bars lie in no session of the plan. `shared_gaps` are the first of `shared_slots`. `calendar` is
    the library whose sessions were expected.
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
    outside: int = 0
    calendar: str = ""

    def kinds(self) -> dict[str, list[Defect]]:
        """Return what was found, by its kind, the first in time first."""
        found: dict[str, list[Defect]] = {}
        for one in sorted(self.findings, key=lambda one: (one.first_ms is None, one.first_ms)):
            found.setdefault(one.kind, []).append(one)
        return {kind: found[kind] for kind in dict.fromkeys(one.kind for one in self.findings)}

    def first_shared(self) -> str:
        """Return the first slot that several symbols lack."""
        first = self.shared_gaps[0]
        return f"{first.timeframe} {utc(first.t_ms)} {', '.join(first.symbols)}"


def utc(t_ms: int) -> str:
    """Return Unix milliseconds in ISO 8601."""
    return f"{to_datetime(t_ms):%Y-%m-%dT%H:%M:%SZ}"


class Counted:
    """What was found so far, in counts: the series of all symbols in one stretch of days, and then of the next."""

    def __init__(self) -> None:
        self._counts: dict[Key, Counter[str]] = {}  # of each series: its bars by class and by kind of finding
        self._found: dict[tuple[Key, str], list[IntArray]] = {}  # the starts that have one fault
        self._z: dict[Key, float] = {}
        self._shared_slots = 0
        self._shared_gaps: list[SharedGap] = []
        self._days: list[pa.Table] = []

    def add(self, parts: Sequence[Examined]) -> None:
        """Add the series of all symbols in one stretch of days; no bar may lie in two stretches."""
        for name in dict.fromkeys(part.timeframe for part in parts):
            own = [part for part in parts if part.timeframe == name]
            closed = _closed([part for part in own if part.is_stock], length_ms(name))
            shared, busy = _shared(own, closed)
            self._shared_slots += len(distinct(np.concatenate([shared, busy])))
            for t_ms in distinct(np.concatenate([shared, busy]))[: KEPT - len(self._shared_gaps)].tolist():
                symbols = tuple(part.symbol for part in own if t_ms in part.in_session)
                self._shared_gaps.append(SharedGap(timeframe=name, t_ms=t_ms, symbols=symbols))
            for each, of_another in zip(own, _of_another_symbol(own), strict=True):
                self._add(_blamed(each, shared, busy), of_another, each.no_trade[_is_within(each.no_trade, closed)], closed)

    def _add(self, part: Examined, of_another: IntArray, closed: IntArray, ranges: IntArray) -> None:
        """Add one series; `closed` are its slots at which the exchange was perhaps closed, within `ranges`."""
        key = part.symbol, part.timeframe
        counts = self._counts.setdefault(key, Counter())
        counts.update(stored=part.stored, expected=part.expected, present=part.present, no_trade=len(part.no_trade))
        counts.update(regular=len(part.regular), outside=int(part.days["outside"].sum()))
        alone = part.busy[~is_among(part.busy, part.upstream_gaps) & ~is_among(part.busy, closed)]
        missing = {"lost": part.lost, "upstream_gap": part.upstream_gaps, "suspected_gap": alone, "perhaps_closed": closed}
        for kind, times in (missing | {"wrong_symbol": of_another} | part.wrong).items():
            if len(times):
                self._found.setdefault((key, kind), []).append(times)
        self._z[key] = max(self._z.get(key, 0.0), part.z)
        self._days.append(coverage.table(part, ranges))

    def integrity(self, checksum: str = "", acknowledged: Mapping[Key, int] | None = None) -> Integrity:
        """Return the verdict on all that was added.

        Args:
            acknowledged: how many rows of each series were said to be stored, ever; leave out a series that nobody counted.
        """
        every = (
            _defect(key, kind, np.concatenate(times), self._z[key] if kind == "spike" else None)
            for (key, kind), times in sorted(self._found.items())
        )
        found = {((one.symbol, one.timeframe), one.kind): one for one in every if one.kind != "suspected_gap" or self._is_suspect(one)}
        total: Counter[str] = Counter()
        for key, counts in self._counts.items():
            lost = found.get((key, "lost"))
            vanished = max(0, (acknowledged or {}).get(key, 0) - counts["stored"] - (lost.bars if lost else 0))
            total.update(counts, vanished=vanished)
            for kind, bars in ((NO_BARS, 0 if counts["present"] else counts["expected"]), ("vanished", vanished)):
                if bars:
                    found[key, kind] = Defect(symbol=key[0], timeframe=key[1], kind=kind, bars=bars, first_ms=None)
        by_kind: Counter[str] = Counter()
        for one in found.values():
            by_kind[one.kind] += one.bars
        return Integrity(
            series=len(self._counts),
            **{name: total[name] for name in ("expected", "present", "no_trade", "vanished", "outside")},
            upstream_gaps=by_kind["upstream_gap"],
            lost=by_kind["lost"],
            duplicates=by_kind["duplicate"] + by_kind["contradicting"],
            checksum=checksum,
            findings=tuple(found.values()),
            shared_slots=self._shared_slots,
            shared_gaps=tuple(self._shared_gaps),
            calendar=library(),
        )

    def _is_suspect(self, gaps: Defect) -> bool:
        """Tell whether gaps between busy bars of one series are more than a halt makes them."""
        regular = self._counts[gaps.symbol, gaps.timeframe]["regular"]
        return gaps.bars > SUSPECT_SHARE * regular or gaps.run_bars * length_ms(gaps.timeframe) >= SUSPECT_MS

    def days(self) -> pa.Table:
        """Return what each day of each series holds; see `coverage.SCHEMA`."""
        return pa.concat_tables([coverage.SCHEMA.empty_table(), *self._days]).unify_dictionaries()


def _defect(key: Key, kind: str, times: IntArray, z: float | None) -> Defect:
    ordered = distinct(times)
    ends = np.append(np.flatnonzero(np.diff(ordered) != length_ms(key[1])), len(ordered) - 1)
    lengths = np.diff(ends, prepend=-1)
    longest = int(np.argmax(lengths))
    run_bars = int(lengths[longest])
    return Defect(
        symbol=key[0],
        timeframe=key[1],
        kind=kind,
        bars=len(times),
        first_ms=int(ordered[0]),
        last_ms=int(ordered[-1]),
        run_ms=int(ordered[ends[longest] - run_bars + 1]),
        run_bars=run_bars,
        z=z,
    )


# ---- what several series say together ----


def _shared(parts: Sequence[Examined], closed: IntArray) -> tuple[IntArray, IntArray]:
    """Return the slots of the regular session that several symbols lack, and those that few lack between busy bars.

    How many are several depends on how often each lacks one by itself; one that trades seldom is not counted.
    """
    shares = [len(part.in_session) / max(1, len(part.regular)) for part in parts]
    liquid = [(part, share) for part, share in zip(parts, shares, strict=True) if share <= 1 - LIQUID]
    several, slots = SEVERAL, max((len(part.regular) for part in parts), default=0)
    while slots * _poisson_tail(sum(share for _, share in liquid), several) > CHANCE:
        several += 1
    found = _common([part.in_session for part, _ in liquid], several), _common([part.busy for part in parts], BUSY_SEVERAL)
    return found[0][~_is_within(found[0], closed)], found[1][~_is_within(found[1], closed)]


def _common(sets: Iterable[IntArray], least: int) -> IntArray:
    """Return the values that are in at least so many sets, ascending."""
    times, counts = np.unique(np.concatenate([NONE, *sets]), return_counts=True)
    return times[counts >= least]


def _poisson_tail(mean: float, least: int) -> float:
    """Return the probability of `least` or more events where `mean` are expected."""
    return 1 - math.exp(-mean) * sum(mean**k / math.factorial(k) for k in range(least))


def _blamed(part: Examined, shared: IntArray, busy: IntArray) -> Examined:
    """Move the gaps that a series shares with others from `no_trade` to `upstream_gaps`."""
    gaps = part.no_trade[is_among(part.no_trade, part.in_session)]
    moved = gaps[is_among(gaps, shared) | is_among(gaps, busy) & is_among(gaps, part.busy)]
    return replace(part, no_trade=part.no_trade[~is_among(part.no_trade, moved)], upstream_gaps=np.union1d(part.upstream_gaps, moved))


def _closed(parts: Sequence[Examined], width_ms: int) -> IntArray:
    """Return when the exchange was perhaps closed, as pairs of first and last moment: no stock has a bar, or only a few trades.

    From a moment on to the end of the regular session, from its beginning on, or all of a few days. Stocks that trade seldom do not
    count, but on whole days.
    """
    liquid = [part for part in parts if intervals.median(_shares(part)) >= LIQUID]
    if len(liquid) < BUSY_SEVERAL:
        return np.empty((0, 2), np.int64)
    slots, trades = parts[0].regular, np.stack([part.regular_n for part in liquid])
    is_empty = is_among(slots, _common([part.no_trade for part in parts], len(parts)))
    days, first = np.unique(slots // DAY_MS, return_index=True)
    found, closed = [], 0
    for day, a, b in zip(days.tolist(), first.tolist(), [*first[1:].tolist(), len(slots)], strict=True):
        begins, ends = day * DAY_MS + 3 * HOUR_MS, day * DAY_MS + 26 * HOUR_MS  # 00:00 Eastern Time and later, 20:00 and later
        if is_empty[a:b].all():
            closed += 1
            if closed <= MOST_CLOSED:
                found.append((begins, ends))
            elif closed == MOST_CLOSED + 1:
                del found[-MOST_CLOSED:]  # no exchange is closed for so long
            continue
        closed, rank = 0, int(USUAL * (b - a - 1))
        usual = np.partition(trades[:, a:b], rank, axis=1)[:, rank : rank + 1]
        full = np.flatnonzero(~(trades[:, a:b] < THIN * usual).all(axis=0))
        if len(full) and (b - a - 1 - full[-1]) * width_ms >= CLOSED_MS:
            found.append((int(slots[a + full[-1] + 1]), ends))
        elif len(full) and full[0] * width_ms >= CLOSED_MS:
            found.append((begins, int(slots[a + full[0]]) - 1))
    return np.array(found, np.int64).reshape(-1, 2)


def _shares(part: Examined) -> FloatArray:
    """Return of each day that has bars which share of the regular slots it holds; 0 where there is no such day."""
    regular, present = part.days["regular"], part.days["regular_present"]
    has = (regular > 0) & (present > 0)
    return present[has] / regular[has] if has.any() else np.zeros(1)


def _is_within(t: IntArray, ranges: IntArray) -> IntArray:
    """Tell of each time whether it lies in one of some ascending ranges."""
    at = np.searchsorted(ranges[:, 0], t, side="right") - 1
    return (at >= 0) & (t <= ranges[np.maximum(at, 0), 1]) if len(ranges) else np.zeros(len(t), bool)


def _of_another_symbol(parts: Sequence[Examined]) -> list[IntArray]:
    """Return of each series of a timeframe the starts of bars that another symbol has too, with every price and the volume equal."""
    ordered = np.sort(np.concatenate([NONE, *(part.fingerprints for part in parts)]))
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    return [part.times[np.isin(part.fingerprints, repeated)] for part in parts]
