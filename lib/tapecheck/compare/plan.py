"""What is to be proven, said before anything is measured: metric, direction, smallest effect, controls, promise. It measures nothing."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from tapecheck import profiles, ratios, stats
from tapecheck.compare.metrics import COUNTERS, SAME, Better, Validation, known
from tapecheck.config import Model
from tapecheck.errors import ConfigError, Problem

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Expected = Literal["improved", "no_change", "worse", "not_worse", "no_claim"]
MAX_ROUNDS = 100
ROUNDS_NEEDED = 4  # of a measured proof: with fewer, resamples of rounds are too few to bound anything by
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
        """Return the level of the look after so many rounds, see `stats.spent`; of none, that of the next one."""
        looks = self.looks
        at = next((i for i, look in enumerate(looks) if look >= rounds), len(looks) - 1)
        before = stats.spent(looks[at - 1] / self.most) if at else 0.0
        return stats.spent(looks[at] / self.most) - before

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
    def good_below(self) -> float:
        """The ratio from which on downwards it is improved."""
        return ratios.limits(self.smallest_effect)[0]

    @property
    def bad_above(self) -> float:
        """The ratio from which on upwards it is worse: as far from 1 as `good_below`."""
        return ratios.limits(self.smallest_effect)[1]


class Question(Model):
    """What is asked of two variants.

    The first metric is the one the change is for. `controls` are figures that it cannot touch: when one moves, the session drifted.
    `same` are counters that must be equal, and `answers` of a load proof; none of them where a change is meant to alter them.
    """

    validation: Validation
    says: Text
    metrics: tuple[Metric, ...] = Field(min_length=1)
    controls: tuple[str, ...] = ()
    same: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _known_figures(self) -> Self:
        figures = known(self.validation)
        unknown = [name for name in (*(m.name for m in self.metrics), *self.controls) if name not in figures]
        if unknown:
            raise ValueError(f"metrics and controls from {', '.join(figures)}; unknown: {', '.join(unknown)}")
        if wrong := [m.name for m in self.metrics if m.better != figures[m.name]]:
            raise ValueError(f"better: {figures[wrong[0]]} of {wrong[0]}")
        countable = tuple(dict.fromkeys((*SAME[self.validation], *COUNTERS[self.validation])))
        if other := [name for name in self.same or () if name not in countable]:
            raise ValueError(f"same from {', '.join(countable)}; unknown: {', '.join(other)}")
        if touched := [m.name for m in self.metrics if m.name in self.controls]:
            raise ValueError(f"a control that is no metric of the same proof; both: {', '.join(touched)}")
        return self

    @property
    def equal(self) -> tuple[str, ...]:
        """What must be equal on both sides."""
        return SAME[self.validation] if self.same is None else self.same


class Proof(Question):
    """A question that is measured: the plan of a validation with the changes of `baseline`, and with those of `fix` on top.

    `after_target` is a target file for the side after, such as a repaired build beside the old one; without it both sides have one target.
    `distance_ms` puts the sandbox's vendor, which is on this machine, as far away as one is across a network; another target's is where
    it is. `rounds` are its own, of an effect that needs fewer or more of them than others do. A `method_check` is no proof of the
    user's: it shows that the comparison finds nothing where there is nothing, and a change for the worse where there is one.
    `what_if` names the backfill's own prediction of the fix, from the baseline's spans; `answers` the findings that it is the fix for.
    """

    validation: Literal["backfill", "load"]
    plan: str | None = None
    profile: str = profiles.WHOLE
    scenario: Name | None = None
    baseline: dict[str, Any] = Field(default={})
    fix: dict[str, Any] = Field(default={})
    after_target: Text | None = None
    distance_ms: int = Field(default=0, ge=0, le=1000)
    rounds: Rounds | None = None
    method_check: bool = False
    what_if: Text | None = None
    answers: tuple[Text, ...] = ()

    @model_validator(mode="after")
    def _fits_its_validation(self) -> Self:
        if (self.validation == "load") != (self.scenario is not None):
            raise ValueError("scenario: of a load proof, which one is sent; of no other")
        if self.validation == "load" and (self.what_if or self.answers or self.distance_ms):
            raise ValueError("what_if, answers and distance_ms of a backfill proof only")
        return self


class Recorded(Model):
    """What is asked of two recorded runs, which are one round each."""

    smallest_effect: Share = 0.1
    backfill: tuple[str, ...] = ("duration_s", "records_per_s", "requests")
    load: tuple[str, ...] = ("mean_ms", "p95_ms", "p99_ms", "throughput_rps")
    rto_rpo: tuple[str, ...] = ("recover_max_s", "degraded_max_s")

    def question(self, validation: Validation) -> Question:
        """Return the question that is put to each part which both runs have."""
        figures = known(validation)
        metrics = [
            {"name": name, "better": figures.get(name, "lower"), "smallest_effect": self.smallest_effect, "expect": "not_worse"}
            for name in getattr(self, validation)
        ]
        return Question.model_validate({"validation": validation, "says": "two recorded runs", "metrics": metrics})

    @model_validator(mode="after")
    def _questions_exist(self) -> Self:
        for validation in ("backfill", "load", "rto_rpo"):
            if unknown := [name for name in getattr(self, validation) if name not in known(validation)]:
                raise ValueError(f"figures of {validation} from {', '.join(known(validation))}; unknown: {', '.join(unknown)}")
        return self


class ComparePlan(Model):
    """All proofs, and how they are measured: `rounds` pairs of runs, interleaved (ABBA), after `warm_up` that do not count."""

    proofs: dict[Name, Proof] = Field(min_length=1)
    rounds: Rounds = Rounds()
    warm_up: int = Field(default=1, ge=0, le=10)
    seed: int = Field(default=0, ge=0)
    recorded: Recorded = Recorded()

    @model_validator(mode="after")
    def _each_side_goes_first_equally_often(self) -> Self:
        every = {"rounds": self.rounds, **{f"proofs.{name}.rounds": one.rounds for name, one in self.proofs.items() if one.rounds}}
        if odd := [key for key, one in every.items() if one.least % 2 or one.most % 2]:
            raise ValueError(f"even numbers of rounds, so that each side goes first equally often; odd: {', '.join(odd)}")
        return self

    def rounds_of(self, proof: Proof) -> Rounds:
        """Return how many rounds a proof has."""
        return proof.rounds or self.rounds


def read_plan(path: str | Path, *, profile: str = profiles.WHOLE, proofs: str = "all", rounds: int = 0) -> ComparePlan:
    """Read a plan with a profile's changes, keep the named proofs (comma-separated) and limit the rounds of each (0: as planned).

    Every variant is made, so that a mistake in one stops here.

    Raises:
        ConfigError: the file, any of its profiles, a proof's name or one of its variants is wrong.
    """
    plan: ComparePlan = profiles.chosen(ComparePlan, path, profile)
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
    from tapecheck.compare import variants  # which are made of the models of this module

    variants.check(plan, file=str(path))
    kept = {
        name: proof.model_copy(update={"rounds": _limited(plan.rounds_of(proof), rounds)})
        for name, proof in plan.proofs.items()
        if name in names
    }
    return plan.model_copy(update={"proofs": kept, "rounds": _limited(plan.rounds, rounds)})


def _limited(planned: Rounds, most: int) -> Rounds:
    return Rounds(least=min(planned.least, most), most=most) if most else planned


def refills(path: str | Path, *, profile: str = profiles.WHOLE, proofs: str = "all", rounds: int = 0) -> bool:
    """Tell whether a proof of the backfill was chosen, for which a target must say where history comes from and goes to.

    Raises:
        ConfigError: the file is wrong.
    """
    chosen = read_plan(path, profile=profile, proofs=proofs, rounds=rounds)
    return any(proof.validation == "backfill" for proof in chosen.proofs.values())
