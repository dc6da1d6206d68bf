"""Turns the probes of a trial into clocks: when service went, when it was noticed, when it was back. Pure functions.

A probe tells of the target from when it was sent, i, to its end d. One that is answered late was not served before d, so
it counts as bad at i, and so do those that began while it waited and waited too; one that got no answer says nothing after i.
For a set of views, with t0 the injection:

- first bad: the smallest i of a probe that was worse than the last one before t0, of those that ended after t0; what was already
  so is not the fault's doing.
- back: the smallest d of a good enough answer after the last i that met a worse state.
- resolution: how much earlier that may have been: the time since that last i, or since the i of a probe that still waited then.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tapecheck.recovery.recording import BAD, DEGRADED, FULL

Array = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The probes of one view in the order in which they were sent (ns, monotonic), with state and whether the failure was told."""

    sent_ns: Array
    done_ns: Array
    state: Array
    reported: NDArray[np.bool_]
    serves: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """Seconds since the fault was injected.

    `first_bad_s` and `detect_s` are None where no probe saw it; `degraded_s` and `recover_s` are 0 where no probe saw a failure, and
    None where service was not back by the end, `watched_s` after injection. `resolution_s`: how far `recover_s` may be off.
    """

    first_bad_s: float | None
    detect_s: float | None
    degraded_s: float | None
    recover_s: float | None
    resolution_s: float
    watched_s: float


def clocks(views: Mapping[str, Seen], injected_ns: int, *, slow_ns: int) -> Clocks:
    """Return the clocks of a trial; an answer that took longer than `slow_ns` was no service when it was asked for."""
    after, before = [_since(seen, injected_ns) for seen in views.values()], [_before(seen, injected_ns) for seen in views.values()]
    bad = [start for seen, least in zip(after, before, strict=True) if (start := _worse(seen, least, slow_ns, first=True)) is not None]
    told = [int(seen.done_ns[seen.reported].min()) for seen in after if seen.reported.any()]
    full = [_back(seen, FULL, injected_ns, slow_ns) for seen in after]
    served = [_back(seen, DEGRADED, injected_ns, slow_ns) for seen in after if seen.serves]
    ended_ns = max((int(seen.done_ns.max()) for seen in after if len(seen.done_ns)), default=injected_ns)
    return Clocks(
        first_bad_s=max(0, min(bad) - injected_ns) / 1e9 if bad else None,
        detect_s=(min(told) - injected_ns) / 1e9 if told else None,
        degraded_s=_latest(served),
        recover_s=_latest(full),
        resolution_s=max(full, key=lambda back: back.at_s or 0.0).resolution_s if full else 0.0,
        watched_s=(ended_ns - injected_ns) / 1e9,
    )


@dataclass(frozen=True, slots=True)
class _Back:
    """When one view was back, in seconds since the injection; None: not by the end."""

    at_s: float | None
    resolution_s: float


def _since(seen: Seen, injected_ns: int) -> Seen:
    """Keep the probes that ended after the injection."""
    kept = seen.done_ns >= injected_ns
    return Seen(
        sent_ns=seen.sent_ns[kept],
        done_ns=seen.done_ns[kept],
        state=seen.state[kept],
        reported=seen.reported[kept],
        serves=seen.serves,
    )


def _before(seen: Seen, injected_ns: int) -> int:
    """Return the state of the last answer before the injection."""
    earlier = seen.state[seen.done_ns < injected_ns]
    return int(earlier[-1]) if len(earlier) else FULL


def states(seen: Seen, slow_ns: int) -> Array:
    """Return the state of the target when each probe was sent; an answer that came late was none then."""
    waited = seen.done_ns - seen.sent_ns
    is_slow = waited > slow_ns
    until_ns = np.maximum.accumulate(np.where(is_slow, seen.done_ns, 0)) if len(waited) else waited
    period_ns = int(seen.sent_ns[-1] - seen.sent_ns[0]) // (len(waited) - 1) if len(waited) > 1 else slow_ns
    is_behind = (seen.sent_ns < until_ns) & (seen.done_ns > until_ns - period_ns) & (waited > period_ns)
    found: Array = np.where(is_slow | is_behind, BAD, seen.state)
    return found


def _worse(seen: Seen, least: int, slow_ns: int, *, first: bool = False) -> int | None:
    """Return when the last (or first) probe was sent that met a worse state than `least`, or None where none did."""
    worse = seen.sent_ns[states(seen, slow_ns) < least]
    return None if len(worse) == 0 else int(worse.min() if first else worse.max())


def _back(seen: Seen, least: int, injected_ns: int, slow_ns: int) -> _Back:
    last_ns = _worse(seen, least, slow_ns)
    if last_ns is None:
        return _Back(0.0, 0.0)
    good = seen.done_ns[(seen.state >= least) & (seen.done_ns > last_ns)]
    if len(good) == 0:
        return _Back(None, 0.0)
    at_ns = int(good.min())
    waiting = seen.sent_ns[(seen.sent_ns < at_ns) & (seen.done_ns >= at_ns)]
    not_yet_ns = max(last_ns, injected_ns, *waiting.tolist())
    return _Back(max(0, at_ns - injected_ns) / 1e9, (at_ns - not_yet_ns) / 1e9)


def _latest(backs: Sequence[_Back]) -> float | None:
    """Return when all are back, or None where one is not."""
    times = [back.at_s for back in backs]
    return None if None in times else max((at_s for at_s in times if at_s is not None), default=0.0)
