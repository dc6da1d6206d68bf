"""The scheduler's choice of the next job, and what it says of its database."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from tapecheck.sandbox import scheduler as module
from tapecheck.sandbox.profile import Home, Profile
from tapecheck.sandbox.scheduler import Refresher
from tapecheck.vendor.wire import UnknownTicker


def test_a_database_that_is_back_is_up_whatever_upstream_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is lost, and there again when all that is to be done is a symbol that upstream does not know: nothing else would say so."""
    lost = iter([psycopg.OperationalError("lost")])

    def sink(_: str) -> object:
        if error := next(lost, None):
            raise error
        return SimpleNamespace(close=lambda: None)

    async def refresh(*_: Any, **__: Any) -> None:
        raise UnknownTicker("NOTHERE")

    async def work() -> list[bool]:
        task = asyncio.create_task(scheduler._work(None))  # type: ignore[arg-type]
        while scheduler.database_up:
            await asyncio.sleep(0)
        seen = [scheduler.database_up]
        while scheduler.due_s:
            await asyncio.sleep(0.01)
        task.cancel()
        return [*seen, scheduler.database_up]

    monkeypatch.setattr(module, "Sink", sink)
    monkeypatch.setattr(module, "refresh", refresh)
    home = Home(tmp_path)
    home.profile.write_text(Profile(timeframes=("1d",)).model_dump_json())
    scheduler = Refresher(home)
    scheduler.database_up = True
    scheduler.add(["NOTHERE"])
    monkeypatch.setattr(scheduler.home.__class__, "database_url", lambda *_: "")
    assert asyncio.run(asyncio.wait_for(work(), 60)) == [False, True]


def test_jobs_are_taken_critical_first(tmp_path: Path) -> None:
    """Critical symbols come before standard ones and those before all others, whatever order they were added in; none comes twice."""
    home = Home(tmp_path)
    home.profile.write_text(Profile(timeframes=("1d", "5m")).model_dump_json())
    scheduler = Refresher(home)
    scheduler.add(["ADA", "AAPL", "NEW", "SPY", "TSLA", "BTC"])
    taken = []
    while key := scheduler.take():
        taken.append(key)
    assert taken == [(symbol, frame) for symbol in ("BTC", "SPY", "AAPL", "TSLA", "ADA", "NEW") for frame in ("5m", "1d")]
