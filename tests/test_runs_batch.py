"""Headless runs: every ending has its exit code, nothing is left half done, and the command line says what was wrong."""

import contextlib
import errno
import io
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from papermill.exceptions import PapermillExecutionError

from tapecheck import __main__, config, lockfiles
from tapecheck.errors import ConfigError, OutputError
from tapecheck.runs import batch
from tapecheck.runs.outcomes import Outcome, Recorded

PARAMETERS = """\
target: str = "t"  # what
plan: str = "p"  # how
run: str = "new"  # which
out: str = "outputs"  # where
scenarios: str = "all"  # which of the plan
rounds: int = 0  # how many
"""
BRIEF = {"figures": ["It carries 7/s."], "missed": [], "measured_s": 1.5, "not_drawn": [], "checks": {"pass": 1}, "headline": "It carries."}
RECORD = f"""
from IPython.display import display
display({{"text/plain": "", "{Recorded.MIME}": {BRIEF} | {{"folder": out, "verdict": "pass"}}}}, raw=True)
"""
EXIT = "import sys\nsys.exit(0)"


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of notebooks of our own in place of the shipped ones."""
    monkeypatch.setattr(config, "NOTEBOOKS", tmp_path / "notebooks")
    (tmp_path / "notebooks").mkdir()
    return tmp_path


def write(folder: Path, *cells: str) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in (PARAMETERS, *cells)])
    notebook.cells[0].metadata["tags"] = ["parameters"]
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, folder / "notebooks" / "load.ipynb")


# ---- with a kernel ----


def test_a_run_lies_whole_in_its_folder(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its notebook and a report that loads nothing and shows no code.

    The user's start-up files are not read, a home that cannot be written stops nothing, nor do warnings that are errors, with which no
    kernel starts on Python 3.13, and a low limit of open files is raised.
    """
    (tiny / "ipython" / "profile_default" / "startup").mkdir(parents=True)
    (tiny / "ipython" / "profile_default" / "startup" / "00.py").write_text("mine = 1")
    monkeypatch.setenv("IPYTHONDIR", str(tiny / "ipython"))
    monkeypatch.setenv("HOME", "/proc/none")
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    limits: list[tuple[int, int]] = [(40, 64)]
    monkeypatch.setattr(resource, "getrlimit", lambda what: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda what, limit: limits.append(limit))
    write(
        tiny, "import sys\nassert rounds == 2 and 'mine' not in globals() and 'error' not in sys.warnoptions\nprint('an answer')" + RECORD
    )
    with pytest.raises(ConfigError, match=rf"ulimit -Hn: got 64 open files; allowed: {batch.FILES} or more"):
        batch.run("load", {"rounds": 2}, tiny / "out")
    limits.append((40, 500))
    outcome = batch.run("load", {"rounds": 2}, tiny / "out")
    assert limits[-1] == (batch.FILES, 500)
    assert (outcome.exit_code, outcome.verdict, outcome.brief["figures"], outcome.measured_s) == (0, "pass", ["It carries 7/s."], 1.5)
    assert {path.name for path in (tiny / "out").iterdir()} == {"notebook.ipynb", "report.html"}
    html = (tiny / "out" / "report.html").read_text()
    assert "an answer" in html and "print(" not in html
    assert not [part[:60] for part in html.split("src=")[1:] if part.lstrip("\"'").startswith("http")]
    assert "<link" not in html or 'rel="stylesheet" href="http' not in html


