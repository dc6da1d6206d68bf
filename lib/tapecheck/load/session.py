"""Sends a plan's scenarios to a target, each split across a pool of workers, and returns the samples. It sends no request itself."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.reduction import DupFd

from tapecheck import progress, resources
from tapecheck.errors import ConfigError, MeasurementError, Problem
from tapecheck.load import analysis, capacity, requests
from tapecheck.load.engine import engine
from tapecheck.load.engine.recorder import Measurement, Samples, Tally, joined, map_rows, merged, place, scratch, written
from tapecheck.load.engine.work import MAX_REQUESTS, Address, PreparedRequest, Work, refused_connections
from tapecheck.load.plan import Capacity, LoadPlan, Paced
from tapecheck.load.recording import Context, GeneratorStats, Recording
from tapecheck.load.samples import table_of
from tapecheck.resources import Watch
from tapecheck.statistics import intervals
from tapecheck.target import opening
from tapecheck.target.file import Target
from tapecheck.target.loopback import is_loopback
from tapecheck.verdict import Verdict
from tapecheck.workers.dask import require_dask
from tapecheck.workers.pool import WorkerPool
from tapecheck.workers.worker import DONE, Death, Worker

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
    prepared = requests.prepare_all(plan, target)
    _check_generator(plan)
    address, context = requests.check(target, prepared), Context.of(target, executors={}, generator={})
    with Generator(plan.workers, allow_remote=target.allow_remote) as generator, Watch(target.processes) as watch:
        sender = _Sender(plan=plan, prepared=prepared, address=address, generator=generator, context=context)
        sent: list[Sent] = []
        for left, name in zip(reversed(range(len(plan.scenarios))), plan.scenarios, strict=True):
            sent += sender.send(name)
            if left and sum(len(one.measured.samples) for one in sent) <= KEPT_ROWS:
                keep(_recording(context, sent, watch))
    return _recording(context, sent, watch)


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
    generator: "Generator"
    context: Context

    def send(self, name: str) -> Iterator[Sent]:
        """Send a scenario, or of a sweep one level after another, as long as what they say leaves the knee in doubt."""
        scenario = self.plan.scenarios[name]
        if not isinstance(scenario, Capacity):
            yield self._extended(name, scenario)
            return
        tried: dict[float, bool] = {}
        while (rate_rps := capacity.next_rate(scenario, tried)) is not None:
            for attempt in range(1, LEVEL_ATTEMPTS + 1):
                label = f"{name} at {rate_rps:.6g}/s" + (f", again ({attempt})" if attempt > 1 else "")
                measured = self._measure(name, label, scenario.level(rate_rps))
                sent = Sent(name=label, executor=scenario.executor, requests=self.prepared[name], measured=measured, rate_rps=rate_rps)
                yield sent
                verdict = capacity.levels(_recording(self.context, [sent]), self.plan, self.plan.parsed)[0].verdict
                if verdict != Verdict.INVALID:
                    break
            tried[rate_rps] = verdict not in (Verdict.FAIL, Verdict.INVALID)

    def _extended(self, name: str, scenario: Paced) -> Sent:
        """Send a scenario, and on as often as the plan allows while its samples cannot bound a percentile that an objective is about."""
        parts: list[Measurement] = []
        while True:
            label = name + (f", extended ({len(parts)})" if parts else "")
            parts.append(self._measure(name, label, scenario))
            sent = Sent(name=name, executor=scenario.executor, requests=self.prepared[name], measured=joined(parts))
            rows = len(sent.measured.samples)
            if len(parts) > self.plan.extensions or rows * (len(parts) + 1) > MAX_REQUESTS * len(parts):
                return sent
            summary = analysis.summarize(_recording(self.context, [sent]), self.plan.generator)[name]
            if summary.invalid or analysis.bounded(summary, self.plan.parsed, name):
                return sent

    def _measure(self, name: str, label: str, scenario: Paced) -> Measurement:
        work, steps = scenario.work(self.address, self.prepared[name]), list(self.plan.scenarios)
        with progress.show(f"load {steps.index(name) + 1} of {len(steps)}: {label}", work.progress_unit) as report:
            return self.generator.measure(work, on_progress=report)


def _recording(context: Context, sent: Sequence[Sent], watch: Watch | None = None) -> Recording:
    """Put together what was sent so far."""
    is_ours = context.target.kind == "sandbox"
    complete = dataclasses.replace(
        context,
        executors={one.name: one.executor for one in sent},
        generator={one.name: _generator(one.measured, target_stopped=is_ours and one.sandbox_stopped) for one in sent},
        rates_rps={one.name: one.rate_rps for one in sent if one.rate_rps is not None},
    )
    values = {one.name: [request.values for request in one.requests] for one in sent}
    samples = table_of({one.name: one.measured.samples for one in sent}, values)
    return Recording(tables={"samples": samples, "resources": watch.table() if watch else resources.SCHEMA.empty_table()}, context=complete)


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


# ---- the worker pool ----

CONNECTION_LEAD_S = 0.0002  # added to the time until a common start, for each connection to open before it


class Generator(WorkerPool):
    """A load generator, started once for many measurements: processes of this machine, or the workers of a Dask cluster."""

    def __init__(self, workers: int | str = 1, *, allow_remote: bool = False) -> None:
        super().__init__(workers, engine.prepare, pinned=True, allow_remote=allow_remote)

    def measure(self, work: Work, on_progress: Callable[[int, int], object] = lambda done, total: None) -> Measurement:
        """Run one scenario, split across as many workers as it can occupy, and report (done, `work.progress_total`) meanwhile.

        A worker that dies is named in the result, which holds what it had recorded and the whole shares of the others.
        """
        workers, total = self.ready()[: work.parts], work.progress_total
        with scratch(work.likely_rows) as file:
            shares = self._shares(workers, work)
            ended = self.run(
                engine.measure_share,
                [(one, (share, DupFd(file.fileno()) if one.shares_files else None)) for one, share in zip(workers, shares, strict=True)],
                lambda running: on_progress(min(total, *(worker.control[DONE] for worker in running)), total),
            )
            on_progress(total, total)
            tallies, lost = [], []
            for worker, share, one in zip(workers, shares, ended, strict=True):
                if isinstance(one, Death):
                    rows = "" if worker.shares_files else f"; it had begun {one.count:,} requests, whose rows are lost with it"
                    lost.append(f"{worker.name} ({one.why}{rows})")
                else:
                    tallies.append(_take(worker, share, *one, file.fileno()))
            error_ms = max(worker.error_ns for worker in workers) / 1e6
            return merged(written(map_rows(file.fileno())), tallies, workers=len(workers), lost=tuple(lost), clock_error_ms=error_ms)

    def _shares(self, workers: Sequence[Worker], work: Work) -> list[Work]:
        """Split a scenario, with a common start if there are several workers, given to each on its own clock."""
        host = work.address.host
        for worker in workers:
            if not worker.is_here and is_loopback(host):
                raise MeasurementError(f"{worker.name} is on another machine, where {host} is not this target: name an address for all")
        lead_s = self.lead_s + CONNECTION_LEAD_S * work.concurrency
        start_ns = time.monotonic_ns() + int(lead_s * 1e9) if len(workers) > 1 else 0
        return [work.share(k, len(workers), start_ns + one.offset_ns if start_ns else 0) for k, one in enumerate(workers)]


def _take(worker: Worker, share: Work, outcome: Tally, rows: Samples | None, file: int) -> Tally:
    """Put the rows that a worker returned into the file, on this process's clock, and return the rest; 0, never, stays."""
    if rows is None:
        return outcome
    ahead_ns = worker.offset_ns
    if ahead_ns:
        rows = rows.copy()
        for name in ("intended_ns", "sent_ns", "first_byte_ns", "done_ns"):
            rows[name][rows[name] > 0] -= ahead_ns
    place(file, rows, worker=share.worker, workers=share.workers)
    return dataclasses.replace(outcome, started_ns=outcome.started_ns - ahead_ns, ended_ns=outcome.ended_ns - ahead_ns)
