"""Connections: what the target closes and may be asked twice is sent again once, fresh ones are counted, everything else is a failure."""

import asyncio
import socket
import ssl

import numpy as np
import pytest
import servers
import trustme
from engines import errors, requests_for, run, service_ms, work_for
from servers import Behaviour, Exchange, Server

from tapecheck.load.engine.engine import measure
from tapecheck.load.engine.work import Address, Tls

CLOSES = {"FIN": servers.closes_without_a_word, "RST": servers.resets_without_a_word}
SHAPES = {
    "burst": {"rounds": 4},
    "closed": {"duration_s": 0.15},
    "open": {"rate_rps": 400, "duration_s": 0.15},
    "one connection": {"rounds": 4, "max_connections": 1},
}


# ---- closed by the target ----


@pytest.mark.parametrize(("shape", "end"), [("burst", "FIN"), ("closed", "RST"), ("open", "FIN"), ("one connection", "RST")])
def test_a_reused_connection_that_is_closed_without_an_answer_fails_no_get(shape: str, end: str) -> None:
    """Each connection answers twice and then closes on the third request: every request succeeds, and each retry is counted."""
    measured, server = run(servers.keeps_for(2, CLOSES[end]), **SHAPES[shape])
    samples = measured.samples
    assert errors(samples) == {"none": len(samples)}
    assert measured.retried == server.seen.requests - len(samples) > 0
    again = samples[samples["retried"] == 1]
    assert not again["connection_reused"].any()


@pytest.mark.parametrize(
    ("shape", "behaviour"),
    [
        ("burst", servers.closes_idle(0.005)),
        ("closed", servers.answers_and_closes_without_a_word),
        ("open", servers.closes_idle(0.0)),
        ("open", servers.closes_idle(0.02)),
        ("one connection", servers.closes_idle(0.0)),
    ],
)
def test_a_target_that_closes_idle_connections_fails_no_get(shape: str, behaviour: Behaviour) -> None:
    """Whether the close comes before, with or after the next request: no request fails, in any executor."""
    samples = run(behaviour, **SHAPES[shape])[0].samples
    assert errors(samples) == {"none": len(samples)}


def test_the_time_of_a_retried_request_counts_from_its_first_start() -> None:
    """A server that takes 50 ms to close, and answers the second attempt at once, is a response and a service of 50 ms."""

    async def waits_and_closes(exchange: Exchange) -> None:
        await asyncio.sleep(0.05)
        exchange.writer.close()

    samples = run(servers.keeps_for(1, waits_and_closes), rounds=2)[0].samples
    again = samples[samples["retried"] == 1]
    assert len(again) == 10
    assert ((again["done_ns"] - again["intended_ns"]) / 1e6).min() >= 49
    assert ((again["done_ns"] - again["sent_ns"]) / 1e6).min() >= 49
    assert not again["waited"].any()


def test_a_second_close_is_a_failure() -> None:
    """A fresh connection that is closed without an answer failed: the request is not sent a third time."""

    async def answers_ten(exchange: Exchange) -> None:
        await (servers.fast if exchange.number <= 10 else servers.closes_without_a_word)(exchange)

    measured, server = run(answers_ten, rounds=2)
    assert errors(measured.samples) == {"none": 10, "closed_early": 10}
    assert measured.retried == 10
    assert server.seen.requests == 30


@pytest.mark.parametrize(("end", "kind"), [(servers.cuts_body, "closed_early"), (servers.resets_in_mid_body, "reset")])
def test_half_an_answer_is_a_failure(end: Behaviour, kind: str) -> None:
    """Once a byte of the answer came, the request is not sent again."""
    measured, server = run(servers.keeps_for(1, end), rounds=2)
    assert errors(measured.samples) == {"none": 10, kind: 10}
    assert measured.retried == 0
    assert server.seen.requests == 20


@pytest.mark.parametrize(("method", "again"), [("GET", True), ("HEAD", True), ("POST", False)])
def test_only_what_can_be_asked_twice_is_sent_again(method: str, again: bool) -> None:
    """HEAD is sent again like GET; a POST reaches the target once, and its closed connection is a failure."""

    async def answers(exchange: Exchange) -> None:
        exchange.send(b"" if method == "HEAD" else b"{}", length=2)

    async def behave(exchange: Exchange) -> None:
        await (answers if exchange.number % 20 <= 10 else servers.closes_without_a_word)(exchange)

    with Server(behave) as server:
        measured = measure(work_for(server, requests_for(server.url, template=f"{method} /x", parameters={}), rounds=2))
    failed = {"none": 20} if again else {"none": 11, "closed_early": 9}
    assert errors(measured.samples) == failed
    assert server.seen.requests == 20 + measured.retried
    assert bool(measured.retried) == again


def test_a_retried_request_is_checked_like_any_other() -> None:
    """The content of the second attempt is looked at: a sample that was to be checked is not lost with its first connection."""

    async def lies(exchange: Exchange) -> None:
        exchange.send(b"{not json")

    async def behave(exchange: Exchange) -> None:
        await (servers.fast if exchange.number <= 10 else servers.closes_without_a_word if exchange.number <= 20 else lies)(exchange)

    measured, _ = run(behave, rounds=2)
    assert measured.retried == 10
    assert errors(measured.samples) == {"none": 14, "content": 6}


