"""What the summary says of a run is whole: no figure is lost or said twice, and nothing ends in mid phrase."""

import re
from pathlib import Path
from typing import Any

import pytest
from recorded_runs import put

from tapecheck import verdict
from tapecheck.reports import markdown, overview, pages
from tapecheck.reports.markdown import Brief

ADVICE = "ask less: derive: true fetches one intraday series a symbol and builds the rest from it whole page by whole page"


def told(out: Path) -> Brief:
    (standing,) = overview.read(out).standings
    return markdown.of(standing)


def finding(text: str, action: str = "do it", **evidence: float | str) -> dict[str, Any]:
    return {"name": "fix", "finding": text, "evidence": evidence, "action": action}


def test_a_comparison_is_told_proof_by_proof(tmp_path: Path) -> None:
    """Each is there with what was measured, in the metric's own direction, and what was hoped for; the method check comes last."""
    put(tmp_path, "compare", 0)
    evidence = told(tmp_path).evidence
    assert [text.partition(":")[0] for text in evidence[:4]] == ["bulk_copy", "concurrency", "derived_timeframes", "query_cache"]
    assert re.fullmatch(r"bulk_copy: improved, duration_s -\d+% \(-\d+% to -\d+%\), where -25% expected and -\d+% predicted", evidence[0])
    assert re.fullmatch(r"query_cache: improved, throughput_rps \+[\d,]+% \(\+[\d,]+% to \+[\d,]+%\)", evidence[3])
    assert evidence[-1].startswith("planted_regression: worse, throughput_rps -")


def test_what_is_not_proven_is_told_with_what_was_measured(tmp_path: Path) -> None:
    """Of what was not measured nothing is made up; one round has no interval."""

    def change(result: Any) -> None:
        one, other = result["proofs"]["bulk_copy"], result["proofs"]["concurrency"]
        one["differences"][0] |= {
            "change": "not_proven",
            "ratio": one["differences"][0]["ratio"] | {"value": 1.25, "low": None, "high": None},
        }
        other["differences"][0] |= {"change": "not_proven", "ratio": None}
        for proof in (one, other):
            proof |= {"expected_low_ratio": None, "predicted_ratio": None}

    put(tmp_path, "compare", 0, change)
    assert told(tmp_path).evidence[:2] == ("bulk_copy: not proven, duration_s +25%", "concurrency: not proven, duration_s not measured")


def test_what_is_about_no_proof_is_told_after_them(tmp_path: Path) -> None:
    """That nobody tried a fix, or that two runs differ in more than the change, with what that is."""
    differs = finding("between the two runs lies more than the change", host="a in place of b") | {"name": "more_than_the_change"}
    put(tmp_path, "compare", 0, lambda result: result.update(recommendations=[differs, finding("bulk_copy: proven")]))
    assert told(tmp_path).evidence[-1] == "between the two runs lies more than the change (host a in place of b)"
    assert len(told(tmp_path).evidence) == 7


def test_a_comparison_of_many_proofs_says_how_many_more(tmp_path: Path) -> None:
    """More than there is room for on a page."""

    def twelve(result: Any) -> None:
        result.update(proofs={f"proof_{i}": result["proofs"]["bulk_copy"] for i in range(12)}, method_check={})

    put(tmp_path, "compare", 0, twelve)
    assert len(told(tmp_path).evidence) == markdown.PROOFS + 1
    assert told(tmp_path).evidence[-1] == f"and {12 - markdown.PROOFS} more"


@pytest.mark.parametrize(
    ("text", "evidence", "shown"),
    [
        ("insert takes 56% of busy time", {"busy_s": 20.5, "busy_share": 0.562}, "insert takes 56% of busy time"),
        ("3 of 1,000 requests failed", {"requests": 1000}, "3 of 1,000 requests failed"),
        ("it was silent", {"trials": 5}, "it was silent (trials 5)"),
        ("burst_5 waits", {"trials": 5}, "burst_5 waits (trials 5)"),
        ("it was silent for 15.5 s", {"trials": 5}, "it was silent for 15.5 s (trials 5)"),
        ("it was silent", {}, "it was silent"),
        ("it was silent" + " and so on" * 10, {"trials": 5}, "it was silent" + " and so on" * 10),
    ],
)
def test_figures_stand_beside_a_finding_that_has_none(tmp_path: Path, text: str, evidence: dict[str, float], shown: str) -> None:
    """And where there is room for all of them; none is said twice."""
    put(tmp_path, "load", 0, lambda result: result.update(headline="", recommendations=[finding(text, **evidence)]))
    assert told(tmp_path).evidence == (shown,)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("all of it fits (here)", "all of it fits (here)"),
        ("line\n and line", "line and line"),
        ("It is just so. Then it goes on for far longer", "It is just so. …"),
        ("do the very first; then what is far longer than there is room for", "do the very first …"),
        ("one, two, three, four, five, six, seven, eight", "one, two, three, four, five, six …"),
        ("a, and then nothing of a clause for a long while at all", "a, and then nothing of a clause …"),
        ("x" * 50, "x" * 34 + " …"),
    ],
)  # fmt: skip
def test_what_is_too_long_ends_with_a_sentence_or_a_clause(text: str, shown: str) -> None:
    """In mid phrase only where there is nothing else to end with."""
    assert verdict.cut(text, 36) == shown


def test_an_action_is_not_cut_in_mid_phrase(tmp_path: Path) -> None:
    """In the page and in the comment."""
    action = f"adopt it (two jobs and requests at a time in place of one); the backfill's own advice was: {ADVICE}"
    put(tmp_path, "compare", 0, lambda result: result.update(recommendations=[finding("concurrency: proven", action)]))
    assert told(tmp_path).actions == ("adopt it (two jobs and requests at a time in place of one) …",)
    pages.write(tmp_path)
    for name in ("executive.html", "summary.md"):
        assert "in place of one) …" in (tmp_path / name).read_text(), name
