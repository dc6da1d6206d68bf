"""Files of other load generators are read as far as they carry, and no further."""

import contextlib
import csv
import gzip
import json
import math
import re
import shutil
from pathlib import Path
from random import Random

import numpy as np
import pytest
import samples
import tool_files as planted
from samples import recording as own_recording

from tapecheck import charts
from tapecheck.__main__ import main
from tapecheck.charts.figure import Chart
from tapecheck.compare import recorded
from tapecheck.errors import ConfigError
from tapecheck.load import analysis, frames
from tapecheck.load.analysis import ScenarioSummary
from tapecheck.load.engine.recorder import ErrorKind
from tapecheck.load.imports import files, k6, registry
from tapecheck.load.plan import METRICS, LoadPlan
from tapecheck.load.recording import Recording
from tapecheck.load.validation import LoadSummary, load, objectives
from tapecheck.runs import results
from tapecheck.verdict import Verdict, parse

DATA = Path(__file__).parent / "data" / "tools"
PLAN = LoadPlan.model_validate(
    {
        "scenarios": {"any": {"executor": "burst", "concurrency": 1, "request": "any"}},
        "objectives": ["p95_ms < 1000", "mean_ms < 1000", "success_ratio > 0.5", "throughput_rps > 1"],
    }
)
SAMPLED = ("k6.json", "k6.csv", "vegeta.json", "vegeta.csv", "hey.csv")
FIGURES = (
    *("k6_summary.json", "k6_handled.json", "locust_stats.csv", "locust_stats_history.csv", "locust.json"),
    *("vegeta_report.json", "wrk.txt", "hey.txt"),
)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def read(path: Path) -> tuple[Recording, ScenarioSummary]:
    recording = load.read(path)
    (summary,) = load.summarize(recording, PLAN).values()
    return recording, summary


def refused(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load.read(path)
    assert caught.value.exit_code == 4
    return str(caught.value)


# ---- k6 ----


@pytest.mark.parametrize("write_as", [planted.k6_json, planted.k6_csv])
def test_a_k6_request_has_its_time_status_and_connection(tmp_path: Path, write_as) -> None:
    """20 ms from the search for a connection to the last byte, 100 requests of which ten are 500."""
    _, found = read(write(tmp_path / "run", write_as(planted.k6_run(100))))
    assert (found.requests, found.failed, found.errors) == (100, 10, {"status": 10})
    assert found.response_time_ms and (found.response_time_ms.min, found.response_time_ms.max) == (20.0, 20.0)
    assert found.duration_s == pytest.approx(1.01)
    assert found.connections_opened is None  # k6 does not say


def test_response_time_is_service_time_where_nobody_says_when_a_request_was_due(tmp_path: Path) -> None:
    """And first byte is half a millisecond before the end, as k6 says."""
    recording, _ = read(write(tmp_path / "run", planted.k6_json(planted.k6_run(20))))
    rows = recording.samples.to_pydict()
    assert rows["intended_ns"] == rows["sent_ns"]
    assert {done - first for done, first in zip(rows["done_ns"], rows["first_byte_ns"], strict=True)} == {500_000}


def test_samples_are_in_the_order_in_which_they_were_sent(tmp_path: Path) -> None:
    """k6 writes them in the order in which they ended; stretches of time are cut by their beginning."""
    slow_first = [planted.k6_points(0, http_req_duration=900.0), *planted.k6_run(5)]
    text = planted.k6_json(slow_first[1:] + slow_first[:1])
    sent_ns = read(write(tmp_path / "run", text))[0].samples.column("sent_ns").to_pylist()
    assert sent_ns == sorted(sent_ns)


@pytest.mark.parametrize("name", ["nobody's name", planted.URL])
def test_what_k6_asked_for_is_a_parameter_without_secrets(tmp_path: Path, name: str) -> None:
    """A key in a URL reaches neither the samples nor the target's name."""
    points = [(metric, value, {**tags, "name": name}) for metric, value, tags in planted.k6_points(0)]
    recording, found = read(write(tmp_path / "run", planted.k6_json([points])))
    assert list(found.by["name"]) == ["GET nobody's name" if name != planted.URL else "GET /api?symbol=AAPL&apiKey=…"]
    assert recording.context.target.base_url == "http://127.0.0.1:8000"
    everything = str(recording.samples.to_pydict()) + str(recording.context)
    assert "s3cret" not in everything and "pass@" not in everything


def test_more_names_than_anyone_compares_are_no_parameter(tmp_path: Path) -> None:
    """A URL of its own for each request is no kind of request."""
    run = [[(m, v, {**tags, "name": f"http://127.0.0.1:8000/{i}"}) for m, v, tags in planted.k6_points(i)] for i in range(150)]
    _, found = read(write(tmp_path / "run", planted.k6_json(run)))
    assert (found.requests, found.by) == (150, {})


def test_iterations_that_k6_dropped_are_load_that_the_target_never_saw(tmp_path: Path) -> None:
    """40 of 100 dropped: the scenario is invalid, and the finding says so."""
    iterations = [("iterations", 1.0, {"scenario": "default"})] * 60 + [("dropped_iterations", 40.0, {"scenario": "default"})]
    recording, found = read(write(tmp_path / "run", planted.k6_json([*planted.k6_run(60), iterations])))
    assert found.generator.achieved_ratio == 0.6
    assert found.invalid and "60.0%" in found.invalid
    assert "dropped 40 iterations of default" in str(load.find(recording, LoadSummary(default=found), PLAN))


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("1050", 0, "timeout"), ("1101", 0, "unreachable"), ("1211", 0, "connect_timeout"), ("1212", 0, "connect_refused"),
        ("1213", 0, "unreachable"), ("1201", 0, "reset"), ("1220", 0, "reset"), ("1202", 0, "other"), ("1310", 0, "tls"),
        ("1503", 503, "status"), ("1631", 0, "protocol"), ("1000", 0, "other"), ("", 404, "status"),
    ],
)  # fmt: skip
def test_k6_error_codes_are_our_kinds(tmp_path: Path, code: str, status: int, kind: str) -> None:
    """One of each family."""
    _, found = read(write(tmp_path / "run", planted.k6_json([planted.k6_points(0, status, error_code=code)])))
    assert found.errors == {kind: 1}


