"""Makes ready-to-send requests of a target's templates and a scenario's parameters, and asks some of them once before any load.

Secrets are in fields that no `repr` shows.
"""

import itertools
import json
import math
import socket
import ssl
import time
from collections.abc import Mapping, Sequence

import certifi
import httpx
from anyio.from_thread import start_blocking_portal

from tapecheck import config, http
from tapecheck.errors import ConfigError, Problem, TargetDown, TargetError, shown
from tapecheck.load.engine import content
from tapecheck.load.engine.protocol import BODY_LIMIT, HEAD_LIMIT
from tapecheck.load.engine.work import Address, PreparedRequest, Tls, Value
from tapecheck.load.plan import LoadPlan, Scenario
from tapecheck.target import templates
from tapecheck.target.file import RequestTemplate, Target
from tapecheck.target.loopback import addresses, beyond, is_loopback
from tapecheck.target.transport import FAILURES, exchange

USER_AGENT = "tapecheck"
Prepared = Mapping[str, Sequence[PreparedRequest]]


def prepare_all(plan: LoadPlan, target: Target) -> dict[str, tuple[PreparedRequest, ...]]:
    """Prepare every scenario's requests, one for each combination of its parameters, the last of which changes fastest.

    Request `i` of a scenario, counted from the end of its warm-up, uses combination `i % len(combinations)`.

    Raises:
        ConfigError: every unknown template, missing or unused parameter, bad header and unset secret at once.
    """
    assert target.base_url is not None, "an opened target has a URL"
    problems: list[Problem] = []
    headers = templates.headers(target, problems)
    prepared = {}
    problems += _unknown(plan, target)
    for name, scenario in plan.scenarios.items():
        if (template := target.requests.get(scenario.request)) is None:
            continue
        problems += _problems(f"scenarios.{name}", scenario, template)
        if not problems:
            crossed = (dict(zip(scenario.parameters, one, strict=True)) for one in itertools.product(*scenario.parameters.values()))
            own = templates.headers_of(template, headers)
            prepared[name] = tuple(_request(template, values, target.base_url, own) for values in crossed)
    if problems:
        raise ConfigError(problems)
    return prepared


def _unknown(plan: LoadPlan, target: Target) -> list[Problem]:
    """Return one problem for each request that scenarios name and the target lacks."""
    lacking: dict[str, list[str]] = {}
    for name, scenario in plan.scenarios.items():
        if scenario.request not in target.requests:
            lacking.setdefault(scenario.request, []).append(name)
    allowed = (
        f"the requests of target {target.name}: {', '.join(target.requests)}; copy config/load.yaml to my-load.yaml, name these there as"
        " `request`, their names in braces as `parameters` with your symbols, and run with -p plan my-load.yaml"
    )
    return [
        Problem(file="plan", key="scenarios.*.request", got=f"{request!r} ({', '.join(names)})", allowed=allowed)
        for request, names in lacking.items()
    ]


def _problems(at: str, scenario: Scenario, template: RequestTemplate) -> list[Problem]:
    needed, given = templates.placeholders(template), scenario.parameters
    names = ", ".join(needed) or "none"
    every, got = f"every name in {template.request!r}: {names}", "a parameter that the request does not use"
    missing = [Problem(file="plan", key=f"{at}.parameters", got=f"no {key!r}", allowed=every) for key in needed if key not in given]
    return missing + [Problem(file="plan", key=f"{at}.parameters.{k}", got=got, allowed=names) for k in given if k not in needed]


