"""Turns the samples of a load run, or what another tool reports of one, into a summary, and judges it. Pure: no target, files or clock."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from tapecheck import resources
from tapecheck.load import samples as rows
from tapecheck.load.plan import GeneratorLimits
from tapecheck.load.recording import GeneratorStats, ImportedFigures, ImportedSummary, Recording, unbounded
from tapecheck.load.samples import Mask, Rows
from tapecheck.recording import STOPPED
from tapecheck.statistics import intervals
from tapecheck.statistics.intervals import Counts, Distribution, Figure, Percentile
from tapecheck.verdict import DOUBT_SHARE, Check, Measured, Objective, Verdict, judge

EXACT, PERCENTILES = ("mean", "min", "max"), ("p50", "p90", "p95", "p99")
OF_THE_LOOP = ("p99", "max")  # the figures into which the p99 of the event loop's lag may reach; it bounds no lower one
RESOURCES_NS = 200_000_000  # after the last answer: the sample that covers it


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSummary:
    """The requests of one scenario that had one value of one parameter."""

    requests: int
    succeeded: int
    failed: int
    success_ratio: float
    response_time_ms: Distribution
    server_time_ms: Distribution | None
    bytes_mean: Figure
    generator_share: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessUse:
    """Mean and peak use of one watched process during a scenario; `cpu_ratio` counts busy cores."""

    cpu_ratio: float
    cpu_peak_ratio: float
    rss_mb: float
    samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioSummary:
    """One scenario in figures. Times include failed requests; `throughput_rps` counts succeeded ones.

    The warm-up counts only in `connections_opened`, which is None when another tool measured. `dispatch_lag_ms` is how late
    requests were sent though a connection was free. `generator_ms` says how much of each response and service time may be the
    generator's own lag, in sending or in its event loop; intervals reach down by it.
    `generator_share` has the shares of more than `DOUBT_SHARE`.
    `machine_busy_cores` is of everything that ran meanwhile, `others_busy_cores` of what is neither watched nor this workbook's.
    """

    executor: str
    requests: int
    succeeded: int
    failed: int
    success_ratio: float | None
    success_ratio_low: float
    duration_s: float
    throughput_rps: float | None
    response_time_ms: Distribution | None
    service_time_ms: Distribution | None
    server_time_ms: Distribution | None
    database_time_ms: Distribution | None
    connections_opened: int | None
    errors: dict[str, int]
    by: dict[str, dict[str, GroupSummary]]
    generator: GeneratorStats
    invalid: str | None
    resources: dict[str, ProcessUse]
    machine_busy_cores: float | None = None
    others_busy_cores: float | None = None
    dispatch_lag_ms: Distribution | None = None
    generator_ms: dict[str, float] = field(default_factory=dict)
    generator_share: dict[str, float] = field(default_factory=dict)

    @property
    def severity(self) -> tuple[bool, float, float]:
        """How much it wants to be seen among many: invalid first, then by the share that failed, then by p95."""
        p95 = self.response_time_ms.p95.value if self.response_time_ms else 0.0
        return self.invalid is not None, self.failed / max(self.requests, 1), 0.0 if p95 is None or math.isnan(p95) else p95


def summarize(recording: Recording, limits: GeneratorLimits) -> dict[str, ScenarioSummary]:
    """Summarize every scenario of a recording, and each level of a sweep, in the order in which they ran."""
    context, found = recording.context, {}
    for name, executor in context.executors.items():
        said = context.imported.get(name)
        one = _imported(said, executor, context.generator[name], limits) if said else _scenario(recording, name, executor, limits)
        if context.tool and context.tool.answers_only:  # what was not answered may have been the slowest
            response, service = unbounded(one.response_time_ms), unbounded(one.service_time_ms)
            one = replace(one, success_ratio_low=0.0, response_time_ms=response, service_time_ms=service)
        found[name] = one
    return found


def _counts(n: int, failed: int) -> dict[str, Any]:
    return {"requests": n, "succeeded": n - failed, "failed": failed}


def _imported(said: ImportedSummary, executor: str, generator: GeneratorStats, limits: GeneratorLimits) -> ScenarioSummary:
    """Take over what another tool reports of a scenario: only ratios and rates of its counts are computed, and their bound."""
    n, succeeded = said.requests, said.requests - said.failed

    def group(one: ImportedFigures, times: Distribution) -> GroupSummary:
        ratio = (one.requests - one.failed) / one.requests
        counts = _counts(one.requests, one.failed)
        return GroupSummary(**counts, success_ratio=ratio, response_time_ms=times, server_time_ms=None, bytes_mean=one.bytes_mean)

    return ScenarioSummary(
        **_counts(n, said.failed),
        executor=executor,
        success_ratio=succeeded / n if n else None,
        success_ratio_low=intervals.ratio_lower_bound(succeeded, n),
        duration_s=said.duration_s,
        throughput_rps=succeeded / said.duration_s if said.duration_s > 0 else None,
        response_time_ms=said.response_time_ms,
        service_time_ms=said.response_time_ms,
        server_time_ms=None,
        database_time_ms=None,
        connections_opened=None,
        errors={kind: count for kind, count in said.errors.items() if count},
        by={
            dimension: {value: group(one, one.response_time_ms) for value, one in values.items() if one.response_time_ms and one.requests}
            for dimension, values in said.by.items()
        },
        generator=generator,
        invalid=invalid(generator, limits, duration_s=said.duration_s),
        resources={},
    )


def _scenario(recording: Recording, name: str, executor: str, limits: GeneratorLimits) -> ScenarioSummary:
    sent, generator, is_ours = rows.sent(recording.samples, name), recording.context.generator[name], recording.context.tool is None
    part = rows.measured(sent.table)
    n, batches, (kinds, codes) = len(part), part.batches(executor), part.codes("error")
    errors = {kind: count for kind, count in rows.tally(codes, kinds).items() if kind != "none"}
    failed, duration_s, loop_ms = sum(errors.values()), _duration_s(part), generator.lag_p99_ms or 0.0
    times = intervals.distribution(part.response_ms(), batches)
    undelayed = intervals.distribution(part.undelayed_ms(), batches) if is_ours else times
    response, added, shares = _reaching_down(times, undelayed, loop_ms)
    times = intervals.distribution(part.service_ms(), batches)
    service, service_added, _ = _reaching_down(times, times, loop_ms)
    ratio, ratio_low = _success(part, batches, errors, generator.content_checked)
    used = _resources(recording.resources, part)
    others, machine = used.pop(resources.OTHERS, None), used.pop(resources.MACHINE, None)
    return ScenarioSummary(
        **_counts(n, failed),
        executor=executor,
        success_ratio=ratio,
        success_ratio_low=ratio_low,
        duration_s=duration_s,
        throughput_rps=(n - failed) / duration_s if duration_s > 0 else None,
        response_time_ms=response,
        service_time_ms=service,
        server_time_ms=intervals.distribution(part.numbers("server_ms"), batches),
        database_time_ms=intervals.distribution(part.numbers("db_ms"), batches),
        dispatch_lag_ms=intervals.distribution(part.dispatch_lag_ms()) if is_ours else None,
        generator_ms=added | {f"service_{name}": late for name, late in service_added.items()},
        generator_share=shares,
        connections_opened=sent.connections() if is_ours else None,
        errors=errors,
        by=_by(part, batches, loop_ms, is_ours=is_ours) if n else {},
        generator=generator,
        invalid=invalid(generator, limits, duration_s=duration_s, local=errors.get("local", 0)),
        resources=used,
        machine_busy_cores=machine.cpu_ratio if machine else None,
        others_busy_cores=max(0.0, others.cpu_ratio) if others else None,
    )


def _reaching_down(
    times: Distribution | None, undelayed: Distribution | None, loop_ms: float
) -> tuple[Distribution | None, dict[str, float], dict[str, float]]:
    """Let each interval reach down to that of the times without each request's own lag, and the p99's by that of the loop.

    Returns:
        The times so, how much of each figure may be the generator's lag, and the shares of which that are more than `DOUBT_SHARE`.
    """
    if times is None or undelayed is None:
        return times, {}, {}
    added, shares = {}, {}
    lower: dict[str, Any] = {}
    for name in (*EXACT, *PERCENTILES):
        one, other, loop = getattr(times, name), getattr(undelayed, name), loop_ms if name in OF_THE_LOOP else 0.0
        value, bare = (float(x.value if isinstance(x, Percentile) else x) for x in (one, other))
        late = added[f"{name}_ms"] = min(max(value - bare, loop, 0.0), value)
        if name not in ("min", "max") and late > DOUBT_SHARE * value:
            shares[f"{name}_ms"] = late / value
        if isinstance(one, Percentile) and one.low is not None and other.low is not None:
            lower[name] = replace(one, low=max(0.0, min(other.low, one.low - loop)))
    return replace(times, **lower), added, shares


def _success(part: Rows, batches: Counts, errors: Mapping[str, int], checked: int) -> tuple[float | None, float]:
    """Return the success ratio and its lower bound.

    Failures come in batches, so that requests are worth fewer independent ones; wrong bodies count by the share of those that
    were looked at, not of all requests.
    """
    n, wrong, failed = len(part), errors.get("content", 0), sum(errors.values())
    if not n:
        return None, 0.0
    worth = intervals.effective_n(intervals.counts_within(~part.failed(), batches), batches) if failed else n
    ratio, low, right = (n - failed) / n, intervals.ratio_lower_bound(n - failed, n, worth), max(checked - wrong, 0)
    return (min(ratio, right / checked), min(low, intervals.ratio_lower_bound(right, checked))) if wrong and checked else (ratio, low)


def _duration_s(part: Rows) -> float:
    """Sum over rounds the time from the first intended start to the last completion; what lies between is not counted."""
    if not len(part):
        return 0.0
    number, intended_ns, done_ns = part.numbers("round"), part.numbers("intended_ns"), part.numbers("done_ns")
    starts = np.concatenate(([0], np.flatnonzero(number[1:] != number[:-1]) + 1))
    return float((np.maximum.reduceat(done_ns, starts) - np.minimum.reduceat(intended_ns, starts)).sum() / 1e9)


def _by(part: Rows, batches: Counts, loop_ms: float, *, is_ours: bool) -> dict[str, dict[str, GroupSummary]]:
    """Summarize the requests of each value of each parameter; what all groups need is decoded once."""
    response_ms, server_ms, size, failed = part.response_ms(), part.numbers("server_ms"), part.numbers("bytes"), part.failed()
    undelayed_ms = part.undelayed_ms() if is_ours else response_ms

    def group(chosen: Mask) -> GroupSummary:
        n, bad, own = int(np.count_nonzero(chosen)), int(np.count_nonzero(failed & chosen)), intervals.counts_within(chosen, batches)
        both = [intervals.distribution(times[chosen], own) for times in (response_ms, undelayed_ms)]
        times, _, shares = _reaching_down(both[0], both[1], loop_ms)
        assert times is not None, "a group has at least one sample"
        return GroupSummary(
            **_counts(n, bad),
            success_ratio=(n - bad) / n,
            response_time_ms=times,
            server_time_ms=intervals.distribution(server_ms[chosen], own),
            bytes_mean=float(size[chosen].mean()) if is_ours or size.any() else math.nan,  # no tool that says sizes has none
            generator_share=shares,
        )

    result = {}
    for dimension in part.dimensions():
        names, codes = part.codes(dimension)
        if values := sorted(rows.tally(codes, names).keys() - {""}, key=_natural):
            result[dimension] = {value: group(codes == names.index(value)) for value in values}
    return result


def _natural(value: str) -> tuple[float, str]:
    """Sort 100 before 1000, and 5m before 1h before 1d."""
    scale = {"m": 1, "h": 60, "d": 1440}.get(value[-1:], 0)
    number = value[:-1] if scale else value
    return (float(number) * (scale or 1) if number.isdecimal() else 0.0, value)


def _resources(table: pa.Table, part: Rows) -> dict[str, ProcessUse]:
    if not len(part) or table.num_rows == 0:
        return {}
    frame = table.to_pandas()
    inside = frame[(frame.time_ns > part.numbers("intended_ns").min()) & (frame.time_ns <= part.numbers("done_ns").max() + RESOURCES_NS)]
    return {
        str(name): ProcessUse(
            cpu_ratio=float(group.cpu_ratio.mean()),
            cpu_peak_ratio=float(group.cpu_ratio.max()),
            rss_mb=float(group.rss_mb.max()),
            samples=len(group),
        )
        for name, group in inside.groupby("process", observed=True)
    }


def mark(doubtful: Mapping[str, float], *metrics: str) -> str:
    """Return what follows a figure, or a few, of which a good part may be the generator's own lag (`generator_share`); else nothing."""
    share = max((doubtful.get(metric, 0.0) for metric in metrics), default=0.0)
    return f", up to {share:.0%} the generator's" if share else ""


