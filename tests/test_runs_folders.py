"""Run folders are whole or absent, and their result.json keeps its schema."""

import dataclasses
import errno
import json
import os
import resource
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from jsonschema_rs import Draft202012Validator
from regenerate import RESULTS
from samples import burst, recording

from tapecheck import charts, config, notebook
from tapecheck.charts import figure
from tapecheck.errors import ConfigError, OutputError
from tapecheck.load import session
from tapecheck.load.plan import LoadPlan
from tapecheck.load.recording import Recording
from tapecheck.load.validation import load
from tapecheck.reports import pages
from tapecheck.runs import folders, results
from tapecheck.runs.outcomes import Recorded
from tapecheck.target.file import Target

PLAN = config.validate(
    LoadPlan,
    {"scenarios": {"s": {"executor": "burst", "concurrency": 100, "rounds": 5, "request": "health"}}, "objectives": ["p95_ms < 1000"]},
    file="plan",
)
RUN, MEASURED = "20261102T101500Z-0001", {"samples.parquet", "resources.parquet"}
TABLES = ("checks", "scenarios", "breakdown", "failures")
WHOLE = {*MEASURED, "result.json", "failures.jsonl", "timeline.png", "timeline.svg", *(f"{name}.csv" for name in TABLES)}
STRICT = PLAN.model_copy(update={"objectives": ["p95_ms < 1"]})


def measured(run_id: str = RUN) -> Recording:
    rec = recording({"s": burst(np.full(500, 20.0))})
    return dataclasses.replace(rec, context=dataclasses.replace(rec.context, run_id=run_id))


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A chart that is drawn already."""

    title: str

    def png(self) -> bytes:
        return self.title.encode()

    svg = png


def record(
    out: Path | str, *, run_id: str = RUN, plan: LoadPlan = PLAN, chart: folders.Picture = Drawn("s"), rec: Recording | None = None
) -> Recorded:
    found = load.analyse(rec or measured(run_id), plan)
    settings = load.types.settings(target="t", plan="p", run="new", out=str(out), scenarios="all", rounds=0)
    return load.record(found, settings=settings, figures={"timeline": chart})


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def verdict_in(done: Recorded) -> str:
    assert done.folder is not None
    return str(json.loads((done.folder / "result.json").read_text())["verdict"])


def test_a_run_is_written_read_and_analysed_again_to_the_same_figures(tmp_path: Path) -> None:
    """A recorded run needs no target: the same code on its samples gives the same result. Recorded once more, no file is touched."""
    folder = record(tmp_path).folder
    assert folder is not None and names(folder) == WHOLE
    again = load.read(folder)
    first = json.loads((folder / "result.json").read_text())
    summary = load.summarize(again, PLAN)
    assert summary["s"].response_time_ms is not None
    assert summary["s"].response_time_ms.p95.value == first["scenarios"]["s"]["response_time_ms"]["p95"]["value"]
    assert again.context.started_at == datetime(2026, 11, 2, 10, 15, tzinfo=UTC)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert record(tmp_path).folder == folder
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_latest_points_at_the_newest(tmp_path: Path) -> None:
    """`latest` follows each complete run, and old runs stay."""
    record(tmp_path)
    second = record(tmp_path, run_id="20261102T101600Z-0002")
    assert (tmp_path / "load" / "latest").resolve() == second.folder
    assert [r.folder.name for r in folders.each(tmp_path)] == ["20261102T101600Z-0002", RUN]


def test_what_is_recorded_is_what_was_judged_last(tmp_path: Path) -> None:
    """Judged anew under another plan it is a run of its own that names the first; the same again, in any order, is the same run."""
    first = record(tmp_path)
    strict = record(tmp_path, plan=STRICT)
    assert [(done.verdict, verdict_in(done)) for done in (first, strict)] == [("pass", "pass"), ("fail", "fail")]
    assert first.folder and strict.folder and strict.folder.name == strict.run_id != first.run_id
    assert json.loads((strict.folder / "result.json").read_text())["reanalysis_of"] == str(first.folder)
    assert (tmp_path / "load" / "latest").resolve() == strict.folder
    assert record(tmp_path, plan=STRICT).folder == strict.folder
    assert record(tmp_path).folder == first.folder == (tmp_path / "load" / "latest").resolve()
    assert record(tmp_path, plan=STRICT).folder == strict.folder, "by turns they are no new runs either"
    assert len([*folders.each(tmp_path)]) == 2


def test_the_headline_on_screen_names_the_run_that_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a run that is recorded once more under another plan, that is not the one that was measured."""
    shown: list[str] = []
    monkeypatch.setattr(notebook, "_shown", {"verdict"})
    monkeypatch.setattr(notebook, "_display", lambda part, name, update: shown.append(part))
    first = record(tmp_path)
    assert shown == [], "it names that already"
    strict = record(tmp_path, plan=STRICT)
    assert [f"Run {strict.run_id}, an analysis of {first.run_id}, measured 2026-11-02" in text for text in shown] == [True]


