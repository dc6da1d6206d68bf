"""The real k6 and Locust against a server with planted failures: what is read is what the server saw and the tool itself says."""

import asyncio
import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from servers import Exchange, Server

from tapecheck.load.analysis import ScenarioSummary
from tapecheck.load.plan import LoadPlan
from tapecheck.load.validation import load
from tapecheck.statistics.intervals import Distribution

DELAY_MS = 20
PLAN = LoadPlan.model_validate({"scenarios": {"any": {"executor": "burst", "concurrency": 1, "request": "any"}}})
K6 = """
import http from "k6/http";
export const options = {
  summaryTrendStats: ["avg", "min", "med", "max", "p(90)", "p(95)", "p(99)"],
  scenarios: { paced: { executor: "constant-arrival-rate", rate: 50, timeUnit: "1s", duration: "%ds", preAllocatedVUs: 10 } },
};
export default function () { http.get("%s/a?limit=100"); }
"""
LOCUST = """
import gevent
from locust import FastHttpUser, constant_throughput, task
class User(FastHttpUser):
    wait_time = constant_throughput(20)
    busy = 0
    def on_start(self):
        self.left = 15
        User.busy += 1
    @task
    def ask(self):
        self.left -= 1
        self.client.get("/a" if self.left % 3 else "/b")
        if self.left == 0:
            User.busy -= 1
            if User.busy == 0:
                gevent.spawn_later(2.5, self.environment.runner.quit)  # its CSV files are written once a second
            gevent.sleep(60)
"""


async def every_tenth_fails(exchange: Exchange) -> None:
    """Answer after a time that grows a little from one request to the next, so that percentiles differ."""
    await asyncio.sleep((DELAY_MS + exchange.number % 20) / 1000)
    exchange.send(exchange.answer(), status=500 if exchange.number % 10 == 0 else 200)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(every_tenth_fails) as server:
        yield server


def run(program: str, *words: str | Path, folder: Path, allowed: tuple[int, ...] = (0,), **environment: str) -> None:
    command = [str(Path(sys.executable).with_name(program)), *map(str, words)]
    done = subprocess.run(command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60)
    assert done.returncode in allowed, done.stderr[-2000:]


def run_k6(url: str, folder: Path, *, duration_s: int, **environment: str) -> dict[str, Any]:
    """Run the script above with every output that is read, and return the metrics of k6's own summary."""
    (folder / "script.js").write_text(K6 % (duration_s, url))
    outputs = ("--out", "json=run.json.gz", "--out", "csv=run.csv", "--summary-export", "summary.json")
    run("k6", "run", "--quiet", "--no-usage-report", "--address", "", *outputs, "script.js", folder=folder, **environment)
    metrics: dict[str, Any] = json.loads((folder / "summary.json").read_text())["metrics"]
    return metrics


def run_locust(url: str, folder: Path) -> None:
    (folder / "user.py").write_text(LOCUST)
    words = ("-f", "user.py", "-H", url, "--headless", "--only-summary", "-u", "4", "-r", "4", "-t", "50s")
    outputs = ("--csv", "run", "--csv-full-history", "--json-file", "run")
    run("locust", *words, *outputs, folder=folder, allowed=(1,))  # as locust ends when a request failed


def locust_times(path: Path) -> list[float]:
    """Return the times of all requests in milliseconds, sorted, rounded as Locust keeps them."""
    entries = json.loads(path.read_text())
    return sorted(float(ms) for one in entries for ms, count in one["response_times"].items() for _ in range(count))


def summarized(path: Path) -> ScenarioSummary:
    (summary,) = load.summarize(load.read(path), PLAN).values()
    return summary


def times(summary: ScenarioSummary) -> Distribution:
    assert summary.response_time_ms is not None
    return summary.response_time_ms


def test_k6_files_say_what_the_server_saw_and_k6_says(server: Server, tmp_path: Path) -> None:
    """Its counts and failures exactly, its times but for the connecting, which is in ours and not in its own figures."""
    said = run_k6(server.url, tmp_path, duration_s=2, K6_CSV_TIME_FORMAT="unix_nano")
    by_output = {name: summarized(tmp_path / name) for name in ("run.json.gz", "run.csv", "summary.json")}
    for found in by_output.values():
        assert found.requests == said["http_reqs"]["count"] == server.seen.requests >= 50
        assert found.failed == said["http_req_failed"]["passes"] == server.seen.requests // 10
        assert found.throughput_rps == pytest.approx(
            said["http_reqs"]["rate"] * found.succeeded / found.requests, rel=0.5
        )  # of its whole run
    own, blocked = said["http_req_duration"], said["http_req_blocked"]
    of_summary = times(by_output["summary.json"])
    assert [of_summary.mean, of_summary.min, of_summary.max] == [own["avg"], own["min"], own["max"]]
    assert [of_summary.p50.value, of_summary.p95.value, of_summary.p99.value] == [own["med"], own["p(95)"], own["p(99)"]]
    for name in ("run.json.gz", "run.csv"):
        found = times(by_output[name])
        assert by_output[name].errors == {"status": server.seen.requests // 10}
        assert list(by_output[name].by["name"]) == ["GET /a?limit=100"]
        assert found.mean == pytest.approx(own["avg"] + blocked["avg"], rel=1e-4)
        for ours, theirs in ((found.p50, own["med"]), (found.p90, own["p(90)"]), (found.p95, own["p(95)"]), (found.p99, own["p(99)"])):
            assert theirs - 0.01 <= ours.value <= theirs + blocked["max"] + 0.01


def test_locust_files_say_what_the_server_saw_and_locust_says(server: Server, tmp_path: Path) -> None:
    """Its counts and failures exactly, its percentiles as its own file has them, and of its JSON the rows that both methods choose."""
    run_locust(server.url, tmp_path)
    by_output = {name: summarized(tmp_path / name) for name in ("run_stats.csv", "run_stats_history.csv", "run.json")}
    for found in by_output.values():
        assert (found.requests, found.failed) == (server.seen.requests, server.seen.requests // 10) == (60, 6)
        assert {name: one.requests for name, one in found.by["name"].items()} == {"GET /a": 40, "GET /b": 20}
    assert by_output["run_stats.csv"].errors == by_output["run_stats_history.csv"].errors == {"status": 6}
    with (tmp_path / "run_stats.csv").open(newline="") as file:
        total = list(csv.DictReader(file))[-1]
    of_stats, of_json = times(by_output["run_stats.csv"]), times(by_output["run.json"])
    assert (of_stats.p50.value, of_stats.p95.value, of_stats.p99.value) == tuple(float(total[p]) for p in ("50%", "95%", "99%"))
    assert DELAY_MS <= of_stats.p50.value < of_stats.p95.value
    for found in (of_stats, of_json, times(by_output["run_stats_history.csv"])):
        assert found.mean == pytest.approx(float(total["Average Response Time"]))
    rounded_ms = locust_times(tmp_path / "run.json")
    for p, ours, theirs in ((0.5, of_json.p50, of_stats.p50), (0.9, of_json.p90, of_stats.p90), (0.95, of_json.p95, of_stats.p95)):
        assert ours.value == pytest.approx(np.quantile(rounded_ms, p))  # between two of its times
        assert theirs.value == rounded_ms[int(p * 60)]  # one of its times
        assert (ours.high, ours.upper, theirs.high, theirs.upper) == (None, None, None, None)
