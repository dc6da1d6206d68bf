"""Starting and stopping the sandbox, also after anything was killed, in a folder whose name needs quoting."""

import contextlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from tapecheck.errors import ConfigError, SandboxError
from tapecheck.sandbox import database, supervision
from tapecheck.sandbox.profile import Home, Profile, tier_of
from tapecheck.target.opening import SandboxState

SMALL = Profile(symbols=("SPY",), timeframes=("1d",), days=10)
START = "from tapecheck.sandbox import supervision as s; from tapecheck.sandbox.profile import Profile as P; s.up(profile=P({}))"
CODE = START.format("symbols=('SPY',), timeframes=('1d',), days=10")
HALTED = (  # an up that says that it has come to a step, and goes no further
    "import sys\nfrom tapecheck.sandbox import supervision as s\n"
    "def halt(*_):\n    print('there', flush=True)\n    sys.stdin.readline()\n"
    "s.{} = halt\n" + CODE
)
ODD = "tc 5% %(x)s #a ;b ü'"


def command(folder: Path) -> list[str]:
    """Start the sandbox with a Python whose own path is as odd as the folder's, as that of an odd checkout is."""
    return [str(folder / "python" / "bin" / Path(sys.executable).name), "-c", CODE]


def _mentioning(folder: Path) -> list[int]:
    """Return the pids whose command line names the folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        if str(folder) in " ".join(process.info["cmdline"] or []) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process.pid)
    return found


def _supervisors(folder: Path) -> list[int]:
    return [pid for pid in _mentioning(folder) if "supervisor.supervisord" in psutil.Process(pid).cmdline()]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder with an odd name and an odd path to Python in it, for all tests here, so that its database is made once."""
    made = Path(tempfile.mkdtemp(prefix=ODD, dir=os.environ["TAPECHECK_TESTS_SANDBOXES"])).resolve()
    (made / "python").symlink_to(sys.prefix)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A home of its own for the sandbox, stopped afterwards without a trace."""
    monkeypatch.setenv("TAPECHECK_SANDBOX_HOME", str(folder))
    monkeypatch.delenv("DATABASE_URL", raising=False)
    yield Home()
    supervision.down()
    assert _mentioning(folder) == []


def test_an_interrupted_up_can_be_repeated_and_two_at_once_start_one(home: Home) -> None:
    """Killed before or after it has started anything, or interrupted, up is no hindrance to the next; Ctrl-C cleans up by itself.

    Of two ups at once one starts and the other finds it; another profile is refused; down leaves no process, socket or state.
    """
    for step, how, leaves in (
        ("_launch", signal.SIGKILL, False),
        ("_all_healthy", signal.SIGINT, False),
        ("_all_healthy", signal.SIGKILL, True),
    ):
        python, option, _ = command(home.folder)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        with subprocess.Popen([python, option, HALTED.format(step)], **pipes) as process:
            assert process.stdout and process.stdout.readline() == b"there\n"
            assert (_supervisors(home.folder) != []) == (step == "_all_healthy")
            process.send_signal(how)
            assert process.wait(60) == -how
        assert (_mentioning(home.folder) != []) == leaves
    few = partial(resource.setrlimit, resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    processes = [subprocess.Popen(command(home.folder), stderr=subprocess.PIPE, preexec_fn=few) for _ in range(2)]
    assert [process.communicate(timeout=200)[1] for process in processes] == [b"", b""]
    assert len(_supervisors(home.folder)) == 1
    state = supervision.up(profile=SMALL)
    assert supervision.up() == state
    assert state.database_url and "passfile" in state.database_url
    with pytest.raises(SandboxError, match="down"):
        supervision.up(profile=Profile(symbols=("AAPL",)))
    status = supervision.status()
    assert status and all(process.healthy and process.pid for process in status.processes)
    if sys.platform == "linux":
        own = [one.pid for one in status.processes if one.name != "database"]  # as root the database is another user's
        assert all(psutil.Process(pid).rlimit(psutil.RLIMIT_NOFILE)[0] >= 1024 for pid in own)
    supervision.wait_filled(timeout_s=200)
    with pytest.raises(SandboxError, match="NVDA"):
        supervision.wait_filled(["NVDA"], timeout_s=0.1)
    assert supervision.down() is True
    assert (_mentioning(home.folder), home.socket.exists(), home.state.exists()) == ([], False, False)
    assert (supervision.down(), supervision.status()) == (False, None)


def test_a_killed_supervisor_leaves_nothing_in_the_way(home: Home) -> None:
    """After SIGKILL of supervisord the next up takes the data over, and down ends what is left, frozen or not.

    Up keeps the ports of the last time but for one that someone took; another profile wipes the data and fills it again.
    """
    first = supervision.up(profile=SMALL)
    supervision.wait_filled(timeout_s=200)
    os.kill(first.supervisor_pid, signal.SIGKILL)
    assert supervision.status() is None
    second = supervision.up()
    assert second.supervisor_pid != first.supervisor_pid
    status = supervision.status()
    assert status and (status.jobs_done, status.jobs_total) == (1, 1)
    supervision.down()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", second.processes["api"].port or 0))
        other.listen()
        third = supervision.up(profile=SMALL.model_copy(update={"symbols": ("EEM",)}))
    assert third.base_url != second.base_url and third.upstream_url == second.upstream_url
    supervision.wait_filled(["EEM"], timeout_s=200)
    status = supervision.status()
    assert status and status.jobs_total == 1
    os.kill(third.supervisor_pid, signal.SIGKILL)
    for process in status.processes:
        if process.name in ("api", "database") and process.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGSTOP)
    supervision.down()
    assert _mentioning(home.folder) == []


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:hunter2@db.example.com/x",
        "host=127.0.0.1 hostaddr=10.0.0.1 password=hunter2",
        "service=production",
        "postgresql://[hunter2",
    ],
)
def test_a_database_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """A DATABASE_URL that may lead to another machine is refused, and the message does not repeat it."""
    monkeypatch.setenv("DATABASE_URL", url)
    with pytest.raises(SandboxError, match="DATABASE_URL") as caught:
        database.external_url()
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["postgresql://u@127.0.0.1:5433/x", "postgresql://u@[::1]/x", "host=/run/postgresql", "postgresql://localhost"]
)
def test_a_local_database_is_accepted(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Loopback and socket files are this machine."""
    for name in ("PGHOST", "PGHOSTADDR", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATABASE_URL", url)
    assert database.external_url() == url


def test_homes_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is too long, a file, or with what initdb's shell would read is refused with the variable to set; too few files too."""
    (tmp_path / "file").touch()
    for bad in (tmp_path / ("x" * 100), tmp_path / "file", *(tmp_path / f"a{odd}b" for odd in '"$`\\\n')):
        with pytest.raises(SandboxError, match="TAPECHECK_SANDBOX_HOME"):
            Home(bad).create()
    monkeypatch.setenv("TAPECHECK_SANDBOX_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(resource, "getrlimit", lambda what: (256, 256))
    with pytest.raises(ConfigError, match=r"ulimit -Hn: got 256 open files; allowed: 1,024 or more, .*: begin in a shell with"):
        supervision.up()


def test_a_machine_with_too_few_open_files_is_told_to_a_notebook_as_to_a_shell(tmp_path: Path) -> None:
    """The sandbox that a measurement starts is refused with the advice and the exit code of wrong configuration."""
    asked = (
        "import resource, sys\nresource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))\n"
        "from tapecheck.errors import TapecheckError\nfrom tapecheck.target.opening import start_sandbox\n"
        "try:\n    start_sandbox()\nexcept TapecheckError as error:\n    print(error)\n    sys.exit(error.exit_code)"
    )
    environment = os.environ | {"TAPECHECK_SANDBOX_HOME": str(tmp_path / "home")}
    done = subprocess.run([sys.executable, "-c", asked], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == ConfigError.exit_code
    assert done.stdout.startswith("the sandbox did not start: machine: ulimit -Hn: got 256 open files; allowed: 1,024 or more, ")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_another_users_home_is_refused(tmp_path: Path) -> None:
    """A folder that belongs to someone else is not touched."""
    os.chown(tmp_path, 12345, 12345)
    with pytest.raises(SandboxError, match="another user"):
        Home(tmp_path).create()


@pytest.mark.parametrize(("symbol", "tier"), [("SPY", 0), ("ETH", 0), ("AAPL", 1), ("ASML", 1), ("JPM", 2), ("XRP", 2), ("NEW", 2)])
def test_tiers(symbol: str, tier: int) -> None:
    """Critical, standard, and low for all others."""
    assert tier_of(symbol) == tier


def test_the_state_is_where_readers_look(home: Home) -> None:
    """The state file is the one that a target of kind sandbox reads."""
    assert SandboxState.file() == home.state
