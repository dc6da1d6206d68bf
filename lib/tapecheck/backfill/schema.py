"""Refuses tables of another shape than ours before anything is written, and partitions ours by time where it can. It holds no rows."""

import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import LiteralString

import psycopg

from tapecheck import database
from tapecheck.errors import TargetError


class WrongTables(TargetError):
    """A table in the database has another shape than ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A table's columns as SQL would declare them, and its primary key."""

    columns: dict[str, str]
    key: tuple[str, ...]


SCRATCH = "tapecheck_declared"  # a schema that nobody ever sees: it is rolled back


def check(connection: psycopg.Connection, schema: str, declared: str) -> None:
    """Compare the tables of a schema with those that `declared` creates in `SCRATCH`; missing tables are no difference.

    Raises:
        WrongTables: every difference of every table, by name.
    """
    found = _shapes(connection, schema)
    if not found:
        return
    with connection.transaction(force_rollback=True):
        connection.execute(declared)
        ours = _shapes(connection, SCRATCH)
    wrong = [line for name, shape in ours.items() if name in found for line in differences(f"{schema}.{name}", shape, found[name])]
    if wrong:
        raise WrongTables(f"{'; '.join(wrong)}. Nothing was written: rename these tables, or name another database or schema")


def differences(name: str, ours: Shape, found: Shape) -> list[str]:
    """Say how a table that was found differs from ours; an empty list for one of our shape."""
    lines = [f"{name}: column {c} {t} is missing" for c, t in ours.columns.items() if c not in found.columns]
    lines += [f"{name}: column {c} {t} is not ours" for c, t in found.columns.items() if c not in ours.columns]
    both = [c for c in ours.columns if c in found.columns]
    lines += [f"{name}: column {c} is {found.columns[c]}, ours is {ours.columns[c]}" for c in both if found.columns[c] != ours.columns[c]]
    if set(found.key) != set(ours.key):
        lines.append(f"{name}: its primary key is {_key(found.key)}, ours is {_key(ours.key)}")
    return lines


def has_extension(connection: psycopg.Connection, name: str) -> bool:
    """Tell whether an extension is installed in the database, not merely on the server's disk."""
    return connection.execute("SELECT 1 FROM pg_extension WHERE extname = %s", (name,)).fetchone() is not None


def partition(connection: psycopg.Connection, schema: str, tables: Iterable[str]) -> None:
    """Make tables hypertables of TimescaleDB where that extension is installed; elsewhere they stay plain tables.

    Only the detection could be tried where this was written, for want of the extension; the call is that of its
    documentation (2.x): the primary key holds the time, as it demands, and stays the only index.
    """
    if not has_extension(connection, "timescaledb"):
        return
    for table in tables:
        connection.execute(
            "SELECT create_hypertable(%s, 'time', if_not_exists => true, migrate_data => true, create_default_indexes => false)",
            (f"{schema}.{table}",),
        )


def _shapes(connection: psycopg.Connection, schema: str) -> dict[str, Shape]:
    rows = connection.execute(
        "SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod) || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END,"
        " coalesce(a.attnum = ANY (i.indkey), false) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid"
        " LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary"
        " WHERE c.relnamespace = to_regnamespace(%s) AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND a.attnum > 0 AND NOT a.attisdropped"
        " ORDER BY c.relname, a.attnum",
        (schema,),
    ).fetchall()
    shapes: dict[str, Shape] = {}
    for table, column, declared, is_key in rows:
        shape = shapes.get(table, Shape(columns={}, key=()))
        shapes[table] = Shape(columns=shape.columns | {column: declared}, key=shape.key + (column,) * is_key)
    return shapes


def _key(columns: tuple[str, ...]) -> str:
    return f"({', '.join(columns)})" if columns else "missing"


# ---- lock ----

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
        with _held(connection, database_url, "SELECT pg_try_advisory_lock(%s, %s)", (RUN, _lock_key(schema))):
            yield
    finally:
        connection.close()


@contextmanager
def share(database_url: str, schema: str) -> Iterator[None]:
    """Keep new runs out of a schema while a member does its share of one; a database that is away keeps nobody from it."""
    connection = None
    ask, keys = "SELECT pg_try_advisory_lock_shared(%s, %s)", (SHARE, _lock_key(schema))
    with suppress(psycopg.Error):
        connection = _connected(database_url)
        connection.execute(ask, keys)
    with _held(connection, database_url, ask, keys):
        yield


def _is_ours(connection: psycopg.Connection, schema: str) -> bool:
    """Take the lock of a run where no other run, and no member of one, has a lock."""
    key = _lock_key(schema)
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


def _lock_key(schema: str) -> int:
    """Return a schema's number, the same everywhere, as the database's 4 bytes hold it."""
    return zlib.crc32(schema.encode()) - 2**31
