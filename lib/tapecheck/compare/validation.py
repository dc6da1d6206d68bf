"""The comparison: whether a fix worked, or the difference is noise."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from tapecheck import validation
from tapecheck.backfill.observe.plan import ObservePlan
from tapecheck.backfill.plan import endpoints
from tapecheck.compare import analysis, findings, recorded
from tapecheck.compare import plan as plans
from tapecheck.compare.analysis import ProofSummary
from tapecheck.compare.difference import Change
from tapecheck.compare.plan import ROUNDS_NEEDED, ComparePlan, Question
from tapecheck.compare.recording import SAMPLES, SPECTRA, Compared, Context, Recording
from tapecheck.recording import Table
from tapecheck.runs.results import Finding, Result
from tapecheck.target.file import Target
from tapecheck.validation import Analysis, Types
from tapecheck.verdict import Check, Verdict, sentence

MOST_SAID = 6  # proofs in a headline


class Settings(validation.Settings):
    """The comparison notebook's parameters; with `before` and `after` recorded runs are compared, and no target is asked."""

    profile: str = Field(min_length=1)
    proofs: str = Field(min_length=1)
    rounds: int = Field(ge=0)
    before: str = ""
    after: str = ""

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if bool(self.before) != bool(self.after):
            raise ValueError("before and after both, recorded runs or files of other load generators, or neither")
        if self.before and self.run != "new":
            raise ValueError("before and after, or the folder of a recorded comparison as run; not both")
        return self


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CompareResult(Result):
    """result.json of a comparison; `method_check` are proofs about the comparison itself, `before` and `after` recorded runs."""

    proofs: dict[str, ProofSummary]
    method_check: dict[str, ProofSummary] = dataclasses.field(default_factory=dict)
    questions: dict[str, Any]
    before: list[Compared]
    after: list[Compared]
    differs: list[str]

    def advice(self, check: Check) -> str:
        """Say what to do; where too few rounds were measured, no quieter machine helps."""
        if check.verdict == Verdict.NOT_PROVEN and check.n < ROUNDS_NEEDED:
            return f"measure {ROUNDS_NEEDED} rounds or more: as a proof of the compare plan, or by as many recorded runs a side"
        return Result.advice(self, check)

    def main_figures(self) -> list[str]:
        """Return of each proof what it saves, or that nothing changed, and what the method check claims."""
        return _said(self.proofs, self.method_check)

    def missed(self) -> list[str]:
        """Say of the objectives that are not met why, those of the method check after the proofs and named as such."""
        lines = [(line.partition(": ")[0] in self.method_check, line) for line in Result.missed(self)]
        return [f"method check, {line}" if is_method else line for is_method, line in sorted(lines, key=lambda one: one[0])]


class Proofs(dict[str, ProofSummary]):
    """The summary of each proof by its name, and what was asked."""

    questions: Mapping[str, Question]


