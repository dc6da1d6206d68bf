"""Runs a drill once: what a target offers and allows, then the fault, what is watched meanwhile, and its rollback. It judges nothing."""

import contextlib
import json
import logging
import re
import shlex
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import pyarrow as pa
from chaoslib.run import RunEventHandler, Runner
from chaoslib.types import Strategy
from pydantic import TypeAdapter
from pydantic_core import from_json

from tapecheck.errors import ConfigError, Problem, RollbackError
from tapecheck.http import Client, tls
from tapecheck.recording import STOPPED
from tapecheck.recovery import actions
from tapecheck.recovery.actions import WAIT
from tapecheck.recovery.experiment import PLACES, Drill, View
from tapecheck.recovery.objectives import ProbeSchedule
from tapecheck.recovery.prober import Prober
from tapecheck.recovery.recording import FULL, INVALID, MEASURED, Restore, Trial, UnusableBackup
from tapecheck.recovery.watchdog import Watchdog, is_undone, roll_back, worked
from tapecheck.resources import locate
from tapecheck.target import opening, templates
from tapecheck.target.file import RequestTemplate, Secret, Target
from tapecheck.target.loopback import beyond, check_database, host_of, is_loopback, only
from tapecheck.target.mapping import number

log = logging.getLogger(__name__)
logging.getLogger("chaostoolkit").setLevel(logging.CRITICAL + 1)  # no notebook needs it: a journal says the same
STEADY_S = 60.0  # for all to be well before a drill, and after it: a busy machine may need a while, and is no unsteady target
AFTER_S = 5.0  # for the answer that says how the target came back
UNSEEN_S = 2.0  # after which a fault that no probe saw has had no effect that could be seen
KEPT = ("title", "status", "deviated", "start", "end", "duration", "steady_states", "run", "rollbacks", "chaoslib-version")
_SETTINGS = {"runtime": {"rollbacks": {"strategy": "always"}}}
_REQUEST = re.compile(r"(GET|HEAD|POST) /\S*")
Journal = Mapping[str, Any]


# ---- what a target offers and allows ----


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillTarget:
    """An opened target as drills see it; its secrets are in no representation of it."""

    target: Target = field(repr=False)
    base_url: str
    source_url: str | None
    headers: Sequence[tuple[str, str]] = field(repr=False)
    database_url: str | None = field(repr=False)
    source_key: str = field(default="", repr=False)

    @classmethod
    def of(cls, target: Target) -> Self:
        """Return what an opened target offers; one beyond this machine without `allow_remote`, or without its secrets, is refused."""
        assert target.base_url is not None, "an opened target has a URL"
        problems: list[Problem] = []
        host = host_of(target.base_url)
        if not target.allow_remote and not is_loopback(host):
            problems.append(beyond(target, f"base_url leads to {host}"))
        headers = templates.headers(target, problems)
        if problems:
            raise ConfigError(problems)
        ends = target.backfill
        if database_url := _optional(ends.database_url) if ends else None:
            check_database(target, database_url)
        return cls(
            target=target,
            base_url=target.base_url,
            source_url=ends.source_url if ends else None,
            source_key=_optional(ends.api_key) or "" if ends else "",
            headers=headers,
            database_url=database_url,
        )

    @property
    def processes(self) -> Mapping[str, Mapping[str, Any]]:
        """Its processes by name, each as a target file selects it."""
        return {name: one.model_dump(exclude_defaults=True) for name, one in self.target.processes.items()}

    @property
    def database(self) -> Mapping[str, Any] | None:
        """How its database is backed up and restored, as a target file says it."""
        return self.target.database.model_dump() if self.target.database else None

    @property
    def sandbox_key(self) -> str:
        """The key of the sandbox's admin requests; of no other target: the vendor's key is for the vendor alone."""
        return self.source_key if self.target.kind == "sandbox" else ""

    def values(self) -> dict[str, Any]:
        """Return what an experiment's configuration gets."""
        found = {name: getattr(self, name) for name in PLACES}
        return {name: value for name, value in found.items() if value is not None}

    def asked(self, view: View) -> View:
        """Return a view with its request written out, whether a template of the target or in full."""
        if view.is_sql:
            return view
        template = self.template(view.request)
        return view.model_copy(update={"request": f"{template.method} {templates.path(template, view.parameters)}"})

    def template(self, text: str) -> RequestTemplate:
        """Return the request that is named in the target file, or written out."""
        return self.target.requests.get(text) or RequestTemplate(request=text)


