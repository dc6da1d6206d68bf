"""What every result.json begins with, and the schema that it keeps. It writes no file."""

import functools
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata, resources
from typing import TYPE_CHECKING, Any

import psutil
from pydantic import TypeAdapter

from tapecheck import config
from tapecheck.verdict import NEXT, NOTHING, Check, Verdict

if TYPE_CHECKING:
    from jsonschema_rs import Draft202012Validator

SCHEMA_VERSION = 1
TITLES: Mapping[str, str] = {
    "load": "Load", "backfill": "Backfill", "observe": "Backfill, observed", "rto_rpo": "Recovery", "compare": "Comparison",
}  # fmt: skip
_SAID = {Verdict.FAIL: "missed", Verdict.INVALID: "invalid", Verdict.NO_DATA: "no data", Verdict.NOT_PROVEN: "not proven"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetInfo:
    """What was measured."""

    name: str
    kind: str
    base_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Where it was measured from."""

    host: str
    system: str
    cores: int
    memory_mb: float
    python: str
    versions: dict[str, str]
    git_commit: str | None
    git_dirty: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """Another measurement that ran on this machine meanwhile: of what, by which process, since when (UTC)."""

    measured: str
    pid: int
    since: datetime

    def __str__(self) -> str:
        return f"{self.measured} (pid {self.pid}, since {self.since:%H:%M:%S} UTC)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that the numbers say, the numbers, and what to do about it."""

    name: str
    finding: str
    evidence: dict[str, int | float | str]
    action: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What every validation's result.json begins with; each validation adds its own part.

    `headline` says in a sentence or two what was found beyond the verdict, `plan_digest` is the same for plans that say the same;
    `measured_s` is how long measurements ran, None where another tool measured; `beside` are the other measurements on this
    machine meanwhile, None where that is not known. `scope` says which part of the plan was run, "" for all of it.
    """

    schema_version: int = SCHEMA_VERSION
    validation: str
    run_id: str
    verdict: Verdict
    started_at: datetime
    target: TargetInfo
    environment: Environment
    parameters: dict[str, str | int | float | bool]
    checks: list[Check]
    bottleneck: Finding | None
    recommendations: list[Finding]
    headline: str = ""
    reanalysis_of: str | None = None
    plan_digest: str | None = None
    beside: list[Neighbour] | None = None
    measured_s: float | None = None
    scope: str | None = None

    def main_figures(self) -> list[str]:
        """Return the figures that say most, each with its unit, for the one table that shows all validations."""
        return []

    def missed(self) -> list[str]:
        """Say of the objectives that are not met why, and what to do, a sentence for all that have one reason."""
        alike: dict[tuple[str, Verdict, str], list[str]] = {}
        for check in (check for check in self.checks if check.verdict != Verdict.PASS):
            why = "; ".join(filter(None, (check.reason, self.advice(check))))
            alike.setdefault((check.name, check.verdict, why), []).append(check.objective)
        return [f"{name}: {', '.join(objectives)}: {_SAID[verdict]}: {why}" for (name, verdict, why), objectives in alike.items()]

    def advice(self, check: Check) -> str:
        """Say what to do about an objective that is not met; nothing where its reason says so."""
        if check.verdict == Verdict.FAIL:
            own = (one for one in self.recommendations if one.finding.startswith(f"{check.name}: "))
            return next((one.action for one in own if self.explains(one, check)), NEXT[Verdict.FAIL])
        return "" if check.verdict == Verdict.NO_DATA and not check.reason.startswith(NOTHING) else NEXT[check.verdict]

    def explains(self, finding: Finding, check: Check) -> bool:
        """Tell whether a finding about what a check is of may be the cause of its failure."""
        return True


@functools.cache
def environment() -> Environment:
    """Describe this machine and the versions that the figures depend on."""
    names = ("tapecheck", "httpx", "httptools", "uvloop", "numpy", "pandas", "pyarrow", "papermill", "jupyterlab")
    return Environment(
        host=platform.node(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_mb=round(psutil.virtual_memory().total / 1e6),
        python=platform.python_version(),
        versions={name: metadata.version(name) for name in names},
        git_commit=_git("rev-parse", "HEAD"),
        git_dirty=None if (status := _git("status", "--porcelain", "--untracked-files=no")) is None else bool(status),
    )


def _git(*words: str) -> str | None:
    command = ["git", "--no-optional-locks", "-C", str(config.PROJECT), *words]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def to_json(result: Result) -> dict[str, Any]:
    """Return a result as plain JSON data, NaN and infinity as null, checked against the schema that ships with the package."""
    data: dict[str, Any] = json.loads(TypeAdapter(type(result)).dump_json(result))
    if problem := breaks_schema(data):
        raise ValueError(f"a result that breaks its own schema {problem}")
    return data


def breaks_schema(data: Mapping[str, Any]) -> str | None:
    """Say where a result breaks the schema of its validation, or None where it does not."""
    error = next(validator(data["validation"]).iter_errors(data), None)
    return None if error is None else f"at {config.dotted(tuple(error.instance_path))}: {error.message[:80]}"


@functools.cache
def validator(validation: str) -> "Draft202012Validator":
    """Return what holds a result against the schema of its validation."""
    from jsonschema_rs import Draft202012Validator  # 20 ms that only who writes or reads a run has to pay

    return Draft202012Validator(schema(validation))


def head(data: Mapping[str, Any]) -> Result:
    """Return what a result begins with, without its validation's own part; a `ValueError` says that it does not begin so."""
    return _heads().validate_python(data)


@functools.cache
def _heads() -> TypeAdapter[Result]:
    return TypeAdapter(Result)


def moment(at: datetime) -> str:
    """Write a time."""
    return at.strftime("%Y-%m-%d %H:%M:%S UTC")


def json_schema(kind: type[Result]) -> dict[str, Any]:
    """Generate the JSON Schema of a validation's result; the committed one must equal it."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **TypeAdapter(kind).json_schema(mode="serialization")}


@functools.cache
def schema(validation: str) -> dict[str, Any]:
    """Return the JSON Schema of a validation's result.json, as shipped; one that ships none keeps what all results have."""
    file = resources.files("tapecheck.runs").joinpath("schemas", f"{validation}.json")
    data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else json_schema(Result)
    return data
