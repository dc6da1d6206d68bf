"""What an audit of ages records: what the API reported, what its database held then, how each series was answered. It judges nothing."""

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat

BAR = frozenset({"time", "symbol", "timeframe", "open", "high", "low", "close", "volume", "vwap", "trades"})  # no features, these
Key = tuple[str, str]  # symbol and timeframe


def _utc(moment: dt.datetime) -> dt.datetime:
    return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)


Moment = Annotated[dt.datetime, AfterValidator(_utc)]  # UTC where no offset is given


# ---- answers, as far as they are read ----


class Reported(BaseModel):
    """Something that a service reports; whatever else it reports is left alone."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)


class Series(Reported):
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

    series: tuple[Series, ...]
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


# ---- what is recorded ----


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
    def _series(self) -> Mapping[Key, Series]:
        return {one.key: one for one in self.status.series}

    @cached_property
    def _alerts(self) -> Mapping[Key, Counter[Raised]]:
        found: defaultdict[Key, Counter[Raised]] = defaultdict(Counter)
        for one in self.status.alerts:
            found[one.symbol, one.timeframe][one] += 1
        return found

    def reported(self, key: Key) -> Series | None:
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
        triggered: whether a 404 said that the data will be fetched.
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
