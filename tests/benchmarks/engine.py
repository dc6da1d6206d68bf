"""Runs tapecheck's own engine on one scenario, in this process, and prints what it recorded. Started by the benchmarks."""

import json
import sys

import numpy as np
import psutil
from numpy.typing import NDArray

from tapecheck.load.engine.engine import measure
from tapecheck.load.engine.recorder import SAMPLE, ErrorKind, Samples
from tapecheck.load.engine.work import Address, Work
from tapecheck.load.plan import LoadPlan
from tapecheck.load.requests import prepare_all
from tapecheck.target.file import Target

from .planted import CLOCK_MS


def work(url: str, scenario: dict[str, object]) -> Work:
    """Return what the engine would be told to do by a plan with one scenario."""
    base, _, path = url.rpartition("/")
    target = Target.model_validate({"name": "bench", "kind": "external", "base_url": base, "requests": {"get": f"GET /{path}"}})
    plan = LoadPlan.model_validate({"scenarios": {"bench": {**scenario, "request": "get"}}})
    port = int(base.rpartition(":")[2])
    return plan.scenarios["bench"].work(Address(host="127.0.0.1", port=port), prepare_all(plan, target)["bench"])


def throughput(url: str, connections: int, duration_s: float) -> dict[str, object]:
    """Send as fast as answers come; count whole, right answers that were recorded."""
    measured = measure(work(url, {"executor": "closed", "concurrency": connections, "duration_s": duration_s}))
    rows = measured.samples
    failed = rows["error"] != ErrorKind.none
    seconds = (int(rows["done_ns"].max()) - int(rows["intended_ns"].min())) / 1e9
    kinds = {ErrorKind(kind).name for kind in np.unique(rows["error"][failed])}
    return {"requests": int((~failed).sum()), "failed": int(failed.sum()), "duration_s": seconds, "errors": sorted(kinds)}


def quantiles(url: str, scenario: dict[str, object]) -> dict[str, object]:
    """Run an open-model scenario against a planted server; return quantiles of response time and of the truth.

    The truth is from the send to the instant at which the server let the answer go, by its own clock: so what the
    generator adds, by sending late or by reading late, is in the one and not in the other.
    """
    measured = measure(work(url, scenario))
    rows = measured.samples[measured.samples["warm_up"] == 0]
    right = rows["error"] == ErrorKind.none
    response_ms = (rows["done_ns"] - rows["intended_ns"]) / 1e6
    return {
        "n": len(rows),
        "failed": int((~right).sum()),
        "rate_rps": scenario["rate_rps"],
        "cpu_ratio": measured.cpu_ratio,
        "achieved_ratio": measured.achieved_ratio,
        "response_ms": _quantiles(response_ms),
        "true_ms": _quantiles(_true_ms(rows[right])),
    }


def _true_ms(rows: Samples) -> NDArray[np.float64]:
    after_ms = (rows["done_ns"] / 1e6 - rows["db_ms"]) % CLOCK_MS  # from the server's letting go to the end
    after_ms = np.where(after_ms > CLOCK_MS / 2, after_ms - CLOCK_MS, after_ms)  # single precision can put it a microsecond late
    return (rows["done_ns"] - rows["sent_ns"]) / 1e6 - after_ms


def _quantiles(values: NDArray[np.float64]) -> dict[str, float]:
    return {f"p{q}": float(np.quantile(values, q / 100)) for q in (50, 90, 95, 99)}


def memory(url: str, connections: int, duration_s: float) -> dict[str, object]:
    """Send as fast as answers come, once a little and once a lot, and say what each sample more costs while it is held."""
    held, grown = [], []
    for seconds in (0.2, duration_s / 12, duration_s):  # the first pays for what a process has but once
        before = _resident_bytes()
        held.append(measure(work(url, {"executor": "closed", "concurrency": connections, "duration_s": seconds})).samples)
        grown.append(_resident_bytes() - before)
    _, few, many = map(len, held)
    return {"samples": many, "bytes_per_sample": (grown[2] - grown[1]) / (many - few), "row_bytes": SAMPLE.itemsize}


def _resident_bytes() -> int:
    """Return what the process holds now: its own memory and what it has mapped."""
    return psutil.Process().memory_info().rss


COMMANDS = {
    "throughput": lambda url, connections, duration_s: throughput(url, int(connections), float(duration_s)),
    "quantiles": lambda url, scenario: quantiles(url, json.loads(scenario)),
    "memory": lambda url, connections, duration_s: memory(url, int(connections), float(duration_s)),
}


if __name__ == "__main__":
    print(json.dumps(COMMANDS[sys.argv[1]](*sys.argv[2:])))
