"""Sends a scenario's requests and records every one. It runs in a worker process, and knows no configuration and no files.

All executors share one path: `submit` a request with its intended start; it takes an idle connection, or waits for
one (connections grow on demand up to `max_connections`); when it has ended, the executor is called and decides what is next.
A row is written when its request has ended, however it ended; none is ever dropped.
"""

import array
import asyncio
import gc
import os
import time
from time import monotonic_ns
from typing import Any, cast

import numpy as np
import uvloop

from tapecheck.errors import MeasurementError
from tapecheck.load.engine.pool import FreshPool, Pool
from tapecheck.load.engine.recorder import Measurement, Samples, SampleWriter, Tally, merged, scratch, written
from tapecheck.load.engine.schedule import Dispatcher, Schedule, share
from tapecheck.load.engine.work import MAX_DURATION_S, MAX_REQUESTS, Work, allow_connections
from tapecheck.workers.worker import COUNT, DONE, SLOTS, STOP, Control

HEARTBEAT_S = 0.01
LISTEN_S = 0.05  # after the last request, for answers that nobody asked for
LEAD_NS = 5_000_000  # from being ready to the start of a schedule


def measure(work: Work, control: Control | None = None) -> Measurement:
    """Run one scenario in this process and return its samples; see `run`."""
    with scratch(work.likely_rows) as file:
        recorder = SampleWriter(file.fileno())
        outcome = run(work, recorder, control if control is not None else [0] * len(SLOTS))
        return merged(written(recorder.rows(MAX_REQUESTS)), [outcome])


def run(work: Work, recorder: SampleWriter, control: Control) -> Tally:
    """Run one worker's share of a scenario; the row of a request goes to the recorder as soon as it has ended.

    The control has progress towards `work.progress_total`, how many requests have begun, and a wish to stop.

    Raises:
        MeasurementError: it cannot be measured (too many connections for this machine, no room for the samples), or is to stop.
    """
    allow_connections(work.max_connections)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        gc.freeze()
        gc.disable()  # a collection in mid-run would be measured as the target's
        try:
            return runner.run(Engine(work, recorder, control).run())
        finally:
            gc.enable()
            gc.unfreeze()


class Engine:
    """The executors of one scenario, its clock and its self-check."""

    def __init__(self, work: Work, recorder: SampleWriter, control: Control) -> None:
        self.work = work
        self.recorder = recorder
        self.control = control
        self.lags = array.array("f")
        self.cutoff_ns: int | None = None  # what is still in flight then is censored
        self.dispatcher: Dispatcher | None = None
        self.broken: BaseException | None = None
        self.limit_reached = False
        self.started = False
        self.clock_start_ns = 0

    # ---- the scenario ----

    async def run(self) -> Tally:
        """Run the scenario to its end."""
        self.loop = asyncio.get_running_loop()
        self.loop.set_exception_handler(self._break)
        self.task = cast("asyncio.Task[Tally]", asyncio.current_task())
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
            raise MeasurementError("the measurement was stopped") from None
        finally:
            self.beat.cancel()
            self.sweep.cancel()
            if self.dispatcher is not None:
                self.dispatcher.close()
            self.pool.close()
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
        first_counted = Schedule(stages=work.schedule.stages[:1]).total if work.warm_up_s else 0
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
        """Record the loop's lag, report progress, obey a stop."""
        now = monotonic_ns()
        self.lags.append(max(0, now - self.expected_beat_ns) / 1e6)
        self.expected_beat_ns = now + int(HEARTBEAT_S * 1e9)
        self.control[COUNT] = self.pool.number
        if self.work.executor == "burst":
            self.control[DONE] = self.pool.done - self.pool.origin if self.started else 0
        elif self.clock_start_ns:
            self.control[DONE] = max(0, min((now - self.clock_start_ns) // 1_000_000, self.work.progress_total))
        self.beat = self.loop.call_later(HEARTBEAT_S, self._beat)
        if self.control[STOP]:
            self.task.cancel()

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

    # ---- the result ----

    def _outcome(self, ended_ns: int, cpu_s: float) -> Tally:
        dispatcher = self.dispatcher
        return Tally(
            started_ns=self.started_ns,
            ended_ns=ended_ns,
            checked=self.pool.check(),
            connections=self.pool.opened_total,
            unsolicited=self.pool.unsolicited,
            cpu_ratio=cpu_s * 1e9 / max(1, ended_ns - self.started_ns),
            lag_ms=np.array(self.lags, np.float32),
            limit_reached=self.limit_reached,
            offered=dispatcher.total if dispatcher else 0,
            on_time=dispatcher.on_time if dispatcher else 0,
        )


# ---- in a worker ----


def prepare() -> None:
    """Do nothing: to call this imports what measuring needs, so that the first measurement does not wait for it."""


def measure_share(control: Control, work: Work, file: Any) -> tuple[Tally, Samples | None]:
    """Run one worker's share of a scenario; its rows go into a file (a `DupFd`) that a machine's workers share, or else are returned."""
    if file is None:
        with scratch(work.likely_rows // work.workers) as own:
            recorder = SampleWriter(own.fileno())
            return run(work, recorder, control), written(recorder.rows(MAX_REQUESTS))
    descriptor = file.detach()
    try:
        return run(work, SampleWriter(descriptor, work.worker, work.workers), control), None
    finally:
        os.close(descriptor)
