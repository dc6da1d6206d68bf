"""The load validation: how much traffic a target carries, and what breaks first."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import Field

from tapecheck import config, resources, validation
from tapecheck.errors import ConfigError, Problem
from tapecheck.load import analysis, findings, samples
from tapecheck.load import plan as plans
from tapecheck.load.analysis import ScenarioSummary
from tapecheck.load.capacity import CapacityResult, conclude, levels
from tapecheck.load.capacity import judge as judge_sweep
from tapecheck.load.findings import FailureGroup
from tapecheck.load.imports import registry
from tapecheck.load.plan import METRICS, LoadPlan
from tapecheck.load.recording import SCHEDULE, Context, Recording, Tool
from tapecheck.recording import Table
from tapecheck.runs import folders
from tapecheck.runs.results import Finding, Result
from tapecheck.target.file import Target
from tapecheck.target.loopback import host_of, is_loopback
from tapecheck.validation import Analysis, Types
from tapecheck.verdict import Check, Verdict, counted, number, parse_all, sentence

BESIDE = (
    "few_errors",
    "generator_late",
    "neighbours",
    "machine_full",
)  # findings that every reader of the verdict has to know, the first of each
HUNG = ("timeout", "connect_timeout", "no_connection")  # kinds of failure that are times of at least timeout_s
FAILURES_AT_ONCE = 10_000  # as Python objects: a target that refuses everything can fail millions


class Settings(validation.Settings):
    """The load notebook's parameters."""

    scenarios: str = Field(default="all", min_length=1)
    rounds: int = Field(default=0, ge=0, le=1000)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult(Result):
    """result.json of a load run; `tool` is the other tool that measured, if one did."""

    scenarios: dict[str, ScenarioSummary]
    capacity: CapacityResult | None = None
    tool: Tool | None = None
    failures: list[FailureGroup] = dataclasses.field(default_factory=list)

    def explains(self, finding: Finding, check: Check) -> bool:
        """Tell whether a finding may be the cause of a miss: of failed requests failures are, and of a time neither they nor lag."""
        is_failure, metric = finding.name in ("target_errors", "few_errors"), check.objective.split()[0].rpartition(".")[2]
        return is_failure if metric in ("success_ratio", "failed") else not is_failure and finding.name != "generator_late"

    def advice(self, check: Check) -> str:
        """Say what to do; of times that timeouts keep from being proven, no number of samples is advised before these are explained."""
        scenario, metric = self.scenarios.get(check.name), check.objective.split()[0]
        if (
            check.verdict == Verdict.NOT_PROVEN
            and metric.endswith("_ms")
            and scenario
            and (late := sum(scenario.errors.get(kind, 0) for kind in HUNG))
        ):
            return f"find out first what {counted(late, 'requests')} waited for ({findings.LOOK}); more samples help only after that"
        return Result.advice(self, check)

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
        return found + ([self.capacity.in_words] if self.capacity else [])


class LoadSummary(dict[str, ScenarioSummary]):
    """The summary of each scenario by its name, what a capacity sweep, whose levels are none of them, proves, and what failed."""

    capacity: CapacityResult | None = None
    failures: Sequence[FailureGroup] = ()


def read_plan(path: str | Path, *, scenarios: str = "all", rounds: int = 0) -> LoadPlan:
    """Read a load plan, keep the named scenarios (comma-separated), and set the rounds of its bursts (0: as planned)."""
    plan = config.read(LoadPlan, path)
    parse_all(plan.objectives, METRICS, plan.scenarios, file=str(path))
    chosen = [name.strip() for name in scenarios.split(",")] if scenarios != "all" else list(plan.scenarios)
    if unknown := [name for name in chosen if name not in plan.scenarios]:
        allowed = "all, or some of " + ", ".join(plan.scenarios)
        raise ConfigError([Problem(file="parameters", key="scenarios", got=", ".join(unknown), allowed=allowed)])
    kept = {name: plan.scenarios[name] for name in plan.scenarios if name in chosen}
    if rounds:
        kept = {name: s.model_copy(update={"rounds": rounds}) if s.executor == "burst" else s for name, s in kept.items()}
    applicable = [text for text in plan.objectives if (scope := text.partition(".")[0].strip()) in chosen or scope not in plan.scenarios]
    return plan.model_copy(update={"scenarios": kept, "objectives": applicable, **({"extensions": 0} if rounds else {})})


