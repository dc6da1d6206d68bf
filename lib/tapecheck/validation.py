"""The one shape of every validation: settings and plan -> recording -> summary -> checks and findings -> result.json.

A package gives what is its own (what it measures, its figures and rules); reading, judging, recording and the tables of the notebook
stand here once. Everything right of a recording is a pure function of recording and plan.
"""

import hashlib
import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, cast

import pandas as pd
import pyarrow as pa
from pydantic import ConfigDict, Field

from tapecheck import config, notebook, verdict
from tapecheck import recording as recordings
from tapecheck.config import Model, ModelT
from tapecheck.errors import ConfigError, Problem
from tapecheck.recording import Context, Recording, RecordingT, Table, neighbours
from tapecheck.runs import folders
from tapecheck.runs.folders import Picture
from tapecheck.runs.outcomes import Recorded
from tapecheck.runs.results import Finding, Result
from tapecheck.target.file import Target
from tapecheck.verdict import SEVERITY, Check, Measured, number, overall

DIGEST_CHARACTERS = 12
ALL: Mapping[str, tuple[str | int, ...]] = {  # parameters that choose a part of a plan, and what stands for all of it
    "profile": ("full", "once"), "days": (0,), "before": ("",),
    **dict.fromkeys(("scenarios", "symbols", "timeframes", "drills", "proofs"), ("all",)),
}  # fmt: skip


class Settings(Model):
    """The parameters of every notebook, checked: a wrong type or an empty path stops before anything is sent."""

    model_config = ConfigDict(strict=True)

    target: str = Field(min_length=1)
    plan: str = Field(min_length=1)
    run: str = Field(min_length=1)
    out: str


PlanT = TypeVar("PlanT", bound=Model)
SummaryT = TypeVar("SummaryT")
SettingsT = TypeVar("SettingsT", bound=Settings)


@dataclass(frozen=True, kw_only=True)
class Analysis(Generic[PlanT, RecordingT, SummaryT]):
    """What a recording says under a plan; `said` is what the headline says beyond the verdict."""

    recording: RecordingT
    plan: PlanT
    summary: SummaryT
    checks: list[Check]
    findings: list[Finding]
    bottleneck: Finding | None
    said: str

    @property
    def headline(self) -> str:
        """Return the verdict in one line of Markdown, with what else is to be said, and of which run it is."""
        return self.headline_of(self.recording.context.run_id)

    def headline_of(self, run_id: str) -> str:
        """Return the headline of the run that this is recorded as, which may be another one than was measured."""
        context = self.recording.context
        of = "" if run_id == context.run_id else f", an analysis of {context.run_id}"
        run = f"Run {run_id}{of}, measured {context.started_at:%Y-%m-%d %H:%M:%S} UTC."
        return verdict.headline(context.target.name, self.checks, f"{self.said} {run}".strip())


@dataclass(frozen=True, slots=True, kw_only=True)
class Types(Generic[RecordingT, SettingsT]):
    """The types of one validation."""

    context: type[Context] = Context
    recording: type[RecordingT] = Recording  # type: ignore[assignment]
    settings: type[SettingsT] = Settings  # type: ignore[assignment]
    result: type[Result]


