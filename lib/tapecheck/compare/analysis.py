"""Turns the samples of a comparison into a summary, and the summary into checks. Pure: no target, no files, no clock."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tapecheck.compare import counters, difference, samples
from tapecheck.compare.counters import CounterChange
from tapecheck.compare.difference import Change, Difference, State
from tapecheck.compare.metrics import COUNTED_EXACTLY
from tapecheck.compare.plan import Metric, Proof, Question
from tapecheck.compare.recording import Baseline, Recording
from tapecheck.compare.samples import Pair
from tapecheck.ratios import Ratio
from tapecheck.results import Finding
from tapecheck.verdict import Check, Verdict

FAILED_MOST = 0.001  # of the requests after a change may fail, whatever failed before it
MET: Mapping[str, frozenset[Change]] = {  # what each expectation is content with
    "improved": frozenset({Change.IMPROVED}),
    "no_change": frozenset({Change.NO_CHANGE}),
    "worse": frozenset({Change.WORSE}),
    "not_worse": frozenset({Change.IMPROVED, Change.NO_CHANGE}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """A figure that the change cannot touch; one that moved says that the session drifted."""

    metric: str
    ratio: Ratio | None
    state: State


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round of a proof: the ratio of its first metric, and when it began, in seconds since the proof's first run."""

    round: int
    at_s: float
    ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofSummary:
    """A proof in figures; parts of 1 where the name says ratio.

    `invalid` says why before and after are no variants of one thing, `doubt` why nothing can be proven by them all the same, and
    `left_out` why rounds do not count. `answers` is what limits the baseline and the change is for; `promised_low_ratio` to
    `promised_high_ratio` is what was promised to be saved by that, `predicted_ratio` what the replay of the baseline predicts for
    `predicted_by`.
    """

    validation: str
    says: str
    counters: list[CounterChange]
    checksums_equal: bool | None
    invalid: str | None
    doubt: str | None
    planned_rounds: int
    left_out: list[str]
    answers: str | None
    differences: list[Difference]
    controls: list[Control]
    rounds: list[Round]
    promised_low_ratio: float | None
    promised_high_ratio: float | None
    predicted_by: str | None
    predicted_ratio: float | None

    @property
    def main(self) -> Difference:
        """The difference that the change is for."""
        return self.differences[0]

    @property
    def saved_ratio(self) -> float | None:
        """The part of the first metric that the change saves; below 0 where it costs more."""
        return None if self.main.ratio is None else 1 - self.main.ratio.value


def summarize(recording: Recording) -> dict[str, ProofSummary]:
    """Summarize every proof; its metrics are a family."""
    return {name: _guarded(_proof(recording, name, question)) for name, question in recording.context.questions.items()}


def _proof(recording: Recording, name: str, question: Proof | Question) -> ProofSummary:
    own, context = recording.of(name), recording.context
    rounds, equals = samples.pairs(own), samples.equals(own)
    found = counters.compare(rounds)
    same = counters.checksums_equal(rounds)
    controls = [_control(control, question.metrics[0], rounds, context.seed) for control in question.controls]
    baseline = context.baselines.get(name, Baseline())
    answered = answered_finding(question, baseline)
    what_if = question.what_if if isinstance(question, Proof) else None
    counts = COUNTED_EXACTLY[question.validation]
    alone = [difference.measure(metric, rounds, equals, seed=context.seed, is_count=metric.name in counts) for metric in question.metrics]
    planned = len({sample.round for sample in own if sample.round})
    return ProofSummary(
        validation=question.validation,
        says=question.says,
        counters=found,
        checksums_equal=same,
        invalid=_invalid(question, found, same),
        doubt=_doubt(controls, context.differs, len(rounds), planned),
        planned_rounds=planned,
        left_out=samples.problems(own),
        answers=answered.finding if answered else None,
        differences=difference.among_family(alone),
        controls=controls,
        rounds=_rounds(question.metrics[0], rounds),
        promised_low_ratio=_promised(answered, "low"),
        promised_high_ratio=_promised(answered, "high"),
        predicted_by=what_if,
        predicted_ratio=baseline.what_if.get(what_if) if what_if else None,
    )


def answered_finding(question: Question, baseline: Baseline) -> Finding | None:
    """Return the finding of a baseline that a change is the fix for, the gravest one."""
    answers = question.answers if isinstance(question, Proof) else ()
    return next((one for one in baseline.found if one.name in answers), None)


def _promised(answered: Finding | None, end: str) -> float | None:
    """Return an end of what was promised to whoever mends what a finding is about."""
    promised = answered.evidence.get(f"promised_saving_{end}_ratio") if answered else None
    return float(promised) if promised is not None else None


