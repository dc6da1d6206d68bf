"""When the New York exchange trades, half days and daylight saving included, and which bars that makes. Crypto needs no calendar."""

import datetime as dt
import threading
import warnings
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from tapecheck.vendor.bars import TIMEFRAMES, Bars, FloatArray, IntArray, is_crypto, to_ms

EASTERN = ZoneInfo("America/New_York")
FIRST_DAY = dt.date(2007, 1, 1)  # of a calendar that would begin twenty years before whatever is today
DAY_S = 86400
BASE = "5m"  # the intraday series that the others are built from
BoolArray = npt.NDArray[np.bool_]
NONE = np.empty(0, np.int64)
_import_lock = threading.Lock()  # warnings' filters are global: one thread at a time may change them


@dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    """The trading days of one year as parallel columns of Unix seconds.

    `midnight` is 00:00 Eastern Time, `first` and `last` bound extended trading (04:00 to 20:00, on half days
    to 17:00), `opens` and `closes` bound the regular session.
    """

    midnight: IntArray
    first: IntArray
    opens: IntArray
    closes: IntArray
    last: IntArray


@lru_cache(maxsize=1)
def _calendar() -> Any:
    with _import_lock, warnings.catch_warnings():
        # exchange-calendars 4.13 calls what pandas 4 will remove; the results are right.
        warnings.filterwarnings("ignore", message=".*", category=DeprecationWarning, module=r"exchange_calendars|pandas")
        warnings.filterwarnings("ignore", message=".*(Timestamp|utcnow|deprecated).*")
        import exchange_calendars  # half a second and pandas: paid only by who asks for sessions

        return exchange_calendars.get_calendar("XNYS", start=str(FIRST_DAY))


def library() -> str:
    """Return the name and version of the library that knows the sessions; what was announced after its release it does not know."""
    return f"exchange_calendars {version('exchange_calendars')}"


@lru_cache(maxsize=16_384)
def eastern_s(day: dt.date, hour: int = 0) -> int:
    """Return an hour of a day in New York, in Unix seconds."""
    return int(dt.datetime(day.year, day.month, day.day, hour, tzinfo=EASTERN).timestamp())


@lru_cache(maxsize=64)
def sessions(year: int) -> Sessions:
    """Return the sessions of a calendar year (Eastern Time), as far as the exchange has announced them."""
    schedule = _calendar().schedule.loc[f"{year}-01-01" : f"{year}-12-31"]
    rows = []
    for moment, opened, closed in zip(schedule.index, schedule["open"], schedule["close"], strict=True):
        day, closes_s = moment.date(), int(closed.timestamp())
        last_s = eastern_s(day, 17 if closes_s < eastern_s(day, 16) else 20)
        rows.append((eastern_s(day), eastern_s(day, 4), int(opened.timestamp()), closes_s, last_s))
    return Sessions(**dict(zip(Sessions.__slots__, np.array(rows, np.int64).reshape(-1, 5).T, strict=True)))


# ---- slots ----

SESSIONS = ("overnight", "extended", "regular")  # each with those after it; the codes of a slot begin with 1
REGULAR, INSIDE = 3, 4  # meets the regular session; lies in it as a whole
NIGHT_S = 4 * 3600  # from 20:00 to midnight


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """Starts of bars in Unix milliseconds, ascending; the day of each by its market's date, as days since 1970; its session.

    A slot is of the best session that it meets: `REGULAR` or, where it ends in it too, `INSIDE` (crypto: always), 2 extended, 1 any
    other hour of a trading day or of the night before it.
    """

    t: IntArray
    day: IntArray
    session: IntArray

    def __len__(self) -> int:
        return len(self.t)

    def __getitem__(self, rows: BoolArray) -> "Slots":
        return Slots(t=self.t[rows], day=self.day[rows], session=self.session[rows])

    def of(self, sessions: str) -> "Slots":
        """Return the slots of some sessions."""
        return self[self.session > SESSIONS.index(sessions)]


