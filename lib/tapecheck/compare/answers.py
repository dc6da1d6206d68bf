"""What the requests of a load run got, held against each other: a build that answers with errors may well be faster.

Answers are compared by status and size, since nobody keeps a million bodies. The threshold is 10 % of the bytes an answer: a time stamp or
another request number are less than that, a page, a symbol or a field less are more. Noise of the mix of requests is taken out by
comparing rounds, as of any figure, and is ruled out where the means differ by more than 100 bytes, or by more than sizes that are spread
evenly over the classes seen would make them differ by chance: of answers of about 100 bytes, an error body is but some bytes less. Of an
error that replaces few answers the mean says nothing, so 1 % of all answers is enough where they have another status, or a size that is
less than half or more than twice that of any answer of the other side, and chance would not make so many.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tapecheck.compare.difference import Pair
from tapecheck.compare.plan import AFTER, BEFORE, Side
from tapecheck.compare.recording import SPECTRA, Kinds, Sample
from tapecheck.load import samples
from tapecheck.load.recording import Recording
from tapecheck.statistics import intervals, paired
from tapecheck.statistics.intervals import Counts

SHARE = 0.01  # of the answers
SURE = 4.0  # standard errors
FEW_CHECKED = 0.1  # of those checked before: where fewer are after, the two are not checked alike
UNSEEN = 5.0  # answers expected of which none is seen: by chance in 0.7 % of cases
LIMITS = paired.limits(0.1)  # of the mean size
LEAST_BYTES = 100  # between the means; below it the sizes of a side have to be steady

# ---- requests of a run ----

MEAN_BYTES = "answer_bytes"  # the clock that holds the mean size of right answers, head and body
CHECKED = "content_checked"
EXPONENTS = 64  # of a size class, which ends at a power of two
Times = NDArray[np.float64]
Key = tuple[str, Side]


@dataclass(frozen=True, slots=True, kw_only=True)
class SentRequests:
    """The requests of a scenario: response times, and the sizes of the consecutive batches whose samples are alike.

    Nothing bounds a spectrum from which requests without an answer are missing: it is not `whole`.
    """

    response_ms: Times
    batches: Counts
    whole: bool = True


def requests(recording: Recording, scenario: str) -> SentRequests:
    """Return the requests of a scenario without its warm-up."""
    own, tool = samples.counted(recording.samples, scenario), recording.context.tool
    batches = own.batches(recording.context.executors[scenario])
    return SentRequests(response_ms=own.response_ms(), batches=batches, whole=not (tool and tool.answers_only))


def read(recording: Recording, scenario: str) -> Sample:
    """Return the right answers of a scenario without its warm-up: by kind, their mean size where it is known, and how many were checked."""
    own = samples.counted(recording.samples, scenario)
    checked = {CHECKED: stats.content_checked} if (stats := recording.context.generator.get(scenario)) else {}
    if "bytes" not in own.table.column_names or not len(own):
        return Sample(counters=checked)
    right = ~own.failed()
    size, status = own.numbers("bytes")[right], own.numbers("status")[right]
    exponent = np.frexp(size.astype(np.float64))[1]
    found = np.bincount(status.astype(np.int64) * EXPONENTS + exponent)
    kinds = {
        f"{code // EXPONENTS} {2 ** (code % EXPONENTS) if size.any() else 0}": int(found[code]) for code in np.flatnonzero(found).tolist()
    }
    return Sample(answers=kinds, clocks={MEAN_BYTES: float(size.mean())} if size.any() else {}, counters=checked)


def spectra(found: Mapping[Key, Sequence[SentRequests]]) -> pa.Table:
    """Return the latency spectrum of each proof and side that has requests, those of all its runs together."""
    lines = [_spectrum(key, runs) for key, runs in found.items() if sum(len(run.response_ms) for run in runs)]
    return pa.concat_tables([SPECTRA.empty_table(), *lines])


def _spectrum(key: Key, runs: Sequence[SentRequests]) -> pa.Table:
    times = np.concatenate([run.response_ms for run in runs])
    each = math.ceil(samples.BLOCKS / len(runs))  # of several runs, equal stretches are batches
    stretches = [np.diff(np.linspace(0, len(run.response_ms), each + 1).astype(np.int64)) for run in runs]
    line = {**intervals.spectrum(times, runs[0].batches if len(runs) == 1 else np.concatenate(stretches))}
    n = len(line["p"])
    if not all(run.whole for run in runs):
        line["low"] = line["high"] = np.full(n, np.nan)
    values = {f"{name}_ms": pa.array(line[name], from_pandas=True) for name in ("value", "low", "high")}
    return pa.table({"proof": [key[0]] * n, "side": [key[1]] * n, "p": line["p"], **values, "n": [len(times)] * n}, SPECTRA)


# ---- both sides ----


def differ(rounds: Sequence[Pair]) -> str | None:
    """Say how the answers of both sides differ, None where they do not or nobody knows, see `not_compared`."""
    before, after = _kinds(rounds, BEFORE), _kinds(rounds, AFTER)
    if not before or not after:
        return None
    return next(chain(_statuses(before, after), _sizes(rounds), _strange(before, after), _unchecked(rounds)), None)


def not_compared(rounds: Sequence[Pair]) -> str | None:
    """Say what of the answers of both sides cannot be compared, as nothing is known of it; None where all can, or no round counts."""
    if not rounds:
        return None
    sides = {side: _kinds(rounds, side) for side in (BEFORE, AFTER)}
    if missing := [side for side, kinds in sides.items() if not kinds]:
        return f"the answers are not compared: no right one is known {' and '.join(missing)}"
    unsized = [side for side, kinds in sides.items() if 0 in _shares(kinds, 1)]
    return f"the sizes of answers are not compared: unknown {' and '.join(unsized)}" if unsized else None


def _kinds(rounds: Sequence[Pair], side: Side) -> Counter[str]:
    return sum((Counter(getattr(pair, side).answers) for pair in rounds), Counter[str]())


def _shares(kinds: Kinds, at: int) -> dict[int, float]:
    """Return which part of the answers has each status (0) or size class (1)."""
    found: Counter[int] = Counter()
    for kind, count in kinds.items():
        found[int(kind.split()[at])] += count
    return {one: count / found.total() for one, count in found.items()}


def _statuses(before: Counter[str], after: Counter[str]) -> Iterator[str]:
    x, y = _shares(before, 0), _shares(after, 0)
    for status in sorted(x.keys() | y.keys()):
        p, q = x.get(status, 0.0), y.get(status, 0.0)
        error = math.sqrt(p * (1 - p) / before.total() + q * (1 - q) / after.total())
        if abs(q - p) > max(SHARE, SURE * error):
            yield f"status {status} on {p:.0%} of them before, on {q:.0%} after"


def _sizes(rounds: Sequence[Pair]) -> Iterator[str]:
    known = [(p.before.clocks.get(MEAN_BYTES, 0.0), p.after.clocks.get(MEAN_BYTES, 0.0)) for p in rounds]
    known = [(x, y) for x, y in known if x and y]
    if not known:
        return
    x, y = zip(*known, strict=True)
    measured, means = paired.ratio(paired.logs(x, y)), (paired.mean(x), paired.mean(y))
    chance = SURE * math.hypot(*(_relative_error(_kinds(rounds, side)) for side in (BEFORE, AFTER)))
    is_sure = measured.low is None or measured.high is None or not measured.low <= 1 <= measured.high
    is_sure = is_sure and (abs(means[1] - means[0]) > LEAST_BYTES or abs(math.log(measured.value)) > chance)
    if is_sure and not LIMITS[0] <= measured.value <= LIMITS[1]:
        yield f"{means[0]:,.0f} bytes an answer before, {means[1]:,.0f} after"


def _relative_error(kinds: Counter[str]) -> float:
    """Return the standard error of the mean size over the mean, of sizes spread evenly from the smallest class to the largest."""
    sizes = _shares(kinds, 1)
    reach = 2 * max(sizes) / max(min(sizes), 1)
    return (reach - 1) / (reach + 1) / math.sqrt(3 * kinds.total())


def _strange(before: Counter[str], after: Counter[str]) -> Iterator[str]:
    x, y = _shares(before, 1), _shares(after, 1)
    if 0 in x or 0 in y:
        return
    for own, other, n, side in ((y, x, before.total(), AFTER), (x, y, after.total(), BEFORE)):
        strange = {size: part for size, part in own.items() if not {size // 2, size, size * 2} & other.keys()}
        part = sum(strange.values())
        if part > max(SHARE, UNSEEN / n):
            sizes = ", ".join(f"{size // 2:,} to {size:,}" for size in sorted(strange))
            yield f"{part:.0%} of them {side} have {sizes} bytes, near which the other side has none"


def _unchecked(rounds: Sequence[Pair]) -> Iterator[str]:
    """Say that far fewer answers were checked after, by number and by share.

    What is checked is a sample that thins as it fills: of many more answers a smaller share is, and of fewer a smaller number.
    """
    (x, n), (y, m) = (
        (sum(getattr(pair, side).counters.get(CHECKED, 0) for pair in rounds), _kinds(rounds, side).total()) for side in (BEFORE, AFTER)
    )
    if y < FEW_CHECKED * x and y / m < FEW_CHECKED * x / n:
        yield f"the content of {x:,} of {n:,} of them was checked before, of {y:,} of {m:,} after"
