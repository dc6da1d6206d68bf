"""What a notebook shows of its verdict, so that a cell that fails or is interrupted leaves no verdict of an earlier run on screen."""

import sys
from typing import Any

NO_VERDICT = "*No verdict yet; the one that was here is of an earlier run.*"
_shown: set[str] = set()


def show(**parts: Any) -> None:
    """Display each part where `clear` can reach it; text is Markdown, and a dict a bundle of MIME types."""
    for name, part in parts.items():
        _display({"text/markdown": part, "text/plain": part} if isinstance(part, str) else part, name)
        _shown.add(name)


def clear(*variables: str) -> None:
    """Take what `show` displayed off the screen, and variables of an earlier run out of the notebook."""
    for name in _shown:
        _display({"text/markdown": NO_VERDICT, "text/plain": NO_VERDICT}, name, update=True)
    _shown.clear()
    shell: Any = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    for name in variables if shell else ():
        shell.user_ns.pop(name, None)


def _display(part: Any, name: str, *, update: bool = False) -> None:
    from IPython import display  # only a notebook has it at hand, and only a notebook shows anything

    display.display(part, display_id=f"tapecheck-{name}", raw=isinstance(part, dict), update=update)  # type: ignore[no-untyped-call]
