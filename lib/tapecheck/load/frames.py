"""Tables of a load run for the notebook, as pandas frames. Every figure in them comes from the summary."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import pandas as pd
from pydantic import TypeAdapter

from tapecheck.load.analysis import ScenarioSummary, mark
from tapecheck.load.findings import FailureGroup
from tapecheck.load.plan import LoadPlan
from tapecheck.statistics.intervals import Percentile
from tapecheck.validation import checks, findings
from tapecheck.verdict import number, share

__all__ = ["breakdown", "checks", "exported", "failures", "findings", "plan", "scenarios"]

MOST_COLUMNS = 6  # scenarios side by side
MAIN = (  # of more, which have a row each
    "requests", "failed", "success ratio (95 % at least)", "throughput (succeeded/s)", "response time p50 (ms)", "response time p95 (ms)",
    "response time p99 (ms)", "service time p95 (ms)", "server time p95 (ms)",
)  # fmt: skip


def plan(plan: LoadPlan) -> pd.DataFrame:
    """Return one row a scenario: what will be sent."""
    rows = [
        {
            "scenario": name,
            "executor": scenario.executor,
            **{key: getattr(scenario, key, "") for key in ("concurrency", "rate_rps", "rounds", "duration_s")},
            "request": scenario.request,
            "parameters": ", ".join(f"{k}: {'/'.join(map(str, v))}" for k, v in scenario.parameters.items()),
        }
        for name, scenario in plan.scenarios.items()
    ]
    frame = pd.DataFrame(rows).set_index("scenario")
    return frame.loc[:, (frame != "").any()]


def scenarios(summary: Mapping[str, ScenarioSummary]) -> pd.DataFrame:
    """Return one column a scenario: counts, rates, and the kinds of time with their intervals; of many the main ones, a row each."""
    frame = pd.DataFrame({name: _scenario(s) for name, s in summary.items()}).fillna("")
    if len(summary) > MOST_COLUMNS:
        worst = sorted(summary, key=lambda name: summary[name].severity, reverse=True)
        frame = frame.T.loc[worst, [name for name in MAIN if name in frame.index]]
    frame.attrs["file"] = "scenarios.csv"
    return frame


def _scenario(s: ScenarioSummary) -> dict[str, str]:
    rows = {
        "requests": f"{s.requests:,}",
        "failed": f"{s.failed:,}",
        "success ratio (95 % at least)": "" if s.success_ratio is None else f"{s.success_ratio:.4f} ({s.success_ratio_low:.4f})",
        "measured for (s)": f"{s.duration_s:.2f}",
        "throughput (succeeded/s)": number(s.throughput_rps),
        "connections opened": "" if s.connections_opened is None else f"{s.connections_opened:,}",
    }
    for kind in ("response", "service", "server", "database"):
        if (times := getattr(s, f"{kind}_time_ms")) is not None:
            shown = {"mean": number(times.mean)} | {p: interval(getattr(times, p)) for p in ("p50", "p95", "p99")}
            doubtful = s.generator_share if kind == "response" else {}
            rows |= {f"{kind} time {p} (ms)": text + mark(doubtful, f"{p}_ms") for p, text in shown.items()}
    own = s.generator
    rows |= {
        "sent late by the generator, p99 (ms)": interval(s.dispatch_lag_ms.p99) if s.dispatch_lag_ms else "",
        "generator CPU (of a core)": "" if own.cpu_ratio is None else f"{own.cpu_ratio:.0%}",
        "generator lag p99 (ms)": number(own.lag_p99_ms),
        "cores busy with other processes": "" if s.others_busy_cores is None else f"{s.others_busy_cores:.2f}",
        "answers whose content was checked": f"{own.content_checked:,}",
    }
    seldom = {
        "connections with unsolicited data": f"{own.unsolicited:,}" if own.unsolicited else "",
        "sent again after the target closed the connection": f"{own.retried:,}" if own.retried else "",
        "ended early": "it had sent as many requests as one scenario may" if own.stopped_early else "",
    }
    return rows | {name: text for name, text in seldom.items() if text}


def breakdown(summary: Mapping[str, ScenarioSummary]) -> pd.DataFrame:
    """Return one row a scenario, parameter and value, for the parameters that were varied."""
    rows = [
        {
            "scenario": name, "parameter": dimension, "value": value, "requests": group.requests, "failed": group.failed,
            "median (ms)": interval(group.response_time_ms.p50) + mark(group.generator_share, "p50_ms"),
            "p95 (ms)": interval(group.response_time_ms.p95) + mark(group.generator_share, "p95_ms"),
            "median inside the target (ms)": "" if group.server_time_ms is None else interval(group.server_time_ms.p50),
            "answer (bytes)": "" if math.isnan(group.bytes_mean) else f"{group.bytes_mean:,.0f}",
        }
        for name, scenario in summary.items()
        for dimension, values in scenario.by.items()
        if len(values) > 1
        for value, group in values.items()
    ]  # fmt: skip
    index = ["scenario", "parameter", "value"]
    frame = pd.DataFrame(rows or [{"scenario": "none varies a parameter", "parameter": "", "value": ""}]).set_index(index)
    frame.attrs["file"] = "breakdown.csv"
    return frame


def failures(found: Sequence[FailureGroup]) -> pd.DataFrame:
    """Return one row a kind of failure, the most frequent first; moments are seconds since the first request."""
    rows = [
        {
            "scenario": one.scenario, "kind": one.kind, "status": one.status or "", "request": one.request, "failed": f"{one.count:,}",
            "share": share(one.ratio), "first (s)": number(one.first_s), "last (s)": number(one.last_s), "example": one.example,
        }
        for one in found
    ]  # fmt: skip
    frame = pd.DataFrame(rows or [{"scenario": "no request failed", "kind": ""}]).set_index(["scenario", "kind"])
    frame.attrs["file"] = "failures.csv"
    return frame


def exported(summary: Mapping[str, ScenarioSummary], found: Sequence[FailureGroup]) -> dict[str, str]:
    """Return what the tables are made of as CSV files, numbers as numbers."""
    plain = {name: TypeAdapter(ScenarioSummary).dump_python(one, mode="json") for name, one in summary.items()}
    groups = [
        {"scenario": name, "parameter": parameter, "value": value, **group}
        for name, one in plain.items()
        for parameter, values in one.pop("by").items()
        for value, group in values.items()
    ]
    tables = {
        "scenarios.csv": pd.json_normalize([{"scenario": name, **one} for name, one in plain.items()], sep="."),
        "breakdown.csv": pd.json_normalize(groups, sep="."),
        "failures.csv": pd.DataFrame([asdict(one) for one in found], columns=list(FailureGroup.__slots__)),
    }
    return {name: table.to_csv(index=False) for name, table in tables.items()}


def interval(p: Percentile) -> str:
    """Write a percentile with its 95 % interval: 12.3 [11.0, 14.1]; a bound that n cannot support is a question mark."""
    if math.isnan(p.value):
        return ""
    low, high = ("?" if bound is None else number(bound) for bound in (p.low, p.high))
    return f"{number(p.value)} [{low}, {high}]"
