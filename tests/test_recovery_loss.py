"""What the fates of bars mean in minutes, and what upstream and the live tables say of lost ones."""

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import servers
from recorded_drills import PLAN, ack
from servers import Server

from tapecheck.backfill import checkpoints
from tapecheck.errors import MeasurementError
from tapecheck.recovery import recorder, stored
from tapecheck.recovery.judgement import TierLoss, summarize
from tapecheck.recovery.recorder import ask_upstream
from tapecheck.recovery.recording import Ack
from tapecheck.recovery.stored import Gone, Held, Snapshot

LOST = [ack("AAPL", minutes, "lost") for minutes in (0, 5)]
SCHEMA = "tapecheck_census"


# ---- minutes ----


@pytest.mark.parametrize(
    ("acks", "expected"),
    [
        ([], {}),
        ([ack("SPY", 0)], {"critical": TierLoss(acknowledged_bars=1, stable_bars=1)}),
        ([ack("SPY", 0, "unknown")], {"critical": TierLoss(unknown_bars=1)}),
        ([ack("SPY", 0, "never_read")], {"critical": TierLoss(acknowledged_bars=1, never_read_bars=1)}),
        (
            [*LOST, ack("AAPL", 10), ack("MSFT", 0, "lost", refetchable=True), ack("JPM", 0, "lost", refetchable=False)],
            {
                "standard": TierLoss(
                    acknowledged_bars=4, stable_bars=1, lost_bars=3, lost_minutes=10, lost_minutes_by_symbol={"AAPL": 10, "MSFT": 5},
                    total_lost_minutes=15, worst_symbol="AAPL", refetchable_bars=1, unasked_bars=2,
                ),
                "low": TierLoss(
                    acknowledged_bars=1, lost_bars=1, lost_minutes=5, lost_minutes_by_symbol={"JPM": 5}, total_lost_minutes=5,
                    worst_symbol="JPM", unrecoverable_bars=1,
                ),
            },
        ),
        (
            [ack("SPY", 0, "lost", minutes=60), ack("SPY", 60, "lost", minutes=1440), ack("QQQ", 0, "lost", minutes=5)],
            {
                "critical": TierLoss(
                    acknowledged_bars=3, lost_bars=3, lost_minutes=1500, lost_minutes_by_symbol={"SPY": 1500, "QQQ": 5},
                    total_lost_minutes=1505, worst_symbol="SPY", unasked_bars=3,
                )
            },
        ),
    ],
    ids=["none", "stable", "unknown", "never read", "tiers and symbols", "long bars"],
)  # fmt: skip
def test_bars_become_minutes_of_symbols_and_tiers(acks: list[Ack], expected: dict[str, TierLoss]) -> None:
    """Each bar counts once, by its fate; minutes are those of lost bars, and an unanswered commit is no promise."""
    assert summarize(acks) == expected


def test_minutes_of_several_trials_are_those_of_the_worst() -> None:
    """A promise of minutes is about one failure: what three trials lost is not added up, but its total is there too."""
    acks = [ack("AAPL", minutes, "lost", trial=trial) for trial, count in ((1, 1), (2, 3), (3, 2)) for minutes in range(0, 5 * count, 5)]
    found = summarize(acks, freshness_loss_minutes=0.5)["standard"]
    assert (found.lost_minutes, found.total_lost_minutes, found.lost_bars, found.freshness_loss_minutes) == (15, 30, 6, 0.5)


def test_a_symbol_without_a_tier_is_not_left_out() -> None:
    """Its loss stands under no name."""
    assert summarize([ack("AAPL", 0, "lost", tier=None)])[""].lost_bars == 1


# ---- upstream ----


def page(times_ms: list[int], **changes: Any) -> bytes:
    body = {"ticker": "AAPL", "status": "OK", "resultsCount": len(times_ms), "results": [{"t": t} for t in times_ms]} | changes
    return json.dumps(body).encode()


