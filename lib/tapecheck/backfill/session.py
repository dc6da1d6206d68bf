"""Fills the history that a plan asks for: readies tables, has the jobs done and audited, and returns the recording."""

import datetime as dt
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import httpx
import psycopg
import pyarrow as pa

from tapecheck import database, progress
from tapecheck.backfill import checkpoints, schema
from tapecheck.backfill.audit import audit
from tapecheck.backfill.checkpoints import Checkpoint, Note
from tapecheck.backfill.integrity import Integrity
from tapecheck.backfill.jobs import DATABASE_PAUSE_S, Filling, Key, due, outcome_of, work
from tapecheck.backfill.pipeline import Refreshed
from tapecheck.backfill.plan import MAX_DAYS, BackfillPlan, Endpoints, HistoryRange
from tapecheck.backfill.recording import Context, Job, Recording
from tapecheck.backfill.sink import STRATEGIES, SinkError
from tapecheck.errors import ConfigError, Problem, TargetDown, TargetError, first_line
from tapecheck.progress import Report
from tapecheck.runs import folders, results
from tapecheck.target import opening
from tapecheck.target.loopback import client_options, is_local_database, is_loopback
from tapecheck.vendor.trace import Received

log = logging.getLogger(__name__)


def run(plan: BackfillPlan, endpoints: Endpoints) -> Recording:
    """Run the jobs that are to be done and return the recording; a job that fails is named there, and the others go on.

    Raises:
        ConfigError: the run that is to be resumed began on another day, or had no features where this one has; or workers are on
            another machine, from which an endpoint on this one cannot be reached.
        MeasurementError: the workers do not start, or there are none.
        TargetDown: source or database do not answer, and nothing was fetched; or the database is still lost at the end.
        TargetError: the database refuses, for want of a permission or because another session holds a lock on the tables.
        Busy: another backfill writes to the same schema; nothing was written.
        WrongTables: the schema holds tables of another shape; nothing was written.
        KeyboardInterrupt: it was asked for; what is stored is whole, and `begin: resume` goes on from there.
    """
    _check_source(endpoints.source_url, plan.source.timeout_s)
    try:
        with schema.exclusive(endpoints.database_url, plan.database_schema):
            return _filled(*_prepared(plan, endpoints.database_url), endpoints)
    except SinkError as error:
        raise _named(error, plan.database_schema) from None


def _filled(plan: BackfillPlan, before: Mapping[Key, Checkpoint], note: Note | None, endpoints: Endpoints) -> Recording:
    """Have done what the checkpoints leave to do; a fresh run's tables are emptied last, when all that does the jobs is there."""
    STRATEGIES[plan.insert](endpoints.database_url, plan.database_schema).close()  # loads the driver: not what is measured
    started_at = dt.datetime.now(dt.UTC)
    filling = Filling(plan, endpoints, due(plan, before), bucket=plan.source.bucket())
    with _ready(filling) as (processes, do), progress.show("backfill", "jobs") as report:
        _begin(plan, endpoints, note)
        began_ns = time.monotonic_ns()
        do(report)
        ended_ns = time.monotonic_ns()
    after = _settled(plan, endpoints.database_url, filling.done)
    jobs = [outcome_of(key, filling.done.get(key), before.get(key), after.get(key)) for key in plan.jobs]
    audited_ns, (integrity, days) = time.monotonic_ns(), _audited(plan, endpoints.database_url, jobs, filling.received)
    return Recording.of(
        spans=sorted(filling.spans, key=lambda span: span.began_ns),
        jobs=jobs,
        days=days,
        context=Context(
            run_id=folders.new_id(started_at),
            started_at=started_at,
            began_ns=began_ns,
            ended_ns=ended_ns,
            target=endpoints.target,
            environment=results.environment(),
            plan=plan,
            processes=processes,
            remote=_remote(endpoints),
            integrity=integrity,
            audited_ns=(audited_ns, time.monotonic_ns()),
            target_stopped=endpoints.target.kind == "sandbox" and opening.sandbox_stopped(),
        ),
    )


@contextmanager
def _ready(filling: Filling) -> Iterator[tuple[int, Callable[[Report], None]]]:
    """Yield how many processes there are, ready to work, and what has them do the jobs."""
    if filling.plan.workers == 1:
        yield 1, partial(work, filling)
        return
    from tapecheck.backfill import sharding  # processes and Dask: paid by who asks for them
    from tapecheck.workers.pool import WorkerPool

    with WorkerPool(filling.plan.workers, sharding.prepare) as pool:
        workers = pool.ready()
        sharding.check_reach(workers, filling.endpoints)
        yield len(workers), partial(sharding.work_together, pool, filling)


