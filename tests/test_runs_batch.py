"""Headless runs: parameters are checked first, every ending has its exit code, and nothing is left half done."""

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

import nbformat
import psutil
import pytest

from tapecheck import __main__, config, lockfiles
from tapecheck.errors import ConfigError, OutputError
from tapecheck.runs import batch
from tapecheck.runs.outcomes import Recorded

PARAMETERS = """\
target: str = "t"  # what
plan: str = "p"  # how
run: str = "new"  # which
out: str = "outputs"  # where
scenarios: str = "all"  # which of the plan
rounds: int = 0  # how many
"""
RECORD = f"""
from IPython.display import display
more = {{"figures": ["It carries 7/s."], "missed": [], "measured_s": 1.5, "not_drawn": NOT_DRAWN}}
brief = {{"folder": out, "verdict": VERDICT, "checks": {{"pass": 1}}, "headline": "It carries.", **more}}
display({{"text/plain": "", "{Recorded.MIME}": brief}}, raw=True)
"""


def recorded(verdict: str = "pass", not_drawn: Sequence[str] = ()) -> str:
    return RECORD.replace("VERDICT", repr(verdict)).replace("NOT_DRAWN", repr(list(not_drawn)))


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


@pytest.mark.parametrize(("verdict", "code"), [("pass", 0), ("fail", 1), ("no_data", 2)])
def test_the_verdict_is_the_exit_code(tiny: Path, verdict: str, code: int) -> None:
    """A met, missed or undecided run each have their code, and the executed notebook and a report lie with the run."""
    write(tiny, "assert rounds == 2\n" + recorded(verdict))
    outcome = batch.run("load", {"rounds": 2}, tiny / "out")
    assert (outcome.exit_code, outcome.verdict, outcome.brief["figures"], outcome.measured_s) == (code, verdict, ["It carries 7/s."], 1.5)
    assert {"notebook.ipynb", "report.html"} <= {p.name for p in (tiny / "out").iterdir()}


@pytest.mark.parametrize(
    ("cell", "message", "code"),
    [
        ("1 / 0", "cell 3 raised ZeroDivisionError: division by zero", 3),
        ("from tapecheck.errors import TargetDown\nraise TargetDown('http://x is down')", "http://x is down", 2),
        ("from tapecheck.errors import TargetError\nraise TargetError('the key is refused')", "the key is refused", 4),
        ("from tapecheck.errors import ConfigError\nraise ConfigError('wrong key')", "wrong key", 4),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "kernel died", 3),
        ("import sys\nsys.exit(0)", "", 3),
        ("pass", "ended without recording a run", 3),
    ],
    ids=["exception", "target down", "target refuses", "wrong parameter", "killed kernel", "sys.exit(0)", "nothing recorded"],
)
def test_an_ending_without_a_run_is_never_a_pass(tiny: Path, cell: str, message: str, code: int) -> None:
    """However a notebook ends early, the code says so, the message is one sentence, and the notebook is kept."""
    write(tiny, cell, "1")
    outcome = batch.run("load", {}, tiny / "out")
    assert (outcome.exit_code, outcome.verdict) == (code, None)
    assert message in outcome.message
    if code == 4:
        assert outcome.folder is None and not (tiny / "out" / "unfinished").exists(), "nothing was attempted"
    else:
        assert outcome.folder is not None and outcome.folder.parent == tiny / "out" / "unfinished"
        assert (outcome.folder / "notebook.ipynb").exists()


def test_what_was_measured_outlives_a_notebook_that_fails(tiny: Path) -> None:
    """It lies beside the notebook as far as that got, and the message says how to go on from there."""
    keep = "import pyarrow\nfrom tapecheck.runs import folders\nfolders.keep('id', {'samples': pyarrow.table({'a': [1]})}, 'load', out=out)"
    write(tiny, keep, "1 / 0")
    outcome = batch.run("load", {}, tiny / "out")
    assert outcome.exit_code == 3 and outcome.folder is not None
    assert {path.name for path in outcome.folder.iterdir()} == {"samples.parquet", "notebook.ipynb", "report.html"}
    assert outcome.message.endswith(f"what was measured is kept; analyse it with: tapecheck run load -p run {outcome.folder}")


def test_a_run_without_one_of_its_charts_is_a_crash_that_is_recorded(tiny: Path) -> None:
    """Its verdict counts, the chart is named, and the exit code is 3."""
    write(tiny, recorded(not_drawn=["the chart timeline could not be drawn"]))
    outcome = batch.run("load", {}, tiny / "out")
    assert (outcome.exit_code, outcome.verdict) == (3, "pass")
    assert outcome.missed == ["the chart timeline could not be drawn"]
    assert (tiny / "out" / "notebook.ipynb").exists()


