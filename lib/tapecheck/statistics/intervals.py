"""The only place where percentiles and intervals are computed; those of paired rounds in `ratios`. It knows no requests or files.

Methods (x sorted ascending, n samples, p in [0, 1], ranks count from 1):

- Percentile: linear interpolation at position p(n-1) (Hyndman and Fan 1996, type 7; numpy's default).
- Interval of a percentile: distribution-free, from order statistics. The number of samples below the true
  quantile is Binomial(n, p), so [x(l), x(u)] covers it with >= 95 % when P(B < l) <= 2.5 % and P(B >= u) <= 2.5 %
  (David and Nagaraja, Order Statistics, 3rd ed., section 7.1). There is no upper end when u would be n + 1.
- One-sided upper bound: the same with 5 % on one side; it exists from n >= log(0.05) / log(p).
- Samples that came in batches (the rounds of a burst, stretches of time) are alike within a batch. So ranks are taken as
  for n_effective samples and stretched to n: n_effective = min(n, p(1-p)/v * (t(n-1) / t(b-1))^2), where t are 97.5 % quantiles
  of Student's t, and v is the variance of the share of samples below the quantile, estimated between the b batches,
  v = b/(b-1) * sum((hits_i - p size_i)^2) / n^2 (Korn and Graubard, Survey Methodology 24, 1998, pp. 193-201).
- Lower bound of a ratio: Clopper and Pearson (1934), one-sided 95 %: BetaInv(0.05; k, n-k+1).
- Interval of a fitted parameter: the 2.5th to the 97.5th percentile of its estimates from resampled data (Efron and
  Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3).
- Error that looks at a part t of the data may have spent, when data come in until they decide: with z the 97.5 % quantile of the
  normal distribution Phi, a(t) = 2 - 2 Phi(z / sqrt(t)), so that a(1) = 5 % and early looks spend hardly any (Lan and DeMets,
  Biometrika 70, 1983, pp. 659-663, after O'Brien and Fleming, Biometrics 35, 1979, pp. 549-556). The k-th look has the level
  a(t_k) - a(t_(k-1)). The levels add up to 5 %, so that all looks together err in 5 % at most, however they depend on each other.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import scipy  # imports scipy.special when it is first used; scipy.stats has the same functions, and takes two seconds
from numpy.typing import NDArray
from pydantic import BeforeValidator, WithJsonSchema

CONFIDENCE = 0.95
LEVELS = (0.50, 0.90, 0.95, 0.99)  # of a distribution
POINTS = 200  # of a spectrum
KNOTS = 16  # of them, at which its batches are compared
Values = NDArray[np.number]
Counts = NDArray[np.int64]
Figure = Annotated[  # NaN where it is not known, which JSON writes as null
    float,
    BeforeValidator(lambda value: math.nan if value is None else value),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "null"}]}),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentile:
    """A percentile in the unit of its samples, with its 95 % interval [`low`, `high`] and one-sided bound `upper`.

    A bound is None where n cannot support it. `n_effective` is how many independent samples would say as much; it is 0 where
    another tool reported the percentile, and `value` is NaN where it did not even do that.
    """

    value: Figure
    low: float | None
    high: float | None
    upper: float | None
    n: int
    n_effective: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """What a report says of one sample: mean, extremes, and percentiles with intervals, all in the sample's unit."""

    mean: Figure
    min: Figure
    max: Figure
    p50: Percentile
    p90: Percentile
    p95: Percentile
    p99: Percentile


def needed_n(p: float) -> int:
    """Return the smallest n whose maximum is an upper bound of the p-quantile, or whose successes prove more than p: 299 for 0.99."""
    return math.ceil(math.log(1 - CONFIDENCE) / math.log(p))


