"""Validates every configuration file without traffic: `python -m tapecheck check`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tapecheck import config
from tapecheck.backfill.plan import read_profiles
from tapecheck.config import Target
from tapecheck.errors import ConfigError, Problem
from tapecheck.load import validation as load


def problems(file: Path) -> list[Problem]:
    """Return every problem of one YAML file, whose kind its keys tell; an empty list when there is none."""
    try:
        data, _ = config.read_yaml(config.find(file))
        keys = set(data) if isinstance(data, dict) else set()
        if keys & {"symbols", "timeframes", "history"}:
            read_profiles(file)
        elif keys & {"scenarios", "objectives"}:
            load.read_plan(file)
        elif keys & {"kind", "requests", "base_url"}:
            config.read(Target, file)
        else:
            raise ConfigError(
                [
                    Problem(
                        file=str(file),
                        key="(file)",
                        got=f"keys {sorted(map(str, keys))}",
                        allowed="a target, a load plan or a backfill plan; see config/",
                    )
                ]
            )
    except ConfigError as error:
        return list(error.problems) or [Problem(file=str(file), key="(file)", got=str(error), allowed="a valid file")]
    return []


def before_traffic(given: Mapping[str, Any]) -> Target:
    """Return the target of a run after its plan has been checked too, so that nothing starts before all configuration is valid.

    Raises:
        ConfigError: every problem of both files.
    """
    found: list[Problem] = []
    target = None
    try:
        target = config.read(Target, given.get("target", "config/targets/sandbox.yaml"))
    except ConfigError as error:
        found += error.problems
    try:
        chosen = {name: given[name] for name in ("scenarios", "rounds") if name in given}
        load.read_plan(given.get("plan", "config/load.yaml"), **chosen)
    except ConfigError as error:
        found += error.problems
    if found or target is None:
        raise ConfigError(found)
    return target
