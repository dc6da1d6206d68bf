"""How many connections this process may have open at once. It opens none."""

import resource

from tapecheck.errors import MeasurementError

SPARE = 64  # files that a process has open beside its connections


def possible() -> int:
    """Return how many connections the hard limit allows."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return 2**31 if hard == resource.RLIM_INFINITY else max(0, hard - SPARE)


def allow(connections: int) -> None:
    """Raise the soft limit of open files so that there can be so many connections.

    Raises:
        MeasurementError: the hard limit does not allow it; nothing has been sent.
    """
    if connections > possible():
        raise MeasurementError(
            f"{connections:,} connections are more than the {possible():,} that this machine's limit of open files allows: "
            "lower max_connections, or raise the limit (ulimit -Hn)"
        )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < connections + SPARE:
        resource.setrlimit(resource.RLIMIT_NOFILE, (connections + SPARE, hard))
