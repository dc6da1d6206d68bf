"""Writes the recovery plan out: a document for people, plain JSON for result.json. Every value in them is the plan's; it judges nothing."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tapecheck.recovery.contradictions import Contradiction, refill_floor_s
from tapecheck.recovery.objectives import OTHERS, Action, Clock, Oldest, RecoveryPlan, Tier, Younger, spelled

Row = Mapping[str, str]
ACTIONS: Mapping[Action, str] = {
    "plain": "returned as it is",
    "warning": "returned with a warning",
    "warning_and_alert": "returned with a warning, and an alert raised",
    "not_found_and_trigger": "404, and enrichment triggered",
}
CLOCKS: Mapping[Clock, str] = {
    "degraded": "until it answers again, if only from its fallback",
    "full": "until all is as before and its work resumed",
}


# ---- rows, of which the document and the notebook make tables ----


def staleness(plan: RecoveryPlan) -> list[Row]:
    """Return one row a class of ages, the youngest first."""
    return [
        {"class": name, "age": _interval(from_s, below_s), "in words": _between(from_s, below_s), "an answer is": ACTIONS[one.action]}
        for name, from_s, below_s, one in _classes(plan)
    ]


def _classes(plan: RecoveryPlan) -> Iterator[tuple[str, float, float | None, Younger | Oldest]]:
    """Yield the classes with where each begins, and ends: None for the one that has no end."""
    from_s = 0.0
    for name in ("fresh", "aging", "stale"):
        one: Younger = getattr(plan.staleness, name)
        yield name, from_s, one.below_s, one
        from_s = one.below_s
    yield "missing", from_s, None, plan.staleness.missing


def _interval(from_s: float, below_s: float | None) -> str:
    return f"[{spelled(from_s) if from_s else 0}, {'∞' if below_s is None else spelled(below_s)})"


def _between(from_s: float, below_s: float | None) -> str:
    if below_s is None:
        return f"{spelled(from_s)} or more, or never there"
    return f"from {spelled(from_s)} to less than {spelled(below_s)}" if from_s else f"less than {spelled(below_s)}"


def rto(plan: RecoveryPlan) -> list[Row]:
    """Return one row a failure: within what time, by which clock, and how."""
    return [
        {
            "failure": name,
            "within": spelled(one.objective_s),
            "clock": f"{one.clock}: {CLOCKS[one.clock]}",
            "procedure": one.procedure,
            "fallback": one.fallback,
        }
        for name, one in plan.rto.items()
    ]


def rpo(plan: RecoveryPlan) -> list[Row]:
    """Return one row a tier: how old, how often refreshed, and how much of it may be lost."""
    return [
        {
            "tier": name,
            "symbols": _symbols(tier),
            "age at most": spelled(tier.max_age_s),
            "refreshed every": spelled(tier.refresh_s),
            "may be lost": f"bars of {spelled(60 * tier.max_lost_minutes)}" if tier.max_lost_minutes else "no acknowledged bar",
        }
        for name, tier in plan.rpo.items()
    ]


def _symbols(tier: Tier) -> str:
    return "all others" if tier.symbols == OTHERS else " ".join(tier.symbols)


def alerts(plan: RecoveryPlan) -> list[Row]:
    """Return one row an alert rule."""
    rules = plan.alerts
    texts = {
        "no_successful_backfill": f"no backfill has succeeded for {spelled(rules.no_successful_backfill.after_s)}",
        "failed_symbols": f"more than {percent(rules.failed_symbols.above_share)} of the symbols failed in one run",
        "missing_features": f"more than {percent(rules.missing_features.above_share)} of the symbols have no features",
        "stale_features": f"more than {percent(rules.stale_features.above_share)} of the features are stale",
    }
    return [{"alert": name, "raised when": text, "severity": getattr(rules, name).severity} for name, text in texts.items()]


def percent(share: float) -> str:
    """Write a share as a percentage."""
    return f"{100 * share:g} %"


def backfill(plan: RecoveryPlan) -> list[Row]:
    """Return one row a limit of the backfill, and what follows from them."""
    limits = plan.backfill
    values = {
        "symbols at once": f"{limits.symbols_at_once:,}",
        "requests at once": f"{limits.requests_at_once:,}",
        "records a batch": f"{limits.batch_records:,}",
        "requests": f"{limits.requests_per_minute:g} a minute, {limits.burst:,} at once after a pause",
        "tried again after": ", ".join(map(spelled, limits.retries_s)),
        "a pause at most": spelled(limits.backoff_max_s),
        "jobs": f"{limits.jobs:,}" + (f", of {limits.timeframes} timeframes a symbol" if limits.timeframes else ""),
        "a refill of everything takes at least": spelled(round(refill_floor_s(plan))),
    }
    return [{"limit": name, "value": value} for name, value in values.items()]


def contradictions(found: Sequence[Contradiction]) -> list[Row]:
    """Return one row a contradiction, with the plan's explanation or what to change."""
    return [
        {"rule": one.rule, "where": one.where, "finding": one.finding, "settled by": one.settled or f"NOT SETTLED: {one.change}"}
        for one in found
    ]


