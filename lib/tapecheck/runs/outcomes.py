"""How runs ended: what a notebook shows of the one that it recorded, and what the terminal prints of several. It runs nothing."""

import os
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

from tapecheck import config, notebook
from tapecheck.runs.results import Result
from tapecheck.verdict import Verdict, cut, exit_code, words

CRASHED = 3  # the exit code of a notebook that ended early
WIDTH = 120  # columns, on a terminal or piped
MOST_MISSED = 6  # objectives of one validation that are printed; its report has the others
SENTENCE = 300  # characters of one of them
_ENDED = {2: "NO DATA", 4: "ERROR"}  # a notebook that recorded no run, by exit code; else it crashed
_SEVERITY = (0, 2, 1, 3, 4)  # of exit codes


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A run that is done: its result, where it lies (None when it was not to be written), and why it lacks which charts.

    In a notebook it displays as one line, and carries the verdict to a batch in a MIME type of its own.
    """

    MIME: ClassVar[str] = "application/vnd.tapecheck.run+json"

    result: Result
    folder: Path | None
    not_drawn: Mapping[str, str] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """Its verdict."""
        return self.result.verdict

    @property
    def run_id(self) -> str:
        """The run that it is recorded as."""
        return self.result.run_id

    def _ipython_display_(self) -> None:
        notebook.show(recorded=self._repr_mimebundle_())

    def brief(self) -> dict[str, Any]:
        """Return what a terminal shows of it, as plain data."""
        result = self.result
        is_judged = bool(result.reanalysis_of) or result.parameters.get("run", "new") != "new"
        return {
            "folder": None if self.folder is None else config.shown(self.folder),
            "validation": result.validation,
            "run_id": result.run_id,
            "verdict": str(result.verdict),
            "checks": Counter(sorted(str(check.verdict) for check in result.checks)),
            "headline": result.headline,
            "figures": result.main_figures(),
            "missed": result.missed(),
            "measured_s": None if is_judged else result.measured_s,  # what was measured before is no part of this run's time
            "is_judged": is_judged,
            "not_drawn": [f"the chart {name} could not be drawn: {why}" for name, why in self.not_drawn.items()],
        }

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        brief = self.brief()
        where = f"recorded in {brief['folder']}" if brief["folder"] else "not recorded (out is empty)"
        said = "; ".join([f"{self.result.validation}: {self.verdict}, {where}", *brief["not_drawn"]])
        link = {"text/html": _linked(said, brief["folder"], self.folder)} if self.folder else {}
        return {"text/plain": said, **link, self.MIME: brief}


def _linked(said: str, shown: str, folder: Path) -> str:
    """Return a text in which the path of a run folder leads to its report, from where this notebook lies."""
    link = f'<a href="{escape(quote(os.path.relpath(folder)))}/report.html">{escape(shown)}</a>'
    return escape(said).replace(escape(shown), link, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one notebook ended; `folder` holds the run, or the crashed notebook, and `brief` is what `Recorded` says of the run.

    `starts` counts the starts of a kernel that it took; where the last one failed too, it is not started, and nothing of it was done.
    """

    validation: str
    exit_code: int
    duration_s: float
    message: str = ""
    folder: Path | None = None
    brief: Mapping[str, Any] = field(default_factory=dict)
    is_started: bool = True
    starts: int = 1

    @property
    def verdict(self) -> Verdict | None:
        """The verdict, if it recorded one."""
        return Verdict(self.brief["verdict"]) if self.brief else None

    @property
    def missed(self) -> list[str]:
        """Which charts are missing, and of each objective that is not met why, and what to do."""
        return [*self.brief.get("not_drawn", ()), *self.brief.get("missed", ())]

    @property
    def measured_s(self) -> float | None:
        """How long it measured, where that is known."""
        return self.brief.get("measured_s")

    def row(self) -> tuple[str, ...]:
        """Return the cells of its row: the verdict or how it ended without one, how many objectives were met, how long it measured."""
        checks, spent = self.brief.get("checks", {}), f"{self.duration_s:.0f} s"
        title = words(self.verdict).upper() if self.verdict else _ENDED.get(self.exit_code, "CRASHED" if self.is_started else "NOT RUN")
        met = f"{checks.get(Verdict.PASS, 0)} of {sum(checks.values())}" if self.verdict else ""
        return self.validation, title, met, spent if self.measured_s is None else f"{self.measured_s:.0f} of {spent}"


