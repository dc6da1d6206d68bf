"""The jobs of a backfill: which are to be done, in which order, by which job workers of this process, and what became of each."""

import logging
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
from tapecheck.vendor.trace import Received, Span, Trace
from tapecheck.vendor.wire import SourceError

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


def outcome_of(key: Key, found: Refreshed | str | None, before: Checkpoint | None, after: Checkpoint | None) -> Job:
    """Return what became of a job; its checkpoints say how many bars are new, those before a lost connection included."""
    symbol, timeframe = key
    inserted = (after.rows if after else 0) - (before.rows if before else 0)
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
COMPUTE = {"vectorized": features.compute, "per_row": features.compute_per_row, "off": None}


def work(filling: "Filling", report: Report) -> None:
    """Run in a loop of its own thread, because a kernel's thread has one already, and report from this one.

    An interrupt waits for what is being written.
    """
    with start_blocking_portal() as portal:
        future = portal.start_task_soon(filling.run)
        try:
            while not wait([future], REPORT_EVERY_S).done:
                filling.report(report, len(filling.done), filling.rows, filling.weight)
            future.result()
        except BaseException:
            future.cancel()
            raise
    filling.report(report, len(filling.done), filling.rows, filling.weight)


class Filling:
    """Jobs to do; spans, outcomes and what was received so far. Its job workers are numbered from `first_worker`."""

    def __init__(
        self, plan: BackfillPlan, endpoints: Endpoints, groups: Sequence[Group], *, bucket: Bucket | None = None, first_worker: int = 0
    ) -> None:
        self.plan, self.endpoints, self.bucket = plan, endpoints, bucket
        self._first_worker = first_worker
        self.queue = deque(groups)
        self.spans: list[Span] = []
        self.received: Received = {}
        self._begun_s = time.monotonic()
        self.done: dict[Key, Refreshed | str] = {}
        self._weights = {key: periods_per_year(*key) for group in groups for key in group.keys}

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
        )
        async with client, anyio.create_task_group() as group:
            for number in range(min(self.plan.concurrency.jobs, len(self.queue))):
                group.start_soon(_Worker(self, client, self._first_worker + number).run)

    @property
    def rows(self) -> int:
        """Return how many bars were written so far."""
        return sum(span.rows for span in tuple(self.spans) if span.stage == "insert")

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
        self._sink: Sink | None = None

    async def run(self) -> None:
        """Work until no group is left."""
        try:
            while self._filling.queue:
                group = self._filling.queue.popleft()
                self._filling.done |= await self._done(group)
        finally:
            self._close()

    async def _done(self, group: Group) -> dict[Key, Refreshed | str]:
        """Do a group's jobs, from their checkpoints again when the database was lost; return each one's outcome or error.

        A loss may last as long as a job may retry its requests; the next one counts anew if rows were stored in between.
        What the database refuses it would refuse again, so that is not tried again.
        """
        until_s: float | None = None
        while True:
            try:
                if self._sink is None:
                    strategy = STRATEGIES[self._plan.insert]
                    self._sink = await run_sync(strategy, self._filling.endpoints.database_url, self._plan.database_schema)
                return await self._refreshed(self._sink, group)
            except SinkError as error:
                if until_s is None or (self._sink and self._sink.inserted):
                    until_s = time.monotonic() + self._plan.source.retry.budget_s
                self._close()
                if not database.is_lost(error):
                    return dict.fromkeys(group.keys, f"the database refuses: {first_line(error)}")
                if time.monotonic() > until_s:
                    return dict.fromkeys(group.keys, f"the database was lost: {first_line(error)}")
                await anyio.sleep(DATABASE_PAUSE_S)

    async def _refreshed(self, sink: Sink, group: Group) -> dict[Key, Refreshed | str]:
        start, end = self._plan.history.range(group.symbol)
        trace = Trace(group.symbol, group.timeframes[0], self._number, self._filling.spans, self._filling.received)
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

    def _close(self) -> None:
        if self._sink is not None:
            self._sink.close()
        self._sink = None
