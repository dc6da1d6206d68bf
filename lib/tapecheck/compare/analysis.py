"""Turns the samples of a comparison into a summary under a plan, and the summary into checks. Pure: no target, no files, no clock."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tapecheck.compare import answers, difference
from tapecheck.compare.difference import Change, Control, CounterChange, Difference, Method, Pair, State
from tapecheck.compare.plan import ANSWERS, COUNTED_EXACTLY, MAX_ROUNDS, ROUNDS_NEEDED, ComparePlan, Metric, Question
from tapecheck.compare.recording import Baseline, Recording, Sample
from tapecheck.runs.results import Finding
from tapecheck.statistics.paired import ALPHA, Ratio
from tapecheck.verdict import Check, Verdict, written

FAILED_MOST = 0.001  # of the requests after a change may fail, whatever failed before it
DRIFTED = "the session drifted"
NO_BASELINE = Baseline()
PATIENCE = 8  # rounds without one that counts, after which none is hoped for
MET: Mapping[str, frozenset[Change]] = {  # what each expectation is content with
    "improved": frozenset({Change.IMPROVED}),
    "no_change": frozenset({Change.NO_CHANGE}),
    "worse": frozenset({Change.WORSE}),
    "not_worse": frozenset({Change.IMPROVED, Change.NO_CHANGE}),
    "no_claim": frozenset({Change.NO_CHANGE}),  # and with rounds that bound something and prove nothing, see `judge`
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round of a proof: the ratio of its first metric."""

    round: int
    ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofSummary:
    """A proof in figures; parts of 1 where the name says ratio.

    `invalid` says why before and after are no variants of one thing, `doubt` why nothing can be proven by them all the same,
    `not_compared` what of the answers nothing is known of, and `left_out` why rounds do not count; in `late` of those that do, the load
    generator lagged. `alpha` is the level of the look at which it ended; all looks together have 5 %. `answers` is what limits the
    baseline and the change is for; `expected_low_ratio` to `expected_high_ratio` is the saving that is expected of mending that,
    `predicted_ratio` what the replay of the baseline predicts for `predicted_by`.
    """

    validation: str
    says: str
    counters: list[CounterChange]
    checksums_equal: bool | None
    invalid: str | None
    doubt: str | None
    not_compared: str | None = None
    method_check: bool = False
    planned_rounds: int
    alpha: float = ALPHA
    left_out: list[str]
    late: int = 0
    answers: str | None
    differences: list[Difference]
    controls: list[Control]
    rounds: list[Round]
    expected_low_ratio: float | None
    expected_high_ratio: float | None
    predicted_by: str | None
    predicted_ratio: float | None

    @property
    def main(self) -> Difference:
        """The difference that the change is for."""
        return self.differences[0]


def summarize(recording: Recording, plan: ComparePlan) -> dict[str, ProofSummary]:
    """Summarize every proof that a plan asks about, as a session under that plan would have ended."""
    context, own = recording.context, {name: list[Sample]() for name in recording.context.variants}
    for sample in recording.samples:
        own[sample.proof].append(sample)
    return {
        name: of_proof(question, own[name], baseline=context.baselines.get(name, NO_BASELINE), differs=len(context.differs), seed=plan.seed)
        for name, question in recording.questions(plan).items()
    }


def is_decided(proof: ProofSummary) -> bool:
    """Tell whether more rounds would add nothing.

    All metrics are decided, or have no figure in any round, or before and after are no variants of one thing. A drift takes back what
    clocks say, and so leads to more rounds: it may pass.
    """
    if proof.invalid:
        return True
    if proof.left_out and not proof.rounds:  # what was in the way may pass
        return proof.planned_rounds >= PATIENCE
    return all(one.change != Change.NOT_PROVEN or one.ratio is None for one in proof.differences)


def of_proof(
    question: Question, own: Sequence[Sample], *, baseline: Baseline = NO_BASELINE, differs: int = 0, seed: int = 0
) -> ProofSummary:
    """Summarize one proof from its samples, up to the look that decides it; recorded runs are looked at once."""
    for look in question.rounds.looks if question.rounds else (MAX_ROUNDS,):
        seen = [sample for sample in own if sample.round <= look]
        found = _at_look(question, seen, baseline, differs, seed)
        if is_decided(found) or len(seen) == len(own):
            break
    return found


