"""Turns YAML into frozen, validated objects, and knows where files are. It sends nothing."""

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from tapecheck import text
from tapecheck.errors import ConfigError, Problem

PROJECT = Path(__file__).resolve().parents[2]
CONFIG = PROJECT / "config"
NOTEBOOKS = PROJECT / "notebooks"
OUTPUTS = PROJECT / "outputs"
VALIDATIONS = {  # by name, where each stands; `validation.named` imports it
    "load": "tapecheck.load.validation:load",
    "backfill": "tapecheck.backfill.validation:backfill",
    "observe": "tapecheck.backfill.observe.validation:observe",
    "rto_rpo": "tapecheck.recovery.validation:recovery",
    "compare": "tapecheck.compare.validation:compare",
}
EXPLORE = "explore"  # the notebook that looks at their recorded runs
ALL = ("backfill", "load", "rto_rpo")  # what `run all` runs; what a backfill stores serves a sandbox that holds nothing yet

Location = tuple[str | int, ...]
_Place = tuple[Location, int, tuple[str, str] | None]
MOST_BYTES = 500_000  # of a YAML file: fifty times what a person writes
MOST_LEVELS, MOST_NODES = 50, 50_000  # of a YAML file, aliases written out: a page of text can say a billion
TOO_MANY = f"more than {MOST_NODES:,} values, aliases written out"
TOO_LARGE = "a smaller document"


class Model(BaseModel):
    """A configuration object: frozen, and any unknown key is an error.

    `RENAMED` has the keys that it once had, each with its present name, so that an old file is told which.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {}
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


ModelT = TypeVar("ModelT", bound=Model)
T = TypeVar("T")


# ---- where files are ----


def expanded(path: str | Path) -> Path:
    """Return a path with `~` and `~user` replaced."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        user = Path(path).parts[0]
        got, allowed = f"{user}, a user without a home folder on this machine", f"a path without ~, or ./{user} for a folder of that name"
        raise ConfigError([Problem(file=str(path), key="path", got=got, allowed=allowed)]) from None


def find(path: str | Path) -> Path:
    """Return `path` as it stands if it exists, else the same path below the project."""
    asked = expanded(path)
    for candidate in (asked, PROJECT / asked):
        if candidate.exists():
            return candidate.resolve()
    searched = ", ".join(dict.fromkeys((str(Path.cwd()), str(PROJECT))))
    raise ConfigError([Problem(file=str(asked), key="path", got=f"file not found (searched: {searched})", allowed="")])


def matches(pattern: Path) -> list[Path]:
    """Return the files that a pattern names, such as k6-*.json.gz; what is there is itself."""
    return [pattern] if pattern.exists() else sorted(one for one in pattern.parent.glob(pattern.name) if one.is_file())


def outputs(path: str | Path) -> Path:
    """Return the output folder: an absolute path as it is, a relative one below the project."""
    return PROJECT / expanded(path)


def shown(path: Path) -> str:
    """Return a path as a person reads it: relative to the project where it lies below that."""
    return str(path.relative_to(PROJECT)) if path.is_relative_to(PROJECT) else str(path)


def sandbox_home() -> Path:
    """Return the sandbox's own folder: `TAPECHECK_SANDBOX_HOME`, or one per user and checkout.

    The default lies below the machine's lasting temporary folder: PostgreSQL refuses to run as root, and who it then runs as may not
    enter a private home.
    """
    asked = os.environ.get("TAPECHECK_SANDBOX_HOME")
    return expanded(asked).resolve() if asked else _lasting(hashlib.sha256(str(PROJECT).encode()).hexdigest()[:8])


def _lasting(name: str) -> Path:
    base = Path("/var/tmp")  # noqa: S108 - the folder below it is ours, by its name and a check of its owner
    return (base if base.is_dir() else Path(tempfile.gettempdir())) / f"tapecheck-{os.getuid()}-{name}"


def sandbox_held(home: Path) -> Path:
    """Return the folder of those whom a sandbox that holds no data yet lets go first, before it fills itself."""
    return home / "held"


def sandbox_users(home: Path) -> Path:
    """Return where each process that uses the sandbox of a home holds a lock file."""
    return home / "users"


def measurements() -> Path:
    """Return where each measurement of this user on this machine, whatever its checkout, holds a lock file while it runs."""
    asked = os.environ.get("TAPECHECK_MEASUREMENTS")
    return Path(asked) if asked else _lasting("measurements")


# ---- YAML with line numbers ----


