"""The search for the knee brackets it, stops, and claims no more than was measured."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapecheck.load.capacity import Level, conclude, next_rate
from tapecheck.load.plan import Capacity
from tapecheck.verdict import Verdict

SEARCH = Capacity(executor="capacity", request="features", start_rate_rps=50, max_rate_rps=10_000)


def sweep(search: Capacity, knee_rps: float) -> dict[float, bool]:
    tried: dict[float, bool] = {}
    while (rate := next_rate(search, tried)) is not None:
        assert rate not in tried, "a rate is tried once"
        tried[rate] = rate <= knee_rps
        assert len(tried) <= search.levels_max
    return tried


def level(rate: float, verdict: Verdict, throughput: float | None = None) -> Level:
    x = throughput if throughput is not None else rate
    return Level(
        scenario=f"r{rate}",
        rate_rps=rate,
        throughput_rps=x,
        sustained_ratio=1.0,
        concurrency=x / 100,
        p95_ms=None,
        success_ratio=1.0,
        verdict=verdict,
        reason="",
        steady=verdict != Verdict.INVALID,
    )


@pytest.mark.parametrize(
    ("tried", "rate"),
    [
        ({}, 50),
        ({50: True}, 100),
        ({50: True, 100: True}, 200),
        ({50: True, 100: False}, pytest.approx(70.71, abs=0.01)),
        ({50: False}, 25),
        ({10_000: True}, 5000),
        ({6000.0: True}, 10_000),
    ],
)
def test_next_rate(tried: dict[float, bool], rate: float | None) -> None:
    """Rates double while promises hold, never beyond the limit, and halve the gap once one is missed."""
    assert next_rate(SEARCH, tried) == rate


@given(st.floats(1, 20_000))
def test_every_sweep_ends_and_brackets_the_knee(knee_rps: float) -> None:
    """Wherever the knee is, the sweep stops, has enough levels for a fit, and brackets it or reaches an end."""
    tried = sweep(SEARCH, knee_rps)
    good, bad = [r for r, met in tried.items() if met], [r for r, met in tried.items() if not met]
    assert len(tried) >= SEARCH.levels_min
    assert not good or max(good) <= knee_rps
    assert not bad or min(bad) > knee_rps
    if good and bad:
        assert min(bad) / max(good) - 1 <= SEARCH.precision_ratio + 1e-9 or len(tried) == SEARCH.levels_max


def test_the_knee_has_the_gap_as_its_interval() -> None:
    """The knee is the highest rate that held, and below the lowest that did not."""
    found = conclude([level(r, Verdict.PASS if r <= 400 else Verdict.FAIL) for r in (50, 100, 200, 400, 500, 800)])
    assert (found.knee_rps, found.knee_low_rps, found.knee_high_rps) == (400, 400, 500)
    assert found.knee_note == "every promise is kept up to 400/s, and one missed at 500/s"


def test_a_pass_above_a_miss_is_luck() -> None:
    """A rate that held above one that did not is not the knee."""
    found = conclude([level(100, Verdict.PASS), level(200, Verdict.FAIL), level(300, Verdict.PASS)])
    assert found.knee_rps == 100


def test_without_a_miss_there_is_no_upper_end() -> None:
    """When every rate held, or the generator gave up first, nothing is claimed beyond."""
    found = conclude([level(100, Verdict.PASS), level(200, Verdict.PASS), level(400, Verdict.INVALID)])
    assert (found.knee_rps, found.knee_high_rps) == (200, None)
    assert "the knee lies beyond" in found.knee_note


def test_no_law_without_six_levels_that_count() -> None:
    """Five levels and an invalid one fit nothing."""
    found = conclude([level(r, Verdict.PASS) for r in (1, 2, 4, 8, 16)] + [level(32, Verdict.INVALID)])
    assert found.usl is None
    assert "at least 6 levels, these are 5" in found.law_note


def test_no_knee_when_nothing_held() -> None:
    """When every rate missed a promise there is no knee, and the note says so."""
    assert conclude([level(10, Verdict.FAIL)]).knee_rps is None
    assert "no rate that was tried keeps every promise" in conclude([level(10, Verdict.FAIL)]).knee_note
