"""Made-up probes, trials and ages of drills, of which everything is known."""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from backfills import ENVIRONMENT
from recorded_drills import PLAN

from tapecheck.recovery.objectives import RecoveryPlan
from tapecheck.recovery.recording import BAD, DEGRADED, FULL, PROBES, Ack, Ages, Context, Recording, SeriesAge, Trial
from tapecheck.recovery.timeline import Seen
from tapecheck.runs.results import TargetInfo

__all__ = [
    "BAD", "DEGRADED", "FULL", "ONCE", "PERIOD_S", "PLAN", "S", "age", "ages", "crash", "hang", "probes", "recording", "steady", "trial",
]  # fmt: skip

S = 1_000_000_000
PERIOD_S = 0.05


def steady(seconds: float) -> list[float]:
    """Return the intended starts of probes."""
    return [number * PERIOD_S for number in range(int(seconds / PERIOD_S))]


def probes(rows: Iterable[tuple[float, float, int]], *, serves: bool = True) -> Seen:
    """Return the probes of a view; each row is when it was sent and answered in seconds, and state."""
    sent, done, state = zip(*rows, strict=True)
    return Seen(
        sent_ns=(np.array(sent) * S).astype(np.int64),
        done_ns=(np.array(done) * S).astype(np.int64),
        state=np.array(state),
        reported=np.zeros(len(state), bool),
        serves=serves,
    )


def crash(first_s: float, last_s: float, *, until_s: float = 6.0, serves: bool = True) -> Seen:
    """Connections are refused at once from `first_s` to `last_s`."""
    until_s = max(until_s, last_s + 2 if last_s < 90 else until_s)
    return probes([(at, at + 0.002, BAD if first_s <= at < last_s else FULL) for at in steady(until_s)], serves=serves)


def hang(first_s: float, last_s: float) -> Seen:
    """What begins from `first_s` to `last_s` is answered at the end of that, in full."""
    return probes([(at, last_s + 0.003 if first_s <= at < last_s else at + 0.002, FULL) for at in steady(last_s + 3)])


# ---- whole recordings ----

ONCE = PLAN.model_copy(update={"trials": PLAN.trials.model_copy(update={"each": 1, "proven_share": None})})
STARTED = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
DRILLS = {"api_killed": "api_crash", "database_killed": "database_loss", "scheduler_killed": "scheduler_crash"}


def trial(drill: str, number: int = 1, *, injected_s: float | None = 1.0, **more: Any) -> Trial:
    """Return a trial of a drill whose fault began one second after its probes."""
    base: dict[str, Any] = {"failure": DRILLS.get(drill, drill), "began_ns": 0, "ended_ns": 6 * S, "steady_before": True}
    base |= {"injected_ns": None if injected_s is None else round(injected_s * S), "steady_after": True, "rolled_back": True}
    return Trial(drill=drill, trial=number, repair="mend it", **base | more)


def table(drill: str, number: int, views: Mapping[str, Seen], late_s: float = 0.001) -> pa.Table:
    """Return the probes of a trial as they are stored, intended `late_s` before they were sent."""
    rows = [
        {
            "drill": drill,
            "trial": number,
            "view": name,
            "serves": view.serves,
            "intended_ns": int(view.sent_ns[i] - late_s * S),
            "sent_ns": int(view.sent_ns[i]),
            "done_ns": int(view.done_ns[i]),
            "state": int(view.state[i]),
            "reported": bool(view.reported[i]),
            "status": 200,
            "error": "",
        }
        for name, view in views.items()
        for i in range(len(view.state))
    ]
    return pa.Table.from_pylist(rows).select(PROBES.names).cast(PROBES)


def age(symbol: str, timeframe: str = "1d", *, said_s: float | None = 60.0, **more: Any) -> SeriesAge:
    """Return a series whose age the API and its database say alike."""
    state = PLAN.staleness.classify(said_s)
    action = PLAN.staleness.action(state)
    base: dict[str, Any] = {"tier": PLAN.tier_of(symbol), "says": state, "database_s": said_s, "state": state, "expected": action}
    return SeriesAge(symbol=symbol, timeframe=timeframe, said_s=said_s, **base | {"seen": action} | more)


def ages(*series: SeriesAge) -> Ages:
    """Return an audit of some series, with nothing else wrong."""
    return Ages(series=series, database_asked=True, last_success_s=60.0)


def recording(
    trials: Sequence[tuple[Trial, Mapping[str, Seen]]] = (),
    *,
    plan: RecoveryPlan = ONCE,
    audit: Ages | None = None,
    acks: Sequence[Ack] = (),
    ledger: Sequence[Mapping[str, Any]] = (),
    late_s: float = 0.001,
) -> Recording:
    """Return the recording of a run."""
    return Recording.of(
        probes=pa.concat_tables([PROBES.empty_table(), *(table(one.drill, one.trial, views, late_s) for one, views in trials)]),
        acks=acks,
        context=Context(
            run_id="20260101T000000Z-0000",
            started_at=STARTED,
            target=TargetInfo(name="sandbox", kind="sandbox", base_url="http://127.0.0.1:1"),
            environment=ENVIRONMENT,
            plan=plan,
            drills=list(dict.fromkeys(one.drill for one, _ in trials)),
            trials=[one for one, _ in trials],
            ages=audit,
            ledger=ledger,
        ),
    )
