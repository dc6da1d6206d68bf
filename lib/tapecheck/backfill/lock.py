"""Keeps two backfills out of one schema, by advisory locks that end with their session. It touches no table."""

import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import LiteralString

import psycopg

from tapecheck.backfill import database
from tapecheck.errors import TargetError

RUN, SHARE = 8245118, 8245119  # the first keys of our locks; the second is the schema's
GRACE_S = 5.0  # for a run that was killed a moment ago: the server ends its session when it notices
CHECK_EVERY_S = 1.0


class Busy(TargetError):
    """Another backfill writes to the schema."""


@contextmanager
def run(database_url: str, schema: str) -> Iterator[None]:
    """Keep other runs out of a schema; where the connection is lost, the lock is taken again once the database is back.

    Raises:
        Busy: another run, or a worker that one has left behind, writes to the schema; nothing was written.
        psycopg.Error: the database does not answer.
    """
    connection, until_s = _connected(database_url), time.monotonic() + GRACE_S
    try:
        while not _is_ours(connection, schema):
            if time.monotonic() > until_s:
                raise Busy(
                    f"another backfill, or a worker that one has left behind, is writing to {schema}; nothing was written:"
                    " wait for its end, or name another database_schema"
                )
            time.sleep(0.1)
        with _held(connection, database_url, "SELECT pg_try_advisory_lock(%s, %s)", (RUN, _key(schema))):
            yield
    finally:
        connection.close()


@contextmanager
def share(database_url: str, schema: str) -> Iterator[None]:
    """Keep new runs out of a schema while a member does its share of one; a database that is away keeps nobody from it."""
    connection = None
    ask, keys = "SELECT pg_try_advisory_lock_shared(%s, %s)", (SHARE, _key(schema))
    with suppress(psycopg.Error):
        connection = _connected(database_url)
        connection.execute(ask, keys)
    with _held(connection, database_url, ask, keys):
        yield


def _is_ours(connection: psycopg.Connection, schema: str) -> bool:
    """Take the lock of a run where no other run, and no member of one, has a lock."""
    key = _key(schema)
    if not _got(connection, "SELECT pg_try_advisory_lock(%s, %s)", (RUN, key)):
        return False
    if _got(connection, "SELECT pg_try_advisory_lock(%s, %s)", (SHARE, key)):
        return _got(connection, "SELECT pg_advisory_unlock(%s, %s)", (SHARE, key))  # for our own members
    connection.execute("SELECT pg_advisory_unlock(%s, %s)", (RUN, key))
    return False


@contextmanager
def _held(connection: psycopg.Connection | None, database_url: str, ask: LiteralString, keys: tuple[int, int]) -> Iterator[None]:
    """Look after a lock's connection in a thread, which ends it with the context."""
    ended = threading.Event()

    def keep() -> None:
        held, is_ours = connection, connection is not None
        while not ended.wait(CHECK_EVERY_S):
            try:
                held = held or _connected(database_url)
                is_ours = _got(held, "SELECT true") if is_ours else _got(held, ask, keys)
            except psycopg.Error:
                if held is not None:
                    held.close()
                held, is_ours = None, False
        if held is not None:
            held.close()

    keeper = threading.Thread(target=keep, name="lock", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        ended.set()
        keeper.join(5)


def _connected(database_url: str) -> psycopg.Connection:
    """Connect so that the server notices soon, too, that a client's machine is gone."""
    connection = database.connect(database_url, autocommit=True)
    connection.execute("SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3")
    return connection


def _got(connection: psycopg.Connection, ask: LiteralString, keys: tuple[int, ...] = ()) -> bool:
    row = connection.execute(ask, keys).fetchone()
    return bool(row and row[0])


def _key(schema: str) -> int:
    """Return a schema's number, the same everywhere, as the database's 4 bytes hold it."""
    return zlib.crc32(schema.encode()) - 2**31
