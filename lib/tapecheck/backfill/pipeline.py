"""Brings jobs, each a symbol and timeframe, up to date: source -> features -> sink, page by page. It schedules nothing."""

import asyncio
import datetime as dt
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace

import numpy as np
from anyio.to_thread import run_sync  # unlike asyncio's, it outlasts a cancelled scope: a sink is never closed while it writes

from tapecheck.backfill import features
from tapecheck.backfill.calendar import day_of, derive
from tapecheck.backfill.checkpoints import Checkpoint
from tapecheck.backfill.features import Compute
from tapecheck.backfill.sink import Counts, Sink
from tapecheck.statistics import intervals
from tapecheck.vendor.bars import Bars, FloatArray, periods_per_year, to_datetime, to_ms
from tapecheck.vendor.source import Page, Source
from tapecheck.vendor.trace import Cost, Trace
from tapecheck.vendor.wire import BadPage, Disordered, SourceError

log = logging.getLogger(__name__)
BEFORE_PAGES = -1  # the page number of what a job does before its first page
A_DAY = 288  # the most bars that a day has
LONGEST_CLOSURE_MS = 5 * 86_400_000
SAME_BASIS = 1e-3  # by which an opening price may be corrected; beyond it all prices of the series are others


@dataclass(frozen=True, slots=True, kw_only=True)
class Refreshed:
    """What a refresh did."""

    counts: Counts
    repeated: int
    checkpoint: Checkpoint


class _Outdated(Exception):
    """What is stored of a series cannot be continued: its prices have another basis, or the vendor no longer has its newest bars."""


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
    """Fetch what a symbol's jobs do not cover yet, the newest bar again, and store it with its features.

    A longer bar is built when its day is complete or the source has no more, so that it is what the source would have sent.
    A symbol with such bars that was interrupted begins again at the day that its job which is furthest behind was in.
    What is stored is fetched anew, and replaced in one transaction, where it begins later than asked for, has another basis of
    its prices or other features, or where the bars that are fetched again are others or not there.

    Args:
        timeframes: the jobs: one that is fetched, or any number that are built from the bars of `base`.
        base: the timeframe that is fetched, where it is not that of the only job.
        start: where history begins; for bars that are built the start of one of the symbol's days.
        end: the newest bar wanted begins by then.
        compute: computes the features of a series; None for none.

    Raises:
        SourceError: upstream does not give it; what was stored before stays.
        ValueError: the features of a page cannot be computed; nothing of that page is stored.
    """
    base = base or timeframes[0]
    trace = trace or Trace(symbol, base)
    asking = base if base in timeframes else timeframes[0]  # the job that requests and their spans are booked on
    jobs = [await _Job.opened(source, sink, trace.of(timeframe), compute) for timeframe in timeframes]
    series = _Series(source, base, start, end, jobs, trace.of(asking))
    repeated = None
    if not any(job.is_outdated(start) for job in jobs):
        try:
            repeated = await series.continue_()
        except (_Outdated, Disordered) as error:
            log.warning("%s: %s; it is fetched anew", symbol, error)
    if repeated is None:
        repeated = await series.replace()
    return {job.timeframe: job.outcome(repeated if job.timeframe == asking else 0) for job in jobs}


