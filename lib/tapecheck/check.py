"""Validates every configuration file and finds promises that cannot hold, without traffic: `python -m tapecheck check`."""

import ast
import functools
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tapecheck import config
from tapecheck.errors import ConfigError, Problem
from tapecheck.recovery import experiment
from tapecheck.target.file import Target
from tapecheck.validation import named

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
        if not keys & {"kind", "requests", "base_url"}:
            allowed = "a target, a plan of load, backfill, recovery or comparison, or a drill; see config/"
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


def code(file: Path) -> list[str]:
    """Return what a valid drill or plan runs that needs a target's leave; see `Drill.code` and `Validation.commands`."""
    if (kind := plan_kind(file)) is None:
        return experiment.read(file).code if _keys(file) & _EXPERIMENT else []
    found = named(kind)
    return [shlex.join(command) for command in found.commands(found.read_plan(file))]


def shares(validations: Sequence[str], given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return by validation the parameters that its notebook takes; one that no notebook takes is an error in each.

    Raises:
        ConfigError: unknown names and wrong types, all of one notebook together, judged as the notebook itself will.
    """
    from tapecheck.runs import batch  # with papermill

    declared = {name: batch.parameters(batch.notebook(name)) for name in validations}
    known = set().union(*declared.values())
    found = {v: {name: value for name, value in given.items() if name in names or name not in known} for v, names in declared.items()}
    for validation, own in found.items():
        defaults = {name: ast.literal_eval(one["default"]) for name, one in declared[validation].items()}
        config.validate(named(validation).types.settings, {**defaults, **own}, file=f"{validation}.ipynb")
    return found


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
