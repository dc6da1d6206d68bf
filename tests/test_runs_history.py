"""A metric is followed over all runs that are alike, and a shift of its level is found where it is and nowhere else."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from legible import illegible
from recorded_runs import put, set_at

from tapecheck import __main__, charts
from tapecheck.errors import ConfigError
from tapecheck.runs import history

METRIC = "totals.records_per_s"


def recorded(out: Path, values: list[float], begin: int = 0, **environment: Any) -> None:
    for i, value in enumerate(values):
        put(out, "backfill", begin + i, set_at(METRIC, value, **environment))


def test_a_run_that_somebody_sent_writes_no_line_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever its target, machine and id are called: a line of the list is a run, and nothing of it is taken back."""

    def forge(result: Any) -> None:
        result["run_id"] = result["target"]["name"] = result["environment"]["host"] = "x\n20991231T000000Z-ffff pass\r\u2028good"

    put(tmp_path, "backfill", 1, forge)
    for words, count in ((["runs"], 2), (["history", METRIC], 7)):
        assert __main__.main([*words, "--out", str(tmp_path)]) == 0
        said = capsys.readouterr().out
        assert len(said.splitlines()) == count and "x 20991231T000000Z-ffff pass \ufffdgood" in said


def noise(n: int, level: float = 100, seed: int = 0, share: float = 0.05) -> list[float]:
    return (level * np.random.default_rng(seed).lognormal(0, share, n)).tolist()


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("a.b", 1), ("a.*", 2), ("jobs.BRK.B.1d.rows", 7), ("jobs.*.1d.rows", 9), ("levels.1.rps", 20), ("levels.*.rps", 20),
        ("a", None), ("a.none", None), ("flag", None), ("text", None), ("a.b.c", None), ("", None), ("levels.2.rps", None), ("zero", 0),
    ],
)  # fmt: skip
def test_a_metric_is_a_dotted_path(metric: str, value: float | None) -> None:
    """Keys may have dots themselves, a star takes the largest, a list counts from 0, and what is no number is none."""
    data = {
        "a": {"b": 1, "c": 2, "d": None}, "jobs": {"BRK.B": {"1d": {"rows": 7}}, "SPY": {"1d": {"rows": 9}}},
        "levels": [{"rps": 10}, {"rps": 20}], "flag": True, "text": "5", "zero": 0,
    }  # fmt: skip
    assert history.value_at(data, metric) == value


def test_a_planted_shift_is_found_where_it_is(tmp_path: Path) -> None:
    """From the 13th run on the level is a fifth lower: that run, its commit and the change are told."""
    recorded(tmp_path, noise(12))
    recorded(tmp_path, noise(12, level=80, seed=1), begin=12, git_commit="f" * 40)
    (trend,) = history.read(tmp_path, METRIC).trends
    (shift,) = trend.shifts
    assert shift.first == 12
    assert trend.points[shift.first].code == "0.1.0 fffffff*"
    assert shift.after / shift.before == pytest.approx(0.8, abs=0.04)
    assert [p.started_at for p in trend.points] == sorted(p.started_at for p in trend.points)


@pytest.mark.parametrize(
    "other",
    [
        lambda r: r["environment"].update(host="elsewhere"), lambda r: r["target"].update(name="staging"),
        lambda r: r["parameters"].update(profile="small"), lambda r: r["parameters"].update(plan="/other/plan.yaml"),
        lambda r: r.update(plan_digest="0123456789ab"),
    ],
    ids=["host", "target", "parameter", "plan", "what the plan says"],
)  # fmt: skip
def test_runs_of_another_condition_are_apart(tmp_path: Path, other: Any) -> None:
    """Their figures are no trend of ours, however many there are."""
    recorded(tmp_path, noise(10))
    for i in range(10):
        put(tmp_path, "backfill", 100 + i, lambda r, i=i: (set_at(METRIC, 10 + i)(r), other(r)))
    found = history.read(tmp_path, METRIC)
    assert sorted(len(trend.points) for trend in found.trends) == [10, 10]
    assert max(len(trend.points) for trend in history.read(tmp_path, "totals.jobs").trends) == 10


def test_where_a_run_was_kept_and_asked_from_makes_no_difference(tmp_path: Path) -> None:
    """The folder, the port of the sandbox and the path of the same plan differ from machine to machine."""
    put(tmp_path, "backfill", 0)
    put(tmp_path, "backfill", 1, lambda r: r["parameters"].update(out="/x", plan="/home/me/config/backfill.yaml", target="/t.yaml"))
    put(tmp_path, "backfill", 2, lambda r: r["target"].update(base_url="http://127.0.0.1:1"))
    assert [len(trend.points) for trend in history.read(tmp_path, METRIC).trends] == [3]


def test_what_says_nothing_new_is_left_out_and_counted(tmp_path: Path) -> None:
    """An analysis of an earlier run, an invalid measurement, a run without the number, and one that cannot be read."""
    recorded(tmp_path, noise(4))
    put(tmp_path, "backfill", 10, lambda r: r.update(reanalysis_of="20261101T000000Z-0000"))
    put(tmp_path, "backfill", 11, lambda r: r["checks"][0].update(verdict="invalid"))
    put(tmp_path, "load", 12)
    (tmp_path / "load" / "20261101T130000Z-dead").mkdir()
    found = history.read(tmp_path, METRIC)
    assert found.n == 4
    assert found.left_out == {
        "another analysis of what was measured before": 1, "the measurement was invalid there": 1,
        "no such number": 1, "it cannot be read": 1,
    }  # fmt: skip
    assert "1 run left out: it cannot be read" in history.table(found)


