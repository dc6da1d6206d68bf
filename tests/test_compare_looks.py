"""Rounds until a proof is decided, simulated: all looks together are wrong as seldom as one is, and no surer proof takes all rounds."""

import re
import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, get_args

import pytest
from comparisons import METRIC, OPENED, checked, expecting, plan, proof, samples, times
from hypothesis import given, settings
from hypothesis import strategies as st

from tapecheck.compare import analysis, session
from tapecheck.compare.analysis import ProofSummary
from tapecheck.compare.difference import Change
from tapecheck.compare.plan import AFTER, ComparePlan, Expected, Metric, Variant
from tapecheck.compare.recording import Recording, Sample
from tapecheck.compare.session import RunFigures
from tapecheck.compare.validation import compare
from tapecheck.verdict import Check, Verdict

SIMULATED, FEW = 50, 200  # sessions, and resamples of each interval
QUESTION = proof(rounds={"least": 4, "most": 24})
EDGE = METRIC.limits[0]  # a truth of which "improved" and "no change" are both false claims


@cache
def sessions(ratio: float, noise: float, *, skewed: bool = False, smallest_effect: float = METRIC.smallest_effect) -> list[ProofSummary]:
    """Return what many sessions of a known truth say, each at the look that decided it."""
    question = QUESTION.model_copy(update={"metrics": (METRIC.model_copy(update={"smallest_effect": smallest_effect}),)})
    every = (samples(times(24, ratio, noise=noise, seed=seed, skewed=skewed)) for seed in range(SIMULATED))
    return [analysis.of_proof(question, one, seed=seed, resamples=FEW) for seed, one in enumerate(every)]


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
