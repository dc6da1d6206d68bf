"""Makes one series old in the target's database, sees how each age is answered, and puts it back, unless it is killed itself.

For drills only.
"""
# ruff: noqa: S608 - what is put into statements is the schema's name, a constant of ours

import contextlib
import datetime as dt
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import FrameType

import psycopg

from tapecheck.errors import MeasurementError, TapecheckError
from tapecheck.http import Client
from tapecheck.recovery import freshness, stored
from tapecheck.recovery.answers import Key, Look, PlantedAge
from tapecheck.recovery.freshness import FEATURES, look, unusual_limits
from tapecheck.recovery.objectives import AgeClass, RecoveryPlan
from tapecheck.recovery.stored import SCHEMA
from tapecheck.target.file import Target
from tapecheck.target.opening import check_database

ATTEMPTS = 3  # a refresh may come between planting and looking
RESTORE_S = 30.0  # so long a database that went away is waited for
Handler = Callable[[int, FrameType | None], object] | signal.Handlers
PLANTED: tuple[AgeClass, ...] = ("aging", "stale", "missing")

_LIMITS = unusual_limits(401, 1000)  # apart from those of an audit, whose answers the target may have kept
_WHERE = "WHERE symbol = %s AND timeframe = %s"


def planted_ages(plan: RecoveryPlan, target: Target, database_url: str) -> list[PlantedAge]:
    """Make a series of the lowest tier aging, stale and missing in turn, see how each is answered, and put its age back.

    The caller makes sure that drills are allowed. Whatever happens, Ctrl-C and SIGTERM included, the time of its last refresh is
    set back, unless the target has refreshed it meanwhile.

    Raises:
        ConfigError: as `freshness.audit`.
        TargetError: the target does not answer, or not with a status.
        MeasurementError: there is no series to plant in, or no database to ask.
        TapecheckError: the age could not be put back; the message says how to do that by hand.
    """
    check_database(target, database_url)
    with Client(target) as client:
        freshness.check(client)
        if not client.knows(FEATURES):
            raise MeasurementError(f"no age can be planted: the target file names no request `{FEATURES}`")
        key = _lowest(plan, look(client, database_url))
        with _interruptible(), restored(database_url, key):
            return [_planted(plan, client, database_url, key, state) for state in PLANTED]


def _lowest(plan: RecoveryPlan, one: Look) -> Key:
    """Return the youngest whole series of the lowest tier that has one: it is the last that will be refreshed soon."""
    if not one.stored:
        raise MeasurementError("no age can be planted: the target's database cannot be read")
    rows = [row for row in one.stored[-1].rows.values() if row.state == "done" and one.reported((row.symbol, row.timeframe))]
    ages = {(row.symbol, row.timeframe): row.age_s for row in rows if row.age_s is not None}
    for tier in reversed(plan.rpo):
        if found := {key: age_s for key, age_s in ages.items() if plan.tier_of(key[0]) == tier}:
            return min(found, key=lambda key: found[key])
    raise MeasurementError("no age can be planted: the target has no series that is whole")


def age_within(plan: RecoveryPlan, state: AgeClass) -> float:
    """Return an age in the middle of a class; of what is missing, half as old again as it must be."""
    fresh_s, aging_s, stale_s = (younger.below_s for younger in (plan.staleness.fresh, plan.staleness.aging, plan.staleness.stale))
    return {"fresh": fresh_s / 2, "aging": (fresh_s + aging_s) / 2, "stale": (aging_s + stale_s) / 2, "missing": 1.5 * stale_s}[state]


def _planted(plan: RecoveryPlan, client: Client, database_url: str, key: Key, state: AgeClass) -> PlantedAge:
    age_s = age_within(plan, state)
    for _ in range(ATTEMPTS):
        _plant(database_url, key, age_s)
        first = look(client, database_url)
        if first.stored and plan.staleness.classify(first.stored[-1].age_s(key, first.done_s)) == state:
            break
    (reply,) = freshness.ask(client, [key], next(_LIMITS))
    second = look(client, database_url)
    return PlantedAge(age_s=age_s, looks=(first.of(key), second.of(key)), reply=reply)


def _plant(database_url: str, key: Key, age_s: float) -> None:
    statement = f"UPDATE {SCHEMA}.checkpoints SET refreshed_at = clock_timestamp() - make_interval(secs => %s) {_WHERE}"
    try:
        with stored.connect(database_url) as connection:
            connection.execute(statement, (age_s, *key))
    except psycopg.Error as error:
        raise MeasurementError(f"no age could be planted for {' '.join(key)}: {stored.reason(error)}") from None


# ---- putting it back ----


@contextlib.contextmanager
def restored(database_url: str, key: Key) -> Iterator[None]:
    """Set a series' time of refresh back to what it is now when the context ends, unless it has become newer.

    Raises:
        MeasurementError: the series cannot be read to begin with.
        TapecheckError: it could not be set back.
    """
    original = _original(database_url, key)
    try:
        yield
    finally:
        with _undisturbed():
            restore(database_url, key, original)


def _original(database_url: str, key: Key) -> dt.datetime:
    try:
        found = _refreshed_at(database_url, key)
    except psycopg.Error as error:
        raise MeasurementError(f"no age can be planted for {' '.join(key)}: {stored.reason(error)}") from None
    if found is None:
        raise MeasurementError(f"no age can be planted for {' '.join(key)}: it was never refreshed")
    return found


def restore(database_url: str, key: Key, original: dt.datetime, *, within_s: float = RESTORE_S) -> None:
    """Set a time of refresh back, see that it is, and wait for a database that is away.

    Raises:
        TapecheckError: it could not be done; the message holds the statement that does it.
    """
    until_s, why = time.monotonic() + within_s, "the row is gone"
    while True:
        try:
            with stored.connect(database_url) as connection:
                connection.execute(f"UPDATE {SCHEMA}.checkpoints SET refreshed_at = GREATEST(refreshed_at, %s) {_WHERE}", (original, *key))
            found = _refreshed_at(database_url, key)
            if found is not None and found >= original:
                return
        except psycopg.Error as error:
            why = stored.reason(error)
        if time.monotonic() > until_s:
            raise TapecheckError(f"the age of {' '.join(key)} could not be put back ({why}); {_by_hand(key, original)}")
        time.sleep(0.2)


def _by_hand(key: Key, original: dt.datetime) -> str:
    statement = f"UPDATE {SCHEMA}.checkpoints SET refreshed_at = GREATEST(refreshed_at, '{original.isoformat()}')"
    return f"in the target's database run: {statement} WHERE symbol = '{key[0]}' AND timeframe = '{key[1]}';"


def _refreshed_at(database_url: str, key: Key) -> dt.datetime | None:
    with stored.connect(database_url) as connection:
        row = connection.execute(f"SELECT refreshed_at FROM {SCHEMA}.checkpoints {_WHERE}", key).fetchone()
    return row[0] if row else None


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM end what is done here as Ctrl-C does, by an exception, so that it is undone first."""
    with _handled({signal.SIGTERM: signal.default_int_handler}):
        yield


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Let a second Ctrl-C not break what undoes the first."""
    with _handled({signal.SIGINT: signal.SIG_IGN, signal.SIGTERM: signal.SIG_IGN}):
        yield


@contextlib.contextmanager
def _handled(handlers: Mapping[signal.Signals, Handler]) -> Iterator[None]:
    """Handle signals otherwise while the context lasts; only the main thread may, and only it gets them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
