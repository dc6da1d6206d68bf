"""What is read from one run of a variant: its figures, why it does not count, and that it can be measured at all."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from backfills import recording as refilled
from backfills import span
from comparisons import plan, proof
from samples import GENERATOR, burst, recording

from tapecheck.backfill.recording import FAILED, Job
from tapecheck.compare import session
from tapecheck.compare.plan import ComparePlan, Proof, Variant, variants
from tapecheck.compare.session import Bench
from tapecheck.errors import ConfigError
from tapecheck.target.file import Target

TARGET = Target.model_validate({
    "name": "t", "kind": "external", "base_url": "http://127.0.0.1:1", "requests": {"ask": "GET /{symbol}"},
    "backfill": {"source_url": "http://127.0.0.1:1", "database_url": "postgresql://127.0.0.1/d"},
})  # fmt: skip
BURST = {"executor": "burst", "concurrency": 2, "rounds": 2, "request": "ask", "parameters": {"symbol": ["A"]}}


def load_proof(**fix: Any) -> Proof:
    return Proof.model_validate({
        "validation": "load", "says": "x", "scenario": "steady_state", "fix": fix,
        "metrics": [{"name": "mean_ms", "better": "lower", "smallest_effect": 0.1}],
    })  # fmt: skip


def loaded(monkeypatch: pytest.MonkeyPatch, **generator: Any) -> session.RunFigures:
    """Return the figures of a burst of four requests of 1 to 4 ms."""
    found = recording({"steady_state": burst([1.0, 2.0, 3.0, 4.0], per_round=2)}, generator=replace(GENERATOR, **generator))
    monkeypatch.setattr(session.load, "run", lambda plan, target: found)
    monkeypatch.setattr(session, "work_s", lambda: 0.123)
    return Bench(TARGET)(variants("x", load_proof())["before"])


def test_a_load_run_gives_its_clocks_counters_and_response_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in the unit of its name, and what the machine took for its own piece of work just before."""
    found = loaded(monkeypatch)
    assert (found.clocks["mean_ms"], found.clocks["p50_ms"], found.clocks["machine_s"]) == (2.5, 2.5, 0.123)
    assert (found.counters["requests"], found.counters["failed"], found.counters["bytes"]) == (4, 0, 4000)
    assert found.response_ms is not None and found.response_ms.tolist() == [1, 2, 3, 4]
    assert found.problem == ""


def test_a_load_run_that_the_generator_limited_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the reason that the load test gives; one that was late counts, and says so."""
    assert "only 50.0% of the offered rate was sent" in loaded(monkeypatch, achieved_ratio=0.5).problem
    late = loaded(monkeypatch, lag_p99_ms=500.0)
    assert late.problem == "" and "event loop lagged 500.0 ms" in late.late


def test_a_backfill_gives_stages_counters_and_what_limits_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failed jobs are counted, not left out: a variant that does less is no variant."""
    spans = [span("fetch", 0, 1, requests=1), span("insert", 1, 9, rows=90, statements=181)]
    jobs = [Job(symbol="AAPL", timeframe="1d", state="completed", inserted=90), Job(symbol="AAPL", timeframe="5m", state=FAILED)]
    monkeypatch.setattr(session.backfill, "run", lambda plan, endpoints: refilled(spans, wall_s=10, jobs=jobs))
    found = Bench(TARGET)(variants("x", proof())["before"])
    assert (found.clocks["duration_s"], found.clocks["fetch_s"], found.clocks["insert_s"]) == (10, 1, 8)
    assert "wait_s" not in found.clocks
    assert found.counters == {"records": 90, "requests": 1, "bytes": 0, "statements": 181, "failed": 1}
    assert [one.name for one in found.baseline.found] == ["bottleneck_insert"]
    assert found.problem == ""


def test_every_variant_is_checked_before_any_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that the target does not have, in the last proof, costs no request of the first; it is named with proof and side."""
    asked: list[Variant] = []
    monkeypatch.setattr(Bench, "__call__", lambda self, variant: asked.append(variant))
    whole = ComparePlan(proofs={"refill": proof(), "ask": load_proof(request="nosuch")}, rounds=4)
    with pytest.raises(ConfigError, match=r"proofs\.ask, after: scenarios\.steady_state\.request: got 'nosuch'"):
        session.run(whole, TARGET)
    without = TARGET.model_copy(update={"backfill": None})
    with pytest.raises(ConfigError, match=r"proofs\.bulk_copy, before: backfill: got nothing"):
        session.run(plan(), without)
    assert asked == []


def test_each_target_is_opened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The side after may have one of its own."""
    opened: list[str] = []
    other = TARGET.model_copy(update={"name": "other"})
    monkeypatch.setattr(session, "open_target", lambda file: opened.append(file) or other)
    seen: list[str] = []
    figures = SimpleNamespace(samples=None)
    monkeypatch.setattr(session.load, "run", lambda plan, target: seen.append(target.name) or figures)
    monkeypatch.setattr(session.load, "summarize", lambda recording, plan: {})
    bench, plan_of = Bench(TARGET), variants("x", load_proof())["before"].plan
    for target in (None, "other.yaml", None, "other.yaml"):
        with pytest.raises(ValueError, match="not enough values"):
            bench(Variant(proof="x", side="after", plan=plan_of, target=target))
    assert (seen, opened) == (["t", "other", "t", "other"], ["other.yaml"])
