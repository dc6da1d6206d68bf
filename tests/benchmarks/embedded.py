"""A sandbox of the benchmarks' own, in a temporary folder: its upstream, its database, and what CPU time they took."""

import contextlib
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import numpy as np
import psutil
import psycopg

from tapecheck.backfill.plan import Endpoints
from tapecheck.runs.results import TargetInfo
from tapecheck.sandbox import supervision
from tapecheck.sandbox.profile import Home, Profile
from tapecheck.target.opening import SandboxState

HOME = "TAPECHECK_SANDBOX_HOME"
SMALL = Profile(symbols=("EEM",), timeframes=("1d",), days=2)  # refreshed once a day, so that its scheduler rests meanwhile
GONE = (psutil.NoSuchProcess, psutil.ZombieProcess)


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """A running sandbox; its upstream serves every symbol that it lists, whatever its database holds."""

    folder: Path
    upstream_url: str
    database_url: str
    pids: Mapping[str, int]

    def limit(self, **limit: float) -> None:
        """Have the upstream refuse what exceeds a limit; nothing without one."""
        key = {"Authorization": f"Bearer {Home(self.folder).secret()}"}
        httpx.post(f"{self.upstream_url}/limit", json=limit, headers=key, trust_env=False).raise_for_status()

    def clear(self, *schemas: str) -> None:
        """Drop schemas and write all that is dirty to disk, so that nobody pays for who came before."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            for schema in schemas:
                connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
            connection.execute("CHECKPOINT")

    def cpu_s(self) -> float:
        """Return the CPU time of all its processes since they began."""
        return tree_cpu_s(self.pids["supervisor"])


@contextlib.contextmanager
def running(profile: Profile = SMALL) -> Iterator[Embedded]:
    """Run a sandbox with its embedded database, which holds next to nothing unless told otherwise, and remove it whatever happens."""
    base = "/var/tmp" if Path("/var/tmp").is_dir() else None  # on a disk, and where the database's user may enter
    folder = Path(tempfile.mkdtemp(prefix="tcb-", dir=base)).resolve()
    before = {name: os.environ.pop(name, None) for name in (HOME, "DATABASE_URL")}
    os.environ[HOME] = str(folder)
    try:
        state = supervision.up(profile=profile)
        supervision.wait_filled(timeout_s=90)
        found = supervision.status()
        assert state.database_url and found
        pids = {one.name: one.pid for one in found.processes if one.pid} | {"supervisor": state.supervisor_pid}
        yield Embedded(folder=folder, upstream_url=state.upstream_url, database_url=state.database_url, pids=pids)
    finally:
        with _undisturbed():
            supervision.down()
            shutil.rmtree(folder, ignore_errors=True)
        del os.environ[HOME]
        os.environ.update({name: value for name, value in before.items() if value is not None})


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Let a second Ctrl-C not keep the first from cleaning up."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def endpoints(source_url: str) -> Endpoints:
    """Return the database of the sandbox that the environment names, and a source, in any process of the benchmarks."""
    state = SandboxState.model_validate_json(SandboxState.file().read_bytes())
    assert state.database_url
    target = TargetInfo(name="bench", kind="sandbox", base_url=source_url)
    return Endpoints(source_url=source_url, key=Home().secret(), database_url=state.database_url, target=target)


def tree_cpu_s(pid: int) -> float:
    """Return the CPU time of a process, those that it started, and those of them that ended."""
    total_s = 0.0
    with contextlib.suppress(*GONE):
        root = psutil.Process(pid)
        for one in (root, *root.children(recursive=True)):
            with contextlib.suppress(*GONE):
                total_s += sum(one.cpu_times()[:4])  # user and system, its own and its ended children's
    return total_s


class Busy:
    """Samples the CPU time of some process trees while the block lasts."""

    def __init__(self, pids: Mapping[str, int], period_s: float = 0.1) -> None:
        self._pids, self._period_s = pids, period_s
        self._at_ns: list[int] = []
        self._cpu_s: dict[str, list[float]] = {name: [] for name in pids}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="busy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def between(self, began_ns: int, ended_ns: int) -> dict[str, float]:
        """Return the CPU seconds of each tree from one moment of the monotonic clock to another, within the block."""
        return {name: grown(self._at_ns, cpu_s, began_ns, ended_ns) for name, cpu_s in self._cpu_s.items()}

    def _loop(self) -> None:
        while True:
            self._at_ns.append(time.monotonic_ns())
            for name, pid in self._pids.items():
                self._cpu_s[name].append(tree_cpu_s(pid))
            if self._over.wait(self._period_s):
                return


def grown(at_ns: list[int], total: list[float], began_ns: int, ended_ns: int) -> float:
    """Return by how much a growing total grew, between its samples in proportion; one that falls has ended, and stands still."""
    began, ended = np.interp([began_ns, ended_ns], at_ns, np.maximum.accumulate(total)).tolist()
    return float(ended - began)
