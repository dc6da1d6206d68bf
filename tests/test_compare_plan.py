"""What is registered is whole and possible before anything runs: every mistake is found, with its key."""

from pathlib import Path

import pytest
from comparisons import plan, proof

from tapecheck import config
from tapecheck.compare.plan import Proof, RecordedQuestions, Rounds, read_plan, variants
from tapecheck.errors import ConfigError
from tapecheck.load.plan import Closed, LoadPlan

PLAN = (config.CONFIG / "compare.yaml").read_text()


def test_the_shipped_plan_has_three_fixes_a_load_fix_an_a_a_proof_and_a_regression() -> None:
    """Each with a metric of its own, a control and what is expected; the fixes with promise and prediction."""
    shipped = read_plan("config/compare.yaml")
    fixes = [shipped.proofs[name] for name in ("bulk_copy", "concurrency", "derived_timeframes")]
    slow = {"insert": "row_by_row", "concurrency": {"jobs": 1, "requests": 1}}
    assert list(shipped.proofs)[3:] == ["query_cache", "a_a_test", "planted_regression"]
    assert all(one.controls for one in shipped.proofs.values())
    assert all({key: one.baseline[key] for key in slow} == slow for one in fixes)
    assert [one.metrics[0].expect for one in shipped.proofs.values()] == ["improved"] * 4 + ["no_claim", "worse"]
    assert all(one.what_if and one.answers for one in fixes)
    assert [name for name, one in shipped.proofs.items() if one.method_check] == ["a_a_test", "planted_regression"]
    both = variants("a_a_test", shipped.proofs["a_a_test"])
    assert both["before"].plan == both["after"].plan


MISTAKES = [
    ("rounds: {least: 4, most: 24}", "rounds: 2", "rounds", "greater than or equal to 4"),
    ("rounds: {least: 4, most: 24}", "rounds: {most: 102}", "rounds.most", "less than or equal to 100"),
    ("rounds: {least: 4, most: 24}", "rounds: {least: 8, most: 6}", "rounds", "least (8) at most as many as most (6)"),
    ("rounds: {least: 4, most: 24}", "rounds: 7", "(file)", "even numbers of rounds"),
    ("rounds: {least: 4, most: 8}", "rounds: {most: 11}", "(file)", "odd: proofs.a_a_test.rounds"),
    ("rounds: {least: 4, most: 8}", "rounds: 3", "proofs.a_a_test.rounds", "greater than or equal to 4"),
    ("    fix: {request: features}", "    distance_ms: 5\n    fix: {request: features}", "proofs.query_cache", "of a backfill proof only"),
    ("{name: statements, better: lower", "{name: statements, better: higher", "proofs.bulk_copy", "better: lower of statements"),
    ("controls: [fetch_s, machine_s]", "controls: [moon_s]", "proofs.bulk_copy", "unknown: moon_s"),
    ("controls: [fetch_s, machine_s]", "controls: [duration_s]", "proofs.bulk_copy", "a control that is no metric"),
    ("fix: {insert: copy}", "fix: {inserts: copy}", "proofs.bulk_copy.fix.inserts", "available: symbols"),
    ("insert: row_by_row,", "insert: slowly,", "proofs.bulk_copy.baseline.insert", "'copy', 'executemany' or 'row_by_row'"),
    ("scenario: steady_state ", "scenario: steady ", "proofs.query_cache.scenario", "one of cached_symbol"),
    ("fix: {request: features}", "fix: {asks: features}", "proofs.query_cache.fix.asks", "available: "),
    ("what_if: insert at no cost", "what_if: insert for nothing", "proofs.bulk_copy.what_if", "insert twice as fast, insert at no cost"),
    ("what_if: 2 jobs and 2 requests", "what_if: 4 jobs and 4 requests", "proofs.concurrency.what_if", "2 jobs and 2 requests at a time"),
    ("what_if: insert at no cost", "what_if: no rate limit", "proofs.bulk_copy.what_if", "available for this baseline: as recorded, fetch"),
    ("answers: [bottleneck_insert,", "answers: [bottleneck_inserts,", "proofs.bulk_copy.answers", "bottleneck_wait, bottleneck_fetch"),
    ("what_if: insert at no cost", "whatif: insert at no cost", "proofs.bulk_copy.whatif", "available: validation"),
    ("profile: small ", "profile: tiny ", "profile", "one of full, small"),
    ("load: [p95_ms,", "load: [p95_s,", "recorded", "unknown: p95_s"),
]  # fmt: skip


@pytest.mark.parametrize(("right", "wrong", "key", "allowed"), MISTAKES, ids=[wrong[:40] for _, wrong, _, _ in MISTAKES])
def test_a_planted_mistake_is_found(tmp_path: Path, right: str, wrong: str, key: str, allowed: str) -> None:
    """Also one in a variant, which is a plan of another validation, at the change that caused it."""
    assert right in PLAN
    (tmp_path / "compare.yaml").write_text(PLAN.replace(right, wrong, 1))
    with pytest.raises(ConfigError) as raised:
        read_plan(tmp_path / "compare.yaml")
    first = raised.value.problems[0]
    assert first.key == key
    assert allowed in str(first)


