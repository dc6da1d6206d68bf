"""Refuses tables of another shape than ours before anything is written, and partitions ours by time where it can. It holds no rows."""

from collections.abc import Iterable
from dataclasses import dataclass

import psycopg

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
