"""The recovery plan is read as it is written, leaves no age without a class, and names what is wrong in it."""

import math
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tapecheck import config
from tapecheck.errors import ConfigError
from tapecheck.recovery.contradictions import read_plan
from tapecheck.recovery.objectives import RecoveryPlan, Staleness, spelled

TEXT = (config.CONFIG / "rto_rpo.yaml").read_text(encoding="utf-8")
SHIPPED = read_plan("config/rto_rpo.yaml")
CLASSES = ("fresh", "aging", "stale", "missing")
ends = st.lists(st.floats(0.001, 31_536_000), min_size=3, max_size=3, unique=True).map(sorted)
ages = st.floats(min_value=0, allow_infinity=True, allow_nan=False)


def staleness(limits: list[float]) -> Staleness:
    below = {name: {"below_s": s, "action": "plain"} for name, s in zip(CLASSES, limits, strict=False)}
    return Staleness.model_validate({**below, "missing": {"action": "plain"}})


@settings(max_examples=40)
@given(ends, ages)
@example([3600.0, 21600.0, 86400.0], 0.0)
def test_every_age_has_exactly_one_class(limits: list[float], age_s: float) -> None:
    """The one whose half-open interval holds it: an edge is of the older class, and what never was there of the oldest."""
    edges, classes = [0.0, *limits, math.inf], staleness(limits)
    inside = [name for name, low, high in zip(CLASSES, edges, edges[1:], strict=False) if low <= age_s < high]
    assert [classes.classify(age_s)] == (inside or ["missing"])
    assert [classes.classify(edge) for edge in limits] == ["aging", "stale", "missing"]
    assert [classes.classify(math.nextafter(edge, 0)) for edge in limits] == ["fresh", "aging", "stale"]
    assert [classes.classify(age_s) for age_s in (None, math.inf, 1.7e308)] == ["missing"] * 3


def test_the_shipped_classes_and_actions_are_those_of_the_objectives() -> None:
    """Fresh below 1 h, aging below 6 h, stale below 24 h, missing from then on; each with its action."""
    assert SHIPPED.staleness.ends_s == {"fresh": 3600, "aging": 21600, "stale": 86400, "missing": math.inf}
    actions = [SHIPPED.staleness.action(name) for name in ("fresh", "aging", "stale", "missing")]
    assert actions == ["plain", "warning", "warning_and_alert", "not_found_and_trigger"]


def test_a_symbol_is_of_the_tier_that_names_it_else_of_the_others() -> None:
    """Where a plan has a tier of others."""
    assert [SHIPPED.tier_of(symbol) for symbol in ("BTC", "ASML", "XRP")] == ["critical", "standard", "low"]
    alone = SHIPPED.model_copy(update={"rpo": {"critical": SHIPPED.rpo["critical"]}})
    assert alone.tier_of("XRP") is None


def test_trials_are_those_of_the_profile_unless_others_are_asked_for() -> None:
    """Once claims no share; fewer than the share needs are not refused, and end as not proven."""
    once = read_plan("config/rto_rpo.yaml", profile="once")
    assert (once.trials.each, once.trials.proven_share) == (1, None)
    assert (SHIPPED.trials.each, SHIPPED.trials.proven_share) == (5, 0.5)
    assert once.model_copy(update={"trials": SHIPPED.trials, "left_out": ()}) == SHIPPED
    assert read_plan("config/rto_rpo.yaml", trials=1).trials.each == 1
    assert read_plan("config/rto_rpo.yaml", trials=20, profile="once").trials.each == 20


@pytest.mark.parametrize(("chosen", "key", "allowed"), [({"trials": -1}, "trials", "0 for"), ({"profile": "x"}, "profile", "full, once")])
def test_a_wrong_choice_is_named(chosen: dict[str, object], key: str, allowed: str) -> None:
    """With what may be chosen."""
    with pytest.raises(ConfigError) as caught:
        read_plan("config/rto_rpo.yaml", **chosen)  # type: ignore[arg-type]
    (problem,) = caught.value.problems
    assert problem.key == key and allowed in str(problem)


@pytest.mark.parametrize(
    ("right", "wrong", "key", "allowed"),
    [
        ("action: warning}", "action: warn}", "staleness.aging.action", "'warning'"),
        ("objective_s: 300", "objective: 300", "rto.scheduler_crash.objective", "available: objective_s"),
        ("fallback: none", "fallback: ' '", "rto.api_crash.fallback", "at least 1 character"),
        ("above_share: 0.2,", "above_share: 20,", "alerts.failed_symbols.above_share", "less than 1"),
        ('"01:30"', '"01:30+02:00"', "scheduler.daily_at_utc", "in UTC, without a zone"),
        ("symbols_at_once: ", "symbols_at_once: 100000000000", "backfill.symbols_at_once", "less than or equal to 1000000000"),
        ("  timeframes: 5", "  timeframes: 7", "backfill", "no multiple of 7"),
        ("false_ages <= 0", "false_age <= 0", "objectives.0", "no metric 'false_age'"),
    ],
)
def test_a_planted_mistake_in_the_plan_is_found(tmp_path: Path, right: str, wrong: str, key: str, allowed: str) -> None:
    """At its line, with what is allowed; of a profile too."""
    assert right in TEXT
    (tmp_path / "rto_rpo.yaml").write_text(TEXT.replace(right, wrong, 1))
    with pytest.raises(ConfigError) as caught:
        read_plan(tmp_path / "rto_rpo.yaml")
    problem = next(problem for problem in caught.value.problems if allowed in str(problem))
    assert problem.key == key
    assert problem.line == TEXT[: TEXT.index(right)].count("\n") + 1 or key == "backfill"


def test_a_plan_is_the_same_after_it_was_stored() -> None:
    """A recording carries its plan as JSON."""
    assert RecoveryPlan.model_validate_json(SHIPPED.model_dump_json()) == SHIPPED


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (0.0005, "0.5 ms"), (59.5, "59.5 s"), (60, "1 min"), (90, "90 s"), (3600, "1 h"), (5400, "90 min"), (86400, "24 h"),
        (172800, "2 days"), (3661, "3,661 s"), (90000, "25 h"),
    ],
)  # fmt: skip
def test_a_length_of_time_is_written_as_a_person_reads_it(seconds: float, text: str) -> None:
    """In the largest unit that needs no fraction."""
    assert spelled(seconds) == text


def test_explanations_are_read_under_their_old_name_too(tmp_path: Path) -> None:
    """A plan that says `settled`, as plans did until 0.1, is the plan that says `explained`; both at once are a mistake."""
    old = tmp_path / "old.yaml"
    old.write_text(TEXT.replace("explained:", "settled:"), encoding="utf-8")
    assert read_plan(old) == SHIPPED
    old.write_text(TEXT + "settled: {}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="settled"):
        read_plan(old)
