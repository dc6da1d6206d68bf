"""Does the runs of a batch, one after another here or spread over a Dask cluster, each in a process of its own.

A process that runs a notebook ends with the one that started it, however that ends. What measures has its machine for itself; runs that
only analyse go side by side. It judges nothing.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path, PurePosixPath
from typing import Any

from tapecheck import config, lockfiles
from tapecheck.batches.ledger import Ledger, LedgerEntry
from tapecheck.batches.plan import PlannedRun
from tapecheck.errors import ConfigError, MeasurementError, OutputError, Problem, TapecheckError
from tapecheck.runs import batch, folders, outcomes
from tapecheck.runs.folders import Run
from tapecheck.runs.outcomes import CRASHED, Outcome, Recorded
from tapecheck.target import opening
from tapecheck.validation import digest
from tapecheck.workers.dask import ADDRESS
from tapecheck.workers.pool import POLL_S, WorkerPool
from tapecheck.workers.worker import STOP, Control, Death, Worker

MOST_BYTES = 500_000_000  # that travel to a worker or back
LOOK_S = 1.0  # between two looks at which workers there are
MOST_LOOKS = 60  # in a row at a cluster that has none
STOPPED_S = 60.0  # for a notebook on a worker to end by itself
PATHS = ("target", "plan", "run", "before", "after")  # parameters that name a file or a run folder
NOT_RECORDED = (2, 3, 4)  # exit codes of a run that recorded nothing
_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*", re.ASCII)  # of what a worker sends back
Files = Mapping[str, bytes]  # by path, relative


def run(file: str, planned: Sequence[PlannedRun], out: Path, *, resume: bool, workers: str | None) -> Ledger:
    """Do the runs of a batch that are not recorded, and return what became of all.

    Args:
        workers: the address of a Dask scheduler; None for this machine.

    Raises:
        ConfigError: the batch runs already, or its ledger cannot be read.
        KeyboardInterrupt: interrupted; what runs is stopped, and the ledger says how far it is. So does every other error.
    """
    if workers and not ADDRESS.fullmatch(workers):
        allowed = "a Dask scheduler, such as: dask://127.0.0.1:8786"
        raise ConfigError([Problem(file="command line", key="workers", got=repr(workers), allowed=allowed)])
    folders.check_writable(out)
    tasks = {
        key: dataclasses.replace(one, notebook=str(batch.notebook(one.validation).absolute()), out=str(out))
        for key, one in _keyed(planned).items()
    }
    entries = [LedgerEntry(key=key, name=one.name, validation=one.validation, parameters=one.given) for key, one in tasks.items()]
    with Ledger.opened(str(config.find(file)), entries, out, resume=resume) as ledger:
        try:
            if (todo := ledger.todo()) and workers:
                with WorkerPool(workers, prepare, allow_remote=all(one.allow_remote for one in planned), partial=True) as pool:
                    _Spread(ledger, pool, tasks, todo).run()
            elif todo:
                with opening.sandbox_used() if any(tasks[key].uses_sandbox for key in todo) else contextlib.nullcontext():
                    for key in todo:
                        ledger.begin(key)
                        ledger.end(key, _process(tasks[key], Path.cwd(), lambda: False))
        finally:  # what is done is reported, whatever ends the rest
            folders.write_file(ledger.folder / "junit.xml", ledger.junit().encode())
            print("\n".join([outcomes.table(ledger.outcomes()), *ledger.moved()]), flush=True)
        return ledger


def _keyed(planned: Sequence[PlannedRun]) -> dict[str, PlannedRun]:
    """Return the runs by key, in order; those that are alike differ by their place."""
    found: dict[str, PlannedRun] = {}
    for one in planned:
        alike = json.dumps(
            [one.validation, dict(one.given), *(digest(str(one.given[name])) for name in ("plan", "target"))], sort_keys=True
        )
        keys = (hashlib.sha256(f"{alike} {n}".encode()).hexdigest()[:12] for n in range(len(planned)))
        found[next(key for key in keys if key not in found)] = one
    return found


# ---- a process that runs one notebook ----


def _process(task: PlannedRun, folder: Path, is_to_stop: Callable[[], bool]) -> Outcome:
    """Run a notebook in a process that works in a folder, and return how it ended; interrupted, it is given the time to clean up."""
    with lockfiles.scratch() as scratch:
        end = scratch / "end.json"
        command = [sys.executable, "-P", "-m", "tapecheck.batches.queue", str(end)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=folder, start_new_session=True) as process:
            assert process.stdin
            try:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(json.dumps(dataclasses.asdict(task)).encode() + b"\n")
                    process.stdin.flush()
                while process.poll() is None and not is_to_stop():
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(POLL_S)
            finally:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()  # which interrupts it
                process.wait()
        if not end.exists():
            return _failed(task, CRASHED, f"the process that ran it ended early (exit code {process.returncode})")
        said = json.loads(end.read_bytes())
        return Outcome(**{**said, "folder": Path(said["folder"]) if said["folder"] else None})


def _failed(task: PlannedRun, code: int, message: str) -> Outcome:
    return Outcome(validation=task.validation, exit_code=code, duration_s=0.0, message=message)


def main(end: str) -> int:
    """Do the task that comes as a line of JSON; write how it ended to a file; end as Ctrl-C does when stdin does."""

    def interrupt(*_: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # it cleans up once
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    task = PlannedRun(**json.loads(sys.stdin.readline()))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with lockfiles.turn(config.measurements(), alone=task.measures, on_wait=_waits):
            done = _attempts(task)
    except KeyboardInterrupt:
        return CRASHED
    except TapecheckError as error:
        done = _failed(task, error.exit_code, str(error))
    folders.write_json(Path(end), json.loads(json.dumps(dataclasses.asdict(done), default=str)))
    return 0


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGINT)


def _waits(whom: str) -> None:
    print(f"waiting until nothing else is measured on this machine, now {whom}", file=sys.stderr, flush=True)


def _attempts(task: PlannedRun) -> Outcome:
    """Run a notebook; again, if its kernel did not start, and then without a trace of the attempt before."""
    starts = 0
    while True:
        starts += 1
        outcome = batch.run(task.validation, task.given, Path(task.out), path=Path(task.notebook), limit_s=task.limit_s)
        is_measured = outcome.folder and any(outcome.folder.glob("*.parquet"))
        if outcome.is_started or is_measured or starts > task.start_retries:
            return dataclasses.replace(outcome, starts=starts)
        if outcome.folder:
            shutil.rmtree(outcome.folder)


# ---- over a cluster ----


def prepare() -> None:
    """Import nothing: what runs a notebook is a process of its own."""


@dataclasses.dataclass(slots=True)
class _Spread:
    """Runs on their way to the workers of a cluster and back, at most one on each worker at a time."""

    ledger: Ledger
    pool: WorkerPool
    tasks: Mapping[str, PlannedRun]
    todo: list[str]
    running: "dict[Future[tuple[Outcome, Files] | Death], tuple[Worker, str]]" = dataclasses.field(default_factory=dict)
    looks: int = 0  # in a row that found no worker

    def run(self) -> None:
        """Do all; when this is interrupted, what runs is stopped and waited for."""
        try:
            while self.todo or self.running:
                self._hand_out()
                wait(self.running, LOOK_S, FIRST_COMPLETED)
                for future, (worker, key) in list(self.running.items()):
                    if future.done() or worker.is_gone():
                        del self.running[future]
                        future.cancel()
                        self._take(key, worker, self._ended(key, worker, future))
        finally:
            for worker, _ in self.running.values():
                worker.stop()
            wait(self.running, STOPPED_S)

    def _ended(self, key: str, worker: Worker, future: "Future[tuple[Outcome, Files] | Death]") -> tuple[Outcome, Files] | Death:
        """Return what came of a run; what a worker could not even begin, as on a full disk, ends that run alone."""
        if not future.done() or future.cancelled():
            return worker.death("it left")
        try:
            return worker.end(future)
        except Exception as error:
            return _failed(self.tasks[key], CRASHED, f"{worker.name} could not run it: {type(error).__name__}: {error}"), {}

    def _hand_out(self) -> None:
        """Give each worker that is free the next run, if that may be beside what its machine does: one that measures has it for itself."""
        working = {worker: self.tasks[key].measures for worker, key in self.running.values()}
        for worker in self._ready() if self.todo else ():
            measures = self.todo and self.tasks[self.todo[0]].measures
            beside = [one for other, one in working.items() if other.machine == worker.machine]
            if self.todo and worker not in working and not any(beside) and not (beside and measures):
                key = self.todo.pop(0)
                self.ledger.begin(key, worker.name)
                try:
                    sent = packed(self.tasks[key])
                except (ConfigError, OSError) as error:
                    code = error.exit_code if isinstance(error, ConfigError) else CRASHED
                    self.ledger.end(key, _failed(self.tasks[key], code, f"it could not be sent to a worker: {error}"))
                    continue
                working[worker] = self.tasks[key].measures
                self.running[worker.begin(there, *sent)] = (worker, key)

    def _ready(self) -> list[Worker]:
        """Return the workers that can work; that there is none is an error only after some time in which nothing runs."""
        try:
            ready = self.pool.ready()
        except OSError:
            raise MeasurementError("the Dask scheduler does not answer any more: start it again, and go on with --resume") from None
        self.looks = 0 if ready or self.running else self.looks + 1
        if self.looks > MOST_LOOKS:
            waited = f"no worker that can work for {MOST_LOOKS * LOOK_S:.0f} s"
            raise MeasurementError(f"the Dask cluster has had {waited}: start some (dask worker), and go on with --resume")
        if self.looks:
            time.sleep(LOOK_S)
        return ready

    def _take(self, key: str, worker: Worker, end: tuple[Outcome, Files] | Death) -> None:
        """Note how a run ended; one that a worker died with is done once more, before others."""
        if isinstance(end, Death):
            lost = (*self.ledger.entries[key].lost, f"{worker.name} died with it ({end.why})")
            self.ledger.change(key, lost=lost)
            self.pool.forget([worker])
            if len(lost) == 1:
                self.todo.insert(0, key)
                return
            self.ledger.end(key, _failed(self.tasks[key], CRASHED, "two workers died with it"))
            return
        try:
            outcome = landed(*end, self.tasks[key])
        except OutputError:
            raise
        except Exception as error:  # it is another process's, maybe of another version
            outcome = _failed(self.tasks[key], CRASHED, f"what {worker.name} sent cannot be read: {type(error).__name__}: {error}")
        self.ledger.end(key, outcome)


def packed(task: PlannedRun) -> tuple[PlannedRun, dict[str, bytes]]:
    """Return a task as it travels: with its notebook and every file that it names, at paths below the folder that it will work in.

    Raises:
        ConfigError: they are too large.
    """
    found = {"notebook.ipynb": Path(task.notebook)}
    given = dict(task.given)
    for name in PATHS:
        if (value := str(given.get(name, ""))) not in ("", "new"):
            given[name] = _travelling(value, found)
    parts = str(given.get("drills", "")).split(",")
    given |= {"drills": ",".join(_travelling(one, found) if "/" in one else one for one in parts)} if "drills" in given else {}
    if (size := sum(path.stat().st_size for path in found.values())) > MOST_BYTES:
        allowed = f"at most {MOST_BYTES:,} bytes that travel to a worker; run it on this machine"
        raise ConfigError([Problem(file=str(task.given["run"]), key="run", got=f"{size:,} bytes", allowed=allowed)])
    sent = dataclasses.replace(task, notebook="notebook.ipynb", given=given)
    return sent, {name: path.read_bytes() for name, path in found.items()}


def _travelling(value: str, found: dict[str, Path]) -> str:
    """Add what a path names to the files, and return the path that it has there: the same, if it is one below a folder."""
    path = next(filter(config.matches, (config.expanded(value), config.PROJECT / value)), None) or config.find(value)
    pure = PurePosixPath(value)
    at = value if not pure.is_absolute() and ".." not in pure.parts and "~" not in value else f"files/{len(found)}/{path.name}"
    inside, files = (at, list(path.iterdir())) if path.is_dir() else (str(PurePosixPath(at).parent), config.matches(path))
    found.update({str(PurePosixPath(inside, one.name)): one for one in files if one.is_file()})
    return at


def there(control: Control, task: PlannedRun, files: Files) -> tuple[Outcome, Files]:
    """Run a notebook on a worker, and return how it ended with every file of its run folder."""
    from distributed import get_worker

    worker = get_worker()
    key = worker.get_current_task()

    def is_to_stop() -> bool:
        known = worker.state.tasks.get(key)
        return bool(control[STOP]) or known is None or known.state == "cancelled"  # who asked for it is gone

    with lockfiles.scratch() as scratch:
        for name, data in files.items():
            (path := scratch / "work" / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.write_bytes(data)
        end = _process(dataclasses.replace(task, out=str(scratch / "out")), scratch / "work", is_to_stop)
        end = dataclasses.replace(end, message=end.message.replace(str(scratch / "out"), task.out))  # where it will be
        if (folder := end.folder) is None:
            return end, {}
        at = folder.relative_to(scratch / "out")
        if (size := sum(path.stat().st_size for path in folder.iterdir())) > MOST_BYTES:
            (kept := config.OUTPUTS / at).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.move(folder, kept)
            message = f"its run folder has {size:,} bytes, and at most {MOST_BYTES:,} travel: it is kept on {worker.address} in {kept}"
            return _failed(task, CRASHED, message), {}
        return dataclasses.replace(end, folder=at), {path.name: path.read_bytes() for path in folder.iterdir()}


def landed(end: Outcome, files: Files, task: PlannedRun) -> Outcome:
    """Write the files of a run folder that a worker sent to the output folder of its task, as a whole or not at all.

    Its parameters are those that were asked for here, its verdict is that of its result; where a run of its name is there already, it
    has another run id. A run whose result breaks its schema failed, and what was measured is unfinished.

    Raises:
        OutputError: the folder cannot be written.
    """
    code = end.exit_code if end.exit_code in NOT_RECORDED else CRASHED
    if end.folder is None:
        return dataclasses.replace(end, exit_code=code, brief={})
    kind, name = end.folder.parts if len(end.folder.parts) == 2 else ("", "")
    wrong = [one for one in (kind, name, *files) if not _NAME.fullmatch(one)]
    if wrong or kind not in (task.validation, folders.UNFINISHED) or sum(map(len, files.values())) > MOST_BYTES:
        return _failed(task, CRASHED, f"what the worker sent is no run folder: {', '.join(map(repr, wrong[:3])) or end.folder}")
    try:
        run = _sent(files, task) if kind == task.validation else None
        if isinstance(run, str):
            end = _failed(task, code := CRASHED, f"what the worker sent is {run}")
            run, kind, name = None, folders.UNFINISHED, f"{kind}-{name}"
        folder = _put(Path(task.out) / kind, name, files, run, task)
    except OSError as error:
        raise OutputError(f"the output folder {task.out} cannot be written: {error.strerror}; `--resume` goes on from here") from error
    if run is None or run.head is None:
        return dataclasses.replace(end, exit_code=code, folder=folder, brief={})
    texts = {part: [str(one) for one in end.brief.get(part, ())] for part in ("figures", "missed", "not_drawn")}
    brief = {**Recorded(result=run.head, folder=folder).brief(), **texts, "run_id": folder.name}
    return dataclasses.replace(end, exit_code=outcomes.code_of(brief), folder=folder, brief=brief)


def _sent(files: Files, task: PlannedRun) -> Run | str:
    """Return the run that a worker sent, which keeps the schema of its validation, or what it is instead."""
    with lockfiles.scratch() as scratch:
        if folders.RESULT in files:
            (scratch / folders.RESULT).write_bytes(files[folders.RESULT])
        try:
            return folders.read(scratch, task.validation)
        except ConfigError as error:
            return error.problems[0].got


def _put(parent: Path, name: str, files: Files, run: Run | None, task: PlannedRun) -> Path:
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with lockfiles.scratch(parent) as temporary:
        (part := temporary / "part").mkdir(mode=0o700)
        for one in files.keys() - {folders.RESULT}:
            (part / one).touch(mode=0o600)
            (part / one).write_bytes(files[one])
        while (parent / name).exists():
            name = folders.new_id() if run else f"{task.validation}-{folders.new_id()}"
        if run:
            folders.write_json(part / folders.RESULT, _as_asked(run.result, name, task))
        part.rename(parent / name)
    if run:
        folders.point_latest(parent / name)
    return parent / name


def _as_asked(result: dict[str, Any], run_id: str, task: PlannedRun) -> dict[str, Any]:
    """Return a result with the paths of this machine."""
    asked = {name: task.given.get(name, value) for name, value in result["parameters"].items()}
    origin = task.given["run"] if result["reanalysis_of"] else None
    return {**result, "run_id": run_id, "parameters": {**asked, "out": task.out}, "reanalysis_of": origin}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
