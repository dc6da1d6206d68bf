"""Runs every job of a plan against a source and a database, a bounded number at once, and returns the spans."""

import datetime as dt
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import anyio
import httpx
from anyio.from_thread import start_blocking_portal
from anyio.to_thread import run_sync
from psycopg.conninfo import conninfo_to_dict

from tapecheck import progress, runs
from tapecheck.backfill import checkpoints, features
from tapecheck.backfill.bars import periods_per_year
from tapecheck.backfill.checkpoints import Checkpoint
from tapecheck.backfill.pipeline import Outcome, refresh, refresh_derived
from tapecheck.backfill.plan import BackfillPlan, History
from tapecheck.backfill.recording import COMPLETED, FAILED, SKIPPED, Context, Job, Recording
from tapecheck.backfill.sink import Sink, SinkError
from tapecheck.backfill.source import Source
from tapecheck.backfill.spans import Span, Trace
from tapecheck.backfill.strategies import STRATEGIES
from tapecheck.backfill.wire import SourceError
from tapecheck.errors import ConfigError, Problem, TargetDown
from tapecheck.progress import Report
from tapecheck.runs import TargetInfo

Key = tuple[str, str]
LOOPBACK = ("127.0.0.1", "localhost", "::1")
REPORT_EVERY_S = 0.5
DATABASE_PAUSE_S = 0.3  # between two attempts to reach a lost database
COMPUTE = {"vectorized": features.compute, "per_row": features.compute_per_row, "off": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Where bars come from and go to; key and database URL are in no representation of it."""

    source_url: str
    key: str = field(repr=False)
    database_url: str = field(repr=False)
    target: TargetInfo


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


def run(plan: BackfillPlan, endpoints: Endpoints) -> Recording:
    """Run the jobs that are to be done and return the recording; a job that fails is named there, and the others go on.

    Raises:
        ConfigError: the run that is to be resumed began on another day, or had no features where this one has.
        TargetDown: source or database do not answer; nothing was fetched.
        WrongTables: the schema holds tables of another shape; nothing was written.
        KeyboardInterrupt: it was asked for; what is stored is whole, and `begin: resume` goes on from there.
    """
    first, end = plan.history.bounds()
    plan = plan.model_copy(update={"history": History(start=first, end=end)})
    _check_source(endpoints.source_url, plan.source.timeout_s)
    try:
        before = _prepared(plan, endpoints.database_url)
        STRATEGIES[plan.insert](endpoints.database_url, plan.database_schema).close()  # loads the driver: not what is measured
        started_at = dt.datetime.now(dt.UTC)
        filling = _Filling(plan, endpoints, _groups(plan, before))
        began_ns = time.monotonic_ns()
        with progress.show("backfill", "jobs") as report:
            _in_background(filling, report)
        ended_ns = time.monotonic_ns()
        after = checkpoints.read(endpoints.database_url, plan.database_schema)
    except SinkError as error:
        raise TargetDown(f"the database does not answer: {_line(error)}") from None
    return Recording(
        spans=sorted(filling.spans, key=lambda span: span.began_ns),
        jobs=[_job(key, filling.done.get(key), before.get(key), after.get(key)) for key in plan.jobs],
        context=Context(
            run_id=runs.new_id(started_at),
            started_at=started_at,
            began_ns=began_ns,
            ended_ns=ended_ns,
            target=endpoints.target,
            environment=runs.environment(),
            plan=plan,
            remote=_remote(endpoints),
        ),
    )


def _remote(endpoints: Endpoints) -> tuple[str, ...]:
    """Return the stages that do not use this machine's cores."""
    database = str(conninfo_to_dict(endpoints.database_url).get("host") or "")
    far = {
        "fetch": httpx.URL(endpoints.source_url).host not in LOOPBACK,
        "insert": database not in LOOPBACK and database[:1] not in ("", "/"),
    }
    return tuple(stage for stage, is_far in far.items() if is_far)


def _check_source(url: str, timeout_s: float) -> None:
    """Ask for the root, without a key and so at no cost, to tell a source that is not there at once."""
    host = httpx.URL(url).host
    try:
        httpx.get(url, timeout=min(timeout_s, 10), trust_env=host not in LOOPBACK)
    except httpx.RequestError as error:
        raise TargetDown(f"the source {host} does not answer ({type(error).__name__}); nothing was fetched") from None


def _prepared(plan: BackfillPlan, database_url: str) -> dict[Key, Checkpoint]:
    """Make the tables ready and return where each job stands."""
    schema, note = plan.database_schema, f"history from {plan.history.bounds()[0]}, features: {plan.features != 'off'}"
    checkpoints.prepare(database_url, schema, empty=plan.begin == "fresh")
    before = checkpoints.read(database_url, schema)
    if plan.begin == "fresh":
        checkpoints.write_note(database_url, schema, note)
    elif (noted := checkpoints.read_note(database_url, schema)) != note:
        got = f"a run with {note}, to resume {f'one with {noted}' if noted else 'one that never began'}"
        raise ConfigError([Problem(file="plan", key="begin", got=got, allowed="the same first day and features, or begin: fresh")])
    return before


def _groups(plan: BackfillPlan, before: dict[Key, Checkpoint]) -> list[Group]:
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
    _, end = plan.history.range(key[0])
    return before is None or before.state != "done" or before.refreshed_at is None or before.refreshed_at < end


def _in_background(filling: "_Filling", report: Report) -> None:
    """Run in a loop of its own thread, because a kernel's thread has one already; an interrupt waits for what is being written."""
    with start_blocking_portal() as portal:
        future = portal.start_task_soon(filling.run, report)
        try:
            future.result()
        except BaseException:
            future.cancel()
            raise


class _Filling:
    """Jobs to do, spans and outcomes so far."""

    def __init__(self, plan: BackfillPlan, endpoints: Endpoints, groups: Sequence[Group]) -> None:
        self.plan, self.endpoints = plan, endpoints
        self.queue = deque(groups)
        self.spans: list[Span] = []
        self.done: dict[Key, Outcome | str] = {}
        self._total_weight = sum(group.weight for group in groups)
        self._done_weight, self._total = 0.0, sum(len(group.keys) for group in groups)

    async def run(self, report: Report) -> None:
        """Work until the queue is empty."""
        source = self.plan.source
        client = Source(
            self.endpoints.source_url,
            self.endpoints.key,
            retry=source.retry.policy(),
            timeout_s=source.timeout_s,
            connections=self.plan.concurrency.requests,
            bucket=source.bucket(),
        )
        async with client, anyio.create_task_group() as reporting:
            reporting.start_soon(self._report, report)
            async with anyio.create_task_group() as group:
                for number in range(min(self.plan.concurrency.jobs, len(self.queue))):
                    group.start_soon(_Worker(self, client, number).run)
            reporting.cancel_scope.cancel()
        self._tell(report, time.monotonic())

    def finished(self, group: Group, outcomes: dict[Key, Outcome | str]) -> None:
        """Take what became of a group's jobs."""
        self.done |= outcomes
        self._done_weight += group.weight

    async def _report(self, report: Report) -> None:
        begun_s = time.monotonic()
        while True:
            self._tell(report, begun_s)
            await anyio.sleep(REPORT_EVERY_S)

    def _tell(self, report: Report, begun_s: float) -> None:
        elapsed_s, rows = time.monotonic() - begun_s, sum(span.rows for span in tuple(self.spans) if span.stage == "insert")
        note = f"{rows / elapsed_s:,.0f} rows/s" if elapsed_s > 1 else ""
        if 0 < self._done_weight < self._total_weight:
            note += f", {elapsed_s * (self._total_weight / self._done_weight - 1):.0f} s left"
        report(len(self.done), self._total, note)


class _Worker:
    """Does one group after another over a database connection of its own, which it opens anew when it is lost."""

    def __init__(self, filling: _Filling, source: Source, number: int) -> None:
        self._filling, self._plan, self._source, self._number = filling, filling.plan, source, number
        self._sink: Sink | None = None

    async def run(self) -> None:
        """Work until no group is left."""
        try:
            while self._filling.queue:
                group = self._filling.queue.popleft()
                self._filling.finished(group, await self._done(group))
        finally:
            self._close()

    async def _done(self, group: Group) -> dict[Key, Outcome | str]:
        """Do a group's jobs, from their checkpoints again when the database was lost; return each one's outcome or error."""
        said = ""
        for pause_s in self._pauses():
            try:
                if self._sink is None:
                    strategy = STRATEGIES[self._plan.insert]
                    self._sink = await run_sync(strategy, self._filling.endpoints.database_url, self._plan.database_schema)
                return await self._refreshed(self._sink, group)
            except SinkError as error:
                said = f"the database was lost: {_line(error)}"
                self._close()
                await anyio.sleep(pause_s)
        return dict.fromkeys(group.keys, said)

    async def _refreshed(self, sink: Sink, group: Group) -> dict[Key, Outcome | str]:
        start, end = self._plan.history.range(group.symbol)
        compute = COMPUTE[self._plan.features]
        trace = Trace(group.symbol, group.timeframes[0], self._number, self._filling.spans)
        try:
            if self._plan.derive:
                found = await refresh_derived(
                    self._source, sink, group.symbol, group.timeframes, start=start, end=end, compute=compute, trace=trace
                )
                return {(group.symbol, timeframe): outcome for timeframe, outcome in found.items()}
            outcome = await refresh(self._source, sink, *group.keys[0], start=start, end=end, compute=compute, trace=trace)
            return {group.keys[0]: outcome}
        except (SourceError, ValueError) as error:
            for key in group.keys:
                await run_sync(sink.fail, *key, str(error))
            return dict.fromkeys(group.keys, str(error))

    def _pauses(self) -> Iterator[float]:
        """Yield pauses until the time that a page may be tried is over."""
        until_s = time.monotonic() + self._plan.source.retry.budget_s
        yield DATABASE_PAUSE_S
        while time.monotonic() < until_s:
            yield DATABASE_PAUSE_S

    def _close(self) -> None:
        if self._sink is not None:
            self._sink.close()
        self._sink = None


def _job(key: Key, found: Outcome | str | None, before: Checkpoint | None, after: Checkpoint | None) -> Job:
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


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
