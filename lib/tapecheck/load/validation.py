"""The load validation as the notebook tells it: settings, plan, run or read, summarize, judge, record."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import Field

from tapecheck import config, validation
from tapecheck.errors import ConfigError, Problem
from tapecheck.load import analysis, findings, recording, samples, session
from tapecheck.load.analysis import ScenarioSummary
from tapecheck.load.capacity import CapacityResult, conclude, levels
from tapecheck.load.capacity import judge as judge_sweep
from tapecheck.load.imports import registry
from tapecheck.load.plan import METRICS, LoadPlan
from tapecheck.load.recording import Limits, Recording, Tool
from tapecheck.runs import folders
from tapecheck.runs.folders import Picture, Recorded
from tapecheck.runs.results import Finding, Result
from tapecheck.target.file import Target
from tapecheck.validation import number
from tapecheck.verdict import Check, Objective, parse_all

BESIDE = ("generator_late", "neighbours", "machine_full")  # findings that every reader of the verdict has to know, the first of each
FAILURES_AT_ONCE = 10_000  # as Python objects: a target that refuses everything can fail millions

__all__ = ["LoadResult", "Settings", "find_capacity", "judge", "objectives", "read", "read_plan", "record", "run", "settings", "summarize"]


class Settings(validation.Settings):
    """The load notebook's parameters."""

    scenarios: str = Field(min_length=1)
    rounds: int = Field(ge=0, le=1000)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult(Result):
    """result.json of a load run; `tool` is the other tool that measured, if one did."""

    scenarios: dict[str, ScenarioSummary]
    capacity: CapacityResult | None = None
    tool: Tool | None = None

    def main_figures(self) -> list[str]:
        """Return the percentiles and the rate of the slowest scenario, and the capacity."""
        timed = {name: one.response_time_ms for name, one in self.scenarios.items() if one.response_time_ms and not one.invalid}
        found = []
        if timed:
            name = max(timed, key=lambda name: timed[name].p95.value)
            p50, p95, p99 = (number(getattr(timed[name], p).value) for p in ("p50", "p95", "p99"))
            rate = f" at {number(self.scenarios[name].throughput_rps)}/s" if self.scenarios[name].throughput_rps else ""
            late = analysis.mark(self.scenarios[name].generator_share, "p50_ms", "p95_ms", "p99_ms")
            found.append(f"p50 {p50}, p95 {p95}, p99 {p99} ms{rate} ({name}, the slowest{late})")
        return found + ([self.capacity.said] if self.capacity else [])


def settings(**given: object) -> Settings:
    """Check the notebook's parameters, and that the output folder can be written.

    Raises:
        ConfigError: every wrong parameter at once.
        OutputError: the output folder cannot be written.
    """
    return validation.checked(Settings, given)


def read_plan(path: str | Path, *, scenarios: str = "all", rounds: int = 0) -> LoadPlan:
    """Read a load plan, keep the named scenarios (comma-separated), and set the rounds of its bursts (0: as planned).

    Raises:
        ConfigError: the file, an objective or a scenario's name is wrong.
    """
    plan = config.read(LoadPlan, path)
    parse_all(plan.objectives, METRICS, plan.scenarios, file=str(path))
    chosen = [name.strip() for name in scenarios.split(",")] if scenarios != "all" else list(plan.scenarios)
    unknown = [name for name in chosen if name not in plan.scenarios]
    if unknown:
        raise ConfigError(
            [Problem(file="parameters", key="scenarios", got=", ".join(unknown), allowed="all, or some of " + ", ".join(plan.scenarios))]
        )
    kept = {name: plan.scenarios[name] for name in plan.scenarios if name in chosen}
    if rounds:
        kept = {name: s.model_copy(update={"rounds": rounds}) if s.executor == "burst" else s for name, s in kept.items()}
    applicable = [text for text in plan.objectives if (scope := text.partition(".")[0].strip()) in chosen or scope not in plan.scenarios]
    return plan.model_copy(update={"scenarios": kept, "objectives": applicable, **({"extensions": 0} if rounds else {})})


def run(plan: LoadPlan, target: Target, *, out: str = "") -> Recording:
    """Send every scenario to a target and keep the samples below `out`; see `sending.run`, which says what it raises."""
    return validation.measured("load", target.name, lambda: session.run(plan, target), out=out)


