"""Puts two recorded runs, or files of other load generators, side by side as one round, and names what else differs between them."""

import datetime as dt
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tapecheck import config
from tapecheck.compare import samples
from tapecheck.compare.plan import AFTER, BEFORE, COUNTERS, LATENCIES, STAGE_METRICS, Question, RecordedQuestions, Side, Validation
from tapecheck.compare.recording import Compared, Context, Recording
from tapecheck.compare.samples import Figures, Sample
from tapecheck.errors import ConfigError, Problem
from tapecheck.load.imports import registry
from tapecheck.load.recording import Recording as LoadRecording
from tapecheck.runs import folders, history, results
from tapecheck.runs.folders import Run
from tapecheck.runs.results import Environment, TargetInfo
from tapecheck.verdict import Verdict

Json = Mapping[str, Any]  # of a result.json, which was checked by its schema when it was read, or of a summary as plain data


def figures(validation: Validation, result: Json) -> dict[str, Figures]:
    """Return the figures of each part of a result that is compared by itself: a scenario, a backfill, a kind of failure."""
    if validation == "load":
        return {name: of_scenario(one) for name, one in result["scenarios"].items()}
    if validation == "backfill":
        return {"backfill": of_backfill(result)}
    return {name: _of_failure(name, one, result["checks"]) for name, one in result["rto"].items()}


def of_scenario(one: Json) -> Figures:
    """Return the figures of a scenario; a tool that gives no intervals has plain numbers."""
    kinds = (("", one["response_time_ms"]), ("service_", one["service_time_ms"]), ("server_", one["server_time_ms"]))
    found = {f"{kind}{name}": times[name.removesuffix("_ms")] for kind, times in kinds if times for name in LATENCIES}
    values = {name: value["value"] if isinstance(value, Mapping) else value for name, value in found.items()}
    clocks = _numbers({**values, "throughput_rps": one["throughput_rps"]})
    return Figures(clocks=clocks, counters=_counted(one, "load"), problem=one["invalid"] or "")


def of_backfill(result: Json) -> Figures:
    """Return the figures of a backfill; a stage that did not run has none."""
    totals = result["totals"]
    stages = {name: result["stages"].get(name.removesuffix("_s"), {}).get("busy_s") or None for name in STAGE_METRICS}
    return Figures(
        clocks=_numbers({"duration_s": totals["duration_s"], "records_per_s": totals["records_per_s"] or None, **stages}),
        counters=_counted(totals, "backfill"),
        checksum=(result["integrity"] or {}).get("checksum", ""),
        problem=f"{totals['failed']} of {totals['jobs']} jobs failed" if totals["failed"] else "",
    )


def _of_failure(name: str, one: Json, checks: list[Json]) -> Figures:
    invalid = (check["reason"] for check in checks if check["name"] == name and check["verdict"] == Verdict.INVALID)
    return Figures(
        clocks=_numbers({"recover_max_s": one["recover_s"]["max"], "degraded_max_s": one["degraded_s"]["max"]}),
        counters={"trials": one["recover_s"]["n"]},
        problem=next(invalid, "an invalid trial") if one["verdict"] == Verdict.INVALID else "",
    )


def _counted(one: Json, validation: str) -> dict[str, int]:
    return {name: int(one[name]) for name in COUNTERS[validation] if one.get(name) is not None}  # not everyone counts everything


def _numbers(values: Json) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float) and math.isfinite(value)}


# ---- confounders ----

NO_CONFIGURATION = frozenset({"run", "out"})  # parameters of a notebook that change nothing that is measured
NOT_RECORDED = "not recorded"
Pairs = Mapping[str, Mapping[Side, str]]
"""What is compared, by the name that it has on each side."""


def confounders(before: Json, after: Json, pairs: Pairs) -> Iterator[str]:
    """Yield what else is not the same in both results, as `what: before, after`.

    Another commit, and so another version of tapecheck itself, is what two runs are mostly compared for. A sandbox has another port after
    every start. The file of another tool says neither where it ran nor what it was told to do.
    """
    sides: dict[Side, Json] = {BEFORE: before, AFTER: after}
    tools = [(result.get("tool") or {}).get("name", "") for result in sides.values()]
    named = ("name", "kind", *(["base_url"] if all(result["target"]["kind"] == "external" for result in sides.values()) else []))
    yield from _unlike("target ", *({name: result["target"][name] or NOT_RECORDED for name in named} for result in sides.values()))
    yield from _unlike("", *({"measured by": tool or "this workbook"} for tool in tools))
    if any(tools):
        yield from (f"machine: {tool} does not say on which it ran" for tool in sorted({*tools} - {""}))
        return
    yield from _unlike("", *(_environment(result["environment"]) for result in sides.values()))
    for side, result in sides.items():
        yield from (f"{side} ran beside another measurement: {one['measured']}" for one in result.get("beside") or ())
    yield from _unlike("", *({"plan digest": result.get("plan_digest") or NOT_RECORDED} for result in sides.values()))
    yield from _unlike("parameter ", *(_parameters(result["parameters"]) for result in sides.values()))
    if before["validation"] == "load":
        executors = ({name: result["scenarios"][own[side]]["executor"] for name, own in pairs.items()} for side, result in sides.items())
        yield from _unlike("executor of ", *executors)


