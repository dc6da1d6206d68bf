"""Planted HTTP servers on free loopback ports: each misbehaves in one known way, and counts what it sees."""

import asyncio
import contextlib
import gzip
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit


@dataclass
class Seen:
    """What a server saw."""

    connections: int = 0
    open: int = 0
    requests: int = 0
    in_flight: int = 0
    peak: int = 0
    paths: list[str] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)


@dataclass
class Exchange:
    """One request, and the connection to answer it on."""

    server: "Server"
    writer: asyncio.StreamWriter
    method: str
    target: str
    head: bytes
    body: bytes
    number: int

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query))

    def answer(self, **more: object) -> bytes:
        return json.dumps({**self.query, **more}).encode()

    def send(self, body: bytes = b"", *, status: int = 200, headers: str = "", length: int | None = None) -> None:
        kind = "" if "content-type" in headers.lower() else "Content-Type: application/json\r\n"
        size = len(body) if length is None else length
        head = f"HTTP/1.1 {status} Planted\r\n{kind}{headers}Content-Length: {size}\r\n\r\n".encode()
        self.writer.write(head + body)

    def reset(self) -> None:
        """Close with a TCP reset."""
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()


Behaviour = Callable[[Exchange], Awaitable[None]]


class Server:
    """A server in a thread of its own; the port is free when it starts, and refused after it has stopped."""

    def __init__(self, behaviour: Behaviour, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self.behaviour, self.host, self.tls = behaviour, host, tls
        self.seen = Seen()
        self.writers: set[asyncio.StreamWriter] = set()
        self.serving: set[asyncio.Task[None]] = set()
        self.started = threading.Event()

    def __enter__(self) -> "Server":
        self.thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="planted server")
        self.thread.start()
        assert self.started.wait(60), "the planted server did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.ending.set)
        self.thread.join(60)
        assert not self.thread.is_alive(), "the planted server did not end"

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"

    async def _main(self) -> None:
        self.loop, self.ending = asyncio.get_running_loop(), asyncio.Event()
        self.listener = await asyncio.start_server(self._connected, self.host, 0, ssl=self.tls, backlog=1024)
        self.port: int = self.listener.sockets[0].getsockname()[1]
        self.started.set()
        await self.ending.wait()
        for _ in range(10):  # connections accepted just now take a few turns of the loop to appear among the writers;
            await asyncio.sleep(0)  # and they would never be closed if the listener were closed before
        self.die()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def die(self) -> None:
        """Stop listening and abort every connection, as a killed process would."""
        self.listener.close()
        for writer in list(self.writers):
            writer.transport.abort()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Note the connection at once: a task that is cancelled before its first step would never abort it."""
        self.seen.connections += 1
        self.seen.open += 1
        self.writers.add(writer)
        task = asyncio.create_task(self._serve(reader, writer))
        self.serving.add(task)
        task.add_done_callback(self.serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError, ssl.SSLError):
            while not writer.transport.is_closing():
                await self._exchange(reader, writer)
        self.seen.open -= 1
        self.writers.discard(writer)
        writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
        size = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
        body = await reader.readexactly(size)
        seen = self.seen
        seen.requests += 1
        seen.in_flight += 1
        seen.peak = max(seen.peak, seen.in_flight)
        seen.paths.append(target)
        if len(seen.heads) < 100:
            seen.heads.append(head)
            seen.bodies.append(body)
        try:
            await self.behaviour(Exchange(self, writer, method, target, head, body, seen.requests))
            await writer.drain()
        finally:
            seen.in_flight -= 1


# ---- behaviours ----


async def fast(exchange: Exchange) -> None:
    exchange.send(exchange.answer())


def slow(delay_s: float) -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        await asyncio.sleep(delay_s)
        exchange.send(exchange.answer())

    return behave


def status(code: int, headers: str = "", text: bytes = b'{"error": "planted"}') -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        exchange.send(text, status=code, headers=headers)

    return behave


def raw(data: bytes, *, close: bool = False) -> Behaviour:
    """Send exactly these bytes."""

    async def behave(exchange: Exchange) -> None:
        exchange.writer.write(data)
        if close:
            exchange.writer.close()

    return behave


def body(text: bytes, headers: str = "") -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        exchange.send(text, headers=headers)

    return behave


async def wrong_symbol(exchange: Exchange) -> None:
    exchange.send(exchange.answer(symbol="ZZZZ"))


async def closes_after_each(exchange: Exchange) -> None:
    exchange.send(exchange.answer(), headers="Connection: close\r\n")
    exchange.writer.close()


def keeps_for(count: int, then: "Behaviour") -> Behaviour:
    """Answer `count` requests on a connection, and do something else with each later one on it."""

    async def behave(exchange: Exchange) -> None:
        answered = exchange.server.__dict__.setdefault("answered", {})
        answered[exchange.writer] = answered.get(exchange.writer, 0) + 1
        await (fast if answered[exchange.writer] <= count else then)(exchange)

    return behave


async def closes_without_a_word(exchange: Exchange) -> None:
    exchange.writer.close()


async def resets_without_a_word(exchange: Exchange) -> None:
    exchange.reset()


async def answers_and_closes_without_a_word(exchange: Exchange) -> None:
    exchange.send(exchange.answer())
    exchange.writer.close()


def closes_idle(after_s: float) -> Behaviour:
    """Close a connection on which nothing was asked for so long, as servers do."""

    async def behave(exchange: Exchange) -> None:
        timers = exchange.server.__dict__.setdefault("timers", {})
        if exchange.writer in timers:
            timers[exchange.writer].cancel()
        timers[exchange.writer] = exchange.server.loop.call_later(after_s, exchange.writer.close)
        exchange.send(exchange.answer())

    return behave


async def resets_in_mid_body(exchange: Exchange) -> None:
    exchange.send(b'{"half', length=1000)
    await exchange.writer.drain()
    await asyncio.sleep(0.01)
    exchange.reset()


async def cuts_body(exchange: Exchange) -> None:
    exchange.send(b'{"half', length=1000, headers="Connection: close\r\n")
    exchange.writer.close()


async def half_then_silence(exchange: Exchange) -> None:
    exchange.send(b'{"half', length=1000)
    await asyncio.sleep(60)


async def silent(exchange: Exchange) -> None:
    await asyncio.sleep(60)


async def chunked(exchange: Exchange) -> None:
    exchange.writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
    for part in (b'{"symbol":', b' "AAPL"}'):
        exchange.writer.write(b"%x\r\n%s\r\n" % (len(part), part))
        await asyncio.sleep(0)
    exchange.writer.write(b"0\r\n\r\n")


async def until_close(exchange: Exchange) -> None:
    exchange.writer.write(b'HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{"symbol": "AAPL"}')
    exchange.writer.close()


async def interim(exchange: Exchange) -> None:
    exchange.writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
    exchange.send(exchange.answer())


async def interims(exchange: Exchange) -> None:
    """Answer after three interim answers, each in a packet of its own."""
    for head in (b"100 Continue", b"102 Processing", b"103 Early Hints\r\nLink: </x>"):
        exchange.writer.write(b"HTTP/1.1 " + head + b"\r\n\r\n")
        await asyncio.sleep(0.001)
    exchange.send(exchange.answer())


def once_more(number: int, extra: bytes) -> Behaviour:
    """Answer every request, and once, after request `number`, say something more that nobody asked for."""

    async def behave(exchange: Exchange) -> None:
        await asyncio.sleep(0.003)  # so that no two answers come in one segment
        exchange.send(exchange.answer())
        if exchange.number == number:
            await asyncio.sleep(0.003)
            exchange.writer.write(extra)

    return behave


def twice(pause_s: float = 0) -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        exchange.send(exchange.answer())
        await asyncio.sleep(pause_s)
        exchange.send(exchange.answer())

    async def at_once(exchange: Exchange) -> None:
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        exchange.writer.write(answer + answer)

    return behave if pause_s else at_once


async def zipped(exchange: Exchange) -> None:
    exchange.send(gzip.compress(exchange.answer(padding="x" * 10_000)), headers="Content-Encoding: gzip\r\n")


async def headed(exchange: Exchange) -> None:
    """Answer HEAD as GET, without the body."""
    exchange.send(b"", length=5000)


async def timed(exchange: Exchange) -> None:
    exchange.send(exchange.answer(), headers="Server-Timing: db;dur=2.5, app;dur=7.25\r\n")


def drips(start: bytes) -> Behaviour:
    """Begin an answer and go on with a byte at a time, for ever: no single read ever takes long."""

    async def behave(exchange: Exchange) -> None:
        exchange.writer.write(start)
        while not exchange.writer.transport.is_closing():
            exchange.writer.write(b"x")
            await asyncio.sleep(0.02)

    return behave


async def floods(exchange: Exchange) -> None:
    """Answer with a body that has no end."""
    exchange.writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    while not exchange.writer.transport.is_closing():
        exchange.writer.write(bytes(2**20))
        await exchange.writer.drain()


def together(count: int) -> Behaviour:
    """Answer only when `count` requests are in flight at once; a client that sends one by one waits for ever."""

    async def behave(exchange: Exchange) -> None:
        gate = exchange.server.__dict__.setdefault("gates", {}).setdefault((exchange.number - 1) // count, asyncio.Event())
        if exchange.server.seen.in_flight >= count:
            gate.set()
        await gate.wait()
        exchange.send(exchange.answer())

    return behave


def dies_after(count: int) -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        if exchange.number >= count:
            exchange.server.die()
        else:
            exchange.send(exchange.answer())

    return behave


@contextlib.contextmanager
def silent_port() -> Iterator[str]:
    """Yield the URL of a port that accepts connections into its backlog and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextlib.contextmanager
def full_port() -> Iterator[int]:
    """Yield a port whose backlog is full: the system drops every further attempt to connect."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            other = stack.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_for_port(port: int, timeout_s: float = 60.0) -> None:
    """Wait until something listens on a port."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise TimeoutError(f"nothing listens on port {port}")
