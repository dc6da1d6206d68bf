"""Stores bars, features and checkpoints in PostgreSQL, a page in one transaction. It computes nothing.

Bulk goes through ADBC as binary COPY, straight into the table where the range is known to be new, else into a
staging table and one upsert that writes only what changed. The page's checkpoint commits with it, on the same
connection, so that whatever was acknowledged is whole and durable, and a resumed job knows where it stopped.
"""
# ruff: noqa: S608 - what is put into statements is column and table names, constants of ours

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import adbc_driver_manager
import numpy as np
import psycopg
import pyarrow as pa

from tapecheck import database
from tapecheck.backfill.checkpoints import FIELDS, LIVE, VALUES, Checkpoint, checkpoint_of
from tapecheck.backfill.schema import writers_lock
from tapecheck.vendor.bars import COLUMNS, Bars, FloatArray, to_datetime

SinkError = database.Error


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What a write did to the rows of `bars`."""

    inserted: int = 0
    changed: int = 0
    unchanged: int = 0

    def __add__(self, other: Self) -> Self:
        return type(self)(
            inserted=self.inserted + other.inserted, changed=self.changed + other.changed, unchanged=self.unchanged + other.unchanged
        )


class Sink:
    """One connection that writes; not for two threads at once. Use it as a context manager.

    `inserted` counts the bars that it has added, `statements` the SQL statements that it has sent, a COPY as one.
    """

    inserted = statements = 0

    def __init__(self, database_url: str, schema: str = LIVE) -> None:
        self._schema = schema
        self._ends: dict[tuple[str, str], int] = {}  # of a series: a start (ms) after which nothing was stored when we asked
        self._connection = database.connect_adbc(database_url)
        self._begin()
        for table in VALUES:
            self._execute(f"CREATE TEMP TABLE staging_{table} (LIKE {self._schema}.{table}) ON COMMIT DELETE ROWS")
        self._connection.commit()

    def _begin(self) -> None:
        self._cursor: Any = self._connection.cursor()
        self._execute(writers_lock(self._schema))
        self._cursor.fetchall()

    def _execute(self, *statement: Any) -> Any:
        self.statements += 1
        return self._cursor.execute(*statement)

    def _copy(self, name: str, table: pa.Table, **options: Any) -> None:
        self.statements += 1
        self._cursor.adbc_ingest(name, table, mode="append", **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; what was not committed is gone."""
        try:
            self._cursor.close()
            self._connection.close()
        except adbc_driver_manager.Error:
            pass  # the server went first

    def write(self, bars: Bars, features: Mapping[str, FloatArray], checkpoint: Checkpoint) -> Counts:
        """Write a page of bars with its features and checkpoint, all or nothing; durable when this returns.

        Without any features only bars are stored.
        The checkpoint's `rows` grow by what was inserted; its other fields are stored as they are.
        """
        try:
            counts = self._stored(bars, features, checkpoint, direct=True)
        except adbc_driver_manager.IntegrityError:  # another writer was first with some of the rows
            self._connection.rollback()
            self._ends.clear()
            counts = self._stored(bars, features, checkpoint, direct=False)
        except BaseException:
            self._connection.rollback()
            raise
        self.inserted += counts.inserted
        return counts

    def tail(self, symbol: str, timeframe: str, before: dt.datetime, count: int) -> Bars:
        """Return the newest `count` bars that start before a time, oldest first."""
        self._execute(
            f"SELECT (extract(epoch FROM time) * 1000)::int8 AS t, o, h, l, c, v, vw, n::float8 AS n FROM {self._schema}.bars"
            " WHERE symbol = $1 AND timeframe = $2 AND time < $3 ORDER BY time DESC LIMIT $4",
            (symbol, timeframe, before, count),
        )
        bars = self._fetched_bars()
        self._connection.rollback()
        return bars[::-1]

    def checkpoint(self, symbol: str, timeframe: str) -> Checkpoint | None:
        """Return where a job stands, or None for one that never began."""
        self._execute(f"SELECT {FIELDS} FROM {self._schema}.checkpoints WHERE symbol = $1 AND timeframe = $2", (symbol, timeframe))
        row = self._cursor.fetchone()
        self._connection.rollback()
        return checkpoint_of(row) if row else None

    def fail(self, symbol: str, timeframe: str, error: str) -> None:
        """Record that a job failed, and why; what it stored before stays."""
        self._execute(
            f"INSERT INTO {self._schema}.checkpoints AS old (symbol, timeframe, state, failures, error) VALUES ($1, $2, 'failed', 1, $3)"
            " ON CONFLICT (symbol, timeframe) DO UPDATE SET state = 'failed', failures = old.failures + 1,"
            " error = excluded.error, updated_at = now()",
            (symbol, timeframe, error[:500]),
        )
        self._connection.commit()

    def _stored(self, bars: Bars, features: Mapping[str, FloatArray], checkpoint: Checkpoint, *, direct: bool) -> Counts:
        counts = Counts()
        if len(bars):
            key = _key_columns(bars, checkpoint.symbol, checkpoint.timeframe)
            nullable = {name: getattr(bars, name) for name in VALUES["bars"]}
            tables = {"bars": _table(key, nullable)} | ({"features": _table(key, features)} if features else {})
            if direct and self._is_new(bars, checkpoint):
                counts = Counts(inserted=len(bars))
                for name, table in tables.items():
                    self._copy(name, table, db_schema_name=self._schema)
            else:
                counts = self._upserted("bars", tables["bars"])
                if features:
                    self._upserted("features", tables["features"])
        self._save(checkpoint, counts.inserted)
        self._connection.commit()
        return counts

    def _is_new(self, bars: Bars, checkpoint: Checkpoint) -> bool:
        """Tell whether nothing is stored from a page's first bar on: asked once, and known of the pages that follow."""
        key = (checkpoint.symbol, checkpoint.timeframe)
        last_ms = self._ends.pop(key, None)
        is_new = (last_ms is not None and last_ms < bars.t[0]) or self._is_free(*key, to_datetime(bars.t[0]))
        if is_new:
            self._ends[key] = int(bars.t[-1])
        return is_new

    def _is_free(self, symbol: str, timeframe: str, begin: dt.datetime) -> bool:
        self._execute(
            f"SELECT NOT EXISTS (SELECT FROM {self._schema}.bars WHERE symbol = $1 AND timeframe = $2 AND time >= $3)",
            (symbol, timeframe, begin),
        )
        row = self._cursor.fetchone()
        return bool(row and row[0])

    def _upserted(self, name: str, table: pa.Table) -> Counts:
        """Upsert through staging; a row whose values are equal is left alone, so that its page is not written again."""
        self._copy(f"staging_{name}", table, temporary=True)
        self._execute(
            f"WITH written AS ({self._upsert(name, f'SELECT * FROM staging_{name}')})"
            " SELECT count(*) FILTER (WHERE is_new), count(*) FILTER (WHERE NOT is_new) FROM written"
        )
        row = self._cursor.fetchone()
        inserted, changed = (int(row[0]), int(row[1])) if row else (0, 0)
        self._execute(f"DELETE FROM staging_{name}")
        return Counts(inserted=inserted, changed=changed, unchanged=table.num_rows - inserted - changed)

    def _upsert(self, name: str, rows: str) -> str:
        """Return the statement that upserts rows, a query or VALUES, and says of each one it wrote whether it is new."""
        values = VALUES[name]
        return (
            f"INSERT INTO {self._schema}.{name} AS old {rows}"
            f" ON CONFLICT (symbol, timeframe, time) DO UPDATE SET {', '.join(f'{v} = excluded.{v}' for v in values)}"
            f" WHERE ({', '.join(f'old.{v}' for v in values)}) IS DISTINCT FROM ({', '.join(f'excluded.{v}' for v in values)})"
            " RETURNING xmax = 0 AS is_new"  # a row version that nobody has locked or replaced was inserted by us
        )

    def _fetched_bars(self) -> Bars:
        table = self._cursor.fetch_arrow_table()
        arrays: dict[str, Any] = {name: table.column(name).to_numpy() for name in COLUMNS}
        return Bars(**arrays)

    def _save(self, checkpoint: Checkpoint, inserted: int) -> None:
        self._execute(
            f"INSERT INTO {self._schema}.checkpoints AS old (symbol, timeframe, state, watermark, refreshed_at, rows)"
            " VALUES ($1, $2, $3, $4, $5, $6)"
            " ON CONFLICT (symbol, timeframe) DO UPDATE SET state = excluded.state, watermark = excluded.watermark,"
            " refreshed_at = excluded.refreshed_at, rows = old.rows + excluded.rows, failures = 0, error = NULL, updated_at = now()",
            (checkpoint.symbol, checkpoint.timeframe, checkpoint.state, checkpoint.watermark, checkpoint.refreshed_at, inserted),
        )


