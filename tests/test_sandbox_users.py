"""Who uses the sandbox, and that the last of them stops it: real processes that open it, end, and are killed."""

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import backfills
import pexpect
import psutil
import pytest
import samples
from backfills import analysed
from recoveries import ONCE

from tapecheck import __main__, lockfiles
from tapecheck.backfill.recording import FAILED, Job
from tapecheck.backfill.validation import backfill
from tapecheck.errors import SandboxError
from tapecheck.load import session
from tapecheck.load.plan import LoadPlan
from tapecheck.load.validation import load
from tapecheck.recording import STOPPED
from tapecheck.recovery import drill, experiment, freshness
from tapecheck.recovery import session as recovery
from tapecheck.recovery.drill import DrillTarget
from tapecheck.recovery.objectives import ProbeSchedule
from tapecheck.recovery.recording import INVALID, Audit
from tapecheck.recovery.watchdog import Watchdog
from tapecheck.sandbox import processes, supervision
from tapecheck.sandbox.profile import Home, Profile
from tapecheck.target import opening
from tapecheck.target.file import RequestTemplate
from tapecheck.verdict import Verdict

PATIENCE_S = 180
ENDED = json.dumps({"pid": 1, "since": "2026-11-02T10:15:00+00:00", "purpose": "ended"})
USER = """
import sys
from tapecheck.target.opening import open_target
print(open_target("config/targets/sandbox.yaml").base_url, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def small() -> Iterator[Path]:
    """The home of a sandbox that is to hold one series, so that it starts fast; its database is made once."""
    folder = Path(tempfile.mkdtemp(dir=os.environ["TAPECHECK_TESTS_SANDBOXES"]))
    Home(folder).create()
    Home(folder).profile.write_text(Profile(symbols=("SPY",), timeframes=("1d",), days=10).model_dump_json())
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def home(small: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """The home for one test; no process is left afterwards."""
    monkeypatch.setenv("TAPECHECK_SANDBOX_HOME", str(small))
    monkeypatch.delenv("DATABASE_URL", raising=False)
    yield Home()
    for user in User.alive:
        user.kill()
        user.communicate()
    User.alive.clear()
    if opening._use is not None:
        lockfiles.release(opening._use)
        opening._use = None
    supervision.down(force=True)
    for process in reapers(Home()):
        process.wait(PATIENCE_S)


def reapers(home: Home) -> list[psutil.Process]:
    return [
        one
        for one in psutil.process_iter(["cmdline"])
        if "tapecheck.sandbox.processes" in (one.info["cmdline"] or []) and one.environ().get("TAPECHECK_SANDBOX_HOME") == str(home.folder)
    ]


class User:
    """A process that has opened the sandbox and does so until it is ended."""

    alive: ClassVar[list[subprocess.Popen[str]]] = []

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", USER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.alive.append(self.process)

    def opened(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self, how: signal.Signals | None) -> None:
        if how is not None:
            self.process.send_signal(how)
        self.process.communicate(timeout=PATIENCE_S)
        self.alive.remove(self.process)


def running(home: Home) -> psutil.Process:
    return psutil.Process(json.loads(home.state.read_bytes())["supervisor_pid"])


def test_a_user_keeps_it_running_and_one_that_was_started_by_hand_stays(home: Home) -> None:
    """Two users start at once; the one that started it is killed and the other measures on, and so does a third that comes meanwhile.

    `sandbox up` makes it stay; `down` names who uses it and refuses.
    """
    users = [User(), User()]
    urls = {user.opened() for user in users}
    assert len(urls) == 1
    supervisor, pids = running(home), {user.process.pid for user in users}
    assert {one.pid for one in processes.users(home)} == pids
    users[0].end(signal.SIGKILL)
    supervision.down_unused()
    assert supervisor.is_running() and {one.pid for one in processes.users(home)} == {users[1].process.pid}
    for waiting in reapers(home):
        waiting.kill()
        waiting.wait(PATIENCE_S)
    third = User()
    assert third.opened() in urls and reapers(home), "and leaves another reaper, since the first was killed"
    users[1].end(None)
    supervision.down_unused()
    assert supervisor.is_running(), "a third came before the second left"
    supervision.up()
    with pytest.raises(SandboxError, match=rf"in use by pid {third.process.pid} \(.*-c .*down --force"):
        supervision.down()
    third.end(signal.SIGKILL)
    for process in reapers(home):
        process.wait(PATIENCE_S)
    supervision.down_unused()
    assert supervisor.is_running() and supervision.status() is not None
    assert supervision.down() is True
    assert not home.stays.exists(), "the next user starts one of its own"


def test_a_killed_run_leaves_neither_sandbox_nor_folders(home: Home, tmp_path: Path) -> None:
    """Killed while it measures, its kernel ends, and the next command removes its temporary folders.

    The sandbox is stopped with its last user; one that comes in that moment gets one that answers.
    """
    plan, temporary = tmp_path / "plan.yaml", Path(tempfile.mkdtemp(prefix="tct-"))  # short enough for sockets
    plan.write_text(
        "scenarios: {s: {executor: constant_rate, rate_rps: 5, duration_s: 300, request: features,"
        " parameters: {symbol: [SPY], timeframe: [1d], limit: [5]}}}\nobjectives: [p95_ms < 1000]\n"
    )
    environment, out = {**os.environ, "TMPDIR": str(temporary)}, ("--out", str(tmp_path / "out"))
    command = [sys.executable, "-m", "tapecheck", "run", "load", "-p", "plan", str(plan), *out]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if line.endswith(": s\n"):
                break
        assert process.poll() is None and said[-1].endswith(": s\n"), said
        using = [psutil.Process(one.pid) for one in processes.users(home)]
        assert len(using) == 2 and process.pid in [one.pid for one in using], "the run and its kernel"
        process.kill()
    psutil.wait_procs(using)
    with opening.sandbox_running() as state:  # a reaper stops the last one meanwhile
        status = supervision.status()
        assert status is not None and all(one.healthy for one in status.processes)
        assert opening.open_target("config/targets/sandbox.yaml").base_url == state.base_url
        assert [one.pid for one in processes.users(home)] == [os.getpid()], "several cells of one notebook are one user"
    assert (supervision.status(), home.state.exists(), list(home.users.iterdir())) == (None, False, [])
    assert len(list(temporary.iterdir())) == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(temporary))
        assert __main__.main(["runs", *out]) == 0
    temporary.rmdir()


def test_a_killed_start_leaves_nothing(home: Home) -> None:
    """A user that is killed while the sandbox starts for it: the start goes on without it, and then it is stopped."""
    user = User()
    while not reapers(home):
        assert user.process.poll() is None
    user.end(signal.SIGKILL)
    for process in reapers(home):
        process.wait(PATIENCE_S)
    assert supervision.status() is None and not home.socket.exists()


def test_lab_leaves_ctrl_c_to_jupyter_and_stops_the_sandbox(home: Home) -> None:
    """JupyterLab's own question is answered by JupyterLab, no and then yes; quitting is exit 0; a home folder need not be writable."""
    environment = {**os.environ, "HOME": "/dev/null/home", "BROWSER": "true"}
    with pexpect.spawn(sys.executable, ["-m", "tapecheck", "lab"], env=environment, timeout=PATIENCE_S, encoding="utf-8") as lab:
        question = r"Shut down this Jupyter server \(y/\[n\]\)\? "
        lab.expect("is running at")
        lab.sendintr()
        lab.expect(question)
        lab.send("n\r")
        lab.expect("resuming")
        lab.sendintr()
        if lab.expect([question, pexpect.EOF]) == 0:  # JupyterLab stops unasked where it has not yet taken its first question off
            lab.send("y\r")
            lab.expect(pexpect.EOF)
        lab.wait()
        assert (lab.exitstatus, lab.signalstatus) == (0, None)
    assert supervision.status() is None


