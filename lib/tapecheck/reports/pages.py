"""The two pages: index.html, which lists all runs, and executive.html, one page on the last run of each validation."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from tapecheck.reports import exports, markdown, overview
from tapecheck.reports.overview import Entry, Overview, moment, number
from tapecheck.runs import folders
from tapecheck.text import legal
from tapecheck.verdict import words

FILES = ("report.html", "notebook.ipynb", "result.json", "trace.json")
MOST = 5  # objectives that a run missed and that the list names; its report has the others
WIDTH, HEIGHT, MARGIN = 150, 32, 4  # of a sparkline, in pixels


def index(overview: Overview, others: Sequence[str]) -> str:
    """Write the page that lists all runs; `others` are the reports beside it."""
    rows = [{"entry": entry, **_files(entry)} for entry in overview.entries]
    return _environment().get_template("index.html").render(overview=overview, rows=rows, others=others)


def executive(overview: Overview, now: datetime | None = None) -> str:
    """Write the page that says what is broken, the evidence and the next action; `now` is when."""
    briefs = [markdown.of(standing) for standing in overview.standings]
    at = now or datetime.now(UTC)
    return _environment().get_template("executive.html").render(overview=overview, briefs=briefs, now=at)


@cache
def _environment() -> Environment:
    templates = Environment(
        loader=PackageLoader("tapecheck.reports"), autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_shown
    )
    templates.filters.update(moment=moment, words=words, number=number, polyline=polyline, last_step=lambda path: Path(path).name)
    templates.globals.update(width=WIDTH, height=HEIGHT, most=MOST)
    return templates


def _files(entry: Entry) -> dict[str, list[str]]:
    names = {path.name for path in entry.folder.iterdir()}
    return {"files": [name for name in FILES if name in names], "charts": sorted(n for n in names if Path(n).suffix == ".png")}


def _shown(value: object) -> object:
    """Return what a template prints, without what no page can show; what is markup already was made of such."""
    return legal(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def polyline(values: Sequence[float]) -> list[tuple[float, float]]:
    """Return the points of a sparkline, from left to right; all alike lie in the middle."""
    low, high = min(values), max(values)
    step = (WIDTH - 2 * MARGIN) / max(len(values) - 1, 1)
    shares = [(value - low) / (high - low) if high > low else 0.5 for value in values]
    return [(round(MARGIN + i * step, 1), round(HEIGHT - MARGIN - share * (HEIGHT - 2 * MARGIN), 1)) for i, share in enumerate(shares)]


# ---- index ----

INDEX = "index.html"
REPORTS = ("executive.html", "summary.md", "junit.xml", "metrics.txt")


def write(out: Path) -> Path:
    """Write the page and the reports of an output folder, and return the page's path. Raises OutputError: one cannot be written."""
    found = overview.read(out)
    texts = (executive(found), markdown.text(found), exports.junit(found), exports.openmetrics(found))
    for name, text in zip((*REPORTS, INDEX), (*texts, index(found, REPORTS)), strict=True):
        folders.write_file(out / name, text.encode())
    return out / INDEX
