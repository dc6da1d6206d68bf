"""Answers: every fault is named, every right way to answer is right, and one that looks like the last is taken without parsing it."""

import asyncio
import gzip
import itertools
from typing import cast

import numpy as np
import pytest
import servers
from engines import errors, requests_for, run, work_for
from servers import Server

from tapecheck.load.engine import protocol
from tapecheck.load.engine.content import BODIES_LIMIT, Kept
from tapecheck.load.engine.engine import measure
from tapecheck.load.engine.protocol import UNKNOWN, Connection, Exchange, server_times_ms
from tapecheck.target.file import RequestTemplate

# ---- faults and right answers ----


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
def test_a_fault_is_counted_by_its_name(fault: str) -> None:
    """Each request that meets a fault is a row with that error and a time; none is dropped, nothing is raised."""
    behaviour, kind = FAULTS[fault]
    measured, _ = run(behaviour, rounds=2)
    counted = errors(measured.samples)
    if kind == "content":
        assert counted[kind] == measured.checked > 0
    else:
        assert counted == {kind: len(measured.samples)}
    assert len(measured.samples) >= 10


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
def test_every_right_way_to_answer_succeeds(kind: str) -> None:
    """Chunked, close-delimited, interim, closing and compressed answers are right answers."""
    measured, _ = run(RIGHT[kind], rounds=3)
    assert errors(measured.samples) == {"none": len(measured.samples)}
    assert measured.checked > 0


