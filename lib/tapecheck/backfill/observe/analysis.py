"""Turns what was seen of a backfill into figures: where its wall time went, what its vendor and its database did. Pure."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tapecheck.backfill.analysis import Slowest, ranked, rate_limit_floor_s, slowest
from tapecheck.backfill.observe.plan import ObservePlan
from tapecheck.backfill.observe.recording import Recording
from tapecheck.statistics import intervals
from tapecheck.statistics.intervals import Distribution, Percentile
from tapecheck.verdict import Check, Measured, Objective, judge

Nanoseconds = NDArray[np.int64]
AGGREGATES = re.compile(r"/v2/aggs/ticker/([^/]+)/range/(\d+)/(second|minute|hour|day|week|month|quarter|year)/")
UNITS = {"second": "s", "minute": "m", "hour": "h", "day": "d", "week": "w", "month": "mo", "quarter": "q", "year": "y"}
VENDOR, DATABASE, TRANSACTION, OVERLAP, OWN = PARTS = ("vendor", "database", "transaction", "overlap", "own")
REFUSED = 429
BATCHES = 20  # stretches of looks, between which a share's spread is estimated
GAP = 5  # times the period: of a longer gap between two looks, what lies farther from both is not known


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of the wall time, no two of which overlap, with the 95 % interval of its share that sampling leaves."""

    seconds: float
    share: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BusyTime:
    """What a backfill was busy with, others at the same time or not: of busy time, and of wall time."""

    busy_s: float
    busy_share: float
    wall_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesRequests:
    """What was asked of one ticker and timeframe; `vendor_s` adds up its requests."""

    requests: int
    pages: int
    refusals: int
    vendor_s: float
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRows:
    """Rows of a table: before and after (None where they were not counted), and inserted and updated by the server's statistics."""

    before: int | None
    after: int | None
    inserted: int | None
    updated: int | None

    @property
    def records(self) -> int | None:
        """How many came: as counted, else as the statistics tell."""
        if self.before is None or self.after is None:
            return self.inserted
        return max(self.after - self.before, self.inserted or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObserveSummary:
    """An observed backfill in figures.

    Args:
        parts: of the wall time: only the vendor in flight, only the database working, only a transaction open, more than one of them,
            and neither, which is the backfill's own computing. Without a look at the database: only `vendor` and `own`, which then
            holds the database's time.
        kinds: api, database and own; `bottleneck` is the one above 60 % of busy time.
        sampled_share: of the wall time that looks at the database stand for.
        pauses_s: between a refusal and the next request of the same path, added up.
        missed_pages: pages that `next_url` promised and that were not asked for here: fetched past the proxy, or never.
        own_cores: cores that its processes used on average; None where they were not seen.
    """

    duration_s: float
    parts: dict[str, Part]
    kinds: dict[str, BusyTime]
    bottleneck: str | None
    leading: list[str]
    looks: int
    sampled_share: float
    most_sessions: int
    hidden: int
    locked_share: float
    requests: int
    by_status: dict[str, int]
    refusals: int
    pauses_s: float
    bytes: int
    missed_pages: int
    vendor_ms: Distribution | None
    slowest_symbol: Slowest | None
    slowest_timeframe: Slowest | None
    series: dict[str, SeriesRequests]
    tables: dict[str, TableRows]
    records: int | None
    records_per_s: float | None
    rate_limit_floor_s: float
    own_cores: float | None
    invalid: str | None = None


def summarize(recording: Recording, plan: ObservePlan) -> ObserveSummary:
    """Return the figures of an observed backfill."""
    context, exchanges = recording.context, recording.tables["exchanges"]
    began, ended, status = (exchanges.column(name).to_numpy() for name in ("began_ns", "ended_ns", "status"))
    paths, failures = (exchanges.column(name).to_pylist() for name in ("path", "failure"))
    sessions = recording.tables["sessions"]
    parts, kinds, sampled_share = _split(recording, _union(began, ended, context.began_ns, context.ended_ns))
    bottleneck, leading = ranked({name: kind.busy_share for name, kind in kinds.items()})
    series = _series(exchanges, paths)
    tables = _rows(recording.tables["rows"])
    known = [table.records for table in tables.values() if table.records is not None]
    records = sum(known) if known else None
    working, waiting = (sessions.column(name).to_numpy() for name in ("working", "open"))
    return ObserveSummary(
        duration_s=context.wall_s,
        parts=parts,
        kinds=kinds,
        bottleneck=bottleneck,
        leading=leading,
        looks=sessions.num_rows,
        sampled_share=sampled_share,
        most_sessions=int(max(sessions.column("idle").to_numpy() + working + waiting, default=0)),
        hidden=int(max(sessions.column("hidden").to_numpy(), default=0)),
        locked_share=float((sessions.column("locked").to_numpy() > 0).mean()) if sessions.num_rows else 0.0,
        requests=len(paths),
        by_status=dict(Counter(why or f"HTTP {code}" for why, code in zip(failures, status.tolist(), strict=True)).most_common()),
        refusals=int((status == REFUSED).sum()),
        pauses_s=_pauses_s(paths, status.tolist(), began.tolist(), ended.tolist()),
        bytes=int(exchanges.column("bytes").to_numpy().sum()),
        missed_pages=_missed_pages(recording),
        vendor_ms=intervals.distribution((ended - began)[(status > 0) & (status < 400)] / 1e6),
        slowest_symbol=_slowest(series, 0),
        slowest_timeframe=_slowest(series, 1),
        series={" ".join(key): one for key, one in series.items()},
        tables=tables,
        records=records,
        records_per_s=records / context.wall_s if records is not None and context.wall_s > 0 else None,
        rate_limit_floor_s=rate_limit_floor_s(len(paths), plan.requests_per_minute and plan.requests_per_minute / 60, plan.burst),
        own_cores=_own_cores(recording),
        invalid=_invalid(recording),
    )


def _invalid(recording: Recording) -> str | None:
    """Say why the figures are not those of a whole backfill, if they are not."""
    context = recording.context
    if context.over_limit_s is not None:
        return f"it was ended at the limit of {context.over_limit_s:g} s; raise limit_s"
    if context.exit_code:
        how = f"signal {-context.exit_code}" if context.exit_code < 0 else f"exit code {context.exit_code}"
        return f"its command ended with {how}: {context.said or 'it wrote nothing'}"
    return None


# ---- where the time went ----


def _union(began: Nanoseconds, ended: Nanoseconds, first_ns: int, last_ns: int) -> tuple[Nanoseconds, Nanoseconds]:
    """Return the stretches in which at least one request was in flight, within the run, in order."""
    order = np.argsort(began, kind="stable")
    starts, ends = np.clip(began[order], first_ns, last_ns), np.clip(np.maximum.accumulate(ended[order]), first_ns, last_ns)
    if not len(starts):
        return starts, ends
    new = np.r_[True, starts[1:] > ends[:-1]]
    return starts[new], ends[np.r_[new[1:], True]]


def _split(recording: Recording, flying: tuple[Nanoseconds, Nanoseconds]) -> tuple[dict[str, Part], dict[str, BusyTime], float]:
    """Split the wall time into its parts; each look at the database stands for the time that is nearer to it than to any other."""
    context, sessions = recording.context, recording.tables["sessions"]
    wall_ns = max(1, context.ended_ns - context.began_ns)
    starts, ends = flying
    vendor_ns = int((ends - starts).sum())
    at = sessions.column("at_ns").to_numpy()
    during = (at >= context.began_ns) & (at <= context.ended_ns)
    at = at[during]
    if not len(at):
        share = vendor_ns / wall_ns
        exact = {VENDOR: share, OWN: 1 - share}
        parts = {name: Part(seconds=one * wall_ns / 1e9, share=one, low=one, high=one) for name, one in exact.items()}
        return parts, _kinds(vendor_ns, 0, wall_ns - vendor_ns, wall_ns), 0.0
    working, waiting = (sessions.column(name).to_numpy()[during] > 0 for name in ("working", "open"))
    weights, sampled_share = _weights(at, context.began_ns, context.ended_ns, GAP * context.every_ms * 1e6)
    flies = np.searchsorted(starts, at, "right") > np.searchsorted(ends, at, "right")
    is_open = waiting & ~working
    several = flies & (working | waiting)
    masks = {
        VENDOR: flies & ~several,
        DATABASE: working & ~several,
        TRANSACTION: is_open & ~several,
        OVERLAP: several,
        OWN: ~(flies | working | waiting),
    }
    parts = {name: _part(mask, weights, wall_ns) for name, mask in masks.items()}
    database_ns, own_ns = (float((weights * mask).sum()) * wall_ns for mask in (working | waiting, masks[OWN]))
    return parts, _kinds(vendor_ns, database_ns, own_ns, wall_ns), sampled_share


def _weights(at: Nanoseconds, first_ns: int, last_ns: int, most_ns: float) -> tuple[NDArray[np.float64], float]:
    """Return how much of the wall time each look stands for, in all 1, and the share of it that is near enough to a look."""
    edges = np.r_[first_ns, (at[1:] + at[:-1]) // 2, last_ns]
    spans = np.diff(edges).astype(float)
    near = np.minimum(spans, most_ns)
    return near / near.sum(), float(near.sum() / (last_ns - first_ns))


def _part(mask: NDArray[np.bool_], weights: NDArray[np.float64], wall_ns: int) -> Part:
    """Return a part with its interval; neighbouring looks are alike, so that stretches of them tell how many they are worth."""
    share, n = float((weights * mask).sum()), len(mask)
    batches: intervals.Counts = np.diff(np.linspace(0, n, min(BATCHES, n) + 1).astype(np.int64)).astype(np.int64)
    effective = intervals.effective_n(intervals.counts_within(mask, batches), batches)
    low, high = intervals.ratio_interval(share, effective)
    return Part(seconds=share * wall_ns / 1e9, share=share, low=min(low, share), high=max(high, share))


def _kinds(vendor_ns: float, database_ns: float, own_ns: float, wall_ns: int) -> dict[str, BusyTime]:
    busy = {"api": vendor_ns / 1e9, "database": database_ns / 1e9, "own": own_ns / 1e9}
    total_s = sum(busy.values()) or 1.0
    return {name: BusyTime(busy_s=one, busy_share=one / total_s, wall_share=one / (wall_ns / 1e9)) for name, one in busy.items()}


# ---- the vendor ----


def _series(exchanges: pa.Table, paths: Sequence[str]) -> dict[tuple[str, str], SeriesRequests]:
    """Return what was asked of each ticker and timeframe; other paths are under their own name."""
    grouped: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, path in enumerate(paths):
        found = AGGREGATES.search(path)
        grouped[(unquote(found[1]), f"{found[2]}{UNITS[found[3]]}") if found else (path[:80], "")].append(i)
    took = (exchanges.column("ended_ns").to_numpy() - exchanges.column("began_ns").to_numpy()) / 1e9
    status, sizes = (exchanges.column(name).to_numpy() for name in ("status", "bytes"))
    return {
        key: SeriesRequests(
            requests=len(at),
            pages=int((status[at] == 200).sum()),
            refusals=int((status[at] == REFUSED).sum()),
            vendor_s=float(took[at].sum()),
            bytes=int(sizes[at].sum()),
        )
        for key, at in grouped.items()
    }


def _slowest(series: Mapping[tuple[str, str], SeriesRequests], which: int) -> Slowest | None:
    return slowest((key[which], one.vendor_s) for key, one in series.items() if key[1])


def _pauses_s(paths: Sequence[str], status: Sequence[int], began: Sequence[int], ended: Sequence[int]) -> float:
    """Return how long it waited after refusals, until it asked for the same path again."""
    refused_at: dict[str, int] = {}
    pauses_ns = 0
    for path, code, first, last in zip(paths, status, began, ended, strict=True):
        if path in refused_at:
            pauses_ns += max(0, first - refused_at.pop(path))
        if code == REFUSED:
            refused_at[path] = last
    return pauses_ns / 1e9


def _missed_pages(recording: Recording) -> int:
    """Return how many pages an answer promised elsewhere than at the proxy, beyond those that were asked for here."""
    exchanges = recording.tables["exchanges"]
    origins = exchanges.column("next_origin").to_pylist()
    elsewhere = sum(bool(origin) and not recording.context.proxy_url.startswith(origin) for origin in origins)
    if recording.context.rewrote or not elsewhere:
        return 0
    return max(0, elsewhere - int(exchanges.column("follows").to_numpy().sum()))


# ---- the rest ----


def _rows(rows: pa.Table) -> dict[str, TableRows]:
    """Return the first and the last reading of each table."""
    by_table: dict[str, list[dict[str, int | None]]] = defaultdict(list)
    for row in rows.to_pylist():
        by_table[row["table"]].append(row)
    return {name: _between(found[0], found[-1]) for name, found in by_table.items()}


def _between(first: Mapping[str, int | None], last: Mapping[str, int | None]) -> TableRows:
    """Return what came between two readings; a table that was made meanwhile was empty before."""
    is_new = first["oid"] != last["oid"]

    def added(name: str) -> int | None:
        before, after = 0 if is_new else first[name], last[name]
        return None if before is None or after is None else after - before

    return TableRows(before=0 if is_new else first["rows"], after=last["rows"], inserted=added("inserted"), updated=added("updated"))


def _own_cores(recording: Recording) -> float | None:
    cpu = recording.tables["cpu"].column("cpu_s").to_pylist()
    if not cpu or recording.context.wall_s <= 0:
        return None
    used = cpu[-1] if recording.context.exit_code is not None else cpu[-1] - cpu[0]  # of a command all, of a service what came during it
    return float(used / recording.context.wall_s)


# ---- judging ----


def check(summary: ObserveSummary, plan: ObservePlan) -> list[Check]:
    """Judge every objective of a plan."""
    return [judge(one, measured(summary, one), name="backfill", invalid=summary.invalid) for one in plan.parsed]


def measured(summary: ObserveSummary, objective: Objective) -> Measured:
    """Return the value of an objective's metric; counts and durations are exact, percentiles have a bound."""
    metric, n = objective.metric, summary.requests
    if metric.startswith("vendor_p"):
        if summary.vendor_ms is None:
            return Measured(value=None, bound=None, n=0, missing="no request was answered")
        found: Percentile = getattr(summary.vendor_ms, metric.removeprefix("vendor_").removesuffix("_ms"))
        return Measured(value=found.value, bound=found.low if objective.upward else found.upper, n=found.n)
    floor_s = summary.rate_limit_floor_s
    failed = sum(count for name, count in summary.by_status.items() if not re.match("HTTP [123]", name))
    values: dict[str, float | None] = {
        "duration_s": summary.duration_s,
        "records": summary.records,
        "records_per_s": summary.records_per_s,
        "requests": n,
        "failed_requests": failed if n else None,
        "refusals": summary.refusals if n else None,
        "floor_ratio": summary.duration_s / floor_s if floor_s else None,
    }
    missing = {
        "records": "the target names no tables: backfill.observe.tables",
        "records_per_s": "the target names no tables: backfill.observe.tables",
        "floor_ratio": "the plan names no rate limit (requests_per_minute), or too few requests were sent to reach it",
    }.get(metric, "the backfill sent no request to the recording proxy")
    return Measured(value=values[metric], bound=values[metric], n=max(n, 1) if values[metric] is not None else 0, missing=missing)
