"""What papermill gives a notebook is told from what somebody tries out in it."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from tapecheck import notebook

DECLARED = 'target: str = "t"  # what\nrounds: int = 0  # how many'


@pytest.mark.parametrize(
    ("cells", "names"),
    [
        ([DECLARED, "# Parameters\ndrill = 'redis'\nrounds = 3\n", "settings()"], ["drill", "rounds"]),
        ([DECLARED, '# Parameters\nraunds = [1, 2]\nproofs = {"a": None}\n', "settings()"], ["raunds", "proofs"]),
        (["%matplotlib inline", DECLARED, "# Parameters\nnosuch = -1.5\n", "settings()"], ["nosuch"]),
        ([DECLARED, "settings()"], []),
        ([DECLARED, "drill = 'mine'", "settings()"], []),
        (["# Parameters\nmine = 3", DECLARED, "settings()"], []),
        ([DECLARED, "settings()", "# Parameters\nmine = 3", "settings()"], []),
        ([DECLARED, "# Parameters\nfor name in ():\n    pass", "settings()"], []),
        ([DECLARED, "# Parameters\ndrill = 1", "settings()", DECLARED, "settings()"], []),
        ([DECLARED], []),
        ([], []),
    ],
    ids=[
        *("papermill", "any value", "after a magic", "nothing given", "own variable", "before"),
        *("later", "no literals", "cell deleted", "first", "none"),
    ],
)
def test_only_the_cell_that_papermill_puts_after_the_parameters_counts(
    cells: list[str], names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable of one's own in an interactive session is no parameter, wherever it is set."""
    shell = types.SimpleNamespace(user_ns={"In": ["", *cells]})
    monkeypatch.setitem(notebook.sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    assert notebook.given() == names


def test_the_last_value_of_a_cell_is_shown_whatever_the_user_has_configured(tmp_path: Path) -> None:
    """Where IPython is told to show none, or all, charts and tables would be missing, or doubled."""
    script = (
        "from IPython.terminal.interactiveshell import TerminalInteractiveShell as Shell\n"
        "from tapecheck import notebook\n"
        "shell = Shell.instance(ast_node_interactivity='none', history_length=0)\n"
        "shell.run_cell('x = 1')\nnotebook.settle()\n"
        "shell.run_cell('6 * 7\\n8 * 9')"
    )
    environment = {**os.environ, "IPYTHONDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=100)
    assert ("72" in done.stdout, "42" in done.stdout) == (True, False), done.stderr


def test_outside_of_a_notebook_nothing_is_given_and_nothing_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line and the tests call the same functions."""
    monkeypatch.delitem(notebook.sys.modules, "IPython", raising=False)
    notebook.clear("recording")
    assert notebook.given() == []
