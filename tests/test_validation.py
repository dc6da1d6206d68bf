"""Measurements that run on one machine at once: each notices the others, says so, and remembers it."""

import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
from samples import burst, recording

from tapecheck import check as lint
from tapecheck import config, lockfiles, validation
from tapecheck import recording as recordings
from tapecheck.__main__ import main
from tapecheck.compare import recorded
from tapecheck.errors import ConfigError
from tapecheck.load.plan import LoadPlan
from tapecheck.load.recording import Recording
from tapecheck.load.validation import load
from tapecheck.recording import Context, Table
from tapecheck.runs import folders, results
from tapecheck.runs.results import Neighbour, Result
from tapecheck.target.file import Target
from tapecheck.validation import Types
from tapecheck.verdict import Measured

OTHER = """
import sys
from tapecheck import config, lockfiles
own = lockfiles.hold(config.measurements(), sys.argv[1] + " of other")
print("begun", flush=True)
sys.stdin.readline()
lockfiles.release(own)
"""
PLAN = LoadPlan.model_validate(
    {"scenarios": {"s": {"executor": "burst", "concurrency": 2, "rounds": 10, "request": "a"}}, "objectives": ["success_ratio > 0.1"]}
)


@pytest.fixture(autouse=True)
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where measurements are noted, of one test alone."""
    monkeypatch.setenv("TAPECHECK_MEASUREMENTS", str(tmp_path / "measurements"))
    return tmp_path / "measurements"


class Other:
    """Another process that is noted as measuring until it is ended."""

    def __init__(self, name: str) -> None:
        command = [sys.executable, "-c", OTHER, name]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None and self.process.stdout.readline() == "begun\n"

    def ended(self) -> None:
        self.process.communicate("\n")

    def killed(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


def measured() -> Recording:
    return recordings.measured("load", "mine", lambda: recording({"s": burst([1.0] * 20)}))


def test_each_knows_of_the_others_however_they_end() -> None:
    """One that began before, one that came and went meanwhile, and one that was killed; but none that had ended before."""
    earlier, first = Other("earlier"), Other("first")
    earlier.killed()

    def run() -> Recording:
        second, third = Other("second"), Other("third")
        third.killed()
        second.ended()
        return recording({"s": burst([])})

    found = recordings.measured("load", "mine", run).context.beside
    assert found is not None
    assert sorted(one.measured for one in found) == ["first of other", "second of other", "third of other"]
    first.ended()


def test_it_is_said_in_the_result_and_read_again(tmp_path: Path) -> None:
    """In the headline, as a finding, in result.json and in what is analysed again; a run alone says that it was alone."""
    other = Other("compare")
    beside = measured()
    other.ended()
    settings = load.settings(target="t", plan=str(config.CONFIG / "load.yaml"), run="new", out=str(tmp_path), scenarios="all", rounds=0)
    for one, others in ((beside, [("compare of other", other.process.pid)]), (measured(), [])):
        found = load.analyse(one, PLAN)
        done = load.record(found, settings=settings)
        assert done.folder is not None
        result = folders.read(done.folder).result
        assert [(each["measured"], each["pid"]) for each in result["beside"]] == others
        assert ("measured_beside_others" in [each["name"] for each in result["recommendations"]]) == bool(others)
        for text in (result["headline"], found.headline, load.analyse(load.read(done.folder), PLAN).headline):
            assert ("ran on this machine at the same time" in text) == bool(others)
            assert ("compare of other (pid" in text) == bool(others)


def test_of_many_others_two_are_named_and_they_stand_last() -> None:
    """What limits the target is read first; result.json names all of them."""
    others = tuple(results.Neighbour(measured="load of planted", pid=i, since=datetime(2026, 11, 1, tzinfo=UTC)) for i in range(6))
    one = measured()
    found = load.analyse(dataclasses.replace(one, context=dataclasses.replace(one.context, beside=others)), PLAN)
    assert "6 other measurements ran" in found.said and found.said.endswith(" and 4 more.") and found.said.count("load of planted") == 2
    assert found.said.startswith(load.say(one, found.summary, found.findings))


def test_a_measurement_within_another_is_a_part_of_it(registry: Path) -> None:
    """The load tests of a comparison are no neighbours of it."""

    def run() -> Recording:
        inner = measured()
        assert inner.context.beside is None
        assert [one.purpose for one in lockfiles.holders(registry)] == ["compare of mine"]
        return inner

    assert recordings.measured("compare", "mine", run).context.beside == ()
    assert list(registry.iterdir()) == []


def test_where_nothing_can_be_noted_it_is_unknown(registry: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without the folder, the measurement is made all the same, and claims nothing about others."""
    registry.write_text("a file")
    assert measured().context.beside is None
    assert "unknown" in caplog.text


def test_a_measurement_that_fails_is_over(registry: Path) -> None:
    """One that raises holds nothing any more."""
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            recordings.measured("load", "mine", lambda: recording({"s": burst([1 / 0])}))
    assert list(registry.iterdir()) == []


def test_a_result_of_before_is_read_and_knows_nothing_of_others() -> None:
    """Runs that were recorded before others were noticed stay readable; unknown is not none."""
    result = json.loads((config.PROJECT / "tests" / "data" / "load" / "result.json").read_text())
    result.pop("beside", None)
    assert results.breaks_schema(result) is None
    assert results.head(result).beside is None


