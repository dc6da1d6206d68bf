"""Puts the runs of a proof into pairs and compares what they counted; reads answers and spectra of a load run. Pure."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tapecheck.compare.plan import AFTER, BEFORE, Side
from tapecheck.compare.recording import SPECTRA, Sample
from tapecheck.load import samples
from tapecheck.load.recording import Recording
from tapecheck.statistics import intervals
from tapecheck.statistics.intervals import Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One round."""

    before: Sample
    after: Sample


def pairs(samples: Sequence[Sample]) -> list[Pair]:
    """Return the rounds of one proof of which both runs count, in their order."""
    by_side = {side: {s.round: s for s in _counting(samples, side)} for side in (BEFORE, AFTER)}
    both = sorted(by_side[BEFORE].keys() & by_side[AFTER].keys())
    return [Pair(before=by_side[BEFORE][number], after=by_side[AFTER][number]) for number in both]


def equals(samples: Sequence[Sample]) -> list[Pair]:
    """Return each run with the next one of the same variant in the same session, as long as no run is in two pairs of a variant.

    Rounds are interleaved (ABBA), so that these mostly followed each other without anything between.
    """
    found = []
    for side in (BEFORE, AFTER):
        own = sorted(_counting(samples, side), key=lambda s: s.began_ns)
        first = 0 if side == AFTER else 1  # A BB AA BB A: the first of the As has no neighbour
        found += [Pair(before=a, after=b) for a, b in zip(own[first::2], own[first + 1 :: 2], strict=False)]
    return found


def _counting(samples: Sequence[Sample], side: Side) -> list[Sample]:
    return [s for s in samples if s.side == side and s.round and not s.problem]


def problems(samples: Sequence[Sample]) -> list[str]:
    """Return why runs do not count, each reason once."""
    return list(dict.fromkeys(s.problem for s in samples if s.round and s.problem))


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
    return [_counter(name, *([run.counters[name] for run in side] for side in (runs[::2], runs[1::2]))) for name in names]


def _counter(name: str, x: Sequence[int], y: Sequence[int]) -> CounterChange:
    return CounterChange(
        name=name,
        before=_from_to(x),
        after=_from_to(y),
        before_sum=sum(x),
        after_sum=sum(y),
        ratio=sum(y) / sum(x) if sum(x) else None,
        equal=x == y,
        steady=len(set(x)) == len(set(y)) == 1,
    )


def _from_to(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"


def checksums_equal(rounds: Sequence[Pair]) -> bool | None:
    """Tell whether every run left the same behind; None where no run has a checksum."""
    found = {run.checksum for pair in rounds for run in (pair.before, pair.after)}
    return None if found <= {""} else len(found) == 1


# ---- requests of a load run ----

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


def answers(recording: Recording, scenario: str) -> Sample:
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
    line = {**intervals.spectrum(times, runs[0].batches if len(runs) == 1 else _stretches([len(run.response_ms) for run in runs]))}
    n = len(line["p"])
    if not all(run.whole for run in runs):
        line["low"] = line["high"] = np.full(n, np.nan)
    values = {f"{name}_ms": pa.array(line[name], from_pandas=True) for name in ("value", "low", "high")}
    return pa.table({"proof": [key[0]] * n, "side": [key[1]] * n, "p": line["p"], **values, "n": [len(times)] * n}, SPECTRA)


def _stretches(sizes: Iterable[int]) -> Counts:
    """Return the sizes of equal stretches of each run."""
    sizes = list(sizes)
    each = math.ceil(samples.BLOCKS / len(sizes))
    return np.concatenate([np.diff(np.linspace(0, n, each + 1).astype(np.int64)) for n in sizes])
