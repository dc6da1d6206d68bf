"""Files of other load generators are read right, as far as they carry, or refused with the reason."""

import asyncio
import csv
import gzip
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import samples
import tool_files as planted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers import Exchange, Server

from tapecheck import charts
from tapecheck.charts.figure import Chart
from tapecheck.errors import ConfigError
from tapecheck.load import analysis, frames
from tapecheck.load.analysis import ScenarioSummary
from tapecheck.load.engine.recorder import ErrorKind
from tapecheck.load.imports import files, k6, registry, wrk_and_hey
from tapecheck.load.plan import METRICS, LoadPlan
from tapecheck.load.recording import Recording
from tapecheck.load.validation import LoadSummary, load
from tapecheck.statistics.intervals import Distribution
from tapecheck.verdict import Verdict, parse

DATA = Path(__file__).parent / "data" / "tools"
ODD = DATA / "odd"
PLAN = LoadPlan.model_validate(
    {
        "scenarios": {"any": {"executor": "burst", "concurrency": 1, "request": "any"}},
        "objectives": ["p95_ms < 1000", "mean_ms < 1000", "success_ratio > 0.5", "throughput_rps > 1"],
    }
)
SAMPLED = ("k6.json", "k6.csv", "vegeta.json", "vegeta.csv", "hey.csv", "jmeter.jtl")
FIGURES = (
    *("k6_summary.json", "k6_handled.json", "locust_stats.csv", "locust_stats_history.csv", "locust.json"),
    *("vegeta_report.json", "wrk.txt", "wrk2.txt", "hey.txt", "oha.json"),
)
every_file = pytest.mark.parametrize("name", SAMPLED + FIGURES)


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


def text_of(name: str) -> str:
    """Return one of the files, by its name, or what is none of them, by itself."""
    path = next((folder / name for folder in (DATA, ODD) if "\n" not in name and (folder / name).is_file()), None)
    return path.read_text(encoding="utf-8") if path else name


def changed(name: str, *changes: tuple[str, str]) -> str:
    text = text_of(name)
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return text


# ---- what a file says ----

