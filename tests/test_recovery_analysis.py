"""What a recovery run says: the worst of its trials, what they prove, and no verdict where there is nothing to judge by."""

import datetime as dt
import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recoveries import BAD, DEGRADED, FULL, ONCE, PLAN, S, age, ages, bar, crash, probes, recording, steady, trial

from tapecheck.recording import STOPPED
from tapecheck.recovery import analysis, findings, frames
from tapecheck.recovery.analysis import Loss
from tapecheck.recovery.objectives import RecoveryPlan
from tapecheck.recovery.recording import INVALID, Audit, Recording, WrittenBar
from tapecheck.recovery.timeline import Seen
from tapecheck.recovery.validation import history, recovery
from tapecheck.runs import folders
from tapecheck.verdict import Check, Verdict

PASS, FAIL, NO_DATA, NOT_PROVEN, UNCLEAR = Verdict.PASS, Verdict.FAIL, Verdict.NO_DATA, Verdict.NOT_PROVEN, Verdict.INVALID
RECOVER, GONE = "api_crash recover_s", "target gone_bars"


def judged(made: Recording, plan: RecoveryPlan = ONCE) -> dict[str, Check]:
    """Return the checks of a recording by name and metric."""
    found = analysis.check(analysis.summarize(made, plan), plan)
    return {f"{check.name} {check.objective.partition(' ')[0]}": check for check in found}


def outages(*seconds: float, drill: str = "api_killed", **more: Any) -> Recording:
    """Return a recording of one drill with outages of so many seconds."""
    return recording([(trial(drill, n, **more), {"service": crash(1.0, 1.0 + s)}) for n, s in enumerate(seconds, 1)])


def seen_as(drill: str, states: Mapping[float, int], **more: Any) -> Recording:
    """Return a recording of a drill during which a view had each state from a time on."""
    rows = [(at, at + 0.002, [state for from_s, state in states.items() if at >= from_s][-1]) for at in steady(25)]
    return recording([(trial(drill, **more), {"service": probes(rows)})])


def drilled(**more: Any) -> list[tuple[Any, Mapping[str, Seen]]]:
    """Return a trial of a killed database that was away for a second."""
    return [(trial("database_killed", **more), {"service": crash(1.0, 2.0)})]


def proving(share: float | None) -> RecoveryPlan:
    return ONCE.model_copy(update={"trials": ONCE.trials.model_copy(update={"proven_share": share})})


