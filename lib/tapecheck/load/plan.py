"""What to send and when, as the YAML says it. It sends nothing and knows no target."""

import math
import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from tapecheck import config
from tapecheck.config import Model
from tapecheck.errors import Problem
from tapecheck.load.engine import work
from tapecheck.load.engine.recorder import SAMPLE
from tapecheck.load.engine.schedule import Schedule, Stage
from tapecheck.load.engine.work import Address, PreparedRequest, Value, Work
from tapecheck.statistics.intervals import needed_n
from tapecheck.statistics.scalability import LEVELS_NEEDED
from tapecheck.verdict import Objective, each_once, parse, parse_all
from tapecheck.workers.dask import checked_workers

COLUMNS = frozenset([*(SAMPLE.names or ()), "scenario"])  # a parameter of such a name would hide a column


def _scalar(value: Any) -> Value:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("text or a number; put quotes around a date, yes, no, true or false")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a finite number")
    return value


Parameter = Annotated[Any, BeforeValidator(_scalar)]
Values = Annotated[tuple[Parameter, ...], Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")]
Duration = Annotated[float, Field(gt=0, le=work.MAX_DURATION_S)]
Concurrency = Annotated[int, Field(gt=0, le=work.MAX_CONCURRENCY)]
Rate = Annotated[float, Field(gt=0, le=work.MAX_RATE_RPS)]
LEVEL_LEAST = 59  # at the least where a level would take too long otherwise: for a p95
LEVEL_REQUESTS = 500  # at the least in a level; the 95 % bound of a p99 needs 299 that are independent
METRICS = (
    "mean_ms", "min_ms", "max_ms", "p50_ms", "p90_ms", "p95_ms", "p99_ms",
    "success_ratio", "throughput_rps", "failed", "service_p95_ms", "service_p99_ms", "server_p95_ms", "server_p99_ms",
)  # fmt: skip
CONNECTIONS = 1000  # of an open model, unless it says otherwise


class ScenarioBase(Model):
    """What every scenario has, whatever its executor."""

    executor: str
    request: str
    parameters: dict[Name, Values] = Field(default={})
    warm_up_s: float = Field(default=0.0, ge=0, le=work.MAX_DURATION_S)
    timeout_s: float = Field(default=10.0, ge=0.001, le=work.MAX_TIMEOUT_S)
    max_connections: int | None = Field(default=None, gt=0, le=work.MAX_CONCURRENCY)
    fresh_connections: bool = False

    @model_validator(mode="after")
    def _parameters_fit(self) -> Self:
        if taken := sorted(COLUMNS & self.parameters.keys()):
            raise ValueError(f"parameters not named as a column of the samples: {', '.join(taken)}")
        if (count := math.prod(len(values) for values in self.parameters.values())) > work.MAX_COMBINATIONS:
            raise ValueError(f"at most {work.MAX_COMBINATIONS} combinations of parameters, these are {count}")
        return self

    @property
    def connections(self) -> int:
        """Return how many connections may be open at once."""
        return self.max_connections or CONNECTIONS

    @property
    def counted(self) -> int | None:
        """Return how many requests will count; None where that is not known beforehand."""
        return None

    def work(self, address: Address, requests: tuple[PreparedRequest, ...]) -> Work:
        """Return what the load generator is given to do."""
        own = {name: getattr(self, name) for name in ("concurrency", "rounds", "schedule", "duration_s") if hasattr(self, name)}
        return Work(
            address=address,
            requests=requests,
            executor=self.executor,
            warm_up_s=self.warm_up_s,
            timeout_s=self.timeout_s,
            max_connections=self.connections,
            fresh_connections=self.fresh_connections,
            **own,
        )


class Users(ScenarioBase):
    """What the executors have in common that keep a number of requests in flight."""

    concurrency: Concurrency

    @property
    def connections(self) -> int:
        """Return how many connections may be open at once: by default one for each request in flight."""
        return min(self.max_connections or self.concurrency, self.concurrency)


class Open(ScenarioBase):
    """What the open models have in common: requests start when the schedule says, whatever became of the ones before."""

    @property
    def stages_of_rate(self) -> tuple[Stage, ...]:
        """Return the measured stages, without the warm-up."""
        raise NotImplementedError

    @property
    def counted(self) -> int:
        """Return how many requests are due after the warm-up."""
        return Schedule(stages=self.stages_of_rate).total

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if (duration_s := Schedule(stages=self.stages_of_rate).duration_s) > work.MAX_DURATION_S:
            raise ValueError(f"at most {work.MAX_DURATION_S:g} s, all stages together take {duration_s:g}")
        if not self.counted:
            raise ValueError("at least one request: rate times duration is nothing")
        if (count := self.schedule.total) > work.MAX_REQUESTS:
            raise ValueError(f"at most {work.MAX_REQUESTS} requests, rate times duration with the warm-up is {count}")
        return self

    @property
    def schedule(self) -> Schedule:
        """Return when requests are due: a warm-up at the first rate, then the stages."""
        stages = self.stages_of_rate
        rate_rps = stages[0].start_rps
        warm_up = [Stage(start_rps=rate_rps, end_rps=rate_rps, duration_s=self.warm_up_s)] if self.warm_up_s else []
        return Schedule(stages=(*warm_up, *stages))


class Burst(Users):
    """Rounds of `concurrency` requests that start at one instant; the next round starts when all have ended."""

    executor: Literal["burst"]
    rounds: int = Field(default=1, gt=0, le=work.MAX_ROUNDS)

    @property
    def counted(self) -> int:
        """Return how many requests all rounds have."""
        return self.concurrency * self.rounds

    @model_validator(mode="after")
    def _not_too_many(self) -> Self:
        if self.counted > work.MAX_REQUESTS:
            raise ValueError(f"at most {work.MAX_REQUESTS} requests, concurrency times rounds is {self.counted}")
        return self


class Closed(Users):
    """`concurrency` users for `duration_s`; each sends again as soon as it is answered."""

    executor: Literal["closed"]
    duration_s: Duration


class ConstantRate(Open):
    """`rate_rps` requests a second for `duration_s`."""

    executor: Literal["constant_rate"]
    rate_rps: Rate
    duration_s: Duration

    @property
    def stages_of_rate(self) -> tuple[Stage, ...]:
        """Return the one stage."""
        return (Stage(start_rps=self.rate_rps, end_rps=self.rate_rps, duration_s=self.duration_s),)


class Ramp(Model):
    """A stage of a ramp: in `duration_s`, the rate goes in a straight line from where it is to `rate_rps`."""

    rate_rps: Rate
    duration_s: Duration


class RampingRate(Open):
    """Rates that change in straight lines: from `start_rate_rps`, by default the first stage's own, to that of each stage."""

    executor: Literal["ramping_rate"]
    stages: Annotated[tuple[Ramp, ...], Field(min_length=1, max_length=work.MAX_STAGES)]
    start_rate_rps: float | None = Field(default=None, ge=0, le=work.MAX_RATE_RPS)

    @property
    def stages_of_rate(self) -> tuple[Stage, ...]:
        """Return the stages, each from where the one before has ended."""
        first_rps = self.stages[0].rate_rps if self.start_rate_rps is None else self.start_rate_rps
        starts = [first_rps, *(stage.rate_rps for stage in self.stages)]
        return tuple(
            Stage(start_rps=start, end_rps=stage.rate_rps, duration_s=stage.duration_s)
            for start, stage in zip(starts, self.stages, strict=False)
        )

    @property
    def duration_s(self) -> float:
        """Return how long all stages take."""
        return math.fsum(stage.duration_s for stage in self.stages)


class Capacity(ScenarioBase):
    """A sweep of arrival rates, each a level of its own with its own warm-up, until the highest that meets every objective is known."""

    executor: Literal["capacity"]
    start_rate_rps: Rate
    max_rate_rps: Rate
    level_s: Duration = 3.0
    factor: float = Field(default=2.0, ge=1.1, le=10)
    levels_min: int = Field(default=LEVELS_NEEDED, ge=LEVELS_NEEDED, le=50)
    levels_max: int = Field(default=12, ge=LEVELS_NEEDED, le=50)
    precision_ratio: float = Field(default=0.15, ge=0.001, le=1)
    sustained_ratio: float = Field(default=0.95, gt=0, le=1)

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.start_rate_rps > self.max_rate_rps or self.levels_min > self.levels_max:
            raise ValueError("start_rate_rps at most max_rate_rps, and levels_min at most levels_max")
        if (longest_s := self.levels_max * (self.level_s + self.warm_up_s)) > work.MAX_DURATION_S:
            raise ValueError(f"at most {work.MAX_DURATION_S:g} s, levels_max levels with their warm-up take {longest_s:g}")
        if self.start_rate_rps < self.lowest_rps:
            lowest = math.ceil(self.lowest_rps * 100) / 100
            raise ValueError(
                f"start_rate_rps at least {lowest:.2f}: a level of {self._longest_s:.3g} s would have too few requests for a p95"
            )
        return self

    @property
    def _longest_s(self) -> float:
        """Return how long a level may take at most, so that all of them end in time."""
        return work.MAX_DURATION_S / self.levels_max - self.warm_up_s

    @property
    def lowest_rps(self) -> float:
        """Return the lowest rate of a level: below it, even the longest has too few requests to bound a p95."""
        return LEVEL_LEAST / self._longest_s

    def level(self, rate_rps: float) -> ConstantRate:
        """Return one level, long enough for a 95 % bound of its p99, or as long as a level may be."""
        common = {name: getattr(self, name) for name in ScenarioBase.model_fields if name != "executor"}
        duration_s = min(max(self.level_s, LEVEL_REQUESTS / rate_rps), self._longest_s)
        return ConstantRate(executor="constant_rate", rate_rps=rate_rps, duration_s=duration_s, **common)


Paced = Burst | Closed | ConstantRate | RampingRate  # all but a sweep, whose levels are each a constant rate
Scenario = Annotated[Paced | Capacity, Field(discriminator="executor")]


class GeneratorLimits(Model):
    """Beyond these limits the load generator itself was the bottleneck, and a scenario is invalid.

    The lags have none by default: each figure is judged by how much of it they may have added.
    """

    lag_p99_ms: float | None = Field(default=None, gt=0)
    cpu_ratio: float = Field(default=0.9, gt=0, le=1)
    dispatch_lag_p99_ms: float | None = Field(default=None, gt=0)
    achieved_ratio: float = Field(default=0.95, gt=0, le=1)


def _objective(text: str) -> str:
    """Check an objective but for its scenario, which may be wrong itself."""
    scope = text.partition(".")[0].strip()
    parse(text, METRICS, [scope])
    return text


class LoadPlan(Model):
    """The scenarios, their objectives, and when a measurement does not count."""

    scenarios: dict[Name, Scenario] = Field(min_length=1)
    objectives: Annotated[tuple[Annotated[str, AfterValidator(_objective)], ...], AfterValidator(each_once)] = ()
    extensions: int = Field(default=0, ge=0, le=work.MAX_EXTENSIONS)
    generator: GeneratorLimits = GeneratorLimits()
    workers: Annotated[Any, BeforeValidator(checked_workers)] = 1
    seed: int = 0

    @model_validator(mode="after")
    def _one_sweep(self) -> Self:
        if len(self.sweeps) > 1:
            raise ValueError(f"at most one scenario of executor capacity, these are {', '.join(self.sweeps)}")
        return self

    @property
    def parsed(self) -> tuple[Objective, ...]:
        """Return the objectives, parsed; a `ConfigError` where a scope is none of the scenarios."""
        return parse_all(self.objectives, METRICS, self.scenarios, file="plan")

    @property
    def sweeps(self) -> dict[str, Capacity]:
        """Return the capacity scenario, if there is one, by its name."""
        return {name: scenario for name, scenario in self.scenarios.items() if isinstance(scenario, Capacity)}


# ---- sample size ----

_PERCENTILE = re.compile(r"(?:service_|server_)?p(\d\d)_ms")


def problems(plan: LoadPlan, file: str) -> list[Problem]:
    """Return one problem for each objective and scenario whose number of requests is known and does not do, with the one that would."""
    lines = config.lines_by_key(file)
    return [
        Problem(
            file=file,
            line=lines.get(f"scenarios.{name}"),
            key=f"scenarios.{name}",
            got=f"{sent} requests for {objective}",
            allowed=f"{needed} or more, with which it can be proven with 95 % confidence; with fewer it is not_proven",
        )
        for objective in plan.parsed
        for name, scenario in plan.scenarios.items()
        if objective.scope in (None, name) and scenario.counted is not None
        if (needed := _needed(objective)) > (sent := scenario.counted * (1 + plan.extensions))
    ]


def _needed(objective: Objective) -> int:
    """Return how many requests can prove an objective, all of them succeeding; 0 where any number does, or none."""
    if objective.metric == "success_ratio":
        return needed_n(objective.limit) if objective.upward and 0 < objective.limit < 1 else 0
    percentile = _PERCENTILE.fullmatch(objective.metric)
    return needed_n(int(percentile[1]) / 100) if percentile and not objective.upward else 0
