"""What of a target is watched during a drill, and what state an answer is. It asks nobody."""

import copy
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from tapecheck import config
from tapecheck.config import Model
from tapecheck.errors import ConfigError, Problem
from tapecheck.recovery.recording import BAD, DEGRADED, FULL

SQL = "SELECT"  # a view whose request begins so is asked of the database


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, int) else value


class Conditions(Model):
    """Conditions on an answer: its status is one of these, and its JSON body has these values at its top level."""

    status: Annotated[tuple[int, ...], BeforeValidator(_several)] = (200,)
    json_: dict[str, Any] = Field(default={}, alias="json")

    def fits(self, status: int, body: Any) -> bool:
        """Tell whether an answer is so; `body` is decoded JSON, or None for anything else."""
        if status not in self.status:
            return False
        return not self.json_ or (isinstance(body, dict) and all(body.get(key, ...) == value for key, value in self.json_.items()))


class View(Model):
    """One thing that is asked again and again: a request template of the target, `METHOD /path`, or a SELECT for its database.

    Args:
        full: the answer when all is well.
        degraded: the answer of a fallback; without one there is none.
        reports: the answer that reports the failure, by which the target itself has detected it.
        serves: whether the target counts as serving, at least degraded, only when this view does.
    """

    request: str = Field(min_length=1)
    parameters: dict[str, str | int] = Field(default={})
    full: Conditions = Conditions()
    degraded: Conditions | None = None
    reports: Conditions | None = None
    serves: bool = False

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


# ---- experiment ----

FOLDER = config.CONFIG / "drills"
NONE, ALL, AUDIT = "none", "all", "freshness"
_SECTIONS = ("method", "rollbacks")
_PLACE = re.compile(r"\$\{(\w+)\}")


