"""Percentiles and intervals against known answers."""

import ast
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapecheck.statistics import intervals


@pytest.mark.parametrize(
    ("n", "p", "low", "high"),
    [(100, 0.95, 90, 100), (100, 0.99, 97, None), (400, 0.95, 371, 389), (400, 0.99, 392, 400), (1000, 0.99, 983, 997)],
)
def test_interval_ranks_are_the_published_ones(n: int, p: float, low: int, high: int | None) -> None:
    """The distribution-free 95 % interval takes the order statistics that the binomial tables give."""
    found = intervals.percentile_of_sorted(np.arange(1, n + 1), p)
    assert (found.low, found.high) == (low, high)


@pytest.mark.parametrize(("n", "has_bound"), [(298, False), (299, True), (500, True)])
def test_p99_has_an_upper_bound_from_299_samples(n: int, has_bound: bool) -> None:
    """A p99 without 299 samples has no one-sided bound, and says so with None instead of the maximum; a p95 needs 59."""
    assert (intervals.needed_n(0.99), intervals.needed_n(0.95)) == (299, 59)
    assert (intervals.percentile_of_sorted(np.arange(n), 0.99).upper is not None) == has_bound


@pytest.mark.parametrize(("successes", "n", "low"), [(0, 0, 0.0), (0, 10, 0.0), (10, 10, 0.7411), (5, 10, 0.2224), (100, 100, 0.9705)])
def test_ratio_lower_bound(successes: int, n: int, low: float) -> None:
    """The lower bound equals Clopper and Pearson's, and nothing proves nothing."""
    assert intervals.ratio_lower_bound(successes, n) == pytest.approx(low, abs=1e-4)


def test_ratio_of_more_successes_than_requests_is_refused() -> None:
    """A count that cannot be is an error, not a ratio above one."""
    with pytest.raises(ValueError, match="11 successes of 10"):
        intervals.ratio_lower_bound(11, 10)


def test_distribution_of_nothing_is_none() -> None:
    """An empty sample has no percentiles; nothing is divided by zero."""
    assert intervals.distribution(np.array([])) is None


@settings(max_examples=40)
@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=300), st.sampled_from([0.0, 0.5, 0.9, 0.95, 0.99, 1.0]))
def test_percentile_agrees_with_numpy_and_lies_in_its_interval(values: list[float], p: float) -> None:
    """Every percentile equals numpy's linear one and lies between its bounds."""
    x = np.sort(np.array(values))
    found = intervals.percentile_of_sorted(x, p)
    assert found.value == pytest.approx(np.quantile(x, p), rel=1e-12, abs=1e-9)
    assert found.low is None or found.low <= found.value + 1e-9
    assert found.high is None or found.high >= found.value - 1e-9


@pytest.mark.parametrize(("n", "p"), [(60, 0.5), (100, 0.9), (500, 0.99)])
def test_interval_covers_the_truth_at_least_95_percent_of_the_time(n: int, p: float) -> None:
    """Of 600 intervals of exponential samples, 95 % or more hold the true quantile (margin: 4 standard errors)."""
    samples = np.sort(np.random.default_rng(7).exponential(size=(600, n)), axis=1)
    truth = -np.log(1 - p)
    found = [intervals.percentile_of_sorted(row, p) for row in samples]
    covered = np.mean([f.low is not None and f.low <= truth and (f.high is None or truth <= f.high) for f in found])
    assert covered >= 0.95 - 4 * np.sqrt(0.95 * 0.05 / 600)


@settings(max_examples=40)
@given(st.integers(1, 5000), st.floats(0.01, 0.999))
def test_ranks_are_the_tightest_that_hold(n: int, p: float) -> None:
    """No smaller upper rank and no larger lower rank keeps the promised tail."""
    from scipy.stats import binom  # takes a second, which only who runs these tests pays

    ranks = np.arange(1, n + 1)
    found = intervals.percentile_of_sorted(ranks, p)
    high, low, at = found.high, found.low, found.value
    if high is not None:
        assert 1 - binom.cdf(high - 1, n, p) <= 0.025 + 1e-12 < 1 - binom.cdf(high - 2, n, p) + 1e-9
    if low is not None and low < at:
        assert binom.cdf(low - 1, n, p) <= 0.025 + 1e-12 < binom.cdf(low, n, p) + 1e-9


def test_spectrum_ends_within_what_n_resolves() -> None:
    """The spectrum of 1,000 samples ends at p99.9, not at a percentile that no sample stands for."""
    line = intervals.spectrum(np.arange(1000), np.array([1000]))
    assert line["p"].max() == pytest.approx(0.999)
    assert np.all(np.diff(line["value"]) >= 0)


@pytest.mark.parametrize(
    ("part", "spent"),
    [(0.2, 0.000011726), (0.4, 0.0019424), (0.6, 0.0113984), (0.8, 0.0284290), (1.0, 0.05)],  # R: 2 - 2 * pnorm(qnorm(0.975) / sqrt(t))
)
def test_looks_spend_little_error_at_first_and_all_of_it_at_last(part: float, spent: float) -> None:
    """As Lan and DeMets spend it after O'Brien and Fleming."""
    assert intervals.spent(part) == pytest.approx(spent, rel=1e-3)


def test_a_bootstrap_interval_leaves_out_2_5_percent_at_either_end() -> None:
    """Each parameter has its own column, and the order of its estimates does not matter."""
    estimates = np.random.default_rng(0).permuted(np.column_stack([np.arange(201.0), 1000 - 2 * np.arange(201.0)]), axis=0)
    low, high = intervals.bootstrap_interval(estimates)
    assert low.tolist() == [5, 610]
    assert high.tolist() == [195, 990]