AFTER = ("Transfer/sec:     14.08KB\n", "Transfer/sec:     14.08KB\nbytes read 1848\ntimeout 7\n   95% 9000.00ms\n     99%  9.00s\n")
SOCKETS = ("Requests/sec", "  Socket errors: connect 3, read 2, write 1, timeout 4\nRequests/sec")
RESET_ROW = "1795956999,10,,Aggregated,0,0" + ",31" * 11 + ",50,0,31,31.4,30.2,40.1,8.0\n"
BEFORE_ROW = "1795956999,10,,Aggregated,90.0"
UNCORRECTED = (
    "  Latency Distribution (HdrHistogram - Uncorrected Latency (measured without taking delayed starts into account))\n"
    " 50.000%    0.11ms\n\n       0.200     0.950000        94417        20.00\n#[Max     =  0.9, Total count    =     7]\n"
    + "-" * 58
    + "\n"
)
RECORDED = text_of("wrk2.txt").partition("  Latency Distribution")[2].partition("-" * 58)[0]
SAID: dict[str, tuple[str, list[tuple[str, str]], dict[str, object]]] = {  # file, changes, and figures of it
    "a URL says nothing of an error": ("hey_certname.txt", [], {"errors": {"timeout": 20}, "requests": 20}),
    "nor does a URL that times out": ("hey_certname.txt", [("x=/certificate", "refused=connection-refused")], {"errors": {"timeout": 20}}),
    "nor the name of a host": (
        "hey_refused.txt",
        [("dial tcp 127.0.0.1:1: connect: connection refused", "dial tcp: lookup timeout.certificate.test: no such host")],
        {"errors": {"unreachable": 60}},
    ),
    "a script may print": ("wrk_lua_done.txt", [], {"errors": {}, "requests": 24, "p50": 120.58, "p95": math.nan, "p99": 1300.0}),
    "a script may print percentiles": ("wrk.txt", [AFTER], {"errors": {"status": 37}, "p95": math.nan, "p99": 25.71}),
    "a script may print before": ("wrk.txt", [("  1 threads", "     99%  9.00s\n  1 threads")], {"p99": 25.71}),
    "wrk's failures": ("wrk.txt", [SOCKETS], {"errors": {"status": 37, "unreachable": 3, "other": 3, "timeout": 4}, "requests": 382}),
    "a time without a unit is unknown": ("wrk.txt", [("25.71ms", "25.71"), ("20.57ms", "-nan")], {"p50": math.nan, "p99": math.nan}),
    "a minute is rounded": ("wrk_1m.txt", [], {"throughput_rps": 16.58}),
    "a second less so": ("wrk.txt", [], {"duration_s": 376 / 187.20}),
    "0.1 ms are coarse": ("hey_refused.txt", [], {"duration_s": 60 / 6057.6280}),
    "k6 without http_req_failed": ("k6_same_run.json.gz", [], {"requests": 600, "failed": 81}),
    "wrk2": ("wrk2.txt", [], {"requests": 119_977, "errors": {"status": 20}, "p50": 1.37, "p95": 2.663, "p99": 3.02, "duration_s": 10.0}),
    "wrk2 -L -U": ("wrk2.txt", [("-" * 58 + "\n", "-" * 58 + "\n\n" + UNCORRECTED)], {"p50": 1.37, "p95": 2.663, "p99": 3.02}),
    "wrk2 -U": ("wrk2.txt", [("  Latency Distribution" + RECORDED, UNCORRECTED)], {"p50": math.nan, "p95": math.nan}),
    "more timeouts than answers": ("wrk.txt", [(SOCKETS[0], SOCKETS[1].replace("out 4", "out 900"))], {"response_time_ms": None}),
    "Locust within one instant": ("locust_stats.csv", [("83.01210093070127", "0.0")], {"duration_s": math.nan, "throughput_rps": None}),
    "oha": ("oha.json", [], {"requests": 4005, "errors": {"status": 20, "censored": 80, "other": 5}, "mean": 50.0, "p95": 90.0}),
    "oha without an answer": (
        "oha.json",
        [('"200": 3900,', ""), ('"503": 20', ""), ('Sec": 400.0', 'Sec": 8.5')],
        {"requests": 85, "response_time_ms": None},
    ),
    "k6's summary": ("k6_summary.json", [], {"requests": 11, "errors": {"other": 1}, "duration_s": 1.0225, "p99": math.nan}),
    "k6's other summary": ("k6_handled.json", [], {"requests": 11, "errors": {"other": 1}, "duration_s": 1.0225, "p50": 20.952551}),
    "k6's medians of 0": ("k6_zero_median.json.gz", [], {"requests": 70, "failed": 70, "p50": 0.0}),
    "k6 1.5": ("k6_mr.json", [], {"requests": 100, "failed": 7, "duration_s": 10.0, "mean": 12.5, "p95": 30.0, "p99": math.nan}),
    "k6 1.5 with a p99": ("k6_mr.json", [('"p(95)": 30.0', '"p(95)": 30.0, "p(99)": 45.0')], {"p99": 45.0}),
    "k6 without avg": ("k6_summary.json", [('"avg": 21.69045090909091,', "")], {"mean": math.nan, "failed": 1, "p50": 20.952551}),
    "k6 with many checks first": (
        "k6_summary.json",
        [('{\n    "metrics"', '{"root_group": {"checks": ["' + "x" * 100_000 + '"]},\n    "metrics"')],
        {"requests": 11},
    ),
    "Locust's first answer came late": ("locust_slow.json", [], {"requests": 10, "duration_s": 5.011}),
    "Locust's keys are text": ("locust_2.35.json", [], {"requests": 342, "failed": 98}),
    "Locust's keys are fractions": ("locust_slow.json", [('"1000": 10', '"1000.5": 4, "1002.0": 6')], {"p50": 1002.0}),
    "Locust among log lines": (
        "locust_slow.json",
        [("[\n", "[2026-11-02 10:15:00] host/INFO/locust.main: Starting\n[\n"), ("\n]", "\n]\n[2026-11-02] bye")],
        {"requests": 10},
    ),
    "Locust with N/A": ("locust_stats.csv", [(",24,23.7340", ",N/A,23.7340")], {"requests": 60}),
    "and its history": ("locust_reset_stats_history.csv", [], {"duration_s": 10.0, "requests": 1000, "p50": 31.0, "p95": math.nan}),
    "a second reset": ("locust_reset_stats_history.csv", [(BEFORE_ROW, RESET_ROW + BEFORE_ROW)], {"duration_s": 3.0, "requests": 1000}),
    "no reset": ("locust_stats_history.csv", [], {"requests": 60, "failed": 6, "p50": 24.0}),
    "a body that broke off": ("vegeta.json", [('"error":"","body"', '"error":"unexpected EOF","body"')], {"failed": 20}),
}  # fmt: skip


@pytest.mark.parametrize("case", SAID)
def test_a_file_says_what_was_measured(case: str, tmp_path: Path) -> None:
    """Counts, kinds of failure, durations and times; what it does not say is unknown."""
    name, changes, expected = SAID[case]
    path = write(tmp_path / name, changed(name, *changes)) if changes else next(f / name for f in (DATA, ODD) if (f / name).exists())
    _, found = read(path)
    times = found.response_time_ms
    for figure, value in expected.items():
        of_times = getattr(times, figure, None)
        got = getattr(of_times, "value", of_times) if figure in (*analysis.EXACT, *analysis.PERCENTILES) else getattr(found, figure)
        assert got == (pytest.approx(value, rel=1e-3, nan_ok=True) if isinstance(value, float) else value), figure


def both(a: str, b: str) -> str:
    return text_of(a) + text_of(b)