# ---- was the generator the bottleneck ----

CPU_TICKS_S = 0.02  # some systems count CPU time in ticks of 10 ms; a short measurement may hold one too many at either end
LIMITED = {
    "lag_p99_ms": "the generator's event loop lagged {:.1f} ms (p99; limit {:g})",
    "cpu_ratio": "the generator used {:.0%} of its core (limit {:.0%})",
    "achieved_ratio": "only {:.1%} of the offered rate was sent (limit {:.0%})",
    "dispatch_lag_p99_ms": "the generator sent {:.1f} ms late while a connection was free (p99; limit {:g})",
}


def invalid(generator: GeneratorStats, limits: GeneratorLimits, *, duration_s: float, local: int = 0) -> str | None:
    """Say why a scenario of a duration did not measure its target, or None when it did.

    `local` requests failed for want of ports or files here.
    """
    reasons = [STOPPED] if generator.target_stopped else []
    if local:
        reasons.append(f"{local:,} requests failed because this machine ran out of ports or file descriptors")
    for name, text in LIMITED.items():
        value, limit = getattr(generator, name), getattr(limits, name)
        if value is None or limit is None:
            continue
        ticks = CPU_TICKS_S / max(duration_s, 1e-9) if name == "cpu_ratio" else 0.0
        if value < limit if name == "achieved_ratio" else value - ticks > limit:
            reasons.append(text.format(value, limit))
    if generator.workers_lost:
        lost = f"{len(generator.workers_lost)} of {generator.workers} load workers died in mid-run: {', '.join(generator.workers_lost)}"
        reasons.append(f"{lost}; what is recorded of its share is counted, the rest is missing")
    return "; ".join(reasons) or None


