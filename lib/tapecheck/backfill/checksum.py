"""Fingerprints of the final tables, to tell whether two backfills stored the same. It repairs nothing.

A row's hash is 64 bits of the MD5 of its values in PostgreSQL's binary form, in an order of ours: it depends on no setting of
the session and no version of the server. Hashes are added, not xored, so that the order of rows does not matter but a row that
is there twice does; the number of rows stands beside the sum. (The server's `hash_record_extended` would be faster, but it is
linear in the columns: two rows that swap a value keep their sum.) -0.0 counts as 0.0, as it does for the upsert, and NULL as
no number. It guards against accidents, not against forgery.
"""
# ruff: noqa: S608 - what is put into statements is schema, table and column names, constants of ours

from dataclasses import dataclass

import psycopg

from tapecheck.backfill.bars import COLUMNS
from tapecheck.backfill.checkpoints import LIVE
from tapecheck.backfill.features import NAMES

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
