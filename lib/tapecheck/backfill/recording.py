"""What a backfill leaves behind: spans, jobs, and what is needed to read them without a target."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
from pydantic import TypeAdapter

from tapecheck import runs, validation
from tapecheck.backfill import spans
from tapecheck.backfill.integrity import Integrity
from tapecheck.backfill.plan import BackfillPlan
from tapecheck.backfill.spans import Span

_METADATA_KEY = b"tapecheck"
COMPLETED, FAILED, SKIPPED = "completed", "failed", "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What became of one job; one that was skipped began and ended nothing.

    `requests` and `repeated` of a symbol whose series are derived stand at the job that they were fetched for.
    """

    symbol: str
    timeframe: str
    state: str
    error: str = ""
    inserted: int = 0
    changed: int = 0
    unchanged: int = 0
    repeated: int = 0

    @property
    def records(self) -> int:
        """Return how many bars were written or found to be there already."""
        return self.inserted + self.changed + self.unchanged


JOBS = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in ("symbol", "timeframe", "state", "error")),
        *(pa.field(name, pa.int64(), metadata={"unit": "bars"}) for name in ("inserted", "changed", "unchanged", "repeated")),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context(validation.Context):
    """What the spans do not say: when by their clock, by which plan, and what is stored.

    `processes` is how many did the jobs, each with as many at once as the plan says; `remote` are the stages that did not use
    this machine's cores; `integrity` is None where nobody audited what was stored. `target_stopped`: the sandbox was gone
    before the end.
    """

    began_ns: int
    ended_ns: int
    plan: BackfillPlan
    processes: int = 1
    remote: tuple[str, ...] = ()
    integrity: Integrity | None = None
    target_stopped: bool = False

    @property
    def wall_s(self) -> float:
        """How long the run took."""
        return (self.ended_ns - self.began_ns) / 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """Spans in the order in which they began, jobs in the order of the plan, and their context."""

    spans: list[Span]
    jobs: list[Job]
    context: Context
    source: str | None = None

    def tables(self) -> Mapping[str, pa.Table]:
        """Return the tables to store; the spans carry the context in their metadata."""
        context = TypeAdapter(Context).dump_json(self.context)
        table = spans.to_table(self.spans).replace_schema_metadata({_METADATA_KEY: context})
        return {"spans": table, "jobs": pa.Table.from_pylist([asdict(job) for job in self.jobs], JOBS)}


def read(path: str | Path) -> Recording:
    """Read the recording of a run folder.

    Raises:
        ConfigError: the folder is no complete backfill run.
    """
    return read_files(runs.recording(path, "backfill"), source=str(path))


def read_files(folder: Path, *, source: str) -> Recording:
    """Read the files of a recording, whatever else the folder holds.

    Raises:
        ConfigError: one is missing, broken or incomplete.
    """
    with runs.reading(source, "spans", "backfill"):
        table = runs.table(
            folder / "spans.parquet", spans.SCHEMA, may_lack=["statements"], may_be_null=["statements"], most=runs.MOST_OBJECTS
        )
        jobs = runs.table(folder / "jobs.parquet", JOBS, may_be_null=["error"], most=runs.MOST_OBJECTS)
        context = TypeAdapter(Context).validate_python(json.loads(table.schema.metadata[_METADATA_KEY]))
        found = [Job(**row) for row in jobs.to_pylist()]
        return Recording(spans=spans.from_table(table), jobs=found, context=context, source=source)
