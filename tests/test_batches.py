"""A batch of many runs: every death leaves it resumable, nothing is done twice, and over a cluster it counts what it counts here."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import clusters
import nbformat
import psutil
import pytest
from junitparser import JUnitXml
from recorded_runs import put

from tapecheck import check, config, lockfiles
from tapecheck.__main__ import main
from tapecheck.batches import queue
from tapecheck.batches.ledger import Ledger, LedgerEntry
from tapecheck.batches.plan import PlannedRun
from tapecheck.errors import ConfigError, MeasurementError, OutputError
from tapecheck.runs import folders
from tapecheck.runs.outcomes import Outcome, Recorded
from tapecheck.workers import pool
from tapecheck.workers.dask import DaskScheduler
from tapecheck.workers.worker import Worker, meet

RECORDED = str(config.PROJECT / "tests" / "data" / "load")
PARAMETERS = """\
target: str = "config/targets/sandbox.yaml"  # what
plan: str = "config/load.yaml"  # how
run: str = "new"  # which
out: str = "outputs"  # where
scenarios: str = "all"  # which of the plan
rounds: int = 0  # what it does: 1 misses an objective, 7 kills its worker once, 8 does not end the first time
"""
NOTEBOOK = f"""
import json, pathlib, signal, threading
from IPython.display import display

mark = pathlib.Path("MARK")
is_first = rounds >= 7 and not mark.exists()
if is_first:
    mark.touch()
if rounds == 7 and is_first:
    import psutil

    worker = psutil.Process().parent().parent()
    assert "distributed.cli.dask_worker" in worker.cmdline()
    worker.kill()
if rounds >= 7 and is_first:
    threading.Event().wait()
parent = pathlib.Path(out) / "load"
parent.mkdir(parents=True, exist_ok=True)
run_id = f"20261101T000000Z-{{len(list(parent.iterdir())):04x}}"
verdict = "fail" if rounds == 1 else "pass"
result = json.loads(pathlib.Path({RECORDED!r}, "result.json").read_text())
parameters = dict(target=target, plan=plan, run=run, out=out, scenarios=scenarios, rounds=rounds)
result.update(run_id=run_id, verdict=verdict, parameters=parameters, reanalysis_of=run)
(parent / run_id).mkdir()
(parent / run_id / "result.json").write_text(json.dumps(result))
brief = dict(folder=str(parent / run_id), verdict=verdict, figures=["It counts."], missed=[], not_drawn=[], headline="")
brief["checks"] = {{verdict: 1}}
display({{"text/plain": "", "{Recorded.MIME}": brief}}, raw=True)
"""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a load notebook of our own in place of the shipped one, which records what is recorded already."""
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setattr(config, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setenv("TAPECHECK_MEASUREMENTS", str(tmp_path / "measurements"))  # it waits for nobody else
    cells = [nbformat.v4.new_code_cell(text) for text in (PARAMETERS, NOTEBOOK.replace("MARK", str(tmp_path / "mark")))]
    cells[0].metadata["tags"] = ["parameters"]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "notebooks" / "load.ipynb")
    return tmp_path


def batch(folder: Path, rounds: str, more: str = "") -> str:
    """Write a batch of one matrix of analyses, and return its file."""
    entry = f"{{validation: load, run: {RECORDED}, matrix: {{rounds: {rounds}}}}}"
    (folder / "nightly.yaml").write_text(f"{more}\nruns:\n  - {entry}\n")
    return str(folder / "nightly.yaml")


def ledger(out: Path) -> dict[str, Any]:
    return {one["name"]: one for one in json.loads((out / "batches" / "nightly" / "batch.json").read_text())["runs"]}


def command(words: list[str]) -> int:
    """Run a command in this process, whose signals stay as they are."""
    handled = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        return main(words)
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)


# ---- what is planned ----


