"""Asking a target: whatever is wrong with it is one sentence that names what was asked, and no secret is in it."""

import gzip
import time
import tracemalloc
from pathlib import Path

import pytest
import servers
from aged import target_at
from servers import Behaviour, Exchange, Server

from tapecheck.errors import ConfigError, TargetDown, TargetError
from tapecheck.http import Answer, Client
from tapecheck.target.mapping import Status

SECRET = "hunter2hunter2"
STATUS = b'{"series": [{"symbol": "A", "timeframe": "1d", "age_s": 1.5, "freshness": "fresh", "more": 1}], "uptime": 3}'


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTED_KEY", SECRET)


def read(url: str, *, timeout_s: float = 20, **more: object) -> Status:
    """Ask for the status with a secret header."""
    with Client(target_at(url, headers={"X-Key": {"env": "PLANTED_KEY"}}, **more), timeout_s=timeout_s) as client:
        return client.read("status", Status)[1]


ANSWERS: dict[str, tuple[Behaviour, type[TargetError], str]] = {
    "no data": (servers.status(404, text=b"No data found for ZZZZ"), TargetError, "expected 200: 'No data found for ZZZZ'; correct"),
    "wrong key": (servers.status(401), TargetError, "the key is missing or wrong; headers sent: X-Key"),
    "redirect": (servers.status(301, "Location: /there\r\n"), TargetError, "answered 301, expected 200"),
    "broken with a page": (
        servers.status(502, text=b"<!DOCTYPE html><html><head><title>Bad gateway</title></head></html>"),
        TargetDown,
        "does not work, even without load: a web page with the title 'Bad gateway'",
    ),
    "rate limited": (servers.status(429), TargetDown, "answered 429"),
    "silent": (servers.silent, TargetDown, "no whole answer within 0.4 s"),
    "drips its body": (servers.drips(b"HTTP/1.1 200 OK\r\n\r\n"), TargetDown, "no whole answer within 0.4 s"),
    "silent close": (servers.raw(b"", close=True), TargetDown, "closed before the answer was whole"),
    "reset": (servers.resets_in_mid_body, TargetDown, "closed before the answer was whole"),
    "web page": (
        servers.body(b"<html>hello</html>", "Content-Type: text/html\r\n"),
        TargetError,
        "no status answer as expected (the body: Invalid JSON",
    ),
    "another form": (servers.body(b'{"series": [{"symbol": "A"}]}'), TargetError, "series.0.timeframe: Field required"),
    "no number": (
        servers.body(b'{"series": [{"symbol": "A", "timeframe": "1d", "age_s": NaN, "freshness": "fresh"}]}'),
        TargetError,
        "series.0.age_s",
    ),
    "a list": (servers.body(b"[1]"), TargetError, "it begins '[1]'"),
    "the key itself": (servers.body(f'"{"x" * 60}{SECRET}"'.encode()), TargetError, "xxx***"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_wrong_status_is_one_clear_error(name: str) -> None:
    """It says what was asked and what is wrong, soon, and never the key."""
    behaviour, kind, expected = ANSWERS[name]
    begun_s = time.monotonic()
    with Server(behaviour) as server, pytest.raises(TargetError) as caught:
        read(server.url, timeout_s=0.4 if "no whole answer" in expected else 20)
    assert type(caught.value) is kind and expected in str(caught.value)
    assert str(caught.value).startswith(f"GET {server.url}/api/v1/status: ")
    assert SECRET not in str(caught.value) and SECRET[:7] not in str(caught.value)
    assert time.monotonic() - begun_s < 30


def test_a_target_that_is_not_there_is_down() -> None:
    """Nothing listens, or it never accepts: both are no answer, and say so."""
    with pytest.raises(TargetDown, match=r"nothing answers .*: start the target, or correct base_url"):
        read(f"http://127.0.0.1:{servers.free_port()}")
    with servers.silent_port() as url, pytest.raises(TargetDown, match=r"no whole answer within 0\.4 s"):
        read(url, timeout_s=0.4)


def test_the_headers_of_the_target_are_sent() -> None:
    """A server that wants a key answers who has it; others are told which headers were sent."""

    async def behave(exchange: Exchange) -> None:
        exchange.send(STATUS, status=200 if f"X-Key: {SECRET}".encode() in exchange.head else 401)

    with Server(behave) as server:
        assert [(one.symbol, one.age_s) for one in read(server.url).series] == [("A", 1.5)]
        with Client(target_at(server.url)) as client, pytest.raises(TargetError, match="headers sent: none"):
            client.read("status", Status)


@pytest.mark.parametrize(("value", "expected"), [(f"{SECRET}\n", "no header can have"), ("", "the secret, as in: export PLANTED_KEY")])
def test_a_key_that_cannot_be_sent_is_refused(monkeypatch: pytest.MonkeyPatch, value: str, expected: str) -> None:
    """Before anything is sent, and without being shown."""
    monkeypatch.setenv("PLANTED_KEY", value)
    with Server(servers.fast) as server, pytest.raises(ConfigError) as caught:
        read(server.url)
    assert expected in str(caught.value) and SECRET not in str(caught.value) and server.seen.connections == 0


def test_another_machine_is_refused() -> None:
    """Without `allow_remote` no client of it is made."""
    with pytest.raises(ConfigError, match=r"http://market\.example\.com may be on another machine"):
        read("http://market.example.com")


@pytest.mark.parametrize(("url", "asks"), [("http://127.0.0.1:9", False), ("http://market.example.com", True)])
def test_only_other_machines_are_reached_through_the_proxy(monkeypatch: pytest.MonkeyPatch, url: str, asks: bool) -> None:
    """What the environment says of proxies is for the world beyond this machine."""

    async def behave(exchange: Exchange) -> None:
        exchange.send(STATUS)

    with Server(behave) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        with Client(target_at(url, allow_remote=True), timeout_s=2) as client:
            answer = client.ask("status")
    assert (answer.status == 200, proxy.seen.requests) == (asks, int(asks))


def test_the_authority_of_a_certificate_can_be_named(tls_server: Server, ca_file: str, tmp_path: Path) -> None:
    """With `ca_file` the answer is read; without it the certificate is refused, and a wrong file is said to be one."""
    url = f"https://localhost:{tls_server.port}"
    with Client(target_at(url, ca_file=ca_file)) as client:
        assert client.ask("status").status == 200
    with pytest.raises(TargetError, match=r"the certificate is refused.*: name its authority with ca_file"):
        read(url)
    (tmp_path / "bad.pem").write_text("nonsense")
    with pytest.raises(ConfigError, match="a file of PEM certificates"):
        read(url, ca_file=str(tmp_path / "bad.pem"))


@pytest.mark.parametrize(
    ("requests", "where", "allowed"),
    [
        ({"health": "GET /health"}, "requests.status", "a request, such as: GET /api/v1/status"),
        ({"status": "GET /status?user={user}"}, "requests.status", "no other names than none"),
    ],
)
def test_a_request_that_cannot_be_made_is_a_problem_of_the_target_file(requests: dict[str, str], where: str, allowed: str) -> None:
    """It names the template, and nothing is sent."""
    with Server(servers.fast) as server, pytest.raises(ConfigError) as caught:
        read(server.url, requests=requests)
    assert [(problem.key, problem.allowed) for problem in caught.value.problems] == [(where, allowed)] and server.seen.requests == 0


def test_a_failed_request_is_data() -> None:
    """Of many questions each has its answer or its failure, in the order of the questions."""

    async def behave(exchange: Exchange) -> None:
        if exchange.query["limit"] == "3":
            exchange.reset()
        else:
            exchange.send(exchange.answer())

    with Server(behave) as server, Client(target_at(server.url), timeout_s=2) as client:
        answers = client.ask_all("features", [{"symbol": "BRK.B", "timeframe": "1d", "limit": limit} for limit in range(1, 21)])
    assert [answer.failure is None for answer in answers] == [limit != 3 for limit in range(1, 21)]
    assert [f"limit={limit}" in answer.what for limit, answer in enumerate(answers, 1)] == [True] * 20
    assert all(answer.sent_s <= answer.done_s for answer in answers)


def test_a_body_without_an_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A download where a status should be is an error, not a full memory."""
    monkeypatch.setattr("tapecheck.target.transport.BODY_LIMIT", 1000)
    with Server(servers.body(b"x" * 2000)) as server, pytest.raises(TargetError, match="larger than 1000 bytes"):
        read(server.url)


@pytest.mark.parametrize(("encoding", "said"), [("gzip", "larger than 33554432 bytes"), ("gzip, gzip", "'gzip, gzip'"), ("br", "'br'")])
def test_a_body_that_unpacks_to_gigabytes_is_not_unpacked(encoding: str, said: str) -> None:
    """Packed once, twice, or by a method that was not asked for: memory holds no more than the most that is read."""
    packed = gzip.compress(bytes(2**28))
    behave = servers.body(gzip.compress(packed) if "," in encoding else packed, f"Content-Encoding: {encoding}\r\n")
    tracemalloc.start()
    try:
        with Server(behave) as server, pytest.raises(TargetError, match=said):
            read(server.url)
        assert tracemalloc.get_traced_memory()[1] < 2**27
    finally:
        tracemalloc.stop()
    assert b"Accept-Encoding: gzip, deflate\r\n" in server.seen.heads[0]


def test_times_without_an_offset_are_utc() -> None:
    """A service that leaves the offset out means UTC; one that says another is understood."""
    one = '{{"symbol": "A", "timeframe": "1d", "age_s": null, "freshness": "missing", "refreshed_at": "{}"}}'
    text = f'{{"series": [{one.format("2026-11-25T12:00:00")}, {one.format("2026-11-25T07:00:00-05:00")}]}}'
    status = Status.model_validate_json(text)
    assert {moment.isoformat() for entry in status.series if (moment := entry.refreshed_at)} == {"2026-11-25T12:00:00+00:00"}
    assert isinstance(Answer(what="", sent_s=0, done_s=0, at=status.series[0].refreshed_at).parsed(Status), type(None))  # type: ignore[arg-type]
