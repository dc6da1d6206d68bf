"""How long, and how much memory, the analysis of ten million samples takes, in a process of its own, charts included."""

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from . import machine

ROWS = 10_000_000
RATE_RPS = 50_000.0
SYMBOLS, TIMEFRAMES, LIMITS = ("AAPL", "MSFT", "GOOGL"), ("5m", "15m", "1h", "4h", "1d"), (100, 500, 1000)

SCENARIO = {"executor": "constant_rate", "rate_rps": RATE_RPS, "duration_s": 200, "request": "features"}
PLAN = {"scenarios": {"bulk": SCENARIO}, "objectives": ["p95_ms < 1000", "p99_ms < 2000"]}


def build(folder: Path, rows: int) -> None:
    """Write the recording of one scenario, as large as one may be, as a load run leaves it: samples and resources."""
    from datetime import UTC, datetime

    from tapecheck import resources
    from tapecheck.load.engine.recorder import SAMPLE, ErrorKind
    from tapecheck.load.recording import Context, GeneratorStats, Recording
    from tapecheck.load.samples import table_of
    from tapecheck.runs import folders, results

    random = np.random.default_rng(7)
    samples = np.zeros(rows, SAMPLE)
    samples["intended_ns"] = 10**12 + (np.arange(rows) * (1e9 / RATE_RPS)).astype(np.int64)
    samples["sent_ns"] = samples["intended_ns"] + random.integers(5_000, 60_000, rows)
    service_ns = (random.lognormal(1.0, 0.6, rows) * 1e6).astype(np.int64)
    samples["done_ns"] = samples["sent_ns"] + service_ns
    samples["first_byte_ns"] = samples["done_ns"] - 1000
    samples["server_ms"] = service_ns / 1e6 * 0.8
    samples["db_ms"] = service_ns / 1e6 * 0.5
    samples["bytes"], samples["status"], samples["connection_reused"] = 1200, 200, 1
    samples["warm_up"][: rows // 100] = 1
    samples["error"] = np.where(random.random(rows) < 0.001, int(ErrorKind.timeout), 0)
    values = [{"symbol": s, "timeframe": t, "limit": n} for s in SYMBOLS for t in TIMEFRAMES for n in LIMITS]
    samples["request"] = np.arange(rows) % len(values)
    seconds = rows / RATE_RPS
    beats = np.arange(0, seconds, 0.2)
    watched = pa.table([
        pa.array((10**12 + beats * 1e9).astype(np.int64), resources.SCHEMA.field(0).type), pa.array(["api"] * len(beats)),
        pa.array(np.full(len(beats), 0.7)), pa.array(np.full(len(beats), 120.0)), pa.array(np.ones(len(beats), int)),
    ], names=resources.SCHEMA.names).cast(resources.SCHEMA)  # fmt: skip
    generator = GeneratorStats(lag_p99_ms=0.5, cpu_ratio=0.6, achieved_ratio=1.0, content_checked=64)
    context = Context(
        run_id=folders.new_id(), started_at=datetime.now(UTC), environment=results.environment(), executors={"bulk": "constant_rate"},
        target=results.TargetInfo(name="synthetic", kind="external", base_url="http://127.0.0.1:1"), generator={"bulk": generator},
    )  # fmt: skip
    recording = Recording(tables={"samples": table_of({"bulk": samples}, {"bulk": values}), "resources": watched}, context=context)
    for name, table in recording.stored().items():
        pq.write_table(table, folder / f"{name}.parquet", compression="zstd")


def analyse(folder: Path) -> dict[str, dict[str, float]]:
    """Read the recording, summarize it, judge it, draw every chart of the load notebook; return what each step took."""
    began = time.perf_counter()
    from tapecheck import charts
    from tapecheck.load.plan import LoadPlan
    from tapecheck.load.validation import load
    from tapecheck.load.validation import objectives as parsed

    plan = LoadPlan.model_validate(PLAN)
    steps = {}

    def step(name: str) -> None:
        nonlocal began
        now = time.perf_counter()
        steps[name], began = {"s": now - began, "peak_bytes": _peak_bytes()}, now

    step("import")
    recording = load.read_files(folder, source=str(folder))
    step("read")
    summary = load.summarize(recording, plan)
    step("summarize")
    checks = load.judge(summary, plan)
    load.find(recording, summary, plan)
    step("judge")
    both = {"recording": recording, "summary": summary}
    objectives = parsed(plan)
    for name, draw in {
        "percentiles": lambda: charts.load_percentiles(**both, objectives=objectives),
        "timeline": lambda: charts.load_timeline(**both, objectives=objectives),
        "dimensions": lambda: charts.load_dimensions(**both),
        "throughput": lambda: charts.load_throughput(**both, capacity=None, objectives=objectives),
        "resources": lambda: charts.load_resources(**both, capacity=None),
    }.items():
        draw().png()
        step(name)
    assert [check.n for check in checks] == [summary["bulk"].requests] * 2
    return steps


def measure(rows: int = ROWS) -> dict[str, object]:
    """Build a recording of `rows` samples, untimed; analyse it in a process of its own; return seconds and peak memory."""
    import tempfile

    everywhere = machine.cores()
    where = everywhere.generator | everywhere.server
    with tempfile.TemporaryDirectory(prefix="tapecheck-bulk-") as folder:
        machine.output(machine.module("bulk", "build", folder, rows), where, timeout_s=180)
        found: dict[str, object] = json.loads(machine.output(machine.module("bulk", "analyse", folder, rows), where, timeout_s=300))
    return found


def _peak_bytes() -> int:
    """Return the most memory this process ever had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Do one half of it, in this process."""
    what, folder, rows = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    if what == "build":
        build(folder, rows)
        return
    steps = analyse(folder)
    seconds = sum(step["s"] for name, step in steps.items() if name != "import")
    print(json.dumps({"rows": rows, "seconds": seconds, "peak_bytes": _peak_bytes(), "steps": steps}))


if __name__ == "__main__":
    main()
