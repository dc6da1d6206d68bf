"""The notebooks keep the house rules, are committed executed, and equal their goldens."""

import ast
import json
import os
import re
import signal
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import foreign_settings
import nbformat
import papermill
import pytest
from nbclient import NotebookClient
from regenerate import NOTEBOOKS as EVERY
from regenerate import WITH_NOTEBOOK, golden_cell

from tapecheck import __main__ as command_line
from tapecheck import charts, config
from tapecheck import notebook as screen
from tapecheck.explore import catalog
from tapecheck.validation import named

NOTEBOOKS = sorted(config.NOTEBOOKS.glob("*.ipynb"))
RECOVERY = {"rto_rpo": "recovery"}
FORBIDDEN = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Try, ast.Lambda)


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def code(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def golden(validation: str) -> list[nbformat.NotebookNode]:
    return code(Path(__file__).parent / "notebooks" / f"{validation}.ipynb")


@pytest.fixture(params=NOTEBOOKS, ids=lambda p: p.name)
def notebook(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_the_size_of_a_notebook(notebook: Path) -> None:
    """12 to 25 cells, code cells of at most 12 lines with a median of 4, and about as much prose as code."""
    cells, lines = read(notebook).cells, [len(c.source.splitlines()) for c in code(notebook)]
    words = {kind: sum(len(c.source.split()) for c in cells if c.cell_type == kind) for kind in ("markdown", "code")}
    assert 12 <= len(cells) <= 25
    assert max(lines) <= 12
    assert statistics.median(lines) <= 4
    assert words["markdown"] >= words["code"]


def test_no_machinery_in_cells(notebook: Path) -> None:
    """A notebook tells; functions, classes, exception handling, path tricks and installs belong in lib/."""
    for cell in code(notebook):
        assert not [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, FORBIDDEN)], cell.source
        assert not re.search(r"sys\.path|\bpip\b|^[%!]", cell.source, re.MULTILINE), cell.source


def test_the_order_begins_with_title_and_parameters(notebook: Path) -> None:
    """A title with the question, then one parameters cell of typed literals, each with help."""
    first, second, *rest = read(notebook).cells
    assert re.match(r"# .+\?", first.source)
    assert second.metadata.tags == ["parameters"]
    assert not any("parameters" in cell.metadata.get("tags", []) for cell in rest)
    for statement, line in zip(ast.parse(second.source).body, second.source.splitlines(), strict=True):
        assert isinstance(statement, ast.AnnAssign)
        ast.literal_eval(statement.value)
        assert re.search(r"  # .{10,}", line), line
    declared = papermill.inspect_notebook(str(notebook))
    assert {"plan", "run", "out", *(() if notebook.stem == config.EXPLORE else ["target"])} <= set(declared)


@pytest.mark.parametrize("validation", EVERY)
def test_a_notebook_declares_what_is_checked(validation: str) -> None:
    """No parameter of a notebook is unknown to what checks them, and none that it does not declare is known."""
    declared = papermill.inspect_notebook(str(config.NOTEBOOKS / f"{validation}.ipynb"))
    checked = catalog.Settings if validation == config.EXPLORE else named(validation).types.settings
    assert list(declared) == list(checked.model_fields)


def test_plain_papermill_with_an_unknown_parameter_stops_before_anything_is_asked(tmp_path: Path) -> None:
    """papermill itself only warns; with every drill of a misspelled choice that would be a disaster."""
    out, given = tmp_path / "out.ipynb", ["-p", "out", str(tmp_path / "out"), "-y", "{drill: redis_killed, trials: many}"]
    words = ["papermill", str(config.NOTEBOOKS / "rto_rpo.ipynb"), str(out), *given]
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, timeout=100, cwd=tmp_path)
    assert done.returncode != 0
    for said in ("ConfigError", "drill: unknown key `drill`; available: target, plan, run, out, profile,", "trials: got 'many'"):
        assert said in done.stderr
    begun = [cell.source for cell in code(out) if cell.execution_count]
    assert not [source for source in begun if source.startswith("notebook.clear(")]


