"""The jobs of a backfill: which are to be done, in which order, by which job workers of this process, and what became of each."""

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import wait
from dataclasses import dataclass, replace

import anyio
from anyio.from_thread import start_blocking_portal
from anyio.to_thread import run_sync

from tapecheck import database
from tapecheck.backfill import features
from tapecheck.backfill.calendar import BASE
from tapecheck.backfill.checkpoints import Checkpoint
from tapecheck.backfill.pipeline import Refreshed, refresh
from tapecheck.backfill.plan import BackfillPlan, Endpoints
from tapecheck.backfill.recording import COMPLETED, FAILED, SKIPPED, Job
from tapecheck.backfill.sink import STRATEGIES, Sink, SinkError
from tapecheck.errors import first_line
from tapecheck.progress import Report
from tapecheck.vendor.bars import periods_per_year
from tapecheck.vendor.rate_limit import Bucket
from tapecheck.vendor.source import Source
from tapecheck.vendor.trace import Log, Trace
from tapecheck.vendor.wire import SourceError

Key = tuple[str, str]
Outcomes = dict[Key, Refreshed | str]
"""What was done of each job, or why it failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Jobs of one symbol that are done together: one, or all whose series are built from the same 5-minute bars."""

    symbol: str
    ticker: str
    timeframes: tuple[str, ...]

    @property
    def keys(self) -> list[Key]:
        """Return the jobs."""
        return [(self.symbol, timeframe) for timeframe in self.timeframes]

    @property
    def weights(self) -> dict[Key, float]:
        """Return about how many bars a year of each job has."""
        return {(self.symbol, timeframe): periods_per_year(self.ticker, timeframe) for timeframe in self.timeframes}

    @property
    def weight(self) -> float:
        """Return about how many bars a year of all has."""
        return sum(self.weights.values())


def due(plan: BackfillPlan, before: Mapping[Key, Checkpoint]) -> list[Group]:
    """Return what is to be done, the longest first, so that no long job is left alone at the end."""
    todo = [key for key in plan.jobs if _is_due(plan, key, before.get(key))]
    groups = [Group(symbol=symbol, ticker=plan.ticker(symbol), timeframes=(timeframe,)) for symbol, timeframe in todo]
    if plan.derive:
        frames = {symbol: tuple(frame for other, frame in todo if other == symbol) for symbol, _ in todo}
        groups = [Group(symbol=symbol, ticker=plan.ticker(symbol), timeframes=timeframes) for symbol, timeframes in frames.items()]
    return sorted(groups, key=lambda group: -group.weight)


def _is_due(plan: BackfillPlan, key: Key, before: Checkpoint | None) -> bool:
    if plan.begin == "only_failed":
        return before is not None and before.state == "failed"
    return not is_done(plan, key, before)


def is_done(plan: BackfillPlan, key: Key, checkpoint: Checkpoint | None) -> bool:
    """Tell whether a job's series covers the plan's history, with prices of the basis and the features that the plan asks for."""
    start, end = plan.history.range(plan.ticker(key[0]))
    has_features = plan.features != "off"
    return checkpoint is not None and checkpoint.covers(start, end, adjusted=plan.source.adjusted, features=has_features)


def outcome_of(key: Key, found: Refreshed | str | None, before: Checkpoint | None, after: Checkpoint | None) -> Job:
    """Return what became of a job; its checkpoints say how many bars are new, those before a lost connection included."""
    symbol, timeframe = key
    inserted = max(0, (after.rows if after else 0) - (before.rows if before else 0))
    job = Job(symbol=symbol, timeframe=timeframe, state=SKIPPED, inserted=inserted)
    if isinstance(found, str):
        return replace(job, state=FAILED, error=found)
    if found is None:
        return job
    counts = found.counts
    return replace(job, state=COMPLETED, changed=counts.changed, unchanged=counts.unchanged, repeated=found.repeated)


