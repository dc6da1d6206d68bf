"""Summaries, checks and findings of load runs with known answers, the mistakes of earlier scripts among them."""

import ast
import dataclasses
import json

import numpy as np
import pytest
from samples import GENERATOR, START_NS, burst, recording, requests, watched

from tapecheck.config import PROJECT
from tapecheck.load import analysis, findings, frames
from tapecheck.load.analysis import ScenarioSummary
from tapecheck.load.engine.recorder import ErrorKind
from tapecheck.load.plan import METRICS, GeneratorLimits
from tapecheck.load.recording import Recording
from tapecheck.load.validation import load
from tapecheck.verdict import NOTHING, Verdict, overall, parse

LIMITS = GeneratorLimits(lag_p99_ms=20)
OBJECTIVES = ("mean_ms < 500", "p95_ms < 1000", "p99_ms < 2000", "success_ratio > 0.99", "throughput_rps > 20")


def summary_of(rec: Recording) -> ScenarioSummary:
    return next(iter(analysis.summarize(rec, LIMITS).values()))


def verdicts(rec: Recording) -> dict[str, Verdict]:
    checks = analysis.check(analysis.summarize(rec, LIMITS), [parse(text, METRICS) for text in OBJECTIVES])
    return {c.objective.split(" ")[0]: c.verdict for c in checks}


def test_a_good_run_meets_everything() -> None:
    """500 fast answers prove all five objectives."""
    assert set(verdicts(recording({"s": burst(np.full(500, 20.0), per_round=100)})).values()) == {Verdict.PASS}


def test_a_p99_of_100_samples_is_not_proven() -> None:
    """One round of 100 can fail a p99, but not prove it; the p95 it can."""
    found = verdicts(recording({"s": burst(np.full(100, 20.0))}))
    assert (found["p99_ms"], found["p95_ms"], found["success_ratio"]) == (Verdict.NOT_PROVEN, Verdict.PASS, Verdict.NOT_PROVEN)


def test_an_all_error_run_never_passes() -> None:
    """How fast a target fails is no answer: nothing passes when nothing succeeded, and nothing is divided by zero."""
    failed = dict.fromkeys(range(500), ErrorKind.status)
    rec = recording({"s": burst(np.full(500, 1.0), failed=failed)})
    summary = summary_of(rec)
    assert (summary.succeeded, summary.success_ratio, summary.throughput_rps) == (0, 0.0, 0.0)
    assert Verdict.PASS not in verdicts(rec).values()
    assert overall(verdicts(rec).values()) == Verdict.FAIL


def test_a_scenario_without_samples_has_no_data() -> None:
    """A scenario in which nothing was sent is no data, with null where a figure would have to be invented."""
    rec = recording({"s": burst([])})
    summary = summary_of(rec)
    assert (summary.requests, summary.success_ratio, summary.throughput_rps, summary.response_time_ms) == (0, None, None, None)
    assert set(verdicts(rec).values()) == {Verdict.NO_DATA}


def test_failed_requests_stay_in_the_distribution() -> None:
    """Ten timeouts of 10 s among 100 requests are the p95; a script that drops failures reports 20 ms."""
    times = np.full(100, 20.0)
    times[90:] = 10_000
    summary = summary_of(recording({"s": burst(times, failed=dict.fromkeys(range(90, 100), ErrorKind.timeout))}))
    assert summary.response_time_ms is not None
    assert summary.response_time_ms.p95.value == pytest.approx(10_000)
    assert summary.errors == {"timeout": 10}


def test_throughput_counts_answers_not_attempts() -> None:
    """100 requests of which half fail, in 2 s, are 25 good answers a second, not 50."""
    times = np.linspace(20, 2000, 100)
    summary = summary_of(recording({"s": burst(times, failed=dict.fromkeys(range(50), ErrorKind.reset))}))
    assert summary.throughput_rps == pytest.approx(25)


def test_throughput_lasts_until_the_last_answer_has_come() -> None:
    """100 requests that were meant to start within a second, each answered 9 s later, are 10 answers a second, not 100."""
    rows = burst(np.full(100, 9_000.0))
    for column in ("intended_ns", "sent_ns", "first_byte_ns", "done_ns"):
        rows[column] += np.linspace(0, 1e9, 100).astype(np.int64)
    summary = summary_of(recording({"s": rows}, executor="constant_rate"))
    assert (summary.duration_s, summary.throughput_rps) == (pytest.approx(10), pytest.approx(10))


