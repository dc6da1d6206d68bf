"""The whole path of `make run`, for real: command line, papermill, engine, target, run folder, page; and no secret in any of it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest
import servers
import yaml
from backfills import analysed
from servers import Server

from tapecheck import config
from tapecheck.backfill.validation import backfill
from tapecheck.errors import TapecheckError
from tapecheck.load.plan import LoadPlan
from tapecheck.load.recording import Recording
from tapecheck.load.validation import load
from tapecheck.recovery.validation import recovery
from tapecheck.runs import folders
from tapecheck.sandbox import supervision
from tapecheck.sandbox.profile import Home
from tapecheck.target.opening import SandboxState, open_target
from tapecheck.verdict import exit_code, overall

SECRET = "s3cr3t-Zx81"
SMALL = """
scenarios:
  burst: {executor: burst, concurrency: 20, rounds: 16, request: features, parameters: {symbol: [AAPL, MSFT], limit: [10]}}
  closed: {executor: closed, concurrency: 2, duration_s: 1, warm_up_s: 0.2, request: features, parameters: {symbol: [AAPL], limit: [10]}}
objectives: [burst.p50_ms < 5000, success_ratio > 0.95]
generator: {lag_p99_ms: 2000, cpu_ratio: 1}  # how busy this machine is, is not what these tests are about
"""
SANDBOX = """
scenarios:
  symbols: {executor: burst, concurrency: 4, rounds: 10, request: features,
            parameters: {symbol: [AAPL, MSFT, GOOGL], timeframe: [1d], limit: [20]}}
  timeframes: {executor: burst, concurrency: 4, rounds: 10, request: features,
               parameters: {symbol: [AAPL], timeframe: [5m, 15m, 1h, 4h, 1d], limit: [20]}}
  steady: {executor: closed, concurrency: 2, duration_s: 1, request: features, parameters: {symbol: [AAPL], timeframe: [1h], limit: [20]}}
