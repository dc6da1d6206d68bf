"""Whether the engine reports the latency that is there: at half its rate, and across freezes of the server."""

import contextlib
import itertools
import json
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from . import machine
from .generators import ENGINE, PEERS

FLOOR_MS, SPREAD_MS = 2.0, 2.0
USERS = 256  # in flight, to find the highest rate
RATE_RPS, BASE_MS, FREEZE_S, PERIOD_S = 200, 5.0, 1.0, 5.0
FREEZE_QUANTILES = {"p90": 0.90, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """One quantile: what it truly is, and what a generator measured, in ms."""

    generator: str
    quantile: str
    true_ms: float
    measured_ms: float
    n: int
    errors_ms: tuple[float, ...] = ()  # of every round, where there were several

    @property
    def error_ratio(self) -> float:
        """Return the relative error."""
        return self.measured_ms / self.true_ms - 1


@contextlib.contextmanager
def server(where: frozenset[int], floor_ms: float, spread_ms: float) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run a server of known latency; yield its URL and its process."""
    with machine.serving(machine.module("planted", floor_ms, spread_ms), where) as (url, process):
        yield f"{url}/planted", process


def at_half_rate(
    cores: machine.Cores, *, rounds: int, duration_s: float, say: Callable[[str], None]
) -> tuple[list[Known], dict[str, float]]:
    """Send at half the highest rate to a server that says when it let each answer go, and compare; several times.

    The highest rate is what the engine reaches against that same server, with so many users that it is never idle.

    Returns:
        Of each quantile the round whose error is the median one, with the errors of all rounds, and how the engine fared.
    """
    with server(cores.server, FLOOR_MS, SPREAD_MS) as (url, _):
        highest_rps = ENGINE.count(url, USERS, 3.0, cores.generator).rps
        scenario = {"executor": "constant_rate", "rate_rps": float(round(highest_rps / 2)), "duration_s": duration_s, "warm_up_s": 2.0}
        command = machine.module("engine", "quantiles", url, json.dumps(scenario))
        measured = [json.loads(machine.output(command, cores.generator, timeout_s=duration_s + 60)) for _ in range(rounds)]
    rows = [_median_round(name, measured) for name in ("p50", "p99")]
    how = {key: statistics.median(one[key] for one in measured) for key in ("rate_rps", "failed", "cpu_ratio", "achieved_ratio")}
    said = ", ".join(f"{one.quantile} {one.measured_ms:.3f} of {one.true_ms:.3f} ms" for one in rows)
    say(f"accuracy at {how['rate_rps']:,.0f}/s: {said}")
    return rows, {"highest_rps": highest_rps, **how}


def _median_round(name: str, measured: Sequence[dict[str, Any]]) -> Known:
    errors_ms = [one["response_ms"][name] - one["true_ms"][name] for one in measured]
    middle = sorted(zip(map(abs, errors_ms), range(len(measured)), strict=True))[len(measured) // 2][1]
    one = measured[middle]
    return Known(
        generator=ENGINE.name,
        quantile=name,
        true_ms=one["true_ms"][name],
        measured_ms=one["response_ms"][name],
        n=one["n"],
        errors_ms=tuple(errors_ms),
    )


def frozen_quantile_ms(q: float) -> float:
    """Return the q-quantile when requests come evenly and the server stands still for FREEZE_S of every PERIOD_S."""
    share = FREEZE_S / PERIOD_S
    return FREEZE_S * 1000 * (1 - (1 - q) / share) + BASE_MS


def across_freezes(cores: machine.Cores, *, duration_s: float, say: Callable[[str], None]) -> tuple[list[Known], list[str]]:
    """Let every generator that can keep a rate send 200 requests a second, all at the same time, to one server that freezes.

    Returns:
        The quantiles that each reports, and which peers failed and why.
    """
    present = [one for one in (ENGINE, *PEERS) if one.paced and one.missing() is None]
    rows, failed, over = [], [], threading.Event()
    with server(cores.server, BASE_MS, 0.0) as (url, process), ThreadPoolExecutor() as threads:
        freezing = threads.submit(_freeze, process, over)
        for one, future in [(one, threads.submit(one.quantiles, url, RATE_RPS, duration_s, cores.generator)) for one in present]:
            try:
                found = future.result()
            except (RuntimeError, ValueError, KeyError, subprocess.TimeoutExpired) as error:
                failed.append(f"{one.name}: failed in the freeze check ({error})")
                continue
            true = {name: frozen_quantile_ms(q) for name, q in FREEZE_QUANTILES.items()}
            rows += [
                Known(generator=one.name, quantile=name, true_ms=ms, measured_ms=found[name], n=int(found["n"]))
                for name, ms in true.items()
            ]
        over.set()
        freezing.result()
    say("freeze check: " + ", ".join(f"{k.generator} {k.quantile} {k.measured_ms:,.0f} of {k.true_ms:,.0f} ms" for k in rows))
    return rows, failed


def _freeze(process: subprocess.Popen[str], over: threading.Event) -> None:
    """Stop the server for FREEZE_S of every PERIOD_S until it is over.

    It goes on before and after every generator's run, so a run that lasts whole periods sees the same freezes wherever it begins.
    """
    start = time.monotonic()
    for number in itertools.count():
        freeze_at = start + number * PERIOD_S
        if over.wait(max(0.0, freeze_at - time.monotonic())):
            return
        process.send_signal(signal.SIGSTOP)
        time.sleep(max(0.0, freeze_at + FREEZE_S - time.monotonic()))
        process.send_signal(signal.SIGCONT)
