"""The open model and fresh connections against real sockets: nothing waits for the target but the record of it."""

import threading
import time

import numpy as np
import pytest
import servers
from engines import errors, requests_for, response_ms, run, schedule, service_ms, work_for
from servers import Server

from tapecheck.errors import MeasurementError
from tapecheck.load.engine.engine import measure
from tapecheck.load.engine.recorder import ErrorKind
from tapecheck.load.engine.work import Address, Tls


def test_requests_are_meant_for_the_instants_of_the_schedule() -> None:
    """Intended starts are those of the schedule to the nanosecond, in order, each with its combination, and all reach the target."""
    measured, server = run(servers.fast, rate_rps=300, duration_s=0.5)
    samples = measured.samples
    assert len(samples) == server.seen.requests == 150
    assert (samples["intended_ns"] - samples["intended_ns"][0] == schedule(300, 0.5).due_ns(np.arange(150))).all()
    assert (samples["request"] == np.arange(150) % 6).all()
    assert errors(samples) == {"none": 150}
    assert 0.3 < measured.achieved_ratio < 1.05


def test_they_are_sent_when_they_are_due() -> None:
    """None of them leaves before its instant, and a quarter within 0.3 ms of it, however busy the machine is."""
    measured, _ = run(servers.fast, rate_rps=200, duration_s=1.0)
    assert (measured.dispatch_lag_ms >= 0).all()
    assert np.quantile(measured.dispatch_lag_ms, 0.25) < 0.3


def test_a_ramp_sends_more_and_more() -> None:
    """From 0 to 200 a second in 1 s: 100 requests, a quarter of them in the first half."""
    samples = run(servers.fast, rate_rps=0, end_rps=200, duration_s=1.0)[0].samples
    first_half = (samples["intended_ns"] - samples["intended_ns"][0] < 5e8).sum()
    assert (len(samples), first_half) == (100, 25)


def test_warm_up_is_at_the_same_rate_stored_and_flagged() -> None:
    """Of 0.6 s at 100 a second the first 20 are warm-up, and the first counted one has the first combination."""
    measured, _ = run(servers.fast, rate_rps=100, duration_s=0.4, warm_up_s=0.2)
    assert list(measured.samples["warm_up"]) == [1] * 20 + [0] * 40
    assert (measured.samples["request"][20:] == np.arange(40) % 6).all()


def test_a_frozen_target_is_measured_from_the_intended_starts() -> None:
    """Frozen 0.5 s of 2 s: each of the 100 requests meant for then waits for its end, so p95 is 0.4 s and p99 0.48 s at least."""
    frozen_ns: list[int] = []

    def freeze() -> None:
        frozen_ns.append(time.monotonic_ns())
        time.sleep(0.5)
        frozen_ns.append(time.monotonic_ns())

    with Server(servers.fast) as server:
        work = work_for(server, rate_rps=200, duration_s=2.0)
        threading.Timer(0.7, lambda: server.loop.call_soon_threadsafe(freeze)).start()
        samples = measure(work).samples
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


def test_what_is_in_flight_at_the_end_is_waited_for_or_censored() -> None:
    """A silent target: timeouts for those that had timeout_s, and censored rows of at least their time for what is left at the end."""
    began = time.monotonic()
    samples = run(servers.silent, rate_rps=100, duration_s=0.3, timeout_s=0.4)[0].samples
    assert 0.6 < time.monotonic() - began < 20
    assert len(samples) == 30
    assert set(errors(samples)) <= {"timeout", "censored"}
    assert service_ms(samples).min() >= 390
    slow = run(servers.slow(0.3), rate_rps=100, duration_s=0.2)[0].samples
    assert errors(slow) == {"none": 20}


def test_requests_without_a_connection_for_too_long_are_rows() -> None:
    """One connection to a silent target: the others wait for it in vain, never sent, and every one is recorded."""
    samples = run(servers.silent, rate_rps=100, duration_s=0.3, timeout_s=0.3, max_connections=1)[0].samples
    assert len(samples) == 30
    assert set(errors(samples)) <= {"timeout", "no_connection", "censored"}
    assert (samples["sent_ns"] == 0).sum() >= 25


