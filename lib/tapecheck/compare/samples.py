"""What one run of one variant gave, in figures, and those of a proof put into pairs. Pure: no target, no files, no clock."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tapecheck.compare.plan import AFTER, BEFORE, Side
from tapecheck.load import samples
from tapecheck.load.recording import Recording
from tapecheck.statistics import intervals
from tapecheck.statistics.intervals import Counts


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
    whole = {key: np.concatenate(rounds) for key, rounds in response_ms.items()}
    return together(_one(*key, whole[key], _stretches(rounds)) for key, rounds in response_ms.items() if len(whole[key]))


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
            yield _one(proof, side, sent.response_ms(), batches, is_bounded=not (tool and tool.answers_only))


def _one(proof: str, side: Side, response_ms: Times, batches: Counts, *, is_bounded: bool = True) -> pa.Table:
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