def _optional(value: Secret | str) -> str | None:
    """Return a secret that may be missing."""
    try:
        return value.reveal() if isinstance(value, Secret) else value
    except ConfigError:
        return None


def check_code(target: Target, drills: Sequence[Drill]) -> None:
    """Refuse code of others on a target that does not allow drills, be it the sandbox: the drills', and the target file's own commands."""
    own = [] if opening.is_sandbox_database(target.database) else target.commands
    runs = {one.name: one.code + (own if one.backs_up else []) for one in drills}
    if code := [] if target.allow_drills else [f"{name} runs {', '.join(every)}" for name, every in runs.items() if every]:
        allowed = "allow_drills: true, if you have read this code and trust it; a drill without it; or drills: freshness, or none"
        got = f"false, while {'; '.join(code)}"
        raise ConfigError([Problem(file=f"target {target.name}", key="allow_drills", got=got, allowed=allowed)])


def check_allowed(target: Target, drills: Sequence[Drill]) -> None:
    """Refuse faults on a target that does not allow them, and drills that need what it does not have; before anything is touched.

    The sandbox is ours and may always be drilled, unless it fills a database that it did not start.
    """
    ends = target.backfill
    is_ours = target.kind == "sandbox" and (ends is None or isinstance(ends.database_url, str))  # its own has that URL written out
    if drills and not is_ours and not target.allow_drills:
        allowed = "allow_drills: true, if you may break this target; or drills: freshness, or none"
        got = f"false, while it is to be broken by {', '.join(one.name for one in drills)}"
        raise ConfigError([Problem(file=f"target {target.name}", key="allow_drills", got=got, allowed=allowed)])
    check_code(target, drills)
    has_database = ends is not None and _optional(ends.database_url)
    given = {"base_url", "sandbox_key", "processes", *(["source_url"] if ends else []), *(["database_url"] if has_database else [])}
    if found := [problem for drill in drills for problem in _missing(target, drill, given)]:
        raise ConfigError(found)


def _missing(target: Target, drill: Drill, given: set[str]) -> list[Problem]:
    def lacks(key: str, got: str, allowed: str) -> None:
        found.append(Problem(file=str(drill.path), key=key, got=got, allowed=allowed))

    found: list[Problem] = []
    if absent := [name for name in drill.broken if name not in target.processes]:
        allowed = f"processes: {{{absent[0]}: {{port: …}}}} in the target file"
        lacks("processes", f"target {target.name} without {', '.join(absent)}", allowed)
    for name, view in drill.watching.views.items():
        if not view.is_sql and view.request not in target.requests and not _REQUEST.fullmatch(view.request):
            allowed = f"METHOD /path, a SELECT, or a request of the target file: {', '.join(target.requests)}"
            lacks(f"views.{name}.request", repr(view.request), allowed)
    hosts = {url: host_of(url) for url in drill.urls}
    if away := [url for url, host in hosts.items() if host and "${" not in host and not target.allow_remote and not is_loopback(host)]:
        lacks("(experiment)", f"requests to {', '.join(away)}", "loopback addresses; or allow_remote: true in the target file")
    needed = (drill.places & set(PLACES)) | ({"database_url"} if drill.needs_database else set())
    if drill.destroys and (target.database is None or not target.database.expendable):
        allowed = "database: {expendable: true, backups: FOLDER, backup: [pg_dump, …], restore: [pg_restore, …]} in the target file"
        got = "without a section database" if target.database is None else "whose database is not marked as expendable"
        lacks("database", f"target {target.name} {got}, which this drill drops", allowed)
    if wanting := sorted(needed - given):
        allowed = "backfill: {source_url: …, database_url: …} in the target file"
        lacks("configuration", f"target {target.name} without {', '.join(wanting)}", allowed)
    return found


