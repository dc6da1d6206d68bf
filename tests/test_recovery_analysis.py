"""What a recovery run says: the worst of its trials, what they prove, and no verdict where there is nothing to judge by."""

import datetime as dt
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recoveries import BAD, FULL, ONCE, PLAN, S, age, ages, bar, crash, probes, recording, steady, trial

from tapecheck.recording import STOPPED
from tapecheck.recovery import analysis, findings, frames, history
from tapecheck.recovery import validation as recovery
from tapecheck.recovery.analysis import Loss
from tapecheck.recovery.objectives import RecoveryPlan
from tapecheck.recovery.recording import INVALID, Audit, Recording, WrittenBar
from tapecheck.recovery.timeline import Seen
from tapecheck.runs import folders
from tapecheck.verdict import Check, Verdict


def judged(made: Recording, plan: RecoveryPlan = ONCE) -> dict[str, Check]:
    """Return the checks of a recording by name and metric."""
    found = analysis.check(analysis.summarize(made, plan), plan)
    return {f"{check.name} {check.objective.partition(' ')[0]}": check for check in found}


def outages(*seconds: float, drill: str = "api_killed", **more: Any) -> Recording:
    """Return a recording of one drill with outages of so many seconds."""
    return recording([(trial(drill, n, **more), {"service": crash(1.0, 1.0 + s)}) for n, s in enumerate(seconds, 1)])


def proving(share: float | None) -> RecoveryPlan:
    return ONCE.model_copy(update={"trials": ONCE.trials.model_copy(update={"proven_share": share})})


def test_a_recovery_within_its_objective_passes() -> None:
    """One second of a minute."""
    found = judged(outages(1.0))["api_crash recover_s"]
    assert (found.verdict, found.n, found.objective) == (Verdict.PASS, 1, "recover_s <= 60")
    assert found.value == pytest.approx(1.0, abs=0.06)


def test_the_worst_trial_decides() -> None:
    """Two that are quick do not excuse one that is not."""
    made = outages(1.0, 70.0, 2.0)
    assert judged(made)["api_crash recover_s"].verdict == Verdict.FAIL
    assert analysis.summarize(made, ONCE).rto["api_crash"].recover_s.max == pytest.approx(70.0, abs=0.06)


def test_what_was_not_over_never_passes() -> None:
    """Watching that ended after five seconds proves nothing about a minute, and nothing good: neither a pass nor a miss."""
    made = outages(99.0)
    found = judged(made)["api_crash recover_s"]
    assert (found.verdict, found.value) == (Verdict.INVALID, math.inf)
    assert found.reason == "api_killed, trial 1: not over when watching ended after 5 s, which is less than the objective"


def test_what_was_not_over_after_its_objective_is_missed() -> None:
    """Five seconds of watching in vain are more than the one that was promised."""
    rows = [(at, at + 0.002, BAD if at >= 1 else FULL) for at in steady(6)]
    found = judged(recording([(trial("feature_failure"), {"scheduler": probes(rows)})]))["feature_failure degraded_s"]
    assert (found.verdict, found.value) == (Verdict.FAIL, math.inf)


@pytest.mark.parametrize(
    ("share", "trials", "verdict"),
    [
        (None, 1, Verdict.PASS),
        (0.5, 4, Verdict.NOT_PROVEN),
        (0.5, 5, Verdict.PASS),
        (0.95, 58, Verdict.NOT_PROVEN),
        (0.95, 59, Verdict.PASS),
    ],
)
def test_how_many_trials_prove_a_share(share: float | None, trials: int, verdict: Verdict) -> None:
    """Five for half of all recoveries, 59 for 95 %, with 95 % confidence; without a share a pass says only what was tried."""
    found = judged(outages(*[1.0] * trials), proving(share))["api_crash recover_s"]
    assert found.verdict == verdict
    if verdict == Verdict.NOT_PROVEN:
        assert f"too few samples ({trials}); at least {trials + 1} needed" in found.reason


