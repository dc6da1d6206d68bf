"""The only place where percentiles and intervals are computed. It knows nothing of requests or files.

Methods (x sorted ascending, n samples, p in [0, 1], ranks count from 1):

- Percentile: linear interpolation at position p(n-1) (Hyndman and Fan 1996, type 7; numpy's default).
- Interval of a percentile: distribution-free, from order statistics. The number of samples below the true
  quantile is Binomial(n, p), so [x(l), x(u)] covers it with >= 95 % when P(B < l) <= 2.5 % and P(B >= u) <= 2.5 %
  (David and Nagaraja, Order Statistics, 3rd ed., section 7.1). There is no upper end when u would be n + 1.
- One-sided upper bound: the same with 5 % on one side; it exists from n >= log(0.05) / log(p).
- Lower bound of a ratio: Clopper and Pearson (1934), one-sided 95 %: BetaInv(0.05; k, n-k+1).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, bdtrik, betaincinv  # scipy.stats has the same, and takes two seconds to import

CONFIDENCE = 0.95
Values = NDArray[np.floating] | NDArray[np.integer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentile:
    """A percentile in the unit of its samples, with its 95 % interval [`low`, `high`] and one-sided bound `upper`.

    A bound is None where n cannot support it; a verdict is given by `upper`, which needs fewer samples than `high`.
    """

    value: float
    low: float | None
    high: float | None
    upper: float | None
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """What a report says of one sample: mean, extremes, and percentiles with intervals, all in the sample's unit."""

    mean: float
    min: float
    max: float
    p50: Percentile
    p90: Percentile
    p95: Percentile
    p99: Percentile


def needed_n(p: float, confidence: float = CONFIDENCE) -> int:
    """Return the smallest n whose maximum is an upper bound of the p-quantile: 59 for p95, 299 for p99."""
    return math.ceil(math.log(1 - confidence) / math.log(p))


def binomial_quantile(q: float, n: int, p: NDArray[np.float64] | float) -> NDArray[np.int64]:
    """Return the smallest k with P(Binomial(n, p) <= k) >= q, for each p."""
    p = np.asarray(p, dtype=np.float64)
    above = np.where(p <= 0, 0.0, np.where(p >= 1, n, np.ceil(bdtrik(q, n, np.clip(p, 1e-12, 1 - 1e-12)))))
    below = np.maximum(above - 1, 0)
    return np.where(bdtr(below, n, p) >= q, below, above).astype(np.int64)


def upper_rank(n: int, p: float, tail: float) -> int | None:
    """Return the smallest rank u with P(Binomial(n, p) >= u) <= tail, or None when that is beyond n."""
    u = int(binomial_quantile(1 - tail, n, p)) + 1
    return u if u <= n else None


def lower_rank(n: int, p: float, tail: float) -> int | None:
    """Return the largest rank l with P(Binomial(n, p) < l) <= tail, or None when that is below 1."""
    low = int(binomial_quantile(tail, n, p))
    return low if low >= 1 else None


def percentile_of_sorted(x: Values, p: float) -> Percentile:
    """Return the p-quantile of `x`, sorted ascending and not empty, with its interval and upper bound.

    Only the ranks that `_ranks` names are looked at, so that these being in their places is enough.
    """
    n, tail = len(x), (1 - CONFIDENCE) / 2
    at = p * (n - 1)
    below = int(at)
    above = min(below + 1, n - 1)
    value = float(x[below]) + (at - below) * (float(x[above]) - float(x[below]))
    ranks = lower_rank(n, p, tail), upper_rank(n, p, tail), upper_rank(n, p, 1 - CONFIDENCE)
    low, high, upper = (None if rank is None else float(x[rank - 1]) for rank in ranks)
    if low is not None:
        low = min(low, value)  # in a tiny sample an order statistic can lie beyond the interpolated value; wider still covers
    return Percentile(value=value, low=low, high=high, upper=upper, n=n)


def _ranks(n: int, p: float) -> set[int]:
    """Return the places, from 0, at which `percentile_of_sorted` looks."""
    tail, below = (1 - CONFIDENCE) / 2, int(p * (n - 1))
    found = lower_rank(n, p, tail), upper_rank(n, p, tail), upper_rank(n, p, 1 - CONFIDENCE)
    return {below, min(below + 1, n - 1), *(rank - 1 for rank in found if rank is not None)}


def distribution(x: Values) -> Distribution | None:
    """Summarize a sample (any order, any unit); None when it is empty.

    Only the order statistics that are needed are put in their places, which is several times faster than to sort.
    """
    n, percentiles = len(x), (0.50, 0.90, 0.95, 0.99)
    if n == 0:
        return None
    needed = {0, n - 1}.union(*(_ranks(n, p) for p in percentiles))
    s = np.array(x, dtype=np.float64)
    s.partition(sorted(needed))
    p50, p90, p95, p99 = (percentile_of_sorted(s, p) for p in percentiles)
    return Distribution(mean=float(s.mean()), min=float(s[0]), max=float(s[-1]), p50=p50, p90=p90, p95=p95, p99=p99)


def _interpolated(s: NDArray[np.float64], p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the p-quantiles of a sorted sample."""
    at = p * (len(s) - 1)
    below = at.astype(np.int64)
    above = np.minimum(below + 1, len(s) - 1)
    values: NDArray[np.float64] = s[below] + (at - below) * (s[above] - s[below])
    return values


def ratio_lower_bound(successes: int, n: int) -> float:
    """Return the one-sided 95 % lower bound of a success ratio; 0 of nothing proves nothing and gives 0."""
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} is not a ratio")
    return 0.0 if successes == 0 else float(betaincinv(successes, n - successes + 1, 1 - CONFIDENCE))


def needed_n_for_ratio(ratio: float, confidence: float = CONFIDENCE) -> int:
    """Return how many successes without a failure prove more than `ratio`: 299 for 0.99."""
    return math.ceil(math.log(1 - confidence) / math.log(ratio))


def spectrum(x: Values, points: int = 200) -> Mapping[str, NDArray[np.float64]]:
    """Return the percentile spectrum of a sample for a chart: arrays `p`, `value`, `low`, `high` (NaN: no bound).

    Quantiles are spaced evenly in log(1 / (1 - p)), the axis of an HDR plot, and end at the last one that n resolves.
    """
    s = np.sort(np.asarray(x, dtype=np.float64))
    n = len(s)
    p = 1 - np.logspace(0, -math.log10(max(n, 2)), min(points, max(n, 2)))
    tail = (1 - CONFIDENCE) / 2
    low, high = binomial_quantile(tail, n, p), binomial_quantile(1 - tail, n, p) + 1
    return {
        "p": p,
        "value": _interpolated(s, p),
        "low": np.where(low >= 1, s[np.clip(low - 1, 0, n - 1)], np.nan),
        "high": np.where(high <= n, s[np.clip(high - 1, 0, n - 1)], np.nan),
    }