def check_processes(target: Target, drills: Sequence[Drill]) -> None:
    """Refuse drills about a process that an opened target's selectors do not name, or name several times, before anything is touched."""
    found: list[Problem] = []
    for name in dict.fromkeys(name for one in drills for name in one.broken):
        selector = target.processes[name]
        if why := actions.unfit(selector, locate(selector)):
            allowed = "a pid, port or command of exactly one process; or all: true beside it, to break all of several"
            found.append(Problem(file=f"target {target.name}", key=f"processes.{name}", got=why, allowed=allowed))
    if found:
        raise ConfigError(found)


# ---- one trial ----


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What one trial left: its probes (`recording.PROBES`) and Chaos Toolkit's journal, without the values of its configuration.

    `stop` is why nothing else may be broken after it: a RollbackError, or a KeyboardInterrupt.
    """

    trial: Trial
    probes: pa.Table
    journal: Journal
    stop: BaseException | None = None


class _Moments(RunEventHandler):  # type: ignore[misc]
    """Notes when each activity began, on the clock of the probes; one that says when it acted is believed."""

    def __init__(self) -> None:
        self.at_ns: dict[str, int] = {}

    def started(self, experiment: Mapping[str, Any], journal: Journal) -> None:
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
    options: dict[str, Any] = {"headers": where.headers, "database_url": where.database_url, "verify": tls(where.target)}
    moments, began_ns = _Moments(), time.monotonic_ns()
    with Prober(where.base_url, views, schedule, **options) as prober:
        was_steady = prober.wait(FULL, began_ns, within_s=STEADY_S, unseen_s=schedule.settle_s)
        journal: Journal = {"status": "failed"}
        if was_steady:
            journal = _journal(drill, where, moments, prober, watchdog)
        stop, since_ns = _stop(drill, where, journal), max(moments.at_ns.values(), default=began_ns)
        is_back = stop is None and prober.wait(FULL, since_ns, within_s=STEADY_S, unseen_s=schedule.settle_s)
    died = f"the prober ended: {type(prober.died_of).__name__}: {prober.died_of}" if prober.died_of else ""
    if where.target.kind == "sandbox" and opening.sandbox_stopped():
        died = STOPPED
    states, watching = journal.get("steady_states") or {}, drill.watching
    steady_before, steady_after = (bool((states.get(when) or {}).get("steady_state_met")) for when in ("before", "after"))
    restore = _restore(journal) if drill.destroys else None
    injected_ns = moments.at_ns.get(watching.inject) if steady_before and (not restore or restore.destroyed_at) else None
    reason = died or _why_invalid(journal, steady_before)
    trial = Trial(
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
        steady_after=is_back and steady_after,
        rolled_back=_rolled_back(drill, journal),
        after=_after(where, watching.after, watching.keep),
        repair=_repair(drill, where, journal),
        may_be_unseen=watching.may_be_unseen,
        restore=restore,
        may_report=any(view.reports is not None for view in watching.views.values()),
    )
    kept = {key: journal[key] for key in KEPT if key in journal}
    return Done(trial=trial, probes=prober.table(drill.name, number), journal=kept, stop=stop)


def _journal(drill: Drill, where: DrillTarget, moments: _Moments, prober: Prober, watchdog: Watchdog) -> Journal:
    """Have Chaos Toolkit run an experiment, with the watchdog armed while a fault may be on."""
    experiment = drill.with_values(where.values())

    def wait(least: int, within_s: float) -> bool:
        since_ns = moments.at_ns.get(drill.watching.inject, time.monotonic_ns())
        released_ns = moments.at_ns.get(drill.watching.release or "", since_ns) if least == FULL else since_ns
        return prober.wait(least, released_ns, within_s=within_s, unseen_s=UNSEEN_S)

    with only(not where.target.allow_remote), Runner(Strategy.DEFAULT) as runner:
        runner.register_event_handler(moments)
        needed = drill.destroys  # to restore it; else the watchdog need not know where the database is
        values = {name: value for name, value in experiment["configuration"].items() if needed or name != "database_url"}
        alone = {**experiment, "configuration": values}
        watchdog.arm(alone, _repair(drill, where, {}), allow_remote=where.target.allow_remote)
        experiment["configuration"][WAIT] = wait
        try:
            journal: Journal = runner.run(experiment, settings=_SETTINGS)
        except Exception as error:  # of Chaos Toolkit's own, after which it plays no rollbacks
            log.warning("the drill %s ended early: %s", drill.name, error)
            journal = {**roll_back(experiment), "status": "aborted", "run": []}
        if _rolled_back(drill, journal):
            watchdog.disarm()
    return journal


def _why_invalid(journal: Journal, steady_before: bool) -> str:
    """Say why nothing follows from a trial: each activity is part of the fault, and where one did not work it was another fault or none."""
    if not steady_before:
        return "the steady state did not hold before the fault, so that what came after says nothing about it"
    if failed := [run for run in journal.get("run", []) if not worked(run)]:
        return f"the fault could not be injected as planned: {_said(failed[0])}"
    return "" if journal["status"] == "completed" else f"the drill ended as {journal['status']}"


def _said(run: Mapping[str, Any]) -> str:
    """Return the name of an activity, and what became of it."""
    exception, output = run.get("exception"), run.get("output")
    return f"{run['activity'].get('name')}: {str(exception[-1]).strip() if exception else json.dumps(output, default=str)[:200]}"


def _repair(drill: Drill, where: DrillTarget, journal: Journal) -> str:
    """Return the command that repairs by hand, with what it is about filled in."""
    outputs = [run.get("output") for run in journal.get("run", []) if run["activity"].get("name") == drill.watching.inject]
    pids = [str(pid) for output in outputs if isinstance(output, dict) for pid in output.get("pids", [])]
    key = where.target.backfill.api_key if where.target.backfill else Secret(env="SANDBOX_KEY")
    text = drill.watching.repair.replace("{pids}", " ".join(pids) or "PID")
    text = text.replace("{sandbox_key}", f"$(cat {shlex.quote(key.file)})" if key.file else f"${key.env[0]}")
    return text.replace("{source_url}", where.source_url or "SOURCE_URL").replace("{base_url}", where.base_url)


def _rolled_back(drill: Drill, journal: Journal) -> bool:
    """Tell whether every rollback worked; where no fault was begun there was none to play."""
    return is_undone(journal, drill.experiment) or ("run" not in journal and all(map(worked, journal.get("rollbacks", []))))


def _stop(drill: Drill, where: DrillTarget, journal: Journal) -> BaseException | None:
    """Return what must end the run: a fault that may still be on, or somebody who interrupted."""
    if not _rolled_back(drill, journal):
        why = "; ".join(_said(run) for run in journal.get("rollbacks", []) if not worked(run)) or "it was interrupted"
        repair = _repair(drill, where, journal)
        return RollbackError(f"THE DRILL {drill.name} COULD NOT BE ROLLED BACK ({why}). Repair by hand: {repair}")
    return KeyboardInterrupt() if journal["status"] == "interrupted" else None


def _restore(journal: Journal) -> Restore:
    """Return what the activities noted of backup and restore; of rollbacks only that which had to restore the database."""
    facts: dict[str, Any] = {}
    for run in [*journal.get("run", []), *journal.get("rollbacks", [])]:
        output, mark = run.get("output"), f"{UnusableBackup.__name__}: "
        facts |= output.get("restore") or {} if isinstance(output, dict) else {}
        if mark in (said := _said(run)) and "unusable" not in facts:
            facts["unusable"] = said.partition(mark)[2]
    return TypeAdapter(Restore).validate_python(facts)


def _after(where: DrillTarget, request: str | None, keep: tuple[str, ...]) -> dict[str, float]:
    """Ask the target how it came back; what it does not say is left out."""
    if request is None:
        return {}
    with Client(where.target, timeout_s=AFTER_S) as client:
        (answer,) = client.send(where.template(request))
    with contextlib.suppress(ValueError):
        reported = from_json(answer.body) if answer.status == 200 else {}
        return {name: number(reported[name]) for name in keep if isinstance(reported, dict) and isinstance(reported.get(name), int | float)}
    return {}
