"""Opens a target: reads its file and, for the sandbox, finds the running one or starts it. It sends no load."""

import datetime as dt
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tapecheck import config, lockfiles
from tapecheck.config import Model
from tapecheck.errors import ConfigError, SandboxError
from tapecheck.target.file import (
    BackfillStart,
    BackfillTarget,
    DatabaseSessions,
    ObservedBackfill,
    ProcessSelector,
    RestorableDatabase,
    Secret,
    Target,
    Url,
)

_SANDBOX = (sys.executable, "-P", "-m", "tapecheck", "sandbox")
_use: Path | None = None  # the lock file that says that this process uses the sandbox
_supervisor: psutil.Process | None = None  # of the sandbox that this process opened last
_hold: Path | None = None  # the one that says that this process fills history first


class SandboxState(Model):
    """Where a running sandbox can be reached; `sandbox up` writes it, `open_target` reads it."""

    base_url: Url
    upstream_url: Url
    upstream_key_file: str
    database_url: str | None  # without a password: libpq reads it from the passfile that the URL names
    supervisor_pid: int
    processes: dict[str, ProcessSelector]
    database: RestorableDatabase | None = None  # None where the database is not the sandbox's own

    @staticmethod
    def file() -> Path:
        """Return where the state of the running sandbox is written."""
        return config.sandbox_home() / "state.json"


def open_target(path: str | Path, *, needs_bars: bool = True) -> Target:
    """Return the target of a file; a sandbox's with `base_url`, `processes` and `backfill` filled in.

    A sandbox that is not running is started and filled. It runs until the last process that opened it has ended, or, where
    `sandbox up` was called, until `sandbox down`.

    Args:
        needs_bars: whether its own tables must be filled. A sandbox that was never filled waits otherwise until `let_fill`, so that
            history that is backfilled first is not fetched a second time beside it; who is not given the target holds up nobody.
    """
    target = config.read(Target, path)
    if target.kind == "external":
        return target
    try:
        state = start_sandbox(needs_bars=needs_bars)
    except BaseException:
        let_fill()
        raise
    found = {"base_url": state.base_url, "backfill": _backfill(state), "database": state.database}
    absent = {key: value for key, value in found.items() if getattr(target, key) is None}
    return target.model_copy(update={**absent, "processes": {**state.processes, **target.processes}})


def is_sandbox_database(database: RestorableDatabase | None) -> bool:
    """Tell whether that is how the running sandbox restores its own database, and not what a target file says."""
    with suppress(OSError, ValueError):
        return database is not None and SandboxState.model_validate_json(SandboxState.file().read_bytes()).database == database
    return False


def _backfill(state: SandboxState) -> BackfillTarget:
    """Return the sandbox's upstream and database; without a URL of its own the sandbox uses DATABASE_URL, as is the default."""
    database = {"database_url": state.database_url} if state.database_url else {}
    return BackfillTarget(source_url=state.upstream_url, api_key=Secret(file=state.upstream_key_file), observe=_naive(state), **database)


def _naive(state: SandboxState) -> ObservedBackfill | None:
    """Return how the sandbox's example of a slow backfill is started and watched."""
    if state.database_url is None:
        return None
    last = dt.datetime.now(dt.UTC).date()
    asked = {
        "--database-url": state.database_url,
        "--key-file": state.upstream_key_file,
        "--first": last - dt.timedelta(days=60),
        "--last": last,
    }
    arguments = (str(word) for item in asked.items() for word in item)
    return ObservedBackfill(
        start=BackfillStart(command=(sys.executable, "-P", "-m", "tapecheck.sandbox.naive_backfill", *arguments)),
        vendor_url_env="POLYGON_BASE_URL",
        rewrite_next_url=True,
        database=DatabaseSessions(application_name="naive backfill"),
        tables=("naive.bars",),
    )


def at_distance(target: Target, distance_ms: int) -> Target:
    """Return an opened target whose vendor is so far away; an external one's is where it is, so that it stays what it is."""
    if target.kind == "external" or target.backfill is None or distance_ms == 0:
        return target
    distant = f"{target.backfill.source_url}/distant/{distance_ms}"
    return target.model_copy(update={"backfill": target.backfill.model_copy(update={"source_url": distant})})


def let_fill() -> None:
    """Let a sandbox that waits for this process fill itself."""
    global _hold
    if _hold is not None:
        lockfiles.release(_hold)
    _hold = None


def start_sandbox(*, needs_bars: bool = True) -> SandboxState:
    """Return the state of a running sandbox, which runs at least until this process ends; for `needs_bars` see `open_target`."""
    global _supervisor
    _use_sandbox(needs_bars=needs_bars)
    stderr = None if os.isatty(2) else subprocess.PIPE  # a kernel's would go to its log
    command = [*_SANDBOX, "up", "--filled" if needs_bars else "--resting", "--json", "--until-unused"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, text=True, start_new_session=True
    ) as process:
        try:
            said, complaint = process.communicate()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            process.communicate()
            raise
    if process.returncode != 0:
        why = (complaint or "").strip().rpartition("error: ")[2] or "`python -m tapecheck sandbox up` says why"
        kind = ConfigError if process.returncode == ConfigError.exit_code else SandboxError
        raise kind(f"the sandbox did not start: {why}")
    state = SandboxState.model_validate_json(said)
    try:
        _supervisor = psutil.Process(state.supervisor_pid)
    except psutil.NoSuchProcess:
        raise SandboxError("the sandbox was stopped as soon as it ran; try again") from None
    return state


def sandbox_stopped() -> bool:
    """Tell whether the sandbox that this process opened last is gone, or about to go; another one may run in its place."""
    if _supervisor is None:
        return False
    try:
        is_there = json.loads(SandboxState.file().read_bytes())["supervisor_pid"] == _supervisor.pid
        return not is_there or not _supervisor.is_running() or _supervisor.status() == psutil.STATUS_ZOMBIE
    except (OSError, ValueError, psutil.NoSuchProcess):
        return True  # who stops it removes its state first


def _use_sandbox(*, needs_bars: bool = True) -> None:
    """Say that this process uses the sandbox, before it asks for it: who stops it, stops it before or sees this."""
    global _hold, _use
    home = config.sandbox_home()
    if needs_bars:
        let_fill()  # or it would wait for itself
    try:
        if not needs_bars and _hold is None:
            _hold = lockfiles.hold(config.sandbox_held(home))
        if _use is None or _use.parent.parent != home:
            _use = lockfiles.hold(config.sandbox_users(home))
    except OSError as error:
        raise SandboxError(f"{config.sandbox_home()} cannot be used ({error}); set TAPECHECK_SANDBOX_HOME to another folder") from None


@contextmanager
def sandbox_running() -> Iterator[SandboxState]:
    """Keep a filled sandbox running; stop it afterwards, unless others use it or `sandbox up` started it to stay."""
    with sandbox_used():
        yield start_sandbox()


@contextmanager
def sandbox_used() -> Iterator[None]:
    """Keep a sandbox that somebody opens meanwhile running; stop it afterwards as `sandbox_running` does."""
    global _use
    try:
        _use_sandbox()
        yield
    finally:
        if _use is not None:
            lockfiles.release(_use)
            _use = None
        if subprocess.run([*_SANDBOX, "down", "--unused"], stdin=subprocess.DEVNULL, check=False).returncode:
            raise SandboxError("the sandbox did not stop; `python -m tapecheck sandbox down` says why")
