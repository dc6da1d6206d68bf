"""Every objective yields a check, and the search for the knee brackets it, stops, and claims no more than was measured."""

import contextlib
import dataclasses
from dataclasses import replace

import numpy as np
import pytest
import servers
from engines import WIDE, target_at
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from samples import GENERATOR, START_NS, burst, recording
from servers import Exchange, Server

from tapecheck.load import session
from tapecheck.load.analysis import summarize
from tapecheck.load.capacity import Level, conclude, next_rate
from tapecheck.load.capacity import level as level_of
from tapecheck.load.engine.recorder import Measurement
from tapecheck.load.engine.work import Work
from tapecheck.load.plan import METRICS, Capacity, GeneratorLimits, LoadPlan
from tapecheck.load.recording import Recording
from tapecheck.load.session import Generator
from tapecheck.load.validation import load
from tapecheck.verdict import OPERATORS, Verdict, parse

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


# ---- every objective of a plan ----

PACED: dict[str, dict[str, object]] = {
    "burst": {"executor": "burst", "concurrency": 10},
    "closed": {"executor": "closed", "concurrency": 2, "duration_s": 1},
    "constant_rate": {"executor": "constant_rate", "rate_rps": 10, "duration_s": 1},
    "ramping_rate": {"executor": "ramping_rate", "stages": [{"rate_rps": 10, "duration_s": 1}]},
    "capacity": {"executor": "capacity", "start_rate_rps": 100, "max_rate_rps": 400},
}


def recorded(plan: LoadPlan, level_ms: float = 5.0, highest_ms: float = 900.0) -> Recording:
    """What a run of a plan leaves behind; of a sweep three levels, of which the highest is slow."""
    names = [name for name, scenario in plan.scenarios.items() if scenario.executor != "capacity"]
    samples = {name: burst(np.full(400, 5.0), per_round=100) for name in names}
    levels = {}
    for rate in (100.0, 200.0, 400.0) if plan.sweeps else ():
        took_ms = level_ms if rate < 400 else highest_ms
        rows = burst(np.full(400, took_ms))
        rows["intended_ns"] = START_NS + (np.arange(400) / rate * 1e9).astype(np.int64)
        rows["sent_ns"] = rows["intended_ns"]
        rows["done_ns"] = rows["intended_ns"] + int(took_ms * 1e6)
        samples[f"capacity at {rate:g}/s"], levels[f"capacity at {rate:g}/s"] = rows, rate
    found = recording(samples)
    executors = {name: plan.scenarios[name].executor for name in names} | dict.fromkeys(levels, "capacity")
    generator = dict.fromkeys(samples, GENERATOR)
    return replace(found, context=replace(found.context, executors=executors, generator=generator, rates_rps=levels))


def is_accepted(text: str) -> bool:
    """Tell whether a value of the metric can decide it."""
    with contextlib.suppress(ValueError):
        return bool(parse(text, METRICS, PACED))
    return False


def judged(plan: LoadPlan, found: Recording) -> list[tuple[str, str, Verdict, str]]:
    checks = load.judge(load.summarize(found, plan), plan)
    return [(c.name, c.objective, c.verdict, c.reason) for c in checks]


