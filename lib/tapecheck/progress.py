"""Shows how far a measurement is: a bar in a terminal, a line in JupyterLab, or a file that a batch follows."""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from html import escape
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

CLOCK = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f} of {total:.1f} s"  # of work whose length is known
FILE_VARIABLE = "TAPECHECK_PROGRESS"  # a batch names the file here that its notebook's kernel reports to


class Report(Protocol):
    """Called with how much is done, of how much, and maybe what else there is to say, as often as there is news."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Take the news."""


_SILENT: ContextVar[bool] = ContextVar("silent", default=False)


@contextmanager
def silent() -> Iterator[None]:
    """Show nothing of what lies within: one of many short pieces of work, of which whoever has them done reports."""
    token = _SILENT.set(True)
    try:
        yield
    finally:
        _SILENT.reset(token)


@contextmanager
def show(label: str, unit: str = "requests") -> Iterator[Report]:
    """Yield a reporter for one piece of work, for wherever this code runs."""
    file = os.environ.get(FILE_VARIABLE)
    if _SILENT.get():
        yield _to_nobody
    elif file:
        yield _to_file(Path(file), label, unit)
    elif _in_kernel():
        with _in_notebook(label, unit) as report:
            yield report
    else:
        with _in_terminal() as reports:
            yield lambda done, total, note="": reports(label, unit, done, total, note)


def _in_kernel() -> bool:
    shell = sys.modules.get("IPython")
    instance = shell.get_ipython() if shell else None
    return instance is not None and hasattr(instance, "kernel")


def _to_nobody(done: int, total: int, note: str = "") -> None:
    """Take the news and keep it."""


def _to_file(file: Path, label: str, unit: str) -> Report:
    def report(done: int, total: int, note: str = "") -> None:
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps([label, unit, done, total, note]) + "\n")

    return report


@contextmanager
def _in_notebook(label: str, unit: str) -> Iterator[Report]:
    from IPython import display as notebook

    show: Any = notebook.display
    html: Any = notebook.HTML

    started = time.monotonic()
    handle = show(html(""), display_id=True)
    last = [0, 0]

    def draw(done: int, total: int, text: str) -> None:
        bar = f'<progress max="{max(total, 1)}" value="{done}" style="width: 20em"></progress>' if done < total else ""
        handle.update(html(f"{bar} {escape(label)}: {text}"))

    def report(done: int, total: int, note: str = "") -> None:
        last[:] = [done, total]
        so_far = f"{done / 1000:.1f} of {total / 1000:.1f} s" if unit == "ms" else f"{done:,} of {total:,} {unit}"
        draw(done, total, ", ".join(filter(None, (so_far, "" if unit == "ms" else f"{time.monotonic() - started:.0f} s", note))))

    yield report
    did = "" if unit == "ms" else f"{last[0]:,} {unit} in "
    draw(1, 1, f"{did}{time.monotonic() - started:.1f} s")


@contextmanager
def _in_terminal() -> Iterator["_Bars"]:
    bars = _Bars()
    try:
        yield bars
    finally:
        bars.close()


class _Bars:
    """One tqdm bar at a time on stderr; where that is no terminal, a line when each piece of work begins."""

    def __init__(self) -> None:
        self.label: str | None = None
        self.bar: tqdm[Any] | None = None

    def __call__(self, label: str, unit: str, done: int, total: int, note: str = "") -> None:
        bar = self.bar
        if bar is None or label != self.label:
            self.close()
            look = CLOCK if unit == "ms" else None
            bar = self.bar = tqdm(desc=label, unit=f" {unit}", total=total, bar_format=look, disable=None, leave=True, dynamic_ncols=True)
            if bar.disable:
                print(label, file=sys.stderr, flush=True)
            self.label = label
        bar.total, scale = (total / 1000, 1000) if unit == "ms" else (total, 1)
        if note:
            bar.set_postfix_str(note, refresh=False)
        bar.update(done / scale - bar.n)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        self.bar = None


@contextmanager
def follow(file: Path) -> Iterator[None]:
    """Draw in this terminal what another process reports to `file`, as long as the context lasts."""
    stop = threading.Event()

    def draw() -> None:
        with _in_terminal() as bars, file.open(encoding="utf-8") as lines:
            rest = ""
            while True:
                ending = stop.wait(0.2)
                *whole, rest = (rest + lines.read()).split("\n")
                for line in whole:
                    bars(*json.loads(line))
                if ending:
                    return

    file.touch()
    thread = threading.Thread(target=draw, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
