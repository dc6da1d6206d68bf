"""Samples as an Arrow table, the form they are stored in. It computes nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tapecheck.load.samples import SAMPLE, ErrorKind, Measured, Samples
from tapecheck.load.work import PreparedRequest, Value

Prepared = Mapping[str, Sequence[PreparedRequest]]
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


def to_table(measured: Mapping[str, Measured], prepared: Prepared) -> pa.Table:
    """Put all scenarios' samples into one table.

    Args:
        measured: what a worker saw, for each scenario.
        prepared: the requests of each scenario, whose `values` the samples used.

    Returns:
        A row for each request: `scenario`, a column for each parameter of any scenario (null where a scenario has
        no such parameter), then the fields of `SAMPLE`. The unit of each column is in its field's metadata, key `unit`.
    """
    values = {name: [request.values for request in prepared[name]] for name in measured}
    return table_of({name: one.samples for name, one in measured.items()}, values)


def table_of(samples: Mapping[str, Samples], values: Mapping[str, Sequence[Values]]) -> pa.Table:
    """Do the same with samples alone, whose field `request` is an index into the scenario's `values`."""
    schema = _schema(values)
    tables = [_one(name, rows, values[name], schema) for name, rows in samples.items()]
    return pa.concat_tables(tables).unify_dictionaries() if tables else schema.empty_table()


def columns(table: pa.Table) -> dict[str, NDArray[Any]]:
    """Return a table's columns as arrays: text as objects, an absent number as NaN."""
    return {name: _array(table.column(name).combine_chunks()) for name in table.column_names}


def _array(column: pa.Array) -> NDArray[Any]:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _schema(values_of: Mapping[str, Sequence[Values]]) -> pa.Schema:
    fields = [_field("scenario", pa.dictionary(pa.int32(), pa.string()))]
    every = [values for requests in values_of.values() for values in requests]
    for name in dict.fromkeys(name for values in every for name in values):
        values = [one[name] for one in every if name in one]
        fields.append(_field(name, pa.dictionary(pa.int32(), _type_of(values))))
    special = {"error": pa.dictionary(pa.int8(), pa.string()), **dict.fromkeys(FLAGS, pa.bool_())}
    fields += [_field(name, special.get(name) or pa.from_numpy_dtype(SAMPLE[name])) for name in SAMPLE.names or ()]
    return pa.schema(fields)


def _field(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, metadata={"unit": UNITS.get(name, "value of a parameter")})


def _type_of(values: Sequence[Value]) -> pa.DataType:
    """Return one type for all values of a dimension; numbers and text together are text."""
    if any(isinstance(value, str) for value in values):
        return pa.string()
    return pa.float64() if any(isinstance(value, float) for value in values) else pa.int64()


def _one(name: str, samples: Samples, requests: Sequence[Values], schema: pa.Schema) -> pa.Table:
    arrays = []
    for field in schema:
        if field.name == "scenario":
            indices, words = np.zeros(len(samples), np.int32), [name]
            arrays.append(pa.DictionaryArray.from_arrays(indices, pa.array(words)))
        elif field.name in (SAMPLE.names or ()):
            arrays.append(_column(field.name, samples))
        else:
            arrays.append(_dimension(field, samples["request"], requests))
    return pa.table(arrays, schema=schema)


def _column(name: str, samples: Samples) -> pa.Array:
    values = np.ascontiguousarray(samples[name])
    if name == "error":
        return pa.DictionaryArray.from_arrays(values.astype(np.int8), pa.array([kind.name for kind in ErrorKind]))
    if name in FLAGS:
        return pa.array(values.astype(bool))
    return pa.array(values, from_pandas=True)  # NaN, the target said nothing, is null


def _dimension(field: pa.Field, request: NDArray[np.uint32], requests: Sequence[Values]) -> pa.Array:
    """Encode a parameter's value of every sample: the word of its request, looked up by one array operation."""
    if field.name not in requests[0]:
        return pa.nulls(len(request), field.type)
    convert = str if field.type.value_type == pa.string() else float if field.type.value_type == pa.float64() else int
    of_request = [convert(one[field.name]) for one in requests]
    words = list(dict.fromkeys(of_request))
    position = {word: i for i, word in enumerate(words)}
    code = np.array([position[word] for word in of_request], np.int32)
    return pa.DictionaryArray.from_arrays(code[request], pa.array(words, field.type.value_type))


SCHEMA = _schema({})  # of any recording: without the parameters
