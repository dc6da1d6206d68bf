"""What rounds prove: simulated sessions whose truth is known, and each reason for which nothing is proven."""

import dataclasses
import re

import numpy as np
import pytest
from comparisons import METRIC, samples, times

from tapecheck.compare import difference
from tapecheck.compare.difference import Change, Difference
from tapecheck.compare.plan import Metric
from tapecheck.compare.samples import equals, pairs

ROUNDS, NOISE = 8, 0.035  # of each run, the standard deviation of its logarithm; a ratio of two has 1.41 times as much
SIMULATED = 1000


def session(
    ratio: float, seed: int, *, metric: Metric = METRIC, noise: float = NOISE, rounds: int = ROUNDS, drift: float = 0
) -> Difference:
    found = samples(times(rounds, ratio, noise=noise, seed=seed, drift=drift))
    return difference.measure(metric, pairs(found), equals(found), seed=seed)


def share(ratio: float, change: Change, **more: float) -> float:
    return float(np.mean([session(ratio, seed, **more).change == change for seed in range(SIMULATED)]))


@pytest.mark.parametrize(
    ("better", "after", "expected"),
    [("lower", 5.0, "x -50%"), ("lower", 20.0, "x +100%"), ("higher", 40.0, "x +300%"), ("higher", 2.0, "x -80%")],
)
def test_a_change_is_said_in_the_direction_of_its_metric(better: str, after: float, expected: str) -> None:
    """A throughput that is four times as high rose by 300 %, whatever its ratio is called."""
    metric = Metric.model_validate({"name": "x", "better": better, "smallest_effect": 0.1})
    found = samples([(n, side, 10.0 if side == "before" else after) for n in (1, 2) for side in ("before", "after")], metric="x")
    assert difference.said(difference.measure(metric, pairs(found), ())) == expected
    noisy = difference.measure(METRIC, pairs(samples(times(8, 0.5))), ())
    assert re.fullmatch(r"duration_s -\d\d% \(-\d\d% to -\d\d%\)", difference.said(noisy))


def test_a_variant_against_itself_is_no_change() -> None:
    """In at least 95 % of 1,000 simulated sessions of eight rounds, 3.5 % noise a run and a smallest effect of 10 %."""
    assert share(1.0, Change.NO_CHANGE) >= 0.95


def test_a_planted_gain_of_20_percent_is_found() -> None:
    """In at least 80 % of 1,000 simulated sessions with half more noise than above."""
    assert share(0.8, Change.IMPROVED, noise=0.05) >= 0.8


def test_a_planted_loss_of_20_percent_is_found() -> None:
    """A regression is found as surely as a gain."""
    assert share(1 / 0.8, Change.WORSE, noise=0.05) >= 0.8


@pytest.mark.parametrize("ratio", [1.0, 0.9])
def test_an_improvement_is_hardly_ever_claimed_where_there_is_none(ratio: float) -> None:
    """At most in one of 20 sessions, even where the truth lies on the edge of what matters."""
    assert share(ratio, Change.IMPROVED, noise=0.1) <= 0.05


def test_a_steady_drift_favours_neither_variant() -> None:
    """The machine gets 2 % slower with every run; rounds by turns cancel that, where all before and then all after would say 17 % worse."""
    assert share(1.0, Change.WORSE, drift=0.02) <= 0.01


def test_what_is_not_proven_says_how_many_rounds_would_tell() -> None:
    """And with so many it is."""
    found = session(0.85, 1, noise=0.1)
    assert found.change == Change.NOT_PROVEN
    assert found.needed_rounds is not None and found.needed_rounds > ROUNDS
    assert "both sides of the smallest effect" in found.reason


def test_one_round_proves_nothing_however_large_the_difference() -> None:
    """Two numbers from two afternoons."""
    found = difference.measure(METRIC, pairs(samples(times(1, 0.2))), ())
    assert (found.change, found.reason, found.needed_rounds) == (Change.NOT_PROVEN, "one round bounds nothing", None)


def test_a_difference_within_the_noise_of_identical_variants_is_not_proven() -> None:
    """Rounds may agree with each other while runs of one variant differ from each other as much: then order is what was measured."""
    runs = [(number, side, value * (1.0 if number % 2 else 1.5)) for number, side, value in times(8, 0.8, noise=0.001)]
    found = samples(runs)
    assert difference.measure(METRIC, pairs(found), equals(found)).reason.startswith("identical variants differed by up to")


def test_a_figure_that_is_zero_or_missing_is_no_data() -> None:
    """Nothing is divided by zero."""
    found = difference.measure(METRIC, pairs(samples([(1, "before", 0.0), (1, "after", 1.0)])), ())
    assert found.ratio is None
    assert found.change == Change.NOT_PROVEN
    assert difference.measure(METRIC, (), ()).ratio is None


def test_more_is_better_is_an_improvement_too() -> None:
    """A throughput that rises by a quarter is a ratio of 0.8."""
    metric = Metric(name="records_per_s", better="higher", smallest_effect=0.1)
    found = samples(times(8, 1.25), metric="records_per_s")
    one = difference.measure(metric, pairs(found), equals(found))
    assert one.change == Change.IMPROVED
    assert one.ratio is not None and one.ratio.value == pytest.approx(0.8, abs=0.03)


def test_one_claim_of_many_is_taken_back() -> None:
    """What alone has a p value of 0.03 has it three times among three."""
    alone = {("a", i): session(0.8, i, noise=noise) for i, noise in enumerate((0.02, 0.02, 0.02))}
    weak = {key: one if key[1] else dataclasses.replace(one, p=0.03) for key, one in alone.items()}
    found = difference.among_family(weak)
    assert found["a", 1].change == Change.IMPROVED
    strong = difference.among_family({("a", 0): weak["a", 0]})
    assert strong["a", 0].change == Change.IMPROVED
    crowd = difference.among_family({("a", i): dataclasses.replace(weak["a", 0], p=0.03) for i in range(3)})
    assert {one.change for one in crowd.values()} == {Change.NOT_PROVEN}
    assert "among 3 claims its p value is 0.09" in crowd["a", 0].reason


@pytest.mark.parametrize(("ratio", "expected"), [(1.0, False), (1.05, False), (1.3, True), (0.7, True)])
def test_a_control_moves_when_it_does_so_surely_and_far(ratio: float, expected: bool) -> None:
    """Neither noise nor a movement smaller than what matters is a drift."""
    assert difference.moved(METRIC, pairs(samples(times(8, ratio, noise=0.02))))[1] is expected


def test_runs_of_one_variant_that_followed_each_other_are_equals() -> None:
    """A B, B A, A B, B A: the Bs of the first two rounds, the As of the second and third, and so on; none is used twice."""
    found = [(pair.before.round, pair.after.round, pair.before.side) for pair in equals(samples(times(4, 1.0)))]
    assert sorted(found) == [(1, 2, "after"), (2, 3, "before"), (3, 4, "after")]


def test_a_round_with_a_failed_run_is_left_out_whole() -> None:
    """The other run of it has no partner any more."""
    found = samples(times(4, 1.0), problems={(2, "after"): "3 of 5 jobs failed"})
    assert [pair.before.round for pair in pairs(found)] == [1, 3, 4]
