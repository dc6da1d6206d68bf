"""What a worker process has to do, as plain picklable values. It reads no configuration and imports nothing slow."""

import dataclasses
import resource
import ssl
from dataclasses import dataclass, field

from tapecheck.errors import MeasurementError
from tapecheck.load.engine.schedule import Schedule, share

MAX_REQUESTS = 10_000_000  # in one scenario
MAX_DURATION_S = 600.0  # of one scenario
MAX_CONCURRENCY = 5_000  # requests in flight, users, or connections
MAX_RATE_RPS = 100_000.0
MAX_STAGES = 100  # of a ramp
MAX_ROUNDS = 10_000  # of a burst
MAX_EXTENSIONS = 5  # of a scenario
MAX_TIMEOUT_S = 120.0
MAX_COMBINATIONS = 10_000  # of a scenario's parameters

Value = str | int | float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """How to verify the target's certificate."""

    server_name: str
    ca_file: str

    def context(self) -> ssl.SSLContext:
        """Make a client context that verifies chain and name, and offers HTTP/1.1 only."""
        context = ssl.create_default_context(cafile=self.ca_file)
        context.set_alpn_protocols(["http/1.1"])
        return context


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where to connect: a numeric IPv4 or IPv6 address, a port, and TLS if it speaks that."""

    host: str
    port: int
    tls: Tls | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRequest:
    """One combination of a scenario's parameters, ready to send.

    `raw` and `headers` hold revealed secrets: they are hidden from `repr` and never stored.
    """

    values: dict[str, Value]
    method: str
    url: str
    raw: bytes = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False, default=b"")
    expected_status: int = 200
    expected_json: dict[str, str | int | float | bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One scenario, or one worker's share of it. Request `i` after the warm-up uses combination `i % len(requests)`.

    Requests are numbered over all workers: worker `w` of `n` sends w, w + n, w + 2n, …
    """

    address: Address
    requests: tuple[PreparedRequest, ...]
    executor: str  # burst, closed, or of an open model, which has a schedule
    concurrency: int = 0  # burst, closed
    rounds: int = 0  # burst
    schedule: Schedule | None = None  # of an open model, warm-up included
    duration_s: float = 0.0  # of all but a burst, after the warm-up
    warm_up_s: float = 0.0
    timeout_s: float = 10.0
    max_connections: int = 1000
    fresh_connections: bool = False
    worker: int = 0
    workers: int = 1
    start_ns: int = 0  # on the worker's monotonic clock; 0: as soon as it is ready

    @property
    def progress_unit(self) -> str:
        """Return the unit of `progress_total`."""
        return "requests" if self.executor == "burst" else "ms"

    @property
    def progress_total(self) -> int:
        """Return what `done` reaches."""
        return self.concurrency * self.rounds if self.executor == "burst" else round((self.warm_up_s + self.duration_s) * 1000)

    @property
    def parts(self) -> int:
        """Return across how many workers it can be split; a burst is one instant, and stays whole."""
        return {"burst": 1, "closed": self.concurrency}.get(self.executor, self.max_connections)

    @property
    def likely_rows(self) -> int:
        """Return about how many samples to make room for: exactly, or for users who send as fast as they can, amply."""
        if self.schedule is not None:
            return self.schedule.total
        return min(MAX_REQUESTS, self.progress_total * (1 if self.executor == "burst" else 50))

    def share(self, worker: int, workers: int, start_ns: int) -> "Work":
        """Return the part of one of `workers`: its users, its connections, and its place in the order of requests."""
        return dataclasses.replace(
            self,
            concurrency=share(self.concurrency, worker, workers),
            max_connections=share(self.max_connections, worker, workers),
            worker=worker,
            workers=workers,
            start_ns=start_ns,
        )


# ---- open files ----

SPARE = 64  # files that a process has open beside its connections


def refused_connections(connections: int, workers: int = 1) -> str | None:
    """Say how many connections `workers` processes can have instead, why, and what to do; None: they can have so many."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    needed = -(-connections // workers) + SPARE
    if hard == resource.RLIM_INFINITY or needed <= hard:
        return None
    most, why = max(0, hard - SPARE) * workers, f"since a process may have {hard:,} files open and would need {needed:,}"
    return f"at most {most:,}, {why}: lower it, or raise the hard limit as root (ulimit -n {needed})"


def allow_connections(connections: int) -> None:
    """Raise the soft limit of open files so that there can be so many connections; a `MeasurementError` where the hard one is lower."""
    if (why := refused_connections(connections)) is not None:
        raise MeasurementError(f"{connections:,} connections; allowed: {why}")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < connections + SPARE:
        resource.setrlimit(resource.RLIMIT_NOFILE, (connections + SPARE, hard))
