"""What the validations' facades share: the parameters that every notebook has, and how every result begins. It measures nothing."""

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, ClassVar, Protocol, TypedDict, TypeVar

import pandas as pd
import pyarrow as pa
from pydantic import ConfigDict, Field

from tapecheck import config, lockfiles, notebook, verdict
from tapecheck.config import Model
from tapecheck.errors import ConfigError, Problem
from tapecheck.runs import folders
from tapecheck.runs.results import Environment, Finding, Neighbour, TargetInfo
from tapecheck.verdict import Check, Verdict, overall

DIGEST_CHARACTERS = 12


class Settings(Model):
    """The parameters of every notebook, checked: a wrong type or an empty path stops before anything is sent."""

    model_config = ConfigDict(strict=True)

    target: str = Field(min_length=1)
    plan: str = Field(min_length=1)
    run: str = Field(min_length=1)
    out: str


SettingsT = TypeVar("SettingsT", bound=Settings)


def checked(kind: type[SettingsT], given: dict[str, object]) -> SettingsT:
    """Check a notebook's parameters, and that the output folder can be written; what is on screen is of other ones and goes.

    Raises:
        ConfigError: every wrong parameter at once, and each that papermill gave and the notebook does not have.
        OutputError: the output folder cannot be written.
    """
    notebook.clear()
    notebook.settle()
    allowed = "one of " + ", ".join(kind.model_fields)
    unknown = [
        Problem(file="parameters", key=name, got="an unknown parameter", allowed=allowed)
        for name in notebook.given()
        if name not in kind.model_fields
    ]
    try:
        settings = config.validate(kind, given, file="parameters")
    except ConfigError as error:
        raise ConfigError([*unknown, *error.problems]) from None
    if unknown:
        raise ConfigError(unknown)
    folders.check_writable(settings.out)
    return settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Which run a recording is of: when (UTC), against what, from where, and beside which other measurements (None: unknown).

    Each validation adds what its samples do not say. `audited_ns` is when the target's data was audited, on the monotonic clock.
    """

    run_id: str
    started_at: datetime
    target: TargetInfo
    environment: Environment
    beside: tuple[Neighbour, ...] | None = None
    audited_ns: tuple[int, int] | None = None

    def measured_s(self, spans_ns: Iterable[tuple[int, int]]) -> float | None:
        """Return how long measurements of such spans, and the audit, ran; of several at once the time is counted once."""
        return covered_s([*spans_ns, *([self.audited_ns] if self.audited_ns else [])])

    @property
    def measured_by(self) -> str:
        """Return the name of the other tool that measured; empty when it was this workbook."""
        return ""


STOPPED = "the sandbox was stopped meanwhile, so that failures and times say nothing of it; measure again"


def stopped() -> Finding:
    """Return the finding that the sandbox was gone before the end of what was to be measured."""
    return Finding(name="sandbox_stopped", finding=STOPPED.partition(";")[0], evidence={}, action="measure again")


# ---- beside which other measurements ----


class _Recording(Protocol):
    """The recording of any validation."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def context(self) -> Context:
        """Which run it is of."""

    def tables(self) -> Mapping[str, pa.Table]:
        """Return the tables to store."""


RecordingT = TypeVar("RecordingT", bound=_Recording)
_is_measuring = False


def measured(name: str, target: str, run: Callable[[], RecordingT], *, out: str = "") -> RecordingT:
    """Run a measurement, note in its recording which others ran on this machine meanwhile, and keep it below `out`; see `runs.keep`.

    One within another is a part of that.
    """
    recording = run() if _is_measuring else _noticed(name, target, run)
    folders.keep(recording.context.run_id, recording.tables(), name, out=out)
    return recording


def _noticed(name: str, target: str, run: Callable[[], RecordingT]) -> RecordingT:
    global _is_measuring
    folder = config.measurements()
    try:
        own = lockfiles.hold(folder, f"{name} of {target}")
    except OSError as error:
        logging.getLogger(__name__).warning("whether others measure on this machine is unknown: %s", error)
        return run()
    before = {one.file for one in lockfiles.holders(folder) if not one.is_there} | {own}
    _is_measuring = True
    try:
        recording = run()
        found = [one for one in lockfiles.holders(folder) if one.file not in before]
    finally:
        _is_measuring = False
        lockfiles.release(own)
    beside = tuple(Neighbour(measured=one.purpose, pid=one.pid, since=one.since) for one in found)
    return replace(recording, context=replace(recording.context, beside=beside))


