"""A recorded run under a plan has the verdict of a fresh measurement under it: nothing that a plan decides is in a recording."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from aged import HOUR, Market, target_at
from hypothesis import given, settings
from hypothesis import strategies as st
from recoveries import PLAN, bar, crash, recording, trial
from servers import Server

from tapecheck.errors import ConfigError
from tapecheck.recovery import freshness
from tapecheck.recovery.objectives import OTHERS, RecoveryPlan
from tapecheck.recovery.recording import Recording
from tapecheck.recovery.validation import recovery

AGES = {"SPY": 600.0, "BTC": 1200.0, "AAPL": 5000.0, "JPM": 40_000.0, "XOM": 30 * HOUR}
UNLISTED = "TSLA"  # which a plan may name all the same
DATA = Path(__file__).parent / "data"


@st.composite
def plans(draw: st.DrawFn) -> RecoveryPlan:
    """Plans with tiers renamed, moved and added, and with other classes, ages, losses and recovery times."""
    names = draw(st.lists(st.sampled_from(["critical", "gold", "standard", "b", "low"]), min_size=1, max_size=4, unique=True))
    symbols = draw(st.dictionaries(st.sampled_from([*AGES, UNLISTED]), st.sampled_from(names[:-1] or names)))
    tier, tiers = PLAN.rpo["standard"], {}
    for name in names:
        own: Any = OTHERS if name == names[-1] else tuple(s for s, of in symbols.items() if of == name)
        limits = {"max_age_s": draw(st.sampled_from([900.0, 3600.0, 2e5])), "max_lost_minutes": draw(st.sampled_from([0.0, 5.0, 60.0]))}
        tiers[name] = tier.model_copy(update={"symbols": own, **limits})
    ends = sorted(draw(st.lists(st.sampled_from([300.0, 1000.0, 3600.0, 20_000.0, 86_400.0]), min_size=3, max_size=3, unique=True)))
    younger = {
        name: getattr(PLAN.staleness, name).model_copy(update={"below_s": s})
        for name, s in zip(("fresh", "aging", "stale"), ends, strict=True)
    }
    crash_s = draw(st.sampled_from([0.2, 1.5, 60.0]))
    return PLAN.model_copy(
        update={
            "rpo": tiers,
            "staleness": PLAN.staleness.model_copy(update=younger),
            "rto": PLAN.rto | {"api_crash": PLAN.rto["api_crash"].model_copy(update={"objective_s": crash_s})},
            "objectives": draw(
                st.sampled_from([("false_ages <= 0",), ("wrong_answers <= 1", "alerts <= 1"), ("unrecoverable_bars <= 0",)])
            ),
        }
    )


def measured(plan: RecoveryPlan) -> Recording:
    """Audit a planted API under a plan, beside a drill and bars that are the same whatever the plan is."""
    bars = [bar(symbol, 5 * n, "lost" if symbol == "BTC" else "stable") for symbol in AGES for n in range(2)]
    with Server(Market({(symbol, "1d"): age_s for symbol, age_s in AGES.items()})) as server:
        audit = freshness.audit(plan, target_at(server.url))
    return recording([(trial("api_killed", n), {"service": crash(1.0, 2.0)}) for n in range(1, 6)], audit=audit, bars=bars)


def found(made: Recording, plan: RecoveryPlan) -> list[tuple[Any, ...]]:
    """Return every check, and the class and what is wrong of every series."""
    done = recovery.analyse(made, plan)
    checks = [(c.name, c.objective, c.verdict, c.value) for c in done.checks]
    return [*checks, *((s.symbol, s.tier, s.state, s.false_age, s.wrong_answer.partition(" s ")[0]) for s in done.summary.series if s.seen)]


@settings(max_examples=6)
@given(plans(), plans())
def test_a_recording_judged_by_a_plan_is_what_a_measurement_by_it_finds(one: RecoveryPlan, other: RecoveryPlan) -> None:
    """Whatever changed between the two plans, but for series that only one of them names and that were therefore never asked for."""
    again, fresh = found(measured(one), other), found(measured(other), other)
    assert [row for row in again if row[0] != UNLISTED] == [row for row in fresh if row[0] != UNLISTED]


def test_a_failure_that_was_renamed_is_refused_by_its_name() -> None:
    """A drill's failure that the plan has no objective for, of a recorded run as of a new one."""
    rto = {"process_crash" if name == "api_crash" else name: one for name, one in PLAN.rto.items()}
    with pytest.raises(ConfigError, match=r"api_killed: .*failure: got 'api_crash'; allowed: .*process_crash"):
        recovery.analyse(recording([(trial("api_killed"), {"service": crash(1.0, 2.0)})]), PLAN.model_copy(update={"rto": rto}))


def test_a_recording_of_an_older_version_is_refused_by_what_it_holds(tmp_path: Path) -> None:
    """Classes, tiers and fates as one plan had them are no facts."""
    folder = tmp_path / "old"
    shutil.copytree(DATA / "rto_rpo", folder)
    (folder / "bars.parquet").rename(folder / "acks.parquet")
    with pytest.raises(ConfigError, match="classes, tiers and fates as one plan had them, recorded by an older version"):
        recovery.read(folder)
