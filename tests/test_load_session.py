"""A load run end to end: a generator that is its own bottleneck gives no verdict; a scenario goes on until its percentiles are bounded."""

import dataclasses
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import servers
from engines import WIDE, target_at
from samples import burst, measured, recording
from servers import Server

from tapecheck.errors import ConfigError
from tapecheck.load import analysis, frames, session
from tapecheck.load.analysis import invalid
from tapecheck.load.engine.recorder import Measurement, joined
from tapecheck.load.plan import METRICS, GeneratorLimits, LoadPlan
from tapecheck.load.recording import GeneratorStats
from tapecheck.load.session import Generator
from tapecheck.load.validation import load
from tapecheck.runs.results import Finding
from tapecheck.statistics import intervals
from tapecheck.verdict import overall, parse

BUSY = "import threading\ndef spin():\n    while True: pass\nfor _ in range(4): threading.Thread(target=spin, daemon=True).start()"
HONEST = {"lag_p99_ms": 1.0, "cpu_ratio": 0.3, "achieved_ratio": 1.0, "content_checked": 1, "dispatch_lag_p99_ms": 0.1}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(servers.fast) as server:
        yield server


def plan(**more: object) -> LoadPlan:
    scenario = {"executor": "constant_rate", "rate_rps": 100, "duration_s": 0.8, "request": "one"}
    return LoadPlan.model_validate({"scenarios": {"steady": scenario}, "objectives": ["success_ratio > 0.5"], "generator": WIDE, **more})


def verdict(server: Server, plan: LoadPlan) -> tuple[str, Finding | None, GeneratorStats]:
    found = load.analyse(load.run(plan, target_at(server.url)), plan)
    return str(overall(c.verdict for c in found.checks)), found.bottleneck, found.summary["steady"].generator


def test_an_honest_run_gives_a_verdict(server: Server) -> None:
    """At a modest rate no limit is reached, and every figure of the generator is there."""
    said, _, generator = verdict(server, plan())
    assert said == "pass"
    assert 0.1 < generator.achieved_ratio < 1.05
    assert 0 < generator.cpu_ratio < 0.9
    assert generator.dispatch_lag_p99_ms is not None
    assert generator.lag_p99_ms is not None


