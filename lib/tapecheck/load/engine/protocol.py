"""One HTTP/1.1 connection: sends a request, parses its one answer, says how that ended. When to send is not its business.

This is the hot path: one callback per TCP segment, no allocation of its own. An answer that differs from the last right one
to the same request in nothing but its body, which is as long, is not parsed again: see `Exchange`.
"""

import asyncio
import math
import re
from time import monotonic_ns
from typing import Any, NamedTuple, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from tapecheck.load.engine.recorder import ErrorKind

BODY_LIMIT = 64 * 2**20  # bytes of one answer
HEAD_LIMIT = 64 * 2**10  # bytes of status line and headers
KEEP_LIMIT = 4 * 2**20  # bytes of an answer that is kept for checking

NONE, STATUS, PROTOCOL, TOO_LARGE, RESET, CLOSED_EARLY = (
    int(kind)
    for kind in (ErrorKind.none, ErrorKind.status, ErrorKind.protocol, ErrorKind.too_large, ErrorKind.reset, ErrorKind.closed_early)
)

SAFE_METHODS = ("GET", "HEAD")  # asking twice changes nothing
SCANNED = 4096  # bytes in which one character is found in no time
HEAD_END, INTERIM = b"\r\n\r\n", b"HTTP/1.1 1"
_SERVER_TIMING = re.compile(rb"\r\n(?i:server-timing):([^\r]*)")
_FRAMING = re.compile(rb"\r\n(?i:content-length|transfer-encoding):([^\r]*)")
LEARN_NS = 20_000_000  # between two looks at the heads of a request's answers: those that are never alike cost little so


class Exchange:
    """One combination of the parameters: what is sent, and how the last right answer in one segment began.

    Equal heads are parsed alike. So a segment that begins with that `head`, whose Content-Length it has, and that is
    `size` bytes long, is one whole right answer and nothing more.
    """

    __slots__ = ("combination", "db_ms", "expected_status", "head", "is_head", "is_safe", "learn_ns", "raw", "server_ms", "size")

    def __init__(self, combination: int, raw: bytes, method: str, expected_status: int) -> None:
        self.combination = combination
        self.raw = raw
        self.is_head = method == "HEAD"
        self.is_safe = method in SAFE_METHODS
        self.expected_status = expected_status
        self.head = b""
        self.size = -1  # no segment is so long
        self.server_ms = self.db_ms = math.nan
        self.learn_ns = 0

    def learn(self, answer: bytes, server_ms: float, db_ms: float) -> None:
        """Remember the head of a whole right answer, if its length is all that decides where it ends."""
        end = answer.find(HEAD_END)
        lengths = _FRAMING.findall(answer, 0, end + 2)
        if answer.startswith(INTERIM) or len(lengths) != 1 or lengths[0].strip() != b"%d" % (len(answer) - end - len(HEAD_END)):
            return
        self.head = answer[: end + len(HEAD_END)]
        self.size = len(answer)
        self.server_ms, self.db_ms = server_ms, db_ms


UNKNOWN = Exchange(-1, b"", "", 0)  # whose answer looks like none


class Fresh(NamedTuple):
    """The only request that a connection is opened for."""

    number: int
    intended_ns: int
    begun_ns: int  # when the connection was begun, or the request first sent
    waited: bool  # for leave to begin
    exchange: Exchange = UNKNOWN  # if it is sent again, and not chosen when it is sent
    kept: list[bytes] | None = None


def final_head(data: bytes) -> bytes:
    """Return the head at the beginning of some data, interim ones before it left out."""
    while data.startswith(INTERIM):
        data = data[data.find(HEAD_END) + len(HEAD_END) :]
    return data[: data.find(HEAD_END)]


