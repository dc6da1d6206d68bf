"""Turns YAML into frozen, validated objects, and knows where files are. It sends nothing."""

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from tapecheck.errors import ConfigError, Problem

PROJECT = Path(__file__).resolve().parents[2]
CONFIG = PROJECT / "config"
NOTEBOOKS = PROJECT / "notebooks"
OUTPUTS = PROJECT / "outputs"
VALIDATIONS = ("load", "backfill", "rto_rpo", "compare")

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


# ---- the target ----


def _matching(pattern: str, wanted: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if re.fullmatch(pattern, text) is None:
            raise ValueError(wanted)
        return text

    return check


EnvironmentName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Secret(Model):
    """Where a secret is: in an environment variable, of several the first that is set, or in a file; it is read only when it is sent."""

    env: Annotated[tuple[EnvironmentName, ...], BeforeValidator(lambda names: (names,) if isinstance(names, str) else names)] = ()
    file: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _not_itself(cls, data: Any) -> Any:
        if not isinstance(data, Mapping | cls):
            raise PydanticCustomError("secret", "the name of an environment variable, as in {env: NAME}")
        return data

    @model_validator(mode="after")
    def _one(self) -> Self:
        if bool(self.env) == bool(self.file):
            raise ValueError("exactly one of env and file")
        return self

    @property
    def place(self) -> str:
        """Where it is read from."""
        return self.file or " or ".join(self.env)

    def reveal(self) -> str:
        """Return the secret.

        Raises:
            ConfigError: no variable is set, or the file cannot be read.
        """
        if self.file:
            try:
                return Path(self.file).read_text(encoding="utf-8").strip()
            except (OSError, ValueError) as error:
                got = getattr(error, "strerror", None) or type(error).__name__
                raise ConfigError(
                    [Problem(file=self.file, key="(file)", got=got, allowed="a readable file that holds the secret")]
                ) from None
        value = next(filter(None, map(os.environ.get, self.env)), None)
        if value is None:
            allowed = f"the secret, as in: export {self.env[0]}=..."
            raise ConfigError([Problem(file="environment", key=self.place, got="nothing", allowed=allowed)])
        return value


class ProcessSelector(Model):
    """Which local process to watch: by its pid, the port it listens on, or a part of its command line."""

    pid: int | None = Field(default=None, gt=0)
    port: int | None = Field(default=None, gt=0, lt=65536)
    command: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(x is not None for x in (self.pid, self.port, self.command)) != 1:
            raise ValueError("exactly one of pid, port, command")
        return self


class Expectation(Model):
    """What a right answer looks like; `json` maps a top-level key to its expected value (templates allowed)."""

    status: int = Field(default=200, ge=100, le=599)
    json_: dict[str, str | int | float | bool] = Field(default={}, alias="json")


class RequestTemplate(Model):
    """A named request, `METHOD /path?query`, whose `{names}` a scenario's parameters fill."""

    request: Annotated[str, AfterValidator(_matching(r"(GET|HEAD|POST) /\S*", "GET, HEAD or POST and a path, such as: GET /health"))]
    body: str | None = None
    expect: Expectation = Expectation()

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, data: Any) -> Any:
        return {"request": data} if isinstance(data, str) else data

    @property
    def method(self) -> str:
        """The HTTP method."""
        return self.request.split(" ", 1)[0]

    @property
    def path(self) -> str:
        """The path and query, with their `{names}`."""
        return self.request.split(" ", 1)[1]


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good or re.fullmatch(r"https?://[^\s?#@]+", text) is None:
        raise ValueError("http:// or https://, a host and maybe a port and path, no user or query, such as: http://127.0.0.1:8000")
    return text


Url = Annotated[str, AfterValidator(_url)]


def _database_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        is_good = parts.scheme in ("postgresql", "postgres") and parts.password is None and "password=" not in parts.query
    except ValueError:
        is_good = False
    if not is_good:
        raise PydanticCustomError("secret", "{env: NAME}, or postgresql://user@host/database without a password")
    return text


class BackfillTarget(Model):
    """Where history comes from, and the database that it goes to; a URL without a password may be written as it is."""

    source_url: Url
    api_key: Secret = Secret(env=("MASSIVE_API_KEY", "POLYGON_API_KEY"))
    database_url: Secret | Annotated[str, AfterValidator(_database_url)] = Secret(env=("DATABASE_URL",))


class Target(Model):
    """The system under test, and what may be done to it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    kind: Literal["sandbox", "external"]
    base_url: Url | None = None
    requests: dict[str, RequestTemplate] = Field(min_length=1)
    headers: dict[str, str | Secret] = {}
    processes: dict[str, ProcessSelector] = {}
    backfill: BackfillTarget | None = None
    ca_file: str | None = None
    allow_remote: bool = False
    allow_drills: bool = False

    @model_validator(mode="after")
    def _external_has_url(self) -> Self:
        if self.kind == "external" and self.base_url is None:
            raise ValueError("an external target needs base_url")
        return self


class SandboxState(Model):
    """Where a running sandbox can be reached; `sandbox up` writes it, `targets.open` reads it."""

    base_url: Url
    upstream_url: Url
    upstream_key_file: str
    scheduler_url: Url
    database_url: str | None  # without a password: libpq reads it from the passfile that the URL names
    supervisor_pid: int
    processes: dict[str, ProcessSelector]

    @staticmethod
    def file() -> Path:
        """Return where the state of the running sandbox is written."""
        return sandbox_home() / "state.json"


def is_root() -> bool:
    """Whether this process runs as root, as which PostgreSQL, Jupyter and supervisord each want something special."""
    return os.geteuid() == 0
