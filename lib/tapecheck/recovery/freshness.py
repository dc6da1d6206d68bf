"""Audits the age of every series: asks the API, its database, and for the series themselves, some made old on purpose. It judges nothing.

An age that is planted is put back, unless this process is killed meanwhile.
"""

import contextlib
import datetime as dt
import itertools
import logging
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import FrameType
from typing import Any

import psycopg
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from tapecheck import database
from tapecheck.errors import MeasurementError, TapecheckError, TargetError, first_line, shown
from tapecheck.http import Answer, Client
from tapecheck.recovery import ages
from tapecheck.recovery.objectives import AgeClass, RecoveryPlan
from tapecheck.recovery.recording import Audit, Look, PlantedAge, Reply, Row, Stored
from tapecheck.target import mapping, templates
from tapecheck.target.file import Target
from tapecheck.target.loopback import check_database
from tapecheck.target.mapping import (
    AGES,
    MAKE_OLD,
    PUT_BACK,
    REFRESHED_AT,
    AnswerMapping,
    Freshness,
    Key,
    NotFound,
    SchedulerHealth,
    Served,
    Status,
)

STATUS, SCHEDULER, FEATURES = "status", "scheduler", "features"  # the requests of a target file
_BODY: TypeAdapter[dict[str, object]] = TypeAdapter(dict[str, object])

log = logging.getLogger(__name__)


