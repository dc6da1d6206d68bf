"""What a file of another tool was read into, and how such a file is known. It knows no tool."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from tapecheck.load.testimony import Testimony, Tool
from tapecheck.load.tools.requests import Requests

SCHEDULE = "it does not say when requests were due: response time is service time, and coordinated omission cannot be excluded"
CLOSED = "who sends waits for the answer first (a closed model), so it asks a target that stalls less, and finds it too fast"
CUT_OFF = "what was in flight when it stopped is missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Single requests, or figures by scenario, and what else the file says.

    `achieved_ratio` is of what the tool was to send; `clock_error_ms` how far off its duration may be.
    """

    tool: Tool
    requests: Requests = field(default_factory=Requests)
    told: Mapping[str, Testimony] = field(default_factory=dict)
    url: str = ""
    started_at: datetime | None = None
    achieved_ratio: Mapping[str, float] = field(default_factory=dict)
    clock_error_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One kind of file: what it is called, how its text begins, and what reads it."""

    name: str
    begins: Callable[[str], bool]
    read: Callable[[Path], Measurement]


def tool(name: str, output: str, *notes: str, answers_only: bool = False) -> Tool:
    """Name the tool behind a file; none of them says when its requests were due."""
    return Tool(name=name, output=output, notes=(SCHEDULE, *notes), answers_only=answers_only)