def test_a_kernel_that_ends_early_is_a_crash_that_what_was_measured_outlives(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lies beside the notebook as far as that got, and the message says how to go on from there."""
    monkeypatch.setenv("IPYTHONDIR", "/proc/none")  # in which Jupyter looks for kernels
    keep = "import pyarrow\nfrom tapecheck.runs import folders\nfolders.keep('id', {'samples': pyarrow.table({'a': [1]})}, 'load', out=out)"
    write(tiny, keep, RECORD, "import os\nos.kill(os.getpid(), 9)", "1")
    outcome = batch.run("load", {}, tiny / "out")
    assert (outcome.exit_code, outcome.verdict) == (3, None) and outcome.folder is not None
    assert {path.name for path in outcome.folder.iterdir()} == {"samples.parquet", "notebook.ipynb", "report.html"}
    kept = f"what was measured is kept; analyse it with: tapecheck run load -p run {outcome.folder}"
    assert "kernel died" in outcome.message and outcome.message.endswith(kept)


def test_a_kernel_that_cannot_start_is_one_sentence(tiny: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """As at too low a limit of open files: with what it printed last, as of one that dies later."""
    write(tiny, "1")
    monkeypatch.setenv("PYTHONPATH", str(tiny))
    (tiny / "sitecustomize.py").write_text("import sys\nif 'ipykernel_launcher' in sys.orig_argv:\n    raise SystemExit('no room')")
    outcome = batch.run("load", {}, tiny / "out")
    assert (outcome.exit_code, outcome.message) == (3, "the notebook's kernel died; its last words: SystemExit: no room")
    assert capfd.readouterr().err == ""


# ---- without one: papermill leaves what it leaves ----


def executed(out: Path | str = "", **brief: object) -> list[nbformat.NotebookNode]:
    """Return the outputs of a cell that recorded a run."""
    known = {**BRIEF, "folder": str(out), "verdict": "pass", **brief}
    return [nbformat.v4.new_output("display_data", {"text/plain": "", Recorded.MIME: known})]


def left(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, *cells: list[nbformat.NotebookNode] | None, error: tuple[str, str] | None = None
) -> Outcome:
    """Run a notebook of which papermill leaves these outputs, None of a cell that was not executed, and raises what a cell raised."""
    write(tiny, "1")

    def execute(path: str, to: str, *_: object, **__: object) -> None:
        counts = [None if outputs is None else number for number, outputs in enumerate(cells, 1)]
        made = [nbformat.v4.new_code_cell("1", execution_count=n, outputs=outputs or []) for n, outputs in zip(counts, cells, strict=True)]
        nbformat.write(nbformat.v4.new_notebook(cells=made), to)
        if error:
            raise PapermillExecutionError(2, 3, "1", *error, [])

    monkeypatch.setattr(batch.papermill, "execute_notebook", execute)
    return batch.run("load", {}, tiny / "out")


@pytest.mark.parametrize(("count", "kept", "is_started"), [(None, False, False), (1, False, True), (None, True, True)])
def test_a_kernel_that_is_lost_in_mid_run_had_started(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, count: int | None, kept: bool, is_started: bool
) -> None:
    """A cell was begun or something kept, whatever the error is; only where nothing was, it did not start."""
    write(tiny, "1")
    monkeypatch.setattr(batch.folders, "new_id", lambda: "id")

    def execute(path: str, to: str, *_: object, **__: object) -> None:
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", execution_count=count)]), to)
        if kept:
            (tiny / "out/unfinished/load-id").mkdir(parents=True)
            (tiny / "out/unfinished/load-id/samples.parquet").touch()
        raise RuntimeError("no answer in 60 s")

    monkeypatch.setattr(batch.papermill, "execute_notebook", execute)
    outcome = batch.run("load", {}, tiny / "out")
    how = "was lost" if is_started else "did not start"
    assert outcome.is_started == is_started and outcome.message.startswith(f"the notebook's kernel {how}: no answer in 60 s")


@pytest.mark.parametrize(
    ("brief", "code"),
    [({}, 0), ({"verdict": "fail"}, 1), ({"verdict": "no_data"}, 2), ({"not_drawn": ["the chart timeline could not be drawn"]}, 3)],
)
def test_the_verdict_is_the_exit_code(tiny: Path, monkeypatch: pytest.MonkeyPatch, brief: dict[str, Any], code: int) -> None:
    """A met, missed or undecided run each have their code; one without a chart counts, and is a crash that names it."""
    outcome = left(tiny, monkeypatch, [], executed(tiny / "out", **brief))
    assert (outcome.exit_code, outcome.verdict) == (code, brief.get("verdict", "pass"))
    assert outcome.missed == brief.get("not_drawn", []) and (tiny / "out" / "notebook.ipynb").exists()


@pytest.mark.parametrize(
    ("cells", "error", "message", "code"),
    [
        ([[]], ("TargetDown", "http://x is down"), "http://x is down", 2),
        ([[]], ("TargetError", "the key is refused"), "the key is refused", 4),
        ([[]], ("ConfigError", "wrong key"), "wrong key", 4),
        ([[]], ("ZeroDivisionError", "division by zero"), "cell 3 raised ZeroDivisionError: division by zero", 3),
        ([[]], None, "ended without recording a run", 3),
        ([executed(), None], None, "ended without recording a run", 3),
    ],
    ids=["target down", "target refuses", "wrong parameter", "a fault", "nothing recorded", "a cell skipped after a recorded pass"],
)
def test_an_ending_without_a_run_is_never_a_pass(
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
    cells: list[list[nbformat.NotebookNode] | None],
    error: tuple[str, str] | None,
    message: str,
    code: int,
) -> None:
    """However a notebook ends early, the code tells, and the notebook is kept unless nothing was attempted."""
    outcome = left(tiny, monkeypatch, *cells, error=error)
    assert (outcome.exit_code, outcome.verdict) == (code, None) and message in outcome.message
    if code == 4:
        assert outcome.folder is None and not (tiny / "out" / "unfinished").exists()
    else:
        assert outcome.folder is not None and outcome.folder.parent == tiny / "out" / "unfinished"
        assert (outcome.folder / "notebook.ipynb").exists()


@pytest.mark.parametrize("place", ["at once", "while papermill writes", "in the kernel"])
def test_a_full_temporary_folder_is_named_with_what_to_do(tiny: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """And that TMPDIR chooses another."""
    write(tiny, "1")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if place == "in the kernel":
        outcome = left(tiny, monkeypatch, [], error=("OSError", "[Errno 28] No space left on device"))
        said, code = outcome.message, outcome.exit_code
    else:
        monkeypatch.setattr(*((lockfiles.tempfile, "mkdtemp") if place == "at once" else (batch.papermill, "execute_notebook")), full)
        with pytest.raises(OutputError) as caught:
            batch.run("load", {}, tiny / "out")
        said, code = str(caught.value), caught.value.exit_code
    assert (code, "No space left on device; free some room, or set TMPDIR to another folder" in said) == (OutputError.exit_code, True)
    assert tempfile.gettempdir() in said


# ---- the command line ----


def tapecheck(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command in this process, which has imported everything already."""
    handled = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.chdir(cwd or Path.cwd()), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = __main__.main(words)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)
    assert "Traceback" not in err.getvalue(), err.getvalue()
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("runn", "invalid choice: 'runn'"),
        ("run lod", "one of load"),
        ("run load -p raunds 3", "raunds: unknown key `raunds`"),
        ("run load -p rounds many", "rounds: got 'many'; allowed: a valid integer"),
        ("run load --target none.yaml", "none.yaml: path: file not found"),
        ("run load -p plan none.yaml", "none.yaml: path: file not found"),
        ("run load -p run none", "none: path: file not found"),
        ("run load -p run tests/data/rto_rpo", "run: got a run of rto_rpo; allowed: a complete run of load"),
        ("run load -p run README.md", "run: got "),
        ("run all -p run tests/data/load", "run: got a recorded run for backfill, load, rto_rpo; allowed: one validation by name"),
        ("run backfill -p plan config/load.yaml -p symbols AAPL", "scenarios: unknown key `scenarios`"),
        ("check README.md", "README.md"),
        ("params none", "one of load"),
        ("sandbox up --symbols NOPE", "NOPE"),
        *(
            (words, "path: got ~nobody_here, a user without a home folder on this machine; allowed: a path without ~")
            for words in (
                "run load --target ~nobody_here/t.yaml", "run load --out ~nobody_here", "run load -p out ~nobody_here",
                "run load -p run ~nobody_here/r", "run load -f ~nobody_here/p.yaml", "runs --out ~nobody_here/x",
                "check ~nobody_here/t.yaml",
            )
        ),
    ],
)  # fmt: skip
def test_wrong_usage_is_exit_4_with_one_clear_error(words: str, message: str) -> None:
    """Every mistake on the command line is named with what is allowed, without a traceback."""
    done = tapecheck(*words.split(), cwd=config.PROJECT)
    assert done.returncode == 4, done.stderr
    assert message in done.stderr


