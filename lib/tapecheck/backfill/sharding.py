"""Splits the jobs of a backfill across a worker pool, processes or a Dask cluster's, and collects what they did.

Each worker has its shard from the beginning, and asks one bucket in the database for tokens.
"""
# ruff: noqa: S608 - what is put into statements is a schema's checked name

import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

import httpx
import psycopg
from anyio.to_thread import run_sync

from tapecheck import database
from tapecheck.backfill.jobs import Filling, Group, Outcomes, work
from tapecheck.backfill.plan import SLACK_S, BackfillPlan, Endpoints
from tapecheck.errors import ConfigError, Problem
from tapecheck.progress import Report
from tapecheck.vendor.rate_limit import most_tokens
from tapecheck.vendor.trace import Log
from tapecheck.workers.pool import WorkerPool
from tapecheck.workers.worker import COUNT, DONE, STOP, WEIGHT, Control, Death, Worker


class Stopped(Exception):
    """The process that split the jobs asked to stop."""


def split(groups: Sequence[Group], count: int) -> list[list[Group]]:
    """Split groups across `count` workers: each, from the longest on, goes to who has least to do."""
    shards: list[list[Group]] = [[] for _ in range(count)]
    weights = [0.0] * count
    for group in groups:
        k = weights.index(min(weights))
        shards[k].append(group)
        weights[k] += group.weight
    return shards


def work_together(pool: WorkerPool, filling: Filling, report: Report) -> None:
    """Have the jobs of a filling done by a pool, and collect in it what its workers did.

    The jobs of one that dies are failed ones, whose checkpoints hold what it had stored.
    """
    plan, endpoints, workers = filling.plan, filling.endpoints, pool.ready()
    shards = list(zip(workers, split(list(filling.queue), len(workers)), strict=True))

    def on_poll(running: object = None) -> None:
        filling.report(report, *(sum(worker.control[slot] for worker in workers) for slot in (DONE, COUNT, WEIGHT)))

    bucket = SharedBucket.of(plan, endpoints.database_url)
    if bucket:
        bucket.fill()
    filling.queue.clear()
    tasks = [(worker, (plan, endpoints, groups, k * plan.concurrency.jobs)) for k, (worker, groups) in enumerate(shards)]
    ended = pool.run(fill, tasks, on_poll)
    on_poll()
    for (worker, groups), one in zip(shards, ended, strict=True):
        _take(worker, groups, one, filling)


def _take(worker: Worker, groups: Sequence[Group], one: tuple[Log, Outcomes] | Death, filling: Filling) -> None:
    if isinstance(one, Death):
        why = f"{worker.name}, which did it, died; what it stored is kept, what it measured is lost: begin: resume does the rest"
        filling.done |= {key: why for group in groups for key in group.keys}
        return
    log, outcomes = one
    ahead_ns = worker.offset_ns
    filling.log.spans.extend(replace(span, began_ns=span.began_ns - ahead_ns, ended_ns=span.ended_ns - ahead_ns) for span in log.spans)
    filling.log.received.update(log.received)
    filling.log.oddities.extend(log.oddities)
    filling.done |= outcomes


def check_reach(workers: Sequence[Worker], endpoints: Endpoints) -> None:
    """Refuse workers on other machines where an endpoint is a loopback address, which is another one there.

    Raises:
        ConfigError: which worker cannot reach what.
    """
    what = {"fetch": f"the source {httpx.URL(endpoints.source_url).host}", "insert": "the database"}
    near = [what[stage] for stage in what if stage not in endpoints.remote]
    far = [worker.name for worker in workers if not worker.is_here]
    if near and far:
        got = f"{far[0]} is on another machine, from which {' and '.join(near)} cannot be reached"
        raise ConfigError(
            [Problem(file="plan", key="workers", got=got, allowed="addresses that all can reach, or workers of this machine")]
        )


# ---- in a worker ----


def prepare() -> None:
    """Import what a shard needs, so that none of it is measured."""
    from adbc_driver_postgresql import dbapi  # type: ignore[import-untyped]  # noqa: F401


def fill(control: Control, plan: BackfillPlan, endpoints: Endpoints, groups: Sequence[Group], first_worker: int) -> tuple[Log, Outcomes]:
    """Do the jobs of a shard, by job workers that are numbered from the first one; times are of this process's clock."""
    bucket = SharedBucket.of(plan, endpoints.database_url)
    filling = Filling(plan, endpoints, groups, bucket=bucket, first_worker=first_worker)

    def obey(done: int, total: int, note: str = "") -> None:
        control[DONE], control[COUNT], control[WEIGHT] = done, filling.rows, int(filling.weight)
        if control[STOP]:
            raise Stopped

    try:
        work(filling, obey)
    finally:
        if bucket:
            bucket.close()
    return filling.log, filling.done


# ---- one rate limit for all ----

LEAST_WAIT_S = 0.001  # between two questions
HANG_S = 10.0  # for an answer


class SharedBucket:
    """What `rate_limit.TokenBucket` is in one process, for several; the process that starts the backfill fills it.

    Asking again and again what is in it would cost the database more than waiting for what will be in it.
    """

    def __init__(self, database_url: str, database_schema: str, rate_per_s: float, most: float) -> None:
        self._url, self._table, self._rate_per_s, self._most = database_url, f"{database_schema}.tokens", rate_per_s, most
        self._connection: psycopg.Connection | None = None
        self._one_at_a_time = threading.Lock()

    @classmethod
    def of(cls, plan: BackfillPlan, database_url: str) -> "SharedBucket | None":
        """Return the bucket that a plan asks for, or None without a limit."""
        rate_per_s = plan.source.rate_per_s
        if rate_per_s is None:
            return None
        return cls(database_url, plan.database_schema, rate_per_s, most_tokens(rate_per_s, plan.source.burst, SLACK_S))

    def fill(self) -> None:
        """Fill it, in place of what another run has left."""
        with database.connect(self._url) as connection:
            connection.execute(f"DELETE FROM {self._table}")
            connection.execute(f"INSERT INTO {self._table} VALUES (%s, clock_timestamp())", (self._most,))

    async def ask(self) -> float:
        """Take a token and return 0, or take none and return the seconds until there will be one.

        Raises:
            psycopg.Error: the database does not answer; the next question connects anew.
        """
        return await run_sync(self._asked)

    def close(self) -> None:
        """Leave the database; the bucket stays."""
        with self._one_at_a_time:
            self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _asked(self) -> float:
        with self._one_at_a_time:
            try:
                if self._connection is None:
                    self._connection = database.connect(self._url, autocommit=True)
                with database.limited(self._connection, HANG_S):
                    return self._taken(self._connection)
            except psycopg.Error:
                self._disconnect()
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
