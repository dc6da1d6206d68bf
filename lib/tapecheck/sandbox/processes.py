"""The sandbox's processes as the system sees them: how to find, ask and end them, and who uses them.

`python -m tapecheck.sandbox.processes` is the reaper, one process a home, left behind by `up`: it stops the sandbox when its last user
is gone.
"""

import contextlib
import fcntl
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import xmlrpc.client
from typing import Any

import psutil
import psycopg

from tapecheck import lockfiles
from tapecheck.errors import SandboxError
from tapecheck.sandbox import database
from tapecheck.sandbox.profile import Home, environment, open_private

STOP_S = 40.0


def supervised(home: Home, name: str) -> int | None:
    """Return the pid of a program, or None while it is down."""
    info = _call(home, "getProcessInfo", name if name == "database" else f"services:{name}")
    return info["pid"] or None if info else None


def is_running(home: Home) -> bool:
    """Return whether this home's supervisord answers on its socket."""
    return _call(home, "getState") is not None


def _call(home: Home, method: str, *arguments: Any) -> Any:
    """Call a method of supervisord's control interface; None where it does not answer."""
    if not home.socket.exists():
        return None
    body = xmlrpc.client.dumps(arguments, f"supervisor.{method}")
    connection = http.client.HTTPConnection("localhost", timeout=5)
    try:
        with socket.socket(socket.AF_UNIX) as connection.sock:  # supervisor's own transport has no timeout
            connection.sock.settimeout(5)
            connection.sock.connect(str(home.socket))
            connection.request("POST", "/RPC2", body, {"Content-Type": "text/xml"})
            return xmlrpc.client.loads(connection.getresponse().read())[0][0]
    except (OSError, http.client.HTTPException, xmlrpc.client.Error):
        return None


def ask(port: int, path: str) -> dict[str, Any] | None:
    """Return the JSON that a process of ours answers, or None; no proxy can come between."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=3)) as connection:
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return dict(json.load(answer)) if answer.status == 200 else None
        except (OSError, http.client.HTTPException, ValueError):
            return None


def is_healthy(home: Home, name: str, port: int) -> bool:
    """Return whether a process answers its health check and, if it needs one, has its database."""
    if name == "database":
        try:
            with psycopg.connect(home.database_url(), connect_timeout=2) as connection:
                return connection.execute("SELECT 1").fetchone() == (1,)
        except psycopg.Error:
            return False
    answer = ask(port, "/health")
    return answer is not None and answer.get("database", "up") == "up"


def _ours(home: Home) -> tuple[list[psutil.Process], list[psutil.Process]]:
    """Return supervisord and the services of this home by their command lines; the database is no process of ours."""
    supervisors, services = [], []
    for process in psutil.process_iter(["cmdline", "uids"]):
        words, uids = process.info["cmdline"] or [], process.info["uids"]
        if not words or not uids or uids.real != os.getuid():
            continue
        if "supervisor.supervisord" in words and words[-1] == str(home.conf):
            supervisors.append(process)
        elif "tapecheck.sandbox.service" in words and words[-1] == str(home.folder):
            services.append(process)
    return supervisors, services


def _wait(processes: list[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Wait until processes ended, noticed by their parents or not, and return those that did not."""
    until_s = time.monotonic() + timeout_s
    while (alive := [one for one in processes if _runs(one)]) and time.monotonic() < until_s:
        time.sleep(0.02)
    return alive


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def stop(home: Home) -> bool:
    """Stop everything of this home, supervisord politely, so that it stops its programs; leave neither socket nor state."""
    home.state.unlink(missing_ok=True)  # first: who measures it must know why it answers no more
    supervisors, services = _ours(home)
    for process in (*supervisors, *services):
        database.wake(process)
    for process in supervisors:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _wait(supervisors, STOP_S)
    rest = [process for some in _ours(home) for process in some]
    for process in rest:
        with contextlib.suppress(psutil.Error):
            process.kill()
    if alive := _wait(rest, 5):
        raise SandboxError(f"did not stop: {', '.join(str(process.pid) for process in alive)}")
    database.stop_orphan(home)
    for file in (home.socket, home.stays, home.folder / "supervisord.pid"):
        file.unlink(missing_ok=True)
    for leftover in home.folder.glob(".*"):  # of a start that was killed while it wrote something
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    return bool(supervisors or services)


# ---- users ----


def users(home: Home) -> list[lockfiles.Holder]:
    """Return the processes that use the sandbox; one that has ended, however it ended, no longer counts."""
    return [one for one in lockfiles.holders(home.users) if one.is_there]


def stop_unused(home: Home) -> bool:
    """Stop the sandbox unless a process uses it or `sandbox up` started it to stay; the caller holds the home's lock.

    Return whether nobody uses it.
    """
    if users(home):
        return False
    lockfiles.sweep(home.users)
    if not home.stays.exists():
        stop(home)
    return True


def leave_reaper(home: Home) -> None:
    """Leave a reaper behind, unless one waits already; the caller holds the home's lock."""
    with open_private(home.reaper) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
    null, command = subprocess.DEVNULL, [sys.executable, "-P", "-m", "tapecheck.sandbox.processes"]
    own = environment(TAPECHECK_SANDBOX_HOME=str(home.folder))
    subprocess.Popen(command, cwd=home.folder, env=own, stdin=null, stdout=null, stderr=null, start_new_session=True)


def reap(home: Home) -> None:
    """Wait until nobody uses the sandbox, then stop it. A user comes before it asks for the sandbox, so that none is overlooked."""
    with open_private(home.reaper) as only:
        try:
            fcntl.flock(only, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        while True:
            with home.locked():
                if stop_unused(home):
                    fcntl.flock(only, fcntl.LOCK_UN)  # before the home's lock: the next `up` must see that nobody waits
                    return
            for user in users(home):
                user.wait()


if __name__ == "__main__":
    reap(Home())
