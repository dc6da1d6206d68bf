"""What a comparison leaves behind: one sample a run, and what is needed to judge them without a target, under any plan."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

import pyarrow as pa

from tapecheck import recording
from tapecheck.compare.plan import BEFORE, ComparePlan, Question, Side, Variants
from tapecheck.runs.results import Finding

MAPS = ("clocks", "counters", "answers")
_NAME = pa.dictionary(pa.int32(), pa.string())
SAMPLES = pa.schema(
    [
        pa.field("proof", _NAME),
        pa.field("side", _NAME),
        pa.field("round", pa.int32(), metadata={"unit": "from 1; 0: a warm-up, in no result"}),
        *(pa.field(f"{what}_ns", pa.int64(), metadata={"unit": "ns, monotonic; of a recorded run: UTC"}) for what in ("began", "ended")),
        pa.field("clocks", pa.map_(pa.string(), pa.float64()), metadata={"unit": "that of each name"}),
        pa.field("counters", pa.map_(pa.string(), pa.int64())),
        *(pa.field(name, pa.string()) for name in ("checksum", "problem", "late")),
        pa.field("answers", pa.map_(pa.string(), pa.int64()), metadata={"unit": "right answers of a status and size below, of a load run"}),
    ]
)
SPECTRA = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in ("proof", "side")),
        pa.field("p", pa.float64(), metadata={"unit": "part of the requests that were at least this fast"}),
        *(pa.field(f"{name}_ms", pa.float64(), metadata={"unit": "ms; null: n gives no bound"}) for name in ("value", "low", "high")),
        pa.field("n", pa.int64(), metadata={"unit": "requests"}),
    ]
)
Kinds = Mapping[str, int]
"""How many right answers have which status and size class: `200 4096`, of a size from 2048 to 4095 bytes; 0 where no size is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One run of one variant: `clocks` in the unit of their names, `counters` exact, `answers` of a load run.

    `problem` says why the run does not count, where it does not; `late` that the load generator lagged, which is in its times.
    `round` is 0 for a warm-up.
    """

    proof: str = ""
    side: Side = BEFORE
    round: int = 0
    began_ns: int = 0
    ended_ns: int = 0
    clocks: Mapping[str, float] = field(default_factory=dict)
    counters: Mapping[str, int] = field(default_factory=dict)
    checksum: str = ""
    problem: str = ""
    late: str = ""
    answers: Kinds = field(default_factory=dict)

    @property
    def counts(self) -> bool:
        """Whether the run is in the result: no warm-up, and without a problem."""
        return self.round > 0 and not self.problem

    def figure(self, name: str) -> float | None:
        """Return a clock or counter; None where the run does not have it."""
        return self.clocks[name] if name in self.clocks else self.counters.get(name)

    def plus(self, more: "Sample") -> "Sample":
        """Return the sample with further clocks, counters and answers."""
        clocks, counters, answers = {**self.clocks, **more.clocks}, {**self.counters, **more.counters}, {**self.answers, **more.answers}
        return dataclasses.replace(self, clocks=clocks, counters=counters, answers=answers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What the backfill's own analysis says of a proof's baseline.

    `found` are its findings about where the time goes; `what_if` the part of the wall time that each usual change is predicted to save.
    """

    found: tuple[Finding, ...] = ()
    what_if: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One of the recorded runs that are compared; `code` is the version and commit that measured it, empty where another tool did."""

    folder: str
    run_id: str
    target: str
    code: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context(recording.Context):
    """What the samples do not say: which variants were measured as each proof, and what else is known of the two sides.

    `differs` names what else than the change lies between the sides, each as `what: before, after`; two plans that were measured in
    one session have nothing there. `before` and `after` are the recorded runs that were compared in place of a measurement.
    """

    variants: Mapping[str, Variants]
    baselines: Mapping[str, Baseline] = field(default_factory=dict)
    before: tuple[Compared, ...] = ()
    after: tuple[Compared, ...] = ()
    differs: tuple[str, ...] = ()


class Recording(recording.Recording[Context]):
    """Samples in the order in which they began, the spectra of load proofs, and their context."""

    @classmethod
    def of(cls, samples: Iterable[Sample], context: Context, spectra: pa.Table | None = None) -> Self:
        """Return the recording of what was measured."""
        rows = [dataclasses.asdict(sample) for sample in samples]
        plain = [row | {name: list(row[name].items()) for name in MAPS} for row in rows]
        tables = {"samples": pa.Table.from_pylist(plain, SAMPLES), "spectra": spectra or SPECTRA.empty_table()}
        return cls(context=context, tables=tables)

    @cached_property
    def samples(self) -> list[Sample]:
        """Return the samples."""
        return [Sample(**row | {name: dict(row[name]) for name in MAPS}) for row in self.tables["samples"].to_pylist()]

    @property
    def spectra(self) -> pa.Table:
        """The latency spectra of both sides."""
        return self.tables["spectra"]

    def questions(self, plan: ComparePlan) -> Mapping[str, Question]:
        """Return what a plan asks of each proof of this recording; see `check_measured`, which says what is refused."""
        variants = self.context.variants
        if self.context.before:
            return {name: plan.recorded.question(one.validation) for name, one in variants.items()}
        plan.check_measured(variants, source=self.source or "recording")
        return plan.asked()
