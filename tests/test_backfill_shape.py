"""Tables of another shape, in a real database: refused before anything is written, with every difference named."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tapecheck.backfill import checkpoints, schema
from tapecheck.backfill.schema import Shape, WrongTables

SCHEMA = "test_shape"
BARS = f"{SCHEMA}.bars"


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A plain connection; the test's schema is not there before and after."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
        yield connection
        connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")


def _tables(connection: psycopg.Connection[Any]) -> list[Any]:
    return connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s ORDER BY 1", (SCHEMA,)).fetchall()


WRONG = {
    "column missing": (f"ALTER TABLE {BARS} DROP COLUMN vw", f"{BARS}: column vw double precision is missing"),
    "column more": (f"ALTER TABLE {BARS} ADD note text", f"{BARS}: column note text is not ours"),
    "type": (
        f"ALTER TABLE {BARS} ALTER v TYPE int8",
        f"{BARS}: column v is bigint NOT NULL, ours is double precision NOT NULL",
    ),
    "time without zone": (
        f"ALTER TABLE {BARS} ALTER time TYPE timestamp",
        f"{BARS}: column time is timestamp without time zone NOT NULL, ours is timestamp with time zone NOT NULL",
    ),
    "null forbidden": (f"ALTER TABLE {BARS} ALTER n SET NOT NULL", f"{BARS}: column n is bigint NOT NULL, ours is bigint"),
    "null allowed": (
        f"ALTER TABLE {BARS} ALTER c DROP NOT NULL",
        f"{BARS}: column c is double precision, ours is double precision NOT NULL",
    ),
    "no key": (
        f"ALTER TABLE {BARS} DROP CONSTRAINT bars_pkey",
        f"{BARS}: its primary key is missing, ours is (symbol, timeframe, time)",
    ),
    "other key": (
        f"ALTER TABLE {BARS} DROP CONSTRAINT bars_pkey, ADD PRIMARY KEY (symbol, time)",
        f"{BARS}: its primary key is (symbol, time), ours is (symbol, timeframe, time)",
    ),
    "a view": (
        f"ALTER TABLE {BARS} RENAME TO stored; CREATE VIEW {BARS} AS SELECT * FROM {SCHEMA}.stored",
        f"{BARS}: its primary key is missing, ours is (symbol, timeframe, time)",
    ),
    "features": (
        f"ALTER TABLE {SCHEMA}.features RENAME rsi_14 TO rsi",
        f"{SCHEMA}.features: column rsi double precision is not ours",
    ),
}


@pytest.mark.parametrize(("change", "said"), WRONG.values(), ids=WRONG)
def test_another_shape_is_refused_and_nothing_is_written(
    database_url: str, connection: psycopg.Connection[Any], change: str, said: str
) -> None:
    """The difference is named, and not even a missing table beside it is created."""
    checkpoints.prepare(database_url, SCHEMA)
    connection.execute(f"DROP TABLE {SCHEMA}.checkpoints; {change}")
    before = _tables(connection)
    with pytest.raises(WrongTables) as error:
        checkpoints.prepare(database_url, SCHEMA)
    assert said in str(error.value) and error.value.exit_code == 4
    assert _tables(connection) == before


def test_all_differences_are_named_at_once(database_url: str, connection: psycopg.Connection[Any]) -> None:
    """A table of another program has many differences; one message lists them, tables apart."""
    connection.execute(f"CREATE SCHEMA {SCHEMA}; CREATE TABLE {BARS} (symbol text, time timestamptz, price numeric(10, 2))")
    connection.execute(f"CREATE TABLE {SCHEMA}.checkpoints (id int PRIMARY KEY)")
    with pytest.raises(WrongTables) as error:
        checkpoints.prepare(database_url, SCHEMA)
    for said in (f"{BARS}: column o ", "column price numeric(10,2) is not ours", f"{SCHEMA}.checkpoints: column id integer NOT NULL"):
        assert said in str(error.value)


def test_each_table_is_dropped_by_itself(database_url: str, connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """TimescaleDB refuses to drop a hypertable together with anything else; what the tables held is gone."""
    said: list[str] = []
    execute = psycopg.Connection.execute

    def listen(self: Any, query: Any, *given: Any, **more: Any) -> Any:
        said.append(str(query))
        return execute(self, query, *given, **more)

    checkpoints.prepare(database_url, SCHEMA)
    connection.execute(f"INSERT INTO {SCHEMA}.checkpoints (symbol, timeframe, state) VALUES ('A', '1d', 'done')")
    monkeypatch.setattr(psycopg.Connection, "execute", listen)
    checkpoints.prepare(database_url, SCHEMA, empty=True)
    dropped = [statement for statement in said if "DROP TABLE" in statement]
    assert len(dropped) == 3 and not any("," in statement for statement in dropped)
    assert checkpoints.read(database_url, SCHEMA) == {} and _tables(connection) == [("bars",), ("checkpoints",), ("features",)]


def test_our_own_tables_are_accepted_again(database_url: str, connection: psycopg.Connection[Any]) -> None:
    """Preparing twice changes nothing, whatever the order of the columns, and other tables beside ours do not matter."""
    checkpoints.prepare(database_url, SCHEMA)
    connection.execute(f"CREATE TABLE {SCHEMA}.others (id int); ALTER TABLE {BARS} DROP COLUMN n, ADD n int8")
    checkpoints.prepare(database_url, SCHEMA)
    assert _tables(connection) == [("bars",), ("checkpoints",), ("features",), ("others",)]


@pytest.mark.parametrize(
    ("found", "lines"),
    [
        (Shape(columns={"a": "text", "b": "int8"}, key=("b", "a")), []),
        (Shape(columns={"b": "int8"}, key=("b",)), ["t: column a text is missing", "t: its primary key is (b), ours is (a, b)"]),
    ],
)
def test_differences(found: Shape, lines: list[str]) -> None:
    """The order of a key's columns is no difference; whatever is missing is."""
    assert schema.differences("t", Shape(columns={"a": "text", "b": "int8"}, key=("a", "b")), found) == lines


