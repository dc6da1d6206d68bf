"""Samples: one flat row a request, in memory that workers share with this process, and what workers report beside them."""

import ctypes
import errno
import mmap
import os
import shutil
import struct
import tempfile
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from tapecheck.errors import MeasurementError
from tapecheck.load.engine.work import MAX_REQUESTS


class ErrorKind(IntEnum):
    """Why a request failed; `none` is a right answer. The order is stored: append only."""

    none = 0
    connect_refused = 1  # the target refused the connection
    connect_timeout = 2  # no connection within timeout_s
    unreachable = 3  # no route, or another failure of the network to connect
    tls = 4  # handshake or certificate
    no_connection = 5  # waited timeout_s for a free connection; never sent
    timeout = 6  # sent, and no whole answer within timeout_s
    reset = 7  # the connection was reset before the answer was whole
    closed_early = 8  # the connection was closed before the answer was whole
    protocol = 9  # not HTTP/1.1, a head beyond HEAD_LIMIT, or more than was asked
    status = 10  # another status than expected; redirects too, they are not followed
    content = 11  # the right status, but the body is not what was expected
    too_large = 12  # a body beyond BODY_LIMIT
    censored = 13  # still in flight when the scenario was cut off: took at least that long
    local = 14  # this machine ran out of ports or file descriptors: the generator's fault
    other = 15  # another tool's failure that is none of these, or of which it does not say the kind


_FIELDS = {
    "intended_ns": "<i8",
    "sent_ns": "<i8",
    "first_byte_ns": "<i8",
    "done_ns": "<i8",
    "server_ms": "<f4",
    "db_ms": "<f4",
    "bytes": "<u4",
    "request": "<u4",
    "connection": "<u4",
    "round": "<u2",
    "status": "<u2",
    "error": "u1",
    "connection_reused": "u1",
    "warm_up": "u1",
    "waited": "u1",
    "retried": "u1",
}
ROW = struct.Struct("<qqqqffIIIHHBBBB")  # of a request that has ended; `retried` is set before
RETRIED_AT = ROW.size
ROW_BYTES = ROW.size + 2  # `retried`, then padding; so that a chunk of rows is whole pages, of 4 or of 16 KiB
SAMPLE = np.dtype({"names": list(_FIELDS), "formats": list(_FIELDS.values()), "itemsize": ROW_BYTES})

Samples = NDArray[np.void]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What a worker reports of its share, or several of theirs, beside the rows; times are of its own clock.

    `started_ns` and `ended_ns` bound the part after the warm-up. `lag_ms` are delays of a 10 ms heartbeat in the event loop.
    `offered` and `on_time` count an open model's requests: all, and those that were submitted before the schedule was over.
    """

    started_ns: int
    ended_ns: int
    checked: int = 0  # bodies decoded and compared
    connections: int = 0  # opened in all, warm-up included
    unsolicited: int = 0  # idle connections on which the target spoke without being asked
    cpu_ratio: float = 0.0  # of the busiest worker: 1.0 is one busy core
    lag_ms: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    limit_reached: bool = False  # stopped at MAX_REQUESTS, before its duration was over
    offered: int = 0
    on_time: int = 0

    @property
    def achieved_ratio(self) -> float | None:
        """Return how much of an open model's schedule was submitted before it was over; None of another model."""
        return self.on_time / self.offered if self.offered else None


TOGETHER: dict[str, Callable[[list[Any]], Any]] = {
    "started_ns": min,
    "ended_ns": max,
    "checked": sum,
    "connections": sum,
    "unsolicited": sum,
    "cpu_ratio": max,
    "lag_ms": np.concatenate,
    "limit_reached": any,
    "offered": sum,
    "on_time": sum,
}  # what each figure is of several outcomes