# ---- the document ----


def document(plan: RecoveryPlan, found: Sequence[Contradiction]) -> str:
    """Return the whole plan as Markdown, one sentence a line.

    Args:
        found: what `contradictions.find` finds in it.
    """
    sections = {
        "Age of data": ["An interval holds its beginning and not its end.", _table(staleness(plan))],
        "Recovery time (RTO)": ["The clocks run from the failure.", _table(rto(plan))],
        "Age and loss by tier (RPO)": [_table(rpo(plan))],
        "Alerts": [_table(alerts(plan))],
        "Scheduler": [_list(_scheduler(plan))],
        "Cache": [_list(_cache(plan))],
        "Backfill": [_table(backfill(plan))],
        "How it is put to the test": [_list(_test(plan))],
        "Contradictions": [_table(contradictions(found)) if found else "No rule finds any."],
    }
    parts = [part for title, content in sections.items() for part in (f"## {title}", *content)]
    return "\n\n".join(["# What is promised of recovery, age and loss", *parts]) + "\n"


def _table(rows: Sequence[Row]) -> str:
    header = list(rows[0])
    lines = [header, ["---"] * len(header), *([_cell(text) for text in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """Keep a text within its cell."""
    return " ".join(text.split()).replace("|", "\\|")


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {' '.join(line.split())}" for line in lines)


def _scheduler(plan: RecoveryPlan) -> list[str]:
    scheduler = plan.scheduler
    return [
        f"Every day at {scheduler.daily_at_utc.isoformat().removesuffix(':00')} UTC: {', then '.join(scheduler.order)}.",
        f"After a crash: {', '.join(scheduler.after_crash)}.",
        f"After more than {spelled(scheduler.forced_after_down_s)} down: a forced trigger, in the same order.",
    ]


def _cache(plan: RecoveryPlan) -> list[str]:
    hot, query = plan.cache.hot_symbols, plan.cache.query
    return [
        f"Hot symbols: the {hot.count:,} that are asked for most, {hot.records:,} records, for {spelled(hot.ttl_s)}.",
        f"Answers: of {query.queries:,} queries, for {spelled(query.ttl_s)}.",
    ]


def _test(plan: RecoveryPlan) -> list[str]:
    prober, trials = plan.prober, plan.trials
    proven = (
        "A pass says that every trial met it, and no more."
        if trials.proven_share is None
        else f"A pass proves, with 95 % confidence, that at least {percent(trials.proven_share)} of all recoveries meet it."
    )
    return [
        f"Each drill is run {f'{trials.each:,} times' if trials.each > 1 else 'once'}.",
        proven,
        f"Each view is probed every {spelled(prober.period_s)}, for {spelled(prober.timeout_s)} at the most.",
        f"An answer after more than {spelled(prober.slow_s)} is no service.",
        f"A recovery counts when all has been well for {spelled(prober.settle_s)}.",
        *(f"Objective: `{objective}`." for objective in plan.objectives),
    ]


# ---- JSON ----


def definition(plan: RecoveryPlan) -> dict[str, Any]:
    """Return the plan as plain JSON data for result.json, each class of ages with where it begins and ends."""
    classes = {
        name: {"from_s": from_s, "below_s": below_s, "action": one.action, "says": _between(from_s, below_s)}
        for name, from_s, below_s, one in _classes(plan)
    }
    return {**plan.model_dump(mode="json"), "staleness": classes}
