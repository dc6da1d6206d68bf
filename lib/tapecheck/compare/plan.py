"""What is asked of two variants, how it is measured, and which figures of each validation can be compared. It measures nothing."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, PrivateAttr, StringConstraints, model_validator

from tapecheck import config
from tapecheck.backfill import prediction
from tapecheck.backfill.observe.plan import ObservePlan
from tapecheck.backfill.plan import BackfillPlan
from tapecheck.config import Model
from tapecheck.errors import ConfigError, Problem
from tapecheck.load.plan import LoadPlan
from tapecheck.statistics import intervals, paired
from tapecheck.target.file import Target
from tapecheck.vendor.trace import STAGES

Better = Literal["lower", "higher"]
Validation = Literal["backfill", "load", "observe", "rto_rpo"]
Plan = BackfillPlan | LoadPlan | ObservePlan
STAGE_METRICS = ("wait_s", "fetch_s", "decode_s", "features_s", "insert_s", "other_s")  # busy time of the backfill's stages
LATENCIES = ("mean_ms", "p50_ms", "p90_ms", "p95_ms", "p99_ms")
WHERE = ("bottleneck_", "leading_")  # findings of a backfill about where its time goes, each with a stage
ANSWERS = "answers"  # of a load run, by status and size: see answers.py
MACHINE = "machine_s"  # a fixed piece of work just before each run: no change of a plan can touch it

CLOCKS: Mapping[str, Mapping[str, Better]] = {
    "backfill": {"duration_s": "lower", "records_per_s": "higher", **dict.fromkeys((*STAGE_METRICS, MACHINE), "lower")},
    "load": {
        **dict.fromkeys(LATENCIES, "lower"),
        **{f"{kind}_{name}": "lower" for kind in ("service", "server") for name in LATENCIES},
        "throughput_rps": "higher",
        "answer_bytes": "lower",
        MACHINE: "lower",
    },
    "observe": {
        "duration_s": "lower",
        "records_per_s": "higher",
        **dict.fromkeys(("api_s", "database_s", "own_s", "vendor_p50_ms", "vendor_p95_ms", MACHINE), "lower"),
    },
    "rto_rpo": {"recover_max_s": "lower", "degraded_max_s": "lower"},
}
COUNTERS: Mapping[str, tuple[str, ...]] = {
    "backfill": ("records", "requests", "bytes", "statements", "failed"),
    "load": ("requests", "failed", "connections_opened", "bytes"),
    "observe": ("records", "requests", "bytes", "refusals"),
    "rto_rpo": ("trials",),
}
COUNTED_EXACTLY = {"backfill": COUNTERS["backfill"]}  # counters that are the same every time that the same is done
SAME: Mapping[str, tuple[str, ...]] = {  # what must be equal, else two things were measured that are no variants of each other
    "backfill": ("records", "failed"),
    "load": (ANSWERS,),  # users that send when they are answered send as many as they can
    "observe": ("records",),
    "rto_rpo": (),
}


def known(validation: str) -> Mapping[str, Better]:
    """Return every figure of a validation and which way is better; less of a counter is."""
    return {**dict.fromkeys(COUNTERS[validation], "lower"), **CLOCKS[validation]}


# ---- plan ----

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Expected = Literal["improved", "no_change", "worse", "not_worse", "no_claim"]
MAX_ROUNDS = 100
ROUNDS_NEEDED = 4  # with fewer, resamples of rounds are too few to bound anything by
Count = Annotated[int, Field(ge=ROUNDS_NEEDED, le=MAX_ROUNDS)]


class Rounds(Model):
    """How many rounds a proof has: `least`, and more of them until it is decided, up to `most`. A number alone is both.

    A look is after every second round at the least, since the sides go first alternately; the further, the more rounds lie between.
    """

    least: Count = ROUNDS_NEEDED
    most: Count = 24

    @model_validator(mode="before")
    @classmethod
    def _fixed(cls, given: Any) -> Any:
        return {"least": given, "most": given} if isinstance(given, int) else given

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.least > self.most:
            raise ValueError(f"least ({self.least}) at most as many as most ({self.most})")
        return self

    @property
    def looks(self) -> tuple[int, ...]:
        """After which rounds it is looked whether the proof is decided: 4, 6, 8, 12, 16, 24, …, most."""
        found = [self.least]
        while found[-1] < self.most:
            found.append(min(self.most, found[-1] + (1 << (found[-1].bit_length() - 2))))
        return tuple(found)

    def alpha(self, rounds: int) -> float:
        """Return the level of the look after so many rounds, see `intervals.spent`; of none, that of the next one."""
        looks = self.looks
        at = next((i for i, look in enumerate(looks) if look >= rounds), len(looks) - 1)
        before = intervals.spent(looks[at - 1] / self.most) if at else 0.0
        return intervals.spent(looks[at] / self.most) - before

    def limited(self, most: int) -> "Rounds":
        """Return at most so many; 0 is no limit."""
        return Rounds(least=min(self.least, most), most=most) if most else self

    def __str__(self) -> str:
        return f"{self.least} to {self.most}" if self.least < self.most else str(self.most)


class Metric(Model):
    """A figure, which way is better, the smallest difference that matters (a part of 1), and what is expected of the change.

    `no_claim` is met where neither improved nor worse is proven, as of a variant beside itself; `no_change` has to be proven.
    """

    name: str
    better: Better
    smallest_effect: Share
    expect: Expected = "improved"

    @property
    def limits(self) -> tuple[float, float]:
        """The ratios from which on it is improved, downwards, and worse, upwards: as far from 1 as each other."""
        return paired.limits(self.smallest_effect)


class Question(Model):
    """What is asked of two variants, and so what a recording of them is judged by.

    The first metric is the one the change is for. `controls` are figures that it cannot touch: when one moves, the session drifted.
    `same` are counters that must be equal, and `answers` of a load proof; none of them where a change is meant to alter them.
    `rounds` are those of a proof that needs fewer or more of them than others do; a `method_check` is no proof of the user's, it shows
    that the comparison finds nothing where there is nothing, and a change for the worse where there is one; `what_if` names the
    backfill's own prediction of the fix, from the baseline's spans, and `answers` the findings that it is for.
    """

    validation: Validation
    says: Text
    metrics: tuple[Metric, ...] = Field(min_length=1)
    controls: tuple[str, ...] = ()
    same: tuple[str, ...] | None = None
    rounds: Rounds | None = None
    method_check: bool = False
    what_if: Text | None = None
    answers: tuple[Text, ...] = ()

    @model_validator(mode="after")
    def _known_figures(self) -> Self:
        figures, names = known(self.validation), [m.name for m in self.metrics]
        if unknown := [name for name in (*names, *self.controls) if name not in figures]:
            raise ValueError(f"metrics and controls from {', '.join(figures)}; unknown: {', '.join(unknown)}")
        if wrong := [m.name for m in self.metrics if m.better != figures[m.name]]:
            raise ValueError(f"better: {figures[wrong[0]]} of {wrong[0]}")
        countable = tuple(dict.fromkeys((*SAME[self.validation], *COUNTERS[self.validation])))
        if other := [name for name in self.same or () if name not in countable]:
            raise ValueError(f"same from {', '.join(countable)}; unknown: {', '.join(other)}")
        if touched := [name for name in names if name in self.controls]:
            raise ValueError(f"a control that is no metric of the same proof; both: {', '.join(touched)}")
        return self

    @property
    def equal(self) -> tuple[str, ...]:
        """What must be equal on both sides."""
        return SAME[self.validation] if self.same is None else self.same


class Variants(Model):
    """Which two variants are measured: the plan of a validation with the changes of `baseline`, and with those of `fix` on top.

    `after_target` is a target file for the side after, such as a repaired build beside the old one; without it both sides have one target.
    `distance_ms` puts the sandbox's vendor, which is on this machine, as far away as one is across a network; another target's is where
    it is. Of a part of two recorded runs, only the validation is known.
    """

    model_config = ConfigDict(extra="ignore")  # what an older recording knew beyond that

    validation: Validation
    plan: str | None = None
    profile: str = config.WHOLE
    scenario: Name | None = None
    baseline: dict[str, Any] = Field(default={})
    fix: dict[str, Any] = Field(default={})
    after_target: Text | None = None
    distance_ms: int = Field(default=0, ge=0, le=1000)


class Proof(Question, Variants):
    """A question about variants that are measured for it."""

    model_config = ConfigDict(extra="forbid")
    validation: Literal["backfill", "load", "observe"]

    @model_validator(mode="after")
    def _fits_its_validation(self) -> Self:
        if (self.validation == "load") != (self.scenario is not None):
            raise ValueError("scenario: of a load proof, which one is sent; of no other")
        if self.validation != "backfill" and (self.what_if or self.answers or self.distance_ms):
            raise ValueError("what_if, answers and distance_ms of a backfill proof only")
        return self

    @property
    def variants(self) -> Variants:
        """What is measured, whatever is asked of it."""
        return Variants.model_validate(self.model_dump())


class RecordedQuestions(Model):
    """What is asked of recorded runs, of which each pair is one round."""

    smallest_effect: Share = 0.1
    backfill: tuple[str, ...] = ("duration_s", "records_per_s", "requests")
    observe: tuple[str, ...] = ("duration_s", "records_per_s", "requests")
    load: tuple[str, ...] = ("p95_ms", "p99_ms", "mean_ms", "throughput_rps")
    rto_rpo: tuple[str, ...] = ("recover_max_s", "degraded_max_s")

    def question(self, validation: str) -> Question:
        """Return the question that is put to each part which all runs have."""
        figures, alike = known(validation), {"smallest_effect": self.smallest_effect, "expect": "not_worse"}
        metrics = [{"name": name, "better": figures[name], **alike} for name in getattr(self, validation)]
        return Question.model_validate({"validation": validation, "says": "recorded runs", "metrics": metrics})

    @model_validator(mode="after")
    def _questions_exist(self) -> Self:
        for validation in CLOCKS:
            if unknown := [name for name in getattr(self, validation) if name not in known(validation)]:
                raise ValueError(f"figures of {validation} from {', '.join(known(validation))}; unknown: {', '.join(unknown)}")
        return self


class ComparePlan(Model):
    """All proofs, and how they are measured: `rounds` pairs of runs, interleaved (ABBA), after `warm_up` that do not count."""

    proofs: dict[Name, Proof] = Field(min_length=1)
    rounds: Rounds = Rounds()
    warm_up: int = Field(default=1, ge=0, le=10)
    seed: int = Field(default=0, ge=0)
    recorded: RecordedQuestions = RecordedQuestions()
    _left_out: frozenset[str] = PrivateAttr(frozenset())

    @model_validator(mode="after")
    def _each_side_goes_first_equally_often(self) -> Self:
        every = {"rounds": self.rounds, **{f"proofs.{name}.rounds": one.rounds for name, one in self.proofs.items() if one.rounds}}
        if odd := [key for key, one in every.items() if one.least % 2 or one.most % 2]:
            raise ValueError(f"even numbers of rounds, so that each side goes first equally often; odd: {', '.join(odd)}")
        return self

    def asked(self) -> dict[str, Proof]:
        """Return each proof with its rounds, the plan's where it has none of its own."""
        return {name: proof.model_copy(update={"rounds": proof.rounds or self.rounds}) for name, proof in self.proofs.items()}

    def chosen(self, names: tuple[str, ...], rounds: int) -> Self:
        """Return the plan with some of its proofs, each of so many rounds at most (0: as planned)."""
        kept = {
            name: one.model_copy(update={"rounds": (one.rounds or self.rounds).limited(rounds)})
            for name, one in self.proofs.items()
            if name in names
        }
        plan = self.model_copy(update={"proofs": kept, "rounds": self.rounds.limited(rounds)})
        plan._left_out = frozenset(self.proofs.keys() - kept.keys())
        return plan

    def check_measured(self, measured: Mapping[str, Variants], *, source: str) -> None:
        """Refuse a recording of which a proof, or one of this plan, has no counterpart, or measured other variants; each is named."""
        problems = [
            Problem(
                file=source, key=f"proofs.{name}", got="measured, and no proof of this plan", allowed=f"one of {', '.join(self.proofs)}"
            )
            for name in measured
            if name not in self.proofs and name not in self._left_out
        ]
        for name, proof in self.proofs.items():
            if name not in measured:
                got, allowed = "not measured in this recording", f"of the proofs that it has: {', '.join(measured)} (parameter proofs)"
                problems.append(Problem(file=source, key=f"proofs.{name}", got=got, allowed=allowed))
            elif proof.variants != measured[name]:
                there, here = measured[name].model_dump(), proof.variants.model_dump()
                got = "; ".join(f"{key} {there[key]}, in this plan {here[key]}" for key in here if there[key] != here[key])
                problems.append(Problem(file=source, key=f"proofs.{name}", got=f"measured with {got}", allowed="measure again"))
        if problems:
            raise ConfigError(problems)


