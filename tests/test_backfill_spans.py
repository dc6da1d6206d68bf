"""Spans as rows, as Parquet, and as a trace that Perfetto opens."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from backfills import recording, span
from hypothesis import given
from hypothesis import strategies as st

from tapecheck.backfill import recording as spans
from tapecheck.backfill.analysis import summarize
from tapecheck.backfill.recording import FAILED, STAGES, Job, Span, Trace, chrome_trace
from tapecheck.backfill.validation import backfill
from tapecheck.errors import ConfigError


def test_a_span_lasts_as_long_as_its_stage() -> None:
    """A real wait of 30 ms on another thread is a span of 30 ms, with what its stage moved."""
    trace = Trace("AAPL", "5m", 3)

    def work() -> None:
        with trace.span("fetch", 7) as cost:
            cost.requests, cost.bytes = 1, 99
            time.sleep(0.03)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    (found,) = trace.spans
    assert 0.03 <= found.duration_s < 10
    assert (found.worker, found.symbol, found.timeframe, found.page, found.requests, found.bytes) == (3, "AAPL", "5m", 7, 1, 99)


def test_a_stage_that_fails_has_its_span_too() -> None:
    """What was spent in vain was spent; a trace of another timeframe adds to the same list."""
    trace = Trace("AAPL", "5m")
    with pytest.raises(ValueError, match="broken"), trace.of("1d").span("features", 0):
        raise ValueError("broken")
    assert [(s.stage, s.timeframe) for s in trace.spans] == [("features", "1d")]


def test_a_recording_reads_back_as_it_was(tmp_path: Path) -> None:
    """Spans, jobs, plan and clock survive Parquet, and every quantity's unit stands in the file."""
    jobs = [Job(symbol="AAPL", timeframe="1d", state=FAILED, error="HTTP 404", inserted=3)]
    before = recording([span("fetch", 1, 2, bytes=9, requests=1), span("insert", 2, 3, rows=5)], jobs=jobs, derive=True, remote=("fetch",))
    for name, table in before.stored().items():
        pq.write_table(table, tmp_path / f"{name}.parquet")
    after = backfill.read_files(tmp_path, source="there")
    assert (after.spans, after.jobs, after.context, after.source) == (before.spans, before.jobs, before.context, "there")
    schema = pq.read_schema(tmp_path / "spans.parquet")
    units = {field.name: field.metadata[b"unit"].decode() for field in schema if field.metadata and b"unit" in field.metadata}
    assert units["began_ns"] == units["ended_ns"] == "ns, monotonic" and {"rows", "bytes", "requests", "page", "worker"} < units.keys()


def test_what_was_not_counted_yet_stays_unknown() -> None:
    """A recording that is older than the count of statements has no sum of them, and one that has some has it."""
    own = [span("insert", 0, 1, statements=4), span("other", 1, 2, statements=1)]
    old = spans.from_table(spans.to_table(own).drop_columns("statements"))
    assert [one.statements for one in old] == [None, None]
    assert summarize(recording(old)).totals.statements is None
    assert summarize(recording(spans.from_table(spans.to_table(own)))).totals.statements == 5


@pytest.mark.parametrize("what", ["absent", "garbage", "no context"])
def test_half_a_recording_is_refused(tmp_path: Path, what: str) -> None:
    """A folder without whole files is a configuration problem, not a traceback."""
    tables = recording([span("fetch", 0, 1)]).stored()
    if what != "absent":
        pq.write_table(spans.to_table([span("fetch", 0, 1)]), tmp_path / "spans.parquet")
        pq.write_table(tables["jobs"], tmp_path / "jobs.parquet")
    if what == "garbage":
        (tmp_path / "jobs.parquet").write_bytes(b"x")
    with pytest.raises(ConfigError, match="a complete backfill run"):
        backfill.read_files(tmp_path, source="there")


def slices_of(trace: dict[str, Any]) -> dict[tuple[int, int], list[dict[str, Any]]]:
    tracks: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for event in trace["traceEvents"]:
        if event["ph"] == "X":
            tracks.setdefault((event["pid"], event["tid"]), []).append(event)
    return tracks


def is_nested(slices: list[dict[str, Any]]) -> bool:
    """Whether any two slices of a track are apart, or one holds the other, to a thousandth of a microsecond."""
    ends: list[float] = []
    for event in sorted(slices, key=lambda e: (e["ts"], -e["dur"], e["cat"])):
        while ends and ends[-1] <= event["ts"] + 1e-3:
            ends.pop()
        if ends and event["ts"] + event["dur"] > ends[-1] + 1e-3:
            return False
        ends.append(event["ts"] + event["dur"])
    return True


