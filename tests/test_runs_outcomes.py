"""The end of a run in a terminal: one aligned table, and in plain words what is not a pass and what to do."""

from pathlib import Path

import pytest
from recorded_runs import put

from tapecheck.runs import folders, outcomes
from tapecheck.runs.outcomes import Outcome, Recorded


def outcome(validation: str = "load", exit_code: int = 0, *, message: str = "", **brief: object) -> Outcome:
    verdict = {0: "pass", 1: "fail", 2: "not_proven"}.get(exit_code)
    found = {"verdict": verdict, **brief} if verdict else {}
    return Outcome(validation=validation, exit_code=exit_code, duration_s=20.4, message=message, brief=found)


@pytest.mark.parametrize(("codes", "code"), [([], 0), ([0, 0], 0), ([0, 2], 2), ([1, 2], 1), ([1, 3], 3), ([3, 4, 0], 4)])
def test_several_end_with_the_most_severe_code(codes: list[int], code: int) -> None:
    """A crash outweighs a miss, a miss outweighs no verdict."""
    assert outcomes.worst([outcome(exit_code=c) for c in codes]) == code


def test_the_table_has_a_row_a_validation_and_a_line_a_figure_all_aligned() -> None:
    """Each column begins at one place, and a second figure stands below the first."""
    load = outcome(checks={"pass": 29}, figures=["p50 2, p95 9, p99 12 ms", "capacity 2,263/s"], measured_s=15.2)
    crashed = outcome("rto_rpo", 3, message="the notebook's kernel died")
    head, first, second, last = outcomes.table([load, crashed]).splitlines()
    at = head.index("main figures")
    assert first.split()[:6] == ["load", "PASS", "29", "of", "29", "15"]
    assert first[at:] == "p50 2, p95 9, p99 12 ms"
    assert second == " " * at + "capacity 2,263/s"
    assert last[:at].split() == ["rto_rpo", "CRASHED", "20", "s"]
    assert last[at:] == "the notebook's kernel died"


@pytest.mark.parametrize("figure", ["word " * 200, "x" * 500, "a_name_without_a_space" * 3 + " p95 1 ms"])
def test_the_table_is_never_wider_than_120_columns(figure: str) -> None:
    """However long a figure, name or message is."""
    text = outcomes.table([outcome("compare", 2, figures=[figure, figure], checks={"pass": 100, "not_proven": 1000}, measured_s=3)])
    assert max(map(len, text.splitlines())) <= 120


def test_what_is_not_known_is_not_printed() -> None:
    """Without a measuring time there is only how long it took; nothing counts as zero."""
    assert outcomes.measured([outcome(measured_s=None)], 30.2) == "took 30 s"
    assert outcomes.measured([outcome(measured_s=10.0), outcome(measured_s=12.4)], 30.2) == "22 of 30 s were measurement"
    assert outcome(measured_s=None).row()[-1] == "20 s"


@pytest.mark.parametrize(
    ("run", "again", "measured_s"),
    [("new", None, 153.0), ("outputs/unfinished/load-1", None, None), ("outputs/load/1", "outputs/load/1", None)],
)
def test_what_was_measured_before_is_no_share_of_a_runs_time(tmp_path: Path, run: str, again: str | None, measured_s: float | None) -> None:
    """Neither of a recorded run, nor of one that was measured and never recorded."""
    given = {"measured_s": 153.0, "reanalysis_of": again, "parameters": {"run": run}}
    head = folders.read(put(tmp_path, "load", 0, lambda r: r.update(given))).head
    assert head is not None
    brief = Recorded(result=head, folder=None).brief()
    assert (brief["measured_s"], brief["is_judged"]) == (measured_s, run != "new")


@pytest.mark.parametrize(
    ("ended", "begins"),
    [
        ([outcome()], "Every objective is met."),
        ([outcome(), outcome("backfill", 1)], "Objectives missed (backfill): find the cause"),
        ([outcome(exit_code=2), outcome("rto_rpo", 2)], "No verdict (load, rto_rpo): not everything could be judged; do what"),
        ([outcome(), outcome("backfill", 3)], "Ended early, or without a chart (backfill): the reason stands above"),
        (
            [outcome(exit_code=2, is_judged=True)],
            "No verdict (load), not everything could be judged: a judgement of what was recorded before",
        ),
        ([outcome(is_judged=True)], "Every objective is met: a judgement of what was recorded before; nothing was measured."),
        ([outcome(exit_code=1, is_judged=True), outcome("backfill", 1)], "Objectives missed (load, backfill): find the cause"),
        ([outcome("load", 4)], "Not run (load): correct what the lines above name"),
    ],
)
def test_the_last_lines_say_in_words_what_the_exit_code_means(ended: list[Outcome], begins: str) -> None:
    """They are what a person reads before make's own error."""
    assert outcomes.explanation(ended).splitlines()[-1].startswith(begins)


def test_each_thing_that_is_not_a_pass_has_a_line_with_what_to_do_up_to_a_limit() -> None:
    """The rest is counted, and the report named."""
    missed = [f"s{i}: p99_ms < 5: missed: 9 misses < 5; do {i}" for i in range(9)]
    said = outcomes.explanation([outcome(exit_code=1, missed=missed), outcome("rto_rpo", 3, message="cell 4 raised KeyError: 'x'")])
    lines = said.splitlines()
    assert lines[:6] == [f"load: {text}" for text in missed[:6]]
    assert outcomes.explanation([outcome("backfill", 1, missed=["backfill: lost"])]).startswith("backfill: lost"), "the name once"
    assert lines[6] == "load: and 3 more; see above"
    assert lines[7] == "rto_rpo: cell 4 raised KeyError: 'x'"
    assert len(lines) == 9
