"""Knows a tool's file by how it begins, not by its name, and makes a recording of it. What a format means is in its own module."""

import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from tapecheck import config, resources
from tapecheck.errors import ConfigError, Problem
from tapecheck.load.imports import files, k6, locust, vegeta_and_jmeter, wrk_and_hey
from tapecheck.load.imports.files import ImportedRun
from tapecheck.load.recording import Context, GeneratorStats, Recording
from tapecheck.load.samples import table_of
from tapecheck.runs import folders
from tapecheck.runs.results import Environment, TargetInfo


@dataclass(frozen=True, slots=True)
class Format:
    """One kind of file: what it is called, how it begins, and what reads it or, of one that is not read, what to do."""

    name: str
    begins: str
    read: Callable[[Path], ImportedRun] | str


FORMATS = (  # the first that fits
    Format("k6 JSON lines (k6 run --out json=FILE)", r'\{(?=[^\n]*"metric":)(?=[^\n]*"type":)', k6.read_json),
    Format("k6 CSV (k6 run --out csv=FILE)", r"metric_name,timestamp,metric_value", k6.read_csv),
    Format("k6 summary (k6 run --summary-export FILE, handleSummary, or --new-machine-readable-summary)",
           r'\{(?=.*"metrics"\s*:\s*[{[])(?=.*"http_req)', k6.read_summary),
    Format("Locust stats (locust --csv PREFIX: PREFIX_stats.csv)", r"Type,Name,", locust.read_stats),
    Format("Locust history (PREFIX_stats_history.csv)", r"Timestamp,User Count,Type,Name,", locust.read_history),
    Format("Locust JSON (locust --json-file FILE)", r'\[.*"num_requests".*"response_times"', locust.read_json),
    Format("vegeta JSON (vegeta encode --to json)",
           r'\{(?=[^\n]*"timestamp":)(?=[^\n]*"latency":)(?=[^\n]*"code":)', vegeta_and_jmeter.read_json),
    Format("vegeta's report (vegeta report -type=json)", r'\{(?=.*"latencies")(?=.*"50th")', vegeta_and_jmeter.read_report),
    Format("vegeta CSV (vegeta encode --to csv)", r"\d{19},\d+,\d+,\d+,\d+,", vegeta_and_jmeter.read_csv),
    Format("the report of wrk or wrk2", r"Running [^\n]+ test @ ", wrk_and_hey.read_wrk),
    Format("hey CSV (hey -o csv)", r"response-time,DNS\+dialup,DNS,Request-write,Response-delay,Response-read", wrk_and_hey.read_hey_csv),
    Format("hey's report", r"Summary:\n  Total:\t", wrk_and_hey.read_hey),
    Format("oha JSON (oha --output-format json)", r'\{(?=.*"summary")(?=.*"successRate")', wrk_and_hey.read_oha),
    Format("JMeter CSV (JTL)", r'(?=[^\n]*\btimeStamp\b)(?=[^\n]*\belapsed\b)[^\n;\t]+\n', vegeta_and_jmeter.read_jtl),
    Format("JMeter's CSV with another separator", r"timeStamp\W+elapsed", "commas (jmeter.save.saveservice.default_delimiter)"),
    Format("JMeter's CSV without its header", r"\d{13}[,;\t]\d+[,;\t]", "its header (jmeter.save.saveservice.print_field_names)"),
    Format("oha's text, which is rounded", r"Summary:\n  Success rate:", "its JSON: oha --output-format json"),
    Format("JMeter's XML", r"<\?xml[^>]*>\s*<testResults|<testResults", "its CSV: jmeter -Jjmeter.save.saveservice.output_format=csv"),
    Format("a histogram alone, which says neither for how long nor what failed", r"Value(\(ms\))? +Percentile ", "the report of wrk2"),
    Format("Locust's failures or exceptions alone", r"Method,Name,Error,|Count,Message,", "PREFIX_stats.csv, with the failures beside it"),
    Format("vegeta's text", r"Requests +\[total, rate", "its JSON: vegeta report -type=json"),
    Format("vegeta's own binary form", r"[^\w\s{\[<].{0,12}Result", "vegeta encode FILE"),
    Format("Gatling's simulation.log, which is binary since 3.12", r"(RUN|ASSERTION)\t|\x00{4}.\d+\.\d+", "a file of another tool"),
    Format("what ab prints", r"This is ApacheBench", "a file of another tool"),
)  # fmt: skip
SHOWN = 40  # characters of a file that is none of them
UNKNOWN = Environment(  # no tool says where it ran
    host="unknown", system="unknown", cores=0, memory_mb=0, python="unknown", versions={}, git_commit=None, git_dirty=None
)


def named(path: str | Path) -> Path | None:
    """Return the file of another tool, known or not, or the pattern of several; None where a run is named, by its folder or result."""
    places = [config.expanded(path), config.PROJECT / path]
    file = next((one for one in places if one.exists() and not one.is_dir()), None)
    if file is None:
        return next((one for one in places if not one.exists() and config.matches(one)), None)
    if file.name != folders.RESULT:
        return file
    with contextlib.suppress(*files.UNREADABLE):
        return file if _format(file) else None
    return None