def test_an_extension_is_seen_where_it_is_installed(connection: psycopg.Connection[Any]) -> None:
    """The server's own language is an installed extension; one that is only on its disk, or nowhere, is not."""
    assert schema.has_extension(connection, "plpgsql")
    assert not schema.has_extension(connection, "no_such_extension")
    row = connection.execute("SELECT name FROM pg_available_extensions WHERE installed_version IS NULL LIMIT 1").fetchone()
    if row is not None:
        assert not schema.has_extension(connection, row[0])


def test_tables_are_partitioned_exactly_where_timescaledb_is_installed(database_url: str, connection: psycopg.Connection[Any]) -> None:
    """Without the extension nothing is called; once the catalogue lists it, both tables are handed to it by name and time."""
    checkpoints.prepare(database_url, SCHEMA)
    is_there = schema.has_extension(connection, "timescaledb")
    assert (connection.execute("SELECT 1 FROM pg_proc WHERE proname = 'create_hypertable'").fetchone() is not None) is is_there
    if is_there:
        found = connection.execute("SELECT count(*) FROM timescaledb_information.hypertables WHERE hypertable_schema = %s", (SCHEMA,))
        assert found.fetchone() == (2,)
        return
    with connection.transaction(force_rollback=True):
        connection.execute(
            "INSERT INTO pg_extension SELECT 1, 'timescaledb', extowner, extnamespace, false, '0'"
            " FROM pg_extension WHERE extname = 'plpgsql'"
        )
        with pytest.raises(psycopg.errors.UndefinedFunction, match="create_hypertable"), connection.transaction():
            schema.partition(connection, SCHEMA, ["bars", "features"])
    assert not schema.has_extension(connection, "timescaledb")
