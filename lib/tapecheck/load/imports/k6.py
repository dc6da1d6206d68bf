"""Reads what `k6 run --out json=FILE` and `--out csv=FILE` write: several points a request, one after the other."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from tapecheck.load import recording
from tapecheck.load.engine.recorder import ErrorKind
from tapecheck.load.imports import files
from tapecheck.load.imports.files import EPOCH, BrokenFile, Format, ImportedRun, Request, Requests, nanoseconds
from tapecheck.load.recording import ImportedFigures
from tapecheck.statistics.intervals import Distribution

BEGINS = "http_reqs"  # the first point of a request
TIMES = frozenset({"http_req_duration", "http_req_blocked", "http_req_receiving"})
WANTED = frozenset({BEGINS, "http_req_failed", "iterations", "dropped_iterations", *TIMES})
CSV_COLUMNS = ("metric_name", "timestamp", "metric_value")
TAGS = ("method", "name", "url", "status", "scenario", "error_code")
DIGITS_OF_SECONDS = 10
EXECUTOR = "it does not say which executor sent; a closed one, such as constant-vus, asks a target that stalls less, and finds it too fast"
NO_SCENARIO = "no_scenario"  # of requests in setup and teardown, or where the tag was switched off
SECONDS_NOTE = "its times are whole seconds, so its duration may be one second off; K6_CSV_TIME_FORMAT=unix_nano tells more"
_CODES = (  # (first, last, kind) of k6's error codes
    (1050, 1050, ErrorKind.timeout),
    (1100, 1199, ErrorKind.unreachable),
    (1211, 1211, ErrorKind.connect_timeout),
    (1212, 1212, ErrorKind.connect_refused),
    (1210, 1213, ErrorKind.unreachable),
    (1201, 1201, ErrorKind.reset),
    (1220, 1220, ErrorKind.reset),
    (1300, 1399, ErrorKind.tls),
    (1400, 1599, ErrorKind.status),
    (1600, 1699, ErrorKind.protocol),
    (1700, 1799, ErrorKind.content),
)


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


@dataclass(slots=True)
class _Points:
    """The points of one request."""

    first: K6Point
    values: dict[str, float] = field(default_factory=dict)


def read_json(path: Path) -> ImportedRun:
    """Read JSON lines."""
    return _run("JSON lines", files.parsed(files.lines(path), msgspec.json.Decoder(K6Point).decode))


def read_csv(path: Path) -> ImportedRun:
    """Read CSV."""
    in_seconds = _in_seconds(path)
    run = _run("CSV", files.parsed(files.table(path, CSV_COLUMNS), _of_row), *([SECONDS_NOTE] if in_seconds else []))
    return replace(run, clock_error_ms=1000.0 if in_seconds else 0.0)


def _of_row(row: Mapping[str, str]) -> K6Point:
    tags = Tags(**{name: row[name] for name in TAGS if row.get(name)})
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


def _in_seconds(path: Path) -> bool:
    _, row = next(files.table(path, CSV_COLUMNS), (0, {"timestamp": ""}))
    return len(row["timestamp"]) == DIGITS_OF_SECONDS or (not row["timestamp"].isdecimal() and "." not in row["timestamp"])


def _run(output: str, points: Iterable[tuple[int, K6Point]], *notes: str) -> ImportedRun:
    iterations, dropped = Counter[str](), Counter[str]()
    requests = Requests(files.parsed(_requests(points, {"iterations": iterations, "dropped_iterations": dropped}), _request))
    aside = requests.leave_out(NO_SCENARIO)
    short = [f"it dropped {count:,.0f} iterations of {name}, for want of free users" for name, count in dropped.items()]
    short += [f"requests of setup and teardown, which are of no scenario, are left out: {aside:,}"] if aside else []
    return ImportedRun(
        tool=files.tool("k6", output, EXECUTOR, *short, *notes),
        requests=requests,
        achieved_ratio={name: iterations[name] / (iterations[name] + count) for name, count in dropped.items()},
    )


def _requests(points: Iterable[tuple[int, K6Point]], counters: dict[str, "Counter[str]"]) -> Iterator[tuple[int, _Points]]:
    """Put the points of each request together, which k6 writes in one go; count what belongs to none."""
    line, request = 0, None
    for number, point in points:
        if point.type != "Point" or point.metric not in WANTED:
            continue
        if point.metric in counters:
            counters[point.metric][point.data.tags.scenario] += point.data.value  # type: ignore[assignment]
        elif point.metric == BEGINS:
            if request is not None:
                yield line, request
            line, request = number, _Points(point)
        elif request is None:
            raise BrokenFile(f"{point.metric} before any {BEGINS}", number)
        else:
            request.values[point.metric] = point.data.value
    if request is not None:
        yield line, request


def _request(one: _Points) -> Request:
    """Return a request; it began when k6 began to look for a connection, as ours do."""
    tags, done_ns = one.first.data.tags, nanoseconds(one.first.data.time)
    status = int(tags.status or 0)
    took_ms = one.values.get("http_req_duration", math.nan) + one.values.get("http_req_blocked", 0.0)
    if math.isnan(took_ms):
        raise ValueError("a request without http_req_duration: half-written, or of another version")
    failed = one.values.get("http_req_failed", files.is_failure(status))
    return Request(
        scenario=tags.scenario,
        sent_ns=done_ns - round(took_ms * 1e6),
        done_ns=done_ns,
        first_byte_ns=done_ns - round(one.values.get("http_req_receiving", 0.0) * 1e6) if status else 0,
        status=status,
        error=_error(tags.error_code, status) if failed else ErrorKind.none,
        method=tags.method,
        name=tags.name,
        url=tags.url,
    )


def _error(code: str, status: int) -> ErrorKind:
    number = int(code or 0)
    known = next((kind for first, last, kind in _CODES if first <= number <= last), None)
    return known or (ErrorKind.status if status else ErrorKind.other)


# ---- summaries ----

NO_CONNECTING = "its times begin when the connection is there; the JSON and CSV outputs have the time before that too"
ALL = "its scenarios are not told apart"
NO_KINDS = "which kinds of failure there were is not in it"
FEW = "its percentiles are those that summaryTrendStats names"
Values = Mapping[str, float]


class Summary(msgspec.Struct):
    """The part of either that is read: metrics by name."""

    metrics: dict[str, dict[str, Any]]


def read_summary(path: Path) -> ImportedRun:
    """Read JSON."""
    metrics = files.document(path, Summary).metrics
    requests, took, failed = (_values(metrics, name) for name in ("http_reqs", "http_req_duration", "http_req_failed"))
    dropped, done = (_values(metrics, name).get("count", 0.0) for name in ("dropped_iterations", "iterations"))
    n, rate_rps = int(requests.get("count", 0)), requests.get("rate", 0.0)
    if not n or not rate_rps:
        raise BrokenFile("no http_reqs: no request, or of another version")
    short = [f"it dropped {dropped:,.0f} iterations, for want of free users"] if dropped else []
    count = int(failed.get("passes", 0))  # k6 counts as passed what is true: "it failed"
    total = ImportedFigures(requests=n, failed=count, response_time_ms=_times(n, took))
    return ImportedRun(
        tool=files.tool("k6", "summary", EXECUTOR, *short, NO_CONNECTING, ALL, NO_KINDS, FEW),
        summaries={"k6": files.summary(total, duration_s=n / rate_rps, errors={"other": count})},
        achieved_ratio={"k6": done / (done + dropped)} if dropped else {},
    )


def _values(metrics: Mapping[str, dict[str, Any]], name: str) -> Values:
    """Return the figures of a metric, which handleSummary has one level deeper."""
    metric = metrics.get(name, {})
    values = metric.get("values", metric)
    return {key: float(value) for key, value in values.items() if isinstance(value, int | float)}


def _times(n: int, took: Values) -> Distribution | None:
    if "avg" not in took:
        raise BrokenFile("no http_req_duration: of another version")
    percentiles_ms = {50: took.get("med", took.get("p(50)", math.nan)), **{p: took.get(f"p({p})", math.nan) for p in (90, 95, 99)}}
    return recording.distribution(
        n, percentiles_ms, mean_ms=took["avg"], min_ms=took.get("min", math.nan), max_ms=took.get("max", math.nan)
    )


FORMATS = (
    Format(
        name="k6 JSON lines (k6 run --out json=FILE)",
        begins=lambda text: text.startswith('{"') and '"metric":"' in text.partition("\n")[0] and '"type":"' in text.partition("\n")[0],
        read=read_json,
    ),
    Format(name="k6 CSV (k6 run --out csv=FILE)", begins=lambda text: text.startswith(",".join(CSV_COLUMNS)), read=read_csv),
    Format(
        name="k6 summary (k6 run --summary-export FILE, or handleSummary)",
        begins=lambda text: text.startswith("{") and '"metrics"' in text and '"http_req' in text,
        read=read_summary,
    ),
)
