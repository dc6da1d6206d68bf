"""What an observed backfill must meet, and how closely it is watched."""

import shlex
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from tapecheck import config
from tapecheck.config import Model
from tapecheck.errors import ConfigError, Problem
from tapecheck.target.file import Argument, ObservedBackfill, Target
from tapecheck.verdict import Objective, each_once, parse

METRICS = {  # of an objective, with what each is
    "duration_s": "wall time, s",
    "records_per_s": "rows inserted a second, in the tables that the target names",
    "records": "rows inserted",
    "requests": "requests to the vendor",
    "failed_requests": "requests without a whole answer, or with a status of 400 or more",
    "refusals": "answers with status 429",
    "vendor_p50_ms": "response time of the vendor, median, ms",
    "vendor_p95_ms": "response time of the vendor, 95th percentile, ms",
    "floor_ratio": "wall time over the least that the rate limit allows",
}


def _objective(text: str) -> str:
    parse(text, METRICS)
    return text


class ObservePlan(Model):
    """How closely a backfill is watched, what its vendor allows, and its objectives.

    Args:
        every_ms: between two looks at the sessions of its database.
        limit_s: it is ended when it takes longer.
        command: what is started in place of the target's own command, such as a repaired build beside the old one.
        reset: a command that is run to its end before, and not measured: it puts things back as they were.
        requests_per_minute, burst: what the vendor allows, for the least time that its requests take; None is no limit.
    """

    every_ms: float = Field(default=10, ge=1, le=1000)
    limit_s: float = Field(default=3600, gt=0, le=86_400)
    requests_per_minute: float | None = Field(default=None, ge=0.01, le=1e6)
    burst: int = Field(default=10, ge=1, le=10_000)
    command: tuple[Argument, ...] = ()
    reset: tuple[Argument, ...] = ()
    objectives: Annotated[tuple[Annotated[str, AfterValidator(_objective)], ...], AfterValidator(each_once)] = ()

    @property
    def parsed(self) -> tuple[Objective, ...]:
        """Return its objectives, parsed."""
        return tuple(parse(text, METRICS) for text in self.objectives)

    @property
    def commands(self) -> list[tuple[str, ...]]:
        """The commands of the plan itself, for which a target's leave is needed."""
        return [command for command in (self.reset, self.command) if command]


def read_plan(path: str | Path, *, limit_s: float = 0) -> ObservePlan:
    """Read a plan; `limit_s` takes the place of its own, unless it is 0.

    Raises:
        ConfigError: the file or the limit is wrong.
    """
    plan = config.read(ObservePlan, path)
    if not limit_s:
        return plan
    changed: dict[str, Any] = {**plan.model_dump(), "limit_s": limit_s}
    return config.validate(ObservePlan, changed, file="parameters")


def observed(target: Target, plan: ObservePlan | None) -> ObservedBackfill:
    """Return what a target says of its own backfill.

    Raises:
        ConfigError: it says nothing, names a request that it does not have, or does not allow the commands of a plan.
    """
    place = f"target {target.name}"
    if plan and (words := (*plan.reset, *plan.command)) and not target.allow_drills:
        allowed = "allow_drills: true, if you have read the plan's commands and trust them"
        raise ConfigError([Problem(file=place, key="allow_drills", got=f"false, while the plan runs {shlex.join(words)}", allowed=allowed)])
    if target.backfill is None or target.backfill.observe is None:
        allowed = "backfill: {source_url: …, observe: {start: {command: […]}, vendor_url_env: NAME}}; see docs/observe.md"
        raise ConfigError([Problem(file=place, key="backfill.observe", got="nothing", allowed=allowed)])
    found = target.backfill.observe
    names = {"start.request": found.start.request, "done.request": found.done.request if found.done else None}
    problems = [
        Problem(file=place, key=f"backfill.observe.{key}", got=name, allowed=f"one of its requests: {', '.join(target.requests)}")
        for key, name in names.items()
        if name is not None and name not in target.requests
    ]
    if problems:
        raise ConfigError(problems)
    return found
