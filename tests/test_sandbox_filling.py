"""A sandbox that holds nothing lets a measured backfill go first, and takes over what it stored: nothing is fetched twice."""

import contextlib
import datetime as dt
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from backfills import SCHEMA, plan, states

from tapecheck import lockfiles
from tapecheck.backfill import checkpoints, schema, session
from tapecheck.backfill import plan as ends_of
from tapecheck.backfill.plan import Endpoints, HistoryRange, today
from tapecheck.backfill.validation import backfill
from tapecheck.errors import ConfigError, SandboxError, TargetDown
from tapecheck.sandbox import supervision
from tapecheck.sandbox.processes import ask
from tapecheck.sandbox.profile import Home, Profile, write_private
from tapecheck.target import opening
from tapecheck.target.file import Target

FILE = "config/targets/sandbox.yaml"
PATIENCE_S = 180
OPEN = f"""
import sys
from tapecheck.target import opening
opening.open_target({FILE!r}, needs_bars=False)
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
    monkeypatch.setattr(opening, "_use", None)
    home = Home()
    home.create()
    write_private(home.profile, Profile(symbols=("SPY",), timeframes=("1d",), days=10).model_dump_json())
    yield home
    opening.let_fill()
    supervision.down(force=True)
    shutil.rmtree(folder)


def health(home: Home) -> dict[str, object]:
    state = opening.SandboxState.model_validate_json(home.state.read_bytes())
    return ask(state.processes["api"].port or 0, "/api/v1/admin/scheduler-health") or {}


def test_a_sandbox_that_holds_nothing_takes_over_what_was_backfilled_first(home: Home) -> None:
    """It rests until all who were to go first are done or killed; then it fetches only what the backfill left to fetch."""
    ends = ends_of.endpoints(opening.open_target(FILE, needs_bars=False))
    user = subprocess.Popen([sys.executable, "-c", OPEN], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert user.stdout is not None and user.stdout.readline() == b"open\n"
    before = health(home)
    assert (before["held"], before["runs"], before["due"]) == (True, 0, 0)
    found = session.run(plan(symbols=["SPY"], timeframes=["1d"], history={"days": 12}, database_schema="tapecheck_backfill"), ends)
    opening.let_fill()
    assert (health(home)["held"], health(home)["runs"]) == (True, 0), "the other one is still to go first"
    user.send_signal(signal.SIGKILL)
    user.communicate()
    supervision.wait_filled(timeout_s=PATIENCE_S)
    after = health(home)
    assert (after["held"], after["resumed"], after["redone"]) == (False, 1, 0)
    with psycopg.connect(home.database_url()) as connection:
        rows = connection.execute("SELECT count(*), min(time) FROM tapecheck.bars").fetchone()
        gone = connection.execute("SELECT to_regclass('tapecheck_backfill.bars')").fetchone()
    assert rows is not None and states(found)["completed"] == ["SPY 1d"]
    assert rows[1].date() < today() - dt.timedelta(days=10), "older than what the profile itself asks for: it is the backfill's"
    assert gone == (None,)


def rows_of(connection: psycopg.Connection[Any], table: str) -> list[tuple[Any, ...]]:
    return sorted(connection.execute(f"SELECT * FROM {table}").fetchall(), key=str)


TABLES = ("bars", "features", "checkpoints")
LIVE, DONE = f"{SCHEMA}_other", SCHEMA


@pytest.mark.parametrize(
    ("why", "changes", "keys", "is_taken"),
    [
        ("whole", {}, [("AAPL", "1d")], True),
        ("a job is missing", {}, [("AAPL", "1d"), ("MSFT", "1d")], False),
        ("no features", {"features": "off"}, [("AAPL", "1d")], False),
        ("too short", {"history": {"days": 9}}, [("AAPL", "1d")], False),
        ("a job failed", {"symbols": ["AAPL", "NOSUCH"]}, [("AAPL", "1d"), ("NOSUCH", "1d")], False),
        *((f"the live {table} hold something", {}, [("AAPL", "1d")], False) for table in TABLES),
    ],
)
def test_only_whole_history_is_taken_over(
    why: str,
    changes: dict[str, object],
    keys: list[tuple[str, str]],
    is_taken: bool,
    endpoints: Endpoints,
    connection: psycopg.Connection[Any],
) -> None:
    """And only into tables that hold nothing; else both stay as they are."""
    given = {"symbols": ["AAPL"], "timeframes": ["1d"], "history": {"days": 10}, "database_schema": DONE} | changes
    found = session.run(plan(**given), endpoints)
    schema.prepare(endpoints.database_url, LIVE, empty=True)
    for table in TABLES:
        if why.startswith(f"the live {table}"):
            connection.execute(f"INSERT INTO {LIVE}.{table} SELECT * FROM {DONE}.{table}")
    kept = {table: rows_of(connection, f"{LIVE}.{table}") for table in TABLES}
    first = HistoryRange(days=10).bounds()[0]
    assert checkpoints.take_over(endpoints.database_url, DONE, keys, first, live=LIVE) is is_taken
    held = checkpoints.read(endpoints.database_url, LIVE)
    assert states(found)["completed"] == ["AAPL 1d"], why
    if is_taken:
        assert {key: one.state for key, one in held.items()} == {("AAPL", "1d"): "asked"}
    else:
        assert ("AAPL", "1d") in checkpoints.read(endpoints.database_url, DONE)
        assert kept == {table: rows_of(connection, f"{LIVE}.{table}") for table in TABLES}


# ---- who waits for whom ----


@pytest.fixture
def holders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[int]]]:
    """Return who holds up a sandbox that does not run."""
    monkeypatch.setenv("TAPECHECK_SANDBOX_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(opening, "_use", None)
    yield lambda: [one.pid for one in lockfiles.holders(Home().held) if one.is_there]
    opening.let_fill()
    if opening._use is not None:
        lockfiles.release(opening._use)


EXTERNAL = Target(name="t", kind="external", base_url="http://127.0.0.1:1", requests={"health": "GET /"})


def test_a_backfill_that_cannot_begin_holds_up_nobody(holders: Callable[[], list[int]]) -> None:
    """The target of its cell names no endpoints, so that nothing will be measured."""
    opening._use_sandbox(needs_bars=False)
    assert holders() == [os.getpid()]
    with pytest.raises(ConfigError, match="backfill"):
        backfill.run(plan(), EXTERNAL)
    assert holders() == []


def test_a_measurement_that_ends_early_holds_up_nobody(holders: Callable[[], list[int]]) -> None:
    """The source does not answer, so that the cell ends with an error."""
    opening._use_sandbox(needs_bars=False)
    ends = {"source_url": "http://127.0.0.1:9", "database_url": "postgresql://127.0.0.1:9/x"}
    target = Target.model_validate(EXTERNAL.model_dump(exclude_unset=True) | {"backfill": ends})
    with pytest.raises(TargetDown):
        backfill.run(plan(), target)
    assert holders() == []


@pytest.mark.parametrize("end", [KeyboardInterrupt(), OSError("no more processes")])
def test_a_start_that_is_interrupted_holds_up_nobody(
    holders: Callable[[], list[int]], monkeypatch: pytest.MonkeyPatch, end: BaseException
) -> None:
    """JupyterLab's stop button while the sandbox starts: the kernel lives on, and what it asked for does not."""
    seen: list[list[int]] = []

    def popen(*words: object, **options: object) -> None:
        seen.append(holders())
        raise end

    monkeypatch.setattr(opening.subprocess, "Popen", popen)
    with pytest.raises(type(end)):
        opening.open_target(FILE, needs_bars=False)
    assert (seen, holders()) == ([[os.getpid()]], [])


