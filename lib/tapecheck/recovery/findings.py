"""Says what the figures of a recovery run mean: findings, each with the numbers that caused it and what to do."""

import math
from collections.abc import Iterator
from dataclasses import replace

from tapecheck.recording import stopped
from tapecheck.recovery.analysis import RecoverySummary
from tapecheck.recovery.objectives import RecoveryPlan
from tapecheck.recovery.recording import Recording
from tapecheck.runs.results import Finding
from tapecheck.verdict import written

NEAR = 0.5  # of an objective: a recovery that takes more leaves little room
LIMITING = ("lost_bars", "not_steady_after", "rto_missed", "false_age", "wrong_answer", "alert_critical", "rto_near")


def find(recording: Recording, summary: RecoverySummary, plan: RecoveryPlan) -> list[Finding]:
    """Return every finding, the most severe kind first."""
    found = [*_lost(summary), *_unsteady(summary), *_missed(summary, plan), *_audited(summary), *_unrecorded(summary)]
    return [*found, *_untested(recording, summary, plan), *_undetected(summary)]


def _lost(summary: RecoverySummary) -> Iterator[Finding]:
    for name, tier in summary.rpo.items():
        if tier.lost_bars:
            counts = ("lost_bars", "acknowledged_bars", "refetchable_bars", "unrecoverable_bars")
            yield Finding(
                name="lost_bars",
                finding=f"{name}: {tier.lost_bars:,} bars that the database had acknowledged are gone",
                evidence={count: getattr(tier, count) for count in counts},
                action="check synchronous_commit, fsync and full_page_writes of the server, and what its disk acknowledges",
            )


def _missed(summary: RecoverySummary, plan: RecoveryPlan) -> Iterator[Finding]:
    for name, failure in summary.rto.items():
        worst_s, limit_s = failure.judged.max, failure.objective_s
        if worst_s is None or worst_s < NEAR * limit_s:
            continue
        is_missed, is_endless = worst_s > limit_s, math.isinf(worst_s)
        took = "was not over when watching ended" if is_endless else f"took {written(worst_s)} s"
        yield Finding(
            name="rto_missed" if is_missed else "rto_near",
            finding=f"{name}: recovery {took}, {'more than' if is_missed else 'near'} the objective of {written(limit_s)} s",
            evidence={"n": failure.judged.n, "objective_s": limit_s, **({} if is_endless else {"worst_s": worst_s})},
            action=f"look at the timeline of the slowest drill of {', '.join(failure.drills)}; its procedure: {plan.rto[name].procedure}",
        )


def _unsteady(summary: RecoverySummary) -> Iterator[Finding]:
    for one in summary.timed:
        if one.clocks and not one.trial.steady_after:
            yield Finding(
                name="not_steady_after",
                finding=f"{one.trial.drill}: the steady state did not come back",
                evidence={"trial": one.trial.trial, "watched_s": one.clocks.watched_s},
                action=f"repair it by hand before anything else: {one.trial.repair}",
            )


def _audited(summary: RecoverySummary) -> Iterator[Finding]:
    if summary.audit and summary.audit.invalid:
        yield replace(stopped(), finding=f"audit of ages: {stopped().finding}")
    for one in summary.series:
        for name, text in (("false_age", one.false_age), ("wrong_answer", one.wrong_answer)):
            if text:
                reported = {} if one.reported_s is None else {"reported_s": one.reported_s}
                yield Finding(
                    name=name,
                    finding=f"{one.symbol} {one.timeframe}: {text}",
                    evidence={"reported": one.reported, "state": one.state, **reported},
                    action="do not trust what this service reports of its data until that is fixed",
                )
    for alert in summary.alerts:
        yield Finding(
            name=f"alert_{alert.severity}",
            finding=alert.message,
            evidence={"rule": alert.rule, "limit": alert.limit, **({} if alert.value is None else {"value": alert.value})},
            action="see which series are old or failed in the table of ages, and why in the scheduler's log",
        )


def _unrecorded(summary: RecoverySummary) -> Iterator[Finding]:
    if failed := [one.trial for one in summary.timed if one.trial.unrecorded]:
        yield Finding(
            name="unrecorded",
            finding=f"loss could not be counted during {', '.join(dict.fromkeys(one.drill for one in failed))}: {failed[0].unrecorded}",
            evidence={"unrecorded_trials": len(failed)},
            action="name the database of the target's own tables under `backfill` in the target file, and see that it answers",
        )
    if summary.audit and summary.audit.unplanted:
        yield Finding(
            name="unplanted",
            finding=f"how old data is answered was not tried: {summary.audit.unplanted}",
            evidence={"series": len(summary.series)},
            action="name the request `features` in the target file, and audit again when a series is complete",
        )


def _untested(recording: Recording, summary: RecoverySummary, plan: RecoveryPlan) -> Iterator[Finding]:
    if recording.context.drills and (left := [name for name in plan.rto if name not in summary.rto]):
        yield Finding(
            name="untested",
            finding=f"no drill of this run tests {', '.join(left)}",
            evidence={"failures": len(plan.rto), "tested": len(summary.rto)},
            action="run all drills, or write one for it in config/drills/",
        )


def _undetected(summary: RecoverySummary) -> Iterator[Finding]:
    seen = [one for one in summary.timed if one.clocks and one.trial.may_report and not one.invalid and one.clocks.first_bad_s is not None]
    silent = [one.trial.drill for one in seen if one.clocks and one.clocks.detect_s is None]
    if silent:
        yield Finding(
            name="undetected",
            finding=f"the target itself never reported {', '.join(dict.fromkeys(silent))}, although probes saw it",
            evidence={"silent_trials": len(silent), "seen_trials": len(seen)},
            action="make the health check report these failures, so that alerts fire before users notice",
        )
