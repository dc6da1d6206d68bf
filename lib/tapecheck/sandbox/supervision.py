"""Starts, finds and stops the sandbox: `up`, `status`, `down`, `wait_filled`. It serves nothing itself."""

import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tapecheck import lockfiles, resources
from tapecheck.errors import SandboxError
from tapecheck.progress import Report
from tapecheck.sandbox import database, processes
from tapecheck.sandbox.processes import ask, is_healthy, is_running, stop, supervised
from tapecheck.sandbox.profile import PROCESSES, SERVER_USER, Home, Ports, Profile, environment, write_private
from tapecheck.target.file import ProcessSelector
from tapecheck.target.opening import SandboxState

START_S = 45.0
FILES = 1024  # that each process may have open, which supervisord demands
FILL_S = 180.0
HELD_S = 3600.0  # for a backfill that is measured first
STATUS, SCHEDULER = "/api/v1/status", "/api/v1/admin/scheduler-health"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStatus:
    """One process; `pid` is None while it is down, or where DATABASE_URL's server is not ours."""

    name: str
    pid: int | None
    port: int
    healthy: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxStatus:
    """A running sandbox: its processes, and how many of its jobs hold their whole history."""

    state: SandboxState
    processes: tuple[ProcessStatus, ...]
    jobs_done: int
    jobs_total: int


def up(*, profile: Profile | None = None, until_unused: bool = False, on_progress: Callable[[str], None] = lambda _: None) -> SandboxState:
    """Start the sandbox, or find the running one; return once every process answers its health check.

    It stays until `down`, except where every `up` since it was started said `until_unused`: then until its last user is gone.

    Args:
        profile: what to hold; None for what the home already holds, else the default. Another profile than
            before wipes the data and fills it anew.
        on_progress: gets each step in a few words.
    """
    home = Home()
    home.create()
    database.external_url()
    with home.locked():
        before, running = Profile.of(home), _state(home)
        wanted = profile or before or Profile()
        if running is not None and wanted != before:
            raise SandboxError("the sandbox runs with another profile; stop it first: python -m tapecheck sandbox down")
        if running is None:
            resources.allow_files(FILES, "for each process of the sandbox")
            home.stays.unlink(missing_ok=True)
        if until_unused and not home.stays.exists():
            processes.leave_reaper(home)  # before the start, so that a user that is killed meanwhile is noticed
        if running is None:
            try:
                running = _started(home, wanted, is_other=home.profile.exists() and wanted != before, on_progress=on_progress)
            except BaseException:
                stop(home)
                raise
        if not until_unused:
            home.stays.touch()
        return running


def status() -> SandboxStatus | None:
    """Return what runs, or None."""
    home = Home()
    state = _state(home)
    if state is None:
        return None
    ports = {name: state.processes[name].port or 0 for name in PROCESSES}
    held = ask(ports["api"], STATUS) or {"series": []}
    (done, total), _ = _filled(held["series"], None)
    found = tuple(_process(home, name, port) for name, port in ports.items())
    return SandboxStatus(state=state, processes=found, jobs_done=done, jobs_total=total)


def down(*, force: bool = False) -> bool:
    """Stop the sandbox and whatever a killed supervisor left; the data stays. Return whether anything ran.

    Args:
        force: stop it although other processes use it.
    """
    home = Home()
    if not home.folder.is_dir():
        return False
    home.create()
    with home.locked():
        others = [user for user in processes.users(home) if user.pid != os.getpid()]
        if others and not force and _state(home) is not None:
            using = ", ".join(map(str, others))
            raise SandboxError(f"the sandbox is in use by {using}; wait until they end, or stop it under them: sandbox down --force")
        return stop(home)


def down_unused() -> None:
    """Stop the sandbox, unless a process uses it or `sandbox up` started it to stay."""
    home = Home()
    if home.folder.is_dir():
        with home.locked():
            processes.stop_unused(home)


