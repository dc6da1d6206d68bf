"""What the validations' facades share: the parameters that every notebook has, and how every result begins. It measures nothing."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypedDict, TypeVar

from pydantic import ConfigDict, Field

from tapecheck import config, runs, screen, verdict
from tapecheck.config import Model
from tapecheck.errors import ConfigError, Problem
from tapecheck.results import Environment, Finding, TargetInfo
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
    screen.clear()
    allowed = "one of " + ", ".join(kind.model_fields)
    unknown = [
        Problem(file="parameters", key=name, got="an unknown parameter", allowed=allowed)
        for name in screen.given()
        if name not in kind.model_fields
    ]
    try:
        settings = config.validate(kind, given, file="parameters")
    except ConfigError as error:
        raise ConfigError([*unknown, *error.problems]) from None
    if unknown:
        raise ConfigError(unknown)
    runs.check_writable(settings.out)
    return settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Which run a recording is of: when (UTC), against what, and from where; each validation adds what its samples do not say."""

    run_id: str
    started_at: datetime
    target: TargetInfo
    environment: Environment

    @property
    def measured_by(self) -> str:
        """Return the name of the other tool that measured; empty when it was this workbook."""
        return ""


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


def head(context: Context, source: str | None, settings: Settings, checks: list[Check], found: Sequence[Finding]) -> Head:
    """Return how a result begins; `source` is the recorded run that was analysed again, which makes it a run of its own."""
    source = None if source is None or runs.is_unfinished(source) else source
    return Head(
        run_id=context.run_id if source is None else runs.new_id(),
        verdict=overall(c.verdict for c in checks),
        started_at=context.started_at,
        target=context.target,
        environment=context.environment,
        parameters=settings.model_dump(),
        checks=checks,
        recommendations=list(found),
        reanalysis_of=source,
        plan_digest=digest(settings.plan),
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
    return verdict.headline(context.target.name, checks, f"{said} {run}".strip())


def digest(plan: str) -> str | None:
    """Return what is the same for two plans that say the same, whatever their comments and order; None for a file that is gone."""
    try:
        data, _ = config.read_yaml(config.find(plan))
    except ConfigError:
        return None
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()[:DIGEST_CHARACTERS]
