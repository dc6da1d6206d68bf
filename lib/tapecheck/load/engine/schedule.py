"""When each request of an open model is due: a pure function of its number. It knows no clock and sends nothing.

Request `k` (from 0) is due at the first instant at which the rate, summed over time, has reached `k`. So the schedule
has no state and can be split: worker `w` of `n` takes requests w, w + n, w + 2n, …
"""

import asyncio
import ctypes
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic_ns

import numpy as np
from numpy.typing import ArrayLike, NDArray

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stretch of time in which the arrival rate goes in a straight line from one value to another."""

    start_rps: float
    end_rps: float
    duration_s: float

    @property
    def arrivals(self) -> float:
        """Return how many requests fall into it, as a real number."""
        return (self.start_rps + self.end_rps) / 2 * self.duration_s

    @property
    def slope(self) -> float:
        """Return the change of the rate, in requests per second squared."""
        return (self.end_rps - self.start_rps) / self.duration_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Stages that follow each other; at least one."""

    stages: tuple[Stage, ...]

    @property
    def duration_s(self) -> float:
        """Return how long all stages take."""
        return math.fsum(stage.duration_s for stage in self.stages)

    @property
    def total(self) -> int:
        """Return how many requests are due before the end; a millionth of a request is rounding."""
        return math.ceil(round(math.fsum(stage.arrivals for stage in self.stages), 6))

    def due_ns(self, numbers: ArrayLike) -> Numbers:
        """Return when requests are due, in nanoseconds after the start; one at or beyond `total` at the end, at the latest."""
        number = np.asarray(numbers, np.float64)
        each = {name: np.array([getattr(one, name) for one in self.stages]) for name in ("start_rps", "slope", "duration_s", "arrivals")}
        edges_n, edges_s = (np.concatenate(([0.0], np.cumsum(each[name]))) for name in ("arrivals", "duration_s"))
        i = np.clip(np.searchsorted(edges_n, number, side="right") - 1, 0, len(self.stages) - 1)
        rate, slope, length_s = (each[name][i] for name in ("start_rps", "slope", "duration_s"))
        into = np.maximum(number - edges_n[i], 0.0)
        # the root of rate*t + slope*t²/2 = into, in the form that is exact for a slope of 0 and for either sign
        divisor = rate + np.sqrt(np.maximum(rate * rate + 2 * slope * into, 0.0))
        into_s = np.divide(2 * into, divisor, out=np.zeros_like(into), where=divisor > 0)
        due: Numbers = np.rint((edges_s[i] + np.minimum(into_s, length_s)) * 1e9).astype(np.int64)
        return due


