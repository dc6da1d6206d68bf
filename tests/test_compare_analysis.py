"""A comparison's verdicts: counters before clocks, equal work or none, controls that veto, expectations met or missed, and findings."""

import dataclasses
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from comparisons import INSERT_LIMITS, METRIC, checked, expecting, plan, proof, recording, samples, summary, times

from tapecheck.compare import analysis, difference, findings
from tapecheck.compare.difference import Change, pairs
from tapecheck.compare.plan import Metric, Proof, Question
from tapecheck.compare.recording import Baseline, Sample
from tapecheck.errors import ConfigError
from tapecheck.runs.results import Finding
from tapecheck.verdict import Verdict


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
    assert checked(samples(times(8, ratio, noise=0.02)), metrics=expecting(expect)).verdict == verdict


@pytest.mark.parametrize(
    ("counted", "checksums", "said"),
    [
        ({"after": {"records": 999}}, {}, "records 1,000 before, 999 after"),
        ({"after": {"failed": 1}}, {}, "failed 0 before, 1 after"),
        ({"after": {"requests": 10, "records": 900}}, {}, "records 1,000 before, 900 after"),
        ({}, {"before": "1000-aa", "after": "1000-bb"}, "checksums"),
        ({}, {"before": ""}, "checksums"),  # an audit that could not be made on one side proves nothing of the other
    ],
)
@pytest.mark.parametrize("metric", ["duration_s", "requests"])
def test_a_variant_that_did_something_else_is_invalid_however_fast(
    counted: dict[Any, dict[str, int]], checksums: dict[Any, str], said: str, metric: str
) -> None:
    """Fewer rows are less work, not more speed, whether a clock says so or a counter; the message says which."""
    metrics = [METRIC.model_dump() | {"name": metric}]
    one = checked(
        samples(
            times(8, 0.5), counters={"before": {"requests": 30}, "after": {"requests": 10} | counted.get("after", {})}, checksums=checksums
        ),
        metrics=metrics,
    )
    assert one.verdict == Verdict.INVALID and said in one.reason


def test_other_counters_may_differ_and_are_compared_exactly() -> None:
    """Requests are what a fix may save; the same every round, their ratio needs no interval. One round that differs is found."""
    found = samples(times(8, 0.5), counters={"before": {"requests": 30}, "after": {"requests": 10}})
    one = next(counter for counter in summary(found)["bulk_copy"].counters if counter.name == "requests")
    assert (one.before, one.after, one.ratio, one.steady, one.equal) == ("30", "10", pytest.approx(1 / 3), True, False)
    found[-1] = replace(found[-1], counters={**found[-1].counters, "records": 7})
    assert [one.equal for one in difference.counter_changes(pairs(found)) if one.name == "records"] == [False]


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
        return checked(every, controls=["machine_s"], metrics=expecting("worse" if is_worse else "improved")).verdict

    assert (verdict(0.005), verdict(0.12)) == (Verdict.PASS, Verdict.NOT_PROVEN)


def test_no_drift_takes_back_what_was_counted() -> None:
    """A counter that is the same every round has no clock in it."""
    metrics = [METRIC.model_dump(), Metric(name="requests", better="lower", smallest_effect=0.1).model_dump()]
    counted = {"before": {"requests": 30}, "after": {"requests": 10}}
    found = samples(times(8, 0.6), counters=counted, clocks={"after": {"machine_s": 0.012}})
    clock, counter = summary(found, {"bulk_copy": proof(metrics=metrics, controls=["machine_s"])})["bulk_copy"].differences
    assert (clock.change, counter.change) == (Change.NOT_PROVEN, Change.IMPROVED)


def test_warm_ups_are_in_no_result() -> None:
    """Round 0 is recorded and not counted."""
    cold, warm = samples([(0, "before", 50.0), (0, "after", 0.01)]), samples(times(8, 0.6))
    assert summary([*cold, *warm])["bulk_copy"].differences == summary(warm)["bulk_copy"].differences


def test_the_metrics_of_a_proof_are_one_family() -> None:
    """The p value of a claim is counted as often as there are claims that are less likely by chance; another proof's are its own."""
    metrics = [METRIC.model_copy(update={"name": name}).model_dump() for name in ("duration_s", "fetch_s", "insert_s")]
    noise = np.random.default_rng(3).normal(0, 0.05, (8, 2))
    one = [
        replace(sample, clocks={**sample.clocks, "fetch_s": sample.clocks["duration_s"] * (1 + a), "insert_s": 1 + b})
        for sample, (a, b) in zip(samples(times(4, 0.8)), noise, strict=True)
    ]
    found = summary([*one, *samples(times(8, 0.8), name="alone")], {"bulk_copy": proof(metrics=metrics), "alone": proof()})
    p = sorted((found.p or 0, found.p_family or 0) for found in found["bulk_copy"].differences)
    assert p[0][1] == pytest.approx(3 * p[0][0]) and p[-1][1] >= p[-1][0]
    assert found["alone"].main.p_family == found["alone"].main.p