class Load(validation.Validation[LoadPlan, Recording, LoadSummary, Settings]):
    """How much traffic a target carries before it misses its objectives, and what breaks first."""

    name = "load"
    keys = frozenset({"scenarios", "objectives"})
    choices = ("scenarios", "rounds")
    limiting = findings.LIMITING
    tables: ClassVar = {
        "samples": Table(samples.SCHEMA, may_lack=("retried",), may_be_null=("server_ms", "db_ms")),
        "resources": Table(resources.SCHEMA),
    }
    types = Types(context=Context, recording=Recording, settings=Settings, result=LoadResult)

    read_plan = staticmethod(read_plan)

    def measure(self, plan: LoadPlan, target: Target, *, out: str = "") -> Recording:
        """Send every scenario; see `session.run`."""
        from tapecheck.load import session  # the engine: paid by who measures

        return session.run(plan, target, lambda so_far: folders.keep(so_far.context.run_id, so_far.stored(), self.name, out=out))

    def check_run(self, path: str | Path) -> None:
        """Make sure that there is a recorded run, or a file of another tool."""
        file = registry.named(path)
        super().check_run(path) if file is None else registry.format_of(file, source=str(path))

    def read(self, path: str | Path) -> Recording:
        """Read a recorded run's folder, or a file of another tool."""
        file = registry.named(path)
        return super().read(path) if file is None else registry.read(file, source=str(path))

    def recording(self, plan: LoadPlan, settings: Settings) -> Recording:
        """Measure now, or read a recorded run, of which only the scenarios remain that the settings name."""
        recording = super().recording(plan, settings)
        return recording if settings.run == "new" or settings.scenarios == "all" else recording.part(plan.scenarios, settings.run)

    def check(self, recording: Recording) -> None:
        """Make sure that the figures of the generator are there for each scenario."""
        if unknown := sorted(recording.context.executors.keys() - recording.context.generator.keys()):
            raise ValueError(f"no figures of the generator for {', '.join(unknown)}")

    def summarize(self, recording: Recording, plan: LoadPlan) -> LoadSummary:
        """Summarize the scenarios of a recording, without the levels of a sweep; the plan says when the generator was the bottleneck."""
        everything, rates = analysis.summarize(recording, plan.generator), recording.context.rates_rps
        found = LoadSummary((name, one) for name, one in everything.items() if name not in rates)
        found.capacity = conclude(levels(recording, plan, plan.parsed)) if rates else None
        found.failures = findings.failures(recording, everything, plan)
        return found

    def judge(self, summary: LoadSummary, plan: LoadPlan) -> list[Check]:
        """Judge every objective of the plan in every scenario that was run, and in a capacity sweep where nothing else was.

        Beside other scenarios, an objective for all of them decides how far the sweep goes; what it found is no miss of theirs.
        """
        checks = analysis.check(summary, plan.parsed)
        swept_by = {*plan.sweeps} if summary else {*plan.sweeps, None}
        for one in plan.parsed:
            swept = judge_sweep(summary.capacity, one) if summary.capacity and one.scope in swept_by else None
            if swept:
                checks.append(swept)
            elif not any(check.objective == str(one) for check in checks):
                checks.append(analysis.not_measured(one))
        return checks

    def rules(self, recording: Recording, summary: LoadSummary, plan: LoadPlan) -> list[Finding]:
        """Return what the figures say of the target, and what another tool leaves open."""
        context = recording.context
        on_loopback = context.tool is None and is_loopback(host_of(context.target.base_url or ""))
        return findings.find(summary, context.environment.cores, context.tool, on_loopback=on_loopback)

    def problems(self, plan: LoadPlan, file: str) -> list[Problem]:
        """Return each objective for which a scenario sends too few requests."""
        return plans.problems(plan, file)

    def say(self, recording: Recording, summary: LoadSummary, found: Sequence[Finding]) -> str:
        """Return what the target carries and what limits it."""
        limit, tool = self.bottleneck(found), recording.context.tool
        omits = ": coordinated omission cannot be excluded" if tool and SCHEDULE in tool.notes else ""
        open_ended = [f"Measured by {tool.name}{omits}."] if tool else []
        beside = {one.name: sentence(one.finding) for one in reversed(found) if one.name in BESIDE and one != limit}
        carries = [f"Capacity: {summary.capacity.knee_note}."] if summary.capacity else []
        return " ".join([*open_ended, *([f"Bottleneck: {limit.finding}."] if limit else []), *beside.values(), *carries])

    def part(self, found: Analysis[LoadPlan, Recording, LoadSummary]) -> dict[str, Any]:
        """Return the scenarios, the capacity, the tool and what failed."""
        summary, tool = found.summary, found.recording.context.tool
        return {"scenarios": dict(summary), "capacity": summary.capacity, "tool": tool, "failures": list(summary.failures)}

    def scope(self, settings: Settings, found: Analysis[LoadPlan, Recording, LoadSummary] | None = None) -> str:
        """Say which part of the plan it is; an interrupted run has the scenarios that were whole."""
        if (chosen := super().scope(settings)) or found is None or found.recording.context.tool:
            return chosen
        done, planned = {name.partition(" at ")[0] for name in found.recording.context.executors}, found.plan.scenarios
        return "" if done >= set(planned) else f"{len(done & set(planned))} of {len(planned)} scenarios"

    def spans_ns(self, recording: Recording) -> Iterable[tuple[int, int]]:
        """Return when each scenario was sent."""
        return samples.spans_ns(recording.samples)

    def failures(self, recording: Recording) -> Iterator[dict[str, Any]]:
        """Yield one plain record a failed request, in the order of their intended starts."""
        failed = pa.array(samples.Rows(recording.samples).failed())
        for batch in recording.samples.filter(failed).sort_by("intended_ns").to_batches(max_chunksize=FAILURES_AT_ONCE):
            for row in batch.to_pylist():
                yield {name: value for name, value in row.items() if value is not None and value == value}

    def files(self, found: Analysis[LoadPlan, Recording, LoadSummary]) -> Mapping[str, Any]:
        """Return the tables of the notebook as CSV, with numbers as numbers."""
        from tapecheck.load import frames  # with the validation, whose tables it has

        return frames.exported(found.summary, found.summary.failures)


load = Load()
