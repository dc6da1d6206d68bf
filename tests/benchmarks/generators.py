"""The engine and its peers, each as a command line and what its output means. They are started by others."""

import json
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tapecheck.load.imports.wrk_and_hey import hey_figures, wrk_figures
from tapecheck.load.recording import ImportedSummary

from . import machine

K6 = """
import http from "k6/http";
export const options = { vus: %d, duration: "%ss", discardResponseBodies: true, summaryTrendStats: ["med"] };
export default function () { http.get("%s"); }
export function handleSummary(data) { return { stdout: JSON.stringify(data) }; }
"""
LOCUST = """
from locust import FastHttpUser, task
class User(FastHttpUser):
    @task
    def get(self):
        self.client.get("%s")
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """How many right answers a generator counted, in what time."""

    requests: int
    failed: int
    duration_s: float

    @property
    def rps(self) -> float:
        """Return right answers a second."""
        return self.requests / self.duration_s if self.duration_s > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Generator:
    """A load generator that keeps `connections` requests in flight."""

    name: str
    program: str | None  # None: our own
    install: str
    version: Sequence[str]
    command: Callable[[str, str, int, float, Path], Sequence[str | Path]]  # (program, url, connections, duration_s, folder)
    parse: Callable[[str], Count]

    def missing(self) -> str | None:
        """Say that it is not installed, and how to install it; None when it is."""
        found = self.program is None or machine.program(self.program)
        return None if found else f"{self.name}: not installed ({self.install})"

    def run(self, url: str, connections: int, duration_s: float, where: frozenset[int]) -> Count:
        """Run it once, on some cores."""
        program = "" if self.program is None else machine.program(self.program) or self.program
        with tempfile.TemporaryDirectory(prefix="tapecheck-bench-") as folder:
            command = self.command(program, url, connections, duration_s, Path(folder))
            return self.parse(machine.output(command, where, timeout_s=duration_s + 30))

    def says_version(self, where: frozenset[int]) -> str:
        """Return its version, as it says it itself."""
        if self.program is None or not self.version:
            return ""
        program = machine.program(self.program) or self.program
        found = re.search(r"v?\d+\.\d+(\.\d+)?", machine.output([program, *self.version], where, timeout_s=20))
        return found.group().lstrip("v") if found else ""


def parse_engine(text: str) -> Count:
    """Read what the module `engine` prints."""
    found = json.loads(text)
    return Count(requests=found["requests"], failed=found["failed"], duration_s=found["duration_s"])


def parse_wrk(text: str) -> Count:
    """Read wrk's report; a failure is a status of 400 or more, or an error of a socket."""
    return _count(wrk_figures(text))


def parse_hey(text: str) -> Count:
    """Read hey's report; a failure is a status of 400 or more, or no answer."""
    return _count(hey_figures(text))


def _count(told: ImportedSummary) -> Count:
    return Count(requests=told.requests - told.failed, failed=told.failed, duration_s=told.duration_s)


def parse_k6(text: str) -> Count:
    """Read the summary that the script above prints; k6 says itself how long it ran."""
    metrics = json.loads(text[text.index('{"') :])["metrics"]
    total, per_s = metrics["http_reqs"]["values"]["count"], metrics["http_reqs"]["values"]["rate"]
    failed = metrics["http_req_failed"]["values"]["passes"]  # k6 counts as passed what is true: "it failed"
    return Count(requests=int(total - failed), failed=int(failed), duration_s=total / per_s)


def parse_locust(text: str) -> Count:
    """Read locust's JSON, in which its times are those of the first and the last request."""
    one = json.loads(text[text.index("[") :])[0]
    failed = one["num_failures"]
    return Count(requests=one["num_requests"] - failed, failed=failed, duration_s=one["last_request_timestamp"] - one["start_time"])


def _k6(program: str, url: str, connections: int, duration_s: float, folder: Path) -> Sequence[str | Path]:
    script = folder / "script.js"
    script.write_text(K6 % (connections, f"{duration_s:g}", url))
    return [program, "run", "--quiet", "--no-color", "--no-usage-report", "--address", "", script]


def _locust(program: str, url: str, connections: int, duration_s: float, folder: Path) -> Sequence[str | Path]:
    script = folder / "user.py"
    script.write_text(LOCUST % url)
    seconds, users = f"{max(1, round(duration_s))}s", str(connections)
    host = url.rpartition("/")[0]
    return [program, "-f", script, "--headless", "--json", "--only-summary", "--loglevel", "ERROR",
            "-H", host, "-u", users, "-r", users, "-t", seconds, "--stop-timeout", "0"]  # fmt: skip


ENGINE = Generator(
    name="tapecheck",
    program=None,
    install="",
    version=(),
    command=lambda program, url, connections, duration_s, folder: machine.module("engine", "throughput", url, connections, duration_s),
    parse=parse_engine,
)
WRK = Generator(
    name="wrk",
    program="wrk",
    install="apt install wrk",
    version=(),  # it says it with a failing exit code only
    command=lambda program, url, connections, duration_s, folder: [
        program, "-t1", f"-c{connections}", f"-d{max(1, round(duration_s))}s", url,
    ],
    parse=parse_wrk,
)  # fmt: skip
HEY = Generator(
    name="hey",
    program="hey",
    install="apt install hey",
    version=(),
    command=lambda program, url, connections, duration_s, folder: [program, "-z", f"{duration_s:g}s", "-c", str(connections), url],
    parse=parse_hey,
)
K6_PEER = Generator(name="k6", program="k6", install="make setup", version=("version",), command=_k6, parse=parse_k6)
LOCUST_PEER = Generator(name="locust", program="locust", install="make setup", version=("--version",), command=_locust, parse=parse_locust)
PEERS = (WRK, HEY, K6_PEER, LOCUST_PEER)