def _environment(environment: Json) -> Json:
    versions = {name: version for name, version in sorted(environment["versions"].items()) if name != "tapecheck"}
    return {name: environment[name] for name in ("host", "system", "cores", "memory_mb", "python")} | versions


def _parameters(given: Json) -> Json:
    return {name: value for name, value in sorted(given.items()) if name not in NO_CONFIGURATION}


def _unlike(what: str, before: Json, after: Json) -> Iterator[str]:
    """Yield what is not the same on both sides."""
    for name in {**before, **after}:
        if before.get(name) != after.get(name):
            yield f"{what}{name}: {before.get(name)} before, {after.get(name)} after"


# ---- recorded ----

LIMITS = "config/load.yaml"  # the plan that says when a generator measured itself, as in the load notebook


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRun:
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
        from tapecheck.load.validation import load

        return load.read_files(self.run.folder, source=str(self.run.folder))


def read(before: str, after: str, asked: RecordedQuestions, *, seed: int = 0) -> Recording:
    """Return two recorded runs, or files of other load generators, as one round.

    Raises:
        ConfigError: one is no complete run and no file that we know, they are of different validations or of comparisons,
            or have no part in common.
    """
    validation = _validation(before, after)
    sides: dict[Side, ComparedRun] = {BEFORE: _source(before), AFTER: _source(after)}
    found = {side: figures(validation, source.run.result) for side, source in sides.items()}
    pairs = _pairs(sides, found)
    drawn = {name: own for name, own in pairs.items() if validation == "load" and not any(found[s][own[s]].problem for s in sides)}
    answers, lines = _requests(sides, drawn)
    both = [
        Sample(
            **found[side][own[side]].and_answers(answers.get((name, side), Figures())),
            proof=name,
            side=side,
            round=1,
            began_ns=0,
            ended_ns=0,
        )
        for name, own in pairs.items()
        for side in sides
    ]
    return Recording.of(samples=both, context=_context(sides, pairs, asked.question(validation), seed), spectra=lines)


def _requests(sides: Mapping[Side, ComparedRun], drawn: Pairs) -> tuple[dict[tuple[str, Side], Figures], pa.Table]:
    """Return the answers and the spectra of both sides, one side after the other; a run without its requests has neither.

    Two tools do not count the bytes of an answer alike, so that the answers of theirs are not compared.

    Raises:
        ConfigError: the samples of a run cannot be read.
    """
    answers: dict[tuple[str, Side], Figures] = {}
    lines: list[pa.Table] = []
    for side, source in sides.items():
        requests = source.requests_of_run() if drawn else None
        if requests is not None:
            own = {name: both[side] for name, both in drawn.items()}
            lines += samples.of_run(side, requests, own)
            if len({one.tool for one in sides.values()}) == 1:
                answers |= {(name, side): samples.answers(requests, scenario) for name, scenario in own.items()}
    return answers, samples.together(lines)


def asked(before: str, after: str, recorded: RecordedQuestions) -> dict[str, Question]:
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


def _source(path: str) -> ComparedRun:
    file = registry.named(path)
    if file is None:
        return ComparedRun(run=folders.read(path))
    from tapecheck.load.validation import LoadResult, load

    found = load.read(path)
    result = LoadResult(
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
        scenarios=dict(load.summarize(found, load.read_plan(LIMITS))),
        tool=found.context.tool,
    )
    return ComparedRun(run=Run(folder=file.resolve(), result=results.to_json(result)), requests=found)


def _pairs(sides: Mapping[Side, ComparedRun], found: Mapping[Side, Mapping[str, Figures]]) -> Pairs:
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


def _context(sides: Mapping[Side, ComparedRun], pairs: Pairs, question: Question, seed: int) -> Context:
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
        differs=tuple(confounders(first.result, second.result, pairs)),
    )


def _compared(run: Run) -> Compared:
    return Compared(
        folder=config.shown(run.folder),
        run_id=run.result["run_id"],
        target=run.result["target"]["name"],
        code=history.code(Environment(**run.result["environment"])),
    )
