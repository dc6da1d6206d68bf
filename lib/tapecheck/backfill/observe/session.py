"""Runs somebody else's backfill and watches it: starts it, waits for its end within a limit, and returns the recording."""

import contextlib
import datetime as dt
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, Self

import jmespath
import psutil
import pyarrow as pa
from pydantic_core import from_json

from tapecheck import config, progress, text
from tapecheck.backfill.observe.plan import ObservePlan, observed
from tapecheck.backfill.observe.proxy import ProxyProcess
from tapecheck.backfill.observe.recording import CPU, EXCHANGES, ROWS, SESSIONS, Context, Recording
from tapecheck.backfill.observe.sessions import SessionWatch
from tapecheck.backfill.plan import endpoints
from tapecheck.errors import ConfigError, MeasurementError, Problem, TargetError, shown
from tapecheck.http import Client
from tapecheck.recording import table_of
from tapecheck.resources import command_line, locate
from tapecheck.runs import folders, results
from tapecheck.runs.results import TargetInfo
from tapecheck.target.file import BackfillEnd, BackfillStart, ObservedBackfill, Target

POLL_S = 0.02  # between two looks whether a command has ended
ASK_S = 0.5  # between two questions whether a backfill is done
CPU_EVERY_S = 0.25
GRACE_S = 5.0  # for processes to end by themselves
SAID_BYTES = 4_000  # of the end of what a command wrote


@dataclass(kw_only=True)
class Ending:
    """How a backfill ended; see `Context`."""

    exit_code: int | None = None
    said: str = ""
    over_limit_s: float | None = None
    left: tuple[str, ...] = ()
    cpu_s: float | None = None
    """Of the command and its children, where the system told it."""
    rows: list[tuple[int, float, int]] = field(default_factory=list)


def run(plan: ObservePlan, target: Target) -> Recording:
    """Run a target's own backfill behind the recording proxy, and return what was seen.

    Raises:
        ConfigError: the target says nothing of it or names what is not there; its command or port cannot be used; nothing was started.
        TargetDown: its database cannot be reached, or it does not answer the request that starts it.
        KeyboardInterrupt: it was asked for; the command and its children were ended.
    """
    own, ends = observed(target, plan), endpoints(target)
    _learn((*own.start.command, *plan.command, *plan.reset))
    if plan.command:
        start = own.start.model_copy(update={"command": plan.command, "request": None})
        own = own.model_copy(update={"start": start})
    if plan.reset:
        _reset(own.start.model_copy(update={"command": plan.reset}), plan.limit_s)
    started_at = dt.datetime.now(dt.UTC)
    with contextlib.ExitStack() as stack:
        ca_file = str(config.find(target.ca_file)) if target.ca_file else None
        proxy = stack.enter_context(ProxyProcess(ends.source_url, port=own.proxy_port, rewrites=own.rewrite_next_url, ca_file=ca_file))
        watch = None
        if own.database or own.tables:
            watch = stack.enter_context(SessionWatch(ends.database_url, own.database, own.tables, every_s=plan.every_ms / 1000))
        report = stack.enter_context(progress.show("backfill under watch", "ms"))
        began_ns = time.monotonic_ns()
        ending = _run(own, target, proxy.url, plan.limit_s, lambda done, total: report(done, total, f"{proxy.seen:,} requests"))
        ended_ns = time.monotonic_ns()
    context = Context(
        run_id=folders.new_id(started_at),
        started_at=started_at,
        target=TargetInfo(name=target.name, kind=target.kind, base_url=ends.source_url),
        environment=results.environment(),
        command=" ".join(own.start.command) or f"request {own.start.request}",
        began_ns=began_ns,
        ended_ns=ended_ns,
        exit_code=ending.exit_code,
        said=text.redact(ending.said),
        over_limit_s=ending.over_limit_s,
        left=ending.left,
        watched=watch is not None,
        lost=watch.lost if watch else "",
        proxy_url=proxy.url,
        vendor_url=ends.source_url,
        rewrote=own.rewrite_next_url,
        every_ms=plan.every_ms,
    )
    return Recording(context=context, tables=_tables(proxy, watch, ending, ended_ns))


def _tables(proxy: ProxyProcess, watch: SessionWatch | None, ending: Ending, ended_ns: int) -> dict[str, pa.Table]:
    exchanges = sorted(proxy.exchanges(), key=lambda one: one.began_ns)
    cpu = [*ending.rows, *([(ended_ns, ending.cpu_s, 0)] if ending.cpu_s is not None else [])]
    return {
        "exchanges": table_of(([getattr(one, name) for name in EXCHANGES.names] for one in exchanges), EXCHANGES),
        "sessions": watch.sessions() if watch else SESSIONS.empty_table(),
        "rows": watch.rows() if watch else ROWS.empty_table(),
        "cpu": table_of(cpu, CPU),
    }


def _run(own: ObservedBackfill, target: Target, proxy_url: str, limit_s: float, report: Callable[[int, int], None]) -> Ending:
    if own.start.request:
        assert own.done, "a target file that says otherwise is refused"
        return _requested(own.start.request, own.done, target, limit_s, report)
    return _commanded(own.start, {own.vendor_url_env: proxy_url} if own.vendor_url_env else {}, limit_s, report)


# ---- a command ----


def _reset(start: BackfillStart, limit_s: float) -> None:
    """Run the command that puts things back as they were.

    Raises:
        MeasurementError: it fails, or takes too long.
    """
    ending = _commanded(start, {}, limit_s, lambda done, total: None)
    if ending.exit_code != 0:
        how = "took too long" if ending.exit_code is None else f"ended with exit code {ending.exit_code}"
        raise MeasurementError(f"reset {how}: {ending.said or 'it wrote nothing'}")


