"""The whole path of `make run`, for real: command line, papermill, engine, target, run folder, page; and no secret in any of it."""

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import httpx
import nbformat
import pyarrow.parquet as pq
import pytest
import servers
import yaml
from backfills import analysed
from servers import Behaviour, Server

from tapecheck import config
from tapecheck.backfill.validation import backfill
from tapecheck.errors import TapecheckError
from tapecheck.load.plan import LoadPlan
from tapecheck.load.recording import Recording
from tapecheck.load.validation import load
from tapecheck.recovery.validation import recovery
from tapecheck.runs import batch, folders
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
  symbols: {executor: burst, concurrency: 50, rounds: 8, request: features,
            parameters: {symbol: [AAPL, MSFT, GOOGL], timeframe: [1d], limit: [500]}}
  timeframes: {executor: burst, concurrency: 50, rounds: 8, request: features,
               parameters: {symbol: [AAPL], timeframe: [5m, 15m, 1h, 4h, 1d], limit: [500]}}
  steady: {executor: closed, concurrency: 5, duration_s: 2, request: features, parameters: {symbol: [AAPL], timeframe: [1h], limit: [100]}}
objectives: [p50_ms < 20000, success_ratio > 0.99]
generator: {lag_p99_ms: 2000, cpu_ratio: 1}
"""


def tapecheck(*words: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tapecheck", *map(str, words)]
    return subprocess.run(command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=280)


def target_file(folder: Path, url: str, path: str = "GET /features/{symbol}?limit={limit}") -> Path:
    file = folder / "target.yaml"
    file.write_text(
        f"name: planted\nkind: external\nbase_url: {url}\nrequests: {{features: '{path}'}}\nheaders: {{X-API-Key: {{env: PLANTED_KEY}}}}\n"
    )
    (folder / "plan.yaml").write_text(SMALL)
    return file


def run(folder: Path, url: str, *words: object) -> subprocess.CompletedProcess[str]:
    file = target_file(folder, url)
    plan = ("-p", "plan", folder / "plan.yaml")
    return tapecheck("run", "load", "--target", file, *plan, "--out", folder / "out", *words, PLANTED_KEY=SECRET)


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


def test_the_path_of_make_run_on_the_sandbox(sandbox: SandboxState, tmp_path: Path) -> None:
    """`tapecheck run all` measures the running sandbox, leaves whole runs, a page and verdict lines, and the sandbox running."""
    (tmp_path / "plan.yaml").write_text(SANDBOX)
    words = ("-p", "plan", "plan.yaml", "-p", "profile", "small", "-p", "drills", "none")
    done = tapecheck("run", "all", *words, "--out", "results", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = (tmp_path / "results" / "load" / "latest").resolve()
    assert {"result.json", "samples.parquet", "resources.parquet", "failures.jsonl", "notebook.ipynb", "report.html"} <= {
        p.name for p in folder.iterdir()
    }
    result = folders.read(folder, "load").result
    assert result["verdict"] == "pass"
    assert result["target"]["base_url"] == sandbox.base_url
    assert result["scenarios"]["symbols"]["requests"] == 400
    assert set(result["scenarios"]["timeframes"]["by"]["timeframe"]) == {"5m", "15m", "1h", "4h", "1d"}
    assert set(result["scenarios"]["steady"]["resources"]) == {"api", "database", "scheduler", "upstream"}
    assert result["scenarios"]["steady"]["server_time_ms"] is not None
    refill = folders.read(tmp_path / "results" / "backfill" / "latest", "backfill").result
    assert (refill["verdict"], refill["totals"]["completed"], refill["parameters"]["profile"]) == ("pass", 15, "small")
    assert refill["target"]["base_url"] == sandbox.upstream_url
    defined = folders.read(tmp_path / "results" / "rto_rpo" / "latest", "rto_rpo").result
    assert (defined["verdict"], defined["rto"], defined["parameters"]["profile"]) == ("pass", {}, "once"), (
        "no plan of it has a profile small"
    )
    assert not (tmp_path / "results" / "compare").exists(), "a comparison is a step of its own"
    assert all(0 < one["measured_s"] < 100 for one in (result, refill)), "how long it measured is recorded"
    assert all(f"{name:<10}  PASS" in done.stdout for name in ("load", "backfill", "rto_rpo"))
    assert str(tmp_path / "results" / "index.html") in done.stdout
    assert f"the objectives as a document: {tmp_path / 'results'}" in done.stdout
    assert folder.name in (tmp_path / "results" / "index.html").read_text()
    assert [file for file, content in artefacts(tmp_path) if any(secret in content for secret in secrets())] == []
    assert tapecheck("sandbox", "status").returncode == 0, "a sandbox that was running before stays"


def test_a_drill_by_plain_papermill_from_another_folder(sandbox: SandboxState, tmp_path: Path) -> None:
    """papermill alone, from anywhere, leaves a whole run with document and journals, no secret in any of it, and loses nothing.

    How soon a service is back depends on how busy the machine is, so whether its objectives are met is not asked.
    """
    plan = yaml.safe_load((config.CONFIG / "rto_rpo.yaml").read_text())
    plan["rpo"]["critical"]["symbols"], plan["rpo"]["standard"]["symbols"] = ["SPY", "BTC", "ETH"], ["AAPL", "MSFT", "GOOGL"]
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    given = {"plan": tmp_path / "plan.yaml", "drills": "database_killed", "out": tmp_path / "results"}
    words = [word for name, value in given.items() for word in ("-p", name, str(value))]
    command = [sys.executable, "-m", "papermill", str(config.NOTEBOOKS / "rto_rpo.ipynb"), "out.ipynb", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert all(cell.execution_count for cell in nbformat.read(tmp_path / "out.ipynb", 4).cells if cell.cell_type == "code")
    folder = (tmp_path / "results" / "rto_rpo" / "latest").resolve()
    assert {"result.json", "probes.parquet", "bars.parquet", "journals.jsonl", "definition.md", "rto.png"} <= {
        p.name for p in folder.iterdir()
    }
    result = folders.read(folder, "rto_rpo").result
    assert result["rto"]["database_loss"]["trials"][0]["trial"]["drill"] == "database_killed"
    assert sum(tier["acknowledged_bars"] for tier in result["rpo"].values()) > 50
    assert sum(tier["lost_bars"] for tier in result["rpo"].values()) == 0
    todo, recording = recovery.read_plan(tmp_path / "plan.yaml", profile="once", trials=0), recovery.read(str(folder))
    settings = recovery.settings(**result["parameters"] | {"run": str(folder), "out": str(tmp_path / "again")})
    again = recovery.record(recovery.analyse(recording, todo), settings=settings)
    assert folders.read(str(again.folder)).result["verdict"] == result["verdict"]
    assert [file for file, content in artefacts(tmp_path) if any(secret in content for secret in secrets())] == []


def test_an_api_that_is_not_the_sandbox_and_no_secret_in_any_artefact(tmp_path: Path) -> None:
    """Any HTTP API can be measured; its key is sent with every request and found in no file that is left.

    What was recorded is analysed again without the target: under a stricter plan it has another verdict, in a run that names its source.
    """
    with Server(servers.fast) as server:
        done = run(tmp_path, server.url)
        assert done.returncode == 0, done.stdout + done.stderr
        assert all(SECRET.encode() in head for head in server.seen.heads)
        assert server.seen.requests > 320
    first = (tmp_path / "out" / "load" / "latest").resolve()
    (tmp_path / "strict.yaml").write_text(SMALL.replace("p50_ms < 5000", "p50_ms < 0.001"))
    todo, recording = load.read_plan(tmp_path / "strict.yaml"), load.read(str(first))
    given = {"target": "any", "plan": str(tmp_path / "strict.yaml"), "run": str(first), "out": str(tmp_path / "out")}
    strict = load.record(load.analyse(recording, todo), settings=load.settings(**given, scenarios="all", rounds=0))
    assert strict.verdict == "fail"
    again = folders.read(tmp_path / "out" / "load" / "latest").result
    assert (again["reanalysis_of"], again["run_id"] != first.name) == (str(first), True)
    assert again["scenarios"] == folders.read(first).result["scenarios"]
    assert load.read(tmp_path / "out" / "load" / "latest").samples.equals(load.read(first).samples)
    found = [file for file, content in artefacts(tmp_path / "out") if SECRET.encode() in content]
    assert found == []
    assert SECRET not in done.stdout + done.stderr
    assert len(list(artefacts(first))) >= 12


def echo(status: int) -> Behaviour:
    """Return a behaviour that refuses, and sends back what it was sent."""

    async def behave(exchange: servers.Exchange) -> None:
        exchange.send(exchange.head, status=status)

    return behave


def test_a_secret_stays_out_of_a_failure_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No message and no file has it, the notebook that is kept with its traceback neither."""
    monkeypatch.setenv("PLANTED_KEY", SECRET)
    with Server(echo(500)) as server:
        given = {"target": str(target_file(tmp_path, server.url)), "plan": str(tmp_path / "plan.yaml")}
        outcome = batch.run("load", given, tmp_path / "out")
    assert (outcome.exit_code, "500" in outcome.message, SECRET in outcome.message) == (2, True, False)
    contents = {file.name: content for file, content in artefacts(tmp_path / "out")}
    assert {"notebook.ipynb", "report.html"} <= contents.keys() and b"500" in contents["notebook.ipynb"]
    assert [name for name, content in contents.items() if SECRET.encode() in content] == []


