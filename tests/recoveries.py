"""Made-up probes, trials and ages of drills, of which everything is known."""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from backfills import ENVIRONMENT

from tapecheck.recovery import recording as recorded
from tapecheck.recovery.contradictions import read_plan
from tapecheck.recovery.recording import BAD, DEGRADED, FULL, PROBES, Audit, Context, Fate, Look, Recording, Reply, Trial, WrittenBar
from tapecheck.recovery.timeline import Seen
from tapecheck.runs.results import TargetInfo
from tapecheck.target import mapping

__all__ = [
    "BAD", "DEGRADED", "FULL", "ONCE", "PERIOD_S", "PLAN", "S", "age", "ages", "bar", "crash", "hang", "probes", "recording", "steady",
    "trial",
]  # fmt: skip

S = 1_000_000_000
PLAN = read_plan("config/rto_rpo.yaml")
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


# ---- bars ----


def bar(symbol: str, at_minutes: float, fate: Fate = "stable", **changes: Any) -> WrittenBar:
    """Return a 5-minute bar that begins so many minutes after 1970, and has had this fate."""
    base: dict[str, Any] = {"drill": "d", "trial": 1, "minutes": 5.0, "time_ms": round(at_minutes * 60_000)}
    base |= {"acked_ns": None if fate == "unknown" else 1, "found": {"stable": True, "lost": False}.get(fate)}
    return WrittenBar(symbol=symbol, **base | changes)


# ---- whole recordings ----

ONCE = PLAN.model_copy(update={"trials": PLAN.trials.model_copy(update={"each": 1, "proven_share": None})})
STARTED = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
DRILLS = {"api_killed": "api_crash", "database_killed": "database_loss", "scheduler_killed": "scheduler_crash"}


def trial(drill: str, number: int = 1, *, injected_s: float | None = 1.0, **more: Any) -> Trial:
    """Return a trial of a drill whose fault began one second after its probes."""
    base: dict[str, Any] = {"failure": DRILLS.get(drill, drill), "began_ns": 0, "ended_ns": 6 * S, "steady_before": True}
    base |= {"injected_ns": None if injected_s is None else round(injected_s * S), "steady_after": True, "rolled_back": True}
    return Trial(drill=drill, trial=number, repair="mend it", **base | more)


def table(drill: str, number: int, views: Mapping[str, Seen]) -> pa.Table:
    """Return the probes of a trial as they are stored, sent when they were due."""
    named = {"drill": drill, "trial": number, "status": 200, "error": ""}
    rows = [
        named
        | {"view": name, "serves": view.serves, "intended_ns": sent, "sent_ns": sent, "done_ns": int(view.done_ns[i])}
        | {"state": int(view.state[i]), "reported": bool(view.reported[i])}
        for name, view in views.items()
        for i, sent in enumerate(view.sent_ns.tolist())
    ]
    return pa.Table.from_pylist(rows, PROBES)


@dataclass(frozen=True, kw_only=True)
class Age:
    """A series: what the API reports of it and its database holds (seconds), and how it is answered; by default alike, and as it must be.

    `answer` is an action of the plan, or None where it was not asked for.
    """

    symbol: str
    timeframe: str
    reported_s: float | None
    database_s: float | None
    answer: str | None

    @property
    def key(self) -> tuple[str, str]:
        return self.symbol, self.timeframe

    def reply(self) -> Reply:
        served = (
            mapping.Served(warning=None if self.answer == "plain" else "old", count=1) if self.answer != "not_found_and_trigger" else None
        )
        return Reply(
            symbol=self.symbol, timeframe=self.timeframe, done_s=0.0, status=200 if served else 404, served=served,
            has_features=served is not None, triggered=served is None,
        )  # fmt: skip


def age(symbol: str, timeframe: str = "1d", *, reported_s: float | None = 60.0, **more: Any) -> Age:
    """Return a series of an age."""
    real_s = more.get("database_s", reported_s)
    right: dict[str, Any] = {"database_s": real_s, "answer": PLAN.staleness.action(PLAN.staleness.classify(real_s))}
    return Age(symbol=symbol, timeframe=timeframe, reported_s=reported_s, **right | more)


def look(ages: Iterable[Age], *, database: bool = True, alerts: bool = False) -> Look:
    """Return a status answer that reports these ages, and the database that holds them."""
    ages = list(ages)
    series = [
        mapping.ReportedSeries(symbol=a.symbol, timeframe=a.timeframe, age_s=a.reported_s, freshness=PLAN.staleness.classify(a.reported_s))
        for a in ages
    ]
    rows = {
        f"{a.symbol} {a.timeframe}": recorded.Row(
            symbol=a.symbol, timeframe=a.timeframe, state="done", age_s=a.database_s, newest=None, has_features=True
        ) for a in ages
    }  # fmt: skip
    raised = [mapping.Raised(symbol=a.symbol, timeframe=a.timeframe) for a in ages if a.answer == "warning_and_alert"]
    stored = [recorded.Stored(rows=rows, read_s=0.0)] * 2 if database else []
    return Look(
        sent_s=0.0,
        done_s=0.0,
        at=STARTED,
        status=mapping.Status(series=tuple(series), alerts=tuple(raised if alerts else ())),
        stored=stored,
    )


def ages(*given: Age, planted: Sequence[Age] = (), database: bool = True, named: bool = True, **more: Any) -> Audit:
    """Return an audit that found these ages, and fresh ones of the other symbols that the plan names.

    Args:
        database: whether the database answered; `named`: whether the target file names one.
    """
    frames = dict.fromkeys(one.timeframe for one in given) or ["1d"]
    symbols = [symbol for tier in PLAN.rpo.values() if tier.symbols != "others" for symbol in tier.symbols]
    others = {(symbol, frame): age(symbol, frame) for symbol in symbols for frame in frames}
    every = [*(others | {one.key: one for one in given}).values()]
    return Audit(
        looks=(look(every, database=database), look(every, database=database, alerts=True)),
        replies=[one.reply() for one in every if one.answer],
        planted=[
            recorded.PlantedAge(age_s=a.database_s or 0.0, looks=(look([a]), look([a], alerts=True)), reply=a.reply()) for a in planted
        ],
        has_database=named,
        **{"last_success_s": 60.0} | more,
    )


def recording(
    trials: Sequence[tuple[Trial, Mapping[str, Seen]]] = (), *, audit: Audit | None = None, bars: Sequence[WrittenBar] = ()
) -> Recording:
    """Return the recording of a run."""
    return Recording.of(
        probes=pa.concat_tables([PROBES.empty_table(), *(table(one.drill, one.trial, views) for one, views in trials)]),
        bars=bars,
        context=Context(
            run_id="20260101T000000Z-0000",
            started_at=STARTED,
            target=TargetInfo(name="sandbox", kind="sandbox", base_url="http://127.0.0.1:1"),
            environment=ENVIRONMENT,
            drills=list(dict.fromkeys(one.drill for one, _ in trials)),
            trials=[one for one, _ in trials],
            audit=audit,
        ),
    )
