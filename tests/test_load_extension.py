"""A scenario goes on until its percentiles are bounded, and no longer than the plan allows."""

import dataclasses

import numpy as np
import pytest
import servers
from samples import burst, measured, recording
from servers import Server

from tapecheck.load import analysis, metrics
from tapecheck.load.engine.recorder import Measurement, joined
from tapecheck.load.plan import METRICS, GeneratorLimits, LoadPlan
from tapecheck.load.validation import load
from tapecheck.statistics import intervals
from tapecheck.target.file import Target
from tapecheck.verdict import parse

WIDE = {"lag_p99_ms": 1e6, "dispatch_lag_p99_ms": 1e6, "cpu_ratio": 1, "achieved_ratio": 0.01}


@pytest.mark.parametrize(
    ("objective", "extensions", "requests"),
    [
        ("p95_ms < 60000", 0, {20}),
        ("p95_ms < 60000", 1, {40}),  # 59 are needed, so one extension is not enough
        ("p95_ms < 60000", 5, {60, 80, 100, 120}),  # more than the least where rounds differ
        ("mean_ms < 60000", 5, {20}),
        ("elsewhere.p95_ms < 60000", 5, {20}),
    ],
)
def test_a_scenario_is_extended_until_its_percentiles_are_bounded(objective: str, extensions: int, requests: set[int]) -> None:
    """Rounds are numbered on, no request is lost, and what needs no more samples is sent once."""
    scenario = {"executor": "burst", "concurrency": 20, "request": "one"}
    data = {"scenarios": {"hot": scenario}, "objectives": [], "extensions": extensions, "generator": WIDE}
    plan = LoadPlan.model_validate(data).model_copy(update={"objectives": (objective,) if not objective.startswith("else") else ()})
    with Server(servers.fast) as server:
        target = Target.model_validate({"name": "t", "kind": "external", "base_url": server.url, "requests": {"one": "GET /"}})
        found = load.run(plan, target)
    rows = found.samples
    assert rows.num_rows in requests
    assert rows.column("round").to_pylist() == [i // 20 for i in range(rows.num_rows)]
    assert load.summarize(found, plan)["hot"].connections_opened == rows.num_rows


def test_enough_is_a_question_of_samples_and_never_of_their_values() -> None:
    """A figure that misses its objective by far is bounded like one that meets it, so that no run is extended until it passes."""
    limits = GeneratorLimits(lag_p99_ms=20)
    for scale in (1, 1000):
        rows = burst(scale * np.random.default_rng(1).uniform(1, 2, 30_000), per_round=100)
        for n, enough in ((10_000, True), (200, False)):
            summary = analysis.summarize(recording({"a": rows[:n]}), limits)["a"]
            assert metrics.bounded(summary, [parse("p99_ms < 2", METRICS)], "a") is enough


def part(rounds: int, **more: object) -> Measurement:
    rows = burst(np.full(3 * rounds, 5.0), per_round=3)
    rows["connection"] = np.tile([0, 1, 2], rounds)
    return dataclasses.replace(measured(rows), connections=2, **more)


def test_parts_of_a_scenario_become_one() -> None:
    """Counts add up, the worst of what one limit is about is kept, and no two parts share a round or a connection."""
    one = joined(
        [part(2, checked=3, cpu_ratio=0.5, offered=10, on_time=10), part(1), part(1, checked=4, offered=10, on_time=8, lost=("a",))]
    )
    assert one.samples["round"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert one.samples["connection"].tolist() == [0, 1, 2, 0, 1, 2, 0, 3, 4, 0, 5, 6]
    assert (one.checked, one.connections, one.cpu_ratio, one.achieved_ratio, one.lost) == (7, 6, 0.5, 0.9, ("a",))


def test_a_part_without_a_sample_does_not_disturb_the_others() -> None:
    """An empty part, such as of a schedule without an arrival, joins too."""
    assert joined([part(0), part(1), part(0)]).samples["round"].tolist() == [0, 0, 0]


def test_the_bound_of_a_scenario_that_was_extended_covers_as_stated() -> None:
    """Of 200 bursts whose rounds differ, at most a tenth have a bound below the true p99, whether or not they were extended."""
    rng = np.random.default_rng(3)
    place = np.arange(1, 101) / 100

    def rounds(number: int) -> np.ndarray:
        return (np.exp(rng.normal(0, 0.5, number))[:, None] * place * np.exp(rng.normal(0, 0.05, (number, 100)))).ravel()

    true, below = np.quantile(rounds(20_000), 0.99), 0
    for _ in range(200):
        times = rounds(300)
        for number in (150, 300):
            upper = intervals.distribution(times[: 100 * number].copy(), np.full(number, 100)).p99.upper
            if upper is not None:
                break
        below += upper is not None and upper < true
    assert below <= 20
