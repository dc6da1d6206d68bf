"""Brings jobs, each a symbol and timeframe, up to date: source -> features -> sink, page by page. It schedules nothing."""

import asyncio
import datetime as dt
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from anyio.to_thread import run_sync  # unlike asyncio's, it outlasts a cancelled scope: a sink is never closed while it writes

from tapecheck.backfill import features
from tapecheck.backfill.calendar import day_of, derive
from tapecheck.backfill.checkpoints import Checkpoint
from tapecheck.backfill.features import Compute
from tapecheck.backfill.sink import Counts, Sink
from tapecheck.vendor.bars import Bars, FloatArray, periods_per_year, to_datetime, to_ms
from tapecheck.vendor.source import Page, Source
from tapecheck.vendor.trace import Cost, Trace

log = logging.getLogger(__name__)
BEFORE_PAGES = -1  # the page number of what a job does before its first page
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Refreshed:
    """What a refresh did."""

    counts: Counts
    repeated: int
    checkpoint: Checkpoint


async def refresh(
    source: Source,
    sink: Sink,
    symbol: str,
    timeframes: Sequence[str],
    *,
    base: str | None = None,
    start: dt.datetime,
    end: dt.datetime,
    compute: Compute | None = features.compute,
    trace: Trace | None = None,
) -> dict[str, Refreshed]:
    """Fetch what is missing of a symbol's jobs since their checkpoints, the newest bar again, and store it with its features.

    A longer bar is built when its day is complete or the source has no more, so that it is what the source would have sent.
    A symbol with such bars that was interrupted begins again at the day that its job which is furthest behind was in.

    Args:
        timeframes: the jobs: one that is fetched, or any number that are built from the bars of `base`.
        base: the timeframe that is fetched, where it is not that of the only job.
        start: where history begins for a job that has no watermark yet; for bars that are built the start of one of the symbol's days.
        end: the newest bar wanted begins by then.
        compute: computes the features of a series; None for none.

    Raises:
        SourceError: upstream does not give it; what was stored before stays.
        ValueError: the features of a page cannot be computed; nothing of that page is stored.
    """
    base = base or timeframes[0]
    trace, is_built = trace or Trace(symbol, base), tuple(timeframes) != (base,)
    asking = base if base in timeframes else timeframes[0]  # the job that requests and their spans are booked on
    jobs = [await _Job.opened(sink, trace.of(timeframe), compute) for timeframe in timeframes]
    marks = [job.now.watermark for job in jobs if job.now.watermark]
    begin = start if len(marks) < len(jobs) else _day_start(min(marks), symbol) if is_built else marks[0]
    for job in jobs:
        await job.read_lead(begin)
    repeated, rest = 0, Bars.empty()
    async with aclosing(_ahead(source.pages(symbol, base, begin, end, trace.of(asking)))) as pages:
        async for page in pages:
            whole = page.bars
            if is_built:
                series = Bars.joined(rest, page.bars)
                whole = series if page.last else series[: _last_day(series, symbol)]
                rest = series[len(whole) :]
            for job in jobs:
                bars = page.bars if job.timeframe == base else await run_sync(job.derived, whole, page.number)
                await job.store(bars, page)
            repeated += page.repeated
    return {job.timeframe: job.outcome(repeated if job.timeframe == asking else 0) for job in jobs}


def _day_start(moment: dt.datetime, symbol: str) -> dt.datetime:
    return to_datetime(int(day_of(np.array([to_ms(moment) // 1000]), symbol)[0]) * 1000)


def _last_day(series: Bars, symbol: str) -> int:
    """Return where the last day of a series begins, as a row; the rest of that day may still come."""
    days = day_of(series.t // 1000, symbol)
    return int(np.searchsorted(days, days[-1])) if len(days) else 0


class _Job:
    """One job of a symbol: what its checkpoint says, the bars before the next page, and what it has stored."""

    def __init__(self, sink: Sink, trace: Trace, compute: Compute | None) -> None:
        self.symbol, self.timeframe = trace.symbol, trace.timeframe
        self._sink, self._trace, self._compute = sink, trace, compute
        self.now = Checkpoint(symbol=self.symbol, timeframe=self.timeframe, state="filling")
        self._lead, self._counts = Bars.empty(), Counts()

    @classmethod
    async def opened(cls, sink: Sink, trace: Trace, compute: Compute | None) -> "_Job":
        """Return the job as its checkpoint left it."""
        job = cls(sink, trace, compute)
        before = await run_sync(job._read, lambda: sink.checkpoint(job.symbol, job.timeframe))
        job.now = before or job.now
        return job

    async def read_lead(self, begin: dt.datetime) -> None:
        """Read what lies before the first bar that will come."""
        if self.now.watermark and self._compute:
            self._lead = await run_sync(self._read, lambda: self._sink.tail(self.symbol, self.timeframe, begin, features.LEAD_IN))

    def derived(self, whole: Bars, page: int) -> Bars:
        """Build this job's bars from 5-minute bars."""
        with self._trace.span("other", page):
            return derive(whole, self.symbol, self.timeframe)

    async def store(self, bars: Bars, page: Page) -> None:
        """Compute the features of a page's bars and write both with the checkpoint; after the last page the job is done."""
        self.now = Checkpoint(
            symbol=self.symbol,
            timeframe=self.timeframe,
            state="done" if page.last else "filling",
            watermark=to_datetime(bars.t[-1]) if len(bars) else self.now.watermark,
            refreshed_at=page.asked_at if page.last else self.now.refreshed_at,
        )
        columns = await run_sync(self._computed, bars, page.number) if self._compute else {}
        self._counts += await run_sync(self._written, bars, columns, page.number)

    def outcome(self, repeated: int) -> Refreshed:
        """Return what was done."""
        if repeated:
            log.warning("%s %s: upstream repeated %d bars", self.symbol, self.timeframe, repeated)
        return Refreshed(counts=self._counts, repeated=repeated, checkpoint=self.now)

    def _computed(self, bars: Bars, page: int) -> dict[str, FloatArray]:
        assert self._compute
        with self._trace.span("features", page) as cost:
            cost.rows = len(bars)
            series = Bars.joined(self._lead, bars)
            columns = self._compute(series.c, series.v, periods_per_year(self.symbol, self.timeframe), len(self._lead))
            self._lead = series[-features.LEAD_IN :]
        return columns

    def _written(self, bars: Bars, columns: dict[str, FloatArray], page: int) -> Counts:
        with self._asking("insert", page) as cost:
            counts = self._sink.write(bars, columns, self.now)
            cost.rows = len(bars)  # those of a page that was refused or lost are not stored
        return counts

    def _read(self, work: Callable[[], T]) -> T:
        with self._asking("other", BEFORE_PAGES):
            return work()

    @contextmanager
    def _asking(self, stage: str, page: int) -> Iterator[Cost]:
        """Record a stage with the statements that its sink sends."""
        with self._trace.span(stage, page) as cost:
            before = self._sink.statements
            try:
                yield cost
            finally:
                cost.statements = self._sink.statements - before


async def _ahead(pages: AsyncIterator[Page]) -> AsyncGenerator[Page, None]:
    """Fetch one page ahead of the one that is being stored."""

    async def following() -> Page | None:
        return await anext(pages, None)

    task = asyncio.create_task(following())
    try:
        while (page := await task) is not None:
            task = asyncio.create_task(following())
            yield page
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