@pytest.mark.parametrize("name", ["my # plan ;.yaml", "a: b.yaml", "2026", "'quoted'", "no"])
def test_a_path_is_taken_as_it_stands(name: str, tmp_path: Path) -> None:
    """Whatever YAML would read into it: a comment, a mapping, a number, a word for false; quotes are YAML's."""
    (tmp_path / name.strip("'")).write_text("x: 1")
    done = tapecheck("run", "load", "-p", "plan", name, cwd=tmp_path)
    assert done.returncode == 4 and f"{name.strip(chr(39))}:1: x: unknown key `x`" in done.stderr


def test_a_sandbox_home_of_nobody_is_a_wrong_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read from the environment."""
    monkeypatch.setenv("TAPECHECK_SANDBOX_HOME", "~nobody_here/s")
    done = tapecheck("sandbox", "status")
    assert (done.returncode, "~nobody_here, a user without a home folder" in done.stderr) == (4, True)


def test_all_configuration_is_checked_before_anything_starts(tmp_path: Path) -> None:
    """All that is wrong with a target file and a plan is reported together, as by `check`: each with file, line, key, got and allowed."""
    target, plan = tmp_path / "t.yaml", tmp_path / "p.yaml"
    target.write_text("name: t\nkind: external\nbase_url: http://host:abc\nrequests: {h: GET /}\nextra: 1\n")
    plan.write_text(
        "scenarios:\n  s: {executor: burst, concurrency: many, request: h}\n  t: {executor: burts, request: h}\nobjectives: [p95 < 3]\n"
    )
    for words in (("run", "load", "--target", str(target), "-p", "plan", str(plan)), ("check", str(target), str(plan))):
        done = tapecheck(*words)
        assert done.returncode == 4
        for said in (
            "t.yaml:3: base_url: got 'http://host:abc'; allowed: http:// or https://, a host", "t.yaml:5: extra: unknown key `extra`",
            "p.yaml:2: scenarios.s.concurrency: got 'many'", "p.yaml:3: scenarios.t",
            "p.yaml:4: objectives.0: got 'p95 < 3'; allowed: no metric 'p95'; the metrics are",
        ):  # fmt: skip
            assert said in done.stderr
    assert "2 files, 5 problems" in done.stdout
    assert ", 0 problems" in tapecheck("check").stdout, "all that is shipped"


def test_an_empty_out_is_recorded_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`-p out ""` leaves no file, in the current folder or the project; the end of a run is printed all the same."""
    given: list[Path | None] = []

    def run(validation: str, parameters: Mapping[str, object], out: Path | None) -> Outcome:
        given.append(out)
        return Outcome(validation=validation, exit_code=0, duration_s=1, brief={**BRIEF, "verdict": "pass"})

    monkeypatch.setattr(batch, "run", run)
    before = set(config.PROJECT.iterdir())
    done = tapecheck("run", "load", "-p", "run", str(config.PROJECT / "tests/data/tools/hey.csv"), "-p", "out", '""', cwd=tmp_path)
    assert given == [None]
    assert "not recorded" in done.stdout and done.stdout.endswith("Every objective is met.\n")
    assert list(tmp_path.iterdir()) == [] and set(config.PROJECT.iterdir()) == before


