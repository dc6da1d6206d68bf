"""What the run of a comparison proved, a sentence a proof, what was measured first. It judges nothing anew."""

import re

from tapecheck.results import Finding, Result
from tapecheck.verdict import Check

_MEASURED = re.compile(r"[-+]\d+%")
_BASELINE = "; its baseline: "  # what follows it in a finding is about the run before the change


def sentences(result: Result) -> list[str]:
    """Return the sentences of the headline, each with what was measured and, where its finding says it, hoped for."""
    names = "|".join(re.escape(name) for name in (*_first_checks(result), "Method check"))
    split = re.split(rf"(?<=\.) (?=(?:{names}): )", result.headline)
    return [_told(sentence, result) for sentence in split if sentence]


def others(result: Result) -> list[Finding]:
    """Return the findings that are about no proof, which no sentence tells."""
    begins = tuple(f"{name}{more}" for name in _first_checks(result) for more in (": ", " is worse: "))
    return [one for one in result.recommendations if not one.finding.startswith(begins)]


def _first_checks(result: Result) -> dict[str, Check]:
    """Return the check of each proof's first metric, by the proof's name; it is the one that the headline is about."""
    return {check.name: check for check in reversed(result.checks)}


def _told(sentence: str, result: Result) -> str:
    """Return what is said of a proof: its finding if that has what was measured, else its sentence of the headline."""
    name = sentence.partition(": ")[0]
    found = [one.finding.partition(_BASELINE)[0] for one in result.recommendations if one.finding.startswith(f"{name}: ")]
    measured = [text for text in (*found, sentence) if _MEASURED.search(text)]
    return measured[0] if measured else _with_ratio(sentence, _first_checks(result).get(name))


def _with_ratio(sentence: str, check: Check | None) -> str:
    """Add what was measured to a sentence that names no figure."""
    measured = f", ratio {check.value:.3f} (n = {check.n:,})" if check and check.value is not None else ""
    return f"{sentence.removesuffix('.')}{measured}"
