"""What every recording is: raw tables and their context, how it is read, and which measurements ran beside it. It judges nothing."""

import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from tapecheck import config, lockfiles
from tapecheck.errors import ConfigError, Problem, first_line
from tapecheck.runs import folders
from tapecheck.runs.results import Environment, Finding, Neighbour, TargetInfo, environment
from tapecheck.target.file import Target
from tapecheck.verdict import counted

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
CONTEXT_KEY = b"tapecheck"  # in the metadata of a recording's first table
MOST_ROWS = 20_000_000  # of a table that is read: about 2 GB
MOST_OBJECTS = 1_000_000  # of a table whose rows become Python objects
MOST_COLUMNS = 500  # a load run has one for each parameter of its requests
MOST_BYTES = 4 * 2**30  # of a table, unpacked
MOST_NAMED = 2  # of the measurements beside one; result.json has all
STOPPED = "the sandbox was stopped meanwhile, so that failures and times say nothing of it; measure again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Which run a recording is of: when (UTC), against what, from where, and beside which other measurements (None: unknown).

    Each validation adds what its tables do not say. `audited_ns` is when the target's data was audited, on the monotonic clock.
    """

    run_id: str
    started_at: datetime
    target: TargetInfo
    environment: Environment
    beside: tuple[Neighbour, ...] | None = None
    audited_ns: tuple[int, int] | None = None

    @classmethod
    def of(cls, target: Target, **more: Any) -> Self:
        """Return the context of a run against a target that begins now."""
        now, info = datetime.now(UTC), TargetInfo(name=target.name, kind=target.kind, base_url=target.base_url or "")
        return cls(run_id=folders.new_id(now), started_at=now, target=info, environment=environment(), **more)

    @property
    def measured_by(self) -> str:
        """Return the name of the other tool that measured; empty when it was this workbook."""
        return ""


ContextT = TypeVar("ContextT", bound=Context)


@dataclass(frozen=True, kw_only=True)
class Recording(Generic[ContextT]):
    """What was measured and nothing that a plan decides: raw tables by name and their context; `source` is where it was read from."""

    context: ContextT
    tables: Mapping[str, pa.Table]
    source: str | None = None

    def stored(self) -> dict[str, pa.Table]:
        """Return the tables to store; the first carries the context in its metadata."""
        (name, first), *others = self.tables.items()
        metadata = {**(first.schema.metadata or {}), CONTEXT_KEY: TypeAdapter(type(self.context)).dump_json(self.context)}
        return {name: first.replace_schema_metadata(metadata), **dict(others)}


RecordingT = TypeVar("RecordingT", bound=Recording[Any])


def table_of(rows: Iterable[Iterable[Any]], schema: pa.Schema) -> pa.Table:
    """Return rows, each with a value for every column in order, as a table."""
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema)


# ---- reading ----


def unreadable(error: Exception, source: str, first: str, validation: str) -> ConfigError:
    """Return the error that `source` is no complete run of a validation, whose first table is named, and why it cannot be read."""
    why = f"{type(error).__name__}: {first_line(error, 300)}"
    if isinstance(error, ValidationError):
        lacking = error.errors(include_url=False)[0]
        why = f"the context of another version, such as {config.dotted(lacking['loc'])}: {lacking['msg']}"[:300]
    got = f"{first} that cannot be read ({why})"
    return ConfigError([Problem(file=source, key="run", got=got, allowed=f"a complete {validation} run")])


def read(folder: Path, kinds: Mapping[str, "Table"], context: type[ContextT]) -> tuple[ContextT, dict[str, pa.Table]]:
    """Read context and tables of a recording; what goes wrong is for `unreadable`."""
    tables = {name: table(folder / f"{name}.parquet", kind) for name, kind in kinds.items()}
    found = TypeAdapter(context).validate_python(json.loads(tables[next(iter(kinds))].schema.metadata[CONTEXT_KEY]))
    if not NAME.fullmatch(found.run_id):  # it names folders
        raise ValueError("its run id is no name of a folder")
    pa.default_memory_pool().release_unused()  # what decoding took beside the tables
    return found, tables


@dataclass(frozen=True, slots=True)
class Table:
    """What a table of a recording has: its columns, which of them an older recording may lack, which may be null, and its most rows.

    `may_be_missing`: an older recording may lack it as a whole, and is read as one without rows.
    """

    schema: pa.Schema
    may_lack: Sequence[str] = ()
    may_be_null: Sequence[str] = ()
    most: int = MOST_ROWS
    may_be_missing: bool = False


def table(file: Path, kind: Table) -> pa.Table:
    """Read a table of a recording: its own columns, and what others it has. What it is, is known before a row is read.

    Raises:
        ValueError: it has too many rows, lacks a column, or has one of another type, or nulls where there may be none.
    """
    schema, may_be_null = kind.schema, kind.may_be_null
    if kind.may_be_missing and not file.exists():
        return schema.empty_table()
    with pq.ParquetFile(file, pre_buffer=False) as stored:  # reading ahead would hold the whole file beside the table
        found, rows = stored.schema_arrow, stored.metadata.num_rows
        size = sum(stored.metadata.row_group(i).total_byte_size for i in range(stored.num_row_groups))
        limits = (("rows", rows, kind.most), ("columns", len(found), MOST_COLUMNS), ("bytes, unpacked", size, MOST_BYTES))
        for what, has, most in limits:
            if has > most:
                raise ValueError(f"{file.name} has {has:,} {what}; at most {most:,} are read")
        wrong = [f"no column {name}" for name in schema.names if name not in found.names and name not in kind.may_lack]
        wrong += [f"{name} twice" for name in dict.fromkeys(found.names) if found.names.count(name) > 1]
        wrong += [f"{one.name} is {one.type}" for one in found if not _fits(one, schema, may_be_null)]
        if wrong:
            raise ValueError(f"{file.name}: {', '.join(wrong)}")
        texts = [one.name for one in found if pa.types.is_string(one.type) or pa.types.is_large_string(one.type)]
    with pq.ParquetFile(file, pre_buffer=False, read_dictionary=texts) as stored:  # a long text that is repeated stays one
        whole = stored.read()
    for i, name in enumerate(whole.column_names):
        column = whole.column(i)
        if name not in schema.names:
            continue
        if column.null_count and name not in may_be_null:
            raise ValueError(f"{file.name}: {name} is null in {column.null_count:,} of {rows:,} rows")
        wanted = schema.field(name).type
        if pa.types.is_dictionary(column.type) and not pa.types.is_dictionary(wanted):
            longest = max((pc.max(pc.binary_length(chunk.dictionary)).as_py() or 0 for chunk in column.chunks), default=0)
            if (size := longest * rows) > MOST_BYTES:
                raise ValueError(f"{file.name}: texts of {name} take {size:,} bytes; at most {MOST_BYTES:,} are read")
        if column.type != wanted and not pa.types.is_dictionary(wanted) and not pa.types.is_map(wanted):
            whole = whole.set_column(i, schema.field(name), column.cast(wanted))
    return whole


def _fits(column: pa.Field, schema: pa.Schema, may_be_null: Sequence[str]) -> bool:
    """Tell whether a stored column can be taken for that of a schema: numbers of another width, text encoded or not."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if column.name not in schema.names:
        return not (pa.types.is_nested(kind) or pa.types.is_binary(kind))
    wanted = schema.field(column.name).type
    wanted = wanted.value_type if pa.types.is_dictionary(wanted) else wanted
    if pa.types.is_null(kind):
        return column.name in may_be_null
    if pa.types.is_integer(wanted):
        return bool(pa.types.is_integer(kind))
    if pa.types.is_floating(wanted):
        return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
    return bool(kind == wanted or (pa.types.is_string(wanted) and pa.types.is_large_string(kind)))


