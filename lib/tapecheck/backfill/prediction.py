"""Predicts how long a backfill would take if something were changed, by replaying its spans through the pipeline's schedule. Pure.

The replay has what the pipeline has: job workers that take the next job when they are free, one page fetched ahead of the one
that is stored, request slots, and the token bucket; waits for those are not replayed but come about anew. Stages that ran on
this machine share its cores: what a span would have taken alone is estimated from how many ran beside it, and in the
replay they slow each other down again. What the model does not know: that a remote source may slow down under more requests,
that one database may not commit faster for more connections, and that stages of ours share one interpreter.
"""

from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import zip_longest

from tapecheck.backfill.calendar import BASE
from tapecheck.backfill.plan import BackfillPlan
from tapecheck.backfill.recording import Recording
from tapecheck.backfill.replay import JobSteps, Machine, PageSteps, Places, Process, Step, Workload, schedule_of
from tapecheck.vendor.rate_limit import TokenBucket

WORTH_ASKING = 0.02  # of busy time: what would happen without a stage below it is not asked
AS_RECORDED = "as recorded"
ASKED = ("fetch", "decode", "features", "insert")  # stages that may be faster
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
    steps = [step for group in schedule.groups for step in _steps(group)]
    total_s = sum(step.work_s for step in steps) or 1.0
    stages = [stage for stage in ASKED if sum(step.work_s for step in steps if step.stage == stage) > WORTH_ASKING * total_s]
    found = {f"{stage} twice as fast": faster(schedule, stage, 0.5) for stage in stages}
    found |= {f"{stage} at no cost": faster(schedule, stage, 0.0) for stage in stages}
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
        *(f"{stage} {how}" for stage in ASKED for how in ("twice as fast", "at no cost")),
        ONE_AT_A_TIME,
        _at_a_time(plan.concurrency.jobs * processes * 2, plan.concurrency.requests * processes * 2),
        *(RATES if plan.source.rate_per_s else ()),
        *(() if plan.derive or BASE not in plan.timeframes else (DERIVED,)),
    )


def _at_a_time(jobs: int, requests: int) -> str:
    return f"{jobs} jobs and {requests} requests at a time"


def faster(schedule: Workload, stage: str, factor: float) -> Workload:
    """Return a schedule in which a stage takes `factor` of its work."""

    def changed(steps: Iterable[Step]) -> list[Step]:
        return [replace(step, work_s=step.work_s * factor) if step.stage == stage else step for step in steps]

    def pages(group: JobSteps) -> list[PageSteps]:
        return [PageSteps(produce=changed(page.produce), store=changed(page.store)) for page in group.pages]

    return replace(schedule, groups=[replace(group, before=changed(group.before), pages=pages(group)) for group in schedule.groups])


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
        parts = [
            replace(step, work_s=step.work_s * share, lag_s=step.lag_s * share)
            for job in jobs
            if job is not base
            for page in job.pages
            for step in page.store
        ]
        pages = [PageSteps(produce=page.produce, store=[*page.store, *parts]) for page in base.pages]
        groups.append(replace(base, before=[step for job in jobs for step in job.before], pages=pages))
    return replace(schedule, groups=groups)


def _steps(group: JobSteps) -> list[Step]:
    return [*group.before, *(step for page in group.pages for step in (*page.produce, *page.store))]


def wall_s(schedule: Workload) -> float:
    """Replay a schedule and return how long it takes."""
    return _Replay(schedule).wall_s()


class _Replay:
    """The pipeline's shape on a simulated machine."""

    def __init__(self, schedule: Workload) -> None:
        self._schedule, self._queue = schedule, deque(schedule.groups)
        self._machine = machine = Machine(schedule.cores)
        self._slots = Places(machine, schedule.requests)
        rate_per_s = schedule.rate_per_s
        self._bucket = TokenBucket(rate_per_s, schedule.burst, lambda: machine.now_s, slack_s=schedule.slack_s) if rate_per_s else None

    def wall_s(self) -> float:
        for _ in range(min(self._schedule.workers, len(self._queue))):
            self._machine.start(self._worker())
        return self._machine.run() + self._schedule.close_s

    def _worker(self) -> Process:
        yield from self._machine.sleep(self._schedule.open_s)
        while self._queue:
            yield from self._job(self._queue.popleft())

    def _job(self, group: JobSteps) -> Process:
        """Store one page while the next is fetched."""
        for step in group.before:
            yield from self._step(step)
        ready = Places(self._machine, 0)
        if group.pages:
            self._machine.start(self._produce(group.pages[0], ready))
        for page, following in zip_longest(group.pages, group.pages[1:]):
            yield from ready.take()
            if following:
                self._machine.start(self._produce(following, ready))
            for step in page.store:
                yield from self._step(step)

    def _produce(self, page: PageSteps, ready: Places) -> Process:
        for step in page.produce:
            if step.stage != "fetch":
                yield from self._step(step)
                continue
            yield from self._slots.take()
            while self._bucket and (delay_s := self._bucket.take()) > 0:
                yield from self._machine.sleep(delay_s)
            yield from self._step(step)
            self._slots.release()
        ready.release()

    def _step(self, step: Step) -> Process:
        if step.lag_s:
            yield from self._machine.sleep(step.lag_s)
        if step.stage in self._schedule.alone:
            yield from self._machine.sleep(step.work_s)
        else:
            yield from self._machine.work(step.work_s)
