"""The whole backfill against the sandbox's real upstream and database: complete, named, resumed, derived."""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from backfills import BASE, SCHEMA, plan, states
from test_backfill_recording import is_nested, tracks_of

from tapecheck import progress
from tapecheck.backfill.analysis import summarize
from tapecheck.backfill.plan import Endpoints
from tapecheck.backfill.prediction import predict_all
from tapecheck.backfill.session import run
from tapecheck.errors import ConfigError, TargetDown


def checksum(connection: psycopg.Connection[Any], schema: str = SCHEMA) -> list[Any]:
    """Return count and checksum of every row of bars and features, by symbol and timeframe."""
    rows = "SELECT symbol, timeframe, count(*), md5(string_agg(t::text, '|' ORDER BY time)) FROM {} t GROUP BY 1, 2 ORDER BY 1, 2"
    return [connection.execute(rows.format(f"{schema}.{table}")).fetchall() for table in ("bars", "features")]


def begun(connection: psycopg.Connection[Any]) -> int:
    """Return how many jobs have stored something; none while a run is making the tables anew."""
    with contextlib.suppress(psycopg.errors.UndefinedTable, psycopg.errors.InternalError):
        row = connection.execute(f"SELECT count(*) FROM {SCHEMA}.checkpoints WHERE rows > 0").fetchone()
        return int(row[0]) if row else 0
    return 0


