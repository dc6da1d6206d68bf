"""Makes up a market: bars as pure functions of symbol and time on a 5-minute grid. It is no model of prices.

A price at the boundary of two slots is base * exp(sum of octaves of interpolated integer-hash noise), so that
it wanders over hours and months alike; a slot opens where the one before it closed. Every larger bar is the exact
aggregate of its 5-minute bars. Stocks trade in the extended sessions of the New York exchange, crypto always;
some slots see no trade, more of them outside the regular session.
"""

import datetime as dt
import zlib
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from tapecheck.backfill.calendar import DAY_S, EASTERN, aggregate, sessions
from tapecheck.vendor.bars import CRYPTO, Bars, FloatArray, IntArray

SLOT_S, MINUTE_S = 300, 60
CALENDAR = {"week": 7, "month": 31, "quarter": 92, "year": 366}  # units that are no whole part of a day, and their most days
OCTAVES = range(0, 19, 2)  # noise of 5 minutes, 20 minutes, … up to 2.5 years
STEP = 0.002  # spread of one 5-minute step
_UNITS = {"minute": 60, "hour": 3600, "day": DAY_S}

# symbol: (price in dollars, share of extended slots that trade, mean volume of a slot)
LISTED = {
    "AAPL": (230.0, 0.98, 4e5), "MSFT": (430.0, 0.97, 2e5), "GOOGL": (180.0, 0.96, 2e5), "AMZN": (200.0, 0.97, 3e5),
    "TSLA": (300.0, 0.98, 8e5), "NVDA": (140.0, 0.99, 2e6), "META": (580.0, 0.96, 1e5), "NFLX": (850.0, 0.90, 3e4),
    "AVGO": (180.0, 0.93, 2e5), "ASML": (750.0, 0.84, 1e4), "BRK.B": (460.0, 0.85, 3e4), "JPM": (240.0, 0.90, 8e4),
    "V": (310.0, 0.88, 6e4), "WMT": (90.0, 0.90, 1e5), "JNJ": (155.0, 0.86, 7e4), "BTC": (95000.0, 0.999, 30.0),
    "ETH": (3300.0, 0.999, 300.0), "XRP": (2.2, 0.998, 5e5), "SOL": (190.0, 0.998, 5e3), "ADA": (0.9, 0.997, 4e5),
    "SPY": (590.0, 0.99, 6e5), "QQQ": (510.0, 0.99, 5e5), "DIA": (430.0, 0.85, 3e4), "IWM": (225.0, 0.93, 3e5), "EEM": (43.0, 0.86, 2e5),
}  # fmt: skip


def width_of(multiplier: int, timespan: str) -> int | str | None:
    """Return a bar's width in seconds, or its calendar unit; None for what is not served.

    Widths of minutes and hours divide a day; a week begins on Sunday, and there is one of each unit.
    """
    if timespan in CALENDAR:
        return timespan if multiplier == 1 else None
    width = multiplier * _UNITS.get(timespan, 0)
    return width if width > 0 and DAY_S % width == 0 else None


