"""Beside a real PostgreSQL that is killed, frozen or damaged: exactly what was acknowledged and is gone is lost."""

import contextlib
import json
import signal
import time
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import psycopg
import pytest
import servers
from recoveries import PLAN, bar
from servers import Server

from tapecheck.backfill import schema
from tapecheck.backfill.plan import Endpoints
from tapecheck.errors import MeasurementError
from tapecheck.recovery import loss
from tapecheck.recovery.analysis import losses_of
from tapecheck.recovery.loss import SCHEMA, Recorder, RowCount, ask_upstream
from tapecheck.recovery.recording import WrittenBar
from tapecheck.sandbox import supervision
from tapecheck.vendor.rate_limit import Retry

LOST = [bar("AAPL", minutes, "lost") for minutes in (0, 5)]
PRESENT = f"SELECT symbol, (extract(epoch FROM time) * 1000)::int8 FROM {SCHEMA}.bars"


def tree() -> list[psutil.Process]:
    """Return the processes of the sandbox's PostgreSQL, the postmaster first."""
    status = supervision.status()
    (pid,) = [one.pid for one in status.processes if one.name == "database"] if status else [None]
    assert pid, "the database does not run"
    postmaster = psutil.Process(pid)
    return [postmaster, *postmaster.children(recursive=True)]