@settings(max_examples=12)
@given(st.data())
def test_every_objective_that_a_plan_accepts_yields_a_check(data: st.DataObject) -> None:
    """Whatever it is about and whichever scenarios are chosen of the plan: one check a scenario, and a reason where it is no pass."""
    kinds = data.draw(st.lists(st.sampled_from(sorted(PACED)), min_size=1, max_size=4, unique=True))
    scenarios = {kind: {**PACED[kind], "request": "one"} for kind in kinds}
    scopes = st.sampled_from(["", *(f"{kind}." for kind in kinds)])
    limits = st.sampled_from([0.5, 1, 20, 1000, 2_000_000])
    objective = st.builds("{}{} {} {}".format, scopes, st.sampled_from(METRICS), st.sampled_from(sorted(OPERATORS)), limits)
    one_a_side = st.lists(objective.filter(is_accepted), min_size=1, max_size=6, unique_by=lambda text: text.rstrip("0123456789. ="))
    texts = data.draw(one_a_side)
    plan = LoadPlan.model_validate({"scenarios": scenarios, "objectives": texts})
    for found in (recorded(plan), recording({}), recording({"elsewhere": burst(np.full(400, 5.0))})):
        checks = judged(plan, found)
        for one in plan.parsed:
            mine = [c for c in checks if c[1] == str(one)]
            assert mine, f"{one} yields no check"
            assert len({c[0] for c in mine}) == len(mine)
            assert all(reason for *_, reason in mine)
            if one.scope:
                assert [c[0] for c in mine] == [one.scope]


def sweep_judged(*objectives: str) -> LoadPlan:
    return LoadPlan.model_validate({"scenarios": {"capacity": {**PACED["capacity"], "request": "one"}}, "objectives": list(objectives)})


def test_a_sweep_alone_is_judged_at_the_highest_rate_that_holds() -> None:
    """`-p scenarios capacity` has a check for each objective, each with the rate at which it was met."""
    plan = sweep_judged("p95_ms < 100", "p99_ms < 2000", "success_ratio > 0.9", "throughput_rps > 150", "capacity.throughput_rps > 300")
    assert judged(plan, recorded(plan)) == [
        ("capacity", "p95_ms < 100", Verdict.PASS, "at 200/s: met"),
        ("capacity", "p99_ms < 2000", Verdict.PASS, "at 200/s: met"),
        ("capacity", "success_ratio > 0.9", Verdict.PASS, "at 200/s: met, with 95 % confidence"),
        ("capacity", "throughput_rps > 150", Verdict.PASS, "at 200/s: met"),
        ("capacity", "capacity.throughput_rps > 300", Verdict.FAIL, "at 200/s: 200 misses > 300"),
    ]


def test_an_objective_of_the_sweep_decides_its_knee_and_is_judged() -> None:
    """Scoped to the capacity scenario it is no longer ignored: no rate holds, and it fails at the lowest."""
    plan = sweep_judged("capacity.p95_ms < 100")
    assert [c[2] for c in judged(plan, recorded(plan))] == [Verdict.PASS]
    slow = recorded(plan, level_ms=500.0)
    found = load.summarize(slow, plan).capacity
    assert found is not None and found.knee_rps is None
    assert judged(plan, slow) == [("capacity", "capacity.p95_ms < 100", Verdict.FAIL, "at 100/s: 500 misses < 100")]


def test_a_sweep_that_met_no_limit_denies_no_throughput() -> None:
    """Where every rate held, a throughput that none reached is invalid and not missed: nobody asked for more."""
    plan = sweep_judged("throughput_rps > 1000", "p95_ms < 5000")
    (_, _, verdict, reason), _ = judged(plan, recorded(plan, highest_ms=5.0))
    assert (verdict, reason) == (Verdict.INVALID, "at 400/s: no higher rate that counts was measured, so that there may be more")


def test_beside_other_scenarios_a_sweep_adds_no_miss() -> None:
    """An objective for all of them ends the sweep, which must miss it in the end; only those of its own are judged in it."""
    scenarios = {kind: {**PACED[kind], "request": "one"} for kind in ("burst", "capacity")}
    plan = LoadPlan.model_validate({"scenarios": scenarios, "objectives": ["p95_ms < 100", "capacity.throughput_rps > 150"]})
    assert [(name, verdict) for name, _, verdict, _ in judged(plan, recorded(plan))] == [("burst", "pass"), ("capacity", "pass")]


