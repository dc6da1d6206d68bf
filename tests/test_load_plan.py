"""Plans and prepared requests: what is wrong is named with its line, what is right is sent exactly so."""

from pathlib import Path

import pytest

from tapecheck import config
from tapecheck.errors import ConfigError, Problem
from tapecheck.load.engine.work import Address
from tapecheck.load.plan import Burst, Closed, LoadPlan
from tapecheck.load.requests import prepare_all
from tapecheck.target.file import Target

PLAN = """\
scenarios:
  hot:
    executor: burst
    concurrency: 10
    rounds: 2
    request: features
    parameters: {symbol: [AAPL], limit: [100, 500]}
"""


def problems(path: Path, text: str) -> list[Problem]:
    file = path / "load.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        config.read(LoadPlan, file)
    return list(caught.value.problems)


def target(**more: object) -> Target:
    requests = {"features": "GET /features/{symbol}?limit={limit}", "health": "GET /health"}
    return Target.model_validate({"name": "t", "kind": "external", "base_url": "http://127.0.0.1:1/base", "requests": requests, **more})


def plan(**scenario: object) -> LoadPlan:
    default = {"executor": "burst", "concurrency": 1, "request": "features", "parameters": {"symbol": ["AAPL"], "limit": [100]}}
    return LoadPlan.model_validate({"scenarios": {"hot": {**default, **scenario}}})


def test_the_shipped_plan_is_valid_and_has_enough_samples() -> None:
    """Each burst of config/load.yaml has at least the 299 samples that a p99's upper bound needs."""
    shipped = config.read(LoadPlan, "config/load.yaml")
    bursts = [s for s in shipped.scenarios.values() if isinstance(s, Burst)]
    assert len(bursts) == 4
    assert all(s.concurrency == 100 and s.concurrency * s.rounds >= 299 for s in bursts)
    assert any(isinstance(s, Closed) for s in shipped.scenarios.values())
    prepare_all(shipped, config.read(Target, "config/targets/sandbox.yaml").model_copy(update={"base_url": "http://127.0.0.1:1"}))


OPEN = """\
scenarios:
  steady:
    executor: constant_rate
    rate_rps: 50
    duration_s: 20
    warm_up_s: 2
    request: health
  rising:
    executor: ramping_rate
    start_rate_rps: 0
    stages:
      - {rate_rps: 100, duration_s: 10}
      - {rate_rps: 20, duration_s: 5}
    fresh_connections: true
    request: health
workers: 2
"""


def test_open_models_have_the_schedule_that_they_say(tmp_path: Path) -> None:
    """The warm-up is at the first rate; a ramp goes in straight lines; 1,000 connections unless said otherwise."""
    (tmp_path / "load.yaml").write_text(OPEN)
    read = config.read(LoadPlan, tmp_path / "load.yaml")
    made = prepare_all(read, target())
    steady, rising = (read.scenarios[name].work(Address(host="::1", port=1), made[name]) for name in ("steady", "rising"))
    assert steady.schedule is not None
    assert rising.schedule is not None
    assert (steady.schedule.total, steady.schedule.duration_s, steady.progress_total) == (1100, 22, 22_000)
    assert [(s.start_rps, s.end_rps) for s in rising.schedule.stages] == [(0, 100), (100, 20)]
    assert (rising.schedule.total, rising.duration_s) == (800, 15)
    assert (steady.max_connections, steady.fresh_connections, rising.fresh_connections, read.workers) == (1000, False, True, 2)


