"""The engine against real sockets: every planted fault is a row, every row is right, nothing hangs."""

import errno
import gzip
import resource
import socket
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import servers
import trustme
from engines import GET, PARAMETERS, errors, requests_for, response_ms, run, service_ms, work_for
from servers import Behaviour, Server

from tapecheck.errors import MeasurementError
from tapecheck.load.engine import pool, protocol, recorder
from tapecheck.load.engine.engine import measure
from tapecheck.load.engine.recorder import SAMPLE
from tapecheck.load.engine.work import MAX_ROUNDS, Address, Tls
from tapecheck.load.samples import UNITS, table_of
from tapecheck.target.file import RequestTemplate


@pytest.fixture(params=["burst", "closed"])
def shape(request: pytest.FixtureRequest) -> dict[str, object]:
    return {"rounds": 3} if request.param == "burst" else {"duration_s": 0.15}


# ---- load is what it says ----


def test_requests_of_a_burst_are_in_flight_together() -> None:
    """The server sees all 50 at once and answers only then; an engine that awaits one by one gets no answer."""
    measured, server = run(servers.together(50), concurrency=50, rounds=2)
    assert errors(measured.samples) == {"none": 100}
    assert server.seen.peak == 50


def test_users_of_a_closed_scenario_are_in_flight_together() -> None:
    """The server sees as many requests at once as there are users, and never more."""
    measured, server = run(servers.slow(0.02), duration_s=0.3)
    assert server.seen.peak == 10
    assert errors(measured.samples) == {"none": len(measured.samples)}


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
def test_connections_of_a_burst_are_opened_before_its_clock_starts(behaviour: Behaviour) -> None:
    """Every request of every round finds an idle connection, also when the target closes them after each answer."""
    measured, _ = run(behaviour, rounds=3)
    assert not measured.samples["waited"].any()
    assert len(measured.dispatch_lag_ms) == 30


def test_a_user_is_meant_to_send_when_it_became_free() -> None:
    """In a closed scenario every intended start but the first ones is the end of an earlier request."""
    samples = run(servers.fast, duration_s=0.2, concurrency=3)[0].samples
    assert set(samples["intended_ns"][3:]) <= set(samples["done_ns"])


def test_combinations_are_taken_in_order_and_all_reach_the_server(shape: dict[str, object]) -> None:
    """Request i uses combination i mod k, in the order of the YAML with the last parameter fastest."""
    measured, server = run(servers.fast, **shape)
    n = len(measured.samples)
    assert (measured.samples["request"] == np.arange(n) % 6).all()
    expected = [f"/features/{s}?symbol={s}&limit={limit}" for s in PARAMETERS["symbol"] for limit in PARAMETERS["limit"]]
    assert set(server.seen.paths) == set(expected)
    assert [r.url.split("//")[1].partition("/")[2] for r in requests_for(server.url)] == [path[1:] for path in expected]


def test_warm_up_is_stored_and_flagged_and_the_rest_starts_at_the_first_combination(shape: dict[str, object]) -> None:
    """Warm-up requests come first, carry the flag, and do not shift the order of combinations."""
    measured, _ = run(servers.slow(0.002), warm_up_s=0.1, **shape)
    warm = measured.samples["warm_up"].astype(bool)
    count = int(warm.sum())
    assert 0 < count < len(warm)
    assert warm[:count].all()
    counted = measured.samples[count:]
    assert counted["intended_ns"].min() >= measured.started_ns - 5_000_000
    in_order = counted["request"] == np.arange(len(counted)) % 6
    assert in_order.all()


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
    assert measured.samples["intended_ns"].max() < measured.started_ns + 0.4e9 <= measured.samples["done_ns"].max()
    assert errors(measured.samples) == {"none": len(measured.samples)}


# ---- known answers ----


def test_a_planted_delay_is_measured() -> None:
    """A server that takes 50 ms is measured as at least that, and the quickest of 20 answers as little more."""
    samples = run(servers.slow(0.05), rounds=5, concurrency=4)[0].samples
    assert 49 <= response_ms(samples).min() < 75


