"""What all reports are made from: how each recorded run begins, and what stands for each validation. It writes nothing."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tapecheck import config, text, verdict
from tapecheck.runs import folders, history
from tapecheck.runs.folders import Run
from tapecheck.runs.results import TITLES, Result
from tapecheck.statistics.paired import Ratio
from tapecheck.verdict import Check, Verdict, overall, words

MOST_FAILURES = 2  # kinds of failure that a summary names
SPARKS = 30  # so many runs in a sparkline


@dataclass(frozen=True, slots=True, kw_only=True)
class MainFigure:
    """A metric as its path in result.json, in words, and in its unit."""

    path: str
    name: str
    unit: str


MAIN: Mapping[str, tuple[MainFigure, ...]] = {  # the first that a run has
    "load": (
        MainFigure(path="capacity.knee_rps", name="capacity", unit="requests/s"),
        MainFigure(path="scenarios.*.response_time_ms.p95.value", name="p95 of the slowest scenario", unit="ms"),
    ),
    "backfill": (MainFigure(path="totals.records_per_s", name="throughput", unit="records/s"),),
    "observe": (MainFigure(path="duration_s", name="wall time", unit="s"),),
    "rto_rpo": (MainFigure(path="rto.*.recover_s.max", name="slowest recovery", unit="s"),),
}
PICTURES: Mapping[str, tuple[str, ...]] = {  # the chart that says most, the first that a run has
    "load": ("capacity", "percentiles"), "backfill": ("stages",), "observe": ("parts",), "rto_rpo": ("rto",), "compare": ("ratios",),
}  # fmt: skip
CHOSEN = ("scenarios", "symbols", "timeframes", "drills", "proofs")  # parameters of a run that does not say its scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A run: where it lies below the output folder, as a link, how its result begins, its main metric, and of a comparison its proofs.

    `failures` say what failed most, in the order of how often; `picture` is its chart that says most, if it has one; `sure` says how far
    its main metric is proven, where that is less than all of it.
    """

    folder: Path
    link: str
    result: Result
    figure: MainFigure | None
    main: float | None
    proofs: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    picture: Path | None = None
    sure: str = ""

    @property
    def code(self) -> str:
        """Which code measured it."""
        return f"tapecheck {history.code(self.result.environment)}" if self.is_ours else "another tool"

    @property
    def is_ours(self) -> bool:
        """Whether it was measured here; else it is what another tool's file said."""
        return "tapecheck" in self.result.environment.versions

    @property
    def scope(self) -> str:
        """Why it does not stand for its validation: which part of the plan it is of, or of which run an analysis; "" if it does."""
        given = {name: str(value) for name, value in self.result.parameters.items() if name in CHOSEN and value != "all"}
        part = "definition only" if given.get("drills") == "none" else ", ".join(f"{name}: {value}" for name, value in given.items())
        again = "re-analysis" if self.result.reanalysis_of and self.is_ours else ""
        return ", ".join(filter(None, (part if self.result.scope is None else self.result.scope, again)))

    @property
    def is_all_of_its_profile(self) -> bool:
        """Whether nothing but the profile of its plan left something out, so that it stands in where no whole run does."""
        chosen = (self.result.parameters.get(name, "all") for name in CHOSEN)
        return self.result.reanalysis_of is None and all(value == "all" for value in chosen)

    @property
    def in_words(self) -> str:
        """Its main metric with its unit, and how far that is proven; "" if it has none."""
        return f"{number(self.main)} {self.figure.unit}{f' ({self.sure})' if self.sure else ''}" if self.figure else ""

    @property
    def chosen(self) -> Mapping[str, frozenset[str]]:
        """What its parameters chose from the plan, by their names."""
        given = ((name, str(self.result.parameters.get(name, "all"))) for name in CHOSEN)
        return {name: frozenset(map(str.strip, value.split(","))) for name, value in given if value != "all"}

    def covers(self, other: "Entry") -> bool:
        """Whether its parameters chose all that those of another run of the same validation did."""
        return all(name in other.chosen and other.chosen[name] <= values for name, values in self.chosen.items())

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
    """How a validation of a target stands: by its run that was measured last, or None if there is none.

    A run of a part of its plan stands for itself alone, until a newer run has all that it chose, and so does an analysis of an earlier
    run, while it is the newest; `whole` is False then. `trend` holds the main metric of that run and the runs like it, oldest first;
    `since` the attempts after it that left no result; `scope` which part it is.
    """

    validation: str
    name: str
    entry: Entry | None
    trend: tuple[float, ...]
    since: tuple[Broken, ...]
    scope: str = ""

    @property
    def verdict(self) -> Verdict:
        """The verdict of that run."""
        return self.entry.result.verdict if self.entry else Verdict.NO_DATA

    @property
    def whole(self) -> bool:
        """Whether its run stands for all of its validation."""
        return not self.scope

    @property
    def title(self) -> str:
        """Its validation in words, and which part of it."""
        return TITLES[self.validation] + (f", {self.scope}" if self.scope else "")

    @property
    def main(self) -> MainFigure | None:
        """The main metric, if the run has it."""
        return self.entry.figure if self.entry else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """An output folder: its runs, newest first, what cannot be read, and how each validation of each target stands."""

    entries: tuple[Entry, ...]
    broken: tuple[Broken, ...]
    standings: tuple[Standing, ...]

    @property
    def verdict(self) -> Verdict:
        """The verdict over all that stands there; an attempt that left no result is no data."""
        since = [Verdict.NO_DATA for standing in self.standings if standing.since]
        return overall([*(standing.verdict for standing in self.standings), *since])


