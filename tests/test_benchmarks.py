"""The benchmarks read their peers' reports right; they themselves run with `make bench`."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks import __main__ as bench
from benchmarks import accuracy, compared, generators, index, machine, nginx, paced, planted, report, targets, throughput
from benchmarks.accuracy import Known

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
  Requests/sec:\t18600.1

Status code distribution:
  [200]\t55000 responses
  [503]\t7 responses

Error distribution:
  [5]\tGet "http://127.0.0.1:1/1024": connection refused
"""


def test_wrk_errors_of_sockets_and_statuses_are_failures() -> None:
    """Every kind that wrk counts is counted."""
    count = generators.parse_wrk(WRK)
    assert (count.requests, count.failed, count.duration_s) == (178286, 10, 3.1)


def test_hey_counts_only_answers_below_400_as_right() -> None:
    """Other statuses and connection errors are failures."""
    count = generators.parse_hey(HEY)
    assert (count.requests, count.failed, count.duration_s) == (55000, 12, 3.0012)


def test_k6_failures_are_not_requests() -> None:
    """k6's "passes" of http_req_failed are the failed ones."""
    metrics = {"http_reqs": {"values": {"count": 1000, "rate": 500.0}}, "http_req_failed": {"values": {"passes": 10, "fails": 990}}}
    count = generators.parse_k6(json.dumps({"metrics": metrics}))
    assert (count.requests, count.failed, count.duration_s, count.rps) == (990, 10, 2.0, 495.0)


def test_locust_time_is_from_first_to_last_request() -> None:
    """Not the time that it was told to run."""
    text = json.dumps([{"num_requests": 400, "num_failures": 4, "start_time": 10.0, "last_request_timestamp": 12.0}])
    assert generators.parse_locust(text) == generators.Count(requests=396, failed=4, duration_s=2.0)


def test_bodies_have_exactly_the_size_they_are_named_after() -> None:
    """1 KB is 1024 bytes of JSON."""
    assert [len(nginx.body(size)) for size in nginx.SIZES.values()] == [1024, 51200]
    assert json.loads(nginx.body(1024))["pad"][0] == "x"


def test_quantiles_of_a_freeze_are_those_of_the_simulated_wait() -> None:
    """The formula is what 100,000 evenly spaced arrivals would wait."""
    arrivals_s = np.arange(100_000) * accuracy.PERIOD_S / 100_000
    wait_s = np.where(arrivals_s < accuracy.FREEZE_S, accuracy.FREEZE_S - arrivals_s, 0.0)
    for q in accuracy.FREEZE_QUANTILES.values():
        assert accuracy.frozen_quantile_ms(q) == pytest.approx(np.quantile(wait_s, q) * 1000 + accuracy.BASE_MS, abs=0.5)


def test_planted_times_have_the_quantiles_that_they_are_said_to_have() -> None:
    """The sequence that the server walks through is spread evenly."""
    delays = [planted.delay_ms((i * planted.GOLDEN) % 1.0, 2.0, 2.0) for i in range(planted.STEPS)]
    for q in (0.5, 0.99):
        assert np.quantile(delays, q) == pytest.approx(planted.delay_ms(q, 2.0, 2.0), rel=0.01)


def test_paced_reports_are_read_in_milliseconds() -> None:
    """Each peer says it in its own way."""
    k6 = {"http_reqs": {"values": {"count": 6}}, "http_req_duration": {"values": {"p(90)": 1.0, "p(95)": 2.0, "p(99)": 3.0}}}
    hey = "  90% in 0.0010 secs\n  95% in 0.0020 secs\n  99% in 0.0030 secs\n  [200]\t6 responses\n"
    locust = 'noise\nFOUND{"p90": 1.0, "p95": 2.0, "p99": 3.0, "n": 6}\nmore'
    for found in (paced.parse_k6(json.dumps({"metrics": k6})), paced.parse_hey(hey), paced.parse_locust(locust)):
        assert found == {"p90": 1.0, "p95": 2.0, "p99": 3.0, "n": 6}


@pytest.mark.parametrize(("measured_ms", "met"), [(1.19, True), (1.21, False), (0.79, False)])
def test_accuracy_is_five_per_cent_or_a_fifth_of_a_millisecond(measured_ms: float, met: bool) -> None:
    """The larger of the two, in both directions."""
    known = Known(generator="tapecheck", quantile="p50", planted_ms=1.0, true_ms=1.0, measured_ms=measured_ms, n=10)
    (judged,) = targets._half_rate([known])
    assert judged.met is met


def test_a_peer_that_is_missing_is_not_a_target_that_is_met() -> None:
    """It says so by name."""
    judged = list(targets._ratios([]))
    assert [one.met for one in judged] == [None] * 5
    assert {"wrk", "k6", "locust"} == {one.what.split()[-1] for one in judged}


