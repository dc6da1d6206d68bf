"""One session with a database: how it is reached, with which settings, and what its errors mean. It reads and writes nothing."""

import asyncio
import contextlib
import os
import re
import socket
import stat
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeVar

import adbc_driver_manager
import psycopg
from anyio.from_thread import start_blocking_portal
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tapecheck import text
from tapecheck.errors import first_line

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
    "quote_all_identifiers": "off",
    "default_transaction_isolation": "read committed",
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

_LOSSES = ("08", "57P", "53", "40", "25P03", "25006", "55P03")  # SQLSTATEs of what may pass: what was asked may succeed later
_MEANING = {  # of SQLSTATEs whose messages do not say what to do
    "25006": "the database is read-only, as a standby is until it is promoted",
    "53100": "the disk of the database is full",
    "53300": "the database has no free connection",
    "55P03": "another session holds a lock on the tables: end its transaction (see pg_stat_activity)",
}
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
    text.learn(url)
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


def connect(
    url: str, *, statement_timeout: str = SETTINGS["statement_timeout"], lock_timeout: str | int | None = None, **options: Any
) -> psycopg.Connection:
    """Return a connection of psycopg's for our own tables, with our settings."""
    connection = psycopg.connect(conninfo(url), **options)
    own = {"statement_timeout": statement_timeout, "lock_timeout": str(lock_timeout or SETTINGS["lock_timeout"])}
    try:
        connection.execute(_set(SETTINGS | OWN_TABLES | own))
        connection.commit()
    except BaseException:
        connection.close()
        raise
    return connection


def connect_adbc(url: str, *, lock_timeout: str | None = None, ends: list[socket.socket] | None = None) -> Any:
    """Return a connection of ADBC's for our own tables, with our settings; a transaction is always open in it.

    Args:
        ends: takes another handle of its socket, for `cut` alone, where one can be found.
    """
    from adbc_driver_postgresql import dbapi  # type: ignore[import-untyped]  # over a second, pandas included: paid by who uses it

    own = {"lock_timeout": lock_timeout or SETTINGS["lock_timeout"]}
    with _sockets(url) as found:
        connection = dbapi.connect(conninfo(url))
        try:
            with contextlib.closing(connection.cursor()) as cursor:
                cursor.execute("SELECT current_setting('quote_all_identifiers')")
                if cursor.fetchone()[0] not in ("off", b"off"):  # the driver has read the names of types by then, in quotes
                    connection.close()
                    options = f"{conninfo_to_dict(url).get('options') or ''} -c quote_all_identifiers=off"
                    return connect_adbc(conninfo(url, options=options), lock_timeout=lock_timeout, ends=ends)
                cursor.execute(_set(SETTINGS | OWN_TABLES | own))
                cursor.fetchall()
                cursor.execute("SELECT inet_client_port()")
                (port,) = cursor.fetchone()
            connection.commit()
            if ends is not None:
                ends += found(port)
        except BaseException:
            connection.close()
            raise
    return connection


def is_lost(error: BaseException) -> bool:
    """Tell an error of a database that is away or busy, and may be there later, from that of one that refuses, and would again."""
    state = getattr(error, "sqlstate", None)
    if state:
        return str(state).startswith(_LOSSES)
    return isinstance(error, _UNSTATED) and not _UNWELCOME.search(str(error))


def said(error: BaseException) -> str:
    """Say in one line what an error of a database means."""
    what = "the database does not answer" if is_lost(error) else "the database refuses"
    why = first_line(error)
    return f"{_MEANING.get(getattr(error, 'sqlstate', None) or '', what)}: {why.partition('ERROR:  ')[2] or why}"


# ---- cutting a connection that hangs ----


_one_by_one = threading.Lock()  # a Unix socket has no number by which it could be told from another one


@contextlib.contextmanager
def _sockets(url: str) -> Iterator[Callable[[int | None], list[socket.socket]]]:
    """Yield what returns, by its local port if it has one, a handle of the socket to the database that the block has opened."""
    is_unix = str(conninfo_to_dict(conninfo(url)).get("host") or "/").startswith("/")
    with _one_by_one if is_unix else contextlib.nullcontext():
        before = _handles()

        def found(port: int | None) -> list[socket.socket]:
            own: list[socket.socket] = []
            for number, _ in _handles() - before:
                with contextlib.suppress(OSError), contextlib.ExitStack() as stack:  # closed meanwhile, or connected to nobody
                    one = stack.enter_context(socket.socket(fileno=os.dup(number)))
                    is_ours = one.family == socket.AF_UNIX if is_unix else one.family != socket.AF_UNIX and one.getsockname()[1] == port
                    if is_ours and one.getpeername() and not own:
                        own.append(one)
                        stack.pop_all()
            return own

        yield found


def _handles() -> set[tuple[int, int]]:
    """Return the sockets that this process has open, by number and inode: numbers are used again."""
    found = set()
    for name in os.listdir("/dev/fd"):  # noqa: PTH208 - numbers, not files
        with contextlib.suppress(OSError):
            state = os.fstat(int(name))
            if stat.S_ISSOCK(state.st_mode):
                found.add((int(name), state.st_ino))
    return found


def handle(connection: "psycopg.Connection | Connection") -> socket.socket:
    """Return another handle of the socket of a connection of psycopg's."""
    return socket.socket(fileno=os.dup(connection.fileno()))


def cut(end: socket.socket) -> None:
    """End a connection from this side, whatever waits for its answer, which then raises an error of the driver's."""
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def limited(connection: psycopg.Connection, seconds: float) -> Iterator[None]:
    """Cut the connection where the block takes longer, which then raises `psycopg.OperationalError`."""
    timer = threading.Timer(seconds, _cut, (connection,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


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
async def opened(database_url: str, **more: str) -> AsyncIterator[Connection]:
    """Open a connection with our settings, and more, that commits every statement, and close it whatever became of it.

    It keeps the search path of the role: statements of a target file may rely on it.

    Raises:
        psycopg.Error: there is none within `PATIENCE_S`.
    """
    connection = await psycopg.AsyncConnection.connect(conninfo(database_url, connect_timeout=PATIENCE_S), autocommit=True)
    try:
        with within(connection, PATIENCE_S):
            await connection.execute(_set(SETTINGS | more))
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


def _cut(connection: "psycopg.Connection | Connection") -> None:
    with contextlib.suppress(OSError, psycopg.Error), handle(connection) as end:
        cut(end)
