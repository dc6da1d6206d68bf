"""A comparison's verdicts, simulated and planted: counters before clocks, controls that veto, looks that decide, and findings."""

import dataclasses
import re
import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, get_args

import numpy as np
import pytest
from comparisons import INSERT_LIMITS, METRIC, OPENED, checked, expecting, plan, proof, recording, samples, summary, times
from hypothesis import given, settings
from hypothesis import strategies as st

from tapecheck.compare import analysis, difference, findings, session
from tapecheck.compare.analysis import ProofSummary
from tapecheck.compare.difference import Change, pairs
from tapecheck.compare.plan import AFTER, ComparePlan, Expected, Metric, Proof, Question, Variant
from tapecheck.compare.recording import Baseline, Recording, Sample
from tapecheck.compare.session import RunFigures
from tapecheck.compare.validation import compare
from tapecheck.errors import ConfigError
from tapecheck.runs.results import Finding
from tapecheck.statistics import paired
from tapecheck.verdict import Check, Verdict


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


# ---- sessions until a look decides ----

SIMULATED, FEW = 50, 200  # sessions, and resamples of each interval
QUESTION = proof(rounds={"least": 4, "most": 24})
EDGE = METRIC.limits[0]  # a truth of which "improved" and "no change" are both false claims


@cache
def sessions(ratio: float, noise: float, *, skewed: bool = False, smallest_effect: float = METRIC.smallest_effect) -> list[ProofSummary]:
    """Return what many sessions of a known truth say, each at the look that decided it."""
    question = QUESTION.model_copy(update={"metrics": (METRIC.model_copy(update={"smallest_effect": smallest_effect}),)})
    every = (samples(times(24, ratio, noise=noise, seed=seed, skewed=skewed)) for seed in range(SIMULATED))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paired, "RESAMPLES", FEW)
        return [analysis.of_proof(question, one, seed=seed) for seed, one in enumerate(every)]


def share(found: list[ProofSummary], change: Change) -> float:
    return sum(one.main.change == change for one in found) / len(found)


def covered(found: list[ProofSummary], truth: float) -> float:
    """Return in how many sessions the interval at which they ended has the truth in it."""
    ends = [one.main.ratio for one in found]
    return sum(one.low <= truth <= one.high for one in ends if one and one.low is not None and one.high is not None) / len(found)


def test_a_variant_beside_itself_is_hardly_ever_claimed_to_differ() -> None:
    """In at most 5 % of A/A sessions over all looks, also of an effect so small that noise alone reaches it; the interval has the truth."""
    found = sessions(1.0, 0.1, smallest_effect=0.001)
    assert share(found, Change.IMPROVED) + share(found, Change.WORSE) <= 0.05
    assert covered(found, 1.0) >= 0.95


def test_a_truth_on_the_limit_is_hardly_ever_claimed_to_lie_beyond_or_within() -> None:
    """The hardest case: each claim is false there, and looking again and again makes one in at most 5 % of sessions to either side."""
    found = sessions(EDGE, 0.1)
    assert max(share(found, Change.IMPROVED), share(found, Change.NO_CHANGE)) <= 0.05


@pytest.mark.parametrize(("skewed", "least"), [(False, 0.93), (True, 0.9)])
def test_the_interval_at_which_a_session_ends_covers_the_truth(skewed: bool, least: float) -> None:
    """As often as it says, although it is the claim that ends a session; of skewed noise in at least 90 %."""
    assert covered(sessions(EDGE, 0.1, skewed=skewed), EDGE) >= least


def test_a_planted_difference_of_20_percent_is_found() -> None:
    """A loss as surely as a gain: in at least 95 % of sessions, with noise of 8 % a run."""
    assert share(sessions(1 / 0.8, 0.08), Change.WORSE) >= 0.95


def test_that_nothing_changed_is_proven_where_it_is_quiet() -> None:
    """In at least 95 % of sessions of 3.5 % noise a run."""
    assert share(sessions(1.0, 0.035), Change.NO_CHANGE) >= 0.95


def test_a_clear_difference_takes_few_rounds_and_a_close_one_more() -> None:
    """What halves a time is mostly decided at the second look; what lies on the limit has all rounds."""
    gains = sessions(0.5, 0.035)
    assert share(gains, Change.IMPROVED) >= 0.95
    medians = [statistics.median(one.planned_rounds for one in found) for found in (gains, sessions(1 / 0.8, 0.08), sessions(EDGE, 0.1))]
    assert medians[0] == 6 < medians[1] < medians[2] == 24


