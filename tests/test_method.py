"""docs/METHOD.md says what the code says."""

import re
from pathlib import Path

import pytest
from benchmarks import report
from benchmarks.__main__ import PARTS

from tapecheck.load.samples import UNITS

PAGE = (Path(__file__).parents[1] / "docs" / "METHOD.md").read_text(encoding="utf-8")


def test_every_column_of_the_samples_is_explained() -> None:
    """The table of the page is the table of the code, word for word."""
    table = re.findall(r"^\| `(\w+)` \| (.+) \|$", PAGE.partition("## The columns")[2].partition("\n## ")[0], re.MULTILINE)
    assert dict(table) == UNITS


@pytest.mark.parametrize("part", PARTS)
def test_figures_of_the_bench_stand_between_marks(part: str) -> None:
    """One block for each part, so that a run can replace it."""
    assert PAGE.count(report.BEGIN.format(part)) == PAGE.count(report.END.format(part)) == 1
