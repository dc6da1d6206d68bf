"""What our drills do, as functions that Chaos Toolkit's `python` provider calls. Each acts on one target's local processes.

`configuration` is the experiment's: `processes` says which local processes the names stand for, as in a target file, and
`database_url` where its database is. So the files also run under plain `chaos run`.
"""

import contextlib
import datetime as dt
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psutil
import psycopg

from tapecheck.recovery.backups import Backups, plain
from tapecheck.recovery.recording import DEGRADED, FULL
from tapecheck.resources import command_line, locate, mentions
from tapecheck.target.file import ProcessSelector, RestorableDatabase

Configuration = Mapping[str, Any]
Done = dict[str, Any]
WAIT = "wait_for_recovery"  # in the configuration of a drill that we run: how its prober waits for a state


def kill(process: str, configuration: Configuration) -> Done:
    """Kill a process and its children with SIGKILL."""
    return _signalled(_victims(process, configuration), signal.SIGKILL)


def freeze(process: str, configuration: Configuration) -> Done:
    """Stop a process and its children with SIGSTOP: it hangs, its connections stay open."""
    return _signalled(_victims(process, configuration), signal.SIGSTOP)


def thaw(process: str, configuration: Configuration) -> Done:
    """Let a frozen process and its children go on; one that is not frozen, or not there, is left alone."""
    return _signalled([p for p in locate(_selector(process, configuration)) if _is_frozen(p)], signal.SIGCONT)


def alive(process: str, within_s: float, configuration: Configuration) -> Done:
    """Wait until a process is there again; it is an error where it is not, in time."""
    until_s = time.monotonic() + within_s
    while time.monotonic() < until_s:
        if found := locate(_selector(process, configuration)):
            return {"pids": [p.pid for p in found]}
        time.sleep(0.05)
    raise RuntimeError(f"{process} is not there within {within_s:g} s")


def terminate_connections(configuration: Configuration) -> Done:
    """End every client's connection to the target's database, and to no other of that server; where there was none nothing was done."""
    if not (url := configuration.get("database_url")):  # libpq would take "" for any database that it finds
        raise RuntimeError("configuration.database_url names no database; nothing was ended")
    others = "FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
    with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
        at_ns = time.monotonic_ns()
        row = connection.execute(f"SELECT count(pg_terminate_backend(pid)) {others}").fetchone()
    if not row or not row[0]:
        raise RuntimeError("nobody was connected to the database, so that nothing was ended")
    return {"at_ns": at_ns, "ended": row[0]}


def back_up(configuration: Configuration) -> Done:
    """Make a backup of the target's database by its own command."""
    name, noted = _backups(configuration).back_up()
    at, saved = noted.at.isoformat(), plain(noted.tables)
    return {"restore": {"made": name, "backup": name, "backup_at": at, "saved": saved, "exact": noted.exact}}


def destroy_database(configuration: Configuration) -> Done:
    """Drop the target's database, if its newest backup can be relied on; else it is an error, and nothing was touched."""
    backup, at_ns, before = _backups(configuration).destroy()
    at, noted = dt.datetime.now(dt.UTC) - dt.timedelta(microseconds=(time.monotonic_ns() - at_ns) / 1e3), backup.manifest
    known = {"saved": plain(noted.tables), "exact": noted.exact} if noted else {}
    known |= {"backup": backup.name, "backup_at": backup.at.isoformat(), "backup_bytes": sum(backup.files.values()), "noted": bool(noted)}
    return {"at_ns": at_ns, "restore": known | {"destroyed_at": at.isoformat(), "before": plain(before)}}


def restore_database(configuration: Configuration) -> Done:
    """Restore the database that was dropped and give it its name again; where none is missing nothing is done."""
    done = _backups(configuration).restore()
    return {"at_ns": done["began_ns"], "restore": done} if done else {"missing": "nothing"}


def _backups(configuration: Configuration) -> Backups:
    if not (url := configuration.get("database_url")) or not (given := configuration.get("database")):
        raise RuntimeError("configuration.database_url or configuration.database names no database; nothing was touched")
    return Backups(commands=RestorableDatabase.model_validate(given), url=url)


def full_recovery(configuration: Configuration, within_s: float = 30.0) -> bool:
    """Wait until the target has recovered in full; without our prober, which alone can tell, for nothing."""
    return _recovered(FULL, configuration, within_s)


def degraded_recovery(configuration: Configuration, within_s: float = 30.0) -> bool:
    """Wait until the target serves again, if only from a fallback; see `full_recovery`."""
    return _recovered(DEGRADED, configuration, within_s)


whole, served = full_recovery, degraded_recovery  # their names until 0.1, which drills of users have


def _recovered(least: int, configuration: Configuration, within_s: float) -> bool:
    wait: Callable[[int, float], bool] | None = configuration.get(WAIT)
    return wait(least, within_s) if wait else True


def unfit(selector: ProcessSelector, found: Sequence[psutil.Process]) -> str:
    """Return in words why a drill must not break what a selector names now, or nothing: no process, or several without `all: true`."""
    if not found:
        others = "; ".join(map(command_line, mentions(selector)))
        named = f"; it is only an argument of {others}" if others else ""
        return f"no process of this machine (those that run the drill never count){named}"
    return "" if len(found) == 1 or selector.all else f"{len(found)} processes ({'; '.join(map(command_line, found))})"


def _selector(process: str, configuration: Configuration) -> ProcessSelector:
    named = configuration.get("processes", {})
    if process not in named:
        allowed = f"write {{{process}: {{port: 8000}}}}"
        raise RuntimeError(f"configuration.processes names {', '.join(named) or 'nothing'}, not {process}; {allowed}")
    return ProcessSelector.model_validate(named[process])


def _victims(process: str, configuration: Configuration) -> list[psutil.Process]:
    """Return the processes of a name as they are now; there must be one, or the selector says `all: true`."""
    selector = _selector(process, configuration)
    found = locate(selector)
    if why := unfit(selector, found):
        raise RuntimeError(f"{process} ({configuration['processes'][process]}) names {why}; nothing was touched")
    return found


def _is_frozen(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return any(one.status() == psutil.STATUS_STOPPED for one in (process, *_children(process)))
    return False


def _children(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.children(recursive=True)
    return []


def _signalled(parents: Sequence[psutil.Process], number: signal.Signals) -> Done:
    """Send a signal to processes and their children: of a killed one as they were before, of a stopped one as they are then."""
    before = {parent: _children(parent) if number == signal.SIGKILL else [] for parent in parents}  # a dead parent has none
    at_ns, pids = time.monotonic_ns(), []
    for parent in parents:
        pids += _sent(parent, number)
        pids += [pid for child in before[parent] or _children(parent) for pid in _sent(child, number)]
    return {"at_ns": at_ns, "pids": pids}


def _sent(process: psutil.Process, number: signal.Signals) -> list[int]:
    """Send a signal to a process that may have ended with its parent, and return its pid if it was there."""
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return []
    except psutil.AccessDenied:
        raise RuntimeError(f"process {process.pid} belongs to another user: {number.name} is not permitted") from None
    return [process.pid]
