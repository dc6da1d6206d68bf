"""A planted target in a process of its own: `python planted_servers.py '{"wait_s": 0.02}'` prints its port, and ends with its stdin.

What it says in Server-Timing, it has measured: from when a request was let in to when its answer was ready.
"""

import asyncio
import hashlib
import json
import os
import sys
import time
from dataclasses import dataclass

from servers import Exchange, Server

HEALTHY = 20  # requests at first, those of the preflight among them, before any fails


@dataclass(frozen=True)
class Plant:
    """What is wrong with a target; by default nothing."""

    database_s: float = 0  # in each request, waited for the database
    wait_s: float = 0  # in each request, waited for something else
    cpu_s: float = 0  # in each request, burnt in the thread that also answers
    slots: int = 1000  # requests that are let in at once
    fail_every: int = 0  # of so many requests one fails
    resets: bool = False  # by a TCP reset rather than a status
    way_s: float = 0  # each way, between who asks and the server at `to_port`
    to_port: int = 0


def burn(cpu_s: float) -> None:
    """Use so much CPU of this thread, outside of the interpreter's lock."""
    end_s = time.thread_time() + cpu_s
    while time.thread_time() < end_s:
        hashlib.pbkdf2_hmac("sha256", b"planted", b"salt", 500)


class Api:
    """Answers requests as planted."""

    def __init__(self, plant: Plant) -> None:
        self.plant = plant
        self.slots = asyncio.Semaphore(plant.slots)

    async def __call__(self, exchange: Exchange) -> None:
        plant = self.plant
        async with self.slots:
            begun_s = time.perf_counter()
            if plant.database_s:
                await asyncio.sleep(plant.database_s)
            database_s = time.perf_counter() - begun_s
            if plant.wait_s:
                await asyncio.sleep(plant.wait_s)
            burn(plant.cpu_s)
            server_s = time.perf_counter() - begun_s
        bad = plant.fail_every and exchange.number > HEALTHY and exchange.number % plant.fail_every == 0
        if bad and plant.resets:
            exchange.reset()
        else:
            timing = f"Server-Timing: app;dur={server_s * 1000:.3f}, db;dur={database_s * 1000:.3f}\r\n"
            exchange.send(exchange.answer(), status=500 if bad else 200, headers=timing)


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way_s: float) -> None:
    """Hand on what comes, `way_s` later."""
    loop = asyncio.get_running_loop()
    while data := await reader.read(65536):
        loop.call_later(way_s, writer.write, data)
    loop.call_later(way_s, writer.close)


async def far_away(plant: Plant) -> None:
    """Be a long way to a server: every byte takes `way_s` in each direction."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", plant.to_port)
        await asyncio.gather(pump(reader, to_writer, plant.way_s), pump(to_reader, writer, plant.way_s))

    listener = await asyncio.start_server(connected, "127.0.0.1", 0)
    print(listener.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    os._exit(0)


def main() -> None:
    """Serve until stdin ends, then end at once, whatever is in flight."""
    plant = Plant(**json.loads(sys.argv[1]))
    if plant.to_port:
        asyncio.run(far_away(plant))
    with Server(Api(plant)) as server:
        print(server.port, flush=True)
        sys.stdin.read()
        os._exit(0)


if __name__ == "__main__":
    main()