def read(out: Path) -> Overview:
    """Read how every run below an output folder begins, one at a time: a thousand whole results do not fit into memory."""
    found = [_read(run, out) for run in folders.each(out)]
    entries = [one for one in found if isinstance(one, Entry)]
    broken = [one for one in found if isinstance(one, Broken)]
    attempts = [*broken, *_unfinished(out)]
    return Overview(entries=tuple(entries), broken=tuple(broken), standings=tuple(_standings(entries, attempts)))


def _read(run: Run, out: Path) -> Entry | Broken:
    link = quote(os.path.relpath(run.folder, out))
    if run.head is None:
        return Broken(validation=run.folder.parent.name, run_id=run.folder.name, link=link, problem=run.problem or "")
    figure, value = _main(run.head, run.result)
    proofs = {**run.result.get("proofs", {}), **run.result.get("method_check", {})}
    said = tuple(f"{name}: {_proof(one)}" for name, one in proofs.items())
    failures = tuple(map(_failure, run.result.get("failures", ())[:MOST_FAILURES]))
    sweep = run.result.get("capacity")  # without one its chart is empty
    pictures = (run.folder / f"{name}.png" for name in PICTURES[run.head.validation] if name != "capacity" or sweep)
    picture = next((one for one in pictures if one.exists()), None)
    return Entry(
        folder=run.folder, link=link, result=run.head, figure=figure, main=value, proofs=said, failures=failures, picture=picture,
        sure=_sure(figure, sweep),
    )  # fmt: skip


def _sure(figure: MainFigure | None, sweep: Mapping[str, Any] | None) -> str:
    """Say how far a capacity is proven, where that is less than all of it."""
    if figure is None or sweep is None or not figure.path.startswith("capacity") or sweep.get("proven_rps") == sweep.get("knee_rps"):
        return ""
    return f"proven to {number(sweep['proven_rps'])}" if sweep.get("proven_rps") else words(Verdict.NOT_PROVEN)


def _failure(one: Mapping[str, Any]) -> str:
    """Say how often requests failed alike, and when where that is known."""
    when = "" if one["first_s"] is None else f", from {number(one['first_s'])} to {number(one['last_s'])} s"
    words = "another status than expected" if one["kind"] == "status" else str(one["kind"]).replace("_", " ")
    kind = f"HTTP {one['status']}" if one["kind"] == "status" and one["status"] else words  # another tool may not say which status
    share = verdict.share(one["ratio"])
    return f"{one['scenario']}: {one['count']:,} requests failed ({share}): {kind}{when}"


def _main(head: Result, result: Mapping[str, Any]) -> tuple[MainFigure | None, float | None]:
    """Return the first main metric that a run has and that is no invalid measurement; a sweep leaves its invalid levels out itself."""
    for one in MAIN.get(head.validation, ()):
        value = history.value_at(result, one.path)
        if value is not None and (one.path.startswith("capacity") or not history.doubtful(head, one.path)):
            return one, value
    return None, None


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


