"""Makes of a proof the two plans that are measured: the validation's own plan with the changes of each variant. It measures nothing."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tapecheck import config, profiles
from tapecheck.backfill import whatif
from tapecheck.backfill.plan import BackfillPlan
from tapecheck.backfill.spans import STAGES
from tapecheck.compare.metrics import WHERE
from tapecheck.compare.plan import ComparePlan, Proof
from tapecheck.errors import ConfigError, Problem
from tapecheck.load.plan import LoadPlan
from tapecheck.target_file import Target

Side = Literal["before", "after"]
BEFORE: Side = "before"
AFTER: Side = "after"
SCHEMA = "tapecheck_compare"  # of the backfill's tables, so that those of its own notebook stay


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One side of a proof, ready to be measured; `target` is a file of its own, None for the session's; for `distance_ms` see `Proof`."""

    proof: str
    side: Side
    plan: BackfillPlan | LoadPlan
    target: str | None = None
    distance_ms: int = 0


def variants(name: str, proof: Proof, *, file: str | None = None) -> dict[Side, Variant]:
    """Return both sides of a proof.

    Args:
        file: where the proof stands, whose lines are named then.

    Raises:
        ConfigError: the validation's plan or the target file of the side after is wrong, or a change does not fit the plan.
    """
    base = profiles.raw(proof.plan or f"config/{proof.validation}.yaml", proof.profile)
    if proof.scenario and proof.scenario not in (base.get("scenarios") or {}):
        allowed = "one of " + ", ".join(base.get("scenarios") or {})
        raise ConfigError([Problem(file=file or "plan", key=f"proofs.{name}.scenario", got=proof.scenario, allowed=allowed)])
    before = profiles.merged(base, _placed(proof, proof.baseline))
    after = profiles.merged(before, _placed(proof, proof.fix))
    if proof.after_target:
        config.read(Target, proof.after_target)
    plans = {
        BEFORE: _made(proof, before, file, f"proofs.{name}.baseline"),
        AFTER: _made(proof, after, file, f"proofs.{name}.fix"),
    }
    if unknown := list(_unknown_names(name, proof, plans[BEFORE], file)):
        raise ConfigError(unknown)
    targets = {BEFORE: None, AFTER: proof.after_target}
    return {
        side: Variant(proof=name, side=side, plan=plan, target=targets[side], distance_ms=proof.distance_ms) for side, plan in plans.items()
    }


def _unknown_names(name: str, proof: Proof, plan: BackfillPlan | LoadPlan, file: str | None) -> Iterator[Problem]:
    """Yield each prediction and finding that no run of the baseline can have."""
    if not isinstance(plan, BackfillPlan):
        return
    known = {"what_if": whatif.names(plan), "answers": tuple(f"{kind}{stage}" for kind in WHERE for stage in STAGES)}
    for key, given in (("what_if", (proof.what_if,) if proof.what_if else ()), ("answers", proof.answers)):
        if unknown := [one for one in given if one not in known[key]]:
            place = f"proofs.{name}.{key}"
            line = config.lines_by_key(file).get(place) if file else None
            available = f"available for this baseline: {', '.join(known[key])}"
            yield Problem(file=file or "plan", key=place, got=", ".join(unknown), allowed=available, line=line)


def check(plan: ComparePlan, *, file: str) -> None:
    """Make every variant of a plan.

    Raises:
        ConfigError: every problem of all of them at once.
    """
    problems: list[Problem] = []
    for name, proof in plan.proofs.items():
        try:
            variants(name, proof, file=file)
        except ConfigError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise ConfigError(problems)


def _placed(proof: Proof, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return changes where the plan has them: those of a load proof are about its scenario."""
    return {"scenarios": {proof.scenario: dict(changes)}} if proof.scenario else dict(changes)


def _made(proof: Proof, data: dict[str, Any], file: str | None, key: str) -> BackfillPlan | LoadPlan:
    try:
        if proof.validation == "backfill":
            own = {"objectives": [], "begin": "fresh", "database_schema": SCHEMA}
            return config.validate(BackfillPlan, {**data, **own}, file=file or "plan")
        scenarios = {name: one for name, one in data["scenarios"].items() if name == proof.scenario}
        return config.validate(LoadPlan, {**data, "scenarios": scenarios, "objectives": []}, file=file or "plan")
    except ConfigError as error:
        raise ConfigError([_at(one, key, f"scenarios.{proof.scenario}.", file) for one in error.problems]) from None


def _at(problem: Problem, key: str, scenario: str, file: str | None) -> Problem:
    """Return a problem of a variant where the change stands that caused it."""
    place = f"{key}.{problem.key.removeprefix(scenario)}"
    line = config.lines_by_key(file).get(place) if file else None
    return Problem(file=problem.file, key=place, got=problem.got, allowed=problem.allowed, line=line)