def test_every_job_is_stored_with_its_spans(
    endpoints: Endpoints, connection: psycopg.Connection[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All jobs complete, what they say they inserted is in the tables, the live tables have none of it, and every page has its spans."""
    monkeypatch.setenv(progress.FILE_VARIABLE, str(tmp_path / "progress"))
    recording = run(plan(), endpoints)
    told = [json.loads(line) for line in (tmp_path / "progress").read_text().splitlines()]
    jobs, steps = ([line for line in told if line[0] == label][-1] for label in ("backfill", "audit"))
    assert jobs[:4] == ["backfill", "jobs", 10, 10] and "rows/s" in jobs[4]
    assert steps[:2] == ["audit", "steps"] and steps[2] == steps[3] >= 3
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
    fetches = [s for s in recording.spans if s.stage == "fetch"]
    at_once = [sum(other.began_ns <= s.began_ns < other.ended_ns for other in fetches) for s in fetches]
    assert max(at_once) == recording.context.plan.concurrency.requests == 3
    assert all(map(is_nested, tracks_of(recording.spans)[1].values())), "the trace"
    context = recording.context
    assert all(context.began_ns <= span.began_ns <= span.ended_ns <= context.ended_ns for span in recording.spans)
    assert endpoints.key not in repr(endpoints) and "passfile" not in repr(endpoints)


def test_without_a_key_what_is_stored_stays(endpoints: Endpoints, connection: psycopg.Connection[Any]) -> None:
    """A fresh run that can fetch nothing empties nothing: every job fails by name, and the bars of the run before are there."""
    run(plan(history={"days": 5}), endpoints)
    count = f"SELECT count(*) FROM {SCHEMA}.bars"
    (before,) = connection.execute(count.encode()).fetchone() or (0,)
    found = run(plan(history={"days": 5}), dataclasses.replace(endpoints, key=""))
    assert len(states(found)["failed"]) == 10
    assert (connection.execute(count.encode()).fetchone() or (0,)) == (before,) and before > 0


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


@pytest.mark.interrupts_itself
@pytest.mark.parametrize("derive", [False, True], ids=["fetched", "derived"])
def test_an_interrupted_run_resumes_to_the_same_tables(endpoints: Endpoints, connection: psycopg.Connection[Any], derive: bool) -> None:
    """Ctrl-C in the middle leaves whole pages; resuming does only what is missing, and the tables equal an uninterrupted run's."""
    run(plan(derive=derive), endpoints)
    whole = checksum(connection)

    def interrupt() -> None:
        with psycopg.connect(endpoints.database_url, autocommit=True) as watching:
            for _ in range(10_000):
                if begun(watching) >= 2:
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
    """Resuming with an earlier first day would leave a gap before the checkpoints, so it is refused."""
    run(plan(timeframes=["1d"], history={"days": 10}), endpoints)
    with pytest.raises(ConfigError, match="the same first day and features"):
        run(plan(timeframes=["1d"], history={"days": 20}, begin="resume"), endpoints)
    with pytest.raises(ConfigError, match=r"features: False, to resume one with history from .* features: True"):
        run(plan(timeframes=["1d"], history={"days": 10}, features="off", begin="resume"), endpoints)


def test_a_lost_connection_costs_nothing(endpoints: Endpoints, connection: psycopg.Connection[Any]) -> None:
    """Every connection to the database is cut in the middle; the jobs go on from their checkpoints over new ones."""
    run(plan(), endpoints)
    whole = checksum(connection)
    cut: list[int] = []

    def cut_off() -> None:
        with psycopg.connect(endpoints.database_url, autocommit=True) as other:
            for _ in range(10_000):
                if begun(other) >= 2:
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
    assert floor_s > 0.5 and floor_s - 0.05 <= (sent_ns[-1] - sent_ns[0]) / 1e9
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
        assert time.monotonic() - begun_s < 30 and "hunter2" not in str(caught.value)


@contextmanager
def delayed(url: str, delay_s: float) -> Iterator[str]:
    """Yield the address of a relay to a server, on which every answer takes longer on its way."""
    there = httpx.URL(url)

    class Relay(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection((there.host, there.port or 80)) as far:
                while asked := self.request.recv(65536):
                    far.sendall(asked)
                    time.sleep(delay_s)
                    far.settimeout(delay_s)
                    try:
                        while answer := far.recv(1 << 20):
                            self.request.sendall(answer)
                    except TimeoutError:
                        pass

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Relay) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


PLANTED = [
    ("fetch", {}, 0.3),
    ("insert", {"insert": "row_by_row"}, 0.0),
    ("features", {"features": "per_row"}, 0.0),
    ("wait", {"source": BASE["source"] | {"requests_per_minute": 120, "burst": 1}}, 0.0),
]


@pytest.mark.parametrize(("stage", "changes", "delay_s"), PLANTED, ids=[stage for stage, _, _ in PLANTED])
def test_a_planted_slow_stage_is_named(
    endpoints: Endpoints, connection: psycopg.Connection[Any], stage: str, changes: dict[str, Any], delay_s: float
) -> None:
    """Latency on the way to upstream, an insert a row, features a row and a rate limit are each found for what they are."""
    small = plan(timeframes=["1h", "4h"], history={"days": 60}, **changes)
    if delay_s:
        with delayed(endpoints.source_url, delay_s) as url:
            recording = run(small, dataclasses.replace(endpoints, source_url=url))
    else:
        recording = run(small, endpoints)
    summary = summarize(recording)
    assert states(recording)["failed"] == [] and summary.bottleneck == stage
    slow = checksum(connection)
    run(plan(timeframes=["1h", "4h"], history={"days": 60}), endpoints)
    assert checksum(connection) == slow


def test_our_own_limit_keeps_the_servers(endpoints: Endpoints, connection: psycopg.Connection[Any], upstream: httpx.Client) -> None:
    """With the same rate and burst on both sides no request is refused, and the run takes its floor; how little more, the bench says."""
    limit = {"requests_per_minute": 900, "burst": 5}
    upstream.post("/limit", json=limit).raise_for_status()
    recording = run(plan(source=BASE["source"] | limit), endpoints)
    summary = summarize(recording)
    assert summary.totals.requests == sum(span.stage == "decode" for span in recording.spans) > 12
    assert summary.rate_limit_floor_s <= summary.totals.duration_s < 3 * summary.rate_limit_floor_s + 5


def test_the_replay_of_a_real_run_takes_its_time(endpoints: Endpoints, connection: psycopg.Connection[Any]) -> None:
    """Replayed without a change, the spans of 15 jobs give about the measured wall time; how nearly, the bench says."""
    symbols = ["TSLA", "AMZN", "SOL"]
    for derive in (False, True):
        unchanged = predict_all(run(plan(symbols=symbols, derive=derive), endpoints))[0]
        assert abs(unchanged.saving_ratio) < 0.4
