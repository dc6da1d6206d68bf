"""Tables of a backfill for the notebook, as pandas frames. Every figure in them comes from the summary."""

from collections.abc import Iterable, Sequence

import pandas as pd

from tapecheck import validation
from tapecheck.backfill.analysis import BackfillSummary, JobSummary, StageSummary
from tapecheck.backfill.findings import ceiling_ratio, saving_ratio
from tapecheck.backfill.integrity import Integrity, utc
from tapecheck.backfill.plan import BackfillPlan, HistoryRange
from tapecheck.backfill.prediction import AS_RECORDED, WhatIf
from tapecheck.backfill.recording import COMPLETED, FAILED
from tapecheck.validation import findings
from tapecheck.verdict import Check, number

__all__ = ["checks", "coverage", "failed", "findings", "integrity", "plan", "slowest", "slowest_jobs", "stages", "totals", "what_if"]

JOBS_SHOWN, SERIES_SHOWN = 10, 15


def plan(plan: BackfillPlan) -> pd.DataFrame:
    """Return what will be fetched and how, one row each."""
    source, concurrency = plan.source, plan.concurrency
    limit = f"{source.requests_per_minute:g} a minute, {source.burst} at once after a pause" if source.requests_per_minute else "none"
    rows = {
        "symbols": f"{len(plan.symbols)}: {' '.join(plan.symbols)}",
        "timeframes": f"{len(plan.timeframes)}: {' '.join(plan.timeframes)}",
        "jobs": f"{len(plan.jobs)}",
        "history": _history(plan.history),
        "rate limit (requests)": limit,
        "at once": f"{concurrency.jobs} jobs, {concurrency.requests} requests" + _workers(plan),
        "a job may retry for (s)": number(source.retry.budget_s),
        "longer timeframes": "derived from 5-minute bars" if plan.derive else "fetched each",
        "features": plan.features,
        "insert": plan.insert,
        "begin": plan.begin,
    }
    return pd.DataFrame({"planned": rows})


def _workers(plan: BackfillPlan) -> str:
    if isinstance(plan.workers, int):
        return "" if plan.workers == 1 else f", in each of {plan.workers} processes"
    return f", in each worker of {plan.workers}"


def _history(history: HistoryRange) -> str:
    """Say which days; those that count back from today without dates, which are others tomorrow."""
    end = f"{history.end}" if history.end else "today"
    return f"{history.days} days before {end}" if history.days else f"{history.start} to {end}, without that day"


def checks(checks: Iterable[Check]) -> pd.DataFrame:
    """Return one row an objective."""
    return validation.checks(checks).droplevel("scenario")


def totals(summary: BackfillSummary) -> pd.DataFrame:
    """Return the run in figures."""
    totals = summary.totals
    rows = {
        "duration (s)": number(totals.duration_s),
        "rate-limit floor (s)": number(summary.rate_limit_floor_s),
        "jobs": f"{totals.jobs:,}: {totals.completed:,} completed, {totals.failed:,} failed, {totals.skipped:,} skipped",
        "bars": f"{totals.records:,}",
        "bars/s": number(totals.records_per_s),
        "requests": f"{totals.requests:,}",
        "answers, decompressed (MB)": number(totals.bytes / 1e6),
    }
    return pd.DataFrame({"measured": rows})


def stages(summary: BackfillSummary, what_if: Sequence[WhatIf] = ()) -> pd.DataFrame:
    """Return one row a stage: its two shares, and about what it would buy if it cost nothing."""
    rows = {name: _stage(stage, saving_ratio(name, stage, what_if)) for name, stage in summary.stages.items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("stage")


def _stage(stage: StageSummary, saving: float) -> dict[str, str]:
    ceiling = ceiling_ratio(saving)
    return {
        "spans": f"{stage.spans:,}",
        "busy (s)": number(stage.busy_s),
        "of busy time": f"{stage.busy_share:.1%}",
        "of wall time": f"{stage.wall_share:.1%}",
        "mean of a span (ms)": number(1e3 * stage.busy_s / stage.spans) if stage.spans else "",
        "at no cost, about": "" if ceiling is None else f"{ceiling:.2f} x as fast",
    }


def slowest(summary: BackfillSummary) -> pd.DataFrame:
    """Return the slowest job, and the timeframe and the symbol whose jobs took longest on average."""
    found = {"job": summary.slowest_job, "timeframe": summary.slowest_timeframe, "symbol": summary.slowest_symbol}
    rows = {what: {"slowest": one.name, "mean (s)": number(one.mean_s), "jobs": one.jobs} for what, one in found.items() if one}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["slowest", "mean (s)", "jobs"])


