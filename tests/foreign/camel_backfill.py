"""A backfill as people write it: one request after the other, row by row into one table, features in a loop. It times itself."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import requests

TOOK = {"api": 0.0, "database": 0.0, "computing": 0.0}
SPANS = {"5m": (5, "minute"), "1h": (1, "hour"), "1d": (1, "day")}


@contextmanager
def timed(kind: str) -> Iterator[None]:
    began = time.perf_counter()
    try:
        yield
    finally:
        TOOK[kind] += time.perf_counter() - began


def pages(symbol: str, timeframe: str, first: str, last: str) -> Iterator[list[dict]]:
    number, unit = SPANS[timeframe]
    most = 50_000 if "--fixed" in sys.argv else 5_000
    url = f"{os.environ['POLYGON_BASE_URL']}/v2/aggs/ticker/{symbol}/range/{number}/{unit}/{first}/{last}?limit={most}"
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {os.environ['POLYGON_API_KEY']}"
        while url:
            with timed("api"):
                answer = session.get(url, timeout=30)
            if answer.status_code == 429:
                with timed("api"):
                    time.sleep(1)
                continue
            answer.raise_for_status()
            with timed("computing"):
                body = answer.json()
            yield body.get("results", [])
            url = body.get("next_url")


def store(connection: psycopg.Connection, symbol: str, timeframe: str, bars: list[dict]) -> None:
    closes: list[float] = []
    for i, bar in enumerate(bars):
        with timed("computing"):
            closes.append(bar["c"])
            window = closes[-50:]
            mean = sum(window) / len(window)
            spread = (sum((x - mean) ** 2 for x in window) / len(window)) ** 0.5
        with timed("database"):
            connection.execute(
                "INSERT INTO market_data VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                (symbol, timeframe, bar["t"], bar["o"], bar["h"], bar["l"], bar["c"], bar["v"], mean, spread),
            )
            if i % 100 == 99:
                connection.commit()
    with timed("database"):
        connection.commit()


def store_at_once(connection: psycopg.Connection, symbol: str, timeframe: str, bars: list[dict]) -> None:
    """The fix: larger pages, one COPY each, and no features."""
    with timed("database"):
        with connection.cursor().copy("COPY market_data (symbol, timeframe, time_ms, o, h, l, c, v) FROM STDIN") as copy:
            for bar in bars:
                copy.write_row((symbol, timeframe, bar["t"], bar["o"], bar["h"], bar["l"], bar["c"], bar["v"]))
        connection.commit()


def main() -> None:
    symbols, first, last = sys.argv[1].split(","), sys.argv[2], sys.argv[3]
    put = store_at_once if "--fixed" in sys.argv else store
    began = time.perf_counter()
    with timed("database"):
        connection = psycopg.connect(os.environ["DATABASE_URL"], application_name="camel backfill")
    for symbol in symbols:
        for timeframe in SPANS:
            for bars in pages(symbol, timeframe, first, last):
                put(connection, symbol, timeframe, bars)
    connection.close()
    print(json.dumps({"wall": time.perf_counter() - began, **TOOK}))


if __name__ == "__main__":
    main()
