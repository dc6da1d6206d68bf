"""Turns the probes of a trial into clocks: when service went, when it was noticed, when it was back. Pure functions.

A probe tells of the target from when it was sent, i, to its end d. One that is answered late was not served before d, so
it counts as bad at i, and so do those that began while it waited and waited too; one that got no answer says nothing after i.
For a set of views, with t0 the injection:

- first bad: the smallest i of a probe that was worse than the last one before t0, of those that ended after t0; what was already
  so is not the fault's doing.
- back: the smallest d of a good enough answer after the last i that met a worse state.
- resolution: how much earlier that may have been: the time since that last i, or since the i of a probe that still waited then.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tapecheck.recovery.objectives import RecoveryObjective, RecoveryPlan
from tapecheck.recovery.recording import BAD, DEGRADED, FULL, Trial
from tapecheck.statistics import intervals
from tapecheck.verdict import written

Array = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The probes of one view in the order in which they were sent (ns, monotonic), with state and whether the failure was reported."""

    sent_ns: Array
    done_ns: Array
    state: Array
    reported: NDArray[np.bool_]
    serves: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """Seconds since the fault was injected.

    `first_bad_s` and `detect_s` are None where no probe saw it; `degraded_s` and `recover_s` are 0 where no probe saw a failure, and
    None where service was not back by the end, `watched_s` after injection. `resolution_s`: how far `recover_s` may be off.
    """

    first_bad_s: float | None
    detect_s: float | None
    degraded_s: float | None
    recover_s: float | None
    resolution_s: float
    watched_s: float


def clocks(views: Mapping[str, Seen], injected_ns: int, *, slow_ns: int) -> Clocks:
    """Return the clocks of a trial; an answer that took longer than `slow_ns` was no service when it was asked for."""
    after, before = [_since(seen, injected_ns) for seen in views.values()], [_before(seen, injected_ns) for seen in views.values()]
    bad = [start for seen, least in zip(after, before, strict=True) if (start := _worse(seen, least, slow_ns, first=True)) is not None]
    reported = [int(seen.done_ns[seen.reported].min()) for seen in after if seen.reported.any()]
    full = [_back(seen, FULL, injected_ns, slow_ns) for seen in after]
    served = [_back(seen, DEGRADED, injected_ns, slow_ns) for seen in after if seen.serves]
    ended_ns = max((int(seen.done_ns.max()) for seen in after if len(seen.done_ns)), default=injected_ns)
    return Clocks(
        first_bad_s=max(0, min(bad) - injected_ns) / 1e9 if bad else None,
        detect_s=(min(reported) - injected_ns) / 1e9 if reported else None,
        degraded_s=_latest(served),
        recover_s=_latest(full),
        resolution_s=max(full, key=lambda back: back.at_s or 0.0).resolution_s if full else 0.0,
        watched_s=(ended_ns - injected_ns) / 1e9,
    )


@dataclass(frozen=True, slots=True)
class _Back:
    """When one view was back, in seconds since the injection; None: not by the end."""

    at_s: float | None
    resolution_s: float


def _since(seen: Seen, injected_ns: int) -> Seen:
    """Keep the probes that ended after the injection."""
    kept = seen.done_ns >= injected_ns
    return Seen(
        sent_ns=seen.sent_ns[kept],
        done_ns=seen.done_ns[kept],
        state=seen.state[kept],
        reported=seen.reported[kept],
        serves=seen.serves,
    )


def _before(seen: Seen, injected_ns: int) -> int:
    """Return the state of the last answer before the injection."""
    earlier = seen.state[seen.done_ns < injected_ns]
    return int(earlier[-1]) if len(earlier) else FULL


def states(seen: Seen, slow_ns: int) -> Array:
    """Return the state of the target when each probe was sent; an answer that came late was none then."""
    waited = seen.done_ns - seen.sent_ns
    is_slow = waited > slow_ns
    until_ns = np.maximum.accumulate(np.where(is_slow, seen.done_ns, 0)) if len(waited) else waited
    period_ns = int(seen.sent_ns[-1] - seen.sent_ns[0]) // (len(waited) - 1) if len(waited) > 1 else slow_ns
    is_behind = (seen.sent_ns < until_ns) & (seen.done_ns > until_ns - period_ns) & (waited > period_ns)
    found: Array = np.where(is_slow | is_behind, BAD, seen.state)
    return found


def _worse(seen: Seen, least: int, slow_ns: int, *, first: bool = False) -> int | None:
    """Return when the last (or first) probe was sent that met a worse state than `least`, or None where none did."""
    worse = seen.sent_ns[states(seen, slow_ns) < least]
    return None if len(worse) == 0 else int(worse.min() if first else worse.max())


def _back(seen: Seen, least: int, injected_ns: int, slow_ns: int) -> _Back:
    last_ns = _worse(seen, least, slow_ns)
    if last_ns is None:
        return _Back(0.0, 0.0)
    good = seen.done_ns[(seen.state >= least) & (seen.done_ns > last_ns)]
    if len(good) == 0:
        return _Back(None, 0.0)
    at_ns = int(good.min())
    waiting = seen.sent_ns[(seen.sent_ns < at_ns) & (seen.done_ns >= at_ns)]
    not_yet_ns = max(last_ns, injected_ns, *waiting.tolist())
    return _Back(max(0, at_ns - injected_ns) / 1e9, (at_ns - not_yet_ns) / 1e9)


def _latest(backs: Sequence[_Back]) -> float | None:
    """Return when all are back, or None where one is not."""
    times = [back.at_s for back in backs]
    return None if None in times else max((at_s for at_s in times if at_s is not None), default=0.0)


# ---- trials ----


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
    p99 = intervals.distribution(late_ms)
    own_clocks, undecided = None, ""
    if trial.injected_ns is not None:
        views = seen(own)
        own_clocks = clocks(views, trial.injected_ns, slow_ns=int(plan.prober.slow_s * 1e9))
        own_clocks = replace(own_clocks, resolution_s=max(own_clocks.resolution_s, _gap_s(views, trial.injected_ns)))
        undecided = _undecided(views, trial.injected_ns, own_clocks, plan.rto.get(trial.failure))
    return Timed(trial=trial, clocks=own_clocks, lag_p99_ms=p99.p99.value if p99 else 0.0, undecided=undecided)


def _gap_s(views: Mapping[str, Seen], since_ns: float) -> float:
    """Return the longest time between two probes of a view, of which the second was sent since a time."""
    return max((float(np.diff(one.sent_ns)[one.sent_ns[1:] >= since_ns].max(initial=0)) / 1e9 for one in views.values()), default=0.0)


def _undecided(views: Mapping[str, Seen], injected_ns: int, clocks: Clocks, objective: RecoveryObjective | None) -> str:
    """Say why a gap between probes cannot tell whether an objective was met, or nothing.

    A recovery may have been earlier by the resolution, and a gap after it may hide a relapse as long as the gap.
    """
    if objective is None:
        return ""
    limit_s, took_s = objective.objective_s, lasted(clocks, objective.metric)
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
    uppers = [intervals.percentile_of_sorted(np.sort(np.array(times)), share).upper for times in times_s] if share and n else []
    upper = None if None in uppers else max((value for value in uppers if value is not None), default=None)
    return Worst(max=max((value for times in times_s for value in times), default=None), upper=upper, n=n)
