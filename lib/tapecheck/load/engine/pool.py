"""The connections of one scenario, the queue for them, and the rows. When to submit is the executor's business."""

import asyncio
import errno
import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable
from time import monotonic_ns

import numpy as np

from tapecheck.load.engine.content import Kept, is_wrong
from tapecheck.load.engine.protocol import UNKNOWN, Connection, Exchange, Fresh
from tapecheck.load.engine.recorder import RETRIED_AT, ROW, ErrorKind, SampleWriter
from tapecheck.load.engine.work import Work

NAN = float("nan")
pack_into = ROW.pack_into
NEVER = 2**62  # more requests than there can be
TIMEOUT, NO_CONNECTION, CENSORED, PROTOCOL, CONTENT = (
    int(kind) for kind in (ErrorKind.timeout, ErrorKind.no_connection, ErrorKind.censored, ErrorKind.protocol, ErrorKind.content)
)
LOCAL_ERRNO = {errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM}
IDLE_TIMEOUTS = (b"HTTP/1.1 408", b"HTTP/1.0 408")  # some servers send this before they close an idle connection


def connect_error(error: OSError) -> ErrorKind:
    """Name why a connection could not be made."""
    kinds = {
        TimeoutError: ErrorKind.connect_timeout,
        ssl.SSLError: ErrorKind.tls,
        ConnectionRefusedError: ErrorKind.connect_refused,
        ConnectionError: ErrorKind.reset,
    }
    other = ErrorKind.local if error.errno in LOCAL_ERRNO else ErrorKind.unreachable
    return next((kind for one, kind in kinds.items() if isinstance(error, one)), other)


