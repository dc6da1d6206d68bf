"""Predicts how long a backfill would take if something were changed, by replaying its spans through the pipeline's schedule. Pure.

The replay has what the pipeline has: job workers that take the next job when they are free, one page fetched ahead of the one
that is stored, request slots, and the token bucket; waits for those are not replayed but come about anew. Stages that ran on
this machine share its cores: what a span would have taken alone is estimated from how many ran beside it, and in the
replay they slow each other down again.

What the replay does not know: that a remote source may slow down under more requests, that one database may not commit faster for
more connections, and that stages of ours share one interpreter.
"""

import heapq
from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, zip_longest

from tapecheck.backfill.calendar import BASE
from tapecheck.backfill.plan import SLACK_S, BackfillPlan
from tapecheck.backfill.recording import FETCHING, Recording
from tapecheck.vendor.rate_limit import TokenBucket
from tapecheck.vendor.trace import Span

CORES_A_SPAN = 1.5  # measured: one job at a time keeps as many busy, since this process works beside the server that it talks to


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A stage of a page: seconds of work if it ran alone, and the time before it that nothing explains, such as a hand-over."""

    stage: str
    work_s: float
    lag_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PageSteps:
    """What it takes to get a page, and to store it."""

    produce: list[Step] = field(default_factory=list)
    store: list[Step] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSteps:
    """What one job, or a symbol whose series are derived, does in its turn."""

    symbol: str
    timeframe: str
    before: list[Step]
    pages: list[PageSteps]

    @property
    def steps(self) -> list[Step]:
        """Return every step."""
        return [*self.before, *(step for page in self.pages for step in (*page.produce, *page.store))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Jobs in the order in which they are taken, and all that limits them; `open_s` is before a worker's first job, `close_s` after all.

    Stages in `alone` share no cores; those in `factors` take such a part of their work.
    """

    groups: list[JobSteps]
    workers: int
    requests: int
    rate_per_s: float | None
    burst: int
    cores: float
    alone: frozenset[str]
    factors: Mapping[str, float] = field(default_factory=dict)
    slack_s: float = 0.0
    open_s: float = 0.0
    close_s: float = 0.0


def schedule_of(recording: Recording, cores: float | None = None) -> Workload:
    """Return what a recording did, without the waits that come about anew.

    Args:
        cores: how many spans can run at once without slowing each other down; None for what the recording's machine allows.
    """
    context, spans = recording.context, sorted(recording.spans, key=lambda span: span.began_ns)
    plan = context.plan
    rate_per_s, alone = plan.source.rate_per_s, frozenset({"wait"}) | frozenset(context.remote)
    shared = cores or max(1.0, context.environment.cores / CORES_A_SPAN)
    work_s = works_s([span for span in spans if span.stage not in alone], shared)
    members: dict[tuple[int, str, str], list[Span]] = defaultdict(list)
    for span in spans:
        members[span.worker, span.symbol, "" if plan.derive else span.timeframe].append(span)
    free_ns: dict[int, int] = {}
    opens_s, groups = [], []
    for (worker, _, _), own in members.items():
        if worker not in free_ns:
            opens_s.append((own[0].began_ns - context.began_ns) / 1e9)
        groups.append(_group(own, free_ns.get(worker, own[0].began_ns), work_s, keeps_waits=rate_per_s is None))
        free_ns[worker] = max(span.ended_ns for span in own)
    return Workload(
        groups=groups,
        workers=plan.concurrency.jobs * context.processes,
        requests=plan.concurrency.requests * context.processes,
        rate_per_s=rate_per_s,
        burst=plan.source.burst,
        cores=shared,
        alone=alone,
        slack_s=SLACK_S,
        open_s=sum(opens_s) / len(opens_s) if opens_s else 0.0,
        close_s=(context.ended_ns - max(free_ns.values())) / 1e9 if free_ns else 0.0,
    )


def works_s(spans: Sequence[Span], cores: float) -> dict[int, float]:
    """Return by its id how long each span would have taken alone: the integral of min(1, cores / n) over it, n of them being open."""
    edges = sorted([(span.began_ns, 1) for span in spans] + [(span.ended_ns, -1) for span in spans])
    times, done_ns, n = [0], [0.0], 0
    for at_ns, change in edges:
        rate = min(1.0, cores / n) if n else 0.0
        done_ns.append(done_ns[-1] + rate * (at_ns - times[-1]))
        times.append(at_ns)
        n += change

    def done_at(at_ns: int) -> float:
        return done_ns[bisect_right(times, at_ns) - 1]

    return {id(span): (done_at(span.ended_ns) - done_at(span.began_ns)) / 1e9 for span in spans}


