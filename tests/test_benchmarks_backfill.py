"""The benchmarks of the backfill compare like with like, and leave nothing behind; they themselves run with `make bench`."""

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest
from backfills import SCHEMA, plan
from benchmarks import backfill, embedded, machine, refill, report, targets, vendor
from benchmarks.backfill import END_TO_END, RAW, RAW_ONE, READY, Once, Way
from benchmarks.predictions import Prediction

from tapecheck.backfill.plan import Endpoints, SourcePlan


def once(seconds: float, **more: Any) -> Once:
    return Once(rows=1000, seconds=seconds, cpu_s=more.pop("cpu_s", {}), busy_s=more.pop("busy_s", {}), found=more)


def ways(end_to_end_s: float = 2.0) -> list[Way]:
    raw, cpu_s = [once(1.0), once(1.0), once(1.0)], {"ours": 1.0, "database": 1.0, "upstream": 1.0}
    busy_s = dict.fromkeys(("fetch", "insert"), 1.0)
    made = [backfill.way(name, [once(end_to_end_s, cpu_s=cpu_s, busy_s=busy_s)] * 3, raw, raw) for name in (END_TO_END, READY)]
    return [backfill.way(RAW, raw, raw, raw), *made, backfill.way(RAW_ONE, raw, raw, raw)]


def found(**changes: Any) -> dict[str, Any]:
    """Return what a run finds that meets every target just so, with changes."""
    refilled = {"rows": 10, "wall_s": 10.3, "busy_s": dict.fromkeys(("fetch", "insert"), 1.0)}
    return {
        "ways": ways(1 / 0.6),
        "beside": {"rows": 1000, "pages": 3, "connections": 5, "checksum": "1000-ff", "synchronous_commit": "on"},
        "limited": refilled | {"floor_s": 10.0, "pages": 9, "requests": 9, "refused": 0},
        "memory": refilled | {"peak_bytes": 400e6},
        "features": {"rows": 10, "seconds": 10.0},
        "whole": refilled | {"jobs": 125, "call_s": 90.0},
        "predictions": [Prediction(base="no limit", change="derived", before_s=20.0, predicted_s=10.9, measured_s=10.0)],
        "cores": 2,
    } | changes


def test_a_ratio_is_that_of_two_results_of_the_same_round() -> None:
    """Whatever the machine did in the others: a round at half speed halves both."""
    raw, mine = [once(1.0), once(2.0), once(4.0)], [once(2.0), once(4.0), once(8.0)]
    one = backfill.way("mine", mine, raw, [once(4.0)] * 3)
    assert (one.ratios, one.ratios_one, one.rates) == ((0.5, 0.5, 0.5), (2.0, 1.0, 0.5), (500.0, 250.0, 125.0))


def test_the_least_time_is_that_of_cores_that_are_never_idle() -> None:
    """All CPU time, whosever it is, over the number of cores."""
    one = backfill.way("mine", [once(4.0, cpu_s={"ours": 3.0, "database": 2.0, "upstream": 1.0})], [once(1.0)], [once(1.0)])
    assert (one.least_s(2), one.busy_cores) == (3.0, 1.5)
    remark = next(line for line in report.remarks(found()) if line.startswith("End to end:"))
    assert "3.0 s of CPU time, 1.0 s of it the upstream's" in remark and "1.5 s, 0.67 x raw COPY at best" in remark


@pytest.mark.parametrize(
    ("missed", "changes"),
    [
        ([], {}),
        (["end to end", "the same"], {"ways": ways(1.68)}),
        (["wall time"], {"limited": found()["limited"] | {"wall_s": 10.31}}),
        (["requests refused"], {"limited": found()["limited"] | {"refused": 1}}),
        (["memory"], {"memory": found()["memory"] | {"peak_bytes": 400e6 + 1}}),
        (["features"], {"features": found()["features"] | {"seconds": 10.01}}),
        (["what-if: derived"], {"predictions": [Prediction(base="x", change="derived", before_s=20.0, predicted_s=8.9, measured_s=10.0)]}),
        (["all 125 jobs"], {"whole": found()["whole"] | {"call_s": 90.1}}),
    ],
)
def test_each_target_is_missed_by_itself(missed: list[str], changes: dict[str, Any]) -> None:
    """Just so is met, and a little less is not."""
    judged = targets.judge_backfill(found(**changes))
    assert [one.what.startswith(name) for one, name in zip((t for t in judged if not t.met), missed, strict=True)] == [True] * len(missed)


def test_refused_requests_do_not_raise_the_floor() -> None:
    """It is that of the pages: whoever asks twice for each is late, and by how much is seen."""
    limit = SourcePlan(requests_per_minute=600, burst=10)
    assert backfill.beside_floor({"pages": 110, "requests": 220}, limit) == {"floor_s": 10.0, "refused": 110}


def test_tables_hold_every_refill() -> None:
    """A line for each way, and one for each refill's stages."""
    lines = report.backfill_tables(found())
    assert [line.split(" | ")[0] for line in lines if line.startswith("| ") and line.count("|") == 10][1:] == [
        f"| {name}" for name in (RAW, END_TO_END, READY, RAW_ONE)
    ]
    assert sum(line.startswith(("| all, ", "| and more", "| with a rate")) for line in lines) == 3


# ---- what is measured ----


