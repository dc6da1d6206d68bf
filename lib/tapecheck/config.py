"""Turns YAML into frozen, validated objects, and knows where files are. It sends nothing."""

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from tapecheck.errors import ConfigError, Problem

PROJECT = Path(__file__).resolve().parents[2]
CONFIG = PROJECT / "config"
NOTEBOOKS = PROJECT / "notebooks"
OUTPUTS = PROJECT / "outputs"
MEASURED = ("load", "backfill", "rto_rpo")  # what `run all` runs
VALIDATIONS = (*MEASURED, "compare")

Location = tuple[str | int, ...]


class Model(BaseModel):
    """A configuration object: frozen, and any unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


ModelT = TypeVar("ModelT", bound=Model)


# ---- where files are ----


def find(path: str | Path) -> Path:
    """Return `path` as it stands if it exists, else the same path below the project.

    Raises:
        ConfigError: neither exists.
    """
    asked = Path(path).expanduser()
    for candidate in (asked, PROJECT / asked):
        if candidate.exists():
            return candidate.resolve()
    raise ConfigError(
        [Problem(file=str(asked), key="path", got="no such file", allowed=f"a path relative to the current folder or to {PROJECT}")]
    )


def outputs(path: str | Path) -> Path:
    """Return the output folder: an absolute path as it is, a relative one below the project."""
    return PROJECT / Path(path).expanduser()


def shown(path: Path) -> str:
    """Return a path as a person reads it: relative to the project where it lies below that."""
    return str(path.relative_to(PROJECT)) if path.is_relative_to(PROJECT) else str(path)


def sandbox_home() -> Path:
    """Return the sandbox's own folder: `TAPECHECK_SANDBOX_HOME`, or one per user and checkout.

    The default lies under the machine's persistent temporary folder, because PostgreSQL refuses to run as
    root and the ordinary user that it then runs as may not enter a private home.
    """
    asked = os.environ.get("TAPECHECK_SANDBOX_HOME")
    if asked:
        return Path(asked).expanduser().resolve()
    base = Path("/var/tmp")  # noqa: S108 - the folder below it is ours, by its name and a check of its owner
    base = base if base.is_dir() else Path(tempfile.gettempdir())
    checkout = hashlib.sha256(str(PROJECT).encode()).hexdigest()[:8]
    return base / f"tapecheck-{os.getuid()}-{checkout}"


def sandbox_users(home: Path) -> Path:
    """Return where each process that uses the sandbox of a home holds a lock file."""
    return home / "users"


# ---- YAML with line numbers ----


def _walk(node: yaml.Node, at: Location, lines: dict[Location, int], problems: list[tuple[Location, int]]) -> None:
    lines[at] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            here = (*at, str(key.value))
            if key.value in seen:
                problems.append((here, key.start_mark.line + 1))
            seen.add(key.value)
            _walk(value, here, lines, problems)
            lines[here] = key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            _walk(value, (*at, i), lines, problems)


def read_yaml(path: Path) -> tuple[Any, dict[Location, int]]:
    """Read one YAML document.

    Returns:
        Its data, and the line of every key in it.

    Raises:
        ConfigError: it cannot be read, is not YAML, or says a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or str(error)
        raise ConfigError([Problem(file=str(path), line=mark.line + 1 if mark else None, key="(file)", got=what, allowed="YAML")]) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError([Problem(file=str(path), key="(file)", got=str(error), allowed="a readable YAML file")]) from None
    lines: dict[Location, int] = {}
    twice: list[tuple[Location, int]] = []
    if node is not None:
        _walk(node, (), lines, twice)
    if twice:
        raise ConfigError(
            [Problem(file=str(path), line=line, key=dotted(at), got="the key twice", allowed="each key once") for at, line in twice]
        )
    return data, lines


def dotted(at: Location) -> str:
    """Write a location as `scenarios.steady.rate_rps`."""
    return ".".join(map(str, at)) or "(file)"


def lines_by_key(path: str | Path) -> dict[str, int]:
    """Return the line of every key of a YAML file, each written as `dotted` does.

    Raises:
        ConfigError: as `find` and `read_yaml` do.
    """
    return {dotted(at): line for at, line in read_yaml(find(path))[1].items()}


