"""Runs one notebook headlessly through papermill and keeps what it leaves. It measures and judges nothing itself."""

import errno
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import papermill
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config
from zmq import ZMQError

from tapecheck import config, errors, lockfiles, progress, resources
from tapecheck.errors import ConfigError, OutputError, Problem
from tapecheck.runs import folders, page
from tapecheck.runs.outcomes import CRASHED, Outcome, Recorded, code_of

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
FILES = 96  # that are open in a kernel which reads a recording and draws charts: at 80 it works, at 64 not always
KERNEL_LOG = "kernel.log"
INLINE = "module://matplotlib_inline.backend_inline"  # what a kernel sets where nobody has set another
TEMPORARY_PATH_BYTES = 70  # of the folder in which multiprocessing has a folder with a socket
IPC_PATH_BYTES = 90  # of the folder; a socket's whole path may have 104 on macOS


def notebook(validation: str) -> Path:
    """Return the notebook of a validation; one that has none is an error that names those that have."""
    path = config.NOTEBOOKS / f"{validation}.ipynb"
    if not path.exists():
        known = ", ".join(name for name in (*config.VALIDATIONS, config.EXPLORE) if (config.NOTEBOOKS / f"{name}.ipynb").exists())
        raise ConfigError([Problem(file="command line", key="validation", got=repr(validation), allowed=f"one of {known}, all")])
    return path


def parameters(path: Path) -> dict[str, dict[str, str]]:
    """Return the parameters that a notebook declares, each with its default, type and help."""
    return {name: {**found, "help": found["help"].strip()} for name, found in papermill.inspect_notebook(str(path)).items()}


def run(validation: str, given: Mapping[str, Any], out: Path | None, *, path: Path | None = None, limit_s: float | None = None) -> Outcome:
    """Run one notebook and put it, with an HTML report, into the run folder that it wrote; `out` None records nothing.

    The notebook itself refuses a wrong parameter.

    Args:
        path: another copy of the notebook.
        limit_s: after which it is interrupted, which is a crash; in the main thread alone, and not beside another timer (ITIMER_REAL).

    Raises:
        OutputError: the output folder cannot be written; nothing was started.
        KeyboardInterrupt: interrupted; the kernel is stopped and the notebook kept as crashed.
    """
    path = path or notebook(validation)
    resources.allow_files(FILES, "which a notebook opens without any load")
    folders.check_writable(out or "")
    unfinished = out and out / "unfinished" / f"{validation}-{folders.new_id()}"
    started = time.monotonic()
    with lockfiles.scratch() as scratch:
        executed = scratch / "notebook.ipynb"
        failure: str | None = None
        code, is_started = CRASHED, True
        try:
            with _limited(limit_s):
                _execute(path, executed, {**given, "out": str(out or "")}, scratch, unfinished)
        except PapermillExecutionError as error:
            failure, code = _explain(error)
        except OSError as error:
            raise lockfiles.no_room(error) if error.errno in FULL else error from None
        except (RuntimeError, ZMQError) as error:  # nbclient's: it died while it ran (DeadKernelError), or before it was there
            is_started = isinstance(error, DeadKernelError) or _has_begun(executed, unfinished)
            failure = _died(error, executed.with_name(KERNEL_LOG), is_started=is_started)
        except _TimeOver as error:
            failure = str(error)
        except KeyboardInterrupt:
            if kept := _keep(executed, unfinished):
                print(f"{validation}: what was done so far is in {kept / 'notebook.ipynb'}{_measured(validation, kept)}", file=sys.stderr)
            raise
        duration_s = time.monotonic() - started
        brief = None if failure else _recorded(executed)
        if brief is None:
            is_measured = unfinished is not None and any(unfinished.glob("*.parquet"))
            folder = _keep(executed, unfinished) if is_measured or code != ConfigError.exit_code else None  # what is refused is no attempt
            message = (failure or "the notebook ended without recording a run") + _measured(validation, folder)
            return Outcome(
                validation=validation, exit_code=code, duration_s=duration_s, message=message, folder=folder, is_started=is_started
            )
        folder = _keep(executed, config.outputs(brief["folder"]) if brief["folder"] else None)
        return Outcome(validation=validation, exit_code=code_of(brief), duration_s=duration_s, folder=folder, brief=brief)


class _TimeOver(KeyboardInterrupt):
    """The time limit of a notebook, which ends it as Ctrl-C does."""


