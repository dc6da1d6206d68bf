"""Turns the recording of a backfill into a summary, and the summary into checks. Pure: no target, no files, no clock."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tapecheck.backfill import coverage
from tapecheck.backfill.coverage import Covered
from tapecheck.backfill.integrity import NO_BARS, WRONG, Defect, Integrity
from tapecheck.backfill.plan import BackfillPlan
from tapecheck.backfill.prediction import WhatIf
from tapecheck.backfill.recording import COMPLETED, FAILED, SKIPPED, Context, Job, Recording
from tapecheck.recording import STOPPED, covered_s
from tapecheck.vendor.trace import STAGES, Oddity, Span
from tapecheck.verdict import Check, Measured, judge

PRIMARY_SHARE = 0.6  # of busy time: a stage above it is the bottleneck
LEADING_SHARE = 0.2  # of busy time: without a primary stage, those above it are named
INTEGRITY = ("lost", "empty", "duplicates", "upstream_gaps", "wrong_bars")  # metrics that only an audit gives: bars; `empty`: jobs
RAN = (COMPLETED, FAILED)
ODD = ("not_asked_for", "contradicted")  # metrics of the vendor's answers: bars
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
    coverage: Covered
    oddities: tuple[Oddity, ...] = ()
    what_if: list[WhatIf] = field(default_factory=list)
    invalid: str | None = None


def summarize(recording: Recording) -> BackfillSummary:
    """Summarize a recording."""
    context, spans, source = recording.context, recording.spans, recording.context.plan.source
    by_job: dict[Key, list[Span]] = defaultdict(list)
    for span in spans:
        by_job[span.symbol, span.timeframe].append(span)
    jobs = {(job.symbol, job.timeframe): _job(job, by_job[job.symbol, job.timeframe]) for job in recording.jobs}
    totals = _totals(recording)
    stages = summarize_stages(spans, context.began_ns, context.ended_ns)
    bottleneck, leading = ranked({name: stage.busy_share for name, stage in stages.items()})
    ran, completed = ([(key, job.duration_s) for key, job in jobs.items() if job.state in of] for of in (RAN, (COMPLETED,)))
    return BackfillSummary(
        totals=totals,
        stages=stages,
        bottleneck=bottleneck,
        leading=leading,
        slowest_job=slowest((" ".join(key), duration_s) for key, duration_s in ran),
        slowest_timeframe=slowest((key[1], duration_s) for key, duration_s in completed),
        slowest_symbol=slowest((key[0], duration_s) for key, duration_s in completed),
        jobs={symbol: {frame: job for (other, frame), job in jobs.items() if other == symbol} for symbol, _ in jobs},
        rate_limit_floor_s=rate_limit_floor_s(totals.requests, source.rate_per_s, source.burst),
        integrity=_with_oddities(context),
        coverage=coverage.covered(recording.tables["days"], context.plan.coins),
        oddities=context.oddities,
        invalid=STOPPED if context.target_stopped else None,
    )


def _with_oddities(context: Context) -> Integrity | None:
    """Return what the audit found, and what the answers had that they should not have had."""
    found = tuple(
        Defect(symbol=one.symbol, timeframe=one.timeframe, kind=one.kind, bars=one.bars, first_ms=one.first_ms, note=one.note)
        for one in context.oddities
    )
    return context.integrity and replace(context.integrity, findings=(*context.integrity.findings, *found))


def rate_limit_floor_s(requests: int, rate_per_s: float | None, burst: int) -> float:
    """Return the least time that requests take: max(0, requests - burst) / rate; 0 without a limit."""
    return max(0, requests - burst) / rate_per_s if rate_per_s else 0.0


def _totals(recording: Recording) -> Totals:
    duration_s, spans = recording.context.wall_s, recording.spans
    states = [job.state for job in recording.jobs]
    finished = sum(job.records for job in recording.jobs if job.state == COMPLETED)
    statements = [span.statements for span in spans]
    return Totals(
        duration_s=duration_s,
        records=sum(job.records for job in recording.jobs),
        records_per_s=finished / duration_s if duration_s > 0 else None,
        jobs=len(states),
        **{state: states.count(state) for state in (COMPLETED, FAILED, SKIPPED)},
        requests=sum(span.requests for span in spans),
        bytes=sum(span.bytes for span in spans),
        statements=None if None in statements else sum(count or 0 for count in statements),
    )


def _job(job: Job, spans: Sequence[Span]) -> JobSummary:
    kept = ("state", "error", "records", "inserted", "changed", "unchanged", "repeated")
    return JobSummary(
        **{name: getattr(job, name) for name in kept},
        duration_s=covered_s((span.began_ns, span.ended_ns) for span in spans) or 0.0,
        requests=sum(span.requests for span in spans),
        bytes=sum(span.bytes for span in spans),
        pages=len({span.page for span in spans if span.stage == "decode"}),
        busy_s={stage: busy_s for stage, (spans_n, busy_s) in _busy(spans).items() if spans_n},
    )


def _busy(spans: Iterable[Span]) -> dict[str, tuple[int, float]]:
    """Return of every stage how many spans it has, and the sum of how long they took."""
    own = {stage: [span.ended_ns - span.began_ns for span in spans if span.stage == stage] for stage in STAGES}
    return {stage: (len(each_ns), sum(each_ns) / 1e9) for stage, each_ns in own.items()}


def summarize_stages(spans: Sequence[Span], began_ns: int, ended_ns: int) -> dict[str, StageSummary]:
    """Return every stage, features and waiting included, so that no stage's share is of less than all."""
    busy, path_ns = _busy(spans), critical_path(spans, began_ns, ended_ns)
    total_s, wall_ns = sum(busy_s for _, busy_s in busy.values()), ended_ns - began_ns
    return {
        stage: StageSummary(
            busy_s=busy_s,
            busy_share=busy_s / total_s if total_s else 0.0,
            wall_share=path_ns[stage] / wall_ns if wall_ns else 0.0,
            spans=spans_n,
        )
        for stage, (spans_n, busy_s) in busy.items()
    }


