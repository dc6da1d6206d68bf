"""Finds out whether both sides of a load proof gave the same answers: a build that answers with errors may well be faster. Pure.

Answers are compared by status and size, since nobody keeps a million bodies. The threshold is 10 % of the bytes an answer and 100 bytes:
a time stamp, another request number or one header more are less than that, a page, a symbol or a field less are more. Noise of the mix
of requests is taken out by comparing rounds, as of any figure. Of an error that replaces few answers the mean says nothing, so 1 % of
all answers is enough where they have another status, or a size that is less than half or more than twice that of any answer of the
other side, and chance would not make so many.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from tapecheck.compare.plan import AFTER, BEFORE
from tapecheck.compare.samples import Pair, Sample
from tapecheck.load import samples
from tapecheck.load.recording import Recording
from tapecheck.statistics import paired

MEAN_BYTES = "answer_bytes"  # the clock that holds the mean size of right answers, head and body
CHECKED = "content_checked"
SHARE = 0.01  # of the answers
SURE = 4.0  # standard errors
FEW_CHECKED = 0.1  # of those checked before: where fewer are after, the two are not checked alike
UNSEEN = 5.0  # answers expected of which none is seen: by chance in 0.7 % of cases
LIMITS = paired.limits(0.1)  # of the mean size
LEAST_BYTES = 100
_EXPONENTS = 64
Kinds = Mapping[str, int]
"""How many right answers have which status and size class: `200 4096`, of a size from 2048 to 4095 bytes; 0 where no size is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """The right answers of one scenario; no clock where no sizes are known."""

    kinds: Kinds
    clocks: Mapping[str, float]
    counters: Mapping[str, int]


def of(recording: Recording, scenario: str) -> Answers:
    """Return the right answers of a scenario without its warm-up."""
    own = samples.counted(recording.samples, scenario)
    checked = {CHECKED: stats.content_checked} if (stats := recording.context.generator.get(scenario)) else {}
    if "bytes" not in own.table.column_names or not len(own):
        return Answers(kinds={}, clocks={}, counters=checked)
    right = ~own.failed()
    size, status = own.numbers("bytes")[right], own.numbers("status")[right]
    exponent = np.frexp(size.astype(np.float64))[1]
    found = np.bincount(status.astype(np.int64) * _EXPONENTS + exponent)
    kinds = {
        f"{code // _EXPONENTS} {2 ** (code % _EXPONENTS) if size.any() else 0}": int(found[code]) for code in np.flatnonzero(found).tolist()
    }
    return Answers(kinds=kinds, clocks={MEAN_BYTES: float(size.mean())} if size.any() else {}, counters=checked)


def differ(rounds: Sequence[Pair]) -> str | None:
    """Say how the answers of both sides differ, None where they do not or nobody knows, see `not_compared`."""
    before = _together(pair.before for pair in rounds)
    after = _together(pair.after for pair in rounds)
    if not before or not after:
        return None
    return next(chain(_statuses(before, after), _sizes(rounds), _strange(before, after), _unchecked(rounds)), None)


def _together(side: Iterable[Sample]) -> Counter[str]:
    return sum((Counter(one.answers) for one in side), Counter[str]())


def _statuses(before: Kinds, after: Kinds) -> Iterator[str]:
    (x, n), (y, m) = (_shares(kinds, 0) for kinds in (before, after))
    for status in sorted(x.keys() | y.keys()):
        p, q = x.get(status, 0.0), y.get(status, 0.0)
        error = math.sqrt((p * (1 - p) / n) + (q * (1 - q) / m))
        if abs(q - p) > max(SHARE, SURE * error):
            yield f"status {status} on {p:.0%} of them before, on {q:.0%} after"


def _sizes(rounds: Sequence[Pair]) -> Iterator[str]:
    known = [(p.before.clocks.get(MEAN_BYTES, 0.0), p.after.clocks.get(MEAN_BYTES, 0.0)) for p in rounds]
    known = [(x, y) for x, y in known if x and y]
    if not known:
        return
    x, y = zip(*known, strict=True)
    measured, means = paired.ratio(paired.logs(x, y)), (paired.mean(x), paired.mean(y))
    is_sure = measured.low is None or measured.high is None or not measured.low <= 1 <= measured.high
    if is_sure and not LIMITS[0] <= measured.value <= LIMITS[1] and abs(means[1] - means[0]) > LEAST_BYTES:
        yield f"{means[0]:,.0f} bytes an answer before, {means[1]:,.0f} after"


def _strange(before: Kinds, after: Kinds) -> Iterator[str]:
    x, y = (_shares(kinds, 1) for kinds in (before, after))
    if 0 in x[0] or 0 in y[0]:
        return
    for (own, _), (other, n), side in ((y, x, AFTER), (x, y, BEFORE)):
        strange = {size: part for size, part in own.items() if not {size // 2, size, size * 2} & other.keys()}
        part = sum(strange.values())
        if part > max(SHARE, UNSEEN / n):
            sizes = ", ".join(f"{size // 2:,} to {size:,}" for size in sorted(strange))
            yield f"{part:.0%} of them {side} have {sizes} bytes, near which the other side has none"


def _shares(kinds: Kinds, at: int) -> tuple[dict[int, float], int]:
    """Return which part of the answers has each status (0) or size class (1), and how many answers there are."""
    found: Counter[int] = Counter()
    for kind, count in kinds.items():
        found[int(kind.split()[at])] += count
    n = found.total()
    return {one: count / n for one, count in found.items()}, n


def _unchecked(rounds: Sequence[Pair]) -> Iterator[str]:
    """Say that far fewer answers were checked after, by number and by share.

    What is checked is a sample that thins as it fills: of many more answers a smaller share is, and of fewer a smaller number.
    """
    (x, n), (y, m) = ((_checked(side), _together(side).total()) for side in zip(*((p.before, p.after) for p in rounds), strict=True))
    if y < FEW_CHECKED * x and y / m < FEW_CHECKED * x / n:
        yield f"the content of {x:,} of {n:,} of them was checked before, of {y:,} of {m:,} after"


def _checked(side: Iterable[Sample]) -> int:
    return sum(one.counters.get(CHECKED, 0) for one in side)


def not_compared(rounds: Sequence[Pair]) -> str | None:
    """Say what of the answers of both sides cannot be compared, as nothing is known of it; None where all can, or no round counts."""
    if not rounds:
        return None
    sides = {BEFORE: _together(pair.before for pair in rounds), AFTER: _together(pair.after for pair in rounds)}
    if missing := [side for side, kinds in sides.items() if not kinds]:
        return f"the answers are not compared: no right one is known {' and '.join(missing)}"
    unsized = [side for side, kinds in sides.items() if 0 in _shares(kinds, 1)[0]]
    return f"the sizes of answers are not compared: unknown {' and '.join(unsized)}" if unsized else None
