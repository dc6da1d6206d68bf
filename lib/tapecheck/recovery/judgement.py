"""Judges one failure by its trials, and one tier by its ages and losses. It summarizes nothing and reads no recording."""

import math
from collections.abc import Sequence
from dataclasses import replace

from tapecheck import stats
from tapecheck.recovery.loss import TierLoss
from tapecheck.recovery.policy import RecoveryPlan
from tapecheck.recovery.recording import SeriesAge
from tapecheck.recovery.timeline import Clocks
from tapecheck.recovery.trials import Timed, worst
from tapecheck.verdict import Check, Measured, Objective, judge

AGE, LOSS = "age_s", "lost_minutes"


def age_s_of(one: SeriesAge) -> float:
    """Return the age that counts: the database's where it was asked, since an API may be wrong; what never was there is infinitely old."""
    known = one.database_s if one.database_s is not None else one.said_s
    return math.inf if known is None else known


def failure_check(name: str, own: Sequence[Timed], plan: RecoveryPlan) -> Check:
    """Judge a failure by the clock that counts: one invalid trial makes it invalid, a missed one fails it all the same."""
    promise, share = plan.rto[name], plan.trials.proven_share
    metric = "recover_s" if promise.clock == "full" else "degraded_s"
    objective = Objective(metric=metric, op="<=", limit=promise.objective_s)
    longest = worst(own, metric, plan)
    measured = Measured(
        value=longest.max, bound=longest.upper if share else longest.max, n=longest.n, needed_n=stats.needed_n(share) if share else None
    )
    reasons = {f"{one.trial.drill}, trial {one.trial.trial}": one.invalid or _unfinished(one, metric, objective) for one in own}
    invalid = next((f"{where}: {reason}" for where, reason in reasons.items() if reason), None)
    is_missed = any(not objective.met_by(watched_s(one.clocks, metric)) for one in own if one.clocks and not one.invalid)
    return judge(objective, measured, name=name, invalid=None if is_missed else invalid)


def watched_s(clocks: Clocks, clock: str) -> float:
    """Return a clock, or of one that did not stop, how long it was seen to run."""
    value: float | None = getattr(clocks, clock)
    return clocks.watched_s if value is None else value


def _unfinished(one: Timed, clock: str, objective: Objective) -> str:
    """Say of a clock that ran when watching ended, before the objective was over, that it tells nothing yet."""
    if one.clocks is None or getattr(one.clocks, clock) is not None or not objective.met_by(one.clocks.watched_s):
        return ""
    return f"not over when watching ended after {one.clocks.watched_s:.0f} s, which is less than the objective"


def tier_checks(name: str, series: Sequence[SeriesAge], lost: TierLoss | None, plan: RecoveryPlan, *, invalid: str = "") -> list[Check]:
    """Judge a tier's age where ages were audited, and its loss where bars were recorded; `invalid` says why the audit tells nothing."""
    found = []
    if invalid:
        objective = Objective(metric=AGE, op="<=", limit=plan.rpo[name].max_age_s)
        found.append(judge(objective, Measured(value=None, bound=None, n=0), name=name, invalid=invalid))
    elif series:
        age_s = max(map(age_s_of, series))
        objective = Objective(metric=AGE, op="<=", limit=plan.rpo[name].max_age_s)
        check = judge(objective, Measured(value=age_s, bound=age_s, n=len(series)), name=name)
        never = [f"{one.symbol} {one.timeframe}" for one in series if math.isinf(age_s_of(one))]
        found.append(replace(check, reason=f"{len(never)} series are not there, such as {never[0]}") if never else check)
    if lost and (series or lost.acknowledged_bars):
        objective = Objective(metric=LOSS, op="<=", limit=plan.rpo[name].max_lost_minutes)
        read = lost.acknowledged_bars - lost.never_read_bars
        measured = Measured(value=lost.lost_minutes, bound=lost.lost_minutes, n=read)
        unread = f"{lost.never_read_bars} acknowledged bars could not be read again" if lost.never_read_bars else None
        found.append(judge(objective, measured, name=name, invalid=None if lost.lost_bars else unread))
    return found
