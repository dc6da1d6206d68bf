"""Reads the summary of a k6 run: what `k6 run --summary-export FILE` writes, or a script's handleSummary. It has no single requests."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from tapecheck.load import testimony
from tapecheck.load.testimony import Testimony
from tapecheck.load.tools import files, measurement
from tapecheck.load.tools.files import Broken
from tapecheck.load.tools.k6 import EXECUTOR
from tapecheck.load.tools.measurement import Format, Measurement
from tapecheck.stats import Distribution

NO_CONNECTING = "its times begin when the connection is there; the JSON and CSV outputs have the time before that too"
ALL = "its scenarios are not told apart"
NO_KINDS = "which kinds of failure there were is not in it"
FEW = "its percentiles are those that summaryTrendStats names"
Values = Mapping[str, float]


class Summary(msgspec.Struct):
    """The part of either that is read: metrics by name."""

    metrics: dict[str, dict[str, Any]]


def read(path: Path) -> Measurement:
    """Read JSON."""
    metrics = files.document(path, Summary).metrics
    requests, took, failed = (_values(metrics, name) for name in ("http_reqs", "http_req_duration", "http_req_failed"))
    dropped, done = (_values(metrics, name).get("count", 0.0) for name in ("dropped_iterations", "iterations"))
    n, rate_rps = int(requests.get("count", 0)), requests.get("rate", 0.0)
    if not n or not rate_rps:
        raise Broken("no http_reqs: no request, or of another version")
    short = [f"it dropped {dropped:,.0f} iterations, for want of free users"] if dropped else []
    told = Testimony(
        requests=n,
        failed=int(failed.get("passes", 0)),  # k6 counts as passed what is true: "it failed"
        response_time_ms=_times(n, took),
        duration_s=n / rate_rps,
        errors={"other": int(failed["passes"])} if failed.get("passes") else {},
    )
    return Measurement(
        tool=measurement.tool("k6", "summary", EXECUTOR, *short, NO_CONNECTING, ALL, NO_KINDS, FEW),
        told={"k6": told},
        achieved_ratio={"k6": done / (done + dropped)} if dropped else {},
    )


def _values(metrics: Mapping[str, dict[str, Any]], name: str) -> Values:
    """Return the figures of a metric, which handleSummary has one level deeper."""
    metric = metrics.get(name, {})
    values = metric.get("values", metric)
    return {key: float(value) for key, value in values.items() if isinstance(value, int | float)}


def _times(n: int, took: Values) -> Distribution | None:
    if "avg" not in took:
        raise Broken("no http_req_duration: of another version")
    percentiles_ms = {50: took.get("med", took.get("p(50)", math.nan)), **{p: took.get(f"p({p})", math.nan) for p in (90, 95, 99)}}
    return testimony.distribution(
        n, percentiles_ms, mean_ms=took["avg"], min_ms=took.get("min", math.nan), max_ms=took.get("max", math.nan)
    )


FORMATS = (
    Format(
        name="k6 summary (k6 run --summary-export FILE, or handleSummary)",
        begins=lambda text: text.startswith("{") and '"metrics"' in text and '"http_req' in text,
        read=read,
    ),
)
