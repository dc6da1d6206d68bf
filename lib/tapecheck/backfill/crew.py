"""Deals the jobs of a backfill out to processes of this machine, or to workers of a Dask cluster, and collects what they did.

Each has its share from the beginning, asks one bucket in the database for tokens, and is followed by its checkpoints there.
"""
# ruff: noqa: S608 - what is put into statements is a schema's checked name

import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from threading import Thread

import httpx
import psycopg
from anyio.to_thread import run_sync

from tapecheck import database
from tapecheck.backfill import checkpoints, schema
from tapecheck.backfill import schema as shape
from tapecheck.backfill import workers as groups
from tapecheck.backfill.checkpoints import Checkpoint
from tapecheck.backfill.pipeline import Outcome
from tapecheck.backfill.plan import SLACK_S, BackfillPlan, Endpoints
from tapecheck.backfill.rate_limit import most_tokens
from tapecheck.backfill.recording import Received, Span
from tapecheck.backfill.workers import REPORT_EVERY_S, Filling, Group, Key, work
from tapecheck.errors import ConfigError, MeasurementError, Problem
from tapecheck.progress import Report
from tapecheck.target.opening import is_local_database, is_loopback
from tapecheck.workers import processes
from tapecheck.workers.dask import READY_S, Scheduler
from tapecheck.workers.processes import Child, Identity, close_all

STOP_S = 5.0  # for a member to hear that it is to stop


class Stopped(Exception):
    """Whoever dealt the jobs out asked to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The jobs of one member, whose job workers are numbered from `first_worker`; `name` is what it is stopped by."""

    name: str
    plan: BackfillPlan
    endpoints: Endpoints
    groups: list[Group]
    first_worker: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What a member did of its share; times are of its own clock."""

    spans: list[Span]
    outcomes: dict[Key, Outcome | str]
    received: Received


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """Someone who can do a share, behind an executor; `offset_ns` is its clock minus this process's."""

    name: str
    executor: Executor
    is_here: bool = True
    offset_ns: int = 0
    lost: tuple[type[BaseException], ...] = (BrokenProcessPool,)  # what its future raises when it has died
    is_gone: Callable[[], bool] = lambda: False  # its future will never end
    stop: Callable[[str], object] = lambda name: None


@contextmanager
def gathered(workers: int | str) -> Iterator[list[Member]]:
    """Yield members that are ready: as many processes, or all workers of the scheduler.

    Whatever they still do afterwards is ended: a page that is being written is whole or not there.

    Raises:
        ConfigError: Dask is asked for and not installed.
        MeasurementError: they do not start, there is no scheduler, or it has no workers.
    """
    if isinstance(workers, int):
        children: list[Child] = []
        try:
            children += [Child(identify) for _ in range(workers)]
            yield [Member(name=one.wait_ready().name, executor=one.executor) for one in children]
        finally:
            close_all(children)
    else:
        scheduler = Scheduler(workers)
        try:
            yield _of_cluster(scheduler)
        finally:
            scheduler.close()


def _of_cluster(scheduler: Scheduler) -> list[Member]:
    executors = {address: scheduler.executor(address) for address in scheduler.known()}
    asked = {address: executor.submit(identify) for address, executor in executors.items()}
    return [_met(scheduler, address, executor, asked[address]) for address, executor in executors.items()]


def _met(scheduler: Scheduler, address: str, executor: Executor, asked: "Future[Identity]") -> Member:
    """Return a worker of the cluster, with its clock compared if it is on another machine."""
    try:
        is_here = asked.result(READY_S).clock == processes.whoami().clock
    except Exception as error:
        raise MeasurementError(f"worker {address} cannot work ({type(error).__name__}: {error}): is tapecheck installed there?") from None
    return Member(
        name=f"worker {address}",
        executor=executor,
        is_here=is_here,
        offset_ns=0 if is_here else processes.exchange(executor)[0],
        lost=scheduler.lost,
        is_gone=lambda: address not in scheduler.addresses(),
        stop=lambda name: scheduler.client.run(stop, name, workers=[address]),
    )


def dealt(groups: Sequence[Group], count: int) -> list[list[Group]]:
    """Return a share of groups for each member, each group, from the longest on, to who has least to do."""
    shares: list[list[Group]] = [[] for _ in range(count)]
    weights = [0.0] * count
    for group in groups:
        k = weights.index(min(weights))
        shares[k].append(group)
        weights[k] += group.weight
    return shares


