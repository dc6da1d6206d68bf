"""Whose a schema is, in a real database: tables of another shape are refused, and so is a second run into the same schema."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from backfills import BASE, SCHEMA, plan, states

from tapecheck.backfill import checkpoints, schema, session
from tapecheck.backfill.plan import Endpoints
from tapecheck.backfill.schema import RUN, WRITERS, Busy, WrongTables
from tapecheck.backfill.session import run
from tapecheck.backfill.sink import STRATEGIES

Database = psycopg.Connection[Any]
BARS = f"{SCHEMA}.bars"
SLOW: dict[str, Any] = {"features": "off", "source": BASE["source"] | {"requests_per_minute": 240, "burst": 2}}


def tables(connection: Database) -> list[str]:
    return [table for (table,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s ORDER BY 1", (SCHEMA,))]


WRONG = {
    "column missing": (f"ALTER TABLE {BARS} DROP COLUMN vw", "column vw is missing, expected double precision"),
    "column more": (f"ALTER TABLE {BARS} ADD note text", "column note is text, expected none"),
    "type": (f"ALTER TABLE {BARS} ALTER v TYPE int8", "column v is bigint NOT NULL, expected double precision NOT NULL"),
    "zone": (
        f"ALTER TABLE {BARS} ALTER time TYPE timestamp",
        "column time is timestamp without time zone NOT NULL, expected timestamp with",
    ),
    "null forbidden": (f"ALTER TABLE {BARS} ALTER n SET NOT NULL", "column n is bigint NOT NULL, expected bigint"),
    "null allowed": (f"ALTER TABLE {BARS} ALTER c DROP NOT NULL", "column c is double precision, expected double precision NOT NULL"),
    "no key": (f"ALTER TABLE {BARS} DROP CONSTRAINT bars_pkey", "primary key is missing, expected symbol, time, timeframe"),
    "other key": (
        f"ALTER TABLE {BARS} DROP CONSTRAINT bars_pkey, ADD PRIMARY KEY (symbol, time)",
        "primary key is symbol, time, expected symbol, time, timeframe",
    ),
    "a view": (f"ALTER TABLE {BARS} RENAME TO stored; CREATE VIEW {BARS} AS SELECT * FROM {SCHEMA}.stored", "primary key is missing"),
}


@pytest.mark.parametrize(("change", "said"), WRONG.values(), ids=WRONG)
def test_another_shape_is_refused_and_nothing_is_written(endpoints: Endpoints, connection: Database, change: str, said: str) -> None:
    """The difference is named, and not even a missing table beside it is created."""
    schema.prepare(endpoints.database_url, SCHEMA)
    connection.execute(f"DROP TABLE {SCHEMA}.checkpoints; {change}")
    before = tables(connection)
    with pytest.raises(WrongTables) as error:
        schema.prepare(endpoints.database_url, SCHEMA)
    assert f"{BARS}: {said}" in str(error.value) and error.value.exit_code == 4
    assert tables(connection) == before


def test_all_differences_are_named_at_once(endpoints: Endpoints, connection: Database) -> None:
    """A table of another program has many differences; one message lists them, tables apart."""
    connection.execute(f"CREATE SCHEMA {SCHEMA}; CREATE TABLE {BARS} (symbol text, time timestamptz, price numeric(10, 2))")
    connection.execute(f"CREATE TABLE {SCHEMA}.checkpoints (id int PRIMARY KEY)")
    with pytest.raises(WrongTables) as error:
        schema.prepare(endpoints.database_url, SCHEMA)
    for said in (f"{BARS}: column o is missing", "column price is numeric(10,2)", f"{SCHEMA}.checkpoints: column id is integer NOT NULL"):
        assert said in str(error.value)


def test_our_own_tables_are_accepted_again(endpoints: Endpoints, connection: Database) -> None:
    """Preparing twice changes nothing, whatever the order of the columns, and other tables beside ours do not matter; emptying empties."""
    url = endpoints.database_url
    schema.prepare(url, SCHEMA)
    connection.execute(f"CREATE TABLE {SCHEMA}.others (id int); ALTER TABLE {BARS} DROP COLUMN n, ADD n int8")
    connection.execute(f"INSERT INTO {SCHEMA}.checkpoints (symbol, timeframe, state) VALUES ('A', '1d', 'done')")
    schema.prepare(url, SCHEMA)
    assert tables(connection) == ["bars", "checkpoints", "features", "others", "tokens"] and checkpoints.read(url, SCHEMA)
    schema.prepare(url, SCHEMA, empty=True)
    assert tables(connection) == ["bars", "checkpoints", "features", "others", "tokens"] and not checkpoints.read(url, SCHEMA)


# ---- one run at a time ----


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """No run here was killed a moment ago."""
    monkeypatch.setattr(schema, "GRACE_S", 0.2)


def soon(is_so: Callable[[], object]) -> bool:
    """Wait for something to be so."""
    until_s = time.monotonic() + 60
    while not (found := bool(is_so())) and time.monotonic() < until_s:
        time.sleep(0.02)
    return found


def holders(connection: Database, kind: int) -> list[int]:
    ours = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = %s AND objid = %s::oid AND granted"
    return [pid for (pid,) in connection.execute(ours, (kind, schema._key(SCHEMA) % 2**32)).fetchall()]


@pytest.mark.usefixtures("short_grace")
def test_a_second_run_into_a_schema_is_refused(endpoints: Endpoints, connection: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes nothing and says what to do, until the audit of the first is over, and also after the first one's lock was lost."""
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
            assert soon(lambda: holders(connection, RUN))
            with pytest.raises(Busy, match=f"another backfill.*{SCHEMA}; nothing was written: wait for its end, or name another") as caught:
                run(plan(**SLOW), endpoints)
            assert caught.value.exit_code == 4
            assert audited.wait(100)
            with pytest.raises(Busy):
                run(plan(**SLOW, begin="resume"), endpoints)
        finally:
            go_on.set()
        recording = first.result(100)
    assert len(states(recording)["completed"]) == 10 and recording.context.integrity
    rows = connection.execute(f"SELECT count(*) FROM {SCHEMA}.bars").fetchone()
    assert rows == (sum(job.inserted for job in recording.jobs),)
    assert soon(lambda: not holders(connection, RUN) and not holders(connection, WRITERS))


