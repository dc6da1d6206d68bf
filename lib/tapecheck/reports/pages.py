"""The pages over all runs: index.html lists them, executive.html sums up the last of each validation."""

import base64
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup
from PIL import Image

from tapecheck import config, notebook
from tapecheck.reports import exports, markdown, overview
from tapecheck.reports.overview import Entry, Overview, number
from tapecheck.runs import folders, page
from tapecheck.runs.outcomes import Recorded
from tapecheck.runs.results import TITLES
from tapecheck.verdict import cut, words

WIDTH, HEIGHT, MARGIN = 150, 32, 4  # of a sparkline, in pixels
LONGEST = 150  # characters of what the list says of a run; its report says the rest: a thousand rows are a megabyte
MOST_BYTES = 5_000_000  # of a picture that a page holds


def index(overview: Overview, others: Sequence[str], explored: Sequence[str] = ()) -> str:
    """Write the page that lists all runs; `others` are the reports beside it, `explored` the pages that explore.ipynb left."""
    return _environment().get_template("index.html").render(overview=overview, others=others, explored=explored)


def executive(overview: Overview, now: datetime | None = None) -> str:
    """Write the page that says what is broken, the evidence and the next action; `now` is when."""
    briefs = [markdown.of(standing) for standing in overview.standings]
    at = now or datetime.now(UTC)
    return _environment().get_template("executive.html").render(overview=overview, briefs=briefs, now=at)


@cache
def _environment() -> Environment:
    templates = page.environment("tapecheck.reports")
    script = (resources.files("tapecheck.reports") / "templates" / "index.js").read_text(encoding="utf-8").strip()
    templates.filters.update(number=number, polyline=polyline, alt=_alt, embedded=_embedded, found=_found)
    templates.globals.update(width=WIDTH, height=HEIGHT, script=Markup(script), allowed=page.allowed(script))  # noqa: S704 - our own file
    return templates


def _found(entry: Entry) -> str:
    """Say in a line what a run found: how many objectives are met, and what is missed, the first of it by name."""
    first = next((f"; {one.name}: {one.objective}: {words(one.verdict)}" for one in entry.missed), "")
    return cut(f"{entry.met} met{first}{'. ' if entry.result.headline else ''}{entry.result.headline}", LONGEST)


@dataclass(frozen=True, slots=True)
class _Picture:
    uri: str
    alt: str


def _embedded(entry: Entry | None) -> _Picture | None:
    """Return the picture of a run as a page can hold it, so that it may be sent by itself."""
    if entry is None or entry.picture is None or not (data := _read(entry.picture)):
        return None
    return _Picture(uri=f"data:image/png;base64,{base64.b64encode(data).decode()}", alt=_alt(entry))


def _alt(entry: Entry) -> str:
    """Return the text of what a run's picture shows, which the picture itself carries."""
    plain = f"{TITLES[entry.result.validation]}, a chart of run {entry.result.run_id}"
    try:
        with Image.open(io.BytesIO(_read(entry.picture) if entry.picture else b"")) as image:
            return str(image.info.get("Description") or plain)
    except (OSError, ValueError, SyntaxError):
        return plain


def _read(picture: Path) -> bytes:
    """Return a picture of a run folder; nothing of a link to somewhere else, or of what is too large for a page."""
    return b"" if picture.is_symlink() or picture.stat().st_size > MOST_BYTES else picture.read_bytes()


def polyline(values: Sequence[float]) -> list[tuple[float, float]]:
    """Return the points of a sparkline, from left to right; all alike lie in the middle."""
    low, high = min(values), max(values)
    step = (WIDTH - 2 * MARGIN) / max(len(values) - 1, 1)
    shares = [(value - low) / (high - low) if high > low else 0.5 for value in values]
    return [(round(MARGIN + i * step, 1), round(HEIGHT - MARGIN - share * (HEIGHT - 2 * MARGIN), 1)) for i, share in enumerate(shares)]


def publish(recorded: Recorded) -> Recorded:
    """Put the notebook that this kernel runs beside its run, with the run's page, and write all pages anew; return the run.

    It does nothing for a run that is not recorded, without a kernel, or where a batch runs the notebook, which does it when that has ended.

    Raises:
        OutputError: a page cannot be written; the run is recorded.
    """
    if recorded.folder is not None and folders.UNFINISHED_VARIABLE not in os.environ and notebook.history():
        opened = Path(os.environ.get("JPY_SESSION_NAME", ""))  # JupyterLab says which
        file = opened if opened.suffix == ".ipynb" and opened.is_file() else config.NOTEBOOKS / f"{recorded.result.validation}.ipynb"
        page.keep(page.transcript(file, recorded), recorded.folder)
        write(recorded.folder.parents[1])
    return recorded


INDEX = "index.html"
REPORTS = ("executive.html", "summary.md", "junit.xml", "metrics.txt")


def write(out: Path) -> Path:
    """Write the page and the reports of an output folder, and return the page's path. Raises OutputError: one cannot be written."""
    found = overview.read(out)
    texts = (executive(found), markdown.text(found), exports.junit(found), exports.openmetrics(found))
    explored = sorted(f"explore/{one.name}" for one in (out / "explore").glob("*.html"))
    for name, text in zip((*REPORTS, INDEX), (*texts, index(found, REPORTS, explored)), strict=True):
        folders.write_file(out / name, text.encode())
    return out / INDEX