@contextmanager
def _limited(limit_s: float | None) -> Iterator[None]:
    def end(*_: object) -> None:
        raise _TimeOver(f"it took longer than its time limit of {limit_s:g} s")

    before = signal.signal(signal.SIGALRM, end) if limit_s else None
    try:
        if limit_s:
            signal.setitimer(signal.ITIMER_REAL, limit_s)
        yield
    except KeyboardInterrupt:
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # the kernel's end is no news of nbclient's tasks
        raise
    finally:
        if limit_s:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def _measured(validation: str, folder: Path | None) -> str:
    """Say how to go on from what was measured before the end, if anything was."""
    if folder is None or not any(folder.glob("*.parquet")):
        return ""
    return f"\n  what was measured is kept; analyse it with: tapecheck run {validation} -p run {config.shown(folder)}"


def _has_begun(executed: Path, unfinished: Path | None) -> bool:
    """Tell whether a cell was begun, or anything kept, before the kernel was lost."""
    cells = nbformat.read(executed, as_version=4).cells if executed.exists() else ()  # type: ignore[no-untyped-call]
    return any(cell.get("execution_count") for cell in cells) or bool(unfinished and any(unfinished.glob("*")))


def _died(error: Exception, log: Path, *, is_started: bool) -> str:
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
    how = "kernel died" if "died" in str(error) else f"kernel {'was lost' if is_started else 'did not start'}: {error}"
    return f"the notebook's {how}" + (f"; its last words: {said[-1]}" if said else "")


def _execute(path: Path, executed: Path, given: Mapping[str, Any], scratch: Path, unfinished: Path | None) -> None:
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what it calls an error is raised too
    reports = scratch / "progress.jsonl"
    variables = {progress.FILE_VARIABLE: str(reports), "JUPYTER_RUNTIME_DIR": str(scratch), "IPYTHONDIR": str(scratch / "ipython")}
    kernel = {"transport": "ipc", "ip": str(scratch / "k")} if len(str(scratch)) < IPC_PATH_BYTES else {"transport": "tcp"}
    with progress.follow(reports), _environment(variables), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of papermill and nbclient about themselves, not of what is measured
        papermill.execute_notebook(
            str(path),
            str(executed),
            dict(given),
            kernel_name="python3",
            progress_bar=False,
            autosave_cell_every=0,
            config=Config(
                {
                    "KernelManager": {**kernel, "connection_file": str(scratch / "kernel.json")},
                    "NotebookClient": {"kernel_manager_class": _manager(scratch, unfinished)},
                }
            ),
        )


def _manager(scratch: Path, unfinished: Path | None) -> type[AsyncKernelManager]:
    """Return a kernel manager whose kernels log to a file in place of our terminal and ignore the user's settings of IPython and Python."""
    own = {"PYTHONSAFEPATH": "1", "MPLBACKEND": INLINE, folders.UNFINISHED_VARIABLE: str(unfinished or ""), "PYTHONWARNINGS": ""}
    if len(str(scratch)) < TEMPORARY_PATH_BYTES:
        own["TMPDIR"] = str(scratch)  # what a killed kernel leaves goes with the rest

    class Manager(AsyncKernelManager):
        async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]
            with (scratch / KERNEL_LOG).open("ab") as log:
                environment = {**options.get("env", os.environ), **own}
                await super().start_kernel(**{**options, "env": environment, "stdout": log, "stderr": log})

    return Manager


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]
        os.environ.update(before)


def _explain(error: PapermillExecutionError) -> tuple[str, int]:
    """Return the message and exit code of what stopped a notebook: one of our errors, or a crash."""
    kind = getattr(errors, error.ename, None)
    if isinstance(kind, type) and issubclass(kind, errors.TapecheckError):
        return str(error.evalue), kind.exit_code
    if error.ename == "OSError" and any(f"[Errno {number}]" in str(error.evalue) for number in FULL):
        return str(lockfiles.no_room(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))), OutputError.exit_code
    return f"cell {error.exec_count} raised {error.ename}: {error.evalue}", CRASHED


def _recorded(executed: Path) -> dict[str, Any] | None:
    """Return what the notebook recorded; None when any code cell was not run to its end."""
    notebook = nbformat.read(executed, as_version=4)  # type: ignore[no-untyped-call]
    cells = [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]
    if any(c.execution_count is None or any(o.output_type == "error" for o in c.outputs) for c in cells):
        return None  # papermill takes sys.exit(0) for a good end
    found = [o.data[Recorded.MIME] for c in cells for o in c.outputs if Recorded.MIME in o.get("data", {})]
    return dict(found[-1]) if found else None


def _keep(executed: Path, folder: Path | None) -> Path | None:
    """Move an executed notebook into a folder, with a report of its outputs and prose."""
    if folder is None or not executed.exists():
        return None
    page.keep(nbformat.read(executed, as_version=4), folder)  # type: ignore[no-untyped-call]
    return folder
