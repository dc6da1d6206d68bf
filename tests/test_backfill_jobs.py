"""Which jobs a run does, from where the checkpoints say that each stands."""

import datetime as dt
from typing import Any

import pytest

from tapecheck.backfill import jobs
from tapecheck.backfill.checkpoints import Checkpoint
from tapecheck.backfill.pipeline import Refreshed
from tapecheck.backfill.plan import BackfillPlan
from tapecheck.backfill.recording import Job
from tapecheck.backfill.sink import Counts

BASE: dict[str, Any] = {
    "symbols": ["TSLA", "SOL"],
    "timeframes": ["5m", "15m", "1h", "4h", "1d"],
    "history": {"start": dt.date(2026, 1, 1), "end": dt.date(2026, 2, 1)},
}


def plan(**changes: Any) -> BackfillPlan:
    return BackfillPlan.model_validate(BASE | changes)


def checkpoint(state: str, *, to: str = "2026-02-02", start: str = "2026-01-01", timeframe: str = "1d", **other: Any) -> Checkpoint:
    covers = {"covers_from": moment(start), "covers_to": moment(to), "adjusted": True, "features": True}
    return Checkpoint(**{"symbol": "TSLA", "timeframe": timeframe, "state": state} | covers | other)


def moment(day: str) -> dt.datetime:
    return dt.datetime.fromisoformat(day + "T05:00:00+00:00")


def test_the_longest_jobs_begin_first() -> None:
    """So that no long job is alone at the end; with derived series a symbol is one group."""
    order = [group.keys[0] for group in jobs.due(plan(), {})]
    assert order[:3] == [("SOL", "5m"), ("TSLA", "5m"), ("SOL", "15m")] and order[-1] == ("TSLA", "1d")
    assert [(group.symbol, len(group.timeframes)) for group in jobs.due(plan(derive=True), {})] == [("SOL", 5), ("TSLA", 5)]


DUE: dict[str, tuple[str, Checkpoint | None, bool]] = {
    "never begun": ("resume", None, True),
    "filling": ("resume", checkpoint("filling"), True),
    "failed": ("resume", checkpoint("failed"), True),
    "done": ("resume", checkpoint("done"), False),
    "done from an earlier day on": ("resume", checkpoint("done", start="2025-12-01"), False),
    "a later end": ("resume", checkpoint("done", to="2026-01-31"), True),
    "an earlier start": ("resume", checkpoint("done", start="2026-01-02"), True),
    "another basis": ("resume", checkpoint("done", adjusted=False), True),
    "other features": ("resume", checkpoint("done", features=False), True),
    "of an older version": ("resume", checkpoint("done", covers_from=None, covers_to=None, adjusted=None, features=None), True),
    "nothing has failed": ("only_failed", None, False),
    "only interrupted": ("only_failed", checkpoint("filling"), False),
    "only a later end": ("only_failed", checkpoint("done", to="2026-01-31"), False),
    "it failed": ("only_failed", checkpoint("failed"), True),
}


@pytest.mark.parametrize(("begin", "before", "is_due"), DUE.values(), ids=DUE)
def test_what_is_to_be_done(begin: str, before: Checkpoint | None, is_due: bool) -> None:
    """Resuming does what is not complete to the end of the history; only_failed does nothing else than what failed."""
    one = plan(symbols=["TSLA"], timeframes=["1d"], begin=begin)
    assert bool(jobs.due(one, {("TSLA", "1d"): before} if before else {})) == is_due


def test_a_derived_group_has_only_what_is_due() -> None:
    """A symbol of which one series is missing is fetched for that one alone."""
    done = {("TSLA", frame): checkpoint("done", timeframe=frame) for frame in BASE["timeframes"] if frame != "4h"}
    (group,) = jobs.due(plan(symbols=["TSLA"], derive=True, begin="resume"), done)
    assert group.timeframes == ("4h",)


def test_new_bars_are_counted_by_the_checkpoints() -> None:
    """So that what was stored before a failure, or before the database was lost in between, counts, and what was only claimed does not."""
    key, before, after = ("TSLA", "1d"), checkpoint("filling", rows=5), checkpoint("done", rows=12)
    claimed = Refreshed(counts=Counts(inserted=99, changed=1, unchanged=2), repeated=3, checkpoint=after)
    assert jobs.outcome_of(key, claimed, before, after) == Job(
        symbol="TSLA", timeframe="1d", state="completed", inserted=7, changed=1, unchanged=2, repeated=3
    )
    assert jobs.outcome_of(key, "HTTP 404", before, after) == Job(
        symbol="TSLA", timeframe="1d", state="failed", error="HTTP 404", inserted=7
    )
    assert jobs.outcome_of(key, None, before, before) == Job(symbol="TSLA", timeframe="1d", state="skipped")