def slots(ticker: str, timeframe: str, start: dt.datetime, end: dt.datetime) -> Slots:
    """Return the slots that begin at or after `start` and are over by `end`.

    Stocks have those of the trading days of the New York exchange, each from 20:00 Eastern Time of the evening before; extended
    hours are 04:00 to 20:00, on half days to 17:00. Crypto has every slot of every UTC day.
    """
    length_s = TIMEFRAMES[timeframe].length_s
    if is_crypto(ticker):
        first = to_ms(start) // 1000 // length_s * length_s
        t = np.arange(first, max(first, to_ms(end) // 1000), length_s, dtype=np.int64) * 1000
        found = Slots(t=t, day=t // (DAY_S * 1000), session=np.full(len(t), INSIDE))
    else:
        years = [_year(year, length_s) for year in range(start.astimezone(EASTERN).year, end.astimezone(EASTERN).year + 1)]
        columns = {name: np.concatenate([NONE, *(getattr(year, name) for year in years)]) for name in Slots.__slots__}
        found = Slots(**columns)
    return found[(found.t >= to_ms(start)) & (found.t + length_s * 1000 <= to_ms(end))]


@lru_cache(maxsize=24)  # each of up to 2 MB
def _year(year: int, length_s: int) -> Slots:
    """Return all slots of the trading days of a year."""
    days = sessions(year)
    before_s = NIGHT_S if length_s <= NIGHT_S else 0
    offsets = np.arange(0, DAY_S, length_s) - before_s
    t = (days.midnight[:, None] + offsets).ravel()
    first, opens, closes, last = (np.repeat(column, len(offsets)) for column in (days.first, days.opens, days.closes, days.last))
    is_regular, is_extended = ((t + length_s > begins) & (t < ends) for begins, ends in ((opens, closes), (first, last)))
    is_inside = (t >= opens) & (t + length_s <= closes)
    day = (days.midnight[:, None] // DAY_S - (offsets < 0)).ravel()  # 00:00 Eastern Time is on the same date in UTC
    return Slots(t=t * 1000, day=day, session=1 + is_extended + is_regular + is_inside)


# ---- longer bars ----


def day_of(t_s: IntArray, ticker: str) -> IntArray:
    """Return the start of the day of each of some ascending times: 00:00 Eastern Time, crypto UTC; all in Unix seconds."""
    if is_crypto(ticker) or not len(t_s):
        return t_s // DAY_S * DAY_S
    first, last = (dt.datetime.fromtimestamp(int(t), EASTERN).date() for t in (t_s[0], t_s[-1]))
    days = np.array([eastern_s(first + dt.timedelta(days=i)) for i in range((last - first).days + 1)], np.int64)
    found: IntArray = days[np.searchsorted(days, t_s, side="right") - 1]
    return found


def start_of(t: IntArray, ticker: str, timeframe: str) -> IntArray:
    """Return the start of the bar of a timeframe in which each of some ascending times lies, all in Unix milliseconds."""
    t_s = t // 1000
    return _starts(t_s, day_of(t_s, ticker), TIMEFRAMES[timeframe].length_s) * 1000


def _starts(t_s: IntArray, day: IntArray, width_s: int) -> IntArray:
    return day + (t_s - day) // width_s * width_s


def derive(bars: Bars, ticker: str, timeframe: str) -> Bars:
    """Build the bars of a timeframe from a ticker's 5-minute bars that begin at the start of a bar of that timeframe.

    Bars are counted from the start of the day (see `day_of`), which for 4 hours is our assumption about the vendor. The open is
    the first bar's, the close the last one's, volume and trades are sums, and the price is weighted by volume over the bars that
    have one above zero. A bar without any 5-minute bar does not exist, as with the vendor.
    """
    if timeframe == BASE:
        return bars
    return aggregate(bars, day_of(bars.t // 1000, ticker), TIMEFRAMES[timeframe].length_s)


def aggregate(bars: Bars, day: IntArray, width_s: int) -> Bars:
    """Aggregate ascending bars into bars of `width_s` seconds, counted from each one's `day` in Unix seconds."""
    if len(bars) == 0:
        return bars
    start = _starts(bars.t // 1000, day, width_s)
    first = np.flatnonzero(np.diff(start, prepend=start[0] - 1))
    return Bars(
        t=start[first] * 1000,
        o=bars.o[first],
        h=np.maximum.reduceat(bars.h, first),
        l=np.minimum.reduceat(bars.l, first),
        c=bars.c[np.append(first[1:], len(start)) - 1],
        v=np.add.reduceat(bars.v, first),
        vw=_weighted(bars, first),
        n=np.add.reduceat(bars.n, first),
    )


def _weighted(bars: Bars, first: IntArray) -> FloatArray:
    """Return the volume-weighted price of each run of bars; NaN where no bar of a run has both a price and a volume."""
    weight = np.where(np.isnan(bars.vw), 0.0, np.maximum(bars.v, 0.0))
    volume = np.add.reduceat(weight, first)
    money = np.add.reduceat(np.where(weight > 0, bars.vw * weight, 0.0), first)
    price: FloatArray = np.divide(money, volume, out=np.full(len(first), np.nan), where=volume > 0)
    return price
