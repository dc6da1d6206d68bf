"""Two systems that nobody here wrote for this workbook, each measured by one YAML file: load, history, backfill, ages, a drill, a fix."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest
import yaml
from aged import plan_of
from backfills import analysed
from servers import free_port

from tapecheck import config
from tapecheck.backfill.observe.plan import ObservePlan
from tapecheck.backfill.observe.validation import observe
from tapecheck.backfill.plan import BackfillPlan
from tapecheck.backfill.validation import backfill
from tapecheck.compare.plan import ComparePlan
from tapecheck.compare.validation import compare
from tapecheck.errors import TargetError
from tapecheck.load.plan import LoadPlan
from tapecheck.load.validation import load
from tapecheck.recovery import ages, experiment, freshness
from tapecheck.recovery.contradictions import read_plan
from tapecheck.recovery.validation import recovery
from tapecheck.target.file import Target
from tapecheck.target.opening import SandboxState

FOREIGN = Path(__file__).parent / "foreign"
FIRST, LAST = "2026-10-01", "2026-11-01"


@dataclass(frozen=True)
class System:
    """One of the two: its tables, how it lies about AAPL, a gap and a split to plant, and a fix of its backfill."""

    name: str
    tables: str
    empty: str
    lie: dict[str, str]
    gap: str
    split: str
    slow: tuple[str, ...]
    fast: tuple[str, ...]

    @property
    def ping(self) -> str:
        """The path of its plainest request."""
        return str(yaml.safe_load((FOREIGN / f"{self.name}.yaml").read_text())["requests"]["ping"]).removeprefix("GET ")


CAMEL = System(
    name="camel",
    tables="CREATE TABLE market_data (symbol text, timeframe text, time_ms bigint, o float8, h float8, l float8, c float8, v float8, "
    "mean float8, spread float8, PRIMARY KEY (symbol, timeframe, time_ms))",
    empty="TRUNCATE market_data",
    lie={"LIE_MS": str(24 * 3600 * 1000)},
    gap="DELETE FROM market_data WHERE symbol = 'AAPL' AND to_timestamp(time_ms / 1000) BETWEEN '2026-10-12' AND '2026-10-17'",
    split="UPDATE market_data SET o = o * 2, h = h * 2, l = l * 2, c = c * 2 "
    "WHERE symbol = 'MSFT' AND to_timestamp(time_ms / 1000) < '2026-10-15'",
    slow=("AAPL", FIRST, "2026-10-09"),
    fast=("--fixed",),
)
CENTS = System(
    name="cents",
    tables="CREATE SCHEMA ref; CREATE SCHEMA px; CREATE TABLE ref.instruments (id serial PRIMARY KEY, code text UNIQUE); CREATE TABLE "
    "px.candles (instrument int, span char(1), opened timestamp, open_c int, high_c int, low_c int, close_c int, shares bigint)",
    empty="TRUNCATE px.candles",
    lie={"LIE_DAYS": "1"},
    gap="DELETE FROM px.candles USING ref.instruments i WHERE i.id = instrument AND code = 'AAPL' "
    "AND opened BETWEEN '2026-10-12' AND '2026-10-17'",
    split="UPDATE px.candles SET open_c = open_c * 2, high_c = high_c * 2, low_c = low_c * 2, close_c = close_c * 2 "
    "FROM ref.instruments i WHERE i.id = instrument AND code = 'MSFT' AND opened < '2026-10-15'",
    slow=("AAPL", FIRST, LAST, "--one-by-one"),
    fast=(),
)


@dataclass(frozen=True)
class Running:
    """A system that runs, with empty tables, and its target file."""

    system: System
    target: Target
    database: psycopg.Connection[Any]
    url: str


@contextlib.contextmanager
def kept(name: str, port: int, **environment: str) -> Iterator[str]:
    """Keep the API of a system running, whatever kills it; its URL."""
    command = [sys.executable, "keeper.py", f"{name}_api.py", str(port)]  # no child of ours, which no drill would touch
    started = subprocess.run(command, cwd=FOREIGN, env=os.environ | environment, stdout=subprocess.PIPE, check=True)
    keeper = psutil.Process(int(started.stdout))
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        keeper.terminate()
        keeper.wait(60)


def until_it_answers(url: str) -> None:
    until_s = time.monotonic() + 120
    while time.monotonic() < until_s:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, timeout=60, trust_env=False).status_code == 200:
                return
        time.sleep(0.05)
    raise AssertionError(f"{url} does not answer")


@pytest.fixture(scope="module", params=[CAMEL, CENTS], ids=lambda one: one.name)
def running(request: pytest.FixtureRequest, sandbox: SandboxState, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One of the systems, with the sandbox's vendor and database server; its YAML is the one that a user would write."""
    system, port = request.param, free_port()
    key, url = Path(sandbox.upstream_key_file).read_text().strip(), str(sandbox.database_url)
    written = yaml.safe_load((FOREIGN / f"{system.name}.yaml").read_text())
    written["base_url"], written["processes"] = f"http://127.0.0.1:{port}", {"api": {"port": port}}
    written["backfill"] |= {"source_url": sandbox.upstream_url, "api_key": {"file": sandbox.upstream_key_file}}
    start = written["backfill"]["observe"]["start"]
    start |= {"folder": str(FOREIGN), "command": [sys.executable, *start["command"][1:]]}
    file = tmp_path_factory.mktemp(system.name) / "target.yaml"
    file.write_text(yaml.safe_dump(written))
    with pytest.MonkeyPatch.context() as patch, psycopg.connect(url, autocommit=True) as database:
        for name, value in {"DATABASE_URL": url, "POLYGON_API_KEY": key, "FEED_KEY": key}.items():
            patch.setenv(name, value)
        database.execute(system.tables)
        try:
            with kept(system.name, port) as api:
                until_it_answers(api + system.ping)
                yield Running(system, config.read(Target, file), database, api)
        finally:
            database.execute("DROP TABLE IF EXISTS market_data; DROP SCHEMA IF EXISTS ref, px CASCADE")


