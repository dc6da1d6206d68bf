"""An nginx of our own: a temporary configuration, a free loopback port, two bodies of a known size."""

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil

from . import machine

SIZES = {"1 KB": 1024, "50 KB": 51200}
CONF = """
daemon off; worker_processes {workers}; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; default_type application/json; sendfile on; tcp_nopush on; tcp_nodelay on; open_file_cache max=16;
  keepalive_requests 1000000000; keepalive_timeout 300s;
  client_body_temp_path {folder}/t; proxy_temp_path {folder}/t; fastcgi_temp_path {folder}/t;
  uwsgi_temp_path {folder}/t; scgi_temp_path {folder}/t;
  server {{ listen 127.0.0.1:{port} backlog=1024; root {folder}/bodies; location = /status {{ stub_status; }} }}
}}
"""


class Nginx:
    """A running nginx."""

    def __init__(self, port: int, pid: int) -> None:
        self.port = port
        self.pid = pid
        self._process = psutil.Process(pid)
        self._asked = 0

    def url(self, body: str) -> str:
        """Return where a body of that size is."""
        return f"http://127.0.0.1:{self.port}/{SIZES[body]}"

    def requests(self) -> int:
        """Return how many requests it has seen by its own count, this one left out."""
        said = httpx.get(f"http://127.0.0.1:{self.port}/status", trust_env=False).raise_for_status().text
        self._asked += 1
        return int(said.splitlines()[2].split()[2]) - self._asked

    def cpu_s(self) -> float:
        """Return the CPU time of all its processes."""
        times = [one.cpu_times() for one in [self._process, *self._process.children()]]
        return sum(t.user + t.system for t in times)


def body(size: int) -> str:
    """Return a JSON text of exactly so many bytes."""
    return json.dumps({"pad": "x" * (size - len('{"pad": ""}'))})


@contextlib.contextmanager
def running(where: frozenset[int]) -> Iterator[Nginx]:
    """Run nginx with one worker for each core.

    Raises:
        RuntimeError: it is not installed, or did not start.
    """
    program = machine.program("nginx")
    if program is None:
        raise RuntimeError("nginx is not installed; on Debian and Ubuntu: apt install nginx-light")
    with tempfile.TemporaryDirectory(prefix="tapecheck-nginx-") as name:
        folder, port = Path(name), machine.free_port()
        folder.chmod(0o755)  # started by root, its workers are somebody else
        (folder / "bodies").mkdir()
        for size in SIZES.values():
            (folder / "bodies" / str(size)).write_text(body(size))
        (folder / "conf").write_text(CONF.format(folder=folder, port=port, workers=len(where)))
        with (
            (folder / "output").open("w") as log,
            machine.process([program, "-e", folder / "error.log", "-c", folder / "conf"], where, stdout=log, stderr=log) as process,
        ):
            _wait(port, folder, process.poll)
            yield Nginx(port, process.pid)


def _wait(port: int, folder: Path, ended: object) -> None:
    deadline = time.monotonic() + 10
    while True:
        with contextlib.suppress(httpx.TransportError):
            for size in SIZES.values():
                assert len(httpx.get(f"http://127.0.0.1:{port}/{size}", trust_env=False).raise_for_status().content) == size
            return
        if (callable(ended) and ended() is not None) or time.monotonic() > deadline:
            said = "".join(path.read_text() for path in (folder / "error.log", folder / "output") if path.exists())
            raise RuntimeError(f"nginx did not start (as user {os.getuid()}): {said[-500:]}")
        time.sleep(0.05)
