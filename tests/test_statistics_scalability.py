"""The scalability law recovers planted parameters, and is silent beyond what was measured."""

import numpy as np
import pytest

from tapecheck.statistics import scalability

N = np.array([1, 2, 4, 8, 16, 32, 64.0])


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few are enough where no interval is judged."""
    monkeypatch.setattr(scalability, "RESAMPLES", 10)


@pytest.mark.parametrize(("gamma", "alpha", "beta"), [(1000, 0.05, 0.001), (200, 0.3, 0.0), (50, 0.0, 0.0005)])
def test_planted_parameters_are_recovered(gamma: float, alpha: float, beta: float) -> None:
    """Without noise the fit returns what was planted."""
    found = scalability.fit(N, scalability.law(N, gamma, alpha, beta))
    assert found.gamma_rps.value == pytest.approx(gamma, rel=1e-3)
    assert found.alpha.value == pytest.approx(alpha, abs=1e-3)
    assert found.beta.value == pytest.approx(beta, abs=1e-5)


def test_intervals_hold_the_truth_most_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 8 sweeps with 3 % noise, at least three quarters of the intervals hold alpha, and so for beta (nominal 95 %, few levels)."""
    monkeypatch.setattr(scalability, "RESAMPLES", 40)  # a fifth is enough for ends of intervals
    rng = np.random.default_rng(3)
    held = np.zeros(2)
    for i in range(8):
        found = scalability.fit(N, scalability.law(N, 1000, 0.05, 0.001) * np.exp(rng.normal(0, 0.03, len(N))), seed=i)
        held += [found.alpha.low <= 0.05 <= found.alpha.high, found.beta.low <= 0.001 <= found.beta.high]
    assert np.all(held >= 6), held


def test_a_peak_is_claimed_only_inside_the_measured_range() -> None:
    """A law that would peak at N = 97 has no peak when only 64 was measured, and one when 128 was."""
    near, far = (
        scalability.fit(N, scalability.law(N, 100, 0.05, 0.0001)),
        scalability.fit(np.append(N, 128), scalability.law(np.append(N, 128), 100, 0.05, 0.0001)),
    )
    assert (near.peak_concurrency, near.peak_rps) == (None, None)
    assert "nothing is claimed beyond" in near.peak_note
    assert far.peak_concurrency == pytest.approx(97.5, rel=0.01)


def test_no_throughput_is_given_beyond_the_range() -> None:
    """Asking the law for N = 100 when 64 was the highest is an error."""
    found = scalability.fit(N, scalability.law(N, 100, 0.05, 0.001))
    with pytest.raises(ValueError, match="fitted for N from 1 to 64"):
        found.throughput_rps(100)


@pytest.mark.parametrize(("n", "x", "message"), [([1, 2, 3], [1, 2, 3], "at least 6 needed"), (N, N * 0, "above 0")])
def test_too_little_to_fit(n: list[float], x: list[float], message: str) -> None:
    """Too few levels, or levels that carried nothing, are refused."""
    with pytest.raises(ValueError, match=message):
        scalability.fit(np.array(n, dtype=float), np.array(x, dtype=float))


def test_levels_with_less_than_one_in_flight_are_fitted() -> None:
    """On the way the fit tries parameters that leave no positive throughput below N = 1, and turns away from them without a word."""
    n = np.array([0.6, 1.22, 3.3, 0.06, 0.54, 0.05, 1.46])
    found = scalability.fit(n, np.array([124.0, 27, 42, 224, 250, 64, 231]))
    assert np.isfinite([found.gamma_rps.value, found.alpha.value, found.beta.value, found.residual_ratio]).all()
