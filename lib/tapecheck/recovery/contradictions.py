"""Finds where promises contradict each other or cannot be proven. It judges no target."""

from dataclasses import dataclass

from tapecheck.recovery.policy import RecoveryPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Contradiction:
    """A rule that the plan breaks: where, the figures, and why both cannot hold; `settled` is the plan's own explanation, if it has one."""

    rule: str
    where: str
    finding: str
    settled: str = ""


def find(plan: RecoveryPlan) -> list[Contradiction]:
    """Return every contradiction of a plan, settled or not."""
    return []


def check(plan: RecoveryPlan, *, file: str) -> None:
    """Refuse a plan that contradicts itself without saying why.

    Raises:
        ConfigError: every contradiction that is not settled, and every explanation of one that does not exist.
    """
