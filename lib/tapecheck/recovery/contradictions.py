"""Finds objectives that contradict each other or cannot be proven, and reads a plan that explains each that it means.

Each rule is a function from a plan to the places where the plan breaks it; its name is the function's, without the underscore.
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

PERIODS = 2  # periods of the prober that an objective must span, for a miss to be told from the clock's own resolution


@dataclass(frozen=True, slots=True)
class Found:
    """A place where a plan breaks a rule: its key, the figures, and what to change."""

    where: str
    finding: str
    change: str


Rule = Callable[[RecoveryPlan], Iterator[Found]]


# ---- structure: no explanation is accepted for these ----


def _symbol_in_two_tiers(plan: RecoveryPlan) -> Iterator[Found]:
    named = [(symbol, name) for name, tier in plan.rpo.items() if tier.symbols != OTHERS for symbol in tier.symbols]
    counts = Counter(symbol for symbol, _ in named)
    for symbol in sorted(symbol for symbol, count in counts.items() if count > 1):
        tiers = [name for one, name in named if one == symbol]
        yield Found(f"rpo.{tiers[-1]}.symbols", f"{symbol} in {' and '.join(tiers)}", "each symbol in one tier, and once in it")


def _no_tier_for_others(plan: RecoveryPlan) -> Iterator[Found]:
    if all(tier.symbols != OTHERS for tier in plan.rpo.values()):
        finding = "no objectives for a symbol that none of " + ", ".join(plan.rpo) + " names"
        yield Found("rpo", finding, f"one tier with symbols: {OTHERS}")


def _several_tiers_for_others(plan: RecoveryPlan) -> Iterator[Found]:
    tiers = [name for name, tier in plan.rpo.items() if tier.symbols == OTHERS]
    if len(tiers) > 1:
        yield Found(f"rpo.{tiers[-1]}.symbols", f"{OTHERS} in {' and '.join(tiers)}", f"symbols: {OTHERS} in one tier only")


def _thresholds_out_of_order(plan: RecoveryPlan) -> Iterator[Found]:
    yield from _classes_out_of_order(plan)
    after_s, missing_s = plan.alerts.no_successful_backfill.after_s, plan.staleness.stale.below_s
    soonest_s = min(tier.refresh_s for tier in plan.rpo.values())
    where = "alerts.no_successful_backfill.after_s"
    if after_s >= missing_s:
        finding = f"an alert after {spelled(after_s)}, when data is missing from {spelled(missing_s)} on"
        yield Found(where, finding, "an alert before data is missing: below staleness.stale.below_s")
    if after_s <= soonest_s:
        finding = f"an alert after {spelled(after_s)}, when the most frequent refresh comes every {spelled(soonest_s)}"
        yield Found(where, finding, "an alert that is silent while all is well: above the shortest refresh_s")


def _classes_out_of_order(plan: RecoveryPlan) -> Iterator[Found]:
    ends = [(name, getattr(plan.staleness, name).below_s) for name in ("fresh", "aging", "stale")]
    for (younger, younger_s), (older, older_s) in itertools.pairwise(ends):
        if younger_s >= older_s:
            finding = f"{older} ends at {spelled(older_s)}, {younger} at {spelled(younger_s)}"
            yield Found(f"staleness.{older}.below_s", finding, f"more than staleness.{younger}.below_s")


def _order_against_tiers(plan: RecoveryPlan) -> Iterator[Found]:
    order, tiers = plan.scheduler.order, tuple(plan.rpo)
    if sorted(order) != sorted(tiers):
        change = f"each tier of rpo once: {', '.join(tiers)}"
        yield Found("scheduler.order", ", ".join(order), change)


# ---- recovery: what is done takes longer than its objective ----


def _backoff_beyond_rto(plan: RecoveryPlan) -> Iterator[Found]:
    objective, pauses_s = plan.rto.get("upstream_rate_limit"), plan.backfill.retries_s
    if objective and objective.clock == "full" and sum(pauses_s) > objective.objective_s:
        pauses = " + ".join(f"{pause_s:g}" for pause_s in pauses_s) + f" s = {spelled(sum(pauses_s))}"
        finding = f"pauses of {pauses}, beyond the {spelled(objective.objective_s)} of rto.upstream_rate_limit"
        change = "shorter pauses, a longer objective_s, or clock: degraded, since the fallback does not wait for them"
        yield Found("backfill.retries_s", finding, change)


def _retries_beyond_cap(plan: RecoveryPlan) -> Iterator[Found]:
    longest_s, most_s = max(plan.backfill.retries_s), plan.backfill.backoff_max_s
    if longest_s > most_s:
        finding = f"a pause of {spelled(longest_s)}, beyond the {spelled(most_s)} of backoff_max_s"
        yield Found("backfill.retries_s", finding, "pauses up to backoff_max_s, or a higher one")


def _refill_beyond_rto(plan: RecoveryPlan) -> Iterator[Found]:
    refill_s = refill_floor_s(plan)
    what = (
        f"{plan.backfill.jobs} jobs at {plan.backfill.requests_per_minute:g} requests a minute, {plan.backfill.burst} of them at once, "
        f"take at least {spelled(round(refill_s))}"
    )
    change = "fewer jobs, a higher rate, or a longer time"
    crash = plan.rto.get("scheduler_crash")
    if crash and crash.clock == "full" and refill_s > crash.objective_s:
        finding = f"{what}, beyond the {spelled(crash.objective_s)} of rto.scheduler_crash"
        yield Found("rto.scheduler_crash.objective_s", finding, change)
    name, tier = min(plan.rpo.items(), key=lambda item: item[1].refresh_s)
    if refill_s > tier.refresh_s:
        finding = f"{what}, beyond the {spelled(tier.refresh_s)} after which {name} is due again"
        yield Found(f"rpo.{name}.refresh_s", finding, change)


def refill_floor_s(plan: RecoveryPlan) -> float:
    """Return how long it takes at least to fetch everything, whatever the code does: one request a job, a burst's at once."""
    backfill = plan.backfill
    return max(0.0, 60 * (backfill.jobs - backfill.burst) / backfill.requests_per_minute)


