"""Writes outputs/index.html, a self-contained page that lists all recorded runs. It reads run folders and nothing else."""

import os
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, PackageLoader

from tapecheck import runs
from tapecheck.errors import OutputError
from tapecheck.runs import Run


def write(out: Path) -> Path:
    """Write the page of an output folder and return its path.

    Raises:
        OutputError: it cannot be written.
    """
    templates = Environment(loader=PackageLoader("tapecheck"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    templates.filters["moment"] = _moment
    page = out / "index.html"
    found = runs.listed(out)
    html = templates.get_template("index.html").render(runs=[_row(run, out) for run in found])
    try:
        out.mkdir(parents=True, exist_ok=True)
        part = page.with_name(".index.html.part")
        part.write_text(html, encoding="utf-8")
        part.replace(page)
    except OSError as error:
        raise OutputError(f"{page} cannot be written: {error.strerror}") from error
    return page


def _row(run: Run, out: Path) -> dict[str, object]:
    link = quote(os.path.relpath(run.folder, out))
    files = [name for name in ("report.html", "notebook.ipynb", "result.json", "trace.json") if (run.folder / name).exists()]
    charts = sorted(p.name for p in run.folder.glob("*.png"))
    return {"folder": run.folder.name, "result": run.result, "problem": run.problem, "link": link, "files": files, "charts": charts}


def _moment(text: str) -> str:
    return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%S UTC")
