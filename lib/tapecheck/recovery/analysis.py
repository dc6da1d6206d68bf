"""What a recovery run found under a plan: recovery times, ages, loss and alerts, and what each objective says of them. It asks nobody."""

import math
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from tapecheck.errors import ConfigError, Problem
from tapecheck.recovery import ages
from tapecheck.recovery.ages import Alert, SeriesAge
from tapecheck.recovery.contradictions import DESTROYED, Contradiction, find
from tapecheck.recovery.objectives import RecoveryPlan
from tapecheck.recovery.recording import Audit, Recording, Restore, WrittenBar
from tapecheck.recovery.timeline import Timed, time_trial
from tapecheck.statistics import intervals
from tapecheck.verdict import Check, Measured, Objective, Verdict, judge, overall, parse_all

AGE, LOSS = "age_s", "lost_minutes"
AUDITED = ("false_ages", "wrong_answers", "alerts")  # metrics of the audit of ages
UNCOMPARED = "no series was asked for, or its age compared with what is stored: see that the target's database and its `features` answer"
NO_DATABASE = "met by what the API reports of itself alone: the target file names no database (backfill.database_url)"


def check_failures(plan: RecoveryPlan, failures: Mapping[str, str]) -> None:
    """Refuse drills (each file or name with its failure) about what the plan has no objective for: nobody would judge them."""
    key, allowed = "extensions.tapecheck.failure", f"a failure of the plan's rto: {', '.join(plan.rto)}"
    if unknown := {drill: failure for drill, failure in failures.items() if failure not in plan.rto}:
        raise ConfigError([Problem(file=drill, key=key, got=repr(failure), allowed=allowed) for drill, failure in unknown.items()])


# ---- what is in a summary ----


@dataclass(frozen=True, slots=True, kw_only=True)
class Worst:
    """The longest time in seconds, and the 95 % upper bound of the share that must be proven; None where n cannot support it.

    `n` counts the trials of the drill that was tried least.
    """

    max: float | None
    upper: float | None
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureSummary:
    """One failure over all its drills; `proven_share` of the recoveries of each are within `recover_s.max`, with 95 % confidence."""

    objective_s: float
    clock: str
    drills: list[str]
    trials: list[Timed]
    recover_s: Worst
    degraded_s: Worst
    detect_s: float | None  # the longest of the trials that the target reported
    undetected: int  # trials that it never reported although a view could have
    resolution_s: float
    proven_share: float
    verdict: Verdict

    @property
    def judged(self) -> Worst:
        """The clock that counts."""
        return self.recover_s if self.clock == "full" else self.degraded_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What became of a tier's bars, over all trials."""

    acknowledged_bars: int = 0
    unknown_bars: int = 0  # whose commit got no answer; they are not among the acknowledged
    never_read_bars: int = 0
    lost_bars: int = 0
    lost_minutes: float = 0.0  # the most that one symbol lost in one trial, which is what the objective is about
    refetchable_bars: int = 0  # of the lost ones, those that upstream still has
    unrecoverable_bars: int = 0  # and those that it has not
    delayed_bars: int = 0  # not among the lost ones: gone with a database that was restored, and still to be had from upstream
    delayed_minutes: float = 0.0  # the most that one symbol has of them in one trial


@dataclass(frozen=True, slots=True, kw_only=True)
class TierSummary(Loss):
    """One tier: how old its data is at worst, and what of what the database had acknowledged was lost."""

    objective_s: float
    symbols: list[str]
    worst_age_s: float | None
    worst_series: str
    missing: list[str]
    max_lost_minutes: float
    freshness_loss_minutes: float | None  # how long nothing could be refreshed, which is no loss of what was stored
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """A trial that restored the database: what came since its backup by tier, all that was lost with it, and why the backup is none."""

    timed: Timed
    facts: Restore
    losses: dict[str, Loss]
    unusable: str

    def after_s(self, at_ns: int | None) -> float | None:
        """Return a time in seconds since the database was dropped."""
        injected_ns = self.timed.trial.injected_ns
        return None if at_ns is None or injected_ns is None else (at_ns - injected_ns) / 1e9


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
    restored: list[Restored]

    @property
    def as_found(self) -> list[SeriesAge]:
        """The series that were not made old on purpose."""
        return [one for one in self.series if not one.planted]