def test_it_is_committed_executed_in_order_without_errors(notebook: Path) -> None:
    """What is committed was run from top to bottom, and printed no error and no warning."""
    assert [cell.execution_count for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert str(config.PROJECT) not in notebook.read_text(), "a path of one machine"


def test_a_pass_of_the_committed_run_is_shown(notebook: Path) -> None:
    """The committed notebook is a real run of the sandbox with its verdict in bold."""
    text = str([o.get("data", {}).get("text/markdown") for c in code(notebook) for o in c.outputs])
    assert re.findall(r"\*\*([A-Z ]+)\*\* for sandbox", text) == ["PASS"]


@pytest.mark.parametrize("validation", EVERY)
def test_golden_and_notebook_have_the_same_cells(validation: str) -> None:
    """The golden is the shipped notebook with another parameters cell, and nothing else."""
    shipped, golden = (read(folder / f"{validation}.ipynb").cells for folder in (config.NOTEBOOKS, Path(__file__).parent / "notebooks"))
    expected = [golden_cell(validation, c.source) if "parameters" in c.metadata.get("tags", []) else c.source for c in shipped]
    assert [c.source for c in golden] == expected
    assert [c.metadata.get("tags") for c in golden] == [c.metadata.get("tags") for c in shipped]


@pytest.mark.parametrize("validation", EVERY)
def test_the_golden_compares_what_it_shows(validation: str) -> None:
    """nbval compares only executed cells: every code cell of the golden has a count, and at most the record is ignored."""
    cells = golden(validation)
    assert all(cell.execution_count for cell in cells)
    ignored = [c.source.splitlines()[-1] for c in cells if "nbval-ignore-output" in c.metadata.get("tags", [])]
    assert [line.partition("(")[0].rpartition(".")[2] for line in ignored] in ([], ["publish"])
    assert sum(bool(cell.outputs) for cell in cells) >= 10


def test_every_chart_is_drawn() -> None:
    """A chart that neither a notebook nor a command draws is dead: an earlier report function was never called."""
    drawn = "".join(cell.source for path in NOTEBOOKS for cell in code(path)) + Path(command_line.__file__).read_text()
    functions = [
        f for path in Path(charts.__file__).parent.glob("*.py") for f in ast.parse(path.read_text()).body if isinstance(f, ast.FunctionDef)
    ]
    public = {f.name for f in functions if ast.unparse(f.returns or ast.Name("")).endswith("Chart") and f.args.kwonlyargs}
    assert public == set(charts.__all__)
    assert len(public) >= 5
    assert [name for name in public if f"charts.{name}(" not in drawn] == []


class Session:
    """A kernel in which cells are executed one by one, as somebody does in JupyterLab."""

    def __init__(self, sources: Sequence[str]) -> None:
        self.cells = [nbformat.v4.new_code_cell(source) for source in sources]
        resources = {"metadata": {"path": str(Path(__file__).parent)}}
        notebook = nbformat.v4.new_notebook(cells=self.cells)
        self.client = NotebookClient(notebook, kernel_name="python3", timeout=100, allow_errors=True, resources=resources)

    def execute(self, *numbers: int) -> str:
        """Execute some cells, and return what is shown then of the last."""
        for number in numbers:
            self.client.clear_display_id_mapping(number)
            self.client.execute_cell(self.cells[number], number)
        return self.shown(numbers[-1])

    def shown(self, *numbers: int) -> str:
        return str([output for number in numbers for output in self.cells[number].outputs])


WAITING = """
import os, pathlib, threading
read = load.read
load.read = lambda path: (pathlib.Path({!r}).write_text(str(os.getpid())), threading.Event().wait())
"""
STATE = """
import warnings, numpy, pandas
next(one[0] for one in warnings.filters if one[2] is Warning), numpy.geterr()["over"], pandas.get_option("display.max_rows")
"""


def test_a_cell_that_is_interrupted_or_fails_leaves_no_verdict_of_an_earlier_run(tmp_path: Path) -> None:
    """Neither the verdict nor its checks nor what was recorded stays on screen, and no cell below shows or records anything of it.

    The user's files have made each warning and overflow an error, and have every table cut, until the settings are read.
    """
    os.mkfifo(fifo := tmp_path / "begun")
    first, *others = [cell.source for cell in golden("load")]
    beginnings = "from IPython", "notebook.clear(", "notebook.show("
    cells = [first, *(next(one for one in others if begin in one) for begin in beginnings)]
    session = Session([*cells, "load.record(found, settings=settings)", WAITING.format(str(fifo)), "load.read = read", STATE])
    parameters, plan, run, verdict, record, wait, wait_no_more, state = range(len(session.cells))
    known = json.loads((Path(__file__).parent / "data" / "load" / "result.json").read_text())
    headline = f"Run {known['run_id']}, measured {known['started_at'][:19].replace('T', ' ')} UTC."
    environment = foreign_settings.written(tmp_path / "ipython")
    with session.client.setup_kernel(env={**os.environ, **environment}):
        assert "('error', 'raise', 2)" in session.execute(state)
        session.execute(parameters, plan, run, verdict, record)
        assert "('ignore', 'warn', 60)" in session.execute(state)
        assert headline in session.shown(verdict) and "not recorded (out is empty)" in session.shown(record)

        session.execute(wait)
        with ThreadPoolExecutor() as pool:
            interrupted = pool.submit(lambda: os.kill(int(fifo.read_text()), signal.SIGINT))
            assert "KeyboardInterrupt" in session.execute(run)
            interrupted.result()
        below = session.shown(verdict, record)
        assert not re.search(r"\*\*|pass|fail|proven|measured", below)
        assert below.count(screen.NO_VERDICT) == 2 * 3, "in Markdown and as text: the verdict, its checks, what was recorded"
        assert "NameError" in session.execute(verdict)

        assert headline in session.execute(wait_no_more, run, verdict)
        session.cells[parameters].source += "\nplan = 'nosuch.yaml'"
        assert "nosuch.yaml" in session.execute(parameters, plan) and headline not in session.shown(verdict)


@pytest.mark.parametrize("validation", WITH_NOTEBOOK)
def test_a_run_clears_what_the_cells_below_show(validation: str) -> None:
    """Its cell begins by taking off every variable that it and the cell of the verdict make; settings are read before anything is shown."""
    cells = [cell.source for cell in golden(validation)]
    run = next(at for at, cell in enumerate(cells) if cell.startswith("notebook.clear("))
    statement, *others = ast.parse("\n".join(cells[run : run + 2])).body
    cleared = {ast.literal_eval(one) for one in statement.value.args}  # type: ignore[attr-defined]
    targets = [node for one in others if isinstance(one, ast.Assign) for target in one.targets for node in ast.walk(target)]
    made = {node.id for node in targets if isinstance(node, ast.Name)}
    assert cleared == made >= {"recording", "found", "summary"}
    assert f"{RECOVERY.get(validation, validation)}.settings(" in cells[1] and "notebook.show(verdict=found.headline" in cells[run + 1]
