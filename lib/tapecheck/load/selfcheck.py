"""Says when a load run measured its own generator, or no target at all. What was measured is another module's business."""

from dataclasses import dataclass

from tapecheck.load.recording import GeneratorStats
from tapecheck.validation import STOPPED

CPU_TICKS_S = 0.02  # some systems count CPU time in ticks of 10 ms; a short measurement may hold one too many at either end


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Beyond which figures of the generator a scenario says nothing about the target."""

    cpu_ratio: float
    achieved_ratio: float
    lag_p99_ms: float | None = None
    dispatch_lag_p99_ms: float | None = None


def invalid(generator: GeneratorStats, limits: Limits, *, duration_s: float, local: int = 0) -> str | None:
    """Say why a scenario of a duration did not measure its target, or None when it did.

    `local` requests failed for want of ports or files here.
    """
    reasons = [STOPPED] if generator.target_stopped else []
    if local:
        reasons.append(f"{local:,} requests failed because this machine ran out of ports or file descriptors")
    if generator.lag_p99_ms is not None and limits.lag_p99_ms is not None and generator.lag_p99_ms > limits.lag_p99_ms:
        reasons.append(f"the generator's event loop lagged {generator.lag_p99_ms:.1f} ms (p99; limit {limits.lag_p99_ms:g})")
    if generator.cpu_ratio is not None and generator.cpu_ratio * duration_s - CPU_TICKS_S > limits.cpu_ratio * duration_s:
        reasons.append(f"the generator used {generator.cpu_ratio:.0%} of its core (limit {limits.cpu_ratio:.0%})")
    if generator.achieved_ratio is not None and generator.achieved_ratio < limits.achieved_ratio:
        reasons.append(f"only {generator.achieved_ratio:.1%} of the offered rate was sent (limit {limits.achieved_ratio:.0%})")
    lag_ms, limit_ms = generator.dispatch_lag_p99_ms, limits.dispatch_lag_p99_ms
    if lag_ms is not None and limit_ms is not None and lag_ms > limit_ms:
        reasons.append(f"the generator sent {lag_ms:.1f} ms late while a connection was free (p99; limit {limit_ms:g})")
    if generator.workers_lost:
        lost = f"{len(generator.workers_lost)} of {generator.workers} load workers died in mid-run: {', '.join(generator.workers_lost)}"
        reasons.append(f"{lost}; what is recorded of its share is counted, the rest is missing")
    return "; ".join(reasons) or None