@pytest.mark.parametrize(
    ("notebook", "own"), [("load", ["scenarios", "rounds"]), ("backfill", ["profile", "symbols", "timeframes", "days"])]
)
def test_params_lists_what_a_notebook_takes(notebook: str, own: list[str]) -> None:
    """`params NAME` shows each parameter with type, default and help."""
    lines = tapecheck("params", notebook).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["target", "plan", "run", "out", *own]
    assert all(len(line.split()) > 4 for line in lines)


def test_a_plan_goes_to_the_notebook_whose_plan_it_is() -> None:
    """Of several; the others run as they are planned."""
    for kind, plan in (("load", "config/load.yaml"), ("backfill", "config/backfill.yaml")):
        shares = __main__._shares(["load", "backfill"], {"plan": plan, "target": "config/targets/sandbox.yaml"})
        assert [name for name, own in shares.items() if "plan" in own] == [kind]
        assert all("target" in own for own in shares.values())
    assert __main__._shares(["backfill"], {"plan": "config/load.yaml"}) == {"backfill": {"plan": "config/load.yaml"}}


def test_help_names_every_command() -> None:
    """`--help` is where a new user begins."""
    said = tapecheck("--help").stdout
    for command in ("run", "batch", "sandbox", "lab", "params", "check", "runs", "index", "history"):
        assert f"\n    {command} " in said
    said = tapecheck("run", "--help").stdout
    assert [name for name in config.VALIDATIONS if name not in said] == []


