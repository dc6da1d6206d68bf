"""Run folders: writes each as a whole or not at all, reads and lists them. It does not judge."""

import errno
import json
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic_core import from_json

from tapecheck import config, lockfiles, text
from tapecheck.errors import ConfigError, OutputError, Problem
from tapecheck.runs import results
from tapecheck.runs.outcomes import Recorded
from tapecheck.runs.results import Result

RESULT = "result.json"
UNFINISHED = "unfinished"
PLAIN = (".json", ".jsonl")
MOST_BYTES = 50_000_000  # of a result, which has a megabyte where it is long
UNFINISHED_VARIABLE = "TAPECHECK_UNFINISHED"  # where a batch keeps what is left of a notebook that does not end


class Picture(Protocol):
    """A chart."""

    def png(self) -> bytes:
        """Return it as PNG."""

    def svg(self) -> bytes:
        """Return it as SVG."""


def new_id(now: datetime | None = None) -> str:
    """Return a run id that sorts by time: 20261123T154501Z-9f3c."""
    return (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ") + "-" + secrets.token_hex(2)


def check_writable(out: str | Path) -> Path | None:
    """Return the output folder, made if need be; None for "", which means: do not record. What cannot be written is an `OutputError`."""
    if str(out) == "":
        return None
    folder = config.outputs(out)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"x")
        lockfiles.sweep_scratch(folder)
    except OSError as error:
        raise OutputError(f"the output folder {folder} cannot be written: {error.strerror}; name another with out") from error
    return folder


def keep(run_id: str, tables: Mapping[str, pa.Table], validation: str, *, out: str | Path) -> None:
    """Write what was measured before anything is made of it, so that nothing later can lose it; `record` moves it into the run folder.

    What was kept of the same run before is replaced. Where there is no room it does nothing: the verdict is still worth seeing, and
    `record` says what is the matter.
    """
    if str(out) == "":
        return
    folder = _unfinished(out, validation, run_id)
    with suppress(OSError):
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with lockfiles.scratch(folder.parent) as temporary:
            (part := temporary / "part").mkdir(mode=0o700)
            _write(part, tables, {})
            with suppress(FileNotFoundError):
                folder.rename(temporary / "before")
            part.rename(folder)


def _unfinished(out: str | Path, validation: str, run_id: str) -> Path:
    return Path(os.environ.get(UNFINISHED_VARIABLE) or config.outputs(out) / UNFINISHED / f"{validation}-{run_id}")


def is_unfinished(path: str | Path) -> bool:
    """Tell whether a folder is for what was measured and not recorded."""
    return Path(path).parent.name == UNFINISHED


def recording(path: str | Path, validation: str) -> Path:
    """Return the folder of a recording: of a recorded run, or of one that was measured and never recorded.

    Raises:
        ConfigError: it is neither, or of another validation.
    """
    folder = config.find(path)
    if not is_unfinished(folder) or not folder.name.startswith(f"{validation}-"):
        return read(path, validation).folder
    if not any(folder.glob("*.parquet")):
        got, allowed = "a run that ended before anything was measured", f"a complete run of {validation}"
        raise ConfigError([Problem(file=str(path), key="run", got=got, allowed=allowed)])
    return folder


