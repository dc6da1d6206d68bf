"""Synthetic load recordings with known answers, for tests of what comes after the measurement."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from tapecheck import resources
from tapecheck.load.engine.recorder import SAMPLE, ErrorKind, Measurement, Samples
from tapecheck.load.engine.work import PreparedRequest, Value
from tapecheck.load.recording import Context, GeneratorStats, Recording
from tapecheck.load.samples import table_of
from tapecheck.runs import results

START_NS = 1_000_000_000_000
GENERATOR = GeneratorStats(lag_p99_ms=0.01, cpu_ratio=0.3, achieved_ratio=None, content_checked=10)


def burst(response_ms: Sequence[float], *, per_round: int | None = None, failed: Mapping[int, ErrorKind] | None = None) -> Samples:
    """Make the samples of a burst whose response times are given; a round starts when the one before has ended."""
    rows = np.zeros(len(response_ms), SAMPLE)
    size, start = per_round or max(len(response_ms), 1), START_NS
    for first in range(0, len(rows), size):
        part = rows[first : first + size]
        part["intended_ns"] = part["sent_ns"] = start
        part["done_ns"] = start + (np.asarray(response_ms[first : first + size]) * 1e6).astype(np.int64)
        part["round"] = first // size
        start = int(part["done_ns"].max()) + 50_000_000
    rows["first_byte_ns"], rows["status"], rows["bytes"], rows["connection_reused"] = rows["done_ns"], 200, 1000, 1
    rows["server_ms"], rows["db_ms"] = 1.0, np.nan
    for i, kind in (failed or {}).items():
        rows["error"][i], rows["status"][i] = kind, 500 if kind is ErrorKind.status else 0
    return rows


def requests(*values: dict[str, Value]) -> tuple[PreparedRequest, ...]:
    """Make prepared requests that stand for combinations of parameters."""
    return tuple(PreparedRequest(values=v, method="GET", url="", raw=b"", headers=()) for v in values or ({"symbol": "AAPL"},))


def measured(samples: Samples) -> Measurement:
    """Wrap samples as a worker returns them."""
    return Measurement(samples=samples, started_ns=START_NS, ended_ns=START_NS + 1)


def recording(
    samples: Mapping[str, Samples],
    prepared: Mapping[str, tuple[PreparedRequest, ...]] | None = None,
    *,
    generator: GeneratorStats = GENERATOR,
    watched: pa.Table | None = None,
    executor: str = "burst",
) -> Recording:
    """Put samples into a recording as a run would leave it."""
    values = {name: [one.values for one in (prepared or {}).get(name, requests())] for name in samples}
    table = table_of(samples, values)
    context = Context(
        run_id="20261102T101500Z-0001",
        started_at=datetime(2026, 11, 2, 10, 15, tzinfo=UTC),
        target=results.TargetInfo(name="planted", kind="external", base_url="http://127.0.0.1:8000"),
        environment=results.environment(),
        executors=dict.fromkeys(samples, executor),
        generator=dict.fromkeys(samples, generator),
    )
    tables = {"samples": table, "resources": watched if watched is not None else resources.SCHEMA.empty_table()}
    return Recording(tables=tables, context=context)


def watched(*rows: tuple[float, str, float, float]) -> pa.Table:
    """Make a table of resources of (seconds, process, busy cores, MB)."""
    columns = zip(*((START_NS + int(s * 1e9), name, cpu, mb, 1) for s, name, cpu, mb in rows), strict=True)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, resources.SCHEMA, strict=True)], schema=resources.SCHEMA)
