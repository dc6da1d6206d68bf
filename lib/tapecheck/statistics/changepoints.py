"""Where the level of a series shifts, and how sure that is. It knows no runs or files.

Method (x in the order of time, n values):

- What is extreme counts for no more than it must: first the two largest and the two smallest values are brought to the third, since two
  are no level, and all to within 4 s of the median, where s is 1.4826 times the median distance from it, the standard deviation of
  normal noise (Huber, Robust Statistics, 1981); a counter, of which s is 0, is not. Neither depends on the order of the values.
- The best K change points are those with the least sum of squares around the means between them, by dynamic programming, each level
  at least `LEAST` values long (ruptures; Truong, Oudre and Vayatis, Signal Processing 167, 2020, 107299). Of K up to `MOST` that one is
  taken whose change points explain the most of the sum of squares each: no single one explains a level that comes and goes again.
- They are believed when at most `P` of the series' own orders, drawn at random, are explained as well by their best: a permutation
  test of the maximum over all places and all K (Besag and Clifford, Biometrika 78, 1991, for stopping early). So P is the probability
  that a series without any shift shows one at all, whatever the distribution of its noise; not if its values depend on each other.
- Each stretch between two of them is examined likewise, until none shows any more.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tapecheck.statistics import intervals

P = 0.02
LEAST = 3  # values in a level
MOST = 4  # change points that are looked for together
NEEDS = 9  # values in a series; of fewer than 4 beside 5, one order in 50 or more is as good as the best by chance
ORDERS = 499  # drawn at random
ENOUGH = 40  # orders as good as the one that was seen, after which no more need be drawn
EXTREME = 4.0  # standard deviations
_SEED = 20261101

Series = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """Values from position `first` on have another level than those before: the medians from and to the next shift on each side.

    `p` is the probability of so good a set of change points in a series of the same values without any.
    """

    first: int
    before: float
    after: float
    p: float

    @property
    def change(self) -> str:
        """Say by how much, such as +12.5 %."""
        return f"{100 * (self.after - self.before) / abs(self.before):+.1f} %" if self.before else f"from 0 to {_short(self.after)}"

    def __str__(self) -> str:
        return f"{self.change} ({_short(self.before)} to {_short(self.after)}, p = {self.p:.1g})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def find(values: Sequence[float]) -> tuple[Shift, ...]:
    """Return where the level of a series shifts, first to last."""
    x = np.asarray(values, dtype=np.float64)
    found = dict(_examine(x, 0)) if len(x) >= NEEDS else {}
    edges = [0, *sorted(found), len(x)]
    medians = [intervals.median(x[a:b]) if b > a else 0.0 for a, b in pairwise(edges)]
    return tuple(
        Shift(first=first, before=before, after=after, p=found[first])
        for first, (before, after) in zip(edges[1:-1], pairwise(medians), strict=True)
    )


def _examine(x: Series, offset: int) -> Iterator[tuple[int, float]]:
    """Yield the change points of a stretch that begins at `offset`, each with its p."""
    if len(x) < NEEDS or not np.ptp(y := _without_extremes(x)):
        return
    places, share = _best(y)
    p = _p(y, share)
    if p > P:
        return
    for a, b in pairwise((0, *places, len(x))):
        if a:
            yield offset + a, p
        yield from _examine(x[a:b], offset + a)


def _without_extremes(x: Series) -> Series:
    third = np.partition(x, (LEAST - 1, len(x) - LEAST))[[LEAST - 1, -LEAST]]
    y = np.clip(x, *third)
    middle = intervals.median(y)
    widest = EXTREME * 1.4826 * intervals.median(np.abs(y - middle))
    return np.clip(y, middle - widest, middle + widest) if widest else y


def _best(y: Series) -> tuple[tuple[int, ...], float]:
    """Return the best change points of a series, and which share of its sum of squares each of them explains."""
    from ruptures import KernelCPD  # takes a second, most of it for scipy.stats

    z = y - y.mean()
    most = min(MOST, len(y) // LEAST - 1)
    search = KernelCPD(kernel="linear", min_size=LEAST).fit(z)
    search.predict(n_bkps=most)  # finds fewer on its way
    candidates = [tuple(search.predict(n_bkps=k)[:-1]) for k in range(1, most + 1)]
    return max(((places, _share(z, places) / len(places)) for places in candidates), key=lambda one: one[1])


def _share(z: Series, places: tuple[int, ...]) -> float:
    edges = (0, *places, len(z))
    return float((np.add.reduceat(z, edges[:-1]) ** 2 / np.diff(edges)).sum() / (z @ z))


def _p(y: Series, share: float) -> float:
    """Return how many of a series' orders are explained as well."""
    random = np.random.default_rng(_SEED)
    as_good = 0
    for drawn in range(1, ORDERS + 1):
        as_good += _best(random.permutation(y))[1] >= share * (1 - 1e-9)
        if as_good == ENOUGH:
            return as_good / drawn
    return (as_good + 1) / (ORDERS + 1)