def ranked(busy_shares: Mapping[str, float]) -> tuple[str | None, list[str]]:
    """Return what is the bottleneck by its share of busy time, or None where time is balanced, and what leads, the longest first."""
    longest = sorted(busy_shares, key=lambda name: -busy_shares[name])
    leading = [name for name in longest if busy_shares[name] > (LEADING_SHARE if name != longest[0] else 0.0)]
    return longest[0] if busy_shares[longest[0]] > PRIMARY_SHARE else None, leading


def critical_path(spans: Sequence[Span], began_ns: int, ended_ns: int) -> dict[str, int]:
    """Return how long each stage was on the critical path, in ns; the sum is the wall time.

    The path is followed backwards from the span that ended last of all: before each comes that span of the same worker which ended
    last before it began, since a worker does its jobs one after another and a job its pages. A gap before a fetch, or before its
    wait for a token, is a wait for a request slot and counts as that stage; any other gap, and what lies before the first span and
    after the last, is `other`: connections, checkpoints, hand-over.
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


def slowest(durations_s: Iterable[tuple[str, float]]) -> Slowest | None:
    """Return the name whose jobs took longest on average, however long its single slowest job took; None without jobs."""
    groups: dict[str, list[float]] = defaultdict(list)
    for name, duration_s in durations_s:
        groups[name].append(duration_s)
    means = [Slowest(name=name, mean_s=sum(each) / len(each), jobs=len(each)) for name, each in groups.items()]
    return max(means, key=lambda one: one.mean_s, default=None)


def check(summary: BackfillSummary, plan: BackfillPlan) -> list[Check]:
    """Judge every objective of a plan."""
    return [judge(one, measured(summary, one.metric), name="backfill", invalid=summary.invalid) for one in plan.parsed]


def measured(summary: BackfillSummary, metric: str) -> Measured:
    """Return the value of a metric; each is exact, of the run that was measured. A metric of coverage is of the worst series.

    Speed counts only where a job was completed. What an audit gives is of as many bars (`empty`: jobs) as it expected.
    """
    totals, floor_s, integrity = summary.totals, summary.rate_limit_floor_s, summary.integrity
    audited = _audited(integrity) if integrity else dict.fromkeys(INTEGRITY)
    if metric in coverage.METRICS:
        worst = summary.coverage.worst(metric)
        return Measured(value=worst, bound=worst, n=sum(len(frames) for frames in summary.coverage.series.values()))
    ran = totals.completed + totals.failed
    odd = {kind: float(sum(one.bars for one in summary.oddities if one.kind == kind)) if ran else None for kind in ODD}
    repeated = sum(job.repeated for jobs in summary.jobs.values() for job in jobs.values())
    values: dict[str, float | None] = (
        audited
        | odd
        | {
            "duration_s": totals.duration_s if totals.completed else None,
            "records_per_s": totals.records_per_s if totals.completed else None,
            "job_success_ratio": totals.completed / ran if ran else None,
            "failed": float(totals.failed) if ran else None,
            "repeated": float(repeated) if ran else None,
            "floor_ratio": totals.duration_s / floor_s if totals.completed and floor_s else None,
        }
    )
    expected = integrity.expected if integrity else 0
    n = ran if metric not in INTEGRITY else integrity.series if integrity and metric == "empty" else expected
    return Measured(value=values[metric], bound=values[metric], n=n)


def _audited(integrity: Integrity) -> dict[str, float | None]:
    """Return how many bars have a fault, and how many jobs ended without any."""
    return {
        "lost": float(integrity.lost + integrity.vanished),
        "empty": float(sum(one.kind == NO_BARS for one in integrity.findings)),
        "duplicates": float(integrity.duplicates),
        "upstream_gaps": float(integrity.upstream_gaps),
        "wrong_bars": float(sum(one.bars for one in integrity.findings if one.kind in WRONG)),
    }
