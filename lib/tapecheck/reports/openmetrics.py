"""The checks of the last run of each validation as OpenMetrics text, which Prometheus scrapes. It judges nothing anew.

How many attempts since that run left no result is a gauge of its own, or an old pass would look like a new one.
"""

from collections import Counter
from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.registry import Collector

from tapecheck.reports.overview import Entry, Overview
from tapecheck.verdict import Check, Verdict

LABELS = ("validation", "name", "objective", "target", "nth")  # nth of the checks that are alike otherwise: no series twice


class _Checks(Collector):
    """What a registry asks for its gauges."""

    def __init__(self, overview: Overview) -> None:
        self.standings = overview.standings
        self.entries = [standing.entry for standing in overview.standings if standing.entry]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield each gauge with all its samples."""
        yield from self._of_checks()
        yield from self._of_runs()

    def _of_checks(self) -> Iterator[GaugeMetricFamily]:
        value = GaugeMetricFamily(
            "tapecheck_check_value", "What was measured, in the objective's unit; absent where nothing was.", labels=LABELS
        )
        samples = GaugeMetricFamily("tapecheck_check_samples", "How many samples the value is from.", labels=LABELS)
        verdict = GaugeMetricFamily(
            "tapecheck_check_verdict", "1 for the verdict of the check, 0 for the others.", labels=(*LABELS, "verdict")
        )
        for entry in self.entries:
            for labels, check in _labelled(entry):
                if check.value is not None:
                    value.add_metric(labels, check.value)
                samples.add_metric(labels, check.n)
                for one in Verdict:
                    verdict.add_metric([*labels, one], check.verdict == one)
        yield from (value, samples, verdict)

    def _of_runs(self) -> Iterator[GaugeMetricFamily]:
        started = GaugeMetricFamily("tapecheck_run_started_timestamp_seconds", "When the run began.", labels=("validation", "target"))
        for entry in self.entries:
            started.add_metric([entry.result.validation, entry.result.target.name], entry.result.started_at.timestamp())
        since = GaugeMetricFamily(
            "tapecheck_attempts_without_result", "How many attempts since the run of the checks left no result.", labels=("validation",)
        )
        for standing in self.standings:
            since.add_metric([standing.validation], len(standing.since))
        yield from (started, since)


def _labelled(entry: Entry) -> Iterator[tuple[tuple[str, ...], Check]]:
    """Yield the checks with their labels, of which no two are alike."""
    result = entry.result
    alike: Counter[tuple[str, str]] = Counter()
    for check in result.checks:
        alike[check.name, check.objective] += 1
        nth = str(alike[check.name, check.objective])
        yield (result.validation, check.name, check.objective, result.target.name, nth), check


def text(overview: Overview) -> str:
    """Write the text."""
    registry = CollectorRegistry()
    registry.register(_Checks(overview))
    return str(generate_latest(registry), "utf-8")  # type: ignore[no-untyped-call]
