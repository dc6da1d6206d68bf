"""The whole backfill against the sandbox's real upstream and database: complete, named, resumed, derived."""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import psycopg
import pytest
from backfills import BASE, SCHEMA, plan, states
from test_backfill_recording import is_nested, tracks_of
from vendors import bars_of

from tapecheck import progress
from tapecheck.backfill import pipeline
from tapecheck.backfill.analysis import summarize
from tapecheck.backfill.plan import Endpoints
from tapecheck.backfill.plan import endpoints as endpoints_of
from tapecheck.backfill.recording import Recording
from tapecheck.backfill.session import run
from tapecheck.errors import TargetDown
from tapecheck.sandbox.profile import Home
from tapecheck.target import opening
from tapecheck.target.opening import SandboxState
from tapecheck.vendor import wire
from tapecheck.vendor.source import Page


def checksum(connection: psycopg.Connection[Any], schema: str = SCHEMA) -> list[Any]:
    """Return count and checksum of every row of bars and features, by symbol and timeframe."""
    rows = "SELECT symbol, timeframe, count(*), md5(string_agg(t::text, '|' ORDER BY time)) FROM {} t GROUP BY 1, 2 ORDER BY 1, 2"
    return [connection.execute(rows.format(f"{schema}.{table}")).fetchall() for table in ("bars", "features")]


