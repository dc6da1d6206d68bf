"""A recording reverse proxy before a vendor, in a process of its own: it passes on what is asked and answered, and notes when.

It keeps no header, no query and no body; a key passes through.
"""

import contextlib
import json
import logging
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import httpx
import uvicorn

from tapecheck.errors import ConfigError, MeasurementError, Problem
from tapecheck.target.transport import client_options

Message = MutableMapping[str, Any]
Headers = list[tuple[bytes, bytes]]
HOST = "127.0.0.1"
HOP_BY_HOP = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"))
TIMEOUT_S = 120.0  # between two bytes of the vendor's: longer than any client waits
READY_S, END_S = 30.0, 5.0
MOST_BYTES = 32 * 2**20  # of a body that is rewritten, or of a piece of one, unpacked
NEXT_URL = re.compile(rb'"next_url"\s*:\s*"(https?:\\?/\\?/[^/"\\]+)(?=[/"\\])')  # to the end of the host, or with the next chunk
OVERLAP = 300  # bytes of a chunk that are looked at again with the next one: a URL's beginning may be cut


@dataclass(slots=True, kw_only=True)
class VendorExchange:
    """One request and its answer, as the proxy saw them.

    `ended_ns` is when the last byte was passed on. `status` is 0 and `failure` a word where the vendor gave no whole answer. `bytes` are
    of the body as it was sent. `follows` tells whether a page was asked for by its cursor, `next_origin` where `next_url` leads to.
    """

    began_ns: int
    ended_ns: int = 0
    path: str
    follows: bool
    status: int = 0
    bytes: int = 0
    failure: str = ""
    next_origin: str = ""


class _NextUrl:
    """Finds where `next_url` of an answer leads to, chunk by chunk, whether it is compressed or not."""

    def __init__(self, encoding: str) -> None:
        self._inflate = zlib.decompressobj(wbits=47) if encoding in ("gzip", "deflate") else None
        self._is_legible = self._inflate is not None or encoding in ("", "identity")
        self._left, self.origin = b"", ""

    def feed(self, chunk: bytes) -> None:
        if not self._is_legible or self.origin:
            return
        try:
            text = self._left + (self._inflate.decompress(chunk, MOST_BYTES) if self._inflate else chunk)
        except zlib.error:
            self._is_legible = False
            return
        if found := NEXT_URL.search(text):
            self.origin = found[1].replace(b"\\", b"").decode("ascii", "replace")
        self._left = text[-OVERLAP:]


class Proxy:
    """The application: forwards each request to one vendor, and hands over what it saw of it.

    Args:
        rewrites: whether its own address takes the vendor's place in `next_url`.
    """

    def __init__(
        self, vendor_url: str, own_url: str, note: Callable[[VendorExchange], None], *, rewrites: bool = False, ca_file: str | None = None
    ) -> None:
        self._vendor, self._own, self._note, self._rewrites = httpx.URL(vendor_url), own_url, note, rewrites
        options = client_options(vendor_url, ssl.create_default_context(cafile=ca_file) if ca_file else True)
        self._client = httpx.AsyncClient(timeout=TIMEOUT_S, limits=httpx.Limits(max_connections=None), **options)

    async def __call__(self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]) -> None:
        """Pass on one request and its answer."""
        exchange = VendorExchange(
            began_ns=time.monotonic_ns(), path=scope["raw_path"].decode("ascii", "replace"), follows=b"cursor=" in scope["query_string"]
        )
        try:
            await self._pass_on(exchange, await self._request(scope, receive), send)
        except (httpx.HTTPError, httpx.InvalidURL) as error:  # the latter of a path that is none
            exchange.status, exchange.failure = 0, type(error).__name__
            if not exchange.bytes:
                await _refuse(send, f"the vendor does not answer: {type(error).__name__}\n")
        finally:
            exchange.ended_ns = time.monotonic_ns()
            self._note(exchange)

    async def _request(self, scope: Message, receive: Callable[[], Awaitable[Message]]) -> httpx.Request:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        headers = _end_to_end(scope["headers"], b"host", *([b"accept-encoding"] if self._rewrites else []))
        path = self._vendor.raw_path.rstrip(b"/") + scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        url = self._vendor.copy_with(raw_path=path)
        host = (b"host", self._vendor.netloc)
        return httpx.Request(scope["method"], url, headers=[host, *headers], content=body or None)

    async def _pass_on(self, exchange: VendorExchange, request: httpx.Request, send: Callable[[Message], Awaitable[None]]) -> None:
        answer = await self._client.send(request, stream=True)
        try:
            chunks, headers = answer.aiter_raw(), _end_to_end(answer.headers.raw)
            next_url = _NextUrl(answer.headers.get("content-encoding", ""))
            if self._rewrites:
                chunks, headers = self._rewritten(await _whole(chunks), headers)
            await send({"type": "http.response.start", "status": answer.status_code, "headers": headers})
            async for chunk in chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                exchange.bytes += len(chunk)
                next_url.feed(chunk)
            await send({"type": "http.response.body"})
            exchange.status, exchange.next_origin = answer.status_code, next_url.origin
        finally:
            await answer.aclose()

    def _rewritten(self, body: bytes, headers: Headers) -> tuple[Any, Headers]:
        """Return a whole body in which `next_url` leads to this proxy, and the headers that then hold."""
        body = NEXT_URL.sub(lambda found: found[0].replace(found[1], self._own.encode()), body)

        async def one() -> Any:
            yield body

        return one(), [*((name, value) for name, value in headers if name.lower() != b"content-length"), _length(body)]

    async def close(self) -> None:
        """Close the connections to the vendor."""
        await self._client.aclose()


