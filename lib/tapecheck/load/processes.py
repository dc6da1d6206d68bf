"""Load workers as processes of this machine. What they send is the engine's business, how work is shared the generator's."""

import multiprocessing
import os
from collections.abc import MutableSequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.reduction import DupFd
from typing import Any

from tapecheck.children import Child, close_all
from tapecheck.load import worker
from tapecheck.load.samples import Outcome
from tapecheck.load.work import Work

KILL_AFTER_S = 2.0  # for a worker to end by itself

_counters: MutableSequence[int] = [0, 0]  # in a worker: shared with the parent


class LocalWorker(Child):
    """One worker process, which measures one share after the other."""

    offset_ns = error_ns = 0  # it reads this process's clock

    def __init__(self, core: int | None) -> None:
        self._counters: Any = multiprocessing.get_context("spawn").RawArray("q", 2)
        super().__init__(worker.identify, set_up=_share, arguments=(self._counters,), core=core)

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

    def close(self, grace_s: float = KILL_AFTER_S) -> None:
        """End it, in mid-measurement too, and leave no process."""
        self._counters[1] = 1
        super().close(grace_s)


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
        close_all(self._workers, KILL_AFTER_S)


def cores(count: int) -> list[int | None]:
    """Return the core for each of `count` workers: the last ones allowed, if that leaves one for others; else leave it to the system."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if count >= len(allowed):
        return [None] * count
    return [allowed[-1 - i] for i in range(count)]


# ---- in the worker ----


def _share(counters: MutableSequence[int]) -> None:
    global _counters
    _counters = counters


def _measure(file: worker.Descriptor, work: Work) -> Outcome:
    return worker.measure_into(file, work, _counters)