class Connection(asyncio.Protocol):
    """A keep-alive connection that carries one request at a time; its `owner`, a `Pool`, is called for what happens on it."""

    __slots__ = (
        "busy", "bytes", "complete", "exchange", "extra", "first_byte_ns", "fresh", "head", "head_done", "intended_ns", "keep_alive",
        "kept", "known", "name", "number", "owner", "parser", "sent_ns", "status", "timing", "transport", "used", "waited", "write",
    )  # fmt: skip

    def __init__(self, owner: Any, name: int = 0, fresh: Fresh | None = None) -> None:
        self.owner = owner
        self.name = name  # a number
        self.fresh = fresh
        self.known = UNKNOWN  # the exchange in flight, while its answer may look like the last one
        self.busy = False
        self.used = False
        self.number = -1
        self.keep_alive = True
        self.kept: list[bytes] | None = None
        self._clear()

    # ---- towards the target ----

    def send(self, exchange: Exchange, number: int, intended_ns: int, waited: bool, kept: list[bytes] | None) -> None:
        """Send a request; the owner is called when it has ended."""
        self.exchange = exchange
        self.known = exchange if kept is None else UNKNOWN
        self.number = number
        self.intended_ns = intended_ns
        self.waited = waited
        self.kept = kept
        if self.bytes:
            self._clear()
        self.busy = True
        self.sent_ns = monotonic_ns()
        self.write(exchange.raw)

    def _clear(self) -> None:
        """Forget the answer that was parsed before."""
        self.bytes = self.first_byte_ns = self.status = 0
        self.complete = self.extra = self.head_done = False
        self.head = b""
        self.timing: bytes | None = None

    def abort(self) -> None:
        """Close at once; a request in flight is forgotten, so record it first."""
        self.busy = self.keep_alive = False
        self.known = UNKNOWN
        self.transport.abort()

    def _end(self, now: int, error: int) -> None:
        self.busy = False
        self.known = UNKNOWN
        if not self.keep_alive:
            self.transport.abort()
        elif self.exchange.is_head:
            self.parser = HttpResponseParser(self)  # this one still waits for the body that HEAD does not have
        self.owner.ended(self, now, error)
        self.used = True

    def _fail(self, now: int, error: int) -> None:
        self.keep_alive = False
        self._end(now, error)

    # ---- asyncio calls ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin with a parser that serves every answer on this connection."""
        self.transport = cast(asyncio.Transport, transport)
        self.write = self.transport.write
        self.parser = HttpResponseParser(self)
        self.owner.opened(self)

    def data_received(self, data: bytes) -> None:
        """Take an answer like the last one, or parse what came, and end the request when its answer is whole or wrong."""
        now = monotonic_ns()
        known = self.known
        if len(data) == known.size and data.startswith(known.head):
            self.owner.answered(self, now)
        else:
            self._parse(data, now)

    def _parse(self, data: bytes, now: int) -> None:
        if not self.busy:
            self.owner.on_unsolicited(self, data)
            return
        before = self.bytes
        if not before:
            self.first_byte_ns = now
            self.known = UNKNOWN
        self.bytes = size = before + len(data)
        if self.kept is not None:
            self.kept.append(data)
            if size > KEEP_LIMIT:
                self.kept = None
        had_head = self.head_done
        try:
            self.parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            self._fail(now, PROTOCOL)
            return
        if not had_head:
            self._read_head(data)
        if size > HEAD_LIMIT and not had_head and before + (max(0, data.find(HEAD_END)) if self.head_done else len(data)) > HEAD_LIMIT:
            self._fail(now, PROTOCOL)
        elif self.complete:
            if self.extra or (self.exchange.is_head and not b"\r\n\r\n".endswith(data[-4:])):
                self.owner.on_surplus(self)
                self._fail(now, PROTOCOL)
            else:
                exchange = self.exchange
                is_right = self.status == exchange.expected_status
                if not before and now >= exchange.learn_ns:
                    exchange.learn_ns = now + LEARN_NS
                    if self.keep_alive and is_right:
                        exchange.learn(data, *self.times_ms())
                self._end(now, NONE if is_right else STATUS)
        elif size > BODY_LIMIT:
            self._fail(now, TOO_LARGE)

    def times_ms(self) -> tuple[float, float]:
        """Return the time of the target and of its database as Server-Timing has them; NaN for what it has not."""
        return server_times_ms(self.timing) if self.timing is not None else (math.nan, math.nan)

    def _read_head(self, data: bytes) -> None:
        """Keep the head of an answer that is not complete, and find Server-Timing.

        The parser could call back for every header, at the cost of a tenth of a request; to search costs less, and nothing
        where the answer has no `=`, since a metric's duration is written `dur=`. Trailers are not searched.
        """
        head = self.head + data
        if not self.complete:
            self.head = head
        if self.head_done and (len(head) > SCANNED or b"=" in head):
            found = _SERVER_TIMING.findall(final_head(head))
            if found:
                self.timing = b",".join(found)

    def connection_lost(self, error: Exception | None) -> None:
        """End the request in flight: with an error, or with success if its body lasts until the close; or have it sent again."""
        now = monotonic_ns()
        self.keep_alive = False
        if self.busy and not (self.used and not self.bytes and self.owner.send_again(self)):
            if error is not None:
                self._fail(now, RESET)
            elif self.head_done and not self.complete and not _FRAMING.search(final_head(self.head)):  # the body lasts until the close
                self.status = self.parser.get_status_code()
                self._fail(now, NONE if self.status == self.exchange.expected_status else STATUS)
            else:
                self._fail(now, CLOSED_EARLY)
        self.owner.lost(self)
        del self.parser  # breaks the cycle of parser and protocol: the collector is off while measuring

    # ---- httptools calls ----

    def on_message_begin(self) -> None:
        """Notice a second answer behind the first."""
        if self.complete:
            self.extra = True

    def on_headers_complete(self) -> None:
        """Notice the end of the head, which is all that HEAD gets."""
        self.head_done = True
        if self.exchange.is_head:
            self._final()

    def on_message_complete(self) -> None:
        """Notice the end of the answer."""
        if not self.exchange.is_head or not self.complete:
            self._final()

    def _final(self) -> None:
        status = self.parser.get_status_code()
        if status < 200:  # an interim answer; the final one follows
            self.head_done = False
        else:
            self.status = status
            self.keep_alive = self.parser.should_keep_alive()
            self.complete = True


# ---- timing ----

WHOLE = (b"total", b"app", b"server")  # metrics that mean the whole request, best first
DATABASE = (b"db", b"database", b"sql")
_QUOTED = re.compile(rb'"[^"]*"')
_DURATION = re.compile(rb"(?:^|,)\s*([^\s;,]+)\s*(?:;[^;,]*)*?;\s*[dD][uU][rR]\s*=\s*([^\s;,]+)")  # of a metric, and its name


def server_times_ms(header: bytes) -> tuple[float, float]:
    """Return (server_ms, db_ms) of a Server-Timing value; NaN for what it does not say.

    server_ms is the metric `total`, `app` or `server`; without one, the longest metric, which is at most the truth.
    """
    if b'"' in header:  # what separates elsewhere is text between quotes
        header = _QUOTED.sub(lambda quoted: quoted[0].translate(None, b'",;='), header)
    metrics: dict[bytes, float] = {}
    for name, text in _DURATION.findall(header):
        try:
            duration_ms = float(text)
        except ValueError:
            continue
        if 0 <= duration_ms < 1e9:
            metrics[name.lower()] = duration_ms
    longest_ms = max(metrics.values(), default=math.nan)
    whole_ms, db_ms = (next((metrics[name] for name in names if name in metrics), None) for names in (WHOLE, DATABASE))
    return (longest_ms if whole_ms is None else whole_ms), (math.nan if db_ms is None else db_ms)
