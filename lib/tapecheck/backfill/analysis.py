"""Turns the recording of a backfill into a summary, and the summary into checks. Pure: no target, no files, no clock."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tapecheck.backfill.integrity import NO_BARS, WRONG, Integrity
from tapecheck.backfill.prediction import WhatIf
from tapecheck.backfill.recording import COMPLETED, FAILED, SKIPPED, Job, Recording
from tapecheck.recording import STOPPED
from tapecheck.vendor.trace import STAGES, Span
from tapecheck.verdict import Check, Measured, Objective, judge

PRIMARY_SHARE = 0.6  # of busy time: a stage above it is the bottleneck
LEADING_SHARE = 0.2  # of busy time: without a primary stage, those above it are named
INTEGRITY = ("lost", "empty", "duplicates", "upstream_gaps", "wrong_bars")  # metrics that only an audit gives: bars; `empty`: jobs
Key = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """The run in figures; `records` were written or found to be there already, `bytes` are of answers, decompressed.

    `records_per_s` is of completed jobs alone: what a failed one stored may have been noted while its time was not.
    `statements` were sent to the database, a COPY counted as one; None of a recording that is older than their count.
    """

    duration_s: float
    records: int
    records_per_s: float | None
    jobs: int
    completed: int
    failed: int
    skipped: int
    requests: int
    bytes: int
    statements: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSummary:
    """One stage: `busy_s` adds up its spans, of which many may run at once; for `wall_share` see `critical_path`."""

    busy_s: float
    busy_share: float
    wall_share: float
    spans: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSummary:
    """One job; `duration_s` is how long any of its stages ran, so that it neither counts two at once twice, nor waiting for other jobs."""

    state: str
    error: str
    duration_s: float
    records: int
    inserted: int
    changed: int
    unchanged: int
    repeated: int
    requests: int
    bytes: int
    pages: int
    busy_s: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slowest:
    """What took longest: a job, or the timeframe or symbol whose completed jobs took longest on average."""

    name: str
    mean_s: float
    jobs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillSummary:
    """A backfill in figures.

    `bottleneck` is the stage above 60 % of busy time, or None where time is balanced; `leading` are the stages that take most
    of it, the longest first. `what_if` are predictions, the first of no change. `rate_limit_floor_s` is the least time that its
    requests take by its rate limit, whatever the code does.
    """

    totals: Totals
    stages: dict[str, StageSummary]
    bottleneck: str | None
    leading: list[str]
    slowest_job: Slowest | None
    slowest_timeframe: Slowest | None
    slowest_symbol: Slowest | None
    jobs: dict[str, dict[str, JobSummary]]
    rate_limit_floor_s: float
    integrity: Integrity | None
    what_if: list[WhatIf] = field(default_factory=list)
    invalid: str | None = None


def summarize(recording: Recording) -> BackfillSummary:
    """Summarize a recording."""
    context, spans = recording.context, recording.spans
    by_job: dict[Key, list[Span]] = defaultdict(list)
    for span in spans:
        by_job[span.symbol, span.timeframe].append(span)
    jobs = {(job.symbol, job.timeframe): _job(job, by_job[job.symbol, job.timeframe]) for job in recording.jobs}
    source = context.plan.source
    requests = sum(span.requests for span in spans)
    stages = summarize_stages(spans, context.began_ns, context.ended_ns)
    longest = sorted(stages, key=lambda name: -stages[name].busy_s)
    ran = {key: job.duration_s for key, job in jobs.items() if job.state != SKIPPED}
    completed = {key: job.duration_s for key, job in jobs.items() if job.state == COMPLETED}
    return BackfillSummary(
        totals=_totals(recording, requests),
        stages=stages,
        bottleneck=longest[0] if stages[longest[0]].busy_share > PRIMARY_SHARE else None,
        leading=[name for i, name in enumerate(longest) if stages[name].busy_s and (i == 0 or stages[name].busy_share > LEADING_SHARE)],
        slowest_job=slowest({key: f"{key[0]} {key[1]}" for key in ran}, ran),
        slowest_timeframe=slowest({key: key[1] for key in completed}, completed),
        slowest_symbol=slowest({key: key[0] for key in completed}, completed),
        jobs={
            symbol: {frame: job for (other, frame), job in jobs.items() if other == symbol} for symbol in dict.fromkeys(k[0] for k in jobs)
        },
        rate_limit_floor_s=rate_limit_floor_s(requests, source.rate_per_s, source.burst),
        integrity=context.integrity,
        invalid=STOPPED if context.target_stopped else None,
    )


def rate_limit_floor_s(requests: int, rate_per_s: float | None, burst: int) -> float:
    """Return the least time that requests take: max(0, requests - burst) / rate; 0 without a limit."""
    return max(0, requests - burst) / rate_per_s if rate_per_s else 0.0


def _totals(recording: Recording, requests: int) -> Totals:
    duration_s = recording.context.wall_s
    states = [job.state for job in recording.jobs]
    finished = sum(job.records for job in recording.jobs if job.state == COMPLETED)
    statements = [span.statements for span in recording.spans]
    return Totals(
        duration_s=duration_s,
        records=sum(job.records for job in recording.jobs),
        records_per_s=finished / duration_s if duration_s > 0 else None,
        jobs=len(states),
        completed=states.count(COMPLETED),
        failed=states.count(FAILED),
        skipped=states.count(SKIPPED),
        requests=requests,
        bytes=sum(span.bytes for span in recording.spans),
        statements=None if None in statements else sum(count or 0 for count in statements),
    )


def _job(job: Job, spans: Sequence[Span]) -> JobSummary:
    kept = ("state", "error", "records", "inserted", "changed", "unchanged", "repeated")
    return JobSummary(
        **{name: getattr(job, name) for name in kept},
        duration_s=_covered_ns(spans) / 1e9,
        requests=sum(span.requests for span in spans),
        bytes=sum(span.bytes for span in spans),
        pages=len({span.page for span in spans if span.stage == "decode"}),
        busy_s={stage: _busy_s(spans, stage) for stage in STAGES if any(span.stage == stage for span in spans)},
    )


def _covered_ns(spans: Iterable[Span]) -> int:
    """Return how long at least one of some spans lasted."""
    covered_ns, until_ns = 0, 0
    for span in sorted(spans, key=lambda span: span.began_ns):
        covered_ns += max(0, span.ended_ns - max(span.began_ns, until_ns))
        until_ns = max(until_ns, span.ended_ns)
    return covered_ns


def _busy_s(spans: Iterable[Span], stage: str) -> float:
    return sum(span.ended_ns - span.began_ns for span in spans if span.stage == stage) / 1e9


def summarize_stages(spans: Sequence[Span], began_ns: int, ended_ns: int) -> dict[str, StageSummary]:
    """Return every stage, features and waiting included, so that no stage's share is of less than all."""
    busy_s = {stage: _busy_s(spans, stage) for stage in STAGES}
    path_ns = critical_path(spans, began_ns, ended_ns)
    total_s, wall_ns = sum(busy_s.values()), ended_ns - began_ns
    return {
        stage: StageSummary(
            busy_s=busy_s[stage],
            busy_share=busy_s[stage] / total_s if total_s else 0.0,
            wall_share=path_ns[stage] / wall_ns if wall_ns else 0.0,
            spans=sum(span.stage == stage for span in spans),
        )
        for stage in STAGES
    }