def test_bytes_are_those_on_the_wire() -> None:
    """Head and body count as they were sent, also when the body is compressed."""
    text = b'{"symbol": "AAPL"}'
    head = b"HTTP/1.1 200 Planted\r\nContent-Type: application/json\r\nContent-Length: 18\r\n\r\n"
    assert set(run(servers.body(text))[0].samples["bytes"]) == {len(head) + len(text)}
    zipped = gzip.compress(b'{"symbol": "AAPL"}' * 1000, mtime=0)
    head = b"HTTP/1.1 200 Planted\r\nContent-Type: text/plain\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(zipped)
    behaviour = servers.body(zipped, "Content-Type: text/plain\r\nContent-Encoding: gzip\r\n")
    assert set(run(behaviour)[0].samples["bytes"]) == {len(head) + len(zipped)}


def test_server_timing_is_recorded() -> None:
    """What the target says of its own time and its database's stands in every row; NaN where it says nothing."""
    samples = run(servers.timed)[0].samples
    assert set(samples["server_ms"]) == {7.25}
    assert set(samples["db_ms"]) == {2.5}
    assert np.isnan(run(servers.fast)[0].samples["server_ms"]).all()


@pytest.mark.parametrize(
    ("head", "db_ms"),
    [
        (b"SERVER-TIMING: db;dur=2.5\r\nContent-Length: 2", 2.5),
        (b"Content-Length: 2\r\nserver-timing:db;dur=2.5\r\nServer-Timing: app;dur=3", 2.5),
        (b"X: " + b"x" * 8000 + b"\r\nServer-Timing: db;dur=2.5\r\nContent-Length: 2", 2.5),
        (b"Content-Length: 2\r\nX-Server-Timing: db;dur=2.5", np.nan),
        (b"Content-Length: 30\r\nX: a=b\r\n\r\nok\r\nServer-Timing: db;dur=2.50", np.nan),  # in the body
    ],
)
def test_server_timing_is_a_header_of_the_final_answer(head: bytes, db_ms: float) -> None:
    """However it is spelled and wherever it stands in the head, also behind an interim answer; a body says nothing of it."""
    tail = b"" if b"\r\n\r\n" in head else b"\r\n\r\nok"
    for before in (b"", b"HTTP/1.1 103 Early Hints\r\nServer-Timing: db;dur=9\r\n\r\n"):
        samples = run(servers.raw(before + b"HTTP/1.1 200 OK\r\n" + head + tail))[0].samples
        assert errors(samples) == {"none": len(samples)}
        np.testing.assert_array_equal(samples["db_ms"], np.float32(db_ms))


def test_the_generator_watches_itself() -> None:
    """Lag of the event loop and CPU are measured, and can be small against an idle server."""
    measured, _ = run(servers.slow(0.05), duration_s=0.4, concurrency=2)
    assert 2 <= len(measured.lag_ms) <= 50  # a busy machine has fewer
    assert 0 <= measured.lag_ms.min() < 5
    assert 0 < measured.cpu_ratio < 0.9


