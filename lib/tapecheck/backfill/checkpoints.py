"""Where each job stands, and the tables that hold it all in PostgreSQL. It moves no bars."""
# ruff: noqa: S608 - what is put into statements is schema, table and column names, constants of ours

import datetime as dt
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from pydantic import ValidationError

from tapecheck import database
from tapecheck.backfill import schema as schemas
from tapecheck.backfill.features import NAMES
from tapecheck.config import Model
from tapecheck.vendor.bars import COLUMNS

LIVE = "tapecheck"  # the schema of what a service serves; a measured backfill has one of its own
TABLES = ("bars", "features", "checkpoints")
FIELDS = "symbol, timeframe, state, watermark, refreshed_at, rows, failures, error"

_TABLES = """
CREATE SCHEMA IF NOT EXISTS {schema};
CREATE TABLE IF NOT EXISTS {schema}.bars (
    symbol text NOT NULL, timeframe text NOT NULL, time timestamptz NOT NULL,
    o float8 NOT NULL, h float8 NOT NULL, l float8 NOT NULL, c float8 NOT NULL, v float8 NOT NULL, vw float8, n int8,
    PRIMARY KEY (symbol, timeframe, time));
CREATE TABLE IF NOT EXISTS {schema}.features (
    symbol text NOT NULL, timeframe text NOT NULL, time timestamptz NOT NULL,
    {features},
    PRIMARY KEY (symbol, timeframe, time));
CREATE TABLE IF NOT EXISTS {schema}.checkpoints (
    symbol text NOT NULL, timeframe text NOT NULL, state text NOT NULL, watermark timestamptz, refreshed_at timestamptz,
    rows int8 NOT NULL DEFAULT 0, failures int4 NOT NULL DEFAULT 0, error text, updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (symbol, timeframe));
CREATE TABLE IF NOT EXISTS {schema}.history (first_day date NOT NULL, features boolean NOT NULL, days int4);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """How far a job is: `asked`, `filling`, `done` or `failed`; `refreshed_at` is when upstream last confirmed that we hold everything."""

    symbol: str
    timeframe: str
    state: str
    watermark: dt.datetime | None = None
    refreshed_at: dt.datetime | None = None
    rows: int = 0
    failures: int = 0
    error: str | None = None


class Note(Model):
    """How what a schema holds was made: its first day, whether with features, and of how many days until today; None: until a fixed end."""

    first: dt.date
    features: bool
    days: int | None = None

    def __str__(self) -> str:
        return f"history from {self.first}, features: {self.features}"

    def is_like(self, other: "Note | None") -> bool:
        """Tell whether a run may go on from what another left."""
        return other is not None and (self.first, self.features) == (other.first, other.features)


def prepare(database_url: str, schema: str = LIVE, *, empty: bool = False) -> None:
    """Create a schema and its tables where they are missing; safe to call from several processes at once.

    Args:
        empty: drop the tables and what they hold first.

    Raises:
        WrongTables: a table of another shape is there; nothing was written.
        psycopg.errors.LockNotAvailable: another session holds a lock on the tables.
    """
    features = ", ".join(f"{name} float8" for name in NAMES)
    with database.connect(database_url) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(8245117)")
        schemas.check(connection, schema, _TABLES.format(schema=schemas.SCRATCH, features=features))
        if empty:
            connection.execute(f"DROP TABLE IF EXISTS {', '.join(f'{schema}.{table}' for table in (*TABLES, 'history'))}")
        connection.execute(_TABLES.format(schema=schema, features=features))


def write_note(database_url: str, schema: str, note: Note) -> None:
    """Note in a schema how what it holds was made."""
    with database.connect(database_url) as connection:
        connection.execute(f"DELETE FROM {schema}.history")
        connection.execute(f"INSERT INTO {schema}.history VALUES (%s, %s, %s)", (note.first, note.features, note.days))


def read_note(database_url: str, schema: str) -> Note | None:
    """Return the note, or None where there is none; older versions left it as a comment on the schema."""
    with database.connect(database_url) as connection:
        if _row(connection, "SELECT to_regclass(%s)", f"{schema}.history") and (
            row := _row(connection, f"SELECT first_day, features, days FROM {schema}.history")
        ):
            return Note(first=row[0], features=row[1], days=row[2])
        comment = _row(connection, "SELECT obj_description(to_regnamespace(%s), 'pg_namespace')", schema)
    try:
        return Note.model_validate_json(comment[0]) if comment else None
    except ValidationError:
        return None


def _row(connection: psycopg.Connection, question: LiteralString, *values: str) -> tuple[Any, ...] | None:
    """Return the first row of an answer, or None where there is none or its first value is NULL."""
    row = connection.execute(question, values).fetchone()
    return row if row and row[0] is not None else None


def take_over(database_url: str, schema: str, keys: Collection[tuple[str, str]], first: dt.date, live: str = LIVE) -> bool:
    """Make the finished history of a measured backfill the live one, whose tables hold nothing yet, to be refreshed from there.

    Return whether that was done: nothing is taken over that lacks a job, features, or days from the first one on.

    Raises:
        Busy: a backfill is writing it.
        psycopg.Error: the database refuses.
    """
    note = read_note(database_url, schema)
    if note is None or not note.features or note.days is None or note.first > first:
        return False
    with schemas.exclusive(database_url, schema), database.connect(database_url) as connection:
        live_tables = ", ".join(f"{live}.{table}" for table in TABLES)
        connection.execute(f"LOCK TABLE {live_tables} IN EXCLUSIVE MODE")  # nobody fills them meanwhile
        found = {key for key, one in read_with(connection, schema).items() if one.state == "done"}
        if not found.issuperset(keys) or any(connection.execute(f"SELECT FROM {live}.{table} LIMIT 1").fetchall() for table in TABLES):
            return False
        for table in TABLES:
            connection.execute(f"DROP TABLE {live}.{table}")
            connection.execute(f"ALTER TABLE {schema}.{table} SET SCHEMA {live}")
        connection.execute(f"UPDATE {live}.checkpoints SET state = 'asked'")  # it ends with yesterday
    return True


def ask(database_url: str, symbols: Sequence[str], schema: str = LIVE) -> None:
    """Note that the finished jobs of symbols are to be done again."""
    with database.connect(database_url) as connection:
        connection.execute(f"UPDATE {schema}.checkpoints SET state = 'asked' WHERE state = 'done' AND symbol = ANY(%s)", (list(symbols),))


def read(database_url: str, schema: str = LIVE) -> dict[tuple[str, str], Checkpoint]:
    """Return the checkpoint of every job, by symbol and timeframe."""
    with database.connect(database_url) as connection:
        return read_with(connection, schema)


def read_with(connection: psycopg.Connection, schema: str = LIVE) -> dict[tuple[str, str], Checkpoint]:
    """Return the checkpoint of every job over an open connection."""
    found = connection.execute(f"SELECT {FIELDS} FROM {schema}.checkpoints").fetchall()
    return {(row[0], row[1]): checkpoint_of(row) for row in found}


def checkpoint_of(row: Sequence[Any]) -> Checkpoint:
    """Return a row of `FIELDS` as a checkpoint."""
    return Checkpoint(**dict(zip(FIELDS.split(", "), row, strict=True)))


# ---- checksum ----

VALUES = {"bars": COLUMNS[1:], "features": NAMES}


@dataclass(frozen=True, slots=True, kw_only=True)
class Checksum:
    """How many rows, and the sum of their hashes (modulo 2^64)."""

    rows: int = 0
    hashes: int = 0

    def __add__(self, other: "Checksum") -> "Checksum":
        return Checksum(rows=self.rows + other.rows, hashes=(self.hashes + other.hashes) % 2**64)

    def __str__(self) -> str:
        return f"{self.rows}-{self.hashes:016x}"


def by_series(connection: psycopg.Connection, schema: str = LIVE) -> dict[tuple[str, str], Checksum]:
    """Return the checksum of each symbol and timeframe, bars and features together, in the order of their names."""
    found = connection.execute(
        "SELECT symbol, timeframe, count(*), sum(('x' || left(md5(row), 16))::bit(64)::int8)"
        f" FROM ({' UNION ALL '.join(_rows(schema, table) for table in VALUES)}) rows GROUP BY 1, 2 ORDER BY 1, 2"
    ).fetchall()
    return {(symbol, timeframe): Checksum(rows=rows, hashes=int(hashes) % 2**64) for symbol, timeframe, rows, hashes in found}


def whole(connection: psycopg.Connection, schema: str = LIVE) -> Checksum:
    """Return the checksum of all series, which is the sum of theirs, since a row's hash holds its symbol and timeframe."""
    return sum(by_series(connection, schema).values(), Checksum())


def _rows(schema: str, table: str) -> str:
    values = ", ".join(f"{name} + 0.0::float8" for name in VALUES[table])  # makes 0.0 of -0.0
    return f"SELECT symbol, timeframe, record_send(ROW('{table}'::text, symbol, timeframe, time, {values})) AS row FROM {schema}.{table}"
