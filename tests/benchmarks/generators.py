"""The engine and its peers, each as a command line and what its output means: as fast as they can, and at a constant rate."""

import json
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tapecheck.load.imports.wrk_and_hey import hey_figures, wrk_figures

from . import machine

K6 = """
import http from "k6/http";
export const options = { discardResponseBodies: true, %s };
export default function () { http.get("%s"); }
export function handleSummary(data) { return { stdout: JSON.stringify(data) }; }
"""
K6_FAST = 'vus: %d, duration: "%ss", summaryTrendStats: ["med"]'
K6_PACED = """summaryTrendStats: ["p(90)", "p(95)", "p(99)"],
  scenarios: { paced: { executor: "constant-arrival-rate", rate: %d, timeUnit: "1s", duration: "%ds", preAllocatedVUs: 400 } }"""
LOCUST = """
import json
from locust import FastHttpUser, constant_throughput, events, task
class User(FastHttpUser):
    %s
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
class Count:
    """How many right answers a generator counted, in what time."""

    requests: int
    failed: int
    duration_s: float

    @property
    def rps(self) -> float:
        """Return right answers a second."""
        return self.requests / self.duration_s if self.duration_s > 0 else 0.0


Command = Callable[[str, str, int, float, Path], Sequence[str | Path]]  # (program, url, connections or rate, duration_s, folder)
Quantiles = dict[str, float]  # p90, p95, p99 in ms, and n


@dataclass(frozen=True, slots=True, kw_only=True)
class Generator:
    """A load generator: how it keeps so many requests in flight, and how it sends so many a second; None where it cannot."""

    name: str
    install: str  # empty: our own
    fast: Command
    parse: Callable[[str], Count]
    paced: Command | None = None
    parse_paced: Callable[[str], Quantiles] | None = None

    def missing(self) -> str | None:
        """Say that it is not installed, and how to install it; None when it is."""
        found = not self.install or machine.program(self.name)
        return None if found else f"{self.name}: not installed ({self.install})"

    def count(self, url: str, connections: int, duration_s: float, where: frozenset[int]) -> Count:
        """Let it send as fast as answers come, on some cores."""
        return self.parse(self._output(self.fast, url, connections, duration_s, where))

    def quantiles(self, url: str, rate_rps: int, duration_s: float, where: frozenset[int]) -> Quantiles:
        """Let it send so many requests a second, on some cores."""
        assert self.paced is not None and self.parse_paced is not None
        return self.parse_paced(self._output(self.paced, url, rate_rps, duration_s, where))

    def _output(self, command: Command, url: str, number: int, duration_s: float, where: frozenset[int]) -> str:
        with tempfile.TemporaryDirectory(prefix="tapecheck-bench-") as folder:
            words = command(machine.program(self.name) or self.name, url, number, duration_s, Path(folder))
            return machine.output(words, where, timeout_s=duration_s + 60)


# ---- our own ----


def parse_engine(text: str) -> Count:
    """Read what the module `engine` prints."""
    found = json.loads(text)
    return Count(requests=found["requests"], failed=found["failed"], duration_s=found["duration_s"])


def _engine_paced(program: str, url: str, rate_rps: int, duration_s: float, folder: Path) -> list[str]:
    scenario = {"executor": "constant_rate", "rate_rps": float(rate_rps), "duration_s": duration_s}
    return machine.module("engine", "quantiles", url, json.dumps(scenario))


def _parse_engine_paced(text: str) -> Quantiles:
    found = json.loads(text)
    return {**found["response_ms"], "n": found["n"]}


# ---- wrk and hey: a failure is a status of 400 or more, or no answer ----


def parse_wrk(text: str) -> Count:
    """Read wrk's report."""
    told, _ = wrk_figures(text)
    return Count(requests=told.requests - told.failed, failed=told.failed, duration_s=told.duration_s)


def parse_hey(text: str) -> Count:
    """Read hey's report."""
    told, _ = hey_figures(text)
    return Count(requests=told.requests - told.failed, failed=told.failed, duration_s=told.duration_s)


def parse_hey_paced(text: str) -> Quantiles:
    """Read hey's latency distribution."""
    found = {f"p{p}": float(s) * 1000 for p, s in re.findall(r"(90|95|99)%+ in ([\d.]+) secs", text)}
    return found | {"n": sum(int(n) for n in re.findall(r"\[\d+\]\s+(\d+) responses", text))}


