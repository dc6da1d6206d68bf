"""What a recovery run leaves behind: probes, trials, written bars and answers about ages, as they were measured. It judges nothing."""

import dataclasses
import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Self

import pyarrow as pa
import pyarrow.compute as pc

from tapecheck import recording
from tapecheck.config import Model
from tapecheck.target.mapping import DatedBy, Key, Raised, ReportedSeries, Served, Status

BAD, DEGRADED, FULL = 0, 1, 2  # the state that a probe saw
MEASURED, INVALID = "measured", "invalid"

_NAME = pa.dictionary(pa.int32(), pa.string())
_NS = pa.int64(), "ns, monotonic"


def _schema(columns: Mapping[str, pa.DataType | tuple[pa.DataType, str]]) -> pa.Schema:
    """Return a schema from each column's type, with its unit where it has one."""
    split = {name: one if isinstance(one, tuple) else (one, "") for name, one in columns.items()}
    return pa.schema([pa.field(name, kind, metadata={"unit": unit} if unit else None) for name, (kind, unit) in split.items()])


PROBES = _schema(
    {
        "drill": _NAME,
        "trial": pa.int32(),
        "view": _NAME,
        "serves": (pa.bool_(), "whether the target serves only when this view does"),
        "intended_ns": _NS,
        "sent_ns": _NS,
        "done_ns": _NS,
        "state": (pa.int8(), "0 bad, 1 degraded, 2 full"),
        "reported": (pa.bool_(), "whether the answer reports the failure"),
        "status": (pa.int16(), "HTTP status, 0 without an answer"),
        "error": _NAME,
    }
)
BARS = _schema(
    {
        "drill": _NAME,
        "trial": pa.int32(),
        "symbol": _NAME,
        "time_ms": (pa.int64(), "Unix milliseconds, start of the bar"),
        "minutes": pa.float64(),
        "acked_ns": _NS,
        "found": pa.bool_(),
        "refetchable": pa.bool_(),
    }
)


class UnusableBackup(RuntimeError):
    """A backup that no database is dropped for, or that could not be restored."""


