"""A server of known latency: it holds every answer for a planted time, and says in Server-Timing when it let it go.

It spins on one core rather than sleep, so that a planted time is kept to some microseconds. `total` is how long it held
the answer; `db` is the instant at which it let it go, in ms of the monotonic clock that all processes of a machine
share, modulo CLOCK_MS so that single precision holds microseconds. From that instant on, all delay is the client's.
"""

import heapq
import math
import select
import socket
import sys
from time import monotonic_ns
from typing import Any

BODY = b'{"planted": true}'
HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nServer-Timing: total;dur=%%.4f, db;dur=%%.4f\r\n\r\n"
    % len(BODY)
)
ANSWER = HEAD + BODY
CLOCK_MS = 8192
GOLDEN = (math.sqrt(5) - 1) / 2
STEPS = 4096


def delay_ms(u: float, floor_ms: float, spread_ms: float) -> float:
    """Return the u-quantile of the planted times: a floor, and an exponential part that is cut at its 99.9th percentile."""
    return floor_ms - spread_ms * math.log(1 - min(u, 0.999))


def serve(floor_ms: float, spread_ms: float) -> None:
    """Print the port, then serve until the process is ended."""
    delays = [int(delay_ms((i * GOLDEN) % 1.0, floor_ms, spread_ms) * 1e6) for i in range(STEPS)]  # evenly spread at any length
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    listener.setblocking(False)
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    open_sockets: dict[int, socket.socket] = {}
    due: list[tuple[int, int, int]] = []  # (when to answer, when it came, connection)
    number = 0
    print(listener.getsockname()[1], flush=True)
    while True:
        for fd, _ in poll.poll(0):
            if fd == listener.fileno():
                _accept(listener, poll, open_sockets)
                continue
            now = monotonic_ns()
            try:
                data = open_sockets[fd].recv(65536)
            except OSError:
                data = b""
            if not data:
                poll.unregister(fd)
                open_sockets.pop(fd).close()
                continue
            for _ in range(data.count(b"\r\n\r\n")):
                heapq.heappush(due, (now + delays[number % STEPS], now, fd))
                number += 1
        now = monotonic_ns()
        while due and due[0][0] <= now:
            _, came, fd = heapq.heappop(due)
            _answer(open_sockets.get(fd), came)


def _answer(to: socket.socket | None, came: int) -> None:
    if to is None:
        return
    try:
        now = monotonic_ns()
        to.send(ANSWER % ((now - came) / 1e6, now / 1e6 % CLOCK_MS))
    except OSError:
        return  # the client has left


def _accept(listener: socket.socket, poll: Any, open_sockets: dict[int, socket.socket]) -> None:
    while True:
        try:
            one, _ = listener.accept()
        except OSError:
            return
        one.setblocking(False)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        open_sockets[one.fileno()] = one
        poll.register(one, select.EPOLLIN)


if __name__ == "__main__":
    serve(float(sys.argv[1]), float(sys.argv[2]))
