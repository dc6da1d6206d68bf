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

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import scipy  # imports scipy.special when it is first used; scipy.stats has the same functions, and takes two seconds
from numpy.typing import NDArray
from pydantic import BeforeValidator, WithJsonSchema

CONFIDENCE = 0.95
KNOTS = 16  # of a spectrum's points, at which its batches are compared
Values = NDArray[np.floating] | NDArray[np.integer]
Counts = NDArray[np.int64]
Figure = Annotated[  # NaN where it is not known, which JSON writes as null
    float,
    BeforeValidator(lambda value: math.nan if value is None else value),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "null"}]}),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentile:
    """A percentile in the unit of its samples, with its 95 % interval [`low`, `high`] and one-sided bound `upper`.

    A bound is None where n cannot support it; a verdict is given by `upper`, which needs fewer samples than `high`.
    `n_effective` is how many independent samples would say as much; bounds are taken from it. It is 0 where another tool
    told the percentile and has no samples; `value` is NaN where it did not even tell that.
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


def needed_n(p: float, confidence: float = CONFIDENCE) -> int:
    """Return the smallest n whose maximum is an upper bound of the p-quantile: 59 for p95, 299 for p99."""
    return math.ceil(math.log(1 - confidence) / math.log(p))


def binomial_quantile(q: float, n: int | Counts, p: NDArray[np.float64] | float) -> NDArray[np.int64]:
    """Return the smallest k with P(Binomial(n, p) <= k) >= q, for each p."""
    p = np.asarray(p, dtype=np.float64)
    above = np.where(p <= 0, 0.0, np.where(p >= 1, n, np.ceil(scipy.special.bdtrik(q, n, np.clip(p, 1e-12, 1 - 1e-12)))))
    below = np.maximum(above - 1, 0)
    return np.where(scipy.special.bdtr(below, n, p) >= q, below, above).astype(np.int64)


def upper_rank(n: int, p: float, tail: float) -> int | None:
    """Return the smallest rank u with P(Binomial(n, p) >= u) <= tail, or None when that is beyond n."""
    u = int(binomial_quantile(1 - tail, n, p)) + 1
    return u if u <= n else None


def lower_rank(n: int, p: float, tail: float) -> int | None:
    """Return the largest rank l with P(Binomial(n, p) < l) <= tail, or None when that is below 1."""
    low = int(binomial_quantile(tail, n, p))
    return low if low >= 1 else None


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


@dataclass(frozen=True, slots=True)
class _Ranks:
    """Which order statistics bound a quantile, counted from 1; None where n cannot support one."""

    low: int | None
    high: int | None
    upper: int | None

    @classmethod
    def of(cls, n: int, p: float, effective: int) -> "_Ranks":
        tail, stretch = (1 - CONFIDENCE) / 2, n / effective
        low, high, upper = lower_rank(effective, p, tail), upper_rank(effective, p, tail), upper_rank(effective, p, 1 - CONFIDENCE)
        return cls(
            None if low is None else max(1, math.floor(low * stretch)),
            None if high is None else min(n, math.ceil(high * stretch)),
            None if upper is None else min(n, math.ceil(upper * stretch)),
        )

    def places(self) -> set[int]:
        return {rank - 1 for rank in (self.low, self.high, self.upper) if rank is not None}


def percentile_of_sorted(x: Values, p: float, effective: float | None = None) -> Percentile:
    """Return the p-quantile of `x`, sorted ascending and not empty, with its interval and upper bound.

    Only the places that are needed are looked at, so that these being in order is enough. `effective` samples are as good as
    all of `x`; None: all are independent.
    """
    n = len(x)
    n_effective = n if effective is None else max(1, int(effective))
    value = _value(x, p)
    ranks = _Ranks.of(n, p, n_effective)
    low, high, upper = (None if rank is None else float(x[rank - 1]) for rank in (ranks.low, ranks.high, ranks.upper))
    if low is not None:
        low = min(low, value)  # in a tiny sample an order statistic can lie beyond the interpolated value; wider still covers
    return Percentile(value=value, low=low, high=high, upper=upper, n=n, n_effective=n_effective)


def distribution(x: Values, batches: Counts | None = None) -> Distribution | None:
    """Summarize a sample (any unit); None when it is empty.

    Only the order statistics that are needed are put in their places, which is several times faster than to sort.

    Args:
        x: in the order of its batches, or in any order without them.
        batches: sizes of the consecutive batches whose samples are alike, such as the rounds of a burst; None: all are independent.
    """
    n, levels = len(x), (0.50, 0.90, 0.95, 0.99)
    if n == 0:
        return None
    s: NDArray[np.floating] = np.array(x, dtype=x.dtype if x.dtype.kind == "f" else np.float64)  # half the width is half the time
    known = sorted({0, n - 1}.union(*(_places(n, p) for p in levels)))
    s.partition(known)
    effective = [float(n) if batches is None else effective_n(counts_within(x <= _value(s, p), batches), batches) for p in levels]
    _place(s, known, set().union(*(_Ranks.of(n, p, max(1, int(samples))).places() for p, samples in zip(levels, effective, strict=True))))
    p50, p90, p95, p99 = (percentile_of_sorted(s, p, samples) for p, samples in zip(levels, effective, strict=True))
    return Distribution(mean=float(s.mean(dtype=np.float64)), min=float(s[0]), max=float(s[-1]), p50=p50, p90=p90, p95=p95, p99=p99)


def _place(s: Values, known: Sequence[int], wanted: set[int]) -> None:
    """Put more order statistics in their places; those at `known` places are, so that only what lies between them is moved."""
    for a, b in itertools.pairwise(known):
        inside = sorted(place - a - 1 for place in wanted if a < place < b)
        if inside:
            s[a + 1 : b].partition(inside)


def _places(n: int, p: float) -> set[int]:
    """Return the places, from 0, between which a quantile is interpolated."""
    below = int(p * (n - 1))
    return {below, min(below + 1, n - 1)}


def _value(s: Values, p: float) -> float:
    """Return the p-quantile of a sample in which the places around it are in order."""
    at = p * (len(s) - 1)
    below = int(at)
    return float(s[below]) + (at - below) * (float(s[min(below + 1, len(s) - 1)]) - float(s[below]))


def quantiles_of_sorted(s: NDArray[np.float64], p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the p-quantiles of a sorted sample."""
    at = p * (len(s) - 1)
    below = at.astype(np.int64)
    above = np.minimum(below + 1, len(s) - 1)
    values: NDArray[np.float64] = s[below] + (at - below) * (s[above] - s[below])
    return values


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


