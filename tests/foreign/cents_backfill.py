"""A backfill of another kind: asyncio, three requests at once, one COPY a large page; before, small ones row by row. It times itself."""

import asyncio
import datetime as dt
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from decimal import Decimal

import httpx
import psycopg

SPANS = {"D": "day", "H": "hour"}
COLUMNS = "instrument, span, opened, open_c, high_c, low_c, close_c, shares"
TOOK: dict[str, list[tuple[float, float]]] = {"api": [], "database": []}


@contextmanager
def timed(kind: str) -> Iterator[None]:
    began = time.perf_counter()
    try:
        yield
    finally:
        TOOK[kind].append((began, time.perf_counter()))


def covered(kind: str) -> float:
    """How long at least one of this kind was under way."""
    total, until = 0.0, 0.0
    for began, ended in sorted(TOOK[kind]):
        total += max(0.0, ended - max(began, until))
        until = max(until, ended)
    return total


async def pages(client: httpx.AsyncClient, code: str, span: str, first: str, last: str, most: int) -> AsyncIterator[list[dict]]:
    url = f"{os.environ['FEED']}/v2/aggs/ticker/{code}/range/1/{SPANS[span]}/{first}/{last}?limit={most}"
    while url:
        with timed("api"):
            answer = await client.get(url)
        answer.raise_for_status()
        body = answer.json()
        yield body.get("results", [])
        url = body.get("next_url")


def row(instrument: int, span: str, bar: dict) -> tuple:
    opened = dt.datetime.fromtimestamp(bar["t"] / 1000, dt.UTC).replace(tzinfo=None)
    return (instrument, span, opened, *(int(Decimal(str(bar[key])) * 100) for key in "ohlc"), round(bar["v"]))


async def store(connection: psycopg.AsyncConnection, instrument: int, span: str, bars: list[dict], *, one_by_one: bool) -> None:
    found = [row(instrument, span, bar) for bar in bars]
    with timed("database"):
        if one_by_one:
            for one in found:
                await connection.execute(f"INSERT INTO px.candles ({COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)", one)
                await connection.commit()
            return
        async with connection.cursor().copy(f"COPY px.candles ({COLUMNS}) FROM STDIN") as copy:
            for one in found:
                await copy.write_row(one)
        await connection.commit()


async def refill(client: httpx.AsyncClient, gate: asyncio.Semaphore, code: str, span: str, first: str, last: str, one_by_one: bool) -> None:
    async with gate:
        with timed("database"):
            connection = await psycopg.AsyncConnection.connect(os.environ["DATABASE_URL"], application_name="cents loader")
        async with connection:
            with timed("database"):
                asked = "INSERT INTO ref.instruments (code) VALUES (%s) ON CONFLICT (code) DO UPDATE SET code = excluded.code RETURNING id"
                (instrument,) = await (await connection.execute(asked, (code,))).fetchone()
                await connection.commit()
            async for bars in pages(client, code, span, first, last, 5_000 if one_by_one else 50_000):
                await store(connection, instrument, span, bars, one_by_one=one_by_one)


async def main(codes: str, first: str, last: str, *options: str) -> None:
    began, gate = time.perf_counter(), asyncio.Semaphore(3)
    headers = {"Authorization": f"Bearer {os.environ['FEED_KEY']}"}
    async with httpx.AsyncClient(headers=headers, timeout=60, trust_env=False) as client:
        jobs = [(code, span) for code in codes.split(",") for span in SPANS]
        await asyncio.gather(*(refill(client, gate, *job, first, last, "--one-by-one" in options) for job in jobs))
    print(json.dumps({"wall": time.perf_counter() - began, **{kind: covered(kind) for kind in TOOK}}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