def test_what_the_script_expects_is_no_failure(tmp_path: Path) -> None:
    """k6 knows better than the status whether a request failed."""
    expected = [(m, 0.0 if m == "http_req_failed" else v, tags) for m, v, tags in planted.k6_points(0, 404)]
    assert read(write(tmp_path / "run", planted.k6_json([expected])))[1].failed == 0


@pytest.mark.parametrize("took_ms", [[0.0, 0.0], [0.0, 5.0], [5.0, 0.0]])
def test_requests_of_no_time_are_drawn_and_judged(took_ms: list[float]) -> None:
    """A median of 0 ms, of all or of one name, is a figure: no ratio divides by it and no axis stretches for it."""
    rows = samples.burst(np.tile(took_ms, 200), per_round=100)
    rows["request"], rows["server_ms"] = np.tile([0, 1], 200), np.nan
    rec = samples.recording({"a": rows}, {"a": samples.requests({"symbol": "A"}, {"symbol": "B"})})
    found = load.summarize(rec, PLAN)
    slow = [one.finding for one in load.find(rec, found, PLAN) if one.name == "slow_parameter"]
    names = ("B", "A") if took_ms[1] else ("A", "B")
    assert slow == ([] if took_ms == [0.0, 0.0] else ["a: symbol {} takes 5 ms, {} 0 ms".format(*names)])
    assert load.judge(found, PLAN)
    for draw in (charts.load_percentiles, charts.load_timeline):
        for limits in ((), objectives(PLAN)):
            assert isinstance(draw(recording=rec, summary=found, objectives=limits), Chart)
    assert isinstance(charts.load_dimensions(recording=rec, summary=found), Chart)
    assert not frames.scenarios(found).empty and not frames.breakdown(found).empty