def test_no_drill_stands_for_another() -> None:
    """Five trials of one drill and one of another of the same failure prove what one trial does."""
    rows = [(trial("api_killed", n), {"service": crash(1.0, 2.0)}) for n in range(1, 6)]
    made = recording([*rows, (trial("api_frozen", 1, failure="api_crash"), {"service": crash(1.0, 2.0)})])
    summary = analysis.summarize(made, proving(0.5)).rto["api_crash"]
    assert (summary.recover_s.n, summary.recover_s.upper) == (1, None)
    assert summary.proven_share == pytest.approx(0.05)
    assert judged(made, proving(0.5))["api_crash recover_s"].verdict == Verdict.NOT_PROVEN


def test_a_fault_that_nobody_saw_is_no_recovery() -> None:
    """Zero seconds of nothing would pass every objective; only a fault that says by itself that it happened may be unseen."""
    calm = {"service": probes([(at, at + 0.002, FULL) for at in steady(6)])}
    found = judged(recording([(trial("api_killed"), calm)]))["api_crash recover_s"]
    assert (found.verdict, found.value) == (Verdict.INVALID, None)
    assert found.reason.endswith("no probe saw any effect of the fault, so that there was nothing to recover from")
    assert judged(recording([(trial("api_killed", may_be_unseen=True), calm)]))["api_crash recover_s"].verdict == Verdict.PASS


def test_a_fault_that_a_probe_met_before_it_was_noted_was_seen() -> None:
    """A probe between the kill and the note of it makes no later one worse than those before; the service was not whole for 1 s."""
    states = [(at, at + 0.002, BAD if 0.9 <= at < 2.0 else FULL) for at in steady(6)]
    found = judged(recording([(trial("api_killed"), {"service": probes(states)})]))["api_crash recover_s"]
    assert found.verdict == Verdict.PASS
    assert found.value == pytest.approx(1.0, abs=0.1)


def test_a_target_that_stays_unsteady_fails() -> None:
    """Its probes were well, and its steady state did not come back."""
    found = judged(outages(1.0, steady_after=False))["target unsteady_after"]
    assert (found.verdict, found.value, found.n) == (Verdict.FAIL, 1, 1)
    assert judged(outages(1.0))["target unsteady_after"].verdict == Verdict.PASS


def test_an_audit_under_which_the_sandbox_was_stopped_blames_nobody() -> None:
    """Neither ages, answers nor alerts count against it: their checks are invalid with the reason, and the one finding says why."""
    made = recording(audit=Audit(invalid=STOPPED), bars=[bar("SPY", 0, "stable")])
    summary, checks = analysis.summarize(made, PLAN), judged(made, PLAN)
    audited = [f"{tier} age_s" for tier in PLAN.rpo] + ["target false_ages", "target wrong_answers"]
    assert {name: one.verdict for name, one in checks.items() if one.reason == STOPPED} == dict.fromkeys(audited, Verdict.INVALID)
    assert checks["critical lost_minutes"].verdict == Verdict.PASS, "what was recorded during drills still counts"
    assert (summary.false_ages, summary.wrong_answers, summary.alerts, summary.freshness) == (None, None, [], {})
    assert [one.name for one in findings.find(made, summary, PLAN)] == ["sandbox_stopped"]


def test_what_was_never_asked_is_no_data() -> None:
    """Neither answers that nobody tried nor ages whose database did not answer are right; a lie that was found all the same counts."""
    everywhere = [age(symbol, answer=None) for tier in PLAN.rpo.values() if tier.symbols != "others" for symbol in tier.symbols]
    unasked = judged(recording(audit=ages(*everywhere, database=False)))
    assert [unasked[f"target {name}"].verdict for name in ("wrong_answers", "false_ages")] == [Verdict.NO_DATA] * 2
    lied = judged(recording(audit=ages(*everywhere, age("EEM", reported_s=-60.0, answer=None), database=False)))
    assert lied["target false_ages"].verdict == Verdict.FAIL


