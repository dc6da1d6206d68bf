"""Ways to write a page: `copy`, and two honest baselines that send INSERTs through psycopg. They differ in nothing but the way.

Each is a sink: one transaction a page with its checkpoint, the same upsert, the same counts, the same final tables.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa

from tapecheck.backfill import database
from tapecheck.backfill.bars import COLUMNS, Bars
from tapecheck.backfill.checkpoints import LIVE, Checkpoint
from tapecheck.backfill.sink import Counts, Sink

Row = Sequence[Any]


class _InsertSink(Sink, ABC):
    """A sink that upserts with INSERTs of one row each; psycopg prepares the statement."""

    def __init__(self, database_url: str, schema: str = LIVE) -> None:
        self._schema = schema
        self._connection = database.connect(database_url, cursor_factory=psycopg.RawCursor)  # $1, as ADBC writes it
        self._cursor = database.Counting(self._connection.cursor())

    def _is_new(self, bars: Bars, checkpoint: Checkpoint) -> bool:
        return False  # the short way of a range known to be new is part of `copy`

    def _upserted(self, name: str, table: pa.Table) -> Counts:
        places = ", ".join(f"${i}" for i in range(1, table.num_columns + 1))
        statement = self._upsert(name, f"({', '.join(table.column_names)}) VALUES ({places})")
        rows = list(zip(*(column.to_pylist() for column in table.columns), strict=True))
        written = [is_new for is_new in self._inserted(statement, rows) if is_new is not None]
        inserted = sum(written)
        return Counts(inserted=inserted, changed=len(written) - inserted, unchanged=len(rows) - len(written))

    @abstractmethod
    def _inserted(self, statement: str, rows: Sequence[Row]) -> Iterable[bool | None]:
        """Upsert the rows; yield of each whether it was inserted (True), changed (False) or left alone (None)."""

    def _fetched_bars(self) -> Bars:
        columns = np.array(self._cursor.fetchall(), np.float64).reshape(-1, len(COLUMNS)).T
        values: dict[str, Any] = dict(zip(COLUMNS, columns, strict=True))
        return Bars(**values | {"t": columns[0].astype(np.int64)})


class RowByRowSink(_InsertSink):
    """Sends a row, waits for its answer, sends the next: a round trip a row."""

    def _inserted(self, statement: str, rows: Sequence[Row]) -> Iterable[bool | None]:
        for row in rows:
            found = self._cursor.execute(statement, row).fetchone()
            yield found[0] if found else None


class ExecutemanySink(_InsertSink):
    """Sends all rows of a page through psycopg's executemany, which does not wait between them."""

    def _inserted(self, statement: str, rows: Sequence[Row]) -> Iterable[bool | None]:
        self._cursor.executemany(statement, rows, returning=True)
        for result in self._cursor.results():
            found = result.fetchone()
            yield found[0] if found else None


STRATEGIES: dict[str, type[Sink]] = {"copy": Sink, "executemany": ExecutemanySink, "row_by_row": RowByRowSink}
