"""How far off predictions of what a change would buy are: each is made from one run, and held against a run of the change."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tapecheck.backfill.plan import BackfillPlan, Concurrency, SourcePlan

from .embedded import Embedded

Refill = Callable[[BackfillPlan], dict[str, Any]]
WIDER = Concurrency(jobs=10, requests=6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One change: how long a run took, was predicted to take with the change, and took with it."""

    base: str
    change: str
    before_s: float
    predicted_s: float
    measured_s: float

    @property
    def error_ratio(self) -> float:
        """Return the relative error."""
        return self.predicted_s / self.measured_s - 1


def run(sandbox: Embedded, full: BackfillPlan, limited: BackfillPlan, limit: dict[str, float], refill: Refill) -> list[Prediction]:
    """Run a plan without and one with a rate limit, then each change of them that can be run.

    Args:
        limit: the rate limit of `limited`, which the sandbox's upstream keeps as well.
    """
    of_full: dict[str, BackfillPlan] = {
        "one job and request at a time": full.model_copy(update={"concurrency": Concurrency(jobs=1, requests=1)}),
        f"{WIDER.jobs} jobs and {WIDER.requests} requests at a time": full.model_copy(update={"concurrency": WIDER}),
        "timeframes derived": full.model_copy(update={"derive": True}),
    }
    twice = {**limit, "requests_per_minute": 2 * limit["requests_per_minute"]}
    faster = SourcePlan.model_validate(limited.source.model_dump() | twice)
    of_limited: dict[str, tuple[BackfillPlan, dict[str, float]]] = {
        "twice the rate limit": (limited.model_copy(update={"source": faster}), twice),
        "timeframes derived": (limited.model_copy(update={"derive": True}), limit),
    }
    found = refill(full)
    predictions = [_held("no limit", change, found, refill(plan)) for change, plan in of_full.items()]
    try:
        sandbox.limit(**limit)
        found = refill(limited)
        for change, (plan, kept) in of_limited.items():
            sandbox.limit(**kept)
            predictions.append(_held("with a rate limit", change, found, refill(plan)))
    finally:
        sandbox.limit()
    return predictions


def _held(base: str, change: str, before: dict[str, Any], after: dict[str, Any]) -> Prediction:
    return Prediction(
        base=base, change=change, before_s=before["wall_s"], predicted_s=before["what_if"][change], measured_s=after["wall_s"]
    )