class Compare(validation.Validation[ComparePlan, Recording, Proofs, Settings]):
    """Whether a fix worked, or the difference is noise."""

    name = "compare"
    keys = frozenset({"proofs"})
    choices = ("profile", "proofs", "rounds")
    tables: ClassVar = {"samples": Table(SAMPLES), "spectra": Table(SPECTRA, may_be_null=("low_ms", "high_ms"))}
    types = Types(context=Context, recording=Recording, settings=Settings, result=CompareResult)
    read_plan = staticmethod(plans.read_plan)
    bottleneck = staticmethod(findings.bottleneck)

    def begin(self, plan: ComparePlan, settings: Settings) -> Recording:
        """Compare the recorded runs of the settings, or measure every proof of the plan against the target."""
        return recorded.read(settings.before, settings.after) if settings.before else super().begin(plan, settings)

    def measure(self, plan: ComparePlan, target: Target, *, out: str = "") -> Recording:
        """Measure every proof; see `session.run`, which says what it raises."""
        from tapecheck.compare import session  # HTTP clients and database drivers: paid by who measures

        return session.run(plan, target)

    def asked(self, plan: ComparePlan, settings: Settings) -> Mapping[str, Question]:
        """Return what is asked: the plan's proofs, or what recorded runs can be asked; those that cannot be compared are refused."""
        if settings.before:
            name = recorded.validation_of(settings.before, settings.after)
            return {f"each part of {name}": plan.recorded.question(name)}
        return plan.asked() if settings.run == "new" else self.read(settings.run).questions(plan)

    def commands(self, plan: ComparePlan) -> list[tuple[str, ...]]:
        """Return the commands of the variants that are backfills of somebody else's."""
        sides = (variant.plan for name, proof in plan.proofs.items() for variant in plans.variants(name, proof).values())
        return list(dict.fromkeys(command for one in sides if isinstance(one, ObservePlan) for command in one.commands))

    def asks_target(self, given: Mapping[str, Any]) -> bool:
        """Tell whether anything is measured: recorded runs need no target."""
        return super().asks_target(given) and not given.get("before")

    def check_target(self, target: Target | None, plan: ComparePlan | None, given: Mapping[str, Any]) -> None:
        """Make sure that a target says where history comes from and goes to, if a proof of the backfill is chosen."""
        if target is not None and target.kind == "external" and plan and any(one.validation == "backfill" for one in plan.proofs.values()):
            endpoints(target)

    def summarize(self, recording: Recording, plan: ComparePlan) -> Proofs:
        """Summarize every proof of a recording that the plan asks about."""
        found = Proofs(analysis.summarize(recording, plan))
        found.questions = recording.questions(plan)
        return found

    def judge(self, summary: Proofs, plan: ComparePlan) -> list[Check]:
        """Judge every metric of every proof by what the plan expects of it."""
        return analysis.check(summary, summary.questions)

    def rules(self, recording: Recording, summary: Proofs, plan: ComparePlan) -> list[Finding]:
        """Return what the figures say."""
        return findings.find(recording, summary, summary.questions)

    def say(self, recording: Recording, summary: Proofs, found: Sequence[Finding]) -> str:
        """Return what each proof says, and of recorded runs once what keeps all of them from proving anything."""
        few = len(recording.context.before)
        once = [f"{'one run' if few == 1 else f'{few} runs'} a side: no confidence interval"] if 0 < few < ROUNDS_NEEDED else []
        once += [one.finding for one in found if one.name == "more_than_the_change"]
        return " ".join([*(f"{text}." for text in _said(*apart(summary))), *map(sentence, once)])

    def part(self, found: Analysis[ComparePlan, Recording, Proofs]) -> dict[str, Any]:
        """Return the proofs, what was asked, and the two sides."""
        context, (own, method_check) = found.recording.context, apart(found.summary)
        questions = {name: question.model_dump(mode="json") for name, question in found.summary.questions.items()}
        sides = {"before": list(context.before), "after": list(context.after), "differs": list(context.differs)}
        return {"proofs": own, "method_check": method_check, "questions": questions, **sides}

    def spans_ns(self, recording: Recording) -> Iterable[tuple[int, int]]:
        """Return when each run was measured; those of recorded runs were before."""
        return [(one.began_ns, one.ended_ns) for one in recording.samples if one.ended_ns > one.began_ns]

    def failures(self, recording: Recording) -> Iterator[dict[str, Any]]:
        """Yield one plain record a run that does not count."""
        for sample in recording.samples:
            if sample.problem:
                yield {"proof": sample.proof, "side": sample.side, "round": sample.round, "problem": sample.problem}


def apart(summary: Mapping[str, ProofSummary]) -> tuple[dict[str, ProofSummary], dict[str, ProofSummary]]:
    """Return the proofs about the target, and those that check the method."""
    own = {name: proof for name, proof in summary.items() if not proof.method_check}
    return own, {name: proof for name, proof in summary.items() if name not in own}


def _said(own: Mapping[str, ProofSummary], method_check: Mapping[str, ProofSummary]) -> list[str]:
    """Say what each proof says, and then what the method check does."""
    lines = [_one(name, proof) for name, proof in own.items()]
    more = [f"{len(lines) - MOST_SAID} more in the table"] if len(lines) > MOST_SAID else []
    checked = "; ".join(_one(name, proof) for name, proof in method_check.items())
    return [*lines[:MOST_SAID], *more, *([f"Method check: {checked}"] if checked else [])]


def _one(name: str, proof: ProofSummary) -> str:
    if proof.main.change == Change.NOT_PROVEN:
        why = (
            f"invalid, {proof.invalid}" if proof.invalid else "no difference claimed" if proof.method_check else f"not proven, {proof.main}"
        )
        return f"{name}: {why}"
    return f"{name}: {proof.main.change.replace('_', ' ')}, {proof.main}"


compare = Compare()
