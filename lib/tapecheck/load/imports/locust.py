"""Reads what `locust --csv PREFIX` writes: PREFIX_stats.csv, or PREFIX_stats_history.csv. Locust keeps no single requests.

What kinds of failure there were stands in PREFIX_failures.csv, which is looked at where it lies beside them.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np

from tapecheck.load import recording
from tapecheck.load.engine.recorder import ErrorKind
from tapecheck.load.imports import files
from tapecheck.load.imports.files import CLOSED, CUT_OFF, BrokenFile, Format, ImportedRun, label
from tapecheck.load.recording import ImportedFigures, ImportedSummary, Tool
from tapecheck.statistics import intervals
from tapecheck.statistics.intervals import Distribution

FAILURES = ("Method", "Name", "Error", "Occurrences")
LAST_SECOND = "it is written once a second, and not at the end: the last second may be missing; --json-file has all"
NO_KINDS = "which kinds of failure there were is not known: there is no PREFIX_failures.csv beside it that fits"
TOTAL = "Aggregated"  # the name of the last row, which is about all
SCENARIO = "locust"
ROUNDED = "its percentiles are rounded to two digits"
SECONDS = "its duration is in whole seconds"
CURRENT = "its percentiles are those of the last seconds alone, and left out; PREFIX_stats.csv has those of the whole run"
Row = Mapping[str, str]


COLUMNS = ("Request Count", "Failure Count", "Median Response Time", "Average Response Time", "Min Response Time", "Max Response Time",
           "Average Content Size")  # fmt: skip
OF_HISTORY = "Total "  # what a history has before each of these names


def read_stats(path: Path) -> ImportedRun:
    """Read the totals of a run."""
    found = _rows(path, ("Requests/s", *COLUMNS))
    rate_rps = _number(found[-1], "Requests/s")
    duration_s = _number(found[-1], "Request Count") / rate_rps if rate_rps else 0.0
    scenario = _summary(path, found, duration_s)
    return ImportedRun(tool=_tool("stats.csv", scenario, ROUNDED), summaries={SCENARIO: scenario})


def read_history(path: Path) -> ImportedRun:
    """Read the last totals of a history; with --csv-full-history its percentiles are of the last seconds, and are left out."""
    found = _rows(path, ("Timestamp", *(OF_HISTORY + name for name in COLUMNS)))
    began_s, ended_s = (_number(found[i], "Timestamp") for i in (0, -1))
    last = {(row["Type"], row["Name"]): row for row in found}
    total = last.pop((found[-1]["Type"], TOTAL))
    scenario = _summary(path, [*last.values(), total], ended_s - began_s, OF_HISTORY, whole=not last)
    return ImportedRun(
        tool=_tool("stats_history.csv", scenario, SECONDS, CURRENT if last else ROUNDED),
        summaries={SCENARIO: scenario},
        started_at=datetime.fromtimestamp(began_s, UTC),
        clock_error_ms=1000.0,
    )


def read_failures(path: Path) -> ImportedRun:
    """Refuse what says how often something failed, but not of how many."""
    raise BrokenFile("failures alone, without the requests that did not fail: name PREFIX_stats.csv, beside which it is read")


def _rows(path: Path, needed: Sequence[str]) -> list[Row]:
    found: list[Row] = [row for _, row in files.table(path, ("Type", "Name", *needed))]
    if not found or found[-1]["Name"] != TOTAL:
        raise BrokenFile(f"no {TOTAL} at its end: it is half-written")
    return found


def _errors(path: Path, failed: int) -> dict[str, int]:
    """Return failures by kind, from the file beside this one; all of kind `other` where there is none that has as many."""
    beside = path.with_name(path.name.removesuffix(".csv").removesuffix("_history").removesuffix("_stats") + "_failures.csv")
    kinds: Counter[str] = Counter()
    if failed and beside != path and beside.is_file():
        with contextlib.suppress(*files.UNREADABLE):
            for _, row in files.table(beside, FAILURES):
                kinds[files.kind_of(row["Error"]).name] += int(row["Occurrences"])
    return dict(kinds) if kinds.total() == failed else {ErrorKind.other.name: failed}


def _summary(path: Path, found: Sequence[Row], duration_s: float, prefix: str = "", *, whole: bool = True) -> ImportedSummary:
    """Read the last row, which is about all, and those before it by name; `whole`: their percentiles are of the whole run."""
    every = _figures(found[-1], prefix, whole)
    by = {label(row["Type"], row["Name"]): _figures(row, prefix, whole) for row in found[:-1] if int(row[prefix + "Request Count"])}
    return files.summary(every, duration_s=duration_s, errors=_errors(path, every.failed), by=by)


def _tool(output: str, scenario: ImportedSummary, *notes: str) -> Tool:
    unknown = [NO_KINDS] if scenario.errors.keys() == {ErrorKind.other.name} else []
    return files.tool("locust", output, CLOSED, CUT_OFF, LAST_SECOND, *notes, *unknown)


def _figures(row: Row, prefix: str, whole: bool) -> ImportedFigures:
    requests, failed, median_ms, mean_ms, min_ms, max_ms, size = (_number(row, prefix + name) for name in COLUMNS)
    percentiles_ms = {p: _number(row, f"{p}%") for p in recording.LEVELS} if whole else {50: median_ms}
    times = recording.distribution(int(requests), percentiles_ms, mean_ms=mean_ms, min_ms=min_ms, max_ms=max_ms)
    return ImportedFigures(requests=int(requests), failed=int(failed), response_time_ms=times, bytes_mean=size)


def _number(row: Row, name: str) -> float:
    """Return a figure; NaN where the file has none."""
    text = row.get(name, "")
    return math.nan if text in ("", "N/A") else float(text)


# ---- JSON ----

JSON_ROUNDED = "its times are rounded to two digits or to 1 ms, and so are the percentiles, which are ours"
JSON_NO_KINDS = "which kinds of failure there were is not in it"


class LocustEntry(msgspec.Struct):
    """All requests of one name; times are in ms, instants in seconds since 1970."""

    name: str
    method: str | None
    start_time: float
    last_request_timestamp: float | None
    num_requests: int
    num_none_requests: int
    num_failures: int
    total_response_time: float
    min_response_time: float | None
    max_response_time: float
    total_content_length: int
    response_times: dict[int, int]


def read_json(path: Path) -> ImportedRun:
    """Read JSON."""
    entries = [entry for entry in files.document(path, list[LocustEntry]) if entry.num_requests]
    if not entries:
        raise BrokenFile("no request")
    began_s, total = min(entry.start_time for entry in entries), _figures_of(entries)
    scenario = files.summary(
        total,
        duration_s=max(entry.last_request_timestamp or began_s for entry in entries) - began_s,
        errors={"other": total.failed},
        by={label(entry.method or "", entry.name): _figures_of([entry]) for entry in entries},
    )
    tool = files.tool("locust", "JSON", CLOSED, CUT_OFF, JSON_ROUNDED, JSON_NO_KINDS)
    return ImportedRun(tool=tool, summaries={SCENARIO: scenario}, started_at=datetime.fromtimestamp(began_s, UTC))


def _figures_of(entries: Sequence[LocustEntry]) -> ImportedFigures:
    requests = sum(entry.num_requests for entry in entries)
    return ImportedFigures(
        requests=requests,
        failed=sum(entry.num_failures for entry in entries),
        response_time_ms=_times(entries, requests - sum(entry.num_none_requests for entry in entries)),
        bytes_mean=sum(entry.total_content_length for entry in entries) / requests,
    )


def _times(entries: Sequence[LocustEntry], n: int) -> Distribution | None:
    """Return the exact mean and extremes, and the percentiles of the rounded times."""
    counts: Counter[int] = Counter()
    for entry in entries:
        counts.update(entry.response_times)
    if counts.total() != n:
        raise BrokenFile(f"{counts.total()} times of {n} requests")
    rounded = intervals.distribution(np.repeat(np.array(list(counts), np.int64), list(counts.values())), np.array([n]))
    percentiles_ms = {level: getattr(rounded, f"p{level}").value for level in recording.LEVELS} if rounded else {}
    return recording.distribution(
        n,
        percentiles_ms,
        mean_ms=sum(entry.total_response_time for entry in entries) / n if n else math.nan,
        min_ms=min((entry.min_response_time for entry in entries if entry.min_response_time is not None), default=math.nan),
        max_ms=max(entry.max_response_time for entry in entries),
    )


FORMATS = (
    Format(name="Locust stats (locust --csv PREFIX: PREFIX_stats.csv)", begins=lambda text: text.startswith("Type,Name,"), read=read_stats),
    Format(
        name="Locust history (PREFIX_stats_history.csv)",
        begins=lambda text: text.startswith("Timestamp,User Count,Type,Name,"),
        read=read_history,
    ),
    Format(name="Locust failures (PREFIX_failures.csv)", begins=lambda text: text.startswith(",".join(FAILURES)), read=read_failures),
    Format(
        name="Locust JSON (locust --json-file FILE)",
        begins=lambda text: text.startswith("[") and '"num_requests"' in text and '"response_times"' in text,
        read=read_json,
    ),
)
