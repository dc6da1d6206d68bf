"""Reads the reports of wrk and of hey, and what `hey -o csv` writes."""

import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from tapecheck.load import recording
from tapecheck.load.imports import files
from tapecheck.load.imports.files import CLOSED, CUT_OFF, BrokenFile, Format, ImportedRun, Request, Requests, origin_of
from tapecheck.load.recording import ImportedFigures, ImportedSummary
from tapecheck.statistics.intervals import Distribution

# ---- wrk ----

SCALE_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0, "h": 3_600_000.0}
_TIME = r"([\d.]+)(us|ms|s|m|h)\b"
CORRECTED = "its times hold made-up ones, by which it estimates what it left out"
CUT = "times beyond its --timeout are left out of its figures, and counted as failures here"
NO_LATENCY = "its percentiles are missing; wrk --latency prints them"


def read_wrk(path: Path) -> ImportedRun:
    """Read the report."""
    text = files.text(path)
    found = wrk_figures(text)
    notes = [CLOSED, CUT_OFF, CORRECTED, CUT, *([NO_LATENCY] if "Latency Distribution" not in text else [])]
    url = re.search(r"test @ (\S+)", text)
    return ImportedRun(tool=files.tool("wrk", "report", *notes), summaries={"wrk": found}, url=origin_of(url[1]) if url else "")


def wrk_figures(text: str) -> ImportedSummary:
    """Return the figures of a report; what did not end in an answer is a request that failed.

    Raises:
        BrokenFile: it is not whole, or one of wrk2.
    """
    if "HdrHistogram" in text:
        raise BrokenFile("a report of wrk2, whose times count from another start")
    counted = re.search(rf"(\d+) requests in {_TIME}", text)
    if counted is None or not re.search(r"Transfer/sec:\s+[\d.]+\w*B", text):
        raise BrokenFile("no total at its end: it is half-written")
    answers = int(counted[1])
    socket = {kind: int(count) for kind, count in re.findall(r"(connect|read|write|timeout) (\d+)", text)}
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    errors = {
        "status": int(bad[1]) if bad else 0,
        "timeout": socket.get("timeout", 0),
        "unreachable": socket.get("connect", 0),
        "other": socket.get("read", 0) + socket.get("write", 0),
    }
    requests = answers + errors["unreachable"] + errors["other"]
    times = _times(text, answers - errors["timeout"])
    total = ImportedFigures(requests=requests, failed=min(requests, sum(errors.values())), response_time_ms=times)
    return files.summary(total, duration_s=_ms(counted[2], counted[3]) / 1000, errors=errors)


def _times(text: str, answers: int) -> Distribution | None:
    latency = re.search(rf"Latency\s+{_TIME}\s+{_TIME}\s+{_TIME}", text)
    mean_ms, max_ms = (_ms(latency[1], latency[2]), _ms(latency[5], latency[6])) if latency else (math.nan, math.nan)
    percentiles = {int(p): _ms(value, unit) for p, value, unit in re.findall(rf"^\s+(\d+)%\s+{_TIME}", text, re.MULTILINE)}
    return recording.distribution(answers, percentiles, mean_ms=mean_ms, max_ms=max_ms)


def _ms(value: str, unit: str) -> float:
    return float(value) * SCALE_MS[unit]


# ---- hey ----

HEY_COLUMNS = "response-time,DNS+dialup,DNS,Request-write,Response-delay,Response-read"
NEEDED = ("response-time", "Response-read", "status-code", "offset")
FIGURES = {"mean_ms": "Average", "min_ms": "Fastest", "max_ms": "Slowest"}
STEPS = "its times are steps of 0.1 ms"
ANSWERS = "requests without an answer are not in it, so neither the success ratio nor a percentile can be proven by it; the report has them"
MOST = "its percentiles are those of the first million answers"


def read_hey_csv(path: Path) -> ImportedRun:
    """Read CSV; its clock counts from the start of the run."""
    tool = files.tool("hey", "CSV", CLOSED, STEPS, ANSWERS, answers_only=True)
    return ImportedRun(tool=tool, requests=Requests(files.parsed(files.table(path, NEEDED), _hey_request)))


def _hey_request(row: Mapping[str, str]) -> Request:
    took_ns, reading_ns, sent_ns = (round(float(row[name]) * 1e9) for name in ("response-time", "Response-read", "offset"))
    status, done_ns = int(row["status-code"]), sent_ns + took_ns
    return Request("hey", sent_ns, done_ns, status, files.kind_of("", status), first_byte_ns=done_ns - reading_ns)


def read_hey(path: Path) -> ImportedRun:
    """Read the report."""
    return ImportedRun(tool=files.tool("hey", "report", CLOSED, CUT_OFF, STEPS, MOST), summaries={"hey": hey_figures(files.text(path))})


def hey_figures(text: str) -> ImportedSummary:
    """Return the figures of a report.

    Raises:
        BrokenFile: it is not whole.
    """
    statuses = {int(status): int(count) for status, count in re.findall(r"\[(\d+)\]\s+(\d+) responses", text)}
    failed = [(int(count), said) for count, said in re.findall(r"\[(\d+)\]\s+(.+)", text.partition("Error distribution:")[2])]
    if not statuses and not failed:
        raise BrokenFile("neither a status code nor an error distribution: it is half-written")
    if math.isnan(duration_s := _number(text, r"Total:\s+([\d.]+) secs")):
        raise BrokenFile("no total time: of another version")
    answers = sum(statuses.values())
    errors: Counter[str] = Counter()
    for count, said in failed:
        errors[files.kind_of(said).name] += count
    errors["status"] += sum(count for status, count in statuses.items() if files.is_failure(status))
    times = recording.distribution(
        answers,
        {int(p): float(s) * 1000 for p, s in re.findall(r"(\d+)%+ in ([\d.]+) secs", text)},
        **{name: _number(text, rf"{word}:\s+([\d.]+) secs") * 1000 for name, word in FIGURES.items()},
    )
    total = ImportedFigures(requests=answers + sum(count for count, _ in failed), failed=errors.total(), response_time_ms=times)
    return files.summary(total, duration_s=duration_s, errors=errors)


def _number(text: str, pattern: str) -> float:
    found = re.search(pattern, text)
    return float(found[1]) if found else math.nan


FORMATS = (
    Format(name="wrk's report", begins=lambda text: text.startswith("Running ") and " test @ " in text, read=read_wrk),
    Format(name="hey CSV (hey -o csv)", begins=lambda text: text.startswith(HEY_COLUMNS), read=read_hey_csv),
    Format(name="hey's report", begins=lambda text: text.startswith("Summary:\n") and "Requests/sec:" in text, read=read_hey),
)
