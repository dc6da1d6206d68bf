"""How long the index takes over a thousand recorded runs, from the command to its end; what the pages say is tested elsewhere."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tapecheck import config

DATA = config.PROJECT / "tests" / "data"
RUNS = 1_000
TIMES = 5
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def run(say: Callable[[str], None], *, runs: int = RUNS, times: int = TIMES) -> dict[str, Any]:
    """Copy the recorded runs so often, and time the command."""
    with tempfile.TemporaryDirectory(prefix="tapecheck-index-") as folder:
        result_bytes = _record(Path(folder), runs)
        seconds = [_index_s(Path(folder)) for _ in range(times)]
        pages = {path.name: path.stat().st_size for path in sorted(Path(folder).iterdir()) if path.is_file()}
    say(f"index of {runs:,} runs: {', '.join(f'{s:.2f} s' for s in seconds)}")
    return {"runs": runs, "result_bytes": result_bytes, "seconds": seconds, "page_bytes": pages}


def _record(out: Path, runs: int) -> int:
    """Write the runs, the validations in turn, an hour apart; return how many bytes their results have."""
    results = [json.loads(path.read_text()) for path in sorted(DATA.glob("*/result.json"))]
    written = 0
    for i in range(runs):
        at, result = BEGAN + timedelta(hours=i), results[i % len(results)]
        result |= {"run_id": f"{at:%Y%m%dT%H%M%SZ}-{i:04x}", "started_at": at.isoformat()}
        folder = out / result["validation"] / result["run_id"]
        folder.mkdir(parents=True)
        written += (folder / "result.json").write_text(json.dumps(result, indent=2))
    return written


def _index_s(out: Path) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "tapecheck", "index", "--out", str(out)], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def tables(found: dict[str, Any]) -> list[str]:
    """Return the lines of the table of `run`."""
    pages = ", ".join(f"{name} {size / 1e3:,.0f} kB" for name, size in found["page_bytes"].items())
    return [
        "| recorded runs | their results | index, each time | written |", "|---:|---:|---|---|",
        f"| {found['runs']:,} | {found['result_bytes'] / 1e6:.0f} MB | {', '.join(f'{s:.2f} s' for s in found['seconds'])} | {pages} |",
    ]  # fmt: skip
