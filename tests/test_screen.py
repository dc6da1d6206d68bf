"""What papermill gives a notebook is told from what somebody tries out in it."""

import dataclasses
import functools
import os
import subprocess
import sys
import types
from pathlib import Path

import html5lib
import nbformat
import pytest
from nbclient import NotebookClient
from recorded_runs import put

from tapecheck import config, notebook
from tapecheck.validation import checks
from tapecheck.verdict import Check, Verdict

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


# ---- tables ----


def test_a_table_has_its_worst_rows_first_and_says_what_it_leaves_out() -> None:
    """Two hundred checks: sixty are shown, those that failed among them, and the file that has all; what a name looks like stays text."""
    met = [Check(name=f"s{i}", objective="p95_ms < 1", value=0.5, bound=0.5, n=9, verdict=Verdict.PASS, reason="met") for i in range(198)]
    missed = [dataclasses.replace(met[0], name=name, verdict=Verdict.FAIL, reason="<b>late</b>") for name in ("bad", "worse")]
    tree = html5lib.parse(notebook.table(checks([*met, *missed])), namespaceHTMLElements=False)
    rows = [["".join(cell.itertext()) for cell in row] for row in tree.iter("tr")]
    assert rows[0][:2] == ["scenario", "objective"] and [row[0] for row in rows[1:4]] == ["bad", "worse", "s0"]
    assert (len(rows), rows[1][-2:]) == (61, ["fail", "<b>late</b>"])
    assert "".join(tree.find(".//caption").itertext()) == "60 of 200 rows; all of them are in checks.csv of the run folder"
    looks = {cell.text: cell.get("style") for cell in tree.iter("td")}
    assert looks["fail"] != looks["pass"] != looks["met"]


# ---- what a kernel shows becomes a file ----

RUN = """\
from pathlib import Path
from tapecheck import charts, notebook
from tapecheck.reports import pages
from tapecheck.runs import folders
from tapecheck.runs.outcomes import Recorded
notebook.settle()
'the plan'"""
RECORD = "run = folders.read({folder!r})\npages.publish(Recorded(result=run.head, folder=run.folder))"


def test_a_run_of_a_bare_kernel_has_its_notebook_its_report_and_the_pages(tmp_path: Path) -> None:
    """As in JupyterLab: a cell that ran twice, however changed, stands there as it ran last, two of equal code stand twice.

    What was run before the parameters were read last is gone, and no later cell is taken for them.
    """
    folder = put(tmp_path, "load", 0)
    shipped = nbformat.read(config.NOTEBOOKS / "load.ipynb", as_version=4)
    cell, prose = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell
    given, papermill, mine, equal = shipped.cells[1].source, "# Parameters\nrounds = 3", "limit: int = 5", "print('equal')"
    record, shown = RECORD.format(folder=str(folder)), "notebook.show(verdict='**FAIL**')"
    ran = [
        ("a", given),
        ("g", papermill),
        ("b", RUN),
        ("c", "print('of an earlier run')"),
        ("b", RUN),
        ("d", "print('changed')"),
        ("d", shown),
    ]
    ran += [("e", equal), ("f", mine), ("h", equal), ("i", "notebook.amend(verdict='**PASS**')"), ("j", record), ("k", "'later'")]
    written = [prose("# Mine?"), cell(given, metadata={"tags": ["parameters"]}), cell(RUN), cell(equal), prose("after")]
    nbformat.write(nbformat.v4.new_notebook(cells=written), opened := tmp_path / "mine.ipynb")
    run = nbformat.v4.new_notebook(cells=[cell(code) for _, code in ran])
    client = NotebookClient(run, kernel_name="python3", timeout=60)
    with client.setup_kernel(env={**os.environ, "JPY_SESSION_NAME": str(opened)}):
        message = client.kc.session.msg
        for at, (name, _) in enumerate(ran):
            client.kc.session.msg = functools.partial(message, metadata={"cellId": name})  # as JupyterLab names them
            client.execute_cell(run.cells[at], at)
    kept = nbformat.read(folder / "notebook.ipynb", as_version=4)
    codes = [given, papermill, RUN, shown, equal, mine, equal, "notebook.amend(verdict='**PASS**')", record]
    assert [one.source for one in kept.cells] == ["# Mine?", *codes, "after"]
    report = (folder / "report.html").read_text()
    assert report.count("equal") == 2
    for said in ("the plan", "PASS", "load: not_proven, recorded in", "Load of sandbox: not proven"):
        assert said in report, said
    assert not [said for said in ("FAIL", "later", "earlier") if said in report]
    assert (tmp_path / "index.html").exists() and f"{folder.name}/report.html" in (tmp_path / "index.html").read_text()