def _request(template: RequestTemplate, values: dict[str, Value], base_url: str, headers: list[tuple[str, str]]) -> PreparedRequest:
    url = httpx.URL(base_url.rstrip("/") + templates.path(template, values))
    body, given = templates.body(template, values), {name.lower() for name, _ in headers}
    defaults = [("Host", url.netloc.decode("ascii")), ("User-Agent", USER_AGENT), ("Accept", "*/*")]
    if template.method == "POST":
        defaults += [("Content-Length", str(len(body))), *([("Content-Type", "application/json")] if _is_json(body) else [])]
    every = [(name, value) for name, value in defaults if name.lower() not in given] + headers
    request = httpx.Request(template.method, url, headers=every, content=body or None)
    lines = [f"{template.method} {url.raw_path.decode('ascii')} HTTP/1.1".encode("ascii")]
    lines += [name + b": " + value for name, value in request.headers.raw]
    return PreparedRequest(
        values=values,
        method=template.method,
        url=str(url),
        raw=b"\r\n".join([*lines, b"", body]),
        headers=tuple((name.decode("ascii"), value.decode("ascii")) for name, value in request.headers.raw),
        body=body,
        expected_status=template.expect.status,
        expected_json=templates.expected_json(template, values),
    )


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except ValueError:
        return False
    return True


# ---- asked once, before any load ----

REQUESTS_LIMIT = 32  # of all combinations, spread evenly over each scenario's
TIME_LIMIT_S = 20.0  # after that, what has been checked is enough
TIMEOUT_S = 10.0  # for one answer
CONNECT_S = 5.0  # for a connection
PROBE_S = 1.0  # to find out whether a port speaks the other scheme
CONNECT_SHARE = 0.9  # of the time for one answer, after which a connection or handshake that hangs is named as such


def check(target: Target, prepared: Prepared, *, timeout_s: float = TIMEOUT_S) -> Address:
    """Ask an opened target for at least one request of each scenario, and return the numeric address that answered.

    Raises:
        ConfigError: the target lies beyond this machine without `allow_remote`, or `ca_file` cannot be read; nothing was sent.
        TargetError: it answers, but not as configured.
        TargetDown: it does not answer.
    """
    assert target.base_url is not None, "an opened target has a URL"
    url, context, tls, port = httpx.URL(target.base_url), http.tls(target), None, 80
    if url.scheme == "https":
        tls, port = Tls(server_name=url.host, ca_file=str(config.find(target.ca_file)) if target.ca_file else certifi.where()), 443
    port = url.port or port
    address = Address(host=_connectable(target, url, port), port=port, tls=tls)
    with start_blocking_portal() as portal:  # a notebook's kernel runs an event loop of its own
        portal.call(_check_all, target, prepared, address, context, timeout_s)
    return address


async def _check_all(target: Target, prepared: Prepared, address: Address, context: ssl.SSLContext | bool, timeout_s: float) -> None:
    """Ask for the first request of each scenario, then for more of each, evenly, each distinct one once."""
    each = max(1, REQUESTS_LIMIT // max(1, len(prepared)))
    spread = [(name, requests[0]) for name, requests in prepared.items()]
    spread += [(name, one) for name, requests in prepared.items() for one in requests[:: math.ceil(len(requests) / each)]]
    distinct: dict[bytes, tuple[str, PreparedRequest]] = {}
    for name, one in spread:
        distinct.setdefault(one.raw, (name, one))
    deadline = time.monotonic() + TIME_LIMIT_S
    async with httpx.AsyncClient(verify=context, trust_env=False, follow_redirects=False) as client:
        for i, (name, request) in enumerate(distinct.values()):
            if i >= len(prepared) and time.monotonic() > deadline:
                break
            await _check_one(client, target, request, address, timeout_s, name)


def _connectable(target: Target, url: httpx.URL, port: int) -> str:
    """Return the first of a host's addresses that accepts a connection, so that the load goes there without a detour."""
    if not target.allow_remote and not is_loopback(url.host):
        raise ConfigError([beyond(target, f"{url} may be on another machine")])
    reasons = []
    for ip in addresses(url.host) or _looked_up(url):
        try:
            socket.create_connection((ip, port), timeout=CONNECT_S).close()
        except TimeoutError:
            reasons.append(f"no connection to {ip} within {CONNECT_S:.0f} s")
        except OSError as error:
            reasons.append(f"{ip}: {error.strerror or error}")
        else:
            return ip
    raise TargetDown(f"{url}: nothing answers at port {port} ({'; '.join(reasons)}): start the target, or correct base_url")


def _looked_up(url: httpx.URL) -> Sequence[str]:
    try:
        entries = socket.getaddrinfo(url.host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise TargetError(f"{url}: the host name {url.host!r} cannot be resolved ({why}): correct base_url, or the name service") from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in entries))