def test_every_unknown_name_of_a_plan_is_listed_with_its_line(tmp_path: Path) -> None:
    """Both keys of each proof, all at once."""
    text = PLAN.replace("answers: [bottleneck_insert,", "answers: [nothing, anything,").replace(
        "what_if: timeframes derived", "what_if: magic"
    )
    (tmp_path / "compare.yaml").write_text(text.replace("what_if: insert at no cost", "what_if: luck"))
    with pytest.raises(ConfigError) as raised:
        read_plan(tmp_path / "compare.yaml")
    found = {one.key.removeprefix("proofs."): one.got for one in raised.value.problems}
    assert found == {"bulk_copy.what_if": "luck", "bulk_copy.answers": "nothing, anything", "derived_timeframes.what_if": "magic"}
    assert all(one.line for one in raised.value.problems)


@pytest.mark.parametrize(
    ("given", "key", "allowed"),
    [
        ({"proofs": "bulk"}, "proofs", "all, or some of bulk_copy"),
        ({"rounds": 3}, "rounds", "4 to 100"),
        ({"rounds": 9}, "rounds", "an even number"),
        ({"rounds": 101}, "rounds", "4 to 100"),
        ({"profile": "huge"}, "profile", "one of full, long"),
    ],
)
def test_a_wrong_knob_is_refused(given: dict[str, str | int], key: str, allowed: str) -> None:
    """With what is allowed."""
    with pytest.raises(ConfigError) as raised:
        read_plan("config/compare.yaml", **given)  # type: ignore[arg-type]
    assert raised.value.problems[0].key == key
    assert allowed in raised.value.problems[0].allowed


def test_knobs_choose_proofs_rounds_and_profile() -> None:
    """The profile's rounds, unless they are given."""
    assert list(read_plan("config/compare.yaml", proofs="a_a_test, bulk_copy").proofs) == ["bulk_copy", "a_a_test"]
    assert [str(read_plan("config/compare.yaml", profile=name).rounds) for name in ("full", "long")] == ["4 to 24", "8 to 64"]
    given = read_plan("config/compare.yaml", profile="long", rounds=6)
    assert {str(one.rounds) for one in given.asked().values()} == {"6", "4 to 6"}
    own = plan(8, own=proof(rounds={"least": 6, "most": 10}), other=proof())
    assert [str(one.rounds) for one in own.asked().values()] == ["6 to 10", "8"]


@pytest.mark.parametrize(
    ("least", "most", "looks"),
    [(4, 24, (4, 6, 8, 12, 16, 24)), (4, 10, (4, 6, 8, 10)), (8, 64, (8, 12, 16, 24, 32, 48, 64)), (6, 6, (6,)), (4, 4, (4,))],
)
def test_looks_are_after_even_rounds_and_share_the_error(least: int, most: int, looks: tuple[int, ...]) -> None:
    """Each side went first equally often then; the levels of all looks add up to 5 %, the last one's being the largest."""
    rounds = Rounds(least=least, most=most)
    levels = [rounds.alpha(look) for look in rounds.looks]
    assert rounds.looks == looks
    assert all(look % 2 == 0 for look in looks)
    assert sum(levels) == pytest.approx(0.05)
    assert max(levels) == levels[-1]


def test_a_load_variant_has_its_one_scenario() -> None:
    """With the changes in it, and no objectives of its own."""
    both = variants("x", read_plan("config/compare.yaml").proofs["query_cache"])
    for side, request in (("before", "features_uncached"), ("after", "features")):
        one = both[side].plan  # type: ignore[index]
        assert isinstance(one, LoadPlan)
        (scenario,) = one.scenarios.values()
        assert isinstance(scenario, Closed)
        assert (scenario.request, scenario.duration_s, one.objectives) == (request, 0.4, ())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"validation": "load", "metrics": [{"name": "mean_ms", "better": "lower", "smallest_effect": 0.1}]}, "scenario: of a load proof"),
        ({"scenario": "x"}, "scenario: of a load proof"),
        ({"metrics": []}, "at least 1"),
        ({"same": ["duration_s"]}, "same from records"),
    ],
)
def test_a_proof_that_cannot_be_is_refused(more: dict[str, object], message: str) -> None:
    """Before anybody could wait for its rounds."""
    with pytest.raises(ValueError, match=message):
        proof(**more)


def test_the_question_to_two_recorded_runs_is_registered_too() -> None:
    """Which figures, which way is good, and from which difference on it matters."""
    question = RecordedQuestions(smallest_effect=0.2).question("load")
    assert [(m.name, m.better, m.smallest_effect, m.expect) for m in question.metrics][-1] == ("throughput_rps", "higher", 0.2, "not_worse")
    assert not isinstance(question, Proof)
