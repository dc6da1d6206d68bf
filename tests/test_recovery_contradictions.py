"""Objectives that contradict each other or cannot be proven are found, and the plan must say why both hold."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tapecheck import config
from tapecheck.errors import ConfigError, Problem
from tapecheck.recovery.contradictions import EXPLAINABLE, STRUCTURAL, find, problems, read_plan, refill_floor_s, refresh_requests_per_h
from tapecheck.recovery.objectives import RecoveryPlan
from tapecheck.statistics import intervals

TEXT = (config.CONFIG / "rto_rpo.yaml").read_text()
DATA = {key: value for key, value in yaml.safe_load(TEXT).items() if key != "profiles"}
SHIPPED = read_plan("config/rto_rpo.yaml")
# What must change in the shipped plan for no rule to find anything.
SOUND = {
    "rto.upstream_rate_limit.objective_s": 36,
    "rto.scheduler_crash.objective_s": 1380,
    "rpo.critical.refresh_s": 1380,
    "rpo.critical.max_lost_minutes": 23,
    "rpo.low.refresh_s": 43_200,
    "rpo.low.max_age_s": 86_399,
    "backup.interval_s": 1380,
    "explained": {},
}
Changes = dict[str, Any]


def plan(changes: Mapping[str, Any]) -> RecoveryPlan:
    """Return the sound plan with changes, each by its key as in `rpo.low.max_age_s`."""
    data = copy.deepcopy(DATA)
    for key, value in {**SOUND, **changes}.items():
        *above, last = key.split(".")
        place = data
        for step in above:
            place = place[step]
        place[last] = value
    return RecoveryPlan.model_validate(data)


def told(plan: RecoveryPlan) -> list[Problem]:
    return problems({config.WHOLE: plan}, "x.yaml", {})


def refused(file: Path) -> dict[str, int | None]:
    """Return the keys of the problems of a file, with their lines."""
    with pytest.raises(ConfigError) as caught:
        read_plan(file)
    return {problem.key: problem.line for problem in caught.value.problems}


TIER = {"symbols": "others", "max_age_s": 80_000, "refresh_s": 40_000, "max_lost_minutes": 1440}
LOWER = {"scheduler.order": ["critical", "standard", "low", "lower"]}
FEW = {"backfill.requests_per_minute": 3, "backfill.burst": 56, "rpo.standard.refresh_s": 3600}
# rule, what is planted, the neighbour that is no contradiction, where it is found, the figures, what to change
# fmt: off
PLANTED: list[tuple[str, Changes, Changes, str, str, str]] = [
    ("symbol_in_two_tiers", {"rpo.standard.symbols": ["AAPL", "SPY"]}, {"rpo.standard.symbols": ["AAPL", "SPYG"]},
     "rpo.standard.symbols", "SPY in critical and standard", "each symbol in one tier"),
    ("symbol_in_two_tiers", {"rpo.standard.symbols": ["AAPL", "AAPL"]}, {"rpo.standard.symbols": ["AAPL"]},
     "rpo.standard.symbols", "AAPL in standard and standard", "once in it"),
    ("no_tier_for_others", {"rpo.low.symbols": ["XRP"]}, {},
     "rpo", "no objectives for a symbol that none of critical, standard, low names", "one tier with symbols: others"),
    ("several_tiers_for_others", {"rpo.lower": TIER, **LOWER}, {"rpo.lower": {**TIER, "symbols": ["XRP"]}, **LOWER},
     "rpo.lower.symbols", "others in low and lower", "in one tier only"),
    ("thresholds_out_of_order", {"staleness.aging.below_s": 3600}, {"staleness.aging.below_s": 3601},
     "staleness.aging.below_s", "aging ends at 1 h, fresh at 1 h", "more than staleness.fresh.below_s"),
    ("thresholds_out_of_order", {"staleness.aging.below_s": 86_400}, {"staleness.aging.below_s": 86_399},
     "staleness.stale.below_s", "stale ends at 24 h, aging at 24 h", "more than staleness.aging.below_s"),
    ("thresholds_out_of_order", {"alerts.no_successful_backfill.after_s": 86_400}, {"alerts.no_successful_backfill.after_s": 86_399},
     "alerts.no_successful_backfill.after_s", "an alert after 24 h, when data is missing from 24 h on", "below staleness.stale.below_s"),
    ("thresholds_out_of_order", {"alerts.no_successful_backfill.after_s": 1380}, {"alerts.no_successful_backfill.after_s": 1381},
     "alerts.no_successful_backfill.after_s", "after 23 min, when the most frequent refresh comes every 23 min", "the shortest refresh_s"),
    ("order_against_tiers", {"scheduler.order": ["critical", "standard"]}, {"scheduler.order": ["low", "standard", "critical"]},
     "scheduler.order", "critical, standard", "each tier of rpo once: critical, standard, low"),
    ("order_against_tiers", {"scheduler.order": ["critical", "standard", "low", "low"]}, {},
     "scheduler.order", "critical, standard, low, low", "each tier of rpo once"),
    ("backoff_beyond_rto", {"rto.upstream_rate_limit.objective_s": 30},
     {"rto.upstream_rate_limit.objective_s": 30, "rto.upstream_rate_limit.clock": "degraded"},
     "backfill.retries_s", "pauses of 1 + 5 + 30 s = 36 s, beyond the 30 s of rto.upstream_rate_limit", "or clock: degraded"),
    ("refill_beyond_rto", {"rto.database_destroyed.objective_s": 1379}, {"rto.database_destroyed.objective_s": 1380},
     "rto.database_destroyed.objective_s", "take at least 23 min, beyond the 1,379 s of rto.database_destroyed", "or a longer time"),
    ("destroyed_without_backup", {"backup": None}, {},
     "rto.database_destroyed", "an objective for a database that is gone, and no backup", "backup: {interval_s"),
    ("backup_gone_before_next", {"backup.retention_s": 1380}, {"backup.retention_s": 1381},
     "backup.retention_s", "a backup is kept for 23 min, and the next one comes after 23 min", "more than backup.interval_s"),
    ("backup_against_loss", {"backup.interval_s": 1440}, {"backup.interval_s": 1380},
     "backup.interval_s", "of critical 23 min may be lost, and up to 24 min have come since the last backup", "or archived WAL"),
    ("retries_beyond_cap", {"backfill.backoff_max_s": 29}, {"backfill.backoff_max_s": 30},
     "backfill.retries_s", "a pause of 30 s, beyond the 29 s of backoff_max_s", "pauses up to backoff_max_s"),
    ("refill_beyond_rto", {"rto.scheduler_crash.objective_s": 300},
     {"rto.scheduler_crash.objective_s": 300, "backfill.requests_per_minute": 23},
     "rto.scheduler_crash.objective_s", "125 jobs at 5 requests a minute, 10 of them at once, take at least 23 min, beyond the 5 min of",
     "fewer jobs, a higher rate, or a longer time"),
    ("refill_beyond_rto", {"rpo.critical.refresh_s": 900}, {"rpo.critical.refresh_s": 900, "backfill.burst": 50},
     "rpo.critical.refresh_s", "at least 23 min, beyond the 15 min after which critical is due again", "fewer jobs"),
    ("refresh_against_loss", {"rpo.critical.max_lost_minutes": 22, "backup.interval_s": 1320}, {"rpo.standard.max_lost_minutes": 60},
     "rpo.critical.max_lost_minutes", "of critical 22 min may be lost, but up to 23 min are not fetched", "a refresh at least as often"),
    ("refresh_against_loss", {"rpo.standard.max_lost_minutes": 59.5}, {"rpo.standard.max_lost_minutes": 60},
     "rpo.standard.max_lost_minutes", "of standard 3,570 s may be lost, but up to 1 h are not fetched yet", "a refresh at least as often"),
    ("refresh_beyond_age", {"rpo.standard.max_age_s": 3600}, {"rpo.standard.max_age_s": 3601},
     "rpo.standard.refresh_s", "standard is refreshed every 1 h, and may be 1 h old", "begins and ends before max_age_s"),
    ("tier_beyond_class", {"rpo.low.max_age_s": 86_400}, {"rpo.low.max_age_s": 86_399.9},
     "rpo.low.max_age_s", "low may be 24 h old, and from 24 h on, that included, data is missing", "below staleness.stale.below_s"),
    ("refresh_beyond_rate", FEW | {"rpo.standard.refresh_s": 1380}, FEW | {"backfill.requests_per_minute": 3.2},
     "backfill.requests_per_minute", "refreshing every tier takes at least 187 requests an hour, and 180 are allowed", "fewer symbols"),
    ("trials_prove_nothing", {"trials.proven_share": 0.95, "trials.each": 58}, {"trials.proven_share": 0.95, "trials.each": 59},
     "trials.each", "58 trials prove at best that 94.9 % of recoveries meet it, with 95 % confidence, not 95 %", "or proven_share: null"),
    ("trials_prove_nothing", {"trials.proven_share": 0.95}, {"trials.proven_share": None},
     "trials.each", "5 trials prove at best that 54.9 % of recoveries meet it, with 95 % confidence, not 95 %", "at least 59 trials"),
    ("clock_resolution", {"rto.feature_failure.objective_s": 0.09}, {"rto.feature_failure.objective_s": 0.1},
     "rto.feature_failure.objective_s", "90 ms, with a probe every 50 ms", "at least 2 periods"),
    ("clock_resolution", {"prober.timeout_s": 0.4}, {"prober.timeout_s": 0.5},
     "prober.timeout_s", "a probe ends after 400 ms, before the 500 ms after which it is slow", "at least slow_s"),
]
# fmt: on


def test_every_rule_has_a_planted_case_and_a_sound_plan_breaks_none() -> None:
    """None is without a test, no name stands for two rules, and what a test below finds is what it has planted."""
    assert {rule for rule, *_ in PLANTED} == {*STRUCTURAL, *EXPLAINABLE}
    assert not set(STRUCTURAL) & set(EXPLAINABLE)
    assert find(plan({})) == told(plan({})) == []


@pytest.mark.parametrize(
    ("rule", "planted", "neighbour", "where", "finding", "change"), PLANTED, ids=[f"{one[0]}-{one[3]}" for one in PLANTED]
)
def test_a_planted_contradiction_is_refused_until_it_is_explained(
    rule: str, planted: Changes, neighbour: Changes, where: str, finding: str, change: str
) -> None:
    """Found alone, with figures and what to change, and not at the edge beside it; an explanation settles it, but for the structure."""
    (one,) = find(plan(planted))
    assert (one.rule, one.where, one.explained) == (rule, where, "")
    assert finding in one.finding and change in one.change
    assert find(plan(neighbour)) == []
    (problem,) = told(plan(planted))
    assert (problem.file, problem.key, problem.got) == ("x.yaml", where, f"{one.finding} ({rule})")
    assert problem.allowed == one.change + (f"; or explained: {{{rule}: why both hold}}" if rule in EXPLAINABLE else "")
    explained = plan({**planted, "explained": {rule: "it is meant so"}})
    is_settled = rule in EXPLAINABLE
    assert [problem.key for problem in told(explained)] == ([] if is_settled else [where, f"explained.{rule}"])
    assert [one.explained for one in find(explained)] == ["it is meant so" if is_settled else ""]


def test_all_problems_are_told_at_once() -> None:
    """Unexplained contradictions, stale explanations, and names of no rule."""
    explained = {"refill_beyond_rto": "gone", "no_such_rule": "x", "order_against_tiers": "x"}
    bad = plan({"rpo.low.max_age_s": 86_400, "backfill.backoff_max_s": 29, "explained": explained})
    found = {problem.key: f"{problem.got}; {problem.allowed}" for problem in told(bad)}
    stale = [f"explained.{rule}" for rule in sorted(explained)]
    assert list(found) == ["backfill.retries_s", "rpo.low.max_age_s", *stale]
    assert "one of backoff_beyond_rto, backup_against_loss" in found["explained.no_such_rule"]
    assert "where none is accepted" in found["explained.order_against_tiers"]
    assert "a contradiction that is not there" in found["explained.refill_beyond_rto"]


def test_what_is_wrong_in_a_file_is_told_once_and_with_its_line(tmp_path: Path) -> None:
    """That of the profile whose own value it is; a key that is not written, by what holds it; what every profile has, in the file."""
    file = tmp_path / "rto_rpo.yaml"
    text = TEXT.replace("  timeout_s: 2.0\n", "").replace("  slow_s: 0.5 ", "  slow_s: 2.5 ")
    text += "  sure: {trials: {each: 20, proven_share: 0.95}}\n  blamed: {explained: {retries_beyond_cap: x}}\n"
    file.write_text(text)
    found = refused(file)
    at = {key: text[: text.index(key)].count("\n") + 1 for key in ("prober:", "  sure:")}
    assert found.pop("explained.retries_beyond_cap") is not None
    assert found == {"prober.timeout_s": at["prober:"], "profiles.sure.trials.each": at["  sure:"]}
    file.write_text(TEXT.replace("backoff_max_s: 300", "backoff_max_s: 20"))
    assert list(refused(file)) == ["backfill.retries_s"]


def test_a_contradiction_of_a_profile_alone_may_be_explained_for_all(tmp_path: Path) -> None:
    """And needs to be; what the file has explained and a profile does not break is no stale explanation."""
    file = tmp_path / "rto_rpo.yaml"
    text = TEXT + "  sure: {trials: {each: 20, proven_share: 0.95}}\n"
    file.write_text(text)
    assert list(refused(file)) == ["profiles.sure.trials.each"]
    file.write_text(text.replace("explained:\n", "explained:\n  trials_prove_nothing: not all of them on one day\n"))
    assert read_plan(file, profile="sure").trials.each == 20
    assert read_plan("config/rto_rpo.yaml", profile="once").explained == SHIPPED.explained


def test_our_own_plan_contradicts_itself_where_the_objectives_do_and_says_why() -> None:
    """The backoff's 36 s, the refill's 23 min, the refresh without loss, and the age of a day."""
    assert {(one.rule, one.where) for one in find(SHIPPED)} == {
        ("backoff_beyond_rto", "backfill.retries_s"),
        ("refill_beyond_rto", "rto.scheduler_crash.objective_s"),
        ("refill_beyond_rto", "rpo.critical.refresh_s"),
        ("refresh_against_loss", "rpo.critical.max_lost_minutes"),
        ("backup_against_loss", "backup.interval_s"),
        ("refresh_beyond_age", "rpo.low.refresh_s"),
        ("tier_beyond_class", "rpo.low.max_age_s"),
    }
    assert all(len(one.explained.split()) > 20 for one in find(SHIPPED))
    assert {one.rule for one in find(SHIPPED)} == set(SHIPPED.explained)


def test_a_failure_without_an_objective_contradicts_nothing() -> None:
    """A plan for a target without such a part."""
    data = plan({}).model_dump(mode="json")
    data["rto"] = {"api_crash": data["rto"]["api_crash"]}
    assert find(RecoveryPlan.model_validate(data)) == []


def test_what_a_refill_and_a_refresh_need_follows_from_the_plan() -> None:
    """125 jobs, 10 at once, at 5 a minute; 4 symbols four times an hour, 10 once and 11 once a day, of 5 timeframes each."""
    assert (refill_floor_s(SHIPPED), refill_floor_s(plan({"backfill.burst": 200}))) == (23 * 60, 0)
    assert refresh_requests_per_h(SHIPPED) == pytest.approx(4 * 5 * 4 + 10 * 5 + 11 * 5 / 24)
    unknown = plan(FEW | {"backfill.timeframes": None, "rpo.standard.refresh_s": 1380})
    assert refresh_requests_per_h(unknown) is None and find(unknown) == []
    hourly = {"rpo.critical.refresh_s": 3600, "rpo.critical.max_age_s": 7200, "rpo.critical.max_lost_minutes": 60}
    exact = plan({**hourly, "rpo.low.refresh_s": 39_600, "backfill.requests_per_minute": 1.25, "backfill.burst": 125})
    assert refresh_requests_per_h(exact) == 75 and find(exact) == [], "75 requests an hour where 75 are allowed"


def test_the_share_that_trials_support_is_that_of_the_exact_bound() -> None:
    """0.05 to the power of 1/N: 54.9 % for 5 trials, and more than 95 % from 59 on."""
    for n in (1, 5, 58, 59):
        assert intervals.ratio_lower_bound(n, n) == pytest.approx(0.05 ** (1 / n))
        assert (not find(plan({"trials.each": n, "trials.proven_share": 0.95}))) == (intervals.ratio_lower_bound(n, n) > 0.95)
