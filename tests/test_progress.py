"""How far a measurement is, in a file that a batch follows."""

import io
import json
import sys
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


def test_a_bar_takes_more_than_its_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a measurement lasts longer than planned: in a terminal too, the bar is full then."""
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", terminal)
    bars = progress._Bars()
    for unit, done, total in (("ms", 5000, 3000), ("requests", 7, 5)):
        bars(unit, unit, done, total)
        assert bars.bar
        bars.bar.refresh()
    bars.close()
    assert "5.0 of 5.0 s" in terminal.getvalue() and "7 of 7 requests" in terminal.getvalue()


def test_without_a_terminal_a_line_every_ten_seconds_says_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """With the time that is left at the pace so far; whole things are counted in whole numbers."""
    now = [0.0]
    bars = progress._Bars(lambda: now[0])
    for at_s, done in ((0, 0), (4, 10_000), (11, 30_000), (12, 31_000), (22, 60_000)):
        now[0] = at_s
        bars("load 2 of 7: mixed_symbols", "requests", done, 60_000)
    now[0] = 33
    bars("load 3 of 7: steady", "ms", 1000, 3000)
    bars.close()
    assert capsys.readouterr().err.splitlines() == [
        "load 2 of 7: mixed_symbols",
        "load 2 of 7: mixed_symbols: 30,000 of 60,000 requests, 11 s left",
        "load 2 of 7: mixed_symbols: 60,000 of 60,000 requests",
        "load 3 of 7: steady",
    ]


@pytest.mark.parametrize(
    ("done", "spent_s", "said"),
    [
        (49, 10.0, "49 of 10,000 requests"),
        (600, 0.5, "600 of 10,000 requests"),
        (500, 1.0, "500 of 10,000 requests, 19 s left"),
    ],
)
def test_the_time_left_is_said_once_there_is_a_pace(done: int, spent_s: float, said: str) -> None:
    """Not before a second and a twentieth of the work: the first requests wait for connections."""
    assert progress._so_far("requests", done, 10_000, spent_s) == said


def test_a_rate_in_a_name_is_a_round_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As people say it."""
    file = tmp_path / "progress.jsonl"
    monkeypatch.setenv(progress.FILE_VARIABLE, str(file))
    for label in ("load: capacity at 2828.43/s", "load: capacity at 0.5/s, again (2)"):
        with progress.show(label) as report:
            report(1, 2)
    assert [json.loads(line)[0] for line in file.read_text().splitlines()] == [
        "load: capacity at 2,828/s",
        "load: capacity at 0.50/s, again (2)",
    ]
