"""A fixed piece of work that no plan changes: when its time moves, the machine did. It measures no target."""

import hashlib
import time

BLOCK = bytes(1 << 20)
BLOCKS = 24  # 10 to 50 ms: long enough to be told from the clock's own noise, short beside a run


def work_s() -> float:
    """Return how long this machine takes just now to hash 24 MiB, the median of three times."""
    return sorted(_once_s() for _ in range(3))[1]


def _once_s() -> float:
    began_ns = time.monotonic_ns()
    digest = hashlib.sha256()
    for _ in range(BLOCKS):
        digest.update(BLOCK)
    digest.digest()
    return (time.monotonic_ns() - began_ns) / 1e9
