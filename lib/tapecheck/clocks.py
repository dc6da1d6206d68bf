"""Which monotonic clock a process reads, and how far the clocks of two machines are apart. It moves no times."""

import os
import platform
import time
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
EXCHANGES = 20  # of clocks with each worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Which process a worker is. Processes with one `clock` are on one machine and read the same monotonic clock."""

    pid: int
    clock: str


def whoami() -> Identity:
    """Say who this process is."""
    try:
        clock = BOOT_ID.read_text().strip()
    except OSError:
        clock = platform.node()
    return Identity(pid=os.getpid(), clock=clock)


def read_clock() -> int:
    """Return this process's monotonic clock, in ns."""
    return time.monotonic_ns()


def exchange(executor: Executor) -> tuple[int, int]:
    """Return how far a worker's monotonic clock is ahead of this one, and by how much that may be wrong, in ns.

    The worker read its clock at some instant between asking and hearing; the quickest exchange says it best.
    """
    best = (0, 2**62)
    for _ in range(EXCHANGES):
        asked_ns = time.monotonic_ns()
        there_ns = executor.submit(read_clock).result()
        heard_ns = time.monotonic_ns()
        half_ns = (heard_ns - asked_ns) // 2
        if half_ns < best[1]:
            best = (there_ns - asked_ns - half_ns, half_ns)
    return best
