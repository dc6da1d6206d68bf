"""What a batch file says: many runs of notebooks, some as matrices of parameters. It starts none of them."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from tapecheck import config
from tapecheck.config import Model

Value = str | int | float | bool  # of a notebook's parameter
Parameters = Mapping[str, Value]
MOST_RUNS = 1000
DAY_S = 86_400.0
BESIDE = ("target", "plan", "profile", "run")  # parameters that may stand beside `parameters`
NAME = r"^[\w][\w .-]*$"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun:
    """One run of a batch: of which notebook, with which parameters, and which entry of the file it is of.

    Checked, it has all parameters of the notebook but `out`, and what is needed to know of its target; when it is to be done, also its
    notebook's file, and `out`, the folder in which it is recorded.
    """

    name: str
    validation: str
    given: Parameters
    limit_s: float
    start_retries: int
    at: int
    measures: bool = True
    uses_sandbox: bool = False
    allow_remote: bool = False
    notebook: str = ""
    out: str = ""


def _known(validation: str) -> str:
    if validation not in config.VALIDATIONS:
        raise ValueError(f"one of {', '.join(config.VALIDATIONS)}")
    return validation


class BatchEntry(Model):
    """One notebook and its parameters; a matrix makes it one run for each combination of its values, the last one varying first."""

    validation: Annotated[str, AfterValidator(_known)]
    name: str | None = Field(default=None, max_length=60, pattern=NAME)
    target: str | None = None
    plan: str | None = None
    profile: str | None = None
    run: str | None = None
    parameters: Parameters = Field(default={})
    matrix: Mapping[str, Annotated[tuple[Value, ...], Field(min_length=1)]] = Field(default={})
    time_limit_s: float | None = Field(default=None, gt=0, le=DAY_S)

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        named = Counter([*self.beside, *self.parameters, *self.matrix])
        if twice := [name for name, count in named.items() if count > 1]:
            raise ValueError(f"each parameter at one place; {', '.join(twice)} stands at two")
        if "out" in named:
            raise ValueError("no parameter `out`, since all runs of a batch go to one folder: name it with --out")
        return self

    @property
    def beside(self) -> dict[str, Value]:
        """Return the parameters that stand beside `parameters`."""
        return {name: value for name in BESIDE if (value := getattr(self, name)) is not None}

    def points(self) -> Iterator[dict[str, Value]]:
        """Yield each combination of the values of its matrix."""
        return (dict(zip(self.matrix, values, strict=True)) for values in itertools.product(*self.matrix.values()))


class Batch(Model):
    """Runs in the order in which they are done; a limit of time counts for each, from when nothing else is measured on its machine."""

    runs: tuple[BatchEntry, ...] = Field(min_length=1)
    time_limit_s: float = Field(default=3600, gt=0, le=DAY_S)
    start_retries: int = Field(default=2, ge=0, le=10)

    @model_validator(mode="after")
    def _not_too_many(self) -> Self:
        if (count := sum(math.prod(map(len, entry.matrix.values())) for entry in self.runs)) > MOST_RUNS:
            raise ValueError(f"at most {MOST_RUNS:,} runs; these are {count:,}")
        return self

    def planned(self) -> list[PlannedRun]:
        """Return every run, in order, each with a name of its own."""
        found: list[PlannedRun] = []
        named: Counter[str] = Counter()
        for at, entry in enumerate(self.runs):
            for point in entry.points():
                name = " ".join([entry.name or entry.validation, *(_short(value) for value in point.values())])
                named[name] += 1
                name += f" ({named[name]})" if named[name] > 1 else ""
                given = {**entry.beside, **entry.parameters, **point}
                limit_s, retries = entry.time_limit_s or self.time_limit_s, self.start_retries
                one = PlannedRun(name=name, validation=entry.validation, given=given, limit_s=limit_s, start_retries=retries, at=at)
                found.append(one)
        return found


def _short(value: Value) -> str:
    """Return a value as it stands in a name: of a path its last part, without an ending."""
    return Path(value).stem if isinstance(value, str) and "/" in value else str(value)
