"""A real Dask scheduler and real worker processes on loopback, without dashboards; nothing of it is left afterwards."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LOOPBACK = ("--host", "127.0.0.1", "--no-dashboard")
UNWATCHED = {"DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "false"}  # each of its own samples costs time


@dataclass
class DaskCluster:
    """Its URL for a plan, and the processes of its scheduler and workers."""

    url: str
    scheduler: subprocess.Popen[bytes]
    workers: list[subprocess.Popen[bytes]]


def _start(folder: Path, program: str, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", f"distributed.cli.dask_{program}", *LOOPBACK, *arguments]
    with (folder / f"{program}.log").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, env={**os.environ, **UNWATCHED}, stdout=log, stderr=log)


@contextlib.contextmanager
def cluster(folder: Path, workers: int = 2) -> Iterator[DaskCluster]:
    """Start a scheduler and workers, each a process of one thread."""
    file = folder / "scheduler.json"
    with contextlib.ExitStack() as stack:

        def start(program: str, *arguments: str) -> subprocess.Popen[bytes]:
            process = _start(folder, program, *arguments)
            stack.callback(process.wait, 60)
            stack.callback(process.terminate)
            return process

        scheduler = start("scheduler", "--port", "0", "--scheduler-file", str(file))
        deadline = time.monotonic() + 90
        while not file.exists() or not file.read_text().strip():
            assert time.monotonic() < deadline, "no scheduler"
            time.sleep(0.02)
        address = json.loads(file.read_text())["address"]
        options = ("--nworkers", "1", "--nthreads", "1", "--no-nanny", "--local-directory", str(folder))
        started = [start("worker", address, *options) for _ in range(workers)]
        yield DaskCluster(address.replace("tcp://", "dask://"), scheduler, started)
