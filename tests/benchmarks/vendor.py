"""A vendor whose answers are ready: serves recorded pages from memory, so that making bars up takes no core from who fetches them.

What it serves was recorded by the module `refill`. It checks no key, and waits for nothing.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import uvloop

HEAD = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
BODIES, INDEX = "bodies", "bodies.json"


def save(folder: Path, bodies: dict[str, bytes], source_url: str) -> None:
    """Write the bodies of answers by their request's target, as a source at that URL gave them."""
    with (folder / BODIES).open("wb") as file:
        file.writelines(bodies.values())
    lengths = {target: len(body) for target, body in bodies.items()}
    (folder / INDEX).write_text(json.dumps({"source_url": source_url, "lengths": lengths}))


def read(folder: Path, url: str) -> dict[bytes, bytes]:
    """Return recorded bodies by target, whose links lead to another URL."""
    index = json.loads((folder / INDEX).read_text())
    with (folder / BODIES).open("rb") as file:
        return {
            target.encode(): file.read(length).replace(index["source_url"].encode(), url.encode())
            for target, length in index["lengths"].items()
        }


class Connection(asyncio.Protocol):
    """Answers one request after the other."""

    def __init__(self, bodies: dict[bytes, bytes]) -> None:
        self._bodies, self._rest = bodies, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport  # uvloop's is none of asyncio's own

    def data_received(self, data: bytes) -> None:
        *requests, self._rest = (self._rest + data).split(b"\r\n\r\n")
        for request in requests:
            body = self._bodies.get(request.split(b" ", 2)[1])
            status = b"404 Not Found" if body is None else b"200 OK"
            self._transport.writelines([HEAD % (status, len(body or b"")), body or b""])


async def serve(folder: Path) -> None:
    """Print the port, then serve until the process is ended."""
    bodies: dict[bytes, bytes] = {}
    server = await asyncio.get_running_loop().create_server(lambda: Connection(bodies), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    bodies |= read(folder, f"http://127.0.0.1:{port}")
    print(port, flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1])))
