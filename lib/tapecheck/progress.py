"""Shows how far a measurement is: a bar in a terminal, a line in JupyterLab, or a file that a batch follows."""

import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from contextvars import ContextVar
from html import escape
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from tapecheck import notebook

CLOCK = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f} of {total:.1f} s{postfix}"  # of work whose length is known
COUNTED = "{desc}: {percentage:3.0f}%|{bar}| {n:,.0f} of {total:,.0f}{unit}, {remaining} left{postfix}"
LEFT = ", {remaining} left"
EVERY_S = 10.0  # a line, where there is no terminal
FIRST_S, FIRST_SHARE = 1.0, 0.05  # before either has passed, the pace tells nothing of the time that is left
FILE_VARIABLE = "TAPECHECK_PROGRESS"  # a batch names the file here that its notebook's kernel reports to


class Report(Protocol):
    """Called with how much is done, of how much, and maybe what else there is to say, as often as there is news."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Take the news."""


_RATE = re.compile(r"\d+(\.\d+)?(?=/s)")  # in the name of a level: 2828.43/s
_SILENT: ContextVar[bool] = ContextVar("silent", default=False)


@contextmanager
def silent() -> Iterator[None]:
    """Show nothing of what lies within: one of many short pieces of work, of which their caller reports."""
    token = _SILENT.set(True)
    try:
        yield
    finally:
        _SILENT.reset(token)


@contextmanager
def show(label: str, unit: str = "requests") -> Iterator[Report]:
    """Yield a reporter for one piece of work, for wherever this code runs."""
    label = _RATE.sub(lambda found: f"{float(found[0]):,.{0 if float(found[0]) >= 10 else 2}f}", label)
    file = os.environ.get(FILE_VARIABLE)
    if _SILENT.get():
        yield lambda done, total, note="": None
    elif file:
        yield _to_file(Path(file), label, unit)
    elif hasattr(notebook.shell(), "kernel"):
        with _in_notebook(label, unit) as report:
            yield report
    else:
        with closing(_Bars()) as bars:
            yield lambda done, total, note="": bars(label, unit, done, total, note)


def _to_file(file: Path, label: str, unit: str) -> Report:
    def report(done: int, total: int, note: str = "") -> None:
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps([label, unit, done, total, note]) + "\n")

    return report


@contextmanager
def _in_notebook(label: str, unit: str) -> Iterator[Report]:
    from IPython import display

    started, in_time, last = time.monotonic(), unit == "ms", 0
    handle: Any = display.display(display.HTML(""), display_id=True)  # type: ignore[no-untyped-call]

    def draw(bar: str, text: str) -> None:
        handle.update(display.HTML(f"{bar} {escape(label)}: {escape(text)}"))  # type: ignore[no-untyped-call]

    def report(done: int, total: int, note: str = "") -> None:
        nonlocal last
        last = done
        bar = f'<progress max="{max(total, 1)}" value="{done}" style="width: 20em"></progress>' if done < total else ""
        draw(bar, _so_far(unit, done, total, spent(), note))

    def spent() -> float:
        return time.monotonic() - started

    yield report
    draw("", f"{'' if in_time else f'{last:,} {unit} in '}{spent():.1f} s")


def _has_pace(done: int, total: int, spent_s: float) -> bool:
    return spent_s >= FIRST_S and done > 0 and done >= FIRST_SHARE * total


def _so_far(unit: str, done: int, total: int, spent_s: float, note: str = "") -> str:
    """Say how far a piece of work is, and about how long it takes on, as long as it goes on at the pace that it had."""
    in_time, left = unit == "ms", max(total - done, 0)
    left_s = left / 1000 if in_time else spent_s * left / done if _has_pace(done, total, spent_s) else None
    count = f"{done / 1000:.1f} of {total / 1000:.1f} s" if in_time else f"{done:,} of {total:,} {unit}"
    return ", ".join(filter(None, (count, f"{left_s:.0f} s left" if left_s and "left" not in note else "", note)))


class _Bars:
    """One tqdm bar at a time on stderr; where that is no terminal, a line when each piece of work begins, and one every `EVERY_S`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.label: str | None = None
        self.clock = clock
        self.bar: tqdm[Any] | None = None

    def __call__(self, label: str, unit: str, done: int, total: int, note: str = "") -> None:
        bar = self.bar
        if bar is None or label != self.label:
            self.close()
            look = CLOCK if unit == "ms" else COUNTED
            bar = self.bar = tqdm(desc=label, unit=f" {unit}", total=total, bar_format=look, disable=None, leave=True, dynamic_ncols=True)
            if bar.disable:
                print(label, file=sys.stderr, flush=True)
            self.label, self.began_s = label, self.clock()
            self.said_s = self.began_s
        if bar.disable and self.clock() - self.said_s >= EVERY_S:
            print(f"{label}: {_so_far(unit, done, total, self.clock() - self.began_s, note)}", file=sys.stderr, flush=True)
            self.said_s = self.clock()
        if unit != "ms":
            bar.bar_format = COUNTED if _has_pace(done, total, self.clock() - self.began_s) else COUNTED.replace(LEFT, "")
        scale = 1000 if unit == "ms" else 1
        bar.total = max(total, done) / scale  # tqdm has no total any more where more is done
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
        with closing(_Bars()) as bars, file.open(encoding="utf-8") as lines:
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
