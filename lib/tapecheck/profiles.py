"""Reads a plan once for each of its profiles: named changes to the file as it stands. It knows no plan's content."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tapecheck import config
from tapecheck.config import ModelT
from tapecheck.errors import ConfigError, Problem

WHOLE = "full"  # the profile that changes nothing, unless the file says what it changes
REPLACED = frozenset({"history"})  # mappings of which a profile's replaces the whole, since their keys exclude each other


def chosen(model: type[ModelT], path: str | Path, profile: str) -> ModelT:
    """Return the plan of one profile, after all of them were checked.

    Raises:
        ConfigError: the file, any of its profiles, or the profile's name is wrong.
    """
    plans = read(model, path)
    if profile not in plans:
        raise ConfigError([Problem(file="parameters", key="profile", got=profile, allowed=f"one of {', '.join(plans)}")])
    return plans[profile]


def read(model: type[ModelT], path: str | Path) -> dict[str, ModelT]:
    """Read a plan once for each of its profiles; `full` is the file as it stands, unless it says otherwise.

    Raises:
        ConfigError: every problem of the file and its profiles at once.
    """
    data, lines = config.read_yaml(config.find(path))
    whole = dict(data) if isinstance(data, dict) else data
    profiles = whole.pop("profiles", None) or {} if isinstance(whole, dict) else {}
    if not isinstance(profiles, dict) or not all(isinstance(changes, dict | None) for changes in profiles.values()):
        raise ConfigError([Problem(file=str(path), key="profiles", got="something else", allowed="{NAME: {KEY: VALUE}}")])
    plans, problems = {}, []
    for name, changes in {WHOLE: {}, **profiles}.items():
        at = {**lines, **{place[2:]: line for place, line in lines.items() if place[:2] == ("profiles", name) and place[2:]}}
        changed = merged(whole, changes or {}) if isinstance(whole, dict) else whole
        try:
            plans[name] = config.validate(model, changed, file=str(path), lines=at)
        except ConfigError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise ConfigError(problems)
    return plans


def raw(path: str | Path, profile: str) -> dict[str, Any]:
    """Return a plan of one profile as plain data, unchecked, for who changes more of it before it is checked.

    Raises:
        ConfigError: the file is no mapping, or has no such profile.
    """
    data, _ = config.read_yaml(config.find(path))
    whole = dict(data) if isinstance(data, dict) else {}
    known = {WHOLE: {}, **(whole.pop("profiles", None) or {})}
    if profile not in known:
        raise ConfigError([Problem(file=str(path), key="profile", got=profile, allowed=f"one of {', '.join(known)}")])
    return merged(whole, known[profile] or {})


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping with changes, key by key where both are mappings."""
    both = {key: merged(base[key], value) for key, value in changes.items() if isinstance(value, dict) and isinstance(base.get(key), dict)}
    return {**base, **changes, **{key: value for key, value in both.items() if key not in REPLACED}}