def _commanded(start: BackfillStart, more: dict[str, str], limit_s: float, report: Callable[[int, int], None]) -> Ending:
    """Run a command to its end; whatever becomes of it, no process of its session is left."""
    with tempfile.TemporaryFile() as output:
        process = _started(start, more, output)
        try:
            with CpuWatch(lambda: [psutil.Process(process.pid)]) as cpu:
                ending = _waited(process, limit_s, report)
            ending.rows = cpu.rows
        finally:
            left = _end_session(process.pid)
            process.wait()
        ending.left = tuple(left)
        ending.said = _last_line(output)
    return ending


def _learn(command: Sequence[str]) -> None:
    """Have the secrets of a command blanked out wherever it is written: passwords of databases, and values of options named like one."""
    for word, value in pairwise((*command, "")):
        name, _, own = word.partition("=")
        if word.startswith("postgres"):
            text.learn(word)
        elif name.startswith("-") and text.NAMES.search(name) and not name.endswith(("-file", "-env")):
            text.learn(own or ("" if value.startswith("-") else value))


def _started(start: BackfillStart, more: dict[str, str], output: IO[bytes]) -> "subprocess.Popen[bytes]":
    folder = config.find(start.folder) if start.folder else Path.cwd()
    try:
        return subprocess.Popen(
            start.command, cwd=folder, env=os.environ | more, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    except OSError as error:
        allowed = f"a program that can be run in {folder}; backfill.observe.start.folder names another folder"
        got = f"{start.command[0]}: {error.strerror}"
        raise ConfigError([Problem(file="target", key="backfill.observe.start.command", got=got, allowed=allowed)]) from None


def _waited(process: "subprocess.Popen[bytes]", limit_s: float, report: Callable[[int, int], None]) -> Ending:
    """Wait for a command's end; what it took of the CPU comes with it."""
    began_s = time.monotonic()
    while (passed_s := time.monotonic() - began_s) < limit_s:
        pid, status, used = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return Ending(exit_code=process.returncode, cpu_s=used.ru_utime + used.ru_stime)
        report(round(passed_s * 1000), round(limit_s * 1000))
        time.sleep(POLL_S)
    return Ending(over_limit_s=limit_s)


def _end_session(leader: int) -> list[str]:
    """End every process of a session, and return the command lines of those but its leader."""

    def alive() -> list[psutil.Process]:
        found = []
        for pid in psutil.pids():
            with contextlib.suppress(OSError, psutil.Error):
                if os.getsid(pid) == leader and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                    found.append(psutil.Process(pid))
        return found

    processes = alive()
    left = [command_line(one) for one in processes if one.pid != leader]
    for sent in (signal.SIGTERM, signal.SIGKILL):
        for one in processes:
            with contextlib.suppress(psutil.Error):
                one.send_signal(sent)
        psutil.wait_procs(processes, GRACE_S)
        processes = alive()
        if not processes:
            break
    return left


def _last_line(output: IO[bytes]) -> str:
    output.seek(max(0, output.seek(0, os.SEEK_END) - SAID_BYTES))
    lines = output.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:300] if lines else ""


# ---- a request ----


def _requested(start: str, done: BackfillEnd, target: Target, limit_s: float, report: Callable[[int, int], None]) -> Ending:
    """Send the request that starts a backfill, and ask until it says that it is done."""
    when = jmespath.compile(done.when)
    with Client(target) as client, CpuWatch(lambda: [one for selector in target.processes.values() for one in locate(selector)]) as cpu:
        _ask(client, start)
        began_s, ending = time.monotonic(), Ending(over_limit_s=limit_s)
        while (passed_s := time.monotonic() - began_s) < limit_s:
            if when.search(_json(client, done.request)):
                ending = Ending()
                break
            report(round(passed_s * 1000), round(limit_s * 1000))
            time.sleep(ASK_S)
    ending.rows = cpu.rows
    return ending


def _ask(client: Client, request: str) -> bytes:
    answer = client.ask(request)
    if answer.failure:
        raise answer.failure
    if answer.status >= 400:
        raise TargetError(f"the request {request} of the backfill was answered with HTTP {answer.status}: {shown(answer.body)}")
    return answer.body


def _json(client: Client, request: str) -> Any:
    body = _ask(client, request)
    try:
        return from_json(body)
    except ValueError:
        why = f"the request {request} tells whether the backfill is done, and was answered with another body than JSON: {shown(body)}"
        raise TargetError(why) from None


class CpuWatch:
    """Adds up what processes and their children have used of the CPU, every quarter of a second, in a thread."""

    def __init__(self, roots: Callable[[], list[psutil.Process]]) -> None:
        self._roots, self._stop = roots, threading.Event()
        self.rows: list[tuple[int, float, int]] = []

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._loop, name="cpu", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *caught: object) -> None:
        self._stop.set()
        self._thread.join()

    def _loop(self) -> None:
        while not self._stop.wait(CPU_EVERY_S):
            cpu_s, rss_bytes, is_any = 0.0, 0, False
            with contextlib.suppress(psutil.Error):
                for root in self._roots():
                    for one in (root, *root.children(recursive=True)):
                        with contextlib.suppress(psutil.Error):
                            times = one.cpu_times()
                            cpu_s += times.user + times.system + times.children_user + times.children_system
                            rss_bytes, is_any = rss_bytes + one.memory_info().rss, True
            if is_any:
                self.rows.append((time.monotonic_ns(), cpu_s, rss_bytes))