def work_together(members: Sequence[Member], filling: Filling, before: Mapping[Key, Checkpoint], report: Report) -> None:
    """Have the jobs of a filling done by members, and collect in it what they did.

    The jobs of one that dies are failed ones, whose checkpoints hold what it had stored.

    Raises:
        psycopg.Error: the bucket cannot be put into the database.
    """
    plan, endpoints = filling.plan, filling.endpoints
    bucket = SharedBucket.of(plan, endpoints.database_url)
    if bucket:
        bucket.fill()
    name = uuid.uuid4().hex
    running: dict[Future[Done], tuple[Member, Share]] = {}
    stops = [partial(member.stop, name) for member in members]
    try:
        for k, (member, part) in enumerate(zip(members, dealt(list(filling.queue), len(members)), strict=True)):
            share = Share(name=name, plan=plan, endpoints=endpoints, groups=part, first_worker=k * plan.concurrency.jobs)
            running[member.executor.submit(fill, share)] = (member, share)
        filling.queue.clear()
        _collect(running, filling, _Stand(plan, endpoints.database_url, before), report)
    finally:
        if running:
            _all_at_once(stops)
        if bucket:
            with suppress(psycopg.Error):  # a lost database keeps it until the next run fills another one
                bucket.drop()


def _all_at_once(stops: Sequence[Callable[[], object]]) -> None:
    """Tell every member to stop; one that cannot hear it must neither keep the others from it, nor hide why."""
    threads = [Thread(target=_quietly, args=(stop,), daemon=True) for stop in stops]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(STOP_S)


def _quietly(stop: Callable[[], object]) -> None:
    with suppress(Exception):
        stop()


def _collect(running: "dict[Future[Done], tuple[Member, Share]]", filling: Filling, stand: "_Stand", report: Report) -> None:
    """Wait for all, and take from each what it did when it has ended."""
    while running:
        ended = wait(running, timeout=REPORT_EVERY_S).done
        for future, (member, share) in list(running.items()):
            if future in ended:
                _take(future, member, share, filling)
            elif member.is_gone():
                future.cancel()
                _lose(member, share, filling)
            else:
                continue
            del running[future]
        filling.tell(report, *stand.read())


def _take(future: "Future[Done]", member: Member, share: Share, filling: Filling) -> None:
    try:
        done = future.result()
    except member.lost as error:
        if isinstance(error, OSError) and not member.is_gone():
            raise MeasurementError(f"{member.name} failed: {type(error).__name__}: {error}") from None
        _lose(member, share, filling)
        return
    filling.spans += [
        replace(span, began_ns=span.began_ns - member.offset_ns, ended_ns=span.ended_ns - member.offset_ns) for span in done.spans
    ]
    filling.received |= done.received
    filling.done |= done.outcomes


def _lose(member: Member, share: Share, filling: Filling) -> None:
    why = f"{member.name}, which did it, died; what it stored is kept, what it measured is lost: begin: resume does the rest"
    filling.done |= {key: why for group in share.groups for key in group.keys}


def check_reach(members: Sequence[Member], endpoints: Endpoints) -> None:
    """Refuse members on other machines where an endpoint is a loopback address, which is another one there.

    Raises:
        ConfigError: which member cannot reach what.
    """
    host = httpx.URL(endpoints.source_url).host
    near = [f"the source {host}"] if is_loopback(host) else []
    near += ["the database"] if is_local_database(endpoints.database_url) else []
    far = [member.name for member in members if not member.is_here]
    if near and far:
        got = f"{far[0]} is on another machine, from which {' and '.join(near)} cannot be reached"
        raise ConfigError(
            [Problem(file="plan", key="workers", got=got, allowed="addresses that all can reach, or workers of this machine")]
        )


class _Stand:
    """How far the members are, as their checkpoints tell."""

    def __init__(self, plan: BackfillPlan, database_url: str, before: Mapping[Key, Checkpoint]) -> None:
        self._plan, self._url, self._before = plan, database_url, before
        self._last: tuple[set[Key], int] = (set(), 0)

    def read(self) -> tuple[set[Key], int]:
        """Return the jobs that this run has finished and how many bars it has stored; while the database is away, what was known last."""
        try:
            now = checkpoints.read(self._url, self._plan.database_schema)
        except psycopg.Error:
            return self._last
        new = {key for key in self._plan.jobs if self._has_ended(key, now) and not self._is_done(key, self._before)}
        self._last = new, sum(one.rows for one in now.values()) - sum(one.rows for one in self._before.values())
        return self._last

    def _has_ended(self, key: Key, now: Mapping[Key, Checkpoint]) -> bool:
        failures = [stand[key].failures if key in stand else 0 for stand in (self._before, now)]
        return self._is_done(key, now) or failures[0] < failures[1]

    def _is_done(self, key: Key, stand: Mapping[Key, Checkpoint]) -> bool:
        return groups.is_done(self._plan, key, stand.get(key))