def test_a_fix_that_fails_requests_is_invalid_however_fast() -> None:
    """One in a thousand may fail; more only where as many failed before."""
    question = Question.model_validate({"validation": "load", "says": "x", "metrics": [METRIC.model_dump() | {"name": "mean_ms"}]})

    def is_invalid(before: int, after: int) -> bool:
        counted = {"before": {"requests": 1000, "failed": before}, "after": {"requests": 3000, "failed": after}}
        return summary(samples(times(8, 0.5), metric="mean_ms", counters=counted), {"bulk_copy": question})["bulk_copy"].invalid is not None

    assert [is_invalid(*each) for each in ((0, 0), (0, 3), (10, 30))] == [False] * 3
    assert [is_invalid(*each) for each in ((0, 4), (10, 31), (0, 3000))] == [True] * 3


@pytest.mark.parametrize(
    ("rounds", "lost", "verdict", "said"),
    [
        (8, 2, Verdict.PASS, "2 of 8 rounds do not count"),
        (12, 7, Verdict.NOT_PROVEN, "fewer than half of its rounds count"),
        (4, 1, Verdict.NOT_PROVEN, "3 runs a side: no confidence interval"),
        (4, 4, Verdict.NO_DATA, "4 of 4 rounds do not count"),
    ],
)
def test_rounds_that_do_not_count_are_said_and_too_few_prove_nothing(rounds: int, lost: int, verdict: Verdict, said: str) -> None:
    """With two of eight lost the claim stands and says so; a proof whose runs all failed never passes."""
    found = samples(times(rounds, 0.5), problems={(number, "after"): "the generator lagged" for number in range(1, lost + 1)})
    one = checked(found)
    assert one.verdict == verdict and said in one.reason
    assert summary(found)["bulk_copy"].left_out == ["the generator lagged"]


def test_a_check_says_its_figures_first_and_has_the_end_that_counts_against_it() -> None:
    """The upper one of an improvement, the lower one of a regression that was expected; one round has none."""
    good, bad = checked(samples(times(8, 0.6))), checked(samples(times(8, 1.6)), metrics=expecting("worse"))
    assert (good.verdict, good.n, good.objective) == (Verdict.PASS, 8, "duration_s ratio <= 0.9")
    assert good.bound is not None and good.value is not None and good.value < good.bound < 0.9
    assert bad.bound is not None and bad.value is not None and bad.bound < bad.value
    for differs in (0, 3):
        one = checked(samples([(1, "before", 34.5), (1, "after", 15.6)]), differs=differs)
        assert one.reason == "duration 34.5 -> 15.6 s (-55 %), one run a side: no confidence interval"
    doubtful = checked(samples(times(8, 0.6)), differs=3)
    assert doubtful.verdict == Verdict.NOT_PROVEN and doubtful.reason.endswith("%), more differs between the sides than the change")


# ---- under another plan ----


def test_a_recording_is_refused_by_a_plan_that_is_not_its_own() -> None:
    """A proof that was renamed or removed, on either side, and one that measured other variants; each is named. A chosen one is enough."""
    both = [*samples(times(4, 0.5)), *samples(times(4, 0.5), name="other")]
    found = recording(both, plan(bulk_copy=proof(), other=proof()))
    with pytest.raises(ConfigError, match=r"proofs\.renamed: got not measured in this recording(.|\n)*bulk_copy, other"):
        analysis.summarize(found, plan(bulk_copy=proof(), other=proof(), renamed=proof()))
    with pytest.raises(ConfigError, match=r"proofs\.other: got measured, and no proof of this plan; allowed: one of bulk_copy"):
        analysis.summarize(found, plan(bulk_copy=proof()))
    with pytest.raises(ConfigError, match=r"proofs\.other: got measured with fix .*copy.*, in this plan .*executemany"):
        analysis.summarize(found, plan(bulk_copy=proof(), other=proof(fix={"insert": "executemany"})))
    chosen = plan(bulk_copy=proof(), other=proof()).chosen(("other",), 0)
    assert [*analysis.summarize(found, chosen)] == ["other"]


# ---- findings ----

FOR_INSERT = {"what_if": "insert at no cost", "answers": ["bottleneck_insert"]}
LIMITED = Baseline(found=(INSERT_LIMITS,), what_if={"insert at no cost": 0.6})


