"""Whole backfills while upstream, database, key or tables are wrong: nothing is lost, what fails has a name, the rest goes on."""

import contextlib
import dataclasses
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import httpx
import psycopg
import pytest
from backfills import BASE, SCHEMA, plan, states

from tapecheck import database
from tapecheck.backfill import checkpoints, jobs, schema
from tapecheck.backfill.checkpoints import Checkpoint, Checksum
from tapecheck.backfill.plan import Endpoints
from tapecheck.backfill.recording import Job, Recording
from tapecheck.backfill.session import run
from tapecheck.backfill.sink import STRATEGIES, Counts, Sink
from tapecheck.sandbox.profile import Home
from tapecheck.vendor import wire
from tapecheck.vendor.bars import ticker_of, to_datetime

Key = tuple[str, str]

# Each fault strikes one symbol of one backfill (none is in the fixture's profile, so that the scheduler meets none of them).
FAULTS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {  # the fault, what makes it pass, and what is said where it lasts
    "TSLA": ({"kind": "rate_limited"}, {"count": 2}, "HTTP 429: You've exceeded"),
    "AMZN": ({"kind": "rate_limited", "retry_after": "60"}, {"count": 1, "retry_after": "0.2"}, "HTTP 429: You've exceeded"),
    "NVDA": ({"kind": "rate_limited_empty"}, {"count": 2}, "HTTP 429: no reason given"),
    "AVGO": ({"kind": "server_error", "status": 503}, {"count": 2}, "HTTP 503"),
    "ASML": ({"kind": "results_missing"}, {"count": 1}, "results is missing"),
    "BRK.B": ({"kind": "results_null"}, {"count": 1}, "results is null"),
    "JPM": ({"kind": "truncated"}, {"count": 1}, "not the vendor's JSON"),
    "V": ({"kind": "duplicate_page"}, {"count": 1}, "same bars again and again"),
    "WMT": ({"kind": "wrong_symbol"}, {"count": 1}, "the page is of 'MSFT'"),
    "JNJ": ({"kind": "slow_drip"}, {"count": 1}, "no whole answer within"),
    "QQQ": ({"kind": "reset"}, {"count": 1}, "ReadError"),
    "DIA": ({"kind": "black_hole"}, {"count": 1}, "no whole answer within"),
    "IWM": ({"kind": "forbidden"}, {"kind": "fail_twice"}, "HTTP 403: You are not entitled"),
}
PASSING = {symbol: fault | passes for symbol, (fault, passes, _) in FAULTS.items()}
LASTING = {symbol: (fault, said) for symbol, (fault, _, said) in FAULTS.items()} | {"NOSUCH": ({}, "HTTP 404: Ticker not found")}
SOUND = ["SOL", "EEM"]  # no fault strikes them
SILENT = ["JNJ", "DIA"]  # nobody notices their faults but by waiting: they have backfills of their own, as nothing else may be slow there
SHORT_S, LONG_S = 2, 60  # how long one waits for an answer

FAULTLESS = f"{SCHEMA}_faultless"
FRAME, HISTORY = "5m", {"days": 6}


@dataclass(frozen=True, kw_only=True)
class Filled:
    """A backfill, what it left in the database, and which symbols have a bar there that they have not without faults."""

    recording: Recording
    sums: dict[Key, Checksum]
    failures: dict[Key, str | None]
    made_up: set[str]

    def job(self, symbol: str) -> Job:
        return next(job for job in self.recording.jobs if job.symbol == symbol)

    def requests(self, symbol: str) -> int:
        return sum(span.requests for span in self.recording.spans if span.symbol == symbol)

    def kept(self, symbols: Iterable[str]) -> dict[Key, Checksum | None]:
        return {(symbol, FRAME): self.sums.get((symbol, FRAME)) for symbol in symbols}


def filled(endpoints: Endpoints, schema: str = SCHEMA, *, sums: bool = True, **changes: Any) -> Filled:
    """Run a backfill of 5-minute bars; without `sums` what it left is not read."""
    recording = run(plan(**{"timeframes": [FRAME], "history": HISTORY, "database_schema": schema} | changes), endpoints)
    if not sums:
        return Filled(recording=recording, sums={}, failures={}, made_up=set())
    with psycopg.connect(endpoints.database_url) as connection:
        failures = {key: found.error for key, found in checkpoints.read_with(connection, schema).items() if found.state == "failed"}
        extra = f"SELECT * FROM {schema}.bars EXCEPT SELECT * FROM {FAULTLESS}.bars"
        made_up = {str(symbol) for (symbol,) in connection.execute(f"SELECT DISTINCT symbol FROM ({extra}) bars")}
        return Filled(recording=recording, sums=checkpoints.by_series(connection, schema), failures=failures, made_up=made_up)


