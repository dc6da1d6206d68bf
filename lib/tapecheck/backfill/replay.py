"""A machine on a simulated clock: processes that share cores, slots and tokens. It measures nothing and knows no backfill.

A process is a generator. It yields where it has to wait: what it yields takes the process and lets it go on later.
"""

import heapq
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from itertools import count

Process = Generator[Callable[["Process"], None], None, None]
TINY_S = 1e-9


@dataclass(slots=True)
class _Work:
    process: "Process"
    left_s: float


class Machine:
    """Runs processes until none is left; work slows down when there is more of it at once than cores."""

    def __init__(self, cores: float) -> None:
        self.now_s = 0.0
        self._cores = cores
        self._ready: deque[Process] = deque()
        self._sleeping: list[tuple[float, int, Process]] = []
        self._working: list[_Work] = []
        self._order = count()

    def start(self, process: Process) -> None:
        """Let a process begin, or go on."""
        self._ready.append(process)

    def sleep(self, seconds: float) -> Process:
        """Wait for some time."""
        yield lambda process: heapq.heappush(self._sleeping, (self.now_s + seconds, next(self._order), process))

    def work(self, seconds: float) -> Process:
        """Wait until a core has done so much for this process; all that work at once get equal parts of the cores."""
        if seconds > 0:
            yield lambda process: self._working.append(_Work(process, seconds))

    def run(self) -> float:
        """Run all processes to their end and return when that was."""
        while self._ready or self._sleeping or self._working:
            while self._ready:
                process = self._ready.popleft()
                wait = next(process, None)
                if wait is not None:
                    wait(process)
            self._advance()
        return self.now_s

    def _advance(self) -> None:
        """Go to the next moment at which a sleep or some work ends."""
        rate = min(1.0, self._cores / len(self._working)) if self._working else 1.0
        until_s = [work.left_s / rate for work in self._working] + [at_s - self.now_s for at_s, _, _ in self._sleeping[:1]]
        step_s = max(0.0, min(until_s, default=0.0))
        self.now_s += step_s
        for work in self._working:
            work.left_s -= step_s * rate
        self._ready.extend(work.process for work in self._working if work.left_s <= TINY_S)
        self._working = [work for work in self._working if work.left_s > TINY_S]
        while self._sleeping and self._sleeping[0][0] <= self.now_s + TINY_S:
            self._ready.append(heapq.heappop(self._sleeping)[2])


class Slots:
    """A number of places, taken in the order in which they were asked for."""

    def __init__(self, machine: Machine, places: int) -> None:
        self._machine, self._free, self._waiting = machine, places, deque[Process]()

    def take(self) -> Process:
        """Wait for a place and take it."""
        if self._free:
            self._free -= 1
        else:
            yield self._waiting.append

    def release(self) -> None:
        """Give a place back, to who waits longest."""
        if self._waiting:
            self._machine.start(self._waiting.popleft())
        else:
            self._free += 1


class Flag:
    """Something that happens once."""

    def __init__(self, machine: Machine) -> None:
        self._machine, self._is_set, self._waiting = machine, False, deque[Process]()

    def set(self) -> None:
        """Let it happen."""
        self._is_set = True
        while self._waiting:
            self._machine.start(self._waiting.popleft())

    def wait(self) -> Process:
        """Wait until it has happened."""
        if not self._is_set:
            yield self._waiting.append
