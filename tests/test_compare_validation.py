"""The comparison's facade: settings are checked, what is recorded reads back, and the schema is that of the result."""

import json
from pathlib import Path

import pytest
from comparisons import INSERT_LIMITS, expecting, plan, proof, recording, samples, times

from tapecheck import charts
from tapecheck.compare import frames
from tapecheck.compare.plan import ComparePlan
from tapecheck.compare.recording import Baseline, Recording
from tapecheck.compare.validation import apart, compare
from tapecheck.errors import ConfigError
from tapecheck.runs import folders, results
from tapecheck.runs.outcomes import Recorded

GIVEN = {
    "target": "t", "plan": "config/compare.yaml", "run": "new", "profile": "full", "proofs": "all", "rounds": 0, "before": "", "after": "",
}  # fmt: skip


EIGHT = {"least": 8, "most": 8}
CHECKED = proof(method_check=True, metrics=expecting("no_claim"))


def recorded(found: Recording, asked: ComparePlan, out: Path) -> Recorded:
    return compare.record(compare.analyse(found, asked), settings=compare.settings(**GIVEN | {"out": str(out)}))


def session() -> tuple[Recording, ComparePlan]:
    asked = plan(EIGHT, bulk_copy=proof(what_if="x", answers=["bottleneck_insert"], controls=["machine_s"]))
    baselines = {"bulk_copy": Baseline(found=(INSERT_LIMITS,), what_if={"x": 0.5})}
    return recording(samples(times(8, 0.6), problems={(3, "after"): "1 of 5 jobs failed"}), asked, baselines=baselines), asked


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({"rounds": "many"}, "rounds"),
        ({"proofs": ""}, "proofs"),
        ({"before": "a"}, "(file)"),
        ({"after": "a"}, "(file)"),
        ({"run": "r", "before": "a", "after": "b"}, "(file)"),
        ({"x": 1}, "x"),
    ],
)
def test_a_wrong_parameter_is_refused(tmp_path: Path, wrong: dict[str, object], key: str) -> None:
    """One recorded run alone cannot be compared, nor two of them and a recorded comparison at once."""
    with pytest.raises(ConfigError) as raised:
        compare.settings(**GIVEN | {"out": str(tmp_path)} | wrong)
    assert [problem.key for problem in raised.value.problems] == [key]


def test_what_is_recorded_reads_back_and_keeps_its_schema(tmp_path: Path) -> None:
    """The result has the checks, the findings, and the questions as they were asked; the run reads back to the same summary."""
    one, asked = session()
    done = recorded(one, asked, tmp_path)
    assert done.folder is not None
    result = json.loads((done.folder / folders.RESULT).read_text())
    assert results.breaks_schema(result) is None
    assert (result["verdict"], result["bottleneck"]["name"]) == ("pass", "fix")
    assert result["questions"]["bulk_copy"]["metrics"][0]["smallest_effect"] == 0.1
    assert json.loads((done.folder / "failures.jsonl").read_text()) == {
        "proof": "bulk_copy", "side": "after", "round": 3, "problem": "1 of 5 jobs failed",
    }  # fmt: skip
    again = compare.read(done.folder)
    assert compare.summarize(again, asked) == compare.summarize(one, asked)
    assert again.context == one.context
    settings = compare.settings(**GIVEN | {"out": "", "run": str(done.folder)})
    assert compare.asked(asked, settings) == asked.asked()


def test_a_method_check_stands_apart_from_the_proofs(tmp_path: Path) -> None:
    """In result, headline and table, and in brackets in the charts; its verdict is one of the run's checks."""
    asked = plan(EIGHT, bulk_copy=proof(), a_a_test=CHECKED)
    one = recording([*samples(times(8, 0.6)), *samples(times(8, 1.0, noise=0.2), name="a_a_test")], asked)
    summary = compare.summarize(one, asked)
    own, method_check = apart(summary)
    assert (list(own), list(method_check)) == (["bulk_copy"], ["a_a_test"])
    done = recorded(one, asked, tmp_path)
    assert done.folder is not None
    result = json.loads((done.folder / folders.RESULT).read_text())
    assert (list(result["proofs"]), list(result["method_check"]), result["verdict"]) == (["bulk_copy"], ["a_a_test"], "pass")
    assert result["headline"].endswith("Method check: a_a_test: no difference claimed.")
    chart = charts.compare_ratios(recording=one, summary=summary)
    assert [label.get_text() for label in chart.axes[0].get_yticklabels()] == ["bulk_copy\nduration_s", "[a_a_test]\nduration_s"]
    assert list(frames.differences({}).index) == [("no proof of this kind", "")]


def test_what_a_method_check_missed_stands_after_the_proofs(tmp_path: Path) -> None:
    """In the table at the end of a run, whichever is measured first; it is called what it is."""
    asked = plan(EIGHT, a_a_test=CHECKED, bulk_copy=proof())
    done = recorded(recording([*samples(times(8, 0.6), name="a_a_test"), *samples(times(8, 1.5))], asked), asked, tmp_path)
    assert [line.partition(": ")[0] for line in done.result.missed()] == ["bulk_copy", "method check, a_a_test"]


def test_the_tables_show_each_figure_beside_its_proof() -> None:
    """Counters, differences, controls and savings, each with its own row."""
    one, asked = session()
    summary = compare.summarize(one, asked)
    assert frames.counters(summary).loc[("bulk_copy", "records"), "before"] == "1,000"
    row = frames.differences(summary).loc[("bulk_copy", "duration_s")]
    assert (row["proven"], row["rounds"]) == ("improved", "7 of 8")
    assert frames.controls(summary).loc[("bulk_copy", "machine_s"), "held still"] == "held"
    saved = frames.savings(summary).loc["bulk_copy"]
    assert (saved["expected"], saved["predicted"], saved["expected saving"]) == ("25% to 35%", "50%", "exceeded")
    assert frames.sides(one).loc["both", "target"] == "sandbox"
    assert frames.plan(asked.asked()).loc[("bulk_copy", "duration_s"), "expected"] == "duration_s ratio <= 0.9"
