"""Stores bars, features and checkpoints in PostgreSQL, a page in one transaction. It computes nothing.

Bulk goes through ADBC as binary COPY, straight into the table where the range is known to be new, else into a
staging table and one upsert that writes only what changed. The page's checkpoint commits with it, on the same
connection, so that whatever was acknowledged is whole and durable, and a resumed job knows where it stopped.
"""
# ruff: noqa: S608 - what is put into statements is column and table names, constants of ours

import contextlib
import datetime as dt
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import adbc_driver_manager
import numpy as np
import psycopg
import pyarrow as pa

from tapecheck import database
from tapecheck.backfill.checkpoints import FIELDS, VALUES, Checkpoint, checkpoint_of
from tapecheck.backfill.schema import COVERAGE, LIVE, writers_lock
from tapecheck.vendor.bars import COLUMNS, Bars, FloatArray, to_datetime

SinkError = database.Error
SAVED = ("symbol", "timeframe", "state", "watermark", "refreshed_at", *COVERAGE)  # of a checkpoint, with each page


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

    `inserted` counts the bars that it has added, `statements` the SQL statements that it has sent, a COPY as one; `asked_s` is when
    it sent the one that it waits for, on the monotonic clock, and `is_cut` that it waits no longer.

    Args:
        lock_s: how long it waits for a lock that another session holds.
    """

    inserted = statements = 0
    asked_s: float | None = None
    is_cut = False

    def __init__(self, database_url: str, schema: str = LIVE, lock_s: float = 10.0) -> None:
        self._schema = schema
        self._sockets: list[socket.socket] = []
        self._connection = self._connected(database_url, f"{lock_s * 1000:.0f}ms")
        try:
            self._cursor: Any = self._connection.cursor()
            self._begin()
            self._connection.commit()
        except BaseException:
            self.close()
            raise
        self.asked_s = None

    def _connected(self, database_url: str, lock_timeout: str) -> Any:
        return database.connect_adbc(database_url, lock_timeout=lock_timeout, ends=self._sockets)

    def _begin(self) -> None:
        self._execute(writers_lock(self._schema))
        self._cursor.fetchall()
        for table in VALUES:
            self._execute(f"CREATE TEMP TABLE staging_{table} (LIKE {self._schema}.{table}) ON COMMIT DELETE ROWS")

    def _execute(self, *statement: Any) -> Any:
        self.statements += 1
        self.asked_s = time.monotonic()
        return self._cursor.execute(*statement)

    def _copy(self, name: str, table: pa.Table, **options: Any) -> None:
        self.statements += 1
        self.asked_s = time.monotonic()
        self._cursor.adbc_ingest(name, table, mode="append", **options)

    def _end(self, *, keep: bool) -> None:
        """Commit what was written, or take it back."""
        self.asked_s = time.monotonic()
        (self._connection.commit if keep else self._connection.rollback)()
        self.asked_s = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; what was not committed is gone."""
        with contextlib.suppress(*SinkError, AttributeError):  # the server went first, or there was no cursor yet
            self._cursor.close()
        with contextlib.suppress(*SinkError):
            self._connection.close()
        while self._sockets:
            self._sockets.pop().close()

    def cut(self) -> None:
        """End the connection while another thread waits for it: a server that hangs would never answer."""
        self.is_cut = True
        for end in self._sockets:
            database.cut(end)

    def write(self, bars: Bars, features: Mapping[str, FloatArray], checkpoint: Checkpoint, *, anew: bool = False) -> Counts:
        """Write a page of bars with its features and checkpoint, all or nothing; durable when this returns.

        Without any features only bars are stored.
        The checkpoint's `rows` grow by what was inserted; its other fields are stored as they are.

        Args:
            anew: replace all that is stored of the series by this page.
        """
        try:
            counts = self._stored(bars, features, checkpoint, direct=True, anew=anew)
        except adbc_driver_manager.IntegrityError:  # another writer was first with some of the rows
            self._end(keep=False)
            counts = self._stored(bars, features, checkpoint, direct=False, anew=anew)
        except BaseException as error:
            asked_s = self.asked_s
            with contextlib.suppress(*SinkError):
                self._end(keep=False)
            self.asked_s = asked_s if isinstance(error, SinkError) else None
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
        self._end(keep=False)
        return bars[::-1]

    def checkpoint(self, symbol: str, timeframe: str) -> Checkpoint | None:
        """Return where a job stands, or None for one that never began."""
        self._execute(f"SELECT {FIELDS} FROM {self._schema}.checkpoints WHERE symbol = $1 AND timeframe = $2", (symbol, timeframe))
        row = self._cursor.fetchone()
        self._end(keep=False)
        return checkpoint_of(row) if row else None

    def fail(self, symbol: str, timeframe: str, error: str) -> None:
        """Record that a job failed, and why; what it stored before stays."""
        self._execute(
            f"INSERT INTO {self._schema}.checkpoints AS old (symbol, timeframe, state, failures, error) VALUES ($1, $2, 'failed', 1, $3)"
            " ON CONFLICT (symbol, timeframe) DO UPDATE SET state = 'failed', failures = old.failures + 1,"
            " error = excluded.error, updated_at = now()",
            (symbol, timeframe, error[:500]),
        )
        self._end(keep=True)

    def _stored(self, bars: Bars, features: Mapping[str, FloatArray], checkpoint: Checkpoint, *, direct: bool, anew: bool) -> Counts:
        counts, replaced = Counts(), self._deleted(checkpoint) if anew else 0
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
        self._save(checkpoint, counts.inserted, anew=anew)
        self._end(keep=True)
        changed = min(replaced, counts.inserted)
        return counts + Counts(inserted=-changed, changed=changed)

    def _deleted(self, checkpoint: Checkpoint) -> int:
        """Delete a series and return how many bars it had."""
        rows = 0
        for name in ("features", "bars"):
            which = f"DELETE FROM {self._schema}.{name} WHERE symbol = $1 AND timeframe = $2 RETURNING 1"
            self._execute(f"WITH gone AS ({which}) SELECT count(*) FROM gone", (checkpoint.symbol, checkpoint.timeframe))
            rows = int(self._cursor.fetchone()[0])
        return rows

    def _is_new(self, bars: Bars, checkpoint: Checkpoint) -> bool:
        """Tell whether nothing is stored from a page's first bar on."""
        self._execute(
            f"SELECT NOT EXISTS (SELECT FROM {self._schema}.bars WHERE symbol = $1 AND timeframe = $2 AND time >= $3)",
            (checkpoint.symbol, checkpoint.timeframe, to_datetime(bars.t[0])),
        )
        return bool(self._cursor.fetchone()[0])

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

    def _save(self, checkpoint: Checkpoint, inserted: int, *, anew: bool) -> None:
        places = ", ".join(f"${i}" for i in range(1, len(SAVED) + 2))
        updates = ", ".join(f"{name} = excluded.{name}" for name in SAVED[2:])
        self._execute(
            f"INSERT INTO {self._schema}.checkpoints AS old ({', '.join(SAVED)}, rows) VALUES ({places})"
            f" ON CONFLICT (symbol, timeframe) DO UPDATE SET {updates}, rows = {'' if anew else 'old.rows + '}excluded.rows,"
            " failures = 0, error = NULL, updated_at = now()",
            (*(getattr(checkpoint, name) for name in SAVED), inserted),
        )


