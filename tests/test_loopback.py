"""What is this machine, and what may be another one: the address that is connected to decides."""

import asyncio
import os
import socket
import urllib.request
from types import SimpleNamespace
from typing import Any

import httpx
import psycopg
import pytest
import requests
import servers
from servers import Server

from tapecheck.errors import ConfigError
from tapecheck.target import loopback
from tapecheck.target.loopback import is_local_database, is_loopback
from tapecheck.target.transport import client_options
from tapecheck.workers.pool import WorkerPool

HERE = (
    "127.0.0.1", "127.8.8.8", "127.1", "2130706433", "0x7f.1", "0x7f000001", "0177.0.0.1", "017700000001", "::1", "0:0:0:0:0:0:0:1",
    "::ffff:127.0.0.1", "::ffff:7f00:1", "localhost", "LocalHost", "localhost.", "\uff11\uff12\uff17.0.0.1",
)  # fmt: skip
ELSEWHERE = (
    "192.0.2.1", "10.0.0.1", "128.0.0.1", "2130706432.1", "3221225985", "0xc0000201", "0300.0.2.1", "0.0.0.0", "0", "255.255.255.255",
    "169.254.169.254", "::", "::2", "fe80::1", "fe80::1%eth0", "::ffff:10.0.0.1", "::ffff:c000:201", "::127.0.0.1", "64:ff9b::7f00:1",
    "127.0.0.1%x.host", "127.0.0.1%25x.host", "127.0.0.1.nip.io", "127.0.0.1.", "127.0.0.1,10.0.0.1", "127.0.0.1 ", "127.0.0.1\n",
    "[::1]", "localhost.example.com", "localhost%x", "notlocalhost", "localhost.localdomain", "api.massive.com", "",
)  # fmt: skip


@pytest.mark.parametrize(("host", "here"), [*((host, True) for host in HERE), *((host, False) for host in ELSEWHERE)])
def test_only_loopback_is_this_machine(monkeypatch: pytest.MonkeyPatch, host: str, here: bool) -> None:
    """In every notation of an address; a name is never looked up: what is not known to be here is elsewhere."""
    ask = socket.getaddrinfo

    def numeric_only(*given: Any, flags: int = 0, **more: Any) -> Any:
        assert flags & socket.AI_NUMERICHOST, "looked up"
        return ask(*given, flags=flags, **more)

    monkeypatch.setattr(socket, "getaddrinfo", numeric_only)
    assert is_loopback(host) is here


@pytest.mark.parametrize(("found", "here"), [(["127.0.0.1", "::1"], True), (["127.0.0.1", "192.0.2.1"], False), ([], False)])
def test_a_host_is_here_only_with_all_its_addresses(monkeypatch: pytest.MonkeyPatch, found: list[str], here: bool) -> None:
    """A connection may go to any of them."""
    monkeypatch.setattr(loopback, "addresses", lambda host: tuple(found))
    assert is_loopback("localhost") is here


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("postgresql://u@127.0.0.1:5432/d", True),
        ("postgresql:///d", True),
        ("postgresql://u@/d?host=/run/postgresql", True),
        ("host=localhost dbname=d", True),
        ("host=@abstract", True),
        ("host=db.example.com hostaddr=127.0.0.1", True),
        ("host=a,b hostaddr=127.0.0.1,::1", True),
        ("postgresql://u@127.0.0.1%25x.host/d", False),
        ("host=2130706433,3221225985", False),
        ("postgresql://u@db.example.com/d", False),
        ("postgresql://u@127.0.0.1,db.example.com/d", False),
        ("postgresql://u@localhost/d?hostaddr=192.0.2.1", False),
        ("host=127.0.0.1,127.0.0.1 hostaddr=,192.0.2.1", False),
        ("service=market", False),
        ("postgresql://localhost/d?service=market", False),
    ],
)
def test_a_database_is_here_only_where_every_server_is(url: str, here: bool) -> None:
    """Several hosts, an address beside a name, and a service whose file is not read may all lead elsewhere."""
    assert is_local_database(url) is here