def _standings(entries: Sequence[Entry], attempts: Sequence[Broken]) -> Iterator[Standing]:
    """Yield what stands for each validation of each target, the target of the newest run first."""
    left = list(attempts)
    for n, target in enumerate(dict.fromkeys(entry.result.target.name for entry in entries)):
        for validation in config.VALIDATIONS:
            every = [e for e in entries if (e.result.validation, e.result.target.name) == (validation, target)]
            own = [entry for entry in every if entry.is_ours] or every  # what another tool says does not hide what was measured here
            for entry in (shown := _shown(own)):
                newest = max(one.result.run_id for one in own)
                since = tuple(one for one in left if one.validation == validation and one.run_id > newest)
                left = [one for one in left if one.validation != validation]
                scope, trend = _scope(entry, shown), _trend(entry, own)
                about = ", ".join(filter(None, (scope, target if n else "")))
                name = validation + (f" ({about})" if about else "")
                yield Standing(validation=validation, name=name, entry=entry, scope=scope, trend=trend, since=since)
    for validation in config.VALIDATIONS:
        if since := tuple(one for one in left if one.validation == validation):
            yield Standing(validation=validation, name=validation, entry=None, trend=(), since=since)


def _shown(own: Sequence[Entry]) -> list[Entry]:
    """Return the last run of the whole, else of all of a profile, and after it the newest of each part, or analysed again."""
    fullest = [e for e in own if not e.scope] or [e for e in own if e.is_all_of_its_profile]
    whole = max(fullest, key=lambda e: (e.result.started_at, e.result.run_id), default=None)
    found = [] if whole is None else [whole]
    newer = (e for e in own if e.scope and e not in found and (whole is None or e.result.run_id > whole.result.run_id))
    measured: list[Entry] = []
    for one in sorted(newer, key=lambda e: e.result.run_id, reverse=True):
        is_measured = one.result.reanalysis_of is None and "none" not in one.chosen.get("drills", ())
        is_left = is_measured and not any(other.covers(one) for other in measured)
        found += [one] if is_left or one.result.run_id == max(e.result.run_id for e in own) else []
        measured += [one] if is_left else []
    return found


def _scope(entry: Entry, shown: Sequence[Entry]) -> str:
    """Say which part a run is of; beside another of the same words, what was chosen."""
    is_alone = sum(one.scope == entry.scope for one in shown) == 1
    chosen = "; ".join(", ".join(sorted(values)) for values in entry.chosen.values())
    return entry.scope if is_alone or not chosen else f"{entry.scope}: {chosen}"


def _trend(last: Entry, own: Sequence[Entry]) -> tuple[float, ...]:
    """Return the main metric of a run and of the runs like it before, oldest first; of each measurement once."""
    like = [e for e in own if e.result.reanalysis_of is None and e.result.started_at < last.result.started_at and e.figure == last.figure]
    alike = sorted((e for e in like if history.condition(e.result) == history.condition(last.result)), key=lambda e: e.result.started_at)
    return tuple(entry.main for entry in (*alike, last) if entry.main is not None)[-SPARKS:]


# ---- a list ----

HEADINGS = ("run", "started (UTC)", "verdict", "target", "main figure")


def listing(overview: Overview) -> str:
    """Write all runs as an aligned table, the newest first: each with its folder, and with its problem where it cannot be read."""
    rows = [(f"{one.result.validation}/{one.folder.name}", _line(one)) for one in overview.entries]
    rows += [(one.link, ("", "", "", one.problem)) for one in overview.broken]
    cells = [
        HEADINGS,
        *((text.line(name), *map(text.line, line)) for name, line in sorted(rows, key=lambda row: row[0].rpartition("/")[2], reverse=True)),
    ]
    widths = [max(map(len, column)) for column in list(zip(*cells, strict=True))[:-1]]
    return "\n".join(
        "  ".join([*(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=False)), line[-1]]).rstrip() for line in cells
    )


def _line(entry: Entry) -> tuple[str, str, str, str]:
    figure = f"{entry.figure.name} {entry.in_words}" if entry.figure else f"{entry.met} objectives met"
    scope = f" ({entry.scope})" if entry.scope else ""
    return f"{entry.result.started_at:%Y-%m-%d %H:%M:%S}", words(entry.result.verdict) + scope, entry.result.target.name, figure


# ---- wording ----


def number(value: float | str | None) -> str:
    """Write a figure as a person reads it; — for none."""
    return value if isinstance(value, str) else verdict.number(value) or "—"
