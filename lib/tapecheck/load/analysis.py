"""Turns the samples of a load run into a summary, and the summary into checks. Pure: no target, no files, no clock."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tapecheck import stats
from tapecheck.load import rows, selfcheck
from tapecheck.load.recording import GeneratorStats, Recording
from tapecheck.load.rows import Mask, Numbers, Rows
from tapecheck.load.selfcheck import Limits
from tapecheck.stats import Counts, Distribution
from tapecheck.verdict import Check, Measured, Objective, judge


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSummary:
    """The requests of one scenario that had one value of one parameter."""

    requests: int
    succeeded: int
    failed: int
    success_ratio: float
    response_time_ms: Distribution
    server_time_ms: Distribution | None
    bytes_mean: float


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

    The warm-up counts only in `connections_opened`.
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
    connections_opened: int
    errors: dict[str, int]
    by: dict[str, dict[str, GroupSummary]]
    generator: GeneratorStats
    invalid: str | None
    resources: dict[str, ProcessUse]


def summarize(recording: Recording, limits: Limits) -> dict[str, ScenarioSummary]:
    """Summarize every scenario of a recording, and each level of a sweep, in the order in which they ran."""
    context = recording.context
    return {name: _scenario(recording, name, executor, context.generator[name], limits) for name, executor in context.executors.items()}


def _scenario(recording: Recording, name: str, executor: str, generator: GeneratorStats, limits: Limits) -> ScenarioSummary:
    sent = rows.sent(recording.samples, name)
    part = rows.measured(sent.table)
    n, errors, batches = len(part), _errors(part), part.batches(executor)
    failed = sum(errors.values())
    ratio, ratio_low = _success(n, errors, generator.content_checked, _worth(part, batches) if failed else n)
    duration_s = _duration_s(part)
    return ScenarioSummary(
        executor=executor,
        requests=n,
        succeeded=n - failed,
        failed=failed,
        success_ratio=ratio,
        success_ratio_low=ratio_low,
        duration_s=duration_s,
        throughput_rps=(n - failed) / duration_s if duration_s > 0 else None,
        response_time_ms=stats.distribution(part.response_ms(), batches),
        service_time_ms=_known(part.service_ms(), batches),
        server_time_ms=_known(part.numbers("server_ms"), batches),
        database_time_ms=_known(part.numbers("db_ms"), batches),
        connections_opened=int(np.count_nonzero(~sent.numbers("connection_reused").astype(bool) & (sent.numbers("connection") > 0))),
        errors=errors,
        by=_by(part, batches),
        generator=generator,
        invalid=selfcheck.invalid(generator, limits, duration_s=duration_s, local=errors.get("local", 0)),
        resources=_resources(recording.resources, part),
    )


def _success(n: int, errors: Mapping[str, int], checked: int, effective: float) -> tuple[float | None, float]:
    """Return the success ratio and its lower bound; wrong bodies count by the share of those that were looked at, not of all requests."""
    wrong, failed = errors.get("content", 0), sum(errors.values())
    ratio, low = ((n - failed) / n if n else None), stats.ratio_lower_bound(n - failed, n, effective)
    if ratio is None or not wrong or not checked:
        return ratio, low
    right = max(checked - wrong, 0)
    return min(ratio, right / checked), min(low, stats.ratio_lower_bound(right, checked))


def _worth(part: Rows, batches: Counts) -> float:
    """Return how many independent requests would say as much about the success ratio: failures come in batches too."""
    return stats.effective_n(stats.counts_within(~part.failed(), batches), batches)


def _known(values: Numbers, batches: Counts) -> Distribution | None:
    """Summarize what is known of a kind of time; NaN where the target or the request did not get that far."""
    known = ~np.isnan(values)
    return stats.distribution(values, batches) if known.all() else stats.distribution(values[known], stats.counts_within(known, batches))


def _errors(part: Rows) -> dict[str, int]:
    names, codes = part.codes("error")
    return {name: count for name, count in rows.tally(codes, names).items() if name != "none"}


def _duration_s(part: Rows) -> float:
    """Sum over rounds the time from the first intended start to the last completion; what lies between is not counted."""
    if not len(part):
        return 0.0
    number, intended_ns, done_ns = part.numbers("round"), part.numbers("intended_ns"), part.numbers("done_ns")
    starts = np.concatenate(([0], np.flatnonzero(number[1:] != number[:-1]) + 1))
    first, last = np.minimum.reduceat(intended_ns, starts), np.maximum.reduceat(done_ns, starts)
    return float((last - first).sum() / 1e9)


def _by(part: Rows, batches: Counts) -> dict[str, dict[str, GroupSummary]]:
    if not len(part):
        return {}
    times = _Times(
        response_ms=part.response_ms(),
        server_ms=part.numbers("server_ms"),
        bytes=part.numbers("bytes"),
        failed=part.failed(),
        batches=batches,
    )
    result = {}
    for dimension in part.dimensions():
        names, codes = part.codes(dimension)
        values = sorted(rows.tally(codes, names).keys() - {""}, key=_natural)
        if values:
            result[dimension] = {value: _group(times, codes == names.index(value)) for value in values}
    return result


def _natural(value: str) -> tuple[float, str]:
    """Sort 100 before 1000, and 5m before 1h before 1d."""
    scale = {"m": 1, "h": 60, "d": 1440}.get(value[-1:], 0)
    number = value[:-1] if scale else value
    return (float(number) * (scale or 1) if number.isdecimal() else 0.0, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Times:
    """What of every sample counts for its groups."""

    response_ms: Numbers
    server_ms: Numbers
    bytes: Numbers
    failed: Mask
    batches: Counts


def _group(times: _Times, chosen: Mask) -> GroupSummary:
    n, failed = int(np.count_nonzero(chosen)), int(np.count_nonzero(times.failed & chosen))
    batches = stats.counts_within(chosen, times.batches)
    response_ms = stats.distribution(times.response_ms[chosen], batches)
    assert response_ms is not None, "a group has at least one sample"
    return GroupSummary(
        requests=n,
        succeeded=n - failed,
        failed=failed,
        success_ratio=(n - failed) / n,
        response_time_ms=response_ms,
        server_time_ms=_known(times.server_ms[chosen], batches),
        bytes_mean=float(times.bytes[chosen].mean()),
    )


def _resources(table: pa.Table, part: Rows) -> dict[str, ProcessUse]:
    if not len(part) or table.num_rows == 0:
        return {}
    frame = table.to_pandas()
    first, last = part.numbers("intended_ns").min(), part.numbers("done_ns").max()
    inside = frame[(frame.time_ns > first) & (frame.time_ns <= last + 200_000_000)]
    return {
        str(name): ProcessUse(
            cpu_ratio=float(group.cpu_ratio.mean()),
            cpu_peak_ratio=float(group.cpu_ratio.max()),
            rss_mb=float(group.rss_mb.max()),
            samples=len(group),
        )
        for name, group in inside.groupby("process", observed=True)
    }


def check(summary: Mapping[str, ScenarioSummary], objectives: Iterable[Objective]) -> list[Check]:
    """Judge every objective in every scenario it applies to."""
    return [
        judge(objective, measured(scenario, objective), name=name, invalid=scenario.invalid)
        for name, scenario in summary.items()
        for objective in objectives
        if objective.scope in (None, name)
    ]


def measured(scenario: ScenarioSummary, objective: Objective) -> Measured:
    """Return the value of an objective's metric with the bound that counts against it.

    Response times are judged only when something succeeded: how fast a target fails is no answer.
    """
    metric, n = objective.metric, scenario.requests
    if metric == "success_ratio":
        needed = stats.needed_n_for_ratio(objective.limit) if 0 < objective.limit < 1 else None
        return Measured(value=scenario.success_ratio, bound=scenario.success_ratio_low, n=n, needed_n=needed)
    if metric in ("throughput_rps", "failed"):
        value = getattr(scenario, metric)
        return Measured(value=value, bound=value, n=n)
    times, metric = _times(scenario, metric)
    if times is None or scenario.succeeded == 0:
        return Measured(value=None, bound=None, n=0)
    if metric in ("mean", "min", "max"):
        value = getattr(times, metric)
        return Measured(value=value, bound=value, n=n)
    percentile = getattr(times, metric)
    bound = percentile.low if objective.upward else percentile.upper
    needed = stats.needed_n(int(metric[1:]) / 100) * percentile.n / percentile.n_effective
    return Measured(value=percentile.value, bound=bound, n=percentile.n, needed_n=math.ceil(needed))


def _times(scenario: ScenarioSummary, metric: str) -> tuple[Distribution | None, str]:
    for prefix, times in (("service_", scenario.service_time_ms), ("server_", scenario.server_time_ms)):
        if metric.startswith(prefix):
            return times, metric.removeprefix(prefix).removesuffix("_ms")
    return scenario.response_time_ms, metric.removesuffix("_ms")
