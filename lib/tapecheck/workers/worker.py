"""A worker behind an executor: its name, its clock, how far it is, and whether it has died. What it does is its caller's business.

A process of this machine is one: it never runs the parent's main module, sees Ctrl-C, or outlives its parent.
"""

import contextlib
import functools
import multiprocessing
import os
import platform
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, MutableSequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, TypeVar

from tapecheck import lockfiles
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


# ---- a process of this machine ----

LONGEST_FOLDER = 60  # characters: the path of a socket has at most 107 bytes, and 40 are added
KILL_AFTER_S = 2.0  # for a process that works to end by itself

_control: Control = [0] * len(SLOTS)  # in a worker: shared with the parent


class Process(Worker):
    """A worker process that does one task after the other; it works from a script, a test and a Jupyter kernel alike.

    Args:
        core: the only one that it may use, where the system allows to say so.
    """

    died = (BrokenProcessPool,)
    shares_files = True

    def __init__(self, core: int | None = None) -> None:
        _shorten_sockets()
        context = multiprocessing.get_context("spawn")
        control: Any = context.RawArray("q", len(SLOTS))
        super().__init__("a worker process", ProcessPoolExecutor(1, context, _initialize, (core, control)))
        self.control = control
        with _child_signals_and_main():
            self.executor.submit(os.getpid)  # starts it
        self.pid: int | None = None

    def met(self, pid: int, clock: str) -> None:
        """Note which process it is."""
        self.pid, self.name = pid, f"process {pid}"

    def submit(self, function: Callable[..., T], arguments: tuple[Any, ...]) -> "Future[T]":
        """Hand a task to the process, which shares the control."""
        return self.executor.submit(_work, function, arguments)

    def death(self, why: str) -> Death:
        """Return how it died."""
        return super().death("killed, or out of memory")

    def close(self) -> None:
        """Leave no process: one that is still at work after a grace is killed."""
        self.stop()
        killer = threading.Timer(KILL_AFTER_S, self._kill)
        killer.daemon = True
        killer.start()
        try:
            self.executor.shutdown(wait=True, cancel_futures=True)
        finally:
            killer.cancel()

    def _kill(self) -> None:
        for process in list((self.executor._processes or {}).values()):  # type: ignore[attr-defined]  # it may never have said its pid
            process.kill()


def free_cores(count: int) -> list[int | None]:
    """Return the core for each of `count` workers: the last ones allowed, if that leaves one for others; else leave it to the system."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if count >= len(allowed):
        return [None] * count
    return [allowed[-1 - i] for i in range(count)]


@functools.cache
def _shorten_sockets() -> None:
    """Have sockets, by which files are handed to workers, lie below `/tmp` where the path of TMPDIR is too long for one."""
    settings = multiprocessing.current_process()._config  # type: ignore[attr-defined]  # there is no other way to say it
    if len(tempfile.gettempdir()) > LONGEST_FOLDER and "tempdir" not in settings:
        stack = contextlib.ExitStack()
        settings["tempdir"] = str(stack.enter_context(lockfiles.scratch(place=lockfiles.SHORT)))
        Finalize(None, stack.close, exitpriority=-100)  # when its sockets are gone


@contextlib.contextmanager
def _child_signals_and_main() -> Iterator[None]:
    """Start children that never see Ctrl-C and that do not run this process's main module again."""
    main = sys.modules["__main__"]
    hidden: dict[str, Any] = {name: main.__dict__.pop(name) for name in ("__file__", "__spec__") if name in main.__dict__}
    main.__spec__ = None
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        main.__dict__.update(hidden)


# ---- in the child ----


def _initialize(core: int | None, control: Control) -> None:
    global _control
    _control = control
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if core is not None:
        with contextlib.suppress(OSError, AttributeError):  # macOS has no such call
            os.sched_setaffinity(0, {core})
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _work(function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
    return function(_control, *arguments)