UNASKED = [age(symbol, answer=None) for tier in PLAN.rpo.values() if tier.symbols != "others" for symbol in tier.symbols]
UNSTEADY = {"state": INVALID, "reason": "it was not steady"}
OLD = recording(audit=ages(age("SPY", database_s=5400.0), age("AAPL", reported_s=7200.0), age("EEM", reported_s=None)))
TIERS = recording(drilled(gone_bars=0), audit=ages(age("SPY"), age("AAPL")), bars=[bar("SPY", 0, drill="database_killed")])
LOST = {n: recording(bars=[bar("SPY", 0), *(bar("AAPL", 5 * i, "lost") for i in range(n))]) for n in (12, 13)}
ENDLESS = "not over when watching ended after 5 s, which is less than the objective"
# what was recorded, the check, its verdict, value and the end of its reason
CASES: dict[str, tuple[Recording, str, Verdict, float | None, str]] = {
    "in time": (outages(1.0), RECOVER, PASS, 1.0, ""),
    "the worst trial decides": (outages(1.0, 70.0, 2.0), RECOVER, FAIL, 70.0, ""),
    "not over, before the objective was": (outages(99.0), RECOVER, UNCLEAR, math.inf, f"api_killed, trial 1: {ENDLESS}"),
    "not over, after the objective was": (
        seen_as("feature_failure", {0: FULL, 1: BAD}), "feature_failure degraded_s", FAIL, math.inf, "",
    ),
    "by the clock that counts": (
        seen_as("feature_failure", {0: FULL, 1: BAD, 1.5: DEGRADED, 20: FULL}), "feature_failure degraded_s", PASS, 0.5, "",
    ),
    "nobody saw the fault": (seen_as("api_killed", {0: FULL}), RECOVER, UNCLEAR, None, "so that there was nothing to recover from"),
    "a fault that may be unseen": (seen_as("api_killed", {0: FULL}, may_be_unseen=True), RECOVER, PASS, 0.0, ""),
    "seen before it was noted": (seen_as("api_killed", {0: FULL, 0.9: BAD, 2.0: FULL}), RECOVER, PASS, 1.0, ""),
    "an invalid trial": (outages(1.0, **UNSTEADY), RECOVER, UNCLEAR, None, "api_killed, trial 1: it was not steady"),
    "missed beside an invalid trial": (
        recording([(trial("api_killed"), {"s": crash(1, 80)}), (trial("api_killed", 2, **UNSTEADY), {"s": crash(1, 2)})]),
        RECOVER, FAIL, 79.0, "",
    ),
    "steady afterwards": (outages(1.0), "target unsteady_after", PASS, 0, ""),
    "unsteady afterwards": (outages(1.0, steady_after=False), "target unsteady_after", FAIL, 1, ""),
    "no answer was tried": (recording(audit=ages(*UNASKED, database=False)), "target wrong_answers", NO_DATA, 0, "answer"),
    "no database answered": (recording(audit=ages(*UNASKED, database=False)), "target false_ages", NO_DATA, 0, "answer"),
    "a lie without a database": (
        recording(audit=ages(*UNASKED, age("EEM", reported_s=-60.0, answer=None), database=False)), "target false_ages", FAIL, 1, "",
    ),
    "no database is named": (
        recording(audit=ages(database=False, named=False)), "target false_ages", PASS, 0,
        "the target file names no database (backfill.database_url)",
    ),
    "a tier of which bars were written": (TIERS, "critical lost_minutes", PASS, 0, ""),
    "a tier of which none was": (TIERS, "standard lost_minutes", NO_DATA, 0, ""),
    "old by the database": (OLD, "critical age_s", FAIL, 5400.0, ""),
    "not too old": (OLD, "standard age_s", PASS, 7200.0, ""),
    "never there": (OLD, "low age_s", FAIL, math.inf, "1 series are not there, such as EEM 1d"),
    "an hour of bars lost": (LOST[12], "standard lost_minutes", PASS, 60.0, ""),
    "more than an hour lost": (LOST[13], "standard lost_minutes", FAIL, 65.0, ""),
    "a bar of the critical tier lost": (recording(bars=[bar("SPY", 0, "lost"), bar("SPY", 5)]), "critical lost_minutes", FAIL, 5.0, ""),
    "bars that nobody could read": (
        recording(bars=[bar("SPY", 0), bar("SPY", 5, "never_read")]), "critical lost_minutes", UNCLEAR, 0,
        "1 acknowledged bars could not be read again",
    ),
    "live bars that are gone": (recording(drilled(gone_bars=3)), GONE, FAIL, 3, ""),
    "loss that was not counted": (recording(drilled(unrecorded="no bars")), "loss lost_minutes", NO_DATA, None, ""),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_objective_has_its_verdict(case: str) -> None:
    """With the value that was judged, and the reason where that is not plain."""
    made, name, verdict, value, reason = CASES[case]
    found = judged(made)[name]
    assert (found.verdict, found.value) == (verdict, value if value is None else pytest.approx(value, abs=0.1)), found
    assert (found.reason or "").endswith(reason)


@pytest.mark.parametrize(
    ("share", "trials", "verdict"), [(None, 1, PASS), (0.5, 4, NOT_PROVEN), (0.5, 5, PASS), (0.95, 58, NOT_PROVEN), (0.95, 59, PASS)]
)
def test_how_many_trials_prove_a_share(share: float | None, trials: int, verdict: Verdict) -> None:
    """Five for half of all recoveries, 59 for 95 %, with 95 % confidence; without a share a pass says only what was tried."""
    found = judged(outages(*[1.0] * trials), proving(share))[RECOVER]
    assert (found.verdict, found.n) == (verdict, trials)
    assert (f"too few samples ({trials}); at least {trials + 1} needed" in found.reason) == (verdict == NOT_PROVEN)


def test_no_drill_stands_for_another() -> None:
    """Five trials of one drill and one of another of the same failure prove what one trial does."""
    rows = [(trial("api_killed", n), {"service": crash(1.0, 2.0)}) for n in range(1, 6)]
    made = recording([*rows, (trial("api_frozen", 1, failure="api_crash"), {"service": crash(1.0, 2.0)})])
    summary = analysis.summarize(made, proving(0.5)).rto["api_crash"]
    assert (summary.recover_s.n, summary.recover_s.upper) == (1, None)
    assert summary.proven_share == pytest.approx(0.05)
    assert judged(made, proving(0.5))["api_crash recover_s"].verdict == NOT_PROVEN


def test_an_audit_under_which_the_sandbox_was_stopped_blames_nobody() -> None:
    """Neither ages, answers nor alerts count against it: their checks are invalid with the reason, and the one finding says why."""
    made = recording(audit=Audit(invalid=STOPPED), bars=[bar("SPY", 0, "stable")])
    summary, checks = analysis.summarize(made, PLAN), judged(made, PLAN)
    audited = [f"{tier} age_s" for tier in PLAN.rpo] + ["target false_ages", "target wrong_answers"]
    assert {name: one.verdict for name, one in checks.items() if one.reason == STOPPED} == dict.fromkeys(audited, UNCLEAR)
    assert checks["critical lost_minutes"].verdict == PASS, "what was recorded during drills still counts"
    assert (summary.false_ages, summary.wrong_answers, summary.alerts, summary.freshness) == (None, None, [], {})
    assert [one.name for one in findings.find(made, summary, PLAN)] == ["sandbox_stopped"]


def test_freshness_loss_is_of_valid_trials_and_never_endless() -> None:
    """A trial that says nothing has no share in it; one that did not end counts as long as it was watched."""
    rows = [
        (trial("database_killed", 1, state=INVALID, reason="x"), {"service": crash(1.0, 99.0)}),
        (trial("database_killed", 2), {"service": crash(1.0, 4.0)}),
    ]
    made = recording(rows, bars=[bar("SPY", 0, drill="database_killed")])
    assert analysis.summarize(made, ONCE).rpo["critical"].freshness_loss_minutes == pytest.approx(3 / 60, abs=0.002)
    endless = recording([(trial("database_killed"), {"service": crash(1.0, 99.0)})], bars=[bar("SPY", 0, drill="database_killed")])
    assert analysis.summarize(endless, ONCE).rpo["critical"].freshness_loss_minutes == pytest.approx(5 / 60, abs=0.005)


@pytest.mark.parametrize(
    ("back_s", "sent_s", "verdict"),
    [
        (2.0, (), PASS),  # 1 s of 60, probed all the time
        (2.0, (1.5, 50.0), PASS),  # back after 50 s at the latest
        (59.0, (40.0, 63.0), UNCLEAR),  # after 39 to 62 s
        (66.0, (65.0, 70.0), FAIL),  # after more than 64 s, whatever passed then
        (2.0, (10.0, 71.0), UNCLEAR),  # a relapse as long as the objective would not have been seen
        (2.0, (10.0, 69.5), UNCLEAR),  # nor one that exceeds it together with the second that was seen
        (2.0, (10.0, 68.0), PASS),  # 1 s and 58 s are less than 60 s
        (30.0, (40.0, 72.0), UNCLEAR),  # 29 s and 32 s are more
    ],
)
def test_a_busy_machine_decides_nothing_where_it_does_not_matter(back_s: float, sent_s: tuple[float, ...], verdict: Verdict) -> None:
    """No probe was sent between two times: a recovery in time is one all the same, and a miss by less than that is none."""
    whole = crash(1.0, back_s, until_s=75.0)
    kept = ~((whole.sent_ns > sent_s[0] * S) & (whole.sent_ns < sent_s[1] * S)) if sent_s else np.ones(len(whole.sent_ns), bool)
    check = judged(recording([(trial("api_killed"), {"service": whole.kept(kept)})]))[RECOVER]
    assert check.verdict == verdict, check
    assert (" s passed without a probe, too long to tell whether a recovery of " in check.reason) == (verdict == UNCLEAR)


def test_planted_ages_are_no_ages() -> None:
    """What was made old on purpose counts for how it was answered, and for nothing else."""
    made = recording(audit=ages(age("SPY"), age("EEM"), planted=[age("EEM", reported_s=1e5, answer="plain")]))
    found = judged(made)
    assert found["low age_s"].verdict == PASS
    assert (found["target wrong_answers"].value, found["target wrong_answers"].verdict) == (1, FAIL)
    summary = analysis.summarize(made, ONCE)
    assert (summary.freshness["EEM"].age_s, summary.rpo["low"].worst_age_s) == (60.0, 60.0)


def test_a_run_of_definitions_is_judged_by_its_contradictions() -> None:
    """Nothing else was asked for."""
    assert list(judged(recording())) == ["policy unexplained_contradictions"]


@pytest.mark.parametrize(
    ("made", "name", "said"),
    [
        (outages(99.0), "rto_missed", "api_crash: recovery was not over when watching ended, more than the objective of 60 s"),
        (
            recording([(trial("api_killed"), {"service": crash(1, 1201, until_s=1205)})]), "rto_missed",
            "api_crash: recovery took 1,200 s, more than the objective of 60 s",
        ),
        (outages(45.0), "rto_near", "api_crash: recovery took 45 s, near the objective of 60 s"),
        (outages(1.0, may_report=True), "undetected", "the target itself never reported api_killed, although probes saw it"),
        (outages(1.0, steady_after=False), "not_steady_after", "api_killed: the steady state did not come back"),
        (outages(1.0), "untested", "no drill of this run tests scheduler_crash"),
        (recording(drilled(unrecorded="no bars")), "unrecorded", "loss could not be counted during database_killed: no bars"),
        (recording(audit=ages(unplanted="no series")), "unplanted", "how old data is answered was not tried: no series"),
        (recording(bars=[bar("SPY", 0, "lost")]), "lost_bars", "critical: 1 bars that the database had acknowledged are gone"),
        (OLD, "false_age", "SPY 1d: reports an age of 60 s, while its database has 5400 s"),
        (recording(audit=ages(age("EEM", reported_s=1e5, answer="plain"))), "wrong_answer", "EEM 1d: answered with data without a warning"),
        (
            recording(audit=ages(*(age(f"X{n}", reported_s=None) for n in range(20)))), "alert_warning",
            "20 of 34 series are stale or missing",
        ),
    ],
)  # fmt: skip
def test_each_rule_tells_its_cause(made: Recording, name: str, said: str) -> None:
    """A finding says what, with the figures and what to do."""
    found = {one.name: one for one in findings.find(made, analysis.summarize(made, PLAN), PLAN)}
    assert found[name].finding.startswith(said) and found[name].evidence and found[name].action


@pytest.mark.parametrize(("may_report", "count", "shown"), [(True, 1, "never"), (False, 0, "no view could report it"), (None, 0, "never")])
def test_only_a_target_that_could_tell_is_said_not_to_have(may_report: bool | None, count: int, shown: str) -> None:
    """A drill that watches no view with `reports` says nothing of whether the target noticed; nor does a recording that does not say."""
    made = outages(1.0, may_report=may_report)
    summary = analysis.summarize(made, ONCE)
    assert summary.rto["api_crash"].undetected == count
    assert [one.name for one in findings.find(made, summary, ONCE)].count("undetected") == count
    assert list(frames.trials(summary)["time to detect (s)"]) == [shown]


def test_a_run_without_trouble_finds_nothing() -> None:
    """Rules that always fire say nothing."""
    made = recording(audit=ages(age("SPY")))
    assert findings.find(made, analysis.summarize(made, ONCE), ONCE) == []


def test_a_notebook_that_only_reads_imports_no_client_and_no_driver() -> None:
    """Who analyses a recorded run waits for none of what measuring needs."""
    command = [sys.executable, "-c", "import sys, tapecheck.recovery.validation; print(*sys.modules)"]
    imported = set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert "tapecheck.recovery.analysis" in imported and not {"chaoslib", "httpx", "anyio", "psycopg"} & imported


def test_the_history_is_of_valid_trials_of_every_run_of_the_target(tmp_path: Path) -> None:
    """Those of a run that a drill ended and that was never recorded are among them; those of another target are not."""
    made = outages(1.0, 2.0)
    left = replace(made, context=replace(made.context, run_id="20251231T000000Z-0000", started_at=dt.datetime(2025, 12, 31, tzinfo=dt.UTC)))
    other = replace(made.context, run_id="20251230T000000Z-0000", target=replace(made.context.target, name="other"))
    invalid = outages(1.0, state=INVALID, reason="x")
    for one in (left, replace(made, context=other), replace(invalid, context=replace(invalid.context, run_id="20251229T000000Z-0000"))):
        folders.keep(one.context.run_id, one.stored(), "rto_rpo", out=tmp_path)
    past = history(made, ONCE, str(tmp_path))
    assert [(one.at.day, one.failure) for one in past] == [(31, "api_crash")] * 2 + [(1, "api_crash")] * 2
    assert [one.recover_s for one in past] == pytest.approx([1.0, 2.0] * 2, abs=0.06)
    assert len(history(made, ONCE, "")) == 2
    table = frames.history(past, ONCE, dt.datetime(2026, 1, 11, tzinfo=dt.UTC))
    assert table.loc["api_crash"].tolist() == [4, "10.0"]
    assert table.loc["database_loss"].tolist() == [0, "never"]


def test_the_slowest_recovery_is_the_slowest_of_all_trials() -> None:
    """Whichever trial of its drill it was."""
    for times in ((9.0, 1.0), (1.0, 9.0)):
        assert "Slowest recovery: 9.002 s (api_killed)." in recovery.analyse(outages(*times), ONCE).said


# ---- loss ----


@pytest.mark.parametrize(
    ("bars", "expected"),
    [
        ([], {}),
        ([bar("SPY", 0)], {"critical": Loss(acknowledged_bars=1)}),
        ([bar("SPY", 0, "unknown")], {"critical": Loss(unknown_bars=1)}),
        ([bar("SPY", 0, "never_read")], {"critical": Loss(acknowledged_bars=1, never_read_bars=1)}),
        (
            [
                *(bar("AAPL", minutes, "lost") for minutes in (0, 5)), bar("AAPL", 10), bar("MSFT", 0, "lost", refetchable=True),
                bar("JPM", 0, "lost", refetchable=False),
            ],
            {
                "standard": Loss(acknowledged_bars=4, lost_bars=3, lost_minutes=10, refetchable_bars=1),
                "low": Loss(acknowledged_bars=1, lost_bars=1, lost_minutes=5, unrecoverable_bars=1),
            },
        ),
        (
            [bar("SPY", 0, "lost", minutes=60), bar("SPY", 60, "lost", minutes=1440), bar("QQQ", 0, "lost", minutes=5)],
            {"critical": Loss(acknowledged_bars=3, lost_bars=3, lost_minutes=1500)},
        ),
        (
            [bar("AAPL", 5 * n, "lost", trial=trial) for trial, count in ((1, 1), (2, 3), (3, 2)) for n in range(count)],
            {"standard": Loss(acknowledged_bars=6, lost_bars=6, lost_minutes=15)},
        ),
    ],
    ids=["none", "stable", "unknown", "never read", "tiers and symbols", "long bars", "the worst of several trials"],
)  # fmt: skip
def test_bars_become_minutes_of_symbols_and_tiers(bars: list[WrittenBar], expected: dict[str, Loss]) -> None:
    """Each bar counts once, by its fate; minutes are those that one symbol lost in one trial, and an unanswered commit is no promise."""
    assert analysis.losses_of(bars, [], PLAN) == expected


def test_a_symbol_without_a_tier_is_not_left_out() -> None:
    """Its loss stands under no name."""
    alone = PLAN.model_copy(update={"rpo": {"critical": PLAN.rpo["critical"]}})
    assert analysis.losses_of([bar("XRP", 0, "lost")], [], alone)[""].lost_bars == 1