class _Series:
    """The bars of a symbol that are fetched, and the jobs that are made of them."""

    def __init__(self, source: Source, base: str, start: dt.datetime, end: dt.datetime, jobs: "Sequence[_Job]", trace: Trace) -> None:
        self._source, self._base, self._start, self._end, self._jobs, self._trace = source, base, start, end, jobs, trace
        self._symbol, self._ticker = trace.symbol, source.ticker(trace.symbol)
        self._is_built = tuple(job.timeframe for job in jobs) != (base,)

    def _pages(self, begin: dt.datetime, *, in_order: bool = True) -> AsyncIterator[Page]:
        return self._source.pages(self._symbol, self._base, begin, self._end, self._trace, in_order=in_order)

    async def continue_(self) -> int:
        """Fetch from where the jobs stand, and store page by page; return how many bars were repeated.

        Raises:
            _Outdated: nothing was stored.
            Disordered: what was stored may not be in order.
        """
        marks = [job.now.watermark for job in self._jobs if job.now.watermark]
        begin = self._start
        if len(marks) == len(self._jobs):
            begin = min(_day_start(min(marks), self._ticker) if self._is_built else marks[0], self._end)
        for job in self._jobs:
            await run_sync(job.read_lead, begin)
        repeated, rest = 0, Bars.empty()
        async with aclosing(_ahead(self._pages(begin))) as pages:
            async for page in pages:
                whole = page.bars
                if self._is_built:
                    series = Bars.joined(rest, page.bars)
                    whole = series if page.last else series[: _last_day(series, self._ticker)]
                    rest = series[len(whole) :]
                made = [await self._made(job, page.bars, whole, page.number) for job in self._jobs]
                for job, bars in zip(self._jobs, made, strict=True):
                    job.check(bars, is_last=page.last)
                for job, bars in zip(self._jobs, made, strict=True):
                    await job.store(bars, page, self._start, self._end)
                repeated += page.repeated
        return repeated

    async def replace(self) -> int:
        """Fetch the whole range and replace what is stored; return how many bars were repeated.

        Raises:
            BadPage: upstream has no bars, where there are some; they stay.
        """
        has_bars = any(job.now.watermark for job in self._jobs)
        for job in self._jobs:
            job.begin_anew()
        fetched = [page async for page in self._pages(self._start, in_order=False)]
        bars = Bars.joined(*(page.bars for page in fetched))
        bars = bars[np.argsort(bars.t, kind="stable")]
        if not len(bars) and has_bars:
            raise BadPage(f"{self._symbol}: upstream has no bars any more, where some are stored; they stay as they are")
        page = replace(fetched[-1], bars=bars)
        for job in self._jobs:
            await job.store(await self._made(job, bars, bars, page.number), page, self._start, self._end, anew=True)
        return sum(page.repeated for page in fetched)

    async def _made(self, job: "_Job", fetched: Bars, whole: Bars, page: int) -> Bars:
        return fetched if job.timeframe == self._base else await run_sync(job.derived, whole, page)


