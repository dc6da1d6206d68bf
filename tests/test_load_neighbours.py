"""A neighbour that keeps the machine busy is said in the result, and the bottleneck takes account of it."""

import pytest
from samples import burst, recording, watched

from tapecheck.load import analysis, findings, frames
from tapecheck.load.analysis import ScenarioSummary
from tapecheck.load.plan import GeneratorLimits
from tapecheck.load.validation import LoadSummary, load
from tapecheck.resources import MACHINE, OTHERS

LIMITS = GeneratorLimits(lag_p99_ms=20)
RESPONSES_MS = [2000.0] * 100


def summary(api: float, others: float | None, machine: float | None) -> dict[str, ScenarioSummary]:
    told = {"api": api} | ({OTHERS: others, MACHINE: machine} if others is not None and machine is not None else {})
    rows = [(s / 10, name, cores, 120.0) for s in range(1, 20) for name, cores in told.items()]
    return analysis.summarize(recording({"s": burst(RESPONSES_MS, per_round=100)}, watched=watched(*rows)), LIMITS)


@pytest.mark.parametrize(
    ("used", "named", "limit"),
    [
        ((0.95, 0.05, 1.3), {"target_single_threaded"}, "target_single_threaded"),  # a quiet machine
        ((0.60, 1.00, 2.0), {"machine_full"}, "machine_full"),  # the same API beside a busy core
        ((0.95, 0.70, 2.0), {"target_single_threaded", "machine_full"}, "target_single_threaded"),  # it has its core all the same
        ((0.30, 0.40, 1.0), {"neighbours"}, None),  # there is room for both
        ((0.30, 0.10, 2.0), set(), None),  # full, and not by others
        ((0.60, None, None), set(), None),  # unknown is no finding
    ],
)
def test_the_bottleneck_takes_account_of_the_neighbours(used: tuple[float, float, float], named: set[str], limit: str | None) -> None:
    """Single-threaded on a quiet machine, short of cores on a busy one, and nothing where it is not known."""
    found = findings.find(summary(*used), 2)
    assert {one.name for one in found} == named
    bottleneck = findings.bottleneck(found)
    assert (bottleneck.name if bottleneck else None) == limit


def test_the_neighbours_are_said_in_the_result() -> None:
    """As a figure of the scenario, in the table and in the headline, and as nothing where it is unknown."""
    busy, rec = summary(0.6, 1.0, 2.0), recording({"s": burst(RESPONSES_MS)})
    one = busy["s"]
    assert (one.others_busy_cores, one.machine_busy_cores, set(one.resources)) == (pytest.approx(1.0), pytest.approx(2.0), {"api"})
    assert frames.scenarios(busy).loc["cores busy with other processes", "s"] == "1.00"
    found = findings.find(busy, 2)
    assert "other processes kept 1 of 2 cores busy; api had 0.6 of what was left" in load.say(rec, LoadSummary(), found)
    room = findings.find(summary(0.3, 0.4, 1.0), 2)
    assert "S: other processes kept 0.4 of 2 cores busy." in load.say(rec, LoadSummary(busy), room)
    unknown = summary(0.6, None, None)
    assert (unknown["s"].others_busy_cores, frames.scenarios(unknown).loc["cores busy with other processes", "s"]) == (None, "")
