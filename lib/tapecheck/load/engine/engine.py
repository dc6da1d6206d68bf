"""Sends a scenario's requests and records every one. It runs in a worker process, and knows no configuration and no files.

All executors share one path: `submit` a request with its intended start; it takes an idle connection, or waits for
one (connections grow on demand up to `max_connections`); when it has ended, the executor is told and decides what is next.
A row is written when its request has ended, however it ended; none is ever dropped.
"""

import array
import asyncio
import contextlib
import functools
import gc
import os
import threading
import time
from collections.abc import Callable, MutableSequence
from time import monotonic_ns
from typing import Any, Protocol, cast

import numpy as np
import uvloop

from tapecheck.errors import MeasurementError
from tapecheck.load import requests
from tapecheck.load.engine.pool import FreshPool, Pool
from tapecheck.load.engine.recorder import Measured, Outcome, Recorder, Samples, map_rows, merged, scratch, written
from tapecheck.load.engine.schedule import Dispatcher, share
from tapecheck.load.engine.work import MAX_DURATION_S, MAX_REQUESTS, Work
from tapecheck.workers.processes import Identity, whoami

HEARTBEAT_S = 0.01
LISTEN_S = 0.05  # after the last request, for answers that nobody asked for
LEAD_NS = 5_000_000  # from being ready to the start of a schedule
DONE, STOP = 0, 1  # the counters that a worker shares with its parent


class Stopped(Exception):
    """The parent asked to stop."""


def measure(work: Work, counters: MutableSequence[int] | None = None) -> Measured:
    """Run one scenario in this process and return its samples; see `run`."""
    with scratch(work.likely_rows) as file:
        recorder = Recorder(file.fileno())
        outcome = run(work, recorder, counters if counters is not None else [0, 0])
        return merged(written(recorder.rows(MAX_REQUESTS)), [outcome])


def run(work: Work, recorder: Recorder, counters: MutableSequence[int]) -> Outcome:
    """Run one worker's share of a scenario; its rows go to the recorder.

    Args:
        work: what to send, where and when.
        recorder: where its rows go, one as soon as its request has ended.
        counters: [done, stop], shared with the parent: progress towards `work.progress_total`, and a wish to stop.

    Raises:
        MeasurementError: it cannot be measured: too many connections for this machine, or no room for the samples.
        Stopped: the parent asked to stop.
    """
    requests.allow(work.max_connections)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        gc.freeze()
        gc.disable()  # a collection in mid-run would be measured as the target's
        try:
            return runner.run(Engine(work, recorder, counters).run())
        finally:
            gc.enable()
            gc.unfreeze()


