"""Bugs that the tests must find: `python tests/planted_bugs.py [FILE…]` puts in those of planted_bugs.yaml, one at a time.

It runs the tests that are named beside a bug, which must be green without it. One that they do not find is printed, and the exit code
is 1. Every file is put back as it was, also after Ctrl-C. A bug that somebody made and no test found is worth a line there, with the
test that finds it.
"""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

TESTS = Path(__file__).resolve().parent
LIBRARY = TESTS.parent / "lib" / "tapecheck"
Bug = Mapping[str, str]


def listed() -> list[Bug]:
    """Return the bugs of the list."""
    found: list[Bug] = yaml.safe_load((TESTS / "planted_bugs.yaml").read_text(encoding="utf-8"))
    return found


def is_found(bug: Bug) -> bool:
    """Tell whether a test finds a bug."""
    path = LIBRARY / bug["file"]
    text = path.read_text(encoding="utf-8")
    if text.count(bug["old"]) != 1:
        raise SystemExit(f"{bug['file']}: {bug['old']!r} stands in it {text.count(bug['old'])} times, not once: mend the list")
    files = [TESTS / f"test_{name}.py" for name in bug["tests"].split()]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *map(str, files)]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}  # else what was compiled of one file may be taken for that of the next
    try:
        path.write_text(text.replace(bug["old"], bug["new"]), encoding="utf-8")
        done = subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True)
    finally:
        path.write_text(text, encoding="utf-8")
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if done.returncode not in (0, 1) and not failed:
        raise SystemExit(f"{bug['file']}: the tests did not run:\n{done.stdout[-1500:]}{done.stderr[-500:]}")
    print(f"{'found' if failed else 'NOT FOUND'}  {bug['file']}: {bug['new']!r}  {' '.join(failed)[:200]}", flush=True)
    return bool(failed)


def main(words: Sequence[str]) -> int:
    """Try the bugs of files that begin with one of the words, or all."""
    chosen = [bug for bug in listed() if not words or bug["file"].startswith(tuple(words))]
    missed = [bug for bug in chosen if not is_found(bug)]
    print(f"{len(chosen) - len(missed)} of {len(chosen)} bugs found")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
