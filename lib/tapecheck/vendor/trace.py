"""Notes what the jobs of a backfill take and get: a span for each stage of each page, what was sent, and what was odd about it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Oddity:
    """Bars of a series that an answer should not have had, by kind: how many, the first of them (Unix ms), and what is to say of them."""

    symbol: str
    timeframe: str
    kind: str
    bars: int
    first_ms: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class Log:
    """What the traces of many jobs have noted."""

    spans: list[Span] = field(default_factory=list)
    received: Received = field(default_factory=dict)
    oddities: list[Oddity] = field(default_factory=list)

    def summed(self) -> tuple[Oddity, ...]:
        """Return one oddity a series and kind, with all its bars and the first of them."""
        found: dict[tuple[str, str, str], Oddity] = {}
        for one in self.oddities:
            key = (one.symbol, one.timeframe, one.kind)
            old = found.get(key, replace(one, bars=0))
            found[key] = replace(min(old, one, key=lambda each: each.first_ms), bars=old.bars + one.bars)
        return tuple(found.values())


@dataclass(frozen=True, slots=True)
class Trace:
    """Takes notes of one job, from any thread: the spans of its stages, also of those that fail, and what its source sent."""

    symbol: str
    timeframe: str
    worker: int = 0
    log: Log = field(default_factory=Log)

    @contextmanager
    def span(self, stage: str, page: int) -> Iterator[Cost]:
        """Record how long the context lasts."""
        cost, began_ns = Cost(), time.monotonic_ns()
        try:
            yield cost
        finally:
            place: dict[str, Any] = {
                "worker": self.worker,
                "symbol": self.symbol,
                "timeframe": self.timeframe,
                "page": page,
                "stage": stage,
            }
            self.log.spans.append(Span(**place, began_ns=began_ns, ended_ns=time.monotonic_ns(), **asdict(cost)))

    def sent(self, t: IntArray) -> None:
        """Note the starts (Unix ms) of a page, as they were sent."""
        self.log.received.setdefault((self.symbol, self.timeframe), []).append(t)

    def odd(self, kind: str, t: IntArray, note: str = "") -> None:
        """Note bars, by their starts (Unix ms), that are not as they should be."""
        if len(t):
            first_ms = int(np.min(t))
            self.log.oddities.append(
                Oddity(symbol=self.symbol, timeframe=self.timeframe, kind=kind, bars=len(t), first_ms=first_ms, note=note)
            )

    def forget(self) -> None:
        """Forget what was sent and odd so far, since it is asked for anew; that prices have another basis stays."""
        key = (self.symbol, self.timeframe)
        self.log.received.pop(key, None)
        self.log.oddities[:] = [one for one in self.log.oddities if (one.symbol, one.timeframe) != key or one.kind == "rebased"]

    def of(self, timeframe: str) -> "Trace":
        """Return a trace of another job of the same symbol and worker, into the same log."""
        return Trace(self.symbol, timeframe, self.worker, self.log)