def test_an_interrupt_loses_no_whole_scenario(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What was sent before the scenario in which it came is a recording, which a later scenario replaces."""
    burst = {"executor": "burst", "concurrency": 2, "request": "one"}
    three = plan(scenarios=dict.fromkeys(("first", "second", "third"), burst))
    send = session._Sender._measure

    def interrupted(self: session._Sender, label: str, *given: object) -> Measurement:
        if label == "third":
            raise KeyboardInterrupt
        return send(self, label, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(session._Sender, "_measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load.run(three, target_at(server.url), out=str(tmp_path))
    (kept,) = (tmp_path / "unfinished").iterdir()
    summary = load.summarize(load.read(kept), three)
    assert {name: summary[name].requests for name in summary} == {"first": 2, "second": 2}


def test_busy_threads_in_the_worker_flip_the_verdict(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same plan with threads that really take the worker's time is invalid, and says why."""

    class Sabotaged(Generator):
        def __enter__(self) -> "Sabotaged":
            super().__enter__()
            self.ready()[0].executor.submit(exec, BUSY, {}).result()
            return self

    monkeypatch.setattr(session, "Generator", Sabotaged)
    strict = plan(generator={"lag_p99_ms": 20})
    said, limit, generator = verdict(server, strict)
    assert (said, limit.name) == ("invalid", "generator")
    assert "the generator" in limit.evidence["reason"] and limit.evidence["dispatch_lag_p99_ms"] == generator.dispatch_lag_p99_ms > 2


def test_lags_are_judged_by_their_p99() -> None:
    """Of 1, 2, ... 100 ms it is 99.01 ms, in the event loop and in sending; no lag at all is no figure."""
    samples = burst(np.full(100, 200.0))
    samples["sent_ns"] += np.arange(100, 0, -1) * 1_000_000
    late = dataclasses.replace(measured(samples), lag_ms=np.arange(1, 101, dtype=np.float32))
    generator = session._generator(late)
    assert (generator.lag_p99_ms, generator.dispatch_lag_p99_ms) == (pytest.approx(99.01), pytest.approx(99.01))
    generator = session._generator(measured(burst([])))
    assert (generator.lag_p99_ms, generator.dispatch_lag_p99_ms) == (None, None)


@pytest.mark.parametrize(
    ("bad", "duration_s", "text"),
    [
        ({"lag_p99_ms": 35.0}, 1.0, "event loop lagged 35.0 ms"),
        ({"cpu_ratio": 0.97}, 1.0, "used 97% of its core"),
        ({"cpu_ratio": 1.2}, 0.05, None),  # CPU time is counted in ticks, which exceed a short measurement
        ({"dispatch_lag_p99_ms": 12.0}, 1.0, "sent 12.0 ms late while a connection was free"),
        ({"achieved_ratio": 0.9}, 1.0, "only 90.0% of the offered rate"),
        ({"workers": 2, "workers_lost": ("process 7 (killed)",)}, 1.0, "1 of 2 load workers died in mid-run: process 7 (killed)"),
        ({}, 1.0, None),
    ],
)
def test_each_limit_has_its_reason(bad: dict[str, object], duration_s: float, text: str | None) -> None:
    """Beyond a limit the scenario is invalid and the reason says value and limit; within all of them it is not."""
    limits = GeneratorLimits(lag_p99_ms=20, dispatch_lag_p99_ms=10)
    reason = invalid(GeneratorStats(**{**HONEST, **bad}), limits, duration_s=duration_s)  # type: ignore[arg-type]
    assert (reason is None) if text is None else (text in str(reason))


def test_more_connections_than_files_are_a_mistake_in_the_plan(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is sent, not even a preflight request; the message says how many are possible."""
    monkeypatch.setattr(resource, "getrlimit", lambda what: (100, 300))
    before = server.seen.connections
    with pytest.raises(ConfigError, match=r"scenarios\.steady\.max_connections: got 1000; allowed: at most 472, .* \(ulimit -n 564\)"):
        load.run(plan(workers=2), target_at(server.url))
    assert server.seen.connections == before


@pytest.mark.parametrize("seen", [True, False])
def test_what_the_generator_saw_beside_the_samples_is_kept(seen: bool) -> None:
    """Answers that nobody asked for, retries, and an end before its time, stand in the result and in the table, where there were any."""
    odd = dataclasses.replace(measured(burst([])), unsolicited=3 * seen, limit_reached=seen)
    found = session._generator(odd)
    assert (found.unsolicited, found.stopped_early, found.retried) == (3 * seen, seen, 0)
    stats = GeneratorStats(**HONEST, unsolicited=3 * seen, stopped_early=seen, retried=7 if seen else None)  # type: ignore[arg-type]
    table = frames.scenarios(analysis.summarize(recording({"s": burst(np.full(50, 5.0))}, generator=stats), GeneratorLimits()))["s"]
    assert table.get("connections with unsolicited data") == ("3" if seen else None)
    assert table.get("sent again after the target closed the connection") == ("7" if seen else None)
    assert table.get("ended early") == ("it had sent as many requests as one scenario may" if seen else None)


# ---- extensions ----


@pytest.mark.parametrize(
    ("objective", "extensions", "requests"),
    [
        ("p95_ms < 60000", 1, {40}),  # 59 are needed, so one extension is not enough
        ("p95_ms < 60000", 5, {60, 80, 100, 120}),  # more than the least where rounds differ
        ("mean_ms < 60000", 5, {20}),
    ],
)
def test_a_scenario_is_extended_until_its_percentiles_are_bounded(
    objective: str, extensions: int, requests: set[int], server: Server
) -> None:
    """Rounds are numbered on, no request is lost, and what needs no more samples is sent once."""
    scenario = {"executor": "burst", "concurrency": 20, "request": "one"}
    data = {"scenarios": {"hot": scenario}, "objectives": [], "extensions": extensions, "generator": WIDE}
    plan = LoadPlan.model_validate(data).model_copy(update={"objectives": (objective,)})
    found = load.run(plan, target_at(server.url))
    rows = found.samples
    assert rows.num_rows in requests
    assert rows.column("round").to_pylist() == [i // 20 for i in range(rows.num_rows)]
    assert load.summarize(found, plan)["hot"].connections_opened == rows.num_rows


def test_enough_is_a_question_of_samples_and_never_of_their_values() -> None:
    """A figure that misses its objective by far is bounded like one that meets it, so that no run is extended until it passes."""
    limits = GeneratorLimits(lag_p99_ms=20)
    for scale in (1, 1000):
        rows = burst(scale * np.random.default_rng(1).uniform(1, 2, 30_000), per_round=100)
        for n, enough in ((10_000, True), (200, False)):
            summary = analysis.summarize(recording({"a": rows[:n]}), limits)["a"]
            assert analysis.bounded(summary, [parse("p99_ms < 2", METRICS)], "a") is enough


def part(rounds: int, **more: object) -> Measurement:
    rows = burst(np.full(3 * rounds, 5.0), per_round=3)
    rows["connection"] = np.tile([0, 1, 2], rounds)
    return dataclasses.replace(measured(rows), connections=2, **more)


def test_parts_of_a_scenario_become_one() -> None:
    """Counts add up, the worst of what one limit is about is kept, and no two parts share a round or a connection; an empty one joins."""
    one = joined(
        [part(2, checked=3, cpu_ratio=0.5, offered=10, on_time=10), part(1), part(1, checked=4, offered=10, on_time=8, lost=("a",))]
    )
    assert one.samples["round"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert one.samples["connection"].tolist() == [0, 1, 2, 0, 1, 2, 0, 3, 4, 0, 5, 6]
    assert (one.checked, one.connections, one.cpu_ratio, one.achieved_ratio, one.lost) == (7, 6, 0.5, 0.9, ("a",))
    assert joined([part(0), part(1), part(0)]).samples["round"].tolist() == [0, 0, 0]


def test_the_bound_of_a_scenario_that_was_extended_covers_as_stated() -> None:
    """Of 60 bursts whose rounds differ, at most a tenth have a bound below the true p99, whether or not they were extended."""
    rng = np.random.default_rng(3)
    place = np.arange(1, 101) / 100

    def rounds(number: int) -> np.ndarray:
        return (np.exp(rng.normal(0, 0.5, number))[:, None] * place * np.exp(rng.normal(0, 0.05, (number, 100)))).ravel()

    true, below = np.quantile(rounds(5_000), 0.99), 0
    for _ in range(60):
        times = rounds(300)
        for number in (150, 300):
            upper = intervals.distribution(times[: 100 * number].copy(), np.full(number, 100)).p99.upper
            if upper is not None:
                break
        below += upper is not None and upper < true
    assert below <= 6
