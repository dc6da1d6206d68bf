"""The checks of the last run of each validation as OpenMetrics text, which Prometheus scrapes. It judges nothing anew.

How many attempts since that run left no result is a gauge of its own, or an old pass would look like a new one.
"""

from collections import Counter

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.openmetrics.exposition import generate_latest

from tapecheck.reports.overview import Overview
from tapecheck.verdict import Verdict

LABELS = ("validation", "name", "objective", "target", "nth")  # nth of the checks that are alike otherwise: no series twice


def text(overview: Overview) -> str:
    """Write the text."""
    registry = CollectorRegistry()

    def gauge(name: str, about: str, labels: tuple[str, ...]) -> Gauge:
        return Gauge(f"tapecheck_{name}", about, labels, registry=registry)

    value = gauge("check_value", "What was measured, in the objective's unit; absent where nothing was.", LABELS)
    samples = gauge("check_samples", "How many samples the value is from.", LABELS)
    verdict = gauge("check_verdict", "1 for the verdict of the check, 0 for the others.", (*LABELS, "verdict"))
    started = gauge("run_started_timestamp_seconds", "When the run began.", ("validation", "target"))
    since = gauge("attempts_without_result", "How many attempts since the run of the checks left no result.", ("validation",))
    for standing in overview.standings:
        since.labels(standing.validation).set(len(standing.since))
        if standing.entry is None:
            continue
        result, alike = standing.entry.result, Counter[tuple[str, str]]()
        started.labels(result.validation, result.target.name).set(result.started_at.timestamp())
        for check in result.checks:
            alike[check.name, check.objective] += 1
            labels = (result.validation, check.name, check.objective, result.target.name, str(alike[check.name, check.objective]))
            if check.value is not None:
                value.labels(*labels).set(check.value)
            samples.labels(*labels).set(check.n)
            for one in Verdict:
                verdict.labels(*labels, one).set(check.verdict == one)
    return str(generate_latest(registry), "utf-8")  # type: ignore[no-untyped-call]
