"""The rules against real servers, each slow for one known reason: they name it, with its numbers, and no other.

A busy machine makes what waits wait longer, so the evidence is held against the plant from below, and only widely from above.
"""

import contextlib
import csv
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from engines import WIDE, target_at
from orphans import orphan
from samples import burst, recording, requests, watched

from tapecheck.load import findings, frames
from tapecheck.load.analysis import ScenarioSummary, summarize
from tapecheck.load.engine.recorder import ErrorKind, Samples
from tapecheck.load.findings import LIMITING
from tapecheck.load.plan import GeneratorLimits, LoadPlan
from tapecheck.load.validation import LoadSummary, load
from tapecheck.resources import MACHINE, OTHERS
from tapecheck.runs.results import Finding
from tapecheck.verdict import Verdict

PLANTED = Path(__file__).with_name("planted_servers.py")
NEIGHBOURS = ("neighbours", "machine_full")  # what other tests on this machine did: true, and not planted


def closed(concurrency: int, duration_s: float = 0.8, **more: object) -> dict[str, object]:
    return {"executor": "closed", "concurrency": concurrency, "duration_s": duration_s, **more}


@dataclass(frozen=True)
class Case:
    """A planted server, the load on it, and what the rules have to say."""

    plant: dict[str, object]
    scenario: dict[str, object]
    named: str
    evidence: dict[str, tuple[float, float]] = field(default_factory=dict)  # between which numbers
    beside: frozenset[str] = frozenset()  # other kinds that are true as well, of less weight
    needs_cores: float = 0.0
    far_s: float = 0.0


CASES = {
    "target single-threaded, behind few connections": Case(
        {"cpu_s": 0.02},
        closed(24, warm_up_s=0.3, max_connections=8),  # enough in line that the target has work while its generator waits for a core
        "target_single_threaded",
        {"cpu_ratio": (0.85, 1.15), "samples": (3, 16)},
        beside=frozenset({"connection_limit", "queue"}),
        needs_cores=0.95,
    ),
    "connection limit of the plan": Case(
        {"wait_s": 0.02},
        closed(16, max_connections=2),
        "connection_limit",
        {"wait_mean_ms": (100, 2000), "response_mean_ms": (120, 2400), "connections_opened": (2, 2)},
    ),
    "few at once in the target": Case(
        {"wait_s": 0.02, "slots": 2}, closed(16), "queue", {"service_p50_ms": (120, 2000), "server_p50_ms": (20, 250)}
    ),
    "resets": Case({"wait_s": 0.01, "fail_every": 3, "resets": True}, closed(4), "target_errors", {"reset": (5, 150)}),
    "a few errors of a database": Case({"database_s": 0.02, "fail_every": 150}, closed(8), "database", {"database_mean_ms": (20, 300)}),
    "network": Case(
        {},
        closed(4),
        "network",
        {"service_p50_ms": (60, 600), "service_min_ms": (60, 150), "server_p50_ms": (0, 20), "busiest_process_cpu_ratio": (0, 0.25)},
        far_s=0.03,
    ),
}


@contextlib.contextmanager
def planted(**plant: object) -> Iterator[tuple[int, int]]:
    """Start a planted server, and give its pid and its port."""
    with orphan(sys.executable, str(PLANTED), json.dumps(plant)) as server:
        yield server.process.pid, int(server.stdout.readline())


@dataclass(frozen=True)
class Said:
    """What a measurement said, and how many cores the target was given, by the system's own account."""

    summary: ScenarioSummary
    found: list[Finding]
    cores_given: float


def measure(case: Case) -> Said:
    """Measure a planted server as the notebook does."""
    plan = LoadPlan.model_validate({"scenarios": {"s": {**case.scenario, "request": "one"}}, "generator": WIDE})
    with contextlib.ExitStack() as stack:
        pid, port = stack.enter_context(planted(**case.plant))
        asked = stack.enter_context(planted(way_s=case.far_s, to_port=port))[1] if case.far_s else port
        target = target_at(f"http://127.0.0.1:{asked}", processes={"api": {"port": port}})
        before = psutil.Process(pid).cpu_times()
        rec = load.run(plan, target)
        after = psutil.Process(pid).cpu_times()
    summary = load.summarize(rec, plan)
    busy_s = after.user + after.system - before.user - before.system
    cores_given = busy_s / (summary["s"].duration_s + plan.scenarios["s"].warm_up_s)
    found = [one for one in load.find(rec, summary, plan) if one.name not in NEIGHBOURS]
    return Said(summary=summary["s"], found=found, cores_given=cores_given)