class StoredTable(Model):
    """A table: its rows, and the sum of their hashes where it was taken."""

    rows: int
    checksum: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restore:
    """What a drill noted of a backup and of the database that was restored from it; times on the monotonic clock of its probes.

    Tables are as they were when the backup was taken (`saved`), just before the database was dropped, and after they were restored.
    """

    backup: str = ""
    made: str = ""  # the backup that the drill made itself, so that its age says nothing of how often one is made
    backup_at: dt.datetime | None = None  # UTC; None where no backup was found
    noted: bool = True  # whether that is the time of our note, else that of its files
    backup_bytes: int = 0
    destroyed_at: dt.datetime | None = None  # UTC; None where nothing was dropped
    began_ns: int | None = None  # when the restore began, was done, was counted, and had the name of the live database
    restored_ns: int | None = None
    verified_ns: int | None = None
    switched_ns: int | None = None
    saved: Mapping[str, StoredTable] = field(default_factory=dict)
    before: Mapping[str, StoredTable] = field(default_factory=dict)
    restored: Mapping[str, StoredTable] = field(default_factory=dict)
    exact: bool = False  # whether `saved` is of the snapshot that was backed up, else of about that time
    unusable: str = ""  # why nothing was dropped, or could be restored
    refetch_s: float | None = None  # in which upstream gave the lost bars again; None where none were, or it was not asked

    @property
    def age_s(self) -> float | None:
        """How old the backup was when the database was dropped; below 0 where a clock is wrong."""
        return (self.destroyed_at - self.backup_at).total_seconds() if self.destroyed_at and self.backup_at else None

    @property
    def is_own(self) -> bool:
        """Whether the drill made the backup itself."""
        return bool(self.made) and self.made == self.backup

    @property
    def different(self) -> list[str]:
        """In which tables other rows came back than were backed up: where that is not known exactly, those that came back without any."""
        if self.switched_ns is None:
            return []
        none, known = StoredTable(rows=0), self.saved or self.before
        back = {name: self.restored.get(name, none) for name in known}
        if self.exact:
            return [name for name, one in known.items() if back[name] != one or name not in self.restored]
        return [name for name, one in known.items() if name not in self.restored or (one.rows and not back[name].rows)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One drill, done once; times on the monotonic clock of its probes."""

    drill: str  # the name of its file, without `.yaml`
    failure: str  # the key of `rto` whose objective it is about
    trial: int
    began_ns: int
    ended_ns: int
    injected_ns: int | None = None  # when the fault began; None where it never did
    released_ns: int | None = None  # when the drill itself took the fault away; None where the target must overcome it
    state: str = MEASURED  # or invalid, with a reason: what was measured says nothing about the target
    reason: str = ""
    steady_before: bool = False  # by Chaos Toolkit's hypothesis, as is the next
    steady_after: bool = False
    rolled_back: bool = False  # whether every rollback worked
    after: Mapping[str, float] = field(default_factory=dict)  # what the target reported of how it came back, such as `resumed`
    repair: str = ""  # what to do by hand where the rollback did not work
    gone_bars: int | None = None  # how many bars the target's own tables had before and not after, where that was counted
    unrecorded: str = ""  # why loss could not be counted, where it was to be
    may_be_unseen: bool = False  # whether the fault can be over before any probe sees it, and says by itself that it happened
    restore: Restore | None = None  # of a drill that drops the database
    may_report: bool | None = None  # whether a view was watched by which the target could have reported it; None: not known


Fate = Literal["stable", "lost", "never_read", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenBar:
    """One bar that was written during a drill, or that the target's own tables held before it."""

    drill: str
    trial: int
    symbol: str
    time_ms: int  # its start in Unix milliseconds
    minutes: float  # how long it is
    acked_ns: int | None  # when the database acknowledged it; None where it never said whether it has it
    found: bool | None = None  # by the final read; None where nothing could be read
    refetchable: bool | None = None  # whether upstream still has a lost bar; None where nobody asked

    @property
    def fate(self) -> Fate:
        """What became of it, as in Jepsen's set-full: of what was never acknowledged nothing follows."""
        if self.acked_ns is None:
            return "unknown"
        if self.found is None:
            return "never_read"
        return "stable" if self.found else "lost"


# ---- what an audit of ages records ----


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One series in the target's database: its age by that database's clock, None for what never was complete; its newest bar.

    `has_features` is None where the target file does not map them; `dated_by` is what the age counts from.
    """

    symbol: str
    timeframe: str
    state: str
    age_s: float | None
    newest: dt.datetime | None
    has_features: bool | None
    dated_by: DatedBy = "refresh"


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

    def ages_s(self, key: Key) -> list[float]:
        """Return the ages of a series by the database when the status came: as it was before and after it."""
        return [age for stored in self.stored if (age := stored.age_s(key, self.done_s)) is not None]

    def of(self, key: Key) -> "Look":
        """Return what it shows of one series."""
        shown = {"series": tuple(one for one in self.status.series if one.key == key), "alerts": tuple(self.alerts(key).elements())}
        stored = [
            dataclasses.replace(one, rows={name: row for name, row in one.rows.items() if name == " ".join(key)}) for one in self.stored
        ]
        return dataclasses.replace(self, status=self.status.model_copy(update=shown), stored=stored)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """How a series was answered when it was asked for."""

    symbol: str
    timeframe: str
    done_s: float
    status: int
    failure: str = ""  # why there is no answer; its status is 0 then
    served: Served | None = None  # the data without its rows, if it was an answer with data
    is_empty: bool = False
    has_features: bool = False
    triggered: bool = False  # whether a 404 announces that the data will be fetched
    unexpected: Sequence[str] = ()  # in which keys the body differs from what the target file expects


@dataclass(frozen=True, slots=True, kw_only=True)
class PlantedAge:
    """A series that was made so old in the database, the status before and after it was asked for, and how it was answered."""

    age_s: float
    looks: Sequence[Look]
    reply: Reply


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What was found of ages: two looks with all series asked for between them, and the ages that were planted afterwards."""

    looks: Sequence[Look] = ()
    replies: Sequence[Reply] = ()
    planted: Sequence[PlantedAge] = ()
    last_success_s: float | None = None  # since the last successful backfill as the scheduler reports; None where it reports none
    failed_jobs: Sequence[str] = ()  # `SYMBOL timeframe` of each that the scheduler reports as failed
    has_database: bool = False  # whether the target file names one that the ages could be held against
    unplanted: str = ""  # why no age was planted, where one was to be
    invalid: str = ""  # why what was found says nothing of the target, and is not here


# ---- the recording ----


@dataclass(frozen=True, slots=True, kw_only=True)
class Context(recording.Context):
    """What the tables do not say: which drills were to be run, what each trial was, and what was found of ages."""

    drills: Sequence[str] = ()
    trials: Sequence[Trial] = ()
    audit: Audit | None = None


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

    def probes(self, trial: Trial) -> pa.Table:
        """Return the probes of one trial."""
        every = self.tables["probes"]
        return every.filter(pc.and_(pc.equal(every["drill"], trial.drill), pc.equal(every["trial"], trial.trial)))

    @cached_property
    def bars(self) -> list[WrittenBar]:
        """Return every bar that was written."""
        return [WrittenBar(**row) for row in self.tables["bars"].to_pylist()]