REFUSED: dict[str, tuple[Callable[[], str], str]] = {
    "oha's text": (lambda: text_of("oha_old.txt"), "oha's text"),
    "a histogram alone": (lambda: "       Value   Percentile   TotalCount 1/(1-Percentile)\n", "a histogram alone"),
    "JMeter's XML": (lambda: '<?xml version="1.0"?>\n<testResults version="1.2">\n', "JMeter's XML"),
    "ab": (lambda: "This is ApacheBench, Version 2.3\n", "what ab prints"),
    "JMeter between semicolons": (lambda: text_of("jmeter.jtl").replace(",", ";"), "default_delimiter"),
    "JMeter without a header": (lambda: text_of("jmeter.jtl").partition("\n")[2], "print_field_names"),
    "Gatling with assertions": (lambda: "ASSERTION\tAAEC\nRUN\ta\tb\t17\t \t3.9\n", "Gatling's simulation.log"),
    "vegeta's percentiles": (lambda: "Value(ms)  Percentile  TotalCount  1/(1-Percentile)\n", "a histogram alone"),
    "Gatling": (lambda: "RUN\tcomputer\tsim\t1700000000000\t \t3.9.5\n", "Gatling's simulation.log"),
    "vegeta's text": (lambda: "Requests      [total, rate, throughput]  20, 21.05, 18.20\n", "vegeta report -type=json"),
    "vegeta's gob": (lambda: "\x80\xff\x03\x01\x01\x06Result\x01\xff", "vegeta encode"),
    "Locust's failures": (lambda: text_of("locust_failures.csv"), "PREFIX_stats.csv"),
    "two of hey": (lambda: text_of("hey_two.txt"), "two reports in one file"),
    "two of k6": (lambda: both("k6_summary.json", "k6_summary.json"), "broken JSON"),
    "two of vegeta": (lambda: both("vegeta.json", "vegeta.json"), "20 requests twice"),
    "which failed is not said": (lambda: text_of("k6_summary_no_http_req_failed.json"), "no http_req_failed: it does not say which"),
    "nor of all": (lambda: changed("k6_summary.json", ('"fails": 10', '"fails": 4')), "http_req_failed of 5 of 11 requests"),
    "nor by k6 1.5": (lambda: changed("k6_mr.json", ("http_req_failed", "http_req_other")), "no http_req_failed"),
    "nor by a tag": (
        lambda: re.sub(r'"status":"\d+",?', "", changed("k6.json", ("http_req_failed", "x"), ('"error_code"', '"x"'))),
        "without status, error_code",
    ),
    "a point of another request": (
        lambda: re.sub(r'("http_req_blocked"[^\n]*"time":"20)26', r"\g<1>27", text_of("k6.json"), count=1),
        "lines are missing, repeated or out of order",
    ),
    "no time": (lambda: changed("k6_summary.json", ('"http_req_duration"', '"x"')), "no http_req_duration"),
    "no request of k6": (lambda: changed("k6_summary.json", ('"http_reqs"', '"x"')), "no http_reqs"),
    "a column is missing": (lambda: changed("hey.csv", (",status-code,offset", "")), "no column status-code, offset: of another version"),
    "another too": (lambda: changed("locust_stats.csv", ("Request Count", "# requests")), "no column Request Count"),
    "a metric has another name": (lambda: changed("k6.csv", ("http_req_duration", "x")), "without http_req_duration: half-written"),
    "columns too few": (lambda: changed("vegeta.csv", (",GET,", ",")), "11 columns where vegeta writes 9 or 12"),
    "a rate of nothing": (lambda: changed("k6_summary.json", ('"rate": 10.758143328914688', '"rate": 0')), "ZeroDivisionError"),
    "a negative rate": (lambda: changed("locust_stats.csv", ("83.01210093070127", "-83.0")), "a duration of -0.7"),
    "a time beyond all clocks": (lambda: planted.k6_json(planted.k6_run(3)).replace(":19.0", ":1e13"), "a request that took 1e+13 ms"),
    "one name twice": (lambda: changed("locust.json", ('"name": "/b"', '"name": "/a"')), "requests of one name twice"),
    "oha's rate": (lambda: changed("oha.json", ('"requestsPerSec": 400.0', '"requestsPerSec": 4.0')), "contradict each other"),
    "more failed than were sent": (lambda: changed("locust_stats.csv", ("60,6,", "60,61,")), "61 failures of 60 requests"),
    "a negative time": (lambda: changed("vegeta.json", ('"latency":20000000', '"latency":-20000000')), "took -20 ms"),
    "a rate that cannot be": (lambda: changed("wrk.txt", ("187.20", "287.20")), "its figures contradict each other"),
    "requests that are missing": (lambda: changed("hey.txt", ("  [500]\t37 responses\n", "")), "its figures contradict each other"),
    "statuses that are missing": (lambda: changed("vegeta_report.json", ('"500":1', '"500":0')), "19 status codes of 20 requests"),
    "percentiles that fall": (lambda: changed("wrk.txt", ("23.72ms", "3.72ms")), "contradict each other"),
    "a mean beyond the maximum": (lambda: changed("hey.txt", ("Average:\t0.0217", "Average:\t0.2170")), "contradict each other"),
    "times of other requests": (lambda: changed("locust_slow.json", ('"1000": 10', '"1000": 9')), "9 times of 10 requests"),
    "time that runs backwards": (lambda: changed("locust_reset_stats_history.csv", ("1795956990", "1795956980")), "out of order"),
    "no zone in k6": (lambda: changed("k6.json", ('Z","value', '","value')), "a time without its zone"),
    "lists in lists": (lambda: text_of("k6.json") + '{"metric":"http_reqs","data":' + "[" * 100_000 + "\n", "a line that cannot be read"),
    "a diary": (lambda: "dear diary", "begins with 'dear diary'"),
    "nothing": (lambda: "", "begins with ''"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_right_is_refused_with_the_reason(case: str, tmp_path: Path) -> None:
    """Another tool, several reports, a version that says less, or figures that contradict each other."""
    make, said = REFUSED[case]
    assert said in refused(write(tmp_path / "file", make()))


def test_what_is_none_of_them_is_refused_with_all_that_are(tmp_path: Path) -> None:
    """Every format is named; a pipe, which cannot be read twice, is refused as such."""
    message = refused(write(tmp_path / "notes.txt", "dear diary"))
    assert all((one.name in message) == callable(one.read) for one in registry.FORMATS)
    os.mkfifo(tmp_path / "pipe")
    assert "a pipe or device" in refused(tmp_path / "pipe")


def test_hey_beyond_a_million_answers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps figures of the first million, so that counts and mean of more are wrong, in its report and in its CSV."""
    most = changed("hey.txt", ("331 responses", "999963 responses"), ("183.0448", "549132.0000"))
    assert "more answers than the 1,000,000" in refused(write(tmp_path / "hey.txt", most))
    monkeypatch.setattr(wrk_and_hey, "MOST", 60)
    assert "more answers than" in refused(DATA / "hey.csv")


def test_more_requests_than_a_recording_may_have_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before all of them are read: compressed, a small file has any number; and of lines that do not end, as little is read."""
    monkeypatch.setattr(files, "MOST_REQUESTS", 7)
    assert "more than 7 requests" in refused(DATA / "k6.json")
    monkeypatch.setattr(files, "MOST_CHARACTERS", 100)
    assert "half a line" in refused(DATA / "k6.json")


@pytest.mark.parametrize(("name", "encoding"), [*((name, "utf-8-sig") for name in SAMPLED + FIGURES), ("k6.csv", "utf-16")])
def test_a_file_may_have_been_redirected_by_another_system(name: str, encoding: str, tmp_path: Path) -> None:
    """With a byte order mark, other line ends or in UTF-16 it says the same, compressed too."""
    shutil.copy(DATA / "locust_failures.csv", tmp_path)  # which stands beside its counts
    (tmp_path / name).write_bytes(gzip.compress(text_of(name).replace("\n", "\r\n").encode(encoding)))
    assert str(read(tmp_path / name)[1]) == str(read(DATA / name)[1])


# ---- damaged files ----


@every_file
def test_half_a_file_is_refused(tmp_path: Path, name: str) -> None:
    """Cut in the middle of its last full line, so that everything before it is right."""
    whole = text_of(name).rstrip("\n")
    cut = len(whole) - max(len(whole.rpartition("\n")[2]) // 2, 3)
    if name == "hey.txt":
        cut = whole.index("Status code")
    assert "half-written" in refused(write(tmp_path / name, whole[:cut]))


@every_file
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_refused_or_read_and_never_crashes(tmp_path: Path, name: str, data: st.DataObject) -> None:
    """Cut anywhere, or with a byte that is another."""
    whole = (DATA / name).read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    other = data.draw(st.sampled_from([None, b"\0", b"\xff", b"-", b"9", b'"', b",", b"\n", b"e99"]))
    (tmp_path / name).write_bytes(whole[:at] if other is None else whole[:at] + other + whole[at + 1 :])
    try:
        recording = load.read(tmp_path / name)
    except ConfigError:
        return
    load.judge(load.summarize(recording, PLAN), PLAN)


def figures(found: ScenarioSummary) -> dict[str, float]:
    times = found.response_time_ms
    known = (
        {name: getattr(times, name) for name in ("mean", "min", "max")} | {p: getattr(times, p).value for p in analysis.PERCENTILES}
        if times
        else {}
    )
    return {name: value for name, value in {**known, "requests": found.requests, "failed": found.failed}.items() if not math.isnan(value)}


@pytest.mark.parametrize("name", [*SAMPLED[:5], "locust_stats.csv", "locust_stats_history.csv", "wrk.txt", "hey.txt"])
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_lines_out_of_order_or_twice_are_refused_or_change_no_figure(tmp_path: Path, name: str, data: st.DataObject) -> None:
    """A part may be missing in the end, but none is wrong; where the clock is coarse, lines may really be twice."""
    lines = text_of(name).splitlines(keepends=True)
    a, b = sorted(data.draw(st.tuples(*[st.integers(0, len(lines) - 1)] * 2)))
    is_moved = name in ("hey.csv", "k6.csv") or data.draw(st.booleans())
    lines = lines[:a] + lines[b : b + 1] + lines[a:b] + lines[b + 1 :] if is_moved else lines[:b] + lines[a:]
    try:
        _, found = read(write(tmp_path / name, "".join(lines)))
    except ConfigError:
        return
    whole = figures(read(DATA / name)[1])
    assert all(whole[one] == pytest.approx(value) for one, value in figures(found).items())


def test_a_run_folder_is_still_a_run_folder(tmp_path: Path) -> None:
    """Its result.json is no file of another tool, which may be called so as well: content decides."""
    for path in (DATA.parent / "load", DATA.parent / "load" / "result.json"):
        assert load.read(path).context.tool is None
    shutil.copyfile(DATA / "k6_summary.json", tmp_path / "result.json")
    assert read(tmp_path / "result.json")[0].context.measured_by == "k6"
    assert "unreadable result.json" in refused(write(tmp_path / "result.json", '{"metr'))


# ---- names ----


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("nobody's name", "GET nobody's name"),
        (planted.URL, "GET /api?symbol=AAPL&apiKey=…"),
        ("http://u:pw@h/login;jsessionid=J?a=1#token=T", "GET /login;jsessionid=…?a=1"),
        ("/a?sig=S&pass=P&pwd=P&password=P&jwt=J&code=C", "GET /a?sig=…&pass=…&pwd=…&password=…&jwt=…&code=…"),
        ("/a?sid=S&session=S&signature=S", "GET /a?sid=…&session=…&signature=…"),
        ("/a?hmac=H&access=A&key=K&token=T&auth=A&credential=C", "GET /a?hmac=…&access=…&key=…&token=…&auth=…&credential=…"),
        ("/a?X-Amz-Signature=S&AWSAccessKeyId=A&client%5Fsecret=S", "GET /a?X-Amz-Signature=…&AWSAccessKeyId=…&client%5Fsecret=…"),
        ("/a;PHPSESSID=S;v=2?symbol=A&country_code=US&side=buy", "GET /a;PHPSESSID=…;v=2?symbol=A&country_code=US&side=buy"),
        ("two\nlines  \u00fc", "GET two lines \u00fc"),
        ("http://h", "GET /"),
    ],
)  # fmt: skip
def test_a_name_is_a_parameter_without_secrets(tmp_path: Path, name: str, shown: str) -> None:
    """A key in a URL reaches neither the samples nor the target's name."""
    assert files.label("GET", name) == shown
    points = [(metric, value, {**tags, "name": name}) for metric, value, tags in planted.k6_points(0)]
    recording, found = read(write(tmp_path / "run", planted.k6_json([points])))
    assert list(found.by["name"]) == [shown]
    assert recording.context.target.base_url == "http://127.0.0.1:8000"
    everything = str(recording.samples.to_pydict()) + str(recording.context)
    assert "s3cret" not in everything and "pass@" not in everything


def test_nothing_of_a_secret_is_left_in_a_recorded_run(tmp_path: Path) -> None:
    """Neither in a query, a path, a fragment, the user of a URL, nor in what an error says."""
    settings = load.settings(target="t", plan="p", run="r", out=str(tmp_path), scenarios="all", rounds=0)
    folder = load.record(load.analyse(read(ODD / "vegeta_secrets.json")[0], PLAN), settings=settings).folder
    assert folder is not None
    everything = b"".join(file.read_bytes() for file in folder.iterdir())
    secrets = "PWINURL SASVALUE PASSV PWDV JWTV CODEV SIDV HMACV ACCV TOKV FRAG ERRTOK JSESS"
    assert not [one for one in secrets.split() if one.encode() in everything]


def test_more_names_than_anyone_compares_are_no_parameter(tmp_path: Path) -> None:
    """A URL of its own for each request is no kind of request."""
    run = [[(m, v, {**tags, "name": f"http://127.0.0.1:8000/{i}"}) for m, v, tags in planted.k6_points(i)] for i in range(150)]
    _, found = read(write(tmp_path / "run", planted.k6_json(run)))
    assert (found.requests, found.by) == (150, {})


@pytest.mark.parametrize("name", ["/a?$x\\foo$&y={", "<script>alert(1)</script>" + "x" * 300])
def test_any_name_can_be_drawn_and_tabled(tmp_path: Path, name: str) -> None:
    """A tool's names are whatever a script called them."""
    recording, found = read(write(tmp_path / "run_stats.csv", changed("locust_stats.csv", ("/b", name))))
    assert len(charts.load_dimensions(recording=recording, summary={"locust": found}).png()) > 1000
    assert "<script>" not in frames.breakdown({"locust": found}).to_html()


# ---- k6 ----


@pytest.mark.parametrize("write_as", [planted.k6_json, planted.k6_csv])
def test_a_k6_request_has_its_time_status_and_connection(tmp_path: Path, write_as: Callable[..., str]) -> None:
    """20 ms from the search for a connection to the last byte, 100 requests of which ten are 500; service time is response time."""
    recording, found = read(write(tmp_path / "run", write_as(planted.k6_run(100))))
    assert (found.requests, found.failed, found.errors) == (100, 10, {"status": 10})
    assert found.response_time_ms and (found.response_time_ms.min, found.response_time_ms.max) == (20.0, 20.0)
    assert (found.duration_s, found.connections_opened) == (pytest.approx(1.01), None)  # k6 does not say
    rows = recording.samples.to_pydict()
    assert rows["intended_ns"] == rows["sent_ns"]
    assert {done - first for done, first in zip(rows["done_ns"], rows["first_byte_ns"], strict=True)} == {500_000}
    (group,) = found.by["name"].values()
    assert math.isnan(group.bytes_mean), "k6 does not say"


def test_samples_are_in_the_order_in_which_they_were_sent(tmp_path: Path) -> None:
    """k6 writes them in the order in which they ended; stretches of time are cut by their beginning."""
    slow_first = [planted.k6_points(0, http_req_duration=900.0), *planted.k6_run(5)]
    text = planted.k6_json(slow_first[1:] + slow_first[:1])
    sent_ns = read(write(tmp_path / "run", text))[0].samples.column("sent_ns").to_pylist()
    assert sent_ns == sorted(sent_ns)


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
    """One of each family; a status that the script expects is no failure."""
    points = planted.k6_points(0, status, error_code=code)
    assert read(write(tmp_path / "run", planted.k6_json([points])))[1].errors == {kind: 1}
    expected = [(m, 0.0 if m == "http_req_failed" else v, tags) for m, v, tags in points]
    assert read(write(tmp_path / "run", planted.k6_json([expected])))[1].failed == 0


def test_setup_and_teardown_are_no_load(tmp_path: Path) -> None:
    """Requests of no scenario are left out, and said to be, unless there are no others."""
    untagged = [(m, v, {name: tag for name, tag in tags.items() if name != "scenario"}) for m, v, tags in planted.k6_points(0)]
    recording, found = read(write(tmp_path / "both", planted.k6_json([untagged, *planted.k6_run(5)[1:]])))
    assert (found.requests, list(recording.context.executors)) == (4, ["default"])
    assert recording.context.tool and any(note.endswith("are left out: 1") for note in recording.context.tool.notes)
    assert list(load.read(write(tmp_path / "alone", planted.k6_json([untagged]))).context.executors) == [k6.NO_SCENARIO]


@pytest.mark.parametrize("scale", [1, 10**3, 10**6, 10**9])
def test_every_clock_of_a_k6_csv_is_read(tmp_path: Path, scale: int) -> None:
    """Whole seconds are said to be so, and bound a throughput: 100 requests in about a second may have been in two."""
    recording, found = read(write(tmp_path / "run", planted.k6_csv(planted.k6_run(100), scale)))
    assert abs((recording.context.started_at - planted.BEGAN).total_seconds()) < 1.1
    assert recording.context.tool and (k6.SECONDS_NOTE in recording.context.tool.notes) == (scale == 1)
    assert found.response_time_ms and found.response_time_ms.p50.value == pytest.approx(20.0)
    verdicts = [analysis.check({"it": found}, [parse(f"throughput_rps > {limit}", METRICS)])[0].verdict for limit in (40, 80)]
    assert verdicts == [Verdict.PASS, Verdict.NOT_PROVEN if scale == 1 else Verdict.PASS]


# ---- the others ----


@pytest.mark.parametrize("name", ["vegeta.json", "vegeta.csv", "vegeta_report.json"])
def test_vegeta_says_the_same_in_each_form(name: str, tmp_path: Path) -> None:
    """20 hits of 20 to 39 ms, the fifth a 500, the tenth refused; each has its URL, but in a CSV of nine columns."""
    _, found = read(DATA / name)
    assert (found.requests, found.errors, found.duration_s) == (20, {"status": 1, "connect_refused": 1}, pytest.approx(0.989))
    assert found.response_time_ms and (found.response_time_ms.min, found.response_time_ms.max) == (20.0, 39.0)
    assert set(found.by.get("name", {})) == (set() if "report" in name else {"GET /api/v1/features/quant/AAPL?limit=100"})
    if name == "vegeta.csv":
        short = "\n".join(",".join(row[:9]) for row in csv.reader(text_of(name).splitlines()))
        assert read(write(tmp_path / "old.csv", short + "\n"))[1].by == {}


def test_wrk_and_hey_say_what_they_say() -> None:
    """Their own words for percentiles, without an interval, and nothing in the place of what they do not print."""
    wrk, hey = (read(DATA / name)[1].response_time_ms for name in ("wrk.txt", "hey.txt"))
    assert wrk is not None and hey is not None
    assert f"99%   {wrk.p99.value:.2f}ms" in text_of("wrk.txt")
    assert (wrk.p99.low, wrk.p99.high, wrk.p99.upper, wrk.p99.n_effective) == (None, None, None, 0)
    assert math.isnan(wrk.p95.value) and math.isnan(wrk.min)
    for level in (50, 90, 95, 99):
        assert re.search(rf"{level}%+ in {getattr(hey, f'p{level}').value / 1000:.4f} secs", text_of("hey.txt"))
    for name, value_ms in (("Average", hey.mean), ("Fastest", hey.min), ("Slowest", hey.max)):
        assert f"{name}:\t{value_ms / 1000:.4f} secs" in text_of("hey.txt")


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


@pytest.mark.parametrize(("status", "failed"), [(399, 0), (400, 60), (101, 60)])
def test_a_status_from_200_to_399_is_no_failure(tmp_path: Path, status: int, failed: int) -> None:
    """Where the tool leaves it to its reader."""
    found = read(write(tmp_path / "hey.csv", changed("hey.csv", (",200,", f",{status},"), (",500,", f",{status},"))))[1]
    assert (found.requests, found.failed) == (60, failed)


def test_kinds_of_locust_failures_are_read_from_the_file_beside(tmp_path: Path) -> None:
    """Where it has as many; otherwise the kind is unknown, and that is said."""
    assert read(DATA / "locust_stats.csv")[1].errors == read(DATA / "locust_stats_history.csv")[1].errors == {"status": 6}
    shutil.copyfile(DATA / "locust_stats.csv", tmp_path / "run_stats.csv")
    other = text_of("locust_failures.csv").replace(",4,", ",5,")
    for beside in ("", other, other[:60]):
        write(tmp_path / "run_failures.csv", beside)
        recording, found = read(tmp_path / "run_stats.csv")
        assert found.errors == {"other": 6}
        assert recording.context.tool and any("no PREFIX_failures.csv" in note for note in recording.context.tool.notes)


def test_locust_says_the_same_in_each_form(tmp_path: Path) -> None:
    """Counts, mean, extremes and names are equal, percentiles within the rounding of a millisecond; a history has no percentiles."""
    (_, stats), (_, document), (recording, history) = (read(DATA / f"locust{end}") for end in ("_stats.csv", ".json", "_stats_history.csv"))
    for found in (stats, document, history):
        assert (found.requests, found.failed, set(found.by["name"])) == (60, 6, {"GET /a", "GET /b"})
        assert sum(group.requests for group in found.by["name"].values()) == 60
    of_stats, of_json = stats.response_time_ms, document.response_time_ms
    assert of_stats and of_json and of_stats.p95.high is None
    for name in ("mean", "min", "max"):
        assert getattr(of_json, name) == pytest.approx(getattr(of_stats, name))
    for name in ("p50", "p90", "p95"):
        assert getattr(of_json, name).value == pytest.approx(getattr(of_stats, name).value, abs=1)
    assert recording.context.tool and any("last seconds" in note for note in recording.context.tool.notes)
    tool = load.read(write(tmp_path / "x_stats.csv", changed("locust_stats.csv", ("GET,/a,40", "GET,/a,41")))).context.tool
    assert tool and any("61 requests by name, 60 of all" in note for note in tool.notes)


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ('Get "http://x": dial tcp 127.0.0.1:1: connect: connection refused', ErrorKind.connect_refused),
        ('Get "http://x": context deadline exceeded (Client.Timeout exceeded while awaiting headers)', ErrorKind.timeout),
        ('Get "http://x": EOF', ErrorKind.closed_early),
        ('Get "http://x/x509: timeout": EOF', ErrorKind.closed_early),
        ("dial tcp 127.0.0.1:1: socket: too many open files", ErrorKind.local),
        ("x509: certificate signed by unknown authority", ErrorKind.tls),
        (
            "HTTPConnectionPool(host='timeout.test', port=80): Max retries exceeded with url: /EOF (certificate verify failed)",
            ErrorKind.tls,
        ),
        ("ConnectionRefusedError(111, 'Connection refused')", ErrorKind.connect_refused),
        ("LocustBadStatusCode(code=500)", ErrorKind.status),
        ("HTTPError('500 Server Error: planted for url: /timeout')", ErrorKind.status),
        ("CatchResponseError('connection refused by the market')", ErrorKind.content),
        ("500 Internal Server Error", ErrorKind.status),
        ("something new", ErrorKind.other),
    ],
)
def test_messages_of_go_and_python_are_our_kinds(message: str, kind: ErrorKind) -> None:
    """The first that fits, whatever a URL or a host in it is called."""
    assert files.kind_of(message) is kind