@pytest.mark.parametrize("kind", CASES)
def test_the_planted_cause_is_named_and_no_other(kind: str) -> None:
    """A server that is slow for one reason has that as its bottleneck, with its numbers."""
    case = CASES[kind]
    said = measure(case)
    if said.cores_given < case.needs_cores:  # a starved target is not the one planted: then no more may be said than was seen
        busy = said.summary.resources["api"].cpu_ratio >= findings.BUSY_CORE
        assert any(f.name in ("target_single_threaded", "target_cpu") for f in said.found) == busy, said
        return
    named, service = load.bottleneck(said.found), said.summary.service_time_ms
    is_quick = service is None or service.min < findings.FASTEST_SHARE * service.p50.value
    expected = "network" if case.named == "queue" and not is_quick else case.named  # where no request was quick, none was the first
    assert named is not None and named.name == expected, said
    assert {f.name for f in said.found if f.name in LIMITING} - case.beside == {expected}, said
    for name, (low, high) in case.evidence.items():
        assert low <= float(named.evidence[name]) <= high, (name, named)
    assert named.finding.startswith("s: ")
    assert named.action


def test_the_most_severe_kind_is_the_bottleneck_whatever_was_found_first() -> None:
    """A generator that lags spoils every other figure, and a queue is only what is left when nothing explains it."""
    found = [Finding(name=name, finding="", evidence={}, action="") for name in ("variance", *LIMITING[::-1], "few_errors")]
    named = [one.name for i in range(len(LIMITING), -1, -1) if (one := load.bottleneck(found[: i + 1]))]
    assert (LIMITING[0], LIMITING[-1], named[::-1]) == ("generator", "queue", [*LIMITING[::-1]])


def found_in(rows: Samples, *, cores: int = 2, executor: str = "closed", busy: Mapping[str, float] | None = None) -> list[Finding]:
    """Return what is found in a recording whose processes were so busy all the time."""
    seconds = np.arange(1, 10) / 10
    use = [(float(s), name, ratio, 100.0) for s in seconds for name, ratio in (busy or {}).items()]
    rec = recording({"s": rows}, watched=watched(*use) if use else None, executor=executor)
    limits = GeneratorLimits(lag_p99_ms=20)
    return findings.find(summarize(rec, limits), cores)


def rows_of(
    service_ms: float, *, server_ms: float = 1.0, db_ms: float = 0.0, wait_ms: float = 0.0, n: int = 1000, failed: int = 0
) -> Samples:
    """Make requests that all took as long, and of which the first some failed."""
    rows = burst(np.full(n, service_ms + wait_ms), failed=dict.fromkeys(range(failed), ErrorKind.status))
    rows["sent_ns"] += int(wait_ms * 1e6)
    rows["waited"] = True  # for a connection, which is no fault of the generator's
    rows["server_ms"], rows["db_ms"] = server_ms, db_ms
    return rows


