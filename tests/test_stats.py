"""Percentiles and intervals against known answers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from tapecheck import stats


@pytest.mark.parametrize(
    ("n", "p", "low", "high"),
    [(100, 0.95, 90, 100), (100, 0.99, 97, None), (400, 0.95, 371, 389), (400, 0.99, 392, 400), (1000, 0.99, 983, 997)],
)
def test_interval_ranks_are_the_published_ones(n: int, p: float, low: int, high: int | None) -> None:
    """The distribution-free 95 % interval takes the order statistics that the binomial tables give."""
    found = stats.percentile_of_sorted(np.arange(1, n + 1), p)
    assert (found.low, found.high) == (low, high)


@pytest.mark.parametrize(("n", "has_bound"), [(298, False), (299, True), (500, True)])
def test_p99_has_an_upper_bound_from_299_samples(n: int, has_bound: bool) -> None:
    """A p99 without 299 samples has no one-sided bound, and says so with None instead of the maximum."""
    assert (stats.percentile_of_sorted(np.arange(n), 0.99).upper is not None) == has_bound


def test_p99_of_100_samples_is_not_the_maximum() -> None:
    """The percentile interpolates at p(n-1): the index int(p*n) of an earlier script gave the maximum."""
    assert stats.percentile_of_sorted(np.arange(1, 101), 0.99).value == pytest.approx(99.01)


@pytest.mark.parametrize(("p", "n"), [(0.95, 59), (0.99, 299)])
def test_needed_n(p: float, n: int) -> None:
    """The sample size that gives a bound is the published one."""
    assert stats.needed_n(p) == n == stats.needed_n_for_ratio(p)


def test_all_of_100_successes_prove_97_percent() -> None:
    """100 of 100 successes prove only 97.05 %."""
    assert stats.ratio_lower_bound(100, 100) == pytest.approx(0.9705, abs=5e-5)


@pytest.mark.parametrize(("successes", "n", "low"), [(0, 0, 0.0), (0, 10, 0.0), (10, 10, 0.7411), (5, 10, 0.2224)])
def test_ratio_lower_bound(successes: int, n: int, low: float) -> None:
    """The lower bound equals Clopper and Pearson's, and nothing proves nothing."""
    assert stats.ratio_lower_bound(successes, n) == pytest.approx(low, abs=1e-4)


def test_ratio_of_more_successes_than_requests_is_refused() -> None:
    """A count that cannot be is an error, not a ratio above one."""
    with pytest.raises(ValueError, match="11 successes of 10"):
        stats.ratio_lower_bound(11, 10)


def test_distribution_of_nothing_is_none() -> None:
    """An empty sample has no percentiles; nothing is divided by zero."""
    assert stats.distribution(np.array([])) is None


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=300), st.sampled_from([0.0, 0.5, 0.9, 0.95, 0.99, 1.0]))
def test_percentile_agrees_with_numpy_and_lies_in_its_interval(values: list[float], p: float) -> None:
    """Every percentile equals numpy's linear one and lies between its bounds."""
    x = np.sort(np.array(values))
    found = stats.percentile_of_sorted(x, p)
    assert found.value == pytest.approx(np.quantile(x, p), rel=1e-12, abs=1e-9)
    assert found.low is None or found.low <= found.value + 1e-9
    assert found.high is None or found.high >= found.value - 1e-9


@pytest.mark.parametrize(("n", "p"), [(60, 0.5), (100, 0.9), (500, 0.99)])
def test_interval_covers_the_truth_at_least_95_percent_of_the_time(n: int, p: float) -> None:
    """Of 2,000 intervals of exponential samples, 95 % or more hold the true quantile (margin: 4 standard errors)."""
    samples = np.sort(np.random.default_rng(7).exponential(size=(2000, n)), axis=1)
    truth = -np.log(1 - p)
    found = [stats.percentile_of_sorted(row, p) for row in samples]
    covered = np.mean([f.low is not None and f.low <= truth and (f.high is None or truth <= f.high) for f in found])
    assert covered >= 0.95 - 4 * np.sqrt(0.95 * 0.05 / 2000)


@given(st.integers(1, 5000), st.floats(0.01, 0.999))
def test_ranks_are_the_tightest_that_hold(n: int, p: float) -> None:
    """No smaller upper rank and no larger lower rank keeps the promised tail."""
    high, low = stats.upper_rank(n, p, 0.025), stats.lower_rank(n, p, 0.025)
    if high is not None:
        assert 1 - binom.cdf(high - 1, n, p) <= 0.025 + 1e-12 < 1 - binom.cdf(high - 2, n, p) + 1e-9
    if low is not None:
        assert binom.cdf(low - 1, n, p) <= 0.025 + 1e-12 < binom.cdf(low, n, p) + 1e-9


def test_spectrum_ends_within_what_n_resolves() -> None:
    """The spectrum of 1,000 samples ends at p99.9, not at a percentile that no sample stands for."""
    line = stats.spectrum(np.arange(1000))
    assert line["p"].max() == pytest.approx(0.999)
    assert np.all(np.diff(line["value"]) >= 0)


@given(x=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=400))
def test_a_distribution_selects_what_sorting_would_find(x: list[float]) -> None:
    """Order statistics are put in their places, not sorted; no figure may differ."""
    found = stats.distribution(np.array(x))
    assert found is not None
    s = np.sort(x)
    assert (found.min, found.max) == (s[0], s[-1])
    for p, one in ((0.5, found.p50), (0.9, found.p90), (0.95, found.p95), (0.99, found.p99)):
        assert one == stats.percentile_of_sorted(s, p)
