"""Run folders: writes each as a whole or not at all, reads and lists them. It does not judge."""

import errno
import json
import secrets
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic_core import from_json

from tapecheck import config, results
from tapecheck.errors import ConfigError, OutputError, Problem
from tapecheck.results import Result
from tapecheck.verdict import Check, Verdict

RESULT = "result.json"


class Picture(Protocol):
    """A chart."""

    def png(self) -> bytes:
        """Return it as PNG."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A run that is done: where it lies (None when it was not to be written) and what it found.

    In a notebook it displays as one line, and carries the verdict to a batch in a MIME type of its own.
    """

    MIME: ClassVar[str] = "application/vnd.tapecheck.run+json"

    folder: Path | None
    validation: str
    run_id: str
    verdict: Verdict
    checks: list[Check] = field(default_factory=list)
    headline: str = ""
    figures: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    measured_s: float | None = None

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        where = "not recorded (out is empty)" if self.folder is None else f"recorded in {config.shown(self.folder)}"
        brief = {
            "folder": None if self.folder is None else config.shown(self.folder),
            "validation": self.validation,
            "run_id": self.run_id,
            "verdict": str(self.verdict),
            "checks": {v: sum(c.verdict == v for c in self.checks) for v in sorted({str(c.verdict) for c in self.checks})},
            "headline": self.headline,
            "figures": self.figures,
            "missed": self.missed,
            "measured_s": self.measured_s,
        }
        return {"text/plain": f"{self.validation}: {self.verdict}, {where}", self.MIME: brief}


