"""Generators at a constant rate, for the freeze check: how each is told to keep it, and which quantiles it reports, in ms."""

import json
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import machine

K6 = """
import http from "k6/http";
export const options = {
  discardResponseBodies: true, summaryTrendStats: ["p(90)", "p(95)", "p(99)"],
  scenarios: { paced: { executor: "constant-arrival-rate", rate: %d, timeUnit: "1s", duration: "%ds", preAllocatedVUs: 400 } },
};
export default function () { http.get("%s"); }
export function handleSummary(data) { return { stdout: JSON.stringify(data) }; }
"""
LOCUST = """
import json
from locust import FastHttpUser, constant_throughput, events, task
class User(FastHttpUser):
    wait_time = constant_throughput(10)
    @task
    def get(self):
        self.client.get("%s")
@events.quitting.add_listener
def report(environment, **_):
    total = environment.stats.total
    found = {name: total.get_response_time_percentile(q) for name, q in (("p90", 0.90), ("p95", 0.95), ("p99", 0.99))}
    print("FOUND" + json.dumps({**found, "n": total.num_requests}))
"""
USERS = 20  # of the generators that keep a rate by pausing each of some users


@dataclass(frozen=True, slots=True, kw_only=True)
class Paced:
    """A load generator that is asked for a rate."""

    name: str
    program: str | None
    install: str
    command: Callable[[str, str, int, float, Path], Sequence[str | Path]]  # (program, url, rate, duration_s, folder)
    parse: Callable[[str], dict[str, float]]

    def missing(self) -> str | None:
        """Say that it is not installed, and how to install it; None when it is."""
        found = self.program is None or machine.program(self.program)
        return None if found else f"{self.name}: not installed ({self.install})"

    def run(self, url: str, rate_rps: int, duration_s: float, where: frozenset[int]) -> dict[str, float]:
        """Run it once, on some cores; return p90, p95, p99 and n."""
        program = "" if self.program is None else machine.program(self.program) or self.program
        with tempfile.TemporaryDirectory(prefix="tapecheck-bench-") as folder:
            command = self.command(program, url, rate_rps, duration_s, Path(folder))
            return self.parse(machine.output(command, where, timeout_s=duration_s + 60))


def _engine(program: str, url: str, rate_rps: int, duration_s: float, folder: Path) -> list[str]:
    scenario = {"executor": "constant_rate", "rate_rps": float(rate_rps), "duration_s": duration_s}
    return machine.module("engine", "quantiles", url, json.dumps(scenario))


def parse_engine(text: str) -> dict[str, float]:
    """Read what the module `engine` prints."""
    found = json.loads(text)
    return {**found["response_ms"], "n": found["n"]}


def _k6(program: str, url: str, rate_rps: int, duration_s: float, folder: Path) -> list[str | Path]:
    script = folder / "script.js"
    script.write_text(K6 % (rate_rps, duration_s, url))
    return [program, "run", "--quiet", "--no-color", "--no-usage-report", "--address", "", script]


def parse_k6(text: str) -> dict[str, float]:
    """Read the summary that the script above prints; what k6 dropped is not in it."""
    metrics = json.loads(text[text.index('{"') :])["metrics"]
    values = metrics["http_req_duration"]["values"]
    return {name: values[f"p({name[1:]})"] for name in ("p90", "p95", "p99")} | {"n": metrics["http_reqs"]["values"]["count"]}


def _locust(program: str, url: str, rate_rps: int, duration_s: float, folder: Path) -> list[str | Path]:
    script = folder / "user.py"
    script.write_text(LOCUST % url)
    return [program, "-f", script, "--headless", "--only-summary", "--loglevel", "ERROR", "-H", url.rpartition("/")[0],
            "-u", str(USERS), "-r", str(USERS), "-t", f"{round(duration_s)}s", "--stop-timeout", "2"]  # fmt: skip


def parse_locust(text: str) -> dict[str, float]:
    """Read the line that the script above prints."""
    found: dict[str, float] = json.loads(text[text.index("FOUND") + 5 :].splitlines()[0])
    return found


def _hey(program: str, url: str, rate_rps: int, duration_s: float, folder: Path) -> list[str | Path]:
    return [program, "-z", f"{duration_s:g}s", "-c", str(USERS), "-q", str(rate_rps // USERS), url]


def parse_hey(text: str) -> dict[str, float]:
    """Read hey's latency distribution."""
    found = {f"p{p}": float(s) * 1000 for p, s in re.findall(r"(90|95|99)%+ in ([\d.]+) secs", text)}
    return found | {"n": sum(int(n) for n in re.findall(r"\[\d+\]\s+(\d+) responses", text))}


PEERS = "make setup"
PACED = (
    Paced(name="tapecheck", program=None, install="", command=_engine, parse=parse_engine),
    Paced(name="k6", program="k6", install=PEERS, command=_k6, parse=parse_k6),
    Paced(name="hey", program="hey", install="apt install hey", command=_hey, parse=parse_hey),
    Paced(name="locust", program="locust", install=PEERS, command=_locust, parse=parse_locust),
)
