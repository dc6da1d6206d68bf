"""The page that explore.ipynb leaves: its figures and tables in one file, which needs neither kernel nor network. Names in it are text."""

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from plotly.offline import get_plotlyjs

from tapecheck import notebook, text
from tapecheck.explore.catalog import Opened
from tapecheck.explore.figures import Drawn
from tapecheck.runs.page import allowed
from tapecheck.runs.results import Result
from tapecheck.verdict import words

POLICY = "default-src 'none'; {}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
LONGEST = 200  # characters of a cell in plain text
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 90rem; padding: 0 1rem; color: #222; background: #fff; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .3rem; } h1, p { overflow-wrap: anywhere; }
p { margin: .2rem 0; color: #555; } .verdict { font-weight: 700; color: #222; } figure { margin: 0; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; }
th, td { border-bottom: 1px solid #ddd; padding: .25rem .6rem; text-align: left; vertical-align: top; max-width: 24rem; }
nav a { margin-right: 1rem; }
@media print { .wide table { width: auto !important; } td { overflow-wrap: anywhere; } }
"""
DRAW = """
for (const {id, figure: {data, layout}} of JSON.parse(document.getElementById("figures").textContent)) {
  if (matchMedia("(max-width: 600px)").matches) {  // a line of the legend for each, below the axes
    const rows = 19 * new Set(data.map(one => one.name)).size;
    Object.assign(layout.margin, {l: 45, r: 5, b: 60 + rows});
    layout.height += rows - 80;
    Object.assign(layout.legend, {yref: "container", y: 0, yanchor: "bottom", maxheight: 1});
  }
  Plotly.newPlot(id, data, layout, {responsive: true, displaylogo: false});
}
"""


def table(frame: pd.DataFrame, said: str) -> dict[str, Any]:
    """Return a table as a notebook shows it, every column of it, and every text in it as text."""
    plain = text.legal(frame.to_string(index=False, max_colwidth=LONGEST)) if len(frame) else "(no rows)"
    return {"text/html": f"<p>{_said(said)}</p>{_table(frame)}", "text/plain": f"{said}\n{plain}"}


def _table(frame: pd.DataFrame) -> str:
    wide = text.legal(notebook.table(frame)).replace("<table ", '<table style="width: max-content" ', 1)
    return f'<div class="wide tex2jax_ignore mathjax_ignore" style="overflow-x: auto">{wide}</div>' if len(frame) else "<p>no rows</p>"


def html_page(run: Opened, result: Result, drawn: Sequence[Drawn], tables: Mapping[str, tuple[pd.DataFrame, str]], where: str) -> str:
    """Return the whole page of a run, judged as `result` says; its figures lie in it as data, which no text can leave."""
    figures = [{"id": f"figure{i}", "figure": one.plain(titled=False)} for i, one in enumerate(drawn)]
    data = json.dumps(figures, allow_nan=False).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    parts = {
        one.title: f"<figure><figcaption><p>{_said(one.caption)}</p></figcaption>"
        f'<div id="figure{i}" role="group" aria-label="{_said(f"{one.title}: {one.caption}")}"></div></figure>'
        for i, one in enumerate(drawn)
    }
    parts |= {name: f"<p>{_said(said)}</p>{_table(frame)}" for name, (frame, said) in tables.items()}
    contents = "".join(f'<a href="#part{i}">{_said(name)}</a>' for i, name in enumerate(parts))
    sections = "\n".join(f'<section><h2 id="part{i}">{_said(name)}</h2>{part}</section>' for i, (name, part) in enumerate(parts.items()))
    target, passed = run.head.target, sum(check.verdict == "pass" for check in result.checks)
    title = f"{run.head.validation} of {target.name}: run {run.head.run_id}"
    about = [
        f"Target {target.name}{target.base_url and f' ({target.base_url})'}, measured {run.head.started_at:%Y-%m-%d %H:%M:%S} UTC.",
        f"{passed} of {len(result.checks)} checks met. {result.headline}{' As recorded.' if result is run.head else ''}",
        f"Shown: {where or 'everything, without filter'}.",
    ]
    policy = POLICY.format(allowed(library := get_plotlyjs(), DRAW))
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{_said(title)}</title><style>{STYLE}</style></head>\n'
        f'<body><h1>{_said(title)}</h1><p class="verdict">{_said(words(result.verdict).upper())}</p>'
        f"{''.join(f'<p>{_said(line)}</p>' for line in about)}<nav>{contents}</nav>\n{sections}\n"
        f'<script type="application/json" id="figures">{data}</script>\n<script>{library}</script>\n'
        f"<script>{DRAW}</script>\n</body></html>\n"
    )


def _said(said: str) -> str:
    """Return a text as a page shows it."""
    return html.escape(text.line(said))