def crowd(symbols: Iterable[str], timeout_s: float = LONG_S, budget_s: float = LONG_S, **changes: Any) -> dict[str, Any]:
    """Return the changes of a plan that does all symbols at once, and waits and retries for so long."""
    retry = {"first_s": 0.02, "cap_s": 0.1, "budget_s": budget_s}
    source = {"timeout_s": timeout_s, "retry": retry}
    return {"symbols": [*symbols], "concurrency": {"jobs": 20, "requests": 20}, "source": source} | changes


def both(endpoints: Endpoints, symbols: Iterable[str], budget_s: float) -> Filled:
    """Run the backfill of symbols, and then that of the silent ones among them, and return them as one."""
    prompt = filled(endpoints, **crowd([symbol for symbol in symbols if symbol not in SILENT], LONG_S, budget_s))
    silent = filled(endpoints, **crowd(SILENT, SHORT_S, budget_s, begin="resume"))
    recordings = [prompt.recording, silent.recording]
    spans, jobs = ([one for recording in recordings for one in getattr(recording, name)] for name in ("spans", "jobs"))
    return dataclasses.replace(silent, recording=Recording.of(spans, jobs, silent.recording.context))


@pytest.fixture(scope="module", autouse=True)
def small_pages() -> Iterator[None]:
    """Pages of a few hundred bars, so that the jobs here have several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "PAGE_LIMIT", 1500)
        yield


@pytest.fixture(scope="module")
def switch(endpoints: Endpoints) -> Iterator[Callable[[dict[str, dict[str, Any]]], None]]:
    """Switches the faults of symbols on, and all others off; none is on afterwards."""
    headers = {"Authorization": f"Bearer {endpoints.key}"}
    with httpx.Client(base_url=endpoints.source_url, headers=headers, trust_env=False) as client:

        def switched(faults: dict[str, dict[str, Any]]) -> None:
            client.delete("/faults").raise_for_status()
            for symbol, fault in faults.items():
                client.post("/faults", json=fault | {"ticker": ticker_of(symbol)}).raise_for_status()

        yield switched
        switched({})


@pytest.fixture(scope="module")
def faultless(endpoints: Endpoints) -> Iterator[Filled]:
    """The backfill of all these symbols without a fault."""
    try:
        yield filled(endpoints, FAULTLESS, **crowd([*PASSING, *SOUND]))
    finally:
        with psycopg.connect(endpoints.database_url) as connection:
            for schema in (SCHEMA, FAULTLESS):
                connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")


# ---- upstream ----


@pytest.fixture(scope="module")
def passed(endpoints: Endpoints, switch: Callable[..., None], faultless: Filled) -> Filled:
    """The same backfill, with a passing fault for each symbol but the sound ones."""
    switch(PASSING)
    return both(endpoints, [*PASSING, *SOUND], LONG_S)


@pytest.mark.parametrize("symbol", PASSING, ids=[f"{symbol}: {fault}" for symbol, fault in PASSING.items()])
def test_a_fault_that_passes_costs_no_bar(passed: Filled, faultless: Filled, symbol: str) -> None:
    """The fault struck; we asked again, and what is stored is what would be stored without it."""
    assert passed.requests(symbol) > faultless.requests(symbol) > 1
    assert (passed.job(symbol).state, passed.job(symbol).error) == ("completed", "")
    assert passed.kept([symbol]) == faultless.kept([symbol]) and passed.sums[symbol, FRAME].rows > 500


def test_other_jobs_do_not_notice(passed: Filled, faultless: Filled) -> None:
    """Jobs beside thirteen faults complete with not one request more."""
    assert [passed.requests(symbol) for symbol in SOUND] == [faultless.requests(symbol) for symbol in SOUND]
    assert passed.kept(SOUND) == faultless.kept(SOUND) and passed.sums == faultless.sums


@pytest.fixture(scope="module")
def failed(endpoints: Endpoints, switch: Callable[..., None], faultless: Filled) -> Filled:
    """The same backfill, with a fault for each symbol that does not pass."""
    switch({symbol: fault for symbol, (fault, _) in LASTING.items() if fault})
    return both(endpoints, [*LASTING, *SOUND], 0.5)


@pytest.mark.parametrize("symbol", LASTING, ids=[f"{symbol}: {fault}" for symbol, (fault, _) in LASTING.items()])
def test_a_fault_that_lasts_fails_its_job_by_name(failed: Filled, symbol: str) -> None:
    """Recording and checkpoint say why, and not one bar that is not the symbol's was stored on the way."""
    job = failed.job(symbol)
    assert job.state == "failed" and LASTING[symbol][1] in job.error and job.error.startswith(ticker_of(symbol))
    assert failed.failures[symbol, FRAME] == job.error
    assert symbol not in failed.made_up


