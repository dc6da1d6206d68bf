"""A comparison on the real sandbox: counters prove by themselves what clocks need a quiet machine for."""

import itertools
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter

from tapecheck import config
from tapecheck.compare.difference import Change
from tapecheck.compare.plan import ComparePlan
from tapecheck.compare.recording import Recording
from tapecheck.compare.validation import Proofs, compare
from tapecheck.runs import folders
from tapecheck.target.opening import SandboxState
from tapecheck.validation import Analysis
from tapecheck.verdict import Verdict, exit_code

DATA = config.PROJECT / "tests" / "data"
PLAN = """
rounds: 4
warm_up: 0
proofs:
  fewer: {validation: backfill, says: derive,
          baseline: &slow {symbols: [AAPL], timeframes: [1h, 1d], history: {days: 3}, insert: row_by_row},
          fix: {derive: true}, metrics: [{name: requests, better: lower, smallest_effect: 0.1}]}
  same: {validation: backfill, says: nothing, baseline: *slow,
         metrics: [{name: requests, better: lower, smallest_effect: 0.1, expect: no_change}]}
  regression: {validation: backfill, says: no longer in bulk, baseline: {symbols: [AAPL], timeframes: [1h, 1d], history: {days: 3}},
               fix: {insert: row_by_row}, metrics: [{name: statements, better: lower, smallest_effect: 0.1}]}
  another: {validation: backfill, says: a smaller job, baseline: *slow, fix: {timeframes: [1d]},
            metrics: [{name: duration_s, better: lower, smallest_effect: 0.1}]}
  cache: {validation: load, scenario: steady_state, says: cache, baseline: {request: features_uncached, duration_s: 0.5, warm_up_s: 0.1},
          fix: {request: features}, metrics: [{name: throughput_rps, better: higher, smallest_effect: 0.1}]}
"""

Found = Analysis[ComparePlan, Recording, Proofs]

USERS = """
scenarios: {steady_state: {executor: closed, concurrency: 4, duration_s: 1, request: features,
            parameters: {symbol: [AAPL, MSFT], timeframe: [1h], limit: [500]}}}
generator: {lag_p99_ms: 2000, cpu_ratio: 1}  # how busy this machine is, is not what these tests are about
"""


@pytest.fixture(scope="module")
def analysed(sandbox: SandboxState, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Every proof of the plan above, measured once."""
    folder = tmp_path_factory.mktemp("compare")
    (folder / "load.yaml").write_text(USERS)
    (folder / "plan.yaml").write_text(PLAN.replace("validation: load,", f"validation: load, plan: '{folder}/load.yaml',"))
    plan = compare.read_plan(folder / "plan.yaml")
    settings = compare.settings(
        target="config/targets/sandbox.yaml", plan=str(folder / "plan.yaml"), run="new", out="", profile="full", proofs="all", rounds=0
    )
    return compare.analyse(compare.recording(plan, settings), plan)


@pytest.mark.parametrize(
    ("name", "change"),
    [("fewer", Change.IMPROVED), ("same", Change.NO_CHANGE), ("regression", Change.WORSE)],
)
def test_what_is_counted_proves_a_change(analysed: Found, name: str, change: Change) -> None:
    """A fix, a variant beside itself and a planted regression; each is the same every round, with equal checksums."""
    proof = analysed.summary[name]
    assert (proof.main.change, proof.invalid, proof.checksums_equal) == (change, None, True)
    assert proof.main.ratio.exact and len(proof.rounds) == 4


def test_a_regression_is_a_failed_check(analysed: Found) -> None:
    """Where an improvement was expected; what it did is in the reason."""
    (check,) = [one for one in analysed.checks if one.name == "regression"]
    assert check.verdict == Verdict.FAIL and check.reason.startswith("worse: statements ")


def test_a_variant_that_does_less_is_no_variant(analysed: Found) -> None:
    """It is faster, and that is not compared."""
    (check,) = [one for one in analysed.checks if one.name == "another"]
    assert check.verdict == Verdict.INVALID
    assert "the checksums of what was stored differ" in check.reason


def test_both_sides_of_a_load_proof_were_really_asked(analysed: Found) -> None:
    """The fastest answer of the cache is faster than the database's by far, and what requests saw is kept of both sides."""
    fastest_ms: dict[tuple[str, str], float] = {}
    for row in analysed.recording.spectra.to_pylist():
        key = (row["proof"], row["side"])
        fastest_ms[key] = min(row["value_ms"], fastest_ms.get(key, row["value_ms"]))
    assert fastest_ms.keys() == {("cache", "before"), ("cache", "after")}
    assert fastest_ms["cache", "after"] < 0.8 * fastest_ms["cache", "before"], fastest_ms


def test_every_run_kept_its_order(analysed: Found) -> None:
    """Interleaved (ABBA), one at a time."""
    own = [one for one in analysed.recording.samples if one.proof == "fewer"]
    assert [one.side for one in own] == ["before", "after", "after", "before"] * 2
    assert all(a.ended_ns <= b.began_ns for a, b in itertools.pairwise(own))


# ---- two recorded runs ----


def test_two_recorded_load_runs_need_no_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One round proves nothing of clocks (exit code 2), every request is read again, and no sandbox is started."""
    monkeypatch.setenv("TAPECHECK_SANDBOX_HOME", str(tmp_path / "home"))
    given = {"profile": "full", "proofs": "all", "rounds": 0, "before": str(DATA / "load"), "after": str(DATA / "load")}
    settings = compare.settings(target="none.yaml", plan="config/compare.yaml", run="new", out=str(tmp_path / "out"), **given)
    todo = compare.plan(settings)
    assert [*compare.asked(todo, settings)] == ["each part of load"]
    compare.record(compare.analyse(compare.recording(todo, settings), todo), settings=settings)
    assert not (tmp_path / "home").exists()
    folder = (tmp_path / "out" / "compare" / "latest").resolve()
    recorded = folders.read(folder, "compare").result
    assert exit_code(Verdict(recorded["verdict"])) == 2
    assert {"one run a side: no confidence interval" in check["reason"] for check in recorded["checks"]} == {True}
    assert recorded["before"][0]["run_id"] == recorded["after"][0]["run_id"] and recorded["differs"] == []
    assert set(pq.read_table(folder / "spectra.parquet").column("proof").to_pylist()) == set(recorded["proofs"])
    again = compare.summarize(compare.read(str(folder)), todo)
    assert json.loads(TypeAdapter(dict).dump_json(dict(again))) == recorded["proofs"]