# ---- beside which other measurements ----

_is_measuring = False


def measured(name: str, target: str, run: Callable[[], RecordingT], *, out: str = "") -> RecordingT:
    """Run a measurement, note in its recording which others ran on this machine meanwhile, and keep it below `out`; see `folders.keep`.

    One within another is a part of that.
    """
    recording = run() if _is_measuring else _noticed(name, target, run)
    folders.keep(recording.context.run_id, recording.stored(), name, out=out)
    return recording


def _noticed(name: str, target: str, run: Callable[[], RecordingT]) -> RecordingT:
    global _is_measuring
    folder = config.measurements()
    try:
        own = lockfiles.hold(folder, f"{name} of {target}")
    except OSError as error:
        logging.getLogger(__name__).warning("whether others measure on this machine is unknown: %s", error)
        return run()
    before = {one.file for one in lockfiles.holders(folder) if not one.is_there} | {own}
    _is_measuring = True
    try:
        recording = run()
        found = (one for one in lockfiles.holders(folder) if one.file not in before)
        beside = tuple(Neighbour(measured=one.purpose, pid=one.pid, since=one.since) for one in found)
    finally:
        _is_measuring = False
        lockfiles.release(own)
    return replace(recording, context=replace(recording.context, beside=beside))


def neighbours(context: Context) -> list[Finding]:
    """Return the finding that others measured on this machine meanwhile, if any did."""
    others = context.beside or ()
    who = ", ".join(map(str, others[:MOST_NAMED])) + (f" and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else "")
    found = f"{counted(len(others), 'other measurements')} ran on this machine at the same time, and may have slowed this one: {who}"
    action = "measure again while nothing else is measured on this machine"
    evidence = {"others": len(others)}
    return [Finding(name="measured_beside_others", finding=found, evidence={**evidence}, action=action)] if who else []


def covered_s(spans_ns: Iterable[tuple[int, int]]) -> float | None:
    """Return how long at least one of some spans of time ran, of which several may run at once; None without any."""
    total, last, is_any = 0, 0, False
    for began, ended in sorted(spans_ns):
        total += max(0, ended - (max(began, last) if is_any else began))
        last, is_any = max(ended, last) if is_any else ended, True
    return total / 1e9 if is_any else None


def stopped() -> Finding:
    """Return the finding that the sandbox was gone before the end of what was to be measured."""
    return Finding(name="sandbox_stopped", finding=STOPPED.partition(";")[0], evidence={}, action="measure again")