def _places(node: yaml.Node, at: Location = (), above: tuple[yaml.Node, ...] = (), line: int = 0) -> Iterator[_Place]:
    """Yield each place of a document, aliases written out, with its line and what is wrong there and what is allowed."""
    line = line or node.start_mark.line + 1
    if any(node is one for one in above):
        yield at, line, ("an alias of something that it is part of", "an alias of what stands elsewhere")
        return
    yield at, line, (f"more than {MOST_LEVELS} levels", TOO_LARGE) if len(above) > MOST_LEVELS else None
    if isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            yield from _places(value, (*at, i), (*above, node))
    seen: set[str] = set()
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            yield at, line, ("a mapping or list as a key", "text; in quotes where it begins with { or [")
            continue
        here = (*at, str(key.value))
        if key.value in seen:
            yield here, line, (f"duplicate key `{key.value}`", "")
        seen.add(key.value)
        yield from _places(value, here, (*above, node), line)


_COMPOSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # by libyaml, where it is there: ten times as fast


NO_VALUE = (ValueError, ArithmeticError, LookupError, AttributeError, TypeError)  # what PyYAML raises of what is not what its tag says
LONGEST_NUMBER = 400  # characters; what is written as 1:1:1:1, to base 60, takes the square of its length
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class _Loader(yaml.SafeLoader):
    """Says where a value stands that looks like a date or a number and is none."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if node.tag in _NUMBERS and len(node.value) > LONGEST_NUMBER:
            raise yaml.constructor.ConstructorError(None, None, f"a number of more than {LONGEST_NUMBER} characters", node.start_mark)
        try:
            return super().construct_object(node, deep=deep)
        except NO_VALUE as error:
            raise yaml.constructor.ConstructorError(None, None, f"{node.value[:80]} ({error})", node.start_mark) from None


class _TooLarge(Exception):
    """A document that nobody has written by hand."""


def _composed(path: Path) -> yaml.Node | None:
    """Return the nodes of a document, after its parts were counted one by one: libyaml composes any number of levels, until it crashes."""
    with path.open("rb") as file:
        text = file.read(MOST_BYTES + 1)  # of a pipe or a device too
    if len(text) > MOST_BYTES:
        raise _TooLarge(f"more than {MOST_BYTES:,} bytes")
    levels = nodes = 0
    for event in yaml.parse(text.decode("utf-8"), Loader=_COMPOSER):
        nodes += isinstance(event, yaml.NodeEvent)
        levels += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if levels > 5 * MOST_LEVELS or nodes > 2 * MOST_NODES:  # keys are no values
            raise _TooLarge(f"more than {MOST_LEVELS} levels" if levels > MOST_LEVELS else TOO_MANY)
    return yaml.compose(text.decode("utf-8"), Loader=_COMPOSER)


def read_yaml(path: Path) -> tuple[Any, dict[Location, int]]:
    """Read one YAML document: its data, and the line of every key in it.

    Raises:
        ConfigError: it cannot be read, is not YAML, says a key twice, is nested too deeply, or has an alias within what it names.
    """
    lines: dict[Location, int] = {}

    def problem(got: str, allowed: str, at: Location = (), line: int | None = None) -> Problem:
        return Problem(file=str(path), line=line, key=dotted(at), got=got, allowed=allowed)

    try:
        node = _composed(path)
        if node is None:
            return None, lines
        problems = []
        for n, (at, line, wrong) in enumerate(_places(node)):
            wrong = wrong if n < MOST_NODES else (TOO_MANY, TOO_LARGE)
            lines[at] = lines.get(at, line) if wrong else line
            problems += [problem(*wrong, at, line)] if wrong else []
            if wrong and wrong[1] == TOO_LARGE:
                break
        if problems:
            raise ConfigError(problems)
        return _Loader("").construct_document(node), lines
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line_of = mark.line + 1 if mark else None
        here = [at for at, its_line in lines.items() if its_line == line_of and at]
        raise ConfigError([problem(getattr(error, "problem", None) or str(error), "YAML", (here or [()])[-1], line_of)]) from None
    except _TooLarge as error:
        raise ConfigError([problem(str(error), TOO_LARGE)]) from None
    except (OSError, ValueError) as error:
        raise ConfigError([problem(str(error), "a readable YAML file")]) from None


def dotted(at: Location) -> str:
    """Write a location as `scenarios.steady.rate_rps`."""
    return ".".join(map(str, at)) or "(file)"


def lines_by_key(path: str | Path) -> dict[str, int]:
    """Return the line of every key of a YAML file, each written as `dotted` does."""
    return {dotted(at): line for at, line in read_yaml(find(path))[1].items()}


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
    """Return what was got and what is allowed, of one of pydantic's errors."""
    kind, message = error["type"], error["msg"]
    if kind in ("missing", "union_tag_not_found"):
        return f"missing required key `{at[-1]}`" + (", which says which other keys there are" if kind != "missing" else ""), ""
    if kind == "secret":
        return "a secret in plain text", message
    if kind == "extra_forbidden":
        return _unknown(str(at[-1]), _models_at(model, at[:-1], data)), ""
    if kind == "union_tag_invalid":
        return repr(error["ctx"]["tag"]), "one of " + error["ctx"]["expected_tags"].replace("'", "")
    got = _value(data, at)
    said = text.redact(repr(got)) if isinstance(got, str | int | float | bool | type(None)) else type(got).__name__
    allowed = _KINDS.get(kind) or message.removeprefix("Value error, ").removeprefix("Input should be ")
    return said if len(said) <= 80 else said[:77] + "...", allowed


