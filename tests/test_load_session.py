"""A load run end to end: a generator that is its own bottleneck gives no verdict, and its workers end with their parent."""

import contextlib
import dataclasses
import os
import re
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import servers
from clusters import DaskCluster, cluster
from engines import WIDE, schedule, target_at
from samples import burst, measured, recording
from servers import Server

from tapecheck.errors import ConfigError, MeasurementError
from tapecheck.load import analysis, frames, session
from tapecheck.load.analysis import invalid
from tapecheck.load.engine import engine
from tapecheck.load.engine.recorder import SAMPLE, Measurement, Samples, Tally, joined
from tapecheck.load.engine.work import Address, PreparedRequest, Work
from tapecheck.load.plan import METRICS, GeneratorLimits, LoadPlan
from tapecheck.load.recording import GeneratorStats
from tapecheck.load.session import Generator
from tapecheck.load.validation import load
from tapecheck.runs.results import Finding
from tapecheck.statistics import intervals
from tapecheck.verdict import overall, parse
from tapecheck.workers import processes, worker

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


# ---- worker processes ----

RAW = b"GET /?symbol=A HTTP/1.1\r\nHost: x\r\n\r\n"

REQUEST = PreparedRequest(values={}, method="GET", url="http://x/", raw=RAW, headers=())


def work(port: int, **how: object) -> Work:
    if "schedule" in how:
        return Work(**{"address": Address(host="127.0.0.1", port=port), "requests": (REQUEST,), "executor": "constant_rate", **how})  # type: ignore[arg-type]
    shape = {"executor": "closed"} if "duration_s" in how else {"executor": "burst", "rounds": 2}
    return Work(**{"address": Address(host="127.0.0.1", port=port), "requests": (REQUEST,), "concurrency": 5, **shape, **how})  # type: ignore[arg-type]


def pid_of(generator: Generator, number: int = 0) -> int:
    one = generator.ready()[number]
    assert isinstance(one, processes.Process) and one.pid
    return one.pid


@pytest.fixture(scope="module")
def slow() -> Iterator[Server]:
    with Server(servers.slow(0.02)) as server:
        yield server


@pytest.fixture(scope="module")
def generator() -> Iterator[Generator]:
    with Generator() as generator:
        yield generator


@pytest.fixture(scope="module")
def pair() -> Iterator[Generator]:
    with Generator(2) as generator:
        yield generator


def test_one_worker_measures_again_and_again(generator: Generator, slow: Server) -> None:
    """Scenarios run one after the other in the same process, which is not this one, and share its clock."""
    seen: list[tuple[int, int]] = []
    before_ns = time.monotonic_ns()
    samples = generator.measure(work(slow.port)).samples
    assert len(samples) == 10
    assert before_ns < samples["intended_ns"].min() < samples["done_ns"].max() < time.monotonic_ns()
    closed = generator.measure(work(slow.port, duration_s=0.7), lambda done, total: seen.append((done, total)))
    assert len(closed.samples) > 10
    assert pid_of(generator) != os.getpid()
    assert seen[-1] == (700, 700)
    assert len(seen) >= 3
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def once_done(enough: int, act: Callable[[], object]) -> Callable[[int, int], None]:
    """Return what takes the progress of a measurement, and acts once when so many requests are done."""
    acts = iter([act])

    def report(done: int, total: int) -> None:
        if done >= enough:
            next(acts, lambda: None)()

    return report


def test_what_a_killed_worker_had_done_is_counted(slow: Server) -> None:
    """Its rows survive it, the result names it, and the next scenario has a new worker."""
    with Generator() as generator:
        pid = pid_of(generator)
        began = time.monotonic()
        measured = generator.measure(work(slow.port, duration_s=90.0), once_done(500, lambda: os.kill(pid, signal.SIGKILL)))
        assert time.monotonic() - began < 60
        assert measured.lost == (f"process {pid} (killed, or out of memory)",)
        assert len(measured.samples) > 0
        assert (measured.samples["done_ns"] > measured.samples["intended_ns"]).all()
        assert generator.measure(work(slow.port)).lost == ()


