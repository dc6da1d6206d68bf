"""Worker processes of this machine: none runs the parent's main module, sees Ctrl-C, or outlives its parent."""

import contextlib
import functools
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from multiprocessing.util import Finalize
from typing import Any, TypeVar

from tapecheck import lockfiles
from tapecheck.workers.worker import SLOTS, Control, Death, Worker

T = TypeVar("T")
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
