"""Decides what rounds prove of one figure: improved, no change, worse, or nothing yet, and how many rounds would. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from tapecheck import ratios
from tapecheck.compare.plan import Metric
from tapecheck.compare.samples import Pair
from tapecheck.ratios import Logs, Ratio

ALPHA = 0.05


class Change(StrEnum):
    """The four answers, and nothing between them."""

    IMPROVED = "improved"
    NO_CHANGE = "no_change"
    WORSE = "worse"
    NOT_PROVEN = "not_proven"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One figure before and after (geometric means over rounds), its ratio, and what that proves.

    A ratio below 1 is better, whichever way the figure is. `p` is of the claim that the interval makes or comes nearest to, and
    `p_family` the same among all claims of the run. `noise_floor` is how far from 1 as many rounds of no change get, as a part of 1.
    """

    metric: str
    better: str
    smallest_effect: float
    before: float | None
    after: float | None
    ratio: Ratio | None
    noise_floor: float | None
    p: float | None
    p_family: float | None
    change: Change
    reason: str
    needed_rounds: int | None


def measure(metric: Metric, rounds: Sequence[Pair], equals: Sequence[Pair], *, seed: int = 0) -> Difference:
    """Return what rounds prove of a metric by themselves, before the family and the controls are heard."""
    d, before, after = _logs(metric, rounds)
    if d is None:
        return nothing(metric, "no round has this figure above 0 on both sides")
    measured, a = ratios.ratio(d, seed=seed), _logs(metric, equals)[0]
    floor = None if a is None else ratios.noise_floor(a, measured.n)
    claim, p = _claim(metric, measured, d)
    found = Difference(
        metric=metric.name,
        better=metric.better,
        smallest_effect=metric.smallest_effect,
        before=before,
        after=after,
        ratio=measured,
        noise_floor=floor,
        p=p,
        p_family=p,
        change=claim,
        reason="",
        needed_rounds=None,
    )
    return _explained(metric, found)


def nothing(metric: Metric, reason: str) -> Difference:
    """Return the difference of a metric that was not measured."""
    return Difference(
        metric=metric.name,
        better=metric.better,
        smallest_effect=metric.smallest_effect,
        before=None,
        after=None,
        ratio=None,
        noise_floor=None,
        p=None,
        p_family=None,
        change=Change.NOT_PROVEN,
        reason=reason,
        needed_rounds=None,
    )


def _logs(metric: Metric, rounds: Sequence[Pair]) -> tuple[Logs | None, float | None, float | None]:
    """Return the logarithm of each round's ratio, and the geometric means before and after; None where there is no round of both."""
    values = [(pair.before.figure(metric.name), pair.after.figure(metric.name)) for pair in rounds]
    kept = [(x, y) for x, y in values if x is not None and y is not None and x > 0 and y > 0]
    if not kept:
        return None, None, None
    before, after = zip(*kept, strict=True)
    return ratios.logs(before, after, less_is_better=metric.better == "lower"), ratios.mean(before), ratios.mean(after)


def _claim(metric: Metric, measured: Ratio, d: Logs) -> tuple[Change, float]:
    """Return what the interval claims, and the p value of that; without a claim, of the one that the ratio itself would make."""
    low, high = (measured.value if end is None else end for end in (measured.low, measured.high))
    good, bad = metric.good_below, metric.bad_above
    improved, worse, same = ratios.p_below(d, good), ratios.p_above(d, bad), ratios.p_within(d, good, bad)
    single = measured.low is None
    if measured.value <= good:
        return (Change.NOT_PROVEN if single or high > good else Change.IMPROVED), improved
    if measured.value >= bad:
        return (Change.NOT_PROVEN if single or low < bad else Change.WORSE), worse
    return (Change.NOT_PROVEN if single or low <= good or high >= bad else Change.NO_CHANGE), same


