"""The samples of one scenario as arrays, decoded column by column when asked for. It computes no statistics.

Ten million samples fill a table of 0.7 GB; so nothing is decoded twice at a time, and no array is kept here.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tapecheck.load.plan import COLUMNS
from tapecheck.stats import Counts

BLOCKS = 20  # stretches of a scenario without rounds, as the batches whose samples are alike
Mask = NDArray[np.bool_]
Numbers = NDArray[np.float64] | NDArray[np.int64]
Codes = NDArray[np.integer]


def counted(samples: pa.Table, scenario: str) -> "Rows":
    """Select the samples of a scenario, without its warm-up; none when nothing was sent."""
    return measured(sent(samples, scenario).table)


def sent(samples: pa.Table, scenario: str) -> "Rows":
    """Select the samples of a scenario, its warm-up included; none when nothing was sent."""
    names, codes = _codes(samples.column("scenario"))
    chosen = codes == names.index(scenario) if scenario in names else np.zeros(len(codes), bool)
    first, last = _reach(chosen)
    together = np.count_nonzero(chosen) == last - first  # as a load run leaves them: no copy
    found = samples.slice(first, last - first) if together else samples.filter(pa.array(chosen))
    number = found.column("round").to_numpy()
    mixed = (number[1:] < number[:-1]).any()  # workers that were not equally fast leave the rounds of a burst so
    return Rows(found.sort_by("round") if mixed else found)


def measured(samples: pa.Table) -> "Rows":
    """Select the samples without the warm-up."""
    chosen = ~samples.column("warm_up").to_numpy()
    first, last = _reach(chosen)
    chosen = chosen[first:last]
    return Rows(samples.slice(first, last - first), None if chosen.all() else chosen)


def spans_ns(samples: pa.Table) -> list[tuple[int, int]]:
    """Return, for each round, and each part of a scenario that was extended, when its first request was to start and its last was done."""
    found = samples.group_by(["scenario", "round"]).aggregate([("intended_ns", "min"), ("done_ns", "max")])
    return list(zip(found.column("intended_ns_min").to_pylist(), found.column("done_ns_max").to_pylist(), strict=True))


def _reach(mask: Mask) -> tuple[int, int]:
    """Return where the first chosen row is, and the one after the last."""
    return (int(np.argmax(mask)), len(mask) - int(np.argmax(mask[::-1]))) if mask.any() else (0, 0)


def _codes(column: pa.ChunkedArray) -> tuple[list[str], Codes]:
    """Return the words of a column and, per row, the index into them; an absent one is the last word, which is empty."""
    column = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    chunks = column.unify_dictionaries().chunks
    words = chunks[0].dictionary.to_pylist() if chunks else []
    codes, at = np.empty(len(column), np.min_scalar_type(len(words))), 0
    for chunk in chunks:
        codes[at : at + len(chunk)] = chunk.indices.fill_null(len(words)).to_numpy(zero_copy_only=False)
        at += len(chunk)
    return [*map(str, words), ""], codes


def tally(codes: Codes, words: Sequence[str]) -> dict[str, int]:
    """Count how often each word occurs, those that do not left out."""
    parts = np.array_split(codes, len(codes) // 2**20 + 1)  # counting widens its argument eightfold
    counts = np.sum([np.bincount(part, minlength=len(words)) for part in parts], axis=0).tolist()
    return {word: count for word, count in zip(words, counts, strict=True) if count}


class Rows:
    """Some samples of a recording. Methods decode and return a new array each time they are called."""

    def __init__(self, table: pa.Table, keep: Mask | None = None) -> None:
        self.table = table
        self._keep = keep

    def __len__(self) -> int:
        return self.table.num_rows if self._keep is None else int(np.count_nonzero(self._keep))

    def numbers(self, name: str) -> Numbers:
        """Return a column of numbers; an absent one is NaN."""
        values: Numbers = self.table.column(name).to_numpy()
        return values if self._keep is None else values[self._keep]

    def codes(self, name: str) -> tuple[list[str], Codes]:
        """Return the words of a column and, per sample, the index into them; an absent word is empty."""
        names, codes = _codes(self.table.column(name))
        return names, codes if self._keep is None else codes[self._keep]

    def failed(self) -> Mask:
        """Tell for each sample whether it failed."""
        names, codes = self.codes("error")
        failed: Mask = np.array([name != "none" for name in names], dtype=bool)[codes]
        return failed

    def dimensions(self) -> list[str]:
        """Return the names of the parameters."""
        return [name for name in self.table.column_names if name not in COLUMNS]

    def batches(self, executor: str) -> Counts:
        """Return the sizes of the consecutive batches whose samples are alike: a burst's rounds, or equal stretches of another scenario."""
        number = self.numbers("round")
        if executor == "burst":
            edges = np.flatnonzero(np.diff(number)) + 1
        else:
            edges = np.unique(np.linspace(0, len(number), BLOCKS + 1).astype(np.int64))[1:-1]
        sizes: Counts = np.diff(np.r_[0, edges, len(number)])
        return sizes

    def response_ms(self) -> NDArray[np.float64]:
        """Completion minus intended start."""
        return self._since("intended_ns")

    def dispatch_lag_ms(self) -> NDArray[np.float64]:
        """Actual send minus intended start of each request that was sent and did not wait for a connection: the generator's own delay."""
        parts, at = [np.empty(0)], 0
        for batch in self.table.select(["sent_ns", "intended_ns", "waited"]).to_batches():  # part by part, as in `_since`
            sent_ns, intended_ns, waited = (column.to_numpy(zero_copy_only=False) for column in batch.columns)
            own = (sent_ns > 0) & ~waited
            if self._keep is not None:
                own &= self._keep[at : at + len(own)]
            parts.append(np.maximum(sent_ns[own] - intended_ns[own], 0) / 1e6)
            at += len(own)
        return np.concatenate(parts)

    def undelayed_ms(self) -> NDArray[np.float64]:
        """Completion minus intended start, less the request's own dispatch lag: what a generator that sends in time would have seen."""
        taken, at = np.empty(self.table.num_rows), 0
        for batch in self.table.select(["sent_ns", "intended_ns", "waited", "done_ns"]).to_batches():  # part by part, as in `_since`
            sent_ns, intended_ns, waited, done_ns = (column.to_numpy(zero_copy_only=False) for column in batch.columns)
            taken[at : at + len(done_ns)] = (done_ns - np.where(waited, intended_ns, np.maximum(sent_ns, intended_ns))) / 1e6
            at += len(done_ns)
        return taken if self._keep is None else taken[self._keep]

    def service_ms(self) -> NDArray[np.float64]:
        """Completion minus actual send; NaN where nothing was sent."""
        service_ms = self._since("sent_ns")
        service_ms[self.numbers("sent_ns") == 0] = np.nan
        return service_ms

    def _since(self, name: str) -> NDArray[np.float64]:
        taken, at = np.empty(self.table.num_rows), 0
        for batch in self.table.select([name, "done_ns"]).to_batches():  # part by part, so that no whole column is copied
            began, done = (column.to_numpy() for column in batch.columns)
            taken[at : at + len(done)] = (done - began) / 1e6
            at += len(done)
        return taken if self._keep is None else taken[self._keep]
