"""A comparison on the real sandbox: counters prove by themselves what clocks need a quiet machine for."""

import itertools
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import servers
from pydantic import TypeAdapter
from servers import Server

from tapecheck import config
from tapecheck.compare.difference import Change
from tapecheck.compare.plan import ComparePlan
from tapecheck.compare.recording import Recording
from tapecheck.compare.validation import Proofs, compare
from tapecheck.errors import ConfigError
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


# ---- two targets ----

BUILDS = """
rounds: 4
warm_up: 0
proofs:
  repaired: {validation: load, plan: load.yaml, scenario: users, says: the repaired build, after_target: repaired.yaml,
             metrics: [{name: p50_ms, better: lower, smallest_effect: 0.1}]}
"""
LOAD = """
scenarios: {users: {executor: closed, concurrency: 2, duration_s: 0.5, request: ask, parameters: {symbol: [A]}}}
generator: {lag_p99_ms: 2000, cpu_ratio: 1}
"""


def test_a_repaired_build_is_measured_beside_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each side asks its own target; one that answers 50 ms earlier is proven to."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "builds.yaml").write_text(BUILDS)
    (tmp_path / "load.yaml").write_text(LOAD)
    with Server(servers.slow(0.05)) as old, Server(servers.fast) as repaired:
        for name, server in (("old", old), ("repaired", repaired)):
            text = f"name: {name}\nkind: external\nbase_url: {server.url}\nrequests: {{ask: 'GET /?symbol={{symbol}}'}}\n"
            (tmp_path / f"{name}.yaml").write_text(text)
        knobs = {"profile": "full", "proofs": "all", "rounds": 0}
        settings = compare.settings(target="old.yaml", plan="builds.yaml", run="new", out="", **knobs)
        recording = compare.recording(compare.plan(settings), settings)
    proof = compare.summarize(recording, compare.plan(settings))["repaired"]
    assert proof.main.before > 50 > 25 > proof.main.after
    by_side = {side: sum(one.counters["requests"] for one in recording.samples if one.side == side) for side in ("before", "after")}
    assert old.seen.requests >= by_side["before"] and repaired.seen.requests >= by_side["after"] > by_side["before"]
    (tmp_path / "repaired.yaml").write_text("name: x\nkind: external\n")
    with pytest.raises(ConfigError, match=r"repaired\.yaml"):
        compare.read_plan("builds.yaml")


# ---- two recorded runs ----


def compared(folder: Path, before: object, after: object) -> None:
    """Do what the cells of the notebook do, in this process."""
    given = {"profile": "full", "proofs": "all", "rounds": 0, "before": str(before), "after": str(after)}
    settings = compare.settings(
        target="config/targets/sandbox.yaml", plan="config/compare.yaml", run="new", out=str(folder / "out"), **given
    )
    todo = compare.plan(settings)
    compare.asked(todo, settings)
    compare.record(compare.analyse(compare.recording(todo, settings), todo), settings=settings)


def test_two_recorded_load_runs_need_no_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One round proves nothing of clocks (exit code 2), every request is read again, and no sandbox is started."""
    monkeypatch.setenv("TAPECHECK_SANDBOX_HOME", str(tmp_path / "home"))
    compared(tmp_path, DATA / "load", DATA / "load")
    assert not (tmp_path / "home").exists()
    folder = (tmp_path / "out" / "compare" / "latest").resolve()
    recorded = folders.read(folder, "compare").result
    assert exit_code(Verdict(recorded["verdict"])) == 2
    assert {"one round a side: no confidence interval" in check["reason"] for check in recorded["checks"]} == {True}
    assert recorded["before"][0]["run_id"] == recorded["after"][0]["run_id"] and recorded["differs"] == []
    assert set(pq.read_table(folder / "spectra.parquet").column("proof").to_pylist()) == set(recorded["proofs"])
    again = compare.summarize(compare.read(str(folder)), compare.read_plan("config/compare.yaml"))
    assert json.loads(TypeAdapter(dict).dump_json(dict(again))) == recorded["proofs"]
