"""A worker behind an executor: its name, its clock, how far it is, and whether it has died. What it does is its caller's business."""

import os
import platform
import time
from collections.abc import Callable, MutableSequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tapecheck.errors import MeasurementError

T = TypeVar("T")
Control = MutableSequence[int]  # shared with a worker while it works
DONE, STOP, COUNT, WEIGHT = SLOTS = range(4)  # how far it is · that it is to stop · what it has counted, twice

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
EXCHANGES = 20  # of clocks with a worker on another machine


def meet(prepare: Callable[[], object]) -> tuple[int, str]:
    """Import what the work needs, so that none of it is measured; return this process's id and which machine's clock it reads."""
    prepare()
    return os.getpid(), BOOT_ID.read_text().strip() if BOOT_ID.exists() else platform.node()


def read_clock() -> int:
    """Return this process's monotonic clock, in ns."""
    return time.monotonic_ns()


def compare_clocks(executor: Executor) -> tuple[int, int]:
    """Return how far a worker's monotonic clock is ahead of this one, and by how much that may be wrong, in ns.

    The worker reads its clock at some instant between question and answer; the quickest of some exchanges bounds it best.
    """
    best = (0, 2**62)
    for _ in range(EXCHANGES):
        asked_ns = time.monotonic_ns()
        there_ns = executor.submit(read_clock).result()
        half_ns = (time.monotonic_ns() - asked_ns) // 2
        if half_ns < best[1]:
            best = (there_ns - asked_ns - half_ns, half_ns)
    return best


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """Why a worker will never return its result, and how much it had counted before."""

    why: str
    count: int


class Worker:
    """One worker, behind an executor that sends work to no other.

    Attributes:
        offset_ns: its monotonic clock minus this process's, by which its times are off here.
        error_ns: by how much that may be wrong; 0 on this machine, where all processes read the same clock.
        machine: the same for all workers of one machine.
        died: what its future raises when it has died.
        shares_files: it can write to a file that this process has open.
    """

    died: tuple[type[BaseException], ...] = ()
    shares_files = False

    def __init__(self, name: str, executor: Executor) -> None:
        self.name, self.executor = name, executor
        self.control: Control = [0] * len(SLOTS)
        self.offset_ns = self.error_ns = 0
        self.machine = ""

    @property
    def is_here(self) -> bool:
        """Tell whether it runs on this machine."""
        return not self.error_ns

    def met(self, pid: int, clock: str) -> None:
        """Note which process it is, and how far its clock is ahead if that is another machine's."""
        self.machine = clock
        if clock != meet(lambda: None)[1]:
            self.offset_ns, self.error_ns = compare_clocks(self.executor)

    def begin(self, function: "Callable[..., T]", *arguments: Any) -> "Future[T]":
        """Start to work; the function gets the control first."""
        self.control[:] = [0] * len(SLOTS)
        return self.submit(function, arguments)

    def submit(self, function: "Callable[..., T]", arguments: tuple[Any, ...]) -> "Future[T]":
        """Hand a task to the executor."""
        return self.executor.submit(function, self.control, *arguments)

    def end(self, future: "Future[T]") -> T | Death:
        """Return the result of what has ended, or that the worker died; what it raised is raised."""
        try:
            return future.result()
        except self.died as error:
            if isinstance(error, OSError) and not self.is_gone():
                raise MeasurementError(f"{self.name} failed: {type(error).__name__}: {error}") from None
            return self.death(type(error).__name__)

    def death(self, why: str) -> Death:
        """Return how it died."""
        return Death(why=why, count=self.control[COUNT])

    def is_gone(self) -> bool:
        """Tell whether it has died so that its future will never end."""
        return False

    def stop(self) -> None:
        """Ask it to stop what it does; the message may not reach a worker of another machine."""
        self.control[STOP] = 1

    def close(self) -> None:
        """Use it no more."""
