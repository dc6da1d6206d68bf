"""What a comparison leaves behind: one sample a run, and what is needed to read them without a target."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

import pyarrow as pa

from tapecheck import recording
from tapecheck.compare import samples as spectra
from tapecheck.compare.plan import Proof, Question
from tapecheck.compare.samples import Sample
from tapecheck.runs.results import Finding

NO_SPECTRA = spectra.SCHEMA.empty_table()
MAPS = ("clocks", "counters", "answers")
_NAME = pa.dictionary(pa.int32(), pa.string())
SAMPLES = pa.schema(
    [
        pa.field("proof", _NAME),
        pa.field("side", _NAME),
        pa.field("round", pa.int32(), metadata={"unit": "from 1; 0: a warm-up, in no result"}),
        *(pa.field(f"{what}_ns", pa.int64(), metadata={"unit": "ns, monotonic"}) for what in ("began", "ended")),
        pa.field("clocks", pa.map_(pa.string(), pa.float64()), metadata={"unit": "that of each name"}),
        pa.field("counters", pa.map_(pa.string(), pa.int64())),
        pa.field("checksum", pa.string()),
        pa.field("problem", pa.string()),
        pa.field("late", pa.string()),
        pa.field("answers", pa.map_(pa.string(), pa.int64()), metadata={"unit": "right answers of a status and size below, of a load run"}),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What the backfill's own analysis says of a proof's baseline.

    `found` are its findings about where the time goes; `what_if` the part of the wall time that each usual change is predicted to save.
    """

    found: tuple[Finding, ...] = ()
    what_if: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One of two recorded runs that are compared; `code` is the version and commit that measured it, empty where another tool did."""

    folder: str
    run_id: str
    target: str
    code: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context(recording.Context):
    """What the samples do not say: what was asked, and what else is known of the two sides.

    `differs` names what else than the change lies between the sides, each as `what: before, after`; two plans that were measured in
    one session have nothing there.
    """

    questions: Mapping[str, Question | Proof]
    seed: int = 0
    baselines: Mapping[str, Baseline] = field(default_factory=dict)
    before: Compared | None = None
    after: Compared | None = None
    differs: tuple[str, ...] = ()


class Recording(recording.Recording[Context]):
    """Samples in the order in which they began, the spectra of load proofs (`spectra.SCHEMA`), and their context."""

    @classmethod
    def of(cls, samples: Iterable[Sample], context: Context, spectra: pa.Table = NO_SPECTRA) -> Self:
        """Return the recording of what was measured."""
        rows = [dataclasses.asdict(sample) for sample in samples]
        plain = [row | {name: list(row[name].items()) for name in MAPS} for row in rows]
        return cls(context=context, tables={"samples": pa.Table.from_pylist(plain, SAMPLES), "spectra": spectra})

    @cached_property
    def samples(self) -> list[Sample]:
        """Return the samples; those of an older recording say nothing of their answers."""
        rows = self.tables["samples"].to_pylist()
        return [Sample(**row | {name: dict(row[name]) for name in MAPS if name in row}) for row in rows]

    @property
    def spectra(self) -> pa.Table:
        """The latency spectra of both sides."""
        return self.tables["spectra"]

    def of_proof(self, proof: str) -> list[Sample]:
        """Return the samples of one proof."""
        return [sample for sample in self.samples if sample.proof == proof]