def format_of(path: Path, *, source: str) -> Format:
    """Return what kind of file of another tool it is, or all files of a pattern are; a `ConfigError` that names the `source` if none."""
    found: dict[str, Format] = {}
    for file in config.matches(path):
        if not file.is_file():
            raise _problem(source, "a pipe or device, which can be read only once", "a file: write it to one first")
        try:
            one, begins = _format(file), files.head(file, SHOWN)
        except files.UNREADABLE as error:
            raise _problem(source, f"a file that cannot be read ({error})", "a readable file") from None
        if one is None:
            known = "; ".join(known.name for known in FORMATS if callable(known.read))
            raise _problem(source, f"a file that begins with {begins!r}", f"a recorded run's folder, or a file of {known}")
        if isinstance(one.read, str):
            raise _problem(source, one.name, one.read)
        found[one.name] = one
    if len(found) > 1:
        raise _problem(source, " and ".join(found), "files of one kind")
    return next(iter(found.values()))


def read(path: Path, *, source: str) -> Recording:
    """Read a file of another tool, or the files of one run by a pattern; a `ConfigError` says why not, and names the `source`."""
    one, where = format_of(path, source=source), source
    assert callable(one.read), "one that is not read is refused"
    try:
        runs = []
        for file in config.matches(path):
            where = source if file == path else str(file)
            runs.append(one.read(file))
        where = source
        return _recording(path, _doubted(runs[0] if len(runs) == 1 else _pooled(runs)), source)
    except files.BrokenFile as error:
        raise _problem(where, error.got, f"a whole file of {one.name}", error.line) from None
    except files.UNREADABLE as error:
        raise _problem(where, f"{type(error).__name__}: {str(error)[:120]}", f"a whole file of {one.name}") from None


def _pooled(runs: Sequence[ImportedRun]) -> ImportedRun:
    """Put the files of one run together: single requests can be, of percentiles nothing follows for all."""
    first, *others = runs
    pool = first.requests
    if pool is None or pool.started_at is None:
        raise files.BrokenFile(f"{len(runs)} files of figures, or on clocks of their own: only single requests can be pooled")
    spans = [one.requests.span_ns for one in runs if one.requests]
    if len({one.requests.spans().tobytes() for one in runs if one.requests}) < len(runs):
        raise files.BrokenFile("two files with the same requests: leave one out")
    if max(began for began, _ in spans) > min(ended for _, ended in spans):
        raise files.BrokenFile(f"{len(runs)} files that did not run at the same time: read each by itself, or compare them")
    for one in others:
        assert one.requests, "files of one kind"
        pool.pool(one.requests)
    pool.check_once()
    ratios = [one.achieved_ratio for one in runs]
    notes = dict.fromkeys(note for one in runs for note in one.tool.notes)
    together = f"{len(runs)} files are pooled as one run, on the clocks of the machines that wrote them"
    return replace(
        first,
        tool=replace(first.tool, notes=(*notes, together)),
        achieved_ratio={name: min(one.get(name, 1.0) for one in ratios) for one in ratios for name in one},
        clock_error_ms=max(one.clock_error_ms for one in runs),
    )


def _doubted(run: ImportedRun) -> ImportedRun:
    """Note what makes a duration doubtful: a clock that was set back, by which it may be off, and a long pause."""
    if (requests := run.requests) is None:
        return run
    notes, back_ms, (began_ns, ended_ns) = list(run.tool.notes), requests.clock_back_ms, requests.span_ns
    took_s, pause_s = (ended_ns - began_ns) / 1e9, requests.pause_s()
    if pause_s > took_s / 2:
        notes.append(
            f"nothing was in flight for {pause_s:,.1f} of its {took_s:,.1f} s, a pause or two runs in one: its rate counts that time"
        )
    if is_back := back_ms > files.STEP_BACK_MS:
        notes.append(f"its clock goes {back_ms / 1000:,.0f} s back from one line to another: its duration may be as far off")
    return replace(run, tool=replace(run.tool, notes=tuple(notes)), clock_error_ms=max(run.clock_error_ms, back_ms * is_back))


def _format(path: Path) -> Format | None:
    """Recognize a file by its beginning; of a JSON document, what tells it may stand anywhere."""
    for characters in (files.HEAD_CHARACTERS, files.MOST_CHARACTERS):
        text = files.head(path, characters)
        found = next((one for one in FORMATS if re.match(one.begins, text, re.DOTALL)), None)
        if found or not text.startswith("{"):
            break
    return found


def _problem(source: str, got: str, allowed: str, line: int | None = None) -> ConfigError:
    return ConfigError([Problem(file=source, line=line, key="run", got=got, allowed=allowed)])


def _recording(path: Path, found: ImportedRun, source: str) -> Recording:
    requests, tool, ratios = found.requests, found.tool, found.achieved_ratio
    samples = requests.samples() if requests else {}
    url = found.url or " ".join(requests.origins if requests else ())
    names, written_s = [*samples, *found.summaries], config.matches(path)[0].stat().st_mtime
    context = Context(
        run_id=path.name,
        started_at=found.started_at or (requests and requests.started_at) or datetime.fromtimestamp(written_s, UTC),
        target=TargetInfo(name=url.replace("http://", "") or "an unnamed target", kind="external", base_url=url),
        environment=UNKNOWN,
        executors=dict.fromkeys(names, f"unknown ({tool.name})"),
        generator={
            name: GeneratorStats(
                lag_p99_ms=None, cpu_ratio=None, achieved_ratio=ratios.get(name), content_checked=0, clock_error_ms=found.clock_error_ms
            )
            for name in names
        },
        tool=tool,
        imported=dict(found.summaries),
    )
    table = table_of(samples, dict.fromkeys(samples, requests.values if requests else []))
    return Recording(tables={"samples": table, "resources": resources.SCHEMA.empty_table()}, context=context, source=source)
