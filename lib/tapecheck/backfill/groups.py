"""Which jobs are to be done, in which order, and what became of each. It does none."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tapecheck.backfill.bars import periods_per_year
from tapecheck.backfill.checkpoints import Checkpoint
from tapecheck.backfill.pipeline import Outcome
from tapecheck.backfill.plan import BackfillPlan
from tapecheck.backfill.recording import COMPLETED, FAILED, SKIPPED, Job

Key = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Jobs of one symbol that are done together: one, or all whose series are built from the same 5-minute bars."""

    symbol: str
    timeframes: tuple[str, ...]

    @property
    def keys(self) -> list[Key]:
        """Return the jobs."""
        return [(self.symbol, timeframe) for timeframe in self.timeframes]

    @property
    def weight(self) -> float:
        """Return about how many bars a year of it has."""
        return sum(periods_per_year(*key) for key in self.keys)


def due(plan: BackfillPlan, before: Mapping[Key, Checkpoint]) -> list[Group]:
    """Return what is to be done, the longest first, so that no long job is left alone at the end."""
    todo = [key for key in plan.jobs if _is_due(plan, key, before.get(key))]
    groups = [Group(symbol=symbol, timeframes=(timeframe,)) for symbol, timeframe in todo]
    if plan.derive:
        frames = {symbol: tuple(frame for other, frame in todo if other == symbol) for symbol, _ in todo}
        groups = [Group(symbol=symbol, timeframes=timeframes) for symbol, timeframes in frames.items()]
    return sorted(groups, key=lambda group: -group.weight)


def _is_due(plan: BackfillPlan, key: Key, before: Checkpoint | None) -> bool:
    if plan.begin == "only_failed":
        return before is not None and before.state == "failed"
    return not is_done(plan, key, before)


def is_done(plan: BackfillPlan, key: Key, checkpoint: Checkpoint | None) -> bool:
    """Tell whether upstream has confirmed, after the end of the plan's history, that a job holds all of it."""
    if checkpoint is None or checkpoint.state != "done" or checkpoint.refreshed_at is None:
        return False
    return checkpoint.refreshed_at >= plan.history.range(key[0])[1]


def result(key: Key, found: Outcome | str | None, before: Checkpoint | None, after: Checkpoint | None) -> Job:
    """Say what became of a job; how many bars are new is told by its checkpoints, which count those before a lost connection too."""
    symbol, timeframe = key
    inserted = (after.rows if after else 0) - (before.rows if before else 0)
    job = Job(symbol=symbol, timeframe=timeframe, state=SKIPPED, inserted=inserted)
    if isinstance(found, str):
        return replace(job, state=FAILED, error=found)
    if found is None:
        return job
    counts = found.counts
    return replace(job, state=COMPLETED, changed=counts.changed, unchanged=counts.unchanged, repeated=found.repeated)