def _line(at: Location, lines: Mapping[Location, int]) -> int | None:
    while at and at not in lines:
        at = at[:-1]
    return lines.get(at)


def _value(data: Any, at: Location) -> Any:
    for step in at:
        try:
            data = data[step]
        except (KeyError, IndexError, TypeError):
            return None
    return data


_KINDS = {  # pydantic's words for these speak of Python
    **dict.fromkeys(("list_type", "tuple_type", "set_type", "frozen_set_type"), "a list, as in [a, b]"),
    **dict.fromkeys(("dict_type", "mapping_type", "model_type", "model_attributes_type"), "a mapping, as in {key: value}"),
}


def _described(error: Any, data: Any, at: Location, model: type[BaseModel]) -> tuple[str, str]:
    kind, message = error["type"], error["msg"]
    if kind == "missing":
        return "nothing", "this key is required"
    if kind == "secret":
        return "a secret in plain text", message
    if kind == "extra_forbidden":
        return f"an unknown key {at[-1]!r}", message_of_allowed_keys(data, at, model)
    if kind == "union_tag_not_found":
        return "nothing", "this key is required: it says which other keys there are"
    if kind == "union_tag_invalid":
        return repr(error["ctx"]["tag"]), "one of " + error["ctx"]["expected_tags"].replace("'", "")
    got = _value(data, at)
    text = repr(got) if isinstance(got, str | int | float | bool | type(None)) else type(got).__name__
    allowed = _KINDS.get(kind) or message.removeprefix("Value error, ").removeprefix("Input should be ")
    return text if len(text) <= 80 else text[:77] + "...", allowed


def message_of_allowed_keys(data: Any, at: Location, model: type[BaseModel]) -> str:
    """Say which keys a model has where an unknown one stood, as far as its fields tell."""
    fields = _model_at(model, at[:-1], data)
    return "one of " + ", ".join(fields) if fields else "only the documented keys"


def _model_at(model: Any, at: Location, data: Any) -> list[str]:
    models = list(_models_in(model))
    for i, step in enumerate(at):
        inner: list[type[BaseModel]] = []
        for candidate in models:
            field = candidate.model_fields.get(str(step))
            inner += _models_in(field.annotation) if field else ()
        models = inner or models
        chosen = _value(data, at[: i + 1])
        tag = chosen.get("executor") if isinstance(chosen, Mapping) else None
        if tag is not None:
            models = [m for m in models if "executor" not in m.model_fields or tag in str(m.model_fields["executor"].annotation)]
    return list(dict.fromkeys(name for m in models for name in m.model_fields))


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models_in(inner)


def validate(model: type[ModelT], data: Any, *, file: str, lines: Mapping[Location, int] | None = None) -> ModelT:
    """Make a `model` of `data`.

    Raises:
        ConfigError: every problem of the document at once, each with its line.
    """
    try:
        return model.model_validate(data if data is not None else {})
    except ValidationError as error:
        problems = []
        found = error.errors(include_url=False)
        for item in found:
            if item["type"] == "too_short" and any(other["loc"][:-1] == item["loc"] for other in found):
                continue  # pydantic drops wrong items first and then misses them
            at = _location(item["loc"], data, last_is_absent=item["type"] == "missing")
            if item["type"].startswith("union_tag"):
                at = (*at, item["ctx"]["discriminator"].strip("'"))
            got, allowed = _described(item, data, at, model)
            problems.append(Problem(file=file, line=_line(at, lines or {}), key=dotted(at), got=got, allowed=allowed))
        raise ConfigError(problems) from None


def _location(loc: Location, data: Any, *, last_is_absent: bool) -> Location:
    """Drop from pydantic's location the names of a union's branches, which the YAML does not have."""
    at: Location = ()
    for i, step in enumerate(loc):
        here = _value(data, at)
        known = (isinstance(here, Mapping) and step in here) or (isinstance(here, list) and isinstance(step, int))
        if known or (last_is_absent and i == len(loc) - 1):
            at = (*at, step)
    return at


def read(model: type[ModelT], path: str | Path) -> ModelT:
    """Read a YAML file as a `model`; a relative path is looked up as `find` does.

    Raises:
        ConfigError: every problem of the file at once, each with its line.
    """
    file = find(path)
    data, lines = read_yaml(file)
    return validate(model, data, file=str(path), lines=lines)
