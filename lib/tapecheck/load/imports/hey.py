"""Reads hey's report, and what `hey -o csv` writes."""

import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from tapecheck.load import recording
from tapecheck.load.imports import files
from tapecheck.load.imports.files import CLOSED, CUT_OFF, Broken, Format, Measurement, Request, Requests
from tapecheck.load.recording import Figures, Testimony

COLUMNS = "response-time,DNS+dialup,DNS,Request-write,Response-delay,Response-read"
NEEDED = ("response-time", "Response-read", "status-code", "offset")
FIGURES = {"mean_ms": "Average", "min_ms": "Fastest", "max_ms": "Slowest"}
STEPS = "its times are steps of 0.1 ms"
ANSWERS = "requests without an answer are not in it, so neither the success ratio nor a percentile can be proven by it; the report has them"
MOST = "its percentiles are those of the first million answers"


def read_csv(path: Path) -> Measurement:
    """Read CSV; its clock counts from the start of the run."""
    tool = files.tool("hey", "CSV", CLOSED, STEPS, ANSWERS, answers_only=True)
    return Measurement(tool=tool, requests=Requests(files.parsed(files.table(path, NEEDED), _request)))


def _request(row: Mapping[str, str]) -> Request:
    took_ns, reading_ns, sent_ns = (round(float(row[name]) * 1e9) for name in ("response-time", "Response-read", "offset"))
    status, done_ns = int(row["status-code"]), sent_ns + took_ns
    return Request("hey", sent_ns, done_ns, status, files.kind_of("", status), first_byte_ns=done_ns - reading_ns)


def read_text(path: Path) -> Measurement:
    """Read the report."""
    return Measurement(tool=files.tool("hey", "report", CLOSED, CUT_OFF, STEPS, MOST), told={"hey": figures(files.text(path))})


def figures(text: str) -> Testimony:
    """Return the figures of a report.

    Raises:
        Broken: it is not whole.
    """
    statuses = {int(status): int(count) for status, count in re.findall(r"\[(\d+)\]\s+(\d+) responses", text)}
    failed = [(int(count), said) for count, said in re.findall(r"\[(\d+)\]\s+(.+)", text.partition("Error distribution:")[2])]
    if not statuses and not failed:
        raise Broken("neither a status code nor an error distribution: it is half-written")
    if math.isnan(duration_s := _number(text, r"Total:\s+([\d.]+) secs")):
        raise Broken("no total time: of another version")
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
    total = Figures(requests=answers + sum(count for count, _ in failed), failed=errors.total(), response_time_ms=times)
    return files.summary(total, duration_s=duration_s, errors=errors)


def _number(text: str, pattern: str) -> float:
    found = re.search(pattern, text)
    return float(found[1]) if found else math.nan


FORMATS = (
    Format(name="hey CSV (hey -o csv)", begins=lambda text: text.startswith(COLUMNS), read=read_csv),
    Format(name="hey's report", begins=lambda text: text.startswith("Summary:\n") and "Requests/sec:" in text, read=read_text),
)
