"""Sends a plan's scenarios to a target, one after another, a capacity sweep level by level, and returns the samples."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

import pyarrow as pa

from tapecheck import progress, resources
from tapecheck.errors import ConfigError, Problem
from tapecheck.load import analysis, capacity, metrics, preflight
from tapecheck.load.engine.recorder import Measurement, joined
from tapecheck.load.engine.work import MAX_REQUESTS, Address, PreparedRequest, refused_connections
from tapecheck.load.generator import Generator
from tapecheck.load.plan import METRICS, Capacity, LoadPlan, Paced
from tapecheck.load.recording import Context, GeneratorStats, Recording
from tapecheck.load.requests import prepare_all
from tapecheck.load.samples import table_of
from tapecheck.resources import Watch
from tapecheck.runs import folders, results
from tapecheck.runs.results import TargetInfo
from tapecheck.statistics import intervals
from tapecheck.target import opening
from tapecheck.target.file import Target
from tapecheck.verdict import Objective, Verdict, parse_all
from tapecheck.workers.dask import require_dask

KEPT_ROWS = 1_000_000  # that are written between two scenarios; more take too long
LEVEL_ATTEMPTS = 2  # at a level of a sweep in which the generator was the bottleneck: a busy moment should not end the search


def run(plan: LoadPlan, target: Target, keep: Callable[[Recording], None] = lambda recording: None) -> Recording:
    """Check that the target is what the configuration says, then send every scenario and return the samples.

    Args:
        keep: gets what was measured so far after each scenario but the last, so that an interrupt loses no whole one.

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
        sender = _Sender(plan=plan, prepared=prepared, address=address, generator=generator, context=context)
        sent: list[Sent] = []
        for left, name in zip(reversed(range(len(plan.scenarios))), plan.scenarios, strict=True):
            sent += sender.send(name)
            if left and sum(len(one.measured.samples) for one in sent) <= KEPT_ROWS:
                keep(Recording(tables={"samples": _table(sent), "resources": watch.table()}, context=_complete(context, sent)))
    return Recording(tables={"samples": _table(sent), "resources": watch.table()}, context=_complete(context, sent))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What one scenario, or one level of a capacity sweep, was and gave."""

    name: str
    executor: str
    requests: tuple[PreparedRequest, ...]
    measured: Measurement
    rate_rps: float | None = None
    sandbox_stopped: bool = dataclasses.field(default_factory=opening.sandbox_stopped)  # by its end


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Sender:
    """Sends one scenario after another, each as far as what it has given so far asks for."""

    plan: LoadPlan
    prepared: Mapping[str, tuple[PreparedRequest, ...]]
    address: Address
    generator: Generator
    context: Context

    def send(self, name: str) -> Iterator[Sent]:
        """Send a scenario; of a capacity sweep, one level after another, each chosen by how the ones before held."""
        scenario, objectives = self.plan.scenarios[name], parse_all(self.plan.objectives, METRICS, self.plan.scenarios, file="plan")
        if not isinstance(scenario, Capacity):
            yield self._extended(name, scenario, objectives)
            return
        tried: dict[float, bool] = {}
        while (rate_rps := capacity.next_rate(scenario, tried)) is not None:
            for attempt in range(1, LEVEL_ATTEMPTS + 1):
                label = f"{name} at {rate_rps:.6g}/s" + (f", again ({attempt})" if attempt > 1 else "")
                measured = self._measure(label, scenario.level(rate_rps), self.prepared[name])
                sent = Sent(name=label, executor=scenario.executor, requests=self.prepared[name], measured=measured, rate_rps=rate_rps)
                yield sent
                verdict = capacity.levels(self._alone(sent), self.plan, objectives)[0].verdict
                if verdict != Verdict.INVALID:
                    break
            tried[rate_rps] = verdict not in (Verdict.FAIL, Verdict.INVALID)

    def _extended(self, name: str, scenario: Paced, objectives: Sequence[Objective]) -> Sent:
        """Send a scenario, and on as often as the plan allows while its samples cannot bound a percentile that an objective is about."""
        parts: list[Measurement] = []
        while True:
            label = name + (f", extended ({len(parts)})" if parts else "")
            parts.append(self._measure(label, scenario, self.prepared[name]))
            sent = Sent(name=name, executor=scenario.executor, requests=self.prepared[name], measured=joined(parts))
            rows = len(sent.measured.samples)
            if len(parts) > self.plan.extensions or rows * (len(parts) + 1) > MAX_REQUESTS * len(parts):
                return sent
            summary = analysis.summarize(self._alone(sent), self.plan.generator)[name]
            if summary.invalid or metrics.bounded(summary, objectives, name):
                return sent

    def _measure(self, label: str, scenario: Paced, requests: tuple[PreparedRequest, ...]) -> Measurement:
        work = scenario.work(self.address, requests)
        with progress.show(f"load: {label}", work.progress_unit) as report:
            return self.generator.measure(work, on_progress=report)

    def _alone(self, sent: Sent) -> Recording:
        tables = {"samples": _table([sent]), "resources": resources.SCHEMA.empty_table()}
        return Recording(tables=tables, context=_complete(self.context, [sent]))


def _table(sent: Sequence[Sent]) -> pa.Table:
    values = {one.name: [request.values for request in one.requests] for one in sent}
    return table_of({one.name: one.measured.samples for one in sent}, values)


def _complete(context: Context, sent: Sequence[Sent]) -> Context:
    is_ours = context.target.kind == "sandbox"
    return dataclasses.replace(
        context,
        executors={one.name: one.executor for one in sent},
        generator={one.name: _generator(one.measured, target_stopped=is_ours and one.sandbox_stopped) for one in sent},
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
        if (why := refused_connections(scenario.connections, plan.workers)) is not None
    ]
    if problems:
        raise ConfigError(problems)


def _generator(measured: Measurement, *, target_stopped: bool = False) -> GeneratorStats:
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
        target_stopped=target_stopped,
    )
