"""Samples as an Arrow table, the form they are stored in, and selections of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tapecheck.load.engine.recorder import SAMPLE, ErrorKind, Samples
from tapecheck.load.engine.work import Value
from tapecheck.load.plan import COLUMNS
from tapecheck.statistics.intervals import Counts

Values = Mapping[str, Value]

FLAGS = ("connection_reused", "warm_up", "waited", "retried")
UNITS = {
    "intended_ns": "ns, monotonic clock: when the request was to start",
    "sent_ns": "ns, monotonic clock: first handed to the socket, or its fresh connection begun; 0 if it never was sent",
    "first_byte_ns": "ns, monotonic clock: first byte of the answer; 0 if none came",
    "done_ns": "ns, monotonic clock: end of the answer, or when the request failed",
    "server_ms": "ms: what the target says in Server-Timing; null if nothing",
    "db_ms": "ms: the database's part of Server-Timing; null if nothing",
    "bytes": "bytes: head and body of the answer as received, before decompression and inside TLS",
    "request": "index of the combination of parameters",
    "connection": "number of the connection in its scenario; 0 if it was never sent",
    "round": "round of a burst, from 0; 0 throughout its warm-up",
    "status": "HTTP status; 0 if none came",
    "error": "why the request failed; none if it did not",
    "connection_reused": "false for the first request on its connection",
    "warm_up": "true: not part of any result",
    "waited": "true: no connection was free when it was to start",
    "retried": "true: sent again, since the target had closed a reused connection without a byte of an answer",
    "scenario": "name of the scenario",
}


def table_of(samples: Mapping[str, Samples], values: Mapping[str, Sequence[Values]]) -> pa.Table:
    """Put all scenarios' samples into one table: a row for each request.

    Its columns are `scenario`, each parameter of any scenario (null where a scenario has no such parameter), of which the field
    `request` counts the `values`, then the fields of `SAMPLE`. The unit of each column is in its field's metadata, key `unit`.
    """
    schema = _schema(values)
    tables = [pa.table([_column(name, field, rows, values[name]) for field in schema], schema=schema) for name, rows in samples.items()]
    return pa.concat_tables(tables).unify_dictionaries() if tables else schema.empty_table()


def _schema(values_of: Mapping[str, Sequence[Values]]) -> pa.Schema:
    every = [values for requests in values_of.values() for values in requests]
    kinds = {"scenario": pa.dictionary(pa.int32(), pa.string())}
    for name in dict.fromkeys(name for values in every for name in values):
        found = {type(one[name]) for one in every if name in one}  # numbers and text together are text
        kinds[name] = pa.dictionary(pa.int32(), pa.string() if str in found else pa.float64() if float in found else pa.int64())
    special = {"error": pa.dictionary(pa.int8(), pa.string()), **dict.fromkeys(FLAGS, pa.bool_())}
    kinds |= {name: special.get(name) or pa.from_numpy_dtype(SAMPLE[name]) for name in SAMPLE.names or ()}
    return pa.schema([pa.field(name, kind, metadata={"unit": UNITS.get(name, "value of a parameter")}) for name, kind in kinds.items()])


def _column(scenario: str, field: pa.Field, samples: Samples, requests: Sequence[Values]) -> pa.Array:
    """Return a column of a scenario; a parameter's value of every sample is looked up by one array operation."""
    if field.name == "scenario":
        return pa.DictionaryArray.from_arrays(np.zeros(len(samples), np.int32), pa.array([scenario]))
    if field.name in (SAMPLE.names or ()):
        column = np.ascontiguousarray(samples[field.name])
        if field.name == "error":
            return pa.DictionaryArray.from_arrays(column.astype(np.int8), pa.array([kind.name for kind in ErrorKind]))
        return pa.array(column.astype(bool)) if field.name in FLAGS else pa.array(column, from_pandas=True)  # NaN, unknown, is null
    if field.name not in requests[0]:
        return pa.nulls(len(samples), field.type)
    convert = {pa.string(): str, pa.float64(): float, pa.int64(): int}[field.type.value_type]
    of_request = [convert(one[field.name]) for one in requests]
    position = {word: i for i, word in enumerate(dict.fromkeys(of_request))}
    code = np.array([position[word] for word in of_request], np.int32)
    return pa.DictionaryArray.from_arrays(code[samples["request"]], pa.array(list(position), field.type.value_type))


SCHEMA = _schema({})  # of any recording: without the parameters


# ---- rows ----

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

    def connections(self) -> int:
        """Return how many connections were opened for them."""
        return int(np.count_nonzero(~self.numbers("connection_reused").astype(bool) & (self.numbers("connection") > 0)))

    def batches(self, executor: str) -> Counts:
        """Return the sizes of the consecutive batches whose samples are alike: a burst's rounds, or equal stretches of another scenario."""
        number = self.numbers("round")
        stretches = np.unique(np.linspace(0, len(number), BLOCKS + 1).astype(np.int64))[1:-1]
        edges = np.flatnonzero(np.diff(number)) + 1 if executor == "burst" else stretches
        sizes: Counts = np.diff(np.r_[0, edges, len(number)])
        return sizes

    def response_ms(self) -> NDArray[np.float64]:
        """Completion minus intended start."""
        return self._ms(lambda intended_ns, done_ns: done_ns - intended_ns, "intended_ns", "done_ns")

    def service_ms(self) -> NDArray[np.float64]:
        """Completion minus actual send; NaN where nothing was sent."""
        return self._ms(lambda sent_ns, done_ns: np.where(sent_ns > 0, done_ns - sent_ns, np.nan), "sent_ns", "done_ns")

    def dispatch_lag_ms(self) -> NDArray[np.float64]:
        """Actual send minus intended start, the generator's own delay; NaN of a request that was not sent, or waited for a connection."""

        def late_ns(sent_ns: Numbers, intended_ns: Numbers, waited: Mask) -> NDArray[np.float64]:
            return np.where((sent_ns > 0) & ~waited, np.maximum(sent_ns - intended_ns, 0), np.nan)

        return self._ms(late_ns, "sent_ns", "intended_ns", "waited")

    def undelayed_ms(self) -> NDArray[np.float64]:
        """Completion minus intended start, less the request's own dispatch lag: what a generator that sends in time would have seen."""

        def taken_ns(sent_ns: Numbers, intended_ns: Numbers, waited: Mask, done_ns: Numbers) -> Numbers:
            return done_ns - np.where(waited, intended_ns, np.maximum(sent_ns, intended_ns))

        return self._ms(taken_ns, "sent_ns", "intended_ns", "waited", "done_ns")

    def _ms(self, compute_ns: Callable[..., NDArray[Any]], *names: str) -> NDArray[np.float64]:
        """Compute a time of each sample from its columns, part by part, so that no whole column is copied."""
        found, at = np.empty(self.table.num_rows), 0
        for batch in self.table.select(list(names)).to_batches():
            found[at : at + len(batch)] = compute_ns(*(column.to_numpy(zero_copy_only=False) for column in batch.columns))
            at += len(batch)
        found /= 1e6
        return found if self._keep is None else found[self._keep]
