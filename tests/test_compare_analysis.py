"""A comparison's verdicts: counters before clocks, equal work or none, controls that veto, and expectations that are met or not."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from comparisons import METRIC, proof, recording, samples, times

from tapecheck.compare import analysis
from tapecheck.compare import samples as counters
from tapecheck.compare.difference import Change
from tapecheck.compare.plan import Metric, Question
from tapecheck.compare.samples import pairs
from tapecheck.verdict import Check, Verdict


def checked(found: list[Any], **question: Any) -> Check:
    questions = {"bulk_copy": proof(**question)}
    (one,) = analysis.check(analysis.summarize(recording(found, questions)), questions)
    return one


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


def test_no_round_is_no_data() -> None:
    """A proof whose runs all failed never passes."""
    found = samples(times(3, 0.5), problems={(n, "after"): "3 of 5 jobs failed" for n in (1, 2, 3)})
    assert checked(found).verdict == Verdict.NO_DATA
    summary = analysis.summarize(recording(found))
    assert summary["bulk_copy"].left_out == ["3 of 5 jobs failed"]


@pytest.mark.parametrize(
    ("counters", "checksums", "said"),
    [
        ({"after": {"records": 999}}, {}, "records 1,000 before, 999 after"),
        ({"after": {"failed": 1}}, {}, "failed 0 before, 1 after"),
        ({}, {"before": "1000-aa", "after": "1000-bb"}, "checksums"),
        ({}, {"before": ""}, "checksums"),  # an audit that could not be made on one side proves nothing of the other
    ],
)
def test_a_variant_that_did_something_else_is_invalid_however_fast(
    counters: dict[Any, dict[str, int]], checksums: dict[Any, str], said: str
) -> None:
    """Fewer rows are less work, not more speed; the message says which."""
    one = checked(samples(times(8, 0.5), counters=counters, checksums=checksums))
    assert one.verdict == Verdict.INVALID and said in one.reason


def test_other_counters_may_differ_and_are_compared_exactly() -> None:
    """Requests are what a fix may save; the same every round, their ratio needs no interval."""
    found = samples(times(8, 0.5), counters={"before": {"requests": 30}, "after": {"requests": 10}})
    summary = analysis.summarize(recording(found))["bulk_copy"]
    one = next(counter for counter in summary.counters if counter.name == "requests")
    assert (one.before, one.after, one.ratio, one.steady, one.equal) == ("30", "10", pytest.approx(1 / 3), True, False)


@pytest.mark.parametrize(
    ("ratio", "drift", "verdict"),
    [
        (0.6, 0.6, Verdict.NOT_PROVEN),  # the machine got faster by as much
        (0.3, 0.6, Verdict.PASS),  # by less than what was found and what matters
        (0.6, 1.7, Verdict.PASS),  # and slower, in spite of which the fix was faster
        (1.0, 1.7, Verdict.NOT_PROVEN),  # nothing to be said of
    ],
)
def test_a_drift_takes_back_only_what_it_may_have_made(ratio: float, drift: float, verdict: Verdict) -> None:
    """With the drift taken out of it, a claim has to stand."""
    found = samples(times(8, ratio, noise=0.01), clocks={"after": {"machine_s": 0.02 * drift}})
    assert checked(found, controls=["machine_s"]).verdict == verdict


@pytest.mark.parametrize("is_worse", [False, True])
def test_a_drift_takes_back_what_its_interval_allows_it_to_have_made(is_worse: bool) -> None:
    """A proof of 30 % stands where the machine got faster by 20 %, and does not where that is 10 to 27 % for all that is known."""

    def verdict(noise: float) -> Verdict:
        drift = [sample.clocks["duration_s"] for sample in samples(times(8, 1 / 0.8 if is_worse else 0.8, noise=noise, seed=1))]
        found = samples(times(8, 1 / 0.7 if is_worse else 0.7, noise=0.005))
        every = [replace(one, clocks={**one.clocks, "machine_s": d}) for one, d in zip(found, drift, strict=True)]
        return checked(
            every, controls=["machine_s"], metrics=[METRIC.model_dump() | {"expect": "worse" if is_worse else "improved"}]
        ).verdict

    assert (verdict(0.005), verdict(0.12)) == (Verdict.PASS, Verdict.NOT_PROVEN)


def test_no_drift_takes_back_what_was_counted() -> None:
    """A counter that is the same every round has no clock in it."""
    metrics = [METRIC.model_dump(), Metric(name="requests", better="lower", smallest_effect=0.1).model_dump()]
    counted = {"before": {"requests": 30}, "after": {"requests": 10}}
    found = samples(times(8, 0.6), counters=counted, clocks={"after": {"machine_s": 0.012}})
    clock, counter = analysis.summarize(recording(found, {"bulk_copy": proof(metrics=metrics, controls=["machine_s"])}))[
        "bulk_copy"
    ].differences
    assert (clock.change, counter.change) == (Change.NOT_PROVEN, Change.IMPROVED)


def test_warm_ups_are_in_no_result() -> None:
    """Round 0 is recorded and not counted."""
    cold = samples([(0, "before", 50.0), (0, "after", 0.01)])
    warm = samples(times(8, 0.6))
    both = analysis.summarize(recording([*cold, *warm]))["bulk_copy"]
    assert both.differences == analysis.summarize(recording(warm))["bulk_copy"].differences


def test_the_metrics_of_a_proof_are_one_family() -> None:
    """The p value of a claim is counted as often as there are claims that are less likely by chance; another proof's are its own."""
    metrics = [METRIC.model_copy(update={"name": name}).model_dump() for name in ("duration_s", "fetch_s", "insert_s")]
    noise = np.random.default_rng(3).normal(0, 0.05, (8, 2))
    one = [
        replace(sample, clocks={**sample.clocks, "fetch_s": sample.clocks["duration_s"] * (1 + a), "insert_s": 1 + b})
        for sample, (a, b) in zip(samples(times(4, 0.8)), noise, strict=True)
    ]
    summary = analysis.summarize(
        recording([*one, *samples(times(8, 0.8), name="alone")], {"bulk_copy": proof(metrics=metrics), "alone": proof()})
    )
    p = sorted((found.p or 0, found.p_family or 0) for found in summary["bulk_copy"].differences)
    assert p[0][1] == pytest.approx(3 * p[0][0])
    assert p[-1][1] >= p[-1][0]
    assert summary["alone"].main.p_family == summary["alone"].main.p