class Validation(ABC, Generic[PlanT, RecordingT, SummaryT, SettingsT]):
    """What each validation gives, and what all do alike over it.

    Its plan is `config/NAME.yaml` unless another is named, and is told by its `keys`; `choices` are the parameters of its notebook that
    choose from the plan, and `limiting` are names of findings, or patterns of them, in the order in which they limit. The first of its
    `tables` carries the context. `read_plan` takes a plan's file and the choices, and raises a `ConfigError` where one of them is wrong.
    """

    name: ClassVar[str]
    keys: ClassVar[frozenset[str]]
    choices: ClassVar[tuple[str, ...]] = ()
    limiting: ClassVar[tuple[str, ...]] = ()
    tables: ClassVar[Mapping[str, Table]]
    types: Types[RecordingT, SettingsT]
    read_plan: Callable[..., PlanT]

    @property
    def file(self) -> str:
        """Return the plan that is read unless another is named."""
        return f"config/{self.name}.yaml"

    # what a package gives

    @abstractmethod
    def measure(self, plan: PlanT, target: Target, *, out: str) -> RecordingT:
        """Measure an opened target; where it cannot be measured, a `TapecheckError` says why."""

    @abstractmethod
    def summarize(self, recording: RecordingT, plan: PlanT) -> SummaryT:
        """Return the figures of a recording."""

    def judge(self, summary: SummaryT, plan: PlanT) -> list[Check]:
        """Judge every objective of the plan; a summary that is no more than figures by their metric is judged as it is."""
        figures: Mapping[str, Measured] = dict(cast(Any, summary))
        objectives = verdict.parse_all(cast(Any, plan).objectives, figures, (), file="plan")
        return [verdict.judge(one, figures[one.metric], name=self.name) for one in objectives]

    def rules(self, recording: RecordingT, summary: SummaryT, plan: PlanT) -> list[Finding]:
        """Return what the figures say, each with its evidence."""
        return []

    def part(self, found: Analysis[PlanT, RecordingT, SummaryT]) -> dict[str, Any]:
        """Return the fields that this validation adds to every result, which are those of its summary."""
        own = {field.name for field in fields(self.types.result)} - {field.name for field in fields(Result)}
        return {name: getattr(found.summary, name) for name in own}

    def problems(self, plan: PlanT, file: str) -> list[Problem]:
        """Return which objectives of a valid plan cannot be proven."""
        return []

    def notes(self, file: Path) -> list[str]:
        """Return what a person should know of a valid plan."""
        return []

    def commands(self, plan: PlanT) -> list[tuple[str, ...]]:
        """Return the commands that a valid plan runs, which a target must allow."""
        return []

    def asks_target(self, given: Mapping[str, Any]) -> bool:
        """Tell whether a run with such parameters of the notebook asks a target."""
        return bool(given.get("run", "new") == "new")

    def check_target(self, target: Target | None, plan: PlanT | None, given: Mapping[str, Any]) -> None:
        """Refuse a target that lacks or forbids what a run needs, before anything starts; target or plan is None where it is wrong."""

    def say(self, recording: RecordingT, summary: SummaryT, findings: Sequence[Finding]) -> str:
        """Return what the headline says beyond the verdict."""
        return ""

    def bottleneck(self, findings: Sequence[Finding]) -> Finding | None:
        """Return the finding that limits first, by the order of `limiting`."""
        return next((one for name in self.limiting for one in findings if fnmatchcase(one.name, name)), None)

    def spans_ns(self, recording: RecordingT) -> Iterable[tuple[int, int]]:
        """Return when measurements ran, on the monotonic clock."""
        return ()

    def failures(self, recording: RecordingT) -> Iterator[dict[str, Any]]:
        """Yield one plain record for each thing that failed."""
        yield from ()

    def files(self, found: Analysis[PlanT, RecordingT, SummaryT]) -> Mapping[str, Any]:
        """Return further files of a run folder; see `folders.record`."""
        return {}

    # what follows from it

    def settings(self, **given: object) -> SettingsT:
        """Check a notebook's parameters, and that the output folder can be written; what is on screen is of other ones and goes.

        Raises:
            ConfigError: every wrong parameter at once, and each that papermill gave and the notebook does not have.
            OutputError: the output folder cannot be written.
        """
        settings = parameters(self.types.settings, given)
        folders.check_writable(settings.out)
        return settings

    def plan(self, settings: SettingsT) -> PlanT:
        """Read the plan that a notebook's parameters name, and choose from it as they say; see `read_plan`."""
        return self.read_plan(settings.plan, **{name: getattr(settings, name) for name in self.choices})

    def recording(self, plan: PlanT, settings: SettingsT) -> RecordingT:
        """Measure now, or read the recorded run that the settings name."""
        return self.begin(plan, settings) if settings.run == "new" else self.read(settings.run)

    def begin(self, plan: PlanT, settings: SettingsT) -> RecordingT:
        """Open the target of the settings and measure it."""
        from tapecheck.target.opening import open_target  # with HTTP client and database driver: paid by who measures

        return self.run(plan, open_target(settings.target), out=settings.out)

    def run(self, plan: PlanT, target: Target, *, out: str = "") -> RecordingT:
        """Measure an opened target and keep the recording below `out`; see `measure`, which says what it raises."""
        return recordings.measured(self.name, target.name, lambda: self.measure(plan, target, out=out), out=out)

    def check_run(self, path: str | Path) -> None:
        """Make sure that there is a recorded run of this validation, without reading it."""
        folders.recording(path, self.name)

    def read(self, path: str | Path) -> RecordingT:
        """Read the recording of a run folder, or of one that was measured and never recorded.

        Raises:
            ConfigError: the folder holds no complete run of this validation.
        """
        return self.read_files(folders.recording(path, self.name), source=str(path))

    def read_files(self, folder: Path, *, source: str) -> RecordingT:
        """Read the files of a recording, whatever else the folder holds; see `read`."""
        try:
            context, tables = recordings.read(folder, self.tables, self.types.context)
            recording = self.types.recording(context=context, tables=tables, source=source)
            self.check(recording)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, pa.ArrowException) as error:
            raise recordings.unreadable(error, source, next(iter(self.tables)), self.name) from error
        return recording

    def check(self, recording: RecordingT) -> None:
        """Make sure of what the types do not say of a recording that is read; a `ValueError` says what it lacks."""

    def find(self, recording: RecordingT, summary: SummaryT, plan: PlanT) -> list[Finding]:
        """Return what the figures say, each with its evidence, and that others measured at the same time."""
        return [*self.rules(recording, summary, plan), *neighbours(recording.context)]

    def analyse(self, recording: RecordingT, plan: PlanT) -> Analysis[PlanT, RecordingT, SummaryT]:
        """Return what a recording says under a plan."""
        summary = self.summarize(recording, plan)
        findings = self.find(recording, summary, plan)
        beside = (f"Note: {one.finding}." for one in neighbours(recording.context))
        return Analysis(
            recording=recording,
            plan=plan,
            summary=summary,
            checks=self.judge(summary, plan),
            findings=findings,
            bottleneck=self.bottleneck(findings),
            said=" ".join(filter(None, (self.say(recording, summary, findings), *beside))),
        )

    def scope(self, settings: SettingsT, found: Analysis[PlanT, RecordingT, SummaryT] | None = None) -> str:
        """Say which part of the plan the parameters choose, such as `1 of 7 scenarios`, or was measured; "" for all of it."""
        given = ((name, getattr(settings, name, every[0])) for name, every in ALL.items())
        return ", ".join(filter(None, (self._part(name, value, settings) for name, value in given if value not in ALL[name])))

    def _part(self, name: str, value: str | int, settings: SettingsT) -> str:
        fixed = {"days": f"{value} days", "before": "recorded runs", "profile": f"profile {value}"}
        if (name, value) == ("drills", "none"):
            return "definition only"
        if name in fixed:
            return fixed[name]
        chosen, known = {one.strip() for one in str(value).split(",")}, ()
        with suppress(ConfigError):  # of a plan that is gone by now
            known = getattr(self.read_plan(settings.plan), name, ())
        return ("" if len(chosen) == len(known) else f"{len(chosen)} of {len(known)} {name}") if known else f"{name}: {value}"

    def record(
        self, found: Analysis[PlanT, RecordingT, SummaryT], *, settings: SettingsT, figures: Mapping[str, Picture] | None = None
    ) -> Recorded:
        """Write the run folder and return where it is; see `folders.record`. A recorded run that was read again is a run of its own."""
        recording, context = found.recording, found.recording.context
        source = None if recording.source is None or folders.is_unfinished(recording.source) else recording.source
        spans_ns = [*self.spans_ns(recording), *([context.audited_ns] if context.audited_ns else [])]
        result = self.types.result(
            validation=self.name,
            run_id=context.run_id if source is None else folders.new_id(),
            verdict=overall(c.verdict for c in found.checks),
            started_at=context.started_at,
            target=context.target,
            environment=context.environment,
            parameters=settings.model_dump(),
            checks=found.checks,
            bottleneck=found.bottleneck,
            recommendations=found.findings,
            reanalysis_of=source,
            plan_digest=digest(settings.plan),
            headline=found.said,
            beside=None if context.beside is None else list(context.beside),
            measured_s=recordings.covered_s(spans_ns),
            scope=self.scope(settings, found),
            **self.part(found),
        )
        listed = pd.DataFrame([asdict(check) for check in found.checks], columns=list(Check.__slots__))
        files = {"failures.jsonl": self.failures(recording), "checks.csv": listed.to_csv(index=False), **self.files(found)}
        done = folders.record(result, out=settings.out, tables=recording.stored(), figures=figures, files=files)
        if done.folder is not None and done.run_id != context.run_id:
            notebook.amend(verdict=found.headline_of(done.run_id))
        return done


