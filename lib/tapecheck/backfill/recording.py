"""What took how long: one span a stage of a page of a job, as rows, Parquet and a Chrome trace. It measures no stage itself."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, Self

import pyarrow as pa

from tapecheck import recording
from tapecheck.backfill import coverage
from tapecheck.backfill.integrity import Integrity
from tapecheck.backfill.plan import BackfillPlan
from tapecheck.vendor.trace import Oddity, Span

FETCHING = ("wait", "fetch", "decode")  # one page after another, while the page before is stored
TRACKS = 1000  # a track's number in a Chrome trace is its worker's times this

SCHEMA = pa.schema(
    [
        pa.field("worker", pa.int32(), metadata={"unit": "number of the job worker, from 0"}),
        pa.field("symbol", pa.dictionary(pa.int32(), pa.string())),
        pa.field("timeframe", pa.dictionary(pa.int32(), pa.string())),
        pa.field("page", pa.int32(), metadata={"unit": "number of the page in its job, from 0; -1 before the first"}),
        pa.field("stage", pa.dictionary(pa.int32(), pa.string())),
        pa.field("began_ns", pa.int64(), metadata={"unit": "ns, monotonic"}),
        pa.field("ended_ns", pa.int64(), metadata={"unit": "ns, monotonic"}),
        pa.field("rows", pa.int64(), metadata={"unit": "bars"}),
        pa.field("bytes", pa.int64(), metadata={"unit": "bytes of the answer's body, decompressed"}),
        pa.field("requests", pa.int32(), metadata={"unit": "requests sent"}),
        pa.field("statements", pa.int32(), metadata={"unit": "SQL statements sent, a COPY as one; null where nobody counted"}),
    ]
)


def chrome_trace(spans: Iterable[Span]) -> dict[str, Any]:
    """Return spans as a Chrome trace, which Perfetto opens: a worker is a process, its jobs are slices, their stages nest below.

    A worker has two tracks, since one page is fetched while the one before is stored. Processes are numbered from 1, and no track
    has the number of its process or of another track: Perfetto takes 0 and the process's own number for one thread.
    """
    tracks: dict[tuple[int, bool], list[Span]] = defaultdict(list)
    for span in sorted(spans, key=lambda span: (span.began_ns, span.ended_ns)):
        tracks[span.worker, span.stage not in FETCHING].append(span)
    zero_ns = min((own[0].began_ns for own in tracks.values()), default=0)
    events: list[dict[str, Any]] = []
    for (worker, stores), own in sorted(tracks.items()):
        place = {"pid": worker + 1, "tid": (worker + 1) * TRACKS + stores}
        events.append({"ph": "M", "name": "process_name", **place, "args": {"name": f"worker {worker}"}})
        events.append({"ph": "M", "name": "thread_name", **place, "args": {"name": "stores pages" if stores else "fetches pages"}})
        for (symbol, timeframe), group in groupby(own, key=lambda span: (span.symbol, span.timeframe)):
            job = list(group)
            times_ns = job[0].began_ns - zero_ns, max(span.ended_ns for span in job) - zero_ns
            events.append({"name": f"{symbol} {timeframe}", "cat": "job", **place, **_slice(*times_ns)})
            for span in job:
                cost = {"page": span.page, "rows": span.rows, "bytes": span.bytes, "requests": span.requests}
                times_ns = span.began_ns - zero_ns, span.ended_ns - zero_ns
                events.append({"name": span.stage, "cat": "stage", "args": cost, **place, **_slice(*times_ns)})
    return {"displayTimeUnit": "ms", "traceEvents": events}


def _slice(began_ns: int, ended_ns: int) -> dict[str, Any]:
    return {"ph": "X", "ts": began_ns / 1e3, "dur": (ended_ns - began_ns) / 1e3}


# ---- recording ----

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
class Context(recording.Context):
    """What the spans do not say: when by their clock, by which plan, and what is stored.

    `processes` is how many did the jobs, each with as many at once as the plan says; `remote` are the stages that did not use
    this machine's cores; `oddities` is what the vendor's answers had that they should not have; `integrity` is None where nobody
    audited what was stored. `target_stopped`: the sandbox was gone before the end.
    """

    began_ns: int
    ended_ns: int
    plan: BackfillPlan
    processes: int = 1
    remote: tuple[str, ...] = ()
    oddities: tuple[Oddity, ...] = ()
    integrity: Integrity | None = None
    target_stopped: bool = False

    @property
    def wall_s(self) -> float:
        """How long the run took."""
        return (self.ended_ns - self.began_ns) / 1e9


class Recording(recording.Recording[Context]):
    """Spans in the order in which they began, jobs in the order of the plan, and their context."""

    @classmethod
    def of(cls, spans: Iterable[Span], jobs: Iterable[Job], context: Context, days: pa.Table | None = None) -> Self:
        """Return the recording of what was measured; `days` is what an audit found on each day of each series."""
        ordered = sorted(spans, key=lambda span: (span.began_ns, span.ended_ns))
        tables = {
            "spans": recording.table_of(([getattr(span, name) for name in SCHEMA.names] for span in ordered), SCHEMA),
            "jobs": pa.Table.from_pylist([asdict(job) for job in jobs], JOBS),
            "days": coverage.SCHEMA.empty_table() if days is None else days,
        }
        return cls(context=context, tables=tables)

    @cached_property
    def spans(self) -> list[Span]:
        """Return the spans; in a recording that is older than the count of statements, they have none."""
        table = self.tables["spans"]
        return [
            Span(**{"statements": None} | row) for row in table.select([n for n in SCHEMA.names if n in table.column_names]).to_pylist()
        ]

    @cached_property
    def jobs(self) -> list[Job]:
        """Return the jobs."""
        return [Job(**row) for row in self.tables["jobs"].to_pylist()]
