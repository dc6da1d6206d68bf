"""What one run of one variant gave, in figures, and those of a proof put into pairs. Pure: no target, no files, no clock."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tapecheck.compare.variants import AFTER, BEFORE, Side


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One run of one variant; times on the monotonic clock, `clocks` in the unit of their names, `counters` exact.

    `round` is 0 for a warm-up. `problem` says why the run does not count, where it does not; `late` that the load generator lagged, which
    is in its times. `answers` are those of a load run, see there.
    """

    proof: str
    side: Side
    round: int
    began_ns: int
    ended_ns: int
    clocks: Mapping[str, float] = field(default_factory=dict)
    counters: Mapping[str, int] = field(default_factory=dict)
    checksum: str = ""
    problem: str = ""
    late: str = ""
    answers: Mapping[str, int] = field(default_factory=dict)

    def figure(self, name: str) -> float | None:
        """Return a clock or counter; None where the run does not have it."""
        return self.clocks[name] if name in self.clocks else self.counters.get(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One round."""

    before: Sample
    after: Sample


def pairs(samples: Sequence[Sample]) -> list[Pair]:
    """Return the rounds of one proof of which both runs count, in their order."""
    by_side = {side: {s.round: s for s in samples if s.side == side and s.round and not s.problem} for side in (BEFORE, AFTER)}
    both = sorted(by_side[BEFORE].keys() & by_side[AFTER].keys())
    return [Pair(before=by_side[BEFORE][number], after=by_side[AFTER][number]) for number in both]


def equals(samples: Sequence[Sample]) -> list[Pair]:
    """Return each run with the next one of the same variant in the same session, as long as no run is in two pairs of a variant.

    Rounds are interleaved (ABBA), so that these mostly followed each other without anything between.
    """
    found = []
    for side in (BEFORE, AFTER):
        own = sorted((s for s in samples if s.side == side and s.round and not s.problem), key=lambda s: s.began_ns)
        first = 0 if side == AFTER else 1  # A BB AA BB A: the first of the As has no neighbour
        found += [Pair(before=a, after=b) for a, b in zip(own[first::2], own[first + 1 :: 2], strict=False)]
    return found


def problems(samples: Sequence[Sample]) -> list[str]:
    """Return why runs do not count, each reason once."""
    return list(dict.fromkeys(s.problem for s in samples if s.round and s.problem))
