"""A session measures interleaved rounds of what the plan says, keeps the figures of every run, and reads back what it wrote."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from backfills import recording as refilled
from backfills import span
from comparisons import OPENED, plan, proof
from samples import GENERATOR, burst, recording

from tapecheck import config, progress
from tapecheck.backfill.plan import BackfillPlan
from tapecheck.backfill.recording import FAILED, Job
from tapecheck.compare import analysis, session
from tapecheck.compare.difference import Change
from tapecheck.compare.plan import ComparePlan, Proof, Variant, variants
from tapecheck.compare.recording import Baseline, Recording, Sample
from tapecheck.compare.session import Bench, RunFigures
from tapecheck.compare.validation import compare
from tapecheck.errors import ConfigError, MeasurementError, TargetDown
from tapecheck.target.file import Target
from tapecheck.target.opening import SandboxState
from tapecheck.verdict import Verdict, exit_code


class Planted:
    """Answers as a target whose true times are known, on a clock of its own; the fix takes half."""

    def __init__(self, *, fails_at: int | None = None) -> None:
        self.seen: list[Variant] = []
        self.now_ns = 0
        self.fails_at = fails_at

    def __call__(self, variant: Variant) -> RunFigures:
        self.seen.append(variant)
        if len(self.seen) == self.fails_at:
            raise MeasurementError("the workers did not start")
        duration_s = 1.0 if variant.side == "before" else 0.5
        self.now_ns += int(duration_s * 1e9)
        baseline = Baseline(what_if={"insert at no cost": float(len(self.seen))})
        sample = Sample(clocks={"duration_s": duration_s, "machine_s": 0.02}, counters={"records": 10}, checksum="10-0")
        return RunFigures(sample=sample, baseline=baseline)

    def clock(self) -> int:
        return self.now_ns


def measured(planted: Planted, **more: int) -> Recording:
    return session.measure(plan().model_copy(update=more), OPENED, planted, planted.clock)


def test_rounds_begin_with_either_side_by_turns() -> None:
    """A B, B A, A B, B A: a steady drift adds to each side alike."""
    found = list(session.order(4))
    assert [number for number, _ in found] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert [side for _, side in found] == ["before", "after", "after", "before"] * 2
    places = {side: sum(at for at, (_, other) in enumerate(found) if other == side) for side in ("before", "after")}
    assert places["before"] == places["after"]


def test_every_run_is_kept_with_its_times() -> None:
    """Samples come in the order in which they were measured, by the clock that was given."""
    found = measured(Planted(), warm_up=1)
    assert [sample.round for sample in found.samples] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert [(s.ended_ns - s.began_ns) / 1e9 for s in found.samples] == [1.0, 0.5, 1.0, 0.5, 0.5, 1.0, 1.0, 0.5, 0.5, 1.0]
    assert all(a.ended_ns <= b.began_ns for a, b in itertools.pairwise(found.samples))
    assert analysis.summarize(found, plan())["bulk_copy"].main.change == Change.IMPROVED


def test_both_variants_are_the_validations_own_plan_with_the_changes() -> None:
    """The fix differs from the baseline in what it says, and in nothing else; both in tables of their own."""
    planted = Planted()
    measured(planted)
    sides = {variant.side: variant.plan for variant in planted.seen}
    before, after = sides["before"], sides["after"]
    assert isinstance(before, BackfillPlan) and isinstance(after, BackfillPlan)
    assert (before.insert, after.insert) == ("copy", "copy")
    assert before.database_schema == after.database_schema == "tapecheck_compare"
    slow = session.variants("x", proof(baseline={"insert": "row_by_row"}))
    assert isinstance(slow["before"].plan, BackfillPlan) and isinstance(slow["after"].plan, BackfillPlan)
    assert (slow["before"].plan.insert, slow["after"].plan.insert) == ("row_by_row", "copy")
    assert slow["before"].plan.model_copy(update={"insert": "copy"}) == slow["after"].plan


def test_the_baseline_is_analysed_once_and_no_warm_up() -> None:
    """What the backfill says of it comes from the first run that counts."""
    found = measured(Planted(), warm_up=1)
    assert found.context.baselines["bulk_copy"].what_if == {"insert at no cost": 3}


def test_a_run_that_could_not_be_measured_costs_its_round_only() -> None:
    """It is named, and the session goes on."""
    found = measured(Planted(fails_at=1))
    assert found.samples[0].problem == "the workers did not start"
    assert len(analysis.summarize(found, plan())["bulk_copy"].rounds) == 3


def test_a_target_that_is_gone_ends_the_session() -> None:
    """It is no property of a variant."""

    def gone(variant: Variant) -> RunFigures:
        raise TargetDown("the database does not answer")

    with pytest.raises(TargetDown):
        session.measure(plan(), OPENED, gone)


def test_what_is_silent_reports_to_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    """Eighty runs draw no bars of their own; whoever has them done reports."""
    with progress.silent(), progress.show("inner", "jobs") as report:
        report(1, 2)
    assert capsys.readouterr().err == ""


# ---- one run of a variant ----

SERVICE = Target.model_validate({
    "name": "t", "kind": "external", "base_url": "http://127.0.0.1:1", "requests": {"ask": "GET /{symbol}"},
    "backfill": {"source_url": "http://127.0.0.1:1", "database_url": "postgresql://127.0.0.1/d"},
})  # fmt: skip
BURST = {"executor": "burst", "concurrency": 2, "rounds": 2, "request": "ask", "parameters": {"symbol": ["A"]}}


def load_proof(**fix: Any) -> Proof:
    return Proof.model_validate({
        "validation": "load", "says": "x", "scenario": "steady_state", "fix": fix,
        "metrics": [{"name": "mean_ms", "better": "lower", "smallest_effect": 0.1}],
    })  # fmt: skip


def loaded(monkeypatch: pytest.MonkeyPatch, **generator: Any) -> RunFigures:
    """Return the figures of a burst of four requests of 1 to 4 ms."""
    found = recording({"steady_state": burst([1.0, 2.0, 3.0, 4.0], per_round=2)}, generator=replace(GENERATOR, **generator))
    monkeypatch.setattr(session.load, "run", lambda plan, target: found)
    monkeypatch.setattr(session, "work_s", lambda: 0.123)
    return Bench(SERVICE)(variants("x", load_proof())["before"])


def test_a_load_run_gives_its_clocks_counters_and_response_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in the unit of its name, and what the machine took for its own piece of work just before."""
    found = loaded(monkeypatch)
    assert (found.sample.clocks["mean_ms"], found.sample.clocks["p50_ms"], found.sample.clocks["machine_s"]) == (2.5, 2.5, 0.123)
    assert (found.sample.counters["requests"], found.sample.counters["failed"], found.sample.counters["bytes"]) == (4, 0, 4000)
    assert found.requests is not None and found.requests.response_ms.tolist() == [1, 2, 3, 4]
    assert found.sample.problem == ""


