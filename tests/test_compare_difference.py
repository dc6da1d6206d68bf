"""What rounds prove: simulated sessions whose truth is known, and each reason for which nothing is proven."""

import dataclasses
import re
from typing import Any

import pytest
from comparisons import METRIC, samples, times

from tapecheck.compare import difference
from tapecheck.compare.difference import Change, Difference, State, equals, pairs
from tapecheck.compare.plan import AFTER, BEFORE, Metric

ROUNDS, NOISE = 8, 0.035  # of each run, the standard deviation of its logarithm; a ratio of two has 1.41 times as much


def measure(metric: Metric, *rounds: Any, counts: tuple[str, ...] = ()) -> Difference:
    (one,) = difference.measure([metric], *rounds, counts=counts)
    return one


@pytest.mark.parametrize(
    ("name", "better", "after", "expected"),
    [
        ("p95_ms", "lower", 5.0, "p95 10 -> 5 ms (-50 %)"),
        ("duration_s", "lower", 20.0, "duration 10 -> 20 s (+100 %)"),
        ("throughput_rps", "higher", 40.0, "throughput 10 -> 40/s (+300 %)"),
        ("records_per_s", "higher", 2.0, "records 10 -> 2/s (-80 %)"),
        ("statements", "lower", 0.0, "statements 10 -> 0 (-100 %)"),
    ],
)
def test_a_change_is_written_in_the_direction_and_unit_of_its_metric(name: str, better: str, after: float, expected: str) -> None:
    """A throughput that is four times as high rose by 300 %, whatever its ratio is called."""
    metric = Metric.model_validate({"name": name, "better": better, "smallest_effect": 0.1})
    found = samples([(n, side, 10.0 if side == "before" else after) for n in (1, 2) for side in ("before", "after")], metric=name)
    assert str(measure(metric, pairs(found), counts=(name,))) == expected
    noisy = measure(METRIC, pairs(samples(times(8, 0.5))))
    assert re.fullmatch(r"duration \S+ -> \S+ s \(-\d\d %, 95 % interval -\d\d to -\d\d %\)", str(noisy))


def test_a_difference_within_the_noise_of_identical_variants_is_not_proven() -> None:
    """Rounds may agree with each other while runs of one variant differ from each other as much: then order is what was measured."""
    for ratio in (0.8, 1.25):
        runs = [(number, side, value * (1.0 if number % 2 else 1.5)) for number, side, value in times(8, ratio, noise=0.001)]
        found = samples(runs)
        assert measure(METRIC, pairs(found), equals(found)).reason.startswith("identical variants differed by up to")


@pytest.mark.parametrize(
    ("ratios_of_rounds", "expected"),
    [
        ([0.5, 0.55, 0.5, 0.52, 0.5, 0.53], Change.IMPROVED),
        ([0.5, 0.55, 0.5, 0.52, 0.5, 1.5], Change.NOT_PROVEN),
        ([2.0, 1.9, 2.0, 2.1, 2.0, 1.95], Change.WORSE),
        ([2.0, 1.9, 2.0, 2.1, 2.0, 0.5], Change.NOT_PROVEN),
        ([1.0, 1.01, 0.99, 1.0, 1.02, 0.98], Change.NO_CHANGE),
        ([0.9, 0.95, 0.85, 0.95, 0.88, 1.0], Change.NOT_PROVEN),  # the lower end alone leaves what is no change
        ([1.11, 1.05, 1.18, 1.05, 1.14, 1.0], Change.NOT_PROVEN),  # the upper one alone
    ],
)
def test_a_claim_needs_both_ends_of_its_interval(ratios_of_rounds: list[float], expected: Change) -> None:
    """Where one end lies beyond a limit, nothing is claimed."""
    found = samples([run for number, ratio in enumerate(ratios_of_rounds, 1) for run in ((number, BEFORE, 1.0), (number, AFTER, ratio))])
    assert measure(METRIC, pairs(found)).change == expected


