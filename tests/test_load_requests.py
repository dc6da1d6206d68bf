"""Preflight: whatever is wrong with a target is one error that names URL and reason, before any load."""

import socket

import pytest
import servers
from servers import Behaviour, Server

from tapecheck.errors import ConfigError, TargetDown, TargetError
from tapecheck.load import requests
from tapecheck.load.engine.work import Address
from tapecheck.load.plan import LoadPlan
from tapecheck.load.requests import prepare_all
from tapecheck.target.file import Target

SECRET = "hunter2hunter2"


def check(url: str, *, timeout_s: float = 2.0, symbols: int = 1, **more: object) -> Address:
    """Run preflight against a URL with a secret header and an expected symbol."""
    request = {"request": "GET /features/{symbol}?symbol={symbol}", "expect": {"json": {"symbol": "{symbol}"}}}
    target = Target.model_validate(
        {
            "name": "planted",
            "kind": "external",
            "base_url": url,
            "requests": {"features": request},
            "headers": {"X-Key": {"env": "PLANTED_KEY"}},
        }
        | more
    )
    parameters = {"symbol": [f"S{i}" for i in range(symbols)]}
    scenario = {"executor": "burst", "concurrency": 1, "request": "features", "parameters": parameters}
    return requests.check(target, prepare_all(LoadPlan.model_validate({"scenarios": {"s": scenario}}), target), timeout_s=timeout_s)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTED_KEY", SECRET)


def test_a_right_target_gives_its_address() -> None:
    """The address is numeric, and the request carried the key."""
    with Server(servers.fast) as server:
        assert check(server.url) == Address(host="127.0.0.1", port=server.port)
        assert check(server.url.replace("127.0.0.1", "localhost")).port == server.port
    assert f"X-Key: {SECRET}".encode() in server.seen.heads[0]


def test_a_requests_own_headers_replace_those_of_the_target() -> None:
    """In whatever letters they are written, and others of the target stay."""
    with Server(servers.fast) as server:
        request = {"request": "GET /{symbol}?symbol={symbol}", "headers": {"x-mode": "own", "Cache-Control": "no-cache"}}
        check(server.url, requests={"features": request}, headers={"X-Mode": "of the target", "X-Other": "stays"})
    head = server.seen.heads[0].lower()
    assert all(line in head for line in (b"x-mode: own\r\n", b"cache-control: no-cache\r\n", b"x-other: stays\r\n"))
    assert b"of the target" not in head


@pytest.mark.parametrize(("name", "value"), [("Content-Length", "1"), ("X Y", "1"), ("X-Y", "two\nlines"), ("X-Z", "tr\u00e4gt")])
def test_a_request_header_that_cannot_be_sent_is_named(name: str, value: str) -> None:
    """Before anything is sent, with the request that has it, and without its value."""
    request = {"request": "GET /{symbol}", "headers": {name: value}}
    with pytest.raises(ConfigError, match=rf"requests\.features\.headers\.{name}: got ") as raised:
        check("http://127.0.0.1:1", requests={"features": request})
    assert "lines" not in str(raised.value)


