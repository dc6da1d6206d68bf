"""Reads the reports of wrk, wrk2 and hey, line by line as they print them, what `hey -o csv` writes, and the JSON of oha."""

import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tapecheck.load import recording
from tapecheck.load.imports import files
from tapecheck.load.imports.files import CLOSED, CUT_OFF, BrokenFile, ImportedRun, Request, Requests, origin_of
from tapecheck.load.recording import ImportedSummary, Tool

LINES = re.MULTILINE
TWO = "two reports in one file, each of which is a run of its own: give each a file"


def _once(pattern: str, text: str) -> re.Match[str] | None:
    """Find a line that a report has once."""
    found = list(re.finditer(pattern, text, LINES))
    if len(found) > 1:
        raise BrokenFile(TWO)
    return found[0] if found else None


def _steady(n: int, printed_s: float, step_s: float, rate_rps: float) -> tuple[float, float]:
    """Return a duration and how far it may be off, in s: of the printed duration and rate, what was rounded less decides.

    Args:
        step_s: to which the duration is rounded; the rate is rounded to 0.01/s at the least.
    """
    by_rate_s = n / rate_rps if rate_rps > 0 else math.nan
    rate_step_s = by_rate_s * 0.01 / rate_rps if rate_rps > 0 else math.inf
    if n and rate_rps > 0 and abs(by_rate_s - printed_s) > 2 * (step_s + rate_step_s) + 0.01 * printed_s:
        raise BrokenFile(f"{n:,} requests in {printed_s:g} s are not {rate_rps:g} a second: its figures contradict each other")
    return (by_rate_s, rate_step_s) if n and rate_step_s < step_s else (printed_s, step_s)


# ---- wrk ----

SCALE_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0, "h": 3_600_000.0}
IS_WRK2 = r"^  Thread calibration: |HdrHistogram - Recorded Latency"
_TIME = r"([\d.]+)(us|ms|s|m|h)\b"
CORRECTED = "its times hold made-up ones, by which it estimates what it left out"
CUT = "times beyond its --timeout are left out of its figures, and counted as failures here"
NO_LATENCY = "its percentiles are missing; wrk --latency prints them"
DUE = "its times count from when each request was due, and leave out those of its first seconds, in which it calibrates"
UNCORRECTED = r"^  Latency Distribution \(HdrHistogram - Uncorrected.*?^-{20,}$"  # wrk2 -U: times from when it was sent
OWN = r"^  Latency Distribution(?: \(HdrHistogram - Recorded Latency\))?$\n((?:^ *[\d.]+%.*\n)+)"  # a script may print more such lines


def read_wrk(path: Path) -> ImportedRun:
    """Read the report."""
    text = re.sub(UNCORRECTED, "", files.text(path), flags=LINES | re.DOTALL)
    found, error_s = wrk_figures(text)
    url = _once(r"^Running .+ test @ (\S+)$", text)
    unsaid = [] if re.search(OWN, text, LINES) else [NO_LATENCY]
    tool = files.tool("wrk", "report", CLOSED, CUT_OFF, CORRECTED, CUT, *unsaid)
    if re.search(IS_WRK2, text, LINES):
        tool = Tool(name="wrk2", output="report", notes=(DUE, CUT_OFF, CUT, *unsaid))
    return ImportedRun(tool=tool, summaries={tool.name: found}, url=origin_of(url[1]) if url else "", clock_error_ms=error_s * 1000)


def wrk_figures(text: str) -> tuple[ImportedSummary, float]:
    """Return the figures of a report, and how far its duration may be off in s; what did not end in an answer is a request that failed."""
    counted = _once(rf"^  (\d+) requests in {_TIME}, \S+ read$", text)
    rate = _once(r"^Requests/sec:\s+([\d.]+)$", text)
    if counted is None or rate is None or _once(r"^Transfer/sec:\s+[\d.]+\w*B$", text) is None:
        raise BrokenFile("no total at its end: it is half-written")
    answers = int(counted[1])
    duration_s, error_s = _steady(answers, _ms(counted[2], counted[3]) / 1000, 0.01 * SCALE_MS[counted[3]] / 1000, float(rate[1]))
    socket = _once(r"^  Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)$", text)
    connect, reading, writing, timeout = map(int, socket.groups()) if socket else (0, 0, 0, 0)
    bad = _once(r"^  Non-2xx or 3xx responses: (\d+)$", text)
    errors = {"status": int(bad[1]) if bad else 0, "timeout": timeout, "unreachable": connect, "other": reading + writing}
    requests = answers + connect + reading + writing
    latency = _once(rf"^    Latency\s+{_TIME}\s+{_TIME}\s+{_TIME}", text)
    mean_ms, max_ms = (_ms(latency[1], latency[2]), _ms(latency[5], latency[6])) if latency else (math.nan, math.nan)
    own, spectrum = re.search(OWN, text, LINES), re.search(r"^ +([\d.]+) +0\.950000 +\d+ +20\.00$", text, LINES)
    found = re.findall(rf"^ *(\d+)(?:\.000)?% +{_TIME} *$", own[1] if own else "", LINES)
    percentiles = {int(p): _ms(value, unit) for p, value, unit in found} | ({95: float(spectrum[1])} if spectrum else {})
    counted = _once(r"^#\[Max += +[\d.]+, Total count += +(\d+)\]$", text)  # by wrk2, after it has calibrated
    times = recording.distribution(int(counted[1]) if counted else max(answers - timeout, 0), percentiles, mean_ms=mean_ms, max_ms=max_ms)
    failed = min(requests, sum(errors.values()))
    return ImportedSummary(requests=requests, failed=failed, response_time_ms=times, duration_s=duration_s, errors=errors), error_s


