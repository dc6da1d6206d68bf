"""Turns the fates of bars into what was lost, in market data's units: minutes a symbol and tier. Pure functions."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tapecheck.recovery.objectives import RecoveryPlan
from tapecheck.recovery.recording import Ack, SeriesAge
from tapecheck.recovery.timeline import Clocks, Timed, worst
from tapecheck.statistics import intervals
from tapecheck.verdict import Check, Measured, Objective, judge


@dataclass(frozen=True, slots=True, kw_only=True)
class TierLoss:
    """What became of a tier's bars, over all trials.

    Args:
        unknown_bars: whose commit got no answer; they are not among the acknowledged, which are stable, lost or never read.
        lost_minutes: the most that one symbol lost in one trial, which is what a promise of minutes is about.
        lost_minutes_by_symbol: the same for each symbol that lost any.
        total_lost_minutes: of all symbols and trials together; a bar that several trials wrote counts in each.
        worst_symbol: the one that lost most; None where nothing was lost.
        refetchable_bars, unrecoverable_bars, unasked_bars: of the lost ones, those that upstream still has, has not, and was not
            asked for or did not say.
        freshness_loss_minutes: how long nothing could be refreshed, which is no loss of what was stored.
    """

    acknowledged_bars: int = 0
    stable_bars: int = 0
    lost_bars: int = 0
    never_read_bars: int = 0
    unknown_bars: int = 0
    lost_minutes: float = 0.0
    lost_minutes_by_symbol: Mapping[str, float] = field(default_factory=dict)
    total_lost_minutes: float = 0.0
    worst_symbol: str | None = None
    refetchable_bars: int = 0
    unrecoverable_bars: int = 0
    unasked_bars: int = 0
    freshness_loss_minutes: float | None = None


def summarize(acks: Iterable[Ack], *, freshness_loss_minutes: float | None = None) -> dict[str, TierLoss]:
    """Return the loss of every tier of which a bar was written; bars of symbols without a tier are under `""`."""
    by_tier: defaultdict[str, list[Ack]] = defaultdict(list)
    for ack in acks:
        by_tier[ack.tier or ""].append(ack)
    return {name: _tier(own, freshness_loss_minutes) for name, own in by_tier.items()}


def _tier(acks: Sequence[Ack], freshness_loss_minutes: float | None) -> TierLoss:
    fates = Counter(ack.fate for ack in acks)
    lost = [ack for ack in acks if ack.fate == "lost"]
    by_symbol, asked = _minutes_by_symbol(lost), Counter(ack.refetchable for ack in lost)
    return TierLoss(
        acknowledged_bars=fates.total() - fates["unknown"],
        stable_bars=fates["stable"],
        lost_bars=fates["lost"],
        never_read_bars=fates["never_read"],
        unknown_bars=fates["unknown"],
        lost_minutes=max(by_symbol.values(), default=0.0),
        lost_minutes_by_symbol=by_symbol,
        total_lost_minutes=sum(ack.minutes for ack in lost),
        worst_symbol=max(by_symbol, key=lambda symbol: by_symbol[symbol], default=None),
        refetchable_bars=asked[True],
        unrecoverable_bars=asked[False],
        unasked_bars=asked[None],
        freshness_loss_minutes=freshness_loss_minutes,
    )


def _minutes_by_symbol(lost: Iterable[Ack]) -> dict[str, float]:
    """Return the most minutes that each symbol lost in one trial of one drill."""
    by_trial: defaultdict[tuple[str, str, int], float] = defaultdict(float)
    for ack in lost:
        by_trial[ack.symbol, ack.drill, ack.trial] += ack.minutes
    worst: dict[str, float] = {}
    for (symbol, _, _), minutes in by_trial.items():
        worst[symbol] = max(worst.get(symbol, 0.0), minutes)
    return worst


# ---- judgement ----

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
        value=longest.max, bound=longest.upper if share else longest.max, n=longest.n, needed_n=intervals.needed_n(share) if share else None
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
