"""Turns the samples of a load run, or what another tool reports of one, into a summary. Pure: no target, no files, no clock."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from tapecheck import resources
from tapecheck.load import samples as rows
from tapecheck.load.plan import GeneratorLimits
from tapecheck.load.recording import Context, GeneratorStats, ImportedFigures, Recording, invalid, unbounded
from tapecheck.load.samples import Mask, Numbers, Rows
from tapecheck.statistics import intervals
from tapecheck.statistics.intervals import Counts, Distribution, Figure, Percentile
from tapecheck.verdict import DOUBT_SHARE

EXACT, PERCENTILES = ("mean", "min", "max"), ("p50", "p90", "p95", "p99")
OF_THE_LOOP = ("p99", "max")  # the figures into which the p99 of the event loop's lag may reach


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


def summarize(recording: Recording, limits: GeneratorLimits) -> dict[str, ScenarioSummary]:
    """Summarize every scenario of a recording, and each level of a sweep, in the order in which they ran."""
    context = recording.context
    found = {
        name: _imported(context, name, limits) if name in context.imported else _scenario(recording, name, executor, limits)
        for name, executor in context.executors.items()
    }
    return {name: _unbounded(one) for name, one in found.items()} if context.tool and context.tool.answers_only else found


def _unbounded(found: ScenarioSummary) -> ScenarioSummary:
    """Take its bounds from a scenario of which requests without an answer are missing: those may have been the slowest."""
    return replace(
        found,
        success_ratio_low=0.0,
        response_time_ms=unbounded(found.response_time_ms),
        service_time_ms=unbounded(found.service_time_ms),
    )


def _imported(context: Context, name: str, limits: GeneratorLimits) -> ScenarioSummary:
    """Take over what another tool reports of a scenario: only ratios and rates of its counts are computed, and their bound."""
    said, generator = context.imported[name], context.generator[name]
    n, succeeded = said.requests, said.requests - said.failed
    return ScenarioSummary(
        executor=context.executors[name],
        requests=n,
        succeeded=succeeded,
        failed=said.failed,
        success_ratio=succeeded / n if n else None,
        success_ratio_low=intervals.ratio_lower_bound(succeeded, n),
        duration_s=said.duration_s,
        throughput_rps=succeeded / said.duration_s if said.duration_s > 0 else None,
        response_time_ms=said.response_time_ms,
        service_time_ms=said.response_time_ms,
        server_time_ms=None,
        database_time_ms=None,
        connections_opened=None,
        errors=said.errors,
        by={dimension: _imported_groups(values) for dimension, values in said.by.items()},
        generator=generator,
        invalid=invalid(generator, limits, duration_s=said.duration_s),
        resources={},
    )


def _imported_groups(values: Mapping[str, ImportedFigures]) -> dict[str, GroupSummary]:
    return {
        value: GroupSummary(
            requests=said.requests,
            succeeded=said.requests - said.failed,
            failed=said.failed,
            success_ratio=(said.requests - said.failed) / said.requests,
            response_time_ms=said.response_time_ms,
            server_time_ms=None,
            bytes_mean=said.bytes_mean,
        )
        for value, said in values.items()
        if said.response_time_ms is not None and said.requests
    }


def _scenario(recording: Recording, name: str, executor: str, limits: GeneratorLimits) -> ScenarioSummary:
    sent, generator = rows.sent(recording.samples, name), recording.context.generator[name]
    part = rows.measured(sent.table)
    n, errors, batches = len(part), _errors(part), part.batches(executor)
    failed = sum(errors.values())
    ratio, ratio_low = _success(n, errors, generator.content_checked, _worth(part, batches) if failed else n)
    duration_s, response, loop_ms = _duration_s(part), intervals.distribution(part.response_ms(), batches), generator.lag_p99_ms or 0.0
    undelayed = intervals.distribution(part.undelayed_ms(), batches) if not recording.context.tool else response
    service, added = _known(part.service_ms(), batches), _added(response, undelayed, loop_ms)
    used = _resources(recording.resources, part)
    others, machine = used.pop(resources.OTHERS, None), used.pop(resources.MACHINE, None)
    return ScenarioSummary(
        executor=executor,
        requests=n,
        succeeded=n - failed,
        failed=failed,
        success_ratio=ratio,
        success_ratio_low=ratio_low,
        duration_s=duration_s,
        throughput_rps=(n - failed) / duration_s if duration_s > 0 else None,
        response_time_ms=_reaching_down(response, undelayed, loop_ms),
        service_time_ms=_reaching_down(service, service, loop_ms),
        server_time_ms=_known(part.numbers("server_ms"), batches),
        database_time_ms=_known(part.numbers("db_ms"), batches),
        dispatch_lag_ms=None if recording.context.tool else intervals.distribution(part.dispatch_lag_ms()),
        generator_ms=added | {f"service_{name}": late for name, late in _added(service, service, loop_ms).items()},
        generator_share=_shares(response, added),
        connections_opened=None if recording.context.tool else sent.connections(),
        errors=errors,
        by=_by(part, batches, loop_ms, is_ours=recording.context.tool is None),
        generator=generator,
        invalid=invalid(generator, limits, duration_s=duration_s, local=errors.get("local", 0)),
        resources=used,
        machine_busy_cores=machine.cpu_ratio if machine else None,
        others_busy_cores=max(0.0, others.cpu_ratio) if others else None,
    )


def _reaching_down(times: Distribution | None, undelayed: Distribution | None, loop_ms: float) -> Distribution | None:
    """Let each interval reach down to that of the times without each request's own lag, and the p99's by that of the loop."""
    if times is None or undelayed is None:
        return times
    lower = {}
    for name in PERCENTILES:
        one, other = getattr(times, name), getattr(undelayed, name)
        if one.low is not None and other.low is not None:
            lower[name] = replace(one, low=max(0.0, min(other.low, one.low - (loop_ms if name in OF_THE_LOOP else 0.0))))
    return replace(times, **lower)


def _added(times: Distribution | None, undelayed: Distribution | None, loop_ms: float) -> dict[str, float]:
    """Return how much of each time may be the generator's own lag; of the loop's only the p99 is known, which bounds no lower figure."""
    if times is None or undelayed is None:
        return {}
    added = {}
    for name in (*EXACT, *PERCENTILES):
        value = _figure(times, name)
        late = max(value - _figure(undelayed, name), loop_ms if name in OF_THE_LOOP else 0.0)
        added[f"{name}_ms"] = min(max(late, 0.0), value)
    return added


def _shares(times: Distribution | None, added: Mapping[str, float]) -> dict[str, float]:
    figures = {f"{name}_ms": _figure(times, name) for name in ("mean", *PERCENTILES)} if times else {}
    return {name: added[name] / value for name, value in figures.items() if added.get(name, 0.0) > DOUBT_SHARE * value}


def _figure(times: Distribution, name: str) -> float:
    one = getattr(times, name)
    return one.value if isinstance(one, Percentile) else float(one)


def _success(n: int, errors: Mapping[str, int], checked: int, effective: float) -> tuple[float | None, float]:
    """Return the success ratio and its lower bound; wrong bodies count by the share of those that were looked at, not of all requests."""
    wrong, failed = errors.get("content", 0), sum(errors.values())
    ratio, low = ((n - failed) / n if n else None), intervals.ratio_lower_bound(n - failed, n, effective)
    if ratio is None or not wrong or not checked:
        return ratio, low
    right = max(checked - wrong, 0)
    return min(ratio, right / checked), min(low, intervals.ratio_lower_bound(right, checked))


def _worth(part: Rows, batches: Counts) -> float:
    """Return how many independent requests would say as much about the success ratio: failures come in batches too."""
    return intervals.effective_n(intervals.counts_within(~part.failed(), batches), batches)


def _known(values: Numbers, batches: Counts) -> Distribution | None:
    """Summarize what is known of a kind of time; NaN where the target or the request did not get that far."""
    known = ~np.isnan(values)
    return (
        intervals.distribution(values, batches)
        if known.all()
        else intervals.distribution(values[known], intervals.counts_within(known, batches))
    )


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


def _by(part: Rows, batches: Counts, loop_ms: float, *, is_ours: bool) -> dict[str, dict[str, GroupSummary]]:
    if not len(part):
        return {}
    times = _Times(
        response_ms=part.response_ms(),
        server_ms=part.numbers("server_ms"),
        bytes=part.numbers("bytes"),
        failed=part.failed(),
        batches=batches,
        undelayed_ms=part.undelayed_ms() if is_ours else None,
        loop_ms=loop_ms,
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
    undelayed_ms: Numbers | None
    loop_ms: float


def _group(times: _Times, chosen: Mask) -> GroupSummary:
    n, failed = int(np.count_nonzero(chosen)), int(np.count_nonzero(times.failed & chosen))
    batches = intervals.counts_within(chosen, times.batches)
    response_ms = intervals.distribution(times.response_ms[chosen], batches)
    undelayed = response_ms if times.undelayed_ms is None else intervals.distribution(times.undelayed_ms[chosen], batches)
    reaching = _reaching_down(response_ms, undelayed, times.loop_ms)
    assert reaching is not None, "a group has at least one sample"
    return GroupSummary(
        requests=n,
        succeeded=n - failed,
        failed=failed,
        success_ratio=(n - failed) / n,
        response_time_ms=reaching,
        server_time_ms=_known(times.server_ms[chosen], batches),
        bytes_mean=float(times.bytes[chosen].mean()),
        generator_share=_shares(response_ms, _added(response_ms, undelayed, times.loop_ms)),
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


def mark(doubtful: Mapping[str, float], *metrics: str) -> str:
    """Return what follows a figure, or a few, of which a good part may be the generator's own lag (`generator_share`); else nothing."""
    share = max((doubtful.get(metric, 0.0) for metric in metrics), default=0.0)
    return f", up to {share:.0%} the generator's" if share else ""
