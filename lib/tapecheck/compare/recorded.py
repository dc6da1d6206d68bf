"""Puts recorded runs, or files of other load generators, side by side, a pair a round, and names what else differs between them."""

import datetime as dt
import glob
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tapecheck import config
from tapecheck.compare import answers
from tapecheck.compare.answers import Key, SentRequests
from tapecheck.compare.plan import AFTER, BEFORE, CLOCKS, COUNTERS, LATENCIES, STAGE_METRICS, Side, Variants, known
from tapecheck.compare.recording import Compared, Context, Recording, Sample
from tapecheck.errors import ConfigError, Problem
from tapecheck.load.imports import registry
from tapecheck.load.recording import Recording as LoadRecording
from tapecheck.runs import folders, history
from tapecheck.runs.folders import Run
from tapecheck.runs.results import Environment, TargetInfo
from tapecheck.verdict import Verdict

Json = Mapping[str, Any]  # of a result.json, which was checked by its schema when it was read, or of a summary as plain data
LIMITS = "config/load.yaml"  # the plan that says when a generator measured itself, as in the load notebook
SIDES: tuple[Side, Side] = (BEFORE, AFTER)


# ---- figures ----

PATHS: Mapping[str, Mapping[str, str]] = {  # where a figure stands in its part of a result, where that is not by its name
    "backfill": {
        **{name: f"totals.{name}" for name in ("duration_s", "records_per_s", *COUNTERS["backfill"])},
        **{name: f"stages.{name.removesuffix('_s')}.busy_s" for name in STAGE_METRICS},
    },
    "load": {
        f"{kind}{name}": f"{kind or 'response_'}time_ms.{'mean' if name == 'mean_ms' else name.removesuffix('_ms') + '.value'}"
        for kind in ("", "service_", "server_")
        for name in LATENCIES
    },
    "observe": {
        **{f"{name}_s": f"kinds.{name}.busy_s" for name in ("api", "database", "own")},
        **{f"vendor_{name}_ms": f"vendor_ms.{name}.value" for name in ("p50", "p95")},
    },
    "rto_rpo": {"recover_max_s": "recover_s.max", "degraded_max_s": "degraded_s.max", "trials": "recover_s.n"},
}


def figures(result: Json) -> dict[str, Sample]:
    """Return the figures of each part of a result that is compared by itself: a scenario, a backfill, a kind of failure."""
    invalid = [(check["name"], check["reason"]) for check in result.get("checks", ()) if check["verdict"] == Verdict.INVALID]
    if result["validation"] == "load":
        return {name: of("load", one, one["invalid"] or "") for name, one in result["scenarios"].items()}
    if result["validation"] == "backfill":
        failed, jobs = result["totals"]["failed"], result["totals"]["jobs"]
        return {"backfill": of("backfill", result, f"{failed} of {jobs} jobs failed" if failed else "")}
    if result["validation"] == "observe":
        return {"backfill": of("observe", result, next((reason for _, reason in invalid), ""))}
    why = {name: next((reason for other, reason in invalid if other == name), "an invalid trial") for name in result["rto"]}
    return {name: of("rto_rpo", one, why[name] if one["verdict"] == Verdict.INVALID else "") for name, one in result["rto"].items()}


def of(validation: str, part: Json, problem: str) -> Sample:
    """Return the figures of a part that are known, of clocks those above 0; one with a `problem` does not count."""
    found = {name: history.value_at(part, PATHS[validation].get(name, name)) for name in known(validation)}
    return Sample(
        clocks={name: value for name in CLOCKS[validation] if (value := found[name]) and math.isfinite(value)},
        counters={name: int(value) for name in COUNTERS[validation] if (value := found[name]) is not None},
        checksum=(part.get("integrity") or {}).get("checksum", ""),
        problem=problem,
    )


# ---- runs ----


