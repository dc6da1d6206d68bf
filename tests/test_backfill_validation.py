"""The facade: a recording becomes a run folder that keeps its schema and can be analysed again without a target."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from backfills import analysed, recording, span

from tapecheck.backfill.recording import COMPLETED, FAILED, Job, Recording
from tapecheck.backfill.validation import BackfillResult, backfill
from tapecheck.errors import ConfigError
from tapecheck.runs.outcomes import Recorded

DRIVERS = {
    "httpx",
    "anyio",
    "psycopg",
    "adbc_driver_manager",
    "exchange_calendars",
    "tapecheck.backfill.session",
}  # half the time of an import
PARAMETERS = {"target": "t", "plan": "config/backfill.yaml", "run": "new", "profile": "small"}


def recorded(found: Recording, out: Path) -> Recorded:
    return backfill.record(analysed(found), settings=backfill.settings(**PARAMETERS, out=str(out)))


def two_jobs() -> Recording:
    jobs = [
        Job(symbol="AAPL", timeframe="5m", state=COMPLETED, inserted=90),
        Job(symbol="AAPL", timeframe="1d", state=FAILED, error="AAPL: HTTP 403: no plan"),
    ]
    spans = [span("fetch", 0, 1, job="AAPL 5m", requests=1), span("insert", 1, 9, job="AAPL 5m", rows=90), span("fetch", 9, 10, requests=1)]
    return recording(spans, jobs=jobs, objectives=["job_success_ratio >= 1", "duration_s < 90"])


def test_a_notebook_that_only_reads_imports_no_client_and_no_driver() -> None:
    """Who analyses a recorded run waits for none of what measuring needs."""
    command = [sys.executable, "-c", "import sys, tapecheck.backfill.validation; print(*sys.modules)"]
    imported = set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert "tapecheck.backfill.analysis" in imported and not DRIVERS & imported


def test_a_run_is_written_and_analysed_again_to_the_same_figures(tmp_path: Path) -> None:
    """The same code on the recorded spans gives the same summary, and the result says of which run it is."""
    first = recorded(two_jobs(), tmp_path)
    files = {"result.json", "spans.parquet", "jobs.parquet", "days.parquet", "failures.jsonl", "trace.json", "checks.csv"}
    assert first.folder and {p.name for p in first.folder.iterdir()} == files
    again = backfill.read(first.folder)
    assert analysed(again).summary == analysed(two_jobs()).summary
    second = recorded(again, tmp_path)
    one, two = (json.loads((run.folder / "result.json").read_text()) for run in (first, second) if run.folder)
    own = [name for name in BackfillResult.__dataclass_fields__ if name not in ("run_id", "reanalysis_of")]
    assert {name: one[name] for name in own} == {name: two[name] for name in own}
    assert two["reanalysis_of"] == str(first.folder)


def test_the_result_has_what_the_design_names(tmp_path: Path) -> None:
    """Totals, stages, the slowest, jobs, the floor and what-if, with the failed job in a file of its own."""
    folder = recorded(two_jobs(), tmp_path).folder
    assert folder
    result = json.loads((folder / "result.json").read_text())
    assert (result["verdict"], result["bottleneck"]["name"]) == ("fail", "bottleneck_insert")
    totals = {"jobs": 2, "completed": 1, "failed": 1, "skipped": 0, "requests": 2, "bytes": 0, "statements": 0}
    assert result["totals"] == totals | {"duration_s": 10, "records": 90, "records_per_s": 9}
    assert result["stages"]["insert"] == {"busy_s": 8, "busy_share": 0.8, "wall_share": 0.8, "spans": 1}
    assert (result["slowest_job"]["name"], result["slowest_timeframe"]["name"]) == ("AAPL 5m", "5m")
    assert result["jobs"]["AAPL"]["1d"]["error"] == "AAPL: HTTP 403: no plan" and result["what_if"][0]["change"] == "as recorded"
    assert json.loads((folder / "failures.jsonl").read_text()) == {"symbol": "AAPL", "timeframe": "1d", "error": "AAPL: HTTP 403: no plan"}


def test_the_headline_says_what_failed_and_where_the_time_goes() -> None:
    """One line, the worst first."""
    said = analysed(two_jobs()).headline
    assert said.startswith("**FAIL** for sandbox: 1 of 2 checks met. First: job_success_ratio >= 1: 0.5 misses >= 1.")
    assert "1 of 2 jobs failed: AAPL 1d; first error: AAPL: HTTP 403: no plan. Where the time goes: insert takes 80% of busy time" in said


def test_wrong_parameters_are_named_together() -> None:
    """A wrong type is not converted."""
    with pytest.raises(ConfigError) as caught:
        backfill.settings(**PARAMETERS | {"profile": 3}, out="", days="7")
    assert {problem.key for problem in caught.value.problems} == {"profile", "days"}
