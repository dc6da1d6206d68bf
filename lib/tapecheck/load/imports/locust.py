"""Reads what `locust --csv PREFIX` writes: PREFIX_stats.csv, or PREFIX_stats_history.csv. Locust keeps no single requests.

What kinds of failure there were stands in PREFIX_failures.csv, which is looked at where it lies beside them.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np

from tapecheck.load import recording
from tapecheck.load.engine.recorder import ErrorKind
from tapecheck.load.imports import files
from tapecheck.load.imports.files import CLOSED, CUT_OFF, DIMENSION, Broken, Format, Measurement, label
from tapecheck.load.recording import Figures, Testimony, Tool
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Names:
    """How a file calls its columns."""

    requests: str
    failed: str
    median: str
    mean: str
    min: str
    max: str
    size: str


_STATS = _Names(
    requests="Request Count",
    failed="Failure Count",
    median="Median Response Time",
    mean="Average Response Time",
    min="Min Response Time",
    max="Max Response Time",
    size="Average Content Size",
)
_HISTORY = _Names(**{name: f"Total {getattr(_STATS, name)}" for name in _Names.__slots__})


def read_stats(path: Path) -> Measurement:
    """Read the totals of a run."""
    found = _rows(path, ("Requests/s", *(getattr(_STATS, name) for name in _Names.__slots__)))
    total = found[-1]
    rate_rps = _number(total, "Requests/s")
    duration_s = _number(total, _STATS.requests) / rate_rps if rate_rps else 0.0
    scenario = _testimony(path, found, _STATS, duration_s)
    return Measurement(tool=_tool("stats.csv", scenario, ROUNDED), told={SCENARIO: scenario})


def read_history(path: Path) -> Measurement:
    """Read the last totals of a history; with --csv-full-history its percentiles are of the last seconds, and are left out."""
    found = _rows(path, ("Timestamp", *(getattr(_HISTORY, name) for name in _Names.__slots__)))
    began_s, ended_s = (_number(found[i], "Timestamp") for i in (0, -1))
    last = {(row["Type"], row["Name"]): row for row in found}
    total = last.pop((found[-1]["Type"], TOTAL))
    scenario = _testimony(path, [*last.values(), total], _HISTORY, ended_s - began_s, whole=not last)
    return Measurement(
        tool=_tool("stats_history.csv", scenario, SECONDS, CURRENT if last else ROUNDED),
        told={SCENARIO: scenario},
        started_at=datetime.fromtimestamp(began_s, UTC),
        clock_error_ms=1000.0,
    )


def read_failures(path: Path) -> Measurement:
    """Refuse what says how often something failed, but not of how many."""
    raise Broken("failures alone, without the requests that did not fail: name PREFIX_stats.csv, beside which it is read")


def _rows(path: Path, needed: Sequence[str]) -> list[Row]:
    found: list[Row] = [row for _, row in files.table(path, ("Type", "Name", *needed))]
    if not found or found[-1]["Name"] != TOTAL:
        raise Broken(f"no {TOTAL} at its end: it is half-written")
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


def _testimony(path: Path, found: Sequence[Row], names: _Names, duration_s: float, *, whole: bool = True) -> Testimony:
    """Read the last row, which is about all, and those before it by name; `whole`: their percentiles are of the whole run."""
    every = _figures(found[-1], names, whole)
    by = {label(row["Type"], row["Name"]): _figures(row, names, whole) for row in found[:-1] if int(row[names.requests])}
    return Testimony(
        requests=every.requests,
        failed=every.failed,
        response_time_ms=every.response_time_ms,
        bytes_mean=every.bytes_mean,
        duration_s=duration_s,
        errors=_errors(path, every.failed),
        by={DIMENSION: by} if by else {},
    )


def _tool(output: str, scenario: Testimony, *notes: str) -> Tool:
    unknown = [NO_KINDS] if scenario.errors.keys() == {ErrorKind.other.name} else []
    return files.tool("locust", output, CLOSED, CUT_OFF, LAST_SECOND, *notes, *unknown)


def _figures(row: Row, names: _Names, whole: bool) -> Figures:
    requests = int(row[names.requests])
    percentiles = {p: _number(row, f"{p}%") for p in recording.LEVELS} if whole else {50: _number(row, names.median)}
    times = recording.distribution(
        requests, percentiles, mean_ms=_number(row, names.mean), min_ms=_number(row, names.min), max_ms=_number(row, names.max)
    )
    return Figures(requests=requests, failed=int(row[names.failed]), response_time_ms=times, bytes_mean=_number(row, names.size))


def _number(row: Row, name: str) -> float:
    """Return a figure; NaN where the file has none."""
    text = row.get(name, "")
    return math.nan if text in ("", "N/A") else float(text)


FORMATS = (
    Format(name="Locust stats (locust --csv PREFIX: PREFIX_stats.csv)", begins=lambda text: text.startswith("Type,Name,"), read=read_stats),
    Format(
        name="Locust history (PREFIX_stats_history.csv)",
        begins=lambda text: text.startswith("Timestamp,User Count,Type,Name,"),
        read=read_history,
    ),
    Format(name="Locust failures (PREFIX_failures.csv)", begins=lambda text: text.startswith(",".join(FAILURES)), read=read_failures),
)


# ---- locust_json ----

JSON_ROUNDED = "its times are rounded to two digits or to 1 ms, and so are the percentiles, which are ours"
JSON_NO_KINDS = "which kinds of failure there were is not in it"


class Entry(msgspec.Struct):
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


def read(path: Path) -> Measurement:
    """Read JSON."""
    entries = [entry for entry in files.document(path, list[Entry]) if entry.num_requests]
    if not entries:
        raise Broken("no request")
    began_s = min(entry.start_time for entry in entries)
    found = files.tool("locust", "JSON", CLOSED, CUT_OFF, JSON_ROUNDED, JSON_NO_KINDS)
    return Measurement(
        tool=found, told={"locust": _locust_json_testimony(entries, began_s)}, started_at=datetime.fromtimestamp(began_s, UTC)
    )


def _locust_json_testimony(entries: Sequence[Entry], began_s: float) -> Testimony:
    every = _locust_json_figures(entries)
    return Testimony(
        requests=every.requests,
        failed=every.failed,
        response_time_ms=every.response_time_ms,
        bytes_mean=every.bytes_mean,
        duration_s=max(entry.last_request_timestamp or began_s for entry in entries) - began_s,
        errors={"other": every.failed} if every.failed else {},
        by={DIMENSION: {label(entry.method or "", entry.name): _locust_json_figures([entry]) for entry in entries}},
    )


def _locust_json_figures(entries: Sequence[Entry]) -> Figures:
    requests = sum(entry.num_requests for entry in entries)
    return Figures(
        requests=requests,
        failed=sum(entry.num_failures for entry in entries),
        response_time_ms=_times(entries, requests - sum(entry.num_none_requests for entry in entries)),
        bytes_mean=sum(entry.total_content_length for entry in entries) / requests if requests else math.nan,
    )


def _times(entries: Sequence[Entry], n: int) -> Distribution | None:
    """Return the exact mean and extremes, and the percentiles of the rounded times."""
    counts: Counter[int] = Counter()
    for entry in entries:
        counts.update(entry.response_times)
    if counts.total() != n:
        raise Broken(f"{counts.total()} times of {n} requests")
    rounded = intervals.distribution(np.repeat(np.array(list(counts), np.int64), list(counts.values())), np.array([n]))
    percentiles_ms = {level: getattr(rounded, f"p{level}").value for level in recording.LEVELS} if rounded else {}
    return recording.distribution(
        n,
        percentiles_ms,
        mean_ms=sum(entry.total_response_time for entry in entries) / n if n else math.nan,
        min_ms=min((entry.min_response_time for entry in entries if entry.min_response_time is not None), default=math.nan),
        max_ms=max(entry.max_response_time for entry in entries),
    )


JSON_FORMATS = (
    Format(
        name="Locust JSON (locust --json-file FILE)",
        begins=lambda text: text.startswith("[") and '"num_requests"' in text and '"response_times"' in text,
        read=read,
    ),
)
