"""Tables of the recovery plan for the notebook, as pandas frames: the rows of the document. They hold nothing that it does not say."""

from collections.abc import Sequence

import pandas as pd

from tapecheck.recovery import definition
from tapecheck.recovery.contradictions import Contradiction
from tapecheck.recovery.policy import RecoveryPlan

__all__ = ["alerts", "backfill", "contradictions", "rpo", "rto", "staleness"]


def staleness(plan: RecoveryPlan) -> pd.DataFrame:
    """Return one row a class of ages."""
    return _frame(definition.staleness(plan))


def rto(plan: RecoveryPlan) -> pd.DataFrame:
    """Return one row a failure."""
    return _frame(definition.rto(plan))


def rpo(plan: RecoveryPlan) -> pd.DataFrame:
    """Return one row a tier."""
    return _frame(definition.rpo(plan))


def alerts(plan: RecoveryPlan) -> pd.DataFrame:
    """Return one row an alert rule."""
    return _frame(definition.alerts(plan))


def backfill(plan: RecoveryPlan) -> pd.DataFrame:
    """Return one row a limit of the backfill."""
    return _frame(definition.backfill(plan))


def contradictions(found: Sequence[Contradiction]) -> pd.DataFrame:
    """Return one row a contradiction, or one that says that there is none."""
    none: definition.Row = {"rule": "no rule finds any", "where": "", "finding": "", "settled by": ""}
    return _frame(definition.contradictions(found) or [none])


def _frame(rows: Sequence[definition.Row]) -> pd.DataFrame:
    """Return rows as a frame, with their first column to name them."""
    return pd.DataFrame(rows).set_index(next(iter(rows[0])))
