"""Rows in a file that is mapped into memory: they outlive the worker that wrote them, and are never copied to be joined.

All workers of a scenario write to one file. Row `j` of worker `w` of `n` is row `w + j*n` of the file, so that the file
is in the order of the whole schedule. It knows nothing of what rows mean but that a written one has a `done_ns`.
"""

import errno
import mmap
import os
import shutil
import tempfile
from pathlib import Path
from typing import IO

import numpy as np

from tapecheck.errors import MeasurementError
from tapecheck.load.samples import ROW_BYTES, SAMPLE, Samples

CHUNK_ROWS_LOG2 = 13
CHUNK_ROWS = 1 << CHUNK_ROWS_LOG2  # of one worker; small, so that no reservation of a chunk takes long
MEMORY = Path("/dev/shm")  # noqa: S108 - a file system in memory: writing to it never waits for a disk


def scratch(rows: int) -> IO[bytes]:
    """Open a nameless file with room for `rows`: in memory if that holds them, else in the temporary folder."""
    fits = MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > rows * ROW_BYTES
    return tempfile.TemporaryFile(dir=MEMORY if fits else None)


class Recorder:
    """Where one worker writes its rows: row `number` begins at `(number % CHUNK_ROWS) * stride + shift` of its chunk's view."""

    __slots__ = ("_file", "shift", "stride", "views")

    def __init__(self, file: int, worker: int = 0, workers: int = 1) -> None:
        self._file = file
        self.stride = ROW_BYTES * workers
        self.shift = ROW_BYTES * worker
        self.views: list[memoryview] = []

    def grow(self) -> None:
        """Add room for `CHUNK_ROWS` rows.

        Raises:
            MeasurementError: there is no room for them.
        """
        size = CHUNK_ROWS * self.stride
        offset = len(self.views) * size
        try:
            _reserve(self._file, offset, size)
            self.views.append(memoryview(mmap.mmap(self._file, size, offset=offset)))
        except OSError as error:
            rows = offset // ROW_BYTES
            why = error.strerror if error.errno != errno.ENOSPC else "no space left in the temporary folder"
            raise MeasurementError(f"no room for more than {rows:,} samples: {why}") from None

    def rows(self, count: int) -> Samples:
        """Return the worker's first `count` rows, to be changed in place; `grow` no more."""
        self.views = []
        whole = map_rows(self._file)
        return whole[self.shift // ROW_BYTES :: self.stride // ROW_BYTES][:count]


def _reserve(file: int, offset: int, size: int) -> None:
    """Make the file at least so long, with its space reserved: a write to a mapping cannot report a full disk."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, offset, size)
    else:
        os.pwrite(file, b"\0", offset + size - 1)  # the last byte of a row is padding; truncating could undo another worker's growth


def map_rows(file: int) -> Samples:
    """Map a whole file, unwritten rows included."""
    size = os.fstat(file).st_size
    return np.frombuffer(mmap.mmap(file, size), SAMPLE) if size else np.zeros(0, SAMPLE)


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