def parameters(kind: type[ModelT], given: Mapping[str, object]) -> ModelT:
    """Check the parameters of a notebook that begins anew: what is on screen goes; see `Validation.settings` for what is refused."""
    notebook.clear()
    notebook.settle()
    unknown = {name: None for name in notebook.given() if name not in given}
    return config.validate(kind, {**given, **unknown}, file="parameters")


def named(name: str) -> Validation[Any, Any, Any, Any]:
    """Return a validation by its name; its package is imported only now."""
    module, _, variable = config.VALIDATIONS[name].partition(":")
    found: Validation[Any, Any, Any, Any] = getattr(importlib.import_module(module), variable)
    return found


def digest(plan: str) -> str | None:
    """Return what is the same for two plans that say the same, whatever their comments and order; None for a file that is gone."""
    try:
        data, _ = config.read_yaml(config.find(plan))
    except ConfigError:
        return None
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()[:DIGEST_CHARACTERS]


# ---- frames ----


def checks(checks: Iterable[Check]) -> pd.DataFrame:
    """Return one row an objective and scenario, with the bound that decided; the worst verdicts come first."""
    ordered = sorted(checks, key=lambda check: SEVERITY.index(check.verdict))
    bounds = ((c, "" if c.bound == c.value else number(c.bound)) for c in ordered)
    rows = [(c.name, c.objective, number(c.value), bound, f"{c.n:,}", str(c.verdict), c.reason) for c, bound in bounds]
    columns = ["scenario", "objective", "measured", "95 % bound", "n", "verdict", "why"]
    frame = pd.DataFrame(rows, columns=columns).set_index(["scenario", "objective"])
    frame.attrs["file"] = "checks.csv"
    return frame


def findings(findings: Sequence[Finding]) -> pd.DataFrame:
    """Return one row a finding: what the figures say, the figures, and what to do."""
    figures = (", ".join(f"{k} = {v if isinstance(v, str) else number(v)}" for k, v in one.evidence.items()) for one in findings)
    rows = [(one.finding, text, one.action) for one, text in zip(findings, figures, strict=True)]
    return pd.DataFrame(rows or [("no rule found anything", "", "")], columns=["finding", "evidence", "next step"])
