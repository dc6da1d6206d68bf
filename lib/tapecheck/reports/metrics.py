"""The checks of the last run of each validation as OpenMetrics text, which Prometheus scrapes. It judges nothing anew."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.registry import Collector

from tapecheck.reports.overview import Entry, Overview
from tapecheck.verdict import Check, Verdict

LABELS = ("validation", "name", "objective", "target")


class _Checks(Collector):
    """What a registry asks for its gauges."""

    def __init__(self, overview: Overview) -> None:
        self.entries = [standing.entry for standing in overview.standings if standing.entry]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield each gauge with all its samples."""
        value = GaugeMetricFamily(
            "tapecheck_check_value", "What was measured, in the objective's unit; absent where nothing was.", labels=LABELS
        )
        samples = GaugeMetricFamily("tapecheck_check_samples", "How many samples the value is from.", labels=LABELS)
        verdict = GaugeMetricFamily(
            "tapecheck_check_verdict", "1 for the verdict of the check, 0 for the others.", labels=(*LABELS, "verdict")
        )
        started = GaugeMetricFamily("tapecheck_run_started_timestamp_seconds", "When the run began.", labels=("validation", "target"))
        for entry in self.entries:
            started.add_metric([entry.result.validation, entry.result.target.name], entry.result.started_at.timestamp())
            for labels, check in _labelled(entry).items():
                if check.value is not None:
                    value.add_metric(labels, check.value)
                samples.add_metric(labels, check.n)
                for one in Verdict:
                    verdict.add_metric([*labels, one], check.verdict == one)
        yield from (value, samples, verdict, started)


def _labelled(entry: Entry) -> dict[tuple[str, ...], Check]:
    """Return the checks by their labels; each set of labels may be there only once."""
    result = entry.result
    return {(result.validation, check.name, check.objective, result.target.name): check for check in result.checks}


def text(overview: Overview) -> str:
    """Write the text."""
    registry = CollectorRegistry()
    registry.register(_Checks(overview))
    return str(generate_latest(registry), "utf-8")  # type: ignore[no-untyped-call]
