"""One session with a database: how it is reached, with which settings, and what its errors mean. It reads and writes nothing."""

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeVar

import adbc_driver_manager
import psycopg
from anyio.from_thread import start_blocking_portal
from psycopg.conninfo import conninfo_to_dict, make_conninfo

PATIENCE: dict[str, Any] = {  # a network that goes silent is noticed within about half a minute
    "connect_timeout": 10,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
SETTINGS = {  # what our statements rely on, whatever the defaults of the database and the role are
    "client_encoding": "UTF8",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "1",  # floats that come as text keep every bit
    "standard_conforming_strings": "on",
    "lock_timeout": "10s",  # for somebody's open transaction nobody waits for ever
    "statement_timeout": "1h",  # a checksum of a long history takes minutes
    "idle_in_transaction_session_timeout": "0",  # ADBC keeps a transaction open while the vendor is asked
    "idle_session_timeout": "0",
    "tcp_keepalives_idle": "10",  # the server notices soon, too, that a client's machine is gone
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
OWN_TABLES = {"search_path": "pg_catalog"}  # our statements name every schema: no table or function of another one stands in
Error = (adbc_driver_manager.Error, psycopg.Error)  # what a lost or refusing database raises

_LOSSES = ("08", "57P", "53", "40", "25P03")  # SQLSTATEs of lost connections and full or stopping servers; what was asked may succeed later
_UNSTATED = (  # libpq tells no SQLSTATE of a connection that cannot be made or is gone
    psycopg.OperationalError,
    psycopg.InterfaceError,
    adbc_driver_manager.OperationalError,
    adbc_driver_manager.InterfaceError,
    adbc_driver_manager.InternalError,
)
_UNWELCOME = re.compile(
    "authentication failed|no password supplied|no pg_hba.conf entry|permission denied|not permitted|FATAL: .* does not exist"
)


def conninfo(url: str, **more: Any) -> str:
    """Return how to connect to a URL's database; the timeouts of the URL itself go before ours, and `more` before both.

    Raises:
        psycopg.ProgrammingError: the URL cannot be read; the message does not hold it.
    """
    try:
        given = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise psycopg.ProgrammingError("its URL cannot be read") from None
    return make_conninfo(**{**PATIENCE, **given, **more})


def _set(settings: dict[str, str]) -> str:
    """Return the statement that sets settings, but for those that an older server does not know."""
    rows = ", ".join(f"('{name}', '{value}')" for name, value in settings.items())
    known = "current_setting(name, true) IS NOT NULL"
    return f"SELECT set_config(name, value, false) FROM (VALUES {rows}) AS wanted (name, value) WHERE {known}"  # noqa: S608 - constants


def connect(url: str, *, statement_timeout: str = SETTINGS["statement_timeout"], **options: Any) -> psycopg.Connection:
    """Return a connection of psycopg's for our own tables, with our settings."""
    connection = psycopg.connect(conninfo(url), **options)
    try:
        connection.execute(_set(SETTINGS | OWN_TABLES | {"statement_timeout": statement_timeout}))
        connection.commit()
    except BaseException:
        connection.close()
        raise
    return connection


def connect_adbc(url: str) -> Any:
    """Return a connection of ADBC's for our own tables, with our settings; a transaction is always open in it."""
    from adbc_driver_postgresql import dbapi  # type: ignore[import-untyped]  # over a second, pandas included: paid by who uses it

    connection = dbapi.connect(conninfo(url))
    try:
        with contextlib.closing(connection.cursor()) as cursor:
            cursor.execute(_set(SETTINGS | OWN_TABLES))
            cursor.fetchall()
        connection.commit()
    except BaseException:
        connection.close()
        raise
    return connection


def is_lost(error: BaseException) -> bool:
    """Tell an error of a database that is away, and may come back, from that of one that refuses, and would again."""
    state = getattr(error, "sqlstate", None)
    if state:
        return str(state).startswith(_LOSSES)
    return isinstance(error, _UNSTATED) and not _UNWELCOME.search(str(error))


# ---- while a database is taken down and comes back ----

PATIENCE_S = 2  # to connect, or for one statement; libpq connects no more impatiently
PAUSE_S = 0.05  # between two attempts to connect

Connection = psycopg.AsyncConnection[tuple[Any, ...]]
T = TypeVar("T")


def wait_for(question: Callable[..., Awaitable[T]], *arguments: Any) -> T:
    """Run a coroutine function to its end in a thread of its own: a notebook's has an event loop already."""
    with start_blocking_portal() as portal:
        return portal.call(question, *arguments)


@contextlib.asynccontextmanager
async def opened(database_url: str) -> AsyncIterator[Connection]:
    """Open a connection with our settings that commits every statement, and close it whatever became of it.

    It keeps the search path of the role: statements of a target file may rely on it.

    Raises:
        psycopg.Error: there is none within `PATIENCE_S`.
    """
    connection = await psycopg.AsyncConnection.connect(conninfo(database_url, connect_timeout=PATIENCE_S), autocommit=True)
    try:
        with within(connection, PATIENCE_S):
            await connection.execute(_set(SETTINGS))
        yield connection
    finally:
        await connection.close()


@contextlib.contextmanager
def within(connection: Connection, seconds: float) -> Iterator[None]:
    """Cut the connection where the block takes longer, which then raises `psycopg.OperationalError`."""
    timer = asyncio.get_running_loop().call_later(seconds, _cut, connection)
    try:
        yield
    finally:
        timer.cancel()


def _cut(connection: Connection) -> None:
    with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as end:
        end.shutdown(socket.SHUT_RDWR)
