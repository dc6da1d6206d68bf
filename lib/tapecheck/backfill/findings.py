"""Says what the figures of a backfill mean: findings, each with the numbers that caused it, what to do, and what that can buy."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from tapecheck.backfill.analysis import PRIMARY_SHARE, BackfillSummary, JobSummary, StageSummary
from tapecheck.backfill.calendar import BASE
from tapecheck.backfill.coverage import Absence, Covered
from tapecheck.backfill.integrity import NO_BARS, Defect, Integrity, utc
from tapecheck.backfill.plan import BackfillPlan
from tapecheck.backfill.prediction import WhatIf
from tapecheck.backfill.recording import FAILED
from tapecheck.recording import stopped
from tapecheck.runs.results import Finding
from tapecheck.vendor.bars import to_datetime
from tapecheck.verdict import counted

PROMISED = {"api": (0.30, 0.40), "database": (0.25, 0.35), "balanced": (0.20, 0.30)}  # shorter wall time, as the objectives have it
KIND = {"wait": "api", "fetch": "api", "insert": "database"}
NAMED = 5  # jobs or series in one finding; the tables have them all
GRAVE = ("lost_bars", "vanished_bars", "failed_jobs", "no_bars", "renamed_ticker", "absent_days")  # what the headline must say
AGAIN = "fetch them again; if they stay so, report it to the vendor"
PARTS = "one of the two is wrong: fetch both again; if they stay so, report it to the vendor"
BARS = {  # kind of bars, the most severe first: what they are, and what to do about them
    "lost": ("lost bars, sent by upstream and not stored", "this is a defect of tapecheck: run again with begin: fresh, and report it"),
    "vanished": ("vanished bars, stored by an earlier run", "find what deletes from the table, then run with begin: fresh"),
    "duplicate": ("bars stored more than once", "the table has lost its primary key: begin: fresh creates it again"),
    "contradicting": ("bars stored more than once, with other values", "the table has lost its primary key: begin: fresh creates it again"),
    "wrong_symbol": ("bars equal to another symbol's of the same time", "ask the vendor which symbol they belong to"),
    "other_level": ("bars at another price level than the shorter bars inside them", f"{PARTS}; one may not be adjusted for a split"),
    "not_positive": ("bars with a price of zero or less", AGAIN),
    "rebased": ("bars whose prices have another basis now, as after a split; their series are fetched anew", "look for the split"),
    "not_asked_for": ("bars that were not asked for, and are not stored", "report them to the vendor"),
    "incomplete": ("bars without a price or volume, which are not stored", AGAIN),
    "contradicted": ("bars that were sent twice with different values", "ask the vendor which are right"),
    "not_finite": ("bars with a price or volume that is not a number", AGAIN),
    "high_below_low": ("bars whose high is below their low", AGAIN),
    "outside_range": ("bars that open or close beyond their high or low", AGAIN),
    "vwap_outside_range": ("bars whose volume-weighted price lies beyond their high or low", AGAIN),
    "negative_volume": ("bars with a negative volume", AGAIN),
    "negative_count": ("bars with a negative number of trades", AGAIN),
    "high_unlike_parts": ("bars whose high is not that of the shorter bars inside them", PARTS),
    "low_unlike_parts": ("bars whose low is not that of the shorter bars inside them", PARTS),
    "open_unlike_parts": ("bars that do not open as the shorter bars inside them", PARTS),
    "close_unlike_parts": ("bars that do not close as the shorter bars inside them", PARTS),
    "volume_unlike_parts": ("bars whose volume is not the sum of the shorter bars inside them", PARTS),
    "out_of_order": ("bars sent after a later one", "none is lost, they are stored by their time; report it to the vendor"),
    "off_calendar": ("bars that begin on a closed day or between two slots", "if there was no special session, report it to the vendor"),
    "upstream_gap": ("gaps upstream, where other bars prove trade", "ask the vendor for them; then run with begin: fresh"),
    "suspected_gap": (
        "gaps between bars of hundreds of trades: a halt, or missing upstream",
        "look for a halt; else ask the vendor for them",
    ),
    "spike": (
        "suspected spikes, far from all bars beside them",
        "compare them with another source; a bad print is the vendor's to correct",
    ),
    "perhaps_closed": (
        "slots at which the exchange was perhaps closed: no series has a bar, or only a few trades",
        "look for a closure or early close that day",
    ),
}
OURS = ("lost", "vanished")  # kinds that come before failed jobs


def find(summary: BackfillSummary, plan: BackfillPlan, what_if: Sequence[WhatIf] = ()) -> list[Finding]:
    """Return every finding, the most severe first: lost bars, failed and empty jobs, other faults of the data, what takes the time."""
    if summary.invalid:
        return [stopped()]
    jobs = {f"{symbol} {frame}": job for symbol, jobs in summary.jobs.items() for frame, job in jobs.items()}
    return [
        *_bars(summary.integrity, OURS),
        *_failed(jobs),
        *_empty(summary.integrity),
        *_renamed(summary.coverage.absences),
        *_absent(summary.coverage.absences),
        *_bars(summary.integrity, [kind for kind in BARS if kind not in OURS]),
        *_jumps(summary.coverage),
        *_shared(summary.integrity),
        *_repeated(jobs),
        *_bottleneck(summary, plan, what_if),
        *_limited(summary),
    ]


def saving_ratio(name: str, stage: StageSummary, what_if: Sequence[WhatIf]) -> float:
    """Return about how much of the wall time is saved when a stage costs nothing: its share of the critical path, or more by replay.

    A stage that shares its cores with others slows them down even where it is not on the path: only the replay knows.
    """
    change = "no rate limit" if name == "wait" else f"{name} at no cost"
    return max([stage.wall_share, *(one.saving_ratio for one in what_if if one.change == change)])


def ceiling_ratio(saving_ratio: float) -> float | None:
    """Return how many times faster a run gets that saves so much of its wall time: 1 / (1 - saving); None where that is without end."""
    return 1 / (1 - saving_ratio) if saving_ratio < 1 else None


def _failed(jobs: Mapping[str, JobSummary]) -> Iterator[Finding]:
    failed = {name: job.error for name, job in jobs.items() if job.state == FAILED}
    if failed:
        yield Finding(
            name="failed_jobs",
            finding=f"{len(failed)} of {len(jobs)} jobs failed: {_named(list(failed))}; first error: {next(iter(failed.values()))}",
            evidence={"failed": len(failed), "jobs": len(jobs)},
            action="read their errors in the table of failed jobs, remove the cause, then run with begin: only_failed",
        )


def _repeated(jobs: Mapping[str, JobSummary]) -> Iterator[Finding]:
    repeated = {name: job.repeated for name, job in jobs.items() if job.repeated}
    if repeated:
        bars = sum(repeated.values())
        yield Finding(
            name="repeated_bars",
            finding=f"bars that upstream sent again, each stored once: {bars:,} in {_named(list(repeated))}",
            evidence={"bars": bars, "series": len(repeated)},
            action="nothing is wrong in the tables; report the overlapping pages to the vendor",
        )


def _empty(integrity: Integrity | None) -> Iterator[Finding]:
    if integrity and (found := integrity.kinds().get(NO_BARS)):
        expected = sum(one.bars for one in found)
        yield Finding(
            name="no_bars",
            finding=f"{len(found)} of {integrity.series} jobs ended without a single bar, of {expected:,} that the calendar expects:"
            f" {_named([one.name for one in found])}",
            evidence={"empty": len(found), "jobs": integrity.series, "expected": expected},
            action="request one of them by hand: does the key include that history, is the ticker right, was it traded then?",
        )


def _absent(absences: Sequence[Absence]) -> Iterator[Finding]:
    if absences:
        worst = sorted(absences, key=lambda one: -one.days)
        yield Finding(
            name="absent_days",
            finding=f"days without a bar, although trade is to be expected: {'; '.join(map(_ranges, worst[:NAMED]))}"
            + (f"; and {len(worst) - NAMED} more" if len(worst) > NAMED else ""),
            evidence={"days": max(one.days for one in worst), "symbols": len({one.symbol for one in worst})},
            action="request these days by hand: was it listed then, does the key include that history? then run with begin: fresh",
        )


def _ranges(absence: Absence) -> str:
    """Say what is absent by its longest range."""
    longest, count = absence.spans[0], len(absence.spans)
    many = f"{counted(absence.days, 'days')} in {count} ranges, the longest" if count > 1 else f"{counted(absence.days, 'days')},"
    until = f"{longest.first}" if longest.days == 1 else f"{longest.first} to {longest.last}"
    return f"{absence.symbol} ({', '.join(absence.timeframes)}) {many} {until} {absence.where}".strip()


def _renamed(absences: Sequence[Absence]) -> Iterator[Finding]:
    for symbol, one in [*{one.symbol: one for one in absences if one.levels}.items()][:NAMED]:
        before, after = one.levels or (0.0, 0.0)
        span = one.spans[0]
        yield Finding(
            name="renamed_ticker",
            finding=f"{symbol} has no bar from {span.first} to {span.last}, and then another price level ({before:,.4g} -> {after:,.4g}):"
            " perhaps a renamed or recycled ticker, whose history is of two companies",
            evidence={"days": span.days, "before": before, "after": after},
            action="look up the ticker's history; begin this symbol's history after the absence, or fetch the former ticker apart",
        )


def _jumps(covered: Covered) -> Iterator[Finding]:
    for one in covered.splits[:NAMED]:
        many = max(one.before, one.after) / min(one.before, one.after)
        way = "split" if one.after < one.before else "reverse split"
        yield Finding(
            name="suspected_split",
            finding=f"{one.symbol} ({', '.join(one.timeframes)}) jumps on {one.day} from {one.before:,.4g} to {one.after:,.4g},"
            f" as by a {way} of about {many:.3g} to 1: suspected to be unadjusted",
            evidence={"before": one.before, "after": one.after, "ratio": many},
            action="look for a split on that day; if there was one, fetch the series anew with adjusted bars",
        )
    for one in covered.origins[:NAMED]:
        yield Finding(
            name="moved_origin",
            finding=f"{one.symbol} ({', '.join(one.timeframes)}) begins its days at {one.after:g} h UTC from {one.day} on, before at"
            f" {one.before:g} h",
            evidence={"before_h": one.before, "after_h": one.after},
            action="one history holds two kinds of days: fetch it anew; if it stays so, report it to the vendor",
        )


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _bars(integrity: Integrity | None, kinds: Iterable[str]) -> Iterator[Finding]:
    every = integrity.kinds() if integrity else {}
    for kind in kinds:
        if found := every.get(kind):
            what, action = BARS[kind]
            bars, longest = sum(one.bars for one in found), max(found, key=lambda one: one.run_bars)
            by = f" ({integrity.calendar} has a session)" if integrity and kind == "perhaps_closed" else ""
            evidence: dict[str, int | float | str] = {"bars": bars, "series": len(found)}
            if found[0].first_ms is not None:
                evidence["first"] = f"{found[0].name} {utc(found[0].first_ms)}"
            if longest.run_bars > 1 and longest.run_ms is not None:
                evidence["longest"] = f"{longest.name} {utc(longest.run_ms)}, {longest.run_bars:,} bars"
            if z := max((one.z or 0.0 for one in found), default=0.0):
                evidence["robust_z"] = z
            yield Finding(
                name=f"{kind}_bars",
                finding=f"{what}{by}: {bars:,} in {_named([_range(one) for one in (found if not by else [_united(found)])])}",
                evidence=evidence,
                action=action,
            )


def _united(found: Sequence[Defect]) -> Defect:
    """Return one defect for that of all series."""
    series = counted(len(found), "series")
    return replace(found[0], symbol=series, timeframe="", last_ms=max(one.last_ms or 0 for one in found))


def _range(defect: Defect) -> str:
    """Say in which series, and between which times."""
    if defect.first_ms is None:
        return defect.name
    note = defect.note and f": {defect.note}"
    first, last = (f"{to_datetime(t_ms):%Y-%m-%d %H:%M}" for t_ms in (defect.first_ms, defect.last_ms or defect.first_ms))
    return f"{defect.name.strip()} ({first} UTC{note})" if first == last else f"{defect.name.strip()} ({first} to {last} UTC{note})"


def _shared(integrity: Integrity | None) -> Iterator[Finding]:
    if integrity and integrity.shared_slots:
        yield Finding(
            name="shared_gaps",
            finding=f"slots of the regular session that several symbols lack: {integrity.shared_slots:,}",
            evidence={"slots": integrity.shared_slots, "first": integrity.first_shared()},
            action="several symbols without trade at once are unlikely: ask the vendor what happened then",
        )


def _bottleneck(summary: BackfillSummary, plan: BackfillPlan, what_if: Sequence[WhatIf]) -> Iterator[Finding]:
    stages = summary.stages
    if summary.leading and not summary.bottleneck:
        shares = ", ".join(f"{name} {stages[name].busy_share:.0%}" for name in summary.leading)
        yield Finding(
            name="balanced",
            finding=f"no stage takes more than {PRIMARY_SHARE:.0%} of busy time; the longest are {shares}",
            evidence={f"{name}_busy_share": stages[name].busy_share for name in summary.leading},
            action="profile the longest first; a fix of one alone buys little",
        )
    for name in [summary.bottleneck] if summary.bottleneck else summary.leading:
        kind = KIND.get(name, "balanced") if summary.bottleneck else "balanced"
        yield Finding(
            name=f"{'bottleneck' if summary.bottleneck else 'leading'}_{name}",
            finding=f"{name} takes {stages[name].busy_share:.0%} of busy time and {stages[name].wall_share:.0%} of wall time",
            evidence=_evidence(stages[name], kind, saving_ratio(name, stages[name], what_if)),
            action=action(name, plan, summary),
        )


def _evidence(stage: StageSummary, kind: str, saving: float) -> dict[str, int | float | str]:
    """Return the figures of a stage beside what is promised of a fix; a promise beyond what it saves at no cost cannot be kept."""
    low, high = PROMISED[kind]
    ceiling = ceiling_ratio(saving)
    return {
        "busy_s": stage.busy_s,
        "busy_share": stage.busy_share,
        "wall_share": stage.wall_share,
        "saving_at_no_cost_ratio": saving,
        **({"ceiling_ratio": ceiling} if ceiling is not None else {}),
        "promised_saving_low_ratio": low,
        "promised_saving_high_ratio": high,
        "promise": "possible" if saving >= low else f"not possible: at no cost it saves about {saving:.0%}",
    }


def action(stage: str, plan: BackfillPlan, summary: BackfillSummary) -> str:
    """Say what to do about a stage, given what the plan does already and what the run has asked for."""
    if stage == "wait" and plan.source.rate_per_s is None:
        return "no rate limit is set, these are pauses before retries: find why requests fail, and set the limit if that is why"
    if stage in ("wait", "fetch") and not plan.derive and _asks_less_derived(plan, summary):
        return "send fewer requests: derive: true fetches one intraday series a symbol and builds the others from it"
    if stage == "wait":
        return "every request is needed, and the rate limit sets the time: get a higher limit, or plan fewer symbols"
    if stage == "fetch":
        more = f"raise concurrency.requests above {plan.concurrency.requests} as far as the source allows; back off on 429"
        return f"send more requests at once: {more}"
    if stage == "insert" and plan.insert != "copy":
        return f"insert in bulk: set insert: copy instead of {plan.insert}"
    if stage == "insert":
        return "inserts already use COPY; drop unused indexes, move the WAL to a faster disk"
    if stage == "features" and plan.features == "per_row":
        return "set features: vectorized instead of per_row"
    return f"profile it: {stage} is tapecheck's own code"


def _asks_less_derived(plan: BackfillPlan, summary: BackfillSummary) -> bool:
    """Tell whether a symbol was asked for more pages than those of its 5-minute bars, of which the rest could be built."""
    if BASE not in plan.timeframes:
        return False
    symbols = [{name: job.pages for name, job in jobs.items()} for jobs in summary.jobs.values()]
    return any(0 < pages.get(BASE, 0) < sum(pages.values()) for pages in symbols)


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
