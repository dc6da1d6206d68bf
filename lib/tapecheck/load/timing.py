"""Reads the W3C Server-Timing header: what the target says about its own time. It measures nothing."""

import math
import re

WHOLE = (b"total", b"app", b"server")  # metrics that mean the whole request, best first
DATABASE = (b"db", b"database", b"sql")
_QUOTED = re.compile(rb'"[^"]*"')


def server_times_ms(header: bytes) -> tuple[float, float]:
    """Return (server_ms, db_ms) of a Server-Timing value; NaN for what it does not say.

    server_ms is the metric `total`, `app` or `server`; without one, the longest metric, which is at most the truth.
    """
    if b'"' in header:  # what separates elsewhere is text between quotes
        header = _QUOTED.sub(lambda quoted: quoted[0].translate(None, b'",;='), header)
    metrics: dict[bytes, float] = {}
    for part in header.split(b","):
        name, *parameters = part.split(b";")
        for parameter in parameters:
            key, _, value = parameter.partition(b"=")
            if key.strip().lower() == b"dur":
                duration_ms = _number(value.strip())
                if duration_ms is not None:
                    metrics[name.strip().lower()] = duration_ms
    whole = next((metrics[name] for name in WHOLE if name in metrics), max(metrics.values(), default=math.nan))
    return whole, next((metrics[name] for name in DATABASE if name in metrics), math.nan)


def _number(text: bytes) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value < 1e9 else None
