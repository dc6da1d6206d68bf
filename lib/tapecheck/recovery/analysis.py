"""Which alerts the plan's rules demand of an audit of ages: pure. It tells nobody."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from tapecheck.recovery import judgement
from tapecheck.recovery.contradictions import Contradiction, find
from tapecheck.recovery.judgement import LOSS, TierLoss, age_s_of, failure_check, tier_checks, watched_s
from tapecheck.recovery.objectives import AboveShare, RecoveryPlan
from tapecheck.recovery.recording import Ages, Recording, SeriesAge
from tapecheck.recovery.timeline import Timed, Worst, time_trial, worst
from tapecheck.statistics import intervals
from tapecheck.verdict import Check, Measured, Objective, Verdict, judge, overall, parse_all

OLD = ("stale", "missing")
LISTED = 5  # names in a message


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A rule that is broken: `value` is above `limit`, in seconds or as a share; None is the age of what never was."""

    rule: str
    severity: Literal["warning", "critical"]
    value: float | None
    limit: float
    message: str


def evaluate(plan: RecoveryPlan, ages: Ages) -> list[Alert]:
    """Return every alert that must be raised, in the order of the plan; a value that equals its limit raises none.

    Series that were made old on purpose do not count.
    """
    rules = plan.alerts
    series = [one for one in ages.series if not one.planted]
    symbols = sorted({one.symbol for one in series})
    old = [f"{one.symbol} {one.timeframe}" for one in series if one.state in OLD]
    found = [
        _late(plan, ages.last_success_s),
        _share("failed_symbols", rules.failed_symbols, _of(symbols, ages.failed_symbols), len(symbols), "symbols have failed"),
        _share(
            "missing_features", rules.missing_features, _of(symbols, ages.symbols_without_features), len(symbols), "symbols lack features"
        ),
        _share("stale_features", rules.stale_features, old, len(series), "series are stale or missing"),
    ]
    return [alert for alert in found if alert is not None]


def _of(symbols: Sequence[str], some: Sequence[str]) -> list[str]:
    return [symbol for symbol in symbols if symbol in some]


def _late(plan: RecoveryPlan, last_success_s: float | None) -> Alert | None:
    rule = plan.alerts.no_successful_backfill
    if last_success_s is not None and last_success_s <= rule.after_s:
        return None
    says = "no backfill has ever succeeded" if last_success_s is None else f"no backfill has succeeded for {last_success_s / 3600:.2f} h"
    message = f"{says}; allowed are {rule.after_s / 3600:g} h"
    return Alert(rule="no_successful_backfill", severity=rule.severity, value=last_success_s, limit=rule.after_s, message=message)


def _share(name: str, rule: AboveShare, found: Sequence[str], total: int, what: str) -> Alert | None:
    if not total or len(found) / total <= rule.above_share:
        return None
    names = ", ".join(found[:LISTED]) + (f" and {len(found) - LISTED} more" if len(found) > LISTED else "")
    message = f"{len(found)} of {total} {what} ({len(found) / total:.0%}; allowed are {rule.above_share:.0%}): {names}"
    return Alert(rule=name, severity=rule.severity, value=len(found) / total, limit=rule.above_share, message=message)


# ---- analysis ----