async def _check_one(
    client: httpx.AsyncClient, target: Target, request: PreparedRequest, address: Address, timeout_s: float, scenario: str
) -> None:
    url, what = httpx.URL(request.url), f"{request.method} {request.url}"
    sent = httpx.Request(
        request.method,
        url.copy_with(host=address.host),  # the address that was checked; Host and TLS keep the name
        headers=list(request.headers),
        content=request.body or None,
        extensions={"sni_hostname": url.host, "timeout": httpx.Timeout(None, connect=CONNECT_SHARE * timeout_s).as_dict()},
    )
    try:
        answer, body = await exchange(client, sent, timeout_s, most_bytes=BODY_LIMIT, most_head_bytes=HEAD_LIMIT)
    except httpx.ConnectTimeout:
        kind = "TLS: no handshake" if address.tls else "no connection"
        hint = "is this port https?" if address.tls else "the target is too busy to accept one"
        raise http.down(f"{what}: {kind} within {timeout_s:g} s: {hint}", _other_scheme(address)) from None
    except FAILURES as error:
        raise http.failure(what, error, timeout_s=timeout_s, hint=lambda: _other_scheme(address)) from None
    if answer.status_code != request.expected_status:
        hint = _hint(answer, body, address)
        asked = _asked(scenario, request)
        raise http.refused(what, answer.status_code, body, target, expected=request.expected_status, asked=asked, hint=hint)
    says_json = content.is_json(answer.headers.get("content-type", ""))
    if request.method != "HEAD" and (problem := content.wrong(body, request.expected_json, says_json=says_json)):
        raise TargetError(f"{what}: {problem}: correct the request's `expect`, or base_url if this is another service")


def _asked(scenario: str, request: PreparedRequest) -> str:
    """Say where what is asked for stands: the values in the plan, the rest in the target file."""
    if not request.values:
        return "the request in the target file"
    places = ", ".join(f"scenarios.{scenario}.parameters.{name} ({value})" for name, value in request.values.items())
    return f"{places} in the plan (config/load.yaml, or your copy with -p plan my-load.yaml), the request in the target file"


def _hint(answer: httpx.Response, body: bytes, address: Address) -> str:
    """Say what to do about an answer with another status than the expected one."""
    if answer.is_redirect:
        try:
            there = str(answer.url.join(answer.headers["location"]).copy_with(query=None, fragment=None, userinfo=None))
        except (httpx.InvalidURL, KeyError):
            there = "somewhere unreadable"
        return f"redirected to {there}, and redirects are not followed: name that URL instead"
    if answer.status_code == 400:
        return f"{shown(body, http.QUOTED)}{_other_scheme(address)}"
    return f"{shown(body)}; if that is right, write expect: {{status: {answer.status_code}}}" if answer.is_success else ""


def _other_scheme(address: Address) -> str:
    """Say that the port speaks TLS where it was asked in plain text, or the other way round; nothing where it does not."""
    try:
        with socket.create_connection((address.host, address.port), timeout=PROBE_S) as connection:
            if address.tls is None:
                context = ssl.create_default_context()
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is sent or believed
                context.wrap_socket(connection).close()
                return "; the port speaks TLS: write https:// in base_url"
            connection.sendall(b"HEAD / HTTP/1.0\r\n\r\n")
            return "; the port answers without TLS: write http:// in base_url" if connection.recv(5) == b"HTTP/" else ""
    except OSError:
        return ""