def record(
    result: Result,
    *,
    out: str | Path,
    tables: Mapping[str, pa.Table] | None = None,
    figures: Mapping[str, Picture] | None = None,
    files: Mapping[str, Any] | None = None,
) -> Recorded:
    """Write a run folder: result.json, one Parquet file a table, one PNG a figure, and further files.

    What a further file holds, its ending says: `.jsonl` takes rows, `.json` plain data, and any other ending text.
    A figure that cannot be drawn is left out and named.

    It is written under a temporary name and renamed when it is whole, then `latest` points at it. No run is ever changed: the same
    again is the run that is there, and anything else, such as under a changed plan, a run of its own that names the first.

    Raises:
        OutputError: the folder cannot be written or is full; earlier runs are untouched.
    """
    base = check_writable(out)
    texts = {name: text.redact(said).encode() for name, said in (files or {}).items() if Path(name).suffix not in PLAIN}
    small, not_drawn = {**texts}, {}
    for name, figure in (figures or {}).items():
        try:
            small[re.sub(r"[^\w.-]", "_", name) + ".png"] = figure.png()
        except Exception as error:
            not_drawn[name] = f"{type(error).__name__}: {error}"
    if base is None:
        return Recorded(result=result, folder=None, not_drawn=not_drawn)
    result, folder = _as_recorded(result, base / result.validation / result.run_id, small)
    raw = _unfinished(out, result.validation, result.run_id)
    try:
        if folder is None:
            folder = base / result.validation / result.run_id
            with _part(folder, raw) as part:
                plain = {name: content for name, content in (files or {}).items() if name not in texts}
                for name, figure in (figures or {}).items():
                    with suppress(Exception):  # the picture is there already
                        plain[f"{name}.svg"] = figure.svg()
                _write(part, {} if raw.is_dir() else tables or {}, small | plain)
                write_json(part / RESULT, results.to_json(result))
        point_latest(folder)
    except OSError as error:
        what = "is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else f"cannot be written: {error.strerror}"
        left = f"; what was measured is in {config.shown(raw)}" if raw.exists() else ""
        raise OutputError(f"the output folder {base} {what}; earlier runs are untouched, this one is not recorded{left}") from error
    return Recorded(result=result, folder=folder, not_drawn=not_drawn)


@contextmanager
def _part(folder: Path, raw: Path) -> Iterator[Path]:
    """Give the folder that becomes a run folder when all of it is written; what was kept of it in `raw` is in it, and then nowhere else.

    Until then nothing is added to `raw`: killed at any moment, it is a recording and the run folder is whole or not there.
    """
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with lockfiles.scratch(folder.parent) as temporary:
        (part := temporary / "part").mkdir(mode=0o700)
        for file in raw.iterdir() if raw.is_dir() else ():
            try:
                (part / file.name).hardlink_to(file)
            except OSError:  # of a file system that has none, or a file of another user
                shutil.copyfile(file, part / file.name)
        yield part
        part.rename(folder)
        shutil.rmtree(raw, ignore_errors=True)


def _as_recorded(result: Result, folder: Path, small: Mapping[str, bytes]) -> tuple[Result, Path | None]:
    """Return a result as it is to be recorded, and the run that holds it already, its own or any analysis of the same run."""
    origin = config.shown(folder) if folder.exists() else result.reanalysis_of
    others = sorted((one.name for one in folder.parent.glob("[!.]*") if not one.is_symlink()), reverse=True) if origin else ()
    for one in (result, *(replace(result, run_id=name, reanalysis_of=origin) for name in others)):
        if _holds(known := folder.with_name(one.run_id), one, small):
            return one, known
    return (replace(result, run_id=new_id(), reanalysis_of=origin) if folder.exists() else result), None


def _holds(folder: Path, result: Result, small: Mapping[str, bytes]) -> bool:
    """Tell whether a run folder has this result, these pictures and no others, and these texts."""
    try:
        same = {path.name for path in folder.glob("*.png")} == {name for name in small if name.endswith(".png")}
        same = same and all((folder / name).read_bytes() == data for name, data in small.items())
        return same and json.loads((folder / RESULT).read_bytes()) == results.to_json(result)
    except (OSError, ValueError):
        return False


def _write(folder: Path, tables: Mapping[str, pa.Table], files: Mapping[str, Any]) -> None:
    """Write every file of a run but its result; see `record`."""
    for name, table in tables.items():
        with _new(folder / f"{name}.parquet") as file:
            pq.write_table(_without_secrets(table), file, compression="zstd")
    for name, content in files.items():
        with _new(folder / name) as file:
            if isinstance(content, bytes):
                file.write(content)
            elif Path(name).suffix == ".json":
                file.write(text.redact(json.dumps(content)).encode())
            else:
                file.writelines(text.redact(json.dumps(row) + "\n").encode() for row in content)


@contextmanager
def _new(path: Path) -> Iterator[BinaryIO]:
    """Open a file that is not there yet, for this user alone."""
    with path.open("xb") as file:
        os.fchmod(file.fileno(), 0o600)
        yield file


