"""A pool whose every request has a connection of its own: the cold path, connecting and TLS included."""

import socket
import struct
from time import monotonic_ns

from tapecheck.load.pool import Pool
from tapecheck.load.protocol import Connection, Fresh

NO_LINGER = struct.pack("ii", 1, 0)


class FreshPool(Pool):
    """Opens a connection when a request is to be sent, and closes it when it has ended.

    A request counts as sent when its connection was begun, so that the service time holds the time to connect.
    """

    def submit(self, intended_ns: int) -> None:
        """Begin a connection for a request now, or as soon as there are fewer than `max_connections`."""
        number = self.new_number()
        if self._is_full():
            self.waiting.append((number, intended_ns))
        else:
            self._open(Fresh(number, intended_ns, monotonic_ns(), waited=False))

    def repeat(self, until_ns: int, limit: int) -> None:
        """Leave it to the executor: a connection that was answered is of no more use."""

    async def prepare(self, count: int) -> None:
        """Open nothing before its time."""

    def _is_full(self) -> bool:
        return len(self.connections) + self.opening >= self.work.max_connections

    def _open_for_waiting(self) -> None:
        while self.waiting and not self._is_full():
            self._open(Fresh(*self.waiting.popleft(), monotonic_ns(), waited=True))

    def _go_on(self, connection: Connection, done_ns: int) -> None:
        """Close the connection, at once and without the minute in which its port could not be used again."""
        if connection.keep_alive:
            connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            connection.abort()
        super()._go_on(connection, done_ns)
