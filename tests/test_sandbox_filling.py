"""A sandbox that holds nothing lets a measured backfill go first, and takes over what it stored: nothing is fetched twice."""

import datetime as dt
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from backfills import SCHEMA, plan, states

from tapecheck import targets
from tapecheck.backfill import checkpoints, filling
from tapecheck.backfill import endpoints as ends_of
from tapecheck.backfill.endpoints import Endpoints
from tapecheck.backfill.plan import History, today
from tapecheck.sandbox import supervision
from tapecheck.sandbox.processes import ask
from tapecheck.sandbox.profile import Home, Profile, write_private

FILE = "config/targets/sandbox.yaml"
PATIENCE_S = 90
OPEN = f"""
import sys
from tapecheck import targets
targets.open_target({FILE!r}, needs_bars=False)
print("open", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """The home of a sandbox that was never started, for one series."""
    base = "/var/tmp" if Path("/var/tmp").is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="tcf-", dir=base)).resolve()
    monkeypatch.setenv("TAPECHECK_SANDBOX_HOME", str(folder))
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setattr(targets, "_use", None)
    home = Home()
    home.create()
    write_private(home.profile, Profile(symbols=("SPY",), timeframes=("1d",), days=10).model_dump_json())
    yield home
    targets.let_fill()
    supervision.down(force=True)
    shutil.rmtree(folder)


def health(home: Home) -> dict[str, object]:
    state = targets.SandboxState.model_validate_json(home.state.read_bytes())
    return ask(state.processes["api"].port or 0, "/api/v1/admin/scheduler-health") or {}


def test_a_sandbox_that_holds_nothing_takes_over_what_was_backfilled_first(home: Home) -> None:
    """Until then it rests; afterwards it fetches only what the backfill, which ends with yesterday, left to fetch."""
    ends = ends_of.endpoints(targets.open_target(FILE, needs_bars=False))
    before = health(home)
    assert (before["held"], before["runs"], before["due"]) == (True, 0, 0)
    found = filling.run(plan(symbols=["SPY"], timeframes=["1d"], history={"days": 12}, database_schema="tapecheck_backfill"), ends)
    assert health(home)["runs"] == 0, "it lets go first until it is told"
    targets.let_fill()
    supervision.wait_filled(timeout_s=PATIENCE_S)
    after = health(home)
    assert (after["held"], after["resumed"], after["redone"]) == (False, 1, 0)
    with psycopg.connect(home.database_url()) as connection:
        rows = connection.execute("SELECT count(*), min(time) FROM tapecheck.bars").fetchone()
        gone = connection.execute("SELECT to_regclass('tapecheck_backfill.bars')").fetchone()
    assert rows is not None and states(found)["completed"] == ["SPY 1d"]
    assert rows[1].date() < today() - dt.timedelta(days=10), "older than what the profile itself asks for: it is the backfill's"
    assert gone == (None,)


def test_a_backfill_that_is_killed_leaves_a_sandbox_that_fills_itself(home: Home) -> None:
    """Whoever was to go first is gone, so that nobody is waited for."""
    user = subprocess.Popen([sys.executable, "-c", OPEN], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert user.stdout is not None and user.stdout.readline() == b"open\n"
    supervision.up()  # stays without its user
    assert health(home)["held"] is True
    user.send_signal(signal.SIGKILL)
    user.communicate()
    supervision.wait_filled(timeout_s=PATIENCE_S)
    after = health(home)
    assert (after["held"], after["resumed"], after["done"]) == (False, 0, 1)


LIVE, DONE = f"{SCHEMA}_other", SCHEMA


@pytest.mark.parametrize(
    ("why", "changes", "keys", "is_taken"),
    [
        ("whole", {}, [("AAPL", "1d")], True),
        ("a job is missing", {}, [("AAPL", "1d"), ("MSFT", "1d")], False),
        ("no features", {"features": "off"}, [("AAPL", "1d")], False),
        ("too short", {"history": {"days": 9}}, [("AAPL", "1d")], False),
        ("a job failed", {"symbols": ["AAPL", "NOSUCH"]}, [("AAPL", "1d"), ("NOSUCH", "1d")], False),
        ("the live tables hold something", {}, [("AAPL", "1d")], False),
    ],
)
def test_only_whole_history_is_taken_over(
    why: str, changes: dict[str, object], keys: list[tuple[str, str]], is_taken: bool, endpoints: Endpoints, connection: object
) -> None:
    """And only into tables that hold nothing; else both stay as they are."""
    given = {"symbols": ["AAPL"], "timeframes": ["1d"], "history": {"days": 10}, "database_schema": DONE} | changes
    found = filling.run(plan(**given), endpoints)
    checkpoints.prepare(endpoints.database_url, LIVE, empty=True)
    if why.startswith("the live"):
        filling.run(plan(**given | {"database_schema": LIVE}), endpoints)
    first = History(days=10).bounds()[0]
    assert checkpoints.take_over(endpoints.database_url, DONE, keys, first, live=LIVE) is is_taken
    held = checkpoints.read(endpoints.database_url, LIVE)
    assert states(found)["completed"] == ["AAPL 1d"], why
    if is_taken:
        assert {key: one.state for key, one in held.items()} == {("AAPL", "1d"): "asked"}
    else:
        assert ("AAPL", "1d") in checkpoints.read(endpoints.database_url, DONE)
