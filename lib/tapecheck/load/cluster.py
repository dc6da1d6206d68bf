"""Load workers on a running Dask cluster: one share a worker, its rows sent back when it has ended.

Whoever may use the scheduler may run code on its workers, and what a target wants as a secret travels there: a cluster
belongs on a trusted network, or behind TLS.
"""

import dataclasses
import ipaddress
import time
import uuid
from concurrent.futures import CancelledError, Executor, Future
from types import ModuleType
from typing import Any

from tapecheck.errors import ConfigError, MeasurementError, Problem
from tapecheck.load import worker
from tapecheck.load.recorder import place
from tapecheck.load.samples import Outcome, Samples
from tapecheck.load.work import Work

CONNECT_S = 10.0
READY_S = 60.0  # for all workers to import what they need
EXCHANGES = 20  # of clocks with each worker


def require_dask() -> ModuleType:
    """Import Dask, which is an optional part of the installation.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import distributed
    except ImportError:
        got, allowed = "a Dask cluster, but Dask is not installed", "pip install 'tapecheck[dask]'; or a number of processes"
        raise ConfigError([Problem(file="plan", key="workers", got=got, allowed=allowed)]) from None
    return distributed


class DaskWorker:
    """One worker of a cluster, behind an executor that sends work to no other."""

    def __init__(self, cluster: "Cluster", address: str) -> None:
        self.cluster = cluster
        self.name = f"worker {address}"
        self.address = address
        self.executor: Executor = cluster.client.get_executor(workers=[address], allow_other_workers=False, pure=False, retries=0)
        self.offset_ns = self.error_ns = 0
        self._token, self._rows = "", 0

    def _hear(self, event: tuple[float, int]) -> None:
        self._rows = event[1]

    def _lost(self) -> str:
        """Say what is lost with it: its rows cannot be reached, but it had told their number."""
        return f"it had ended {self._rows:,} requests, whose rows are lost with it"

    def meet(self, identity: worker.Identity) -> None:
        """Agree on the clock: the same one on this machine, else by exchange."""
        if identity.clock != worker.whoami().clock:
            self.offset_ns, self.error_ns = exchange_clocks(self.executor)

    def begin(self, work: Work, file: int) -> "Future[tuple[Outcome, Samples]]":
        """Measure a share there."""
        if self.error_ns and ipaddress.ip_address(work.address.host.partition("%")[0]).is_loopback:
            raise MeasurementError(
                f"{self.name} is on another machine, where {work.address.host} is not this target: name an address for all"
            )
        self._token, self._rows = uuid.uuid4().hex, 0
        self.cluster.client.subscribe_topic(self._token, self._hear)
        return self.executor.submit(worker.measure_apart, work, self._token)

    def take(self, future: "Future[tuple[Outcome, Samples]]", work: Work, file: int) -> Outcome:
        """Put its rows into the file, on this process's clock, and return the rest.

        Raises:
            ChildProcessError: it died, and its rows with it.
        """
        from distributed import KilledWorker

        try:
            outcome, rows = future.result()
        except (KilledWorker, CancelledError, OSError) as error:
            raise ChildProcessError(f"{type(error).__name__}; {self._lost()}") from None
        finally:
            self.cluster.client.unsubscribe_topic(self._token)
        place(file, on_clock(rows, self.offset_ns), worker=work.worker, workers=work.workers)
        return dataclasses.replace(outcome, started_ns=outcome.started_ns - self.offset_ns, ended_ns=outcome.ended_ns - self.offset_ns)

    def gone(self) -> str | None:
        """Say that the scheduler knows it no more, and what is lost with it."""
        if self._is_known():
            return None
        self.cluster.client.unsubscribe_topic(self._token)
        return f"it left; {self._lost()}"

    def _is_known(self) -> bool:
        return self.address in self.cluster.addresses()

    def progress(self, elapsed_ms: int) -> int:
        """Return how far it should be, by the clock."""
        return elapsed_ms

    def stop(self) -> None:
        """End what it measures."""
        if self._token and self._is_known():
            self.cluster.client.run(worker.stop, self._token, workers=[self.address])


class Cluster:
    """The workers that a Dask scheduler has when a scenario begins."""

    lead_s = 1.0  # from handing out work to its common start: longer than any message takes

    def __init__(self, address: str) -> None:
        self.url = address.replace("dask://", "tcp://", 1)
        self.client: Any = None
        self._workers: dict[str, DaskWorker] = {}

    def start(self) -> None:
        """Connect to the scheduler, and prepare its workers.

        Raises:
            ConfigError: Dask is not installed.
            MeasurementError: there is no scheduler, or it has no worker.
        """
        distributed = require_dask()
        try:
            self.client = distributed.Client(self.url, timeout=CONNECT_S, set_as_default=False)
        except (OSError, TimeoutError):
            raise MeasurementError(f"no Dask scheduler answers at {self.url}: start one (dask scheduler), or correct `workers`") from None
        self.workers()

    def addresses(self) -> set[str]:
        """Return the addresses of the workers that the scheduler has now."""
        return set(self.client.scheduler_info(n_workers=-1)["workers"])

    def workers(self) -> list[DaskWorker]:
        """Return the workers that there are now, in a fixed order, ready to measure.

        Raises:
            MeasurementError: there is none, or they cannot import what they need.
        """
        known = self.addresses()
        if not known:
            raise MeasurementError(f"the Dask scheduler at {self.url} has no worker: start some (dask worker {self.url})")
        new = [DaskWorker(self, address) for address in sorted(known - self._workers.keys())]
        asked = [one.executor.submit(worker.identify) for one in new]
        for one, future in zip(new, asked, strict=True):
            try:
                one.meet(future.result(READY_S))
            except Exception as error:
                raise MeasurementError(
                    f"{one.name} cannot measure ({type(error).__name__}: {error}): is tapecheck installed there?"
                ) from None
            self._workers[one.address] = one
        return [self._workers[address] for address in sorted(known)]

    def lose(self, dead: DaskWorker) -> None:
        """Forget a dead worker."""
        self._workers.pop(dead.address, None)

    def close(self) -> None:
        """Stop what still runs and leave; the cluster stays."""
        if self.client is not None:
            for one in self._workers.values():
                one.stop()
            self.client.close()


def on_clock(rows: Samples, offset_ns: int) -> Samples:
    """Return rows with their times moved from a clock that is `offset_ns` ahead to this process's; 0, never, stays."""
    if offset_ns:
        rows = rows.copy()
        for name in ("intended_ns", "sent_ns", "first_byte_ns", "done_ns"):
            rows[name][rows[name] > 0] -= offset_ns
    return rows


def exchange_clocks(executor: Executor) -> tuple[int, int]:
    """Return how far a worker's monotonic clock is ahead of this one, and by how much that may be wrong, in ns.

    The worker read its clock at some instant between asking and hearing; the quickest exchange says it best.
    """
    best = (0, 2**62)
    for _ in range(EXCHANGES):
        asked_ns = time.monotonic_ns()
        there_ns = executor.submit(worker.read_clock).result()
        heard_ns = time.monotonic_ns()
        half_ns = (heard_ns - asked_ns) // 2
        if half_ns < best[1]:
            best = (there_ns - asked_ns - half_ns, half_ns)
    return best
