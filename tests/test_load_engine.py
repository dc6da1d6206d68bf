"""The executors against real sockets: load is what it says it is, nothing hangs, and every request is a row."""

import time

import numpy as np
import pytest
import servers
from engines import GET, PARAMETERS, errors, requests_for, response_ms, run, schedule, service_ms, work_for
from servers import Server

from tapecheck.errors import MeasurementError
from tapecheck.load.engine import pool
from tapecheck.load.engine.engine import measure
from tapecheck.load.engine.recorder import SAMPLE
from tapecheck.load.engine.work import MAX_ROUNDS
from tapecheck.target.file import RequestTemplate

BURST, CLOSED, OPEN = {"rounds": 3}, {"duration_s": 0.15}, {"rate_rps": 200, "duration_s": 0.3}
every_shape = pytest.mark.parametrize("shape", [BURST, CLOSED, OPEN], ids=["burst", "closed", "open"])


# ---- load is what it says ----


def test_requests_of_a_burst_are_in_flight_together() -> None:
    """The server sees all 50 at once and answers only then; an engine that awaits one by one gets no answer."""
    measured, server = run(servers.together(50), concurrency=50, rounds=2)
    assert errors(measured.samples) == {"none": 100}
    assert server.seen.peak == 50
    assert run(servers.slow(0.02), duration_s=0.3)[1].seen.peak == 10, "users of a closed scenario likewise, and never more"


@pytest.mark.parametrize("shape", [BURST, CLOSED])
def test_connections_are_reused(shape: dict[str, object]) -> None:
    """Many requests travel on at most `concurrency` connections: a new one per request is the planted bug."""
    measured, server = run(servers.fast, **shape)
    assert len(measured.samples) >= 30
    assert server.seen.connections <= 10
    assert measured.connections == server.seen.connections
    assert (~measured.samples["connection_reused"].astype(bool)).sum() <= 10


def test_fewer_connections_than_requests_make_the_rest_wait_and_count_it() -> None:
    """With 2 connections, the last of 10 requests of 50 ms has the service times of all before it in its response time."""
    measured, server = run(servers.slow(0.05), max_connections=2)
    assert server.seen.peak == 2
    for number in np.unique(measured.samples["connection"]):
        own = measured.samples[measured.samples["connection"] == number]
        assert (own["sent_ns"][1:] >= own["done_ns"][:-1]).all()
        assert service_ms(own).min() >= 49
        assert response_ms(own).max() >= service_ms(own).sum()
    assert response_ms(measured.samples).max() >= 245


def test_a_round_has_one_intended_start_and_rounds_do_not_overlap() -> None:
    """All requests of a round are meant to start at one instant, after the round before has ended."""
    samples = run(servers.slow(0.005), rounds=3)[0].samples
    starts = [np.unique(samples["intended_ns"][samples["round"] == r]) for r in range(3)]
    assert [len(start) for start in starts] == [1, 1, 1]
    for r in (1, 2):
        assert starts[r][0] >= samples["done_ns"][samples["round"] == r - 1].max()


@pytest.mark.parametrize("behaviour", [servers.fast, servers.closes_after_each])
def test_connections_of_a_burst_are_opened_before_its_clock_starts(behaviour: servers.Behaviour) -> None:
    """Every request of every round finds an idle connection, also when the target closes them after each answer."""
    measured, _ = run(behaviour, rounds=3)
    assert not measured.samples["waited"].any()
    assert len(measured.dispatch_lag_ms) == 30


def test_a_user_is_meant_to_send_when_it_became_free() -> None:
    """In a closed scenario every intended start but the first ones is the end of an earlier request."""
    samples = run(servers.fast, duration_s=0.2, concurrency=3)[0].samples
    assert set(samples["intended_ns"][3:]) <= set(samples["done_ns"])


@every_shape
def test_combinations_are_taken_in_order_and_all_reach_the_server(shape: dict[str, object]) -> None:
    """Request i uses combination i mod k, in the order of the YAML with the last parameter fastest."""
    measured, server = run(servers.fast, **shape)
    n = len(measured.samples)
    assert n == server.seen.requests and errors(measured.samples) == {"none": n}
    assert (measured.samples["request"] == np.arange(n) % 6).all()
    expected = [f"/features/{s}?symbol={s}&limit={limit}" for s in PARAMETERS["symbol"] for limit in PARAMETERS["limit"]]
    assert set(server.seen.paths) == set(expected)
    assert [r.url.split("//")[1].partition("/")[2] for r in requests_for(server.url)] == [path[1:] for path in expected]


@every_shape
def test_warm_up_is_stored_and_flagged_and_the_rest_starts_at_the_first_combination(shape: dict[str, object]) -> None:
    """Warm-up requests come first, carry the flag, and do not shift the order of combinations; an open model's are at its rate."""
    measured, _ = run(servers.slow(0.002), warm_up_s=0.1, **shape)
    warm = measured.samples["warm_up"].astype(bool)
    count = int(warm.sum())
    assert 0 < count < len(warm) and warm[:count].all()
    assert count == 20 or "rate_rps" not in shape
    counted = measured.samples[count:]
    assert counted["intended_ns"].min() >= measured.started_ns - 5_000_000
    assert (counted["request"] == np.arange(len(counted)) % 6).all()


