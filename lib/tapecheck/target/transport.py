"""How an HTTP client of ours connects: to this machine alone, where its URL is on it, whatever it is led to; and one bounded exchange."""

import contextlib
import ssl
import zlib
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx

from tapecheck.errors import ConfigError
from tapecheck.target.loopback import addresses, host_of, is_loopback

BODY_LIMIT = 32 * 2**20  # bytes of one body, decoded
HEAD_LIMIT = 64 * 2**10  # bytes of headers
LONG_HEAD = f"its response headers are longer than {HEAD_LIMIT:,} bytes, the most that is read of them: let the target send fewer"


def client_options(url: str, verify: ssl.SSLContext | bool = True) -> dict[str, Any]:
    """Return the options of an asynchronous httpx client for a URL: one on this machine gets neither proxy nor anything beyond it."""
    if not is_loopback(host_of(url)):
        return {"verify": verify}
    return {"trust_env": False, "transport": Loopback(verify=verify if urlsplit(url).scheme == "https" else False)}


class Loopback(httpx.AsyncBaseTransport):
    """Connects to loopback addresses alone, wherever a request, a redirect or a link leads; `Host` and TLS keep the name."""

    def __init__(self, **options: Any) -> None:
        self._inner = httpx.AsyncHTTPTransport(**options, limits=httpx.Limits(max_connections=None))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request to the first of its host's addresses that accepts a connection."""
        host = request.url.host
        if not is_loopback(host):
            raise ConfigError(f"refused to connect to {host}: it may be on another machine, and only loopback is allowed here")
        first, *others = addresses(host)
        try:
            return await self._inner.handle_async_request(_at(request, first))
        except httpx.ConnectError:
            for address in others:
                with contextlib.suppress(httpx.ConnectError):
                    return await self._inner.handle_async_request(_at(request, address))
            raise

    async def aclose(self) -> None:
        """Close every connection."""
        await self._inner.aclose()


def _at(request: httpx.Request, address: str) -> httpx.Request:
    extensions = request.extensions | {"sni_hostname": request.extensions.get("sni_hostname", request.url.host)}
    url = request.url.copy_with(host=address)
    return httpx.Request(request.method, url, headers=request.headers, stream=request.stream, extensions=extensions)


class TooLarge(Exception):
    """An answer that is not read to its end."""


FAILURES = (httpx.HTTPError, TimeoutError, TooLarge)  # what an exchange ends with


async def exchange(
    client: httpx.AsyncClient, request: httpx.Request, timeout_s: float, *, most_bytes: int | None = None, most_head_bytes: int = HEAD_LIMIT
) -> tuple[httpx.Response, bytes]:
    """Send a request and read its whole answer, decoded; without one, one of `FAILURES` is raised.

    Args:
        timeout_s: for all of it, since a limit on each read would let an answer drip for ever.
        most_bytes: of the body; `BODY_LIMIT` if None.
    """
    if {"br", "zstd"} & {one.strip() for one in request.headers.get("accept-encoding", "").split(",")}:
        request.headers["Accept-Encoding"] = "gzip, deflate"  # what is decoded here
    with anyio.fail_after(timeout_s):
        async with contextlib.aclosing(await client.send(request, stream=True)) as answer:
            if sum(len(name) + len(value) + len(": \r\n") for name, value in answer.headers.raw) > most_head_bytes:
                raise TooLarge(LONG_HEAD)
            return answer, await _body(answer, most_bytes or BODY_LIMIT)


async def _body(answer: httpx.Response, most: int) -> bytes:
    """Read a body; httpx would unpack a kilobyte, packed twice or by another method, to gigabytes before anybody counts."""
    encoding, body = answer.headers.get("content-encoding", "").strip().lower(), bytearray()
    if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
        raise httpx.DecodingError(f"it is {encoding[:60]!r}; gzip and deflate are read")
    inflate = zlib.decompressobj(wbits=47) if encoding not in ("", "identity") else None  # gzip or zlib, by its header
    async for part in answer.aiter_raw():
        try:
            body += inflate.decompress(part, most + 1 - len(body)) if inflate else part
        except zlib.error as error:
            raise httpx.DecodingError(str(error)) from None
        if len(body) > most:
            raise TooLarge(f"the body is larger than {most} bytes: is this the right path?")
    return bytes(body)
