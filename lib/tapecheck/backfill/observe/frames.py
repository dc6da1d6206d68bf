"""Tables of an observed backfill for the notebook, as pandas frames. Every figure in them comes from the summary."""

import pandas as pd

from tapecheck.backfill.observe.analysis import ObserveSummary
from tapecheck.backfill.observe.plan import ObservePlan
from tapecheck.statistics.intervals import Percentile
from tapecheck.validation import checks, findings
from tapecheck.verdict import number

__all__ = ["checks", "findings", "parts", "plan", "series", "tables", "vendor"]
WHAT = {
    "vendor": "a request to the vendor is in flight",
    "database": "the database works",
    "transaction": "a transaction is open, and the database waits for its client",
    "overlap": "several of these at once",
    "own": "neither: its own computing",
}
MOST_SERIES = 25


def plan(plan: ObservePlan) -> pd.DataFrame:
    """Return how a backfill will be watched."""
    limit = f"{plan.requests_per_minute:g} a minute, {plan.burst} at once" if plan.requests_per_minute else "none"
    rows = {"looks at the database": f"every {plan.every_ms:g} ms", "time limit": f"{plan.limit_s:g} s", "rate limit of the vendor": limit}
    rows["objectives"] = "; ".join(plan.objectives) or "none"
    return pd.DataFrame({"": rows})


def parts(summary: ObserveSummary) -> pd.DataFrame:
    """Return one row a part of the wall time; they add up to it."""
    rows = [
        {
            "part": WHAT[name],
            "s": number(part.seconds),
            "share of wall time": f"{part.share:.1%}",
            "95 % interval": f"{part.low:.1%} to {part.high:.1%}",
        }
        for name, part in summary.parts.items()
    ]
    return pd.DataFrame(rows).set_index("part")


def vendor(summary: ObserveSummary) -> pd.DataFrame:
    """Return what the vendor was asked and how it answered."""
    rows = {
        "requests": f"{summary.requests:,}",
        "answers": ", ".join(f"{name}: {count:,}" for name, count in summary.by_status.items()),
        "refusals (HTTP 429)": f"{summary.refusals:,}, with {number(summary.pauses_s)} s until the next request",
        "body, MB as sent": number(summary.bytes / 1e6),
        "least time by the rate limit, s": number(summary.rate_limit_floor_s) if summary.rate_limit_floor_s else "no limit given",
        "slowest symbol": summary.slowest_symbol.name if summary.slowest_symbol else "",
        "slowest timeframe": summary.slowest_timeframe.name if summary.slowest_timeframe else "",
    }
    if summary.vendor_ms:
        rows |= {f"{p} of an answer, ms": _percentile(getattr(summary.vendor_ms, p)) for p in ("p50", "p95", "p99")}
    return pd.DataFrame({"": rows})


def _percentile(one: Percentile) -> str:
    ends = ("no bound" if end is None else number(end) for end in (one.low, one.high))
    return f"{number(one.value)} ({' to '.join(ends)}), n = {one.n:,}"


def series(summary: ObserveSummary) -> pd.DataFrame:
    """Return one row a ticker and timeframe, those that took the vendor longest first."""
    found = sorted(summary.series.items(), key=lambda item: -item[1].vendor_s)
    rows = [
        {
            "series": name,
            "vendor, s": number(one.vendor_s),
            "requests": f"{one.requests:,}",
            "pages": f"{one.pages:,}",
            "refusals": f"{one.refusals:,}",
            "MB": number(one.bytes / 1e6),
        }
        for name, one in found[:MOST_SERIES]
    ]
    if len(found) > MOST_SERIES:
        rows.append({"series": f"and {len(found) - MOST_SERIES} others, see result.json"})
    columns = ["series", "vendor, s", "requests", "pages", "refusals", "MB"]
    return pd.DataFrame(rows, columns=columns).fillna("").set_index("series")


def tables(summary: ObserveSummary) -> pd.DataFrame:
    """Return one row a table that the target names."""
    rows = [
        {
            "table": name,
            **{key: "" if (count := getattr(one, key)) is None else f"{count:,}" for key in ("before", "after", "inserted", "updated")},
        }
        for name, one in summary.tables.items()
    ]
    return pd.DataFrame(rows, columns=["table", "before", "after", "inserted", "updated"]).set_index("table")
