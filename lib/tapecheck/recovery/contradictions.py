"""Finds objectives that contradict each other or cannot be proven, and reads a plan that explains each that it means.

Each rule is a function from a plan to the places where the plan breaks it: key, figures, and what to change. Its name is the function's,
without the underscore.
"""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tapecheck import config
from tapecheck.config import WHOLE
from tapecheck.errors import ConfigError, Problem
from tapecheck.recovery.objectives import OTHERS, RecoveryPlan, spelled
from tapecheck.statistics import intervals

DESTROYED = "database_destroyed"  # the failure that only a backup helps against
PERIODS = 2  # periods of the prober that an objective must span, for a miss to be told from the clock's own resolution

Places = Iterator[tuple[str, str, str]]
Rule = Callable[[RecoveryPlan], Places]
STRUCTURAL: dict[str, Rule] = {}  # no explanation is accepted for these
EXPLAINABLE: dict[str, Rule] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Contradiction:
    """A rule that the plan breaks: where, the figures, and what to change; `explained` is why the plan does so, if it says why."""

    rule: str
    where: str
    finding: str
    change: str
    explained: str = ""


def _rule(kind: dict[str, Rule]) -> Callable[[Rule], Rule]:
    def add(rule: Rule) -> Rule:
        return kind.setdefault(rule.__name__.removeprefix("_"), rule)

    return add


# ---- structure ----


@_rule(STRUCTURAL)
def _symbol_in_two_tiers(plan: RecoveryPlan) -> Places:
    counts = Counter(symbol for symbols in plan.named.values() for symbol in symbols)
    for symbol in sorted(symbol for symbol, count in counts.items() if count > 1):
        tiers = [name for name, symbols in plan.named.items() for one in symbols if one == symbol]
        yield f"rpo.{tiers[-1]}.symbols", f"{symbol} in {' and '.join(tiers)}", "each symbol in one tier, and once in it"


@_rule(STRUCTURAL)
def _no_tier_for_others(plan: RecoveryPlan) -> Places:
    if len(plan.named) == len(plan.rpo):
        yield "rpo", f"no objectives for a symbol that none of {', '.join(plan.rpo)} names", f"one tier with symbols: {OTHERS}"


@_rule(STRUCTURAL)
def _several_tiers_for_others(plan: RecoveryPlan) -> Places:
    tiers = [name for name in plan.rpo if name not in plan.named]
    if len(tiers) > 1:
        yield f"rpo.{tiers[-1]}.symbols", f"{OTHERS} in {' and '.join(tiers)}", f"symbols: {OTHERS} in one tier only"


@_rule(STRUCTURAL)
def _thresholds_out_of_order(plan: RecoveryPlan) -> Places:
    *classes, _ = plan.staleness.ends_s.items()
    for (younger, younger_s), (older, older_s) in itertools.pairwise(classes):
        if younger_s >= older_s:
            finding = f"{older} ends at {spelled(older_s)}, {younger} at {spelled(younger_s)}"
            yield f"staleness.{older}.below_s", finding, f"more than staleness.{younger}.below_s"
    where, after_s = "alerts.no_successful_backfill.after_s", plan.alerts.no_successful_backfill.after_s
    missing_s, soonest_s = plan.staleness.stale.below_s, min(tier.refresh_s for tier in plan.rpo.values())
    if after_s >= missing_s:
        finding = f"an alert after {spelled(after_s)}, when data is missing from {spelled(missing_s)} on"
        yield where, finding, "an alert before data is missing: below staleness.stale.below_s"
    if after_s <= soonest_s:
        finding = f"an alert after {spelled(after_s)}, when the most frequent refresh comes every {spelled(soonest_s)}"
        yield where, finding, "an alert that is silent while all is well: above the shortest refresh_s"


@_rule(STRUCTURAL)
def _order_against_tiers(plan: RecoveryPlan) -> Places:
    if sorted(plan.scheduler.order) != sorted(plan.rpo):
        yield "scheduler.order", ", ".join(plan.scheduler.order), f"each tier of rpo once: {', '.join(plan.rpo)}"


@_rule(STRUCTURAL)
def _destroyed_without_backup(plan: RecoveryPlan) -> Places:
    if DESTROYED in plan.rto and plan.backup is None:
        yield f"rto.{DESTROYED}", "an objective for a database that is gone, and no backup", "backup: {interval_s: …, retention_s: …}"


@_rule(STRUCTURAL)
def _backup_gone_before_next(plan: RecoveryPlan) -> Places:
    if plan.backup and plan.backup.retention_s <= plan.backup.interval_s:
        kept, every = spelled(plan.backup.retention_s), spelled(plan.backup.interval_s)
        yield "backup.retention_s", f"a backup is kept for {kept}, and the next one comes after {every}", "more than backup.interval_s"


# ---- recovery: what is done takes longer than its objective ----


