"""How fast a backfill is beside a raw COPY of the same rows, how well it keeps a rate limit, and how much memory it takes."""

import contextlib
import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tapecheck.backfill.analysis import rate_limit_floor_s
from tapecheck.backfill.plan import BackfillPlan, HistoryRange, SourcePlan, read_plan

from . import embedded, machine, predictions, refill
from .embedded import Busy, Embedded

PLAN = "config/backfill.yaml"
SCHEMA = "tapecheck_bench"
ROUNDS = 3
MEMORY_DAYS = 440  # of 125 jobs: more than the bars that the target speaks of
BARS = 2_500_000
LIMIT_DAYS, LIMIT = 90, {"requests_per_minute": 720.0, "burst": 10}  # about 245 requests in 20 s
TIMEOUT_S = 180.0
ALL = machine.cores().generator | machine.cores().server  # nobody is pinned: a backfill and its database share what there is


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way of getting the rows into the table, over the rounds: rates, and what each process had to do."""

    name: str
    rows: int
    seconds: tuple[float, ...]  # of each round
    ratios: tuple[float, ...]  # of each round: rows a second over those of raw COPY
    ratios_one: tuple[float, ...]  # and over those of raw COPY with one connection
    cpu_s: Mapping[str, float]  # of each process: medians
    busy_s: Mapping[str, float]  # of each stage: medians; empty for a COPY

    @property
    def rates(self) -> tuple[float, ...]:
        """Return rows a second, of each round."""
        return tuple(self.rows / seconds for seconds in self.seconds)

    @property
    def busy_cores(self) -> float:
        """Return how many cores all processes together kept busy, in the median."""
        return sum(self.cpu_s.values()) / median(self.seconds)

    def least_s(self, cores: int) -> float:
        """Return how long its work takes at least, were no core ever idle."""
        return sum(self.cpu_s.values()) / cores


@dataclass(frozen=True, slots=True, kw_only=True)
class Once:
    """One run of one way: its seconds, and CPU seconds by process and busy seconds by stage."""

    rows: int
    seconds: float
    cpu_s: Mapping[str, float]
    busy_s: Mapping[str, float]
    found: Mapping[str, Any]


Say = Callable[[str], None]
RAW, RAW_ONE, END_TO_END, READY = "raw COPY", "raw COPY, one connection", "end to end", "end to end, answers ready"


def run(say: Say) -> dict[str, Any]:
    """Measure everything against a sandbox of its own; nothing of it is left afterwards."""
    with embedded.running() as sandbox:
        full = read_plan(PLAN).model_copy(update={"database_schema": SCHEMA})
        first, end = full.history.bounds()
        full = full.model_copy(update={"history": HistoryRange(start=first, end=end)})  # the same rows, though midnight may pass
        whole = _whole(sandbox, full, say)
        memory = _memory(sandbox, full, say)
        ways, beside = _rounds(sandbox, full, say)
        limited = _limited(sandbox, full, say)
        predicted = _predictions(sandbox, full, say)
        computed = _output("features", BARS)
        say(f"features of {computed['rows']:,} bars: {computed['seconds']:.2f} s")
        return {
            "whole": whole, "memory": memory, "ways": ways, "beside": beside, "limited": limited,
            "predictions": predicted, "features": computed,
            "cores": len(ALL), "own_cpu_s": sandbox.cpu_s(),
        }  # fmt: skip


def _whole(sandbox: Embedded, full: BackfillPlan, say: Say) -> dict[str, Any]:
    sandbox.clear(SCHEMA)
    found = _checked(_output("refill", full.model_dump_json(), sandbox.upstream_url))
    say(f"all {found['jobs']} jobs with features: {found['call_s']:.1f} s, {found['rows']:,} bars")
    return found


def _memory(sandbox: Embedded, full: BackfillPlan, say: Say) -> dict[str, Any]:
    sandbox.clear(SCHEMA)
    longer = full.model_copy(update={"history": HistoryRange(days=MEMORY_DAYS, end=full.history.end)})
    found = _checked(_output("refill", longer.model_dump_json(), sandbox.upstream_url))
    if found["rows"] < BARS:
        raise RuntimeError(f"{MEMORY_DAYS} days are {found['rows']:,} bars, fewer than the {BARS:,} that the target speaks of")
    say(f"memory at its peak, of {found['rows']:,} bars: {found['peak_bytes'] / 1e6:.0f} MB")
    return found


def _limited(sandbox: Embedded, full: BackfillPlan, say: Say) -> dict[str, Any]:
    """Refill with the same limit on both sides; the floor is that of the pages, so that a refused request cannot raise it."""
    sandbox.clear(SCHEMA, refill.RAW)
    plan = _limited_plan(full)
    source = plan.source
    sandbox.limit(**LIMIT)
    try:
        found = _checked(_output("refill", plan.model_dump_json(), sandbox.upstream_url))
    finally:
        sandbox.limit()
    found |= beside_floor(found, source)
    say(f"with {source.rate_per_s:g} requests/s: {found['wall_s']:.2f} s, the floor of {found['pages']} pages is {found['floor_s']:.2f} s")
    return found


def _limited_plan(full: BackfillPlan) -> BackfillPlan:
    source = SourcePlan.model_validate(full.source.model_dump() | LIMIT)
    return full.model_copy(update={"history": HistoryRange(days=LIMIT_DAYS, end=full.history.end), "source": source})


def _predictions(sandbox: Embedded, full: BackfillPlan, say: Say) -> list[predictions.Prediction]:
    def refill(plan: BackfillPlan) -> dict[str, Any]:
        sandbox.clear(SCHEMA)
        return _checked(_output("refill", plan.model_dump_json(), sandbox.upstream_url))

    found = predictions.run(sandbox, full, _limited_plan(full), LIMIT, refill)
    say("predictions: " + ", ".join(f"{one.change} {one.predicted_s:.1f} of {one.measured_s:.1f} s" for one in found))
    return found


def beside_floor(found: Mapping[str, Any], source: SourcePlan) -> dict[str, Any]:
    """Return the least time that a refill's pages take by its rate limit, and how many of its requests brought no page."""
    return {"floor_s": rate_limit_floor_s(found["pages"], source.rate_per_s, source.burst), "refused": found["requests"] - found["pages"]}