# ---- a session of its own ----

Clocks = Callable[[int, Variant], Mapping[str, float]]


def session_of(
    asked: ComparePlan, clocks: Clocks, *, counted: Mapping[str, Mapping[str, int]] | None = None, failing: int = 0
) -> Recording:
    """Measure a plan whose runs, counted from 0 in each proof, have these clocks; so many of the first do not count."""
    ran: dict[str, int] = {}

    def measuring(variant: Variant) -> RunFigures:
        at = ran[variant.proof] = ran.get(variant.proof, -1) + 1
        counters = {"records": 10, "failed": 0, "requests": 9, **(counted or {}).get(variant.side, {})}
        problem = "the generator used 99% of its core" if at < failing else ""
        return RunFigures(
            sample=Sample(clocks={"machine_s": 0.02, **clocks(at, variant)}, counters=counters, checksum="10-0", problem=problem)
        )

    return session.measure(asked, OPENED, measuring, lambda: sum(ran.values()))


def measured(clocks: Clocks, *, counted: Mapping[str, Mapping[str, int]] | None = None, **question: Any) -> ProofSummary:
    """Return what a session of one proof says."""
    asked = plan({"least": 4, "most": 12}, bulk_copy=proof(**question))
    found = session_of(asked, clocks, counted=counted)
    one = analysis.summarize(found, asked)["bulk_copy"]
    assert len(found.samples) == 2 * one.planned_rounds
    return one


def halved(at: int, variant: Variant) -> Mapping[str, float]:
    return {"duration_s": (0.5 if variant.side == AFTER else 1.0) * (1.001 if at % 3 else 1.0)}


def noisy(at: int, variant: Variant) -> Mapping[str, float]:
    return {"duration_s": (1.0, 1.6, 1.0, 1.5, 1.6, 1.0, 1.55, 1.0)[at % 8] * (1 + at % 3 / 10)}


def test_a_session_ends_with_the_look_that_decides() -> None:
    """What is clear after four rounds has no fifth; what never is has all that the plan allows."""
    assert (measured(halved).planned_rounds, measured(noisy).planned_rounds) == (4, 12)


def test_a_drift_leads_to_more_rounds_and_a_passing_one_to_a_verdict() -> None:
    """A control that moved in the first four rounds and holds still from then on does not take back what twelve rounds say."""

    def drifting(until: int) -> Clocks:
        slow = lambda at, variant: {"machine_s": 0.01 if variant.side == AFTER and at < until else 0.02 + at % 5 / 1e4}  # noqa: E731
        return lambda at, variant: {**halved(at, variant), **slow(at, variant)}

    passing, lasting = (measured(drifting(until), controls=["machine_s"]) for until in (8, 99))
    assert passing.main.change == Change.IMPROVED and 4 < passing.planned_rounds <= 12
    assert (lasting.main.change, lasting.planned_rounds) == (Change.NOT_PROVEN, 12)
    assert lasting.main.reason.startswith("the session drifted")


def test_variants_that_differ_in_what_they_did_have_no_further_rounds() -> None:
    """A faster way to another result stays one, however often it is measured."""
    found = measured(noisy, counted={AFTER: {"records": 9}})
    assert found.invalid is not None and found.planned_rounds == 4


def both(at: int, variant: Variant) -> Mapping[str, float]:
    return {**halved(at, variant), "insert_s": noisy(at, variant)["duration_s"]}


def test_every_metric_has_to_be_decided() -> None:
    """The first one is after four rounds; the second takes all of them."""
    found = measured(both, metrics=[METRIC.model_dump(), METRIC.model_dump() | {"name": "insert_s"}])
    assert [one.change for one in found.differences] == [Change.IMPROVED, Change.NOT_PROVEN]
    assert found.planned_rounds == 12


@pytest.mark.parametrize(("failing", "rounds", "verdict"), [(99, 8, Verdict.NO_DATA), (8, 8, Verdict.PASS), (15, 8, Verdict.NO_DATA)])
def test_rounds_that_do_not_count_lead_to_more_of_them(failing: int, rounds: int, verdict: Verdict) -> None:
    """What was in the way of the first four may pass; after eight in vain nothing is hoped for."""
    asked = plan({"least": 4, "most": 24})
    found = session_of(asked, halved, failing=failing)
    (check,) = analysis.check(analysis.summarize(found, asked), asked.asked())
    assert (len(found.samples), check.verdict) == (2 * rounds, verdict)


