"""The history of a metric: what each recorded run says of it, and from which runs on it says something else. It draws nothing."""

import difflib
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tapecheck import config, text
from tapecheck.errors import ConfigError, Problem
from tapecheck.runs import folders
from tapecheck.runs.results import Environment, Result
from tapecheck.statistics import changepoints
from tapecheck.statistics.changepoints import Shift
from tapecheck.verdict import Verdict, counted

ANY = "*"
_NOT_ASKED = ("target", "plan", "run", "out")  # parameters that say where from and where to, not what is measured
COMMIT_CHARACTERS = 7
CHANGED = "*"  # after a commit


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Condition:
    """What runs must have in common before their figures may be compared."""

    validation: str
    target: str
    host: str
    plan: str
    asked: str

    def __str__(self) -> str:
        return f"{self.validation} of {self.target} from {self.host}, {self.plan}{', ' if self.asked else ''}{self.asked}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What one run says of a metric, and by which code."""

    run_id: str
    started_at: datetime
    value: float
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """The runs of one condition, oldest first, and where their level shifts."""

    condition: Condition
    points: tuple[Point, ...]
    shifts: tuple[Shift, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """A metric over all runs of an output folder; `left_out` counts the runs that have no part in it, by the reason."""

    metric: str
    trends: tuple[Trend, ...]
    left_out: Mapping[str, int]

    @property
    def n(self) -> int:
        """How many runs there are in it."""
        return sum(len(trend.points) for trend in self.trends)


def value_at(data: Any, metric: str) -> float | None:
    """Return the number at a dotted path, or None where there is none.

    A `*` stands for every key, and the largest number counts; a key may itself have dots, as BRK.B has; in a list, a step is a position.
    """
    return max(_values(data, tuple(metric.split("."))), default=None)


def _values(data: Any, steps: tuple[str, ...]) -> Iterator[float]:
    if not steps and isinstance(data, int | float) and not isinstance(data, bool):
        yield float(data)
    inside = {str(i): inner for i, inner in enumerate(data)} if isinstance(data, list) else data
    for n in range(1, len(steps) + 1) if isinstance(inside, Mapping) else ():
        key = ".".join(steps[:n])
        for inner in inside.values() if key == ANY else [inside[key]] if key in inside else ():
            yield from _values(inner, steps[n:])


def paths(data: Any, begin: str = "") -> Iterator[str]:
    """Yield the path of every number in a result."""
    if isinstance(data, Mapping):
        for key, inner in data.items():
            yield from paths(inner, f"{begin}.{key}" if begin else str(key))
    elif isinstance(data, int | float) and not isinstance(data, bool):
        yield begin


def condition(result: Result) -> Condition:
    """Return what a run must have in common with another that it is compared with."""
    given = ((name, value) for name, value in sorted(result.parameters.items()) if name not in _NOT_ASKED)
    asked = ", ".join(f"{name} {value}" for name, value in given if value is False or value not in (0, ""))  # 0 and "" are as planned
    plan = " ".join([Path(str(result.parameters.get("plan", ""))).name, *([result.plan_digest] if result.plan_digest else [])])
    return Condition(validation=result.validation, target=result.target.name, host=result.environment.host, plan=plan, asked=asked)


def code(environment: Environment) -> str:
    """Name the code of a run by version and commit, such as 0.1.0 45dcabf*; a star means that it was changed since that commit."""
    commit = (environment.git_commit or "")[:COMMIT_CHARACTERS] + (CHANGED if environment.git_dirty else "")
    return f"{environment.versions.get('tapecheck', '')} {commit}".strip()


def doubtful(result: Result, metric: str) -> bool:
    """Tell whether a metric is from an invalid measurement: of the scenario that its path names, or of any where it names none."""
    named = {check.name for check in result.checks} & set(metric.split("."))
    return any(check.verdict == Verdict.INVALID and (not named or check.name in named) for check in result.checks)


def read(out: str | Path, metric: str, validation: str | None = None) -> History:
    """Read the history of a metric, a dotted path as `value_at` takes it, from every run below an output folder, or those of a validation.

    Raises:
        ConfigError: no run has a number there; says which numbers have a like name.
    """
    found: dict[Condition, list[Point]] = {}
    left_out: Counter[str] = Counter()
    known: dict[str, None] = {}
    for run in folders.each(out, config.VALIDATIONS if validation is None else (validation,)):
        value = value_at(run.result, metric)
        reason = _no_part(run.head, value, metric)
        if reason is None and run.head is not None and value is not None:
            one = Point(run_id=run.head.run_id, started_at=run.head.started_at, value=value, code=code(run.head.environment))
            found.setdefault(condition(run.head), []).append(one)
        elif reason:
            left_out[reason] += 1
            known.update(dict.fromkeys(paths(run.result)) if not found else {})
    if not found:
        raise ConfigError([_unknown(metric, validation, list(known), _left_out(left_out))])
    trends = []
    for key, points in sorted(found.items()):
        ordered = tuple(sorted(points, key=lambda p: (p.started_at, p.run_id)))
        trends.append(Trend(condition=key, points=ordered, shifts=changepoints.find([p.value for p in ordered])))
    return History(metric=metric, trends=tuple(trends), left_out=left_out)


def _no_part(head: Result | None, value: float | None, metric: str) -> str | None:
    """Say why a run has no part in a history."""
    if head is None:
        return "it cannot be read"
    if value is None:
        return "no such number"
    if head.reanalysis_of is not None:
        return "another analysis of what was measured before"
    return "the measurement was invalid there" if doubtful(head, metric) else None


def _unknown(metric: str, validation: str | None, known: Sequence[str], left_out: Sequence[str]) -> Problem:
    alike = difflib.get_close_matches(metric, known, n=3, cutoff=0.5)
    got = f"{metric!r}, which no recorded run of {validation or 'any validation'} has"
    allowed = "the dotted path of a number in result.json" + (f", such as {', '.join(alike)}" if alike else "")
    if metric in known:
        got = f"{metric!r}, which no run has that counts ({'; '.join(left_out)})"
        allowed = "a number of a run that was measured, and is valid"
    return Problem(file="command line", key="metric", got=got, allowed=allowed)


def _left_out(reasons: Mapping[str, int]) -> list[str]:
    return [f"{counted(count, 'runs')} left out: {reason}" for reason, count in reasons.items()]


def table(history: History) -> str:
    """Write a history as text: one line a run, and one where the level shifts."""
    blocks = [_block(trend) for trend in history.trends]
    left_out = _left_out(history.left_out)
    is_changed = any(point.code.endswith(CHANGED) for trend in history.trends for point in trend.points)
    star = [f"{CHANGED} after a commit: files that it knows had been changed since"] if is_changed else []
    return "\n".join([history.metric, *itertools.chain.from_iterable(blocks), *star, *left_out])


def _block(trend: Trend) -> list[str]:
    begins = {shift.first: shift for shift in trend.shifts}
    lines = ["", f"{text.line(str(trend.condition))}: {counted(len(trend.points), 'runs')}, {counted(len(begins), 'change points')}"]
    for i, p in enumerate(trend.points):
        said = f"  {begins[i]}" if i in begins else ""
        lines.append(f"  {p.started_at:%Y-%m-%d %H:%M:%S}  {text.line(p.run_id):<22} {text.line(p.code):<16} {p.value:>14,.6g}{said}")
    if len(trend.points) < changepoints.NEEDS:
        lines.append(f"  a change point needs {changepoints.NEEDS} runs")
    return lines


def file_name(metric: str) -> str:
    """Return the name of a metric's chart, without what a file system may take for more than a name."""
    return re.sub(r"[^\w.-]", "_", metric)[:150] + ".png"
