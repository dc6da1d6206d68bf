"""A comparison's verdicts: counters before clocks, equal work or none, controls that veto, and expectations that are met or not."""

from typing import Any

import pytest
from comparisons import METRIC, proof, recording, samples, times

from tapecheck.compare import analysis
from tapecheck.compare.difference import Change
from tapecheck.compare.plan import Metric
from tapecheck.compare.recording import Baseline
from tapecheck.verdict import Check, Verdict


def checked(found: list[Any], **question: Any) -> Check:
    questions = {"bulk_copy": proof(**question)}
    (one,) = analysis.check(analysis.summarize(recording(found, questions)), questions)
    return one


def test_a_proven_improvement_passes_with_its_bound() -> None:
    """The bound is the end of the interval that counts against it, and n are rounds, not requests."""
    one = checked(samples(times(8, 0.6)))
    assert (one.verdict, one.n, one.objective) == (Verdict.PASS, 8, "duration_s ratio <= 0.9")
    assert one.value is not None and one.bound is not None and one.value < one.bound < 0.9


@pytest.mark.parametrize(
    ("ratio", "expect", "verdict"),
    [
        (0.6, "improved", Verdict.PASS), (1.0, "improved", Verdict.FAIL), (1.5, "improved", Verdict.FAIL),
        (0.6, "no_change", Verdict.FAIL), (1.0, "no_change", Verdict.PASS), (1.5, "no_change", Verdict.FAIL),
        (0.6, "not_worse", Verdict.PASS), (1.0, "not_worse", Verdict.PASS), (1.5, "not_worse", Verdict.FAIL),
        (0.6, "worse", Verdict.FAIL), (1.5, "worse", Verdict.PASS),
    ],
)  # fmt: skip
def test_an_expectation_is_met_or_missed(ratio: float, expect: str, verdict: Verdict) -> None:
    """A claim that is proven and not what was expected fails: no change is no pass of an improvement."""
    metric = METRIC.model_dump() | {"expect": expect}
    assert checked(samples(times(8, ratio, noise=0.02)), metrics=[metric]).verdict == verdict


def test_what_is_not_proven_is_neither_passed_nor_missed() -> None:
    """And says how many rounds would tell."""
    one = checked(samples(times(4, 0.85, noise=0.1)))
    assert one.verdict == Verdict.NOT_PROVEN
    assert one.reason.endswith("rounds would tell")


def test_no_round_is_no_data() -> None:
    """A proof whose runs all failed never passes."""
    found = samples(times(3, 0.5), problems={(n, "after"): "3 of 5 jobs failed" for n in (1, 2, 3)})
    assert checked(found).verdict == Verdict.NO_DATA
    summary = analysis.summarize(recording(found))
    assert summary["bulk_copy"].left_out == ["3 of 5 jobs failed"]


def test_different_checksums_make_any_speed_invalid() -> None:
    """A variant that is twice as fast and stores something else is no fix."""
    one = checked(samples(times(8, 0.5), checksums={"before": "1000-aa", "after": "1000-bb"}))
    assert one.verdict == Verdict.INVALID
    assert "checksums" in one.reason


def test_a_run_without_a_checksum_beside_one_with_it_is_not_equal() -> None:
    """An audit that could not be made on one side proves nothing of the other."""
    assert checked(samples(times(8, 0.5), checksums={"before": ""})).verdict == Verdict.INVALID


@pytest.mark.parametrize(("after", "verdict"), [({"records": 999}, Verdict.INVALID), ({"failed": 1}, Verdict.INVALID), ({}, Verdict.PASS)])
def test_counters_that_must_be_equal_are(after: dict[str, int], verdict: Verdict) -> None:
    """Fewer rows are less work, not more speed; the message says which."""
    one = checked(samples(times(8, 0.5), counters={"after": after}))
    assert one.verdict == verdict
    assert verdict == Verdict.PASS or next(iter(after)) in one.reason


def test_other_counters_may_differ_and_are_compared_exactly() -> None:
    """Requests are what a fix may save; the same every round, their ratio needs no interval."""
    found = samples(times(8, 0.5), counters={"before": {"requests": 30}, "after": {"requests": 10}})
    summary = analysis.summarize(recording(found))["bulk_copy"]
    one = next(counter for counter in summary.counters if counter.name == "requests")
    assert (one.before, one.after, one.ratio, one.steady, one.equal) == ("30", "10", pytest.approx(1 / 3), True, False)


def test_a_control_that_moved_takes_the_proof_back() -> None:
    """A stage that the change cannot touch got faster too: the session drifted, and 40 % prove nothing."""
    found = samples(times(8, 0.6), clocks={"after": {"machine_s": 0.012}})
    one = checked(found, controls=["machine_s"])
    assert one.verdict == Verdict.NOT_PROVEN
    assert "the session drifted: machine_s moved" in one.reason
    assert checked(samples(times(8, 0.6)), controls=["machine_s"]).verdict == Verdict.PASS


def test_no_drift_takes_back_what_was_counted() -> None:
    """A counter that is the same every round has no clock in it."""
    metrics = [METRIC.model_dump(), Metric(name="requests", better="lower", smallest_effect=0.1).model_dump()]
    counted = {"before": {"requests": 30}, "after": {"requests": 10}}
    found = samples(times(8, 0.6), counters=counted, clocks={"after": {"machine_s": 0.012}})
    clock, counter = analysis.summarize(recording(found, {"bulk_copy": proof(metrics=metrics, controls=["machine_s"])}))[
        "bulk_copy"
    ].differences
    assert (clock.change, counter.change) == (Change.NOT_PROVEN, Change.IMPROVED)


def test_sides_between_which_more_lies_than_the_change_prove_nothing() -> None:
    """Another host is shown as what it is."""
    summary = analysis.summarize(recording(samples(times(8, 0.6)), differs=("host: a before, b after",)))
    assert summary["bulk_copy"].main.change == Change.NOT_PROVEN
    assert "host: a before, b after" in summary["bulk_copy"].main.reason


def test_warm_ups_are_in_no_result() -> None:
    """Round 0 is recorded and not counted."""
    cold = samples([(0, "before", 50.0), (0, "after", 0.01)])
    warm = samples(times(8, 0.6))
    both = analysis.summarize(recording([*cold, *warm]))["bulk_copy"]
    assert both.differences == analysis.summarize(recording(warm))["bulk_copy"].differences


def test_promise_and_prediction_stand_beside_what_was_measured() -> None:
    """Each as the part that is saved."""
    question = proof(promised={"low": 0.25, "high": 0.35}, what_if="insert at no cost")
    baselines = {"bulk_copy": Baseline(what_if={"as recorded": 0.0, "insert at no cost": 0.6})}
    one = analysis.summarize(recording(samples(times(8, 0.6)), {"bulk_copy": question}, baselines=baselines))["bulk_copy"]
    assert (one.promised_low_ratio, one.promised_high_ratio, one.predicted_ratio) == (0.25, 0.35, 0.6)
    assert one.saved_ratio == pytest.approx(0.4, abs=0.03)


def test_all_claims_of_a_run_are_one_family() -> None:
    """The p value of a claim is counted as often as there are claims that are less likely by chance."""
    names = [f"p{i}" for i in range(4)]
    found = [sample for i, name in enumerate(names) for sample in samples(times(8, 0.8, seed=i), name=name)]
    summary = analysis.summarize(recording(found, {name: proof() for name in names}))
    p = sorted((one.main.p or 0, one.main.p_family or 0) for one in summary.values())
    assert p[0][1] == pytest.approx(4 * p[0][0])
    assert p[-1][1] >= p[-1][0]
