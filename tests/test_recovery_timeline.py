"""Clocks of a trial from its probes: a planted outage is measured as what it was, whatever kind it is."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from recoveries import BAD, DEGRADED, FULL, ONCE, S, crash, hang, probes, recording, steady, trial

from tapecheck.recovery import analysis, findings
from tapecheck.recovery.timeline import Clocks, Seen, clocks, waits


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


def test_a_hang_is_told_from_a_refusal() -> None:
    """By how long each answer took, from the fault until it was taken away."""
    for view, refused, hung, longest_s in ((crash(1.0, 3.0), 40, 0, 0.002), (hang(1.0, 3.0), 0, 30, 2.003), (steady_one(), 0, 0, 0.002)):
        found = waits(view, S, 3 * S, slow_ns=S // 2)
        assert (found.refused, found.hung) == (refused, pytest.approx(hung, abs=1))
        assert found.longest_s == pytest.approx(longest_s, abs=0.06) and found.before_s == pytest.approx(0.002, abs=0.001)


def steady_one() -> Seen:
    return states(lambda at: FULL)


@pytest.mark.parametrize(
    ("failure", "view", "found"),
    [
        ("network_partition", hang(1.0, 3.0), True), ("network_partition", crash(1.0, 3.0), False), ("api_crash", hang(1.0, 3.0), False),
        ("network_partition", hang(1.0, 1.6), False),
    ],
)  # fmt: skip
def test_a_timeout_that_is_too_long_is_a_finding(failure: str, view: Seen, found: bool) -> None:
    """Where a connection was cut and callers hung: not where they were refused, where a process itself hung, or for some late answers."""
    made = recording([(trial("cut", failure=failure, released_ns=3 * S), {"service": view})])
    said = [one.finding for one in findings.find(made, analysis.summarize(made, ONCE), ONCE) if one.name == "timeout_too_long"]
    wanted = "cut: service hung while the connection was cut: 31 answers took more than 0.5 s, the longest 2.003 s"
    assert said == ([f"{wanted}; a timeout behind it is too long"] if found else [])
