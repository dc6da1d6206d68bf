"""Made-up probes, trials and ages of drills, of which everything is known."""

from collections.abc import Iterable

import numpy as np

from tapecheck.recovery.recording import BAD, DEGRADED, FULL
from tapecheck.recovery.timeline import Seen

__all__ = ["BAD", "DEGRADED", "FULL", "PERIOD_S", "S", "crash", "hang", "probes", "steady"]

S = 1_000_000_000
PERIOD_S = 0.05


def steady(seconds: float) -> list[float]:
    """Return the intended starts of probes."""
    return [number * PERIOD_S for number in range(int(seconds / PERIOD_S))]


def probes(rows: Iterable[tuple[float, float, int]], *, serves: bool = True) -> Seen:
    """Return the probes of a view; each row is intended start and end in seconds, and state."""
    intended, done, state = zip(*rows, strict=True)
    return Seen(
        intended_ns=(np.array(intended) * S).astype(np.int64),
        done_ns=(np.array(done) * S).astype(np.int64),
        state=np.array(state),
        reported=np.zeros(len(state), bool),
        serves=serves,
    )


def crash(first_s: float, last_s: float, *, until_s: float = 6.0, serves: bool = True) -> Seen:
    """Connections are refused at once from `first_s` to `last_s`."""
    until_s = max(until_s, last_s + 2 if last_s < 50 else until_s)
    return probes([(at, at + 0.002, BAD if first_s <= at < last_s else FULL) for at in steady(until_s)], serves=serves)


def hang(first_s: float, last_s: float) -> Seen:
    """What begins from `first_s` to `last_s` is answered at the end of that, in full."""
    return probes([(at, last_s + 0.003 if first_s <= at < last_s else at + 0.002, FULL) for at in steady(last_s + 3)])
