"""The benchmarks read their peers' reports right and judge what they found right; they themselves run with `make bench`."""

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from benchmarks import __main__ as bench
from benchmarks import accuracy, backfill, embedded, generators, load, machine, planted, recorded, recovery, report, targets, vendor
from benchmarks.backfill import END_TO_END, RAW, RAW_ONE, READY, Once, Prediction, Way
from benchmarks.generators import Count

from tapecheck.__main__ import main

# ---- what peers report ----

WRK = """Running 3s test @ http://127.0.0.1:1/1024
  1 threads and 64 connections
  178293 requests in 3.10s, 200.10MB read
  Socket errors: connect 1, read 2, write 0, timeout 3
  Non-2xx or 3xx responses: 4
Requests/sec:  57513.90
Transfer/sec:     64.55MB
"""
HEY = """
Summary:
  Total:\t3.0012 secs
  Requests/sec:\t18330.0013

Status code distribution:
  [200]\t55000 responses
  [503]\t7 responses

Error distribution:
  [5]\tGet "http://127.0.0.1:1/1024": connection refused
"""
K6 = {"http_reqs": {"values": {"count": 1000, "rate": 500.0}}, "http_req_failed": {"values": {"passes": 10, "fails": 990}}}
LOCUST = [{"num_requests": 400, "num_failures": 4, "start_time": 10.0, "last_request_timestamp": 12.0}]


@pytest.mark.parametrize(
    ("parse", "text", "count"),
    [
        (generators.parse_wrk, WRK, Count(requests=178286, failed=10, duration_s=pytest.approx(3.1))),
        (generators.parse_hey, HEY, Count(requests=55000, failed=12, duration_s=pytest.approx(3.0012))),
        (generators.parse_k6, json.dumps({"metrics": K6}), Count(requests=990, failed=10, duration_s=2.0)),
        (generators.parse_locust, json.dumps(LOCUST) + "\nFOUND{}\n", Count(requests=396, failed=4, duration_s=2.0)),
    ],
)
def test_failures_are_no_right_answers(parse: Any, text: str, count: Count) -> None:
    """Errors of sockets and statuses of 400 or more are failures in each report, and k6's "passes" of http_req_failed are too."""
    assert parse(text) == count


def test_quantiles_at_a_rate_are_read_in_milliseconds() -> None:
    """Each peer reports them in its own way."""
    k6 = {"http_reqs": {"values": {"count": 6}}, "http_req_duration": {"values": {"p(90)": 1.0, "p(95)": 2.0, "p(99)": 3.0}}}
    hey = "  90% in 0.0010 secs\n  95% in 0.0020 secs\n  99% in 0.0030 secs\n  [200]\t6 responses\n"
    locust = 'noise\nFOUND{"p90": 1.0, "p95": 2.0, "p99": 3.0, "n": 6}\nmore'
    parsers = generators.parse_k6_paced, generators.parse_hey_paced, generators.parse_locust_paced
    for parse, text in zip(parsers, (json.dumps({"metrics": k6}), hey, locust), strict=True):
        assert parse(text) == {"p90": 1.0, "p95": 2.0, "p99": 3.0, "n": 6}


# ---- where the truth is known ----


def test_quantiles_of_a_freeze_are_those_of_the_simulated_wait() -> None:
    """The formula is what 100,000 evenly spaced arrivals would wait."""
    arrivals_s = np.arange(100_000) * accuracy.PERIOD_S / 100_000
    wait_s = np.where(arrivals_s < accuracy.FREEZE_S, accuracy.FREEZE_S - arrivals_s, 0.0)
    for q in accuracy.FREEZE_QUANTILES.values():
        assert accuracy.frozen_quantile_ms(q) == pytest.approx(np.quantile(wait_s, q) * 1000 + accuracy.BASE_MS, abs=0.5)


def test_planted_times_have_the_quantiles_that_they_are_planted_with() -> None:
    """The sequence that the server walks through is spread evenly."""
    delays = [planted.delay_ms((i * planted.GOLDEN) % 1.0, 2.0, 2.0) for i in range(planted.STEPS)]
    for q in (0.5, 0.99):
        assert np.quantile(delays, q) == pytest.approx(planted.delay_ms(q, 2.0, 2.0), rel=0.01)


