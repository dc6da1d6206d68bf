"""How true the recovery clock is where the outage is known, and what kills of PostgreSQL lose; drills themselves are not timed."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapecheck.recovery import timeline
from tapecheck.recovery.experiment import View
from tapecheck.recovery.objectives import ProbeSchedule
from tapecheck.recovery.prober import Prober
from tapecheck.recovery.recording import FULL

from . import loss

OUTAGES_S = (0.5, 2.0, 10.0)
TRIALS = 5
SERVICE = View(request="GET /health", serves=True)
SCHEDULE = ProbeSchedule(slow_s=0.25)  # outages of half a second must be longer than what is no outage
# With the default backlog of 5, connections that were refused one during the outage try again together a second later, and then
# refuse it to a probe: an outage of the server's own, which is no error of the clock.
SERVE = """
import functools, http.server as h, sys
class Server(h.ThreadingHTTPServer): request_queue_size = 1024
class Handler(h.SimpleHTTPRequestHandler): protocol_version = "HTTP/1.1"
with Server(("127.0.0.1", 0), functools.partial(Handler, directory=sys.argv[1])) as server:
    print(server.server_port, flush=True)
    server.serve_forever()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """Planted outages of one length, with or without a dependency that hangs all the while: what was planted, and what was measured."""

    planted_s: float
    hanging: bool
    true_s: tuple[float, ...]
    measured_s: tuple[float, ...]

    @property
    def errors_s(self) -> tuple[float, ...]:
        """Return measured minus true, of each trial."""
        return tuple(measured - true for measured, true in zip(self.measured_s, self.true_s, strict=True))


def run(say: Callable[[str], None], *, count: int = TRIALS, kills: int = loss.TRIALS) -> dict[str, Any]:
    """Measure known outages, and kill PostgreSQL."""
    outages = []
    for hanging in (False, True):
        for planted_s in OUTAGES_S:
            outages.append(one := _outage(planted_s, hanging, count))
            say(
                f"outage of {planted_s:g} s{', beside a hang' if hanging else ''}: {', '.join(f'{e * 1000:+.0f} ms' for e in one.errors_s)}"
            )
    return {"outages": outages, "kills": loss.run(kills, say)}


def _outage(planted_s: float, hanging: bool, count: int) -> Outage:
    with _server() as (url, pid), ExitStack() as stack:
        silent = stack.enter_context(_silent()) if hanging else None
        pairs = [_trial(url, pid, planted_s, silent) for _ in range(count)]
    true_s, measured_s = zip(*pairs, strict=True)
    return Outage(planted_s=planted_s, hanging=hanging, true_s=true_s, measured_s=measured_s)


def _trial(url: str, pid: int, planted_s: float, silent: str | None) -> tuple[float, float]:
    """Freeze the server for so long, and return how long that was, and what was measured."""
    with ExitStack() as stack:
        prober = stack.enter_context(Prober(url, {"service": SERVICE}, SCHEDULE))
        if silent:
            stack.enter_context(Prober(silent, {"dependency": SERVICE}, SCHEDULE))
        assert prober.wait(FULL, time.monotonic_ns(), within_s=10, unseen_s=0.5)
        frozen_ns = time.monotonic_ns()
        os.kill(pid, signal.SIGSTOP)
        try:
            threading.Event().wait(planted_s)
        finally:
            os.kill(pid, signal.SIGCONT)
        thawed_ns = time.monotonic_ns()
        assert prober.wait(FULL, frozen_ns, within_s=10, unseen_s=0.5)
    clocks = timeline.clocks(timeline.seen(prober.table("bench", 1)), frozen_ns, slow_ns=int(SCHEDULE.slow_s * 1e9))
    assert clocks.recover_s is not None
    return (thawed_ns - frozen_ns) / 1e9, clocks.recover_s


@contextmanager
def _server() -> Iterator[tuple[str, int]]:
    """Serve a file from a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "health").write_text("{}")
        command = [sys.executable, "-c", SERVE, folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout is not None
            try:
                yield f"http://127.0.0.1:{process.stdout.readline().strip()}", process.pid
            finally:
                process.kill()


@contextmanager
def _silent() -> Iterator[str]:
    """Accept connections and never answer."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def tables(found: dict[str, Any]) -> list[str]:
    """Return the lines of the tables of `run`."""
    lines = ["| planted outage (SIGSTOP) | beside a hanging dependency | error of each trial (ms) | n |", "|---|---|---|---:|"]
    for one in found["outages"]:
        errors = ", ".join(f"{error * 1000:+.0f}" for error in one.errors_s)
        lines.append(f"| {one.planted_s:g} s | {'yes' if one.hanging else 'no'} | {errors} | {len(one.errors_s)} |")
    return [*lines, "", *loss.table(found["kills"])]


if __name__ == "__main__":
    print("\n".join(tables(run(lambda text: print(text, file=sys.stderr)))))