@_rule(EXPLAINABLE)
def _backoff_beyond_rto(plan: RecoveryPlan) -> Places:
    objective, pauses_s = plan.rto.get("upstream_rate_limit"), plan.backfill.retries_s
    if objective and objective.clock == "full" and sum(pauses_s) > objective.objective_s:
        pauses = " + ".join(f"{pause_s:g}" for pause_s in pauses_s) + f" s = {spelled(sum(pauses_s))}"
        finding = f"pauses of {pauses}, beyond the {spelled(objective.objective_s)} of rto.upstream_rate_limit"
        change = "shorter pauses, a longer objective_s, or clock: degraded, since the fallback does not wait for them"
        yield "backfill.retries_s", finding, change


@_rule(EXPLAINABLE)
def _retries_beyond_cap(plan: RecoveryPlan) -> Places:
    longest_s, most_s = max(plan.backfill.retries_s), plan.backfill.backoff_max_s
    if longest_s > most_s:
        finding = f"a pause of {spelled(longest_s)}, beyond the {spelled(most_s)} of backoff_max_s"
        yield "backfill.retries_s", finding, "pauses up to backoff_max_s, or a higher one"


@_rule(EXPLAINABLE)
def _refill_beyond_rto(plan: RecoveryPlan) -> Places:
    limits, refill_s = plan.backfill, refill_floor_s(plan)
    rate = f"{limits.jobs} jobs at {limits.requests_per_minute:g} requests a minute, {limits.burst} of them at once"
    what, change = f"{rate}, take at least {spelled(round(refill_s))}", "fewer jobs, a higher rate, or a longer time"
    for failure in ("scheduler_crash", DESTROYED):
        objective = plan.rto.get(failure)
        if objective and objective.clock == "full" and refill_s > objective.objective_s:
            yield f"rto.{failure}.objective_s", f"{what}, beyond the {spelled(objective.objective_s)} of rto.{failure}", change
    name, tier = min(plan.rpo.items(), key=lambda item: item[1].refresh_s)
    if refill_s > tier.refresh_s:
        yield f"rpo.{name}.refresh_s", f"{what}, beyond the {spelled(tier.refresh_s)} after which {name} is due again", change


def refill_floor_s(plan: RecoveryPlan) -> float:
    """Return how long it takes at least to fetch everything, whatever the code does: one request a job, a burst's at once."""
    return max(0.0, 60 * (plan.backfill.jobs - plan.backfill.burst) / plan.backfill.requests_per_minute)


# ---- age and loss ----


@_rule(EXPLAINABLE)
def _refresh_against_loss(plan: RecoveryPlan) -> Places:
    for name, tier in plan.rpo.items():
        if tier.refresh_s > 60 * tier.max_lost_minutes:
            allowed = spelled(60 * tier.max_lost_minutes) if tier.max_lost_minutes else "none"
            finding = f"of {name} {allowed} may be lost, but up to {spelled(tier.refresh_s)} are not fetched yet when something dies"
            yield f"rpo.{name}.max_lost_minutes", finding, "a refresh at least as often as what may be lost"


@_rule(EXPLAINABLE)
def _backup_against_loss(plan: RecoveryPlan) -> Places:
    for name, tier in plan.rpo.items() if plan.backup and DESTROYED in plan.rto else ():
        if plan.backup and plan.backup.interval_s > 60 * tier.max_lost_minutes:
            allowed, every = spelled(60 * tier.max_lost_minutes) if tier.max_lost_minutes else "none", spelled(plan.backup.interval_s)
            finding = f"of {name} {allowed} may be lost, and up to {every} have come since the last backup when the database is destroyed"
            yield "backup.interval_s", finding, "a backup at least as often as what may be lost, or archived WAL"


@_rule(EXPLAINABLE)
def _refresh_beyond_age(plan: RecoveryPlan) -> Places:
    for name, tier in plan.rpo.items():
        if tier.refresh_s >= tier.max_age_s:
            finding = f"{name} is refreshed every {spelled(tier.refresh_s)}, and may be {spelled(tier.max_age_s)} old"
            yield f"rpo.{name}.refresh_s", finding, "a refresh that begins and ends before max_age_s"


@_rule(EXPLAINABLE)
def _tier_beyond_class(plan: RecoveryPlan) -> Places:
    missing_s = plan.staleness.stale.below_s
    for name, tier in plan.rpo.items():
        if tier.max_age_s >= missing_s:
            finding = f"{name} may be {spelled(tier.max_age_s)} old, and from {spelled(missing_s)} on, that included, data is missing"
            yield f"rpo.{name}.max_age_s", finding, "an age below staleness.stale.below_s"


@_rule(EXPLAINABLE)
def _refresh_beyond_rate(plan: RecoveryPlan) -> Places:
    needed, allowed = refresh_requests_per_h(plan), 60 * plan.backfill.requests_per_minute
    if needed is not None and needed > allowed:
        finding = f"refreshing every tier takes at least {needed:,.0f} requests an hour, and {allowed:,.0f} are allowed"
        yield "backfill.requests_per_minute", finding, "longer refresh_s, fewer symbols, or a higher rate"


