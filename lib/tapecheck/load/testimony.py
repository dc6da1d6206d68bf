"""What another tool says of a load run that it measured: which tool, and figures where it gives no single requests. It reads no file."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from tapecheck.stats import Distribution, Figure, Percentile

LEVELS = (50, 90, 95, 99)  # per cent: the percentiles of a distribution


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """The tool that measured in our place, the kind of its output, and what that leaves open, a sentence each.

    `answers_only`: requests without an answer are missing, so that nothing bounds what is said of the rest.
    """

    name: str
    output: str
    notes: tuple[str, ...]
    answers_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a tool says of some requests; `response_time_ms` has NaN for what it does not say."""

    requests: int
    failed: int
    response_time_ms: Distribution | None
    bytes_mean: Figure = math.nan

    def __post_init__(self) -> None:
        """Refuse counts that cannot be.

        Raises:
            ValueError: more failed than there were.
        """
        if not 0 <= self.failed <= self.requests:
            raise ValueError(f"{self.failed} failures of {self.requests} requests")


@dataclass(frozen=True, slots=True, kw_only=True)
class Testimony(Figures):
    """What a tool says of one scenario; `by` has the same for each value of a parameter."""

    duration_s: float
    errors: dict[str, int]
    by: dict[str, dict[str, Figures]] = field(default_factory=dict)


def distribution(
    n: int, percentiles_ms: Mapping[int, float], *, mean_ms: float = math.nan, min_ms: float = math.nan, max_ms: float = math.nan
) -> Distribution | None:
    """Put a tool's own figures of n times in the place of ours: no percentile of it has an interval; None when n is 0.

    Args:
        percentiles_ms: by per cent; what is not one of `LEVELS` has no place, and what is absent is NaN.
    """
    if n == 0:
        return None
    p50, p90, p95, p99 = (_percentile(n, percentiles_ms.get(level, math.nan)) for level in LEVELS)
    return Distribution(mean=mean_ms, min=min_ms, max=max_ms, p50=p50, p90=p90, p95=p95, p99=p99)


def unbounded(times: Distribution | None) -> Distribution | None:
    """Take the intervals from a distribution of which the worst may be missing."""
    if times is None:
        return None
    return distribution(
        times.p50.n,
        {level: getattr(times, f"p{level}").value for level in LEVELS},
        mean_ms=times.mean,
        min_ms=times.min,
        max_ms=times.max,
    )


def _percentile(n: int, value_ms: float) -> Percentile:
    return Percentile(value=value_ms, low=None, high=None, upper=None, n=0 if math.isnan(value_ms) else n, n_effective=0)
