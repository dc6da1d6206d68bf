"""Every drill ever run on a target, as the recorded runs of an output folder tell it. It judges nothing."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from pydantic import TypeAdapter

from tapecheck import config
from tapecheck.errors import ConfigError
from tapecheck.recovery.objectives import RecoveryPlan
from tapecheck.recovery.recording import Context, Recording
from tapecheck.recovery.timeline import Timed, time_trial
from tapecheck.recovery.validation import recovery
from tapecheck.runs import folders
from tapecheck.runs.results import Result

SHOWN = 500  # newest trials
_TIMED = TypeAdapter(list[Timed])


@dataclass(frozen=True, slots=True, kw_only=True)
class PastTrial:
    """A valid trial after which the target recovered: of which failure, when its run began (UTC), and in what time."""

    at: datetime
    failure: str
    recover_s: float


def trials(recording: Recording, plan: RecoveryPlan, out: str) -> list[PastTrial]:
    """Return the valid trials of a recording and of all other runs of its target below an output folder, oldest first.

    Runs that a drill ended are among them: what was measured until then is kept unfinished.

    Args:
        plan: by which the trials of recordings without a result are timed.
        out: "" for those of the recording alone.
    """
    own = {recording.context.run_id}
    found = list(_of(recording, plan))
    for run in folders.each(out, ("rto_rpo",)) if out else ():
        if run.head and run.head.reanalysis_of is None and _is_other(run.head, recording, own):
            timed = [one for failure in run.result["rto"].values() for one in failure["trials"]]
            found += _valid(run.head.started_at, _TIMED.validate_python(timed))
    for folder in (config.outputs(out) / folders.UNFINISHED).glob("rto_rpo-*") if out else ():
        try:
            left = recovery.read(folder)
        except ConfigError:  # others are worth showing
            continue
        if _is_other(left.context, recording, own):
            found += _of(left, plan)
    return sorted(found, key=lambda one: one.at)[-SHOWN:]


def _is_other(run: Result | Context, recording: Recording, known: set[str]) -> bool:
    """Tell whether a run is of the same target and not among those that are known, and note it."""
    is_other = run.target.name == recording.context.target.name and run.run_id not in known
    known.add(run.run_id)
    return is_other


def _of(recording: Recording, plan: RecoveryPlan) -> Iterator[PastTrial]:
    timed = (time_trial(recording.probes, trial, plan) for trial in recording.context.trials)
    return _valid(recording.context.started_at, timed)


def _valid(at: datetime, timed: Iterable[Timed]) -> Iterator[PastTrial]:
    for one in timed:
        if one.clocks and not one.invalid and one.clocks.recover_s is not None:
            yield PastTrial(at=at, failure=one.trial.failure, recover_s=one.clocks.recover_s)
