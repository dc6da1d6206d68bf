"""Holds what an API says of its ages against its database, the plan's classes, and itself: pure. It asks nobody."""

import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from pydantic import TypeAdapter, ValidationError

from tapecheck.http import Answer
from tapecheck.recovery.answers import NotFound, Raised, Series, Served, Status
from tapecheck.recovery.objectives import TOLERANCE_S, AgeClass, Staleness, whole
from tapecheck.recovery.stored import Key, Stored
from tapecheck.target.templates import Value

ROUNDING_S = 1.0  # an age may be said in whole seconds
UNLISTED = "unlisted"  # in place of the API's class


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One status answer, and the database just before and just after it; nothing of the database where there is none.

    A series may be refreshed between two reads: a claim is true when it agrees with either.
    """

    answer: Answer
    status: Status
    said: Mapping[Key, Series]
    stored: Sequence[Stored] = ()

    @property
    def alerts(self) -> Counter[Raised]:
        """The alerts, each with how often it is listed."""
        return Counter(self.status.alerts)

    def database_s(self, key: Key) -> float | None:
        """Return the age by the database when the answer came; of two, the one that is nearer to what was said."""
        said = self.said.get(key)
        ages = [age for stored in self.stored if (age := stored.age_s(key, self.answer.done_s)) is not None]
        if said is None or said.age_s is None:
            return ages[0] if ages else None
        said_s = said.age_s
        return min(ages, key=lambda age: abs(age - said_s), default=None)

    def age_s(self, key: Key) -> float | None:
        """Return the age to go by: the database's where it was asked, else the one said."""
        if self.stored:
            return self.database_s(key)
        return self.said[key].age_s if key in self.said else None


def false(staleness: Staleness, key: Key, look: Look) -> str:
    """Return in words what the API says wrongly of a series: its class, its age, or its newest bar; empty if nothing."""
    said = look.said.get(key)
    if said is None:
        return _hidden(key, look)
    found = (_class(staleness, said), _itself(said, look), _age(staleness, key, said, look), _newest(key, said, look))
    return "; ".join(filter(None, found))


def _hidden(key: Key, look: Look) -> str:
    ages = [age_s for stored in look.stored if (age_s := stored.age_s(key, look.answer.done_s)) is not None]
    if not ages or len(ages) < len(look.stored):
        return ""
    return f"not listed, while its database has it with an age of {whole(ages[0])} s"


def classes_near(staleness: Staleness, age_s: float | None, within_s: float) -> set[str]:
    """Return the classes of an age that is known within so many seconds."""
    if age_s is None:
        return {staleness.classify(None)}
    return {staleness.classify(max(0.0, age_s + shift)) for shift in (-within_s, 0, within_s)}


def _class(staleness: Staleness, said: Series) -> str:
    if said.freshness in classes_near(staleness, said.age_s, ROUNDING_S):
        return ""
    age = "without an age" if said.age_s is None else f"at an age of {whole(said.age_s)} s"
    return f"says {said.freshness!r} {age}, which is {staleness.classify(said.age_s)}"


def _itself(said: Series, look: Look) -> str:
    """Compare the age with the time of refresh that stands beside it, by the API's own clock where it tells it."""
    if said.refreshed_at is None or said.age_s is None:
        return ""
    implied_s = ((look.status.generated_at or look.answer.at) - said.refreshed_at).total_seconds()
    if abs(implied_s - said.age_s) <= TOLERANCE_S:
        return ""
    return f"says an age of {whole(said.age_s)} s, while its own time of refresh makes it {whole(implied_s)} s"


def _age(staleness: Staleness, key: Key, said: Series, look: Look) -> str:
    if said.age_s is not None and said.age_s < -TOLERANCE_S:
        return f"says an age of {whole(said.age_s)} s: data from the future, or a clock that is ahead"
    if not look.stored or any(_agrees(staleness, key, said.age_s, stored, look.answer) for stored in look.stored):
        return ""
    real_s = look.database_s(key)
    says = "no age" if said.age_s is None else f"an age of {whole(said.age_s)} s"
    return f"says {says}, while its database says {'none' if real_s is None else f'{whole(real_s)} s'}"


def _agrees(staleness: Staleness, key: Key, said_s: float | None, stored: Stored, answer: Answer) -> bool:
    """Compare an age with what it was between question and answer; what is too old to be served may be said not to be there."""
    least_s, most_s = stored.age_s(key, answer.sent_s), stored.age_s(key, answer.done_s)
    if said_s is None or least_s is None or most_s is None:
        return said_s is None and staleness.classify(least_s) == "missing"
    return least_s - TOLERANCE_S <= said_s <= most_s + TOLERANCE_S


