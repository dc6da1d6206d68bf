"""Audits the age of every series: asks the API, its database, and for the series themselves, some made old on purpose. It judges nothing.

An age that is planted is put back, unless this process is killed meanwhile.
"""
# ruff: noqa: S608 - what is put into statements is the schema's name, a constant of ours

import contextlib
import datetime as dt
import itertools
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType

import psycopg
from pydantic import TypeAdapter, ValidationError

from tapecheck.errors import MeasurementError, TapecheckError, TargetError
from tapecheck.http import Answer, Client
from tapecheck.recovery import ages, stored
from tapecheck.recovery.objectives import AgeClass, RecoveryPlan
from tapecheck.recovery.recording import Audit, Key, Look, NotFound, PlantedAge, Reply, SchedulerHealth, Served, Status
from tapecheck.recovery.stored import SCHEMA, read_if_there
from tapecheck.target.file import Target
from tapecheck.target.loopback import check_database

STATUS, SCHEDULER, FEATURES = "status", "scheduler", "features"  # the requests of a target file
_BODY: TypeAdapter[dict[str, object]] = TypeAdapter(dict[str, object])


def unusual_limits(low: int, high: int) -> Iterator[int]:
    """Return limits that nobody asks for, each once in a long time, so that no cached answer fits."""
    limits = [limit for limit in range(low, high) if limit % 10]
    random.shuffle(limits)
    return itertools.cycle(limits)


_LIMITS = unusual_limits(3, 400)


def audit(plan: RecoveryPlan, target: Target, database_url: str | None = None) -> Audit:
    """Ask for the age of every series, read the database where it is reachable, and ask for each series.

    Missing ones are asked for too, which has the target get them, as anybody's question would.

    Args:
        plan: the symbols that its tiers name are asked for even where nothing is listed of them.
        target: opened; `status` is asked, `scheduler` and `features` where the target file names them.
        database_url: the target's own database, with the tables of `tapecheck.recovery.stored`.

    Raises:
        ConfigError: something lies beyond this machine without `allow_remote`, or a request is not named.
        TargetDown: the target does not answer.
        TargetError: its status is no status.
    """
    if database_url is not None:
        check_database(target, database_url)
    with Client(target) as client:
        check(client)
        first = look(client, database_url)
        replies = ask(client, ages.keys(plan, first), next(_LIMITS)) if client.knows(FEATURES) else []
        second = look(client, database_url)
        answer = client.ask(SCHEDULER) if client.knows(SCHEDULER) else None
    health = (answer.parsed(SchedulerHealth) if answer else None) or SchedulerHealth()
    success_s = max(0.0, (answer.at - health.last_success_at).total_seconds()) if answer and health.last_success_at else None
    return Audit(
        looks=(first, second),
        replies=replies,
        last_success_s=success_s,
        failed_jobs=[job for job in health.failed if job.strip()],
        has_database=database_url is not None,
    )


def check(client: Client) -> None:
    """Refuse a target whose requests cannot be made, before anything is sent.

    Raises:
        ConfigError: it names no `status`, or a request needs names that an audit does not know.
    """
    client.check(STATUS, {})
    for name, given in ((SCHEDULER, {}), (FEATURES, _values(("", ""), 1))):
        if client.knows(name):
            client.check(name, given)


def look(client: Client, database_url: str | None) -> Look:
    """Ask for the status, and read the database just before and after it.

    Raises:
        TargetError: it does not answer, or with something else, or lists a series twice.
    """
    before = read_if_there(database_url)
    answer, status = client.read(STATUS, Status)
    after = read_if_there(database_url) if before is not None else None
    if (distinct := len({one.key for one in status.series})) < len(status.series):
        raise TargetError(f"{answer.what}: lists {len(status.series)} series, of which only {distinct} are distinct")
    stored = (before, after) if before is not None and after is not None else ()
    return Look(sent_s=answer.sent_s, done_s=answer.done_s, at=answer.at, status=status, stored=stored)


