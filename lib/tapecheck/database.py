"""How the database is reached, and what its errors mean. It reads and writes nothing."""

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar

import adbc_driver_manager
import psycopg
from anyio.from_thread import start_blocking_portal

PATIENCE: dict[str, Any] = {  # a network that goes silent is noticed within about half a minute
    "connect_timeout": 10,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
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


def conninfo(url: str) -> str:
    """Return how to connect to a URL's database; what the URL itself says of times stays.

    Raises:
        psycopg.ProgrammingError: the URL cannot be read; the message does not hold it.
    """
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    try:
        said = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise psycopg.ProgrammingError("its URL cannot be read") from None
    return make_conninfo(**{**PATIENCE, **said})


def connect(url: str, **options: Any) -> psycopg.Connection:
    """Return a connection of psycopg's to a URL's database."""
    return psycopg.connect(conninfo(url), **options)


class Counting:
    """A cursor, of either driver, that counts the statements it sends: a COPY is one, BEGIN and COMMIT are none."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor
        self.statements = 0

    def execute(self, *words: Any) -> Any:
        """Send one."""
        self.statements += 1
        return self._cursor.execute(*words)

    def executemany(self, statement: str, rows: Sequence[Any], **options: Any) -> Any:
        """Send one a row."""
        self.statements += len(rows)
        return self._cursor.executemany(statement, rows, **options)

    def adbc_ingest(self, *words: Any, **options: Any) -> Any:
        """Send a COPY."""
        self.statements += 1
        return self._cursor.adbc_ingest(*words, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)


def is_lost(error: BaseException) -> bool:
    """Tell an error of a database that is away, and may come back, from that of one that refuses, and would again."""
    state = getattr(error, "sqlstate", None)
    if state:
        return str(state).startswith(_LOSSES)
    return isinstance(error, _UNSTATED) and not _UNWELCOME.search(str(error))


# ---- database ----

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
    """Open a connection that commits every statement, and close it whatever became of it.

    Raises:
        psycopg.Error: there is none within `PATIENCE_S`.
    """
    connection = await psycopg.AsyncConnection.connect(database_url, autocommit=True, connect_timeout=PATIENCE_S)
    try:
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