def signalled(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def is_whole() -> bool:
    status = supervision.status()
    return status is not None and all(process.healthy for process in status.processes)


@pytest.fixture(autouse=True)
def whole(database_url: str) -> Iterator[None]:
    """The sandbox is whole again after each test, and the recorder's schema is gone."""
    yield
    until_s = time.monotonic() + 180
    while not is_whole():
        assert time.monotonic() < until_s, f"the sandbox did not come back: {supervision.status()}"
        time.sleep(0.1)
    assert rows(database_url, "SELECT 1 FROM pg_namespace WHERE nspname = 'tapecheck_drill'") == set()


def rows(database_url: str, query: str) -> set[tuple[Any, ...]]:
    with psycopg.connect(database_url, connect_timeout=5) as connection:
        return set(connection.execute(query).fetchall())


def recording(database_url: str, **changes: Any) -> Recorder:
    return Recorder(database_url, PLAN, drill="database_killed", **{"trial": 1} | changes)


def unsafe(database_url: str) -> str:
    """Return a URL whose sessions are acknowledged before their bars are on disk."""
    return f"{database_url}{'&' if '?' in database_url else '?'}options=-c%20synchronous_commit%3Doff"


def keys(acks: list[WrittenBar], *fates: str) -> set[tuple[str, int]]:
    return {(ack.symbol, ack.time_ms) for ack in acks if ack.fate in fates}


def present(database_url: str) -> set[tuple[Any, ...]]:
    """Return what a query of our own finds, as soon as the database answers."""
    for _ in range(300):
        with contextlib.suppress(psycopg.OperationalError):
            return rows(database_url, PRESENT)
        time.sleep(0.1)
    raise AssertionError("the database did not come back")


def wait_written(database_url: str, bars: int) -> int:
    """Wait until so many bars are written; return how many are."""
    until_s = time.monotonic() + 180
    while len(there := present(database_url)) < bars:
        assert time.monotonic() < until_s, f"only {len(there)} bars"
        time.sleep(0.05)
    return len(there)


def killed(recorder: Recorder, database_url: str) -> int:
    """Kill the whole server while bars are written, let them be written again after it came back; return when it was killed."""
    with recorder:
        wait_written(database_url, 60)
        processes, at_ns = tree(), time.monotonic_ns()
        signalled(processes, signal.SIGKILL)
        psutil.wait_procs(processes, 60)
        wait_written(database_url, len(present(database_url)) + 5)
    return at_ns


def test_nothing_acknowledged_is_lost_when_the_server_is_killed(database_url: str) -> None:
    """SIGKILL of all of PostgreSQL loses no bar whose commit was acknowledged; writing goes on when it is back."""
    one = recording(database_url)
    killed_ns = killed(one, database_url)
    there = present(database_url)
    acks = one.bars()
    assert keys(acks, "stable") == keys(acks, "stable", "lost", "never_read") <= there
    assert len(keys(acks, "stable")) > 50 and len(keys(acks, "unknown")) <= 1
    acked_ns = [ack.acked_ns for ack in acks if ack.acked_ns is not None]
    assert acked_ns == sorted(acked_ns) and acked_ns[0] < killed_ns < acked_ns[-1] - 0.2e9


def test_the_exact_loss_is_found_where_the_server_acknowledges_too_soon(database_url: str) -> None:
    """With synchronous_commit off a kill loses acknowledged bars: those, and no others, that a query of our own does not find."""
    lost = 0
    for trial in range(1, 4):  # a kill just after the server wrote its log loses none
        one = recording(unsafe(database_url), trial=trial, most_per_s=1000.0)
        killed(one, database_url)
        there = present(database_url)
        acks = one.bars()
        acknowledged = {(ack.symbol, ack.time_ms) for ack in acks if ack.acked_ns is not None}
        assert keys(acks, "lost") == acknowledged - there and keys(acks, "stable")
        assert sum(tier.lost_bars for tier in losses_of(acks, [], PLAN).values()) == len(acknowledged - there)
        lost += len(keys(acks, "lost"))
        if lost:
            break
    assert lost > 0


def test_a_frozen_server_loses_nothing(database_url: str) -> None:
    """A write that hangs is acknowledged when the server goes on, or gets no answer in time; neither is a loss."""
    with recording(database_url) as one:
        wait_written(database_url, 10)
        frozen = tree()  # with the process of the recorder's own connection
        signalled(frozen, signal.SIGSTOP)
        try:
            time.sleep(0.5)
        finally:
            signalled(frozen, signal.SIGCONT)
        wait_written(database_url, 20)
    acks = one.bars()
    assert keys(acks, "lost", "never_read") == set() and len(keys(acks, "unknown")) <= 1
    assert len(keys(acks, "stable")) > 15


def test_a_frozen_server_does_not_hold_up(database_url: str) -> None:
    """While it stays frozen, the block ends within seconds, and the final read says that it could not be made."""
    one = recording(database_url).__enter__()
    wait_written(database_url, 10)
    frozen = tree()
    signalled(frozen, signal.SIGSTOP)
    try:
        time.sleep(0.1)
        began_s = time.monotonic()
        one.__exit__(None, None, None)
        ended_s = time.monotonic()
        acks = one.bars(within_s=0.5)
        read_s = time.monotonic()
    finally:
        signalled(frozen, signal.SIGCONT)
    assert ended_s - began_s < 30 and read_s - ended_s < 30  # it would stay frozen for ever
    assert keys(acks, "never_read") and not keys(acks, "stable", "lost") and len(keys(acks, "unknown")) == 1
    assert keys(acks, "never_read") <= present(database_url)
    with recording(database_url) as again:  # the table that could not be dropped is in nobody's way
        wait_written(database_url, 5)
    assert keys(again.bars(), "stable")


def test_a_connection_that_is_ended_costs_one_answer(database_url: str) -> None:
    """What was sent over it, and only that, is unknown; the next bar is written over a new connection, and none is written twice."""
    ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'INSERT INTO tapecheck_drill%'"
    with recording(database_url) as one:
        so_far = 0
        for _ in range(3):
            so_far = wait_written(database_url, so_far + 15)
            assert rows(database_url, ended) == {(True,)}
        wait_written(database_url, so_far + 20)
    acks = one.bars()
    assert keys(acks, "lost", "never_read") == set() and len(keys(acks, "unknown")) == 3
    assert len({(ack.symbol, ack.time_ms) for ack in acks}) == len(acks) > 50


def test_writing_ends_with_the_last_bar(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When all bars are written none is written again, and each has its fate; one whose live bar is gone was never acknowledged."""
    monkeypatch.setattr(loss, "NEWEST", loss.NEWEST.replace("LIMIT %s", "LIMIT least(2, %s)"))
    with recording(database_url) as one:
        one._left.appendleft(("SPY", 0))
        wait_written(database_url, 2 * 6)
        assert one._writing is not None and one._writing.result(60) is None
    acks = one.bars()
    assert keys(acks, "unknown") == {("SPY", 0)}
    assert len(keys(acks, "stable")) == len(acks) - 1 == 2 * len({ack.symbol for ack in acks}) >= 2 * 6


def test_deleted_bars_are_lost_and_upstream_is_asked(database_url: str, endpoints: Endpoints, upstream: httpx.Client) -> None:
    """Exactly the rows that were deleted are lost; what upstream serves can be fetched again, what it has not is gone for good."""
    with recording(database_url) as one:
        wait_written(database_url, 60)
    query = f"DELETE FROM {SCHEMA}.bars WHERE symbol IN ('BTC', 'AAPL') AND extract(minute FROM time) = 5 RETURNING symbol, time"
    deleted = {(symbol, round(at.timestamp() * 1000)) for symbol, at in rows(database_url, query)}
    acks = one.bars()
    assert keys(acks, "lost") == deleted and {symbol for symbol, _ in deleted} == {"BTC", "AAPL"}
    asked = ask_upstream(acks, endpoints.source_url, endpoints.key)
    assert [ack.refetchable for ack in asked if ack.fate == "lost"] == [True] * len(deleted)
    upstream.post("/faults", json={"kind": "no_results", "ticker": "X:BTCUSD"}).raise_for_status()
    found = losses_of(ask_upstream(acks, endpoints.source_url, endpoints.key), [], PLAN)
    of_btc = sum(symbol == "BTC" for symbol, _ in deleted)
    assert (found["critical"].unrecoverable_bars, found["critical"].refetchable_bars) == (of_btc, 0)
    assert (found["standard"].unrecoverable_bars, found["standard"].refetchable_bars) == (0, len(deleted) - of_btc)
    assert found["critical"].lost_minutes == 5 * of_btc
    assert {ack.refetchable for ack in ask_upstream(acks, endpoints.source_url, "wrong key")} == {None}


def test_a_table_that_is_gone_is_lost_as_a_whole(database_url: str) -> None:
    """A database that answers, but without the table, has lost every bar that it acknowledged."""
    with recording(database_url) as one:
        wait_written(database_url, 5)
    with psycopg.connect(database_url) as connection:
        connection.execute(f"DROP SCHEMA {SCHEMA} CASCADE")
    acks = one.bars()
    assert keys(acks, "lost") == {(ack.symbol, ack.time_ms) for ack in acks} and acks
    assert one.bars() == acks


def test_bars_are_real_ones_of_every_tier_and_not_too_many(database_url: str) -> None:
    """They are copies of live bars of some symbols of each tier, each symbol's in the order of time; the live tables do not change."""
    live = "SELECT symbol, timeframe, time, o, h, l, c, v, vw, n FROM {}.bars WHERE timeframe = '5m'"
    with recording(database_url) as one:
        began_s = time.monotonic()
        wait_written(database_url, 60)
    took_s = time.monotonic() - began_s
    written = rows(database_url, live.format(SCHEMA))
    acks = one.bars()
    assert written <= rows(database_url, live.format("tapecheck")) and len(written) == len(acks)
    assert {(PLAN.tier_of(ack.symbol), ack.symbol) for ack in acks} >= {  # and those that other tests asked for
        *(("critical", symbol) for symbol in ("BTC", "ETH", "SPY")), *(("standard", symbol) for symbol in ("AAPL", "GOOGL", "MSFT")),
    }  # fmt: skip
    for symbol in ("BTC", "AAPL"):
        times_ms = [ack.time_ms for ack in acks if ack.symbol == symbol]
        assert times_ms == sorted(times_ms)
    assert len(acks) <= loss.MOST_PER_S * took_s + 1


def test_a_drill_that_fails_leaves_no_table(database_url: str) -> None:
    """When the block ends with an exception nobody asks for fates, so the table goes at once."""
    with pytest.raises(KeyboardInterrupt), recording(database_url) as one:
        time.sleep(0.2)
        raise KeyboardInterrupt
    assert not keys(one.bars(), "stable", "lost")


@pytest.mark.parametrize("url", ["postgresql://127.0.0.1:1/x", "postgresql://[hunter2"])
def test_a_database_that_is_away_before_the_drill_is_said_so(url: str) -> None:
    """Nothing can be measured then; the sentence does not repeat a URL."""
    for act, said in ((recording(url).__enter__, "no bars can be recorded"), (lambda: loss.row_counts(url), "cannot be counted")):
        with pytest.raises(MeasurementError, match=said) as caught:
            act()
        assert "hunter2" not in str(caught.value)


# ---- upstream ----


def page(times_ms: list[int]) -> bytes:
    bars = [{"t": t} | dict.fromkeys("ohlcv", 1.0) for t in times_ms]
    return json.dumps({"ticker": "AAPL", "status": "OK", "resultsCount": len(bars), "results": bars}).encode()


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        (servers.body(page([0, 300_000])), [True, True]),
        (servers.body(page([300_000])), [False, True]),
        (servers.body(page([])), [False, False]),
        (servers.body(page([0])[:-9]), [None, None]),
        (servers.status(404), [None, None]),
        (servers.status(429), [None, None]),
        (servers.raw(b"", close=True), [None, None]),
    ],
    ids=["both", "one", "none", "cut", "404", "429", "reset"],
)
def test_only_a_whole_answer_says_that_a_bar_is_gone(
    behaviour: servers.Behaviour, expected: list[bool | None], monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """What upstream does not list in a page that can be trusted is gone; no other answer says anything."""
    monkeypatch.setattr(loss, "RETRY", Retry(first_s=0.001, cap_s=0.001, budget_s=0.01))
    with Server(behaviour) as server:
        asked = ask_upstream([*LOST, bar("AAPL", 10)], server.url, "key")
    assert [one.refetchable for one in asked] == [*expected, None]


def test_nothing_is_asked_without_an_upstream_or_a_loss() -> None:
    """Then nobody knows, and nobody is bothered; an upstream that is away is given up after the time that was given."""
    stable = [bar("AAPL", 0), bar("AAPL", 5, "unknown"), bar("AAPL", 10, "never_read")]
    assert ask_upstream(LOST, None, "") == ask_upstream(LOST, "http://127.0.0.1:1", "", within_s=0.3) == LOST
    assert ask_upstream(stable, "http://127.0.0.1:1", "") == stable


# ---- row counts of the target's own tables ----

COUNTED = "tapecheck_counts"


def held(acknowledged: int, times: range, *, found: int | None = None, since_ms: int = 0) -> RowCount:
    return RowCount(acknowledged=acknowledged, found=len(times) if found is None else found, since_ms=since_ms, times_ms=frozenset(times))


def counts(one: Any) -> dict[tuple[str, str], Any]:
    return {} if one is None else {("AAPL", "5m"): one}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (held(5, range(5)), held(5, range(5)), None),
        (held(5, range(5)), held(8, range(8)), None),
        (held(5, range(5)), held(8, range(2, 8), since_ms=2, found=8), None),  # the window of named ones has moved on
        (held(6, range(5)), held(6, range(5)), None),  # it lacked one before
        (held(5, range(5)), held(5, range(3)), (2, [3, 4])),
        (held(5, range(5)), held(3, range(3)), (2, [3, 4])),  # the checkpoint is gone with them
        (held(5, range(5)), held(8, range(5)), (3, [])),
        (held(5, range(5)), held(8, range(1, 8)), (1, [0])),
        (held(5, range(5)), held(8, range(1, 9)), (1, [0])),  # the numbers alone would not tell
        (held(9, range(5, 9), found=9, since_ms=5), held(9, range(5, 9), found=7, since_ms=5), (2, [])),  # too old to be named
        (held(5, range(5)), None, (5, [0, 1, 2, 3, 4])),
    ],
)
def test_what_went_is_counted_once(before: RowCount, after: RowCount | None, expected: tuple[int, list[int]] | None) -> None:
    """Rows that were there, and rows that a checkpoint acknowledges in vain; those of the newest days by name."""
    assert loss.gone(counts(before), counts(after)) == counts(expected)