@pytest.mark.parametrize(
    ("change", "line", "key", "got", "allowed"),
    [
        (("executor: burst", "executor: bursty"), 3, "scenarios.hot.executor", "'bursty'", "burst, closed"),
        (("    executor: burst\n", ""), 2, "scenarios.hot.executor", "missing required key `executor`", ""),
        (("concurrency: 10", "concurrency: -1"), 4, "scenarios.hot.concurrency", "-1", "greater than 0"),
        (("rounds: 2", "duration_s: 2"), 5, "scenarios.hot.duration_s", "unknown key `duration_s`", "rounds"),
        (("[AAPL]", "[]"), 7, "scenarios.hot.parameters.symbol", "list", "at least 1 item"),
        (("[AAPL]", "AAPL"), 7, "scenarios.hot.parameters.symbol", "'AAPL'", "a list"),
        (("[AAPL]", "[yes]"), 7, "scenarios.hot.parameters.symbol.0", "True", "quotes"),
        (("[AAPL]", "[.nan]"), 7, "scenarios.hot.parameters.symbol.0", "nan", "finite"),
        (("symbol:", "status:"), 2, "scenarios.hot", "dict", "status"),
        (("10\n    rounds: 2", "5000\n    rounds: 9999"), 2, "scenarios.hot", "dict", "10000000"),
        (("[100, 500]", str(list(range(10_001)))), 2, "scenarios.hot", "dict", "combinations"),
        (("rate_rps: 50", "rate_rps: -1"), 4, "scenarios.steady.rate_rps", "-1", "greater than 0"),
        (("rate_rps: 50", "rate_rps: .nan"), 4, "scenarios.steady.rate_rps", "nan", "100000"),
        (("duration_s: 20", "duration_s: 601"), 5, "scenarios.steady.duration_s", "601", "600"),
        (("50\n    duration_s: 20", "99000\n    duration_s: 200"), 2, "scenarios.steady", "dict", "at most 10000000 requests"),
        (("duration_s: 10", "duration_s: 599"), 8, "scenarios.rising", "dict", "at most 600 s"),
        (("workers: 2", "workers: 0"), 16, "workers", "0", "dask://127.0.0.1:8786"),
        (("workers: 2", "workers: tcp://h:1"), 16, "workers", "'tcp://h:1'", "dask://"),
        (("workers: 2", "workers: dask://h:99999"), 16, "workers", "'dask://h:99999'", "dask://"),
    ],
)
def test_each_mistake_in_a_plan_is_named(tmp_path: Path, change: tuple[str, str], line: int, key: str, got: str, allowed: str) -> None:
    """A mistake is one problem with its line, its key, what was got and what is allowed."""
    (problem,) = problems(tmp_path, (PLAN if change[0] in PLAN else OPEN).replace(*change))
    assert (problem.line, problem.key) == (line, key)
    assert got in problem.got
    assert allowed in str(problem)


def test_parameters_are_crossed_with_the_last_one_fastest() -> None:
    """The order of requests follows the YAML and is the same every time."""
    made = prepare_all(plan(parameters={"symbol": ["B", "A"], "limit": [2, 1]}), target())["hot"]
    assert [tuple(r.values.values()) for r in made] == [("B", 2), ("B", 1), ("A", 2), ("A", 1)]


def test_what_is_sent_is_what_the_template_says() -> None:
    """Method, base path, encoded values, query and host stand in the raw request."""
    made = prepare_all(plan(parameters={"symbol": ["BRK.B", "X:BTC/USD?&"], "limit": ["a&b=c d"]}), target(headers={"X-Kind": "k"}))["hot"]
    first, second = (r.raw.decode().split("\r\n") for r in made)
    assert first[0] == "GET /base/features/BRK.B?limit=a%26b%3Dc+d HTTP/1.1"
    assert second[0] == "GET /base/features/X:BTC%2FUSD%3F&?limit=a%26b%3Dc+d HTTP/1.1"
    assert first[1:] == ["Host: 127.0.0.1:1", "User-Agent: tapecheck", "Accept: */*", "X-Kind: k", "", ""]


def test_names_that_do_not_fit_are_all_reported() -> None:
    """A missing template, a missing parameter and an unused one are problems of one error."""
    scenarios = {
        "a": {"executor": "burst", "concurrency": 1, "request": "nothing"},
        "a2": {"executor": "burst", "concurrency": 1, "request": "nothing"},
        "b": {"executor": "burst", "concurrency": 1, "request": "features", "parameters": {"symbol": ["A"], "size": [1]}},
    }
    with pytest.raises(ConfigError) as caught:
        prepare_all(LoadPlan.model_validate({"scenarios": scenarios}), target(headers={"K": {"env": "TAPECHECK_NOT_SET"}}))
    assert [p.key for p in caught.value.problems] == [
        "TAPECHECK_NOT_SET",
        "scenarios.*.request",
        "scenarios.b.parameters",
        "scenarios.b.parameters.size",
    ]
    unknown = caught.value.problems[1]
    assert unknown.got == "'nothing' (a, a2)"
    assert "features, health; copy config/load.yaml" in unknown.allowed and "-p plan my-load.yaml" in unknown.allowed


def test_a_secret_is_sent_but_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The header carries the secret; no repr of a request or of the worker's task does."""
    monkeypatch.setenv("PLANTED_KEY", "hunter2hunter2")
    one = plan()
    made = prepare_all(one, target(headers={"X-API-Key": {"env": "PLANTED_KEY"}}))["hot"]
    assert b"X-API-Key: hunter2hunter2\r\n" in made[0].raw
    work = one.scenarios["hot"].work(Address(host="127.0.0.1", port=1), made)
    assert "hunter2" not in repr(made) + repr(work)
