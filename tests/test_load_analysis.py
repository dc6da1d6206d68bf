"""Summaries, checks and failures of load runs with known answers, the mistakes of earlier scripts among them."""

import ast
import contextlib
import dataclasses
import json
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import servers
from engines import target_at
from samples import GENERATOR, START_NS, burst, recording, requests, watched
from servers import Server

from tapecheck import charts
from tapecheck.config import PROJECT
from tapecheck.load import analysis, capacity, findings, frames
from tapecheck.load.analysis import ScenarioSummary, check
from tapecheck.load.engine.recorder import ErrorKind, Samples
from tapecheck.load.plan import METRICS, GeneratorLimits, LoadPlan
from tapecheck.load.recording import Recording
from tapecheck.load.session import Generator
from tapecheck.load.validation import LoadResult, load
from tapecheck.verdict import NOTHING, Check, Verdict, overall, parse

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
        assert check.verdict == Verdict.NO_DATA and check.reason.startswith(said)


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


# ---- a generator that lags ----


def recorded(lag_ms: float, response_ms: float = 4.7, waited: bool = False) -> Recording:
    """A scenario of 2,000 requests that all took as long, and were all sent as late."""
    rows = burst(np.full(2000, response_ms), per_round=20)
    rows["sent_ns"] += int(lag_ms * 1e6)
    rows["waited"] = waited
    return recording({"s": rows}, generator=replace(GENERATOR, lag_p99_ms=0.0, dispatch_lag_p99_ms=lag_ms))


def summary(lag_ms: float, **more: float) -> ScenarioSummary:
    return analysis.summarize(recorded(lag_ms, **more), LIMITS)["s"]


def judged_late(one: ScenarioSummary, objective: str) -> Check:
    return check({"s": one}, [parse(objective, METRICS)])[0]


def test_an_interval_reaches_down_by_the_lag_at_its_percentile() -> None:
    """p99 4.7 ms with a lag of 2.8 is at least 1.9; its upper end and the service time stay what they were."""
    exact, late = summary(0.0), summary(2.8)
    assert exact.response_time_ms is not None and late.response_time_ms is not None
    assert (exact.response_time_ms.p99.low, exact.generator_share) == (pytest.approx(4.7), {})
    for name in analysis.PERCENTILES:
        one = getattr(late.response_time_ms, name)
        assert (one.low, one.value, one.upper) == (pytest.approx(1.9), pytest.approx(4.7), pytest.approx(4.7))
    assert late.generator_share == pytest.approx(dict.fromkeys(("mean_ms", "p50_ms", "p90_ms", "p95_ms", "p99_ms"), 2.8 / 4.7))
    assert late.service_time_ms is not None and late.service_time_ms.p99.low == pytest.approx(1.9)


@pytest.mark.parametrize(
    ("objective", "verdict"),
    [
        ("p99_ms < 5", Verdict.PASS),  # lag only adds
        ("p99_ms < 4", Verdict.INVALID),  # 1.9 would meet it
        ("mean_ms < 4", Verdict.INVALID),
        ("max_ms <= 4", Verdict.INVALID),
        ("p99_ms < 1.8", Verdict.FAIL),  # missed without the lag too
        ("p50_ms > 4", Verdict.INVALID),  # met by what the lag adds
        ("p50_ms > 1.5", Verdict.PASS),
        ("service_p99_ms < 1.8", Verdict.FAIL),  # counts from the send
        ("success_ratio > 0.9", Verdict.PASS),
        ("throughput_rps > 20", Verdict.PASS),
    ],
)
def test_a_pass_stays_a_pass_and_a_miss_within_reach_is_invalid(objective: str, verdict: Verdict) -> None:
    """However large the lag is: what it cannot have decided is judged, what it may have is not."""
    found = judged_late(summary(2.8), objective)
    assert found.verdict == verdict, found.reason
    assert ("up to 2.8 of 4.7 may be the generator's own lag" in found.reason) == (objective.split("_")[0] in ("p99", "mean", "max", "p50"))


@pytest.mark.parametrize(
    ("which", "limit", "reason"),
    [
        ("dispatch_lag_p99_ms", 10, "the generator sent 1000.0 ms late while a connection was free"),
        ("lag_p99_ms", 20, "the generator's event loop lagged 24.0 ms"),
    ],
)
def test_a_lag_alone_invalidates_nothing(which: str, limit: float, reason: str) -> None:
    """There is no absolute limit by default, and one that the plan sets still holds."""
    rec = recorded(1000.0, response_ms=1200.0) if which == "dispatch_lag_p99_ms" else closed_with(24.0)[0]
    for limits, invalid in (({}, None), ({which: limit}, reason)):
        (one,) = load.summarize(rec, LoadPlan.model_validate(PLAN | {"generator": limits})).values()
        assert one.invalid is None if invalid is None else one.invalid is not None and one.invalid.startswith(invalid)
        assert judged_late(one, "p99_ms < 2000").verdict == (Verdict.PASS if invalid is None else Verdict.INVALID)


