"""Runs the audit of ages and every drill the planned number of times, and returns the recording. It judges nothing."""

import dataclasses
import datetime as dt
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from tapecheck import progress
from tapecheck.errors import ConfigError, MeasurementError
from tapecheck.recording import STOPPED
from tapecheck.recovery import drill, freshness, stored
from tapecheck.recovery.analysis import check_failures
from tapecheck.recovery.drill import Done
from tapecheck.recovery.drill_target import DrillTarget, check_allowed, check_processes
from tapecheck.recovery.experiment import Drill
from tapecheck.recovery.objectives import RecoveryPlan
from tapecheck.recovery.recorder import Recorder, ask_upstream
from tapecheck.recovery.recording import PROBES, Audit, Context, Recording, Trial, WrittenBar
from tapecheck.recovery.watchdog import Watchdog
from tapecheck.runs import folders, results
from tapecheck.runs.results import TargetInfo
from tapecheck.target import opening
from tapecheck.target.file import Target

NO_TARGET = TargetInfo(name="definition", kind="none", base_url="")  # of a run that asks no target


@dataclass(slots=True, kw_only=True)
class _Found:
    """What the audit and the drills have left so far."""

    info: TargetInfo = NO_TARGET
    drills: Sequence[Drill] = ()
    started_at: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))
    audit: Audit | None = None
    audited_ns: tuple[int, int] | None = None
    probes: list[pa.Table] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)
    bars: list[WrittenBar] = field(default_factory=list)
    journals: list[Mapping[str, Any]] = field(default_factory=list)

    def recording(self) -> Recording:
        """Return it as a recording."""
        return Recording.of(
            probes=pa.concat_tables([PROBES.empty_table(), *self.probes]),
            bars=self.bars,
            journals=self.journals,
            context=Context(
                run_id=folders.new_id(self.started_at),
                started_at=self.started_at,
                target=self.info,
                environment=results.environment(),
                drills=[one.name for one in self.drills],
                trials=self.trials,
                audit=self.audit,
                audited_ns=self.audited_ns,
            ),
        )


def define() -> Recording:
    """Return the recording of a run that only states the objectives; no target is asked."""
    return _Found().recording()


def run(plan: RecoveryPlan, target: Target, drills: Sequence[Drill], *, out: str) -> Recording:
    """Audit the ages of an opened target, and run each drill as often as planned, all of them once before any of them again.

    Args:
        out: the output folder, where what was measured is kept when a drill ends the run.

    Raises:
        ConfigError: drills are not allowed, need what the target does not have, or are about nothing that has an objective; nothing
            was touched.
        TargetError: the target is not what its file says, or does not answer.
        RollbackError: a fault could not be taken away.
        KeyboardInterrupt: interrupted; the drill was rolled back first.
    """
    check_failures(plan, {str(one.path): one.watching.failure for one in drills})
    check_allowed(target, drills)
    check_processes(target, drills)
    where = DrillTarget.of(target)
    found = _Found(info=where.info, drills=drills)
    began_ns, found.audit = time.monotonic_ns(), _audited(plan, where, drills)
    found.audited_ns = began_ns, time.monotonic_ns()
    rounds = [(one, number) for number in range(1, plan.trials.each + 1) for one in drills]
    with _kept(found, out), Watchdog() as watchdog, progress.show("drills", "trials") as report:
        for at, (one, number) in enumerate(rounds):
            report(at, len(rounds), one.name)
            done = _trial(one, number, where, plan, watchdog, found)
            if done.stop is not None:
                raise done.stop
        report(len(rounds), len(rounds))
    return found.recording()


@contextmanager
def _kept(found: _Found, out: str) -> Iterator[None]:
    """Keep what was measured until a drill ended the run, so that it can be read and has a part in the history of drills."""
    try:
        yield
    except BaseException:
        if found.trials:
            left = found.recording()
            folders.keep(left.context.run_id, left.stored(), "rto_rpo", out=out)
        raise


def _audited(plan: RecoveryPlan, where: DrillTarget, drills: Sequence[Drill]) -> Audit:
    """Audit what is there, and where the target may be drilled, plant the ages that it does not have just now."""
    with progress.show("freshness", "audits") as report:
        report(0, 1)
        audit = freshness.audit(plan, where.target, where.database_url)
        if drills and where.database_url and audit.looks[0].stored:
            try:
                audit = dataclasses.replace(audit, planted=freshness.planted_ages(plan, where.target, where.database_url))
            except (MeasurementError, ConfigError) as error:  # the drills go on
                audit = dataclasses.replace(audit, unplanted=str(error))
        report(1, 1)
    return Audit(invalid=STOPPED) if where.info.kind == "sandbox" and opening.sandbox_stopped() else audit


def _trial(one: Drill, number: int, where: DrillTarget, plan: RecoveryPlan, watchdog: Watchdog, found: _Found) -> Done:
    """Run a trial, with bars written meanwhile where the drill wants that, and add what it left."""
    with ExitStack() as stack:
        recorder, before = None, None
        noted: dict[str, Any] = {}
        if one.watching.records:
            try:
                recorder, before = _recorder(one, number, where, plan)
                stack.enter_context(recorder)
            except MeasurementError as error:  # the drill is run all the same
                noted = {"unrecorded": str(error)}
        done = drill.run(one, where, plan.prober, watchdog, number)
    if recorder and before and not noted:
        noted = {"unrecorded": "the drill was stopped"} if done.stop else _counted(done.trial, recorder, before, where, found)
    found.probes.append(done.probes)
    found.trials.append(dataclasses.replace(done.trial, **noted))
    found.journals.append(done.journal)
    return done


def _recorder(one: Drill, number: int, where: DrillTarget, plan: RecoveryPlan) -> tuple[Recorder, stored.RowCounts]:
    """Return a recorder, and what is stored before it writes.

    Raises:
        MeasurementError: there is no database to ask.
    """
    if not where.database_url:
        raise MeasurementError("no database is named")
    return Recorder(where.database_url, plan, drill=one.name, trial=number), stored.row_counts(where.database_url)


def _counted(trial: Trial, recorder: Recorder, before: stored.RowCounts, where: DrillTarget, found: _Found) -> dict[str, Any]:
    """Add what became of the bars that were written and of the live ones, and return what the trial notes of it."""
    assert where.database_url, "a recorder has a database"
    written = recorder.bars()
    try:
        gone = stored.gone(before, stored.row_counts(where.database_url))
    except MeasurementError as error:
        found.bars += written
        return {"unrecorded": str(error)}
    live = stored.as_bars(gone, drill=trial.drill, trial=trial.trial, acked_ns=before.at_ns)
    found.bars += ask_upstream([*written, *live], where.source_url, where.source_key)
    return {"gone_bars": sum(each.bars for each in gone)}
