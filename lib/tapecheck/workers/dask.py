"""The workers of a running Dask cluster, each behind an executor of its own.

Every user of the scheduler may run code on its workers, and what a task needs as a secret travels there: a cluster
belongs on a trusted network, or behind TLS.
"""

import contextlib
import re
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from types import ModuleType
from typing import Any, TypeVar

from tapecheck.errors import ConfigError, MeasurementError, Problem
from tapecheck.workers.worker import SLOTS, STOP, Control, Worker

T = TypeVar("T")
CONNECT_S = 10.0
REPORT_S = 0.5  # between two reports of a worker that shares no memory
MAX_PROCESSES = 64
ADDRESS = re.compile(r"dask://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}")


def checked_workers(value: Any) -> int | str:
    """Return what a plan's `workers` says: a number of processes, or the address of a scheduler."""
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_PROCESSES:
        return value
    if isinstance(value, str) and ADDRESS.fullmatch(value) and int(value.rpartition(":")[2]) < 65536:
        return value
    raise ValueError(f"1 to {MAX_PROCESSES} processes of this machine, or a Dask scheduler, such as: dask://127.0.0.1:8786")


def require_dask() -> ModuleType:
    """Import Dask, which is an optional part of the installation; without it that is a problem of the plan."""
    try:
        import distributed
    except ImportError:
        got, allowed = "a Dask cluster, but Dask is not installed", "pip install 'tapecheck[dask]'; or a number of processes"
        raise ConfigError([Problem(file="plan", key="workers", got=got, allowed=allowed)]) from None
    return distributed


class DaskScheduler:
    """A connection to the scheduler at `dask://HOST:PORT`; without `allow_remote` to one of this machine, as all its workers are."""

    def __init__(self, address: str, *, allow_remote: bool) -> None:
        self.url, self._allow_remote = address.replace("dask://", "tcp://", 1), allow_remote
        self._check(self.url)
        distributed = require_dask()
        try:
            self.client: Any = distributed.Client(self.url, timeout=CONNECT_S, set_as_default=False)
        except (OSError, TimeoutError):
            raise MeasurementError(f"no Dask scheduler answers at {self.url}: start one (dask scheduler), or correct `workers`") from None
        self.died: tuple[type[BaseException], ...] = (distributed.KilledWorker, CancelledError, OSError)

    def addresses(self) -> list[str]:
        """Return the addresses of the workers that it has now, in a fixed order; an OSError where it does not answer.

        It is asked itself: what the client keeps of it (`scheduler_info`) names no worker after each of the client's own looks.
        """
        found = sorted(self.client.sync(self.client.scheduler.identity, n_workers=-1)["workers"])
        for address in found:
            self._check(address)
        return found

    def _check(self, address: str) -> None:
        from tapecheck.target.loopback import host_of, is_loopback  # with pydantic and YAML, which no load worker needs

        if not self._allow_remote and not is_loopback(host_of(address)):
            allowed = "a scheduler and workers of this machine; or allow_remote: true in the target file, if you may send requests there"
            raise ConfigError([Problem(file="plan", key="workers", got=f"{address}, which may be on another machine", allowed=allowed)])


class DaskWorker(Worker):
    """One worker of a cluster, which reports every half second how far it is, so that this much is known if it dies."""

    def __init__(self, scheduler: DaskScheduler, address: str) -> None:
        self._scheduler, self.address, self.died = scheduler, address, scheduler.died
        executor = scheduler.client.get_executor(workers=[address], allow_other_workers=False, pure=False, retries=0)
        super().__init__(f"worker {address}", executor)
        self._token = ""

    def submit(self, function: Callable[..., T], arguments: tuple[Any, ...]) -> "Future[T]":
        """Hand a task to the worker, whose control is its own; its reports arrive here."""
        self.close()
        self._token = uuid.uuid4().hex
        self._scheduler.client.subscribe_topic(self._token, self._take_report)
        return self.executor.submit(work, self._token, function, arguments)

    def _take_report(self, event: tuple[float, list[int]]) -> None:
        self.control[:] = event[1]

    def is_gone(self) -> bool:
        """Tell whether the scheduler knows it no more; one that does not answer says nothing, and a lost one ends every task."""
        with contextlib.suppress(OSError):
            return self.address not in self._scheduler.addresses()
        return False

    def stop(self) -> None:
        """End what it does; what cannot be reached ends by itself."""
        with contextlib.suppress(Exception):
            self._scheduler.client.run(stop, self._token, workers=[self.address])

    def close(self) -> None:
        """Receive no more reports of what it did."""
        if self._token:
            self._scheduler.client.unsubscribe_topic(self._token)
        self._token = ""


# ---- in the worker ----

_controls: dict[str, Control] = {}  # of what runs, by token


def work(token: str, function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
    """Do a task, and report now and then how far it is."""
    from distributed import get_worker

    control = _controls[token] = [0] * len(SLOTS)
    ended, log_event = threading.Event(), get_worker().log_event

    def report() -> None:
        while not ended.wait(REPORT_S):
            log_event(token, list(control))

    reporter = threading.Thread(target=report)
    reporter.start()
    try:
        return function(control, *arguments)
    finally:
        ended.set()
        reporter.join()
        del _controls[token]


def stop(token: str) -> None:
    """End what runs under a token, if anything does."""
    if token in _controls:
        _controls[token][STOP] = 1