def _invalid(question: Question, found: Sequence[CounterChange], same: bool | None) -> str | None:
    """Return why before and after are no variants of one thing, if they are not."""
    if same is False:
        return "the checksums of what was stored differ: the variants did not do the same"
    if question.validation == "load" and (more := _fails_more(found)):
        return more
    unequal = [f"{one.name} {one.before} before, {one.after} after" for one in found if one.name in question.equal and not one.equal]
    return f"the variants did not do the same: {', '.join(unequal)}" if unequal else None


def _fails_more(found: Sequence[CounterChange]) -> str | None:
    """Say that the side after fails more requests, if it does: an answer that is wrong may well be fast."""
    total = {one.name: one for one in found}
    if "failed" not in total or "requests" not in total:
        return None
    failed, requests = total["failed"], total["requests"]
    before, after = (getattr(failed, f"{side}_sum") / max(1, getattr(requests, f"{side}_sum")) for side in ("before", "after"))
    if after <= max(before, FAILED_MOST):
        return None
    return f"after the change {failed.after} requests of a round failed, before it {failed.before}: a failure may well be fast"


def _doubt(controls: Sequence[Control], differs: Sequence[str], kept: int, planned: int) -> str | None:
    """Return why a difference may have another cause than the change, if it may."""
    if 2 * kept < planned:
        return f"only {kept} of {planned} rounds count"
    if differs:
        return f"more lies between the sides than the change: {'; '.join(differs)}"
    drifted = [one.metric for one in controls if one.state == State.MOVED]
    return f"the session drifted: {', '.join(drifted)} moved, which the change cannot touch" if drifted else None


def _control(name: str, guarded: Metric, rounds: Sequence[Pair], seed: int) -> Control:
    measured, state = difference.control(guarded.model_copy(update={"name": name, "better": "lower"}), rounds, seed=seed)
    return Control(metric=name, ratio=measured, state=state)


def _rounds(metric: Metric, rounds: Sequence[Pair]) -> list[Round]:
    first_ns = min((min(pair.before.began_ns, pair.after.began_ns) for pair in rounds), default=0)
    found = []
    for pair in rounds:
        one = difference.measure(metric, [pair], ())
        if one.ratio is not None:
            at_ns = min(pair.before.began_ns, pair.after.began_ns) - first_ns
            found.append(Round(round=pair.before.round, at_s=at_ns / 1e9, ratio=one.ratio.value))
    return found


def _guarded(proof: ProofSummary) -> ProofSummary:
    """Take back every claim that has another cause, or may have; what was the same in every round no drift can have made."""
    reason = proof.invalid or proof.doubt
    if reason is None:
        return proof
    differences = [_kept_or_refused(one, proof, reason) for one in proof.differences]
    return replace(proof, differences=differences)


def _kept_or_refused(one: Difference, proof: ProofSummary, reason: str) -> Difference:
    is_kept = proof.invalid is None and one.ratio is not None and one.ratio.exact
    return one if is_kept else difference.refused(one, reason)


def check(summary: Mapping[str, ProofSummary], questions: Mapping[str, Question | Proof]) -> list[Check]:
    """Judge every metric of every proof by what was expected of it."""
    return [
        judge(name, metric, one, proof)
        for name, proof in summary.items()
        for metric, one in zip(questions[name].metrics, proof.differences, strict=True)
    ]


def judge(name: str, metric: Metric, one: Difference, proof: ProofSummary) -> Check:
    """Judge one difference: a claim that meets the expectation passes, any other claim fails, and no claim is not proven."""
    verdict = Verdict.PASS if one.change in MET[metric.expect] else Verdict.FAIL
    if one.change == Change.NOT_PROVEN:
        verdict = Verdict.NO_DATA if one.ratio is None else Verdict.INVALID if proof.invalid else Verdict.NOT_PROVEN
    lost = proof.planned_rounds - len(proof.rounds)
    more = [f"{one.needed_rounds} rounds would tell"] if one.needed_rounds else []
    more += [f"{lost} of {proof.planned_rounds} rounds do not count"] if lost else []
    said = one.reason if one.change == Change.NOT_PROVEN else f"{one.change.replace('_', ' ')}: {one.reason}"
    return Check(
        name=name,
        objective=objective(metric),
        value=one.ratio.value if one.ratio else None,
        bound=_bound(metric, one.ratio),
        n=one.ratio.n if one.ratio else 0,
        verdict=verdict,
        reason="; ".join([said, *more]),
    )


def objective(metric: Metric) -> str:
    """Write what is expected of a metric as a limit of its ratio."""
    limits = {
        "improved": f"<= {metric.good_below:.3g}",
        "worse": f">= {metric.bad_above:.3g}",
        "not_worse": f"< {metric.bad_above:.3g}",
        "no_change": f"within {metric.good_below:.3g} and {metric.bad_above:.3g}",
    }
    return f"{metric.name} ratio {limits[metric.expect]}"


def _bound(metric: Metric, measured: Ratio | None) -> float | None:
    """Return the end of the interval that counts against an expectation."""
    if measured is None:
        return None
    return measured.low if metric.expect == "worse" else measured.high