def test_waiting_for_a_connection_is_not_the_generators() -> None:
    """Such a request is late for want of a connection, which `max_connections` and the target decide."""
    one = analysis.summarize(recorded(2.8, waited=True), LIMITS)["s"]
    assert (one.dispatch_lag_ms, one.generator_share, judged_late(one, "p99_ms < 4").verdict) == (None, {}, Verdict.FAIL)


def test_the_lag_of_the_warm_up_and_of_what_was_never_sent_counts_for_nothing() -> None:
    """As in every other figure, also where the warm-up lies between what counts."""
    rows = burst(np.full(6, 4.7))
    rows["sent_ns"] += np.array([1, 2, 3, 4, 5, 6], np.int64) * 1_000_000
    rows["warm_up"][[0, 2]], rows["waited"][4], rows["sent_ns"][5] = 1, 1, 0
    one = analysis.summarize(recording({"s": rows}), LIMITS)["s"].dispatch_lag_ms
    assert one is not None
    assert (one.min, one.max, one.p50.n) == (pytest.approx(2.0), pytest.approx(4.0), 2)


def test_a_doubtful_figure_is_marked_wherever_it_is_shown() -> None:
    """In the tables, the finding, the headline and the charts; a fifth or less is not."""
    rec, plan = recorded(2.8), LoadPlan.model_validate(PLAN | {"objectives": ["p99_ms < 5"]})
    found = load.summarize(rec, plan)
    assert "up to 60% the generator's" in frames.scenarios(found).loc["response time p99 (ms)", "s"]
    assert "generator's" not in frames.scenarios(found).loc["service time p99 (ms)", "s"]
    assert "up to 2.8 of 4.7" in frames.checks(load.judge(found, plan)).iloc[0]["why"]
    said = load.find(rec, found, plan)
    assert [one.name for one in said] == ["generator_late"] and load.bottleneck(said) is None
    headline = load.say(rec, found, said)
    assert "s: the generator was late, so up to 60% of mean, 60% of p50" in headline
    for chart in (
        charts.load_percentiles(recording=rec, summary=found, objectives=[]),
        charts.load_timeline(recording=rec, summary=found, objectives=[]),
    ):
        shown = [text.get_text() for axes in chart.figure.axes for text in axes.texts]
        shown += [axes.get_title(loc) for axes in chart.figure.axes for loc in ("left", "center")]
        shown += [text.get_text() for legend in chart.figure.legends for text in legend.get_texts()]
        assert any("generator late" in text for text in shown), shown
    assert summary(0.9).generator_share == {}


def planted(lag_ms: dict[int, float], took_ms: dict[int, float], n: int) -> ScenarioSummary:
    """Requests of 1 ms, but for some that were sent late and some that really took longer."""
    rows = burst(np.full(n, 1.0))
    for i, late in lag_ms.items():
        rows["sent_ns"][i] += int(late * 1e6)
        rows["done_ns"][i] += int(late * 1e6)
    for i, took in took_ms.items():
        rows["done_ns"][i] = rows["intended_ns"][i] + int(took * 1e6)
    return analysis.summarize(recording({"s": rows}, generator=replace(GENERATOR, lag_p99_ms=0.1)), LIMITS)["s"]


@pytest.mark.parametrize(
    ("late", "slow", "n", "objective", "verdict"),
    [
        (range(6), range(6, 12), 1000, "p99_ms < 50", Verdict.INVALID),  # 6 of the 12 by the generator: without it the p99 is 1 ms
        (range(6), range(6, 26), 1000, "p99_ms < 50", Verdict.FAIL),  # 20 really were: missed without the lag too
        (range(1), range(1, 2), 1000, "max_ms < 50", Verdict.FAIL),  # one of two really was as slow
        (range(1), (), 1000, "max_ms < 50", Verdict.INVALID),
        (range(60), range(60, 100), 1000, "p95_ms < 50", Verdict.INVALID),
        (range(60), range(60, 160), 1000, "mean_ms < 10", Verdict.FAIL),
        (range(60), range(60, 100), 1000, "mean_ms < 6", Verdict.INVALID),
    ],
)
def test_each_request_answers_for_its_own_lag(late: range, slow: range, n: int, objective: str, verdict: Verdict) -> None:
    """What decides is the same figure of the times without the lag that each had, not the difference of two figures."""
    one = planted(dict.fromkeys(late, 100.0), dict.fromkeys(slow, 100.0), n)
    assert judged_late(one, objective).verdict == verdict, judged_late(one, objective).reason


