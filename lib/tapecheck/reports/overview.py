"""What all reports are made from: how each recorded run begins, and the last of each validation. It writes nothing."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tapecheck import config, verdict
from tapecheck.runs import folders, history
from tapecheck.runs.folders import Run
from tapecheck.runs.results import Result
from tapecheck.statistics.paired import Ratio
from tapecheck.verdict import Check, Verdict, overall, words

SPARKS = 30  # so many runs in a sparkline


@dataclass(frozen=True, slots=True, kw_only=True)
class MainFigure:
    """A metric as its path in result.json, in words, and in its unit."""

    path: str
    name: str
    unit: str


MAIN: Mapping[str, MainFigure] = {
    "load": MainFigure(path="scenarios.*.response_time_ms.p95.value", name="p95 of the slowest scenario", unit="ms"),
    "backfill": MainFigure(path="totals.records_per_s", name="throughput", unit="records/s"),
    "observe": MainFigure(path="duration_s", name="wall time", unit="s"),
    "rto_rpo": MainFigure(path="rto.*.recover_s.max", name="slowest recovery", unit="s"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A run: where it lies below the output folder, as a link, how its result begins, its main metric, and of a comparison its proofs."""

    folder: Path
    link: str
    result: Result
    main: float | None
    proofs: tuple[str, ...] = ()

    @property
    def code(self) -> str:
        """Which code measured it."""
        return f"tapecheck {history.code(self.result.environment)}" if self.is_ours else "another tool"

    @property
    def is_ours(self) -> bool:
        """Whether it was measured here; else it is what another tool's file said."""
        return "tapecheck" in self.result.environment.versions

    @property
    def report(self) -> bool:
        """Whether an HTML report lies in its folder."""
        return (self.folder / "report.html").exists()

    @property
    def missed(self) -> list[Check]:
        """The checks that did not pass, as they come."""
        return [check for check in self.result.checks if check.verdict != Verdict.PASS]

    @property
    def met(self) -> str:
        """How many of its checks passed."""
        return f"{len(self.result.checks) - len(self.missed)} of {len(self.result.checks)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A run folder that cannot be read, or an attempt that recorded nothing, with the reason."""

    validation: str
    run_id: str
    link: str
    problem: str

    def __str__(self) -> str:
        return f"{self.link}: {self.problem}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a validation stands: its run that was measured last, of several analyses the newest, or None if there is none.

    `trend` holds the main metric of that run and the runs like it, oldest first; `since` the attempts after it that left no result.
    """

    validation: str
    entry: Entry | None
    trend: tuple[float, ...]
    since: tuple[Broken, ...]

    @property
    def verdict(self) -> Verdict:
        """The verdict of that run."""
        return self.entry.result.verdict if self.entry else Verdict.NO_DATA

    @property
    def main(self) -> MainFigure | None:
        """The main metric, if the run has it."""
        return MAIN.get(self.validation) if self.trend else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """An output folder: its runs, newest first, what cannot be read, and how each validation stands."""

    entries: tuple[Entry, ...]
    broken: tuple[Broken, ...]
    standings: tuple[Standing, ...]

    @property
    def verdict(self) -> Verdict:
        """The verdict over all validations; an attempt that left no result is no data."""
        since = [Verdict.NO_DATA for standing in self.standings if standing.since]
        return overall([*(standing.verdict for standing in self.standings), *since])


def read(out: Path) -> Overview:
    """Read how every run below an output folder begins, one at a time: a thousand whole results do not fit into memory."""
    found = [_read(run, out) for run in folders.each(out)]
    entries = [one for one in found if isinstance(one, Entry)]
    broken = [one for one in found if isinstance(one, Broken)]
    attempts = [*broken, *_unfinished(out)]
    standings = (_standing(validation, entries, attempts) for validation in config.VALIDATIONS)
    return Overview(entries=tuple(entries), broken=tuple(broken), standings=tuple(one for one in standings if one.entry or one.since))


def _read(run: Run, out: Path) -> Entry | Broken:
    link = quote(os.path.relpath(run.folder, out))
    if run.head is None:
        return Broken(validation=run.folder.parent.name, run_id=run.folder.name, link=link, problem=run.problem or "")
    main = MAIN.get(run.head.validation)
    value = None if main is None or history.doubtful(run.head, main.path) else history.value_at(run.result, main.path)
    proofs = {**run.result.get("proofs", {}), **run.result.get("method_check", {})}
    said = tuple(f"{name}: {_proof(one)}" for name, one in proofs.items())
    return Entry(folder=run.folder, link=link, result=run.head, main=value, proofs=said)


def _proof(proof: Mapping[str, Any]) -> str:
    """Say how the first metric of a proof changed, in its own direction, and what was expected and predicted."""
    one = proof["differences"][0]
    change = Ratio(**one["ratio"]).change(more_is_better=one["better"] == "higher") if one["ratio"] else "not measured"
    hoped = {"expected": proof["expected_low_ratio"], "predicted": proof["predicted_ratio"]}
    more = " and ".join(f"{-value:+.0%} {what}" for what, value in hoped.items() if value is not None)
    return f"{words(one['change'])}, {one['metric']} {change}{f', where {more}' if more else ''}"


def _unfinished(out: Path) -> Iterator[Broken]:
    """Yield the notebooks that ended without recording a run."""
    for folder in sorted((out / "unfinished").glob("*-*")):
        validation, _, run_id = folder.name.partition("-")
        yield Broken(validation=validation, run_id=run_id, link=quote(f"unfinished/{folder.name}"), problem="the notebook ended early")


def _standing(validation: str, entries: Sequence[Entry], attempts: Sequence[Broken]) -> Standing:
    every = [entry for entry in entries if entry.result.validation == validation]
    own = [entry for entry in every if entry.is_ours] or every  # what another tool's file says does not hide what was measured here
    own.sort(key=lambda entry: (entry.result.started_at, entry.result.run_id))
    last, newest = own[-1] if own else None, max((entry.result.run_id for entry in own), default="")
    since = tuple(one for one in attempts if one.validation == validation and one.run_id > newest)
    alike = [e for e in own if e.result.reanalysis_of is None and last and history.condition(e.result) == history.condition(last.result)]
    measured = [entry for entry in alike if last and entry.result.started_at < last.result.started_at]
    trend = [entry.main for entry in (*measured, last) if entry and entry.main is not None] if last and last.main is not None else []
    return Standing(validation=validation, entry=last, trend=tuple(trend[-SPARKS:]), since=since)


# ---- wording ----


def number(value: float | str | None) -> str:
    """Write a figure as a person reads it; — for none."""
    return value if isinstance(value, str) else verdict.number(value) or "—"


def moment(at: datetime) -> str:
    """Write a time."""
    return at.strftime("%Y-%m-%d %H:%M:%S UTC")
