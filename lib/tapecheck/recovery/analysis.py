"""What a recovery run found under a plan: recovery times, ages, loss and alerts, and what each objective says of them. It asks nobody."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from tapecheck.errors import ConfigError, Problem
from tapecheck.recovery import ages
from tapecheck.recovery.ages import Alert, SeriesAge
from tapecheck.recovery.contradictions import Contradiction, find
from tapecheck.recovery.objectives import RecoveryPlan
from tapecheck.recovery.recording import Audit, Recording, WrittenBar
from tapecheck.recovery.timeline import Clocks, Timed, Worst, time_trial, worst
from tapecheck.statistics import intervals
from tapecheck.verdict import Check, Measured, Objective, Verdict, judge, overall, parse_all

AGE, LOSS = "age_s", "lost_minutes"
AUDITED = ("false_ages", "wrong_answers", "alerts")  # metrics of the audit of ages
UNCOMPARED = "no series was asked for, or its age compared with what is stored: see that the target's database and its `features` answer"
NO_DATABASE = "met by what the API reports of itself alone: the target file names no database (backfill.database_url)"


def check_failures(plan: RecoveryPlan, failures: Mapping[str, str]) -> None:
    """Refuse drills about failures that the plan has no objective for: nobody would judge them.

    Args:
        failures: the failure that each drill is about, by the drill's file or name.

    Raises:
        ConfigError: every one at once.
    """
    key, allowed = "extensions.tapecheck.failure", f"a failure of the plan's rto: {', '.join(plan.rto)}"
    unknown = {drill: failure for drill, failure in failures.items() if failure not in plan.rto}
    if unknown:
        raise ConfigError([Problem(file=drill, key=key, got=repr(failure), allowed=allowed) for drill, failure in unknown.items()])


# ---- what is in a summary ----


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureSummary:
    """One failure over all its drills; `proven_share` of the recoveries of each are within `recover_s.max`, with 95 % confidence.

    `undetected` counts the trials that the target itself never reported although a view could have; `detect_s` is the longest of those
    that it reported.
    """

    objective_s: float
    clock: str
    drills: list[str]
    trials: list[Timed]
    recover_s: Worst
    degraded_s: Worst
    detect_s: float | None
    undetected: int
    resolution_s: float
    proven_share: float
    verdict: Verdict

    @property
    def judged(self) -> Worst:
        """The clock that counts."""
        return self.recover_s if self.clock == "full" else self.degraded_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What became of a tier's bars, over all trials.

    Args:
        unknown_bars: whose commit got no answer; they are not among the acknowledged.
        lost_minutes: the most that one symbol lost in one trial, which is what the objective is about.
        refetchable_bars, unrecoverable_bars: of the lost ones, those that upstream still has, and has not.
    """

    acknowledged_bars: int = 0
    unknown_bars: int = 0
    never_read_bars: int = 0
    lost_bars: int = 0
    lost_minutes: float = 0.0
    refetchable_bars: int = 0
    unrecoverable_bars: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TierSummary(Loss):
    """One tier: how old its data is at worst, and what of what the database had acknowledged was lost.

    `freshness_loss_minutes` is how long nothing could be refreshed, which is no loss of what was stored.
    """

    objective_s: float
    symbols: list[str]
    worst_age_s: float | None
    worst_series: str
    missing: list[str]
    max_lost_minutes: float
    freshness_loss_minutes: float | None
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class SymbolAge:
    """The oldest series of a symbol."""

    age_s: float | None
    state: str
    timeframe: str
    tier: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoverySummary:
    """What a recovery run found under a plan.

    `audit` is what was recorded of ages, `series` what the plan makes of it; `freshness`, `alerts` and the counts are empty or None
    where ages were not audited.
    """

    rto: dict[str, FailureSummary]
    rpo: dict[str, TierSummary]
    freshness: dict[str, SymbolAge]
    alerts: list[Alert]
    contradictions: list[Contradiction]
    false_ages: int | None
    wrong_answers: int | None
    audit: Audit | None
    series: list[SeriesAge]
    losses: dict[str, Loss]
    timed: list[Timed]


