"""Whatever lies in a recorded run's Parquet files is read, or refused by name before it takes memory; and never a traceback."""

import functools
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tapecheck.errors import ConfigError
from tapecheck.load import analysis, frames
from tapecheck.load.plan import GeneratorLimits
from tapecheck.load.validation import load
from tapecheck.recording import CONTEXT_KEY, MOST_ROWS, Table, table
from tapecheck.validation import named

DATA = Path(__file__).parent / "data"
KINDS = {name: (named(name), next(iter(named(name).tables))) for name in ("load", "backfill", "rto_rpo")}
SECOND = {"load": "resources", "backfill": "jobs", "rto_rpo": "bars"}
Change = Callable[[pa.Table], pa.Table]
Make = Callable[[pa.ChunkedArray], pa.Array]


@functools.cache
def stored(kind: str) -> dict[str, pa.Table]:
    """Return the tables of a recorded run, of the long ones some 2,000 rows."""
    tables = {path.stem: pq.read_table(path) for path in (DATA / kind).glob("*.parquet")}
    return {name: table.take(np.arange(0, len(table), 1 + len(table) // 2000)) for name, table in tables.items()}


def changed(kind: str, tmp_path: Path, table: str = "", change: Change = lambda table: table) -> Path:
    """Write a recorded run with one of its tables changed, its metadata kept."""
    folder = tmp_path / kind
    folder.mkdir(parents=True)
    for name, before in stored(kind).items():
        after = change(before) if name == table else before
        pq.write_table(after.replace_schema_metadata(before.schema.metadata), folder / f"{name}.parquet")
    return folder


def refused(kind: str, folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        KINDS[kind][0].read_files(folder, source="there")
    text = str(caught.value)
    assert caught.value.exit_code == 4 and f"there: run: got {KINDS[kind][1]} that cannot be read" in text and "allowed: a complete" in text
    return text


def with_column(name: str, make: Callable[[pa.ChunkedArray], pa.Array | pa.ChunkedArray]) -> Change:
    return lambda table: table.set_column(table.column_names.index(name), name, make(table.column(name)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", [0, 1])
def test_a_table_of_too_many_rows_is_refused_before_one_is_read(
    kind: str, place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """80 million rows are counted by the metadata: nothing is decoded, so memory and time stay what they were."""
    table = (KINDS[kind][1], SECOND[kind])[place]
    folder = changed(kind, tmp_path, table, lambda _: pa.table({"x": pa.nulls(80_000_000)}))
    before = pa.default_memory_pool().bytes_allocated()
    assert f"{table}.parquet has 80,000,000 rows; at most" in refused(kind, folder)
    assert pa.default_memory_pool().bytes_allocated() <= before + 10**8  # what other tests hold comes and goes


@pytest.mark.parametrize("kind", KINDS)
def test_what_unpacks_to_more_than_a_recording_has_is_refused(kind: str, tmp_path: Path) -> None:
    """Columns by the thousand, a context of 100,000 levels, and a long text a million times, which is no more than once in memory."""
    table = KINDS[kind][1]
    many = changed(kind, tmp_path / "many", table, lambda t: pa.table({f"x{i}": [1] for i in range(1000)}))
    assert f"{table}.parquet has 1,000 columns; at most 500 are read" in refused(kind, many)
    deep = changed(kind, tmp_path / "deep")
    pq.write_table(stored(kind)[table].replace_schema_metadata({CONTEXT_KEY: b"[" * 100_000}), deep / f"{table}.parquet")
    assert "RecursionError" in refused(kind, deep) or "JSONDecodeError" in refused(kind, deep)


def test_a_long_text_that_is_repeated_stays_one(tmp_path: Path) -> None:
    """4 GB of it in 100 KB of Parquet take no memory where a table holds it once, and are refused where it would be written out."""
    file, rows = tmp_path / "x.parquet", pa.table({"x": ["y" * 100_000] * 500})
    with pq.ParquetWriter(file, rows.schema, store_schema=False) as writer:
        for _ in range(100):
            writer.write_table(rows)
    before = pa.default_memory_pool().bytes_allocated()
    assert table(file, Table(pa.schema({"x": pa.dictionary(pa.int32(), pa.string())}))).num_rows == 50_000
    with pytest.raises(ValueError, match=r"x.parquet: texts of x take 5,000,000,000 bytes; at most 4,294,967,296 are read"):
        table(file, Table(pa.schema({"x": pa.string()})))
    assert pa.default_memory_pool().bytes_allocated() <= before + 10**8


def test_ten_million_samples_are_not_too_many() -> None:
    """The limit lies above the largest load run that is promised to be analysed."""
    assert MOST_ROWS >= 10_000_000


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_column_is_named(kind: str, tmp_path: Path) -> None:
    """Each column that is needed, of either table, is missed by its name; what an older version had not is none of them."""
    module, table = KINDS[kind]
    for part in (table, SECOND[kind]):
        names = stored(kind)[part].column_names
        for name in names:
            folder = changed(kind, tmp_path / part / name, part, lambda t, name=name: t.drop_columns([name]))
            try:
                module.read_files(folder, source="there")
            except ConfigError as error:
                assert f"{part}.parquet: no column {name}" in str(error)
            else:
                assert name in ("statements", "symbol", "timeframe", "limit"), "a parameter, or a count that is newer"


ODD: dict[str, Make] = {
    "null": lambda column: pa.nulls(len(column)),
    "text": lambda column: pa.array(["x"] * len(column)),
    "list": lambda column: pa.array([[1]] * len(column)),
    "bytes": lambda column: pa.array([b"x"] * len(column)),
    "one null": lambda column: pa.array([None, *column.to_pylist()[1:]], column.type),
    "time": lambda column: pa.array(np.zeros(len(column), "datetime64[ns]")),
}


NUMBERS = {
    ("load", "samples"): ("intended_ns", "waited"),
    ("load", "resources"): ("cpu_ratio",),
    ("backfill", "jobs"): ("inserted",),
    ("rto_rpo", "probes"): ("state",),
}
WORDS = {("load", "samples"): "error", ("backfill", "spans"): "stage", ("rto_rpo", "bars"): "symbol"}
CASES = [(*place, column, odd) for place, columns in NUMBERS.items() for column in columns for odd in ODD]
CASES += [(*place, column, odd) for place, column in WORDS.items() for odd in ODD if odd != "text"]
CASES += [("load", "samples", "symbol", odd) for odd in ("list", "bytes")]  # a parameter


@pytest.mark.parametrize(("kind", "table", "column", "odd"), CASES)
def test_a_column_of_another_kind_is_named(kind: str, table: str, column: str, odd: str, tmp_path: Path) -> None:
    """Nulls where there are none, text for numbers, lists, bytes and times: the file and the column are said."""
    folder = changed(kind, tmp_path, table, with_column(column, ODD[odd]))
    assert f"{table}.parquet: {column} is " in refused(kind, folder)


def with_columns(changes: Iterable[tuple[str, Make]]) -> Change:
    def change(table: pa.Table) -> pa.Table:
        for name, make in changes:
            table = with_column(name, make)(table)
        return table

    return change


ALIKE: tuple[tuple[tuple[str, Make], ...], ...] = (
    (
        ("status", lambda column: column.cast(pa.int64())),
        ("server_ms", lambda column: column.cast(pa.float64())),
        ("error", lambda column: column.cast(pa.string())),
        ("scenario", lambda column: column.cast(pa.large_string())),
        ("limit", lambda column: pa.array([1.5] * len(column))),
    ),
    tuple((name, lambda column: pa.nulls(len(column))) for name in ("server_ms", "db_ms", "symbol")),
)


@pytest.mark.parametrize("changes", ALIKE, ids=["other types", "unknown"])
def test_the_same_figures_in_another_width_or_coding_are_read_alike(changes: tuple[tuple[str, Make], ...], tmp_path: Path) -> None:
    """What loses nothing is no reason to refuse; a time that nobody told is unknown."""
    before, after = (
        analysis.summarize(load.read_files(folder, source="there"), GeneratorLimits())
        for folder in (changed("load", tmp_path / "as it was"), changed("load", tmp_path, "samples", with_columns(changes)))
    )
    for name, one in after.items():
        assert one.response_time_ms == before[name].response_time_ms
        assert (one.errors, one.requests) == (before[name].errors, before[name].requests)
    assert not frames.scenarios(after).empty


def test_a_number_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    """A status of 2 to the 40th is none."""
    folder = changed("load", tmp_path, "samples", with_column("status", lambda column: pa.array([2**40] * len(column))))
    assert "there: run: got samples that cannot be read" in refused("load", folder)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_parquet_file_is_refused(kind: str, tmp_path: Path) -> None:
    """Neither half a file nor one of something else is a traceback."""
    table = KINDS[kind][1]
    folder = changed(kind, tmp_path)
    for data in ((folder / f"{table}.parquet").read_bytes()[:-200], b"hello", b""):
        (folder / f"{table}.parquet").write_bytes(data)
        refused(kind, folder)


@pytest.mark.parametrize("kind", KINDS)
def test_a_recording_of_an_old_shape_is_read_as_far_as_its_facts_go_or_refused_by_name(kind: str, tmp_path: Path) -> None:
    """What a newer context has no place for is left; what it needs and an older one has not is named."""
    main = stored(kind)[KINDS[kind][1]]
    whole = json.loads(main.schema.metadata[CONTEXT_KEY])
    for name, context, wanted in (
        ("newer", whole | {"gone": 1}, None),
        ("older", {k: v for k, v in whole.items() if k != "target"}, "the context of another version, such as target: "),
        ("elsewhere", whole | {"run_id": "x/../../../evil"}, "its run id is no name of a folder"),
    ):
        folder = changed(kind, tmp_path / name)
        pq.write_table(main.replace_schema_metadata({CONTEXT_KEY: json.dumps(context)}), folder / f"{KINDS[kind][1]}.parquet")
        if wanted is None:
            assert KINDS[kind][0].read_files(folder, source="there").context.run_id == whole["run_id"]
        else:
            assert wanted in refused(kind, folder)
