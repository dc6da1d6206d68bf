"""environment.yml, pyproject.toml and the lock say the same, and none names a package index."""

import functools
import re
import tomllib
from collections import defaultdict

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from rattler import MatchSpec

from tapecheck.config import PROJECT

PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())
LOCK = (PROJECT / "requirements.lock").read_text()
ENVIRONMENT = yaml.safe_load((PROJECT / "environment.yml").read_text())
PYTHONS = ("3.11", "3.12", "3.13")


@functools.cache
def locked() -> dict[str, list[Requirement]]:
    """Return the pins of the lock by canonical name."""
    pins = defaultdict(list)
    for line in LOCK.replace("\\\n", "").splitlines():
        if line and not line[0].isspace() and not line.startswith("#"):
            requirement = Requirement(line.split("--hash")[0].strip())
            pins[canonicalize_name(requirement.name)].append(requirement)
    return pins


DECLARED = [Requirement(text) for text in PYPROJECT["project"]["dependencies"] + PYPROJECT["dependency-groups"]["dev"]]


@pytest.mark.parametrize("wanted", DECLARED, ids=lambda r: r.name)
def test_every_declared_dependency_is_locked_within_its_range(wanted: Requirement) -> None:
    """A pin outside the declared range, or none, would install something that nobody asked for."""
    pins = locked()[canonicalize_name(wanted.name)]
    assert pins, f"{wanted.name} is not in the lock"
    for pin in pins:
        (spec,) = pin.specifier
        assert spec.operator == "=="
        assert wanted.specifier.contains(spec.version, prereleases=True), f"{pin} is outside {wanted}"


@pytest.mark.parametrize("python", PYTHONS)
def test_each_package_has_one_pin_for_each_python(python: str) -> None:
    """The lock's markers choose exactly one version for any Python and system it claims."""
    for system, platform in (("linux", "Linux"), ("darwin", "Darwin")):
        here = {"python_version": python, "python_full_version": f"{python}.1", "sys_platform": system, "platform_system": platform}
        for name, pins in locked().items():
            chosen = [p for p in pins if p.marker is None or p.marker.evaluate(here)]
            assert len(chosen) <= 1, f"{name} on {python}, {system}: {chosen}"


def test_every_pin_has_a_hash() -> None:
    """pip and uv refuse a package whose content changed."""
    entries = re.split(r"\n(?=\S)", "\n".join(line for line in LOCK.splitlines() if not line.strip().startswith("#")))
    assert all("--hash=sha256:" in entry for entry in entries if entry.strip())


@pytest.mark.parametrize("name", ["requirements.lock", "pyproject.toml", "environment.yml", "Makefile"])
def test_no_file_of_the_setup_names_an_index(name: str) -> None:
    """Whoever installs chooses where from."""
    text = (PROJECT / name).read_text()
    assert "://" not in text
    assert "index-url" not in text.replace("--no-emit-index-url", "")


def test_environment_yml_gives_conda_the_same_python_and_pins() -> None:
    """conda provides a Python that pyproject.toml allows, and pip the lock."""
    *conda, pip = ENVIRONMENT["dependencies"]
    specs = {spec.name.normalized: spec for spec in (MatchSpec(text, strict=True) for text in conda)}
    assert set(specs) == {"python", "pip"}
    assert pip == {"pip": ["-r requirements.lock"]}
    allowed = SpecifierSet(PYPROJECT["project"]["requires-python"])
    for minor in range(9, 16):
        assert allowed.contains(f"3.{minor}.1") == (11 <= minor <= 13)
    assert str(specs["python"].version) == PYPROJECT["project"]["requires-python"]


def test_every_dependency_says_why_it_is_there() -> None:
    """Each line of a dependency in pyproject.toml carries its reason."""
    text = (PROJECT / "pyproject.toml").read_text()
    lines = [line for line in text.splitlines() if re.match(r'  "[a-z]', line) and ("=" in line or "types-" in line) and '"E"' not in line]
    names = {canonicalize_name(r.name) for r in DECLARED}
    dependencies = [line for line in lines if canonicalize_name(re.split(r"[\[><=;\"]", line.strip()[1:])[0]) in names]
    assert len(dependencies) == len(DECLARED)
    assert all(re.search(r'",\s+# \w', line) for line in dependencies)
