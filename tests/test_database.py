"""One session with a database: its settings, and which errors are losses; a real server, one that never answers, every kind of error."""

import dataclasses
import datetime as dt
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import adbc_driver_manager
import psycopg
import pytest
from backfills import SCHEMA, plan
from psycopg.conninfo import make_conninfo
from test_backfill_sink import bars_of, write

from tapecheck import database
from tapecheck.backfill import checkpoints, schema
from tapecheck.backfill.plan import Endpoints
from tapecheck.backfill.session import run
from tapecheck.backfill.sink import STRATEGIES, Sink
from tapecheck.errors import TargetDown, TargetError
from tapecheck.vendor.bars import to_datetime

Database = psycopg.Connection[Any]


def test_what_a_url_says_of_times_stays() -> None:
    """The rest is ours: a silent network is noticed; and a URL that cannot be read is not in the message."""
    told = psycopg.conninfo.conninfo_to_dict(database.conninfo("postgresql://me:p%20w@db:1/d?connect_timeout=3&keepalives_idle=99"))
    assert {"user": "me", "password": "p w", "connect_timeout": "3", "keepalives_idle": "99"}.items() <= told.items()
    assert {"keepalives": "1", "keepalives_count": "3", "tcp_user_timeout": "30000"}.items() <= told.items()
    with pytest.raises(psycopg.ProgrammingError, match="its URL cannot be read") as caught:
        database.conninfo("postgresql://me:hunter2@db:1/d?no_such=1")
    assert "hunter2" not in str(caught.value)


OPENERS: dict[str, Any] = {"psycopg": lambda url: database.connect(url), "copy": lambda url: Sink(url, SCHEMA)}


