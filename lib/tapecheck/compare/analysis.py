"""Turns the samples of a comparison into a summary, and the summary into checks. Pure: no target, no files, no clock."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from tapecheck.compare import difference, samples
from tapecheck.compare.difference import Change, Control, Difference, Method, State
from tapecheck.compare.plan import AFTER, ANSWERS, BEFORE, COUNTED_EXACTLY, ROUNDS_NEEDED, Metric, Question
from tapecheck.compare.recording import Baseline, Recording
from tapecheck.compare.samples import CounterChange, Pair, Sample
from tapecheck.runs.results import Finding
from tapecheck.statistics.paired import ALPHA, RESAMPLES, Ratio
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
    """One round of a proof: the ratio of its first metric, and when it began, in seconds since the proof's first run."""

    round: int
    at_s: float
    ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofSummary:
    """A proof in figures; parts of 1 where the name says ratio.

    `invalid` says why before and after are no variants of one thing, `doubt` why nothing can be proven by them all the same,
    `not_compared` what of the answers nothing is known of, and `left_out` why rounds do not count; in `late` of those that do, the load
    generator lagged. `alpha` is the level of the look at which it ended; all looks together have 5 %. `answers` is what limits the
    baseline and the change is for; `promised_low_ratio` to `promised_high_ratio` is what was promised to be saved by that,
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
    context = recording.context
    return {
        name: of_proof(
            question,
            recording.of_proof(name),
            baseline=context.baselines.get(name, NO_BASELINE),
            differs=context.differs,
            seed=context.seed,
        )
        for name, question in context.questions.items()
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
    question: Question,
    own: Sequence[Sample],
    *,
    baseline: Baseline = NO_BASELINE,
    differs: Sequence[str] = (),
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> ProofSummary:
    """Summarize one proof from its samples, at the level of the look that so many rounds are."""
    rounds, planned = samples.pairs(own), len({sample.round for sample in own if sample.round})
    counted, equals = samples.counter_changes(rounds), samples.equals(own)
    alpha = question.rounds.alpha(planned) if question.rounds else ALPHA  # two recorded runs are looked at once
    method = Method(alpha=alpha, seed=seed, resamples=resamples)
    answered = next((one for one in baseline.found if one.name in question.answers), None)
    return _guarded(
        ProofSummary(
            validation=question.validation,
            says=question.says,
            counters=counted,
            checksums_equal=samples.checksums_equal(rounds),
            invalid=_invalid(question, counted, rounds),
            doubt=_doubt(differs, len(rounds), planned),
            not_compared=samples.not_compared(rounds) if ANSWERS in question.equal else None,
            method_check=question.method_check,
            planned_rounds=planned,
            alpha=alpha,
            left_out=samples.problems(own),
            late=sum(bool(pair.before.late or pair.after.late) for pair in rounds),
            answers=answered.finding if answered else None,
            differences=_despite_lag(rounds, lambda kept: _differences(question, kept, equals, method)),
            controls=[difference.control(name, question.metrics[0], rounds, replace(method, alpha=ALPHA)) for name in question.controls],
            rounds=_rounds(question.metrics[0], rounds),
            promised_low_ratio=_promised(answered, "low"),
            promised_high_ratio=_promised(answered, "high"),
            predicted_by=question.what_if,
            predicted_ratio=baseline.what_if.get(question.what_if) if question.what_if else None,
        )
    )


def _differences(question: Question, rounds: Sequence[Pair], equals: Sequence[Pair], method: Method) -> list[Difference]:
    counts = COUNTED_EXACTLY.get(question.validation, ())
    alone = [difference.measure(metric, rounds, equals, method, is_count=metric.name in counts) for metric in question.metrics]
    return difference.among_family(alone, method.alpha)


def _despite_lag(rounds: Sequence[Pair], measure: Callable[[Sequence[Pair]], list[Difference]]) -> list[Difference]:
    """Measure, and take back what a load generator that lagged may have hidden or made: its lag adds to the times of the side it measures.

    So it may hide that something changed, and a claim has to stand without the rounds in which only the side that looks slower lagged.
    """
    found, late = measure(rounds), sum(bool(pair.before.late or pair.after.late) for pair in rounds)
    if not late:
        return found
    without = {
        Change.IMPROVED: (BEFORE, measure([pair for pair in rounds if pair.after.late or not pair.before.late])),
        Change.WORSE: (AFTER, measure([pair for pair in rounds if pair.before.late or not pair.after.late])),
    }
    said = f"in {late} of {len(rounds)} rounds the load generator lagged, which"
    quieter = "measure again on a quieter machine or at a lower rate"
    for i, one in enumerate(found):
        if one.change == Change.NO_CHANGE and not (one.ratio and one.ratio.exact):
            found[i] = replace(one, change=Change.NOT_PROVEN, reason=f"{said} hides differences; {quieter}")
        elif one.change in without and without[one.change][1][i].change != one.change:
            why = f"may have made this difference: without those where only {without[one.change][0]} lagged it is not proven; {quieter}"
            found[i] = difference.refused(one, f"{said} {why}")
    return found


def _promised(answered: Finding | None, end: str) -> float | None:
    """Return an end of what a finding promises to whoever mends what it is about."""
    promised = answered.evidence.get(f"promised_saving_{end}_ratio") if answered else None
    return float(promised) if promised is not None else None


def _invalid(question: Question, found: Sequence[CounterChange], rounds: Sequence[Pair]) -> str | None:
    """Return why before and after are no variants of one thing, if they are not."""
    if samples.checksums_equal(rounds) is False:
        return "the checksums of what was stored differ: the variants did not do the same"
    if question.validation == "load" and (more := _fails_more(found)):
        return more
    if ANSWERS in question.equal and (other := samples.answers_differ(rounds)):
        return f"the answers differ: {other}"
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


def _doubt(differs: Sequence[str], kept: int, planned: int) -> str | None:
    """Return why a difference may have another cause than the change, if it may."""
    if 2 * kept < planned:
        return f"only {kept} of {planned} rounds count"
    return f"more lies between the sides than the change: {'; '.join(differs)}" if differs else None


def _drift(one: Difference, controls: Sequence[Control]) -> str | None:
    """Name the controls whose movement may have made what is claimed, if there are any."""
    moved = [each.metric for each in controls if each.state == State.MOVED and each.ratio and _may_have_made(one, each.ratio)]
    return f"{DRIFTED}: {', '.join(moved)} moved, which the change cannot touch" if moved else None


def _may_have_made(one: Difference, drift: Ratio) -> bool:
    """Tell whether a claim falls with the drift taken out, as much of it as its interval allows.

    A drift the other way makes an improvement or a loss only more certain.
    """
    measured = one.ratio
    if measured is None or measured.low is None or measured.high is None or drift.low is None or drift.high is None:
        return True
    if one.change == Change.IMPROVED:
        return measured.high / min(drift.low, 1.0) > one.good_below
    return one.change != Change.WORSE or measured.low / max(drift.high, 1.0) < one.bad_above


def _rounds(metric: Metric, rounds: Sequence[Pair]) -> list[Round]:
    first_ns = min((min(pair.before.began_ns, pair.after.began_ns) for pair in rounds), default=0)
    found = []
    for pair in rounds:
        d = difference.logs(metric, [pair])
        if d is not None:
            at_ns = min(pair.before.began_ns, pair.after.began_ns) - first_ns
            found.append(Round(round=pair.before.round, at_s=at_ns / 1e9, ratio=math.exp(d[0])))
    return found


def _guarded(proof: ProofSummary) -> ProofSummary:
    """Take back every claim that has another cause, or may have; what was the same in every round no drift can have made."""
    return replace(proof, differences=[_kept_or_refused(one, proof) for one in proof.differences])


def _kept_or_refused(one: Difference, proof: ProofSummary) -> Difference:
    reason = proof.invalid or proof.doubt or _drift(one, proof.controls)
    is_kept = reason is None or (proof.invalid is None and one.ratio is not None and one.ratio.exact)
    return one if is_kept else difference.refused(one, reason or "")


def check(summary: Mapping[str, ProofSummary], questions: Mapping[str, Question]) -> list[Check]:
    """Judge every metric of every proof by what was expected of it."""
    return [
        judge(name, metric, one, proof, planned.least if (planned := questions[name].rounds) else ROUNDS_NEEDED)
        for name, proof in summary.items()
        for metric, one in zip(questions[name].metrics, proof.differences, strict=True)
    ]


def judge(name: str, metric: Metric, one: Difference, proof: ProofSummary, least: int = ROUNDS_NEEDED) -> Check:
    """Judge one difference: a claim that meets the expectation passes, any other claim fails, and no claim is not proven.

    Args:
        least: with fewer rounds, that nothing is claimed says nothing.
    """
    verdict = _verdict(metric, one, proof, least)
    lost = proof.planned_rounds - len(proof.rounds)
    is_open = one.change == Change.NOT_PROVEN and verdict != Verdict.PASS
    more = [f"about {one.needed_rounds} rounds needed"] if one.needed_rounds and is_open else []
    more += [f"{lost} of {proof.planned_rounds} rounds do not count"] if lost else []
    more += [f"at least {least} rounds needed, {one.ratio.n} measured"] if one.ratio and one.ratio.n < least and is_open else []
    more += [proof.not_compared] if proof.not_compared else []
    more += [_unseen(one)] if one.change == Change.NOT_PROVEN and verdict == Verdict.PASS else []
    claimed = "no difference is claimed" if one.change == Change.NOT_PROVEN else one.change.replace("_", " ")
    said = one.reason if is_open else f"{claimed}: {one.reason}"
    return Check(
        name=name,
        objective=objective(metric),
        value=one.ratio.value if one.ratio else None,
        bound=_bound(metric, one.ratio),
        n=one.ratio.n if one.ratio else 0,
        verdict=verdict,
        reason="; ".join([said, *more]),
    )


def _verdict(metric: Metric, one: Difference, proof: ProofSummary, least: int) -> Verdict:
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
    measured = one.ratio
    if measured is None or not measured.low or not measured.high:
        return "nothing is known of how small a difference would have been claimed"
    better, worse = one.good_below * measured.value / measured.high, one.bad_above * measured.value / measured.low
    return f"with an interval as wide, only a ratio below {written(better)} or above {written(worse)} would have been claimed"


def objective(metric: Metric) -> str:
    """Write what is expected of a metric as a limit of its ratio."""
    limits = {
        "improved": f"<= {metric.good_below:.3g}",
        "worse": f">= {metric.bad_above:.3g}",
        "not_worse": f"< {metric.bad_above:.3g}",
        "no_change": f"within {metric.good_below:.3g} and {metric.bad_above:.3g}",
        "no_claim": f"claimed neither better (<= {metric.good_below:.3g}) nor worse (>= {metric.bad_above:.3g})",
    }
    return f"{metric.name} ratio {limits[metric.expect]}"


def _bound(metric: Metric, measured: Ratio | None) -> float | None:
    """Return the end of the interval that counts against an expectation."""
    if measured is None:
        return None
    return measured.low if metric.expect == "worse" else measured.high