@pytest.mark.parametrize("change", ["a chart", "a chart that is gone", "a figure of the result"])
def test_whatever_differs_from_what_is_recorded_is_recorded(tmp_path: Path, change: str) -> None:
    """Code of the analysis may change a chart alone, or a figure that no verdict depends on."""
    first = record(tmp_path).folder
    assert first
    if change == "a chart that is gone":
        (first / "timeline.png").unlink()
    elif change == "a figure of the result":
        result = json.loads((first / "result.json").read_text())
        result["scenarios"]["s"]["response_time_ms"]["p95"]["value"] += 1e-9
        (first / "result.json").write_text(json.dumps(result))
    second = record(tmp_path, chart=Drawn("other" if change == "a chart" else "s")).folder
    assert second and second != first and (second / "timeline.png").exists()


def test_a_recorded_run_that_is_analysed_twice_alike_is_one_more_run(tmp_path: Path) -> None:
    """Its analysis has an id of its own, which is not a new one each time that it is recorded."""
    first = record(tmp_path).folder
    assert first
    again = [record(tmp_path, plan=STRICT, rec=load.read(first)).folder for _ in range(2)]
    assert again[0] == again[1] != first


def test_what_was_measured_is_on_disk_before_anything_is_made_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It can be analysed from there as the run that it is, and lies in the run folder once that is recorded, and nowhere else."""
    monkeypatch.setattr(session, "run", lambda plan, target, keep: measured())
    load.run(PLAN, Target(name="t", kind="external", base_url="http://127.0.0.1:1", requests={"health": "GET /"}), out=str(tmp_path))
    kept = tmp_path / "unfinished" / f"load-{RUN}"
    assert names(kept) == MEASURED
    file = (kept / "samples.parquet").stat().st_ino
    found = load.read(kept)
    assert found.samples.equals(measured().samples)
    done = record(tmp_path, rec=found)
    assert done.folder == tmp_path / "load" / RUN
    assert (done.folder / "samples.parquet").stat().st_ino == file
    assert json.loads((done.folder / "result.json").read_text())["reanalysis_of"] is None
    assert list((tmp_path / "unfinished").iterdir()) == []


def test_what_was_measured_stays_when_its_run_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up while a run is recorded takes nothing away, and the message says where the samples are."""
    folders.keep(RUN, measured().stored(), "load", out=tmp_path)

    with monkeypatch.context() as patch:
        patch.setattr(folders, "write_json", full)
        with pytest.raises(OutputError, match=r"is full; .*what was measured is in .*unfinished/load-20261102T101500Z-0001"):
            record(tmp_path)
    assert record(tmp_path, rec=load.read(tmp_path / "unfinished" / f"load-{RUN}")).verdict == "pass"


class _Killed(BaseException):
    """Ends the process as SIGKILL would, but for what `finally` does."""


