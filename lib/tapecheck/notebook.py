"""The notebook that this process runs: what it shows of its verdict, what it has shown so far, and the parameters that papermill gave it.

A cell that fails or is interrupted leaves no verdict of an earlier run on screen.
"""

import ast
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Any, TypeVar

from tapecheck import text

StatementT = TypeVar("StatementT", bound=ast.stmt)

NO_VERDICT = "*No verdict yet; the one that was here is of an earlier run.*"
_shown: set[str] = set()
_cells: dict[str, "Cell"] = {}  # since the parameters were read last, by the message that had each run


@dataclass(frozen=True, slots=True)
class Cell:
    """A code cell that was run: how many were before it, its code, the notebook's name for it, and its outputs, by their kind."""

    number: int
    code: str
    name: str
    outputs: list[tuple[str, dict[str, Any]]]


def show(**parts: Any) -> None:
    """Display each part where `clear` can reach it; text is Markdown, and a dict a bundle of MIME types."""
    for name, part in parts.items():
        _display(part, name)
        _shown.add(name)


def amend(**parts: Any) -> None:
    """Replace what `show` displayed, where it is on screen."""
    for name, part in parts.items():
        if name in _shown:
            _display(part, name, update=True)


def clear(*variables: str) -> None:
    """Take what `show` displayed off the screen, and variables of an earlier run out of the notebook."""
    for name in _shown:
        _display(NO_VERDICT, name, update=True)
    _shown.clear()
    for name in variables:
        _variables().pop(name, None)


def shell() -> Any:
    """Return IPython's shell; None where this is no notebook."""
    return sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None


def _variables() -> dict[str, Any]:
    """Return the notebook's variables; none where this is no notebook."""
    return found.user_ns if (found := shell()) else {}


def settle() -> None:
    """Undo in a notebook what the user's files set: options of IPython and pandas, NumPy's handling of errors, filters of warnings."""
    if not _variables():
        return
    shell().ast_node_interactivity = "last_expr"  # from the next cell on, its last value is shown again
    if hasattr(shell(), "kernel"):
        _redact_messages(shell().kernel.session)
        _listen(shell().kernel.session)
        _begin(shell().kernel.get_parent("shell"))
    import numpy as np
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of options that are deprecated
        pd.reset_option("^(display|styler|mode|compute|future)[.]")
    pd.set_option("display.max_colwidth", None)  # a reason that is cut off is no reason
    shell().display_formatter.formatters["text/html"].for_type(pd.DataFrame, table)
    np.seterr(divide="warn", over="warn", under="ignore", invalid="warn")
    warnings.resetwarnings()
    for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", category)  # as Python does by itself


MOST_ROWS = 60  # of a table
COLOURS = {  # of a cell that is a verdict: background, of which black text stands off in a light and in a dark look
    "pass": "#cfe8df", "fail": "#f7cdb8", "missed": "#f7cdb8", "invalid": "#dddddd", "no data": "#dddddd", "not proven": "#f6e3a8",
}  # fmt: skip


def table(frame: Any) -> str:
    """Return a pandas frame as HTML: verdicts in colour, and of too many rows the first, with how many there are and where the others."""
    columns = [name or "" for name in frame.index.names] if any(frame.index.names) or frame.index.dtype == object else []
    columns += [str(name) for name in frame.columns]
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    named = len(columns) - len(frame.columns)
    body = "".join(f"<tr>{_row(row if named else row[1:], named)}</tr>" for row in _rows(frame.iloc[:MOST_ROWS]))
    where = f"; all of them are in {frame.attrs['file']} of the run folder" if "file" in frame.attrs else ""
    left_out = f"{MOST_ROWS} of {len(frame):,} rows{where}" if len(frame) > MOST_ROWS else ""
    caption = f"<caption>{escape(left_out)}</caption>" if left_out else ""
    return f'<table class="dataframe">{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _rows(frame: Any) -> Iterator[tuple[Any, ...]]:
    for index, *cells in frame.itertuples(name=None):
        yield (*(index if isinstance(index, tuple) else (index,)), *cells)


def _row(cells: tuple[Any, ...], named: int) -> str:
    texts = ["" if cell is None or cell != cell else str(cell) for cell in cells]
    colours = [COLOURS.get(text.replace("_", " ").lower()) for text in texts]
    looks = [f"text-align: left; background-color: {one}; color: #1b1b1b" if one else "text-align: left" for one in colours]
    texts = [text.replace("_", " ") if colour else text for text, colour in zip(texts, colours, strict=True)]
    heads = [f'<th scope="row" style="text-align: left">{escape(text)}</th>' for text in texts[:named]]
    return "".join([*heads, *(f'<td style="{look}">{escape(text)}</td>' for text, look in zip(texts[named:], looks[named:], strict=True))])


