"""Two backfills and one schema: the second is refused, a worker that was left behind counts as one, and a lost lock is taken again."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from backfills import BASE, SCHEMA, plan, states

from tapecheck.backfill import schema, session
from tapecheck.backfill.plan import Endpoints
from tapecheck.backfill.session import run

Database = psycopg.Connection[Any]
SLOW: dict[str, Any] = {"features": "off", "source": BASE["source"] | {"requests_per_minute": 240, "burst": 2}}
OURS = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = %s AND granted"


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No run here was killed a moment ago."""
    monkeypatch.setattr(schema, "GRACE_S", 0.2)
    monkeypatch.setattr(schema, "CHECK_EVERY_S", 0.05)
    yield


def soon(is_so: Any) -> bool:
    """Wait for something to be so."""
    until_s = time.monotonic() + 60
    while not (found := bool(is_so())) and time.monotonic() < until_s:
        time.sleep(0.02)
    return found


def holders(connection: Database, kind: int) -> list[int]:
    return [pid for (pid,) in connection.execute(OURS, (kind,)).fetchall()]


def test_a_second_run_into_a_schema_is_refused(endpoints: Endpoints, connection: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes nothing and says what to do, until the audit of the first is over; another schema is free."""
    audited, go_on = threading.Event(), threading.Event()

    def audit(*given: Any) -> Any:
        audited.set()
        assert go_on.wait(100)
        return real(*given)

    real = session.audit
    with ThreadPoolExecutor(1) as executor:
        monkeypatch.setattr(session, "audit", audit)
        first = executor.submit(run, plan(**SLOW), endpoints)
        try:
            assert soon(lambda: holders(connection, schema.RUN))
            with pytest.raises(
                schema.Busy, match=f"another backfill.*{SCHEMA}; nothing was written: wait for its end, or name another"
            ) as caught:
                run(plan(**SLOW), endpoints)
            assert caught.value.exit_code == 4
            assert audited.wait(100)
            with pytest.raises(schema.Busy):
                run(plan(**SLOW, begin="resume"), endpoints)
            with schema.run(endpoints.database_url, f"{SCHEMA}_other"):
                pass
        finally:
            go_on.set()
        recording = first.result(100)
    assert len(states(recording)["completed"]) == 10 and recording.context.integrity
    assert sum(job.inserted for job in recording.jobs) == connection.execute(f"SELECT count(*) FROM {SCHEMA}.bars").fetchone()[0]  # type: ignore[index]
    assert not holders(connection, schema.RUN) and not holders(connection, schema.SHARE)


def test_a_worker_that_was_left_behind_keeps_a_run_out(endpoints: Endpoints, connection: Database) -> None:
    """As long as one does its share, and not before: members of one run share their lock, and are not kept out by the run."""
    url = endpoints.database_url
    with schema.run(url, SCHEMA), schema.share(url, SCHEMA), schema.share(url, SCHEMA):
        assert len(holders(connection, schema.SHARE)) == 2
    with schema.share(url, SCHEMA):
        with pytest.raises(schema.Busy, match="a worker that one has left behind"), schema.run(url, SCHEMA):
            pass
        assert not holders(connection, schema.RUN)
        with schema.run(url, f"{SCHEMA}_other"):
            pass
    with schema.run(url, SCHEMA):
        pass


@pytest.mark.parametrize("kind", [schema.RUN, schema.SHARE])
def test_a_lost_lock_is_taken_again(endpoints: Endpoints, connection: Database, kind: int) -> None:
    """Its connection is cut; what is done under it goes on, and soon there is another that holds it."""
    take = schema.run if kind == schema.RUN else schema.share
    with take(endpoints.database_url, SCHEMA):
        (first,) = holders(connection, kind)
        connection.execute("SELECT pg_terminate_backend(%s)", (first,))
        assert soon(lambda: holders(connection, kind) not in ([], [first]))
    assert soon(lambda: not holders(connection, kind))  # the server hears of a closed connection a moment later


def test_a_share_goes_on_without_its_database() -> None:
    """What a member does while the database is away is its own affair, and the lock ends nothing."""
    with schema.share("postgresql://nobody@127.0.0.1:9/none", SCHEMA):
        time.sleep(0.2)


def test_a_run_that_ended_a_moment_ago_is_waited_for(endpoints: Endpoints, connection: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server may still think that a killed run is there."""
    monkeypatch.setattr(schema, "GRACE_S", 60)
    with psycopg.connect(endpoints.database_url, autocommit=True) as killed:
        killed.execute("SELECT pg_advisory_lock(%s, %s)", (schema.RUN, schema._lock_key(SCHEMA)))
        timer = threading.Timer(0.4, killed.close)
        timer.start()
        with schema.run(endpoints.database_url, SCHEMA):
            assert holders(connection, schema.RUN)
        timer.join()


def test_a_schema_has_the_same_key_everywhere() -> None:
    """Processes of other machines and versions of Python find each other's locks, and the number fits into 4 bytes."""
    assert schema._lock_key("tapecheck_backfill") == 766176104
    assert all(-(2**31) <= schema._lock_key(f"tapecheck_{i}") < 2**31 for i in range(1000))