def ask(client: Client, keys: Sequence[Key], limit: int) -> list[Reply]:
    """Ask for each series, and return how it was answered.

    Raises:
        ConfigError: the target file names no `features`, or it needs other names.
    """
    answers = client.ask_all(FEATURES, [_values(key, limit) for key in keys])
    return [_reply(client, key, limit, answer) for key, answer in zip(keys, answers, strict=True)]


def _values(key: Key, limit: int) -> dict[str, str | int | float]:
    """Return the names that a `features` template may use."""
    return {"symbol": key[0], "timeframe": key[1], "limit": limit}


def _reply(client: Client, key: Key, limit: int, answer: Answer) -> Reply:
    served = answer.parsed(Served)
    return Reply(
        symbol=key[0],
        timeframe=key[1],
        done_s=answer.done_s,
        status=answer.status,
        failure=str(answer.failure or ""),
        served=served.model_copy(update={"rows": None}) if served else None,
        is_empty=served is not None and served.is_empty,
        has_features=served is not None and served.has_features,
        triggered=_triggered(answer),
        unexpected=_unexpected(client, key, limit, answer) if served else (),
    )


def _triggered(answer: Answer) -> bool:
    try:
        return answer.status == 404 and NotFound.model_validate_json(answer.body).detail.triggered
    except ValidationError:
        return False


def _unexpected(client: Client, key: Key, limit: int, answer: Answer) -> list[str]:
    """Return in which top-level keys a body differs from what the target file expects."""
    try:
        body = _BODY.validate_json(answer.body)
    except ValidationError:
        return []
    expected = client.expected(FEATURES, _values(key, limit))
    return [f"{name!r} is {body.get(name)!r}, expected {value!r}" for name, value in expected.items() if body.get(name) != value]


# ---- planted ages, for drills only ----

ATTEMPTS = 3  # a refresh may come between planting and looking
RESTORE_S = 30.0  # so long a database that went away is waited for
Handler = Callable[[int, FrameType | None], object] | signal.Handlers
PLANTED: tuple[AgeClass, ...] = ("aging", "stale", "missing")

_PLANTED_LIMITS = unusual_limits(401, 1000)  # apart from those of an audit, whose answers the target may have kept
_WHERE = "WHERE symbol = %s AND timeframe = %s"


def planted_ages(plan: RecoveryPlan, target: Target, database_url: str) -> list[PlantedAge]:
    """Make a series of the lowest tier aging, stale and missing in turn, see how each is answered, and put its age back.

    The caller makes sure that drills are allowed. Whatever happens, Ctrl-C and SIGTERM included, the time of its last refresh is
    set back, unless the target has refreshed it meanwhile.

    Raises:
        ConfigError: as `audit`.
        TargetError: the target does not answer, or not with a status.
        MeasurementError: there is no series to plant in, or no database to ask.
        TapecheckError: the age could not be put back; the message says how to do that by hand.
    """
    check_database(target, database_url)
    with Client(target) as client:
        check(client)
        if not client.knows(FEATURES):
            raise MeasurementError(f"no age can be planted: the target file names no request `{FEATURES}`")
        key = _lowest(plan, look(client, database_url))
        with _interruptible(), restored(database_url, key):
            return [_planted(plan, client, database_url, key, state) for state in PLANTED]


def _lowest(plan: RecoveryPlan, one: Look) -> Key:
    """Return the youngest complete series of the lowest tier that has one: it is refreshed last."""
    if not one.stored:
        raise MeasurementError("no age can be planted: the target's database cannot be read")
    rows = [row for row in one.stored[-1].rows.values() if row.state == "done" and one.reported((row.symbol, row.timeframe))]
    ages = {(row.symbol, row.timeframe): row.age_s for row in rows if row.age_s is not None}
    for tier in reversed(plan.rpo):
        if found := {key: age_s for key, age_s in ages.items() if plan.tier_of(key[0]) == tier}:
            return min(found, key=lambda key: found[key])
    raise MeasurementError("no age can be planted: the target has no complete series")


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
    (reply,) = ask(client, [key], next(_PLANTED_LIMITS))
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
