"""Reads the W3C Server-Timing header: what the target says about its own time. It measures nothing."""

import math
import re

WHOLE = (b"total", b"app", b"server")  # metrics that mean the whole request, best first
DATABASE = (b"db", b"database", b"sql")
_QUOTED = re.compile(rb'"[^"]*"')
_DURATION = re.compile(rb"(?:^|,)\s*([^\s;,]+)\s*(?:;[^;,]*)*?;\s*[dD][uU][rR]\s*=\s*([^\s;,]+)")  # of a metric, and its name


def server_times_ms(header: bytes) -> tuple[float, float]:
    """Return (server_ms, db_ms) of a Server-Timing value; NaN for what it does not say.

    server_ms is the metric `total`, `app` or `server`; without one, the longest metric, which is at most the truth.
    """
    if b'"' in header:  # what separates elsewhere is text between quotes
        header = _QUOTED.sub(lambda quoted: quoted[0].translate(None, b'",;='), header)
    metrics: dict[bytes, float] = {}
    for name, text in _DURATION.findall(header):
        try:
            duration_ms = float(text)
        except ValueError:
            continue
        if 0 <= duration_ms < 1e9:
            metrics[name.lower()] = duration_ms
    server_ms, db_ms = _first(metrics, WHOLE), _first(metrics, DATABASE)
    return (server_ms if server_ms == server_ms else max(metrics.values(), default=math.nan)), db_ms


def _first(metrics: dict[bytes, float], names: tuple[bytes, ...]) -> float:
    for name in names:
        if name in metrics:
            return metrics[name]
    return math.nan