@pytest.mark.parametrize("moment", ["a chart", "the result", "before the rename", "after the rename"])
def test_a_run_that_is_killed_while_it_is_recorded_is_whole_or_a_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Whenever it is killed, nothing in `unfinished` looks like a run, nothing measured is lost, and it can be recorded from there."""
    kept, folder = tmp_path / "unfinished" / f"load-{RUN}", tmp_path / "load" / RUN
    folders.keep(RUN, measured().stored(), "load", out=tmp_path)
    write, new, seen = Path.rename, folders._new, []

    def kill(*args: object, **kwargs: object) -> None:
        seen.append(names(kept))
        raise _Killed

    def rename(self: Path, to: Path) -> None:
        if to != folder or moment == "after the rename":
            write(self, to)
        if to == folder:
            kill()

    def write_json(path: Path, data: object) -> None:
        path.write_text(json.dumps(data))
        kill()

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *args, **kwargs: None)  # who is killed tidies nothing
        if moment == "a chart":
            patch.setattr(folders, "_new", lambda path: kill() if path.suffix == ".png" else new(path))
        elif moment == "the result":
            patch.setattr(folders, "write_json", write_json)
        else:
            patch.setattr(Path, "rename", rename)
        with pytest.raises(_Killed):
            record(tmp_path)
    assert seen == [MEASURED] and names(kept) == MEASURED
    is_whole = moment == "after the rename"
    assert [run.problem for run in folders.each(tmp_path)] == [None] * is_whole
    done = record(tmp_path, rec=load.read(kept))
    assert (done.verdict, done.folder) == ("pass", folder)
    assert {path.name for path in folder.glob("[!.]*")} == WHOLE
    assert load.read(folder).samples.equals(measured().samples)
    assert [path.name for path in (tmp_path / "load").iterdir() if path.name != "latest"] == [RUN]


def test_nobody_else_may_read_what_is_written_and_no_link_is_followed(tmp_path: Path) -> None:
    """Folders are 0700, files 0600, however open the umask is; names of parts cannot be guessed."""
    folder = record(tmp_path / "out").folder
    assert folder
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in (".index.html.part", "index.html"):
        (tmp_path / "out" / name).symlink_to(victim)
    pages.write(tmp_path / "out")
    assert victim.read_text() == "mine"
    modes = {path: path.lstat().st_mode & 0o777 for path in (tmp_path / "out").rglob("*") if not path.is_symlink()}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}


def test_where_no_file_has_two_names_it_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems have no hard links."""

    def refuse(*args: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    folders.keep(RUN, measured().stored(), "load", out=tmp_path)
    folder = record(tmp_path).folder
    assert folder and load.read(folder).samples.equals(measured().samples)
    assert list((tmp_path / "unfinished").iterdir()) == []


def test_a_measurement_outlives_a_disk_that_is_full_before_it_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verdict can still be shown, and recorded where there is room; no part of a table is left."""
    with monkeypatch.context() as patch:
        patch.setattr(folders.pq, "write_table", full)
        folders.keep(RUN, measured().stored(), "load", out=tmp_path)
    assert list((tmp_path / "unfinished").iterdir()) == []
    assert record(tmp_path).verdict == "pass"


def test_another_validation_or_an_empty_folder_is_no_recording(tmp_path: Path) -> None:
    """What was never recorded is read only as what it is."""
    for name in ("backfill-20261102T101500Z-0001", "load-20261102T101500Z-0002"):
        (tmp_path / "unfinished" / name).mkdir(parents=True)
        with pytest.raises(ConfigError, match=r"no result\.json|ended before anything was measured"):
            load.read(tmp_path / "unfinished" / name)


@pytest.mark.parametrize("when", ["called", "drawn"])
def test_a_chart_that_fails_is_named_and_the_run_is_recorded_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """Whether its function fails or its drawing: what is on screen and in the run says which chart, and why."""

    def fail(*args: object, **kwargs: object) -> None:
        raise ValueError("no room for the legend")

    monkeypatch.setattr(figure, "begin", fail) if when == "called" else monkeypatch.setattr(charts.figure.Chart, "savefig", fail)
    rec = measured()
    chart = charts.load_timeline(recording=rec, summary=load.summarize(rec, PLAN), objectives=[])
    shown = chart._repr_mimebundle_() if when == "drawn" else {"text/plain": repr(chart)}
    assert "image/png" not in shown and "could not be drawn" in shown["text/plain"] and "no room for the legend" in shown["text/plain"]
    done = record(tmp_path, rec=rec, chart=chart)
    assert (done.not_drawn, verdict_in(done)) == ({"timeline": "ValueError: no room for the legend"}, "pass")
    assert done.folder and not (done.folder / "timeline.png").exists()
    assert done._repr_mimebundle_()["text/plain"].endswith("; the chart timeline could not be drawn: ValueError: no room for the legend")


def test_an_empty_out_records_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`out = ""` analyses without writing a file."""
    monkeypatch.chdir(tmp_path)
    folders.keep(RUN, measured().stored(), "load", out="")
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

    monkeypatch.setattr(folders.pq, "write_table", full)
    with pytest.raises(OutputError, match="is full; earlier runs are untouched, this one is not recorded"):
        record(tmp_path, run_id="20261102T101600Z-0002")
    assert [p for p in (tmp_path / "load").iterdir() if p.name != "latest"] == [first]
    assert (tmp_path / "load" / "latest").resolve() == first


def test_a_really_full_disk(tmp_path: Path) -> None:
    """The same on a file system that is full: a process whose files may not grow gets EFBIG in place of ENOSPC."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(OutputError, match="the output folder"):
            record(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((tmp_path / "load").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_refused_before_measuring(tmp_path: Path) -> None:
    """`out` is tried before anything is sent; here it is below a file."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written: Not a directory"):
        load.settings(target="t", plan="p", run="new", out=str(tmp_path / "file" / "out"), scenarios="all", rounds=0)


