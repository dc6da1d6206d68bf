"""The checks of the last run of each validation as JUnit XML, which CI systems show. It judges nothing anew.

A check that passed is a passed test case, one that missed is a failure.
`invalid` and `no_data` are errors: nothing that can be trusted was measured, and a pipeline must not be green for that.
`not_proven` is skipped, with the reason: what was measured meets the objective, and only more samples would tell.
Of a comparison it is an error: there it says that nothing was proven, and what was measured may well miss what was expected.
An attempt that left no result since that run is an error too, or the checks of an older run would speak for it.
"""

from xml.etree import ElementTree as ET  # it only writes here

from tapecheck.reports.overview import Broken, Overview, Standing, legal, number
from tapecheck.runs.results import Result
from tapecheck.verdict import Check, Verdict

KINDS = {Verdict.FAIL: "failure", Verdict.INVALID: "error", Verdict.NO_DATA: "error", Verdict.NOT_PROVEN: "skipped"}
UNMET = "compare"  # the validation whose `not_proven` does not say that the value meets the objective


def text(overview: Overview) -> str:
    """Write the XML: one suite a validation, one case a check."""
    root = ET.Element("testsuites", name="tapecheck")
    for standing in overview.standings:
        root.append(_suite(standing))
    for kind in ("tests", "failures", "errors", "skipped"):
        root.set(kind, str(sum(int(suite.get(kind, "0")) for suite in root)))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _suite(standing: Standing) -> ET.Element:
    suite = ET.Element("testsuite", name=standing.validation)
    if standing.entry is not None:
        _describe(suite, standing.entry.result)
        suite.extend(_case(standing.validation, check) for check in standing.entry.result.checks)
    suite.extend(_attempt(one) for one in standing.since)
    cases = suite.findall("testcase")
    found = [child.tag for case in cases for child in case]
    counts = {"tests": len(cases), **{f"{kind}s": found.count(kind) for kind in ("failure", "error")}, "skipped": found.count("skipped")}
    for name, count in counts.items():
        suite.set(name, str(count))
    return suite


def _describe(suite: ET.Element, result: Result) -> None:
    suite.set("timestamp", result.started_at.replace(microsecond=0).isoformat())
    suite.set("hostname", legal(result.environment.host))
    properties = ET.SubElement(suite, "properties")
    for name, value in {"run": result.run_id, "target": result.target.name, "base_url": result.target.base_url}.items():
        ET.SubElement(properties, "property", name=name, value=legal(value))


def _case(validation: str, check: Check) -> ET.Element:
    case = ET.Element("testcase", classname=legal(f"{validation}.{check.name}"), name=legal(check.objective))
    if check.verdict != Verdict.PASS:
        found = ET.SubElement(case, _kind(validation, check.verdict), message=legal(check.reason))
        if found.tag != "skipped":
            found.set("type", check.verdict)
        found.text = legal(f"value {number(check.value)}, 95 % bound {number(check.bound)}, n = {check.n}")
    return case


def _kind(validation: str, verdict: Verdict) -> str:
    return "error" if validation == UNMET and verdict == Verdict.NOT_PROVEN else KINDS[verdict]


def _attempt(broken: Broken) -> ET.Element:
    case = ET.Element("testcase", classname=legal(broken.validation), name=legal(f"run {broken.run_id}"))
    ET.SubElement(case, "error", message=legal(broken.problem), type="unrecorded")
    return case
