"""Configuration is validated as a whole, and every message says file, line, key, what was got and what is allowed."""

from pathlib import Path
from typing import ClassVar

import pytest
import yaml

from tapecheck import config
from tapecheck.errors import ConfigError, Problem
from tapecheck.target.file import Target

GOOD = """\
name: staging
kind: external
base_url: http://127.0.0.1:8000
requests:
  health: GET /health
"""


def problems_of(tmp_path: Path, text: str) -> list[Problem]:
    file = tmp_path / "target.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        config.read(Target, file)
    return list(caught.value.problems)


def test_a_good_target_is_frozen(tmp_path: Path) -> None:
    """A target is read whole and cannot be changed afterwards."""
    file = tmp_path / "target.yaml"
    file.write_text(GOOD)
    target = config.read(Target, file)
    assert target.requests["health"].method == "GET"
    with pytest.raises(Exception, match="frozen"):
        target.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "line", "key", "got", "allowed"),
    [
        (("kind: external", "kind: mock"), 2, "kind", "'mock'", "'sandbox' or 'external'"),
        (("name: staging", "name: staging\nallow_remot: true"), 2, "allow_remot", "unknown key `allow_remot`; available: name, kind", ""),
        (("GET /health", "GET health"), 5, "requests.health", "'GET health'", "GET, HEAD or POST and a path"),
        (("base_url: http://127.0.0.1:8000\n", ""), 1, "(file)", "dict", "an external target needs base_url"),
        (("http://127", "ftp://127"), 3, "base_url", "ftp://", "http:// or https://"),
        (("name: staging", "name: staging\nname: again"), 2, "name", "duplicate key `name`", ""),
        (("name: staging\n", ""), 1, "name", "missing required key `name`", ""),
        (("name: staging", "name: staging\nprocesses: {api: {port: 8, pid: 9}}"), 2, "processes.api", "dict", "exactly one of"),
        (("name: staging", "name: staging\nheaders: {X: {path: a}}"), 2, "headers.X", "path", ""),
        (("name: staging", "name: [staging"), 2, "(file)", "", "YAML"),
        (("name: staging", "name: staging\nprocesses: {{a: b}: c}"), 2, "processes", "a mapping or list as a key", "text; in quotes"),
        (("name: staging", "name: staging\nprocesses:\n  api: 2026-02-30"), 3, "processes.api", "2026-02-30 (day is out of range", "YAML"),
    ],
)
def test_each_mistake_is_named(tmp_path: Path, change: tuple[str, str], line: int, key: str, got: str, allowed: str) -> None:
    """A mistake is reported with its line, its key, what was got and what is allowed."""
    found = problems_of(tmp_path, GOOD.replace(*change))
    match = [p for p in found if p.key.startswith(key) and got in p.got + p.key and allowed in p.allowed]
    assert match, f"nothing like that among: {list(map(str, found))}"
    assert match[0].line == line, str(match[0])


def test_all_mistakes_are_listed_at_once(tmp_path: Path) -> None:
    """One run of the check shows everything that has to be mended."""
    found = problems_of(tmp_path, "name: ''\nkind: mock\nrequests: {}\nextra: 1\n")
    assert {p.key for p in found} == {"name", "kind", "requests", "extra"}


class Explained(config.Model):
    """A part of a plan whose key has another name than before."""

    RENAMED: ClassVar = {"settled": "explained"}
    explained: str


class Outer(config.Model):
    """A plan with such a part."""

    contradictions: dict[str, Explained]


def test_an_old_key_is_an_error_that_names_the_new_one() -> None:
    """Beside the key that is missing now; where it stands is said too."""
    with pytest.raises(ConfigError) as caught:
        config.validate(Outer, {"contradictions": {"a": {"settled": "why", "other": 1}}}, file="plan.yaml")
    assert [str(problem) for problem in caught.value.problems] == [
        "plan.yaml: contradictions.a.explained: missing required key `explained`",
        "plan.yaml: contradictions.a.settled: `settled` is now called `explained`",
        "plan.yaml: contradictions.a.other: unknown key `other`; available: explained",
    ]


