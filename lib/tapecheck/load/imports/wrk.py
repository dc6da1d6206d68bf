"""Reads wrk's report."""

import math
import re
from pathlib import Path

from tapecheck.load import recording
from tapecheck.load.imports import files
from tapecheck.load.imports.files import CLOSED, CUT_OFF, Broken, Format, Measurement, origin_of
from tapecheck.load.recording import Figures, Testimony
from tapecheck.statistics.intervals import Distribution

SCALE_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0, "h": 3_600_000.0}
_TIME = r"([\d.]+)(us|ms|s|m|h)\b"
CORRECTED = "its times hold made-up ones, by which it estimates what it left out"
CUT = "times beyond its --timeout are left out of its figures, and counted as failures here"
NO_LATENCY = "its percentiles are missing; wrk --latency prints them"


def read(path: Path) -> Measurement:
    """Read the report."""
    text = files.text(path)
    found = figures(text)
    notes = [CLOSED, CUT_OFF, CORRECTED, CUT, *([NO_LATENCY] if "Latency Distribution" not in text else [])]
    url = re.search(r"test @ (\S+)", text)
    return Measurement(tool=files.tool("wrk", "report", *notes), told={"wrk": found}, url=origin_of(url[1]) if url else "")


def figures(text: str) -> Testimony:
    """Return the figures of a report; what did not end in an answer is a request that failed.

    Raises:
        Broken: it is not whole, or one of wrk2.
    """
    if "HdrHistogram" in text:
        raise Broken("a report of wrk2, whose times count from another start")
    counted = re.search(rf"(\d+) requests in {_TIME}", text)
    if counted is None or not re.search(r"Transfer/sec:\s+[\d.]+\w*B", text):
        raise Broken("no total at its end: it is half-written")
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
    total = Figures(requests=requests, failed=min(requests, sum(errors.values())), response_time_ms=times)
    return files.summary(total, duration_s=_ms(counted[2], counted[3]) / 1000, errors=errors)


def _times(text: str, answers: int) -> Distribution | None:
    latency = re.search(rf"Latency\s+{_TIME}\s+{_TIME}\s+{_TIME}", text)
    mean_ms, max_ms = (_ms(latency[1], latency[2]), _ms(latency[5], latency[6])) if latency else (math.nan, math.nan)
    percentiles = {int(p): _ms(value, unit) for p, value, unit in re.findall(rf"^\s+(\d+)%\s+{_TIME}", text, re.MULTILINE)}
    return recording.distribution(answers, percentiles, mean_ms=mean_ms, max_ms=max_ms)


def _ms(value: str, unit: str) -> float:
    return float(value) * SCALE_MS[unit]


FORMATS = (Format(name="wrk's report", begins=lambda text: text.startswith("Running ") and " test @ " in text, read=read),)
