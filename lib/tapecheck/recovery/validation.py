"""The recovery validation: how long until service is back when something dies, and which data is stale or lost."""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, TypeAdapter

from tapecheck import config, validation
from tapecheck import recording as recordings
from tapecheck.errors import ConfigError, Problem
from tapecheck.recording import MOST_OBJECTS, Table
from tapecheck.recovery import analysis, contradictions, findings
from tapecheck.recovery.ages import Alert
from tapecheck.recovery.analysis import FailureSummary, RecoverySummary, SymbolAge, TierSummary
from tapecheck.recovery.contradictions import Contradiction
from tapecheck.recovery.experiment import ALL, FOLDER, NONE, Drill, chosen
from tapecheck.recovery.frames import definition, document
from tapecheck.recovery.objectives import RecoveryPlan
from tapecheck.recovery.recording import BARS, PROBES, Context, Recording
from tapecheck.recovery.timeline import PastTrial, Timed, time_trial
from tapecheck.runs import folders
from tapecheck.runs.results import Finding, Result
from tapecheck.target.file import Target
from tapecheck.target.opening import open_target
from tapecheck.validation import Analysis, Types
from tapecheck.verdict import written

SHOWN = 500  # newest trials of the history
FIGURES = ("rto", "freshness", "rpo", "alerts", "contradictions", "false_ages", "wrong_answers")  # of a summary, in result.json


class Settings(validation.Settings):
    """The recovery notebook's parameters."""

    profile: str = Field(min_length=1)
    drills: str = Field(min_length=1)
    trials: int = Field(default=0, ge=0, le=1000)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryResult(Result):
    """result.json of a recovery run."""

    definition: dict[str, Any]
    rto: dict[str, FailureSummary]
    freshness: dict[str, SymbolAge]
    rpo: dict[str, TierSummary]
    alerts: list[Alert]
    contradictions: list[Contradiction]
    false_ages: int | None
    wrong_answers: int | None

    def main_figures(self) -> list[str]:
        """Return the slowest recovery, and how many acknowledged bars were lost."""
        timed = [one for failure in self.rto.values() for one in failure.trials]
        return [text.removesuffix(".") for text in (_slowest(timed), _kept(self.rpo)) if text]


class Recovery(validation.Validation[RecoveryPlan, Recording, RecoverySummary, Settings]):
    """When something dies, how long until service is back, and which data is stale or lost."""

    name = "rto_rpo"
    keys = frozenset({"staleness", "rto", "rpo"})
    choices = ("profile", "trials")
    limiting = findings.LIMITING
    tables: ClassVar = {"probes": Table(PROBES), "bars": Table(BARS, may_be_null=("acked_ns", "found", "refetchable"), most=MOST_OBJECTS)}
    types = Types(context=Context, recording=Recording, settings=Settings, result=RecoveryResult)
    read_plan = staticmethod(contradictions.read_plan)
    summarize, judge, rules = staticmethod(analysis.summarize), staticmethod(analysis.check), staticmethod(findings.find)

    def begin(self, plan: RecoveryPlan, settings: Settings) -> Recording:
        """Audit and drill the target of the settings; with `drills: none` only define, for which no target is opened."""
        if settings.drills == NONE:
            from tapecheck.recovery import session

            return session.define()
        target, drills = open_target(settings.target), chosen(settings.drills, plan.left_out)
        return recordings.measured(
            self.name, target.name, lambda: self.measure(plan, target, out=settings.out, drills=drills), out=settings.out
        )

    def measure(self, plan: RecoveryPlan, target: Target, *, out: str = "", drills: Sequence[Drill] = ()) -> Recording:
        """Audit a target and do drills; see `session.run`, which says what it raises."""
        from tapecheck.recovery import session  # Chaos Toolkit, httpx and psycopg: paid by who measures

        return session.run(plan, target, drills, out=out)

    def notes(self, file: Path) -> list[str]:
        """Return each rule that a plan breaks, where, and the plan's explanation."""
        plans = config.read_profile(RecoveryPlan, file).values()
        places: dict[tuple[str, str], dict[str, None]] = {}
        for one in (one for plan in plans for one in contradictions.find(plan)):
            places.setdefault((one.rule, one.explained), {})[f"{one.where}: {one.finding}"] = None
        return [f"{config.shown(file)}: explained {rule}: {'; '.join(where)}\n  {why}" for (rule, why), where in places.items()]

    def asks_target(self, given: Mapping[str, Any]) -> bool:
        """Tell whether anything is audited or broken: definitions alone need no target."""
        return super().asks_target(given) and given.get("drills") != NONE

    def check_target(self, target: Target | None, plan: RecoveryPlan | None, given: Mapping[str, Any]) -> None:
        """Make sure that the drills are known, and that a target allows them and has what they need (a sandbox: known when it runs)."""
        drills = given.get("drills", ALL)
        if isinstance(drills, str):
            found = chosen(drills, plan.left_out if plan else ())
            if target is not None:
                from tapecheck.recovery.drill import check_allowed, check_code  # with Chaos Toolkit, HTTP client and database driver

                (check_allowed if target.kind == "external" else check_code)(target, found)

    def read_files(self, folder: Path, *, source: str) -> Recording:
        """Read the files of a recording; one of an older version, whose facts are not there, is refused."""
        if (folder / "acks.parquet").exists():
            got = "classes, tiers and fates as one plan had them, recorded by an older version, in place of what was measured"
            raise ConfigError([Problem(file=source, key="run", got=got, allowed="a run recorded by this version; measure again")])
        return super().read_files(folder, source=source)

    def say(self, recording: Recording, summary: RecoverySummary, found: Sequence[Finding]) -> str:
        """Return the slowest recovery, and what was lost."""
        limit = self.bottleneck(found)
        return " ".join(text for text in (f"{limit.finding}." if limit else "", _slowest(summary.timed), _kept(summary.rpo)) if text)

    def part(self, found: Analysis[RecoveryPlan, Recording, RecoverySummary]) -> dict[str, Any]:
        """Return the plan as it was, and the figures."""
        return {"definition": definition(found.plan), **{name: getattr(found.summary, name) for name in FIGURES}}

    def scope(self, settings: Settings, found: Analysis[RecoveryPlan, Recording, RecoverySummary] | None = None) -> str:
        """Say which part of the plan it is; what a profile leaves out of all drills was not run either."""
        if (part := super().scope(settings, found)) or found is None:
            return part
        done, every = len({one.drill for one in found.recording.context.trials}), len(list(FOLDER.glob("*.yaml")))
        return f"{done} of {every} drills" if done < every else ""

    def spans_ns(self, recording: Recording) -> Iterable[tuple[int, int]]:
        """Return when the drills ran."""
        return [(one.began_ns, one.ended_ns) for one in recording.context.trials]

    def failures(self, recording: Recording) -> Iterator[dict[str, Any]]:
        """Yield one plain record a bar that was lost."""
        for bar in recording.bars:
            if bar.fate == "lost":
                yield {name: value for name, value in dataclasses.asdict(bar).items() if value is not None}

    def files(self, found: Analysis[RecoveryPlan, Recording, RecoverySummary]) -> Mapping[str, Any]:
        """Return the journals of the drills, and the plan written out."""
        return {"journals.jsonl": found.recording.journals, "definition.md": document(found.plan, found.summary.contradictions)}


