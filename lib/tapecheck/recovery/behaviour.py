"""Holds an answer with data against what its age demands: pure. It asks nobody."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from pydantic import TypeAdapter, ValidationError

from tapecheck.recovery.answers import NotFound, Served
from tapecheck.recovery.claims import classes_near
from tapecheck.recovery.client import Answer
from tapecheck.recovery.durations import whole
from tapecheck.recovery.policy import TOLERANCE_S, AgeClass, Staleness
from tapecheck.templating import Value

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