def _newest(key: Key, said: Series, look: Look) -> str:
    if not look.stored or "newest" not in said.model_fields_set:
        return ""
    real = [stored.rows[key].newest if key in stored.rows else None for stored in look.stored]
    if any(_is_same(said.newest, one) for one in real):
        return ""
    return f"says that its newest bar is {_shown(said.newest)}, while its database has {_shown(real[0])}"


def _is_same(said: dt.datetime | None, real: dt.datetime | None) -> bool:
    if said is None or real is None:
        return said is real
    return abs((said - real).total_seconds()) <= ROUNDING_S


def _shown(moment: dt.datetime | None) -> str:
    return "none" if moment is None else f"{moment.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S}Z"


# ---- behaviour ----

WORDS = {
    "plain": "data without a warning",
    "warning": "data with a warning",
    "warning_and_alert": "data with a warning, and an alert in the status",
    "not_found_and_trigger": "404 that triggers enrichment",
    "not_found": "404 that triggers nothing",
    "unreadable": "200 with another body than data",
    "no_answer": "no answer",
}
_BODY: TypeAdapter[dict[str, object]] = TypeAdapter(dict[str, object])


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """How one series was answered: `expected` are top-level keys of the body, as the target file says.

    `alerted`: whether the status lists an alert of the series; `newly`: whether one that it did not list before.
    """

    answer: Answer
    expected: Mapping[str, Value]
    alerted: bool
    newly: bool


def seen(reply: Reply, demanded: str) -> str:
    """Return what an answer did, as an action of the policy or another word.

    An alert of before counts only where one is demanded: services list alerts that are over.
    """
    answer = reply.answer
    if answer.failure is not None:
        return "no_answer"
    if answer.status == 404:
        said = answer.said(NotFound)
        return "not_found_and_trigger" if said is not None and said.detail.triggered else "not_found"
    if answer.status != 200:
        return f"status_{answer.status}"
    served = answer.said(Served)
    if served is None:
        return "unreadable"
    if not served.warning:
        return "plain"
    return "warning_and_alert" if reply.newly or (reply.alerted and demanded == "warning_and_alert") else "warning"


def wrong(staleness: Staleness, age_s: float | None, reply: Reply) -> str:
    """Return in words how an answer differs from what an age demands; empty if it does not.

    Within `TOLERANCE_S` of where two classes meet, what either demands is right.
    """
    here = staleness.classify(age_s)
    near = sorted(classes_near(staleness, age_s, TOLERANCE_S), key=lambda name: name != here)
    found = ["; ".join(filter(None, _differences(staleness, cast(AgeClass, name), age_s, reply))) for name in near]
    return "" if "" in found else found[0]


def _differences(staleness: Staleness, name: AgeClass, age_s: float | None, reply: Reply) -> list[str]:
    demanded = staleness.action(name)
    did = seen(reply, demanded)
    found = []
    if did != demanded:
        age = "no age" if age_s is None else f"an age of {whole(age_s)} s"
        found.append(f"answered with {_words(did, reply)}, while {age} is {name} and demands {WORDS[demanded]}")
    served = reply.answer.said(Served) if reply.answer.status == 200 else None
    return found if served is None else [*found, *_content(served, name, age_s, reply)]


def _content(served: Served, name: AgeClass, age_s: float | None, reply: Reply) -> list[str]:
    """Return what is wrong in the data itself."""
    found = []
    if served.freshness is not None and served.freshness != name:
        found.append(f"its data are labelled {served.freshness!r}, while they are {name}")
    if served.age_s is not None and age_s is not None and abs(served.age_s - age_s) > TOLERANCE_S:
        found.append(f"its data are said to be {whole(served.age_s)} s old, while they are {whole(age_s)} s old")
    if served.is_empty:
        found.append("it has no row")
    return [*found, *_another(reply)]


def _another(reply: Reply) -> list[str]:
    try:
        said = _BODY.validate_json(reply.answer.body)
    except ValidationError:
        return []
    return [f"{key!r} is {said.get(key)!r}, expected {value!r}" for key, value in reply.expected.items() if said.get(key) != value]


def _words(did: str, reply: Reply) -> str:
    if did == "no_answer":
        return f"nothing ({reply.answer.failure})"
    return WORDS.get(did, f"status {reply.answer.status}")