def _ms(value: str, unit: str) -> float:
    return float(value) * SCALE_MS[unit]


# ---- hey ----

NEEDED = ("response-time", "Response-read", "status-code", "offset")
FIGURES = {"mean_ms": "Average", "min_ms": "Fastest", "max_ms": "Slowest"}
STEPS = "its times are steps of 0.1 ms"
ANSWERS = "requests without an answer are not in it, so neither the success ratio nor a percentile can be proven by it; the report has them"
MOST = 1_000_000  # answers of which hey keeps figures
TOO_MANY = f"more answers than the {MOST:,} of which hey keeps figures, so that its counts and mean are wrong: measure in shorter runs"


def read_hey_csv(path: Path) -> ImportedRun:
    """Read CSV; its clock counts from the start of the run."""
    tool = files.tool("hey", "CSV", CLOSED, STEPS, ANSWERS, answers_only=True)
    found = ImportedRun(tool=tool, requests=Requests(files.parsed(files.table(path, NEEDED), _hey_request), exact=False))
    if found.requests and len(found.requests.rows) >= MOST:
        raise BrokenFile(TOO_MANY)
    return found


def _hey_request(row: Mapping[str, str]) -> Request:
    took_ns, reading_ns, sent_ns = (round(float(row[name]) * 1e9) for name in ("response-time", "Response-read", "offset"))
    status, done_ns = int(row["status-code"]), sent_ns + took_ns
    return Request("hey", sent_ns, done_ns, status, files.kind_of("", status), first_byte_ns=done_ns - reading_ns)


def read_hey(path: Path) -> ImportedRun:
    """Read the report."""
    found, error_s = hey_figures(files.text(path))
    return ImportedRun(tool=files.tool("hey", "report", CLOSED, CUT_OFF, STEPS), summaries={"hey": found}, clock_error_ms=error_s * 1000)


def hey_figures(text: str) -> tuple[ImportedSummary, float]:
    """Return the figures of a report, and how far its duration may be off in s."""
    summary, _, rest = text.partition("Status code distribution:")
    codes, _, said = rest.partition("Error distribution:")
    statuses = {int(status): int(count) for status, count in re.findall(r"^  \[(\d+)\]\s+(\d+) responses$", codes, LINES)}
    failed = [(int(count), message) for count, message in re.findall(r"^  \[(\d+)\]\s+(.+)$", said, LINES)]
    if None in (_once(r"^Summary:$", text), _once(r"^Status code distribution:$", text)) or not (statuses or failed):
        raise BrokenFile("neither a status code nor an error distribution: it is half-written")
    printed_s, rate_rps = _number(summary, r"^  Total:\t([\d.]+) secs$"), _number(summary, r"^  Requests/sec:\t([\d.]+)$")
    if math.isnan(printed_s) or math.isnan(rate_rps):
        raise BrokenFile("no total time: of another version")
    answers = sum(statuses.values())
    if answers >= MOST:
        raise BrokenFile(TOO_MANY)
    errors: Counter[str] = Counter()
    for count, message in failed:
        errors[files.kind_of(message).name] += count
    errors["status"] += sum(count for status, count in statuses.items() if files.is_failure(status))
    requests = answers + sum(count for count, _ in failed)
    duration_s, error_s = _steady(requests, printed_s, 1e-4, rate_rps)
    times = recording.distribution(
        answers,
        {int(p): float(s) * 1000 for p, s in re.findall(r"^  (\d+)%+ in ([\d.]+) secs$", summary, LINES)},
        **{name: _number(summary, rf"^  {word}:\t([\d.]+) secs$") * 1000 for name, word in FIGURES.items()},
    )
    n_failed = errors.total()
    return ImportedSummary(requests=requests, failed=n_failed, response_time_ms=times, duration_s=duration_s, errors=errors), error_s


def _number(text: str, pattern: str) -> float:
    found = re.search(pattern, text, LINES)
    return float(found[1]) if found else math.nan


# ---- oha ----

DEADLINE = "aborted due to deadline"


def read_oha(path: Path) -> ImportedRun:
    """Read JSON; what was in flight at the end, which oha counts apart, took at least as long as it was waited for."""
    data = files.document(path, dict[str, Any])
    summary, took = data["summary"], data["latencyPercentiles"]
    statuses = {int(status): count for status, count in data["statusCodeDistribution"].items()}
    errors: Counter[str] = Counter({"status": sum(count for status, count in statuses.items() if files.is_failure(status))})
    for message, count in data.get("errorDistribution", {}).items():
        errors["censored" if message == DEADLINE else files.kind_of(message).name] += count
    answers = sum(statuses.values())
    requests = answers + errors.total() - errors["status"]
    if not requests:
        raise BrokenFile("no request")
    times = recording.distribution(
        answers,
        {level: _known_ms(took.get(f"p{level}")) for level in recording.LEVELS},
        **{name: _known_ms(summary[word.lower()]) for name, word in FIGURES.items()},
    )
    figures = {"requests": requests, "failed": errors.total(), "response_time_ms": times}
    _steady(requests, summary["total"], 0.0, _known_ms(summary.get("requestsPerSec")) / 1000)
    found = ImportedSummary(**figures, duration_s=summary["total"], errors=errors)
    return ImportedRun(tool=files.tool("oha", "JSON", CLOSED), summaries={"oha": found})


def _known_ms(seconds: float | None) -> float:
    return math.nan if seconds is None else seconds * 1000
