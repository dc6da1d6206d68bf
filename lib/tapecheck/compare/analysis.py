"""Turns the samples of a comparison into a summary, and the summary into checks. Pure: no target, no files, no clock."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tapecheck.compare import counters, difference, samples
from tapecheck.compare.counters import CounterChange
from tapecheck.compare.difference import Change, Difference
from tapecheck.compare.plan import Metric, Proof, Question
from tapecheck.compare.recording import Recording
from tapecheck.compare.samples import Pair
from tapecheck.ratios import Ratio
from tapecheck.verdict import Check, Verdict

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
    moved: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round of a proof: the ratio of its first metric, and when it began, in seconds since the proof's first run."""

    round: int
    at_s: float
    ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofSummary:
    """A proof in figures; parts of 1 where the name says ratio.

    `invalid` says why before and after are no variants of one thing, `doubt` why nothing can be proven by them all the same.
    `promised_low_ratio` to `promised_high_ratio` is what was promised to be saved, `predicted_ratio` what the replay of the
    baseline predicts for `predicted_by`.
    """

    validation: str
    says: str
    counters: list[CounterChange]
    checksums_equal: bool | None
    invalid: str | None
    doubt: str | None
    left_out: list[str]
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
    """Summarize every proof, all its claims and those of the others as one family."""
    questions = recording.context.questions
    alone = {name: _proof(recording, name, question) for name, question in questions.items()}
    family = difference.among_family({(name, i): one for name, p in alone.items() for i, one in enumerate(p.differences)})
    of_family = {name: [family[name, i] for i in range(len(proof.differences))] for name, proof in alone.items()}
    return {name: _guarded(replace(proof, differences=of_family[name])) for name, proof in alone.items()}


def _proof(recording: Recording, name: str, question: Proof | Question) -> ProofSummary:
    own, context = recording.of(name), recording.context
    rounds, equals = samples.pairs(own), samples.equals(own)
    found = counters.compare(rounds)
    same = counters.checksums_equal(rounds)
    controls = [_control(control, question.metrics[0], rounds, context.seed) for control in question.controls]
    promised = question.promised if isinstance(question, Proof) else None
    what_if = question.what_if if isinstance(question, Proof) else None
    baseline = context.baselines.get(name)
    return ProofSummary(
        validation=question.validation,
        says=question.says,
        counters=found,
        checksums_equal=same,
        invalid=_invalid(question, found, same),
        doubt=_doubt(controls, context.differs),
        left_out=samples.problems(own),
        differences=[difference.measure(metric, rounds, equals, seed=context.seed) for metric in question.metrics],
        controls=controls,
        rounds=_rounds(question.metrics[0], rounds),
        promised_low_ratio=promised.low if promised else None,
        promised_high_ratio=promised.high if promised else None,
        predicted_by=what_if,
        predicted_ratio=baseline.what_if.get(what_if) if baseline and what_if else None,
    )


def _invalid(question: Question, found: Sequence[CounterChange], same: bool | None) -> str | None:
    """Return why before and after are no variants of one thing, if they are not."""
    if same is False:
        return "the checksums of what was stored differ: the variants did not do the same"
    unequal = [f"{one.name} {one.before} before, {one.after} after" for one in found if one.name in question.equal and not one.equal]
    return f"the variants did not do the same: {', '.join(unequal)}" if unequal else None


def _doubt(controls: Sequence[Control], differs: Sequence[str]) -> str | None:
    """Return why a difference may have another cause than the change, if it may."""
    if differs:
        return f"more lies between the sides than the change: {'; '.join(differs)}"
    drifted = [one.metric for one in controls if one.moved]
    return f"the session drifted: {', '.join(drifted)} moved, which the change cannot touch" if drifted else None


def _control(name: str, guarded: Metric, rounds: Sequence[Pair], seed: int) -> Control:
    measured, has_moved = difference.moved(guarded.model_copy(update={"name": name, "better": "lower"}), rounds, seed=seed)
    return Control(metric=name, ratio=measured, moved=has_moved)


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
        judge(name, metric, one, proof.invalid)
        for name, proof in summary.items()
        for metric, one in zip(questions[name].metrics, proof.differences, strict=True)
    ]


def judge(name: str, metric: Metric, one: Difference, invalid: str | None) -> Check:
    """Judge one difference: a claim that meets the expectation passes, any other claim fails, and no claim is not proven."""
    verdict = Verdict.PASS if one.change in MET[metric.expect] else Verdict.FAIL
    if one.change == Change.NOT_PROVEN:
        verdict = Verdict.NO_DATA if one.ratio is None else Verdict.INVALID if invalid else Verdict.NOT_PROVEN
    more = f"; {one.needed_rounds} rounds would tell" if one.needed_rounds else ""
    return Check(
        name=name,
        objective=objective(metric),
        value=one.ratio.value if one.ratio else None,
        bound=_bound(metric, one.ratio),
        n=one.ratio.n if one.ratio else 0,
        verdict=verdict,
        reason=(one.reason if one.change == Change.NOT_PROVEN else f"{one.change.replace('_', ' ')}: {one.reason}") + more,
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