def test_named_bars_become_lost_ones() -> None:
    """A lost bar of the live tables is counted as one of a recorder is, with the minutes of its timeframe."""
    bars = loss.as_bars({("AAPL", "4h"): (3, [0, 7]), ("SPY", "1d"): (1, [])}, drill="d", trial=1, acked_ns=9)
    assert bars == [bar("AAPL", 0, "lost", minutes=240, acked_ns=9), bar("AAPL", 7 / 60_000, "lost", minutes=240, acked_ns=9)]


def test_checkpoints_acknowledge_what_is_there(database_url: str) -> None:
    """In a healthy sandbox every series holds just the rows that its checkpoint says, so that a difference is a loss."""
    found = loss.row_counts(database_url)
    assert len(found) == 30
    assert {key: one.acknowledged - one.found for key, one in found.items() if one.acknowledged != one.found} == {}
    assert loss.gone(found, found) == {}


@pytest.fixture
def tables(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A copy of the live checkpoints and bars of two series, in a schema of its own."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        schema.prepare(database_url, COUNTED, empty=True)
        for table in ("bars", "checkpoints"):
            connection.execute(f"INSERT INTO {COUNTED}.{table} SELECT * FROM tapecheck.{table} WHERE symbol = 'BTC' AND timeframe <> '5m'")
        yield connection
        connection.execute(f"DROP SCHEMA {COUNTED} CASCADE")


def deleted(connection: psycopg.Connection[Any], condition: str) -> set[int]:
    query = f"DELETE FROM {COUNTED}.bars WHERE timeframe = '1h' AND {condition} RETURNING (extract(epoch FROM time) * 1000)::int8"
    return {row[0] for row in connection.execute(query).fetchall()}


@pytest.mark.parametrize(
    "condition",
    ["time = (SELECT max(time) FROM tapecheck_counts.bars WHERE timeframe = '1h')", "extract(hour FROM time) = 7", "true"],
    ids=["the newest", "one of each day", "all"],
)
def test_deleted_rows_are_found(database_url: str, tables: psycopg.Connection[Any], condition: str) -> None:
    """Exactly the rows of the table that went are gone, and those of the newest days have their times."""
    before = loss.row_counts(database_url, COUNTED)
    times_ms = deleted(tables, condition)
    named = sorted(t for t in times_ms if t >= before["BTC", "1h"].since_ms)
    assert loss.gone(before, loss.row_counts(database_url, COUNTED)) == {("BTC", "1h"): (len(times_ms), named)} and times_ms