class Watching(Model):
    """The extension `tapecheck` of an experiment.

    Args:
        failure: the key of `rto` that the drill is about.
        inject: the activity with which the fault begins, from which the clocks run.
        release: the activity that takes it away, for faults that the target cannot overcome by itself.
        views: what is watched.
        processes: the target's processes that the activities name.
        after: a request whose answer says how the target came back; numbers at the top level of its JSON named in `keep` are kept.
        records: whether bars are written meanwhile, to count what is lost.
        may_be_unseen: whether the fault can be over before a probe sees it; its activity must then fail where it did nothing.
        repair: the command that repairs by hand where a rollback fails; `{pids}` are those that the fault was about, `{source_url}`
            and `{base_url}` the target's.
    """

    name: Literal["tapecheck"]
    failure: str
    inject: str
    release: str | None = None
    views: dict[str, View] = Field(min_length=1)
    processes: tuple[str, ...] = ()
    after: str | None = None
    keep: tuple[str, ...] = ()
    records: bool = False
    may_be_unseen: bool = False
    repair: str = Field(min_length=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drill:
    """A drill as its file says it; `experiment` is Chaos Toolkit's part, extension included."""

    name: str
    path: Path
    title: str
    experiment: Mapping[str, Any]
    watching: Watching

    def with_values(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the experiment with the values of its configuration that the target gives."""
        experiment = copy.deepcopy(dict(self.experiment))
        experiment["configuration"] = {**experiment.get("configuration", {}), **values}
        return experiment

    @property
    def needs_database(self) -> bool:
        """Whether it asks or writes to the target's database."""
        return self.watching.records or any(view.is_sql for view in self.watching.views.values())

    @property
    def broken(self) -> list[str]:
        """The target's processes that it is about: those that it declares, and those that its activities name."""
        given = (activity["provider"].get("arguments") for section in _SECTIONS for activity in self.experiment.get(section, []))
        named = [str(one["process"]) for one in given if isinstance(one, Mapping) and "process" in one]
        return list(dict.fromkeys([*self.watching.processes, *named]))

    @property
    def places(self) -> set[str]:
        """The configuration values that its activities use."""
        activities = [a for section in _SECTIONS for a in self.experiment.get(section, [])]
        return set(_PLACE.findall(str([*activities, self.experiment.get("steady-state-hypothesis")])))


def read(path: str | Path) -> Drill:
    """Read a drill.

    Raises:
        ConfigError: it is no valid experiment, or our extension is missing or wrong; before any fault.
    """
    file = config.find(path)
    data, lines = config.read_yaml(file)
    found = [*_chaos_problems(data, str(path)), *_shape_problems(data, str(path))]
    if found:
        raise ConfigError(found)
    at, extension = next((i, e) for i, e in enumerate(data["extensions"]) if e.get("name") == "tapecheck")
    inside = {place[2:]: line for place, line in lines.items() if place[:2] == ("extensions", at)}
    watching = config.validate(Watching, extension, file=str(path), lines=inside)
    if problems := list(_activity_problems(data, watching, str(path))):
        raise ConfigError(problems)
    return Drill(name=file.stem, path=file, title=data["title"], experiment=data, watching=watching)


def problems(path: str | Path) -> list[Problem]:
    """Return what is wrong with a drill's file."""
    try:
        read(path)
    except ConfigError as error:
        return list(error.problems)
    return []


def chosen(names: str) -> list[Drill]:
    """Return the drills that a parameter names: all, none, freshness, or names and paths with commas between.

    Raises:
        ConfigError: every problem of every one at once.
    """
    if names in (NONE, AUDIT):
        return []
    known = sorted(FOLDER.glob("*.yaml"))
    paths = known if names == ALL else [_path(name.strip(), known) for name in names.split(",")]
    drills: list[Drill] = []
    found: list[Problem] = []
    for path in paths:
        try:
            drills.append(read(path))
        except ConfigError as error:
            found += error.problems
    if found:
        raise ConfigError(found)
    return drills


def _path(name: str, known: Iterable[Path]) -> Path:
    by_name = {path.stem: path for path in known}
    if name in by_name:
        return by_name[name]
    if name.endswith((".yaml", ".yml")):
        return config.find(name)
    allowed = f"{ALL}, {AUDIT}, {NONE}, a path of a YAML file, or some of {', '.join(by_name)}"
    raise ConfigError([Problem(file="parameters", key="drills", got=name, allowed=allowed)])


def _chaos_problems(data: Any, file: str) -> list[Problem]:
    """Ask Chaos Toolkit itself, as `chaos validate` does."""
    from chaoslib.exceptions import ChaosException
    from chaoslib.experiment import ensure_experiment_is_valid

    if not isinstance(data, dict):
        return [Problem(file=file, key="(file)", got=type(data).__name__, allowed="a Chaos Toolkit experiment")]
    try:
        ensure_experiment_is_valid(copy.deepcopy(data))
    except ChaosException as error:
        return [Problem(file=file, key="(experiment)", got=str(error), allowed="what `chaos validate` accepts")]
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # of a shape that it does not expect
        return [Problem(file=file, key="(experiment)", got=f"{type(error).__name__}: {error}", allowed="what `chaos validate` accepts")]
    return []


def _shape_problems(data: Any, file: str) -> list[Problem]:
    if not isinstance(data, dict):
        return []
    found: list[Problem] = []
    if not any(isinstance(e, dict) and e.get("name") == "tapecheck" for e in data.get("extensions") or []):
        allowed = "extensions: [{name: tapecheck, failure: …, inject: …, views: …, repair: …}]; see config/drills/"
        found.append(Problem(file=file, key="extensions", got="none named tapecheck", allowed=allowed))
    for key, why in (
        ("steady-state-hypothesis", "what holds before and after"),
        ("rollbacks", "what takes the fault away, whatever happens"),
    ):
        if not data.get(key):
            found.append(Problem(file=file, key=key, got="nothing", allowed=why))
    return found


def _activity_problems(data: Mapping[str, Any], watching: Watching, file: str) -> Iterable[Problem]:
    names = [activity.get("name") for activity in data["method"]]
    for key in ("inject", "release"):
        name = getattr(watching, key)
        if name is not None and name not in names:
            yield Problem(file=file, key=f"extensions.tapecheck.{key}", got=repr(name), allowed=f"an activity of method: {names}")
    if not any(view.serves for view in watching.views.values()):
        yield Problem(file=file, key="extensions.tapecheck.views", got="none with serves: true", allowed="at least one by which it serves")