def _unusual(low: int, high: int) -> Iterator[int]:
    """Return limits that nobody asks for, each once in a long time, so that no cached answer fits."""
    return itertools.cycle(random.sample([limit for limit in range(low, high) if limit % 10], (high - low) // 2))


_LIMITS, _PLANTED_LIMITS = _unusual(3, 400), _unusual(401, 1000)  # apart, since the target may have kept answers


def audit(plan: RecoveryPlan, target: Target, database_url: str | None = None) -> Audit:
    """Ask for the age of every series, read the database where it is reachable, and ask for each series.

    Missing ones are asked for too, which has the target get them, as anybody's question would.

    Args:
        plan: the symbols that its tiers name are asked for even where nothing is listed of them.
        target: opened; `status` is asked, `scheduler` and `features` where the target file names them.
        database_url: the target's own database, with the tables of a backfill.
    """
    with _client(target, database_url) as client:
        first = look(client, plan, database_url)
        is_ours = client.knows(FEATURES) and not target.freshness  # how another system serves its data is not mapped, and not judged
        replies = ask(client, ages.keys(plan, first), next(_LIMITS)) if is_ours else []
        second = look(client, plan, database_url)
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


@contextlib.contextmanager
def _client(target: Target, database_url: str | None) -> Iterator[Client]:
    """Open a target whose database may be asked and whose requests can be made; refuse it otherwise, before anything is sent."""
    if database_url is not None:
        check_database(target, database_url)
    with Client(target) as client:
        if mapped := target.freshness:
            if mapped.api:
                client.check(mapped.api.request, dict.fromkeys(("symbol", "timeframe"), ""))
            yield client
            return
        client.check(STATUS, {})
        for name, given in ((SCHEDULER, {}), (FEATURES, _values(("", ""), 1))):
            if client.knows(name):
                client.check(name, given)
        yield client


def look(client: Client, plan: RecoveryPlan, database_url: str | None) -> Look:
    """Ask for the status, and read the database just before and after it."""
    freshness = client.target.freshness
    sql = freshness.sql if freshness else None
    asked_url = database_url if sql or not freshness else None
    before = read_if_there(asked_url, sql)
    answer, status = reported(client, plan, freshness) if freshness else client.read(STATUS, Status)
    after = read_if_there(asked_url, sql) if before is not None else None
    if (distinct := len({one.key for one in status.series})) < len(status.series):
        raise TargetError(f"{answer.what}: lists {len(status.series)} series, of which only {distinct} are distinct")
    stored = (before, after) if before is not None and after is not None else ()
    return Look(sent_s=answer.sent_s, done_s=answer.done_s, at=answer.at, status=status, stored=stored)


def reported(client: Client, plan: RecoveryPlan, freshness: Freshness) -> tuple[Answer, Status]:
    """Ask a system that the target file maps, at once or series by series, and return when it answered and what it said."""
    if freshness.api is None:
        now_s, at = time.monotonic(), dt.datetime.now(dt.UTC)
        return Answer(what="", sent_s=now_s, done_s=now_s, at=at), Status(series=(), is_asked=False)
    api = freshness.api
    names = templates.placeholders(client.target.requests[api.request])
    frames = ages.FRAMES if "timeframe" in names else ("",)
    symbols = [symbol for tier in plan.named.values() for symbol in tier] if names else [""]
    keys = [{"symbol": symbol, "timeframe": frame} for symbol in symbols for frame in frames]
    answers = client.ask_all(api.request, keys)
    found = [_mapped(answer, api, {name: key[name] for name in names}) for answer, key in zip(answers, keys, strict=True)]
    series = tuple(one for status in found for one in status.series)
    first, last = (edge(answers, key=lambda answer: answer.done_s) for edge in (min, max))
    return replace(last, sent_s=first.sent_s), Status(series=series, generated_at=found[0].generated_at if len(found) == 1 else None)


def _mapped(answer: Answer, api: AnswerMapping, known: Mapping[str, str]) -> Status:
    """Return what one answer says; a 404 about one series says that it is not there."""
    if answer.failure is not None:
        raise answer.failure
    if answer.status == 404 and known:
        return Status(series=())
    if answer.status != 200:
        raise TargetError(f"{answer.what}: HTTP {answer.status}: {shown(answer.body)}")
    try:
        document = from_json(answer.body)
    except ValueError:
        raise TargetError(f"{answer.what}: another body than JSON: {shown(answer.body)}") from None
    return mapping.status(document, api, answer.at, known)


def ask(client: Client, keys: Sequence[Key], limit: int) -> list[Reply]:
    """Ask for each series, and return how it was answered."""
    answers = client.ask_all(FEATURES, [_values(key, limit) for key in keys])
    return [_reply(client, key, limit, answer) for key, answer in zip(keys, answers, strict=True)]


def _values(key: Key, limit: int) -> dict[str, str | int | float]:
    """Return the names that a `features` template may use."""
    return {"symbol": key[0], "timeframe": key[1], "limit": limit}


def _reply(client: Client, key: Key, limit: int, answer: Answer) -> Reply:
    served = answer.parsed(Served)
    triggered, unexpected = False, []
    with contextlib.suppress(ValidationError):
        triggered = answer.status == 404 and NotFound.model_validate_json(answer.body).detail.triggered
    if served:
        body, expected = _BODY.validate_json(answer.body), client.expected(FEATURES, _values(key, limit))
        wrong = ((name, body.get(name), value) for name, value in expected.items() if body.get(name) != value)
        unexpected = [f"{name!r} is {got!r:.60}, expected {value!r}" for name, got, value in wrong]
    return Reply(
        symbol=key[0],
        timeframe=key[1],
        done_s=answer.done_s,
        status=answer.status,
        failure=str(answer.failure or ""),
        served=served.model_copy(update={"rows": None}) if served else None,
        is_empty=served is not None and served.is_empty,
        has_features=served is not None and served.has_features,
        triggered=triggered,
        unexpected=unexpected,
    )


# ---- what the target's own database holds ----

CONNECT_S, STATEMENT_S = 5, 10  # a frozen server accepts nobody
MOST_SERIES = 100_000


def read_if_there(database_url: str | None, sql: str | None = None) -> Stored | None:
    """Read every series in one snapshot; None, with the reason in the log, where there is no database to ask.

    `sql` is the statement of a target file, in place of one about our own tables.

    Raises:
        TargetError: that statement is refused, writes, takes too long, or gives other columns.
    """
    if database_url is None:
        return None
    try:
        with connect(database_url) as connection:
            connection.read_only = True
            if sql is not None:
                return _read_mapped(connection, sql)
            found = connection.execute(AGES).fetchall()
            read_s = time.monotonic()
    except psycopg.Error as error:
        log.warning("ages are not checked against the database: %s", first_line(error))
        return None
    names = ("symbol", "timeframe", "state", "age_s", "newest", "has_features")
    return Stored(rows={f"{row[0]} {row[1]}": Row(**dict(zip(names, row, strict=True))) for row in found}, read_s=read_s)


def _read_mapped(connection: psycopg.Connection, sql: str) -> Stored:
    """Run one statement of a target file, which cannot be two, and return its rows as series."""
    names: list[str] = []
    try:
        connection.execute("RESET search_path")  # tables are named as the role sees them
        (now,) = connection.execute("SELECT clock_timestamp()").fetchone() or (None,)
        cursor, found = connection.cursor(), []
        given: Any = cursor.stream(sql.encode(), binary=True)  # row by row: there may be any number
        with contextlib.closing(given):
            for row in given:
                names = names or [column.name for column in cursor.description or ()]
                found.append(mapping.series(dict(zip(names, row, strict=True)), {}, now))
                if len(found) > MOST_SERIES:
                    raise TargetError(f"freshness.sql gives more than {MOST_SERIES:,} rows; it must give one a symbol and timeframe")
        read_s = time.monotonic()
    except psycopg.Error as error:
        raise TargetError(f"freshness.sql: {first_line(error)}") from None
    except ValueError as error:
        raise TargetError(f"freshness.sql gives {', '.join(names) or 'no columns'}: {error}") from None
    kept = ("symbol", "timeframe", "state", "age_s", "newest", "dated_by")
    stored = {" ".join(one.key): Row(**{name: getattr(one, name) for name in kept}, has_features=None) for one in found}
    return Stored(rows=stored, read_s=read_s)


def connect(database_url: str) -> psycopg.Connection:
    """Return a connection, made within `CONNECT_S`, whose statements take at most `STATEMENT_S`."""
    return database.connect(database_url, statement_timeout=f"{STATEMENT_S}s", connect_timeout=CONNECT_S)


# ---- planted ages, for drills only ----

ATTEMPTS = 3  # a refresh may come between planting and looking
RESTORE_S = 30.0  # so long a database that went away is waited for
PLANTED: tuple[AgeClass, ...] = ("aging", "stale", "missing")
Handler = Callable[[int, FrameType | None], object] | signal.Handlers


def planted_ages(plan: RecoveryPlan, target: Target, database_url: str) -> list[PlantedAge]:
    """Make a series of the lowest tier aging, stale and missing in turn, see how each is answered, and put its age back.

    The caller makes sure that drills are allowed. Whatever happens, Ctrl-C and SIGTERM included, the time of its last refresh is
    set back, unless the target has refreshed it meanwhile.

    Raises:
        MeasurementError: there is no series to plant in, or no database to ask.
        TapecheckError: the age could not be put back; the message says how to do that by hand.
    """
    with _client(target, database_url) as client:
        if target.freshness:
            raise MeasurementError("no age can be planted: the target file maps answers and tables of another system")
        if not client.knows(FEATURES):
            raise MeasurementError(f"no age can be planted: the target file names no request `{FEATURES}`")
        key = _lowest(plan, look(client, plan, database_url))
        with _handling({signal.SIGTERM: signal.default_int_handler}), restored(database_url, key):  # ended as by Ctrl-C: undone first
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
    edges_s = [0.0, *list(plan.staleness.ends_s.values())[:-1]]
    at = list(plan.staleness.ends_s).index(state)
    return (edges_s[at] + edges_s[at + 1]) / 2 if at + 1 < len(edges_s) else 1.5 * edges_s[-1]


def _planted(plan: RecoveryPlan, client: Client, database_url: str, key: Key, state: AgeClass) -> PlantedAge:
    age_s = age_within(plan, state)
    for _ in range(ATTEMPTS):
        plant(database_url, key, age_s)
        first = look(client, plan, database_url)
        if first.stored and plan.staleness.classify(first.stored[-1].age_s(key, first.done_s)) == state:
            break
    (reply,) = ask(client, [key], next(_PLANTED_LIMITS))
    second = look(client, plan, database_url)
    return PlantedAge(age_s=age_s, looks=(first.of(key), second.of(key)), reply=reply)


@contextlib.contextmanager
def _changing(key: Key) -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        raise MeasurementError(f"no age can be planted for {' '.join(key)}: {first_line(error)}") from None


def plant(database_url: str, key: Key, age_s: float) -> None:
    """Make a series so old in the database."""
    with _changing(key), connect(database_url) as connection:
        connection.execute(MAKE_OLD, (age_s, *key))


@contextlib.contextmanager
def restored(database_url: str, key: Key) -> Iterator[None]:
    """Set a series' time of refresh back to what it is now when the context ends, unless it has become newer."""
    with _changing(key):
        original = _refreshed_at(database_url, key)
    if original is None:
        raise MeasurementError(f"no age can be planted for {' '.join(key)}: it was never refreshed")
    try:
        yield
    finally:
        with _handling({signal.SIGINT: signal.SIG_IGN, signal.SIGTERM: signal.SIG_IGN}):  # a second Ctrl-C does not break it
            restore(database_url, key, original)


def restore(database_url: str, key: Key, original: dt.datetime, *, within_s: float = RESTORE_S) -> None:
    """Set a time of refresh back, see that it is, and wait for a database that is away; an error holds the statement that does it."""
    until_s, why = time.monotonic() + within_s, "the row is gone"
    while True:
        try:
            with connect(database_url) as connection:
                connection.execute(PUT_BACK, (original, *key))
            found = _refreshed_at(database_url, key)
            if found is not None and found >= original:
                return
        except psycopg.Error as error:
            why = first_line(error)
        if time.monotonic() > until_s:
            by_hand = PUT_BACK % tuple(map(repr, (original.isoformat(), *key)))
            raise TapecheckError(f"the age of {' '.join(key)} could not be put back ({why}); in the target's database run: {by_hand};")
        time.sleep(0.2)


def _refreshed_at(database_url: str, key: Key) -> dt.datetime | None:
    with connect(database_url) as connection:
        row = connection.execute(REFRESHED_AT, key).fetchone()
    return row[0] if row else None


@contextlib.contextmanager
def _handling(handlers: Mapping[signal.Signals, Handler]) -> Iterator[None]:
    """Handle signals otherwise while the context lasts; only the main thread may, and only it gets them."""
    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handler) for number, handler in handlers.items() if is_main}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