def read_plan(path: str | Path, *, profile: str = config.WHOLE, proofs: str = "all", rounds: int = 0) -> ComparePlan:
    """Read a plan with a profile's changes, keep the named proofs (comma-separated) and limit the rounds of each (0: as planned).

    Every variant is made, so that a mistake in one stops here: a `ConfigError` names each.
    """
    plan: ComparePlan = config.chosen(ComparePlan, path, profile)
    names = tuple(plan.proofs) if proofs == "all" else tuple(name.strip() for name in proofs.split(","))
    problems = []
    if unknown := [name for name in names if name not in plan.proofs]:
        allowed = f"all, or some of {', '.join(plan.proofs)}"
        problems.append(Problem(file="parameters", key="proofs", got=", ".join(unknown), allowed=allowed))
    if rounds and (rounds % 2 or not ROUNDS_NEEDED <= rounds <= MAX_ROUNDS):
        allowed = f"0 for what is planned, or an even number from {ROUNDS_NEEDED} to {MAX_ROUNDS}"
        problems.append(Problem(file="parameters", key="rounds", got=str(rounds), allowed=allowed))
    if problems:
        raise ConfigError(problems)
    for name, proof in plan.proofs.items():
        try:
            variants(name, proof, file=str(path))
        except ConfigError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise ConfigError(problems)
    return plan.chosen(names, rounds)


