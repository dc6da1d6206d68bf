"""Drills are Chaos Toolkit experiments with our extension: what is shipped is valid, and every mistake is named before any fault."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from tapecheck import config
from tapecheck.errors import ConfigError
from tapecheck.recovery import experiment
from tapecheck.recovery.contradictions import read_plan

with warnings.catch_warnings():  # of Chaos Toolkit's command line about what it imports
    warnings.simplefilter("ignore")
    from chaostoolkit.cli import cli

SHIPPED = sorted(config.CONFIG.glob("drills/**/*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_chaos_validate_accepts_every_file(path: Path) -> None:
    """Chaos Toolkit's own command line takes what we ship."""
    done = CliRunner().invoke(cli, ["--no-version-check", "--no-log-file", "validate", str(path)])
    assert done.exit_code == 0, done.output
    assert experiment.problems(path) == []


def test_every_failure_of_the_plan_has_a_drill() -> None:
    """What is promised is tested: the four failures, and hangs of each process."""
    drills = experiment.chosen("all")
    assert {drill.watching.failure for drill in drills} == set(read_plan("config/rto_rpo.yaml").rto)
    assert {"scheduler_frozen", "database_frozen", "api_frozen"} < {drill.name for drill in drills}


def test_every_fault_is_taken_away_by_a_rollback() -> None:
    """Rollbacks there are always, each freeze has a thaw among them, each fault of upstream's is switched off."""
    for drill in experiment.chosen("all"):
        method, rollbacks = (str(drill.experiment[section]) for section in ("method", "rollbacks"))
        assert ("'freeze'" in method) <= ("'thaw'" in rollbacks), drill.name
        assert ("/faults" in method) <= ("DELETE" in rollbacks), drill.name


GOOD: dict[str, Any] = {
    "title": "t",
    "description": "d",
    "steady-state-hypothesis": {
        "title": "s",
        "probes": [{"type": "probe", "name": "p", "tolerance": 200, "provider": {"type": "http", "url": "${base_url}/health"}}],
    },
    "method": [
        {
            "type": "action",
            "name": "freeze",
            "provider": {"type": "python", "module": "tapecheck.recovery.actions", "func": "freeze", "arguments": {"process": "api"}},
        }
    ],
    "rollbacks": [
        {
            "type": "action",
            "name": "thaw",
            "provider": {"type": "python", "module": "tapecheck.recovery.actions", "func": "thaw", "arguments": {"process": "api"}},
        }
    ],
    "extensions": [
        {
            "name": "tapecheck",
            "failure": "api_crash",
            "inject": "freeze",
            "repair": "thaw it",
            "views": {"service": {"request": "GET /health", "serves": True}},
        }
    ],
}


def written(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    data = yaml.safe_load(yaml.safe_dump(GOOD))
    change(data)
    path = folder / "drill.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def test_the_smallest_drill_is_read(tmp_path: Path) -> None:
    """What the others are changed from is right."""
    drill = experiment.read(written(tmp_path, lambda data: None))
    assert (drill.name, drill.watching.inject, drill.places) == ("drill", "freeze", {"base_url"})


MISTAKES: list[tuple[str, Callable[[dict[str, Any]], Any], str]] = [
    ("no method", lambda d: d.pop("method"), r"\(experiment\): got an experiment requires a method"),
    ("no title", lambda d: d.pop("title"), r"\(experiment\): got experiment requires a title"),
    ("no rollbacks", lambda d: d.pop("rollbacks"), r"rollbacks: got nothing; allowed: what takes the fault away, whatever happens"),
    ("no steady state", lambda d: d.pop("steady-state-hypothesis"), r"steady-state-hypothesis: got nothing; allowed: what holds before"),
    ("no extension", lambda d: d.pop("extensions"), r"extensions: got none named tapecheck; allowed: extensions: \[\{name: tapecheck"),
    ("unknown function", lambda d: d["method"][0]["provider"].update(func="crush"), r"\(experiment\): got .*crush.*chaos validate"),
    ("method is text", lambda d: d.update(method="freeze"), r"\(experiment\): got .*allowed: what `chaos validate` accepts"),
    (
        "inject is elsewhere",
        lambda d: d["extensions"][0].update(inject="melt"),
        r"inject: got 'melt'; allowed: an activity of method: \['freeze'\]",
    ),
    ("unknown key", lambda d: d["extensions"][0].update(fast=True), r"fast: unknown key `fast`; available: name, failure"),
    ("nothing serves", lambda d: d["extensions"][0]["views"]["service"].pop("serves"), r"views: got none with serves: true"),
    ("no repair", lambda d: d["extensions"][0].pop("repair"), r"repair: missing required key `repair`"),
    (
        "SELECT with conditions",
        lambda d: d["extensions"][0]["views"].update(db={"request": "SELECT 1", "degraded": {}}),
        r"views.db: .*a SELECT alone, without conditions",
    ),
]


@pytest.mark.parametrize(("change", "said"), [(change, said) for _, change, said in MISTAKES], ids=[name for name, _, _ in MISTAKES])
def test_a_mistake_is_named_before_any_fault(tmp_path: Path, change: Callable[[dict[str, Any]], Any], said: str) -> None:
    """File, key, what was got and what is allowed."""
    path = written(tmp_path, change)
    with pytest.raises(ConfigError) as caught:
        experiment.read(path)
    assert re.search(said, str(caught.value)), caught.value
    assert str(path) in str(caught.value)
    assert experiment.problems(path) == list(caught.value.problems)


@pytest.mark.parametrize(("names", "count"), [("none", 0), ("freshness", 0), ("api_killed", 1), ("api_killed, api_frozen", 2)])
def test_drills_are_chosen_by_name(names: str, count: int) -> None:
    """Names with commas, or one of the words."""
    assert len(experiment.chosen(names)) == count


def test_an_unknown_drill_is_refused() -> None:
    """The message lists what there is."""
    with pytest.raises(
        ConfigError, match=r"drills: got api_exploded; allowed: all, freshness, none, a path of a YAML file, or some of api_frozen"
    ):
        experiment.chosen("api_exploded")


def test_a_path_is_a_drill_too(tmp_path: Path) -> None:
    """An experiment of one's own, from anywhere."""
    assert [drill.name for drill in experiment.chosen(str(written(tmp_path, lambda data: None)))] == ["drill"]
