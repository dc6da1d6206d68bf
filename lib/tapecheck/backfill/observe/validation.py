"""The observe validation: where the time goes in a backfill that nobody here wrote, watched from outside."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import Field

from tapecheck import validation
from tapecheck.backfill.analysis import Slowest
from tapecheck.backfill.observe import analysis, findings
from tapecheck.backfill.observe import plan as plans
from tapecheck.backfill.observe.analysis import BusyTime, ObserveSummary, Part, SeriesRequests, TableRows
from tapecheck.backfill.observe.plan import ObservePlan
from tapecheck.backfill.observe.recording import TABLES, Context, Recording
from tapecheck.backfill.plan import endpoints
from tapecheck.runs.results import Finding, Result
from tapecheck.statistics.intervals import Distribution
from tapecheck.target.file import Target
from tapecheck.validation import Types
from tapecheck.verdict import Check, number


class Settings(validation.Settings):
    """The observe notebook's parameters; `limit_s` 0 is the plan's."""

    limit_s: float = Field(default=0, ge=0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ObserveResult(Result):
    """result.json of an observed backfill; see `ObserveSummary`."""

    duration_s: float
    parts: dict[str, Part]
    kinds: dict[str, BusyTime]
    looks: int
    sampled_share: float
    requests: int
    by_status: dict[str, int]
    refusals: int
    pauses_s: float
    bytes: int
    vendor_ms: Distribution | None
    slowest_symbol: Slowest | None
    slowest_timeframe: Slowest | None
    series: dict[str, SeriesRequests]
    tables: dict[str, TableRows]
    records: int | None
    records_per_s: float | None
    rate_limit_floor_s: float
    own_cores: float | None

    def main_figures(self) -> list[str]:
        """Return the throughput and where the time goes."""
        rate = [f"{number(self.records_per_s)} records/s"] if self.records_per_s else []
        return [f"{number(self.duration_s)} s", *rate, *([self.bottleneck.finding] if self.bottleneck else [])]


class Observe(validation.Validation[ObservePlan, Recording, ObserveSummary, Settings]):
    """Where the time goes in a target's own backfill."""

    name = "observe"
    keys = frozenset({"every_ms", "limit_s", "requests_per_minute", "burst"})
    choices = ("limit_s",)
    limiting = ("bottleneck_*", "balanced")
    tables = TABLES
    types = Types(context=Context, recording=Recording, settings=Settings, result=ObserveResult)
    read_plan = staticmethod(plans.read_plan)

    def measure(self, plan: ObservePlan, target: Target, *, out: str = "") -> Recording:
        """Run the target's backfill and watch it; see `session.run`, which says what it raises."""
        from tapecheck.backfill.observe import session  # HTTP server and database driver: paid by who measures

        return session.run(plan, target)

    def commands(self, plan: ObservePlan) -> list[tuple[str, ...]]:
        """Return the commands that take the place of the target's own, or put things back."""
        return plan.commands

    def check_target(self, target: Target | None, plan: ObservePlan | None, given: Mapping[str, Any]) -> None:
        """Make sure that a target says how its backfill is started and watched."""
        if target is not None and target.kind == "external":
            plans.observed(target, plan)
            endpoints(target)

    def summarize(self, recording: Recording, plan: ObservePlan) -> ObserveSummary:
        """Return the figures."""
        return analysis.summarize(recording, plan)

    def judge(self, summary: ObserveSummary, plan: ObservePlan) -> list[Check]:
        """Judge every objective of the plan."""
        return analysis.check(summary, plan)

    def rules(self, recording: Recording, summary: ObserveSummary, plan: ObservePlan) -> list[Finding]:
        """Return what the figures say."""
        return findings.find(summary, plan, recording.context)

    def say(self, recording: Recording, summary: ObserveSummary, found: Sequence[Finding]) -> str:
        """Return where the time goes, and what makes that doubtful."""
        limit = self.bottleneck(found)
        doubts = [one.finding for one in found if one.name in ("proxy_not_asked", "pages_past_the_proxy", "database_not_touched")]
        return " ".join(f"{text[0].upper()}{text[1:]}." for text in (*doubts, limit and limit.finding) if text)

    def spans_ns(self, recording: Recording) -> Iterable[tuple[int, int]]:
        """Return when the backfill ran."""
        return [(recording.context.began_ns, recording.context.ended_ns)]

    def failures(self, recording: Recording) -> Iterator[dict[str, Any]]:
        """Yield one plain record a request that failed."""
        for row in recording.tables["exchanges"].to_pylist():
            if not 0 < row["status"] < 400:
                yield {"path": row["path"], "status": row["status"], "failure": row["failure"]}


observe = Observe()