def _key_columns(bars: Bars, symbol: str, timeframe: str) -> dict[str, pa.Array]:
    time = pa.array(bars.t * 1000, pa.timestamp("us", tz="UTC"))
    return {"symbol": pa.repeat(symbol, len(bars)), "timeframe": pa.repeat(timeframe, len(bars)), "time": time}


def _table(key: Mapping[str, pa.Array], values: Mapping[str, FloatArray]) -> pa.Table:
    """Put columns together for a COPY; NaN becomes NULL."""
    columns = {name: pa.array(column, mask=np.isnan(column)) for name, column in values.items()}
    if "n" in columns:
        columns["n"] = columns["n"].cast(pa.int64())
    return pa.table({**key, **columns})


# ---- strategies ----

Row = Sequence[Any]


class RowByRowSink(Sink):
    """Upserts with an INSERT of one row, which psycopg prepares, and waits for its answer: a round trip a row."""

    def __init__(self, database_url: str, schema: str = LIVE) -> None:
        self._schema = schema
        self._connection = database.connect(database_url, cursor_factory=psycopg.RawCursor)  # $1, as ADBC writes it
        self._begin()
        self._connection.commit()

    def _is_new(self, bars: Bars, checkpoint: Checkpoint) -> bool:
        return False  # the short way of a range known to be new is part of `copy`

    def _upserted(self, name: str, table: pa.Table) -> Counts:
        places = ", ".join(f"${i}" for i in range(1, table.num_columns + 1))
        statement = self._upsert(name, f"({', '.join(table.column_names)}) VALUES ({places})")
        rows = list(zip(*(column.to_pylist() for column in table.columns), strict=True))
        written = [is_new for is_new in self._inserted(statement, rows) if is_new is not None]
        inserted = sum(written)
        return Counts(inserted=inserted, changed=len(written) - inserted, unchanged=len(rows) - len(written))

    def _inserted(self, statement: str, rows: Sequence[Row]) -> Iterable[bool | None]:
        """Upsert the rows; yield of each whether it was inserted (True), changed (False) or left alone (None)."""
        for row in rows:
            found = self._execute(statement, row).fetchone()
            yield found[0] if found else None

    def _fetched_bars(self) -> Bars:
        columns = np.array(self._cursor.fetchall(), np.float64).reshape(-1, len(COLUMNS)).T
        values: dict[str, Any] = dict(zip(COLUMNS, columns, strict=True))
        return Bars(**values | {"t": columns[0].astype(np.int64)})


class ExecutemanySink(RowByRowSink):
    """Sends all rows of a page through psycopg's executemany, which does not wait between them."""

    def _inserted(self, statement: str, rows: Sequence[Row]) -> Iterable[bool | None]:
        self.statements += len(rows)
        self._cursor.executemany(statement, rows, returning=True)
        for result in self._cursor.results():
            found = result.fetchone()
            yield found[0] if found else None


STRATEGIES: dict[str, type[Sink]] = {"copy": Sink, "executemany": ExecutemanySink, "row_by_row": RowByRowSink}
