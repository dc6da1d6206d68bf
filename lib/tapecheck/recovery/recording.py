"""What a recovery run leaves behind: probes, trials, written bars and answers about ages, as they were measured. It judges nothing."""

import dataclasses
import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal, Self

import pyarrow as pa
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat

from tapecheck import recording

BAD, DEGRADED, FULL = 0, 1, 2  # the state that a probe saw
MEASURED, INVALID = "measured", "invalid"

_NAME = pa.dictionary(pa.int32(), pa.string())
PROBES = pa.schema(
    [
        pa.field("drill", _NAME),
        pa.field("trial", pa.int32()),
        pa.field("view", _NAME),
        pa.field("serves", pa.bool_(), metadata={"unit": "whether the target serves only when this view does"}),
        *(pa.field(f"{what}_ns", pa.int64(), metadata={"unit": "ns, monotonic"}) for what in ("intended", "sent", "done")),
        pa.field("state", pa.int8(), metadata={"unit": "0 bad, 1 degraded, 2 full"}),
        pa.field("reported", pa.bool_(), metadata={"unit": "whether the answer reports the failure"}),
        pa.field("status", pa.int16(), metadata={"unit": "HTTP status, 0 without an answer"}),
        pa.field("error", _NAME),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One drill, done once; times on the monotonic clock of its probes.

    Args:
        drill: the name of its file, without `.yaml`.
        failure: the key of `rto` whose objective it is about.
        injected_ns: when the fault began; None where it never did.
        released_ns: when the drill itself took the fault away, after which the target is on its own; None for faults that it must
            overcome by itself, such as a kill.
        state: `measured`, or `invalid` with a reason: what was measured says nothing about the target.
        steady_before, steady_after, rolled_back: what Chaos Toolkit found of the steady state, and whether every rollback worked.
        after: what the target reported of how it came back, such as `resumed` and `skipped`.
        repair: what to do by hand where the rollback did not work.
        gone_bars: how many bars the target's own tables had before and not after, where that was counted.
        unrecorded: why loss could not be counted, where it was to be.
        may_be_unseen: whether the fault can be over before any probe sees it, and says by itself that it happened.
        may_report: whether the drill watched a view by which the target could have reported the failure; None in recordings that do
            not say.
    """

    drill: str
    failure: str
    trial: int
    began_ns: int
    ended_ns: int
    injected_ns: int | None = None
    released_ns: int | None = None
    state: str = MEASURED
    reason: str = ""
    steady_before: bool = False
    steady_after: bool = False
    rolled_back: bool = False
    after: Mapping[str, float] = field(default_factory=dict)
    repair: str = ""
    gone_bars: int | None = None
    unrecorded: str = ""
    may_be_unseen: bool = False
    may_report: bool | None = None


Fate = Literal["stable", "lost", "never_read", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenBar:
    """One bar that was written during a drill, or that the target's own tables held before it.

    Args:
        time_ms: the start of the bar in Unix milliseconds; it is `minutes` long.
        acked_ns: when the database acknowledged it; None where it never said whether it has it.
        found: whether the final read found it; None where nothing could be read.
        refetchable: whether upstream still has a lost bar; None where nobody asked.
    """

    drill: str
    trial: int
    symbol: str
    time_ms: int
    minutes: float
    acked_ns: int | None
    found: bool | None = None
    refetchable: bool | None = None

    @property
    def fate(self) -> Fate:
        """What became of it, as in Jepsen's set-full: of what was never acknowledged nothing follows."""
        if self.acked_ns is None:
            return "unknown"
        if self.found is None:
            return "never_read"
        return "stable" if self.found else "lost"


BAR = frozenset({"time", "symbol", "timeframe", "open", "high", "low", "close", "volume", "vwap", "trades"})  # no features, these
Key = tuple[str, str]  # symbol and timeframe


def _utc(moment: dt.datetime) -> dt.datetime:
    return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)


Moment = Annotated[dt.datetime, AfterValidator(_utc)]  # UTC where no offset is given


# ---- answers of a target, as far as they are read ----


class Reported(BaseModel):
    """Something that a service reports; whatever else it reports is left alone."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)


class ReportedSeries(Reported):
    """What the status answer reports of one symbol and timeframe; `age_s` is null for what never was there."""

    symbol: str
    timeframe: str
    age_s: FiniteFloat | None
    freshness: str
    refreshed_at: Moment | None = None
    newest: Moment | None = None
    state: str = ""

    @property
    def key(self) -> Key:
        """The series."""
        return self.symbol, self.timeframe


class Raised(Reported):
    """An alert that a service has raised about a series."""

    symbol: str
    timeframe: str
    at: Moment | None = None
    message: str = ""


class Status(Reported):
    """The status answer."""

    series: tuple[ReportedSeries, ...]
    alerts: tuple[Raised, ...] = ()
    generated_at: Moment | None = None


def _named(failed: Any) -> Any:
    return dict.fromkeys(failed, "") if isinstance(failed, list) else failed


class SchedulerHealth(Reported):
    """What the scheduler reports of itself; `failed` maps a job, `SYMBOL timeframe`, to its error."""

    last_success_at: Moment | None = None
    failed: Annotated[dict[str, str | None], BeforeValidator(_named)] = {}


class Served(Reported):
    """An answer with data."""

    warning: str | None = None
    freshness: str | None = None
    age_s: FiniteFloat | None = None
    count: int | None = None
    rows: tuple[Mapping[str, Any], ...] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it says, or shows, that there is no data in it."""
        return self.count == 0 if self.count is not None else self.rows == ()

    @property
    def has_features(self) -> bool:
        """Whether any row holds a value that is not of the bar itself; without rows to look at, whether there is data."""
        if self.rows is None:
            return not self.is_empty
        return any(value is not None for row in self.rows for name, value in row.items() if name not in BAR)


class _Detail(Reported):
    triggered: bool = False


class NotFound(Reported):
    """The body of a 404."""

    detail: _Detail = Field(default_factory=_Detail)


# ---- what an audit of ages records ----


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One series in the target's database: its age by that database's clock, None for what never was complete; its newest bar."""

    symbol: str
    timeframe: str
    state: str
    age_s: float | None
    newest: dt.datetime | None
    has_features: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Every series in the database at one moment, `read_s` on the monotonic clock."""

    rows: Mapping[str, Row]
    read_s: float

    def row(self, key: Key) -> Row | None:
        """Return what there is of a series."""
        return self.rows.get(" ".join(key))

    def age_s(self, key: Key, moment_s: float) -> float | None:
        """Return the age that a series of then has at another moment."""
        row = self.row(key)
        return None if row is None or row.age_s is None else row.age_s + (moment_s - self.read_s)


@dataclass(frozen=True, kw_only=True)  # without slots, for its tables
class Look:
    """One status answer, and the database just before and just after it; nothing of the database where there is none.

    `sent_s` and `done_s` are on the monotonic clock, `at` is when it was answered, in UTC.
    """

    sent_s: float
    done_s: float
    at: dt.datetime
    status: Status
    stored: Sequence[Stored] = ()

    @cached_property
    def _series(self) -> Mapping[Key, ReportedSeries]:
        return {one.key: one for one in self.status.series}

    @cached_property
    def _alerts(self) -> Mapping[Key, Counter[Raised]]:
        found: defaultdict[Key, Counter[Raised]] = defaultdict(Counter)
        for one in self.status.alerts:
            found[one.symbol, one.timeframe][one] += 1
        return found

    def reported(self, key: Key) -> ReportedSeries | None:
        """Return what the API reported of a series."""
        return self._series.get(key)

    def alerts(self, key: Key) -> Counter[Raised]:
        """Return the alerts of a series, each with how often it is listed."""
        return self._alerts.get(key, Counter())

    def of(self, key: Key) -> "Look":
        """Return what it shows of one series."""
        status = Status(
            series=tuple(one for one in self.status.series if one.key == key),
            alerts=tuple(self.alerts(key).elements()),
            generated_at=self.status.generated_at,
        )
        name = " ".join(key)
        stored = [Stored(rows={name: one.rows[name]} if name in one.rows else {}, read_s=one.read_s) for one in self.stored]
        return Look(sent_s=self.sent_s, done_s=self.done_s, at=self.at, status=status, stored=stored)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """How a series was answered when it was asked for.

    Args:
        failure: why there is no answer; its status is 0 then.
        served: the data without its rows, if it was an answer with data.
        triggered: whether a 404 announces that the data will be fetched.
        unexpected: in which keys the body differs from what the target file expects.
    """

    symbol: str
    timeframe: str
    done_s: float
    status: int
    failure: str = ""
    served: Served | None = None
    is_empty: bool = False
    has_features: bool = False
    triggered: bool = False
    unexpected: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlantedAge:
    """A series that was made so old in the database, the status before and after it was asked for, and how it was answered."""

    age_s: float
    looks: Sequence[Look]
    reply: Reply


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What was found of ages: two looks with all series asked for between them, and the ages that were planted afterwards.

    Args:
        last_success_s: seconds since the last successful backfill as the scheduler reports; None where it reports none.
        failed_jobs: `SYMBOL timeframe` of each job that the scheduler reports as failed.
        has_database: whether the target file names a database that the ages could be held against.
        unplanted: why no age was planted, where one was to be.
        invalid: why what was found says nothing of the target, and is not here.
    """

    looks: Sequence[Look] = ()
    replies: Sequence[Reply] = ()
    planted: Sequence[PlantedAge] = ()
    last_success_s: float | None = None
    failed_jobs: Sequence[str] = ()
    has_database: bool = False
    unplanted: str = ""
    invalid: str = ""


# ---- the recording ----


@dataclass(frozen=True, slots=True, kw_only=True)
class Context(recording.Context):
    """What the tables do not say: which drills were to be run, what each trial was, and what was found of ages."""

    drills: Sequence[str] = ()
    trials: Sequence[Trial] = ()
    audit: Audit | None = None


BARS = pa.schema(
    [
        pa.field("drill", _NAME),
        pa.field("trial", pa.int32()),
        pa.field("symbol", _NAME),
        pa.field("time_ms", pa.int64(), metadata={"unit": "Unix milliseconds, start of the bar"}),
        pa.field("minutes", pa.float64()),
        pa.field("acked_ns", pa.int64(), metadata={"unit": "ns, monotonic"}),
        pa.field("found", pa.bool_()),
        pa.field("refetchable", pa.bool_()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Recording(recording.Recording[Context]):
    """Probes in the order of their intended starts (`PROBES`), written bars, and their context.

    `journals` are Chaos Toolkit's own, one a trial, of a run that was measured just now.
    """

    journals: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def of(cls, probes: pa.Table, bars: Iterable[WrittenBar], context: Context, journals: Sequence[Mapping[str, Any]] = ()) -> Self:
        """Return the recording of what was measured."""
        rows = pa.Table.from_pylist([dataclasses.asdict(bar) for bar in bars], BARS)
        return cls(context=context, tables={"probes": probes.cast(PROBES), "bars": rows}, journals=journals)

    @property
    def probes(self) -> pa.Table:
        """One row a probe."""
        return self.tables["probes"]

    @cached_property
    def bars(self) -> list[WrittenBar]:
        """Return every bar that was written."""
        return [WrittenBar(**row) for row in self.tables["bars"].to_pylist()]
