"""Judges the ages that an audit recorded: the API against its database, the plan's classes, and itself. It asks nobody."""

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tapecheck.recovery.objectives import TOLERANCE_S, AboveShare, Action, AgeClass, RecoveryPlan, Staleness, rounded
from tapecheck.recovery.recording import Audit, Look, Reply, Row, Stored
from tapecheck.target.mapping import DatedBy, Key, ReportedSeries

ROUNDING_S = 1.0  # an age may be reported in whole seconds
UNMAPPED = "not mapped"  # of a series whose class the target file does not say how to read
UNLISTED = "unlisted"  # in place of the API's class
OLD = ("stale", "missing")
LISTED = 5  # names in a message
FRAMES = ("5m", "15m", "1h", "4h", "1d")  # of symbols that a plan names, where a status lists nothing at all


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesAge:
    """How old one symbol and timeframe is by a plan, and what is wrong in what the API reports of it and answers."""

    symbol: str
    timeframe: str
    tier: str | None
    reported_s: float | None  # the API's own age and class; None where it has no data
    reported: str
    database_s: float | None  # None where there is no data, or no database was asked
    state: AgeClass  # the plan's class of the age, and the action that it demands of an answer
    expected: Action
    seen: str | None  # the action that an answer showed, or another word; None where it was not asked for
    planted: bool = False  # whether it was made old for the audit
    dated_by: DatedBy = "refresh"  # what its age counts from
    false_age: str = ""  # in words what is wrong, or nothing
    wrong_answer: str = ""

    @property
    def age_s(self) -> float | None:
        """The age that counts: the database's where it was asked, since an API may be wrong."""
        return self.reported_s if self.database_s is None else self.database_s

    def __str__(self) -> str:
        return f"{self.symbol} {self.timeframe}"


def keys(plan: RecoveryPlan, look: Look) -> list[Key]:
    """Return every series that is listed, stored, or implied by a symbol of the plan; by tier, then by symbol."""
    listed = [one.key for one in look.status.series]
    kept = [(row.symbol, row.timeframe) for stored in look.stored[:1] for row in stored.rows.values() if row.age_s is not None]
    frames = list(dict.fromkeys(frame for _, frame in listed or kept)) or FRAMES
    named = [(symbol, frame) for symbols in plan.named.values() for symbol in symbols for frame in frames]
    order = [*plan.rpo, None]
    return sorted(dict.fromkeys([*listed, *named, *kept]), key=lambda key: (order.index(plan.tier_of(key[0])), key[0]))


def judged(audit: Audit, plan: RecoveryPlan) -> list[SeriesAge]:
    """Return every series of an audit as a plan classes and judges it, those that were planted last."""
    if not audit.looks:
        return []
    replies = {(one.symbol, one.timeframe): one for one in audit.replies}
    found = [_series(plan, key, audit.looks, replies.get(key)) for key in keys(plan, audit.looks[0])]
    return [*found, *(_series(plan, (p.reply.symbol, p.reply.timeframe), p.looks, p.reply, planted=True) for p in audit.planted)]


def _series(plan: RecoveryPlan, key: Key, looks: Sequence[Look], reply: Reply | None, *, planted: bool = False) -> SeriesAge:
    """Judge one series by the looks before and after it was asked for.

    A refresh may come between them: an answer is right when it is so by either, what a status reports is judged by itself.
    """
    ages, alerts = [_age_s(one, key) for one in looks], _alerts(key, looks, planted=planted)
    wrongs = [_wrong_then(plan.staleness, age_s, one, reply, alerts) for age_s, one in zip(ages, looks, strict=True)]
    chosen = wrongs.index("") if "" in wrongs else 0
    one, state = looks[chosen], plan.staleness.classify(ages[chosen])
    reported, expected = one.reported(key), plan.staleness.action(state)
    return SeriesAge(
        symbol=key[0],
        timeframe=key[1],
        tier=plan.tier_of(key[0]),
        reported_s=reported.age_s if reported else None,
        reported=(reported.freshness or UNMAPPED) if reported else UNLISTED if one.status.is_asked else UNMAPPED,
        database_s=_database_s(one, key),
        state=state,
        expected=expected,
        seen=_action(reply, alerts, expected) if reply else None,
        planted=planted,
        dated_by=reported.dated_by if reported else "refresh" if not (row := _row(one, key)) else row.dated_by,
        false_age=next(filter(None, (_false(plan.staleness, key, each) for each in looks)), ""),
        wrong_answer=wrongs[chosen],
    )


def _row(look: Look, key: Key) -> Row | None:
    return next((row for stored in look.stored if (row := stored.row(key))), None)


def _database_s(look: Look, key: Key) -> float | None:
    """Return the age by the database when the status came; of two, the one that is nearer to what was reported."""
    ages, reported = look.ages_s(key), look.reported(key)
    nearest_s = reported.age_s if reported and reported.age_s is not None else next(iter(ages), 0.0)
    return min(ages, key=lambda age: abs(age - nearest_s), default=None)


def _age_s(look: Look, key: Key) -> float | None:
    """Return the age to go by: the database's where it was asked, else the one reported."""
    reported = look.reported(key)
    return _database_s(look, key) if look.stored else reported.age_s if reported else None