# ---- workers ----

log = logging.getLogger(__name__)
REPORT_EVERY_S = 0.5
DATABASE_PAUSE_S = 0.3  # between two attempts to reach a lost database
LOCK_S, LEAST_HANG_S = 10.0, 5.0  # the longest wait for a lock; the shortest for an answer
INTERRUPT_S = 2.0  # for what is being written when all is to end
WATCH_S = 0.25
COMPUTE = {  # one bad bar fails no job: it is stored without features, and the audit reports it
    "vectorized": features.leaving_out(features.compute),
    "per_row": features.leaving_out(features.compute_per_row),
    "off": None,
}


def work(filling: "Filling", report: Report) -> None:
    """Run in a loop of its own thread, because a kernel's thread has one already, and report from this one.

    An interrupt waits for what is being written, but not for a database that hangs.
    """
    with start_blocking_portal() as portal:
        future = portal.start_task_soon(filling.run)
        try:
            while not wait([future], REPORT_EVERY_S).done:
                filling.report(report, len(filling.done), filling.rows, filling.weight)
            future.result()
        except BaseException:
            future.cancel()
            if not filling.ended.wait(INTERRUPT_S):
                filling.cut()
            raise
    filling.report(report, len(filling.done), filling.rows, filling.weight)


class Filling:
    """Jobs to do, and what was done and noted so far. Its job workers are numbered from `first_worker`."""

    def __init__(
        self, plan: BackfillPlan, endpoints: Endpoints, groups: Sequence[Group], *, bucket: Bucket | None = None, first_worker: int = 0
    ) -> None:
        self.plan, self.endpoints, self.bucket = plan, endpoints, bucket
        self.queue, self.done, self.log = deque(groups), Outcomes(), Log()
        self.ended, self.budget_s = threading.Event(), plan.source.retry.budget_s  # for which a job may wait for a lost database
        self._first_worker, self._workers = first_worker, list[_Worker]()
        self._begun_s = time.monotonic()
        self._weights = {key: weight for group in groups for key, weight in group.weights.items()}

    async def run(self) -> None:
        """Work until the queue is empty."""
        source = self.plan.source
        client = Source(
            self.endpoints.source_url,
            self.endpoints.key,
            retry=source.retry,
            timeout_s=source.timeout_s,
            connections=self.plan.concurrency.requests,
            bucket=self.bucket,
            tickers=self.plan.tickers,
            adjusted=source.adjusted,
        )
        count = min(self.plan.concurrency.jobs, len(self.queue))
        self._workers = [_Worker(self, client, self._first_worker + number) for number in range(count)]
        try:
            async with client, anyio.create_task_group() as watching:
                watching.start_soon(self._watch)
                async with anyio.create_task_group() as group:
                    for worker in self._workers:
                        group.start_soon(worker.run)
                watching.cancel_scope.cancel()
        finally:
            self.ended.set()

    async def _watch(self) -> None:
        """End the connections over which no answer comes; a job's database may hang for half of its budget."""
        most_s = max(LEAST_HANG_S, self.plan.source.retry.budget_s / 2)
        while True:
            await anyio.sleep(WATCH_S)
            for worker in self._workers:
                if (sink := worker.sink) and sink.asked_s and time.monotonic() - sink.asked_s > most_s:
                    sink.cut()

    def cut(self) -> None:
        """End every connection to the database."""
        for worker in self._workers:
            if worker.sink is not None:
                worker.sink.cut()

    @property
    def rows(self) -> int:
        """Return how many bars were written so far."""
        return sum(span.rows for span in tuple(self.log.spans) if span.stage == "insert")

    @property
    def weight(self) -> float:
        """Return the weight of the jobs that are done."""
        return sum(self._weights[key] for key in tuple(self.done))

    def report(self, report: Report, done: int, rows: int, weight: float) -> None:
        """Report how many jobs are done, the rows a second, and by the weight of what is done how long the rest takes."""
        elapsed_s, total = time.monotonic() - self._begun_s, sum(self._weights.values())
        notes = [f"{rows / elapsed_s:,.0f} rows/s"] if elapsed_s > REPORT_EVERY_S else []
        if weight and done < len(self._weights):
            notes.append(f"{elapsed_s * max(0.0, total - weight) / weight:.0f} s left")
        report(done, len(self._weights), ", ".join(notes))


