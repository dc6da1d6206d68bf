"""Which alerts the plan's rules demand of an audit of ages: pure. It tells nobody."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tapecheck.recovery.policy import AboveShare, RecoveryPlan
from tapecheck.recovery.recording import Ages

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
