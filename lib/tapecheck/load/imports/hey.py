"""Reads hey's report, and what `hey -o csv` writes."""

import math
import re
from collections import Counter
from pathlib import Path

from tapecheck.load import recording
from tapecheck.load.engine.recorder import ErrorKind
from tapecheck.load.imports import files
from tapecheck.load.imports.files import CLOSED, CUT_OFF, Broken, Format, Measurement, Requests
from tapecheck.load.recording import Testimony

COLUMNS = "response-time,DNS+dialup,DNS,Request-write,Response-delay,Response-read"
NEEDED = ("response-time", "Response-read", "status-code", "offset")
STEPS = "its times are steps of 0.1 ms"
ANSWERS = "requests without an answer are not in it, so neither the success ratio nor a percentile can be proven by it; the report has them"
MOST = "its percentiles are those of the first million answers"


def read_csv(path: Path) -> Measurement:
    """Read CSV; its clock counts from the start of the run."""
    requests = Requests()
    for number, row in files.table(path, NEEDED):
        files.as_read(number, lambda row=row: _add(requests, *(row[name] for name in NEEDED)))  # type: ignore[misc]
    if not len(requests):
        raise Broken("no answer")
    return Measurement(tool=files.tool("hey", "CSV", CLOSED, STEPS, ANSWERS, answers_only=True), requests=requests)


def _add(requests: Requests, took: str, reading: str, status: str, offset: str) -> None:
    sent_ns = round(float(offset) * 1e9)
    done_ns = sent_ns + round(float(took) * 1e9)
    error = ErrorKind.status if files.is_failure(int(status)) else ErrorKind.none
    first_byte_ns = done_ns - round(float(reading) * 1e9)
    requests.add("hey", sent_ns=sent_ns, done_ns=done_ns, first_byte_ns=first_byte_ns, status=int(status), error=error)


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
    return Testimony(
        requests=answers + sum(count for count, _ in failed),
        failed=errors.total(),
        duration_s=duration_s,
        response_time_ms=recording.distribution(
            answers,
            {int(p): float(s) * 1000 for p, s in re.findall(r"(\d+)%+ in ([\d.]+) secs", text)},
            mean_ms=_number(text, r"Average:\s+([\d.]+) secs") * 1000,
            min_ms=_number(text, r"Fastest:\s+([\d.]+) secs") * 1000,
            max_ms=_number(text, r"Slowest:\s+([\d.]+) secs") * 1000,
        ),
        errors=dict(+errors),
    )


def _number(text: str, pattern: str) -> float:
    found = re.search(pattern, text)
    return float(found[1]) if found else math.nan


FORMATS = (
    Format(name="hey CSV (hey -o csv)", begins=lambda text: text.startswith(COLUMNS), read=read_csv),
    Format(name="hey's report", begins=lambda text: text.startswith("Summary:\n") and "Requests/sec:" in text, read=read_text),
)
