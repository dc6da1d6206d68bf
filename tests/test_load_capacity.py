"""The search for the knee brackets it, stops, and claims no more than was measured."""

import dataclasses

import numpy as np
import pytest
from engines import WIDE, target_at
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import GENERATOR, burst, recording
from servers import Exchange, Server

from tapecheck.load import session
from tapecheck.load.analysis import summarize
from tapecheck.load.capacity import Level, conclude, next_rate
from tapecheck.load.capacity import level as level_of
from tapecheck.load.engine.recorder import Measurement
from tapecheck.load.engine.work import Work
from tapecheck.load.plan import METRICS, Capacity, GeneratorLimits, LoadPlan
from tapecheck.load.session import Generator
from tapecheck.load.validation import load
from tapecheck.verdict import Verdict, parse

SEARCH = Capacity(executor="capacity", request="features", start_rate_rps=50, max_rate_rps=10_000)


def sweep(search: Capacity, knee_rps: float) -> dict[float, bool]:
    tried: dict[float, bool] = {}
    while (rate := next_rate(search, tried)) is not None:
        assert rate not in tried, "a rate is tried once"
        tried[rate] = rate <= knee_rps
        assert len(tried) <= search.levels_max
    return tried


def level(rate: float, verdict: Verdict, throughput: float | None = None) -> Level:
    x = throughput if throughput is not None else rate
    return Level(
        scenario=f"r{rate}",
        rate_rps=rate,
        throughput_rps=x,
        sustained_ratio=1.0,
        concurrency=x / 100,
        p95_ms=None,
        success_ratio=1.0,
        verdict=verdict,
        reason="",
        steady=verdict != Verdict.INVALID,
    )


@pytest.mark.parametrize(
    ("tried", "rate"),
    [
        ({}, 50),
        ({50: True}, 100),
        ({50: True, 100: True}, 200),
        ({50: True, 100: False}, pytest.approx(70.71, abs=0.01)),
        ({50: False}, 25),
        ({10_000: True}, 5000),
        ({6000.0: True}, 10_000),
    ],
)
def test_next_rate(tried: dict[float, bool], rate: float | None) -> None:
    """Rates double while objectives are met, never beyond the limit, and halve the gap once one is missed."""
    assert next_rate(SEARCH, tried) == rate


@settings(max_examples=40)
@given(st.floats(1, 20_000))
def test_every_sweep_ends_and_brackets_the_knee(knee_rps: float) -> None:
    """Wherever the knee is, the sweep stops, has enough levels for a fit, and brackets it or reaches an end."""
    tried = sweep(SEARCH, knee_rps)
    good, bad = [r for r, met in tried.items() if met], [r for r, met in tried.items() if not met]
    assert len(tried) >= SEARCH.levels_min
    assert not good or max(good) <= knee_rps
    assert not bad or min(bad) > knee_rps
    if good and bad:
        assert min(bad) / max(good) - 1 <= SEARCH.precision_ratio + 1e-9 or len(tried) == SEARCH.levels_max


P, N, F, NO = Verdict.PASS, Verdict.NOT_PROVEN, Verdict.FAIL, Verdict.INVALID


@pytest.mark.parametrize(
    ("tried", "knee", "note"),
    [
        ([(50, P), (100, P), (400, P), (500, F), (800, F)], (400, 400, 500), "up to 400/s, and one missed at 500/s"),
        ([(100, P), (200, F), (300, P)], (100, 100, 200), "up to 100/s, and one missed at 200/s"),  # a pass above a miss is luck
        ([(100, P), (200, P), (400, NO)], (200, 200, None), "up to 200/s, and no higher rate that counts missed one: the knee lies beyond"),
        ([(10, F)], (None, None, 10), "no rate that was tried meets every objective"),
        ([(100, P), (200, NO), (200, N), (400, F)], (200, 100, 400), "up to 200/s (proven up to 100/s), and one missed at 400/s"),
        ([(100, N), (200, F)], (100, None, 200), "up to 100/s (none of them proven), and one missed at 200/s"),
    ],
)
def test_the_knee_is_the_highest_rate_that_held_below_a_miss(
    tried: list[tuple[float, Verdict]], knee: tuple[float | None, ...], note: str
) -> None:
    """With the gap as its interval; an attempt that was invalid bounds nothing, and a rate that was tried again counts once."""
    found = conclude([level(rate, verdict) for rate, verdict in tried])
    assert (found.knee_rps, found.proven_rps, found.knee_high_rps) == knee and found.knee_low_rps == found.knee_rps
    assert found.knee_note.endswith(note)
    assert len(found.levels) == len({rate for rate, _ in tried})