def slowest(timed: Iterable[Timed]) -> Timed | None:
    """Return the valid trial that took longest to recover in full, of those that did."""
    done = [(one.clocks.recover_s, one) for one in timed if one.clocks and not one.invalid and one.clocks.recover_s]
    return max(done, key=lambda pair: pair[0], default=(0.0, None))[1]


def summarize(recording: Recording, plan: RecoveryPlan) -> RecoverySummary:
    """Summarize a recording by a plan.

    Raises:
        ConfigError: the plan has no objective for a failure that was drilled.
    """
    context = recording.context
    check_failures(plan, {one.drill: one.failure for one in context.trials})
    timed = [time_trial(recording.probes, trial, plan) for trial in context.trials]
    audit = context.audit
    series = ages.judged(audit, plan) if audit else []
    is_audited, as_found = audit is not None and not audit.invalid, [one for one in series if not one.planted]
    losses = losses_of(recording.bars, timed, plan)
    return RecoverySummary(
        rto=_failures(timed, plan),
        rpo=_tiers(audit, series, losses, _no_refresh_minutes(recording.bars, timed), plan),
        freshness=_by_symbol(as_found),
        alerts=ages.alerts(plan, audit, series) if audit and is_audited else [],
        contradictions=find(plan),
        false_ages=sum(bool(one.false_age) for one in series) if is_audited else None,
        wrong_answers=sum(bool(one.wrong_answer) for one in series) if is_audited else None,
        audit=audit,
        series=series,
        losses=losses,
        timed=timed,
    )


# ---- recovery ----


def _failures(timed: Sequence[Timed], plan: RecoveryPlan) -> dict[str, FailureSummary]:
    trials = {name: [one for one in timed if one.trial.failure == name] for name in plan.rto}
    return {name: _failure(name, own, plan) for name, own in trials.items() if own}


def _failure(name: str, own: list[Timed], plan: RecoveryPlan) -> FailureSummary:
    valid = [one.clocks for one in own if not one.invalid and one.clocks]
    silent = [one for one in own if one.trial.may_report and not one.invalid and one.clocks and one.clocks.detect_s is None]
    recover = worst(own, "recover_s", plan)
    return FailureSummary(
        objective_s=plan.rto[name].objective_s,
        clock=plan.rto[name].clock,
        drills=list(dict.fromkeys(one.trial.drill for one in own)),
        trials=own,
        recover_s=recover,
        degraded_s=worst(own, "degraded_s", plan),
        detect_s=max((clocks.detect_s for clocks in valid if clocks.detect_s is not None), default=None),
        undetected=len(silent),
        resolution_s=max((clocks.resolution_s for clocks in valid), default=0.0),
        proven_share=intervals.share_below_maximum(recover.n),
        verdict=_failure_check(name, own, plan).verdict,
    )


def _failure_check(name: str, own: Sequence[Timed], plan: RecoveryPlan) -> Check:
    """Judge a failure by the clock that counts: one invalid trial makes it invalid, a missed one fails it all the same."""
    share, metric = plan.trials.proven_share, plan.rto[name].metric
    objective = Objective(metric=metric, op="<=", limit=plan.rto[name].objective_s)
    longest = worst(own, metric, plan)
    measured = Measured(
        value=longest.max, bound=longest.upper if share else longest.max, n=longest.n, needed_n=intervals.needed_n(share) if share else None
    )
    reasons = {f"{one.trial.drill}, trial {one.trial.trial}": one.invalid or _unfinished(one, metric, objective) for one in own}
    invalid = next((f"{where}: {reason}" for where, reason in reasons.items() if reason), None)
    is_missed = any(not objective.met_by(_watched_s(one.clocks, metric)) for one in own if one.clocks and not one.invalid)
    return judge(objective, measured, name=name, invalid=None if is_missed else invalid)


def _watched_s(clocks: Clocks, clock: str) -> float:
    """Return a clock, or of one that did not stop, how long it was seen to run."""
    value: float | None = getattr(clocks, clock)
    return clocks.watched_s if value is None else value


