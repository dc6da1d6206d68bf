"""Checks that the target is what the configuration says, one plain request at a time, before any load."""

import math
import socket
import ssl
import time
from collections.abc import Mapping, Sequence

import certifi
import httpx
from anyio.from_thread import start_blocking_portal

from tapecheck import config, http
from tapecheck.errors import ConfigError, TargetDown, TargetError, shown
from tapecheck.load.engine import content
from tapecheck.load.engine.protocol import BODY_LIMIT, HEAD_LIMIT
from tapecheck.load.engine.work import Address, PreparedRequest, Tls
from tapecheck.target.file import Target
from tapecheck.target.opening import beyond, is_loopback
from tapecheck.target.templates import redacted

REQUESTS_LIMIT = 32  # of all combinations, spread evenly over each scenario's
TIME_LIMIT_S = 20.0  # after that, what has been checked is enough
TIMEOUT_S = 10.0  # for one answer
CONNECT_S = 5.0  # for a connection
PROBE_S = 1.0  # to find out whether a port speaks the other scheme
CONNECT_SHARE = 0.9  # of the time for one answer, after which a connection or handshake that hangs is named as such


def check(target: Target, prepared: Mapping[str, Sequence[PreparedRequest]], *, timeout_s: float = TIMEOUT_S) -> Address:
    """Ask the target for some of what the plan will ask, and return the numeric address that answered.

    Args:
        target: opened, so that it has a `base_url`.
        prepared: the requests of each scenario; at least one of each is sent, at most `REQUESTS_LIMIT` of all.
        timeout_s: how long one answer may take.

    Raises:
        ConfigError: the target lies beyond this machine without `allow_remote`, or `ca_file` cannot be read; nothing was sent.
        TargetError: it answers, but not as configured.
        TargetDown: it does not answer.
    """
    assert target.base_url is not None, "an opened target has a URL"
    url = httpx.URL(target.base_url)
    context = http.tls(target)
    tls = (
        Tls(server_name=url.host, ca_file=str(config.find(target.ca_file)) if target.ca_file else certifi.where())
        if url.scheme == "https"
        else None
    )
    found = _resolve(target, url)
    _refuse_remote(target, url, found)
    address = Address(host=_connectable(url, found), port=_port(url), tls=tls)
    with start_blocking_portal() as portal:  # a notebook's kernel runs an event loop of its own
        portal.call(_check_all, target, prepared, address, context, timeout_s)
    return address


async def _check_all(
    target: Target, prepared: Mapping[str, Sequence[PreparedRequest]], address: Address, context: ssl.SSLContext | bool, timeout_s: float
) -> None:
    deadline = time.monotonic() + TIME_LIMIT_S
    async with httpx.AsyncClient(verify=context, trust_env=False, follow_redirects=False) as client:
        for i, request in enumerate(_spread(prepared)):
            if i >= len(prepared) and time.monotonic() > deadline:
                break
            try:
                await _check_one(client, target, request, address, timeout_s)
            except TargetError as error:
                raise type(error)(redacted(str(error), target)) from None


