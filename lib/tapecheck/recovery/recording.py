"""What a recovery run leaves behind: probes, trials, ages and written bars, as they were measured, readable without a target."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Self

import pyarrow as pa

from tapecheck import recording
from tapecheck.recovery.answers import Audit

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
        after: what the target said of how it came back, such as `resumed` and `skipped`.
        repair: what to do by hand where the rollback did not work.
        gone_bars: how many bars the target's own tables had before and not after, where that was counted.
        unrecorded: why loss could not be counted, where it was to be.
        may_be_unseen: whether the fault can be over before any probe sees it, and says by itself that it happened.
        may_report: whether the drill watched a view by which the target could have told of the failure; None in recordings that do
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