# ---- age and loss ----


def _refresh_against_loss(plan: RecoveryPlan) -> Iterator[Found]:
    for name, tier in plan.rpo.items():
        if tier.refresh_s > 60 * tier.max_lost_minutes:
            allowed = spelled(60 * tier.max_lost_minutes) if tier.max_lost_minutes else "none"
            finding = f"of {name} {allowed} may be lost, but up to {spelled(tier.refresh_s)} are not fetched yet when something dies"
            yield Found(f"rpo.{name}.max_lost_minutes", finding, "a refresh at least as often as what may be lost")


def _refresh_beyond_age(plan: RecoveryPlan) -> Iterator[Found]:
    for name, tier in plan.rpo.items():
        if tier.refresh_s >= tier.max_age_s:
            finding = f"{name} is refreshed every {spelled(tier.refresh_s)}, and may be {spelled(tier.max_age_s)} old"
            yield Found(f"rpo.{name}.refresh_s", finding, "a refresh that begins and ends before max_age_s")


def _tier_beyond_class(plan: RecoveryPlan) -> Iterator[Found]:
    missing_s = plan.staleness.stale.below_s
    for name, tier in plan.rpo.items():
        if tier.max_age_s >= missing_s:
            finding = f"{name} may be {spelled(tier.max_age_s)} old, and from {spelled(missing_s)} on, that included, data is missing"
            yield Found(f"rpo.{name}.max_age_s", finding, "an age below staleness.stale.below_s")


def _refresh_beyond_rate(plan: RecoveryPlan) -> Iterator[Found]:
    needed, allowed = refresh_requests_per_h(plan), 60 * plan.backfill.requests_per_minute
    if needed is not None and needed > allowed:
        finding = f"refreshing every tier takes at least {needed:,.0f} requests an hour, and {allowed:,.0f} are allowed"
        yield Found("backfill.requests_per_minute", finding, "longer refresh_s, fewer symbols, or a higher rate")


