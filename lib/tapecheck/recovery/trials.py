"""Times trials: the clocks of each, and the worst of several. Pure functions of a recording's probes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tapecheck import stats
from tapecheck.recovery import timeline
from tapecheck.recovery.policy import Recovery, RecoveryPlan
from tapecheck.recovery.recording import Trial
from tapecheck.recovery.timeline import Clocks, Seen
from tapecheck.verdict import written


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """A trial with its clocks; None where nothing was injected.

    The resolution of its clocks is at least the longest gap between two probes of a view; `undecided` why a gap leaves its objective open.
    """

    trial: Trial
    clocks: Clocks | None
    lag_p99_ms: float
    undecided: str = ""

    @property
    def invalid(self) -> str:
        """Why it says nothing about the target, or nothing."""
        if self.trial.reason or self.clocks is None:
            return self.trial.reason or "nothing was injected"
        if self.undecided:
            return self.undecided
        is_seen = self.clocks.first_bad_s is not None or self.clocks.detect_s is not None or self.clocks.recover_s != 0
        if not is_seen and not self.trial.may_be_unseen:
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
    clocks, undecided = None, ""
    if trial.injected_ns is not None:
        views = seen(own)
        clocks = timeline.clocks(views, trial.injected_ns, slow_ns=int(plan.prober.slow_s * 1e9))
        clocks = replace(clocks, resolution_s=max(clocks.resolution_s, _gap_s(views, trial.injected_ns)))
        undecided = _undecided(views, trial.injected_ns, clocks, plan.rto.get(trial.failure))
    return Timed(trial=trial, clocks=clocks, lag_p99_ms=p99.p99.value if p99 else 0.0, undecided=undecided)


def _gap_s(views: Mapping[str, Seen], since_ns: float) -> float:
    """Return the longest time between two probes of a view, of which the second was sent since a time."""
    return max((float(np.diff(one.sent_ns)[one.sent_ns[1:] >= since_ns].max(initial=0)) / 1e9 for one in views.values()), default=0.0)


def _undecided(views: Mapping[str, Seen], injected_ns: int, clocks: Clocks, objective: Recovery | None) -> str:
    """Say why a gap between probes cannot tell whether an objective was met, or nothing.

    A recovery may have been earlier by the resolution, and a gap after it may hide a relapse as long as the gap.
    """
    if objective is None:
        return ""
    limit_s, took_s = objective.objective_s, lasted(clocks, f"{'recover' if objective.clock == 'full' else 'degraded'}_s")
    gap_s = clocks.resolution_s if took_s > limit_s else _gap_s(views, injected_ns + took_s * 1e9)
    if took_s - gap_s > limit_s or took_s <= limit_s - gap_s:
        return ""
    return f"{written(gap_s)} s passed without a probe, too long to tell whether a recovery of {written(took_s)} s met {written(limit_s)} s"


def seen(probes: pa.Table) -> dict[str, Seen]:
    """Return the probes of one trial by view."""
    found = {}
    for view in pc.unique(probes["view"]).to_pylist():
        own = probes.filter(pc.equal(probes["view"], view))
        column = {name: own[name].to_numpy() for name in ("sent_ns", "done_ns", "state", "reported", "serves")}
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