def test_a_matrix_is_a_run_for_each_combination_in_order(tmp_path: Path) -> None:
    """Each has a name of its own, its limit of time, and all parameters of its notebook, the defaults included."""
    (tmp_path / "b.yaml").write_text(
        "time_limit_s: 60\nruns:\n"
        "  - {validation: rto_rpo, name: drills, profile: once, parameters: {drills: none}, matrix: {trials: [1, 2]}}\n"
        "  - {validation: rto_rpo, parameters: {drills: none}, time_limit_s: 5}\n"
        "  - {validation: rto_rpo, matrix: {plan: [config/rto_rpo.yaml], drills: [none, freshness]}}\n  - {validation: rto_rpo, run: RUN}\n"
        "  - {validation: rto_rpo, run: RUN}\n".replace("RUN", str(config.PROJECT / "tests/data/rto_rpo"))
    )
    found = check.batch(tmp_path / "b.yaml")
    assert [(one.name, one.limit_s, one.given["trials"], one.given["drills"], one.measures) for one in found] == [
        ("drills 1", 60, 1, "none", False), ("drills 2", 60, 2, "none", False), ("rto_rpo", 5, 0, "none", False),
        ("rto_rpo rto_rpo none", 60, 0, "none", False), ("rto_rpo rto_rpo freshness", 60, 0, "freshness", True),
        ("rto_rpo (2)", 60, 0, "all", False), ("rto_rpo (3)", 60, 0, "all", False),
    ]  # fmt: skip
    assert list(queue._keyed(found).values()) == found


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("validation: lod", "b.yaml:2: runs.0.validation: got 'lod'; allowed: one of load, backfill"),
        ("validation: load, target: none.yaml", "b.yaml:2: runs.0.target: none.yaml: file not found"),
        ("validation: load, parameters: {raunds: 3}", "b.yaml:2: runs.0.parameters.raunds: unknown key `raunds`; available: target"),
        ("validation: load, matrix: {rounds: [1, many]}", "b.yaml:2: runs.0.matrix.rounds: got 'many'; allowed: a valid integer"),
        ("validation: load, matrix: {rounds: []}", "b.yaml:2: runs.0.matrix.rounds: "),
        ("validation: load, run: tests/data/rto_rpo", "b.yaml:2: runs.0.run: got a run of rto_rpo; allowed: a complete run of load"),
        ("validation: rto_rpo, profile: nine", "b.yaml:2: runs.0.profile: got nine; allowed: one of full, once"),
        (
            "validation: load, run: new, matrix: {run: [new]}",
            "b.yaml:2: runs.0: got dict; allowed: each parameter at one place; run stands",
        ),
        ("validation: load, parameters: {out: x}", "all runs of a batch go to one folder: name it with --out"),
        ("validation: load, matrix: {rounds: [LONG], run: [LONG]}", "at most 1,000 runs; these are 1,600"),
        ("validation: load, until: 3", "runs.0.until: unknown key `until`; available: validation, name, target"),
    ],
)
def test_a_mistake_of_a_batch_is_found_before_anything_runs(
    tmp_path: Path, entry: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its file, its line, and what is allowed."""
    (tmp_path / "b.yaml").write_text(f"runs:\n  - {{{entry.replace('LONG', ', '.join('1' * 40))}}}\n")
    assert command(["batch", "--out", str(tmp_path / "out"), str(tmp_path / "b.yaml")]) == 4
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_all_mistakes_are_told_together_and_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of the files that a batch names too; what each run of a matrix has is one mistake."""
    (tmp_path / "t.yaml").write_text("name: t\nkind: external\nbase_url: http://127.0.0.1:1\nrequests: {h: GET /}\nextra: 1\n")
    entries = (
        f"  - {{validation: load, target: {tmp_path}/t.yaml, matrix: {{rounds: [1, 2]}}}}\n  - {{validation: rto_rpo, profile: nine}}\n"
    )
    (tmp_path / "b.yaml").write_text(f"runs:\n{entries}")
    assert command(["check", str(tmp_path / "b.yaml")]) == 4
    said = capsys.readouterr()
    assert said.err.count("t.yaml:5: extra: unknown key") == 1 and "b.yaml:3: runs.1.profile" in said.err


def test_a_cluster_needs_an_address_and_leave(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One on another machine needs that of every target file, as a load test does."""
    words = ["batch", batch(tiny, "[0]"), "--out", str(tiny / "out"), "--workers"]
    assert command([*words, "tcp://127.0.0.1:1"]) == 4
    assert "workers: got 'tcp://127.0.0.1:1'; allowed: a Dask scheduler, such as: dask://127.0.0.1:8786" in capsys.readouterr().err
    assert command([*words, "dask://192.0.2.1:8786"]) == 4
    assert "which may be on another machine; allowed: a scheduler and workers of this machine; or allow_remote" in capsys.readouterr().err


# ---- on one machine ----


def test_a_batch_is_done_in_order_summed_up_and_not_done_again(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A kernel that does not start is started again without a trace; the worst run decides; `--resume` does what is not recorded."""
    (tiny / "sitecustomize.py").write_text(
        f"import pathlib, sys\nmark = pathlib.Path({str(tiny)!r}, 'started')\n"
        "if 'ipykernel_launcher' in sys.orig_argv and not mark.exists():\n    mark.touch()\n    raise SystemExit('no port')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tiny))
    out = tiny / "out"
    words = ["batch", batch(tiny, "[1, 0]"), "--out", str(out)]
    assert command(words) == 1
    known = ledger(out)
    assert {name: (one["exit_code"], one["starts"]) for name, one in known.items()} == {"load 1": (1, 2), "load 0": (0, 1)}
    assert not list((out / "unfinished").glob("*"))
    said = capsys.readouterr()
    assert "load 1      FAIL     0 of 1" in said.out and "Objectives missed (load 1)" in said.out
    assert said.err.splitlines()[-2:] == ["[1/2] load 1: FAIL", "[2/2] load 0: PASS"]
    assert [suite.name for suite in JUnitXml.fromfile(str(out / "batches/nightly/junit.xml"))] == ["load 1", "load 0"]
    assert command([*words, "--resume"]) == 1 and ledger(out) == known
    (out / known["load 0"]["folder"] / "result.json").unlink()
    entries = [LedgerEntry(**{key: one[key] for key in ("key", "name", "validation", "parameters")}) for one in known.values()]
    with Ledger.opened(words[1], entries, out, resume=True) as opened:
        assert opened.todo() == [known["load 0"]["key"]], "a run that is gone is run again"
    assert not [one for one in lockfiles.holders(out / "batches" / "nightly") if one.is_there]


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_batch_that_dies_leaves_no_process_and_goes_on_where_it_was(tiny: Path, sent: signal.Signals) -> None:
    """What was running is run again; the kernel ends with the batch, and a second one is refused meanwhile."""
    file, out = batch(tiny, "[8]"), tiny / "out"
    program = f"import sys, pathlib\nfrom tapecheck import __main__, config\nconfig.NOTEBOOKS = pathlib.Path({str(tiny)!r}, 'notebooks')\n"
    words = ["batch", file, "--out", str(out)]
    process = subprocess.Popen([sys.executable, "-c", f"{program}sys.exit(__main__.main({words}))"])
    wait(lambda: (tiny / "mark").exists() or process.poll() is not None)
    assert command(words) == 4, "it runs already"
    started = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(sent)
    assert process.wait(200) == (-signal.SIGKILL if sent == signal.SIGKILL else 3)
    assert not psutil.wait_procs(started, timeout=200)[1]
    before = ledger(out)
    assert (before["load 8"]["exit_code"], before["load 8"]["began"] is None) == (None, False)
    if sent == signal.SIGINT:
        return
    assert command([*words, "--resume"]) == 0
    assert ledger(out)["load 8"]["exit_code"] == 0


def wait(until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 200
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_time_limit_ends_a_run_and_no_other(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is a crash that says so, and the others are done; `Outcome` keeps what there is of its notebook."""
    assert command(["batch", batch(tiny, "[8]", "time_limit_s: 1"), "--out", str(tiny / "out")]) == 3
    assert "load 8: it took longer than its time limit of 1 s" in capsys.readouterr().out
    assert ledger(tiny / "out")["load 8"]["brief"] == {}


def test_what_was_recorded_before_it_was_noted_is_found(tmp_path: Path) -> None:
    """By its parameters and time, among the recorded runs; one of other parameters, or of before, is none of it."""
    given = {"target": "t", "plan": "p", "run": "new", "scenarios": "all", "rounds": 3}
    entries = [LedgerEntry(key=str(n), name=f"load {n}", validation="load", parameters={**given, "rounds": n}) for n in range(3)]
    with Ledger.opened("nightly.yaml", entries, tmp_path, resume=False) as known:
        put(tmp_path, "load", 9, lambda result: result.update(parameters={**given, "rounds": 2, "out": str(tmp_path)}))
        time.sleep(0.01)
        known.begin("1")
        known.begin("2")
        folder = put(tmp_path, "load", 1, lambda result: result.update(parameters={**given, "rounds": 1, "out": str(tmp_path)}))
    with Ledger.opened("nightly.yaml", entries, tmp_path, resume=True) as known:
        assert known.todo() == ["0", "2"]
        assert known.outcomes()[0].message.startswith("not run")
        assert (known.entries["1"].folder, known.outcomes()[1].verdict) == (f"load/{folder.name}", folders.read(folder).result["verdict"])
    (tmp_path / "batches/nightly/batch.json").write_text("{}")
    with pytest.raises(ConfigError, match="got a ledger that cannot be read; allowed: what a batch has left"):  # noqa: SIM117
        with Ledger.opened("nightly.yaml", entries, tmp_path, resume=True):
            pass


def test_two_files_of_one_name_do_not_share_a_ledger(tmp_path: Path) -> None:
    """The second is refused with what to do, with and without `--resume`; a file that was moved is the same batch."""
    files = [tmp_path / folder / "nightly.yaml" for folder in "ab"]
    for file in files:
        file.parent.mkdir()
        file.write_text("")
    entries = [LedgerEntry(key="0", name="load", validation="load", parameters={})]
    with Ledger.opened(str(files[0]), entries, tmp_path, resume=False):
        pass
    for resume in (True, False):
        with (
            pytest.raises(ConfigError, match=rf"batch: got the ledger of {files[0]}; allowed: that of {files[1]}; rename one"),
            Ledger.opened(str(files[1]), entries, tmp_path, resume=resume),
        ):
            pass
    files[0].unlink()
    with Ledger.opened(str(files[1]), entries, tmp_path, resume=True) as known:
        assert known.todo() == ["0"]


def test_the_sandbox_is_started_for_what_is_still_to_do_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that would use it and is recorded needs none."""
    given = {"target": "none", "plan": "none"}
    planned = [replace(task(tmp_path, **given), uses_sandbox=n == 0, name=str(n)) for n in range(2)]
    (file := tmp_path / "nightly.yaml").write_text("")
    first, second = queue._keyed(planned)
    entries = [LedgerEntry(key=key, name=key, validation="load", parameters=given) for key in (first, second)]
    with Ledger.opened(str(file), entries, tmp_path, resume=False) as known:
        brief = Recorded(result=folders.read(RECORDED).head, folder=None).brief()  # type: ignore[arg-type]
        known.end(first, Outcome(validation="load", exit_code=0, duration_s=1, folder=put(tmp_path, "load", 1), brief=brief))
    used: list[str] = []
    monkeypatch.setattr(queue.opening, "sandbox_used", lambda: contextlib.nullcontext(used.append("sandbox")))
    monkeypatch.setattr(queue, "_process", lambda *_: Outcome(validation="load", exit_code=3, duration_s=1))
    queue.run(str(file), planned, tmp_path, resume=True, workers=None)
    assert not used
    queue.run(str(file), planned, tmp_path, resume=False, workers=None)
    assert used == ["sandbox"]


def test_a_run_that_was_measured_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its kernel says of its start."""
    (tmp_path / "samples.parquet").touch()
    end = Outcome(validation="load", exit_code=3, duration_s=1, folder=tmp_path, is_started=False)
    monkeypatch.setattr(queue.batch, "run", lambda *_, **__: end)
    assert queue._attempts(replace(task(tmp_path), start_retries=2)) == end and (tmp_path / "samples.parquet").exists()


def test_a_turn_alone_waits_for_all_and_others_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """For turns beside others, and for measurements that asked for none."""
    program = (
        "import sys\nfrom pathlib import Path\nfrom tapecheck import lockfiles\nalone = sys.argv[2] == 'alone'\n"
        "with lockfiles.turn(Path(sys.argv[1]), alone=alone, on_wait=lambda whom: print('waits', flush=True)):\n"
        "    print('has it', flush=True)\n    sys.stdin.read()\n"
    )

    def ask(how: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", program, str(tmp_path), how]
        return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    measures = lockfiles.hold(tmp_path)
    with ask("beside") as first, ask("beside") as second:
        assert first.stdout and second.stdout and [first.stdout.readline(), second.stdout.readline()] == ["has it\n"] * 2
        with ask("alone") as alone:
            assert alone.stdout and alone.stdout.readline() == "waits\n"
            first.communicate()
            second.kill()
            assert alone.stdout.readline() == "waits\n"
            lockfiles.release(measures)
            assert alone.stdout.readline() == "has it\n"
            alone.communicate()


# ---- over a cluster ----


def test_a_batch_over_workers_survives_the_death_of_one_and_counts_what_it_counts_here(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run that the worker died with is done by another, once; all lie whole in one folder, under names of their own."""
    words = ["batch", batch(tiny, "[1, 7]"), "--out"]
    with clusters.cluster(tiny, workers=2) as cluster:
        scheduler = DaskScheduler(cluster.url, allow_remote=False)
        wait(lambda: len(scheduler.addresses()) == 2)
        scheduler.client.close()
        assert command([*words, str(tiny / "spread"), "--workers", cluster.url]) == 1
    said = capsys.readouterr().out
    spread = ledger(tiny / "spread")
    (lost,) = spread["load 7"]["lost"]
    assert f"load 7: {lost}; done again by {spread['load 7']['worker']}" in said and "died with it" in lost
    assert {name: len(one["lost"]) for name, one in spread.items()} == {"load 1": 0, "load 7": 1}
    assert command([*words, str(tiny / "here")]) == 1
    counted = []
    for out in (tiny / "spread", tiny / "here"):
        runs = {name: folders.read(out / one["folder"]) for name, one in ledger(out).items()}
        assert len({run.folder for run in runs.values()}) == 2
        assert {run.folder.name == run.result["run_id"] for run in runs.values()} == {True}
        assert {run.result["parameters"].pop("out") for run in runs.values()} == {str(out)}
        files = {name: {path.name for path in run.folder.iterdir()} for name, run in runs.items()}
        counted.append(({name: {**run.result, "run_id": ""} for name, run in runs.items()}, files))
    assert counted[0] == counted[1]
    assert not list((tiny / "spread" / "load").glob(".*"))


def task(tmp_path: Path, **given: str) -> PlannedRun:
    notebook = str(config.PROJECT / "notebooks" / "load.ipynb")
    more: dict[str, Any] = {"name": "load", "at": 0, "limit_s": 1, "start_retries": 0}
    return PlannedRun(validation="load", notebook=notebook, given={"run": "new", **given}, out=str(tmp_path / "out"), **more)


class Idle(Worker):
    """A worker whose runs end when the test says so."""

    def __init__(self, name: str) -> None:
        super().__init__(name, ThreadPoolExecutor())
        self.machine, self.given = name[0], Future[Any]()

    def submit(self, function: object, arguments: tuple[Any, ...]) -> Future[Any]:
        self.given = Future()
        return self.given


@pytest.fixture
def spread(tmp_path: Path) -> Iterator[queue._Spread]:
    """Two runs that measure, and three that do not, for two workers of machine a and one of b."""
    entries = [LedgerEntry(key=key, name=key, validation="load", parameters={}) for key in ("m1", "m2", "x1", "x2", "x3")]
    tasks = {one.key: replace(task(tmp_path), measures=one.key[0] == "m") for one in entries}
    workers = [Idle("a1"), Idle("a2"), Idle("b1")]
    pool: Any = SimpleNamespace(ready=lambda: list(workers), forget=lambda dead: None)
    with Ledger.opened("nightly.yaml", entries, tmp_path / "out", resume=False) as known:
        yield queue._Spread(known, pool, tasks, known.todo())


def working(spread: queue._Spread) -> dict[str, str]:
    return {worker.name: key for worker, key in spread.running.values()}


def test_what_measures_has_its_machine_for_itself(spread: queue._Spread) -> None:
    """What only analyses goes side by side, and nothing overtakes what waits."""
    spread._hand_out()
    assert working(spread) == {"a1": "m1", "b1": "m2"}
    spread.running = {future: one for future, one in spread.running.items() if one[1] != "m1"}
    spread._hand_out()
    assert working(spread) == {"a1": "x1", "a2": "x2", "b1": "m2"}
    spread.todo.insert(0, "m1")
    spread.running = {future: one for future, one in spread.running.items() if one[1] == "x2"}
    spread._hand_out()
    assert working(spread) == {"a2": "x2", "b1": "m1"} and spread.todo == ["x3"]


def test_a_run_is_done_elsewhere_once_and_a_broken_worker_ends_its_run_alone(spread: queue._Spread) -> None:
    """The second death is a crash of the run, which names both; an error of a worker is one that names it."""
    spread._hand_out()
    for n, (worker, key) in enumerate([one for one in spread.running.values() if one[1] == "m1"] * 2, 1):
        spread._take(key, worker, worker.death("it left"))
        assert (spread.todo[0], len(spread.ledger.entries["m1"].lost)) == ("m1" if n == 1 else "x1", n)
        spread.todo = [one for one in spread.todo if one != "m1"]
    assert (spread.ledger.entries["m1"].exit_code, spread.ledger.entries["m1"].message) == (3, "two workers died with it")
    ((future, (worker, key)),) = [one for one in spread.running.items() if one[1][1] == "m2"]
    future.set_exception(ValueError("no room"))
    spread._take(key, worker, spread._ended(key, worker, future))
    assert spread.ledger.entries["m2"].message == "b1 could not run it: ValueError: no room"


def test_a_run_whose_files_cannot_be_sent_fails_alone(spread: queue._Spread, tmp_path: Path) -> None:
    """With the reason; the next worker gets the next run."""
    spread.tasks = {**spread.tasks, "m1": task(tmp_path, run="gone-*.json"), "m2": replace(task(tmp_path), notebook="gone.ipynb")}
    spread._hand_out()
    assert working(spread) == {"b1": "x1"}
    ended = [spread.ledger.entries[key] for key in ("m1", "m2")]
    assert [one.exit_code for one in ended] == [4, 3]
    assert all(one.message.startswith("it could not be sent to a worker: ") for one in ended)
    assert "gone-*.json: path: file not found" in ended[0].message and "gone.ipynb" in ended[1].message


def test_a_batch_waits_for_a_worker_a_bounded_time(spread: queue._Spread, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that comes gets the next run; while anything runs, nobody counts."""
    monkeypatch.setattr(queue, "LOOK_S", 0)
    workers = spread.pool.ready()
    found: list[list[Worker]] = [[]] * queue.MOST_LOOKS + [workers[:1]] + [[]] * (queue.MOST_LOOKS + 1)
    monkeypatch.setattr(spread.pool, "ready", lambda: found.pop(0))
    for _ in range(2 * queue.MOST_LOOKS + 1):
        spread._hand_out()
    assert working(spread) == {"a1": "m1"} and len(found) == 1
    spread.running.clear()
    found = [[]] * (queue.MOST_LOOKS + 1)
    for _ in range(queue.MOST_LOOKS):
        spread._hand_out()
    with pytest.raises(MeasurementError, match=r"no worker that can work for 0 s: start some \(dask worker\), and go on with --resume"):
        spread._hand_out()


def test_a_worker_that_does_not_get_ready_is_left_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It is named once, and asked again when it has left and come back; a pool that has to be whole refuses it."""
    answers: dict[str, Future[Any]] = {name: Future() for name in ("good", "old", "slow")}
    answers["good"].set_result(meet(queue.prepare))
    answers["old"].set_exception(ImportError("no tapecheck"))
    monkeypatch.setattr(pool, "READY_S", 0)
    make: Any = lambda _, name: Worker(name, SimpleNamespace(submit=lambda *_: answers[name]))  # type: ignore[arg-type] # noqa: E731
    monkeypatch.setattr(pool, "DaskWorker", make)
    workers, strict = (pool.WorkerPool("dask://127.0.0.1:1", queue.prepare, partial=partial) for partial in (True, False))
    known: list[str] = [*answers]
    workers._scheduler = strict._scheduler = SimpleNamespace(addresses=lambda: known)  # type: ignore[assignment]
    assert [[worker.name for worker in workers.ready()] for _ in range(2)] == [["good"]] * 2
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"{name} did not get ready within 0 s ({why}) (is tapecheck installed there?); it is left out"
        for name, why in (("old", "ImportError: no tapecheck"), ("slow", "TimeoutError"))
    ]
    known = []
    assert workers.ready() == []
    known, answers["old"] = ["good", "old"], answers["good"]
    assert [worker.name for worker in workers.ready()] == known
    known = ["slow"]
    with pytest.raises(MeasurementError, match="slow did not get ready"):
        strict.ready()


def test_a_pattern_of_files_travels_as_what_it_names(tmp_path: Path) -> None:
    """The worker finds the same files by the pattern that it gets."""
    for name in ("k6-1.json", "k6-2.json", "other.json"):
        (tmp_path / name).write_text(name)
    sent, files = queue.packed(task(tmp_path, run=str(tmp_path / "k6-*.json"), before=str(tmp_path / "k6-1.json")))
    assert (sent.given["run"], sent.given["before"]) == ("files/1/k6-*.json", "files/3/k6-1.json")
    assert set(files) == {"notebook.ipynb", "files/1/k6-1.json", "files/1/k6-2.json", "files/3/k6-1.json"}


@pytest.mark.parametrize("sent", [None, b"{", b"[]", b"{}", b'{"validation": "load"}', Path(RECORDED, "result.json").read_bytes()[:-9]])
def test_a_result_of_a_worker_that_is_none_fails_its_run_alone(tmp_path: Path, sent: bytes | None) -> None:
    """What was measured is kept as unfinished."""
    claimed = Outcome(validation="load", exit_code=0, duration_s=1, folder=Path("load/x"), brief={"verdict": "pass"})
    files = {"samples.parquet": b"x"} | ({} if sent is None else {"result.json": sent})
    end = queue.landed(claimed, files, task(tmp_path))
    assert (end.exit_code, end.brief, end.folder) == (3, {}, tmp_path / "out" / "unfinished" / "load-x")
    assert "what the worker sent is " in end.message and "result.json" in end.message
    assert [path.name for path in end.folder.iterdir()] == ["samples.parquet"] and not (tmp_path / "out" / "load").exists()


def test_the_verdict_of_a_run_is_that_of_its_result(tmp_path: Path, spread: queue._Spread) -> None:
    """Not what a worker claims beside it, and what cannot be read at all fails its run."""
    result = json.loads(Path(RECORDED, "result.json").read_bytes()) | {"verdict": "fail", "reanalysis_of": None}
    brief = {"verdict": "pass", "figures": ["It counts."], "checks": {"pass": 9}}
    claimed = Outcome(validation="load", exit_code=0, duration_s=1, folder=Path("load/x"), brief=brief)
    end = queue.landed(claimed, {"result.json": json.dumps(result).encode()}, task(tmp_path))
    assert (end.exit_code, end.verdict, end.brief["figures"], end.brief["run_id"]) == (1, "fail", ["It counts."], "x")
    assert sum(end.brief["checks"].values()) == len(result["checks"])
    assert queue.landed(replace(claimed, folder=None), {}, task(tmp_path)).brief == {}
    files: Any = {"result.json": 7}
    spread._take("m1", Idle("a1"), (claimed, files))
    assert spread.ledger.entries["m1"].exit_code == 3 and "what a1 sent cannot be read: TypeError: " in spread.ledger.entries["m1"].message


def test_plan_target_and_notebook_travel_and_secrets_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths below the folder stay as they are written, others get a place there; a secret is named and stays where it is."""
    monkeypatch.setenv("BATCH_KEY", "k3y-Zx81-of-nobody")
    mine = tmp_path / "my plan.yaml"
    mine.write_text("headers: {X: {env: BATCH_KEY}}")
    drills = "freshness,config/drills/api_killed.yaml"
    given = {"target": "config/targets/sandbox.yaml", "plan": str(mine), "run": "tests/data/load", "drills": drills}
    sent, files = queue.packed(task(tmp_path, **given))
    assert sent.given == {**given, "plan": "files/2/my plan.yaml"} and sent.notebook == "notebook.ipynb"
    recorded = {f"tests/data/load/{path.name}" for path in Path(RECORDED).iterdir()}
    assert set(files) == {"notebook.ipynb", given["target"], "files/2/my plan.yaml", "config/drills/api_killed.yaml", *recorded}
    assert not [name for name, data in files.items() if b"k3y-Zx81" in data]
    monkeypatch.setattr(queue, "MOST_BYTES", 1000)
    with pytest.raises(ConfigError, match=r"tests/data/load: run: got .* bytes; allowed: at most 1,000 bytes that travel to a worker"):
        queue.packed(task(tmp_path, **given))


@pytest.mark.parametrize(
    ("folder", "files"), [(folder, {}) for folder in ("load/..", "../load", "load", "backfill/x", "/etc/x")]
    + [("load/x", {"../y": b""}), ("load/x", {".y": b""})],
)  # fmt: skip
def test_what_a_worker_sends_is_written_nowhere_else(tmp_path: Path, folder: str, files: dict[str, bytes]) -> None:
    """A path in a name is refused, and so is a run of another validation."""
    end = queue.landed(Outcome(validation="load", exit_code=0, duration_s=1, folder=Path(folder)), files, task(tmp_path))
    assert (end.exit_code, end.folder) == (3, None) and end.message.startswith("what the worker sent is no run folder: ")
    assert not list(tmp_path.iterdir())


def test_a_run_folder_that_cannot_be_written_ends_the_batch_with_what_to_do(tmp_path: Path) -> None:
    """Its runs before are recorded, and the ledger knows them."""
    end = Outcome(validation="load", exit_code=3, duration_s=1, folder=Path("unfinished/load-x"))
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match="cannot be written: Not a directory; `--resume` goes on from here"):
        queue.landed(end, {"a": b""}, task(tmp_path))
    here = replace(task(tmp_path), out=str(tmp_path / "other"))
    names = [queue.landed(end, {"a": b""}, here).folder for _ in range(2)]
    assert len(set(names)) == 2 and {(folder / "a").stat().st_mode & 0o777 for folder in names if folder} == {0o600}


def test_plain_papermill_runs_our_notebooks_as_they_are(tmp_path: Path) -> None:
    """From any folder, with the same files as ours but the two that are made of the executed notebook: so do Airflow and dagstermill."""
    given = ["-p", "out", str(tmp_path / "out"), "-p", "run", str(config.PROJECT / "tests/data/observe")]
    words = ["papermill", str(config.NOTEBOOKS / "observe.ipynb"), str(tmp_path / "done.ipynb"), *given]
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, timeout=200, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (run,) = folders.each(tmp_path / "out")
    assert (run.problem, run.head and run.head.verdict) == (None, "pass")
    assert {"result.json", "exchanges.parquet"} < {path.name for path in run.folder.iterdir()}
