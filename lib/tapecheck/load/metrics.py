"""The metrics that objectives are about: of each its value and the bound that counts, and with them the checks."""

import math
from collections.abc import Iterable, Mapping

from tapecheck.load.analysis import EXACT, ScenarioSummary
from tapecheck.statistics import intervals
from tapecheck.statistics.intervals import Distribution
from tapecheck.verdict import Check, Measured, Objective, Verdict, judge

NO_SERVER_TIMING = (
    "no Server-Timing header was seen, which says how long the target took: let it send one, or judge response times (p95_ms)"
)
NO_SERVICE_TIME = "service times were not recorded: judge response times (p95_ms), or measure here"
UNBOUNDED = "the value meets it, but the tool's output has no confidence interval"


def check(summary: Mapping[str, ScenarioSummary], objectives: Iterable[Objective]) -> list[Check]:
    """Judge every objective in every scenario it applies to."""
    return [
        judge(objective, measured(scenario, objective), name=name, invalid=scenario.invalid)
        for name, scenario in summary.items()
        for objective in objectives
        if objective.scope in (None, name)
    ]


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
        needed = intervals.needed_n_for_ratio(objective.limit) if 0 < objective.limit < 1 else None
        return Measured(value=scenario.success_ratio, bound=scenario.success_ratio_low, n=n, needed_n=needed)
    if metric == "throughput_rps":
        return Measured(value=scenario.throughput_rps, bound=_throughput_bound(scenario, objective), n=n)
    if metric == "failed":
        return Measured(value=scenario.failed, bound=scenario.failed, n=n)
    added = scenario.generator_ms.get(metric, 0.0)  # counts, rates and what the target says hold none
    times, metric = _times(scenario, metric)
    if times is None or scenario.succeeded == 0:
        why = {"server": NO_SERVER_TIMING, "service": NO_SERVICE_TIME} if scenario.succeeded else {}
        return Measured(value=None, bound=None, n=0, missing=why.get(objective.metric.partition("_")[0]))
    if metric in EXACT:
        value = _if_known(getattr(times, metric))
        return Measured(value=value, bound=value, n=n, added=added)
    percentile = getattr(times, metric)
    if not percentile.n_effective:
        return Measured(value=_if_known(percentile.value), bound=None, n=percentile.n, unbounded=UNBOUNDED)
    bound = percentile.low if objective.upward else percentile.upper
    needed = intervals.needed_n(int(metric[1:]) / 100) * percentile.n / percentile.n_effective
    return Measured(value=percentile.value, bound=bound, n=percentile.n, needed_n=math.ceil(needed), added=added)


def _throughput_bound(scenario: ScenarioSummary, objective: Objective) -> float | None:
    """Return the throughput if the clock that its duration was read from was off by as much as it may be."""
    error_s = scenario.generator.clock_error_ms / 1000
    duration_s = scenario.duration_s + (error_s if objective.upward else -error_s)
    return scenario.succeeded / duration_s if duration_s > 0 else None


def _if_known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _times(scenario: ScenarioSummary, metric: str) -> tuple[Distribution | None, str]:
    for prefix, times in (("service_", scenario.service_time_ms), ("server_", scenario.server_time_ms)):
        if metric.startswith(prefix):
            return times, metric.removeprefix(prefix).removesuffix("_ms")
    return scenario.response_time_ms, metric.removesuffix("_ms")
