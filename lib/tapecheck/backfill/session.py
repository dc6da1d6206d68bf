"""Fills the history that a plan asks for: readies tables, has the jobs done and audited, and returns the recording."""

import datetime as dt
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import httpx
import pyarrow as pa

from tapecheck import database, progress
from tapecheck.backfill import checkpoints, schema
from tapecheck.backfill.audit import audit
from tapecheck.backfill.checkpoints import Checkpoint
from tapecheck.backfill.integrity import Integrity
from tapecheck.backfill.jobs import DATABASE_PAUSE_S, Filling, Key, due, outcome_of, work
from tapecheck.backfill.pipeline import Refreshed
from tapecheck.backfill.plan import BackfillPlan, Endpoints, HistoryRange
from tapecheck.backfill.recording import SKIPPED, Context, Job, Recording
from tapecheck.backfill.sink import STRATEGIES, SinkError
from tapecheck.errors import ConfigError, Problem, TargetDown, TargetError, first_line
from tapecheck.progress import Report
from tapecheck.runs import folders, results
from tapecheck.target import opening
from tapecheck.target.transport import FAILURES, client_options, exchange
from tapecheck.vendor.trace import Received

log = logging.getLogger(__name__)


def run(plan: BackfillPlan, endpoints: Endpoints) -> Recording:
    """Run the jobs that are to be done and return the recording; a job that fails is named there, and the others go on.

    Raises:
        ConfigError: there is no run whose failed jobs could be redone; or workers are on another machine, from which an endpoint on
            this one cannot be reached.
        MeasurementError: the workers do not start, or there are none.
        TargetDown: source or database do not answer, and nothing was fetched; or the database is still lost at the end.
        TargetError: the database refuses, for want of a permission or because another session holds a lock on the tables.
        Busy: another backfill writes to the same schema; nothing was written.
        WrongTables: the schema holds tables of another shape; nothing was written.
        KeyboardInterrupt: it was asked for; what is stored is whole, and `begin: resume` goes on from there.
    """
    try:
        if plan.begin == "audit":
            return _audit_alone(plan, endpoints)
        ask_source(endpoints.source_url, plan.source.timeout_s)
        with schema.exclusive(endpoints.database_url, plan.database_schema):
            return _filled(*_prepared(plan, endpoints.database_url), endpoints)
    except SinkError as error:
        raise _named(error) from None


def _audit_alone(plan: BackfillPlan, endpoints: Endpoints) -> Recording:
    """Fetch nothing, and audit what is stored; each series of the plan is a job that was skipped."""
    started_at, began_ns = dt.datetime.now(dt.UTC), time.monotonic_ns()
    jobs = [Job(symbol=symbol, timeframe=timeframe, state=SKIPPED) for symbol, timeframe in plan.jobs]
    integrity, days = audit(plan, endpoints.database_url, jobs, {}, endpoints.bars)
    ended_ns = time.monotonic_ns()
    context = _context(plan, endpoints, started_at, (began_ns, began_ns))
    return Recording.of(spans=[], jobs=jobs, days=days, context=replace(context, integrity=integrity, audited_ns=(began_ns, ended_ns)))


def _context(plan: BackfillPlan, endpoints: Endpoints, started_at: dt.datetime, ran_ns: tuple[int, int]) -> Context:
    return Context(
        run_id=folders.new_id(started_at),
        started_at=started_at,
        began_ns=ran_ns[0],
        ended_ns=ran_ns[1],
        target=endpoints.target,
        environment=results.environment(),
        plan=plan,
        remote=endpoints.remote,
        target_stopped=endpoints.target.kind == "sandbox" and opening.sandbox_stopped(),
    )


