"""How long the comparison of two recorded load runs takes, from the start of a process to its last chart."""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import bulk, machine

ROWS = 1_000_000
TIMES = 5
SIDES = ("before", "after")


def run(say: Callable[[str], None], *, rows: int = ROWS, times: int = TIMES) -> dict[str, Any]:
    """Record two runs of so many samples, untimed, and compare them in processes of their own."""
    with tempfile.TemporaryDirectory(prefix="tapecheck-compare-") as folder:
        runs = [_recorded(Path(folder) / side, rows) for side in SIDES]
        found = [_compared(*runs) for _ in range(times)]
    seconds = [one["seconds"] for one in found]
    say(f"comparison of two runs of {rows:,} samples: {', '.join(f'{s:.2f} s' for s in seconds)}")
    return {"rows": rows, "seconds": seconds, "steps": found[-1]["steps"]}


def _recorded(folder: Path, rows: int) -> Path:
    """Write a run folder as the load notebook does, and return it."""
    from tapecheck.load.plan import LoadPlan
    from tapecheck.load.validation import load

    folder.mkdir()
    bulk.build(folder, rows)
    recording, plan = load.read_files(folder, source=str(folder)), LoadPlan.model_validate(bulk.PLAN)
    settings = load.settings(target="-", plan="-", run="new", out=str(folder), scenarios="all", rounds=0)
    done = load.record(load.analyse(recording, plan), settings=settings)
    assert done.folder is not None
    return done.folder


def _compared(before: Path, after: Path) -> dict[str, Any]:
    began = time.perf_counter()
    everywhere = machine.cores()
    said = machine.output(machine.module("compared", before, after), everywhere.generator | everywhere.server, timeout_s=120)
    return {"seconds": time.perf_counter() - began, "steps": json.loads(said)}


def tables(found: dict[str, Any]) -> list[str]:
    """Return the lines of the table of `run`."""
    steps = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in found["steps"].items())
    each = ", ".join(f"{s:.2f} s" for s in found["seconds"])
    return [
        "| samples of each run | whole process, each time | of the last one |",
        "|---:|---:|---|",
        f"| {found['rows']:,} | {each} | {steps} |",
    ]


def main() -> None:
    """Compare two runs, and print what each step took."""
    steps, began = {}, time.perf_counter()

    def step(name: str) -> None:
        nonlocal began
        now = time.perf_counter()
        steps[name], began = now - began, now

    from tapecheck import charts
    from tapecheck.compare.validation import compare

    step("import")
    knobs = {"profile": "full", "proofs": "all", "rounds": 0, "before": sys.argv[1], "after": sys.argv[2]}
    settings = compare.settings(target="-", plan="config/compare.yaml", run="new", out="", **knobs)
    plan = compare.plan(settings)
    recording = compare.recording(plan, settings)
    step("read")
    summary = compare.analyse(recording, plan).summary
    step("judge")
    for draw in (charts.compare_ratios, charts.compare_rounds, charts.compare_savings, charts.compare_spectra):
        draw(recording=recording, summary=summary).png()
    step("charts")
    print(json.dumps(steps))


if __name__ == "__main__":
    main()