def test_setup_and_teardown_are_no_load(tmp_path: Path) -> None:
    """Requests of no scenario are left out, and said to be, unless there are no others."""
    untagged = [(m, v, {name: tag for name, tag in tags.items() if name != "scenario"}) for m, v, tags in planted.k6_points(0)]
    recording, found = read(write(tmp_path / "both", planted.k6_json([untagged, *planted.k6_run(5)])))
    assert (found.requests, list(recording.context.executors)) == (5, ["default"])
    assert recording.context.tool and any(note.endswith("are left out: 1") for note in recording.context.tool.notes)
    assert list(load.read(write(tmp_path / "alone", planted.k6_json([untagged]))).context.executors) == [k6.NO_SCENARIO]


@pytest.mark.parametrize("scale", [1, 10**3, 10**6, 10**9])
def test_every_clock_of_a_k6_csv_is_read(tmp_path: Path, scale: int) -> None:
    """Whole seconds are said to be so, since a throughput hangs on them."""
    recording, found = read(write(tmp_path / "run", planted.k6_csv(planted.k6_run(30), scale)))
    assert abs((recording.context.started_at - planted.BEGAN).total_seconds()) < 1.1
    assert recording.context.tool and (k6.SECONDS_NOTE in recording.context.tool.notes) == (scale == 1)
    assert found.response_time_ms and found.response_time_ms.p50.value == pytest.approx(20.0)


def test_a_compressed_file_is_read_as_it_is(tmp_path: Path) -> None:
    """As `k6 run --out json=run.json.gz` leaves it."""
    path = tmp_path / "run.json.gz"
    path.write_bytes(gzip.compress(planted.k6_json(planted.k6_run(30)).encode()))
    assert read(path)[1].requests == 30


@pytest.mark.parametrize("name", ["k6_summary.json", "k6_handled.json"])
def test_a_k6_summary_is_what_its_samples_say(name: str) -> None:
    """Of one run, whose summary leaves out the connecting and p99; counts are equal."""
    (_, samples), (recording, found) = read(DATA / "k6.json"), read(DATA / name)
    assert (found.requests, found.failed, found.errors) == (samples.requests, samples.failed, {"other": samples.failed})
    assert found.response_time_ms and samples.response_time_ms
    assert found.response_time_ms.p50.value == pytest.approx(samples.response_time_ms.p50.value, abs=0.5)
    assert math.isnan(found.response_time_ms.p99.value)
    assert found.duration_s == pytest.approx(samples.duration_s, rel=0.1)
    assert recording.context.tool and "summaryTrendStats" in " ".join(recording.context.tool.notes)


def test_a_clock_of_whole_seconds_bounds_a_throughput(tmp_path: Path) -> None:
    """100 requests in about a second may have been in two: more than 50 a second is not proven; fewer would be a miss all the same."""
    fine, coarse = (read(write(tmp_path / str(scale), planted.k6_csv(planted.k6_run(100), scale)))[1] for scale in (10**9, 1))
    verdicts = [
        analysis.check({"it": found}, [parse(f"throughput_rps > {limit}", METRICS)])[0].verdict
        for found in (fine, coarse)
        for limit in (40, 80)
    ]
    assert verdicts == [Verdict.PASS, Verdict.PASS, Verdict.PASS, Verdict.NOT_PROVEN]


# ---- whole, half and foreign files ----


