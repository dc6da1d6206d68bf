"""The sandbox's api: right answers, honest ages, and service while its database is dead or frozen."""

import datetime as dt
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import numpy as np
import psycopg
import pytest

from tapecheck.backfill import features
from tapecheck.load.engine.protocol import server_times_ms
from tapecheck.sandbox import supervision
from tapecheck.sandbox.answers import freshness_of
from tapecheck.sandbox.profile import NEEDED, Home
from tapecheck.target.opening import SandboxState
from tapecheck.vendor.bars import periods_per_year

HOUR = 3600.0


def _until(condition: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    """Wait for a real process to do what it must do in time; return what the condition gave."""
    until_s = time.monotonic() + timeout_s
    while time.monotonic() < until_s:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {timeout_s} s")


@pytest.fixture
def api(sandbox: SandboxState) -> Iterator[httpx.Client]:
    """A client of the api, which is healthy before and after."""
    key = {"Authorization": f"Bearer {Home().secret()}"}
    with httpx.Client(base_url=sandbox.base_url, headers=key, timeout=60, trust_env=False) as client:
        _until(lambda: client.get("/health").json()["status"] == "ok")
        yield client
        _until(lambda: client.get("/health").json()["status"] == "ok")


@pytest.fixture
def database(sandbox: SandboxState) -> Iterator[psycopg.Connection[Any]]:
    """A connection to the sandbox's database."""
    assert sandbox.database_url
    with psycopg.connect(sandbox.database_url, autocommit=True) as connection:
        yield connection


def _features(api: httpx.Client, symbol: str = "AAPL", **query: Any) -> httpx.Response:
    return api.get(f"/api/v1/features/quant/{symbol}", params=query)


def _pid(name: str) -> int:
    status = supervision.status()
    pids = [process.pid for process in status.processes if process.name == name] if status else []
    assert pids and pids[0], f"{name} does not run"
    return pids[0]


@pytest.mark.parametrize(
    ("age_s", "expected"),
    [
        (None, "missing"), (0, "fresh"), (HOUR - 0.001, "fresh"), (HOUR, "aging"), (6 * HOUR - 0.001, "aging"), (6 * HOUR, "stale"),
        (24 * HOUR - 0.001, "stale"), (24 * HOUR, "missing"), (1e9, "missing"),
    ],
)  # fmt: skip
def test_classes_are_half_open(age_s: float | None, expected: str) -> None:
    """An age on a boundary belongs to the older class; beyond a day it is missing."""
    assert freshness_of(age_s) == expected


def test_the_database_acknowledges_only_what_is_on_disk(database: psycopg.Connection[Any]) -> None:
    """The running server syncs every commit, so that nothing acknowledged is lost with it."""
    found = {name: database.execute(f"SHOW {name}").fetchone() for name in ("fsync", "synchronous_commit", "full_page_writes")}
    assert found == {"fsync": ("on",), "synchronous_commit": ("on",), "full_page_writes": ("on",)}


def test_features_are_the_tables_rows(api: httpx.Client) -> None:
    """The answer's features equal those computed from the bars that the api itself serves."""
    answer = _features(api, "ETH", timeframe="1h", limit=700).json()
    rows = answer["rows"]
    assert (answer["symbol"], answer["timeframe"], answer["count"], answer["freshness"], answer["warning"]) == (
        "ETH",
        "1h",
        700,
        "fresh",
        None,
    )
    assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)
    again = features.compute(
        np.array([row["close"] for row in rows]), np.array([row["volume"] for row in rows]), periods_per_year("X:ETHUSD", "1h")
    )
    for name in features.NAMES:
        np.testing.assert_allclose([row[name] for row in rows[features.LEAD_IN :]], again[name][features.LEAD_IN :], atol=2e-8, rtol=0)


@pytest.mark.parametrize(
    ("symbol", "timeframe", "bars_a_year"),
    [("AAPL", "5m", 252 * 16 * 12), ("AAPL", "4h", 252 * 4), ("BTC", "5m", 365 * 24 * 12), ("BTC", "1d", 365)],
)
def test_volatility_is_annualized_by_the_market_of_the_symbol(api: httpx.Client, symbol: str, timeframe: str, bars_a_year: int) -> None:
    """Stocks trade 16 hours on 252 days, crypto around the clock: stored volatilities follow from the closes in the same rows."""
    rows = _features(api, symbol, timeframe=timeframe, limit=21).json()["rows"]
    returns = np.diff(np.log([row["close"] for row in rows]))
    assert rows[-1]["volatility_20"] == pytest.approx(np.sqrt(bars_a_year * np.mean(returns**2)), abs=2e-8)


