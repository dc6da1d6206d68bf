"""Makes one round of two recorded runs, and says what else than the change lies between them. It measures nothing."""

import datetime as dt
import math
from collections.abc import Iterator, Mapping
from typing import Any

from tapecheck import config, runs
from tapecheck.compare import spectra
from tapecheck.compare.metrics import COUNTERS, LATENCIES, STAGE_METRICS, Validation
from tapecheck.compare.plan import Question, Recorded
from tapecheck.compare.recording import Compared, Context, Recording
from tapecheck.compare.samples import Sample
from tapecheck.compare.variants import AFTER, BEFORE, Side
from tapecheck.errors import ConfigError, Problem
from tapecheck.results import Environment, TargetInfo
from tapecheck.runs import Run

NO_CONFIGURATION = frozenset({"run", "out"})  # parameters of a notebook that change nothing that is measured
Json = dict[str, Any]  # of a result.json, which was checked by its schema when it was read
Part = tuple[dict[str, float], dict[str, int], str]
"""Clocks, counters and checksum of what is compared by itself."""


def read(before: str, after: str, asked: Recorded, *, seed: int = 0) -> Recording:
    """Return two recorded runs as one round.

    Raises:
        ConfigError: a folder is no complete run, the runs are of different validations or of comparisons, or have no part in common.
    """
    sides: dict[Side, Run] = {BEFORE: runs.read(before), AFTER: runs.read(after)}
    validation = _validation(sides, before, after)
    parts = {side: _parts(validation, run.result) for side, run in sides.items()}
    common = [name for name in parts[BEFORE] if name in parts[AFTER]]
    if not common:
        got = f"{', '.join(parts[BEFORE]) or 'nothing'} before, {', '.join(parts[AFTER]) or 'nothing'} after"
        raise ConfigError([Problem(file="parameters", key="after", got=got, allowed="two runs that have a part in common")])
    question = asked.question(validation)
    samples = [_sample(name, side, parts[side][name]) for name in common for side in sides]
    seen = spectra.of_runs({side: run.folder for side, run in sides.items()}, common if validation == "load" else ())
    return Recording(samples=samples, context=_context(sides, dict.fromkeys(common, question), seed), spectra=seen)


def asked(before: str, after: str, recorded: Recorded) -> dict[str, Question]:
    """Return what will be asked of each part of two recorded runs.

    Raises:
        ConfigError: as `read` does of the folders and their validations.
    """
    validation = _validation({BEFORE: runs.read(before), AFTER: runs.read(after)}, before, after)
    return {f"each part of {validation}": recorded.question(validation)}


def _validation(sides: Mapping[Side, Run], before: str, after: str) -> Validation:
    """Return of which validation both runs are."""
    first, second = (sides[side].result["validation"] for side in (BEFORE, AFTER))
    if first != second:
        allowed = f"a run of {first}, as before is"
        raise ConfigError([Problem(file=str(after), key="after", got=f"a run of {second}", allowed=allowed)])
    if first == "compare":
        allowed = "runs of load, backfill or rto_rpo"
        raise ConfigError([Problem(file=str(before), key="before", got="a comparison, which compares already", allowed=allowed)])
    found: Validation = first
    return found


def _context(sides: Mapping[Side, Run], questions: Mapping[str, Question], seed: int) -> Context:
    first, second = sides[BEFORE].result, sides[AFTER].result
    compared = {
        side: Compared(folder=config.shown(run.folder), run_id=run.result["run_id"], target=run.result["target"]["name"])
        for side, run in sides.items()
    }
    return Context(
        run_id=runs.new_id(),
        started_at=dt.datetime.fromisoformat(second["started_at"]),
        target=TargetInfo(**second["target"]),
        environment=Environment(**second["environment"]),
        questions=questions,
        seed=seed,
        before=compared[BEFORE],
        after=compared[AFTER],
        differs=tuple(differs(first, second)),
    )


def differs(before: Json, after: Json) -> Iterator[str]:
    """Yield what else than the change lies between two runs: target, machine, versions and parameters.

    Another commit, and so another version of tapecheck itself, is what two runs are mostly compared for.
    """
    for name in ("name", "kind"):
        yield from _unlike(f"target {name}", before["target"][name], after["target"][name])
    first, second = before["environment"], after["environment"]
    for name in ("host", "system", "cores", "memory_mb", "python"):
        yield from _unlike(name, first[name], second[name])
    for name in sorted((first["versions"].keys() | second["versions"].keys()) - {"tapecheck"}):
        yield from _unlike(name, first["versions"].get(name), second["versions"].get(name))
    tools = [(run.get("tool") or {}).get("name", "") for run in (before, after)]
    yield from _unlike("measured by", *(tool or "this workbook" for tool in tools))
    for tool in sorted({tool for tool in tools if tool}):
        yield f"machine: {tool} does not say on which it ran"
    given, then = before["parameters"], after["parameters"]
    for name in sorted((given.keys() | then.keys()) - NO_CONFIGURATION):
        yield from _unlike(f"parameter {name}", given.get(name), then.get(name))


def _unlike(what: str, before: object, after: object) -> Iterator[str]:
    if before != after:
        yield f"{what}: {before} before, {after} after"


def _sample(name: str, side: Side, part: Part) -> Sample:
    clocks, counters, checksum = part
    return Sample(proof=name, side=side, round=1, began_ns=0, ended_ns=0, clocks=clocks, counters=counters, checksum=checksum)


def _parts(validation: Validation, result: Json) -> dict[str, Part]:
    """Return clocks, counters and checksum of each part of a run that is compared by itself."""
    if validation == "load":
        counted = ("requests", "failed", "connections_opened")
        return {name: (_load_clocks(one), _counted(one, *counted), "") for name, one in result["scenarios"].items()}
    if validation == "backfill":
        return {"backfill": (_backfill_clocks(result), _backfill_counters(result), (result["integrity"] or {}).get("checksum", ""))}
    return {name: (_recovery_clocks(one), {"trials": one["recover_s"]["n"]}, "") for name, one in result["rto"].items()}


def _load_clocks(one: Json) -> dict[str, float]:
    times = {
        f"{kind}{name}": value["value"] if isinstance(value, dict) else value
        for kind, key in (("", "response_time_ms"), ("service_", "service_time_ms"), ("server_", "server_time_ms"))
        for name in LATENCIES
        if one[key]
        for value in (one[key][name.removesuffix("_ms")],)
    }
    return _numbers({**times, "throughput_rps": one["throughput_rps"]})


def _backfill_clocks(result: Json) -> dict[str, float]:
    stages = {name: result["stages"].get(name.removesuffix("_s"), {}).get("busy_s") for name in STAGE_METRICS}
    return _numbers({**{name: result["totals"][name] for name in ("duration_s", "records_per_s")}, **stages})


def _backfill_counters(result: Json) -> dict[str, int]:
    return _counted(result["totals"], *COUNTERS["backfill"])


def _recovery_clocks(one: Json) -> dict[str, float]:
    return _numbers({"recover_max_s": one["recover_s"]["max"], "degraded_max_s": one["degraded_s"]["max"]})


def _counted(one: Json, *names: str) -> dict[str, int]:
    return {name: int(one[name]) for name in names if one.get(name) is not None}  # not everyone counts everything


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float) and math.isfinite(value)}
