"""The whole backfill against the sandbox's real upstream and database: complete, named, resumed, derived."""

import dataclasses
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest

from tapecheck.backfill import filling
from tapecheck.backfill.filling import Endpoints, run
from tapecheck.backfill.plan import BackfillPlan
from tapecheck.backfill.recording import Recording
from tapecheck.config import SandboxState
from tapecheck.errors import ConfigError, TargetDown
from tapecheck.runs import TargetInfo
from tapecheck.sandbox.profile import Home

SCHEMA = "tapecheck_test"
BASE = {
    "symbols": ["TSLA", "SOL"],  # not in the fixture's profile, so that the scheduler does not take these faults
    "timeframes": ["5m", "15m", "1h", "4h", "1d"],
    "history": {"days": 120},
    "database_schema": SCHEMA,
    "source": {"timeout_s": 5, "retry": {"first_s": 0.02, "cap_s": 0.1, "budget_s": 3}},
}


@pytest.fixture
def endpoints(sandbox: SandboxState) -> Endpoints:
    """The sandbox's upstream and database."""
    assert sandbox.database_url
    target = TargetInfo(name="sandbox", kind="sandbox", base_url=sandbox.upstream_url)
    return Endpoints(source_url=sandbox.upstream_url, key=Home().secret(), database_url=sandbox.database_url, target=target)


@pytest.fixture
def connection(endpoints: Endpoints) -> Iterator[psycopg.Connection[Any]]:
    """A plain connection; the schemas of these tests are gone afterwards."""
    with psycopg.connect(endpoints.database_url, autocommit=True) as connection:
        yield connection
        for schema in (SCHEMA, f"{SCHEMA}_other"):
            connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")


@pytest.fixture
def upstream(endpoints: Endpoints) -> Iterator[httpx.Client]:
    """A plain client of the upstream's faults; all are off afterwards."""
    headers = {"Authorization": f"Bearer {endpoints.key}"}
    with httpx.Client(base_url=endpoints.source_url, headers=headers, timeout=5, trust_env=False) as client:
        yield client
        client.delete("/faults")
        client.post("/limit", json={})


def plan(**changes: Any) -> BackfillPlan:
    return BackfillPlan.model_validate(BASE | changes)


def states(recording: Recording) -> dict[str, list[str]]:
    return {
        state: [f"{job.symbol} {job.timeframe}" for job in recording.jobs if job.state == state]
        for state in ("completed", "failed", "skipped")
    }


def checksum(connection: psycopg.Connection[Any], schema: str = SCHEMA) -> list[Any]:
    """Return count and checksum of every row of bars and features, by symbol and timeframe."""
    rows = "SELECT symbol, timeframe, count(*), md5(string_agg(t::text, '|' ORDER BY time)) FROM {} t GROUP BY 1, 2 ORDER BY 1, 2"
    return [connection.execute(rows.format(f"{schema}.{table}")).fetchall() for table in ("bars", "features")]


def test_every_job_is_stored_with_its_spans(endpoints: Endpoints, connection: psycopg.Connection[Any]) -> None:
    """All jobs complete, what they say they inserted is in the tables, the live tables have none of it, and every page has its spans."""
    recording = run(plan(), endpoints)
    assert [len(names) for names in states(recording).values()] == [10, 0, 0]
    bars, features = checksum(connection)
    assert [row[:3] for row in bars] == [row[:3] for row in features]
    stored = {(symbol, timeframe): count for symbol, timeframe, count, _ in bars}
    assert stored == {(job.symbol, job.timeframe): job.inserted for job in recording.jobs} and min(stored.values()) > 80
    assert connection.execute("SELECT count(*) FROM tapecheck.bars WHERE symbol = 'TSLA'").fetchone() == (0,)
    rows = {stage: sum(span.rows for span in recording.spans if span.stage == stage) for stage in ("decode", "features", "insert")}
    assert set(rows.values()) == {sum(stored.values())}
    pages = {(s.symbol, s.timeframe, s.page) for s in recording.spans if s.stage == "fetch"}
    assert pages == {(s.symbol, s.timeframe, s.page) for s in recording.spans if s.stage == "insert"} and len(pages) > 12
    context = recording.context
    assert all(context.began_ns <= span.began_ns <= span.ended_ns <= context.ended_ns for span in recording.spans)
    assert endpoints.key not in repr(endpoints) and "passfile" not in repr(endpoints)


