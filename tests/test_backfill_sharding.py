"""Backfills split across real processes and the workers of a real Dask cluster: the same tables, one rate limit, no process left."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import psutil
import psycopg
import pytest
import servers
from backfills import BASE, SCHEMA, plan, refill, states
from clusters import DaskCluster, cluster

from tapecheck.backfill import checkpoints, schema, sharding
from tapecheck.backfill.analysis import summarize
from tapecheck.backfill.jobs import Filling, Group
from tapecheck.backfill.plan import Endpoints
from tapecheck.backfill.prediction import schedule_of
from tapecheck.backfill.session import run
from tapecheck.backfill.sharding import SharedBucket, Stopped, split
from tapecheck.errors import ConfigError, MeasurementError
from tapecheck.workers.dask import DaskScheduler
from tapecheck.workers.pool import WorkerPool
from tapecheck.workers.worker import SLOTS, STOP, Control, Worker

Database = psycopg.Connection[Any]
LIMIT = {"requests_per_minute": 900, "burst": 5}
SMALL = {"features": "off", "timeframes": ["1d"]}
GROUP = Group(symbol="TSLA", ticker="TSLA", timeframes=("1d",))


def whole(connection: Database) -> str:
    return str(checkpoints.whole(connection, SCHEMA))


@pytest.fixture(scope="module")
def alone(endpoints: Endpoints) -> str:
    """The checksum of what one process stores."""
    run(plan(), endpoints)
    with psycopg.connect(endpoints.database_url) as connection:
        found = whole(connection)
        connection.execute(f"DROP SCHEMA {SCHEMA} CASCADE")
    return found


def wait_joined(url: str, count: int) -> None:
    """Wait until a cluster has so many workers."""
    scheduler, deadline = DaskScheduler(url, allow_remote=False), time.monotonic() + 120
    while len(scheduler.addresses()) != count:
        assert time.monotonic() < deadline, "the workers did not join"
        time.sleep(0.05)
    scheduler.client.close()


@pytest.fixture(scope="module")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    with cluster(tmp_path_factory.mktemp("dask")) as running:
        wait_joined(running.url, 2)
        yield running


@pytest.fixture
def workers(request: pytest.FixtureRequest) -> int | str:
    """Two processes, or a cluster of two workers."""
    return request.getfixturevalue("dask").url if request.param == "dask" else 2


# ---- when one dies, or all are to stop ----


def when_stored(connection: Database, act: Callable[[], object]) -> threading.Thread:
    """Call something once the first page of a run is stored."""

    def watch() -> None:
        with psycopg.connect(connection.info.dsn, password=connection.info.password, autocommit=True) as mine:
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline:
                try:
                    row = mine.execute(f"SELECT count(*) FROM {SCHEMA}.checkpoints WHERE rows > 0").fetchone()
                except psycopg.Error:
                    row = None
                if row and row[0]:
                    break
                time.sleep(0.02)
            act()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def of_this_process(run_of: str) -> list[psutil.Process]:
    """Return the worker processes that this one has."""
    return [child for child in psutil.Process().children() if run_of in " ".join(child.cmdline())]


def is_soon_left(connection: Database) -> bool:
    """Tell whether soon nobody else is connected to work on the schema."""
    others = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE %s AND pid <> pg_backend_pid()"
    until_s = time.monotonic() + 120
    while (left := connection.execute(others, (f"%{SCHEMA}.%",)).fetchone() != (0,)) and time.monotonic() < until_s:
        time.sleep(0.05)
    return not left


SLOW = {"source": BASE["source"] | {"requests_per_minute": 240, "burst": 2}}
SLOWER = {"source": BASE["source"] | {"requests_per_minute": 12, "burst": 2}}  # most of a minute


@pytest.mark.interrupts_itself
@pytest.mark.parametrize("workers", ["processes", "dask"], indirect=True)
def test_two_workers_are_interrupted_and_resume_to_what_one_process_stores(
    endpoints: Endpoints, connection: Database, upstream: httpx.Client, alone: str, workers: int | str
) -> None:
    """Ctrl-C leaves no process of ours and no job running in a cluster; then both do jobs, within the run, under one rate limit.

    With the same rate and burst on both sides hardly a request is refused: one that is late on its way meets the next one there. Workers
    with a limit each would have half of theirs refused.
    """
    before = {child.pid for child in of_this_process("spawn_main")}
    interrupt = when_stored(connection, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run(plan(workers=workers, **SLOWER), endpoints)
    interrupt.join()
    assert {child.pid for child in of_this_process("spawn_main")} <= before
    assert is_soon_left(connection)
    upstream.post("/limit", json=LIMIT).raise_for_status()
    recording = run(plan(source=BASE["source"] | LIMIT | {"retry": {"budget_s": 60}}, workers=workers, begin="resume"), endpoints)
    context, summary = recording.context, summarize(recording)
    assert not states(recording)["failed"] and context.processes == 2
    assert {span.worker // context.plan.concurrency.jobs for span in recording.spans} == {0, 1}
    assert all(context.began_ns <= span.began_ns <= span.ended_ns <= context.ended_ns for span in recording.spans)
    assert whole(connection) == alone
    assert context.integrity and (context.integrity.lost, context.integrity.checksum) == (0, alone)
    pages = sum(span.stage == "decode" for span in recording.spans)
    assert LIMIT["burst"] < pages <= summary.totals.requests <= pages + 2
    assert summary.totals.duration_s >= (pages - LIMIT["burst"]) / 15


def test_a_process_that_dies_leaves_its_jobs_to_be_resumed(endpoints: Endpoints, connection: Database, alone: str) -> None:
    """Its jobs are failed and say why, the other's are completed; a resumed run makes the tables those of a whole one."""
    before = {child.pid for child in of_this_process("spawn_main")}

    def kill() -> None:
        os.kill(next(child.pid for child in of_this_process("spawn_main") if child.pid not in before), signal.SIGKILL)

    killer = when_stored(connection, kill)
    recording = run(plan(workers=2, **SLOW), endpoints)
    killer.join()
    found = states(recording)
    assert found["failed"] and found["completed"]
    errors = {job.error for job in recording.jobs if job.state == "failed"}
    assert len(errors) == 1 and "died" in (error := errors.pop()) and error.startswith("process ") and "begin: resume" in error
    run(plan(begin="resume"), endpoints)
    assert whole(connection) == alone


