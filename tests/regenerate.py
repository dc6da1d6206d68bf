"""Makes anew what is committed but generated: `python tests/regenerate.py schemas | recording | golden | notebooks [VALIDATION…]`.

- schemas: the JSON Schemas in the package, from the result types.
- recording: tests/data/*, a small recorded run of each validation on the sandbox (it must be filled).
- golden: tests/notebooks/*.ipynb, the shipped notebooks re-analysing the recorded runs.
- notebooks: notebooks/*.ipynb, executed against the sandbox; explore.ipynb on the newest run of outputs/.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
import pyarrow.parquet as pq
from nbclient import NotebookClient

from tapecheck import config, validation
from tapecheck.recording import CONTEXT_KEY
from tapecheck.runs import folders, results

TESTS = Path(__file__).resolve().parent
RESULTS: Mapping[str, type[results.Result]] = {name: validation.named(name).types.result for name in config.VALIDATIONS}
SMALL_ENOUGH_TO_COMMIT: Mapping[str, dict[str, str | int]] = {
    "load": {"rounds": 150},
    "backfill": {"symbols": "AAPL,BRK.B,WMT,BTC,SPY"},
    "observe": {},
    "rto_rpo": {},
    "compare": {},
}
WITH_NOTEBOOK = [name for name in RESULTS if (config.NOTEBOOKS / f"{name}.ipynb").exists()]
NOTEBOOKS = [*WITH_NOTEBOOK, config.EXPLORE]
SHOWS = {config.EXPLORE: "load"}  # whose recorded run a golden notebook reads, where that is not its own


def golden_cell(validation: str, source: str) -> str:
    """Return the parameters cell of a golden notebook: a recorded run, and nothing written."""
    changed = []
    for line in source.splitlines():
        name, _, rest = line.partition(": str = ")
        value = {"run": f'"tests/data/{SHOWS.get(validation, validation)}"', "out": '""'}.get(name)
        changed.append(line if value is None else f"{name}: str = {value}  # {rest.partition('  # ')[2]}")
    return "\n".join(changed)


def execute(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """Run a notebook in a new kernel, and keep of its metadata only what does not change from run to run."""
    NotebookClient(notebook, kernel_name="python3", timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if "outputs" in cell:  # how the sandbox came up is no part of what was measured
            cell.outputs = [o for o in cell.outputs if not (o.get("name") == "stderr" and o.text.startswith("sandbox: "))]
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def golden(chosen: Sequence[str]) -> None:
    for name in chosen:
        notebook = nbformat.read(config.NOTEBOOKS / f"{name}.ipynb", as_version=4)
        parameters = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
        parameters.source = golden_cell(name, parameters.source)
        nbformat.write(execute(notebook, TESTS / "notebooks"), TESTS / "notebooks" / f"{name}.ipynb")


def notebooks(chosen: Sequence[str]) -> None:
    for name in chosen:
        file = config.NOTEBOOKS / f"{name}.ipynb"
        nbformat.write(execute(nbformat.read(file, as_version=4), config.NOTEBOOKS), file)


def recording(chosen: Sequence[str]) -> None:
    from tapecheck.runs import batch

    for name in chosen:
        with tempfile.TemporaryDirectory() as out:
            outcome = batch.run(name, SMALL_ENOUGH_TO_COMMIT[name], Path(out))
            assert outcome.folder is not None, outcome.message
            shutil.rmtree(TESTS / "data" / name, ignore_errors=True)
            (TESTS / "data" / name).mkdir(parents=True)
            for file in outcome.folder.iterdir():
                if file.suffix in (".parquet", ".jsonl"):
                    shutil.copy(file, TESTS / "data" / name / file.name)
                if file.suffix == ".parquet":
                    at_home_table(TESTS / "data" / name / file.name)
            result = json.loads((outcome.folder / folders.RESULT).read_text())
            folders.write_json(TESTS / "data" / name / folders.RESULT, at_home(result))


def at_home(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result as if it had been recorded where runs usually are: a temporary folder says nothing to whom it is gone for."""
    return {**result, "parameters": {**result["parameters"], "out": "outputs"}}


def at_home_table(file: Path) -> None:
    """Say `python` for the programs and files of this machine in what a table's context says of a command."""
    table = pq.read_table(file)
    metadata = dict(table.schema.metadata or {})
    context = json.loads(metadata.get(CONTEXT_KEY, b"{}"))
    if "command" in context:
        metadata[CONTEXT_KEY] = json.dumps({**context, "command": "python -m tapecheck.sandbox.naive_backfill"}).encode()
        pq.write_table(table.replace_schema_metadata(metadata), file)


def schemas(chosen: Sequence[str]) -> None:
    for name in chosen:
        folders.write_json(Path(results.__file__).parent / "schemas" / f"{name}.json", results.json_schema(RESULTS[name]))


if __name__ == "__main__":
    words = sys.argv[1:]
    for word in words:
        if word not in NOTEBOOKS:
            known = NOTEBOOKS if word in ("golden", "notebooks") else WITH_NOTEBOOK
            {"golden": golden, "notebooks": notebooks, "recording": recording, "schemas": schemas}[word](
                [name for name in known if name in words] or known
            )
