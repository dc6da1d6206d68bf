"""Judges measured values against objectives such as "p95_ms < 1000". It measures nothing.

Rules:

- An objective passes when its value meets it and its 95 % bound does too; `not_proven` when only the value does.
- A missed value fails. A value that does not exist (nothing was measured, nothing succeeded) is `no_data`, never a pass.
- In an invalid measurement every check is `invalid`.
"""

import math
import operator
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from tapecheck.errors import ConfigError, Problem
from tapecheck.text import markdown

DOUBT_SHARE = 0.2  # of a value: beyond it, that much may be what the instrument added, and the figure is marked
OPERATORS: Mapping[str, Callable[[float, float], bool]] = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_OBJECTIVE = re.compile(rf"\s*(?:(?P<scope>[\w-]+)\.)?(?P<metric>[a-z][a-z0-9_]*)\s*(?P<op><=|>=|<|>)\s*(?P<limit>{_NUMBER})\s*")


class Verdict(StrEnum):
    """The five answers, and nothing between them."""

    PASS = "pass"  # noqa: S105 - not a password
    FAIL = "fail"
    INVALID = "invalid"
    NOT_PROVEN = "not_proven"
    NO_DATA = "no_data"


NOTHING = "nothing was measured that this objective could be judged by"
NEXT: Mapping[Verdict, str] = {  # what to do about it, where nothing more particular is known
    Verdict.FAIL: "find the cause in the run's report, fix it, and measure again",
    Verdict.INVALID: "remove what the reason names, and measure again",
    Verdict.NO_DATA: "make the target answer, and measure again",
    Verdict.NOT_PROVEN: "measure again with more samples: rounds, duration_s or trials in the plan (config/load.yaml, config/rto_rpo.yaml)",
    Verdict.PASS: "none is needed",
}