def test_a_missing_file_says_where_it_was_looked_for() -> None:
    """A path is looked up from the current folder and from the project."""
    with pytest.raises(ConfigError, match="file not found"):
        config.find("config/none.yaml")


def test_relative_outputs_lie_below_the_project_and_absolute_ones_stay(tmp_path: Path) -> None:
    """Where a run is written does not depend on the folder that a kernel happens to start in."""
    assert config.outputs("outputs") == config.OUTPUTS
    assert config.outputs(tmp_path) == tmp_path


def test_a_file_that_nobody_wrote_by_hand_is_refused_before_it_takes_time_or_memory(tmp_path: Path) -> None:
    """100 MB are not read; what libyaml would compose until its stack ends is counted first; a pipe without end has an end."""
    big = tmp_path / "big.yaml"
    with big.open("wb") as file:
        file.truncate(100_000_000)
    for path in (big, Path("/dev/zero")):
        with pytest.raises(ConfigError, match="more than 500,000 bytes; allowed: a smaller document"):
            config.read_yaml(path)
    for text in ("[" * 400_000, "- " * 100_000, "{a: " * 50_000, "".join(" " * i + "a:\n" for i in range(600))):
        (found,) = problems_of(tmp_path, text)
        assert found.got == "more than 50 levels"
    (found,) = problems_of(tmp_path, "- x\n" * 60_000)
    assert found.got == "more than 50,000 values, aliases written out"
    assert yaml.__with_libyaml__ is (config._COMPOSER is not yaml.SafeLoader)


def _aliases(levels: int) -> str:
    return "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, levels)
    )


@pytest.mark.parametrize(
    ("text", "line", "key", "got"),
    [
        ("name: x\nrequests: &a {one: *a}\n", 2, "requests.one", "an alias of something that it is part of"),
        ("a: 1\nb: &b\n  - c:\n      d: *b\n", 4, "b.0.c.d", "an alias of something that it is part of"),
        ("&all\nx: 1\ny: *all\n", 3, "y", "an alias of something that it is part of"),
        ("x: &x {<<: *x, a: 1}\n", 1, "x.<<", "an alias of something that it is part of"),
        ("a: " + "[" * 60 + "]" * 60, 1, "a" + ".0" * 50, "more than 50 levels"),
        ("[" * 5000 + "]" * 5000, None, "(file)", "more than 50 levels"),
        (_aliases(9), None, "", "more than 50,000 values, aliases written out"),
        ("x: 1" + ":1" * 200_000, 1, "x", "a number of more than 400 characters"),
        ("x: 1" + ":1" * 190 + ".5", 1, "x", ""),
        ("x: !!bool maybe", 1, "x", "maybe ('maybe')"),
        ("x: !!timestamp soon", 1, "x", ""),
        ('x: !!int ""', 1, "x", ""),
    ],
    ids=["map", "list", "document", "merge", "deep", "very deep", "a billion", *("int", "float", "bool", "time", "empty")],
)
def test_a_document_without_end_is_refused_with_its_place(tmp_path: Path, text: str, line: int | None, key: str, got: str) -> None:
    """An alias within what it names, too many levels, and aliases of aliases of aliases."""
    (found,) = problems_of(tmp_path, text)
    assert found.got.startswith(got)
    assert (line is None or found.line == line) and found.key.startswith(key)


def test_an_alias_of_what_stands_elsewhere_is_fine(tmp_path: Path) -> None:
    """As often as one likes, and merged."""
    file = tmp_path / "x.yaml"
    file.write_text("a: &a {x: 1}\nb: *a\nc: [*a, *a]\nd: {<<: *a, y: 2}\n")
    assert config.read_yaml(file)[0] == {"a": {"x": 1}, "b": {"x": 1}, "c": [{"x": 1}, {"x": 1}], "d": {"x": 1, "y": 2}}
