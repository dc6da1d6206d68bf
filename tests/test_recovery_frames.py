"""The plan is written out from itself alone, in units that a person reads, and as plain JSON."""

import json
import re
from typing import Any

import pytest
import yaml

from tapecheck import config
from tapecheck.recovery import frames
from tapecheck.recovery.contradictions import Contradiction, find, read_plan
from tapecheck.recovery.objectives import RecoveryPlan

PLAN = read_plan("config/rto_rpo.yaml")
DOCUMENT = frames.document(PLAN, find(PLAN))


def other() -> RecoveryPlan:
    """Return a plan in which every number is another than in the shipped one."""
    data = yaml.safe_load((config.CONFIG / "rto_rpo.yaml").read_text())
    del data["profiles"], data["explained"], data["backfill"]["timeframes"]
    data = changed(data)
    data["backfill"]["timeframes"] = data["backfill"]["jobs"]
    data["scheduler"]["daily_at_utc"] = "02:45:30"
    data["objectives"] = ["alerts < 7"]
    return RecoveryPlan.model_validate(data)


def changed(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: changed(value) for key, value in data.items()}
    if isinstance(data, list):
        return [changed(value) for value in data]
    return data + 0.013 if isinstance(data, float) else data + 613 if isinstance(data, int) else data


def numbers(text: str) -> set[str]:
    return set(re.findall(r"\d[\d,.:]*(?: (?:ms|s|min|h|days|%))?", text))


def section(document: str, title: str) -> str:
    return document.partition(f"## {title}\n")[2].partition("\n## ")[0]


SAID = {
    "Age of data": [
        "| fresh | [0, 1 h) | less than 1 h | returned as it is |",
        "| aging | [1 h, 6 h) | from 1 h to less than 6 h | returned with a warning |",
        "| stale | [6 h, 24 h) | from 6 h to less than 24 h | returned with a warning, and an alert raised |",
        "| missing | [24 h, ∞) | 24 h or more, or never there | 404, and enrichment triggered |",
    ],
    "Recovery time (RTO)": [
        "| scheduler_crash | 5 min | full: ",
        "| database_loss | 2 min | full: ",
        "| feature_failure | 1 s | degraded: until it answers again, if only from its fallback | ",
    ],
    "Age and loss by tier (RPO)": [
        "| critical | SPY QQQ BTC ETH | 1 h | 15 min | no acknowledged bar |",
        "NVDA META NFLX AVGO ASML | 4 h | 1 h | bars of 1 h |",
        "| low | all others | 24 h | 24 h | bars of 24 h |",
    ],
    "Alerts": ["no backfill has succeeded for 6 h | warning |", "more than 20 % of the symbols failed in one run | critical |"],
    "Scheduler": ["| order | critical, standard, low |", "| forced after down | 6 h |"],
    "Cache": ["| hot symbols: records | 10,000 |"],
    "Backfill": [
        "| retries | 1 s, 5 s, 30 s |", "| requests per minute | 5 |", "| a refill of everything takes at least | 23 min |",
    ],
    "Drills": ["| each | 5 |", "95 % confidence, that at least 50 % of all recoveries meet the objective.", "| period | 50 ms |"],
    "Further objectives": ["| `false_ages <= 0` |"],
    "Contradictions": ["| backoff_beyond_rto | backfill.retries_s | pauses of 1 + 5 + 30 s = 36 s"],
}  # fmt: skip


@pytest.mark.parametrize("title", SAID)
def test_the_document_says_what_the_objectives_are(title: str) -> None:
    """In its section."""
    assert [said for said in SAID[title] if said not in section(DOCUMENT, title)] == []


def test_no_number_in_the_document_is_typed() -> None:
    """With another plan every one of them is another, but for 404, the confidence, where ages begin, and the plan's own words."""
    document = frames.document(other(), [])
    typed = numbers(DOCUMENT.partition("## Contradictions")[0]) & numbers(document)
    assert typed == {"404,", "503", "95 %", "0,"}
    assert "02:45:30" in document and "`alerts < 7`" in document


def test_the_document_is_whole_tables_and_a_sentence_a_line() -> None:
    """Each row has as many cells as its header, whatever bars and line breaks a text has, and no line of prose two sentences."""
    rto = {**PLAN.rto, "api_crash": PLAN.rto["api_crash"].model_copy(update={"procedure": "ps |\n  grep api"})}
    document = frames.document(PLAN.model_copy(update={"rto": rto}), find(PLAN))
    assert "| ps \\| grep api | none |" in document
    for block in document.split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) <= 1
    assert not [line for line in document.splitlines() if not line.startswith("|") and re.search(r"\. [A-Z]", line)]
    assert DOCUMENT.startswith("# Objectives of recovery, age and loss\n") and DOCUMENT.endswith("|\n")


def test_trials_without_a_share_claim_none() -> None:
    """Every drill once: every trial met it, and no more."""
    once = section(frames.document(read_plan("config/rto_rpo.yaml", profile="once"), []), "Drills")
    assert "A pass says that every trial met its objective, and no more.\n" in once and "| each | 1 |" in once
    assert "confidence" not in once


def test_contradictions_are_told_with_their_explanation_or_what_to_change() -> None:
    """And that there is none, where there is none; in the notebook as in the document."""
    words = {"rule": "r", "where": "a.b", "finding": "1 against 2", "change": "make it 2"}
    found = [Contradiction(**words, explained="it is meant so"), Contradiction(**words)]
    text = section(frames.document(PLAN, found), "Contradictions")
    assert "| r | a.b | 1 against 2 | it is meant so |\n| r | a.b | 1 against 2 | NOT EXPLAINED: make it 2 |" in text
    assert section(frames.document(PLAN, []), "Contradictions").strip() == "No rule finds any."
    assert list(frames.contradictions([]).index) == ["no rule finds any"]


def test_the_definition_is_the_whole_plan_as_plain_json() -> None:
    """It survives JSON, holds every part of the plan, and each class begins where the one before ends."""
    data: dict[str, Any] = frames.definition(PLAN)
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert set(data) == set(RecoveryPlan.model_fields)
    assert data["staleness"]["aging"] == {"from_s": 3600, "below_s": 21600, "action": "warning", "in_words": "from 1 h to less than 6 h"}
    classes = list(data["staleness"].values())
    assert [0, *(one["below_s"] for one in classes)] == [*(one["from_s"] for one in classes), None]
    assert all(PLAN.staleness.action(PLAN.staleness.classify(one["from_s"])) == one["action"] for one in classes)
    assert (data["rto"]["database_loss"]["objective_s"], data["rpo"]["low"]["symbols"]) == (120, "others")
    assert data["scheduler"]["daily_at_utc"] == "01:30:00" and data["explained"] == PLAN.explained
