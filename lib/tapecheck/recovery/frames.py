"""Tables of a recovery run, as pandas frames for the notebook and as Markdown for the document of the plan. They judge nothing."""

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import pandas as pd

from tapecheck.config import Model
from tapecheck.recovery.analysis import RecoverySummary, Restored
from tapecheck.recovery.contradictions import Contradiction, refill_floor_s
from tapecheck.recovery.experiment import Drill
from tapecheck.recovery.objectives import OTHERS, Action, AgeClass, Clock, RecoveryPlan, spelled
from tapecheck.recovery.timeline import PastTrial, Timed
from tapecheck.validation import checks as checks
from tapecheck.validation import findings as findings
from tapecheck.verdict import number, written

OLDEST = 10  # series that are shown
ACTIONS: Mapping[Action, str] = {
    "plain": "returned as it is",
    "warning": "returned with a warning",
    "warning_and_alert": "returned with a warning, and an alert raised",
    "not_found_and_trigger": "404, and enrichment triggered",
}
CLOCKS: Mapping[Clock, str] = {"degraded": "until it answers again, if only from its fallback", "full": "until all of it works as before"}
ALERTS = {
    "no_successful_backfill": "no backfill has succeeded for {}",
    "failed_symbols": "more than {} of the symbols failed in one run",
    "missing_features": "more than {} of the symbols have no features",
    "stale_features": "more than {} of the features are stale",
}


def _frame(rows: Sequence[Mapping[str, object]], nothing: str = "", columns: int = 1) -> pd.DataFrame:
    """Return rows as a frame, with their first columns to name them; without rows, `nothing` says why."""
    names = list(rows[0])[:columns] if rows else ["nothing"]
    return pd.DataFrame(rows or [{"nothing": nothing}]).set_index(names)


# ---- the plan ----


def staleness(plan: RecoveryPlan) -> pd.DataFrame:
    """Return one row a class of ages, the youngest first."""
    return _frame(
        [
            {
                "class": name,
                "age": f"[{spelled(from_s) if from_s else 0}, {'∞' if math.isinf(below_s) else spelled(below_s)})",
                "in words": _between(from_s, below_s),
                "an answer is": ACTIONS[plan.staleness.action(name)],
            }
            for name, from_s, below_s in _classes(plan)
        ]
    )


def _classes(plan: RecoveryPlan) -> Iterator[tuple[AgeClass, float, float]]:
    """Yield the classes with where each begins, and ends."""
    from_s = 0.0
    for name, below_s in plan.staleness.ends_s.items():
        yield name, from_s, below_s
        from_s = below_s


def _between(from_s: float, below_s: float) -> str:
    if math.isinf(below_s):
        return f"{spelled(from_s)} or more, or never there"
    return f"from {spelled(from_s)} to less than {spelled(below_s)}" if from_s else f"less than {spelled(below_s)}"


def rto(plan: RecoveryPlan) -> pd.DataFrame:
    """Return one row a failure: within what time, by which clock, and how."""
    return _frame(
        [
            {
                "failure": name,
                "within": spelled(one.objective_s),
                "clock": f"{one.clock}: {CLOCKS[one.clock]}",
                "procedure": one.procedure,
                "fallback": one.fallback,
            }
            for name, one in plan.rto.items()
        ]
    )


def rpo(plan: RecoveryPlan) -> pd.DataFrame:
    """Return one row a tier: how old, how often refreshed, and how much of it may be lost."""
    return _frame(
        [
            {
                "tier": name,
                "symbols": "all others" if tier.symbols == OTHERS else " ".join(tier.symbols),
                "age at most": spelled(tier.max_age_s),
                "refreshed every": spelled(tier.refresh_s),
                "may be lost": f"bars of {spelled(60 * tier.max_lost_minutes)}" if tier.max_lost_minutes else "no acknowledged bar",
            }
            for name, tier in plan.rpo.items()
        ]
    )


def contradictions(found: Sequence[Contradiction]) -> pd.DataFrame:
    """Return one row a contradiction, with the plan's explanation or what to change, or one that says that there is none."""
    rows = [
        {"rule": one.rule, "where": one.where, "finding": one.finding, "explained": one.explained or f"NOT EXPLAINED: {one.change}"}
        for one in found
    ]
    return _frame(rows, "no rule finds any")


def plan(drills: Sequence[Drill], trials: int) -> pd.DataFrame:
    """Return one row a drill: what will be broken, and which objective that tests."""
    rows = [
        {
            "drill": one.name,
            "what happens": one.title,
            "tests": one.watching.failure,
            "watched": ", ".join(one.watching.views),
            "bars written meanwhile": "yes" if one.watching.records else "",
            "trials": trials,
        }
        for one in drills
    ]
    return _frame(rows, "nothing is broken")


# ---- the plan, written out ----