def _unfinished(one: Timed, clock: str, objective: Objective) -> str:
    """Say of a clock that ran when watching ended, before the objective was over, that nothing follows from it yet."""
    if one.clocks is None or getattr(one.clocks, clock) is not None or not objective.met_by(one.clocks.watched_s):
        return ""
    return f"not over when watching ended after {one.clocks.watched_s:.0f} s, which is less than the objective"


# ---- age and loss ----


def losses_of(bars: Iterable[WrittenBar], timed: Iterable[Timed], plan: RecoveryPlan) -> dict[str, Loss]:
    """Return the loss of every tier, in minutes of symbols; of a tier of which no bar was written although bars were to be, nothing."""
    by_tier: defaultdict[str, list[WrittenBar]] = defaultdict(list)
    for bar in bars:
        by_tier[plan.tier_of(bar.symbol) or ""].append(bar)
    unwritten = {name: Loss() for name in plan.rpo} if any(one.trial.gone_bars is not None for one in timed) else {}
    return unwritten | {name: _loss(own) for name, own in by_tier.items()}


def _loss(bars: Sequence[WrittenBar]) -> Loss:
    fates = Counter(bar.fate for bar in bars)
    lost = [bar for bar in bars if bar.fate == "lost"]
    minutes: defaultdict[tuple[str, str, int], float] = defaultdict(float)
    for bar in lost:
        minutes[bar.symbol, bar.drill, bar.trial] += bar.minutes
    return Loss(
        acknowledged_bars=fates.total() - fates["unknown"],
        unknown_bars=fates["unknown"],
        never_read_bars=fates["never_read"],
        lost_bars=fates["lost"],
        lost_minutes=max(minutes.values(), default=0.0),
        refetchable_bars=sum(bar.refetchable is True for bar in lost),
        unrecoverable_bars=sum(bar.refetchable is False for bar in lost),
    )


def _no_refresh_minutes(bars: Iterable[WrittenBar], timed: Iterable[Timed]) -> float | None:
    """Return how long nothing could be refreshed at most, during the valid trials in which bars were written."""
    recorded = {bar.drill for bar in bars}
    valid = [one.clocks for one in timed if one.clocks and not one.invalid and one.trial.drill in recorded]
    return max((_watched_s(clocks, "recover_s") / 60 for clocks in valid), default=None)


def _by_symbol(series: Iterable[SeriesAge]) -> dict[str, SymbolAge]:
    oldest: dict[str, SeriesAge] = {}
    for one in series:
        if one.symbol not in oldest or _age_s(one) > _age_s(oldest[one.symbol]):
            oldest[one.symbol] = one
    return {name: SymbolAge(age_s=one.reported_s, state=one.state, timeframe=one.timeframe, tier=one.tier) for name, one in oldest.items()}


def _age_s(one: SeriesAge) -> float:
    """Return the age that counts; what never was there is infinitely old."""
    return math.inf if one.age_s is None else one.age_s


def _of_tier(name: str, series: Iterable[SeriesAge]) -> list[SeriesAge]:
    return [one for one in series if one.tier == name and not one.planted]


def _tiers(
    audit: Audit | None, series: Sequence[SeriesAge], losses: Mapping[str, Loss], no_refresh_minutes: float | None, plan: RecoveryPlan
) -> dict[str, TierSummary]:
    if not audit and not losses:
        return {}
    found = {}
    for name, tier in plan.rpo.items():
        own, loss = _of_tier(name, series), losses.get(name)
        oldest = max(own, key=_age_s, default=None)
        found[name] = TierSummary(
            objective_s=tier.max_age_s,
            symbols=sorted({one.symbol for one in own}),
            worst_age_s=None if oldest is None else _age_s(oldest),
            worst_series=f"{oldest.symbol} {oldest.timeframe}" if oldest else "",
            missing=[f"{one.symbol} {one.timeframe}" for one in own if one.state == "missing"],
            max_lost_minutes=tier.max_lost_minutes,
            freshness_loss_minutes=no_refresh_minutes if loss and loss.acknowledged_bars + loss.unknown_bars else None,
            verdict=overall(check.verdict for check in _tier_checks(name, audit, own, loss, plan)),
            **asdict(loss or Loss()),
        )
    return found