def test_nobody_waits_for_itself(holders: Callable[[], list[int]]) -> None:
    """A kernel in which a backfill was to be measured, and then something that needs a filled sandbox is."""
    opening._use_sandbox(needs_bars=False)
    opening._use_sandbox(needs_bars=True)
    assert holders() == []


@pytest.mark.parametrize(
    ("held_s", "filling_s", "knows_of_it", "error"),
    [
        (0, 100, True, ""),
        (0, 300, True, r"^not filled within 180 s: SPY 1d$"),
        (900, 100, True, ""),
        (900, 300, True, r"^not filled within 180 s: SPY 1d$"),
        (
            4000,
            10,
            True,
            r"^not filled within 3600 s: the sandbox waits for the backfill of pid {pid} \(a backfill\); wait until that ends",
        ),
        (0, 100, False, ""),
    ],
)
def test_only_the_time_in_which_it_may_fill_itself_is_counted(
    holders: Callable[[], list[int]], monkeypatch: pytest.MonkeyPatch, held_s: float, filling_s: float, knows_of_it: bool, error: str
) -> None:
    """A measured backfill takes as long as it takes, and who is waited for is said; an older checkout's sandbox knows of no such thing."""
    now_s, notes = [0.0], []
    lockfiles.hold(Home().held, "a backfill")

    def ask(port: int, path: str) -> dict[str, object]:
        is_held, is_done = now_s[0] < held_s, now_s[0] >= held_s + filling_s
        if path.endswith("status"):
            one = {"symbol": "SPY", "timeframe": "1d", "error": None, "refreshed_at": "2026-11-02" if is_done else None}
            return {"series": [one]}
        return {"due": 0 if is_held or is_done else 1, "in_flight": []} | ({"held": is_held} if knows_of_it else {})

    state = opening.SandboxState(
        base_url="http://127.0.0.1:1", upstream_url="http://127.0.0.1:1", upstream_key_file="k",
        database_url=None, supervisor_pid=1, processes={"api": {"port": 1}},
    )  # fmt: skip
    monkeypatch.setattr(supervision, "_state", lambda home: state)
    monkeypatch.setattr(supervision, "ask", ask)
    monkeypatch.setattr(supervision.time, "monotonic", lambda: now_s[0])
    monkeypatch.setattr(supervision.time, "sleep", lambda s: now_s.__setitem__(0, now_s[0] + 10 * s))
    with pytest.raises(SandboxError, match=error.format(pid=os.getpid())) if error else contextlib.nullcontext():
        supervision.wait_filled(on_progress=lambda done, total, note="": notes.append(note))
    shown = len(notes)
    if not error:
        supervision.wait_filled(on_progress=lambda done, total, note="": notes.append(note))
    assert shown and len(notes) == shown  # where nothing is to be waited for, nothing is shown
    waited = {note for note in notes if note}
    assert waited == ({f"waits for the backfill of pid {os.getpid()} (a backfill)"} if held_s else set())
    for file in list(lockfiles._held):
        if file.parent == Home().held:
            lockfiles.release(file)