def test_the_others_go_on(failed: Filled, faultless: Filled) -> None:
    """Fourteen failed jobs beside them leave the others whole."""
    assert states(failed.recording)["completed"] == [f"{symbol} {FRAME}" for symbol in SOUND]
    assert failed.kept(SOUND) == faultless.kept(SOUND)
    assert {symbol for symbol, _ in failed.failures} == set(LASTING)


def test_only_failed_redoes_exactly_what_failed(
    endpoints: Endpoints, switch: Callable[..., None], failed: Filled, faultless: Filled
) -> None:
    """With the causes gone, the failed jobs are done to the last bar; neither what is done nor what was interrupted is touched."""
    switch({})
    interrupted, done = SOUND
    with psycopg.connect(endpoints.database_url) as connection:
        connection.execute(f"UPDATE {SCHEMA}.checkpoints SET state = 'filling' WHERE symbol = %s", (interrupted,))
    again = filled(endpoints, **crowd([*LASTING, *SOUND], begin="only_failed"))
    redone = [symbol for symbol in LASTING if symbol != "NOSUCH"]
    assert states(again.recording) == {
        "completed": [f"{symbol} {FRAME}" for symbol in redone],
        "failed": [f"NOSUCH {FRAME}"],
        "skipped": [f"{interrupted} {FRAME}", f"{done} {FRAME}"],
    }
    assert {span.symbol for span in again.recording.spans} == set(LASTING)
    assert again.sums == {key: one for key, one in faultless.sums.items() if key[0] in (*redone, *SOUND)}


@pytest.mark.parametrize(
    ("key", "said", "requests"),
    [("", "no API key: ", 0), ("hunter2", "HTTP 401: Unknown API Key", 1), ("hunter2\n", "a line break in the key", 1)],
    ids=["none", "wrong", "with a line break"],
)
def test_without_a_good_key_every_job_fails_at_once(endpoints: Endpoints, faultless: Filled, key: str, said: str, requests: int) -> None:
    """Each is named with what upstream says after one request, or, where no key is there, with what to do; no message holds the key."""
    before = {} if key else filled(endpoints, symbols=SOUND).sums
    found = filled(dataclasses.replace(endpoints, key=key), symbols=SOUND, source=BASE["source"] | {"retry": {"budget_s": 60}})
    assert states(found.recording)["failed"] == [f"{symbol} {FRAME}" for symbol in SOUND]
    assert all(said in job.error and "hunter2" not in job.error for job in found.recording.jobs)
    assert [found.requests(symbol) for symbol in SOUND] == [requests, requests]
    assert found.sums == before, "what is stored stays only where nothing could come to replace it"


# ---- our own rate ----


def test_no_window_holds_more_requests_than_the_limit(
    endpoints: Endpoints, connection: psycopg.Connection[Any], upstream: httpx.Client
) -> None:
    """An answer that never comes holds the only slot; the jobs behind it do not leave all at once then, and upstream refuses none."""
    limit = {"requests_per_minute": 3000, "burst": 8}
    upstream.post("/limit", json=limit).raise_for_status()
    upstream.post("/faults", json={"kind": "black_hole", "count": 1, "ticker": "TSLA"}).raise_for_status()
    many = {"symbols": ["TSLA", "NVDA", "AMZN", "META"], "timeframes": ["15m", "1h", "4h", "1d"], "history": {"days": 5}}
    recording = run(
        plan(**many, source=BASE["source"] | limit | {"timeout_s": SHORT_S}, concurrency={"jobs": 16, "requests": 1}, features="off"),
        endpoints,
    )
    fetches = [span for span in recording.spans if span.stage == "fetch"]
    answered, pages = sum(span.bytes > 0 for span in fetches), sum(span.stage == "decode" for span in recording.spans)
    assert not states(recording)["failed"], recording.jobs
    assert len(fetches) > answered == pages
    sent_s = sorted(span.began_ns / 1e9 for span in fetches)
    for i, first_s in enumerate(sent_s):
        assert all(n <= limit["burst"] + (last_s - first_s) * 50 + 0.01 for n, last_s in enumerate(sent_s[i:], 1))