def _day_start(moment: dt.datetime, ticker: str) -> dt.datetime:
    return to_datetime(int(day_of(np.array([to_ms(moment) // 1000]), ticker)[0]) * 1000)


def _last_day(series: Bars, ticker: str) -> int:
    """Return where the last day of a series begins, as a row; the rest of that day may still come."""
    days = day_of(series.t // 1000, ticker)
    return int(np.searchsorted(days, days[-1])) if len(days) else 0


class _Job:
    """One job of a symbol: what its checkpoint says, the bars before the next page, and what it has stored."""

    def __init__(self, source: Source, sink: Sink, trace: Trace, compute: Compute | None) -> None:
        self.symbol, self.timeframe, self._ticker = trace.symbol, trace.timeframe, source.ticker(trace.symbol)
        self._sink, self._trace, self._compute = sink, trace, compute
        self._adjusted, self._has_features = source.adjusted, compute is not None
        self.now = Checkpoint(symbol=self.symbol, timeframe=self.timeframe, state="filling")
        self._known, self._lead, self._counts = Bars.empty(), Bars.empty(), Counts()

    @classmethod
    async def opened(cls, source: Source, sink: Sink, trace: Trace, compute: Compute | None) -> "_Job":
        """Return the job as its checkpoint left it."""
        job = cls(source, sink, trace, compute)
        await run_sync(job._read)
        return job

    def _read(self) -> None:
        with self._asking("other", BEFORE_PAGES):
            self.now = self._sink.checkpoint(self.symbol, self.timeframe) or self.now

    def is_outdated(self, start: dt.datetime) -> bool:
        """Tell whether what is stored begins too late, or was made in another way."""
        return self.now.watermark is not None and not self.now.is_made(start=start, adjusted=self._adjusted, features=self._has_features)

    def read_lead(self, begin: dt.datetime) -> None:
        """Read what lies before the first bar that will come, and the newest of those that will come again."""
        if self.now.watermark is None:
            return
        key = (self.symbol, self.timeframe)
        with self._asking("other", BEFORE_PAGES):
            if self._compute:
                self._lead = self._sink.tail(*key, begin, features.LEAD_IN)
            newest = self._sink.tail(*key, self.now.watermark + dt.timedelta(milliseconds=1), A_DAY)
        self._known = newest[newest.t >= to_ms(begin)]

    def begin_anew(self) -> None:
        """Forget what is stored, and what was noted of it."""
        self._lead = Bars.empty()
        self._trace.forget()
        self.now = replace(self.now, watermark=None, covers_from=None)

    def check(self, bars: Bars, *, is_last: bool) -> None:
        """Hold the bars that come again against those that are stored.

        Raises:
            _Outdated: their prices are others, or some do not come.
        """
        is_due = self._known.t <= (bars.t[-1] if len(bars) else -1)
        due, self._known = self._known[is_due | is_last], self._known[~is_due]
        if not len(due):
            return
        is_there = np.isin(due.t, bars.t)
        old = due[is_there]
        new = bars[np.searchsorted(bars.t, old.t)]
        is_price = (old.o > 0) & (new.o > 0)
        ratios = new.o[is_price] / old.o[is_price]
        if len(ratios) and abs((ratio := intervals.median(ratios)) - 1) > SAME_BASIS:
            self._trace.odd("rebased", old.t, f"prices x {ratio:.6g}")
            raise _Outdated(f"{self.timeframe}: prices of {to_datetime(old.t[-1]):%Y-%m-%d %H:%M} are {ratio:.6g} of what they were")
        if not is_there.all():
            raise _Outdated(f"{self.timeframe}: upstream no longer has the bar of {to_datetime(due.t[~is_there][0]):%Y-%m-%d %H:%M}")

    def derived(self, whole: Bars, page: int) -> Bars:
        """Build this job's bars from 5-minute bars."""
        with self._trace.span("other", page):
            return derive(whole, self._ticker, self.timeframe)

    async def store(self, bars: Bars, page: Page, start: dt.datetime, end: dt.datetime, *, anew: bool = False) -> None:
        """Compute the features of a page's bars and write both with the checkpoint; after the last page the job is done."""
        reached = to_datetime(bars.t[-1]) if len(bars) else None
        self.now = replace(
            self.now,
            state="done" if page.last else "filling",
            # a page that is fetched again, since another of the symbol's jobs is further behind, takes no watermark back
            watermark=max((mark for mark in (self.now.watermark, reached) if mark), default=None),
            refreshed_at=page.asked_at if page.last else self.now.refreshed_at,
            covers_from=min(start, self.now.covers_from or start),
            covers_to=end if page.last else self.now.covers_to,
            failures=0,
            error=None,
            adjusted=self._adjusted,
            features=self._has_features,
        )
        columns = await run_sync(self._computed, bars, page.number) if self._compute else {}
        self._counts += await run_sync(self._written, bars, columns, page.number, anew)

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
            try:
                columns = self._compute(series.c, series.v, periods_per_year(self._ticker, self.timeframe), len(self._lead))
            except ValueError as error:
                is_bad = ~(np.isfinite(series.c) & (series.c > 0) & np.isfinite(series.v))
                raise ValueError(
                    f"{self.symbol} {self.timeframe} {to_datetime(series.t[np.argmax(is_bad)]):%Y-%m-%d %H:%M}: {error}"
                ) from None
            self._lead = series[-features.LEAD_IN :]
        return columns

    def _written(self, bars: Bars, columns: dict[str, FloatArray], page: int, anew: bool) -> Counts:
        with self._asking("insert", page) as cost:
            counts = self._sink.write(bars, columns, self.now, anew=anew)
            cost.rows = len(bars)  # those of a page that was refused or lost are not stored
        return counts

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
    """Fetch ahead of the page that is being stored, which waits for the one after it: that one tells whether its bars are in order."""

    async def following() -> Page | None:
        return await anext(pages, None)

    task, before = asyncio.create_task(following()), None
    try:
        while (page := await task) is not None:
            task = asyncio.create_task(following())
            if before is not None:
                yield before
            before = page
        if before is not None:
            yield before
    except SourceError as error:
        if before is not None and not isinstance(error, Disordered):
            yield replace(before, bars=_connected(before.bars))
        raise
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _connected(bars: Bars) -> Bars:
    """Return the bars before the first gap that no exchange has: what lies behind it may be out of order."""
    is_apart = np.diff(bars.t) > LONGEST_CLOSURE_MS
    return bars[: int(np.argmax(is_apart)) + 1] if is_apart.any() else bars
