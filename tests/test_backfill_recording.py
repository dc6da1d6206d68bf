"""Spans as rows, as Parquet, and as a trace that Perfetto opens."""

import contextlib
import json
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from backfills import recording, refill, span

from tapecheck.backfill.analysis import summarize
from tapecheck.backfill.recording import FAILED, Job, chrome_trace
from tapecheck.backfill.validation import backfill
from tapecheck.vendor.trace import Span, Trace


def test_a_span_lasts_as_long_as_its_stage() -> None:
    """A real wait of 30 ms on another thread is a span of 30 ms, with what its stage moved; one that fails has its span, too."""
    trace = Trace("AAPL", "5m", 3)

    def work() -> None:
        with contextlib.suppress(ValueError), trace.span("fetch", 7) as cost:
            cost.requests, cost.bytes = 1, 99
            time.sleep(0.03)
            raise ValueError

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    (found,) = trace.log.spans
    assert 0.03 <= found.duration_s < 10
    assert (found.worker, found.symbol, found.timeframe, found.page, found.requests, found.bytes) == (3, "AAPL", "5m", 7, 1, 99)


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
    counted = recording([span("insert", 0, 1, statements=4), span("other", 1, 2, statements=1)])
    older = replace(counted, tables={**counted.tables, "spans": counted.tables["spans"].drop_columns("statements")})
    assert [one.statements for one in older.spans] == [None, None]
    assert [summarize(one).totals.statements for one in (counted, older)] == [5, None]


# ---- the trace for Perfetto ----


def tracks_of(spans: Iterable[Span]) -> tuple[list[dict[str, Any]], dict[tuple[int, int], list[dict[str, Any]]]]:
    """Return the names in a trace, and its slices by process and thread."""
    trace = json.loads(json.dumps(chrome_trace(spans), allow_nan=False))
    assert set(trace) == {"displayTimeUnit", "traceEvents"} and trace["displayTimeUnit"] == "ms"
    tracks: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for event in trace["traceEvents"]:
        if event["ph"] == "X":
            tracks.setdefault((event["pid"], event["tid"]), []).append(event)
    return [event for event in trace["traceEvents"] if event["ph"] == "M"], tracks


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
    """A page that is fetched while another is stored is on the other track of its worker; what happened is in the slice."""
    own = [
        span("fetch", 0, 1), span("insert", 1, 3), span("fetch", 1.5, 2.5, page=1, requests=1, bytes=7), span("insert", 3, 4, page=1),
        span("fetch", 4, 5, job="MSFT 1d"), span("fetch", 0, 5, job="BTC 1d", worker=1),
    ]  # fmt: skip
    _, tracks = tracks_of(own)
    names = {track: [(e["cat"], e["name"], e["ts"], e["dur"]) for e in slices] for track, slices in tracks.items()}
    assert names == {
        (1, 1000): [
            ("job", "AAPL 1d", 0, 2.5e6), ("stage", "fetch", 0, 1e6), ("stage", "fetch", 1.5e6, 1e6),
            ("job", "MSFT 1d", 4e6, 1e6), ("stage", "fetch", 4e6, 1e6),
        ],
        (1, 1001): [("job", "AAPL 1d", 1e6, 3e6), ("stage", "insert", 1e6, 2e6), ("stage", "insert", 3e6, 1e6)],
        (2, 2000): [("job", "BTC 1d", 0, 5e6), ("stage", "fetch", 0, 5e6)],
    }  # fmt: skip
    assert tracks[1, 1000][2]["args"] == {"page": 1, "rows": 0, "bytes": 7, "requests": 1}


def test_a_trace_of_many_jobs_keeps_the_format() -> None:
    """Slices nest on their tracks and none is lost; every track is named, and none has the number of a process or of another track."""
    spans = refill().spans
    names, tracks = tracks_of(spans)
    assert all(map(is_nested, tracks.values()))
    assert not is_nested([{"ts": 0.0, "dur": 2.0, "cat": "stage"}, {"ts": 1.0, "dur": 2.0, "cat": "stage"}]), "the check itself"
    stages = [event for slices in tracks.values() for event in slices if event["cat"] == "stage"]
    zero_ns = min(one.began_ns for one in spans)
    assert sorted((e["pid"], e["name"], e["ts"], e["dur"]) for e in stages) == sorted(
        (one.worker + 1, one.stage, (one.began_ns - zero_ns) / 1e3, (one.ended_ns - one.began_ns) / 1e3) for one in spans
    )
    assert {(e["pid"], e["tid"]) for e in names if e["name"] == "thread_name"} == set(tracks) and len(tracks) == 10
    assert {tid for _, tid in tracks}.isdisjoint(pid for pid, _ in tracks) and min(pid for pid, _ in tracks) > 0
    assert len({tid for _, tid in tracks}) == len(tracks)
    assert chrome_trace([])["traceEvents"] == []
