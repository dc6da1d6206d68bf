"""Tables of a recovery run for the notebook, as pandas frames. Every figure in them comes from the summary."""

import math
from collections.abc import Sequence

import pandas as pd

from tapecheck.recovery import document, ledger
from tapecheck.recovery.analysis import RecoverySummary
from tapecheck.recovery.contradictions import Contradiction
from tapecheck.recovery.experiment import Drill
from tapecheck.recovery.objectives import RecoveryPlan
from tapecheck.recovery.recording import Ages, Recording
from tapecheck.recovery.timeline import Clocks, Timed
from tapecheck.validation import checks, findings
from tapecheck.verdict import number, written

__all__ = ["ages", "answers", "checks", "drills", "findings", "history", "losses", "plan", "trials"]

OLDEST = 10  # series that are shown


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
    empty = [{"drill": "none", "what happens": "nothing is broken"}]
    return pd.DataFrame(rows or empty).set_index("drill")


def trials(summary: RecoverySummary) -> pd.DataFrame:
    """Return one row a trial: its clocks in seconds since the fault began."""
    rows = [_trial(one) for one in summary.timed]
    return pd.DataFrame(rows or [{"drill": "no drill was run", "trial": ""}]).set_index(["drill", "trial"])


def _trial(one: Timed) -> dict[str, str | int]:
    clocks, trial = one.clocks, one.trial
    row: dict[str, str | int] = {"drill": trial.drill, "trial": trial.trial}
    if clocks is None or one.invalid:
        return {**row, "said": f"invalid: {one.invalid}"}
    return row | {
        "first seen (s)": "never" if clocks.first_bad_s is None else number(clocks.first_bad_s),
        "time to detect (s)": _told(one, clocks),
        "degraded recovery (s)": _time(clocks.degraded_s, clocks.watched_s),
        "full recovery (s)": _time(clocks.recover_s, clocks.watched_s),
        "resolution (s)": number(clocks.resolution_s),
        "said": ", ".join(f"{name} {written(value)}" for name, value in trial.after.items()),
        "steady after": "yes" if trial.steady_after else "NO",
        "rolled back": "yes" if trial.rolled_back else "NO",
    }


def _told(one: Timed, clocks: Clocks) -> str:
    if clocks.detect_s is not None:
        return number(clocks.detect_s)
    return "no view could tell" if one.trial.may_report is False else "never"


def _time(value_s: float | None, watched_s: float) -> str:
    return f"not within {number(watched_s)}" if value_s is None else number(value_s)


def drills(summary: RecoverySummary) -> pd.DataFrame:
    """Return one row a failure: the worst of its trials, and what they prove."""
    rows = [
        {
            "failure": name,
            "objective (s)": number(one.objective_s),
            "clock": one.clock,
            "worst degraded recovery (s)": _worst(one.degraded_s.max),
            "worst full recovery (s)": _worst(one.recover_s.max),
            "95 % bound (s)": _worst((one.recover_s if one.clock == "full" else one.degraded_s).upper),
            "trials": one.recover_s.n,
            "with 95 % confidence within the worst": f"{one.proven_share:.0%} of recoveries" if one.recover_s.n else "",
            "verdict": str(one.verdict),
        }
        for name, one in summary.rto.items()
    ]
    return pd.DataFrame(rows or [{"failure": "no drill was run"}]).set_index("failure")


def _worst(value_s: float | None) -> str:
    return "" if value_s is None else "never" if math.isinf(value_s) else number(value_s)


def ages(ages: Ages | None) -> pd.DataFrame:
    """Return the oldest series, with what API and database say of their age."""
    series = [one for one in (ages.series if ages else ()) if not one.planted]
    oldest = sorted(series, key=lambda one: -math.inf if one.said_s is None else -one.said_s)[:OLDEST]
    rows = [
        {
            "series": f"{one.symbol} {one.timeframe}",
            "tier": one.tier or "none",
            "age by the API (min)": "none" if one.said_s is None else number(one.said_s / 60),
            "age by its database (min)": "" if one.database_s is None else number(one.database_s / 60),
            "class": one.state,
            "what is wrong": "; ".join(filter(None, (one.false_age, one.wrong_answer))),
        }
        for one in oldest
    ]
    return pd.DataFrame(rows or [{"series": "ages were not audited"}]).set_index("series")


def answers(ages: Ages | None) -> pd.DataFrame:
    """Return one row a class and action: how many series were asked, and how many answered as they must."""
    asked = [one for one in (ages.series if ages else ()) if one.seen is not None]
    groups = dict.fromkeys((one.state, one.expected, one.planted) for one in asked)
    rows = []
    for state, expected, planted in groups:
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
    return pd.DataFrame(rows or [{"class": "nothing was asked"}]).set_index("class")


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
    return pd.DataFrame(rows or [{"tier": "nothing was recorded"}]).set_index("tier")


def history(recording: Recording) -> pd.DataFrame:
    """Return one row a failure: how often it was ever measured, and how long ago."""
    context = recording.context
    entries = [e for e in context.ledger if e.get("target") == context.target.name]
    since = ledger.days_since(entries, list(context.plan.rto), context.started_at)
    rows = [
        {
            "failure": name,
            "trials ever": sum(e["failure"] == name for e in entries),
            "days since last measured": "never" if days is None else f"{max(0.0, days):.1f}",
        }
        for name, days in since.items()
    ]
    return pd.DataFrame(rows).set_index("failure")


# ---- definition_frames ----

_definition_frames__all__ = ["alerts", "backfill", "contradictions", "rpo", "rto", "staleness"]


def staleness(plan: RecoveryPlan) -> pd.DataFrame:
    """Return one row a class of ages."""
    return _frame(document.staleness(plan))


def rto(plan: RecoveryPlan) -> pd.DataFrame:
    """Return one row a failure."""
    return _frame(document.rto(plan))


def rpo(plan: RecoveryPlan) -> pd.DataFrame:
    """Return one row a tier."""
    return _frame(document.rpo(plan))


def alerts(plan: RecoveryPlan) -> pd.DataFrame:
    """Return one row an alert rule."""
    return _frame(document.alerts(plan))


def backfill(plan: RecoveryPlan) -> pd.DataFrame:
    """Return one row a limit of the backfill."""
    return _frame(document.backfill(plan))


def contradictions(found: Sequence[Contradiction]) -> pd.DataFrame:
    """Return one row a contradiction, or one that says that there is none."""
    none: document.Row = {"rule": "no rule finds any", "where": "", "finding": "", "settled by": ""}
    return _frame(document.contradictions(found) or [none])


def _frame(rows: Sequence[document.Row]) -> pd.DataFrame:
    """Return rows as a frame, with their first column to name them."""
    return pd.DataFrame(rows).set_index(next(iter(rows[0])))
