"""Runs the audit of ages and every drill the planned number of times, and returns the recording. It judges nothing."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from tapecheck import progress
from tapecheck.errors import ConfigError, MeasurementError
from tapecheck.recording import STOPPED
from tapecheck.recovery import drill, freshness, loss
from tapecheck.recovery.analysis import check_failures
from tapecheck.recovery.drill import Done, DrillTarget, check_allowed, check_processes
from tapecheck.recovery.experiment import Drill
from tapecheck.recovery.objectives import RecoveryPlan
from tapecheck.recovery.recording import PROBES, Audit, Context, Recording, Trial, WrittenBar
from tapecheck.recovery.watchdog import Watchdog
from tapecheck.runs import folders
from tapecheck.target import opening
from tapecheck.target.file import Target

NOTHING = Target.model_construct(name="definition", kind="none")  # type: ignore[call-arg, arg-type]  # of a run that asks no target


@dataclass(slots=True, kw_only=True)
class _Found:
    """What the audit and the drills have left so far."""

    context: Context
    probes: list[pa.Table] = field(default_factory=lambda: [PROBES.empty_table()])
    bars: list[WrittenBar] = field(default_factory=list)
    journals: list[Mapping[str, Any]] = field(default_factory=list)

    def recording(self) -> Recording:
        """Return it as a recording."""
        return Recording.of(pa.concat_tables(self.probes), self.bars, self.context, self.journals)


def define() -> Recording:
    """Return the recording of a run that only states the objectives; no target is asked."""
    return _Found(context=Context.of(NOTHING)).recording()


def run(plan: RecoveryPlan, target: Target, drills: Sequence[Drill], *, out: str) -> Recording:
    """Audit the ages of an opened target, and run each drill as often as planned, all of them once before any of them again.

    Args:
        out: the output folder, where what was measured is kept when a drill ends the run.

    Raises:
        ConfigError: drills are not allowed, lack something, or are about nothing that has an objective; nothing was touched.
        RollbackError: a fault could not be taken away.
        KeyboardInterrupt: interrupted; the drill was rolled back first.
    """
    check_failures(plan, {str(one.path): one.watching.failure for one in drills})
    check_allowed(target, drills)
    check_processes(target, drills)
    where = DrillTarget.of(target)
    found, began_ns = _Found(context=Context.of(target, drills=[one.name for one in drills])), time.monotonic_ns()
    audit = _audited(plan, where, drills)
    found.context = replace(found.context, audit=audit, audited_ns=(began_ns, time.monotonic_ns()))
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
        if found.context.trials:
            folders.keep(found.context.run_id, found.recording().stored(), "rto_rpo", out=out)
        raise


def _audited(plan: RecoveryPlan, where: DrillTarget, drills: Sequence[Drill]) -> Audit:
    """Audit what is there, and where the target may be drilled, plant the ages that it does not have just now."""
    with progress.show("freshness", "audits") as report:
        report(0, 1)
        audit = freshness.audit(plan, where.target, where.database_url)
        if drills and where.database_url and audit.looks[0].stored:
            try:
                audit = replace(audit, planted=freshness.planted_ages(plan, where.target, where.database_url))
            except (MeasurementError, ConfigError) as error:  # the drills go on
                audit = replace(audit, unplanted=str(error))
        report(1, 1)
    return Audit(invalid=STOPPED) if where.target.kind == "sandbox" and opening.sandbox_stopped() else audit


def _trial(one: Drill, number: int, where: DrillTarget, plan: RecoveryPlan, watchdog: Watchdog, found: _Found) -> Done:
    """Run a trial, with bars written meanwhile where the drill wants that, and add what it left."""
    noted: dict[str, Any] = {}
    with ExitStack() as stack:
        recorder, before = None, None
        if one.watching.records:
            try:
                before = loss.row_counts(_database(where))
                recorder = stack.enter_context(loss.Recorder(_database(where), plan, drill=one.name, trial=number))
            except MeasurementError as error:  # the drill is run all the same
                noted = {"unrecorded": str(error)}
        done = drill.run(one, where, plan.prober, watchdog, number)
    if recorder and before is not None:
        noted = {"unrecorded": "the drill was stopped"} if done.stop else _counted(done.trial, recorder, before, where, found)
    found.probes.append(done.probes)
    found.context = replace(found.context, trials=[*found.context.trials, replace(done.trial, **noted)])
    found.journals.append(done.journal)
    return done


def _database(where: DrillTarget) -> str:
    if not where.database_url:
        raise MeasurementError("no database is named")
    return where.database_url


def _counted(trial: Trial, recorder: loss.Recorder, before: loss.Counts, where: DrillTarget, found: _Found) -> dict[str, Any]:
    """Add what became of the bars that were written and of the live ones, and return what the trial notes of it."""
    written = recorder.bars()
    try:
        gone = loss.gone(before, loss.row_counts(_database(where)))
    except MeasurementError as error:
        found.bars += written
        return {"unrecorded": str(error)}
    live = loss.as_bars(gone, drill=trial.drill, trial=trial.trial, acked_ns=trial.began_ns)
    began_s = time.monotonic()
    asked = loss.ask_upstream([*written, *live], where.source_url, where.source_key)
    found.bars += asked
    noted: dict[str, Any] = {"gone_bars": sum(bars for bars, _ in gone.values())}
    if trial.restore and any(bar.refetchable for bar in asked):
        noted["restore"] = replace(trial.restore, refetch_s=time.monotonic() - began_s)
    return noted
