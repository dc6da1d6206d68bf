"""Holds what a backfill has stored against what upstream sent, and returns the verdict. It writes nothing."""
# ruff: noqa: S608 - what is put into statements are the plan's checked names, quoted

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import psycopg
from psycopg import sql

from tapecheck import progress
from tapecheck.backfill import checkpoints, checksum, groups
from tapecheck.backfill.aggregate import BASE, start_of
from tapecheck.backfill.bars import COLUMNS, Bars, FloatArray, IntArray
from tapecheck.backfill.checkpoints import Checkpoint
from tapecheck.backfill.groups import Key
from tapecheck.backfill.integrity import Integrity, Series, distinct, examine, judge
from tapecheck.backfill.plan import BackfillPlan
from tapecheck.backfill.recording import FAILED, Job
from tapecheck.backfill.spans import Received

READ_ONLY = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"


def audit(plan: BackfillPlan, database_url: str, jobs: Iterable[Job], received: Received) -> Integrity:
    """Judge every series of the plan whose job ended, now or in an earlier run; all is read from one snapshot of the database.

    Args:
        jobs: what became of each job of this run; a failed one is left out.
        received: what upstream sent in this run.

    Raises:
        psycopg.Error: the database cannot be read; as `adbc_driver_manager.Error` too, see `sink.SinkError`.
    """
    failed = {(job.symbol, job.timeframe) for job in jobs if job.state == FAILED}
    series: list[Series] = []
    steps = len(plan.symbols) + 1
    with _snapshot(database_url) as (connection, cursor), ThreadPoolExecutor(1) as beside, progress.show("audit", "steps") as report:
        stand = checkpoints.read_with(connection, plan.database_schema)
        whole = beside.submit(checksum.whole, connection, plan.database_schema)  # the server's work: this process reads meanwhile
        for number, symbol in enumerate(plan.symbols):
            report(number, steps)
            ended = [key for key in plan.jobs if key[0] == symbol and key not in failed and groups.is_done(plan, key, stand.get(key))]
            series += _examined(plan, symbol, {key: stand[key] for key in ended}, cursor, received)
        report(steps - 1, steps)
        found = judge(series, str(whole.result()))
        report(steps, steps)
    return found


def _examined(plan: BackfillPlan, symbol: str, ended: Mapping[Key, Checkpoint], cursor: Any, received: Received) -> list[Series]:
    start, last = plan.history.range(symbol)
    return examine(
        symbol,
        {key[1]: _stored(cursor, plan.database_schema, *key) for key in ended},
        {key[1]: _sent(plan, *key, received) for key in ended},
        start=start,
        end=last + dt.timedelta(milliseconds=1),  # a bar that ends with the history is over by then
        acknowledged={key[1]: checkpoint.rows for key, checkpoint in ended.items()},
    )


@contextmanager
def _snapshot(database_url: str) -> Iterator[tuple[psycopg.Connection, Any]]:
    """Yield a connection and another one's ADBC cursor that see the same moment of the database and cannot write."""
    from adbc_driver_postgresql import dbapi  # type: ignore[import-untyped]  # over a second, paid by who reads

    with psycopg.connect(database_url, connect_timeout=5) as connection, closing(dbapi.connect(database_url)) as other:
        connection.execute(READ_ONLY)
        row = connection.execute("SELECT pg_export_snapshot()").fetchone()
        with closing(other.cursor()) as cursor:
            cursor.execute(READ_ONLY)
            cursor.execute(f"SET TRANSACTION SNAPSHOT '{row[0] if row else ''}'")
            yield connection, cursor


def _stored(cursor: Any, schema: str, symbol: str, timeframe: str) -> Bars:
    """Return all bars of a series, in no order: a query without one, and without parameters, is read fastest."""
    cursor.execute(
        f"SELECT time, {', '.join(COLUMNS[1:])} FROM {schema}.bars"
        f" WHERE symbol = {sql.quote(symbol)} AND timeframe = {sql.quote(timeframe)}"
    )
    table = cursor.fetch_arrow_table()
    values: dict[str, FloatArray] = {name: table.column(name).to_numpy().astype(np.float64, copy=False) for name in COLUMNS[1:]}
    return Bars(t=table.column("time").to_numpy().astype("datetime64[ms]").astype(np.int64), **values)


def _sent(plan: BackfillPlan, symbol: str, timeframe: str, received: Received) -> Sequence[IntArray]:
    """Return the starts that upstream sent for a series; for one that is built from 5-minute bars, those that must come of them."""
    if not plan.derive:
        return received.get((symbol, timeframe), [])
    pages = [page for (other, _), sent in received.items() if other == symbol for page in sent]  # 5-minute bars, whichever job asked
    if not pages or timeframe == BASE:
        return pages
    return [distinct(start_of(distinct(np.concatenate(pages)), symbol, timeframe))]