def test_an_invalid_scenario_does_not_spoil_the_others(tmp_path: Path) -> None:
    """A path names its scenario; one that names all has to do without the run."""
    invalid = {"name": "steady_rate", "objective": "x_ms < 1", "value": 1, "bound": 1, "n": 1, "verdict": "invalid", "reason": "busy"}
    put(tmp_path, "load", 0)
    put(tmp_path, "load", 1, lambda r: r["checks"].append(invalid))
    begin, end = "scenarios", "response_time_ms.p95.value"
    assert {
        name: history.read(tmp_path, f"{begin}.{name}.{end}").n for name in ("steady_rate", "cached_symbol", "*")
    } == {"steady_rate": 1, "cached_symbol": 2, "*": 1}  # fmt: skip


def test_a_metric_that_no_run_has_is_refused_with_what_is_alike(tmp_path: Path) -> None:
    """The message names numbers that are there."""
    put(tmp_path, "backfill", 0)
    with pytest.raises(ConfigError, match=r"metric: got 'totals.record_per_s'.*such as totals\.records_per_s"):
        history.read(tmp_path, "totals.record_per_s")
    with pytest.raises(ConfigError, match="load"):
        history.read(tmp_path, METRIC, "load")
    put(tmp_path / "again", "backfill", 0, lambda r: r.update(reanalysis_of="20261101T000000Z-0000"))
    with pytest.raises(ConfigError, match=r"which no run has that counts \(1 run left out: another analysis"):
        history.read(tmp_path / "again", METRIC)


# ---- the chart ----


def drawn(out: Path, metric: str = METRIC) -> Any:
    return charts.history_trend(history=history.read(out, metric))


def test_the_chart_has_a_point_a_run_and_marks_the_change(tmp_path: Path) -> None:
    """The values in order, a square on the first run of the new level, a line where the code changed, and both levels."""
    first, second = noise(12), noise(12, level=80, seed=1)
    recorded(tmp_path, first)
    recorded(tmp_path, second, begin=12, git_commit="f" * 40)
    (ax,) = drawn(tmp_path).axes
    lines = {str(line.get_label()): line for line in ax.lines}
    assert lines["a run"].get_ydata() == pytest.approx([*first, *second])
    mark = lines["change point: the first run of another level"]
    assert (list(mark.get_xdata()), list(mark.get_ydata())) == ([12], [second[0]])
    assert list(lines["version or commit changes"].get_xdata()) == [11.5, 11.5]
    levels = [line.get_ydata()[0] for line in ax.lines if line.get_label() == "median between change points"]
    assert levels == pytest.approx([np.median(first), np.median(second)])
    assert any("fffffff" in tick.get_text() for tick in ax.get_xticklabels())
    assert ax.get_ylabel() == "records (1/s)"


def awkward(out: Path) -> None:
    """Make four conditions with long names, one of 150 runs with another commit each and several shifts."""
    long = "a_target_with_a_name_that_somebody_thought_about_for_a_long_time"
    for i in range(150):
        put(out, "backfill", i, set_at(METRIC, 100 * (1 + i // 30 % 2) + i % 5, git_commit=f"{i:040x}"))
    for name in ("b", "c", long):
        for i in range(3):
            put(out, "backfill", 200 + 10 * ord(name[0]) + i, lambda r, name=name: r["target"].update(name=name))


def test_every_word_can_be_read(tmp_path: Path) -> None:
    """With many runs, many commits and long names, and with one run alone."""
    awkward(tmp_path / "many")
    put(tmp_path / "one", "backfill", 0)
    put(tmp_path / "load", "load", 0)
    assert max(len(trend.shifts) for trend in history.read(tmp_path / "many", METRIC).trends) == 4
    for figure in (
        drawn(tmp_path / "many"),
        drawn(tmp_path / "one"),
        drawn(tmp_path / "load", "scenarios.variable_timeframes.response_time_ms.p95.value"),
    ):
        assert illegible(figure) == ([], [])


# ---- the command ----


def test_the_command_prints_the_runs_and_writes_the_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line a run with its code and value, the change beside the run that began it, and the path of the PNG."""
    recorded(tmp_path, noise(12))
    recorded(tmp_path, noise(12, level=80, seed=1), begin=12, git_commit="f" * 40)
    assert __main__.main(["history", METRIC, "--validation", "backfill", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("20261101T00") == 24
    (line,) = [line for line in printed.splitlines() if "p = " in line]
    assert "fffffff*" in line
    assert "* after a commit: files that it knows had been changed since" in printed
    assert "days" not in printed, "0 days are those of the plan"
    picture = tmp_path / "history" / f"{METRIC}.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert printed.splitlines()[-1] == str(picture)


def test_a_star_or_slash_in_a_metric_makes_no_strange_file(tmp_path: Path) -> None:
    """Keys come from plans; a file's name has only letters, digits, dots, hyphens and underscores."""
    put(tmp_path, "load", 0, lambda r: r["scenarios"].update({"../../up": r["scenarios"]["steady_rate"]}))
    for metric in ("scenarios.*.requests", "scenarios.../../up.requests"):
        assert __main__.main(["history", metric, "--out", str(tmp_path / "load" / "..")]) == 0
    assert sorted(p.name for p in (tmp_path / "history").iterdir()) == ["scenarios..._.._up.requests.png", "scenarios._.requests.png"]


@pytest.mark.parametrize("words", [["totals.none"], [METRIC, "--validation", "lod"], []])
def test_wrong_usage_is_exit_4(tmp_path: Path, words: list[str]) -> None:
    """An unknown metric or validation, or none; nothing is written."""
    put(tmp_path, "backfill", 0)
    try:
        code = __main__.main(["history", *words, "--out", str(tmp_path)])
    except SystemExit as error:
        code = error.code
    assert code == 4
    assert not (tmp_path / "history").exists()