AUDITED = ("false_ages", "wrong_answers", "alerts")  # what the audit of ages finds


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureSummary:
    """One failure over all its drills; `proven_share` of the recoveries of each are within `recover_s.max`, with 95 % confidence.

    `undetected` counts the trials of which the target itself never told although a view could have; `detect_s` is the longest of
    those that it told of.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class TierSummary:
    """One tier: how old its data is at worst, and what of what the database had acknowledged was lost."""

    objective_s: float
    symbols: list[str]
    worst_age_s: float | None
    worst_series: str
    missing: list[str]
    acknowledged_bars: int
    unknown_bars: int
    never_read_bars: int
    lost_bars: int
    lost_minutes: float
    refetchable_bars: int
    unrecoverable_bars: int
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
    """What a recovery run found; `freshness`, `alerts` and the counts below it are empty or None where ages were not audited.

    Of the `series`, `compared` were held against a database, and `asked` for.
    """

    rto: dict[str, FailureSummary]
    rpo: dict[str, TierSummary]
    freshness: dict[str, SymbolAge]
    alerts: list[Alert]
    lint: list[Contradiction]
    false_ages: int | None
    wrong_answers: int | None
    series: int
    compared: int
    asked: int
    timed: list[Timed]
    ages: Ages | None
    lost: dict[str, TierLoss]


def summarize(recording: Recording, plan: RecoveryPlan) -> RecoverySummary:
    """Summarize a recording by a plan."""
    context = recording.context
    timed = [time_trial(recording.probes, trial, plan) for trial in context.trials]
    ages = context.ages if context.ages and not context.ages.invalid else None
    series = list(ages.series) if ages else []
    return RecoverySummary(
        rto=_failures(timed, plan),
        rpo=_tiers(recording, timed, plan),
        freshness=_by_symbol([one for one in series if not one.planted]),
        alerts=evaluate(plan, ages) if ages else [],
        lint=find(plan),
        false_ages=sum(bool(one.false_age) for one in series) if ages else None,
        wrong_answers=sum(bool(one.wrong_answer) for one in series) if ages else None,
        series=len(series),
        compared=sum(one.database_s is not None for one in series),
        asked=sum(one.seen is not None for one in series),
        timed=timed,
        ages=context.ages,
        lost=judgement.summarize(recording.acks),
    )


# ---- recovery ----


def _failures(timed: Sequence[Timed], plan: RecoveryPlan) -> dict[str, FailureSummary]:
    found = {}
    for name in plan.rto:
        own = [one for one in timed if one.trial.failure == name]
        if own:
            found[name] = _failure(name, own, plan)
    return found


def _failure(name: str, own: list[Timed], plan: RecoveryPlan) -> FailureSummary:
    promise, valid = plan.rto[name], [one.clocks for one in own if not one.invalid and one.clocks]
    recover, degraded = (worst(own, clock, plan) for clock in ("recover_s", "degraded_s"))
    told_s = [c.detect_s for c in valid if c.detect_s is not None]
    silent = [one for one in own if one.trial.may_report and not one.invalid and one.clocks and one.clocks.detect_s is None]
    return FailureSummary(
        objective_s=promise.objective_s,
        clock=promise.clock,
        drills=list(dict.fromkeys(one.trial.drill for one in own)),
        trials=own,
        recover_s=recover,
        degraded_s=degraded,
        detect_s=max(told_s, default=None),
        undetected=len(silent),
        resolution_s=max((c.resolution_s for c in valid), default=0.0),
        proven_share=intervals.share_below_maximum(recover.n),
        verdict=failure_check(name, own, plan).verdict,
    )


# ---- age and loss ----


def _by_symbol(series: Iterable[SeriesAge]) -> dict[str, SymbolAge]:
    oldest: dict[str, SeriesAge] = {}
    for one in series:
        if one.symbol not in oldest or age_s_of(one) > age_s_of(oldest[one.symbol]):
            oldest[one.symbol] = one
    return {symbol: SymbolAge(age_s=one.said_s, state=one.state, timeframe=one.timeframe, tier=one.tier) for symbol, one in oldest.items()}


def _tiers(recording: Recording, timed: Sequence[Timed], plan: RecoveryPlan) -> dict[str, TierSummary]:
    ages, recorded = recording.context.ages, {ack.drill for ack in recording.acks}
    valid = [one.clocks for one in timed if one.clocks and not one.invalid and one.trial.drill in recorded]
    longest_s = max((watched_s(clocks, "recover_s") for clocks in valid), default=None)
    losses = judgement.summarize(recording.acks, freshness_loss_minutes=None if longest_s is None else longest_s / 60)
    if not ages and not losses:
        return {}
    return {name: _tier(name, ages, losses.get(name) or _unwritten(timed), plan) for name in plan.rpo}


def _unwritten(timed: Iterable[Timed]) -> TierLoss | None:
    """Return the loss of a tier of which no bar was written although bars were to be: nothing, of which nothing follows."""
    return TierLoss() if any(one.trial.gone_bars is not None for one in timed) else None


def _tier(name: str, ages: Ages | None, lost: TierLoss | None, plan: RecoveryPlan) -> TierSummary:
    series = [one for one in (ages.series if ages else ()) if one.tier == name and not one.planted]
    oldest = max(series, key=age_s_of, default=None)
    age_s = None if oldest is None else age_s_of(oldest)
    none = TierLoss()
    return TierSummary(
        objective_s=plan.rpo[name].max_age_s,
        symbols=sorted({one.symbol for one in series}),
        worst_age_s=age_s,
        worst_series=f"{oldest.symbol} {oldest.timeframe}" if oldest else "",
        missing=[f"{one.symbol} {one.timeframe}" for one in series if one.state == "missing"],
        acknowledged_bars=(lost or none).acknowledged_bars,
        unknown_bars=(lost or none).unknown_bars,
        never_read_bars=(lost or none).never_read_bars,
        lost_bars=(lost or none).lost_bars,
        lost_minutes=(lost or none).lost_minutes,
        refetchable_bars=(lost or none).refetchable_bars,
        unrecoverable_bars=(lost or none).unrecoverable_bars,
        max_lost_minutes=plan.rpo[name].max_lost_minutes,
        freshness_loss_minutes=lost.freshness_loss_minutes if lost else None,
        verdict=overall(check.verdict for check in tier_checks(name, series, lost, plan)),
    )


# ---- verdicts ----


def check(summary: RecoverySummary, plan: RecoveryPlan) -> list[Check]:
    """Judge every promise that was put to the test; a run of definitions alone is judged by its contradictions."""
    ages, lost, unwritten = summary.ages, summary.lost, _unwritten(summary.timed)
    found = [_contradictions(summary.lint)]
    found += [failure_check(name, failure.trials, plan) for name, failure in summary.rto.items()]
    for name in summary.rpo:
        series = [one for one in (ages.series if ages else ()) if one.tier == name and not one.planted]
        found += tier_checks(name, series, lost.get(name) or unwritten, plan, invalid=ages.invalid if ages else "")
    return [*found, *_unsteady(summary), *_unrecorded(summary), *_further(summary, plan, invalid=ages.invalid if ages else "")]


def _unsteady(summary: RecoverySummary) -> list[Check]:
    """Judge that every target that was broken came back to its steady state, as Chaos Toolkit and the probes saw it."""
    broken = [one.trial for one in summary.timed if one.clocks]
    unsteady = sum(not trial.steady_after for trial in broken)
    objective = Objective(metric="unsteady_after", op="<=", limit=0)
    return [judge(objective, Measured(value=unsteady, bound=unsteady, n=len(broken)), name="target")] if broken else []


def _unrecorded(summary: RecoverySummary) -> list[Check]:
    """Return a check without data for loss that was to be counted and could not be: nothing lost is no result then."""
    if not any(one.trial.unrecorded for one in summary.timed):
        return []
    objective = Objective(metric=LOSS, op="<=", limit=0)
    return [judge(objective, Measured(value=None, bound=None, n=0), name="loss")]


NOT_AUDITED = (
    "no reported age could be compared with what is stored: name the request of its status and its database_url in the target file"
)


def _contradictions(lint: Sequence[Contradiction]) -> Check:
    open_ones = sum(not one.settled for one in lint)
    objective = Objective(metric="unsettled_contradictions", op="<=", limit=0)
    return judge(objective, Measured(value=open_ones, bound=open_ones, n=len(lint) or 1), name="policy")


def _further(summary: RecoverySummary, plan: RecoveryPlan, *, invalid: str) -> list[Check]:
    """Judge the plan's own objectives, as far as what they are about was measured; `invalid` says why the audit tells nothing."""
    counted = [one.trial.gone_bars for one in summary.timed if one.trial.gone_bars is not None]
    values: dict[str, tuple[float | None, int]] = {
        "gone_bars": (sum(counted) if counted else None, len(counted)),
        "false_ages": (summary.false_ages, max(summary.compared, summary.false_ages or 0)),
        "wrong_answers": (summary.wrong_answers, max(summary.asked, summary.wrong_answers or 0)),
        "alerts": (None if summary.false_ages is None else len(summary.alerts), summary.series),
        "unrecoverable_bars": (
            sum(t.unrecoverable_bars for t in summary.rpo.values()),
            sum(t.acknowledged_bars for t in summary.rpo.values()),
        ),
    }
    found = []
    for objective in parse_all(plan.objectives, values, (), file="plan"):
        value, n = values[objective.metric]
        why = invalid if objective.metric in AUDITED else ""
        if value is not None or why:
            one = Measured(value=value, bound=value, n=n, missing=NOT_AUDITED if objective.metric in AUDITED else None)
            found.append(judge(objective, one, name="target", invalid=why or None))
    return found
