"""Knows a tool's file by how it begins, not by its name, and makes a recording of it. What a format means is in its own module."""

import contextlib
from datetime import UTC, datetime
from pathlib import Path

from tapecheck import config, resources
from tapecheck.errors import ConfigError, Problem
from tapecheck.load.imports import files, k6, locust, vegeta, wrk_and_hey
from tapecheck.load.imports.files import Format, ImportedRun
from tapecheck.load.recording import Context, GeneratorStats, Recording
from tapecheck.load.samples import table_of
from tapecheck.runs import folders
from tapecheck.runs.results import Environment, TargetInfo

FORMATS: tuple[Format, ...] = (*k6.FORMATS, *locust.FORMATS, *vegeta.FORMATS, *wrk_and_hey.FORMATS)
SHOWN = 40  # characters of a file that is none of them
UNKNOWN = Environment(  # no tool says where it ran
    host="unknown", system="unknown", cores=0, memory_mb=0, python="unknown", versions={}, git_commit=None, git_dirty=None
)


def knows(path: Path) -> bool:
    """Tell whether a file is one of another tool."""
    with contextlib.suppress(*files.UNREADABLE):
        return _format(path) is not None
    return False


def named(path: str | Path) -> Path | None:
    """Return the file of another tool, known or not, that a path names; None where it names a run, by its folder or its result."""
    file = next((one for one in (config.expanded(path), config.PROJECT / path) if one.is_file()), None)
    return None if file is None or (file.name == folders.RESULT and not knows(file)) else file


def format_of(path: Path, *, source: str) -> Format:
    """Return what kind of file of another tool it is; `source` is how it was named.

    Raises:
        ConfigError: it is none that we know, or cannot be read.
    """
    try:
        one = _format(path)
        if one is None:
            got = f"a file that begins with {files.head(path)[:SHOWN]!r}"
            raise _problem(source, got, "a recorded run's folder, or a file of " + "; ".join(one.name for one in FORMATS))
    except files.UNREADABLE as error:
        raise _problem(source, f"a file that cannot be read ({error})", "a readable file") from None
    return one


def read(path: Path, *, source: str) -> Recording:
    """Read a file of another tool; `source` is how it was named.

    Raises:
        ConfigError: it is none that we know, half-written, or of another version.
    """
    one = format_of(path, source=source)
    try:
        return _recording(path, one.read(path), source)
    except files.BrokenFile as error:
        raise _problem(source, error.got, f"a whole file of {one.name}", error.line) from None
    except files.UNREADABLE as error:
        raise _problem(source, f"{type(error).__name__}: {str(error)[:80]}", f"a whole file of {one.name}") from None


def _format(path: Path) -> Format | None:
    begins = files.head(path)
    return next((one for one in FORMATS if one.begins(begins)), None)


def _problem(source: str, got: str, allowed: str, line: int | None = None) -> ConfigError:
    return ConfigError([Problem(file=source, line=line, key="run", got=got, allowed=allowed)])


def _recording(path: Path, found: ImportedRun, source: str) -> Recording:
    requests, tool = found.requests, found.tool
    samples = requests.samples() if requests else {}
    url = found.url or " ".join(requests.origins if requests else ())
    names = [*samples, *found.summaries]
    context = Context(
        run_id=path.name,
        started_at=found.started_at or (requests and requests.started_at) or datetime.fromtimestamp(path.stat().st_mtime, UTC),
        target=TargetInfo(name=url.replace("http://", "") or "an unnamed target", kind="external", base_url=url),
        environment=UNKNOWN,
        executors=dict.fromkeys(names, f"unknown ({tool.name})"),
        generator={name: _generator(found, name) for name in names},
        tool=tool,
        imported=dict(found.summaries),
    )
    table = table_of(samples, dict.fromkeys(samples, requests.values if requests else []))
    return Recording(tables={"samples": table, "resources": resources.SCHEMA.empty_table()}, context=context, source=source)


def _generator(found: ImportedRun, name: str) -> GeneratorStats:
    return GeneratorStats(
        lag_p99_ms=None,
        cpu_ratio=None,
        achieved_ratio=found.achieved_ratio.get(name),
        content_checked=0,
        clock_error_ms=found.clock_error_ms,
    )