def test_without_a_named_database_ages_are_held_against_the_api_alone() -> None:
    """Nobody demands a database that no target file names, and the check says what it could not be held against."""
    found = judged(recording(audit=ages(database=False, named=False)))["target false_ages"]
    assert (found.verdict, found.n > 0) == (Verdict.PASS, True)
    assert found.reason.endswith("the target file names no database (backfill.database_url)")


def test_a_tier_of_which_nothing_was_written_is_no_data() -> None:
    """Bars of one tier say nothing of another one's."""
    drilled = [(trial("database_killed", gone_bars=0), {"service": crash(1.0, 2.0)})]
    found = judged(recording(drilled, audit=ages(age("SPY"), age("AAPL")), bars=[bar("SPY", 0, drill="database_killed")]))
    assert found["critical lost_minutes"].verdict == Verdict.PASS
    assert found["standard lost_minutes"].verdict == Verdict.NO_DATA


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


def test_an_invalid_trial_makes_its_failure_invalid() -> None:
    """Steady state before, or the prober's own lateness: what was measured says nothing, and the reason is given."""
    unsteady = outages(1.0, state=INVALID, reason="the steady state did not hold before the fault")
    assert (judged(unsteady)["api_crash recover_s"].verdict, judged(unsteady)["api_crash recover_s"].reason) == (
        Verdict.INVALID,
        "api_killed, trial 1: the steady state did not hold before the fault",
    )


@pytest.mark.parametrize(
    ("back_s", "sent_s", "verdict"),
    [
        (2.0, (), Verdict.PASS),  # 1 s of 60, probed all the time
        (2.0, (1.5, 50.0), Verdict.PASS),  # back after 50 s at the latest
        (59.0, (40.0, 63.0), Verdict.INVALID),  # after 39 to 62 s
        (66.0, (65.0, 70.0), Verdict.FAIL),  # after more than 64 s, whatever passed then
        (2.0, (10.0, 71.0), Verdict.INVALID),  # a relapse as long as the objective would not have been seen
        (2.0, (10.0, 69.5), Verdict.INVALID),  # nor one that exceeds it together with the second that was seen
        (2.0, (10.0, 68.0), Verdict.PASS),  # 1 s and 58 s are less than 60 s
        (30.0, (40.0, 72.0), Verdict.INVALID),  # 29 s and 32 s are more
    ],
)
def test_a_busy_machine_decides_nothing_where_it_does_not_matter(back_s: float, sent_s: tuple[float, ...], verdict: Verdict) -> None:
    """No probe was sent between two times: a recovery in time is one all the same, and a miss by less than that is none."""
    whole = crash(1.0, back_s, until_s=75.0)
    kept = ~((whole.sent_ns > sent_s[0] * S) & (whole.sent_ns < sent_s[1] * S)) if sent_s else np.ones(len(whole.sent_ns), bool)
    seen = Seen(**{name: getattr(whole, name)[kept] for name in ("sent_ns", "done_ns", "state", "reported")}, serves=True)
    check = judged(recording([(trial("api_killed"), {"service": seen})], late_s=7.0))["api_crash recover_s"]
    assert check.verdict == verdict, check
    assert (" s passed without a probe, too long to tell whether a recovery of " in check.reason) == (verdict == Verdict.INVALID)


def test_a_missed_objective_fails_beside_an_invalid_trial() -> None:
    """What was seen to be too long stays so."""
    made = recording(
        [
            (trial("api_killed", 1), {"service": crash(1.0, 80.0)}),
            (trial("api_killed", 2, state=INVALID, reason="x"), {"service": crash(1.0, 2.0)}),
        ]
    )
    assert judged(made)["api_crash recover_s"].verdict == Verdict.FAIL


