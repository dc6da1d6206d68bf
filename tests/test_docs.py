"""README and docs: short, every link leads somewhere, every command is one that exists."""

import re
import shlex
from pathlib import Path

import pytest

from tapecheck import __main__ as command_line

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def commands(page: Path) -> list[str]:
    """Return the lines of shell of a page, without their comments."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [line.partition("  #")[0].partition(" # ")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


def test_the_readme_is_short() -> None:
    """What it answers, two commands, a picture, your own system, the notebooks, where to read on."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_link_leads_somewhere(page: Path) -> None:
    """Files exist; a part of a page has a heading of its name."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        file, _, part = target.partition("#")
        found = (page.parent / file) if file else page
        assert found.exists(), target
        if part:
            headings = re.findall(r"^#+ (.+)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            assert part in [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings], target


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_command_is_one_that_exists(page: Path) -> None:
    """The command line takes the words, and the Makefile has the target."""
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    parser = command_line._parser()
    for line in commands(page):
        words = shlex.split(line.replace("...", "RUN"))
        if words[:1] == ["make"]:
            assert words[1] in targets, line
        elif words[1:3] == ["-m", "tapecheck"]:
            parser.parse_args(words[3:])