@pytest.mark.parametrize(
    ("behaviour", "request_line", "status"),
    [
        (servers.raw(b"HTTP/1.1 204 No Content\r\n\r\n"), "GET /x", 204),
        (servers.raw(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5000\r\n\r\n"), "GET /x", 304),
        (servers.headed, "HEAD /x", 200),
    ],
)
def test_an_answer_without_a_body_ends_with_its_head(behaviour: servers.Behaviour, request_line: str, status: int) -> None:
    """204, 304 and every answer to HEAD, whatever length they name."""
    template = RequestTemplate.model_validate({"request": request_line, "expect": {"status": status}})
    with Server(behaviour) as server:
        samples = measure(work_for(server, requests_for(server.url, template=template, parameters={}), rounds=3)).samples
        assert errors(samples) == {"none": 30}
        assert server.seen.connections == 10


def test_a_body_beyond_the_limit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that is too large ends its request, and the engine goes on."""
    monkeypatch.setattr(protocol, "BODY_LIMIT", 100_000)
    measured, _ = run(servers.body(b"x" * 3_000_000, "Content-Type: text/plain\r\n"))
    assert errors(measured.samples) == {"too_large": 10}


def test_bytes_are_those_on_the_wire() -> None:
    """Head and body count as they were sent, also when the body is compressed."""
    text = b'{"symbol": "AAPL"}'
    head = b"HTTP/1.1 200 Planted\r\nContent-Type: application/json\r\nContent-Length: 18\r\n\r\n"
    assert set(run(servers.body(text))[0].samples["bytes"]) == {len(head) + len(text)}
    zipped = gzip.compress(b'{"symbol": "AAPL"}' * 1000, mtime=0)
    head = b"HTTP/1.1 200 Planted\r\nContent-Type: text/plain\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(zipped)
    behaviour = servers.body(zipped, "Content-Type: text/plain\r\nContent-Encoding: gzip\r\n")
    assert set(run(behaviour)[0].samples["bytes"]) == {len(head) + len(zipped)}


# ---- Server-Timing ----


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


@pytest.mark.parametrize(
    ("header", "server_ms", "db_ms"),
    [
        (b"db;dur=2.5, app;dur=7.25", 7.25, 2.5),
        (b"app;dur=7, total;dur=5, server;dur=9", 5, np.nan),  # a name that means the whole goes before a longer metric
        (b"db;dur=2.5, render;dur=4, auth;dur=1", 4, 2.5),
        (b"auth;dur=1, sql;dur=3", 3, 3),
        (b'Total;DUR="6.5"', 6.5, np.nan),
        (b'total;desc="all, of it;dur=1";dur=5, db;dur=9', 5, 9),
        (b"total ; dur = 4 ,db;desc=x; dur=2", 4, 2),
        (b"cache;desc=hit", np.nan, np.nan),
        (b"app;dur=-1, db;dur=nan, total;dur=soon", np.nan, np.nan),
        (b"app;dur=1e99", np.nan, np.nan),
        (b"", np.nan, np.nan),
    ],
)
def test_server_times(header: bytes, server_ms: float, db_ms: float) -> None:
    """The whole is `total`, `app` or `server`, else the longest metric; what is absent or absurd is not known."""
    np.testing.assert_equal(server_times_ms(header), (server_ms, db_ms))


# ---- answers like the last one ----


OK = b"HTTP/1.1 200 OK\r\nServer-Timing: db;dur=2\r\nContent-Length: 4\r\n\r\n"
ANSWERS = {
    "right": OK + b"abcd",
    "another body": OK + b"WXYZ",
    "other time": OK.replace(b"dur=2", b"dur=3") + b"abcd",
    "longer": OK.replace(b": 4", b": 8") + b"abcdefgh",
    "500, as long": OK.replace(b"200 OK", b"500 NO") + b"abcd",
    "closes, as long": OK.replace(b"Server-Timing: db;dur=2", b"Connection: close; abc=") + b"abcd",
    "surplus": OK + b"abcd" + OK + b"abcd",
    "more body than it said": OK + b"abcdefgh",
    "half": OK + b"ab",
    "head alone": OK,
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n",
    "chunked, as long": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"[:-6] + b"0\r\n\r\n",
    "two lengths": OK.replace(b"\r\n\r\n", b"\r\nContent-Length: 4\r\n\r\n") + b"abcd",
    "interim": b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK + b"abcd",
    "upgrade": b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
    "no length": b"HTTP/1.1 200 OK\r\n\r\nabcd",
    "HTTP/1.0": OK.replace(b"1.1", b"1.0") + b"abcd",
    "garbage": b"\x00\x01" + OK + b"abcd",
}


class Owner:
    """Notes what it is called with, as a row would have it."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.unparsed = 0

    def opened(self, connection: Connection) -> None:
        pass

    def answered(self, connection: Connection, done_ns: int) -> None:
        one = connection.exchange
        connection.known, connection.busy, connection.used = UNKNOWN, False, True
        self.unparsed += 1
        self.told.append((0, one.expected_status, one.size, one.server_ms, one.db_ms, True))

    def ended(self, connection: Connection, done_ns: int, error: int) -> None:
        server_ms, db_ms = connection.times_ms()
        self.told.append((error, connection.status, connection.bytes, server_ms, db_ms, connection.keep_alive))

    def send_again(self, connection: Connection) -> bool:
        return False

    def lost(self, connection: Connection) -> None:
        self.told.append("lost")

    def on_unsolicited(self, connection: Connection, data: bytes) -> None:
        self.told.append("spoke unasked")

    def on_surplus(self, connection: Connection) -> None:
        self.told.append("said too much")


class Transport(asyncio.Transport):
    """Sends nothing."""

    def write(self, data: object) -> None:
        pass

    def abort(self) -> None:
        pass


def told(segments: list[list[bytes]], method: str = "GET") -> tuple[list[object], int]:
    """Ask once for each list of segments, each on a connection that is still usable, and return what the owner is called with."""
    owner, exchange = Owner(), Exchange(0, b"", method, 200)
    connection = Connection(owner)
    connection.keep_alive = False
    for number, parts in enumerate(segments):
        if connection.busy or not connection.keep_alive:
            connection = Connection(owner)
            connection.connection_made(cast(asyncio.BaseTransport, Transport()))
        connection.send(exchange, number, 1, False, None)
        for part in parts:
            connection.data_received(part)
        if connection.busy:
            connection.connection_lost(None)
    return owner.told, owner.unparsed


@pytest.fixture
def learns_from_each_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the clock says."""
    monkeypatch.setattr(protocol, "LEARN_NS", 0)


@pytest.mark.usefixtures("learns_from_each_answer")
@pytest.mark.parametrize(("first", "method"), [*((first, "GET") for first in ANSWERS), ("right", "HEAD")])
def test_what_is_recorded_is_what_a_parser_says(first: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each kind of answer each other, whole, cut, before a surplus or inside a body, ends as it does without memory."""
    ways = [
        lambda a: [a],
        lambda a: [a[:70], a[70:]],
        lambda a: [a, b"x"],
        lambda a: [a + b"\r\n"],
        lambda a: [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(a) + 4), a, b"abcd"],
    ]
    sequences = [[[ANSWERS[first]], way(ANSWERS[then]), [ANSWERS["right"]]] for then, way in itertools.product(ANSWERS, ways)]
    with_memory = [told(one, method)[0] for one in sequences]
    monkeypatch.setattr(Exchange, "learn", lambda *_: None)
    for one, got in zip(sequences, with_memory, strict=True):
        np.testing.assert_equal(got, told(one, method)[0])


@pytest.mark.usefixtures("learns_from_each_answer")
@pytest.mark.parametrize(
    ("first", "then", "unparsed"),
    [
        ("right", "another body", 1),
        ("right", "other time", 0),
        ("other time", "other time", 1),
        ("chunked", "chunked", 0),
        ("interim", "right", 0),
    ],
)
def test_only_an_equal_head_with_a_length_is_not_parsed_again(first: str, then: str, unparsed: int) -> None:
    """The parser is spared where all that can differ is the body."""
    assert told([[ANSWERS[first]], [ANSWERS[then]]])[1] == unparsed


def test_the_sample_of_answers_goes_on_to_the_end() -> None:
    """The first of each combination, and then evenly over the whole scenario, however long it is; never more than there is room for."""
    kept = Kept(3)
    kept.start_round(0)
    for number in range(100_000):
        if number >= kept.next:
            kept.add(number, number % 3, kept.advance(number))
        assert len(kept.answers) <= BODIES_LIMIT
    numbers = [number for number, _, _ in kept.answers]
    assert numbers[0] == 0 and numbers[-1] > 95_000
    assert len(numbers) >= BODIES_LIMIT / 2 and max(np.diff(numbers)) < 5_000


def test_a_wrong_body_of_the_same_length_is_found_in_the_sample() -> None:
    """Answers whose content is to be checked are kept, however much they look like the last one."""

    async def lies_after_30(exchange: servers.Exchange) -> None:
        exchange.send(b'{"a": 1}' if exchange.number <= 30 else b'{"a": 1]')

    measured, _ = run(lies_after_30, rounds=6)
    assert measured.checked == 36
    assert errors(measured.samples) == {"none": 42, "content": 18}
