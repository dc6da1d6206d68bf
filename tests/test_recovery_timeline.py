"""Clocks of a trial from its probes: a planted outage is measured as what it was, whatever kind it is."""

import numpy as np
import pytest
from recoveries import BAD, DEGRADED, FULL, S, crash, hang, probes, steady

from tapecheck.recovery.timeline import Clocks, Seen, clocks

SLOW_NS = S // 2


def measured(*, injected_s: float = 1.0, **views: Seen) -> Clocks:
    return clocks(views, int(injected_s * S), slow_ns=SLOW_NS)


@pytest.mark.parametrize("outage_s", [0.5, 2.0, 10.0])
def test_a_crash_is_as_long_as_it_was(outage_s: float) -> None:
    """Refused from the injection on, answered again afterwards: within two periods, and the resolution says by how much."""
    found = measured(service=crash(1.0, 1.0 + outage_s))
    assert found.recover_s == pytest.approx(outage_s, abs=0.1)
    assert found.degraded_s == found.recover_s
    assert 0 < found.resolution_s <= 0.06
    assert found.first_bad_s == pytest.approx(0.0, abs=0.05)


@pytest.mark.parametrize("outage_s", [0.6, 2.0, 10.0])
def test_a_hang_is_as_long_as_it_was(outage_s: float) -> None:
    """Every probe that began in the hang is answered at its end, within one period, and not before."""
    found = measured(service=hang(1.0, 1.0 + outage_s))
    assert found.recover_s == pytest.approx(outage_s, abs=0.01)
    assert found.resolution_s <= 0.05


def test_a_hang_of_a_view_does_not_widen_the_outage_of_another() -> None:
    """A dependency whose probes time out after two seconds was back when its next probe was answered, not when the last one gave up."""
    silent = probes([(at, at + 2.0 if 1.0 <= at < 1.5 else at + 0.002, BAD if 1.0 <= at < 1.5 else FULL) for at in steady(6.0)])
    found = measured(service=crash(1.0, 1.5), dependency=silent)
    assert found.recover_s == pytest.approx(0.5, abs=0.06)


def test_a_fallback_stops_the_degraded_clock_only() -> None:
    """Bad for a second, degraded for two more, then full: two clocks."""
    rows = [(at, at + 0.002, BAD if 1 <= at < 2 else DEGRADED if 2 <= at < 4 else FULL) for at in steady(6.0)]
    found = measured(service=probes(rows))
    assert (found.degraded_s, found.recover_s) == (pytest.approx(1.0, abs=0.06), pytest.approx(3.0, abs=0.06))


def test_a_relapse_counts() -> None:
    """Service that comes back and goes again was not back."""
    rows = [(at, at + 0.002, BAD if 1 <= at < 2 or 2.5 <= at < 3 else FULL) for at in steady(6.0)]
    assert measured(service=probes(rows)).recover_s == pytest.approx(2.0, abs=0.06)


def test_the_slowest_view_decides_about_full_and_only_serving_ones_about_degraded() -> None:
    """A scheduler that is away for three seconds behind an API that is away for one."""
    views = {"service": crash(1.0, 2.0), "scheduler": crash(1.0, 4.0, serves=False)}
    found = measured(**views)
    assert (found.degraded_s, found.recover_s) == (pytest.approx(1.0, abs=0.06), pytest.approx(3.0, abs=0.06))


def test_what_never_comes_back_has_no_time() -> None:
    """Not back by the end is None, with how long it was watched; never a number that looks like a recovery."""
    found = measured(service=crash(1.0, 99.0))
    assert (found.recover_s, found.degraded_s) == (None, None)
    assert found.watched_s == pytest.approx(5.0, abs=0.1)


def test_what_nobody_saw_took_no_time() -> None:
    """No probe saw a failure: zero, and the first bad moment is none."""
    found = measured(service=probes([(at, at + 0.002, FULL) for at in steady(6.0)]))
    assert (found.first_bad_s, found.degraded_s, found.recover_s, found.detect_s) == (None, 0.0, 0.0, None)


def test_what_was_bad_before_the_fault_does_not_count() -> None:
    """Clocks begin with the injection, and so do the probes that they are read from."""
    rows = [(at, at + 0.002, BAD if 0.2 <= at < 0.6 or 1 <= at < 1.5 else FULL) for at in steady(6.0)]
    found = measured(service=probes(rows))
    assert (found.first_bad_s, found.recover_s) == (pytest.approx(0.0, abs=0.05), pytest.approx(0.5, abs=0.06))
    before = measured(service=probes([(at, at + 0.002, BAD if 0.2 <= at < 0.6 else FULL) for at in steady(6.0)]))
    assert (before.first_bad_s, before.recover_s) == (None, 0.0)


def test_what_was_so_before_the_fault_is_not_its_doing() -> None:
    """A view that was degraded by work that the drill itself asked for is first seen bad when it gets worse, and not at once."""
    rows = [(at, at + 0.002, FULL if at >= 3 else BAD if 1.5 <= at < 2 else DEGRADED) for at in steady(6.0)]
    found = measured(service=probes(rows))
    assert (found.first_bad_s, found.recover_s) == (pytest.approx(0.5, abs=0.06), pytest.approx(2.0, abs=0.06))
    never_worse = measured(service=probes([(at, at + 0.002, FULL if at >= 3 else DEGRADED) for at in steady(6.0)]))
    assert never_worse.first_bad_s is None


def test_the_target_tells_when_an_answer_tells() -> None:
    """The time to detect is the end of the first answer that reports the failure."""
    view = crash(1.0, 2.0)
    told = Seen(**{name: getattr(view, name) for name in ("sent_ns", "done_ns", "state", "serves")}, reported=view.done_ns >= 1.7 * S)
    assert measured(service=told).detect_s == pytest.approx(0.7, abs=0.06)
    assert np.count_nonzero(view.reported) == 0
