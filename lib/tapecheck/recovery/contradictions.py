"""Finds where promises contradict each other or cannot be proven, and whether the plan says why. It judges no target."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tapecheck.errors import ConfigError, Problem
from tapecheck.profiles import WHOLE
from tapecheck.recovery.policy import RecoveryPlan
from tapecheck.recovery.rules import SETTLEABLE, STRUCTURAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Contradiction:
    """A rule that the plan breaks: where, the figures, and what to change; `settled` is the plan's own explanation, if it has one."""

    rule: str
    where: str
    finding: str
    change: str
    settled: str = ""


def find(plan: RecoveryPlan) -> list[Contradiction]:
    """Return every contradiction of a plan, settled or not, those of its structure first: no explanation settles them."""
    return [
        Contradiction(
            rule=name,
            where=found.where,
            finding=found.finding,
            change=found.change,
            settled=plan.settled.get(name, "") if name in SETTLEABLE else "",
        )
        for name, rule in {**STRUCTURAL, **SETTLEABLE}.items()
        for found in rule(plan)
    ]


def check(plan: RecoveryPlan, *, file: str) -> None:
    """Refuse a plan that contradicts itself without saying why.

    Raises:
        ConfigError: every contradiction that is not settled, and every explanation of one that does not exist.
    """
    check_profiles({WHOLE: plan}, file=file, lines={})


def check_profiles(plans: Mapping[str, RecoveryPlan], *, file: str, lines: Mapping[str, int]) -> None:
    """Do the same with a plan as each of its profiles has it; what one of them needs to have explained is no stale explanation.

    Args:
        plans: by the names of the profiles.
        lines: of the file's keys, written as in `rpo.critical.refresh_s`.

    Raises:
        ConfigError: as `check` does, each problem at its line.
    """
    problems: list[Problem] = []
    for name, plan in plans.items():
        known = {problem.got for problem in problems}
        problems += [problem for problem in _unsettled(plan, name, file, lines) if problem.got not in known]
    problems += _stale(plans, file, lines)
    if problems:
        raise ConfigError(problems)


def _unsettled(plan: RecoveryPlan, profile: str, file: str, lines: Mapping[str, int]) -> Iterator[Problem]:
    for one in find(plan):
        if not one.settled:
            key = _key(one.where, profile, lines)
            settle = f"; or settled: {{{one.rule}: why both hold}}" if one.rule in SETTLEABLE else ""
            yield Problem(file=file, line=_line(key, lines), key=key, got=f"{one.finding} ({one.rule})", allowed=one.change + settle)


def _stale(plans: Mapping[str, RecoveryPlan], file: str, lines: Mapping[str, int]) -> Iterator[Problem]:
    found = {one.rule for plan in plans.values() for one in find(plan)}
    for rule in sorted({rule for plan in plans.values() for rule in plan.settled}):
        if rule in found and rule in SETTLEABLE:
            continue
        key = f"settled.{rule}"
        got, allowed = _why_not(rule)
        yield Problem(file=file, line=_line(key, lines), key=key, got=got, allowed=allowed)


def _why_not(rule: str) -> tuple[str, str]:
    """Say why there can be no explanation of a rule, and what there can be."""
    if rule in STRUCTURAL:
        return "an explanation of what none can settle", "no such key: what the rule finds must be changed"
    if rule not in SETTLEABLE:
        return f"no rule {rule!r}", "one of " + ", ".join(sorted(SETTLEABLE))
    return "an explanation of a contradiction that is not there", "no such key: the plan does not break this rule (any more)"


def _key(where: str, profile: str, lines: Mapping[str, int]) -> str:
    """Return the key that a person must change: the profile's own, where it has one."""
    own = f"profiles.{profile}.{where}"
    return own if own in lines else where


def _line(key: str, lines: Mapping[str, int]) -> int | None:
    """Return the line of a key, or of the nearest one that holds it, such as where a default stands."""
    while key and key not in lines:
        key = key.rpartition(".")[0]
    return lines.get(key)
