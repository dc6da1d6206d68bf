"""The schedule of an open model: which request is due when, in both directions, whole and dealt out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapecheck.load.engine.schedule import Schedule, Stage, share


def schedule(*stages: tuple[float, float, float]) -> Schedule:
    return Schedule(stages=tuple(Stage(start_rps=a, end_rps=b, duration_s=d) for a, b, d in stages))


@pytest.mark.parametrize(
    ("stages", "total", "due_s"),
    [
        ([(100, 100, 1)], 100, {0: 0, 1: 0.01, 99: 0.99}),
        ([(0.1, 0.1, 30)], 3, {0: 0, 1: 10, 2: 20}),  # 0.1 * 30 is a little more than 3 in binary
        ([(1, 1, 0.5)], 1, {0: 0}),
        ([(3, 3, 1)], 3, {1: 1 / 3, 2: 2 / 3}),
        ([(0, 10, 2)], 10, {0: 0, 1: np.sqrt(2 / 5), 9: np.sqrt(18 / 5)}),
        ([(10, 20, 2)], 30, {0: 0, 10: (np.sqrt(200) - 10) / 5, 29: (np.sqrt(390) - 10) / 5}),
        ([(20, 10, 2)], 30, {10: (20 - np.sqrt(300)) / 5}),
        ([(10, 10, 1), (20, 20, 1)], 30, {9: 0.9, 10: 1.0, 11: 1.05, 29: 1.95}),
        ([(0, 0, 1), (10, 10, 1)], 10, {0: 1.0, 9: 1.9}),
        ([(100_000, 100_000, 600)], 60_000_000, {59_999_999: 599.99999}),
    ],
)
def test_each_request_is_due_when_the_rate_has_summed_up_to_it(
    stages: list[tuple[float, float, float]], total: int, due_s: dict[int, float]
) -> None:
    """Known instants, also where a rate begins at 0, falls, jumps, or is a fraction."""
    one = schedule(*stages)
    assert one.total == total
    assert one.due_ns(list(due_s)) / 1e9 == pytest.approx(list(due_s.values()), abs=2e-9)


@pytest.mark.parametrize(("elapsed_s", "count"), [(-1, 0), (0, 1), (0.0099, 1), (0.01, 2), (0.5, 51), (0.99, 100), (1, 100), (9, 100)])
def test_elapsed_time_gives_a_count(elapsed_s: float, count: int) -> None:
    """At 100 a second the first is due at once, the second after 10 ms, and no more after the last."""
    assert schedule((100, 100, 1)).count(int(elapsed_s * 1e9)) == count


rates = st.floats(0.05, 5000)
stages = st.lists(st.tuples(rates | st.just(0.0), rates, st.floats(0.01, 20)), min_size=1, max_size=5)


@given(stages)
def test_the_two_directions_agree(drawn: list[tuple[float, float, float]]) -> None:
    """When request k becomes due the count is k + 1, a nanosecond before it is less; times never run backwards."""
    one = schedule(*drawn)
    k = np.unique(np.linspace(0, one.total - 1, 500).astype(int))
    due_ns = one.due_ns(k)
    assert (np.diff(due_ns) >= 0).all()
    assert (due_ns >= 0).all()
    assert (due_ns <= one.duration_s * 1e9 + 1).all()
    assert (one.count(due_ns) >= k + 1).all()
    assert (one.count(due_ns - 1) <= k).all()


@given(stages, st.integers(1, 9))
def test_shares_make_up_the_whole(drawn: list[tuple[float, float, float]], workers: int) -> None:
    """Requests dealt out in turn are each sent by exactly one worker, at the instant of the whole schedule."""
    one = schedule(*drawn)
    total = min(one.total, 2000)
    whole = one.due_ns(np.arange(total))
    dealt = np.full(total, -1)
    for worker in range(workers):
        numbers = worker + workers * np.arange(share(total, worker, workers))
        assert (dealt[numbers] == -1).all()
        dealt[numbers] = one.due_ns(numbers)
    assert (dealt == whole).all()