@pytest.mark.parametrize(("status", "code"), [(401, 4), (418, 4), (500, 2)])
def test_no_error_that_a_refusal_raises_holds_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, code: int) -> None:
    """Neither its message nor what raised it, whatever the target sends back; it names the status and leaves no file."""
    with Server(echo(status)) as server, pytest.raises(TapecheckError) as caught:
        measured(tmp_path, monkeypatch, server.url)
    assert all(SECRET.encode() in head for head in server.seen.heads) and server.seen.heads
    assert caught.value.exit_code == code
    assert str(status) in str(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert not (tmp_path / "out").exists()


def test_a_static_file_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A target need not be an API: files served by http.server are measured alike."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "page.txt").write_text("hello\n" * 100)
    port = servers.free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(tmp_path / "site")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            servers.wait_for_port(port)
            plan = (
                "scenarios: {s: {executor: burst, concurrency: 5, rounds: 64, request: features}}\n"
                "objectives: [p50_ms < 5000]\ngenerator: {lag_p99_ms: 2000, cpu_ratio: 1}\n"
            )
            recording, todo = measured(tmp_path, monkeypatch, f"http://127.0.0.1:{port}", path="GET /page.txt", plan=plan)
        finally:
            server.terminate()
    summary = load.summarize(recording, todo)
    assert [check.verdict for check in load.judge(summary, todo)] == ["pass"]
    assert (summary["s"].requests, summary["s"].failed) == (320, 0)


def test_a_target_that_dies_in_mid_run_gives_a_whole_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its errors are counted, the verdict is fail, every failed request has its line, and the run ends."""
    with Server(servers.dies_after(100)) as server:
        recording, todo = measured(tmp_path, monkeypatch, server.url)
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