@pytest.mark.parametrize(
    ("rows", "busy", "cores", "names"),
    [
        pytest.param(rows_of(20, server_ms=19, failed=9), {}, 2, ["few_errors"], id="9 of 1000 fail"),
        pytest.param(rows_of(20, server_ms=19, failed=10), {}, 2, ["target_errors"], id="10 of 1000 fail"),
        pytest.param(rows_of(20, server_ms=19, db_ms=12), {}, 2, ["database"], id="63 % database"),
        pytest.param(rows_of(20, server_ms=19, db_ms=11), {}, 2, [], id="58 % database"),
        pytest.param(rows_of(4.9, server_ms=4.8, db_ms=4.7), {}, 2, [], id="database, but fast"),
        pytest.param(rows_of(20, server_ms=3.9, db_ms=3.8), {}, 2, ["queue"], id="database, but little of the whole"),
        pytest.param(rows_of(800, server_ms=790), {"api": 0.84}, 2, [], id="0.84 cores"),
        pytest.param(rows_of(800, server_ms=790), {"api": 0.86}, 2, ["target_single_threaded"], id="0.86 cores"),
        pytest.param(rows_of(800, server_ms=790), {"api": 1.14}, 2, ["target_single_threaded"], id="1.14 cores"),
        pytest.param(rows_of(800, server_ms=790), {"api": 1.16}, 2, ["target_cpu"], id="1.16 cores"),
        pytest.param(rows_of(800, server_ms=790), {"api": 0.98}, 1, ["target_cpu"], id="0.98 of one core"),
        pytest.param(burst(np.r_[np.full(90, 1.0), np.full(10, 50.0)]), {}, 2, ["variance"], id="p95 over 3 times the mean"),
        pytest.param(rows_of(0.2, server_ms=0.1, wait_ms=0.3), {}, 2, [], id="waits, but not long"),
        pytest.param(rows_of(10, server_ms=9, wait_ms=9), {}, 2, [], id="waits less than half"),
        pytest.param(rows_of(10, server_ms=9, wait_ms=11), {}, 2, ["connection_limit"], id="waits more than half"),
        pytest.param(rows_of(4.9, server_ms=0.1), {"api": 0.05}, 2, [], id="elsewhere, but fast"),
        pytest.param(rows_of(800, server_ms=270), {"api": 0.05}, 2, [], id="a third inside"),
        pytest.param(rows_of(800, server_ms=260), {"api": 0.05}, 2, ["network"], id="less than a third inside"),
        pytest.param(rows_of(800, server_ms=1), {"api": 0.24}, 2, ["network"], id="idle"),
        pytest.param(rows_of(800, server_ms=1), {"api": 0.05, "database": 0.44}, 2, ["queue"], id="not all idle"),
        pytest.param(rows_of(800, server_ms=1), {}, 2, ["queue"], id="not watched"),
    ],
)
def test_a_rule_speaks_from_its_threshold_on(rows: Samples, busy: dict[str, float], cores: int, names: list[str]) -> None:
    """On one side of a threshold the finding is there, on the other it is not; what cannot be known is not named."""
    assert [f.name for f in found_in(rows, cores=cores, busy=busy)] == names


def test_one_busy_core_is_reported_as_it_was_measured() -> None:
    """With the cores that were busy, of how many, and from how many samples that is known."""
    (found,) = found_in(rows_of(800, server_ms=790), busy={"api": 1.0}, cores=4)
    assert found.finding == "s: api is single-threaded (1.0 of 4 cores busy)"
    assert (found.evidence["cpu_ratio"], found.evidence["cores"], found.evidence["samples"]) == (pytest.approx(1), 4, 9)


def test_a_queue_has_a_first_request() -> None:
    """An idle target whose fastest answers are fast keeps requests in a queue; a slow network delays every one."""
    rows = rows_of(800, server_ms=1)
    rows["done_ns"][:10] -= 500_000_000
    assert [f.name for f in found_in(rows, busy={"api": 0.05})] == ["queue"]