def document(plan: RecoveryPlan, found: Sequence[Contradiction]) -> str:
    """Return the whole plan as Markdown, one sentence a line, with what `contradictions.find` finds in it."""
    share = plan.trials.proven_share
    proven = "A pass says that every trial met its objective, and no more."
    if share is not None:
        proven = f"A pass proves, with 95 % confidence, that at least {_percent(share)} of all recoveries meet the objective."
    refill = {"setting": "a refill of everything takes at least", "value": spelled(round(refill_floor_s(plan)))}
    sections = {
        "Age of data": ["An interval holds its beginning and not its end.", staleness(plan)],
        "Recovery time (RTO)": ["The clocks run from the failure.", rto(plan)],
        "Age and loss by tier (RPO)": [rpo(plan)],
        "Alerts": [_frame(_alerts(plan))],
        "Scheduler": [_frame(_settings(plan.scheduler))],
        "Cache": [_frame(_settings(plan.cache))],
        **({"Backup": [_frame(_settings(plan.backup))]} if plan.backup else {}),
        "Backfill": [_frame([*_settings(plan.backfill), refill])],
        "Drills": [proven, _frame([*_settings(plan.trials), *_settings(plan.prober)])],
        "Further objectives": [_frame([{"objective": f"`{text}`"} for text in plan.objectives]) if plan.objectives else "None."],
        "Contradictions": [contradictions(found) if found else "No rule finds any."],
    }
    parts = [one for title, content in sections.items() for one in (f"## {title}", *content)]
    texts = [one if isinstance(one, str) else _table(one) for one in parts]
    return "\n\n".join(["# Objectives of recovery, age and loss", *texts]) + "\n"


def _table(frame: pd.DataFrame) -> str:
    """Return a frame as a table of Markdown, each text within its cell."""
    whole = frame.reset_index()
    rows = [[" ".join(text.split()).replace("|", "\\|") for text in row] for row in whole.to_numpy()]
    return "\n".join(f"| {' | '.join(line)} |" for line in [list(whole), ["---"] * whole.shape[1], *rows])


def _alerts(plan: RecoveryPlan) -> list[dict[str, str]]:
    rules = {name: getattr(plan.alerts, name) for name in ALERTS}
    limits = {name: spelled(one.after_s) if name == "no_successful_backfill" else _percent(one.above_share) for name, one in rules.items()}
    return [{"alert": name, "raised when": ALERTS[name].format(limits[name]), "severity": one.severity} for name, one in rules.items()]


def _settings(model: Model) -> list[dict[str, str]]:
    """Return one row a key of the plan, those within another by their path, as people read them."""
    rows = []
    for name, value in model:
        if isinstance(value, Model):
            rows += [{"setting": f"{name.replace('_', ' ')}: {row['setting']}", "value": row["value"]} for row in _settings(value)]
        else:
            rows.append({"setting": name.removesuffix("_s").replace("_", " "), "value": _value(name, value)})
    return rows


