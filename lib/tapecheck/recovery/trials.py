"""Times trials: the clocks of each, and the worst of several. Pure functions of a recording's probes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tapecheck import stats
from tapecheck.recovery import timeline
from tapecheck.recovery.policy import RecoveryPlan
from tapecheck.recovery.recording import Trial
from tapecheck.recovery.timeline import Clocks, Seen

LATE_MS = (100.0, 2000.0)  # of the prober itself, at its 99th percentile: the least and the most that may be allowed
LATE_SHARE = 0.1  # of the objective: a prober that is later may have missed what matters


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """A trial with its clocks; None where nothing was injected."""

    trial: Trial
    clocks: Clocks | None
    lag_p99_ms: float
    allowed_lag_ms: float

    @property
    def invalid(self) -> str:
        """Why it says nothing about the target, or nothing."""
        if self.trial.reason or self.clocks is None:
            return self.trial.reason or "nothing was injected"
        if self.lag_p99_ms > self.allowed_lag_ms:
            return f"the prober itself was {self.lag_p99_ms:.0f} ms late (99th percentile): the machine is too busy"
        if self.clocks.first_bad_s is None and self.clocks.detect_s is None and not self.trial.may_be_unseen:
            return "no probe saw any effect of the fault, so that there was nothing to recover from"
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worst:
    """The longest time in seconds, and the 95 % upper bound of the share that must be proven; None where n cannot support it.

    `n` counts the trials of the drill that was tried least.
    """

    max: float | None
    upper: float | None
    n: int


def time_trial(probes: pa.Table, trial: Trial, plan: RecoveryPlan) -> Timed:
    """Return a trial with its clocks, from all probes of a recording."""
    own = probes.filter(pc.and_(pc.equal(probes["drill"], trial.drill), pc.equal(probes["trial"], trial.trial)))
    late_ms = (own["sent_ns"].to_numpy() - own["intended_ns"].to_numpy()) / 1e6
    p99 = stats.distribution(late_ms)
    clocks = None
    if trial.injected_ns is not None:
        clocks = timeline.clocks(seen(own), trial.injected_ns, slow_ns=int(plan.prober.slow_s * 1e9))
    objective = plan.rto.get(trial.failure)
    allowed_ms = min(max(LATE_MS[0], LATE_SHARE * 1000 * objective.objective_s if objective else 0.0), LATE_MS[1])
    return Timed(trial=trial, clocks=clocks, lag_p99_ms=p99.p99.value if p99 else 0.0, allowed_lag_ms=allowed_ms)


def seen(probes: pa.Table) -> dict[str, Seen]:
    """Return the probes of one trial by view."""
    found = {}
    for view in pc.unique(probes["view"]).to_pylist():
        own = probes.filter(pc.equal(probes["view"], view))
        column = {name: own[name].to_numpy() for name in ("intended_ns", "done_ns", "state", "reported", "serves")}
        found[view] = Seen(**{**column, "serves": bool(column["serves"].any())})
    return found


def lasted(clocks: Clocks, clock: str) -> float:
    """Return a clock; one that had not stopped when watching ended lasted for ever, as far as we know."""
    value: float | None = getattr(clocks, clock)
    return math.inf if value is None else value


def worst(own: Sequence[Timed], clock: str, plan: RecoveryPlan) -> Worst:
    """Return the worst of all drills; what is proven is proven of the drill that was tried least, since no drill stands for another."""
    share, drills = plan.trials.proven_share, dict.fromkeys(one.trial.drill for one in own)
    times_s = [
        [lasted(one.clocks, clock) for one in own if one.trial.drill == drill and one.clocks and not one.invalid] for drill in drills
    ]
    n = min(map(len, times_s), default=0)
    uppers = [stats.percentile_of_sorted(np.sort(np.array(times)), share).upper for times in times_s] if share and n else []
    upper = None if None in uppers else max((value for value in uppers if value is not None), default=None)
    return Worst(max=max((value for times in times_s for value in times), default=None), upper=upper, n=n)