def answer(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (answer(page([0, 300_000])), [True, True]),
        (answer(page([300_000], status="DELAYED")), [False, True]),
        (answer(page([])), [False, False]),
        (answer(b'{"ticker": "AAPL", "status": "OK", "resultsCount": 0}'), [False, False]),
        (answer(b'{"ticker": "AAPL", "status": "OK", "resultsCount": 2}'), [None, None]),
        (answer(page([0], resultsCount=2)), [None, None]),
        (answer(page([0], ticker="MSFT")), [None, None]),
        (answer(page([0], next_url="http://127.0.0.1/")), [None, None]),
        (answer(page([0], results=None)), [None, None]),
        (answer(page([0])[:-9]), [None, None]),
        (answer(b"[]"), [None, None]),
        (answer(page([0]), "404 Not Found"), [None, None]),
        (answer(b"", "429 Too Many Requests"), [None, None]),
        (b"", [None, None]),
    ],
    ids=[
        "both", "delayed", "no bars", "no results", "results missing", "fewer than it says", "another ticker", "more to come", "null",
        "truncated", "a list", "404", "429", "reset",
    ],
)  # fmt: skip
def test_only_a_whole_answer_says_that_a_bar_is_gone(reply: bytes, expected: list[bool | None], monkeypatch: pytest.MonkeyPatch) -> None:
    """What upstream does not list in a page that can be trusted is gone; no other answer says anything."""
    monkeypatch.setattr(recorder, "PAUSES_S", (0.0,))
    with Server(servers.raw(reply, close=True)) as server:
        asked = ask_upstream([*LOST, ack("AAPL", 10)], server.url, "key")
    assert [one.refetchable for one in asked] == [*expected, None]


def test_nothing_is_asked_without_an_upstream_or_a_loss() -> None:
    """Then nobody knows, and nobody is bothered."""
    assert ask_upstream(LOST, None, "") == LOST
    stable = [ack("AAPL", 0), ack("AAPL", 5, "unknown"), ack("AAPL", 10, "never_read")]
    assert ask_upstream(stable, "http://127.0.0.1:1", "") == stable


def test_an_upstream_that_is_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the time that was given nobody waits any longer."""
    monkeypatch.setattr(recorder, "PAUSES_S", (0.1,) * 1000)
    assert ask_upstream(LOST, "http://127.0.0.1:1", "", within_s=0.3) == LOST


def test_a_request_asks_for_no_more_than_a_page_holds() -> None:
    """Bars far apart are asked for in several requests, each within the vendor's limit of base minutes."""
    lost = [ack("BTC", minutes, "lost") for minutes in (0, 49_995, 50_000, 200_000)]
    windows = [[t // 60_000 for t in one.times_ms] for one in recorder._windows([*lost, ack("BTC", 0, "lost", minutes=60)])]
    assert windows == [[0, 49_995], [50_000], [200_000], [0]]


# ---- the live tables ----


def held(acknowledged: int, times: range, *, found: int | None = None, since_ms: int = 0) -> Held:
    return Held(acknowledged=acknowledged, found=len(times) if found is None else found, since_ms=since_ms, times_ms=frozenset(times))


def snapshot(one: Held | None) -> Snapshot:
    return Snapshot(at_ns=1, series={} if one is None else {("AAPL", "5m"): one})


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (held(5, range(5)), held(5, range(5)), None),
        (held(5, range(5)), held(8, range(8)), None),
        (held(5, range(5)), held(8, range(2, 8), since_ms=2, found=8), None),  # the window of named ones has moved on
        (held(6, range(5)), held(6, range(5)), None),  # it lacked one before
        (held(5, range(5)), held(5, range(3)), (2, (3, 4))),
        (held(5, range(5)), held(3, range(3)), (2, (3, 4))),  # the checkpoint is gone with them
        (held(5, range(5)), held(8, range(5)), (3, ())),
        (held(5, range(5)), held(8, range(1, 8)), (1, (0,))),
        (held(5, range(5)), held(8, range(1, 9)), (1, (0,))),  # the numbers alone would not tell
        (held(9, range(5, 9), found=9, since_ms=5), held(9, range(5, 9), found=7, since_ms=5), (2, ())),  # too old to be named
        (held(5, range(5)), None, (5, (0, 1, 2, 3, 4))),
    ],
)
def test_what_went_is_counted_once(before: Held, after: Held | None, expected: tuple[int, tuple[int, ...]] | None) -> None:
    """Rows that were there, and rows that a checkpoint acknowledges in vain; those of the newest days by name."""
    found = [(one.bars, one.times_ms) for one in stored.compare(snapshot(before), snapshot(after))]
    assert found == ([] if expected is None else [expected])


