"""Writes outputs/index.html, a page that lists all recorded runs, and the reports beside it. It reads run folders and nothing else."""

from pathlib import Path

from tapecheck import runs
from tapecheck.reports import comment, junit, metrics, overview, pages

INDEX = "index.html"
REPORTS = ("executive.html", "summary.md", "junit.xml", "metrics.txt")


def write(out: Path) -> Path:
    """Write the page and the reports of an output folder, and return the page's path.

    Raises:
        OutputError: one cannot be written.
    """
    found = overview.read(out)
    texts = (pages.executive(found), comment.text(found), junit.text(found), metrics.text(found))
    for name, text in zip((*REPORTS, INDEX), (*texts, pages.index(found, REPORTS)), strict=True):
        runs.write_file(out / name, text.encode())
    return out / INDEX
