"""Planted ages: three ages are planted in a real database, and the time of refresh is put back whatever happens."""

import datetime as dt
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from aged import PLAN, Lie, figures, plan_of, relay, target_at
from servers import Exchange, Server, free_port

from tapecheck.errors import ConfigError, MeasurementError, TapecheckError, TargetDown
from tapecheck.http import Answer, Client
from tapecheck.recovery import ages, freshness
from tapecheck.recovery.ages import SeriesAge
from tapecheck.recovery.objectives import RecoveryPlan
from tapecheck.recovery.recording import Audit
from tapecheck.sandbox import supervision
from tapecheck.target.file import Target
from tapecheck.target.opening import SandboxState

KEY = ("MSFT", "4h")
WHERE = "WHERE symbol = %s AND timeframe = %s"
Times = dict[tuple[str, str], dt.datetime]


@pytest.fixture
def database(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def times(database: psycopg.Connection[Any]) -> Times:
    return {(row[0], row[1]): row[2] for row in database.execute("SELECT symbol, timeframe, refreshed_at FROM tapecheck.checkpoints")}


def planted(plan: RecoveryPlan, target: Target, database_url: str) -> list[SeriesAge]:
    """Plant ages, and judge how they are reported and answered."""
    found = freshness.planted_ages(plan, target, database_url)
    return ages.judged(Audit(looks=found[0].looks, planted=found), plan)[-len(found) :]


def older(before: Times, after: Times) -> list[tuple[str, str]]:
    """Which series are older than before."""
    return [key for key in before if before[key] and after[key] < before[key]]


def test_every_other_class_is_planted_and_answered_as_it_must_be(
    sandbox: SandboxState, database_url: str, database: psycopg.Connection[Any]
) -> None:
    """Aging, stale and missing are seen on one series of the lowest tier, without a lie or a mistake, and nothing stays old.

    Each time another limit is asked for, which nobody asks for and no audit did, so that nothing kept is served.
    """
    supervision.wait_filled()  # what an age planted before has triggered is no whole series yet
    before, plan = times(database), plan_of("SPY", "BTC", "ETH", "AAPL", "GOOGL")
    with Server(relay(sandbox.base_url)) as server:
        freshness.audit(plan, target_at(server.url))
        series = planted(plan, target_at(server.url), database_url)
    assert [(one.state, one.reported, one.seen, one.planted) for one in series] == [
        ("aging", "aging", "warning", True),
        ("stale", "stale", "warning_and_alert", True),
        ("missing", "missing", "not_found_and_trigger", True),
    ]
    assert {(one.false_age, one.wrong_answer, one.tier) for one in series} == {("", "", "low")}
    assert len({(one.symbol, one.timeframe) for one in series}) == 1 and older(before, times(database)) == []
    limits = [figures(path.rpartition("=")[2])[0] for path in server.seen.paths if "features" in path]
    assert len({*limits[-3:]}) == 3 and not {*limits[-3:]} & {*limits[:-3]}
    assert all(400 < limit < 1000 and limit % 10 for limit in limits[-3:])


def test_planted_ages_lie_in_the_middle_of_their_class() -> None:
    """So that neither the time that it takes nor another clock moves them out of it."""
    middles = {state: freshness.age_within(PLAN, state) for state in PLAN.staleness.ends_s}
    assert middles == {"fresh": 1800, "aging": 12600, "stale": 54000, "missing": 129600}


def _quiet(asked: str, status: int, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    return status, body | {"warning": None} if asked == "features" and status == 200 else body


def _no_new_alert(asked: str, status: int, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    return status, body | {"alerts": body["series"]} if asked == "status" else body


@pytest.mark.parametrize(
    ("lie", "seen"),
    [(_quiet, ["plain", "plain", "not_found_and_trigger"]), (_no_new_alert, ["warning", "warning", "not_found_and_trigger"])],
)
def test_an_api_that_hides_planted_ages_is_found(sandbox: SandboxState, database_url: str, lie: Lie, seen: list[str]) -> None:
    """No warning, or an alert that was there before: each is told, with the figures."""
    with Server(relay(sandbox.base_url, lie)) as server:
        series = planted(PLAN, target_at(server.url), database_url)
    assert [one.seen for one in series] == seen
    assert "an age of 5400" in series[1].wrong_answer and "is stale and demands data with a warning, and an alert" in series[1].wrong_answer
    assert series[2].wrong_answer == ""


# ---- putting it back ----


def test_the_very_same_time_is_put_back_unless_it_has_become_newer(database_url: str, database: psycopg.Connection[Any]) -> None:
    """To the microsecond, in that row alone; what the target refreshed meanwhile is not made older."""
    before = times(database)
    with freshness.restored(database_url, KEY):
        freshness.plant(database_url, KEY, 54000)
        assert older(before, times(database)) == [KEY]
    assert times(database)[KEY] == before[KEY] and older(before, times(database)) == []
    with freshness.restored(database_url, KEY):
        freshness.plant(database_url, KEY, 54000)
        database.execute(f"UPDATE tapecheck.checkpoints SET refreshed_at = now() {WHERE}", KEY)
        newer = times(database)[KEY]
    assert times(database)[KEY] == newer


def _raise(error: BaseException) -> None:
    raise error


def _signal(number: int) -> None:
    """Send ourselves a signal; if it ended the process, the tests would end with it, so that is looked at first."""
    assert signal.getsignal(number) is signal.default_int_handler
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (lambda: _raise(RuntimeError("planted")), RuntimeError),
        (lambda: _raise(KeyboardInterrupt()), KeyboardInterrupt),
        (lambda: _signal(signal.SIGINT), KeyboardInterrupt),
        (lambda: _signal(signal.SIGTERM), KeyboardInterrupt),
    ],
    ids=["a mistake", "interrupted", "Ctrl-C", "SIGTERM"],
)
def test_it_is_put_back_when_asking_ends_in_the_middle(
    sandbox: SandboxState,
    database_url: str,
    database: psycopg.Connection[Any],
    monkeypatch: pytest.MonkeyPatch,
    end: Callable[[], None],
    error: type[BaseException],
) -> None:
    """The planted age is gone before the error goes on, and signals are handled as before."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    before, during, real = times(database), [], Client.ask_all

    def ask(client: Client, name: str, *values: Any) -> list[Answer]:
        if name == "features":
            during.append(times(database))
            end()
        return real(client, name, *values)

    monkeypatch.setattr(Client, "ask_all", ask)
    with pytest.raises(error):
        freshness.planted_ages(PLAN, target_at(sandbox.base_url), database_url)
    assert len(older(before, during[0])) == 1  # it was planted
    assert older(before, times(database)) == []
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_it_is_put_back_when_the_target_dies(sandbox: SandboxState, database_url: str, database: psycopg.Connection[Any]) -> None:
    """The status that is asked for after the answer fails, and the age is put back all the same."""
    passed_on, before = relay(sandbox.base_url), times(database)

    async def dies(exchange: Exchange) -> None:
        if exchange.number < 4:
            await passed_on(exchange)
        else:
            exchange.server.die()

    with Server(dies) as server, pytest.raises(TargetDown):
        freshness.planted_ages(PLAN, target_at(server.url), database_url)
    assert server.seen.requests == 4 and older(before, times(database)) == []


def test_connections_that_are_terminated_do_not_keep_it_from_being_put_back(
    database_url: str, database: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that goes away for a moment is waited for."""
    before, refusals = times(database), iter([psycopg.OperationalError("planted")] * 2)
    real = freshness.connect

    def connect(url: str) -> psycopg.Connection:
        for error in refusals:
            raise error
        return real(url)

    with freshness.restored(database_url, KEY):
        freshness.plant(database_url, KEY, 54000)
        monkeypatch.setattr(freshness, "connect", connect)
    assert times(database)[KEY] == before[KEY] and next(refusals, None) is None


def test_what_cannot_be_put_back_is_said_with_how_to_do_it_by_hand(database_url: str) -> None:
    """The message names the series, the reason and the statement, and never the URL; a restore that changed nothing is none."""
    moment, url = dt.datetime(2026, 11, 25, 12, tzinfo=dt.UTC), f"postgresql://k3y@127.0.0.1:{free_port()}/d"
    with pytest.raises(TapecheckError) as caught:
        freshness.restore(url, KEY, moment, within_s=0)
    text = str(caught.value)
    assert "the age of MSFT 4h could not be put back (connection failed" in text and "k3y" not in text
    assert "SET refreshed_at = GREATEST(refreshed_at, '2026-11-25T12:00:00+00:00') WHERE symbol = 'MSFT' AND timeframe = '4h';" in text
    assert caught.value.exit_code == 3
    with pytest.raises(TapecheckError, match=r"could not be put back \(the row is gone\)"):
        freshness.restore(database_url, ("NOSERIES", "1d"), moment, within_s=0)


def test_without_a_database_nothing_is_planted(sandbox: SandboxState) -> None:
    """Nothing to plant in, and one beyond this machine, are said before anything is changed."""
    with pytest.raises(MeasurementError, match="no age can be planted: the target's database cannot be read"):
        freshness.planted_ages(PLAN, target_at(sandbox.base_url), f"postgresql://u@127.0.0.1:{free_port()}/d")
    with pytest.raises(ConfigError, match="its database may be on another machine"):
        freshness.planted_ages(PLAN, target_at(sandbox.base_url), "postgresql://u@db.example.com/d")