def test_the_promised_clock_counts() -> None:
    """A feature failure is judged by when the others went on, not by when the symbol itself was well again."""
    rows = [(at, at + 0.002, BAD if 1 <= at < 1.5 else 1 if at < 20 and at >= 1.5 else FULL) for at in steady(25)]
    made = recording([(trial("feature_failure"), {"scheduler": probes(rows)})])
    found = judged(made)["feature_failure degraded_s"]
    assert (found.verdict, found.value) == (Verdict.PASS, pytest.approx(0.5, abs=0.06))


def test_ages_are_judged_by_tier_and_by_what_the_database_says() -> None:
    """An API that says a minute does not hide an hour and a half, and what never was there is infinitely old."""
    made = recording(audit=ages(age("SPY", database_s=5400.0), age("AAPL", reported_s=7200.0), age("EEM", reported_s=None)))
    found = judged(made)
    assert (found["critical age_s"].verdict, found["critical age_s"].value) == (Verdict.FAIL, 5400.0)
    assert found["standard age_s"].verdict == Verdict.PASS
    assert (found["low age_s"].verdict, found["low age_s"].value) == (Verdict.FAIL, math.inf)
    assert found["low age_s"].reason == "1 series are not there, such as EEM 1d"


def test_planted_ages_are_no_ages() -> None:
    """What was made old on purpose counts for how it was answered, and for nothing else."""
    made = recording(audit=ages(age("SPY"), age("EEM"), planted=[age("EEM", reported_s=1e5, answer="plain")]))
    found = judged(made)
    assert found["low age_s"].verdict == Verdict.PASS
    assert (found["target wrong_answers"].value, found["target wrong_answers"].verdict) == (1, Verdict.FAIL)
    summary = analysis.summarize(made, ONCE)
    assert (summary.freshness["EEM"].age_s, summary.rpo["low"].worst_age_s) == (60.0, 60.0)


def test_lost_bars_are_judged_in_minutes_of_the_worst_symbol() -> None:
    """One bar of SPY is five minutes too many; twelve of AAPL are an hour, which its tier allows, thirteen are not."""
    kept = [bar("SPY", 0), *(bar("AAPL", 5 * n, "lost") for n in range(12))]
    found = judged(recording(bars=kept))
    assert (found["critical lost_minutes"].verdict, found["standard lost_minutes"].verdict) == (Verdict.PASS, Verdict.PASS)
    assert found["standard lost_minutes"].value == 60.0
    worse = judged(recording(bars=[bar("SPY", 0, "lost"), *(bar("AAPL", 5 * n, "lost") for n in range(13))]))
    assert (worse["critical lost_minutes"].verdict, worse["standard lost_minutes"].verdict) == (Verdict.FAIL, Verdict.FAIL)


def test_bars_that_nobody_could_read_prove_nothing() -> None:
    """Acknowledged and never read again: neither kept nor lost."""
    found = judged(recording(bars=[bar("SPY", 0), bar("SPY", 5, "never_read")]))
    assert found["critical lost_minutes"].verdict == Verdict.INVALID
    assert found["critical lost_minutes"].reason == "1 acknowledged bars could not be read again"


def test_live_bars_that_are_gone_fail() -> None:
    """Rows of the target's own tables that were there before a drill and not after it."""
    made = recording([(trial("database_killed", gone_bars=3), {"service": crash(1.0, 2.0)})])
    assert (judged(made)["target gone_bars"].value, judged(made)["target gone_bars"].verdict) == (3, Verdict.FAIL)


def test_loss_that_could_not_be_counted_is_no_data() -> None:
    """No bar written is no bar kept."""
    made = recording([(trial("database_killed", unrecorded="no bars can be recorded"), {"service": crash(1.0, 2.0)})])
    assert judged(made)["loss lost_minutes"].verdict == Verdict.NO_DATA
    found = {one.name: one.finding for one in findings.find(made, analysis.summarize(made, ONCE), ONCE)}
    assert found["unrecorded"] == "loss could not be counted during database_killed: no bars can be recorded"


def test_a_run_of_definitions_is_judged_by_its_contradictions() -> None:
    """Nothing else was asked for."""
    assert list(judged(recording())) == ["policy unexplained_contradictions"]


