"""Says how much of its history each series holds, from what its days hold: coverage, absences, and jumps from day to day. Pure.

A day counts as absent only where trade was to be expected: where the days beside it have hundreds of trades, or where days without
a bar are too rare for this one to be chance.
"""

import datetime as dt
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from tapecheck.backfill.calendar import eastern_s
from tapecheck.backfill.examination import BUSY_TRADES, Examined
from tapecheck.statistics import intervals
from tapecheck.vendor.bars import TIMEFRAMES, IntArray, to_datetime

SCHEMA = pa.schema(
    [
        pa.field("symbol", pa.dictionary(pa.int32(), pa.string())),
        pa.field("timeframe", pa.dictionary(pa.int32(), pa.string())),
        pa.field("day", pa.int32(), metadata={"unit": "days since 1970-01-01, of the symbol's market"}),
        pa.field("expected", pa.int32(), metadata={"unit": "slots of the plan's sessions"}),
        pa.field("present", pa.int32(), metadata={"unit": "bars in these slots"}),
        pa.field("regular", pa.int32(), metadata={"unit": "slots of the regular session"}),
        pa.field("regular_present", pa.int32(), metadata={"unit": "bars in these slots"}),
        pa.field("outside", pa.int32(), metadata={"unit": "bars outside the plan's sessions"}),
        pa.field("closed", pa.int32(), metadata={"unit": "slots of the regular session at which no stock has a bar"}),
        pa.field("first_ms", pa.int64(), metadata={"unit": "Unix ms, start of the first bar; 0 without any"}),
        pa.field("last_ms", pa.int64(), metadata={"unit": "Unix ms, start of the last bar; 0 without any"}),
        pa.field("open", pa.float64(), metadata={"unit": "price of the first bar's open; NaN without any"}),
        pa.field("close", pa.float64(), metadata={"unit": "price of the last bar's close; NaN without any"}),
        pa.field("trades", pa.float64(), metadata={"unit": "trades; 0 where the vendor does not say"}),
        pa.field("origin_h", pa.int32(), metadata={"unit": "h after 00:00 UTC (4h: after a multiple of it) at which a crypto bar begins"}),
    ]
)
MANY_BARS = 20  # of a day: who trades so often trades every day
RARE = 0.01  # runs of absent days that chance would make in the history
RENAMED_DAYS, OTHER_LEVEL = 10, 1.5  # an absence from which on another price level, by which factor, is another company's
SPLITS = (2, 3, 4, 5, 6, 7, 8, 10, 15, 20, 25, 30, 40, 50, 100)
SPLIT_TOLERANCE, STAYS_DAYS = 0.05, 3  # in logarithms, of the night's move beside the split; days on either side that tell the level
MOST_APART = 5  # calendar days between neighbouring days of trade
DAY0 = dt.date(1970, 1, 1)


