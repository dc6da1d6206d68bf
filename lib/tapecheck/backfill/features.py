"""Computes quantitative features of one series, vectorized. It knows neither databases nor calendars.

Every feature of a bar looks back over a fixed number of bars, so that a refresh that begins `LEAD_IN` bars
early gives the same values as the whole history. Values are rounded to `DECIMALS`, which hides the last bits
in which two such computations may differ. NaN stands in the warm-up of each feature.
"""

from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from tapecheck.backfill.bars import FloatArray

LEAD_IN = 600  # Wilder's smoothing keeps (13/14)^600 = 5e-20 of what lies before: nothing, in double precision
DECIMALS = 8
VOLATILITY_BARS, MOMENTUM_BARS, RSI_BARS, VOLUME_BARS, DRAWDOWN_BARS = 20, 10, 14, 20, 100

NAMES = (
    "return_simple",
    "return_log",
    "volatility_20",
    "momentum_10",
    "rsi_14",
    "sma_20",
    "sma_50",
    "volume_z_20",
    "drawdown_100",
)


Compute = Callable[[FloatArray, FloatArray, float], dict[str, FloatArray]]  # as `compute`


def compute(close: FloatArray, volume: FloatArray, periods_per_year: float) -> dict[str, FloatArray]:
    """Compute every feature of one series in time order.

    Args:
        close: closing prices, all positive.
        volume: traded volume, none negative.
        periods_per_year: bars a year, for the annualization of the volatility.

    Returns:
        One array by each of `NAMES`, as long as the series.

    Raises:
        ValueError: a price is not positive and finite, or a volume is negative or not finite.
    """
    if not (np.isfinite(close).all() and (close > 0).all()):
        at = int(np.argmin(np.isfinite(close) & (close > 0)))
        raise ValueError(f"price {close[at]} at row {at} of {len(close)}; allowed: positive and finite")
    if not (np.isfinite(volume).all() and (volume >= 0).all()):
        raise ValueError("a volume is negative or not finite")
    simple, log = simple_return(close), log_return(close)
    columns = (
        simple,
        log,
        realized_volatility(log, VOLATILITY_BARS, periods_per_year),
        momentum(close, MOMENTUM_BARS),
        rsi(close, RSI_BARS),
        sma(close, 20),
        sma(close, 50),
        z_score(volume, VOLUME_BARS),
        drawdown(close, DRAWDOWN_BARS),
    )
    return {name: np.round(column, DECIMALS) for name, column in zip(NAMES, columns, strict=True)}


def compute_per_row(close: FloatArray, volume: FloatArray, periods_per_year: float) -> dict[str, FloatArray]:
    """Compute as `compute` does, one bar at a time from the bars it looks back on: the baseline that vectorizing is compared with."""
    rows = [_last(close[: i + 1][-LEAD_IN - 1 :], volume[: i + 1][-LEAD_IN - 1 :], periods_per_year) for i in range(len(close))]
    table = np.array(rows, np.float64).reshape(-1, len(NAMES))
    return {name: table[:, i] for i, name in enumerate(NAMES)}


def _last(close: FloatArray, volume: FloatArray, periods_per_year: float) -> list[float]:
    return [float(column[-1]) for column in compute(close, volume, periods_per_year).values()]


def _padded(values: FloatArray, length: int) -> FloatArray:
    """Put NaN before `values` until there are `length` of them; `values` may be longer only where the series is short."""
    out = np.full(length, np.nan)
    if len(values):
        out[length - len(values) :] = values
    return out


def _windows(values: FloatArray, window: int) -> FloatArray:
    """Return the windows of `window` values as rows of a view; no rows where the series is too short."""
    if len(values) < window:
        return np.empty((0, window))
    return sliding_window_view(values, window)


def simple_return(close: FloatArray) -> FloatArray:
    """Return c[i] / c[i-1] - 1 (ratio)."""
    return _padded(close[1:] / close[:-1] - 1, len(close))


def log_return(close: FloatArray) -> FloatArray:
    """Return ln(c[i] / c[i-1]) (ratio)."""
    return _padded(np.log(close[1:] / close[:-1]), len(close))


def realized_volatility(returns_log: FloatArray, window: int, periods_per_year: float) -> FloatArray:
    """Return sqrt(A / W * sum of the last W squared log returns) (ratio a year), A = periods a year.

    The mean return is taken as zero, as usual for realized volatility (Andersen et al. 2003).
    """
    squares = _windows(returns_log[1:] ** 2, window)
    return _padded(np.sqrt(squares.mean(axis=1) * periods_per_year), len(returns_log))


def momentum(close: FloatArray, window: int) -> FloatArray:
    """Return c[i] / c[i-W] - 1 (ratio)."""
    return _padded(close[window:] / close[:-window] - 1 if len(close) > window else np.empty(0), len(close))


def sma(values: FloatArray, window: int) -> FloatArray:
    """Return the mean of the last W values (in their unit)."""
    return _padded(_windows(values, window).mean(axis=1), len(values))


def z_score(values: FloatArray, window: int) -> FloatArray:
    """Return (x[i] - mean) / standard deviation of the last W values, x[i] included (standard deviations).

    The deviation divides by W; where all W values are equal the score is 0.
    """
    windows = _windows(values, window)
    deviation = windows.std(axis=1)
    distance = values[window - 1 :] - windows.mean(axis=1) if len(windows) else np.empty(0)
    return _padded(np.divide(distance, deviation, out=np.zeros_like(distance), where=deviation > 0), len(values))


def drawdown(close: FloatArray, window: int) -> FloatArray:
    """Return c[i] / highest of the last W closes - 1 (ratio, never positive)."""
    return _padded(close[window - 1 :] / _windows(close, window).max(axis=1) - 1 if len(close) >= window else np.empty(0), len(close))


def rsi(close: FloatArray, window: int) -> FloatArray:
    """Return Wilder's relative strength index, 100 * gain / (gain + loss) (0 to 100; 50 where nothing moves).

    `gain` and `loss` are means of the rises and falls, smoothed as Wilder did (1978): the first is the plain
    mean of W changes, each next is (previous * (W - 1) + change) / W.
    """
    if len(close) <= window:
        return np.full(len(close), np.nan)
    change = np.diff(close)
    gain = _wilder(np.maximum(change, 0), window)
    loss = _wilder(np.maximum(-change, 0), window)
    total = gain + loss
    return _padded(np.divide(100 * gain, total, out=np.full_like(total, 50.0), where=total > 0), len(close))


def _wilder(changes: FloatArray, window: int, block: int = 64) -> FloatArray:
    """Smooth by y[i] = keep * y[i-1] + x[i] / W without a loop over bars.

    Inside a block of 64 the recursion is one product with a triangular matrix of powers of `keep`; between
    blocks only one number is carried, so that the loop has one step per block.
    """
    keep = 1 - 1 / window
    first, rest = changes[:window].mean(), changes[window:]
    blocks = -(-len(rest) // block)
    rows = np.zeros(blocks * block)
    rows[: len(rest)] = rest
    powers = np.arange(block)[None, :] - np.arange(block)[:, None]
    inside = rows.reshape(blocks, block) @ np.where(powers >= 0, keep ** np.maximum(powers, 0) / window, 0.0)
    carried = np.empty(blocks)
    last = float(first)
    for i, end in enumerate(inside[:, -1].tolist()):
        carried[i] = last
        last = last * keep**block + end
    smoothed = inside + carried[:, None] * keep ** np.arange(1, block + 1)
    return np.concatenate(((first,), smoothed.ravel()[: len(rest)]))