def test_a_load_run_that_the_generator_limited_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the reason that the load test gives; one that was late counts, and says so."""
    assert "only 50.0% of the offered rate was sent" in loaded(monkeypatch, achieved_ratio=0.5).sample.problem
    late = loaded(monkeypatch, lag_p99_ms=500.0).sample
    assert late.problem == "" and "event loop lagged 500.0 ms" in late.late


def test_a_backfill_gives_stages_counters_and_what_limits_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failed jobs are counted, not left out: a variant that does less is no variant."""
    spans = [span("fetch", 0, 1, requests=1), span("insert", 1, 9, rows=90, statements=181)]
    jobs = [Job(symbol="AAPL", timeframe="1d", state="completed", inserted=90), Job(symbol="AAPL", timeframe="5m", state=FAILED)]
    monkeypatch.setattr(session.backfill, "run", lambda plan, endpoints: refilled(spans, wall_s=10, jobs=jobs))
    found = Bench(SERVICE)(variants("x", proof())["before"])
    assert (found.sample.clocks["duration_s"], found.sample.clocks["fetch_s"], found.sample.clocks["insert_s"]) == (10, 1, 8)
    assert "wait_s" not in found.sample.clocks
    assert found.sample.counters == {"records": 90, "requests": 1, "bytes": 0, "statements": 181, "failed": 1}
    assert [one.name for one in found.baseline.found] == ["bottleneck_insert"]
    assert found.sample.problem == ""


def test_every_variant_is_checked_before_any_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that the target does not have, in the last proof, costs no request of the first; it is named with proof and side."""
    asked: list[Variant] = []
    monkeypatch.setattr(Bench, "__call__", lambda self, variant: asked.append(variant))
    whole = ComparePlan(proofs={"refill": proof(), "ask": load_proof(request="nosuch")}, rounds=4)
    with pytest.raises(ConfigError, match=r"proofs\.ask, after: scenarios\.\*\.request: got 'nosuch' \(steady_state\)"):
        session.run(whole, SERVICE)
    without = SERVICE.model_copy(update={"backfill": None})
    with pytest.raises(ConfigError, match=r"proofs\.bulk_copy, before: backfill: got nothing"):
        session.run(plan(), without)
    assert asked == []


# ---- on the real sandbox ----

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
