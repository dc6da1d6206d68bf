"""What is broken, the evidence and the next action, of the last run of each validation. It judges nothing anew."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tapecheck.reports.overview import Entry, Overview, Standing, number
from tapecheck.runs.results import Finding
from tapecheck.text import markdown
from tapecheck.verdict import NEXT, SEVERITY, Check, Verdict, cut, words

MOST = 3  # things said under one heading; a page has room for no more of four validations
PROOFS = 7  # of a comparison, each in a line or two
LONGEST = 120  # characters of one of them
FIGURES = 4  # of a finding's evidence
OF_PROOFS = ("fix", "fix_unproven", "worse", "not_the_same", "drifted", "method_check")  # findings of a comparison about one proof
QUESTIONS: Mapping[str, str] = {
    "load": "How much traffic does it carry before it misses an objective?",
    "backfill": "Where does the time go when history is refilled, and is it complete?",
    "observe": "Where does the time go in the backfill of its own?",
    "rto_rpo": "How long until service is back after a failure, and what is lost?",
    "compare": "Did the fix work?",
}
NAMED = 3  # of several scenarios that miss one objective
THINGS: Mapping[str, str] = {"load": "scenarios", "compare": "proofs", "rto_rpo": "failures and tiers"}
MISSING: Mapping[Verdict, str] = {
    Verdict.FAIL: "miss", Verdict.INVALID: "are invalid for", Verdict.NO_DATA: "have no data for", Verdict.NOT_PROVEN: "do not prove",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Brief:
    """One validation in a few sentences."""

    standing: Standing
    question: str
    broken: tuple[str, ...]
    evidence: tuple[str, ...]
    actions: tuple[str, ...]

    @property
    def nothing(self) -> str:
        """What is said where nothing is broken; a part says that it is one."""
        return "every objective is met" if self.standing.whole else f"every objective of these is met ({self.standing.scope})"


def of(standing: Standing) -> Brief:
    """Say of a validation what is broken, by which evidence, and what to do next."""
    entry, question = standing.entry, QUESTIONS[standing.validation]
    attempts = [f"{one}{', after the run shown here' if entry else ''}" for one in standing.since]  # that left no result
    if entry is None:
        broken = ("Nothing could be measured: no attempt left a result.",)
        return Brief(standing=standing, question=question, broken=broken, evidence=_few(attempts), actions=(NEXT[Verdict.NO_DATA],))
    found = entry.result.recommendations or [one for one in (entry.result.bottleneck,) if one]
    return Brief(
        standing=standing,
        question=question,
        broken=_few([*attempts, *_missed(entry)]),
        evidence=_few(_evidence(entry, found), PROOFS if entry.proofs else MOST),
        actions=_few([one.action for one in found] or [NEXT[entry.result.verdict]]),
    )


def _missed(entry: Entry) -> Iterator[str]:
    """Say which objectives are not met, the worst first; what several parts of a run miss alike is said once."""
    alike: dict[tuple[str, Verdict], list[Check]] = {}
    for check in sorted(entry.missed, key=lambda check: SEVERITY.index(check.verdict)):
        alike.setdefault((check.objective, check.verdict), []).append(check)
    for (objective, verdict), (first, *more) in alike.items():
        if more:
            names = [first.name, *(one.name for one in more)]
            others = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            things = THINGS.get(entry.result.validation, "parts")
            yield f"{len(names)} {things} {MISSING[verdict]} {objective}: {', '.join(names[:NAMED])}{others}"
        else:
            yield f"{first.name}: {objective}: {words(verdict)}: {first.reason} (n = {first.n:,})"


def _evidence(entry: Entry, found: Iterable[Finding]) -> list[str]:
    """Return the headline, of a comparison proof by proof, and each finding that these do not say themselves."""
    headline = entry.result.headline
    begin = entry.proofs or ((headline,) if headline else ())
    more = (one for one in found if (one.name not in OF_PROOFS if entry.proofs else one.finding not in headline))
    return [*begin, *entry.failures, *map(_with_figures, more)]


def _with_figures(finding: Finding) -> str:
    """Return a finding, with figures where it names none of them itself and there is room."""
    figures = [f"{name.replace('_', ' ')} {number(value)}" for name, value in finding.evidence.items()]
    text = f"{finding.finding} ({', '.join(figures[:FIGURES])})"
    is_said = any(_is_said(value, finding.finding) for value in finding.evidence.values())
    return finding.finding if is_said or not figures or len(text) > LONGEST else text


def _is_said(value: float | str, text: str) -> bool:
    """Tell whether a figure stands in a text, as a number or in percent."""
    forms = [number(value)] if isinstance(value, str) else [number(value), f"{value:.0%}"]
    return any(re.search(rf"(?<![\w.,]){re.escape(form)}(?![\w%])", text) for form in forms)


def _few(said: Sequence[str], most: int = MOST) -> tuple[str, ...]:
    """Say each thing once, and of too many how many more there are."""
    once = [cut(text, LONGEST) for text in dict.fromkeys(said)]
    return (*once[:most], *([f"and {len(once) - most} more"] if len(once) > most else []))


# ---- comment ----

SIGNS = {"pass": "✅", "fail": "❌", "invalid": "⚠️", "no_data": "⚠️", "not_proven": "❔"}
HEADINGS = ("validation", "verdict", "checks met", "main figure", "target", "run")


def text(overview: Overview) -> str:
    """Write the comment: one table, and under it what is broken, the evidence and the next action, folded."""
    if not overview.standings:
        return "## tapecheck: no recorded runs\n"
    briefs = [of(standing) for standing in overview.standings]
    table = [_line(HEADINGS), _line(["---"] * len(HEADINGS)), *(_row(one) for one in overview.standings)]
    folded = [line for one in briefs for line in _details(one)]
    return "\n".join([f"## tapecheck: {markdown(words(overview.verdict).upper())}", "", *table, "", *folded]) + "\n"


def _row(standing: Standing) -> str:
    since = ", and later attempts without a result" if standing.since else ""
    cells = [standing.name, f"{SIGNS[standing.verdict]} {words(standing.verdict).upper()}{since}"]
    if standing.entry is None:
        return _line([*map(markdown, cells), "", "", "", ""])
    result, main = standing.entry.result, standing.main
    before = f", {number(standing.trend[-2])} before" if len(standing.trend) > 1 else ""  # two runs prove no change
    figure = f"{main.name}: {standing.entry.in_words}{before}" if main else ""
    return _line([markdown(cell) for cell in (*cells, standing.entry.met, figure, result.target.name, result.run_id)])


def _details(one: Brief) -> list[str]:
    parts = {"Broken": one.broken or (f"nothing: {one.nothing}",), "Evidence": one.evidence, "Next action": one.actions}
    lines = ["<details>", f"<summary>{markdown(one.standing.name)}: what is broken, the evidence, the next action</summary>", ""]
    for heading, said in parts.items():
        lines += [f"**{heading}**", "", *(f"- {markdown(text)}" for text in said), ""]
    return [*lines, "</details>", ""]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
