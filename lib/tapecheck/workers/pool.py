"""A pool of workers, processes or a Dask cluster's: starts them, has them work at once, and says who died. It knows no task."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from threading import Thread
from types import TracebackType
from typing import Any, Self, TypeVar

from tapecheck.errors import MeasurementError
from tapecheck.workers.dask import DaskScheduler, DaskWorker
from tapecheck.workers.processes import Process, free_cores
from tapecheck.workers.worker import COUNT, Death, Worker, meet

T = TypeVar("T")
POLL_S = 0.2  # between two looks at how far they are
READY_S = 60.0  # for all workers of a cluster to import what they need
STOP_S = 5.0  # for a worker to hear that it is to stop


class WorkerPool(ABC):
    """Workers of one kind, started once for many tasks; entering the context starts them, leaving it ends what they do."""

    lead_s: float  # from handing out tasks to a common start

    def __enter__(self) -> Self:
        """Start the workers and wait until they can work.

        Raises:
            ConfigError: Dask is asked for and not installed.
            MeasurementError: they do not start, or there are none.
        """
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End the workers, in mid-task too."""
        self.close()

    @abstractmethod
    def _start(self) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """End what they do."""

    @property
    @abstractmethod
    def workers(self) -> list[Worker]:
        """Return the workers that there are now, in a fixed order, ready to work.

        Raises:
            MeasurementError: there is none, or one cannot work.
        """

    @abstractmethod
    def lose(self, worker: Any) -> None:
        """Forget a worker that died."""

    def run(
        self, function: Callable[..., T], tasks: Sequence[tuple[Worker, tuple[Any, ...]]], on_poll: Callable[[list[Worker]], object]
    ) -> list[T | Death]:
        """Have workers do a task each, at once, and return what became of each, in order.

        Args:
            function: called as `function(control, *arguments)` where the worker is; it looks at `control[STOP]` and counts in the others.
            tasks: each worker with its arguments.
            on_poll: called about 5 times a second with those that are still at work.

        Raises:
            MeasurementError: a worker that lives failed; whatever it raised is raised, and the others are stopped.
        """
        running = {worker.begin(function, *arguments): worker for worker, arguments in tasks}
        results: dict[Worker, T | Death] = {}
        try:
            while len(results) < len(tasks):
                ended = wait(running, POLL_S).done
                for future, worker in list(running.items()):
                    if future in ended:
                        results[worker] = worker.end(future)  # type: ignore[arg-type]
                    elif worker.is_gone():
                        future.cancel()
                        results[worker] = Death(why="it left", count=worker.control[COUNT])
                    else:
                        continue
                    del running[future]
                if running:
                    on_poll(list(running.values()))
        finally:
            _stop_all(list(running.values()))
        for worker, result in results.items():
            if isinstance(result, Death):
                self.lose(worker)
        return [results[worker] for worker, _ in tasks]


def pool(workers: int | str, prepare: Callable[[], object], *, pinned: bool = False) -> WorkerPool:
    """Return so many processes of this machine, or the workers of the Dask cluster at an address.

    Args:
        prepare: called in each before its first task; imports what that needs.
        pinned: each process has a core of its own, where there are enough.
    """
    return Processes(workers, prepare, pinned=pinned) if isinstance(workers, int) else Cluster(workers, prepare)


class Processes(WorkerPool):
    """`count` worker processes; one that died is replaced before the next task."""

    lead_s = 0.2

    def __init__(self, count: int, prepare: Callable[[], object], *, pinned: bool = False) -> None:
        self._cores = free_cores(count) if pinned else [None] * count
        self._prepare = prepare
        self._workers: list[Process] = []

    def _start(self) -> None:
        self._workers += [Process(self._prepare, core) for core in self._cores]
        for one in self._workers:
            one.wait_ready()

    @property
    def workers(self) -> list[Worker]:
        """Return them all."""
        return list(self._workers)

    def lose(self, worker: Process) -> None:
        """Start another process in place of a dead one."""
        worker.close()
        i = self._workers.index(worker)
        self._workers[i] = Process(self._prepare, worker.core)
        self._workers[i].wait_ready()

    def close(self) -> None:
        """End them all at once, and leave no process."""
        _at_once([one.close for one in self._workers])


class Cluster(WorkerPool):
    """The workers that a Dask scheduler has when a task begins."""

    lead_s = 1.0  # longer than any message takes

    def __init__(self, address: str, prepare: Callable[[], object]) -> None:
        self._address, self._prepare = address, prepare
        self._scheduler: DaskScheduler | None = None
        self._workers: dict[str, DaskWorker] = {}

    def _start(self) -> None:
        self._scheduler = DaskScheduler(self._address)
        assert self.workers

    @property
    def workers(self) -> list[Worker]:
        """Return those that the scheduler knows now; one that is new is asked who it is, and its clock is compared."""
        assert self._scheduler, "started"
        known = self._scheduler.known()
        new = [DaskWorker(self._scheduler, address) for address in known if address not in self._workers]
        asked = [one.executor.submit(meet, self._prepare) for one in new]
        for one, future in zip(new, asked, strict=True):
            try:
                one.compare_clock(future.result(READY_S))
            except Exception as error:
                what = f"{type(error).__name__}: {error}"
                raise MeasurementError(f"{one.name} cannot work ({what}): is tapecheck installed there?") from None
            self._workers[one.address] = one
        return [self._workers[address] for address in known]

    def lose(self, worker: DaskWorker) -> None:
        """Forget a dead worker."""
        worker.forget()
        self._workers.pop(worker.address, None)

    def close(self) -> None:
        """Leave; the cluster stays."""
        if self._scheduler is not None:
            self._scheduler.client.close()


def _stop_all(workers: Sequence[Worker]) -> None:
    """Ask every worker to stop; one that cannot be reached neither delays the others nor hides why they are stopped."""
    _at_once([worker.stop for worker in workers], STOP_S)


def _at_once(calls: Sequence[Callable[[], object]], timeout_s: float | None = None) -> None:
    threads = [Thread(target=call, daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout_s)