def test_a_failure_that_nobody_tested_is_found() -> None:
    """Not judged, but told."""
    made = outages(1.0)
    found = findings.find(made, analysis.summarize(made, ONCE), ONCE)
    assert next(one for one in found if one.name == "untested").finding.startswith("no drill of this run tests scheduler_crash")


@pytest.mark.parametrize(
    ("made", "name", "said"),
    [
        (outages(99.0), "rto_missed", "api_crash: recovery was not over when watching ended, more than the objective of 60 s"),
        (outages(45.0), "rto_near", "api_crash: recovery took 45 s, near the objective of 60 s"),
        (outages(1.0, may_report=True), "undetected", "the target itself never reported api_killed, although probes saw it"),
        (outages(1.0, steady_after=False), "not_steady_after", "api_killed: the steady state did not come back"),
        (recording(bars=[bar("SPY", 0, "lost")]), "lost_bars", "critical: 1 bars that the database had acknowledged are gone"),
        (
            recording(audit=ages(age("SPY", database_s=7200.0))),
            "false_age",
            "SPY 1d: reports an age of 60 s, while its database has 7200 s",
        ),
        (
            recording(audit=ages(*(age(f"X{n}", reported_s=None) for n in range(20)))),
            "alert_warning",
            "20 of 34 series are stale or missing",
        ),
    ],
)
def test_each_rule_tells_its_cause(made: Recording, name: str, said: str) -> None:
    """A finding says what, with the figures."""
    found = {one.name: one for one in findings.find(made, analysis.summarize(made, PLAN), PLAN)}
    assert found[name].finding.startswith(said)
    assert found[name].evidence


@pytest.mark.parametrize(("may_report", "count", "shown"), [(True, 1, "never"), (False, 0, "no view could report it"), (None, 0, "never")])
def test_only_a_target_that_could_tell_is_said_not_to_have(may_report: bool | None, count: int, shown: str) -> None:
    """A drill that watches no view with `reports` says nothing of whether the target noticed; nor does a recording that does not say."""
    made = outages(1.0, may_report=may_report)
    summary = analysis.summarize(made, ONCE)
    assert summary.rto["api_crash"].undetected == count
    assert [one.name for one in findings.find(made, summary, ONCE)].count("undetected") == count
    assert list(frames.trials(summary)["time to detect (s)"]) == [shown]


def test_large_figures_are_written_for_people() -> None:
    """No exponent stands in a finding or a reason."""
    plan = ONCE.model_copy(update={"rto": {name: one.model_copy(update={"objective_s": 1000.0}) for name, one in ONCE.rto.items()}})
    made = recording([(trial("api_killed"), {"service": crash(1.0, 1201.0, until_s=1205.0)})])
    (missed,) = [one for one in findings.find(made, analysis.summarize(made, plan), plan) if one.name == "rto_missed"]
    assert missed.finding == "api_crash: recovery took 1,200 s, more than the objective of 1,000 s"


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
    past = history.trials(made, ONCE, str(tmp_path))
    assert [(one.at.day, one.failure) for one in past] == [(31, "api_crash")] * 2 + [(1, "api_crash")] * 2
    assert [one.recover_s for one in past] == pytest.approx([1.0, 2.0] * 2, abs=0.06)
    assert len(history.trials(made, ONCE, "")) == 2
    table = frames.history(past, ONCE, dt.datetime(2026, 1, 11, tzinfo=dt.UTC))
    assert table.loc["api_crash"].tolist() == [4, "10.0"]
    assert table.loc["database_loss"].tolist() == [0, "never"]


def test_the_slowest_recovery_is_the_slowest_of_all_trials() -> None:
    """Whichever trial of its drill it was."""
    assert [recovery._slowest(analysis.summarize(outages(*times), ONCE).timed) for times in ((9.0, 1.0), (1.0, 9.0))] == [
        "Slowest recovery: 9.002 s (api_killed)."
    ] * 2


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
