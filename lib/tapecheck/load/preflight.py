"""Checks that the target is what the configuration says, one plain request at a time, before any load."""

import contextlib
import logging
import math
import socket
import ssl
import time
from collections.abc import Mapping, Sequence

import anyio
import certifi
import httpx
from anyio.from_thread import start_blocking_portal

from tapecheck import config
from tapecheck.errors import ConfigError, Problem, TargetDown, TargetError
from tapecheck.load.engine import content
from tapecheck.load.engine.protocol import BODY_LIMIT, HEAD_LIMIT
from tapecheck.load.engine.work import Address, PreparedRequest, Tls
from tapecheck.target.file import Secret, Target
from tapecheck.target.opening import beyond, is_loopback
from tapecheck.target.templates import redacted

REQUESTS_LIMIT = 32  # of all combinations, spread evenly over each scenario's
TIME_LIMIT_S = 20.0  # after that, what has been checked is enough
TIMEOUT_S = 10.0  # for one answer
CONNECT_S = 5.0  # for a connection
PROBE_S = 1.0  # to find out whether a port speaks the other scheme
QUOTED = 200  # characters of an answer in a message
TOO_LONG_A_HEAD = f"its response headers are longer than {HEAD_LIMIT:,} bytes, the most that is read of them: let the target send fewer"
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
    logging.getLogger("httpx").setLevel(logging.WARNING)  # its INFO line holds the whole URL
    url = httpx.URL(target.base_url)
    tls, context = _tls(target, url)
    found = _resolve(target, url)
    _refuse_remote(target, url, found)
    address = Address(host=_connectable(url, found), port=_port(url), tls=tls)
    with start_blocking_portal() as portal:  # a notebook's kernel runs an event loop of its own
        portal.call(_check_all, target, prepared, address, context, timeout_s)
    return address


async def _check_all(
    target: Target, prepared: Mapping[str, Sequence[PreparedRequest]], address: Address, context: ssl.SSLContext | None, timeout_s: float
) -> None:
    deadline = time.monotonic() + TIME_LIMIT_S
    async with httpx.AsyncClient(verify=context or False, trust_env=False, follow_redirects=False) as client:
        for i, request in enumerate(_spread(prepared)):
            if i >= len(prepared) and time.monotonic() > deadline:
                break
            try:
                await _check_one(client, target, request, address, timeout_s)
            except TargetError as error:
                raise type(error)(redacted(str(error), target)) from None


async def _exchange(client: httpx.AsyncClient, sent: httpx.Request, target: Target) -> tuple[httpx.Response, bytes]:
    """Return the answer, whose head and body are within the engine's limits, and its body, secrets blanked out."""
    parts, size = [], 0
    async with contextlib.aclosing(await client.send(sent, stream=True)) as answer:
        if sum(len(name) + len(value) + len(": \r\n") for name, value in answer.headers.raw) > HEAD_LIMIT:
            raise TargetError(f"{sent.method} {sent.url}: {TOO_LONG_A_HEAD}")
        async for part in answer.aiter_bytes():
            parts.append(part)
            size += len(part)
            if size > BODY_LIMIT:
                raise TargetError(f"{sent.method} {sent.url}: the body is larger than {BODY_LIMIT} bytes: is this the right path?")
    body = b"".join(parts)
    for value in target.headers.values():
        if isinstance(value, Secret):
            body = body.replace(value.reveal().encode(), b"***")
    return answer, body


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


