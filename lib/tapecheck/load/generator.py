"""The load generator: splits a scenario across a worker pool and puts together what the workers measured. It sends no request itself."""

import dataclasses
import ipaddress
import time
from collections.abc import Callable, Sequence
from multiprocessing.reduction import DupFd

from tapecheck.errors import MeasurementError
from tapecheck.load.engine import engine
from tapecheck.load.engine.recorder import Measurement, Samples, Tally, map_rows, merged, place, scratch, written
from tapecheck.load.engine.work import Work
from tapecheck.workers.pool import WorkerPool
from tapecheck.workers.worker import DONE, Death, Worker

CONNECTION_LEAD_S = 0.0002  # added to the time until a common start, for each connection to open before it


class Generator(WorkerPool):
    """A load generator, started once for many measurements: processes of this machine, or the workers of a Dask cluster."""

    def __init__(self, workers: int | str = 1) -> None:
        super().__init__(workers, engine.prepare, pinned=True)

    def measure(self, work: Work, on_progress: Callable[[int, int], object] = lambda done, total: None) -> Measurement:
        """Run one scenario, split across as many workers as it can occupy.

        A worker that dies is named in the result, which holds what it had recorded and the whole shares of the others.

        Args:
            work: the scenario.
            on_progress: called about 5 times a second with (done, `work.progress_total`), and once at the end.

        Raises:
            MeasurementError: a worker cannot measure.
        """
        workers, total = self.ready()[: work.parts], work.progress_total
        with scratch(work.likely_rows) as file:
            shares = _shares(workers, work, self.lead_s)
            ended = self.run(
                engine.measure_share,
                [(one, (share, DupFd(file.fileno()) if one.shares_files else None)) for one, share in zip(workers, shares, strict=True)],
                lambda running: on_progress(min(total, *(worker.control[DONE] for worker in running)), total),
            )
            on_progress(total, total)
            tallies, lost = [], []
            for worker, share, one in zip(workers, shares, ended, strict=True):
                if isinstance(one, Death):
                    rows = "" if worker.shares_files else f"; it had begun {one.count:,} requests, whose rows are lost with it"
                    lost.append(f"{worker.name} ({one.why}{rows})")
                else:
                    tallies.append(_take(worker, share, *one, file.fileno()))
            error_ms = max(worker.error_ns for worker in workers) / 1e6
            return merged(written(map_rows(file.fileno())), tallies, workers=len(workers), lost=tuple(lost), clock_error_ms=error_ms)


def _shares(workers: Sequence[Worker], work: Work, lead_s: float) -> list[Work]:
    """Split a scenario, with a common start if there are several workers, given to each on its own clock."""
    for worker in workers:
        if not worker.is_here and ipaddress.ip_address(work.address.host.partition("%")[0]).is_loopback:
            raise MeasurementError(
                f"{worker.name} is on another machine, where {work.address.host} is not this target: name an address for all"
            )
    start_ns = time.monotonic_ns() + int((lead_s + CONNECTION_LEAD_S * work.concurrency) * 1e9) if len(workers) > 1 else 0
    return [work.share(k, len(workers), start_ns + one.offset_ns if start_ns else 0) for k, one in enumerate(workers)]


def _take(worker: Worker, share: Work, outcome: Tally, rows: Samples | None, file: int) -> Tally:
    """Put the rows that a worker returned into the file, on this process's clock, and return the rest."""
    if rows is None:
        return outcome
    place(file, on_clock(rows, worker.offset_ns), worker=share.worker, workers=share.workers)
    return dataclasses.replace(outcome, started_ns=outcome.started_ns - worker.offset_ns, ended_ns=outcome.ended_ns - worker.offset_ns)


def on_clock(rows: Samples, offset_ns: int) -> Samples:
    """Return rows with their times moved from a clock that is `offset_ns` ahead to this process's; 0, never, stays."""
    if offset_ns:
        rows = rows.copy()
        for name in ("intended_ns", "sent_ns", "first_byte_ns", "done_ns"):
            rows[name][rows[name] > 0] -= offset_ns
    return rows