def _at_look(question: Question, own: Sequence[Sample], baseline: Baseline, differs: int, seed: int) -> ProofSummary:
    rounds, planned = difference.pairs(own), len({sample.round for sample in own if sample.round})
    counted, first = difference.counter_changes(rounds), question.metrics[0]
    alpha = question.rounds.alpha(planned) if question.rounds else ALPHA
    method = Method(alpha=alpha, seed=seed)
    answered = next((one for one in baseline.found if one.name in question.answers), None)
    ratios = [(pair.before.round, difference.logs(first.name, first.better, [pair])) for pair in rounds]
    return _guarded(
        ProofSummary(
            validation=question.validation,
            says=question.says,
            counters=counted,
            checksums_equal=difference.checksums_equal(rounds),
            invalid=_invalid(question, counted, rounds),
            doubt=_doubt(differs, len(rounds), planned),
            not_compared=answers.not_compared(rounds) if ANSWERS in question.equal else None,
            method_check=question.method_check,
            planned_rounds=planned,
            alpha=alpha,
            left_out=list(dict.fromkeys(sample.problem for sample in own if sample.round and sample.problem)),
            late=sum(_is_late(pair) for pair in rounds),
            answers=answered.finding if answered else None,
            differences=_despite_lag(question, rounds, difference.equals(own), method),
            controls=[difference.control(name, first.limits, rounds, replace(method, alpha=ALPHA)) for name in question.controls],
            rounds=[Round(round=number, ratio=math.exp(d[0])) for number, d in ratios if d is not None],
            expected_low_ratio=_expected(answered, "low"),
            expected_high_ratio=_expected(answered, "high"),
            predicted_by=question.what_if,
            predicted_ratio=baseline.what_if.get(question.what_if) if question.what_if else None,
        )
    )


def _is_late(pair: Pair) -> bool:
    return bool(pair.before.late or pair.after.late)


def _despite_lag(question: Question, rounds: Sequence[Pair], equals: Sequence[Pair], method: Method) -> list[Difference]:
    """Measure, and take back what a load generator that lagged may have hidden or made: its lag adds to the times of the side it measures.

    So it may hide that something changed, and a claim has to stand without the rounds in which only the side that looks slower lagged.
    """

    def measure(kept: Sequence[Pair]) -> list[Difference]:
        return difference.measure(question.metrics, kept, equals, method, COUNTED_EXACTLY.get(question.validation, ()))

    found, late = measure(rounds), sum(map(_is_late, rounds))
    if not late:
        return found
    without = {
        Change.IMPROVED: measure([pair for pair in rounds if pair.after.late or not pair.before.late]),
        Change.WORSE: measure([pair for pair in rounds if pair.before.late or not pair.after.late]),
    }
    said = f"in {late} of {len(rounds)} rounds the load generator lagged, which"
    quieter = "measure again on a quieter machine or at a lower rate"
    for i, one in enumerate(found):
        if one.change == Change.NO_CHANGE and not one.is_exact:
            found[i] = replace(one, change=Change.NOT_PROVEN, reason=f"{said} hides differences; {quieter}")
        elif one.change in without and without[one.change][i].change != one.change:
            side = "before" if one.change == Change.IMPROVED else "after"
            why = f"may have made this difference: without those where only {side} lagged it is not proven; {quieter}"
            found[i] = difference.refused(one, f"{said} {why}")
    return found


def _expected(answered: Finding | None, end: str) -> float | None:
    """Return an end of the saving that a finding expects of mending what it is about."""
    expected = answered.evidence.get(f"promised_saving_{end}_ratio") if answered else None
    return float(expected) if expected is not None else None


def _invalid(question: Question, found: Sequence[CounterChange], rounds: Sequence[Pair]) -> str | None:
    """Return why before and after are no variants of one thing, if they are not."""
    if difference.checksums_equal(rounds) is False:
        return "the checksums of what was stored differ: the variants did not do the same"
    if question.validation == "load" and (more := _fails_more(found)):
        return more
    if ANSWERS in question.equal and (other := answers.differ(rounds)):
        return f"the answers differ: {other}"
    unequal = [f"{one.name} {one.before} before, {one.after} after" for one in found if one.name in question.equal and not one.equal]
    return f"the variants did not do the same: {', '.join(unequal)}" if unequal else None


def _fails_more(found: Sequence[CounterChange]) -> str | None:
    """Say that the side after fails more requests, if it does: an answer that is wrong may well be fast."""
    total = {one.name: one for one in found}
    if not {"failed", "requests"} <= total.keys():
        return None
    failed, requests = total["failed"], total["requests"]
    before, after = failed.before_sum / max(1, requests.before_sum), failed.after_sum / max(1, requests.after_sum)
    if after <= max(before, FAILED_MOST):
        return None
    return f"after the change {failed.after} requests of a round failed, before it {failed.before}: a failure may well be fast"


def _doubt(differs: int, kept: int, planned: int) -> str | None:
    """Return why a difference may have another cause than the change, if it may."""
    if 2 * kept < planned:
        return "fewer than half of its rounds count"
    return "more differs between the sides than the change" if differs else None


def _guarded(proof: ProofSummary) -> ProofSummary:
    """Take back every claim that has another cause, or may have; what was the same in every round no drift can have made."""

    def guarded(one: Difference) -> Difference:
        reason = proof.invalid or proof.doubt or _drift(one, proof.controls)
        is_nothing = one.ratio is None or one.ratio.low is None  # with too few rounds for an interval, that is the reason
        is_kept = reason is None or (proof.invalid is None and (one.is_exact or is_nothing))
        return one if is_kept else difference.refused(one, reason or "")

    return replace(proof, differences=[guarded(one) for one in proof.differences])


