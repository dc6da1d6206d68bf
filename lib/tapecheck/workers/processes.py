"""Which monotonic clock a process reads, and how far the clocks of two machines are apart. It moves no times."""

import contextlib
import multiprocessing
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Self

from tapecheck.errors import MeasurementError

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


# ---- children ----

READY_S = 30.0  # for a child to start


class Child:
    """A worker process that does one task after the other, and ends with this one.

    It works from a script, a test and a Jupyter kernel alike: it never runs the parent's main module, and Ctrl-C is the parent's to handle.

    Args:
        identify: called in it first; imports what its tasks need and says who it is.
        set_up: called in it before that, with `arguments`, which may be memory that it shares with this process.
        core: the only one that it may use, where the system allows to say so.
    """

    def __init__(
        self, identify: Callable[[], Identity], *, set_up: Callable[..., None] | None = None, arguments: tuple[Any, ...] = (),
        core: int | None = None,
    ) -> None:  # fmt: skip
        self.executor = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _initialize, (core, set_up, arguments))
        with _child_signals_and_main():
            self._ready = self.executor.submit(identify)
        self.pid: int | None = None

    @property
    def name(self) -> str:
        """Name it in a message."""
        return f"process {self.pid}"

    def wait_ready(self) -> Self:
        """Wait until it can work.

        Raises:
            MeasurementError: it does not start.
        """
        try:
            self.pid = self._ready.result(READY_S).pid
        except TimeoutError:
            raise MeasurementError(f"a worker process did not start within {READY_S:.0f} s") from None
        except BrokenProcessPool:
            raise MeasurementError("a worker process died when it was to start: killed, or out of memory") from None
        return self

    def close(self, grace_s: float = 0.0) -> None:
        """Leave no process: one that is still at work after a grace is killed."""
        killer = threading.Timer(grace_s, self._kill)
        killer.daemon = True
        killer.start()
        try:
            self.executor.shutdown(wait=True, cancel_futures=True)
        finally:
            killer.cancel()

    def _kill(self) -> None:
        for process in list((self.executor._processes or {}).values()):  # it may never have said its pid
            process.kill()


def close_all(children: Sequence[Child], grace_s: float = 0.0) -> None:
    """End several at once."""
    closers = [threading.Thread(target=one.close, args=(grace_s,)) for one in children]
    for thread in closers:
        thread.start()
    for thread in closers:
        thread.join()


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


def _initialize(core: int | None, set_up: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    if set_up is not None:
        set_up(*arguments)
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