def code_of(brief: Mapping[str, Any]) -> int:
    """Return the exit code of a run that is recorded; one that lacks a chart is a crash."""
    return CRASHED if brief["not_drawn"] else exit_code(Verdict(brief["verdict"]))


def worst(outcomes: Sequence[Outcome]) -> int:
    """Return the exit code of several: the most severe of the notebooks' (4 > 3 > 1 > 2 > 0)."""
    return max((one.exit_code for one in outcomes), key=_SEVERITY.index, default=0)


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the verdicts with their main figures as an aligned table of at most `WIDTH` columns."""
    lines: list[tuple[str, ...]] = [("validation", "verdict", "met", "measured", "main figures")]
    widths = [max(map(len, column)) for column in zip(lines[0][:-1], *(one.row() for one in outcomes), strict=True)]
    room = WIDTH - sum(widths) - 2 * len(widths)
    for one in outcomes:
        figures = one.brief.get("figures") or (one.message or "-",)
        said = [line for figure in figures for line in textwrap.wrap(cut(figure, 3 * room), room)]
        lines += [(*(one.row() if n == 0 else ("",) * len(widths)), line) for n, line in enumerate(said)]
    written = ("  ".join([*(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=False)), cells[-1]]) for cells in lines)
    return "\n".join(line.rstrip() for line in written)


def measured(outcomes: Sequence[Outcome], wall_s: float) -> str:
    """Say how much of the wall time was measuring; of runs that were analysed again, nothing is said."""
    known = [one.measured_s for one in outcomes if one.measured_s is not None]
    return f"{sum(known):.0f} of {wall_s:.0f} s were measurement" if known else f"took {wall_s:.0f} s"


def explanation(outcomes: Sequence[Outcome]) -> str:
    """Say in plain words what is not a pass and what to do, a line each, and last what all of it means."""
    return "\n".join([*(text for one in outcomes for text in _not_met(one)), _conclusion(outcomes)])


def _not_met(one: Outcome) -> Iterator[str]:
    if one.verdict != Verdict.PASS and one.brief.get("headline"):
        yield cut(f"{one.validation}: {one.brief['headline']}", SENTENCE)
    if one.verdict is None:
        yield f"{one.validation}: {one.message}" + (f"; see {one.folder / 'notebook.ipynb'}" if one.folder else "")
    for text in one.missed[:MOST_MISSED]:
        yield cut(f"{one.validation}: {text.removeprefix(f'{one.validation}: ')}", SENTENCE)
    if len(one.missed) > MOST_MISSED:
        yield f"{one.validation}: and {len(one.missed) - MOST_MISSED} more; see {one.folder / 'report.html' if one.folder else 'above'}"


def _conclusion(outcomes: Sequence[Outcome]) -> str:
    code = worst(outcomes)
    names = ", ".join(one.validation for one in outcomes if one.exit_code == code)
    if code in (0, 1, 2) and outcomes and all(one.brief.get("is_judged") for one in outcomes if one.exit_code == code):
        said = {0: "Every objective is met", 1: f"Objectives missed ({names})", 2: f"No verdict ({names}), not everything could be judged"}
        return f"{said[code]}: a judgement of what was recorded before; nothing was measured."
    return {
        0: "Every objective is met.",
        1: f"Objectives missed ({names}): find the cause above or in the report, fix it, and run it again.",
        2: f"No verdict ({names}): not everything could be judged; do what the lines above say, and run it again.",
        3: f"Ended early, or without a chart ({names}): the reason stands above, the cell in the notebook; mend that, and run it again.",
        4: f"Not run ({names}): correct what the lines above name, and run it again.",
    }[code]