def _value(name: str, value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(_value(name, one) for one in value)
    if isinstance(value, int | float):
        return _percent(value) if name.endswith("_share") else spelled(value) if name.endswith("_s") else f"{value:,.10g}"
    return "none" if value is None else str(value)


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def definition(plan: RecoveryPlan) -> dict[str, Any]:
    """Return the plan as plain JSON data for result.json, each class of ages with where it begins and ends."""
    classes = {
        name: {
            "from_s": from_s,
            "below_s": None if math.isinf(below_s) else below_s,
            "action": plan.staleness.action(name),
            "in_words": _between(from_s, below_s),
        }
        for name, from_s, below_s in _classes(plan)
    }
    return {**plan.model_dump(mode="json"), "staleness": classes}


# ---- what the drills found ----


def trials(summary: RecoverySummary) -> pd.DataFrame:
    """Return one row a trial: its clocks in seconds since the fault began."""
    return _frame([_trial(one) for one in summary.timed], "no drill was run", 2)


def _trial(one: Timed) -> dict[str, str | int]:
    clocks, trial = one.valid, one.trial
    row: dict[str, str | int] = {"drill": trial.drill, "trial": trial.trial}
    if clocks is None:
        return {**row, "note": f"invalid: {one.invalid}"}
    undetected = "no view could report it" if trial.may_report is False else "never"
    late = f"not within {number(clocks.watched_s)}"
    return row | {
        "first seen (s)": "never" if clocks.first_bad_s is None else number(clocks.first_bad_s),
        "time to detect (s)": undetected if clocks.detect_s is None else number(clocks.detect_s),
        "degraded recovery (s)": late if clocks.degraded_s is None else number(clocks.degraded_s),
        "full recovery (s)": late if clocks.recover_s is None else number(clocks.recover_s),
        "resolution (s)": number(clocks.resolution_s),
        "answers that hung, were bad at once": ", ".join(
            f"{name} {view.hung}, {view.refused}" for name, view in one.waits.items() if view.hung or view.refused
        ),
        "note": ", ".join(f"{name} {written(value)}" for name, value in trial.after.items()),
        "steady after": "yes" if trial.steady_after else "NO",
        "rolled back": "yes" if trial.rolled_back else "NO",
    }


def drills(summary: RecoverySummary) -> pd.DataFrame:
    """Return one row a failure: the worst of its trials, and what they prove."""
    rows = [
        {
            "failure": name,
            "objective (s)": number(one.objective_s),
            "clock": one.clock,
            "worst degraded recovery (s)": _worst(one.degraded_s.max),
            "worst full recovery (s)": _worst(one.recover_s.max),
            "95 % bound (s)": _worst(one.judged.upper),
            "trials": one.recover_s.n,
            "with 95 % confidence within the worst": f"{one.proven_share:.0%} of recoveries" if one.recover_s.n else "",
            "verdict": str(one.verdict),
        }
        for name, one in summary.rto.items()
    ]
    return _frame(rows, "no drill was run")


def _worst(value_s: float | None) -> str:
    return "" if value_s is None else "never" if math.isinf(value_s) else number(value_s)


def ages(summary: RecoverySummary) -> pd.DataFrame:
    """Return the oldest series, with the ages by API and database."""
    oldest = sorted(summary.as_found, key=lambda one: -math.inf if one.reported_s is None else -one.reported_s)[:OLDEST]
    rows = [
        {
            "series": str(one),
            "tier": one.tier or "none",
            "age by the API (min)": "none" if one.reported_s is None else number(one.reported_s / 60),
            "age by its database (min)": "" if one.database_s is None else number(one.database_s / 60),
            "class": one.state,
            "what is wrong": "; ".join(filter(None, (one.false_age, one.wrong_answer))),
        }
        for one in oldest
    ]
    return _frame(rows, "ages were not audited")


def answers(summary: RecoverySummary) -> pd.DataFrame:
    """Return one row a class and action: how many series were asked for, and how many answered as they must."""
    asked: dict[tuple[str, str, bool], list[bool]] = {}
    for one in summary.series:
        if one.seen is not None:
            asked.setdefault((one.state, one.expected, one.planted), []).append(not one.wrong_answer)
    rows = [
        {
            "class": state,
            "must be": expected.replace("_", " "),
            "age": "planted for this audit" if planted else "as it was",
            "asked": len(right),
            "as they must": sum(right),
        }
        for (state, expected, planted), right in asked.items()
    ]
    return _frame(rows, "nothing was asked")


def losses(summary: RecoverySummary) -> pd.DataFrame:
    """Return one row a tier: what became of the bars that were acknowledged during drills."""
    rows = [
        {
            "tier": name,
            "acknowledged (bars)": f"{one.acknowledged_bars:,}",
            "lost (bars)": f"{one.lost_bars:,}",
            "lost (min, worst symbol)": number(one.lost_minutes),
            "allowed (min)": number(one.max_lost_minutes),
            "upstream still has (bars)": f"{one.refetchable_bars:,}",
            "gone for good (bars)": f"{one.unrecoverable_bars:,}",
            "without an answer (bars)": f"{one.unknown_bars:,}",
            "never read (bars)": f"{one.never_read_bars:,}",
            "no refresh for (min)": "" if one.freshness_loss_minutes is None else number(one.freshness_loss_minutes),
        }
        for name, one in summary.rpo.items()
    ]
    return _frame(rows, "nothing was recorded")


def restores(summary: RecoverySummary) -> pd.DataFrame:
    """Return one row a trial that restored the database: clocks in seconds since it was dropped, and what had come since its backup."""
    return _frame([_restore(one) for one in summary.restored], "no backup was restored", 2)


def _restore(one: Restored) -> dict[str, str | int]:
    trial, facts = one.timed.trial, one.facts
    row: dict[str, str | int] = {"drill": trial.drill, "trial": trial.trial}
    if one.unusable:
        row["unusable"] = one.unusable
    if facts.destroyed_at is None:
        return row
    rows = (sum(table.rows for table in tables.values()) for tables in (facts.before, facts.saved, facts.restored))
    lost, by = one.losses.values(), " (the drill made it)" if facts.is_own else "" if facts.noted else " by its files"
    return row | {
        "backup": f"{number(facts.age_s)} s old{by}, {facts.backup_bytes / 1e6:,.1f} MB",
        "restore began (s)": number(one.after_s(facts.began_ns)),
        "restored (s)": number(one.after_s(facts.restored_ns)),
        "counted (s)": number(one.after_s(facts.verified_ns)),
        "in place (s)": number(one.after_s(facts.switched_ns)),
        "rows before, backed up, restored": ", ".join(f"{count:,}" for count in rows),
        "tables that differ": len(facts.different),
        "since the backup (min, worst symbol)": ", ".join(f"{name} {number(loss.lost_minutes)}" for name, loss in one.losses.items()),
        "upstream still has (bars)": f"{sum(loss.refetchable_bars for loss in lost):,} of {sum(loss.lost_bars for loss in lost):,}",
        "gone for good (bars)": f"{sum(loss.unrecoverable_bars for loss in lost):,}",
        "fetched again in (s)": number(facts.refetch_s),
    }


def history(past: Sequence[PastTrial], plan: RecoveryPlan, now: datetime) -> pd.DataFrame:
    """Return one row a failure: how often it was ever measured, and how long ago."""
    rows = []
    for name in plan.rto:
        own = [one.at for one in past if one.failure == name]
        days = f"{max(0.0, (now - max(own)).total_seconds() / 86400):.1f}" if own else "never"
        rows.append({"failure": name, "trials ever": len(own), "days since last measured": days})
    return _frame(rows)
