"""The exception tree: what stops a validation. A failed request is data and never raises.

TapecheckError                exit code
├── ConfigError               4  the configuration or a parameter is wrong; lists every problem
├── TargetError               4  the target is not what the configuration says
│   └── TargetDown            2  the target does not answer, so there is no data
├── OutputError               4  the output folder cannot hold the run
├── MeasurementError          2  nothing could be measured
├── RollbackError             3  a drill's fault could not be taken away; says how to repair by hand
└── SandboxError              3  the embedded target did not start, or did not stop
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tapecheck import text


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong in a configuration, with where it stands and what is allowed; without that, `got` is the whole message."""

    file: str
    key: str
    got: str
    allowed: str
    line: int | None = None

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        return text.line(f"{where}: {self.key}: " + (f"got {self.got}; allowed: {self.allowed}" if self.allowed else self.got))


class TapecheckError(Exception):
    """Something that tapecheck says in one sentence; its exit code is a class attribute."""

    exit_code: ClassVar[int] = 3

    def __init__(self, *said: object) -> None:
        super().__init__(*(text.redact(one) if isinstance(one, str) else one for one in said))

    def _render_traceback_(self) -> list[str]:
        """Tell IPython to show the sentence in place of a traceback: what is wrong is not in our code."""
        return [text.legal(f"{type(self).__name__}: {self}")]


class ConfigError(TapecheckError):
    """The configuration, a parameter or the command line is wrong."""

    exit_code = 4

    def __init__(self, problems: Sequence[Problem] | str) -> None:
        self.problems = () if isinstance(problems, str) else tuple(problems)
        super().__init__(problems if isinstance(problems, str) else "\n".join(map(str, problems)))


class TargetError(TapecheckError):
    """The target answers, but not as the configuration says."""

    exit_code = 4


class TargetDown(TargetError):
    """The target does not answer, so that there is no data."""

    exit_code = 2


class OutputError(TapecheckError):
    """The output folder cannot be written, or is full."""

    exit_code = 4


class MeasurementError(TapecheckError):
    """The measurement could not be made."""

    exit_code = 2


class SandboxError(TapecheckError):
    """The embedded target did not start, or did not stop."""

    exit_code = 3


class RollbackError(TapecheckError):
    """A drill's fault could not be taken away."""

    exit_code = 3


def first_line(error: BaseException, most: int = 200) -> str:
    """Return the first line of an error, which names the cause; the others of a database's quote statements."""
    return text.redact((str(error).strip().splitlines() or [type(error).__name__])[0])[:most]


def shown(body: bytes, most: int = 60) -> str:
    """Quote the beginning of an unexpected body in one printable line; of a web page its title; binary data and nothing are named."""
    body = text.redact_bytes(body)  # the whole of it: a secret that is cut is not found
    if not body.strip():
        return "an empty body"
    if b"\0" in body:
        return f"{len(body):,} bytes of binary data"
    if re.match(rb"\s*<(!doctype html|html)\b", body, re.IGNORECASE):
        title = re.search(rb"<title[^>]*>([^<]*)", body, re.IGNORECASE)
        return f"a web page{f' with the title {shown(title[1], most)}' if title and title[1].strip() else ''}"
    said = text.line(body.decode("utf-8", "replace"))
    return repr(said if len(said) <= most else said[: most - 3] + "...")
