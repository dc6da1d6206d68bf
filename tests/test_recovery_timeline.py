"""Clocks of a trial from its probes: a planted outage is measured as what it was, whatever kind it is."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from recoveries import BAD, DEGRADED, FULL, S, crash, hang, probes, steady

from tapecheck.recovery.timeline import Clocks, Seen, clocks


def measured(**views: Seen) -> Clocks:
    return clocks(views, S, slow_ns=S // 2)


def states(state: Callable[[float], int]) -> Seen:
    """A view of such states, each answered at once."""
    return probes([(at, at + 0.002, state(at)) for at in steady(6.0)])


@pytest.mark.parametrize("outage_s", [0.6, 2.0, 10.0])
def test_a_crash_and_a_hang_are_as_long_as_they_were(outage_s: float) -> None:
    """Refused, or answered at the end: within the resolution, which is about a period."""
    for view, off_s in ((crash(1.0, 1.0 + outage_s), 0.06), (hang(1.0, 1.0 + outage_s), 0.01)):
        found = measured(service=view)
        assert found.recover_s == pytest.approx(outage_s, abs=off_s)
        assert found.degraded_s == found.recover_s and 0 < found.resolution_s <= 0.06
        assert found.first_bad_s == pytest.approx(0.0, abs=0.05)


def test_a_hang_of_a_view_does_not_widen_the_outage_of_another() -> None:
    """A dependency whose probes time out after two seconds was back when its next probe was answered, not when the last one gave up."""
    silent = probes([(at, at + 2.0 if 1.0 <= at < 1.5 else at + 0.002, BAD if 1.0 <= at < 1.5 else FULL) for at in steady(6.0)])
    found = measured(service=crash(1.0, 1.5), dependency=silent)
    assert found.recover_s == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize(
    ("state", "first_bad_s", "degraded_s", "recover_s"),
    [
        (lambda at: BAD if 1 <= at < 2 else DEGRADED if 2 <= at < 4 else FULL, 0.0, 1.0, 3.0),
        (lambda at: BAD if 1 <= at < 2 or 2.5 <= at < 3 else FULL, 0.0, 2.0, 2.0),  # what goes again was not back
        (lambda at: FULL, None, 0.0, 0.0),
        (lambda at: BAD if 0.2 <= at < 0.6 or 1 <= at < 1.5 else FULL, 0.0, 0.5, 0.5),  # what was bad before is not the fault's doing
        (lambda at: BAD if 0.2 <= at < 0.6 else FULL, None, 0.0, 0.0),
        (lambda at: FULL if at >= 3 else BAD if 1.5 <= at < 2 else DEGRADED, 0.5, 1.0, 2.0),  # nor what was degraded before
        (lambda at: FULL if at >= 3 else DEGRADED, None, 0.0, 2.0),
        (lambda at: BAD if at >= 1 else FULL, 0.0, None, None),  # what never comes back has no time
    ],
)
def test_clocks_run_from_the_fault_to_the_last_relapse(
    state: Callable[[float], int], first_bad_s: float | None, degraded_s: float | None, recover_s: float | None
) -> None:
    """Each stops for good, or not at all; nothing is made up of what was not seen."""
    found = measured(service=states(state))
    for got, wanted in ((found.first_bad_s, first_bad_s), (found.degraded_s, degraded_s), (found.recover_s, recover_s)):
        assert got == (None if wanted is None else pytest.approx(wanted, abs=0.06))
    assert found.detect_s is None and found.watched_s == pytest.approx(5.0, abs=0.1)


def test_the_slowest_view_decides_about_full_and_only_serving_ones_about_degraded() -> None:
    """A scheduler that is away for three seconds behind an API that is away for one."""
    found = measured(service=crash(1.0, 2.0), scheduler=crash(1.0, 4.0, serves=False))
    assert (found.degraded_s, found.recover_s) == (pytest.approx(1.0, abs=0.06), pytest.approx(3.0, abs=0.06))


def test_the_target_tells_when_an_answer_tells() -> None:
    """The time to detect is the end of the first answer that reports the failure."""
    view = crash(1.0, 2.0)
    assert measured(service=replace(view, reported=view.done_ns >= 1.7 * S)).detect_s == pytest.approx(0.7, abs=0.06)