def new_id(now: datetime | None = None) -> str:
    """Return a run id that sorts by time: 20261123T154501Z-9f3c."""
    return (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ") + "-" + secrets.token_hex(2)


def check_writable(out: str | Path) -> Path | None:
    """Return the output folder, made if need be; None for "", which means: do not record.

    Raises:
        OutputError: it cannot be written; said before anything is measured.
    """
    if str(out) == "":
        return None
    folder = config.outputs(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{secrets.token_hex(4)}"
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        raise OutputError(f"the output folder {folder} cannot be written: {error.strerror}; name another with out") from error
    return folder


def record(
    result: Result,
    *,
    out: str | Path,
    tables: Mapping[str, pa.Table] | None = None,
    figures: Mapping[str, Picture] | None = None,
    lines: Mapping[str, Iterable[Mapping[str, Any]]] | None = None,
    documents: Mapping[str, Any] | None = None,
    texts: Mapping[str, str] | None = None,
) -> Recorded:
    """Write a run folder: result.json, one Parquet file a table, one PNG a figure, one JSON-lines file each of `lines`, and documents.

    A document is JSON of another's format, such as a Chrome trace; a text is whatever its name, which has an ending, says.

    It is written under a temporary name and renamed when it is whole, then `latest` points at it.

    Raises:
        OutputError: the folder cannot be written or is full; earlier runs are untouched.
    """
    base = check_writable(out)
    done = Recorded(
        folder=None,
        validation=result.validation,
        run_id=result.run_id,
        verdict=result.verdict,
        checks=result.checks,
        headline=result.headline,
        figures=result.main_figures(),
        missed=result.missed(),
        measured_s=None if result.reanalysis_of else result.measured_s,  # what was measured before is no part of this run's time
    )
    if base is None:
        return done
    final = base / result.validation / result.run_id
    if final.exists():
        return replace(done, folder=final)  # the last cell of a notebook, run once more
    temporary = final.with_name(f".{result.run_id}.part")
    try:
        temporary.mkdir(parents=True)
        _write(temporary, tables or {}, figures or {}, lines or {}, documents or {}, texts or {})
        write_json(temporary / RESULT, results.to_json(result))
        temporary.rename(final)
        point_latest(final)
    except OSError as error:
        what = "is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else f"cannot be written: {error.strerror}"
        raise OutputError(f"the output folder {base} {what}; earlier runs are untouched, this one is not recorded") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return replace(done, folder=final)


def _write(
    folder: Path,
    tables: Mapping[str, pa.Table],
    figures: Mapping[str, Picture],
    lines: Mapping[str, Iterable[Mapping[str, Any]]],
    documents: Mapping[str, Any],
    texts: Mapping[str, str],
) -> None:
    """Write every file of a run but its result; see `record`."""
    for name, table in tables.items():
        pq.write_table(table, folder / f"{name}.parquet", compression="zstd")
    for name, figure in figures.items():
        (folder / f"{name}.png").write_bytes(figure.png())
    for name, rows in lines.items():
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    for name, document in documents.items():
        (folder / f"{name}.json").write_text(json.dumps(document), encoding="utf-8")
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def write_json(path: Path, data: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never a part."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(data, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    part.replace(path)


def write_file(path: Path, data: bytes) -> None:
    """Write a file beside the runs, and its folder, so that a reader sees the old file or the new one.

    Raises:
        OutputError: it cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error


def point_latest(folder: Path) -> None:
    """Point `latest`, beside a run folder, at it."""
    link = folder.with_name(f".latest-{folder.name}")
    link.unlink(missing_ok=True)
    link.symlink_to(folder.name)
    link.replace(folder.with_name("latest"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A recorded run as found on disk, and how it begins; `problem` says why it cannot be read, if it cannot."""

    folder: Path
    result: dict[str, Any]
    head: Result | None = None
    problem: str | None = None

    def __str__(self) -> str:
        what = f"{self.head.verdict:<11} {self.head.target.name}" if self.head else self.problem
        return f"{self.folder.parent.name:<10} {self.folder.name:<24} {what}"


def read(path: str | Path, validation: str | None = None) -> Run:
    """Read a recorded run: its folder, or its result.json.

    Raises:
        ConfigError: it is no run, half a run, or one of another validation.
    """
    folder = config.find(path)
    folder = folder.parent if folder.name == RESULT else folder
    run = _read(folder)
    if run.problem is None and validation is not None and run.result["validation"] != validation:
        run = Run(folder=folder, result=run.result, problem=f"a run of {run.result['validation']}")
    if run.problem is not None:
        raise ConfigError(
            [Problem(file=str(path), key="run", got=run.problem, allowed=f"a complete run of {validation or 'any validation'}")]
        )
    return run


def _read(folder: Path) -> Run:
    try:
        result = from_json((folder / RESULT).read_bytes())  # faster than json, and refuses half of a surrogate pair
        problem = _problem(result)
        return Run(folder=folder, result=result, head=None if problem else results.head(result), problem=problem)
    except FileNotFoundError:
        return Run(folder=folder, result={}, problem=f"no {RESULT}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return Run(folder=folder, result={}, problem=f"an unreadable {RESULT} ({type(error).__name__})")


def _problem(result: Mapping[str, Any]) -> str | None:
    """Say why a result cannot be used; another version is named, since there is none yet that could be made into this one."""
    version = result.get("schema_version", results.SCHEMA_VERSION)
    if version != results.SCHEMA_VERSION:
        return f"a {RESULT} of schema version {version!r:.20}, which this version does not read (it reads {results.SCHEMA_VERSION})"
    if result["validation"] not in config.VALIDATIONS:
        raise ValueError(result["validation"])
    problem = results.breaks_schema(result)
    return None if problem is None else f"a {RESULT} that breaks its schema {problem}"


def listed(out: str | Path) -> list[Run]:
    """Return every run below an output folder, newest first; the unreadable ones with their problem."""
    return list(each(out))


def each(out: str | Path, validations: Sequence[str] = config.VALIDATIONS) -> Iterator[Run]:
    """Yield what `listed` returns, one at a time: a thousand whole results take a gigabyte."""
    base = config.outputs(out)
    folders = [f for v in validations for f in base.glob(f"{v}/[!.]*") if f.is_dir() and not f.is_symlink()]
    for folder in sorted(folders, key=lambda f: f.name, reverse=True):
        yield _read(folder)


if sys.platform == "win32":  # pragma: no cover
    raise ImportError("tapecheck runs on Linux and macOS; on Windows use WSL")
