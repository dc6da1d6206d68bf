"""Writes the recovery plan out: a document for people, plain JSON for result.json. Every value in them is the plan's; it judges nothing."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tapecheck.config import Model
from tapecheck.recovery.contradictions import Contradiction, refill_floor_s
from tapecheck.recovery.objectives import OTHERS, Action, Clock, Oldest, RecoveryPlan, Younger, spelled

Row = Mapping[str, str]
ACTIONS: Mapping[Action, str] = {
    "plain": "returned as it is",
    "warning": "returned with a warning",
    "warning_and_alert": "returned with a warning, and an alert raised",
    "not_found_and_trigger": "404, and enrichment triggered",
}
CLOCKS: Mapping[Clock, str] = {
    "degraded": "until it answers again, if only from its fallback",
    "full": "until all of it works as before",
}
ALERTS = {
    "no_successful_backfill": "no backfill has succeeded for {}",
    "failed_symbols": "more than {} of the symbols failed in one run",
    "missing_features": "more than {} of the symbols have no features",
    "stale_features": "more than {} of the features are stale",
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
            "symbols": "all others" if tier.symbols == OTHERS else " ".join(tier.symbols),
            "age at most": spelled(tier.max_age_s),
            "refreshed every": spelled(tier.refresh_s),
            "may be lost": f"bars of {spelled(60 * tier.max_lost_minutes)}" if tier.max_lost_minutes else "no acknowledged bar",
        }
        for name, tier in plan.rpo.items()
    ]


def contradictions(found: Sequence[Contradiction]) -> list[Row]:
    """Return one row a contradiction, with the plan's explanation or what to change."""
    return [
        {"rule": one.rule, "where": one.where, "finding": one.finding, "explained": one.explained or f"NOT EXPLAINED: {one.change}"}
        for one in found
    ]


def _alerts(plan: RecoveryPlan) -> list[Row]:
    rules = {name: getattr(plan.alerts, name) for name in ALERTS}
    limits = {name: spelled(one.after_s) if name == "no_successful_backfill" else percent(one.above_share) for name, one in rules.items()}
    return [{"alert": name, "raised when": ALERTS[name].format(limits[name]), "severity": one.severity} for name, one in rules.items()]


def percent(share: float) -> str:
    """Write a share as a percentage."""
    return f"{100 * share:g} %"


def _settings(model: Model) -> list[Row]:
    """Return one row a key of the plan, those within another by their path, as people read them."""
    rows: list[Row] = []
    for name, value in model:
        if isinstance(value, Model):
            rows += [{"setting": f"{name.replace('_', ' ')}: {row['setting']}", "value": row["value"]} for row in _settings(value)]
        else:
            rows.append({"setting": name.removesuffix("_s").replace("_", " "), "value": _value(name, value)})
    return rows


def _value(name: str, value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(_value(name, one) for one in value)
    if value is None:
        return "none"
    if name.endswith("_share"):
        return percent(value)
    if isinstance(value, int | float):
        return spelled(value) if name.endswith("_s") else f"{value:,.10g}"
    return str(value)


# ---- the document ----


def document(plan: RecoveryPlan, found: Sequence[Contradiction]) -> str:
    """Return the whole plan as Markdown, one sentence a line.

    Args:
        found: what `contradictions.find` finds in it.
    """
    refill: Row = {"setting": "a refill of everything takes at least", "value": spelled(round(refill_floor_s(plan)))}
    proven = (
        "A pass says that every trial met its objective, and no more."
        if plan.trials.proven_share is None
        else f"A pass proves, with 95 % confidence, that at least {percent(plan.trials.proven_share)} of all recoveries meet the objective."
    )
    sections = {
        "Age of data": ["An interval holds its beginning and not its end.", _table(staleness(plan))],
        "Recovery time (RTO)": ["The clocks run from the failure.", _table(rto(plan))],
        "Age and loss by tier (RPO)": [_table(rpo(plan))],
        "Alerts": [_table(_alerts(plan))],
        "Scheduler": [_table(_settings(plan.scheduler))],
        "Cache": [_table(_settings(plan.cache))],
        "Backfill": [_table([*_settings(plan.backfill), refill])],
        "Drills": [proven, _table([*_settings(plan.trials), *_settings(plan.prober)])],
        "Further objectives": [_table([{"objective": f"`{text}`"} for text in plan.objectives]) if plan.objectives else "None."],
        "Contradictions": [_table(contradictions(found)) if found else "No rule finds any."],
    }
    parts = [part for title, content in sections.items() for part in (f"## {title}", *content)]
    return "\n\n".join(["# Objectives of recovery, age and loss", *parts]) + "\n"


def _table(rows: Sequence[Row]) -> str:
    header = list(rows[0])
    lines = [header, ["---"] * len(header), *([_cell(text) for text in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """Keep a text within its cell."""
    return " ".join(text.split()).replace("|", "\\|")


# ---- JSON ----


def definition(plan: RecoveryPlan) -> dict[str, Any]:
    """Return the plan as plain JSON data for result.json, each class of ages with where it begins and ends."""
    classes = {
        name: {"from_s": from_s, "below_s": below_s, "action": one.action, "in_words": _between(from_s, below_s)}
        for name, from_s, below_s, one in _classes(plan)
    }
    return {**plan.model_dump(mode="json"), "staleness": classes}
