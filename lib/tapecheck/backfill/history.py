"""Reads the bars that a system has stored, whoever wrote them: our own tables, or those that `bars.sql` of a target file gives."""
# ruff: noqa: S608 - what is put into statements are the plan's checked names, quoted

import datetime as dt
from collections.abc import Callable
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from tapecheck.errors import TargetError, first_line
from tapecheck.target.mapping import EPOCHS, StoredBars
from tapecheck.vendor.bars import COLUMNS, Bars, FloatArray, IntArray

Read = Callable[[str, str, dt.datetime | None, dt.datetime | None], Bars]  # symbol, timeframe, first start, end; None is open
PRICES = ("o", "h", "l", "c", "vw")
MAPPED = {"open": "o", "high": "h", "low": "l", "close": "c", "volume": "v", "vwap": "vw", "trades": "n"}
NEEDED = ("time", "open", "high", "low", "close", "volume")
MOST_BARS = 20_000_000  # of one series: forty years of minutes
EARLIEST, LATEST = dt.datetime(1900, 1, 1, tzinfo=dt.UTC), dt.datetime(2200, 1, 1, tzinfo=dt.UTC)


def own(cursor: Any, schema: str) -> Read:
    """Return what reads our own tables, by an ADBC cursor."""

    def read(symbol: str, timeframe: str, first: dt.datetime | None, end: dt.datetime | None) -> Bars:
        """Return the bars of a series in no order: a query without one, and without parameters, is read fastest."""
        low, high = first.isoformat() if first else "-infinity", end.isoformat() if end else "infinity"
        cursor.execute(
            f"SELECT time, {', '.join(COLUMNS[1:])} FROM {schema}.bars WHERE symbol = {sql.quote(symbol)}"
            f" AND timeframe = {sql.quote(timeframe)} AND time >= '{low}' AND time < '{high}'"
        )
        table = cursor.fetch_arrow_table()
        values: dict[str, FloatArray] = {name: table.column(name).to_numpy().astype(np.float64, copy=False) for name in COLUMNS[1:]}
        return Bars(t=table.column("time").to_numpy().astype("datetime64[ms]").astype(np.int64), **values)

    return read


def mapped(cursor: Any, bars: StoredBars, connection: psycopg.Connection[Any]) -> Read:
    """Return what reads any system's tables, by an ADBC cursor in a read-only transaction.

    Args:
        connection: another one in such a transaction, on which the statement is tried first, for no bars: it cannot be two there.

    Raises:
        TargetError: the statement is refused, or gives other columns than it must.
    """
    nothing = {"symbol": "", "timeframe": "", "start": EARLIEST, "end": EARLIEST}
    try:
        names = [column.name for column in connection.cursor(binary=True).execute(bars.sql.encode(), nothing).description or ()]
    except psycopg.Error as error:
        raise TargetError(f"bars.sql: {first_line(error)}") from None
    if absent := [name for name in NEEDED if name not in names]:
        raise TargetError(f"bars.sql gives {', '.join(names) or 'no columns'}, and no {', '.join(absent)}")

    def read(symbol: str, timeframe: str, first: dt.datetime | None, end: dt.datetime | None) -> Bars:
        values = {"symbol": symbol, "timeframe": timeframe, "start": first or EARLIEST, "end": end or LATEST}
        cursor.execute(psycopg.ClientCursor(connection).mogrify(bars.sql, values))
        reader, rows, batches = cursor.fetch_record_batch(), 0, list[pa.RecordBatch]()
        for batch in reader:
            batches.append(batch)
            if (rows := rows + batch.num_rows) > MOST_BARS:
                raise TargetError(f"bars.sql gives more than {MOST_BARS:,} rows of {symbol} {timeframe}: does it use its symbol and times?")
        return columns(pa.Table.from_batches(batches, reader.schema), bars)

    return read


def columns(table: pa.Table, bars: StoredBars) -> Bars:
    """Return the columns of a statement as bars.

    Raises:
        TargetError: one holds something else than its name says.
    """
    values = {short: _numbers(table, name) for name, short in MAPPED.items()}
    scaled = {short: column * bars.price_scale if short in PRICES else column for short, column in values.items()}
    return Bars(t=_times(table.column("time")), **scaled)


def _numbers(table: pa.Table, name: str) -> FloatArray:
    """Return a column as floats; NaN for what is null, and for a column that is not there."""
    if name not in table.column_names:
        return np.full(table.num_rows, np.nan)
    try:
        found: FloatArray = np.asarray(pc.cast(_plain(table.column(name)), pa.float64()).to_numpy(), dtype=np.float64)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise TargetError(f"bars.sql: {name} is no number ({first_line(error)})") from None
    return found


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column without the extension types that stand for PostgreSQL's own, such as numeric, which come as text."""
    storage = getattr(column.type, "storage_type", None)
    return column.cast(storage) if storage is not None else column


def _times(column: pa.ChunkedArray) -> IntArray:
    """Return times as Unix ms: dates and timestamps (without a zone: UTC), ISO text, or s, ms, us or ns since 1970, told by size."""
    column = _plain(column)
    if column.null_count:
        raise TargetError(f"bars.sql: {column.null_count} rows have no time")
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        numbers = column.to_numpy().astype(np.float64)
        largest = float(np.abs(numbers).max(initial=0.0))
        per_s = next(each for least, each in EPOCHS if largest >= least)
        whole: IntArray = np.floor(numbers * 1000 / per_s).astype(np.int64)
        return whole
    zones = ("UTC", None) if pa.types.is_string(column.type) else (getattr(column.type, "tz", None),)
    for zone in zones:
        try:
            times: IntArray = pc.cast(column, pa.timestamp("ms", zone), safe=False).to_numpy().astype("datetime64[ms]").astype(np.int64)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            continue
        return times
    raise TargetError(f"bars.sql: time is none: {column[0]}")