@pytest.mark.parametrize("name", SAMPLED + FIGURES)
def test_half_a_file_is_refused(tmp_path: Path, name: str) -> None:
    """Cut in the middle of its last full line, so that everything before it is right."""
    whole = (DATA / name).read_text(encoding="utf-8").rstrip("\n")
    cut = len(whole) - max(len(whole.rpartition("\n")[2]) // 2, 3)
    if name == "hey.txt":
        cut = whole.index("Status code")
    assert "half-written" in refused(write(tmp_path / name, whole[:cut]))


@pytest.mark.parametrize("name", SAMPLED + FIGURES)
def test_a_damaged_file_is_refused_or_read_and_never_crashes(tmp_path: Path, name: str) -> None:
    """Cut anywhere, or with a byte that is another."""
    whole, random = (DATA / name).read_bytes(), Random(name)
    damaged = [whole[: random.randrange(len(whole))] for _ in range(20)]
    for _ in range(20):
        at = random.randrange(len(whole))
        damaged.append(whole[:at] + random.choice([b"\0", b"\xff", b"-", b"9", b'"', b",", b"\n", b"e99"]) + whole[at + 1 :])
    for data in damaged:
        (tmp_path / name).write_bytes(data)
        with contextlib.suppress(ConfigError):
            recording = load.read(tmp_path / name)
            load.judge(load.summarize(recording, PLAN), PLAN)


def test_a_k6_request_without_its_duration_is_half_written(tmp_path: Path) -> None:
    """A file may end between two lines, too."""
    text = planted.k6_json(planted.k6_run(3))
    last = text.rindex('{"metric":"http_req_duration"')
    message = refused(write(tmp_path / "run.json", text[:last]))
    assert "without http_req_duration" in message and "run.json:14" in message


def test_what_is_none_of_them_is_refused_with_all_that_are(tmp_path: Path) -> None:
    """The first words, and every format; vegeta's own binary one among the others, which `vegeta encode` makes readable."""
    message = refused(write(tmp_path / "notes.txt", "dear diary"))
    assert "'dear diary'" in message and all(one.name in message for one in registry.FORMATS)
    (tmp_path / "empty").touch()
    (tmp_path / "results.bin").write_bytes(b"\x80\xff\x03\x01\x01\x06Result\x01\xff")
    assert "vegeta encode" in refused(tmp_path / "results.bin")
    assert "begins with ''" in refused(tmp_path / "empty")


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("hey.csv", ",status-code,offset", "", "no column status-code, offset: of another version"),
        ("locust_stats.csv", "Request Count", "# requests", "no column Request Count: of another version"),
        ("k6.csv", "http_req_duration", "http_req_length", "without http_req_duration: half-written, or of another version"),
        ("vegeta.csv", ",GET,", ",", "11 columns where vegeta writes 9 or 12"),
        ("locust_stats.csv", "60,6,", "60,61,", "61 failures of 60 requests"),
        ("vegeta.json", '"latency":20000000', '"latency":-20000000', "took -20 ms"),
        ("wrk.txt", "Latency Distribution", "Latency Distribution (HdrHistogram - Recorded Latency)", "wrk2"),
    ],
)
def test_another_version_or_what_cannot_be_is_named(tmp_path: Path, name: str, old: str, new: str, said: str) -> None:
    """What is missing or impossible, rather than a wrong figure."""
    assert said in refused(write(tmp_path / name, (DATA / name).read_text(encoding="utf-8").replace(old, new)))


def test_a_run_folder_is_still_a_run_folder() -> None:
    """And its result.json is no file of another tool."""
    for path in (DATA.parent / "load", DATA.parent / "load" / "result.json"):
        assert load.read(path).context.tool is None


@pytest.mark.parametrize(("name", "zone"), [("k6.json", 'Z","value'), ("vegeta.json", 'Z","latency'), ("vegeta_report.json", 'Z","latest')])
def test_a_time_without_its_zone_is_refused(tmp_path: Path, name: str, zone: str) -> None:
    """Nobody knows when that was."""
    text = (DATA / name).read_text()
    assert zone in text
    refused(write(tmp_path / name, text.replace(zone, zone[1:])))


def test_a_file_of_a_tool_may_be_called_result_json(tmp_path: Path) -> None:
    """Content decides; and what is neither is said to be no run."""
    shutil.copyfile(DATA / "k6_summary.json", tmp_path / "result.json")
    assert read(tmp_path / "result.json")[0].context.measured_by == "k6"
    assert "unreadable result.json" in refused(write(tmp_path / "result.json", '{"metr'))


def test_failures_of_locust_alone_are_refused() -> None:
    """Nobody could say of how many they are; the message names the file to give."""
    assert "name PREFIX_stats.csv" in refused(DATA / "locust_failures.csv")


# ---- vegeta ----


@pytest.mark.parametrize("name", ["vegeta.json", "vegeta.csv"])
def test_vegeta_hits_are_samples(name: str) -> None:
    """20 hits of 20 to 39 ms, the fifth a 500, the tenth refused; each has its URL."""
    recording, found = read(DATA / name)
    assert (found.requests, found.errors) == (20, {"status": 1, "connect_refused": 1})
    assert found.response_time_ms and (found.response_time_ms.min, found.response_time_ms.max) == (20.0, 39.0)
    assert set(found.by["name"]) == {"GET /api/v1/features/quant/AAPL?limit=100"}
    assert recording.context.target.name == "127.0.0.1:8000"


