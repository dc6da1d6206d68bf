"""Leads from what limits a baseline to the fix for it, with what was promised, predicted and measured side by side. Pure."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from tapecheck.compare import difference
from tapecheck.compare.analysis import DRIFTED, MET, ProofSummary
from tapecheck.compare.difference import Change, Difference, State
from tapecheck.compare.recording import Recording
from tapecheck.runs.results import Finding
from tapecheck.statistics.paired import Ratio

Summary = Mapping[str, ProofSummary]
Rule = Callable[[Recording, Summary], Iterator[Finding]]
SAID = {
    Change.IMPROVED: "proven",
    Change.NO_CHANGE: "proven to do nothing",
    Change.WORSE: "proven to do harm",
    Change.NOT_PROVEN: "not proven",
}


def find(recording: Recording, summary: Summary) -> list[Finding]:
    """Return every finding, the most severe kind first."""
    return [finding for rule in RULES for finding in rule(recording, summary)]


def bottleneck(findings: Sequence[Finding]) -> Finding | None:
    """Return the finding that speaks first: a change that does harm, else the fix that saves most."""
    harmful = [one for one in findings if one.name == "worse"]
    fixes = sorted((one for one in findings if one.name == "fix"), key=lambda one: -float(one.evidence.get("saved_ratio", 0)))
    return next(iter((*harmful, *fixes)), None)


def promise_kept(proof: ProofSummary) -> str:
    """Say what became of a promise, by the interval of what is saved."""
    measured, low, high = proof.main.ratio, proof.promised_low_ratio, proof.promised_high_ratio
    if low is None or high is None:
        return ""
    if proof.main.change == Change.NOT_PROVEN or measured is None or measured.low is None or measured.high is None:
        return "not proven"
    saved_low, saved_high = 1 - measured.high, 1 - measured.low
    if saved_low > high:
        return "more than promised"
    return "kept" if saved_low >= low else "broken" if saved_high < low else "not proven"


def predicted(proof: ProofSummary) -> str:
    """Write the saving that the baseline's replay predicts, which for a stage that costs nothing is the most that a fix can save."""
    if proof.predicted_ratio is None:
        return ""
    return f"{'at most ' if (proof.predicted_by or '').endswith('at no cost') else ''}{proof.predicted_ratio:.0%}"


def _unequal(recording: Recording, summary: Summary) -> Iterator[Finding]:
    for name, proof in summary.items():
        if proof.invalid:
            yield Finding(
                name="not_the_same",
                finding=f"{name}: {proof.invalid}",
                evidence={one.name: f"{one.before} to {one.after}" for one in proof.counters if not one.equal},
                action="repair the variant first: a faster way to another result is no fix",
            )


def _harmful(recording: Recording, summary: Summary) -> Iterator[Finding]:
    for name, one, expected in _claims(recording, summary, method_check=False):
        if one.change == Change.WORSE and expected != "worse":
            yield Finding(
                name="worse",
                finding=f"{name} is worse: {difference.said(one)}",
                evidence={**_evidence(one.ratio), "smallest_effect_ratio": one.smallest_effect},
                action="do not ship this change; look at the counters first, then at what it does to this figure",
            )


def _method(recording: Recording, summary: Summary) -> Iterator[Finding]:
    """Name each method check that claims what is known to be wrong."""
    for name, one, expected in _claims(recording, summary, method_check=True):
        if one.change not in (*MET[expected], Change.NOT_PROVEN):
            yield Finding(
                name="method_check",
                finding=f"{name} claims what is known to be wrong: {difference.said(one)}, expected {expected}",
                evidence=_evidence(one.ratio),
                action="believe no proof of this session; measure again on a quieter machine",
            )


def _claims(recording: Recording, summary: Summary, *, method_check: bool) -> Iterator[tuple[str, Difference, str]]:
    """Yield each difference that has a ratio, with its proof and what was expected of it."""
    for name, proof in summary.items():
        for metric, one in zip(recording.context.questions[name].metrics, proof.differences, strict=True):
            if one.ratio and proof.method_check == method_check:
                yield name, one, metric.expect