def test_the_time_between_rounds_does_not_count() -> None:
    """Five rounds of 100 ms are half a second of measurement, whatever lies between them."""
    assert summary_of(recording({"s": burst(np.full(500, 100.0), per_round=100)})).duration_s == pytest.approx(0.5)


def test_response_time_counts_from_the_intended_start() -> None:
    """A request that was sent 300 ms late took 300 ms longer than its service time."""
    rows = burst(np.full(100, 320.0))
    rows["sent_ns"] += 300_000_000
    summary = summary_of(recording({"s": rows}))
    assert summary.response_time_ms is not None
    assert summary.service_time_ms is not None
    assert summary.response_time_ms.mean == pytest.approx(320)
    assert summary.service_time_ms.mean == pytest.approx(20)


def test_warm_up_is_stored_and_not_counted() -> None:
    """Warm-up samples are in the file and in no figure."""
    rows = burst(np.concatenate([np.full(50, 5000.0), np.full(100, 20.0)]))
    rows["warm_up"][:50] = 1
    rec = recording({"s": rows})
    assert rec.samples.num_rows == 150
    assert (summary_of(rec).requests, summary_of(rec).response_time_ms.max) == (100, 20.0)


def test_every_value_of_a_parameter_has_its_own_figures() -> None:
    """Which limit a sample belongs to is stored with it, and limits sort as numbers."""
    times = np.tile([10.0, 50.0, 200.0], 100)
    rows = burst(times)
    rows["request"] = np.tile([0, 1, 2], 100)
    prepared = requests(*({"limit": limit} for limit in (100, 500, 1000)))
    by = summary_of(recording({"s": rows}, {"s": prepared})).by["limit"]
    assert list(by) == ["100", "500", "1000"]
    assert [g.response_time_ms.p50.value for g in by.values()] == [10.0, 50.0, 200.0]
    assert [g.requests for g in by.values()] == [100, 100, 100]


def test_a_parameter_of_one_scenario_is_none_of_another() -> None:
    """A scenario has a breakdown only by its own parameters."""
    rec = recording(
        {"a": burst(np.full(10, 1.0)), "b": burst(np.full(10, 1.0))},
        {"a": requests({"symbol": "AAPL"}), "b": requests({"limit": 5})},
    )
    summaries = analysis.summarize(rec, LIMITS)
    assert (list(summaries["a"].by), list(summaries["b"].by)) == (["symbol"], ["limit"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"lag_p99_ms": 35.0}, "event loop lagged 35.0 ms"),
        ({"achieved_ratio": 0.6}, "only 60.0% of the offered rate"),
    ],
)
def test_a_busy_generator_makes_everything_invalid(change: dict[str, float], reason: str) -> None:
    """When the generator was the bottleneck there is a reason and no other verdict."""
    generator = dataclasses.replace(GENERATOR, **change)
    rec = recording({"s": burst(np.full(500, 2000.0))}, generator=generator)
    assert reason in (summary_of(rec).invalid or "")
    assert set(verdicts(rec).values()) == {Verdict.INVALID}


def names(rec: Recording, cores: int = 2) -> list[str]:
    return [f.name for f in findings.find(analysis.summarize(rec, LIMITS), cores)]


def server(rows: np.ndarray, server_ms: float, db_ms: float = np.nan) -> np.ndarray:
    rows["server_ms"], rows["db_ms"] = server_ms, db_ms
    return rows


def late(rows: np.ndarray, wait_ms: float) -> np.ndarray:
    rows["sent_ns"] += int(wait_ms * 1e6)
    rows["waited"] = True  # for a connection, which is no fault of the generator's
    return rows