def _tls(target: Target, url: httpx.URL) -> tuple[Tls | None, ssl.SSLContext | None]:
    if url.scheme != "https":
        return None, None
    file = str(config.find(target.ca_file)) if target.ca_file else certifi.where()
    tls = Tls(server_name=url.host, ca_file=file)
    try:
        return tls, tls.context()
    except (OSError, ssl.SSLError) as error:
        got = f"{target.ca_file!r}: {error}"
        raise ConfigError([Problem(file=f"target {target.name}", key="ca_file", got=got, allowed="a file of PEM certificates")]) from None


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
        with anyio.fail_after(timeout_s):  # in all: a limit on each read would let an answer drip for ever
            answer, body = await _exchange(client, sent, target)
    except httpx.DecodingError as error:
        raise TargetError(f"{what}: the body cannot be decoded as its Content-Encoding says ({error})") from None
    except httpx.ConnectTimeout:
        kind = "TLS: no handshake" if address.tls else "no connection"
        hint = "is this port https?" if address.tls else "the target is too busy to accept one"
        raise _down(f"{what}: {kind} within {timeout_s:g} s: {hint}", _other_scheme(address)) from None
    except TimeoutError:
        raise TargetDown(f"{what}: no whole answer within {timeout_s:g} s: the target is too slow for any load, or hangs") from None
    except httpx.RemoteProtocolError as error:
        raise _not_http(what, error, _other_scheme(address)) from None
    except httpx.TransportError as error:
        raise _transport(what, error, _other_scheme(address)) from None
    _check_status(what, target, request, answer, body, address)
    if request.method != "HEAD":
        says_json = content.is_json(answer.headers.get("content-type", ""))
        if problem := content.wrong(body, request.expected_json, says_json=says_json):
            raise TargetError(f"{what}: {problem}: correct the request's `expect`, or base_url if this is another service")


def _down(said: str, hint: str) -> TargetError:
    """Return that the target does not answer; where it speaks the other scheme, only the configuration can mend that."""
    return TargetError(said + hint) if hint else TargetDown(said)


def _not_http(what: str, error: httpx.RemoteProtocolError, hint: str) -> TargetError:
    text = str(error)
    if "disconnected" in text or "peer closed" in text:
        return _down(f"{what}: the connection was closed before the answer was whole: the target failed, or is something else", hint)
    if "too long" in text:
        return TargetError(f"{what}: {TOO_LONG_A_HEAD}")
    if "status line" in text:
        return TargetError(f"{what}: the answer is not HTTP ({text}): the port is of something else{hint}")
    if "_SWITCH_" in text:
        return TargetError(f"{what}: answered 101 and switches to another protocol, which cannot be measured: correct the request")
    return TargetError(f"{what}: the answer breaks the rules of HTTP ({text}): correct what the target, or a proxy before it, sends")


def _transport(what: str, error: httpx.TransportError, hint: str) -> TargetError:
    cause = next((e for e in _causes(error) if isinstance(e, ssl.SSLError)), None)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return TargetError(f"{what}: TLS: the certificate is refused ({cause.verify_message}): name its authority with ca_file")
    if cause is not None:
        return TargetError(f"{what}: TLS: {(cause.reason or str(cause)).replace('_', ' ').lower()}: is this port https?{hint}")
    return _down(f"{what}: {str(error) or type(error).__name__}: the target closed or reset the connection", hint)


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


def _causes(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    here: BaseException | None = error
    while here is not None and here not in chain:
        chain.append(here)
        here = here.__cause__ or here.__context__
    return chain


def _check_status(what: str, target: Target, request: PreparedRequest, answer: httpx.Response, body: bytes, address: Address) -> None:
    status = answer.status_code
    if status == request.expected_status:
        return
    says = f"{what}: answered {status}, expected {request.expected_status}"
    if status in (401, 403):
        raise TargetError(f"{says}: the key is missing or wrong; headers sent: {_header_names(target)}")
    if status == 404:
        why = content.shown(body, QUOTED) if body.strip() else "no such path"
        raise TargetError(f"{says}: {why}; correct the request or its parameters, or base_url")
    if answer.is_redirect:
        raise TargetError(f"{says}: redirected to {_location(answer)}, and redirects are not followed: name that URL instead")
    if status == 429 or status >= 500:
        raise TargetDown(f"{says}: the target does not work, even without load: {content.shown(body)}")
    hint = (
        f"; if that is right, write expect: {{status: {status}}}" if answer.is_success else _other_scheme(address) if status == 400 else ""
    )
    raise TargetError(f"{says}: {content.shown(body, QUOTED)}{hint}")


def _header_names(target: Target) -> str:
    names = [f"{name} (from {value.place})" if isinstance(value, Secret) else name for name, value in target.headers.items()]
    return ", ".join(names) or "none; name the key under `headers`"


def _location(answer: httpx.Response) -> str:
    try:
        there = answer.url.join(answer.headers["location"])
    except (httpx.InvalidURL, KeyError):
        return "somewhere unreadable"
    return str(there.copy_with(query=None, fragment=None, userinfo=None))
