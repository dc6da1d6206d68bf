"""Reads what `locust --json-file FILE` writes at the end: how often a request took which time, rounded. It has no single requests."""

import math
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np

from tapecheck import stats
from tapecheck.load import testimony
from tapecheck.load.testimony import Figures, Testimony
from tapecheck.load.tools import files, measurement
from tapecheck.load.tools.files import Broken
from tapecheck.load.tools.measurement import CLOSED, CUT_OFF, Format, Measurement
from tapecheck.load.tools.requests import DIMENSION, label
from tapecheck.stats import Distribution

ROUNDED = "its times are rounded to two digits or to 1 ms, and so are the percentiles, which are ours"
NO_KINDS = "which kinds of failure there were is not in it"


class Entry(msgspec.Struct):
    """All requests of one name; times are in ms, instants in seconds since 1970."""

    name: str
    method: str | None
    start_time: float
    last_request_timestamp: float | None
    num_requests: int
    num_none_requests: int
    num_failures: int
    total_response_time: float
    min_response_time: float | None
    max_response_time: float
    total_content_length: int
    response_times: dict[int, int]


def read(path: Path) -> Measurement:
    """Read JSON."""
    entries = [entry for entry in files.document(path, list[Entry]) if entry.num_requests]
    if not entries:
        raise Broken("no request")
    began_s = min(entry.start_time for entry in entries)
    found = measurement.tool("locust", "JSON", CLOSED, CUT_OFF, ROUNDED, NO_KINDS)
    return Measurement(tool=found, told={"locust": _testimony(entries, began_s)}, started_at=datetime.fromtimestamp(began_s, UTC))


def _testimony(entries: Sequence[Entry], began_s: float) -> Testimony:
    every = _figures(entries)
    return Testimony(
        requests=every.requests,
        failed=every.failed,
        response_time_ms=every.response_time_ms,
        bytes_mean=every.bytes_mean,
        duration_s=max(entry.last_request_timestamp or began_s for entry in entries) - began_s,
        errors={"other": every.failed} if every.failed else {},
        by={DIMENSION: {label(entry.method or "", entry.name): _figures([entry]) for entry in entries}},
    )


def _figures(entries: Sequence[Entry]) -> Figures:
    requests = sum(entry.num_requests for entry in entries)
    return Figures(
        requests=requests,
        failed=sum(entry.num_failures for entry in entries),
        response_time_ms=_times(entries, requests - sum(entry.num_none_requests for entry in entries)),
        bytes_mean=sum(entry.total_content_length for entry in entries) / requests if requests else math.nan,
    )


def _times(entries: Sequence[Entry], n: int) -> Distribution | None:
    """Return the exact mean and extremes, and the percentiles of the rounded times."""
    counts: Counter[int] = Counter()
    for entry in entries:
        counts.update(entry.response_times)
    if counts.total() != n:
        raise Broken(f"{counts.total()} times of {n} requests")
    rounded = stats.distribution(np.repeat(np.array(list(counts), np.int64), list(counts.values())), np.array([n]))
    percentiles_ms = {level: getattr(rounded, f"p{level}").value for level in testimony.LEVELS} if rounded else {}
    return testimony.distribution(
        n,
        percentiles_ms,
        mean_ms=sum(entry.total_response_time for entry in entries) / n if n else math.nan,
        min_ms=min((entry.min_response_time for entry in entries if entry.min_response_time is not None), default=math.nan),
        max_ms=max(entry.max_response_time for entry in entries),
    )


FORMATS = (
    Format(
        name="Locust JSON (locust --json-file FILE)",
        begins=lambda text: text.startswith("[") and '"num_requests"' in text and '"response_times"' in text,
        read=read,
    ),
)
