"""Says what the figures of an observed backfill mean: findings, each with the numbers that caused it, and what to do."""

from collections.abc import Iterator

from tapecheck.backfill.analysis import PRIMARY_SHARE
from tapecheck.backfill.observe.analysis import OVERLAP, OWN, TRANSACTION, BusyTime, ObserveSummary
from tapecheck.backfill.observe.plan import ObservePlan
from tapecheck.backfill.observe.recording import Context
from tapecheck.runs.results import Finding

WORDS = {"api": "waiting for the vendor", "database": "the database", "own": "its own computing"}
ACTIONS = {
    "api": "send fewer requests (5-minute bars once a symbol, longer ones built from them), several at once, with backoff after refusals",
    "database": "insert many rows at once (COPY, or one statement a batch) and commit once a page; drop indexes that no query needs",
    "own": "profile it; decode and compute by columns instead of row by row, or fetch the next page meanwhile",
}
CLIENT_SHARE = 0.5  # of the database's time: beyond it, it waits for its client rather than works
LOCKED_SHARE = 0.05  # of looks
FEW_LOOKS = 0.9  # of the wall time that looks should stand for


def find(summary: ObserveSummary, plan: ObservePlan, context: Context) -> list[Finding]:
    """Return every finding: first what makes figures doubtful, then what takes the time, then the rest."""
    doubts = [*_of_the_run(summary, context), *_of_the_looks(summary, context)]
    return [*doubts, *_time(summary), *_vendor(summary, plan), *_database(summary)]


def _of_the_run(summary: ObserveSummary, context: Context) -> Iterator[Finding]:
    """Doubt a run that was not whole, or not seen at the vendor."""
    if summary.invalid:
        figures: dict[str, int | float | str] = {"duration_s": summary.duration_s}
        yield Finding(name="not_whole", finding=summary.invalid, evidence=figures, action="mend that, and measure again")
    if not summary.requests:
        yield Finding(
            name="proxy_not_asked",
            finding="the backfill sent no request to the recording proxy: it has the vendor's address from elsewhere",
            evidence={"proxy": context.proxy_url},
            action="set vendor_url_env to the variable that it reads, or proxy_port and that address in its configuration",
        )
    if summary.missed_pages:
        yield Finding(
            name="pages_past_the_proxy",
            finding=f"{summary.missed_pages} pages were promised by next_url and not asked for at the proxy: fetched past it, or never",
            evidence={"missed_pages": summary.missed_pages, "requests": summary.requests},
            action="set rewrite_next_url: true in backfill.observe, so that next_url leads to the proxy",
        )
    if context.left:
        yield Finding(
            name="processes_left",
            finding=f"the command left {len(context.left)} of its processes running, which were ended: {context.left[0][:80]}",
            evidence={"processes": len(context.left)},
            action="have the command wait for its children",
        )


def _of_the_looks(summary: ObserveSummary, context: Context) -> Iterator[Finding]:
    """Doubt what the looks at the database say."""
    if not context.watched:
        yield Finding(
            name="database_not_watched",
            finding="the database was not watched, so that its time is part of the backfill's own",
            evidence={},
            action="say in backfill.observe.database which sessions are its own, and name its tables",
        )
    elif not summary.most_sessions and not summary.hidden:
        yield Finding(
            name="database_not_touched",
            finding="no session of the database was the backfill's",
            evidence={"looks": summary.looks},
            action="correct backfill.observe.database (application_name, user, database), or backfill.database_url",
        )
    if summary.hidden:
        yield Finding(
            name="sessions_hidden",
            finding=f"the states of {summary.hidden} sessions may not be read, so that they count as idle",
            evidence={"hidden": summary.hidden},
            action="grant pg_read_all_stats to the user of backfill.database_url, or use the backfill's own user",
        )
    if context.lost or (context.watched and summary.sampled_share < FEW_LOOKS):
        yield Finding(
            name="few_looks",
            finding=f"looks at the database stand for {summary.sampled_share:.0%} of the time{f': {context.lost}' if context.lost else ''}",
            evidence={"looks": summary.looks, "sampled_share": summary.sampled_share},
            action="measure again while the machine and its database are less busy",
        )