# ---- in a member ----

_stopped: set[str] = set()


def identify() -> Identity:
    """Import what a share needs, so that none of it is measured, and say who this is."""
    from adbc_driver_postgresql import dbapi  # type: ignore[import-untyped]  # noqa: F401

    return processes.whoami()


def fill(share: Share) -> Done:
    """Do a share."""

    def obey(done: int, total: int, note: str = "") -> None:
        if share.name in _stopped:
            raise Stopped

    bucket = SharedBucket.of(share.plan, share.endpoints.database_url)
    filling = Filling(share.plan, share.endpoints, share.groups, bucket=bucket, first_worker=share.first_worker)
    try:
        with schema.share(share.endpoints.database_url, share.plan.database_schema):
            work(filling, obey)
    finally:
        _stopped.discard(share.name)
        if bucket:
            bucket.close()
    return Done(spans=filling.spans, outcomes=filling.done, received=filling.received)


def stop(name: str) -> None:
    """End what is done under a name."""
    _stopped.add(name)


# ---- shared_bucket ----

_TOKENS = "CREATE TABLE {schema}.tokens (tokens float8 NOT NULL, at timestamptz NOT NULL)"
LEAST_WAIT_S = 0.001  # between two questions


class SharedBucket:
    """What `bucket.TokenBucket` is in one process, for several; whoever starts the backfill fills it.

    Asking again and again what is in it would cost the database more than waiting for what will be in it.
    """

    def __init__(self, database_url: str, schema: str, rate_per_s: float, most: float) -> None:
        self._url, self._schema, self._rate_per_s, self._most = database_url, schema, rate_per_s, most
        self._table = f"{schema}.tokens"
        self._connection: psycopg.Connection | None = None
        self._one_at_a_time = threading.Lock()

    @classmethod
    def of(cls, plan: BackfillPlan, database_url: str) -> "SharedBucket | None":
        """Return the bucket that a plan asks for, or None without a limit."""
        rate_per_s = plan.source.rate_per_s
        if rate_per_s is None:
            return None
        return cls(database_url, plan.database_schema, rate_per_s, most_tokens(rate_per_s, plan.source.burst, SLACK_S))

    def check(self) -> None:
        """Look whether it can be put there.

        Raises:
            WrongTables: a table of its name has another shape; nothing was written.
        """
        with database.connect(self._url) as connection:
            self._check(connection)

    def fill(self) -> None:
        """Put it there, full, in place of an older one.

        Raises:
            WrongTables: a table of its name has another shape; nothing was written.
        """
        with database.connect(self._url) as connection:
            connection.execute(checkpoints.LOCK_TIMEOUT)
            self._check(connection)
            connection.execute(f"DROP TABLE IF EXISTS {self._table}")
            connection.execute(_TOKENS.format(schema=self._schema))
            connection.execute(f"INSERT INTO {self._table} VALUES (%s, clock_timestamp())", (self._most,))

    def drop(self) -> None:
        """Take it away."""
        with database.connect(self._url) as connection:
            connection.execute(f"DROP TABLE IF EXISTS {self._table}")

    async def ask(self) -> float:
        """Take a token and return 0, or take none and return the seconds until there will be one.

        Raises:
            psycopg.Error: the database does not answer; the next question connects anew.
        """
        return await run_sync(self._asked)

    def close(self) -> None:
        """Leave the database; the bucket stays."""
        with self._one_at_a_time:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def _check(self, connection: psycopg.Connection) -> None:
        shape.check(connection, self._schema, f"CREATE SCHEMA {shape.SCRATCH}; {_TOKENS.format(schema=shape.SCRATCH)}")

    def _asked(self) -> float:
        with self._one_at_a_time:
            try:
                if self._connection is None:
                    self._connection = database.connect(self._url, autocommit=True)
                return self._taken(self._connection)
            except psycopg.Error:
                if self._connection is not None:
                    self._connection.close()
                self._connection = None
                raise

    def _taken(self, connection: psycopg.Connection) -> float:
        there = "least(%(most)s, tokens + greatest(0, extract(epoch FROM clock_timestamp() - at)) * %(rate)s)::float8"
        values = {"most": self._most, "rate": self._rate_per_s}
        taken = f"UPDATE {self._table} SET tokens = {there} - 1, at = clock_timestamp() WHERE {there} >= 1"
        with closing(connection.execute(taken, values)) as cursor:
            if cursor.rowcount == 1:
                return 0.0
        row = connection.execute(f"SELECT (1 - {there}) / %(rate)s FROM {self._table}", values).fetchone()
        return max(LEAST_WAIT_S, float(row[0]) if row else 0.0)
