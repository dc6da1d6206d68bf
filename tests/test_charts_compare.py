"""The charts of a comparison draw the interval, the smallest effect and the noise floor, and leave every word legible."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
import pytest
from comparisons import INSERT_LIMITS, METRIC, TARGET, plan, proof, recording, samples, summary, times
from legible import illegible

from tapecheck import charts
from tapecheck.charts.figure import Chart
from tapecheck.compare import answers
from tapecheck.compare.analysis import ProofSummary
from tapecheck.compare.answers import SentRequests
from tapecheck.compare.plan import AFTER, BEFORE, Metric, Proof
from tapecheck.compare.recording import Baseline, Recording, Sample

NAMES = ("bulk_copy", "concurrency", "derived_timeframes", "connection_reuse", "a_a_test")
ANSWERING = {"what_if": "x", "answers": ["bottleneck_insert"]}

FETCHED = {"before": {"fetch_s": 1.0}, "after": {"fetch_s": 0.5}}
LIMITED = Baseline(found=(INSERT_LIMITS,), what_if={"x": 0.5})
Case = tuple[Recording, dict[str, ProofSummary]]


def case(found: list[Sample], questions: dict[str, Proof] | None = None) -> Case:
    """Return a recording and what all its rounds say; what limits a baseline is known where a proof is for it."""
    asked = questions or {"bulk_copy": proof()}
    baselines = {name: LIMITED for name, one in asked.items() if one.answers}
    return recording(found, plan(**asked), baselines=baselines), summary(found, asked, baselines)


def session() -> Case:
    """The shipped proofs: three fixes, one of which is worse, one not proven, and a variant beside itself."""
    truths = (0.2, 0.7, 1.6, 0.86, 1.0)
    found = [s for i, (name, truth) in enumerate(zip(NAMES, truths, strict=True)) for s in samples(times(8, truth, seed=i), name=name)]
    return case(found, {name: proof(**ANSWERING) if name in NAMES[:3] else proof() for name in NAMES})


def several() -> Case:
    """A proof of three metrics with a name as long as may be, beside one that did not do the same."""
    name = "every_timeframe_of_the_quantitative_features_of_all_symbols_2"
    metrics = [
        METRIC,
        Metric(name="fetch_s", better="lower", smallest_effect=0.3),
        Metric(name="records_per_s", better="higher", smallest_effect=0.1),
    ]
    clocks = {"before": {"fetch_s": 1.0, "records_per_s": 100.0}, "after": {"fetch_s": 0.01, "records_per_s": 300.0}}
    long = samples(times(12, 0.3), name=name, clocks=clocks)
    other = samples(times(12, 0.5), counters={"after": {"records": 1}})
    return case([*long, *other], {name: proof(metrics=[m.model_dump() for m in metrics], **ANSWERING), "bulk_copy": proof()})


def twenty() -> Case:
    """More proofs than there is room for, of long names that somebody else chose, each of two metrics."""
    names = [f"$\\frac_{i:02d}$ of <b>every</b>\n\u202etimeframe of the quantitative features {i:02d}" for i in range(20)]
    metrics = [METRIC.model_dump(), Metric(name="fetch_s", better="lower", smallest_effect=0.3).model_dump()]
    question = proof(metrics=metrics, **ANSWERING)
    truths = (0.3, 0.7, 0.9, 1.0, 1.2, 2.5)
    found = [s for i, name in enumerate(names) for s in samples(times(4, truths[i % 6], seed=i), name=name, clocks=FETCHED)]
    rng, scales = np.random.default_rng(1), (1, 1000)  # few requests and many, quick and slow ones, and of one proof a side alone
    sent = {
        (name, side): [SentRequests(response_ms=scales[i % 2] * rng.lognormal(1, 0.6, n), batches=np.array([n]))]
        for i, (name, n) in enumerate(zip(names, (3, 59, 5000, 800) * 5, strict=True))
        for side in (BEFORE, AFTER)
        if (i, side) != (4, AFTER)
    }
    asked = dict.fromkeys(names, question)
    variants = dict.fromkeys(names, question.variants)
    one, said = recording(found), summary(found, asked, dict.fromkeys(names, LIMITED))
    context = dataclasses.replace(one.context, variants=variants, target=dataclasses.replace(TARGET, name="$x$ " * 40))
    return dataclasses.replace(one, context=context, tables={**one.tables, "spectra": answers.spectra(sent)}), said


RATIOS, SAVINGS, ROUNDS, SPECTRA = DRAW = (charts.compare_ratios, charts.compare_savings, charts.compare_rounds, charts.compare_spectra)
CASES: Mapping[str, tuple[Callable[[], Case], tuple[Callable[..., Chart], ...]]] = {  # with the charts that such a case is awkward for
    "twenty proofs of foreign names": (twenty, DRAW),
    "the shipped proofs": (session, (RATIOS, SAVINGS, ROUNDS)),
    "several metrics, one invalid": (several, (RATIOS, SAVINGS)),
    "one round": (lambda: case(samples(times(1, 0.5))), (RATIOS, ROUNDS)),
    "nothing": (lambda: case([]), DRAW),
    "all alike": (lambda: case(samples(times(8, 1.0, noise=0.0))), (RATIOS, ROUNDS)),
    "a hundred rounds": (lambda: case(samples(times(100, 0.9))), (ROUNDS,)),
}


@cache
def made(name: str) -> Case:
    return CASES[name][0]()


@cache
def figure(name: str, draw: Callable[..., Chart]) -> Chart:
    """Return one chart of a case, which nobody changes."""
    return drawn(made(name), draw)


def drawn(found: Case, draw: Callable[..., Chart]) -> Chart:
    return draw(recording=found[0], summary=found[1])


@pytest.mark.parametrize("case", CASES)
def test_every_word_is_legible(case: str) -> None:
    """No text leaves its picture or covers another, and a picture is no higher than a screen and a half."""
    for draw in CASES[case][1]:
        chart = figure(case, draw)
        assert illegible(chart) == ([], []), str(chart)
        assert chart.get_figheight() * 110 <= 1600, str(chart)


def test_what_there_is_no_room_for_is_named() -> None:
    """What got worse is drawn first; the footer counts and names the others, and mathematics in a name is text."""
    of_twenty = [figure("twenty proofs of foreign names", draw) for draw in DRAW]
    shown = {label.get_text().partition("\n")[0] for label in of_twenty[0].axes[0].get_yticklabels()}
    assert len(shown) >= 12 and all("$\\frac" in name and "\u202e" not in name for name in shown)
    assert {i for i in range(20) if i % 6 in (4, 5)} <= {int(name.partition("_")[2][:2]) for name in shown}
    assert all("not drawn, but in the table: " in chart.get_supxlabel() for chart in of_twenty)


def test_the_same_is_drawn_the_same() -> None:
    """Byte by byte, so that a run recorded twice is one run."""
    first, second = (drawn(made("one round"), RATIOS).svg() for _ in range(2))
    assert first.startswith(b"<?xml") and first == second


def test_a_ratio_has_its_interval_smallest_effect_and_noise_floor() -> None:
    """All three in the row of their proof, and the legend says what each is."""
    chart, one = figure("the shipped proofs", RATIOS), made("the shipped proofs")[1]["bulk_copy"].main
    (ax,) = chart.axes
    lines = {tuple(round(x, 6) for x in line.get_paths()[0].vertices[:, 0]) for line in ax.collections if line.get_paths()}
    assert one.ratio is not None and one.ratio.low is not None and one.ratio.high is not None
    assert {(round(one.ratio.low, 6), round(one.ratio.high, 6)), (0.9, 0.9)} <= lines
    assert one.noise_floor is not None
    assert any(abs(bar.get_x() - (1 - one.noise_floor)) < 1e-9 for bar in ax.patches)
    words = {text.get_text() for legend in chart.legends for text in legend.get_texts()}
    assert {"improved", "worse", "not proven", "no change", "smallest effect that matters, either way"} <= words


def test_the_expected_saving_the_prediction_and_what_was_measured_stand_together() -> None:
    """In the row of their proof."""
    (ax,) = figure("the shipped proofs", SAVINGS).axes
    (bar, *_) = [patch for patch in ax.patches if patch.get_label() == "expected" or patch.get_height() == pytest.approx(0.2)]
    assert (bar.get_x(), bar.get_x() + bar.get_width()) == (pytest.approx(0.25), pytest.approx(0.35))
    points = {line.get_label(): line.get_xdata()[0] for line in ax.lines}
    assert 0.5 in {float(x) for x in points.values()}


def test_every_round_is_drawn_by_which_side_was_first() -> None:
    """Odd rounds begin with before, even ones with after."""
    (ax,) = drawn(case(samples(times(6, 0.7))), ROUNDS).axes
    shown = {line.get_label(): list(line.get_xdata()) for line in ax.lines if " was run first" in str(line.get_label())}
    assert shown == {"before was run first": [1, 3, 5], "after was run first": [2, 4, 6]}


def test_what_is_invalid_is_shaded() -> None:
    """A variant that did something else has no ratio that counts."""
    chart = figure("several metrics, one invalid", RATIOS)
    assert "invalid: says nothing about the target" in {text.get_text() for legend in chart.legends for text in legend.get_texts()}


def test_the_footer_counts_the_runs_that_are_in_the_figure() -> None:
    """Neither warm-ups nor runs that do not count."""
    found = case([*samples([(0, "before", 1.0), (0, "after", 1.0)]), *samples(times(6, 0.7), problems={(2, "after"): "x"})])
    assert all("n = 11 runs" in drawn(found, draw).get_supxlabel() for draw in DRAW)


def test_what_requests_saw_is_drawn_of_both_sides() -> None:
    """The curve that lies lower is the faster side's, and how many requests each had stands above."""
    rng, sizes = np.random.default_rng(1), {"both": 500, "one_side": 50}
    sent = {
        (name, side): [SentRequests(response_ms=rng.lognormal(1 + (side == BEFORE), 0.6, n), batches=np.array([n])) for _ in range(4)]
        for name, n in sizes.items()
        for side in (BEFORE, AFTER)
        if (name, side) != ("one_side", AFTER)
    }
    asked, said = case([one for name in sizes for one in samples(times(4, 0.4), name=name)], {name: proof() for name in sizes})
    both, alone = drawn((dataclasses.replace(asked, tables={**asked.tables, "spectra": answers.spectra(sent)}), said), SPECTRA).axes
    before, after = both.lines
    assert (before.get_label(), after.get_label()) == ("before", "after")
    assert np.median(np.asarray(before.get_ydata())) > np.median(np.asarray(after.get_ydata()))
    assert "n = 2,000 before, 2,000 after" in both.get_title("left")
    assert "n = 200 before" in alone.get_title("left") and len(alone.lines) == 1
