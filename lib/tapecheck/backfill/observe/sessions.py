"""Looks at the sessions of a database at short, equal intervals, and counts the rows of tables. It writes nothing."""

import logging
import threading
import time
from collections.abc import Sequence
from typing import Any, Self

import psycopg
import pyarrow as pa
from psycopg import sql

from tapecheck import database
from tapecheck.backfill.observe.recording import ROWS, SESSIONS
from tapecheck.errors import TargetDown, first_line
from tapecheck.recording import table_of
from tapecheck.target.file import DatabaseSessions

STATEMENT_S = 5
COUNT_S = 60  # for an exact count of one table
TABLES_EVERY_S = 1.0
CONNECT_S = 5

log = logging.getLogger(__name__)

# A session that sends the rows of a COPY is `active` while it waits for its client: it is the client that works then.
_WAITS = "(state LIKE 'idle in transaction%%' OR (state = 'active' AND wait_event_type = 'Client'))"
_SESSIONS = f"""
SELECT count(*) FILTER (WHERE state = 'active' AND NOT {_WAITS}), count(*) FILTER (WHERE {_WAITS}),
    count(*) FILTER (WHERE state = 'idle'), count(*) FILTER (WHERE state = 'active' AND wait_event_type = 'Lock'),
    count(*) FILTER (WHERE state IS NULL)
FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"""  # noqa: S608 - constants
_STATISTICS = """
SELECT asked.name, c.oid::int8, s.n_tup_ins, s.n_tup_upd FROM unnest(%s::text[]) AS asked (name)
LEFT JOIN pg_class c ON c.oid = to_regclass(asked.name) LEFT JOIN pg_stat_user_tables s ON s.relid = c.oid"""


class SessionWatch:
    """Looks at the sessions of one database from `with` to its end, in a thread, over one connection.

    Args:
        every_s: between two looks; one that comes late is not made up for.
        sessions: which are looked at; None is all but our own.
        tables: whose statistics are read every second.

    Attributes:
        lost: why there were no more looks from some moment on; empty when they went on to the end.
    """

    def __init__(self, database_url: str, sessions: DatabaseSessions | None, tables: Sequence[str], *, every_s: float) -> None:
        self._url, self._every_s, self._tables = database_url, every_s, list(tables)
        columns = {"application_name": "application_name", "user": "usename", "database": "datname"}
        given = sessions.model_dump(exclude_none=True) if sessions else {}
        self._question = _SESSIONS + "".join(f" AND {columns[name]} = %({name})s" for name in given)
        self._values = given
        self._looks: list[tuple[int, ...]] = []
        self._rows: list[tuple[Any, ...]] = []
        self._stop = threading.Event()
        self.lost = ""

    def __enter__(self) -> Self:
        """Connect, count the rows of the tables, and begin to look.

        Raises:
            TargetDown: there is no connection, or a table may not be read.
        """
        try:
            self._connection = self._connected()
            try:
                self._count()
            except BaseException:
                self._connection.close()
                raise
        except psycopg.Error as error:
            raise TargetDown(f"the database of the backfill cannot be watched: {first_line(error)}") from None
        self._thread = threading.Thread(target=self._loop, name="sessions", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *caught: object) -> None:
        """Look no more, and count the rows again."""
        self._stop.set()
        self._thread.join()
        try:
            if self._connection.closed:
                self._connection = self._connected()
            self._count()
        except psycopg.Error as error:
            self.lost = self.lost or first_line(error)
        finally:
            self._connection.close()

    def sessions(self) -> pa.Table:
        """Return one row a look."""
        return table_of(self._looks, SESSIONS)

    def rows(self) -> pa.Table:
        """Return one row a table and reading: the first and the last of each are counted."""
        return table_of(self._rows, ROWS)

    def _connected(self) -> psycopg.Connection:
        connection = database.connect(self._url, statement_timeout=f"{STATEMENT_S}s", connect_timeout=CONNECT_S, autocommit=True)
        connection.execute("SET default_transaction_read_only = on")
        connection.execute("SET application_name = 'tapecheck'")
        connection.execute("RESET search_path")  # tables are named as the role sees them
        return connection

    def _loop(self) -> None:
        due_s, tables_s = time.monotonic(), time.monotonic() + TABLES_EVERY_S
        while not self._stop.wait(max(0.0, due_s - time.monotonic())):
            try:
                asked_ns = time.monotonic_ns()
                found = self._connection.execute(self._question, self._values).fetchone()
                assert found
                self._looks.append(((asked_ns + time.monotonic_ns()) // 2, *found))
                if time.monotonic() >= tables_s:
                    tables_s += TABLES_EVERY_S
                    self._read_statistics({})
            except psycopg.Error as error:
                self.lost = first_line(error)
                log.warning("the sessions of the database are watched no more: %s", self.lost)
                return
            due_s = max(due_s + self._every_s, time.monotonic())

    def _count(self) -> None:
        """Count the rows of each table, exactly where that takes no longer than `COUNT_S`."""
        counted: dict[str, int | None] = {}
        for table in self._tables:
            name = sql.SQL(".").join(map(sql.Identifier, table.split(".")))
            self._connection.execute(f"SET statement_timeout = '{COUNT_S}s'")
            try:
                row = self._connection.execute(sql.SQL("SELECT count(*) FROM {}").format(name)).fetchone()
                counted[table] = row[0] if row else None
            except psycopg.errors.UndefinedTable:
                counted[table] = None  # a backfill may make it
            except psycopg.errors.QueryCanceled:
                log.warning("the rows of %s were not counted within %s s; the server's statistics stand in", table, COUNT_S)
                counted[table] = None
        self._connection.execute(f"SET statement_timeout = '{STATEMENT_S}s'")
        self._read_statistics(counted)

    def _read_statistics(self, counted: dict[str, int | None]) -> None:
        if not self._tables:
            return
        at_ns = time.monotonic_ns()
        for table, oid, inserted, updated in self._connection.execute(_STATISTICS, [self._tables]).fetchall():
            self._rows.append((at_ns, table, oid, counted.get(table), inserted, updated))
