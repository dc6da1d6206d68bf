"""What one run of one variant gave, in figures, and those of a proof put into pairs. Pure: no target, no files, no clock."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tapecheck.compare.plan import AFTER, BEFORE, Side
from tapecheck.load import samples
from tapecheck.load.recording import Recording
from tapecheck.statistics import intervals, paired
from tapecheck.statistics.intervals import Counts

Kinds = Mapping[str, int]
"""How many right answers have which status and size class: `200 4096`, of a size from 2048 to 4095 bytes; 0 where no size is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The figures of one run: `clocks` in the unit of their names, `counters` exact, `answers` of a load run by status and size.

    `problem` says why the run does not count, where it does not; `late` that the load generator lagged, which is in its times.
    """

    clocks: Mapping[str, float] = field(default_factory=dict)
    counters: Mapping[str, int] = field(default_factory=dict)
    checksum: str = ""
    problem: str = ""
    late: str = ""
    answers: Kinds = field(default_factory=dict)

    def values(self) -> dict[str, Any]:
        """Return the figures by their names, whatever else this holds."""
        return {each.name: getattr(self, each.name) for each in fields(Figures)}

    def and_answers(self, other: "Figures") -> dict[str, Any]:
        """Return the figures by their names, with those of the answers added."""
        both = {"clocks": {**self.clocks, **other.clocks}, "counters": {**self.counters, **other.counters}, "answers": other.answers}
        return self.values() | both


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample(Figures):
    """One run of one variant; times on the monotonic clock, `round` is 0 for a warm-up."""

    proof: str
    side: Side
    round: int
    began_ns: int
    ended_ns: int

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


# ---- spectra ----

Times = NDArray[np.float64]
SCHEMA = pa.schema(
    [
        pa.field("proof", pa.string()),
        pa.field("side", pa.string()),
        pa.field("p", pa.float64(), metadata={"unit": "part of the requests that were at least this fast"}),
        *(pa.field(f"{name}_ms", pa.float64(), metadata={"unit": "ms; null: n gives no bound"}) for name in ("value", "low", "high")),
        pa.field("n", pa.int64(), metadata={"unit": "requests"}),
    ]
)


def of_rounds(response_ms: Mapping[tuple[str, Side], Sequence[Times]]) -> pa.Table:
    """Return the spectra of a session, of each proof and side from the response times (ms) of its rounds."""
    return together(
        _spectrum(*key, np.concatenate(rounds), _stretches(rounds)) for key, rounds in response_ms.items() if sum(map(len, rounds))
    )


def _stretches(rounds: Sequence[Times]) -> Counts:
    """Return the sizes of equal stretches of each round."""
    each = math.ceil(samples.BLOCKS / len(rounds))
    return np.concatenate([np.diff(np.linspace(0, len(one), each + 1).astype(np.int64)) for one in rounds])


def of_run(side: Side, found: Recording, scenarios: Mapping[str, str]) -> Iterator[pa.Table]:
    """Yield the spectrum of each scenario of a load run that has requests.

    Args:
        scenarios: by the name of the proof, what the scenario is called in this run.
    """
    tool = found.context.tool
    for proof, scenario in scenarios.items():
        sent = samples.counted(found.samples, scenario)
        if len(sent):
            batches = sent.batches(found.context.executors[scenario])
            yield _spectrum(proof, side, sent.response_ms(), batches, is_bounded=not (tool and tool.answers_only))


def _spectrum(proof: str, side: Side, response_ms: Times, batches: Counts, *, is_bounded: bool = True) -> pa.Table:
    """Return one line; nothing bounds one from which requests without an answer are missing."""
    line = {**intervals.spectrum(response_ms, batches)}
    n = len(line["p"])
    if not is_bounded:
        line["low"] = line["high"] = np.full(n, np.nan)
    values = {f"{name}_ms": pa.array(line[name], from_pandas=True) for name in ("value", "low", "high")}
    return pa.table(
        {"proof": pa.repeat(proof, n), "side": pa.repeat(side, n), "p": line["p"], **values, "n": pa.repeat(len(response_ms), n)}, SCHEMA
    )


def together(tables: Iterable[pa.Table]) -> pa.Table:
    """Return one table of some."""
    return pa.concat_tables([SCHEMA.empty_table(), *tables])


# ---- counters ----


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
    runs = [run for pair in rounds for run in (pair.before, pair.after)]
    names = [name for name in (runs[0].counters if runs else ()) if all(name in run.counters for run in runs)]
    found = []
    for name in names:
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


# ---- answers ----

# A build that answers with errors may well be faster, so both sides of a load proof must give the same answers. They are compared by
# status and size, since nobody keeps a million bodies. The threshold is 10 % of the bytes an answer: a time stamp or another request
# number are less than that, a page, a symbol or a field less are more. Noise of the mix of requests is taken out by comparing rounds, as
# of any figure, and is ruled out where the means differ by more than 100 bytes, or by more than sizes that are spread evenly over the
# classes seen would make them differ by chance: of answers of about 100 bytes, an error body is but some bytes less. Of an error that
# replaces few answers the mean says nothing, so 1 % of all answers is enough where they have another status, or a size that is less than
# half or more than twice that of any answer of the other side, and chance would not make so many.

MEAN_BYTES = "answer_bytes"  # the clock that holds the mean size of right answers, head and body
CHECKED = "content_checked"
SHARE = 0.01  # of the answers
SURE = 4.0  # standard errors
FEW_CHECKED = 0.1  # of those checked before: where fewer are after, the two are not checked alike
UNSEEN = 5.0  # answers expected of which none is seen: by chance in 0.7 % of cases
LIMITS = paired.limits(0.1)  # of the mean size
LEAST_BYTES = 100  # between the means; below it the sizes of a side have to be steady
_EXPONENTS = 64


def answers(recording: Recording, scenario: str) -> Figures:
    """Return the right answers of a scenario without its warm-up: by kind, their mean size where it is known, and how many were checked."""
    own = samples.counted(recording.samples, scenario)
    checked = {CHECKED: stats.content_checked} if (stats := recording.context.generator.get(scenario)) else {}
    if "bytes" not in own.table.column_names or not len(own):
        return Figures(counters=checked)
    right = ~own.failed()
    size, status = own.numbers("bytes")[right], own.numbers("status")[right]
    exponent = np.frexp(size.astype(np.float64))[1]
    found = np.bincount(status.astype(np.int64) * _EXPONENTS + exponent)
    kinds = {
        f"{code // _EXPONENTS} {2 ** (code % _EXPONENTS) if size.any() else 0}": int(found[code]) for code in np.flatnonzero(found).tolist()
    }
    return Figures(answers=kinds, clocks={MEAN_BYTES: float(size.mean())} if size.any() else {}, counters=checked)


def answers_differ(rounds: Sequence[Pair]) -> str | None:
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
    unsized = [side for side, kinds in sides.items() if 0 in _shares(kinds, 1)[0]]
    return f"the sizes of answers are not compared: unknown {' and '.join(unsized)}" if unsized else None


def _kinds(rounds: Sequence[Pair], side: Side) -> Counter[str]:
    return sum((Counter(getattr(pair, side).answers) for pair in rounds), Counter[str]())


def _shares(kinds: Kinds, at: int) -> tuple[dict[int, float], int]:
    """Return which part of the answers has each status (0) or size class (1), and how many answers there are."""
    found: Counter[int] = Counter()
    for kind, count in kinds.items():
        found[int(kind.split()[at])] += count
    n = found.total()
    return {one: count / n for one, count in found.items()}, n


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
    chance = SURE * math.hypot(*(_relative_error(_kinds(rounds, side)) for side in (BEFORE, AFTER)))
    is_sure = is_sure and (abs(means[1] - means[0]) > LEAST_BYTES or abs(math.log(measured.value)) > chance)
    if is_sure and not LIMITS[0] <= measured.value <= LIMITS[1]:
        yield f"{means[0]:,.0f} bytes an answer before, {means[1]:,.0f} after"


def _relative_error(kinds: Kinds) -> float:
    """Return the standard error of the mean size over the mean, of sizes spread evenly from the smallest class to the largest."""
    sizes, n = _shares(kinds, 1)
    reach = 2 * max(sizes) / max(min(sizes), 1)
    return (reach - 1) / (reach + 1) / math.sqrt(3 * n)


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


def _unchecked(rounds: Sequence[Pair]) -> Iterator[str]:
    """Say that far fewer answers were checked after, by number and by share.

    What is checked is a sample that thins as it fills: of many more answers a smaller share is, and of fewer a smaller number.
    """
    (x, n), (y, m) = (
        (sum(getattr(pair, side).counters.get(CHECKED, 0) for pair in rounds), _kinds(rounds, side).total()) for side in (BEFORE, AFTER)
    )
    if y < FEW_CHECKED * x and y / m < FEW_CHECKED * x / n:
        yield f"the content of {x:,} of {n:,} of them was checked before, of {y:,} of {m:,} after"