def rows(running: Running) -> int:
    (table,) = running.target.backfill.observe.tables  # type: ignore[union-attr]
    found = running.database.execute(f"SELECT count(*) FROM {table}").fetchone()
    assert found
    return int(found[0])


@pytest.fixture
def filled(running: Running) -> Running:
    """The system after its own backfill of October."""
    if not rows(running):
        observe.run(ObservePlan(), running.target)
    return running


def test_its_yaml_is_short(running: Running) -> None:
    """At most sixty lines say all of it."""
    assert len((FOREIGN / f"{running.system.name}.yaml").read_text().splitlines()) <= 60


def test_its_own_backfill_is_seen_as_it_sees_itself(running: Running) -> None:
    """Rows and requests are counted, wall and each kind of work lie where its own timers have them, and none of its answers is changed."""
    running.database.execute(running.system.empty)
    plan = ObservePlan(objectives=("records >= 1", "failed_requests <= 0"))
    found = observe.analyse(observe.run(plan, running.target), plan)
    summary, own = found.summary, json.loads(found.recording.context.said)
    assert [str(one.verdict) for one in found.checks] == ["pass", "pass"]
    assert summary.records == rows(running) > 300
    assert {name.split()[0] for name, one in summary.series.items() if one.pages} == {"AAPL", "MSFT"} and summary.missed_pages == 0
    assert summary.duration_s >= own["wall"]
    assert summary.kinds["api"].busy_s <= 1.2 * own["api"] + 0.2


def test_planted_gap_and_split_are_found_in_its_tables(filled: Running) -> None:
    """Nothing else is: before they are planted every series is whole, after it the gap and the jump have their dates."""
    asked = {
        "symbols": ["AAPL", "MSFT"], "timeframes": ["1d", "1h"], "history": {"start": FIRST, "end": LAST}, "begin": "audit",
        "sessions": "extended", "objectives": ["wrong_bars <= 0", "coverage >= 0.95", "longest_gap_days <= 2"],
    }  # fmt: skip
    plan = BackfillPlan.model_validate(asked)
    before = analysed(backfill.run(plan, filled.target))
    assert {str(one.verdict) for one in before.checks} == {"pass"} and "suspected_split" not in {one.name for one in before.findings}
    filled.database.execute(filled.system.gap)
    filled.database.execute(filled.system.split)
    after = analysed(backfill.run(plan, filled.target))
    missed = {one.objective for one in after.checks if str(one.verdict) == "fail"}
    assert missed == {"coverage >= 0.95", "longest_gap_days <= 2"}
    (split,) = (one for one in after.findings if one.name == "suspected_split")
    assert "MSFT" in split.finding and "2026-10-15" in split.finding
    assert any("AAPL" in one.finding and "2026-10-12" in one.finding for one in after.findings)
    filled.database.execute(filled.system.empty)


