"""How long what was recorded takes to be read: ten million samples analysed, two runs compared, a thousand runs indexed.

Each is timed in a process of its own, from its start or its import to its last chart or page.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from . import machine

ROWS = 10_000_000
COMPARED_ROWS, RUNS, TIMES = 1_000_000, 1_000, 5
RATE_RPS = 50_000.0
SYMBOLS, TIMEFRAMES, LIMITS = ("AAPL", "MSFT", "GOOGL"), ("5m", "15m", "1h", "4h", "1d"), (100, 500, 1000)
SCENARIO = {"executor": "constant_rate", "rate_rps": RATE_RPS, "duration_s": 200, "request": "features"}
PLAN = {"scenarios": {"bulk": SCENARIO}, "objectives": ["p95_ms < 1000", "p99_ms < 2000"]}
DATA = machine.ROOT / "tests" / "data"

Say = Callable[[str], None]


def analysis(rows: int = ROWS) -> dict[str, Any]:
    """Build a recording of `rows` samples, untimed; analyse it, charts included; return seconds and peak memory."""
    with tempfile.TemporaryDirectory(prefix="tapecheck-bulk-") as folder:
        machine.output(machine.module("recorded", "build", folder, rows), machine.ALL, timeout_s=180)
        steps = json.loads(machine.output(machine.module("recorded", "analyse", folder), machine.ALL, timeout_s=300))
    peak_bytes = steps.pop("peak_bytes")
    return {"rows": rows, "seconds": sum(steps.values()) - steps["import"], "peak_bytes": peak_bytes, "steps": steps}


def compare(say: Say, *, rows: int = COMPARED_ROWS, times: int = TIMES) -> dict[str, Any]:
    """Record two runs of so many samples, untimed, and compare them."""
    with tempfile.TemporaryDirectory(prefix="tapecheck-compare-") as folder:
        runs = [_recorded(Path(folder) / side, rows) for side in ("before", "after")]
        found = []
        for _ in range(times):
            began_s = time.perf_counter()
            steps = json.loads(machine.output(machine.module("recorded", "compare", *runs), machine.ALL, timeout_s=120))
            found.append((time.perf_counter() - began_s, steps))
    seconds = [one for one, _ in found]
    say(f"comparison of two runs of {rows:,} samples: {', '.join(f'{s:.2f} s' for s in seconds)}")
    return {"rows": rows, "seconds": seconds, "steps": found[-1][1]}


def index(say: Say, *, runs: int = RUNS, times: int = TIMES) -> dict[str, Any]:
    """Copy the recorded runs of the tests so often, an hour apart, the validations in turn, and time the command."""
    results = [json.loads(path.read_text()) for path in sorted(DATA.glob("*/result.json"))]
    with tempfile.TemporaryDirectory(prefix="tapecheck-index-") as out:
        result_bytes = 0
        for i in range(runs):
            at, result = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=i), results[i % len(results)]
            result |= {"run_id": f"{at:%Y%m%dT%H%M%SZ}-{i:04x}", "started_at": at.isoformat()}
            folder = Path(out) / result["validation"] / result["run_id"]
            folder.mkdir(parents=True)
            result_bytes += (folder / "result.json").write_text(json.dumps(result, indent=2))
        seconds = []
        for _ in range(times):
            began_s = time.perf_counter()
            subprocess.run([sys.executable, "-m", "tapecheck", "index", "--out", out], check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - began_s)
        pages = {path.name: path.stat().st_size for path in sorted(Path(out).iterdir()) if path.is_file()}
    say(f"index of {runs:,} runs: {', '.join(f'{s:.2f} s' for s in seconds)}")
    return {"runs": runs, "result_bytes": result_bytes, "seconds": seconds, "page_bytes": pages}


def _recorded(folder: Path, rows: int) -> Path:
    """Write a run folder as the load notebook does, and return it."""
    from tapecheck.load.plan import LoadPlan
    from tapecheck.load.validation import load

    folder.mkdir()
    build(folder, rows)
    recording, plan = load.read_files(folder, source=str(folder)), LoadPlan.model_validate(PLAN)
    settings = load.settings(target="-", plan="-", run="new", out=str(folder), scenarios="all", rounds=0)
    done = load.record(load.analyse(recording, plan), settings=settings)
    assert done.folder is not None
    return done.folder


def build(folder: Path, rows: int) -> None:
    """Write the recording of one scenario, as large as one may be, as a load run leaves it: samples and resources."""
    import pyarrow as pa
    import pyarrow.parquet as pq

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
    beats = np.arange(0, rows / RATE_RPS, 0.2)
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


# ---- in a process of its own ----

Step = Callable[[str], None]


@contextmanager
def _timed() -> Iterator[tuple[dict[str, float], Step]]:
    """Yield what each step took, in s, and what ends one; print it in the end."""
    steps, began_s = {}, time.perf_counter()

    def step(name: str) -> None:
        nonlocal began_s
        now_s = time.perf_counter()
        steps[name], began_s = now_s - began_s, now_s

    yield steps, step
    print(json.dumps(steps))


def _analyse(folder: Path) -> None:
    """Read the recording, summarize it, judge it, draw every chart of the load notebook."""
    with _timed() as (steps, step):
        from tapecheck import charts
        from tapecheck.load.plan import LoadPlan
        from tapecheck.load.validation import load

        plan = LoadPlan.model_validate(PLAN)
        step("import")
        recording = load.read_files(folder, source=str(folder))
        step("read")
        summary = load.summarize(recording, plan)
        step("summarize")
        checks = load.judge(summary, plan)
        load.find(recording, summary, plan)
        step("judge")
        both, objectives = {"recording": recording, "summary": summary}, plan.parsed
        charts.load_percentiles(**both, objectives=objectives).png()
        charts.load_timeline(**both, objectives=objectives).png()
        charts.load_dimensions(**both).png()
        charts.load_throughput(**both, capacity=None, objectives=objectives).png()
        charts.load_resources(**both, capacity=None).png()
        step("charts")
        assert [check.n for check in checks] == [summary["bulk"].requests] * 2
        steps["peak_bytes"] = machine.peak_bytes()


def _compare(before: str, after: str) -> None:
    """Compare two runs, and draw what the notebook draws."""
    with _timed() as (_, step):
        from tapecheck import charts
        from tapecheck.compare.validation import compare

        step("import")
        knobs = {"profile": "full", "proofs": "all", "rounds": 0, "before": before, "after": after}
        settings = compare.settings(target="-", plan="config/compare.yaml", run="new", out="", **knobs)
        plan = compare.plan(settings)
        recording = compare.recording(plan, settings)
        step("read")
        summary = compare.analyse(recording, plan).summary
        step("judge")
        for draw in (charts.compare_ratios, charts.compare_rounds, charts.compare_savings, charts.compare_spectra):
            draw(recording=recording, summary=summary).png()
        step("charts")


COMMANDS = {
    "build": lambda folder, rows: build(Path(folder), int(rows)),
    "analyse": lambda folder: _analyse(Path(folder)),
    "compare": _compare,
}


if __name__ == "__main__":
    COMMANDS[sys.argv[1]](*sys.argv[2:])
