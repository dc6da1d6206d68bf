"""Every drill ever run against an output folder, one JSON line each, so that a trend outlives the runs. It judges nothing."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from tapecheck import config
from tapecheck.errors import OutputError
from tapecheck.recovery.timeline import Timed
from tapecheck.runs import results

FILE = Path("rto_rpo") / "ledger.jsonl"
SHOWN = 500  # newest lines that a run keeps and a chart shows


def path(out: str) -> Path | None:
    """Return the ledger of an output folder; None where nothing is to be written."""
    return None if out == "" else config.outputs(out) / FILE


def entry(timed: Timed, *, run_id: str, at: datetime, target: str) -> dict[str, Any]:
    """Return the line of a trial."""
    trial, clocks, environment = timed.trial, timed.clocks, results.environment()
    return {
        "at": at.isoformat(timespec="seconds"),
        "run_id": run_id,
        "target": target,
        "drill": trial.drill,
        "failure": trial.failure,
        "trial": trial.trial,
        "invalid": timed.invalid,
        "recover_s": clocks.recover_s if clocks else None,
        "degraded_s": clocks.degraded_s if clocks else None,
        "detect_s": clocks.detect_s if clocks else None,
        "rolled_back": trial.rolled_back,
        "git_commit": environment.git_commit,
        "host": environment.host,
    }


def append(file: Path, entry: Mapping[str, Any]) -> None:
    """Add a line, in one write, so that two runs at once mix no lines.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), "ab") as lines:
            lines.write((json.dumps(entry, allow_nan=False) + "\n").encode())
    except OSError as error:
        raise OutputError(f"the ledger {file} cannot be written: {error.strerror}") from error


def read(file: Path | None, target: str) -> list[dict[str, Any]]:
    """Return the newest entries of a target, oldest first; a line that cannot be read is passed over, since others are worth showing."""
    if file is None or not file.exists():
        return []
    found = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
            is_good = datetime.fromisoformat(entry["at"]).tzinfo is not None and isinstance(entry["failure"], str)
        except (ValueError, KeyError, TypeError):
            continue
        found += [entry] if is_good and entry.get("target") == target else []
    return found[-SHOWN:]


def days_since(entries: Iterable[Mapping[str, Any]], failures: Sequence[str], now: datetime) -> dict[str, float | None]:
    """Return the days since each failure was last measured; None for never."""
    last = {e["failure"]: datetime.fromisoformat(e["at"]) for e in entries if e.get("recover_s") is not None and not e.get("invalid")}
    return {name: (now - last[name]).total_seconds() / 86400 if name in last else None for name in failures}
