"""How the database is reached, and which of its errors are losses: a real server, one that never answers, and every kind of error."""

import dataclasses
import socket
import threading
import time
from typing import Any

import adbc_driver_manager
import psycopg
import pytest
from backfills import SCHEMA, plan
from psycopg.conninfo import make_conninfo

from tapecheck import database
from tapecheck.backfill.plan import Endpoints
from tapecheck.backfill.session import run
from tapecheck.backfill.sharding import SharedBucket
from tapecheck.backfill.sink import RowByRowSink, Sink
from tapecheck.errors import TargetDown, TargetError

Database = psycopg.Connection[Any]


def test_what_a_url_says_of_times_stays() -> None:
    """The rest is ours: a silent network is noticed; and a URL that cannot be read is not in the message."""
    told = psycopg.conninfo.conninfo_to_dict(database.conninfo("postgresql://me:p%20w@db:1/d?connect_timeout=3&keepalives_idle=99"))
    assert {"user": "me", "password": "p w", "connect_timeout": "3", "keepalives_idle": "99"}.items() <= told.items()
    assert {"keepalives": "1", "keepalives_count": "3", "tcp_user_timeout": "30000"}.items() <= told.items()
    with pytest.raises(psycopg.ProgrammingError, match="its URL cannot be read") as caught:
        database.conninfo("postgresql://me:hunter2@db:1/d?no_such=1")
    assert "hunter2" not in str(caught.value)


OPENERS: dict[str, Any] = {
    "psycopg": lambda url: database.connect(url),
    "copy": lambda url: Sink(url, SCHEMA),
    "row_by_row": lambda url: RowByRowSink(url, SCHEMA),
    "bucket": lambda url: SharedBucket(url, SCHEMA, 1.0, 1.0)._asked(),
}


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


@pytest.mark.parametrize(
    ("state", "is_lost"),
    [("08006", True), ("57P03", True), ("53300", True), ("40001", True), ("57014", False), ("23514", False), ("42501", False)],
)
def test_an_sqlstate_tells_losses_from_refusals(state: str, is_lost: bool) -> None:
    """Of both drivers, whatever the class of the error."""
    code = adbc_driver_manager.AdbcStatusCode.IO
    errors = [psycopg.errors.lookup(state)("said"), adbc_driver_manager.OperationalError("said", status_code=code, sqlstate=state)]
    assert [database.is_lost(error) for error in errors] == [is_lost, is_lost]


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
    monkeypatch.setattr("tapecheck.backfill.checkpoints.LOCK_TIMEOUT", "SET LOCAL lock_timeout = '300ms'")
    with psycopg.connect(endpoints.database_url) as reader:
        before = reader.execute(f"SELECT count(*) FROM {SCHEMA}.bars").fetchone()
        with pytest.raises(TargetError, match=f"another session holds a lock on the tables of {SCHEMA}"):
            run(plan(**small), endpoints)
    assert before != (0,) and connection.execute(f"SELECT count(*) FROM {SCHEMA}.bars").fetchone() == before