def test_ages_are_read_in_its_words_and_a_lie_is_found(filled: Running) -> None:
    """By API and by table they agree; an API that says of AAPL a day more than its table has is named, and only that."""
    plan = plan_of("AAPL", "MSFT")

    def judged(target: Target) -> dict[str, str]:
        return {str(one): one.false_age for one in ages.judged(freshness.audit(plan, target, os.environ["DATABASE_URL"]), plan)}

    honest = judged(filled.target)
    assert {"AAPL 1d", "AAPL 1h", "MSFT 1d"} <= honest.keys() and not any(honest.values())
    with kept(filled.system.name, free_port(), **filled.system.lie) as url:
        until_it_answers(url + filled.system.ping)
        lied = judged(filled.target.model_copy(update={"base_url": url}))
    assert {name.split()[0] for name, said in lied.items() if said} == {"AAPL"}


def test_load_is_sent_to_it_and_counted(filled: Running) -> None:
    """Every request is answered and none is lost; what a symbol without data is answered is quoted."""
    scenario = {
        "executor": "burst", "concurrency": 10, "rounds": 3, "request": "candles", "timeout_s": 60,
        "parameters": {"symbol": ["AAPL", "MSFT"], "timeframe": ["D" if filled.system is CENTS else "1d"], "limit": [50]},
    }  # fmt: skip
    plan = LoadPlan.model_validate({"scenarios": {"burst": scenario}, "objectives": ["success_ratio > 0.8", "mean_ms < 60000"]})
    found = load.analyse(load.run(plan, filled.target), plan)
    assert [(str(one.verdict), one.n) for one in found.checks] == [("pass", 30)] * 2
    absent = {**scenario, "parameters": {**scenario["parameters"], "symbol": ["ZZZZ"]}}  # type: ignore[dict-item]
    with pytest.raises(TargetError, match=r"(no candles|nothing) of ZZZZ"):
        load.run(LoadPlan.model_validate({"scenarios": {"burst": absent}, "objectives": ["success_ratio > 0.8"]}), filled.target)


def test_what_keeps_it_running_is_timed(running: Running, tmp_path: Path) -> None:
    """The API is killed and comes back by its own keeper, for which nothing of our tables is needed."""
    drill = (FOREIGN / "api_killed.yaml").read_text().replace("${base_url}/up", "${base_url}" + running.system.ping)
    (tmp_path / "drill.yaml").write_text(drill)
    plan = read_plan("config/rto_rpo.yaml", profile="once")
    schedule = plan.prober.model_copy(update={"slow_s": 30, "timeout_s": 60})
    plan = plan.model_copy(update={"prober": schedule})
    found = recovery.analyse(recovery.measure(plan, running.target, drills=[experiment.read(tmp_path / "drill.yaml")]), plan)
    (timed,) = found.summary.timed
    assert timed.valid and timed.valid.recover_s and timed.valid.recover_s > 0.1


def test_a_fix_of_its_backfill_is_proven(running: Running) -> None:
    """Larger pages: fewer requests, which no noise can hide, and the same rows."""
    url = os.environ["DATABASE_URL"]
    empty = f"import psycopg; psycopg.connect({url!r}, autocommit=True).execute({running.system.empty!r})"
    script = [sys.executable, f"{running.system.name}_backfill.py", *running.system.slow]
    fixed = [word for word in (*script, *running.system.fast) if word != "--one-by-one"]
    proof = {
        "validation": "observe", "says": "one COPY a page", "same": ["records"],
        "baseline": {"command": script, "reset": [sys.executable, "-c", empty]}, "fix": {"command": fixed},
        "metrics": [{"name": "requests", "better": "lower", "smallest_effect": 0.2}],
    }  # fmt: skip
    plan = ComparePlan.model_validate({"proofs": {"copy": proof}, "rounds": 4, "warm_up": 0})
    found = compare.analyse(compare.run(plan, running.target), plan)
    assert [str(one.verdict) for one in found.checks] == ["pass"], [one.reason for one in found.checks]
