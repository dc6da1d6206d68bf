"""Times the stages of the pages of a job: one span each, with what it moved. It records nothing on disk."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tapecheck.vendor.bars import IntArray

Received = dict[tuple[str, str], list[IntArray]]
"""By symbol and timeframe the starts (Unix ms) that the source sent, an array a page, in its order."""

STAGES = ("wait", "fetch", "decode", "features", "insert", "other")
"""In the order in which a page passes them; `wait` is for a token or between two attempts, `other` is checkpoints and aggregation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One stage of one page of one job."""

    worker: int = 0
    symbol: str
    timeframe: str
    page: int
    stage: str
    began_ns: int
    ended_ns: int
    rows: int = 0
    bytes: int = 0
    requests: int = 0
    statements: int | None = 0

    @property
    def duration_s(self) -> float:
        """Return how long it took."""
        return (self.ended_ns - self.began_ns) / 1e9


@dataclass(slots=True)
class Cost:
    """What a stage moved; whoever runs the stage fills it in."""

    rows: int = 0
    bytes: int = 0
    requests: int = 0
    statements: int = 0


@dataclass(frozen=True, slots=True)
class Trace:
    """Takes the spans of one job, from any thread, a failed stage's too, and the starts that the source sent for it."""

    symbol: str
    timeframe: str
    worker: int = 0
    spans: list[Span] = field(default_factory=list)
    received: Received = field(default_factory=dict)

    @contextmanager
    def span(self, stage: str, page: int) -> Iterator[Cost]:
        """Record how long the context lasts."""
        cost, began_ns = Cost(), time.monotonic_ns()
        try:
            yield cost
        finally:
            span = Span(
                worker=self.worker,
                symbol=self.symbol,
                timeframe=self.timeframe,
                page=page,
                stage=stage,
                began_ns=began_ns,
                ended_ns=time.monotonic_ns(),
                rows=cost.rows,
                bytes=cost.bytes,
                requests=cost.requests,
                statements=cost.statements,
            )
            self.spans.append(span)

    def sent(self, t: IntArray) -> None:
        """Note the starts (Unix ms) of a page, as they were sent."""
        self.received.setdefault((self.symbol, self.timeframe), []).append(t)

    def of(self, timeframe: str) -> "Trace":
        """Return a trace of another job of the same symbol and worker, into the same collections."""
        return Trace(self.symbol, timeframe, self.worker, self.spans, self.received)
