"""Tables of a recovery run for the notebook, as pandas frames. Every figure in them comes from the summary."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime

import pandas as pd

from tapecheck.recovery import document
from tapecheck.recovery.analysis import RecoverySummary
from tapecheck.recovery.contradictions import Contradiction
from tapecheck.recovery.experiment import Drill
from tapecheck.recovery.history import PastTrial
from tapecheck.recovery.objectives import RecoveryPlan
from tapecheck.recovery.timeline import Timed
from tapecheck.validation import checks as checks
from tapecheck.validation import findings as findings
from tapecheck.verdict import number, written

OLDEST = 10  # series that are shown


def _frame(rows: Sequence[Mapping[str, object]], nothing: str, columns: int = 1) -> pd.DataFrame:
    """Return rows as a frame, with their first columns to name them; without rows, `nothing` says why."""
    names = list(rows[0])[:columns] if rows else ["nothing"]
    return pd.DataFrame(rows or [{"nothing": nothing}]).set_index(names)


# ---- the plan ----


def staleness(plan: RecoveryPlan) -> pd.DataFrame:
    """Return one row a class of ages."""
    return _frame(document.staleness(plan), "")


def rto(plan: RecoveryPlan) -> pd.DataFrame:
    """Return one row a failure."""
    return _frame(document.rto(plan), "")


def rpo(plan: RecoveryPlan) -> pd.DataFrame:
    """Return one row a tier."""
    return _frame(document.rpo(plan), "")


def contradictions(found: Sequence[Contradiction]) -> pd.DataFrame:
    """Return one row a contradiction, or one that says that there is none."""
    return _frame(document.contradictions(found), "no rule finds any")


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


# ---- what the drills found ----


def trials(summary: RecoverySummary) -> pd.DataFrame:
    """Return one row a trial: its clocks in seconds since the fault began."""
    return _frame([_trial(one) for one in summary.timed], "no drill was run", 2)


def _trial(one: Timed) -> dict[str, str | int]:
    clocks, trial = one.clocks, one.trial
    row: dict[str, str | int] = {"drill": trial.drill, "trial": trial.trial}
    if clocks is None or one.invalid:
        return {**row, "note": f"invalid: {one.invalid}"}
    undetected = "no view could report it" if trial.may_report is False else "never"
    late = f"not within {number(clocks.watched_s)}"
    return row | {
        "first seen (s)": "never" if clocks.first_bad_s is None else number(clocks.first_bad_s),
        "time to detect (s)": undetected if clocks.detect_s is None else number(clocks.detect_s),
        "degraded recovery (s)": late if clocks.degraded_s is None else number(clocks.degraded_s),
        "full recovery (s)": late if clocks.recover_s is None else number(clocks.recover_s),
        "resolution (s)": number(clocks.resolution_s),
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
    series = [one for one in summary.series if not one.planted]
    oldest = sorted(series, key=lambda one: -math.inf if one.reported_s is None else -one.reported_s)[:OLDEST]
    rows = [
        {
            "series": f"{one.symbol} {one.timeframe}",
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
    asked = [one for one in summary.series if one.seen is not None]
    rows = []
    for state, expected, planted in dict.fromkeys((one.state, one.expected, one.planted) for one in asked):
        own = [one for one in asked if (one.state, one.expected, one.planted) == (state, expected, planted)]
        rows.append(
            {
                "class": state,
                "must be": expected.replace("_", " "),
                "age": "planted for this audit" if planted else "as it was",
                "asked": len(own),
                "as they must": sum(not one.wrong_answer for one in own),
            }
        )
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


def history(past: Sequence[PastTrial], plan: RecoveryPlan, now: datetime) -> pd.DataFrame:
    """Return one row a failure: how often it was ever measured, and how long ago."""
    rows = []
    for name in plan.rto:
        own = [one.at for one in past if one.failure == name]
        days = f"{max(0.0, (now - max(own)).total_seconds() / 86400):.1f}" if own else "never"
        rows.append({"failure": name, "trials ever": len(own), "days since last measured": days})
    return _frame(rows, "")
