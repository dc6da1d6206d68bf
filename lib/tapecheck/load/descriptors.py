"""How many connections this process may have open at once. It opens none."""

import resource

from tapecheck.errors import MeasurementError

SPARE = 64  # files that a process has open beside its connections


def refused(connections: int, workers: int = 1) -> str | None:
    """Say how many connections `workers` processes can have instead, why, and what to do; None: they can have so many."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    needed = -(-connections // workers) + SPARE
    if hard == resource.RLIM_INFINITY or needed <= hard:
        return None
    most = max(0, hard - SPARE) * workers
    return (
        f"at most {most:,}, since a process may have {hard:,} files open and would need {needed:,}: "
        f"lower it, or raise the hard limit as root (ulimit -n {needed})"
    )


def allow(connections: int) -> None:
    """Raise the soft limit of open files so that there can be so many connections.

    Raises:
        MeasurementError: the hard limit does not allow it; nothing has been sent.
    """
    if (why := refused(connections)) is not None:
        raise MeasurementError(f"{connections:,} connections; allowed: {why}")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < connections + SPARE:
        resource.setrlimit(resource.RLIMIT_NOFILE, (connections + SPARE, hard))
