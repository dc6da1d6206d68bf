"""The notebooks keep the house rules, are committed executed, and equal their goldens."""

import ast
import json
import os
import re
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import papermill
import pytest
from nbclient import NotebookClient
from regenerate import WITH_NOTEBOOK, golden_cell

from tapecheck import __main__ as command_line
from tapecheck import charts, config
from tapecheck import notebook as screen
from tapecheck.validation import named

NOTEBOOKS = sorted(config.NOTEBOOKS.glob("*.ipynb"))
FORBIDDEN = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Try, ast.Lambda)


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def code(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


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
    assert {"target", "plan", "run", "out"} <= set(declared)


@pytest.mark.parametrize("validation", WITH_NOTEBOOK)
def test_a_notebook_declares_what_is_checked(validation: str) -> None:
    """No parameter of a notebook is unknown to what checks them, and none that it does not declare is known."""
    declared = papermill.inspect_notebook(str(config.NOTEBOOKS / f"{validation}.ipynb"))
    assert list(declared) == list(named(validation).types.settings.model_fields)


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


@pytest.mark.parametrize("validation", WITH_NOTEBOOK)
def test_golden_and_notebook_have_the_same_cells(validation: str) -> None:
    """The golden is the shipped notebook with another parameters cell, and nothing else."""
    shipped, golden = (read(folder / f"{validation}.ipynb").cells for folder in (config.NOTEBOOKS, Path(__file__).parent / "notebooks"))
    expected = [golden_cell(validation, c.source) if "parameters" in c.metadata.get("tags", []) else c.source for c in shipped]
    assert [c.source for c in golden] == expected
    assert [c.metadata.get("tags") for c in golden] == [c.metadata.get("tags") for c in shipped]


@pytest.mark.parametrize("validation", WITH_NOTEBOOK)
def test_the_golden_compares_what_it_shows(validation: str) -> None:
    """nbval compares only executed cells: every code cell of the golden has a count, and at most the record is ignored."""
    cells = golden(validation)
    assert all(cell.execution_count for cell in cells)
    ignored = [c.source.splitlines()[-1] for c in cells if "nbval-ignore-output" in c.metadata.get("tags", [])]
    assert [line.partition("(")[0].rpartition(".")[2] for line in ignored] in ([], ["record"])
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

    def __init__(self, sources: Sequence[str], fifo: Path | None = None) -> None:
        self.fifo = fifo
        self.cells = [nbformat.v4.new_code_cell(source) for source in sources]
        resources = {"metadata": {"path": str(Path(__file__).parent)}}
        notebook = nbformat.v4.new_notebook(cells=self.cells)
        self.client = NotebookClient(notebook, kernel_name="python3", timeout=100, allow_errors=True, resources=resources)

    def execute(self, *numbers: int) -> None:
        for number in numbers:
            self.client.clear_display_id_mapping(number)
            self.client.execute_cell(self.cells[number], number)

    def shown(self, *numbers: int) -> str:
        return str([output for number in numbers for output in self.cells[number].outputs])


RECORDED = """
from dataclasses import replace
from tapecheck.runs import folders, outcomes
outcomes.Recorded(result=replace(folders.read("tests/data/load").head, run_id="an earlier one"), folder=None)
"""
WAITING = """
import os, pathlib, threading
read = {module}.read
{module}.read = lambda path: (pathlib.Path({fifo!r}).write_text(str(os.getpid())), threading.Event().wait())
"""
CELLS = ("parameters", "plan", "run", "verdict", "record", "wait", "wait no more")
BEGINNINGS = {"plan": "from IPython", "run": "notebook.clear(", "verdict": "notebook.show("}


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """One kernel for the parameters, plan, run and verdict of every golden; what reads a recording can be made to wait for ever."""
    chosen: list[str] = []
    os.mkfifo(fifo := tmp_path_factory.mktemp("session") / "begun")
    for validation in WITH_NOTEBOOK:
        module = {"rto_rpo": "recovery"}.get(validation, validation)
        cells = [cell.source for cell in golden(validation)]
        chosen += [cells[0], *(next(c for c in cells if begin in c) for begin in BEGINNINGS.values()), RECORDED]
        chosen += [WAITING.format(module=module, fifo=str(fifo)), f"{module}.read = read"]
    session = Session(chosen, fifo)
    with session.client.setup_kernel():
        yield session


@pytest.mark.parametrize("validation", WITH_NOTEBOOK)
def test_a_cell_that_is_interrupted_or_fails_leaves_no_verdict_of_an_earlier_run(validation: str, session: Session) -> None:
    """Neither the verdict nor its checks nor what was recorded stays on screen, and no cell below shows or records anything of it."""
    at = dict(zip(CELLS, range(len(CELLS) * WITH_NOTEBOOK.index(validation), len(session.cells)), strict=False))
    known = json.loads((Path(__file__).parent / "data" / validation / "result.json").read_text())
    run = f"Run {known['run_id']}, measured {known['started_at'][:19].replace('T', ' ')} UTC."
    below = at["verdict"], at["record"]
    session.execute(at["parameters"], at["plan"], at["run"], *below)
    assert run in session.shown(*below) and "load: not_proven, not recorded" in session.shown(*below)

    session.execute(at["wait"])
    with ThreadPoolExecutor() as pool:
        interrupted = pool.submit(lambda: os.kill(int(session.fifo.read_text()), signal.SIGINT))
        session.execute(at["run"])
        interrupted.result()
    assert "KeyboardInterrupt" in session.shown(at["run"])
    assert not re.search(r"\*\*|pass|fail|proven|measured", session.shown(*below))
    assert session.shown(*below).count(screen.NO_VERDICT) == 2 * 3, "in Markdown and as text: the verdict, its checks, what was recorded"
    session.execute(at["verdict"])
    assert "NameError" in session.shown(at["verdict"])

    session.execute(at["wait no more"], at["run"], at["verdict"])
    assert run in session.shown(at["verdict"])
    session.cells[at["parameters"]].source += "\nplan = 'nosuch.yaml'"
    session.execute(at["parameters"], at["plan"])
    assert "nosuch.yaml" in session.shown(at["plan"]) and run not in session.shown(at["verdict"])


STARTUP = """
print("a start-up file that talks")
import locale, os, warnings
from pylab import *
import pandas as pd
locale._override_localeconv = {"decimal_point": ",", "thousands_sep": "."}  # as in German, which a machine need not have
os.umask(0o077)
warnings.simplefilter("ignore")
seterr(all="raise")
set_printoptions(precision=1)
pd.set_option("display.max_rows", 2, "display.max_columns", 2, "display.max_colwidth", 5, "display.precision", 1, "display.html.border", 3)
pd.set_option("display.notebook_repr_html", False, "display.html.table_schema", True, "display.float_format", "{:.1f}".format)
pd.set_option("future.infer_string", False)
get_ipython().run_line_magic("matplotlib", "inline")
get_ipython().run_line_magic("config", "InlineBackend.figure_formats = ['svg', 'retina']")
rcParams["figure.dpi"] = 50
load = recording = findings = 3
warnings.simplefilter("error")
"""
STATE = 'warnings.filters[0][0], geterr()["over"], pd.get_option("display.max_rows")'

KERNEL_CONFIG = """
c.InteractiveShell.ast_node_interactivity = "all"
c.InlineBackend.rc = {"figure.figsize": (1, 1)}
c.InteractiveShellApp.exec_lines = ["summary = 'of an earlier day'"]
"""
MATPLOTLIBRC = """
text.usetex: True
font.family: No Such Font
font.size: 30
figure.facecolor: black
axes.facecolor: black
savefig.facecolor: black
text.color: white
axes.labelcolor: white
axes.prop_cycle: cycler(color=['red'])
axes.formatter.use_locale: True
axes.spines.top: True
lines.linewidth: 9
savefig.bbox: tight
savefig.dpi: 30
figure.dpi: 30
figure.autolayout: True
nosuch.key: 3
"""
ENVIRONMENT = {
    "MPLBACKEND": "TkAgg",
    "TZ": "Asia/Kathmandu",
    "LC_ALL": "C",
    "COLUMNS": "20",
    "LINES": "5",
    "NO_COLOR": "1",
    "PYTHONHASHSEED": "7",
    "PYTHONWARNINGS": "error",
    "HOME": "/proc/none",
}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """One kernel for every golden, of somebody whose settings differ from ours wherever they can."""
    home = tmp_path_factory.mktemp("hostile")
    (home / "profile_default" / "startup").mkdir(parents=True)
    (home / "profile_default" / "startup" / "00.py").write_text(STARTUP)
    (home / "profile_default" / "ipython_kernel_config.py").write_text(KERNEL_CONFIG)
    (home / "matplotlibrc").write_text(MATPLOTLIBRC)
    own = {"IPYTHONDIR": str(home), "MATPLOTLIBRC": str(home / "matplotlibrc")}
    session = Session([*(cell.source for validation in WITH_NOTEBOOK for cell in golden(validation)), STATE])
    with session.client.setup_kernel(env={**os.environ, **ENVIRONMENT, **own}):
        session.execute(len(session.cells) - 1)
        assert "('error', 'raise', 2)" in session.shown(len(session.cells) - 1), "the start-up file was read to its end"
        yield session


def golden(validation: str) -> list[nbformat.NotebookNode]:
    return code(Path(__file__).parent / "notebooks" / f"{validation}.ipynb")


@pytest.mark.parametrize("validation", WITH_NOTEBOOK)
def test_the_settings_of_the_user_change_nothing_that_is_shown(validation: str, hostile: Session) -> None:
    """Every table, text and picture is that of the golden, the pictures byte by byte."""
    first, cells = sum(len(golden(one)) for one in WITH_NOTEBOOK[: WITH_NOTEBOOK.index(validation)]), golden(validation)
    hostile.execute(*range(first, first + len(cells)))
    for was, now in zip(cells, hostile.cells[first:], strict=False):
        if "nbval-ignore-output" not in was.metadata.get("tags", []):
            assert [shown(output) for output in now.outputs] == [shown(output) for output in was.outputs], was.source
    hostile.execute(len(hostile.cells) - 1)
    assert "('ignore', 'warn', 60)" in hostile.shown(len(hostile.cells) - 1), "no warning is an error, no overflow, and no table is cut"
    assert "could not be drawn" not in str([cell.outputs for cell in hostile.cells])
    assert sum("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs) >= 4


def shown(output: nbformat.NotebookNode) -> object:
    """Return what somebody sees of an output; of a picture its bytes."""
    data = {kind: part.strip() for kind, part in output.get("data", {}).items()}
    return data or {name: part for name, part in output.items() if name != "execution_count"}
