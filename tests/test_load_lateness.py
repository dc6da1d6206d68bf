"""A generator that sends late makes figures too high: intervals reach down by it, and what it may have decided is invalid."""

import contextlib
import os
import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import servers
from engines import target_at
from samples import GENERATOR, burst, recording, requests
from servers import Server

from tapecheck import charts
from tapecheck.load import analysis, capacity, findings, frames
from tapecheck.load.analysis import ScenarioSummary, check
from tapecheck.load.plan import METRICS, GeneratorLimits, LoadPlan
from tapecheck.load.recording import Recording
from tapecheck.load.session import Generator
from tapecheck.load.validation import LoadResult, LoadSummary, load
from tapecheck.verdict import Check, Verdict, parse

LIMITS = GeneratorLimits(lag_p99_ms=20)


def recorded(lag_ms: float, response_ms: float = 4.7, waited: bool = False) -> Recording:
    """A scenario of 2,000 requests that all took as long, and were all sent as late."""
    rows = burst(np.full(2000, response_ms), per_round=20)
    rows["sent_ns"] += int(lag_ms * 1e6)
    rows["waited"] = waited
    return recording({"s": rows}, generator=replace(GENERATOR, lag_p99_ms=0.0, dispatch_lag_p99_ms=lag_ms))


def summary(lag_ms: float, **more: float) -> ScenarioSummary:
    return analysis.summarize(recorded(lag_ms, **more), LIMITS)["s"]


def judged(one: ScenarioSummary, objective: str) -> Check:
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
    found = judged(summary(2.8), objective)
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
        assert judged(one, "p99_ms < 2000").verdict == (Verdict.PASS if invalid is None else Verdict.INVALID)


def test_waiting_for_a_connection_is_not_the_generators() -> None:
    """Such a request is late for want of a connection, which `max_connections` and the target decide."""
    one = analysis.summarize(recorded(2.8, waited=True), LIMITS)["s"]
    assert (one.dispatch_lag_ms, one.generator_share, judged(one, "p99_ms < 4").verdict) == (None, {}, Verdict.FAIL)


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
    assert judged(one, objective).verdict == verdict, judged(one, objective).reason


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
    assert [judged(closed_with(ms)[1], objective).verdict for ms in (15.0, 0.1, None)] == [disturbed, quiet, quiet]


def test_a_figure_that_the_event_loop_may_have_made_is_marked() -> None:
    """In the table of scenarios, in the finding and in the line of a run's main figures."""
    rec, one = closed_with(15.0)
    found = {"steady_state": one}
    assert one.generator_share == {"p99_ms": pytest.approx(15 / 16)} and one.invalid is None
    assert one.response_time_ms is not None and one.response_time_ms.p99.low == pytest.approx(1.0)
    assert "up to 94% the generator's" in frames.scenarios(found).loc["response time p99 (ms)", "steady_state"]
    (said,) = (f for f in findings.find(found, 2) if f.name == "generator_late")
    assert said.evidence["lag_p99_ms"] == 15.0
    result = LoadResult.main_figures(SimpleNamespace(scenarios=found, capacity=None))  # type: ignore[arg-type]
    assert result[0].endswith("(steady_state, the slowest, up to 94% the generator's)")
    assert load.say(rec, LoadSummary(found), [said]).count("up to 94% of p99") == 1


def test_groups_and_levels_are_marked_too() -> None:
    """The breakdown by a parameter, each level of a sweep, and what the sweep says of its knee."""
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
    assert judged(one, f"p90_ms < {p90.value - 20}").verdict == Verdict.INVALID
    assert judged(one, "mean_ms < 60000").verdict == Verdict.PASS