def test_jmeter_rows_are_samples(tmp_path: Path) -> None:
    """With commas and lines inside fields; sums of transaction controllers are none, and another clock is refused."""
    recording, found = read(DATA / "jmeter.jtl")
    kinds = ("content", "status", "connect_refused", "timeout", "unreachable", "closed_early")
    assert (found.requests, found.errors) == (7, dict.fromkeys(kinds, 1))
    assert list(found.by["name"]) == ["GET a, b"] and found.response_time_ms and found.response_time_ms.max == 20.0
    assert (recording.context.started_at, recording.context.target.name) == (planted.BEGAN, "127.0.0.1:8000")
    assert recording.context.tool and any(note.endswith("are left out: 1") for note in recording.context.tool.notes)
    dates = re.sub(r"^17\d+", "2026/11/02 10:15:00.000", text_of("jmeter.jtl"), flags=re.MULTILINE)
    assert "timestamp_format" in refused(write(tmp_path / "run.jtl", dates))
    _, found = read(write(tmp_path / "run.jtl", changed("jmeter.jtl", ('"GET a, b",503', ",503"))))
    assert found.by["name"]["GET a, b"].requests == 6, "one without a name is of no other name"
    recording, _ = read(write(tmp_path / "run.jtl", changed("jmeter.jtl", ("responseMessage", "my-var"))))
    assert recording.context.tool and "counts them twice" in recording.context.tool.notes[-1]


