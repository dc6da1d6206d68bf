"""Finds in a result what is compared by itself: a scenario, a backfill, a kind of failure, each in figures. It opens no file."""

import datetime as dt
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from tapecheck import config
from tapecheck.compare import answers
from tapecheck.compare import samples as spectra
from tapecheck.compare.answers import Answers
from tapecheck.compare.plan import AFTER, BEFORE, COUNTERS, LATENCIES, STAGE_METRICS, Question, Recorded, Side, Validation
from tapecheck.compare.recording import Compared, Context, Recording
from tapecheck.compare.samples import Sample
from tapecheck.errors import ConfigError, Problem
from tapecheck.load import recording
from tapecheck.load.imports import registry
from tapecheck.load.recording import Recording as LoadRecording
from tapecheck.runs import folders, history, results
from tapecheck.runs.folders import Run
from tapecheck.runs.results import Environment, TargetInfo
from tapecheck.verdict import Verdict

Json = dict[str, Any]  # of a result.json, which was checked by its schema when it was read


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Clocks, counters and checksum; `problem` says why they do not count, where they do not."""

    clocks: Mapping[str, float]
    counters: Mapping[str, int]
    checksum: str = ""
    problem: str = ""
    answers: Mapping[str, int] = field(default_factory=dict)


def find(validation: Validation, result: Json) -> dict[str, Part]:
    """Return the parts of a result by their names."""
    if validation == "load":
        return {name: _scenario(one) for name, one in result["scenarios"].items()}
    if validation == "backfill":
        return {"backfill": _backfill(result)}
    return {name: _failure(name, one, result["checks"]) for name, one in result["rto"].items()}


def _scenario(one: Json) -> Part:
    times = {
        f"{kind}{name}": value["value"] if isinstance(value, dict) else value
        for kind, key in (("", "response_time_ms"), ("service_", "service_time_ms"), ("server_", "server_time_ms"))
        for name in LATENCIES
        if one[key]
        for value in (one[key][name.removesuffix("_ms")],)
    }
    return Part(
        clocks=_numbers({**times, "throughput_rps": one["throughput_rps"]}),
        counters=_counted(one, *COUNTERS["load"]),
        problem=one["invalid"] or "",
    )


def _backfill(result: Json) -> Part:
    totals = result["totals"]
    stages = {name: result["stages"].get(name.removesuffix("_s"), {}).get("busy_s") for name in STAGE_METRICS}
    return Part(
        clocks=_numbers({**{name: totals[name] for name in ("duration_s", "records_per_s")}, **stages}),
        counters=_counted(totals, *COUNTERS["backfill"]),
        checksum=(result["integrity"] or {}).get("checksum", ""),
        problem=f"{totals['failed']} of {totals['jobs']} jobs failed" if totals["failed"] else "",
    )


def _failure(name: str, one: Json, checks: list[Json]) -> Part:
    invalid = (check["reason"] for check in checks if check["name"] == name and check["verdict"] == Verdict.INVALID)
    return Part(
        clocks=_numbers({"recover_max_s": one["recover_s"]["max"], "degraded_max_s": one["degraded_s"]["max"]}),
        counters={"trials": one["recover_s"]["n"]},
        problem=next(invalid, "an invalid trial") if one["verdict"] == Verdict.INVALID else "",
    )


def _counted(one: Json, *names: str) -> dict[str, int]:
    return {name: int(one[name]) for name in names if one.get(name) is not None}  # not everyone counts everything


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float) and math.isfinite(value)}


# ---- circumstances ----

NO_CONFIGURATION = frozenset({"run", "out"})  # parameters of a notebook that change nothing that is measured
NOT_RECORDED = "not recorded"


def differs(before: Json, after: Json, pairs: Mapping[str, Mapping[Side, str]]) -> Iterator[str]:
    """Yield each circumstance that is not the same in both results, as `what: before, after`.

    Another commit, and so another version of tapecheck itself, is what two runs are mostly compared for.

    Args:
        pairs: what is compared, by the name that it has on each side.
    """
    yield from _targets(before["target"], after["target"])
    tools = [(result.get("tool") or {}).get("name", "") for result in (before, after)]
    yield from _unlike("measured by", *(tool or "this workbook" for tool in tools))
    if any(tools):  # whose file says neither where it ran nor what it was told to do
        yield from (f"machine: {tool} does not say on which it ran" for tool in sorted({*tools} - {""}))
        return
    yield from _environments(before["environment"], after["environment"])
    for side, result in ((BEFORE, before), (AFTER, after)):
        yield from (f"{side} ran beside another measurement: {one['measured']}" for one in result.get("beside") or ())
    yield from _configurations(before, after)
    if before["validation"] == "load":
        yield from _executors(before["scenarios"], after["scenarios"], pairs)


def _targets(before: Json, after: Json) -> Iterator[str]:
    for name in ("name", "kind"):
        yield from _unlike(f"target {name}", before[name], after[name])
    if before["kind"] == after["kind"] == "external":  # a sandbox has another port after every start
        yield from _unlike("target base_url", *(target["base_url"] or NOT_RECORDED for target in (before, after)))


def _environments(before: Json, after: Json) -> Iterator[str]:
    for name in ("host", "system", "cores", "memory_mb", "python"):
        yield from _unlike(name, before[name], after[name])
    for name in sorted((before["versions"].keys() | after["versions"].keys()) - {"tapecheck"}):
        yield from _unlike(name, before["versions"].get(name), after["versions"].get(name))


def _configurations(before: Json, after: Json) -> Iterator[str]:
    """Compare what the plan files said, and the parameters; a run of before there were digests does not say what its plan was."""
    yield from _unlike("plan digest", *(result.get("plan_digest") or NOT_RECORDED for result in (before, after)))
    given, then = before["parameters"], after["parameters"]
    for name in sorted((given.keys() | then.keys()) - NO_CONFIGURATION):
        yield from _unlike(f"parameter {name}", given.get(name), then.get(name))


def _executors(before: Json, after: Json, pairs: Mapping[str, Mapping[Side, str]]) -> Iterator[str]:
    for name, own in pairs.items():
        yield from _unlike(f"executor of {name}", before[own[BEFORE]]["executor"], after[own[AFTER]]["executor"])


def _unlike(what: str, before: object, after: object) -> Iterator[str]:
    if before != after:
        yield f"{what}: {before} before, {after} after"


# ---- recorded ----

LIMITS = "config/load.yaml"  # the plan that says when a generator measured itself, as in the load notebook
Pairs = Mapping[str, Mapping[Side, str]]
"""What is compared, by the name that it has on each side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One side: what its result says, and of a file of another tool its requests, which are in no run folder."""

    run: Run
    requests: LoadRecording | None = None

    @property
    def tool(self) -> str:
        """Return the name of the other tool that measured; empty when it was this workbook."""
        return str((self.run.result.get("tool") or {}).get("name", ""))

    def requests_of_run(self) -> LoadRecording | None:
        """Return every request; None where the run was told of without them.

        Raises:
            ConfigError: they cannot be read.
        """
        if self.requests or not (self.run.folder / "samples.parquet").exists():
            return self.requests
        return recording.read_files(self.run.folder, source=str(self.run.folder))


def read(before: str, after: str, asked: Recorded, *, seed: int = 0) -> Recording:
    """Return two recorded runs, or files of other load generators, as one round.

    Raises:
        ConfigError: one is no complete run and no file that we know, they are of different validations or of comparisons,
            or have no part in common.
    """
    validation = _validation(before, after)
    sides: dict[Side, Source] = {BEFORE: _source(before), AFTER: _source(after)}
    found = {side: find(validation, source.run.result) for side, source in sides.items()}
    pairs = _pairs(sides, found)
    broken = {name for name, own in pairs.items() if any(found[side][own[side]].problem for side in sides)}
    drawn = {name: own for name, own in pairs.items() if name not in broken and validation == "load"}
    given, lines = _requests(sides, drawn)
    samples = [_sample(name, side, found[side][own[side]], given.get((name, side))) for name, own in pairs.items() for side in sides]
    return Recording(samples=samples, context=_context(sides, pairs, asked.question(validation), seed), spectra=lines)


def _requests(sides: Mapping[Side, Source], drawn: Pairs) -> tuple[dict[tuple[str, Side], Answers], pa.Table]:
    """Return the answers and the spectra of both sides, one side after the other; a run without its requests has neither.

    Two tools do not count the bytes of an answer alike, so that the answers of theirs are not compared.

    Raises:
        ConfigError: the samples of a run cannot be read.
    """
    given: dict[tuple[str, Side], Answers] = {}
    lines: list[pa.Table] = []
    for side, source in sides.items():
        requests = source.requests_of_run() if drawn else None
        if requests is not None:
            own = {name: both[side] for name, both in drawn.items()}
            lines += spectra.of_run(side, requests, own)
            if len({one.tool for one in sides.values()}) == 1:
                given |= {(name, side): answers.of(requests, scenario) for name, scenario in own.items()}
    return given, spectra.together(lines)


def asked(before: str, after: str, recorded: Recorded) -> dict[str, Question]:
    """Return what will be asked of each part of two recorded runs.

    Raises:
        ConfigError: as `read` does of what they are, and of their validations.
    """
    validation = _validation(before, after)
    return {f"each part of {validation}": recorded.question(validation)}


def _validation(before: str, after: str) -> Validation:
    """Return of which validation both sides are, before a file of a million requests is read."""
    first, second = _kind(before), _kind(after)
    if first != second:
        allowed = f"a run of {first}, as before is"
        raise ConfigError([Problem(file=str(after), key="after", got=f"a run of {second}", allowed=allowed)])
    if first == "compare":
        allowed = "runs of load, backfill or rto_rpo"
        raise ConfigError([Problem(file=str(before), key="before", got="a comparison, which compares already", allowed=allowed)])
    found: Validation = first  # type: ignore[assignment]
    return found


def _kind(path: str) -> str:
    file = registry.named(path)
    if file is None:
        return str(folders.read(path).result["validation"])
    registry.format_of(file, source=path)
    return "load"


def _source(path: str) -> Source:
    file = registry.named(path)
    if file is None:
        return Source(run=folders.read(path))
    from tapecheck.load import validation as load  # and with it the load engine: paid by who compares such a file

    found = load.read(path)
    result = load.LoadResult(
        validation="load",
        run_id=found.context.run_id,
        verdict=Verdict.NO_DATA,  # nothing was promised of it
        started_at=found.context.started_at,
        target=found.context.target,
        environment=found.context.environment,
        parameters={},
        checks=[],
        bottleneck=None,
        recommendations=[],
        scenarios=load.summarize(found, load.read_plan(LIMITS)),
        tool=found.context.tool,
    )
    return Source(run=Run(folder=file.resolve(), result=results.to_json(result)), requests=found)


def _pairs(sides: Mapping[Side, Source], found: Mapping[Side, Mapping[str, Part]]) -> Pairs:
    """Return what both sides have; of another tool, which names its scenarios itself, the only one of each.

    Raises:
        ConfigError: there is nothing.
    """
    before, after = found[BEFORE], found[AFTER]
    common = {name: {BEFORE: name, AFTER: name} for name in before if name in after}
    if common:
        return common
    if len(before) == len(after) == 1 and any(source.tool for source in sides.values()):
        (first,), (second,) = before, after
        return {f"{first} / {second}": {BEFORE: first, AFTER: second}}
    got = f"{', '.join(before) or 'nothing'} before, {', '.join(after) or 'nothing'} after"
    raise ConfigError([Problem(file="parameters", key="after", got=got, allowed="two runs that have a part in common")])


def _context(sides: Mapping[Side, Source], pairs: Pairs, question: Question, seed: int) -> Context:
    first, second = sides[BEFORE].run, sides[AFTER].run
    return Context(
        run_id=folders.new_id(),
        started_at=dt.datetime.fromisoformat(second.result["started_at"]),
        target=TargetInfo(**second.result["target"]),
        environment=Environment(**second.result["environment"]),
        questions=dict.fromkeys(pairs, question),
        seed=seed,
        before=_compared(first),
        after=_compared(second),
        differs=tuple(differs(first.result, second.result, pairs)),
    )


def _compared(run: Run) -> Compared:
    return Compared(
        folder=config.shown(run.folder),
        run_id=run.result["run_id"],
        target=run.result["target"]["name"],
        code=history.code(Environment(**run.result["environment"])),
    )


def _sample(name: str, side: Side, part: Part, given: Answers | None) -> Sample:
    return Sample(
        proof=name,
        side=side,
        round=1,
        began_ns=0,
        ended_ns=0,
        clocks={**part.clocks, **(given.clocks if given else {})},
        counters={**part.counters, **(given.counters if given else {})},
        answers=given.kinds if given else {},
        checksum=part.checksum,
        problem=part.problem,
    )
