"""The pages: index.html lists all runs, executive.html sums up the last of each validation, and report.html is one run in full."""

import base64
import hashlib
import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from html import unescape
from pathlib import Path

import bleach
import nbformat
from bleach.css_sanitizer import CSSSanitizer
from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from PIL import Image

from tapecheck.reports import exports, markdown, overview
from tapecheck.reports.overview import TITLES, Entry, Overview, moment, number
from tapecheck.runs import folders
from tapecheck.runs.results import Result
from tapecheck.text import legal
from tapecheck.verdict import cut, words

WIDTH, HEIGHT, MARGIN = 150, 32, 4  # of a sparkline, in pixels
LONGEST = 150  # characters of what the list says of a run; its report says the rest: a thousand rows are a megabyte
MOST_BYTES = 5_000_000  # of a picture that a page holds


def index(overview: Overview, others: Sequence[str]) -> str:
    """Write the page that lists all runs; `others` are the reports beside it."""
    return _environment().get_template("index.html").render(overview=overview, others=others)


def executive(overview: Overview, now: datetime | None = None) -> str:
    """Write the page that says what is broken, the evidence and the next action; `now` is when."""
    briefs = [markdown.of(standing) for standing in overview.standings]
    at = now or datetime.now(UTC)
    return _environment().get_template("executive.html").render(overview=overview, briefs=briefs, now=at)


@cache
def _environment() -> Environment:
    loader = PackageLoader("tapecheck.reports")
    templates = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_shown)
    script = loader.get_source(templates, "index.js")[0].strip()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    templates.filters.update(moment=moment, words=words, number=number, polyline=polyline, short=lambda at: f"{at:%Y-%m-%d %H:%M:%S}")
    templates.filters.update(alt=_alt, embedded=_embedded, found=_found, title_of=lambda name: TITLES[name])
    templates.globals.update(width=WIDTH, height=HEIGHT, script=Markup(script), script_hash=f"sha256-{digest}")  # noqa: S704 - our own file
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


def _shown(value: object) -> object:
    """Return what a template prints, without what no page can show; what is markup already was made of such."""
    return legal(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def polyline(values: Sequence[float]) -> list[tuple[float, float]]:
    """Return the points of a sparkline, from left to right; all alike lie in the middle."""
    low, high = min(values), max(values)
    step = (WIDTH - 2 * MARGIN) / max(len(values) - 1, 1)
    shares = [(value - low) / (high - low) if high > low else 0.5 for value in values]
    return [(round(MARGIN + i * step, 1), round(HEIGHT - MARGIN - share * (HEIGHT - 2 * MARGIN), 1)) for i, share in enumerate(shares)]


INDEX = "index.html"
REPORTS = ("executive.html", "summary.md", "junit.xml", "metrics.txt")


def write(out: Path) -> Path:
    """Write the page and the reports of an output folder, and return the page's path. Raises OutputError: one cannot be written."""
    found = overview.read(out)
    texts = (executive(found), markdown.text(found), exports.junit(found), exports.openmetrics(found))
    for name, text in zip((*REPORTS, INDEX), (*texts, index(found, REPORTS)), strict=True):
        folders.write_file(out / name, text.encode())
    return out / INDEX


# ---- one run ----

TAGS = {
    *bleach.ALLOWED_TAGS, "br", "caption", "col", "colgroup", "dd", "del", "details", "div", "dl", "dt", "h1", "h2", "h3", "h4", "h5", "h6",
    "hr", "p", "pre", "s", "span", "sub", "summary", "sup", "table", "tbody", "td", "tfoot", "th", "thead", "tr",
}  # fmt: skip
ATTRIBUTES = {"*": ["class", "id", "style"], "a": ["href"], "td": ["colspan", "rowspan"], "th": ["colspan", "rowspan", "scope"]}
STYLES = ["text-align", "color", "background-color"]
_NO_TEXT = re.compile(r"<(script|style)\b.*?</\1\s*>", re.IGNORECASE | re.DOTALL)  # elements whose content is no text to show
_HEADING = re.compile(r'<h2 id="([^"]*)">(.*?)</h2>', re.DOTALL)
_ANCHOR = re.compile(r'<a class="anchor-link" href="[^"]*">[^<]*</a>')
_TABLE = '<div class="table" tabindex="0" role="region" aria-label="table {}">'
DATA = (".json", ".csv", ".jsonl", ".parquet", ".md", ".ipynb")


def report(executed: nbformat.NotebookNode, folder: Path | None = None) -> str:
    """Return one run as a page of its own: an executed notebook's prose and outputs, without its code and without any script.

    What is said of the run is read from its folder, and so are the files that are named; of an attempt without a result nothing is.
    """
    from nbconvert import HTMLExporter  # a second that only who writes a report pays

    hide = {"exclude_input": True, "exclude_input_prompt": True, "exclude_output_prompt": True}
    exporter = HTMLExporter(template_name="basic", embed_images=True, sanitize_html=True, **hide)  # type: ignore[no-untyped-call]
    exporter.register_filter("clean_html", _clean)  # type: ignore[no-untyped-call]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        body = _ANCHOR.sub("", str(exporter.from_notebook_node(executed)[0]))
    body = re.sub(r"<script\b.*?</script\s*>", "", body, flags=re.IGNORECASE | re.DOTALL)  # the exporter's own
    parts = re.split(r"(?=<table\b)|(?<=</table>)", body)
    body = "".join(f"{_TABLE.format(n)}{part}</div>" if part.startswith("<table") else part for n, part in enumerate(parts))
    contents = [(unescape(anchor), unescape(re.sub(r"<[^>]*>", "", text))) for anchor, text in _HEADING.findall(body)]
    run = _head(folder)
    title = (
        f"{TITLES[run.validation]} of {run.target.name}: {words(run.verdict)}, {moment(run.started_at)}"
        if run
        else "A run without a result"
    )
    files = sorted(one.name for one in folder.iterdir() if one.suffix in DATA) if run and folder else []
    safe = Markup(body)  # noqa: S704 - each text and output of it went through bleach
    return _environment().get_template("report.html").render(title=title, run=run, contents=contents, body=safe, files=files)


def _head(folder: Path | None) -> Result | None:
    """Return how the result of a run folder begins, if it has one."""
    return folders.read(folder).head if folder and (folder / folders.RESULT).exists() else None


def _clean(output: str) -> str:
    """Return what prose or an output says in HTML, with no element or attribute but those that format text."""
    style = CSSSanitizer(allowed_css_properties=STYLES)
    return str(bleach.clean(_NO_TEXT.sub("", output), tags=TAGS, attributes=ATTRIBUTES, css_sanitizer=style, strip=True))


def keep(executed: nbformat.NotebookNode, folder: Path) -> None:
    """Put an executed notebook into a run folder, and the run's page."""
    folders.write_file(folder / "report.html", report(executed, folder).encode())
    folders.write_file(folder / "notebook.ipynb", nbformat.writes(executed).encode())  # type: ignore[no-untyped-call]