# ---- variants ----

Side = Literal["before", "after"]
BEFORE: Side = "before"
AFTER: Side = "after"
SCHEMA = "tapecheck_compare"  # of the backfill's tables, so that those of its own notebook stay


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One side of a proof, ready to be measured; `target` is a file of its own, None for the session's."""

    proof: str
    side: Side
    plan: Plan
    target: str | None = None
    distance_ms: int = 0


def variants(name: str, proof: Proof, *, file: str | None = None) -> dict[Side, Variant]:
    """Return both sides of a proof; a change that does not fit the validation's plan is a `ConfigError` with its line in `file`."""

    def problem(key: str, got: str, allowed: str) -> Problem:
        """Return a problem at a key of this proof."""
        at = f"proofs.{name}.{key}"
        return Problem(file=file or "plan", line=config.lines_by_key(file).get(at) if file else None, key=at, got=got, allowed=allowed)

    base = config.raw(proof.plan or f"config/{proof.validation}.yaml", proof.profile) or {}
    scenarios = base.get("scenarios") or {}
    if proof.scenario and proof.scenario not in scenarios:
        raise ConfigError([problem("scenario", proof.scenario, "one of " + ", ".join(scenarios))])
    if proof.after_target:
        config.read(Target, proof.after_target)
    plans: dict[Side, Plan] = {}
    for side, key, changes in ((BEFORE, "baseline", proof.baseline), (AFTER, "fix", proof.fix)):
        base = config.merged(base, {"scenarios": {proof.scenario: changes}} if proof.scenario else changes)
        try:
            plans[side] = _made(proof, base)
        except ConfigError as error:
            place = f"scenarios.{proof.scenario}."
            raise ConfigError([problem(f"{key}.{one.key.removeprefix(place)}", one.got, one.allowed) for one in error.problems]) from None
    if unknown := [
        problem(key, got, f"available for this baseline: {', '.join(there)}") for key, got, there in _unknown(proof, plans[BEFORE])
    ]:
        raise ConfigError(unknown)
    targets: dict[Side, str | None] = {BEFORE: None, AFTER: proof.after_target}
    return {
        side: Variant(proof=name, side=side, plan=plan, target=targets[side], distance_ms=proof.distance_ms) for side, plan in plans.items()
    }


def _made(proof: Proof, data: dict[str, Any]) -> Plan:
    if proof.validation == "observe":
        return config.validate(ObservePlan, {**data, "objectives": []}, file="plan")
    if proof.scenario is None:
        own = {"objectives": [], "begin": "fresh", "database_schema": SCHEMA}
        return config.validate(BackfillPlan, {**data, **own}, file="plan")
    return config.validate(
        LoadPlan, {**data, "scenarios": {proof.scenario: data["scenarios"][proof.scenario]}, "objectives": []}, file="plan"
    )


def _unknown(proof: Proof, plan: Plan) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield each key with predictions or findings that no run of the baseline can have, these, and those that it can have."""
    if isinstance(plan, BackfillPlan):
        answers = tuple(f"{kind}{stage}" for kind in WHERE for stage in STAGES)
        what_if = (proof.what_if,) if proof.what_if else ()
        for key, given, there in (("what_if", what_if, tuple(prediction.names(plan))), ("answers", proof.answers, answers)):
            if wrong := [one for one in given if one not in there]:
                yield key, ", ".join(wrong), there