def test_a_fix_that_fails_requests_is_invalid_however_fast() -> None:
    """One in a thousand may fail; more only where as many failed before."""
    question = Question.model_validate({"validation": "load", "says": "x", "metrics": [METRIC.model_dump() | {"name": "mean_ms"}]})

    def verdict(before: int, after: int) -> Verdict:
        counted = {"before": {"requests": 1000, "failed": before}, "after": {"requests": 3000, "failed": after}}
        found = recording(samples(times(8, 0.5), metric="mean_ms", counters=counted), {"bulk_copy": question})
        (check,) = analysis.check(analysis.summarize(found), found.context.questions)
        return check.verdict

    assert [verdict(0, 0), verdict(0, 3), verdict(10, 30)] == [Verdict.PASS] * 3
    assert [verdict(0, 4), verdict(10, 31), verdict(0, 3000)] == [Verdict.INVALID] * 3


def test_rounds_that_do_not_count_are_said_and_too_few_prove_nothing() -> None:
    """With two of eight lost the claim stands and says so; with three left it does not, nor where most are lost."""
    lost = {(number, "after"): "the generator's event loop lagged" for number in (1, 2)}
    one = checked(samples(times(8, 0.5), problems=lost))
    assert one.verdict == Verdict.PASS and one.reason.endswith("2 of 8 rounds do not count")
    three = checked(samples(times(8, 0.5), problems={(number, "after"): "x" for number in range(1, 6)}))
    assert three.verdict == Verdict.NOT_PROVEN and three.reason.startswith("only 3 of 8 rounds count")
    few = checked(samples(times(4, 0.5), problems={(1, "after"): "x"}))
    assert few.verdict == Verdict.NOT_PROVEN and few.reason.startswith("3 rounds give no confidence interval")


def test_what_is_invalid_keeps_no_claim_not_even_a_counted_one() -> None:
    """Fewer requests for another result are no improvement."""
    metrics = [Metric(name="requests", better="lower", smallest_effect=0.1).model_dump()]
    counted = {"before": {"requests": 30}, "after": {"requests": 10, "records": 900}}
    one = checked(samples(times(8, 0.6), counters=counted), metrics=metrics)
    assert one.verdict == Verdict.INVALID


def test_the_bound_of_a_check_is_the_end_that_counts_against_it() -> None:
    """The upper one of an improvement, the lower one of a regression that was expected."""
    good, bad = checked(samples(times(8, 0.6))), checked(samples(times(8, 1.6)), metrics=[METRIC.model_dump() | {"expect": "worse"}])
    assert (good.verdict, good.n, good.objective) == (Verdict.PASS, 8, "duration_s ratio <= 0.9")
    assert good.bound is not None and good.value is not None and good.value < good.bound < 0.9
    assert bad.bound is not None and bad.value is not None and bad.bound < bad.value


def test_counters_are_equal_when_they_are_so_in_every_round() -> None:
    """One round that differs is found, wherever it is."""
    found = samples(times(4, 1.0))
    found[-1] = replace(found[-1], counters={**found[-1].counters, "records": 7})
    assert [one.equal for one in counters.counter_changes(pairs(found)) if one.name == "records"] == [False]
