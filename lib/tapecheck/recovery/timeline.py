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
from dataclasses import dataclass, field, fields, replace
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tapecheck.recovery.objectives import RecoveryObjective, RecoveryPlan
from tapecheck.recovery.recording import BAD, DEGRADED, FULL, Recording, Trial
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

    def kept(self, chosen: NDArray[np.bool_]) -> "Seen":
        """Return some of the probes."""
        arrays = {one.name: getattr(self, one.name)[chosen] for one in fields(self) if one.name != "serves"}
        return replace(self, **arrays)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """Seconds since the fault was injected."""

    first_bad_s: float | None  # None where no probe saw a failure
    detect_s: float | None  # None where the target never reported it
    degraded_s: float | None  # 0 where no probe saw a failure, None where service was not back by the end
    recover_s: float | None  # likewise
    resolution_s: float  # how far `recover_s` may be off
    watched_s: float

    def lasted_s(self, clock: str, unfinished_s: float = math.inf) -> float:
        """Return a clock; one that had not stopped when watching ended lasted for ever, as far as we know."""
        value: float | None = getattr(self, clock)
        return unfinished_s if value is None else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """How a view failed while a fault was on: how often at once, and how often only after it had hung; the longest waits in seconds."""

    refused: int
    hung: int
    longest_s: float
    before_s: float  # the longest before the fault


def waits(seen: Seen, injected_ns: int, until_ns: int, *, slow_ns: int) -> Waits:
    """Return how a view failed from the injection to another time; an answer that took longer than `slow_ns` hung."""
    waited, during = seen.done_ns - seen.sent_ns, (seen.sent_ns >= injected_ns) & (seen.sent_ns < until_ns)
    return Waits(
        refused=int((during & (seen.state == BAD) & (waited <= slow_ns)).sum()),
        hung=int((during & (waited > slow_ns)).sum()),
        longest_s=float(waited[during].max(initial=0)) / 1e9,
        before_s=float(waited[seen.done_ns < injected_ns].max(initial=0)) / 1e9,
    )


def clocks(views: Mapping[str, Seen], injected_ns: int, *, slow_ns: int) -> Clocks:
    """Return the clocks of a trial; an answer that took longer than `slow_ns` was no service when it was asked for."""
    after = [seen.kept(seen.done_ns >= injected_ns) for seen in views.values()]
    earlier = [seen.state[seen.done_ns < injected_ns] for seen in views.values()]
    before = [int(states[-1]) if len(states) else FULL for states in earlier]
    bad = [worse.min() for seen, least in zip(after, before, strict=True) if len(worse := _worse_ns(seen, least, slow_ns))]
    reported = [seen.done_ns[seen.reported].min() for seen in after if seen.reported.any()]
    full = [_back(seen, FULL, injected_ns, slow_ns) for seen in after]
    served = [_back(seen, DEGRADED, injected_ns, slow_ns) for seen in after if seen.serves]
    ended_ns = max((int(seen.done_ns.max()) for seen in after if len(seen.done_ns)), default=injected_ns)
    return Clocks(
        first_bad_s=max(0, int(min(bad)) - injected_ns) / 1e9 if bad else None,
        detect_s=(int(min(reported)) - injected_ns) / 1e9 if reported else None,
        degraded_s=_latest(served),
        recover_s=_latest(full),
        resolution_s=max(full, key=lambda back: back[0] or 0.0)[1] if full else 0.0,
        watched_s=(ended_ns - injected_ns) / 1e9,
    )


def states(seen: Seen, slow_ns: int) -> Array:
    """Return the state of the target when each probe was sent; an answer that came late was none then."""
    waited = seen.done_ns - seen.sent_ns
    is_slow = waited > slow_ns
    until_ns = np.maximum.accumulate(np.where(is_slow, seen.done_ns, 0)) if len(waited) else waited
    period_ns = int(seen.sent_ns[-1] - seen.sent_ns[0]) // (len(waited) - 1) if len(waited) > 1 else slow_ns
    is_behind = (seen.sent_ns < until_ns) & (seen.done_ns > until_ns - period_ns) & (waited > period_ns)
    found: Array = np.where(is_slow | is_behind, BAD, seen.state)
    return found


def _worse_ns(seen: Seen, least: int, slow_ns: int) -> Array:
    """Return when the probes were sent that met a worse state than `least`."""
    return seen.sent_ns[states(seen, slow_ns) < least]


