"""Asks every view of a target at fixed times, whatever became of the probes before: an open schedule. It does not judge.

Where this machine is too busy for that, the times that it missed are left out: probes that are further apart are less exact, and
probes that are sent later and later are wrong. How long an answer took counts from when it was asked for.
Chaos Toolkit's own continuous probe asks again only when it was answered, so that a hang of two seconds is one probe long.
"""

import asyncio
import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import httpx
import psycopg
import pyarrow as pa
from pydantic_core import from_json

from tapecheck.database import opened, within
from tapecheck.recovery.experiment import View
from tapecheck.recovery.objectives import ProbeSchedule
from tapecheck.recovery.recording import BAD, FULL, PROBES
from tapecheck.target.transport import FAILURES, client_options, exchange


@dataclass(frozen=True, slots=True)
class Probe:
    """One probe; times in ns on the monotonic clock."""

    view: str
    intended_ns: int
    sent_ns: int
    done_ns: int
    state: int
    reported: bool
    status: int
    error: str


class Prober:
    """Probes in a thread of its own with an event loop of its own, as a context manager.

    Args:
        base_url: of the target; its `headers` may hold secrets, which are sent and nowhere kept.
        views: what to ask; their requests are `METHOD /path`, or a SELECT, for which there is a `database_url`.
        verify: as httpx takes it.
    """

    def __init__(
        self, base_url: str, views: Mapping[str, View], schedule: ProbeSchedule, *,
        headers: Sequence[tuple[str, str]] = (), database_url: str | None = None, verify: Any = True,
    ) -> None:  # fmt: skip
        self.views, self._schedule, self._database_url = views, schedule, database_url
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        own = {"base_url": base_url, "headers": list(headers), "limits": limits, "timeout": schedule.timeout_s, "trust_env": False}
        self._options: dict[str, Any] = client_options(base_url, verify) | own
        self.probes: list[Probe] = []
        self.died_of: Exception | None = None
        self._waiting: set[tuple[str, int]] = set()  # view and start of what has no answer yet
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._probe_all, name="prober", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *caught: object) -> None:
        self._stop.set()
        self._thread.join()

    def wait(self, least: int, since_ns: int, *, within_s: float, unseen_s: float) -> bool:
        """Wait until a failure was seen since a time and all has been well for `settle_s`; return whether that came in time.

        Where no probe sees a failure within `unseen_s`, there is none to wait for.

        Args:
            least: FULL, which every view must be, or DEGRADED, which those must be at least by which the target serves.
        """
        until_ns = time.monotonic_ns() + int(within_s * 1e9)
        while time.monotonic_ns() < until_ns and self.died_of is None:
            if self._is_well(least, since_ns, unseen_s):
                return True
            time.sleep(self._schedule.period_s)
        return False

    def _is_well(self, least: int, since_ns: int, unseen_s: float) -> bool:
        now_ns, probes = time.monotonic_ns(), list(self.probes)
        asked = {name for name, view in self.views.items() if view.serves or least == FULL}
        settling_ns = int(self._schedule.settle_s * 1e9)
        recent = [p for p in probes if p.view in asked and p.done_ns >= now_ns - settling_ns]
        hangs = any(view in asked and now_ns - at_ns > self._schedule.slow_s * 1e9 for view, at_ns in self._waiting.copy())
        well = not hangs and {p.view for p in recent} == asked and all(self._is(least, p) for p in recent)
        seen = any(p.done_ns >= since_ns and not self._is(FULL, p) for p in probes)
        return well and now_ns - since_ns > (settling_ns if seen else int(unseen_s * 1e9))

    def _is(self, least: int, probe: Probe) -> bool:
        return probe.state >= least and probe.done_ns - probe.sent_ns <= self._schedule.slow_s * 1e9

    def table(self, drill: str, trial: int) -> pa.Table:
        """Return the probes in the order of their intended starts, by `recording.PROBES`."""
        ordered = sorted(self.probes, key=lambda p: (p.intended_ns, p.view))
        more = {"drill": drill, "trial": trial}
        return pa.Table.from_pylist([asdict(p) | more | {"serves": self.views[p.view].serves} for p in ordered], PROBES)

    def _probe_all(self) -> None:
        """Keep what ended the prober, of which nobody would hear in a thread."""
        try:
            asyncio.run(self._run())
        except Exception as error:
            self.died_of = error.exceptions[0] if isinstance(error, ExceptionGroup) else error

    async def _run(self) -> None:
        async with httpx.AsyncClient(**self._options) as client, asyncio.TaskGroup() as group:
            begun_ns, number = time.monotonic_ns(), 0
            while not self._stop.is_set():
                intended_ns = begun_ns + int(number * self._schedule.period_s * 1e9)
                await asyncio.sleep(max(0.0, (intended_ns - time.monotonic_ns()) / 1e9))
                for name, view in self.views.items():
                    group.create_task(self._probe(client, name, view, intended_ns))
                number = max(number + 1, math.ceil((time.monotonic_ns() - begun_ns) / (self._schedule.period_s * 1e9)))

    async def _probe(self, client: httpx.AsyncClient, name: str, view: View, intended_ns: int) -> None:
        sent_ns, status, error, body = time.monotonic_ns(), 0, "", None
        self._waiting.add((name, sent_ns))
        try:
            if view.is_sql:
                status = await self._select(view)
            else:
                status, body = await _get(client, view, self._schedule.timeout_s)
        except TimeoutError:
            error = "timeout"
        except (*FAILURES, psycopg.Error, OSError) as failure:
            error = type(failure).__name__
        done_ns = time.monotonic_ns()
        state = BAD if error else view.state(status, body)
        reported = not error and view.is_report(status, body)
        self._waiting.discard((name, sent_ns))
        self.probes.append(Probe(name, intended_ns, sent_ns, done_ns, state, reported, status, error))

    async def _select(self, view: View) -> int:
        """Ask the database one statement that only reads, over a connection of its own: an old one may hang for reasons of its own."""
        assert self._database_url, "a drill with such a view is refused where no database is named"
        async with opened(self._database_url, default_transaction_read_only="on") as connection:
            with within(connection, self._schedule.timeout_s):
                await connection.cursor(binary=True).execute(view.request.encode())  # binary: it cannot be two
        return 200


async def _get(client: httpx.AsyncClient, view: View, timeout_s: float) -> tuple[int, Any]:
    method, _, path = view.request.partition(" ")
    answer, body = await exchange(client, client.build_request(method, path), timeout_s)
    try:
        return answer.status_code, from_json(body)
    except ValueError:
        return answer.status_code, None