def share(total: int, worker: int, workers: int) -> int:
    """Return how many of `total` things split in turn go to `worker`, counted from 0."""
    return max(0, (total - worker + workers - 1) // workers)


# ---- pacing ----

BLOCK = 1024  # requests whose instants are computed together
BATCH = 64  # requests sent before the loop may look at answers
NEVER_NS = 2**63
CLOCK_MONOTONIC, ABSOLUTE = 1, 1  # of timerfd_create and timerfd_settime
TICK_NS = 2_000_000  # of an event loop's own timer, twice
AWAKE_NS = 100_000  # as long as a core may take to wake: a shorter wait is spent awake, and so is the end of a longer one
EARLY_SHARE = 10  # that part of a longer wait, at most
IDLE_TURNS = 2  # a turn of the loop that took less than that many of the fastest found nothing to do


class Alarm:
    """Calls back from shortly before an instant of the monotonic clock, each time the loop turns, until asked for another one."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._handle: asyncio.Handle | None = None

    def at(self, due_ns: int) -> None:
        """Call back for `due_ns`, in place of what was asked before."""
        self.close()
        self._handle = self._loop.call_later(max(0, due_ns - monotonic_ns() - TICK_NS) / 1e9, self._turn)

    def _turn(self) -> None:
        self._handle = self._loop.call_soon(self._turn)
        self._callback()

    def close(self) -> None:
        """Never call back again."""
        if self._handle is not None:
            self._handle.cancel()


class KernelAlarm(Alarm):
    """The same by a timer of the Linux kernel, whose descriptor stays readable until it is set anew."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        super().__init__(loop, callback)
        libc = ctypes.CDLL(None, use_errno=True)
        self._settime = libc.timerfd_settime
        self._fd: int = libc.timerfd_create(CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._spec = (ctypes.c_long * 4)()  # struct itimerspec: no interval, then seconds and nanoseconds
        loop.add_reader(self._fd, callback)

    def at(self, due_ns: int) -> None:
        """Call back for `due_ns`, in place of what was asked before."""
        early_ns = min(AWAKE_NS, max(0, due_ns - monotonic_ns()) // EARLY_SHARE)
        self._spec[2], self._spec[3] = divmod(due_ns - early_ns, 1_000_000_000)
        self._settime(self._fd, ABSOLUTE, self._spec, None)

    def close(self) -> None:
        """Never call back again."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1


class Dispatcher:
    """Submits one worker's share of a schedule, each request at its instant; one that is late is submitted late, none is left out."""

    def __init__(
        self,
        schedule: Schedule,
        *,
        start_ns: int,
        worker: int,
        workers: int,
        submit: Callable[[int], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.total = share(schedule.total, worker, workers)
        self.submitted = 0
        self.on_time = 0  # submitted before the schedule was over
        self._schedule = schedule
        self._start_ns = start_ns
        self._end_ns = start_ns + int(schedule.duration_s * 1e9)
        self._worker, self._workers = worker, workers
        self._submit = submit
        self._due_ns: list[int] = []
        self._at = 0  # in that block
        self.next_ns = NEVER_NS  # when the next one is due
        self._alarm_ns = 0  # for which instant the alarm is set
        self.idle_ns = 0  # spent awake, with nothing to do
        self._rung_ns, self._fastest_ns = 0, AWAKE_NS
        self._alarm = (KernelAlarm if sys.platform == "linux" else Alarm)(loop, self._ring)  # the most exact that this system has

    def start(self) -> None:
        """Begin; it goes on by itself until all is submitted."""
        if self._more():
            self._alarm_ns = self.next_ns
            self._alarm.at(self._alarm_ns)

    def send_due(self, now: int, most: int = 1) -> None:
        """Submit what is due at `now` on the clock; for a caller that is awake anyway, which costs less than to be woken for it."""
        due_ns, first = self._due_ns, self._at
        i, stop = first, min(first + most, len(due_ns))
        while i < stop and due_ns[i] <= now:
            self._submit(due_ns[i])
            i += 1
        if i == first:
            return
        self._at = i
        self.submitted += i - first
        if now < self._end_ns:
            self.on_time = self.submitted
        if i < len(due_ns):
            self.next_ns = due_ns[i]
        else:
            self._more()

    def close(self) -> None:
        """Submit no more."""
        self._alarm.close()

    def _more(self) -> bool:
        """Compute the next block of instants; say whether there is any."""
        count = min(BLOCK, self.total - self.submitted)
        numbers = self._worker + self._workers * (self.submitted + np.arange(count))
        self._due_ns = (self._schedule.due_ns(numbers) + self._start_ns).tolist()
        self._at = 0
        self.next_ns = self._due_ns[0] if count else NEVER_NS
        return count > 0

    def _ring(self) -> None:
        """Send what is due; the alarm goes on ringing, once a turn of the loop, until it is set for another instant."""
        now = monotonic_ns()
        if now >= self.next_ns:
            self.send_due(now, BATCH)
        else:
            self._count_idle(now - self._rung_ns)
        self._rung_ns = now
        if self.next_ns == NEVER_NS:
            self._alarm.close()
        elif self.next_ns - now > AWAKE_NS and self.next_ns != self._alarm_ns:
            self._alarm_ns = self.next_ns
            self._alarm.at(self.next_ns)

    def _count_idle(self, turn_ns: int) -> None:
        """Count a turn of the loop that sent nothing, unless it was so long that answers came in it."""
        self._fastest_ns = min(self._fastest_ns, turn_ns)
        if turn_ns < IDLE_TURNS * self._fastest_ns:
            self.idle_ns += turn_ns