def _spread(prepared: Mapping[str, Sequence[PreparedRequest]]) -> list[PreparedRequest]:
    """Return the first request of each scenario, then more of each, evenly, each distinct one once."""
    each = max(1, REQUESTS_LIMIT // max(1, len(prepared)))
    strides = {name: math.ceil(len(requests) / each) for name, requests in prepared.items()}
    first = [requests[0] for requests in prepared.values()]
    more = [request for name, requests in prepared.items() for request in requests[:: strides[name]]]
    return list({request.raw: request for request in first + more}.values())


# ---- where it is ----


def _port(url: httpx.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


def _resolve(target: Target, url: httpx.URL) -> list[str]:
    try:
        found = socket.getaddrinfo(url.host, _port(url), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        more = "" if target.allow_remote else "; beyond this machine, it needs allow_remote: true as well"
        raise TargetError(
            f"{url}: the host name {url.host!r} cannot be resolved ({why}): correct base_url, or the name service{more}"
        ) from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _refuse_remote(target: Target, url: httpx.URL, found: Sequence[str]) -> None:
    remote = [ip for ip in found if not is_loopback(ip)]
    if remote and not target.allow_remote:
        raise ConfigError([beyond(target, f"{url} is at {remote[0]}, beyond this machine")])


def _connectable(url: httpx.URL, found: Sequence[str]) -> str:
    """Return the first of a host's addresses that accepts a connection, so that the load goes there without a detour."""
    reasons = []
    for ip in found:
        try:
            socket.create_connection((ip, _port(url)), timeout=CONNECT_S).close()
        except TimeoutError:
            reasons.append(f"no connection to {ip} within {CONNECT_S:.0f} s")
        except OSError as error:
            reasons.append(f"{ip}: {error.strerror or error}")
        else:
            return ip
    raise TargetDown(f"{url}: nothing answers at port {_port(url)} ({'; '.join(reasons)}): start the target, or correct base_url")


# ---- what it answers ----


async def _check_one(client: httpx.AsyncClient, target: Target, request: PreparedRequest, address: Address, timeout_s: float) -> None:
    url = httpx.URL(request.url)
    what = f"{request.method} {request.url}"
    sent = httpx.Request(
        request.method,
        url.copy_with(host=address.host),  # the address that was checked; Host and TLS keep the name
        headers=list(request.headers),
        content=request.body or None,
        extensions={"sni_hostname": url.host, "timeout": httpx.Timeout(None, connect=CONNECT_SHARE * timeout_s).as_dict()},
    )
    try:
        answer, body = await http.exchange(client, sent, timeout_s, most_bytes=BODY_LIMIT, most_head_bytes=HEAD_LIMIT)
    except httpx.ConnectTimeout:
        kind = "TLS: no handshake" if address.tls else "no connection"
        hint = "is this port https?" if address.tls else "the target is too busy to accept one"
        raise http.down(f"{what}: {kind} within {timeout_s:g} s: {hint}", _other_scheme(address)) from None
    except http.FAILURES as error:
        raise http.failure(what, error, timeout_s=timeout_s, hint=lambda: _other_scheme(address)) from None
    body = redacted(body.decode("latin-1"), target).encode("latin-1")  # byte by byte
    _check_status(what, target, request, answer, body, address)
    if request.method != "HEAD":
        says_json = content.is_json(answer.headers.get("content-type", ""))
        if problem := content.wrong(body, request.expected_json, says_json=says_json):
            raise TargetError(f"{what}: {problem}: correct the request's `expect`, or base_url if this is another service")


def _other_scheme(address: Address) -> str:
    """Say that the port speaks TLS where it was asked in plain text, or the other way round; nothing where it does not."""
    there = (address.host, address.port)
    try:
        with socket.create_connection(there, timeout=PROBE_S) as connection:
            if address.tls is None:
                context = ssl.create_default_context()
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is sent or believed
                context.wrap_socket(connection).close()
                return "; the port speaks TLS: write https:// in base_url"
            connection.sendall(b"HEAD / HTTP/1.0\r\n\r\n")
            return "; the port answers without TLS: write http:// in base_url" if connection.recv(5) == b"HTTP/" else ""
    except OSError:
        return ""


def _check_status(what: str, target: Target, request: PreparedRequest, answer: httpx.Response, body: bytes, address: Address) -> None:
    if answer.status_code == request.expected_status:
        return
    hint = ""
    if answer.is_redirect:
        hint = f"redirected to {_location(answer)}, and redirects are not followed: name that URL instead"
    elif answer.status_code == 400:
        hint = f"{shown(body, http.QUOTED)}{_other_scheme(address)}"
    elif answer.is_success:
        hint = f"{shown(body)}; if that is right, write expect: {{status: {answer.status_code}}}"
    raise http.refused(what, answer.status_code, body, target, expected=request.expected_status, hint=hint)


def _location(answer: httpx.Response) -> str:
    try:
        there = answer.url.join(answer.headers["location"])
    except (httpx.InvalidURL, KeyError):
        return "somewhere unreadable"
    return str(there.copy_with(query=None, fragment=None, userinfo=None))