# ---- beside raw COPY ----


def _rounds(sandbox: Embedded, full: BackfillPlan, say: Say) -> tuple[list[Way], dict[str, Any]]:
    """Run every way ROUNDS times, every other round in reverse order (ABBA).

    Returns:
        The ways, and what they have in common.
    """
    folder = sandbox.folder / "recorded"
    folder.mkdir(mode=0o700)
    plain = full.model_copy(update={"features": "off"})
    recorded = _output("record", plain.model_dump_json(), sandbox.upstream_url, folder)
    say(f"recorded {recorded['pages']} pages of {recorded['rows']:,} bars")
    words, jobs, upstream = ("refill", plain.model_dump_json()), full.concurrency.jobs, sandbox.pids["upstream"]
    with _vendor(folder) as (ready_url, ready):
        ways: dict[str, Callable[[], Once]] = {
            RAW: lambda: _once(sandbox, "copy", folder, jobs, "counted" if done[RAW] else "checked"),
            END_TO_END: lambda: _once(sandbox, *words, sandbox.upstream_url, upstream=upstream),
            READY: lambda: _once(sandbox, *words, ready_url, upstream=ready),
            RAW_ONE: lambda: _once(sandbox, "copy", folder, 1, "counted"),
        }
        done: dict[str, list[Once]] = {name: [] for name in ways}
        for number in range(ROUNDS):
            for name in list(ways)[:: 1 if number % 2 == 0 else -1]:
                done[name].append(ways[name]())
            say(f"beside raw COPY, round {number + 1} of {ROUNDS}: "
                + ", ".join(f"{name} {found[-1].rows / found[-1].seconds:,.0f}/s" for name, found in done.items()))  # fmt: skip
    sums = {found.found["checksum"] for runs in done.values() for found in runs} - {None}
    if len(sums) != 1:
        raise RuntimeError(f"the ways did not store the same rows: {sorted(sums)}")
    beside = {
        "rows": recorded["rows"], "pages": recorded["pages"], "connections": jobs, "checksum": sums.pop(),
        "synchronous_commit": done[RAW][0].found["synchronous_commit"],
    }  # fmt: skip
    return [way(name, found, done[RAW], done[RAW_ONE]) for name, found in done.items()], beside


def way(name: str, runs: list[Once], raw: list[Once], raw_one: list[Once]) -> Way:
    """Put the rounds of one way together, each beside raw COPY in the same round."""
    return Way(
        name=name,
        rows=runs[0].rows,
        seconds=tuple(one.seconds for one in runs),
        ratios=tuple(base.seconds / one.seconds for one, base in zip(runs, raw, strict=True)),
        ratios_one=tuple(base.seconds / one.seconds for one, base in zip(runs, raw_one, strict=True)),
        cpu_s={process: median(one.cpu_s[process] for one in runs) for process in runs[0].cpu_s},
        busy_s={stage: median(one.busy_s[stage] for one in runs) for stage in runs[0].busy_s},
    )


def _once(sandbox: Embedded, command: str, *arguments: object, upstream: int | None = None) -> Once:
    sandbox.clear(SCHEMA, refill.RAW)
    words = machine.module("refill", command, *arguments)
    others = {"database": sandbox.pids["database"]} | ({"upstream": upstream} if upstream else {})
    with machine.process(words, ALL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        with Busy({"ours": process.pid, **others}) as busy:
            out, error = process.communicate(timeout=TIMEOUT_S)
        if process.returncode:
            raise RuntimeError(f"{command} ended with {process.returncode}: {error[-500:]}")
    found = json.loads(out)
    if "jobs" in found:
        _checked(found)
    elif found["stored"] != found["rows"]:
        raise RuntimeError(f"{found['stored']} of {found['rows']} rows were copied")
    return Once(
        rows=found["rows"],
        seconds=(found["ended_ns"] - found["began_ns"]) / 1e9,
        cpu_s=busy.between(found["began_ns"], found["ended_ns"]),
        busy_s=found.get("busy_s", {}),
        found=found,
    )


@contextlib.contextmanager
def _vendor(folder: Path) -> Iterator[tuple[str, int]]:
    """Serve the recorded pages from memory; yield URL and pid."""
    with machine.process(machine.module("vendor", folder), ALL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        if not port:
            raise RuntimeError("the vendor whose answers are ready did not start")
        yield f"http://127.0.0.1:{port}", process.pid


def _output(command: str, *arguments: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(machine.output(machine.module("refill", command, *arguments), ALL, timeout_s=TIMEOUT_S))
    return found


def _checked(found: dict[str, Any]) -> dict[str, Any]:
    """Return what a refill says of itself if it is worth being timed."""
    if found["completed"] != found["jobs"] or found["lost"]:
        raise RuntimeError(f"{found['completed']} of {found['jobs']} jobs were completed, and {found['lost']} bars lost")
    return found
