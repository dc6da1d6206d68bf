"""The schedule of an open model, in both directions, whole and split; and who sends what is due."""

import asyncio
import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapecheck.load.engine.schedule import NEVER_NS, Dispatcher, Schedule, Stage, share


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


rates = st.floats(0.05, 5000)
stages = st.lists(st.tuples(rates | st.just(0.0), rates, st.floats(0.01, 20)), min_size=1, max_size=5)


@settings(max_examples=40)
@given(stages)
def test_times_never_run_backwards_nor_beyond_the_end(drawn: list[tuple[float, float, float]]) -> None:
    """Whatever the stages are."""
    one = schedule(*drawn)
    k = np.unique(np.linspace(0, one.total - 1, 500).astype(int))
    due_ns = one.due_ns(k)
    assert (np.diff(due_ns) >= 0).all()
    assert (due_ns >= 0).all()
    assert (due_ns <= one.duration_s * 1e9 + 1).all()


@settings(max_examples=40)
@given(stages, st.integers(1, 9))
def test_shares_make_up_the_whole(drawn: list[tuple[float, float, float]], workers: int) -> None:
    """Requests split across workers are each sent by exactly one worker, at the instant of the whole schedule."""
    one = schedule(*drawn)
    total = min(one.total, 2000)
    whole = one.due_ns(np.arange(total))
    split = np.full(total, -1)
    for worker in range(workers):
        numbers = worker + workers * np.arange(share(total, worker, workers))
        assert (split[numbers] == -1).all()
        split[numbers] = one.due_ns(numbers)
    assert (split == whole).all()


# ---- who sends what is due ----


START_NS = 10**15  # far from any clock: no alarm rings


def sent_by_calls(calls_ns: list[int], most: int = 1) -> tuple[list[int], int]:
    """Return the requests, by their instants after the start, that calls at some instants send, and when the next one is due."""
    whole = schedule((1e6, 1e6, 5e-6))  # due at 0, 1000, … 4000 ns
    sent: list[int] = []

    async def call() -> int:
        loop = asyncio.get_running_loop()
        dispatcher = Dispatcher(whole, start_ns=START_NS, worker=0, workers=1, submit=sent.append, loop=loop)
        dispatcher.start()
        for at_ns in calls_ns:
            dispatcher.send_due(START_NS + at_ns, most)
        dispatcher.close()
        return dispatcher.next_ns

    next_ns = asyncio.run(call())
    return [due_ns - START_NS for due_ns in sent], next_ns - START_NS


@pytest.mark.parametrize(
    ("calls_ns", "most", "sent", "next_ns"),
    [
        ([], 1, [], 0),
        ([-1], 1, [], 0),
        ([0], 1, [0], 1000),
        ([999, 999], 1, [0], 1000),
        ([2500], 1, [0], 1000),
        ([2500], 64, [0, 1000, 2000], 3000),
        ([2500, 2500, 2500, 2500], 1, [0, 1000, 2000], 3000),
        ([9000] * 7, 1, [0, 1000, 2000, 3000, 4000], NEVER_NS - START_NS),
    ],
)
def test_who_is_awake_sends_what_is_due(calls_ns: list[int], most: int, sent: list[int], next_ns: int) -> None:
    """No request goes before its instant, none twice, at most so many at once, and nothing is due after the last."""
    assert sent_by_calls(calls_ns, most) == (sent, next_ns)


def idle_s(submit: Callable[[int], None]) -> float:
    """Return how long a dispatcher waited awake in 0.3 s with 12,000 requests a second."""
    whole = schedule((12_000, 12_000, 0.3))

    async def send() -> int:
        dispatcher = Dispatcher(whole, start_ns=time.monotonic_ns(), worker=0, workers=1, submit=submit, loop=asyncio.get_running_loop())
        dispatcher.start()
        while dispatcher.submitted < dispatcher.total:
            await asyncio.sleep(0.01)
        dispatcher.close()
        return dispatcher.idle_ns

    return asyncio.run(send()) / 1e9


def test_waiting_awake_is_not_work() -> None:
    """Between two requests that take no time the dispatcher is idle, and between two that take all of it hardly ever."""

    def slow(due_ns: int) -> None:
        until_ns = time.monotonic_ns() + 80_000  # of 83,333
        while time.monotonic_ns() < until_ns:
            pass

    idle, busy = idle_s(lambda due_ns: None), idle_s(slow)
    assert 0.3 >= idle > 3 * busy