def test_a_living_worker_of_a_cluster_never_left(dask: DaskCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where the client, which looks at its scheduler every two seconds and asks for no workers then, does so in that moment."""
    with WorkerPool(dask.url, sharding.prepare) as pool:
        workers, client = pool.ready(), pool._scheduler and pool._scheduler.client
        assert client
        real = client.sync
        monkeypatch.setattr(client, "sync", lambda *asked, **named: (real(*asked, **named), real(client._update_scheduler_info))[0])
        assert pool.ready() == workers and not any(worker.is_gone() for worker in workers)


class Threads(WorkerPool):
    """Workers that are threads of this process."""

    def __init__(self, *workers: Worker) -> None:
        super().__init__(len(workers), sharding.prepare)
        self._threads = list(workers)

    def ready(self) -> list[Worker]:
        return self._threads


def quiet(done: int, total: int, note: str = "") -> None: ...


def test_a_stop_is_obeyed(endpoints: Endpoints, connection: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard ends soon after it is stopped; until then no new run may begin."""
    monkeypatch.setattr(schema, "GRACE_S", 0.1)
    schema.prepare(endpoints.database_url, SCHEMA)
    slow = plan(source=BASE["source"] | {"requests_per_minute": 1, "burst": 1}, **SMALL)
    bucket = SharedBucket.of(slow, endpoints.database_url)
    assert bucket
    bucket.fill()
    assert bucket._asked() == 0  # so that the shard waits for the next token for a minute
    bucket.close()
    control: Control = [0] * len(SLOTS)
    with ThreadPoolExecutor(1) as executor:
        future = executor.submit(sharding.fill, control, slow, endpoints, [GROUP], 0)
        with pytest.raises(TimeoutError):
            future.result(1.2)
        with pytest.raises(schema.Busy, match="another backfill, or a worker that one has left behind"):
            run(plan(**SMALL), endpoints)
        control[STOP] = 1
        with pytest.raises(Stopped):
            future.result(45)


def test_an_error_of_a_living_worker_is_not_its_death(endpoints: Endpoints, connection: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says is raised, rather than that it died; one that the scheduler knows no more did die."""
    schema.prepare(endpoints.database_url, SCHEMA)

    def full(*given: Any) -> None:
        raise OSError("no space left")

    class Mortal(Worker):
        died = (OSError,)

    class Gone(Mortal):
        def is_gone(self) -> bool:
            return True

    monkeypatch.setattr(sharding, "fill", full)
    filling = Filling(plan(**SMALL), endpoints, [GROUP])
    with ThreadPoolExecutor(1) as executor:
        with pytest.raises(MeasurementError, match="worker one failed: OSError: no space left"):
            sharding.work_together(Threads(Mortal("worker one", executor)), filling, quiet)
        filling.queue.append(GROUP)
        sharding.work_together(Threads(Gone("worker one", executor)), filling, quiet)
    assert "worker one, which did it, died" in str(filling.done["TSLA", "1d"])


# ---- their parts ----


def test_every_group_is_in_one_shard_and_they_are_even() -> None:
    """Whatever the number of workers, no group is lost or doubled, and no two shards differ by more than the longest group."""
    groups = [
        Group(symbol=symbol, ticker=symbol, timeframes=(frame,))
        for frame in ("5m", "15m", "1h", "1d")
        for symbol in ("AAPL", "MSFT", "BTC")
    ]
    for count in (1, 2, 3, 5, 20):
        shards = split(groups, count)
        assert len(shards) == count and sorted(repr(group) for shard in shards for group in shard) == sorted(map(repr, groups))
        weights = [sum(group.weight for group in shard) for shard in shards]
        assert max(weights) - min(weights) <= max(group.weight for group in groups)


def test_a_shared_bucket_gives_its_burst_and_then_its_rate(endpoints: Endpoints, connection: Database) -> None:
    """Two connections that ask at once get together what one bucket holds, and then are told to wait for one interval."""
    limited = plan(source=BASE["source"] | {"requests_per_minute": 0.6, "burst": 4})
    schema.prepare(endpoints.database_url, SCHEMA)
    first, second = (SharedBucket.of(limited, endpoints.database_url) for _ in range(2))
    assert first and second and SharedBucket.of(plan(), endpoints.database_url) is None
    first.fill()
    assert connection.execute(f"SELECT tokens FROM {SCHEMA}.tokens").fetchone() == (pytest.approx(3.999),)  # less the slack of 0.1 s
    connection.execute(f"UPDATE {SCHEMA}.tokens SET tokens = 3.5, at = clock_timestamp()")
    answers = [bucket._asked() for bucket in (first, second) * 4]
    assert [answer == 0 for answer in answers] == [True] * 3 + [False] * 5  # three are whole, however slow the machine is
    assert all(0 < answer <= 50 for answer in answers[3:])  # a half of the fourth is there, at one in 100 s
    connection.execute(f"UPDATE {SCHEMA}.tokens SET tokens = 0, at = clock_timestamp()")
    assert 50 < first._asked() <= 100
    connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%tokens%' AND pid <> pg_backend_pid()")
    with pytest.raises(psycopg.Error):
        first._asked()
    assert first._asked() > 0  # it has connected anew
    first.close()
    second.close()


def test_spans_of_another_clock_are_moved_to_ours(endpoints: Endpoints, connection: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker whose clock is an hour ahead seems to have worked when it did."""
    ahead_ns = 3_600 * 10**9
    schema.prepare(endpoints.database_url, SCHEMA)
    filling = Filling(plan(**SMALL), endpoints, [GROUP])

    def ahead(*given: Any) -> Any:
        log, outcomes = real(*given)
        spans = [replace(span, began_ns=span.began_ns + ahead_ns, ended_ns=span.ended_ns + ahead_ns) for span in log.spans]
        return replace(log, spans=spans), outcomes

    real = sharding.fill
    monkeypatch.setattr(sharding, "fill", ahead)
    before_ns = time.monotonic_ns()
    with ThreadPoolExecutor(1) as executor:
        far = Worker("far", executor)
        far.offset_ns = ahead_ns
        sharding.work_together(Threads(far), filling, quiet)
    assert set(filling.log.received) == {("TSLA", "1d")} and set(filling.done) == {("TSLA", "1d")}
    assert filling.log.spans and all(before_ns < span.began_ns <= span.ended_ns < time.monotonic_ns() for span in filling.log.spans)


def test_a_replay_has_as_many_job_workers_as_all_processes_together() -> None:
    """Two processes with five jobs and three requests each are ten and six."""
    recording = refill(workers=10)
    both = schedule_of(replace(recording, context=replace(recording.context, processes=2)))
    assert (both.workers, both.requests) == (10, 6)


# ---- what cannot be done ----


def test_a_worker_elsewhere_cannot_reach_a_loopback_address(endpoints: Endpoints) -> None:
    """Its own loopback is another one: refused before anything is sent, and the message holds no URL of the database."""
    with ThreadPoolExecutor(1) as executor:
        far = Worker("worker tcp://10.0.0.7:4000", executor)
        far.error_ns = 1
        with pytest.raises(ConfigError) as caught:
            sharding.check_reach([far], endpoints)
    assert "worker tcp://10.0.0.7:4000 is on another machine" in str(caught.value) and "the source 127.0.0.1" in str(caught.value)
    assert "the database cannot be reached" in str(caught.value) and "postgres" not in str(caught.value)


def test_no_scheduler_no_worker_and_no_dask_are_said_so(
    endpoints: Endpoints, connection: Database, dask: DaskCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each says what to start, and empties no table; Dask that is not installed is a mistake in the plan."""
    monkeypatch.setattr("tapecheck.workers.dask.CONNECT_S", 0.5)
    earlier = run(plan(**SMALL), endpoints)
    before = whole(connection)
    with pytest.raises(MeasurementError, match="no Dask scheduler answers"):
        run(plan(workers=f"dask://127.0.0.1:{servers.free_port()}", **SMALL), endpoints)
    monkeypatch.setattr("tapecheck.workers.dask.CONNECT_S", 10)
    monkeypatch.setattr(DaskScheduler, "addresses", lambda self: [])
    with pytest.raises(MeasurementError, match="has no worker"):
        run(plan(workers=dask.url, **SMALL), endpoints)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigError, match=r"tapecheck\[dask\]"):
        run(plan(workers="dask://127.0.0.1:1", **SMALL), endpoints)
    assert sum(job.inserted for job in earlier.jobs) and whole(connection) == before


def test_a_worker_of_a_cluster_that_dies_leaves_its_jobs_failed(endpoints: Endpoints, connection: Database, dask: DaskCluster) -> None:
    """The scheduler knows it no more, and the run ends; the last test of this cluster."""
    killer = when_stored(connection, dask.workers[0].kill)
    recording = run(plan(workers=dask.url, **SLOW), endpoints)
    killer.join()
    found = states(recording)
    assert found["failed"] and found["completed"]
    assert all("died" in job.error and job.error.startswith("worker tcp://") for job in recording.jobs if job.state == "failed")