def test_the_shares_of_two_workers_make_up_the_whole_schedule(pair: Generator, slow: Server) -> None:
    """Every request of the schedule is there once, at its instant, in order, with its combination; each worker sent half."""
    whole = schedule(200, 0.4, warm_up_s=0.2)
    measured = pair.measure(work(slow.port, schedule=whole, duration_s=0.4, warm_up_s=0.2, requests=(REQUEST,) * 7))
    samples = measured.samples
    assert (measured.workers, len(samples)) == (2, 120)
    assert (samples["intended_ns"] - samples["intended_ns"][0] == whole.due_ns(np.arange(120))).all()
    assert list(samples["warm_up"]) == [1] * 40 + [0] * 80
    assert (samples["request"][40:] == np.arange(80) % 7).all()
    assert not set(samples["connection"][::2]) & set(samples["connection"][1::2])
    assert (samples["error"] == 0).all()
    assert measured.achieved_ratio == pytest.approx(1, abs=0.05)


def test_users_are_shared_out_and_a_burst_stays_whole(pair: Generator, slow: Server) -> None:
    """Of 5 users one worker has 3 and the other 2, at the same time; a burst is one instant, sent by one worker."""
    samples = pair.measure(work(slow.port, duration_s=0.5)).samples
    first, second = (samples[samples["connection"] % 2 == k] for k in (1, 0))
    assert [len(np.unique(part["connection"])) for part in (first, second)] == [3, 2]
    assert abs(first["intended_ns"].min() - second["intended_ns"].min()) < 50e6
    burst = pair.measure(work(slow.port))
    assert (burst.workers, len(burst.samples)) == (1, 10)
    assert pair.measure(work(slow.port, duration_s=0.1, concurrency=1)).workers == 1


def test_one_of_two_workers_dies_and_the_other_goes_on(slow: Server) -> None:
    """The share of the living is whole, that of the dead as far as it came; both are in order, and nothing is made up."""
    whole = schedule(100, 2.0)
    with Generator(2) as generator:
        pid = pid_of(generator, 1)
        task = work(slow.port, schedule=whole, duration_s=2.0, requests=(REQUEST,) * 2)
        measured = generator.measure(task, once_done(500, lambda: os.kill(pid, signal.SIGKILL)))
    assert len(measured.lost) == 1
    assert (measured.samples["request"] == 0).sum() == 100
    assert 0 < (measured.samples["request"] == 1).sum() < 100
    assert (np.diff(measured.samples["intended_ns"]) >= 0).all()


# ---- a Dask cluster ----


@pytest.fixture(scope="module")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    with cluster(tmp_path_factory.mktemp("dask")) as running:
        deadline, joined = time.monotonic() + 120, 0
        while joined < 2:
            assert time.monotonic() < deadline, "the workers did not join"
            with contextlib.suppress(MeasurementError), Generator(running.url) as generator:
                joined = len(generator.ready())
        yield running


def test_a_cluster_measures_like_processes_do(dask: DaskCluster, slow: Server) -> None:
    """Two workers of a real scheduler send the two halves of a schedule, from one start, on the clock of this process; users too."""
    whole = schedule(100, 0.6)
    before = time.monotonic_ns()
    with Generator(dask.url) as generator:
        seen: list[int] = []
        measured = generator.measure(
            work(slow.port, schedule=whole, duration_s=0.6, requests=(REQUEST,) * 7), lambda done, total: seen.append(done)
        )
        closed = generator.measure(work(slow.port, duration_s=1.0))  # long enough for each user to have begun
    samples = measured.samples
    assert (measured.workers, measured.lost, measured.clock_error_ms) == (2, (), 0.0)
    assert (samples["intended_ns"] - samples["intended_ns"][0] == whole.due_ns(np.arange(60))).all()
    assert (samples["request"] == np.arange(60) % 7).all()
    assert (samples["error"] == 0).all()
    assert before < samples["intended_ns"].min() < samples["done_ns"].max() < time.monotonic_ns()
    assert seen
    assert seen == sorted(seen)
    assert (closed.workers, len(np.unique(closed.samples["connection"]))) == (2, 5)


