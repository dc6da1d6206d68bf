"""What a series of bars is: its symbol and the vendor's ticker of it, timeframe and columns. It neither reads nor writes them."""

import datetime as dt
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import numpy.typing as npt

CRYPTO = ("BTC", "ETH", "XRP", "SOL", "ADA")
TICKERS = {symbol: f"X:{symbol}USD" for symbol in CRYPTO}  # the vendor's, where a plan says nothing else
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def ticker_of(symbol: str) -> str:
    """Return the vendor's ticker of our symbol: `AAPL` -> `AAPL`, `BTC` -> `X:BTCUSD`."""
    return TICKERS.get(symbol, symbol)


def symbol_of(ticker: str) -> str:
    """Return our symbol of a vendor's ticker, the inverse of `ticker_of`."""
    return next((symbol for symbol, one in TICKERS.items() if one == ticker), ticker)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeframe:
    """The length of a bar, as the vendor's API writes it."""

    name: str
    multiplier: int
    timespan: str
    length_s: int


TIMEFRAMES = {
    name: Timeframe(name=name, multiplier=multiplier, timespan=timespan, length_s=length_s)
    for name, multiplier, timespan, length_s in (
        ("5m", 5, "minute", 300),
        ("15m", 15, "minute", 900),
        ("1h", 1, "hour", 3600),
        ("4h", 4, "hour", 14400),
        ("1d", 1, "day", 86400),
    )
}


def is_crypto(ticker: str) -> bool:
    """Tell whether a vendor's ticker is of a coin, which trades around the clock."""
    return ticker.startswith("X:")


def periods_per_year(ticker: str, timeframe: str) -> float:
    """Return how many bars a year has: 365 days around the clock for crypto, 252 days of 16 hours for stocks."""
    length_s = TIMEFRAMES[timeframe].length_s
    if is_crypto(ticker):
        return 365 * 86400 / length_s
    return 252 * max(1.0, 16 * 3600 / length_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """Bars of one symbol and timeframe as parallel columns, ascending in time, each time once.

    `t` is the start in Unix milliseconds; `o h l c` are prices, `v` is the volume in shares or coins,
    `vw` the volume-weighted price and `n` the number of trades (NaN where the vendor did not say).
    """

    t: IntArray
    o: FloatArray
    h: FloatArray
    l: FloatArray  # noqa: E741 - the vendor's own name of the column
    c: FloatArray
    v: FloatArray
    vw: FloatArray
    n: FloatArray

    def __len__(self) -> int:
        return len(self.t)

    def __getitem__(self, rows: slice | BoolArray | IntArray) -> Self:
        return type(self)(**{name: getattr(self, name)[rows] for name in COLUMNS})

    @classmethod
    def empty(cls) -> Self:
        """Return no bars."""
        return cls(t=np.empty(0, np.int64), **{name: np.empty(0) for name in COLUMNS[1:]})

    @classmethod
    def joined(cls, *parts: Self) -> Self:
        """Return series, each of which ends before the next one begins, as one."""
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS})


COLUMNS = tuple(field.name for field in fields(Bars))


def to_ms(moment: dt.datetime) -> int:
    """Return an aware time as Unix milliseconds, rounded down."""
    return (moment - EPOCH) // dt.timedelta(milliseconds=1)


def to_datetime(t_ms: int) -> dt.datetime:
    """Return Unix milliseconds as an aware UTC time."""
    return EPOCH + dt.timedelta(milliseconds=int(t_ms))
