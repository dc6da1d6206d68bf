"""Reads drills: Chaos Toolkit experiments, with what is watched meanwhile and which state an answer is. It asks nobody."""

import copy
import fnmatch
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from tapecheck import config
from tapecheck.config import Location, Model
from tapecheck.errors import ConfigError, Problem
from tapecheck.recovery.recording import BAD, DEGRADED, FULL

FOLDER = config.CONFIG / "drills"
NONE, ALL, AUDIT = "none", "all", "freshness"
SQL = "SELECT"  # a view whose request begins so is asked of the database
NEEDED = {  # keys of an experiment that Chaos Toolkit can do without
    "steady-state-hypothesis": "what holds before and after",
    "rollbacks": "what takes the fault away, whatever happens",
}
OURS = "tapecheck.recovery.actions"
FETCHED = {"env": "key", "file": "path", "vault": "path"}  # by kind of a value that a drill has fetched: what it is fetched from
STAND_IN = {"type": "process", "path": sys.executable}  # for a python provider, whose module would be imported to be checked
RUNNING = ("configuration", "secrets", "controls")  # sections of an experiment of which Chaos Toolkit runs things when it checks them
PLACES = ("base_url", "source_url", "sandbox_key", "processes", "database_url", "database")  # values that a target gives
_SECTIONS = ("method", "rollbacks")
_OWN_URL = re.compile(r"\$\{(base_url|source_url)\}(/|\?|$)")
_PLACE = re.compile(r"\$\{(\w+)\}")


class Conditions(Model):
    """Conditions on an answer: its status is one of these, and its JSON body has these values at its top level."""

    status: Annotated[tuple[int, ...], BeforeValidator(lambda given: (given,) if isinstance(given, int) else given)] = (200,)
    json_: dict[str, Any] = Field(default={}, alias="json")

    def fits(self, status: int, body: Any) -> bool:
        """Tell whether an answer is so; `body` is decoded JSON, or None for anything else."""
        if status not in self.status:
            return False
        return not self.json_ or (isinstance(body, dict) and all(body.get(key, ...) == value for key, value in self.json_.items()))


class View(Model):
    """One thing that is asked again and again: a request template of the target, `METHOD /path`, or a SELECT for its database."""

    request: str = Field(min_length=1)
    parameters: dict[str, str | int] = Field(default={})
    full: Conditions = Conditions()  # the answer when all is well
    degraded: Conditions | None = None  # the answer of a fallback; without one there is none
    reports: Conditions | None = None  # the answer that reports the failure, by which the target itself has detected it
    serves: bool = False  # whether the target counts as serving, at least degraded, only when this view does

    @model_validator(mode="after")
    def _sql_has_no_body(self) -> "View":
        if self.is_sql and (self.full.json_ or self.degraded or self.reports or self.parameters):
            raise ValueError("a SELECT alone, without conditions: the database answers it or does not")
        return self

    @property
    def is_sql(self) -> bool:
        """Whether the database is asked."""
        return self.request.startswith(SQL)

    def state(self, status: int, body: Any) -> int:
        """Return what an answer says of the target."""
        if self.full.fits(status, body):
            return FULL
        return DEGRADED if self.degraded and self.degraded.fits(status, body) else BAD

    def is_report(self, status: int, body: Any) -> bool:
        """Tell whether an answer reports the failure."""
        return self.reports is not None and self.reports.fits(status, body)


class Watching(Model):
    """The extension `tapecheck` of an experiment."""

    name: Literal["tapecheck"]
    failure: str  # the key of `rto` that the drill is about
    inject: str  # the activity with which the fault begins, from which the clocks run
    release: str | None = None  # the activity that takes it away, for faults that the target cannot overcome by itself
    views: dict[str, View] = Field(min_length=1)
    processes: tuple[str, ...] = ()  # the target's processes that the activities name
    after: str | None = None  # a request whose answer says how the target came back
    keep: tuple[str, ...] = ()  # numbers at the top level of that answer's JSON that are kept
    records: bool = False  # whether bars are written meanwhile, to count what is lost
    may_be_unseen: bool = False  # whether the fault can be over before a probe sees it; its activity must fail where it did nothing
    repair: str = Field(min_length=1)  # the command that repairs by hand; may hold {pids}, {source_url}, {sandbox_key}, {base_url}