def critical_path(spans: Sequence[Span], began_ns: int, ended_ns: int) -> dict[str, int]:
    """Return how long each stage was on the critical path, in ns; the sum is the wall time.

    The path is followed backwards. It begins with the span that ended last of all. Before each span comes that span of the same
    worker which ended last before it began: a worker does its jobs one after another and a job its pages, so this is what it
    waited for. A gap before a fetch, or before its wait for a token, is a wait for one of the request slots, which others hold
    that fetch or wait, and counts as theirs; any other gap, and what lies before the first span and after the last, counts as
    `other`: connections, checkpoints, hand-over.
    """
    path_ns = dict.fromkeys(STAGES, 0)
    if not spans:
        return path_ns | {"other": ended_ns - began_ns}
    last = max(spans, key=lambda span: span.ended_ns)
    lane = sorted((span for span in spans if span.worker == last.worker), key=lambda span: (span.ended_ns, span.began_ns))
    ends = [span.ended_ns for span in lane]
    path_ns["other"] += ended_ns - last.ended_ns
    at = len(lane) - 1
    while True:
        span = lane[at]
        path_ns[span.stage] += span.ended_ns - span.began_ns
        at = min(bisect_right(ends, span.began_ns), at) - 1
        if at < 0:
            path_ns["other"] += span.began_ns - began_ns
            return path_ns
        path_ns[span.stage if span.stage in ("wait", "fetch") else "other"] += span.began_ns - lane[at].ended_ns


def slowest(names: dict[Key, str], durations_s: dict[Key, float]) -> Slowest | None:
    """Return the name whose jobs took longest on average, however long its single slowest job took; None without jobs."""
    groups: dict[str, list[float]] = defaultdict(list)
    for key, name in names.items():
        groups[name].append(durations_s[key])
    means = {name: sum(values) / len(values) for name, values in groups.items()}
    if not means:
        return None
    name = max(means, key=lambda name: means[name])
    return Slowest(name=name, mean_s=means[name], jobs=len(groups[name]))


def check(summary: BackfillSummary, objectives: Iterable[Objective]) -> list[Check]:
    """Judge every objective."""
    return [judge(objective, measured(summary, objective.metric), name="backfill", invalid=summary.invalid) for objective in objectives]


def measured(summary: BackfillSummary, metric: str) -> Measured:
    """Return the value of a metric; each is exact, of the run that was measured. Speed counts only where a job was completed."""
    if metric in INTEGRITY:
        return _measured_bars(summary.integrity, metric)
    totals, floor_s = summary.totals, summary.rate_limit_floor_s
    ran = totals.completed + totals.failed
    values = {
        "duration_s": totals.duration_s if totals.completed else None,
        "records_per_s": totals.records_per_s if totals.completed else None,
        "job_success_ratio": totals.completed / ran if ran else None,
        "failed": float(totals.failed) if ran else None,
        "repeated": float(sum(job.repeated for jobs in summary.jobs.values() for job in jobs.values())) if ran else None,
        "floor_ratio": totals.duration_s / floor_s if totals.completed and floor_s else None,
    }
    return Measured(value=values[metric], bound=values[metric], n=ran)


def _measured_bars(integrity: Integrity | None, metric: str) -> Measured:
    """Return how many bars have a fault, or how many jobs ended without any; nothing where no audit was made or no bar was expected."""
    if integrity is None:
        return Measured(value=None, bound=None, n=0)
    counts = {
        "lost": integrity.lost + integrity.vanished,
        "empty": sum(finding.kind == NO_BARS for finding in integrity.findings),
        "duplicates": integrity.duplicates,
        "upstream_gaps": integrity.upstream_gaps,
        "wrong_bars": sum(finding.bars for finding in integrity.findings if finding.kind in WRONG),
    }
    value = float(counts[metric])
    return Measured(value=value, bound=value, n=integrity.series if metric == "empty" else integrity.expected)
