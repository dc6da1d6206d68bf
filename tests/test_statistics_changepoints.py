"""A shift of a level is found where it is, and in noise alone none, as often as is said; by simulation with fixed seeds."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tapecheck.statistics import changepoints

Noise = NDArray[np.float64]
SERIES = 14  # of each kind


@pytest.fixture(autouse=True)
def fewer_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw a fifth of the orders: the test stays exact, and only p gets coarser."""
    monkeypatch.setattr(changepoints, "ORDERS", 99)
    monkeypatch.setattr(changepoints, "ENOUGH", 8)


def noise(kind: str, n: int, seed: int) -> Noise:
    random = np.random.default_rng(seed)
    return {
        "normal": lambda: random.normal(100, 5, n),
        "skewed": lambda: random.exponential(100, n),
        "heavy tails": lambda: 100 + 3 * random.standard_t(2, n),
        "every tenth run five times as slow": lambda: random.lognormal(4.6, 0.03, n) * np.where(random.random(n) < 0.1, 5, 1),
        "counts": lambda: random.poisson(3, n).astype(np.float64),
    }[kind]()


def with_levels(levels: list[tuple[int, float]], noise_share: float, seed: int) -> Noise:
    random = np.random.default_rng(seed)
    return np.concatenate([level * random.lognormal(0, noise_share, n) for n, level in levels])


def test_noise_alone_has_no_shift() -> None:
    """Of 70 series of five kinds of noise, 12 to 40 runs long, at most one in twenty shows one; 2 % is what the method says."""
    kinds = ("normal", "skewed", "heavy tails", "every tenth run five times as slow", "counts")
    lengths = (12, 16, 24, 40)
    alarms = {kind: sum(bool(changepoints.find(noise(kind, lengths[s % 4], 1000 + s).tolist())) for s in range(SERIES)) for kind in kinds}
    assert sum(alarms.values()) <= 0.05 * SERIES * len(kinds), alarms


@pytest.mark.parametrize(
    ("levels", "noise_share"),
    [([(12, 100), (8, 75)], 0.08), ([(20, 100), (4, 80)], 0.05), ([(6, 100), (5, 130)], 0.05)],
    ids=["a quarter less", "a fifth less, four runs ago", "30 % more in a short history"],
)
def test_a_planted_shift_is_found_in_its_place(levels: list[tuple[int, float]], noise_share: float) -> None:
    """In at least 80 % of the series, its first run right within one."""
    found = [changepoints.find(with_levels(levels, noise_share, seed).tolist()) for seed in range(15)]
    right = sum(any(abs(shift.first - levels[0][0]) <= 1 for shift in of_one) for of_one in found)
    assert right >= 0.8 * len(found)


def test_a_level_that_comes_and_goes_again_is_found_twice() -> None:
    """No single change point explains it: both are found together in at least 80 %."""
    found = [[s.first for s in changepoints.find(with_levels([(15, 100), (6, 75), (15, 100)], 0.05, seed).tolist())] for seed in range(15)]
    assert sum(len(f) == 2 and abs(f[0] - 15) <= 1 and abs(f[1] - 21) <= 1 for f in found) >= 12


@pytest.mark.parametrize("values", [[], [1.0], [1.0] * 40, [0.0] * 40, [5.0, 9.0] * 4, [645.0] * 8 + [700.0] + [645.0] * 8])
def test_values_that_are_alike_or_few_have_no_shift(values: list[float]) -> None:
    """Nor has a counter that is off once."""
    assert changepoints.find(values) == ()


def test_a_counter_that_changes_once_shifts_there() -> None:
    """Without any noise, from 0, and far from 0 too."""
    (shift,) = changepoints.find([645.0] * 8 + [180.0] * 8)
    assert (shift.first, shift.before, shift.after, shift.change) == (8, 645, 180, "-72.1 %")
    (shift,) = changepoints.find([0.0] * 8 + [3.0] * 8)
    assert (shift.first, shift.change) == (8, "from 0 to 3")
    (shift,) = changepoints.find([1e12 + i % 3 for i in range(9)] + [1e12 + 20 + i % 3 for i in range(9)])
    assert shift.first == 9


def test_levels_that_follow_each_other_are_each_found() -> None:
    """A small shift beside a large one, and levels that come and go again and again, though no one or two of them explain much."""
    beside = changepoints.find(with_levels([(10, 100), (10, 300), (10, 360)], 0.02, 0).tolist())
    again = changepoints.find(with_levels([(10, 100), (10, 140)] * 3, 0.03, 0).tolist())
    long = changepoints.find([100 * (1 + i // 30 % 2) + i % 5 for i in range(150)])
    expected = [[10, 20], [10, 20, 30, 40, 50], [30, 60, 90, 120]]
    assert [[shift.first for shift in found] for found in (beside, again, long)] == expected


def test_a_run_that_stands_alone_hides_no_shift() -> None:
    """One that is ten times as slow is no level, and the level is told without it."""
    values = with_levels([(12, 100), (12, 75)], 0.03, 0)
    values[[4, 17]] *= 10
    (shift,) = changepoints.find(values.tolist())
    assert shift.first == 12
    assert shift.after / shift.before == pytest.approx(0.75, abs=0.03)


def test_the_same_values_say_the_same() -> None:
    """What is drawn at random is drawn from a fixed seed; a change of unit changes no place."""
    values = with_levels([(12, 100), (12, 90)], 0.05, 3)
    assert changepoints.find(values.tolist()) == changepoints.find(values.tolist())
    assert [s.first for s in changepoints.find(values.tolist())] == [s.first for s in changepoints.find((values / 1e6).tolist())]