def refresh_requests_per_h(plan: RecoveryPlan) -> float | None:
    """Return how many requests the tiers' refresh takes an hour at least, one a job; None where the plan does not say its timeframes."""
    timeframes = plan.backfill.timeframes
    if timeframes is None:
        return None
    named = {name: len(symbols) for name, symbols in plan.named.items()}
    others = max(0, plan.backfill.jobs // timeframes - sum(named.values()))
    return sum(named.get(name, others) * timeframes * 3600 / tier.refresh_s for name, tier in plan.rpo.items())


# ---- proof: what the measurement cannot show ----


@_rule(EXPLAINABLE)
def _trials_prove_nothing(plan: RecoveryPlan) -> Places:
    each, share = plan.trials.each, plan.trials.proven_share
    if share is not None and each < (needed := intervals.needed_n(share)):
        supports = math.floor(1000 * intervals.ratio_lower_bound(each, each)) / 10  # rounded down, as a bound is
        finding = f"{each} trials prove at best that {supports:g} % of recoveries meet it, with 95 % confidence, not {100 * share:g} %"
        yield "trials.each", finding, f"at least {needed} trials, or proven_share: null"


@_rule(EXPLAINABLE)
def _clock_resolution(plan: RecoveryPlan) -> Places:
    prober = plan.prober
    for name, objective in plan.rto.items():
        if objective.objective_s < PERIODS * prober.period_s:
            finding = f"{spelled(objective.objective_s)}, with a probe every {spelled(prober.period_s)}"
            yield f"rto.{name}.objective_s", finding, f"at least {PERIODS} periods of the prober, or a shorter period_s"
    if prober.timeout_s < prober.slow_s:
        finding = f"a probe ends after {spelled(prober.timeout_s)}, before the {spelled(prober.slow_s)} after which it is slow"
        yield "prober.timeout_s", finding, "at least slow_s"


# ---- what is found in a plan ----


def find(plan: RecoveryPlan) -> list[Contradiction]:
    """Return every contradiction of a plan, explained or not, those of its structure first."""
    return [
        Contradiction(
            rule=name, where=where, finding=finding, change=change, explained=plan.explained.get(name, "") if name in EXPLAINABLE else ""
        )
        for name, rule in {**STRUCTURAL, **EXPLAINABLE}.items()
        for where, finding, change in rule(plan)
    ]


def read_plan(path: str | Path, *, profile: str = WHOLE, trials: int = 0) -> RecoveryPlan:
    """Read a recovery plan with a profile's changes, and set how often each drill is run (0: as planned).

    The file must not contradict itself without saying why, in any of its profiles; so few trials that they prove nothing may be asked
    for, and end as not proven.
    """
    plans = config.read_profile(RecoveryPlan, path)
    if found := problems(plans, str(path), config.lines_by_key(path)):
        raise ConfigError(found)
    plan = config.pick(plans, profile)
    if not 0 <= trials <= 1000:
        raise ConfigError([Problem(file="parameters", key="trials", got=str(trials), allowed="0 for what is planned, or up to 1000")])
    return plan.model_copy(update={"trials": plan.trials.model_copy(update={"each": trials})}) if trials else plan


def problems(plans: Mapping[str, RecoveryPlan], file: str, lines: Mapping[str, int]) -> list[Problem]:
    """Return every contradiction without an explanation, and every explanation of one that does not exist.

    What one profile needs to have explained is explained for all; `lines` are of keys as in `rpo.critical.refresh_s`.
    """
    found: dict[str, Problem] = {}
    every = [(profile, one) for profile, plan in plans.items() for one in find(plan)]
    for profile, one in every:
        own = f"profiles.{profile}.{one.where}"
        key = own if own in lines else one.where  # the profile's own, where it has one
        explain = f"; or explained: {{{one.rule}: why both hold}}" if one.rule in EXPLAINABLE else ""
        if not one.explained:
            got = f"{one.finding} ({one.rule})"
            found.setdefault(got, Problem(file=file, line=_line(key, lines), key=key, got=got, allowed=one.change + explain))
    broken = {one.rule for _, one in every} & set(EXPLAINABLE)
    for rule in sorted({rule for plan in plans.values() for rule in plan.explained} - broken):
        got, allowed = _why_not(rule)
        found[rule] = Problem(file=file, line=_line(f"explained.{rule}", lines), key=f"explained.{rule}", got=got, allowed=allowed)
    return list(found.values())


def _why_not(rule: str) -> tuple[str, str]:
    """Say why there can be no explanation of a rule, and what there can be."""
    if rule in STRUCTURAL:
        return "an explanation where none is accepted", "no such key: what the rule finds must be changed"
    if rule not in EXPLAINABLE:
        return f"no rule {rule!r}", "one of " + ", ".join(sorted(EXPLAINABLE))
    return "an explanation of a contradiction that is not there", "no such key: the plan does not break this rule (any more)"


def _line(key: str, lines: Mapping[str, int]) -> int | None:
    """Return the line of a key, or of the nearest one that holds it, such as where a default stands."""
    while key and key not in lines:
        key = key.rpartition(".")[0]
    return lines.get(key)
