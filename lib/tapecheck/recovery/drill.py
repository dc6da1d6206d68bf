"""Runs a drill once: watches, breaks, waits, rolls back, and notes when. It judges nothing."""

import json
import logging
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from chaoslib.run import RunEventHandler, Runner
from chaoslib.types import Strategy
from pydantic import BaseModel, ConfigDict

from tapecheck.errors import RollbackError
from tapecheck.http import Client
from tapecheck.recording import STOPPED
from tapecheck.recovery.actions import WAIT
from tapecheck.recovery.drill_target import DrillTarget
from tapecheck.recovery.experiment import Drill
from tapecheck.recovery.objectives import ProbeSchedule
from tapecheck.recovery.prober import Prober
from tapecheck.recovery.recording import FULL, INVALID, MEASURED, Trial
from tapecheck.recovery.watchdog import Watchdog, roll_back, worked
from tapecheck.target import opening

log = logging.getLogger(__name__)
STEADY_S = 60.0  # for all to be well before a drill, and after it: a busy machine may need a while, and is no unsteady target
AFTER_S = 5.0  # for the answer that says how the target came back
UNSEEN_S = 2.0  # after which a fault that no probe saw has had no effect that could be seen
KEPT = ("title", "status", "deviated", "start", "end", "duration", "steady_states", "run", "rollbacks", "chaoslib-version")
_SETTINGS = {"runtime": {"rollbacks": {"strategy": "always"}}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What one trial left: its probes (`recording.PROBES`) and Chaos Toolkit's journal, without the values of its configuration.

    `stop` is why nothing else may be broken after it: a RollbackError, or a KeyboardInterrupt.
    """

    trial: Trial
    probes: pa.Table
    journal: Mapping[str, Any]
    stop: BaseException | None = None


class _After(BaseModel):
    """How a target says that it came back; all of it is kept as it is."""

    model_config = ConfigDict(extra="allow")


class _Moments(RunEventHandler):  # type: ignore[misc]
    """Notes when each activity began, on the clock of the probes; one that says when it acted is believed."""

    def __init__(self) -> None:
        self.at_ns: dict[str, int] = {}

    def started(self, experiment: Mapping[str, Any], journal: Mapping[str, Any]) -> None:
        if threading.current_thread() is threading.main_thread():  # Chaos Toolkit's own handler raises what its python provider swallows
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # it puts back what was there before when it ends

    def start_activity(self, activity: Mapping[str, Any]) -> None:
        self.at_ns.setdefault(activity.get("name", ""), time.monotonic_ns())

    def activity_completed(self, activity: Mapping[str, Any], run: Mapping[str, Any]) -> None:
        output = run.get("output")
        if isinstance(output, dict) and isinstance(output.get("at_ns"), int):
            self.at_ns[activity.get("name", "")] = output["at_ns"]
        if "status" not in run:  # interrupted; Chaos Toolkit would still sleep the whole pause after it, with the fault on
            raise KeyboardInterrupt


def run(drill: Drill, where: DrillTarget, schedule: ProbeSchedule, watchdog: Watchdog, number: int) -> Done:
    """Run a drill once, and roll it back whatever happens.

    Args:
        number: of this trial, from 1.

    Raises:
        KeyboardInterrupt: interrupted before there was a fault; else that is in `stop`, so that what was found is not lost.
        MeasurementError: the watchdog has ended.
    """
    views = {name: where.asked(view) for name, view in drill.watching.views.items()}
    experiment, moments, began_ns = drill.with_values(where.values()), _Moments(), time.monotonic_ns()
    with Prober(
        where.base_url, views, schedule, headers=where.headers, database_url=where.database_url, verify=where.verify
    ) as prober:  # fmt: skip
        was_steady = prober.wait(FULL, began_ns, within_s=STEADY_S, unseen_s=schedule.settle_s)
        journal = _journal(experiment, drill, where, moments, prober, watchdog) if was_steady else {"status": "failed", "steady_states": {}}
        stop, since_ns = _stop(drill, where, journal), max(moments.at_ns.values(), default=began_ns)
        is_back = stop is None and prober.wait(FULL, since_ns, within_s=STEADY_S, unseen_s=schedule.settle_s)
    died = f"the prober ended: {type(prober.died_of).__name__}: {prober.died_of}" if prober.died_of else ""
    if where.info.kind == "sandbox" and opening.sandbox_stopped():
        died = STOPPED
    trial = _trial(drill, number, journal, moments, began_ns, is_back, where, died)
    kept = {key: journal[key] for key in KEPT if key in journal}
    return Done(trial=trial, probes=prober.table(drill.name, number), journal=kept, stop=stop)


def _journal(
    experiment: dict[str, Any], drill: Drill, where: DrillTarget, moments: _Moments, prober: Prober, watchdog: Watchdog
) -> dict[str, Any]:  # fmt: skip
    """Have Chaos Toolkit run an experiment, with the watchdog armed while a fault may be on."""

    def wait(least: int, within_s: float) -> bool:
        since_ns = moments.at_ns.get(drill.watching.inject, time.monotonic_ns())
        released_ns = moments.at_ns.get(drill.watching.release or "", since_ns) if least == FULL else since_ns
        return prober.wait(least, released_ns, within_s=within_s, unseen_s=UNSEEN_S)

    with _quiet(), Runner(Strategy.DEFAULT) as runner:
        runner.register_event_handler(moments)
        values = {name: value for name, value in experiment["configuration"].items() if name != "database_url"}
        watchdog.arm({**experiment, "configuration": values}, _repair(drill, where, {}))
        experiment["configuration"][WAIT] = wait
        try:
            journal: dict[str, Any] = runner.run(experiment, settings=_SETTINGS)
        except Exception as error:  # of Chaos Toolkit's own, after which it plays no rollbacks
            log.warning("the drill %s ended early: %s", drill.name, error)
            journal = {**roll_back(experiment), "status": "aborted", "run": []}
        if _rolled_back(drill, journal):
            watchdog.disarm()
    return journal


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Chaos Toolkit's log out of notebooks: its journal says the same."""
    logger = logging.getLogger("chaostoolkit")
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.propagate = propagate


def _trial(
    drill: Drill, number: int, journal: Mapping[str, Any], moments: _Moments, began_ns: int, is_back: bool, where: DrillTarget, died: str
) -> Trial:  # fmt: skip
    states, watching = journal.get("steady_states") or {}, drill.watching
    steady_before = bool((states.get("before") or {}).get("steady_state_met"))
    injected_ns = moments.at_ns.get(watching.inject) if steady_before else None
    reason = died or _why_invalid(journal, steady_before)
    return Trial(
        drill=drill.name,
        failure=watching.failure,
        trial=number,
        began_ns=began_ns,
        ended_ns=time.monotonic_ns(),
        injected_ns=injected_ns,
        released_ns=moments.at_ns.get(watching.release) if watching.release and injected_ns else None,
        state=INVALID if reason else MEASURED,
        reason=reason,
        steady_before=steady_before,
        steady_after=is_back and bool((states.get("after") or {}).get("steady_state_met")),
        rolled_back=_rolled_back(drill, journal),
        after=_after(where, watching.after, watching.keep),
        repair=_repair(drill, where, journal),
        may_be_unseen=watching.may_be_unseen,
        may_report=any(view.reports is not None for view in watching.views.values()),
    )


def _why_invalid(journal: Mapping[str, Any], steady_before: bool) -> str:
    """Say why nothing follows from a trial: each activity is part of the fault, and where one did not work it was another fault or none."""
    if not steady_before:
        return "the steady state did not hold before the fault, so that what came after says nothing about it"
    if failed := [run for run in journal.get("run", []) if not worked(run)]:
        return f"the fault could not be injected as planned: {failed[0]['activity'].get('name')}: {_said(failed[0])}"
    return "" if journal["status"] == "completed" else f"the drill ended as {journal['status']}"


def _repair(drill: Drill, where: DrillTarget, journal: Mapping[str, Any]) -> str:
    """Return the command that repairs by hand, with what it is about filled in."""
    outputs = [run.get("output") for run in journal.get("run", []) if run["activity"].get("name") == drill.watching.inject]
    pids = [str(pid) for output in outputs if isinstance(output, dict) for pid in output.get("pids", [])]
    values = {"pids": " ".join(pids) or "PID", "source_url": where.source_url or "SOURCE_URL", "base_url": where.base_url}
    text = drill.watching.repair
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def _said(run: Mapping[str, Any]) -> str:
    exception, output = run.get("exception"), run.get("output")
    return str(exception[-1]).strip() if exception else json.dumps(output, default=str)[:200]


def _rolled_back(drill: Drill, journal: Mapping[str, Any]) -> bool:
    """Tell whether every rollback worked; where no fault was begun there was none to play."""
    played = journal.get("rollbacks", [])
    return all(map(worked, played)) and (len(played) == len(drill.experiment["rollbacks"]) or "run" not in journal)


def _stop(drill: Drill, where: DrillTarget, journal: Mapping[str, Any]) -> BaseException | None:
    """Return what must end the run: a fault that may still be on, or somebody who interrupted."""
    if not _rolled_back(drill, journal):
        failed = [f"{run['activity']['name']}: {_said(run)}" for run in journal.get("rollbacks", []) if not worked(run)]
        why, repair = "; ".join(failed) or "it was interrupted", _repair(drill, where, journal)
        return RollbackError(f"THE DRILL {drill.name} COULD NOT BE ROLLED BACK ({why}). Repair by hand: {repair}")
    return KeyboardInterrupt() if journal["status"] == "interrupted" else None


def _after(where: DrillTarget, request: str | None, keep: tuple[str, ...]) -> dict[str, float]:
    """Ask the target how it came back; what it does not say is left out."""
    if request is None:
        return {}
    with Client(where.target, timeout_s=AFTER_S) as client:
        (answer,) = client.send(where.template(request))
    health = answer.parsed(_After)
    reported = (health.model_extra or {}) if health else {}
    return {name: float(reported[name]) for name in keep if isinstance(reported.get(name), int | float)}
