"""A capacity sweep end to end, against a real server that fails beyond a known rate; `make bench` fits the law of one that slows down."""

import pytest
from servers import Exchange, Server

from tapecheck.load import session
from tapecheck.load.engine.recorder import Measurement
from tapecheck.load.engine.work import Work
from tapecheck.load.generator import Generator
from tapecheck.load.plan import LoadPlan
from tapecheck.load.validation import load
from tapecheck.target.file import Target
from tapecheck.verdict import Verdict

WIDE = {"lag_p99_ms": 10_000, "dispatch_lag_p99_ms": 10_000, "cpu_ratio": 1, "achieved_ratio": 0.05}  # this machine may be busy
LIMIT_RPS = 300


class Limited:
    """Fails every other request of a level at more than `LIMIT_RPS`; how busy the machine is makes no difference."""

    rate_rps = 0.0

    async def __call__(self, exchange: Exchange) -> None:
        exchange.send(b"{}", status=500 if self.rate_rps > LIMIT_RPS and exchange.number % 2 else 200)


def test_a_sweep_finds_where_a_server_begins_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """The knee and the rate above it bracket the limit, no level is far beyond a miss, and each has a warm-up of its own."""
    limited = Limited()

    class Told(Generator):
        def measure(self, work: Work, **how: object) -> Measurement:
            assert work.schedule is not None
            limited.rate_rps = work.schedule.stages[-1].start_rps
            return super().measure(work, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(session, "Generator", Told)
    scenario = {"executor": "capacity", "level_s": 0.5, "warm_up_s": 0.1, "timeout_s": 20.0, "request": "one"}
    rates = {"start_rate_rps": 100, "max_rate_rps": 8000}
    objectives = ["success_ratio > 0.9", "p95_ms < 60000"]
    plan = LoadPlan.model_validate({"scenarios": {"c": scenario | rates}, "objectives": objectives, "generator": WIDE})
    with Server(limited) as server:
        target = Target.model_validate({"name": "planted", "kind": "external", "base_url": server.url, "requests": {"one": "GET /"}})
        recording = load.run(plan, target)
    found = load.summarize(recording, plan).capacity
    assert found is not None
    assert found.knee_rps is not None and found.knee_high_rps is not None
    assert found.knee_rps <= LIMIT_RPS < found.knee_high_rps < 1.3 * found.knee_rps
    assert max(one.rate_rps for one in found.levels) <= 2 * LIMIT_RPS
    assert all((one.verdict == Verdict.FAIL) == (one.rate_rps > LIMIT_RPS) for one in found.levels)
    names, warm_up = recording.samples.column("scenario").to_numpy(), recording.samples.column("warm_up").to_numpy()
    assert all(warm_up[names == name].any() and not warm_up[names == name].all() for name in recording.context.rates_rps)
