"""Links that can be cut: ports of loopback that forward bytes to another port, until a fault is on. They read nothing of what passes.

`TAPECHECK_LINKS_KEY=… python -m tapecheck.sandbox.links CONTROL_PORT NAME=PORT:HOST:PORT...` puts them between the processes of any system;
see docs/recovery.md.
"""

import asyncio
import contextlib
import json
import os
import socket
import struct
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from pydantic import Field

from tapecheck.config import Model
from tapecheck.sandbox.answers import KEY as BEARER
from tapecheck.sandbox.answers import REFUSED, Refusal, knows_key
from tapecheck.sandbox.profile import write_private

CHUNK_BYTES = 2**16
KEY = "TAPECHECK_LINKS_KEY"  # the variable with the key of the control requests


class Cut(Model):
    """What a link does.

    `none` forwards; `black_hole` holds all bytes and ends until it heals, as a network that repeats what was lost does;
    `one_way` holds the answers alone; `reset` ends every connection and refuses new ones; `slow` delays each piece by `delay_s`.
    """

    fault: Literal["none", "black_hole", "one_way", "reset", "slow"] = "none"
    delay_s: float = Field(default=1.0, gt=0, le=60)


class Link:
    """One port that forwards to another; a connection into a black hole is accepted, and hears nothing."""

    def __init__(self, host: str, port: int) -> None:
        self._end, self._cut, self._changed = (host, port), Cut(), asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.connections = 0  # that are open, or have come since it was healed
        self._open = 0

    async def open(self, port: int = 0) -> int:
        """Listen, once, and return on which port."""
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        return int(self._server.sockets[0].getsockname()[1])

    def close(self) -> None:
        """Listen no more, and end every connection."""
        if self._server is not None:
            self._server.close()
        self.reset()

    def cut(self, asked: Cut) -> None:
        """Do from now on what is asked; what was held is forwarded as soon as nothing holds it."""
        self._cut, changed, self._changed = asked, self._changed, asyncio.Event()
        changed.set()
        if asked.fault == "reset":
            self.reset()

    def heal(self, *, end: bool) -> None:
        """Forward again; `end` ends every connection first."""
        self.cut(Cut())
        self.connections = 0 if end else self._open
        if end:
            self.reset()

    def reset(self) -> None:
        """End every connection as a process that dies does."""
        for writer in self._writers:
            _reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        own = {writer}
        self._writers |= own
        self.connections, self._open = self.connections + 1, self._open + 1
        try:
            await self._pass(answers=False)
            if self._cut.fault != "reset":
                far_reader, far_writer = await asyncio.open_connection(*self._end)
                own.add(far_writer)
                self._writers |= own
                await asyncio.gather(self._forward(reader, far_writer, answers=False), self._forward(far_reader, writer, answers=True))
        except OSError:
            pass
        finally:
            self._writers -= own
            self._open -= 1
            for one in own:
                _reset(one) if self._cut.fault == "reset" else one.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        while data := await reader.read(CHUNK_BYTES):
            await self._pass(answers=answers)
            writer.write(data)
            await writer.drain()
        await self._pass(answers=answers)
        if writer.can_write_eof():
            writer.write_eof()

    async def _pass(self, *, answers: bool) -> None:
        """Wait while the fault holds what goes this way."""
        while self._cut.fault == "black_hole" or (answers and self._cut.fault == "one_way"):
            await self._changed.wait()
        if self._cut.fault == "slow":
            await asyncio.sleep(self._cut.delay_s)


def _reset(writer: asyncio.StreamWriter) -> None:
    if (end := writer.get_extra_info("socket")) is not None:
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Links:
    """Links by name, each with the end that it leads to, and the requests that cut them.

    Args:
        key: which the requests must carry as a bearer.
        routes: a file that says on which port each link is that a request has put in the way; clients read it when they connect.
    """

    def __init__(self, ends: Mapping[str, tuple[str, int]], key: str, routes: Path | None = None) -> None:
        self._links = {name: Link(*end) for name, end in ends.items()}
        self._key, self._routes, self._ports = key, routes, dict[str, int]()

    async def open(self, ports: Mapping[str, int]) -> None:
        """Listen on ports that are known to clients."""
        for name, port in ports.items():
            await self._links[name].open(port)

    async def cut(self, name: str, asked: Cut) -> dict[str, Any]:
        """Put a link in the way, and do with it what is asked."""
        if name not in self._links:
            raise HTTPException(404, f"no link {name!r}; there are {', '.join(self._links) or 'none'}")
        if asked.fault != "none" and not self._links[name].connections:
            raise HTTPException(409, f"nobody has connected over {name} since it was healed, so that nothing would be cut")
        self._ports[name] = await self._links[name].open()
        if self._routes:
            write_private(self._routes, json.dumps(self._ports))
        self._links[name].cut(asked)
        return {"port": self._ports[name], **asked.model_dump()}

    async def heal(self) -> dict[str, Any]:
        """Take every fault away; where links were put in the way by request, end their connections too, so that clients go round them."""
        self._ports.clear()
        if self._routes:
            self._routes.unlink(missing_ok=True)
        for link in self._links.values():
            link.heal(end=bool(self._routes))
        return {}

    def router(self) -> APIRouter:
        """Return `POST /links/{name}` and `DELETE /links`."""

        def admitted(request: Request) -> None:
            if not knows_key(request, self._key):
                raise HTTPException(401, "the key of the links is missing or wrong", {"WWW-Authenticate": "Bearer"})

        router = APIRouter(dependencies=[Depends(BEARER), Depends(admitted)], responses=REFUSED)
        unused: dict[int | str, dict[str, Any]] = {
            404: {"model": Refusal, "description": "No such link"},
            409: {"model": Refusal, "description": "Nobody has connected over it"},
        }
        router.add_api_route("/links/{name}", self.cut, methods=["POST"], responses=unused)
        router.add_api_route("/links", self.heal, methods=["DELETE"])
        return router


def main(control: str, *links: str) -> None:
    """Serve links until a signal; each is NAME=PORT:HOST:PORT."""
    import uvicorn

    split = {name: rest.split(":") for name, _, rest in (one.partition("=") for one in links)}
    if not os.environ.get(KEY) or not split or any(len(parts) != 3 for parts in split.values()):
        sys.exit(f"usage: {KEY}=… python -m tapecheck.sandbox.links CONTROL_PORT NAME=PORT:HOST:PORT...")
    own = Links({name: (host, int(port)) for name, (_, host, port) in split.items()}, os.environ[KEY])

    @contextlib.asynccontextmanager
    async def opened(_: FastAPI) -> AsyncIterator[None]:
        await own.open({name: int(port) for name, (port, _, _) in split.items()})
        yield

    app = FastAPI(title="Links", lifespan=opened, docs_url=None, redoc_url=None)
    app.include_router(own.router())
    uvicorn.run(app, host="127.0.0.1", port=int(control), access_log=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