def slowest_jobs(summary: BackfillSummary, most: int = JOBS_SHOWN) -> pd.DataFrame:
    """Return the jobs that took longest, the longest first, with what each stage took of them."""
    ran = sorted(_jobs(summary, COMPLETED, FAILED), key=lambda item: -item[1].duration_s)[:most]
    rows = [
        {
            "job": name,
            "duration (s)": number(job.duration_s),
            "bars": f"{job.records:,}",
            "pages": job.pages,
            "requests": job.requests,
            **{f"{stage} (s)": number(job.busy_s.get(stage, 0.0)) for stage in summary.stages},
        }
        for name, job in ran
    ]
    return pd.DataFrame(rows or [{"job": "none ran"}]).set_index("job")


def failed(summary: BackfillSummary) -> pd.DataFrame:
    """Return one row a failed job with its error, and what of it was stored before."""
    rows = [{"job": name, "error": job.error, "bars stored": f"{job.records:,}"} for name, job in _jobs(summary, FAILED)]
    return pd.DataFrame(rows or [{"job": "none failed", "error": "", "bars stored": ""}]).set_index("job")


def _jobs(summary: BackfillSummary, *states: str) -> list[tuple[str, JobSummary]]:
    every = [(f"{symbol} {frame}", job) for symbol, jobs in summary.jobs.items() for frame, job in jobs.items()]
    return [(name, job) for name, job in every if job.state in states]


def what_if(found: Sequence[WhatIf]) -> pd.DataFrame:
    """Return one row a change: the wall time predicted, and what it saves of the measured one."""
    rows = [
        {
            "change": "none: how far off the replay is" if one.change == AS_RECORDED else one.change,
            "wall time (s)": number(one.wall_s),
            "wall time changes by": f"{-one.saving_ratio:+.1%}",
        }
        for one in found
    ]
    return pd.DataFrame(rows or [{"change": "nothing ran that could be replayed"}]).set_index("change")


def integrity(integrity: Integrity | None) -> pd.DataFrame:
    """Return what is stored beside what ought to be: every expected bar in one class, and every kind of wrong bar."""
    if integrity is None:
        return pd.DataFrame({"bars": {"not audited": ""}, "where": {"not audited": ""}})
    classes = {
        "expected": integrity.expected,
        "present": integrity.present,
        "absent: no trade": integrity.no_trade,
        "absent: upstream gap": integrity.upstream_gaps,
        "absent: lost by us": integrity.lost,
        "vanished since an earlier run": integrity.vanished,
        "duplicates": integrity.duplicates,
        "outside the plan's sessions": integrity.outside,
    }
    rows = [{"what": what, "bars": f"{bars:,}", "where": ""} for what, bars in classes.items()]
    for kind, found in integrity.kinds().items():
        first = f", first {found[0].name} {utc(found[0].first_ms)}" if found[0].first_ms is not None else ""
        bars = sum(one.bars for one in found)
        rows.append({"what": f"found: {kind.replace('_', ' ')}", "bars": f"{bars:,}", "where": f"{len(found):,} series{first}"})
    if integrity.shared_gaps:
        what = "found: slots that several symbols lack"
        rows.append({"what": what, "bars": f"{integrity.shared_slots:,}", "where": f"first {integrity.first_shared()}"})
    rows.append({"what": "checksum of all that is stored", "bars": "", "where": integrity.checksum})
    return pd.DataFrame(rows).set_index("what")


def coverage(summary: BackfillSummary, most: int = SERIES_SHOWN) -> pd.DataFrame:
    """Return one row a series, the one that holds the smallest share of what is expected first."""
    every = [(f"{symbol} {name}", one) for symbol, frames in summary.coverage.series.items() for name, one in frames.items()]
    rows = [
        {
            "series": name,
            "coverage": "" if one.coverage is None else f"{one.coverage:.2%}",
            "first bar": f"{one.first_bar:%Y-%m-%d %H:%M}" if one.first_bar else "none",
            "last bar": f"{one.last_bar:%Y-%m-%d %H:%M}" if one.last_bar else "none",
            "bars a day": number(one.bars_per_day),
            "longest gap (days)": one.longest_gap_days,
            "from": f"{one.longest_gap.first} to {one.longest_gap.last}" if one.longest_gap else "",
        }
        for name, one in sorted(every, key=lambda item: (item[1].coverage or 0.0, -item[1].longest_gap_days))[:most]
    ]
    return pd.DataFrame(rows or [{"series": "not audited"}]).set_index("series")
