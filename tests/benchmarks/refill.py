"""Refills history in this process, or does a part of that by itself, and prints what it took. Started by the benchmarks."""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import httpx
import numpy as np
import pyarrow as pa

from tapecheck import database
from tapecheck.backfill import checkpoints, features, schema, sink
from tapecheck.backfill.analysis import summarize
from tapecheck.backfill.jobs import due
from tapecheck.backfill.plan import BackfillPlan
from tapecheck.backfill.prediction import predict_all
from tapecheck.backfill.session import run
from tapecheck.vendor.bars import COLUMNS, Bars, periods_per_year
from tapecheck.vendor.source import Source

from . import embedded, machine, vendor

RAW = "tapecheck_raw"  # the schema that raw COPY fills
TABLES = "tables.arrow"
SERIES, PAGE_BARS = 25, 10_000  # of the features: about as many bars a page as the upstream sends


def refill(plan: BackfillPlan, source_url: str) -> dict[str, Any]:
    """Run a plan as the notebook does; return its wall time, its stages, and the most memory that this process had."""
    began_s = time.monotonic()
    recording = run(plan, embedded.endpoints(source_url))
    call_s, peak_bytes = time.monotonic() - began_s, machine.peak_bytes()
    summary, context = summarize(recording), recording.context
    integrity = context.integrity
    assert integrity is not None
    return {
        "rows": summary.totals.records,
        "began_ns": context.began_ns,
        "ended_ns": context.ended_ns,
        "wall_s": context.wall_s,
        "call_s": call_s,
        "jobs": summary.totals.jobs,
        "completed": summary.totals.completed,
        "requests": summary.totals.requests,
        "pages": sum(job.pages for frames in summary.jobs.values() for job in frames.values()),
        "busy_s": {name: stage.busy_s for name, stage in summary.stages.items()},
        "lost": integrity.lost + integrity.vanished,
        "checksum": integrity.checksum,
        "peak_bytes": peak_bytes,
        "what_if": {one.change: one.wall_s for one in predict_all(recording)},
    }


# ---- raw COPY ----


class _Recorder(Source):
    """A source that keeps every body by its request's target."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.bodies: dict[str, bytes] = {}

    async def _answer(self, *asked: Any) -> tuple[httpx.Response, bytes]:
        response, body = await super()._answer(*asked)
        self.bodies[response.request.url.raw_path.decode()] = body
        return response, body


def record(plan: BackfillPlan, source_url: str, folder: Path) -> dict[str, Any]:
    """Fetch all pages of a plan, in its order; write the answers, and of each page the table that a sink would COPY."""
    ends = embedded.endpoints(source_url)
    source = _Recorder(source_url, ends.key)
    jobs: list[list[pa.RecordBatch]] = []

    async def fetch() -> None:
        async with source:
            for group in due(plan, {}):
                for key in group.keys:
                    jobs.append(
                        [
                            _batch(page.bars, *key)
                            async for page in source.pages(*key, *plan.history.range(plan.ticker(key[0])))
                            if len(page.bars)
                        ]
                    )

    anyio.run(fetch)
    vendor.save(folder, source.bodies, source_url)
    with pa.ipc.new_file(folder / TABLES, jobs[0][0].schema) as file:
        for number, job in enumerate(jobs):
            for batch in job:
                file.write_batch(batch, custom_metadata={"job": str(number)})
    return {"pages": sum(map(len, jobs)), "rows": sum(batch.num_rows for job in jobs for batch in job)}


def _batch(bars: Bars, symbol: str, timeframe: str) -> pa.RecordBatch:
    key, values = sink._key_columns(bars, symbol, timeframe), {name: getattr(bars, name) for name in COLUMNS[1:]}
    return sink._table(key, values).combine_chunks().to_batches()[0]


def read_tables(folder: Path) -> list[list[pa.RecordBatch]]:
    """Read the pages of every job into memory."""
    jobs: dict[bytes, list[pa.RecordBatch]] = {}
    with pa.OSFile(str(folder / TABLES)) as file, pa.ipc.open_file(file) as found:
        for number in range(found.num_record_batches):
            batch, metadata = found.get_batch_with_custom_metadata(number)
            jobs.setdefault(metadata["job"], []).append(batch)
    return list(jobs.values())


def raw_copy(folder: Path, connections: int, *, is_checked: bool) -> dict[str, Any]:
    """COPY the recorded pages into an empty table, a job after another on each connection, and commit each page.

    Connections are open and pages in memory when the clock starts. A page goes in the way in which a sink writes one that
    it knows to be new, without that question and without a checkpoint.
    """
    from adbc_driver_postgresql import dbapi  # type: ignore[import-untyped]

    url, jobs = embedded.endpoints("").database_url, read_tables(folder)
    schema.prepare(url, RAW, empty=True)
    opened, todo = [dbapi.connect(url) for _ in range(connections)], iter(jobs)

    def work(connection: Any) -> None:
        with closing(connection.cursor()) as cursor:
            for job in todo:  # which all threads share
                for batch in job:
                    cursor.adbc_ingest("bars", batch, mode="append", db_schema_name=RAW)
                    connection.commit()

    with ThreadPoolExecutor(connections) as threads:
        began_ns = time.monotonic_ns()
        for done in [threads.submit(work, connection) for connection in opened]:
            done.result()
        ended_ns = time.monotonic_ns()
    for connection in opened:
        connection.close()
    return {"rows": sum(batch.num_rows for job in jobs for batch in job), "began_ns": began_ns, "ended_ns": ended_ns} | _stored(
        url, is_checked
    )


def _stored(url: str, is_checked: bool) -> dict[str, Any]:
    with database.connect(url) as connection:
        row = connection.execute(f"SELECT count(*) FROM {RAW}.bars").fetchone()
        return {
            "stored": row[0] if row else 0,
            "synchronous_commit": connection.execute("SHOW synchronous_commit").fetchone()[0],  # type: ignore[index]
            "checksum": str(checkpoints.whole(connection, RAW)) if is_checked else None,
        }


# ---- features ----


def compute(bars: int) -> dict[str, Any]:
    """Compute the features of made-up series, page by page as a backfill does, in one thread."""
    random, each = np.random.default_rng(7), -(-bars // SERIES)
    series = [
        Bars(**{name: 100 * np.exp(np.cumsum(random.normal(0, 1e-3, each))) for name in COLUMNS[1:]}, t=np.arange(each) * 300_000)
        for _ in range(SERIES)
    ]
    began_s, began_cpu_s, rows = time.perf_counter(), time.process_time(), 0
    for one in series:
        lead = Bars.empty()
        for at in range(0, each, PAGE_BARS):
            whole = Bars.joined(lead, one[at : at + PAGE_BARS])
            columns = features.compute(whole.c, whole.v, periods_per_year("AAPL", "5m"), skip=len(lead))
            lead = whole[-features.LEAD_IN :]
            rows += len(columns[features.NAMES[0]])
    return {"rows": rows, "seconds": time.perf_counter() - began_s, "cpu_s": time.process_time() - began_cpu_s}


COMMANDS = {
    "refill": lambda plan, url: refill(BackfillPlan.model_validate_json(plan), url),
    "record": lambda plan, url, folder: record(BackfillPlan.model_validate_json(plan), url, Path(folder)),
    "copy": lambda folder, connections, is_checked: raw_copy(Path(folder), int(connections), is_checked=is_checked == "checked"),
    "features": lambda bars: compute(int(bars)),
}


if __name__ == "__main__":
    print(json.dumps(COMMANDS[sys.argv[1]](*sys.argv[2:])))
