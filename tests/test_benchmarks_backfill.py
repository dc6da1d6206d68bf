"""The benchmarks of the backfill compare like with like, and leave nothing behind."""

import itertools
from pathlib import Path
from typing import Any

import psycopg
import pytest
from backfills import plan
from benchmarks import machine, refill

from tapecheck.backfill.plan import Endpoints


def test_raw_copy_and_refill_store_the_same_rows(endpoints: Endpoints, connection: psycopg.Connection[Any], tmp_path: Path) -> None:
    """Over one connection or several, from the sandbox's upstream or from recorded answers, whose links lead to their server."""
    small = plan(features="off", history={"days": 40})
    recorded = refill.record(small, endpoints.source_url, tmp_path)
    try:
        copies = [refill.raw_copy(tmp_path, connections, is_checked=True) for connections in (1, 3)]
    finally:
        connection.execute(f"DROP SCHEMA IF EXISTS {refill.RAW} CASCADE")
    with machine.serving(machine.module("vendor", tmp_path), machine.ALL) as (ready_url, _):
        refills = [refill.refill(small, url) for url in (endpoints.source_url, ready_url)]
    assert {one["checksum"] for one in (*copies, *refills)} == {refills[0]["checksum"]}
    assert {one["rows"] for one in (recorded, *copies, *refills)} == {copies[0]["stored"]} and copies[0]["stored"] > 10_000
    assert all(one["pages"] == recorded["pages"] > one["jobs"] == one["completed"] == 10 for one in refills)
    assert {one["synchronous_commit"] for one in copies} == {"on"}


def test_pages_keep_their_size_and_their_job(endpoints: Endpoints, tmp_path: Path) -> None:
    """A job's pages are one list, in the order in which they came, so that one connection copies them one after another."""
    five = plan(symbols=["TSLA", "SOL"], timeframes=["5m"], features="off", history={"days": 80})
    refill.record(five, endpoints.source_url, tmp_path)
    jobs = refill.read_tables(tmp_path)
    assert [{(batch["symbol"][0].as_py(), batch["timeframe"][0].as_py()) for batch in job} for job in jobs] == [
        {("SOL", "5m")},
        {("TSLA", "5m")},
    ]
    for job in jobs:
        assert len(job) > 1 and max(batch.num_rows for batch in job) <= refill.PAGE_BARS
        assert all(a["time"][-1].as_py() < b["time"][0].as_py() for a, b in itertools.pairwise(job))


def test_features_are_computed_of_every_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of those that a page looks back on is counted twice."""
    monkeypatch.setattr(refill, "PAGE_BARS", 1000)
    assert refill.compute(25 * 1_100)["rows"] == 25 * 1_100