def test_derived_series_are_the_fetched_ones(endpoints: Endpoints, connection: psycopg.Connection[Any]) -> None:
    """Bars and features built from 5-minute bars, page by page, equal those of five fetched series, for fewer requests."""
    fetched = run(plan(), endpoints)
    derived = run(plan(derive=True, database_schema=f"{SCHEMA}_other"), endpoints)
    assert states(derived) == states(fetched)
    assert checksum(connection, f"{SCHEMA}_other") == checksum(connection)
    requests = [sum(span.requests for span in recording.spans) for recording in (fetched, derived)]
    assert requests[1] * 2 < requests[0]
    assert {span.timeframe for span in derived.spans if span.stage == "fetch"} == {"5m"}


def test_a_failed_job_is_named_and_the_others_go_on(
    endpoints: Endpoints, connection: psycopg.Connection[Any], upstream: httpx.Client
) -> None:
    """A ticker that upstream does not have fails with its reason while all others complete; only_failed then touches nothing else."""
    recording = run(plan(symbols=["TSLA", "NOSUCH"], timeframes=["1h", "1d"], history={"days": 30}), endpoints)
    assert states(recording) == {"completed": ["TSLA 1h", "TSLA 1d"], "failed": ["NOSUCH 1h", "NOSUCH 1d"], "skipped": []}
    assert all("404" in job.error for job in recording.jobs if job.state == "failed")
    whole = checksum(connection)
    upstream.post("/faults", json={"kind": "server_error", "ticker": "TSLA"}).raise_for_status()
    broken = run(plan(symbols=["TSLA"], timeframes=["1h", "1d"], history={"days": 30}), endpoints)
    upstream.delete("/faults")
    assert states(broken)["failed"] == ["TSLA 1h", "TSLA 1d"] and checksum(connection) == [[], []]
    again = run(plan(symbols=["TSLA", "SOL"], timeframes=["1h", "1d"], history={"days": 30}, begin="only_failed"), endpoints)
    assert states(again) == {"completed": ["TSLA 1h", "TSLA 1d"], "failed": [], "skipped": ["SOL 1h", "SOL 1d"]}
    assert checksum(connection) == whole


@pytest.mark.parametrize("derive", [False, True], ids=["fetched", "derived"])
def test_an_interrupted_run_resumes_to_the_same_tables(endpoints: Endpoints, connection: psycopg.Connection[Any], derive: bool) -> None:
    """Ctrl-C in the middle leaves whole pages; resuming does only what is missing, and the tables equal an uninterrupted run's."""
    run(plan(derive=derive), endpoints)
    whole = checksum(connection)

    def interrupt() -> None:
        with psycopg.connect(endpoints.database_url, autocommit=True) as watching:
            for _ in range(2000):
                row = watching.execute(f"SELECT count(*) FROM {SCHEMA}.checkpoints WHERE rows > 0").fetchone()
                if row and row[0] in (2, 3):
                    os.kill(os.getpid(), signal.SIGINT)
                    return
                time.sleep(0.002)

    thread = threading.Thread(target=interrupt)
    connection.execute(f"DELETE FROM {SCHEMA}.checkpoints")
    with pytest.raises(KeyboardInterrupt):
        thread.start()
        run(plan(derive=derive), endpoints)
    thread.join()
    half = checksum(connection)
    assert 0 < sum(row[2] for row in half[0]) < sum(row[2] for row in whole[0]) and [r[:3] for r in half[0]] == [r[:3] for r in half[1]]
    recording = run(plan(derive=derive, begin="resume"), endpoints)
    assert checksum(connection) == whole and not states(recording)["failed"]
    assert sum(job.inserted for job in recording.jobs) == sum(row[2] for row in whole[0]) - sum(row[2] for row in half[0])
    untouched = run(plan(derive=derive, begin="resume"), endpoints)
    assert len(states(untouched)["skipped"]) == 10 and not untouched.spans


