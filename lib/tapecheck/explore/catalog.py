"""Which recorded runs there are, one of them opened, and what it says under another plan or other objectives. Nothing is measured."""

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from pydantic import ConfigDict, Field

from tapecheck import config, text, validation, verdict
from tapecheck.config import Model
from tapecheck.errors import ConfigError, Problem
from tapecheck.explore import events
from tapecheck.explore.events import Events
from tapecheck.recording import Recording
from tapecheck.runs import folders, history
from tapecheck.runs.folders import Run
from tapecheck.runs.results import Result
from tapecheck.verdict import Objective

LATEST = "latest"
MOST_LISTED = 50  # runs in the table; all of them can be picked


class Settings(Model):
    """The notebook's parameters."""

    model_config = ConfigDict(strict=True)

    run: str = Field(min_length=1)
    over: str
    where: str
    by: str
    plan: str
    objectives: str
    out: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """The recorded runs of an output folder, newest first, those that a person named before them."""

    runs: tuple[Run, ...]

    @property
    def readable(self) -> dict[str, Run]:
        """The runs that can be opened, each by one line that tells it from the others."""
        found = {}
        for run in self.runs:
            if run.head is not None:
                when = f"{run.head.started_at:%Y-%m-%d %H:%M}"
                said = f"{run.head.validation} of {run.head.target.name}: {verdict.words(run.head.verdict)}, {when} ({run.folder.name})"
                found[text.line(f"{said} in {run.folder.parent}" if text.line(said) in found else said)] = run
        return found

    def frame(self) -> pd.DataFrame:
        """Return one row a run, those that cannot be read with the reason."""
        rows = []
        for run in self.runs[:MOST_LISTED]:
            said = {"validation": run.folder.parent.name, "target": "", "verdict": run.problem or "", "date (UTC)": "", "commit": ""}
            if (head := run.head) is not None:
                met = sum(check.verdict == "pass" for check in head.checks)
                said = {
                    "validation": head.validation, "target": head.target.name, "verdict": verdict.words(head.verdict),
                    "date (UTC)": f"{head.started_at:%Y-%m-%d %H:%M:%S}", "commit": history.code(head.environment),
                    "checks met": f"{met} of {len(head.checks)}", "analysis of": head.reanalysis_of or "",
                }  # fmt: skip
            rows.append({**{name: text.line(one) for name, one in said.items()}, "folder": text.line(config.shown(run.folder))})
        return pd.DataFrame(rows).fillna("")

    def find(self, path: str) -> Run:
        """Return a run of the catalog by its folder; `latest` is the newest one."""
        if path == LATEST:
            newest = max((run for run in self.runs if run.head), key=lambda run: run.folder.name, default=None)
            if newest is None:
                got, allowed = "latest, and no run is recorded there", "the folder of a recorded run; `make run` records three"
                raise ConfigError([Problem(file="parameters", key="run", got=got, allowed=allowed)])
            return newest
        return folders.read(path)


def read(settings: Settings) -> Catalog:
    """List the runs below the output folder, and those that the settings name."""
    listed = list(folders.each(settings.out)) if settings.out else []
    known = {run.folder.resolve() for run in listed}
    named = {run.folder: run for run in (folders.read(path) for path in (settings.run, settings.over) if path not in ("", LATEST))}
    return Catalog(runs=(*(run for folder, run in named.items() if folder not in known), *listed))


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A recorded run with its recording."""

    run: Run
    head: Result
    recording: Recording[Any]
    events: Events

    @property
    def name(self) -> str:
        """It in a few words."""
        return text.line(f"{self.head.validation} of {self.head.target.name}, run {self.head.run_id}")

    def plan(self, asked: str = "") -> str:
        """Return the file of a plan that is asked for, or else of the one with which it was measured."""
        return asked.strip() or str(self.head.parameters.get("plan", validation.named(self.head.validation).file))

    @property
    def objectives(self) -> list[Objective]:
        """The objectives by which it was judged when it was recorded, each once."""
        found = {}
        for check in self.head.checks:
            metric, op, limit = check.objective.rsplit(" ", 2) if check.objective.count(" ") == 2 else ("", "", "")
            scope, _, name = metric.rpartition(".")
            if op in verdict.OPERATORS:
                found[check.objective] = Objective(metric=name, op=op, limit=float(limit), scope=scope or None)
        return list(found.values())


def opened(run: Run) -> Opened:
    """Read a run's recording. Raises ConfigError: it is not complete."""
    assert run.head is not None, "a run that can be read has a head"
    recording = validation.named(run.head.validation).read(str(run.folder))
    return Opened(run=run, head=run.head, recording=recording, events=events.of(run.head.validation, recording))


def judged(one: Opened, plan: str = "", objectives: str = "") -> tuple[str, Result]:
    """Return headline (Markdown) and result of a run as recorded; under another plan, or other objectives, what it says under them.

    Raises:
        ConfigError: the plan or an objective is wrong, or the plan with which it was measured is gone.
    """
    if not plan.strip() and not objectives.strip():
        said = f"{one.head.headline} As recorded in run {one.head.run_id}, measured {one.head.started_at:%Y-%m-%d %H:%M:%S} UTC."
        return verdict.headline(one.head.target.name, one.head.checks, said.strip()), one.head
    asked = [part.strip() for part in objectives.split(";") if part.strip()]
    found = validation.named(one.head.validation).analyse(one.recording, read_plan(one, plan, asked))
    under = f"{'the objectives typed in, and else ' if asked else ''}{config.shown(Path(one.plan(plan)))}"
    again = f"Judged again under {under}; nothing was measured."
    result = dataclasses.replace(
        one.head, checks=found.checks, verdict=verdict.overall(check.verdict for check in found.checks),
        headline=f"{found.said} {again}".strip(), recommendations=found.findings, bottleneck=found.bottleneck,
    )  # fmt: skip
    return f"{found.headline} {text.markdown(again)}", result


def read_plan(one: Opened, plan: str = "", objectives: Sequence[str] = ()) -> Any:
    """Read a plan for a run, or its own, chosen from as it was then where that can be; with objectives, if any, in place of its own."""
    kind, file = validation.named(one.head.validation), one.plan(plan)
    given = {name: one.head.parameters[name] for name in kind.choices if name in one.head.parameters}
    data, _ = config.read_yaml(config.find(file))
    if not objectives or not isinstance(data, dict):
        return _chosen(kind, file, given)
    data = {**data, "objectives": list(objectives)}
    for own in (data.get("profiles") or {}).values():
        (own or {}).pop("objectives", None)
    with tempfile.TemporaryDirectory() as folder:
        (changed := Path(folder) / "objectives.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
        try:
            return _chosen(kind, str(changed), given)
        except ConfigError as error:
            raise ConfigError([dataclasses.replace(problem, file="parameters", line=None) for problem in error.problems]) from None


def _chosen(kind: validation.Validation[Any, Any, Any, Any], file: str, given: Mapping[str, Any]) -> Any:
    try:
        return kind.read_plan(file, **given)
    except ConfigError:
        return kind.read_plan(file)  # another plan may not have what was chosen then
