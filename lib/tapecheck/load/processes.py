"""Load workers as processes of this machine. What they send is the engine's business, how work is shared the generator's."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, MutableSequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from multiprocessing.reduction import DupFd
from typing import Any

from tapecheck.errors import MeasurementError
from tapecheck.load import worker
from tapecheck.load.samples import Outcome
from tapecheck.load.work import Work

READY_S = 30.0  # for a worker to start
KILL_AFTER_S = 2.0  # for a worker to end by itself

_counters: MutableSequence[int] = [0, 0]  # in a worker: shared with the parent


class LocalWorker:
    """One worker process, which measures one share after the other.

    It works from a script, a test and a Jupyter kernel alike: the worker never runs the parent's main module.
    """

    offset_ns = error_ns = 0  # it reads this process's clock

    def __init__(self, core: int | None) -> None:
        context = multiprocessing.get_context("spawn")
        self._counters: Any = context.RawArray("q", 2)
        self.executor = ProcessPoolExecutor(1, context, _initialize, (self._counters, core))
        with _child_signals_and_main():
            self._ready = self.executor.submit(worker.identify)
        self.pid: int | None = None

    @property
    def name(self) -> str:
        """Name it in a message."""
        return f"process {self.pid}"

    def wait_ready(self) -> None:
        """Wait until it can measure.

        Raises:
            MeasurementError: it does not start.
        """
        try:
            self.pid = self._ready.result(READY_S).pid
        except TimeoutError:
            raise MeasurementError(f"the load worker did not start within {READY_S:.0f} s") from None
        except BrokenProcessPool:
            raise MeasurementError("the load worker died when it was to start: killed, or out of memory") from None

    def begin(self, work: Work, file: int) -> Future[Outcome]:
        """Measure a share, into a file."""
        self._counters[:] = [0, 0]
        return self.executor.submit(_measure, DupFd(file), work)

    def take(self, future: Future[Outcome], work: Work, file: int) -> Outcome:
        """Return what it says when it has ended; its rows are in the file.

        Raises:
            ChildProcessError: it died.
        """
        try:
            return future.result()
        except BrokenProcessPool:
            raise ChildProcessError("killed, or out of memory") from None

    def gone(self) -> str | None:
        """Return None: the future of a dead process comes to an end too."""
        return None

    def progress(self, elapsed_ms: int) -> int:
        """Return how far it is."""
        return int(self._counters[0])

    def close(self) -> None:
        """End it, in mid-measurement too, and leave no process."""
        self._counters[1] = 1
        killer = threading.Timer(KILL_AFTER_S, self._kill)
        killer.daemon = True
        killer.start()
        try:
            self.executor.shutdown(wait=True, cancel_futures=True)
        finally:
            killer.cancel()

    def _kill(self) -> None:
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


class Processes:
    """`count` worker processes; one that died is replaced before the next scenario."""

    lead_s = 0.2  # from handing out work to its common start

    def __init__(self, count: int) -> None:
        self._cores = cores(count)
        self._workers: list[LocalWorker] = []

    def start(self) -> None:
        """Start them all and wait until they can measure."""
        for core in self._cores:
            self._workers.append(LocalWorker(core))
        for one in self._workers:
            one.wait_ready()

    def workers(self) -> list[LocalWorker]:
        """Return them all."""
        return list(self._workers)

    def lose(self, dead: LocalWorker) -> None:
        """Start another worker in place of a dead one."""
        i = self._workers.index(dead)
        dead.close()
        self._workers[i] = LocalWorker(self._cores[i])
        self._workers[i].wait_ready()

    def close(self) -> None:
        """End them all at once."""
        closers = [threading.Thread(target=one.close) for one in self._workers]
        for thread in closers:
            thread.start()
        for thread in closers:
            thread.join()


def cores(count: int) -> list[int | None]:
    """Return the core for each of `count` workers: the last ones allowed, if that leaves one for others; else leave it to the system."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if count >= len(allowed):
        return [None] * count
    return [allowed[-1 - i] for i in range(count)]


@contextlib.contextmanager
def _child_signals_and_main() -> Iterator[None]:
    """Start children that never see Ctrl-C, which is the parent's to handle, and that do not run its main module again."""
    main = sys.modules["__main__"]
    hidden: dict[str, Any] = {name: main.__dict__.pop(name) for name in ("__file__", "__spec__") if name in main.__dict__}
    main.__spec__ = None
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        main.__dict__.update(hidden)


# ---- in the worker ----


def _initialize(counters: MutableSequence[int], core: int | None) -> None:
    global _counters
    _counters = counters
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if core is not None:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, {core})
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _measure(file: worker.Descriptor, work: Work) -> Outcome:
    return worker.measure_into(file, work, _counters)