def _time(summary: ObserveSummary) -> Iterator[Finding]:
    """Name the bottleneck, or that there is none with what leads; each with the most that a fix of it can save."""
    names = [summary.bottleneck] if summary.bottleneck else summary.leading
    kinds = [(name, summary.kinds[name]) for name in names]
    what = ", ".join(f"{WORDS[name]} takes {kind.busy_share:.0%} of busy time" for name, kind in kinds)
    yield Finding(
        name=f"bottleneck_{names[0]}" if summary.bottleneck else "balanced",
        finding=f"bottleneck: {what}" if summary.bottleneck else f"balanced, no part takes {PRIMARY_SHARE:.0%} of busy time: {what}",
        evidence={f"{name}_{key}": getattr(kind, key) for name, kind in kinds for key in ("busy_s", "busy_share", "wall_share")},
        action="; ".join(f"{ACTIONS[name]} (it can save at most {_bound(summary, name, kind)} of the wall time)" for name, kind in kinds),
    )


def _bound(summary: ObserveSummary, name: str, kind: BusyTime) -> str:
    """Return the most that a part without cost would save of the wall time: what it does alone (Amdahl)."""
    alone = {"api": ("vendor",), "database": ("database", TRANSACTION), "own": (OWN,)}[name]
    share = sum(summary.parts[part].share for part in alone if part in summary.parts)
    return f"{min(share, kind.wall_share):.0%}"


def _vendor(summary: ObserveSummary, plan: ObservePlan) -> Iterator[Finding]:
    if summary.refusals:
        yield Finding(
            name="refusals",
            finding=f"the vendor refused {summary.refusals} of {summary.requests} requests (HTTP 429)",
            evidence={"refusals": summary.refusals, "pauses_s": summary.pauses_s},
            action="limit the rate to what the vendor allows, and wait after a refusal as long as Retry-After says",
        )
    if summary.rate_limit_floor_s and summary.kinds["own"].wall_share > 0 and summary.duration_s < 1.2 * summary.rate_limit_floor_s:
        yield Finding(
            name="rate_limit",
            finding=f"{summary.requests} requests take at least {summary.rate_limit_floor_s:.3g} s by the rate limit of the plan",
            evidence={"requests": summary.requests, "rate_limit_floor_s": summary.rate_limit_floor_s, "duration_s": summary.duration_s},
            action="send fewer requests: nothing else makes it faster",
        )


def _database(summary: ObserveSummary) -> Iterator[Finding]:
    if absent := [name for name, table in summary.tables.items() if table.after is None and table.inserted is None]:
        yield Finding(
            name="no_table",
            finding=f"the database has no table {', '.join(absent)}",
            evidence={"tables": len(absent)},
            action="correct backfill.observe.tables; a table outside of the search path needs its schema before its name",
        )
    database_s = summary.kinds["database"].busy_s
    open_s = summary.parts[TRANSACTION].seconds if TRANSACTION in summary.parts else 0.0
    if database_s and summary.bottleneck == "database" and open_s > CLIENT_SHARE * database_s and OVERLAP in summary.parts:
        yield Finding(
            name="row_by_row",
            finding=f"for {open_s:.3g} of {database_s:.3g} s its transaction was open while the database waited for its client",
            evidence={"open_s": open_s, "database_s": database_s},
            action="send many rows in one statement: the time is spent between statements, not in them",
        )
    if summary.locked_share > LOCKED_SHARE:
        yield Finding(
            name="locks",
            finding=f"in {summary.locked_share:.0%} of looks one of its sessions waited for a lock",
            evidence={"locked_share": summary.locked_share},
            action="find who holds it (pg_locks, pg_stat_activity)",
        )