def test_no_law_without_six_levels_that_count() -> None:
    """Five levels and an invalid one fit nothing."""
    found = conclude([level(r, Verdict.PASS) for r in (1, 2, 4, 8, 16)] + [level(32, Verdict.INVALID)])
    assert found.usl is None
    assert "too few levels (5); at least 6 needed" in found.law_note


def test_a_queue_that_grows_is_a_miss_though_answers_come_in_time() -> None:
    """Half as many answers as requests in each second miss no objective of a level that is short; the shortfall does."""
    rows = burst(np.linspace(10, 1010, 500))
    rows["intended_ns"] += np.linspace(0, 5e8, 500).astype(np.int64)  # asked within half a second, answered within one
    rec = recording({"c at 1000/s": rows}, executor="capacity")
    summary = summarize(rec, GeneratorLimits(lag_p99_ms=20))["c at 1000/s"]
    objectives = [parse("p95_ms < 5000", METRICS)]
    growing, steady = (level_of("c", rate, summary, objectives, 0.95) for rate in (1000.0, 400.0))
    assert (growing.verdict, growing.steady) == (Verdict.FAIL, False)
    assert "a queue grows" in growing.reason
    assert (steady.verdict != Verdict.FAIL, steady.steady) == (True, True)


@pytest.mark.parametrize("texts", [[], ["p95_ms < 5000"]])
def test_a_level_whose_generator_was_the_limit_is_invalid_whatever_the_objectives_are(texts: list[str]) -> None:
    """Without an objective for all scenarios too: it is not steady, so no law is fitted to it, and the reason is the generator's."""
    rec = recording(
        {"c at 100/s": burst(np.full(500, 4000.0))}, executor="capacity", generator=dataclasses.replace(GENERATOR, cpu_ratio=0.99)
    )
    summary = summarize(rec, GeneratorLimits(lag_p99_ms=20))["c at 100/s"]
    found = level_of("c at 100/s", 100.0, summary, [parse(text, METRICS) for text in texts], 0.95)
    assert (found.verdict, found.steady) == (Verdict.INVALID, False)
    assert "the generator used 99% of its core" in found.reason


# ---- end to end; `make bench` fits the law of a server that slows down ----

LIMIT_RPS = 1200


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
    scenario = {"executor": "capacity", "level_s": 0.2, "warm_up_s": 0.05, "timeout_s": 20.0, "sustained_ratio": 0.01, "request": "one"}
    rates = {"start_rate_rps": 400, "max_rate_rps": 8000, "precision_ratio": 0.3}
    objectives = ["success_ratio > 0.9", "p95_ms < 60000"]
    plan = LoadPlan.model_validate({"scenarios": {"c": scenario | rates}, "objectives": objectives, "generator": WIDE})
    with Server(limited) as server:
        recording = load.run(plan, target_at(server.url))
    found = load.summarize(recording, plan).capacity
    assert found is not None
    assert found.knee_rps is not None and found.knee_high_rps is not None
    assert found.knee_rps <= LIMIT_RPS < found.knee_high_rps <= 1.3 * found.knee_rps
    assert max(one.rate_rps for one in found.levels) <= 2 * LIMIT_RPS
    assert all((one.verdict == Verdict.FAIL) == (one.rate_rps > LIMIT_RPS) for one in found.levels)
    names, warm_up = recording.samples.column("scenario").to_numpy(), recording.samples.column("warm_up").to_numpy()
    assert all(warm_up[names == name].any() and not warm_up[names == name].all() for name in recording.context.rates_rps)
