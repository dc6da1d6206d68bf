"""Says what the figures of a backfill mean: findings, each with the numbers that caused it, what to do, and what that can buy."""

from collections.abc import Iterator

from tapecheck.backfill.analysis import PRIMARY_SHARE, BackfillSummary, StageSummary
from tapecheck.backfill.plan import BackfillPlan
from tapecheck.runs import Finding

PROMISED = {"api": (0.30, 0.40), "database": (0.25, 0.35), "balanced": (0.20, 0.30)}  # shorter wall time, as the objectives have it
KIND = {"wait": "api", "fetch": "api", "insert": "database"}
NAMED_JOBS = 5


def find(summary: BackfillSummary, plan: BackfillPlan) -> list[Finding]:
    """Return every finding: failed jobs, the bottleneck or that there is none, then one for each other stage that leads."""
    return [*_failed(summary), *_bottleneck(summary, plan), *_limited(summary)]


def bottleneck(findings: list[Finding]) -> Finding | None:
    """Return the finding that says where the time goes, or None where nothing was done."""
    return next((f for f in findings if f.name.startswith("bottleneck_") or f.name == "balanced"), None)


def ceiling_ratio(wall_share: float) -> float | None:
    """Return how many times faster a run gets at the most when a stage costs nothing: 1 / (1 - share); None where that is without end."""
    return 1 / (1 - wall_share) if wall_share < 1 else None


def _failed(summary: BackfillSummary) -> Iterator[Finding]:
    every = {f"{symbol} {frame}": job for symbol, jobs in summary.jobs.items() for frame, job in jobs.items()}
    errors = {name: job.error for name, job in every.items() if job.state == "failed"}
    if errors:
        names = ", ".join([*errors][:NAMED_JOBS]) + (f" and {len(errors) - NAMED_JOBS} more" if len(errors) > NAMED_JOBS else "")
        yield Finding(
            name="failed_jobs",
            finding=f"{len(errors)} of {summary.totals.jobs} jobs failed: {names}; the first says: {next(iter(errors.values()))}",
            evidence={"failed": len(errors), "jobs": summary.totals.jobs},
            action="read their errors in the table of jobs; when the cause is gone, run again with begin: only_failed",
        )


def _bottleneck(summary: BackfillSummary, plan: BackfillPlan) -> Iterator[Finding]:
    if not summary.leading:
        return
    if summary.bottleneck:
        stage = summary.stages[summary.bottleneck]
        yield Finding(
            name=f"bottleneck_{summary.bottleneck}",
            finding=f"{summary.bottleneck} takes {stage.busy_share:.0%} of busy time and {stage.wall_share:.0%} of wall time",
            evidence=_evidence(stage, KIND.get(summary.bottleneck, "balanced")),
            action=action(summary.bottleneck, plan),
        )
        return
    shares = ", ".join(f"{name} {summary.stages[name].busy_share:.0%}" for name in summary.leading)
    yield Finding(
        name="balanced",
        finding=f"no stage takes more than {PRIMARY_SHARE:.0%} of busy time; the longest are {shares}",
        evidence={f"{name}_busy_share": summary.stages[name].busy_share for name in summary.leading},
        action="profile the longest first; a fix of one alone buys little",
    )
    for name in summary.leading:
        stage = summary.stages[name]
        yield Finding(
            name=f"leading_{name}",
            finding=f"{name} takes {stage.busy_share:.0%} of busy time and {stage.wall_share:.0%} of wall time",
            evidence=_evidence(stage, "balanced"),
            action=action(name, plan),
        )


def _evidence(stage: StageSummary, kind: str) -> dict[str, int | float | str]:
    """Return the figures of a stage beside what is promised of a fix; a promise beyond the stage's share of wall time cannot be kept."""
    low, high = PROMISED[kind]
    ceiling = ceiling_ratio(stage.wall_share)
    return {
        "busy_s": stage.busy_s,
        "busy_share": stage.busy_share,
        "wall_share": stage.wall_share,
        **({"ceiling_ratio": ceiling} if ceiling is not None else {}),
        "promised_saving_low_ratio": low,
        "promised_saving_high_ratio": high,
        "promise": "possible" if stage.wall_share >= low else f"not possible: a fix saves at most {stage.wall_share:.0%}",
    }


def action(stage: str, plan: BackfillPlan) -> str:
    """Say what to do about a stage, given what the plan does already."""
    if stage in ("wait", "fetch") and not plan.derive:
        return "ask less: derive: true fetches one intraday series a symbol and builds the rest, in whole pages"
    if stage == "wait":
        return "a larger rate from the vendor, or fewer symbols: every request is needed and the limit alone sets the time"
    if stage == "fetch":
        return f"more at once: raise concurrency.requests above {plan.concurrency.requests} as far as the source allows; back off on 429"
    if stage == "insert" and plan.insert != "copy":
        return f"store in bulk: insert: copy in place of {plan.insert}"
    if stage == "insert":
        return "it is bulk already: drop indexes that no query needs, and give the database's log a faster disk"
    if stage == "features" and plan.features == "per_row":
        return "vectorize: features: vectorized in place of per_row"
    return f"profile it: {stage} is our own code"


def _limited(summary: BackfillSummary) -> Iterator[Finding]:
    floor_s, totals = summary.rate_limit_floor_s, summary.totals
    if floor_s and totals.duration_s:
        yield Finding(
            name="rate_limit_floor",
            finding=f"the rate limit alone takes {floor_s:.3g} s of {totals.duration_s:.3g} s, whatever the code does",
            evidence={"rate_limit_floor_s": floor_s, "duration_s": totals.duration_s, "requests": totals.requests},
            action="only fewer requests or a higher limit make it faster"
            if floor_s > 0.9 * totals.duration_s
            else "look at the stages first",
        )