def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    """A read-only `out` is refused with its name; root, who may write anywhere, asks as an ordinary user."""
    (tmp_path / "out").mkdir(mode=0o500)
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(OutputError, match="cannot be written: Permission denied"):
            folders.check_writable(tmp_path / "out")
    finally:
        os.seteuid(before)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run, which nobody changes."""
    folder = record(tmp_path_factory.mktemp("recorded")).folder
    assert folder
    return folder


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "result.json").unlink(), "no result.json"),
        (lambda f: (f / "result.json").write_text("{"), "an unreadable result.json"),
        (lambda f: (f / "result.json").write_text('{"validation": "load"}'), "breaks its schema"),
        (lambda f: (f / "result.json").write_text("[1]"), "a result.json that holds no JSON object"),
        (lambda f: (f / "result.json").write_text("[" * 10**6), "an unreadable result.json"),
        (lambda f: os.truncate(f / "result.json", 10**8), "a result.json of more than 50,000,000 bytes"),
        (lambda f: (f / "result.json").write_text('{"schema_version": 0}'), "schema version 0, which this version does not read"),
        (lambda f: (f / "result.json").write_text('{"schema_version": 2}'), "schema version 2, which this version does not read"),
        (lambda f: (f / "result.json").write_text('{"validation": "other"}'), "an unreadable result.json"),
        (lambda f: (f / "samples.parquet").write_bytes(b"PAR1"), "samples that cannot be read"),
        (lambda f: (f / "resources.parquet").unlink(), "samples that cannot be read"),
        (lambda f: folders.pq.write_table(pa.table({"a": [1]}), f / "samples.parquet"), "samples that cannot be read"),
    ],
)
def test_a_broken_run_is_named(recorded: Path, tmp_path: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    """A half or damaged run folder is refused with what is wrong, never read in part."""
    folder = shutil.copytree(recorded, tmp_path / "run")
    damage(folder)
    with pytest.raises(ConfigError, match=message):
        load.read(folder)
