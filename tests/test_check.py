"""Every mistake in a shipped kind of file is found before anything runs, with its file, line and key."""

from pathlib import Path

import pytest

from tapecheck import check, config
from tapecheck.__main__ import main
from tapecheck.errors import ConfigError, Problem

PLAN = (config.CONFIG / "backfill.yaml").read_text()
TARGET = (config.CONFIG / "targets" / "sandbox.yaml").read_text()
RECOVERY = (config.CONFIG / "rto_rpo.yaml").read_text()
DRILL = (config.CONFIG / "drills" / "api_killed.yaml").read_text()
BURST = "  s: {{executor: burst, concurrency: {concurrency}, rounds: {rounds}, request: features}}\n"
PLANTED = [
    ("history: {days: 365}", "history: {start: 2026-03-01, end: 2026-02-01}", "history", "before end; these are 2026-03-01 to 2026-02-01"),
    ("history: {days: 365}", "history: {start: 2999-01-01}", "history.start", "not after today"),
    ("history: {days: 365}", "history: {days: 365, end: 2999-01-01}", "history.end", "not after today"),
    ("[5m, 15m,", "[5m, 7m,", "timeframes.1", "one of 5m, 15m, 1h, 4h, 1d"),
    ("[AAPL, MSFT, GOOGL", "[AAPL, msft, GOOGL", "symbols.1", "pattern"),
    ("timeout_s: 15", "time_out_s: 15", "source.time_out_s", "available: requests_per_minute, burst, timeout_s, retry"),
    ("insert: copy", "inserts: copy", "inserts", "available: symbols, timeframes"),
    ("job_success_ratio >= 1", "success >= 1", "objectives.0", "no metric 'success'"),
    ("symbols: [AAPL, MSFT, BTC]\n    history: {days: 30}", "timeframes: [1w]", "timeframes.0", "one of 5m"),
]


@pytest.mark.parametrize(("right", "wrong", "key", "allowed"), PLANTED, ids=[wrong[:40] for _, wrong, _, _ in PLANTED])
def test_a_planted_mistake_in_the_backfill_plan_is_found(tmp_path: Path, right: str, wrong: str, key: str, allowed: str) -> None:
    """One problem, at the line where the mistake stands; of a profile too."""
    (tmp_path / "backfill.yaml").write_text(PLAN.replace(right, wrong, 1))
    (problem,) = check.problems(tmp_path / "backfill.yaml")
    line = PLAN[: PLAN.index(right)].count("\n") + 1
    assert (problem.file, problem.key, problem.line) == (str(tmp_path / "backfill.yaml"), key, line)
    assert allowed in str(problem)


@pytest.mark.parametrize(
    ("section", "key", "got"),
    [
        ("{source_url: api.massive.com}", "backfill.source_url", "'api.massive.com'"),
        ("{source_url: http://127.0.0.1:1, key: x}", "backfill.key", "unknown key `key`"),
        ("{api_key: {env: A}}", "backfill.source_url", "missing required key"),
        ("{source_url: http://127.0.0.1:1, api_key: k3y-Zx81}", "backfill.api_key", "a secret in plain text"),
        ("{source_url: http://127.0.0.1:1, api_key: {env: [A, b-c]}}", "backfill.api_key.env.1", "'b-c'"),
        ("{source_url: http://127.0.0.1:1, api_key: {env: A, file: b}}", "backfill.api_key", "dict"),
        (
            "{source_url: http://127.0.0.1:1, database_url: 'postgresql://u:k3y-Zx81@h/d'}",
            "backfill.database_url",
            "a secret in plain text",
        ),
        ("{source_url: http://127.0.0.1:1, database_url: 'postgresql://h/d?password=k3y-Zx81'}", "backfill.database_url", "a secret in"),
        ("{source_url: http://127.0.0.1:1, database_url: 'http://127.0.0.1:5432/d'}", "backfill.database_url", "'http://127.0.0.1:5432/d'"),
        ("{source_url: http://127.0.0.1:1, database_url: {path: x}}", "backfill.database_url.path", "unknown key `path`"),
    ],
)
def test_a_planted_mistake_in_a_target_is_found_and_no_secret_repeated(tmp_path: Path, section: str, key: str, got: str) -> None:
    """At its line; a key or password that stands in the file is not printed."""
    (tmp_path / "t.yaml").write_text(f"{TARGET}backfill: {section}\n")
    found = check.problems(tmp_path / "t.yaml")
    assert [(problem.key, problem.line) for problem in found] == [(key, TARGET.count("\n") + 1)]
    assert got in found[0].got and "Zx81" not in str(found)