def _redact_messages(session: Any) -> None:
    """Let no secret into any message of a kernel: whatever a cell shows, prints or raises is blanked out when it is packed."""
    pack = session.pack
    if not hasattr(pack, "redacts"):
        session.pack = lambda content: text.redact_bytes(pack(content))
        session.pack.redacts = True


def _begin(request: Any) -> None:
    """Keep of what was run only the parameters and the cell that runs, which reads them."""
    codes, of = shell().history_manager.input_hist_raw, request["header"]["msg_id"]
    runs = _cells.get(of) or Cell(len(codes) - 1, codes[-1], _name(request), [])
    _cells.clear()
    _cells.update({f"parameters {at}": Cell(at, codes[at], f"parameters {at}", []) for at in _declared()[-1:] + _given()}, **{of: runs})


def _name(request: Any) -> str:
    """Return what tells a cell from the others: its name in the notebook, or where the client says none, as papermill, the request."""
    return str(request.get("metadata", {}).get("cellId") or request["header"]["msg_id"])


def _listen(session: Any) -> None:
    """Keep what cells show from now on, the one that runs included: no kernel is told what stands in its notebook."""
    send = session.send
    if hasattr(send, "listens"):
        return

    def sent(stream: Any, message: Any, content: Any = None, parent: Any = None, *more: Any, **options: Any) -> Any:
        is_whole = isinstance(message, dict)
        kind, body = (message["header"]["msg_type"], message["content"]) if is_whole else (message, content)
        of = (message if is_whole else {"parent_header": (parent or {}).get("header", parent) or {}})["parent_header"].get("msg_id", "")
        if kind == "execute_input":
            _run(of, Cell(body["execution_count"], body["code"], _name(parent), []))
        elif kind in ("display_data", "execute_result", "stream", "error") and of in _cells:
            _cells[of].outputs.append((kind, body))
        elif kind == "update_display_data":
            _update(body)
        return send(stream, message, content, parent, *more, **options)

    sent.listens = True  # type: ignore[attr-defined]
    session.send = sent


def _run(of: str, cell: Cell) -> None:
    """Keep a cell in place of the same one when it was run before."""
    for earlier in [message for message, one in _cells.items() if one.name == cell.name]:
        del _cells[earlier]
    _cells[of] = cell


def _update(body: dict[str, Any]) -> None:
    name = body.get("transient", {}).get("display_id")
    for cell in _cells.values():
        for _, shown in cell.outputs:
            if shown.get("transient", {}).get("display_id") == name:
                shown.update(data=body["data"], metadata=body["metadata"])


def history() -> list[Cell]:
    """Return the parameters, the cell that read them last and those run since, in that order; of one that was run again, the last time."""
    return sorted(_cells.values(), key=lambda cell: cell.number)


def given() -> list[str]:
    """Return the names that papermill sets: in a cell of its own, right after the one that declares the parameters."""
    cells = [_statements(_variables()["In"][at], ast.Assign) for at in _given()]
    return [target.id for cell in cells for one in cell for target in one.targets if isinstance(target, ast.Name)]


def _declared() -> list[int]:
    return [at for at, source in enumerate(_variables().get("In", [])) if _statements(source, ast.AnnAssign)]


def _given() -> list[int]:
    """Return where papermill's cell stands, if it is there."""
    sources: list[str] = _variables().get("In", [])
    return [at + 1 for at in _declared()[-1:] if "".join(sources[at + 1 : at + 2]).startswith("# Parameters\n")]


def _statements(source: str, kind: type[StatementT]) -> list[StatementT]:
    """Return the statements of a cell that has no others than of one kind."""
    try:
        found = ast.parse(source).body
    except SyntaxError:  # what IPython alone understands
        return []
    own = [one for one in found if isinstance(one, kind)]
    return own if len(own) == len(found) else []


def _display(part: Any, name: str, *, update: bool = False) -> None:
    from IPython import display  # only a notebook has it at hand, and only a notebook shows anything

    part = {"text/markdown": part, "text/plain": part} if isinstance(part, str) else part
    display.display(part, display_id=f"tapecheck-{name}", raw=isinstance(part, dict), update=update)  # type: ignore[no-untyped-call]
