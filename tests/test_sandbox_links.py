"""Links between processes: what each fault does to the bytes that pass, and who may cut them."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from tapecheck.sandbox.links import KEY, Cut, Link, Links, main
from tapecheck.sandbox.profile import Home, Ports

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Echo:
    """A server that answers each line with itself, and notes it."""

    def __init__(self) -> None:
        self.lines: asyncio.Queue[bytes] = asyncio.Queue()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            self.lines.put_nowait(line)
            writer.write(line)
        writer.close()


@asynccontextmanager
async def linked() -> AsyncIterator[tuple[Echo, Link, Callable[[], Awaitable[Streams]]]]:
    """Yield a server, a link before it, and what connects over it."""
    echo = Echo()
    async with await asyncio.start_server(echo.serve, "127.0.0.1", 0) as server:
        link = Link("127.0.0.1", server.sockets[0].getsockname()[1])
        port = await link.open()
        yield echo, link, lambda: asyncio.open_connection("127.0.0.1", port)
        link.close()


async def ask(client: Streams, line: bytes = b"a\n") -> bytes:
    client[1].write(line)
    return await client[0].readline()


async def is_held(coming: "asyncio.Future[bytes]") -> bool:
    """Tell whether an answer has not come while others would have had a hundred turns."""
    for _ in range(100):
        await asyncio.sleep(0)
    return not coming.done()


def test_a_link_forwards_both_ways_and_ends_with_its_client() -> None:
    """A megabyte of it, and the end of the connection."""

    async def scenario() -> None:
        async with linked() as (_, link, connect):
            client = await connect()
            long = b"x" * 60_000 + b"\n"
            for _ in range(20):
                assert await ask(client, long) == long
            client[1].write_eof()
            assert await client[0].read() == b""
            client[1].close()
            assert link.connections == 1

    asyncio.run(scenario())


@pytest.mark.parametrize(("fault", "arrives"), [("black_hole", False), ("one_way", True)])
def test_what_a_hole_holds_comes_when_it_heals(fault: str, arrives: bool) -> None:
    """One that swallows all hides the request too; new connections hear nothing either, and nothing is lost."""

    async def scenario() -> None:
        async with linked() as (echo, link, connect):
            old = await connect()
            assert await ask(old) == b"a\n" == await echo.lines.get()
            link.cut(Cut.model_validate({"fault": fault}))
            new = await connect()
            answers = [asyncio.ensure_future(ask(client, b"b\n")) for client in (old, new)]
            if arrives:
                assert await echo.lines.get() == b"b\n"
            assert await is_held(answers[0]) and await is_held(answers[1])
            assert echo.lines.empty() or arrives
            link.cut(Cut())
            assert await asyncio.gather(*answers) == [b"b\n", b"b\n"]
            for client in (old, new):
                client[1].close()

    asyncio.run(scenario())


def test_a_reset_ends_old_connections_and_refuses_new_ones() -> None:
    """At once, which is how a refusal differs from a hang; afterwards new ones work."""

    async def scenario() -> None:
        async with linked() as (_, link, connect):
            old = await connect()
            assert await ask(old) == b"a\n"
            link.cut(Cut(fault="reset"))
            with pytest.raises(ConnectionResetError):
                await old[0].read()
            new = await connect()
            with pytest.raises(ConnectionResetError):
                await new[0].read()
            link.cut(Cut())
            again = await connect()
            assert await ask(again) == b"a\n"
            again[1].close()

    asyncio.run(scenario())


def test_a_slow_link_delays_each_piece_both_ways() -> None:
    """Never less than twice the delay for a question and its answer."""

    async def scenario() -> None:
        async with linked() as (_, link, connect):
            client, clock = await connect(), asyncio.get_running_loop().time
            link.cut(Cut(fault="slow", delay_s=0.1))
            began_s = clock()
            assert await ask(client) == b"a\n"
            assert clock() - began_s >= 0.2
            client[1].close()

    asyncio.run(scenario())


def test_only_who_has_the_key_cuts_a_link_that_is_used(tmp_path: Path) -> None:
    """Else 401; 404 names the links that there are, 409 says that nobody is cut off; healing takes a link out of the way again."""

    async def scenario() -> None:
        echo, routes = Echo(), tmp_path / "links.json"
        async with await asyncio.start_server(echo.serve, "127.0.0.1", 0) as server:
            links = Links({"a-b": ("127.0.0.1", server.sockets[0].getsockname()[1])}, "secret", routes)
            app = FastAPI()
            app.include_router(links.router())
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://links", headers={"Authorization": "Bearer secret"}
            ) as client:
                refused = await client.post("/links/a-b", json={}, headers={"Authorization": "Bearer wrong"})
                assert (refused.status_code, refused.json()["detail"]) == (401, "the key of the links is missing or wrong")
                unknown = await client.post("/links/b-a", json={})
                assert (unknown.status_code, unknown.json()["detail"]) == (404, "no link 'b-a'; there are a-b")
                assert (await client.post("/links/a-b", json={"fault": "dig"})).status_code == 422
                port = (await client.post("/links/a-b", json={})).json()["port"]
                assert json.loads(routes.read_text()) == {"a-b": port}
                unused = await client.post("/links/a-b", json={"fault": "reset"})
                assert unused.status_code == 409 and "nobody has connected over a-b since it was healed" in unused.json()["detail"]
                used = await asyncio.open_connection("127.0.0.1", port)
                assert await ask(used) == b"a\n"
                assert (await client.post("/links/a-b", json={"fault": "black_hole"})).json()["fault"] == "black_hole"
                assert (await client.delete("/links")).status_code == 200 and not routes.exists()
                with pytest.raises(ConnectionResetError):
                    await used[0].read()
                await client.post("/links/a-b", json={})
                assert (await client.post("/links/a-b", json={"fault": "reset"})).status_code == 409, "nobody goes over it this time"

    asyncio.run(scenario())


def test_a_process_goes_over_a_link_while_it_is_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only over its own."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    home = Home(tmp_path)
    home.ports.write_text(Ports(database=1, upstream=2, scheduler=3, api=4).model_dump_json())
    assert (home.port("upstream", "scheduler-vendor"), ":1/" in home.database_url("api-database")) == (2, True)
    home.links.write_text('{"api-database": 77, "scheduler-vendor": 78}')
    assert (home.port("upstream", "scheduler-vendor"), ":77/" in home.database_url("api-database")) == (78, True)
    assert ":1/" in home.database_url("scheduler-database") and ":1/" in home.database_url()


def test_links_stand_between_the_processes_of_any_system() -> None:
    """As a program of their own, with the key from the environment; without it the usage is shown."""
    with pytest.raises(SystemExit, match=r"usage: TAPECHECK_LINKS_KEY=… python -m tapecheck.sandbox.links CONTROL_PORT NAME=PORT"):
        main("1", "a-b=2:h")
    with closing(socket.create_server(("127.0.0.1", 0))) as end, socket.socket() as one, socket.socket() as two:
        for free in (one, two):
            free.bind(("127.0.0.1", 0))
        control, port = one.getsockname()[1], two.getsockname()[1]
        one.close(), two.close()
        words = [sys.executable, "-P", "-m", "tapecheck.sandbox.links", str(control), f"a-b={port}:127.0.0.1:{end.getsockname()[1]}"]
        with subprocess.Popen(words, env={**os.environ, KEY: "k"}, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            next(line for line in process.stderr if "Uvicorn running" in line)
            with socket.create_connection(("127.0.0.1", port)) as client, end.accept()[0] as far:
                far.sendall(b"hello")
                assert client.recv(5) == b"hello"
                headers = {"Authorization": "Bearer k"}
                done = httpx.post(f"http://127.0.0.1:{control}/links/a-b", json={"fault": "reset"}, headers=headers, trust_env=False)
                assert done.json()["fault"] == "reset"
                with pytest.raises(ConnectionResetError):
                    client.recv(5)
            process.terminate()