def test_a_kill_is_held_against_the_bars_that_are_there() -> None:
    """What the recorder calls lost, and what a query of our own does not find; the longest pause is how long nothing was written."""
    acks = [("SPY", 1, 0, "kept"), ("SPY", 2, 10**9, "lost"), ("SPY", 3, 3 * 10**9, "kept"), ("SPY", 4, None, "unknown")]
    written = [SimpleNamespace(symbol=name, time_ms=ms, acked_ns=ns, fate=fate) for name, ms, ns, fate in acks]
    found = recovery.kill_of("on", written, {("SPY", 1), ("SPY", 3)})  # type: ignore[arg-type]
    assert found == recovery.Kill(variant="on", acknowledged_bars=3, lost_bars=1, missing_bars=1, unknown_bars=1, away_s=2.0)


# ---- targets ----


def row(generator: str, **more: object) -> load.Row:
    """Make a row of the throughput's table."""
    names = ("rps", "lowest_rps", "highest_rps", "ratio", "lowest_ratio", "highest_ratio", "cpu_ratio", "seen_ratio")
    known = dict.fromkeys(names, 1.0) | {"server_cpu_ratio": 0.5, "server_cores": 1, "cpu_us": 10.0, "n": 4, "failed": 0}
    return load.Row(body="1 KB", generator=generator, **(known | more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrk", "k6", "met"),
    [
        (None, None, [None, None]),
        ({"cpu_ratio": 1.2}, {"cpu_ratio": 0.2}, [True, True]),
        ({"cpu_ratio": 1.21}, {"cpu_ratio": 0.21}, [False, False]),
        ({"cpu_ratio": load.known_median([float("nan")])}, {"cpu_ratio": load.known_median([float("nan"), 0.1])}, [None, True]),
    ],
)
def test_the_cpu_of_a_request_is_judged_beside_wrk_and_k6(wrk: dict[str, Any], k6: dict[str, Any], met: list[bool | None]) -> None:
    """At most 1.2 times that of the one, and a fifth of that of the other; what is missing, or unknown, is neither met nor missed."""
    peers = [row(name, **more) for name, more in (("wrk", wrk), ("k6", k6)) if more]
    judged = list(targets.ratios([row("tapecheck", cpu_us=12.0), *peers]))
    assert [one.met for one in judged[-2:]] == met
    assert wrk is None or judged[-2].measured == f"{wrk['cpu_ratio']:.2f} x (12.0 of 10.0 µs)"


@pytest.mark.parametrize(("busy", "cores", "full"), [(0.89, 1, False), (0.9, 1, True), (0.98, 3, False), (2.8, 3, True)])
def test_a_server_at_its_limit_is_named(busy: float, cores: int, full: bool) -> None:
    """A ratio beside a peer that kept nginx busy is one of two limits."""
    (judged, *_) = targets.ratios([row("tapecheck"), row("wrk", server_cpu_ratio=busy, server_cores=cores)])
    assert ("nginx was near its limit" in judged.measured) is full


@pytest.mark.parametrize(("measured_ms", "met"), [(1.19, True), (1.21, False), (0.79, False)])
def test_accuracy_is_five_per_cent_or_a_fifth_of_a_millisecond(measured_ms: float, met: bool) -> None:
    """The larger of the two, in both directions."""
    (judged,) = targets.half_rate([accuracy.Known(generator="tapecheck", quantile="p50", true_ms=1.0, measured_ms=measured_ms, n=10)])
    assert judged.met is met


def once(seconds: float, **more: Any) -> Once:
    return Once(rows=1000, seconds=seconds, cpu_s=more.pop("cpu_s", {}), busy_s=more.pop("busy_s", {}), found=more)


def ways(end_to_end_s: float) -> list[Way]:
    raw, cpu_s = [once(1.0), once(1.0), once(1.0)], {"ours": 1.0, "database": 1.0, "upstream": 1.0}
    busy_s = dict.fromkeys(("fetch", "insert"), 1.0)
    made = [backfill.way(name, [once(end_to_end_s, cpu_s=cpu_s, busy_s=busy_s)] * 3, raw, raw) for name in (END_TO_END, READY)]
    return [backfill.way(RAW, raw, raw, raw), *made, backfill.way(RAW_ONE, raw, raw, raw)]


def found(**changes: Any) -> dict[str, Any]:
    """Return what a run of the backfill's part finds that meets every target just so, with changes of parts of it."""
    refilled = {"rows": 10, "wall_s": 10.3, "busy_s": dict.fromkeys(("fetch", "insert"), 1.0)}
    just = {
        "ways": ways(1 / 0.6),
        "beside": {"rows": 1000, "pages": 3, "connections": 5, "checksum": "1000-ff", "synchronous_commit": "on"},
        "limited": refilled | {"floor_s": 10.0, "pages": 9, "requests": 9, "refused": 0},
        "memory": refilled | {"peak_bytes": 400e6},
        "features": {"rows": 10, "seconds": 10.0},
        "whole": refilled | {"jobs": 125, "call_s": 90.0},
        "predictions": [Prediction(base="no limit", change="derived", before_s=20.0, predicted_s=10.9, measured_s=10.0)],
        "cores": 2,
    }
    return just | {name: just[name] | part if isinstance(part, dict) else part for name, part in changes.items()}


@pytest.mark.parametrize(
    ("missed", "changes"),
    [
        ([], {}),
        (["end to end", "the same"], {"ways": ways(1.68)}),
        (["wall time"], {"limited": {"wall_s": 10.31}}),
        (["refused"], {"limited": {"refused": 1}}),
        (["memory"], {"memory": {"peak_bytes": 400e6 + 1}}),
        (["features"], {"features": {"seconds": 10.01}}),
        (["what-if: derived"], {"predictions": [Prediction(base="x", change="derived", before_s=20.0, predicted_s=8.9, measured_s=10.0)]}),
        (["all 125 jobs"], {"whole": {"call_s": 90.1}}),
    ],
)
def test_each_target_of_the_backfill_is_missed_by_itself(missed: list[str], changes: dict[str, Any]) -> None:
    """Just so is met, and a little less is not."""
    judged = targets.judge_backfill(found(**changes))
    assert [one.what.startswith(name) for one, name in zip((t for t in judged if not t.met), missed, strict=True)] == [True] * len(missed)


def test_a_ratio_is_that_of_two_results_of_the_same_round() -> None:
    """Whatever the machine did in the others: a round at half speed halves both."""
    raw, mine = [once(1.0), once(2.0), once(4.0)], [once(2.0), once(4.0), once(8.0)]
    one = backfill.way("mine", mine, raw, [once(4.0)] * 3)
    assert (one.ratios, one.ratios_one, one.rates) == ((0.5, 0.5, 0.5), (2.0, 1.0, 0.5), (500.0, 250.0, 125.0))


def test_the_least_time_is_that_of_cores_that_are_never_idle() -> None:
    """All CPU time, of whichever process, over the number of cores; every refill has a line in the tables."""
    one = backfill.way("mine", [once(4.0, cpu_s={"ours": 3.0, "database": 2.0, "upstream": 1.0})], [once(1.0)], [once(1.0)])
    assert (one.least_s(2), one.busy_cores) == (3.0, 1.5)
    remark = next(line for line in report.remarks(found()) if line.startswith("End to end:"))
    assert "3.0 s of CPU time, 1.0 s of it the upstream's" in remark and "1.5 s, 0.67 x raw COPY at best" in remark
    firsts = [line.split(" | ")[0] for line in report.backfill_tables(found()) if line.startswith("| ")]
    assert firsts[1:5] == [f"| {name}" for name in (RAW, END_TO_END, READY, RAW_ONE)] and len(firsts) == 11


# ---- what is measured, on a small scale ----


def test_reading_is_timed_over_runs_that_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six runs are listed, two are compared, here within this process; a target is missed by its slowest time."""

    def output(command: list[str], *_: object, **__: object) -> str:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            recorded.COMMANDS[command[3]](*command[4:])
        return printed.getvalue()

    monkeypatch.setattr(machine, "output", output)
    monkeypatch.setattr(recorded.subprocess, "run", lambda command, **_: main(command[3:]))
    listed, compared = recorded.index(lambda text: None, runs=6, times=1), recorded.compare(lambda text: None, rows=2_000, times=1)
    assert {"index.html", "executive.html", "junit.xml", "metrics.txt", "summary.md"} == listed["page_bytes"].keys()
    assert compared["steps"].keys() == {"import", "read", "judge", "charts"}
    assert sum(compared["steps"].values()) < compared["seconds"][0]
    analysed = recorded.analysis(2_000)
    assert analysed["rows"] == 2_000 and analysed["seconds"] > 0 and analysed["peak_bytes"] > 10e6
    assert [one.met for one in targets.judge_index(listed | {"seconds": [1, 3.5, 2]})] == [False]
    assert [one.met for one in targets.judge_compare(compared | {"seconds": [1, 5.5]})] == [False]
    assert [len(tables) for tables in (report.index_tables(listed), report.compare_tables(compared))] == [3, 3]


def test_recorded_answers_are_given_to_who_asks_the_same(tmp_path: Path) -> None:
    """Byte for byte, several on one connection; anything else is not found."""
    vendor.save(tmp_path, {"/a?b=1": b'{"next_url":"http://old:1/a?cursor=x"}', "/a?cursor=x": b"{}"}, "http://old:1")
    command = machine.module("vendor", tmp_path)
    with machine.serving(command, machine.ALL) as (url, _), httpx.Client(base_url=url, trust_env=False) as client:
        assert client.get("/a?b=1").json() == {"next_url": f"{url}/a?cursor=x"}
        assert (client.get("/a?cursor=x").content, client.get("/").status_code) == (b"{}", 404)


def test_cpu_time_of_a_tree_holds_what_has_ended() -> None:
    """Two children that burned, one after the other, and are gone count with their parent, each once."""
    burn = "import time\nwhile time.process_time() < 0.2: pass"
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
    assert 0.38 <= busy.between(began_ns, ended_ns)["parent"] < 0.7


@pytest.mark.parametrize(("began_ns", "ended_ns", "grown_s"), [(0, 10, 1.0), (5, 15, 1.5), (12, 14, 0.4), (20, 40, 0.0), (15, 40, 1.0)])
def test_cpu_time_is_cut_to_what_was_measured(began_ns: int, ended_ns: int, grown_s: float) -> None:
    """Between two samples it grows in proportion; a process that ended took none from then on, and gives none back."""
    assert embedded.grown([0, 10, 20, 30, 40], [5.0, 6.0, 8.0, 0.0, 0.0], began_ns, ended_ns) == pytest.approx(grown_s)


# ---- make bench ----


def test_the_sandbox_is_gone_after_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder and its name in the environment; it never touches a database that the environment names."""
    begun: list[tuple[Path, bool]] = []

    def up(**_: object) -> None:
        begun.append((Path(os.environ[embedded.HOME]), "DATABASE_URL" in os.environ))
        raise KeyboardInterrupt

    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    monkeypatch.setattr(embedded.supervision, "up", up)
    before = os.environ.get(embedded.HOME)
    with pytest.raises(KeyboardInterrupt), embedded.running():
        pass
    assert [(folder.exists(), is_named) for folder, is_named in begun] == [(False, False)]
    assert (os.environ.get(embedded.HOME), os.environ["DATABASE_URL"]) == (before, "postgresql://nobody@127.0.0.1:1/none")


def test_tables_replace_the_block_of_their_part_of_a_page(tmp_path: Path) -> None:
    """And only that, whatever the tables hold; a page without one is an error, and stays as it is."""
    page, load = tmp_path / "page.md", f"{report.BEGIN.format('load')}\nold\n{report.END.format('load')}\n"
    backfill = load.replace("load", "backfill")
    page.write_text(f"before\n{load}{backfill}after\n")
    report.paste({"backfill": [r"| \1 |"]}, page)
    backfill = backfill.replace("old", r"| \1 |")
    assert page.read_text() == f"before\n{load}{backfill}after\n"
    page.write_text(load)
    with pytest.raises(ValueError, match="exactly one block between <!-- bench backfill: begin -->"):
        report.paste({"load": ["new"], "backfill": ["new"]}, page)
    assert page.read_text() == load


@pytest.mark.parametrize(("only", "ran"), [([], list(bench.PARTS)), (["--only", "recovery"], ["recovery"])])
def test_a_part_runs_alone_where_it_is_asked_for(
    only: list[str], ran: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Results and page hold what was run; the other part's block stays."""
    page = tmp_path / "page.md"
    page.write_text("".join(f"{report.BEGIN.format(part)}\nold\n{report.END.format(part)}\n" for part in bench.PARTS))
    missed = targets.Target(what="speed", target="more", measured="less", n="1", met=False)
    one = bench.Part(run=lambda say: {"throughput": [], "freezes": []}, judge=lambda found: [missed], tables=lambda found: ["a table"])
    monkeypatch.setattr(bench, "PARTS", dict.fromkeys(bench.PARTS, one))
    monkeypatch.setattr(machine, "OUT", tmp_path / "out")
    monkeypatch.setattr(machine, "wait_quiet", lambda minutes, limit: (0.0, 0.0))
    monkeypatch.setattr(report, "chart", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["bench", *only, "--paste", str(page)])
    assert bench.main() == 0
    (file,) = (tmp_path / "out").glob("*.json")
    assert [part for part in json.loads(file.read_text()) if part in bench.PARTS] == ran
    assert page.read_text().count("a table") == len(ran) == len(bench.PARTS) - page.read_text().count("old")
    assert capsys.readouterr().out.count("**missed**") == len(ran)