@pytest.mark.parametrize("opened", OPENERS.values(), ids=OPENERS)
def test_a_silent_server_is_given_up(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes connections and never says a word; that is a loss, noticed in the time that we give it."""
    monkeypatch.setitem(database.PATIENCE, "connect_timeout", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hang_up = threading.Timer(60, silent.shutdown, (socket.SHUT_RDWR,))  # no driver that would wait for ever keeps the test
        hang_up.start()
        began_s = time.monotonic()
        with pytest.raises(database.Error) as caught:
            opened(f"postgresql://me@127.0.0.1:{silent.getsockname()[1]}/d?sslmode=disable&gssencmode=disable")
        hang_up.cancel()
    assert database.is_lost(caught.value) and time.monotonic() - began_s < 50


OTHERS = {  # defaults of a database under which our statements would fail, or read other values than are stored
    "search_path": "test_shadow, pg_catalog",
    "IntervalStyle": "sql_standard",
    "TimeZone": "'Asia/Kathmandu'",
    "quote_all_identifiers": "on",
    "default_transaction_isolation": "serializable",
    "extra_float_digits": "-12",
    "standard_conforming_strings": "off",
    "lock_timeout": "'50s'",
    "statement_timeout": "'50s'",
    "idle_in_transaction_session_timeout": "'50s'",
    "idle_session_timeout": "'50s'",
}


@pytest.fixture
def odd(endpoints: Endpoints, connection: Database) -> Iterator[str]:
    """A database of its own, without an encoding, whose defaults are others, with functions that stand in for those of the catalogue."""
    connection.execute("CREATE DATABASE tapecheck_odd ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    url = make_conninfo(endpoints.database_url, dbname="tapecheck_odd")
    try:
        with psycopg.connect(url, autocommit=True) as other:
            other.execute("CREATE SCHEMA test_shadow")
            other.execute("CREATE FUNCTION test_shadow.md5(bytea) RETURNS text LANGUAGE sql AS $$SELECT repeat('0', 32)$$")
            other.execute("CREATE FUNCTION test_shadow.now() RETURNS timestamptz LANGUAGE sql AS $$SELECT 'epoch'::timestamptz$$")
        for name, value in OTHERS.items():
            connection.execute(f"ALTER DATABASE tapecheck_odd SET {name} = {value}")
        yield url
    finally:
        connection.execute("DROP DATABASE tapecheck_odd WITH (FORCE)")


ASK = "SELECT " + ", ".join(f"current_setting('{name}')" for name in (*OTHERS, "DateStyle", "client_encoding"))
STYLES = dict(zip(STRATEGIES, ("German", "SQL, DMY", "Postgres, MDY"), strict=True))


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_defaults_of_a_database_change_nothing(endpoints: Endpoints, connection: Database, odd: str, name: str) -> None:
    """What is stored, read and summed under other defaults is what it is under the usual ones, to the last bit."""
    found, strategy = [], STRATEGIES[name]
    connection.execute(f"ALTER DATABASE tapecheck_odd SET DateStyle = '{STYLES[name]}'")
    for url in (endpoints.database_url, odd):
        schema.prepare(url, SCHEMA)
        with strategy(url, SCHEMA) as sink, database.connect(url) as reader:
            write(sink, bars_of(0, 50))
            tail = sink.tail("T", "5m", to_datetime(300_000 * 40), 30)
            sink.fail("T", "1h", "schlüssel €")
            sink._execute(ASK)
            settings = [sink._cursor.fetchone(), reader.execute(ASK).fetchone()]
            stand = checkpoints.read_with(reader, SCHEMA)
            values = [getattr(tail, name).tobytes() for name in ("t", "o", "c", "vw", "n")]
            found.append((settings, values, stand, str(checkpoints.whole(reader, SCHEMA))))
            year = reader.execute(f"SELECT extract(year FROM min(updated_at))::int > 2000 FROM {SCHEMA}.checkpoints").fetchone()
            assert year == (True,)
        run(plan(symbols=["SOL"], timeframes=["4h"], history={"days": 5}, insert=name), dataclasses.replace(endpoints, database_url=url))
        with database.connect(url) as reader:
            found[-1] += (str(checkpoints.whole(reader, SCHEMA)),)
    assert found[0] == found[1]


def test_a_watching_session_keeps_only_the_search_path(odd: str) -> None:
    """Statements of a target file are read in the role's own schemas; times, numbers and timeouts are ours."""
    ask = "SELECT current_setting('search_path'), current_setting('statement_timeout'), '2026-03-04 05:06Z'::timestamptz, 0.1::float8 + 0.2"

    async def asked() -> list[Any]:
        async with database.opened(odd) as connection:
            return list(await (await connection.execute(ask)).fetchone() or ())

    assert database.wait_for(asked) == ["test_shadow, pg_catalog", "1h", dt.datetime(2026, 3, 4, 5, 6, tzinfo=dt.UTC), 0.1 + 0.2]


@pytest.mark.parametrize("dial", ["psycopg", "adbc"])
def test_losses_and_refusals_are_told_apart(endpoints: Endpoints, connection: Database, dial: str) -> None:
    """Real errors of both drivers: no server and a cut connection are losses; a wrong password, database, or row is none."""
    from adbc_driver_postgresql import dbapi  # type: ignore[import-untyped]

    connect: Any = psycopg.connect if dial == "psycopg" else dbapi.connect
    url = database.conninfo(endpoints.database_url)

    def is_lost(**changes: str) -> bool:
        with pytest.raises(database.Error) as caught:
            connect(make_conninfo(url, **changes))
        return database.is_lost(caught.value)

    assert is_lost(port="9") and not is_lost(password="wrong") and not is_lost(dbname="nowhere")
    with connect(url) as mine, mine.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE checked (a int CHECK (a > 1))")
        with pytest.raises(database.Error) as caught:
            cursor.execute("INSERT INTO checked VALUES (0)")
        assert not database.is_lost(caught.value)
        mine.rollback()
        cursor.execute("SELECT pg_backend_pid()")
        connection.execute("SELECT pg_terminate_backend(%s, 5000)", cursor.fetchone())
        with pytest.raises(database.Error) as caught:
            cursor.execute("SELECT 1")
        assert database.is_lost(caught.value)
        with pytest.raises(database.Error) as caught:
            cursor.execute("SELECT 1")
        assert database.is_lost(caught.value)


LOST, REFUSED = ("08006", "57P03", "53300", "40001", "25006", "55P03", "53100"), ("57014", "23514", "42501")


@pytest.mark.parametrize(("state", "is_lost"), [*((one, True) for one in LOST), *((one, False) for one in REFUSED)])
def test_an_sqlstate_tells_losses_from_refusals(state: str, is_lost: bool) -> None:
    """Of both drivers, whatever the class of the error; a standby is a loss, which passes when it is promoted, and is called one."""
    code = adbc_driver_manager.AdbcStatusCode.IO
    errors = [psycopg.errors.lookup(state)("said"), adbc_driver_manager.OperationalError("said", status_code=code, sqlstate=state)]
    assert [database.is_lost(error) for error in errors] == [is_lost, is_lost]
    assert all(("as a standby is until it is promoted: said" in database.said(error)) == (state == "25006") for error in errors)


def test_a_database_that_refuses_is_not_said_to_be_silent(endpoints: Endpoints, connection: Database) -> None:
    """At the start: a wrong password, and a role that may create nothing; what refuses and why is said, and no secret."""
    wrong = dataclasses.replace(endpoints, database_url=make_conninfo(endpoints.database_url, password="hunter2"))
    with pytest.raises(TargetError, match=r"the database refuses: .*password authentication failed") as caught:
        run(plan(), wrong)
    assert "hunter2" not in str(caught.value) and not isinstance(caught.value, TargetDown) and caught.value.exit_code == 4
    connection.execute("CREATE ROLE test_nobody LOGIN")
    try:
        powerless = dataclasses.replace(endpoints, database_url=make_conninfo(endpoints.database_url, options="-c role=test_nobody"))
        with pytest.raises(TargetError, match="the database refuses: permission denied"):
            run(plan(), powerless)
    finally:
        connection.execute("DROP ROLE test_nobody")


def test_an_open_transaction_of_somebody_is_not_waited_for(
    endpoints: Endpoints, connection: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has only read the tables would keep a fresh run waiting for ever; it says so, and what is stored stays."""
    small: dict[str, Any] = {"symbols": ["TSLA"], "timeframes": ["1d"], "history": {"days": 9}}
    run(plan(**small), endpoints)
    monkeypatch.setitem(database.SETTINGS, "lock_timeout", "300ms")
    with psycopg.connect(endpoints.database_url) as reader:
        before = reader.execute(f"SELECT count(*) FROM {SCHEMA}.bars").fetchone()
        with pytest.raises(TargetError, match="another session holds a lock on the tables: end its transaction"):
            run(plan(**small), endpoints)
    assert before != (0,) and connection.execute(f"SELECT count(*) FROM {SCHEMA}.bars").fetchone() == before