def test_two_recorded_runs_differ_by_who_ran_beside_them() -> None:
    """That one side had a neighbour is a confounder of their comparison."""
    before = folders.read(config.PROJECT / "tests" / "data" / "load")
    since = datetime(2026, 11, 2, tzinfo=UTC)
    neighbour = {"measured": "backfill of sandbox", "pid": os.getpid(), "since": since.isoformat()}
    assert str(Neighbour(measured="m", pid=1, since=since)) == "m (pid 1, since 00:00:00 UTC)"
    for beside, wanted in (([neighbour], ["after ran beside another measurement: backfill of sandbox"]), ([], []), (None, [])):
        after = dataclasses.replace(before, result={**before.result, "beside": beside})
        runs = {"before": [recorded.ComparedRun(run=before)], "after": [recorded.ComparedRun(run=after)]}
        assert list(recorded.confounders(runs, ())) == wanted


# ---- a fifth validation ----


class CoinPlan(config.Model):
    tosses: int
    objectives: tuple[str, ...]


class Coin(validation.Validation[CoinPlan, recordings.Recording[Context], dict[str, Measured], validation.Settings]):
    name, keys, types = "coin", frozenset({"tosses"}), Types(result=Result)
    tables: ClassVar = {"tosses": Table(pa.schema({"heads": pa.int64()}))}
    read_plan = staticmethod(functools.partial(config.read, CoinPlan))

    def measure(self, plan: CoinPlan, target: Target, *, out: str = "") -> recordings.Recording[Context]:
        return recordings.Recording(context=Context.of(target), tables={"tosses": pa.table({"heads": [1, 0] * (plan.tosses // 2)})})

    def summarize(self, recording: recordings.Recording[Context], plan: CoinPlan) -> dict[str, Measured]:
        return {"heads_ratio": Measured.exact(np.mean(recording.tables["tosses"]["heads"]), plan.tosses)}


coin = Coin()


def test_the_shape_is_enough_for_a_fifth_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plan, run, read, judge, record, check, history and command line follow from what it gives."""
    monkeypatch.setitem(config.VALIDATIONS, "coin", f"{__name__}:coin")
    (tmp_path / "coin.yaml").write_text("tosses: 10\nobjectives: [heads_ratio >= 0.5]\n")
    (tmp_path / "target.yaml").write_text("name: mint\nkind: external\nbase_url: http://127.0.0.1:1\nrequests: {a: GET /}\n")
    settings = coin.settings(target=str(tmp_path / "target.yaml"), plan=str(tmp_path / "coin.yaml"), run="new", out=str(tmp_path))
    plan = coin.plan(settings)
    measured = coin.run(plan, config.read(Target, settings.target), out=settings.out)
    assert measured.context.beside == (), "whatever measures is noted"
    done = coin.record(coin.analyse(measured, plan), settings=settings)
    assert done.folder and done.result.headline == "" and done.verdict == "pass"
    again = coin.analyse(coin.read(done.folder), plan.model_copy(update={"objectives": ("heads_ratio > 0.5",)}))
    assert again.headline.startswith("**FAIL** for mint: 0 of 1 checks met. First: heads_ratio > 0.5: 0.5 misses > 0.5.")
    assert lint.plan_kind(tmp_path / "coin.yaml") == "coin" and lint.problems(tmp_path / "coin.yaml") == []
    assert main(["history", "checks.0.value", "--validation", "coin", "--out", str(tmp_path)]) == 0
    assert [(run.result["validation"], run.problem) for run in folders.each(tmp_path)] == [("coin", None)]
    (done.folder / "tosses.parquet").unlink()
    with pytest.raises(ConfigError, match=r"tosses that cannot be read .*; allowed: a complete coin run"):
        coin.read(done.folder)


def test_a_part_of_a_recorded_run_is_judged_by_itself(tmp_path: Path) -> None:
    """Scenarios that are named in a recorded run are all that is judged, drawn and recorded; one that it lacks is refused."""
    whole = str(config.PROJECT / "tests" / "data" / "load")

    def part_of(run: str, scenarios: str) -> Mapping[str, Any]:
        settings = load.settings(target="t", plan="config/load.yaml", run=run, out=str(tmp_path), scenarios=scenarios, rounds=0)
        plan = load.plan(settings)
        done = load.record(load.analyse(load.recording(plan, settings), plan), settings=settings)
        assert done.folder is not None
        return {**folders.read(done.folder).result, "folder": str(done.folder)}

    part = part_of(whole, "steady_rate, capacity")
    assert (part["scope"], list(part["scenarios"]), bool(part["capacity"])) == ("2 of 7 scenarios", ["steady_rate"], True)
    assert {check["name"] for check in part["checks"]} == {"steady_rate"}
    of_part = part_of(part["folder"], "steady_rate")
    assert (of_part["scope"], of_part["capacity"], of_part["scenarios"]) == ("1 of 7 scenarios", None, part["scenarios"])
    with pytest.raises(ConfigError, match=r"scenarios: got mixed_symbols; allowed: some of steady_rate, capacity"):
        part_of(part["folder"], "steady_rate, mixed_symbols")
