"""Reads what `k6 run` writes with `--out json=FILE` and `--out csv=FILE`, several points a request, and its summaries."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from tapecheck.load import recording
from tapecheck.load.engine.recorder import ErrorKind
from tapecheck.load.imports import files
from tapecheck.load.imports.files import EPOCH, BrokenFile, ImportedRun, Request, Requests, nanoseconds
from tapecheck.load.recording import ImportedSummary
from tapecheck.statistics.intervals import Distribution

BEGINS = "http_reqs"  # the first point of a request
TIMES = ("http_req_duration", "http_req_blocked", "http_req_receiving")
OF_REQUEST = frozenset({*TIMES, "http_req_failed"})
COUNTED = ("iterations", "dropped_iterations")
CSV_COLUMNS = ("metric_name", "timestamp", "metric_value")
DIGITS_OF_SECONDS = 10
EXECUTOR = "it does not say which executor sent; a closed one, such as constant-vus, asks a target that stalls less, and finds it too fast"
NO_SCENARIO = "no_scenario"  # of requests in setup and teardown, or where the tag was switched off
SECONDS_NOTE = "its times are whole seconds, so its duration may be one second off; K6_CSV_TIME_FORMAT=unix_nano tells more"
UNKNOWN_FAILURES = "it does not say which requests failed"
_KINDS = {  # of k6's error codes, by themselves or by their hundreds
    1050: ErrorKind.timeout, 1201: ErrorKind.reset, 1220: ErrorKind.reset, 1210: ErrorKind.unreachable, 1213: ErrorKind.unreachable,
    1211: ErrorKind.connect_timeout, 1212: ErrorKind.connect_refused, 11: ErrorKind.unreachable, 13: ErrorKind.tls,
    14: ErrorKind.status, 15: ErrorKind.status, 16: ErrorKind.protocol, 17: ErrorKind.content,
}  # fmt: skip


class Tags(msgspec.Struct):
    """What a point is about."""

    method: str = ""
    name: str = ""
    url: str = ""
    status: str = ""
    scenario: str = NO_SCENARIO
    error_code: str = ""


class Data(msgspec.Struct):
    """When, how much, and of what; times are in ms."""

    time: datetime = EPOCH
    value: float = 0.0
    tags: Tags = msgspec.field(default_factory=Tags)


class K6Point(msgspec.Struct):
    """One value of one metric."""

    metric: str
    type: str
    data: Data


Points = tuple[Data, dict[str, float]]  # of one request: its first point, and the values of the others


def read_json(path: Path) -> ImportedRun:
    """Read JSON lines."""
    return _run("JSON lines", files.parsed(files.lines(path), msgspec.json.Decoder(K6Point).decode))


def read_csv(path: Path) -> ImportedRun:
    """Read CSV."""
    _, first = next(files.table(path, CSV_COLUMNS), (0, {"timestamp": ""}))
    at = first["timestamp"]
    in_seconds = len(at) == DIGITS_OF_SECONDS or (not at.isdecimal() and "." not in at)
    run = _run("CSV", files.parsed(files.table(path, CSV_COLUMNS), _of_row), *([SECONDS_NOTE] if in_seconds else []))
    return replace(run, clock_error_ms=1000.0 if in_seconds else 0.0)


def _of_row(row: Mapping[str, str]) -> K6Point:
    tags = Tags(**{name: row[name] for name in Tags.__struct_fields__ if row.get(name)})
    data = Data(time=_time(row["timestamp"]), value=float(row["metric_value"]), tags=tags)
    return K6Point(metric=row["metric_name"], type="Point", data=data)


def _time(text: str) -> datetime:
    """Read a time of any of K6_CSV_TIME_FORMAT's formats: seconds to nanoseconds since 1970, or RFC 3339."""
    if not text.isdecimal():
        return datetime.fromisoformat(text)
    digits = len(text) - DIGITS_OF_SECONDS
    if digits not in (0, 3, 6, 9):
        raise ValueError(f"no time: {text}")
    return EPOCH + timedelta(microseconds=int(text) * 10**6 // 10**digits)


def _run(output: str, points: Iterable[tuple[int, K6Point]], *notes: str) -> ImportedRun:
    counters = {name: Counter[str]() for name in COUNTED}
    requests = Requests(files.parsed(_requests(points, counters), _request), exact=SECONDS_NOTE not in notes)
    aside = requests.leave_out(NO_SCENARIO)
    iterations, dropped = (counters[name] for name in COUNTED)
    short = [f"it dropped {count:,.0f} iterations of {name}, for want of free users" for name, count in dropped.items()]
    short += [f"requests of setup and teardown, which are of no scenario, are left out: {aside:,}"] if aside else []
    return ImportedRun(
        tool=files.tool("k6", output, EXECUTOR, *short, *notes),
        requests=requests,
        achieved_ratio={name: iterations[name] / (iterations[name] + count) for name, count in dropped.items()},
    )


def _requests(points: Iterable[tuple[int, K6Point]], counters: Mapping[str, "Counter[str]"]) -> Iterator[tuple[int, Points]]:
    """Put the points of each request together, which k6 writes in one go; count what belongs to none."""
    line, request = 0, None
    for number, point in points:
        data = point.data
        if point.type != "Point":
            continue
        if point.metric in counters:
            counters[point.metric][data.tags.scenario] += data.value  # type: ignore[assignment]
        elif point.metric == BEGINS:
            if request is not None:
                yield line, request
            line, request = number, (data, dict[str, float]())
        elif point.metric in OF_REQUEST:
            if request is None or request[0].time != data.time or point.metric in request[1]:
                raise BrokenFile(f"{point.metric} without its {BEGINS}: lines are missing, repeated or out of order", number)
            request[1][point.metric] = data.value
    if request is not None:
        yield line, request


def _request(one: Points) -> Request:
    """Return a request; it began when k6 began to look for a connection, as ours do."""
    (first, values), tags = one, one[0].tags
    status, done_ns = int(tags.status or 0), nanoseconds(first.time)
    if missing := [name for name in TIMES if name not in values]:
        raise ValueError(f"a request without {', '.join(missing)}: half-written, or of another version")
    if not tags.status and not tags.error_code and "http_req_failed" not in values:
        raise ValueError(f"a request without status, error_code and http_req_failed: {UNKNOWN_FAILURES}")
    error = ErrorKind.none
    if values.get("http_req_failed", files.is_failure(status)):
        code = int(tags.error_code or 0)
        error = _KINDS.get(code) or _KINDS.get(code // 100) or (ErrorKind.status if status else ErrorKind.other)
    return Request(
        scenario=tags.scenario,
        sent_ns=done_ns - round((values["http_req_duration"] + values["http_req_blocked"]) * 1e6),
        done_ns=done_ns,
        first_byte_ns=done_ns - round(values["http_req_receiving"] * 1e6) if status else 0,
        status=status,
        error=error,
        method=tags.method,
        name=tags.name,
        url=tags.url,
    )


# ---- summaries ----

NO_CONNECTING = "its times begin when the connection is there; the JSON and CSV outputs have the time before that too"
ALL = "its scenarios are not told apart"
NO_KINDS = "which kinds of failure there were is not in it"
FEW = "its percentiles are those that summaryTrendStats names"


def read_summary(path: Path) -> ImportedRun:
    """Read what --summary-export, handleSummary or, from k6 1.5 on, --new-machine-readable-summary writes."""
    data = files.document(path, dict[str, Any])
    if "results" in data:  # machine-readable: a list of metrics, durations in s
        metrics = {one["name"]: one["values"] for one in data["results"]["metrics"]}
        duration_s = data.get("config", {}).get("duration", math.nan)
    else:
        metrics = {name: metric.get("values", metric) for name, metric in data["metrics"].items()}
        duration_s = data.get("state", {}).get("testRunDurationMs", math.nan) / 1000
    requests, took, failed, dropped, done = (
        metrics.get(name, {}) for name in ("http_reqs", "http_req_duration", "http_req_failed", "dropped_iterations", "iterations")
    )
    n, short = int(requests.get("count", 0)), dropped.get("count", 0.0)
    if math.isnan(duration_s) and n:
        duration_s = n / requests["rate"]
    if not n or not duration_s > 0:
        raise BrokenFile("no http_reqs: no request, or of another version")
    count, of = failed.get("matches", failed.get("passes")), failed.get("total", failed.get("passes", 0) + failed.get("fails", 0))
    if count is None or of != n:
        said = f"http_req_failed of {of:,} of {n:,} requests" if failed else "no http_req_failed"
        raise BrokenFile(f"{said}: {UNKNOWN_FAILURES}, and --out json does")
    found = ImportedSummary(requests=n, failed=count, response_time_ms=_times(n, took), duration_s=duration_s, errors={"other": count})
    notes = [f"it dropped {short:,.0f} iterations, for want of free users"] if short else []
    return ImportedRun(
        tool=files.tool("k6", "summary", EXECUTOR, *notes, NO_CONNECTING, ALL, NO_KINDS, FEW),
        summaries={"k6": found},
        achieved_ratio={"k6": done["count"] / (done["count"] + short)} if short else {},
    )


def _times(n: int, took: Mapping[str, float]) -> Distribution | None:
    names = {"mean_ms": "avg", "min_ms": "min", "max_ms": "max"}
    percentiles_ms = {p: took.get(f"p({p})", math.nan) for p in recording.LEVELS} | ({50: took["med"]} if "med" in took else {})
    if not took:
        raise BrokenFile("no http_req_duration: of another version")
    return recording.distribution(n, percentiles_ms, **{ours: took.get(name, math.nan) for ours, name in names.items()})