def test_the_rounds_of_a_warm_up_are_not_numbered() -> None:
    """However many rounds a warm-up has, all are number 0, and every number that a plan may reach has room in a sample."""
    samples = run(servers.fast, warm_up_s=0.4, rounds=3)[0].samples
    warm = samples["warm_up"].astype(bool)
    assert len(np.unique(samples["intended_ns"][warm])) > 3
    assert set(samples["round"][warm]) == {0}
    assert list(samples["round"][~warm]) == [0] * 10 + [1] * 10 + [2] * 10
    assert np.iinfo(SAMPLE["round"]).max >= MAX_ROUNDS


def test_a_closed_scenario_lasts_as_long_as_it_says() -> None:
    """Nobody is meant to send after duration_s, and what is in flight is waited for."""
    measured, _ = run(servers.slow(0.05), duration_s=0.4)
    assert measured.ended_ns - measured.started_ns >= 0.4e9
    assert measured.samples["intended_ns"].max() < measured.started_ns + 0.4e9
    assert errors(measured.samples) == {"none": len(measured.samples)}


def test_requests_are_meant_for_the_instants_of_the_schedule_and_sent_when_they_are_due() -> None:
    """Intended starts are those of the schedule to the nanosecond; none leaves before its instant, and a tenth within 0.3 ms of it."""
    measured, _ = run(servers.fast, rate_rps=200, duration_s=0.5)
    samples = measured.samples
    assert (samples["intended_ns"] - samples["intended_ns"][0] == schedule(200, 0.5).due_ns(np.arange(100))).all()
    assert (measured.dispatch_lag_ms >= 0).all() and np.quantile(measured.dispatch_lag_ms, 0.1) < 0.3
    assert 0.3 < measured.achieved_ratio < 1.05


def test_a_frozen_target_is_measured_from_the_intended_starts() -> None:
    """Frozen 0.5 s of 2 s: each of the 100 requests meant for then waits for its end, so p95 is 0.4 s and p99 0.48 s at least."""
    frozen_ns: list[int] = []

    async def freezing(exchange: servers.Exchange) -> None:
        if exchange.number == 140:
            frozen_ns.append(time.monotonic_ns())
            time.sleep(0.5)
            frozen_ns.append(time.monotonic_ns())
        await servers.fast(exchange)

    with Server(freezing) as server:
        samples = measure(work_for(server, rate_rps=200, duration_s=2.0)).samples
    assert errors(samples) == {"none": 400}
    began_ns, ended_ns = frozen_ns
    waiting = samples[(samples["intended_ns"] > began_ns) & (samples["intended_ns"] < ended_ns)]
    assert len(waiting) >= 99 and (waiting["done_ns"] >= ended_ns).all()
    assert (np.quantile(response_ms(samples), [0.95, 0.99]) >= [392, 470]).all()


def test_late_requests_are_sent_late_and_all_are_counted() -> None:
    """One connection to a target that needs 20 ms: 50 requests take a second, which is response time, not service time."""
    measured, server = run(servers.slow(0.02), rate_rps=200, duration_s=0.25, max_connections=1)
    samples = measured.samples
    assert errors(samples) == {"none": 50}
    assert server.seen.peak == server.seen.connections == 1
    assert (samples["sent_ns"][1:] >= samples["done_ns"][:-1]).all()
    assert response_ms(samples).max() > 700 > 5 * service_ms(samples).min()
    assert samples["waited"].mean() > 0.9
    assert (
        measured.achieved_ratio is not None and measured.achieved_ratio > 0.5
    )  # the target is late, not the generator; by waits it were 0.25


def test_connections_grow_as_they_are_needed_and_no_further() -> None:
    """A target that needs 100 ms at 200 a second occupies about 20 connections, and by no means one a request; a limit of 7 holds."""
    assert 18 <= run(servers.slow(0.1), rate_rps=200, duration_s=1.0)[1].seen.connections <= 120
    assert run(servers.slow(0.1), rate_rps=200, duration_s=0.3, max_connections=7)[1].seen.connections == 7


def test_a_rate_beyond_what_is_possible_still_ends_and_drops_nothing() -> None:
    """At 50,000 a second into 50 connections every request is a row, and the end comes timeout_s after the schedule's."""
    began = time.monotonic()
    measured, _ = run(servers.fast, rate_rps=50_000, duration_s=0.1, timeout_s=0.5, max_connections=50)
    assert len(measured.samples) == 5_000
    assert time.monotonic() - began < 40


# ---- a target that fails ----