def test_a_vegeta_csv_of_nine_columns_has_no_names(tmp_path: Path) -> None:
    """Versions before 12.9 do not write the URL."""
    with (DATA / "vegeta.csv").open(newline="") as file:
        short = "\n".join(",".join(row[:9]) for row in csv.reader(file))
    assert read(write(tmp_path / "old.csv", short + "\n"))[1].by == {}


def test_a_vegeta_report_says_what_its_hits_say() -> None:
    """The same 20 hits, of which the report has figures only."""
    (_, hits), (recording, report) = read(DATA / "vegeta.json"), read(DATA / "vegeta_report.json")
    assert (report.requests, report.errors, report.duration_s) == (hits.requests, hits.errors, pytest.approx(hits.duration_s))
    assert report.response_time_ms and hits.response_time_ms
    for name in ("mean", "min", "max"):
        assert getattr(report.response_time_ms, name) == pytest.approx(getattr(hits.response_time_ms, name))
    assert recording.samples.num_rows == 0


# ---- tools that give figures ----


def test_wrk_says_what_it_says() -> None:
    """Its own words for percentiles, without an interval, and nothing in the place of p95, which it does not print."""
    recording, found = read(DATA / "wrk.txt")
    times = found.response_time_ms
    assert times is not None and recording.samples.num_rows == 0
    printed = (DATA / "wrk.txt").read_text()
    assert f"99%   {times.p99.value:.2f}ms" in printed
    assert (times.p99.low, times.p99.high, times.p99.upper, times.p99.n_effective) == (None, None, None, 0)
    assert math.isnan(times.p95.value) and math.isnan(times.min)


def test_wrk_failures_are_statuses_and_sockets(tmp_path: Path) -> None:
    """A connection that was never made is a request that failed."""
    text = (DATA / "wrk.txt").read_text().replace("Requests/sec", "  Socket errors: connect 3, read 2, write 1, timeout 4\nRequests/sec")
    before, found = read(DATA / "wrk.txt")[1], read(write(tmp_path / "wrk.txt", text))[1]
    assert found.requests == before.requests + 6
    assert found.failed == before.failed + 10
    assert found.errors == {**before.errors, "unreachable": 3, "other": 3, "timeout": 4}
    assert found.response_time_ms.p99.n == before.requests - 4  # times beyond the timeout are in none of its figures


def test_hey_says_what_it_says() -> None:
    """Its seconds are our milliseconds."""
    times, printed = read(DATA / "hey.txt")[1].response_time_ms, (DATA / "hey.txt").read_text()
    for level in (50, 90, 95, 99):
        assert re.search(rf"{level}%+ in {getattr(times, f'p{level}').value / 1000:.4f} secs", printed)
    for name, value_ms in (("Average", times.mean), ("Fastest", times.min), ("Slowest", times.max)):
        assert f"{name}:\t{value_ms / 1000:.4f} secs" in printed


def test_hey_counts_errors_without_an_answer(tmp_path: Path) -> None:
    """By the kind that Go's message names."""
    text = (DATA / "hey.txt").read_text().rstrip("\n") + '\n\nError distribution:\n  [7]\tGet "http://127.0.0.1:1/": connection refused\n'
    before, found = read(DATA / "hey.txt")[1], read(write(tmp_path / "hey.txt", text))[1]
    assert (found.requests, found.failed) == (before.requests + 7, before.failed + 7)
    assert found.errors == {**before.errors, "connect_refused": 7}


def test_a_run_without_any_answer_never_passes() -> None:
    """hey says how often, and why; its times are none."""
    _, found = read(DATA / "hey_refused.txt")
    assert (found.requests, found.errors, found.response_time_ms) == (60, {"connect_refused": 60}, None)
    assert {check.verdict for check in load.judge(LoadSummary(hey=found), PLAN)} == {Verdict.FAIL, Verdict.NO_DATA}