class Pool:
    """Takes requests with their intended start, gives each a connection, and writes its row when it has ended.

    `on_done` is called with the instant at which a request ended, however it ended. Requests before `origin` are
    warm-up; which combination a request uses is counted from `first_counted`, over all workers.
    """

    def __init__(self, work: Work, recorder: SampleWriter) -> None:
        self.work = work
        self.recorder = recorder
        self.loop = asyncio.get_running_loop()
        self.context = work.address.tls.context() if work.address.tls else None
        self.exchanges = [Exchange(i, one.raw, one.method, one.expected_status) for i, one in enumerate(work.requests)]
        self.kinds = len(self.exchanges)
        self.kept = Kept(self.kinds)
        self.idle: list[Connection] = []
        self.connections: set[Connection] = set()
        self.suspect: set[int] = set()  # names of connections on which more came than was asked for
        self.waiting: deque[tuple[int, int]] = deque()  # (number, intended start)
        self.tasks: set[asyncio.Task[None]] = set()
        self.number = 0  # of the next request, in this worker
        self.round = 0
        self.origin = NEVER
        self.workers, self.first_combination = work.workers, work.worker
        self.repeat_until_ns = self.repeat_limit = self.done = self.unsolicited = 0
        self.opening = self.begun_total = self.opened_total = 0  # connections
        self.opening_again = 0  # of those that are being opened, for a request that is sent again
        self.opened_when_refused = -1
        self.settled: asyncio.Future[None] | None = None
        self.on_done: Callable[[int], None] = lambda now: None

    def count_from(self, origin: int, first_counted: int) -> None:
        """Let this worker's request `origin` be the first after the warm-up, and `first_counted` that of all workers."""
        self.origin = origin
        self.first_combination = self.work.worker - first_counted
        self.kept.start_round(origin)

    def repeat(self, until_ns: int, limit: int) -> None:
        """Let each answer before an instant be followed by another request, up to so many: without a call of the executor."""
        self.repeat_until_ns, self.repeat_limit = until_ns, limit

    # ---- requests ----

    def submit(self, intended_ns: int) -> None:
        """Send a request now, or as soon as a connection is free."""
        number = self.new_number()
        if self.idle:
            self._send(self.idle.pop(), number, intended_ns, False)
        else:
            self.waiting.append((number, intended_ns))
            self._open_for_waiting()

    def new_number(self) -> int:
        """Return the number of the next request, with room for its row."""
        number = self.number
        self.number = number + 1
        if number >= self.recorder.room:
            self.recorder.grow()
        return number

    def _send(self, connection: Connection, number: int, intended_ns: int, waited: bool) -> None:
        exchange = self.exchanges[(number * self.workers + self.first_combination) % self.kinds]
        kept = self.kept.advance(number) if number >= self.kept.next else None
        connection.send(exchange, number, intended_ns, waited, kept)

    def answered(self, connection: Connection, done_ns: int) -> None:
        """Write the row of a right answer that was not parsed, and go on; to ask again at once is written out, for speed."""
        exchange, number, recorder = connection.exchange, connection.number, self.recorder
        pack_into(
            recorder.mapped, number * recorder.stride + recorder.shift,
            connection.intended_ns, connection.sent_ns, done_ns, done_ns, exchange.server_ms, exchange.db_ms,
            exchange.size, exchange.combination, connection.name, self.round, exchange.expected_status,
            0, connection.used, number < self.origin, connection.waited,
        )  # fmt: skip
        connection.used = True
        number = self.number
        if self.waiting or done_ns >= self.repeat_until_ns or number >= self.repeat_limit:
            connection.known, connection.busy = UNKNOWN, False
            self._go_on(connection, done_ns)
        elif number >= self.kept.next or number >= recorder.room:
            self._send(connection, self.new_number(), done_ns, False)
        else:  # what `new_number`, `_send` and `Connection.send` do
            self.number = number + 1
            connection.exchange = connection.known = self.exchanges[(number * self.workers + self.first_combination) % self.kinds]
            connection.number = number
            connection.intended_ns = done_ns
            connection.waited = False
            connection.sent_ns = monotonic_ns()
            connection.write(connection.exchange.raw)

    def ended(self, connection: Connection, done_ns: int, error: int) -> None:
        """Write the row of a request that has ended on a connection, and go on."""
        number, recorder, (server_ms, db_ms) = connection.number, self.recorder, connection.times_ms()
        pack_into(
            recorder.mapped, number * recorder.stride + recorder.shift,
            connection.intended_ns, connection.sent_ns, connection.first_byte_ns, done_ns, server_ms, db_ms,
            connection.bytes, connection.exchange.combination, connection.name, self.round, connection.status,
            error, connection.used, number < self.origin, connection.waited,
        )  # fmt: skip
        if connection.kept is not None and not error:
            self.kept.add(number, connection.exchange.combination, connection.kept)
        self._go_on(connection, done_ns)

    def _go_on(self, connection: Connection, done_ns: int) -> None:
        """Use the connection for the next request; call the executor, unless it is known to ask again at once."""
        if connection.keep_alive:
            if self.waiting:
                self._send(connection, *self.waiting.popleft(), True)
            elif done_ns < self.repeat_until_ns and self.number < self.repeat_limit:
                self._send(connection, self.new_number(), done_ns, False)
                return
            else:
                self.idle.append(connection)
        self.done += 1
        self.on_done(done_ns)

    def never_sent(self, number: int, intended_ns: int, error: int, again: Connection | None = None) -> None:
        """Write the row of a request that never got a connection, or not the one on which it was to be sent `again`."""
        now, recorder = monotonic_ns(), self.recorder
        i, sent_ns, name, waited = (number * self.workers + self.first_combination) % self.kinds, 0, 0, True
        if again is not None and again.fresh is not None:
            i, sent_ns, name, waited = again.fresh.exchange.combination, again.fresh.begun_ns, again.name, again.fresh.waited
        warm_up, offset = number < self.origin, number * recorder.stride + recorder.shift
        pack_into(recorder.mapped, offset, intended_ns, sent_ns, 0, now, NAN, NAN, 0, i, name, self.round, 0, error, False, warm_up, waited)
        self.done += 1
        self.on_done(now)

    def send_again(self, connection: Connection) -> bool:
        """Send a request on a fresh connection, once: an idle one may have been closed too."""
        if not connection.exchange.is_safe:
            return False
        connection.busy = False
        self.connections.discard(connection)
        number = connection.number
        self.recorder.mapped[number * self.recorder.stride + self.recorder.shift + RETRIED_AT] = 1
        self.opening_again += 1
        again = Fresh(number, connection.intended_ns, connection.sent_ns, connection.waited, connection.exchange, connection.kept)
        self._open(again)
        return True

    # ---- connections ----

    async def prepare(self, count: int) -> None:
        """Open connections, untimed, until `count` are idle; not again if none was possible since the last try."""
        if self.opened_total == self.opened_when_refused:
            return
        for _ in range(min(count, self.work.max_connections) - len(self.connections) - self.opening):
            self._open()
        if self.opening:
            self.settled = self.loop.create_future()
            await self.settled
        if not self.connections:
            self.opened_when_refused = self.opened_total

    def _open_for_waiting(self) -> None:
        if self.opening - self.opening_again < len(self.waiting) and len(self.connections) + self.opening < self.work.max_connections:
            self._open()

    def _open(self, fresh: Fresh | None = None) -> None:
        self.opening += 1
        self.begun_total += 1
        name = (self.begun_total - 1) * self.workers + self.work.worker + 1  # no two workers use one
        task = self.loop.create_task(self._connect(Connection(self, name, fresh)))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _connect(self, connection: Connection) -> None:
        address, timeout_s = self.work.address, self.work.timeout_s
        if connection.fresh:
            timeout_s -= (monotonic_ns() - connection.fresh.begun_ns) / 1e9
        try:
            async with asyncio.timeout(timeout_s):
                await self.loop.create_connection(
                    lambda: connection,
                    address.host,
                    address.port,
                    ssl=self.context,
                    server_hostname=address.tls.server_name if address.tls else None,
                    ssl_handshake_timeout=self.work.timeout_s + 1 if address.tls else None,  # ours comes first
                )
        except OSError as error:  # a timeout is one
            if connection in self.connections:  # opened in the last moment
                return
            self._settle()
            fresh, kind = connection.fresh, connect_error(error)
            if fresh is not None:
                again = fresh.exchange is not UNKNOWN
                self.opening_again -= again
                self.never_sent(fresh.number, fresh.intended_ns, kind, connection if again else None)
            elif self.waiting:
                self.never_sent(*self.waiting.popleft(), kind)
            self._open_for_waiting()

    def _settle(self) -> None:
        self.opening -= 1
        if not self.opening and self.settled is not None and not self.settled.done():
            self.settled.set_result(None)

    def opened(self, connection: Connection) -> None:
        """Give a new connection to the request that it is for, or to the one that has waited longest, or keep it for later."""
        self.connections.add(connection)
        self.opened_total += 1
        fresh = connection.fresh
        if fresh is not None:  # it counts as sent when its connection was begun, or when it was first sent
            if fresh.exchange is UNKNOWN:
                self._send(connection, fresh.number, fresh.intended_ns, fresh.waited)
            else:
                self.opening_again -= 1
                connection.send(fresh.exchange, fresh.number, fresh.intended_ns, fresh.waited, fresh.kept)
            connection.sent_ns, connection.fresh = fresh.begun_ns, None
        elif self.waiting:
            self._send(connection, *self.waiting.popleft(), True)
        else:
            self.idle.append(connection)
        self._settle()

    def lost(self, connection: Connection) -> None:
        """Forget a closed connection, and open another if a request waits."""
        self.connections.discard(connection)
        if connection in self.idle:
            self.idle.remove(connection)
        if self.waiting:
            self._open_for_waiting()

    def on_surplus(self, connection: Connection) -> None:
        """Remember that answers on this connection may have been taken for those to other requests."""
        self.suspect.add(connection.name)

    def on_unsolicited(self, connection: Connection, data: bytes) -> None:
        """Close an idle connection on which data came: what it says next would be taken for another answer."""
        self.unsolicited += 1
        if not data.startswith(IDLE_TIMEOUTS):
            self.on_surplus(connection)
        connection.abort()
        self.lost(connection)

    def sweep(self, cutoff_ns: int | None) -> None:
        """End what has taken longer than timeout_s, and after `cutoff_ns` everything."""
        now = monotonic_ns()
        cut = cutoff_ns is not None and now >= cutoff_ns
        limit_ns = now if cut else now - int(self.work.timeout_s * 1e9)
        for connection in [c for c in self.connections if c.busy and c.sent_ns <= limit_ns]:
            connection.abort()
            self.connections.discard(connection)
            self.ended(connection, now, CENSORED if cut else TIMEOUT)
        while self.waiting and self.waiting[0][1] <= limit_ns:
            self.never_sent(*self.waiting.popleft(), CENSORED if cut else NO_CONNECTION)

    def close(self) -> None:
        """Forget what waits and close everything."""
        self.on_done = lambda now: None
        self.waiting.clear()
        for task in self.tasks:
            task.cancel()
        for connection in list(self.connections):
            connection.abort()

    # ---- afterwards ----

    def check(self) -> int:
        """Turn answers that prove wrong into errors; return how many bodies were compared."""
        samples = self.recorder.rows(self.number)
        for number, i, raw in self.kept.answers:
            if is_wrong(raw, self.work.requests[i].expected_json, bodiless=self.exchanges[i].is_head):
                samples["error"][number] = CONTENT
        if self.suspect:  # the first answer on a connection is to its first request; each later one may be a surplus one
            late = np.isin(samples["connection"], list(self.suspect)) & (samples["connection_reused"] == 1)
            samples["error"][late & (samples["error"] == 0)] = PROTOCOL
        return len(self.kept.answers)


# ---- fresh ----

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
