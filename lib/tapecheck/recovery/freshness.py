"""Audits the age of every series: what the API says, what its database says, and how it answers. It changes nothing."""

import itertools
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence

from tapecheck.errors import TargetError
from tapecheck.http import Answer, Client
from tapecheck.recovery import ages as behaviour
from tapecheck.recovery import ages as claims
from tapecheck.recovery.ages import UNLISTED, Look, Reply
from tapecheck.recovery.answers import Raised, SchedulerHealth, Served, Status
from tapecheck.recovery.objectives import OTHERS, RecoveryPlan
from tapecheck.recovery.recording import Ages, SeriesAge
from tapecheck.recovery.stored import Key, read_if_there, refuse_remote
from tapecheck.target.file import Target

FRAMES = ("5m", "15m", "1h", "4h", "1d")  # of symbols that a plan names, where a status lists nothing at all
STATUS, SCHEDULER, FEATURES = "status", "scheduler", "features"  # the requests of a target file


def unusual_limits(low: int, high: int) -> Iterator[int]:
    """Return limits that nobody asks for, each once in a long time, so that no cached answer fits."""
    limits = [limit for limit in range(low, high) if limit % 10]
    random.shuffle(limits)
    return itertools.cycle(limits)


_LIMITS = unusual_limits(3, 400)


def audit(plan: RecoveryPlan, target: Target, database_url: str | None = None) -> Ages:
    """Ask for the age of every series, hold it against the database where that is reachable, and see how each is answered.

    Missing ones are asked for too, which has the target get them, as anybody's question would.

    Args:
        plan: its classes, and the symbols that its tiers name: what is not there of them is missing.
        target: opened; `status` is asked, `scheduler` and `features` where the target file names them.
        database_url: the target's own database, with the tables of `tapecheck.recovery.stored`.

    Raises:
        ConfigError: something lies beyond this machine without `allow_remote`, or a request is not named.
        TargetDown: the target does not answer.
        TargetError: its status is no status.
    """
    if database_url is not None:
        refuse_remote(target, database_url)
    with Client(target) as client:
        check(client)
        first = look(client, database_url)
        keys = _keys(plan, first)
        answers = _asked(client, keys)
        second = look(client, database_url)
        looks = (first, second)
        replies = {key: reply(client, key, *asked, looks) for key, asked in answers.items()}
        scheduler = _scheduler(client)
    series = [series_age(plan, key, looks, replies.get(key)) for key in keys]
    return _ages(series, first, replies, scheduler)


def check(client: Client) -> None:
    """Refuse a target whose requests cannot be made, before anything is sent.

    Raises:
        ConfigError: it names no `status`, or a request needs names that an audit does not know.
    """
    client.check(STATUS, {})
    for name, given in ((SCHEDULER, {}), (FEATURES, values(("", ""), 1))):
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
    said = {(one.symbol, one.timeframe): one for one in status.series}
    if len(said) < len(status.series):
        raise TargetError(f"{answer.what}: lists {len(status.series)} series, of which only {len(said)} are distinct")
    return Look(answer=answer, status=status, said=said, stored=(before, after) if before is not None and after is not None else ())


def reply(client: Client, key: Key, answer: Answer, limit: int, looks: Sequence[Look], *, only_new: bool = False) -> Reply:
    """Return an answer with what the statuses before and after it say of alerts; `only_new`: those of before count for nothing."""
    first, second = looks
    newly = _is_among(key, second.alerts - first.alerts)
    return Reply(
        answer=answer,
        expected=client.expected(FEATURES, values(key, limit)),
        alerted=newly if only_new else _is_among(key, second.alerts),
        newly=newly,
    )


def _is_among(key: Key, alerts: Iterable[Raised]) -> bool:
    return any((alert.symbol, alert.timeframe) == key for alert in alerts)


def values(key: Key, limit: int) -> dict[str, str | int | float]:
    """Return the names that a `features` template may use."""
    return {"symbol": key[0], "timeframe": key[1], "limit": limit}


