"""An answer that looks like the last one is taken without parsing it; nobody can tell by what is recorded."""

import asyncio
import itertools
from typing import cast

import numpy as np
import pytest
import servers
from engines import errors, run

from tapecheck.load.engine import protocol
from tapecheck.load.engine.protocol import UNKNOWN, Connection, Exchange

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
    """Notes what it is told, as a row would have it."""

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

    def spoke_unasked(self, connection: Connection, data: bytes) -> None:
        self.told.append("spoke unasked")

    def said_too_much(self, connection: Connection) -> None:
        self.told.append("said too much")


class Transport(asyncio.Transport):
    """Sends nothing."""

    def write(self, data: object) -> None:
        pass

    def abort(self) -> None:
        pass


def told(segments: list[list[bytes]], method: str = "GET") -> tuple[list[object], int]:
    """Ask once for each list of segments, each on a connection that is still usable, and return what the owner is told."""
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


@pytest.fixture(autouse=True)
def learns_from_each_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the clock says."""
    monkeypatch.setattr(protocol, "LEARN_NS", 0)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("first", ANSWERS)
def test_what_is_recorded_is_what_a_parser_says(first: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each kind of answer each other, whole, cut, before a surplus or inside a body, ends as it does without memory."""
    ways = [
        lambda a: [a],
        lambda a: [a[:-2], a[-2:]],
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


def test_a_wrong_body_of_the_same_length_is_found_in_the_sample() -> None:
    """Answers whose content is to be checked are kept, however much they look like the last one."""

    async def lies_after_30(exchange: servers.Exchange) -> None:
        exchange.send(b'{"a": 1}' if exchange.number <= 30 else b'{"a": 1]')

    measured, _ = run(lies_after_30, rounds=6)
    assert measured.checked == 36
    assert errors(measured.samples) == {"none": 42, "content": 18}
