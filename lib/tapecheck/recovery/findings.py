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
LIMITING = ("unusable_backup", "lost_bars", "not_steady_after", "rto_missed", "false_age", "wrong_answer", "alert_critical", "rto_near")
COUNTS = ("lost_bars", "acknowledged_bars", "refetchable_bars", "unrecoverable_bars")
PARTITION = "network_partition"  # the failure in which a hang is a timeout that is too long
FEW = 3  # late answers that a busy machine may make
ACTIONS = {
    "timeout_too_long": "shorten the timeout of the connection that was cut, so that callers get the fallback, or an error, at once",
    "unusable_backup": "make a backup that restores, see why this one does not, and restore one regularly before you need it",
    "old_backup": "see why no newer backup was made",
    "lost_bars": "check synchronous_commit, fsync and full_page_writes of the server, and what its disk acknowledges",
    "false_age": "do not trust what this service reports of its data until that is fixed",
    "wrong_answer": "do not trust what this service reports of its data until that is fixed",
    "alert_warning": "see which series are old or failed in the table of ages, and why in the scheduler's log",
    "alert_critical": "see which series are old or failed in the table of ages, and why in the scheduler's log",
    "unrecorded": "name the database of the target's own tables under `backfill` in the target file, and see that it answers",
    "unplanted": "name the request `features` in the target file, and audit again when a series is complete",
    "untested": "run all drills (-p profile full), or write one for it in config/drills/",
    "undetected": "make the health check report these failures, so that alerts fire before users notice",
}


def find(recording: Recording, summary: RecoverySummary, plan: RecoveryPlan) -> list[Finding]:
    """Return every finding, the most severe kind first."""
    found = [*_backups(summary, plan), *_drilled(summary, plan), *_audited(summary), *_unrecorded(summary)]
    if recording.context.drills and (left := [name for name in plan.rto if name not in summary.rto]):
        found.append(_finding("untested", f"no drill of this run tests {', '.join(left)}", failures=len(plan.rto), tested=len(summary.rto)))
    return [*found, *_hung(summary, plan), *_undetected(summary)]


def _finding(name: str, finding: str, *, action: str = "", **evidence: float | str | None) -> Finding:
    known = {key: value for key, value in evidence.items() if value is not None}
    return Finding(name=name, finding=finding, evidence=known, action=action or ACTIONS[name])


def _backups(summary: RecoverySummary, plan: RecoveryPlan) -> Iterator[Finding]:
    for one in summary.restored:
        if one.unusable:
            finding = f"{one.timed.trial.drill}: {one.unusable}"
            yield _finding("unusable_backup", finding, trial=one.timed.trial.trial, backup=one.facts.backup or None)
        if plan.backup and one.facts.age_s is not None and one.facts.age_s > plan.backup.interval_s:
            old, every = written(one.facts.age_s / 3600), written(plan.backup.interval_s / 3600)
            finding = f"{one.timed.trial.drill}: the newest backup was {old} h old, and one is to be made every {every} h"
            yield _finding("old_backup", finding, age_s=one.facts.age_s, interval_s=plan.backup.interval_s)


def _drilled(summary: RecoverySummary, plan: RecoveryPlan) -> Iterator[Finding]:
    for name, tier in summary.rpo.items():
        if tier.lost_bars:
            finding = f"{name}: {tier.lost_bars:,} bars that the database had acknowledged are gone"
            yield _finding("lost_bars", finding, **{count: getattr(tier, count) for count in COUNTS})
    for one in summary.timed:
        if one.clocks and not one.trial.steady_after:
            finding, action = f"{one.trial.drill}: the steady state did not come back", "repair it by hand before anything else: "
            evidence = {"trial": one.trial.trial, "watched_s": one.clocks.watched_s}
            yield _finding("not_steady_after", finding, action=action + one.trial.repair, **evidence)
    for name, failure in summary.rto.items():
        worst_s, limit_s = failure.judged.max, failure.objective_s
        if worst_s is not None and worst_s >= NEAR * limit_s:
            took = "was not over when watching ended" if math.isinf(worst_s) else f"took {written(worst_s)} s"
            drills, procedure = ", ".join(failure.drills), plan.rto[name].procedure
            yield _finding(
                "rto_missed" if worst_s > limit_s else "rto_near",
                f"{name}: recovery {took}, {'more than' if worst_s > limit_s else 'near'} the objective of {written(limit_s)} s",
                action=f"look at the timeline of the slowest drill of {drills}; its procedure: {procedure}",
                n=failure.judged.n,
                objective_s=limit_s,
                worst_s=None if math.isinf(worst_s) else worst_s,
            )


def _audited(summary: RecoverySummary) -> Iterator[Finding]:
    if summary.audit and summary.audit.invalid:
        yield replace(stopped(), finding=f"audit of ages: {stopped().finding}")
    for one in summary.series:
        for name, text in (("false_age", one.false_age), ("wrong_answer", one.wrong_answer)):
            if text:
                yield _finding(name, f"{one}: {text}", reported=one.reported, state=one.state, reported_s=one.reported_s)
    for alert in summary.alerts:
        yield _finding(f"alert_{alert.severity}", alert.message, rule=alert.rule, limit=alert.limit, value=alert.value)


def _unrecorded(summary: RecoverySummary) -> Iterator[Finding]:
    if failed := [one.trial for one in summary.timed if one.trial.unrecorded]:
        drills = ", ".join(dict.fromkeys(one.drill for one in failed))
        finding = f"loss could not be counted during {drills}: {failed[0].unrecorded}"
        yield _finding("unrecorded", finding, unrecorded_trials=len(failed))
    if summary.audit and summary.audit.unplanted:
        finding = f"how old data is answered was not tried: {summary.audit.unplanted}"
        yield _finding("unplanted", finding, series=len(summary.series))


def _hung(summary: RecoverySummary, plan: RecoveryPlan) -> Iterator[Finding]:
    """Name what hung while a connection was cut, and not before: its own timeout must be shorter than what counts as no service."""
    slow_s = plan.prober.slow_s
    for one in summary.timed:
        for name, view in one.waits.items() if one.valid and one.trial.failure == PARTITION else ():
            if view.hung > FEW and view.longest_s > 2 * max(slow_s, view.before_s):
                took = f"{view.hung} answers took more than {written(slow_s)} s, the longest {written(view.longest_s)} s"
                finding = f"{one.trial.drill}: {name} hung while the connection was cut: {took}; a timeout behind it is too long"
                yield _finding("timeout_too_long", finding, hung=view.hung, refused=view.refused, longest_s=view.longest_s)


def _undetected(summary: RecoverySummary) -> Iterator[Finding]:
    seen = [(one.trial, one.valid) for one in summary.timed if one.valid and one.trial.may_report and one.valid.first_bad_s is not None]
    if silent := [trial.drill for trial, clocks in seen if clocks.detect_s is None]:
        finding = f"the target itself never reported {', '.join(dict.fromkeys(silent))}, although probes saw it"
        yield _finding("undetected", finding, silent_trials=len(silent), seen_trials=len(seen))