class _Worker:
    """Does one group after another over a database connection of its own, which it opens anew when it is lost."""

    def __init__(self, filling: Filling, source: Source, number: int) -> None:
        self._filling, self._plan, self._source, self._number = filling, filling.plan, source, number
        self.sink: Sink | None = None

    async def run(self) -> None:
        """Work until no group is left."""
        try:
            while self._filling.queue:
                group = self._filling.queue.popleft()
                self._filling.done |= await self._done(group)
        finally:
            if self.sink is not None:
                self.sink.close()

    async def _done(self, group: Group) -> Outcomes:
        """Do a group's jobs, from their checkpoints again when the database was lost; return each one's outcome or error.

        A loss may last as long as a job may retry its requests; the next one counts anew if rows were stored in between.
        Once it has lasted longer, jobs are tried once, until one is done. What the database refuses is not tried again.
        """
        until_s = 0.0
        while True:
            tried_s = time.monotonic()
            try:
                self.sink = self.sink or await self._opened()
                found = await self._refreshed(self.sink, group)
                self._filling.budget_s = self._plan.source.retry.budget_s
                return found
            except SinkError as error:
                sink, self.sink = self.sink, None
                why, asked_s = database.said(error), tried_s
                if sink is not None:
                    asked_s = sink.asked_s or time.monotonic()
                    why = f"the database gave no answer for {time.monotonic() - asked_s:.0f} s: it hangs" if sink.is_cut else why
                    sink.close()
                if not until_s or (sink and sink.inserted):
                    until_s = asked_s + self._filling.budget_s
                is_lost = database.is_lost(error) or (sink is not None and sink.is_cut)
                if not is_lost or time.monotonic() > until_s:
                    self._filling.budget_s = 0.0 if is_lost else self._filling.budget_s
                    return dict.fromkeys(group.keys, why)
                await anyio.sleep(DATABASE_PAUSE_S)

    async def _opened(self) -> Sink:
        """Connect; when all is to end meanwhile, nobody waits for that."""
        is_given_up = threading.Event()
        lock_s = min(LOCK_S, max(0.1, self._plan.source.retry.budget_s / 2))

        def opened() -> Sink:
            sink = STRATEGIES[self._plan.insert](self._filling.endpoints.database_url, self._plan.database_schema, lock_s)
            if is_given_up.is_set():
                sink.close()
            return sink

        try:
            return await run_sync(opened, abandon_on_cancel=True)
        finally:
            is_given_up.set()

    async def _refreshed(self, sink: Sink, group: Group) -> Outcomes:
        start, end = self._plan.history.range(group.ticker)
        trace = Trace(group.symbol, group.timeframes[0], self._number, self._filling.log)
        try:
            self._filling.endpoints.check_key()
            found = await refresh(
                self._source, sink, group.symbol, group.timeframes, base=BASE if self._plan.derive else None,
                start=start, end=end, compute=COMPUTE[self._plan.features], trace=trace,
            )  # fmt: skip
            return {(group.symbol, timeframe): outcome for timeframe, outcome in found.items()}
        except SinkError:
            raise
        except Exception as error:
            why = str(error) if isinstance(error, SourceError | ValueError) else f"{type(error).__name__}: {first_line(error)}"
            log.warning("%s: %s", group.symbol, why, exc_info=not isinstance(error, SourceError))
            for key in group.keys:
                await run_sync(sink.fail, *key, why)
            return dict.fromkeys(group.keys, why)
