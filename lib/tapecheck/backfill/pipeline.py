"""Brings one job, a symbol and timeframe, up to date: source -> features -> sink, page by page. It schedules nothing."""

import asyncio
import datetime as dt
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from tapecheck.backfill import features
from tapecheck.backfill.bars import Bars, FloatArray, periods_per_year, to_datetime
from tapecheck.backfill.checkpoints import Checkpoint
from tapecheck.backfill.sink import Counts, Sink
from tapecheck.backfill.source import Page, Source

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a refresh did."""

    counts: Counts
    requests: int
    repeated: int
    checkpoint: Checkpoint


async def refresh(source: Source, sink: Sink, symbol: str, timeframe: str, *, start: dt.datetime, end: dt.datetime) -> Outcome:
    """Fetch what is missing of a job since its checkpoint, the newest bar again, and store it with its features.

    `start` is where history begins for a job that has no watermark yet; the newest bar wanted begins by `end`.

    Raises:
        SourceError: upstream does not give it; what was stored before stays.
        ValueError: the features of a page cannot be computed; nothing of that page is stored.
    """
    before = await asyncio.to_thread(sink.checkpoint, symbol, timeframe)
    now = before or Checkpoint(symbol=symbol, timeframe=timeframe, state="filling")
    mark = now.watermark
    lead = await asyncio.to_thread(sink.tail, symbol, timeframe, mark, features.LEAD_IN) if mark else Bars.empty()
    counts, requests, repeated = Counts(), 0, 0
    async with aclosing(_ahead(source.pages(symbol, timeframe, mark or start, end))) as pages:
        async for page in pages:
            lead, columns = await asyncio.to_thread(_computed, lead, page.bars, symbol, timeframe)
            now = _advanced(now, page)
            counts += await asyncio.to_thread(sink.write, page.bars, columns, now)
            requests, repeated = requests + page.requests, repeated + page.repeated
    if repeated:
        log.warning("%s %s: upstream repeated %d bars", symbol, timeframe, repeated)
    return Outcome(counts=counts, requests=requests, repeated=repeated, checkpoint=now)


def _advanced(before: Checkpoint, page: Page) -> Checkpoint:
    return Checkpoint(
        symbol=before.symbol,
        timeframe=before.timeframe,
        state="done" if page.last else "filling",
        watermark=to_datetime(page.bars.t[-1]) if len(page.bars) else before.watermark,
        refreshed_at=page.asked_at if page.last else before.refreshed_at,
    )


def _computed(lead: Bars, bars: Bars, symbol: str, timeframe: str) -> tuple[Bars, dict[str, FloatArray]]:
    """Compute the features of `bars` after its lead-in; return the next page's lead-in with them."""
    series = Bars.joined(lead, bars)
    columns = features.compute(series.c, series.v, periods_per_year(symbol, timeframe))
    return series[-features.LEAD_IN :], {name: column[len(lead) :] for name, column in columns.items()}


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
