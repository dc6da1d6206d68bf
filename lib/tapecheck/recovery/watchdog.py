"""A dead man's switch: a process that rolls a drill back when the one that runs it is gone, however it went.

`python -m tapecheck.recovery.watchdog PID...` reads lines: `arm JSON`, an experiment with its values, and `disarm`. When its input ends
while it is armed, it plays the experiment's rollbacks. It measures nothing.
"""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import IO, Any, Self

import psutil

from tapecheck.errors import MeasurementError, RollbackError


class Watchdog:
    """The switch, as a context manager; armed while a fault may be on."""

    def __init__(self) -> None:
        self._repair = ""

    def __enter__(self) -> Self:
        own = psutil.Process()
        command = [sys.executable, "-P", "-m", __name__, *(str(one.pid) for one in (own, *own.parents()))]
        null = subprocess.DEVNULL
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=null, stderr=null, text=True, start_new_session=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        if self._process.wait() and not isinstance(error, RollbackError):  # which says more
            raise RollbackError(f"A DRILL COULD NOT BE ROLLED BACK, not even by its watchdog. Repair by hand: {self._repair}") from error

    def arm(self, experiment: Mapping[str, Any], repair: str, *, allow_remote: bool = False) -> None:
        """Have the experiment rolled back if this process ends without having said that it was; `repair` is what to do if that fails."""
        self._repair = repair
        self._say(f"arm {json.dumps({'experiment': experiment, 'allow_remote': allow_remote})}")

    def disarm(self) -> None:
        """Say that it was rolled back."""
        self._say("disarm")

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise MeasurementError("the watchdog that would roll back a drill has ended: nothing more is broken without it") from None


def roll_back(experiment: Mapping[str, Any]) -> Mapping[str, Any]:
    """Play an experiment's rollbacks alone, and return the journal."""
    from chaoslib.run import Runner
    from chaoslib.types import Strategy

    alone = {**experiment, "method": [], "controls": []}
    with Runner(Strategy.SKIP) as runner:
        journal: Mapping[str, Any] = runner.run(alone, settings={"runtime": {"rollbacks": {"strategy": "always"}}})
    return journal


def worked(run: Mapping[str, Any]) -> bool:
    """Tell whether an activity did what it should; Chaos Toolkit takes any exit code and HTTP status for a success."""
    output = run.get("output")
    status = output.get("status") if isinstance(output, dict) else None
    is_http = run["activity"].get("provider", {}).get("type") == "http"
    return run.get("status") == "succeeded" and (status is None or (200 <= status < 300 if is_http else status == 0))


def is_undone(journal: Mapping[str, Any], experiment: Mapping[str, Any]) -> bool:
    """Tell whether every rollback of an experiment was played and worked."""
    played = journal.get("rollbacks", [])
    return len(played) == len(experiment["rollbacks"]) and all(map(worked, played))


def keep(lines: IO[str], spared: Iterable[int] = ()) -> int:
    """Follow what the runner of drills says, act when it says nothing any more, and return 1 where that did not work.

    Args:
        spared: the pids of that runner and its ancestors: no rollback may touch them, whatever the target file names.
    """
    kin = [psutil.Process(pid) for pid in spared if psutil.pid_exists(pid)]
    armed: Mapping[str, Any] | None = None
    for line in lines:
        word, _, said = line.rstrip("\n").partition(" ")
        armed = json.loads(said) if word == "arm" else None
    if armed is None:
        return 0
    from tapecheck.resources import SPARED
    from tapecheck.target.loopback import only

    SPARED.update(kin)
    with only(not armed["allow_remote"]):
        return 0 if is_undone(roll_back(armed["experiment"]), armed["experiment"]) else 1


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.exit(keep(sys.stdin, map(int, sys.argv[1:])))