def _back(seen: Seen, least: int, injected_ns: int, slow_ns: int) -> tuple[float | None, float]:
    """Return when a view was back, in seconds since the injection (None: not by the end), and how much earlier that may have been."""
    worse_ns = _worse_ns(seen, least, slow_ns)
    if len(worse_ns) == 0:
        return 0.0, 0.0
    last_ns = int(worse_ns.max())
    good = seen.done_ns[(seen.state >= least) & (seen.done_ns > last_ns)]
    if len(good) == 0:
        return None, 0.0
    at_ns = int(good.min())
    waiting = seen.sent_ns[(seen.sent_ns < at_ns) & (seen.done_ns >= at_ns)]
    not_yet_ns = max(last_ns, injected_ns, *waiting.tolist())
    return max(0, at_ns - injected_ns) / 1e9, (at_ns - not_yet_ns) / 1e9


def _latest(backs: Sequence[tuple[float | None, float]]) -> float | None:
    """Return when all are back, or None where one is not."""
    times = [at_s for at_s, _ in backs if at_s is not None]
    return None if len(times) < len(backs) else max(times, default=0.0)


# ---- trials ----


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """A trial with its clocks; None where nothing was injected.

    The resolution of its clocks is at least the longest gap between two probes of a view; `undecided` why a gap leaves its objective open.
    """

    trial: Trial
    clocks: Clocks | None
    undecided: str = ""
    waits: Mapping[str, Waits] = field(default_factory=dict)  # by view, until the fault was taken away or all had recovered

    @property
    def invalid(self) -> str:
        """Why it says nothing about the target, or nothing."""
        if self.trial.reason or self.clocks is None:
            return self.trial.reason or "nothing was injected"
        is_seen = self.clocks.first_bad_s is not None or self.clocks.detect_s is not None or self.clocks.recover_s != 0
        if not self.undecided and not is_seen and not self.trial.may_be_unseen:
            return "no probe saw any effect of the fault, so that there was nothing to recover from"
        return self.undecided

    def unfinished(self, clock: str) -> str:
        """Why nothing follows yet from a clock that has not exceeded its objective, or nothing where it stopped."""
        if self.clocks is None or getattr(self.clocks, clock) is not None:
            return ""
        return f"not over when watching ended after {self.clocks.watched_s:.0f} s, which is less than the objective"

    @property
    def valid(self) -> Clocks | None:
        """Its clocks, if they say something about the target."""
        return None if self.invalid else self.clocks


@dataclass(frozen=True, slots=True, kw_only=True)
class PastTrial:
    """A valid trial after which the target recovered: of which failure, when its run began (UTC), and in what time."""

    at: datetime
    failure: str
    recover_s: float


def time_trial(recording: Recording, trial: Trial, plan: RecoveryPlan) -> Timed:
    """Return a trial of a recording with its clocks."""
    if trial.injected_ns is None:
        return Timed(trial=trial, clocks=None)
    views = seen(recording.probes(trial))
    found = clocks(views, trial.injected_ns, slow_ns=int(plan.prober.slow_s * 1e9))
    found = replace(found, resolution_s=max(found.resolution_s, _gap_s(views, trial.injected_ns)))
    until_ns = trial.released_ns or trial.injected_ns + int(1e9 * found.lasted_s("recover_s", found.watched_s))
    waited = {name: waits(one, trial.injected_ns, until_ns, slow_ns=int(plan.prober.slow_s * 1e9)) for name, one in views.items()}
    undecided = _undecided(views, trial.injected_ns, found, plan.rto.get(trial.failure))
    return Timed(trial=trial, clocks=found, undecided=undecided, waits=waited)


def _gap_s(views: Mapping[str, Seen], since_ns: float) -> float:
    """Return the longest time between two probes of a view, of which the second was sent since a time."""
    return max((float(np.diff(one.sent_ns)[one.sent_ns[1:] >= since_ns].max(initial=0)) / 1e9 for one in views.values()), default=0.0)


def _undecided(views: Mapping[str, Seen], injected_ns: int, clocks: Clocks, objective: RecoveryObjective | None) -> str:
    """Say why a gap between probes cannot tell whether an objective was met, or nothing.

    A recovery may have been earlier by the resolution, and a gap after it may hide a relapse as long as the gap.
    """
    if objective is None:
        return ""
    limit_s, took_s = objective.objective_s, clocks.lasted_s(objective.metric)
    gap_s = clocks.resolution_s if took_s > limit_s else _gap_s(views, injected_ns + took_s * 1e9)
    if took_s - gap_s > limit_s or took_s <= limit_s - gap_s:
        return ""
    return f"{written(gap_s)} s passed without a probe, too long to tell whether a recovery of {written(took_s)} s met {written(limit_s)} s"


def seen(probes: pa.Table) -> dict[str, Seen]:
    """Return the probes of one trial by view."""
    found = {}
    for view in pc.unique(probes["view"]).to_pylist():
        own = probes.filter(pc.equal(probes["view"], view))
        column = {one.name: own[one.name].to_numpy() for one in fields(Seen)}
        found[view] = Seen(**{**column, "serves": bool(column["serves"].any())})
    return found