def _tier_checks(name: str, audit: Audit | None, own: Sequence[SeriesAge], loss: Loss | None, plan: RecoveryPlan) -> Iterator[Check]:
    """Judge a tier's age where ages were audited, and its loss where bars were recorded."""
    age = Objective(metric=AGE, op="<=", limit=plan.rpo[name].max_age_s)
    if audit and audit.invalid:
        yield judge(age, Measured(value=None, bound=None, n=0), name=name, invalid=audit.invalid)
    elif own:
        age_s = max(map(_age_s, own))
        check = judge(age, Measured(value=age_s, bound=age_s, n=len(own)), name=name)
        never = [f"{one.symbol} {one.timeframe}" for one in own if one.age_s is None]
        yield replace(check, reason=f"{len(never)} series are not there, such as {never[0]}") if never else check
    if loss and (own or loss.acknowledged_bars):
        measured = Measured(value=loss.lost_minutes, bound=loss.lost_minutes, n=loss.acknowledged_bars - loss.never_read_bars)
        unread = f"{loss.never_read_bars} acknowledged bars could not be read again" if loss.never_read_bars else None
        objective = Objective(metric=LOSS, op="<=", limit=plan.rpo[name].max_lost_minutes)
        yield judge(objective, measured, name=name, invalid=None if loss.lost_bars else unread)


# ---- verdicts ----


def check(summary: RecoverySummary, plan: RecoveryPlan) -> list[Check]:
    """Judge every objective that was put to the test; a run that asked no target is judged by the plan's contradictions."""
    unexplained, broken = sum(not one.explained for one in summary.contradictions), [one.trial for one in summary.timed if one.clocks]
    found = [_counted("unexplained_contradictions", unexplained, len(summary.contradictions) or 1, name="policy")]
    found += [_failure_check(name, failure.trials, plan) for name, failure in summary.rto.items()]
    for name in summary.rpo:
        found += _tier_checks(name, summary.audit, _of_tier(name, summary.series), summary.losses.get(name), plan)
    if broken:
        found.append(_counted("unsteady_after", sum(not trial.steady_after for trial in broken), len(broken)))
    if any(one.trial.unrecorded for one in summary.timed):  # nothing lost is no result where loss could not be counted
        found.append(_counted(LOSS, None, 0, name="loss"))
    return [*found, *_further(summary, plan)]


def _counted(metric: str, value: float | None, n: int, *, name: str = "target") -> Check:
    return judge(Objective(metric=metric, op="<=", limit=0), Measured(value=value, bound=value, n=n), name=name)


def _further(summary: RecoverySummary, plan: RecoveryPlan) -> Iterator[Check]:
    """Judge the plan's own objectives, as far as what they are about was measured."""
    audit, series = summary.audit or Audit(), summary.series
    counted = [one.trial.gone_bars for one in summary.timed if one.trial.gone_bars is not None]
    compared = sum(one.database_s is not None for one in series) if audit.has_database else len(series)
    values: dict[str, tuple[float | None, int]] = {
        "gone_bars": (sum(counted) if counted else None, len(counted)),
        "false_ages": (summary.false_ages, max(compared, summary.false_ages or 0)),
        "wrong_answers": (summary.wrong_answers, max(sum(one.seen is not None for one in series), summary.wrong_answers or 0)),
        "alerts": (None if summary.false_ages is None else len(summary.alerts), len(series)),
        "unrecoverable_bars": (
            sum(tier.unrecoverable_bars for tier in summary.rpo.values()),
            sum(tier.acknowledged_bars for tier in summary.rpo.values()),
        ),
    }
    for objective in parse_all(plan.objectives, values, (), file="plan"):
        value, n = values[objective.metric]
        invalid = audit.invalid if objective.metric in AUDITED else ""
        if value is not None or invalid:
            missing = UNCOMPARED if objective.metric in AUDITED else None
            found = judge(objective, Measured(value=value, bound=value, n=n, missing=missing), name="target", invalid=invalid or None)
            is_alone = objective.metric == "false_ages" and not audit.has_database and found.verdict == Verdict.PASS
            yield replace(found, reason=NO_DATABASE) if is_alone else found