# The worst comes first: what one check says of a whole run.
SEVERITY = (Verdict.FAIL, Verdict.INVALID, Verdict.NO_DATA, Verdict.NOT_PROVEN, Verdict.PASS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A metric, a comparison and a limit in the metric's unit; `scope` is a scenario, or None for all of them."""

    metric: str
    op: str
    limit: float
    scope: str | None = None

    def __str__(self) -> str:
        scope = f"{self.scope}." if self.scope else ""
        return f"{scope}{self.metric} {self.op} {self.limit:.15g}"

    @property
    def upward(self) -> bool:
        """Whether more is better."""
        return self.op in (">", ">=")

    def met_by(self, value: float) -> bool:
        """Tell whether a value meets the objective."""
        return OPERATORS[self.op](value, self.limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A value with the bound that counts against its objective, and the n behind both.

    `bound` is the one-sided 95 % bound on the unfavourable side; None where n cannot support one, and equal to the value where the
    value is exact (a count, or a mean that is reported without an interval). `needed_n` says how many samples would give a bound;
    `unbounded` why no number of them would; `missing` why there is no value, and what to do. `added` is how much of the value the
    instrument may have added: where that decides, the check is invalid.
    """

    value: float | None
    bound: float | None
    n: int
    needed_n: int | None = None
    unbounded: str | None = None
    missing: str | None = None
    added: float = 0.0

    @classmethod
    def exact(cls, value: float, n: int) -> Self:
        """Return a value that needs no bound."""
        return cls(value=value, bound=value, n=n)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One objective applied to one scenario."""

    name: str
    objective: str
    value: float | None
    bound: float | None
    n: int
    verdict: Verdict
    reason: str


def parse(text: str, metrics: Iterable[str], scopes: Iterable[str] = ()) -> Objective:
    """Parse an objective, such as "p95_ms < 1000", or "steady.p95_ms < 1000" for one scenario; `scopes` are the scenarios that exist.

    Raises:
        ValueError: with what was got and what is allowed.
    """
    match = _OBJECTIVE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not an objective; write METRIC < NUMBER (or <=, >, >=), such as 'p95_ms < 1000'")
    metric, scope = match["metric"], match["scope"]
    known, scenarios = sorted(metrics), sorted(scopes)
    if metric not in known:
        raise ValueError(f"no metric {metric!r}; the metrics are {', '.join(known)}")
    if scope is not None and scope not in scenarios:
        known_ones = f"the scenarios are {', '.join(scenarios)}" if scenarios else f"write {text.strip().removeprefix(f'{scope}.')!r}"
        raise ValueError(f"no scenario {scope!r}; {known_ones}")
    limit = float(match["limit"])
    found = Objective(metric=metric, op=match["op"], limit=limit, scope=scope)
    most = 1.0 if metric.endswith("success_ratio") else math.inf
    ends = (0.0, most) if found.upward else (most, 0.0)  # the worst value and the best
    if not math.isfinite(limit) or not 0 <= limit <= most or not found.met_by(ends[1]):
        among = f"0 to {most:g}" if math.isfinite(most) else "0 or more"
        raise ValueError(f"no value of {metric}, which is {among}, can decide {text.strip()!r}")
    return found


def each_once(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse two objectives that limit one metric of one scenario from the same side."""
    seen: dict[tuple[str | None, ...], str] = {}
    for text in texts:
        match = _OBJECTIVE.fullmatch(text)
        side = (*match.group("scope", "metric"), match["op"][0]) if match else (text,)
        if side in seen:
            raise ValueError(f"one limit for each metric and scenario; {seen[side]!r} and {text!r} are two")
        seen[side] = text
    return texts


def parse_all(texts: Iterable[str], metrics: Iterable[str], scopes: Iterable[str], *, file: str) -> tuple[Objective, ...]:
    """Parse every objective of a plan; a `ConfigError` has all that are wrong."""
    objectives, problems = [], []
    for i, text in enumerate(texts):
        try:
            objectives.append(parse(text, metrics, scopes))
        except ValueError as error:
            problems.append(Problem(file=file, key=f"objectives.{i}", got=repr(text), allowed=str(error)))
    if problems:
        raise ConfigError(problems)
    return tuple(objectives)


def judge(objective: Objective, measured: Measured, *, name: str, invalid: str | None = None) -> Check:
    """Judge what was measured of a `name`, such as a scenario; `invalid` is why the measurement cannot be trusted, if it cannot."""
    value, bound = measured.value, measured.bound
    verdict, reason = _decide(objective, measured, invalid)
    if verdict != Verdict.INVALID and value is not None and measured.added > DOUBT_SHARE * value:
        reason += f"; {_lag(measured, value)}"
    return Check(name=name, objective=str(objective), value=value, bound=bound, n=measured.n, verdict=verdict, reason=reason)


def _lag(measured: Measured, value: float) -> str:
    return f"up to {written(measured.added)} of {written(value)} may be the generator's own lag"


def _decide(objective: Objective, measured: Measured, invalid: str | None) -> tuple[Verdict, str]:
    value, bound, n, needed = measured.value, measured.bound, measured.n, measured.needed_n
    if invalid is not None:
        return Verdict.INVALID, invalid
    if value is None or n == 0:
        return Verdict.NO_DATA, measured.missing or NOTHING
    if objective.met_by(value) != objective.met_by(value - measured.added):
        return Verdict.INVALID, f"{_lag(measured, value)}, which decides"
    if not objective.met_by(value):
        return Verdict.FAIL, f"{written(value)} misses {objective.op} {written(objective.limit)}"
    if bound is None:
        return Verdict.NOT_PROVEN, measured.unbounded or f"too few samples ({n:,})" + (f"; at least {needed:,} needed" if needed else "")
    if not objective.met_by(bound):
        more = f"; at least {needed:,} without a failure needed" if needed and n < needed else ""
        return (
            Verdict.NOT_PROVEN,
            f"the value meets it, its 95 % confidence bound ({written(bound)}{unit(objective.metric)}) does not{more}",
        )
    return Verdict.PASS, "met, with 95 % confidence" if bound != value else "met"


def number(value: float | None) -> str:
    """Write a number with three significant digits, or more before the point; nothing for one that is not known."""
    if value is None or math.isnan(value):
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def written(value: float) -> str:
    """Write a figure for people: 10,060 and 0.0012, with four digits where it is no count."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def unit(metric: str) -> str:
    """Return what follows a figure of a metric, by the end of its name; nothing for a count or a ratio."""
    return next((said for end, said in (("_ms", " ms"), ("_per_s", "/s"), ("_rps", "/s"), ("_s", " s")) if metric.endswith(end)), "")


def share(ratio: float) -> str:
    """Write a share of a whole in percent; a small one is never written as none."""
    return "<0.1%" if 0 < ratio < 0.001 else f"{ratio:.1%}"


def sentence(text: str) -> str:
    """Write a finding as a sentence; the name of a scenario, before a colon, is written as it is."""
    return f"{text if text.split(' ')[0].endswith(':') else text[:1].upper() + text[1:]}."


def overall(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the verdict of a run from those of its checks; a run without checks has no data."""
    present = set(verdicts)
    return next((v for v in SEVERITY if v in present), Verdict.NO_DATA)


def headline(target: str, checks: Sequence[Check], said: str) -> str:
    """Return the verdict on a target in one line of Markdown, the first missed check with its reason, and what else is to be said."""
    missed = [c for c in checks if c.verdict != Verdict.PASS]
    verdict = overall(c.verdict for c in checks).replace("_", " ").upper()
    what = f"{missed[0].name}, " if missed and len({c.name for c in checks}) > 1 else ""
    first = f" First: {what}{missed[0].objective}: {missed[0].reason}." if missed else ""
    found = f"for {target}: {len(checks) - len(missed)} of {len(checks)} checks met.{first}{' ' if said else ''}{said}"
    return f"**{verdict}** {markdown(found)}"


def exit_code(verdict: Verdict) -> int:
    """Return 0 for a pass, 1 for a missed objective, 2 for no verdict."""
    return {Verdict.PASS: 0, Verdict.FAIL: 1}.get(verdict, 2)


def words(verdict: str) -> str:
    """Write a verdict as words."""
    return verdict.replace("_", " ")


def counted(n: int, things: str) -> str:
    """Write how many of something there are: 1 run, 2 runs."""
    return f"{n:,} {things.removesuffix('s') if n == 1 and things != 'series' else things}"


def cut(text: str, longest: int) -> str:
    """Return a text on one line, of too many characters its beginning, up to the end of a sentence or clause, or else of a word."""
    line = " ".join(text.split())
    if len(line) <= longest:
        return line
    begin = textwrap.wrap(line, longest - len(" …"))[0]
    clause = re.match(rf"(.{{{longest // 3},}}[.;,])(?: |$)", begin)
    return f"{(clause[1] if clause else begin).rstrip(',;')} …"
