"""Puts the runs of a proof into rounds, compares what they counted, and decides what they prove of a figure. Pure."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from tapecheck.compare.plan import AFTER, BEFORE, Metric
from tapecheck.compare.recording import Sample
from tapecheck.statistics import paired
from tapecheck.statistics.paired import ALPHA, Logs, Ratio
from tapecheck.verdict import counted, number

UNITS = {"_ms": " ms", "_per_s": "/s", "_rps": "/s", "_s": " s", "_bytes": " bytes"}  # by how a metric's name ends

# ---- rounds ----


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One round."""

    before: Sample
    after: Sample


def pairs(samples: Sequence[Sample]) -> list[Pair]:
    """Return the rounds of one proof of which both runs count, in their order."""
    before, after = ({s.round: s for s in samples if s.counts and s.side == side} for side in (BEFORE, AFTER))
    return [Pair(before=before[number], after=after[number]) for number in sorted(before.keys() & after.keys())]


def equals(samples: Sequence[Sample]) -> list[Pair]:
    """Return each run with the next one of the same variant in the same session, as long as no run is in two pairs of a variant.

    Rounds are interleaved (ABBA), so that these mostly followed each other without anything between.
    """
    found = []
    for side in (BEFORE, AFTER):
        own = sorted((s for s in samples if s.counts and s.side == side), key=lambda s: s.began_ns)
        first = 0 if side == AFTER else 1  # A BB AA BB A: the first of the As has no neighbour
        found += [Pair(before=a, after=b) for a, b in zip(own[first::2], own[first + 1 :: 2], strict=False)]
    return found


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


def counter_changes(rounds: Sequence[Pair]) -> list[CounterChange]:
    """Compare every counter that all runs have, in their order."""
    runs, found = [run for pair in rounds for run in (pair.before, pair.after)], []
    for name in [name for name in (runs[0].counters if runs else ()) if all(name in run.counters for run in runs)]:
        x, y = ([run.counters[name] for run in side] for side in (runs[::2], runs[1::2]))
        found.append(
            CounterChange(
                name=name,
                before=_from_to(x),
                after=_from_to(y),
                before_sum=sum(x),
                after_sum=sum(y),
                ratio=sum(y) / sum(x) if sum(x) else None,
                equal=x == y,
                steady=len(set(x)) == len(set(y)) == 1,
            )
        )
    return found