def _key_columns(bars: Bars, symbol: str, timeframe: str) -> dict[str, pa.Array]:
    time = pa.array(bars.t * 1000, pa.timestamp("us", tz="UTC"))
    return {"symbol": pa.repeat(symbol, len(bars)), "timeframe": pa.repeat(timeframe, len(bars)), "time": time}


def _table(key: Mapping[str, pa.Array], values: Mapping[str, FloatArray]) -> pa.Table:
    """Put columns together for a COPY; NaN becomes NULL, and a number of trades that is none whole is rounded."""
    columns = {name: pa.array(column, mask=np.isnan(column)) for name, column in values.items()}
    if "n" in columns:
        columns["n"] = pa.array(np.round(values["n"]), mask=np.isnan(values["n"])).cast(pa.int64())
    return pa.table({**key, **columns})


# ---- strategies ----

Row = Sequence[Any]


class RowByRowSink(Sink):
    """Upserts with an INSERT of one row, which psycopg prepares, and waits for its answer: a round trip a row."""

    def _connected(self, database_url: str, lock_timeout: str) -> Any:
        connection = database.connect(database_url, lock_timeout=lock_timeout, cursor_factory=psycopg.RawCursor)  # $1, as ADBC writes it
        self._sockets.append(database.handle(connection))
        return connection

    def _begin(self) -> None:
        self._execute(writers_lock(self._schema))

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
        self.asked_s = time.monotonic()
        self._cursor.executemany(statement, rows, returning=True)
        for result in self._cursor.results():
            found = result.fetchone()
            yield found[0] if found else None


STRATEGIES: dict[str, type[Sink]] = {"copy": Sink, "executemany": ExecutemanySink, "row_by_row": RowByRowSink}
