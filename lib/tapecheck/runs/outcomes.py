"""How runs ended: what a notebook shows of the one that it recorded, and what the terminal prints of several. It runs nothing."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from tapecheck import config, notebook
from tapecheck.runs.results import Result
from tapecheck.verdict import Check, Verdict, cut, words

CRASHED = 3  # the exit code of a notebook that ended early
WIDTH = 120  # columns, on a terminal or piped
MOST_MISSED = 6  # objectives of one validation that are printed; its report has the others
SENTENCE = 300  # characters of one of them
_ENDED = {2: "NO DATA", 4: "ERROR"}  # a notebook that recorded no run, by exit code; else it crashed
_SEVERITY = (0, 2, 1, 3, 4)  # of exit codes


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A run that is done: where it lies (None when it was not to be written), what it found, and which charts it lacks, with the reason.

    In a notebook it displays as one line, and carries the verdict to a batch in a MIME type of its own.
    """

    MIME: ClassVar[str] = "application/vnd.tapecheck.run+json"

    folder: Path | None
    validation: str
    run_id: str
    verdict: Verdict
    checks: list[Check] = field(default_factory=list)
    headline: str = ""
    figures: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    measured_s: float | None = None
    not_drawn: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, result: Result, folder: Path | None, not_drawn: Mapping[str, str]) -> Self:
        """Return how a run of a result ended; what was measured before is no part of this run's time."""
        return cls(
            folder=folder,
            validation=result.validation,
            run_id=result.run_id,
            verdict=result.verdict,
            checks=result.checks,
            headline=result.headline,
            figures=result.main_figures(),
            missed=result.missed(),
            measured_s=None if result.reanalysis_of else result.measured_s,
            not_drawn=not_drawn,
        )

    def _ipython_display_(self) -> None:
        notebook.show(recorded=self._repr_mimebundle_())

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        without = [f"the chart {name} could not be drawn: {why}" for name, why in self.not_drawn.items()]
        where = "not recorded (out is empty)" if self.folder is None else f"recorded in {config.shown(self.folder)}"
        brief = {
            "folder": None if self.folder is None else config.shown(self.folder),
            "validation": self.validation,
            "run_id": self.run_id,
            "verdict": str(self.verdict),
            "checks": {v: sum(c.verdict == v for c in self.checks) for v in sorted({str(c.verdict) for c in self.checks})},
            "headline": self.headline,
            "figures": self.figures,
            "missed": self.missed,
            "measured_s": self.measured_s,
            "not_drawn": without,
        }
        return {"text/plain": "; ".join([f"{self.validation}: {self.verdict}, {where}", *without]), self.MIME: brief}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one notebook ended; `folder` holds the run, or the crashed notebook.

    `figures` are the main figures of its result, `missed` says of each objective that is not met why, and what to do;
    `headline` is what was found beyond the verdict.
    """

    validation: str
    exit_code: int
    duration_s: float
    message: str
    verdict: Verdict | None = None
    checks: Mapping[str, int] = field(default_factory=dict)
    figures: Sequence[str] = ()
    missed: Sequence[str] = ()
    headline: str = ""
    measured_s: float | None = None
    folder: Path | None = None

    @property
    def title(self) -> str:
        """The verdict, or how it ended without one."""
        return words(self.verdict).upper() if self.verdict else _ENDED.get(self.exit_code, "CRASHED")

    @property
    def met(self) -> str:
        """How many of its objectives were met; empty without a verdict."""
        return f"{self.checks.get(Verdict.PASS, 0)} of {sum(self.checks.values())}" if self.verdict else ""

    @property
    def measured(self) -> str:
        """How much of its time it measured, where that is known."""
        spent = f"{self.duration_s:.0f} s"
        return spent if self.measured_s is None else f"{self.measured_s:.0f} of {spent}"


def worst(outcomes: Sequence[Outcome]) -> int:
    """Return the exit code of several: the most severe of the notebooks' (4 > 3 > 1 > 2 > 0)."""
    return max((one.exit_code for one in outcomes), key=_SEVERITY.index, default=0)


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the verdicts with their main figures as an aligned table of at most `WIDTH` columns."""
    heads = ("validation", "verdict", "met", "measured", "main figures")
    rows = [(one.validation, one.title, one.met, one.measured) for one in outcomes]
    widths = [max(map(len, column)) for column in zip(heads[:-1], *rows, strict=True)]
    room = WIDTH - sum(widths) - 2 * len(widths)
    lines = [_line((*heads[:-1], heads[-1]), widths)]
    for one, row in zip(outcomes, rows, strict=True):
        said = [line for figure in one.figures or (one.message or "-",) for line in textwrap.wrap(cut(figure, 3 * room), room)]
        lines += [_line((*cells, line), widths) for cells, line in zip([row, *[("",) * len(row)] * len(said)], said, strict=False)]
    return "\n".join(lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join([*(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=False)), cells[-1]]).rstrip()


def measured(outcomes: Sequence[Outcome], wall_s: float) -> str:
    """Say how much of the wall time was measuring; of runs that were analysed again, nothing is said."""
    known = [one.measured_s for one in outcomes if one.measured_s is not None]
    return f"measured {sum(known):.0f} of {wall_s:.0f} s" if known else f"took {wall_s:.0f} s"


def explanation(outcomes: Sequence[Outcome]) -> str:
    """Say in plain words what is not a pass and what to do, a line each, and last what all of it means."""
    return "\n".join([*(text for one in outcomes for text in _not_met(one)), _conclusion(outcomes)])


def _not_met(one: Outcome) -> Iterator[str]:
    if one.verdict != Verdict.PASS and one.headline:
        yield cut(f"{one.validation}: {one.headline}", SENTENCE)
    if one.verdict is None:
        where = f"; see {one.folder / 'notebook.ipynb'}" if one.folder else ""
        yield f"{one.validation}: {one.message}{where}"
    for text in one.missed[:MOST_MISSED]:
        yield cut(f"{one.validation}: {text.removeprefix(f'{one.validation}: ')}", SENTENCE)
    if len(one.missed) > MOST_MISSED:
        yield f"{one.validation}: and {len(one.missed) - MOST_MISSED} more; see {one.folder / 'report.html' if one.folder else 'above'}"


def _conclusion(outcomes: Sequence[Outcome]) -> str:
    code = worst(outcomes)
    names = ", ".join(one.validation for one in outcomes if one.exit_code == code)
    return {
        0: "Every objective is met.",
        1: f"Objectives missed ({names}): find the cause above or in the report, fix it, and run it again.",
        2: f"No verdict ({names}): not everything could be judged; do what the lines above say, and run it again.",
        3: f"Ended early, or without a chart ({names}): the reason stands above, the cell in the notebook; mend that, and run it again.",
        4: f"Not run ({names}): correct what the lines above name, and run it again.",
    }[code]