def _unknown(key: str, models: Sequence[type[BaseModel]]) -> str:
    """Say which keys there are where an unknown one stood, as far as the models tell, or what it is called now."""
    renamed = next((model.RENAMED[key] for model in models if issubclass(model, Model) and key in model.RENAMED), None)
    if renamed is not None:
        return f"`{key}` is now called `{renamed}`"
    known = ", ".join(dict.fromkeys(name for model in models for name in model.model_fields))
    return f"unknown key `{key}`; available: {known or 'only the documented keys'}"


def _models_at(model: Any, at: Location, data: Any) -> list[type[BaseModel]]:
    """Return the models that may stand at a place; of scenarios those of the executor that the data has there."""
    models = list(_models_in(model))
    for i, step in enumerate(at):
        fields = (candidate.model_fields.get(str(step)) for candidate in models)
        models = [inner for field in fields if field for inner in _models_in(field.annotation)] or models
        chosen = _value(data, at[: i + 1])
        if isinstance(chosen, Mapping) and "executor" in chosen:
            tagged = [(one, one.model_fields.get("executor")) for one in models]
            models = [one for one, field in tagged if field is None or chosen["executor"] in str(field.annotation)]
    return models


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models_in(inner)


def validate(model: type[ModelT], data: Any, *, file: str, lines: Mapping[Location, int] | None = None) -> ModelT:
    """Make a `model` of `data`. Raises ConfigError: every problem of the document at once, each with its line."""
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
            line = next((lines[at[:n]] for n in range(len(at), -1, -1) if at[:n] in lines), None) if lines else None
            problems.append(Problem(file=file, line=line, key=dotted(at), got=got, allowed=allowed))
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
    """Read a YAML file as a `model`; a relative path is looked up as `find` does."""
    file = find(path)
    data, lines = read_yaml(file)
    return validate(model, data, file=str(path), lines=lines)


# ---- profiles ----

WHOLE = "full"  # the profile that changes nothing, unless the file says what it changes
REPLACED = frozenset({"history"})  # mappings of which a profile's replaces the whole, since their keys exclude each other


def chosen(model: type[ModelT], path: str | Path, profile: str) -> ModelT:
    """Return the plan of one profile, after all of them were checked."""
    return pick(read_profile(model, path), profile)


def pick(plans: Mapping[str, T], profile: str, *, file: str = "parameters") -> T:
    """Return what there is of one profile. Raises ConfigError: there is no such profile."""
    if profile not in plans:
        raise ConfigError([Problem(file=file, key="profile", got=profile, allowed=f"one of {', '.join(plans)}")])
    return plans[profile]


def read_profile(model: type[ModelT], path: str | Path) -> dict[str, ModelT]:
    """Read a plan once for each of its profiles. Raises ConfigError: every problem of the file and its profiles at once."""
    plans, problems = {}, []
    for name, data, lines in _profiles(path):
        try:
            plans[name] = validate(model, data, file=str(path), lines=lines)
        except ConfigError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise ConfigError(problems)
    return plans


def raw(path: str | Path, profile: str) -> Any:
    """Return a plan of one profile as plain data, unchecked, for who changes more of it before it is checked."""
    return pick({name: data for name, data, _ in _profiles(path)}, profile, file=str(path))


def _profiles(path: str | Path) -> Iterator[tuple[str, Any, Mapping[Location, int]]]:
    """Yield name, data and lines of each profile of a plan; `full` is the file as it stands, unless it says otherwise."""
    whole, lines = read_yaml(find(path))
    if not isinstance(whole, dict):
        yield WHOLE, whole, lines
        return
    profiles = whole.pop("profiles", None) or {}
    if not isinstance(profiles, dict) or not all(isinstance(changes, dict | None) for changes in profiles.values()):
        raise ConfigError([Problem(file=str(path), key="profiles", got="something else", allowed="{NAME: {KEY: VALUE}}")])
    for name, changes in {WHOLE: {}, **profiles}.items():
        own = {place[2:]: line for place, line in lines.items() if place[:2] == ("profiles", name) and place[2:]}
        yield name, merged(whole, changes or {}), {**lines, **own}


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping with changes, key by key where both are mappings."""
    both = {key: merged(base[key], value) for key, value in changes.items() if isinstance(value, dict) and isinstance(base.get(key), dict)}
    return {**base, **changes, **{key: value for key, value in both.items() if key not in REPLACED}}
