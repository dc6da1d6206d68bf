"""When each request of an open model is due: a pure function of its number. It knows no clock and sends nothing.

Request `k` (from 0) is due at the first instant at which the rate, summed over time, has reached `k`. So the schedule
has no state, can be asked in either direction, and can be dealt out: worker `w` of `n` takes requests w, w + n, w + 2n, …
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Numbers = NDArray[np.int64]
Floats = NDArray[np.float64]


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
        edges_n, edges_s = self._edges("arrivals"), self._edges("duration_s")
        i = self._stage(number, edges_n)
        rate, slope, length_s = (self._of_each(name)[i] for name in ("start_rps", "slope", "duration_s"))
        into = np.maximum(number - edges_n[i], 0.0)
        # the root of rate*t + slope*t²/2 = into, in the form that is exact for a slope of 0 and for either sign
        divisor = rate + np.sqrt(np.maximum(rate * rate + 2 * slope * into, 0.0))
        into_s = np.divide(2 * into, divisor, out=np.zeros_like(into), where=divisor > 0)
        due: Numbers = np.rint((edges_s[i] + np.minimum(into_s, length_s)) * 1e9).astype(np.int64)
        return due

    def count(self, elapsed_ns: ArrayLike) -> Numbers:
        """Return how many requests are due within `elapsed_ns` of the start, that instant included."""
        elapsed = np.asarray(elapsed_ns, np.int64)
        elapsed_s = elapsed / 1e9
        edges_n, edges_s = self._edges("arrivals"), self._edges("duration_s")
        i = self._stage(elapsed_s, edges_s)
        rate, slope, length_s = (self._of_each(name)[i] for name in ("start_rps", "slope", "duration_s"))
        into_s = np.clip(elapsed_s - edges_s[i], 0.0, length_s)
        guess = np.floor(edges_n[i] + rate * into_s + slope * into_s * into_s / 2).astype(np.int64) + 1
        guess = np.clip(guess, 0, self.total)  # right to within one: rounding decides which
        guess = np.where((guess > 0) & (self.due_ns(guess - 1) > elapsed), guess - 1, guess)
        counts: Numbers = np.where((guess < self.total) & (self.due_ns(guess) <= elapsed), guess + 1, guess)
        return counts

    def _of_each(self, name: str) -> Floats:
        return np.array([getattr(stage, name) for stage in self.stages])

    def _edges(self, name: str) -> Floats:
        """Return where each stage begins, and the last one ends, in requests or in seconds."""
        return np.concatenate(([0.0], np.cumsum(self._of_each(name))))

    def _stage(self, value: Floats, edges: Floats) -> Numbers:
        """Return the index of the stage in which each value falls."""
        return np.clip(np.searchsorted(edges, value, side="right") - 1, 0, len(self.stages) - 1)


def share(total: int, worker: int, workers: int) -> int:
    """Return how many of `total` things dealt out in turn go to `worker`, counted from 0."""
    return max(0, (total - worker + workers - 1) // workers)