def test_the_address_that_was_found_is_the_one_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that leads elsewhere when it is looked up again cannot take the request there: what was allowed is what is asked."""
    real, asked = socket.getaddrinfo, []

    def changing(host: str, *args: object, **more: object) -> object:
        if host == "planted.test" and "flags" not in more:  # else it is only asked whether it is a number
            asked.append(host)
            host = "127.0.0.1" if len(asked) == 1 else "192.0.2.1"
        return real(host, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", changing)
    with Server(servers.fast) as server:
        assert check(f"http://planted.test:{server.port}", allow_remote=True).host == "127.0.0.1"
    assert asked == ["planted.test"]
    assert f"Host: planted.test:{server.port}".encode().lower() in server.seen.heads[0].lower()


def test_a_post_is_checked_with_its_body() -> None:
    """What the load will send is what is asked once before it."""
    target = {"name": "planted", "kind": "external", "requests": {"one": {"request": "POST /x", "body": '{"symbols": ["AAPL"]}'}}}
    with Server(servers.fast) as server:
        opened = Target.model_validate({**target, "base_url": server.url})
        plan = LoadPlan.model_validate({"scenarios": {"s": {"executor": "burst", "concurrency": 1, "request": "one"}}})
        requests.check(opened, prepare_all(plan, opened))
    assert server.seen.bodies == [b'{"symbols": ["AAPL"]}']


def test_many_combinations_are_checked_by_a_bounded_number_on_one_connection() -> None:
    """Of 1,000 combinations at most 32 are asked for, and the connection is reused."""
    with Server(servers.fast) as server:
        check(server.url, symbols=1000)
    assert 10 <= server.seen.requests <= requests.REQUESTS_LIMIT
    assert server.seen.connections == 2  # one to see that it connects, one for all requests
    assert len(set(server.seen.paths)) == server.seen.requests


ANSWERS: dict[str, tuple[Behaviour, type[TargetError], int, str]] = {
    "wrong path": (servers.status(404, text=b""), TargetError, 4, "answered 404, expected 200: no such path"),
    "wrong symbol": (servers.status(404), TargetError, 4, "scenarios.s.parameters.symbol (S0) in the plan (config/load.yaml, or"),
    "long 404": (
        servers.status(404, text=b"<b>\x1b[31m" + b"x" * 5000),
        TargetError,
        4,
        "'<b>\ufffd[31m" + "x" * 189 + "...'; correct scenarios.",
    ),
    "redirect": (servers.status(301, "Location: /there?token=abc\r\n"), TargetError, 4, "redirected to http://127.0.0.1"),
    "redirect to the key": (servers.status(301, f"Location: /{SECRET}/x\r\n"), TargetError, 4, "/***/x"),
    "key that would be cut": (servers.body(f'{{"symbol": "{"x" * 50}{SECRET}"}}'.encode()), TargetError, 4, "xxx***'"),
    "broken": (servers.status(500), TargetDown, 2, "answered 500"),
    "too slow": (servers.slow(5), TargetDown, 2, "no whole answer within 0.3 s"),
    "drips its head": (servers.drips(b"HTTP/1.1 200 OK\r\nX-Slow: "), TargetDown, 2, "no whole answer within 0.3 s"),
    "cut": (servers.cuts_body, TargetDown, 2, "closed before the answer was whole"),
    "ssh": (servers.raw(b"Invalid SSH identification string.\r\n", close=True), TargetDown, 2, "or is something else"),
    "switches": (servers.raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"), TargetError, 4, "another protocol"),
    "two lengths": (
        servers.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}"),
        TargetError,
        4,
        "breaks the rules of HTTP",
    ),
    "long head": (servers.body(b"{}", f"X-Long: {'x' * 70_000}\r\n"), TargetError, 4, "longer than 65,536 bytes, the most that is read"),
    "no content": (servers.status(204, text=b""), TargetError, 4, "an empty body; if that is right, write expect: {status: 204}"),
    "binary": (servers.body(b"\x89PNG\r\n\x1a\n\0\0"), TargetError, 4, "not JSON: 10 bytes of binary data"),
    "titled page": (
        servers.body(b"<!DOCTYPE html><html><title>Log in</title>"),
        TargetError,
        4,
        "not JSON: a web page with the title 'Log in'",
    ),
    "garbage": (servers.raw(b"\x00\x01\x02\r\n\r\n"), TargetError, 4, "not HTTP"),
    "another body": (servers.wrong_symbol, TargetError, 4, "'symbol' is 'ZZZZ', expected 'S0'"),
    "not JSON": (servers.body(b"<html>hello</html>"), TargetError, 4, "not JSON"),
    "web page": (servers.body(b"<html>hello</html>", "Content-Type: text/html\r\n"), TargetError, 4, "not JSON"),
    "bad gzip": (servers.body(b"plain", "Content-Encoding: gzip\r\n"), TargetError, 4, "cannot be decoded"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_wrong_answer_stops_before_any_load(name: str) -> None:
    """One error names the URL and the reason, without the secret; one request was sent."""
    behaviour, kind, exit_code, text = ANSWERS[name]
    with Server(behaviour) as server, pytest.raises(kind) as caught:
        check(server.url, timeout_s=0.3 if "no whole answer" in text else 20)
    message = str(caught.value)
    assert caught.value.exit_code == exit_code
    assert message.startswith(f"GET {server.url}/features/S0?symbol=S0: ")
    assert text in message
    assert "\n" not in message
    assert SECRET[:5] not in message  # nor a part of it, where a long answer is cut
    assert "token" not in message
    assert server.seen.requests == 1


def test_nothing_listening_is_no_data() -> None:
    """A refused connection is TargetDown, with the port."""
    port = servers.free_port()
    with pytest.raises(TargetDown, match=rf"nothing answers at port {port}.*refused"):
        check(f"http://127.0.0.1:{port}")


def test_an_unknown_host_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that cannot be resolved is a TargetError that names it; it is looked up only where that is allowed."""
    with pytest.raises(TargetError, match=r"host name 'no-such-host\.invalid' cannot be resolved"):
        check("http://no-such-host.invalid:8000", allow_remote=True)
    monkeypatch.setattr(requests, "_looked_up", lambda url: pytest.fail("looked up"))
    with pytest.raises(ConfigError, match="allow_remote: true"):
        check("http://no-such-host.invalid:8000")


@pytest.mark.parametrize("url", ["http://192.0.2.1:80", "http://0.0.0.0:80", "http://[2001:db8::1]:80"])
def test_traffic_beyond_this_machine_needs_permission(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without allow_remote nothing is sent to another machine, not even a connection."""
    monkeypatch.setattr(requests.socket, "create_connection", lambda *_, **__: pytest.fail("it connected"))
    with pytest.raises(ConfigError, match="allow_remote"):
        check(url)


# ---- TLS ----


def test_a_trusted_certificate_is_accepted(tls_server: Server, ca_file: str) -> None:
    """With its authority named, TLS is verified against the host's name and handed on to the engine."""
    address = check(f"https://localhost:{tls_server.port}", ca_file=ca_file)
    assert address.tls is not None
    assert address.tls.server_name == "localhost"


def test_https_to_a_plain_port_and_http_to_a_tls_port_are_named(tls_server: Server) -> None:
    """Either mix-up ends with one clear error that says what to write, also if the plain port waits for the end of what it cannot read."""
    with (
        Server(servers.fast) as plain,
        pytest.raises(TargetError, match=r"TLS: no handshake within 5 s.*the port answers without TLS: write http://"),
    ):
        check(plain.url.replace("http:", "https:"), timeout_s=5)  # a tenth of it is what a busy machine may take
    with pytest.raises(TargetError, match=r"(not HTTP|closed|reset).*the port speaks TLS: write https:// in base_url") as raised:
        check(f"http://localhost:{tls_server.port}")
    assert raised.value.exit_code == 4, "only the configuration can mend it"
    refuses = servers.status(400, text=b"Invalid HTTP request received.")
    with Server(refuses) as plain, pytest.raises(TargetError) as caught:
        check(plain.url)
    assert "https" not in str(caught.value), "a plain port that answers 400 is no TLS port"
