"""Shares a scenario among load workers, wherever they run, and puts together what they saw. It sends no request itself."""

import dataclasses
import ipaddress
import multiprocessing
import os
import time
import uuid
from collections.abc import Callable, MutableSequence
from concurrent.futures import Executor, Future
from concurrent.futures import wait as wait_for
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.reduction import DupFd
from types import TracebackType
from typing import Any, Protocol, Self

from tapecheck.errors import MeasurementError
from tapecheck.load.engine import engine
from tapecheck.load.engine.recorder import Measured, Outcome, Samples, map_rows, merged, place, scratch, written
from tapecheck.load.engine.work import Work
from tapecheck.workers import processes
from tapecheck.workers.dask import READY_S, Scheduler
from tapecheck.workers.processes import Child, Identity, close_all

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


# ---- processes ----

KILL_AFTER_S = 2.0  # for a worker to end by itself

_counters: MutableSequence[int] = [0, 0]  # in a worker: shared with the parent


class LocalWorker(Child):
    """One worker process, which measures one share after the other."""

    offset_ns = error_ns = 0  # it reads this process's clock

    def __init__(self, core: int | None) -> None:
        self._counters: Any = multiprocessing.get_context("spawn").RawArray("q", 2)
        super().__init__(engine.identify, set_up=_share, arguments=(self._counters,), core=core)

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


def _measure(file: engine.Descriptor, work: Work) -> Outcome:
    return engine.measure_into(file, work, _counters)


# ---- cluster ----


class DaskWorker:
    """One worker of a cluster, behind an executor that sends work to no other."""

    def __init__(self, scheduler: Scheduler, address: str) -> None:
        self._scheduler = scheduler
        self.name = f"worker {address}"
        self.address = address
        self.executor: Executor = scheduler.executor(address)
        self.offset_ns = self.error_ns = 0
        self._token, self._rows = "", 0

    def _hear(self, event: tuple[float, int]) -> None:
        self._rows = event[1]

    def _lost(self) -> str:
        """Say what is lost with it: its rows cannot be reached, but it had told their number."""
        return f"it had ended {self._rows:,} requests, whose rows are lost with it"

    def meet(self, identity: Identity) -> None:
        """Agree on the clock: the same one on this machine, else by exchange."""
        if identity.clock != processes.whoami().clock:
            self.offset_ns, self.error_ns = processes.exchange(self.executor)

    def begin(self, work: Work, file: int) -> "Future[tuple[Outcome, Samples]]":
        """Measure a share there."""
        if self.error_ns and ipaddress.ip_address(work.address.host.partition("%")[0]).is_loopback:
            raise MeasurementError(
                f"{self.name} is on another machine, where {work.address.host} is not this target: name an address for all"
            )
        self._token, self._rows = uuid.uuid4().hex, 0
        self._scheduler.client.subscribe_topic(self._token, self._hear)
        return self.executor.submit(engine.measure_apart, work, self._token)

    def take(self, future: "Future[tuple[Outcome, Samples]]", work: Work, file: int) -> Outcome:
        """Put its rows into the file, on this process's clock, and return the rest.

        Raises:
            ChildProcessError: it died, and its rows with it.
        """
        try:
            outcome, rows = future.result()
        except self._scheduler.lost as error:
            raise ChildProcessError(f"{type(error).__name__}; {self._lost()}") from None
        finally:
            self._scheduler.client.unsubscribe_topic(self._token)
        place(file, on_clock(rows, self.offset_ns), worker=work.worker, workers=work.workers)
        return dataclasses.replace(outcome, started_ns=outcome.started_ns - self.offset_ns, ended_ns=outcome.ended_ns - self.offset_ns)

    def gone(self) -> str | None:
        """Say that the scheduler knows it no more, and what is lost with it."""
        if self._is_known():
            return None
        self._scheduler.client.unsubscribe_topic(self._token)
        return f"it left; {self._lost()}"

    def _is_known(self) -> bool:
        return self.address in self._scheduler.addresses()

    def progress(self, elapsed_ms: int) -> int:
        """Return how far it should be, by the clock."""
        return elapsed_ms

    def stop(self) -> None:
        """End what it measures."""
        if self._token and self._is_known():
            self._scheduler.client.run(engine.stop, self._token, workers=[self.address])


class Cluster:
    """The workers that a Dask scheduler has when a scenario begins."""

    lead_s = 1.0  # from handing out work to its common start: longer than any message takes

    def __init__(self, address: str) -> None:
        self._address = address
        self._scheduler: Scheduler | None = None
        self._workers: dict[str, DaskWorker] = {}

    def start(self) -> None:
        """Connect to the scheduler, and prepare its workers.

        Raises:
            ConfigError: Dask is not installed.
            MeasurementError: there is no scheduler, or it has no worker.
        """
        self._scheduler = Scheduler(self._address)
        self.workers()

    def workers(self) -> list[DaskWorker]:
        """Return the workers that there are now, in a fixed order, ready to measure.

        Raises:
            MeasurementError: there is none, or they cannot import what they need.
        """
        assert self._scheduler, "started"
        known = self._scheduler.known()
        new = [DaskWorker(self._scheduler, address) for address in known if address not in self._workers]
        asked = [one.executor.submit(engine.identify) for one in new]
        for one, future in zip(new, asked, strict=True):
            try:
                one.meet(future.result(READY_S))
            except Exception as error:
                raise MeasurementError(
                    f"{one.name} cannot measure ({type(error).__name__}: {error}): is tapecheck installed there?"
                ) from None
            self._workers[one.address] = one
        return [self._workers[address] for address in known]

    def lose(self, dead: DaskWorker) -> None:
        """Forget a dead worker."""
        self._workers.pop(dead.address, None)

    def close(self) -> None:
        """Stop what still runs and leave; the cluster stays."""
        if self._scheduler is not None:
            for one in self._workers.values():
                one.stop()
            self._scheduler.close()


def on_clock(rows: Samples, offset_ns: int) -> Samples:
    """Return rows with their times moved from a clock that is `offset_ns` ahead to this process's; 0, never, stays."""
    if offset_ns:
        rows = rows.copy()
        for name in ("intended_ns", "sent_ns", "first_byte_ns", "done_ns"):
            rows[name][rows[name] > 0] -= offset_ns
    return rows
