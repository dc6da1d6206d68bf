"""Compares what was counted, exactly and before any clock is asked. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from tapecheck.compare.samples import Pair, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterChange:
    """A counter on both sides, the same in every round or as `from-to`; `ratio` is after over before, None where that is no number.

    The sums are over all rounds.
    """

    name: str
    before: str
    after: str
    before_sum: int
    after_sum: int
    ratio: float | None
    equal: bool
    steady: bool


def compare(rounds: Sequence[Pair]) -> list[CounterChange]:
    """Compare every counter that all runs have, in their order."""
    runs = [run for pair in rounds for run in (pair.before, pair.after)]
    names = [name for name in (runs[0].counters if runs else ()) if all(name in run.counters for run in runs)]
    return [_change(name, [pair.before for pair in rounds], [pair.after for pair in rounds]) for name in names]


def _change(name: str, before: Sequence[Sample], after: Sequence[Sample]) -> CounterChange:
    x, y = ([sample.counters[name] for sample in side] for side in (before, after))
    return CounterChange(
        name=name,
        before=_said(x),
        after=_said(y),
        before_sum=sum(x),
        after_sum=sum(y),
        ratio=sum(y) / sum(x) if sum(x) else None,
        equal=x == y,
        steady=len(set(x)) == len(set(y)) == 1,
    )


def _said(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"


def checksums_equal(rounds: Sequence[Pair]) -> bool | None:
    """Tell whether every run left the same behind; None where no run has a checksum."""
    found = {run.checksum for pair in rounds for run in (pair.before, pair.after)}
    return None if found <= {""} else len(found) == 1