def summarize(recording: Recording, plan: RecoveryPlan) -> RecoverySummary:
    """Summarize a recording by a plan, which must have an objective for each failure that was drilled."""
    context = recording.context
    check_failures(plan, {one.drill: one.failure for one in context.trials})
    timed, audit = [time_trial(recording, trial, plan) for trial in context.trials], context.audit
    series = ages.judged(audit, plan) if audit else []
    is_audited = audit is not None and not audit.invalid
    losses = losses_of(recording.bars, timed, plan)
    return RecoverySummary(
        rto={name: _failure(name, own, plan) for name in plan.rto if (own := [one for one in timed if one.trial.failure == name])},
        rpo=_tiers(audit, series, losses, _no_refresh_minutes(recording.bars, timed), plan),
        freshness=_by_symbol(one for one in series if not one.planted),
        alerts=ages.alerts(plan, audit, series) if audit and is_audited else [],
        contradictions=find(plan),
        false_ages=sum(bool(one.false_age) for one in series) if is_audited else None,
        wrong_answers=sum(bool(one.wrong_answer) for one in series) if is_audited else None,
        audit=audit,
        series=series,
        losses=losses,
        timed=timed,
        restored=[_restored(one, one.trial.restore, recording, plan) for one in timed if one.trial.restore],
    )


# ---- recovery ----


def _worst(own: Sequence[Timed], clock: str, share: float | None) -> Worst:
    """Return the worst of all drills; what is proven is proven of the drill that was tried least, since no drill stands for another."""
    times_s: defaultdict[str, list[float]] = defaultdict(list)
    for one in own:
        times_s[one.trial.drill] += [one.valid.lasted_s(clock)] if one.valid else []
    n = min(map(len, times_s.values()), default=0)
    uppers = [intervals.percentile_of_sorted(np.sort(np.array(times)), share).upper for times in times_s.values()] if share and n else []
    known = [upper for upper in uppers if upper is not None]
    return Worst(
        max=max((value for times in times_s.values() for value in times), default=None),
        upper=max(known, default=None) if len(known) == len(uppers) else None,
        n=n,
    )


def _failure(name: str, own: list[Timed], plan: RecoveryPlan) -> FailureSummary:
    valid = [(one.trial, one.valid) for one in own if one.valid]
    recover = _worst(own, "recover_s", plan.trials.proven_share)
    return FailureSummary(
        objective_s=plan.rto[name].objective_s,
        clock=plan.rto[name].clock,
        drills=list(dict.fromkeys(one.trial.drill for one in own)),
        trials=own,
        recover_s=recover,
        degraded_s=_worst(own, "degraded_s", plan.trials.proven_share),
        detect_s=max((clocks.detect_s for _, clocks in valid if clocks.detect_s is not None), default=None),
        undetected=sum(trial.may_report is True and clocks.detect_s is None for trial, clocks in valid),
        resolution_s=max((clocks.resolution_s for _, clocks in valid), default=0.0),
        proven_share=intervals.share_below_maximum(recover.n),
        verdict=_failure_check(name, own, plan).verdict,
    )


def _failure_check(name: str, own: Sequence[Timed], plan: RecoveryPlan) -> Check:
    """Judge a failure by the clock that counts: one invalid trial makes it invalid, a missed one fails it all the same."""
    share, metric = plan.trials.proven_share, plan.rto[name].metric
    objective, longest = Objective(metric=metric, op="<=", limit=plan.rto[name].objective_s), _worst(own, metric, share)
    measured = Measured(
        value=longest.max, bound=longest.upper if share else longest.max, n=longest.n, needed_n=intervals.needed_n(share) if share else None
    )
    if any(not objective.met_by(one.valid.lasted_s(metric, one.valid.watched_s)) for one in own if one.valid):
        return judge(objective, measured, name=name)
    reasons = [f"{one.trial.drill}, trial {one.trial.trial}: {why}" for one in own if (why := one.invalid or one.unfinished(metric))]
    return judge(objective, measured, name=name, invalid=next(iter(reasons), None))


# ---- age and loss ----


def losses_of(bars: Iterable[WrittenBar], timed: Iterable[Timed], plan: RecoveryPlan) -> dict[str, Loss]:
    """Return the loss of every tier, in minutes of symbols; of a tier of which no bar was written although bars were to be, nothing."""
    by_tier: defaultdict[str, list[WrittenBar]] = defaultdict(list)
    timed = list(timed)
    spared = {one.trial.drill for one in timed if plan.rto[one.trial.failure].loss == "unrecoverable"}
    for bar in bars:
        by_tier[plan.tier_of(bar.symbol) or ""].append(bar)
    unwritten = {name: Loss() for name in plan.rpo} if any(one.trial.gone_bars is not None for one in timed) else {}
    return unwritten | {name: _loss(own, spared) for name, own in by_tier.items()}


