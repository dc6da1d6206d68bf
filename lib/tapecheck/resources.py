"""Watches CPU and memory of local processes while something is measured, on the clock of the samples."""

import contextlib
import math
import os
import re
import resource
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from types import TracebackType
from typing import Any, Self, TypeVar

import psutil
import pyarrow as pa

from tapecheck.errors import ConfigError, Problem
from tapecheck.target.file import ProcessSelector

SCHEMA = pa.schema(
    [
        pa.field("time_ns", pa.int64(), metadata={"unit": "ns, monotonic"}),
        pa.field("process", pa.dictionary(pa.int32(), pa.string())),
        pa.field("cpu_ratio", pa.float64(), metadata={"unit": "busy cores: 1.0 is one core, children included"}),
        pa.field("rss_mb", pa.float64(), metadata={"unit": "MB resident, children included (shared pages count in each)"}),
        pa.field("processes", pa.int32(), metadata={"unit": "number of processes summed"}),
    ]
)
OTHERS, MACHINE = "(others)", "(machine)"  # rows beside the named ones: busy cores of neither them nor us, and of all together
LOOK_AGAIN_NS = 5_000_000_000  # between two searches for a process that is not there: each looks at every process
SHOWN = 200  # characters of a command line in a message
SPARED: set[psutil.Process] = set()  # what `locate` never returns beside this process and its kin
T = TypeVar("T")
_GONE = (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied)
_PATH = re.compile(r"(?!-)[^/=\s:;,|&<>\"'`$(){}*?]*(?:/[^/\s:;,|&<>\"'`$(){}*?]+)+")  # no option, list, URL or shell command
_INTERPRETERS: Mapping[str, tuple[str, str, str]] = {  # by program: options with a value, that name what runs, and that hold code
    r"(python|pypy)[\d.]*t?": ("-W -X --check-hash-based-pycs", "-m", "-c"),
    r"node|nodejs|bun|deno": ("-r --require --import --loader -C --conditions --env-file", "run", "-e --eval -p --print eval"),
    r"(ruby|perl|lua)[\d.]*": ("-I -r -C", "", "-e -E"),
    r"php[\d.]*": ("-c -d -z", "-f", "-r"),
    r"java|dotnet": ("-cp -classpath --class-path -p --module-path --add-opens --add-exports --add-modules", "-jar -m --module exec", ""),
    r"(ba|da|z|k)?sh": ("-o +o -O +O --rcfile --init-file", "", "-c"),
}
_first_of_pid: dict[int, psutil.Process] = {}  # for selectors by pid: the process that they mean


def locate(selector: ProcessSelector) -> list[psutil.Process]:
    """Return the local processes that a selector names, without their children; none when it runs elsewhere or may not be seen.

    This process, its ancestors and its children are never among them, whatever the selector; nor is a pid's next owner.
    """
    own = psutil.Process()
    spared = {own, *own.parents(), *own.children(recursive=True), *SPARED}
    found = {p.pid: p for p in _named(selector) if p not in spared}
    return [p for p in found.values() if not found.keys() & {parent.pid for parent in _parents(p)}]


def mentions(selector: ProcessSelector) -> list[psutil.Process]:
    """Return the processes that name a selector's command as an argument alone, as `tail -f api.log` does: none of them is meant."""
    text, here = selector.command or "", psutil.Process()
    found = _processes(psutil.pids()) if text else ()
    return [p for p in found if p != here and not _is_named(selector, p) and any(_is_word(text, word) for word in _words(p)[1:])]


def _named(selector: ProcessSelector) -> Iterator[psutil.Process]:
    if selector.port is not None:
        yield from _processes(_listening(selector.port))
    elif selector.pid is not None:
        yield from (p for p in _processes([selector.pid]) if _is_own_pid(p) and p == _first_of_pid.setdefault(p.pid, p))
    else:
        yield from (p for p in _processes(psutil.pids()) if _is_named(selector, p))


def _is_named(selector: ProcessSelector, process: psutil.Process) -> bool:
    return is_command(selector.command or "", _words(process), _ask(process.exe, ""))


def _is_own_pid(process: psutil.Process) -> bool:
    """Tell whether a pid is that of a process: of a thread's id psutil makes one all the same, and a thread of the kernel has no memory."""
    return _ask(lambda: psutil.pid_exists(process.pid) and not (psutil.LINUX and process.memory_info().vms == 0), False)


def _processes(pids: Iterable[int]) -> Iterator[psutil.Process]:
    """Yield what runs under these pids; whoever signals one later reaches it and no other that has its pid by then."""
    for pid in pids:
        with contextlib.suppress(*_GONE):
            process = psutil.Process(pid)
            if process.status() != psutil.STATUS_ZOMBIE:
                yield process


