"""Shares a scenario among load workers, wherever they run, and puts together what they saw. It sends no request itself."""

import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from concurrent.futures import wait as wait_for
from types import TracebackType
from typing import Any, Protocol, Self

from tapecheck.load.cluster import Cluster
from tapecheck.load.processes import Processes
from tapecheck.load.recorder import map_rows, scratch, written
from tapecheck.load.samples import Measured, Outcome, merged
from tapecheck.load.work import Work

POLL_S = 0.2  # between two calls of on_progress
CONNECTION_LEAD_S = 0.0002  # added to the time until a common start, for each connection to open before it


class Worker(Protocol):
    """Someone who can measure a share, behind an executor."""

    executor: Executor
    offset_ns: int  # its clock minus this process's
    error_ns: int  # by how much that may be wrong

    @property
    def name(self) -> str:
        """Name it in a message."""

    def begin(self, work: Work, file: int) -> Future[Any]:
        """Start to measure a share; `start_ns` is on the worker's clock."""

    def take(self, future: Future[Any], work: Work, file: int) -> Outcome:
        """Return what it says when it has ended, its rows in the file; ChildProcessError: it died."""

    def gone(self) -> str | None:
        """Say why its future will never come to an end; None: it will."""

    def progress(self, elapsed_ms: int) -> int:
        """Return how far it is, in the unit of `Work.progress_total`."""


class Team(Protocol):
    """Workers of one kind."""

    lead_s: float

    def start(self) -> None:
        """Make them ready."""

    def workers(self) -> list[Any]:
        """Return those that there are."""

    def lose(self, dead: Any) -> None:
        """Hear that one died."""

    def close(self) -> None:
        """End what they do."""


class Generator:
    """A load generator, started once for many measurements: processes of this machine, or the workers of a Dask cluster."""

    def __init__(self, workers: int | str = 1) -> None:
        self._team: Team = Processes(workers) if isinstance(workers, int) else Cluster(workers)

    def __enter__(self) -> Self:
        """Start the workers and wait until they can measure.

        Raises:
            ConfigError: Dask is asked for and not installed.
            MeasurementError: they do not start, or there are none.
        """
        try:
            self._team.start()
        except BaseException:
            self._team.close()
            raise
        return self

    @property
    def workers(self) -> list[Worker]:
        """Return the workers that there are."""
        return self._team.workers()

    def measure(self, work: Work, on_progress: Callable[[int, int], object] | None = None) -> Measured:
        """Run one scenario, dealt out to as many workers as it can occupy.

        A worker that dies is named in the result, which holds what it had recorded and the whole shares of the others.

        Args:
            work: the scenario.
            on_progress: called about 5 times a second with (done, `work.progress_total`), and once at the end.

        Raises:
            MeasurementError: a worker cannot measure.
        """
        workers = self.workers[: work.parts]
        with scratch(work.likely_rows) as file:
            running = _begin(workers, work, file.fileno(), self._team.lead_s)
            outcomes, dead = _collect(running, file.fileno(), work, on_progress or (lambda done, total: None))
            measured = merged(
                written(map_rows(file.fileno())),
                outcomes,
                workers=len(workers),
                lost=tuple(f"{one.name} ({why})" for one, why in dead),
                clock_error_ms=max(one.error_ns for one in workers) / 1e6,
            )
        for one, _ in dead:
            self._team.lose(one)
        return measured

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End the workers, in mid-measurement too."""
        self._team.close()


Running = dict[Future[Any], tuple[Worker, Work]]
Dead = list[tuple[Worker, str]]


def _begin(workers: list[Worker], work: Work, file: int, lead_s: float) -> Running:
    """Hand out the shares, with a common start if there are several, told to each on its own clock."""
    lead_s += CONNECTION_LEAD_S * work.concurrency
    start_ns = time.monotonic_ns() + int(lead_s * 1e9) if len(workers) > 1 else 0
    running: Running = {}
    for k, worker in enumerate(workers):
        share = work.share(k, len(workers), start_ns + worker.offset_ns if start_ns else 0)
        running[worker.begin(share, file)] = (worker, share)
    return running


def _collect(running: Running, file: int, work: Work, on_progress: Callable[[int, int], object]) -> tuple[list[Outcome], Dead]:
    """Wait for all workers, and return what those say that live to tell, and who died."""
    outcomes: list[Outcome] = []
    dead: Dead = []
    began, total = time.monotonic(), work.progress_total
    while running:
        ended = wait_for(running, timeout=POLL_S).done
        for future, (worker, share) in list(running.items()):
            if future in ended:
                try:
                    outcomes.append(worker.take(future, share, file))
                except ChildProcessError as error:
                    dead.append((worker, str(error)))
            elif (why := worker.gone()) is not None:
                future.cancel()
                dead.append((worker, why))
            else:
                continue
            del running[future]
        elapsed_ms = round((time.monotonic() - began) * 1000)
        if running:
            on_progress(min(total, *(worker.progress(elapsed_ms) for worker, _ in running.values())), total)
    on_progress(total, total)
    return outcomes, dead