PRICES = {"request": "prices", "parameters": {"symbol": ["SPY"]}}
PLAN = LoadPlan.model_validate(
    {
        "scenarios": {
            "before": {"executor": "burst", "concurrency": 2, "rounds": 5, **PRICES},
            "meanwhile": {"executor": "constant_rate", "rate_rps": 20, "duration_s": 6, **PRICES},
        },
        "objectives": ["success_ratio > 0.5"],
        "generator": {"lag_p99_ms": 2000, "dispatch_lag_p99_ms": 2000, "cpu_ratio": 1, "achieved_ratio": 0.01},
    }
)


def test_one_that_is_stopped_under_a_measurement_makes_that_invalid(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped, and started again or not, it is another sandbox: what was whole by then counts, the rest blames nobody."""
    target = opening.open_target("config/targets/sandbox.yaml")
    asked = target.model_copy(update={"requests": {"prices": RequestTemplate(request="GET /health?of={symbol}")}})
    begun, show = threading.Event(), session.progress.show

    @contextmanager
    def shown(label: str, unit: str) -> Iterator[Callable[..., None]]:
        with show(label, unit) as report:
            if label.endswith(": meanwhile"):
                begun.set()
            yield report

    def replace() -> None:
        assert begun.wait(PATIENCE_S)
        supervision.down(force=True)
        supervision.up(until_unused=True)

    monkeypatch.setattr(session.progress, "show", shown)
    meanwhile = threading.Thread(target=replace)
    meanwhile.start()
    recording = load.run(PLAN, asked)
    meanwhile.join()
    summary = load.summarize(recording, PLAN)
    checks = load.judge(summary, PLAN)
    assert {one.name: one.verdict for one in checks} == {"before": Verdict.PASS, "meanwhile": Verdict.INVALID}, checks
    assert summary["meanwhile"].failed > 0
    assert checks[1].reason.startswith("the sandbox was stopped meanwhile")
    found = load.find(recording, summary, PLAN)
    assert [(one.name, one.finding.partition(":")[0]) for one in found if "meanwhile" in one.finding] == [("sandbox_stopped", "meanwhile")]

    monkeypatch.setattr(drill, "STEADY_S", 0.1)
    with Watchdog() as watchdog:
        done = drill.run(experiment.chosen("api_killed")[0], DrillTarget.of(target), ProbeSchedule(settle_s=0.1), watchdog, 1)
    assert (done.trial.state, done.trial.reason) == (INVALID, STOPPED)

    target, audit = opening.open_target("config/targets/sandbox.yaml"), freshness.audit
    assert not opening.sandbox_stopped(), "who opens it again has the other"
    for is_stopped in (False, True):

        def unhealthy(*given: Any, is_stopped: bool = is_stopped) -> Audit:
            found = audit(*given)
            if is_stopped:
                supervision.down(force=True)
            return dataclasses.replace(found, replies=[dataclasses.replace(one, status=503) for one in found.replies])

        monkeypatch.setattr(freshness, "audit", unhealthy)
        ages = recovery.run(ONCE, target, (), out="").context.audit
        assert ages is not None and opening.sandbox_stopped() is is_stopped
        assert (ages.invalid, bool(ages.replies)) == ((STOPPED, False) if is_stopped else ("", True))


def test_another_target_is_not_asked_whether_the_sandbox_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped sandbox says nothing of an API that is not it."""
    monkeypatch.setattr(opening, "sandbox_stopped", lambda: True)
    sent = session.Sent(
        name="s", executor="burst", requests=samples.requests(), measured=samples.measured(samples.burst([])), sandbox_stopped=True
    )
    context = samples.recording({}).context
    assert context.target.kind == "external"
    assert not session._recording(context, [sent]).context.generator["s"].target_stopped


def test_a_backfill_under_which_it_was_stopped_blames_nobody() -> None:
    """Its failed jobs are no failure of the target: each check is invalid, and the one finding says why."""
    failed = backfills.recording([], jobs=[Job(symbol="SPY", timeframe="1d", state=FAILED, error="refused")], objectives=["failed <= 0"])
    for was_stopped, verdict, finding in ((False, Verdict.FAIL, "failed_jobs"), (True, Verdict.INVALID, "sandbox_stopped")):
        recording = dataclasses.replace(failed, context=dataclasses.replace(failed.context, target_stopped=was_stopped))
        summary = analysed(recording).summary
        assert {check.verdict for check in backfill.judge(summary, recording.context.plan)} == {verdict}
        assert finding in [one.name for one in backfill.find(recording, summary, recording.context.plan)]


# ---- lock files ----


def test_a_forked_child_holds_nothing(tmp_path: Path) -> None:
    """A child that outlives its parent, forked or started, is no holder: only the parent's end counts."""
    code = f"""
import os, subprocess, sys
from pathlib import Path
from tapecheck import lockfiles
lockfiles.hold(Path({str(tmp_path / "held")!r}), "a test")
pid = os.fork()
if pid == 0:
    sys.stdin.read()
    os._exit(0)
other = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"])
print("held", flush=True)
os.kill(os.getpid(), 9)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == b"held\n"
        parent.wait(PATIENCE_S)
        found = lockfiles.holders(tmp_path / "held")
        assert [(one.pid, one.is_there, one.purpose) for one in found] == [(parent.pid, False, "a test")]


def test_who_has_been_there_is_known_until_nobody_is(tmp_path: Path) -> None:
    """A released file stays while another is held, and is removed with the last."""
    first, second = lockfiles.hold(tmp_path, "first"), lockfiles.hold(tmp_path, "second")
    lockfiles.release(second)
    assert sorted((one.purpose, one.is_there) for one in lockfiles.holders(tmp_path)) == [("first", True), ("second", False)]
    lockfiles.release(first)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"pid": 1, "since": "soon", "purpose": ""}', b"\xff"])
def test_a_file_of_something_else_is_nobody(tmp_path: Path, content: bytes) -> None:
    """What is no lock file of ours is passed over."""
    (tmp_path / "other.lock").write_bytes(content)
    assert lockfiles.holders(tmp_path) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_another_users_folder_is_refused(tmp_path: Path) -> None:
    """A folder that belongs to someone else is not written to."""
    os.chown(tmp_path, 12345, 12345)
    with pytest.raises(PermissionError, match="another user"):
        lockfiles.hold(tmp_path)


@pytest.mark.parametrize("kind", ["fifo", "dangling link", "link to a lock file", "link to a fifo", "folder", "socket"])
@pytest.mark.parametrize("is_ours", [True, pytest.param(False, marks=pytest.mark.skipif(os.getuid() != 0, reason="only root gives away"))])
def test_nothing_that_another_user_puts_into_the_temporary_folder_stops_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, is_ours: bool
) -> None:
    """A command neither waits for what only looks like a lock file, nor follows it, nor removes its folder."""
    with tempfile.TemporaryDirectory(prefix="tct-") as temporary:  # short enough for a socket
        folder = Path(temporary) / f"{lockfiles.SCRATCH}x"
        folder.mkdir(mode=0o755)
        file, ended = folder / "a.lock", tmp_path / "ended.lock"
        ended.write_text(ENDED)
        os.mkfifo(tmp_path / "fifo")
        with socket.socket(socket.AF_UNIX) as listening:
            {
                "fifo": lambda: os.mkfifo(file),
                "dangling link": lambda: file.symlink_to("nowhere"),
                "link to a lock file": lambda: file.symlink_to(ended),
                "link to a fifo": lambda: file.symlink_to(tmp_path / "fifo"),
                "folder": file.mkdir,
                "socket": lambda: listening.bind(str(file)),
            }[kind]()
            if not is_ours:
                os.chown(folder, 12345, 12345)
            monkeypatch.setattr(tempfile, "tempdir", temporary)
            lockfiles.sweep_scratch()
        assert [path.name for path in folder.iterdir()] == ["a.lock"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_that_another_user_owns_is_not_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even root removes only what is its own, though a whole lock file of an ended process lies there, or a link leads to one."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folders = [tmp_path / f"{lockfiles.SCRATCH}{name}" for name in ("theirs", "ours")]
    for folder in folders:
        folder.mkdir()
        (folder / "a.lock").write_text(ENDED)
    os.chown(folders[0], 12345, 12345)
    (link := tmp_path / f"{lockfiles.SCRATCH}link").symlink_to(folders[0])
    lockfiles.sweep_scratch()
    assert sorted(tmp_path.iterdir()) == sorted([folders[0], link])


@pytest.mark.skipif(os.getuid() != 0, reason="root reads every file unless it asks as another user")
def test_a_lock_file_that_may_not_be_read_is_nobody() -> None:
    """Another user's file that only that user may read is passed over, as whatever is no lock file of ours."""
    with tempfile.TemporaryDirectory(prefix="tct-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "a.lock").touch(mode=0o600)
        os.seteuid(65534)
        try:
            assert [path.name for path in folder.iterdir()] == ["a.lock"]
            assert lockfiles.holders(folder) == []
        finally:
            os.seteuid(0)


def test_a_fault_while_old_folders_are_swept_is_no_missed_objective(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 1 would say that an objective was missed; it ends as whatever else breaks a command, with 3."""

    def fail(*places: Path) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(lockfiles, "sweep_scratch", fail)
    assert __main__.main(["runs"]) == 3
