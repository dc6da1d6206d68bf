"""The sandbox's processes as the system sees them: how to find, ask and end them. It starts none."""

import contextlib
import http.client
import json
import os
import socket
import time
import xmlrpc.client
from typing import Any

import psutil
import psycopg

from tapecheck.errors import SandboxError
from tapecheck.sandbox import database
from tapecheck.sandbox.profile import Home

STOP_S = 40.0


def supervised(home: Home, name: str) -> tuple[int, float] | None:
    """Return pid and uptime of a program in seconds, or None while it is down."""
    info = _call(home, "getProcessInfo", name if name == "database" else f"services:{name}")
    return (info["pid"], float(info["now"] - info["start"])) if info and info["pid"] else None


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
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=3)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return json.loads(answer.read()) if answer.status == 200 else None
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()


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


def _ours(home: Home) -> list[psutil.Process]:
    """Return the processes of this home by their command lines, supervisord first, the database's not."""
    supervisors, services = [], []
    for process in psutil.process_iter(["cmdline", "uids"]):
        words, uids = process.info["cmdline"] or [], process.info["uids"]
        if not words or not uids or uids.real != os.getuid():
            continue
        if "supervisor.supervisord" in words and words[-1] == str(home.conf):
            supervisors.append(process)
        elif "tapecheck.sandbox.service" in words and words[-1] == str(home.folder):
            services.append(process)
    return supervisors + services


def _wake(processes: list[psutil.Process]) -> None:
    """Let frozen processes and their children go on, so that they hear the signal to stop."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            for one in (process, *process.children(recursive=True)):
                if one.status() == psutil.STATUS_STOPPED:
                    one.resume()


def _wait(processes: list[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Wait until processes ended, noticed by their parents or not; return those that did not."""
    until_s, alive = time.monotonic() + timeout_s, processes
    while (alive := [process for process in alive if _runs(process)]) and time.monotonic() < until_s:
        time.sleep(0.02)
    return alive


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def stop(home: Home) -> bool:
    """Stop everything of this home, supervisord politely, so that it stops its programs; leave neither socket nor state.

    Raises:
        SandboxError: a process did not stop.
    """
    home.state.unlink(missing_ok=True)  # first: who measures it must know why it answers no more
    found = _ours(home)
    _wake(found)
    supervisors = [process for process in found if "supervisor.supervisord" in process.info["cmdline"]]
    for process in supervisors:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _wait(supervisors, STOP_S)
    rest = _ours(home)
    for process in rest:
        with contextlib.suppress(psutil.Error):
            process.kill()
    alive = _wait(rest, 5)
    if alive:
        raise SandboxError(f"did not stop: {', '.join(str(process.pid) for process in alive)}")
    database.stop_orphan(home)
    for file in (home.socket, home.stays, home.folder / "supervisord.pid"):
        file.unlink(missing_ok=True)
    return bool(found)
