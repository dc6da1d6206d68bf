"""Reads what `locust --csv PREFIX` and `--json-file FILE` write. Locust keeps no single requests.

What kinds of failure there were stands in PREFIX_failures.csv, which is looked at where it lies beside a CSV file.
"""

import contextlib
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from tapecheck.load import recording
from tapecheck.load.engine.recorder import ErrorKind
from tapecheck.load.imports import files
from tapecheck.load.imports.files import CLOSED, CUT_OFF, BrokenFile, ImportedRun, label
from tapecheck.load.recording import ImportedFigures, ImportedSummary, Tool
from tapecheck.statistics import intervals

FAILURES = ("Method", "Name", "Error", "Occurrences")
LAST_SECOND = "it is written once a second, and not at the end: the last second may be missing; --json-file has all"
NO_KINDS = "which kinds of failure there were is not known: there is no PREFIX_failures.csv beside it that fits"
TOTAL = "Aggregated"  # the name of the last row, which is about all
SCENARIO = "locust"
ROUNDED = "its percentiles are rounded to two digits"
SECONDS = "its duration is in whole seconds"
CURRENT = "its percentiles may be those of the last seconds alone, and are left out; PREFIX_stats.csv has those of the whole run"
RESET = "what came before its statistics were reset (--reset-stats) is left out"
Row = Mapping[str, str]
Figures = dict[str, Any]  # the fields of ImportedFigures

COLUMNS = ("Request Count", "Failure Count", "Median Response Time", "Average Response Time", "Min Response Time", "Max Response Time",
           "Average Content Size")  # fmt: skip
OF_HISTORY = "Total "  # what a history has before each of these names


def read_stats(path: Path) -> ImportedRun:
    """Read the totals of a run."""
    found = _rows(path, ("Requests/s", *COLUMNS))
    rate_rps = _number(found[-1], "Requests/s")
    duration_s = _number(found[-1], "Request Count") / rate_rps if rate_rps else math.nan
    scenario = _summary(path, found, duration_s)
    return ImportedRun(tool=_tool("stats.csv", scenario, ROUNDED), summaries={SCENARIO: scenario})


def read_history(path: Path) -> ImportedRun:
    """Read the last totals of a history, from where they were reset, if they were."""
    found = _rows(path, ("Timestamp", *(OF_HISTORY + name for name in COLUMNS)))
    totals = [row for row in found if row["Name"] == TOTAL]
    at_s, counts = ([_number(row, name) for row in totals] for name in ("Timestamp", OF_HISTORY + COLUMNS[0]))
    if at_s != sorted(at_s):
        raise BrokenFile("an instant before the one above it: its lines are out of order")
    reset = max((i for i in range(1, len(totals)) if counts[i] < counts[i - 1]), default=0)
    began_s, ended_s = at_s[max(reset - 1, 0)], at_s[-1]
    names = [row for row in found if row["Name"] != TOTAL and (not reset or _number(row, "Timestamp") > began_s)]
    last = {(row["Type"], row["Name"]): row for row in names}
    scenario = _summary(path, [*last.values(), totals[-1]], ended_s - began_s, OF_HISTORY)
    return ImportedRun(
        tool=_tool("stats_history.csv", scenario, SECONDS, CURRENT, *([RESET] if reset else [])),
        summaries={SCENARIO: scenario},
        started_at=datetime.fromtimestamp(began_s, UTC),
        clock_error_ms=1000.0,
    )


def _rows(path: Path, needed: Sequence[str]) -> list[Row]:
    found: list[Row] = [row for _, row in files.table(path, ("Type", "Name", *needed))]
    if not found or found[-1]["Name"] != TOTAL:
        raise BrokenFile(f"no {TOTAL} at its end: it is half-written")
    return found


def _summary(path: Path, found: Sequence[Row], duration_s: float, prefix: str = "") -> ImportedSummary:
    """Read the last row, which is about all, and those before it by name."""
    names = [row for row in found if row["Name"] != TOTAL and _number(row, prefix + COLUMNS[0]) > 0]
    by = {label(row["Type"], row["Name"]): ImportedFigures(**_figures(row, prefix)) for row in names}
    every = _figures(found[-1], prefix)
    return ImportedSummary(**every, duration_s=duration_s, errors=_errors(path, every["failed"]), by={files.DIMENSION: by} if by else {})


def _errors(path: Path, failed: int) -> dict[str, int]:
    """Return failures by kind, from the file beside this one; all of kind `other` where there is none that has as many."""
    beside = path.with_name(path.name.removesuffix(".csv").removesuffix("_history").removesuffix("_stats") + "_failures.csv")
    kinds: Counter[str] = Counter()
    if failed and beside != path and beside.is_file():
        with contextlib.suppress(*files.UNREADABLE):
            for _, row in files.table(beside, FAILURES):
                kinds[files.kind_of(row["Error"]).name] += int(row["Occurrences"])
    return dict(kinds) if kinds.total() == failed else {ErrorKind.other.name: failed}