def test_a_secret_that_is_not_set_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """No problem of the file, but known before anything is asked; one that is set is not mentioned."""
    for name in ("PLANTED_KEY", "PLANTED_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PLANTED_VENDOR", "x")
    backfill = "{source_url: http://127.0.0.1:1, api_key: {env: PLANTED_VENDOR}, database_url: {env: PLANTED_URL}}"
    (tmp_path / "t.yaml").write_text(f"{TARGET}headers: {{X-Key: {{env: PLANTED_KEY}}}}\nbackfill: {backfill}\n")
    assert main(["check", str(tmp_path / "t.yaml")]) == 0
    said = capsys.readouterr().out
    assert "note: " in said and "headers.X-Key (PLANTED_KEY), backfill.database_url (PLANTED_URL)\n" in said


def test_a_file_is_of_the_kind_that_its_keys_say(tmp_path: Path) -> None:
    """Plans of all validations, targets, drills, and what is neither."""
    kinds = {file.stem: kind for file in config.CONFIG.rglob("*.yaml") if (kind := check.plan_kind(file))}
    assert kinds == {name: name for name in ("backfill", "compare", "load", "observe", "rto_rpo")}
    for text, got in (("a: 1\n", "keys a"), ("", "no keys"), ("[1]", "no keys")):
        (tmp_path / "other.yaml").write_text(text)
        (problem,) = check.problems(tmp_path / "other.yaml")
        assert problem.got == got and "a target, a plan of load, backfill, recovery or comparison, a drill, or a batch" in problem.allowed


def test_the_plans_of_all_notebooks_are_checked_before_one_starts(tmp_path: Path) -> None:
    """With what each was given, all problems together, each plan by the validation that will run it."""
    (tmp_path / "backfill.yaml").write_text(PLAN.replace("insert: copy", "insert: fast"))
    given = {"load": {"scenarios": "none_such"}, "backfill": {"plan": str(tmp_path / "backfill.yaml")}}
    with pytest.raises(ConfigError) as caught:
        check.before_traffic(given)
    assert {problem.key for problem in caught.value.problems} == {"scenarios", "insert"}
    for chosen, key in (({"symbols": "AAPL,NOSUCH"}, "symbols"), ({"timeframes": "2h"}, "timeframes"), ({"days": -1}, "days")):
        with pytest.raises(ConfigError) as caught:
            check.before_traffic({"backfill": chosen})
        assert [problem.key for problem in caught.value.problems] == [key]
    assert check.before_traffic({"load": {}, "backfill": {"profile": "small", "symbols": "AAPL,BTC"}}).kind == "sandbox"


def test_each_notebook_gets_the_parameters_that_it_declares_and_wrong_ones_are_all_listed() -> None:
    """Of several; papermill only warns of an unknown one, here it stops all, as a wrong type does."""
    given = {"rounds": 3, "profile": "small", "target": "x"}
    assert check.shares(["load", "backfill"], given) == {
        "load": {"rounds": 3, "target": "x"}, "backfill": {"profile": "small", "target": "x"},
    }  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        check.shares(["load"], {"raunds": 3, "rounds": "3", "run": 5})
    assert [str(problem) for problem in caught.value.problems] == [
        "load.ipynb: run: got 5; allowed: a valid string", "load.ipynb: rounds: got '3'; allowed: a valid integer",
        "load.ipynb: raunds: unknown key `raunds`; available: target, plan, run, out, scenarios, rounds",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"backfill\.ipynb: profile: got 3; allowed"):
        check.shares(["load", "backfill"], given | {"profile": 3})