def wait_filled(
    symbols: Collection[str] | None = None, *, or_held: bool = False, timeout_s: float = FILL_S, on_progress: Report = lambda *_: None
) -> None:
    """Wait until symbols hold every timeframe of the profile and the scheduler rests, so that it disturbs no measurement.

    Args:
        symbols: None for all.
        or_held: return too when it rests because it lets a measured backfill go first, and holds nothing yet.
        timeout_s: the longest wait, without the time for which it lets a measured backfill go first.
        on_progress: gets how many series are done, of how many, and who is waited for; nothing where there is nothing to wait for.
    """
    home = Home()
    state = _state(home)
    if state is None:
        raise SandboxError("the sandbox does not run; start it: python -m tapecheck sandbox up")
    spent_s, missing, note, port = {False: 0.0, True: 0.0}, ["everything, the api does not answer"], "", state.processes["api"].port or 0
    had_to_wait = False
    while spent_s[False] < timeout_s and spent_s[True] < HELD_S:
        began_s = time.monotonic()
        held, scheduler = ask(port, STATUS), ask(port, SCHEDULER) or {}
        is_held = scheduler.get("held", False)
        note = f"waits for the backfill of {_first(home)}" if is_held else ""
        if held is not None:
            done, missing = _filled(held["series"], symbols)
            is_resting = scheduler.get("due") == 0 and not scheduler["in_flight"]
            is_over = is_resting and is_held == bool(missing) and (or_held or not missing)
            if had_to_wait or not is_over:
                on_progress(*done, note or ("" if missing or is_over else "the scheduler refreshes them"))
            if is_over:
                return
            had_to_wait = True
            missing = missing or ["the scheduler is still refreshing"]
        time.sleep(0.2)
        spent_s[is_held] += time.monotonic() - began_s
    if note:
        raise SandboxError(f"not filled within {HELD_S:g} s: the sandbox {note}; wait until that ends, or end it")
    raise SandboxError(f"not filled within {timeout_s:g} s: {', '.join(missing[:10])}{' …' if len(missing) > 10 else ''}")


def _filled(held: Sequence[Mapping[str, Any]], symbols: Collection[str] | None) -> tuple[tuple[int, int], list[str]]:
    """Return how many of the wanted series are done and how many there are, and what is missing, with its error."""
    series = [one for one in held if symbols is None or one["symbol"] in symbols]
    missing = [f"{one['symbol']} {one['timeframe']} {one['error'] or ''}".strip() for one in series if one["refreshed_at"] is None]
    unknown = set(symbols or ()) - {one["symbol"] for one in series}
    return (len(series) - len(missing), len(series)), missing + [f"{symbol}, which the profile lacks" for symbol in unknown]


def _first(home: Home) -> str:
    """Return whom the sandbox lets go first."""
    return ", ".join(str(one) for one in lockfiles.holders(home.held) if one.is_there) or "a process that has just ended"


def _state(home: Home) -> SandboxState | None:
    try:
        state = home.state.read_bytes()
    except FileNotFoundError:
        return None
    return SandboxState.model_validate_json(state) if is_running(home) else None


def _process(home: Home, name: str, port: int) -> ProcessStatus:
    is_ours = name != "database" or database.external_url() is None
    pid = supervised(home, name) if is_ours else None
    return ProcessStatus(name=name, pid=pid, port=port, healthy=is_healthy(home, name, port))


# ---- starting ----


def _started(home: Home, profile: Profile, *, is_other: bool, on_progress: Callable[[str], None]) -> SandboxState:
    stop(home)
    if is_other:
        on_progress("another profile: removing the old data")
        database.wipe(home)
    if database.external_url() is None:
        on_progress("preparing the database")
        database.initialize(home)
    write_private(home.profile, profile.model_dump_json())
    home.secret()
    on_progress("starting " + ", ".join(PROCESSES))
    for attempt in range(3):
        ports = _choose_ports(home, is_retry=attempt > 0)
        _launch(home, ports)
        if _all_healthy(home, ports):
            return _written(home, ports)
        if not _port_was_taken(home):
            break
        stop(home)
    failing = [name for name, port in _ports_by_name(ports).items() if not is_healthy(home, name, port)] or ["supervisord"]
    tail = "\n".join(_log(home, failing[0])[-12:])
    raise SandboxError(f"the sandbox did not start: no health from {', '.join(failing)}; the end of {failing[0]}.log:\n{tail}")


