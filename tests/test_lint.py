"""Every mistake in a shipped kind of file is found before anything runs, with its file, line and key."""

from pathlib import Path

import pytest

from tapecheck import config, lint
from tapecheck.errors import ConfigError

PLAN = (config.CONFIG / "backfill.yaml").read_text()
TARGET = (config.CONFIG / "targets" / "sandbox.yaml").read_text()
PLANTED = [
    ("history: {days: 365}", "history: {start: 2026-03-01, end: 2026-02-01}", "history", "before end; these are 2026-03-01 to 2026-02-01"),
    ("history: {days: 365}", "history: {start: 2999-01-01}", "history.start", "not after today"),
    ("history: {days: 365}", "history: {days: 365, end: 2999-01-01}", "history.end", "not after today"),
    ("[5m, 15m,", "[5m, 7m,", "timeframes.1", "one of 5m, 15m, 1h, 4h, 1d"),
    ("[AAPL, MSFT, GOOGL", "[AAPL, msft, GOOGL", "symbols.1", "pattern"),
    ("timeout_s: 15", "time_out_s: 15", "source.time_out_s", "one of requests_per_minute, burst, timeout_s, retry"),
    ("insert: copy", "inserts: copy", "inserts", "one of symbols, timeframes"),
    ("job_success_ratio >= 1", "success >= 1", "objectives.0", "no metric 'success'"),
    ("symbols: [AAPL, MSFT, BTC]\n    history: {days: 30}", "timeframes: [1w]", "timeframes.0", "one of 5m"),
]


@pytest.mark.parametrize(("right", "wrong", "key", "allowed"), PLANTED, ids=[wrong[:40] for _, wrong, _, _ in PLANTED])
def test_a_planted_mistake_in_the_backfill_plan_is_found(tmp_path: Path, right: str, wrong: str, key: str, allowed: str) -> None:
    """One problem, at the line where the mistake stands; of a profile too."""
    (tmp_path / "backfill.yaml").write_text(PLAN.replace(right, wrong, 1))
    (problem,) = lint.problems(tmp_path / "backfill.yaml")
    line = PLAN[: PLAN.index(right)].count("\n") + 1
    assert (problem.file, problem.key, problem.line) == (str(tmp_path / "backfill.yaml"), key, line)
    assert allowed in problem.allowed


@pytest.mark.parametrize(
    ("section", "key", "got"),
    [
        ("{source_url: api.massive.com}", "backfill.source_url", "'api.massive.com'"),
        ("{source_url: http://127.0.0.1:1, key: x}", "backfill.key", "an unknown key 'key'"),
        ("{api_key: {env: A}}", "backfill.source_url", "nothing"),
        ("{source_url: http://127.0.0.1:1, api_key: k3y-Zx81}", "backfill.api_key", "a secret in plain text"),
        ("{source_url: http://127.0.0.1:1, api_key: {env: [A, b-c]}}", "backfill.api_key.env.1", "'b-c'"),
        ("{source_url: http://127.0.0.1:1, api_key: {env: A, file: b}}", "backfill.api_key", "dict"),
        (
            "{source_url: http://127.0.0.1:1, database_url: 'postgresql://u:k3y-Zx81@h/d'}",
            "backfill.database_url",
            "a secret in plain text",
        ),
        ("{source_url: http://127.0.0.1:1, database_url: 'postgresql://h/d?password=k3y-Zx81'}", "backfill.database_url", "a secret in"),
    ],
)
def test_a_planted_mistake_in_a_target_is_found_and_no_secret_repeated(tmp_path: Path, section: str, key: str, got: str) -> None:
    """At its line; a key or password that stands in the file is not printed."""
    (tmp_path / "t.yaml").write_text(f"{TARGET}backfill: {section}\n")
    found = lint.problems(tmp_path / "t.yaml")
    assert {(problem.key, problem.line) for problem in found} == {(key, TARGET.count("\n") + 1)}
    assert got in found[0].got and "Zx81" not in str(found)


def test_a_file_is_of_the_kind_that_its_keys_say(tmp_path: Path) -> None:
    """Plans of both validations, targets, and what is neither."""
    kinds = {file.stem: lint.plan_kind(file) for file in config.CONFIG.rglob("*.yaml")}
    assert kinds == {"backfill": "backfill", "load": "load", "sandbox": None, "example": None}
    (tmp_path / "other.yaml").write_text("a: 1\n")
    (problem,) = lint.problems(tmp_path / "other.yaml")
    assert "a target, a load plan or a backfill plan" in problem.allowed


def test_the_plans_of_all_notebooks_are_checked_before_one_starts(tmp_path: Path) -> None:
    """With what each was given, all problems together, each plan by the validation that will run it."""
    (tmp_path / "backfill.yaml").write_text(PLAN.replace("insert: copy", "insert: fast"))
    given = {"load": {"scenarios": "none_such"}, "backfill": {"plan": str(tmp_path / "backfill.yaml")}}
    with pytest.raises(ConfigError) as caught:
        lint.before_traffic(given)
    assert {problem.key for problem in caught.value.problems} == {"scenarios", "insert"}
    for chosen, key in (({"symbols": "AAPL,NOSUCH"}, "symbols"), ({"timeframes": "2h"}, "timeframes"), ({"days": -1}, "days")):
        with pytest.raises(ConfigError) as caught:
            lint.before_traffic({"backfill": chosen})
        assert [problem.key for problem in caught.value.problems] == [key]
    assert lint.before_traffic({"load": {}, "backfill": {"profile": "small", "symbols": "AAPL,BTC"}}).kind == "sandbox"