def test_raw_copy_and_refill_store_the_same_rows(endpoints: Endpoints, connection: psycopg.Connection[Any], tmp_path: Path) -> None:
    """Over one connection or several, from the sandbox's upstream or from recorded answers, whose links lead to their server."""
    small = plan(features="off")
    recorded = refill.record(small, endpoints.source_url, tmp_path)
    try:
        copies = [refill.raw_copy(tmp_path, connections, is_checked=True) for connections in (1, 3)]
    finally:
        connection.execute(f"DROP SCHEMA IF EXISTS {refill.RAW} CASCADE")
    with backfill._vendor(tmp_path) as (ready_url, _):
        refills = [refill.refill(small, url) for url in (endpoints.source_url, ready_url)]
    assert {one["checksum"] for one in (*copies, *refills)} == {refills[0]["checksum"]}
    assert {one["rows"] for one in (recorded, *copies, *refills)} == {copies[0]["stored"]} and copies[0]["stored"] > 30_000
    assert all(one["pages"] == recorded["pages"] > one["jobs"] == one["completed"] == 10 for one in refills)
    assert {one["synchronous_commit"] for one in copies} == {"on"}


def test_pages_keep_their_size_and_their_job(endpoints: Endpoints, tmp_path: Path) -> None:
    """A job's pages are one list, in the order in which they came, so that one connection copies them one after another."""
    five = plan(symbols=["TSLA", "SOL"], timeframes=["5m"], features="off", history={"days": 120})
    refill.record(five, endpoints.source_url, tmp_path)
    jobs = refill.read_tables(tmp_path)
    assert [{(batch["symbol"][0].as_py(), batch["timeframe"][0].as_py()) for batch in job} for job in jobs] == [
        {("SOL", "5m")},
        {("TSLA", "5m")},
    ]
    for job in jobs:
        assert len(job) > 1 and max(batch.num_rows for batch in job) <= refill.PAGE_BARS
        assert all(a["time"][-1].as_py() < b["time"][0].as_py() for a, b in itertools.pairwise(job))


def test_recorded_answers_are_given_to_whoever_asks_the_same(tmp_path: Path) -> None:
    """Byte for byte, several on one connection; anything else is not found."""
    vendor.save(tmp_path, {"/a?b=1": b'{"next_url":"http://old:1/a?cursor=x"}', "/a?cursor=x": b"{}"}, "http://old:1")
    with backfill._vendor(tmp_path) as (url, _), httpx.Client(base_url=url, trust_env=False) as client:
        assert client.get("/a?b=1").json() == {"next_url": f"{url}/a?cursor=x"}
        assert (client.get("/a?cursor=x").content, client.get("/").status_code) == (b"{}", 404)


def test_features_are_computed_of_every_bar() -> None:
    """None of those that a page looks back on is counted twice."""
    computed = refill.compute(25 * 25_000)
    assert computed["rows"] == 25 * 25_000 and 0 < computed["cpu_s"] < 1.5 * computed["seconds"] + 0.1


# ---- CPU time ----


def test_cpu_time_of_a_tree_holds_what_has_ended() -> None:
    """Two children that burned, one after the other, and are gone count with their parent, each once."""
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    code = f"import subprocess, sys; [subprocess.run([sys.executable, '-c', {burn!r}]) for _ in range(2)]; print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        with embedded.Busy({"parent": parent.pid}, period_s=0.02) as busy:
            began_ns = time.monotonic_ns()
            assert parent.stdout
            parent.stdout.readline()
            time.sleep(0.05)
            ended_ns = time.monotonic_ns()
            time.sleep(0.05)
        parent.communicate("\n")
    assert 0.58 <= busy.between(began_ns, ended_ns)["parent"] < 0.9


@pytest.mark.parametrize(("began_ns", "ended_ns", "grown_s"), [(0, 10, 1.0), (5, 15, 1.5), (12, 14, 0.4), (20, 40, 0.0), (15, 40, 1.0)])
def test_cpu_time_is_cut_to_what_was_measured(began_ns: int, ended_ns: int, grown_s: float) -> None:
    """Between two samples it grows in proportion; a process that ended took none from then on, and gives none back."""
    assert embedded.grown([0, 10, 20, 30, 40], [5.0, 6.0, 8.0, 0.0, 0.0], began_ns, ended_ns) == pytest.approx(grown_s)


def test_time_of_our_own_daemons_is_not_that_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sandbox's processes are no children of the benchmarks, so their time is taken off by hand."""
    monkeypatch.setattr(machine, "_busy_s", iter([0.0, 100.0, 100.0]).__next__)
    others = machine.Others()
    monkeypatch.setattr(others, "_at", time.monotonic() - 50)
    assert (others.cores(), others.cores(75.0)) == (pytest.approx(2.0, abs=0.1), pytest.approx(0.5, abs=0.1))


# ---- the sandbox ----


def test_the_sandbox_is_gone_after_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its processes, its folder and its name in the environment; it never touched a database that the environment names."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    before = os.environ.get(embedded.HOME)
    with pytest.raises(KeyboardInterrupt), embedded.running() as sandbox:
        assert "127.0.0.1:1/" not in sandbox.database_url and sandbox.cpu_s() > 0
        assert embedded.endpoints("http://127.0.0.1:2").database_url == sandbox.database_url
        assert all(psutil.pid_exists(pid) for pid in sandbox.pids.values()) and len(sandbox.pids) == 5
        raise KeyboardInterrupt
    left = [process.pid for process in psutil.process_iter(["cmdline"]) if str(sandbox.folder) in " ".join(process.info["cmdline"] or [])]
    assert (left, sandbox.folder.exists()) == ([], False)
    assert (os.environ.get(embedded.HOME), os.environ["DATABASE_URL"]) == (before, "postgresql://nobody@127.0.0.1:1/none")


def test_the_schema_of_the_benchmarks_is_no_one_elses() -> None:
    """Neither of the tests, nor of the plan."""
    assert len({SCHEMA, backfill.SCHEMA, refill.RAW, backfill.read_plan(backfill.PLAN).database_schema}) == 4
