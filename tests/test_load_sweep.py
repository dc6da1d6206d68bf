"""A capacity sweep end to end, against real servers whose capacity is known."""

import asyncio

import pytest
import servers
from servers import Behaviour, Server

from tapecheck.load import validation
from tapecheck.load.capacity import CapacityResult
from tapecheck.load.plan import LoadPlan
from tapecheck.load.recording import Recording
from tapecheck.target_file import Target
from tapecheck.verdict import Verdict

pytestmark = pytest.mark.alone  # it needs the cores for itself

GENERATOR = {"lag_p99_ms": 2000, "dispatch_lag_p99_ms": 2000, "cpu_ratio": 1, "achieved_ratio": 0.5}  # this machine may be busy


def scalable(g: float, a: float, b: float) -> Behaviour:
    """A server whose N requests in flight each take N / X(N), where X is the Universal Scalability Law; beyond 100 no longer."""

    async def behave(exchange: servers.Exchange) -> None:
        n = min(exchange.server.seen.in_flight, 100)  # so that it recovers from a level that was too much
        await asyncio.sleep((1 + a * (n - 1) + b * n * (n - 1)) / g)
        exchange.send(b"{}")

    return behave


def one_at_a_time(each_s: float) -> Behaviour:
    """A server that holds each answer until the one before has gone, and then for a while."""

    async def behave(exchange: servers.Exchange) -> None:
        loop, planted = asyncio.get_running_loop(), exchange.server.__dict__
        planted["free_s"] = max(planted.get("free_s", 0.0), loop.time()) + each_s
        await asyncio.sleep(planted["free_s"] - loop.time())
        exchange.send(b"{}")

    return behave


def sweep(behaviour: Behaviour, objectives: list[str], **more: object) -> tuple[CapacityResult, Recording]:
    scenario = {"executor": "capacity", "level_s": 1.0, "warm_up_s": 0.2, "timeout_s": 1.0, "request": "one", **more}
    plan = LoadPlan.model_validate({"scenarios": {"c": scenario}, "objectives": objectives, "generator": GENERATOR})
    with Server(behaviour) as server:
        target = Target.model_validate({"name": "planted", "kind": "external", "base_url": server.url, "requests": {"one": "GET /"}})
        recording = validation.run(plan, target)
    found = validation.find_capacity(recording, plan)
    assert found is not None
    return found, recording


@pytest.mark.timeout(120)
def test_a_server_of_known_scalability_is_recovered() -> None:
    """The knee lies below the law's peak of 938/s, not far, and the fitted law is the planted one but for what a busy machine adds."""
    g, a, b = 100.0, 0.02, 0.002
    peak_rps = g * 22 / (1 + a * 21 + b * 22 * 21)
    found, _ = sweep(scalable(g, a, b), ["p95_ms < 100", "success_ratio > 0.9"], start_rate_rps=100, max_rate_rps=4000)
    assert found.knee_rps is not None
    assert found.knee_high_rps is not None
    assert 0.6 * peak_rps < found.knee_rps < 1.05 * peak_rps
    assert found.knee_high_rps / found.knee_rps < 1.3
    law = found.usl
    assert law is not None
    assert 0.7 * g < law.gamma_rps.value < 1.1 * g  # a real server sleeps a little longer than it means to
    assert abs(law.alpha.value - a) < 0.04
    assert b / 3 < law.beta.value < 3 * b
    assert len(found.levels) >= 6


@pytest.mark.timeout(120)
def test_a_sweep_learns_from_what_it_misses() -> None:
    """A server that does 500/s at most is never asked for more than twice that, and each level has a warm-up of its own."""
    found, recording = sweep(
        one_at_a_time(0.002), ["p95_ms < 400", "success_ratio > 0.9"], start_rate_rps=200, max_rate_rps=8000, levels_max=6
    )
    rates = [one.rate_rps for one in found.levels]
    assert max(rates) <= 1600
    assert found.knee_rps is not None
    assert 150 < found.knee_rps < 520
    assert all(one.verdict == Verdict.FAIL for one in found.levels if one.rate_rps > 600)
    names, warm_up = recording.samples.column("scenario").to_numpy(), recording.samples.column("warm_up").to_numpy()
    assert all(warm_up[names == name].any() and not warm_up[names == name].all() for name in recording.context.rates_rps)