def binomial_quantile(q: float, n: int | Counts, p: NDArray[np.float64] | float) -> Counts:
    """Return the smallest k with P(Binomial(n, p) <= k) >= q, for each p."""
    p = np.asarray(p, dtype=np.float64)
    above = np.where(p <= 0, 0.0, np.where(p >= 1, n, np.ceil(scipy.special.bdtrik(q, n, np.clip(p, 1e-12, 1 - 1e-12)))))
    below = np.maximum(above - 1, 0)
    return np.where(scipy.special.bdtr(below, n, p) >= q, below, above).astype(np.int64)


def counts_within(chosen: NDArray[np.bool_], batches: Counts) -> Counts:
    """Return how many samples of each batch are chosen; `batches` are the sizes of consecutive batches."""
    ends = np.cumsum(batches).tolist()
    return np.array([np.count_nonzero(chosen[a:b]) for a, b in zip([0, *ends], ends, strict=False)], dtype=np.int64)


def effective_n(hits: Counts, batches: Counts) -> float:
    """Return how many independent samples would say as much about a ratio as these.

    Args:
        hits: how many samples of each batch count for the ratio.
        batches: how many samples each batch has. One batch alone tells nothing of how batches differ; its samples count as they are.
    """
    hits, batches = hits[batches > 0], batches[batches > 0]
    n, b = int(batches.sum()), len(batches)
    p = float(hits.sum()) / n
    variance = b / (b - 1) * float(np.square(hits - p * batches).sum()) / n**2 if b > 1 else 0.0
    if variance == 0:
        return float(n)
    tail = (1 + CONFIDENCE) / 2
    return float(min(n, max(1.0, p * (1 - p) / variance * (scipy.special.stdtrit(n - 1, tail) / scipy.special.stdtrit(b - 1, tail)) ** 2)))


def percentile_of_sorted(x: Values, p: float, effective: float | None = None) -> Percentile:
    """Return the p-quantile of `x`, sorted ascending and not empty, with its interval and upper bound.

    `effective` samples are as good as all of `x`; None: all are independent.
    """
    n, tail = len(x), (1 - CONFIDENCE) / 2
    n_effective = n if effective is None else max(1, int(effective))
    value, stretch = float(quantiles_of_sorted(x, np.array([p]))[0]), n / n_effective

    def at(rank: int, rounded: Callable[[float], int]) -> float | None:
        return float(x[min(max(rounded(rank * stretch), 1), n) - 1]) if 1 <= rank <= n_effective else None

    low = at(int(binomial_quantile(tail, n_effective, p)), math.floor)
    high, upper = (at(int(binomial_quantile(1 - one, n_effective, p)) + 1, math.ceil) for one in (tail, 2 * tail))
    low = None if low is None else min(low, value)  # in a tiny sample a rank can lie beyond the interpolated value
    return Percentile(value=value, low=low, high=high, upper=upper, n=n, n_effective=n_effective)


def distribution(x: Values, batches: Counts | None = None) -> Distribution | None:
    """Summarize what is known of a sample (any unit), that is not NaN; None when nothing is.

    Args:
        x: in the order of its batches, or in any order without them.
        batches: sizes of the consecutive batches whose samples are alike, such as the rounds of a burst; None: all are independent.
    """
    known = ~np.isnan(x)
    if not known.all():
        x, batches = x[known], None if batches is None else counts_within(known, batches)
    if len(x) == 0:
        return None
    s = np.sort(x if x.dtype.kind == "f" else x.astype(np.float64))  # half the width is half the time
    levels = []
    for p in LEVELS:
        value = float(quantiles_of_sorted(s, np.array([p]))[0])
        levels.append(percentile_of_sorted(s, p, None if batches is None else effective_n(counts_within(x <= value, batches), batches)))
    p50, p90, p95, p99 = levels
    return Distribution(mean=float(s.mean(dtype=np.float64)), min=float(s[0]), max=float(s[-1]), p50=p50, p90=p90, p95=p95, p99=p99)