@dataclass(frozen=True, slots=True, kw_only=True)
class Drill:
    """A drill as its file says it; `experiment` is Chaos Toolkit's part, extension included."""

    name: str
    path: Path
    title: str
    experiment: Mapping[str, Any]
    watching: Watching

    def with_values(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the experiment with the values of its configuration that the target gives; of those the file's own never count."""
        experiment = copy.deepcopy(dict(self.experiment))
        own = {name: value for name, value in experiment.get("configuration", {}).items() if name not in PLACES}
        return {**experiment, "configuration": {**own, **values}}

    @property
    def activities(self) -> list[Mapping[str, Any]]:
        """What it does: the method, then the rollbacks."""
        return [activity for section in _SECTIONS for activity in self.experiment.get(section, [])]

    def _calls(self, *functions: str) -> bool:
        """Tell whether it calls one of our own actions."""
        return any(one.get("module") == OURS and one.get("func") in functions for _, one in providers(self.experiment, "python"))

    @property
    def destroys(self) -> bool:
        """Whether it drops the target's database, as far as our own actions do."""
        return self._calls("destroy_database")

    @property
    def backs_up(self) -> bool:
        """Whether it runs the commands by which a target's database is backed up and restored."""
        return self._calls("back_up", "destroy_database", "restore_database")

    @property
    def needs_database(self) -> bool:
        """Whether it asks or writes to the target's database."""
        return self.watching.records or self.destroys or any(view.is_sql for view in self.watching.views.values())

    @property
    def broken(self) -> list[str]:
        """The target's processes that it is about: those that it declares, and those that its activities name."""
        given = (activity["provider"].get("arguments") for activity in self.activities)
        named = [str(one["process"]) for one in given if isinstance(one, Mapping) and "process" in one]
        return list(dict.fromkeys([*self.watching.processes, *named]))

    @property
    def code(self) -> list[str]:
        """What needs a target's leave: python functions but ours, programs, requests to others, what is fetched, SQL that calls functions.

        Chaos Toolkit's own modules can run all others, and a function of a database any program of its machine.
        """
        python = [".".join(str(one[key]) for key in ("module", "func") if key in one) for _, one in providers(self.experiment, "python")]
        found = [name for name in python if not f"{name}.".startswith(f"{OURS}.")]
        found += [f"the program {one.get('path')}" for _, one in providers(self.experiment, "process")]
        found += [f"{kind} {one.get(key)}" for kind, key in FETCHED.items() for _, one in providers(self.experiment, kind)]
        found += [f"a request to {url}" for url in self.urls if not _OWN_URL.match(url)]
        found += [view.request for view in self.watching.views.values() if view.is_sql and re.search("[(;]", view.request)]
        return list(dict.fromkeys(found))

    @property
    def urls(self) -> list[str]:
        """Where its http providers ask, as far as the file says it."""
        return [str(one.get("url")) for _, one in providers(self.experiment, "http")]

    @property
    def places(self) -> set[str]:
        """The configuration values that its activities use."""
        return set(_PLACE.findall(str([*self.activities, self.experiment.get("steady-state-hypothesis")])))


def read(path: str | Path) -> Drill:
    """Read a drill without running or importing what it names; a `ConfigError` says what is wrong in the experiment or our extension."""
    file = config.find(path)
    data, lines = config.read_yaml(file)
    if found := [*_experiment_problems(data, str(path)), *_python_problems(data, lines, str(path))]:
        raise ConfigError(found)
    at, extension = next((i, e) for i, e in enumerate(data["extensions"]) if e.get("name") == "tapecheck")
    inside = {place[2:]: line for place, line in lines.items() if place[:2] == ("extensions", at)}
    watching = config.validate(Watching, extension, file=str(path), lines=inside)
    if found := list(_extension_problems(data, watching, str(path))):
        raise ConfigError(found)
    return Drill(name=file.stem, path=file, title=data["title"], experiment=data, watching=watching)


def chosen(names: str, left_out: Sequence[str] = ()) -> list[Drill]:
    """Return the drills that a parameter names: all but those left out, none, freshness, or names and paths with commas between."""
    if names in (NONE, AUDIT):
        return []
    known = {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}
    drills: list[Drill] = []
    allowed = f"names of drills: {', '.join(known)}"
    found = [Problem(file="plan", key="left_out", got=name, allowed=allowed) for name in left_out if not fnmatch.filter(known, name)]
    every = [path for name, path in known.items() if not any(fnmatch.fnmatchcase(name, one) for one in left_out)]
    for path in every if names == ALL else [_path(name.strip(), known) for name in names.split(",")]:
        try:
            drills.append(read(path))
        except ConfigError as error:
            found += error.problems
    if found:
        raise ConfigError(found)
    return drills


def _path(name: str, known: Mapping[str, Path]) -> Path:
    if name in known or name.endswith((".yaml", ".yml")):
        return known.get(name) or config.find(name)
    allowed = f"{ALL}, {AUDIT}, {NONE}, a path of a YAML file, or some of {', '.join(known)}"
    raise ConfigError([Problem(file="parameters", key="drills", got=name, allowed=allowed)])


def _experiment_problems(data: Any, file: str) -> Iterable[Problem]:
    """Ask Chaos Toolkit itself, as `chaos validate` does, about all that it can check without running it; and look for what we need."""
    from chaoslib.exceptions import ChaosException
    from chaoslib.experiment import ensure_experiment_is_valid

    if not isinstance(data, dict):
        yield Problem(file=file, key="(file)", got=type(data).__name__, allowed="a Chaos Toolkit experiment")
        return
    try:
        ensure_experiment_is_valid(_inert({key: value for key, value in data.items() if key not in RUNNING}))
    except (ChaosException, AttributeError, KeyError, TypeError, ValueError) as error:  # the others of a shape that it does not expect
        got = str(error) if isinstance(error, ChaosException) else f"{type(error).__name__}: {error}"
        yield Problem(file=file, key="(experiment)", got=got, allowed="what `chaos validate` accepts")
    if not any(isinstance(e, dict) and e.get("name") == "tapecheck" for e in data.get("extensions") or []):
        allowed = "extensions: [{name: tapecheck, failure: …, inject: …, views: …, repair: …}]; see config/drills/"
        yield Problem(file=file, key="extensions", got="none named tapecheck", allowed=allowed)
    for key, why in NEEDED.items():
        if not data.get(key):
            yield Problem(file=file, key=key, got="nothing", allowed=why)


def _inert(value: Any) -> Any:
    """Return a copy of an experiment in which each python provider is one that nothing is imported for."""
    if isinstance(value, dict):
        return dict(STAND_IN) if value.get("type") == "python" else {key: _inert(one) for key, one in value.items()}
    return [_inert(one) for one in value] if isinstance(value, list) else value


def providers(value: Any, kind: str, at: Location = ()) -> Iterator[tuple[Location, Mapping[str, Any]]]:
    """Yield every provider of a kind with where it stands, be it of an activity, a tolerance, a control or the configuration."""
    if isinstance(value, dict) and value.get("type") == kind:
        yield at, value
    for key, one in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from providers(one, kind, (*at, key))


def _python_problems(data: Any, lines: Mapping[Location, int], file: str) -> Iterator[Problem]:
    """Check the shape of python providers, and of those with functions of ours that there is such a one with such arguments."""
    for at, provider in providers(data, "python"):
        module, func, arguments = provider.get("module"), provider.get("func"), provider.get("arguments") or {}
        got, allowed = "", "{type: python, module: NAME, func: NAME, arguments: {NAME: VALUE}}"
        if not isinstance(module, str) or (at[0] != "controls" and not isinstance(func, str)) or not isinstance(arguments, dict):
            got = f"module {module!r}, func {func!r}, arguments {arguments!r}"
        elif module == OURS:
            got, allowed = _misuse(str(func), arguments)
        if got:
            yield Problem(file=file, line=lines.get(at), key=config.dotted(at), got=got, allowed=allowed)


def _misuse(func: str, arguments: Mapping[str, Any]) -> tuple[str, str]:
    """Say what is wrong with a call of an action of ours, and what is allowed; nothing where it is right."""
    from tapecheck.recovery import actions  # with psycopg: paid by who has a drill

    known = {name: one for name, one in vars(actions).items() if inspect.isfunction(one) and one.__module__ == OURS and name[0] != "_"}
    if func not in known:
        return repr(func), f"one of {', '.join(sorted(known))}"
    try:
        signature = inspect.signature(known[func])
        signature.bind(**{**arguments, "configuration": {}})
    except TypeError as error:
        return f"{func}: {error}", str(signature)
    return "", ""


def _extension_problems(data: Mapping[str, Any], watching: Watching, file: str) -> Iterable[Problem]:
    names = [activity.get("name") for activity in data["method"]]
    for key in ("inject", "release"):
        name = getattr(watching, key)
        if name is not None and name not in names:
            yield Problem(file=file, key=f"extensions.tapecheck.{key}", got=repr(name), allowed=f"an activity of method: {names}")
    if not any(view.serves for view in watching.views.values()):
        yield Problem(file=file, key="extensions.tapecheck.views", got="none with serves: true", allowed="at least one by which it serves")
