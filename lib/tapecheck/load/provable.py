"""Finds objectives that a load plan sends too few requests to prove. It sends none, and refuses no run: there they end as not_proven."""

import re
from collections.abc import Iterator, Mapping
from typing import assert_never

from tapecheck.errors import Problem
from tapecheck.load.plan import METRICS, Burst, Capacity, Closed, ConstantRate, LoadPlan, RampingRate
from tapecheck.load.schedule import Schedule
from tapecheck.stats import needed_n, needed_n_for_ratio
from tapecheck.verdict import Objective, parse

_PERCENTILE = re.compile(r"(?:service_|server_)?p(\d\d)_ms")


def problems(plan: LoadPlan, *, file: str, lines: Mapping[str, int]) -> list[Problem]:
    """Return one problem for each objective and scenario whose number of requests is known and does not do, with the one that would.

    Args:
        lines: of the file's keys, written as in `scenarios.steady.rate_rps`.
    """
    return [
        Problem(
            file=file,
            line=lines.get(f"scenarios.{name}"),
            key=f"scenarios.{name}",
            got=f"{sent} requests for {objective}",
            allowed=f"{needed} or more, with which it can be proven with 95 % confidence; with fewer it is not_proven",
        )
        for objective in (parse(text, METRICS, plan.scenarios) for text in plan.objectives)
        for name, sent in _sent(plan)
        if objective.scope in (None, name) and (needed := _needed(objective)) > sent
    ]


def _sent(plan: LoadPlan) -> Iterator[tuple[str, int]]:
    """Yield how many requests count of each scenario of which that is known beforehand, with all extensions."""
    times = 1 + plan.extensions
    for name, scenario in plan.scenarios.items():
        match scenario:
            case Burst():
                yield name, scenario.concurrency * scenario.rounds * times
            case ConstantRate() | RampingRate():
                yield name, Schedule(stages=scenario.stages_of_rate).total * times
            case Closed() | Capacity():  # as many as the target answers; levels enough for a p99
                continue
            case _:
                assert_never(scenario)


def _needed(objective: Objective) -> int:
    """Return how many requests can prove an objective, all of them succeeding; 0 where any number does, or none."""
    if objective.metric == "success_ratio":
        return needed_n_for_ratio(objective.limit) if objective.upward and 0 < objective.limit < 1 else 0
    percentile = _PERCENTILE.fullmatch(objective.metric)
    return needed_n(int(percentile[1]) / 100) if percentile and not objective.upward else 0