class Engine:
    """The executors of one scenario, its clock and its self-check."""

    def __init__(self, work: Work, recorder: Recorder, counters: MutableSequence[int]) -> None:
        self.work = work
        self.recorder = recorder
        self.counters = counters
        self.lags = array.array("f")
        self.cutoff_ns: int | None = None  # what is still in flight then is censored
        self.dispatcher: Dispatcher | None = None
        self.broken: BaseException | None = None
        self.limit_reached = False
        self.started = False
        self.clock_start_ns = 0

    # ---- the scenario ----

    async def run(self) -> Outcome:
        """Run the scenario to its end."""
        self.loop = asyncio.get_running_loop()
        self.loop.set_exception_handler(self._break)
        self.task = cast("asyncio.Task[Outcome]", asyncio.current_task())
        self.pool = (FreshPool if self.work.fresh_connections else Pool)(self.work, self.recorder)
        self.expected_beat_ns = monotonic_ns()
        self._beat()
        self._sweep()
        executor = {"burst": self._burst, "closed": self._closed}.get(self.work.executor, self._open_model)
        try:
            await executor()
            ended_ns, cpu_s = monotonic_ns(), self._worked_s() - self.worked_start_s
            if self.pool.idle:
                await asyncio.sleep(LISTEN_S)
        except asyncio.CancelledError:
            if self.broken is not None:
                raise MeasurementError(f"the load worker failed: {self.broken}") from self.broken
            raise Stopped from None
        finally:
            self._close()
        await asyncio.sleep(0)
        return self._outcome(ended_ns, cpu_s)

    async def _burst(self) -> None:
        work = self.work
        warm_until_ns = monotonic_ns() + int(work.warm_up_s * 1e9)
        while work.warm_up_s and monotonic_ns() < warm_until_ns:
            await self._round()
        self._start()
        for _ in range(work.rounds):
            if monotonic_ns() - self.started_ns > MAX_DURATION_S * 1e9:
                self.limit_reached = True
                break
            await self._round()
            self.pool.round += 1

    async def _round(self) -> None:
        """Send `concurrency` requests with one intended start, on connections opened before it."""
        pool = self.pool
        await pool.prepare(self.work.concurrency)
        pool.kept.start_round(pool.number)
        self._expect(self.work.concurrency)
        start_ns = monotonic_ns()
        for _ in range(self.work.concurrency):
            pool.submit(start_ns)
        await self.finished

    async def _closed(self) -> None:
        """Let each of `concurrency` users send again as soon as it is answered."""
        work, pool = self.work, self.pool
        await pool.prepare(work.concurrency)
        await asyncio.sleep((work.start_ns - monotonic_ns()) / 1e9)
        self._expect(work.concurrency)
        start_ns = self.clock_start_ns = monotonic_ns()
        end_ns = start_ns + int((work.warm_up_s + work.duration_s) * 1e9)
        self.cutoff_ns = end_ns + int(work.timeout_s * 1e9)
        self._start_after(work.warm_up_s)
        ended, limit = pool.on_done, MAX_REQUESTS // work.workers

        def next_or_end(now: int) -> None:
            if now < end_ns and pool.number < limit:
                pool.submit(now)
            else:
                self.limit_reached |= now < end_ns
                ended(now)

        pool.on_done = next_or_end
        pool.repeat(end_ns, limit)
        for _ in range(work.concurrency):
            pool.submit(start_ns)
        await self.finished

    async def _open_model(self) -> None:
        """Send each request when the schedule says, whatever became of the ones before."""
        work = self.work
        assert work.schedule is not None, "an open model has a schedule"
        start_ns = self.clock_start_ns = work.start_ns or monotonic_ns() + LEAD_NS
        self.cutoff_ns = start_ns + int((work.schedule.duration_s + work.timeout_s) * 1e9)
        self.dispatcher = dispatcher = Dispatcher(
            work.schedule, start_ns=start_ns, worker=work.worker, workers=work.workers, submit=self.pool.submit, loop=self.loop
        )
        if not dispatcher.total:
            self._start()
            return
        self._expect(dispatcher.total)
        count = self.pool.on_done

        def count_and_send(now: int) -> None:
            count(now)
            if now >= dispatcher.next_ns:
                dispatcher.send_due(now)

        self.pool.on_done = count_and_send
        first_counted = int(work.schedule.count(int(work.warm_up_s * 1e9) - 1))
        self.pool.count_from(share(first_counted, work.worker, work.workers), first_counted)
        self._start_after(work.warm_up_s + (start_ns - monotonic_ns()) / 1e9)
        dispatcher.start()
        await self.finished
        if not self.started:  # the last request ended within a timer's tick of the warm-up
            self._start()

    def _start_after(self, seconds: float) -> None:
        self.loop.call_later(seconds, self._start) if seconds > 0 else self._start()

    def _start(self) -> None:
        """Begin what counts: everything before was warm-up."""
        if self.work.schedule is None:
            self.pool.count_from(self.pool.number, self.pool.number * self.work.workers)
        self.started_ns = monotonic_ns()
        self.started = True
        self.worked_start_s = self._worked_s()
        self.lags = array.array("f")

    def _worked_s(self) -> float:
        """Return the CPU time of this process, but for what it only waited awake."""
        return time.process_time() - (self.dispatcher.idle_ns / 1e9 if self.dispatcher else 0.0)

    def _expect(self, ends: int) -> None:
        """Let `finished` be set after `ends` calls of `on_done`."""
        finished = self.finished = self.loop.create_future()
        left = ends

        def count(now: int) -> None:
            nonlocal left
            left -= 1
            if not left and not finished.done():
                finished.set_result(None)

        self.pool.on_done = count

    # ---- timers ----

    def _beat(self) -> None:
        """Record the loop's lag, tell progress, obey a stop."""
        now = monotonic_ns()
        self.lags.append(max(0, now - self.expected_beat_ns) / 1e6)
        self.expected_beat_ns = now + int(HEARTBEAT_S * 1e9)
        self._tell(now)
        self.beat = self.loop.call_later(HEARTBEAT_S, self._beat)
        if self.counters[STOP]:
            self.task.cancel()

    def _tell(self, now: int) -> None:
        if self.work.executor == "burst":
            self.counters[DONE] = self.pool.done - self.pool.origin if self.started else 0
        elif self.clock_start_ns:
            self.counters[DONE] = max(0, min((now - self.clock_start_ns) // 1_000_000, self.work.progress_total))

    def _sweep(self) -> None:
        """End what has taken too long: one timer for all, so a timeout is recorded up to one period late."""
        self.pool.sweep(self.cutoff_ns)
        self.sweep = self.loop.call_later(min(0.1, self.work.timeout_s / 20), self._sweep)

    def _break(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """End the measurement if a callback of ours failed; failures of a connection are rows, and end in `connection_lost`."""
        error = context.get("exception")
        if error is not None and not isinstance(error, OSError):
            self.broken = error
            self.task.cancel()

    def _close(self) -> None:
        self.beat.cancel()
        self.sweep.cancel()
        if self.dispatcher is not None:
            self.dispatcher.close()
        self.pool.close()

    # ---- the result ----

    def _outcome(self, ended_ns: int, cpu_s: float) -> Outcome:
        dispatcher = self.dispatcher
        return Outcome(
            started_ns=self.started_ns,
            ended_ns=ended_ns,
            checked=self.pool.check(),
            connections=self.pool.opened_total,
            unsolicited=self.pool.unsolicited,
            cpu_s=cpu_s,
            lag_ms=np.array(self.lags, np.float32),
            limit_reached=self.limit_reached,
            offered=dispatcher.total if dispatcher else 0,
            on_time=dispatcher.on_time if dispatcher else 0,
        )


# ---- worker ----

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
    pass

    try:
        return run(work, recorder, counters)
    except Stopped:
        raise MeasurementError("the measurement was stopped") from None