def _drift(one: Difference, controls: Sequence[Control]) -> str | None:
    """Name the controls whose movement may have made what is claimed, if there are any."""
    moved = [each.metric for each in controls if each.state == State.MOVED and each.ratio and _may_have_made(one, each.ratio)]
    return f"{DRIFTED}: {', '.join(moved)} moved, which the change cannot touch" if moved else None


def _may_have_made(one: Difference, drift: Ratio) -> bool:
    """Tell whether a claim falls with the drift taken out, as much of it as its interval allows.

    A drift the other way makes an improvement or a loss only more certain.
    """
    measured, (good, bad) = one.ratio, one.limits
    if measured is None or measured.low is None or measured.high is None or drift.low is None or drift.high is None:
        return True
    if one.change == Change.IMPROVED:
        return measured.high / min(drift.low, 1.0) > good
    return one.change != Change.WORSE or measured.low / max(drift.high, 1.0) < bad


# ---- checks ----


def check(summary: Mapping[str, ProofSummary], questions: Mapping[str, Question]) -> list[Check]:
    """Judge every metric of every proof by what was expected of it."""
    return [
        judge(name, metric, one, proof, questions[name])
        for name, proof in summary.items()
        for metric, one in zip(questions[name].metrics, proof.differences, strict=True)
    ]


def judge(name: str, metric: Metric, one: Difference, proof: ProofSummary, question: Question) -> Check:
    """Judge one difference: a claim that meets the expectation passes, any other claim fails, and no claim is not proven."""
    least, most = (question.rounds.least, question.rounds.most) if question.rounds else (ROUNDS_NEEDED, 0)
    n, measured = proof.planned_rounds, one.ratio.n if one.ratio else 0
    verdict = _verdict(metric, one, proof, least)
    is_open = one.change == Change.NOT_PROVEN
    claimed = "" if is_open and verdict != Verdict.PASS else f"{'no difference claimed' if is_open else one.change.replace('_', ' ')}: "
    more = [f"{claimed}{one}, {one.reason}" if one.ratio and not proof.invalid else one.reason]
    if is_open and verdict != Verdict.PASS and one.ratio:
        more += [f"about {one.needed_rounds} rounds needed"] if one.needed_rounds else []
        more += [f"at least {least} rounds needed, {measured} measured"] if question.rounds and measured < least else []
        more += [f"the recording ends after {n} rounds, the plan goes on to {most}"] if n < most and not is_decided(proof) else []
    more += [f"{n - len(proof.rounds)} of {n} rounds do not count"] if len(proof.rounds) < n else []
    more += [proof.not_compared] if proof.not_compared and metric is question.metrics[0] else []  # once for all of them
    more += [_unseen(one)] if is_open and verdict == Verdict.PASS else []
    return Check(
        name=name,
        objective=objective(metric),
        value=one.ratio.value if one.ratio else None,
        bound=(one.ratio.low if metric.expect == "worse" else one.ratio.high) if one.ratio else None,  # the end that counts against it
        n=measured,
        verdict=verdict,
        reason="; ".join(more),
    )


def _verdict(metric: Metric, one: Difference, proof: ProofSummary, least: int) -> Verdict:
    """Judge a claim; with fewer rounds than the plan's least, that nothing is claimed says nothing."""
    if one.change != Change.NOT_PROVEN:
        return Verdict.PASS if one.change in MET[metric.expect] else Verdict.FAIL
    if one.ratio is None:
        return Verdict.NO_DATA
    if proof.invalid:
        return Verdict.INVALID
    is_measured = one.ratio.low is not None and one.ratio.n >= least and not one.refused
    return Verdict.PASS if metric.expect == "no_claim" and is_measured else Verdict.NOT_PROVEN


def _unseen(one: Difference) -> str:
    """Say which differences would not have been claimed with an interval as wide as this one."""
    measured, (good, bad) = one.ratio, one.limits
    if measured is None or not measured.low or not measured.high:
        return "nothing is known of how small a difference would have been claimed"
    better, worse = good * measured.value / measured.high, bad * measured.value / measured.low
    return f"with an interval as wide, only a ratio below {written(better)} or above {written(worse)} would have been claimed"


def objective(metric: Metric) -> str:
    """Write what is expected of a metric as a limit of its ratio."""
    good, bad = metric.limits
    limits = {
        "improved": f"<= {good:.3g}",
        "worse": f">= {bad:.3g}",
        "not_worse": f"< {bad:.3g}",
        "no_change": f"within {good:.3g} and {bad:.3g}",
        "no_claim": f"claimed neither better (<= {good:.3g}) nor worse (>= {bad:.3g})",
    }
    return f"{metric.name} ratio {limits[metric.expect]}"
