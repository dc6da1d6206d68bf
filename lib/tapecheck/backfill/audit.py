"""Holds what a backfill has stored against what upstream sent, and returns the verdict. It writes nothing.

It goes through the history by stretches of days, all series of one before the next, and keeps counts: its memory does not grow
with the history.
"""

import datetime as dt
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import psycopg
import pyarrow as pa

from tapecheck import database, progress
from tapecheck.backfill import checkpoints, history
from tapecheck.backfill.calendar import BASE, BoolArray, start_of
from tapecheck.backfill.checkpoints import Checkpoint
from tapecheck.backfill.examination import Examined, distinct, examine
from tapecheck.backfill.integrity import Counted, Integrity
from tapecheck.backfill.jobs import is_done
from tapecheck.backfill.plan import BackfillPlan, HistoryRange
from tapecheck.backfill.recording import FAILED, Job
from tapecheck.target.mapping import Key, StoredBars
from tapecheck.vendor.bars import IntArray, to_ms
from tapecheck.vendor.trace import Received

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
            read, ended, whole = history.mapped(cursor, bars, connection), list(plan.jobs), None
        else:
            stand = checkpoints.read_with(connection, plan.database_schema)
            whole = beside.submit(checkpoints.whole, connection, plan.database_schema)  # the server's work: we read meanwhile
            ended = [key for key in plan.jobs if key not in failed and is_done(plan, key, stand.get(key))]
            read = history.own(cursor, plan.database_schema)
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
    read: history.Read,
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