@pytest.mark.parametrize(
    ("variables", "url", "here"),
    [
        ({"PGHOST": "db.example.com"}, "postgresql:///d", False),
        ({"PGHOST": "db.example.com"}, "postgresql://127.0.0.1/d", True),
        ({"PGHOSTADDR": "192.0.2.1"}, "postgresql://127.0.0.1/d", False),
        ({"PGSERVICE": "market"}, "postgresql://127.0.0.1/d", False),
    ],
)
def test_the_environment_of_libpq_counts(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], url: str, here: bool) -> None:
    """What a URL does not say goes where the environment says."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_local_database(url) is here
    with pytest.raises(psycopg.ProgrammingError):
        is_local_database("postgresql://[")


def get(url: str, client_of: str | None = None, **more: Any) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(timeout=20, **client_options(client_of or url), **more) as client:
            return await client.get(url)

    return asyncio.run(ask())


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433"])
def test_a_client_of_this_machine_reaches_it(host: str) -> None:
    """By a name too, which the server gets to see, and where the first of its addresses accepts nothing."""
    with Server(servers.fast) as server:
        assert get(f"http://{host}:{server.port}/?symbol=A").json() == {"symbol": "A"}
        assert f"Host: {host}:{server.port}".encode() in server.seen.heads[0]
    with Server(servers.fast, host="::1") as server:
        assert get(f"http://localhost:{server.port}/").status_code == 200


def test_a_client_of_this_machine_follows_nothing_beyond_it() -> None:
    """Neither a link to another host nor a redirect; nothing is connected and nothing looked up."""
    with pytest.raises(ConfigError, match=r"refused to connect to 192\.0\.2\.1"):
        get("http://192.0.2.1/next", client_of="http://127.0.0.1:1")
    with Server(servers.status(302, "Location: http://market.example.com/\r\n")) as server, pytest.raises(ConfigError, match="market"):
        get(server.url, follow_redirects=True)


def test_code_of_others_connects_to_nothing_beyond_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever library it uses, and through no proxy; what it did before and does afterwards is its own business."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://192.0.2.1:3128")
    before = dict(os.environ)
    with Server(servers.fast) as server, loopback.only():
        assert requests.get(f"http://localhost:{server.port}/?symbol=A", timeout=20).json() == {"symbol": "A"}
        with pytest.raises(requests.ConnectionError, match=r"192\.0\.2\.1 is beyond this machine"):
            requests.get("http://192.0.2.1/", timeout=20)
        with pytest.raises(OSError, match=r"market\.example\.com is beyond this machine"):
            urllib.request.urlopen("http://market.example.com/", timeout=20)
        with pytest.raises(OSError, match=r"market\.example\.com is beyond this machine"):
            socket.gethostbyname("market.example.com")
        with socket.socket(type=socket.SOCK_DGRAM) as datagrams, pytest.raises(PermissionError):
            datagrams.sendto(b"?", ("192.0.2.1", 53))
        with socket.socket(socket.AF_UNIX) as local, pytest.raises(FileNotFoundError):
            local.connect("/nowhere")
    with Server(servers.fast) as server, loopback.only(False):
        assert requests.get(f"http://127.0.0.1:{server.port}/?symbol=A", timeout=20).json() == {"symbol": "A"}
    assert dict(os.environ) == before


@pytest.mark.parametrize("address", ["dask://192.0.2.1:8786", "dask://cluster.example.com:8786", "dask://[fe80::1]:8786"])
def test_a_cluster_elsewhere_is_refused_before_it_is_asked(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """And a cluster of this machine whose workers are elsewhere is."""
    made: list[str] = []

    class Client:
        scheduler = SimpleNamespace(identity=None)

        def __init__(self, url: str, **_: Any) -> None:
            made.append(url)

        def sync(self, *_: Any, **__: Any) -> dict[str, Any]:
            return {"workers": {"tcp://127.0.0.1:1": {}, address.replace("dask", "tcp"): {}}}

        def close(self) -> None:
            made.append("closed")

    monkeypatch.setattr("distributed.Client", Client)
    with pytest.raises(ConfigError, match="may be on another machine"), WorkerPool(address, dict):
        pass
    assert made == []
    with pytest.raises(ConfigError, match="may be on another machine"), WorkerPool("dask://127.0.0.1:8786", dict):
        pass
    assert made == ["tcp://127.0.0.1:8786", "closed"]
