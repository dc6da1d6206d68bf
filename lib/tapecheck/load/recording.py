"""What a load run leaves beside its samples: how the generator fared, and what another tool reports that measured in our place."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import AliasChoices, Field

from tapecheck import recording
from tapecheck.errors import ConfigError, Problem
from tapecheck.statistics.intervals import Distribution, Figure, Percentile

LEVELS = (50, 90, 95, 99)  # per cent: the percentiles of a distribution
SCHEDULE = "it does not say when requests were due: response time is service time, and coordinated omission cannot be excluded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """The tool that measured in our place, the kind of its output, and what that leaves open, a sentence each.

    `answers_only`: requests without an answer are missing, so that nothing bounds what is said of the rest.
    """

    name: str
    output: str
    notes: tuple[str, ...]
    answers_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedFigures:
    """What a tool says of some requests; `response_time_ms` has NaN for what it does not say."""

    requests: int
    failed: int
    response_time_ms: Distribution | None
    bytes_mean: Figure = math.nan

    def __post_init__(self) -> None:
        """Refuse counts that cannot be."""
        if not 0 <= self.failed <= self.requests:
            raise ValueError(f"{self.failed} failures of {self.requests} requests")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedSummary(ImportedFigures):
    """What a tool says of one scenario; `by` has the same for each value of a parameter."""

    duration_s: float
    errors: dict[str, int]
    by: dict[str, dict[str, ImportedFigures]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a duration that cannot be."""
        ImportedFigures.__post_init__(self)
        if self.duration_s < 0:
            raise ValueError(f"a duration of {self.duration_s:g} s")


def distribution(
    n: int, percentiles_ms: Mapping[int, float], *, mean_ms: float = math.nan, min_ms: float = math.nan, max_ms: float = math.nan
) -> Distribution | None:
    """Put a tool's own figures of n times, percentiles by per cent, in the place of ours: none has an interval; None when n is 0."""
    if n == 0:
        return None
    values = [percentiles_ms.get(level, math.nan) for level in LEVELS]
    known = [value for value in values if not math.isnan(value)]
    if known != sorted(known) or (not mean_ms >= min_ms >= 0 and not math.isnan(mean_ms + min_ms)) or mean_ms > max_ms:
        raise ValueError(f"mean {mean_ms:g}, min {min_ms:g}, max {max_ms:g}, percentiles {known} ms contradict each other")
    p50, p90, p95, p99 = (
        Percentile(value=value, low=None, high=None, upper=None, n=0 if math.isnan(value) else n, n_effective=0) for value in values
    )
    return Distribution(mean=mean_ms, min=min_ms, max=max_ms, p50=p50, p90=p90, p95=p95, p99=p99)


def unbounded(times: Distribution | None) -> Distribution | None:
    """Take the intervals from a distribution of which the worst may be missing."""
    if times is None:
        return None
    percentiles_ms = {level: getattr(times, f"p{level}").value for level in LEVELS}
    return distribution(times.p50.n, percentiles_ms, mean_ms=times.mean, min_ms=times.min, max_ms=times.max)


# ---- recording ----


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorStats:
    """How the load generator itself fared in one scenario; it must not be the bottleneck.

    `lag_p99_ms` is of its event loops, `dispatch_lag_p99_ms` from intended start to send while a connection was free,
    `cpu_ratio` of its busiest worker without what it waited awake, `achieved_ratio` sent in time over offered (open models
    only). `workers_lost` names each worker that died in mid-run; `clock_error_ms` is how far the clocks of other machines
    may be off. `unsolicited` counts connections on which the target spoke without being asked, `retried` the requests that it sent
    again since the target had closed a reused connection without an answer; `stopped_early`: it had sent as many requests as
    one scenario may; `target_stopped`: the sandbox was gone before its end. What another tool does not say of itself is None.
    """

    lag_p99_ms: float | None
    cpu_ratio: float | None
    achieved_ratio: float | None
    content_checked: int
    dispatch_lag_p99_ms: float | None = None
    workers: int = 1
    workers_lost: tuple[str, ...] = ()
    clock_error_ms: float = 0.0
    unsolicited: int = 0
    retried: int | None = None
    stopped_early: bool = False
    target_stopped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Context(recording.Context):
    """What the samples do not say: how the generator fared, by scenario.

    Each level of a capacity sweep is a scenario of its own, with its rate in `rates_rps`. Of another `tool` that gives no
    single requests, `imported` has its figures by scenario, and there are no samples.
    """

    executors: dict[str, str]
    generator: dict[str, GeneratorStats]
    rates_rps: dict[str, float] = field(default_factory=dict)
    tool: Tool | None = None
    imported: Annotated[dict[str, ImportedSummary], Field(validation_alias=AliasChoices("imported", "told"))] = field(default_factory=dict)

    @property
    def measured_by(self) -> str:
        """Return the name of the other tool that measured; empty when it was this workbook."""
        return self.tool.name if self.tool else ""


class Recording(recording.Recording[Context]):
    """Raw samples (columns: docs/METHOD.md), resources (`resources.SCHEMA`) and their context."""

    def part(self, scenarios: Collection[str], source: str) -> "Recording":
        """Return some scenarios of it, of a sweep each level; a `ConfigError` names those that it does not have."""
        context = self.context
        planned = {name: name.partition(" at ")[0] if name in context.rates_rps else name for name in context.executors}
        if unknown := [name for name in scenarios if name not in planned.values()]:
            allowed = "some of " + ", ".join(dict.fromkeys(planned.values()))
            raise ConfigError([Problem(file=source, key="scenarios", got=", ".join(unknown), allowed=allowed)])
        executors = {name: one for name, one in context.executors.items() if planned[name] in scenarios}
        of_part = replace(context, executors=executors, rates_rps={name: x for name, x in context.rates_rps.items() if name in executors})
        samples = self.samples.filter(pc.is_in(self.samples["scenario"], pa.array(executors)))
        return Recording(context=of_part, tables={**self.tables, "samples": samples}, source=self.source)

    @property
    def samples(self) -> pa.Table:
        """One row a request."""
        return self.tables["samples"]

    @property
    def resources(self) -> pa.Table:
        """What the target's processes used."""
        return self.tables["resources"]

    @property
    def without_samples(self) -> str:
        """Say why there is nothing to draw where there are no samples."""
        return f"{self.context.measured_by} gives figures, and no single requests" if self.context.imported else "no requests"
