"""The checks of the last run of each validation for other programs: JUnit XML and OpenMetrics text. It judges nothing anew.

In JUnit, a check that passed is a passed test case, one that missed is a failure.
`invalid` and `no_data` are errors: nothing that can be trusted was measured, and a pipeline must not be green for that.
`not_proven` is skipped, with the reason: what was measured meets the objective, and only more samples would tell.
Of a comparison it is an error: there it says that nothing was proven, and what was measured may well miss what was expected.
An attempt that left no result since that run is an error too, or the checks of an older run would speak for it.
"""

from collections import Counter
from collections.abc import Mapping

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite
from junitparser.junitparser import FinalResult
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.openmetrics.exposition import generate_latest

from tapecheck.reports.overview import Overview, Standing, number
from tapecheck.text import legal
from tapecheck.verdict import Check, Verdict

KINDS: Mapping[Verdict, type[FinalResult]] = {
    Verdict.FAIL: Failure, Verdict.INVALID: Error, Verdict.NO_DATA: Error, Verdict.NOT_PROVEN: Skipped,
}  # fmt: skip
UNMET = "compare"  # the validation whose `not_proven` does not say that the value meets the objective
LABELS = ("validation", "name", "objective", "target", "nth")  # nth of the checks that are alike otherwise: no series twice


def junit(overview: Overview) -> str:
    """Write the XML: one suite a validation, one case a check."""
    xml = JUnitXml("tapecheck")
    for standing in overview.standings:
        xml.add_testsuite(_suite(standing))
    xml.update_statistics()  # type: ignore[no-untyped-call]
    return str(xml.tostring(), "utf-8")  # type: ignore[no-untyped-call]


def _suite(standing: Standing) -> TestSuite:
    suite = TestSuite(legal(standing.name))
    if standing.entry is not None:
        result = standing.entry.result
        suite.timestamp, suite.hostname = result.started_at.replace(microsecond=0).isoformat(), legal(result.environment.host)
        for name, value in {"run": result.run_id, "target": result.target.name, "base_url": result.target.base_url}.items():
            suite.add_property(name, legal(value))
        suite.add_testcases([_case(standing.validation, check) for check in result.checks])
    for one in standing.since:
        case = TestCase(legal(f"run {one.run_id}"), legal(one.validation))
        case.result = [Error(legal(one.problem), "unrecorded")]
        suite.add_testcase(case)
    return suite


def _case(validation: str, check: Check) -> TestCase:
    case = TestCase(legal(check.objective), legal(f"{validation}.{check.name}"))
    if check.verdict != Verdict.PASS:
        kind = Error if validation == UNMET and check.verdict == Verdict.NOT_PROVEN else KINDS[check.verdict]
        found = kind(legal(check.reason), None if kind is Skipped else check.verdict.value)
        found.text = legal(f"value {number(check.value)}, 95 % bound {number(check.bound)}, n = {check.n}")
        case.result = [found]
    return case


def openmetrics(overview: Overview) -> str:
    """Write the text; how many attempts since a run left no result is a gauge of its own, or an old pass would look like a new one."""
    registry = CollectorRegistry()

    def gauge(name: str, about: str, labels: tuple[str, ...]) -> Gauge:
        return Gauge(f"tapecheck_{name}", about, labels, registry=registry)

    value = gauge("check_value", "What was measured, in the objective's unit; absent where nothing was.", LABELS)
    samples = gauge("check_samples", "How many samples the value is from.", LABELS)
    verdict = gauge("check_verdict", "1 for the verdict of the check, 0 for the others.", (*LABELS, "verdict"))
    started = gauge("run_started_timestamp_seconds", "When the run began.", ("validation", "target"))
    since = gauge("attempts_without_result", "How many attempts since the run of the checks left no result.", ("validation",))
    done: set[tuple[str, str]] = set()
    for standing in overview.standings:
        if standing.entry and (key := (standing.validation, standing.entry.result.target.name)) in done:
            continue  # a part of it adds nothing to the series of the fuller one, which comes first
        done |= {key} if standing.entry else set()
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