@pytest.fixture(scope="module", autouse=True)
def small_pages() -> Iterator[None]:
    """Pages so small that each job has several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "PAGE_LIMIT", 10_000)
        yield


@dataclasses.dataclass(frozen=True)
class Fetched:
    """A whole run, its lines of progress, and what it stored."""

    recording: Recording
    told: list[list[Any]]
    tables: list[Any]


@pytest.fixture(scope="module")
def fetched(endpoints: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Fetched:
    """A run at some distance from upstream, so that as many requests are under way as may be."""
    file = tmp_path_factory.mktemp("fetched") / "progress"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(progress.FILE_VARIABLE, str(file))
        recording = run(plan(), dataclasses.replace(endpoints, source_url=f"{endpoints.source_url}/distant/50"))
    with psycopg.connect(endpoints.database_url) as connection:
        tables = checksum(connection)
        assert connection.execute("SELECT count(*) FROM tapecheck.bars WHERE symbol = 'TSLA'").fetchone() == (0,), "the live tables"
        connection.execute(f"DROP SCHEMA {SCHEMA} CASCADE")
    return Fetched(recording, [json.loads(line) for line in file.read_text().splitlines()], tables)


def test_every_job_is_stored_with_its_spans(endpoints: Endpoints, fetched: Fetched) -> None:
    """All jobs complete, what they say they inserted is in the tables, and every page has its spans."""
    jobs, steps = ([line for line in fetched.told if line[0] == label][-1] for label in ("backfill", "audit"))
    assert jobs[:4] == ["backfill", "jobs", 10, 10] and "rows/s" in jobs[4]
    assert steps[:2] == ["audit", "steps"] and steps[2] == steps[3] >= 3
    recording, (bars, features) = fetched.recording, fetched.tables
    assert [len(names) for names in states(recording).values()] == [10, 0, 0]
    assert [row[:3] for row in bars] == [row[:3] for row in features]
    stored = {(symbol, timeframe): count for symbol, timeframe, count, _ in bars}
    assert stored == {(job.symbol, job.timeframe): job.inserted for job in recording.jobs} and min(stored.values()) > 10
    rows = {stage: sum(span.rows for span in recording.spans if span.stage == stage) for stage in ("decode", "features", "insert")}
    assert set(rows.values()) == {sum(stored.values())}
    pages = {(s.symbol, s.timeframe, s.page) for s in recording.spans if s.stage == "fetch"}
    assert pages == {(s.symbol, s.timeframe, s.page) for s in recording.spans if s.stage == "insert"} and len(pages) > 12
    fetches = [s for s in recording.spans if s.stage == "fetch"]
    at_once = [sum(other.began_ns <= s.began_ns < other.ended_ns for other in fetches) for s in fetches]
    assert max(at_once) == recording.context.plan.concurrency.requests == 3
    assert all(map(is_nested, tracks_of(recording.spans)[1].values())), "the trace"
    context = recording.context
    assert context.plan.history.start and context.plan.history.days is None, "the same days when it is resumed tomorrow"
    assert all(context.began_ns <= span.began_ns <= span.ended_ns <= context.ended_ns for span in recording.spans)
    assert endpoints.key not in repr(endpoints) and "passfile" not in repr(endpoints)


def test_derived_series_are_the_fetched_ones(endpoints: Endpoints, connection: psycopg.Connection[Any], fetched: Fetched) -> None:
    """Bars and features built from 5-minute bars, page by page, equal those of five fetched series, for fewer requests."""
    derived = run(plan(derive=True), endpoints)
    assert states(derived) == states(fetched.recording) and checksum(connection) == fetched.tables
    requests = [sum(span.requests for span in recording.spans) for recording in (fetched.recording, derived)]
    assert requests[1] * 2 < requests[0]
    assert {span.timeframe for span in derived.spans if span.stage == "fetch"} == {"5m"}


def test_what_does_not_answer_is_told_at_once(endpoints: Endpoints) -> None:
    """A source, a network or a database that is not there ends the run before anything is fetched, without a secret in the message."""
    database = "postgresql://someone:hunter2@127.0.0.1:9/postgres"
    for changes, said in (
        ({"source_url": "http://127.0.0.1:9"}, "the source 127.0.0.1 does not answer"),
        (
            {"source_url": "https://no-such-host.invalid"},
            r"the source no-such-host\.invalid does not answer \([^<>]+ [^<>]+\); nothing",
        ),
        ({"database_url": database}, "the database does not answer"),
    ):
        begun_s = time.monotonic()
        with pytest.raises(TargetDown, match=said) as caught:
            run(plan(), dataclasses.replace(endpoints, **changes))
        assert time.monotonic() - begun_s < 30 and "hunter2" not in str(caught.value) and caught.value.exit_code == 2


LIMIT = {"requests_per_minute": 90, "burst": 2}
PLANTED = [
    ("fetch", {}, "/distant/300"),
    ("insert", {"insert": "row_by_row"}, ""),
    ("features", {"features": "per_row", "timeframes": ["5m"]}, ""),
    ("wait", {"source": BASE["source"] | LIMIT, "timeframes": ["4h"]}, ""),
]


@pytest.mark.parametrize(("stage", "changes", "way"), PLANTED, ids=[stage for stage, _, _ in PLANTED])
def test_a_planted_slow_stage_is_named(
    endpoints: Endpoints,
    connection: psycopg.Connection[Any],
    upstream: httpx.Client,
    fetched: Fetched,
    stage: str,
    changes: dict[str, Any],
    way: str,
) -> None:
    """Latency on the way to upstream, an insert a row, features a row and a rate limit are each found for what they are.

    With the same rate and burst on both sides no request is refused, and the run takes its floor; how little more, the bench says.
    """
    upstream.post("/limit", json=LIMIT if stage == "wait" else {}).raise_for_status()
    given = plan(**{"timeframes": ["1h", "4h"]} | changes)
    recording = run(given, dataclasses.replace(endpoints, source_url=endpoints.source_url + way))
    summary = summarize(recording)
    assert states(recording)["failed"] == [] and summary.bottleneck == stage
    assert checksum(connection) == [[row for row in table if row[1] in given.timeframes] for table in fetched.tables]
    if stage == "wait":
        assert summary.totals.requests == sum(span.stage == "decode" for span in recording.spans) > LIMIT["burst"]
        assert 0 < summary.rate_limit_floor_s <= summary.totals.duration_s < 3 * summary.rate_limit_floor_s + 5


def test_the_sandbox_names_its_upstream_key_and_database(sandbox: SandboxState) -> None:
    """The shipped target needs none of it in its file; the state holds where the key is, and never the key."""
    found = endpoints_of(opening.open_target("config/targets/sandbox.yaml"))
    assert (found.source_url, found.database_url) == (sandbox.upstream_url, sandbox.database_url)
    assert found.key == Home().secret()
    assert Home().secret() not in SandboxState.file().read_text()


def test_only_a_sandbox_puts_its_vendor_at_a_distance(sandbox: SandboxState) -> None:
    """Its URL says so; a vendor of an external target is where it is."""
    opened = opening.open_target("config/targets/sandbox.yaml")
    assert endpoints_of(opening.at_distance(opened, 50)).source_url == f"{sandbox.upstream_url}/distant/50"
    assert opening.at_distance(opened, 0) == opened
    external = opened.model_copy(update={"kind": "external"})
    assert opening.at_distance(external, 50) == external


@pytest.mark.parametrize("error", [None, wire.Unreachable("gone"), wire.Disordered("mixed up")], ids=["none", "lost", "disordered"])
def test_a_page_waits_for_the_next(error: Exception | None) -> None:
    """That one tells whether its bars are in order; the last page, and one whose successor never comes, are stored all the same."""
    fetched, stored = list[int](), list[int]()

    async def fetching() -> AsyncIterator[Page]:
        for number in range(4):
            fetched.append(number)
            bars = bars_of("SOL", "1h", number * 40 * 3_600_000, (number * 40 + 39) * 3_600_000)
            yield Page(number=number, bars=bars, last=error is None and number == 3, repeated=0, asked_at=dt.datetime.now(dt.UTC))
        if error:
            raise error

    async def storing() -> None:
        async for page in pipeline._ahead(fetching()):
            stored.append(page.number)
            assert len(fetched) >= min(page.number + 2, 4) and len(page.bars) == 40

    with pytest.raises(type(error)) if error else contextlib.nullcontext():
        asyncio.run(storing())
    assert stored == ([0, 1, 2] if isinstance(error, wire.Disordered) else [0, 1, 2, 3])
