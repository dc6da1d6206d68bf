"""Reaches a database that may be killed or frozen meanwhile, so that nobody waits for it longer than said. It asks nothing itself.

A frozen server keeps its sockets open. psycopg, when cancelled in the middle of a statement, asks such a server to stop it and
waits for that for another 10 s; so what takes too long is ended by shutting the socket down under it, which it takes for a server
that hung up. That needs an event loop, whose timers run in the thread that also closes sockets: no other can have got its number.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeVar

import psycopg
from anyio.from_thread import start_blocking_portal

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
