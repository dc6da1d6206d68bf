"""Charts show fewer points than there are samples, and hide none that matters."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from tapecheck.charts import thin

VALUES = nps.arrays(np.float64, st.integers(1, 3000), elements=st.floats(-1e6, 1e6))


@given(y=VALUES, points=st.integers(2, 400), seed=st.integers(0, 9), mixed=st.booleans())
def test_thinning_keeps_the_extremes_of_every_stretch(y: np.ndarray, points: int, seed: int, mixed: bool) -> None:
    """At most so many points, in order, each one of the samples, and of every stretch of x the smallest and the largest y."""
    x = np.arange(len(y), dtype=np.float64)
    if mixed:
        order = np.random.default_rng(seed).permutation(len(y))
        x, y = x[order], y[order]
    at, kept = thin(x, y, points)
    assert len(at) == len(kept) <= max(points, 1)
    assert set(zip(at, kept, strict=True)) <= set(zip(x, y, strict=True))
    if len(x) <= points:
        assert len(at) == len(x)
        return
    assert (np.diff(at) > 0).all()
    in_order = y[np.argsort(x)]
    edges = np.linspace(0, len(x), points // 2 + 1).astype(int)
    for a, b in itertools.pairwise(edges):
        part = kept[(at >= a) & (at < b)]
        assert (part.min(), part.max()) == (in_order[a:b].min(), in_order[a:b].max())


def test_one_spike_in_a_million_is_drawn() -> None:
    """Whatever surrounds it."""
    y = np.ones(1_000_000)
    y[123_457] = 5000.0
    at, kept = thin(np.arange(len(y)), y)
    assert at[kept == 5000.0].tolist() == [123_457]
