"""Summaries, checks and failures of load runs with known answers, the mistakes of earlier scripts among them."""

import ast
import dataclasses
import json
from collections.abc import Callable

import numpy as np
import pytest
from samples import GENERATOR, START_NS, burst, recording, requests, watched

from tapecheck.config import PROJECT
from tapecheck.load import analysis, findings
from tapecheck.load.analysis import ScenarioSummary
from tapecheck.load.engine.recorder import ErrorKind, Samples
from tapecheck.load.plan import METRICS, GeneratorLimits
from tapecheck.load.recording import Recording
from tapecheck.load.validation import load
from tapecheck.verdict import NOTHING, Verdict, overall, parse

LIMITS = GeneratorLimits(lag_p99_ms=20)
NAMES = ("mean_ms", "p95_ms", "p99_ms", "success_ratio", "throughput_rps")
OBJECTIVES = ("mean_ms < 500", "p95_ms < 1000", "p99_ms < 2000", "success_ratio > 0.99", "throughput_rps > 20")


def summary_of(rec: Recording) -> ScenarioSummary:
    return next(iter(analysis.summarize(rec, LIMITS).values()))


def judged(rec: Recording, *texts: str) -> dict[str, Verdict]:
    checks = analysis.check(analysis.summarize(rec, LIMITS), [parse(text, METRICS) for text in texts or OBJECTIVES])
    return {c.objective if texts else c.objective.split(" ")[0]: c.verdict for c in checks}


def times(n: int, ms: float, slow: int = 0, slow_ms: float = 0.0) -> np.ndarray:
    return np.r_[np.full(n - slow, ms), np.full(slow, slow_ms)]


def failing(rows: Samples, kind: ErrorKind, *numbers: int) -> Samples:
    rows["error"][list(numbers)] = kind
    return rows


def moved(rows: Samples, **columns: object) -> Samples:
    """Add to columns of rows, or set them where they are no times."""
    for name, value in columns.items():
        rows[name] = rows[name] + np.int64(value) if name.endswith("_ns") else value  # type: ignore[call-overload]
    return rows


def spread(rows: Samples, over_ns: float) -> Samples:
    for column in ("intended_ns", "sent_ns", "first_byte_ns", "done_ns"):
        rows[column] += np.linspace(0, over_ns, len(rows)).astype(np.int64)
    return rows


