"""Paired rounds against known answers and by simulation: what is claimed is true as often as it is said to be."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapecheck.statistics import paired

POSITIVE = st.lists(st.tuples(st.floats(0.1, 100), st.floats(0.1, 100)), min_size=4, max_size=12)
SIMULATED = 400


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """A simulation needs no more: it draws hundreds of sessions."""
    monkeypatch.setattr(paired, "RESAMPLES", 300)


def test_the_ratio_is_the_geometric_mean_of_the_rounds() -> None:
    """Halved once and doubled once is no change; a throughput that doubled has the ratio 0.5, as a time that halved has."""
    assert paired.ratio(paired.logs([2, 2], [1, 4])).value == pytest.approx(1)
    assert paired.ratio(paired.logs([10, 10], [20, 20], less_is_better=False)).value == pytest.approx(0.5)


@settings(max_examples=20)
@given(POSITIVE)
def test_before_and_after_swapped_give_the_inverse(pairs: list[tuple[float, float]]) -> None:
    """No side is privileged, in the ratio nor in its interval."""
    before, after = zip(*pairs, strict=True)
    there, back = (paired.ratio(paired.logs(*sides)) for sides in ((before, after), (after, before)))
    assert there.value * back.value == pytest.approx(1)
    assert there.low is not None and there.high is not None and back.low is not None and back.high is not None
    assert (there.low, there.high) == (pytest.approx(1 / back.high), pytest.approx(1 / back.low))


@pytest.mark.parametrize(("before", "after"), [([1.0, 0.0], [1.0, 1.0]), ([1.0], [1.0, 1.0]), ([1.0], [-1.0])])
def test_what_is_no_pair_above_zero_is_refused(before: list[float], after: list[float]) -> None:
    """A time of zero has no ratio, and a run without its partner is no round."""
    with pytest.raises(ValueError, match="no pairs above 0"):
        paired.logs(before, after)


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_too_few_rounds_have_a_ratio_and_no_interval(rounds: int) -> None:
    """An interval of two would have no width, one of three would leave the truth out once in five; of one, nothing is claimed at all."""
    d = paired.logs([2.0, 2.1, 2.3][:rounds], [1.0] * rounds)
    found = paired.ratio(d)
    assert (found.low, found.high, found.n, found.exact) == (None, None, rounds, False) and 0.4 < found.value <= 0.5
    assert (paired.p_below(d, 0.9) == 1.0) == (rounds == 1)


def test_rounds_that_all_say_the_same_are_exact() -> None:
    """A count that is the same every round needs no statistics."""
    found = paired.ratio(paired.logs([30, 30, 30], [10, 10, 10]))
    assert found.exact
    assert found.low == found.high == found.value
    assert paired.p_below(paired.logs([30] * 3, [10] * 3), 0.9) == 0.0


def test_the_same_seed_gives_the_same_interval() -> None:
    """A recorded comparison that is analysed again says the same."""
    d = np.random.default_rng(1).normal(0, 0.1, 8)
    assert paired.ratio(d, seed=3) == paired.ratio(d, seed=3) != paired.ratio(d, seed=4)


def test_the_p_value_is_that_of_students_test() -> None:
    """The claim "below 0.9" is the one-sided t test of the logarithms, doubled."""
    from scipy import stats as reference

    d = np.log([0.7, 0.8, 0.75, 0.9, 0.66])
    expected = 2 * reference.ttest_1samp(d, math.log(0.9), alternative="less").pvalue
    assert paired.p_below(d, 0.9) == pytest.approx(expected)
    assert paired.p_above(-d, 1 / 0.9) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("p", "adjusted"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
        ([0.5, 0.6], [1.0, 1.0]),
        ([0.02], [0.02]),
        ([], []),
    ],
)
def test_holm(p: list[float], adjusted: list[float]) -> None:
    """Adjusted p values are R's, in the order in which they came."""
    assert paired.holm(p) == pytest.approx(adjusted)


def test_the_noise_floor_of_known_noise() -> None:
    """With many pairs it is 1.96 standard errors, and it shrinks with the root of the rounds; equals that all got slower are noise too."""
    a = np.tile([0.1, -0.1], 5000)
    assert paired.noise_floor(a, 1) == pytest.approx(1 - math.exp(-0.196), abs=1e-3)
    assert paired.noise_floor(a, 4) == pytest.approx(1 - math.exp(-0.098), abs=1e-3)
    assert paired.noise_floor(np.array([]), 4) is None
    assert paired.noise_floor(np.array([0.1, -0.1]), 1) == pytest.approx(1 - math.exp(-0.43027), abs=1e-4)  # t of 2 is 4.3027
    assert (paired.noise_floor(np.full(6, 0.2), 6) or 0) > 0.1


