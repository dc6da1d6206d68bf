"""Backfills that are killed in processes of their own, wherever they are: each resumes to the tables of one that never was."""

import dataclasses
import datetime as dt
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import psycopg
import pytest
from backfills import BASE, SCHEMA, plan, states
from vendors import KEY, Asked, Body, Vendor, emptied, ms, serving, with_results

from tapecheck.backfill import checkpoints
from tapecheck.backfill import plan as plans
from tapecheck.backfill.checkpoints import Checkpoint
from tapecheck.backfill.plan import BackfillPlan, Endpoints
from tapecheck.backfill.schema import COVERAGE
from tapecheck.backfill.session import run
from tapecheck.backfill.sink import Sink
from tapecheck.errors import ConfigError
from tapecheck.vendor import wire
from tapecheck.vendor.bars import to_ms

SEED = 4
STATEMENTS = [(psycopg.Cursor, "execute"), (Sink, "_execute"), (Sink, "_copy")]
SMALL: dict[str, Any] = {"timeframes": ["5m", "1h"], "history": {"days": 8, "end": plans.today()}}  # the same days after midnight, too
PAGE_LIMIT = 2500  # base aggregates: 500 bars of five minutes, so that a job has several pages
PROCESSES = multiprocessing.get_context("forkserver")  # forked from one in which all is imported: they start in no time
PROCESSES.set_forkserver_preload(["pytest", "tapecheck.backfill.session", "adbc_driver_postgresql.dbapi"])
Database = psycopg.Connection[Any]
Key = tuple[str, str]