def row(generator: str, **more: object) -> throughput.Row:
    """Make a row of the throughput's table."""
    names = ("rps", "lowest_rps", "highest_rps", "ratio", "lowest_ratio", "highest_ratio", "cpu_ratio", "seen_ratio")
    known = dict.fromkeys(names, 1.0) | {"server_cpu_ratio": 0.5, "server_cores": 1, "cpu_us": 10.0, "n": 4, "failed": 0}
    return throughput.Row(body="1 KB", generator=generator, **(known | more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrk", "k6", "met"),
    [(1.2, 0.2, (True, True)), (1.21, 0.2, (False, True)), (1.0, 0.21, (True, False))],
)
def test_the_cpu_of_a_request_is_judged_beside_wrk_and_k6(wrk: float, k6: float, met: tuple[bool, bool]) -> None:
    """At most 1.2 times that of the one, and a fifth of that of the other; both numbers are shown."""
    judged = list(targets._ratios([row("tapecheck", cpu_us=12.0), row("wrk", cpu_ratio=wrk), row("k6", cpu_ratio=k6)]))[-2:]
    assert tuple(one.met for one in judged) == met
    assert judged[0].measured == f"{wrk:.2f} x (12.0 of 10.0 µs)"


def test_a_cpu_time_that_is_unknown_is_no_target_that_is_met_or_missed() -> None:
    """One round of two says it; with none, the target was not measured."""
    assert throughput.known_median([float("nan"), 2.0]) == 2.0
    judged = list(targets._ratios([row("tapecheck"), row("wrk", cpu_ratio=throughput.known_median([float("nan")]))]))
    assert judged[-2].met is None


@pytest.mark.parametrize(("busy", "cores", "full"), [(0.89, 1, False), (0.9, 1, True), (0.98, 3, False), (2.8, 3, True)])
def test_a_server_at_its_limit_is_said(busy: float, cores: int, full: bool) -> None:
    """A ratio beside a peer that kept nginx busy is one of two limits, and says so."""
    (judged, *_) = targets._ratios([row("tapecheck"), row("wrk", server_cpu_ratio=busy, server_cores=cores)])
    assert ("nginx was near its limit" in judged.measured) is full


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


def test_the_index_is_timed_over_runs_that_are_all_listed() -> None:
    """Whatever the number; a target is missed by its slowest time."""
    found = index.run(lambda text: None, runs=6, times=2)
    assert len(found["seconds"]) == 2
    assert {"index.html", "executive.html", "junit.xml", "metrics.txt", "summary.md"} == found["page_bytes"].keys()
    assert [one.met for one in targets.judge_index(found | {"seconds": [1, 3.5, 2]})] == [False]
    assert len(index.tables(found)) == 3


def test_the_comparison_is_timed_over_two_runs_that_are_compared() -> None:
    """Whatever their size; a target is missed by its slowest time."""
    found = compared.run(lambda text: None, rows=2_000, times=1)
    assert found["steps"].keys() == {"import", "read", "judge", "charts"} and sum(found["steps"].values()) < found["seconds"][0]
    assert [one.met for one in targets.judge_compare(found | {"seconds": [1, 5.5]})] == [False]
    assert len(compared.tables(found)) == 3


@pytest.mark.parametrize(("only", "ran"), [([], list(bench.PARTS)), *((["--only", part], [part]) for part in bench.PARTS)])
def test_a_part_runs_alone_where_it_is_asked_for(
    only: list[str], ran: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Results and page hold what was run; the other part's block stays."""
    page = tmp_path / "page.md"
    page.write_text("".join(f"{report.BEGIN.format(part)}\nold\n{report.END.format(part)}\n" for part in bench.PARTS))
    missed = targets.Target(what="speed", target="more", measured="less", n="1", met=False)
    one = bench.Part(run=lambda asked: {"throughput": [], "freezes": []}, judge=lambda found: [missed], tables=lambda found: ["a table"])
    monkeypatch.setattr(bench, "PARTS", dict.fromkeys(bench.PARTS, one))
    monkeypatch.setattr(machine, "OUT", tmp_path / "out")
    monkeypatch.setattr(machine, "wait_quiet", lambda minutes: (0.0, 0.0))
    monkeypatch.setattr(report, "chart", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["bench", *only, "--paste", str(page)])
    assert bench.main() == 0
    (file,) = (tmp_path / "out").glob("*.json")
    assert [part for part in json.loads(file.read_text()) if part in bench.PARTS] == ran
    assert page.read_text().count("a table") == len(ran) == len(bench.PARTS) - page.read_text().count("old")
    assert capsys.readouterr().out.count("**missed**") == len(ran)


def test_generator_and_server_have_cores_of_their_own() -> None:
    """Where there are two."""
    cores = machine.cores()
    assert cores.generator and cores.server
    assert not cores.generator & cores.server or len(cores.generator | cores.server) == 1