def test_named_bars_become_lost_ones() -> None:
    """A lost bar of the live tables is counted as one of a recorder is, with the minutes of its timeframe."""
    gone = [Gone(symbol="AAPL", timeframe="4h", bars=3, times_ms=(0, 7)), Gone(symbol="SPY", timeframe="1d", bars=1, times_ms=())]
    acks = stored.as_acks(gone, PLAN, drill="d", trial=1, acked_ns=9)
    assert acks == [ack("AAPL", 0, "lost", minutes=240, acked_ns=9), ack("AAPL", 7 / 60_000, "lost", minutes=240, acked_ns=9)]


@pytest.mark.parametrize(("frame", "minutes"), [("5m", 5), ("15m", 15), ("1h", 60), ("4h", 240), ("1d", 1440)])
def test_timeframes_have_minutes(frame: str, minutes: float) -> None:
    """As in our tables."""
    assert stored.minutes_of(frame) == minutes


def test_checkpoints_acknowledge_what_is_there(database_url: str) -> None:
    """In a healthy sandbox every series holds just the rows that its checkpoint says, so that a difference is a loss."""
    found = stored.snapshot(database_url)
    assert len(found.series) == 30
    assert {key: one.acknowledged - one.found for key, one in found.series.items() if one.acknowledged != one.found} == {}
    assert stored.compare(found, found) == []


@pytest.fixture
def tables(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A copy of the live checkpoints and bars of two series, in a schema of its own."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        checkpoints.prepare(database_url, SCHEMA, empty=True)
        for table in ("bars", "checkpoints"):
            connection.execute(f"INSERT INTO {SCHEMA}.{table} SELECT * FROM tapecheck.{table} WHERE symbol = 'BTC' AND timeframe <> '5m'")
        yield connection
        connection.execute(f"DROP SCHEMA {SCHEMA} CASCADE")


def deleted(connection: psycopg.Connection[Any], condition: str) -> set[int]:
    query = f"DELETE FROM {SCHEMA}.bars WHERE timeframe = '1h' AND {condition} RETURNING (extract(epoch FROM time) * 1000)::int8"
    return {row[0] for row in connection.execute(query).fetchall()}


@pytest.mark.parametrize(
    "condition",
    ["time = (SELECT max(time) FROM tapecheck_census.bars WHERE timeframe = '1h')", "extract(hour FROM time) = 7", "true"],
    ids=["the newest", "one of each day", "all"],
)
def test_deleted_rows_are_found(database_url: str, tables: psycopg.Connection[Any], condition: str) -> None:
    """Exactly the rows of the table that went are gone, and those of the newest days have their times."""
    before = stored.snapshot(database_url, SCHEMA)
    times_ms = deleted(tables, condition)
    (gone,) = stored.compare(before, stored.snapshot(database_url, SCHEMA))
    assert (gone.symbol, gone.timeframe, gone.bars) == ("BTC", "1h", len(times_ms)) and times_ms
    assert set(gone.times_ms) == {t for t in times_ms if t >= before.series["BTC", "1h"].since_ms}


@pytest.mark.parametrize("url", ["postgresql://127.0.0.1:1/x", "postgresql://[hunter2"])
def test_a_database_that_cannot_be_counted_is_said_so(url: str) -> None:
    """In a sentence that does not repeat a URL."""
    with pytest.raises(MeasurementError, match="cannot be counted") as caught:
        stored.snapshot(url)
    assert "hunter2" not in str(caught.value)
