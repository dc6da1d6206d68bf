"""Opens a target: reads its file and, for the sandbox, finds the running one or starts it. It sends no load."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tapecheck import config
from tapecheck.config import Model
from tapecheck.errors import SandboxError
from tapecheck.target_file import BackfillTarget, ProcessSelector, Secret, Target, Url

_SANDBOX = (sys.executable, "-m", "tapecheck", "sandbox")


class SandboxState(Model):
    """Where a running sandbox can be reached; `sandbox up` writes it, `open_target` reads it."""

    base_url: Url
    upstream_url: Url
    upstream_key_file: str
    scheduler_url: Url
    database_url: str | None  # without a password: libpq reads it from the passfile that the URL names
    supervisor_pid: int
    processes: dict[str, ProcessSelector]

    @staticmethod
    def file() -> Path:
        """Return where the state of the running sandbox is written."""
        return config.sandbox_home() / "state.json"


def open_target(path: str | Path) -> Target:
    """Return the target of a file; a sandbox's with `base_url`, `processes` and `backfill` filled in.

    A sandbox that is not running is started, filled, and stopped again when this process ends; one that runs already
    is used and left running.

    Raises:
        ConfigError: the file is wrong.
        SandboxError: the sandbox did not start.
    """
    target = config.read(Target, path)
    if target.kind == "external":
        return target
    state, started = start_sandbox()
    if started:
        _stop_sandbox_after_this_process()
    found = {"base_url": state.base_url, "backfill": _backfill(state)}
    absent = {key: value for key, value in found.items() if getattr(target, key) is None}
    return target.model_copy(update={**absent, "processes": {**state.processes, **target.processes}})


def _backfill(state: SandboxState) -> BackfillTarget:
    """Return the sandbox's upstream and database; without a URL of its own the sandbox uses DATABASE_URL, as is the default."""
    database = {"database_url": state.database_url} if state.database_url else {}
    return BackfillTarget(source_url=state.upstream_url, api_key=Secret(file=state.upstream_key_file), **database)


def at_distance(target: Target, distance_ms: int) -> Target:
    """Return an opened target whose vendor is so far away; an external one's is where it is, so that it stays what it is."""
    if target.kind == "external" or target.backfill is None or distance_ms == 0:
        return target
    distant = f"{target.backfill.source_url}/distant/{distance_ms}"
    return target.model_copy(update={"backfill": target.backfill.model_copy(update={"source_url": distant})})


def start_sandbox() -> tuple[SandboxState, bool]:
    """Return the state of a running, filled sandbox, and whether it had to be started for that.

    Raises:
        SandboxError: it did not start, or did not fill.
    """
    was_running = SandboxState.file().exists()
    command = [*_SANDBOX, "up", "--filled", "--json"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        try:
            said, _ = process.communicate()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            process.wait()
            if not was_running:
                subprocess.run([*_SANDBOX, "down", "--quiet"], stdin=subprocess.DEVNULL, check=False)
            raise
    if process.returncode != 0:
        raise SandboxError("the sandbox did not start; `python -m tapecheck sandbox up` says why")
    answer = json.loads(said)
    return SandboxState.model_validate(answer["state"]), bool(answer["started"])


@contextmanager
def sandbox_running() -> Iterator[SandboxState]:
    """Keep a filled sandbox running; stop it afterwards if it was started for this.

    Raises:
        SandboxError: it did not start, or did not stop.
    """
    state, started = start_sandbox()
    try:
        yield state
    finally:
        if started and subprocess.run([*_SANDBOX, "down", "--quiet"], stdin=subprocess.DEVNULL, check=False).returncode:
            raise SandboxError("the sandbox did not stop; `python -m tapecheck sandbox down` says why")


def _stop_sandbox_after_this_process() -> None:
    """Leave a process behind that stops the sandbox when this one has ended, however it ends: a kernel runs no exit handlers."""
    null = subprocess.DEVNULL
    command = [*_SANDBOX, "down", "--quiet", "--after", str(os.getpid())]
    subprocess.Popen(command, stdin=null, stdout=null, stderr=null, start_new_session=True)