def _explained(metric: Metric, found: Difference) -> Difference:
    """Say why, and where nothing is proven, what would prove it."""
    measured = found.ratio
    assert measured is not None
    if found.change != Change.NOT_PROVEN and _is_noise(found):
        return _open(metric, found, f"identical variants differed by up to {found.noise_floor:.1%} in this session")
    if found.change == Change.NOT_PROVEN:
        said = "one round bounds nothing" if measured.low is None else "its 95 % interval reaches to both sides of the smallest effect"
        return _open(metric, found, said)
    return replace(found, reason="every round said the same" if measured.exact else f"with 95 % confidence, {measured.n} rounds")


def _is_noise(found: Difference) -> bool:
    """Tell whether identical variants differed as much as these."""
    assert found.ratio is not None
    distance = max(1 - found.ratio.value, 1 - 1 / found.ratio.value)
    return found.change in (Change.IMPROVED, Change.WORSE) and found.noise_floor is not None and distance <= found.noise_floor


def _open(metric: Metric, found: Difference, reason: str) -> Difference:
    assert found.ratio is not None
    needed = [ratios.needed_rounds(found.ratio, limit) for limit in (metric.good_below, metric.bad_above)]
    nearest = 0 if abs(found.ratio.value - metric.good_below) < abs(found.ratio.value - metric.bad_above) else 1
    more = needed[nearest] if (needed[nearest] or 0) > found.ratio.n else None
    return replace(found, change=Change.NOT_PROVEN, reason=reason, needed_rounds=more)


def moved(metric: Metric, rounds: Sequence[Pair], *, seed: int = 0) -> tuple[Ratio | None, bool]:
    """Return the ratio of a control, and whether it moved.

    It did when the interval leaves out 1 and the ratio is further from 1 than the smallest effect of the metric that it guards.
    """
    d, _, _ = _logs(metric, rounds)
    if d is None:
        return None, False
    measured = ratios.ratio(d, seed=seed)
    if measured.low is None or measured.high is None:
        return measured, False
    is_sure, is_far = not measured.low <= 1 <= measured.high, not metric.good_below < measured.value < metric.bad_above
    return measured, is_sure and is_far


Key = tuple[str, int]
"""A proof, and the place of a metric in it."""


def among_family(found: Mapping[Key, Difference]) -> dict[Key, Difference]:
    """Adjust all claims of a run for being many: what one in twenty shows by chance, one of twenty does."""
    counted = [key for key, one in found.items() if one.p is not None and not (one.ratio and one.ratio.exact)]
    adjusted = dict(zip(counted, ratios.holm([found[key].p or 0.0 for key in counted]), strict=True))
    return {key: _adjusted(one, adjusted.get(key, one.p), len(counted)) for key, one in found.items()}


def _adjusted(one: Difference, p: float | None, family: int) -> Difference:
    if one.change == Change.NOT_PROVEN or p is None or p <= ALPHA:
        return replace(one, p_family=p)
    reason = f"among {family} claims its p value is {p:.2g}, above {ALPHA:g} (Holm)"
    return replace(one, p_family=p, change=Change.NOT_PROVEN, reason=reason)


def said(one: Difference) -> str:
    """Say how a metric changed, in its own direction: `duration_s -39 % (-46 % to -38 %)`, `throughput_rps +376 %`."""
    if one.ratio is None:
        return f"{one.metric} not measured"
    ends = [one.ratio.value, one.ratio.low, one.ratio.high]
    value, *interval = ((end if one.better == "lower" else 1 / end) - 1 for end in ends if end is not None)
    bounds = " to ".join(f"{end:+.0%}" for end in sorted(interval)) if interval and not one.ratio.exact else ""
    return f"{one.metric} {value:+.0%}" + (f" ({bounds})" if bounds else "")


def refused(one: Difference, reason: str) -> Difference:
    """Return a difference that proves nothing for a reason beyond its own rounds."""
    return replace(one, change=Change.NOT_PROVEN, reason=reason, needed_rounds=None)