# ---- another plan ----

METRICS = st.lists(
    st.builds(
        Metric,
        name=st.sampled_from(["duration_s", "insert_s", "requests", "fetch_s"]),
        better=st.just("lower"),
        smallest_effect=st.sampled_from([0.02, 0.1, 0.45]),
        expect=st.sampled_from(get_args(Expected)),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda metric: metric.name,
)
ROUNDS = st.sampled_from([{"least": 4, "most": 24}, {"least": 4, "most": 8}, {"least": 6, "most": 6}, {"least": 8, "most": 16}])
CONTROLS = st.sampled_from([(), ("machine_s",)])
SAME_COUNTERS = st.sampled_from([None, (), ("requests",)])
LONGEST = plan({"least": 24, "most": 24}, one=proof(), other=proof())


def drifting_slowly(at: int, variant: Variant) -> Mapping[str, float]:
    return {**both(at, variant), "fetch_s": 1 + at % 7 / 10, "machine_s": 0.02 * (0.7 if variant.side == AFTER else 1.0) + at % 5 / 1e4}


def judged(found: Recording, asked: ComparePlan) -> list[Check]:
    return compare.analyse(found, asked).checks


@settings(max_examples=12)
@given(metrics=METRICS, rounds=ROUNDS, controls=CONTROLS, same=SAME_COUNTERS, is_method=st.booleans(), seed=st.integers(0, 9))
def test_a_verdict_under_another_plan_is_that_of_a_measurement_under_it(
    metrics: list[Metric], rounds: Any, controls: Any, same: Any, is_method: bool, seed: int
) -> None:
    """Whatever is asked of the same variants: another metric, effect, direction, control, counter, number of rounds or seed."""
    question = {"metrics": [m.model_dump() for m in metrics], "controls": controls, "same": same, "method_check": is_method}
    asked = plan(rounds, one=proof(**question), other=proof()).model_copy(update={"seed": seed})
    fresh = session_of(asked, drifting_slowly, counted={AFTER: {"requests": 5}})
    long = session_of(LONGEST, drifting_slowly, counted={AFTER: {"requests": 5}})
    assert judged(long, asked) == judged(fresh, asked)


def test_a_plan_that_needs_more_rounds_than_there_are_is_not_proven_by_them() -> None:
    """How it would have gone on nobody knows; more rounds than a plan has are not looked at."""
    found = session_of(plan({"least": 4, "most": 6}), noisy)
    (check,) = judged(found, plan({"least": 4, "most": 24}))
    assert check.verdict == Verdict.NOT_PROVEN and "the recording ends after 6 rounds, the plan goes on to 24" in check.reason
    (check,) = judged(found, plan({"least": 4, "most": 4}))
    assert check.n == 4 and "the recording ends" not in check.reason
    seeded = plan({"least": 4, "most": 6}).model_copy(update={"seed": 1})
    assert judged(found, seeded) != judged(found, plan({"least": 4, "most": 6})), "the bootstrap's seed is the plan's too"


# ---- A/A tests ----


@pytest.mark.parametrize(
    ("clocks", "expect", "verdict", "said"),
    [
        (noisy, "no_claim", Verdict.PASS, "no difference claimed"),
        (noisy, "no_change", Verdict.NOT_PROVEN, "its 95 % interval reaches to both sides"),
        (halved, "no_claim", Verdict.FAIL, "improved"),
        (lambda at, variant: {}, "no_claim", Verdict.NO_DATA, "no round has this figure"),
    ],
)
def test_an_a_a_test_is_met_when_nothing_is_claimed(clocks: Clocks, expect: str, verdict: Verdict, said: str) -> None:
    """Noise proves neither change nor equality; an A/A test asks for neither, and without a figure for all that never passes."""
    asked = plan({"least": 4, "most": 12}, bulk_copy=proof(metrics=expecting(expect)))
    (check,) = judged(session_of(asked, clocks), asked)
    assert check.verdict == verdict and said in check.reason


@pytest.mark.parametrize("clocks", [noisy, halved, lambda at, variant: {"duration_s": 1 + at % 3 / 1e3}], ids=["noise", "gain", "same"])
def test_an_a_a_test_of_a_session_that_drifted_has_no_verdict(clocks: Clocks) -> None:
    """Whatever its rounds would claim without it, after all rounds that the plan allows; a gain in spite of a slower machine is one."""
    slow = lambda at, variant: {**clocks(at, variant), "machine_s": (0.04 if variant.side == AFTER else 0.02) + at % 5 / 1e4}  # noqa: E731
    asked = plan({"least": 4, "most": 12}, bulk_copy=proof(metrics=expecting("no_claim"), controls=["machine_s"]))
    found = session_of(asked, slow)
    (check,) = judged(found, asked)
    is_gain = clocks is halved
    assert (check.verdict, len(found.samples)) == ((Verdict.FAIL, 8) if is_gain else (Verdict.NOT_PROVEN, 24))
    assert is_gain or "the session drifted" in check.reason


def a_a(found: list[Sample], *, differs: int = 0, rounds: int = 4, controls: tuple[str, ...] = ()) -> Check:
    """Return the check of an A/A test of these runs."""
    return checked(found, differs=differs, metrics=expecting("no_claim"), rounds={"least": rounds, "most": 24}, controls=controls)


def test_an_a_a_test_in_doubt_has_no_verdict() -> None:
    """Where more lies between the sides, or most rounds do not count, or fewer than the plan's least."""
    same = samples(times(8, 1.0, noise=0.1))
    lost = {(number, "after"): "x" for number in (1, 2)}
    assert a_a(same).verdict == Verdict.PASS
    assert a_a(same, differs=1).verdict == Verdict.NOT_PROVEN
    few = a_a(samples(times(8, 1.0, noise=0.1), problems=lost), rounds=8)
    assert few.verdict == Verdict.NOT_PROVEN and "at least 8 rounds needed, 6 measured" in few.reason


def test_an_a_a_test_says_what_it_could_not_have_seen() -> None:
    """One with an interval from almost nothing to a hundred times says hardly anything, and says that."""
    wide, narrow = (a_a(samples(times(8, 1.0, noise=noise))) for noise in (2.0, 0.1))
    below, above = seen(narrow)
    assert 0.5 < below < 0.9 and 1 / 0.9 < above < 2
    assert wide.verdict == narrow.verdict == Verdict.PASS
    assert seen(wide)[0] < 0.1 and seen(wide)[1] > 10


def seen(check: Check) -> tuple[float, float]:
    """Return the ratios from which on an A/A test would have claimed a difference, as its reason says."""
    found = re.search(r"only a ratio below (\S+) or above (\S+) would have been claimed", check.reason)
    assert found, check.reason
    return float(found[1].replace(",", "")), float(found[2].replace(",", ""))


# ---- a generator that lags ----

EVERY = set(range(1, 9))


@pytest.mark.parametrize(
    ("ratio", "sides", "change", "said"),
    [
        (1.0, {"before": {3}, "after": {3}}, Change.NOT_PROVEN, "in 1 of 8 rounds the load generator lagged, which hides differences"),
        (0.5, {"before": {3}, "after": {3}}, Change.IMPROVED, ""),
        (2.0, {"before": {3}, "after": {3}}, Change.WORSE, ""),
        (2.0, {"after": EVERY}, Change.NOT_PROVEN, "which may have made"),  # what got worse is what lagged
        (2.0, {"before": EVERY}, Change.WORSE, ""),  # it got worse in spite of the lag
        (0.5, {"before": EVERY}, Change.NOT_PROVEN, "which may have made"),
        (0.5, {"after": EVERY}, Change.IMPROVED, ""),
        (2.0, {"after": EVERY, "before": {8}}, Change.NOT_PROVEN, "which may have made"),  # one round on the other side is no excuse
        (0.5, {"before": EVERY - {1, 2}, "after": {3}}, Change.NOT_PROVEN, "which may have made"),  # three rounds are left
        (2.0, {"after": {1, 2}}, Change.WORSE, ""),  # the other six rounds say it too
        (1.0, {"before": {1}}, Change.NOT_PROVEN, "which hides differences"),
    ],
)
def test_lag_makes_no_difference_to_its_own_account(ratio: float, sides: dict[str, set[int]], change: Change, said: str) -> None:
    """It proves no equality, and a claim that one side is slower has to stand without the rounds in which that side alone lagged."""
    runs = samples(times(8, ratio, noise=0.01))
    late = [replace(one, late="the generator's event loop lagged 30 ms" if one.round in sides.get(one.side, ()) else "") for one in runs]
    one = analysis.of_proof(proof(), late)
    assert (one.main.change, one.late) == (change, len(set().union(*sides.values())))
    assert said in one.main.reason
    assert (change == Change.NOT_PROVEN) == ("measure again on a quieter machine or at a lower rate" in one.main.reason)