@settings(max_examples=60)
@given(
    start=st.floats(1e-6, 1e5), top=st.floats(1e-6, 1e5), level_s=st.floats(1e-9, 600), warm_up_s=st.floats(0, 60),
    factor=st.floats(1.1, 10), levels_max=st.integers(6, 50), met=st.lists(st.booleans(), min_size=50, max_size=50),
)  # fmt: skip
def test_every_rate_that_an_accepted_sweep_asks_for_can_be_sent(
    start: float, top: float, level_s: float, warm_up_s: float, factor: float, levels_max: int, met: list[bool]
) -> None:
    """However slow, short or fickle: a plan is refused when it is read, or none of its levels is, and all end in ten minutes."""
    given = {"start_rate_rps": start, "max_rate_rps": top, "level_s": level_s, "warm_up_s": warm_up_s, "factor": factor}
    try:
        plan = Capacity.model_validate({"executor": "capacity", "request": "one", "levels_max": levels_max, **given})
    except ValidationError:
        return
    tried: dict[float, bool] = {}
    took_s = 0.0
    while (rate := next_rate(plan, tried)) is not None:
        level = plan.level(rate)
        took_s += level.duration_s + level.warm_up_s
        assert level.schedule.total >= 1
        tried[rate] = met[len(tried)]
    assert took_s <= 600.001


@pytest.mark.parametrize(
    ("scenario", "text"),
    [
        ({"executor": "capacity", "start_rate_rps": 0.5, "max_rate_rps": 400, "level_s": 2}, "start_rate_rps at least 1.18"),
        ({"executor": "constant_rate", "rate_rps": 1e-9, "duration_s": 1}, "at least one request"),
        ({"executor": "constant_rate", "rate_rps": 1, "duration_s": 1e-8}, "at least one request"),
        ({"executor": "ramping_rate", "start_rate_rps": 0, "stages": [{"rate_rps": 1e-6, "duration_s": 0.1}]}, "at least one request"),
    ],
)
def test_what_could_not_be_sent_is_refused_when_the_plan_is_read(scenario: dict[str, object], text: str) -> None:
    """It says what would do, and nothing crashes in mid-run."""
    with pytest.raises(ValidationError, match=text):
        LoadPlan.model_validate({"scenarios": {"s": {**scenario, "request": "one"}}})


def test_two_sweeps_are_refused() -> None:
    """Their levels would be taken for those of one."""
    scenarios = {name: {**PACED["capacity"], "request": "one"} for name in ("a", "b")}
    with pytest.raises(ValidationError, match="at most one scenario of executor capacity, these are a, b"):
        LoadPlan.model_validate({"scenarios": scenarios})


def test_the_smallest_scenarios_that_are_accepted_are_measured() -> None:
    """A duration of next to nothing sends what is due in it, and every objective has its check."""
    smallest: dict[str, dict[str, object]] = {
        "users": {"executor": "closed", "concurrency": 3, "duration_s": 1e-9},
        "rate": {"executor": "constant_rate", "rate_rps": 0.001, "duration_s": 0.001},
        "ramp": {"executor": "ramping_rate", "start_rate_rps": 0, "stages": [{"rate_rps": 0.5, "duration_s": 0.01}]},
        "burst": {"executor": "burst", "concurrency": 1, "warm_up_s": 1e-9, "timeout_s": 30},
        "sweep": {"executor": "capacity", "start_rate_rps": 3000, "max_rate_rps": 3000.1, "level_s": 1e-6, "levels_max": 6},
    }
    scenarios = {name: {**scenario, "request": "one"} for name, scenario in smallest.items()}
    limits = ("mean_ms < 60000", "p99_ms < 60000", "throughput_rps > 0")
    objectives = [f"{name}.{limit}" for name in smallest for limit in limits]
    data = {"scenarios": scenarios, "objectives": objectives, "generator": {"lag_p99_ms": 1e6, "cpu_ratio": 1, "achieved_ratio": 1e-9}}
    plan = LoadPlan.model_validate(data)
    with Server(servers.fast) as server:
        found = load.run(plan, target_at(server.url))
    assert {objective for _, objective, _, _ in judged(plan, found)} == set(plan.objectives)
