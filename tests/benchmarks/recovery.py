"""How true the recovery clock is where the outage is known, and what kills of PostgreSQL lose; drills themselves are not timed."""

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from tapecheck import config
from tapecheck.recovery import actions, timeline
from tapecheck.recovery.experiment import View
from tapecheck.recovery.loss import SCHEMA, Recorder
from tapecheck.recovery.objectives import ProbeSchedule, RecoveryPlan
from tapecheck.recovery.prober import Prober
from tapecheck.recovery.recording import FULL, WrittenBar
from tapecheck.sandbox.profile import Profile

from . import embedded, machine

OUTAGES_S = (0.5, 2.0, 10.0)
TRIALS, KILLS = 5, 20
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
BEFORE_S, AFTER_S = 1.5, 0.5  # of writing, around a kill; supervisord waits longer for what did not live for a second
VARIANTS = {"synchronous_commit on": "", "synchronous_commit off": "options=-c%20synchronous_commit%3Doff"}  # the second is planted
HELD = Profile(symbols=("SPY", "BTC", "AAPL", "JPM"), timeframes=("5m",), days=60)
PLAN = machine.ROOT / "config" / "rto_rpo.yaml"
PRESENT = f"SELECT symbol, (extract(epoch FROM time) * 1000)::int8 FROM {SCHEMA}.bars"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """Planted outages of one length, with or without a dependency that hangs all the while: measured minus planted, of each trial."""

    planted_s: float
    hanging: bool
    errors_ms: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """One kill: what was acknowledged, what the recorder calls lost, and what a query of our own did not find."""

    variant: str
    acknowledged_bars: int
    lost_bars: int
    missing_bars: int
    unknown_bars: int
    away_s: float


def run(say: Say, *, count: int = TRIALS, kills: int = KILLS) -> dict[str, Any]:
    """Measure known outages, and kill PostgreSQL."""
    outages = [_outage(planted_s, hanging, count, say) for hanging in (False, True) for planted_s in OUTAGES_S]
    return {"outages": outages, "kills": _kills(kills, say)}


# ---- outages ----


def _outage(planted_s: float, hanging: bool, count: int, say: Say) -> Outage:
    with _server() as (url, pid), contextlib.ExitStack() as stack:
        silent = stack.enter_context(_silent()) if hanging else None
        one = Outage(planted_s=planted_s, hanging=hanging, errors_ms=tuple(_error_ms(url, pid, planted_s, silent) for _ in range(count)))
    say(f"outage of {planted_s:g} s{', beside a hang' if hanging else ''}: {', '.join(f'{e:+.0f} ms' for e in one.errors_ms)}")
    return one


def _error_ms(url: str, pid: int, planted_s: float, silent: str | None) -> float:
    """Freeze the server for so long, and return by how much what was measured is longer than what it was."""
    with contextlib.ExitStack() as stack:
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
    return clocks.recover_s * 1000 - (thawed_ns - frozen_ns) / 1e6


@contextlib.contextmanager
def _server() -> Iterator[tuple[str, int]]:
    """Serve a file from a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "health").write_text("{}")
        with machine.serving([sys.executable, "-c", SERVE, folder], machine.ALL, stderr=subprocess.DEVNULL) as (url, process):
            yield url, process.pid


@contextlib.contextmanager
def _silent() -> Iterator[str]:
    """Accept connections and never answer."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


# ---- kills: nothing is lost as it is set, and exactly so much where the server answers too soon ----


def _kills(trials: int, say: Say) -> list[Kill]:
    """Kill the database of a sandbox of its own in mid-recording, so often in each variant."""
    plan: RecoveryPlan = config.chosen(RecoveryPlan, PLAN, config.WHOLE)
    found = []
    with embedded.running(HELD) as sandbox:
        for variant, trial in itertools.product(VARIANTS, range(1, trials + 1)):
            found.append(one := _kill(sandbox.database_url, plan, variant, trial))
            say(f"{variant}, kill {trial}: {one.lost_bars} of {one.acknowledged_bars} lost, {one.missing_bars} missing")
    return found


def _kill(database_url: str, plan: RecoveryPlan, variant: str, trial: int) -> Kill:
    """Kill the server by the drill's own action."""
    port = int(psycopg.conninfo.conninfo_to_dict(database_url)["port"] or 0)
    with Recorder(f"{database_url}{'&' if '?' in database_url else '?'}{VARIANTS[variant]}", plan, drill=variant, trial=trial) as recorder:
        time.sleep(BEFORE_S)
        actions.kill("database", {"processes": {"database": {"port": port}}})
        _present(database_url)
        time.sleep(AFTER_S)
    present = _present(database_url)  # before the recorder is asked, which drops its table then
    return kill_of(variant, recorder.bars(), present)


def _present(database_url: str) -> set[tuple[Any, ...]]:
    """Return the bars that are there, as soon as the database answers."""
    for _ in range(600):
        with contextlib.suppress(psycopg.OperationalError), psycopg.connect(database_url, connect_timeout=2) as connection:
            return set(connection.execute(PRESENT.encode()).fetchall())
        time.sleep(0.05)
    raise RuntimeError("the database did not come back")


def kill_of(variant: str, written: Sequence[WrittenBar], present: set[tuple[Any, ...]]) -> Kill:
    """Hold what the recorder says of its bars against those that are there."""
    acknowledged = [one for one in written if one.acked_ns is not None]
    away_ns = [(later.acked_ns or 0) - (sooner.acked_ns or 0) for sooner, later in itertools.pairwise(acknowledged)]
    return Kill(
        variant=variant,
        acknowledged_bars=len(acknowledged),
        lost_bars=sum(one.fate == "lost" for one in written),
        missing_bars=sum((one.symbol, one.time_ms) not in present for one in acknowledged),
        unknown_bars=sum(one.fate == "unknown" for one in written),
        away_s=max(away_ns, default=0) / 1e9,
    )


def kills_table(kills: Sequence[Kill]) -> tuple[Sequence[str], list[Sequence[object]]]:
    """Return head and rows of a table of the kills of each variant."""
    heads = ("variant", "kills", "acknowledged a kill (bars)", "lost a kill (bars)", "lost = missing in", "unknown (bars)", "away (s)")
    rows: list[Sequence[object]] = []
    for variant in dict.fromkeys(one.variant for one in kills):
        own = [one for one in kills if one.variant == variant]
        acknowledged, lost, away_s = ([getattr(one, name) for one in own] for name in ("acknowledged_bars", "lost_bars", "away_s"))
        exact = sum(one.lost_bars == one.missing_bars for one in own)
        rows.append((
            variant, len(own), f"{min(acknowledged)} to {max(acknowledged)}", f"{min(lost)} to {max(lost)}, {sum(lost)} in all",
            f"{exact} of {len(own)}", sum(one.unknown_bars for one in own), f"{min(away_s):.2f} to {max(away_s):.2f}",
        ))  # fmt: skip
    return heads, rows