def _from_to(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"


def checksums_equal(rounds: Sequence[Pair]) -> bool | None:
    """Tell whether every run left the same behind; None where no run has a checksum."""
    found = {run.checksum for pair in rounds for run in (pair.before, pair.after)}
    return None if found <= {""} else len(found) == 1


# ---- what they prove ----


class Change(StrEnum):
    """The four answers, and nothing between them."""

    IMPROVED = "improved"
    NO_CHANGE = "no_change"
    WORSE = "worse"
    NOT_PROVEN = "not_proven"


class State(StrEnum):
    """Whether a control held still, moved, or cannot be told to have done either."""

    HELD = "held"
    MOVED = "moved"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """A figure that the change cannot touch; one that moved says that the session drifted."""

    metric: str
    ratio: Ratio | None
    state: State


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One figure before and after (geometric means over rounds), its ratio, and what that proves.

    A ratio below 1 is better, whichever way the figure is. `p` is of the claim that the interval makes or comes nearest to, and
    `p_family` the same among all metrics of the proof. `noise_floor` is how far from 1 as many rounds of no change get, as a part of 1.
    `refused` where nothing can be said for a reason beyond its own rounds, such as a drift.
    """

    metric: str
    better: str
    smallest_effect: float
    before: float | None = None
    after: float | None = None
    ratio: Ratio | None = None
    noise_floor: float | None = None
    p: float | None = None
    p_family: float | None = None
    change: Change = Change.NOT_PROVEN
    reason: str = ""
    needed_rounds: int | None = None
    refused: bool = False

    @property
    def limits(self) -> tuple[float, float]:
        """The ratios from which on it is improved, downwards, and worse, upwards."""
        return paired.limits(self.smallest_effect)

    @property
    def is_exact(self) -> bool:
        """Whether every round said the same, as counts do."""
        return self.ratio is not None and self.ratio.exact

    def __str__(self) -> str:
        """Say how the figure changed, in its own direction: `p95 34.5 -> 15.6 ms (-55 %, 95 % interval -58 to -52 %)`."""
        if self.ratio is None:
            return f"{self.metric} not measured"
        change, *ends = (one.replace("%", " %") for one in self.ratio.changes(more_is_better=self.better == "higher"))
        between = f", 95 % interval {' to '.join(ends).replace(' % to', ' to')}" if ends else ""
        suffix = next((end for end in UNITS if self.metric.endswith(end)), "")
        name, unit = self.metric.removesuffix(suffix), UNITS.get(suffix, "")
        return f"{name} {number(self.before)} -> {number(self.after)}{unit} ({change}{between})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """How sure a claim must be, and how its interval is drawn: level of the look, and seed of the bootstrap."""

    alpha: float = ALPHA
    seed: int = 0

    def ratio(self, d: Logs, *, is_count: bool = False) -> Ratio:
        """Return the ratio of rounds with its interval at this level."""
        return paired.ratio(d, seed=self.seed, is_count=is_count, alpha=self.alpha)


PLAIN = Method()  # of rounds that are looked at once


def measure(
    metrics: Sequence[Metric], rounds: Sequence[Pair], equals: Sequence[Pair] = (), method: Method = PLAIN, counts: Collection[str] = ()
) -> list[Difference]:
    """Return what rounds prove of the metrics of a proof by themselves, before its controls are heard.

    The metrics are a family: what one in twenty shows by chance, one of twenty does.

    Args:
        equals: pairs of runs of one variant.
        counts: metrics that are the same every time that the same is done, so that one round is enough and 0 is a figure.
    """
    alone = [_alone(metric, rounds, equals, method, is_count=metric.name in counts) for metric in metrics]
    family = [i for i, one in enumerate(alone) if one.p is not None and not one.is_exact]
    adjusted = dict(zip(family, paired.holm([alone[i].p or 0.0 for i in family]), strict=True))
    decided = [_decided(replace(one, p_family=adjusted.get(i, one.p)), len(family), method.alpha) for i, one in enumerate(alone)]
    return [_with_lost(one, len(rounds)) for one in decided]


def _alone(metric: Metric, rounds: Sequence[Pair], equals: Sequence[Pair], method: Method, *, is_count: bool) -> Difference:
    """Return the figures of a metric and what its interval claims."""
    none = Difference(metric=metric.name, better=metric.better, smallest_effect=metric.smallest_effect)
    known = _known(metric.name, rounds)
    if is_count and known and all(x > 0 and y == 0 for x, y in known):  # it fell to nothing, of which there is no logarithm
        change = Change.IMPROVED if metric.better == "lower" else Change.WORSE
        to_0 = Ratio(value=0.0, low=0.0, high=0.0, n=len(known), spread=0.0, exact=True)
        return replace(none, before=paired.mean([x for x, _ in known]), after=0.0, ratio=to_0, p=0.0, change=change)
    d, a = logs(metric.name, metric.better, rounds), logs(metric.name, metric.better, equals)
    if d is None:
        return replace(none, reason="no round has this figure above 0 on both sides")
    before, after = (paired.mean(side) for side in zip(*((x, y) for x, y in known if x > 0 and y > 0), strict=True))
    measured = method.ratio(d, is_count=is_count)
    change, p = _claim(metric, measured, d)
    floor = None if a is None else paired.noise_floor(a, measured.n)
    return replace(none, before=before, after=after, ratio=measured, noise_floor=floor, p=p, change=change)


def _known(name: str, rounds: Sequence[Pair]) -> list[tuple[float, float]]:
    """Return the figure before and after of each round that has it on both sides."""
    values = [(pair.before.figure(name), pair.after.figure(name)) for pair in rounds]
    return [(x, y) for x, y in values if x is not None and y is not None]


def logs(name: str, better: str, rounds: Sequence[Pair]) -> Logs | None:
    """Return the logarithm of the ratio of each round that has the figure on both sides; None where there is no such round."""
    kept = [(x, y) for x, y in _known(name, rounds) if x > 0 and y > 0]
    return paired.logs(*zip(*kept, strict=True), less_is_better=better == "lower") if kept else None


def _claim(metric: Metric, measured: Ratio, d: Logs) -> tuple[Change, float]:
    """Return what the interval claims, and the p value of that; without a claim, of the one that the ratio itself would make."""
    good, bad = metric.limits
    if measured.value <= good:
        is_sure, change, p = measured.high is not None and measured.high <= good, Change.IMPROVED, paired.p_below(d, good)
    elif measured.value >= bad:
        is_sure, change, p = measured.low is not None and measured.low >= bad, Change.WORSE, paired.p_above(d, bad)
    else:
        is_sure = measured.low is not None and measured.high is not None and good < measured.low and measured.high < bad
        change, p = Change.NO_CHANGE, paired.p_within(d, good, bad)
    return (change if is_sure else Change.NOT_PROVEN), 0.0 if measured.exact else p


def _decided(one: Difference, family: int, alpha: float) -> Difference:
    """Say why a claim stands, or which doubt takes it back and how many rounds would decide it."""
    if one.ratio is None:
        return one
    if one.change == Change.NOT_PROVEN:
        few = "one run a side" if one.ratio.n == 1 else f"{one.ratio.n} runs a side"
        is_wide = one.ratio.low is not None
        return _open(
            one, "its 95 % interval reaches to both sides of the smallest effect" if is_wide else f"{few}: no confidence interval", alpha
        )
    if one.is_exact:
        return replace(one, reason="every round said the same")
    if one.change != Change.NO_CHANGE and max(1 - one.ratio.value, 1 - 1 / one.ratio.value) <= (one.noise_floor or 0.0):
        return _open(one, f"identical variants differed by up to {one.noise_floor:.1%} in this session", alpha)
    if one.p_family is not None and one.p_family > alpha:
        return _open(one, f"among {family} claims its p value is {one.p_family:.2g}, above {alpha:.2g} (Holm)", alpha, family)
    return replace(one, reason=f"with 95 % confidence (nominal), {one.ratio.n} rounds")


def _open(one: Difference, reason: str, alpha: float, claims: int = 1) -> Difference:
    """Leave a difference open, with how many rounds would decide it by the nearest limit, where that is more than there were."""
    assert one.ratio is not None
    value = one.ratio.value
    nearest = min(one.limits, key=lambda limit: abs(math.log(value / limit)))
    needed = paired.needed_rounds(one.ratio, nearest, claims, alpha)
    return replace(one, change=Change.NOT_PROVEN, reason=reason, needed_rounds=needed if needed and needed > one.ratio.n else None)


def _with_lost(one: Difference, rounds: int) -> Difference:
    lost = rounds - one.ratio.n if one.ratio else 0
    return replace(one, reason=f"{one.reason}; {counted(lost, 'rounds')} without this figure") if lost else one


def refused(one: Difference, reason: str) -> Difference:
    """Return a difference that proves nothing for a reason beyond its own rounds."""
    return replace(one, change=Change.NOT_PROVEN, reason=reason, needed_rounds=None, refused=True)


def control(name: str, limits: tuple[float, float], rounds: Sequence[Pair], method: Method = PLAIN) -> Control:
    """Return the ratio of a control, and whether it held still.

    It moved when its interval leaves out 1 and it lies beyond the limits of the metric that it guards; it held when the whole interval
    lies within them. Else nobody knows.
    """
    d, (good, bad) = logs(name, "lower", rounds), limits
    measured = None if d is None else method.ratio(d)
    state = State.UNKNOWN
    if measured is not None and measured.low is not None and measured.high is not None:
        if good < measured.low and measured.high < bad:
            state = State.HELD
        elif not measured.low <= 1 <= measured.high and not good < measured.value < bad:
            state = State.MOVED
    return Control(metric=name, ratio=measured, state=state)