def _free_port(preferred: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", preferred))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _choose_ports(home: Home, *, is_retry: bool) -> Ports:
    """Choose free ports, those of the last time where they still are, never one twice, and note them."""
    before = Ports.of(home).model_dump() if home.ports.exists() and not is_retry else {}
    chosen: dict[str, int] = {}
    for name in PROCESSES:
        port = _free_port(before.get(name, 0))
        while port in chosen.values():
            port = _free_port(0)
        chosen[name] = port
    ports = Ports(**chosen)
    write_private(home.ports, ports.model_dump_json())
    return ports


def _ports_by_name(ports: Ports) -> dict[str, int]:
    external = {} if database.external_url() is None else {"database": database.external_port()}
    return ports.model_dump() | external


def _commands(home: Home, ports: Ports) -> dict[str, str]:
    """Return the command line of each program that supervisord is to run, by the variable that it is in."""
    commands = {name: [sys.executable, "-P", "-m", "tapecheck.sandbox.service", name, str(home.folder)] for name in PROCESSES[1:]}
    if database.external_url() is None:
        commands["database"] = database.command(home, ports.database)
    return {_variable(name): shlex.join(words) for name, words in commands.items()}


def _variable(name: str) -> str:
    return f"TAPECHECK_{name.upper()}"


def _program(name: str, *more: str) -> list[str]:
    """Return one program of supervisord's configuration: restarted whenever it ends, however often."""
    restarted = ("autorestart=true", "startsecs=1", "startretries=1000000")
    logged = ("redirect_stderr=true", f"stdout_logfile=logs/{name}.log", "stdout_logfile_maxbytes=5MB", "stdout_logfile_backups=1")
    return [f"[program:{name}]", f"command=%(ENV_{_variable(name)})s", *restarted, *logged, *more]


def _conf() -> str:
    """Return supervisord's configuration, in which no path stands: it cuts values at ` #` and ` ;`, and expands % once or twice.

    Files are named relative to its folder, the home, and commands by variables of its environment.
    """
    lines = ["[supervisord]", "identifier=tapecheck", "logfile=logs/supervisord.log", "logfile_maxbytes=2MB", "logfile_backups=1"]
    lines += ["pidfile=supervisord.pid", "childlogdir=logs", "umask=077"]
    lines += ["user=root"] if SERVER_USER else []
    lines += ["[unix_http_server]", "file=ctl.sock", "chmod=0700"]
    lines += ["[rpcinterface:supervisor]", "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface"]
    if database.external_url() is None:
        user = [f"user={SERVER_USER}"] if SERVER_USER else []
        lines += _program("database", "stopsignal=INT", "stopwaitsecs=20", "priority=1", *user)
    for name in PROCESSES[1:]:
        lines += _program(name, "stopsignal=TERM", "stopwaitsecs=5", "killasgroup=true")
    lines += ["[group:services]", f"programs={','.join(PROCESSES[1:])}", "priority=2"]  # stopped together, before the database
    return "\n".join(lines) + "\n"


def _launch(home: Home, ports: Ports) -> None:
    """Start supervisord, which leaves our session and so outlives us, terminal and Ctrl-C included."""
    write_private(home.conf, _conf())
    for log in home.logs.glob("*.log"):
        log.unlink()
    command = [sys.executable, "-P", "-m", "supervisor.supervisord", "-c", str(home.conf)]
    own = environment(**_commands(home, ports))
    try:
        done = subprocess.run(
            command, cwd=home.folder, env=own, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=START_S
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise SandboxError(f"supervisord did not start: {error}") from None
    if done.returncode:
        raise SandboxError(f"supervisord did not start: {(done.stderr or done.stdout).strip()[-500:]}")


def _all_healthy(home: Home, ports: Ports) -> bool:
    until_s, waiting = time.monotonic() + START_S, _ports_by_name(ports)
    while time.monotonic() < until_s and not _port_was_taken(home):
        waiting = {name: port for name, port in waiting.items() if not is_healthy(home, name, port)}
        if not waiting:
            return is_running(home)
        time.sleep(0.1)
    return False


def _log(home: Home, name: str) -> list[str]:
    file = home.logs / f"{name}.log"
    return file.read_text(errors="replace").splitlines() if file.exists() else []


def _port_was_taken(home: Home) -> bool:
    return any("address already in use" in line.lower() for name in PROCESSES for line in _log(home, name)[-12:])


def _written(home: Home, ports: Ports) -> SandboxState:
    state = SandboxState(
        base_url=f"http://127.0.0.1:{ports.api}",
        upstream_url=f"http://127.0.0.1:{ports.upstream}",
        upstream_key_file=str(home.key),
        database_url=None if database.external_url() else home.database_url(),
        supervisor_pid=int((home.folder / "supervisord.pid").read_text()),
        processes={name: ProcessSelector(port=port) for name, port in _ports_by_name(ports).items()},
        database=None if database.external_url() else database.restorable(home),
    )
    write_private(home.state, state.model_dump_json())
    return state