@pytest.mark.usefixtures("short_grace")
@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_a_writer_keeps_runs_out(endpoints: Endpoints, connection: Database, strategy: Any) -> None:
    """One that was left behind, or whose run has lost its own lock; writers of one run do not keep each other out, nor does their run."""
    url = endpoints.database_url
    schema.prepare(url, SCHEMA)
    with ExitStack() as writers:
        with schema.exclusive(url, SCHEMA):
            for _ in range(2):
                writers.enter_context(strategy(url, SCHEMA))
            assert len(holders(connection, WRITERS)) == 2
            (ours,) = holders(connection, RUN)
            connection.execute("SELECT pg_terminate_backend(%s, 5000)", (ours,))
            with pytest.raises(Busy, match="a worker that one has left behind"), schema.exclusive(url, SCHEMA):
                pass
        assert not holders(connection, RUN)
        with schema.exclusive(url, f"{SCHEMA}_other"):
            pass
    assert soon(lambda: not holders(connection, WRITERS))
    with schema.exclusive(url, SCHEMA):
        pass


def test_a_run_that_ended_a_moment_ago_is_waited_for(endpoints: Endpoints, connection: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server may still think that a killed run is there."""
    monkeypatch.setattr(schema, "GRACE_S", 60)
    with psycopg.connect(endpoints.database_url, autocommit=True) as killed:
        killed.execute("SELECT pg_advisory_lock(%s, %s)", (RUN, schema._key(SCHEMA)))
        timer = threading.Timer(0.4, killed.close)
        timer.start()
        with schema.exclusive(endpoints.database_url, SCHEMA):
            assert holders(connection, RUN)
        timer.join()


def test_a_schema_has_the_same_key_everywhere() -> None:
    """Processes of other machines and versions of Python find each other's locks, and the number fits into 4 bytes."""
    assert schema._key("tapecheck_backfill") == 766176104
    assert all(-(2**31) <= schema._key(f"tapecheck_{i}") < 2**31 for i in range(1000))
