"""What a benchmark needs of the machine: its cores, how busy it was, and processes that surely end. It measures nothing."""

import contextlib
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tapecheck.runs import results

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "outputs" / "benchmarks"
PEERS = Path(sys.executable).parent  # where the lock puts k6 and locust


@dataclass(frozen=True, slots=True, kw_only=True)
class Cores:
    """Which cores generate the load, and which serve it; the same one on a machine that has no second."""

    generator: frozenset[int]
    server: frozenset[int]


def cores() -> Cores:
    """Give the last core that this process may use to the generator, the others to the server."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    return Cores(generator=frozenset(allowed[-1:]), server=frozenset(allowed[:-1] or allowed))


ALL = cores().generator | cores().server


def pinned(where: frozenset[int]) -> dict[str, Any]:
    """Return the arguments of `Popen` that start a process on some cores; none where the system cannot."""
    return {"preexec_fn": lambda: os.sched_setaffinity(0, where)} if hasattr(os, "sched_setaffinity") else {}


@contextlib.contextmanager
def process(command: Sequence[str | Path], where: frozenset[int], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a process on some cores for as long as the block takes; it is continued, ended and waited for."""
    running = subprocess.Popen([*map(str, command)], text=True, cwd=ROOT, **pinned(where), **options)
    try:
        yield running
    finally:
        if running.poll() is None:
            psutil.Process(running.pid).resume()
            running.terminate()
            try:
                running.wait(5)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()
        for stream in (running.stdout, running.stderr):
            if stream is not None:
                stream.close()


@contextlib.contextmanager
def serving(command: Sequence[str | Path], where: frozenset[int], **options: Any) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run a server that prints its port; yield its URL and its process."""
    with process(command, where, stdout=subprocess.PIPE, **options) as running:
        assert running.stdout is not None
        port = running.stdout.readline().strip()
        if not port:
            raise RuntimeError(f"it did not start: {' '.join(map(str, command[:3]))}")
        yield f"http://127.0.0.1:{port}", running


def output(command: Sequence[str | Path], where: frozenset[int], timeout_s: float) -> str:
    """Run a process on some cores to its end, and return what it wrote.

    Raises:
        RuntimeError: it failed; the end of what it said is in the message.
    """
    words = [*map(str, command)]
    done = subprocess.run(words, text=True, capture_output=True, timeout=timeout_s, cwd=ROOT, **pinned(where))
    if done.returncode:
        raise RuntimeError(f"{Path(words[0]).name} ended with {done.returncode}: {(done.stderr or done.stdout)[-500:]}")
    return done.stdout


def module(name: str, *arguments: object) -> list[str]:
    """Return the command that runs a module of the benchmarks in a process of its own."""
    return [sys.executable, "-m", f"tests.benchmarks.{name}", *map(str, arguments)]


def program(name: str) -> str | None:
    """Find a program: among the benchmarks' own peers, on the path, or where Debian puts servers."""
    return shutil.which(name, path=os.pathsep.join([str(PEERS), os.environ.get("PATH", ""), "/usr/sbin"]))


def free_port() -> int:
    """Return a port of loopback that was free a moment ago."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Others:
    """How many cores something else kept busy since this was made, other guests of a shared host included."""

    def __init__(self) -> None:
        self._at, self._busy_s, self._own_s = time.monotonic(), _busy_s(), _own_s()

    def cores(self, more_s: float = 0.0) -> float:
        """Return the mean; ask when every process of ours has ended, for only then its time is known.

        Args:
            more_s: CPU time of processes that are ours, but no children of this one.
        """
        others_s = (_busy_s() - self._busy_s) - (_own_s() - self._own_s) - more_s
        return max(0.0, others_s / (time.monotonic() - self._at))


def _busy_s() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0))


def _own_s() -> float:
    """Return the CPU time of this process and of all that it has started and that have ended."""
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def family_s(but: int) -> float:
    """Return the CPU time of all processes that this one has started and that still run, one of them and its own left out."""
    here, total_s = psutil.Process(), 0.0
    for child in here.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.pid != but and but not in {parent.pid for parent in child.parents()}:
                times = child.cpu_times()
                total_s += times.user + times.system + times.children_user + times.children_system
    return total_s


def wait_quiet(minutes: float, limit: float) -> tuple[float, float]:
    """Wait until others leave the cores alone for 10 s, at most so long; return (seconds waited, cores busy at last)."""
    began, quiet = time.monotonic(), 0
    while True:
        busy = psutil.cpu_percent(2.0) / 100 * (psutil.cpu_count() or 1)
        quiet = quiet + 1 if busy <= limit else 0
        if quiet >= 5 or time.monotonic() - began >= minutes * 60:
            return time.monotonic() - began, busy


def description() -> dict[str, Any]:
    """Describe the machine."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return {"cpu": model, "cores": results.environment().cores, "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
            "system": f"{platform.system()} {platform.release()}", "python": platform.python_version()}  # fmt: skip


def peak_bytes() -> int:
    """Return the most memory this process ever had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
