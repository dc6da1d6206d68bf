"""What is broken, the evidence and the next action, of the last run of each validation. It judges nothing anew."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tapecheck.reports import proofs
from tapecheck.reports.overview import Standing
from tapecheck.reports.wording import cut, number, words
from tapecheck.results import Finding, Result
from tapecheck.verdict import NEXT, Check, Verdict

MOST = 3  # things said under one heading; a page has room for no more of four validations
PROOFS = 7  # of a comparison, each in a line or two
LONGEST = 160  # characters of one of them
FIGURES = 4  # of a finding's evidence
QUESTIONS: Mapping[str, str] = {
    "load": "How much traffic does it carry before it breaks its promises?",
    "backfill": "Where does the time go when history is refilled, and is it complete?",
    "rto_rpo": "How long until service is back after a failure, and what is lost?",
    "compare": "Did the fix work?",
}
WORST_FIRST = (Verdict.FAIL, Verdict.INVALID, Verdict.NO_DATA, Verdict.NOT_PROVEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Brief:
    """One validation in a few sentences."""

    standing: Standing
    question: str
    broken: tuple[str, ...]
    evidence: tuple[str, ...]
    actions: tuple[str, ...]


def of(standing: Standing) -> Brief:
    """Say of a validation what is broken, by which evidence, and what to do next."""
    question = QUESTIONS[standing.validation]
    if standing.entry is None:
        broken = ("Nothing could be measured: no attempt left a result.",)
        return Brief(
            standing=standing, question=question, broken=broken, evidence=_few(_attempts(standing)), actions=(NEXT[Verdict.NO_DATA],)
        )
    entry = standing.entry
    found = entry.result.recommendations or [one for one in (entry.result.bottleneck,) if one]
    return Brief(
        standing=standing,
        question=question,
        broken=_few([*_attempts(standing), *(_missed(check) for check in _worst_first(entry.missed))]),
        evidence=_few(_evidence(entry.result, found), PROOFS if entry.result.validation == "compare" else MOST),
        actions=_few([one.action for one in found] or [NEXT[entry.result.verdict]]),
    )


def _worst_first(checks: Iterable[Check]) -> list[Check]:
    return sorted(checks, key=lambda check: WORST_FIRST.index(check.verdict))


def _missed(check: Check) -> str:
    return f"{check.name}: {check.objective}: {words(check.verdict)}: {check.reason} (n = {check.n:,})"


def _evidence(result: Result, found: Iterable[Finding]) -> list[str]:
    """Return the headline, of a comparison proof by proof, and each finding that it does not say itself."""
    if result.validation == "compare":
        return [*proofs.sentences(result), *map(_with_figures, proofs.others(result))]
    headline = [result.headline] if result.headline else []
    return [*headline, *(_with_figures(one) for one in found if one.finding not in result.headline)]


def _with_figures(finding: Finding) -> str:
    """Return a finding, with figures where it names none of them itself and there is room."""
    figures = [f"{name} {number(value)}" for name, value in finding.evidence.items()]
    text = f"{finding.finding} ({', '.join(figures[:FIGURES])})"
    is_said = any(_is_said(value, finding.finding) for value in finding.evidence.values())
    return finding.finding if is_said or not figures or len(text) > LONGEST else text


def _is_said(value: float | str, text: str) -> bool:
    """Tell whether a figure stands in a text, as a number or in percent."""
    forms = [number(value)] if isinstance(value, str) else [number(value), f"{value:.0%}"]
    return any(re.search(rf"(?<![\w.,]){re.escape(form)}(?![\w%])", text) for form in forms)


def _attempts(standing: Standing) -> tuple[str, ...]:
    """Name the attempts that left no result, after the run that the rest is about if there is one."""
    return tuple(f"{one}{', after the run shown here' if standing.entry else ''}" for one in standing.since)


def _few(said: Sequence[str], most: int = MOST) -> tuple[str, ...]:
    """Say each thing once, and of too many how many more there are."""
    once = [cut(text, LONGEST) for text in dict.fromkeys(said)]
    return (*once[:most], *([f"and {len(once) - most} more"] if len(once) > most else []))
