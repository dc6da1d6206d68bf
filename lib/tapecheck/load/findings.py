"""Says what a load run means: findings, each with the numbers that caused it and what to do; and what failed, by kind."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from tapecheck.load.analysis import LIMITED, ScenarioSummary, kinds
from tapecheck.load.plan import LoadPlan
from tapecheck.load.recording import Recording, Tool
from tapecheck.load.samples import Rows
from tapecheck.recording import STOPPED
from tapecheck.runs.results import Finding
from tapecheck.verdict import written

ERROR_SHARE = 0.01  # of all requests: below it failures are reported, but do not limit
BUSY_CORE = 0.85  # of one core: a process above it has no room left on that core
DATABASE_SHARE = 0.6  # of the server time
SERVER_SHARE = 0.2  # of the service time: below it the handler is not where the time goes
SLOW_MS = 5.0  # of a wait or of the median service time: below it no wait matters
QUEUE_RATIO = 3.0  # median service time over median server time
WAIT_SHARE = 0.5  # of the mean response time spent before the request was sent
NEIGHBOUR_CORES = 0.25  # busy with what is neither the target's nor ours: from there on it is a finding
FULL_SHARE = 0.9  # of all cores: beyond it no process gets all that it could use
IDLE_CORE = 0.25  # of one core: below it a process is not what everything waits for
FASTEST_SHARE = 0.5  # of the median service time: what even the fastest request takes when the network is slow, and there is no queue
SPREAD_RATIO = 3.0  # p95 over mean: the variance warning
SLOW_VALUE_RATIO = 2.0  # median of the slowest over the fastest value of a parameter

Said = tuple[str, str, Mapping[str, int | float | str]]  # name, what the figures say, and the figures
Rule = Callable[[ScenarioSummary, int], Iterator[Said]]
LOOK = "read failures.jsonl for the first of them, and the target's log at that time, before looking at speed"
ALONE = "end the other processes and measure again: beside them times are higher and the rate lower than this target would have alone"
NEXT = {  # what to do, by the name of a finding
    "sandbox_stopped": "measure again",
    "generator": "lower the load, or run the generator on a machine of its own, then measure again",
    "generator_late": "take these figures as upper limits; for closer ones measure from a machine with a core to spare",
    "target_errors": LOOK,
    "few_errors": LOOK,
    "listen_backlog": "raise the target's listen backlog (its own option, and net.core.somaxconn), or let fewer connections open at once;"
    " if it is long enough, something keeps the target from accepting: look for what blocks its event loop",
    "database": "look at the slowest statement's plan, index what it filters by, or cache the answer",
    "target_single_threaded": "look whether one of its threads is always busy (top -H); if so, run more worker processes of it",
    "target_cpu": "profile it, or give it more cores",
    "machine_full": ALONE,
    "neighbours": ALONE,
    "connection_limit": "raise max_connections if the target may have more; if it refuses or stalls new ones, that is its limit",
    "network": "send one request at a time: if it is as slow, look at proxies and bandwidth, or measure from a machine nearer to it;"
    " if not, it waits in a queue of the target",
    "queue": "the rest is spent in a queue before the handler: let the target serve more requests at once,"
    " by more worker processes or a higher limit, rather than tune the handler",
    "variance": "look at the response times over the run: a cold start, a pause, or one slow parameter value?",
    "slow_parameter": "compare the sizes of the answers first; if they do not explain it, look at how this value is queried",
    "other_tool": "where that matters, measure the same load with a scenario of constant_rate here",
}
LIMITING = (
    *("generator", "target_errors", "database", "target_single_threaded", "target_cpu"),
    *("connection_limit", "network", "machine_full", "queue"),
)


def find(summary: Mapping[str, ScenarioSummary], cores: int, tool: Tool | None = None, *, on_loopback: bool = False) -> list[Finding]:
    """Return every finding of every scenario, the most severe kind first, and what it means that another tool measured.

    An invalid scenario says nothing about the target.
    """
    found: list[Said] = [
        (name, f"{scenario}: {said}", evidence)
        for rule in RULES
        for scenario, one in summary.items()
        if rule is _generator or not one.invalid
        for name, said, evidence in rule(one, cores)
    ]
    for scenario, one in summary.items() if on_loopback else ():  # where no network loses what opens a connection
        if n := one.errors.get("connect_timeout"):
            said = f"{scenario}: {n:,} requests got no connection to this machine in time: the target's listen backlog may be full"
            found.append(("listen_backlog", said, {"connect_timeout": n, "connections_opened": one.connections_opened or 0}))
    if tool:
        found.append(("other_tool", f"measured by {tool.name}: {'; '.join(tool.notes)}", {"tool": tool.name, "output": tool.output}))
    return [Finding(name=name, finding=said, evidence=dict(evidence), action=NEXT[name]) for name, said, evidence in found]


def _generator(scenario: ScenarioSummary, cores: int) -> Iterator[Said]:
    own = scenario.generator
    if own.target_stopped:
        yield "sandbox_stopped", STOPPED.partition(";")[0], {}
    elif scenario.invalid:
        known = {name: value for name in LIMITED if (value := getattr(own, name)) is not None}
        said = "the load generator was the bottleneck, so its figures say nothing about the target"
        yield "generator", said, {"reason": scenario.invalid, **known}


def _late(scenario: ScenarioSummary, cores: int) -> Iterator[Said]:
    share, lag, loop_ms = scenario.generator_share, scenario.dispatch_lag_ms, scenario.generator.lag_p99_ms
    if share:
        figures = ", ".join(f"{part:.0%} of {metric.removesuffix('_ms')}" for metric, part in share.items())
        lags = {"dispatch_lag_p50_ms": lag.p50.value, "dispatch_lag_p99_ms": lag.p99.value} if lag else {}
        lags |= {"lag_p99_ms": loop_ms} if loop_ms is not None else {}
        yield "generator_late", f"the generator was late, so up to {figures} may be its own delay", {**lags, **share}


def _errors(scenario: ScenarioSummary, cores: int) -> Iterator[Said]:
    if scenario.failed:
        n, failed, ratio = scenario.requests, scenario.failed, scenario.success_ratio or 0.0
        kind, count = max(scenario.errors.items(), key=lambda item: item[1])
        evidence = {"failed": failed, "requests": n, "success_ratio": ratio, kind: count}
        name = "target_errors" if 1 - ratio >= ERROR_SHARE else "few_errors"
        yield name, f"{failed:,} of {n:,} requests failed ({kinds(scenario.errors)})", evidence


def _database(scenario: ScenarioSummary, cores: int) -> Iterator[Said]:
    server, database, service = scenario.server_time_ms, scenario.database_time_ms, scenario.service_time_ms
    if not server or not database or not service or service.p50.value < SLOW_MS or server.mean < SERVER_SHARE * service.mean:
        return  # nothing takes long, or not what the target does inside its handler
    if database.mean > DATABASE_SHARE * server.mean:
        evidence = {"database_mean_ms": database.mean, "server_mean_ms": server.mean, "service_mean_ms": service.mean}
        yield "database", f"the target spends {database.mean / server.mean:.0%} of its time in the database", evidence


def _cpu(scenario: ScenarioSummary, cores: int) -> Iterator[Said]:
    for process, use in scenario.resources.items():
        if use.samples >= 3 and use.cpu_ratio >= BUSY_CORE:
            alone = cores > 1 and use.cpu_ratio < 1 + (1 - BUSY_CORE)
            said = f"{process} {'is single-threaded' if alone else 'is busy'} ({use.cpu_ratio:.1f} of {cores} cores busy)"
            evidence = {"cpu_ratio": use.cpu_ratio, "cpu_peak_ratio": use.cpu_peak_ratio, "cores": cores, "samples": use.samples}
            yield "target_single_threaded" if alone else "target_cpu", said, evidence


def _neighbours(scenario: ScenarioSummary, cores: int) -> Iterator[Said]:
    others, machine = scenario.others_busy_cores, scenario.machine_busy_cores
    if others is None or machine is None or others < NEIGHBOUR_CORES:
        return
    busiest = max(scenario.resources.items(), key=lambda item: item[1].cpu_ratio, default=None)
    is_full = machine >= FULL_SHARE * cores
    rest = f"; {busiest[0]} got {busiest[1].cpu_ratio:.2g} cores" if is_full and busiest else ""
    evidence = {"others_busy_cores": others, "machine_busy_cores": machine, "cores": cores}
    yield "machine_full" if is_full else "neighbours", f"other processes kept {others:.2g} of {cores} cores busy{rest}", evidence


def _connections(scenario: ScenarioSummary, cores: int) -> Iterator[Said]:
    response, service = scenario.response_time_ms, scenario.service_time_ms
    if response and service and (wait_ms := response.mean - service.mean) > max(WAIT_SHARE * response.mean, SLOW_MS):
        said = f"requests wait {wait_ms:.3g} ms of {response.mean:.3g} ms for a free connection, before they are sent"
        opened = scenario.connections_opened or 0
        yield "connection_limit", said, {"wait_mean_ms": wait_ms, "response_mean_ms": response.mean, "connections_opened": opened}


def _queue(scenario: ScenarioSummary, cores: int) -> Iterator[Said]:
    server, service = scenario.server_time_ms, scenario.service_time_ms
    if scenario.executor == "burst" or not server or not service:
        return  # a burst is a queue by construction
    median_ms, inside_ms = service.p50.value, server.p50.value
    if median_ms < SLOW_MS or median_ms <= QUEUE_RATIO * inside_ms:
        return
    busiest = max((use.cpu_ratio for use in scenario.resources.values()), default=None)
    evidence: dict[str, int | float | str] = {"service_p50_ms": median_ms, "service_min_ms": service.min, "server_p50_ms": inside_ms}
    evidence |= {"busiest_process_cpu_ratio": busiest} if busiest is not None else {}
    # in a queue some request is the first
    is_network = busiest is not None and busiest < IDLE_CORE and service.min >= FASTEST_SHARE * median_ms
    said = f"of a median {median_ms:.3g} ms after the send, the target accounts for {inside_ms:.2g} ms"
    why = ", no request is much faster, and no watched process is busy: the time is spent in the network" if is_network else ""
    yield "network" if is_network else "queue", said + why, evidence


def _spread(scenario: ScenarioSummary, cores: int) -> Iterator[Said]:
    times = scenario.response_time_ms
    if times and times.mean > 0 and times.p95.value / times.mean > SPREAD_RATIO:
        said = f"response times vary; p95 is {times.p95.value / times.mean:.1f} times the mean"
        yield "variance", said, {"p95_ms": times.p95.value, "mean_ms": times.mean}


def _slow_value(scenario: ScenarioSummary, cores: int) -> Iterator[Said]:
    for dimension, values in scenario.by.items():
        inside = all(group.server_time_ms for group in values.values())
        times = {v: group.server_time_ms if inside else group.response_time_ms for v, group in values.items()}
        medians = {v: one.p50 for v, one in times.items() if one is not None}
        fast, slow = min(medians, key=lambda v: medians[v].value), max(medians, key=lambda v: medians[v].value)
        high, low = medians[fast].high, medians[slow].low
        a, b = medians[fast].value, medians[slow].value
        if low is not None and high is not None and low > high and b > SLOW_VALUE_RATIO * a:
            how_long = f"{b / a:.1f} times as long as {fast}" if a > 0 else f"{written(b)} ms, {fast} {written(a)} ms"
            sizes = {f"{v}_bytes": size for v in (slow, fast) if not math.isnan(size := values[v].bytes_mean)}
            said = f"{dimension} {slow} takes {how_long}{' inside the target' if inside else ''}"
            yield "slow_parameter", said, {f"{slow}_p50_ms": b, f"{fast}_p50_ms": a, **sizes}


RULES: tuple[Rule, ...] = (_generator, _late, _errors, _database, _cpu, _neighbours, _connections, _queue, _spread, _slow_value)


# ---- what failed ----


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureGroup:
    """Requests of one scenario that failed alike, without its warm-up.

    `status` is None where no answer came or another tool does not say it, `request` the plan's name of what was asked, `ratio` of all
    requests of the scenario; `first_s` and `last_s` are intended starts since the first request of the run, None where they are unknown.
    """

    scenario: str
    kind: str
    status: int | None
    request: str
    count: int
    ratio: float
    first_s: float | None
    last_s: float | None
    example: str


def failures(recording: Recording, summary: Mapping[str, ScenarioSummary], plan: LoadPlan) -> list[FailureGroup]:
    """Return the kinds of failure of every scenario and of every level of a sweep, the most frequent first."""
    asked = {name: scenario.request for name, scenario in plan.scenarios.items()}
    found = [*_measured(recording, asked), *_imported(recording, summary, asked)]
    return sorted(found, key=lambda one: -one.count)


def _measured(recording: Recording, asked: Mapping[str, str]) -> list[FailureGroup]:
    samples = recording.samples
    warm_up = samples.column("warm_up").combine_chunks()
    failed = samples.filter(pc.and_not(pa.array(Rows(samples).failed()), warm_up))
    if not failed.num_rows:
        return []
    zero_ns = pc.min(samples.column("intended_ns")).as_py()
    sent = dict(zip(*(samples.filter(pc.invert(warm_up)).column("scenario").value_counts().flatten()), strict=True))
    counts = {name.as_py(): n.as_py() for name, n in sent.items()}
    rows, keys = failed.select(["scenario", "error", "status", "intended_ns"]).to_pandas(), ["scenario", "error", "status"]
    parameters = Rows(samples).dimensions()
    found = []
    for (scenario, kind, status), at in rows.groupby(keys, observed=True).intended_ns:
        (first,) = failed.select(parameters).slice(int(at.idxmin()), 1).to_pylist()
        one = FailureGroup(
            scenario=str(scenario), kind=str(kind), status=int(status) or None, request=asked.get(str(scenario).partition(" at ")[0], ""),
            count=len(at), ratio=len(at) / counts[scenario], first_s=(at.min() - zero_ns) / 1e9, last_s=(at.max() - zero_ns) / 1e9,
            example=", ".join(f"{name} {value}" for name, value in first.items() if value is not None),
        )  # fmt: skip
        found.append(one)
    return found


def _imported(recording: Recording, summary: Mapping[str, ScenarioSummary], asked: Mapping[str, str]) -> list[FailureGroup]:
    """Return what another tool counts, of which it gives no single requests."""
    of = [(name, one) for name, one in summary.items() if name in recording.context.imported]
    rest = {"status": None, "first_s": None, "last_s": None, "example": ""}
    return [
        FailureGroup(scenario=name, kind=kind, request=asked.get(name, ""), count=n, ratio=n / max(one.requests, 1), **rest)  # type: ignore[arg-type]
        for name, one in of
        for kind, n in one.errors.items()
    ]