def read(path: str | Path) -> Recording:
    """Read a recorded run's folder, or a file of another tool.

    Raises:
        ConfigError: it is neither.
    """
    file = registry.named(path)
    return recording.read(path) if file is None else registry.read(file, source=str(path))


def objectives(plan: LoadPlan) -> tuple[Objective, ...]:
    """Return a plan's objectives, parsed."""
    return parse_all(plan.objectives, METRICS, plan.scenarios, file="plan")


def summarize(recording: Recording, plan: LoadPlan) -> dict[str, ScenarioSummary]:
    """Summarize the scenarios of a recording, without the levels of a sweep; the plan says when the generator was the bottleneck."""
    everything = analysis.summarize(recording, Limits(**plan.generator.model_dump()))
    return {name: one for name, one in everything.items() if name not in recording.context.rates_rps}


def find_capacity(recording: Recording, plan: LoadPlan) -> CapacityResult | None:
    """Say what a recording's capacity sweep proves; None when it has none."""
    return conclude(levels(recording, plan, objectives(plan))) if recording.context.rates_rps else None


def judge(summary: Mapping[str, ScenarioSummary], plan: LoadPlan, capacity: CapacityResult | None = None) -> list[Check]:
    """Judge every objective of the plan in every scenario that was run, and in a capacity sweep where nothing else was.

    Beside other scenarios, an objective for all of them decides how far the sweep goes; what it found is no miss of theirs.
    """
    parsed = objectives(plan)
    checks = analysis.check(summary, parsed)
    for one in parsed:
        swept = (
            judge_sweep(capacity, one) if capacity and one.scope in ({plan.sweep_name} if summary else {plan.sweep_name, None}) else None
        )
        if swept:
            checks.append(swept)
        elif not any(check.objective == str(one) for check in checks):
            checks.append(analysis.not_measured(one))
    return checks


def find(recording: Recording, summary: Mapping[str, ScenarioSummary]) -> list[Finding]:
    """Return what the figures say of the target, each with its evidence, and what another tool leaves open."""
    tool = recording.context.tool
    found = findings.find(summary, recording.context.environment.cores) + ([findings.measured_elsewhere(tool)] if tool else [])
    return found + validation.neighbours(recording.context)


def headline(recording: Recording, checks: list[Check], found: list[Finding], capacity: CapacityResult | None) -> str:
    """Return the verdict in one line of Markdown, with what the target carries and what limits it."""
    return validation.headline(recording.context, checks, _said(recording, found, capacity))


def _said(recording: Recording, found: list[Finding], capacity: CapacityResult | None) -> str:
    limit, tool = findings.bottleneck(found), recording.context.measured_by
    open_ended = [f"Measured by {tool}: coordinated omission cannot be excluded."] if tool else []
    beside = {one.name: f"{one.finding[0].upper()}{one.finding[1:]}." for one in reversed(found) if one.name in BESIDE and one != limit}
    carries = [f"Capacity: {capacity.knee_note}."] if capacity else []
    return " ".join([*open_ended, *([f"Bottleneck: {limit.finding}."] if limit else []), *beside.values(), *carries])


def record(
    recording: Recording,
    summary: Mapping[str, ScenarioSummary],
    checks: list[Check],
    *,
    settings: Settings,
    figures: Mapping[str, Picture],
    capacity: CapacityResult | None = None,
) -> Recorded:
    """Write the run folder and return where it is; see `runs.record`."""
    found = find(recording, summary)
    result = LoadResult(
        **validation.head(recording.context, recording.source, settings, checks, found, _said(recording, found, capacity)),
        validation="load",
        bottleneck=findings.bottleneck(found),
        scenarios=dict(summary),
        capacity=capacity,
        tool=recording.context.tool,
        measured_s=recording.context.measured_s(samples.spans_ns(recording.samples)),
    )
    return folders.record(result, out=settings.out, tables=recording.tables(), figures=figures, lines={"failures": failures(recording)})


def failures(recording: Recording) -> Iterator[dict[str, Any]]:
    """Yield one plain record a failed request, in the order of their intended starts."""
    failed = pa.array(samples.Rows(recording.samples).failed())
    for batch in recording.samples.filter(failed).sort_by("intended_ns").to_batches(max_chunksize=FAILURES_AT_ONCE):
        for row in batch.to_pylist():
            yield {name: value for name, value in row.items() if value is not None and value == value}
