"""What is promised is written out from the plan alone, in units that a person reads, and as plain JSON."""

import json
import re
from typing import Any

import pytest
import yaml

from tapecheck import config
from tapecheck.recovery import document as definition
from tapecheck.recovery import frames
from tapecheck.recovery.contradictions import Contradiction, find, read_plan
from tapecheck.recovery.objectives import RecoveryPlan

PLAN = read_plan("config/rto_rpo.yaml")
DOCUMENT = definition.document(PLAN, find(PLAN))


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


@pytest.mark.parametrize(
    ("title", "said"),
    [
        ("Age of data", "| fresh | [0, 1 h) | less than 1 h | returned as it is |"),
        ("Age of data", "| aging | [1 h, 6 h) | from 1 h to less than 6 h | returned with a warning |"),
        ("Age of data", "| stale | [6 h, 24 h) | from 6 h to less than 24 h | returned with a warning, and an alert raised |"),
        ("Age of data", "| missing | [24 h, ∞) | 24 h or more, or never there | 404, and enrichment triggered |"),
        ("Recovery time (RTO)", "| scheduler_crash | 5 min | full: "),
        ("Recovery time (RTO)", "| upstream_rate_limit | 30 s | full: "),
        ("Recovery time (RTO)", "| database_loss | 2 min | full: "),
        ("Recovery time (RTO)", "| feature_failure | 1 s | degraded: until it answers again, if only from its fallback | "),
        ("Age and loss by tier (RPO)", "| critical | SPY QQQ BTC ETH | 1 h | 15 min | no acknowledged bar |"),
        ("Age and loss by tier (RPO)", "NVDA META NFLX AVGO ASML | 4 h | 1 h | bars of 1 h |"),
        ("Age and loss by tier (RPO)", "| low | all others | 24 h | 24 h | bars of 24 h |"),
        ("Alerts", "no backfill has succeeded for 6 h | warning |"),
        ("Alerts", "more than 20 % of the symbols failed in one run | critical |"),
        ("Alerts", "more than 10 % of the symbols have no features | warning |"),
        ("Alerts", "more than 50 % of the features are stale | warning |"),
        ("Scheduler", "| order | critical, standard, low |"),
        ("Scheduler", "| forced after down | 6 h |"),
        ("Cache", "| hot symbols: records | 10,000 |"),
        ("Backfill", "| retries | 1 s, 5 s, 30 s |"),
        ("Backfill", "| requests per minute | 5 |"),
        ("Backfill", "| a refill of everything takes at least | 23 min |"),
        ("Drills", "| each | 5 |"),
        ("Drills", "with 95 % confidence, that at least 50 % of all recoveries meet the objective."),
        ("Drills", "| period | 50 ms |"),
        ("Further objectives", "| `false_ages <= 0` |"),
        ("Contradictions", "| backoff_beyond_rto | backfill.retries_s | pauses of 1 + 5 + 30 s = 36 s"),
    ],
)
def test_the_document_says_what_is_promised(title: str, said: str) -> None:
    """In its section."""
    assert said in section(DOCUMENT, title)


def test_no_number_in_the_document_is_typed() -> None:
    """With another plan every one of them is another, but for 404, the confidence, where ages begin, and the plan's own words."""
    document = definition.document(other(), [])
    typed = numbers(DOCUMENT.partition("## Contradictions")[0]) & numbers(document)
    assert typed == {"404,", "503", "95 %", "0,"}
    assert "02:45:30" in document and "`alerts < 7`" in document


def test_the_document_is_whole_tables_and_a_sentence_a_line() -> None:
    """Each row has as many cells as its header, and no line of prose two sentences."""
    lines = DOCUMENT.splitlines()
    for block in DOCUMENT.split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) <= 1
    assert not [line for line in lines if not line.startswith("|") and re.search(r"\. [A-Z]", line)]
    assert DOCUMENT.startswith("# Objectives of recovery, age and loss\n") and DOCUMENT.endswith("|\n")


def test_a_text_of_the_plan_stays_in_its_cell() -> None:
    """Bars and line breaks do not end it."""
    rto = {**PLAN.rto, "api_crash": PLAN.rto["api_crash"].model_copy(update={"procedure": "ps |\n  grep api"})}
    document = definition.document(PLAN.model_copy(update={"rto": rto}), [])
    assert "| ps \\| grep api | none |" in document


def test_trials_without_a_share_claim_none() -> None:
    """Every drill once: every trial met it, and no more."""
    once = section(definition.document(read_plan("config/rto_rpo.yaml", profile="once"), []), "Drills")
    assert "A pass says that every trial met its objective, and no more.\n" in once and "| each | 1 |" in once
    assert "confidence" not in once


def test_contradictions_are_told_with_their_explanation_or_what_to_change() -> None:
    """And that there is none, where there is none."""
    words = {"rule": "r", "where": "a.b", "finding": "1 against 2", "change": "make it 2"}
    found = [Contradiction(**words, explained="it is meant so"), Contradiction(**words)]
    text = section(definition.document(PLAN, found), "Contradictions")
    assert "| r | a.b | 1 against 2 | it is meant so |\n| r | a.b | 1 against 2 | NOT EXPLAINED: make it 2 |" in text
    assert section(definition.document(PLAN, []), "Contradictions").strip() == "No rule finds any."


def test_the_definition_is_the_whole_plan_as_plain_json() -> None:
    """It survives JSON, holds every part of the plan, and says where each class begins and ends."""
    data: dict[str, Any] = definition.definition(PLAN)
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert set(data) == set(RecoveryPlan.model_fields)
    assert data["staleness"]["aging"] == {"from_s": 3600, "below_s": 21600, "action": "warning", "in_words": "from 1 h to less than 6 h"}
    assert data["staleness"]["missing"]["below_s"] is None and data["staleness"]["fresh"]["from_s"] == 0
    assert data["rto"]["database_loss"]["objective_s"] == 120
    assert data["rpo"]["low"]["symbols"] == "others"
    assert data["scheduler"]["daily_at_utc"] == "01:30:00"
    assert data["explained"] == PLAN.explained


def test_each_class_begins_where_the_one_before_ends() -> None:
    """No age is left out between two."""
    classes = list(definition.definition(PLAN)["staleness"].values())
    assert [one["below_s"] for one in classes[:-1]] == [one["from_s"] for one in classes[1:]]
    for one in classes:
        assert PLAN.staleness.action(PLAN.staleness.classify(one["from_s"])) == one["action"]


@pytest.mark.parametrize("name", ["staleness", "rto", "rpo"])
def test_the_notebooks_tables_are_those_of_the_document(name: str) -> None:
    """The same rows and columns, the first column as the index."""
    rows = getattr(definition, name)(PLAN)
    frame = getattr(frames, name)(PLAN)
    assert frame.reset_index().to_dict("records") == rows
    for row in rows:
        assert f"| {' | '.join(row.values())} |" in DOCUMENT


def test_the_table_of_contradictions_says_so_when_there_is_none() -> None:
    """And has a row for each otherwise."""
    assert list(frames.contradictions([]).index) == ["no rule finds any"]
    assert list(frames.contradictions(find(PLAN)).index) == [one.rule for one in find(PLAN)]
