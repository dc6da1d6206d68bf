"""The objectives of recovery and loss, as config/rto_rpo.yaml states them. It measures nothing and finds no contradictions."""

import datetime as dt
import math
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, AliasChoices, Field, StringConstraints, model_validator

from tapecheck.config import Model
from tapecheck.verdict import each_once, parse

AgeClass = Literal["fresh", "aging", "stale", "missing"]
Action = Literal["plain", "warning", "warning_and_alert", "not_found_and_trigger"]
TOLERANCE_S = 5.0  # clocks of two machines, and an answer kept for seconds, differ so; of the narrowest class, an hour, it is 0.14 %
Clock = Literal["degraded", "full"]
CountedLoss = Literal["acknowledged", "unrecoverable"]
OTHERS = "others"  # in place of a tier's symbols: every symbol that no other tier names
METRICS = ("false_ages", "wrong_answers", "unrecoverable_bars", "gone_bars", "alerts")  # beside those that `rto` and `rpo` imply

Seconds = Annotated[float, Field(gt=0, le=31_536_000)]
Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Symbol = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9.]{0,11}$")]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


def _objective(text: str) -> str:
    parse(text, METRICS)
    return text


class Oldest(Model):
    """The class of all that is older than the others, and of what never was there: what an answer of it must do."""

    action: Action


class Younger(Oldest):
    """A class of ages: from where the class before it ends up to, but not including, `below_s`."""

    below_s: Seconds


class Staleness(Model):
    """What the age of data means; the four classes leave no age without one."""

    fresh: Younger
    aging: Younger
    stale: Younger
    missing: Oldest

    @property
    def ends_s(self) -> dict[AgeClass, float]:
        """Where each class ends, the youngest first; the last one has no end."""
        return {"fresh": self.fresh.below_s, "aging": self.aging.below_s, "stale": self.stale.below_s, "missing": math.inf}

    def classify(self, age_s: float | None) -> AgeClass:
        """Return the class of an age; None is the age of what never was there."""
        if age_s is None:
            return "missing"
        return next((name for name, end_s in self.ends_s.items() if age_s < end_s), "missing")

    def action(self, name: AgeClass) -> Action:
        """Return what an answer with data of a class must do."""
        found: Oldest = getattr(self, name)
        return found.action


class RecoveryObjective(Model):
    """A failure: within what time service must be back, by which of the two clocks, and how.

    `degraded` recovery ends when the target answers again, if only from its fallback; `full` recovery when all of it works as before.
    `loss` says which bars count as lost: all that the database had acknowledged, or of those only what upstream does not have any more.
    """

    objective_s: Seconds
    clock: Clock = "full"
    loss: CountedLoss = "acknowledged"
    procedure: Text
    fallback: Text

    @property
    def metric(self) -> str:
        """The clock that counts, as a metric."""
        return "recover_s" if self.clock == "full" else "degraded_s"


class Tier(Model):
    """Symbols that share objectives: how old their data may be, how often it is refreshed, how many minutes of bars may be lost."""

    symbols: Annotated[tuple[Symbol, ...], Field(min_length=1)] | Literal["others"]
    max_age_s: Seconds
    refresh_s: Seconds
    max_lost_minutes: float = Field(ge=0, le=525_600)


class AfterTime(Model):
    """An alert rule: nothing good for so long."""

    after_s: Seconds
    severity: Literal["warning", "critical"]


class AboveShare(Model):
    """An alert rule: more than this share of symbols or series."""

    above_share: Share
    severity: Literal["warning", "critical"]


class Alerts(Model):
    """When an alert must be raised."""

    no_successful_backfill: AfterTime
    failed_symbols: AboveShare
    missing_features: AboveShare
    stale_features: AboveShare


def _without_zone(time: dt.time) -> dt.time:
    if time.tzinfo is not None:
        raise ValueError("a time of day in UTC, without a zone of its own")
    return time


class Scheduler(Model):
    """How the scheduler goes on: every day, after a crash, and after a long time down."""

    daily_at_utc: Annotated[dt.time, AfterValidator(_without_zone)]
    order: tuple[str, ...] = Field(min_length=1)
    after_crash: tuple[str, ...] = Field(min_length=1)
    forced_after_down_s: Seconds