def test_answers_alone_prove_nothing_of_what_was_not_answered() -> None:
    """hey's CSV leaves out requests that failed: 60 right answers may be 60 of 1,000."""
    _, found = read(DATA / "hey.csv")
    verdicts = {check.objective: check.verdict for check in load.judge(LoadSummary(hey=found), PLAN)}
    assert (found.requests, found.success_ratio_low) == (60, 0.0)
    assert verdicts["success_ratio > 0.5"] == verdicts["p95_ms < 1000"] == Verdict.NOT_PROVEN


@pytest.mark.parametrize(("status", "failed"), [(200, 0), (302, 0), (399, 0), (400, 60), (503, 60), (101, 60)])
def test_a_status_from_200_to_399_is_no_failure(tmp_path: Path, status: int, failed: int) -> None:
    """Where the tool leaves it to its reader."""
    found = read(
        write(tmp_path / "hey.csv", (DATA / "hey.csv").read_text().replace(",200,", f",{status},").replace(",500,", f",{status},"))
    )[1]
    assert (found.requests, found.failed) == (60, failed)


@pytest.mark.parametrize("name", ["/a?$x\\foo$&y={", "<script>alert(1)</script>", "x" * 300, "ä→\u202e", "|*`_"])
def test_any_name_can_be_drawn_and_tabled(tmp_path: Path, name: str) -> None:
    """A tool's names are whatever a script called them."""
    rows = [row.replace("/b", name) for row in (DATA / "locust_stats.csv").read_text().splitlines()]
    recording, found = read(write(tmp_path / "run_stats.csv", "\n".join(rows) + "\n"))
    assert len(charts.load_dimensions(recording=recording, summary={"locust": found}).png()) > 1000
    assert "<script>" not in frames.breakdown({"locust": found}).to_html()


def test_kinds_of_locust_failures_are_read_from_the_file_beside(tmp_path: Path) -> None:
    """Where it has as many; otherwise the kind is unknown, and that is said."""
    assert read(DATA / "locust_stats.csv")[1].errors == read(DATA / "locust_stats_history.csv")[1].errors == {"status": 6}
    shutil.copyfile(DATA / "locust_stats.csv", tmp_path / "run_stats.csv")
    other = (DATA / "locust_failures.csv").read_text().replace(",4,", ",5,")
    for beside in ("", other, other[:60]):
        write(tmp_path / "run_failures.csv", beside)
        recording, found = read(tmp_path / "run_stats.csv")
        assert found.errors == {"other": 6}
        assert recording.context.tool and any("no PREFIX_failures.csv" in note for note in recording.context.tool.notes)


def test_locust_json_has_the_figures_of_its_csv() -> None:
    """Of one run: counts, mean and extremes are equal, percentiles within the rounding of a millisecond."""
    (_, of_csv), (_, of_json) = read(DATA / "locust_stats.csv"), read(DATA / "locust.json")
    assert (of_json.requests, of_json.failed, set(of_json.by["name"])) == (60, 6, {"GET /a", "GET /b"})
    assert of_json.response_time_ms and of_csv.response_time_ms
    for name in ("mean", "min", "max"):
        assert getattr(of_json.response_time_ms, name) == pytest.approx(getattr(of_csv.response_time_ms, name))
    for name in ("p50", "p90", "p95"):
        assert getattr(of_json.response_time_ms, name).value == pytest.approx(getattr(of_csv.response_time_ms, name).value, abs=1)


def test_locust_names_are_groups_of_one_scenario() -> None:
    """Its last row is all of them."""
    _, found = read(DATA / "locust_stats.csv")
    assert set(found.by["name"]) == {"GET /a", "GET /b"}
    assert sum(group.requests for group in found.by["name"].values()) == found.requests
    assert found.response_time_ms and found.response_time_ms.p95.high is None