# ---- the recovery plan and its drills ----


@pytest.mark.parametrize(
    ("right", "wrong", "key", "got"),
    [
        ("retries_s: [1, 5, 30]", "retries_s: [1, 5, 301]", "backfill.retries_s", "a pause of 301 s, beyond the 5 min"),
        ("[critical, standard, low]", "[critical, low]", "scheduler.order", "critical, low"),
        ("{below_s: 21600", "{below_s: 3600", "staleness.aging.below_s", "aging ends at 1 h, fresh at 1 h"),
        ("[SPY, QQQ, BTC, ETH]", "[SPY, QQQ, BTC, ETH, AAPL]", "rpo.standard.symbols", "AAPL in critical and standard"),
        ("symbols: others", "symbols: [XRP]", "rpo", "no objectives for a symbol"),
        ("proven_share: 0.5 ", "proven_share: 0.95 ", "trials.each", "5 trials prove at best that 54.9 %"),
        ("  tier_beyond_class: >-\n", "  clock_resolution: x\n  tier_beyond_class: >-\n", "explained.clock_resolution", "not there"),
        ("objective_s: 300", "objective_s: fast", "rto.scheduler_crash.objective_s", "'fast'"),
    ],
)
def test_a_contradiction_planted_in_the_recovery_plan_is_found(tmp_path: Path, right: str, wrong: str, key: str, got: str) -> None:
    """One problem, with the line of its key."""
    text = RECOVERY.replace(right, wrong, 1)
    (tmp_path / "rto_rpo.yaml").write_text(text)
    (problem,) = check.problems(tmp_path / "rto_rpo.yaml")
    assert (problem.key, got in problem.got) == (key, True)
    assert f"{key.rpartition('.')[2]}:" in text.splitlines()[(problem.line or 0) - 1]


def test_what_is_explained_is_told_with_its_explanation(capsys: pytest.CaptureFixture[str]) -> None:
    """On stdout, each rule once, and counted as no problem; how many there are, unless the explanations are asked for."""
    assert main(["check", str(config.CONFIG / "rto_rpo.yaml")]) == 0
    assert capsys.readouterr() == ("6 contradictions explained in config/rto_rpo.yaml\n1 file, 0 problems\n", "")
    assert main(["check", "--explain", str(config.CONFIG / "rto_rpo.yaml")]) == 0
    out, err = capsys.readouterr()
    assert "config/rto_rpo.yaml: explained backoff_beyond_rto: backfill.retries_s: pauses of 1 + 5 + 30 s = 36 s, beyond the 30 s" in out
    assert "\n  Two clocks run." in out and out.count("explained refill_beyond_rto") == 1
    assert out.endswith("1 file, 0 problems\n") and err == ""


def test_what_only_a_profile_needs_explained_is_told_too(tmp_path: Path) -> None:
    """The notes are of all profiles together."""
    file = tmp_path / "rto_rpo.yaml"
    text = RECOVERY.replace("explained:\n", "explained:\n  trials_prove_nothing: not all on one day\n")
    file.write_text(text + "  sure: {trials: {each: 20, proven_share: 0.95}}\n")
    assert check.problems(file) == []
    assert [note.partition("explained ")[2].partition(":")[0] for note in check.notes(file)][-1] == "trials_prove_nothing"