def _restored(timed: Timed, facts: Restore, recording: Recording, plan: RecoveryPlan) -> Restored:
    """Return what became of a database that was restored."""
    trial, different, unusable = timed.trial, facts.different, facts.unusable
    if facts.destroyed_at and facts.switched_ns is None:
        unusable = unusable or "the database was dropped, and was not restored"
    elif different and not unusable:
        was, now = ((one[different[0]].rows if different[0] in one else 0) for one in (facts.saved or facts.before, facts.restored))
        unusable = f"{len(different)} tables came back otherwise than they were backed up, such as {different[0]}: {now:,} of {was:,} rows"
    by_tier: defaultdict[str, list[WrittenBar]] = defaultdict(list)
    for bar in recording.bars:
        if (bar.drill, bar.trial) == (trial.drill, trial.trial):
            by_tier[plan.tier_of(bar.symbol) or ""].append(bar)
    losses = {name: _loss(by_tier[name]) for name in plan.rpo if name in by_tier}
    return Restored(timed=timed, facts=facts, losses=losses, unusable=unusable)


def _most_minutes(bars: Iterable[WrittenBar]) -> float:
    """Return the minutes of the symbol and trial that have most."""
    minutes: defaultdict[tuple[str, str, int], float] = defaultdict(float)
    for bar in bars:
        minutes[bar.symbol, bar.drill, bar.trial] += bar.minutes
    return max(minutes.values(), default=0.0)


def _loss(bars: Sequence[WrittenBar], spared: Container[str] = ()) -> Loss:
    """Return the loss of bars; in the spared drills one that upstream still has is delayed, and not lost."""
    fates = Counter(bar.fate for bar in bars)
    delayed = [bar for bar in bars if bar.fate == "lost" and bar.drill in spared and bar.refetchable]
    lost = [bar for bar in bars if bar.fate == "lost" and not (bar.drill in spared and bar.refetchable)]
    return Loss(
        acknowledged_bars=fates.total() - fates["unknown"],
        unknown_bars=fates["unknown"],
        never_read_bars=fates["never_read"],
        lost_bars=len(lost),
        lost_minutes=_most_minutes(lost),
        refetchable_bars=sum(bar.refetchable is True for bar in lost),
        unrecoverable_bars=sum(bar.refetchable is False for bar in lost),
        delayed_bars=len(delayed),
        delayed_minutes=_most_minutes(delayed),
    )


def _no_refresh_minutes(bars: Iterable[WrittenBar], timed: Iterable[Timed]) -> float | None:
    """Return how long nothing could be refreshed at most, during the valid trials in which bars were written."""
    recorded = {bar.drill for bar in bars}
    valid = [one.valid for one in timed if one.valid and one.trial.drill in recorded]
    return max((clocks.lasted_s("recover_s", clocks.watched_s) / 60 for clocks in valid), default=None)


def _age_s(one: SeriesAge) -> float:
    """Return the age that counts; what never was there is infinitely old."""
    return math.inf if one.age_s is None else one.age_s


def _by_symbol(series: Iterable[SeriesAge]) -> dict[str, SymbolAge]:
    oldest: dict[str, SeriesAge] = {}
    for one in series:
        if one.symbol not in oldest or _age_s(one) > _age_s(oldest[one.symbol]):
            oldest[one.symbol] = one
    return {name: SymbolAge(age_s=one.reported_s, state=one.state, timeframe=one.timeframe, tier=one.tier) for name, one in oldest.items()}


def _of_tier(name: str, series: Iterable[SeriesAge]) -> list[SeriesAge]:
    return [one for one in series if one.tier == name and not one.planted]


def _tiers(
    audit: Audit | None, series: Sequence[SeriesAge], losses: Mapping[str, Loss], no_refresh_minutes: float | None, plan: RecoveryPlan
) -> dict[str, TierSummary]:
    found = {}
    for name, tier in plan.rpo.items() if audit or losses else ():
        own, loss = _of_tier(name, series), losses.get(name)
        oldest = max(own, key=_age_s, default=None)
        found[name] = TierSummary(
            objective_s=tier.max_age_s,
            symbols=sorted({one.symbol for one in own}),
            worst_age_s=None if oldest is None else _age_s(oldest),
            worst_series=str(oldest or ""),
            missing=[str(one) for one in own if one.state == "missing"],
            max_lost_minutes=tier.max_lost_minutes,
            freshness_loss_minutes=no_refresh_minutes if loss and loss.acknowledged_bars + loss.unknown_bars else None,
            verdict=overall(check.verdict for check in _tier_checks(name, audit, own, loss, plan)),
            **asdict(loss or Loss()),
        )
    return found