@pytest.mark.parametrize(
    ("shift_s", "said"), [(-600, "its clock goes 600 s back"), (600, "nothing was in flight for 599.5 of its 600.5 s")]
)
def test_a_clock_that_is_set_and_a_pause_are_said(tmp_path: Path, shift_s: int, said: str) -> None:
    """What they add to a duration bounds a throughput, where the clock went back, and is a finding."""
    ended = planted.BEGAN + timedelta(minutes=10), planted.BEGAN + timedelta(seconds=600 + shift_s)
    texts = [planted.k6_json(planted.k6_run(50)).replace("2026-11-02T10:15:", f"{at:%Y-%m-%dT%H:%M:}") for at in ended]
    recording, _ = read(write(tmp_path / "run", "".join(texts)))
    assert recording.context.tool and any(said in note for note in recording.context.tool.notes)
    assert (recording.context.generator["default"].clock_error_ms > 0) == (shift_s < 0)


def test_files_of_one_run_are_pooled(tmp_path: Path) -> None:
    """Their samples are one distribution, by scenario and name; what ran one after the other, or gives figures, is refused."""
    parts = planted.k6_run(40), [planted.k6_points(i, http_req_duration=99.0 + i) for i in range(40)]
    for number, run in enumerate(parts):
        write(tmp_path / f"k6-{number}.json", planted.k6_json(run))
    recording, found = read(tmp_path / "k6-*.json")
    assert (found.requests, found.failed) == (80, 4)
    assert found.response_time_ms and found.response_time_ms.max == 139.0
    assert {name: one.requests for name, one in found.by["name"].items()} == {"GET /api?symbol=AAPL&apiKey=…": 80}
    assert recording.context.tool and "2 files are pooled" in recording.context.tool.notes[-1]
    write(tmp_path / "k6-2.json", planted.k6_json(parts[0]).replace("2026-11-02", "2026-11-03"))
    assert "3 files that did not run at the same time" in refused(tmp_path / "k6-*.json")
    shutil.copyfile(tmp_path / "k6-0.json", tmp_path / "k6-2.json")
    assert "two files with the same requests" in refused(tmp_path / "k6-*.json")
    write(tmp_path / "k6-2.json", planted.k6_json(parts[0] + parts[1]))
    assert "requests twice" in refused(tmp_path / "k6-*.json")
    shutil.copyfile(DATA / "vegeta.json", tmp_path / "k6-3.json")
    assert "files of one kind" in refused(tmp_path / "k6-*.json")
    for number in range(2):
        shutil.copyfile(DATA / "wrk.txt", tmp_path / f"wrk-{number}.txt")
    assert "only single requests can be pooled" in refused(tmp_path / "wrk-*.txt")