def quantiles_of_sorted(s: Values, p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the p-quantiles of a sorted sample."""
    at = p * (len(s) - 1)
    below = at.astype(np.int64)
    low, high = s[below].astype(np.float64), s[np.minimum(below + 1, len(s) - 1)].astype(np.float64)
    with np.errstate(invalid="ignore"):  # what never ended is infinite
        found: NDArray[np.float64] = np.where(low == high, low, low + (at - below) * (high - low))
    return found


def ratio_lower_bound(successes: int, n: int, effective: float | None = None) -> float:
    """Return the one-sided 95 % lower bound of a success ratio; 0 of nothing proves nothing and gives 0.

    `effective` independent samples say as much as these n; None: all are independent.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} is not a ratio")
    if successes == 0:
        return 0.0
    worth = 1.0 if effective is None else effective / n
    return float(scipy.special.betaincinv(successes * worth, (n - successes) * worth + 1, 1 - CONFIDENCE))


def ratio_interval(ratio: float, n: float) -> tuple[float, float]:
    """Return the 95 % interval of a ratio that n independent samples gave (Clopper and Pearson, two-sided)."""
    tail, hits = (1 - CONFIDENCE) / 2, ratio * n
    low = 0.0 if hits <= 0 else float(scipy.special.betaincinv(hits, n - hits + 1, tail))
    high = 1.0 if hits >= n else float(scipy.special.betaincinv(hits + 1, n - hits, 1 - tail))
    return low, high


def median(values: Values) -> float:
    """Return the median of a sample that is not empty."""
    return float(quantiles_of_sorted(np.sort(values), np.array([0.5]))[0])


def bootstrap_interval(estimates: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the ends of the 95 % interval of each parameter, a column of `estimates`, whose rows are of resampled data."""
    low, high = np.percentile(estimates, [2.5, 97.5], axis=0)
    return low, high


def spent(part: float) -> float:
    """Return a(t), the error that looks may have spent when a part t of the data, above 0 and at most 1, is in."""
    z = float(scipy.special.ndtri((1 + CONFIDENCE) / 2))
    return 2 * float(scipy.special.ndtr(-z / math.sqrt(part)))


def share_below_maximum(n: int) -> float:
    """Return the share of all that lies below the maximum of n independent samples: 0.55 for 5, 0.95 for 59; `needed_n` turned round."""
    return float((1 - CONFIDENCE) ** (1 / n)) if n else 0.0


def spectrum(x: Values, batches: Counts) -> Mapping[str, NDArray[np.float64]]:
    """Return the percentile spectrum of a sample for a chart: arrays `p`, `value`, `low`, `high` (NaN: no bound).

    Quantiles are spaced evenly in log(1 / (1 - p)), the axis of an HDR plot, and end at the last one that n resolves.
    `batches` are as in `distribution`; how alike they are is found at some of the points, and interpolated between.
    """
    s = np.sort(x)
    n, tail = len(s), (1 - CONFIDENCE) / 2
    p = 1 - np.logspace(0, -math.log10(max(n, 2)), min(POINTS, max(n, 2)))
    value = quantiles_of_sorted(s, p)
    knots = np.unique(np.linspace(0, len(p) - 1, KNOTS).astype(np.int64))
    found = [effective_n(counts_within(x <= value[i], batches), batches) for i in knots]
    effective = np.maximum(1, np.interp(np.arange(len(p)), knots, found)).astype(np.int64)
    low, high = binomial_quantile(tail, effective, p), binomial_quantile(1 - tail, effective, p) + 1
    first, last = np.floor(low * (n / effective)).astype(np.int64), np.ceil(high * (n / effective)).astype(np.int64)
    return {
        "p": p,
        "value": value,
        "low": np.where(low >= 1, s[np.clip(first - 1, 0, n - 1)], np.nan),
        "high": np.where(high <= effective, s[np.clip(last - 1, 0, n - 1)], np.nan),
    }