def neighbours(context: Context) -> list[Finding]:
    """Return the finding that others measured on this machine meanwhile, if any did."""
    if not context.beside:
        return []
    who = ", ".join(map(str, context.beside))
    return [
        Finding(
            name="measured_beside_others",
            finding=f"other measurements ran on this machine at the same time, and each may have slowed the others: {who}",
            evidence={"others": len(context.beside)},
            action="measure again while nothing else is measured on this machine",
        )
    ]


def _said(context: Context, said: str) -> str:
    return " ".join(filter(None, (*(f"Note: {one.finding}." for one in neighbours(context)), said)))


# ---- results ----


class Head(TypedDict):
    """The fields of `Result` that every validation fills in alike."""

    run_id: str
    verdict: Verdict
    started_at: datetime
    target: TargetInfo
    environment: Environment
    parameters: dict[str, str | int | float | bool]
    checks: list[Check]
    recommendations: list[Finding]
    reanalysis_of: str | None
    plan_digest: str | None
    headline: str
    beside: list[Neighbour] | None


def head(context: Context, source: str | None, settings: Settings, checks: list[Check], found: Sequence[Finding], said: str) -> Head:
    """Return how a result begins.

    Args:
        source: the recorded run that was analysed again, which makes it a run of its own.
        said: what the headline says beyond the verdict.
    """
    source = None if source is None or folders.is_unfinished(source) else source
    return Head(
        run_id=context.run_id if source is None else folders.new_id(),
        verdict=overall(c.verdict for c in checks),
        started_at=context.started_at,
        target=context.target,
        environment=context.environment,
        parameters=settings.model_dump(),
        checks=checks,
        recommendations=list(found),
        reanalysis_of=source,
        plan_digest=digest(settings.plan),
        headline=_said(context, said),
        beside=None if context.beside is None else list(context.beside),
    )


def covered_s(spans_ns: Iterable[tuple[int, int]]) -> float | None:
    """Return how long at least one of some spans of time ran, of which several may run at once; None without any."""
    total, last, is_any = 0, 0, False
    for began, ended in sorted(spans_ns):
        total += max(0, ended - (max(began, last) if is_any else began))
        last, is_any = max(ended, last) if is_any else ended, True
    return total / 1e9 if is_any else None


def headline(context: Context, checks: Sequence[Check], said: str) -> str:
    """Return the verdict in one line of Markdown, with what else is to be said, and of which run it is."""
    run = f"Run {context.run_id}, measured {context.started_at:%Y-%m-%d %H:%M:%S} UTC."
    return verdict.headline(context.target.name, checks, f"{_said(context, said)} {run}".strip())


def digest(plan: str) -> str | None:
    """Return what is the same for two plans that say the same, whatever their comments and order; None for a file that is gone."""
    try:
        data, _ = config.read_yaml(config.find(plan))
    except ConfigError:
        return None
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()[:DIGEST_CHARACTERS]


# ---- frames ----


def checks(checks: Iterable[Check]) -> pd.DataFrame:
    """Return one row an objective and scenario, with the bound that decided."""
    rows = [
        {
            "scenario": c.name,
            "objective": c.objective,
            "measured": number(c.value),
            "95 % bound": "" if c.bound is None or c.bound == c.value else number(c.bound),
            "n": f"{c.n:,}",
            "verdict": str(c.verdict),
            "why": c.reason,
        }
        for c in checks
    ]
    columns = ["scenario", "objective", "measured", "95 % bound", "n", "verdict", "why"]
    return pd.DataFrame(rows, columns=columns).set_index(["scenario", "objective"])


def findings(findings: Sequence[Finding]) -> pd.DataFrame:
    """Return one row a finding: what the figures say, the figures, and what to do."""
    rows = [
        {
            "finding": f.finding,
            "evidence": ", ".join(f"{k} = {v if isinstance(v, str) else number(v)}" for k, v in f.evidence.items()),
            "next step": f.action,
        }
        for f in findings
    ]
    return pd.DataFrame(rows or [{"finding": "no rule found anything", "evidence": "", "next step": ""}])


def number(value: float | None) -> str:
    """Write a number with three significant digits, or more before the point; nothing for one that is not known."""
    if value is None or math.isnan(value):
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