def series_age(plan: RecoveryPlan, key: Key, looks: Sequence[Look], given: Reply | None, *, planted: bool = False) -> SeriesAge:
    """Judge one series by the looks before and after it was asked for.

    A refresh may come between them: an answer is right when it is so by either, a claim of a status is judged by itself.
    """
    ages = [one.age_s(key) for one in looks]
    wrongs = [_wrong(plan, age_s, one, given) for age_s, one in zip(ages, looks, strict=True)]
    chosen = wrongs.index("") if "" in wrongs else 0
    one, state = looks[chosen], plan.staleness.classify(ages[chosen])
    said, expected = one.said.get(key), plan.staleness.action(state)
    return SeriesAge(
        symbol=key[0],
        timeframe=key[1],
        tier=plan.tier_of(key[0]),
        said_s=said.age_s if said else None,
        says=said.freshness if said else UNLISTED,
        database_s=one.database_s(key),
        state=state,
        expected=expected,
        seen=behaviour.seen(given, expected) if given else None,
        planted=planted,
        false_age=next(filter(None, (claims.false(plan.staleness, key, each) for each in looks)), ""),
        wrong_answer=wrongs[chosen],
    )


def _wrong(plan: RecoveryPlan, age_s: float | None, one: Look, given: Reply | None) -> str:
    if given is None:
        return ""
    later_s = given.answer.done_s - one.answer.done_s  # negative for the look after it
    return behaviour.wrong(plan.staleness, None if age_s is None else max(min(0.0, age_s), age_s + later_s), given)


def _keys(plan: RecoveryPlan, one: Look) -> list[Key]:
    """Return every series that is listed, stored, or implied by a symbol of the plan; by tier, then by symbol."""
    frames = list(dict.fromkeys(frame for _, frame in one.said)) or FRAMES
    named = [symbol for tier in plan.rpo.values() if tier.symbols != OTHERS for symbol in tier.symbols]
    kept = [key for stored in one.stored[:1] for key, row in stored.rows.items() if row.age_s is not None]
    keys = dict.fromkeys([*one.said, *((symbol, frame) for symbol in named for frame in frames), *kept])
    order = [*plan.rpo, None]
    return sorted(keys, key=lambda key: (order.index(plan.tier_of(key[0])), key[0]))


def _asked(client: Client, keys: Sequence[Key]) -> dict[Key, tuple[Answer, int]]:
    if not client.knows(FEATURES):
        return {}
    limit = next(_LIMITS)
    answers = client.ask_all(FEATURES, [values(key, limit) for key in keys])
    return {key: (answer, limit) for key, answer in zip(keys, answers, strict=True)}


# ---- what the alert rules need ----


def _ages(series: Sequence[SeriesAge], first: Look, replies: Mapping[Key, Reply], scheduler: tuple[Answer | None, SchedulerHealth]) -> Ages:
    """Return the audit as it was before anything was asked for, since asking has a target get what is missing."""
    return Ages(
        series=series,
        database_asked=bool(first.stored),
        last_success_s=_last_success_s(series, scheduler),
        failed_symbols=_failed(first, scheduler[1]),
        symbols_without_features=_without_features(series, first, replies),
    )


def _scheduler(client: Client) -> tuple[Answer | None, SchedulerHealth]:
    """Return what the scheduler says of itself; nothing where nobody is to be asked, or it is down."""
    answer = client.ask(SCHEDULER) if client.knows(SCHEDULER) else None
    said = answer.said(SchedulerHealth) if answer is not None and answer.status == 200 else None
    return answer, said or SchedulerHealth()


def _last_success_s(series: Sequence[SeriesAge], scheduler: tuple[Answer | None, SchedulerHealth]) -> float | None:
    """Return how long ago a backfill succeeded: as the scheduler says, else as the youngest series shows."""
    answer, said = scheduler
    if answer is not None and said.last_success_at is not None:
        return max(0.0, (answer.at - said.last_success_at).total_seconds())
    ages = [one.said_s if one.database_s is None else one.database_s for one in series]
    return min((age for age in ages if age is not None), default=None)


def _failed(one: Look, scheduler: SchedulerHealth) -> list[str]:
    symbols = {said.symbol for said in one.status.series if said.state == "failed"}
    return sorted(symbols | {job.split()[0] for job in scheduler.failed if job.strip()})


def _without_features(series: Sequence[SeriesAge], one: Look, replies: Mapping[Key, Reply]) -> list[str]:
    """Return the symbols of which any series has no features: by the database, else by what was answered."""
    if one.stored:
        rows = one.stored[-1].rows
        keys = ((age.symbol, age.timeframe) for age in series)
        return sorted({key[0] for key in keys if key not in rows or not rows[key].has_features})
    return sorted({key[0] for key, given in replies.items() if not _has_features(given.answer)})


def _has_features(answer: Answer) -> bool:
    served = answer.said(Served) if answer.status == 200 else None
    return served is not None and served.has_features
