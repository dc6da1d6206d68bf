"""The schema that ships with the package is that of the result types."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from regenerate import RESULTS, TESTS

from tapecheck import config
from tapecheck import recording as recordings
from tapecheck.runs import results
from tapecheck.runs.outcomes import Recorded
from tapecheck.verdict import NEXT, NOTHING, Check, Verdict


@pytest.mark.parametrize("validation_name", RESULTS)
def test_the_shipped_schema_is_that_of_the_code(validation_name: str) -> None:
    """A result type that changed without its schema is found: run tests/regenerate.py schemas."""
    assert results.schema(validation_name) == json.loads(json.dumps(results.json_schema(RESULTS[validation_name])))


def test_what_is_not_met_is_said_once_for_all_objectives_with_one_reason() -> None:
    """With what the findings of that scenario recommend for a miss, else with what its verdict asks for."""
    result = results.head(json.loads((config.PROJECT / "tests" / "data" / "load" / "result.json").read_text()))
    rows = [
        ("a", "p95_ms < 5", "fail", "9 misses < 5"), ("b", "p95_ms < 5", "invalid", "late"), ("b", "p99_ms < 5", "invalid", "late"),
        ("c", "p99_ms < 5", "pass", "met"), ("c", "p95_ms < 5", "fail", "9 misses < 5"),
    ]  # fmt: skip
    checks = [Check(name=n, objective=o, value=9, bound=9, n=1, verdict=Verdict(v), reason=r) for n, o, v, r in rows]
    found = [results.Finding(name="x", finding="a: the cache is cold", evidence={}, action="warm it")]
    assert replace(result, checks=checks, recommendations=found).missed() == [
        "a: p95_ms < 5: missed: 9 misses < 5; warm it",
        f"b: p95_ms < 5, p99_ms < 5: invalid: late; {NEXT[Verdict.INVALID]}",
        f"c: p95_ms < 5: missed: 9 misses < 5; {NEXT[Verdict.FAIL]}",
    ]


def test_a_file_that_git_does_not_know_changes_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs and notes beside the code are no change of it; a changed file is."""
    (tmp_path / "code.py").write_text("1\n")
    who = ("-c", "user.name=n", "-c", "user.email=e@example.com")
    for words in (("init", "-q"), ("add", "."), (*who, "commit", "-q", "-m", "m")):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    monkeypatch.setattr(config, "PROJECT", tmp_path)
    found = []
    for name in ("notes.txt", "code.py"):
        (tmp_path / name).write_text("2\n")
        found.append(results.environment.__wrapped__().git_dirty)
    assert found == [False, True]


def of(validation_name: str, check: Check, *found: results.Finding) -> str:
    """Return what the result of a validation says of a check that is not met."""
    kind = TypeAdapter(RESULTS[validation_name])
    result = kind.validate_python(json.loads((config.PROJECT / "tests" / "data" / validation_name / "result.json").read_text()))
    (line,) = replace(result, checks=[check], recommendations=list(found)).missed()
    return str(line)


@pytest.mark.parametrize(
    ("objective", "action"), [("success_ratio > 0.9", "read failures"), ("s.failed < 1", "read failures"), ("p95_ms < 5", "add an index")]
)
def test_a_miss_has_the_advice_of_what_may_have_caused_it(objective: str, action: str) -> None:
    """The generator's lag makes no request fail, and a failed request no other one slow."""
    check = Check(name="s", objective=objective, value=9, bound=9, n=1, verdict=Verdict.FAIL, reason="missed")
    actions = {"generator_late": "take as limits", "target_errors": "read failures", "database": "add an index"}
    found = [results.Finding(name=name, finding=f"s: {name}", evidence={}, action=text) for name, text in actions.items()]
    assert of("load", check, *found).endswith(f"missed; {action}")


def test_a_check_whose_reason_says_what_to_do_gets_no_other_advice() -> None:
    """A target that answers need not be made to; where a single round proves nothing, no quieter machine helps."""
    check = Check(
        name="s", objective="server_p95_ms < 5", value=None, bound=None, n=0, verdict=Verdict.NO_DATA, reason="no header: send one"
    )
    assert of("load", check).endswith("no data: no header: send one")
    assert of("load", replace(check, reason=NOTHING)).endswith(NEXT[Verdict.NO_DATA])
    assert of("load", replace(check, reason=f"{NOTHING}; requests failed (timeout: 1)")).endswith(NEXT[Verdict.NO_DATA])
    one = replace(check, n=1, verdict=Verdict.NOT_PROVEN, reason="one round")
    assert of("compare", one).endswith(
        "one round; measure 4 rounds or more: as a proof of the compare plan, or by as many recorded runs a side"
    )
    assert of("compare", replace(one, n=9)).endswith(NEXT[Verdict.NOT_PROVEN])


def test_timeouts_are_explained_before_more_samples_are_taken() -> None:
    """Of a time that is not proven; of a ratio, and of other failures, more samples may be all that is needed."""
    result = TypeAdapter(RESULTS["load"]).validate_python(
        json.loads((config.PROJECT / "tests" / "data" / "load" / "result.json").read_text())
    )
    name, one = next(iter(result.scenarios.items()))
    check = Check(name=name, objective="p99_ms < 5", value=1, bound=9, n=9, verdict=Verdict.NOT_PROVEN, reason="")
    hung, refused = (replace(result, scenarios={name: replace(one, errors={kind: 258})}) for kind in ("timeout", "status"))
    assert hung.advice(check).startswith("find out first what 258 requests waited for (read failures.jsonl")
    assert {refused.advice(check), hung.advice(replace(check, objective="success_ratio > 0.9"))} == {NEXT[Verdict.NOT_PROVEN]}


@pytest.mark.parametrize(
    ("validation_name", "figures"),
    [
        ("load", [" ms at ", "/s (mixed_symbols, the slowest)", "capacity ", "/s (proven to ", ", missed at "]),
        ("backfill", [" records/s", "bottleneck: no stage takes more than 60% of busy time"]),
        ("rto_rpo", ["Slowest recovery: ", " bars acknowledged during drills none was lost"]),
        ("compare", [": improved, throughput ", "/s (+", ": worse, throughput ", "/s (-"]),
    ],
)
def test_a_result_names_its_main_figures_with_their_units(validation_name: str, figures: list[str]) -> None:
    """The golden notebooks, which analyse a recorded run of each validation, hand them on for the one table of all."""
    golden = json.loads((TESTS / "notebooks" / f"{validation_name}.ipynb").read_text())
    bundles = [output.get("data", {}) for cell in golden["cells"] for output in cell.get("outputs", [])]
    (brief,) = [bundle[Recorded.MIME] for bundle in bundles if Recorded.MIME in bundle]
    assert [text for text in figures if text not in "; ".join(brief["figures"])] == []


@pytest.mark.parametrize(
    ("spans_s", "covered"),
    [
        ([], None),
        ([(1, 3)], 2),
        ([(1, 3), (5, 6)], 3),
        ([(5, 6), (1, 3)], 3),
        ([(0, 9), (1, 3)], 9),
        ([(0, 4), (3, 6), (6, 7)], 7),
        ([(-5, -3)], 2),
    ],
)
def test_time_in_which_several_ran_at_once_is_counted_once(spans_s: list[tuple[int, int]], covered: float | None) -> None:
    """Drills side by side measure no longer than the clock on the wall says; of nothing there is no figure."""
    assert recordings.covered_s((a * 10**9, b * 10**9) for a, b in spans_s) == covered