def test_another_history_is_not_resumed(endpoints: Endpoints, connection: psycopg.Connection[Any]) -> None:
    """Resuming with an earlier first day would leave a hole before the checkpoints, so it is refused."""
    run(plan(timeframes=["1d"], history={"days": 10}), endpoints)
    with pytest.raises(ConfigError, match="the same first day"):
        run(plan(timeframes=["1d"], history={"days": 20}, begin="resume"), endpoints)


def test_a_lost_connection_costs_nothing(endpoints: Endpoints, connection: psycopg.Connection[Any]) -> None:
    """Every connection to the database is cut in the middle; the jobs go on from their checkpoints over new ones."""
    run(plan(), endpoints)
    whole = checksum(connection)
    cut: list[int] = []

    def cut_off() -> None:
        with psycopg.connect(endpoints.database_url, autocommit=True) as other:
            for _ in range(2000):
                row = other.execute(f"SELECT count(*) FROM {SCHEMA}.checkpoints WHERE rows > 0").fetchone()
                if row and row[0] >= 2:
                    found = other.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity, (SELECT backend_start AS began FROM pg_stat_activity"
                        " WHERE pid = pg_backend_pid()) me WHERE backend_start > began AND backend_type = 'client backend'"
                    ).fetchall()
                    cut.append(len(found))
                    return
                time.sleep(0.002)

    connection.execute(f"TRUNCATE {SCHEMA}.checkpoints, {SCHEMA}.bars, {SCHEMA}.features")
    thread = threading.Thread(target=cut_off)  # its connection is older than those of the run
    thread.start()
    recording = run(plan(), endpoints)
    thread.join()
    assert cut and cut[0] >= 1 and len(states(recording)["completed"]) == 10
    assert checksum(connection) == whole
    assert sum(job.inserted for job in recording.jobs) == sum(row[2] for row in whole[0])


def test_one_bucket_limits_all_jobs(endpoints: Endpoints, connection: psycopg.Connection[Any]) -> None:
    """Five jobs together keep to the rate: the run takes at least its floor, and waiting for tokens is a stage of its own."""
    source = BASE["source"] | {"requests_per_minute": 600, "burst": 2}
    recording = run(plan(source=source, timeframes=["1h", "4h", "1d"], history={"days": 120}), endpoints)
    requests = sum(span.requests for span in recording.spans)
    floor_s = (requests - 2) / 10
    sent_ns = sorted(span.began_ns for span in recording.spans if span.stage == "fetch")
    assert floor_s > 0.5 and floor_s - 0.05 <= (sent_ns[-1] - sent_ns[0]) / 1e9 < floor_s + 0.3
    assert sum(span.duration_s for span in recording.spans if span.stage == "wait") > floor_s / 2


def test_features_can_be_off_or_a_row_at_a_time(endpoints: Endpoints, connection: psycopg.Connection[Any]) -> None:
    """The slow baseline stores the same features as the vectorized one, and off stores none at the same bars."""
    found = {}
    for how in ("vectorized", "per_row", "off"):
        recording = run(plan(features=how, timeframes=["1h"], history={"days": 60}), endpoints)
        found[how] = checksum(connection)
        assert any(span.stage == "features" for span in recording.spans) == (how != "off")
    assert found["per_row"] == found["vectorized"] and found["off"] == [found["vectorized"][0], []]


def test_what_does_not_answer_is_told_at_once(endpoints: Endpoints) -> None:
    """A source or a database that is not there ends the run before anything is fetched, without a secret in the message."""
    for changes in ({"source_url": "http://127.0.0.1:9"}, {"database_url": "postgresql://someone:hunter2@127.0.0.1:9/postgres"}):
        begun_s = time.monotonic()
        with pytest.raises(TargetDown, match="does not answer") as caught:
            run(plan(), dataclasses.replace(endpoints, **changes))
        assert time.monotonic() - begun_s < 3 and "hunter2" not in str(caught.value)


def test_the_longest_jobs_begin_first() -> None:
    """So that no long job is alone at the end; with derived series a symbol is one group."""
    order = [group.keys[0] for group in filling._groups(plan(), {})]
    assert order[:3] == [("SOL", "5m"), ("TSLA", "5m"), ("SOL", "15m")] and order[-1] == ("TSLA", "1d")
    assert [(group.symbol, len(group.timeframes)) for group in filling._groups(plan(derive=True), {})] == [("SOL", 5), ("TSLA", 5)]
