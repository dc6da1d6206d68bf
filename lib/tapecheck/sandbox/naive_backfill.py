"""A backfill as many are written: one request after the other, row by row, features in a loop. The sandbox's example of a slow one.

It shares no code with ours, so that watching it shows what watching anybody's shows.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg

RANGES = {"5m": "5/minute", "1h": "1/hour", "1d": "1/day"}
COMMIT_EVERY = 100  # rows
WINDOW = 50  # bars
TABLE = """
DROP SCHEMA IF EXISTS naive CASCADE;
CREATE SCHEMA naive;
CREATE TABLE naive.bars (
    symbol text, timeframe text, time timestamptz,
    open float8, high float8, low float8, close float8, volume float8, mean float8, spread float8,
    PRIMARY KEY (symbol, timeframe, time));
"""


def pages(client: httpx.Client, symbol: str, timeframe: str, first: str, last: str) -> Iterator[list[dict[str, Any]]]:
    """Yield the bars of each page; a refusal is asked again a second later."""
    url = f"/v2/aggs/ticker/{symbol}/range/{RANGES[timeframe]}/{first}/{last}?limit=5000"
    while url:
        answer = client.get(url)
        if answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
            time.sleep(1)
            continue
        body = answer.raise_for_status().json()
        yield body.get("results") or []
        url = body.get("next_url", "")


def store(connection: psycopg.Connection[Any], symbol: str, timeframe: str, bars: list[dict[str, Any]]) -> None:
    """Insert bars one by one, each with the mean and spread of its last closes."""
    closes = [bar["c"] for bar in bars]
    for i, bar in enumerate(bars):
        window = closes[max(0, i - WINDOW + 1) : i + 1]
        values = (symbol, timeframe, bar["t"] / 1000, *(bar[name] for name in "ohlcv"), statistics.fmean(window), statistics.pstdev(window))
        connection.execute("INSERT INTO naive.bars VALUES (%s, %s, to_timestamp(%s), %s, %s, %s, %s, %s, %s, %s)", values)
        if i % COMMIT_EVERY == COMMIT_EVERY - 1:
            connection.commit()
    connection.commit()


def main() -> None:
    """Fill `naive.bars` anew and say how many there are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database-url", required=True)
    parser.add_argument("--key-file", required=True, type=Path)
    parser.add_argument("--symbols", default="AAPL,MSFT")
    parser.add_argument("--first", required=True)
    parser.add_argument("--last", required=True)
    asked = parser.parse_args()
    headers = {"Authorization": f"Bearer {asked.key_file.read_text().strip()}"}
    with (
        psycopg.connect(asked.database_url, application_name="naive backfill") as connection,
        httpx.Client(base_url=os.environ["POLYGON_BASE_URL"], headers=headers, timeout=30, trust_env=False) as client,
    ):
        connection.execute(TABLE)
        connection.commit()
        stored = 0
        for symbol in asked.symbols.split(","):
            for timeframe in RANGES:
                for bars in pages(client, symbol, timeframe, asked.first, asked.last):
                    store(connection, symbol, timeframe, bars)
                    stored += len(bars)
    json.dump({"rows": stored}, sys.stdout)


if __name__ == "__main__":
    main()