def test_an_exception_stops_what_the_cluster_measures(dask: DaskCluster, slow: Server) -> None:
    """The workers stop soon, so that the next scenario does not wait for them."""

    def interrupt(done: int, total: int) -> None:
        if done > 1500:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Generator(dask.url) as generator:
        generator.measure(work(slow.port, duration_s=90.0), interrupt)
    began = time.monotonic()
    with Generator(dask.url) as generator:
        measured = generator.measure(work(slow.port, schedule=schedule(100, 0.2), duration_s=0.2))
    assert (measured.workers, measured.lost, len(measured.samples)) == (2, (), 20)
    assert time.monotonic() - began < 45


def test_a_worker_of_the_cluster_that_dies_is_named_and_the_others_are_counted(dask: DaskCluster, slow: Server) -> None:
    """Its rows die with it, and how many is said; the other's are whole, and the next scenario makes do with that one."""
    with Generator(dask.url) as generator:
        measured = generator.measure(work(slow.port, schedule=schedule(100, 2.0), duration_s=2.0), once_done(40, dask.workers[0].kill))
        assert len(measured.lost) == 1
        had_begun = re.search(r"it had begun (\d+) requests, whose rows are lost with it", measured.lost[0])
        assert had_begun
        assert 0 < int(had_begun[1]) < 100
        assert len(measured.samples) == 100
        assert generator.measure(work(slow.port, duration_s=0.2)).workers == 1


AHEAD_NS = (3_600 * 10**9, 7_200 * 10**9)  # by worker: their machines have been up for an hour and two hours longer than this one
FAR = Address(host="192.0.2.1", port=80)  # nothing is sent there


class FarGenerator(Generator):
    """Two workers of a cluster that are threads of this process, each on a clock of its own; what they are given is kept."""

    lead_s = 0.5  # type: ignore[assignment]

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self._there = threading.local()
        self.far = [worker.Worker(f"worker {number}", self._executor(number)) for number in range(len(AHEAD_NS))]
        self.given: dict[int, Work] = {}
        monkeypatch.setattr(worker, "read_clock", lambda: time.monotonic_ns() + self._there.ahead_ns)
        monkeypatch.setattr(engine, "measure_share", self.answer)
        for one in self.far:
            one.offset_ns, one.error_ns = worker.compare_clocks(one.executor)

    def _executor(self, number: int) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, initializer=setattr, initargs=(self._there, "ahead_ns", AHEAD_NS[number]))

    def ready(self) -> list[worker.Worker]:
        return self.far

    def answer(self, control: worker.Control, work: Work, file: None) -> tuple[Tally, Samples]:
        """Say of 10 requests, the first at the start that was given, a second apart, what this worker's clock shows; none was answered."""
        self.given[work.worker] = work
        rows = np.zeros(10, SAMPLE)
        rows["intended_ns"] = work.start_ns + np.arange(10) * 10**9
        rows["sent_ns"], rows["done_ns"] = rows["intended_ns"] + 1, rows["intended_ns"] + 2
        outcome = Tally(started_ns=work.start_ns, ended_ns=work.start_ns + 10**10, cpu_ratio=0.5, offered=10, on_time=10)
        return outcome, rows


