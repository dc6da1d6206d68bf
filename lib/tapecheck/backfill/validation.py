"""The backfill validation as the notebook tells it: settings, plan, run or read, summarize, judge, record."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import Field

from tapecheck import validation
from tapecheck.backfill import analysis, findings, prediction
from tapecheck.backfill import plan as ends
from tapecheck.backfill.analysis import BackfillSummary, JobSummary, Slowest, StageSummary, Totals, summarize
from tapecheck.backfill.integrity import Integrity
from tapecheck.backfill.plan import METRICS, BackfillPlan, Endpoints, read_plan
from tapecheck.backfill.prediction import WhatIf
from tapecheck.backfill.recording import FAILED, Recording, chrome_trace, read
from tapecheck.runs import folders
from tapecheck.runs.folders import Picture, Recorded
from tapecheck.runs.results import Finding, Result
from tapecheck.target import opening
from tapecheck.target.file import Target
from tapecheck.validation import number
from tapecheck.verdict import Check, Objective, parse_all

__all__ = [
    "BackfillResult", "Settings", "endpoints", "find", "headline", "judge", "objectives", "predict", "read", "read_plan", "record",
    "run", "settings", "summarize",
]  # fmt: skip


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

    def main_figures(self) -> list[str]:
        """Return the throughput and where the time goes."""
        rate = [f"{number(self.totals.records_per_s)} records/s"] if self.totals.records_per_s else []
        return rate + ([f"bottleneck: {self.bottleneck.finding}"] if self.bottleneck else [])


def settings(**given: object) -> Settings:
    """Check the notebook's parameters, and that the output folder can be written.

    Raises:
        ConfigError: every wrong parameter at once.
        OutputError: the output folder cannot be written.
    """
    return validation.checked(Settings, given)


def objectives(plan: BackfillPlan) -> tuple[Objective, ...]:
    """Return a plan's objectives, parsed."""
    return parse_all(plan.objectives, METRICS, (), file="plan")


def judge(summary: BackfillSummary, plan: BackfillPlan) -> list[Check]:
    """Judge every objective of the plan."""
    return analysis.check(summary, objectives(plan))


def endpoints(target: Target) -> Endpoints:
    """Return the endpoints of an opened target; see `endpoints.endpoints`. Where there are none, its sandbox waits no longer.

    Raises:
        ConfigError: the target names none, or they cannot be used.
    """
    try:
        return ends.endpoints(target)
    except BaseException:
        opening.let_fill()
        raise


def run(plan: BackfillPlan, endpoints: Endpoints, *, out: str = "") -> Recording:
    """Run the jobs that are to be done and keep the recording below `out`; see `filling.run`, which says what it raises."""
    try:
        from tapecheck.backfill import session  # HTTP client and database drivers: paid by who measures

        return validation.measured("backfill", endpoints.target.name, lambda: session.run(plan, endpoints), out=out)
    finally:
        opening.let_fill()


def predict(recording: Recording) -> list[WhatIf]:
    """Predict what the usual changes would save; the first one is no change, which shows how true the replay is."""
    return prediction.predict_all(recording)


def find(recording: Recording, summary: BackfillSummary, what_if: Sequence[WhatIf] = ()) -> list[Finding]:
    """Return what the figures and predictions say, each with its evidence."""
    return findings.find(summary, recording.context.plan, what_if) + validation.neighbours(recording.context)


def headline(recording: Recording, checks: list[Check], found: list[Finding]) -> str:
    """Return the verdict in one line of Markdown, with where the time goes."""
    return validation.headline(recording.context, checks, _said(found))


def _said(found: list[Finding]) -> str:
    limit = findings.bottleneck(found)
    grave = [finding.finding for finding in found if finding.name in findings.GRAVE]
    return " ".join(f"{text}." for text in (*grave, limit and f"Where the time goes: {limit.finding}") if text)


def record(
    recording: Recording,
    summary: BackfillSummary,
    checks: list[Check],
    *,
    settings: Settings,
    figures: Mapping[str, Picture],
    what_if: list[WhatIf],
) -> Recorded:
    """Write the run folder and return where it is; see `runs.record`."""
    found = find(recording, summary, what_if)
    result = BackfillResult(
        **validation.head(recording.context, recording.source, settings, checks, found, _said(found)),
        validation="backfill",
        bottleneck=findings.bottleneck(found),
        totals=summary.totals,
        stages=summary.stages,
        slowest_job=summary.slowest_job,
        slowest_timeframe=summary.slowest_timeframe,
        slowest_symbol=summary.slowest_symbol,
        jobs=summary.jobs,
        rate_limit_floor_s=summary.rate_limit_floor_s,
        what_if=what_if,
        integrity=summary.integrity,
        measured_s=recording.context.measured_s([(recording.context.began_ns, recording.context.ended_ns)]),
    )
    return folders.record(
        result,
        out=settings.out,
        tables=recording.tables(),
        figures=figures,
        lines={"failures": failures(recording)},
        documents={"trace": chrome_trace(recording.spans)},
    )


def failures(recording: Recording) -> Iterator[dict[str, Any]]:
    """Yield one plain record a failed job."""
    for job in recording.jobs:
        if job.state == FAILED:
            yield {"symbol": job.symbol, "timeframe": job.timeframe, "error": job.error}