def median(values: Values) -> float:
    """Return the median of a sample that is not empty."""
    return _value(np.sort(np.asarray(values, dtype=np.float64)), 0.5)


def bootstrap_interval(estimates: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the ends of the 95 % interval of each parameter, a column of `estimates`, whose rows are of resampled data."""
    low, high = np.percentile(estimates, [2.5, 97.5], axis=0)
    return low, high


def spent(part: float) -> float:
    """Return a(t), the error that looks may have spent when a part t of the data, above 0 and at most 1, is in."""
    z = float(scipy.special.ndtri((1 + CONFIDENCE) / 2))
    return 2 * float(scipy.special.ndtr(-z / math.sqrt(part)))


def needed_n_for_ratio(ratio: float, confidence: float = CONFIDENCE) -> int:
    """Return how many successes without a failure prove more than `ratio`: 299 for 0.99."""
    return math.ceil(math.log(1 - confidence) / math.log(ratio))


def share_below_maximum(n: int, confidence: float = CONFIDENCE) -> float:
    """Return the share of all that lies below the maximum of n independent samples, with this confidence: 0.55 for 5, 0.95 for 59.

    It is `needed_n` turned round: the largest p whose quantile the maximum bounds.
    """
    return float((1 - confidence) ** (1 / n)) if n else 0.0


def spectrum(x: Values, batches: Counts | None = None, points: int = 200) -> Mapping[str, NDArray[np.float64]]:
    """Return the percentile spectrum of a sample for a chart: arrays `p`, `value`, `low`, `high` (NaN: no bound).

    Quantiles are spaced evenly in log(1 / (1 - p)), the axis of an HDR plot, and end at the last one that n resolves.
    `batches` are as in `distribution`; how alike they are is found at some of the points, and interpolated between.
    """
    s = np.sort(np.asarray(x, dtype=np.float64))
    n, tail = len(s), (1 - CONFIDENCE) / 2
    p = 1 - np.logspace(0, -math.log10(max(n, 2)), min(points, max(n, 2)))
    value, effective = quantiles_of_sorted(s, p), np.full(len(p), n)
    if batches is not None:
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
