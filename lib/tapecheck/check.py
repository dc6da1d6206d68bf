"""Validates every configuration file and finds promises that cannot hold, without traffic: `python -m tapecheck check`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tapecheck import config
from tapecheck.backfill.plan import endpoints
from tapecheck.compare.plan import ComparePlan
from tapecheck.errors import ConfigError, Problem
from tapecheck.load import plan as provable
from tapecheck.load.plan import LoadPlan
from tapecheck.recovery import contradictions, experiment, objectives
from tapecheck.recovery.drill_target import check_allowed
from tapecheck.target.file import Target
from tapecheck.validation import named

_EXPERIMENT = frozenset({"method", "rollbacks", "steady-state-hypothesis"})  # keys of a drill


def plan_kind(file: str | Path) -> str | None:
    """Return of which validation a YAML file is the plan, by its keys, or None.

    Raises:
        ConfigError: it cannot be read.
    """
    keys = _keys(file)
    return next((name for name in reversed(config.VALIDATIONS) if keys & named(name).keys), None)


def knows_profile(validation: str, given: Mapping[str, Any]) -> bool:
    """Tell whether the plan of a validation has the profile that it is given.

    Raises:
        ConfigError: the plan's file cannot be read.
    """
    if "profile" not in given:
        return False
    data, _ = config.read_yaml(config.find(given.get("plan", named(validation).file)))
    return isinstance(data, dict) and given["profile"] in {config.WHOLE, *(data.get("profiles") or {})}


def _keys(file: str | Path) -> set[str]:
    data, _ = config.read_yaml(config.find(file))
    return set(map(str, data)) if isinstance(data, dict) else set()


def _holds(file: str | Path) -> str:
    """Say what a file holds that is no kind of ours."""
    data, _ = config.read_yaml(config.find(file))
    if isinstance(data, dict) and data:
        return f"keys {', '.join(sorted(map(str, data)))}"
    return "nothing" if not data else f"a {'list' if isinstance(data, list) else 'single value'} and no keys"


def problems(file: Path) -> list[Problem]:
    """Return every problem of one YAML file, whose kind its keys tell; an empty list when there is none."""
    try:
        if kind := plan_kind(file):
            plan = named(kind).read_plan(file)
            return provable.problems(plan, file=str(file), lines=config.lines_by_key(file)) if isinstance(plan, LoadPlan) else []
        if _keys(file) & _EXPERIMENT:
            return experiment.problems(file)
        if _keys(file) & {"kind", "requests", "base_url"}:
            config.read(Target, file)
        else:
            allowed = "a target, a plan of load, backfill, recovery or comparison, or a drill; see config/"
            raise ConfigError([Problem(file=str(file), key="(file)", got=_holds(file), allowed=allowed)])
    except ConfigError as error:
        return list(error.problems) or [Problem(file=str(file), key="(file)", got=str(error), allowed="a valid file")]
    return []


def notes(file: Path) -> list[str]:
    """Return what a person should know of a valid file: each rule that its plan breaks, where, and the plan's explanation."""
    if plan_kind(file) != "rto_rpo":
        return []
    plans = config.read_profile(objectives.RecoveryPlan, file).values()
    places: dict[tuple[str, str], dict[str, None]] = {}
    for one in (one for plan in plans for one in contradictions.find(plan)):
        places.setdefault((one.rule, one.settled), {})[f"{one.where}: {one.finding}"] = None
    return [f"{config.shown(file)}: settled {rule}: {'; '.join(where)}\n  {why}" for (rule, why), where in places.items()]


def before_traffic(given: Mapping[str, Mapping[str, Any]]) -> Target:
    """Return the target of a run after its plans have been checked too, so that nothing starts before all configuration is valid.

    Args:
        given: by validation, the parameters that its notebook will get.

    Raises:
        ConfigError: every problem of all files.
    """
    found: list[Problem] = []
    target, plans = None, {}
    for validation, own in given.items():
        try:
            kind = named(validation)
            plans[validation] = kind.read_plan(own.get("plan", kind.file), **{name: own[name] for name in kind.choices if name in own})
        except ConfigError as error:
            found += error.problems
    try:
        target = config.read(Target, next(iter(given.values())).get("target", "config/targets/sandbox.yaml"))
        if target.kind == "external" and _refills(given, plans.get("compare")):
            endpoints(target)
    except ConfigError as error:
        found += error.problems
    found += _drill_problems(given.get("rto_rpo", {"drills": experiment.NONE}), target)
    if found or target is None:
        raise ConfigError(found)
    return target


def _refills(given: Mapping[str, Mapping[str, Any]], compared: ComparePlan | None) -> bool:
    """Tell whether a run will fill history, be it as a variant that is compared."""
    own = given.get("compare", {})
    is_compared = own.get("run", "new") == "new" and not own.get("before")
    proofs = compared.proofs.values() if compared and is_compared else ()
    return given.get("backfill", {"run": ""}).get("run", "new") == "new" or any(proof.validation == "backfill" for proof in proofs)


def _drill_problems(given: Mapping[str, Any], target: Target | None) -> list[Problem]:
    """Return what is wrong with the drills that a new recovery run would do, and whether the target allows them and has what they need."""
    drills = given.get("drills", experiment.ALL)
    try:
        if isinstance(drills, str) and given.get("run", "new") == "new":
            chosen = experiment.chosen(drills)
            if target is not None and target.kind == "external":  # what a sandbox has is known when it runs
                check_allowed(target, chosen)
    except ConfigError as error:
        return list(error.problems)
    return []
