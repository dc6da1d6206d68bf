"""Whether a kill of PostgreSQL loses what it had acknowledged: not as it is set, and exactly so much where it answers too soon."""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg

from tapecheck import config
from tapecheck.recovery import actions
from tapecheck.recovery.objectives import RecoveryPlan
from tapecheck.recovery.recorder import SCHEMA, Recorder
from tapecheck.recovery.recording import WrittenBar
from tapecheck.sandbox.profile import Profile

from . import embedded, machine

TRIALS = 20
BEFORE_S, AFTER_S = 1.5, 0.5  # of writing, around a kill; supervisord waits longer for what did not live for a second
VARIANTS = {"synchronous_commit on": "", "synchronous_commit off": "options=-c%20synchronous_commit%3Doff"}
HELD = Profile(symbols=("SPY", "BTC", "AAPL", "JPM"), timeframes=("5m",), days=60)
PLAN = machine.ROOT / "config" / "rto_rpo.yaml"
PRESENT = f"SELECT symbol, (extract(epoch FROM time) * 1000)::int8 FROM {SCHEMA}.bars"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One kill: what was acknowledged, what the recorder calls lost, and what a query of our own did not find."""

    variant: str
    trial: int
    acknowledged_bars: int
    lost_bars: int
    missing_bars: int
    unknown_bars: int
    away_s: float


def run(trials: int = TRIALS, say: Say = print) -> list[Row]:
    """Kill the database of a sandbox of its own in mid-recording, so often in each variant."""
    plan: RecoveryPlan = config.chosen(RecoveryPlan, PLAN, config.WHOLE)
    rows = []
    with embedded.running(HELD) as sandbox:
        for variant, options in VARIANTS.items():
            for trial in range(1, trials + 1):
                rows.append(row := _trial(sandbox.database_url, plan, variant, options, trial))
                say(f"{variant}, kill {trial}: {row.lost_bars} of {row.acknowledged_bars} lost, {row.missing_bars} missing")
    return rows


def _trial(database_url: str, plan: RecoveryPlan, variant: str, options: str, trial: int) -> Row:
    url = f"{database_url}{'&' if '?' in database_url else '?'}{options}"
    with Recorder(url, plan, drill=variant, trial=trial) as recorder:
        time.sleep(BEFORE_S)
        _kill(database_url)
        _rows(database_url)
        time.sleep(AFTER_S)
    there = _rows(database_url)
    return _row(variant, trial, recorder.bars(), there)


def _kill(database_url: str) -> None:
    """Kill the server by the drill's own action."""
    port = int(psycopg.conninfo.conninfo_to_dict(database_url)["port"] or 0)
    actions.kill("database", {"processes": {"database": {"port": port}}})


def _rows(database_url: str) -> set[tuple[Any, ...]]:
    """Return the bars that are there, as soon as the database answers."""
    for _ in range(600):
        with contextlib.suppress(psycopg.OperationalError), psycopg.connect(database_url, connect_timeout=2) as connection:
            return set(connection.execute(PRESENT.encode()).fetchall())
        time.sleep(0.05)
    raise RuntimeError("the database did not come back")


def _row(variant: str, trial: int, acks: list[WrittenBar], there: set[tuple[Any, ...]]) -> Row:
    acknowledged = [ack for ack in acks if ack.acked_ns is not None]
    return Row(
        variant=variant,
        trial=trial,
        acknowledged_bars=len(acknowledged),
        lost_bars=sum(ack.fate == "lost" for ack in acks),
        missing_bars=sum((ack.symbol, ack.time_ms) not in there for ack in acknowledged),
        unknown_bars=sum(ack.fate == "unknown" for ack in acks),
        away_s=max(_gaps_s(acknowledged), default=0.0),
    )


def _gaps_s(acks: list[WrittenBar]) -> Iterator[float]:
    """Yield the time between one acknowledgement and the next; the longest is how long nothing could be written."""
    for sooner, later in itertools.pairwise(acks):
        yield ((later.acked_ns or 0) - (sooner.acked_ns or 0)) / 1e9


def table(rows: list[Row]) -> list[str]:
    """Return the kills of each variant as lines of Markdown."""
    lines = ["| variant | kills | acknowledged a kill (bars) | lost a kill (bars) | lost = missing in | unknown (bars) | away (s) |"]
    lines.append("|---|---|---|---|---|---|---|")
    for variant in VARIANTS:
        own = [row for row in rows if row.variant == variant]
        lost, acknowledged, away_s = ([getattr(row, name) for row in own] for name in ("lost_bars", "acknowledged_bars", "away_s"))
        exact, unknown = sum(row.lost_bars == row.missing_bars for row in own), sum(row.unknown_bars for row in own)
        lines.append(
            f"| {variant} | {len(own)} | {min(acknowledged)} to {max(acknowledged)} | {min(lost)} to {max(lost)}, {sum(lost)} in all"
            f" | {exact} of {len(own)} | {unknown} | {min(away_s):.2f} to {max(away_s):.2f} |"
        )
    return lines


if __name__ == "__main__":
    print("\n".join(table(run())))
