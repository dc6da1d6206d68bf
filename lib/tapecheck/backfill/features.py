"""Computes quantitative features of one series, vectorized. It knows neither databases nor calendars.

Every feature of a bar looks back over a fixed number of bars, so that a refresh that begins `LEAD_IN` bars
early gives the same values as the whole history, to the last bit: however a history is cut into pages and resumed, its
checksum is one. Values are rounded to `DECIMALS`. NaN stands in the warm-up of each feature.
"""

from collections.abc import Callable
from itertools import accumulate

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from tapecheck.vendor.bars import FloatArray

LEAD_IN = 600  # Wilder's smoothing keeps (13/14)^600 = 5e-20 of what lies before: nothing, in double precision
DECIMALS = 8
NAMES = (
    "return_simple", "return_log", "volatility_20", "momentum_10", "rsi_14", "sma_20", "sma_50", "volume_z_20", "drawdown_100",
)  # fmt: skip

Compute = Callable[[FloatArray, FloatArray, float, int], dict[str, FloatArray]]
"""How features are computed: `compute`, or the baseline that it is compared with."""


def compute(close: FloatArray, volume: FloatArray, periods_per_year: float, skip: int = 0) -> dict[str, FloatArray]:
    """Compute every feature of one series in time order.

    Args:
        close: closing prices, all positive.
        volume: traded volume, all finite; a negative one is for the audit to report, a score can be computed of it.
        periods_per_year: bars a year, for the annualization of the volatility.
        skip: how many bars at the beginning are only there to be looked back on.

    Returns:
        One array by each of `NAMES`, as long as the series without the skipped bars.

    Raises:
        ValueError: a price is not positive and finite, or a volume is not finite.
    """
    if not (np.isfinite(close).all() and (close > 0).all()):
        at = int(np.argmin(np.isfinite(close) & (close > 0)))
        raise ValueError(f"price {close[at]} at row {at} of {len(close)}; allowed: positive and finite")
    if not np.isfinite(volume).all():
        raise ValueError("a volume is not finite")
    log = _padded(np.log(close[1:] / close[:-1]), len(close))
    columns = (
        change(close, 1),
        log,
        realized_volatility(log, 20, periods_per_year),
        change(close, 10),
        rsi(close, 14),
        sma(close, 20),
        sma(close, 50),
        z_score(volume, 20),
        drawdown(close, 100),
    )
    return {name: np.round(column[skip:], DECIMALS) for name, column in zip(NAMES, columns, strict=True)}


def leaving_out(compute: Compute) -> Compute:
    """Return what computes the same of the bars whose price is positive and volume a number; all others have no features."""

    def computed(close: FloatArray, volume: FloatArray, periods_per_year: float, skip: int = 0) -> dict[str, FloatArray]:
        is_good = np.isfinite(close) & (close > 0) & np.isfinite(volume)
        if is_good.all():
            return compute(close, volume, periods_per_year, skip)
        columns = compute(close[is_good], volume[is_good], periods_per_year, int(is_good[:skip].sum()))
        found = {name: np.full(len(close) - skip, np.nan) for name in columns}
        for name, column in columns.items():
            found[name][is_good[skip:]] = column
        return found

    return computed


def compute_per_row(close: FloatArray, volume: FloatArray, periods_per_year: float, skip: int = 0) -> dict[str, FloatArray]:
    """Compute as `compute` does, one bar at a time from the bars it looks back on: the baseline that vectorizing is compared with."""
    table = np.empty((max(0, len(close) - skip), len(NAMES)))
    for row, end in zip(table, range(skip + 1, len(close) + 1), strict=True):
        known = slice(max(0, end - LEAD_IN - 1), end)
        row[:] = [column[-1] for column in compute(close[known], volume[known], periods_per_year).values()]
    return {name: table[:, i] for i, name in enumerate(NAMES)}


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


def change(close: FloatArray, window: int) -> FloatArray:
    """Return c[i] / c[i-W] - 1 (ratio): the simple return, or the momentum of W bars."""
    return _padded(close[window:] / close[:-window] - 1 if len(close) > window else np.empty(0), len(close))


def realized_volatility(returns_log: FloatArray, window: int, periods_per_year: float) -> FloatArray:
    """Return sqrt(A / W * sum of the last W squared log returns) (ratio a year), A = periods a year.

    The mean return is taken as zero, as usual for realized volatility (Andersen et al. 2003).
    """
    squares = _windows(returns_log[1:] ** 2, window)
    return _padded(np.sqrt(squares.mean(axis=1) * periods_per_year), len(returns_log))


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


def _wilder(changes: FloatArray, window: int) -> FloatArray:
    """Smooth by y[i] = keep * y[i-1] + x[i] / W.

    One step after another, which costs 0.15 us a bar: two series that begin apart then agree to the last bit once the
    difference has faded, while sums in blocks would keep rounding differently, and now and then beyond `DECIMALS`.
    """
    keep = 1 - 1 / window
    parts = (changes[window:] / window).tolist()
    smoothed = accumulate(parts, lambda last, part: last * keep + part, initial=float(changes[:window].mean()))
    return np.fromiter(smoothed, np.float64, len(parts) + 1)