def table(part: Examined, closed: IntArray) -> pa.Table:
    """Return the days of an examined series, with what of them lies in ranges of time at which the exchange was perhaps closed."""
    days = part.days
    rows = dict(days)
    inside = np.zeros(len(part.regular), bool)
    for first_ms, last_ms in closed if part.is_stock else ():
        inside |= (part.regular >= first_ms) & (part.regular <= last_ms)
    shut = np.searchsorted(part.regular[inside] // 86_400_000, days["day"], side="right")
    rows["closed"] = shut - np.searchsorted(part.regular[inside] // 86_400_000, days["day"])
    zeros = pa.array(np.zeros(len(days["day"]), np.int32))
    names = {name: pa.DictionaryArray.from_arrays(zeros, [getattr(part, name)]) for name in NAMES}
    return pa.table({name: (names | rows)[name] for name in SCHEMA.names}).cast(SCHEMA)


NAMES = ("symbol", "timeframe")


@dataclass(frozen=True, slots=True, kw_only=True)
class DayRange:
    """A run of expected days without a bar, both ends included."""

    first: dt.date
    last: dt.date
    days: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How much of its history a series holds.

    `coverage` is the share of expected slots that have a bar; slots at which the exchange was perhaps closed are not expected.
    Days are those of the market: `longest_gap` is the longest run without a bar, before the first and after the last one included.
    """

    expected: int
    present: int
    coverage: float | None
    first_bar: dt.datetime | None
    last_bar: dt.datetime | None
    late_start_days: int
    early_end_days: int
    longest_gap_days: int
    longest_gap: DayRange | None
    bars_per_day: float | None


METRICS = {  # of coverage: the objective is about the worst series
    "coverage": min,
    "bars_per_day": min,
    "longest_gap_days": max,
    "late_start_days": max,
    "early_end_days": max,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Absence:
    """Expected days on which a symbol has no bar in some timeframes, although it trades on such days, in ranges.

    `where` says of the longest, the first of `spans`, whether it lies before the first bar or after the last one. `levels` are the
    prices on both sides of it, where it is so long and they are so different that the ticker may have been another company's.
    """

    symbol: str
    timeframes: tuple[str, ...]
    days: int
    spans: tuple[DayRange, ...]
    where: str
    levels: tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Jump:
    """A change between neighbouring days of a symbol: of price, near the ratio of a usual split, or of the hour at which days begin."""

    symbol: str
    timeframes: tuple[str, ...]
    day: dt.date
    before: float
    after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Covered:
    """What the days of all series say."""

    series: dict[str, dict[str, Coverage]]
    absences: list[Absence]
    splits: list[Jump]
    origins: list[Jump]

    def worst(self, metric: str) -> float | None:
        """Return the value of a metric of the series that is worst by it."""
        values = [getattr(one, metric) for frames in self.series.values() for one in frames.values()]
        known = [float(value) for value in values if value is not None]
        return METRICS[metric](known) if known else None


def covered(days: pa.Table, coins: Collection[str]) -> Covered:
    """Return what the days of a recording say; the days of `coins` may begin at any hour."""
    frame = days.to_pandas().sort_values("day", kind="stable")
    each = {key: _Series.of(group) for key, group in frame.groupby(list(NAMES), observed=True, sort=False)}
    symbols = dict.fromkeys(symbol for symbol, _ in each)
    by_symbol = {symbol: {frame: one for (other, frame), one in each.items() if other == symbol} for symbol in symbols}
    return Covered(
        series={symbol: {name: one.coverage() for name, one in frames.items()} for symbol, frames in by_symbol.items()},
        absences=[one for symbol, frames in by_symbol.items() for one in _absences(symbol, frames)],
        splits=[one for symbol, frames in by_symbol.items() for one in _jumps(symbol, {name: f.splits() for name, f in frames.items()})],
        origins=[
            one
            for symbol, frames in by_symbol.items()
            if symbol in coins
            for one in _jumps(symbol, {name: list(f.origins(name)) for name, f in frames.items()})
        ],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Series:
    """The days of one series as columns; `is_due` tells those that have a regular session, and `has` those that have bars."""

    columns: Mapping[str, Any]
    is_due: Any
    has: Any

    @classmethod
    def of(cls, group: pd.DataFrame) -> "_Series":
        columns = {name: group[name].to_numpy() for name in SCHEMA.names if name not in NAMES}
        has = columns["last_ms"] > 0
        return cls(columns=columns, is_due=(columns["regular"] > 0) & ((columns["closed"] < columns["regular"]) | has), has=has)

    def __getitem__(self, name: str) -> Any:
        return self.columns[name]

    def coverage(self) -> Coverage:
        """Return the figures."""
        is_shut = (self["regular"] > 0) & ~self.is_due
        due = np.where(is_shut, 0, np.maximum(self["expected"] - self["closed"], self["present"]))
        expected, present = int(due.sum()), int(self["present"].sum())
        spans = self.spans()
        whole = int(self.is_due.sum())
        return Coverage(
            expected=expected,
            present=present,
            coverage=present / expected if expected else None,
            first_bar=to_datetime(self["first_ms"][self.has][0]) if self.has.any() else None,
            last_bar=to_datetime(self["last_ms"][self.has][-1]) if self.has.any() else None,
            late_start_days=spans[0][1] if spans and spans[0][0] == 0 else 0,
            early_end_days=spans[-1][1] if spans and sum(spans[-1]) == whole else 0,
            longest_gap_days=max((length for _, length in spans), default=0),
            longest_gap=self.span(max(spans, key=lambda one: one[1])) if spans else None,
            bars_per_day=float(self["present"][self.has].mean()) if self.has.any() else None,
        )

    def spans(self) -> list[tuple[int, int]]:
        """Return the runs of expected days without a bar: the number of the first day among those expected, and of days."""
        empty = np.concatenate(([0], ~self.has[self.is_due], [0])).astype(int)
        begins, ends = np.flatnonzero(np.diff(empty) > 0), np.flatnonzero(np.diff(empty) < 0)
        return list(zip(begins.tolist(), (ends - begins).tolist(), strict=True))

    def span(self, run: tuple[int, int]) -> DayRange:
        """Return a run by its dates."""
        days = self["day"][self.is_due]
        return DayRange(first=_date(days[run[0]]), last=_date(days[sum(run) - 1]), days=run[1])

    def unlikely(self) -> list[tuple[int, int]]:
        """Return the runs of expected days without a bar that are no want of trade."""
        has, trades, present = self.has[self.is_due], self["trades"][self.is_due], self["present"][self.is_due]
        is_busy = (trades >= BUSY_TRADES) | (trades <= 0) & (present >= MANY_BARS)
        runs = self.spans()
        absent, days = int((~has).sum()), len(has)
        found = []
        for first, length in runs:
            beside = [is_busy[at] for at in (first - 1, first + length) if 0 <= at < days]
            others = max(1, days - length)
            chance = days * ((absent - length) / others) ** length
            if beside and (all(beside) or chance < RARE):
                found.append((first, length))
        return found

    def levels(self, run: tuple[int, int]) -> tuple[float, float] | None:
        """Return the price before and after a run, where both are known and far from each other."""
        first, length = run
        closes, opens = self["close"][self.is_due], self["open"][self.is_due]
        if length < RENAMED_DAYS or first == 0 or first + length >= len(closes):
            return None
        before, after = float(closes[first - 1]), float(opens[first + length])
        return (before, after) if before > 0 and after > 0 and abs(math.log(after / before)) > math.log(OTHER_LEVEL) else None

    def splits(self) -> list[tuple[int, float, float]]:
        """Return the days (and the prices before and after) on which the price jumps by the ratio of a usual split, and stays there."""
        rows = self.has & (self["open"] > 0) & (self["close"] > 0)
        day, opens, closes = self["day"][rows], np.log(self["open"][rows]), np.log(self["close"][rows])
        if len(day) < 2:
            return []
        usual = np.log(np.array([*SPLITS, *(1 / ratio for ratio in SPLITS)], float))
        jump = opens[1:] - closes[:-1]
        nearest = usual[np.argmin(np.abs(jump[:, None] - usual), axis=1)]
        near = (np.abs(jump - nearest) < SPLIT_TOLERANCE) & (np.diff(day) <= MOST_APART)
        found = []
        for at in (np.flatnonzero(near) + 1).tolist():
            moved = intervals.median(closes[at : at + STAYS_DAYS]) - intervals.median(closes[max(0, at - STAYS_DAYS) : at])
            if abs(moved - nearest[at - 1]) < 3 * SPLIT_TOLERANCE:
                found.append((int(day[at]), float(np.exp(closes[at - 1])), float(np.exp(opens[at]))))
        return found

    def origins(self, timeframe: str) -> Iterator[tuple[int, float, float]]:
        """Yield the day from which on, and the hours before and after, where days begin at another hour than they began."""
        width_h = TIMEFRAMES[timeframe].length_s // 3600
        if width_h < 4 or not self.has.any():
            return
        day, origin = self["day"][self.has], self["origin_h"][self.has]
        eastern = np.array([eastern_s(_date(one)) // 3600 - 24 * one for one in day.tolist()])
        known = [np.full(len(day), hour) % width_h for hour in (0, 4, 5)] + [eastern % width_h]
        fits = [int(np.argmax(np.append(origin != one, True))) for one in known]  # the first day that does not
        longest = max(fits)
        if longest < len(day):
            yield int(day[longest]), float(origin[longest - 1] if longest else origin[0]), float(origin[longest])


# ---- calendar ----

STATES = ("closed", "present", "partial", "absent")
WHOLE = 0.9  # of the regular slots of a day, in each timeframe: less is partial


@dataclass(frozen=True, slots=True, kw_only=True)
class Calendar:
    """The state of each symbol on each day, as numbers of `STATES`; `first` is the day of the first column."""

    symbols: list[str]
    first: dt.date
    states: IntArray


def calendar(days: pa.Table) -> Calendar:
    """Return which days of each symbol are present in all of its timeframes, in part, or in none, or were closed."""
    frame = days.to_pandas()
    open_slots = (frame.regular - frame.closed).clip(lower=0)
    frame = frame.assign(is_due=open_slots > 0, is_whole=frame.regular_present >= WHOLE * open_slots, has=frame.last_ms > 0)
    grouped = frame.groupby(["symbol", "day"], observed=True, sort=False)[["is_due", "is_whole", "has"]]
    any_of, all_of = grouped.any(), grouped.all()
    state = np.where(~any_of.has, STATES.index("absent"), np.where(all_of.is_whole, STATES.index("present"), STATES.index("partial")))
    state = np.where(any_of.is_due | any_of.has, state, STATES.index("closed"))
    symbols = list(dict.fromkeys(any_of.index.get_level_values("symbol")))
    zero = int(frame.day.min()) if len(frame) else 0
    states = np.zeros((len(symbols), int(frame.day.max()) - zero + 1 if len(frame) else 0), np.int64)
    rows = np.array([symbols.index(symbol) for symbol in any_of.index.get_level_values("symbol")], np.int64)
    states[rows, any_of.index.get_level_values("day").to_numpy(np.int64) - zero] = state
    return Calendar(symbols=symbols, first=_date(zero), states=states)


def _date(day: int) -> dt.date:
    return DAY0 + dt.timedelta(days=int(day))


def _absences(symbol: str, frames: Mapping[str, _Series]) -> Iterator[Absence]:
    """Yield what is absent, timeframes that lack the same days as one."""
    alike: dict[tuple[DayRange, ...], Absence] = {}
    for name, one in frames.items():
        runs = sorted(one.unlikely(), key=lambda run: -run[1]) if one.has.any() else []
        if not runs:
            continue
        first, length = runs[0]
        spans = tuple(map(one.span, runs))
        names = alike[spans].timeframes if spans in alike else ()
        alike[spans] = Absence(
            symbol=symbol,
            timeframes=(*names, name),
            days=sum(span.days for span in spans),
            spans=spans,
            where="before its first bar" if first == 0 else "after its last bar" if first + length == one.is_due.sum() else "",
            levels=one.levels(runs[0]),
        )
    yield from alike.values()


def _jumps(symbol: str, found: Mapping[str, Sequence[tuple[int, float, float]]]) -> Iterator[Jump]:
    """Yield each jump of a symbol once, with the timeframes that have it."""
    for day in sorted({day for jumps in found.values() for day, _, _ in jumps}):
        names = [name for name, jumps in found.items() if any(day == one[0] for one in jumps)]
        before, after = next((before, after) for jump, before, after in found[names[0]] if jump == day)
        yield Jump(symbol=symbol, timeframes=tuple(names), day=_date(day), before=before, after=after)
