"""What a target's own database says of its ages: checkpoints, newest bars, features. It writes nothing."""
# ruff: noqa: S608 - what is put into statements is the schema's name, a constant of ours

import datetime as dt
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass

import psycopg

from tapecheck.errors import ConfigError, Problem
from tapecheck.loopback import beyond, is_local_database
from tapecheck.target_file import Target

SCHEMA = "tapecheck"  # where a service keeps `checkpoints`, `bars` and `features`, as the backfill's tables are
CONNECT_S = 5  # a frozen server accepts nobody
STATEMENT_MS = 10_000
Key = tuple[str, str]

log = logging.getLogger(__name__)

_ROWS = f"""
SELECT c.symbol, c.timeframe, c.state, extract(epoch FROM clock_timestamp() - c.refreshed_at)::float8,
    (SELECT max(b.time) FROM {SCHEMA}.bars b WHERE b.symbol = c.symbol AND b.timeframe = c.timeframe),
    EXISTS (SELECT FROM {SCHEMA}.features f WHERE f.symbol = c.symbol AND f.timeframe = c.timeframe)
FROM {SCHEMA}.checkpoints c
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One series: its age by the database's own clock, None for what never was complete; its newest bar; whether it has features."""

    state: str
    age_s: float | None
    newest: dt.datetime | None
    has_features: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Every series at one moment, `read_s` on the monotonic clock."""

    rows: Mapping[Key, Row]
    read_s: float

    def age_s(self, key: Key, moment_s: float) -> float | None:
        """Return the age that a series of then has at another moment."""
        row = self.rows.get(key)
        return None if row is None or row.age_s is None else row.age_s + (moment_s - self.read_s)


def read(database_url: str) -> Stored:
    """Read every series in one snapshot.

    Raises:
        psycopg.Error: the database is away, or has no such tables.
    """
    with connect(database_url) as connection:
        connection.read_only = True
        connection.execute(f"SET LOCAL statement_timeout = {STATEMENT_MS}")
        found = connection.execute(_ROWS).fetchall()
        read_s = time.monotonic()
    rows = {(row[0], row[1]): Row(state=row[2], age_s=row[3], newest=row[4], has_features=row[5]) for row in found}
    return Stored(rows=rows, read_s=read_s)


def read_if_there(database_url: str | None) -> Stored | None:
    """Return what `read` does; None, with the reason in the log, where there is no database to ask."""
    if database_url is None:
        return None
    try:
        return read(database_url)
    except psycopg.Error as error:
        log.warning("ages are not checked against the database: %s", reason(error))
        return None


def connect(database_url: str) -> psycopg.Connection:
    """Return a connection, made within `CONNECT_S`."""
    return psycopg.connect(database_url, connect_timeout=CONNECT_S)


def reason(error: psycopg.Error) -> str:
    """Return an error's first line, which never holds a password; of a URL that cannot be read, not what it says."""
    if isinstance(error, psycopg.ProgrammingError) and error.sqlstate is None:
        return "its URL cannot be read"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def refuse_remote(target: Target, database_url: str) -> None:
    """Refuse a database beyond this machine that the target does not allow to be asked.

    Raises:
        ConfigError: it is one, or its URL cannot be read.
    """
    try:
        is_here = is_local_database(database_url)
    except psycopg.ProgrammingError:
        allowed = "postgresql://user@host:5432/database"
        problem = Problem(file=f"target {target.name}", key="database_url", got="a URL that cannot be read", allowed=allowed)
        raise ConfigError([problem]) from None
    if not is_here and not target.allow_remote:
        raise ConfigError([beyond(target, "its database may be on another machine")])
