"""How fast a backfill is beside a raw COPY of the same rows, how well it keeps a rate limit, and what its predictions are worth."""

import json
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from tapecheck.backfill.analysis import rate_limit_floor_s
from tapecheck.backfill.plan import BackfillPlan, Concurrency, HistoryRange, SourcePlan, read_plan

from . import embedded, machine, refill
from .embedded import Busy, Embedded

PLAN = "config/backfill.yaml"
SCHEMA = "tapecheck_bench"
ROUNDS = 3
MEMORY_DAYS = 440  # of 125 jobs: more than the bars that the target speaks of
BARS = 2_500_000
LIMIT_DAYS, LIMIT = 90, {"requests_per_minute": 720.0, "burst": 10}  # about 245 requests in 20 s
WIDER = Concurrency(jobs=10, requests=6)
TIMEOUT_S = 180.0


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One change: how long a run took, was predicted to take with the change, and took with it."""

    base: str
    change: str
    before_s: float
    predicted_s: float
    measured_s: float

    @property
    def error_ratio(self) -> float:
        """Return the relative error."""
        return self.predicted_s / self.measured_s - 1


Say = Callable[[str], None]
RAW, RAW_ONE, END_TO_END, READY = "raw COPY", "raw COPY, one connection", "end to end", "end to end, answers ready"


def run(say: Say) -> dict[str, Any]:
    """Measure everything against a sandbox of its own; nothing of it is left afterwards."""
    with embedded.running() as sandbox:
        full = read_plan(PLAN).model_copy(update={"database_schema": SCHEMA})
        first, end = full.history.bounds()
        full = full.model_copy(update={"history": HistoryRange(start=first, end=end)})  # the same rows, though midnight may pass
        whole = _refill(sandbox, full)
        say(f"all {whole['jobs']} jobs with features: {whole['call_s']:.1f} s, {whole['rows']:,} bars")
        memory = _refill(sandbox, full.model_copy(update={"history": HistoryRange(days=MEMORY_DAYS, end=end)}))
        if memory["rows"] < BARS:
            raise RuntimeError(f"{MEMORY_DAYS} days are {memory['rows']:,} bars, fewer than the {BARS:,} that the target speaks of")
        say(f"memory at its peak, of {memory['rows']:,} bars: {memory['peak_bytes'] / 1e6:.0f} MB")
        ways, beside = _rounds(sandbox, full, say)
        limited, predictions = _limited(sandbox, full, say)
        features = _output("features", BARS)
        say(f"features of {features['rows']:,} bars: {features['seconds']:.2f} s")
        return {
            "whole": whole, "memory": memory, "ways": ways, "beside": beside, "limited": limited, "predictions": predictions,
            "features": features, "cores": len(machine.ALL), "own_cpu_s": sandbox.cpu_s(),
        }  # fmt: skip


def _refill(sandbox: Embedded, plan: BackfillPlan) -> dict[str, Any]:
    sandbox.clear(SCHEMA, refill.RAW)
    return _checked(_output("refill", plan.model_dump_json(), sandbox.upstream_url))


def _limited(sandbox: Embedded, full: BackfillPlan, say: Say) -> tuple[dict[str, Any], list[Prediction]]:
    """Refill with the same limit on both sides, and hold what is predicted from each base against runs of each change.

    The floor is that of the pages, so that a refused request cannot raise it.
    """
    source = SourcePlan.model_validate(full.source.model_dump() | LIMIT)
    limited = full.model_copy(update={"history": HistoryRange(days=LIMIT_DAYS, end=full.history.end), "source": source})
    twice = {**LIMIT, "requests_per_minute": 2 * LIMIT["requests_per_minute"]}
    changes: dict[str, dict[str, tuple[dict[str, Any], dict[str, float]]]] = {  # by base: of the plan, and the limit that is kept
        "no limit": {
            "one job and request at a time": ({"concurrency": Concurrency(jobs=1, requests=1)}, {}),
            f"{WIDER.jobs} jobs and {WIDER.requests} requests at a time": ({"concurrency": WIDER}, {}),
            "timeframes derived": ({"derive": True}, {}),
        },
        "with a rate limit": {
            "twice the rate limit": ({"source": SourcePlan.model_validate(source.model_dump() | twice)}, twice),
            "timeframes derived": ({"derive": True}, LIMIT),
        },
    }
    predictions, before = [], {}
    try:
        for base, plan, limit in (("no limit", full, {}), ("with a rate limit", limited, LIMIT)):
            sandbox.limit(**limit)
            before = _refill(sandbox, plan)
            for change, (update, kept) in changes[base].items():
                sandbox.limit(**kept)
                after_s, predicted_s = _refill(sandbox, plan.model_copy(update=update))["wall_s"], before["what_if"][change]
                predictions.append(
                    Prediction(base=base, change=change, before_s=before["wall_s"], predicted_s=predicted_s, measured_s=after_s)
                )
    finally:
        sandbox.limit()
    found = before | beside_floor(before, source)
    say(f"with {source.rate_per_s:g} requests/s: {found['wall_s']:.2f} s, the floor of {found['pages']} pages is {found['floor_s']:.2f} s")
    say("predictions: " + ", ".join(f"{one.change} {one.predicted_s:.1f} of {one.measured_s:.1f} s" for one in predictions))
    return found, predictions


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
    with machine.serving(machine.module("vendor", folder), machine.ALL) as (ready_url, vendor):
        ways: dict[str, Callable[[], Once]] = {
            RAW: lambda: _once(sandbox, "copy", folder, jobs, "counted" if done[RAW] else "checked"),
            END_TO_END: lambda: _once(sandbox, *words, sandbox.upstream_url, upstream=upstream),
            READY: lambda: _once(sandbox, *words, ready_url, upstream=vendor.pid),
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
    with machine.process(words, machine.ALL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
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


def _output(command: str, *arguments: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(machine.output(machine.module("refill", command, *arguments), machine.ALL, timeout_s=TIMEOUT_S))
    return found


def _checked(found: dict[str, Any]) -> dict[str, Any]:
    """Return what a refill says of itself if it is worth being timed."""
    if found["completed"] != found["jobs"] or found["lost"]:
        raise RuntimeError(f"{found['completed']} of {found['jobs']} jobs were completed, and {found['lost']} bars lost")
    return found