def test_no_target_is_rows_and_the_schedule_goes_on() -> None:
    """Each request is refused when its time comes."""
    began = time.monotonic()
    samples = measure(work_for(servers.free_port(), rate_rps=100, duration_s=0.4)).samples
    assert errors(samples) == {"connect_refused": 40}
    assert time.monotonic() - began >= 0.39


def test_a_target_that_dies_in_mid_run_gives_every_row() -> None:
    """Successes before, errors after, as many rows as the schedule has."""
    samples = run(servers.dies_after(30), rate_rps=200, duration_s=0.4)[0].samples
    counted = errors(samples)
    assert sum(counted.values()) == 80
    assert counted["none"] == 29
    assert counted["connect_refused"] > 30


def test_a_rate_beyond_what_is_possible_still_ends_and_drops_nothing() -> None:
    """At 100,000 a second into 50 connections every request is a row, and the end comes timeout_s after the schedule's."""
    began = time.monotonic()
    measured, _ = run(servers.fast, rate_rps=100_000, duration_s=0.2, timeout_s=0.5, max_connections=50)
    assert len(measured.samples) == 20_000
    assert time.monotonic() - began < 40


def test_a_stop_ends_the_schedule_at_once() -> None:
    """The parent's wish to stop is obeyed."""
    began = time.monotonic()
    with Server(servers.fast) as server, pytest.raises(MeasurementError, match="stopped"):
        measure(work_for(server, rate_rps=100, duration_s=30.0), [0, 1, 0, 0])
    assert time.monotonic() - began < 20


# ---- fresh connections ----


@pytest.mark.parametrize("how", [{"rounds": 3}, {"duration_s": 0.3}, {"rate_rps": 100, "duration_s": 0.3}])
def test_each_request_has_a_connection_of_its_own(how: dict[str, object]) -> None:
    """The server sees as many connections as requests, and no row says that one was reused."""
    measured, server = run(servers.fast, fresh_connections=True, **how)
    assert errors(measured.samples) == {"none": len(measured.samples)}
    assert server.seen.connections == server.seen.requests == len(measured.samples) == measured.connections
    assert not measured.samples["connection_reused"].any()
    assert len(np.unique(measured.samples["connection"])) == len(measured.samples)


def test_fresh_connections_are_limited_too() -> None:
    """With max_connections of 3 never more than 3 are open, and the rest wait for their turn."""
    measured, server = run(servers.slow(0.02), fresh_connections=True, max_connections=3)
    assert (server.seen.peak, server.seen.connections) == (3, 10)
    assert measured.samples["waited"].sum() == 7
    assert errors(measured.samples) == {"none": 10}


def test_the_time_to_connect_is_part_of_the_service_time(tls_server: Server, ca_file: str) -> None:
    """Against TLS, whose handshake costs time, a fresh connection makes the service time at least twice as long."""
    address = Address(host="127.0.0.1", port=tls_server.port, tls=Tls(server_name="localhost", ca_file=ca_file))
    how = {"address": address, "rate_rps": 50, "duration_s": 0.6, "requests": requests_for(f"https://localhost:{tls_server.port}")}
    warm, cold = (measure(work_for(tls_server, fresh_connections=fresh, **how)).samples for fresh in (False, True))
    assert errors(cold) == {"none": 30}
    assert service_ms(cold).min() > 2 * service_ms(warm[1:]).min()
    assert (cold["sent_ns"] - cold["intended_ns"]).min() < 500_000  # it counts as sent before the handshake, not after


def test_a_refused_fresh_connection_is_a_row() -> None:
    """No target, no answer: each request is a row of its own, never sent."""
    samples = measure(work_for(servers.free_port(), rate_rps=100, duration_s=0.2, fresh_connections=True)).samples
    assert errors(samples) == {"connect_refused": 20}
    assert (samples["sent_ns"] == 0).all()


def test_a_silent_target_times_out_fresh_connections() -> None:
    """timeout_s holds for connecting and answering together."""
    samples = run(servers.silent, fresh_connections=True, timeout_s=0.3)[0].samples
    assert set(samples["error"]) == {ErrorKind.timeout}
    assert 300 <= service_ms(samples).min() < 3000
