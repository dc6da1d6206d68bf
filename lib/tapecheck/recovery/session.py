"""Runs the audit of ages and every drill the planned number of times, and returns the recording. It judges nothing."""

import dataclasses
import datetime as dt
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from tapecheck import progress
from tapecheck.errors import ConfigError, MeasurementError
from tapecheck.recording import STOPPED
from tapecheck.recovery import drill, freshness, ledger, planting, stored, timeline
from tapecheck.recovery.drill import Done
from tapecheck.recovery.drill_target import Ground, check_allowed, check_processes, check_promised, ground
from tapecheck.recovery.experiment import Drill
from tapecheck.recovery.objectives import RecoveryPlan
from tapecheck.recovery.recorder import Recorder, ask_upstream
from tapecheck.recovery.recording import PROBES, Ack, Ages, Context, Recording, Trial
from tapecheck.recovery.watchdog import Keeper
from tapecheck.runs import folders, results
from tapecheck.runs.results import TargetInfo
from tapecheck.target import opening
from tapecheck.target.file import Target

NOBODY = TargetInfo(name="definition", kind="none", base_url="")  # of a run that asks no target


@dataclass(slots=True, kw_only=True)
class _Found:
    """What the audit and the drills have left so far."""

    audited_ns: tuple[int, int] | None = None

    probes: list[pa.Table] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)
    acks: list[Ack] = field(default_factory=list)
    journals: list[Mapping[str, Any]] = field(default_factory=list)


def define(plan: RecoveryPlan, *, out: str) -> Recording:
    """Return the recording of a run that only says what is promised; no target is asked."""
    return _recording(plan, NOBODY, (), None, _Found(), dt.datetime.now(dt.UTC), ledger.read(ledger.path(out), NOBODY.name))


def run(plan: RecoveryPlan, target: Target, drills: Sequence[Drill], *, out: str) -> Recording:
    """Audit the ages of an opened target, and run each drill as often as planned, all of them once before any of them again.

    Args:
        out: the output folder, whose ledger gets a line a trial as soon as it is over.

    Raises:
        ConfigError: drills are not allowed, need what the target does not have, or are about nothing that is promised; nothing was
            touched.
        TargetError: the target is not what its file says, or does not answer.
        RollbackError: a fault could not be taken away.
        KeyboardInterrupt: interrupted; the drill was rolled back first.
    """
    check_promised(plan, drills)
    check_allowed(target, drills)
    check_processes(target, drills)
    where, started_at, file = ground(target), dt.datetime.now(dt.UTC), ledger.path(out)
    began_ns, ages = time.monotonic_ns(), _audited(plan, target, where, drills)
    found, run_id = _Found(audited_ns=(began_ns, time.monotonic_ns())), folders.new_id(started_at)
    rounds = [(one, number) for number in range(1, plan.trials.each + 1) for one in drills]
    with Keeper() as keeper, progress.show("drills", "trials") as report:
        for at, (one, number) in enumerate(rounds):
            report(at, len(rounds), one.name)
            done = _trial(one, number, where, plan, keeper, found)
            if file is not None:
                timed = timeline.time_trial(done.probes, done.trial, plan)
                ledger.append(file, ledger.entry(timed, run_id=run_id, at=dt.datetime.now(dt.UTC), target=target.name))
            if done.stop is not None:
                raise done.stop
        report(len(rounds), len(rounds))
    return _recording(plan, where.target, drills, ages, found, started_at, ledger.read(file, target.name), run_id=run_id)


def _audited(plan: RecoveryPlan, target: Target, where: Ground, drills: Sequence[Drill]) -> Ages:
    """Audit what is there, and where the target may be drilled, plant the ages that it does not have just now."""
    with progress.show("freshness", "audits") as report:
        report(0, 1)
        ages = freshness.audit(plan, target, where.database_url)
        if drills and where.database_url and ages.database_asked:
            ages = _planted(plan, target, where.database_url, ages)
        report(1, 1)
    return Ages(invalid=STOPPED) if where.target.kind == "sandbox" and opening.sandbox_stopped() else ages


def _planted(plan: RecoveryPlan, target: Target, database_url: str, ages: Ages) -> Ages:
    """Add the ages that were planted; where none can be, say why, and go on with the drills."""
    try:
        planted = planting.planted_ages(plan, target, database_url)
    except (MeasurementError, ConfigError) as error:
        return dataclasses.replace(ages, unplanted=str(error))
    return dataclasses.replace(ages, series=[*ages.series, *planted])


def _trial(one: Drill, number: int, where: Ground, plan: RecoveryPlan, keeper: Keeper, found: _Found) -> Done:
    """Run a trial, with bars written meanwhile where the drill wants that, and add what it left."""
    if one.watching.records and where.database_url:
        done = _recorded(one, number, where, where.database_url, plan, keeper, found)
    else:
        done = drill.run(one, where, plan.prober, keeper, number)
        done = _noted(done, unrecorded="no database is named" if one.watching.records else "")
    found.probes.append(done.probes)
    found.trials.append(done.trial)
    found.journals.append(done.journal)
    return done


def _recorded(
    one: Drill, number: int, where: Ground, database_url: str, plan: RecoveryPlan, keeper: Keeper, found: _Found
) -> Done:  # fmt: skip
    """Run a trial while bars are written, and note what became of those and of the live ones; without a database it is run all the same."""
    recorder = Recorder(database_url, plan, drill=one.name, trial=number)
    with ExitStack() as stack:
        try:
            before = stored.snapshot(database_url)
            stack.enter_context(recorder)
        except MeasurementError as error:
            done = drill.run(one, where, plan.prober, keeper, number)
            return _noted(done, unrecorded=str(error))
        done = drill.run(one, where, plan.prober, keeper, number)
    if done.stop is not None:
        return _noted(done, unrecorded="the drill was stopped")
    written = recorder.fates()
    try:
        gone = stored.compare(before, stored.snapshot(database_url))
    except MeasurementError as error:
        found.acks += written
        return _noted(done, unrecorded=str(error))
    live = stored.as_acks(gone, plan, drill=one.name, trial=number, acked_ns=before.at_ns)
    found.acks += ask_upstream([*written, *live], where.source_url, where.source_key)
    return _noted(done, gone_bars=sum(each.bars for each in gone))


def _noted(done: Done, **more: Any) -> Done:
    return dataclasses.replace(done, trial=dataclasses.replace(done.trial, **more))


def _recording(
    plan: RecoveryPlan, target: TargetInfo, drills: Sequence[Drill], ages: Ages | None, found: _Found, started_at: dt.datetime,
    entries: Sequence[Mapping[str, Any]], *, run_id: str = "",
) -> Recording:  # fmt: skip
    return Recording.of(
        probes=pa.concat_tables([PROBES.empty_table(), *found.probes]),
        acks=found.acks,
        journals=found.journals,
        context=Context(
            run_id=run_id or folders.new_id(started_at),
            started_at=started_at,
            target=target,
            environment=results.environment(),
            plan=plan,
            drills=[one.name for one in drills],
            trials=found.trials,
            ages=ages,
            audited_ns=found.audited_ns,
            ledger=entries,
        ),
    )
