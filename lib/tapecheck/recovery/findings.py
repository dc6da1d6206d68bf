"""Says what the figures of a recovery run mean: findings, each with the numbers that caused it and what to do."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from tapecheck.recording import stopped
from tapecheck.recovery.analysis import RecoverySummary
from tapecheck.recovery.objectives import RecoveryPlan
from tapecheck.recovery.recording import Recording
from tapecheck.runs.results import Finding
from tapecheck.verdict import written

NEAR = 0.5  # of an objective: a recovery that takes more leaves little room

Rule = Callable[[Recording, RecoverySummary, RecoveryPlan], Iterator[Finding]]


def find(recording: Recording, summary: RecoverySummary, plan: RecoveryPlan) -> list[Finding]:
    """Return every finding, the gravest kind first."""
    return [finding for rule in RULES for finding in rule(recording, summary, plan)]


def _lost(recording: Recording, summary: RecoverySummary, plan: RecoveryPlan) -> Iterator[Finding]:
    for name, tier in summary.rpo.items():
        if tier.lost_bars:
            yield Finding(
                name="lost_bars",
                finding=f"{name}: {tier.lost_bars:,} bars that the database had acknowledged are gone",
                evidence={
                    "lost_bars": tier.lost_bars,
                    "acknowledged_bars": tier.acknowledged_bars,
                    "refetchable_bars": tier.refetchable_bars,
                    "unrecoverable_bars": tier.unrecoverable_bars,
                },
                action="look at synchronous_commit, fsync and full_page_writes of the server, and at what its disk acknowledges",
            )


def _missed(recording: Recording, summary: RecoverySummary, plan: RecoveryPlan) -> Iterator[Finding]:
    for name, failure in summary.rto.items():
        judged = failure.recover_s if failure.clock == "full" else failure.degraded_s
        if judged.max is None or judged.max < NEAR * failure.objective_s:
            continue
        is_missed = judged.max > failure.objective_s
        took = "was not over when watching ended" if math.isinf(judged.max) else f"took {written(judged.max)} s"
        yield Finding(
            name="rto_missed" if is_missed else "rto_near",
            finding=f"{name}: recovery {took}, {'more than' if is_missed else 'near'} the objective of {written(failure.objective_s)} s",
            evidence={"n": judged.n, "objective_s": failure.objective_s, **({} if math.isinf(judged.max) else {"worst_s": judged.max})},
            action=f"look at the timeline of the slowest drill of {', '.join(failure.drills)}; its procedure: {plan.rto[name].procedure}",
        )


def _unsteady(recording: Recording, summary: RecoverySummary, plan: RecoveryPlan) -> Iterator[Finding]:
    for one in summary.timed:
        if one.clocks and not one.trial.steady_after:
            yield Finding(
                name="not_steady_after",
                finding=f"{one.trial.drill}: the steady state did not come back",
                evidence={"trial": one.trial.trial, "watched_s": one.clocks.watched_s},
                action=f"repair it by hand before anything else: {one.trial.repair}",
            )


def _stopped(recording: Recording, summary: RecoverySummary, plan: RecoveryPlan) -> Iterator[Finding]:
    ages = recording.context.ages
    if ages and ages.invalid:
        yield replace(stopped(), finding=f"audit of ages: {stopped().finding}")


def _liars(recording: Recording, summary: RecoverySummary, plan: RecoveryPlan) -> Iterator[Finding]:
    ages = recording.context.ages
    for one in ages.series if ages else ():
        for name, text in (("false_age", one.false_age), ("wrong_answer", one.wrong_answer)):
            if text:
                yield Finding(
                    name=name,
                    finding=f"{one.symbol} {one.timeframe}: {text}",
                    evidence={"says": one.says, "state": one.state, **({} if one.said_s is None else {"said_s": one.said_s})},
                    action="do not trust what this service says of its data until that is mended",
                )


def _alerting(recording: Recording, summary: RecoverySummary, plan: RecoveryPlan) -> Iterator[Finding]:
    for alert in summary.alerts:
        yield Finding(
            name=f"alert_{alert.severity}",
            finding=alert.message,
            evidence={"rule": alert.rule, "limit": alert.limit, **({} if alert.value is None else {"value": alert.value})},
            action="see which series are old or failed in the table of ages, and why in the scheduler's log",
        )


def _undetected(recording: Recording, summary: RecoverySummary, plan: RecoveryPlan) -> Iterator[Finding]:
    seen = [one for one in summary.timed if one.clocks and one.trial.may_report and not one.invalid and one.clocks.first_bad_s is not None]
    silent = [one.trial.drill for one in seen if one.clocks and one.clocks.detect_s is None]
    if silent:
        yield Finding(
            name="undetected",
            finding=f"the target itself never told of {', '.join(dict.fromkeys(silent))}, although probes saw it",
            evidence={"silent_trials": len(silent), "seen_trials": len(seen)},
            action="give its health answer a sign of these failures, so that somebody is told before users tell",
        )


def _unrecorded(recording: Recording, summary: RecoverySummary, plan: RecoveryPlan) -> Iterator[Finding]:
    if failed := [one.trial for one in summary.timed if one.trial.unrecorded]:
        yield Finding(
            name="unrecorded",
            finding=f"loss could not be counted during {', '.join(dict.fromkeys(one.drill for one in failed))}: {failed[0].unrecorded}",
            evidence={"unrecorded_trials": len(failed)},
            action="name the database of the target's own tables under `backfill` in the target file, and see that it answers",
        )


def _unplanted(recording: Recording, summary: RecoverySummary, plan: RecoveryPlan) -> Iterator[Finding]:
    ages = recording.context.ages
    if ages and ages.unplanted:
        yield Finding(
            name="unplanted",
            finding=f"how old data is answered was not tried: {ages.unplanted}",
            evidence={"series": len(ages.series)},
            action="name the request `features` in the target file, and audit again when a series is whole",
        )


def _untested(recording: Recording, summary: RecoverySummary, plan: RecoveryPlan) -> Iterator[Finding]:
    if recording.context.drills and (left := [name for name in plan.rto if name not in summary.rto]):
        yield Finding(
            name="untested",
            finding=f"no drill of this run tests {', '.join(left)}",
            evidence={"failures": len(plan.rto), "tested": len(summary.rto)},
            action="run all drills, or write one for it in config/drills/",
        )


RULES: tuple[Rule, ...] = (_lost, _unsteady, _missed, _stopped, _liars, _alerting, _unrecorded, _unplanted, _untested, _undetected)
LIMITING = ("lost_bars", "not_steady_after", "rto_missed", "false_age", "wrong_answer", "alert_critical", "rto_near")