def _together(outcomes: Sequence[Tally]) -> dict[str, Any]:
    return {name: combine([getattr(one, name) for one in outcomes]) for name, combine in TOGETHER.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement(Tally):
    """What the workers measured of one scenario, on this process's monotonic clock.

    `samples` are in the order of their requests as they were split across the workers, the warm-up flagged.
    """

    samples: Samples
    workers: int = 1
    lost: tuple[str, ...] = ()  # for each worker that died in mid-run, which and how
    clock_error_ms: float = 0.0  # how far the clocks of workers on other machines may be off

    @property
    def retried(self) -> int:
        """Return how many requests after the warm-up were sent twice, since a reused connection was closed without an answer."""
        return int(np.count_nonzero((self.samples["retried"] == 1) & (self.samples["warm_up"] == 0)))

    @property
    def dispatch_lag_ms(self) -> NDArray[np.float64]:
        """Return how late each request was sent though a connection was free: the generator's own delay."""
        rows = self.samples
        own = (rows["waited"] == 0) & (rows["sent_ns"] > 0) & (rows["warm_up"] == 0)
        lag_ms: NDArray[np.float64] = (rows["sent_ns"][own] - rows["intended_ns"][own]) / 1e6
        return lag_ms


def merged(
    samples: Samples, outcomes: Sequence[Tally], *, workers: int = 1, lost: tuple[str, ...] = (), clock_error_ms: float = 0.0
) -> Measurement:
    """Put together what several workers measured; their samples are already one array on one clock, this process's."""
    if not outcomes:  # all workers died: the rows must do
        counted = samples[samples["warm_up"] == 0]
        started_ns = int(counted["intended_ns"].min(initial=time.monotonic_ns()))
        outcomes = [Tally(started_ns=started_ns, ended_ns=int(counted["done_ns"].max(initial=started_ns)))]
    return Measurement(samples=samples, workers=workers, lost=lost, clock_error_ms=clock_error_ms, **_together(outcomes))


def joined(parts: Sequence[Measurement]) -> Measurement:
    """Put together what was measured of one scenario in parts, one after another: the rounds and connections of each are numbered on."""
    if len(parts) == 1:
        return parts[0]
    every, rounds, connections = [], 0, 0
    for part in parts:
        rows = part.samples.copy()
        rows["round"] += rounds
        rows["connection"][rows["connection"] > 0] += connections
        every.append(rows)
        rounds, connections = int(rows["round"].max()) + 1 if len(rows) else rounds, connections + part.connections
    return Measurement(
        samples=np.concatenate(every),
        workers=max(part.workers for part in parts),
        lost=tuple(name for part in parts for name in part.lost),
        clock_error_ms=max(part.clock_error_ms for part in parts),
        **_together(parts),
    )


# ---- where they are written ----

CHUNK_ROWS = 8192  # of one worker; small, so that no reservation of a chunk takes long
MOST_ROWS = 2 * MAX_REQUESTS  # of all workers, their warm-up included
MEMORY = Path("/dev/shm")  # noqa: S108 - a file system in memory: writing to it never waits for a disk

Mapped = ctypes.Array[ctypes.c_ubyte]


def scratch(rows: int) -> IO[bytes]:
    """Open a nameless file with room for `rows`: in memory if that holds them, else in the temporary folder."""
    fits = MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > rows * ROW_BYTES
    return tempfile.TemporaryFile(dir=MEMORY if fits else None)


class SampleWriter:
    """Where one worker writes its rows: row `number` begins at byte `number * stride + shift` of `mapped`, once there is room."""

    __slots__ = ("_file", "mapped", "room", "shift", "stride")

    def __init__(self, file: int, worker: int = 0, workers: int = 1) -> None:
        self._file = file
        self.stride = ROW_BYTES * workers
        self.shift = ROW_BYTES * worker
        self.room = 0  # for so many rows
        try:
            self.mapped = _map(file, MOST_ROWS * ROW_BYTES)
        except OSError as error:
            raise MeasurementError(f"no address space for {MOST_ROWS * ROW_BYTES:,} bytes of samples: {error.strerror}") from None

    def grow(self) -> None:
        """Add room for `CHUNK_ROWS` rows; a `MeasurementError` where there is none."""
        size, offset = CHUNK_ROWS * self.stride, self.room * self.stride
        try:
            if offset + size > len(self.mapped):
                raise OSError(errno.EFBIG, "too many for one scenario")
            _reserve(self._file, offset, size)
        except OSError as error:
            why = error.strerror if error.errno != errno.ENOSPC else "no space left in the temporary folder"
            raise MeasurementError(f"no room for more than {offset // ROW_BYTES:,} samples: {why}") from None
        self.room += CHUNK_ROWS

    def rows(self, count: int) -> Samples:
        """Return the worker's first `count` rows, to be changed in place."""
        whole = np.frombuffer(memoryview(self.mapped), SAMPLE, self.room * self.stride // ROW_BYTES)
        return whole[self.shift // ROW_BYTES :: self.stride // ROW_BYTES][:count]


def _map(file: int, size: int) -> Mapped:
    """Map the first bytes of a file, also those beyond its end, which are there once the file is longer.

    The `mmap` of Python cannot do that, and keeps a descriptor open for each mapping.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64)
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    address = libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, file, 0)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    mapped = (ctypes.c_ubyte * size).from_address(address)
    weakref.finalize(mapped, libc.munmap, address, size).atexit = False  # arrays that look into it keep it alive
    return mapped


def _reserve(file: int, offset: int, size: int) -> None:
    """Make the file at least so long, with its space reserved: a write to a mapping cannot report a full disk."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, offset, size)
    else:
        os.pwrite(file, b"\0", offset + size - 1)  # the last byte of a row is padding; truncating could undo another worker's growth


def map_rows(file: int) -> Samples:
    """Map a whole file, unwritten rows included."""
    size = os.fstat(file).st_size
    return np.frombuffer(memoryview(_map(file, size)), SAMPLE) if size else np.zeros(0, SAMPLE)


def written(rows: Samples) -> Samples:
    """Return the rows that were written, moved together in place and in order."""
    kept = 0
    for first in range(0, len(rows), CHUNK_ROWS):
        part = rows[first : first + CHUNK_ROWS]
        there = part["done_ns"] > 0
        if kept == first and there.all():
            kept += len(part)
            continue
        part = part[there]
        rows[kept : kept + len(part)] = part
        kept += len(part)
    return rows[:kept]


def place(file: int, rows: Samples, *, worker: int, workers: int) -> None:
    """Put a worker's rows, which it kept apart, where it would have written them itself."""
    if len(rows):
        last = worker + (len(rows) - 1) * workers
        _reserve(file, 0, (last + 1) * ROW_BYTES)
        map_rows(file)[worker : last + 1 : workers] = rows
