"""What watching a backfill leaves: requests to its vendor, sessions of its database, rows of its tables, CPU of its processes."""

from dataclasses import dataclass

import pyarrow as pa

from tapecheck import recording
from tapecheck.recording import MOST_OBJECTS, Table

EXCHANGES = pa.schema(
    [
        pa.field("began_ns", pa.int64(), metadata={"unit": "ns, monotonic"}),
        pa.field("ended_ns", pa.int64(), metadata={"unit": "ns, monotonic; the last byte was passed on"}),
        pa.field("path", pa.string(), metadata={"unit": "as it was asked for, without query"}),
        pa.field("follows", pa.bool_(), metadata={"unit": "whether it was asked for by a cursor"}),
        pa.field("status", pa.int32(), metadata={"unit": "HTTP status; 0 without a whole answer"}),
        pa.field("bytes", pa.int64(), metadata={"unit": "bytes of the body, as it was sent"}),
        pa.field("failure", pa.string()),
        pa.field("next_origin", pa.string(), metadata={"unit": "scheme and host of next_url; empty where there was none"}),
    ]
)
SESSIONS = pa.schema(
    [
        pa.field("at_ns", pa.int64(), metadata={"unit": "ns, monotonic; the middle of the question"}),
        pa.field("working", pa.int32(), metadata={"unit": "sessions that the server works for"}),
        pa.field("open", pa.int32(), metadata={"unit": "sessions in a transaction, or sending rows, that wait for their client"}),
        pa.field("idle", pa.int32(), metadata={"unit": "sessions without a transaction"}),
        pa.field("locked", pa.int32(), metadata={"unit": "of those that work, waiting for a lock"}),
        pa.field("hidden", pa.int32(), metadata={"unit": "sessions whose state may not be read"}),
    ]
)
ROWS = pa.schema(
    [
        pa.field("at_ns", pa.int64(), metadata={"unit": "ns, monotonic"}),
        pa.field("table", pa.string()),
        pa.field(
            "oid", pa.int64(), metadata={"unit": "its number in the database; another one for a table that was made anew, null without one"}
        ),
        pa.field("rows", pa.int64(), metadata={"unit": "rows, counted; null where only the statistics were read"}),
        pa.field("inserted", pa.int64(), metadata={"unit": "rows, by the server's statistics since some moment"}),
        pa.field("updated", pa.int64(), metadata={"unit": "rows, likewise"}),
    ]
)
CPU = pa.schema(
    [
        pa.field("at_ns", pa.int64(), metadata={"unit": "ns, monotonic"}),
        pa.field("cpu_s", pa.float64(), metadata={"unit": "s of CPU since its start, of the command and its children"}),
        pa.field("rss_bytes", pa.int64(), metadata={"unit": "bytes"}),
    ]
)
TABLES = {
    "exchanges": Table(EXCHANGES, most=MOST_OBJECTS * 5),
    "sessions": Table(SESSIONS),
    "rows": Table(ROWS, may_be_null=("oid", "rows", "inserted", "updated")),
    "cpu": Table(CPU),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Context(recording.Context):
    """How it was started, when (monotonic ns), and how it ended.

    Args:
        command: what was run, or the request that started it.
        exit_code: of the command, negative for a signal; None where a request started it, or where it was ended at the limit.
        said: the last line of what it wrote to stderr.
        over_limit_s: the limit at which it was ended; None where it ended by itself.
        left: command lines of processes that it left running, which were ended.
        watched: whether a database was watched; `lost` why that ended early.
        rewrote: whether `next_url` was changed on the way.
    """

    command: str
    began_ns: int
    ended_ns: int
    exit_code: int | None
    said: str = ""
    over_limit_s: float | None = None
    left: tuple[str, ...] = ()
    watched: bool
    lost: str = ""
    proxy_url: str
    vendor_url: str
    rewrote: bool
    every_ms: float

    @property
    def wall_s(self) -> float:
        """Return how long it took."""
        return (self.ended_ns - self.began_ns) / 1e9


class Recording(recording.Recording[Context]):
    """What was seen of one backfill."""
