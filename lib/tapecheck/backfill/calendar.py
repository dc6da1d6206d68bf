"""When the New York exchange trades, half days and daylight saving included. Crypto needs no calendar."""

import datetime as dt
import threading
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from tapecheck.backfill.bars import IntArray

EASTERN = ZoneInfo("America/New_York")
FIRST_DAY = dt.date(2007, 1, 1)  # of a calendar that would begin twenty years before whatever is today
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


def _eastern_s(day: dt.date, hour: int) -> int:
    return int(dt.datetime(day.year, day.month, day.day, hour, tzinfo=EASTERN).timestamp())


@lru_cache(maxsize=64)
def sessions(year: int) -> Sessions:
    """Return the sessions of a calendar year (Eastern Time), as far as the exchange has announced them."""
    schedule = _calendar().schedule.loc[f"{year}-01-01" : f"{year}-12-31"]
    rows = []
    for day, opened, closed in zip(schedule.index, schedule["open"], schedule["close"], strict=True):
        closes_s = int(closed.timestamp())
        is_half_day = closes_s < _eastern_s(day.date(), 16)
        rows.append(
            (
                _eastern_s(day.date(), 0),
                _eastern_s(day.date(), 4),
                int(opened.timestamp()),
                closes_s,
                _eastern_s(day.date(), 17 if is_half_day else 20),
            )
        )
    columns = np.array(rows, np.int64).reshape(-1, 5).T
    return Sessions(midnight=columns[0], first=columns[1], opens=columns[2], closes=columns[3], last=columns[4])


def midnights(t_s: IntArray) -> IntArray:
    """Return 00:00 Eastern Time of the day of each of some ascending Unix seconds, in Unix seconds."""
    first, last = (dt.datetime.fromtimestamp(int(t), EASTERN).date() for t in (t_s[0], t_s[-1]))
    days = np.array([_eastern_s(first + dt.timedelta(days=i), 0) for i in range((last - first).days + 1)], np.int64)
    found: IntArray = days[np.searchsorted(days, t_s, side="right") - 1]
    return found
