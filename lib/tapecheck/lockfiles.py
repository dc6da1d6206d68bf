"""Lock files that say that a process is there: locked for as long as it lives, so that SIGKILL unlocks them too.

They exclude nobody, but for those that wait for their `turn`.
"""

import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from psutil import pid_exists

from tapecheck.errors import OutputError

SUFFIX = ".lock"
TURN = ".turn"
SCRATCH = "tapecheck-run-"
SHORT = "/tmp"  # noqa: S108 - the temporary folder of sockets, whose paths must be short; what is in it has unpredictable names
BEGINS_S = 3600.0  # a temporary folder without a lock file that is younger is not yet locked
COMMAND_CHARACTERS = 120
_NOT_OURS = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO}  # of opening what somebody else put or removed


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A process that holds, or held, a lock file: which, since when (UTC), and what for."""

    file: Path
    is_there: bool
    pid: int
    since: datetime
    purpose: str

    def __str__(self) -> str:
        return f"pid {self.pid} ({self.purpose})"

    def wait(self) -> None:
        """Wait until it has released its file or ended, however it ends."""
        try:
            with self.file.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH)
        except FileNotFoundError:
            pass


_held: dict[Path, int] = {}


def _close_in_child() -> None:
    for descriptor in _held.values():
        os.close(descriptor)  # a forked child that outlives this process would keep the lock
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)


def _own(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user")


@contextmanager
def turn(folder: Path, *, alone: bool, on_wait: Callable[[str], object]) -> Iterator[None]:
    """Wait for a turn among all that ask for one with this folder: `alone`, and after all who hold a file of it, or beside others.

    Args:
        on_wait: called with whom it waits for.
    """
    _own(folder)
    file = folder / TURN
    _held[file] = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        try:
            fcntl.flock(_held[file], kind | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait("a batch")
            fcntl.flock(_held[file], kind)
        while alone and (there := [one for one in holders(folder) if one.is_there]):
            on_wait(str(there[0]))
            there[0].wait()
        yield
    finally:
        os.close(_held.pop(file))


def hold(folder: Path, purpose: str = "") -> Path:
    """Lock a new file in a folder for as long as this process lives, or until it is released.

    Args:
        folder: made if it is not there, this user's alone.
        purpose: what for; the command line if it is empty.
    """
    _own(folder)
    purpose = purpose or " ".join(" ".join(sys.orig_argv).split())[:COMMAND_CHARACTERS]
    said = {"pid": os.getpid(), "since": datetime.now(UTC).isoformat(), "purpose": purpose}
    file = folder / f"{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"
    partial = file.with_name(f".{file.name}")  # no reader sees it before it is locked
    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.write(descriptor, json.dumps(said).encode())
    partial.rename(file)
    _held[file] = descriptor
    return file


def release(file: Path) -> None:
    """Release a file that this process holds; once nobody holds any file of its folder, remove them all."""
    os.close(_held.pop(file))
    sweep(file.parent)


def sweep(folder: Path) -> None:
    """Remove what ended processes left in a folder, unless somebody is there, who may still ask who has been."""
    found = holders(folder)
    if not any(one.is_there for one in found):
        for one in found:
            one.file.unlink(missing_ok=True)


def holders(folder: Path) -> list[Holder]:
    """Return who holds or held a file of a folder, this process included, the first one first."""
    found = [one for file in folder.glob(f"[!.]*{SUFFIX}") if (one := _holder(file)) is not None]
    return sorted(found, key=lambda one: one.since)


def _holder(file: Path) -> Holder | None:
    try:
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as opened:  # a FIFO would block
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                return None
            try:
                fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
                is_there = False
            except BlockingIOError:
                is_there = True
            said = json.load(opened)
        since = datetime.fromisoformat(said["since"])
        return Holder(file=file, is_there=is_there, pid=said["pid"], since=since, purpose=said["purpose"])
    except OSError as error:
        if error.errno not in _NOT_OURS:
            raise
        return None
    except (ValueError, KeyError, TypeError):
        return None


@contextmanager
def scratch(beside: Path | None = None, place: str | None = None) -> Iterator[Path]:
    """Yield a folder of an unpredictable name, this user's alone; it is removed afterwards, or after SIGKILL by the next command.

    Args:
        beside: the folder that it is made in, where what is written is to be renamed; the temporary folder, or `place`, if None.
    """
    folder: Path | None = None
    try:
        folder = Path(tempfile.mkdtemp(prefix=f"{'.' if beside else ''}{SCRATCH}{os.getpid()}-", dir=beside or place))
        file = hold(folder)
    except OSError as error:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        raise error if beside else no_room(error) from error
    try:
        yield folder
    finally:
        os.close(_held.pop(file))
        shutil.rmtree(folder, ignore_errors=True)


def no_room(error: OSError) -> OutputError:
    """Return what an error of the operating system means for temporary files, and what to do."""
    where = f"{tempfile.gettempdir()} (TMPDIR)" if tempfile.tempdir else "no temporary folder"
    return OutputError(
        f"temporary files cannot be written: {where}: {error.strerror or error}; free some room, or set TMPDIR to another folder"
    )


def sweep_scratch(*places: Path) -> None:
    """Remove the temporary folders of this user's processes that were killed, and of no other; those in `places` and one below, too."""
    own = (found for place in {tempfile.gettempdir(), SHORT} for found in Path(place).glob(f"{SCRATCH}*"))
    for folder in (*own, *(found for place in places for at in ("", "*/") for found in place.glob(f"{at}.{SCRATCH}*"))):
        with suppress(OSError):  # it is removed meanwhile; what cannot be swept now is swept by the next command
            known = folder.lstat()
            if not stat.S_ISDIR(known.st_mode) or known.st_uid != os.getuid():
                continue
            found, pid = holders(folder), re.match(rf"\.?{SCRATCH}(\d+)-", folder.name)
            may_begin = not found and time.time() - known.st_mtime < BEGINS_S and not (pid and not pid_exists(int(pid[1])))
            if may_begin or any(one.is_there for one in found):
                continue
            shutil.rmtree(folder, ignore_errors=True)
