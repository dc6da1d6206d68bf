"""Decides what rounds prove of one figure: improved, no change, worse, or nothing yet, and how many rounds would. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from tapecheck.compare.plan import Limits, Metric
from tapecheck.compare.samples import Pair
from tapecheck.statistics import paired
from tapecheck.statistics.paired import ALPHA, Logs, Ratio


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
class Difference(Limits):
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
    ratio: Ratio | None
    noise_floor: float | None = None
    p: float | None = None
    p_family: float | None = None
    change: Change
    reason: str
    needed_rounds: int | None = None
    refused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """How sure a claim must be, and how its interval is drawn: level of the look, seed and number of the bootstrap's resamples."""

    alpha: float = ALPHA
    seed: int = 0
    resamples: int = paired.RESAMPLES

    def ratio(self, d: Logs, *, is_count: bool = False) -> Ratio:
        """Return the ratio of rounds with its interval at this level."""
        return paired.ratio(d, seed=self.seed, is_count=is_count, alpha=self.alpha, resamples=self.resamples)


PLAIN = Method()  # of rounds that are looked at once


def measure(
    metric: Metric, rounds: Sequence[Pair], equals: Sequence[Pair], method: Method = PLAIN, *, is_count: bool = False
) -> Difference:
    """Return what rounds prove of a metric by themselves, before its family and the controls are heard.

    Args:
        is_count: it is the same every time that the same is done, so that one round is enough and 0 is a figure.
    """
    alone: dict[str, Any] = {"metric": metric.name, "better": metric.better, "smallest_effect": metric.smallest_effect}
    known = _known(metric, rounds)
    if is_count and known and all(x > 0 and y == 0 for x, y in known):  # it fell to nothing, of which there is no logarithm
        change = Change.IMPROVED if metric.better == "lower" else Change.WORSE
        none = Ratio(value=0.0, low=0.0, high=0.0, n=len(known), spread=0.0, exact=True)
        figures: dict[str, Any] = {"before": paired.mean([x for x, _ in known]), "after": 0.0, "ratio": none, "p": 0.0, "p_family": 0.0}
        return Difference(**alone, **figures, change=change, reason="it fell to 0 in every round")
    kept, d = [(x, y) for x, y in known if x > 0 and y > 0], logs(metric, rounds)
    if d is None:
        return Difference(**alone, ratio=None, change=Change.NOT_PROVEN, reason="no round has this figure above 0 on both sides")
    before, after = map(paired.mean, zip(*kept, strict=True))
    measured, a = method.ratio(d, is_count=is_count), logs(metric, equals)
    change, p = _claim(metric, measured, d)
    floor = None if a is None else paired.noise_floor(a, measured.n)
    found = Difference(**alone, before=before, after=after, ratio=measured, noise_floor=floor, p=p, p_family=p, change=change, reason="")
    lost = len(rounds) - len(kept)
    explained = _explained(found, method.alpha)
    return replace(explained, reason=f"{explained.reason}; {lost} rounds without this figure") if lost else explained


def _known(metric: Metric, rounds: Sequence[Pair]) -> list[tuple[float, float]]:
    """Return the figure before and after of each round that has it on both sides."""
    values = [(pair.before.figure(metric.name), pair.after.figure(metric.name)) for pair in rounds]
    return [(x, y) for x, y in values if x is not None and y is not None]


def logs(metric: Metric, rounds: Sequence[Pair]) -> Logs | None:
    """Return the logarithm of the ratio of each round that has the figure on both sides; None where there is no such round."""
    kept = [(x, y) for x, y in _known(metric, rounds) if x > 0 and y > 0]
    if not kept:
        return None
    before, after = zip(*kept, strict=True)
    return paired.logs(before, after, less_is_better=metric.better == "lower")


def _claim(metric: Metric, measured: Ratio, d: Logs) -> tuple[Change, float]:
    """Return what the interval claims, and the p value of that; without a claim, of the one that the ratio itself would make."""
    good, bad = metric.good_below, metric.bad_above
    if measured.value <= good:
        is_sure, change, p = measured.high is not None and measured.high <= good, Change.IMPROVED, paired.p_below(d, good)
    elif measured.value >= bad:
        is_sure, change, p = measured.low is not None and measured.low >= bad, Change.WORSE, paired.p_above(d, bad)
    else:
        is_sure = measured.low is not None and measured.high is not None and good < measured.low and measured.high < bad
        change, p = Change.NO_CHANGE, paired.p_within(d, good, bad)
    return (change if is_sure else Change.NOT_PROVEN), 0.0 if measured.exact else p


