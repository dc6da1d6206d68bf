"""The recovery validation as the notebook tells it: settings, plan, run or read, summarize, judge, record."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import Field

from tapecheck import validation
from tapecheck.recovery import analysis, findings
from tapecheck.recovery.analysis import Alert, FailureSummary, RecoverySummary, SymbolAge, TierSummary
from tapecheck.recovery.contradictions import Contradiction
from tapecheck.recovery.contradictions import find as lint
from tapecheck.recovery.document import definition, document
from tapecheck.recovery.experiment import NONE, Drill, chosen
from tapecheck.recovery.objectives import RecoveryPlan, read_plan
from tapecheck.recovery.recording import Recording, read
from tapecheck.recovery.timeline import Timed
from tapecheck.runs import folders
from tapecheck.runs.folders import Picture, Recorded
from tapecheck.runs.results import Finding, Result
from tapecheck.target.opening import open_target
from tapecheck.verdict import Check, written

__all__ = [
    "RecoveryResult", "Settings", "chosen", "find", "headline", "judge", "lint", "read", "read_plan", "record", "run", "settings",
    "summarize",
]  # fmt: skip


class Settings(validation.Settings):
    """The recovery notebook's parameters."""

    profile: str = Field(min_length=1)
    drills: str = Field(min_length=1)
    trials: int = Field(default=0, ge=0, le=1000)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryResult(Result):
    """result.json of a recovery run."""

    definition: dict[str, Any]
    rto: dict[str, FailureSummary]
    freshness: dict[str, SymbolAge]
    rpo: dict[str, TierSummary]
    alerts: list[Alert]
    lint: list[Contradiction]
    false_ages: int | None
    wrong_answers: int | None

    def main_figures(self) -> list[str]:
        """Return the slowest recovery, and how many acknowledged bars were lost."""
        timed = [one for failure in self.rto.values() for one in failure.trials]
        return [text.removesuffix(".") for text in (_slowest(timed), _kept(self.rpo)) if text]


def settings(**given: object) -> Settings:
    """Check the notebook's parameters, and that the output folder can be written.

    Raises:
        ConfigError: every wrong parameter at once.
        OutputError: the output folder cannot be written.
    """
    return validation.checked(Settings, given)


def run(plan: RecoveryPlan, drills: list[Drill], settings: Settings) -> Recording:
    """Audit and drill the target of the settings; with `drills: none` only define, for which no target is opened.

    Raises:
        TapecheckError: see `running.run`.
    """
    from tapecheck.recovery import session  # Chaos Toolkit, httpx and psycopg: paid by who measures

    if settings.drills == NONE:
        return session.define(plan, out=settings.out)
    target = open_target(settings.target)
    return validation.measured("rto_rpo", target.name, lambda: session.run(plan, target, drills, out=settings.out), out=settings.out)


def summarize(recording: Recording, plan: RecoveryPlan) -> RecoverySummary:
    """Summarize a recording by a plan."""
    return analysis.summarize(recording, plan)


def judge(recording: Recording, summary: RecoverySummary, plan: RecoveryPlan) -> list[Check]:
    """Judge every promise of the plan that was put to the test."""
    return analysis.check(recording, summary, plan)


def find(recording: Recording, summary: RecoverySummary, plan: RecoveryPlan) -> list[Finding]:
    """Return what the figures say, each with its evidence."""
    return findings.find(recording, summary, plan) + validation.neighbours(recording.context)


def headline(recording: Recording, summary: RecoverySummary, checks: list[Check], found: list[Finding]) -> str:
    """Return the verdict in one line of Markdown, with the slowest recovery and what was lost."""
    return validation.headline(recording.context, checks, _said(summary, found))


def _said(summary: RecoverySummary, found: list[Finding]) -> str:
    limit = findings.bottleneck(found)
    return " ".join(text for text in (f"{limit.finding}." if limit else "", _slowest(summary.timed), _kept(summary.rpo)) if text)


def _slowest(timed: Sequence[Timed]) -> str:
    worst = {one.trial.drill: one.clocks.recover_s for one in timed if one.clocks and not one.invalid and one.clocks.recover_s}
    if not worst:
        return ""
    drill = max(worst, key=lambda name: worst[name] or 0.0)
    return f"Slowest recovery: {written(worst[drill] or 0.0)} s ({drill})."


def _kept(rpo: Mapping[str, TierSummary]) -> str:
    acknowledged = sum(tier.acknowledged_bars for tier in rpo.values())
    lost = sum(tier.lost_bars for tier in rpo.values())
    return f"Of {acknowledged:,} bars acknowledged during drills {lost or 'none'} {'were' if lost else 'was'} lost." if acknowledged else ""


def record(
    recording: Recording,
    summary: RecoverySummary,
    checks: list[Check],
    plan: RecoveryPlan,
    *,
    settings: Settings,
    figures: Mapping[str, Picture],
) -> Recorded:
    """Write the run folder and return where it is; see `runs.record`."""
    found = find(recording, summary, plan)
    result = RecoveryResult(
        **validation.head(recording.context, recording.source, settings, checks, found, _said(summary, found)),
        validation="rto_rpo",
        bottleneck=findings.bottleneck(found),
        definition=definition(plan),
        rto=summary.rto,
        freshness=summary.freshness,
        rpo=summary.rpo,
        alerts=summary.alerts,
        lint=summary.lint,
        false_ages=summary.false_ages,
        wrong_answers=summary.wrong_answers,
        measured_s=recording.context.measured_s((one.began_ns, one.ended_ns) for one in recording.context.trials),
    )
    return folders.record(
        result,
        out=settings.out,
        tables=recording.tables(),
        figures=figures,
        lines={"failures": failures(recording), "journals": recording.journals},
        texts={"definition.md": document(plan, summary.lint)},
    )


def failures(recording: Recording) -> Iterator[dict[str, Any]]:
    """Yield one plain record a bar that was lost."""
    for ack in recording.acks:
        if ack.fate == "lost":
            yield {name: value for name, value in dataclasses.asdict(ack).items() if value is not None}
