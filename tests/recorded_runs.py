"""Run folders for what reads many of them: copies of the runs in tests/data, each told from the others, with what a test changes."""

import functools
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tapecheck import config

BEGAN = datetime(2026, 11, 1, tzinfo=UTC)
DATA = Path(__file__).parent / "data"


@functools.cache
def _text(validation: str) -> str:
    return (DATA / validation / "result.json").read_text(encoding="utf-8")


def put(out: Path, validation: str, minute: int, change: Callable[[Any], object] = lambda result: None) -> Path:
    """Write the result.json of a run that began so many minutes after `BEGAN`, changed in place; return its folder."""
    at = BEGAN + timedelta(minutes=minute)
    result = json.loads(_text(validation))
    result.update(run_id=f"{at:%Y%m%dT%H%M%SZ}-{minute:04x}", started_at=at.isoformat(), scope="")
    change(result)
    folder = out / validation / result["run_id"]
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    return folder


def set_at(metric: str, value: float, **environment: Any) -> Callable[[Any], object]:
    """Change one number of a result, and what is said of the machine."""

    def change(result: Any) -> None:
        *steps, last = metric.split(".")
        inner = functools.reduce(lambda data, step: data[step], steps, result)
        inner[last] = value
        result["environment"].update(environment)

    return change


def check(verdict: str, name: str = "steady_rate", objective: str = "p95_ms < 1000", value: float | None = 5.0, reason: str = "why") -> Any:
    """Return a check as result.json has it."""
    return {"name": name, "objective": objective, "value": value, "bound": None, "n": 9, "verdict": verdict, "reason": reason}


def checks(*these: Any, verdict: str = "fail") -> Callable[[Any], object]:
    """Put these checks in place of a result's own."""
    return lambda result: result.update(checks=list(these), verdict=verdict)


def many(out: Path, n: int) -> Mapping[str, int]:
    """Write n runs, the validations in turn; return how many there are of each."""
    names = [name for name in config.VALIDATIONS if (DATA / name).is_dir()]
    for i in range(n):
        put(out, names[i % len(names)], i)
    return {name: len(range(j, n, len(names))) for j, name in enumerate(names)}