def _filled(plan: BackfillPlan, before: Mapping[Key, Checkpoint], endpoints: Endpoints) -> Recording:
    """Have done what the checkpoints leave to do; a fresh run's tables are emptied last, when all that does the jobs is there."""
    database.connect_adbc(endpoints.database_url).close()  # loads the driver: that is not measured
    started_at = dt.datetime.now(dt.UTC)
    filling = Filling(plan, endpoints, due(plan, before), bucket=plan.source.bucket())
    with _ready(filling) as (processes, do), progress.show("backfill", "jobs") as report:
        if plan.begin == "fresh" and endpoints.key:  # without a key nothing will come to fill them
            schema.prepare(endpoints.database_url, plan.database_schema, empty=True)
        began_ns = time.monotonic_ns()
        do(report)
        ended_ns = time.monotonic_ns()
    after = _settled(plan, endpoints.database_url, filling.done)
    jobs = [outcome_of(key, filling.done.get(key), before.get(key), after.get(key)) for key in plan.jobs]
    audited_ns, (integrity, days) = time.monotonic_ns(), _audited(plan, endpoints.database_url, jobs, filling.log.received)
    context = replace(
        _context(plan, endpoints, started_at, (began_ns, ended_ns)),
        processes=processes,
        integrity=integrity,
        oddities=filling.log.summed(),
        audited_ns=(audited_ns, time.monotonic_ns()),
    )
    return Recording.of(spans=sorted(filling.log.spans, key=lambda span: span.began_ns), jobs=jobs, days=days, context=context)


@contextmanager
def _ready(filling: Filling) -> Iterator[tuple[int, Callable[[Report], None]]]:
    """Yield how many processes there are, ready to work, and what has them do the jobs."""
    if filling.plan.workers == 1:
        yield 1, partial(work, filling)
        return
    from tapecheck.backfill import sharding  # processes and Dask: paid by who asks for them
    from tapecheck.workers.pool import WorkerPool

    with WorkerPool(filling.plan.workers, sharding.prepare, allow_remote=filling.endpoints.allow_remote) as pool:
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


def ask_source(url: str, timeout_s: float) -> int:
    """Ask for the root, without a key and so at no cost, to tell a source that is not there at once; return the status."""
    host = httpx.URL(url).host

    async def ask() -> int:
        async with httpx.AsyncClient(timeout=None, **client_options(url)) as client:  # noqa: S113 - see exchange
            answer, _ = await exchange(client, client.build_request("GET", url), min(timeout_s, 10))
        return answer.status_code

    try:
        return database.wait_for(ask)
    except FAILURES as error:
        why = first_line(error)
        raise TargetDown(f"the source {host} does not answer ({why}); nothing was fetched: is it running, and the network there?") from None


def _named(error: BaseException) -> TargetError:
    """Say what an error of the database means for a run."""
    is_locked = getattr(error, "sqlstate", None) == "55P03"
    return (TargetDown if database.is_lost(error) and not is_locked else TargetError)(database.said(error))


def _prepared(plan: BackfillPlan, database_url: str) -> tuple[BackfillPlan, dict[Key, Checkpoint]]:
    """Make the tables ready without emptying them; return the plan by its dates, and where each job stands for it."""
    schema.prepare(database_url, plan.database_schema)
    before = {} if plan.begin == "fresh" else checkpoints.read(database_url, plan.database_schema)
    if plan.begin == "only_failed" and not before:
        got = f"only_failed, and {plan.database_schema} holds no job of an earlier run"
        raise ConfigError([Problem(file="plan", key="begin", got=got, allowed="fresh or resume")])
    first, end = plan.history.bounds()
    return plan.model_copy(update={"history": HistoryRange(start=first, end=end)}), before


def _settled(plan: BackfillPlan, database_url: str, done: Mapping[Key, Refreshed | str]) -> dict[Key, Checkpoint]:
    """Return where each job stands, once the database is there to note the failures that it was not there to note."""
    until_s = time.monotonic() + plan.source.retry.budget_s
    while True:
        after: dict[Key, Checkpoint] | None = None
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
                if after is None:
                    raise
                log.warning("failed jobs are not noted in the checkpoints: %s", database.said(error))
                return after
            time.sleep(DATABASE_PAUSE_S)
