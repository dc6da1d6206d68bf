"""The last run of each validation as Markdown for a pull request's comment. It judges nothing anew."""

import re
from collections.abc import Sequence

from tapecheck.reports import brief
from tapecheck.reports.brief import Brief
from tapecheck.reports.overview import Overview, Standing
from tapecheck.reports.wording import legal, number, words

SIGNS = {"pass": "✅", "fail": "❌", "invalid": "⚠️", "no_data": "⚠️", "not_proven": "❔"}
_SPECIAL = re.compile(r"([\\`*_\[\]<>#|~&$])")
_BEGINS_A_LIST = re.compile(r"^(\d*)([-+.)=])")
HEADINGS = ("validation", "verdict", "checks met", "main figure", "target", "run")


def text(overview: Overview) -> str:
    """Write the comment: one table, and under it what is broken, the evidence and the next action, folded."""
    if not overview.standings:
        return "## tapecheck: no recorded runs\n"
    briefs = [brief.of(standing) for standing in overview.standings]
    table = [_line(HEADINGS), _line(["---"] * len(HEADINGS)), *(_row(one) for one in overview.standings)]
    folded = [line for one in briefs for line in _details(one)]
    return "\n".join([f"## tapecheck: {plain(words(overview.verdict).upper())}", "", *table, "", *folded]) + "\n"


def _row(standing: Standing) -> str:
    since = ", and later attempts without a result" if standing.since else ""
    verdict = f"{SIGNS[standing.verdict]} {words(standing.verdict).upper()}{since}"
    if standing.entry is None:
        return _line([plain(standing.validation), plain(verdict), "", "", "", ""])
    result, main = standing.entry.result, standing.main
    figure = f"{main.name}: {number(standing.entry.main)} {main.unit}{_change(standing)}" if main else ""
    cells = (standing.validation, verdict, standing.entry.met, figure, result.target.name, result.run_id)
    return _line([plain(cell) for cell in cells])


def _change(standing: Standing) -> str:
    """Say how the main figure differs from the run before; one pair of runs proves nothing, so that nobody is told of a change."""
    return f", {number(standing.trend[-2])} before" if len(standing.trend) > 1 else ""


def _details(one: Brief) -> list[str]:
    parts = {"Broken": one.broken or ("nothing: every objective is met",), "Evidence": one.evidence, "Next action": one.actions}
    lines = ["<details>", f"<summary>{one.standing.validation}: what is broken, the evidence, the next action</summary>", ""]
    for heading, said in parts.items():
        lines += [f"**{heading}**", "", *(f"- {plain(text)}" for text in said), ""]
    return [*lines, "</details>", ""]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def plain(text: str) -> str:
    """Escape a text so that Markdown shows it as it is, on one line, and an @ calls nobody."""
    line = _SPECIAL.sub(r"\\\1", " ".join(legal(text).split()))
    return _BEGINS_A_LIST.sub(r"\1\\\2", line).replace("@", "@&#8288;")
