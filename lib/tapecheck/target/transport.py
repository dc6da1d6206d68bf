"""How an HTTP client of ours connects: to this machine alone, where its URL is on it, whatever it is led to."""

import contextlib
import ssl
from typing import Any
from urllib.parse import urlsplit

import httpx

from tapecheck.errors import ConfigError
from tapecheck.target.loopback import addresses, host_of, is_loopback


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