objectives: [p50_ms < 20000, success_ratio > 0.8]
generator: {lag_p99_ms: 2000, cpu_ratio: 1}
"""


def target_file(folder: Path, url: str, path: str = "GET /features/{symbol}?limit={limit}") -> Path:
    file = folder / "target.yaml"
    file.write_text(
        f"name: planted\nkind: external\nbase_url: {url}\nrequests: {{features: '{path}'}}\nheaders: {{X-API-Key: {{env: PLANTED_KEY}}}}\n"
    )
    (folder / "plan.yaml").write_text(SMALL)
    return file


def measured(
    folder: Path, monkeypatch: pytest.MonkeyPatch, url: str, *, path: str = "GET /features/{symbol}?limit={limit}", plan: str = SMALL
) -> tuple[Recording, LoadPlan]:
    """Do what the cells of the notebook do, in this process."""
    monkeypatch.setenv("PLANTED_KEY", SECRET)
    file = target_file(folder, url, path)
    (folder / "plan.yaml").write_text(plan)
    todo = load.read_plan(folder / "plan.yaml")
    return load.run(todo, open_target(str(file)), out=str(folder / "out")), todo


def artefacts(folder: Path) -> Iterator[tuple[Path, bytes]]:
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            yield file, file.read_bytes()
            if file.suffix == ".parquet":
                table = pq.read_table(file)
                yield file, repr(table.schema.metadata).encode() + table.to_pandas().to_csv().encode()


def secrets() -> list[bytes]:
    """Return those of the sandbox."""
    found = [Home().secret().encode(), Home().passfile.read_text().strip().rpartition(":")[2].encode()]
    assert all(len(secret) > 20 for secret in found)
    return found


def test_a_drill_loses_nothing_and_leaves_a_whole_run(sandbox: SandboxState, tmp_path: Path) -> None:
    """With document and journals, and no secret in any of it.

    How soon a service is back depends on how busy the machine is, so whether its objectives are met is not asked.
    """
    plan = yaml.safe_load((config.CONFIG / "rto_rpo.yaml").read_text())
    plan["rpo"]["critical"]["symbols"], plan["rpo"]["standard"]["symbols"] = ["SPY", "BTC", "ETH"], ["AAPL", "MSFT", "GOOGL"]
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    given = {"profile": "once", "drills": "database_killed", "trials": 0, "run": "new", "out": str(tmp_path / "out")}
    settings = recovery.settings(target="config/targets/sandbox.yaml", plan=str(tmp_path / "plan.yaml"), **given)
    todo = recovery.plan(settings)
    folder = recovery.record(recovery.analyse(recovery.recording(todo, settings), todo), settings=settings).folder
    assert folder and {"result.json", "probes.parquet", "bars.parquet", "journals.jsonl", "definition.md"} <= {
        p.name for p in folder.iterdir()
    }
    result = folders.read(folder, "rto_rpo").result
    assert result["rto"]["database_loss"]["trials"][0]["trial"]["drill"] == "database_killed"
    assert sum(tier["acknowledged_bars"] for tier in result["rpo"].values()) > 50
    assert sum(tier["lost_bars"] for tier in result["rpo"].values()) == 0
    assert [file for file, content in artefacts(tmp_path) if any(secret in content for secret in secrets())] == []


def test_the_path_of_make_run_on_the_sandbox(sandbox: SandboxState, tmp_path: Path) -> None:
    """`tapecheck run all` measures the running sandbox, leaves whole runs, a page and verdict lines, and the sandbox running."""
    (tmp_path / "plan.yaml").write_text(SANDBOX)
    words = ("-p", "plan", "plan.yaml", "-p", "profile", "small", "-p", "drills", "none", "--out", "results")
    command = [sys.executable, "-m", "tapecheck", "run", "all", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    load, refill, defined = (folders.read(tmp_path / "results" / name / "latest", name).result for name in ("load", "backfill", "rto_rpo"))
    folder = (tmp_path / "results" / "load" / "latest").resolve()
    assert {"result.json", "samples.parquet", "resources.parquet", "failures.jsonl", "notebook.ipynb", "report.html"} <= {
        p.name for p in folder.iterdir()
    }
    assert load["verdict"] == "pass"
    assert load["target"]["base_url"] == sandbox.base_url
    assert load["scenarios"]["symbols"]["requests"] == 40
    assert set(load["scenarios"]["timeframes"]["by"]["timeframe"]) == {"5m", "15m", "1h", "4h", "1d"}
    assert set(load["scenarios"]["steady"]["resources"]) == {"api", "database", "scheduler", "upstream"}
    assert load["scenarios"]["steady"]["server_time_ms"] is not None
    assert (refill["verdict"], refill["totals"]["completed"], refill["parameters"]["profile"]) == ("pass", 15, "small")
    assert refill["target"]["base_url"] == sandbox.upstream_url
    assert (defined["verdict"], defined["rto"], defined["parameters"]["profile"]) == ("pass", {}, "once"), (
        "no plan of it has a profile small"
    )
    assert not (tmp_path / "results" / "compare").exists(), "a comparison is a step of its own"
    assert all(one["measured_s"] > 0 for one in (load, refill)), "how long it measured is recorded"
    assert all(f"{name:<10}  PASS" in done.stdout for name in ("load", "backfill", "rto_rpo"))
    assert str(tmp_path / "results" / "index.html") in done.stdout
    assert f"the objectives as a document: {tmp_path / 'results'}" in done.stdout
    assert folder.name in (tmp_path / "results" / "index.html").read_text()
    assert [file for file, content in artefacts(tmp_path) if any(secret in content for secret in secrets())] == []
    assert supervision.status() is not None, "a sandbox that was running before stays"


def test_a_target_that_dies_in_mid_run_gives_a_whole_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its errors are counted, the verdict is fail, every failed request has its line, and the run ends; the key went with every request."""
    with Server(servers.dies_after(100)) as server:
        recording, todo = measured(tmp_path, monkeypatch, server.url)
    assert server.seen.heads and all(SECRET.encode() in head for head in server.seen.heads)
    given = {"target": str(tmp_path / "target.yaml"), "plan": str(tmp_path / "plan.yaml"), "run": "new", "out": str(tmp_path / "out")}
    settings = load.settings(**given, scenarios="all", rounds=0)
    recorded = load.record(load.analyse(recording, todo), settings=settings)
    assert recorded.verdict == "fail"
    folder = tmp_path / "out" / "load" / "latest"
    burst = folders.read(folder).result["scenarios"]["burst"]
    assert burst["requests"] == 320
    assert 200 < burst["failed"] < 320
    assert sum(burst["errors"].values()) == burst["failed"]
    lines = [json.loads(line) for line in (folder / "failures.jsonl").read_text().splitlines()]
    assert sum(line["scenario"] == "burst" for line in lines) == burst["failed"]
    assert any("burst: success_ratio > 0.95: missed" in line for line in recorded.result.missed())


