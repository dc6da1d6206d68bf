"""Leads from what limits a baseline to the fix for it, with what was expected, predicted and measured side by side. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from tapecheck.compare.analysis import DRIFTED, MET, ProofSummary
from tapecheck.compare.difference import Change, State
from tapecheck.compare.plan import AFTER, BEFORE, Question
from tapecheck.compare.recording import Context, Recording
from tapecheck.runs.results import Finding
from tapecheck.statistics.paired import Ratio

Summary = Mapping[str, ProofSummary]
Questions = Mapping[str, Question]
SAID = {
    Change.IMPROVED: "proven",
    Change.NO_CHANGE: "proven to do nothing",
    Change.WORSE: "proven to do harm",
    Change.NOT_PROVEN: "not proven",
}


def find(recording: Recording, summary: Summary, questions: Questions) -> list[Finding]:
    """Return every finding, the most severe kind first."""
    return [
        *(one for name, proof in summary.items() for one in _unequal(name, proof)),
        *_claims(summary, questions),
        *(one for name, proof in summary.items() for one in _drifted(name, proof)),
        *_between(recording),
        *(_fix(name, proof) for name, proof in summary.items() if proof.answers and proof.main.ratio),
        *_unanswered(recording.context, questions),
    ]


def bottleneck(findings: Sequence[Finding]) -> Finding | None:
    """Return the finding that speaks first: a change that does harm, else the fix that saves most."""
    harmful = [one for one in findings if one.name == "worse"]
    fixes = sorted((one for one in findings if one.name == "fix"), key=lambda one: -float(one.evidence.get("saved_ratio", 0)))
    return next(iter((*harmful, *fixes)), None)


def outcome(proof: ProofSummary) -> str:
    """Say whether the expected saving was met, by the interval of what is saved; nothing where none was expected."""
    measured, low, high = proof.main.ratio, proof.expected_low_ratio, proof.expected_high_ratio
    if low is None or high is None:
        return ""
    if proof.main.change == Change.NOT_PROVEN or measured is None or measured.low is None or measured.high is None:
        return "not proven"
    saved_low, saved_high = 1 - measured.high, 1 - measured.low
    if saved_low > high:
        return "exceeded"
    return "met" if saved_low >= low else "missed" if saved_high < low else "not proven"


def predicted(proof: ProofSummary) -> str:
    """Write the saving that the baseline's replay predicts, which for a stage that costs nothing is the most that a fix can save."""
    if proof.predicted_ratio is None:
        return ""
    return f"{'at most ' if (proof.predicted_by or '').endswith('at no cost') else ''}{proof.predicted_ratio:.0%}"


def _unequal(name: str, proof: ProofSummary) -> Iterator[Finding]:
    if proof.invalid:
        yield Finding(
            name="not_the_same",
            finding=f"{name}: {proof.invalid}",
            evidence={one.name: f"{one.before} to {one.after}" for one in proof.counters if not one.equal},
            action="repair the variant first: a faster way to another result is no fix",
        )


def _claims(summary: Summary, questions: Questions) -> Iterator[Finding]:
    """Name each method check that claims what is known to be wrong, then each change that does harm."""
    pairs = [
        (name, metric.expect, one)
        for name, proof in summary.items()
        for metric, one in zip(questions[name].metrics, proof.differences, strict=True)
        if one.ratio
    ]
    for name, expected, one in pairs:
        if questions[name].method_check and one.change not in (*MET[expected], Change.NOT_PROVEN):
            yield Finding(
                name="method_check",
                finding=f"{name} claims what is known to be wrong: {one}, expected {expected}",
                evidence=_evidence(one.ratio),
                action="believe no proof of this session; measure again on a quieter machine",
            )
    for name, expected, one in pairs:
        if not questions[name].method_check and one.change == Change.WORSE and expected != "worse":
            yield Finding(
                name="worse",
                finding=f"{name} is worse: {one}",
                evidence={**_evidence(one.ratio), "smallest_effect_ratio": one.smallest_effect},
                action="do not ship this change; look at the counters first, then at what it does to this figure",
            )