def test_waiting_for_tokens_takes_no_time_from_retries(
    endpoints: Endpoints, connection: psycopg.Connection[Any], upstream: httpx.Client
) -> None:
    """A page that waited for its turn longer than it may be tried is tried again all the same, whichever job's turn comes last."""
    symbols = ["TSLA", "NVDA", "AMZN"]
    source = {"requests_per_minute": 60, "burst": 1, "timeout_s": LONG_S, "retry": {"first_s": 0.01, "cap_s": 0.02, "budget_s": 0.9}}
    for symbol in symbols:
        upstream.post("/faults", json={"kind": "server_error", "count": 1, "ticker": symbol}).raise_for_status()
    recording = run(plan(symbols=symbols, timeframes=["1d"], source=source), endpoints)
    first_waits_s = {span.symbol: span.duration_s for span in reversed(recording.spans) if span.stage == "wait"}
    assert max(first_waits_s.values()) > 0.9 and not states(recording)["failed"]
    assert sum(span.requests for span in recording.spans) == 2 * len(symbols)


def test_what_nobody_thought_of_fails_its_job_alone(
    endpoints: Endpoints, connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of a kind that no code of ours names fails the job in which it came up, by its type, and the others go on."""

    async def broken(source: Any, sink: Any, symbol: str, *more: Any, **options: Any) -> Any:
        if symbol == "TSLA":
            raise RuntimeError("out of luck")
        return await real(source, sink, symbol, *more, **options)

    real = jobs.refresh
    monkeypatch.setattr(jobs, "refresh", broken)
    recording = run(plan(timeframes=["1d"]), endpoints)
    assert states(recording) == {"completed": ["SOL 1d"], "failed": ["TSLA 1d"], "skipped": []}
    assert [job.error for job in recording.jobs if job.error] == ["RuntimeError: out of luck"]


# ---- the database ----


def whenever_stored(monkeypatch: pytest.MonkeyPatch, act: Callable[[int, Checkpoint], None]) -> list[Counts]:
    """Call `act` with the number of each page, from 1, and its checkpoint when it was acknowledged; return what was."""
    write, acknowledged, number = Sink.write, list[Counts](), count(1)

    def written(self: Sink, bars: Any, features: Any, checkpoint: Checkpoint, **options: Any) -> Counts:
        counts = write(self, bars, features, checkpoint, **options)
        acknowledged.append(counts)
        act(next(number), checkpoint)
        return counts

    monkeypatch.setattr(Sink, "write", written)
    return acknowledged


def test_losing_the_database_often_is_survived(endpoints: Endpoints, faultless: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections are cut after each of several pages, in all longer than one loss may last; no page is stored twice or never."""
    cut: list[int] = []

    def cut_off(page: int, _: Checkpoint) -> None:
        if page <= 3:
            cut.append(len(watching.execute(CUT, (began,)).fetchall()))

    acknowledged = whenever_stored(monkeypatch, cut_off)
    with psycopg.connect(endpoints.database_url, autocommit=True) as watching:
        began = watching.execute("SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()").fetchone()[0]
        found = filled(endpoints, symbols=["SOL"], source=BASE["source"] | {"retry": {"first_s": 0.02, "budget_s": 0.4}})
    assert len(cut) == 3 and min(cut) >= 1
    assert not states(found.recording)["failed"] and found.kept(["SOL"]) == faultless.kept(["SOL"])
    assert sum(counts.inserted for counts in acknowledged) == found.job("SOL").inserted


CUT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_start > %s AND backend_type = 'client backend'"


def test_a_restarted_database_loses_nothing_acknowledged(endpoints: Endpoints, faultless: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is stopped without a shutdown amid the pages, and again after the last one; supervision starts it anew."""
    restarted: list[int] = []

    def restart() -> None:
        pid = int((Home().data / "postmaster.pid").read_text().split()[0])
        restarted.append(pid)
        os.kill(pid, signal.SIGQUIT)

    def maybe_restart(page: int, checkpoint: Checkpoint) -> None:
        done.update([checkpoint.symbol] if checkpoint.state == "done" else [])
        if page == 4 or (len(restarted) == 1 and done == {*SOUND}):
            restart()

    done: set[str] = set()
    acknowledged = whenever_stored(monkeypatch, maybe_restart)
    found = filled(endpoints, symbols=SOUND, source=BASE["source"] | {"retry": {"first_s": 0.02, "budget_s": 30}})
    assert len(set(restarted)) == 2
    assert len(states(found.recording)["completed"]) == 2 and found.kept(SOUND) == faultless.kept(SOUND)
    total = sum(job.inserted for job in found.recording.jobs)
    assert 0 < sum(counts.inserted for counts in acknowledged) <= total == sum(one.rows for one in found.kept(SOUND).values() if one) // 2


def test_rows_that_the_database_refuses_fail_their_job_alone(
    endpoints: Endpoints, connection: psycopg.Connection[Any], faultless: Filled
) -> None:
    """The job is named with the database's reason and noted as failed, though it stored nothing; only_failed does it afterwards.

    What was refused is not tried again, and its rows are in no count.
    """
    connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
    schema.prepare(endpoints.database_url, SCHEMA)
    connection.execute(f"ALTER TABLE {SCHEMA}.bars ADD CONSTRAINT no_tesla CHECK (symbol <> 'TSLA')")
    found = filled(endpoints, symbols=["TSLA", *SOUND], source=BASE["source"] | {"retry": {"budget_s": 30}}, begin="resume")
    assert states(found.recording)["failed"] == ["TSLA 5m"]
    assert found.job("TSLA").error.startswith("the database refuses: ") and "no_tesla" in found.job("TSLA").error
    assert found.requests("TSLA") <= 3  # the page, and those that were fetched ahead
    inserts = [span for span in found.recording.spans if span.stage == "insert"]
    assert [span.rows for span in inserts if span.symbol == "TSLA"] == [0]
    assert sum(span.rows for span in inserts) == sum(job.inserted for job in found.recording.jobs)
    assert found.failures == {("TSLA", FRAME): found.job("TSLA").error} and found.sums == faultless.kept(SOUND)
    connection.execute(f"ALTER TABLE {SCHEMA}.bars DROP CONSTRAINT no_tesla")
    again = filled(endpoints, symbols=["TSLA", *SOUND], begin="only_failed")
    assert states(again.recording)["completed"] == ["TSLA 5m"] and again.sums == faultless.kept(["TSLA", *SOUND])


# ---- a database that does not answer ----


QUICK: dict[str, Any] = {"symbols": ["SOL"], "source": BASE["source"] | {"retry": {"first_s": 0.02, "cap_s": 0.1, "budget_s": 1.2}}}
OURS = f"SELECT pid FROM pg_stat_activity WHERE query LIKE '%%{SCHEMA}.%%' AND pid <> pg_backend_pid() AND backend_start > %s"


@contextlib.contextmanager
def stopped_backends(monkeypatch: pytest.MonkeyPatch, *numbers: int) -> Iterator[list[int]]:
    """Stop the server processes of some of the connections that write, by their number, before a page; yield their ids."""
    write, stopped, seen = Sink.write, list[int](), list[Sink]()

    def written(self: Sink, *words: Any, **options: Any) -> Counts:
        if self not in seen:
            seen.append(self)
            self._execute("SELECT pg_backend_pid()")
            pid = int(self._cursor.fetchone()[0])
            if len(seen) in numbers:
                os.kill(pid, signal.SIGSTOP)
                stopped.append(pid)
        return write(self, *words, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Sink, "write", written)
        try:
            yield stopped
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)


def is_soon_none(connection: psycopg.Connection[Any], began: Any) -> bool:
    """Tell whether soon none of our connections is left."""
    until_s = time.monotonic() + 60
    while (left := connection.execute(OURS, (began,)).fetchall()) and time.monotonic() < until_s:
        time.sleep(0.05)
    return not left


@pytest.fixture
def began(connection: psycopg.Connection[Any]) -> Any:
    return connection.execute("SELECT clock_timestamp()").fetchone()[0]


@pytest.mark.parametrize("numbers", [(1,), range(1, 99)], ids=["one", "all"])
def test_a_server_process_that_hangs_is_left(
    endpoints: Endpoints, connection: Any, faultless: Filled, began: Any, monkeypatch: pytest.MonkeyPatch, numbers: Any
) -> None:
    """One costs a new connection and no bar; when all do, the job ends within its budget and says so, and no connection stays."""
    monkeypatch.setattr(jobs, "LEAST_HANG_S", 0.5)
    begun_s = time.monotonic()
    with stopped_backends(monkeypatch, *numbers) as stopped:
        found = filled(endpoints, **QUICK)
    assert time.monotonic() - begun_s < 30 and len(stopped) >= 1
    if len(stopped) == 1:
        assert found.kept(["SOL"]) == faultless.kept(["SOL"]) and not states(found.recording)["failed"]
    else:
        assert re.fullmatch(r"the database gave no answer for [01] s: it hangs", found.job("SOL").error)
    assert is_soon_none(connection, began)


@pytest.mark.interrupts_itself
def test_an_interrupt_does_not_wait_for_a_database_that_hangs(
    endpoints: Endpoints, connection: Any, faultless: Filled, began: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C ends the run although an answer is out; what is stored can be resumed."""
    monkeypatch.setattr(jobs, "INTERRUPT_S", 0.3)
    patient = QUICK | {"source": BASE["source"] | {"retry": {"budget_s": 600}}}  # it would wait for five minutes
    with stopped_backends(monkeypatch, 1) as stopped:

        def interrupt() -> None:
            while not stopped:
                time.sleep(0.02)
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            filled(endpoints, **patient)
        thread.join()
    assert is_soon_none(connection, began)
    assert filled(endpoints, **QUICK, begin="resume").kept(["SOL"]) == faultless.kept(["SOL"])


LATER = ["EEM", "V"]
FULL = """CREATE FUNCTION {0}.full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
RAISE EXCEPTION 'could not extend file "base/5/16397": No space left on device' USING ERRCODE = '53100'; END $$;
CREATE TRIGGER full_disk BEFORE INSERT ON {0}.{1} FOR EACH STATEMENT EXECUTE FUNCTION {0}.full()"""


@pytest.mark.parametrize("table", ["bars", "checkpoints"])
def test_a_full_disk_ends_the_job_with_that_reason(
    endpoints: Endpoints, connection: Any, faultless: Filled, began: Any, table: str
) -> None:
    """Within its budget, with nothing half stored and no connection left; the jobs after it are not kept waiting, and can be resumed."""
    schema.prepare(endpoints.database_url, SCHEMA)
    connection.execute(FULL.format(SCHEMA, table))
    found = filled(endpoints, **QUICK | {"symbols": ["SOL", *LATER]}, concurrency={"jobs": 1}, begin="resume")
    assert {job.error[:56] for job in found.recording.jobs} == {"the disk of the database is full: could not extend file "}
    tried = Counter(span.symbol for span in found.recording.spans if span.stage == "insert")
    assert tried["SOL"] > 1 and [tried[symbol] for symbol in LATER] == [1] * len(LATER) and found.sums == {}
    assert is_soon_none(connection, began)
    connection.execute(f"DROP TRIGGER full_disk ON {SCHEMA}.{table}")
    assert filled(endpoints, **QUICK, begin="resume").kept(["SOL"]) == faultless.kept(["SOL"])


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_a_connection_that_cannot_be_readied_is_closed(endpoints: Endpoints, connection: Any, began: Any, strategy: Any) -> None:
    """A disk without room for its temporary tables, or a schema that is gone, would leave one open at each attempt."""
    for _ in range(5):
        with pytest.raises(database.Error), strategy(endpoints.database_url, f"{SCHEMA}.nowhere") as sink:
            sink.tail("SOL", FRAME, to_datetime(0), 1)
    assert is_soon_none(connection, began)


def test_a_lock_that_somebody_holds_is_waited_for_within_the_budget(
    endpoints: Endpoints, connection: Any, faultless: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that ends in time costs no bar; one that does not fails the job, which says whose matter it is."""
    monkeypatch.setitem(database.SETTINGS, "lock_timeout", "300ms")
    with psycopg.connect(endpoints.database_url) as holder:

        def lock(page: int, _: Checkpoint) -> None:
            if page in (1, 4):
                holder.execute(f"LOCK TABLE {SCHEMA}.features IN ACCESS EXCLUSIVE MODE")
            if page == 4:
                threading.Timer(1, holder.rollback).start()

        whenever_stored(monkeypatch, lock)
        found = filled(endpoints, **QUICK, sums=False)
        assert found.job("SOL").error.startswith("another session holds a lock on the tables: end its transaction")
        holder.rollback()
        again = filled(endpoints, **QUICK | {"source": BASE["source"] | {"retry": {"budget_s": 60}}}, begin="resume")
    assert again.kept(["SOL"]) == faultless.kept(["SOL"])