def refresh_requests_per_h(plan: RecoveryPlan) -> float | None:
    """Return how many requests the tiers' refresh takes an hour at least, one a job; None where the plan does not say its timeframes."""
    timeframes = plan.backfill.timeframes
    if timeframes is None:
        return None
    named = sum(len(tier.symbols) for tier in plan.rpo.values() if tier.symbols != OTHERS)
    others = max(0, plan.backfill.jobs // timeframes - named)
    symbols = {name: others if tier.symbols == OTHERS else len(tier.symbols) for name, tier in plan.rpo.items()}
    return sum(count * timeframes * 3600 / plan.rpo[name].refresh_s for name, count in symbols.items())


# ---- proof: what the measurement cannot show ----


def _trials_prove_nothing(plan: RecoveryPlan) -> Iterator[Found]:
    each, share = plan.trials.each, plan.trials.proven_share
    if share is not None and each < (needed := intervals.needed_n(share)):
        supports = math.floor(1000 * intervals.ratio_lower_bound(each, each)) / 10  # rounded down, as a bound is
        finding = f"{each} trials prove at best that {supports:g} % of recoveries meet it, with 95 % confidence, not {100 * share:g} %"
        yield Found("trials.each", finding, f"at least {needed} trials, or proven_share: null")


def _clock_resolution(plan: RecoveryPlan) -> Iterator[Found]:
    prober = plan.prober
    for name, objective in plan.rto.items():
        if objective.objective_s < PERIODS * prober.period_s:
            finding = f"{spelled(objective.objective_s)}, with a probe every {spelled(prober.period_s)}"
            change = f"at least {PERIODS} periods of the prober, or a shorter period_s"
            yield Found(f"rto.{name}.objective_s", finding, change)
    if prober.timeout_s < prober.slow_s:
        finding = f"a probe ends after {spelled(prober.timeout_s)}, before the {spelled(prober.slow_s)} after which it is slow"
        yield Found("prober.timeout_s", finding, "at least slow_s")


STRUCTURAL: Mapping[str, Rule] = {
    "symbol_in_two_tiers": _symbol_in_two_tiers,
    "no_tier_for_others": _no_tier_for_others,
    "several_tiers_for_others": _several_tiers_for_others,
    "thresholds_out_of_order": _thresholds_out_of_order,
    "order_against_tiers": _order_against_tiers,
}
EXPLAINABLE: Mapping[str, Rule] = {
    "backoff_beyond_rto": _backoff_beyond_rto,
    "retries_beyond_cap": _retries_beyond_cap,
    "refill_beyond_rto": _refill_beyond_rto,
    "refresh_against_loss": _refresh_against_loss,
    "refresh_beyond_age": _refresh_beyond_age,
    "tier_beyond_class": _tier_beyond_class,
    "refresh_beyond_rate": _refresh_beyond_rate,
    "trials_prove_nothing": _trials_prove_nothing,
    "clock_resolution": _clock_resolution,
}


# ---- what is found in a plan ----


@dataclass(frozen=True, slots=True, kw_only=True)
class Contradiction:
    """A rule that the plan breaks: where, the figures, and what to change; `explained` is why the plan does so, if it says why."""

    rule: str
    where: str
    finding: str
    change: str
    explained: str = ""


def find(plan: RecoveryPlan) -> list[Contradiction]:
    """Return every contradiction of a plan, explained or not, those of its structure first: no explanation is accepted for them."""
    explained = {rule: why for rule, why in plan.explained.items() if rule in EXPLAINABLE}
    return [
        Contradiction(rule=name, where=one.where, finding=one.finding, change=one.change, explained=explained.get(name, ""))
        for name, rule in {**STRUCTURAL, **EXPLAINABLE}.items()
        for one in rule(plan)
    ]


def read_plan(path: str | Path, *, profile: str = WHOLE, trials: int = 0) -> RecoveryPlan:
    """Read a recovery plan with a profile's changes, and set how often each drill is run (0: as planned).

    What is checked for contradictions is the file, in each of its profiles: so few trials that they prove nothing may be asked for, and
    end as not proven.

    Raises:
        ConfigError: the file or any of its profiles is wrong, or contradicts itself without saying why.
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

    Args:
        plans: the plan as each of its profiles has it; what one of them needs to have explained is explained for all.
        lines: of the file's keys, written as in `rpo.critical.refresh_s`.
    """
    found: dict[str, Problem] = {}
    for profile, plan in plans.items():
        for one in (one for one in find(plan) if not one.explained):
            own = f"profiles.{profile}.{one.where}"
            key = own if own in lines else one.where  # the profile's own, where it has one
            explain = f"; or explained: {{{one.rule}: why both hold}}" if one.rule in EXPLAINABLE else ""
            got = f"{one.finding} ({one.rule})"
            found.setdefault(got, Problem(file=file, line=_line(key, lines), key=key, got=got, allowed=one.change + explain))
    broken = {one.rule for plan in plans.values() for one in find(plan)} & set(EXPLAINABLE)
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