def _tier_checks(name: str, audit: Audit | None, own: Sequence[SeriesAge], loss: Loss | None, plan: RecoveryPlan) -> Iterator[Check]:
    """Judge a tier's age where ages were audited, and its loss where bars were recorded."""
    if audit and audit.invalid:
        yield _checked(AGE, plan.rpo[name].max_age_s, None, 0, name=name, invalid=audit.invalid)
    elif own:
        check = _checked(AGE, plan.rpo[name].max_age_s, max(map(_age_s, own)), len(own), name=name)
        never = [str(one) for one in own if one.age_s is None]
        yield replace(check, reason=f"{len(never)} series are not there, such as {never[0]}") if never else check
    if loss and (own or loss.acknowledged_bars):
        unread = (
            f"{loss.never_read_bars} acknowledged bars could not be read again" if loss.never_read_bars and not loss.lost_bars else None
        )
        n = loss.acknowledged_bars - loss.never_read_bars
        yield _checked(LOSS, plan.rpo[name].max_lost_minutes, loss.lost_minutes, n, name=name, invalid=unread)


# ---- verdicts ----


def check(summary: RecoverySummary, plan: RecoveryPlan) -> list[Check]:
    """Judge every objective that was put to the test; a run that asked no target is judged by the plan's contradictions."""
    unexplained, broken = sum(not one.explained for one in summary.contradictions), [one.trial for one in summary.timed if one.clocks]
    found = [_checked("unexplained_contradictions", 0, unexplained, len(summary.contradictions) or 1, name="policy")]
    found += [_failure_check(name, failure.trials, plan) for name, failure in summary.rto.items()]
    for name in summary.rpo:
        found += _tier_checks(name, summary.audit, _of_tier(name, summary.series), summary.losses.get(name), plan)
    if broken:
        found.append(_checked("unsteady_after", 0, sum(not trial.steady_after for trial in broken), len(broken)))
    found += _backup_checks(summary.restored, plan)
    if any(one.trial.unrecorded for one in summary.timed):  # nothing lost is no result where loss could not be counted
        found.append(_checked(LOSS, 0, None, 0, name="loss"))
    return [*found, *_further(summary, plan)]


def _backup_checks(restored: Sequence[Restored], plan: RecoveryPlan) -> Iterator[Check]:
    """Judge the backups that a database was, or was to be, restored from."""
    if restored:
        unusable = [one.unusable for one in restored if one.unusable]
        check = _checked("unusable_backups", 0, len(unusable), len(restored), name=DESTROYED)
        yield replace(check, reason=unusable[0]) if unusable else check
    if plan.backup and (found := [one.facts for one in restored if not one.facts.is_own]):
        ages_s = [one.age_s for one in found if one.age_s is not None]
        future = "its age is below 0: it was made after it was needed, by a clock that differs" if min(ages_s, default=0) < 0 else None
        value, n = (max(ages_s), len(ages_s)) if len(ages_s) == len(found) else (None, 0)
        check = _checked("backup_age_s", plan.backup.interval_s, value, n, name=DESTROYED, invalid=future)
        by_file = n and not all(one.noted for one in found)
        yield replace(check, reason=f"{check.reason}; the age is that of its files, no drill noted one") if by_file else check


def _checked(metric: str, limit: float, value: float | None, n: int, *, name: str = "target", invalid: str | None = None) -> Check:
    """Judge a figure that has no uncertainty against a limit that it must not exceed."""
    return judge(Objective(metric=metric, op="<=", limit=limit), Measured(value=value, bound=value, n=n), name=name, invalid=invalid)


def _further(summary: RecoverySummary, plan: RecoveryPlan) -> Iterator[Check]:
    """Judge the plan's own objectives, as far as what they are about was measured."""
    audit, series, tiers = summary.audit or Audit(), summary.series, summary.rpo.values()
    counted = [one.trial.gone_bars for one in summary.timed if one.trial.gone_bars is not None]
    asked = [one for one in series if one.reported_s is not None or one.reported != ages.UNMAPPED]
    compared = sum(one.database_s is not None for one in asked) if audit.has_database else len(asked)
    values: dict[str, tuple[float | None, int]] = {
        "gone_bars": (sum(counted) if counted else None, len(counted)),
        "false_ages": (summary.false_ages, max(compared, summary.false_ages or 0)),
        "wrong_answers": (summary.wrong_answers, max(sum(one.seen is not None for one in series), summary.wrong_answers or 0)),
        "alerts": (None if summary.false_ages is None else len(summary.alerts), len(series)),
        "unrecoverable_bars": (sum(tier.unrecoverable_bars for tier in tiers), sum(tier.acknowledged_bars for tier in tiers)),
    }
    for objective in parse_all(plan.objectives, values, (), file="plan"):
        value, n = values[objective.metric]
        is_audited = objective.metric in AUDITED
        if value is not None or (is_audited and audit.invalid):
            measured = Measured(value=value, bound=value, n=n, missing=UNCOMPARED if is_audited else None)
            found = judge(objective, measured, name="target", invalid=audit.invalid or None if is_audited else None)
            is_alone = objective.metric == "false_ages" and not audit.has_database and found.verdict == Verdict.PASS
            yield replace(found, reason=NO_DATABASE) if is_alone else found