def _evidence(measured: Ratio | None) -> dict[str, int | float | str]:
    return {"ratio": measured.value, "rounds": measured.n} if measured else {}


def _drifted(recording: Recording, summary: Summary) -> Iterator[Finding]:
    for name, proof in summary.items():
        for control in proof.controls:
            if control.state == State.MOVED and control.ratio and any(one.reason.startswith(DRIFTED) for one in proof.differences):
                yield Finding(
                    name="drifted",
                    finding=f"{name}: {control.metric} moved, which the change cannot touch",
                    evidence=_evidence(control.ratio),
                    action="measure again on a quieter machine; until then this proof proves nothing",
                )


def _differ(recording: Recording, summary: Summary) -> Iterator[Finding]:
    if recording.context.differs:
        yield Finding(
            name="more_than_the_change",
            finding="between the two runs lies more than the change",
            evidence={text.partition(": ")[0]: text.partition(": ")[2] for text in recording.context.differs},
            action="measure both as plans in one session: a proof in config/compare.yaml",
        )


def _fixes(recording: Recording, summary: Summary) -> Iterator[Finding]:
    """Say for each backfill proof which finding of its baseline it answers, and what it is worth."""
    for name, proof in summary.items():
        if proof.answers and proof.main.ratio:
            yield Finding(
                name="fix" if proof.main.change == Change.IMPROVED else "fix_unproven",
                finding=f"{name}: {_found(proof)}; its baseline: {proof.answers}",
                evidence=_side_by_side(proof),
                action=_next_step(name, proof),
            )


def _found(proof: ProofSummary) -> str:
    """Say what is proven, beside what was promised and predicted to be saved."""
    low, high = proof.promised_low_ratio, proof.promised_high_ratio
    promised = [] if low is None or high is None else [f"{low:.0%} to {high:.0%} less was promised"]
    hoped = [*promised, *([] if proof.predicted_ratio is None else [f"{predicted(proof)} less predicted"])]
    found = f"{SAID[proof.main.change]}, {difference.said(proof.main)}"
    return f"{found}, where {' and '.join(hoped)}" if hoped else found


def _side_by_side(proof: ProofSummary) -> dict[str, int | float | str]:
    """Return what was promised, predicted and measured to be saved, as parts of 1."""
    measured = proof.main.ratio
    assert measured is not None
    figures = {
        "promised_low_ratio": proof.promised_low_ratio,
        "promised_high_ratio": proof.promised_high_ratio,
        "predicted_ratio": proof.predicted_ratio,
        "saved_ratio": 1 - measured.value,
        "saved_low_ratio": None if measured.high is None else 1 - measured.high,
        "saved_high_ratio": None if measured.low is None else 1 - measured.low,
    }
    return {name: value for name, value in figures.items() if value is not None} | {"promise": promise_kept(proof) or "none"}


def _next_step(name: str, proof: ProofSummary) -> str:
    if proof.main.change == Change.IMPROVED:
        return f"adopt it: {proof.says}"
    more = f"with {proof.main.needed_rounds} rounds" if proof.main.needed_rounds else "with more rounds, on an idle machine"
    return f"do not count on it yet; measure {name} again {more}" if proof.main.change == Change.NOT_PROVEN else "look for another fix"


def _unanswered(recording: Recording, summary: Summary) -> Iterator[Finding]:
    """Name what limits a baseline and no proof of this run is the fix for."""
    answers = {answer for question in recording.context.questions.values() for answer in question.answers}
    seen: set[str] = set()
    for baseline in recording.context.baselines.values():
        for one in baseline.found:
            if one.name not in answers and one.name not in seen:
                seen.add(one.name)
                yield replace(one, name="no_fix_tried", finding=f"no proof is the fix for: {one.finding}")


RULES: tuple[Rule, ...] = (_unequal, _method, _harmful, _drifted, _differ, _fixes, _unanswered)
