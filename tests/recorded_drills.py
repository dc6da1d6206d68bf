"""Bars with a fate and the plan of our own file, for the tests of recovery."""

from pathlib import Path
from typing import Any

from tapecheck import config
from tapecheck.recovery.objectives import RecoveryPlan
from tapecheck.recovery.recording import Ack, Fate

PLAN: RecoveryPlan = config.chosen(RecoveryPlan, Path(__file__).parents[1] / "config" / "rto_rpo.yaml", config.WHOLE)


def ack(symbol: str, at_minutes: float, fate: Fate = "stable", **changes: Any) -> Ack:
    """Return a 5-minute bar that begins so many minutes after 1970."""
    base: dict[str, Any] = {"drill": "d", "trial": 1, "tier": PLAN.tier_of(symbol), "minutes": 5.0}
    base |= {"acked_ns": None if fate == "unknown" else 1, "time_ms": round(at_minutes * 60_000)}
    return Ack(symbol=symbol, fate=fate, **base | changes)