def closed_with(loop_ms: float | None) -> tuple[Recording, ScenarioSummary]:
    """A closed scenario that stamps its intended starts when it sends: one answer in twenty was 16 ms late, the target took 1."""
    rows = burst(np.where(np.arange(2000) % 20 == 7, 16.0, 1.0))
    rec = recording({"steady_state": rows}, generator=replace(GENERATOR, lag_p99_ms=loop_ms), executor="closed")
    return rec, analysis.summarize(rec, LIMITS)["steady_state"]


@pytest.mark.parametrize(
    ("objective", "disturbed", "quiet"),
    [
        ("p99_ms < 10", Verdict.INVALID, Verdict.FAIL),
        ("service_p99_ms < 10", Verdict.INVALID, Verdict.FAIL),
        ("max_ms < 10", Verdict.INVALID, Verdict.FAIL),
        ("p99_ms < 20", Verdict.PASS, Verdict.PASS),
        ("p99_ms < 0.5", Verdict.FAIL, Verdict.FAIL),
        ("p50_ms < 0.5", Verdict.FAIL, Verdict.FAIL),  # of the loop's lag only the p99 is known
    ],
)
def test_the_lag_of_the_event_loop_reaches_into_the_tail(objective: str, disturbed: Verdict, quiet: Verdict) -> None:
    """A core that is taken away shows in no dispatch lag of a closed model; an unknown lag takes nothing away."""
    assert [judged_late(closed_with(ms)[1], objective).verdict for ms in (15.0, 0.1, None)] == [disturbed, quiet, quiet]


def test_groups_and_levels_are_marked_too() -> None:
    """The breakdown by a parameter, each level of a sweep, what that says of its knee, and the line of a run's main figures."""
    rows = burst(np.full(2000, 4.7), per_round=20)
    rows["sent_ns"] += 2_800_000
    rows["request"] = np.arange(2000) % 2
    rec = recording({"s": rows}, {"s": requests({"limit": 1}, {"limit": 2})}, generator=replace(GENERATOR, lag_p99_ms=0.1))
    found = analysis.summarize(rec, LIMITS)
    table = frames.breakdown(found)
    assert all("up to 60% the generator's" in cell for name in ("median (ms)", "p95 (ms)") for cell in table[name])
    level = capacity.level("s", 100.0, found["s"], [parse("mean_ms < 50", METRICS)], 0.0)
    assert level.generator_share == found["s"].generator_share
    assert capacity.conclude([level]).in_words.endswith("up to 60% the generator's)")
    result = LoadResult.main_figures(SimpleNamespace(scenarios=found, capacity=None))  # type: ignore[arg-type]
    assert result[0].endswith("(s, the slowest, up to 60% the generator's)")


SCENARIO = {"executor": "constant_rate", "rate_rps": 200, "duration_s": 2.0, "request": "one"}
PLAN: dict[str, object] = {"scenarios": {"s": SCENARIO}, "generator": {"lag_p99_ms": 1e6, "cpu_ratio": 1, "achieved_ratio": 0.01}}


def test_a_generator_that_is_stopped_again_and_again_knows_that_it_was_late() -> None:
    """A worker that a signal stops for a while answers for its lag: the interval of a fast server's p99 reaches down to its true time."""
    plan = LoadPlan.model_validate(PLAN)
    done, begin, end = threading.Event(), Generator.__enter__, Generator.__exit__
    threads: list[threading.Thread] = []

    def stop_and_go(worker: psutil.Process) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):  # psutil tells the worker from a later owner of its pid
            while not done.wait(0.1):
                worker.suspend()
                done.wait(0.08)
                worker.resume()

    def disturbed(self: Generator) -> Generator:
        begin(self)
        worker = psutil.Process(self.ready()[0].executor.submit(os.getpid).result())
        threads.append(threading.Thread(target=stop_and_go, args=(worker,)))
        threads[0].start()
        return self

    def left_alone(self: Generator, *why: Any) -> None:
        done.set()
        threads[0].join()
        end(self, *why)

    with Server(servers.fast) as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Generator, "__enter__", disturbed)
        patch.setattr(Generator, "__exit__", left_alone)
        rec = load.run(plan, target_at(server.url))
    found = load.summarize(rec, plan)
    one = found["s"]
    assert one.response_time_ms is not None and one.dispatch_lag_ms is not None
    p90 = one.response_time_ms.p90
    assert one.dispatch_lag_ms.p90.value > 30  # of stops of 80 ms, nearly half of the time
    share = min(1, one.generator_ms["p90_ms"] / p90.value)  # small where a neighbour makes the answers themselves late
    assert one.generator_share.get("p90_ms") == (pytest.approx(share) if share > analysis.DOUBT_SHARE else None)
    assert judged_late(one, f"p90_ms < {p90.value - 20}").verdict == Verdict.INVALID
    assert judged_late(one, "mean_ms < 60000").verdict == Verdict.PASS
