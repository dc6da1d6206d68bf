"""A pool of workers, processes or a Dask cluster's: starts them, has them work at once, and says who died. It knows no task."""

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from threading import Thread
from types import TracebackType
from typing import Any, Self, TypeVar

from tapecheck.errors import MeasurementError
from tapecheck.workers.dask import DaskScheduler, DaskWorker
from tapecheck.workers.processes import Process, free_cores
from tapecheck.workers.worker import Death, Worker, meet

T = TypeVar("T")
POLL_S = 0.2  # between two looks at how far they are
READY_S = 60.0  # for all workers to import what they need
STOP_S = 5.0  # for a worker to hear that it is to stop


class WorkerPool:
    """So many processes of this machine, or the workers of the Dask cluster at an address, started once for many tasks.

    Args:
        prepare: called in each worker before its first task; imports what that needs.
        pinned: each process has a core of its own, where there are enough.
        allow_remote: the cluster may be on other machines.
        partial: a cluster may have no worker now, and one that does not get ready is named and left out; else both are errors.
    """

    def __init__(
        self, workers: int | str, prepare: Callable[[], object], *, pinned: bool = False, allow_remote: bool = False, partial: bool = False
    ) -> None:
        self._asked, self._prepare, self._allow_remote, self._partial = workers, prepare, allow_remote, partial
        self._left: set[int | str] = set()
        self._cores = free_cores(workers) if isinstance(workers, int) and pinned else []
        self._scheduler: DaskScheduler | None = None
        self._workers: dict[int | str, Worker] = {}

    def __enter__(self) -> Self:
        """Start the workers and wait until they can work."""
        try:
            self._scheduler = DaskScheduler(self._asked, allow_remote=self._allow_remote) if isinstance(self._asked, str) else None
            self.ready()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End what they do; no process of ours is left, and a cluster stays."""
        self._close()

    @property
    def lead_s(self) -> float:
        """Return how long before a common start tasks have to be handed out: longer than any message takes."""
        return 1.0 if self._scheduler else 0.2

    def ready(self) -> list[Worker]:
        """Return the workers that there are now, in a fixed order, ready to work: a process that died is replaced."""
        keys: Sequence[int | str] = range(self._asked) if isinstance(self._asked, int) else self._known()
        self._left &= set(keys)  # one that comes back is asked again
        new = {key: self._new(key) for key in keys if key not in self._workers and key not in self._left}
        self._workers |= new  # so that they are closed if one of them cannot work
        asked = {key: worker.executor.submit(meet, self._prepare) for key, worker in new.items()}
        wait(asked.values(), READY_S)
        for key, worker in new.items():
            try:
                worker.met(*asked[key].result(0))
            except Exception as error:
                del self._workers[key]
                worker.close()
                why, hint = f"{type(error).__name__}: {error}".rstrip(": "), " (is tapecheck installed there?)" if self._scheduler else ""
                problem = f"{worker.name} did not get ready within {READY_S:.0f} s ({why}){hint}"
                if not self._partial:
                    raise MeasurementError(problem) from None
                self._left.add(key)
                print(f"{problem}; it is left out", file=sys.stderr, flush=True)
        return [self._workers[key] for key in keys if key in self._workers]

    def _known(self) -> list[str]:
        assert self._scheduler, "entered"
        if not (found := self._scheduler.addresses()) and not self._partial:
            url = self._scheduler.url
            raise MeasurementError(f"the Dask scheduler at {url} has no worker: start some (dask worker {url})")
        return found

    def _new(self, key: int | str) -> Worker:
        if isinstance(key, int):
            return Process(self._cores[key] if self._cores else None)
        assert self._scheduler, "entered"
        return DaskWorker(self._scheduler, key)

    def run(
        self, function: Callable[..., T], tasks: Sequence[tuple[Worker, tuple[Any, ...]]], on_poll: Callable[[list[Worker]], object]
    ) -> list[T | Death]:
        """Have workers do a task each, at once, and return what became of each, in order.

        `function(control, *arguments)` is called where the worker is: it looks at `control[STOP]` and counts in the others.
        About 5 times a second `on_poll` gets those that are still at work.
        """
        running = {worker.begin(function, *arguments): worker for worker, arguments in tasks}
        results: dict[Worker, T | Death] = {}
        try:
            while running:
                ended = wait(running, POLL_S).done
                for future, worker in list(running.items()):
                    if future in ended:
                        results[worker] = worker.end(future)  # type: ignore[arg-type]
                    elif worker.is_gone():
                        future.cancel()
                        results[worker] = worker.death("it left")
                    else:
                        continue
                    del running[future]
                if running:
                    on_poll(list(running.values()))
        finally:
            _at_once([worker.stop for worker in running.values()], STOP_S)  # one that cannot be reached does not hide why
        self.forget([worker for worker, result in results.items() if isinstance(result, Death)])
        return [results[worker] for worker, _ in tasks]

    def forget(self, dead: Sequence[Worker]) -> None:
        """Leave out workers that have died."""
        self._workers = {key: worker for key, worker in self._workers.items() if worker not in dead}
        _at_once([worker.close for worker in dead], READY_S)

    def _close(self) -> None:
        _at_once([worker.close for worker in self._workers.values()], READY_S)
        if self._scheduler is not None:
            self._scheduler.client.close()


def _at_once(calls: Sequence[Callable[[], object]], timeout_s: float) -> None:
    threads = [Thread(target=call, daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout_s)
