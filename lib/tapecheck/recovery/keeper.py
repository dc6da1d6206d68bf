"""A dead man's switch: a process that rolls a drill back when the one that runs it is gone, however it went.

`python -m tapecheck.recovery.keeper` reads lines: `arm JSON`, an experiment with its values, and `disarm`. When its input ends
while it is armed, it plays the experiment's rollbacks. It measures nothing.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import IO, Any, Self


class Keeper:
    """The switch, as a context manager; armed while a fault may be on."""

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "tapecheck.recovery.keeper"]
        null = subprocess.DEVNULL
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=null, stderr=null, text=True, start_new_session=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def arm(self, experiment: Mapping[str, Any]) -> None:
        """Have the experiment rolled back if this process ends without having said that it was."""
        self._say(f"arm {json.dumps(experiment)}")

    def disarm(self) -> None:
        """Say that it was rolled back."""
        self._say("disarm")

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()


def roll_back(experiment: Mapping[str, Any]) -> Mapping[str, Any]:
    """Play an experiment's rollbacks alone, and return the journal."""
    from chaoslib.run import Runner
    from chaoslib.types import Strategy

    alone = {**experiment, "method": [], "controls": []}
    with Runner(Strategy.SKIP) as runner:
        journal: Mapping[str, Any] = runner.run(alone, settings={"runtime": {"rollbacks": {"strategy": "always"}}})
    return journal


def keep(lines: IO[str]) -> None:
    """Follow what the runner of drills says, and act when it says nothing any more."""
    armed: Mapping[str, Any] | None = None
    for line in lines:
        word, _, said = line.rstrip("\n").partition(" ")
        armed = json.loads(said) if word == "arm" else None
    if armed is not None:
        roll_back(armed)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    keep(sys.stdin)
