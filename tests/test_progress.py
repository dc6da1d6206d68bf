"""How far a measurement is, in a file that a batch follows."""

import json
from pathlib import Path

import pytest

from tapecheck import progress


def test_a_report_says_what_else_there_is_to_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line a report, with its note, which may be absent; whoever follows the file can draw each."""
    file = tmp_path / "progress.jsonl"
    monkeypatch.setenv(progress.FILE_VARIABLE, str(file))
    with progress.follow(file), progress.show("backfill", "jobs") as report:
        report(1, 5)
        report(2, 5, "900 rows/s, 3 s left")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines == [["backfill", "jobs", 1, 5, ""], ["backfill", "jobs", 2, 5, "900 rows/s, 3 s left"]]
    bars = progress._Bars()
    for line in lines:
        bars(*line)
    assert bars.label == "backfill"
    bars.close()