def _evidence(measured: Ratio | None) -> dict[str, int | float | str]:
    return {"ratio": measured.value, "rounds": measured.n} if measured else {}


def _drifted(name: str, proof: ProofSummary) -> Iterator[Finding]:
    for control in proof.controls:
        if control.state == State.MOVED and any(one.reason.startswith(DRIFTED) for one in proof.differences):
            yield Finding(
                name="drifted",
                finding=f"{name}: {control.metric} moved, which the change cannot touch",
                evidence=_evidence(control.ratio),
                action="measure again on a quieter machine; until then this proof proves nothing",
            )


def _between(recording: Recording) -> Iterator[Finding]:
    """Name what else differs between recorded runs, and that they were not interleaved, once for all of their parts."""
    context = recording.context
    begun_ns = {side: [one.began_ns for one in recording.samples if one.side == side] for side in (BEFORE, AFTER)}
    if len(context.before) > 1 and max(begun_ns[BEFORE]) < min(begun_ns[AFTER]):
        yield Finding(
            name="not_interleaved",
            finding="all runs before were measured before all runs after: whatever else changed in between looks like the change",
            evidence={"runs_a_side": len(context.before)},
            action="record them alternately: before, after, after, before",
        )
    if context.differs:
        yield Finding(
            name="more_than_the_change",
            finding=f"more differs between the sides than the change: {', '.join(text.partition(': ')[0] for text in context.differs)}",
            evidence={text.partition(": ")[0]: text.partition(": ")[2] for text in context.differs},
            action="measure both as variants in one session: a proof of the compare plan",
        )


def _fix(name: str, proof: ProofSummary) -> Finding:
    """Say which finding of its baseline a backfill proof answers, and what it is worth."""
    main, low, high = proof.main, proof.expected_low_ratio, proof.expected_high_ratio
    hoped = [] if low is None or high is None else [f"{low:.0%} to {high:.0%} less was expected"]
    hoped += [] if proof.predicted_ratio is None else [f"{predicted(proof)} less predicted"]
    where = f", where {' and '.join(hoped)}" if hoped else ""
    return Finding(
        name="fix" if main.change == Change.IMPROVED else "fix_unproven",
        finding=f"{name}: {SAID[main.change]}, {main}{where}; its baseline: {proof.answers}",
        evidence=_side_by_side(proof),
        action=_next_step(name, proof),
    )


def _side_by_side(proof: ProofSummary) -> dict[str, int | float | str]:
    """Return what was expected, predicted and measured to be saved, as parts of 1."""
    measured = proof.main.ratio
    assert measured is not None
    figures = {
        "expected_low_ratio": proof.expected_low_ratio,
        "expected_high_ratio": proof.expected_high_ratio,
        "predicted_ratio": proof.predicted_ratio,
        "saved_ratio": 1 - measured.value,
        "saved_low_ratio": None if measured.high is None else 1 - measured.high,
        "saved_high_ratio": None if measured.low is None else 1 - measured.low,
    }
    return {name: value for name, value in figures.items() if value is not None} | {"expected_saving": outcome(proof) or "none"}


def _next_step(name: str, proof: ProofSummary) -> str:
    if proof.main.change == Change.IMPROVED:
        return f"adopt it: {proof.says}"
    more = f"with {proof.main.needed_rounds} rounds" if proof.main.needed_rounds else "with more rounds, on an idle machine"
    return f"do not count on it yet; measure {name} again {more}" if proof.main.change == Change.NOT_PROVEN else "look for another fix"


def _unanswered(context: Context, questions: Questions) -> Iterator[Finding]:
    """Name what limits a baseline and no proof of this run is the fix for."""
    answers = {answer for question in questions.values() for answer in question.answers}
    limits: dict[str, Finding] = {}
    for name in (name for name in questions if name in context.baselines):
        for one in context.baselines[name].found:
            limits.setdefault(one.name, one)
    for one in limits.values():
        if one.name not in answers:
            yield replace(one, name="no_fix_tried", finding=f"no proof is the fix for: {one.finding}")
