"""Rounds until a proof is decided, simulated: all looks together are wrong as seldom as one is, and no surer proof takes all rounds."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from comparisons import METRIC, TARGET, plan, proof, samples, times

from tapecheck.compare import analysis, session
from tapecheck.compare.analysis import ProofSummary
from tapecheck.compare.difference import Change
from tapecheck.compare.measuring import Figures
from tapecheck.compare.plan import Rounds
from tapecheck.compare.variants import AFTER, Variant
from tapecheck.verdict import Verdict

SIMULATED, FEW = 200, 400  # sessions, and resamples of each interval
QUESTION = proof(rounds={"least": 4, "most": 24})
EDGE = METRIC.good_below  # a truth of which "improved" and "no change" are both false claims


@cache
def sessions(ratio: float, noise: float, *, skewed: bool = False) -> list[ProofSummary]:
    """Return what many sessions of a known truth say, each at the look that decided it."""
    return [until_decided(ratio, noise, seed, skewed=skewed) for seed in range(SIMULATED)]


def until_decided(ratio: float, noise: float, seed: int, *, skewed: bool) -> ProofSummary:
    every = samples(times(24, ratio, noise=noise, seed=seed, skewed=skewed))
    looks = (analysis.of_proof(QUESTION, every[: 2 * look], seed=seed, resamples=FEW) for look in Rounds().looks)
    found = next(looks)
    while not analysis.is_decided(found) and found.planned_rounds < 24:
        found = next(looks)
    return found


def share(found: list[ProofSummary], change: Change) -> float:
    return sum(one.main.change == change for one in found) / len(found)


def covered(found: list[ProofSummary], truth: float) -> float:
    """Return in how many sessions the interval at which they ended has the truth in it."""
    ends = [one.main.ratio for one in found]
    return sum(one.low <= truth <= one.high for one in ends if one and one.low is not None and one.high is not None) / len(found)


@pytest.mark.parametrize("noise", [0.035, 0.1])
def test_a_variant_beside_itself_is_hardly_ever_claimed_to_differ(noise: float) -> None:
    """In at most 5 % of A/A sessions over all looks, whatever the noise."""
    found = sessions(1.0, noise)
    assert share(found, Change.IMPROVED) + share(found, Change.WORSE) <= 0.05


def test_a_truth_on_the_limit_is_hardly_ever_claimed_to_lie_beyond_or_within() -> None:
    """The hardest case: each claim is false there, and looking again and again makes one in at most 5 % of sessions to either side."""
    found = sessions(EDGE, 0.1)
    assert max(share(found, Change.IMPROVED), share(found, Change.NO_CHANGE)) <= 0.05


@pytest.mark.parametrize(("ratio", "skewed", "least"), [(EDGE, False, 0.93), (1.0, False, 0.95), (EDGE, True, 0.9)])
def test_the_interval_at_which_a_session_ends_covers_the_truth(ratio: float, skewed: bool, least: float) -> None:
    """As often as it says, although it is the claim that ends a session; of skewed noise in at least 90 %."""
    assert covered(sessions(ratio, 0.1, skewed=skewed), ratio) >= least


@pytest.mark.parametrize("ratio", [0.8, 1 / 0.8])
def test_a_planted_difference_of_20_percent_is_found(ratio: float) -> None:
    """A loss as surely as a gain: in at least 95 % of sessions, with noise of 8 % a run."""
    assert share(sessions(ratio, 0.08), Change.IMPROVED if ratio < 1 else Change.WORSE) >= 0.95


def test_that_nothing_changed_is_proven_where_it_is_quiet() -> None:
    """In at least 95 % of sessions of 3.5 % noise a run."""
    assert share(sessions(1.0, 0.035), Change.NO_CHANGE) >= 0.95


def test_a_clear_difference_takes_few_rounds_and_a_close_one_more() -> None:
    """What halves a time is mostly decided at the second look; what lies on the limit has all rounds."""
    cases = ((0.5, 0.035), (0.8, 0.08), (EDGE, 0.1))
    medians = [statistics.median(one.planned_rounds for one in sessions(ratio, noise)) for ratio, noise in cases]
    assert medians[0] == 6 < medians[1] < medians[2] == 24


# ---- a session of its own ----

Clocks = Callable[[int, Variant], Mapping[str, float]]


def measured(clocks: Clocks, *, counted: Mapping[str, Mapping[str, int]] | None = None, **question: Any) -> ProofSummary:
    """Return what a session of one proof says whose runs, counted from 0, have these clocks."""
    ran: list[Variant] = []

    def measuring(variant: Variant) -> Figures:
        ran.append(variant)
        counters = {"records": 10, "failed": 0, **(counted or {}).get(variant.side, {})}
        return Figures(clocks={"machine_s": 0.02, **clocks(len(ran) - 1, variant)}, counters=counters, checksum="10-0")

    whole = plan(bulk_copy=proof(rounds={"least": 4, "most": 12}, **question))
    found = session.measure(whole, TARGET, measuring, lambda: len(ran))
    one = analysis.summarize(found)["bulk_copy"]
    assert len(ran) == 2 * one.planned_rounds
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


def test_every_metric_has_to_be_decided() -> None:
    """The first one is after four rounds; the second takes all of them."""
    metrics = [METRIC.model_dump(), METRIC.model_dump() | {"name": "insert_s"}]

    def both(at: int, variant: Variant) -> Mapping[str, float]:
        return {**halved(at, variant), "insert_s": noisy(at, variant)["duration_s"]}

    found = measured(both, metrics=metrics)
    assert [one.change for one in found.differences] == [Change.IMPROVED, Change.NOT_PROVEN]
    assert found.planned_rounds == 12


@pytest.mark.parametrize(
    ("clocks", "expect", "verdict", "said"),
    [
        (noisy, "no_claim", Verdict.PASS, "no difference is claimed"),
        (noisy, "no_change", Verdict.NOT_PROVEN, "its 95 % interval reaches to both sides"),
        (halved, "no_claim", Verdict.FAIL, "improved"),
        (lambda at, variant: {}, "no_claim", Verdict.NO_DATA, "no round has this figure"),
    ],
)
def test_an_a_a_test_is_met_when_nothing_is_claimed(clocks: Clocks, expect: str, verdict: Verdict, said: str) -> None:
    """Noise proves neither change nor equality; an A/A test asks for neither, and without a figure for all that never passes."""
    metrics = [METRIC.model_dump() | {"expect": expect}]
    one = measured(clocks, metrics=metrics)
    (check,) = analysis.check({"bulk_copy": one}, {"bulk_copy": proof(metrics=metrics)})
    assert check.verdict == verdict
    assert check.reason.startswith(said)


def test_an_a_a_test_of_a_session_that_drifted_is_met() -> None:
    """A drift takes claims back, which is what an A/A test asks for; its reason says so."""
    metrics = [METRIC.model_dump() | {"expect": "no_claim"}]
    one = measured(
        lambda at, variant: {**noisy(at, variant), "machine_s": (0.04 if variant.side == AFTER else 0.02) + at % 5 / 1e4},
        metrics=metrics, controls=["machine_s"],
    )  # fmt: skip
    (check,) = analysis.check({"bulk_copy": one}, {"bulk_copy": proof(metrics=metrics)})
    assert check.verdict == Verdict.PASS
    assert check.reason.startswith("no difference is claimed: the session drifted")


@pytest.mark.parametrize(("failing", "rounds", "verdict"), [(99, 8, Verdict.NO_DATA), (8, 8, Verdict.PASS), (15, 8, Verdict.NO_DATA)])
def test_rounds_that_do_not_count_lead_to_more_of_them(failing: int, rounds: int, verdict: Verdict) -> None:
    """What was in the way of the first four may pass; after eight in vain nothing is hoped for."""

    def measuring(variant: Variant) -> Figures:
        ran.append(variant)
        problem = "the generator used 99% of its core" if len(ran) <= failing else ""
        clocks = {"duration_s": halved(len(ran), variant)["duration_s"] * (1 + len(ran) % 5 / 1000)}
        return Figures(clocks=clocks, counters={}, problem=problem)

    ran: list[Variant] = []
    found = session.measure(plan(bulk_copy=proof(rounds={"least": 4, "most": 24})), TARGET, measuring, lambda: len(ran))
    (check,) = analysis.check(analysis.summarize(found), found.context.questions)
    assert (len(ran), check.verdict) == (2 * rounds, verdict)


@pytest.mark.parametrize(("after", "change"), [(1.0, Change.NOT_PROVEN), (0.5, Change.IMPROVED), (2.0, Change.WORSE)])
def test_a_generator_that_lags_proves_no_equality(after: float, change: Change) -> None:
    """Its lag is added to both sides: differences seem smaller, so that one that is proven is there, and one that is not may be hidden."""
    found = samples(times(8, after, noise=0.01))
    late = [replace(one, late="the generator's event loop lagged 30 ms" if one.round == 3 else "") for one in found]
    one = analysis.of_proof(proof(), late)
    assert (one.main.change, one.late) == (change, 1)
    assert change != Change.NOT_PROVEN or one.main.reason == "in 1 of 8 rounds the load generator lagged, which hides differences"
