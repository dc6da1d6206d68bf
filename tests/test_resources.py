"""CPU and memory are those of the named processes, each name by itself."""

import os
import socket
import subprocess
import sys
import time

import psutil
import pytest

from tapecheck.resources import Watch, locate
from tapecheck.target_file import ProcessSelector

BUSY = "import time; end = time.monotonic() + 20\nwhile time.monotonic() < end: pass"


def test_a_busy_process_reads_what_the_system_says_it_used() -> None:
    """Its busy cores are the CPU time that it gained over the wall time, and are not split between the names that watch it."""
    with subprocess.Popen([sys.executable, "-c", BUSY]) as process:
        try:
            selector, child = ProcessSelector(pid=process.pid), psutil.Process(process.pid)
            with Watch({"a": selector, "b": selector}, period_s=0.1) as watch:
                began_s, before = time.monotonic(), child.cpu_times()
                time.sleep(1.5)
                after, wall_s = child.cpu_times(), time.monotonic() - began_s
            frame = watch.table().to_pandas()
        finally:
            process.kill()
    gained = (after.user + after.system - before.user - before.system) / wall_s
    assert gained > 0.1, "a busy loop, even on a crowded machine"
    used = frame.groupby("process", observed=True).cpu_ratio.mean()
    assert used["a"] == pytest.approx(gained, rel=0.3)
    assert used["b"] == pytest.approx(gained, rel=0.3)
    assert (frame.rss_mb > 1).all()


def test_a_process_that_is_not_there_leaves_no_rows() -> None:
    """A name that stands for nothing has no figures, rather than zeros."""
    with Watch({"gone": ProcessSelector(command="no-such-command-7f3a")}, period_s=0.05) as watch:
        time.sleep(0.3)
    assert watch.table().num_rows == 0
    assert watch.found == {"gone": 0}


def test_this_process_is_found_by_its_pid() -> None:
    """A pid stands for one process."""
    assert [p.pid for p in locate(ProcessSelector(pid=os.getpid()))] == [os.getpid()]


@pytest.mark.parametrize("is_shown", [True, False])
def test_a_process_is_found_by_the_port_that_it_listens_on(monkeypatch: pytest.MonkeyPatch, is_shown: bool) -> None:
    """Also where the system shows its table of connections to root alone; a connection to that port is no listener."""
    if not is_shown:

        def refused(kind: str) -> None:
            raise psutil.AccessDenied

        monkeypatch.setattr(psutil, "net_connections", refused)
    serve = "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", serve], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        port = int(process.stdout.readline())
        with socket.create_connection(("127.0.0.1", port)):
            assert [p.pid for p in locate(ProcessSelector(port=port))] == [process.pid]
        process.stdin.close()
    assert locate(ProcessSelector(port=port)) == []