def _group(own: Sequence[Span], free_ns: int, work_s: Mapping[int, float], *, keeps_waits: bool) -> JobSteps:
    """Return the steps of a job from its spans in order; each one's lag counts from the end of what it had to wait for."""

    def step(span: Span, after_ns: int) -> Step:
        lag_s = 0.0 if span.stage in ("wait", "fetch") else max(0, span.began_ns - after_ns) / 1e9
        return Step(stage=span.stage, work_s=work_s.get(id(span), span.duration_s), lag_s=lag_s)

    before, stored_ns = [], free_ns
    for span in (span for span in own if span.page < 0):
        before.append(step(span, stored_ns))
        stored_ns = span.ended_ns
    pages = []
    for number in sorted({span.page for span in own if span.page >= 0}):
        page, produced_ns = PageSteps(), 0
        for span in (span for span in own if span.page == number and span.stage in FETCHING):
            if span.stage != "wait" or keeps_waits:
                page.produce.append(step(span, produced_ns))
            produced_ns = span.ended_ns
        stored_ns = max(stored_ns, produced_ns)
        for span in (span for span in own if span.page == number and span.stage not in FETCHING):
            page.store.append(step(span, stored_ns))
            stored_ns = span.ended_ns
        pages.append(page)
    return JobSteps(symbol=own[0].symbol, timeframe=own[0].timeframe, before=before, pages=pages)


# ---- replay ----

TINY_S = 1e-9
Process = Generator[Callable[["Process"], None], None, None]
"""A process of the machine; what it yields takes it, and lets it go on later."""


class Machine:
    """Runs processes until none is left; work slows down when there is more of it at once than cores."""

    def __init__(self, cores: float) -> None:
        self.now_s = 0.0
        self._cores = cores
        self._ready: deque[Process] = deque()
        self._sleeping: list[tuple[float, int, Process]] = []
        self._working: list[tuple[float, Process]] = []  # seconds of work that are left
        self._order = count()

    def start(self, process: Process) -> None:
        """Let a process begin, or go on."""
        self._ready.append(process)

    def sleep(self, seconds: float) -> Process:
        """Wait for some time."""
        yield lambda process: heapq.heappush(self._sleeping, (self.now_s + seconds, next(self._order), process))

    def work(self, seconds: float) -> Process:
        """Wait until a core has done so much for this process; all that work at once get equal parts of the cores."""
        if seconds > 0:
            yield lambda process: self._working.append((seconds, process))

    def run(self) -> float:
        """Run all processes to their end and return when that was."""
        while self._ready or self._sleeping or self._working:
            while self._ready:
                process = self._ready.popleft()
                wait = next(process, None)
                if wait is not None:
                    wait(process)
            self._advance()
        return self.now_s

    def _advance(self) -> None:
        """Go to the next moment at which a sleep or some work ends."""
        rate = min(1.0, self._cores / len(self._working)) if self._working else 1.0
        until_s = [left_s / rate for left_s, _ in self._working] + [at_s - self.now_s for at_s, _, _ in self._sleeping[:1]]
        step_s = max(0.0, min(until_s, default=0.0))
        self.now_s += step_s
        working = [(left_s - step_s * rate, process) for left_s, process in self._working]
        self._ready.extend(process for left_s, process in working if left_s <= TINY_S)
        self._working = [(left_s, process) for left_s, process in working if left_s > TINY_S]
        while self._sleeping and self._sleeping[0][0] <= self.now_s + TINY_S:
            self._ready.append(heapq.heappop(self._sleeping)[2])


class Places:
    """A number of places, taken in the order in which they were asked for; without any, what one process waits for and another gives."""

    def __init__(self, machine: Machine, places: int) -> None:
        self._machine, self._free, self._waiting = machine, places, deque[Process]()

    def take(self) -> Process:
        """Wait for a place and take it."""
        if self._free:
            self._free -= 1
        else:
            yield self._waiting.append

    def release(self) -> None:
        """Give a place back, to who waits longest."""
        if self._waiting:
            self._machine.start(self._waiting.popleft())
        else:
            self._free += 1


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
        work_s = step.work_s * self._schedule.factors.get(step.stage, 1.0)
        yield from (self._machine.sleep if step.stage in self._schedule.alone else self._machine.work)(work_s)


# ---- predictions ----

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
    return replace(schedule, factors={stage: factor})


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
