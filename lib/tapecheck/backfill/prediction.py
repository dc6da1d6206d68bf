"""Predicts how long a backfill would take if something were changed, by replaying its spans through the pipeline's schedule. Pure.

What the replay does not know: that a remote source may slow down under more requests, that one database may not commit faster for
more connections, and that stages of ours share one interpreter.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace

from tapecheck.backfill.calendar import BASE
from tapecheck.backfill.plan import BackfillPlan
from tapecheck.backfill.recording import Recording
from tapecheck.backfill.replay import JobSteps, PageSteps, Step, Workload, schedule_of, wall_s

WORTH_ASKING = 0.02  # of busy time: what would happen without a stage below it is not asked
AS_RECORDED = "as recorded"
ASKED = ("fetch", "decode", "features", "insert")  # stages that may be faster
HOW = {"twice as fast": 0.5, "at no cost": 0.0}
ONE_AT_A_TIME, DERIVED, RATES = "one job and request at a time", "timeframes derived", ("twice the rate limit", "no rate limit")


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf:
    """One change and the wall time predicted for it; `saving_ratio` is the part of the measured wall time that it saves."""

    change: str
    wall_s: float
    saving_ratio: float


def predict_all(recording: Recording, cores: float | None = None) -> list[WhatIf]:
    """Predict the usual changes, first of all none: how far its wall time is from the measured one is the replay's own error.

    Args:
        cores: see `schedule_of`.
    """
    schedule = schedule_of(recording, cores)
    measured_s = recording.context.wall_s
    if not schedule.groups or measured_s <= 0:
        return []
    replayed_s = wall_s(schedule)
    found = [WhatIf(change=AS_RECORDED, wall_s=replayed_s, saving_ratio=1 - replayed_s / measured_s)]
    for name, changed in changes(schedule, derived=recording.context.plan.derive).items():
        ratio = wall_s(changed) / replayed_s
        found.append(WhatIf(change=name, wall_s=measured_s * ratio, saving_ratio=1 - ratio))
    return found


def changes(schedule: Workload, *, derived: bool) -> dict[str, Workload]:
    """Return the usual changes by name."""
    work_s: dict[str, float] = defaultdict(float)
    for group in schedule.groups:
        for step in group.steps:
            work_s[step.stage] += step.work_s
    least_s = WORTH_ASKING * (sum(work_s.values()) or 1.0)
    found = {f"{stage} {how}": faster(schedule, stage, HOW[how]) for how in HOW for stage in ASKED if work_s[stage] > least_s}
    found[ONE_AT_A_TIME] = replace(schedule, workers=1, requests=1)
    workers, requests = schedule.workers * 2, schedule.requests * 2
    found[_at_a_time(workers, requests)] = replace(schedule, workers=workers, requests=requests)
    if schedule.rate_per_s:
        found[RATES[0]] = replace(schedule, rate_per_s=2 * schedule.rate_per_s)
        found[RATES[1]] = replace(schedule, rate_per_s=None)
    if not derived and (one_series := derive(schedule)):
        found[DERIVED] = one_series
    return found


def names(plan: BackfillPlan) -> tuple[str, ...]:
    """Return every change that may be predicted of a run of a plan; of a cluster, whose workers nobody knows yet, as of one of them."""
    processes = plan.workers if isinstance(plan.workers, int) else 1
    return (
        AS_RECORDED,
        *(f"{stage} {how}" for stage in ASKED for how in HOW),
        ONE_AT_A_TIME,
        _at_a_time(plan.concurrency.jobs * processes * 2, plan.concurrency.requests * processes * 2),
        *(RATES if plan.source.rate_per_s else ()),
        *(() if plan.derive or BASE not in plan.timeframes else (DERIVED,)),
    )


def _at_a_time(jobs: int, requests: int) -> str:
    return f"{jobs} jobs and {requests} requests at a time"


def faster(schedule: Workload, stage: str, factor: float) -> Workload:
    """Return a schedule in which a stage takes `factor` of its work."""

    def changed(step: Step) -> Step:
        return replace(step, work_s=step.work_s * factor) if step.stage == stage else step

    return replace(schedule, groups=[_mapped(group, changed) for group in schedule.groups])


def _mapped(group: JobSteps, change: Callable[[Step], Step]) -> JobSteps:
    pages = [PageSteps(produce=[*map(change, page.produce)], store=[*map(change, page.store)]) for page in group.pages]
    return replace(group, before=[*map(change, group.before)], pages=pages)


def derive(schedule: Workload) -> Workload | None:
    """Return a schedule in which a symbol's 5-minute pages are fetched alone and each also stores its part of the other series.

    None where a symbol has no 5-minute series that could be used.
    """
    symbols: dict[str, list[JobSteps]] = defaultdict(list)
    for group in schedule.groups:
        symbols[group.symbol].append(group)
    groups = []
    for jobs in symbols.values():
        base = next((job for job in jobs if job.timeframe == BASE), None)
        if base is None or not base.pages:
            return None
        share = 1 / len(base.pages)
        others = [step for job in jobs if job is not base for page in job.pages for step in page.store]
        parts = [replace(step, work_s=step.work_s * share, lag_s=step.lag_s * share) for step in others]
        pages = [PageSteps(produce=page.produce, store=[*page.store, *parts]) for page in base.pages]
        groups.append(replace(base, before=[step for job in jobs for step in job.before], pages=pages))
    return replace(schedule, groups=groups)