@pytest.mark.parametrize(
    ("n", "server_ms", "expected"), [(300, (10.0, 100.0), ["slow_parameter"]), (6, (10.0, 100.0), []), (300, (10.0, np.nan), [])]
)
def test_a_slow_value_is_found_where_its_interval_is_apart(n: int, server_ms: tuple[float, float], expected: list[str]) -> None:
    """With 300 samples, and not with 6, nor where one value has the target's own time and the other only response times."""
    rows = burst(np.full(n, 110.0))
    rows["server_ms"], rows["request"] = np.tile(server_ms, n // 2), np.tile([0, 1], n // 2)
    rec = recording({"s": rows}, {"s": requests({"symbol": "AAPL"}, {"symbol": "MSFT"})})
    found = findings.find(summarize(rec, GeneratorLimits(lag_p99_ms=20)), 2)
    assert [one.name for one in found if one.name == "slow_parameter"] == expected


def test_a_burst_is_a_queue_by_construction() -> None:
    """That the last of a hundred waits for the others is what a burst asks for, and no finding."""
    assert found_in(rows_of(800, server_ms=1), executor="burst", busy={"api": 0.05}) == []


# ---- neighbours ----


def summary(api: float, others: float | None, machine: float | None) -> dict[str, ScenarioSummary]:
    use = {"api": api} | ({OTHERS: others, MACHINE: machine} if others is not None and machine is not None else {})
    rows = [(s / 10, name, cores, 120.0) for s in range(1, 20) for name, cores in use.items()]
    return summarize(recording({"s": burst([2000.0] * 100, per_round=100)}, watched=watched(*rows)), GeneratorLimits(lag_p99_ms=20))


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
    bottleneck = load.bottleneck(found)
    assert (bottleneck.name if bottleneck else None) == limit


def test_the_neighbours_are_named_in_the_result() -> None:
    """As a figure of the scenario, in the table and in the headline, and as nothing where it is unknown."""
    busy, rec = summary(0.6, 1.0, 2.0), recording({"s": burst([2000.0] * 100)})
    one = busy["s"]
    assert (one.others_busy_cores, one.machine_busy_cores, set(one.resources)) == (pytest.approx(1.0), pytest.approx(2.0), {"api"})
    assert frames.scenarios(busy).loc["cores busy with other processes", "s"] == "1.00"
    found = findings.find(busy, 2)
    assert "other processes kept 1 of 2 cores busy; api got 0.6 cores" in load.say(rec, LoadSummary(), found)
    room = findings.find(summary(0.3, 0.4, 1.0), 2)
    assert "s: other processes kept 0.4 of 2 cores busy." in load.say(rec, LoadSummary(busy), room)
    unknown = summary(0.6, None, None)
    assert (unknown["s"].others_busy_cores, frames.scenarios(unknown).loc["cores busy with other processes", "s"]) == (None, "")


# ---- what failed ----


def test_timeouts_are_named_where_the_verdict_is_read() -> None:
    """By kind and count in the reason and the headline; they are explained before more samples are taken; a backlog only on loopback."""
    hung = {i * 100: ErrorKind.connect_timeout if i >= 40 else ErrorKind.timeout for i in range(45)}
    rec = recording({"s": burst([2000.0 if i in hung else 5.0 for i in range(5000)], per_round=100, failed=hung)})
    scenario = {"executor": "burst", "concurrency": 100, "rounds": 50, "request": "one"}
    plan = LoadPlan.model_validate({"scenarios": {"s": scenario}, "objectives": ["p99_ms < 1000"], "generator": WIDE})
    found = LoadSummary(summarize(rec, plan.generator))
    (check,) = load.judge(found, plan)
    assert (check.verdict, check.reason) == (
        Verdict.NOT_PROVEN,
        "the value meets it, its 95 % confidence bound (2,000 ms) does not; requests failed (timeout: 40, connect_timeout: 5)",
    )
    named = load.find(rec, found, plan)
    assert "45 of 5,000 requests failed (timeout: 40, connect_timeout: 5)" in load.say(rec, found, named)
    (backlog,) = [one for one in named if one.name == "listen_backlog"]
    assert backlog.evidence["connect_timeout"] == 5 and "listen backlog" in backlog.finding
    assert "listen_backlog" not in {one.name for one in findings.find(found, 2)}


def test_each_kind_of_failure_is_counted_with_its_moments_and_an_example() -> None:
    """By kind and status, the most frequent first, of the scenario's own requests; what a file says of them is numbers."""
    rows = burst([10.0] * 100, failed={**dict.fromkeys(range(40, 60), ErrorKind.status), 7: ErrorKind.timeout})
    rows["status"][40:60], rows["status"][7] = 503, 0
    rows["intended_ns"] += (np.arange(100) * 1e9).astype(np.int64)
    rows["request"] = np.arange(100) % 2
    asked = requests({"symbol": "AAPL"}, {"symbol": "BTC"})
    plan = LoadPlan.model_construct(scenarios={"s": SimpleNamespace(request="bars")})
    found = findings.failures(recording({"s": rows}, {"s": asked}), {}, plan)
    assert [(one.kind, one.status, one.request, one.count, one.ratio) for one in found] == [
        ("status", 503, "bars", 20, 0.2), ("timeout", None, "bars", 1, 0.01),
    ]  # fmt: skip
    assert [(one.first_s, one.last_s, one.example) for one in found] == [(40, 59, "symbol AAPL"), (7, 7, "symbol BTC")]
    shown = frames.failures(found)
    assert shown.loc[("s", "status"), ["failed", "share"]].tolist() == ["20", "20.0%"]
    (first, *_) = csv.DictReader(frames.exported({}, found)["failures.csv"].splitlines())
    assert (first["count"], first["ratio"], first["first_s"]) == ("20", "0.2", "40.0")
    assert frames.failures([]).index.tolist() == [("no request failed", "")]