def _audited(plan: BackfillPlan, database_url: str, jobs: list[Job], received: Received) -> tuple[Integrity | None, pa.Table | None]:
    """Audit what was stored; a database that is lost now costs the audit, not what was measured."""
    try:
        return audit(plan, database_url, jobs, received)
    except SinkError as error:
        log.warning("what was stored was not audited: %s", first_line(error))
        return None, None


def _remote(endpoints: Endpoints) -> tuple[str, ...]:
    """Return the stages that do not use this machine's cores."""
    far = {
        "fetch": not is_loopback(httpx.URL(endpoints.source_url).host),
        "insert": not is_local_database(endpoints.database_url),
    }
    return tuple(stage for stage, is_far in far.items() if is_far)


def _check_source(url: str, timeout_s: float) -> None:
    """Ask for the root, without a key and so at no cost, to tell a source that is not there at once."""
    host = httpx.URL(url).host

    async def ask() -> None:
        async with httpx.AsyncClient(timeout=min(timeout_s, 10), **client_options(url)) as client:
            await client.get(url)

    try:
        database.wait_for(ask)
    except httpx.RequestError as error:
        why = first_line(error)
        raise TargetDown(f"the source {host} does not answer ({why}); nothing was fetched: is it running, and the network there?") from None


def _named(error: BaseException, name: str) -> TargetError:
    """Say what an error of the database means for a run."""
    if isinstance(error, psycopg.errors.LockNotAvailable):
        what_to_do = "end its transaction (see pg_stat_activity), and begin again"
        return TargetError(f"another session holds a lock on the tables of {name}: {what_to_do}")
    if database.is_lost(error):
        return TargetDown(f"the database does not answer: {first_line(error)}")
    return TargetError(f"the database refuses: {first_line(error)}")


def _prepared(plan: BackfillPlan, database_url: str) -> tuple[BackfillPlan, dict[Key, Checkpoint], Note | None]:
    """Make the tables ready without emptying them; return the plan by its dates, where each job stands for it, and a note of its own."""
    name = plan.database_schema
    checkpoints.prepare(database_url, name)
    if plan.workers != 1:
        from tapecheck.backfill.sharding import SharedBucket  # paid by who asks for several

        if bucket := SharedBucket.of(plan, database_url):
            bucket.check()
    before = {} if plan.begin == "fresh" else checkpoints.read(database_url, name)
    noted = checkpoints.read_note(database_url, name)
    dated = plan.model_copy(update={"history": _dated(plan.history, noted if before else None)})
    days = plan.history.days if plan.history.end is None else None
    note = Note(first=dated.history.bounds()[0], features=plan.features != "off", days=days)
    if not before and plan.begin != "only_failed":  # nothing that could differ from this run
        return dated, before, note
    if not note.is_like(noted):
        got = f"a run with {note}, to resume {f'one with {noted}' if noted else 'one that never began'}"
        raise ConfigError([Problem(file="plan", key="begin", got=got, allowed="the same first day and features, or begin: fresh")])
    return dated, before, None


def _begin(plan: BackfillPlan, endpoints: Endpoints, note: Note | None) -> None:
    """Empty the tables where nothing is to be resumed, and note on them how the run that begins fills them.

    Without a key nothing will come to fill them, so they are left as they are.
    """
    if not endpoints.key:
        return
    if plan.begin == "fresh":
        checkpoints.prepare(endpoints.database_url, plan.database_schema, empty=True)
    if note:
        checkpoints.write_note(endpoints.database_url, plan.database_schema, note)


def _dated(history: HistoryRange, noted: Note | None) -> HistoryRange:
    """Return a history by its dates; one of the last days keeps the first day of the run that it resumes, and ends today."""
    first, end = history.bounds()
    if noted and history.end is None and history.days is not None and noted.days == history.days and (end - noted.first).days <= MAX_DAYS:
        first = noted.first
    return HistoryRange(start=first, end=end)


def _settled(plan: BackfillPlan, database_url: str, done: Mapping[Key, Refreshed | str]) -> dict[Key, Checkpoint]:
    """Return where each job stands, once the database is there to note the failures that it was not there to note."""
    until_s = time.monotonic() + plan.source.retry.budget_s
    while True:
        try:
            after = checkpoints.read(database_url, plan.database_schema)
            unnoted = [key for key, found in done.items() if isinstance(found, str) and (key not in after or after[key].state != "failed")]
            if unnoted:
                with STRATEGIES[plan.insert](database_url, plan.database_schema) as sink:
                    for key in unnoted:
                        sink.fail(*key, str(done[key]))
            return after
        except SinkError as error:
            if not database.is_lost(error) or time.monotonic() > until_s:
                raise
            time.sleep(DATABASE_PAUSE_S)
