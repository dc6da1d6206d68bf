"""Alert rules: strictly above a limit, never at it; only what is asked counts, and the message has the figures."""

from collections.abc import Sequence

import pytest
from recoveries import PLAN

from tapecheck.recovery import ages
from tapecheck.recovery.ages import Alert, SeriesAge
from tapecheck.recovery.objectives import AgeClass
from tapecheck.recovery.recording import Audit, Reply

SIX_HOURS = 21600.0


def series(symbol: str, state: AgeClass = "fresh", *, planted: bool = False) -> SeriesAge:
    return SeriesAge(
        symbol=symbol, timeframe="1d", tier="low", reported_s=None if state == "missing" else 1.0, reported=state, database_s=None,
        state=state, expected="plain", seen=None, planted=planted,
    )  # fmt: skip


def raised(
    own: Sequence[SeriesAge], *, failed: Sequence[str] = (), bare: Sequence[str] = (), last_success_s: float | None = 1.0
) -> list[Alert]:  # fmt: skip
    """Return the alerts of an audit of these series, of which some have failed, and some are answered without features."""
    replies = [Reply(symbol=name, timeframe="1d", done_s=0.0, status=200) for name in bare]
    return ages.alerts(PLAN, Audit(replies=replies, failed_jobs=[f"{name} 1d" for name in failed], last_success_s=last_success_s), own)


def evaluated(states: Sequence[AgeClass], *, failed: int = 0, bare: int = 0, last_success_s: float | None = 1.0) -> list[Alert]:
    """One series a symbol, the first of which have failed, or have no features."""
    names = [f"S{number:03}" for number in range(len(states))]
    own = [series(name, state) for name, state in zip(names, states, strict=True)]
    return raised(own, failed=names[:failed], bare=names[:bare], last_success_s=last_success_s)


def rules(alerts: Sequence[Alert]) -> list[str]:
    return [alert.rule for alert in alerts]


@pytest.mark.parametrize(("last_success_s", "expected"), [(0.0, []), (SIX_HOURS, []), (SIX_HOURS + 0.001, ["no_successful_backfill"])])
def test_a_backfill_may_be_as_old_as_its_limit(last_success_s: float, expected: list[str]) -> None:
    """Exactly six hours are allowed; more is not."""
    assert rules(evaluated(["fresh"], last_success_s=last_success_s)) == expected


@pytest.mark.parametrize("total", [10, 30, 70, 90, 130, 1000])
def test_exactly_a_fifth_may_fail_and_a_tenth_lack_features(total: int) -> None:
    """That share is allowed whatever the number of symbols; one more is not."""
    assert evaluated(["fresh"] * total, failed=total // 5, bare=total // 10) == []
    (alert,) = evaluated(["fresh"] * total, failed=total // 5 + 1)
    assert (alert.rule, alert.severity, alert.limit, alert.value) == ("failed_symbols", "critical", 0.2, (total // 5 + 1) / total)
    assert rules(evaluated(["fresh"] * total, bare=total // 10 + 1)) == ["missing_features"]


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (["stale", "missing", "aging", "fresh"], []),
        (["stale", "missing", "fresh"], ["stale_features"]),
        (["missing"] * 2, ["stale_features"]),
        (["aging"] * 9, []),
    ],
)
def test_half_of_the_series_may_be_old(states: list[AgeClass], expected: list[str]) -> None:
    """Stale and missing ones count, aging ones do not."""
    assert rules(evaluated(states)) == expected


def test_only_series_of_the_audit_count_as_they_were_found() -> None:
    """Neither what was made old on purpose, nor a job of a symbol that is in no series; and nothing divided by nothing is no alert."""
    assert raised([series("A"), series("A", "stale", planted=True), series("A", "missing", planted=True)]) == []
    assert raised([series("A"), series("B")], failed=["X", "Y"], bare=["Z"]) == raised([]) == []


def test_messages_hold_the_figures() -> None:
    """Each says how much, what is allowed, and which ones, in the order of the plan."""
    found = evaluated(["missing"] * 8, failed=8, bare=1, last_success_s=25200.0)
    assert [(alert.rule, alert.message) for alert in found] == [
        ("no_successful_backfill", "no backfill has succeeded for 7.00 h; allowed are 6 h"),
        ("failed_symbols", "8 of 8 symbols have failed (100%; allowed are 20%): S000, S001, S002, S003, S004 and 3 more"),
        ("missing_features", "1 of 8 symbols lack features (12%; allowed are 10%): S000"),
        (
            "stale_features",
            "8 of 8 series are stale or missing (100%; allowed are 50%): S000 1d, S001 1d, S002 1d, S003 1d, S004 1d and 3 more",
        ),
    ]
    assert raised([series("A", "missing")], last_success_s=None)[0].message.startswith("no backfill has ever succeeded")