def test_larger_bars_equal_their_5_minute_bars(api: httpx.Client) -> None:
    """A day that is over has the volume of its 5-minute bars, through upstream, database and api."""
    day = api.get("/api/v1/historical/BTC", params={"timeframe": "1d", "limit": 3}).json()["rows"][0]
    end = (dt.datetime.fromisoformat(day["time"]) + dt.timedelta(days=1, seconds=-1)).isoformat()
    slots = api.get("/api/v1/historical/BTC", params={"timeframe": "5m", "start": day["time"], "end": end}).json()["rows"]
    assert sum(row["volume"] for row in slots) == day["volume"]
    assert (max(row["high"] for row in slots), slots[0]["open"]) == (day["high"], day["open"])


def test_second_answer_comes_from_the_cache(api: httpx.Client) -> None:
    """The same question again is answered from memory, and says so in body and Server-Timing."""
    first, second = (_features(api, "MSFT", timeframe="15m", limit=321) for _ in range(2))
    assert (first.json()["source"], second.json()["source"]) == ("database", "cache")
    assert first.json()["rows"] == second.json()["rows"]
    assert "cache;desc=miss" in first.headers["server-timing"] and "cache;desc=hit" in second.headers["server-timing"]
    assert "app;dur=" in second.headers["server-timing"] and "db;dur=0.000" in second.headers["server-timing"]


def test_who_asks_for_no_cache_gets_the_database(api: httpx.Client) -> None:
    """However often it was asked before, features and history alike."""
    _features(api, "MSFT", timeframe="15m", limit=322)
    past = api.get("/api/v1/features/quant/MSFT?timeframe=15m&limit=322", headers={"Cache-Control": "no-cache"})
    assert past.json()["source"] == "database" and "cache;desc=miss" in past.headers["server-timing"]
    found = [api.get("/api/v1/historical/MSFT?limit=3", headers=headers) for headers in ({}, {}, {"Cache-Control": "no-cache"})]
    assert [one.json()["source"] for one in found[1:]] == ["cache", "database"]


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/features/quant/AAPL?limit=0",
        "/api/v1/features/quant/AAPL?limit=5001",
        "/api/v1/features/quant/AAPL?timeframe=2h",
        "/api/v1/features/quant/aapl",
        "/api/v1/features/quant/A%27;DROP",
        "/api/v1/historical/AAPL?start=soon",
        "/api/v1/historical/AAPL?start=0.5",
        "/api/v1/historical/AAPL?start=1700000000",
        "/api/v1/historical/AAPL?start=2026-02-02&end=2026-02-01",
    ],
)
def test_bad_questions_are_422(api: httpx.Client, path: str) -> None:
    """A question outside the documented values is refused, whatever is in it."""
    assert api.get(path).status_code == 422


def test_missing_triggers_enrichment(api: httpx.Client) -> None:
    """What nobody asked for yet is a 404 that has the scheduler get it; soon after it is there."""
    answer = _features(api, "IWM", timeframe="1d", limit=5)
    detail = answer.json()["detail"]
    assert (answer.status_code, detail["triggered"], detail["symbol"]) == (404, True, "IWM")
    assert len(_until(lambda: _features(api, "IWM", timeframe="1d", limit=5).json().get("rows"))) == 5


def test_unknown_symbols_are_remembered(api: httpx.Client) -> None:
    """A symbol that upstream does not have stays a 404, and says so once that is known."""
    assert _features(api, "NOSUCH").status_code == 404

    def unknown() -> bool:
        said = api.post("/api/v1/admin/backfill/trigger", json={"symbols": ["NOSUCH", "AAPL"]})
        return said.status_code == 202 and said.json() == {"accepted": ["AAPL"], "unknown": ["NOSUCH"]}

    assert _until(unknown)