class ComparedRun:
    """What the result of a run says, and of a file of another tool its requests, which are in no run folder."""

    def __init__(self, run: Run, imported: LoadRecording | None = None) -> None:
        self.run, self.imported = run, imported
        self.result: Json = run.result
        self.tool = str((run.result.get("tool") or {}).get("name", ""))  # empty when it was this workbook
        self.figures = figures(run.result)
        self.started_at = dt.datetime.fromisoformat(run.result["started_at"])

    def own(self, part: str) -> str:
        """Return what this run calls a part: the one that it has, where another tool has named it."""
        return part if part in self.figures else next(iter(self.figures))

    def requests(self) -> LoadRecording | None:
        """Return every request of a load run; None where its folder has none."""
        if self.imported or not (self.run.folder / "samples.parquet").exists():
            return self.imported
        from tapecheck.load.validation import load

        return load.read_files(self.run.folder, source=str(self.run.folder))

    def compared(self) -> Compared:
        """Return what is recorded of it."""
        target, code = self.result["target"]["name"], history.code(Environment(**self.result["environment"]))
        return Compared(folder=config.shown(self.run.folder), run_id=self.result["run_id"], target=target, code=code)


Runs = Sequence[ComparedRun]


def read(before: str, after: str) -> Recording:
    """Return recorded runs, or files of other load generators, as rounds: the first of each side, the second of each, and so on.

    Each side is a run, or a pattern such as `outputs/load/a*` that several match. What is no complete run and no file that we know, runs
    of different validations, of comparisons, of different number, or without a part in common are a `ConfigError`.
    """
    paths = {BEFORE: _matching(before, BEFORE), AFTER: _matching(after, AFTER)}
    validation = _validation(paths)
    if len(paths[BEFORE]) != len(paths[AFTER]):
        got = f"{len(paths[BEFORE])} before, {len(paths[AFTER])} after"
        raise ConfigError([Problem(file="parameters", key="after", got=got, allowed="as many runs on both sides: a pair is a round")])
    runs = {side: sorted(map(_source, paths[side]), key=lambda run: run.started_at) for side in SIDES}
    every = [*runs[BEFORE], *runs[AFTER]]
    parts = _parts(every)
    found: list[Sample] = []
    requests: dict[Key, list[SentRequests]] = {}
    for number, pair in enumerate(zip(runs[BEFORE], runs[AFTER], strict=True), 1):
        for sample, sent in _round(number, pair, parts, is_alike=len({run.tool for run in every}) == 1):
            found.append(sample)
            if sent is not None:
                requests.setdefault((sample.proof, sample.side), []).append(sent)
    last = runs[AFTER][-1]
    context = Context(
        run_id=folders.new_id(),
        started_at=last.started_at,
        target=TargetInfo(**last.result["target"]),
        environment=Environment(**last.result["environment"]),
        variants={part: Variants.model_validate({"validation": validation}) for part in parts},
        before=tuple(run.compared() for run in runs[BEFORE]),
        after=tuple(run.compared() for run in runs[AFTER]),
        differs=tuple(confounders(runs, parts)),
    )
    return Recording.of(samples=found, context=context, spectra=answers.spectra(requests))


def _matching(path: str, side: Side) -> list[str]:
    """Return the runs or files that a path names, or that match it; a link such as `latest` names none of its own."""
    if not any(sign in path for sign in "*?[") or config.expanded(path).exists():
        return [path]
    for base in (Path.cwd(), config.PROJECT):
        every = (base / one for one in glob.glob(str(config.expanded(path)), root_dir=base))  # noqa: PTH207 - may be absolute
        if found := sorted(str(one) for one in every if not one.is_symlink()):
            return found
    raise ConfigError([Problem(file="parameters", key=side, got=path, allowed="a path or pattern that a run or file matches")])


def _round(number: int, pair: Runs, parts: Sequence[str], *, is_alike: bool) -> Iterator[tuple[Sample, SentRequests | None]]:
    """Yield the sample of each side and part, and its requests where both runs count.

    Two tools do not count the bytes of an answer alike, so that answers are compared only of runs that are alike.
    """
    counting = {part for part in parts if not any(run.figures[run.own(part)].problem for run in pair)}
    for side, run in zip(SIDES, pair, strict=True):
        sent, at_ns = run.requests() if counting else None, int(run.started_at.timestamp() * 1e9)
        for part in parts:
            own = run.own(part)
            sample = replace(run.figures[own], proof=part, side=side, round=number, began_ns=at_ns, ended_ns=at_ns)
            if sent is None or part not in counting:
                yield sample, None
            else:
                yield sample.plus(answers.read(sent, own)) if is_alike else sample, answers.requests(sent, own)


def validation_of(before: str, after: str) -> str:
    """Return of which validation all runs are; what `read` would refuse for it is refused."""
    return _validation({BEFORE: _matching(before, BEFORE), AFTER: _matching(after, AFTER)})