def test_a_full_history_of_locust_has_no_percentiles_of_the_whole_run() -> None:
    """Those in it are of the last seconds; median, mean and extremes are of all."""
    _, totals = read(DATA / "locust_stats.csv")
    recording, found = read(DATA / "locust_stats_history.csv")
    assert found.response_time_ms and totals.response_time_ms
    assert (found.requests, found.failed) == (totals.requests, totals.failed)
    assert found.response_time_ms.p50.value == totals.response_time_ms.p50.value
    assert math.isnan(found.response_time_ms.p95.value)
    assert recording.context.tool and any("last seconds" in note for note in recording.context.tool.notes)


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ('Get "http://x": dial tcp 127.0.0.1:1: connect: connection refused', ErrorKind.connect_refused),
        ('Get "http://x": dial tcp 10.0.0.1:80: i/o timeout', ErrorKind.connect_timeout),
        ('Get "http://x": context deadline exceeded (Client.Timeout exceeded while awaiting headers)', ErrorKind.timeout),
        ("read tcp 127.0.0.1:2->127.0.0.1:1: read: connection reset by peer", ErrorKind.reset),
        ('Get "http://x": EOF', ErrorKind.closed_early),
        ("dial tcp: lookup nowhere: no such host", ErrorKind.unreachable),
        ("dial tcp 127.0.0.1:1: socket: too many open files", ErrorKind.local),
        ("x509: certificate signed by unknown authority", ErrorKind.tls),
        ("ConnectionRefusedError(111, 'Connection refused')", ErrorKind.connect_refused),
        ("LocustBadStatusCode(code=500)", ErrorKind.status),
        ("HTTPError('500 Server Error: planted for url: /a')", ErrorKind.status),
        ("CatchResponseError('wrong symbol')", ErrorKind.content),
        ("500 Internal Server Error", ErrorKind.status),
        ("something new", ErrorKind.other),
    ],
)
def test_messages_of_go_and_python_are_our_kinds(message: str, kind: ErrorKind) -> None:
    """The first that fits."""
    assert files.kind_of(message) is kind


# ---- judged, drawn, recorded ----


@pytest.mark.parametrize("name", FIGURES)
def test_a_percentile_without_samples_is_never_a_pass(name: str) -> None:
    """Not proven where the tool reports it, no data where it does not; mean, ratio and rate are judged."""
    recording, found = read(DATA / name)
    verdicts = {check.objective: check.verdict for check in load.judge(LoadSummary(it=found), PLAN)}
    told = not math.isnan(found.response_time_ms.p95.value)
    assert verdicts.pop("p95_ms < 1000") == (Verdict.NOT_PROVEN if told else Verdict.NO_DATA)
    assert set(verdicts.values()) == {Verdict.PASS}
    assert recording.context.imported


@pytest.mark.parametrize("name", SAMPLED + FIGURES)
def test_every_tool_is_known_by_its_content_and_named(tmp_path: Path, name: str) -> None:
    """Whatever its file is called; its figures are not taken for ours, and what it leaves open is in headline and findings."""
    shutil.copyfile(DATA / name, tmp_path / "results")
    recording, _ = read(tmp_path / "results")
    assert recording.context.measured_by == name.partition(".")[0].partition("_")[0]
    said = load.analyse(recording, PLAN)
    findings, headline, summary = said.findings, said.headline, said.summary
    assert f"Measured by {recording.context.measured_by}: coordinated omission cannot be excluded." in headline
    assert findings[-1].name == "other_tool" and "does not say when requests were due" in findings[-1].finding
    assert ("closed model" in findings[-1].finding) == (recording.context.measured_by in ("locust", "wrk", "hey"))
    assert "nan" not in frames.scenarios(summary).to_string() + frames.breakdown(summary).to_string()


@pytest.mark.parametrize("name", ["k6.json", "wrk.txt", "locust.json"])
def test_every_chart_is_drawn_and_names_the_tool(name: str) -> None:
    """Of single requests, of figures, and of figures by name."""
    recording, found = read(DATA / name)
    summary = {next(iter(recording.context.executors)): found}
    tool, limits = recording.context.measured_by, objectives(PLAN)
    drawn = (
        charts.load_percentiles(recording=recording, summary=summary, objectives=limits),
        charts.load_timeline(recording=recording, summary=summary, objectives=limits),
        charts.load_dimensions(recording=recording, summary=summary),
        charts.load_throughput(recording=recording, summary=summary, capacity=None, objectives=limits),
        charts.load_resources(recording=recording, summary=summary, capacity=None),
    )
    for chart in drawn:
        assert f"measured by {tool}" in chart.get_supxlabel()
        assert len(chart.png()) > 1000


