"""The notebook that this process runs: what it shows of its verdict, and the parameters that papermill gave it.

A cell that fails or is interrupted leaves no verdict of an earlier run on screen.
"""

import ast
import sys
import warnings
from typing import Any, TypeVar

from tapecheck import text

StatementT = TypeVar("StatementT", bound=ast.stmt)

NO_VERDICT = "*No verdict yet; the one that was here is of an earlier run.*"
_shown: set[str] = set()


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
    import numpy as np
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of options that are deprecated
        pd.reset_option("^(display|styler|mode|compute|future)[.]")
    pd.set_option("display.max_colwidth", None)  # a reason that is cut off is no reason
    np.seterr(divide="warn", over="warn", under="ignore", invalid="warn")
    warnings.resetwarnings()
    for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", category)  # as Python does by itself


def _redact_messages(session: Any) -> None:
    """Let no secret into any message of a kernel: whatever a cell shows, prints or raises is blanked out when it is packed."""
    pack = session.pack
    if not hasattr(pack, "redacts"):
        session.pack = lambda content: text.redact_bytes(pack(content))
        session.pack.redacts = True


def given() -> list[str]:
    """Return the names that papermill sets: in a cell of its own, right after the one that declares the parameters."""
    sources: list[str] = _variables().get("In", [])
    declared = [at for at, source in enumerate(sources) if _statements(source, ast.AnnAssign)]
    following = sources[declared[-1] + 1 : declared[-1] + 2] if declared else []
    cells = [_statements(source, ast.Assign) for source in following if source.startswith("# Parameters\n")]
    return [target.id for cell in cells for one in cell for target in one.targets if isinstance(target, ast.Name)]


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
