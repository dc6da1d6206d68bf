"""Who sends the requests of an open model: an alarm, and whoever is awake before it rings."""

import asyncio
import time
from collections.abc import Callable

import pytest

from tapecheck.load.engine.schedule import Dispatcher, Schedule, Stage

START_NS = 10**15  # far from any clock: no alarm rings


def sent_by_calls(calls_ns: list[int], most: int = 1) -> tuple[list[int], int]:
    """Return the requests, by their instants after the start, that calls at some instants send, and when the next one is due."""
    schedule = Schedule(stages=(Stage(start_rps=1e6, end_rps=1e6, duration_s=5e-6),))  # due at 0, 1000, … 4000 ns
    sent: list[int] = []

    async def call() -> int:
        loop = asyncio.get_running_loop()
        dispatcher = Dispatcher(schedule, start_ns=START_NS, worker=0, workers=1, submit=sent.append, loop=loop)
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
    ],
)
def test_who_is_awake_sends_what_is_due(calls_ns: list[int], most: int, sent: list[int], next_ns: int) -> None:
    """No request goes before its instant, none twice, and at most so many at once."""
    assert sent_by_calls(calls_ns, most) == (sent, next_ns)


def test_nothing_is_due_after_the_last_request() -> None:
    """All five are sent once, however often it is asked."""
    sent, next_ns = sent_by_calls([9000] * 7)
    assert sent == [0, 1000, 2000, 3000, 4000]
    assert next_ns > 10**17


def idle_s(submit: Callable[[int], None]) -> float:
    """Return how long a dispatcher waited awake in 0.3 s with 12,000 requests a second."""
    schedule = Schedule(stages=(Stage(start_rps=12_000, end_rps=12_000, duration_s=0.3),))

    async def send() -> int:
        dispatcher = Dispatcher(schedule, start_ns=time.monotonic_ns(), worker=0, workers=1, submit=submit, loop=asyncio.get_running_loop())
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