def test_a_file_with_problems_has_no_notes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor has a plan of another kind."""
    (tmp_path / "rto_rpo.yaml").write_text(RECOVERY.replace("objective_s: 300", "objective_s: 0"))
    assert main(["check", str(tmp_path / "rto_rpo.yaml")]) == 4
    assert capsys.readouterr().out == "1 file, 1 problem\n"
    assert check.notes(config.CONFIG / "load.yaml") == []


def test_a_drill_is_read_as_one(tmp_path: Path) -> None:
    """Its mistakes are found like those of any file; the shipped ones have none."""
    assert [problem for file in (config.CONFIG / "drills").glob("*.yaml") for problem in check.problems(file)] == []
    (tmp_path / "drill.yaml").write_text(DRILL.replace("inject: ", "inject: never "))
    (problem,) = check.problems(tmp_path / "drill.yaml")
    assert problem.key == "extensions.tapecheck.inject"
    (tmp_path / "drill.yaml").write_text("title: half a drill\nmethod: []\n")
    assert "chaos validate" in check.problems(tmp_path / "drill.yaml")[0].allowed


def test_the_recovery_plan_and_its_drills_are_checked_before_one_starts(tmp_path: Path) -> None:
    """With the drills that were asked for; a recorded run does none."""
    (tmp_path / "drill.yaml").write_text("title: half a drill\nmethod: []\n")
    drills = str(tmp_path / "drill.yaml")
    with pytest.raises(ConfigError) as caught:
        check.before_traffic({"rto_rpo": {"profile": "none_such", "drills": drills}})
    assert {Path(problem.file).name for problem in caught.value.problems} == {"drill.yaml", "parameters"}
    with pytest.raises(ConfigError) as caught:
        check.before_traffic({"rto_rpo": {"trials": -1, "drills": "no_such_drill"}})
    assert [problem.key for problem in caught.value.problems] == ["trials", "drills"]
    assert check.before_traffic({"rto_rpo": {"run": "tests/data/rto_rpo", "drills": drills}}).kind == "sandbox"
    assert check.before_traffic({"rto_rpo": {"drills": "none", "trials": 1, "profile": "once"}}).kind == "sandbox"


# ---- objectives that a load plan cannot prove ----


def load_problems(path: Path, scenario: str, objective: str) -> list[Problem]:
    (path / "load.yaml").write_text(f"scenarios:\n{scenario}objectives: [{objective}]\n")
    return check.problems(path / "load.yaml")


@pytest.mark.parametrize(
    ("objective", "needed"),
    [
        ("p99_ms < 2000", 299),
        ("p95_ms < 1000", 59),
        ("p90_ms <= 900", 29),
        ("p50_ms < 500", 5),
        ("service_p99_ms < 2000", 299),
        ("server_p95_ms < 2000", 59),
        ("success_ratio > 0.99", 299),
        ("success_ratio >= 0.95", 59),
        ("s.p99_ms < 2000", 299),
    ],
)
def test_too_few_requests_for_an_objective_are_found_with_the_number_that_would_do(tmp_path: Path, objective: str, needed: int) -> None:
    """One fewer is too few, so many are enough."""
    (problem,) = load_problems(tmp_path, BURST.format(concurrency=needed - 1, rounds=1), objective)
    assert (problem.key, problem.line) == ("scenarios.s", 2)
    assert problem.got.startswith(f"{needed - 1} requests for ") and objective in problem.got
    assert problem.allowed.startswith(f"{needed} or more") and "not_proven" in problem.allowed
    assert load_problems(tmp_path, BURST.format(concurrency=needed, rounds=1), objective) == []


@pytest.mark.parametrize(
    "objective", ["mean_ms < 5", "throughput_rps > 20", "failed <= 0", "p99_ms > 1", "success_ratio >= 1", "success_ratio > 0"]
)
def test_objectives_that_no_number_of_requests_decides_are_let_be(tmp_path: Path, objective: str) -> None:
    """They are exact, or never proven."""
    assert load_problems(tmp_path, BURST.format(concurrency=1, rounds=1), objective) == []


@pytest.mark.parametrize(
    ("scenario", "sent"),
    [
        ("{executor: burst, concurrency: 100, rounds: 1, request: h}", 100),
        ("{executor: burst, concurrency: 100, rounds: 3, request: h}", None),
        ("{executor: constant_rate, rate_rps: 10, duration_s: 29, warm_up_s: 60, request: h}", 290),
        ("{executor: constant_rate, rate_rps: 10, duration_s: 30, request: h}", None),
        ("{executor: ramping_rate, start_rate_rps: 0, stages: [{rate_rps: 10, duration_s: 50}], request: h}", 250),
        ("{executor: ramping_rate, start_rate_rps: 0, stages: [{rate_rps: 10, duration_s: 60}], request: h}", None),
        ("{executor: closed, concurrency: 1, duration_s: 0.1, request: h}", None),
        ("{executor: capacity, start_rate_rps: 10, max_rate_rps: 20, level_s: 1, request: h}", None),
    ],
)
def test_what_a_scenario_sends_is_counted_without_its_warm_up(tmp_path: Path, scenario: str, sent: int | None) -> None:
    """Rounds times concurrency, and rate times duration; what the target's speed decides is let be."""
    found = load_problems(tmp_path, f"  s: {scenario}\n", "p99_ms < 2000")
    assert [problem.got for problem in found] == ([] if sent is None else [f"{sent} requests for p99_ms < 2000"])