def fill(plan: BackfillPlan, endpoints: Endpoints, moments: Any, last: int, within_a_job: bool) -> None:
    """Run a backfill in small pages, in whatever process, which kills itself at a moment.

    Moments are before and after each statement, most of them within a transaction; or where a page of a job was stored, and others follow.
    """
    lock = threading.Lock()

    def met() -> None:
        with lock:  # this process's own: a shared one would be left locked
            moments.value += 1
            if moments.value == last:
                os.kill(os.getpid(), signal.SIGKILL)

    def watched(kind: type, name: str, before: Callable[..., bool], after: Callable[..., bool]) -> None:
        real = getattr(kind, name)

        def watching(*words: Any, **options: Any) -> Any:
            if before(*words):
                met()
            found = real(*words, **options)
            if after(*words):
                met()
            return found

        setattr(kind, name, watching)

    wire.PAGE_LIMIT = PAGE_LIMIT
    if within_a_job:
        watched(Sink, "write", lambda *_: False, lambda *words: words[-1].state == "filling")
    else:
        for kind, name in STATEMENTS:
            watched(kind, name, lambda *_: True, lambda *_: True)
    run(plan, endpoints)


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same small pages in this process."""
    monkeypatch.setattr(wire, "PAGE_LIMIT", PAGE_LIMIT)


def killed(endpoints: Endpoints, last: int, within_a_job: bool = False, **changes: Any) -> tuple[bool, int]:
    """Run a backfill in another process, killed at a moment; return whether it was before the end, and how many moments there were."""
    moments = PROCESSES.RawValue("i", 0)
    process = PROCESSES.Process(target=fill, args=(plan(**SMALL, **changes), endpoints, moments, last, within_a_job))
    process.start()
    process.join()
    assert process.exitcode in (0, -9)
    return process.exitcode != 0, moments.value


def stored(connection: Database) -> dict[Key, Checkpoint]:
    """Do the same as `stored_now`, once the server has ended what a killed run had begun: it may be making the tables anew."""
    until_s = time.monotonic() + 60
    while True:
        try:
            return stored_now(connection)
        except (psycopg.errors.UndefinedTable, psycopg.errors.InternalError):
            assert time.monotonic() < until_s
            time.sleep(0.05)


def stored_now(connection: Database) -> dict[Key, Checkpoint]:
    """Return where each job stands, after checking that what is stored are whole pages, each with its checkpoint and features."""
    if connection.execute("SELECT to_regclass(%s)", (f"{SCHEMA}.checkpoints",)).fetchone() == (None,):
        return {}
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        found = checkpoints.read_with(connection, SCHEMA)
        for table in ("bars", "features"):
            rows = connection.execute(f"SELECT symbol, timeframe, count(*), max(time) FROM {SCHEMA}.{table} GROUP BY 1, 2").fetchall()
            in_tables = {(symbol, timeframe): (count, last) for symbol, timeframe, count, last in rows}
            assert in_tables == {key: (one.rows, one.watermark) for key, one in found.items() if one.rows}
    return found


@pytest.mark.parametrize("derive", [False, True], ids=["fetched", "derived"])
def test_a_killed_run_resumes_to_the_same_tables(endpoints: Endpoints, connection: Database, derive: bool) -> None:
    """SIGKILL anywhere in a first or a resumed run leaves whole pages, and the last run does only what is missing."""
    _, length = killed(endpoints, 0, derive=derive)
    assert length > 100, "a moment for each statement"
    expected, total = checkpoints.whole(connection, SCHEMA), stored(connection)
    random = Random(SEED + derive)
    for first, within_a_job in ((1 + random.randrange(3), True), (random.randrange(1, length), False)):
        connection.execute(f"DROP SCHEMA {SCHEMA} CASCADE")
        assert killed(endpoints, first, within_a_job, derive=derive)[0]
        before = stored(connection)
        assert not within_a_job or any(0 < one.rows < total[key].rows for key, one in before.items())
        second = random.randrange(max(1, length - first))
        killed(endpoints, second, derive=derive, begin="resume")  # nothing is left where the rest is shorter than that
        before, said = stored(connection), f"seed {SEED}, killed at {first} of {length} and at {second}"
        last = run(plan(**SMALL, derive=derive, begin="resume"), endpoints)
        assert checkpoints.whole(connection, SCHEMA) == expected, said
        done = {key for key, one in before.items() if one.state == "done"}
        assert {f"{symbol} {frame}" for symbol, frame in done} <= set(states(last)["skipped"]), said
        spans = [span for span in last.spans if span.stage == "decode"]
        if derive:
            assert all(any((span.symbol, frame) not in done for frame in SMALL["timeframes"]) for span in spans), said
            continue
        missing = sum(one.rows for one in total.values()) - sum(one.rows for one in before.values())
        assert sum(span.rows for span in spans) <= missing + len(before.keys() - done), said  # the newest bar of each again


def test_a_run_that_was_killed_before_its_first_page_resumes(endpoints: Endpoints, connection: Database) -> None:
    """Without a single checkpoint resuming begins, and can be resumed in turn; to redo its failed jobs is a mistake, and called one."""
    small: dict[str, Any] = {"timeframes": ["1d"], "history": {"days": 5}}
    run(plan(timeframes=["1d"], history={"days": 9}), endpoints)
    for left in (f"TRUNCATE {SCHEMA}.bars, {SCHEMA}.features, {SCHEMA}.checkpoints", f"DROP SCHEMA {SCHEMA} CASCADE"):
        connection.execute(left)
        with pytest.raises(ConfigError, match="holds no job of an earlier run"):
            run(plan(**small, begin="only_failed"), endpoints)
        assert len(states(run(plan(**small, begin="resume"), endpoints))["completed"]) == 2
    assert len(states(run(plan(**small, begin="resume"), endpoints))["skipped"]) == 2


def test_jobs_of_an_older_version_are_done_anew(endpoints: Endpoints, connection: Database) -> None:
    """Its checkpoints did not say what they cover; they are kept, and the tables are those of a fresh run."""
    small: dict[str, Any] = {"timeframes": ["1d"], "history": {"days": 5}}
    run(plan(**small), endpoints)
    expected = checkpoints.whole(connection, SCHEMA)
    columns = ", ".join(f"DROP COLUMN {name}" for name in COVERAGE)
    connection.execute(f"ALTER TABLE {SCHEMA}.checkpoints {columns}; CREATE TABLE {SCHEMA}.history (first_day date)")
    assert len(states(run(plan(**small, begin="resume"), endpoints))["completed"]) == 2
    assert checkpoints.whole(connection, SCHEMA) == expected
    assert len(states(run(plan(**small, begin="resume"), endpoints))["skipped"]) == 2


# ---- runs that ask for something else than the one before ----


@pytest.mark.parametrize(
    ("derive", "changes"),
    [(False, ("end", "features", "fails", "split")), (True, ("timeframe", "split", "fails", "adjusted", "start"))],
    ids=["fetched", "derived"],
)
def test_a_sequence_of_runs_equals_one_fresh_run(
    endpoints: Endpoints, connection: Database, derive: bool, changes: tuple[str, ...]
) -> None:
    """Whatever changes between them: later ends, earlier starts, splits, features, adjustment, timeframes, runs that fail half-way."""
    history, vendor = {"start": dt.date(2026, 3, 10), "end": dt.date(2026, 3, 12)}, Vendor(page=90)
    given: dict[str, Any] = {"symbols": ["DOGE", "SOL"], "timeframes": ["1h"], "tickers": {"DOGE": "X:DOGEUSD"}, "derive": derive}
    said = []
    with serving(vendor) as server:
        ends = dataclasses.replace(endpoints, source_url=server.url, key=KEY)
        for change in ("begin", *changes):
            history["end"] += dt.timedelta(days=change in ("end", "split", "fails"))
            history["start"] -= dt.timedelta(days=change == "start")
            vendor.scale *= 0.25 if change == "split" else 1.0
            if change == "features":
                given["features"] = "off" if given.get("features") != "off" else "vectorized"
            if change == "adjusted":
                given["source"] = BASE["source"] | {"adjusted": not given.get("source", {}).get("adjusted", True)}
            if change == "timeframe":
                given["timeframes"] = ["1h", "5m", "4h"][: len(given["timeframes"]) + 1]
            last = to_ms(dt.datetime.combine(history["end"], dt.time(), dt.UTC)) - 40_000_000
            vendor.spoil = partial(forbidden, last) if change == "fails" else adjusted_as_asked
            found = run(plan(**given, history=history, begin="resume"), ends)
            said.append((change, {one.error for one in found.jobs}))
            assert any(one.error for one in found.jobs) == (change == "fails"), said
        vendor.spoil = adjusted_as_asked
        last_one = run(plan(**given, history=history, begin="resume"), ends)
        fresh = run(plan(**given, history=history, database_schema=f"{SCHEMA}_other"), ends)
    assert not states(last_one)["failed"] and not states(fresh)["failed"], said
    assert checkpoints.by_series(connection, SCHEMA) == checkpoints.by_series(connection, f"{SCHEMA}_other"), said


def adjusted_as_asked(asked: Asked, body: Body) -> Any:
    return body | {"adjusted": asked.adjusted}


def forbidden(last: int, asked: Asked, body: Body) -> Any:
    """Refuse the last pages of each series."""
    is_last = any(one["t"] > last for one in body.get("results", ()))
    return (403, b'{"status":"NOT_AUTHORIZED","message":"later"}') if is_last else adjusted_as_asked(asked, body)


def test_another_basis_is_found_and_told(endpoints: Endpoints, connection: Database) -> None:
    """After a split between two runs the series is fetched anew; the finding names series, ratio and date, and no reader sees both."""
    vendor, small = Vendor(), {"symbols": ["SOL"], "timeframes": ["1h"]}
    mixed, seen = "SELECT count(*) FILTER (WHERE o < 40), count(*) FILTER (WHERE o > 40) FROM {}.bars", set[tuple[bool, bool]]()
    with serving(vendor) as server:
        ends = dataclasses.replace(endpoints, source_url=server.url, key=KEY)
        run(plan(**small, history={"start": "2026-03-01", "end": "2026-03-10"}), ends)

        def look(asked: Asked, body: Body) -> Body:
            low, high = connection.execute(mixed.format(SCHEMA)).fetchone() or (0, 0)
            seen.add((bool(low), bool(high)))
            return body

        vendor.scale, vendor.spoil, vendor.page = 0.25, look, 50
        found = run(plan(**small, history={"start": "2026-03-01", "end": "2026-03-12"}, begin="resume"), ends)
    assert seen == {(False, True)} and connection.execute(mixed.format(SCHEMA)).fetchone() == (264, 0)
    (one,) = found.context.oddities
    assert (one.symbol, one.timeframe, one.kind, one.note) == ("SOL", "1h", "rebased", "prices x 0.25")
    assert one.first_ms == ms("2026-03-09T23:00:00") and states(found)["completed"] == ["SOL 1h"]
    assert (found.jobs[0].inserted, found.jobs[0].changed) == (48, 216)


def test_what_upstream_no_longer_has_stays_where_it_has_nothing(endpoints: Endpoints, connection: Database) -> None:
    """An answer without any bar, which is believed, does not delete what is stored: the job fails by name."""
    vendor, small = Vendor(), {"symbols": ["SOL"], "timeframes": ["1h"], "begin": "resume"}
    with serving(vendor) as server:
        ends = dataclasses.replace(endpoints, source_url=server.url, key=KEY)
        run(plan(**small, history={"start": "2026-03-01", "end": "2026-03-10"}), ends)
        before = checkpoints.whole(connection, SCHEMA)
        vendor.spoil = emptied
        found = run(plan(**small, history={"start": "2026-03-01", "end": "2026-03-12"}), ends)
    assert "upstream has no bars any more" in found.jobs[0].error and checkpoints.whole(connection, SCHEMA) == before


def test_a_replaced_series_keeps_nothing_of_what_it_was(endpoints: Endpoints, connection: Database) -> None:
    """Bars that upstream no longer has are gone, the newest one among them, and so are features that are not asked for."""
    vendor, small = Vendor(), {"symbols": ["SOL"], "timeframes": ["1h"], "history": {"start": "2026-03-01", "end": "2026-03-10"}}
    later = small | {"history": {"start": "2026-03-01", "end": "2026-03-12"}, "features": "off"}
    with serving(vendor) as server:
        ends = dataclasses.replace(endpoints, source_url=server.url, key=KEY)
        run(plan(**small), ends)
        gone = {ms("2026-03-05T10:00:00"), ms("2026-03-09T23:00:00")}
        vendor.spoil = lambda asked, body: with_results(body, [one for one in body["results"] if one["t"] not in gone])
        resumed = run(plan(**later, begin="resume"), ends)
        run(plan(**later, database_schema=f"{SCHEMA}_other"), ends)
    assert checkpoints.by_series(connection, SCHEMA) == checkpoints.by_series(connection, f"{SCHEMA}_other")
    assert checkpoints.read(endpoints.database_url, SCHEMA)["SOL", "1h"].rows == 264 - 2 and resumed.context.oddities == ()


def test_a_resumed_job_keeps_its_watermark_where_another_is_further_behind(endpoints: Endpoints, connection: Database) -> None:
    """Jobs that are built from one series begin again where the last of them is; one that was ahead stays ahead if that run fails, too."""
    vendor = Vendor(page=90)
    small = {"symbols": ["SOL"], "timeframes": ["1h", "5m"], "derive": True, "history": {"start": "2026-03-10", "end": "2026-03-14"}}
    watermarks = []
    with serving(vendor) as server:
        ends = dataclasses.replace(endpoints, source_url=server.url, key=KEY)
        for last, begin in (("2026-03-10T20:00:00", "fresh"), ("2026-03-10T10:00:00", "resume")):
            vendor.spoil = partial(forbidden, ms(last))
            assert len(states(run(plan(**small, begin=begin), ends))["failed"]) == 2
            watermarks.append(checkpoints.read(endpoints.database_url, SCHEMA)["SOL", "5m"].watermark)
    first, second = watermarks
    assert first is not None and first == second