def noise(seed: int, index: IntArray) -> FloatArray:
    """Return a uniform number in [0, 1) for each index, the same on every machine (splitmix64)."""
    with np.errstate(over="ignore"):
        z = index.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64((seed * 0xD1B54A32D192ED03) % 2**64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray((z ^ (z >> np.uint64(31))) >> np.uint64(11), np.float64) * 2.0**-53


def _prices(seed: int, base: float, first: int, count: int) -> FloatArray:
    """Return the price at `count` successive slot boundaries from index `first`."""
    index = np.arange(first, first + count)
    exponent = np.zeros(count)
    for octave in OCTAVES:
        grid = np.arange(first >> octave, ((first + count) >> octave) + 2)
        exponent += STEP * 2 ** (octave / 2) * np.interp(index / 2**octave, grid, noise(seed + octave, grid) - 0.5)
    return np.round(base * np.exp(exponent), 4)


def _slots(symbol: str, year: int) -> tuple[IntArray, IntArray, npt.NDArray[np.bool_]]:
    """Return the year's slots: start in Unix seconds, start of their trading day, and whether the regular session runs."""
    if symbol in CRYPTO:
        begin, end = (int(dt.datetime(y, 1, 1, tzinfo=dt.UTC).timestamp()) for y in (year, year + 1))
        t = np.arange(begin, end, SLOT_S)
        return t, t - t % DAY_S, np.ones(len(t), bool)
    days = sessions(year)
    lengths = (days.last - days.first) // SLOT_S
    t = np.concatenate([np.arange(a, b, SLOT_S) for a, b in zip(days.first, days.last, strict=True)] or [np.empty(0, np.int64)])
    is_regular = (t >= np.repeat(days.opens, lengths)) & (t < np.repeat(days.closes, lengths))
    return t, np.repeat(days.midnight, lengths), is_regular


@lru_cache(maxsize=2 * len(LISTED))  # the two years that a history of 365 days meets, of every symbol: 0.2 GB
def year_of_slots(symbol: str, year: int) -> tuple[Bars, IntArray]:
    """Return a year of 5-minute bars (Eastern or, for crypto, UTC year), and each bar's start of day in Unix seconds."""
    base, traded_share, mean_volume = LISTED[symbol]
    seed = zlib.crc32(symbol.encode()) << 8
    t, day, is_regular = _slots(symbol, year)
    traded = noise(seed + 101, t) < np.where(is_regular, 0.9995, traded_share)
    t, day, is_regular = t[traded], day[traded], is_regular[traded]
    if len(t) == 0:
        return Bars.empty(), day
    first = int(t[0]) // SLOT_S
    price = _prices(seed, base, first, int(t[-1]) // SLOT_S - first + 2)
    at = t // SLOT_S - first
    o, c = price[at], price[at + 1]
    h = np.round(np.maximum(o, c) * (1 + 0.0008 * noise(seed + 102, t) ** 2), 4)
    l = np.round(np.minimum(o, c) * (1 - 0.0008 * noise(seed + 103, t) ** 2), 4)  # noqa: E741 - the vendor's name
    v = np.maximum(1.0, np.round(mean_volume * np.where(is_regular, 1.0, 0.05) * np.exp(2 * noise(seed + 104, t) - 1)))
    n = np.maximum(1.0, np.floor(v / (1 + mean_volume / 500)))
    return Bars(t=t * 1000, o=o, h=h, l=l, c=c, v=v, vw=np.round((o + h + l + c) / 4, 4), n=n), day


def slots_between(symbol: str, from_ms: int, to_ms: int) -> tuple[Bars, IntArray]:
    """Return the 5-minute bars that begin from a day before `from` to a day after `to`, and their days."""
    zone = dt.UTC if symbol in CRYPTO else EASTERN
    first, last = (dt.datetime.fromtimestamp(ms / 1000, zone).year for ms in (from_ms, to_ms))
    bars, day = Bars.empty(), np.empty(0, np.int64)
    for year in range(first, last + 1):
        more, more_day = year_of_slots(symbol, year)
        rows = slice(*np.searchsorted(more.t, (from_ms - DAY_S * 1000, to_ms + DAY_S * 1000)).tolist())
        bars, day = (Bars.joined(bars, more[rows]), np.concatenate((day, more_day[rows]))) if len(bars) else (more[rows], more_day[rows])
    return bars, day


def _minutes(slots: Bars) -> Bars:
    """Split 5-minute bars into their minutes: on a straight way from open to close, the high and the low in one of them each."""
    count, whole = len(slots), np.arange(5)
    edge = np.round(slots.o[:, None] + (slots.c - slots.o)[:, None] * np.arange(6) / 5, 4)
    edge[:, 5] = slots.c
    o, c = edge[:, :5], edge[:, 1:]
    peak, dip = ((noise(seed, slots.t) * 5).astype(np.int64)[:, None] == whole for seed in (105, 106))
    h = np.where(peak, slots.h[:, None], np.maximum(o, c))
    l = np.where(dip, slots.l[:, None], np.minimum(o, c))  # noqa: E741 - the vendor's name
    v, n = (np.maximum(1.0, column[:, None] // 5) + np.where(whole == 4, column[:, None] % 5, 0.0) for column in (slots.v, slots.n))
    t = slots.t[:, None] + whole * MINUTE_S * 1000
    columns = {"o": o, "h": h, "l": l, "c": c, "v": v, "vw": np.round((o + h + l + c) / 4, 4), "n": n}
    return Bars(t=t.reshape(5 * count), **{name: column.reshape(5 * count) for name, column in columns.items()})


@lru_cache(maxsize=10_000)
def _window(day: int, unit: str, symbol: str) -> int:
    """Return when the week, month, quarter or year of a day begins, in Unix seconds."""
    zone = dt.UTC if symbol in CRYPTO else EASTERN
    date = dt.datetime.fromtimestamp(day, zone).date()
    first = {
        "week": date - dt.timedelta(days=date.isoweekday() % 7),
        "month": date.replace(day=1),
        "quarter": date.replace(month=date.month - (date.month - 1) % 3, day=1),
        "year": date.replace(month=1, day=1),
    }[unit]
    return int(dt.datetime(first.year, first.month, first.day, tzinfo=zone).timestamp())


def page(
    symbol: str, width: int | str, from_ms: int, to_ms: int, now_ms: int, limit: int, *, newest_first: bool = False
) -> tuple[Bars, bool]:
    """Return bars that start in [from, to], of at most `limit` base aggregates but at least one bar, and whether more follow.

    The base of minute and hour bars is the minute, that of longer ones the day. Only slots that are over by `now` exist, so that the
    newest bar may be partial.
    """
    if from_ms > (to_ms := min(to_ms, now_ms)):
        return Bars.empty(), False
    bars, day = slots_between(symbol, from_ms, to_ms + CALENDAR.get(str(width), 0) * DAY_S * 1000)
    is_over = bars.t <= now_ms - SLOT_S * 1000
    bars, day = bars[is_over], day[is_over]
    if isinstance(width, int) and width % SLOT_S:
        bars, day = _minutes(bars), np.repeat(day, 5)
    if isinstance(width, str):
        days, of_day = np.unique(day, return_inverse=True)
        begins, width_s = np.array([_window(one, width, symbol) for one in days.tolist()], np.int64)[of_day], 2**40
    else:
        begins, width_s = day, width
    start_ms = (begins + (bars.t // 1000 - begins) // width_s * width_s) * 1000
    asked = slice(*np.searchsorted(start_ms, (from_ms, to_ms + 1)).tolist())
    bars, day, begins, start_ms = bars[asked], day[asked], begins[asked], start_ms[asked]
    if len(bars) == 0:
        return bars, False
    is_daily = width_s >= DAY_S
    weight = np.diff(day, prepend=day[0] - 1) > 0 if is_daily else np.full(len(bars), 1 if width_s % SLOT_S else SLOT_S // MINUTE_S)
    rows, has_more = _cut(start_ms, np.cumsum(weight), limit, newest_first=newest_first)
    bars = aggregate(bars[rows], begins[rows], width_s) if width_s not in (MINUTE_S, SLOT_S) else bars[rows]
    return (bars[::-1] if newest_first else bars), has_more


def _cut(start_ms: IntArray, used: IntArray, limit: int, *, newest_first: bool) -> tuple[slice, bool]:
    """Return which rows fit a page, cut between two bars, given the base aggregates that are used up to each; and whether others do not."""
    first = np.flatnonzero(np.diff(start_ms, prepend=start_ms[0] - 1))
    end = np.append(first[1:], len(start_ms))
    before, after = np.append(0, used[end[:-1] - 1]), used[end - 1]
    fits = int(np.count_nonzero(used[-1] - before <= limit)) if newest_first else int(np.count_nonzero(after <= limit))
    count = max(1, fits)
    return slice(int(first[-count]), None) if newest_first else slice(0, int(end[count - 1])), count < len(first)