@pytest.mark.parametrize(("symbol", "hours", "expected"), [("GOOGL", 2, "aging"), ("MSFT", 7, "stale"), ("SPY", 30, "missing")])
def test_old_data_is_never_served_as_new(
    api: httpx.Client, database: psycopg.Connection[Any], symbol: str, hours: int, expected: str
) -> None:
    """Aging data carries a warning, stale data also an alert, and older data is a 404 that triggers its refresh.

    Each has a symbol that no other test refreshes: a refresh that is on its way makes data fresh at any time.
    """
    supervision.wait_filled()
    database.execute(
        "UPDATE tapecheck.checkpoints SET refreshed_at = now() - make_interval(hours => %s) WHERE symbol = %s AND timeframe = '4h'",
        (hours, symbol),
    )
    answer = _features(api, symbol, timeframe="4h", limit=41)
    if expected == "missing":
        assert (answer.status_code, answer.json()["detail"]["triggered"]) == (404, True)
    else:
        body = answer.json()
        assert (body["freshness"], body["warning"].startswith(f"data is {expected}")) == (expected, True)
        assert body["age_s"] == pytest.approx(hours * HOUR, abs=20)
    alerts = api.get("/api/v1/status").json()["alerts"]
    assert any((alert["symbol"], alert["timeframe"]) == (symbol, "4h") for alert in alerts) == (expected == "stale")
    api.post("/api/v1/admin/backfill/trigger", json={"symbols": [symbol]}).raise_for_status()
    assert _until(lambda: _features(api, symbol, timeframe="4h", limit=141).json().get("freshness") == "fresh")


def test_status_has_every_series(api: httpx.Client, sandbox: SandboxState) -> None:
    """Freshness of each symbol and timeframe is listed with its rows and newest bar; the scheduler's health is passed on."""
    status = api.get("/api/v1/status").json()
    keys = {(one["symbol"], one["timeframe"]) for one in status["series"]}
    assert {(symbol, frame) for symbol in ("AAPL", "BTC") for frame in ("5m", "15m", "1h", "4h", "1d")} <= keys
    assert all(one["rows"] > 0 and one["newest"] for one in status["series"] if one["symbol"] == "BTC")
    health = api.get("/api/v1/admin/scheduler-health").json()
    assert (health["status"], health["database"]) == ("ok", "up")


def test_openapi_describes_the_real_answers(api: httpx.Client) -> None:
    """Real answers, good and bad, validate against the schemas that the OpenAPI page gives for them."""
    page = api.get("/openapi.json").json()
    cases = {
        ("/api/v1/features/quant/{symbol}", "get"): _features(api, timeframe="5m", limit=60),
        ("/api/v1/historical/{symbol}", "get"): api.get("/api/v1/historical/SPY?limit=5"),
        ("/api/v1/status", "get"): api.get("/api/v1/status"),
        ("/health", "get"): api.get("/health"),
        ("/api/v1/admin/scheduler-health", "get"): api.get("/api/v1/admin/scheduler-health"),
        ("/api/v1/admin/backfill/trigger", "post"): api.post("/api/v1/admin/backfill/trigger", json={"symbols": ["SPY"]}),
    }
    bad = [
        ("/api/v1/features/quant/{symbol}", "get", _features(api, "NOSUCH")),
        ("/api/v1/features/quant/{symbol}", "get", _features(api, limit=0)),
    ]
    for path, method, answer in [(*key, answer) for key, answer in cases.items()] + bad:
        schema = page["paths"][path][method]["responses"][str(answer.status_code)]["content"]["application/json"]["schema"]
        jsonschema.validate(answer.json(), schema | {"components": page["components"]})


def test_the_openapi_page_needs_no_internet(api: httpx.Client) -> None:
    """Every script and style that /docs names is served by the api itself."""
    named = re.findall(r'(?:src|href)="([^"]+)"', api.get("/docs").text)
    assert len(named) >= 3
    assert all(name.startswith("/") and api.get(name).status_code == 200 for name in named)


