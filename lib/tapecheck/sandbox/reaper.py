"""Stops the sandbox when its last user is gone: `python -m tapecheck.sandbox.reaper`, one process a home, left behind by `up`."""

import fcntl
import os
import subprocess
import sys

from tapecheck import lockfiles
from tapecheck.sandbox.processes import stop
from tapecheck.sandbox.profile import Home


def users(home: Home) -> list[lockfiles.Holder]:
    """Return the processes that use the sandbox; one that has ended, however it ended, no longer counts."""
    return [one for one in lockfiles.holders(home.users) if one.is_there]


def stop_unused(home: Home) -> bool:
    """Stop the sandbox unless a process uses it or `sandbox up` started it to stay; the caller holds the home's lock.

    Return whether nobody uses it.

    Raises:
        SandboxError: a process did not stop.
    """
    if users(home):
        return False
    lockfiles.sweep(home.users)
    if not home.stays.exists():
        stop(home)
    return True


def leave_one(home: Home) -> None:
    """Leave a reaper behind, unless one waits already; the caller holds the home's lock."""
    with home.reaper.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
    null = subprocess.DEVNULL
    environment = {**os.environ, "TAPECHECK_SANDBOX_HOME": str(home.folder)}
    command = [sys.executable, "-P", "-m", "tapecheck.sandbox.reaper"]
    subprocess.Popen(command, cwd=home.folder, env=environment, stdin=null, stdout=null, stderr=null, start_new_session=True)


def main() -> None:
    """Wait until nobody uses the sandbox, then stop it. A user comes before it asks for the sandbox, so that none is overlooked."""
    home = Home()
    with home.reaper.open("a") as only:
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
    main()
