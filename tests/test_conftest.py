"""The tests themselves, ended in the middle: nothing that they had started is left."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ENDLESS = """
import pathlib, subprocess, sys

def test_that_waits_for_ever():
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True) as child:
        (pathlib.Path(__file__).parent / "begun").write_text(str(child.pid))
        child.wait()
"""


def test_sigterm_ends_what_the_tests_started(tmp_path: Path) -> None:
    """As a CI sends it: the tests end, their workers, and what a worker had started in a session of its own."""
    (tmp_path / "test_endless.py").write_text(ENDLESS)
    os.mkfifo(tmp_path / "begun")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "TAPECHECK_TESTS_"))}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), environment.get("PYTHONPATH", "")])
    options = ("-n", "1", "-p", "conftest", "-p", "no:locust", "-p", "no:hypothesispytest", "--rootdir")
    command = [sys.executable, "-m", "pytest", *options, str(tmp_path), str(tmp_path)]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as tests:
        child = psutil.Process(int((tmp_path / "begun").read_text()))
        begun = [*psutil.Process(tests.pid).children(recursive=True), child]
        tests.send_signal(signal.SIGTERM)
        said, _ = tests.communicate(timeout=120)
    _, alive = psutil.wait_procs(begun, timeout=60)
    assert len(begun) >= 2 and not alive
    assert tests.returncode == pytest.ExitCode.INTERRUPTED, said
