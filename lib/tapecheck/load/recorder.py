"""Rows in a file that is mapped into memory: they outlive the worker that wrote them, and are never copied to be joined.

All workers of a scenario write to one file. Row `j` of worker `w` of `n` is row `w + j*n` of the file, so that the file
is in the order of the whole schedule. It knows nothing of what rows mean but that a written one has a `done_ns`.
"""

import ctypes
import errno
import mmap
import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import IO

import numpy as np

from tapecheck.errors import MeasurementError
from tapecheck.load.samples import ROW_BYTES, SAMPLE, Samples
from tapecheck.load.work import MAX_REQUESTS

CHUNK_ROWS = 8192  # of one worker; small, so that no reservation of a chunk takes long
MOST_ROWS = 2 * MAX_REQUESTS  # of all workers, their warm-up included
MEMORY = Path("/dev/shm")  # noqa: S108 - a file system in memory: writing to it never waits for a disk


Mapped = ctypes.Array[ctypes.c_ubyte]


def scratch(rows: int) -> IO[bytes]:
    """Open a nameless file with room for `rows`: in memory if that holds them, else in the temporary folder."""
    fits = MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > rows * ROW_BYTES
    return tempfile.TemporaryFile(dir=MEMORY if fits else None)


class Recorder:
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
        """Add room for `CHUNK_ROWS` rows.

        Raises:
            MeasurementError: there is no room for them.
        """
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