@pytest.mark.parametrize("how", [{"rounds": 6}, {"duration_s": 0.3}, {"rate_rps": 300, "duration_s": 0.3}])
def test_a_server_that_dies_for_good_still_fails(how: dict[str, float]) -> None:
    """What was in flight when it died is tried once more, is refused, and keeps the time of its first send."""
    measured, _ = run(servers.dies_after(25), **how)
    counted = errors(measured.samples)
    assert counted == {"none": 24, "connect_refused": len(measured.samples) - 24}
    assert len(measured.samples) == {6: 60, 300: 90}.get(how.get("rounds") or how.get("rate_rps"), len(measured.samples))
    again = measured.samples[measured.samples["retried"] == 1]
    assert (again["sent_ns"] > 0).all()
    assert (again["error"] > 0).all()


def test_warm_up_is_not_counted_among_the_retries() -> None:
    """On one connection that answers once, all but the first of 40 requests are retried; the figure is of the 20 that count."""
    how = {"rate_rps": 100, "duration_s": 0.2, "warm_up_s": 0.2, "max_connections": 1}
    measured, server = run(servers.keeps_for(1, servers.closes_without_a_word), **how)
    assert (measured.retried, int(measured.samples["retried"].sum()), server.seen.requests) == (20, 39, 79)


@pytest.mark.parametrize("end", CLOSES)
def test_tls_connections_are_replaced_too(authority: trustme.CA, ca_file: str, end: str) -> None:
    """Over TLS a close without a word, in the middle of the protocol or not, is no failure either."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with Server(servers.keeps_for(2, CLOSES[end]), tls=context) as server:
        address = Address(host="127.0.0.1", port=server.port, tls=Tls(server_name="localhost", ca_file=ca_file))
        measured = measure(work_for(server, requests_for(server.url.replace("127.0.0.1", "localhost")), address=address, rounds=4))
    assert errors(measured.samples) == {"none": 40}
    assert measured.retried > 0


def test_retries_and_waiting_requests_do_not_hold_each_other_up() -> None:
    """With 2 connections that close after each answer, 60 requests at once all succeed on fresh connections."""
    measured, server = run(servers.keeps_for(1, servers.closes_without_a_word), concurrency=60, max_connections=2)
    assert errors(measured.samples) == {"none": 60}
    assert server.seen.peak <= 2
    assert np.count_nonzero(measured.samples["retried"]) == server.seen.requests - 60


# ---- answers that nobody asked for ----


def test_data_that_nobody_asked_for_closes_the_connection() -> None:
    """An answer that comes late, on an idle connection, is never taken for the answer to the next request."""

    async def late_second(exchange: servers.Exchange) -> None:
        exchange.send(exchange.answer())
        exchange.server.loop.call_later(0.2, exchange.send, b'{"symbol": "LATE"}')

    async def late_or_slow(exchange: servers.Exchange) -> None:
        if exchange.number == 2:
            await servers.slow(0.6)(exchange)
        else:
            await late_second(exchange)

    measured, _ = run(late_or_slow, concurrency=2, rounds=1)
    assert errors(measured.samples) == {"none": 2}
    assert measured.unsolicited == 1


STRAY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


def test_a_single_surplus_answer_taints_what_came_later_on_its_connection() -> None:
    """One stray answer shifts all later ones by one: none of them is a success, but the first one on the connection is."""
    measured, _ = run(servers.once_more(5, STRAY), duration_s=0.3, concurrency=1)
    counted = errors(measured.samples)
    assert counted["none"] <= 1 + len(measured.samples[measured.samples["connection"] > 1])
    assert counted["protocol"] > 0
    assert measured.samples["error"][0] == 0


def test_goodbye_to_an_idle_connection_taints_nothing() -> None:
    """Some servers say 408 before they close an idle connection: that is no answer to anything."""
    measured, _ = run(servers.once_more(3, b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n"), rate_rps=5, duration_s=1.2)
    assert errors(measured.samples) == {"none": 6}
    assert measured.unsolicited == 1


# ---- fresh connections, TLS and IPv6 ----


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
    how = {"address": address, "rate_rps": 50, "duration_s": 0.3, "requests": requests_for(f"https://localhost:{tls_server.port}")}
    warm, cold = (measure(work_for(tls_server, fresh_connections=fresh, **how)).samples for fresh in (False, True))
    assert errors(cold) == {"none": 15}
    assert service_ms(cold).min() > 2 * service_ms(warm[1:]).min()
    assert (cold["sent_ns"] - cold["intended_ns"]).min() < 1e6 * service_ms(cold).min()  # it counts as sent before the handshake, not after


@pytest.mark.parametrize(
    ("trusted", "name", "expected"), [(True, "localhost", "none"), (False, "localhost", "tls"), (True, "other", "tls")]
)
def test_tls_is_verified(tls_server: Server, ca_file: str, trusted: bool, name: str, expected: str) -> None:
    """A certificate must come from the named authority and be for the right name; else every request is a tls error."""
    if not trusted:
        trustme.CA().cert_pem.write_to_path(ca_file)
    address = Address(host="127.0.0.1", port=tls_server.port, tls=Tls(server_name=name, ca_file=ca_file))
    samples = measure(work_for(tls_server, requests_for(f"https://localhost:{tls_server.port}"), address=address, rounds=3)).samples
    assert errors(samples) == {expected: 30}
    if expected == "none":
        assert tls_server.seen.connections == 10


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_ipv6_works() -> None:
    """A target at ::1 is measured like any other."""
    with Server(servers.fast, host="::1") as server:
        samples = measure(work_for(server, requests_for(server.url))).samples
    assert errors(samples) == {"none": 10}
    assert f"Host: [::1]:{server.port}".encode() in server.seen.heads[0]