def test_a_backfill_with_an_unknown_ticker_and_no_secret_in_any_artefact(sandbox: SandboxState, tmp_path: Path) -> None:
    """Its jobs are named with their error and all others complete; every file is there, and gives the same figures again."""
    plan = tmp_path / "plan.yaml"
    plan.write_text("symbols: [AAPL, NOSUCH, BTC]\ntimeframes: [1h, 1d]\nhistory: {days: 20}\nobjectives: [job_success_ratio >= 1]\n")
    given = {"profile": "full", "symbols": "all", "timeframes": "all", "days": 0}
    settings = backfill.settings(target="config/targets/sandbox.yaml", plan=str(plan), run="new", out=str(tmp_path / "out"), **given)
    todo = backfill.read_plan(plan, **given)
    said = backfill.analyse(backfill.recording(todo, settings), todo)
    assert "2 of 6 jobs failed: NOSUCH 1h, NOSUCH 1d; first error: NOSUCH: HTTP 404" in said.headline
    recorded = backfill.record(said, settings=settings)
    assert recorded.verdict == "fail" and recorded.folder is not None
    folder = recorded.folder
    assert {file.name for file in folder.iterdir()} == {
        "result.json", "spans.parquet", "jobs.parquet", "days.parquet", "failures.jsonl", "trace.json",
        "checks.csv",
    }  # fmt: skip
    result = folders.read(folder, "backfill").result
    assert [result["totals"][state] for state in ("completed", "failed", "skipped")] == [4, 2, 0]
    failures = [json.loads(line) for line in (folder / "failures.jsonl").read_text().splitlines()]
    assert [(one["symbol"], one["timeframe"], "404" in one["error"]) for one in failures] == [
        ("NOSUCH", "1h", True),
        ("NOSUCH", "1d", True),
    ]
    trace = json.loads((folder / "trace.json").read_text())["traceEvents"]
    assert sum(event.get("cat") == "stage" for event in trace) == pq.read_metadata(folder / "spans.parquet").num_rows > 20
    found = backfill.read(folder)
    own = {key: result[key] for key in result if key not in ("run_id", "reanalysis_of", "parameters")}
    settings = backfill.settings(**result["parameters"] | {"out": str(tmp_path / "again")})
    second = backfill.record(analysed(found), settings=settings)
    again = folders.read(str(second.folder)).result
    assert {key: again[key] for key in own} == own and again["reanalysis_of"] == str(folder)
    assert [file for file, content in artefacts(tmp_path / "out") if any(secret in content for secret in secrets())] == []


def test_a_backfill_without_a_key_names_every_job(sandbox: SandboxState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed verdict with the list, each job with what to do, and a whole run folder."""
    monkeypatch.setenv("PLANTED_KEY", "")
    file = tmp_path / "target.yaml"
    ends = f"{{source_url: '{sandbox.upstream_url}', api_key: {{env: [PLANTED_KEY, OTHER_KEY]}}, database_url: '{sandbox.database_url}'}}"
    file.write_text(f"name: keyless\nkind: external\nbase_url: {sandbox.base_url}\nrequests: {{h: GET /health}}\nbackfill: {ends}\n")
    given = {"profile": "small", "symbols": "all", "timeframes": "all", "days": 0}
    settings = backfill.settings(target=str(file), plan="config/backfill.yaml", run="new", out=str(tmp_path / "out"), **given)
    todo = backfill.read_plan(settings.plan, **given)
    found = backfill.recording(todo, settings)
    said = backfill.analyse(found, todo)
    assert exit_code(overall(check.verdict for check in said.checks)) == 1
    assert "15 of 15 jobs failed: AAPL 5m, " in said.headline
    backfill.record(said, settings=settings)
    lines = (tmp_path / "out" / "backfill" / "latest" / "failures.jsonl").read_text().splitlines()
    assert [json.loads(line)["error"] for line in lines] == ["no API key: export PLANTED_KEY=... or OTHER_KEY=..."] * 15


@pytest.mark.parametrize(
    ("url", "code", "message"),
    [
        ("http://127.0.0.1:{free}", 2, "nothing answers at port"),
        ("http://no-such-host.invalid", 4, "no-such-host.invalid"),
        ("http://192.0.2.1", 4, "allow_remote: true"),
    ],
    ids=["down", "no such host", "remote"],
)
def test_the_error_of_a_wrong_target_has_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, code: int, message: str
) -> None:
    """It is raised before any load is sent and leaves no file, and a missing API is never mocked; its code is that of the command line."""
    with pytest.raises(TapecheckError) as caught:
        measured(tmp_path, monkeypatch, url.format(free=servers.free_port()))
    assert caught.value.exit_code == code and message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_filled_means_that_the_scheduler_rests(sandbox: SandboxState) -> None:
    """A measurement begins only when no refresh runs beside it: what was triggered is done when the wait ends."""
    asked = httpx.get(f"{sandbox.base_url}/api/v1/status").json()["generated_at"]
    key = {"Authorization": f"Bearer {Home().secret()}"}
    httpx.post(f"{sandbox.base_url}/api/v1/admin/backfill/trigger", json={"symbols": ["AAPL", "SPY"]}, headers=key).raise_for_status()
    supervision.wait_filled()
    health = httpx.get(f"{sandbox.base_url}/api/v1/admin/scheduler-health").json()
    assert (health["due"], health["in_flight"]) == (0, [])
    series = httpx.get(f"{sandbox.base_url}/api/v1/status").json()["series"]
    assert all(one["refreshed_at"] > asked for one in series if one["symbol"] in ("AAPL", "SPY"))