def test_a_count_needs_one_round_and_may_fall_to_nothing() -> None:
    """It is the same every time that the same is done; of a clock, one round gives no interval."""
    metric = Metric(name="requests", better="lower", smallest_effect=0.1)

    def one(before: float, after: float, *, is_count: bool) -> Difference:
        found = samples([(1, BEFORE, before), (1, AFTER, after)], metric="requests")
        return measure(metric, pairs(found), counts=("requests",) if is_count else ())

    assert [one(4, after, is_count=True).change for after in (2, 4, 8, 0)] == ["improved", "no_change", "worse", "improved"]
    assert {one(4, after, is_count=False).change for after in (2, 4, 8, 0)} == {Change.NOT_PROVEN}


def test_rounds_without_the_figure_are_said() -> None:
    """A stage that did not run in two of eight rounds is not compared in them."""
    found = samples(times(8, 0.5))
    for i in (0, 5):
        found[i] = dataclasses.replace(found[i], clocks={})
    assert measure(METRIC, pairs(found)).reason == "with 95 % confidence (nominal), 6 rounds; 2 rounds without this figure"


def test_more_is_better_is_an_improvement_too() -> None:
    """A throughput that rises by a quarter is a ratio of 0.8."""
    metric = Metric(name="records_per_s", better="higher", smallest_effect=0.1)
    found = samples(times(8, 1.25), metric="records_per_s")
    one = measure(metric, pairs(found), equals(found))
    assert one.change == Change.IMPROVED
    assert one.ratio is not None and one.ratio.value == pytest.approx(0.8, abs=0.03)


def test_a_claim_of_many_is_taken_back_and_says_how_many_rounds_would_tell() -> None:
    """What is proven alone is not among six of which it is no surer; more rounds than alone are needed."""
    names = ("duration_s", "fetch_s", "insert_s", "decode_s", "wait_s", "other_s")
    metrics = [METRIC.model_copy(update={"name": name}) for name in names]
    for seed in range(40):
        found = samples(times(ROUNDS, 0.86, noise=0.03, seed=seed))
        alike = [dataclasses.replace(one, clocks=dict.fromkeys(names, one.clocks["duration_s"])) for one in found]
        alone, (taken, *_) = measure(METRIC, pairs(found)), difference.measure(metrics, pairs(alike))
        if alone.change == Change.IMPROVED and taken.change == Change.NOT_PROVEN:
            break
    assert taken.p_family == pytest.approx(6 * (taken.p or 0))
    assert taken.reason.startswith(f"among 6 claims its p value is {taken.p_family:.2g}")
    assert taken.needed_rounds is not None and taken.needed_rounds > ROUNDS


@pytest.mark.parametrize(
    ("ratio", "noise", "expected"),
    [(1.0, 0.02, State.HELD), (1.05, 0.02, State.HELD), (1.3, 0.02, State.MOVED), (0.7, 0.02, State.MOVED), (1.3, 1.0, State.UNKNOWN),
     (1.0, 0.5, State.UNKNOWN)],
)  # fmt: skip
def test_a_control_moves_when_it_does_so_surely_and_far(ratio: float, noise: float, expected: State) -> None:
    """Neither noise nor a movement smaller than what matters is a drift; one that nothing bounds did neither move nor hold still."""
    assert difference.control("duration_s", METRIC.limits, pairs(samples(times(8, ratio, noise=noise)))).state is expected
    assert difference.control("duration_s", METRIC.limits, pairs(samples(times(3, ratio, noise=noise)))).state is State.UNKNOWN


def test_runs_of_one_variant_that_followed_each_other_are_equals() -> None:
    """A B, B A, A B, B A: the Bs of the first two rounds, the As of the second and third, and so on; none is used twice."""
    found = [(pair.before.round, pair.after.round, pair.before.side) for pair in equals(samples(times(4, 1.0)))]
    assert sorted(found) == [(1, 2, "after"), (2, 3, "before"), (3, 4, "after")]
