"""Processes that are nobody's children, as a service beside a test is: what runs in a test's own children is never taken for a target."""

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

import psutil

_START = 'exec 3<&0; { read go; exec "$@"; } <&3 & echo $!'  # the shell ends at once; what it started waits for a line


@dataclass(frozen=True, slots=True)
class Orphan:
    """A process, with a pipe to each of its ends."""

    process: psutil.Process
    stdin: IO[str]
    stdout: IO[str]


@contextlib.contextmanager
def orphan(*words: str) -> Iterator[Orphan]:
    """Run a command as nobody's child; it is killed in the end."""
    with subprocess.Popen(["sh", "-c", _START, "sh", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdin is not None and shell.stdout is not None
        process = psutil.Process(int(shell.stdout.readline()))
        shell.wait()
        try:
            shell.stdin.write("go\n")
            shell.stdin.flush()
            yield Orphan(process, shell.stdin, shell.stdout)
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
            psutil.wait_procs([process], timeout=20)


@contextlib.contextmanager
def orphans(*commands: Sequence[str]) -> Iterator[list[psutil.Process]]:
    """Run Python scripts that print a line when they run, and give their processes when all do."""
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(orphan(*words)) for words in commands]
        for one in started:
            one.stdout.readline()
        yield [one.process for one in started]