def test_percentiles_are_computed_here_and_nowhere_else() -> None:
    """One definition: no other module calls numpy's, pandas' or Python's own."""
    asked = {"percentile", "quantile", "quantiles", "nanpercentile", "nanquantile", "median", "nanmedian"}
    texts = {file.name: file.read_text(encoding="utf-8") for file in Path(intervals.__file__).parents[1].rglob("*.py")}
    called = {
        f"{name}: {ast.unparse(node.func)}"
        for name, text in texts.items()
        if any(f".{one}(" in text for one in asked)  # parsing takes longer
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in asked
    }
    assert {one for one in called if not one.endswith(": intervals.median")} == {"intervals.py: np.percentile"}


# ---- samples that come in batches ----


def test_equal_batches_are_worth_all_their_samples() -> None:
    """Where every batch has the same share, or there is only one, nothing says that its samples are alike."""
    assert intervals.effective_n(np.array([95, 95, 95]), np.array([100, 100, 100])) == 300
    assert intervals.effective_n(np.array([95]), np.array([100])) == 100
    assert intervals.effective_n(np.array([0, 0]), np.array([100, 100])) == 200


def test_batches_that_are_all_or_nothing_are_worth_no_more_than_their_number() -> None:
    """20 batches of 100 whose samples agree to the last are 20 pieces of information, less what estimating that costs."""
    from scipy.stats import t

    batches = np.full(20, 100)
    hits = np.where(np.arange(20) % 2, 100, 0)
    by_hand = 19 * (t.ppf(0.975, 1999) / t.ppf(0.975, 19)) ** 2
    assert intervals.effective_n(hits, batches) == pytest.approx(by_hand)


def test_a_batch_without_samples_is_none() -> None:
    """A value of a parameter that a round did not ask for is no evidence on that round."""
    assert intervals.effective_n(np.array([5, 0, 9]), np.array([10, 0, 10])) == intervals.effective_n(np.array([5, 9]), np.array([10, 10]))


def _in_batches(rng: np.random.Generator, batches: int, size: int) -> np.ndarray:
    """Each batch has a level of its own, as the rounds of a burst have; levels and noise are normal with variance 1."""
    return (rng.normal(size=(batches, 1)) + rng.normal(size=(batches, size))).ravel()


@pytest.mark.parametrize(("batches", "size", "p"), [(50, 100, 0.5), (50, 100, 0.9), (100, 20, 0.95)])
def test_intervals_of_batches_cover_the_truth_where_independent_ones_do_not(batches: int, size: int, p: float) -> None:
    """Of 200 intervals 90 % and more hold the truth; taken as independent, fewer than 70 % do (one standard error: 2 to 3 %)."""
    rng, truth, sizes = np.random.default_rng(3), NormalDist().inv_cdf(p) * np.sqrt(2), np.full(batches, size)
    covered = {"batches": 0, "independent": 0}
    for _ in range(200):
        x = _in_batches(rng, batches, size)
        for name, given_batches in (("batches", sizes), ("independent", None)):
            found = intervals.distribution(x, given_batches)
            assert found is not None
            one = {0.5: found.p50, 0.9: found.p90, 0.95: found.p95}[p]
            covered[name] += (one.low is None or one.low <= truth) and (one.high is None or truth <= one.high)
    assert covered["batches"] >= 0.90 * 200
    assert covered["independent"] < 0.7 * 200


def test_an_upper_bound_of_batches_is_exceeded_in_one_of_twenty() -> None:
    """A verdict that trusts `upper` is wrong at most about 5 % of the time; the value itself would be wrong half of the time."""
    rng, truth, sizes = np.random.default_rng(4), NormalDist().inv_cdf(0.9) * np.sqrt(2), np.full(50, 40)
    found = [intervals.distribution(_in_batches(rng, 50, 40), sizes) for _ in range(250)]
    wrong = sum(f is not None and f.p90.upper is not None and f.p90.upper < truth for f in found)
    assert wrong <= 0.08 * 250
    assert sum(f is not None and f.p90.value < truth for f in found) > 0.3 * 250


def test_a_chart_shows_the_intervals_of_the_table() -> None:
    """The spectrum's band is as wide as the percentiles' intervals: batches count in both."""
    x, sizes = _in_batches(np.random.default_rng(5), 50, 100), np.full(50, 100)
    line, found = intervals.spectrum(x, sizes), intervals.distribution(x, sizes)
    assert found is not None
    at = int(np.argmin(np.abs(line["p"] - 0.9)))
    width, wanted = line["high"][at] - line["low"][at], (found.p90.high or 0) - (found.p90.low or 0)
    assert 0.7 < width / wanted < 1.4


@settings(max_examples=40)
@given(successes=st.integers(0, 500), more=st.integers(0, 500), worth=st.floats(0.01, 1))
def test_fewer_effective_samples_prove_less(successes: int, more: int, worth: float) -> None:
    """The lower bound of a ratio never rises when the same counts are worth fewer independent ones."""
    n = successes + more
    assert intervals.ratio_lower_bound(successes, n, n * worth) <= intervals.ratio_lower_bound(successes, n) + 1e-12


def test_batches_are_compared_at_the_quantile_whatever_order_the_samples_have() -> None:
    """Two parameters in turn, one fast, one slow and different in each stretch: no choice of samples may skip one of them."""
    rng, n = np.random.default_rng(6), 150_000
    slow = np.repeat(rng.normal(100, 20, 20), n // 20) + rng.normal(0, 0.1, n)
    found = intervals.distribution(np.where(np.arange(n) % 2, slow, 1.0), np.full(20, n // 20))
    assert found is not None
    assert found.p90.n_effective < 1000