# ---- what a status reports ----


def _old(age_s: float | None) -> str:
    return "no age" if age_s is None else f"an age of {rounded(age_s)} s"


def _false(staleness: Staleness, key: Key, look: Look) -> str:
    """Return in words what the API reports wrongly of a series: its class, its age, or its newest bar; empty if nothing.

    A series may be refreshed between two reads of the database: a report is true when it agrees with either.
    """
    one = look.reported(key)
    if not look.status.is_asked:
        return ""
    if one is not None:
        return "; ".join([*_false_by_itself(staleness, one, look), *_false_by_database(staleness, key, one, look)])
    ages = look.ages_s(key)
    return f"not listed, while its database has it with {_old(ages[0])}" if ages and len(ages) == len(look.stored) else ""


def _near(staleness: Staleness, age_s: float | None, within_s: float) -> list[AgeClass]:
    """Return the classes of an age that is known within so many seconds, its own first."""
    if age_s is None:
        return [staleness.classify(None)]
    return list(dict.fromkeys(staleness.classify(max(0.0, age_s + shift)) for shift in (0, -within_s, within_s)))


def _false_by_itself(staleness: Staleness, one: ReportedSeries, look: Look) -> Iterator[str]:
    """Hold the class, and the time of refresh by the API's own clock where it has one, against the age that stands beside them."""
    if one.freshness is not None and one.freshness not in _near(staleness, one.age_s, ROUNDING_S):
        age = "without an age" if one.age_s is None else f"at {_old(one.age_s)}"
        yield f"reports {one.freshness!r} {age}, which is {staleness.classify(one.age_s)}"
    if one.refreshed_at is not None and one.age_s is not None:
        implied_s = ((look.status.generated_at or look.at) - one.refreshed_at).total_seconds()
        if abs(implied_s - one.age_s) > TOLERANCE_S:
            yield f"reports {_old(one.age_s)}, while its own time of refresh makes it {rounded(implied_s)} s"


def _false_by_database(staleness: Staleness, key: Key, one: ReportedSeries, look: Look) -> Iterator[str]:
    if one.age_s is not None and one.age_s < -TOLERANCE_S:
        yield f"reports {_old(one.age_s)}: data from the future, or a clock that is ahead"
    elif look.stored and not any(_agrees(staleness, key, one, stored, look) for stored in look.stored):
        real_s = _database_s(look, key)
        yield f"reports {_old(one.age_s)}, while its database has {'none' if real_s is None else f'{rounded(real_s)} s'}"
    real = [row.newest if (row := stored.row(key)) else None for stored in look.stored]
    if real and "newest" in one.model_fields_set and not any(_is_same(one.newest, moment) for moment in real):
        yield f"reports that its newest bar is {_shown(one.newest)}, while its database has {_shown(real[0])}"


def _agrees(staleness: Staleness, key: Key, one: ReportedSeries, stored: Stored, look: Look) -> bool:
    """Compare an age with what it was between question and answer; what is too old to be served may be said not to be there.

    Ages that count from different moments are not compared.
    """
    row, reported_s = stored.row(key), one.age_s
    if row is not None and row.dated_by != one.dated_by:
        return True
    least_s, most_s = stored.age_s(key, look.sent_s), stored.age_s(key, look.done_s)
    if reported_s is None or least_s is None or most_s is None:
        return reported_s is None and staleness.classify(least_s) == "missing"
    return least_s - TOLERANCE_S <= reported_s <= most_s + TOLERANCE_S


def _is_same(one: dt.datetime | None, other: dt.datetime | None) -> bool:
    return one is other or (one is not None and other is not None and abs((one - other).total_seconds()) <= ROUNDING_S)


def _shown(moment: dt.datetime | None) -> str:
    return "none" if moment is None else f"{moment.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S}Z"


# ---- how a series is answered ----

WORDS = {
    "plain": "data without a warning",
    "warning": "data with a warning",
    "warning_and_alert": "data with a warning, and an alert in the status",
    "not_found_and_trigger": "404 that triggers enrichment",
    "not_found": "404 that triggers nothing",
    "unreadable": "200 with another body than data",
}


Alerts = tuple[bool, bool]  # whether a status lists one of a series, and whether one that the status before the answer did not list


def _alerts(key: Key, looks: Sequence[Look], *, planted: bool) -> Alerts:
    """Services list alerts that are over: for a planted age those of before count for nothing."""
    first, second = (look.alerts(key) for look in looks)
    is_new = bool(second - first)
    return is_new if planted else bool(second), is_new


def _action(reply: Reply, alerts: Alerts, demanded: Action) -> str:
    """Return what an answer did, as an action of the plan or another word; an alert of before counts only where one is demanded."""
    if reply.failure:
        return "no_answer"
    if reply.status == 404:
        return "not_found_and_trigger" if reply.triggered else "not_found"
    if reply.status != 200:
        return f"status_{reply.status}"
    if reply.served is None or not reply.served.warning:
        return "plain" if reply.served else "unreadable"
    is_listed, is_new = alerts
    return "warning_and_alert" if is_new or (is_listed and demanded == "warning_and_alert") else "warning"


