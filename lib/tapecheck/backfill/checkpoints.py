"""Where each job stands and what its series covers, and the checksum of what is stored. It moves no bars."""
# ruff: noqa: S608 - what is put into statements is schema, table and column names, constants of ours

import datetime as dt
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import Any

import psycopg

from tapecheck import database
from tapecheck.backfill import schema as schemas
from tapecheck.backfill.features import NAMES
from tapecheck.backfill.schema import LIVE
from tapecheck.vendor.bars import COLUMNS


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """How far a job is: `asked`, `filling`, `done` or `failed`; `refreshed_at` is when upstream last confirmed that we hold everything.

    Every bar from `covers_from` to the watermark is stored, and of a job that is done every one to `covers_to`: with prices that
    are `adjusted` for splits or not, and with `features` or without. Jobs of an older version do not say what they cover.
    """

    symbol: str
    timeframe: str
    state: str
    watermark: dt.datetime | None = None
    refreshed_at: dt.datetime | None = None
    rows: int = 0
    failures: int = 0
    error: str | None = None
    covers_from: dt.datetime | None = None
    covers_to: dt.datetime | None = None
    adjusted: bool | None = None
    features: bool | None = None

    def is_made(self, *, start: dt.datetime, adjusted: bool, features: bool) -> bool:
        """Tell whether what is stored begins by a time and was made in this way, so that it can be continued."""
        return self.covers_from is not None and self.covers_from <= start and (self.adjusted, self.features) == (adjusted, features)

    def covers(self, start: dt.datetime, end: dt.datetime, *, adjusted: bool, features: bool) -> bool:
        """Tell whether upstream has confirmed that all bars from one time to another are stored."""
        is_made = self.is_made(start=start, adjusted=adjusted, features=features)
        return self.state == "done" and is_made and self.covers_to is not None and self.covers_to >= end


FIELDS = ", ".join(field.name for field in fields(Checkpoint))


def take_over(database_url: str, schema: str, keys: Collection[tuple[str, str]], first: dt.date, live: str = LIVE) -> bool:
    """Make the finished history of a measured backfill the live one, whose tables hold nothing yet, to be refreshed from there.

    Return whether that was done: nothing is taken over that lacks a job, features, or days from the first one on.

    Raises:
        Busy: a backfill is writing it.
        psycopg.Error: the database refuses.
    """
    start = dt.datetime(first.year, first.month, first.day, tzinfo=dt.UTC) + dt.timedelta(hours=5)  # midnight in New York at the latest
    tables = ("bars", "features", "checkpoints")
    with schemas.exclusive(database_url, schema), database.connect(database_url) as connection:
        connection.execute(
            f"LOCK TABLE {', '.join(f'{live}.{table}' for table in tables)} IN EXCLUSIVE MODE"
        )  # nobody fills them meanwhile
        if connection.execute("SELECT to_regclass(%s)", (f"{schema}.checkpoints",)).fetchone() == (None,):
            return False
        stand = read_with(connection, schema).items()
        found = {key for key, one in stand if one.state == "done" and one.is_made(start=start, adjusted=True, features=True)}
        if not found.issuperset(keys) or any(connection.execute(f"SELECT FROM {live}.{table} LIMIT 1").fetchall() for table in tables):
            return False
        for table in tables:
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