def test_the_trace_shows_stages_inside_jobs() -> None:
    """Two workers are two processes; a page that is fetched while another is stored gets a track of its own."""
    own = [
        span("fetch", 0, 1),
        span("insert", 1, 3),
        span("fetch", 1.5, 2.5, page=1, requests=1, bytes=7),
        span("insert", 3, 4, page=1, rows=12),
        span("fetch", 4, 5, job="MSFT 1d"),
        span("fetch", 0, 5, job="BTC 1d", worker=1),
    ]
    tracks = slices_of(json.loads(json.dumps(chrome_trace(own))))
    assert all(map(is_nested, tracks.values()))
    names = {track: [(e["cat"], e["name"], e["ts"], e["dur"]) for e in slices] for track, slices in tracks.items()}
    assert names[1, 1000] == [
        ("job", "AAPL 1d", 0, 4e6), ("stage", "fetch", 0, 1e6), ("stage", "insert", 1e6, 2e6), ("stage", "insert", 3e6, 1e6),
        ("job", "MSFT 1d", 4e6, 1e6), ("stage", "fetch", 4e6, 1e6),
    ]  # fmt: skip
    assert names[1, 1001] == [("job", "AAPL 1d", 0, 4e6), ("stage", "fetch", 1.5e6, 1e6)]
    assert set(names) == {(1, 1000), (1, 1001), (2, 2000)}
    assert tracks[1, 1001][1]["args"] == {"page": 1, "rows": 0, "bytes": 7, "requests": 1}


def test_a_trace_whose_slices_cross_would_be_found() -> None:
    """The check itself fails on two slices of one track that overlap without nesting."""
    cross = [{"ts": 0.0, "dur": 2.0, "cat": "stage"}, {"ts": 1.0, "dur": 2.0, "cat": "stage"}]
    assert not is_nested(cross)


@st.composite
def any_spans(draw: st.DrawFn) -> list[Span]:
    """Spans of a few jobs that may overlap in every way."""
    found = []
    for _ in range(draw(st.integers(0, 30))):
        began = draw(st.integers(0, 50))
        job, worker = draw(st.sampled_from([("AAPL 1d", 0), ("AAPL 5m", 0), ("BTC 1d", 1)]))
        found.append(span(draw(st.sampled_from(STAGES)), began, began + draw(st.integers(0, 20)), job=job, worker=worker))
    return found


@given(any_spans())
def test_every_trace_keeps_the_format(own: list[Span]) -> None:
    """The JSON object form of the Chrome Trace Event Format: complete events, and a name for each process and thread they are on."""
    trace = json.loads(json.dumps(chrome_trace(own), allow_nan=False))
    assert set(trace) == {"displayTimeUnit", "traceEvents"} and trace["displayTimeUnit"] in ("ms", "ns")
    names = [event for event in trace["traceEvents"] if event["ph"] == "M"]
    slices = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert len(names) + len(slices) == len(trace["traceEvents"])
    for event in names:
        assert set(event) == {"ph", "name", "pid", "tid", "args"} and set(event["args"]) == {"name"} and event["args"]["name"]
    for event in slices:
        assert set(event) - {"args"} == {"ph", "name", "cat", "pid", "tid", "ts", "dur"} and event["name"]
        assert event["cat"] in ("job", "stage") and set(map(type, event.get("args", {}).values())) <= {int}
        assert all(isinstance(event[key], int | float) and event[key] >= 0 for key in ("ts", "dur"))
    pids, threads = {e["pid"] for e in slices}, {(e["pid"], e["tid"]) for e in slices}
    assert [e["pid"] for e in names if e["name"] == "process_name"] == sorted(pids)
    assert [(e["pid"], e["tid"]) for e in names if e["name"] == "thread_name"] == sorted(threads)


@given(any_spans())
def test_no_two_tracks_are_one_to_perfetto(own: list[Span]) -> None:
    """Its importer takes process 0 for the idle one, thread 0 for the main one, and a thread with its process's number for that too."""
    slices = [event for event in chrome_trace(own)["traceEvents"] if event["ph"] == "X"]
    threads = {(event["pid"], event["tid"]) for event in slices}
    assert all(type(pid) is type(tid) is int and pid > 0 < tid != pid for pid, tid in threads)
    assert len({tid for _, tid in threads}) == len(threads)


@given(any_spans())
def test_every_trace_nests_and_holds_every_span(own: list[Span]) -> None:
    """Whatever overlaps, slices nest on their tracks, each stage inside its job, and none is lost."""
    tracks = slices_of(json.loads(json.dumps(chrome_trace(own))))
    assert all(map(is_nested, tracks.values()))
    stages = [event for slices in tracks.values() for event in slices if event["cat"] == "stage"]
    assert sorted((e["pid"], e["name"], e["ts"], e["dur"]) for e in stages) == sorted(
        (s.worker + 1, s.stage, (s.began_ns - min(x.began_ns for x in own)) / 1e3, s.duration_s * 1e6) for s in own
    )
    for slices in tracks.values():
        jobs = [event for event in slices if event["cat"] == "job"]
        assert all(
            any(j["ts"] <= e["ts"] and e["ts"] + e["dur"] <= j["ts"] + j["dur"] for j in jobs) for e in slices if e["cat"] == "stage"
        )
