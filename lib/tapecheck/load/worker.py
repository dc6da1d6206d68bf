"""What is called inside a worker, wherever its process runs. Who calls is another module's business.

It imports the engine only when asked, so that the process that asks for load need not import an event loop of its own.
"""

import contextlib
import functools
import os
import threading
from collections.abc import Callable, MutableSequence
from typing import Protocol

import numpy as np

from tapecheck.clocks import Identity, whoami
from tapecheck.errors import MeasurementError
from tapecheck.load.recorder import Recorder, map_rows, scratch, written
from tapecheck.load.samples import Outcome, Samples
from tapecheck.load.work import MAX_REQUESTS, Work

TELL_S = 0.5  # between two messages of a worker that shares nothing

_stops: dict[str, MutableSequence[int]] = {}  # in a worker of a cluster: the counters of what runs, by token


class Descriptor(Protocol):
    """An open file that was handed to this process."""

    def detach(self) -> int:
        """Return its descriptor here."""


def identify() -> Identity:
    """Import what measuring needs, and say who this is."""
    import tapecheck.load.engine  # noqa: F401  # so that the first measurement does not wait for it

    return whoami()


def measure_into(file: Descriptor, work: Work, counters: MutableSequence[int]) -> Outcome:
    """Run a share and write its rows to a file that all workers on this machine share."""
    descriptor = file.detach()
    try:
        return _run(work, Recorder(descriptor, work.worker, work.workers), counters)
    finally:
        os.close(descriptor)


def measure_apart(work: Work, token: str) -> tuple[Outcome, Samples]:
    """Run a share and return its rows, from a worker that shares nothing with the asker; meanwhile tell how many there are."""
    from distributed import get_worker

    counters = _stops[token] = [0, 0]
    ended, tell = threading.Event(), functools.partial(get_worker().log_event, token)
    try:
        with scratch(work.likely_rows // work.workers) as file:
            telling = threading.Thread(target=_tell, args=(file.fileno(), tell, ended))
            telling.start()
            try:
                recorder = Recorder(file.fileno())
                outcome = _run(work, recorder, counters)
                return outcome, written(recorder.rows(MAX_REQUESTS))
            finally:
                ended.set()
                telling.join()
    finally:
        del _stops[token]


def _tell(file: int, tell: Callable[[int], object], ended: threading.Event) -> None:
    """Tell the asker now and then how many rows are written, so that this much is known if the worker dies."""
    whole = 0  # so many from the first on: they need not be looked at again
    while not ended.wait(TELL_S):
        there = map_rows(file)["done_ns"][whole:] > 0
        tell(whole + int(np.count_nonzero(there)))
        whole += len(there) if there.all() else int(np.argmin(there))


def stop(token: str) -> None:
    """End what runs under a token, if anything does."""
    with contextlib.suppress(KeyError):
        _stops[token][1] = 1


def _run(work: Work, recorder: Recorder, counters: MutableSequence[int]) -> Outcome:
    from tapecheck.load.engine import Stopped, run

    try:
        return run(work, recorder, counters)
    except Stopped:
        raise MeasurementError("the measurement was stopped") from None