# ---- judged, drawn, recorded ----


@pytest.mark.parametrize("name", FIGURES)
def test_a_percentile_without_samples_is_never_a_pass(name: str) -> None:
    """Not proven where the tool reports it, no data where it does not; mean, ratio and rate are judged."""
    recording, found = read(DATA / name)
    verdicts = {check.objective: check.verdict for check in load.judge(LoadSummary(it=found), PLAN)}
    assert found.response_time_ms
    is_known = not math.isnan(found.response_time_ms.p95.value)
    assert verdicts.pop("p95_ms < 1000") == (Verdict.NOT_PROVEN if is_known else Verdict.NO_DATA)
    assert set(verdicts.values()) == {Verdict.PASS}
    assert recording.context.imported and recording.samples.num_rows == 0


@every_file
def test_every_tool_is_known_by_its_content_and_named(tmp_path: Path, name: str) -> None:
    """Whatever its file is called; its figures are not taken for ours, and what it leaves open is in headline and findings."""
    shutil.copyfile(DATA / name, tmp_path / "results")
    recording, _ = read(tmp_path / "results")
    assert recording.context.measured_by == name.partition(".")[0].partition("_")[0]
    said = load.analyse(recording, PLAN)
    tool, note = recording.context.measured_by, said.findings[-1]
    is_due = tool != "wrk2"
    assert f"Measured by {tool}{': coordinated omission cannot be excluded' if is_due else ''}." in said.headline
    assert note.name == "other_tool" and ("does not say when requests were due" in note.finding) == is_due
    assert ("closed model" in note.finding) == (tool in ("locust", "wrk", "hey", "oha", "jmeter"))
    assert "nan" not in frames.scenarios(said.summary).to_string() + frames.breakdown(said.summary).to_string()


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
        for limits in ((), PLAN.parsed):
            assert isinstance(draw(recording=rec, summary=found, objectives=limits), Chart)
    assert isinstance(charts.load_dimensions(recording=rec, summary=found), Chart)
    assert not frames.scenarios(found).empty and not frames.breakdown(found).empty