def test_needed_rounds_are_the_least_that_would_do() -> None:
    """With one round fewer the half-width of the interval is larger than the distance."""
    from scipy import stats as reference

    d = np.random.default_rng(2).normal(math.log(0.85), 0.1, 8)
    found = paired.ratio(d)
    n = paired.needed_rounds(found, 0.9)
    assert n is not None
    distance = abs(math.log(found.value / 0.9))
    widths = [(reference.t.ppf(0.975, k - 1) + reference.t.ppf(0.8, k - 1)) * found.spread / math.sqrt(k) for k in (n - 1, n)]
    assert widths[0] > distance >= widths[1] and (paired.needed_rounds(found, 0.9, claims=4) or 0) > n


@pytest.mark.usefixtures("few_resamples")
@pytest.mark.parametrize("rounds", [4, 6, 24])
def test_the_interval_covers_the_truth_as_often_as_it_says(rounds: int) -> None:
    """92 to 98 % of intervals from normal noise have the true ratio in them (one standard error: 0.8 %)."""
    rng, truth, covered = np.random.default_rng(rounds), math.log(0.8), 0
    for seed in range(2 * SIMULATED):
        found = paired.ratio(rng.normal(truth, 0.1, rounds), seed=seed)
        assert found.low is not None and found.high is not None
        covered += found.low <= 0.8 <= found.high
    assert 0.92 <= covered / (2 * SIMULATED) <= 0.98


@pytest.mark.usefixtures("few_resamples")
def test_the_interval_holds_where_noise_is_skewed() -> None:
    """Of rounds that are now and then disturbed, six of them, 90 % of intervals have the truth in them; the plain bootstrap's have not."""
    rng, covered = np.random.default_rng(1), 0
    for seed in range(SIMULATED):
        found = paired.ratio(rng.exponential(0.1, 6) - 0.1, seed=seed)
        assert found.low is not None and found.high is not None
        covered += found.low <= 1 <= found.high
    assert covered / SIMULATED >= 0.9


@pytest.mark.parametrize("ratios", [(0.048, 0.048, 0.094, 0.052), (0.5, 0.5, 0.5, 0.6), (1.0, 1.0, 1.0001, 2.0), (3.0, 3.1, 3.0, 3.0, 9.0)])
def test_a_few_rounds_that_nearly_agree_bound_the_ratio_all_the_same(ratios: tuple[float, ...]) -> None:
    """A resample of nearly equal rounds has hardly a spread, and made ends of 1,000,000: no end is twice as far as Student's t."""
    for d in (np.log(ratios) + np.linspace(0, 1e-6, len(ratios)), np.log(ratios)):
        found, half = paired.ratio(d), 3.1824 * d.std(ddof=1) / math.sqrt(len(d))
        assert found.low is not None and found.high is not None
        assert max(math.log(found.high / found.value), math.log(found.value / found.low)) < 2 * half


def test_an_end_that_bounds_nothing_is_not_written_as_a_number() -> None:
    """The first look at four of 24 rounds is so strict that its interval may reach anywhere; what is less than nothing has a number."""
    found = paired.ratio(np.log([0.048, 0.048, 0.094, 0.052]), alpha=1e-6)
    assert found.change(more_is_better=False) == "-94% (-100% to no bound)"
    assert found.change(more_is_better=True) == "+1,626% (-100% to no bound)"


@pytest.mark.parametrize("rounds", [4, 12])
def test_a_stricter_level_stretches_both_ends_as_students_t_does(rounds: int) -> None:
    """By the quotient of its quantiles: few rounds have no resamples as rare as the level of a first look."""
    from scipy import stats as reference

    d = np.random.default_rng(rounds).normal(0, 0.1, rounds)
    plain, strict = paired.ratio(d), paired.ratio(d, alpha=1e-4)
    wider = reference.t.isf(5e-5, rounds - 1) / reference.t.isf(0.025, rounds - 1)
    for end in ("low", "high"):
        assert math.log(getattr(strict, end) / strict.value) == pytest.approx(wider * math.log(getattr(plain, end) / plain.value))