def _validation(paths: Mapping[Side, Sequence[str]]) -> str:
    """Return of which validation all runs are, before a file of a million requests is read."""
    kinds = [(side, path, _kind(path)) for side in SIDES for path in paths[side]]
    _, path, first = kinds[0]
    if first == "compare":
        allowed = "runs of load, backfill, observe or rto_rpo"
        raise ConfigError([Problem(file=path, key="before", got="a comparison, which compares already", allowed=allowed)])
    for side, path, kind in kinds:
        if kind != first:
            raise ConfigError([Problem(file=path, key=side, got=f"a run of {kind}", allowed=f"a run of {first}, as before is")])
    return first


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
    from tapecheck.load.validation import load

    found = load.read(path)
    context = found.context
    result = {
        "validation": "load",
        "run_id": context.run_id,
        "started_at": context.started_at.isoformat(),
        **{name: asdict(getattr(context, name)) for name in ("target", "environment", "tool")},
        "scenarios": {name: asdict(one) for name, one in load.summarize(found, load.read_plan(LIMITS)).items()},
    }
    return ComparedRun(run=Run(folder=file.resolve(), result=result), imported=found)


def _parts(runs: Runs) -> list[str]:
    """Return what all runs have; of another tool, which names its scenarios itself, the only one of each."""
    common = [name for name in runs[0].figures if all(name in run.figures for run in runs)]
    if common:
        return common
    if all(len(run.figures) == 1 for run in runs) and any(run.tool for run in runs):
        return [" / ".join(dict.fromkeys(next(iter(run.figures)) for run in runs))]
    got = "; ".join(f"{run.compared().run_id}: {', '.join(run.figures) or 'nothing'}" for run in runs)
    raise ConfigError([Problem(file="parameters", key="after", got=got, allowed="runs that have a part in common")])


# ---- confounders ----

NO_CONFIGURATION = frozenset({"run", "out"})  # parameters of a notebook that change nothing that is measured
NOT_RECORDED = "not recorded"


def confounders(runs: Mapping[Side, Runs], parts: Sequence[str]) -> Iterator[str]:
    """Yield what else is not the same in all runs, as `what: before, after`.

    Another commit, and so another version of tapecheck itself, is what runs are mostly compared for. A sandbox has another port after
    every start. The file of another tool says neither where it ran nor what it was told to do.
    """
    every = [*runs[BEFORE], *runs[AFTER]]
    tools = sorted({run.tool for run in every} - {""})
    is_external = all(run.result["target"]["kind"] == "external" for run in every)
    facts = {side: [_facts(run, parts, has_url=is_external, is_whole=not tools) for run in runs[side]] for side in SIDES}
    for what in dict.fromkeys(what for side in SIDES for one in facts[side] for what in one):
        before, after = (list(dict.fromkeys(str(one.get(what)) for one in facts[side])) for side in SIDES)
        if len({*before, *after}) > 1:
            yield f"{what}: {', '.join(before)} before, {', '.join(after)} after"
    yield from (f"machine: {tool} does not say on which it ran" for tool in tools)
    beside = [(side, one["measured"]) for side in SIDES for run in runs[side] for one in run.result.get("beside") or () if not tools]
    yield from dict.fromkeys(f"{side} ran beside another measurement: {measured}" for side, measured in beside)


def _facts(run: ComparedRun, parts: Sequence[str], *, has_url: bool, is_whole: bool) -> dict[str, object]:
    """Return what should be the same in every run, of those of another tool as much as it says."""
    result, environment = run.result, run.result["environment"]
    named = ("name", "kind", *(["base_url"] if has_url else []))
    found: dict[str, object] = {f"target {name}": result["target"][name] or NOT_RECORDED for name in named}
    found["measured by"] = run.tool or "this workbook"
    if not is_whole:
        return found
    found |= {name: environment[name] for name in ("host", "system", "cores", "memory_mb", "python")}
    found |= {name: version for name, version in sorted(environment["versions"].items()) if name != "tapecheck"}
    found["plan digest"] = result.get("plan_digest") or NOT_RECORDED
    found |= {f"parameter {name}": value for name, value in sorted(result["parameters"].items()) if name not in NO_CONFIGURATION}
    if result["validation"] == "load":
        found |= {f"executor of {part}": result["scenarios"][run.own(part)]["executor"] for part in parts}
    return found
