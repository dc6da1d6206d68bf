"""A comparison on the real sandbox, whose counters prove what clocks need a quiet machine for; and of two recorded runs, without it."""

import itertools
from pathlib import Path

import pytest

from tapecheck import config
from tapecheck.compare.difference import Change
from tapecheck.compare.validation import compare
from tapecheck.target.opening import SandboxState
from tapecheck.verdict import Verdict, exit_code

DATA = config.PROJECT / "tests" / "data"
PLAN = """
rounds: 4
warm_up: 0
proofs:
  fewer: {validation: backfill, says: derive, baseline: {symbols: [AAPL], timeframes: [1h, 1d], history: {days: 3}, insert: row_by_row},
          fix: {derive: true}, metrics: [{name: requests, better: lower, smallest_effect: 0.1}]}
"""


def test_what_is_counted_proves_a_change(sandbox: SandboxState, tmp_path: Path) -> None:
    """It is the same every round, with equal checksums; runs are interleaved (ABBA), one at a time."""
    (tmp_path / "plan.yaml").write_text(PLAN)
    plan = compare.read_plan(tmp_path / "plan.yaml")
    given = {"profile": "full", "proofs": "all", "rounds": 0}
    settings = compare.settings(target="config/targets/sandbox.yaml", plan=str(tmp_path / "plan.yaml"), run="new", out="", **given)
    found = compare.analyse(compare.recording(plan, settings), plan)
    proof, (check,) = found.summary["fewer"], found.checks
    assert (proof.main.change, proof.invalid, proof.checksums_equal) == (Change.IMPROVED, None, True)
    assert proof.main.ratio is not None and proof.main.ratio.exact and len(proof.rounds) == 4
    assert check.verdict == Verdict.PASS
    runs = found.recording.samples
    assert [one.side for one in runs] == ["before", "after", "after", "before"] * 2
    assert all(a.ended_ns <= b.began_ns for a, b in itertools.pairwise(runs))


# ---- two recorded runs ----


def test_two_recorded_load_runs_need_no_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One round proves nothing of clocks (exit code 2), every request is read again, and no sandbox is started."""
    monkeypatch.setenv("TAPECHECK_SANDBOX_HOME", str(tmp_path / "home"))
    given = {"profile": "full", "proofs": "all", "rounds": 0, "before": str(DATA / "load"), "after": str(DATA / "load")}
    settings = compare.settings(target="none.yaml", plan="config/compare.yaml", run="new", out=str(tmp_path / "out"), **given)
    todo = compare.plan(settings)
    assert [*compare.asked(todo, settings)] == ["each part of load"]
    done = compare.record(compare.analyse(compare.recording(todo, settings), todo), settings=settings)
    assert not (tmp_path / "home").exists() and done.folder
    assert exit_code(done.result.verdict) == 2
    again = compare.read(done.folder)
    assert {*again.spectra.column("proof").to_pylist()} == {*done.result.proofs} and compare.summarize(again, todo) == done.result.proofs
