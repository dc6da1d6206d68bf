"""One run as a page: report.html, made from an executed notebook and from what its folder holds; and the look that all pages share."""

import base64
import hashlib
import itertools
import re
import warnings
from functools import cache
from html import unescape
from pathlib import Path
from typing import Any

import bleach
import nbformat
from bleach.css_sanitizer import CSSSanitizer
from jinja2 import ChoiceLoader, Environment, PackageLoader
from markupsafe import Markup

from tapecheck import notebook
from tapecheck.runs import folders
from tapecheck.runs.outcomes import Recorded
from tapecheck.runs.results import TITLES, Result, moment
from tapecheck.text import legal
from tapecheck.verdict import words

TAGS = {
    *bleach.ALLOWED_TAGS, "br", "caption", "col", "colgroup", "dd", "del", "details", "div", "dl", "dt", "h1", "h2", "h3", "h4", "h5", "h6",
    "hr", "p", "pre", "s", "span", "sub", "summary", "sup", "table", "tbody", "td", "tfoot", "th", "thead", "tr",
}  # fmt: skip
ATTRIBUTES = {"*": ["class", "id", "style"], "a": ["href"], "td": ["colspan", "rowspan"], "th": ["colspan", "rowspan", "scope"]}
STYLES = ["text-align", "color", "background-color"]
_NO_TEXT = re.compile(r"<(script|style)\b.*?</\1\s*>", re.IGNORECASE | re.DOTALL)  # elements whose content is no text to show
_HEADING = re.compile(r'<h2 id="([^"]*)">(.*?)</h2>', re.DOTALL)
_ANCHOR = re.compile(r'<a class="anchor-link" href="[^"]*">[^<]*</a>')
_REGION = '<div class="{0}" tabindex="0" role="region" aria-label="{0} {1}">'  # that scrolls sideways
DATA = (".json", ".csv", ".jsonl", ".parquet", ".md", ".ipynb")


@cache
def environment(package: str) -> Environment:
    """Return the templates of a package, with the look that all pages share."""
    loader = ChoiceLoader([PackageLoader(name) for name in dict.fromkeys((package, "tapecheck.runs"))])
    templates = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_shown)
    templates.filters.update(moment=moment, words=words, short=lambda at: f"{at:%Y-%m-%d %H:%M:%S}", title_of=lambda name: TITLES[name])
    return templates


def allowed(*scripts: str) -> str:
    """Return the directive of a content security policy by which these scripts run, named by their hashes, and no others."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    return " ".join(["script-src", *(f"'sha256-{digest}'" for digest in digests)])


def _shown(value: object) -> object:
    """Return what a template prints, without what no page can show; what is markup already was made of such."""
    return legal(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def report(executed: nbformat.NotebookNode, folder: Path | None = None) -> str:
    """Return one run as a page of its own: an executed notebook's prose and outputs, without its code and without any script.

    What is said of the run is read from its folder, and so are the files that are named; of an attempt without a result nothing is.
    """
    from nbconvert import HTMLExporter  # a second that only who writes a report pays

    hide = {"exclude_input": True, "exclude_input_prompt": True, "exclude_output_prompt": True}
    exporter = HTMLExporter(template_name="basic", embed_images=True, sanitize_html=True, **hide)  # type: ignore[no-untyped-call]
    exporter.register_filter("clean_html", _clean)  # type: ignore[no-untyped-call]
    for output in (output for cell in executed.cells for output in cell.get("outputs", ()) if Recorded.MIME in output.get("data", {})):
        output.data.pop("text/html", None)  # a link from where the notebook lies
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        body = _ANCHOR.sub("", str(exporter.from_notebook_node(executed)[0]))
    body = re.sub(r"<script\b.*?</script\s*>", "", body, flags=re.IGNORECASE | re.DOTALL)  # the exporter's own
    parts = re.split(r"(?=<table\b)|(?<=</table>)", body)
    body = "".join(f"{_REGION.format('table', n)}{part}</div>" if part.startswith("<table") else part for n, part in enumerate(parts))
    numbers = itertools.count(1)
    body = re.sub(r"<img [^>]*>", lambda image: f"{_REGION.format('chart', next(numbers))}{image[0]}</div>", body)
    contents = [(unescape(anchor), unescape(re.sub(r"<[^>]*>", "", text))) for anchor, text in _HEADING.findall(body)]
    run = _head(folder)
    title = (
        f"{TITLES[run.validation]} of {run.target.name}: {words(run.verdict)}, {moment(run.started_at)}"
        if run
        else "A run without a result"
    )
    files = sorted(one.name for one in folder.iterdir() if one.suffix in DATA) if run and folder else []
    safe = Markup(body)  # noqa: S704 - each text and output of it went through bleach
    return environment("tapecheck.runs").get_template("report.html").render(title=title, run=run, contents=contents, body=safe, files=files)


def transcript(path: Path, recorded: Recorded) -> nbformat.NotebookNode:
    """Return the notebook of this kernel as far as it was run: the prose of a notebook file, and code and outputs as they were.

    The cell that runs has recorded a run and will show it.
    """
    shipped = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    rest: list[nbformat.NotebookNode] = list(shipped.cells)
    cells: list[nbformat.NotebookNode] = []
    for ran in notebook.history():
        is_given = [not cells and "parameters" in cell.metadata.get("tags", ()) for cell in rest]  # the first that ran, however edited
        same = [given or (cell.cell_type == "code" and cell.source == ran.code) for cell, given in zip(rest, is_given, strict=True)]
        upto = same.index(True) if any(same) else 0
        cells += [cell for cell in rest[:upto] if cell.cell_type == "markdown"]
        rest = rest[upto + any(same) :]
        cell = nbformat.v4.new_code_cell(ran.code, execution_count=ran.number)  # type: ignore[no-untyped-call]
        cell.outputs = [_output(kind, body, ran.number) for kind, body in ran.outputs]
        cells.append(cell)
    cells[-1].outputs.append(_output("display_data", {"data": recorded._repr_mimebundle_(), "metadata": {}}, 0))
    after = [cell for cell in rest if cell.cell_type == "markdown"]
    return nbformat.v4.new_notebook(cells=[*cells, *after], metadata=shipped.metadata)  # type: ignore[no-untyped-call, no-any-return]


def _output(kind: str, body: dict[str, Any], number: int) -> Any:
    """Return what a message showed as an output of a notebook, in which a picture is text."""
    fields = {name: value for name, value in body.items() if name not in ("transient", "execution_count")}
    if "data" in fields:
        data = fields["data"].items()
        fields["data"] = {kind: base64.b64encode(one).decode() if isinstance(one, bytes) else one for kind, one in data}
    more = {"execution_count": number} if kind == "execute_result" else {}
    return nbformat.v4.new_output(kind, **fields, **more)  # type: ignore[no-untyped-call]


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