def _slowest(timed: Iterable[Timed]) -> str:
    """Say which valid trial took longest to recover in full, of those that did."""
    done = [(one.valid.recover_s, one.trial.drill) for one in timed if one.valid and one.valid.recover_s]
    worst_s, drill = max(done, key=lambda pair: pair[0], default=(0.0, ""))
    return f"Slowest recovery: {written(worst_s)} s ({drill})." if done else ""


def _kept(rpo: Mapping[str, TierSummary]) -> str:
    acknowledged = sum(tier.acknowledged_bars for tier in rpo.values())
    lost, delayed = sum(tier.lost_bars for tier in rpo.values()), sum(tier.delayed_bars for tier in rpo.values())
    more = f"; {delayed:,} came after a backup, and upstream still has them" if delayed else ""
    what = f"{lost or 'none'} {'were' if lost else 'was'} lost{more}"
    return f"Of {acknowledged:,} bars acknowledged during drills {what}." if acknowledged else ""


recovery = Recovery()


# ---- every drill ever run on a target ----


def history(recording: Recording, plan: RecoveryPlan, out: str) -> list[PastTrial]:
    """Return the valid trials of a recording and of all other runs of its target below an output folder, oldest first.

    Runs that a drill ended are among them: what was measured until then is kept unfinished, and timed by the plan.
    """
    known, found = {recording.context.run_id}, list(_past(recording, plan))

    def is_other(run: Result | Context) -> bool:
        is_new = run.target.name == recording.context.target.name and run.run_id not in known
        known.add(run.run_id)
        return is_new

    for run in folders.each(out, ("rto_rpo",)) if out else ():
        if run.head and run.head.reanalysis_of is None and is_other(run.head):
            timed = [one for failure in run.result["rto"].values() for one in failure["trials"]]
            found += _valid(run.head.started_at, TypeAdapter(list[Timed]).validate_python(timed))
    for folder in (config.outputs(out) / folders.UNFINISHED).glob("rto_rpo-*") if out else ():
        with contextlib.suppress(ConfigError):  # others are worth showing
            left = recovery.read(folder)
            found += _past(left, plan) if is_other(left.context) else ()
    return sorted(found, key=lambda one: one.at)[-SHOWN:]


def _past(recording: Recording, plan: RecoveryPlan) -> Iterator[PastTrial]:
    return _valid(recording.context.started_at, (time_trial(recording, trial, plan) for trial in recording.context.trials))


def _valid(at: datetime, timed: Iterable[Timed]) -> Iterator[PastTrial]:
    for one in timed:
        if one.valid and one.valid.recover_s is not None:
            yield PastTrial(at=at, failure=one.trial.failure, recover_s=one.valid.recover_s)
