"""A session measures interleaved rounds of what the plan says, keeps every run, and reads back what it wrote; no target is asked here."""

import itertools
from pathlib import Path

import pytest
from comparisons import TARGET, plan, proof

from tapecheck import progress
from tapecheck.backfill.plan import BackfillPlan
from tapecheck.compare import analysis, session
from tapecheck.compare.difference import Change
from tapecheck.compare.plan import Variant
from tapecheck.compare.recording import Baseline, Recording
from tapecheck.compare.session import RunFigures
from tapecheck.compare.validation import compare
from tapecheck.errors import MeasurementError, TargetDown


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
        return RunFigures(
            clocks={"duration_s": duration_s, "machine_s": 0.02}, counters={"records": 10}, checksum="10-0", baseline=baseline
        )

    def clock(self) -> int:
        return self.now_ns


def measured(planted: Planted, **more: int) -> Recording:
    return session.measure(plan().model_copy(update=more), TARGET, planted, planted.clock)


def test_rounds_begin_with_either_side_by_turns() -> None:
    """A B, B A, A B, B A: a steady drift adds to each side alike."""
    found = list(session.order(4))
    assert [number for number, _ in found] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert [side for _, side in found] == ["before", "after", "after", "before"] * 2
    places = {side: sum(at for at, (_, other) in enumerate(found) if other == side) for side in ("before", "after")}
    assert places["before"] == places["after"]


def test_warm_ups_come_first_and_have_no_round() -> None:
    """One of each side."""
    assert list(session.order(1, 1))[:2] == [(0, "before"), (0, "after")]


def test_every_run_is_kept_with_its_times() -> None:
    """Samples come in the order in which they were measured, by the clock that was given."""
    found = measured(Planted(), warm_up=1)
    assert [sample.round for sample in found.samples] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert [(s.ended_ns - s.began_ns) / 1e9 for s in found.samples] == [1.0, 0.5, 1.0, 0.5, 0.5, 1.0, 1.0, 0.5, 0.5, 1.0]
    assert all(a.ended_ns <= b.began_ns for a, b in itertools.pairwise(found.samples))
    assert analysis.summarize(found)["bulk_copy"].main.change == Change.IMPROVED


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
    assert len(analysis.summarize(found)["bulk_copy"].rounds) == 3


def test_a_target_that_is_gone_ends_the_session() -> None:
    """It is no property of a variant."""

    def gone(variant: Variant) -> RunFigures:
        raise TargetDown("the database does not answer")

    with pytest.raises(TargetDown):
        session.measure(plan(), TARGET, gone)


def test_a_recording_reads_back_as_it_was(tmp_path: Path) -> None:
    """Samples and context, from Parquet alone."""
    import pyarrow.parquet as pq

    found = measured(Planted(fails_at=2), warm_up=1)
    for name, table in found.stored().items():
        pq.write_table(table, tmp_path / f"{name}.parquet")
    again = compare.read_files(tmp_path, source="x")
    assert list(again.samples) == list(found.samples)
    assert again.context == found.context
    assert analysis.summarize(again) == analysis.summarize(found)


def test_what_is_silent_reports_to_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    """Eighty runs draw no bars of their own; whoever has them done reports."""
    with progress.silent(), progress.show("inner", "jobs") as report:
        report(1, 2)
    assert capsys.readouterr().err == ""
    with progress.show("outer", "jobs") as report:
        report(1, 2)
    assert "outer" in capsys.readouterr().err
