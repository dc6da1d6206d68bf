"""Fits the Universal Scalability Law to a sweep, with intervals. It claims nothing outside the measured range.

X(N) = g N / (1 + a (N - 1) + b N (N - 1)): throughput X (1/s) at concurrency N, with g the throughput of one (1/s),
a the contention (the share that is serial) and b the coherency (the cost of agreeing), after Gunther, Guerrilla
Capacity Planning, 2007, chapter 4. Its peak lies at N = sqrt((1 - a) / b).

The fit minimizes squared residuals of log X, so that each level counts by its relative error. Intervals are those
of a bootstrap that resamples those residuals, scaled by sqrt(n / (n - 3)) for the three parameters fitted.
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy  # imports scipy.optimize when it is first used
from numpy.typing import NDArray

from tapecheck.statistics import intervals

LEVELS_NEEDED = 6
RESAMPLES = 200
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A fitted parameter with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Usl:
    """A fitted law, valid between the concurrencies `n_min` and `n_max`; the peak is None where it lies outside."""

    gamma_rps: Estimate
    alpha: Estimate
    beta: Estimate
    levels: int
    n_min: float
    n_max: float
    residual_ratio: float
    peak_concurrency: float | None
    peak_rps: float | None
    peak_note: str

    def throughput_rps(self, n: Array | float) -> Array:
        """Return the law's throughput at concurrency `n`; a ValueError beyond the measured range."""
        n = np.asarray(n, dtype=np.float64)
        if np.any((n < self.n_min) | (n > self.n_max)):
            raise ValueError(f"the law was fitted for N from {self.n_min:.3g} to {self.n_max:.3g}, and says nothing beyond")
        return law(n, self.gamma_rps.value, self.alpha.value, self.beta.value)


def law(n: Array, gamma: float, alpha: float, beta: float) -> Array:
    """Return X(N)."""
    return gamma * n / (1 + alpha * (n - 1) + beta * n * (n - 1))


def fit(concurrency: Array, throughput_rps: Array, *, seed: int = 0) -> Usl:
    """Fit the law to N and X of measured levels, in any order; `seed` is of the bootstrap.

    Raises:
        ValueError: fewer than six levels, or a level without throughput.
    """
    n, x = np.asarray(concurrency, dtype=np.float64), np.asarray(throughput_rps, dtype=np.float64)
    if len(n) != len(x) or len(n) < LEVELS_NEEDED:
        raise ValueError(f"too few levels ({len(n)}); at least {LEVELS_NEEDED} needed")
    if np.any(n <= 0) or np.any(x <= 0):
        raise ValueError("every level needs a concurrency and a throughput above 0")
    best = _least_squares(n, x)
    fitted = law(n, *best)
    residuals = np.log(x / fitted)
    scaled = (residuals - residuals.mean()) * math.sqrt(len(n) / (len(n) - 3))
    rng = np.random.default_rng(seed)
    resampled = np.array([_least_squares(n, fitted * np.exp(rng.choice(scaled, len(n))), best) for _ in range(RESAMPLES)])
    low, high = intervals.bootstrap_interval(resampled)
    gamma, alpha, beta = (
        Estimate(value=float(v), low=float(min(v, a)), high=float(max(v, b))) for v, a, b in zip(best, low, high, strict=True)
    )
    concurrency_at_peak, peak_rps, note = _peak(best, float(n.max()))
    return Usl(
        gamma_rps=gamma,
        alpha=alpha,
        beta=beta,
        levels=len(n),
        n_min=float(n.min()),
        n_max=float(n.max()),
        residual_ratio=float(np.abs(np.expm1(residuals)).max()),
        peak_concurrency=concurrency_at_peak,
        peak_rps=peak_rps,
        peak_note=note,
    )


def _least_squares(n: Array, x: Array, start: Array | None = None) -> Array:
    begin = np.array([np.max(x / n), 0.05, 1e-4]) if start is None else np.clip(start, [1e-9, 1e-9, 1e-12], [np.inf, 0.999, 9.99])
    scale = np.array([begin[0], 0.1, 1e-3])

    def residuals(p: Array) -> Array:
        """Return those of log X; below N = 1 some parameters that are tried have no positive throughput."""
        return np.asarray(np.log(np.maximum(law(n, *p), 1e-300) / x))

    def derivatives(p: Array) -> Array:
        """Return those of the residuals by gamma, alpha and beta."""
        below = np.maximum(1 + p[1] * (n - 1) + p[2] * n * (n - 1), 1e-300)
        return np.column_stack([np.full(len(n), 1 / p[0]), -(n - 1) / below, -n * (n - 1) / below])

    found = scipy.optimize.least_squares(
        residuals, begin, derivatives, bounds=([1e-12, 0, 0], [np.inf, 1, 10]), x_scale=scale, method="trf", max_nfev=200
    )
    return np.asarray(found.x, dtype=np.float64)


def _peak(parameters: Array, n_max: float) -> tuple[float | None, float | None, str]:
    gamma, alpha, beta = map(float, parameters)
    at = math.sqrt((1 - alpha) / beta) if beta > 0 else math.inf
    if at > n_max:
        return None, None, f"no peak up to N = {n_max:.3g}, the highest measured; nothing is claimed beyond"
    return at, float(law(np.array(at), gamma, alpha, beta)), "within the measured range"