def is_command(text: str, words: Sequence[str], program: str = "") -> bool:
    """Tell whether a text names a process: its program, its title, or the script or module that an interpreter runs.

    Each counts as a whole or by its file name; further words of the text are the arguments that follow. An argument alone names nothing:
    `tail -f gunicorn` is no gunicorn.

    Args:
        words: the command line.
        program: the path of its executable, where that is known.
    """
    if not text.strip() or not words:
        return False
    if " " in program and " ".join(words).startswith(program):  # psutil splits a lone word at its spaces, here those of a path
        words = [program, *" ".join(words).removeprefix(program).split()]
    first, rest = words[0], words[1:]
    title, *more = first.split() if first.strip() and not first.startswith("/") else [""]
    lines = [[first, *rest], [program, *rest], [title, *more, *rest], [title.removesuffix(":"), *more, *rest]]
    return any(_begins(text, line, _is_path_of) for line in lines) or _begins(text, _run_by(program or first, rest), _is_word)


def _begins(text: str, line: Sequence[str], is_first: Callable[[str, str], bool]) -> bool:
    wanted = text.split()
    if not line or not line[0] or len(wanted) > len(line):
        return False
    return is_first(text.strip(), line[0]) or (is_first(wanted[0], line[0]) and all(map(_is_word, wanted[1:], line[1:])))


def _run_by(program: str, arguments: Sequence[str]) -> list[str]:
    """Return the script or module that an interpreter was started with, and its arguments; nothing for code, or another program."""
    kinds = (kind for pattern, kind in _INTERPRETERS.items() if re.fullmatch(pattern, _file_name(program), re.IGNORECASE))
    if (kind := next(kinds, None)) is None:
        return []
    with_value, with_name, with_code = (options.split() for options in kind)
    words = list(arguments)
    while words:
        option, value = _option(words.pop(0), {*with_value, *with_name, *with_code})
        if option in with_code:
            return []
        if option in with_name or not option.startswith("-"):
            return [value or option, *words] if value or option not in with_name else words
        words = words[1:] if option in with_value and not value else words
    return []


def _option(word: str, known: Set[str]) -> tuple[str, str]:
    """Split what stands in one word: `-Im` is -m, `-muvicorn` is -m with its value, `-lc` is -c; a known word, or `--long`, is itself."""
    if word not in known and "-jar" not in known and re.match("-[A-Za-z]", word):
        for at, letter in enumerate(word[1:], 2):
            if f"-{letter}" in known:
                return f"-{letter}", word[at:]
    return word, ""


def _is_path_of(wanted: str, path: str) -> bool:
    """Tell whether a program is meant; its path may hold any character."""
    return _is_word(wanted, path) or (path.startswith("/") and _file_name(path) == wanted)


def _file_name(path: str) -> str:
    return path.rpartition("/")[2]


def _is_word(wanted: str, word: str) -> bool:
    return bool(wanted) and (word == wanted or (_PATH.fullmatch(word) is not None and _file_name(word) == wanted))


def command_line(process: psutil.Process) -> str:
    """Return a process's pid and the beginning of its command line, for a message."""
    line = " ".join(_words(process))
    return f"pid {process.pid}: {line[:SHOWN]}{'…' if len(line) > SHOWN else ''}"


def _ask(question: Callable[[], T], otherwise: T) -> T:
    """Return what a process says of itself, or something else where it is gone or may not be asked."""
    try:
        return question()
    except _GONE:
        return otherwise


def _words(process: psutil.Process) -> list[str]:
    return _ask(process.cmdline, [])


def _parents(process: psutil.Process) -> list[psutil.Process]:
    return _ask(process.parents, [])


def _listening(port: int) -> set[int]:
    try:  # one look at the system's table: to ask each process is as many looks as there are processes
        return {one.pid for one in psutil.net_connections("tcp") if one.pid and _listens(one, port)}
    except psutil.AccessDenied:  # macOS shows the whole of it to root alone
        return {p.pid for p in psutil.process_iter() if any(_listens(one, port) for one in _connections(p))}


def _listens(connection: Any, port: int) -> bool:
    return bool(connection.status == psutil.CONN_LISTEN and connection.laddr.port == port)


def _connections(process: psutil.Process) -> list[Any]:
    return _ask(lambda: list(process.net_connections("tcp")), [])


def _tree(root: psutil.Process) -> list[psutil.Process]:
    return _ask(lambda: [root, *root.children(recursive=True)], [])


