"""The prober keeps its schedule whatever the target does, and sees what an answer says."""

import asyncio
import gzip
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import servers
from servers import Server

from tapecheck.recovery import timeline
from tapecheck.recovery.experiment import View
from tapecheck.recovery.objectives import ProbeSchedule
from tapecheck.recovery.prober import Prober
from tapecheck.recovery.recording import BAD, DEGRADED, FULL

SCHEDULE = ProbeSchedule(period_s=0.05, timeout_s=1.0, slow_s=0.5, settle_s=0.3)
SERVICE = {"service": View(request="GET /health", serves=True)}


def until(happened: Callable[[], bool], within_s: float = 60.0) -> bool:
    """Wait for an event, and return whether it came."""
    until_s = time.monotonic() + within_s
    while not happened() and time.monotonic() < until_s:
        time.sleep(0.01)
    return happened()


def watch(url: str, views: dict[str, View], seconds: float) -> Prober:
    """Probe for so long, from the first answer or failure on."""
    with Prober(url, views, SCHEDULE) as prober:
        until(lambda: bool(prober.probes))
        time.sleep(seconds)
    return prober


def test_a_silent_target_stops_no_probe() -> None:
    """Each probe waits a second in vain, and others start on their times all the same while it does."""
    with Server(servers.silent) as server:
        prober = watch(server.url, SERVICE, 1.2)
    starts = sorted(probe.intended_ns for probe in prober.probes)
    assert {(start - starts[0]) % 50_000_000 for start in starts} == {0} and len(set(starts)) == len(starts)
    assert sum(start < prober.probes[0].done_ns for start in starts) > 3
    assert {(probe.state, probe.error) for probe in prober.probes} == {(BAD, "timeout")}


def test_a_prober_that_is_held_up_leaves_out_what_it_missed() -> None:
    """It does not send late what it cannot send in time, and its own lateness is no slowness of the target."""
    held = threading.Event()

    class Held(View):
        def state(self, status: int, body: Any) -> int:
            if not held.is_set():
                held.set()
                time.sleep(1.0)  # keeps the prober's own thread
            return super().state(status, body)

    with Server(servers.fast) as server, Prober(server.url, {"service": Held(request="GET /x", serves=True)}, SCHEDULE) as prober:
        assert held.wait(15)
        since_ns = time.monotonic_ns()
        assert prober.wait(FULL, since_ns, within_s=30, unseen_s=0.3)
    starts = sorted(probe.intended_ns for probe in prober.probes)
    assert max(np.diff(starts)) >= 0.9e9
    late = [probe for probe in prober.probes if probe.intended_ns >= since_ns + 1e9 and probe.sent_ns - probe.intended_ns > 0.9e9]
    assert late == []


@pytest.mark.parametrize(
    ("behaviour", "state", "told"),
    [
        (servers.body(b'{"warning": null, "status": "ok"}'), FULL, False),
        (servers.body(b'{"warning": "cached", "status": "ok"}'), DEGRADED, False),
        (servers.body(b'{"warning": "cached", "status": "degraded"}'), DEGRADED, True),
        (servers.body(b"<html>fine</html>"), DEGRADED, False),
        (servers.body(b"[1]"), DEGRADED, False),
        (servers.status(503), DEGRADED, False),
        (servers.status(404), BAD, False),
    ],
)
def test_an_answer_is_what_it_says(behaviour: servers.Behaviour, state: int, told: bool) -> None:
    """Full, degraded or reporting by status and top-level JSON; anything else than JSON fulfils no condition on it."""
    view = View(
        request="GET /x", full={"json": {"warning": None}}, degraded={"status": [200, 503]}, reports={"json": {"status": "degraded"}},
        serves=True,
    )  # fmt: skip
    with Server(behaviour) as server:
        prober = watch(server.url, {"service": view}, 0.1)
    assert {(probe.state, probe.reported) for probe in prober.probes} == {(state, told)}