def test_a_slow_value_is_found_only_when_its_interval_is_apart() -> None:
    """Ten times slower is a finding with 300 samples, and none with 6."""
    for n, expected in ((300, ["slow_parameter"]), (6, [])):
        rows = burst(np.tile([110.0, 120.0], n // 2))
        rows["server_ms"], rows["request"] = np.tile([10.0, 100.0], n // 2), np.tile([0, 1], n // 2)
        rec = recording({"s": rows}, {"s": requests({"symbol": "AAPL"}, {"symbol": "MSFT"})})
        assert [x for x in names(rec) if x == "slow_parameter"] == expected


def test_resources_are_those_of_the_scenario() -> None:
    """CPU before and after a scenario is not the scenario's."""
    rows = [(-5.0, "api", 9.0, 50.0), (0.5, "api", 0.4, 100.0), (1.0, "api", 0.6, 110.0), (60.0, "api", 9.0, 999.0)]
    use = summary_of(recording({"s": burst(np.full(100, 2000.0))}, watched=watched(*rows))).resources["api"]
    assert (use.cpu_ratio, use.rss_mb, use.samples) == (pytest.approx(0.5), 110.0, 2)


def test_failures_are_one_plain_record_each() -> None:
    """A failed request can be read as JSON with its kind, its parameters and its times."""
    rows = burst(np.full(10, 20.0), failed={2: ErrorKind.status, 5: ErrorKind.timeout})
    found = list(load.failures(recording({"s": rows}, {"s": requests({"symbol": "BRK.B"})})))
    assert [f["error"] for f in found] == ["status", "timeout"]
    assert found[0]["symbol"] == "BRK.B"
    assert found[0]["intended_ns"] == START_NS
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


def test_wrong_bodies_count_by_the_share_of_those_looked_at() -> None:
    """37 wrong answers of 37 looked at, among 10,000, are a target that answers wrong, not a ratio of 0.9963."""
    rows = burst(np.full(10_000, 5.0), per_round=100, failed=dict.fromkeys(range(37), ErrorKind.content))
    rec = recording({"s": rows}, generator=dataclasses.replace(GENERATOR, content_checked=37))
    assert (summary_of(rec).success_ratio, summary_of(rec).success_ratio_low) == (0.0, 0.0)
    assert verdicts(rec)["success_ratio"] == Verdict.FAIL


def test_requests_that_this_machine_could_not_send_make_it_invalid() -> None:
    """Running out of ports or descriptors is the generator's fault, and no error of the target."""
    rec = recording({"s": burst(np.full(500, 5.0), failed={3: ErrorKind.local})})
    assert "ran out of ports or file descriptors" in (summary_of(rec).invalid or "")


def test_checks_of_a_plan_without_objectives_are_an_empty_table() -> None:
    """A plan may have none; its run is recorded all the same."""
    assert len(frames.checks([])) == 0


def test_rounds_of_a_burst_are_its_batches() -> None:
    """Five rounds, one of them slow: its requests are not a hundred independent slow ones, so no p90 is proven."""
    times = np.repeat([20.0, 20.0, 20.0, 900.0, 20.0], 100) + np.tile(np.linspace(0, 5, 100), 5)
    p90 = summary_of(recording({"s": burst(times, per_round=100)})).response_time_ms.p90
    assert (p90.n, p90.n_effective < 10, p90.upper) == (500, True, None)


def test_stretches_of_time_are_the_batches_of_a_steady_scenario() -> None:
    """A stall of a quarter of the time is one event, not 500 slow requests."""
    times = np.r_[np.full(1000, 20.0), np.full(500, 900.0), np.full(500, 20.0)] + np.arange(2000) % 7
    p90 = summary_of(recording({"s": burst(times)}, executor="closed")).response_time_ms.p90
    assert (p90.n, p90.n_effective < 100) == (2000, True)


def test_rounds_out_of_order_change_no_figure() -> None:
    """Workers that were not equally fast leave the rows of rounds mixed; the summary is that of the same rows in order."""
    rows = burst(np.random.default_rng(1).exponential(20, 500), per_round=100)
    mixed = rows[np.random.default_rng(2).permutation(500)]
    one, other = summary_of(recording({"s": rows})), summary_of(recording({"s": mixed}))
    assert dataclasses.replace(one, response_time_ms=None, service_time_ms=None, server_time_ms=None, by={}) == dataclasses.replace(
        other, response_time_ms=None, service_time_ms=None, server_time_ms=None, by={}
    )
    assert one.response_time_ms.p95 == other.response_time_ms.p95


def test_failures_that_come_together_prove_less() -> None:
    """Ten failures in one round of 50 are one event; the lower bound says so, the ratio does not change."""
    spread = {i * 500: ErrorKind.reset for i in range(10)}
    together = dict.fromkeys(range(10), ErrorKind.reset)
    a, b = (summary_of(recording({"s": burst(np.full(5000, 5.0), per_round=100, failed=f)})) for f in (spread, together))
    assert a.success_ratio == b.success_ratio == 0.998
    assert b.success_ratio_low < a.success_ratio_low


def test_what_would_prove_an_objective_counts_batches() -> None:
    """The n that is said to be needed is of requests like these, not of independent ones."""
    times = np.repeat([20.0, 20.0, 20.0, 900.0, 20.0], 100) + np.tile(np.linspace(0, 5, 100), 5)
    summary = analysis.summarize(recording({"s": burst(times, per_round=100)}), LIMITS)
    (check,) = analysis.check(summary, [parse("p95_ms < 1000", METRICS)])
    assert check.verdict == Verdict.NOT_PROVEN
    assert int(check.reason.partition("at least ")[2].split(" ")[0].replace(",", "")) > 1000


def test_the_requests_of_a_single_round_are_taken_as_they_are() -> None:
    """With one round nothing shows how rounds differ; its queue is no order in time."""
    p50 = summary_of(recording({"s": burst(np.linspace(1, 100, 500))})).response_time_ms.p50
    assert (p50.n, p50.n_effective) == (500, 500)


def test_each_kind_of_time_is_judged_by_itself() -> None:
    """An objective on service or server time looks at that, and one of at least so much at the lower bound."""
    rows = late(server(burst(np.tile(np.linspace(900, 1000, 100), 5), per_round=100), 5.0), 800)
    summary = analysis.summarize(recording({"s": rows}), LIMITS)

    def judged(text: str) -> Verdict:
        return analysis.check(summary, [parse(text, METRICS)])[0].verdict

    assert judged("p95_ms < 300") == Verdict.FAIL
    assert judged("service_p95_ms < 300") == Verdict.PASS
    assert judged("server_p95_ms < 10") == Verdict.PASS
    p50 = summary["s"].response_time_ms.p50
    between = ((p50.low or 0) + p50.value) / 2
    assert (judged(f"p50_ms > {(p50.low or 0) - 1}"), judged(f"p50_ms > {between}")) == (Verdict.PASS, Verdict.NOT_PROVEN)


def test_a_time_that_the_target_does_not_say_is_named() -> None:
    """It answers, and only sends no Server-Timing: that is what is missing."""
    for failed, said in ((range(0), analysis.MISSING["server"]), (range(500), NOTHING)):
        rows = burst(np.full(500, 5.0), per_round=100, failed=dict.fromkeys(failed, ErrorKind.timeout))
        rows["server_ms"][:] = np.nan
        (check,) = analysis.check(analysis.summarize(recording({"s": rows}), LIMITS), [parse("server_p95_ms < 10", METRICS)])
        assert (check.verdict, check.reason) == (Verdict.NO_DATA, said)


def test_wrong_bodies_are_no_few_errors() -> None:
    """Every body that was looked at was wrong: that limits the target, however few were looked at."""
    rows = burst(np.full(15_000, 5.0), per_round=100, failed=dict.fromkeys(range(60), ErrorKind.content))
    rec = recording({"s": rows}, generator=dataclasses.replace(GENERATOR, content_checked=60))
    named = load.bottleneck(findings.find(analysis.summarize(rec, LIMITS), 2))
    assert named is not None
    assert (named.name, named.evidence["success_ratio"]) == ("target_errors", 0.0)


def test_the_target_s_own_time_is_not_compared_with_response_times() -> None:
    """Where only some values of a parameter have Server-Timing, all are compared by response time."""
    rows = burst(np.full(600, 100.0), per_round=100)
    rows["request"] = np.tile([0, 1], 300)
    rows["server_ms"] = np.where(rows["request"] == 0, 10.0, np.nan)
    rec = recording({"s": rows}, {"s": requests({"symbol": "AAPL"}, {"symbol": "MSFT"})})
    assert "slow_parameter" not in names(rec)


def test_failures_are_written_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each failed request has its line, in order, however few fit in memory at a time."""
    monkeypatch.setattr("tapecheck.load.validation.FAILURES_AT_ONCE", 3)
    rec = recording({"s": burst(np.full(100, 5.0), per_round=10, failed=dict.fromkeys(range(0, 100, 7), ErrorKind.reset))})
    found = list(load.failures(rec))
    assert len(found) == 15
    assert [f["intended_ns"] for f in found] == sorted(f["intended_ns"] for f in found)
