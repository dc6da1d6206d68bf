"""Run folders are whole or absent, and their result.json keeps its schema."""

import dataclasses
import errno
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from jsonschema_rs import Draft202012Validator
from regenerate import RESULTS
from samples import burst, recording

from tapecheck import charts, config, index, results, runs
from tapecheck.errors import ConfigError, OutputError
from tapecheck.load import validation
from tapecheck.load.plan import LoadPlan
from tapecheck.runs import Recorded

PLAN = config.validate(
    LoadPlan,
    {
        "scenarios": {"s": {"executor": "burst", "concurrency": 100, "rounds": 5, "request": "health"}},
        "objectives": ["p95_ms < 1000"],
    },
    file="plan",
)


def record(out: Path | str, *, milliseconds: float = 20.0, run_id: str = "20261102T101500Z-0001") -> Recorded:
    rec = recording({"s": burst(np.full(500, milliseconds))})
    rec = dataclasses.replace(rec, context=dataclasses.replace(rec.context, run_id=run_id))
    summary = validation.summarize(rec, PLAN)
    figures = {"timeline": charts.load_timeline(recording=rec, summary=summary, objectives=[])}
    settings = validation.Settings(target="t", plan="p", run="new", out=str(out), scenarios="all", rounds=0)
    return validation.record(rec, summary, validation.judge(summary, PLAN), settings=settings, figures=figures)


def test_a_run_is_written_read_and_analysed_again_to_the_same_figures(tmp_path: Path) -> None:
    """A recorded run needs no target: the same code on its samples gives the same result."""
    folder = record(tmp_path).folder
    assert folder is not None
    assert {p.name for p in folder.iterdir()} == {"result.json", "samples.parquet", "resources.parquet", "failures.jsonl", "timeline.png"}
    again = validation.read(folder)
    first = json.loads((folder / "result.json").read_text())
    summary = validation.summarize(again, PLAN)
    assert summary["s"].response_time_ms is not None
    assert summary["s"].response_time_ms.p95.value == first["scenarios"]["s"]["response_time_ms"]["p95"]["value"]
    assert again.context.started_at == datetime(2026, 11, 2, 10, 15, tzinfo=UTC)


def test_latest_points_at_the_newest(tmp_path: Path) -> None:
    """`latest` follows each complete run, and old runs stay."""
    record(tmp_path)
    second = record(tmp_path, run_id="20261102T101600Z-0002")
    assert (tmp_path / "load" / "latest").resolve() == second.folder
    assert [r.folder.name for r in runs.listed(tmp_path)] == ["20261102T101600Z-0002", "20261102T101500Z-0001"]


def test_an_empty_out_records_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`out = ""` analyses without writing a file."""
    monkeypatch.chdir(tmp_path)
    recorded = record("")
    assert recorded.folder is None
    assert list(tmp_path.iterdir()) == []


def test_a_result_that_breaks_the_schema_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation comes before the rename, so a wrong result never looks like a run."""
    wrong = results.json_schema(RESULTS["load"])
    wrong["properties"]["verdict"] = {"const": "other"}
    monkeypatch.setattr(results, "validator", lambda name: Draft202012Validator(wrong))
    with pytest.raises(ValueError, match="breaks its own schema at "):
        record(tmp_path)
    assert list((tmp_path / "load").iterdir()) == []


def test_a_full_disk_leaves_earlier_runs_intact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails in the middle removes its own part and says what is the matter."""
    first = record(tmp_path).folder

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(runs.pq, "write_table", full)
    with pytest.raises(OutputError, match="is full; earlier runs are untouched, this one is not recorded"):
        record(tmp_path, run_id="20261102T101600Z-0002")
    assert [p for p in (tmp_path / "load").iterdir() if p.name != "latest"] == [first]
    assert (tmp_path / "load" / "latest").resolve() == first


def test_a_really_full_disk(tmp_path: Path) -> None:
    """The same on a file system that is full: a process whose files may not grow gets EFBIG in place of ENOSPC."""
    script = (
        "import resource, signal, sys; sys.path.insert(0, sys.argv[2])\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "import test_runs\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "test_runs.record(sys.argv[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path), str(Path(__file__).parent)], capture_output=True, text=True)
    assert done.returncode != 0
    assert "OutputError: the output folder" in done.stderr
    assert list((tmp_path / "load").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_refused_before_measuring(tmp_path: Path) -> None:
    """`out` is tried before anything is sent; here it is below a file."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written: Not a directory"):
        validation.settings(target="t", plan="p", run="new", out=str(tmp_path / "file" / "out"), scenarios="all", rounds=0)


def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    """A read-only `out` is refused with its name; root, who may write anywhere, asks as an ordinary user."""
    (tmp_path / "out").mkdir(mode=0o500)
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(OutputError, match="cannot be written: Permission denied"):
            runs.check_writable(tmp_path / "out")
    finally:
        os.seteuid(before)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "result.json").unlink(), "no result.json"),
        (lambda f: (f / "result.json").write_text("{"), "an unreadable result.json"),
        (lambda f: (f / "result.json").write_text('{"validation": "load"}'), "breaks its schema"),
        (lambda f: (f / "result.json").write_text("[1]"), "an unreadable result.json"),
        (lambda f: (f / "result.json").write_text('{"schema_version": 0}'), "schema version 0, which this version does not read"),
        (lambda f: (f / "result.json").write_text('{"schema_version": 2}'), "schema version 2, which this version does not read"),
        (lambda f: (f / "result.json").write_text('{"validation": "other"}'), "an unreadable result.json"),
        (lambda f: (f / "samples.parquet").write_bytes(b"PAR1"), "samples that cannot be read"),
        (lambda f: (f / "resources.parquet").unlink(), "samples that cannot be read"),
    ],
)
def test_a_broken_run_is_named(tmp_path: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    """A half or damaged run folder is refused with what is wrong, never read in part."""
    folder = record(tmp_path).folder
    assert folder is not None
    damage(folder)
    with pytest.raises(ConfigError, match=message):
        validation.read(folder)


def test_samples_of_another_shape_are_refused(tmp_path: Path) -> None:
    """A Parquet file without the columns of a load run is no recording."""
    folder = record(tmp_path).folder
    assert folder is not None
    runs.pq.write_table(pa.table({"a": [1]}), folder / "samples.parquet")
    with pytest.raises(ConfigError, match="samples that cannot be read"):
        validation.read(folder)


def test_the_index_lists_links_and_escapes(tmp_path: Path) -> None:
    """The page names each run with its verdict, links to what exists, escapes what it prints, and names what it cannot read."""
    folder = record(tmp_path, milliseconds=5000).folder
    assert folder is not None
    result = json.loads((folder / "result.json").read_text())
    result["target"]["name"] = "<script>alert(1)</script>"
    (folder / "result.json").write_text(json.dumps(result))
    (tmp_path / "load" / "20260101T000000Z-dead").mkdir()
    html = index.write(tmp_path).read_text()
    assert "<script>alert(1)" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert 'class="verdict fail"' in html
    assert f'href="load/{folder.name}/result.json"' in html
    assert "report.html" not in html
    assert "20260101T000000Z-dead: no result.json" in html
    assert "http" not in html.replace("http://127.0.0.1:8000", "")
