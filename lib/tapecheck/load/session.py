"""Sends a plan's scenarios to a target, one after another, a capacity sweep level by level, and returns the samples."""

import dataclasses
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import pyarrow as pa

from tapecheck import progress, resources
from tapecheck.errors import ConfigError, Problem
from tapecheck.load import analysis, capacity, preflight
from tapecheck.load import requests as descriptors
from tapecheck.load.engine.recorder import Measured, joined
from tapecheck.load.engine.work import MAX_REQUESTS, Address, PreparedRequest
from tapecheck.load.plan import METRICS, Capacity, LoadPlan, Paced
from tapecheck.load.recording import Context, GeneratorStats, Limits, Recording
from tapecheck.load.requests import prepare_all
from tapecheck.load.samples import to_table
from tapecheck.load.workers import Generator
from tapecheck.resources import Watch
from tapecheck.runs import folders, results
from tapecheck.runs.results import TargetInfo
from tapecheck.statistics import intervals
from tapecheck.target import opening
from tapecheck.target.file import Target
from tapecheck.verdict import Verdict, parse_all
from tapecheck.workers.dask import require_dask

LEVEL_ATTEMPTS = 2  # at a level of a sweep in which the generator was the bottleneck: a busy moment should not end the search


def run(plan: LoadPlan, target: Target) -> Recording:
    """Check that the target is what the configuration says, then send every scenario and return the samples.

    Raises:
        ConfigError: a scenario's request cannot be built, or the target lies beyond this machine without permission.
        TargetError: the target does not answer, or not as configured; no load was sent.
    """
    assert target.base_url is not None, "an opened target has a URL"
    prepared = prepare_all(plan, target)
    _check_generator(plan)
    address = preflight.check(target, prepared)
    started_at = datetime.now(UTC)
    context = Context(
        run_id=folders.new_id(started_at),
        started_at=started_at,
        target=TargetInfo(name=target.name, kind=target.kind, base_url=target.base_url),
        environment=results.environment(),
        executors={},
        generator={},
    )
    with Generator(plan.workers) as generator, Watch(target.processes) as watch:
        sent = [one for name in plan.scenarios for one in _send(plan, name, prepared[name], address, generator, context)]
    return Recording(samples=_table(sent), resources=watch.table(), context=_complete(context, sent))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What one scenario, or one level of a capacity sweep, was and gave."""

    name: str
    executor: str
    requests: tuple[PreparedRequest, ...]
    measured: Measured
    rate_rps: float | None = None
    sandbox_stopped: bool = dataclasses.field(default_factory=opening.sandbox_stopped)  # by its end


def _send(
    plan: LoadPlan, name: str, requests: tuple[PreparedRequest, ...], address: Address, generator: Generator, context: Context
) -> Iterator[Sent]:
    """Send one scenario; of a capacity sweep, one level after another, each chosen by how the ones before held."""
    scenario = plan.scenarios[name]
    if not isinstance(scenario, Capacity):
        yield _extended(plan, name, scenario, requests, address, generator, context)
        return
    objectives = parse_all(plan.objectives, METRICS, plan.scenarios, file="plan")
    tried: dict[float, bool] = {}
    while (rate_rps := capacity.next_rate(scenario, tried)) is not None:
        for attempt in range(1, LEVEL_ATTEMPTS + 1):
            level, label = scenario.level(rate_rps), f"{name} at {rate_rps:.6g}/s" + (f", again ({attempt})" if attempt > 1 else "")
            with progress.show(f"load: {label}", level.progress_unit) as report:
                measured = generator.measure(level.work(address, requests), on_progress=report)
            sent = Sent(name=label, executor=scenario.executor, requests=requests, measured=measured, rate_rps=rate_rps)
            yield sent
            verdict = capacity.levels(_alone(sent, context), plan, objectives)[0].verdict
            if verdict != Verdict.INVALID:
                break
        tried[rate_rps] = verdict not in (Verdict.FAIL, Verdict.INVALID)


def _extended(
    plan: LoadPlan,
    name: str,
    scenario: Paced,
    requests: tuple[PreparedRequest, ...],
    address: Address,
    generator: Generator,
    context: Context,
) -> Sent:
    """Send one scenario, and on as often as the plan allows while its samples cannot bound a percentile that an objective is about."""
    objectives = parse_all(plan.objectives, METRICS, plan.scenarios, file="plan")
    parts: list[Measured] = []
    while True:
        label = f"load: {name}" + (f", extended ({len(parts)})" if parts else "")
        with progress.show(label, scenario.progress_unit) as report:
            parts.append(generator.measure(scenario.work(address, requests), on_progress=report))
        sent = Sent(name=name, executor=scenario.executor, requests=requests, measured=joined(parts))
        rows = len(sent.measured.samples)
        if len(parts) > plan.extensions or rows * (len(parts) + 1) > MAX_REQUESTS * len(parts):
            return sent
        summary = analysis.summarize(_alone(sent, context), Limits(**plan.generator.model_dump()))[name]
        if summary.invalid or analysis.bounded(summary, objectives, name):
            return sent


def _alone(sent: Sent, context: Context) -> Recording:
    return Recording(samples=_table([sent]), resources=resources.SCHEMA.empty_table(), context=_complete(context, [sent]))


def _table(sent: Sequence[Sent]) -> pa.Table:
    return to_table({one.name: one.measured for one in sent}, {one.name: one.requests for one in sent})


def _complete(context: Context, sent: Sequence[Sent]) -> Context:
    is_ours = context.target.kind == "sandbox"
    return dataclasses.replace(
        context,
        executors={one.name: one.executor for one in sent},
        generator={one.name: dataclasses.replace(_generator(one.measured), target_stopped=is_ours and one.sandbox_stopped) for one in sent},
        rates_rps={one.name: one.rate_rps for one in sent if one.rate_rps is not None},
    )


def _check_generator(plan: LoadPlan) -> None:
    """Refuse what this machine cannot do; workers of a cluster see to their limits themselves."""
    if not isinstance(plan.workers, int):
        require_dask()
        return
    problems = [
        Problem(file="plan", key=f"scenarios.{name}.max_connections", got=f"{scenario.connections}", allowed=why)
        for name, scenario in plan.scenarios.items()
        if (why := descriptors.refused(scenario.connections, plan.workers)) is not None
    ]
    if problems:
        raise ConfigError(problems)


def _generator(measured: Measured) -> GeneratorStats:
    lag_ms, dispatch_lag_ms = intervals.distribution(measured.lag_ms), intervals.distribution(measured.dispatch_lag_ms)
    return GeneratorStats(
        lag_p99_ms=lag_ms.p99.value if lag_ms else None,
        cpu_ratio=measured.cpu_ratio,
        achieved_ratio=measured.achieved_ratio,
        content_checked=measured.checked,
        dispatch_lag_p99_ms=dispatch_lag_ms.p99.value if dispatch_lag_ms else None,
        workers=measured.workers,
        workers_lost=measured.lost,
        clock_error_ms=measured.clock_error_ms,
        unsolicited=measured.unsolicited,
        retried=measured.retried,
        stopped_early=measured.limit_reached,
    )
