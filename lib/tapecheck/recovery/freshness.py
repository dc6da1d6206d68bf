"""Audits the age of every series: asks the API, its database, and for the series themselves. It judges nothing and changes nothing."""

import itertools
import random
from collections.abc import Iterator, Sequence

from pydantic import TypeAdapter, ValidationError

from tapecheck.errors import TargetError
from tapecheck.http import Answer, Client
from tapecheck.recovery import ages
from tapecheck.recovery.answers import Audit, Key, Look, NotFound, Reply, SchedulerHealth, Served, Status
from tapecheck.recovery.objectives import RecoveryPlan
from tapecheck.recovery.stored import read_if_there
from tapecheck.target.file import Target
from tapecheck.target.opening import check_database

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