def _explained(found: Difference, alpha: float) -> Difference:
    """Say why, and where nothing is proven, what would prove it."""
    measured = found.ratio
    assert measured is not None
    if found.change != Change.NOT_PROVEN and _is_noise(found):
        return _open(found, f"identical variants differed by up to {found.noise_floor:.1%} in this session", alpha)
    if found.change != Change.NOT_PROVEN:
        return replace(
            found, reason="every round said the same" if measured.exact else f"with 95 % confidence (nominal), {measured.n} rounds"
        )
    if measured.low is None:
        few = "one round a side gives" if measured.n == 1 else f"{measured.n} rounds give"
        return _open(found, f"{few} no confidence interval", alpha)
    return _open(found, "its 95 % interval reaches to both sides of the smallest effect", alpha)


def _is_noise(found: Difference) -> bool:
    """Tell whether identical variants differed as much as these; what every round says alike is no noise."""
    assert found.ratio is not None
    if found.change not in (Change.IMPROVED, Change.WORSE) or found.noise_floor is None or found.ratio.exact:
        return False
    return max(1 - found.ratio.value, 1 - 1 / found.ratio.value) <= found.noise_floor


def _open(found: Difference, reason: str, alpha: float, claims: int = 1) -> Difference:
    """Leave a difference open, with how many rounds would decide it by the nearest limit, where that is more than there were."""
    assert found.ratio is not None
    nearest = min((found.good_below, found.bad_above), key=lambda limit: abs(math.log(found.ratio.value / limit)) if found.ratio else 0.0)
    needed = paired.needed_rounds(found.ratio, nearest, claims, alpha)
    return replace(found, change=Change.NOT_PROVEN, reason=reason, needed_rounds=needed if needed and needed > found.ratio.n else None)


def control(name: str, guarded: Metric, rounds: Sequence[Pair], method: Method = PLAIN) -> Control:
    """Return the ratio of a control, and whether it held still.

    It moved when its interval leaves out 1 and it is further from 1 than the smallest effect of the metric that it guards; it held
    when the whole interval is nearer than that. Else nobody knows.
    """
    d = logs(guarded.model_copy(update={"name": name, "better": "lower"}), rounds)
    measured = None if d is None else method.ratio(d)
    if measured is None or measured.low is None or measured.high is None:
        return Control(metric=name, ratio=measured, state=State.UNKNOWN)
    good, bad = guarded.good_below, guarded.bad_above
    if good < measured.low and measured.high < bad:
        return Control(metric=name, ratio=measured, state=State.HELD)
    is_sure, is_far = not measured.low <= 1 <= measured.high, not good < measured.value < bad
    return Control(metric=name, ratio=measured, state=State.MOVED if is_sure and is_far else State.UNKNOWN)


def among_family(found: Sequence[Difference], alpha: float = ALPHA) -> list[Difference]:
    """Adjust the metrics of one proof for being many: what one in twenty shows by chance, one of twenty does."""
    counted = [i for i, one in enumerate(found) if one.p is not None and not (one.ratio and one.ratio.exact)]
    adjusted = dict(zip(counted, paired.holm([found[i].p or 0.0 for i in counted]), strict=True))
    return [_adjusted(one, adjusted.get(i, one.p), len(counted), alpha) for i, one in enumerate(found)]


def _adjusted(one: Difference, p: float | None, family: int, alpha: float) -> Difference:
    if one.change == Change.NOT_PROVEN or p is None or p <= alpha:
        return replace(one, p_family=p)
    return replace(_open(one, f"among {family} claims its p value is {p:.2g}, above {alpha:.2g} (Holm)", alpha, family), p_family=p)


def said(one: Difference) -> str:
    """Say how a metric changed, in its own direction: `duration_s -39% (-46% to -38%)`, `throughput_rps +376%`."""
    return f"{one.metric} {one.ratio.change(more_is_better=one.better == 'higher') if one.ratio else 'not measured'}"


def refused(one: Difference, reason: str) -> Difference:
    """Return a difference that proves nothing for a reason beyond its own rounds."""
    return replace(one, change=Change.NOT_PROVEN, reason=reason, needed_rounds=None, refused=True)