# ---- objectives ----

MISSING = {
    "server": "no Server-Timing header was seen, which says how long the target took: let it send one, or judge response times (p95_ms)",
    "service": "service times were not recorded: judge response times (p95_ms), or measure here",
}
UNBOUNDED = "the value meets it, but the tool's output has no confidence interval"


def check(summary: Mapping[str, ScenarioSummary], objectives: Iterable[Objective]) -> list[Check]:
    """Judge every objective in every scenario it applies to; the reason of one that is not met says what failed, by kind."""
    checks = [
        (scenario, judge(objective, measured(scenario, objective), name=name, invalid=scenario.invalid))
        for name, scenario in summary.items()
        for objective in objectives
        if objective.scope in (None, name)
    ]
    return [
        replace(one, reason=f"{one.reason}; requests failed ({kinds(scenario.errors)})")
        if scenario.errors and one.verdict in (Verdict.FAIL, Verdict.NOT_PROVEN, Verdict.NO_DATA)
        else one
        for scenario, one in checks
    ]


def kinds(errors: Mapping[str, int]) -> str:
    """Write how many requests failed, by kind, the most frequent first: timeout: 258, status: 9."""
    return ", ".join(f"{kind}: {n:,}" for kind, n in sorted(errors.items(), key=lambda item: -item[1]))