def test_server_time_covers_the_whole_request(api: httpx.Client) -> None:
    """Every answer says how long it took inside the api, errors and small endpoints too, and never longer than it took in all."""
    for path in ("/health", "/api/v1/status", "/api/v1/features/quant/AAPL?limit=5000", "/api/v1/features/quant/NOSUCH"):
        answer = api.get(path)
        inside_ms, _ = server_times_ms(answer.headers["Server-Timing"].encode())
        assert 0 < inside_ms <= answer.elapsed.total_seconds() * 1000


def _is_degraded(api: httpx.Client, known: dict[str, int]) -> bool:
    body = _features(api, timeframe="1h", **known).json()
    return "rows" in body and body["source"] == "cache" and "cached" in (body["warning"] or "")


def test_frozen_database_does_not_freeze_the_api(api: httpx.Client, sandbox: SandboxState) -> None:
    """While the database hangs, known answers come from the cache with a warning, others are 503; it recovers by itself."""
    import psutil  # below: limits that no audit of ages asks for, which an earlier test may have put into the cache

    assert _features(api, "AAPL", timeframe="1h", limit=2077).status_code == 200
    process = psutil.Process(_pid("database"))
    process.suspend()  # before its children are listed: it starts no further one
    frozen = [process, *process.children(recursive=True)]
    for one in frozen[1:]:
        one.suspend()
    try:
        assert _features(api, timeframe="1h", limit=2078).status_code == 503  # it answers at all: nothing is resumed before
        assert _until(lambda: _is_degraded(api, {"limit": 2077}))
        refused = _features(api, timeframe="1h", limit=2079)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert api.get("/api/v1/status").json()["database"] == "down"
        assert api.get("/health").json() == {"status": "degraded", "database": "down"}
    finally:
        for one in frozen:
            one.resume()
    assert _until(lambda: _features(api, timeframe="1h", limit=2079).status_code == 200)
    assert _features(api, "AAPL", timeframe="1h", limit=2077).json()["warning"] is None


def test_terminated_connections_are_replaced(api: httpx.Client, database: psycopg.Connection[Any]) -> None:
    """A connection that the server closed is replaced without a failed answer."""
    for limit in range(200, 205):
        _features(api, "SPY", timeframe="5m", limit=limit)
    database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )
    assert [_features(api, "SPY", timeframe="5m", limit=limit).status_code for limit in range(205, 215)] == [200] * 10


def test_killed_processes_come_back(api: httpx.Client, sandbox: SandboxState) -> None:
    """Whatever is killed is started again with another pid, on the same port, and everything is healthy again."""
    before = {name: _pid(name) for name in ("api", "upstream", "database")}
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)

    def recovered() -> bool:
        status = supervision.status()
        return status is not None and all(p.healthy and p.pid != before.get(p.name) for p in status.processes)

    assert _until(recovered)


def test_scheduler_resumes_from_its_checkpoints(api: httpx.Client, sandbox: SandboxState) -> None:
    """After a crash the scheduler takes up its checkpoints, and does not do again what is still fresh."""
    before = _pid("scheduler")
    os.kill(before, signal.SIGKILL)
    _until(lambda: api.get("/api/v1/admin/scheduler-health").status_code == 503)

    def resumed() -> dict[str, Any] | None:
        answer = api.get("/api/v1/admin/scheduler-health")
        return answer.json() if answer.status_code == 200 and answer.json()["resumed"] else None

    health = _until(resumed)
    assert health["resumed"] >= 30 and health["skipped"] >= 30 and health["runs"] <= health["resumed"] - health["skipped"] + 5


def test_poisoned_symbol_is_skipped_and_heals(api: httpx.Client, sandbox: SandboxState) -> None:
    """Bars whose features cannot be computed fail their own job alone; nothing of them is stored, and the job recovers."""
    with httpx.Client(base_url=sandbox.upstream_url, headers=api.headers, trust_env=False) as upstream:
        upstream.post("/faults", json={"kind": "poisoned", "ticker": "X:ETHUSD"}).raise_for_status()
        try:
            api.post("/api/v1/admin/backfill/trigger", json={"symbols": ["ETH", "BTC"]}).raise_for_status()

            def failed() -> bool:
                return "ETH 5m" in api.get("/api/v1/admin/scheduler-health").json()["failed"]

            assert _until(failed)
            rows = api.get("/api/v1/historical/ETH", params={"timeframe": "5m", "limit": 50}).json()["rows"]
            assert min(row["close"] for row in rows) > 0
            series = {(one["symbol"], one["timeframe"]): one for one in api.get("/api/v1/status").json()["series"]}
            assert "price" in series["ETH", "5m"]["error"] and series["BTC", "5m"]["state"] == "done"
        finally:
            upstream.delete("/faults")
    api.post("/api/v1/admin/backfill/trigger", json={"symbols": ["ETH"]}).raise_for_status()
    assert _until(lambda: not api.get("/api/v1/admin/scheduler-health").json()["failed"])