def find(found: list[Sample], baseline: Baseline = LIMITED, **questions: Proof) -> list[Finding]:
    asked = questions or {"bulk_copy": proof(**FOR_INSERT)}
    baselines = {name: baseline for name, one in asked.items() if one.answers}
    return findings.find(recording(found, plan(**asked), baselines=baselines), summary(found, asked, baselines), asked)


def test_the_baselines_bottleneck_selects_its_fix() -> None:
    """With the three figures, of which the expected one is the bottleneck's own."""
    (one,) = find(samples(times(8, 0.5)))
    assert one.name == "fix"
    begin, rest = one.finding.split(", where ")
    assert begin.startswith("bulk_copy: proven, duration ") and " s (-5" in begin
    assert rest == "25% to 35% less was expected and at most 60% less predicted; its baseline: insert takes 80 % of busy time"
    assert (one.evidence["expected_low_ratio"], one.evidence["predicted_ratio"], one.evidence["expected_saving"]) == (0.25, 0.6, "exceeded")
    assert one.evidence["saved_ratio"] == pytest.approx(0.5, abs=0.03)
    assert "store in bulk" in one.action


def test_a_fix_of_something_else_is_no_answer() -> None:
    """What limits the baseline is named as what nobody has tried to fix."""
    (one,) = find(samples(times(8, 0.5)), Baseline(found=(dataclasses.replace(INSERT_LIMITS, name="bottleneck_features"),)))
    assert one.name == "no_fix_tried"


def test_a_fix_that_is_not_proven_says_with_how_many_rounds_it_would_be() -> None:
    """And is not recommended."""
    (one,) = find(samples(times(8, 0.85, noise=0.1, seed=1)))
    assert one.name == "fix_unproven"
    assert "do not count on it yet" in one.action and "rounds" in one.action


@pytest.mark.parametrize(("ratio", "outcome"), [(0.5, "exceeded"), (0.7, "met"), (0.85, "missed"), (0.75, "not proven")])
def test_an_expected_saving_is_met_or_missed_by_its_interval(ratio: float, outcome: str) -> None:
    """25 to 35 %: at its edge, noise decides nothing."""
    found = summary(samples(times(8, ratio, noise=0.02)), {"bulk_copy": proof(**FOR_INSERT)}, {"bulk_copy": LIMITED})
    assert findings.outcome(found["bulk_copy"]) == outcome


def test_an_expected_saving_is_not_met_by_what_is_not_proven() -> None:
    """Identical variants differed as much in that session, so that even an interval within the expected saving says nothing."""
    runs = [(number, side, value * (1.0 if number % 2 else 3.0)) for number, side, value in times(8, 0.7, noise=0.001)]
    found = summary(samples(runs), {"bulk_copy": proof(**FOR_INSERT)}, {"bulk_copy": LIMITED})["bulk_copy"]
    assert found.main.ratio is not None and found.main.ratio.high is not None and 0.65 < found.main.ratio.high < 0.75
    assert findings.outcome(found) == "not proven"


def test_a_regression_speaks_first() -> None:
    """A change that does harm is the bottleneck, whatever else was proven; a proof may expect it."""
    both = [*samples(times(8, 0.5)), *samples(times(8, 1.5), name="harm")]
    said = findings.bottleneck(find(both, bulk_copy=proof(), harm=proof()))
    assert said is not None and said.name == "worse" and said.finding.startswith("harm is worse: duration 0.9")
    assert find(samples(times(8, 1.5)), bulk_copy=proof(metrics=expecting("worse"))) == []


def test_a_method_check_that_fails_says_what_not_to_believe() -> None:
    """A claim about a variant beside itself is no finding about the target."""
    (finding,) = find(samples(times(8, 1.5)), bulk_copy=proof(method_check=True, metrics=expecting("no_claim")))
    assert finding.name == "method_check"
    assert "expected no_claim" in finding.finding and "believe no proof of this session" in finding.action


def test_variants_that_did_not_do_the_same_are_named_with_their_counters() -> None:
    """A faster way to another result is no fix."""
    (finding,) = find(samples(times(8, 0.5), counters={"after": {"records": 900}}), bulk_copy=proof())
    assert (finding.name, finding.evidence) == ("not_the_same", {"records": "1,000 to 900"})


def test_the_fix_that_saves_most_is_the_bottleneck_of_the_result() -> None:
    """Where nothing does harm."""
    both = [*samples(times(8, 0.7), name="small"), *samples(times(8, 0.4), name="large")]
    said = findings.bottleneck(find(both, small=proof(**FOR_INSERT), large=proof(**FOR_INSERT)))
    assert said is not None and said.finding.startswith("large")