def not_measured(objective: Objective) -> Check:
    """Return the check of an objective that is about nothing that was measured."""
    name = objective.scope or "all scenarios"
    reason = "nothing was measured that it is about: run that scenario too, or take the objective out of the plan"
    return Check(name=name, objective=str(objective), value=None, bound=None, n=0, verdict=Verdict.NO_DATA, reason=reason)


def bounded(scenario: ScenarioSummary, objectives: Iterable[Objective], name: str) -> bool:
    """Tell whether the samples of a scenario support a bound of each figure that it is judged by, whatever the figures are."""
    every = [measured(scenario, one) for one in objectives if one.scope in (None, name)]
    return all(one.value is None or one.bound is not None for one in every)


def measured(scenario: ScenarioSummary, objective: Objective) -> Measured:
    """Return the value of an objective's metric with the bound that counts against it.

    Response times are judged only when something succeeded: how fast a target fails is no answer.
    """
    metric, n = objective.metric, scenario.requests
    if metric == "success_ratio":
        needed = intervals.needed_n(objective.limit) if 0 < objective.limit < 1 else None
        return Measured(value=scenario.success_ratio, bound=scenario.success_ratio_low, n=n, needed_n=needed)
    if metric == "throughput_rps":  # bounded by how far the clock may be off that its duration was read from
        error_s = scenario.generator.clock_error_ms / 1000
        duration_s = scenario.duration_s + (error_s if objective.upward else -error_s)
        return Measured(value=scenario.throughput_rps, bound=scenario.succeeded / duration_s if duration_s > 0 else None, n=n)
    if metric == "failed":
        return Measured(value=scenario.failed, bound=scenario.failed, n=n)
    kind, _, name = metric.removesuffix("_ms").rpartition("_")
    times: Distribution | None = getattr(scenario, f"{kind or 'response'}_time_ms")
    if times is None or scenario.succeeded == 0:
        return Measured(value=None, bound=None, n=0, missing=MISSING.get(kind) if scenario.succeeded else None)
    added = scenario.generator_ms.get(metric, 0.0)  # what the target says holds none
    found: float | Percentile = getattr(times, name)
    value = found.value if isinstance(found, Percentile) else found
    known = None if math.isnan(value) else value
    if not isinstance(found, Percentile):
        return Measured(value=known, bound=known, n=n, added=added)
    if not found.n_effective:
        return Measured(value=known, bound=None, n=found.n, unbounded=UNBOUNDED)
    needed = math.ceil(intervals.needed_n(int(name[1:]) / 100) * found.n / found.n_effective)
    return Measured(value=value, bound=found.low if objective.upward else found.upper, n=found.n, needed_n=needed, added=added)
