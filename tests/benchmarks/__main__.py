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

from . import backfill, bulk, compared, index, load, machine, recovery, report, targets, throughput

QUIET_CORES = 0.15  # more than that of others' work spoils a run; the kernel's own for our packets counts as theirs


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What is measured, how it is judged, and the tables that show it."""

    run: Callable[[argparse.Namespace], dict[str, Any]]
    judge: Callable[[dict[str, Any]], list[targets.Target]]
    tables: Callable[[dict[str, Any]], list[str]]


PARTS: Mapping[str, Part] = {
    "load": Part(
        run=lambda asked: load.run(rounds=asked.rounds, duration_s=asked.seconds, samples=asked.rows, say=_say),
        judge=targets.judge_load,
        tables=report.load_tables,
    ),
    "backfill": Part(run=lambda asked: backfill.run(_say), judge=targets.judge_backfill, tables=report.backfill_tables),
    "recovery": Part(run=lambda asked: recovery.run(_say), judge=targets.judge_recovery, tables=recovery.tables),
    "compare": Part(run=lambda asked: compared.run(_say), judge=targets.judge_compare, tables=compared.tables),
    "index": Part(run=lambda asked: index.run(_say), judge=targets.judge_index, tables=index.tables),
}


def main() -> int:
    """Run what is asked for; the exit code says whether it could be measured, not how good it is."""
    asked = _arguments()
    bench_id, about = folders.new_id(), machine.description()
    waited_s, busy = machine.wait_quiet(asked.wait_quiet)
    done: dict[str, Any] = {"id": bench_id, "machine": about, "waited_for_quiet_s": round(waited_s), "others_busy_cores_before": busy}
    lines: dict[str, list[str]] = {}
    for name in [asked.only] if asked.only else PARTS:
        part, began, others = PARTS[name], time.monotonic(), machine.Others()
        found = part.run(asked)
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
        footer = f"{throughput.CONNECTIONS} connections; servers on the other cores; {done['machine']['cpu']}"
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


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=tuple(PARTS), help="run this part alone, and --paste only its block; by default all run")
    parser.add_argument("--rounds", type=int, default=4, help="load: of each generator and body; even, for ABBA")
    parser.add_argument("--seconds", type=float, default=3.0, help="load: of each round")
    parser.add_argument("--rows", type=int, default=bulk.ROWS, help="load: samples to analyse")
    parser.add_argument(
        "--wait-quiet", type=float, default=1.0, metavar="MINUTES", help="at most so long for others to leave the cores alone"
    )
    parser.add_argument("--paste", type=Path, metavar="PAGE", help="put the tables between the marks of this Markdown page too")
    return parser.parse_args()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # both end what was started; a shell's background jobs begin with the first ignored
        signal.signal(number, signal.default_int_handler)
    sys.exit(main())
