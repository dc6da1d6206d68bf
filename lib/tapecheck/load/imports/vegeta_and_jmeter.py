"""Reads what `vegeta encode` writes as JSON or CSV, what `vegeta report -type=json` makes of it, and the CSV results of JMeter (JTL)."""

import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from tapecheck.load import recording
from tapecheck.load.engine.recorder import ErrorKind
from tapecheck.load.imports import files
from tapecheck.load.imports.files import CLOSED, BrokenFile, ImportedRun, Request, Requests, nanoseconds
from tapecheck.load.recording import ImportedSummary

COLUMNS = (9, 12)  # of a CSV: versions 12.0 to 12.8 have no method, URL and headers
BODIES = "its bytes are those of the body alone"
ESTIMATED = "its percentiles are estimates"


class Hit(msgspec.Struct):
    """One request as vegeta writes it; its latency is in ns."""

    timestamp: datetime
    latency: int
    code: int
    bytes_in: int
    error: str = ""
    attack: str = ""
    method: str = ""
    url: str = ""


def read_json(path: Path) -> ImportedRun:
    """Read JSON lines."""
    hits = files.parsed(files.lines(path), msgspec.json.Decoder(Hit).decode)
    return _measurement("JSON", files.parsed(hits, lambda hit: _request(hit, nanoseconds(hit.timestamp))))


def read_csv(path: Path) -> ImportedRun:
    """Read CSV, which has no header."""
    return _measurement("CSV", files.parsed(files.rows(path), _of_row))


def _of_row(row: list[str]) -> Request:
    if len(row) not in COLUMNS:
        raise ValueError(f"{len(row)} columns where vegeta writes {' or '.join(map(str, COLUMNS))}")
    at_ns, code, latency_ns, _, size = map(int, row[:5])
    method, url = row[9:11] if len(row) > COLUMNS[0] else ("", "")
    hit = Hit(timestamp=datetime.min, latency=latency_ns, code=code, bytes_in=size, error=row[5], attack=row[7], method=method, url=url)
    return _request(hit, at_ns)


def _request(hit: Hit, at_ns: int) -> Request:
    return Request(
        scenario=hit.attack or "vegeta",
        sent_ns=at_ns,
        done_ns=at_ns + hit.latency,
        status=hit.code,
        error=files.kind_of(hit.error, hit.code),
        bytes=hit.bytes_in,
        method=hit.method,
        name=hit.url,
    )


def _measurement(output: str, found: Iterable[tuple[int, Request]]) -> ImportedRun:
    return ImportedRun(tool=files.tool("vegeta", output, BODIES), requests=Requests(found))


def read_report(path: Path) -> ImportedRun:
    """Read a report in JSON; of failures without an answer the kind is known only where all messages are of one.

    Older versions have neither p90 nor minimum. It lasts until the last hit, and from then until the last answer.
    """
    report = files.document(path, dict[str, Any])
    n, took, began = report["requests"], report["latencies"], datetime.fromisoformat(report["earliest"])
    nanoseconds(began)
    if not n:
        raise BrokenFile("no request")
    if (counted := sum(report["status_codes"].values())) != n:
        raise BrokenFile(f"{counted:,} status codes of {n:,} requests")
    failed = {status: count for status, count in report["status_codes"].items() if files.is_failure(int(status))}
    silent = failed.pop("0", 0)
    kinds = {files.kind_of(message).name for message in report.get("errors") or ()} - {"status"}
    errors = {"status": sum(failed.values()), kinds.pop() if len(kinds) == 1 else "other": silent}
    percentiles_ms = {level: took.get(f"{level}th", math.nan) / 1e6 for level in recording.LEVELS}
    exact_ms = {f"{name}_ms": took.get(name, math.nan) / 1e6 for name in ("mean", "min", "max")}
    times = recording.distribution(n, percentiles_ms, **exact_ms)
    summary = ImportedSummary(
        requests=n,
        failed=sum(errors.values()),
        response_time_ms=times,
        bytes_mean=report["bytes_in"]["mean"],
        duration_s=(report["duration"] + report["wait"]) / 1e9,
        errors=errors,
    )
    return ImportedRun(tool=files.tool("vegeta", "report", ESTIMATED, BODIES), summaries={"vegeta": summary}, started_at=began)


# ---- JMeter: its columns depend on its settings ----

JTL_COLUMNS = ("timeStamp", "elapsed", "success")
DIGITS = 13  # of a time in ms since 1970
SCENARIO, CONTROLLER = "jmeter", "transaction controllers"
NO_MESSAGE = f"without responseMessage, samples of {CONTROLLER} cannot be told from requests: where there are any, it counts them twice"
OF_CONTROLLER = "Number of samples in transaction"
MILLISECONDS = "its clock counts in ms; its times are taken for those of the start (sampleresult.timestamp.start, which its settings have)"


def read_jtl(path: Path) -> ImportedRun:
    """Read CSV; samples of transaction controllers, which are sums of others, are left out."""
    _, first = next(files.table(path, JTL_COLUMNS), (0, {}))
    requests = Requests(files.parsed(files.table(path, JTL_COLUMNS), _sample), exact=False)
    aside = requests.leave_out(CONTROLLER)
    notes = [f"samples of {CONTROLLER} are left out: {aside:,}"] if aside else []
    notes += [] if "responseMessage" in first else [NO_MESSAGE]
    return ImportedRun(tool=files.tool("jmeter", "CSV", CLOSED, MILLISECONDS, *notes), requests=requests)


def _sample(row: Mapping[str, str]) -> Request:
    at, code, message = row["timeStamp"], row.get("responseCode", ""), row.get("responseMessage", "")
    if not at.isdecimal() or len(at) != DIGITS:
        raise BrokenFile(f"timeStamp {at[:40]}, where ms since 1970 are read: leave jmeter.save.saveservice.timestamp_format as it is")
    sent_ns, status, error = int(at) * 1_000_000, int(code) if code.isdecimal() else 0, ErrorKind.none
    if row["success"].lower() != "true":  # an assertion can fail where the status is well
        is_content = status and not files.is_failure(status)
        error = ErrorKind.content if is_content else files.kind_of(f"{code} {message}", status)
    return Request(
        scenario=CONTROLLER if message.startswith(OF_CONTROLLER) else SCENARIO,
        sent_ns=sent_ns,
        done_ns=sent_ns + int(row["elapsed"]) * 1_000_000,
        status=status,
        error=error,
        first_byte_ns=sent_ns + int(row.get("Latency") or 0) * 1_000_000 if status else 0,
        bytes=int(row.get("bytes") or 0),
        name=row.get("label", ""),
        url=row.get("URL", ""),
    )