async def _whole(chunks: AsyncIterator[bytes]) -> bytes:
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > MOST_BYTES:
            raise httpx.ReadError(f"more than {MOST_BYTES:,} bytes")
    return bytes(body)


def _end_to_end(headers: Headers, *others: bytes) -> Headers:
    return [(name, value) for name, value in headers if name.lower() not in HOP_BY_HOP and name.lower() not in others]


def _length(body: bytes) -> tuple[bytes, bytes]:
    return b"content-length", str(len(body)).encode()


async def _refuse(send: Callable[[Message], Awaitable[None]], why: str) -> None:
    with contextlib.suppress(RuntimeError):  # an answer has begun, which ends here
        await send({"type": "http.response.start", "status": 502, "headers": [(b"content-type", b"text/plain"), _length(why.encode())]})
        await send({"type": "http.response.body", "body": why.encode()})


# ---- the process of its own ----


def main() -> None:
    """Serve until stdin ends; what to do is its first line. Say the port, then one line of JSON an exchange."""
    asked = json.loads(sys.stdin.readline())
    with socket.create_server((HOST, asked["port"])) as listener:
        port = listener.getsockname()[1]
        proxy = Proxy(
            asked["vendor_url"],
            f"http://{HOST}:{port}",
            lambda exchange: print(json.dumps(asdict(exchange)), flush=True),
            rewrites=asked["rewrites"],
            ca_file=asked["ca_file"],
        )
        config = uvicorn.Config(
            proxy, lifespan="off", log_config=None, access_log=False, server_header=False, date_header=False, timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        threading.Thread(target=_end_with_stdin, args=(server,), daemon=True).start()
        print(port, flush=True)
        logging.getLogger("httpx").setLevel(logging.WARNING)
        server.run(sockets=[listener])


def _end_with_stdin(server: uvicorn.Server) -> None:
    sys.stdin.read()
    server.should_exit = True


class ProxyProcess:
    """The proxy as a child process, from `with` to its end; `url` is where it is reached, `exchanges` what it has seen."""

    def __init__(self, vendor_url: str, *, port: int = 0, rewrites: bool = False, ca_file: str | None = None) -> None:
        self._asked = {"vendor_url": vendor_url, "port": port, "rewrites": rewrites, "ca_file": ca_file}
        self._lines: list[str] = []

    def __enter__(self) -> Self:
        """Start it and wait until it listens.

        Raises:
            ConfigError: its port is taken.
            MeasurementError: it does not start.
        """
        command = [sys.executable, "-P", "-m", __name__]
        self._complaints = tempfile.TemporaryFile("w+")  # a pipe that nobody reads would be full some time
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._complaints, text=True, start_new_session=True
        )
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(self._asked) + "\n")
            self._process.stdin.flush()
        said = self._process.stdout.readline().strip()
        if not said.isdecimal():
            self._fail()
        self.url = f"http://{HOST}:{said}"
        self._reader = threading.Thread(target=lambda: self._lines.extend(self._process.stdout or ()), daemon=True)
        self._reader.start()
        return self

    def _fail(self) -> None:
        self._process.communicate(timeout=READY_S)
        with self._complaints as said:
            said.seek(0)
            complaint = said.read()
        if "Errno 98" in complaint or "Address already in use" in complaint:
            allowed, got = "a free port, or 0 for any", f"{self._asked['port']}, which is in use"
            raise ConfigError([Problem(file="target", key="backfill.observe.proxy_port", got=got, allowed=allowed)])
        raise MeasurementError(f"the recording proxy did not start: {(complaint.strip().splitlines() or ['no reason given'])[-1]}")

    def __exit__(self, *caught: object) -> None:
        """End it; what it still passes on is cut after a second."""
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(END_S)
        for stream in (self._process.stdout, self._complaints):
            assert stream
            stream.close()

    @property
    def seen(self) -> int:
        """How many exchanges have ended so far."""
        return len(self._lines)

    def exchanges(self) -> Iterator[VendorExchange]:
        """Yield what was seen, in the order in which it ended; after the end."""
        for line in self._lines:
            yield VendorExchange(**json.loads(line))


if __name__ == "__main__":
    main()