def test_admin_requests_need_the_key_of_the_home(api: httpx.Client, sandbox: SandboxState) -> None:
    """Whoever cannot read it, such as another user of this machine, switches no fault, limit or distance, and triggers nothing."""
    scheduler, page = json.loads(Home().ports.read_bytes())["scheduler"], "v2/aggs/ticker/AAPL/range/1/day/2026-03-02/2026-03-13"
    urls = {
        f"{sandbox.upstream_url}/faults": ("GET", "POST", "DELETE"),
        f"{sandbox.upstream_url}/limit": ("POST",),
        f"{sandbox.upstream_url}/distant/5000/{page}": ("GET",),
        f"{sandbox.base_url}/api/v1/admin/backfill/trigger": ("POST",),
        f"http://127.0.0.1:{scheduler}/trigger": ("POST",),
    }
    asked = [(method, url) for url, methods in urls.items() for method in methods]
    for wrong in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {Home().secret()}"}, {"apiKey": Home().secret()}):
        found = [httpx.request(method, url, headers=wrong, timeout=60, trust_env=False) for method, url in asked]
        assert [one.status_code for one in found] == [401] * len(asked)
        assert max(one.elapsed.total_seconds() for one in found if "distant" in str(one.url)) < 5, "who knows no key holds up nothing"
    assert httpx.get(f"{sandbox.upstream_url}/faults", headers=api.headers, trust_env=False).json() == []


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="shown by Linux")
def test_no_process_of_it_has_a_secret_of_the_environment(sandbox: SandboxState) -> None:
    """The database's runs as another user, which could read it; what the tests' own environment has is not passed on."""
    status = supervision.status()
    assert status
    seen = {one.name: Path(f"/proc/{one.pid}/environ").read_text().split("\0") for one in status.processes}
    seen["supervisor"] = Path(f"/proc/{sandbox.supervisor_pid}/environ").read_text().split("\0")
    names = {name: {line.partition("=")[0] for line in lines} - {""} for name, lines in seen.items()}
    own = {"PG_OOM_ADJUST_FILE", "PG_OOM_ADJUST_VALUE", "PGLOCALEDIR", "PGSYSCONFDIR"}
    assert {name for name in names.pop("database") if not name.startswith("LC_")} <= own
    needed = {*NEEDED, "SUPERVISOR_ENABLED", "SUPERVISOR_PROCESS_NAME", "SUPERVISOR_GROUP_NAME", "SUPERVISOR_SERVER_URL"}
    for name, found in names.items():
        assert {one for one in found if not one.startswith(("LC_", "TAPECHECK_"))} <= needed, name
    assert "TAPECHECK_TESTS_SANDBOXES" in os.environ and all("TAPECHECK_TESTS_SANDBOXES" not in found for found in names.values())


def test_no_secret_is_in_the_state_or_logs(sandbox: SandboxState) -> None:
    """Neither the database's password nor upstream's key stands in the state, the logs or any command line."""
    import psutil

    home = SandboxState.file().parent
    password = (home / "passfile").read_text().strip().rsplit(":", 1)[1]
    secrets = (password, (home / "upstream.key").read_text())
    texts = [path.read_text(errors="replace") for path in (*home.glob("logs/*"), home / "state.json", home / "supervisord.conf")]
    status = supervision.status()
    assert status
    texts += [json.dumps(psutil.Process(process.pid).cmdline()) for process in status.processes if process.pid]
    assert not [secret for secret in secrets for text in texts if secret in text]
    private = ("passfile", "upstream.key", "state.json", "supervisord.conf")
    assert {oct((home / name).stat().st_mode & 0o777) for name in private} == {"0o600"}