@pytest.mark.parametrize("name", ["k6.json", "wrk.txt"])
def test_every_chart_is_drawn_and_names_the_tool(name: str) -> None:
    """Of single requests, of figures, and of figures by name; one that needs single requests says that there are none."""
    recording, found = read(DATA / name)
    both = {"recording": recording, "summary": {next(iter(recording.context.executors)): found}}
    tool, limits = recording.context.measured_by, PLAN.parsed
    drawn = {
        "percentiles": charts.load_percentiles(**both, objectives=limits),
        "timeline": charts.load_timeline(**both, objectives=limits),
        "dimensions": charts.load_dimensions(**both),
        "throughput": charts.load_throughput(**both, capacity=None, objectives=limits),
        "resources": charts.load_resources(**both, capacity=None),
    }
    for kind, chart in drawn.items():
        assert f"measured by {tool}" in chart.get_supxlabel() and len(chart.png()) > 1000
        said = [text.get_text() for ax in chart.axes for text in ax.texts]
        assert (f"{tool} gives figures, and no single requests" in said) == (name != "k6.json" and kind in ("timeline", "throughput"))
    if name == "wrk.txt":  # its points, each at its place on the axis
        (line,) = (one for one in drawn["percentiles"].axes[0].lines if str(one.get_label()).startswith("wrk"))
        assert line.get_xdata() == pytest.approx([2, 10, 100])
        assert found.response_time_ms and line.get_ydata()[2] == found.response_time_ms.p99.value


# ---- the real k6 and Locust ----

DELAY_MS = 20
PLAN_live = LoadPlan.model_validate({"scenarios": {"any": {"executor": "burst", "concurrency": 1, "request": "any"}}})
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
    (summary,) = load.summarize(load.read(path), PLAN_live).values()
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