@pytest.mark.parametrize("draw", [charts.load_timeline, charts.load_throughput])
def test_a_chart_that_needs_single_requests_says_that_there_are_none(draw) -> None:
    """In its place, with how many requests the tool counted."""
    recording, found = read(DATA / "wrk.txt")
    more = {"capacity": None} if draw is charts.load_throughput else {}
    chart = draw(recording=recording, summary={"wrk": found}, objectives=(), **more)
    said = [text.get_text() for ax in chart.axes for text in ax.texts]
    assert "wrk gives figures, and no single requests" in said
    assert f"n = {found.requests:,} requests" in chart.get_supxlabel()


def test_the_points_that_a_tool_tells_are_drawn_where_they_belong() -> None:
    """p50, p90 and p99 of wrk, each at its place on the axis."""
    recording, found = read(DATA / "wrk.txt")
    chart = charts.load_percentiles(recording=recording, summary={"wrk": found}, objectives=())
    (line,) = (one for one in chart.axes[0].lines if str(one.get_label()).startswith("wrk"))
    assert line.get_xdata() == pytest.approx([2, 10, 100])
    assert line.get_ydata()[2] == found.response_time_ms.p99.value


@pytest.mark.parametrize("name", ["k6.json", "wrk.txt"])
def test_what_was_recorded_of_a_tool_is_read_again(tmp_path: Path, name: str) -> None:
    """result.json keeps its schema, null where the tool says nothing; the recording says the same as the file."""
    recording, _ = read(DATA / name)
    settings = load.settings(target="t", plan="p", run=str(DATA / name), out=str(tmp_path), scenarios="all", rounds=0)
    folder = load.record(load.analyse(recording, PLAN), settings=settings).folder
    assert folder is not None
    result = json.loads((folder / "result.json").read_text())
    assert results.breaks_schema(result) is None
    assert result["tool"]["name"] == name.partition(".")[0]
    again = load.read(folder)
    assert again.context.tool == recording.context.tool
    assert str(load.summarize(again, PLAN)) == str(load.summarize(recording, PLAN))


def test_the_notebook_analyses_and_records_a_file_of_a_tool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the command line to result.json."""
    code = main(["run", "load", "-p", "run", str(DATA / "locust.json"), "--out", str(tmp_path)])
    assert (code, "Measured by locust" in capsys.readouterr().out) == (1, True)  # a tenth failed
    result = json.loads((tmp_path / "load" / "latest" / "result.json").read_text())
    assert (result["tool"]["name"], result["scenarios"]["locust"]["requests"]) == ("locust", 60)


def test_a_file_that_is_none_ends_with_exit_code_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And a message that says what would be one."""
    diary = write(tmp_path / "diary.txt", "dear diary")
    assert main(["run", "load", "-p", "run", str(diary), "--out", str(tmp_path)]) == 4
    assert "or a file of k6 JSON lines" in capsys.readouterr().err


def test_two_recorded_runs_of_a_tool_can_be_compared(tmp_path: Path) -> None:
    """By what both have, and with the doubt that nobody knows where the tool ran."""
    folders = []
    for i in range(2):
        recording, found = read(DATA / "wrk.txt")
        settings = load.settings(target="t", plan="p", run=str(DATA / "wrk.txt"), out=str(tmp_path / str(i)), scenarios="all", rounds=0)
        folders.append(str(load.record(load.analyse(recording, PLAN), settings=settings).folder))
    pair = recorded.read(*folders)
    assert "machine: wrk does not say on which it ran" in pair.context.differs
    for sample in pair.samples:
        assert sample.clocks["p99_ms"] == found.response_time_ms.p99.value and "p95_ms" not in sample.clocks
        assert (sample.counters["requests"], "connections_opened" in sample.counters) == (found.requests, False)


def test_our_own_recordings_name_no_tool() -> None:
    """Charts and headline of a run of this workbook are as they were."""
    recording = own_recording({})
    assert recording.context.measured_by == ""
    assert "Measured by" not in load.say(recording, LoadSummary(), [])
