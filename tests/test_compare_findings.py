"""From what limits a baseline to its fix: promised, predicted and measured side by side, and what to do next."""

import dataclasses
from typing import Any

import pytest
from comparisons import INSERT_LIMITS, METRIC, proof, recording, samples, times

from tapecheck.compare import analysis, findings
from tapecheck.compare.plan import Proof
from tapecheck.compare.recording import Baseline, Recording
from tapecheck.runs.results import Finding

PROMISED = {"what_if": "insert at no cost", "answers": ["bottleneck_insert"]}


def session(ratio: float = 0.5, *, found: tuple[Finding, ...] = (INSERT_LIMITS,), question: Proof | None = None, **more: Any) -> Recording:
    baselines = {"bulk_copy": Baseline(found=found, what_if={"insert at no cost": 0.6})}
    return recording(samples(times(8, ratio, **more)), {"bulk_copy": question or proof(**PROMISED)}, baselines=baselines)


def found(one: Recording) -> list[Finding]:
    return findings.find(one, analysis.summarize(one))


def test_the_baselines_bottleneck_selects_its_fix() -> None:
    """With the three figures, of which the promise is the bottleneck's own."""
    (one,) = found(session())
    assert one.name == "fix"
    begin, rest = one.finding.split(", where ")
    assert begin.startswith("bulk_copy: proven, duration_s -5")
    assert rest == "25% to 35% less was promised and at most 60% less predicted; its baseline: insert takes 80 % of busy time"
    assert one.evidence["promised_low_ratio"] == 0.25
    assert one.evidence["predicted_ratio"] == 0.6
    assert one.evidence["saved_ratio"] == pytest.approx(0.5, abs=0.03)
    assert one.evidence["promise"] == "more than promised"
    assert "store in bulk" in one.action


def test_a_fix_of_something_else_is_no_answer() -> None:
    """What limits the baseline is named as what nobody has tried to fix."""
    (one,) = found(session(found=(dataclasses.replace(INSERT_LIMITS, name="bottleneck_features"),)))
    assert one.name == "no_fix_tried"


def test_a_fix_that_is_not_proven_says_with_how_many_rounds_it_would_be() -> None:
    """And is not recommended."""
    (one,) = found(session(0.85, noise=0.1, seed=1))
    assert one.name == "fix_unproven"
    assert "do not count on it yet" in one.action and "rounds" in one.action


@pytest.mark.parametrize(("ratio", "kept"), [(0.5, "more than promised"), (0.7, "kept"), (0.85, "broken"), (0.75, "not proven")])
def test_a_promise_is_kept_or_broken_by_its_interval(ratio: float, kept: str) -> None:
    """25 to 35 %: at its edge, noise decides nothing."""
    summary = analysis.summarize(session(ratio, noise=0.02))
    assert findings.promise_kept(summary["bulk_copy"]) == kept


def test_a_promise_is_not_kept_by_what_is_not_proven() -> None:
    """Identical variants differed as much in that session, so that even an interval within the promise says nothing."""
    runs = [(number, side, value * (1.0 if number % 2 else 3.0)) for number, side, value in times(8, 0.7, noise=0.001)]
    one = recording(samples(runs), {"bulk_copy": proof(**PROMISED)}, baselines={"bulk_copy": Baseline(found=(INSERT_LIMITS,))})
    summary = analysis.summarize(one)["bulk_copy"]
    assert summary.main.ratio is not None and summary.main.ratio.high is not None and 0.65 < summary.main.ratio.high < 0.75
    assert findings.promise_kept(summary) == "not proven"


def test_a_regression_speaks_first() -> None:
    """A change that does harm is the bottleneck, whatever else was proven."""
    both = [*samples(times(8, 0.5)), *samples(times(8, 1.5), name="harm")]
    one = recording(both, {"bulk_copy": proof(), "harm": proof()})
    said = findings.bottleneck(found(one))
    assert said is not None and said.name == "worse" and said.finding.startswith("harm is worse: duration_s +5")
    planted = proof(metrics=[METRIC.model_dump() | {"expect": "worse"}])
    assert found(recording(samples(times(8, 1.5)), {"bulk_copy": planted})) == [], "a proof may expect that a change does harm"


def test_variants_that_did_not_do_the_same_are_named_with_their_counters() -> None:
    """A faster way to another result is no fix."""
    one = recording(samples(times(8, 0.5), counters={"after": {"records": 900}}))
    (finding,) = found(one)
    assert (finding.name, finding.evidence) == ("not_the_same", {"records": "1,000 to 900"})


def test_the_fix_that_saves_most_is_the_bottleneck_of_the_result() -> None:
    """Where nothing does harm."""
    baselines = {name: Baseline(found=(INSERT_LIMITS,)) for name in ("small", "large")}
    both = [*samples(times(8, 0.7), name="small"), *samples(times(8, 0.4), name="large")]
    one = recording(both, {name: proof(**PROMISED) for name in ("small", "large")}, baselines=baselines)
    said = findings.bottleneck(found(one))
    assert said is not None and said.finding.startswith("large")
