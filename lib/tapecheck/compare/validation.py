"""The comparison as the notebook tells it: settings, plan, run or read, summarize, judge, record."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Self

from pydantic import Field, model_validator

from tapecheck import validation
from tapecheck.compare import analysis, difference, findings, recorded
from tapecheck.compare.analysis import ProofSummary
from tapecheck.compare.difference import Change
from tapecheck.compare.plan import ComparePlan, Proof, Question, read_plan
from tapecheck.compare.recording import Compared, Recording, read
from tapecheck.runs import folders
from tapecheck.runs.folders import Picture, Recorded
from tapecheck.runs.results import Finding, Result
from tapecheck.target.opening import open_target
from tapecheck.verdict import Check

__all__ = [
    "CompareResult", "Settings", "apart", "asked", "find", "headline", "judge", "read", "read_plan", "record", "run", "settings",
    "summarize",
]  # fmt: skip


class Settings(validation.Settings):
    """The comparison notebook's parameters; with `before` and `after` two recorded runs are compared, and no target is asked."""

    profile: str = Field(min_length=1)
    proofs: str = Field(min_length=1)
    rounds: int = Field(ge=0)
    before: str = ""
    after: str = ""

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if bool(self.before) != bool(self.after):
            raise ValueError("before and after both, two recorded runs or files of other load generators, or neither")
        if self.before and self.run != "new":
            raise ValueError("before and after, or the folder of a recorded comparison as run; not both")
        return self


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CompareResult(Result):
    """result.json of a comparison; `method_check` are proofs about the comparison itself."""

    proofs: dict[str, ProofSummary]
    method_check: dict[str, ProofSummary] = dataclasses.field(default_factory=dict)
    questions: dict[str, Any]
    before: Compared | None
    after: Compared | None
    differs: list[str]

    def main_figures(self) -> list[str]:
        """Return of each proof what it saves, or that nothing changed, and what the method check claims."""
        own = [_one(name, proof).removesuffix(".") for name, proof in self.proofs.items()]
        return [*own, *([_checked(self.method_check).removesuffix(".")] if self.method_check else [])]

    def missed(self) -> list[str]:
        """Say of the objectives that are not met why, those of the method check after the proofs and named as such."""
        lines = [(line.partition(": ")[0] in self.method_check, line) for line in Result.missed(self)]
        return [f"method check, {line}" if is_method else line for is_method, line in sorted(lines, key=lambda one: one[0])]


def settings(**given: object) -> Settings:
    """Check the notebook's parameters, and that the output folder can be written.

    Raises:
        ConfigError: every wrong parameter at once.
        OutputError: the output folder cannot be written.
    """
    return validation.checked(Settings, given)


def asked(plan: ComparePlan, settings: Settings) -> dict[str, Question | Proof]:
    """Return what is asked: the plan's proofs, or what two recorded runs can be asked.

    Raises:
        ConfigError: the recorded runs cannot be compared.
    """
    if settings.before and settings.run == "new":
        return {**recorded.asked(settings.before, settings.after, plan.recorded)}
    return {**plan.proofs}


def run(plan: ComparePlan, settings: Settings) -> Recording:
    """Compare the two recorded runs of the settings, or measure every proof of the plan against the target.

    Raises:
        TapecheckError: see `recorded.read` and `session.run`.
    """
    if settings.before:
        return recorded.read(settings.before, settings.after, plan.recorded, seed=plan.seed)
    from tapecheck.compare import session  # HTTP clients and database drivers: paid by who measures

    target = open_target(settings.target)
    return validation.measured("compare", target.name, lambda: session.run(plan, target), out=settings.out)


def summarize(recording: Recording) -> dict[str, ProofSummary]:
    """Summarize every proof of a recording."""
    return analysis.summarize(recording)


def apart(summary: Mapping[str, ProofSummary]) -> tuple[dict[str, ProofSummary], dict[str, ProofSummary]]:
    """Return the proofs about the target, and those that check the method."""
    own = {name: proof for name, proof in summary.items() if not proof.method_check}
    return own, {name: proof for name, proof in summary.items() if name not in own}


def judge(recording: Recording, summary: Mapping[str, ProofSummary]) -> list[Check]:
    """Judge every metric of every proof by what was expected of it before it was measured."""
    return analysis.check(summary, recording.context.questions)


def find(recording: Recording, summary: Mapping[str, ProofSummary]) -> list[Finding]:
    """Return what the figures say, each with its evidence."""
    return findings.find(recording, summary) + validation.neighbours(recording.context)


def headline(recording: Recording, summary: Mapping[str, ProofSummary], checks: list[Check]) -> str:
    """Return the verdict in one line of Markdown, with what each proof says."""
    return validation.headline(recording.context, checks, _said(summary))


def _said(summary: Mapping[str, ProofSummary]) -> str:
    own, method_check = apart(summary)
    return " ".join([*(_one(name, proof) for name, proof in own.items()), *([_checked(method_check)] if method_check else [])])


def _checked(method_check: Mapping[str, ProofSummary]) -> str:
    return f"Method check: {'; '.join(_one(name, proof).removesuffix('.') for name, proof in method_check.items())}."


def _one(name: str, proof: ProofSummary) -> str:
    one = proof.main
    if one.change == Change.NOT_PROVEN:
        return f"{name}: {'no difference claimed' if proof.method_check else 'not proven'}."
    if one.change == Change.NO_CHANGE:
        return f"{name}: no change of {one.metric}."
    return f"{name}: {one.change}, {difference.said(one)}."


def record(
    recording: Recording,
    summary: dict[str, ProofSummary],
    checks: list[Check],
    *,
    settings: Settings,
    figures: Mapping[str, Picture],
) -> Recorded:
    """Write the run folder and return where it is; see `runs.record`."""
    found, context = find(recording, summary), recording.context
    result = CompareResult(
        **validation.head(context, recording.source, settings, checks, found, _said(summary)),
        validation="compare",
        bottleneck=findings.bottleneck(found),
        proofs=apart(summary)[0],
        method_check=apart(summary)[1],
        questions={name: question.model_dump(mode="json") for name, question in context.questions.items()},
        before=context.before,
        after=context.after,
        differs=list(context.differs),
        measured_s=recording.context.measured_s((one.began_ns, one.ended_ns) for one in recording.samples if one.ended_ns > one.began_ns),
    )
    return folders.record(result, out=settings.out, tables=recording.tables(), figures=figures, lines={"failures": failures(recording)})


def failures(recording: Recording) -> Iterator[dict[str, Any]]:
    """Yield one plain record a run that does not count."""
    for sample in recording.samples:
        if sample.problem:
            yield {"proof": sample.proof, "side": sample.side, "round": sample.round, "problem": sample.problem}