def test_an_interrupted_run_ends_its_kernel(tmp_path: Path) -> None:
    """Ctrl-C ends it with code 3, leaves no process, and keeps what the notebook had; the target accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(200)
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        (tmp_path / "slow.yaml").write_text(f"name: slow\nkind: external\nbase_url: {url}\nrequests: {{features: GET /}}\n")
        (tmp_path / "plan.yaml").write_text("scenarios: {s: {executor: burst, concurrency: 1, rounds: 1, request: features}}\n")
        words = ("run", "load", "--target", "slow.yaml", "-p", "plan", "plan.yaml", "--out", "out")
        command = [sys.executable, "-m", "tapecheck", *words]
        process = subprocess.Popen(command, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        with server.accept()[0]:  # the notebook has come to its measurement
            kernels = [p for p in psutil.Process(process.pid).children(recursive=True) if "ipykernel" in " ".join(p.cmdline())]
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=200)
    assert (process.returncode, "interrupted" in err, "Traceback" in err) == (3, True, False)
    (kept,) = (tmp_path / "out" / "unfinished").glob("load-*/notebook.ipynb")
    assert [cell for cell in nbformat.read(kept, 4).cells if cell.get("outputs")], "what the notebook had is kept"
    assert {p.name for p in tmp_path.iterdir()} == {"slow.yaml", "plan.yaml", "out"}, "no socket is left in the caller's folder"
    _, alive = psutil.wait_procs(kernels, timeout=60)
    assert kernels and not alive


@pytest.mark.parametrize(
    ("sent", "before", "code"),
    [
        (signal.SIGTERM, signal.SIG_DFL, 3),
        (signal.SIGHUP, signal.SIG_DFL, 3),  # a terminal that is closed
        (signal.SIGHUP, signal.SIG_IGN, 0),  # under nohup
        (signal.SIGINT, signal.SIG_IGN, 3),  # a background job of a shell
    ],
)
def test_a_signal_that_ends_a_command_is_an_interrupt(
    monkeypatch: pytest.MonkeyPatch, sent: signal.Signals, before: signal.Handlers, code: int
) -> None:
    """Whatever a command was doing; nohup keeps it running."""

    def command(_: object) -> int:
        os.kill(os.getpid(), sent)
        return 0

    monkeypatch.setattr(__main__, "_runs", command)
    ours = signal.signal(sent, before)
    try:
        done = tapecheck("runs")
    finally:
        signal.signal(sent, ours)
    assert (done.returncode, done.stderr) == (code, "interrupted\n" if code else "")


@pytest.mark.parametrize(("words", "stream"), [(("params", "load"), "stdout"), (("check", "README.md"), "stderr")])
def test_a_reader_that_has_left_ends_a_command_quietly(words: Sequence[str], stream: str) -> None:
    """As `| head -1` does: no traceback, and the exit code of a process that SIGPIPE ended."""
    reading, writing = os.pipe()
    os.close(reading)
    other = "stderr" if stream == "stdout" else "stdout"
    streams: dict[str, Any] = {stream: writing, other: subprocess.PIPE}
    done = subprocess.run([sys.executable, "-m", "tapecheck", *words], cwd=config.PROJECT, timeout=200, **streams)
    os.close(writing)
    assert b"Traceback" not in getattr(done, other) and b"Exception ignored" not in getattr(done, other)
    assert done.returncode == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("params load >/dev/full", 3, "error: the output cannot be written: No space left on device\n"),
        ("check config/load.yaml >&-", 0, ""),
    ],
)
def test_an_output_that_takes_nothing_is_no_crash(words: str, code: int, said: str) -> None:
    """A closed one changes no exit code, one on a full disk is named in one line; neither is a traceback."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1" if "check" in words else ""}
    done = subprocess.run(
        ["sh", "-c", f'"$0" -m tapecheck {words}', sys.executable], cwd=config.PROJECT, capture_output=True, env=environment
    )
    assert (done.returncode, done.stderr.decode()) == (code, said)


@pytest.fixture
def killed_scratch(tmp_path: Path) -> Iterator[tuple[Path, ...]]:
    """Three temporary folders: of a process that lives, and of two that were killed, one as soon as it was made."""
    program = (
        "import os, sys, signal\nfrom tapecheck import lockfiles\nwith lockfiles.scratch() as folder:\n"
        "    print(folder, flush=True)\n    sys.stdin.read()\n    sys.argv[1:] and os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": {**os.environ, "TMPDIR": str(tmp_path)}}
    alive, killed = (subprocess.Popen([sys.executable, "-c", program, *more], text=True, **pipes) for more in ([], ["die"]))
    assert alive.stdout is not None and killed.stdout is not None
    folders = Path(alive.stdout.readline().strip()), Path(killed.stdout.readline().strip())
    killed.communicate()
    assert (killed.returncode, folders[1].exists()) == (-signal.SIGKILL, True)
    (begun := folders[1].with_name(f"{lockfiles.SCRATCH}{killed.pid}-begun")).mkdir()
    yield *folders, begun
    alive.communicate()


def test_what_a_killed_run_left_is_removed_by_the_next_command_and_nothing_else(
    killed_scratch: tuple[Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder whose process lives stays, as does one that is not ours."""
    (tmp_path / "tapecheck-run-of-nobody").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert tapecheck("runs").returncode == 0
    assert [folder.exists() for folder in (*killed_scratch, tmp_path / "tapecheck-run-of-nobody")] == [True, False, False, True]
