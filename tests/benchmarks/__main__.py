"""`make bench`: runs the benchmarks in one go, prints the tables, writes outputs/benchmarks/<id>.{json,md,png}.

There are five parts, the load test's, the backfill's, the recovery's, the comparison's and the index's; `--only` runs one of them.
"""

import argparse
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from tapecheck.runs import folders

from . import backfill, load, machine, recorded, recovery, report, targets

QUIET_CORES = 0.15  # more than that of others' work spoils a run; the kernel's own for our packets counts as theirs
WAIT_QUIET_MINUTES = 1.0  # at most, for others to leave the cores alone
ROUNDS, ROUND_S = 4, 3.0  # of each generator and body; even, for ABBA


@dataclass(frozen=True, slots=True)
class Part:
    """What is measured, how it is judged, and the tables that show it."""

    run: Callable[[Callable[[str], None]], dict[str, Any]]
    judge: Callable[[dict[str, Any]], list[targets.Target]]
    tables: Callable[[dict[str, Any]], list[str]]


def _load(say: Callable[[str], None]) -> dict[str, Any]:
    return load.run(rounds=ROUNDS, duration_s=ROUND_S, samples=recorded.ROWS, say=say)


PARTS: Mapping[str, Part] = {
    "load": Part(_load, targets.judge_load, report.load_tables),
    "backfill": Part(backfill.run, targets.judge_backfill, report.backfill_tables),
    "recovery": Part(recovery.run, targets.judge_recovery, report.recovery_tables),
    "compare": Part(recorded.compare, targets.judge_compare, report.compare_tables),
    "index": Part(recorded.index, targets.judge_index, report.index_tables),
}


def main() -> int:
    """Run what is asked for; the exit code says whether it could be measured, not how good it is."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=tuple(PARTS), help="run this part alone, and --paste only its block; by default all run")
    parser.add_argument("--paste", type=Path, metavar="PAGE", help="put the tables between the marks of this Markdown page too")
    asked = parser.parse_args()
    bench_id, about = folders.new_id(), machine.description()
    waited_s, busy = machine.wait_quiet(WAIT_QUIET_MINUTES, QUIET_CORES)
    done: dict[str, Any] = {"id": bench_id, "machine": about, "waited_for_quiet_s": round(waited_s), "others_busy_cores_before": busy}
    lines: dict[str, list[str]] = {}
    for name in [asked.only] if asked.only else PARTS:
        part, began, others = PARTS[name], time.monotonic(), machine.Others()
        found = part.run(_say)
        done[name] = found | {
            "targets": (judged := part.judge(found)),
            "took_s": round(time.monotonic() - began),
            "others_busy_cores_during": others.cores(found.get("own_cpu_s", 0.0)),
        }
        lines[name] = [*report.targets_table(judged), "", *part.tables(found), "", *_remarks(done, name)]
        _write(done, [line for some in lines.values() for line in (*some, "")])  # a part that fails costs no other
    if asked.paste is not None:
        report.paste(lines, asked.paste)
    print("\n".join(["", *(line for some in lines.values() for line in (*some, "")), f"written: {machine.OUT / bench_id}.*"]))
    return 0


def _write(done: Mapping[str, Any], lines: Sequence[str]) -> None:
    path = machine.OUT / done["id"]
    machine.OUT.mkdir(parents=True, exist_ok=True)
    folders.write_json(path.with_suffix(".json"), to_jsonable_python(done))
    path.with_suffix(".md").write_text("\n".join(lines))
    if found := done.get("load"):
        footer = f"{load.CONNECTIONS} connections; servers on the other cores; {done['machine']['cpu']}"
        report.chart(found["throughput"], found["freezes"], footer, path.with_suffix(".png"))


def _remarks(done: Mapping[str, Any], name: str) -> list[str]:
    one, found = done["machine"], done[name]
    during = found["others_busy_cores_during"]
    return [
        f"Run {done['id']}, {found['took_s']} s, on {one['cores']} cores ({one['cpu']}), {one['system']}, Python {one['python']}.",
        f"Others kept {done['others_busy_cores_before']:.2f} cores busy before it and {during:.2f} during it"
        + (": **the machine was not quiet, so these figures say little.**" if during > QUIET_CORES else "."),
        *report.remarks(found),
    ]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # both end what was started; a shell's background jobs begin with the first ignored
        signal.signal(number, signal.default_int_handler)
    sys.exit(main())