@pytest.mark.parametrize("rest", [("import sys\nsys.exit(0)", "1"), ("import sys\nsys.exit(0)",)], ids=["in between", "last"])
def test_a_recorded_pass_is_void_when_a_later_cell_ends_the_notebook(tiny: Path, rest: tuple[str, ...]) -> None:
    """sys.exit(0) is a good end for papermill; what it left out might have shown a miss."""
    write(tiny, recorded(), *rest)
    outcome = batch.run("load", {}, tiny / "out")
    assert (outcome.exit_code, outcome.verdict) == (3, None)


def test_a_recorded_pass_is_void_when_a_cell_was_skipped(tiny: Path) -> None:
    """A cell that papermill leaves out for its tag might have shown a miss too."""
    write(tiny, recorded(), "1")
    path = tiny / "notebooks" / "load.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[-1].metadata["tags"] = ["skip-execution"]
    nbformat.write(notebook, path)
    outcome = batch.run("load", {}, tiny / "out")
    assert (outcome.exit_code, outcome.verdict) == (3, None)


def test_a_kernel_that_cannot_start_is_said_in_one_sentence(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As at too low a limit of open files: with what it printed last, as of one that dies later."""
    write(tiny, "1")
    monkeypatch.setenv("PYTHONPATH", str(tiny))
    (tiny / "sitecustomize.py").write_text("import sys\nif 'ipykernel_launcher' in sys.orig_argv:\n    raise SystemExit('no room')")
    outcome = batch.run("load", {}, tiny / "out")
    assert (outcome.exit_code, outcome.message) == (3, "the notebook's kernel died; its last words: SystemExit: no room")
    assert capfd.readouterr().err == ""


def test_too_few_open_files_for_a_kernel_are_refused(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it is started; the soft limit is raised where the hard one allows it."""
    write(tiny, recorded())
    limits: list[tuple[int, int]] = [(40, 64)]
    monkeypatch.setattr(resource, "getrlimit", lambda what: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda what, limit: limits.append(limit))
    with pytest.raises(ConfigError, match=rf"ulimit -Hn: got 64 open files; allowed: {batch.FILES} or more"):
        batch.run("load", {}, tiny / "out")
    limits.append((40, 500))
    assert batch.run("load", {}, tiny / "out").exit_code == 0
    assert limits[-1] == (batch.FILES, 500)


@pytest.mark.parametrize("variable", ["HOME", "IPYTHONDIR"])
def test_a_home_that_cannot_be_written_stops_no_run(tiny: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """Jupyter looks for kernels in IPython's folder, which it makes."""
    monkeypatch.delenv("IPYTHONDIR", raising=False)
    monkeypatch.setenv(variable, "/proc/none")
    write(tiny, recorded())
    assert batch.run("load", {}, tiny / "out").exit_code == 0


def test_start_up_files_of_the_user_are_not_read(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody's own IPython settings are no part of what a batch records."""
    (tiny / "ipython" / "profile_default" / "startup").mkdir(parents=True)
    (tiny / "ipython" / "profile_default" / "startup" / "00.py").write_text("mine = 1")
    monkeypatch.setenv("IPYTHONDIR", str(tiny / "ipython"))
    write(tiny, "assert 'mine' not in globals()\n" + recorded())
    assert batch.run("load", {}, tiny / "out").exit_code == 0


def test_the_report_is_self_contained_and_has_no_code(tiny: Path) -> None:
    """report.html loads nothing from anywhere and shows outputs only."""
    write(tiny, "print('an answer')", recorded())
    batch.run("load", {}, tiny / "out")
    html = (tiny / "out" / "report.html").read_text()
    assert "an answer" in html
    assert "print(" not in html
    assert not [part[:60] for part in html.split("src=")[1:] if part.lstrip("\"'").startswith("http")]
    assert "<link" not in html or 'rel="stylesheet" href="http' not in html


# ---- the command line ----


def tapecheck(*words: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command in this process, which has imported everything already, or in one of its own with an environment of its own."""
    if env is not None:
        command = [sys.executable, "-m", "tapecheck", *words]
        return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=100)
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
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["runn"], "invalid choice: 'runn'"),
        (["run", "lod"], "one of load"),
        (["run", "load", "-p", "raunds", "3"], "raunds: unknown key `raunds`"),
        (["run", "load", "-p", "rounds", "many"], "rounds: got 'many'; allowed: a valid integer"),
        (["run", "load", "--target", "none.yaml"], "none.yaml: path: file not found"),
        (["run", "load", "-p", "plan", "none.yaml"], "none.yaml: path: file not found"),
        (["run", "load", "-p", "run", "none"], "none: path: file not found"),
        (["run", "load", "-p", "run", "tests/data/rto_rpo"], "run: got a run of rto_rpo; allowed: a complete run of load"),
        (["run", "load", "-p", "run", "README.md"], "run: got "),
        (
            ["run", "all", "-p", "run", "tests/data/load"],
            "run: got a recorded run for backfill, load, rto_rpo; allowed: one validation by name",
        ),
        (["run", "backfill", "-p", "plan", "config/load.yaml", "-p", "symbols", "AAPL"], "scenarios: unknown key `scenarios`"),
        (["check", "README.md"], "README.md"),
        (["params", "none"], "one of load"),
        (["sandbox", "up", "--symbols", "NOPE"], "NOPE"),
    ],
)
def test_wrong_usage_is_exit_4_with_one_clear_error(words: list[str], message: str) -> None:
    """Every mistake on the command line says what is allowed, without a traceback."""
    done = tapecheck(*words, cwd=config.PROJECT)
    assert done.returncode == 4, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_check_lists_every_problem_with_its_line(tmp_path: Path) -> None:
    """`check` reads every file and reports all that is wrong, each with file, line, key, got and allowed."""
    (tmp_path / "a.yaml").write_text("name: a\nkind: external\nbase_url: http://127.0.0.1:1\nrequests: {h: GET /}\nextra: 1\n")
    (tmp_path / "b.yaml").write_text(
        "scenarios:\n  s: {executor: burst, concurrency: many, request: h}\n  t: {executor: burts, request: h}\nobjectives: [p95 < 3]\n"
    )
    done = tapecheck("check", str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml"))
    assert done.returncode == 4
    assert "a.yaml:5: extra: unknown key `extra`; available: name," in done.stderr
    assert "b.yaml:2: scenarios.s.concurrency: got 'many'" in done.stderr
    assert "b.yaml:3: scenarios.t" in done.stderr
    assert "b.yaml:4: objectives.0: got 'p95 < 3'; allowed: no metric 'p95'; the metrics are" in done.stderr
    assert "2 files, 4 problems" in done.stdout
    (tmp_path / "b.yaml").write_text(
        "scenarios: {s: {executor: burst, concurrency: 5, rounds: 1, request: h}}\nobjectives: [t.p95_ms < 3]\n"
    )
    done = tapecheck("check", str(tmp_path / "b.yaml"))
    assert "no scenario 't'; the scenarios are s" in done.stderr


def test_everything_we_ship_passes_the_check() -> None:
    """`python -m tapecheck check` accepts config/."""
    done = tapecheck("check")
    assert done.returncode == 0, done.stderr
    assert ", 0 problems" in done.stdout


def test_all_configuration_is_checked_before_anything_starts(tmp_path: Path) -> None:
    """A wrong target file and a wrong plan are reported together, and no sandbox is started for them."""
    (tmp_path / "t.yaml").write_text("name: t\nkind: external\nbase_url: http://host:abc\nrequests: {h: GET /}\n")
    (tmp_path / "p.yaml").write_text("scenarios: {s: {executor: burst, concurrency: 5, request: h, parameters: {d: [2024-13-45]}}}\n")
    done = tapecheck("run", "load", "--target", str(tmp_path / "t.yaml"), "-p", "plan", str(tmp_path / "p.yaml"))
    assert done.returncode == 4
    assert "t.yaml:3: base_url: got 'http://host:abc'; allowed: http:// or https://, a host" in done.stderr
    assert "p.yaml:1: scenarios.s.parameters.d.0: got 2024-13-45 (month must be in 1..12)" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_empty_out_writes_nothing_anywhere(tmp_path: Path) -> None:
    """`-p out ""` analyses what was recorded and leaves no file, in the project or elsewhere."""
    before = set(config.PROJECT.iterdir())
    done = tapecheck("run", "load", "-p", "run", str(config.PROJECT / "tests/data/tools/hey.csv"), "-p", "out", '""', cwd=tmp_path)
    assert "not recorded" in done.stdout
    assert list(tmp_path.iterdir()) == []
    assert set(config.PROJECT.iterdir()) == before


@pytest.mark.parametrize(
    ("notebook", "own"), [("load", ["scenarios", "rounds"]), ("backfill", ["profile", "symbols", "timeframes", "days"])]
)
def test_params_lists_what_a_notebook_takes(notebook: str, own: list[str]) -> None:
    """`params NAME` shows each parameter with type, default and help."""
    done = tapecheck("params", notebook)
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["target", "plan", "run", "out", *own]
    assert all(len(line.split()) > 4 for line in done.stdout.splitlines())


def test_a_plan_goes_to_the_notebook_whose_plan_it_is() -> None:
    """Of several; the others run as they are planned."""
    for kind, plan in (("load", "config/load.yaml"), ("backfill", "config/backfill.yaml")):
        shares = __main__._shares(["load", "backfill"], {"plan": plan, "target": "config/targets/sandbox.yaml"})
        assert [name for name, own in shares.items() if "plan" in own] == [kind]
        assert all("target" in own for own in shares.values())
    assert __main__._shares(["backfill"], {"plan": "config/load.yaml"}) == {"backfill": {"plan": "config/load.yaml"}}


def test_help_names_every_command() -> None:
    """`--help` is where a new user begins."""
    done = tapecheck("--help")
    assert done.returncode == 0
    for command in ("run", "sandbox", "lab", "params", "check", "runs", "index", "history"):
        assert f"\n    {command} " in done.stdout
    said = tapecheck("run", "--help").stdout
    assert [name for name in config.VALIDATIONS if name not in said] == []


def kernels_below(process: psutil.Process) -> list[psutil.Process]:
    return [p for p in process.children(recursive=True) if "ipykernel" in " ".join(p.cmdline())]


@pytest.fixture
def slow_target(tmp_path: Path) -> Iterator[tuple[Path, socket.socket]]:
    """A target file of a server that accepts and never answers within a test, and its socket."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(90)
        file = tmp_path / "slow.yaml"
        file.write_text(
            f"name: slow\nkind: external\nbase_url: http://127.0.0.1:{server.getsockname()[1]}\nrequests: {{features: GET /}}\n"
        )
        yield file, server


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])  # asyncio has a way of its own with the first
def test_an_interrupted_run_ends_its_kernel_and_says_so(
    slow_target: tuple[Path, socket.socket], tmp_path: Path, sent: signal.Signals
) -> None:
    """Ctrl-C and SIGTERM end it with code 3, leave no process, and keep what the notebook had."""
    plan = tmp_path / "plan.yaml"
    plan.write_text("scenarios: {s: {executor: burst, concurrency: 1, rounds: 1, request: features}}\n")
    words = ["run", "load", "--target", str(slow_target[0]), "-p", "plan", str(plan), "--out", str(tmp_path / "out")]
    command = [sys.executable, "-m", "tapecheck", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=tmp_path, text=True, **pipes)
    with slow_target[1].accept()[0]:  # the notebook has come to its measurement
        kernels = kernels_below(psutil.Process(process.pid))
        os.kill(process.pid, sent)
        _, err = process.communicate(timeout=90)
    assert process.returncode == 3
    assert "interrupted" in err
    assert "Traceback" not in err
    (kept,) = (tmp_path / "out" / "unfinished").glob("load-*/notebook.ipynb")
    assert [cell for cell in nbformat.read(kept, 4).cells if cell.get("outputs")], "what the notebook had is kept"
    assert {p.name for p in tmp_path.iterdir()} == {"slow.yaml", "plan.yaml", "out"}, "no socket is left in the caller's folder"
    _, alive = psutil.wait_procs(kernels, timeout=60)
    assert kernels
    assert not alive


@pytest.mark.parametrize(
    ("sent", "before", "code"),
    [
        (signal.SIGHUP, signal.SIG_DFL, 3),
        (signal.SIGHUP, signal.SIG_IGN, 0),  # under nohup
        (signal.SIGINT, signal.SIG_IGN, 3),  # a background job of a shell
    ],
)
def test_a_closed_terminal_is_an_interrupt_as_ctrl_c_is(
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


@pytest.mark.parametrize(
    ("words", "stream"),
    [
        (("--help",), "stdout"),
        (("runs",), "stdout"),
        (("params", "load"), "stdout"),
        (("check", "README.md"), "stderr"),
        (("runs",), "stderr"),
    ],
)
def test_a_reader_that_has_left_ends_a_command_quietly(words: tuple[str, ...], stream: str) -> None:
    """As `| head -1` does: no traceback, and the exit code of a process that SIGPIPE ended, if there was anything left to print."""
    reading, writing = os.pipe()
    os.close(reading)
    other = "stderr" if stream == "stdout" else "stdout"
    done = subprocess.run(
        [sys.executable, "-m", "tapecheck", *words], cwd=config.PROJECT, timeout=60, **{stream: writing, other: subprocess.PIPE}
    )  # type: ignore[call-overload]
    os.close(writing)
    assert getattr(done, other) is not None
    assert b"Traceback" not in getattr(done, other) and b"Exception ignored" not in getattr(done, other)
    ends = {141} if stream == "stdout" or words == ("check", "README.md") else {0}
    assert done.returncode in ends | ({0} if words == ("--help",) else set())  # of its own printing argparse may keep that to itself


@pytest.mark.parametrize(
    ("output", "code", "said"),
    [(">&-", 0, ""), (">&- 2>&-", 0, ""), (">/dev/full", 3, "error: the output cannot be written: No space left on device\n")],
)
def test_an_output_that_takes_nothing_is_no_crash(output: str, code: int, said: str) -> None:
    """A closed one changes no exit code, one on a full disk is named in one line; neither is a traceback."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    for words, unbuffered in (("params load", ""), ("check config/load.yaml", "1")):
        command = ["sh", "-c", f'"$0" -m tapecheck {words} {output}', sys.executable]
        done = subprocess.run(command, cwd=config.PROJECT, capture_output=True, env={**os.environ, "PYTHONUNBUFFERED": unbuffered})
        assert (done.returncode, done.stderr.decode()) == (code, said)


@pytest.mark.parametrize(
    "words",
    [
        ("run", "load", "--target", "~nobody_here/t.yaml"), ("run", "load", "--out", "~nobody_here"), ("runs", "--out", "~nobody_here/x"),
        ("run", "load", "-p", "run", "~nobody_here/r"), ("check", "~nobody_here/t.yaml"), ("run", "load", "-f", "~nobody_here/p.yaml"),
        ("run", "load", "-p", "out", "~nobody_here"),
    ],
)  # fmt: skip
def test_a_home_of_nobody_is_a_wrong_path(words: tuple[str, ...]) -> None:
    """Wherever a path is read, it is named with what to do."""
    done = tapecheck(*words)
    assert done.returncode == 4, done.stderr
    assert "path: got ~nobody_here, a user without a home folder on this machine; allowed: a path without ~" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_sandbox_home_of_nobody_is_a_wrong_path(tmp_path: Path) -> None:
    """It is read from the environment."""
    done = tapecheck("sandbox", "status", env={**os.environ, "TAPECHECK_SANDBOX_HOME": "~nobody_here/s"})
    assert (done.returncode, "~nobody_here, a user without a home folder" in done.stderr) == (4, True)


@pytest.mark.parametrize("place", ["at once", "while papermill writes", "in the kernel"])
def test_a_full_temporary_folder_is_said_with_what_to_do(tiny: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """It is named, and that TMPDIR chooses another."""
    write(tiny, "import errno, os\nraise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))", "1")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if place == "at once":
        monkeypatch.setattr(lockfiles.tempfile, "mkdtemp", full)
    elif place == "while papermill writes":
        monkeypatch.setattr(batch.papermill, "execute_notebook", full)
    try:
        outcome = batch.run("load", {}, tiny / "out")
        said, code = outcome.message, outcome.exit_code
    except OutputError as error:
        said, code = str(error), error.exit_code
    assert (code, "No space left on device; free some room, or set TMPDIR to another folder" in said) == (4, True)
    assert tempfile.gettempdir() in said


def test_what_a_killed_run_left_is_removed_by_the_next_command_and_nothing_else(tmp_path: Path) -> None:
    """A folder whose process lives stays, as does one that is not ours."""
    program = (
        "import os, sys, signal\nfrom tapecheck import lockfiles\nwith lockfiles.scratch() as folder:\n"
        "    print(folder, flush=True)\n    sys.stdin.read()\n    sys.argv[1:] and os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    (tmp_path / "tapecheck-run-of-nobody").mkdir()
    alive, killed = (
        subprocess.Popen([sys.executable, "-c", program, *more], env=environment, text=True, **pipes) for more in ([], ["die"])
    )  # type: ignore[call-overload]
    folders = [Path(process.stdout.readline().strip()) for process in (alive, killed)]
    killed.communicate()
    assert (killed.returncode, [folder.exists() for folder in folders]) == (-signal.SIGKILL, [True, True])
    assert tapecheck("runs", env=environment).returncode == 0
    assert [folder.exists() for folder in folders] == [True, False]
    alive.communicate()
    assert {path.name for path in tmp_path.iterdir()} == {"tapecheck-run-of-nobody"}