class Watch:
    """Samples the named processes and their children every `period_s` in a thread, as a context manager.

    Where each of the names is seen, rows of `OTHERS` and of `MACHINE` tell how busy everything else kept this machine.
    """

    def __init__(self, selectors: Mapping[str, ProcessSelector], period_s: float = 0.2) -> None:
        self._roots = {name: locate(selector) for name, selector in selectors.items()}
        self._selectors = selectors
        self._period_s = period_s
        self._cpu_s: dict[tuple[str, int, float], float] = {}
        self._began_at = time.time()  # psutil tells when a process began by the wall clock
        self._looked_ns: dict[str, int] = {}
        self._rows: list[tuple[int, str, float, float, int]] = []
        self._machine_s: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="resources", daemon=True)

    @property
    def found(self) -> Mapping[str, int]:
        """How many root processes each name stands for; 0 is one that cannot be watched from here."""
        return {name: len(roots) for name, roots in self._roots.items()}

    def __enter__(self) -> Self:
        self._sample(0)
        self._rows.clear()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def table(self) -> pa.Table:
        """Return what was seen so far, by `SCHEMA`."""
        columns = list(zip(*self._rows, strict=True)) or [()] * len(SCHEMA)
        return pa.table([pa.array(c, t.type) for c, t in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)

    def _loop(self) -> None:
        last_ns = time.monotonic_ns()
        while not self._stop.wait(self._period_s):
            now_ns = time.monotonic_ns()
            self._sample(now_ns - last_ns)
            last_ns = now_ns

    def _sample(self, elapsed_ns: int) -> None:
        known: set[psutil.Process] = set()
        for name, roots in self._roots.items():
            if not any(p.is_running() for p in roots) and time.monotonic_ns() - self._looked_ns.get(name, 0) > LOOK_AGAIN_NS:
                self._roots[name] = roots = locate(self._selectors[name])
                self._looked_ns[name] = time.monotonic_ns()
            trees = [one for root in roots for one in _tree(root)]
            known.update(trees)
            cpu_s, rss_bytes, count = self._sum(name, trees)
            if count and elapsed_ns:
                self._rows.append((time.monotonic_ns(), name, cpu_s / (elapsed_ns / 1e9), rss_bytes / 1e6, count))

        self._sample_others(known, elapsed_ns)

    def _sample_others(self, watched: set[psutil.Process], elapsed_ns: int) -> None:
        """Note what the machine did beside the watched processes, this one and its children; nothing where one of them is not seen."""
        known_s, _, _ = self._sum(OTHERS, watched.union(_tree(psutil.Process())))
        now_s, before_s = _busy_s(), self._machine_s
        self._machine_s = now_s
        if not elapsed_ns or now_s is None or before_s is None or not self._roots or not all(self._roots.values()):
            return
        for name, used_s in ((OTHERS, now_s - before_s - known_s), (MACHINE, now_s - before_s)):
            self._rows.append((time.monotonic_ns(), name, used_s / (elapsed_ns / 1e9), math.nan, 0))

    def _sum(self, name: str, processes: Iterable[psutil.Process]) -> tuple[float, int, int]:
        used_s, rss_bytes, count = 0.0, 0, 0
        for process in processes:
            try:
                with process.oneshot():
                    times, memory = process.cpu_times(), process.memory_info()
                    key = (name, process.pid, process.create_time())
            except _GONE:
                continue
            total_s = times.user + times.system
            used_s += total_s - self._cpu_s.get(key, 0.0 if key[2] > self._began_at else total_s)
            self._cpu_s[key] = total_s
            rss_bytes, count = rss_bytes + memory.rss, count + 1
        return used_s, rss_bytes, count


def _busy_s() -> float | None:
    """Return the CPU time that was spent on all cores, by whomever.

    None where the system does not tell, and where this process may not use all of them: what is busy on which is not known then.
    """
    try:
        cores = psutil.cpu_times(percpu=True)
    except (OSError, RuntimeError, NotImplementedError):
        return None
    if hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) < len(cores):
        return None
    idle = ("idle", "iowait", "guest", "guest_nice")  # a guest's time is in its host's
    return math.fsum(value for core in cores for name, value in core._asdict().items() if name not in idle)


def allow_files(needed: int, why: str) -> None:
    """Raise the soft limit of open files where it is below what is needed.

    Raises:
        ConfigError: the hard limit does not allow it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY != hard < needed:
        allowed = f"{needed:,} or more, {why}: begin in a shell with a higher limit, or raise it as root"
        raise ConfigError([Problem(file="machine", key="ulimit -Hn", got=f"{hard} open files", allowed=allowed)])
    if resource.RLIM_INFINITY != soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