# ---- k6 ----


def _k6(program: str, folder: Path, options: str, url: str) -> list[str | Path]:
    script = folder / "script.js"
    script.write_text(K6 % (options, url))
    return [program, "run", "--quiet", "--no-color", "--no-usage-report", "--address", "", script]


def parse_k6(text: str) -> Count:
    """Read the summary that the script above prints; k6 says itself how long it ran."""
    metrics = json.loads(text[text.index('{"') :])["metrics"]
    total, per_s = metrics["http_reqs"]["values"]["count"], metrics["http_reqs"]["values"]["rate"]
    failed = metrics["http_req_failed"]["values"]["passes"]  # k6 counts as passed what is true: "it failed"
    return Count(requests=int(total - failed), failed=int(failed), duration_s=total / per_s)


def parse_k6_paced(text: str) -> Quantiles:
    """Read the same; what k6 dropped is not in it."""
    metrics = json.loads(text[text.index('{"') :])["metrics"]
    values = metrics["http_req_duration"]["values"]
    return {name: values[f"p({name[1:]})"] for name in ("p90", "p95", "p99")} | {"n": metrics["http_reqs"]["values"]["count"]}


# ---- Locust ----


def _locust(program: str, url: str, users: int, duration_s: float, folder: Path, wait: str, *more: str) -> list[str | Path]:
    script = folder / "user.py"
    script.write_text(LOCUST % (wait, url))
    return [program, "-f", script, "--headless", "--only-summary", "--loglevel", "ERROR", "-H", url.rpartition("/")[0],
            "-u", str(users), "-r", str(users), "-t", f"{max(1, round(duration_s))}s", *more]  # fmt: skip


def parse_locust(text: str) -> Count:
    """Read locust's JSON, in which its times are those of the first and the last request."""
    one = json.JSONDecoder().raw_decode(text[text.index("[") :])[0][0]
    failed = one["num_failures"]
    return Count(requests=one["num_requests"] - failed, failed=failed, duration_s=one["last_request_timestamp"] - one["start_time"])


def parse_locust_paced(text: str) -> Quantiles:
    """Read the line that the script above prints."""
    found: Quantiles = json.loads(text[text.index("FOUND") + 5 :].splitlines()[0])
    return found


ENGINE = Generator(
    name="tapecheck", install="",
    fast=lambda _, url, connections, duration_s, folder: machine.module("engine", "throughput", url, connections, duration_s),
    parse=parse_engine, paced=_engine_paced, parse_paced=_parse_engine_paced,
)  # fmt: skip
WRK = Generator(
    name="wrk", install="apt install wrk", parse=parse_wrk,
    fast=lambda wrk, url, connections, duration_s, folder: [wrk, "-t1", f"-c{connections}", f"-d{max(1, round(duration_s))}s", url],
)  # fmt: skip
HEY = Generator(
    name="hey", install="apt install hey", parse=parse_hey, parse_paced=parse_hey_paced,
    fast=lambda hey, url, connections, duration_s, folder: [hey, "-z", f"{duration_s:g}s", "-c", str(connections), url],
    paced=lambda hey, url, rate, duration_s, folder: [hey, "-z", f"{duration_s:g}s", "-c", str(USERS), "-q", str(rate // USERS), url],
)  # fmt: skip
K6_PEER = Generator(
    name="k6", install="make setup", parse=parse_k6, parse_paced=parse_k6_paced,
    fast=lambda k6, url, connections, duration_s, folder: _k6(k6, folder, K6_FAST % (connections, f"{duration_s:g}"), url),
    paced=lambda k6, url, rate, duration_s, folder: _k6(k6, folder, K6_PACED % (rate, duration_s), url),
)  # fmt: skip
LOCUST_PEER = Generator(
    name="locust", install="make setup", parse=parse_locust, parse_paced=parse_locust_paced,
    fast=lambda locust, url, users, duration_s, folder: _locust(locust, url, users, duration_s, folder, "", "--json"),
    paced=lambda locust, url, rate, duration_s, folder: _locust(
        locust, url, USERS, duration_s, folder, f"wait_time = constant_throughput({rate // USERS})", "--stop-timeout", "2"
    ),
)  # fmt: skip
PEERS = (WRK, HEY, K6_PEER, LOCUST_PEER)
