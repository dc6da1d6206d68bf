"""What a load run leaves behind: samples, resources, and what is needed to read them without a target."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
from pydantic import TypeAdapter

from tapecheck import resources, runs, validation
from tapecheck.load import tables
from tapecheck.load.testimony import Testimony, Tool

_METADATA_KEY = b"tapecheck"


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
class Context(validation.Context):
    """What the samples do not say: how the generator fared, by scenario.

    Each level of a capacity sweep is a scenario of its own, with its rate in `rates_rps`. Of another `tool` that gives no
    single requests, `told` has its figures by scenario, and there are no samples.
    """

    executors: dict[str, str]
    generator: dict[str, GeneratorStats]
    rates_rps: dict[str, float] = field(default_factory=dict)
    tool: Tool | None = None
    told: dict[str, Testimony] = field(default_factory=dict)

    @property
    def measured_by(self) -> str:
        """Return the name of the other tool that measured; empty when it was this workbook."""
        return self.tool.name if self.tool else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """Raw samples (columns: docs/METHOD.md), resources (`resources.SCHEMA`) and their context."""

    samples: pa.Table
    resources: pa.Table
    context: Context
    source: str | None = None

    @property
    def without_samples(self) -> str:
        """Say why there is nothing to draw where there are no samples."""
        return f"{self.context.measured_by} gives figures, and no single requests" if self.context.told else "no requests"

    def tables(self) -> Mapping[str, pa.Table]:
        """Return the tables to store; the samples carry the context in their metadata."""
        context = TypeAdapter(Context).dump_json(self.context)
        samples = self.samples.replace_schema_metadata({**(self.samples.schema.metadata or {}), _METADATA_KEY: context})
        return {"samples": samples, "resources": self.resources}


def read(path: str | Path) -> Recording:
    """Read the recording of a run folder.

    Raises:
        ConfigError: the folder is no complete load run.
    """
    return read_files(runs.recording(path, "load"), source=str(path))


def read_files(folder: Path, *, source: str) -> Recording:
    """Read the files of a recording, whatever else the folder holds.

    Raises:
        ConfigError: one is missing, broken or incomplete.
    """
    with runs.reading(source, "samples", "load"):
        samples = runs.table(folder / "samples.parquet", tables.SCHEMA, may_lack=["retried"], may_be_null=["server_ms", "db_ms"])
        watched = runs.table(folder / "resources.parquet", resources.SCHEMA)
        context = TypeAdapter(Context).validate_python(json.loads(samples.schema.metadata[_METADATA_KEY]))
        if unknown := sorted(context.executors.keys() - context.generator.keys()):
            raise KeyError(f"no figures of the generator for {', '.join(unknown)}")
    pa.default_memory_pool().release_unused()  # what decoding took beside the table
    return Recording(samples=samples, resources=watched, context=context, source=source)
