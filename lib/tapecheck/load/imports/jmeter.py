"""Reads the CSV results of JMeter (JTL), whose columns depend on its settings."""

from collections.abc import Mapping
from pathlib import Path

from tapecheck.load.engine.recorder import ErrorKind
from tapecheck.load.imports import files
from tapecheck.load.imports.files import CLOSED, BrokenFile, ImportedRun, Request, Requests

NEEDED = ("timeStamp", "elapsed", "success")
DIGITS = 13  # of a time in ms since 1970
SCENARIO, CONTROLLER = "jmeter", "transaction controllers"
OF_CONTROLLER = "Number of samples in transaction"
MILLISECONDS = "its clock counts in ms; its times are taken for those of the start (sampleresult.timestamp.start, which its settings have)"


def read_csv(path: Path) -> ImportedRun:
    """Read CSV; samples of transaction controllers, which are sums of others, are left out."""
    requests = Requests(files.parsed(files.table(path, NEEDED), _request), exact=False)
    aside = requests.leave_out(CONTROLLER)
    notes = [f"samples of {CONTROLLER} are left out: {aside:,}"] if aside else []
    return ImportedRun(tool=files.tool("jmeter", "CSV", CLOSED, MILLISECONDS, *notes), requests=requests)


def _request(row: Mapping[str, str]) -> Request:
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
