"""A running Dask cluster, whose workers stand behind executors like processes do. What they do is their caller's business.

Whoever may use the scheduler may run code on its workers, and what a task needs as a secret travels there: a cluster
belongs on a trusted network, or behind TLS.
"""

import re
from concurrent.futures import CancelledError, Executor
from types import ModuleType
from typing import Any

from tapecheck.errors import ConfigError, MeasurementError, Problem

CONNECT_S = 10.0
READY_S = 60.0  # for all workers to import what they need
MAX_PROCESSES = 64
ADDRESS = re.compile(r"dask://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}")


def checked_workers(value: Any) -> int | str:
    """Return what a plan's `workers` says: a number of processes, or the address of a scheduler.

    Raises:
        ValueError: it is neither; the message is what is allowed.
    """
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_PROCESSES:
        return value
    if isinstance(value, str) and ADDRESS.fullmatch(value) and int(value.rpartition(":")[2]) < 65536:
        return value
    raise ValueError(f"1 to {MAX_PROCESSES} processes of this machine, or a Dask scheduler, such as: dask://127.0.0.1:8786")


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


class Scheduler:
    """A connection to the scheduler at `dask://HOST:PORT`.

    Raises:
        ConfigError: Dask is not installed.
        MeasurementError: no scheduler answers.
    """

    def __init__(self, address: str) -> None:
        self.url = address.replace("dask://", "tcp://", 1)
        distributed = require_dask()
        try:
            self.client: Any = distributed.Client(self.url, timeout=CONNECT_S, set_as_default=False)
        except (OSError, TimeoutError):
            raise MeasurementError(f"no Dask scheduler answers at {self.url}: start one (dask scheduler), or correct `workers`") from None
        self.lost: tuple[type[BaseException], ...] = (distributed.KilledWorker, CancelledError, OSError)  # what a dead worker's task raises

    def addresses(self) -> set[str]:
        """Return the addresses of the workers that it has now."""
        return set(self.client.scheduler_info(n_workers=-1)["workers"])

    def known(self) -> list[str]:
        """Return the addresses of its workers in a fixed order.

        Raises:
            MeasurementError: it has none.
        """
        if not (found := self.addresses()):
            raise MeasurementError(f"the Dask scheduler at {self.url} has no worker: start some (dask worker {self.url})")
        return sorted(found)

    def executor(self, address: str) -> Executor:
        """Return an executor that sends work to one worker and to no other."""
        found: Executor = self.client.get_executor(workers=[address], allow_other_workers=False, pure=False, retries=0)
        return found

    def close(self) -> None:
        """Leave; the cluster stays."""
        self.client.close()