def test_workers_whose_clocks_are_ahead_start_together_and_are_counted_on_this_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each gets the common start on its own, and its times are moved back to this one, but for what never was."""
    generator = FarGenerator(monkeypatch)
    before_ns = time.monotonic_ns()
    measured = generator.measure(work(0, address=FAR, schedule=schedule(2, 10), duration_s=10.0))
    after_ns = time.monotonic_ns()
    for number, told in generator.given.items():
        assert before_ns < told.start_ns - AHEAD_NS[number] < after_ns + 10**9, "the start, on this clock"
    start_ns, rows = measured.started_ns, measured.samples
    assert before_ns < start_ns < after_ns + 10**9
    assert rows["intended_ns"].tolist() == [start_ns + second * 10**9 for second in range(10) for _ in AHEAD_NS]
    assert (rows["sent_ns"] == rows["intended_ns"] + 1).all()
    assert (rows["done_ns"] == rows["intended_ns"] + 2).all()
    assert not rows["first_byte_ns"].any()
    assert (measured.ended_ns, measured.cpu_ratio) == (start_ns + 10**10, 0.5)
    assert 0 < measured.clock_error_ms < 5


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_worker_on_another_machine_is_not_sent_to_its_own_loopback(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What listens there is not the target; the message says to name an address that holds for all."""
    generator = FarGenerator(monkeypatch)
    with pytest.raises(MeasurementError, match=r"worker 0 is on another machine, .* name an address for all"):
        generator.measure(work(0, address=Address(host=host, port=80), duration_s=1.0))


SCRIPT = """
    import asyncio, signal
    from tapecheck.load.engine.work import Address, PreparedRequest, Work
    from tapecheck.load.session import Generator
    print("main", flush=True)   # a worker that ran this file again would print it twice
    request = PreparedRequest(values={}, method="GET", url="http://x/", raw=RAW, headers=())
    short, long = (
        Work(address=Address(host="127.0.0.1", port=PORT), requests=(request,), executor="closed", concurrency=5, duration_s=duration_s)
        for duration_s in (0.3, 90.0)
    )
    async def main():   # as in a Jupyter kernel: an event loop already runs in the main thread
        signal.signal(signal.SIGINT, signal.default_int_handler)   # as ipykernel does while a cell runs
        with Generator() as generator:
            print("pid", generator.ready()[0].pid, flush=True)
            print("n", len(generator.measure(short).samples) > 10, flush=True)
            generator.measure(long, lambda done, total: print("at", done, flush=True))
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


def script(tmp_path: Path, slow: Server) -> subprocess.Popen[str]:
    """Start a script without `if __name__ == "__main__"` in a process group of its own."""
    file = tmp_path / "script.py"
    file.write_text(textwrap.dedent(SCRIPT).replace("RAW", repr(RAW)).replace("PORT", str(slow.port)))
    return subprocess.Popen([sys.executable, str(file)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for_progress(process: "subprocess.Popen[str]") -> int:
    """Return the worker's pid once it measures for long, which it did before for a moment."""
    pid, seen = 0, []
    assert process.stdout is not None
    for line in process.stdout:
        seen.append(line)
        if line.startswith("pid"):
            pid = int(line.split()[1])
        if line.startswith("at"):
            assert (seen.count("main\n"), seen.count("n True\n")) == (1, 1)
            return pid
    raise AssertionError("it never measured")


def gone(pid: int, within_s: float = 30.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def test_ctrl_c_in_a_terminal_ends_both_without_a_traceback(tmp_path: Path, slow: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGINT to the whole group, as a terminal sends it, ends in KeyboardInterrupt in the parent and nowhere else.

    Before that neither a running loop, nor a main module without a guard, nor a long TMPDIR hinders the worker.
    """
    folder = tmp_path / ("long" * 22)
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    process = script(tmp_path, slow)
    pid = wait_for_progress(process)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert "interrupted" in out
    assert err == ""
    assert gone(pid)


def test_a_worker_does_not_outlive_a_killed_parent(tmp_path: Path, slow: Server) -> None:
    """A kernel that is killed takes its worker along, in mid-measurement too."""
    process = script(tmp_path, slow)
    pid = wait_for_progress(process)
    process.kill()
    process.communicate(timeout=60)
    assert gone(pid)


def test_the_worker_imports_nothing_slow() -> None:
    """What a worker needs loads without pandas, pyarrow, httpx or pydantic, so that it starts quickly."""
    slow = {"pandas", "pyarrow", "httpx", "pydantic", "yaml"}
    code = f"import sys, tapecheck.load.engine.engine, tapecheck.workers.pool; print(*{slow} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""