FIGURES: dict[str, tuple[Callable[[], Samples], str, dict[str, object]]] = {  # what was sent, its executor, and figures of it
    "nothing sent": (
        lambda: burst([]), "burst", {"requests": 0, "success_ratio": None, "throughput_rps": None, "response_time_ms": None},
    ),
    "all failed": (
        lambda: failing(burst(times(500, 1.0)), ErrorKind.status, *range(500)),
        "burst", {"succeeded": 0, "success_ratio": 0.0, "throughput_rps": 0.0},
    ),
    "failures stay in the distribution": (
        lambda: failing(burst(times(100, 20.0, 10, 10_000.0)), ErrorKind.timeout, *range(90, 100)),
        "burst", {"response_time_ms.p95": 10_000.0, "errors": {"timeout": 10}},
    ),
    "answers and not attempts": (
        lambda: failing(burst(np.linspace(20, 2000, 100)), ErrorKind.reset, *range(50)), "burst", {"throughput_rps": 25.0},
    ),
    "until the last answer has come": (
        lambda: spread(burst(times(100, 9_000.0)), 1e9), "constant_rate", {"duration_s": 10.0, "throughput_rps": 10.0},
    ),
    "not between the rounds": (lambda: burst(times(500, 100.0), per_round=100), "burst", {"duration_s": 0.5}),
    "from the intended start": (
        lambda: moved(burst(times(100, 320.0)), sent_ns=300_000_000),
        "burst", {"response_time_ms.mean": 320.0, "service_time_ms.mean": 20.0},
    ),
    "not the warm-up": (
        lambda: moved(burst(times(150, 20.0, 50, 5000.0)), warm_up=np.arange(150) >= 100), "burst",
        {"requests": 100, "response_time_ms.max": 20.0},
    ),
    "one round is taken as it is": (lambda: burst(np.linspace(1, 100, 500)), "burst", {"response_time_ms.p50.n_effective": 500}),
    "no ports here": (
        lambda: failing(burst(times(500, 5.0)), ErrorKind.local, 3),
        "burst", {"invalid": "1 requests failed because this machine ran out of ports or file descriptors"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FIGURES)
def test_a_figure_is_of_what_it_says(case: str) -> None:
    """Each is a mistake of an earlier script: dropped failures, attempts for answers, actual starts, warm-up, division by zero."""
    make, executor, expected = FIGURES[case]
    summary = summary_of(recording({"s": make()}, executor=executor))
    for name, value in expected.items():
        got: object = summary
        for part in name.split("."):
            got = getattr(got, part)
        got = getattr(got, "value", got)
        assert got == (pytest.approx(value) if isinstance(value, float) else value), name


@pytest.mark.parametrize(
    ("make", "verdicts"),
    [
        (lambda: burst(times(500, 20.0), per_round=100), dict.fromkeys(NAMES, "pass")),
        (lambda: burst(times(100, 20.0)), {"p99_ms": "not_proven", "p95_ms": "pass", "success_ratio": "not_proven"}),
        (lambda: failing(burst(times(500, 1.0)), ErrorKind.status, *range(500)), {"p95_ms": "no_data", "success_ratio": "fail"}),
        (lambda: burst([]), dict.fromkeys(NAMES, "no_data")),
    ],
)
def test_an_objective_passes_only_where_samples_prove_it(make: Callable[[], Samples], verdicts: dict[str, str]) -> None:
    """One round of 100 cannot prove a p99, and how fast a target fails is no answer."""
    found = judged(recording({"s": make()}))
    assert {name: found[name] for name in verdicts} == verdicts
    assert overall(found.values()) == min(verdicts.values(), key=["fail", "no_data", "not_proven", "pass"].index)


def test_each_kind_of_time_is_judged_by_itself() -> None:
    """An objective on service or server time looks at that, and one of at least so much at the lower bound."""
    rows = moved(burst(np.tile(np.linspace(900, 1000, 100), 5), per_round=100), sent_ns=800_000_000, waited=True, server_ms=5.0)
    rec = recording({"s": rows})
    p50 = summary_of(rec).response_time_ms.p50
    low = p50.low or 0
    assert list(
        judged(
            rec, "p95_ms < 300", "service_p95_ms < 300", "server_p95_ms < 10", f"p50_ms > {low - 1}", f"p50_ms > {(low + p50.value) / 2}"
        ).values()
    ) == ["fail", "pass", "pass", "pass", "not_proven"]


def test_a_time_that_the_target_does_not_say_is_named() -> None:
    """It answers, and only sends no Server-Timing: that is what is missing."""
    for failed, said in ((range(0), analysis.MISSING["server"]), (range(500), NOTHING)):
        rows = moved(failing(burst(times(500, 5.0), per_round=100), ErrorKind.timeout, *failed), server_ms=np.nan)
        (check,) = analysis.check(analysis.summarize(recording({"s": rows}), LIMITS), [parse("server_p95_ms < 10", METRICS)])
        assert (check.verdict, check.reason) == (Verdict.NO_DATA, said)


def test_every_value_of_a_parameter_has_its_own_figures() -> None:
    """Which limit a sample belongs to is stored with it, limits sort as numbers, and another scenario has none of it."""
    rows = moved(failing(burst(np.tile([10.0, 50.0, 200.0], 100)), ErrorKind.status, 1, 4, 5), request=np.tile([0, 1, 2], 100))
    prepared = {"a": requests(*({"limit": limit} for limit in (100, 500, 1000))), "b": requests({"symbol": "AAPL"})}
    found = analysis.summarize(recording({"a": rows, "b": burst(times(10, 1.0))}, prepared), LIMITS)
    by = found["a"].by["limit"]
    assert list(by) == ["100", "500", "1000"] and list(found["b"].by) == ["symbol"]
    found = [(g.response_time_ms.p50.value, g.requests, g.failed) for g in by.values()]
    assert found == [(10.0, 100, 0), (50.0, 100, 2), (200.0, 100, 1)]


def test_resources_are_those_of_the_scenario() -> None:
    """CPU before and after a scenario is not the scenario's."""
    rows = [(-5.0, "api", 9.0, 50.0), (0.5, "api", 0.4, 100.0), (1.0, "api", 0.6, 110.0), (60.0, "api", 9.0, 999.0)]
    use = summary_of(recording({"s": burst(times(100, 2000.0))}, watched=watched(*rows))).resources["api"]
    assert (use.cpu_ratio, use.rss_mb, use.samples) == (pytest.approx(0.5), 110.0, 2)


def test_failures_are_one_plain_record_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed request can be read as JSON with its kind, parameters and times, in order, however few fit in memory at a time."""
    monkeypatch.setattr("tapecheck.load.validation.FAILURES_AT_ONCE", 3)
    rows = burst(times(100, 5.0), per_round=10, failed=dict.fromkeys(range(0, 100, 7), ErrorKind.reset))
    found = list(load.failures(recording({"s": rows}, {"s": requests({"symbol": "BRK.B"})})))
    assert [f["error"] for f in found] == ["reset"] * 15
    assert (found[0]["symbol"], found[0]["intended_ns"]) == ("BRK.B", START_NS)
    assert [f["intended_ns"] for f in found] == sorted(f["intended_ns"] for f in found)
    json.dumps(found, allow_nan=False)


def test_durations_never_come_from_the_wall_clock() -> None:
    """No module of the load validation calls time.time or subtracts wall-clock instants."""
    for file in (PROJECT / "lib/tapecheck/load").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in {("time", "time"), ("time", "time_ns")}, file.name
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
                clocks = [ast.unparse(side).count("now(") + ast.unparse(side).count("started_at") for side in (node.left, node.right)]
                assert not all(clocks), f"{file.name}: {ast.unparse(node)}"


@pytest.mark.parametrize(("n", "wrong"), [(10_000, 37), (15_000, 60)])
def test_wrong_bodies_count_by_the_share_of_those_looked_at(n: int, wrong: int) -> None:
    """37 wrong answers of 37 looked at, among 10,000, are a target that answers wrong, not a ratio of 0.9963 or a few errors."""
    rows = failing(burst(times(n, 5.0), per_round=100), ErrorKind.content, *range(wrong))
    rec = recording({"s": rows}, generator=dataclasses.replace(GENERATOR, content_checked=wrong))
    assert (summary_of(rec).success_ratio, summary_of(rec).success_ratio_low) == (0.0, 0.0)
    assert judged(rec)["success_ratio"] == Verdict.FAIL
    named = load.bottleneck(findings.find(analysis.summarize(rec, LIMITS), 2))
    assert named is not None and (named.name, named.evidence["success_ratio"]) == ("target_errors", 0.0)


# ---- batches ----


SLOW_ROUND = np.repeat([20.0, 20.0, 20.0, 900.0, 20.0], 100) + np.tile(np.linspace(0, 5, 100), 5)


def test_rounds_of_a_burst_are_its_batches() -> None:
    """Five rounds, one of them slow: its requests are not a hundred independent slow ones; nor is what would prove a p95."""
    rec = recording({"s": burst(SLOW_ROUND, per_round=100)})
    p90 = summary_of(rec).response_time_ms.p90
    assert (p90.n, p90.n_effective < 10, p90.upper) == (500, True, None)
    (check,) = analysis.check(analysis.summarize(rec, LIMITS), [parse("p95_ms < 1000", METRICS)])
    assert check.verdict == Verdict.NOT_PROVEN
    assert int(check.reason.partition("at least ")[2].split(" ")[0].replace(",", "")) > 1000


def test_stretches_of_time_are_the_batches_of_a_steady_scenario() -> None:
    """A stall of a quarter of the time is one event, not 500 slow requests."""
    rows = burst(np.r_[np.full(1000, 20.0), np.full(500, 900.0), np.full(500, 20.0)] + np.arange(2000) % 7)
    p90 = summary_of(recording({"s": rows}, executor="closed")).response_time_ms.p90
    assert (p90.n, p90.n_effective < 100) == (2000, True)


def test_rounds_out_of_order_change_no_figure() -> None:
    """Workers that were not equally fast leave the rows of rounds mixed; the summary is that of the same rows in order."""
    rows = burst(np.random.default_rng(1).exponential(20, 500), per_round=100)
    mixed = rows[np.random.default_rng(2).permutation(500)]
    one, other = summary_of(recording({"s": rows})), summary_of(recording({"s": mixed}))
    without = {"response_time_ms": None, "service_time_ms": None, "server_time_ms": None, "by": {}}
    assert dataclasses.replace(one, **without) == dataclasses.replace(other, **without)
    assert one.response_time_ms.p95 == other.response_time_ms.p95


def test_failures_that_come_together_prove_less() -> None:
    """Ten failures in one round of 50 are one event; the lower bound says so, the ratio does not change."""
    apart, together = [i * 500 for i in range(10)], range(10)
    a, b = (summary_of(recording({"s": failing(burst(times(5000, 5.0), per_round=100), ErrorKind.reset, *f)})) for f in (apart, together))
    assert a.success_ratio == b.success_ratio == 0.998
    assert b.success_ratio_low < a.success_ratio_low
