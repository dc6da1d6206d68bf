"""The command line: `python -m tapecheck run | batch | sandbox | lab | params | check | runs | index | history`."""

import argparse
import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO, cast

import yaml

from tapecheck import config, lockfiles, text
from tapecheck.errors import ConfigError, MeasurementError, Problem, TapecheckError

PATHS = ("target", "plan", "run", "before", "after", "over")  # parameters that are looked up from here; `out` is the notebook's
_UNWRITABLE = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO)  # what printing raises


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        print(f"{self.prog}: {message}", file=sys.stderr)
        raise SystemExit(ConfigError.exit_code)


def main(words: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 met, 1 missed, 2 no verdict, 3 crashed, 4 wrong configuration or usage.

    It is that of a process that SIGPIPE ended where nobody reads its output any more, as after `| head -1`. A closed output (`>&-`)
    changes no verdict, one that takes no more (`>/dev/full`) is 3.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - open to the end
    out, err = text.Screen(sys.stdout), text.Screen(sys.stderr)
    with contextlib.redirect_stdout(cast(TextIO, out)), contextlib.redirect_stderr(cast(TextIO, err)):
        try:
            try:
                return _command(words)
            finally:
                sys.stdout.flush()
        except BrokenPipeError:
            _to_nobody(sys.stdout, sys.stderr)
            return 128 + signal.SIGPIPE
        except OSError as error:
            _to_nobody(sys.stdout)
            print(f"error: the output cannot be written: {error.strerror}", file=sys.stderr)
            return 3


def _to_nobody(*streams: TextIO) -> None:
    """Discard what the interpreter flushes at its end."""
    with Path(os.devnull).open("w") as nobody:
        for stream in streams:
            os.dup2(nobody.fileno(), stream.fileno())


def _command(words: Sequence[str] | None) -> int:
    arguments = _parser().parse_args(words)
    command: Callable[[argparse.Namespace], int] = arguments.command
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # a terminal that is closed; nohup ignores it
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with it ignored
    try:
        lockfiles.sweep_scratch(*([_out(arguments)] if "out" in arguments else []))
        return command(arguments)
    except TapecheckError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 3
    except Exception as error:  # exit code 1 would say that an objective was missed
        if isinstance(error, OSError) and error.filename is None and error.errno in _UNWRITABLE:
            raise
        traceback.print_exc()
        return 3


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="tapecheck", description="Measures what is actually broken in a market-data API.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    run = commands.add_parser("run", help="run notebooks headlessly and print the verdicts")
    names = "load, backfill, rto_rpo, compare, observe, explore (recorded runs), or all: the first three (default)"
    run.add_argument("validation", nargs="?", default="all", help=names)
    run.add_argument("--target", help="target file (default: the sandbox)")
    run.add_argument("-p", dest="pairs", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a notebook parameter")
    run.add_argument("-f", dest="file", help="a YAML file of notebook parameters")
    run.set_defaults(command=_run)
    batch = commands.add_parser("batch", help="run the notebooks that a YAML file lists, here or over a Dask cluster")
    batch.add_argument("file", help="such as config/batch.yaml")
    batch.add_argument("--resume", action="store_true", help="only what is not recorded yet of the batch that was begun before")
    batch.add_argument("--workers", help="the scheduler of a Dask cluster: dask://HOST:PORT (default: this machine)")
    batch.set_defaults(command=_batch)
    _add_sandbox(commands.add_parser("sandbox", help="the embedded target by itself"))
    commands.add_parser("lab", help="open JupyterLab with the sandbox running").set_defaults(command=_lab)
    params = commands.add_parser("params", help="list a notebook's parameters")
    params.add_argument("notebook", help="load, or the path of a notebook")
    params.set_defaults(command=_params)
    check = commands.add_parser("check", help="validate YAML files and lint the objectives, without traffic")
    check.add_argument("files", nargs="*", help="default: every file in config/")
    check.add_argument("--ask", action="store_true", help="of a target file: try one plain request or statement of each kind")
    check.add_argument("--explain", action="store_true", help="print each contradiction that a plan explains, and why both hold")
    check.set_defaults(command=_check)
    init = commands.add_parser("init", help="propose a target file for a system, from its OpenAPI page and its database")
    init.add_argument("url", help="where its API is, such as http://127.0.0.1:8000")
    init.add_argument("--write", metavar="FILE", help="a new file to write it to (default: print it)")
    init.add_argument("--allow-remote", action="store_true", help="although it is on another machine")
    init.set_defaults(command=_init)
    commands.add_parser("runs", help="list recorded runs").set_defaults(command=_runs)
    commands.add_parser("index", help="write index.html and the other reports anew").set_defaults(command=_index)
    history = commands.add_parser("history", help="follow a metric over all recorded runs")
    history.add_argument("metric", help="a dotted path in result.json, such as totals.records_per_s; * stands for every key")
    history.add_argument("--validation", choices=config.VALIDATIONS, help="only its runs")
    history.set_defaults(command=_history)
    for name in ("run", "batch", "runs", "index", "history"):
        commands.choices[name].add_argument("--out", help="output folder (default: outputs/)")
    return parser


def _add_sandbox(sandbox: argparse.ArgumentParser) -> None:
    actions = sandbox.add_subparsers(required=True, metavar="up|status|down", parser_class=_Parser)
    up = actions.add_parser("up", help="start it, or find the running one")
    up.add_argument("--filled", action="store_true", help="return when all data is there, not only when it answers")
    up.add_argument("--resting", action="store_true", help="as --filled, or when it waits for a backfill to be measured first")
    up.add_argument("--days", type=int, help="days of history (default 365)")
    up.add_argument("--symbols", help="comma-separated symbols (default: all 25)")
    up.add_argument("--until-unused", action="store_true", help="stop it when no process uses it any more (default: it stays until down)")
    up.add_argument("--json", action="store_true", help="print the state as JSON")
    up.set_defaults(command=_sandbox_up)
    actions.add_parser("status", help="print processes, health and fill").set_defaults(command=_sandbox_status)
    down = actions.add_parser("down", help="stop it; its data stays")
    down.add_argument("--force", action="store_true", help="although other processes use it")
    down.add_argument("--unused", action="store_true", help="unless a process uses it or `sandbox up` started it; print nothing")
    down.set_defaults(command=_sandbox_down)


def _out(arguments: argparse.Namespace) -> Path:
    return config.expanded(arguments.out).absolute() if arguments.out else config.OUTPUTS


# ---- run ----


def _run(arguments: argparse.Namespace) -> int:
    began_s = time.monotonic()
    from tapecheck import check as lint
    from tapecheck.reports import pages
    from tapecheck.runs import batch, outcomes
    from tapecheck.target import opening
    from tapecheck.validation import named

    chosen = list(config.ALL) if arguments.validation == "all" else [arguments.validation]
    given = _given(arguments)
    out: Path | None = _out(arguments)
    if arguments.out is None and "out" in given:
        out = config.outputs(given["out"]) if given["out"] else None
    if chosen == [config.EXPLORE]:  # asks no target and records no run
        ended = [batch.run(config.EXPLORE, given, out)]
        print(f"{outcomes.table(ended)}\n\n{outcomes.explanation(ended)}", flush=True)
        return outcomes.worst(ended)
    shares = _shares(chosen, given)
    target = lint.before_traffic(shares)
    ended = []
    needs_sandbox = target.kind == "sandbox" and any(named(name).asks_target(shares[name]) for name in chosen)
    try:
        with opening.sandbox_used() if needs_sandbox else contextlib.nullcontext():
            ended.extend(batch.run(validation, shares[validation], out) for validation in chosen)  # keeps those before an interrupt
    finally:  # what is done is printed, whatever ends the rest
        if ended:
            print(outcomes.table(ended), flush=True)
    where = f"all runs: {pages.write(out)}" if out else "not recorded (out is empty)"
    for one in ended:
        if given.get("drills") == "none" and one.folder and (document := one.folder / "definition.md").exists():
            where += f"\nthe objectives as a document: {document}"
    print(f"\n{outcomes.measured(ended, time.monotonic() - began_s)}; {where}\n\n{outcomes.explanation(ended)}", flush=True)
    return outcomes.worst(ended)


def _shares(chosen: Sequence[str], given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what each notebook is given; of several, a plan goes to the one whose plan it is, a profile to those whose plan has it."""
    from tapecheck import check as lint

    shares = lint.shares(chosen, given)
    if len(chosen) == 1:
        return shares
    if given.get("run", "new") != "new":
        allowed = "one validation by name, as in: run load -p run FOLDER"
        raise ConfigError([Problem(file="command line", key="run", got=f"a recorded run for {', '.join(chosen)}", allowed=allowed)])
    kind = lint.plan_kind(given["plan"]) if "plan" in given else None
    for name in shares if kind in shares else ():
        if name != kind:
            shares[name].pop("plan", None)
    knowing = [name for name in shares if lint.knows_profile(name, shares[name])]
    for name in shares if knowing else ():
        if name not in knowing:
            shares[name].pop("profile", None)
    return shares


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """Merge the parameters of -f, -p and --target; a -p value is read as YAML, so that 5 is a number and "5" is text.

    What YAML takes for text without quotes, and every path, is taken as it stands: ` #` begins no comment in a folder's name.
    """
    given: dict[str, Any] = {}
    if arguments.file:
        data, _ = config.read_yaml(config.find(arguments.file))
        if not isinstance(data, Mapping):
            raise ConfigError([Problem(file=arguments.file, key="(file)", got=type(data).__name__, allowed="NAME: VALUE lines")])
        given.update({str(name): value for name, value in data.items()})
    for name, value in arguments.pairs:
        given[name] = value
        if value[:1] in ("'", '"') or (value and name not in (*PATHS, "out")):
            with contextlib.suppress(yaml.YAMLError, RecursionError, *config.NO_VALUE):
                read = yaml.safe_load(value)
                given[name] = value if isinstance(read, str) and value[0] not in "'\"" else read
    if arguments.target:
        given["target"] = arguments.target
    for name in PATHS:
        if isinstance(given.get(name), str) and given[name] not in ("new", "latest", ""):
            path = config.expanded(given[name])
            is_pattern = any(sign in given[name] for sign in "*?[") and not path.exists()  # of several files of one run
            given[name] = str(path.absolute() if is_pattern else config.find(given[name]))
    return given


def _batch(arguments: argparse.Namespace) -> int:
    began_s = time.monotonic()
    from tapecheck import check as lint
    from tapecheck.batches import queue
    from tapecheck.reports import pages
    from tapecheck.runs import outcomes

    out, planned = _out(arguments), lint.batch(arguments.file)
    ledger = queue.run(arguments.file, planned, out, resume=arguments.resume, workers=arguments.workers)
    ended, where = ledger.outcomes(), f"all runs: {pages.write(out)}\nthis batch: {ledger.file}, junit.xml"
    print(f"\n{outcomes.measured(ended, time.monotonic() - began_s)}; {where}\n\n{outcomes.explanation(ended)}", flush=True)
    return outcomes.worst(ended)


# ---- sandbox ----


def _sandbox_up(arguments: argparse.Namespace) -> int:
    from tapecheck import progress
    from tapecheck.sandbox import supervision
    from tapecheck.sandbox.profile import Profile

    symbols = None if arguments.symbols is None else [s.strip() for s in arguments.symbols.split(",") if s.strip()]
    changes = {name: value for name, value in {"days": arguments.days, "symbols": symbols}.items() if value is not None}
    profile = config.validate(Profile, changes, file="command line") if changes else None
    say = _say if sys.stderr.isatty() or not arguments.json else lambda text: None
    state = supervision.up(profile=profile, until_unused=arguments.until_unused, on_progress=say)
    if arguments.filled and not arguments.until_unused and sys.stderr.isatty():
        _say("filling; after Ctrl-C it runs and fills on, until: python -m tapecheck sandbox down")
    if arguments.filled or arguments.resting:
        with progress.show("sandbox: waiting until its history is complete and fresh", "series") as report:
            supervision.wait_filled(or_held=arguments.resting, on_progress=report)
    if arguments.json:
        print(state.model_dump_json())
        return 0
    return _sandbox_status(arguments)


def _say(text: str) -> None:
    print(f"sandbox: {text}", file=sys.stderr, flush=True)


def _sandbox_status(arguments: argparse.Namespace) -> int:
    from tapecheck.sandbox import supervision

    if (status := supervision.status()) is None:
        print("the sandbox is not running; start it with: python -m tapecheck sandbox up")
        return 2
    print(f"api        {status.state.base_url}  (its API: {status.state.base_url}/docs)")
    for p in status.processes:
        pid = f"pid {p.pid}" if p.pid else "not ours" if p.healthy else "down"
        print(f"{p.name:<10} port {p.port:<6} {pid:<12} {'healthy' if p.healthy else 'NOT HEALTHY'}")
    print(f"data       {config.sandbox_home()}, {status.jobs_done} of {status.jobs_total} series filled")
    return 0


def _sandbox_down(arguments: argparse.Namespace) -> int:
    from tapecheck.sandbox import supervision

    if arguments.unused:
        supervision.down_unused()
        return 0
    print("the sandbox is stopped; its data stays" if supervision.down(force=arguments.force) else "the sandbox was not running")
    return 0


_JUPYTERLAB = "from tapecheck.sandbox import service; service.end_with({}); from jupyterlab.labapp import main; main()"
_LAB_OPTIONS = (  # whatever the user's own configuration says
    "--LabApp.default_url=/lab/tree/notebooks",
    "--ServerApp.ip=127.0.0.1",
    "--ServerApp.allow_remote_access=False",
    "--LabApp.extension_manager=readonly",  # the other one, and news, ask beyond this machine
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    "--LabApp.news_url=None",
)


def _lab(arguments: argparse.Namespace) -> int:
    from tapecheck.target import opening

    with opening.sandbox_running() as state:
        print(f"sandbox: {state.base_url}; it stops after JupyterLab, unless others use it", flush=True)
        command = [sys.executable, "-P", "-c", _JUPYTERLAB.format(os.getpid()), f"--ServerApp.root_dir={config.PROJECT}", *_LAB_OPTIONS]
        root = ["--allow-root"] if os.geteuid() == 0 else []
        with subprocess.Popen([*command, *root], env={**os.environ, **_jupyter_folders()}) as jupyter:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to JupyterLab too, which asks whether to quit
            for end in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(end, lambda *_: jupyter.terminate())
            return 3 if jupyter.wait() else 0


def _jupyter_folders() -> dict[str, str]:
    """Return where Jupyter may write if it may not in the home folder."""
    if os.access(Path.home(), os.W_OK):
        return {}
    own = config.sandbox_home() / "jupyter"
    names = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime", "IPYTHONDIR": "ipython"}
    return {name: os.environ.get(name, str(own / folder)) for name, folder in (names | {"MPLCONFIGDIR": "matplotlib"}).items()}


# ---- params, check, runs, index, history ----


def _params(arguments: argparse.Namespace) -> int:
    from tapecheck.runs import batch

    path = Path(arguments.notebook)
    path = path if path.suffix == ".ipynb" and path.exists() else batch.notebook(path.stem)
    for name, p in batch.parameters(path).items():
        print(f"{name:<12} {p['inferred_type_name']:<6} {p['default']:<36} {p['help']}")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from tapecheck import check as lint
    from tapecheck.verdict import counted

    files = [Path(f) for f in arguments.files] or sorted(config.CONFIG.rglob("*.yaml"))
    found = {file: lint.problems(file) for file in files}
    problems = [problem for of_file in found.values() for problem in of_file]
    for file, notes in ((file, lint.notes(file)) for file, of_file in found.items() if not of_file):
        if notes:
            print("\n".join(notes) if arguments.explain else f"{counted(len(notes), 'contradictions')} explained in {config.shown(file)}")
        if unset := lint.unset(file):
            print(f"note: {config.shown(file)}: not set here, and needed to ask this target: {', '.join(unset)}")
        if code := lint.code(file):
            print(f"{config.shown(file)} runs code, which needs `allow_drills: true` on the target: {', '.join(code)}")
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{counted(len(files), 'files')}, {counted(len(problems), 'problems')}")
    if arguments.ask and not problems:
        return _ask(files)
    return ConfigError.exit_code if problems else 0


def _ask(files: Sequence[Path]) -> int:
    from tapecheck import asking

    found = []
    for file in files:
        for part in asking.ask(file):
            print(part, flush=True)
            found.append(part)
    return MeasurementError.exit_code if any(part.works is False for part in found) else 0


def _init(arguments: argparse.Namespace) -> int:
    from tapecheck import proposal

    text = proposal.write(arguments.url, arguments.write, allow_remote=arguments.allow_remote)
    print(f"written to {arguments.write}; next: tapecheck check --ask {arguments.write}" if arguments.write else text.rstrip())
    return 0


def _runs(arguments: argparse.Namespace) -> int:
    from tapecheck.reports import overview

    found = overview.read(_out(arguments))
    print(overview.listing(found) if found.entries or found.broken else "no recorded runs")
    return 0


def _index(arguments: argparse.Namespace) -> int:
    from tapecheck.reports import pages

    print(pages.write(_out(arguments)))
    return 0


def _history(arguments: argparse.Namespace) -> int:
    from tapecheck import charts
    from tapecheck.runs import folders, history

    found = history.read(_out(arguments), arguments.metric, arguments.validation)
    print(history.table(found))
    picture = _out(arguments) / "history" / history.file_name(arguments.metric)
    folders.write_file(picture, charts.history_trend(history=found).png())
    print(picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
