"""Holds what is stored, in our tables or in those that `bars.sql` of a target file gives, against what upstream sent. It writes nothing.

It goes through the history by stretches of days, all series of one before the next, and keeps counts: its memory does not grow
with the history.
"""
# ruff: noqa: S608 - what is put into statements are the plan's checked names, quoted

import datetime as dt
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from tapecheck import database, progress
from tapecheck.backfill import checkpoints
from tapecheck.backfill.calendar import BASE, BoolArray, start_of
from tapecheck.backfill.checkpoints import Checkpoint
from tapecheck.backfill.examination import Examined, distinct, examine
from tapecheck.backfill.integrity import Counted, Integrity
from tapecheck.backfill.jobs import is_done
from tapecheck.backfill.plan import BackfillPlan, HistoryRange
from tapecheck.backfill.recording import FAILED, Job
from tapecheck.errors import TargetError, first_line
from tapecheck.target.mapping import EPOCHS, Key, StoredBars
from tapecheck.vendor.bars import COLUMNS, Bars, FloatArray, IntArray, to_ms
from tapecheck.vendor.trace import Received

Read = Callable[[str, str, dt.datetime | None, dt.datetime | None], Bars]  # symbol, timeframe, first start, end; None is open
READ_ONLY = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"


def audit(
    plan: BackfillPlan, database_url: str, jobs: Iterable[Job], received: Received, bars: StoredBars | None = None
) -> tuple[Integrity, pa.Table]:
    """Judge every series of the plan whose job ended, now or in an earlier run; all is read from one snapshot of the database.

    Args:
        jobs: what became of each job of this run; a failed one is left out.
        received: what upstream sent in this run.
        bars: of another system; every series of the plan is judged then, and no checksum is made.

    Returns:
        The verdict, and what each day of each series holds (`coverage.SCHEMA`). The newest minutes are not judged.

    Raises:
        TargetError: the statement of `bars` does not fit.
        psycopg.Error: the database cannot be read; as `adbc_driver_manager.Error` too, see `sink.SinkError`.
    """
    failed = {(job.symbol, job.timeframe) for job in jobs if job.state == FAILED}
    until = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=plan.settle_minutes)
    stretches = plan.history.stretches()
    steps, tally = len(stretches) * len(plan.symbols) + 1, Counted()
    with _snapshot(database_url) as (connection, cursor), ThreadPoolExecutor(1) as beside, progress.show("audit", "steps") as report:
        stand: Mapping[Key, Checkpoint] = {}
        if bars:
            connection.execute("RESET search_path")
            cursor.execute("RESET search_path")  # tables are named as the role sees them
            read, ended, whole = mapped(cursor, bars, connection), list(plan.jobs), None
        else:
            stand = checkpoints.read_with(connection, plan.database_schema)
            whole = beside.submit(checkpoints.whole, connection, plan.database_schema)  # the server's work: we read meanwhile
            ended = [key for key in plan.jobs if key not in failed and is_done(plan, key, stand.get(key))]
            read = own(cursor, plan.database_schema)
        for number, stretch in enumerate(stretches):
            series: list[Examined] = []
            for at, symbol in enumerate(plan.symbols, number * len(plan.symbols)):
                report(at, steps)
                timeframes = [timeframe for other, timeframe in ended if other == symbol]
                window = _Window.of(plan.history, stretch, plan.ticker(symbol))
                series += _examined(plan, symbol, timeframes, window, read, received, until)
            tally.add(series)
        report(steps - 1, steps)
        found = tally.integrity(str(whole.result()) if whole else "", {key: stand[key].rows for key in ended if key in stand})
        report(steps, steps)
    return found, tally.days()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    """Which bars of a symbol begin in a stretch; rows before the first stretch and after the last one are counted with those."""

    start: dt.datetime
    end: dt.datetime
    low: dt.datetime | None  # of the rows to read; None is open
    high: dt.datetime | None

    @classmethod
    def of(cls, history: HistoryRange, stretch: HistoryRange, ticker: str) -> Self:
        """Return the window of a stretch of a history."""
        (start, last), (first, final) = stretch.range(ticker), history.range(ticker)
        end = last + dt.timedelta(milliseconds=1)  # a bar that ends with the stretch is over by then
        return cls(start=start, end=end, low=None if start == first else start, high=None if last == final else end)

    def has(self, t: IntArray) -> BoolArray:
        """Tell of each start (Unix ms) whether it lies in it."""
        return (t >= to_ms(self.start)) & (t < to_ms(self.end))


def _examined(
    plan: BackfillPlan,
    symbol: str,
    timeframes: Collection[str],
    window: _Window,
    read: Read,
    received: Received,
    until: dt.datetime,
) -> list[Examined]:
    return examine(
        symbol,
        {timeframe: read(symbol, timeframe, window.low, window.high) for timeframe in timeframes},
        {timeframe: _sent(plan, symbol, timeframe, received, window) for timeframe in timeframes},
        start=window.start,
        end=max(window.start, min(window.end, until)),
        sessions=plan.sessions,
        ticker=plan.ticker(symbol),
    )


@contextmanager
def _snapshot(database_url: str) -> Iterator[tuple[psycopg.Connection, Any]]:
    """Yield a connection and another one's ADBC cursor that see the same moment of the database and cannot write."""
    with database.connect(database_url) as connection, closing(database.connect_adbc(database_url)) as other:
        connection.execute(READ_ONLY)
        row = connection.execute("SELECT pg_export_snapshot()").fetchone()
        with closing(other.cursor()) as cursor:
            cursor.execute(READ_ONLY)
            cursor.execute(f"SET TRANSACTION SNAPSHOT '{row[0] if row else ''}'")
            yield connection, cursor


def _sent(plan: BackfillPlan, symbol: str, timeframe: str, received: Received, window: _Window) -> Sequence[IntArray]:
    """Return the starts that upstream sent for a series in a window, by whole pages, so that their order can be judged.

    For a series that is built from 5-minute bars, return those that must come of them.
    """
    if not plan.derive:
        return [page for page in received.get((symbol, timeframe), []) if window.has(page).any()]
    pages = [page for (other, _), sent in received.items() if other == symbol for page in sent]  # 5-minute bars, whichever job asked
    pages = [page for page in pages if window.has(page).any()]
    if not pages or timeframe == BASE:
        return pages
    return [distinct(start_of(distinct(np.concatenate([page[window.has(page)] for page in pages])), plan.ticker(symbol), timeframe))]


# ---- the bars that are stored ----

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
