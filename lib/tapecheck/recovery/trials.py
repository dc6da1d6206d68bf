"""Times trials: the clocks of each, and the worst of several. Pure functions of a recording's probes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

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

    `gap_s` is the longest time without a new probe of some view since the fault began; `undecided` why that leaves its objective open.
    """

    trial: Trial
    clocks: Clocks | None
    lag_p99_ms: float
    gap_s: float = 0.0
    undecided: str = ""

    @property
    def invalid(self) -> str:
        """Why it says nothing about the target, or nothing."""
        if self.trial.reason or self.clocks is None:
            return self.trial.reason or "nothing was injected"
        if self.undecided:
            return self.undecided
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
    gap_s = 0.0 if trial.injected_ns is None else _gap_s(own, trial.injected_ns)
    undecided = _undecided(clocks, gap_s, plan.rto.get(trial.failure))
    return Timed(trial=trial, clocks=clocks, lag_p99_ms=p99.p99.value if p99 else 0.0, gap_s=gap_s, undecided=undecided)


def _gap_s(own: pa.Table, injected_ns: int) -> float:
    """Return the longest time between two probes of a view, of which the second was sent after the fault began."""
    starts = [view.sent_ns for view in seen(own).values()]
    return max((float(np.diff(ns)[ns[1:] >= injected_ns].max(initial=0)) / 1e9 for ns in starts), default=0.0)


def _undecided(clocks: Clocks | None, gap_s: float, objective: Recovery | None) -> str:
    """Say why probes so far apart cannot tell whether an objective was met, or nothing: a recovery that took less has met it anyway."""
    if clocks is None or objective is None:
        return ""
    took_s = lasted(clocks, f"{'recover' if objective.clock == 'full' else 'degraded'}_s")
    if gap_s < objective.objective_s and not objective.objective_s < took_s <= objective.objective_s + gap_s:
        return ""
    return (
        f"the machine was too busy to probe: {written(gap_s)} s passed without a probe, which is too long to tell "
        f"whether {written(objective.objective_s)} s were exceeded"
    )


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