def test_what_is_no_answer_says_why() -> None:
    """The whole answer must be there in time, not each byte; a dead port is refused at once."""
    with Server(servers.drips(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")) as server:
        dripping = watch(server.url, SERVICE, 0.3)
    dead = watch(server.url, SERVICE, 0.2)
    with Server(servers.body(gzip.compress(gzip.compress(b"{}")), "Content-Encoding: gzip, gzip\r\n")) as server:
        packed = watch(server.url, SERVICE, 0.2)
    errors = [{probe.error for probe in prober.probes} for prober in (dripping, dead, packed)]
    assert errors == [{"timeout"}, {"ConnectError"}, {"DecodingError"}]


@contextmanager
def real_server(folder: Path) -> Iterator[tuple[str, int]]:
    """Serve from a process of its own, which can be frozen."""
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        port = process.stdout.readline().split("port ")[1].split()[0]
        try:
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            process.kill()


def test_a_frozen_process_is_out_as_long_as_it_was_frozen(tmp_path: Path) -> None:
    """It was back no sooner than SIGCONT, and by the time at which all had been well for a while."""
    (tmp_path / "health").write_text("{}")
    view = View(request="GET /health", serves=True)
    with real_server(tmp_path) as (url, pid), Prober(url, {"service": view}, SCHEDULE) as prober:
        assert prober.wait(FULL, time.monotonic_ns(), within_s=60, unseen_s=0.3)
        os.kill(pid, signal.SIGSTOP)
        frozen_ns = time.monotonic_ns()
        timed_out = until(lambda: any(probe.error == "timeout" and probe.sent_ns > frozen_ns for probe in prober.probes.copy()))
        thawing_ns = time.monotonic_ns()
        os.kill(pid, signal.SIGCONT)
        assert timed_out and prober.wait(FULL, frozen_ns, within_s=60, unseen_s=60)
        table, well_ns = prober.table("frozen", 1), time.monotonic_ns()
    found = timeline.clocks(timeline.seen(table), frozen_ns, slow_ns=int(SCHEDULE.slow_s * 1e9))
    assert found.recover_s is not None and thawing_ns <= frozen_ns + found.recover_s * 1e9 + 1 < well_ns


def test_it_waits_for_a_failure_before_it_believes_in_a_recovery() -> None:
    """All well since the fault is no recovery before the time in which its effect would show."""
    with Server(servers.fast) as server, Prober(server.url, SERVICE, SCHEDULE) as prober:
        assert prober.wait(FULL, time.monotonic_ns(), within_s=60, unseen_s=0.3)
        since_ns = time.monotonic_ns()
        assert prober.wait(FULL, since_ns, within_s=60, unseen_s=0.8)
        assert time.monotonic_ns() - since_ns > 0.8e9


def test_what_has_no_answer_yet_is_not_well() -> None:
    """A hang that began just now has only good answers before it: what still waits counts against it."""
    quiet, silent_since_s = threading.Event(), []

    async def until_quiet(exchange: servers.Exchange) -> None:
        if quiet.is_set():
            silent_since_s.append(time.monotonic())
        while quiet.is_set():
            await asyncio.sleep(0.01)
        exchange.send(exchange.answer())

    patient = SCHEDULE.model_copy(update={"timeout_s": 300.0, "settle_s": 300.0})  # looks back on the answers before the hang
    with Server(until_quiet) as server, Prober(server.url, SERVICE, patient) as prober:
        assert until(lambda: bool(prober.probes))
        quiet.set()
        assert until(lambda: bool(silent_since_s) and time.monotonic() - silent_since_s[0] > patient.slow_s)
        is_well = prober.wait(FULL, time.monotonic_ns(), within_s=1.0, unseen_s=0.0)
        quiet.clear()
    assert not is_well


def test_a_wait_in_vain_ends() -> None:
    """With no, in time where the target stays bad, and at once where an exception has ended the prober, which is kept."""
    with Server(servers.status(500)) as server, Prober(server.url, SERVICE, SCHEDULE) as prober:
        assert not prober.wait(FULL, time.monotonic_ns(), within_s=0.6, unseen_s=0.3)
    with Prober("http://127.0.0.1:9", {"database": View(request="SELECT 1", serves=True)}, SCHEDULE) as prober:  # and no database
        assert not prober.wait(FULL, time.monotonic_ns(), within_s=1000, unseen_s=0.3)
    assert isinstance(prober.died_of, AssertionError)