def test_an_objective_of_one_scenario_is_no_matter_of_another(tmp_path: Path) -> None:
    """Each scenario and objective that apply to each other are one problem."""
    two = BURST.format(concurrency=1, rounds=1) + BURST.format(concurrency=2, rounds=1).replace("  s:", "  t:")
    found = load_problems(tmp_path, two, "t.p99_ms < 2, p95_ms < 1")
    assert [(problem.key, problem.line, problem.got.partition(" for ")[2]) for problem in found] == [
        ("scenarios.t", 3, "t.p99_ms < 2"),
        ("scenarios.s", 2, "p95_ms < 1"),
        ("scenarios.t", 3, "p95_ms < 1"),
    ]


def test_a_run_with_too_few_requests_is_not_refused(tmp_path: Path) -> None:
    """There it ends as not_proven."""
    assert load_problems(tmp_path, BURST.format(concurrency=1, rounds=1), "p99_ms < 1")
    assert check.before_traffic({"load": {"plan": str(tmp_path / "load.yaml")}}).kind == "sandbox"


@pytest.mark.parametrize(
    ("right", "wrong", "key"),
    [
        ("fix: {derive: true}", "fix: {derived: true}", "proofs.derived_timeframes.fix.derived"),
        ("rounds: {least: 4, most: 24}", "round: 8", "round"),
    ],
)
def test_a_planted_mistake_in_the_comparison_plan_is_found(tmp_path: Path, right: str, wrong: str, key: str) -> None:
    """Also in a variant, which is a plan of another validation; its kind is told by its keys, of which others have some too."""
    text = (config.CONFIG / "compare.yaml").read_text()
    (tmp_path / "compare.yaml").write_text(text.replace(right, wrong, 1))
    assert check.plan_kind(tmp_path / "compare.yaml") == "compare"
    assert [problem.key for problem in check.problems(tmp_path / "compare.yaml")] == [key]


@pytest.mark.parametrize("given", [{}, {"run": "new"}, {"before": "a", "after": "b"}, {"run": "tests/data/compare"}])
def test_a_comparison_of_backfills_needs_to_know_where_history_comes_from(tmp_path: Path, given: dict[str, str]) -> None:
    """A target without that is refused before anything runs; two recorded runs need no target."""
    (tmp_path / "t.yaml").write_text("name: t\nkind: external\nbase_url: http://127.0.0.1:1\nrequests: {health: GET /health}\n")
    asked = {"compare": {"target": str(tmp_path / "t.yaml"), **given}}
    if given in ({}, {"run": "new"}):
        with pytest.raises(ConfigError, match="backfill: got nothing"):
            check.before_traffic(asked)
    else:
        assert check.before_traffic(asked).name == "t"
