"""The backfill validation: where the time goes when history is refilled, what a fix would buy, and whether the history is whole."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from tapecheck import validation
from tapecheck.backfill import analysis, coverage, findings, prediction
from tapecheck.backfill import plan as plans
from tapecheck.backfill.analysis import BackfillSummary, JobSummary, Slowest, StageSummary, Totals
from tapecheck.backfill.coverage import Covered
from tapecheck.backfill.integrity import Integrity
from tapecheck.backfill.plan import BackfillPlan
from tapecheck.backfill.prediction import WhatIf
from tapecheck.backfill.recording import FAILED, JOBS, SCHEMA, Context, Recording, chrome_trace
from tapecheck.recording import MOST_OBJECTS, Table
from tapecheck.runs.results import Finding, Result
from tapecheck.target import opening
from tapecheck.target.file import Target
from tapecheck.validation import Analysis, Types
from tapecheck.verdict import Check, Verdict, number

COVERED = "nothing was left to do: every series covers what is asked for"


class Settings(validation.Settings):
    """The backfill notebook's parameters."""

    profile: str = Field(min_length=1)
    symbols: str = Field(default="all", min_length=1)
    timeframes: str = Field(default="all", min_length=1)
    days: int = Field(default=0, ge=0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BackfillResult(Result):
    """result.json of a backfill run."""

    totals: Totals
    stages: dict[str, StageSummary]
    slowest_job: Slowest | None
    slowest_timeframe: Slowest | None
    slowest_symbol: Slowest | None
    jobs: dict[str, dict[str, JobSummary]]
    rate_limit_floor_s: float
    what_if: list[WhatIf]
    integrity: Integrity | None
    coverage: Covered | None = None  # not of an older run

    def main_figures(self) -> list[str]:
        """Return the throughput and where the time goes."""
        if self.totals.skipped == self.totals.jobs:
            return ["nothing was left to do"]
        rate = [f"{number(self.totals.records_per_s)} records/s"] if self.totals.records_per_s else []
        return rate + ([f"bottleneck: {self.bottleneck.finding}"] if self.bottleneck else [])


class Backfill(validation.Validation[BackfillPlan, Recording, BackfillSummary, Settings]):
    """Where the time goes when history is refilled, and whether the history is whole."""

    name = "backfill"
    keys = frozenset({"symbols", "timeframes", "history", "profiles"})
    choices = ("profile", "symbols", "timeframes", "days")
    limiting = ("bottleneck_*", "balanced")
    tables: ClassVar = {
        "spans": Table(SCHEMA, may_lack=("statements",), may_be_null=("statements",), most=MOST_OBJECTS),
        "jobs": Table(JOBS, may_be_null=("error",), most=MOST_OBJECTS),
        "days": Table(coverage.SCHEMA, may_be_missing=True),
    }
    types = Types(context=Context, recording=Recording, settings=Settings, result=BackfillResult)
    read_plan = staticmethod(plans.read_plan)

    def begin(self, plan: BackfillPlan, settings: Settings) -> Recording:
        """Open the target of the settings, which need not hold any bars, and backfill."""
        return self.run(plan, opening.open_target(settings.target, needs_bars=False), out=settings.out)

    def run(self, plan: BackfillPlan, target: Target, *, out: str = "") -> Recording:
        """Backfill an opened target and keep the recording; whatever becomes of it, its sandbox waits no longer."""
        try:
            return super().run(plan, target, out=out)
        finally:
            opening.let_fill()

    def measure(self, plan: BackfillPlan, target: Target, *, out: str = "") -> Recording:
        """Run the jobs that are to be done; see `session.run`, which says what it raises."""
        from tapecheck.backfill import session  # HTTP client and database drivers: paid by who measures

        return session.run(plan, plans.endpoints(target))

    def check_target(self, target: Target | None, plan: BackfillPlan | None, given: Mapping[str, Any]) -> None:
        """Make sure that a target says where history comes from and goes to; the sandbox's is known when it runs."""
        if target is not None and target.kind == "external":
            plans.endpoints(target)

    def summarize(self, recording: Recording, plan: BackfillPlan) -> BackfillSummary:
        """Return the figures, and what the usual changes are predicted to save."""
        return dataclasses.replace(analysis.summarize(recording), what_if=prediction.predict_all(recording))

    def judge(self, summary: BackfillSummary, plan: BackfillPlan) -> list[Check]:
        """Judge every objective of the plan; where nothing was left to do, those of what was done are met."""
        checks = analysis.check(summary, plan)
        if not _is_covered(summary):
            return checks
        return [dataclasses.replace(one, verdict=Verdict.PASS, reason=COVERED) if one.verdict is Verdict.NO_DATA else one for one in checks]

    def rules(self, recording: Recording, summary: BackfillSummary, plan: BackfillPlan) -> list[Finding]:
        """Return what the figures and predictions say."""
        return findings.find(summary, recording.context.plan, summary.what_if)

    def say(self, recording: Recording, summary: BackfillSummary, found: Sequence[Finding]) -> str:
        """Return what is lost, and where the time goes."""
        limit, covered = self.bottleneck(found), COVERED.capitalize() if _is_covered(summary) else ""
        grave = [finding.finding for finding in found if finding.name in findings.GRAVE]
        return " ".join(f"{text}." for text in (*grave, covered, limit and f"Where the time goes: {limit.finding}") if text)

    def spans_ns(self, recording: Recording) -> Iterable[tuple[int, int]]:
        """Return when the jobs ran."""
        return [(recording.context.began_ns, recording.context.ended_ns)]

    def failures(self, recording: Recording) -> Iterator[dict[str, Any]]:
        """Yield one plain record a failed job."""
        for job in recording.jobs:
            if job.state == FAILED:
                yield {"symbol": job.symbol, "timeframe": job.timeframe, "error": job.error}

    def files(self, found: Analysis[BackfillPlan, Recording, BackfillSummary]) -> Mapping[str, Any]:
        """Return the trace of all jobs."""
        return {"trace.json": chrome_trace(found.recording.spans)}


def _is_covered(summary: BackfillSummary) -> bool:
    """Tell whether no job was due, and each was audited as one that is done."""
    totals, integrity = summary.totals, summary.integrity
    return integrity is not None and totals.skipped == totals.jobs == integrity.series


backfill = Backfill()
