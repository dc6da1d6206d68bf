"""Load workers on a running Dask cluster: one share a worker, its rows sent back when it has ended."""

import dataclasses
import ipaddress
import uuid
from concurrent.futures import Executor, Future

from tapecheck import clocks
from tapecheck.clocks import Identity
from tapecheck.cluster import READY_S, Scheduler
from tapecheck.errors import MeasurementError
from tapecheck.load import worker
from tapecheck.load.recorder import place
from tapecheck.load.samples import Outcome, Samples
from tapecheck.load.work import Work


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
        if identity.clock != clocks.whoami().clock:
            self.offset_ns, self.error_ns = clocks.exchange(self.executor)

    def begin(self, work: Work, file: int) -> "Future[tuple[Outcome, Samples]]":
        """Measure a share there."""
        if self.error_ns and ipaddress.ip_address(work.address.host.partition("%")[0]).is_loopback:
            raise MeasurementError(
                f"{self.name} is on another machine, where {work.address.host} is not this target: name an address for all"
            )
        self._token, self._rows = uuid.uuid4().hex, 0
        self._scheduler.client.subscribe_topic(self._token, self._hear)
        return self.executor.submit(worker.measure_apart, work, self._token)

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
            self._scheduler.client.run(worker.stop, self._token, workers=[self.address])


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
        asked = [one.executor.submit(worker.identify) for one in new]
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