def _tool(output: str, scenario: ImportedSummary, *notes: str) -> Tool:
    unknown = [NO_KINDS] if scenario.errors.keys() == {ErrorKind.other.name} else []
    of_names = sum(one.requests for one in scenario.by.get(files.DIMENSION, {}).values())
    if of_names not in (0, scenario.requests):
        unknown.append(f"it contradicts itself: {of_names:,} requests by name, {scenario.requests:,} of all")
    return files.tool("locust", output, CLOSED, CUT_OFF, LAST_SECOND, *notes, *unknown)


def _figures(row: Row, prefix: str) -> Figures:
    requests, failed, median_ms, mean_ms, min_ms, max_ms, size = (_number(row, prefix + name) for name in COLUMNS)
    percentiles_ms = {50: median_ms} if prefix else {p: _number(row, f"{p}%") for p in recording.LEVELS}
    times = recording.distribution(int(requests), percentiles_ms, mean_ms=mean_ms, min_ms=min_ms, max_ms=max_ms)
    return {"requests": int(requests), "failed": int(failed), "response_time_ms": times, "bytes_mean": size}


def _number(row: Row, name: str) -> float:
    """Return a figure; NaN where the file has none."""
    text = row.get(name, "")
    return math.nan if text in ("", "N/A") else float(text)


# ---- JSON ----

JSON_ROUNDED = "its times are rounded to two digits or to 1 ms, and so are the percentiles, which are ours"
JSON_NO_KINDS = "which kinds of failure there were is not in it"
FIRST_REQUEST = "it does not say when its first request began: its duration counts from as long before the first answer as requests took"
_WHOLE = re.compile(r"^\[\s*\{.*^\]\s*$|^\[\{.*\}\]\s*$", re.DOTALL | re.MULTILINE)  # among the lines of a log, where it went to stdout


# all requests of one name each; times in ms, instants in s since 1970, the first that of its first answer
Entries = Sequence[Mapping[str, Any]]


def read_json(path: Path) -> ImportedRun:
    """Read JSON."""
    text = files.text(path)
    whole = _WHOLE.search(text)
    entries = [one for one in files.document(path, list[dict[str, Any]], whole[0] if whole else text) if one["num_requests"]]
    if not entries:
        raise BrokenFile("no request")
    if len({(one["method"], one["name"]) for one in entries}) < len(entries):
        raise BrokenFile("requests of one name twice: parts of it are repeated")
    longest, shortest = ("max_response_time", "min_response_time")
    began_s = [min(one["start_time"] - (one[took] or 0.0) / 1000 for one in entries) for took in (longest, shortest)]
    ended_s = max(one["last_request_timestamp"] or began_s[0] for one in entries)
    by = {label(one["method"] or "", one["name"]): ImportedFigures(**_figures_of([one])) for one in entries}
    total = _figures_of(entries)
    errors = {"other": total["failed"]}
    scenario = ImportedSummary(**total, duration_s=ended_s - sum(began_s) / 2, errors=errors, by={files.DIMENSION: by} if by else {})
    return ImportedRun(
        tool=files.tool("locust", "JSON", CLOSED, CUT_OFF, JSON_ROUNDED, JSON_NO_KINDS, FIRST_REQUEST),
        summaries={SCENARIO: scenario},
        started_at=datetime.fromtimestamp(began_s[0], UTC),
        clock_error_ms=(began_s[1] - began_s[0]) / 2 * 1000,
    )


def _figures_of(entries: Entries) -> Figures:
    """Return counts, the exact mean and extremes, and the percentiles of the rounded times."""
    requests, failed, untimed, size, total_ms = (
        sum(one[name] for one in entries)
        for name in ("num_requests", "num_failures", "num_none_requests", "total_content_length", "total_response_time")
    )
    counts: Counter[float] = Counter()
    for one in entries:
        counts.update({float(ms): count for ms, count in one["response_times"].items()})
    if (n := requests - untimed) != counts.total():
        raise BrokenFile(f"{counts.total()} times of {n} requests")
    rounded = intervals.distribution(np.repeat(np.array(list(counts)), list(counts.values())), np.array([n]))
    times = recording.distribution(
        n,
        {level: getattr(rounded, f"p{level}").value for level in recording.LEVELS} if rounded else {},
        mean_ms=total_ms / n if n else math.nan,
        min_ms=min((one["min_response_time"] for one in entries if one["min_response_time"] is not None), default=math.nan),
        max_ms=max(one["max_response_time"] for one in entries),
    )
    return {"requests": requests, "failed": failed, "response_time_ms": times, "bytes_mean": size / requests}