def _wrong_then(staleness: Staleness, age_s: float | None, look: Look, reply: Reply | None, alerts: Alerts) -> str:
    """Return in words how an answer differs from what an age demands; empty if it does not.

    Within `TOLERANCE_S` of where two classes meet, what either demands is right.
    """
    if reply is None:
        return ""
    later_s = reply.done_s - look.done_s  # negative for the look after it
    then_s = None if age_s is None else max(min(0.0, age_s), age_s + later_s)
    found = ["; ".join(_differences(staleness, name, then_s, reply, alerts)) for name in _near(staleness, then_s, TOLERANCE_S)]
    return "" if "" in found else found[0]


def _differences(staleness: Staleness, name: AgeClass, age_s: float | None, reply: Reply, alerts: Alerts) -> Iterator[str]:
    demanded, served = staleness.action(name), reply.served
    did = _action(reply, alerts, demanded)
    if did != demanded:
        words = f"nothing ({reply.failure})" if reply.failure else WORDS.get(did, f"status {reply.status}")
        yield f"answered with {words}, while {_old(age_s)} is {name} and demands {WORDS[demanded]}"
    if served is None:
        return
    if served.freshness not in (None, name):
        yield f"its data are labelled {served.freshness!r}, while they are {name}"
    if served.age_s is not None and age_s is not None and abs(served.age_s - age_s) > TOLERANCE_S:
        yield f"its data are reported to be {rounded(served.age_s)} s old, while they are {rounded(age_s)} s old"
    if reply.is_empty:
        yield "it has no row"
    yield from reply.unexpected


# ---- which alerts the plan demands ----


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A rule that is broken: `value` is above `limit`, in seconds or as a share; None is the age of what never was."""

    rule: str
    severity: Literal["warning", "critical"]
    value: float | None
    limit: float
    message: str


def alerts(plan: RecoveryPlan, audit: Audit, series: Sequence[SeriesAge]) -> list[Alert]:
    """Return every alert that must be raised, in the order of the plan; a value that equals its limit raises none.

    Series that were made old on purpose do not count.
    """
    rules, own = plan.alerts, [one for one in series if not one.planted]
    symbols = sorted({one.symbol for one in own})
    failed, bare = failed_symbols(audit), without_features(audit, own)
    old = [str(one) for one in own if one.state in OLD]
    is_told = audit.last_success_s is not None or not own or any(one.dated_by == "refresh" for one in own)
    found = [
        _late(plan, last_success_s(audit, own)) if is_told else None,
        _share("failed_symbols", rules.failed_symbols, [s for s in symbols if s in failed], len(symbols), "symbols have failed"),
        _share("missing_features", rules.missing_features, [s for s in symbols if s in bare], len(symbols), "symbols lack features"),
        _share("stale_features", rules.stale_features, old, len(own), "series are stale or missing"),
    ]
    return [alert for alert in found if alert is not None]


def _late(plan: RecoveryPlan, ago_s: float | None) -> Alert | None:
    rule = plan.alerts.no_successful_backfill
    if ago_s is not None and ago_s <= rule.after_s:
        return None
    since = "ever succeeded" if ago_s is None else f"succeeded for {ago_s / 3600:.2f} h"
    message = f"no backfill has {since}; allowed are {rule.after_s / 3600:g} h"
    return Alert(rule="no_successful_backfill", severity=rule.severity, value=ago_s, limit=rule.after_s, message=message)


def _share(name: str, rule: AboveShare, found: Sequence[str], total: int, what: str) -> Alert | None:
    share = len(found) / total if total else 0.0
    if share <= rule.above_share:
        return None
    names = ", ".join(found[:LISTED]) + (f" and {len(found) - LISTED} more" if len(found) > LISTED else "")
    message = f"{len(found)} of {total} {what} ({share:.0%}; allowed are {rule.above_share:.0%}): {names}"
    return Alert(rule=name, severity=rule.severity, value=share, limit=rule.above_share, message=message)


def last_success_s(audit: Audit, series: Sequence[SeriesAge]) -> float | None:
    """Return how long ago a backfill succeeded: as the scheduler reports, else as the youngest series shows."""
    if audit.last_success_s is not None:
        return audit.last_success_s
    return min((one.age_s for one in series if one.age_s is not None and one.dated_by == "refresh"), default=None)


def failed_symbols(audit: Audit) -> set[str]:
    """Return the symbols of which any series has failed, whoever reports it."""
    reported = {one.symbol for look in audit.looks[:1] for one in look.status.series if one.state == "failed"}
    return reported | {job.split()[0] for job in audit.failed_jobs}


def without_features(audit: Audit, series: Sequence[SeriesAge]) -> set[str]:
    """Return the symbols of which any series has no features: by the database, else by what was answered.

    As it was before anything was asked for, since asking has a target get what is missing.
    """
    if audit.looks and audit.looks[0].stored:
        rows = audit.looks[0].stored[-1].rows
        return {one.symbol for one in series if str(one) not in rows or rows[str(one)].has_features is False}
    return {one.symbol for one in audit.replies if not one.has_features}
