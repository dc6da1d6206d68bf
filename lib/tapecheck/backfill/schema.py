"""The tables of a backfill, and whose a schema is: refuses tables of another shape, and a second run into the same schema."""

import time
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import LiteralString

import psycopg

from tapecheck import database
from tapecheck.backfill.features import NAMES
from tapecheck.errors import TargetError

LIVE = "tapecheck"  # the schema of what a service serves; a measured backfill has one of its own
TABLES = ("bars", "features", "checkpoints", "tokens")
SCRATCH = "tapecheck_declared"  # a schema that nobody ever sees: it is rolled back
PREPARING, RUN, WRITERS = 8245117, 8245118, 8245119  # the first keys of our locks; the second is the schema's
GRACE_S = 5.0  # for a run that was killed a moment ago: the server ends its session when it notices
COVERAGE = {"covers_from": "timestamptz", "covers_to": "timestamptz", "adjusted": "boolean", "features": "boolean"}

_KEY = "symbol text NOT NULL, timeframe text NOT NULL"
_DECLARED = f"""
CREATE SCHEMA IF NOT EXISTS {{schema}};
CREATE TABLE IF NOT EXISTS {{schema}}.bars (
    {_KEY}, time timestamptz NOT NULL,
    o float8 NOT NULL, h float8 NOT NULL, l float8 NOT NULL, c float8 NOT NULL, v float8 NOT NULL, vw float8, n int8,
    PRIMARY KEY (symbol, timeframe, time));
CREATE TABLE IF NOT EXISTS {{schema}}.features (
    {_KEY}, time timestamptz NOT NULL, {", ".join(f"{name} float8" for name in NAMES)},
    PRIMARY KEY (symbol, timeframe, time));
CREATE TABLE IF NOT EXISTS {{schema}}.checkpoints (
    {_KEY}, state text NOT NULL, watermark timestamptz, refreshed_at timestamptz,
    rows int8 NOT NULL DEFAULT 0, failures int4 NOT NULL DEFAULT 0, error text, updated_at timestamptz NOT NULL DEFAULT now(),
    {", ".join(f"{name} {kind}" for name, kind in COVERAGE.items())},
    PRIMARY KEY (symbol, timeframe));
CREATE TABLE IF NOT EXISTS {{schema}}.tokens (tokens float8 NOT NULL, at timestamptz NOT NULL);
"""


class WrongTables(TargetError):
    """A table in the database has another shape than ours."""


class Busy(TargetError):
    """Another backfill writes to the schema."""


def prepare(database_url: str, schema: str = LIVE, *, empty: bool = False) -> None:
    """Create a schema and its tables where they are missing; safe to call from several processes at once.

    Args:
        empty: drop the tables and what they hold first.

    Raises:
        WrongTables: a table of another shape is there; nothing was written.
        psycopg.errors.LockNotAvailable: another session holds a lock on the tables.
    """
    with database.connect(database_url) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (PREPARING,))
        old = _shapes(connection, schema).get("checkpoints", {})
        if "column watermark" in old and not any(f"column {name}" in old for name in COVERAGE):  # of an older version
            columns = ", ".join(f"ADD COLUMN {name} {kind}" for name, kind in COVERAGE.items())
            connection.execute(f"ALTER TABLE {schema}.checkpoints {columns}")
        _check(connection, schema)
        if empty:
            connection.execute(f"DROP TABLE IF EXISTS {', '.join(f'{schema}.{table}' for table in TABLES)}")
        connection.execute(_DECLARED.format(schema=schema))


def _check(connection: psycopg.Connection, schema: str) -> None:
    """Compare the tables of a schema with those that are declared; missing tables are no difference.

    Raises:
        WrongTables: every difference of every table, by name.
    """
    found = _shapes(connection, schema)
    if not found:
        return
    with connection.transaction(force_rollback=True):
        connection.execute(_DECLARED.format(schema=SCRATCH))
        declared = _shapes(connection, SCRATCH)
    wrong = [
        f"{schema}.{table}: {part} is {found[table].get(part, 'missing')}, expected {ours.get(part, 'none')}"
        for table, ours in declared.items()
        if table in found
        for part in ours | found[table]
        if found[table].get(part) != ours.get(part)
    ]
    if wrong:
        raise WrongTables(f"{'; '.join(wrong)}. Nothing was written: rename these tables, or name another database or schema")


def _shapes(connection: psycopg.Connection, schema: str) -> dict[str, dict[str, str]]:
    """Return by table each of its parts, a column or its primary key, and how SQL declares it."""
    rows = connection.execute(
        "SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod) || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END,"
        " coalesce(a.attnum = ANY (i.indkey), false) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid"
        " LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary"
        " WHERE c.relnamespace = to_regnamespace(%s) AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND a.attnum > 0 AND NOT a.attisdropped"
        " ORDER BY c.relname, a.attname",
        (schema,),
    ).fetchall()
    shapes: dict[str, dict[str, str]] = {}
    for table, column, declared, is_key in rows:
        shape = shapes.setdefault(table, {})
        shape[f"column {column}"] = declared
        if is_key:
            shape["primary key"] = f"{shape['primary key']}, {column}" if "primary key" in shape else column
    return shapes


# ---- one run at a time ----


@contextmanager
def exclusive(database_url: str, schema: str) -> Iterator[None]:
    """Keep other runs out of a schema; should this connection be lost, the locks of the run's writers do.

    Raises:
        Busy: another run, or a worker that one has left behind, writes to the schema; nothing was written.
        psycopg.Error: the database does not answer.
    """
    until_s = time.monotonic() + GRACE_S
    with closing(database.connect(database_url, autocommit=True)) as connection:
        while not _is_taken(connection, schema):
            if time.monotonic() > until_s:
                raise Busy(
                    f"another backfill, or a worker that one has left behind, is writing to {schema}; nothing was written:"
                    " wait for its end, or name another database_schema"
                )
            time.sleep(0.1)
        yield


def writers_lock(schema: str) -> str:
    """Return the statement with which a connection that writes keeps new runs out of a schema, as long as it lasts."""
    return f"SELECT pg_advisory_lock_shared({WRITERS}, {_key(schema)})::text"


def _is_taken(connection: psycopg.Connection, schema: str) -> bool:
    """Take the lock of a run where no other run, and no writer of one, has a lock."""
    if not _answer(connection, "SELECT pg_try_advisory_lock(%s, %s)", RUN, schema):
        return False
    if _answer(connection, "SELECT pg_try_advisory_lock(%s, %s)", WRITERS, schema):
        return _answer(connection, "SELECT pg_advisory_unlock(%s, %s)", WRITERS, schema)  # for our own writers
    _answer(connection, "SELECT pg_advisory_unlock(%s, %s)", RUN, schema)
    return False


def _answer(connection: psycopg.Connection, question: LiteralString, kind: int, schema: str) -> bool:
    row = connection.execute(question, (kind, _key(schema))).fetchone()
    return bool(row and row[0])


def _key(schema: str) -> int:
    """Return a schema's number, the same everywhere, as the database's 4 bytes hold it."""
    return zlib.crc32(schema.encode()) - 2**31
