"""Validates every configuration file and finds promises that cannot hold, without traffic: `python -m tapecheck check`."""

import ast
import functools
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from tapecheck import config
from tapecheck.batches.plan import Batch, PlannedRun
from tapecheck.errors import ConfigError, Problem
from tapecheck.recovery import experiment
from tapecheck.target.file import Secret, Target
from tapecheck.validation import Settings, named

T = TypeVar("T")
_EXPERIMENT = frozenset({"method", "rollbacks", "steady-state-hypothesis"})  # keys of a drill


def plan_kind(file: str | Path) -> str | None:
    """Return of which validation a YAML file is the plan, by its keys, or None."""
    keys = _keys(file)
    return next((name for name in reversed(config.VALIDATIONS) if keys & named(name).keys), None)


def knows_profile(validation: str, given: Mapping[str, Any]) -> bool:
    """Tell whether the plan of a validation has the profile that it is given."""
    if "profile" not in given:
        return False
    data, _ = config.read_yaml(config.find(given.get("plan", named(validation).file)))
    return isinstance(data, dict) and given["profile"] in {config.WHOLE, *(data.get("profiles") or {})}


def _keys(file: str | Path) -> set[str]:
    data, _ = config.read_yaml(config.find(file))
    return set(map(str, data)) if isinstance(data, dict) else set()


def problems(file: Path) -> list[Problem]:
    """Return every problem of one YAML file, whose kind its keys tell; an empty list when there is none."""
    try:
        keys = _keys(file)
        if kind := plan_kind(file):
            return named(kind).problems(named(kind).read_plan(file), str(file))
        if keys & _EXPERIMENT:
            experiment.read(file)
            return []
        if "runs" in keys:
            batch(file)
            return []
        if not keys & {"kind", "requests", "base_url"}:
            allowed = "a target, a plan of load, backfill, recovery or comparison, a drill, or a batch; see config/"
            got = f"keys {', '.join(sorted(keys))}" if keys else "no keys"
            return [Problem(file=str(file), key="(file)", got=got, allowed=allowed)]
        config.read(Target, file)
    except ConfigError as error:
        return list(error.problems) or [Problem(file=str(file), key="(file)", got=str(error), allowed="a valid file")]
    return []


def notes(file: Path) -> list[str]:
    """Return what a person should know of a valid file."""
    kind = plan_kind(file)
    return named(kind).notes(file) if kind else []


def unset(file: Path) -> list[str]:
    """Return each secret that a valid target file names and whose variable is not set, with its key."""
    if plan_kind(file) or (keys := _keys(file)) & _EXPERIMENT or "runs" in keys:
        return []
    target = config.read(Target, file)
    named_there: dict[str, object] = {f"headers.{name}": value for name, value in target.headers.items()}
    if target.backfill:
        named_there |= {f"backfill.{key}": getattr(target.backfill, key) for key in ("api_key", "database_url")}
    return [f"{key} ({one.place})" for key, one in named_there.items() if isinstance(one, Secret) and not one.is_set]


def code(file: Path) -> list[str]:
    """Return what a valid drill, plan or target runs that needs a target's leave; see `Drill.code` and the `commands` of the others."""
    if (kind := plan_kind(file)) is None:
        keys = _keys(file)
        return experiment.read(file).code if keys & _EXPERIMENT else config.read(Target, file).commands if "database" in keys else []
    found = named(kind)
    return [shlex.join(command) for command in found.commands(found.read_plan(file))]


def shares(validations: Sequence[str], given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return by validation the parameters that its notebook takes; one that no notebook takes is an error in each.

    Raises:
        ConfigError: unknown names and wrong types, all of one notebook together, judged as the notebook itself will.
    """
    declared = {name: _defaults(name) for name in validations}
    known = set().union(*declared.values())
    found = {v: {name: value for name, value in given.items() if name in names or name not in known} for v, names in declared.items()}
    for validation, own in found.items():
        settings(validation, own)
    return found


def settings(validation: str, given: Mapping[str, Any]) -> Settings:
    """Return all parameters of a notebook, those that are not given as it declares them. Raises ConfigError as `shares` does."""
    found: Settings = config.validate(named(validation).types.settings, {**_defaults(validation), **given}, file=f"{validation}.ipynb")
    return found


def _defaults(validation: str) -> dict[str, Any]:
    from tapecheck.runs import batch  # with papermill

    return {name: ast.literal_eval(one["default"]) for name, one in batch.parameters(batch.notebook(validation)).items()}


def before_traffic(given: Mapping[str, Mapping[str, Any]]) -> Target:
    """Return the target of a run after its plans have been checked too, so that nothing starts before all configuration is valid.

    Args:
        given: by validation, the parameters that its notebook will get.

    Raises:
        ConfigError: every problem of all files.
    """
    found: list[Problem] = []

    def tried(step: Callable[[], T]) -> T | None:
        try:
            return step()
        except ConfigError as error:
            found.extend(error.problems)
            return None

    target = tried(lambda: config.read(Target, next(iter(given.values())).get("target", "config/targets/sandbox.yaml")))
    for name, own in given.items():
        kind, choices = named(name), {choice: own[choice] for choice in named(name).choices if choice in own}
        plan = tried(functools.partial(kind.read_plan, own.get("plan", kind.file), **choices))
        if isinstance(run := own.get("run", "new"), str) and run != "new":
            tried(functools.partial(kind.check_run, run))
        if kind.asks_target(own):
            tried(functools.partial(kind.check_target, target, plan, own))
    if found or target is None:
        raise ConfigError(found)
    return target


# ---- a batch ----


def batch(file: str | Path) -> list[PlannedRun]:
    """Return the runs of a batch, after everything that they name was checked.

    Raises:
        ConfigError: every problem of all files; a wrong parameter is named with its line in the batch's own file.
    """
    planned, lines = config.read(Batch, file).planned(), config.lines_by_key(file)
    found: dict[Problem, None] = {}
    for at, one in enumerate(planned):
        given = {one.validation: one.given}
        done: list[Any] = []
        for step in (functools.partial(settings, one.validation, one.given), functools.partial(before_traffic, given)):
            try:
                done.append(step())
            except ConfigError as error:
                found |= {_in_batch(problem, one, str(file), lines): None for problem in error.problems}
        if not found:
            own, asks = done[0].model_dump(exclude={"out"}), named(one.validation).asks_target(one.given)
            target: Target = done[1]
            uses_sandbox = asks and target.kind == "sandbox"
            planned[at] = replace(one, given=own, measures=asks, uses_sandbox=uses_sandbox, allow_remote=target.allow_remote)
    if found:
        raise ConfigError(list(found))
    return planned


def _in_batch(problem: Problem, of: PlannedRun, file: str, lines: Mapping[str, int]) -> Problem:
    """Return a problem of a run's parameter as one of the batch's file; those of other files stay."""
    is_path = problem.key == "path" and problem.file in map(str, of.given.values())
    if not is_path and problem.key != "run" and problem.file not in ("parameters", f"{of.validation}.ipynb"):
        return problem
    name = next(name for name, value in of.given.items() if value == problem.file) if is_path else problem.key
    places = (f"runs.{of.at}.{part}" for part in (f"matrix.{name}", f"parameters.{name}", name))
    key = next((place for place in places if place in lines), f"runs.{of.at}.parameters.{name}")
    got = f"{problem.file}: {problem.got}" if is_path else problem.got
    return replace(problem, file=file, key=key, got=got, line=lines.get(key, lines[f"runs.{of.at}"]))