# ---- faults are rows ----

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
FAULTS = {
    "500": (servers.status(500), "status"),
    "redirect": (servers.status(302, "Location: /elsewhere\r\n"), "status"),
    "reset in mid-body": (servers.resets_in_mid_body, "reset"),
    "cut body": (servers.cuts_body, "closed_early"),
    "closed without a word": (servers.raw(b"", close=True), "closed_early"),
    "garbage": (servers.raw(b"\x00\x01garbage\r\n\r\n" * 5), "protocol"),
    "ssh": (servers.raw(b"SSH-2.0-OpenSSH_9.2\r\n"), "protocol"),
    "two answers": (servers.twice(), "protocol"),
    "more body than it said": (servers.raw(HEAD + b"Content-Length: 2\r\n\r\nokHTTP"), "protocol"),
    "two lengths": (servers.raw(HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nokk"), "protocol"),
    "upgrade": (servers.raw(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"), "protocol"),
    "100,000 bytes of headers": (servers.raw(HEAD + b"X: " + b"x" * 100_000 + b"\r\nContent-Length: 2\r\n\r\nok"), "protocol"),
    "headers without end": (servers.raw(HEAD + b"X: y\r\n" * 20_000), "protocol"),
    "bad chunk": (servers.raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n"), "protocol"),
    "not JSON": (servers.body(b"{not json"), "content"),
    "bad gzip": (servers.body(b"plain", "Content-Encoding: gzip\r\n"), "content"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_counted_by_its_name(fault: str, shape: dict[str, object]) -> None:
    """Each request that meets a fault is a row with that error and a time; none is dropped, nothing is raised."""
    behaviour, kind = FAULTS[fault]
    measured, _ = run(behaviour, **shape)
    counted = errors(measured.samples)
    if kind == "content":
        assert counted[kind] == measured.checked > 0
    else:
        assert counted == {kind: len(measured.samples)}
    assert len(measured.samples) >= 10


@pytest.mark.parametrize("pause_s", [0.0001, 0.005])
def test_answers_that_nobody_asked_for_are_noticed_when_they_come_apart(pause_s: float) -> None:
    """Surplus answers between which others were sent are found out, and never pass as a run without errors."""
    measured, _ = run(servers.twice(pause_s), duration_s=0.2, concurrency=3)
    assert errors(measured.samples).get("protocol", 0) + measured.unsolicited > 0


JSON = b"Content-Type: application/json\r\n"
RIGHT = {
    "chunked": servers.chunked,
    "body until close": servers.until_close,
    "interim answer": servers.interim,
    "three interim answers": servers.interims,
    "keep-alive of HTTP/1.0": servers.raw(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + JSON + b"Content-Length: 2\r\n\r\n{}"),
    "chunks with extensions and a trailer": servers.raw(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\nX: y\r\n\r\n"
    ),
    "closes after each": servers.closes_after_each,
    "gzip": servers.zipped,
    "slow": servers.slow(0.01),
}


@pytest.mark.parametrize("kind", RIGHT)
def test_every_right_way_to_answer_succeeds(kind: str, shape: dict[str, object]) -> None:
    """Chunked, close-delimited, interim, closing and compressed answers are right answers."""
    measured, _ = run(RIGHT[kind], **shape)
    assert errors(measured.samples) == {"none": len(measured.samples)}
    assert measured.checked > 0


def test_an_empty_answer_and_a_head_have_no_body() -> None:
    """204 ends with its head, and so does every answer to HEAD, whatever length it names."""
    with Server(servers.raw(b"HTTP/1.1 204 No Content\r\n\r\n")) as server:
        template = RequestTemplate.model_validate({"request": "GET /x", "expect": {"status": 204}})
        samples = measure(work_for(server, requests_for(server.url, template=template, parameters={}), rounds=3)).samples
        assert errors(samples) == {"none": 30}
    with Server(servers.headed) as server:
        samples = measure(work_for(server, requests_for(server.url, template="HEAD /x", parameters={}), rounds=3)).samples
        assert errors(samples) == {"none": 30}
        assert server.seen.connections == 10


def test_not_modified_has_no_body_whatever_length_it_names() -> None:
    """304 ends with its head; the length in it is that of the body it does not send."""
    with Server(servers.raw(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5000\r\n\r\n")) as server:
        template = RequestTemplate.model_validate({"request": "GET /x", "expect": {"status": 304}})
        samples = measure(work_for(server, requests_for(server.url, template=template, parameters={}), rounds=3)).samples
        assert errors(samples) == {"none": 30}
        assert server.seen.connections == 10


def test_a_redirect_is_reported_and_not_followed() -> None:
    """The row has the status, and the server is never asked for the other place."""
    measured, server = run(servers.status(302, "Location: /elsewhere\r\n"))
    assert set(measured.samples["status"]) == {302}
    assert "/elsewhere" not in server.seen.paths


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


def test_a_body_beyond_the_limit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that is too large ends its request, and the engine goes on."""
    monkeypatch.setattr(protocol, "BODY_LIMIT", 100_000)
    measured, _ = run(servers.body(b"x" * 3_000_000, "Content-Type: text/plain\r\n"))
    assert errors(measured.samples) == {"too_large": 10}


@pytest.mark.parametrize("behaviour", [servers.silent, servers.half_then_silence])
def test_a_timeout_stays_in_the_samples_as_at_least_that_long(behaviour: Behaviour) -> None:
    """A request without a whole answer is a row that took timeout_s, not a missing one."""
    measured, _ = run(behaviour, timeout_s=0.3)
    assert errors(measured.samples) == {"timeout": 10}
    assert 300 <= service_ms(measured.samples).min() < 3000


def test_requests_that_never_get_a_connection_are_counted() -> None:
    """With one connection to a silent server the nine others give up, unsent, after timeout_s."""
    measured, _ = run(servers.silent, timeout_s=0.3, max_connections=1)
    assert errors(measured.samples) == {"timeout": 1, "no_connection": 9}
    assert (measured.samples["sent_ns"] == 0).sum() == 9


def test_a_closed_scenario_ends_soon_after_its_time_against_a_silent_server() -> None:
    """What is still in flight at the end is waited for up to timeout_s and no longer."""
    began = time.monotonic()
    measured, _ = run(servers.silent, duration_s=0.3, timeout_s=0.4)
    assert time.monotonic() - began < 20  # the server keeps silent for 60 s
    assert set(errors(measured.samples)) <= {"timeout", "censored"}


def test_a_refused_connection_is_a_row(shape: dict[str, object]) -> None:
    """Without a target every request fails as connect_refused, and the scenario ends in time."""
    measured = measure(work_for(servers.free_port(), **shape))
    assert set(errors(measured.samples)) == {"connect_refused"}
    assert (measured.samples["sent_ns"] == 0).all()


@pytest.mark.parametrize("how", [{"rounds": 10}, {"duration_s": 0.5}])
def test_a_target_that_dies_in_mid_run_gives_a_complete_result(how: dict[str, object]) -> None:
    """Requests before the death succeed, those after it are errors, and every one is there."""
    measured, _ = run(servers.dies_after(35), **how)
    counted = errors(measured.samples)
    assert counted["none"] == 34
    assert counted["connect_refused"] > 0
    assert set(counted) <= {"none", "connect_refused", "reset", "closed_early"}
    if "rounds" in how:
        assert len(measured.samples) == 100


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


def test_more_connections_than_files_are_refused_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says how many are possible."""
    monkeypatch.setattr(resource, "getrlimit", lambda what: (100, 300))
    with (
        Server(servers.fast) as server,
        pytest.raises(
            MeasurementError, match=r"1,000 connections; allowed: at most 236, .* 300 files open and would need 1,064: .*\(ulimit -n 1064\)"
        ),
    ):
        measure(work_for(server))
    assert server.seen.connections == 0


def test_the_soft_limit_of_files_is_raised_when_that_is_enough() -> None:
    """300 connections work in a process that was allowed 100 files, and may allow itself more."""
    code = """
        import resource, sys
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 2000))
        from tapecheck.load.engine.engine import measure
        from tapecheck.load.engine.work import Address, PreparedRequest, Work
        request = PreparedRequest(values={}, method="GET", url="", raw=b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n", headers=())
        address = Address(host="127.0.0.1", port=int(sys.argv[1]))
        work = Work(address=address, requests=(request,), executor="burst", concurrency=300, rounds=1)
        print(sorted(set(measure(work).samples["error"])))
    """
    with Server(servers.fast) as server:
        out = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(server.port)], capture_output=True, text=True, check=False)
    assert out.stdout == "[np.uint8(0)]\n", out.stderr


def test_rows_need_no_files() -> None:
    """With every spare file taken by connections, a run of many chunks of rows has all of them: a chunk keeps no file open."""
    code = """
        import resource, sys
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
        from tapecheck.load.engine import recorder
        from tapecheck.load.engine.engine import measure
        from tapecheck.load.engine.work import Address, PreparedRequest, Work
        recorder.CHUNK_ROWS = 8
        request = PreparedRequest(values={}, method="GET", url="", raw=b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n", headers=())
        address = Address(host="127.0.0.1", port=int(sys.argv[1]))
        work = Work(address=address, requests=(request,), executor="burst", concurrency=36, rounds=100, max_connections=36)
        many = [measure(work) for _ in range(3)]
        print([(len(one.samples), set(one.samples["error"].tolist())) for one in many])
    """
    with Server(servers.fast) as server:
        out = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(server.port)], capture_output=True, text=True, check=False)
    assert out.stdout == "[(3600, {0}), (3600, {0}), (3600, {0})]\n", out.stderr


@pytest.mark.parametrize("after", [0, 1])
def test_no_room_for_samples_ends_the_measurement(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """A full disk is said at once and in mid-run: no hang, no half result that looks whole."""
    reserve, calls = recorder._reserve, iter(range(100))

    def full(*args: int) -> None:
        if next(calls) >= after:
            raise OSError(errno.ENOSPC, "planted")
        reserve(*args)

    monkeypatch.setattr(recorder, "_reserve", full)
    monkeypatch.setattr(recorder, "CHUNK_ROWS", 8)  # ask for more room soon
    with Server(servers.fast) as server, pytest.raises(MeasurementError, match="no space left"):
        measure(work_for(server, duration_s=20.0))


def test_a_bug_of_ours_ends_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception in a callback is never lost in the event loop, to hang there or to pass for a target's fault."""
    monkeypatch.setattr(pool.Pool, "ended", lambda *_: 1 / 0)
    with Server(servers.fast) as server, pytest.raises(MeasurementError, match="division by zero"):
        measure(work_for(server))


@pytest.mark.parametrize("how", [{"duration_s": 60.0}, {"rounds": 200_000}])
def test_a_stop_ends_the_measurement_at_once(how: dict[str, object]) -> None:
    """The parent's wish to stop is obeyed long before the end."""

    class Counters(list[int]):
        def __getitem__(self, i: int) -> int:  # type: ignore[override]
            return int(i == 1 and time.monotonic() > began + 0.2)

    began = time.monotonic()
    with Server(servers.fast) as server, pytest.raises(MeasurementError, match="stopped"):
        measure(work_for(server, **how), Counters([0] * 4))
    assert time.monotonic() - began < 20


def test_a_thread_that_hogs_the_generator_shows_in_its_lag() -> None:
    """A busy generator is seen by its own heartbeat: what it measures then is itself."""

    class Hog(list[int]):
        def __getitem__(self, i: int) -> int:  # type: ignore[override]
            time.sleep(0.03)
            return 0

    with Server(servers.fast) as server:
        measured = measure(work_for(server, duration_s=0.3), Hog([0] * 4))
    assert np.median(measured.lag_ms) > 20
    assert response_ms(measured.samples).max() > 25


# ---- TLS and IPv6 ----


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


# ---- the table ----


def test_a_sample_takes_at_most_64_bytes() -> None:
    """Memory per stored sample is bounded by the row's size."""
    assert SAMPLE.itemsize <= 64


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_for_each_stored_sample_is_its_row() -> None:
    """Half a million samples through the engine's own bookkeeping take at most 64 bytes each at the peak, joined and all."""
    code = """
        import asyncio, time
        from tapecheck.load.engine import engine
        from tapecheck.load.engine.pool import Pool
        from tapecheck.load.engine.protocol import Connection
        from tapecheck.load.engine.recorder import Recorder, scratch, written
        from tapecheck.load.engine.work import Address, PreparedRequest, Work
        request = PreparedRequest(values={}, method="GET", url="", raw=b"", headers=())
        class Transport(asyncio.Transport):
            def write(self, data): pass
        def peak():
            return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
        async def main():
            with scratch(1_000_000) as file:
                work = Work(address=Address(host="", port=1), requests=(request,), executor="closed")
                pool = Pool(work, Recorder(file.fileno()))
                connection = Connection(pool)
                connection.connection_made(Transport())
                def send(count):
                    for _ in range(count):
                        pool.submit(time.monotonic_ns())
                        connection.data_received(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
                send(50_000)
                before = peak()
                send(500_000)
                samples = written(pool.recorder.rows(2_000_000))
                assert len(samples) == 550_000 and (samples["error"] == 0).all()
                print((peak() - before) / 500_000)
        asyncio.run(main())
    """
    out = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert 30 < float(out.stdout or "nan") < 80, out.stderr


def test_the_table_has_every_row_value_and_unit() -> None:
    """Each sample keeps the value of every parameter that its request used, and each column says its unit."""
    with Server(servers.timed) as server:
        a, b = requests_for(server.url), requests_for(server.url, template="GET /x?limit={limit}", parameters={"limit": [7]})
        measured = {"many": measure(work_for(server, a, rounds=2)), "one": measure(work_for(server, b))}
    samples = {name: one.samples for name, one in measured.items()}
    table = table_of(samples, {"many": [one.values for one in a], "one": [one.values for one in b]})
    got = table.to_pydict()
    assert table.num_rows == 30
    assert got["scenario"] == ["many"] * 20 + ["one"] * 10
    assert list(zip(got["symbol"][:6], got["limit"][:6], strict=True)) == [tuple(r.values.values()) for r in a]
    assert set(got["limit"][20:]) == {7}
    assert set(got["symbol"][20:]) == {None}
    assert set(got["error"]) == {"none"}
    assert got["done_ns"][:20] == samples["many"]["done_ns"].tolist()
    assert all(table.schema.field(name).metadata[b"unit"] for name in table.column_names)
    assert set(UNITS) <= set(table.column_names)


def test_a_burst_of_hundreds_on_one_machine_has_no_errors() -> None:
    """300 connections at once are opened before the clock starts and all are answered."""
    measured, server = run(servers.fast, concurrency=300, rounds=2)
    assert errors(measured.samples) == {"none": 600}
    assert server.seen.connections == 300