@pytest.mark.parametrize(("shape", "fresh"), [(BURST, False), (OPEN, False), (CLOSED, True)], ids=["burst", "open", "closed"])
def test_a_refused_connection_is_a_row(shape: dict[str, object], fresh: bool) -> None:
    """Without a target every request fails as connect_refused when its time comes, never sent, and the scenario ends in time."""
    samples = measure(work_for(servers.free_port(), fresh_connections=fresh, **shape)).samples
    assert set(errors(samples)) == {"connect_refused"}
    assert (samples["sent_ns"] == 0).all()
    assert len(samples) == 60 or "rate_rps" not in shape


@pytest.mark.parametrize("shape", [CLOSED, {"rate_rps": 100, "duration_s": 0.3}], ids=["closed", "open"])
def test_what_is_in_flight_at_the_end_is_waited_for_or_censored(shape: dict[str, object]) -> None:
    """A silent target: a timeout for each that had timeout_s, a censored row for the rest, no waiting beyond; a slow one is waited for."""
    began = time.monotonic()
    samples = run(servers.silent, timeout_s=0.4, **shape)[0].samples
    assert time.monotonic() - began < 20  # the server keeps silent for 60 s
    assert set(errors(samples)) <= {"timeout", "censored"}
    assert response_ms(samples).min() >= 390  # its timer may have begun a moment before it counts as sent, never before it was due
    slow = run(servers.slow(0.3), **shape)[0].samples
    assert errors(slow) == {"none": len(slow)}


@pytest.mark.parametrize("shape", [{"rounds": 1}, {"rate_rps": 100, "duration_s": 0.1}], ids=["burst", "open"])
def test_requests_that_never_get_a_connection_are_counted(shape: dict[str, object]) -> None:
    """With one connection to a silent server the others give up, unsent, and every one is recorded."""
    samples = run(servers.silent, timeout_s=0.3, max_connections=1, **shape)[0].samples
    assert len(samples) == 10 and set(errors(samples)) <= {"timeout", "no_connection", "censored"}
    assert (samples["sent_ns"] == 0).sum() >= 7


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("behaviour", [servers.silent, servers.half_then_silence])
def test_a_timeout_stays_in_the_samples_as_at_least_that_long(behaviour: servers.Behaviour, fresh: bool) -> None:
    """A request without a whole answer is a row that took timeout_s, connecting included, not a missing one."""
    samples = run(behaviour, timeout_s=0.3, fresh_connections=fresh)[0].samples
    assert errors(samples) == {"timeout": 10}
    assert 300 <= service_ms(samples).min() < 3000


def test_a_port_that_lets_nobody_in_is_a_connect_timeout() -> None:
    """Without an answer to the attempt to connect, each request fails so after timeout_s."""
    with servers.full_port() as port:
        samples = measure(work_for(port, concurrency=3, timeout_s=0.3)).samples
    assert set(errors(samples)) <= {"connect_timeout", "no_connection"}
    assert (samples["sent_ns"] == 0).all()


def test_a_post_sends_its_body() -> None:
    """The template's body arrives filled, with its length and type."""
    template = RequestTemplate.model_validate({"request": "POST /trigger", "body": '{"symbol": "{symbol}"}'})
    with Server(servers.fast) as server:
        samples = measure(work_for(server, requests_for(server.url, template=template, parameters={"symbol": ["A", 'B"C']}))).samples
    assert errors(samples) == {"none": 10}
    assert set(server.seen.bodies) == {b'{"symbol": "A"}', b'{"symbol": "B\\"C"}'}
    assert b"content-type: application/json" in server.seen.heads[0].lower()


def test_wrong_content_is_a_failure() -> None:
    """A fast answer of 200 about another symbol is an error in every answer that was checked."""
    template = RequestTemplate.model_validate({"request": GET, "expect": {"json": {"symbol": "{symbol}", "limit": "{limit}"}}})
    for behaviour, wrong in ((servers.wrong_symbol, True), (servers.fast, False)):
        with Server(behaviour) as server:
            measured = measure(work_for(server, requests_for(server.url, template=template), rounds=3))
        assert measured.checked == 18  # the first of each of 6 combinations in 3 rounds
        assert errors(measured.samples).get("content", 0) == (18 if wrong else 0)


def test_a_bug_of_ours_ends_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception in a callback is never lost in the event loop, to hang there or to pass for a target's fault."""
    monkeypatch.setattr(pool.Pool, "ended", lambda *_: 1 / 0)
    with Server(servers.fast) as server, pytest.raises(MeasurementError, match="division by zero"):
        measure(work_for(server))


@pytest.mark.parametrize("shape", [{"duration_s": 60.0}, {"rounds": 200_000}, {"rate_rps": 100, "duration_s": 30.0}])
def test_a_stop_ends_the_measurement_at_once(shape: dict[str, object]) -> None:
    """The parent's wish to stop is obeyed long before the end."""

    class Control(list[int]):
        def __getitem__(self, i: int) -> int:  # type: ignore[override]
            return int(i == 1 and time.monotonic() > began + 0.2)

    began = time.monotonic()
    with Server(servers.fast) as server, pytest.raises(MeasurementError, match="stopped"):
        measure(work_for(server, **shape), Control([0] * 4))
    assert time.monotonic() - began < 20