class HotSymbols(Model):
    """The cache of symbols that are asked for most."""

    count: Count
    ttl_s: Seconds
    records: Count


class QueryCache(Model):
    """The cache of answers."""

    queries: Count
    ttl_s: Seconds


class Cache(Model):
    """What is kept in memory, which is also what can be served while the database is away."""

    hot_symbols: HotSymbols
    query: QueryCache


class BackfillLimits(Model):
    """How missing history is fetched: `jobs`, each a symbol and one of so many `timeframes`; without those the symbols are unknown."""

    symbols_at_once: Count
    requests_at_once: Count
    batch_records: Count
    retries_s: tuple[Seconds, ...] = Field(min_length=1)
    requests_per_minute: float = Field(ge=0.01, le=1e6)
    burst: Count
    backoff_max_s: Seconds
    jobs: Count
    timeframes: Count | None = None

    @model_validator(mode="after")
    def _whole_symbols(self) -> Self:
        if self.timeframes and self.jobs % self.timeframes:
            raise ValueError(f"jobs that are symbols times timeframes; {self.jobs} is no multiple of {self.timeframes}")
        return self


class ProbeSchedule(Model):
    """How recovery is watched: a probe of each view every `period_s`, whatever became of the ones before."""

    period_s: float = Field(default=0.05, ge=0.01, le=5)
    timeout_s: float = Field(default=2.0, ge=0.01, le=60)
    slow_s: float = Field(default=0.5, gt=0, le=60)
    settle_s: float = Field(default=0.5, ge=0.1, le=60)


class BackupSchedule(Model):
    """How often the database is backed up, and for how long a backup is kept."""

    interval_s: Seconds
    retention_s: Seconds


class Trials(Model):
    """How often each drill is run, and what share of all recoveries must be proven to meet its objective, with 95 % confidence.

    Without a share a pass says that every trial met it, and no more.
    """

    each: int = Field(default=5, ge=1, le=1000)
    proven_share: Share | None = None


class RecoveryPlan(Model):
    """All objectives, and how they are tested; `explained` (until 0.1 `settled`) says why the plan breaks a rule on purpose."""

    staleness: Staleness
    rto: dict[str, RecoveryObjective] = Field(min_length=1)
    rpo: dict[str, Tier] = Field(min_length=1)
    alerts: Alerts
    scheduler: Scheduler
    cache: Cache
    backfill: BackfillLimits
    backup: BackupSchedule | None = None
    prober: ProbeSchedule = ProbeSchedule()
    trials: Trials = Trials()
    left_out: tuple[str, ...] = ()  # drills that `drills: all` leaves out, maybe with a * in their names
    objectives: Annotated[tuple[Annotated[str, AfterValidator(_objective)], ...], AfterValidator(each_once)] = ()
    explained: dict[str, Text] = Field(default={}, validation_alias=AliasChoices("explained", "settled"))

    def tier_of(self, symbol: str) -> str | None:
        """Return the tier that names a symbol, else the one of all others; None where there is neither."""
        others = next((name for name, tier in self.rpo.items() if tier.symbols == OTHERS), None)
        return next((name for name, symbols in self.named.items() if symbol in symbols), others)

    @property
    def named(self) -> dict[str, tuple[str, ...]]:
        """The symbols of each tier that names its own."""
        return {name: tier.symbols for name, tier in self.rpo.items() if isinstance(tier.symbols, tuple)}


# ---- durations ----

_UNITS = ((86_400, "days", 2), (3_600, "h", 1), (60, "min", 1), (1, "s", 1))  # unit, name, from how many of it on


def spelled(seconds: float) -> str:
    """Write seconds in the largest unit that needs no fraction: 1 h, 90 min, 36 s, 50 ms."""
    if 0 < seconds < 1:
        return f"{seconds * 1000:g} ms"
    unit, name, _ = next((u for u in _UNITS if seconds >= u[0] * u[2] and seconds % u[0] == 0), _UNITS[-1])
    return f"{seconds / unit:,.10g} {name}"


def rounded(seconds: float) -> str:
    """Write seconds without a fraction; what is too long for an age in a few digits."""
    return f"{seconds:.0f}" if abs(seconds) < 1e12 else f"{seconds:.3g}"
