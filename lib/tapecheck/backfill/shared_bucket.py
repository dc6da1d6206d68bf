"""A token bucket in the database, which all processes and machines of a backfill share, on the server's clock."""
# ruff: noqa: S608 - what is put into statements is a schema's checked name

import threading
from contextlib import closing

import psycopg
from anyio.to_thread import run_sync

from tapecheck.backfill import checkpoints, database, shape
from tapecheck.backfill.bucket import most_tokens
from tapecheck.backfill.plan import SLACK_S, BackfillPlan

_TOKENS = "CREATE TABLE {schema}.tokens (tokens float8 NOT NULL, at timestamptz NOT NULL)"
LEAST_WAIT_S = 0.001  # between two questions


class SharedBucket:
    """What `bucket.TokenBucket` is in one process, for several; whoever starts the backfill fills it.

    Asking again and again what is in it would cost the database more than waiting for what will be in it.
    """

    def __init__(self, database_url: str, schema: str, rate_per_s: float, most: float) -> None:
        self._url, self._schema, self._rate_per_s, self._most = database_url, schema, rate_per_s, most
        self._table = f"{schema}.tokens"
        self._connection: psycopg.Connection | None = None
        self._one_at_a_time = threading.Lock()

    @classmethod
    def of(cls, plan: BackfillPlan, database_url: str) -> "SharedBucket | None":
        """Return the bucket that a plan asks for, or None without a limit."""
        rate_per_s = plan.source.rate_per_s
        if rate_per_s is None:
            return None
        return cls(database_url, plan.database_schema, rate_per_s, most_tokens(rate_per_s, plan.source.burst, SLACK_S))

    def check(self) -> None:
        """Look whether it can be put there.

        Raises:
            WrongTables: a table of its name has another shape; nothing was written.
        """
        with database.connect(self._url) as connection:
            self._check(connection)

    def fill(self) -> None:
        """Put it there, full, in place of an older one.

        Raises:
            WrongTables: a table of its name has another shape; nothing was written.
        """
        with database.connect(self._url) as connection:
            connection.execute(checkpoints.LOCK_TIMEOUT)
            self._check(connection)
            connection.execute(f"DROP TABLE IF EXISTS {self._table}")
            connection.execute(_TOKENS.format(schema=self._schema))
            connection.execute(f"INSERT INTO {self._table} VALUES (%s, clock_timestamp())", (self._most,))

    def drop(self) -> None:
        """Take it away."""
        with database.connect(self._url) as connection:
            connection.execute(f"DROP TABLE IF EXISTS {self._table}")

    async def ask(self) -> float:
        """Take a token and return 0, or take none and return the seconds until there will be one.

        Raises:
            psycopg.Error: the database does not answer; the next question connects anew.
        """
        return await run_sync(self._asked)

    def close(self) -> None:
        """Leave the database; the bucket stays."""
        with self._one_at_a_time:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def _check(self, connection: psycopg.Connection) -> None:
        shape.check(connection, self._schema, f"CREATE SCHEMA {shape.SCRATCH}; {_TOKENS.format(schema=shape.SCRATCH)}")

    def _asked(self) -> float:
        with self._one_at_a_time:
            try:
                if self._connection is None:
                    self._connection = database.connect(self._url, autocommit=True)
                return self._taken(self._connection)
            except psycopg.Error:
                if self._connection is not None:
                    self._connection.close()
                self._connection = None
                raise

    def _taken(self, connection: psycopg.Connection) -> float:
        there = "least(%(most)s, tokens + greatest(0, extract(epoch FROM clock_timestamp() - at)) * %(rate)s)::float8"
        values = {"most": self._most, "rate": self._rate_per_s}
        taken = f"UPDATE {self._table} SET tokens = {there} - 1, at = clock_timestamp() WHERE {there} >= 1"
        with closing(connection.execute(taken, values)) as cursor:
            if cursor.rowcount == 1:
                return 0.0
        row = connection.execute(f"SELECT (1 - {there}) / %(rate)s FROM {self._table}", values).fetchone()
        return max(LEAST_WAIT_S, float(row[0]) if row else 0.0)
