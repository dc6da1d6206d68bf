"""Where each job stands, and the tables that hold it all in PostgreSQL. It moves no bars."""
# ruff: noqa: S608 - what is put into statements is column and table names, constants of ours

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from tapecheck.backfill.features import NAMES

FIELDS = "symbol, timeframe, state, watermark, refreshed_at, rows, failures, error"

_TABLES = f"""
CREATE SCHEMA IF NOT EXISTS tapecheck;
CREATE TABLE IF NOT EXISTS tapecheck.bars (
    symbol text NOT NULL, timeframe text NOT NULL, time timestamptz NOT NULL,
    o float8 NOT NULL, h float8 NOT NULL, l float8 NOT NULL, c float8 NOT NULL, v float8 NOT NULL, vw float8, n int8,
    PRIMARY KEY (symbol, timeframe, time));
CREATE TABLE IF NOT EXISTS tapecheck.features (
    symbol text NOT NULL, timeframe text NOT NULL, time timestamptz NOT NULL,
    {", ".join(f"{name} float8" for name in NAMES)},
    PRIMARY KEY (symbol, timeframe, time));
CREATE TABLE IF NOT EXISTS tapecheck.checkpoints (
    symbol text NOT NULL, timeframe text NOT NULL, state text NOT NULL, watermark timestamptz, refreshed_at timestamptz,
    rows int8 NOT NULL DEFAULT 0, failures int4 NOT NULL DEFAULT 0, error text, updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (symbol, timeframe));
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """How far a job is: `filling`, `done` or `failed`; `refreshed_at` is when upstream last confirmed that we hold everything."""

    symbol: str
    timeframe: str
    state: str
    watermark: dt.datetime | None = None
    refreshed_at: dt.datetime | None = None
    rows: int = 0
    failures: int = 0
    error: str | None = None


def prepare(database_url: str) -> None:
    """Create the schema and its tables where they are missing; safe to call from several processes at once."""
    with psycopg.connect(database_url, connect_timeout=5) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(8245117)")
        connection.execute(_TABLES)


def read(database_url: str) -> dict[tuple[str, str], Checkpoint]:
    """Return the checkpoint of every job, by symbol and timeframe."""
    with psycopg.connect(database_url, connect_timeout=5) as connection:
        return read_with(connection)


def read_with(connection: psycopg.Connection) -> dict[tuple[str, str], Checkpoint]:
    """Return the checkpoint of every job over an open connection."""
    found = connection.execute(f"SELECT {FIELDS} FROM tapecheck.checkpoints").fetchall()
    return {(row[0], row[1]): checkpoint_of(row) for row in found}


def checkpoint_of(row: Sequence[Any]) -> Checkpoint:
    """Return a row of `FIELDS` as a checkpoint."""
    return Checkpoint(**dict(zip(FIELDS.split(", "), row, strict=True)))