def _without_secrets(table: pa.Table) -> pa.Table:
    """Return a table as it may be written: no secret in a text of it, nor in its metadata."""
    for i, field in enumerate(table.schema):
        if not pa.types.is_string(getattr(field.type, "value_type", field.type)):
            continue
        column = table.column(i)
        found = column.unique()
        said = [value and text.redact(value) for value in found.to_pylist()]
        if said != found.to_pylist():
            plain = column.cast(pa.string())
            blanked = pa.array(said, pa.string()).take(pc.index_in(plain, value_set=found.cast(pa.string())))
            table = table.set_column(i, field, blanked.cast(field.type))
    metadata = table.schema.metadata or {}
    return table.replace_schema_metadata({key: text.redact_bytes(value) for key, value in metadata.items()})


def write_json(path: Path, data: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never a part."""
    write_bytes(path, text.redact(json.dumps(data, indent=2, allow_nan=False) + "\n").encode())


def write_file(path: Path, data: bytes) -> None:
    """Write a picture or text beside the runs, and its folder, as `write_json` does; what cannot be written is an `OutputError`."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_bytes(path, data if path.suffix == ".png" else text.redact_bytes(data))
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write what only we read, as `write_json` does; no secret is looked for in it."""
    with lockfiles.scratch(path.parent) as temporary:  # no link that somebody put beside it is followed
        with _new(part := temporary / path.name) as file:
            file.write(data)
        part.replace(path)


def point_latest(folder: Path) -> None:
    """Point `latest`, beside a run folder, at it."""
    with lockfiles.scratch(folder.parent) as temporary:
        (link := temporary / "latest").symlink_to(folder.name)
        link.replace(folder.with_name("latest"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A recorded run as found on disk, and how it begins; `problem` says why it cannot be read, if it cannot."""

    folder: Path
    result: dict[str, Any]
    head: Result | None = None
    problem: str | None = None


def read(path: str | Path, validation: str | None = None) -> Run:
    """Read a recorded run: its folder, or its result.json; what is no run, half a run, or of another validation is a `ConfigError`."""
    folder = config.find(path)
    run = _read(folder.parent if folder.name == RESULT else folder)
    problem = run.problem
    if problem is None and validation is not None and run.result["validation"] != validation:
        problem = f"a run of {run.result['validation']}"
    if problem is not None:
        allowed = f"a complete run of {validation or 'any validation'}"
        raise ConfigError([Problem(file=str(path), key="run", got=problem, allowed=allowed)])
    return run


def _read(folder: Path) -> Run:
    result: Any = {}
    try:
        if (folder / RESULT).stat().st_size > MOST_BYTES:
            return Run(folder=folder, result={}, problem=f"a {RESULT} of more than {MOST_BYTES:,} bytes")
        result = from_json((folder / RESULT).read_bytes())  # faster than json, and refuses half of a surrogate pair
        problem = _problem(result) if isinstance(result, dict) else f"a {RESULT} that holds no JSON object"
        return Run(folder=folder, result=result, head=None if problem else results.head(result), problem=problem)
    except FileNotFoundError:
        problem = f"no {RESULT}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problem = f"an unreadable {RESULT} ({type(error).__name__})"
    return Run(folder=folder, result={}, problem=problem)


def _problem(result: Mapping[str, Any]) -> str | None:
    """Say why a result cannot be used; another version is named, since there is none yet that could be made into this one."""
    version = result.get("schema_version", results.SCHEMA_VERSION)
    if version != results.SCHEMA_VERSION:
        return f"a {RESULT} of schema version {version!r:.20}, which this version does not read (it reads {results.SCHEMA_VERSION})"
    if result["validation"] not in config.VALIDATIONS:
        raise ValueError(result["validation"])
    problem = results.breaks_schema(result)
    return None if problem is None else f"a {RESULT} that breaks its schema {problem}"


def each(out: str | Path, validations: Iterable[str] = config.VALIDATIONS) -> Iterator[Run]:
    """Yield every run below an output folder, newest first, the unreadable ones with their problem; a thousand results take a gigabyte."""
    base = config.outputs(out)
    folders = [f for v in validations for f in base.glob(f"{v}/[!.]*") if f.is_dir() and not f.is_symlink()]
    for folder in sorted(folders, key=lambda f: f.name, reverse=True):
        yield _read(folder)


if sys.platform == "win32":  # pragma: no cover
    raise ImportError("tapecheck runs on Linux and macOS; on Windows use WSL")
